//! `[storage]`.

use mailspan_core::{Secret, clip};

use super::reader::Reader;
use super::report::Place;
use super::secrets;
use super::settings::{STORAGE, names};
use super::tree::{Data, Node, Table};
use crate::hub::Storage;

const HELP: &str =
    "write the path of a file, like \"sqlite:mailspan.db\", or \"postgres://user@host/database\"";

pub fn storage(reader: &Reader, table: &Table) -> Option<Storage> {
    reader.known(table, "storage", &names(STORAGE));
    let Some(node) = table.get("url") else {
        return Some(Storage::Sqlite { path: reader.folder.join("mailspan.db") });
    };
    // With a password in it the URL is a secret, and a reference like others.
    if let Data::Table(_) = &node.data {
        let named = secrets::read(reader, node, "storage.url")?;
        return of_text(reader, node, named.secret.expose(), false);
    }
    let text = reader.text(node, HELP)?;
    of_text(reader, node, text, true)
}

/// `key` and `old_keys`: the first seals, every one opens.
pub fn keys(reader: &Reader, table: &Table, storage: Option<&Storage>) -> Vec<Secret> {
    let mut keys = Vec::new();
    if let (None, Some(Storage::Postgres { .. }), Some(node)) = (table.get("key"), storage, table.get("url"))
    {
        reader.warn(
            &node.at,
            "no `key` is set: the key of the address hashes stands in the database in clear, and webhook endpoints cannot be made; write key = { env = \"MAILSPAN_STORE_KEY\" } (`mailspan keys secret` makes one)",
        );
    }
    if let Some(node) = table.get("key") {
        keys.extend(secrets::read(reader, node, "storage.key"));
    }
    if let Some(node) = table.get("old_keys") {
        keys.extend(secrets::list(reader, node, "storage.old_keys").unwrap_or_default());
    }
    keys.into_iter().map(|named| named.secret).collect()
}

fn of_text(reader: &Reader, node: &Node, text: &str, in_clear: bool) -> Option<Storage> {
    match text.split_once(':') {
        Some(("sqlite", path)) => sqlite(reader, node, path.strip_prefix("//").unwrap_or(path)),
        Some(("postgres" | "postgresql", _)) => postgres(reader, node, text, in_clear),
        other => {
            // The address of a database often carries its password.
            reader.hide(&node.at);
            let message = match other {
                Some((scheme, _)) => format!("`{}:` is no store", clip(scheme, 20)),
                None => "the URL of a store begins with its kind".to_owned(),
            };
            reader.problem(&node.at, message, HELP);
            None
        }
    }
}

fn sqlite(reader: &Reader, node: &Node, path: &str) -> Option<Storage> {
    let message = match path {
        ":memory:" => "a store in memory forgets what was acknowledged",
        path if !path.is_empty() && !path.ends_with('/') && !path.contains(['?', '\0']) => {
            return Some(Storage::Sqlite { path: reader.folder.join(path) });
        }
        _ => "`sqlite:` needs the path of a file",
    };
    reader.problem(&node.at, message, HELP);
    None
}

fn postgres(reader: &Reader, node: &Node, text: &str, in_clear: bool) -> Option<Storage> {
    let url = url::Url::parse(text).ok();
    let has_password = url.as_ref().is_none_or(|url| url.password().is_some() || text.contains("password="));
    let from_file = !matches!(node.at, Place::Env(_));
    if in_clear && from_file && has_password && !reader.options.dev {
        reader.hide(&node.at);
        let help = "write url = { env = \"DATABASE_URL\" }, or leave the password to ~/.pgpass or peer authentication";
        reader.problem(&node.at, "the URL of the store holds a password in clear", help);
        return None;
    }
    Some(Storage::Postgres { url: Secret::new(text.to_owned()), folder: reader.folder.to_owned() })
}
