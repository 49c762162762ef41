//! Credentials: of callers (`access`), of destinations (`auth`), and how requests are signed (`sign`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use mailspan_core::{Named, clip};

use super::reader::{Reader, suggestion};
use super::secrets;
use super::settings::{ACCESS, AUTH, SIGN, Setting, names};
use super::tree::{Data, Node, Table};
use crate::hub::{Access, Auth, Sign};

/// A table whose `kind` decides which keys it has.
struct Choice<'n> {
    table: &'n Table,
    node: &'n Node,
    place: &'n str,
    kind: &'n str,
}

impl<'n> Choice<'n> {
    /// Reads `kind` and reports keys that it does not have. `kinds` names each kind with its keys.
    fn read(
        reader: &Reader,
        node: &'n Node,
        place: &'n str,
        all: &'static [Setting],
        kinds: &[(&'static str, &[&'static str])],
    ) -> Option<Choice<'n>> {
        let words: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let example = format!("kind = \"{}\"", words.join("\" or \""));
        if !matches!(node.data, Data::Table(_)) {
            // Text in this place is the credential itself.
            reader.hide(&node.at);
        }
        let key = place.rsplit('.').next().unwrap_or(place);
        let table = reader.table(node, &format!("write {key} = {{ {example}, … }}"))?;
        let kind = reader.required(table, &node.at, "kind", place, &example).and_then(|kind| {
            let word = reader.text(kind, &format!("write {example}"))?;
            let found = kinds.iter().find(|(known, _)| *known == word);
            if found.is_none() {
                let message = format!("unknown kind `{}` of `{place}`", clip(word, 60));
                reader.problem(&kind.at, message, suggestion(word, &words));
            }
            found
        });
        let mut known = match kind {
            Some((_, keys)) => keys.to_vec(),
            None => names(all),
        };
        known.push("kind");
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            reader.hide(&entry.node.at);
            reader.unknown(entry, place, &known);
        }
        Some(Choice { table, node, place, kind: kind?.0 })
    }

    fn secret(&self, reader: &Reader, key: &str) -> Option<Named> {
        let place = format!("{}.{key}", self.place);
        let example = format!("{key} = {{ env = \"NAME\" }}");
        let node = reader.required(self.table, &self.node.at, key, self.place, &example)?;
        secrets::read(reader, node, &place)
    }

    fn text(&self, reader: &Reader, key: &str, example: &str) -> Option<&'n str> {
        let node =
            reader.required(self.table, &self.node.at, key, self.place, &format!("{key} = \"{example}\""))?;
        let text = reader.text(node, &format!("write {key} = \"{example}\""))?;
        if text.is_empty() {
            reader.problem(&node.at, format!("`{key}` is empty"), format!("write {key} = \"{example}\""));
            return None;
        }
        Some(text)
    }

    fn optional(&self, reader: &Reader, key: &str, default: &'static str) -> Option<&'n str> {
        match self.table.get(key) {
            Some(node) => reader.text(node, &format!("write text, like {key} = \"{default}\"")),
            None => Some(default),
        }
    }

    fn one_of(&self, reader: &Reader, key: &str, words: &[&'static str]) -> Option<&'n str> {
        let Some(node) = self.table.get(key) else { return words.first().copied() };
        let text = reader.text(node, &format!("write {key} = \"{}\"", words.join("\" or \"")))?;
        if words.contains(&text) {
            return Some(text);
        }
        reader.problem(
            &node.at,
            format!("`{}` is no {key} that is known", clip(text, 60)),
            suggestion(text, words),
        );
        None
    }

    fn header(&self, reader: &Reader, key: &str) -> Option<String> {
        let text = self.text(reader, key, "x-signature")?;
        let node = self.table.get(key)?;
        header_name(reader, node, text)
    }
}

/// The name of a header, in lower case.
pub fn header_name(reader: &Reader, node: &Node, text: &str) -> Option<String> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(_) => {
            let help = "write letters, digits and `-`, like \"X-Signature\"";
            reader.problem(&node.at, format!("`{}` is no name of a header", clip(text, 60)), help);
            None
        }
    }
}

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
                let at = choice.table.get("secret").map_or(&node.at, |node| &node.at);
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
        let at = choice.table.get("user").map_or(&choice.node.at, |node| &node.at);
        reader.problem(
            at,
            "a user name of HTTP Basic has no colon",
            "write the name alone, the password in `password`",
        );
        return None;
    }
    Some(text.to_owned())
}

