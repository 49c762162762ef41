//! `/doi/{token}`: the confirmation page of a double opt-in. Looking changes nothing: mail scanners follow
//! links; the button confirms, once.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use mailspan_core::contact::{Evidence, Stated, Turn};
use mailspan_core::limits::INTAKE_BODY_BYTES_MAX;
use mailspan_store::{ConfirmationRow, FactRow, Trouble};

use crate::app::App;
use crate::contacts::confirm;
use crate::contacts::door::{self, Origin};
use crate::contacts::links;
use crate::http::pages::{self, Words};
use crate::http::{intake, limit, peer};
use crate::runtime;

/// Facts of a person that are read at once.
const FACTS_PAGE: usize = 500;

pub async fn show(State(app): State<App>, Path(token): Path<String>) -> Response {
    match find(&app, &token).await {
        Ok(Some(row)) if row.used_at.is_some() => stands(&app, &row).await,
        Ok(Some(row)) if row.expires_at <= runtime::now() => {
            page(&row, |words| words.expired, StatusCode::GONE)
        }
        Ok(Some(row)) => {
            let words = words(&row);
            let address = row.address.as_ref().map(ToString::to_string).unwrap_or_default();
            pages::form(words, &address)
        }
        Ok(None) => pages::say(pages::words(None), |words| words.unknown, StatusCode::NOT_FOUND),
        Err(trouble) => unavailable(&trouble),
    }
}

pub async fn confirm(State(app): State<App>, Path(token): Path<String>, request: Request<Body>) -> Response {
    let row = match find(&app, &token).await {
        Ok(Some(row)) => row,
        Ok(None) => return pages::say(pages::words(None), |words| words.unknown, StatusCode::NOT_FOUND),
        Err(trouble) => return unavailable(&trouble),
    };
    let Some(id) = confirm::read_token(&app, &token) else {
        return pages::say(pages::words(None), |words| words.unknown, StatusCode::NOT_FOUND);
    };
    let (parts, body) = request.into_parts();
    let Ok(bytes) = limit::read_body(body, &parts.headers, INTAKE_BODY_BYTES_MAX).await else {
        return page(&row, |words| words.unknown, StatusCode::BAD_REQUEST);
    };
    let live = app.live();
    let raw = intake::raw_request(&live, &parts, bytes);
    let mut write = confirm::confirmed(id, row.gives, raw.received_at);
    write.evidence.ip = peer::client(&parts, &live.hub.server.trusted_proxies).map(|ip| ip.to_string());
    write.evidence.user_agent =
        raw.header("user-agent").map(|agent| mailspan_core::clip(agent, 200).into_owned());
    write.evidence.page = Some("/doi".to_owned());
    match asked(&app, &row).await {
        Ok(Some(asked)) => {
            write.evidence.source = asked.source;
            write.evidence.consent_version = asked.consent_version;
            write.evidence.text_hash = asked.text_hash;
        }
        Ok(None) => {}
        Err(trouble) => return unavailable(&trouble),
    }
    let stored = links::kept(&raw);
    let origin =
        Origin { tenant: &row.tenant, credential: "visitor", request: Some(&stored), cuts: Vec::new() };
    let outcomes = match door::write(&app, origin, vec![write]).await {
        Ok(outcomes) => outcomes,
        Err(trouble) => return unavailable(&trouble),
    };
    match outcomes.first().map(|outcome| &outcome.turn) {
        Some(Turn::Refused(reason)) if reason.code == "token_expired" => {
            page(&row, |words| words.expired, StatusCode::GONE)
        }
        Some(Turn::Refused(reason)) if reason.code != "token_used" => {
            page(&row, |words| words.unknown, StatusCode::NOT_FOUND)
        }
        _ => stands(&app, &row).await,
    }
}

/// What the visitor has after a click, or after an earlier one: it may have been taken back since, and whoever must not
/// be mailed for another reason must not read that all is well.
async fn stands(app: &App, row: &ConfirmationRow) -> Response {
    let contacts = match app.store.contacts_of(vec![row.person]).await {
        Ok(contacts) => contacts,
        Err(trouble) => return unavailable(&trouble),
    };
    match contacts.get(&row.person).filter(|contact| contact.opt_in) {
        None => page(row, |words| words.expired, StatusCode::GONE),
        Some(contact) if contact.suppressed_at.is_some() => page(row, |words| words.blocked, StatusCode::OK),
        Some(_) => page(row, |words| words.done, StatusCode::OK),
    }
}

/// What is confirmed is what was asked for: the words, their version and where they stood.
async fn asked(app: &App, row: &ConfirmationRow) -> Result<Option<Evidence>, Trouble> {
    let (mut after, mut found) = (0, None);
    loop {
        let facts = app.store.facts_of(&row.tenant, row.person, after, FACTS_PAGE).await?;
        let Some(last) = facts.last() else { return Ok(found) };
        after = last.id;
        let is_it = |fact: &FactRow| fact.what == Stated::Asked && fact.happened_at == row.asked_at;
        found = facts.into_iter().rfind(is_it).map(|fact| fact.evidence).or(found);
    }
}

async fn find(app: &App, token: &str) -> Result<Option<ConfirmationRow>, Trouble> {
    match confirm::read_token(app, token) {
        Some(id) => app.store.confirmation(&id).await,
        None => Ok(None),
    }
}

fn words(row: &ConfirmationRow) -> &'static Words {
    pages::words(row.locale.as_deref())
}

fn page(row: &ConfirmationRow, text: impl Fn(&Words) -> &'static str, status: StatusCode) -> Response {
    pages::say(words(row), text, status)
}

fn unavailable(trouble: &Trouble) -> Response {
    tracing::error!("a confirmation could not be read or kept: {trouble}");
    pages::say(pages::words(None), |words| words.later, StatusCode::SERVICE_UNAVAILABLE)
}
