//! Answers on their way out: whole, late, in drops, without end, or cut off. And the small readings
//! of a request that all fakes share.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};

use crate::Faults;
use crate::gate::Way;

/// Time between two bytes of a dripping or endless answer.
const DRIP: Duration = Duration::from_millis(100);
/// How long a request that is never answered is held: longer than any client waits.
const HANG: Duration = Duration::from_secs(600);
/// A text of faults.
const FAULTS_BYTES_MAX: usize = 4 << 10;

/// An answer before it goes out.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            content_type: "application/json;charset=utf-8",
            body: body.to_string().into(),
        }
    }

    pub fn html(status: u16, page: String) -> Reply {
        Reply { status, headers: Vec::new(), content_type: "text/html;charset=utf-8", body: page.into() }
    }

    pub fn text(status: u16, text: String) -> Reply {
        Reply { status, headers: Vec::new(), content_type: "text/plain;charset=utf-8", body: text.into() }
    }

    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), content_type: "", body: Bytes::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Sends an answer on its way.
pub(crate) async fn deliver(reply: Reply, way: Way) -> Response<Body> {
    match way {
        Way::Plain => head(&reply, Body::from(reply.body.clone())),
        Way::Late(ms) => {
            sleep(Duration::from_millis(ms)).await;
            head(&reply, Body::from(reply.body.clone()))
        }
        Way::Cut => head(&reply, Body::new(Cut)),
        Way::Drip => head(&reply, Body::new(Drip::new(reply.body.clone(), false, DRIP))),
        Way::Endless => head(&reply, Body::new(Drip::new(reply.body.clone(), true, DRIP))),
    }
}

/// Holds a request that shall never be answered.
pub(crate) async fn hang() -> Response<Body> {
    sleep(HANG).await;
    head(&Reply::empty(504), Body::empty())
}

fn head(reply: &Reply, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type =
        (!reply.content_type.is_empty()).then(|| ("content-type", reply.content_type.to_owned()));
    for (name, value) in reply.headers.iter().cloned().chain(content_type) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}

/// A body that fails at once: the server can only close the connection.
struct Cut;

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "reset after commit"))))
    }
}

/// A body that comes a byte at a time, and after its end goes on with blanks where it is endless.
struct Drip {
    rest: Bytes,
    endless: bool,
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Drip {
    fn new(rest: Bytes, endless: bool, every: Duration) -> Drip {
        Drip { rest, endless, every, next: Box::pin(sleep(every)) }
    }
}

impl hyper::body::Body for Drip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.rest.is_empty() && !self.endless {
            return Poll::Ready(None);
        }
        if self.next.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let next = Instant::now() + self.every;
        self.next.as_mut().reset(next);
        let byte = if self.rest.is_empty() { Bytes::from_static(b" ") } else { self.rest.split_to(1) };
        Poll::Ready(Some(Ok(Frame::data(byte))))
    }
}

/// The segments of a path, each percent-decoded after the split.
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect()
}

/// The members of a query or of a form; of a repeated name the last.
pub(crate) fn members(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        })
        .collect()
}

/// Percent-decoding; what is no escape stays as it is. In a query, `+` is a blank.
fn decode(text: &str, query: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = escape
            .and_then(|two| std::str::from_utf8(two).ok())
            .filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if query && first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text that a page may show.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// The faults in the body of `POST /_sandbox/faults`: plain text, or the field `faults` of a form.
pub(crate) fn faults_text(content_type: Option<&HeaderValue>, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let form =
        content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    match members(&text).remove("faults") {
        Some(faults) if form => faults,
        _ => text.into_owned(),
    }
}

/// What a fake's page may load: nothing but its own style.
pub(crate) const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'";

/// A page with the faults and a form to change them, around a body that is escaped already.
pub(crate) fn page(title: &str, faults: &Faults, body: &str) -> String {
    let (title, faults) = (escape(title), escape(&faults.to_string()));
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\n\
         <style>body{{font:14px system-ui;margin:2em}}table{{border-collapse:collapse}}\
         td,th{{border:1px solid #ccc;padding:2px 8px;text-align:left}}</style>\n\
         <h1>{title}</h1>\n<form method=post action=\"/_sandbox/faults\">Faults: \
         <input name=faults size=60 value=\"{faults}\"> <button>Set</button> (none mends it)</form>\n{body}</html>\n"
    )
}

/// `POST /_sandbox/faults`: plain text answers with what is set now, a form goes back to the page.
pub(crate) async fn change_faults(request: Request, set: impl FnOnce(Faults)) -> Reply {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, FAULTS_BYTES_MAX).await else {
        return Reply::text(413, "the text is too long\n".to_owned());
    };
    let text = faults_text(parts.headers.get(CONTENT_TYPE), &body);
    let form = text.as_bytes() != &body[..];
    match Faults::parse(&text) {
        Ok(faults) => {
            let shown = format!("{faults}\n");
            set(faults);
            if form { Reply::empty(303).with("location", "/") } else { Reply::text(200, shown) }
        }
        Err(why) => Reply::text(400, format!("{why}\n")),
    }
}

/// What a lock holds, also after a panic elsewhere: a fake goes on.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        assert_eq!(segments("/a/b%40x.org//c%2Fd/%zz%4"), ["a", "b@x.org", "c/d", "%zz%4"]);
        let query = members("email=a%2Bb%40x.org&q=1+2&flag&q=3");
        assert_eq!(query["email"], "a+b@x.org");
        assert_eq!(query["q"], "3");
        assert_eq!(query["flag"], "");
    }

    #[tokio::test]
    async fn a_drip_is_whole_and_an_endless_one_goes_on() {
        let text = Bytes::from_static(b"{}");
        let whole =
            Drip::new(text.clone(), false, Duration::from_millis(1)).collect().await.unwrap().to_bytes();
        assert_eq!(whole, text);
        let mut endless = Drip::new(text, true, Duration::from_millis(1));
        let mut got = Vec::new();
        for _ in 0..5 {
            got.extend(endless.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(got, b"{}   ");
    }

    #[test]
    fn pages_are_escaped() {
        assert_eq!(escape("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
    }

    #[test]
    fn faults_come_as_text_and_as_a_form() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        assert_eq!(faults_text(Some(&form), b"faults=slow%3D5%25%3A2s"), "slow=5%:2s");
        assert_eq!(faults_text(None, b"slow=5%:2s,drip"), "slow=5%:2s,drip");
        let curl = HeaderValue::from_static("application/x-www-form-urlencoded");
        assert_eq!(faults_text(Some(&curl), b"down"), "down");
    }
}
