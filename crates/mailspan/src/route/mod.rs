//! Routing: which deliveries an event makes. Pure; the shell is [`follow`].

pub mod explain;
pub mod follow;

use mailspan_connectors::contract::Kind;
use mailspan_core::{Event, LastTimes, Name, Reason, json};
use mailspan_store::{Routed, Towards};

use crate::app::Live;
use crate::hub::Route;
use crate::poll::resync::only_to;

/// What one route makes of an event.
pub enum Decision {
    /// Another source or type.
    NotConcerned,
    ConditionFalse,
    ConditionFailed(Reason),
    Takes,
}

/// By source and type first: ten conditions cost more than ten deliveries.
pub fn decide(route: &Route, event: &Event) -> Decision {
    if !route.takes(&event.tenant, &event.source, &event.event_type) {
        return Decision::NotConcerned;
    }
    match route.when.as_ref().map(|when| when.condition(event)) {
        None | Some(Ok(true)) => Decision::Takes,
        Some(Ok(false)) => Decision::ConditionFalse,
        Some(Err(reason)) => Decision::ConditionFailed(reason),
    }
}

/// Deliveries and counts of one event. A test event makes none.
pub fn route(live: &Live, event: Event) -> Routed {
    let mut to = Vec::new();
    let only = only_to(&event);
    let routes = if event.test { &[][..] } else { &live.hub.routes[..] };
    for route in routes {
        let failed = match decide(route, &event) {
            Decision::NotConcerned | Decision::ConditionFalse => continue,
            Decision::ConditionFailed(reason) => Some(reason),
            Decision::Takes => None,
        };
        let Some(route_id) = live.route_id(&route.name) else { continue };
        let all = destinations(live, route, &event).into_iter();
        for destination in all.filter(|name| only.as_ref().is_none_or(|only| only == name)) {
            let Some(id) = live.destination_id(destination.as_str()) else { continue };
            let ordered = live.destinations.get(&id).is_none_or(|settings| settings.ordered);
            let class = mailspan_core::class_of(&event);
            to.push(Towards { route: route_id, destination: id, class, failed: failed.clone(), ordered });
        }
    }
    let counts = |word| u32::from(!event.test && event.event_type.as_str() == word);
    let (opens, clicks) = (counts("email.opened"), counts("email.clicked"));
    let times = if event.test { LastTimes::default() } else { LastTimes::of(&event) };
    Routed { event, to, opens, clicks, times }
}

/// The route's destinations, and its `notify` one where it is known already that nobody in the CRM can be told;
/// what the CRM finds out is handed on when its delivery settles.
fn destinations(live: &Live, route: &Route, event: &Event) -> Vec<Name> {
    let mut names = route.to.clone();
    if let Some(notify) = &route.notify
        && event.event_type.as_str() == "email.complained"
        && !(has_owner(event) && reaches_crm(live, route))
    {
        names.push(notify.clone());
    }
    names
}

fn has_owner(event: &Event) -> bool {
    json::parse(event.data.get().as_bytes()).is_ok_and(|data| {
        let owner = data.get("correlation").and_then(|correlation| correlation.get("crm_owner"));
        owner.and_then(json::Node::as_str).is_some_and(|owner| owner.contains('@'))
    })
}

fn reaches_crm(live: &Live, route: &Route) -> bool {
    // A system that keeps contacts has no owners who could be told.
    let owners = |kind: &Kind| kind.name != "http" && !kind.sink.as_ref().is_some_and(|sink| sink.audience);
    let crm = |name: &Name| live.hub.destination(name.as_str()).is_some_and(|d| owners(d.kind));
    route.to.iter().any(crm)
}
