//! Jobs of kind `replay` and `discard`: a walk over deliveries that opens them again, gives them up, or
//! only counts them. One page is one transaction with its cursor, so a job goes on where it stood.

use std::collections::BTreeMap;

use mailspan_core::limits::{JOB_GROUPS_MAX, REPLAY_PAGE_MAX, REPLAYS_PENDING_MAX};
use mailspan_core::{Cause, Class, DeliveryId, DestinationId, Millis, Name, Offer, State};
use mailspan_engine::{Fence, Happened};
use mailspan_store::{
    JobRow, JobState, Page, PageItem, PageWork, Trouble, Walk, Walked, WalkedRow, Write, Wrote,
};
use serde::{Deserialize, Serialize};

use crate::app::{App, Live};
use crate::intake::system;
use crate::runtime;

pub const REPLAY: &str = "replay";
pub const DISCARD: &str = "discard";

/// What was asked for, as the job's row keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Argument {
    /// Walked one after the other, so that one that is full does not hold up the rest.
    pub destinations: Vec<Name>,
    pub states: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Name>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Do again what is done.
    pub again: bool,
    pub dry_run: bool,
    /// Of a discard.
    pub note: String,
    /// The deliveries there were when it was asked for: later ones are not part of it.
    pub first: i64,
    pub last: i64,
    pub asked_at: Millis,
    pub asked_by: String,
}

/// How far it got.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// The last delivery looked at, for each destination of the argument.
    pub after: Vec<i64>,
    pub matched: u64,
    /// Matched, but their route is not in the configuration: left as they are.
    pub without_route: u64,
    /// Destinations that left the configuration meanwhile.
    pub gone: Vec<Name>,
    /// How many matched, by destination, state and reason.
    pub groups: BTreeMap<String, u64>,
}

/// The group of what is beyond [`JOB_GROUPS_MAX`].
const OTHERS: &str = "others//";

impl Cursor {
    pub fn read(job: &JobRow, argument: &Argument) -> Option<Cursor> {
        let begin =
            || Cursor { after: vec![argument.first - 1; argument.destinations.len()], ..Cursor::default() };
        let Some(text) = &job.cursor else { return Some(begin()) };
        let cursor: Cursor = serde_json::from_str(text).ok()?;
        (cursor.after.len() == argument.destinations.len()).then_some(cursor)
    }

    /// Of the ids to walk, those behind us.
    pub fn percent(&self, argument: &Argument) -> u64 {
        let each = u64::try_from(argument.last - argument.first + 1).unwrap_or(0);
        let all = each.saturating_mul(self.after.len() as u64);
        let walked = |after: &i64| u64::try_from(after - argument.first + 1).unwrap_or(0);
        let behind: u64 = self.after.iter().map(walked).sum();
        (behind.min(all) * 100).checked_div(all).unwrap_or(100)
    }

    fn count(&mut self, destination: &Name, row: &WalkedRow) {
        let reason = row.reason.as_deref().unwrap_or_default();
        let group = format!("{destination}/{}/{reason}", row.state.name());
        let known = self.groups.len() < JOB_GROUPS_MAX || self.groups.contains_key(&group);
        *self.groups.entry(if known { group } else { OTHERS.to_owned() }).or_default() += 1;
    }

