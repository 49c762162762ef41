//! `/v1/imports`: rows of a file, page by page. The client reads the file; the job knows how far it is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use mailspan_core::contact::{Change, Contact, ContactKey, ContactWrite, Turn};
use mailspan_core::limits::CONTACTS_BULK_MAX;
use mailspan_core::{Address, Millis, Name, Subject, clip};
use mailspan_store::{FieldRow, JobFilter, JobRow, JobState, NewJob, Page, PageWork, Write, Wrote, conflict};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::door::{self, Origin};
use crate::contacts::import::{Argument, Cursor, IMPORT, row};
use crate::deliver::start;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::fields::tenant_of;
use crate::runtime;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    file: String,
    digest: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    consent_at: Option<String>,
    #[serde(default)]
    consent_note: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Rows of the file before these.
    after: u64,
    /// An object each, by column; a text in its place says why a row could not be read: it counts as refused.
    rows: Vec<Value>,
}

/// Begins, or goes on with the same file where an import of it has not ended.
pub async fn begin(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<Begin>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.needs("contacts:write")?;
    let tenant = tenant_of(&caller, &headers)?;
    if let Some((job, argument)) = running(&app, &tenant, &body).await? {
        return Ok((StatusCode::OK, Json(shown(&job, &argument)?)));
    }
    let consent_at = match body.consent_at.as_deref() {
        None => None,
        Some(text) => Some(
            Millis::parse_rfc3339(text)
                .ok_or_else(|| Problem::bad("field \"consent_at\": is a time like 2026-06-30T12:00:00Z"))?,
        ),
    };
    let argument = Argument {
        file: clip(&body.file, 200).into_owned(),
        digest: clip(&body.digest, 64).into_owned(),
        dry_run: body.dry_run,
        consent_at,
        consent_note: body.consent_note.map(|note| clip(&note, 500).into_owned()),
        asked_at: runtime::now(),
        asked_by: caller.name.clone(),
    };
    let text = serde_json::to_string(&argument).map_err(|error| Problem::bad(error.to_string()))?;
    let job = NewJob { tenant, kind: IMPORT.to_owned(), argument: text, at: argument.asked_at };
    let Wrote::Key { id } = app.store.write(Write::Job(job)).await? else {
        return Err(Problem::not_found("the job has no number"));
    };
    let (job, argument) = find(&app, &caller, &id.to_string()).await?;
    Ok((StatusCode::CREATED, Json(shown(&job, &argument)?)))
}

/// One page of rows, in one transaction. Rows that were written before are written again without effect,
/// so a client that does not know whether a page arrived sends it once more.
pub async fn rows(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Rows>,
) -> Result<Json<Value>, Problem> {
    caller.needs("contacts:write")?;
    let (job, argument) = find(&app, &caller, &id).await?;
    if job.state != JobState::Running {
        let detail = format!("the import {id} is {}: begin it anew", job.state.name());
        return Err(Problem::new(StatusCode::CONFLICT, "not_running", detail));
    }
    if body.rows.is_empty() || body.rows.len() > CONTACTS_BULK_MAX {
        return Err(Problem::bad(format!("field \"rows\": give 1 to {CONTACTS_BULK_MAX}")));
    }
    let cursor = cursor(&job)?;
    if body.after != cursor.rows {
        let detail = format!("the import is at row {}: go on there", cursor.rows);
        return Err(Problem::new(StatusCode::CONFLICT, "other_row", detail));
    }
    let declared = app.store.field_kinds(&job.tenant).await?;
    let mut work =
        Work { app: &app, job: &job, argument: &argument, declared: &declared, refused: Vec::new() };
    let next = work.page(&caller, cursor, &body.rows).await?;
    let refused = work.refused;
    let done = next.rows - body.after;
    keep(&app, &job, &next, done, None).await?;
    Ok(Json(json!({ "cursor": next, "refused": refused })))
}

/// The file has ended.
pub async fn end(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.needs("contacts:write")?;
    let (job, argument) = find(&app, &caller, &id).await?;
    if job.state == JobState::Running {
        let cursor = cursor(&job)?;
        let note = format!(
            "{} rows: {} created, {} updated, {} unchanged, {} refused",
            cursor.rows, cursor.created, cursor.updated, cursor.unchanged, cursor.refused
        );
        keep(&app, &job, &cursor, 0, Some((JobState::Done, note))).await?;
    }
    let (job, _) = find(&app, &caller, &id).await?;
    Ok(Json(shown(&job, &argument)?))
}

struct Work<'a> {
    app: &'a App,
    job: &'a JobRow,
    argument: &'a Argument,
    declared: &'a [FieldRow],
    refused: Vec<Value>,
}