/// `auth = { kind = "bearer" | "basic" | "header", … }` of a destination.
pub fn auth(reader: &Reader, node: &Node, place: &str) -> Option<Auth> {
    let kinds: &[(&str, &[&str])] =
        &[("bearer", &["token"]), ("basic", &["user", "password"]), ("header", &["name", "value"])];
    let choice = Choice::read(reader, node, place, AUTH, kinds)?;
    match choice.kind {
        "bearer" => Some(Auth::Bearer { token: sendable(reader, &choice, "token")? }),
        "basic" => {
            let (user, password) = (user(reader, &choice), choice.secret(reader, "password"));
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
    let named = choice.secret(reader, key)?;
    if http::HeaderValue::from_str(named.secret.expose()).is_ok() {
        return Some(named);
    }
    let at = choice.table.get(key).map_or(&choice.node.at, |node| &node.at);
    let message =
        format!("{} cannot stand in a header: it has line breaks or characters beyond ASCII", named.name);
    reader.problem(at, message, "set it to the credential alone, on one line");
    None
}

/// `sign = { kind = "standard_webhooks" | "hmac", … }` of a destination.
pub fn sign(reader: &Reader, node: &Node, place: &str) -> Option<Sign> {
    let hmac: &[&str] =
        &["secret", "header", "prefix", "encoding", "algorithm", "signed", "timestamp_header"];
    let kinds: &[(&str, &[&str])] = &[("standard_webhooks", &["secret", "secrets"]), ("hmac", hmac)];
    let choice = Choice::read(reader, node, place, SIGN, kinds)?;
    match choice.kind {
        "standard_webhooks" => standard_webhooks(reader, &choice),
        _ => self_made(reader, &choice),
    }
}

fn standard_webhooks(reader: &Reader, choice: &Choice) -> Option<Sign> {
    let place = format!("{}.secrets", choice.place);
    let secrets = match (choice.table.get("secret"), choice.table.get("secrets")) {
        (Some(node), Some(_)) => {
            let message = format!("`{}` has both `secret` and `secrets`", choice.place);
            reader.problem(&node.at, message, "write both keys into `secrets`");
            None
        }
        (_, Some(node)) => secrets::list(reader, node, &place),
        _ => choice.secret(reader, "secret").map(|secret| vec![secret]),
    }?;
    let at =
        choice.table.get("secrets").or(choice.table.get("secret")).map_or(&choice.node.at, |node| &node.at);
    if secrets.is_empty() {
        reader.problem(at, format!("`{place}` is empty"), secrets::example(&place));
        return None;
    }
    for named in &secrets {
        let key = named.secret.expose().strip_prefix("whsec_");
        if key.is_some_and(|key| STANDARD.decode(key).is_err()) {
            let help = "a key of Standard Webhooks is whsec_ and base64 with its padding";
            reader.problem(at, format!("{} is not base64 after `whsec_`", named.name), help);
            return None;
        }
    }
    Some(Sign::StandardWebhooks { secrets })
}

fn self_made(reader: &Reader, choice: &Choice) -> Option<Sign> {
    let secret = choice.secret(reader, "secret");
    let header = choice.header(reader, "header");
    let prefix = choice.optional(reader, "prefix", "");
    let encoding = choice.one_of(reader, "encoding", &["hex", "base64"]);
    let algorithm = choice.one_of(reader, "algorithm", &["sha256", "sha1"]);
    let timestamp = choice.table.has("timestamp_header").then(|| choice.header(reader, "timestamp_header"));
    let signed = choice
        .optional(reader, "signed", "{body}")
        .filter(|signed| recipe(reader, choice, signed, timestamp.is_some()));
    let timestamp_header = match timestamp {
        Some(name) => Some(name?),
        None => None,
    };
    Some(Sign::Hmac {
        secret: secret?,
        header: header?,
        prefix: prefix?.to_owned(),
        base64: encoding? == "base64",
        sha1: algorithm? == "sha1",
        signed: signed?.to_owned(),
        timestamp_header,
    })
}

/// The recipe names the body, and the time only where the receiver learns it too.
fn recipe(reader: &Reader, choice: &Choice, signed: &str, timestamped: bool) -> bool {
    let at = choice.table.get("signed").map_or(&choice.node.at, |node| &node.at);
    let help = "write text with {body}, {id} and {timestamp}, like \"{timestamp}.{body}\"";
    let mut rest = signed;
    while let Some((_, after)) = rest.split_once('{') {
        let (word, next) = after.split_once('}').unwrap_or((after, ""));
        if !matches!(word, "body" | "id" | "timestamp") {
            reader.problem(at, format!("`{{{}}}` is no part of a recipe", clip(word, 40)), help);
            return false;
        }
        rest = next;
    }
    if !signed.contains("{body}") {
        reader.problem(at, "the recipe does not sign the body", help);
        return false;
    }
    if signed.contains("{timestamp}") && !timestamped {
        reader.problem(
            at,
            "the receiver never learns the time that is signed",
            "write timestamp_header = \"x-timestamp\"",
        );
        return false;
    }
    true
}
