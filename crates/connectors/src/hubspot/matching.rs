//! Finds out whom each result and each error of a batch answer is about: HubSpot gives no index and no order.

use std::collections::HashMap;

use super::answer::{Fault, Found};
use super::call::Input;
use crate::contract::Item;

/// What became of an input.
#[derive(Clone)]
pub enum Outcome {
    Written(Option<String>),
    /// Position in the faults.
    Failed(usize),
}

/// Which result or error belongs to which input.
pub struct Matched {
    /// One an input.
    pub outcomes: Vec<Option<Outcome>>,
    /// Results and errors that name none of the inputs.
    pub unassigned: usize,
}

/// Assigns errors, then results, to inputs: by trace id, by id, and at last the only one that is left to
/// the only one that is left (a contact found by another of its addresses, a merged record).
pub fn assign(items: &[Item], inputs: &[Input], results: Vec<Found>, faults: &[Fault]) -> Matched {
    let mut traces: HashMap<String, usize> = HashMap::new();
    let mut ids: HashMap<String, Vec<usize>> = HashMap::new();
    let mut ends: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, input) in inputs.iter().enumerate() {
        for &member in &input.members {
            traces.insert(items[member].key.to_string().to_lowercase(), at);
        }
        ids.entry(input.id.to_lowercase()).or_default().push(at);
        if !input.to.is_empty() {
            ends.entry(&input.to).or_default().push(at);
        }
    }
    let mut outcomes: Vec<Option<Outcome>> = vec![None; inputs.len()];
    let mut stray_faults = Vec::new();
    for (position, fault) in faults.iter().enumerate() {
        let mut named: Vec<usize> = fault.names.iter().filter_map(|name| traces.get(name)).copied().collect();
        for name in &fault.names {
            named.extend(ids.get(name).into_iter().flatten());
            named.extend(ends.get(name.as_str()).into_iter().flatten());
        }
        if named.is_empty() {
            stray_faults.push(position);
        }
        named.iter().for_each(|&at| outcomes[at] = outcomes[at].take().or(Some(Outcome::Failed(position))));
    }
    let mut stray_results = Vec::new();
    for found in results {
        let by_trace = found.trace.as_ref().and_then(|trace| traces.get(trace)).map(std::slice::from_ref);
        let by_id = || found.names.iter().find_map(|name| ids.get(name)).map(Vec::as_slice);
        match by_trace.or_else(by_id) {
            Some(named) => {
                let written = Outcome::Written(found.id);
                named.iter().for_each(|&at| outcomes[at] = outcomes[at].take().or(Some(written.clone())));
            }
            None => stray_results.push(found),
        }
    }
    let unassigned = stray_faults.len() + stray_results.len();
    let mut open = outcomes.iter_mut().filter(|outcome| outcome.is_none());
    if let (Some(last), None) = (open.next(), open.next()) {
        match (stray_faults.first(), stray_results.pop()) {
            (Some(&fault), _) => *last = Some(Outcome::Failed(fault)),
            (None, Some(found)) if stray_results.is_empty() => *last = Some(Outcome::Written(found.id)),
            _ => {}
        }
    }
    Matched { outcomes, unassigned }
}
