//! How the fake HubSpot breaks.

use std::time::Duration;

use axum::Router;
use mailspan_core::Millis;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use serde_json::{Value, json};

use crate::{Back, TOKEN, Time, call, raw};

fn broken(faults: &str) -> (HubSpot, Router, Time) {
    let time = Time::still();
    let account = HubSpot::new(TOKEN, Faults::parse(faults).unwrap(), 11, time.clock());
    let router = account.router();
    (account, router, time)
}

async fn list(router: &Router) -> Back {
    call(router, "GET", "/crm/objects/2026-03/contacts?limit=1", Value::Null).await
}

const UPDATE: &str = "/crm/objects/2026-03/contacts/batch/update";

fn opens(addresses: &[String]) -> Value {
    let input = |address: &String| {
        json!({"id": address, "idProperty": "email", "objectWriteTraceId": address,
        "properties": {"mt_open_count": "1"}})
    };
    json!({"inputs": addresses.iter().map(input).collect::<Vec<_>>()})
}

fn crowd(account: &HubSpot, count: usize) -> Vec<String> {
    let addresses: Vec<String> = (0..count).map(|n| format!("p{n}@example.com")).collect();
    addresses.iter().for_each(|address| drop(account.add_contact(address)));
    addresses
}

#[tokio::test]
async fn the_rate_limit_has_its_own_headers_and_policy() {
    let (_, router, time) = broken("rate_limit=3/10s");
    for left in ["2", "1", "0"] {
        let back = list(&router).await;
        assert_eq!(back.status, 200);
        assert_eq!(back.header("x-hubspot-ratelimit-max"), "3");
        assert_eq!(back.header("x-hubspot-ratelimit-remaining"), left);
        assert_eq!(back.header("x-hubspot-ratelimit-interval-milliseconds"), "10000");
        time.pass(1_000);
    }
    let over = list(&router).await;
    assert_eq!(over.status, 429);
    assert_eq!(over.body["policyName"], "TEN_SECONDLY_ROLLING");
    assert_eq!(over.body["errorType"], "RATE_LIMIT");
    assert_eq!(over.header("retry-after"), "");
    time.pass(7_000);
    assert_eq!(list(&router).await.status, 200, "the window rolls");
    assert_eq!(list(&router).await.status, 429);
}

#[tokio::test]
async fn the_daily_limit_ends_at_midnight() {
    let (_, router, time) = broken("daily_limit=1");
    assert_eq!(list(&router).await.header("x-hubspot-ratelimit-daily-remaining"), "0");
    assert_eq!(list(&router).await.body["policyName"], "DAILY");
    time.pass(86_400_000);
    assert_eq!(list(&router).await.status, 200);
}

#[tokio::test]
async fn unauthorized_once_is_once() {
    let (account, router, _) = broken("unauthorized_once");
    assert_eq!(list(&router).await.status, 401);
    assert_eq!(list(&router).await.status, 200);
    account.set_faults(Faults::parse("unauthorized").unwrap());
    assert_eq!(list(&router).await.status, 401);
    assert_eq!(list(&router).await.status, 401);
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let (account, router, _) = broken("missing_scopes=crm.objects.contacts.write");
    let addresses = crowd(&account, 1);
    assert_eq!(list(&router).await.status, 200);
    let back = call(&router, "POST", UPDATE, opens(&addresses)).await;
    assert_eq!((back.status, &back.body["category"]), (403, &json!("MISSING_SCOPES")));
    assert_eq!(
        back.body["errors"][0]["context"]["requiredGranularScopes"],
        json!(["crm.objects.contacts.write"])
    );
    account.set_faults(Faults::parse("missing_scopes").unwrap());
    assert_eq!(list(&router).await.status, 403);
}

#[tokio::test]
async fn some_items_fail_and_name_themselves() {
    for (faults, category) in [("partial=30%", "INTERNAL_ERROR"), ("reject=30%", "VALIDATION_ERROR")] {
        let (account, router, _) = broken(faults);
        let addresses = crowd(&account, 50);
        let back = call(&router, "POST", UPDATE, opens(&addresses)).await;
        assert_eq!(back.status, 207);
        let errors = back.body["errors"].as_array().unwrap();
        assert!((5..25).contains(&errors.len()), "{}", errors.len());
        assert_eq!(back.body["results"].as_array().unwrap().len() + errors.len(), 50);
        for error in errors {
            assert_eq!(error["category"], category);
            let address = error["context"]["objectWriteTraceId"][0].as_str().unwrap();
            assert!(!account.contact(address).unwrap().properties.contains_key("mt_open_count"));
        }
    }
}

