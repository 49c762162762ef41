//! The load: unsubscribes at a fixed rate, among changes of others at another, each at its instant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::Method;
use serde_json::json;
use tokio::sync::oneshot;

use super::bare::Bare;
use super::vendors::Vendors;
use crate::bench::contacts::people;
use crate::bench::link::Link;
use crate::bench::load::micros;
use crate::runtime;

/// Connections that send: an open loop needs as many as are answered at once.
const WORKERS: u64 = 16;

/// One that was sent; times in microseconds from the epoch.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub n: u64,
    pub version: u32,
    pub intended: u64,
    /// Nothing where no 2xx came.
    pub acknowledged: Option<u64>,
}

/// What is sent.
#[derive(Clone)]
pub enum What {
    /// By the contacts API and by an event of the application, in turns.
    Unsubscribe,
    /// A change of the profile.
    Profile,
    /// Straight to the systems.
    Bare(Arc<Vendors>),
}

#[derive(Clone)]
pub struct Aim {
    pub hub: SocketAddr,
    pub bearer: Arc<str>,
    pub epoch: Instant,
}

/// Sends each of `numbers` with its version at its instant; hears of all at the end.
pub fn start(
    aim: &Aim,
    what: &What,
    numbers: &[(u64, u32)],
    per_second: u64,
) -> Vec<oneshot::Receiver<(Vec<Sent>, Option<String>)>> {
    let began = micros(aim.epoch);
    let instant = |place: usize| began + place as u64 * 1_000_000 / per_second.max(1);
    let all: Vec<(u64, u32, u64)> =
        numbers.iter().enumerate().map(|(place, (n, version))| (*n, *version, instant(place))).collect();
    let mut ends = Vec::new();
    for worker in 0..WORKERS as usize {
        let share: Vec<_> = all.iter().copied().skip(worker).step_by(WORKERS as usize).collect();
        let (done, end) = oneshot::channel();
        let (aim, what) = (aim.clone(), what.clone());
        ends.push(end);
        runtime::spawn(async move {
            // Nobody listens any more where the bench was stopped.
            let _ = done.send(work(&aim, &what, share).await);
        });
    }
    ends
}

/// All that was sent, and the first trouble.
pub async fn end(ends: Vec<oneshot::Receiver<(Vec<Sent>, Option<String>)>>) -> (Vec<Sent>, Option<String>) {
    let (mut all, mut trouble) = (Vec::new(), None);
    for end in ends {
        match end.await {
            Ok((sent, why)) => {
                all.extend(sent);
                trouble = trouble.or(why);
            }
            Err(_) => trouble = trouble.or_else(|| Some("a sender of the bench panicked".to_owned())),
        }
    }
    (all, trouble)
}

async fn work(aim: &Aim, what: &What, share: Vec<(u64, u32, u64)>) -> (Vec<Sent>, Option<String>) {
    let mut link = Link::new(aim.hub);
    let mut bare = match what {
        What::Bare(vendors) => Some(Bare::new(vendors)),
        What::Unsubscribe | What::Profile => None,
    };
    let (mut all, mut trouble) = (Vec::new(), None);
    for (n, version, intended) in share {
        let wait = intended.saturating_sub(micros(aim.epoch)) / 1_000;
        if wait > 0 {
            runtime::sleep(wait).await;
        }
        let done = match &mut bare {
            Some(bare) => bare.unsubscribe(n).await.map_err(|error| format!("{error:#}")),
            None => ask(&mut link, aim, what, n, version).await,
        };
        let acknowledged = done.is_ok().then(|| micros(aim.epoch));
        trouble = trouble.or(done.err());
        all.push(Sent { n, version, intended, acknowledged });
    }
    (all, trouble)
}

async fn ask(link: &mut Link, aim: &Aim, what: &What, n: u64, version: u32) -> Result<(), String> {
    let (method, path, body) = match what {
        What::Profile => (Method::PUT, "/contacts".to_owned(), people::contact(n, version)),
        _ if n.is_multiple_of(2) => (Method::PATCH, format!("/contacts/u-{n}"), json!({ "optIn": false })),
        _ => {
            let (id, subject, time) = (format!("out-{n}"), people::email(n), runtime::now().rfc3339());
            let event = json!({ "type": "contact.unsubscribed", "id": id, "subject": subject, "time": time });
            (Method::POST, "/v1/events".to_owned(), event)
        }
    };
    let body = Bytes::from(body.to_string());
    match link.send(method, &path, Some(("authorization", &aim.bearer)), body).await {
        Ok((200..=299, _)) => Ok(()),
        Ok((status, body)) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            Err(format!("{path} was answered {status}: {}", mailspan_core::clip(&text, 200)))
        }
        Err(error) => Err(format!("{error:#}")),
    }
}
