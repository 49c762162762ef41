//! Who answers the requests of a case: the sandbox's HubSpot, or a receiver that takes everything.

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use http_body_util::BodyExt;
use mailspan_core::{Answer, Event, Millis, Request};
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use tower::ServiceExt;

use super::Case;
use crate::hub::Destination;
use crate::runtime;

const TOKEN: &str = "case";

pub struct Vendor {
    hubspot: Option<Router>,
}

impl Vendor {
    /// A HubSpot that knows the event's person, unless the case says otherwise.
    pub fn new(destination: &Destination, case: &Case, event: &Event) -> Vendor {
        if destination.kind.name != "hubspot" {
            return Vendor { hubspot: None };
        }
        let hubspot = HubSpot::new(TOKEN, Faults::default(), 1, runtime::clock());
        if let Some(address) = event.subject.address.as_ref().filter(|_| !case.unknown_contact) {
            hubspot.add_contact(address.as_str());
        }
        if let Ok(data) = mailspan_core::json::parse(event.data.get().as_bytes())
            && let Some(owner) = data.get("correlation").and_then(|node| node.get("crm_owner"))
            && let Some(owner) = owner.as_str()
        {
            hubspot.add_owner(owner);
        }
        Vendor { hubspot: Some(hubspot.router()) }
    }

    pub async fn answer(&self, request: &Request, at: Millis) -> Answer {
        let fine =
            |body: &[u8]| Answer { at, status: 200, headers: Vec::new(), body: body.to_vec(), cut: false };
        let Some(router) = self.hubspot.clone() else { return fine(b"{}") };
        let mut builder = HttpRequest::builder().method(request.method).uri(request.path.as_str());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let built =
            builder.header("authorization", format!("Bearer {TOKEN}")).body(Body::from(request.body.clone()));
        let Ok(built) = built else { return Answer { status: 400, ..fine(b"the request is not HTTP") } };
        let Ok(response) = router.oneshot(built).await;
        let status = response.status().as_u16();
        let body =
            response.into_body().collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        Answer { status, ..fine(&body) }
    }
}
