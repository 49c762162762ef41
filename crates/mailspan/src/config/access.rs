//! Credentials: of callers (`access`) and of destinations (`auth`).

use mailspan_core::Named;

use super::choice::Choice;
use super::reader::Reader;
use super::settings::{ACCESS, AUTH};
use super::tree::Node;
use crate::hub::{Access, Auth};

/// `access = { kind = "basic" | "bearer" | "path", … }` of a source.
pub fn access(reader: &Reader, node: &Node, place: &str) -> Option<Access> {
    let kinds: &[(&str, &[&str])] =
        &[("basic", &["user", "password"]), ("bearer", &["token"]), ("path", &["secret"])];
    let choice = Choice::read(reader, node, place, ACCESS, kinds)?;
    match choice.kind {
        "basic" => {
            let (user, password) = (user(reader, &choice), choice.secret(reader, "password"));
            Some(Access::Basic { user: user?, password: password? })
        }
        "bearer" => Some(Access::Bearer { token: choice.secret(reader, "token")? }),
        _ => {
            let secret = choice.secret(reader, "secret")?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '~');
            if !secret.secret.expose().chars().all(plain) {
                let at = choice.at("secret");
                let message = format!("the secret of `{place}` cannot stand in a path");
                reader.problem(
                    at,
                    message,
                    "use one of letters, digits, `_`, `-`, `.` and `~`: `mailspan keys secret` makes one",
                );
                return None;
            }
            Some(Access::Path { secret })
        }
    }
}

/// A user name with a colon could not be told from its password (RFC 7617, 2).
fn user(reader: &Reader, choice: &Choice) -> Option<String> {
    let text = choice.text(reader, "user", "mailspan")?;
    if text.contains(':') {
        let at = choice.at("user");
        reader.problem(
            at,
            "a user name of HTTP Basic has no colon",
            "write the name alone, the password in `password`",
        );
        return None;
    }
    Some(text.to_owned())
}

/// `auth = { kind = "bearer" | "basic" | "header" | "key", … }` of a destination.
pub fn auth(reader: &Reader, node: &Node, place: &str) -> Option<Auth> {
    let kinds: &[(&str, &[&str])] = &[
        ("bearer", &["token"]),
        ("basic", &["user", "password"]),
        ("header", &["name", "value"]),
        ("key", &["key"]),
    ];
    let choice = Choice::read(reader, node, place, AUTH, kinds)?;
    match choice.kind {
        "bearer" => Some(Auth::Bearer { token: sendable(reader, &choice, "token")? }),
        "key" => Some(Auth::Key { key: choice.credential(reader, "key")? }),
        "basic" => {
            let (user, password) = (user(reader, &choice), choice.credential(reader, "password"));
            Some(Auth::Basic { user: user?, password: password? })
        }
        _ => {
            let (name, value) = (choice.header(reader, "name"), sendable(reader, &choice, "value"));
            Some(Auth::Header { name: name?, value: value? })
        }
    }
}

/// A secret that stands in a header as it is.
fn sendable(reader: &Reader, choice: &Choice, key: &str) -> Option<Named> {
    let named = choice.credential(reader, key)?;
    if http::HeaderValue::from_str(named.secret.expose()).is_ok() {
        return Some(named);
    }
    let at = choice.at(key);
    let message =
        format!("{} cannot stand in a header: it has line breaks or characters beyond ASCII", named.name);
    reader.problem(at, message, "set it to the credential alone, on one line");
    None
}
