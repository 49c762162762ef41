//! What the fake HubSpot does when nothing is broken.

use axum::Router;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use serde_json::{Value, json};

use crate::{Back, TOKEN, Time, call, raw};

pub fn account() -> (HubSpot, Router) {
    let account = HubSpot::new(TOKEN, Faults::default(), 7, Time::still().clock());
    let router = account.router();
    (account, router)
}

async fn post(router: &Router, path: &str, body: Value) -> Back {
    call(router, "POST", path, body).await
}

fn invalid(back: &Back, what: &str) {
    assert_eq!(back.status, 400, "{}", back.body);
    assert_eq!(back.body["category"], "VALIDATION_ERROR");
    assert!(back.body.to_string().contains(what), "`{what}` is not in {}", back.body);
    assert!(back.body["correlationId"].is_string());
}

const CONTACTS: &str = "/crm/objects/2026-03/contacts";
const NOTES: &str = "/crm/objects/2026-03/notes";

fn update(id: &str, trace: &str, properties: Value) -> Value {
    json!({"id": id, "idProperty": "email", "objectWriteTraceId": trace, "properties": properties})
}

#[tokio::test]
async fn the_token_is_required() {
    let (account, router) = account();
    for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", TOKEN)]] {
        let back = raw(&router, "GET", CONTACTS, headers, "").await.unwrap();
        assert_eq!(back.status, 401);
        assert_eq!(back.body["category"], "INVALID_AUTHENTICATION");
    }
    assert_eq!(account.requests_seen().len(), 3);
    let nobody = HubSpot::new("", Faults::default(), 7, Time::still().clock()).router();
    assert_eq!(raw(&nobody, "GET", CONTACTS, &[("authorization", "Bearer ")], "").await.unwrap().status, 401);
}

