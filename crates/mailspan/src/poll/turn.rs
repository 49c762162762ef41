//! One turn of a poll: pages until the round ends or others are to have their turn.

use std::sync::Arc;

use mailspan_connectors::contract::{Page, Poll, Read};
use mailspan_connectors::signature::digest;
use mailspan_core::limits::{POLL_PAGES_MAX, POLL_TURN_MS_MAX};
use mailspan_core::{Answer, EventId, Millis, Reason};
use mailspan_engine::Fence;
use mailspan_store::{Accepted, Receipt, RoundMark, RoundRow, Trouble, Write, round_lease};
use serde::Serialize;

use super::ask::ask;
use super::next;
use crate::app::App;
use crate::deliver::{sign, start};
use crate::hub::{Asked, Source};
use crate::intake::door::{keep_of, read_contacts};
use crate::intake::receive::arrived_all;
use crate::intake::system;
use crate::runtime;
use crate::telemetry::quiet::quiet;

/// What a turn brought.
#[derive(Debug, Default, Serialize)]
pub struct Turned {
    pub pages: u32,
    /// Events that were made of what was otherwise here.
    pub found: u64,
    /// What was known here already.
    pub known: u64,
    /// What an earlier page had brought, at the overlap of two rounds.
    pub again: u64,
    pub quarantined: u64,
    /// The round has not ended: the next turn goes on.
    pub more: bool,
    /// Why no further page was read.
    pub reason: Option<String>,
    pub paused: bool,
}

/// A source that is polled, and the number of its name.
pub struct Polled<'a> {
    pub source: &'a Arc<Source>,
    pub asked: &'a Asked,
    pub poll: &'a Arc<dyn Poll>,
    pub about: i64,
}

/// Asks page by page; `forced`: though it is not due. [`Trouble::FenceLost`] where another process is at it: what
/// it read was not kept.
pub async fn turn(app: &App, of: &Polled<'_>, owner: u128, forced: bool) -> Result<Turned, Trouble> {
    let began = runtime::instant();
    let fence = start::lease(&app.store, &round_lease(of.about), owner).await?;
    // Read under the lease: another process may just have ended the round.
    let row = app.store.rounds().await?.into_iter().find(|row| row.about == of.about);
    let mut turned = Turned::default();
    if forced || next::wait(row.as_ref(), runtime::now()) == Some(0) {
        let mut at = Place { cursor: String::new(), failures: 0, fence };
        if let Some(RoundRow { cursor, failures, .. }) = row {
            (at.cursor, at.failures) = (cursor, failures);
        }
        while step(app, of, &mut at, &mut turned).await? {
            let spent = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if turned.pages >= POLL_PAGES_MAX || spent >= POLL_TURN_MS_MAX || app.stopping() {
                break;
            }
            runtime::sleep(of.asked.pause_ms).await;
            at.fence = start::lease(&app.store, &round_lease(of.about), owner).await?;
        }
    }
    app.store.write(Write::Release { name: round_lease(of.about), owner }).await?;
    Ok(turned)
}

struct Place {
    cursor: String,
    failures: u32,
    fence: Fence,
}

/// One question and what came of it; true where the next may follow.
async fn step(app: &App, of: &Polled<'_>, at: &mut Place, turned: &mut Turned) -> Result<bool, Trouble> {
    let answer = ask(app, of.source, of.asked, of.poll.ask(&at.cursor)).await;
    let now = runtime::now();
    turned.pages += 1;
    let read = match answer {
        Ok(answer) => {
            let body = digest(&answer.body);
            match read(of, &at.cursor, answer).await {
                Read::Page(page) => return paged(app, of, at, page, body, now, turned).await,
                other => other,
            }
        }
        Err(lost) if lost.refused => Read::Stop { reason: lost.why },
        Err(lost) => Read::Again { cursor: at.cursor.clone(), after_ms: None, reason: lost.why },
    };
    match read {
        // The connector asks otherwise: that is no failure of the vendor's.
        Read::Again { cursor, after_ms: Some(0), reason } if cursor != at.cursor => {
            tracing::debug!(source = %of.source.name, "asked otherwise: {}", quiet(&reason));
            at.cursor = cursor;
            note(app, of, at, now, now, Some(reason.to_string())).await?;
            turned.more = true;
            Ok(true)
        }
        Read::Again { cursor, after_ms, reason } => {
            if app.stopping() {
                return Ok(false);
            }
            at.cursor = cursor;
            at.failures = at.failures.saturating_add(1);
            let due = next::after_failure(now, at.failures, after_ms, runtime::random_u64());
            tracing::warn!(
                source = %of.source.name, failures = at.failures,
                "asked again at {}: {}; see `mailspan sources list`", due.rfc3339(), quiet(&reason)
            );
            turned.reason = Some(reason.to_string());
            turned.more = true;
            note(app, of, at, now, due, turned.reason.clone()).await?;
            Ok(false)
        }
        Read::Stop { reason } => {
            paused(app, of, at, now, reason, turned).await?;
            Ok(false)
        }
        Read::Page(_) => Ok(false),
    }
}

