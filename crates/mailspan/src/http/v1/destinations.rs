//! `/v1/destinations`: look, test, pause, resume, prepare.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mailspan_core::{Answer, DestinationId, Reason, Request};
use mailspan_engine::{BreakerState, Happened, Standing, Stands};
use mailspan_store::{StandingRow, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::begun::to_its_end;
use crate::deliver::sign;
use crate::http::auth::Caller;
use crate::http::body::OptionalJson;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::hub::Destination;
use crate::intake::system;
use crate::runtime;

/// How long a command waits until what it did is kept.
const KEPT_MS_MAX: u64 = 5_000;

/// Those of the configuration, then those that only have a queue left.
pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let live = app.live();
    let (standing, rounds) = (app.store.destinations(None).await?, app.store.rounds().await?);
    let row_of = |id: Option<DestinationId>| standing.iter().find(|row| Some(row.destination) == id);
    let mut items: Vec<Value> = Vec::new();
    for destination in live.hub.destinations.iter().filter(|destination| caller.sees(&destination.tenant)) {
        let id = live.destination_id(destination.name.as_str());
        let row = row_of(id);
        let mut value = shown(destination.name.as_str(), destination.kind.name, row, false);
        let backlog = row.map_or(0, |row| row.pending);
        let doing = match id {
            Some(id) => app.standing(id, backlog).await,
            None => None,
        };
        match doing {
            Some(doing) => add_doing(&mut value, &doing, backlog),
            None => add_known(&mut value, row),
        }
        if let Some(why) = destination.held() {
            value["state"] = json!("paused");
            value["reason"] = json!(why.text);
        }
        if let Some(every) = destination.resync {
            let round = rounds.iter().find(|round| id.is_some_and(|id| id.0 == round.about));
            value["resync"] = json!({
                "every": every.to_string(),
                "due": round.map(|round| round.due.iso()),
                "round_ended_at": round.and_then(|round| round.ended_at).map(|at| at.iso()),
                "reason": round.and_then(|round| round.reason.clone()),
            });
        }
        items.push(value);
    }
    for row in standing.iter().filter(|row| caller.sees(&row.tenant)) {
        if !live.destinations.contains_key(&row.destination) && row.pending + row.dead > 0 {
            items.push(shown(row.name.as_str(), "", Some(row), true));
        }
    }
    Ok(Json(json!({ "items": items, "next": null })))
}

fn shown(name: &str, kind: &str, row: Option<&StandingRow>, gone: bool) -> Value {
    let paused = row.and_then(|row| row.paused.as_ref());
    let (state, reason) = match (gone, paused) {
        (true, _) => ("disabled", Some("not in the configuration".to_owned())),
        (false, Some(reason)) => ("paused", Some(reason.text.clone())),
        (false, None) => ("active", None),
    };
    json!({
        "id": name,
        "kind": kind,
        "state": state,
        "pending": row.map_or(0, |row| row.pending),
        "dead": row.map_or(0, |row| row.dead),
        "oldest": row.and_then(|row| row.oldest).map(|at| at.iso()),
        "reason": reason,
    })
}

/// Of one that is served elsewhere, or not now: what its owner wrote down.
fn add_known(value: &mut Value, row: Option<&StandingRow>) {
    let since = row.filter(|row| row.paused.is_none()).and_then(|row| row.degraded);
    if let Some(since) = since {
        value["state"] = json!("degraded");
        value["reason"] = json!(format!("it fails since {}: deliveries wait", since.rfc3339()));
    }
}

/// What only the engine knows: degraded, and when the backlog will be through.
fn add_doing(value: &mut Value, doing: &Standing, backlog: u64) {
    if let (BreakerState::Open { probe_at, .. }, None) = (&doing.breaker, &doing.paused) {
        let at = probe_at.iso();
        value["reason"] = json!(format!("it failed: deliveries wait, the next is tried at {at}"));
    }
    if doing.state == Stands::Degraded {
        value["state"] = json!("degraded");
    }
    value["in_flight"] = json!(doing.in_flight);
    value["concurrency"] = json!(doing.concurrency);
    value["quota_left"] = json!(doing.quota_left);
    value["through_at"] = json!(doing.forecast.filter(|_| backlog > 0).map(|at| at.iso()));
}

