//! The floors: bare programs that do the least that the task needs, on the same machine in the same
//! minutes. `ingest` verifies and keeps one row with a random dedupe key; `deliver` also maps, posts
//! and marks the row done; `receiver` only answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::event::hex;
use super::link::Link;
use super::rows::{self, Row};
use super::{SECRET_FILE, receiver};
use crate::runtime;

/// Connections to the receiver, as many as the hub's destination may have.
pub const POSTERS: usize = 64;
/// Rows between commit and post; the load keeps fewer underway.
const POSTS_MAX: usize = 16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Ingest,
    Deliver,
    Receiver,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ingest => "ingest",
            Kind::Deliver => "deliver",
            Kind::Receiver => "receiver",
        }
    }
}

#[derive(Clone)]
struct Floor {
    key: Arc<hmac::Key>,
    writer: mpsc::Sender<Row>,
    posts: Option<mpsc::Sender<Post>>,
    file: PathBuf,
}

struct Post {
    row: i64,
    body: Bytes,
}

/// Serves until it is told to stop. `to` is the receiver of `deliver`.
pub async fn run(
    kind: Kind,
    listen: SocketAddr,
    folder: &Path,
    to: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let router = match kind {
        Kind::Receiver => Router::new().route("/ready", get(ready)).fallback(discard),
        Kind::Ingest | Kind::Deliver => storing(folder, to).await?,
    };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let (_stop, stopped) = watch::channel(false);
    tokio::select! {
        () = receiver::serve(listener, router, stopped) => {}
        () = runtime::told_to_stop() => {}
    }
    Ok(())
}

async fn ready() -> StatusCode {
    StatusCode::OK
}

async fn discard(_: Bytes) -> StatusCode {
    StatusCode::OK
}

async fn storing(folder: &Path, to: Option<SocketAddr>) -> anyhow::Result<Router> {
    let secret = std::fs::read_to_string(folder.join(SECRET_FILE)).context("read the secret of the bench")?;
    let file = folder.join("floor.db");
    let writer = rows::start(&file)?;
    let posts = to.map(|to| start_posters(to, &writer));
    let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.trim().as_bytes()));
    let floor = Floor { key, writer, posts, file };
    Ok(Router::new()
        .route("/ready", get(ready))
        .route("/count", get(count))
        .route("/in", post(take))
        .with_state(floor))
}

async fn take(State(floor): State<Floor>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let given = headers.get("x-mailtarget-signature").map_or(&[][..], |value| value.as_bytes());
    if !verified(&floor.key, &body, given) {
        return (StatusCode::UNAUTHORIZED, "");
    }
    let (done, kept) = oneshot::channel();
    let key = runtime::random_u128().to_be_bytes();
    if floor.writer.send(Row::Keep { key, body: body.clone(), done }).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the writer has ended");
    }
    let Ok(row) = kept.await else { return (StatusCode::SERVICE_UNAVAILABLE, "the row was not kept") };
    if let Some(posts) = &floor.posts {
        // Closed only when the program ends.
        let _ = posts.send(Post { row, body }).await;
    }
    (StatusCode::OK, r#"{"accepted":1}"#)
}

fn verified(key: &hmac::Key, body: &[u8], given: &[u8]) -> bool {
    let right = hex(hmac::sign(key, body).as_ref());
    aws_lc_rs::constant_time::verify_slices_are_equal(right.as_bytes(), given).is_ok()
}

/// Rows kept and rows done.
async fn count(State(floor): State<Floor>) -> impl IntoResponse {
    let counted = runtime::blocking(move || rows::count(&floor.file)).await;
    match counted {
        Some(Ok((kept, done))) => (StatusCode::OK, json!({ "kept": kept, "done": done }).to_string()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

fn start_posters(to: SocketAddr, writer: &mpsc::Sender<Row>) -> mpsc::Sender<Post> {
    let (posts, queue) = mpsc::channel(POSTS_MAX);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..POSTERS {
        runtime::spawn(deliver(queue.clone(), Link::new(to), writer.clone()));
    }
    posts
}

/// Maps, posts, marks. It tries once: a bare program has no calendar.
async fn deliver(queue: Arc<Mutex<mpsc::Receiver<Post>>>, mut link: Link, writer: mpsc::Sender<Row>) {
    loop {
        let next = queue.lock().await.recv().await;
        let Some(Post { row, body }) = next else { return };
        let Some(mapped) = map(&body) else { continue };
        if matches!(link.post("/0", None, mapped.into()).await, Ok((200, _))) {
            // Closed only when the program ends.
            let _ = writer.send(Row::Done { row }).await;
        }
    }
}

/// The shape of a CRM's activity, made in native code.
fn map(body: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let meta: Value = serde_json::from_str(event["recipientMeta"].as_str()?).ok()?;
    let activity = json!({
        "eventId": event["eventId"],
        "person": event["recipient"].as_str()?.to_lowercase(),
        "kind": "click",
        "link": event["targetLinkUrl"],
        "contact": meta["crm_contact_id"],
        "deal": meta["crm_deal_id"],
        "at": event["timestamp"],
    });
    Some(activity.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::event::Maker;
    use super::*;

    #[test]
    fn the_map_keeps_what_the_receiver_looks_for() {
        let maker = Maker::new("secret", 7, 64, 0);
        let (body, signature) = maker.request(&[41]);
        assert_eq!(maker.indices(map(&body).unwrap().as_bytes()), [41]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert!(verified(&key, &body, signature.as_bytes()));
        assert!(!verified(&key, b"other", signature.as_bytes()));
    }
}
