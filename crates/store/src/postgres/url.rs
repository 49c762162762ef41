//! The URL of a database: what libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` in it mean, and what is
//! refused before anything is sent.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::tls::{Own, Tls, Trust};
use crate::OpenError;

/// Until the server has let us in.
pub(crate) const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A way that is cut is noticed within so long.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const EXPECTED: &str = "postgres://user:password@host:port/database is expected";
const MODES: &str = "write sslmode=verify-full, verify-ca, require, prefer or disable";

/// Where the database is and how it is reached.
pub(crate) struct Address {
    pub config: Config,
    /// Host and database, without user and password.
    pub place: String,
    pub tls: Tls,
}

/// How far the server is trusted, in libpq's words
/// (<https://www.postgresql.org/docs/current/libpq-ssl.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Reads a URL. Without `sslmode` a socket or loopback is reached in plain text, and anything else by TLS with a
/// certificate that is checked: nothing goes over a network in the clear unless the URL says so.
pub(crate) fn parse(url: &str) -> Result<Address, OpenError> {
    let Asked { url, mode, root, own } = take_tls(url)?;
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        refuse(format!("{} ({EXPECTED})", super::base::shown(&error)))
    })?;
    if config.get_hosts().is_empty() {
        return Err(refuse(format!("it names no host: {EXPECTED}")));
    }
    let is_far = config.get_hosts().iter().any(is_far);
    let sockets = config.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
    let mode = mode.unwrap_or(if is_far { Mode::VerifyFull } else { Mode::Disable });
    let (ssl, tls) = match mode {
        // As libpq: TLS is not for sockets of this machine.
        _ if sockets == config.get_hosts().len() => (SslMode::Disable, Tls::new(Trust::Nobody, None)?),
        _ if sockets > 0 && mode != Mode::Disable => {
            return Err(refuse("it names a socket and a host: TLS is for hosts alone, so name one of both"));
        }
        Mode::Disable if own.is_some() => {
            return Err(refuse("sslcert and sslkey are of use inside TLS only: write sslmode=verify-full"));
        }
        Mode::Disable => (SslMode::Disable, Tls::new(Trust::Nobody, None)?),
        Mode::Prefer => (SslMode::Prefer, Tls::new(Trust::Anyone, own)?),
        Mode::Require if root.is_none() => (SslMode::Require, Tls::new(Trust::Anyone, own)?),
        Mode::Require | Mode::VerifyCa => (SslMode::Require, Tls::new(Trust::Chain { root }, own)?),
        Mode::VerifyFull => (SslMode::Require, Tls::new(Trust::ChainAndName { root }, own)?),
    };
    if is_far && mode == Mode::Prefer {
        tracing::warn!(
            "sslmode=prefer speaks plain text to a server that offers no TLS: write sslmode=verify-full"
        );
    }
    let hosts: Vec<String> = config.get_hosts().iter().map(shown_host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    let place = format!("postgres://{}/{database}", hosts.join(","));
    config.application_name("mailspan").connect_timeout(CONNECT_WAIT).tcp_user_timeout(SILENCE_MAX);
    config.keepalives_idle(SILENCE_MAX / 2).keepalives_interval(SILENCE_MAX / 4).keepalives_retries(2);
    config.ssl_mode(ssl);
    Ok(Address { config, place, tls })
}

/// A URL without what the driver does not know, and what was taken out.
struct Asked {
    url: String,
    mode: Option<Mode>,
    /// PEM of the authorities; nothing: those of this machine.
    root: Option<Vec<u8>>,
    own: Option<Own>,
}

fn take_tls(url: &str) -> Result<Asked, OpenError> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok(Asked { url: url.to_owned(), mode: None, root: None, own: None });
    };
    let (mut mode, mut root, mut chain, mut key, mut rest) = (None, None, None, None, Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(mode_of(value)?),
            Some(("sslrootcert", "system")) => root = None,
            Some((name @ "sslrootcert", value)) => root = Some(file(name, value, "the server's authority")?),
            Some((name @ "sslcert", value)) => chain = Some(file(name, value, "this client's certificate")?),
            Some((name @ "sslkey", value)) => key = Some(file(name, value, "the key of that certificate")?),
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    let own = match (chain, key) {
        (Some(chain), Some(key)) => Some(Own { chain, key }),
        (None, None) => None,
        _ => {
            return Err(refuse("it names one of sslcert and sslkey: a certificate needs its key, name both"));
        }
    };
    Ok(Asked { url, mode, root, own })
}

