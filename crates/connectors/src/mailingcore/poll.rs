//! What the webhooks never told: `GET /contacts?updatedSince=…`, page by page (vendor page
//! newsletter/contacts-overview). A round begins a little before the end of the last one; the same row read
//! twice is one event.

use std::sync::Arc;

use mailspan_core::json::{self, Node, Value};
use mailspan_core::limits::POLL_ROWS_MAX;
use mailspan_core::{Answer, EventType, Millis, Name, Reason, Request, Subject};
use serde::{Deserialize, Serialize};

use super::answer::{Fault, wait};
use super::settings::SourceSettings;
use super::{contact, write};
use crate::contract::{Arrival, BadSetting, Dedupe, Page, Parsed, Poll, Read, by_status, settings};
use crate::percent::percent;
use crate::reading::{self, word};

const EVERY_MS: u64 = 900_000;
const OVERLAP_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;

pub fn build(value: &serde_json::Value) -> Result<Arc<dyn Poll>, BadSetting> {
    let settings: SourceSettings = settings(value)?;
    settings.check()?;
    Ok(Arc::new(Contacts {
        every_ms: settings.poll.every.map_or(EVERY_MS, |span| span.ms),
        overlap_ms: settings.poll.overlap.map_or(OVERLAP_MS, |span| span.ms),
        page: settings.poll.page.unwrap_or(POLL_ROWS_MAX),
        tenant_id: settings.tenant_id,
    }))
}

struct Contacts {
    every_ms: u64,
    overlap_ms: u64,
    page: u32,
    tenant_id: Option<String>,
}

/// Where a round stands; kept as JSON. One that cannot be read begins anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    v: u8,
    /// Changes at this time and later are read in this round.
    since: i64,
    /// MailingCore's own cursor, or the number of the page where it gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    /// The first row of the last page: pages that are counted end where it comes again.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    /// MailingCore's clock when the round began, and the latest change that was seen in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    began: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<i64>,
    /// A smaller page than configured: the last answer was too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u32>,
}

const VERSION: u8 = 1;

impl Mark {
    fn read(text: &str) -> Mark {
        let read: Option<Mark> = serde_json::from_str(text).ok();
        read.filter(|mark| mark.v == VERSION).unwrap_or(Mark { v: VERSION, ..Mark::default() })
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The first page of the same round.
    fn restarted(&self) -> Mark {
        Mark { v: VERSION, since: self.since, rows: self.rows, ..Mark::default() }
    }
}

impl Poll for Contacts {
    fn every_ms(&self) -> u64 {
        self.every_ms
    }

    fn ask(&self, cursor: &str) -> Request {
        let mark = Mark::read(cursor);
        let since = percent(&instant(mark.since));
        let rows = self.rows(&mark);
        let place = match (&mark.cursor, mark.number) {
            (_, Some(number)) => format!("page={number}"),
            (cursor, None) => format!("cursor={}", percent(cursor.as_deref().unwrap_or_default())),
        };
        let mut request = write::get(format!("/contacts?updatedSince={since}&{place}&limit={rows}"));
        write::add_tenant(self.tenant_id.as_deref(), &mut request);
        request
    }

    fn read(&self, source: &Name, cursor: &str, answer: &Answer) -> Read {
        let mark = Mark::read(cursor);
        if !(200..300).contains(&answer.status) {
            return refused(&mark, answer);
        }
        if answer.cut {
            return self.too_large(&mark);
        }
        let again = |text: String| Read::Again {
            cursor: mark.text(),
            after_ms: None,
            reason: Reason::new("bad_answer", text),
        };
        let root = match json::parse(&answer.body) {
            Ok(root) => root,
            Err(error) => return again(format!("the answer is no list of contacts: {error}")),
        };
        let Some(rows) = rows(&root) else {
            return again("the answer is no list of contacts: it has no \"data\" or \"items\"".to_owned());
        };
        if rows.len() * 2 > mailspan_core::limits::EVENTS_PER_REQUEST_MAX {
            return again(format!(
                "a page of {} contacts, {POLL_ROWS_MAX} at most were asked for",
                rows.len()
            ));
        }
        Read::Page(self.page(source, mark, &root, rows, answer))
    }
}

impl Contacts {
    fn rows(&self, mark: &Mark) -> u32 {
        mark.rows.unwrap_or(self.page).clamp(1, self.page)
    }

