//! The fake MailingCore as its callers see it.

use axum::Router;
use mailspan_sandbox::Faults;
use mailspan_sandbox::mailingcore::{MailingCore, signature};
use serde_json::{Value, json};

use crate::{TOKEN, Time, call, raw};

fn broken(faults: &str) -> (MailingCore, Router, Time) {
    let time = Time::still();
    let account = MailingCore::new(TOKEN, Faults::parse(faults).unwrap(), 11, time.clock());
    let router = account.router();
    (account, router, time)
}

fn contact(n: usize) -> Value {
    json!({"email": format!("P{n}@Example.com"), "externalId": format!("u-{n}"), "optIn": true, "locale": "de"})
}

async fn check_put(router: &Router, body: Value, status: u16, says: &str) {
    let back = call(router, "PUT", "/contacts", body.clone()).await;
    assert_eq!(back.status, status, "{body}: {}", back.body);
    assert!(back.body.to_string().contains(says), "{body}: {}", back.body);
}

/// The table of matching: by external id, else by address; two contacts are never merged.
#[tokio::test]
async fn an_upsert_finds_its_contact_or_conflicts() {
    let (account, router, _) = broken("none");
    check_put(&router, json!({"email": "a@x.org"}), 200, "\"optIn\":false").await;
    check_put(&router, json!({"email": "A@x.org", "externalId": "1"}), 200, "\"externalId\":\"1\"").await;
    check_put(&router, json!({"email": "b@x.org", "externalId": "1"}), 200, "b@x.org").await;
    check_put(&router, json!({"email": "b@x.org", "externalId": "2"}), 409, "externalId conflict").await;
    check_put(&router, json!({"email": "c@x.org", "externalId": "3"}), 200, "c@x.org").await;
    check_put(&router, json!({"email": "c@x.org", "externalId": "1"}), 409, "email conflict").await;
    assert_eq!(account.contacts().len(), 2);
    for (body, says) in [
        (json!({"externalId": "1"}), "email"),
        (json!({"email": "x"}), "must be an email"),
        (json!({"email": "a@x.org", "locale": "de_DE"}), "locale"),
        (json!({"email": "a@x.org", "optIn": "yes"}), "optIn"),
        (json!({"email": "a@x.org", "nope": 1}), "should not exist"),
        (json!({"email": "a@x.org", "externalId": "x".repeat(129)}), "128"),
    ] {
        check_put(&router, body, 400, says).await;
    }
}

#[tokio::test]
async fn a_bulk_call_is_refused_whole_for_its_form_and_row_by_row_for_its_meaning() {
    let (account, router, _) = broken("none");
    let rows: Vec<Value> = (0..1_000).map(contact).collect();
    let back = call(&router, "POST", "/contacts/bulk", json!({"contacts": rows})).await;
    assert_eq!(
        (back.status, &back.body["created"], &back.body["total"]),
        (200, &json!(1_000), &json!(1_000))
    );
    let bad = json!({"contacts": [contact(1), {"email": "no"}]});
    let back = call(&router, "POST", "/contacts/bulk", bad).await;
    assert_eq!((back.status, &back.body["errors"][0]), (400, &json!("contacts.1.email must be an email")));
    let conflict = json!({"contacts": [contact(1), {"email": "p2@example.com", "externalId": "other"}]});
    let back = call(&router, "POST", "/contacts/bulk", conflict).await;
    assert_eq!((&back.body["updated"], &back.body["errors"][0]["index"]), (&json!(1), &json!(1)));
    for count in [0, 1_001] {
        let rows: Vec<Value> = (0..count).map(contact).collect();
        let back = call(&router, "POST", "/contacts/bulk", json!({"contacts": rows})).await;
        assert_eq!(back.status, 400, "{count} rows");
    }
    assert_eq!(account.contacts().len(), 1_000);
}

