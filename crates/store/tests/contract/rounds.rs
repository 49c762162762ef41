//! Rounds: a page with its cursor, who may write one, what a source lists by day.

use mailspan_core::contact::{Change, ContactKey, ContactWrite, Stated, WriteMode};
use mailspan_core::{Address, Digest, Millis, Name, Reason};
use mailspan_engine::Fence;
use mailspan_store::{
    Accepted, Arrived, EventFilter, ListedDay, NameKind, Receipt, RoundMark, RoundRow, Trouble, Write, Wrote,
    round_lease,
};

use crate::harness::{Harness, NOW, accepted, event, receipt};

const DAY_MS: u64 = 86_400_000;

impl Harness {
    pub async fn source(&self) -> i64 {
        let (tenant, name) = (Name::default_tenant(), Name::new("mailtarget"));
        self.store.name(&tenant, NameKind::Source, &name).await.unwrap()
    }

    async fn round(&self, about: i64) -> Option<RoundRow> {
        self.store.rounds().await.unwrap().into_iter().find(|row| row.about == about)
    }

    async fn polled(&self, mark: RoundMark, arrivals: Vec<Arrived>) -> Result<Accepted, Trouble> {
        let round = Some(Box::new(mark));
        match self.store.write(Write::Accept(Box::new(Receipt { round, ..receipt(arrivals) }))).await {
            Err(trouble) => Err(trouble),
            wrote => Ok(accepted(wrote)),
        }
    }

    async fn events(&self) -> usize {
        self.store.events(EventFilter::default()).await.unwrap().len()
    }
}

pub fn mark(about: i64, fence: Fence, cursor: &str) -> RoundMark {
    RoundMark {
        tenant: Name::default_tenant(),
        about,
        fence,
        cursor: cursor.to_owned(),
        due: NOW.plus(900_000),
        failures: 0,
        reason: None,
        paused: None,
        lists: true,
        at: NOW,
        ended: false,
        say: None,
    }
}

/// A row of a list: the contact in this locale, changed `after` milliseconds after now.
fn row(n: u64, after: i64, locale: &str, stated: &[Stated]) -> Arrived {
    let at = Millis(NOW.0 + after);
    let address = Address::parse(&format!("p{n}@list.example")).unwrap();
    let key = ContactKey::Subject { address: Some(address.clone()), external_id: None };
    let mut write = ContactWrite::new(key, WriteMode::Upsert, format!("c{n}-{after}"), at, "core");
    write.found = true;
    write.address = Some(address);
    write.locale = Change::Set(locale.to_owned());
    write.stated = stated.to_vec();
    let id = n * 100_000 + u64::try_from(after).unwrap() % 100_000;
    let mut arrived = event(id, "contact.updated", &format!("p{n}@list.example"));
    arrived.event.time = at;
    let mut digest = [9; 16];
    digest[..8].copy_from_slice(&id.to_le_bytes());
    Arrived { dedupe: Some(Digest(digest)), contact: Some(Box::new(write)), ..arrived }
}

fn listed(day: u64, listed: u64, known: u64) -> ListedDay {
    let day = (NOW.0 / DAY_MS as i64) + day as i64;
    ListedDay { day, event_type: "contact.updated".to_owned(), listed, known }
}

