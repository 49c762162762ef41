//! The push re-sync of a destination that keeps contacts: those of the tenant that changed since the last push that
//! arrived, page by page in the order of their changes.

use std::sync::Arc;

use mailspan_connectors::signature::digest;
use mailspan_core::contact::{CONTACTS, contact_json};
use mailspan_core::limits::{REPLAY_SCAN_MAX, RESYNC_PAGE_MAX, RESYNC_PENDING_MAX};
use mailspan_core::{
    DeliveryId, DestinationId, Event, EventId, EventType, Millis, Name, RawValue, Reason, State, Subject,
    json,
};
use mailspan_engine::Fence;
use mailspan_store::{
    Arrived, ContactFilter, ContactPage, ContactRow, Receipt, RoundMark, RoundRow, Trouble, Walk, Write,
    round_lease,
};
use serde::{Deserialize, Serialize};

use super::next;
use crate::app::{App, Live};
use crate::deliver::start;
use crate::hub::Destination;
use crate::intake::door::keep;
use crate::runtime;

/// How its events begin: the router sends them to the destination that is named there and to no other.
const MARK: &str = "{\"resync\":";
const TYPE: &str = "contact.updated";
/// While the destination has enough to do, and while the last push is under way.
const BUSY_MS: u64 = 10_000;
const UNDER_WAY_MS: u64 = 10_000;
/// Pages of one turn.
const PAGES_MAX: u32 = 50;

/// A destination with a re-sync, and the number of its name.
pub struct Resynced<'a> {
    pub settings: &'a Arc<Destination>,
    pub id: DestinationId,
    pub every_ms: u64,
}

/// Where a push stands; kept as JSON. One that cannot be read pushes everybody once more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Place {
    v: u8,
    /// Every contact up to this `rev` has arrived.
    confirmed: i64,
    /// Up to this one it was queued.
    queued: i64,
    /// The last delivery there was when this push began; nothing between two of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<i64>,
    /// A push was queued to its end, and waits to be confirmed.
    ended: bool,
}

const VERSION: u8 = 1;

