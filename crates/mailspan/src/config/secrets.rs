//! References to secrets and what they stand for.

use std::fs;
use std::io::Read;
use std::path::Path;

use mailspan_core::{Named, Secret, SecretRef, clip};

use super::reader::Reader;
use super::report::Place;
use super::tree::{Data, Node, Table};

/// A file of a secret or a certificate: the largest chain we know has 20 KB.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Secrets that are live at once while they are rotated.
const SECRETS_MAX: usize = 10;
/// 128 bits written as hex have 32 characters, as base64 22; a shorter one than this can be guessed.
const SHORT: usize = 16;

/// A secret that its user may choose: `{ env = "NAME" }` or `{ file = "path" }`, with a warning where it
/// is short. `place` is the setting's full name.
pub fn read(reader: &Reader, node: &Node, place: &str) -> Option<Named> {
    let named = resolve(reader, node, place)?;
    if named.secret.expose().chars().count() < SHORT {
        let text = format!("the secret of `{place}` ({}) is shorter than {SHORT} characters", named.name);
        reader.warn(&node.at, format_args!("{text}: `mailspan keys secret` makes a better one"));
    }
    Some(named)
}

/// `secrets = [ … ]`, none empty and none twice; nothing where one of them is wrong.
pub fn list(reader: &Reader, node: &Node, place: &str) -> Option<Vec<Named>> {
    let list = match &node.data {
        Data::List(list) => list,
        Data::Text(_) => {
            resolve(reader, node, place);
            return None;
        }
        _ => {
            reader.problem(&node.at, format!("`{place}` is {}, not a list", node.shape()), LIST);
            return None;
        }
    };
    if list.len() > SECRETS_MAX {
        reader.problem(
            &node.at,
            format!("`{place}` has {} secrets", list.len()),
            format!("at most {SECRETS_MAX} are live at once"),
        );
        return None;
    }
    let named: Vec<Option<Named>> = list.iter().map(|item| read(reader, item, place)).collect();
    let named: Option<Vec<Named>> = named.into_iter().collect();
    let named = named?;
    for (n, secret) in named.iter().enumerate() {
        if named[..n].iter().any(|other| other.secret.expose() == secret.secret.expose()) {
            reader.warn(
                &list[n].at,
                format_args!("two secrets of `{place}` are the same: one of them is not needed"),
            );
        }
    }
    Some(named)
}

const LIST: &str = "write secrets = [{ env = \"NAME\" }], two while one is rotated out";

/// The text behind a reference, without a judgement of its length: a vendor's token, a certificate.
pub fn resolve(reader: &Reader, node: &Node, place: &str) -> Option<Named> {
    let key = place.rsplit('.').next().unwrap_or(place);
    match &node.data {
        Data::Text(text) => literal(reader, node, text, key, place),
        Data::Table(table) => reference(reader, node, table, place),
        _ => {
            reader.hide(&node.at);
            reader.problem(
                &node.at,
                format!("`{key}` is {}, not a reference to a secret", node.shape()),
                example(place),
            );
            None
        }
    }
}

/// What to write for a secret, with a variable named after its place.
pub fn example(place: &str) -> String {
    let words: Vec<&str> = place
        .split('.')
        .filter(|word| !matches!(*word, "sources" | "destinations" | "auth" | "sign" | "access" | "headers"))
        .collect();
    let name: String = words
        .join("_")
        .to_uppercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("write {{ env = \"{name}\" }} and set that variable, or {{ file = \"path\" }}")
}

fn literal(reader: &Reader, node: &Node, text: &str, key: &str, place: &str) -> Option<Named> {
    reader.hide(&node.at);
    if !reader.options.dev {
        let help = format!("{}; text is taken with --dev only", example(place));
        reader.problem(&node.at, format!("`{key}` is a secret in clear"), help);
        return None;
    }
    reader.warn(&node.at, format_args!("`{place}` is a secret in clear, taken because of --dev"));
    checked(reader, &node.at, text.to_owned(), format!("{key} in the file"))
}

fn reference(reader: &Reader, node: &Node, table: &Table, place: &str) -> Option<Named> {
    let before = reader.count();
    for entry in table.entries.iter().filter(|entry| !matches!(entry.key.as_str(), "env" | "file")) {
        reader.hide(&entry.node.at);
        reader.unknown(entry, place, &["env", "file"]);
    }
    if reader.count() > before {
        return None;
    }
    match (table.get("env"), table.get("file")) {
        (Some(node), None) => from_env(reader, node),
        (None, Some(node)) => from_file(reader, node),
        _ => {
            reader.problem(&node.at, format!("`{place}` needs one of `env` and `file`"), example(place));
            None
        }
    }
}

fn from_env(reader: &Reader, node: &Node) -> Option<Named> {
    let name = reader.text(node, "write the name of a variable, like { env = \"CRM_TOKEN\" }")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
        // A token pasted in place of a variable's name must not be shown either.
        reader.hide(&node.at);
        reader.problem(
            &node.at,
            "no name of an environment variable",
            "write letters, digits and `_`, like { env = \"CRM_TOKEN\" }",
        );
        return None;
    }
    let Some(text) = (reader.options.env)(name) else {
        reader.problem(
            &node.at,
            format!("the environment variable `{name}` is not set"),
            format!("set {name} in the environment of mailspan, or name a file: {{ file = \"path\" }}"),
        );
        return None;
    };
    checked(reader, &node.at, text, SecretRef::Env(name.to_owned()).to_string())
}

fn from_file(reader: &Reader, node: &Node) -> Option<Named> {
    let name = reader.text(node, "write a path, like { file = \"crm.token\" }")?;
    let path = reader.folder.join(name);
    match read_file(&path) {
        Ok(text) => checked(reader, &node.at, text, SecretRef::File(name.into()).to_string()),
        Err(why) => {
            let message =
                format!("the file `{}` cannot be read: {why}", clip(&path.display().to_string(), 200));
            let help = match why.contains("ermission denied") {
                true => "let the user that mailspan runs as read it",
                false => "relative paths are taken from the folder of the configuration",
            };
            reader.problem(&node.at, message, help);
            None
        }
    }
}

/// A file without the line break at its end; at most 256 KiB of UTF-8.
pub fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    let trimmed = text.strip_suffix('\n').map_or(text.len(), |text| text.trim_end_matches('\r').len());
    text.truncate(trimmed);
    Ok(text)
}

/// Secrets that the kind cannot read would refuse everything, for ever: said at once.
pub fn readable(reader: &Reader, at: &Place, kind: &str, secrets: &[Named]) {
    for named in secrets {
        if let Err(why) = mailspan_connectors::signature::check_secret(kind, named.secret.expose()) {
            let help = "`mailspan keys secret --standard-webhooks` makes one";
            reader.problem(at, format!("{} cannot be used: {why}", named.name), help);
        }
    }
}

/// A secret of nothing would verify nothing, or everything.
fn checked(reader: &Reader, at: &Place, text: String, name: String) -> Option<Named> {
    let key = text.strip_prefix("whsec_").unwrap_or(&text);
    if key.trim().is_empty() {
        let message = if key.len() == text.len() {
            format!("{name} is empty")
        } else {
            format!("{name} is `whsec_` with nothing after it")
        };
        let makes = if key.len() == text.len() { "" } else { " --standard-webhooks" };
        reader.problem(
            at,
            message,
            format!("set it to a long random secret: `mailspan keys secret{makes}` makes one"),
        );
        return None;
    }
    Some(Named { name, secret: Secret::new(text) })
}
