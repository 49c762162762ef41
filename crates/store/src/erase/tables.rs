//! Every table that may name a person, and what becomes of a row of it.

use mailspan_core::{Class, State, Subject};

use super::prune::{self, Whose};
use super::target::{Pass, Target};
use super::words::ERASED_MARK;
use crate::pack::{repack_request, squeeze, unpack_request, unsqueeze};
use crate::sqlite::accept::{ERASES, REQUEST_REDACTED};
use crate::sqlite::contacts::{ERASED, ERASED_TEXT};
use crate::sqlite::envelope;

/// Flag of an event whose data was taken out.
const REDACTED: i64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Deliveries,
    Events,
    Requests,
    Unreadable,
    Refused,
    Attempts,
    Ledger,
    Suppressions,
    Jobs,
    OperatorLog,
    Contacts,
    Keys,
    Rounds,
    Destinations,
}

/// In the order of the walk: deliveries before the events that they are about. A new one comes last, as walks under
/// way know their table by its place.
pub(crate) const TABLES: [Table; 14] = [
    Table::Deliveries,
    Table::Events,
    Table::Requests,
    Table::Unreadable,
    Table::Refused,
    Table::Attempts,
    Table::Ledger,
    Table::Suppressions,
    Table::Jobs,
    Table::OperatorLog,
    Table::Contacts,
    Table::Keys,
    Table::Rounds,
    Table::Destinations,
];

/// A column that is read, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Int(&'static str),
    Text(&'static str),
    Blob(&'static str),
}

use Column::{Blob, Int, Text};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Cell {
    fn int(&self) -> i64 {
        if let Cell::Int(n) = self { *n } else { 0 }
    }

    fn text(&self) -> Option<&str> {
        if let Cell::Text(text) = self { Some(text) } else { None }
    }

    fn blob(&self) -> Option<&[u8]> {
        if let Cell::Blob(bytes) = self { Some(bytes) } else { None }
    }
}

/// What changes with a row that is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Also {
    /// A delivery was given up.
    Discarded { destination: i64, from: State },
    /// The exchanges of a delivery of the person.
    Attempts { delivery: i64, last: Option<i64> },
    /// The request that an event of the person came with.
    Request { request: i64, part: usize },
    /// The event leads to its person no more.
    Untied { seq: i64 },
    /// What the destinations answered to a fact; `own`: of the person.
    Answers { fact: i64, own: bool },
}

#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Columns by their place, with what stands there from now on.
    pub set: Vec<(usize, Cell)>,
    pub also: Vec<Also>,
    /// An identity of the person that was not known; only where it is nobody else's.
    pub learned: Option<Subject>,
    /// The row could not be read.
    pub unread: bool,
}

impl Change {
    fn put(&mut self, column: usize, cell: Cell) {
        self.set.push((column, cell));
    }
}