#[tokio::test]
async fn an_empty_success_did_nothing() {
    let (account, router, _) = broken("empty_results=100%");
    let addresses = crowd(&account, 1);
    let back = call(&router, "POST", UPDATE, opens(&addresses)).await;
    assert_eq!((back.status, &back.body["results"], &back.body["errors"]), (200, &json!([]), &Value::Null));
    assert_eq!(account.contacts()[0].properties.len(), 1);
}

#[tokio::test]
async fn a_reset_comes_after_the_act() {
    let (account, router, _) = broken("reset_after_commit=100%");
    let addresses = crowd(&account, 1);
    let bearer = format!("Bearer {TOKEN}");
    let back =
        raw(&router, "POST", UPDATE, &[("authorization", &bearer)], opens(&addresses).to_string()).await;
    assert!(back.unwrap_err().contains("reset"));
    assert_eq!(account.contacts()[0].properties["mt_open_count"], "1");
}

#[tokio::test]
async fn server_errors_do_not_act() {
    let (account, router, _) = broken("server_error=100%");
    let addresses = crowd(&account, 1);
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..40 {
        statuses.insert(call(&router, "POST", UPDATE, opens(&addresses)).await.status);
    }
    assert_eq!(Vec::from_iter(statuses), [500, 502, 503, 504]);
    assert_eq!(account.contacts()[0].properties.len(), 1);
    account.set_faults(Faults::parse("down").unwrap());
    assert_eq!(list(&router).await.status, 503);
    account.set_faults(Faults::parse("status=418").unwrap());
    assert_eq!(list(&router).await.status, 418);
}

#[tokio::test]
async fn a_slow_answer_is_whole() {
    let (_, router, _) = broken("slow=100%:1ms");
    assert_eq!(list(&router).await.status, 200);
}

#[tokio::test]
async fn some_answers_are_not_there_at_once_or_ever() {
    for faults in ["drip", "endless", "hang", "slow=1h"] {
        let (account, router, _) = broken(faults);
        assert!(tokio::time::timeout(Duration::ZERO, list(&router)).await.is_err(), "{faults}");
        let status = account.requests_seen()[0].status;
        assert_eq!(status, if faults == "hang" { 0 } else { 200 }, "{faults}");
    }
}

#[tokio::test]
async fn it_is_broken_and_mended_live() {
    let (account, router, _) = broken("none");
    let set = raw(&router, "POST", "/_sandbox/faults", &[], "down").await.unwrap();
    assert_eq!((set.status, set.body.as_str()), (200, Some("down\n")));
    assert_eq!(list(&router).await.status, 503);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let mended = raw(&router, "POST", "/_sandbox/faults", &form, "faults=none").await.unwrap();
    assert_eq!((mended.status, mended.header("location")), (303, "/"));
    assert_eq!(list(&router).await.status, 200);
    let wrong = raw(&router, "POST", "/_sandbox/faults", &[], "upside_down").await.unwrap();
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.as_str().unwrap().contains("reset_after_commit"));
    assert_eq!(account.faults(), Faults::default());
}

#[tokio::test]
async fn the_same_seed_breaks_in_the_same_way() {
    let run = async || {
        let (account, router, _) = broken("server_error=30%,partial=20%");
        let addresses = crowd(&account, 10);
        let mut answers = Vec::new();
        for _ in 0..20 {
            let back = call(&router, "POST", UPDATE, opens(&addresses)).await;
            answers.push((back.status, back.body.to_string()));
        }
        (answers, account.requests_total())
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test]
async fn what_came_is_remembered() {
    let (account, router, time) = broken("none");
    let addresses = crowd(&account, 1);
    time.pass(5);
    call(&router, "POST", UPDATE, opens(&addresses)).await;
    let seen = account.requests_seen().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.status), ("POST", UPDATE, 200));
    assert!(seen.body.contains("p0@example.com") && seen.at > Millis(0));
}
