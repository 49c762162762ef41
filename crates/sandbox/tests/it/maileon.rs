//! The fake Maileon as its callers see it.

use axum::Router;
use mailspan_sandbox::Faults;
use mailspan_sandbox::maileon::Maileon;
use serde_json::Value;

use crate::{Back, Time, raw};

fn account(faults: &str) -> (Maileon, Router) {
    let account = Maileon::new("key", &["size"], Faults::parse(faults).unwrap(), 11, Time::still().clock());
    let router = account.router();
    (account, router)
}

async fn call(router: &Router, method: &str, path: &str, body: &str) -> Back {
    raw(router, method, path, &[("authorization", "Basic a2V5")], body.to_owned()).await.unwrap()
}

async fn check(router: &Router, method: &str, path: &str, body: &str, status: u16) -> String {
    let back = call(router, method, path, body).await;
    assert_eq!(back.status, status, "{method} {path}: {}", back.body);
    assert_eq!(
        back.header("content-type"),
        "application/vnd.maileon.api+xml",
        "clients compare it to the letter"
    );
    match back.body {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[tokio::test]
async fn a_double_opt_in_is_not_lowered_and_an_existing_contact_is_left_alone_by_default() {
    let (account, router) = account("none");
    let path = "/1.0/contacts/email/a%2Bb%40x.org";
    let made = check(&router, "POST", &format!("{path}?permission=4&sync_mode=1&src=form"), "{}", 201).await;
    assert!(made.contains("<id>1001</id>"), "{made}");
    check(&router, "POST", &format!("{path}?permission=2&sync_mode=1"), "{\"external_id\":\"7\"}", 201).await;
    let contact = account.contact("A+B@x.org").unwrap();
    assert_eq!(
        (contact.permission, contact.external_id.as_deref(), contact.src.as_str()),
        (4, Some("7"), "form")
    );
    check(&router, "POST", path, "{\"external_id\":\"8\"}", 201).await;
    assert_eq!(
        account.contact("a+b@x.org").unwrap().external_id.as_deref(),
        Some("7"),
        "sync_mode 2 does nothing"
    );
    check(&router, "POST", path, "{\"custom_fields\":{\"nope\":\"1\"}}", 400).await;
    check(&router, "POST", path, "{\"custom_fields\":{\"size\":null}}", 400).await;
    check(&router, "POST", "/contacts/email/no?permission=1", "{}", 400).await;
    check(&router, "POST", &format!("{path}?permission=7"), "{}", 400).await;
    assert!(check(&router, "GET", path, "", 200).await.contains("<permission>4</permission>"));
}

#[tokio::test]
async fn a_synchronisation_reports_on_everybody() {
    let (account, router) = account("none");
    let path = "/contacts?permission=2&sync_mode=1&ignore_invalid_contacts=true&reimport_unsubscribed_contacts=false";
    let row = |email: &str| format!("<contact><email>{email}</email></contact>");
    check(&router, "PUT", "/contacts/email/gone%40x.org/unsubscription", "", 201).await;
    let field = "<contact><email>c@x.org</email><custom_fields><field><name>nope</name><value>1</value></field></custom_fields></contact>";
    let body = format!("<contacts>{}{}{}{field}</contacts>", row("a@x.org"), row("bad"), row("gone@x.org"));
    let report = check(&router, "POST", path, &body, 200).await;
    for part in [
        "<count_contacts>4</count_contacts>",
        "<count_new_contacts>1</count_new_contacts>",
        "<count_unsubscribed_contacts>1</count_unsubscribed_contacts>",
        "<count_invalid_contacts>2</count_invalid_contacts>",
        "<email>bad</email><error code=\"3\">",
        "<email>c@x.org</email><error code=\"21\"><error_field>nope</error_field>",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert_eq!(account.contacts().len(), 1);
    check(&router, "POST", "/contacts?sync_mode=1", &body, 400).await;
    check(&router, "POST", "/contacts", "{}", 400).await;
}

#[tokio::test]
async fn moves_unsubscriptions_and_deletions() {
    let (account, router) = account("none");
    for email in ["a@x.org", "b@x.org"] {
        let path = format!("/contacts/email/{email}?permission=2");
        check(&router, "POST", &path, "{\"external_id\":\"7\"}", 201).await;
    }
    check(&router, "PUT", "/contacts/email/a@x.org", "{\"email\":\"b@x.org\"}", 409).await;
    check(&router, "PUT", "/contacts/email/a@x.org", "{\"email\":\"c@x.org\"}", 200).await;
    check(&router, "PUT", "/contacts/email/a@x.org", "{\"email\":\"d@x.org\"}", 404).await;
    assert_eq!(account.contact("c@x.org").unwrap().id, 1001);
    check(&router, "DELETE", "/contacts/email/c@x.org/unsubscribe", "", 200).await;
    assert!(account.contact("c@x.org").is_none() && account.is_marked("c@x.org"));
    check(&router, "DELETE", "/contacts/externalid/7/unsubscribe", "", 200).await;
    check(&router, "DELETE", "/contacts/externalid/7/unsubscribe", "", 404).await;
    check(&router, "DELETE", "/contacts/email/b@x.org", "", 404).await;
    check(&router, "GET", "/ping", "", 200).await;
}

#[tokio::test]
async fn keys_privileges_and_webhooks_without_a_signature() {
    let (account, router) = account("missing_scopes=DELETE");
    check(&router, "DELETE", "/contacts/email/b@x.org", "", 403).await;
    check(&router, "POST", "/contacts/email/a+b@x.org?permission=3", "{}", 201).await;
    let back = raw(&router, "GET", "/ping", &[("authorization", "Basic eA==")], "").await.unwrap();
    assert_eq!(back.status, 401);
    account.confirm("a+b@x.org");
    assert_eq!(account.contact("a+b@x.org").unwrap().permission, 4);
    account.unsubscribe("a+b@x.org");
    let hooks = account.take_hooks();
    assert_eq!(hooks[0].query, "type=doi&email=a+b@x.org");
    assert_eq!(
        hooks[0].body.as_deref(),
        Some("{\"email\":\"a+b@x.org\",\"timestamp\":\"2026-05-08 03:00:00\"}")
    );
    assert_eq!(hooks[1].body, None);
}