impl Table {
    /// As a certificate counts it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Deliveries => "deliveries",
            Table::Events => "events",
            Table::Requests => "requests",
            Table::Unreadable => "unreadable",
            Table::Refused => "refused",
            Table::Attempts => "attempts",
            Table::Ledger => "ledger",
            Table::Suppressions => "suppressions",
            Table::Jobs => "jobs",
            Table::OperatorLog => "operator_log",
            Table::Contacts => "contacts",
            Table::Keys => "api_keys",
            Table::Rounds => "rounds",
            Table::Destinations => "destinations",
        }
    }

    pub(crate) fn key(self) -> &'static str {
        match self {
            Table::Events => "seq",
            Table::Contacts => "person",
            Table::Rounds => "about",
            _ => "id",
        }
    }

    /// Written by operators, who work across tenants from the default one, or for none (0): a row of these is looked
    /// into for every tenant. `operators`: the number of the default one.
    pub(crate) fn is_operators(self, tenant: &Cell, operators: Option<i64>) -> bool {
        matches!(self, Table::Jobs | Table::OperatorLog | Table::Keys | Table::Destinations)
            && (*tenant == Cell::Int(0) || operators.is_some_and(|id| *tenant == Cell::Int(id)))
    }

    /// Rows of a page: few where they are large.
    pub(crate) fn page(self) -> i64 {
        match self {
            Table::Requests | Table::Refused | Table::Unreadable | Table::Attempts => 50,
            _ => 500,
        }
    }

    /// The first is always the tenant's number.
    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Table::Deliveries => &[
                Int("tenant"),
                Int("person"),
                Int("event"),
                Int("destination"),
                Int("state"),
                Int("class"),
                Int("last_attempt"),
                Text("reason"),
                Blob("progress"),
                Text("reason_code"),
                Int("due"),
            ],
            Table::Events => &[Int("tenant"), Int("request"), Int("part"), Int("flags"), Blob("packed")],
            Table::Requests => &[Int("tenant"), Int("received_at"), Int("redacted"), Blob("packed")],
            Table::Unreadable => &[Int("tenant"), Text("reason"), Blob("raw"), Int("redacted")],
            Table::Refused => &[Int("tenant"), Text("text"), Text("hint"), Text("headers"), Blob("body")],
            Table::Attempts => &[Int("destination"), Blob("request"), Text("answer")],
            Table::Ledger => &[Int("tenant"), Int("person"), Text("evidence"), Text("answers")],
            Table::Suppressions => &[Int("tenant"), Int("at"), Text("address"), Text("source")],
            Table::Jobs => &[Int("tenant"), Text("argument"), Text("cursor"), Text("note")],
            Table::OperatorLog => &[Int("tenant"), Text("note")],
            Table::Contacts => &[
                Int("tenant"),
                Int("created_at"),
                Text("fields"),
                Text("source"),
                Text("consent_version"),
                Text("project"),
            ],
            Table::Keys => &[Int("tenant"), Text("note")],
            // What a vendor answered, or an operator gave as a reason.
            Table::Rounds => &[Int("tenant"), Text("paused"), Text("reason")],
            Table::Destinations => &[Int("tenant"), Text("paused")],
        }
    }

    /// Reads a row by its key, or the rows after one.
    pub(crate) fn select(self) -> String {
        let columns: Vec<String> = self.columns().iter().map(|column| column.read(self)).collect();
        format!("SELECT a.{}, {} FROM {} a", self.key(), columns.join(", "), self.name())
    }
}

impl Column {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Int(name) | Text(name) | Blob(name) => name,
        }
    }

    /// An exchange belongs to the tenant of its destination.
    fn read(self, table: Table) -> String {
        match (table, self) {
            (Table::Attempts, Int("destination")) => {
                "(SELECT n.tenant FROM names n WHERE n.id = a.destination)".to_owned()
            }
            // What destinations answered to the fact, which may quote somebody else.
            (Table::Ledger, Text("answers")) => {
                "(SELECT string_agg(w.verdict, ' ') FROM ledger_answers w WHERE w.fact = a.id)".to_owned()
            }
            (_, column) => format!("a.{}", column.name()),
        }
    }
}

/// What becomes of a row; nothing where it stays as it is. `own`: an event that leads to the person; `busy`: a
/// delivery of it is pending, or it waits for the router.
pub(crate) fn judge(
    table: Table,
    key: i64,
    row: &[Cell],
    target: &Target,
    own: bool,
    busy: bool,
) -> Option<Change> {
    let change = match table {
        Table::Deliveries => delivery(key, row, target),
        Table::Events => event(key, row, target, own, busy),
        Table::Requests if row[1].int() > target.identity.learned_at => return None,
        Table::Requests => packed_request(row, target, Whose::Anybodys),
        Table::Unreadable => unreadable(row, target),
        Table::Refused => refused(row, target),
        Table::Attempts => attempt(row, target),
        Table::Ledger => fact(key, row, target),
        Table::Suppressions => suppression(row, target),
        Table::Contacts if row[1].int() > target.identity.learned_at => return None,
        Table::Contacts => texts(row, target, &[2, 3, 4, 5]),
        Table::Jobs => notes(row, target, &[1, 2, 3]),
        Table::Rounds => notes(row, target, &[1, 2]),
        Table::OperatorLog | Table::Keys | Table::Destinations => notes(row, target, &[1]),
    };
    let nothing =
        change.set.is_empty() && change.also.is_empty() && !change.unread && change.learned.is_none();
    (!nothing).then_some(change)
}

