//! Stored requests that prove a consent and of which no event came: it was given anew with other words, and nothing that
//! can be seen changed.

use std::collections::BTreeSet;

use mailspan_connectors::signature::digest;
use mailspan_core::Name;
use mailspan_core::limits::PROOFS_MAX;
use mailspan_store::{FactRow, RequestRow, Store, Trouble, Words, elements_naming};
use serde_json::{Value, json};

use super::person::request_head;
use crate::contacts::links::without_tokens;

/// Oldest first, and whether all were looked for.
#[derive(Debug, Default)]
pub struct Proofs {
    pub requests: Vec<Value>,
    pub complete: bool,
}

/// Behind the facts of a person; what retention has dropped is not there.
pub async fn find(store: &Store, tenant: &Name, facts: &[FactRow], words: &Words) -> Result<Proofs, Trouble> {
    // What the hub itself writes, as of a file, comes with no request.
    let nothing = digest(&[]).to_string();
    let mut sought = BTreeSet::new();
    for fact in facts.iter().filter(|fact| fact.digest != nothing) {
        if store.event(fact.event_id).await?.is_none() {
            sought.insert((fact.learned_at, &fact.digest));
        }
    }
    let mut found = Proofs { requests: vec![], complete: sought.len() <= PROOFS_MAX };
    for (at, digest) in sought.into_iter().take(PROOFS_MAX) {
        let request = store.proof(tenant, at, digest).await?;
        found.requests.extend(request.map(|row| shown(&row, words)));
    }
    Ok(found)
}

fn shown(row: &RequestRow, words: &Words) -> Value {
    let bodies: Vec<String> = elements_naming(&row.body, words);
    let bodies: Vec<_> = bodies.iter().map(|body| without_tokens(body)).collect();
    let mut shown = request_head(row);
    shown["bodies"] = json!(bodies);
    shown
}
