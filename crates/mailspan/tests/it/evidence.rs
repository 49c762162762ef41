//! What proves a consent, and what no door lets in: the same rules for API, events, intake and hosted page.

use mailspan_testkit::{Hub, request, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::maileon::{Form, behind_proxy, hub_with_proxy};
use crate::support::hub;

/// SHA-256 of `abc`, from FIPS 180-2.
const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A key that writes events and contacts of the default tenant.
fn key(hub: &Hub) -> Tenant<'_> {
    let scopes = ["events:write", "contacts:write", "contacts:read"];
    let words: Vec<&str> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
    let made = hub.rows(&[&["keys", "create"][..], &words].concat());
    Tenant { hub, key: made[0]["key"].as_str().unwrap().to_owned() }
}

/// The last fact of a person with this meaning.
fn fact(hub: &Hub, subject: &str, what: &str) -> Value {
    let facts = hub.rows(&["ledger", "list", "--subject", subject]);
    let found = facts.iter().rfind(|fact| fact["what"] == what);
    found.unwrap_or_else(|| panic!("no fact {what} of {subject}: {facts:?}")).clone()
}

fn check(fact: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&fact["evidence"][name], value, "{name}: {fact}");
    }
    let actor = fact["evidence"]["actor"].as_str().unwrap_or_default();
    assert!(!actor.is_empty(), "nobody said it: {fact}");
}

#[test]
fn a_fact_says_who_said_it_and_to_which_words() {
    let (hub, _) = hub();
    let tenant = key(&hub);
    let event = json!({ "type": "contact.subscribed", "subject": "ev@x.org", "data": {
        "consent_version": "v7", "source": "signup", "consent_ip": "203.0.113.9", "consent_page": "https://x.org/f",
        "consent_text": "abc",
    } });
    assert_eq!(tenant.ask("POST", "/v1/events", &event).status, 202);
    let expected = json!({ "origin": "app", "consent_version": "v7", "source": "signup", "ip": "203.0.113.9",
        "page": "https://x.org/f", "text_hash": HASH });
    check(&fact(&hub, "ev@x.org", "opt_in"), &expected);
    let body = json!({ "email": "api@x.org", "optIn": true, "consentVersion": "v7", "source": "signup",
        "consentTextHash": HASH.to_uppercase(), "consentPage": "https://x.org/f", "consentIp": "203.0.113.9" });
    assert_eq!(tenant.put(body).status, 200);
    check(
        &fact(&hub, "api@x.org", "opt_in"),
        &json!({ "text_hash": HASH, "ip": "203.0.113.9", "page": "https://x.org/f" }),
    );
    for (text, hash) in [(None, "abc"), (Some("abd"), HASH)] {
        let body =
            json!({ "email": "bad@x.org", "optIn": true, "consentText": text, "consentTextHash": hash });
        let refused = tenant.put(body);
        assert!(refused.status == 400 && refused.text().contains("consentTextHash"), "{}", refused.text());
    }
    let csv = "email,opt_in,consent_at,source,consent_text\nim@x.org,true,2024-05-01T10:00:00Z,fair,abc\n";
    std::fs::write(hub.folder().join("a.csv"), csv).unwrap();
    assert_eq!(hub.rows(&["contacts", "import", "a.csv"])[0]["created"], 1);
    check(&fact(&hub, "im@x.org", "opt_in"), &json!({ "text_hash": HASH, "source": "fair" }));
}

#[test]
fn a_confirmation_proves_what_was_asked_for() {
    let hub = behind_proxy();
    let (form, _) = Form::new(&hub, "acme");
    let query =
        "email=in@x.org&sync_mode=1&permission=2&consent_version=v7&consent_text=abc&consent_ip=203.0.113.9";
    assert_eq!(form.query(query).status, 200);
    let expected =
        json!({ "origin": "intake", "consent_version": "v7", "text_hash": HASH, "ip": "203.0.113.9" });
    let facts = hub.rows(&["ledger", "list", "--subject", "in@x.org"]);
    check(&facts[0], &expected);
    // A call that says all in its query is proven by the query, as it is kept.
    let shown = hub.rows(&["events", "show", facts[0]["event_id"].as_str().unwrap()]).remove(0);
    let kept = format!("{}\n", shown["request"]["query"].as_str().unwrap());
    assert!(kept.contains("key=[") && kept.contains("consent_version=v7"), "{kept}");
    let digest = mailspan_connectors::signature::digest(kept.as_bytes()).to_string();
    assert_eq!((&facts[0]["request_digest"], &shown["request"]["digest"]), (&json!(digest), &json!(digest)));
    let (hub, crm) =
        hub_with_proxy("\n[[routes]]\nname = \"contacts\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n");
    let made = hub.rows(&["keys", "create", "--scope", "contacts:write"]);
    let form = Form { hub: &hub, key: made[0]["key"].as_str().unwrap().to_owned() };
    let query =
        format!("email=doi@x.org&sync_mode=1&doi=true&src=shop&consent_version=v7&consent_text_hash={HASH}");
    assert_eq!(form.query(&query).status, 200);
    let asked = until(10, "nothing was asked", || {
        crm.ok().into_iter().find(|seen| seen.json()["type"] == "contact.confirmation_asked")
    });
    let url = asked.json()["data"]["confirm_url"].as_str().unwrap().to_owned();
    let path = &url[url.find("/doi/").unwrap()..];
    assert_eq!(request(hub.port, "POST", path, &[], b"").unwrap().status, 200);
    let expected =
        json!({ "actor": "visitor", "text_hash": HASH, "consent_version": "v7", "source": "shop" });
    check(&fact(&hub, "doi@x.org", "opt_in"), &expected);
}

