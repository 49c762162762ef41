//! Two processes with two stores and HTTP between them: the hub of an application that owns consent, and the hub
//! that plays the mailing platform. Rows 1, 5, 6 and 7 of the smoke test that MailingCore's page on the SaaS
//! pattern asks for (newsletter: B2B SaaS integration pattern).

use mailspan_testkit::{Hub, PostgresServer, Receiver, Seen, request, until, use_stores};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::{BINARY, base};

const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";
const LOCALES: [&str; 6] = ["es", "en", "it", "fr", "ca", "de"];
const SCOPES: [&str; 8] = [
    "--scope",
    "contacts:read",
    "--scope",
    "contacts:write",
    "--scope",
    "suppressions:write",
    "--scope",
    "webhooks:manage",
];

/// The mailing side: contacts, webhook endpoints, and what its sending machines report.
fn platform() -> String {
    let sending = "\n[sources.sending]\nkind = \"api\"\ntenant = \"acme\"\n";
    base("key = { env = \"STORE_KEY\" }") + sending
}

/// The application's side: it says what its users agree to, and is told what they took back elsewhere.
fn saas(platform: u16, application: u16) -> String {
    let base = base("");
    format!(
        r#"{base}

[sources.app]
kind = "api"

[sources.mailingcore]
kind = "mailingcore"
secrets = [{{ env = "CORE_SECRET" }}]
tenant_id = "acme"
account = "core"

[destinations.mailingcore]
kind = "mailingcore"
base_url = "http://127.0.0.1:{platform}"
auth = {{ kind = "bearer", token = {{ env = "CORE_KEY" }} }}
tenant_id = "acme"
account = "core"
rate = "1000/1s"
retry = {{ calendar = ["100ms"], for = "1h" }}
breaker = {{ failures = 0 }}
batch = {{ max = 1000, wait = "100ms" }}

[destinations.application]
kind = "http"
url = "http://127.0.0.1:{application}/revoked"
retry = ["100ms"]

[[routes]]
name = "audience"
events = ["contact.*", "email.complained", "email.bounced"]
to = ["mailingcore"]

[[routes]]
name = "revocations"
from = ["mailingcore"]
events = ["contact.unsubscribed", "email.complained", "email.bounced"]
to = ["application"]
"#
    )
}

/// Both hubs, the application's endpoint, and the keys of either side.
struct Pair {
    platform: Hub,
    platform_key: String,
    sending_key: String,
    saas: Hub,
    saas_key: String,
    application: Receiver,
}

impl Pair {
    fn start() -> Pair {
        let application = Receiver::start();
        let mut platform =
            Hub::new(BINARY, &platform(), &[("STORE_KEY", "the-store-key-of-the-mailing-side")]);
        platform.start();
        platform.rows(&["tenants", "create", "acme"]);
        // The test asks with the same key, and more often than an application would.
        assert!(platform.run(&["tenants", "set", "acme", "--rate-per-minute", "0"]).status.success());
        let key_of = |hub: &Hub, words: &[&str]| {
            hub.rows(&[&["keys", "create"], words].concat())[0]["key"].as_str().unwrap().to_owned()
        };
        let platform_key = key_of(&platform, &[&["--tenant", "acme"], &SCOPES[..]].concat());
        let sending_key = key_of(&platform, &["--tenant", "acme", "--scope", "events:write"]);
        let env = [("CORE_SECRET", SECRET), ("CORE_KEY", platform_key.as_str())];
        let mut saas = Hub::new(BINARY, &saas(platform.port, application.port), &env);
        saas.start();
        let saas_key = key_of(
            &saas,
            &["--scope", "events:write", "--scope", "contacts:read", "--scope", "contacts:write"],
        );
        let pair = Pair { platform, platform_key, sending_key, saas, saas_key, application };
        let endpoint = json!({
            "url": format!("http://127.0.0.1:{}/in/mailingcore", pair.saas.port), "secret": SECRET,
            "events": ["contact.unsubscribed", "email.bounced", "email.complained"],
        });
        let made = pair.account().ask("POST", "/webhooks/endpoints", &endpoint);
        assert_eq!(made.status, 201, "{}", made.text());
        pair
    }

