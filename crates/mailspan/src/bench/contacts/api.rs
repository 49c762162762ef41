//! The hub's side: contacts written and read over its API.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::people;
use super::tally::{Found, Tally};
use crate::bench::link::Link;
use crate::runtime;

/// Rows of a bulk request and of a page: the API's maxima.
pub const BULK: u64 = 1_000;
pub const PAGE: usize = 500;
/// Bulk requests at once: one is read while another is written.
const BULK_CONNECTIONS: u64 = 4;
/// Pages of the second phase, so that a list without end is noticed.
const PAGES_MAX: u64 = 1_000_000;

/// How long the router may need for what was accepted.
const ROUTED_MS_MAX: u64 = 600_000;
const LOOK_MS: u64 = 50;

#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    pub bearer: Arc<str>,
}

/// Contacts that one connection sent; `micros` of each request.
#[derive(Default)]
struct Sent {
    contacts: Vec<(u64, u32, bool)>,
    micros: Vec<u64>,
    trouble: Option<String>,
}

/// What a phase of writing took.
pub struct Took {
    pub seconds: f64,
    /// Of each request.
    pub micros: Vec<u64>,
    pub trouble: Option<String>,
}

impl Api {
    /// Writes these contacts, a thousand a request.
    pub async fn bulk(&self, numbers: Vec<u64>, tally: &mut Tally) -> anyhow::Result<Took> {
        let rows = with_versions(numbers, tally);
        let requests: Vec<Vec<(u64, u32)>> = rows.chunks(BULK as usize).map(<[_]>::to_vec).collect();
        self.phase(requests, BULK_CONNECTIONS, tally).await
    }

    /// Writes these contacts one by one.
    pub async fn upsert(
        &self,
        numbers: Vec<u64>,
        connections: u64,
        tally: &mut Tally,
    ) -> anyhow::Result<Took> {
        let requests = with_versions(numbers, tally).into_iter().map(|row| vec![row]).collect();
        self.phase(requests, connections, tally).await
    }

    /// Each connection takes every so-manieth request.
    async fn phase(
        &self,
        requests: Vec<Vec<(u64, u32)>>,
        connections: u64,
        tally: &mut Tally,
    ) -> anyhow::Result<Took> {
        let mut shares = vec![Vec::new(); usize::try_from(connections)?];
        let places = (0..shares.len()).cycle();
        for (place, request) in places.zip(requests) {
            shares[place].push(request);
        }
        let began = runtime::instant();
        let mut ends = Vec::new();
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            let (done, end) = oneshot::channel();
            let api = self.clone();
            ends.push(end);
            runtime::spawn(async move {
                // Nobody listens any more where the bench was stopped.
                let _ = done.send(api.share(share).await);
            });
        }
        let mut took = Took { seconds: 0.0, micros: vec![], trouble: None };
        for end in ends {
            let sent = end.await.context("a connection of the bench panicked")?;
            sent.contacts.iter().for_each(|(n, version, kept)| tally.sent(*n, *version, *kept));
            took.micros.extend(sent.micros);
            took.trouble = took.trouble.or(sent.trouble);
        }
        took.seconds = began.elapsed().as_secs_f64();
        Ok(took)
    }

    async fn share(&self, requests: Vec<Vec<(u64, u32)>>) -> Sent {
        let mut link = Link::new(self.address);
        let mut sent = Sent::default();
        for rows in requests {
            let (method, path, body) = match rows.as_slice() {
                [(n, version)] => (Method::PUT, "/contacts", people::contact(*n, *version)),
                _ => (Method::POST, "/contacts/bulk", bulk_body(&rows)),
            };
            let body = Bytes::from(body.to_string());
            let began = runtime::instant();
            let answered = link.send(method, path, Some(("authorization", &self.bearer)), body).await;
            sent.micros.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            let trouble = trouble_of(answered, rows.len());
            let kept = trouble.is_none();
            sent.trouble = sent.trouble.or(trouble);
            sent.contacts.extend(rows.into_iter().map(|(n, version)| (n, version, kept)));
        }
        sent
    }

    /// Waits until nothing waits for the router.
    pub async fn routed(&self) -> anyhow::Result<()> {
        let mut link = Link::new(self.address);
        let began = runtime::instant();
        while began.elapsed().as_millis() < u128::from(ROUTED_MS_MAX) {
            if metric(&mut link, &self.bearer, "mailspan_waiting_events").await? == 0 {
                return Ok(());
            }
            runtime::sleep(LOOK_MS).await;
        }
        bail!("after {ROUTED_MS_MAX} ms the hub had not routed what it accepted")
    }

    /// A page of the list, and the time that it took in microseconds.
    pub async fn page(&self, link: &mut Link, query: &str) -> anyhow::Result<(Bytes, u64)> {
        let path = format!("/contacts?limit={PAGE}&{query}");
        let began = runtime::instant();
        let asked = link.send(Method::GET, &path, Some(("authorization", &self.bearer)), Bytes::new());
        let (status, body) = asked.await.context("ask for a page of contacts")?;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if status != 200 {
            bail!("a page was answered {status}: {}", shown(&body));
        }
        Ok((body, micros))
    }

    /// The second phase: the whole list by cursor, compared with what was written.
    pub async fn read_back(&self, tally: &Tally) -> anyhow::Result<Found> {
        let mut link = Link::new(self.address);
        let mut reading = tally.reading();
        let mut query = "cursor=".to_owned();
        for _ in 0..PAGES_MAX {
            let (body, _) = self.page(&mut link, &query).await?;
            let page: Value = serde_json::from_slice(&body).context("read a page of contacts")?;
            reading.page(page["data"].as_array().map_or(&[][..], Vec::as_slice));
            match page["meta"]["nextCursor"].as_str() {
                Some(next) if page["meta"]["hasMore"] == true => query = format!("cursor={next}"),
                _ => return Ok(reading.end()),
            }
        }
        bail!("the list of contacts has no end")
    }
}

/// A number of the hub's own metrics, one without labels.
pub async fn metric(link: &mut Link, bearer: &str, name: &str) -> anyhow::Result<u64> {
    let asked = link.send(Method::GET, "/metrics", Some(("authorization", bearer)), Bytes::new());
    let (status, body) = asked.await.context("ask for the metrics")?;
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("/metrics was answered {status} without {name}"))
}

fn with_versions(numbers: Vec<u64>, tally: &Tally) -> Vec<(u64, u32)> {
    numbers.into_iter().map(|n| (n, tally.next(n))).collect()
}

fn bulk_body(rows: &[(u64, u32)]) -> Value {
    let contacts: Vec<Value> = rows.iter().map(|(n, version)| people::contact(*n, *version)).collect();
    json!({ "contacts": contacts })
}

/// Why a request was not done whole.
fn trouble_of(answered: anyhow::Result<(u16, Bytes)>, rows: usize) -> Option<String> {
    match answered {
        Ok((200, _)) if rows == 1 => None,
        Ok((200, body)) => {
            let summary: Value = serde_json::from_slice(&body).unwrap_or_default();
            let whole = summary["failed"] == 0 && summary["total"] == rows;
            (!whole).then(|| format!("a bulk request was not done whole: {}", shown(&body)))
        }
        Ok((status, body)) => Some(format!("answered {status}: {}", shown(&body))),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn shown(body: &[u8]) -> String {
    mailspan_core::clip(&String::from_utf8_lossy(body), 200).into_owned()
}
