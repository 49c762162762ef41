//! One exchange from the first look-up to the last byte of the answer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mailspan_core::{Answer, Lost, Millis, Request, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::Address;
use crate::dial::{self, Stream, Wire};
use crate::pool::Connection;
use crate::trouble::{lost, of_exchange, refused};
use crate::{Egress, Target};

/// Headers that this client sets itself, or that would let an answer be something else than it reads.
pub const OWN_HEADERS: [&str; 11] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How far an exchange got, for the one who ends it at its deadline.
#[derive(Default)]
pub(crate) struct Trace {
    at: Mutex<Phase>,
}

#[derive(Default, Clone)]
enum Phase {
    #[default]
    Resolve,
    Connect,
    Tls,
    /// The connection, and what had been written on it before.
    Answer(Arc<Wire>, u64),
    Body(u16),
}

impl Trace {
    fn set(&self, phase: Phase) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// What is said when the time is up.
    pub fn late(&self, place: &str, timeout_ms: u64) -> Lost {
        let phase = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let late =
            |sent, code, doing: String| lost(sent, code, format!("{place}: {doing} after {timeout_ms} ms"));
        match phase {
            Phase::Resolve => late(false, "timeout", "the name was not resolved".to_owned()),
            Phase::Connect => late(false, "timeout", "not connected".to_owned()),
            Phase::Tls => late(false, "timeout", "the TLS handshake was not done".to_owned()),
            Phase::Answer(wire, before) => {
                late(wire.written.load(Ordering::Relaxed) > before, "timeout", "no answer".to_owned())
            }
            Phase::Body(status) => {
                late(true, "too_slow", format!("HTTP {status}, but its body was not complete"))
            }
        }
    }
}

impl Egress {
    /// A used connection first. Where that one turned out to be closed before it took a byte (or the
    /// request is safe to repeat: RFC 9110, 9.2.1), once more on a fresh one.
    pub(crate) async fn exchange(
        &self,
        target: &Target,
        to: &Address,
        request: &http::Request<Full<Bytes>>,
        deadline: Instant,
        trace: &Trace,
    ) -> Result<Answer, Lost> {
        if let Some(mut connection) = self.pool.take(&target.key) {
            let before = connection.wire.written.load(Ordering::Relaxed);
            connection.wire.look.store(true, Ordering::Relaxed);
            let safe = request.method().is_safe();
            match ask(&mut connection, before, request.clone(), &to.shown(), trace).await {
                Ok(response) => return self.finish(target, connection, response, to, trace).await,
                Err(lost) if lost.why.code == "closed" && (safe || !lost.sent) => {}
                Err(lost) => return Err(lost),
            }
        }
        let mut connection = self.open(target, to, deadline, trace).await?;
        let before = connection.wire.written.load(Ordering::Relaxed);
        let response = ask(&mut connection, before, request.clone(), &to.shown(), trace).await?;
        self.finish(target, connection, response, to, trace).await
    }

    /// Resolves, judges, dials and shakes hands.
    async fn open(
        &self,
        target: &Target,
        to: &Address,
        deadline: Instant,
        trace: &Trace,
    ) -> Result<Connection, Lost> {
        trace.set(Phase::Resolve);
        let vetted = self.resolver.addresses(to, &self.allow).await?;
        trace.set(Phase::Connect);
        let (socket, wire) = dial::connect(to, &vetted, deadline).await?;
        let stream: Box<dyn Stream> = if to.https {
            trace.set(Phase::Tls);
            dial::handshake(to, socket, self.tls(target)?).await?
        } else {
            Box::new(socket)
        };
        let (sender, driver) = http1::Builder::new()
            .title_case_headers(target.title_case_headers)
            .max_headers(limits::HEADERS_MAX)
            .max_header_size(limits::ANSWER_HEAD_BYTES_MAX)
            .max_buf_size(limits::ANSWER_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| of_exchange(false, &to.shown(), &error))?;
        let (alive, gone) = oneshot::channel();
        TokioExecutor::new().execute(drive(driver, gone));
        Ok(Connection { sender, wire, _alive: alive, made: Instant::now(), idle_since: None })
    }

