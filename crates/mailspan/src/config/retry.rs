//! `retry` of a destination.

use mailspan_core::{Class, Span};
use mailspan_engine::Calendar;

use super::reader::Reader;
use super::settings::{HORIZON, RETRY, names};
use super::tree::{Data, Node, Table};

const DAY_MS: u64 = 86_400_000;
/// Longer than any outage that someone waits for without a human.
const WAIT_MAX_MS: u64 = 30 * DAY_MS;
const HORIZON_MAX_MS: u64 = 90 * DAY_MS;
const WAITS_MAX: usize = 100;
const HELP: &str =
    "write a list of waits, like [\"5s\", \"1m\", \"1h\"], or { calendar = [\"5s\", \"1m\"], for = \"72h\" }";

/// A list is used up, then a dead letter; a table's last wait repeats until its horizon.
pub fn calendar(reader: &Reader, node: &Node, place: &str) -> Option<Calendar> {
    match &node.data {
        Data::List(_) => Some(Calendar { waits_ms: waits(reader, node)?, horizon_ms: None, exact: false }),
        Data::Table(table) => horizon_calendar(reader, node, table, place),
        _ => {
            reader.problem(&node.at, format!("expected a list or a table, found {}", node.shape()), HELP);
            None
        }
    }
}

fn waits(reader: &Reader, node: &Node) -> Option<Vec<u64>> {
    let list = reader.list(node, HELP)?;
    if list.is_empty() || list.len() > WAITS_MAX {
        let help = format!("write 1 to {WAITS_MAX} waits, or leave it out for the default");
        reader.problem(&node.at, format!("a calendar of {} waits", list.len()), help);
        return None;
    }
    let waits: Vec<Option<u64>> =
        list.iter().map(|wait| reader.span(wait, 1, WAIT_MAX_MS).map(|span| span.ms)).collect();
    waits.into_iter().collect()
}

fn horizon_calendar(reader: &Reader, node: &Node, table: &Table, place: &str) -> Option<Calendar> {
    let place = format!("{place}.retry");
    reader.known(table, &place, &names(RETRY));
    if table.entries.is_empty() {
        reader.problem(&node.at, format!("`{place}` says nothing"), HELP);
        return None;
    }
    let default = Calendar::default();
    let waits = table.get("calendar").map_or(Some(default.waits_ms), |node| waits(reader, node));
    let horizons = default.horizon_ms.unwrap_or([DAY_MS; 3]);
    let horizons = table.get("for").map_or(Some(horizons), |node| horizon(reader, node, &place, horizons));
    Some(Calendar { waits_ms: waits?, horizon_ms: Some(horizons?), exact: false })
}

/// One time for every class, or a table by class over the default.
fn horizon(reader: &Reader, node: &Node, place: &str, default: [u64; 3]) -> Option<[u64; 3]> {
    let span = |node: &Node| reader.span(node, 1, HORIZON_MAX_MS).map(|span: Span| span.ms);
    let Data::Table(table) = &node.data else { return span(node).map(|ms| [ms; 3]) };
    reader.known(table, &format!("{place}.for"), &names(HORIZON));
    let mut horizons = default;
    let before = reader.count();
    for class in [Class::Consent, Class::Profile, Class::Activity] {
        if let Some(ms) = table.get(class.name()).and_then(span) {
            horizons[class as usize] = ms;
        }
    }
    (reader.count() == before).then_some(horizons)
}
