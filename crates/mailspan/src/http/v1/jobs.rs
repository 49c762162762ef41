//! `/v1/replays`, `/v1/discards` and `/v1/jobs`: long work, asked for and looked at.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use mailspan_core::{Millis, Name, Span, State as DeliveryState};
use mailspan_store::{JobFilter, JobRow, JobState, NewJob, StandingRow, Write, Wrote};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::begun::to_its_end;
use crate::http::auth::Caller;
use crate::http::body::JsonBody;
use crate::http::path::{Segment, Segments};
use crate::http::problem::Problem;
use crate::http::v1::deliveries::is_served;
use crate::http::v1::query::{Query, page};
use crate::intake::system;
use crate::jobs::replay::{self, Argument, Cursor, DISCARD, REPLAY};
use crate::jobs::run;
use crate::runtime;

/// Which deliveries; all dead letters of the tenant where nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    tenant: Option<Name>,
    destination: Option<Name>,
    route: Option<Name>,
    /// `dead` where none is given.
    states: Vec<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    subject: Option<String>,
    /// The code of a reason.
    reason: Option<String>,
    /// RFC 3339, or so long ago: `2h`.
    since: Option<String>,
    until: Option<String>,
    again: bool,
    dry_run: bool,
    note: String,
}

pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    JsonBody(ask): JsonBody<Ask>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    begin(&app, &caller, ask, REPLAY).await
}

pub async fn discard(
    State(app): State<App>,
    caller: Caller,
    JsonBody(ask): JsonBody<Ask>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    begin(&app, &caller, ask, DISCARD).await
}

async fn begin(
    app: &App,
    caller: &Caller,
    ask: Ask,
    kind: &str,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.needs("operate")?;
    let (tenant, argument) = argument(app, caller, ask, kind).await?;
    let text = serde_json::to_string(&argument).map_err(|error| Problem::bad(error.to_string()))?;
    let job = NewJob { tenant, kind: kind.to_owned(), argument: text, at: argument.asked_at };
    let own = app.clone();
    // Whoever asked may go away after the commit: the job runs all the same.
    let kept = to_its_end(async move {
        let wrote = own.store.write(Write::Job(job)).await;
        own.job_wake.notify_one();
        wrote
    });
    let Wrote::Key { id } = kept.await? else {
        return Err(Problem::not_found("the job has no number"));
    };
    if app.engine.is_none() {
        run::drive(app, id).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(shown(app, &find(app, caller, &id.to_string()).await?).await?)))
}

async fn argument(app: &App, caller: &Caller, ask: Ask, kind: &str) -> Result<(Name, Argument), Problem> {
    let live = app.live();
    let gone = |what: &str, name: &Name| {
        let detail = format!("{what} `{name}` is not in the configuration");
        Problem::new(StatusCode::CONFLICT, "not_configured", detail)
    };
    let named = ask.destination.as_ref().and_then(|name| live.hub.destination(name.as_str()));
    let left = match ask.destination.as_ref().filter(|_| named.is_none()) {
        Some(name) => Some(left_over(app, name, kind).await?.ok_or_else(|| gone("destination", name))?),
        None => None,
    };
    if kind == DISCARD && ask.note.trim().is_empty() && !ask.dry_run {
        return Err(Problem::bad("field \"note\": say why they are given up (--note); it is kept with each"));
    }
    let tenant = caller
        .tenant
        .clone()
        .or(ask.tenant.clone())
        .or(named.map(|destination| destination.tenant.clone()))
        .or(left.as_ref().map(|row| row.tenant.clone()))
        .unwrap_or_else(Name::default_tenant);
    let is_of_another = named.is_some_and(|one| one.tenant != tenant)
        || left.as_ref().is_some_and(|row| row.tenant != tenant);
    if let Some(name) = ask.destination.as_ref().filter(|_| is_of_another) {
        return Err(gone("destination", name));
    }
    let route = ask.route.as_ref();
    if let Some(name) = route.filter(|name| live.hub.route(name.as_str()).is_none_or(|r| r.tenant != tenant))
    {
        return Err(gone("route", name));
    }
    let states = states(&ask, kind, left.is_some())?;
    let now = runtime::now();
    let since = ask.since.as_deref().map(|text| instant("since", text, now)).transpose()?;
    let until = ask.until.as_deref().map(|text| instant("until", text, now)).transpose()?;
    if since.zip(until).is_some_and(|(since, until)| since >= until) {
        return Err(Problem::bad("field \"until\": it is not after `since`, so nothing can match"));
    }
    let of_tenant = live.hub.destinations.iter().filter(|one| one.tenant == tenant);
    let destinations = match &ask.destination {
        Some(name) => vec![name.clone()],
        None => of_tenant.map(|one| one.name.clone()).collect(),
    };
    let (first, last) = app.store.delivery_span().await?;
    let argument = Argument {
        destinations,
        states: states.iter().map(|state| state.name().to_owned()).collect(),
        route: ask.route,
        event_type: ask.event_type,
        subject: ask.subject,
        reason: ask.reason,
        since,
        until,
        again: ask.again,
        dry_run: ask.dry_run,
        note: mailspan_core::clip(&ask.note, mailspan_core::limits::REASON_CHARS_MAX).into_owned(),
        first: first.0,
        last: last.0,
        asked_at: now,
        asked_by: caller.name.clone(),
    };
    Ok((tenant, argument))
}

