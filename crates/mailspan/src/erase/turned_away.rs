//! What was turned away and names a person: elements in quarantine, and refused requests of a tenant's sources.

use mailspan_core::limits::{PAGE_ROWS_MAX, REFUSED_KEPT_MAX};
use mailspan_core::{Name, json as text};
use mailspan_store::{RefusedRow, Store, Trouble, UnreadableRow, Words};
use serde_json::{Value, json};

/// Pages of quarantined elements of all tenants that are read.
const PAGES_MAX: usize = 100;

/// What names the person, newest first, and whether all that is kept was read.
#[derive(Debug, Default)]
pub struct TurnedAway {
    pub quarantined: Vec<Value>,
    pub refused: Vec<Value>,
    pub complete: bool,
}

/// `sources`: of the tenant, as they are configured now.
pub async fn find(
    store: &Store,
    tenant: &Name,
    sources: &[Name],
    words: &Words,
) -> Result<TurnedAway, Trouble> {
    let mut found = TurnedAway::default();
    for source in sources {
        let rows = store.refused(Some(source.clone()), REFUSED_KEPT_MAX).await?;
        let own = rows.iter().filter(|row| row.tenant == *tenant);
        found.refused.extend(own.filter_map(|row| refused(row, words)));
    }
    let mut before = None;
    for _ in 0..PAGES_MAX {
        let rows = store.unreadable(PAGE_ROWS_MAX, before).await?;
        before = rows.last().map(|row| row.id);
        let own = rows.iter().filter(|row| row.tenant == *tenant && words.stands_in(&row.raw, false));
        found.quarantined.extend(own.map(quarantined));
        if rows.len() < PAGE_ROWS_MAX {
            found.complete = true;
            break;
        }
    }
    Ok(found)
}

fn quarantined(row: &UnreadableRow) -> Value {
    json!({
        "source": row.source,
        "received_at": row.received_at.rfc3339(),
        "reason": row.reason.code,
        "text": row.reason.text,
        "raw": row.raw,
    })
}

/// Of a list the elements that name the person: the others are about others, and so may be what a list that is cut
/// off holds.
fn refused(row: &RefusedRow, words: &Words) -> Option<Value> {
    let body = String::from_utf8_lossy(&row.body);
    let is_named = |text: &str| words.stands_in(text, false);
    let headers: Vec<_> = row.headers.iter().filter(|(_, value)| is_named(value)).collect();
    if headers.is_empty() && !is_named(&body) {
        return None;
    }
    let root = text::parse(body.as_bytes()).ok();
    let texts: Vec<&str> = match root.as_ref().and_then(|root| root.as_array()) {
        Some(elements) => elements.iter().map(|element| element.raw).collect(),
        None if body.trim_start().starts_with('[') => Vec::new(),
        None => vec![body.as_ref()],
    };
    let bodies: Vec<&str> = texts.into_iter().filter(|text| is_named(text)).collect();
    Some(json!({
        "source": row.source,
        "at": row.at.rfc3339(),
        "check": row.check,
        "text": row.text,
        "headers": headers,
        "bodies": bodies,
    }))
}