    /// The API of the mailing side.
    fn account(&self) -> Tenant<'_> {
        Tenant { hub: &self.platform, key: self.platform_key.clone() }
    }

    /// What the application's hub itself knows of the contacts.
    fn ledger(&self) -> Tenant<'_> {
        Tenant { hub: &self.saas, key: self.saas_key.clone() }
    }

    /// The application says it.
    fn say(&self, events: &[Value]) {
        send(self.saas.port, &self.saas_key, events);
    }

    /// The sending machines of the mailing side report it.
    fn report(&self, events: &[Value]) {
        send(self.platform.port, &self.sending_key, events);
    }

    /// Waits until both hubs have nothing left to route or to deliver, twice in a row: what one delivers, the
    /// other has to route.
    fn rest(&self) {
        let (mut still, mut looks) = (0, 0);
        until(60, "the two hubs do not come to rest", || {
            let audits = [&self.saas, &self.platform].map(|hub| hub.rows(&["audit"]).remove(0));
            let resting = audits.iter().all(|audit| audit["waiting"] == 0 && audit["pending"] == 0);
            (still, looks) = (if resting { still + 1 } else { 0 }, looks + 1);
            assert!(looks < 500, "the two hubs do not come to rest: {audits:?}");
            assert!(audits.iter().all(|audit| audit["adds_up"] == true), "{audits:?}");
            (still == 2).then_some(())
        });
    }

    /// Waits until the account knows the contact so.
    fn shows(&self, external_id: &str, opt_in: bool) -> Value {
        let path = format!("/contacts/{external_id}");
        until(30, &format!("{external_id} is not shown with optIn {opt_in} at the mailing side"), || {
            let reply = self.account().ask("GET", &path, &Value::Null);
            (reply.status == 200 && reply.json()["optIn"] == opt_in).then(|| reply.json())
        })
    }

    /// Waits until the application was told this of the person.
    fn told(&self, event_type: &str, external_id: &str) -> Seen {
        until(30, &format!("the application was not told {event_type} of {external_id}"), || {
            let about = |seen: &Seen| {
                let body = seen.json();
                body["type"] == event_type && body.to_string().contains(&format!("\"{external_id}\""))
            };
            self.application.ok().into_iter().find(about)
        })
    }

    fn skipped(&self) -> Vec<String> {
        let rows = self.saas.rows(&["deliveries", "list", "--state", "skipped", "--limit", "1000"]);
        rows.iter().filter_map(|row| row["reason"].as_str().map(str::to_owned)).collect()
    }
}

fn send(port: u16, key: &str, events: &[Value]) {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!(events).to_string();
    let reply = request(port, "POST", "/v1/events", &headers, body.as_bytes()).unwrap();
    assert_eq!(reply.status, 202, "{}", reply.text());
}

fn email(n: usize) -> String {
    format!("person{n}@example.com")
}

fn external_id(n: usize) -> String {
    format!("user-{n}")
}

/// A moment of the past; later ones are later.
fn at(n: usize) -> String {
    format!("2026-05-08T{:02}:{:02}:{:02}Z", n / 3_600, n / 60 % 60, n % 60)
}

/// The application's `contact.TYPE` about person `n`; `id` tells two of them apart.
fn event(kind: &str, id: &str, n: usize, time: usize) -> Value {
    let contact = json!({
        "email": email(n), "external_id": external_id(n), "locale": LOCALES[n % LOCALES.len()],
        "consent_version": "2026-05", "source": "signup",
    });
    let data = if kind == "subscribed" { json!({ "contact": contact }) } else { json!({}) };
    json!({
        "type": format!("contact.{kind}"), "id": format!("{kind}-{n}-{id}"), "subject": external_id(n),
        "time": at(time), "data": data,
    })
}

/// What the sending machines say of a mail to person `n`, which happens now: at the mailing side a consent is as
/// old as the request that wrote it.
fn mail(kind: &str, n: usize, data: Value) -> Value {
    json!({ "type": format!("email.{kind}"), "id": format!("{kind}-{n}"), "subject": email(n), "data": data })
}

#[test]
fn an_application_and_its_mailing_platform_agree_on_sqlite() {
    agree(&mut Pair::start());
}

/// The application's hub on SQLite, the mailing side on PostgreSQL.
#[test]
fn an_application_on_sqlite_and_its_mailing_platform_on_postgresql_agree() {
    let server = PostgresServer::start();
    let urls = std::cell::RefCell::new(vec!["sqlite:hub.db".to_owned(), server.database("platform")]);
    use_stores(move || urls.borrow_mut().pop().unwrap());
    agree(&mut Pair::start());
}

fn agree(pair: &mut Pair) {
    upserts_with_distinct_locales_are_listed(pair);
    an_unsubscribe_there_revokes_consent_here(pair);
    a_complaint_and_a_bounce_there_reach_the_application(pair);
    a_revocation_here_opts_out_or_removes_there(pair);
    a_sync_that_is_repeated_makes_no_second_row(pair);
}

/// Row 1: listed in `GET /contacts`, `optIn: true`.
fn upserts_with_distinct_locales_are_listed(pair: &Pair) {
    pair.say(&(0..12).map(|n| event("subscribed", "first", n, 1)).collect::<Vec<_>>());
    for n in 0..12 {
        let contact = pair.shows(&external_id(n), true);
        assert_eq!(
            (&contact["email"], &contact["locale"], &contact["consentVersion"], &contact["source"]),
            (&json!(email(n)), &json!(LOCALES[n % 6]), &json!("2026-05"), &json!("signup")),
            "{contact}"
        );
    }
    assert_eq!(pair.account().get("/contacts?optIn=true")["meta"]["total"], 12);
    for locale in LOCALES {
        assert_eq!(pair.account().get(&format!("/contacts?locale={locale}"))["meta"]["total"], 2, "{locale}");
    }
}