fn delivery(id: i64, row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    let own = target.identity.persons.contains(&row[1].int());
    if !own {
        cut_text(&mut change, row, 7, target, false);
        cut_blob(&mut change, row, 8, target);
        return change;
    }
    let (state, class) = (State::from_number(row[4].int()), Class::from_number(row[5].int()));
    let is_telling = row[2].int() == target.event;
    let ends = match state {
        Some(State::Dead) => !is_telling,
        Some(State::Pending) => !is_telling && (target.pass() == Pass::Last || class != Some(Class::Consent)),
        _ => false,
    };
    if let (Some(from), true) = (state, ends) {
        change.put(4, Cell::Int(State::Discarded as i64));
        change.put(7, Cell::Text(ERASED_TEXT.to_owned()));
        change.put(9, Cell::Text(ERASED.to_owned()));
        change.put(10, Cell::Null);
        change.also.push(Also::Discarded { destination: row[3].int(), from });
    } else {
        cut_text(&mut change, row, 7, target, true);
    }
    let is_open = state == Some(State::Pending) && !ends;
    if row[8] != Cell::Null && !is_open {
        change.put(8, Cell::Null);
    }
    if !is_open {
        let last = Some(row[6].int()).filter(|_| row[6] != Cell::Null);
        change.also.push(Also::Attempts { delivery: id, last });
    }
    change
}

fn event(seq: i64, row: &[Cell], target: &Target, own: bool, busy: bool) -> Change {
    let mut change = Change::default();
    let Some(envelope) = row[4].blob().and_then(envelope::unpack) else {
        return Change { unread: true, ..change };
    };
    let own = own || seq <= target.event && target.is(&envelope.subject);
    if !own {
        if seq > target.event {
            return change;
        }
        if let Some(data) = json_cut(envelope.data.get(), target) {
            change.put(4, Cell::Blob(envelope::with_data(envelope, &data)));
            change.put(3, Cell::Int(row[3].int() | REDACTED));
        }
        return change;
    }
    change.learned = Some(envelope.subject.clone());
    let tells = row[3].int() & ERASES != 0;
    let blank = envelope::blank();
    if busy || tells && (target.pass() == Pass::First || seq > target.event) || row[4].blob() == Some(&*blank)
    {
        return change;
    }
    change.put(4, Cell::Blob(blank));
    change.put(3, Cell::Int(row[3].int() | REDACTED));
    change.also.push(Also::Untied { seq });
    if row[1] != Cell::Null {
        let part = usize::try_from(row[2].int()).unwrap_or(0);
        change.also.push(Also::Request { request: row[1].int(), part });
    }
    change
}

/// Of a row of requests.
pub(crate) fn packed_request(row: &[Cell], target: &Target, whose: Whose) -> Change {
    let mut change = Change::default();
    let Some(mut request) = row[3].blob().and_then(unpack_request) else {
        return Change { unread: true, ..change };
    };
    if prune::request(&mut request, &target.words, whose) {
        change.put(3, Cell::Blob(repack_request(&request)));
        change.put(2, Cell::Int(row[2].int() | REQUEST_REDACTED));
    }
    change
}

/// True where the request told of one event alone: who is named in its headers may be known by nothing else any more.
pub(crate) fn told_of_one(row: &[Cell]) -> bool {
    row[3].blob().and_then(unpack_request).is_none_or(|request| prune::is_of_one(&request.body))
}

fn unreadable(row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    cut_text(&mut change, row, 1, target, false);
    let Some(raw) = row[2].blob().and_then(unsqueeze) else {
        return Change { unread: true, ..change };
    };
    if target.words.stands_in(&String::from_utf8_lossy(&raw), false) {
        change.put(2, Cell::Blob(squeeze(ERASED_MARK.as_bytes())));
        change.put(3, Cell::Int(1));
    }
    change
}

