//! `/v1/sources`: look, ask now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mailspan_core::Millis;
use mailspan_store::{ListedDay, RoundRow, Trouble, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::body::OptionalJson;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::hub::Source;
use crate::poll::reconcile::{self, Failed};
use crate::poll::turn::{Polled, turn};
use crate::runtime;

const DAY_MS: i64 = 86_400_000;
/// Days of the figure in a list, and of those that are shown one by one.
const DAYS: u32 = 7;
const DAYS_SHOWN: u32 = 31;
/// How long a command waits for another process that asks the same source, and how often it looks.
const TURN_WAIT_MS: u64 = 30_000;
const TURN_LOOK_MS: u64 = 250;

/// Every source of the configuration, with the figure of its last seven days.
pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let (live, rounds) = (app.live(), app.store.rounds().await?);
    let mut items = Vec::new();
    for source in live.hub.sources.iter().filter(|source| caller.sees(&source.tenant)) {
        let Some(about) = live.source_id(&source.name) else { continue };
        let row = rounds.iter().find(|row| row.about == about);
        let days = app.store.listed(about, DAYS).await?;
        items.push(shown(source, row, &days));
    }
    Ok(Json(json!({ "items": items, "next": null })))
}

/// One source, day by day.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let (source, about) = find(&app, &caller, &name)?;
    let rounds = app.store.rounds().await?;
    let days = app.store.listed(about, DAYS_SHOWN).await?;
    let mut value = shown(&source, rounds.iter().find(|row| row.about == about), &days);
    let day = |one: &ListedDay| {
        let at = Millis(one.day.saturating_mul(DAY_MS)).iso();
        json!({
            "day": at.get(..10), "type": one.event_type, "listed": one.listed, "known": one.known,
            "found": one.listed - one.known.min(one.listed), "completeness": share(one.listed, one.known),
        })
    };
    value["days"] = days.iter().map(day).collect();
    Ok(Json(value))
}

fn shown(source: &Source, row: Option<&RoundRow>, days: &[ListedDay]) -> Value {
    let poll = source.asked.as_ref().and_then(|asked| asked.poll.as_ref());
    let state = match (poll, row) {
        (None, _) => "listens",
        (_, Some(row)) if row.paused.is_some() => "paused",
        (_, Some(row)) if row.failures > 0 => "waits",
        _ => "asks",
    };
    let (listed, known) = days.iter().fold((0, 0), |(l, k), day| (l + day.listed, k + day.known));
    let at = |at: Option<Millis>| at.map(|at| at.iso());
    let row = row.filter(|_| poll.is_some());
    json!({
        "id": source.name, "kind": source.kind.name, "tenant": source.tenant, "path": source.path, "state": state,
        "every": poll.map(|poll| mailspan_core::Span { ms: poll.every_ms() }.to_string()),
        "due": at(row.filter(|row| row.paused.is_none()).map(|row| row.due)),
        "asked_at": at(row.and_then(|row| row.asked_at)),
        "round_ended_at": at(row.and_then(|row| row.ended_at)),
        "failures": row.map_or(0, |row| row.failures),
        "reason": row.and_then(|row| row.reason.clone()),
        "listed": listed, "known": known, "completeness": share(listed, known),
    })
}

/// In a hundred, to the tenth; nothing where nothing is listed.
fn share(listed: u64, known: u64) -> Option<f64> {
    (listed > 0).then(|| (known as f64 * 1_000.0 / listed as f64).floor() / 10.0)
}

fn find(app: &App, caller: &Caller, name: &str) -> Result<(Arc<Source>, i64), Problem> {
    let live = app.live();
    let found = live.hub.source(name).filter(|source| caller.sees(&source.tenant));
    let id = found.and_then(|source| live.source_id(&source.name));
    found.cloned().zip(id).ok_or_else(|| {
        let seen = live.hub.sources.iter().filter(|source| caller.sees(&source.tenant));
        let names: Vec<&str> = seen.map(|source| source.name.as_str()).collect();
        Problem::not_found(format!("there is no source `{name}`: there are {}", names.join(", ")))
    })
}

/// Asks now, whatever it waited for; a source that was paused is asked again from then on.
pub async fn poll(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (source, about) = find(&app, &caller, &name)?;
    let asked = source.asked.as_ref().and_then(|asked| Some((asked, asked.poll.as_ref()?)));
    let Some((asked, poll)) = asked else {
        let detail = format!(
            "`{name}` is not asked: kind `{}` lists nothing, or the source has no `auth`",
            source.kind.name
        );
        return Err(Problem::new(StatusCode::CONFLICT, "not_asked", detail));
    };
    let at_it = || {
        Problem::new(
            StatusCode::CONFLICT,
            "under_way",
            format!("`{name}` is being asked just now: look with sources show"),
        )
    };
    let _ours = app.rounds.begin(about).ok_or_else(at_it)?;
    let (tenant, at) = (source.tenant.clone(), runtime::now());
    app.store.write(Write::RoundNow { tenant, about, at }).await?;
    let of = Polled { source: &source, asked, poll, about };
    let mut waited = 0;
    let turned = loop {
        match turn(&app, &of, app.owner(), true).await {
            Ok(turned) => break turned,
            // Another process of the fleet asks; what it read under way may be older than this command.
            Err(Trouble::FenceLost) if waited < TURN_WAIT_MS => {
                runtime::sleep(TURN_LOOK_MS).await;
                waited += TURN_LOOK_MS;
            }
            Err(Trouble::FenceLost) => return Err(at_it()),
            Err(trouble) => return Err(trouble.into()),
        }
    };
    let mut value = json!(turned);
    value["id"] = json!(source.name);
    app.round_wake.notify_one();
    Ok(Json(value))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    transmission: String,
    /// Accept what is missing here.
    repair: bool,
}

/// The provider's log of a transmission against what was settled.
pub async fn reconcile(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    OptionalJson(wanted): OptionalJson<Wanted>,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let (source, _) = find(&app, &caller, &name)?;
    let asked = source.asked.as_ref().and_then(|asked| Some((asked, asked.log.as_ref()?)));
    let Some(asked) = asked else {
        let kind = source.kind.name;
        let detail = match source.kind.ask.as_ref().and_then(|ask| ask.log) {
            Some(_) => format!("`{name}` has no `auth`: its provider shows the log to nobody without"),
            None => format!("kind `{kind}` keeps no log of a transmission"),
        };
        return Err(Problem::new(StatusCode::CONFLICT, "no_log", detail));
    };
    if wanted.transmission.trim().is_empty() {
        return Err(Problem::bad("give the id of a transmission: { \"transmission\": \"…\" }"));
    }
    let compared =
        reconcile::reconcile(&app, &source, asked, wanted.transmission.trim(), wanted.repair).await;
    match compared {
        Ok(value) => Ok(Json(value)),
        Err(Failed::Log(reason)) => Err(Problem::new(StatusCode::BAD_GATEWAY, &reason.code, reason.text)),
        Err(Failed::Store(trouble)) => Err(Problem::from(trouble)),
    }
}