/// Row 5's effect: `contact.unsubscribed` is received, consent is revoked in the application.
fn an_unsubscribe_there_revokes_consent_here(pair: &Pair) {
    let id = pair.shows(&external_id(1), true)["id"].as_str().unwrap().to_owned();
    let reply = pair.account().ask("PATCH", &format!("/contacts/{id}"), &json!({ "optIn": false }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    // The same by who reports it, as a hosted page does.
    let hosted = json!({ "type": "contact.unsubscribed", "id": "hosted-2", "subject": email(2), "data": {} });
    pair.report(&[hosted]);
    for n in [1, 2] {
        let told = pair.told("contact.unsubscribed", &external_id(n)).json();
        assert_eq!(told["source"], "/mailingcore", "{told}");
        let here = pair.ledger().get(&format!("/contacts/{}", external_id(n)));
        assert_eq!((&here["optIn"], &here["permission"]), (&json!(false), &json!(1)), "{here}");
        let there = pair.account().get(&format!("/contacts/{}", external_id(n)));
        assert_eq!(there["optIn"], false, "{there}");
    }
    pair.rest();
    // What came from the account is not written to it again.
    assert!(pair.skipped().iter().any(|reason| reason.starts_with("echo")), "{:?}", pair.skipped());
    for n in [1, 2] {
        let facts = pair.saas.rows(&["ledger", "list", "--subject", &email(n)]);
        let out = |fact: &&Value| fact["what"] == "opt_out" && fact["evidence"]["origin"] == "mailingcore";
        assert_eq!(facts.iter().filter(out).count(), 1, "a revocation is one fact of the ledger: {facts:?}");
    }
}

fn a_complaint_and_a_bounce_there_reach_the_application(pair: &Pair) {
    pair.report(&[
        mail("complained", 3, json!({})),
        mail("bounced", 4, json!({ "bounce": "hard", "reason": "550" })),
    ]);
    pair.told("email.complained", &external_id(3));
    pair.told("email.bounced", &external_id(4));
    pair.rest();
    for (side, tenant) in [("application", pair.ledger()), ("mailing side", pair.account())] {
        let complained = tenant.get(&format!("/contacts/{}", external_id(3)));
        assert_eq!(complained["optIn"], false, "{side}: {complained}");
        assert!(complained["suppressedAt"].is_string(), "{side}: {complained}");
        // A dead address takes no consent back.
        let bounced = tenant.get(&format!("/contacts/{}", external_id(4)));
        assert_eq!(bounced["optIn"], true, "{side}: {bounced}");
        assert!(bounced["suppressedAt"].is_string(), "{side}: {bounced}");
    }
}

/// Row 6: removed or opted out at MailingCore.
fn a_revocation_here_opts_out_or_removes_there(pair: &Pair) {
    pair.say(&[event("unsubscribed", "here", 5, 60), event("erased", "here", 6, 60)]);
    pair.shows(&external_id(5), false);
    until(30, "who was erased here is still a contact there", || {
        let path = format!("/contacts/{}", external_id(6));
        (pair.account().ask("GET", &path, &Value::Null).status == 404).then_some(())
    });
    pair.rest();
    // An older opt-in that comes late changes nothing, here or there.
    pair.say(&[event("subscribed", "late", 5, 59)]);
    pair.rest();
    assert_eq!(pair.shows(&external_id(5), false)["email"], email(5));
    assert_eq!(pair.ledger().get(&format!("/contacts/{}", external_id(5)))["optIn"], false);
    // A new one is a new consent where the person has confirmed it: an unsubscription suppresses until then.
    let mut anew = event("confirmed", "anew", 5, 0);
    anew.as_object_mut().unwrap().remove("time");
    pair.say(&[anew]);
    pair.shows(&external_id(5), true);
}

/// Row 7: no external id stands twice, whatever is repeated and whichever side is killed meanwhile.
fn a_sync_that_is_repeated_makes_no_second_row(pair: &mut Pair) {
    let people = || 100..400;
    let round =
        |id: &str, time: usize| people().map(|n| event("subscribed", id, n, time)).collect::<Vec<_>>();
    pair.say(&round("one", 2));
    pair.platform.kill();
    pair.say(&round("one", 2));
    pair.say(&round("two", 2));
    pair.platform.start();
    pair.say(&round("three", 3));
    pair.saas.kill();
    pair.saas.start();
    pair.rest();
    let dead = pair.saas.rows(&["dead-letters", "list"]);
    assert!(dead.is_empty(), "{dead:?}");
    let mut ids: Vec<String> = Vec::new();
    for page in 1..=4 {
        let rows = pair.account().get(&format!("/contacts?page={page}&limit=100"));
        ids.extend(
            rows["data"].as_array().unwrap().iter().map(|row| row["externalId"].as_str().unwrap().to_owned()),
        );
    }
    ids.sort();
    let mut expected: Vec<String> = (0..12).filter(|n| *n != 6).chain(people()).map(external_id).collect();
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(pair.account().get("/contacts?optIn=true")["meta"]["total"], 300 + 12 - 4);
}
