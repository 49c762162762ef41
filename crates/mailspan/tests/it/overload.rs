//! More arrives than can be written: a bounded queue, 429 for what is over it, nothing of the rest lost.

use std::sync::mpsc;
use std::time::Duration;

use mailspan_testkit::shim::{self, Shim, Step};
use mailspan_testkit::{Hub, Receiver, Reply, post, until};

use crate::support::{AT, BINARY, SECRET, config, event, signed};

const QUEUE: usize = 16;
/// Requests that come while the disk hangs.
const SENDERS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(30);

fn hub_on(shim: &Shim) -> (Hub, Receiver) {
    let crm = Receiver::start();
    let more = format!("[limits]\nintake_queue = {QUEUE}");
    let quick = "rate = \"1000/1s\"\nconcurrency = 8";
    let mut hub = Hub::new(BINARY, &config(&crm, quick, &more), &[("MAILTARGET_SECRET", SECRET)]);
    shim.preload(&mut hub);
    hub.start();
    (hub, crm)
}

type Answers = mpsc::Receiver<(String, Reply)>;

/// Requests of one event each, all at once; answers in the order in which they come.
fn send_all(port: u16, who: Vec<String>) -> Answers {
    let (tell, answers) = mpsc::channel();
    for who in who {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let body = event("open", &who, AT).to_string();
            let mac = signed(SECRET, body.as_bytes());
            let reply =
                post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes()).unwrap();
            // The test may have ended.
            let _ = tell.send((who, reply));
        });
    }
    answers
}

fn next(answers: &Answers, text: &str) -> (String, Reply) {
    answers.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{text}"))
}

fn writes(shim: &Shim) -> usize {
    shim.order().steps.iter().filter(|step| matches!(step, Step::Write { .. })).count()
}

#[test]
fn over_the_bound_is_429_at_once_and_what_was_taken_is_kept() {
    let shim = shim::build();
    let (hub, crm) = hub_on(&shim);
    // One that is whole before, so that what the hub writes of itself at a start is done.
    let before = send_all(hub.port, vec!["first@example.com".to_owned()]);
    assert_eq!(next(&before, "no answer").1.status, 200);
    until(20, "the first event is not delivered", || (crm.ok().len() == 1).then_some(()));
    until(20, "the first delivery is not settled", || {
        (hub.rows(&["audit"])[0]["pending"] == 0).then_some(())
    });

    shim.hold();
    let written = writes(&shim);
    let held = send_all(hub.port, vec!["held@example.com".to_owned()]);
    until(20, "the writer has not begun", || (writes(&shim) > written).then_some(()));
    let answers = send_all(hub.port, (0..SENDERS).map(|n| format!("p{n}@example.com")).collect());
    // The disk hangs all the while: these answers wait for nothing.
    let mut refused = Vec::new();
    for _ in 0..SENDERS - QUEUE {
        let (who, reply) = next(&answers, "a request over the bound was not answered while the disk hung");
        assert_eq!((reply.status, &reply.json()["code"]), (429, &"busy".into()), "{who}");
        let wait: u64 = reply.header("retry-after").expect("429 says when to come again").parse().unwrap();
        assert!((1..=60).contains(&wait), "Retry-After: {wait}");
        refused.push(who);
    }
    assert!(answers.try_recv().is_err() && held.try_recv().is_err(), "answered before it was synced");
    let look = mailspan_testkit::get(hub.port, "/healthz").unwrap();
    assert_eq!(look.status, 200, "who only looks is not held up");

    shim.release();
    let mut kept = vec![next(&held, "what was held was not answered")];
    kept.extend((0..QUEUE).map(|_| next(&answers, "what waited was not answered after the disk went on")));
    assert!(kept.iter().all(|(_, reply)| reply.status == 200), "{kept:?}");
    let arrived = |who: &[String]| who.iter().all(|who| crm.ok_about(who).len() == 1);
    let kept: Vec<String> = kept.into_iter().map(|(who, _)| who).collect();
    until(30, "what was acknowledged did not arrive once", || arrived(&kept).then_some(()));
    let audit = hub.rows(&["audit"]).remove(0);
    assert_eq!((&audit["accepted"], &audit["adds_up"]), (&(QUEUE + 2).into(), &true.into()), "{audit}");
    assert!(refused.iter().all(|who| crm.ok_about(who).is_empty()), "what was refused came through");

    // As the senders would: the same again, some at a time.
    for some in refused.chunks(QUEUE / 2) {
        let again = send_all(hub.port, some.to_vec());
        for _ in some {
            assert_eq!(next(&again, "no answer to a repeat").1.status, 200);
        }
    }
    until(30, "what was repeated did not arrive once", || arrived(&refused).then_some(()));
    let audit = hub.rows(&["audit"]).remove(0);
    assert_eq!((&audit["accepted"], &audit["duplicates"]), (&(SENDERS + 2).into(), &0.into()), "{audit}");
}
