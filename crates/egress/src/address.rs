//! From a target's URL and a request's path to what is dialled and what is asked for.

use mailspan_core::{Lost, limits};
use url::{Host, Url};

use crate::trouble::refused;

/// A URL taken apart. Made by the WHATWG rules, so `127.1`, `0x7f.1` and `2130706433` are addresses
/// here, and judged as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub https: bool,
    pub host: Host<String>,
    pub port: u16,
    /// For the `Host` header: the port only where it is not the scheme's own.
    pub authority: String,
    /// Path and query.
    pub target: String,
}

impl Address {
    /// Scheme, host and port for messages; a path may hold a secret.
    pub fn shown(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

/// Joins `base_url` and `path` (empty, or with a slash or question mark first).
pub(crate) fn address(base_url: &str, path: &str) -> Result<Address, Lost> {
    joined(base(base_url)?, path)
}

/// The same with a base that was read before.
pub(crate) fn joined(mut url: Url, path: &str) -> Result<Address, Lost> {
    append(&mut url, path)?;
    let host = match url.host() {
        Some(Host::Domain(name)) => Host::Domain(name.to_owned()),
        Some(Host::Ipv4(ip)) => Host::Ipv4(ip),
        Some(Host::Ipv6(ip)) => Host::Ipv6(ip),
        None => return Err(bad("it has no host")),
    };
    let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(|| bad("its port is 0"))?;
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    };
    let target = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
    if target.len() > limits::URL_BYTES_MAX {
        return Err(bad(&format!("path and query are over {} bytes", limits::URL_BYTES_MAX)));
    }
    Ok(Address { https: url.scheme() == "https", host, port, authority, target })
}

/// Reads a target's URL.
pub(crate) fn base(base_url: &str) -> Result<Url, Lost> {
    if base_url.len() > limits::URL_BYTES_MAX {
        return Err(bad(&format!("it is over {} bytes", limits::URL_BYTES_MAX)));
    }
    let url = Url::parse(base_url).map_err(|error| {
        bad(&format!("{error}; write `https://host/path`, an IPv6 address in brackets and without a zone"))
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(&format!("`{}:` cannot be sent to; use https or http", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it holds a user or a password; use `auth = { kind = \"basic\", … }`"));
    }
    Ok(url)
}

fn append(url: &mut Url, path: &str) -> Result<(), Lost> {
    if path.is_empty() {
        return Ok(());
    }
    if !path.starts_with(['/', '?']) {
        return Err(bad("the path that was planned does not begin with a slash"));
    }
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    if path.split(['/', '\\']).any(is_dots) {
        return Err(bad("the path that was planned climbs with `.` or `..`"));
    }
    if !path.is_empty() {
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
    }
    match (query, url.query()) {
        (Some(more), Some(had)) => url.set_query(Some(&format!("{had}&{more}"))),
        (Some(query), None) => url.set_query(Some(query)),
        (None, _) => {}
    }
    Ok(())
}

/// `.` and `..` in every spelling that the URL rules resolve.
fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

fn bad(text: &str) -> Lost {
    refused("bad_url", format!("the destination's URL cannot be used: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(base_url: &str, path: &str, expected: Result<&str, &str>) {
        match (address(base_url, path), expected) {
            (Ok(address), Ok(whole)) => {
                let got = format!("{}:{}{}", address.shown(), address.port, address.target);
                assert_eq!(got, whole, "{base_url} + {path}");
            }
            (Err(lost), Err(part)) => {
                assert!(lost.refused && !lost.sent);
                assert!(lost.why.text.contains(part), "{base_url}: `{}` should say `{part}`", lost.why.text);
            }
            (got, expected) => panic!("{base_url} + {path}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn base_and_path_are_joined() {
        check("https://api.example.com", "/contacts", Ok("https://api.example.com:443/contacts"));
        check("https://api.example.com/", "/contacts?a=1", Ok("https://api.example.com:443/contacts?a=1"));
        check("https://api.example.com/v1/", "/contacts", Ok("https://api.example.com:443/v1/contacts"));
        check("http://a.example:8080/hook?t=1", "", Ok("http://a.example:8080:8080/hook?t=1"));
        check("http://a.example/hook?t=1", "/x?b=2#f", Ok("http://a.example:80/hook/x?t=1&b=2"));
        check("http://a.example/hook/", "", Ok("http://a.example:80/hook/"));
        check("http://a.example/hook", "?b=2", Ok("http://a.example:80/hook?b=2"));
        check("http://[2606:4700::1]/a", "", Ok("http://[2606:4700::1]:80/a"));
        check("http://Bücher.example/ä", "", Ok("http://xn--bcher-kva.example:80/%C3%A4"));
    }

    #[test]
    fn odd_spellings_of_an_address_are_the_address() {
        for host in
            ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "%31%32%37.0.0.1", "１２７.0.0.1"]
        {
            let address = address(&format!("http://{host}/"), "").unwrap();
            assert_eq!(address.host, Host::<String>::Ipv4(std::net::Ipv4Addr::LOCALHOST), "{host}");
        }
    }

    #[test]
    fn what_cannot_be_sent_to() {
        check("ftp://example.com", "", Err("use https"));
        check("file:///etc/passwd", "", Err("use https"));
        check("https://user:pw@example.com", "", Err("auth ="));
        check("https://user@example.com", "", Err("auth ="));
        check("http://[fe80::1%25eth0]/", "", Err("without a zone"));
        check("http://[fe80::1%eth0]/", "", Err("without a zone"));
        check("http://", "", Err("https://host/path"));
        check("example.com/hook", "", Err("https://host/path"));
        check("http://example.com:0/", "", Err("port is 0"));
        check("https://example.com", ".evil.example/", Err("slash"));
        check("https://example.com", "@evil.example/", Err("slash"));
        check("https://example.com/a", "/../b", Err("climbs"));
        check("https://example.com/a", "/%2E%2e/b", Err("climbs"));
        check("https://example.com/a", "\\..\\b", Err("slash"));
        check(&format!("https://example.com/{}", "a".repeat(9_000)), "", Err("bytes"));
    }

    proptest::proptest! {
        #[test]
        fn a_path_never_changes_the_host(path in ".{0,60}|[/.@:?#\\\\%2e]{0,30}") {
            if let Ok(address) = address("https://example.com/base", &path) {
                assert_eq!(address.authority, "example.com");
                assert!(address.target.starts_with("/base"), "{}", address.target);
            }
        }
    }
}
