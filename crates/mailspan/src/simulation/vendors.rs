//! Who answers: the sandbox's HubSpot under the simulation's time, and a receiver of kind `http`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use axum::http::Request as HttpRequest;
use http_body_util::BodyExt;
use mailspan_core::{Answer, Lost, Millis, Rate, Reason, Request, SplitMix64};
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use tower::ServiceExt;

const TOKEN: &str = "simulated";

/// The time as everything in a simulation sees it.
#[derive(Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    pub fn set(&self, now: Millis) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

pub fn hubspot(seed: u64, clock: &Clock, people: &[String]) -> HubSpot {
    let faults = Faults {
        server_error: 8,
        reset_after_commit: 5,
        rate_limit: Some(Rate { count: 6, per_ms: 1_000 }),
        ..Faults::default()
    };
    let time = clock.clone();
    let account = HubSpot::new(TOKEN, faults, seed, Arc::new(move || time.now()));
    people.iter().for_each(|address| drop(account.add_contact(address)));
    account
}

/// What the egress client would make of the account's answer.
pub async fn ask_hubspot(account: &HubSpot, request: &Request, at: Millis) -> Result<Answer, Lost> {
    let mut builder = HttpRequest::builder().method(request.method).uri(request.path.as_str());
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let built = builder.header("authorization", format!("Bearer {TOKEN}"));
    let built = built.body(Body::from(request.body.clone())).unwrap();
    let Ok(response) = account.router().oneshot(built).await;
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    match response.into_body().collect().await {
        Ok(body) => Ok(Answer { at, status, headers, body: body.to_bytes().to_vec(), cut: false }),
        Err(_) => Err(lost()),
    }
}

/// A receiver: the bodies that it took, in order.
#[derive(Default)]
pub struct Hook {
    pub taken: Vec<(Millis, String)>,
}

impl Hook {
    /// One in ten is refused for a moment, one in fifteen is taken and never answered.
    pub fn ask(&mut self, request: &Request, at: Millis, random: &mut SplitMix64) -> Result<Answer, Lost> {
        let answered = |status| Answer { at, status, headers: Vec::new(), body: b"{}".to_vec(), cut: false };
        if random.chance(10) {
            return Ok(answered(500));
        }
        self.taken.push((at, String::from_utf8_lossy(&request.body).into_owned()));
        if random.chance(7) { Err(lost()) } else { Ok(answered(200)) }
    }
}

fn lost() -> Lost {
    Lost { sent: true, refused: false, why: Reason::new("lost", "the connection broke") }
}
