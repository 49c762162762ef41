//! How requests of kind `http` are signed.

use mailspan_core::clip;

use super::choice::Choice;
use super::reader::Reader;
use super::secrets;
use super::settings::SIGN;
use super::tree::Node;
use crate::hub::Sign;

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
    let before = reader.count();
    secrets::readable(reader, at, "standard_webhooks", &secrets);
    (reader.count() == before).then_some(Sign::StandardWebhooks { secrets })
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
    let at = choice.at("signed");
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