/// On a thread that may compute; what panics must not be asked again and again.
async fn read(of: &Polled<'_>, cursor: &str, answer: Answer) -> Read {
    let (poll, name, cursor) = (of.poll.clone(), of.source.name.clone(), cursor.to_owned());
    let read = runtime::blocking(move || poll.read(&name, &cursor, &answer)).await;
    read.unwrap_or_else(|| Read::Stop {
        reason: Reason::new("panicked", "reading its answer panicked: please report this with the log"),
    })
}

/// Events and cursor in one transaction, through the door of all events.
async fn paged(
    app: &App,
    of: &Polled<'_>,
    at: &mut Place,
    page: Page,
    body: mailspan_core::Digest,
    now: Millis,
    turned: &mut Turned,
) -> Result<bool, Trouble> {
    let source = of.source;
    let mut ids = || EventId::v7(now, runtime::random_u128());
    let (arrivals, unreadable) = arrived_all(source, page.parsed, body, now, &mut ids);
    let due = match page.more {
        true => now,
        false => next::after_round(now, of.poll.every_ms(), runtime::random_u64()),
    };
    at.failures = 0;
    let mark = mark(of, at, page.cursor.clone(), now, due);
    let mut receipt = Receipt {
        tenant: source.tenant.clone(),
        source: source.name.clone(),
        credential: sign::name_of(&of.asked.auth).to_owned(),
        received_at: now,
        digest: body,
        // Each event has its row to the letter; the page would hold those that were known too.
        packed: None,
        arrivals,
        unreadable,
        idempotency: None,
        round: Some(Box::new(RoundMark { ended: !page.more, ..mark })),
        say: Vec::new(),
    };
    read_contacts(app, &mut receipt).await?;
    let (accepted, _) = keep_of(app, source, Box::new(receipt)).await?;
    app.metrics.accepted(&source.name, &accepted);
    turned.add(&accepted);
    at.cursor = page.cursor;
    turned.more = page.more;
    Ok(page.more)
}

impl Turned {
    fn add(&mut self, accepted: &Accepted) {
        self.found += accepted.ids.len() as u64;
        self.known += accepted.unchanged;
        self.again += accepted.duplicates;
        self.quarantined += accepted.quarantined;
    }
}

fn mark(of: &Polled<'_>, at: &Place, cursor: String, now: Millis, due: Millis) -> RoundMark {
    RoundMark {
        tenant: of.source.tenant.clone(),
        about: of.about,
        fence: at.fence,
        cursor,
        due,
        failures: at.failures,
        reason: None,
        paused: None,
        lists: true,
        at: now,
        ended: false,
        say: None,
    }
}

async fn note(
    app: &App,
    of: &Polled<'_>,
    at: &Place,
    now: Millis,
    due: Millis,
    reason: Option<String>,
) -> Result<(), Trouble> {
    let mark = mark(of, at, at.cursor.clone(), now, due);
    app.store.write(Write::Round(Box::new(RoundMark { reason, ..mark }))).await?;
    Ok(())
}

/// Only an operator can help: nothing is asked until `sources poll`.
async fn paused(
    app: &App,
    of: &Polled<'_>,
    at: &mut Place,
    now: Millis,
    reason: Reason,
    turned: &mut Turned,
) -> Result<(), Trouble> {
    let (name, credential) = (&of.source.name, sign::name_of(&of.asked.auth));
    at.failures = at.failures.saturating_add(1);
    tracing::warn!(
        source = %name, credential,
        "not asked any more: {}; see `mailspan sources list`, mend it, then `mailspan sources poll {name}`",
        quiet(&reason)
    );
    let mark = mark(of, at, at.cursor.clone(), now, now);
    let say = system::of_source_paused(&app.live(), &of.source.tenant, name, credential, &reason);
    let mark = RoundMark { reason: Some(reason.to_string()), paused: Some(reason), say, ..mark };
    turned.reason.clone_from(&mark.reason);
    app.store.write(Write::Round(Box::new(mark))).await?;
    app.route_wake.notify_one();
    turned.paused = true;
    Ok(())
}