    async fn finish(
        &self,
        target: &Target,
        connection: Connection,
        response: http::Response<Incoming>,
        to: &Address,
        trace: &Trace,
    ) -> Result<Answer, Lost> {
        let status = response.status().as_u16();
        trace.set(Phase::Body(status));
        let headers = response.headers().iter().map(shown).collect();
        let (body, cut) = read(response.into_body()).await.map_err(|error| {
            let doing = format!(
                "{}: HTTP {status}, then the connection was closed in the middle of the body",
                to.shown()
            );
            lost(true, "closed", format!("{doing} ({error})"))
        })?;
        if !cut && status != 101 {
            self.pool.give(&target.key, connection, target.concurrency.max(1) as usize);
        }
        Ok(Answer { at: (self.clock)(), status, headers, body, cut })
    }
}

/// Reads and writes while the connection lives, idle or not. When its owner has gone it may say a
/// goodbye, but not wait for a receiver that takes nothing.
async fn drive(
    mut driver: http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>,
    gone: oneshot::Receiver<()>,
) {
    tokio::select! {
        ended = &mut driver => {
            if let Err(error) = ended {
                tracing::trace!(%error, "a connection ended");
            }
        }
        _ = gone => {
            // Late or not, what is left of it is dropped here.
            let _ = tokio::time::timeout(GOODBYE, driver).await;
        }
    }
}

const GOODBYE: Duration = Duration::from_secs(1);

async fn ask(
    connection: &mut Connection,
    before: u64,
    request: http::Request<Full<Bytes>>,
    place: &str,
    trace: &Trace,
) -> Result<http::Response<Incoming>, Lost> {
    trace.set(Phase::Answer(connection.wire.clone(), before));
    let result = match connection.sender.ready().await {
        Ok(()) => connection.sender.send_request(request).await,
        Err(error) => Err(error),
    };
    result.map_err(|error| {
        let sent = connection.wire.written.load(Ordering::Relaxed) > before;
        of_exchange(sent, place, &error)
    })
}

/// At most [`limits::ANSWER_BYTES_MAX`]; true when there was more.
async fn read(mut body: Incoming) -> Result<(Vec<u8>, bool), hyper::Error> {
    let most = limits::ANSWER_BYTES_MAX;
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(most);
    let mut read = Vec::with_capacity(said.min(64 << 10));
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that a verdict needs.
        let Ok(data) = frame?.into_data() else { continue };
        let room = most - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok((read, true));
        }
    }
    Ok((read, false))
}

fn shown((name, value): (&HeaderName, &HeaderValue)) -> (String, String) {
    (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The request as it is written. No `Accept-Encoding`: an answer cannot be a bomb.
pub(crate) fn head(to: &Address, request: &Request) -> Result<http::Request<Full<Bytes>>, Lost> {
    let bad = |text: String| refused("bad_request", text);
    let mut built = http::Request::new(Full::new(request.body.clone()));
    *built.method_mut() = http::Method::from_bytes(request.method.as_bytes())
        .map_err(|_| bad(format!("`{}` is not a method", request.method)))?;
    *built.uri_mut() = to.target.parse().map_err(|error| bad(format!("the path cannot be sent: {error}")))?;
    let headers = built.headers_mut();
    let host = HeaderValue::from_str(&to.authority).map_err(|_| bad("the host cannot be sent".to_owned()))?;
    headers.insert(header::HOST, host);
    for (name, value) in &request.headers {
        if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(bad(format!("the header `{name}` is set by the client itself: leave it out")));
        }
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad(format!("`{name}` is not a header's name")))?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            bad(format!("the value of header `{name}` holds a line break or a control character"))
        })?;
        headers.append(key, value);
    }
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("mailspan/", env!("CARGO_PKG_VERSION"))),
        );
    }
    if !request.body.is_empty() || matches!(request.method, "POST" | "PUT" | "PATCH") {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    }
    Ok(built)
}

/// Reads the wall clock; injected.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;