fn find(
    app: &App,
    caller: &Caller,
    name: &str,
) -> Result<(DestinationId, std::sync::Arc<Destination>), Problem> {
    let live = app.live();
    let id = live.destination_id(name);
    let found = id.and_then(|id| live.destinations.get(&id).map(|found| (id, found.clone())));
    found.filter(|(_, found)| caller.sees(&found.tenant)).ok_or_else(|| {
        let seen = live.hub.destinations.iter().filter(|d| caller.sees(&d.tenant));
        let names: Vec<&str> = seen.map(|d| d.name.as_str()).collect();
        Problem::not_found(format!("there is no destination `{name}`: there are {}", names.join(", ")))
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pause {
    note: String,
}

pub async fn pause(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    OptionalJson(body): OptionalJson<Pause>,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (destination, _) = find(&app, &caller, &name)?;
    let note = match body.note.is_empty() {
        true => format!("paused by {}", caller.name),
        false => body.note,
    };
    let reason = Reason::new("operator", note);
    let paused = Some(reason.clone());
    stand(&app, destination, paused, Happened::Paused { destination, reason }).await?;
    Ok(Json(json!({ "id": name, "state": "paused" })))
}

pub async fn resume(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (destination, settings) = find(&app, &caller, &name)?;
    if let Some(why) = settings.held() {
        return Err(Problem::new(StatusCode::CONFLICT, "held", why.text.clone()));
    }
    stand(&app, destination, None, Happened::Resumed { destination }).await?;
    Ok(Json(json!({ "id": name, "state": "active" })))
}

/// The engine has the word on a destination and writes it down. Where its desk is in another process, or in
/// none, it is written here: the owner follows within seconds.
async fn stand(
    app: &App,
    destination: DestinationId,
    paused: Option<Reason>,
    told: Happened,
) -> Result<(), Problem> {
    if !app.serves(destination) {
        let say = system::of_standing(&app.live(), destination, paused.as_ref());
        let at = runtime::now();
        let own = app.clone();
        let kept = to_its_end(async move {
            let wrote = own.store.write(Write::Stand { destination, fence: None, paused, at, say }).await;
            own.route_wake.notify_one();
            wrote
        });
        kept.await?;
        return Ok(());
    }
    let mut moved = app.moved.subscribe();
    app.tell(told).await;
    let kept = async {
        loop {
            let row = app.store.standing(destination).await?;
            if row.is_some_and(|row| row.paused.is_some()) == paused.is_some() {
                return Ok(());
            }
            // Closed only when the program ends.
            let _ = moved.changed().await;
        }
    };
    let late = || {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "it is done, but could not be kept yet",
        )
    };
    runtime::within(KEPT_MS_MAX, kept).await.unwrap_or_else(|| Err(late()))
}

/// The push re-sync is due now.
pub async fn resync(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (id, settings) = find(&app, &caller, &name)?;
    let Some(every) = settings.resync else {
        let detail = format!("`{name}` has no `resync`: write resync = {{ every = \"24h\" }} in its section");
        return Err(Problem::new(StatusCode::CONFLICT, "no_resync", detail));
    };
    let (tenant, about, at) = (settings.tenant.clone(), id.0, runtime::now());
    let own = app.clone();
    to_its_end(async move {
        let wrote = own.store.write(Write::RoundNow { tenant, about, at }).await;
        own.round_wake.notify_one();
        wrote
    })
    .await?;
    Ok(Json(json!({ "id": name, "every": every.to_string(), "due": at.iso() })))
}

/// One harmless exchange that shows whether address and credential work.
pub async fn test(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (_, destination) = find(&app, &caller, &name)?;
    let probe = destination.sink.probe();
    let shown = format!("{} {}{}", probe.method, destination.target.base_url, probe.path);
    let value = match exchange(&app, &destination, probe).await {
        Ok(answer) => {
            // 501: it knows no such harmless request (RFC 9110, 15.6.2), like a 405.
            let reached = !matches!(answer.status, 401 | 403 | 500 | 502..);
            let says = match answer.status {
                401 | 403 => "the credential was refused",
                500 | 502.. => "it was reached and is in trouble itself",
                200..=299 => "it works",
                _ => {
                    "it was reached and the credential was not refused; it has no answer to this harmless request"
                }
            };
            json!({ "id": name, "ok": reached, "request": shown, "status": answer.status, "says": says })
        }
        Err(why) => json!({ "id": name, "ok": false, "request": shown, "status": null, "says": why.text }),
    };
    Ok(Json(value))
}

async fn exchange(app: &App, destination: &Destination, request: Request) -> Result<Answer, Reason> {
    let request = sign::sign(destination, request, runtime::now())?;
    let egress = app.live().egress.clone();
    egress.send(&destination.target, request).await.map_err(|lost| lost.why)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prepare {
    /// Create what is missing.
    yes: bool,
}

/// What the vendor's account lacks for us; created on `yes`.
pub async fn prepare(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    OptionalJson(body): OptionalJson<Prepare>,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (_, destination) = find(&app, &caller, &name)?;
    let create = body.yes;
    if destination.kind.name != "hubspot" {
        let detail = format!("kind `{}` needs no preparation", destination.kind.name);
        return Err(Problem::new(StatusCode::CONFLICT, "nothing_to_prepare", detail));
    }
    let prepare =
        mailspan_connectors::hubspot::prepare(&destination.own).map_err(|bad| Problem::bad(bad.text))?;
    let prepare = &prepare;
    let ask = |request| exchange(&app, &destination, request);
    let mut missing = crate::deliver::prepare::missing(prepare, ask).await.map_err(reason)?;
    let mut created = Vec::new();
    if create && !missing.is_empty() {
        created = crate::deliver::prepare::create(prepare, &missing, ask).await.map_err(reason)?;
        missing = crate::deliver::prepare::missing(prepare, ask).await.map_err(reason)?;
    }
    Ok(Json(json!({
        "id": name,
        "missing": missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "created": created,
    })))
}

fn reason(reason: Reason) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, &reason.code, reason.text)
}
