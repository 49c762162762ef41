//! What a provider's log of a transmission says against what arrived here. Pure.

use std::collections::{HashMap, VecDeque};

use mailspan_connectors::contract::Arrival;
use mailspan_core::{Event, json};
use serde::Serialize;

/// Not compared: that it was sent is what the sender knows, and webhooks of single events do not tell it.
const NOT_TOLD: &str = "email.sent";
/// What a log keeps (`mailtarget` sheet, 2.7): that others are missing there says nothing.
const LOGGED: [&str; 4] = ["email.delivered", "email.opened", "email.clicked", "email.bounced"];

/// A difference between the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub what: What,
    pub recipient: String,
    /// There, or here where it is missing there.
    #[serde(rename = "type")]
    pub event_type: String,
    pub at: Option<String>,
    /// Where both have it: the type here.
    pub here_type: Option<String>,
    pub event_id: Option<String>,
    /// Of a delivery that failed: its id, destination and reason.
    pub delivery: Option<String>,
    pub destination: Option<String>,
    pub reason: Option<String>,
    /// Position among what the provider lists, of what is missing here.
    #[serde(skip)]
    pub part: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    MissingHere,
    MissingThere,
    DifferentType,
    FailedDelivery,
}

#[derive(Debug, Default)]
pub struct Compared {
    pub agreed: usize,
    pub not_compared: usize,
    pub differences: Vec<Difference>,
}

/// One happening, as both sides can be compared: the recipient, the second and, of a click, the URL.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    recipient: String,
    second: Option<i64>,
}

/// What is kept, each to be taken once; found by what it is, and by its place alone.
struct Kept<'a> {
    all: Vec<Here<'a>>,
    same: HashMap<(Place, &'a str, Option<String>), VecDeque<usize>>,
    near: HashMap<Place, VecDeque<usize>>,
}

struct Here<'a> {
    event: &'a Event,
    place: Place,
    taken: bool,
}

impl<'a> Kept<'a> {
    fn new(here: &'a [Event]) -> Kept<'a> {
        let mut kept = Kept { all: Vec::new(), same: HashMap::new(), near: HashMap::new() };
        for (at, event) in here.iter().filter(|event| !event.test).enumerate() {
            let (place, url) = (place_here(event), url_of(event.data.get()));
            let same = (place.clone(), event.event_type.as_str(), url);
            kept.same.entry(same).or_default().push_back(at);
            kept.near.entry(place.clone()).or_default().push_back(at);
            kept.all.push(Here { event, place, taken: false });
        }
        kept
    }

    /// One of the same type at this place, which leads where the other does.
    fn take_same(&mut self, place: &Place, event_type: &'a str, url: Option<String>) -> bool {
        let found = self.same.get_mut(&(place.clone(), event_type, url)).and_then(VecDeque::pop_front);
        if let Some(at) = found {
            self.all[at].taken = true;
        }
        found.is_some()
    }

    /// Any that is left at this place.
    fn take_near(&mut self, place: &Place) -> Option<&'a Event> {
        let near = self.near.get_mut(place)?;
        while let Some(at) = near.pop_front() {
            let one = &mut self.all[at];
            if !one.taken {
                one.taken = true;
                return Some(one.event);
            }
        }
        None
    }
}

/// `there`: what the log lists; `here`: the events of the transmission that are kept. As long as both are.
pub fn compare<'a>(there: &'a [Arrival], here: &'a [Event]) -> Compared {
    let mut compared = Compared::default();
    let mut kept = Kept::new(here);
    let mut left = Vec::new();
    for arrival in there {
        if arrival.event_type.as_str() == NOT_TOLD {
            compared.not_compared += 1;
            continue;
        }
        let (place, url) = (place_of(arrival), url_of(arrival.data.get()));
        match kept.take_same(&place, arrival.event_type.as_str(), url) {
            true => compared.agreed += 1,
            false => left.push((arrival, place)),
        }
    }
    for (arrival, place) in left {
        let here_event = kept.take_near(&place);
        let (what, part) = match here_event {
            Some(_) => (What::DifferentType, None),
            None => (What::MissingHere, Some(arrival.part)),
        };
        let at = arrival.time.map(|at| at.iso());
        let base = difference(what, place.recipient, arrival.event_type.as_str(), at);
        compared.differences.push(Difference {
            here_type: here_event.map(|event| event.event_type.as_str().to_owned()),
            event_id: here_event.map(|event| event.id.to_string()),
            part,
            ..base
        });
    }
    for one in kept.all.into_iter().filter(|one| !one.taken) {
        if !LOGGED.contains(&one.event.event_type.as_str()) {
            compared.not_compared += 1;
            continue;
        }
        let (event, at) = (one.event, Some(one.event.time.iso()));
        let base = difference(What::MissingThere, one.place.recipient, event.event_type.as_str(), at);
        compared.differences.push(Difference { event_id: Some(event.id.to_string()), ..base });
    }
    compared
}