/// A destination that is not in the configuration any more and has deliveries left, which can be discarded.
async fn left_over(app: &App, name: &Name, kind: &str) -> Result<Option<StandingRow>, Problem> {
    let rows = app.store.destinations(None).await?;
    let row = rows.into_iter().find(|row| row.name == *name && row.pending + row.dead > 0);
    let Some(row) = row.filter(|_| kind == DISCARD) else { return Ok(None) };
    if is_served(app, row.destination).await? {
        let detail = format!("destination `{name}` is served by another process: ask there");
        return Err(Problem::new(StatusCode::CONFLICT, "served_elsewhere", detail));
    }
    Ok(Some(row))
}

/// The states asked for; those that make no sense are refused with what to do. `is_left`: of a destination that is
/// not in the configuration any more.
fn states(ask: &Ask, kind: &str, is_left: bool) -> Result<Vec<DeliveryState>, Problem> {
    if ask.states.is_empty() && is_left {
        return Ok(vec![DeliveryState::Pending, DeliveryState::Dead]);
    }
    if ask.states.is_empty() {
        return Ok(vec![DeliveryState::Dead]);
    }
    let read = |name: &String| {
        DeliveryState::from_name(name).ok_or_else(|| {
            let names = DeliveryState::ALL.map(DeliveryState::name).join(", ");
            Problem::bad(format!("field \"states\": expected one of {names}"))
        })
    };
    let mut states = ask.states.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    states.sort();
    states.dedup();
    if kind == DISCARD && states != [DeliveryState::Dead] {
        return Err(Problem::bad("field \"states\": only dead letters can be discarded"));
    }
    if states.contains(&DeliveryState::Pending) {
        return Err(Problem::bad("field \"states\": what is pending goes on by itself: leave it out"));
    }
    if states.contains(&DeliveryState::Delivered) && !ask.again {
        return Err(Problem::bad(
            "field \"states\": what is delivered is done; to send it once more, under the same idempotency keys, \
             say `again` (--again)",
        ));
    }
    if states != [DeliveryState::Dead] && ask.destination.is_none() {
        return Err(Problem::bad(
            "field \"destination\": name the one that is to get them: only dead letters are replayed to all",
        ));
    }
    Ok(states)
}

/// RFC 3339, or a span before now.
fn instant(field: &str, text: &str, now: Millis) -> Result<Millis, Problem> {
    let ago = || Span::parse(text).ok().and_then(|span| i64::try_from(span.ms).ok());
    Millis::parse_rfc3339(text).or_else(|| ago().map(|ms| Millis(now.0 - ms))).ok_or_else(|| {
        Problem::bad(format!(
            "field \"{field}\": `{}` is no instant: write 2026-05-01T00:00:00Z, or 2h for two hours ago",
            mailspan_core::clip(text, 40)
        ))
    })
}

