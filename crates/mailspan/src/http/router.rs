//! Every route of the HTTP surface, in one table.

use axum::Router;
use axum::routing::{delete, get, patch, post};

use crate::app::App;
use crate::http::{doi, events, intake, maileon, mailingcore, v1};

/// What senders and load balancers reach.
pub fn public(app: App) -> Router {
    let (contacts, document) = mailingcore::routes(&app);
    Router::new()
        .merge(contacts)
        .merge(mailingcore::page::routes(&document))
        .route("/healthz", get(v1::health::alive))
        .route("/readyz", get(v1::health::ready))
        .route("/v1/events", post(events::post))
        .route("/webhooks/contacts/email", post(maileon::post).fallback(maileon::wrong_method))
        .route("/doi/{token}", get(doi::show).post(doi::confirm))
        .fallback(intake::any)
        .with_state(app)
}

/// What operators and their programs reach: each asks for an API key of a scope, except on the socket.
pub fn operator(app: App) -> Router {
    Router::new()
        .route("/metrics", get(v1::health::metrics))
        .route("/v1/events", get(v1::events::list))
        .route("/v1/events/{id}", get(v1::events::show))
        .route("/v1/events/{id}/explain", get(v1::events::explain))
        .route("/v1/deliveries", get(v1::deliveries::list))
        .route("/v1/deliveries/{id}", get(v1::deliveries::show))
        .route("/v1/deliveries/{id}/replay", post(v1::deliveries::replay))
        .route("/v1/deliveries/{id}/discard", post(v1::deliveries::discard))
        .route("/v1/deliveries/{id}/correct", post(v1::correct::correct))
        .route("/v1/replays", post(v1::jobs::replay))
        .route("/v1/discards", post(v1::jobs::discard))
        .route("/v1/jobs", get(v1::jobs::list))
        .route("/v1/jobs/{id}", get(v1::jobs::show))
        .route("/v1/jobs/{id}/{verb}", post(v1::jobs::stand))
        .route("/v1/destinations", get(v1::destinations::list))
        .route("/v1/destinations/{name}/test", post(v1::destinations::test))
        .route("/v1/destinations/{name}/pause", post(v1::destinations::pause))
        .route("/v1/destinations/{name}/resume", post(v1::destinations::resume))
        .route("/v1/destinations/{name}/prepare", post(v1::destinations::prepare))
        .route("/v1/sources", get(v1::sources::list))
        .route("/v1/sources/{name}", get(v1::sources::show))
        .route("/v1/sources/{name}/poll", post(v1::sources::poll))
        .route("/v1/sources/{name}/reconcile", post(v1::sources::reconcile))
        .route("/v1/destinations/{name}/resync", post(v1::destinations::resync))
        .route("/v1/keys", get(v1::keys::list).post(v1::keys::create))
        .route("/v1/keys/reseal", post(v1::keys::reseal))
        .route("/v1/keys/{id}", delete(v1::keys::revoke))
        .route("/v1/imports", post(v1::imports::begin))
        .route("/v1/imports/{id}/rows", post(v1::imports::rows).layer(limit_of_rows()))
        .route("/v1/imports/{id}/end", post(v1::imports::end))
        .route("/v1/contacts/report", get(v1::contacts::report))
        .route("/v1/contacts/export", get(v1::contacts::export))
        .route("/v1/erasures", get(v1::erasures::list).post(v1::erasures::begin))
        .route("/v1/erasures/identities", get(v1::erasures::identities))
        .route("/v1/erasures/again", post(v1::erasures::again))
        .route("/v1/erasures/{id}", get(v1::erasures::show))
        .route("/v1/persons/export", get(v1::erasures::export))
        .route("/v1/tenants", get(v1::tenants::list).post(v1::tenants::create))
        .route("/v1/tenants/{name}", patch(v1::tenants::change))
        .route("/v1/fields", get(v1::fields::list).post(v1::fields::declare))
        .route("/v1/fields/{name}", delete(v1::fields::drop))
        .route("/v1/ledger", get(v1::records::ledger))
        .route("/v1/refused", get(v1::records::refused))
        .route("/v1/quarantined", get(v1::records::quarantined))
        .route("/v1/audit", get(v1::records::audit))
        .with_state(app)
}

/// A page of an import is as large as a bulk request.
fn limit_of_rows() -> axum::extract::DefaultBodyLimit {
    axum::extract::DefaultBodyLimit::max(mailspan_core::limits::CONTACTS_BULK_BYTES_MAX)
}

/// For the operators' own address: probes look there too.
pub fn operator_alone(app: App) -> Router {
    let health =
        Router::new().route("/healthz", get(v1::health::alive)).route("/readyz", get(v1::health::ready));
    operator(app.clone()).merge(health.with_state(app))
}

/// Both on one address: where no `operator_listen` is set, and on the command socket.
pub fn all(app: App) -> Router {
    operator(app.clone()).merge(public(app))
}