pub fn difference(what: What, recipient: String, event_type: &str, at: Option<String>) -> Difference {
    Difference {
        what,
        recipient,
        event_type: event_type.to_owned(),
        at,
        here_type: None,
        event_id: None,
        delivery: None,
        destination: None,
        reason: None,
        part: None,
    }
}

fn place_of(arrival: &Arrival) -> Place {
    let recipient = arrival.subject.address.as_ref().map(|address| address.key()).unwrap_or_default();
    Place { recipient, second: arrival.time.map(|at| at.0.div_euclid(1_000)) }
}

fn place_here(event: &Event) -> Place {
    let recipient = event.subject.address.as_ref().map(|address| address.key()).unwrap_or_default();
    Place { recipient, second: Some(event.time.0.div_euclid(1_000)) }
}

/// `data.url`, where it is there.
fn url_of(data: &str) -> Option<String> {
    let data = json::parse(data.as_bytes()).ok()?;
    Some(data.get("url")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_connectors::contract::Dedupe;
    use mailspan_core::{EventId, EventType, Millis, Name, RawValue, Subject};

    fn data(url: &str) -> Box<RawValue> {
        let text = if url.is_empty() { "{}".to_owned() } else { format!("{{\"url\":\"{url}\"}}") };
        RawValue::from_string(text).unwrap()
    }

    fn there((event_type, who, at, url): (&'static str, &str, i64, &str)) -> Arrival {
        Arrival {
            part: 7,
            event_type: EventType::known(event_type),
            subject: Subject::read(who),
            time: Some(Millis(at)),
            data: data(url),
            test: false,
            transmission: Some("t".to_owned()),
            recipient_role: None,
            extensions: None,
            dedupe: Dedupe::Never,
        }
    }

    fn here((event_type, who, at, url): (&'static str, &str, i64, &str)) -> Event {
        Event {
            seq: None,
            id: EventId(9),
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            event_type: EventType::known(event_type),
            subject: Subject::read(who),
            time: Millis(at),
            received_at: Millis(at),
            test: false,
            transmission: Some("t".to_owned()),
            recipient_role: None,
            extensions: None,
            data: data(url).into(),
        }
    }

    type One = (&'static str, &'static str, i64, &'static str);

    fn check(log: &[One], kept: &[One], agreed: usize, expected: &[(What, &str)]) {
        let log: Vec<Arrival> = log.iter().copied().map(there).collect();
        let kept: Vec<Event> = kept.iter().copied().map(here).collect();
        let compared = compare(&log, &kept);
        let found: Vec<(What, &str)> =
            compared.differences.iter().map(|one| (one.what, one.event_type.as_str())).collect();
        assert_eq!((compared.agreed, found), (agreed, expected.to_vec()));
    }

    #[test]
    fn each_difference_is_named_once() {
        let (open, click) = ("email.opened", "email.clicked");
        check(&[(open, "a@b.co", 5_000, "")], &[(open, "A@b.co", 5_900, "")], 1, &[]);
        check(&[(open, "a@b.co", 5_000, "")], &[], 0, &[(What::MissingHere, open)]);
        check(&[], &[(open, "a@b.co", 5_000, "")], 0, &[(What::MissingThere, open)]);
        check(
            &[(open, "a@b.co", 5_000, "")],
            &[(open, "c@b.co", 5_000, "")],
            0,
            &[(What::MissingHere, open), (What::MissingThere, open)],
        );
        check(
            &[("email.bounced", "a@b.co", 5_000, "")],
            &[("email.delivered", "a@b.co", 5_000, "")],
            0,
            &[(What::DifferentType, "email.bounced")],
        );
        // Two clicks within a second, told apart by where they lead.
        check(
            &[(click, "a@b.co", 5_000, "x"), (click, "a@b.co", 5_000, "y")],
            &[(click, "a@b.co", 5_100, "y"), (click, "a@b.co", 5_200, "x")],
            2,
            &[],
        );
        // An open twice in one second is two.
        check(
            &[(open, "a@b.co", 5_000, ""), (open, "a@b.co", 5_000, "")],
            &[(open, "a@b.co", 5_000, "")],
            1,
            &[(What::MissingHere, open)],
        );
        check(
            &[("email.sent", "a@b.co", 5_000, "")],
            &[("contact.unsubscribed", "a@b.co", 5_000, "")],
            0,
            &[],
        );
    }
}
