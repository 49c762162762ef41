//! Notices to the owner of a contact: a task in the CRM, or the route's `notify` URL.
//!
//! The fake HubSpot runs inside the test, since an owner can be added through its library alone.

use std::sync::Arc;

use mailspan_core::Millis;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_testkit::{Hub, Receiver, now_ms, until};
use serde_json::{Value, json};

use crate::crm::{ADA, BOB, PATIENT, TOKEN, event, hub, ids, plain, replay, send_all, settled};

const OWNER: &str = "olga@crm.example";

/// A prepared account with two contacts and an owner, and the port where it answers.
fn account() -> (HubSpot, u16) {
    let account = HubSpot::new(TOKEN, Faults::default(), 7, Arc::new(|| Millis(now_ms())));
    account.add_contact(ADA);
    account.add_contact(BOB);
    account.add_owner(OWNER);
    let router = account.router();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    (account, port)
}

fn complaint(who: &str, n: u32, metadata: Value) -> Value {
    event("complaint", who, n, json!({}), metadata)
}

/// A hub whose route also tells `chat`.
fn hub_with_notify(crm: u16, chat: &Receiver) -> Hub {
    let notify = format!("notify = \"http://127.0.0.1:{}/owners\"", chat.port);
    hub(crm, &format!("rate = \"1000/1s\"\n{PATIENT}"), &notify)
}

#[test]
pub fn a_known_owner_gets_one_task_however_often_it_is_tried() {
    let ((account, port), chat) = (account(), Receiver::start());
    let hub = hub_with_notify(port, &chat);
    account.set_faults(Faults::parse("server_error=40%,reset_after_commit=40%").unwrap());
    send_all(&hub, &[complaint(ADA, 1, json!({ "crm_owner": OWNER }))]);
    let audit = settled(&hub, 1);
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(1), &json!(0)));
    let task = &account.tasks()[0];
    assert_eq!(task.contacts, [account.contact(ADA).unwrap().id]);
    assert_eq!(task.properties["hs_task_status"], "NOT_STARTED");
    assert_eq!(task.properties["hs_task_priority"], "HIGH");
    assert_eq!(task.properties["hs_timestamp"], crate::crm::at_ms(1).to_string());
    assert!(task.properties["hs_task_body"].contains(ADA), "{task:?}");
    assert!(!task.properties["hubspot_owner_id"].is_empty());
    assert!(account.tasks().len() == 1, "{:?}", account.tasks());
    account.set_faults(Faults::default());
    let before = account.requests_total();
    replay(&hub, &ids(&hub, "delivered"), false, 1);
    assert_eq!((account.tasks().len(), account.requests_total()), (1, before), "a replay told again");
    assert_eq!(account.contact(ADA).unwrap().properties["mt_do_not_contact"], "true");
    assert!(account.statuses()[ADA].unsubscribed_all);
    // Another event is another notice.
    send_all(&hub, &[complaint(ADA, 2, json!({ "crm_owner": OWNER }))]);
    settled(&hub, 2);
    assert_eq!(account.tasks().len(), 2);
    assert!(chat.seen().is_empty(), "the owner was told twice: in the CRM and at `notify`");
}

#[test]
pub fn without_an_owner_the_notify_url_is_told_once() {
    let ((account, port), chat) = (account(), Receiver::start());
    let hub = hub_with_notify(port, &chat);
    send_all(&hub, &[complaint(BOB, 1, json!({})), plain("open", BOB, 2), plain("unsubscribe", BOB, 3)]);
    let audit = settled(&hub, 3);
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(4), &json!(0)), "{audit}");
    let told = chat.ok();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].path.as_str(), told[0].method.as_str()), ("/owners", "POST"));
    let body = told[0].json();
    assert_eq!(body["op"], "notify_owner");
    assert!(body["text"].as_str().unwrap().contains(BOB), "{body}");
    assert!(told[0].header("idempotency-key").is_some());
    assert!(account.tasks().is_empty());
    replay(&hub, &ids(&hub, "delivered"), false, 3);
    assert_eq!(chat.seen().len(), 1, "a replay told again");
    assert!(account.tasks().is_empty());
}

#[test]
pub fn deals_get_the_activity_too_and_deals_that_are_gone_do_not_lose_it() {
    let (account, port) = account();
    let deal = account.add_deal("Spring offer");
    let hub = hub(port, "", "");
    let with = |deal: &str| json!({ "crm_deal_id": deal });
    send_all(&hub, &[event("open", ADA, 1, json!({}), with(&deal))]);
    send_all(&hub, &[event("open", BOB, 2, json!({}), with("999"))]);
    settled(&hub, 2);
    let notes = account.notes();
    assert_eq!(notes.len(), 2);
    let of = |who: &str| {
        let id = account.contact(who).unwrap().id;
        notes.iter().find(|note| note.contacts == [id.clone()]).unwrap()
    };
    assert_eq!(of(ADA).deals, [deal]);
    assert!(of(BOB).deals.is_empty());
    until(1, "a note hangs on nobody", || account.notes_that_hang_on_nobody().is_empty().then_some(()));
}

#[test]
pub fn an_owner_whom_the_crm_does_not_know_is_named_in_a_task_of_the_contact() {
    let ((account, port), chat) = (account(), Receiver::start());
    let hub = hub_with_notify(port, &chat);
    send_all(&hub, &[complaint(ADA, 1, json!({ "crm_owner": "gone@crm.example" }))]);
    settled(&hub, 1);
    let tasks = account.tasks();
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!(tasks[0].contacts, [account.contact(ADA).unwrap().id]);
    assert!(tasks[0].properties["hs_task_body"].contains("gone@crm.example"), "{tasks:?}");
    assert!(tasks[0].properties.get("hubspot_owner_id").is_none_or(String::is_empty));
    assert!(account.statuses()[ADA].unsubscribed_all, "the rest of the event was not done");
}
