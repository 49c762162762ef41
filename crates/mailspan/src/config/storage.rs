//! `[storage]`.

use mailspan_core::clip;

use super::reader::Reader;
use super::settings::{STORAGE, names};
use super::tree::Table;
use crate::hub::Storage;

pub fn storage(reader: &Reader, table: &Table) -> Option<Storage> {
    reader.known(table, "storage", &names(STORAGE));
    let help = "write the path of a file, like \"sqlite:mailspan.db\"";
    let Some(node) = table.get("url") else {
        return Some(Storage::Sqlite { path: reader.folder.join("mailspan.db") });
    };
    let text = reader.text(node, help)?;
    let path = text.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
    match path {
        Some(":memory:") => {
            reader.problem(&node.at, "a store in memory forgets what was acknowledged", help);
            None
        }
        Some(path) if !path.is_empty() && !path.ends_with('/') && !path.contains(['?', '\0']) => {
            Some(Storage::Sqlite { path: reader.folder.join(path) })
        }
        Some(_) => {
            reader.problem(&node.at, "`sqlite:` needs the path of a file", help);
            None
        }
        None => {
            // The address of a database often carries its password.
            reader.hide(&node.at);
            let message = match text.split(':').next() {
                Some("postgres" | "postgresql") => "PostgreSQL comes with a later version".to_owned(),
                Some(scheme) if scheme.len() < text.len() => format!("`{}:` is no store", clip(scheme, 20)),
                _ => "the URL of a store begins with its kind".to_owned(),
            };
            reader.problem(&node.at, message, help);
            None
        }
    }
}