/// How a job is shown.
async fn shown(app: &App, job: &JobRow) -> Result<Value, Problem> {
    let mut value = json!({
        "id": job.id.to_string(),
        "kind": job.kind,
        "tenant": job.tenant,
        "state": job.state.name(),
        "done": job.done,
        "total": job.total,
        "note": job.note,
    });
    let Ok(argument) = serde_json::from_str::<Argument>(&job.argument) else { return Ok(value) };
    let Some(cursor) = Cursor::read(job, &argument) else { return Ok(value) };
    let percent = cursor.percent(&argument);
    value["percent"] = json!(if job.state == JobState::Done { 100 } else { percent });
    value["matched"] = json!(cursor.matched);
    value["dry_run"] = json!(argument.dry_run);
    value["waits_for"] = json!(replay::full(app, job, &argument, &cursor).await?);
    value["summary"] = json!(summary(job, &argument, &cursor));
    let group = |(key, count): (&String, &u64)| {
        let mut words = key.splitn(3, '/');
        let mut word = || words.next().unwrap_or_default();
        json!({ "destination": word(), "state": word(), "reason": word(), "count": count })
    };
    value["counts"] = cursor.groups.iter().map(group).collect();
    value["asked_at"] = json!(argument.asked_at.iso());
    value["asked_by"] = json!(argument.asked_by);
    value["filter"] = json!({
        "destinations": argument.destinations,
        "states": argument.states,
        "route": argument.route,
        "type": argument.event_type,
        "subject": argument.subject,
        "reason": argument.reason,
        "since": argument.since.map(Millis::iso),
        "until": argument.until.map(Millis::iso),
        "again": argument.again,
    });
    Ok(value)
}

fn summary(job: &JobRow, argument: &Argument, cursor: &Cursor) -> String {
    let verb = match (job.kind.as_str(), argument.dry_run) {
        (DISCARD, false) => "were discarded",
        (DISCARD, true) => "would be discarded",
        (_, false) => "were opened again",
        (_, true) => "would be opened again",
    };
    let note = job.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    format!("{} of {} that match {verb}{note}", job.done, cursor.matched)
}

pub async fn list(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let query = Query::read(query.as_deref(), &["tenant"])?;
    let limit = query.limit()?;
    let tenant = caller.tenant.clone().or_else(|| query.get("tenant").map(Name::new));
    let rows = app.store.jobs(JobFilter { tenant, before: query.before()?, limit }).await?;
    let last = rows.last().map(|row| row.id);
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        items.push(shown(&app, row).await?);
    }
    Ok(Json(page(items, limit, last)))
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<JobRow, Problem> {
    let number: i64 = id.parse().map_err(|_| {
        Problem::bad(format!("`{}` is no job id: expected a number", mailspan_core::clip(id, 40)))
    })?;
    let row = app.store.job(number).await?;
    row.filter(|row| caller.sees(&row.tenant))
        .ok_or_else(|| Problem::not_found(format!("there is no job {number}")))
}

pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let row = find(&app, &caller, &id).await?;
    Ok(Json(shown(&app, &row).await?))
}

/// `verb`: cancel, pause or resume. What is done stays done.
pub async fn stand(
    State(app): State<App>,
    caller: Caller,
    Segments(id, verb): Segments,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let state = match verb.as_str() {
        "cancel" => JobState::Cancelled,
        "pause" => JobState::Paused,
        "resume" => JobState::Running,
        _ => return Err(Problem::not_found("a job can be cancelled, paused or resumed")),
    };
    let row = find(&app, &caller, &id).await?;
    let note = match state {
        JobState::Cancelled => format!("cancelled by {}", caller.name),
        _ => String::new(),
    };
    let say = system::of_job(&app.live(), &row.tenant).filter(|_| state.has_ended());
    let (own, job) = (app.clone(), row.id);
    to_its_end(async move {
        let wrote = own.store.write(Write::JobStand { id: job, state, note, at: runtime::now(), say }).await;
        own.job_wake.notify_one();
        own.route_wake.notify_one();
        wrote
    })
    .await?;
    Ok(Json(shown(&app, &find(&app, &caller, &id).await?).await?))
}