impl Work<'_> {
    async fn page(&mut self, caller: &Caller, mut cursor: Cursor, rows: &[Value]) -> Result<Cursor, Problem> {
        let (mut writes, mut places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (place, values) in rows.iter().enumerate() {
            let place = cursor.rows + place as u64 + 1;
            match self.read(caller, values).await? {
                Ok(more) => {
                    places.extend(more.iter().map(|_| place));
                    writes.extend(more);
                }
                Err(why) => self.refuse(place, values, &why),
            }
        }
        cursor.rows += rows.len() as u64;
        let turns = match self.argument.dry_run {
            true => self.foresee(&writes).await?,
            false => self.write(caller, writes).await?,
        };
        for (place, turn) in by_row(&places, turns) {
            match turn {
                Turn::Created => cursor.created += 1,
                Turn::Updated | Turn::Erased => cursor.updated += 1,
                Turn::Unchanged | Turn::Ignored => cursor.unchanged += 1,
                Turn::Refused(reason) => {
                    let at = usize::try_from(place - (cursor.rows - rows.len() as u64) - 1).unwrap_or(0);
                    self.refuse(place, &rows[at], &reason.text);
                }
            }
        }
        cursor.refused += self.refused.len() as u64;
        Ok(cursor)
    }

    /// The writes of a row. Who is suppressed is not brought back by a file: not made, and not opted in.
    async fn read(&self, caller: &Caller, row: &Value) -> Result<Result<Vec<ContactWrite>, String>, Problem> {
        let values = match row {
            Value::Object(values) => values,
            Value::String(why) => return Ok(Err(clip(why, 300).into_owned())),
            _ => return Ok(Err("is a JSON object".to_owned())),
        };
        let mut write = match row::write(values, self.argument, self.declared, self.job.id) {
            Ok(write) => write,
            Err(why) => return Ok(Err(why)),
        };
        let (mut agreed, suppress) = match row::beside(values, &write, self.argument) {
            Ok(beside) => beside,
            Err(why) => return Ok(Err(why)),
        };
        if suppress.is_some() {
            if !caller.may("suppressions:write") {
                return Ok(Err("suppressed_at: needs a key with the scope suppressions:write".to_owned()));
            }
            write.stated = row::unconfirmed(write.stated);
        }
        if row::is_silent(values, &write) {
            let known = self.app.store.contact(&self.job.tenant, &write.key).await?;
            if !known.is_some_and(|row| row.contact.opt_in) {
                write.stated.clear();
            }
        }
        if let Some(why) = self.brings_back(&write, suppress.is_some()).await? {
            if why.refuses {
                return Ok(Err(why.text));
            }
            write.stated.retain(|fact| !row::grants(fact));
            agreed = None;
        }
        if let Some(why) = self.revives(&write).await? {
            return Ok(Err(why));
        }
        Ok(Ok([Some(write), agreed, suppress].into_iter().flatten().collect()))
    }

    /// The external id was that of somebody who was erased, and is nobody's since: under another address too it would
    /// be the same person.
    async fn revives(&self, write: &ContactWrite) -> Result<Option<String>, Problem> {
        let Change::Set(id) = &write.external_id else { return Ok(None) };
        let subject = Subject { address: None, external_id: Some(id.clone()) };
        let erased = self.app.store.erased_at(&self.job.tenant, &subject).await?;
        if erased.is_none() || self.find(&ContactKey::ExternalId(id.clone())).await?.is_some() {
            return Ok(None);
        }
        let text = "external_id: was that of somebody who was erased: a file does not bring them back; who signs up \
                    anew is made by the API, or comes under another id";
        Ok(Some(text.to_owned()))
    }

    /// Where the address is suppressed here. `says_so`: the row does too; where its contact is here and opted in as the
    /// row says, it brings nobody back.
    async fn brings_back(&self, write: &ContactWrite, says_so: bool) -> Result<Option<Blocked>, Problem> {
        let Some(address) = write.address.clone() else { return Ok(None) };
        let Some(row) = self.app.store.suppression_of(&self.job.tenant, &address).await? else {
            return Ok(None);
        };
        let known = self.app.store.contact(&self.job.tenant, &ContactKey::Address(address)).await?;
        let is_in = known.as_ref().is_some_and(|row| row.contact.opt_in);
        let grants = write.stated.iter().any(row::grants) && !(says_so && is_in);
        let text = format!("email: is suppressed ({}): a file does not bring it back", row.reason.name());
        Ok(Some(Blocked { refuses: known.is_none() || grants, text }))
    }

    async fn write(&self, caller: &Caller, writes: Vec<ContactWrite>) -> Result<Vec<Turn>, Problem> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let origin =
            Origin { tenant: &self.job.tenant, credential: &caller.name, request: None, cuts: Vec::new() };
        let outcomes = door::write(self.app, origin, writes).await?;
        Ok(outcomes.into_iter().map(|outcome| outcome.turn).collect())
    }

    /// What would be made and what changed; a dry run looks at each row alone.
    async fn foresee(&self, writes: &[ContactWrite]) -> Result<Vec<Turn>, Problem> {
        let mut turns = Vec::with_capacity(writes.len());
        for write in writes {
            // What stands beside a row changes no more than the row itself.
            let ContactKey::Subject { address, external_id } = &write.key else {
                turns.push(Turn::Unchanged);
                continue;
            };
            let by_id = match external_id {
                Some(id) => self.find(&ContactKey::ExternalId(id.clone())).await?,
                None => None,
            };
            let by_address = match address {
                Some(address) => self.find(&ContactKey::Address(Address::clone(address))).await?,
                None => None,
            };
            turns.push(foreseen(by_id.as_ref(), by_address.as_ref(), external_id.is_some()));
        }
        Ok(turns)
    }

    async fn find(&self, key: &ContactKey) -> Result<Option<Contact>, Problem> {
        Ok(self.app.store.contact(&self.job.tenant, key).await?.map(|row| row.contact))
    }

    fn refuse(&mut self, row: u64, values: &Value, why: &str) {
        self.refused.push(json!({ "row": row, "email": values.get("email"), "why": why }));
    }
}