fn mode_of(value: &str) -> Result<Mode, OpenError> {
    Ok(match value {
        "disable" => Mode::Disable,
        "prefer" => Mode::Prefer,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        "verify-full" => Mode::VerifyFull,
        other => return Err(refuse(format!("sslmode={other} is not known: {MODES}"))),
    })
}

/// A PEM file that is named in the URL.
fn file(name: &str, value: &str, what: &str) -> Result<Vec<u8>, OpenError> {
    let path = decoded(name, value)?;
    if !path.starts_with('/') {
        let system = if name == "sslrootcert" { ", or write `system`" } else { "" };
        return Err(refuse(format!("{name}={path} is not a whole path: begin it with /{system}")));
    }
    std::fs::read(&path).map_err(|error| {
        refuse(format!("{name}={path} cannot be read: {error}; it is the PEM file of {what}"))
    })
}

/// Percent-decoded.
fn decoded(name: &str, value: &str) -> Result<String, OpenError> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| refuse(format!("{name} is not UTF-8")))
}

/// Neither a socket nor loopback: packets leave this machine.
fn is_far(host: &Host) -> bool {
    match host {
        Host::Unix(_) => false,
        Host::Tcp(name) => {
            name != "localhost" && !name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

fn shown_host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

pub(crate) fn refuse(cause: impl Into<String>) -> OpenError {
    OpenError::Url(cause.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<(&str, SslMode), &str>) {
        match (parse(url), expected) {
            (Ok(address), Ok((place, ssl))) => {
                assert_eq!((address.place.as_str(), address.config.get_ssl_mode()), (place, ssl), "{url}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{url}: {error}"),
            (other, _) => panic!("{url}: {:?}", other.map(|address| address.place)),
        }
    }

    #[test]
    fn a_url_says_how_far_the_server_is_trusted() {
        let (near, far) = ("postgres://127.0.0.1/hub", "postgres://db.example.com/hub");
        check("postgres://hub:s3cret@127.0.0.1/hub", Ok((near, SslMode::Disable)));
        check("postgres://hub:s3cret@%2Frun%2Fpg/hub", Ok(("postgres:///run/pg/hub", SslMode::Disable)));
        check(
            "postgres://hub@%2Frun%2Fpg/hub?sslmode=require",
            Ok(("postgres:///run/pg/hub", SslMode::Disable)),
        );
        check("postgres://hub@127.0.0.1/hub?sslmode=require", Ok((near, SslMode::Require)));
        check("postgres://hub@127.0.0.1/hub?sslmode=prefer&connect_timeout=3", Ok((near, SslMode::Prefer)));
        check("postgres://hub@db.example.com/hub", Ok((far, SslMode::Require)));
        check("postgres://hub@db.example.com/hub?sslmode=disable", Ok((far, SslMode::Disable)));
        check(
            "postgres://hub@db.example.com/hub?sslmode=verify-ca&sslrootcert=system",
            Ok((far, SslMode::Require)),
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        check("postgres://hub@db.example.com/hub?sslmode=allow", Err("write sslmode=verify-full"));
        check("postgres://hub@db.example.com/hub?sslrootcert=ca.pem", Err("begin it with /"));
        check(
            "postgres://hub@db.example.com/hub?sslrootcert=%2Fno%2Fsuch.pem",
            Err("/no/such.pem cannot be read"),
        );
        check("postgres://hub@db.example.com/hub?sslrootcert=/etc/hostname", Err("BEGIN CERTIFICATE"));
        check("postgres://hub@db.example.com/hub?sslcert=/etc/hostname", Err("name both"));
        check("postgres://hub@db.example.com/hub?sslkey=/etc/hostname", Err("name both"));
        check("postgres://hub@db.example.com/hub?sslcert=a.pem&sslkey=/b.pem", Err("begin it with /"));
        check(
            "postgres://hub@db.example.com/hub?sslcert=/etc/hostname&sslkey=/no/such.pem",
            Err("sslkey=/no/such.pem cannot be read"),
        );
        let both = "sslcert=/etc/hostname&sslkey=/etc/hostname";
        check(&format!("postgres://hub@db.example.com/hub?{both}"), Err("BEGIN CERTIFICATE"));
        check(&format!("postgres://hub@127.0.0.1/hub?{both}"), Err("inside TLS only"));
        check("postgres://hub@%2Frun,db.example.com/hub?sslmode=require", Err("name one of both"));
        check("postgres:///hub", Err("no host"));
        check("postgres://hub@127.0.0.1:x/hub", Err("is expected"));
        check("postgres://hub@127.0.0.1/hub?no=option", Err("is expected"));
    }
}
