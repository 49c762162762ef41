//! What the routes of today's configuration say of an event, beside what became of it.

use mailspan_core::Event;
use mailspan_store::DeliveryRow;
use serde_json::{Value, json};

use super::{Decision, decide};
use crate::app::Live;
use crate::http::v1::deliveries::shown;
use crate::hub::Route;
use crate::poll::resync::only_to;

/// One row a route, those that are gone but have deliveries last.
pub fn routes(live: &Live, event: &Event, deliveries: &[DeliveryRow]) -> Value {
    let of = |name: &str| -> Vec<Value> {
        deliveries.iter().filter(|row| row.route.as_str() == name).map(shown).collect()
    };
    let mut rows: Vec<Value> = Vec::new();
    for route in &live.hub.routes {
        let made = of(route.name.as_str());
        let (matched, why) = verdict(route, event, made.is_empty());
        rows.push(json!({ "route": route.name, "matched": matched, "why": why, "deliveries": made }));
    }
    let mut gone: Vec<&str> = deliveries
        .iter()
        .map(|row| row.route.as_str())
        .filter(|name| live.hub.route(name).is_none())
        .collect();
    gone.dedup();
    for name in gone {
        rows.push(json!({
            "route": name, "matched": false, "why": "the route is not in the configuration any more", "deliveries": of(name),
        }));
    }
    json!(rows)
}

/// `unmade`: the route made no delivery of the event, which may still wait to be routed.
fn verdict(route: &Route, event: &Event, unmade: bool) -> (bool, String) {
    if event.test {
        return (false, "a test event makes no delivery".to_owned());
    }
    if let Some(only) = only_to(event).filter(|only| !route.to.contains(only)) {
        return (false, format!("it tells a contact again to {only} alone"));
    }
    match decide(route, event) {
        Decision::Takes => (
            true,
            match &route.when {
                Some(when) => {
                    format!("source and type fit, and the condition holds: {}", one_line(&when.text))
                }
                None => "source and type fit".to_owned(),
            },
        ),
        Decision::ConditionFalse => {
            let when = route.when.as_ref().map(|when| one_line(&when.text)).unwrap_or_default();
            (false, format!("the condition is false: {when}"))
        }
        Decision::ConditionFailed(reason) => {
            let so = if unmade { "routed now it would be" } else { "so it is" };
            (true, format!("the condition failed, {so} a dead letter: {}", reason.text))
        }
        Decision::NotConcerned => (false, not_concerned(route, event)),
    }
}

fn not_concerned(route: &Route, event: &Event) -> String {
    if route.tenant != event.tenant {
        return format!("it serves the tenant {}", route.tenant);
    }
    if !route.from.is_empty() && !route.from.contains(&event.source) {
        let from: Vec<&str> = route.from.iter().map(|name| name.as_str()).collect();
        return format!("it takes from {}", from.join(", "));
    }
    format!("it takes the types {}", route.events.join(", "))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