    /// What the end should say beside the numbers.
    fn remark(&self) -> String {
        let mut remarks = Vec::new();
        if self.without_route > 0 {
            remarks.push(format!(
                "{} were left: their route is not in the configuration, put it back and replay",
                self.without_route
            ));
        }
        if !self.gone.is_empty() {
            let names: Vec<&str> = self.gone.iter().map(Name::as_str).collect();
            remarks.push(format!("not in the configuration any more: {}", names.join(", ")));
        }
        remarks.join("; ")
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    Page,
    /// Each destination that is left has as many replays pending as it may.
    Waits,
    Ended,
}

/// One page.
pub async fn step(app: &App, job: &JobRow, fence: Fence) -> Result<Stepped, Trouble> {
    let argument: Option<Argument> = serde_json::from_str(&job.argument).ok();
    let read = argument.and_then(|argument| Some((Cursor::read(job, &argument)?, argument)));
    let Some((mut cursor, argument)) = read else {
        let note = "its row cannot be read: it was written by another version; ask for it anew".to_owned();
        return write(app, job, fence, &Cursor::default(), Some((JobState::Failed, note)), nothing()).await;
    };
    let live = app.live();
    let work = match next(app, &live, job, &argument, &cursor).await? {
        Next::Nothing => nothing(),
        Next::Full => return Ok(Stepped::Waits),
        Next::Gone(at) => {
            cursor.after[at] = argument.last;
            cursor.gone.push(argument.destinations[at].clone());
            nothing()
        }
        Next::Walk { at, destination, room } => {
            let after = DeliveryId(cursor.after[at]);
            let walked = app.store.walk(walk(job, &argument, &live, destination, after, room)).await?;
            cursor.after[at] = walked.after.0;
            take(&live, job, &argument, &mut cursor, at, walked, destination)
        }
    };
    let has_ended = cursor.after.iter().all(|after| *after >= argument.last);
    let end = has_ended.then(|| (JobState::Done, cursor.remark()));
    write(app, job, fence, &cursor, end, work).await
}

fn nothing() -> PageWork {
    PageWork::Count { matched: 0 }
}

enum Next {
    Walk { at: usize, destination: DestinationId, room: usize },
    Gone(usize),
    Full,
    Nothing,
}

/// The destination that is furthest behind and has room.
async fn next(
    app: &App,
    live: &Live,
    job: &JobRow,
    argument: &Argument,
    cursor: &Cursor,
) -> Result<Next, Trouble> {
    let mut open: Vec<usize> =
        (0..cursor.after.len()).filter(|at| cursor.after[*at] < argument.last).collect();
    open.sort_by_key(|at| cursor.after[*at]);
    let is_throttled = job.kind == REPLAY && !argument.dry_run;
    for at in &open {
        let name = &argument.destinations[*at];
        let Some(destination) = (match live.destination_id(name.as_str()) {
            None if job.kind == DISCARD => left_over(app, job, name).await?,
            known => known,
        }) else {
            return Ok(Next::Gone(*at));
        };
        let pending = if is_throttled { app.store.replays_pending(destination).await? } else { 0 };
        let room = REPLAYS_PENDING_MAX.saturating_sub(pending).min(REPLAY_PAGE_MAX);
        if room > 0 {
            return Ok(Next::Walk { at: *at, destination, room });
        }
    }
    Ok(if open.is_empty() { Next::Nothing } else { Next::Full })
}

/// Of a destination that is not in the configuration any more what is left can be given up.
async fn left_over(app: &App, job: &JobRow, name: &Name) -> Result<Option<DestinationId>, Trouble> {
    let rows = app.store.destinations(Some(job.tenant.clone())).await?;
    Ok(rows.into_iter().find(|row| row.name == *name).map(|row| row.destination))
}

fn walk(
    job: &JobRow,
    argument: &Argument,
    live: &Live,
    destination: DestinationId,
    after: DeliveryId,
    limit: usize,
) -> Walk {
    let states = argument.states.iter().filter_map(|name| State::from_name(name)).collect();
    Walk {
        tenant: job.tenant.clone(),
        destination,
        states,
        // A route that left meanwhile matches nothing.
        route: argument.route.as_ref().map(|name| live.route_id(name).unwrap_or(mailspan_core::RouteId(-1))),
        event_type: argument.event_type.clone(),
        subject: argument.subject.clone(),
        reason: argument.reason.clone(),
        since: argument.since,
        until: argument.until,
        after,
        to: DeliveryId(argument.last),
        limit,
    }
}

/// What is done with the rows of a page.
fn take(
    live: &Live,
    job: &JobRow,
    argument: &Argument,
    cursor: &mut Cursor,
    at: usize,
    walked: Walked,
    destination: DestinationId,
) -> PageWork {
    let mut rows = Vec::with_capacity(walked.rows.len());
    for row in walked.rows {
        cursor.matched += 1;
        cursor.count(&argument.destinations[at], &row);
        match job.kind == DISCARD || live.routes.contains_key(&row.offer.route) {
            true => rows.push(row),
            false => cursor.without_route += 1,
        }
    }
    if argument.dry_run {
        return PageWork::Count { matched: rows.len() as u64 };
    }
    if job.kind == DISCARD {
        let deliveries = rows.into_iter().map(|row| row.delivery).collect();
        let unserved = Some(destination).filter(|id| !live.destinations.contains_key(id));
        return PageWork::Discard { deliveries, unserved, note: argument.note.clone() };
    }
    let ordered = |to: &DestinationId| live.destinations.get(to).is_none_or(|settings| settings.ordered);
    let item = |row: WalkedRow| {
        let ordered = row.offer.class == Class::Consent || ordered(&row.offer.destination);
        PageItem { offer: Offer { cause: Cause::Replay, ordered, ..row.offer }, state: row.state }
    };
    PageWork::Offer { items: rows.into_iter().map(item).collect(), again: argument.again }
}

async fn write(
    app: &App,
    job: &JobRow,
    fence: Fence,
    cursor: &Cursor,
    end: Option<(JobState, String)>,
    work: PageWork,
) -> Result<Stepped, Trouble> {
    let text = serde_json::to_string(cursor)
        .map_err(|error| Trouble::Broken(format!("a cursor cannot be written: {error}")))?;
    let has_ended = end.is_some();
    let total = has_ended.then_some(cursor.matched);
    let say = system::of_job(&app.live(), &job.tenant).filter(|_| has_ended);
    let page = Page { job: job.id, fence, at: runtime::now(), cursor: text, total, end, work, say };
    if let Wrote::Paged { destinations, .. } = app.store.write(Write::Page(Box::new(page))).await? {
        for destination in destinations {
            app.tell(Happened::Offered { destination }).await;
        }
        app.has_moved();
    }
    if has_ended {
        tracing::info!(job = job.id, kind = job.kind, matched = cursor.matched, "job ended");
        app.route_wake.notify_one();
        return Ok(Stepped::Ended);
    }
    Ok(Stepped::Page)
}

/// Destinations that are not done and have as many replays pending as they may.
pub async fn full(
    app: &App,
    job: &JobRow,
    argument: &Argument,
    cursor: &Cursor,
) -> Result<Vec<Name>, Trouble> {
    let live = app.live();
    let mut names = Vec::new();
    if job.kind != REPLAY || argument.dry_run || job.state != JobState::Running {
        return Ok(names);
    }
    for (name, after) in argument.destinations.iter().zip(&cursor.after) {
        let Some(id) = live.destination_id(name.as_str()).filter(|_| *after < argument.last) else {
            continue;
        };
        if app.store.replays_pending(id).await? >= REPLAYS_PENDING_MAX {
            names.push(name.clone());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{RouteId, Seq};

    fn argument(first: i64, last: i64) -> Argument {
        Argument {
            destinations: vec![Name::new("crm"), Name::new("erp")],
            states: vec!["dead".to_owned()],
            route: None,
            event_type: None,
            subject: None,
            reason: None,
            since: None,
            until: None,
            again: false,
            dry_run: false,
            note: String::new(),
            first,
            last,
            asked_at: Millis(0),
            asked_by: "socket".to_owned(),
        }
    }

    fn row(reason: String) -> WalkedRow {
        let offer = Offer {
            event: Seq(1),
            route: RouteId(1),
            destination: DestinationId(1),
            class: Class::Activity,
            cause: Cause::Replay,
            ordered: true,
        };
        WalkedRow { delivery: DeliveryId(1), offer, state: State::Dead, reason: Some(reason) }
    }

    #[test]
    fn progress_is_of_the_ids_to_walk() {
        let check = |(first, last), after: [i64; 2], expected| {
            let cursor = Cursor { after: after.into(), ..Cursor::default() };
            assert_eq!(cursor.percent(&argument(first, last)), expected, "{after:?} of {first} to {last}");
        };
        check((1, 100), [0, 0], 0);
        check((1, 100), [100, 0], 50);
        check((1, 100), [100, 100], 100);
        check((901, 1_000), [900, 925], 12);
        check((0, 0), [0, 0], 100);
        check((0, 0), [-1, -1], 0);
    }

    #[test]
    fn groups_are_bounded_and_nothing_goes_uncounted() {
        let (mut cursor, crm) = (Cursor::default(), Name::new("crm"));
        for n in 0..2 * JOB_GROUPS_MAX {
            cursor.count(&crm, &row(format!("reason/{n}")));
            cursor.count(&crm, &row("reason/0".to_owned()));
        }
        assert_eq!(cursor.groups.len(), JOB_GROUPS_MAX + 1);
        assert_eq!(cursor.groups["crm/dead/reason/0"], 2 * JOB_GROUPS_MAX as u64 + 1);
        assert_eq!(cursor.groups.values().sum::<u64>(), 4 * JOB_GROUPS_MAX as u64);
    }

    #[test]
    fn a_row_of_another_version_is_not_guessed_at() {
        let mut job = JobRow {
            id: 1,
            tenant: Name::default_tenant(),
            kind: REPLAY.to_owned(),
            argument: String::new(),
            cursor: None,
            done: 0,
            total: None,
            state: JobState::Running,
            note: None,
        };
        assert_eq!(Cursor::read(&job, &argument(5, 9)).unwrap().after, [4, 4]);
        for text in ["", "{}", "{\"after\":[1]}"] {
            job.cursor = Some(text.to_owned());
            assert!(Cursor::read(&job, &argument(5, 9)).is_none(), "{text}");
        }
    }
}
