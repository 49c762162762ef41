//! Who answers the requests of a case: the sandbox's vendors, or a receiver that takes everything.

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use http_body_util::BodyExt;
use mailspan_core::{Answer, Event, Millis, Request};
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_sandbox::maileon::Maileon;
use mailspan_sandbox::mailingcore::MailingCore;
use serde_json::json;
use tower::ServiceExt;

use super::Case;
use crate::hub::Destination;
use crate::runtime;

const KEY: &str = "case";

pub struct Vendor {
    /// With the credential that it wants.
    fake: Option<(Router, String)>,
}

impl Vendor {
    /// A vendor that knows the event's person, unless the case says otherwise.
    pub fn new(destination: &Destination, case: &Case, event: &Event) -> Vendor {
        let address = event.subject.address.as_ref().filter(|_| !case.unknown_contact);
        let address = address.map(|address| address.as_str());
        let bearer = format!("Bearer {KEY}");
        let fake = match destination.kind.name {
            "hubspot" => Some((hubspot(address, event), bearer)),
            "mailingcore" => Some((mailingcore(event, case.unknown_contact), bearer)),
            "maileon" => Some((maileon(&destination.own), format!("Basic {KEY}"))),
            _ => None,
        };
        Vendor { fake }
    }

    pub async fn answer(&self, request: &Request, at: Millis) -> Answer {
        let fine =
            |body: &[u8]| Answer { at, status: 200, headers: Vec::new(), body: body.to_vec(), cut: false };
        let Some((router, credential)) = self.fake.clone() else { return fine(b"{}") };
        let mut builder = HttpRequest::builder().method(request.method).uri(request.path.as_str());
        for (name, value) in &request.headers {
            // A case is told no tenant of the fake's.
            if name != "x-tenant-id" {
                builder = builder.header(name, value);
            }
        }
        let built = builder.header("authorization", credential).body(Body::from(request.body.clone()));
        let Ok(built) = built else { return Answer { status: 400, ..fine(b"the request is not HTTP") } };
        let Ok(response) = router.oneshot(built).await;
        let status = response.status().as_u16();
        let body =
            response.into_body().collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        Answer { status, ..fine(&body) }
    }
}

fn hubspot(address: Option<&str>, event: &Event) -> Router {
    let hubspot = HubSpot::new(KEY, Faults::default(), 1, runtime::clock());
    if let Some(address) = address {
        hubspot.add_contact(address);
    }
    if let Ok(data) = mailspan_core::json::parse(event.data.get().as_bytes())
        && let Some(owner) = data.get("correlation").and_then(|node| node.get("crm_owner"))
        && let Some(owner) = owner.as_str()
    {
        hubspot.add_owner(owner);
    }
    hubspot.router()
}

/// Knows the person by its external id too; who is known by that alone has some address there.
fn mailingcore(event: &Event, unknown: bool) -> Router {
    let account = MailingCore::new(KEY, Faults::default(), 1, runtime::clock());
    let (address, id) = (&event.subject.address, &event.subject.external_id);
    if !unknown && (address.is_some() || id.is_some()) {
        let address = address.as_ref().map_or("person@example.com", |address| address.as_str());
        let mut contact = json!({"email": address, "optIn": true});
        if let Some(id) = id {
            contact["externalId"] = json!(id);
        }
        // A contact that it would not take is one that it does not know.
        let _ = account.upsert(&contact);
    }
    account.router()
}

/// Takes every custom field that the settings name.
fn maileon(own: &serde_json::Value) -> Router {
    let names = ["custom_fields", "attributes"].iter().filter_map(|key| own.get(*key)?.as_object());
    let names: Vec<&str> = names.flatten().filter_map(|(_, name)| name.as_str()).collect();
    Maileon::new(KEY, &names, Faults::default(), 1, runtime::clock()).router()
}