/// The address of a row is suppressed.
struct Blocked {
    /// The row would make the contact, or opt it in.
    refuses: bool,
    text: String,
}

/// What became of each row, by its place: a refusal of one of its writes is one of the row, else what was done most.
fn by_row(places: &[u64], turns: Vec<Turn>) -> Vec<(u64, Turn)> {
    let weight = |turn: &Turn| match turn {
        Turn::Refused(_) => 3,
        Turn::Created => 2,
        Turn::Updated | Turn::Erased => 1,
        Turn::Unchanged | Turn::Ignored => 0,
    };
    let mut rows: Vec<(u64, Turn)> = Vec::with_capacity(turns.len());
    for (&place, turn) in places.iter().zip(turns) {
        match rows.last_mut() {
            Some((last, before)) if *last == place => {
                if weight(&turn) > weight(before) {
                    *before = turn;
                }
            }
            _ => rows.push((place, turn)),
        }
    }
    rows
}

/// As a write would find them: an address of another contact, and an external id beside the one it has, are refused.
fn foreseen(by_id: Option<&Contact>, by_address: Option<&Contact>, has_id: bool) -> Turn {
    match (by_id, by_address) {
        (None, None) => Turn::Created,
        (Some(one), Some(other)) if one.uid != other.uid => {
            Turn::Refused(conflict("address_conflict", "the address belongs to another contact"))
        }
        (None, Some(other)) if has_id && other.external_id.is_some() => Turn::Refused(conflict(
            "external_id_conflict",
            "the contact of this address has another external id",
        )),
        _ => Turn::Updated,
    }
}

async fn keep(
    app: &App,
    job: &JobRow,
    cursor: &Cursor,
    done: u64,
    end: Option<(JobState, String)>,
) -> Result<(), Problem> {
    let fence = start::lease(&app.store, &format!("job/{}", job.id), app.owner()).await?;
    let cursor = serde_json::to_string(cursor).map_err(|error| Problem::bad(error.to_string()))?;
    let work = PageWork::Count { matched: done };
    let page = Page { say: None, job: job.id, fence, at: runtime::now(), cursor, total: None, end, work };
    app.store.write(Write::Page(Box::new(page))).await?;
    Ok(())
}

async fn running(app: &App, tenant: &Name, asked: &Begin) -> Result<Option<(JobRow, Argument)>, Problem> {
    let filter = JobFilter { tenant: Some(tenant.clone()), ..JobFilter::default() };
    for job in app.store.jobs(filter).await? {
        if job.kind != IMPORT || job.state != JobState::Running {
            continue;
        }
        if let Ok(argument) = serde_json::from_str::<Argument>(&job.argument)
            && argument.digest == asked.digest
            && argument.dry_run == asked.dry_run
        {
            return Ok(Some((job, argument)));
        }
    }
    Ok(None)
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<(JobRow, Argument), Problem> {
    let missing = || Problem::not_found(format!("there is no import {}", clip(id, 20)));
    let number: i64 = id.parse().map_err(|_| missing())?;
    let job = app.store.job(number).await?.filter(|job| job.kind == IMPORT && caller.sees(&job.tenant));
    let job = job.ok_or_else(missing)?;
    let argument = serde_json::from_str(&job.argument).map_err(|_| missing())?;
    Ok((job, argument))
}

fn cursor(job: &JobRow) -> Result<Cursor, Problem> {
    match &job.cursor {
        None => Ok(Cursor::default()),
        Some(text) => serde_json::from_str(text).map_err(|_| {
            Problem::new(StatusCode::CONFLICT, "newer_import", "a later version began this import")
        }),
    }
}

fn shown(job: &JobRow, argument: &Argument) -> Result<Value, Problem> {
    Ok(json!({
        "id": job.id.to_string(),
        "state": job.state.name(),
        "file": argument.file,
        "dry_run": argument.dry_run,
        "cursor": cursor(job)?,
        "note": job.note,
    }))
}