pub async fn a_page_and_its_cursor_are_kept_together_and_only_differences_make_events(hub: Harness) {
    let about = hub.source().await;
    let fence = hub.lease(&round_lease(about)).await;
    assert!(hub.round(about).await.is_none());
    let two = vec![row(1, 10, "de", &[Stated::OptIn(None)]), row(2, 20, "de", &[])];
    let first = hub.polled(mark(about, fence, "one"), two).await.unwrap();
    assert_eq!((first.ids.len(), first.unchanged, first.duplicates), (2, 0, 0));
    let round = hub.round(about).await.unwrap();
    assert_eq!((round.cursor.as_str(), round.ended_at, round.made_at), ("one", None, NOW));
    // The same page again, as after a kill that came before its cursor: nothing is doubled.
    let two = vec![row(1, 10, "de", &[Stated::OptIn(None)]), row(2, 20, "de", &[])];
    let again = hub.polled(mark(about, fence, "one"), two).await.unwrap();
    assert_eq!((again.ids.len(), again.unchanged, again.duplicates), (0, 0, 2));
    // Rows that changed there, and say what is known here; and one that says something else.
    let later = vec![row(1, 30, "de", &[Stated::OptIn(None)]), row(2, 40, "fr", &[])];
    let ended = RoundMark { ended: true, ..mark(about, fence, "two") };
    let later = hub.polled(ended, later).await.unwrap();
    assert_eq!((later.ids.len(), later.unchanged), (1, 1));
    assert_eq!(hub.events().await, 3);
    assert_eq!(hub.round(about).await.unwrap().ended_at, Some(NOW));
    // The next day.
    let next = row(1, DAY_MS as i64 + 5, "de", &[]);
    hub.polled(mark(about, fence, "three"), vec![next]).await.unwrap();
    let days = [listed(1, 1, 1), listed(0, 4, 1)];
    assert_eq!(hub.store.listed(about, 7).await.unwrap(), days);
    assert_eq!(hub.store.listed(about, 1).await.unwrap(), days[..1]);
    let hub = hub.reopened().await;
    assert_eq!(hub.round(about).await.unwrap().cursor, "three");
    assert_eq!(hub.store.listed(about, 7).await.unwrap(), days);
    hub.audit_adds_up().await;
}

pub async fn a_page_under_an_old_fence_is_refused_whole(hub: Harness) {
    let about = hub.source().await;
    let old = hub.lease(&round_lease(about)).await;
    hub.polled(mark(about, old, "one"), vec![]).await.unwrap();
    let (name, later) = (round_lease(about), Millis(i64::MAX));
    hub.store.write(Write::Release { name: name.clone(), owner: 1 }).await.unwrap();
    let take = Write::Lease { name, owner: 2, now: NOW, until: later };
    let Wrote::Lease { fence: Some(new) } = hub.store.write(take).await.unwrap() else { panic!() };
    assert!(new > old);
    let refused = hub.polled(mark(about, old, "two"), vec![row(1, 10, "de", &[])]).await;
    assert_eq!(refused.unwrap_err(), Trouble::FenceLost);
    let noted = hub.store.write(Write::Round(Box::new(mark(about, old, "two")))).await;
    assert_eq!(noted.unwrap_err(), Trouble::FenceLost);
    assert_eq!((hub.round(about).await.unwrap().cursor.as_str(), hub.events().await), ("one", 0));
    assert!(hub.store.listed(about, 7).await.unwrap().is_empty());
    hub.polled(mark(about, new, "two"), vec![row(1, 10, "de", &[])]).await.unwrap();
    assert_eq!((hub.round(about).await.unwrap().cursor.as_str(), hub.events().await), ("two", 1));
}

pub async fn a_round_that_is_paused_goes_on_where_it_was(hub: Harness) {
    let about = hub.source().await;
    let fence = hub.lease(&round_lease(about)).await;
    let why = Reason::new("unauthorized", "the key is not valid");
    let paused = RoundMark {
        failures: 3,
        paused: Some(why.clone()),
        reason: Some(why.text.clone()),
        ..mark(about, fence, "one")
    };
    hub.store.write(Write::Round(Box::new(paused))).await.unwrap();
    let round = hub.round(about).await.unwrap();
    assert_eq!((round.failures, round.paused, round.reason), (3, Some(why.clone()), Some(why.text)));
    let at = NOW.plus(5);
    let now = |about| Write::RoundNow { tenant: Name::default_tenant(), about, at };
    hub.store.write(now(about)).await.unwrap();
    let round = hub.round(about).await.unwrap();
    assert_eq!((round.failures, round.paused, round.reason), (0, None, None));
    assert_eq!((round.cursor.as_str(), round.due), ("one", at));
    // One that has not begun yet.
    let other = hub.destination("crm").await.0;
    hub.store.write(now(other)).await.unwrap();
    let round = hub.round(other).await.unwrap();
    assert_eq!((round.cursor.as_str(), round.due, round.asked_at), ("", at, None));
}

/// A round with what its source listed, beside the rows of `full.rs`.
pub async fn fill(hub: &Harness) {
    let about = hub.source().await;
    let fence = hub.lease(&round_lease(about)).await;
    hub.polled(mark(about, fence, "full"), vec![row(77, 10, "de", &[])]).await.unwrap();
}
