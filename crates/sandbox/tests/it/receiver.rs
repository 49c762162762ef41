//! The plain receiver.

use std::time::Duration;

use mailspan_sandbox::Faults;
use mailspan_sandbox::receiver::Receiver;
use serde_json::json;

use crate::{Back, Time, raw};

fn receiver(faults: &str) -> (Receiver, Time) {
    let time = Time::still();
    (Receiver::new(Faults::parse(faults).unwrap(), 1, time.clock()), time)
}

async fn post(receiver: &Receiver, key: &str) -> Result<Back, String> {
    raw(&receiver.router(), "POST", "/hook?x=1", &[("idempotency-key", key), ("X-Custom", "v")], "{\"a\":1}")
        .await
}

#[tokio::test]
async fn it_keeps_what_came() {
    let (receiver, _) = receiver("none");
    assert_eq!(post(&receiver, "k1").await.unwrap().body, json!({"ok": true}));
    post(&receiver, "k1").await.unwrap();
    post(&receiver, "k2").await.unwrap();
    let received = receiver.received();
    assert_eq!((received[0].method.as_str(), received[0].url.as_str()), ("POST", "/hook?x=1"));
    assert!(received[0].headers.contains(&("x-custom".to_owned(), "v".to_owned())));
    assert_eq!(&received[0].body[..], b"{\"a\":1}");
    assert_eq!(received.iter().map(|r| r.repeated).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!((receiver.total(), receiver.taken()), (3, (3, 1)));
    let page = raw(&receiver.router(), "GET", "/", &[], "").await.unwrap();
    assert!(page.body.as_str().unwrap().contains("&quot;a&quot;"));
    let at_root = raw(&receiver.router(), "POST", "/", &[], "x").await.unwrap();
    assert_eq!((at_root.status, receiver.total()), (200, 4));
}

#[tokio::test]
async fn it_keeps_the_latest_only() {
    let receiver = Receiver::keeping(2, Faults::default(), 1, Time::still().clock());
    for key in ["a", "b", "c"] {
        post(&receiver, key).await.unwrap();
    }
    assert_eq!((receiver.received().len(), receiver.total()), (2, 3));
}

#[tokio::test]
async fn it_breaks_in_many_ways() {
    let (receiver, time) = receiver("status=422");
    assert_eq!(post(&receiver, "k").await.unwrap().status, 422);
    receiver.set_faults(Faults::parse("down").unwrap());
    assert_eq!(post(&receiver, "k").await.unwrap().status, 503);
    receiver.set_faults(Faults::parse("unauthorized_once").unwrap());
    assert_eq!(post(&receiver, "k").await.unwrap().status, 401);
    assert_eq!(post(&receiver, "k").await.unwrap().status, 200);
    receiver.set_faults(Faults::parse("rate_limit=1/30s").unwrap());
    assert_eq!(post(&receiver, "l").await.unwrap().status, 200);
    time.pass(10_000);
    let over = post(&receiver, "m").await.unwrap();
    assert_eq!((over.status, over.header("retry-after")), (429, "20"));
    receiver.set_faults(Faults::parse("reset_after_commit").unwrap());
    assert!(post(&receiver, "n").await.is_err());
    assert_eq!(receiver.taken(), (3, 0), "what is cut was taken");
}

#[tokio::test]
async fn it_hangs() {
    let (receiver, _) = receiver("hang");
    assert!(tokio::time::timeout(Duration::ZERO, post(&receiver, "l")).await.is_err());
    assert_eq!((receiver.received()[0].status, receiver.taken()), (0, (0, 0)));
}