#[tokio::test]
async fn versions_are_dates_and_numbers() {
    let (_, router) = account();
    for path in [
        "/crm/objects/2026-03/contacts?limit=1",
        "/crm/objects/2025-09/contacts?limit=1",
        "/crm/objects/2026-09/notes?limit=1",
        "/crm/v3/objects/contacts?limit=1",
        "/crm/v3/objects/0-1?limit=1",
        "/crm/v3/owners",
        "/crm/v3/properties/contacts",
        "/communication-preferences/v4/definitions",
    ] {
        assert_eq!(call(&router, "GET", path, Value::Null).await.status, 200, "{path}");
    }
    for path in [
        "/crm/objects/2026-04/contacts",
        "/crm/objects/2024-03/contacts",
        "/crm/v9/objects/contacts",
        "/crm/v3/objects/unicorns",
    ] {
        assert_eq!(call(&router, "GET", path, Value::Null).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn an_update_finds_by_address_or_record_id_and_makes_nobody() {
    let (account, router) = account();
    let ana = account.add_contact("Ana@Example.com");
    let body = json!({"inputs": [
        update("ana@example.com", "t-1", json!({"mt_open_count": "3"})),
        update("nobody@example.com", "t-2", json!({"mt_open_count": "1"})),
        {"id": ana, "objectWriteTraceId": "t-3", "properties": {"mt_click_count": "2"}},
    ]});
    let back = post(&router, &format!("{CONTACTS}/batch/update"), body).await;
    assert_eq!(back.status, 207);
    assert_eq!(back.body["results"].as_array().unwrap().len(), 2);
    assert_eq!(back.body["numErrors"], 1);
    assert_eq!(back.body["errors"][0]["category"], "OBJECT_NOT_FOUND");
    assert_eq!(back.body["errors"][0]["context"]["objectWriteTraceId"], json!(["t-2"]));
    let contact = account.contact("ANA@example.com").unwrap();
    assert_eq!(contact.id, ana);
    assert_eq!(contact.properties["mt_open_count"], "3");
    assert_eq!(contact.properties["mt_click_count"], "2");
    assert_eq!(account.contacts().len(), 1);
}

#[tokio::test]
async fn an_upsert_makes_once_and_says_so() {
    let (account, router) = account();
    let path = format!("{CONTACTS}/batch/upsert");
    let body = json!({"inputs": [update("new@example.com", "t", json!({"firstname": "New"}))]});
    let first = post(&router, &path, body.clone()).await;
    assert_eq!((first.status, &first.body["results"][0]["new"]), (200, &json!(true)));
    assert_eq!(first.body["results"][0]["properties"]["email"], "new@example.com");
    assert_eq!(first.body["results"][0]["objectWriteTraceId"], "t");
    let second = post(&router, &path, body).await;
    assert_eq!(second.body["results"][0]["new"], json!(false));
    assert_eq!(second.body["results"][0]["id"], first.body["results"][0]["id"]);
    assert_eq!(account.contacts().len(), 1);
}

#[tokio::test]
async fn what_one_item_has_wrong_refuses_the_call() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    let one = |item: Value| json!({"inputs": [item]});
    let path = format!("{CONTACTS}/batch/update");
    let cases = [
        (one(update("ana@example.com", "t", json!({"mt_unknown": "1"}))), "PROPERTY_DOESNT_EXIST"),
        (one(update("ana@example.com", "t", json!({"mt_open_count": 1}))), "must be a string"),
        (one(update("ana@example.com", "t", json!({"mt_open_count": null}))), "must be a string"),
        (one(update("ana@example.com", "t", json!({"mt_open_count": "many"}))), "INVALID_DOUBLE"),
        (one(update("ana@example.com", "t", json!({"mt_bounced_at": "yesterday"}))), "INVALID_DATE"),
        (one(update("ana@example.com", "t", json!({"mt_do_not_contact": "yes"}))), "INVALID_OPTION"),
        (one(update("ana@example.com", "t", json!({"hs_email_optout": "true"}))), "READ_ONLY_VALUE"),
        (one(update("ana@example.com", "t", json!({"hubspot_owner_id": "12"}))), "INVALID_OWNER_ID"),
        (one(update("ana@example.com", "t", json!({"email": "no address"}))), "INVALID_EMAIL"),
        (one(json!({"id": "x", "idProperty": "firstname", "properties": {}})), "unique"),
        (one(json!({"id": "x", "idProperty": "email"})), "properties"),
        (one(json!({"properties": {}})), "[id]"),
        (json!({"inputs": []}), "empty"),
        (json!({}), "inputs"),
        (
            json!({"inputs": [update("ana@example.com", "a", json!({})), update("ANA@example.com", "b", json!({}))]}),
            "Duplicate ids",
        ),
        (json!({"inputs": vec![update("ana@example.com", "a", json!({})); 101]}), "101"),
    ];
    for (body, what) in cases {
        invalid(&post(&router, &path, body).await, what);
    }
    let broken = raw(&router, "POST", &path, &[("authorization", "Bearer pat-sandbox")], "{\"inputs\":")
        .await
        .unwrap();
    invalid(&broken, "Invalid input JSON");
    assert_eq!(account.contact("ana@example.com").unwrap().properties.len(), 1, "nothing was written");
}

#[tokio::test]
async fn properties_and_instants_take_both_forms() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    let owner = account.add_owner("alice@example.com");
    for properties in [
        json!({"mt_bounced_at": "1778209200000", "mt_do_not_contact": "true"}),
        json!({"mt_bounced_at": "2026-05-08T03:00:00Z", "mt_do_not_contact": ""}),
        json!({"hubspot_owner_id": owner}),
    ] {
        let body = json!({"inputs": [update("ana@example.com", "t", properties)]});
        assert_eq!(post(&router, &format!("{CONTACTS}/batch/update"), body).await.status, 200);
    }
    assert!(!account.contact("ana@example.com").unwrap().properties.contains_key("mt_do_not_contact"));
}

#[tokio::test]
async fn a_note_hangs_on_nobody_until_it_is_associated() {
    let (account, router) = account();
    let ana = account.add_contact("ana@example.com");
    let input = json!({"id": "evt-1", "idProperty": "mt_event_key", "objectWriteTraceId": "t",
        "properties": {"hs_timestamp": "1778209200000", "hs_note_body": "opened"}});
    let mut with = input.clone();
    with["associations"] = json!([{"to": {"id": ana}, "types": [
        {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]}]);
    invalid(
        &post(&router, &format!("{NOTES}/batch/upsert"), json!({"inputs": [with]})).await,
        "associations",
    );
    let body = json!({"inputs": [input]});
    let first = post(&router, &format!("{NOTES}/batch/upsert"), body.clone()).await;
    let again = post(&router, &format!("{NOTES}/batch/upsert"), body).await;
    let note = first.body["results"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(again.body["results"][0]["id"], note.as_str());
    assert_eq!(account.notes().len(), 1);
    assert_eq!(account.notes_that_hang_on_nobody().len(), 1);

    let path = "/crm/associations/2026-03/notes/contacts/batch/associate/default";
    let pair = json!({"inputs": [{"from": {"id": note}, "to": {"id": ana}}]});
    for _ in 0..2 {
        let back = post(&router, path, pair.clone()).await;
        assert_eq!(back.status, 200);
        assert_eq!(back.body["results"][0]["associationSpec"]["associationTypeId"], 202);
    }
    assert!(account.notes_that_hang_on_nobody().is_empty());
    assert_eq!(account.notes()[0].contacts, [ana.as_str()]);

    let read = post(
        &router,
        "/crm/associations/2026-03/contacts/notes/batch/read",
        json!({"inputs": [{"id": ana}, {"id": "5"}]}),
    )
    .await;
    assert_eq!(read.status, 207);
    assert_eq!(read.body["results"][0]["to"][0]["toObjectId"], note.as_str());
}

#[tokio::test]
async fn associations_name_their_type_and_both_ends() {
    let (account, router) = account();
    let (ana, deal) = (account.add_contact("ana@example.com"), account.add_deal("Big one"));
    let properties = json!({"hs_timestamp": "1778209200000"});
    let note = call(&router, "POST", NOTES, json!({"properties": properties})).await.body["id"].clone();
    let pair = |to: &str, type_id: u64| {
        json!({"inputs": [{"from": {"id": note}, "to": {"id": to},
            "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id}]}]})
    };
    let to_contacts = "/crm/associations/2026-03/notes/contacts/batch/create";
    assert_eq!(post(&router, to_contacts, pair(&ana, 202)).await.status, 201);
    assert_eq!(
        post(&router, "/crm/associations/2026-03/notes/deals/batch/create", pair(&deal, 214)).await.status,
        201
    );
    invalid(&post(&router, to_contacts, pair(&ana, 214)).await, "INVALID_ASSOCIATION_TYPE");
    let missing = post(&router, to_contacts, pair("99", 202)).await;
    assert_eq!(missing.status, 207);
    assert_eq!(missing.body["errors"][0]["category"], "OBJECT_NOT_FOUND");
    assert_eq!(missing.body["errors"][0]["context"]["toObjectId"], json!(["99"]));
    assert_eq!(account.notes()[0].deals, [deal.as_str()]);
}

#[tokio::test]
async fn create_needs_associations_and_a_time() {
    let (account, router) = account();
    let ana = account.add_contact("ana@example.com");
    let path = "/crm/objects/2026-03/tasks/batch/create";
    let types = json!([{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 204}]);
    let task = |properties: Value| {
        json!({"inputs": [{"objectWriteTraceId": "t", "properties": properties,
        "associations": [{"to": {"id": ana}, "types": types}]}]})
    };
    invalid(&post(&router, path, task(json!({"hs_task_subject": "x"}))).await, "REQUIRED_PROPERTY");
    let bare = json!({"inputs": [{"properties": {"hs_timestamp": "1"}}]});
    invalid(&post(&router, path, bare).await, "associations");
    let good =
        task(json!({"hs_timestamp": "1778209200000", "hs_task_subject": "complaint", "mt_event_key": "k"}));
    assert_eq!(post(&router, path, good.clone()).await.status, 201);
    let twice = post(&router, path, good).await;
    assert_eq!((twice.status, &twice.body["errors"][0]["category"]), (207, &json!("CONFLICT")));
    assert_eq!(account.tasks().len(), 1);
    assert_eq!(account.tasks()[0].contacts, [ana.as_str()]);
}

#[tokio::test]
async fn single_records_are_read_written_and_listed() {
    let (_, router) = account();
    let made = call(&router, "POST", CONTACTS, json!({"properties": {"email": "ana@example.com"}})).await;
    assert_eq!(made.status, 201);
    let again = call(&router, "POST", CONTACTS, json!({"properties": {"email": "ana@example.com"}})).await;
    assert_eq!((again.status, &again.body["category"]), (409, &json!("CONFLICT")));
    let by_email = format!("{CONTACTS}/ana%40example.com?idProperty=email");
    let patch = call(&router, "PATCH", &by_email, json!({"properties": {"firstname": "Ana"}})).await;
    assert_eq!(patch.status, 200);
    let read = call(&router, "GET", &format!("{by_email}&properties=firstname,phone"), Value::Null).await;
    assert_eq!(read.body["properties"]["firstname"], "Ana");
    assert_eq!(read.body["properties"]["phone"], Value::Null);
    assert_eq!(read.body["id"], made.body["id"]);
    let unknown = format!("{CONTACTS}/bea%40example.com?idProperty=email");
    assert_eq!(call(&router, "PATCH", &unknown, json!({"properties": {}})).await.status, 404);
    call(&router, "POST", CONTACTS, json!({"properties": {"email": "bea@example.com"}})).await;
    let list = call(&router, "GET", &format!("{CONTACTS}?limit=1"), Value::Null).await;
    assert_eq!(list.body["results"].as_array().unwrap().len(), 1);
    let after = list.body["paging"]["next"]["after"].as_str().unwrap().to_owned();
    let next = call(&router, "GET", &format!("{CONTACTS}?limit=1&after={after}"), Value::Null).await;
    assert_eq!(next.body["results"][0]["properties"]["email"], "bea@example.com");
    assert_eq!(next.body["paging"], Value::Null);
}

#[tokio::test]
async fn batch_read_names_what_is_missing() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    let body = json!({"idProperty": "email", "properties": ["email"], "inputs": [{"id": "ana@example.com"}, {"id": "x@example.com"}]});
    let back = post(&router, &format!("{CONTACTS}/batch/read"), body).await;
    assert_eq!(back.status, 207);
    assert_eq!(back.body["results"][0]["properties"]["email"], "ana@example.com");
    assert_eq!(back.body["errors"][0]["context"]["ids"], json!(["x@example.com"]));
}

#[tokio::test]
async fn results_come_in_another_order_the_same_for_the_same_seed() {
    let order = async || {
        let (account, router) = account();
        let addresses: Vec<String> = (0..20).map(|n| format!("p{n:02}@example.com")).collect();
        addresses.iter().for_each(|address| drop(account.add_contact(address)));
        let inputs: Vec<Value> =
            addresses.iter().map(|a| update(a, a, json!({"mt_open_count": "1"}))).collect();
        let back = post(&router, &format!("{CONTACTS}/batch/update"), json!({"inputs": inputs})).await;
        let results = back.body["results"].as_array().unwrap().clone();
        let traces: Vec<String> =
            results.iter().map(|r| r["objectWriteTraceId"].as_str().unwrap().to_owned()).collect();
        (addresses, traces)
    };
    let (asked, first) = order().await;
    let mut sorted = first.clone();
    sorted.sort();
    assert_eq!(sorted, asked);
    assert_ne!(first, asked);
    assert_eq!(order().await.1, first);
}

#[tokio::test]
async fn owners_are_found_by_address() {
    let (account, router) = account();
    let alice = account.add_owner("alice@example.com");
    account.add_owner("bob@example.com");
    let back = call(&router, "GET", "/crm/owners/2026-03?email=Alice%40example.com", Value::Null).await;
    assert_eq!(back.body["results"].as_array().unwrap().len(), 1);
    assert_eq!(back.body["results"][0]["id"], alice.as_str());
    let none = call(&router, "GET", "/crm/owners/2026-03?email=c%40example.com", Value::Null).await;
    assert_eq!((none.status, none.body["results"].as_array().unwrap().len()), (200, 0));
}

#[tokio::test]
async fn a_bare_account_can_be_prepared() {
    let account = HubSpot::bare(TOKEN, Faults::default(), 7, Time::still().clock());
    let router = account.router();
    account.add_contact("ana@example.com");
    let write = json!({"inputs": [update("ana@example.com", "t", json!({"mt_open_count": "1"}))]});
    let path = format!("{CONTACTS}/batch/update");
    invalid(&post(&router, &path, write.clone()).await, "PROPERTY_DOESNT_EXIST");
    let read = post(
        &router,
        "/crm/properties/2026-03/contacts/batch/read",
        json!({"inputs": [{"name": "email"}, {"name": "mt_open_count"}]}),
    )
    .await;
    assert_eq!((read.status, &read.body["errors"][0]["context"]["name"]), (207, &json!(["mt_open_count"])));
    let count = json!({"name": "mt_open_count", "label": "Opens", "groupName": "contactinformation", "type": "number", "fieldType": "number"});
    assert_eq!(post(&router, "/crm/properties/2026-03/contacts", count.clone()).await.status, 201);
    assert_eq!(post(&router, "/crm/properties/2026-03/contacts", count).await.status, 409);
    assert_eq!(post(&router, &path, write).await.status, 200);
    let key = json!({"name": "mt_event_key", "label": "Key", "groupName": "notes", "type": "string", "fieldType": "text", "hasUniqueValue": true});
    let made = post(&router, "/crm/properties/2026-03/notes/batch/create", json!({"inputs": [key]})).await;
    assert_eq!((made.status, &made.body["results"][0]["hasUniqueValue"]), (201, &json!(true)));
    let list = call(&router, "GET", "/crm/properties/2026-03/notes", Value::Null).await;
    assert!(list.body["results"].as_array().unwrap().iter().any(|p| p["name"] == "mt_event_key"));
    for wrong in [
        json!({"name": "Mt", "label": "x", "groupName": "g", "type": "string", "fieldType": "text"}),
        json!({"name": "mt", "label": "x", "groupName": "g", "type": "instant", "fieldType": "text"}),
        json!({"name": "mt", "label": "x", "groupName": "g", "type": "string", "fieldType": "number"}),
        json!({"name": "mt", "label": "x", "type": "string", "fieldType": "text"}),
        json!({"name": "mt", "label": "x", "groupName": "g", "type": "date", "fieldType": "date", "hasUniqueValue": true}),
    ] {
        assert_eq!(
            post(&router, "/crm/properties/2026-03/contacts", wrong.clone()).await.status,
            400,
            "{wrong}"
        );
    }
}

const PREFERENCES: &str = "/communication-preferences/2026-03";

#[tokio::test]
async fn opting_out_needs_no_contact_and_may_be_repeated() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    let path = format!("{PREFERENCES}/statuses/batch/unsubscribe-all?channel=EMAIL");
    let body = json!({"inputs": ["ana@example.com", "stranger@example.com", "no address"]});
    let back = post(&router, &path, body.clone()).await;
    assert_eq!(back.status, 207);
    assert_eq!(back.body["results"].as_array().unwrap().len(), 2);
    assert_eq!(back.body["errors"][0]["context"]["subscriberIdString"], json!(["no address"]));
    let reason = |back: &Back| back.body["results"][0]["statuses"][0]["setStatusSuccessReason"].clone();
    assert_eq!(reason(&back), "UNSUBSCRIBE_FROM_ALL_OCCURRED");
    assert_eq!(reason(&post(&router, &path, body).await), "NO_STATUS_CHANGE");
    assert!(account.statuses()["stranger@example.com"].unsubscribed_all);
    assert_eq!(account.contact("ana@example.com").unwrap().properties["hs_email_optout"], "true");
    let single = format!("{PREFERENCES}/statuses/bea%40example.com/unsubscribe-all?channel=EMAIL");
    assert_eq!(post(&router, &single, Value::Null).await.status, 200);
    let read = call(&router, "GET", &single, Value::Null).await;
    assert_eq!(read.body["results"][0]["status"], "UNSUBSCRIBED");
    invalid(
        &post(
            &router,
            &format!("{PREFERENCES}/statuses/batch/unsubscribe-all"),
            json!({"inputs": ["a@x.org"]}),
        )
        .await,
        "channel",
    );
    invalid(&post(&router, &path, json!({"inputs": [{"id": "a@x.org"}]})).await, "string");
}

#[tokio::test]
async fn subscriptions_are_written_by_type() {
    let (account, router) = account();
    let write = |state: &str| {
        json!({"channel": "EMAIL", "subscriptionId": 1001, "statusState": state,
        "legalBasis": "CONSENT_WITH_NOTICE", "subscriberIdString": "ana@example.com"})
    };
    let path = format!("{PREFERENCES}/statuses/ana%40example.com");
    let reasons = [
        ("SUBSCRIBED", "REQUESTED_CHANGE_OCCURRED"),
        ("SUBSCRIBED", "NO_STATUS_CHANGE"),
        ("UNSUBSCRIBED", "REQUESTED_CHANGE_OCCURRED"),
        ("SUBSCRIBED", "RESUBSCRIBE_OCCURRED"),
    ];
    for (state, reason) in reasons {
        let back = post(&router, &path, write(state)).await;
        assert_eq!((back.status, &back.body["setStatusSuccessReason"]), (200, &json!(reason)));
    }
    let batch = post(
        &router,
        &format!("{PREFERENCES}/statuses/batch/write"),
        json!({"inputs": [write("UNSUBSCRIBED")]}),
    )
    .await;
    assert_eq!((batch.status, &batch.body["results"][0]["status"]), (200, &json!("UNSUBSCRIBED")));
    let read = call(&router, "GET", &format!("{path}?channel=EMAIL"), Value::Null).await;
    assert_eq!(read.body["results"][0]["status"], "UNSUBSCRIBED");
    assert_eq!(read.body["results"][1]["status"], "NOT_SPECIFIED");
    let many = post(
        &router,
        &format!("{PREFERENCES}/statuses/batch/read?channel=EMAIL"),
        json!({"inputs": ["ana@example.com"]}),
    )
    .await;
    assert_eq!(many.body["results"][0]["statuses"][0]["status"], "UNSUBSCRIBED");
    assert_eq!(account.statuses()["ana@example.com"].types[&1001], "UNSUBSCRIBED");
    let mut wrong = write("SUBSCRIBED");
    wrong["legalBasis"] = json!("BECAUSE");
    invalid(&post(&router, &path, wrong).await, "legal basis");
    invalid(&post(&router, &path, write("MAYBE")).await, "statusState");
}

#[tokio::test]
async fn erasure_takes_the_contact_its_notes_links_and_its_subscriptions() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    post(
        &router,
        &format!("{PREFERENCES}/statuses/ana%40example.com/unsubscribe-all?channel=EMAIL"),
        Value::Null,
    )
    .await;
    let path = format!("{CONTACTS}/gdpr-delete");
    let body = json!({"objectId": "ana@example.com", "idProperty": "email"});
    for _ in 0..2 {
        assert_eq!(post(&router, &path, body.clone()).await.status, 204);
    }
    assert!(account.contacts().is_empty() && account.statuses().is_empty());
    invalid(&post(&router, &path, json!({})).await, "objectId");
}

#[tokio::test]
async fn people_see_a_page_and_programs_a_state() {
    let (account, router) = account();
    account.add_contact("ana@example.com");
    let note =
        json!({"properties": {"hs_timestamp": "1778209200000", "hs_note_body": "<script>alert(1)</script>"}});
    call(&router, "POST", NOTES, note).await;
    let page = raw(&router, "GET", "/", &[], "").await.unwrap();
    let text = page.body.as_str().unwrap();
    assert!(
        text.contains("ana@example.com") && text.contains("&lt;script&gt;") && !text.contains("<script>"),
        "{text}"
    );
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    let state = raw(&router, "GET", "/_sandbox/state", &[], "").await.unwrap();
    assert_eq!(state.body["totals"]["notes_that_hang_on_nobody"], 1);
    assert_eq!(state.body["contacts"][0]["email"], "ana@example.com");
}