#[tokio::test]
async fn the_list_of_changes_has_every_change_once_and_none_that_changed_nothing() {
    let (account, router, time) = broken("none");
    for n in 0..7 {
        time.pass(1_000);
        account.upsert(&contact(n)).unwrap();
    }
    let (mut path, mut found) =
        ("/contacts?updatedSince=2026-05-08T03:00:03.000Z&cursor=&limit=2".to_owned(), vec![]);
    loop {
        let back = call(&router, "GET", &path, Value::Null).await;
        assert_eq!(back.status, 200, "{}", back.body);
        let rows = back.body["data"].as_array().unwrap().clone();
        found.extend(rows.iter().map(|row| row["email"].as_str().unwrap().to_owned()));
        let Some(next) = back.body["meta"]["nextCursor"].as_str() else { break };
        path = format!("/contacts?updatedSince=2026-05-08T03:00:03.000Z&cursor={next}&limit=2");
    }
    let expected: Vec<String> = (2..7).map(|n| format!("p{n}@example.com")).collect();
    assert_eq!(found, expected, "the bound is part of the list");
    let before = account.contact("p0@example.com").unwrap();
    time.pass(1_000);
    assert_eq!(account.upsert(&contact(0)).unwrap().updated_at, before.updated_at);
    let back = call(&router, "GET", "/contacts?limit=3&page=3", Value::Null).await;
    assert_eq!(
        (&back.body["meta"]["totalPages"], back.body["data"].as_array().unwrap().len()),
        (&json!(3), 1)
    );
    for bad in ["limit=501", "limit=x", "cursor=x", "page=1&cursor=1.x", "updatedSince=soon", "optIn=maybe"] {
        assert_eq!(call(&router, "GET", &format!("/contacts?{bad}"), Value::Null).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn opt_outs_suppressions_and_erasure() {
    let (account, router, _) = broken("none");
    let id = account.upsert(&contact(1)).unwrap().id;
    for key in [id.as_str(), "u-1"] {
        assert_eq!(call(&router, "GET", &format!("/contacts/{key}"), Value::Null).await.body["id"], id);
    }
    let back = call(&router, "PATCH", &format!("/contacts/{id}"), json!({"optIn": false})).await;
    assert_eq!((&back.body["optIn"], back.body["unsubscribedAt"].is_string()), (&json!(false), true));
    let back =
        call(&router, "POST", "/suppressions", json!({"email": "P1@example.com", "reason": "complaint"}))
            .await;
    assert_eq!(back.status, 201);
    assert!(account.contact("p1@example.com").unwrap().suppressed_at.is_some());
    let back = call(&router, "POST", "/suppressions", json!({"email": "p1@example.com"})).await;
    assert_eq!((back.status, &back.body["reason"]), (200, &json!("complaint")));
    assert_eq!(call(&router, "DELETE", "/suppressions/p1%40example.com", Value::Null).await.status, 200);
    assert_eq!(call(&router, "DELETE", "/suppressions/p1%40example.com", Value::Null).await.status, 404);
    let contact = account.contact("p1@example.com").unwrap();
    assert!(contact.suppressed_at.is_none() && !contact.opt_in, "lifting opts nobody in");
    assert_eq!(call(&router, "DELETE", "/contacts/u-1", Value::Null).await.body["deleted"], true);
    assert_eq!(call(&router, "DELETE", "/contacts/u-1", Value::Null).await.status, 404);
    assert_eq!(account.suppressions()["p1@example.com"], "erasure");
    let back = call(&router, "POST", "/suppressions", json!({"email": "x@y.org", "reason": "dislike"})).await;
    assert_eq!(back.status, 400);
}

#[tokio::test]
async fn keys_tenants_scopes_and_limits() {
    let (account, router, time) = broken("rate_limit=3/60s");
    let auth = format!("Bearer {TOKEN}");
    let with = async |headers: &[(&str, &str)]| raw(&router, "GET", "/contacts", headers, "").await.unwrap();
    assert_eq!(with(&[]).await.status, 401);
    assert_eq!(with(&[("authorization", "Bearer other")]).await.status, 401);
    assert_eq!(with(&[("authorization", &auth), ("x-tenant-id", "other")]).await.status, 403);
    let tenant = account.tenant_id();
    let back = with(&[("authorization", &auth), ("x-tenant-id", &tenant)]).await;
    assert_eq!((back.status, back.header("x-ratelimit-remaining")), (200, "2"));
    assert_eq!(back.header("date"), "Fri, 08 May 2026 03:00:00 GMT");
    for _ in 0..2 {
        assert_eq!(with(&[("authorization", &auth)]).await.status, 200);
    }
    time.pass(20_000);
    let back = with(&[("authorization", &auth)]).await;
    assert_eq!((back.status, back.header("retry-after")), (429, "40"));
    assert_eq!(back.body["statusCode"], 429);
    account.set_faults(Faults::parse("missing_scopes=contacts:read").unwrap());
    let back = with(&[("authorization", &auth)]).await;
    assert_eq!(
        (back.status, &back.body["message"]),
        (403, &json!("Missing required API key scope: contacts:read"))
    );
}

#[tokio::test]
async fn webhooks_are_signed_and_given_up_after_five_attempts() {
    let (account, router, time) = broken("none");
    account.upsert(&contact(1)).unwrap();
    let secret = "whsec_0123456789abcdef0123456789abcdef";
    let body =
        json!({"url": "https://app.example/hook", "events": ["contact.unsubscribed"], "secret": secret});
    let made = call(&router, "POST", "/webhooks/endpoints", body).await;
    assert_eq!((made.status, &made.body["secret"]), (201, &json!(secret)));
    assert!(account.unsubscribe("p1@example.com"));
    assert!(!account.unsubscribe("nobody@example.com"));
    let mut posts = Vec::new();
    for _ in 0..200 {
        for hook in account.due(10) {
            posts.push(hook.clone());
            account.settle(hook.ticket, Some(500));
        }
        time.pass(1_000);
    }
    assert_eq!((posts.len(), account.webhooks_open()), (5, 0));
    let header =
        |n: usize, name: &str| posts[n].headers.iter().find(|(key, _)| key == name).unwrap().1.clone();
    assert_eq!(header(0, "x-mailingcore-delivery-id"), header(4, "x-mailingcore-delivery-id"));
    assert_ne!(
        header(0, "x-mailingcore-signature"),
        header(4, "x-mailingcore-signature"),
        "a time for each attempt"
    );
    assert_eq!(header(0, "x-mailingcore-signature"), signature(secret, 1_778_209_200, &posts[0].body));
    let event: Value = serde_json::from_slice(&posts[0].body).unwrap();
    assert_eq!(
        (&event["type"], &event["data"]["source"]),
        (&json!("contact.unsubscribed"), &json!("hosted_page"))
    );
    let id = made.body["id"].as_str().unwrap();
    let told =
        call(&router, "GET", &format!("/webhooks/endpoints/{id}/deliveries?limit=20"), Value::Null).await;
    assert_eq!(
        (&told.body["data"][0]["attempt"], &told.body["data"][0]["statusCode"]),
        (&json!(5), &json!(500))
    );
    account.happen("email.bounced", "p1@example.com", &json!({"bounceType": "HARD"}));
    assert_eq!(account.webhooks_open(), 0, "nobody asked for bounces");
    for bad in [
        json!({"url": "ftp://x", "events": ["email.sent"]}),
        json!({"url": "https://x.org", "events": []}),
        json!({"url": "https://x.org", "events": ["email.lost"]}),
        json!({"url": "https://x.org", "events": ["email.sent"], "secret": "short"}),
    ] {
        assert_eq!(call(&router, "POST", "/webhooks/endpoints", bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(
        call(&router, "PATCH", &format!("/webhooks/endpoints/{id}/toggle"), Value::Null).await.body["isActive"],
        false
    );
    assert_eq!(call(&router, "DELETE", &format!("/webhooks/endpoints/{id}"), Value::Null).await.status, 200);
}

/// The vectors of the vendor's recipe, computed by hand.
#[test]
fn the_signature_is_the_vendors() {
    let secret = "whsec_0123456789abcdef0123456789abcdef";
    for (body, mac) in [
        ("", "1049eb1b32b7d72780b6ea9d84feb83428c346a3731e0046c4b4e3fbcef74216"),
        ("{\"name\":\"Núria\"}", "ca23d8809ee33cbcbbe9261178caffd01b8b7dd177ca4d210576419365e2639a"),
    ] {
        assert_eq!(signature(secret, 1_719_763_200, body.as_bytes()), format!("t=1719763200,v1={mac}"));
    }
}

#[tokio::test]
async fn faults_break_rows_and_calls_by_the_seed() {
    let (account, router, _) = broken("partial=50%");
    let rows: Vec<Value> = (0..100).map(contact).collect();
    let back = call(&router, "POST", "/contacts/bulk", json!({"contacts": rows})).await;
    let failed = back.body["failed"].as_u64().unwrap();
    assert!((20..80).contains(&failed) && back.body["errors"][0]["statusCode"] == 500, "{failed}");
    assert_eq!(account.contacts().len() as u64, 100 - failed);
    account.set_faults(Faults::parse("reset_after_commit").unwrap());
    let auth = format!("Bearer {TOKEN}");
    let body = contact(200).to_string();
    assert!(raw(&router, "PUT", "/contacts", &[("authorization", &auth)], body).await.is_err());
    assert!(account.contact("p200@example.com").is_some(), "it acted before it broke off");
    account.set_faults(Faults::parse("empty_results").unwrap());
    let back = call(&router, "POST", "/contacts/bulk", json!({"contacts": [contact(300)]})).await;
    assert_eq!((back.status, back.body), (200, json!({})));
}
