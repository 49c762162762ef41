//! Output: a table on a terminal, one JSON object a line with `--json`.

use std::io::Write;

use serde_json::Value;

use super::Common;

/// A table is looked over, not read: longer cells are cut. `show` and `--json` have the whole.
const CELL_CHARS_MAX: usize = 120;

/// Prints a line. A closed pipe (`| head`) is no error of ours.
pub fn say(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout().lock(), "{}", safe(&line.to_string()));
}

/// Prints rows; `columns` are the members shown in a table.
pub fn rows(common: &Common, columns: &[&str], items: &[Value], none: &str) {
    let mut out = std::io::stdout().lock();
    if common.json {
        for item in items {
            // A closed pipe (`| head`) is no error of ours.
            let _ = writeln!(out, "{item}");
        }
        return;
    }
    if items.is_empty() {
        let _ = writeln!(out, "{none}");
        return;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.to_uppercase().replace('_', " ")));
    for item in items {
        let short = |column: &&str| mailspan_core::clip(&cell(&item[*column]), CELL_CHARS_MAX).into_owned();
        table.add_row(columns.iter().map(short));
    }
    let _ = writeln!(out, "{}", table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
}

/// Prints one object: its members below each other, or as JSON.
pub fn one(common: &Common, value: &Value) {
    let mut out = std::io::stdout().lock();
    if common.json {
        let _ = writeln!(out, "{value}");
        return;
    }
    let Some(members) = value.as_object() else { return };
    let width = members.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in members {
        let text = match value {
            Value::Array(_) | Value::Object(_) => serde_json::to_string_pretty(value).unwrap_or_default(),
            scalar => cell(scalar),
        };
        let _ = writeln!(out, "{name:width$}  {}", text.replace('\n', &format!("\n{:width$}  ", "")));
    }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    safe(&text).replace('\n', "\u{fffd}")
}

/// What a sender wrote must not drive a terminal: what would is shown as U+FFFD. Line ends stay.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && mailspan_core::is_unshown(c) { '\u{fffd}' } else { c }).collect()
}