    fn page(&self, source: &Name, mut mark: Mark, root: &Node, rows: &[Node], answer: &Answer) -> Page {
        let mut parsed = Parsed::default();
        for (part, row) in rows.iter().enumerate() {
            match events(row, part, source) {
                Ok(arrivals) => parsed.arrivals.extend(arrivals),
                Err(text) => parsed.unreadable.push(reading::unreadable(part, "bad_contact", text, row)),
            }
            let changed = row.get("updatedAt").and_then(reading::time).map(|at| at.0);
            mark.newest = mark.newest.max(changed);
        }
        mark.began = mark.began.or_else(|| date(answer));
        let full = rows.len() >= self.rows(&mark) as usize;
        let first = rows.first().map(digest);
        let repeated = mark.number.is_some() && mark.first == first;
        mark.first = first;
        let more = !rows.is_empty() && !repeated && go_on(&mut mark, root, full);
        let mark = if more { mark } else { self.next_round(&mark) };
        Page { parsed, cursor: mark.text(), more }
    }

    /// From the time when this round began by MailingCore's clock, else from the latest change that was seen.
    fn next_round(&self, mark: &Mark) -> Mark {
        let overlap = i64::try_from(self.overlap_ms).unwrap_or(i64::MAX);
        let end = mark.began.or(mark.newest).map_or(mark.since, |end| end.saturating_sub(overlap));
        Mark { v: VERSION, since: end.max(mark.since), ..Mark::default() }
    }

    /// Half the page, from the same place; numbers of pages begin anew.
    fn too_large(&self, mark: &Mark) -> Read {
        let rows = self.rows(mark);
        if rows == 1 {
            let text = "one contact alone is larger than what is read of an answer";
            return Read::Stop { reason: Reason::new("too_large", text) };
        }
        let mut smaller = Mark { rows: Some(rows / 2), ..mark.clone() };
        if smaller.number.is_some() {
            smaller = smaller.restarted();
        }
        let text = format!("a page of {rows} contacts is too large: {} are asked for", rows / 2);
        Read::Again { cursor: smaller.text(), after_ms: Some(0), reason: Reason::new("too_large", text) }
    }
}

/// The list in an answer: bare, under `data`, or under `items`.
fn rows<'n, 'a>(root: &'n Node<'a>) -> Option<&'n [Node<'a>]> {
    root.as_array().or_else(|| root.first_of(&["data", "items", "contacts"])?.as_array())
}

/// Moves to the next page; false where there is none. Where no cursor is given, pages are counted: until
/// `meta.totalPages`, else as long as they are full.
fn go_on(mark: &mut Mark, root: &Node, full: bool) -> bool {
    let at = |path: &str| word(reading::at(root, path));
    let next = ["meta.nextCursor", "nextCursor", "meta.cursor"].iter().find_map(|path| at(path));
    if let Some(next) = next {
        // The same cursor again is no progress: what it misses, the next round reads.
        let moved = mark.cursor.as_deref() != Some(next.as_str());
        (mark.cursor, mark.number) = (Some(next), None);
        return moved;
    }
    let told = ["meta.nextCursor", "nextCursor"].iter().any(|path| reading::at(root, path).is_some());
    let number = mark.number.unwrap_or(1);
    let total = at("meta.totalPages").and_then(|text| text.parse::<u32>().ok());
    let more = match total {
        _ if told || mark.cursor.is_some() => false,
        Some(total) => number < total,
        None => full,
    };
    mark.number = Some(number.saturating_add(1));
    more && number < u32::MAX
}