fn refused(row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    for column in [1, 2, 3] {
        if let Some(kept) = row[column].text().and_then(|text| target.words.cut_loosely(text, false)) {
            change.put(column, Cell::Text(kept));
        }
    }
    if let Some(kept) = row[4].blob().and_then(|body| prune::body(body, &target.words, Whose::Anybodys)) {
        change.put(4, Cell::Blob(kept));
    }
    change
}

fn attempt(row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    if let Some(packed) = row[1].blob() {
        match unsqueeze(packed) {
            Some(plain) => {
                if let Some(kept) = prune::body(&plain, &target.words, Whose::Anybodys) {
                    change.put(1, Cell::Blob(squeeze(&kept)));
                }
            }
            None => change.unread = true,
        }
    }
    cut_text(&mut change, row, 2, target, false);
    change
}

/// What the hub has to prove stays: what, when, which words. From where and by which machine goes.
fn fact(id: i64, row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    if !target.identity.persons.contains(&row[1].int()) {
        cut_text(&mut change, row, 2, target, false);
        if row[3].text().is_some_and(|answers| target.words.stands_in(answers, false)) {
            change.also.push(Also::Answers { fact: id, own: false });
        }
        return change;
    }
    change.also.push(Also::Answers { fact: id, own: true });
    let Some(text) = row[2].text() else { return change };
    let Ok(mut evidence) = serde_json::from_str::<serde_json::Value>(text) else {
        change.put(2, Cell::Null);
        return change;
    };
    if let Some(members) = evidence.as_object_mut() {
        members.retain(|name, _| !matches!(name.as_str(), "ip" | "user_agent"));
        for (_, value) in members.iter_mut() {
            if let Some(kept) = value.as_str().and_then(|text| target.words.cut(text, true)) {
                *value = kept.into();
            }
        }
    }
    let kept = evidence.to_string();
    if kept != text {
        change.put(2, Cell::Text(kept));
    }
    change
}

/// The suppression stays, by its hash.
fn suppression(row: &[Cell], target: &Target) -> Change {
    let mut change = Change::default();
    let is_theirs = row[2].text().is_some_and(|text| target.words.stands_in(text, false));
    if is_theirs && row[1].int() <= target.identity.learned_at {
        change.put(2, Cell::Null);
    }
    cut_text(&mut change, row, 3, target, false);
    change
}

fn texts(row: &[Cell], target: &Target, columns: &[usize]) -> Change {
    let mut change = Change::default();
    for column in columns {
        cut_text(&mut change, row, *column, target, false);
    }
    change
}

/// What operators wrote: names of files, filters, reasons.
fn notes(row: &[Cell], target: &Target, columns: &[usize]) -> Change {
    let mut change = Change::default();
    for column in columns {
        if let Some(kept) = row[*column].text().and_then(|text| target.words.cut_loosely(text, false)) {
            change.put(*column, Cell::Text(kept));
        }
    }
    change
}

fn cut_text(change: &mut Change, row: &[Cell], column: usize, target: &Target, own: bool) {
    if let Some(kept) = row[column].text().and_then(|text| target.words.cut(text, own)) {
        change.put(column, Cell::Text(kept));
    }
}

fn cut_blob(change: &mut Change, row: &[Cell], column: usize, target: &Target) {
    let text = row[column].blob().map(String::from_utf8_lossy);
    if let Some(kept) = text.and_then(|text| target.words.cut(&text, false)) {
        change.put(column, Cell::Blob(kept.into_bytes()));
    }
}

/// Data of another's event stays JSON, whatever goes out of it.
fn json_cut(data: &str, target: &Target) -> Option<String> {
    let kept = target.words.cut(data, false)?;
    let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&kept).is_ok();
    Some(if is_json { kept } else { "{}".to_owned() })
}