#[test]
fn an_event_brings_in_what_other_doors_would_and_no_more() {
    let (hub, crm) = hub();
    let tenant = key(&hub);
    let deep = json!({ "a": { "b": { "c": { "d": { "e": { "f": { "g": 1 } } } } } } });
    let event = json!({ "type": "contact.created", "subject": "ev@x.org", "data": { "contact": {
        "email": "ev@x.org", "external_id": "..", "locale": "zz-gibberish", "opt_in": true, "attributes": deep,
        "standard": { "NOSUCH": 1, "GENDER": "zzz", "CITY": "Köln" }, "custom": { "undeclared": { "x": 1 } },
    } } });
    let answer = tenant.ask("POST", "/v1/events", &event);
    assert_eq!(
        (answer.status, &answer.json()["accepted"], &answer.json()["quarantined"]),
        (202, &json!(1), &json!(1))
    );
    let listed = tenant.get("/contacts");
    let contact = &listed["data"][0];
    assert_eq!((&contact["email"], &contact["optIn"]), (&json!("ev@x.org"), &json!(true)));
    assert_eq!(
        (&contact["externalId"], &contact["locale"], &contact["attributes"]),
        (&Value::Null, &Value::Null, &json!({}))
    );
    assert_eq!(
        (&contact["standardFields"], &contact["customFields"]),
        (&json!({ "CITY": "Köln" }), &json!({}))
    );
    let why = hub.rows(&["quarantined"])[0]["text"].to_string();
    for named in ["locale", "attributes", "NOSUCH", "GENDER", "undeclared", "external_id", "is kept"] {
        assert!(why.contains(named), "{named}: {why}");
    }
    until(10, "the event itself was not kept", || crm.ok_about("ev@x.org").pop());
    hub.run(&["fields", "declare", "plan", "string"]);
    let good = json!({ "type": "contact.updated", "subject": "ev@x.org", "data": { "contact": {
        "locale": "de_DE", "attributes": { "n": 1 }, "custom": { "plan": "pro" } } } });
    assert_eq!(tenant.ask("POST", "/v1/events", &good).json()["quarantined"], 0);
    let contact = &tenant.get("/contacts")["data"][0];
    assert_eq!(
        (&contact["locale"], &contact["attributes"], &contact["customFields"]["plan"]),
        (&json!("de"), &json!({ "n": 1 }), &json!("pro"))
    );
}

#[test]
fn what_cannot_be_kept_or_called_is_refused() {
    let (hub, _) = hub();
    let tenant = key(&hub);
    for (body, named) in [
        (json!({ "email": "a@x.org", "externalId": ".." }), "externalId"),
        (json!({ "email": "a@x.org", "externalId": "bulk" }), "externalId"),
        (json!({ "email": "a@x.org", "locale": "xx" }), "locale"),
        (json!({ "email": 7 }), "email: expected a text, not the number 7"),
        (json!({ "email": "a@x.org", "permission": 300 }), "a whole number from 0 to 255"),
        (json!({ "email": "a@x.org", "customFields": [] }), "customFields: expected an object, not a list"),
    ] {
        let reply = tenant.put(body.clone());
        assert!(reply.status == 400 && reply.text().contains(named), "{body}: {}", reply.text());
    }
    let bearer = format!("Bearer {}", tenant.key);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let big = br#"{"email":"a@x.org","attributes":{"n":123456789012345678901234}}"#;
    let reply = request(hub.port, "PUT", "/contacts", &headers, big).unwrap();
    assert!(reply.status == 400 && reply.text().contains("attributes.n"), "{}", reply.text());
    let declared = hub.run(&["fields", "declare", "of ann@x.org", "string"]);
    assert!(!declared.status.success(), "a field is named after a person");
    for path in ["/contacts/a/b", "/suppressions/a/b/c", "/webhooks/endpoints/a/nothing"] {
        let reply = tenant.ask("GET", path, &Value::Null);
        let body = reply.json();
        assert_eq!(
            (reply.status, &body["statusCode"], &body["status"], &body["path"]),
            (404, &json!(404), &json!(404), &json!(path))
        );
    }
}

#[test]
fn a_consent_given_anew_leaves_a_fact_and_a_nightly_mirror_none() {
    let hub = behind_proxy();
    let (form, tenant) = Form::new(&hub, "acme");
    let facts = || hub.rows(&["ledger", "list", "--subject", "in@x.org"]);
    let put = |more: Value| {
        let mut body = json!({ "email": "in@x.org", "optIn": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(tenant.put(body).status, 200);
        facts()
    };
    put(json!({ "consentVersion": "v1", "consentText": "old words" }));
    let renewed = put(json!({ "consentVersion": "v1", "consentText": "abc", "consentIp": "203.0.113.9" }));
    assert_eq!(renewed.len(), 2);
    check(&renewed[1], &json!({ "text_hash": HASH, "consent_version": "v1", "ip": "203.0.113.9" }));
    for mirrored in
        [json!({}), json!({ "consentVersion": "v1" }), json!({ "consentText": "abc", "locale": "de" })]
    {
        assert_eq!(put(mirrored).len(), 2);
    }
    let query = "email=in@x.org&sync_mode=1&permission=2&src=shop&consent_text=fourth";
    for _ in 0..2 {
        assert_eq!(form.query(query).status, 200);
    }
    let all = facts();
    assert_eq!(all.len(), 3, "{all:?}");
    check(&all[2], &json!({ "origin": "intake", "source": "shop" }));
}