/// The server's clock (RFC 9110, 6.6.1).
fn date(answer: &Answer) -> Option<i64> {
    let text = answer.header("date")?.trim();
    let at = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// ISO 8601 with milliseconds, as MailingCore writes it.
fn instant(ms: i64) -> String {
    let text = Millis(ms).rfc3339();
    match text.strip_suffix('Z') {
        Some(whole) if !whole.contains('.') => format!("{whole}.000Z"),
        _ => text,
    }
}

fn refused(mark: &Mark, answer: &Answer) -> Read {
    let fault = Fault::of(answer);
    let shown = fault.shown(answer);
    let stop = |code, text: String| Read::Stop { reason: Reason::new(code, text) };
    match answer.status {
        401 => stop("unauthorized", format!("{shown}: the key is not valid: set another")),
        403 => {
            let text = "the key needs the scope contacts:read, and `tenant_id` must be its tenant";
            stop("unauthorized", format!("{shown}: {text}"))
        }
        404 | 405 => stop("no_address", format!("{shown}: check `base_url`")),
        // A cursor that is not taken any more: the round begins anew.
        400 | 410 | 422 if mark.cursor.is_some() || mark.number.is_some() => Read::Again {
            cursor: mark.restarted().text(),
            after_ms: None,
            reason: Reason::new("cursor_refused", format!("{shown}: the round begins anew")),
        },
        300..=399 | 400..=407 | 409..=424 => stop("refused", shown),
        _ => {
            let asked = by_status(answer, 0).signal.and(crate::contract::retry_after(answer));
            let asked = asked.or_else(|| wait(answer)).or(fault.quota.then_some(HOUR_MS));
            let code = if answer.status == 429 { "throttled" } else { "unavailable" };
            Read::Again { cursor: mark.text(), after_ms: asked, reason: Reason::new(code, shown) }
        }
    }
}

/// The events of one row.
///
/// Opted out: `contact.unsubscribed` at `unsubscribedAt`, else at `updatedAt`. Else `contact.updated` at
/// `updatedAt`, which says nothing of consent: that a row is opted in now does not tell since when, and must
/// not undo an opt-out that is on its way there. That somebody opted in at all is a `contact.subscribed` of its
/// own at `createdAt`, the earliest it can have been, so every later opt-out goes before it.
fn events(row: &Node, part: usize, source: &Name) -> Result<Vec<Arrival>, String> {
    if row.as_object().is_none() {
        return Err(format!("expected a contact (an object), found {}", reading::found(Some(row))));
    }
    let subject = contact::subject(row)?;
    let instant = |name: &str| row.get(name).and_then(reading::time);
    let (changed, created) = (instant("updatedAt"), instant("createdAt"));
    let opt_in = contact::opt_in(row);
    let id = word(row.get("id")).or_else(|| subject.shown().map(str::to_owned)).unwrap_or_default();
    let version = word(row.get("updatedAt")).unwrap_or_else(|| digest(row));
    let make = |event_type: &'static str, time, opt_in, dedupe| {
        arrival(row, (part, source), &subject, (EventType::known(event_type), time, opt_in, dedupe))
    };
    let same = |what: &str, version: String| Dedupe::Fields(vec![what.to_owned(), id.clone(), version]);
    if opt_in == Some(false) && is_opted_out(row, changed, created) {
        let time = instant("unsubscribedAt").or(changed);
        return Ok(vec![make("contact.unsubscribed", time, Some(false), same("contact", version))?]);
    }
    let mut arrivals = vec![make("contact.updated", changed, None, same("contact", version))?];
    if let (Some(true), Some(created)) = (opt_in, created) {
        let dedupe = same("opt_in", created.0.to_string());
        arrivals.push(make("contact.subscribed", Some(created), Some(true), dedupe)?);
    }
    Ok(arrivals)
}

/// False for somebody who never opted in: `unsubscribedAt` stands there empty, or nothing has changed since
/// the contact was made.
fn is_opted_out(row: &Node, changed: Option<Millis>, created: Option<Millis>) -> bool {
    match row.get("unsubscribedAt") {
        Some(at) => at.value != Value::Null,
        None => changed.is_none() || changed != created,
    }
}

type Told = (EventType, Option<Millis>, Option<bool>, Dedupe);

fn arrival(
    row: &Node,
    (part, source): (usize, &Name),
    subject: &Subject,
    told: Told,
) -> Result<Arrival, String> {
    let (event_type, time, opt_in, dedupe) = told;
    let mut members = vec![
        ("provider", json::quote("mailingcore")),
        ("kind", json::quote("poll")),
        ("origin", json::quote(source.as_str())),
        ("contact", contact::members(row, subject, opt_in)),
    ];
    members.extend(word(row.get("id")).map(|id| ("contact_id", json::quote(&id))));
    members.push(("raw", row.raw.to_owned()));
    Ok(Arrival {
        extensions: None,
        part,
        event_type,
        subject: subject.clone(),
        time,
        data: reading::data(json::object(members))?,
        test: false,
        transmission: None,
        recipient_role: None,
        dedupe,
    })
}

/// Of a row that does not say when it changed.
fn digest(row: &Node) -> String {
    crate::signature::digest(row.raw.as_bytes()).to_string()
}