impl Place {
    fn read(text: &str) -> Place {
        let read: Option<Place> = serde_json::from_str(text).ok();
        read.filter(|place| place.v == VERSION).unwrap_or(Place { v: VERSION, ..Place::default() })
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The destination that a re-sync's event is for; nothing of any other event.
pub fn only_to(event: &Event) -> Option<Name> {
    if event.source.as_str() != CONTACTS || !event.data.get().starts_with(MARK) {
        return None;
    }
    let data = json::parse(event.data.get().as_bytes()).ok()?;
    Some(Name::new(data.get("resync")?.as_str()?))
}

/// Some pages; [`Trouble::FenceLost`] where another process is at it.
pub async fn turn(app: &App, of: &Resynced<'_>, owner: u128) -> Result<(), Trouble> {
    let fence = start::lease(&app.store, &round_lease(of.id.0), owner).await?;
    let row = app.store.rounds().await?.into_iter().find(|row| row.about == of.id.0);
    if next::wait(row.as_ref(), runtime::now()) == Some(0) {
        let cursor = row.as_ref().map_or("", |row: &RoundRow| row.cursor.as_str());
        let mut place = Place::read(cursor);
        for _ in 0..PAGES_MAX {
            if app.stopping() || !page(app, of, &mut place, fence).await? {
                break;
            }
        }
    }
    app.store.write(Write::Release { name: round_lease(of.id.0), owner }).await?;
    Ok(())
}

/// One page; true where the next may follow.
async fn page(app: &App, of: &Resynced<'_>, place: &mut Place, fence: Fence) -> Result<bool, Trouble> {
    let now = runtime::now();
    if !is_reached(&app.live(), of) {
        let text = format!(
            "no route takes {TYPE} of the hub's own source `{CONTACTS}` to `{}`: write one",
            of.settings.name
        );
        note(app, of, place, fence, (now, now.plus(of.every_ms)), Some(text)).await?;
        return Ok(false);
    }
    let after = match place.after {
        Some(after) if !place.ended => after,
        last => match begin(app, of, place, last, fence, now).await? {
            Some(after) => after,
            None => return Ok(false),
        },
    };
    place.after = Some(after);
    let pending = app.store.standing(of.id).await?.map_or(0, |row| row.pending);
    if pending >= RESYNC_PENDING_MAX {
        note(app, of, place, fence, (now, now.plus(BUSY_MS)), None).await?;
        return Ok(false);
    }
    let filter = ContactFilter { tenant: Some(of.settings.tenant.clone()), ..ContactFilter::default() };
    let part = ContactPage::After { rev: place.queued, limit: RESYNC_PAGE_MAX };
    let list = app.store.contacts(filter, part).await?;
    place.queued = list.rev;
    place.ended = !list.more;
    let due = match list.more {
        true => now,
        false => next::after_round(now, of.every_ms, runtime::random_u64()),
    };
    let mark = RoundMark { ended: place.ended, ..mark(of, place, fence, now, due) };
    keep(app, Box::new(receipt(of, &list.rows, mark, now))).await?;
    Ok(list.more)
}

/// A push begins behind the last one that arrived as a whole. Nothing while the last one is under way.
async fn begin(
    app: &App,
    of: &Resynced<'_>,
    place: &mut Place,
    last: Option<i64>,
    fence: Fence,
    now: Millis,
) -> Result<Option<i64>, Trouble> {
    let (_, newest) = app.store.delivery_span().await?;
    if let Some(last) = last {
        match unsettled(app, of, DeliveryId(last), newest).await? {
            Some(State::Pending) => {
                let text = "the last push is still under way".to_owned();
                note(app, of, place, fence, (now, now.plus(UNDER_WAY_MS)), Some(text)).await?;
                return Ok(None);
            }
            // Somebody was not reached: all since then are told again.
            Some(_) => place.queued = place.confirmed,
            None => place.confirmed = place.queued,
        }
    }
    place.ended = false;
    Ok(Some(newest.0))
}

/// Whether a contact that was told since then has not arrived: pending first, else dead.
async fn unsettled(
    app: &App,
    of: &Resynced<'_>,
    after: DeliveryId,
    to: DeliveryId,
) -> Result<Option<State>, Trouble> {
    let mut walk = Walk {
        tenant: of.settings.tenant.clone(),
        destination: of.id,
        states: vec![State::Pending, State::Dead],
        route: None,
        event_type: Some("contact.*".to_owned()),
        subject: None,
        reason: None,
        since: None,
        until: None,
        after,
        to,
        limit: REPLAY_SCAN_MAX,
    };
    let mut found = None;
    while walk.after < to {
        let page = app.store.walk(walk.clone()).await?;
        if page.rows.iter().any(|row| row.state == State::Pending) {
            return Ok(Some(State::Pending));
        }
        found = page.rows.first().map(|row| row.state).or(found);
        walk.after = page.after;
    }
    Ok(found)
}

fn is_reached(live: &Live, of: &Resynced<'_>) -> bool {
    let (source, event_type) = (Name::new(CONTACTS), EventType::known(TYPE));
    let leads = |route: &Arc<crate::hub::Route>| {
        route.takes(&of.settings.tenant, &source, &event_type) && route.to.contains(&of.settings.name)
    };
    live.hub.routes.iter().any(leads)
}

fn receipt(of: &Resynced<'_>, rows: &[ContactRow], mark: RoundMark, now: Millis) -> Receipt {
    let to = &of.settings.name;
    let arrivals = (0_u32..).zip(rows).map(|(part, row)| arrived(to, part, row, now)).collect();
    Receipt { round: Some(Box::new(mark)), ..told(&of.settings.tenant, arrivals, now) }
}

/// Tells destinations of contacts once more, by events that go to them alone.
pub fn told(tenant: &Name, arrivals: Vec<Arrived>, now: Millis) -> Receipt {
    Receipt {
        tenant: tenant.clone(),
        source: Name::new(CONTACTS),
        credential: "resync".to_owned(),
        received_at: now,
        digest: digest(&[]),
        packed: None,
        arrivals,
        unreadable: Vec::new(),
        idempotency: None,
        round: None,
        say: Vec::new(),
    }
}

/// The whole contact at the time of its last change, for one destination: newer consent of the person voids what it
/// says.
pub fn arrived(to: &Name, part: u32, row: &ContactRow, now: Millis) -> Arrived {
    let contact = &row.contact;
    let text = format!(
        "{MARK}{},\"contact\":{},\"origin\":\"resync\"}}",
        json::quote(to.as_str()),
        contact_json(contact)
    );
    let event = Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: row.tenant.clone(),
        source: Name::new(CONTACTS),
        event_type: EventType::known(TYPE),
        subject: Subject { address: contact.address.clone(), external_id: contact.external_id.clone() },
        time: contact.updated_at,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()).into(),
    };
    Arrived { event, part, dedupe: None, contact: None }
}

fn mark(of: &Resynced<'_>, place: &Place, fence: Fence, now: Millis, due: Millis) -> RoundMark {
    RoundMark {
        tenant: of.settings.tenant.clone(),
        about: of.id.0,
        fence,
        cursor: place.text(),
        due,
        failures: 0,
        reason: None,
        paused: None::<Reason>,
        lists: false,
        at: now,
        ended: false,
        say: None,
    }
}

async fn note(
    app: &App,
    of: &Resynced<'_>,
    place: &Place,
    fence: Fence,
    (now, due): (Millis, Millis),
    reason: Option<String>,
) -> Result<(), Trouble> {
    let mark = RoundMark { reason, ..mark(of, place, fence, now, due) };
    app.store.write(Write::Round(Box::new(mark))).await?;
    Ok(())
}
