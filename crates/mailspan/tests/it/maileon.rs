//! The Maileon-compatible intake and the confirmation page.

use mailspan_testkit::{Hub, Reply, request, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::hub_with;

const PATH: &str = "/webhooks/contacts/email";

/// A hub behind a proxy on loopback that says `https`.
pub fn behind_proxy() -> Hub {
    let (hub, _) = hub_with_proxy("");
    hub
}

pub fn hub_with_proxy(more: &str) -> (Hub, mailspan_testkit::Receiver) {
    let crm = mailspan_testkit::Receiver::start();
    let config = crate::support::config(&crm, "", more)
        .replace("[storage]", "trusted_proxies = [\"127.0.0.1\"]\n\n[storage]");
    let mut hub = Hub::new(crate::support::BINARY, &config, &[("MAILTARGET_SECRET", crate::support::SECRET)]);
    hub.start();
    (hub, crm)
}

pub struct Form<'a> {
    pub hub: &'a Hub,
    pub key: String,
}

impl Form<'_> {
    pub fn new<'a>(hub: &'a Hub, tenant: &str) -> (Form<'a>, Tenant<'a>) {
        let tenant = Tenant::new(hub, tenant);
        (Form { hub, key: tenant.key.clone() }, tenant)
    }

    pub fn query(&self, query: &str) -> Reply {
        self.send(query, &[], b"")
    }

    fn send(&self, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let headers = [&[("x-forwarded-proto", "https")], headers].concat();
        request(self.hub.port, "POST", &format!("{PATH}?key={}&{query}", self.key), &headers, body).unwrap()
    }
}

fn check(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let answer = reply.json();
    assert_eq!(answer["status"], status);
    answer
}

/// The vendor's page as it stands, spaces included, with its key replaced.
#[test]
fn the_three_examples_of_the_vendor_answer_200() {
    let hub = behind_proxy();
    let (form, tenant) = Form::new(&hub, "acme");
    let third = "email=max.mustermann@xqueue.com%20&sync_mode=1&doi=true&doiplus=true&doimailing=%20dh6hdjk9\
&standard_FIRSTNAME=Max&standard_LASTNAME=Mustermann&custom_special+date=12.12.2020";
    check(&form.query("email=max.mustermann@xqueue.com&sync_mode=1"), 200);
    check(&form.query("email=max.mustermann@xqueue.com%20&sync_mode=1&doi=true"), 200);
    let undeclared = check(&form.query(third), 400);
    assert!(undeclared["message"].as_str().unwrap().contains("special date"), "{undeclared}");
    hub.run(&["fields", "declare", "special date", "date", "--tenant", "acme"]);
    check(&form.query(third), 200);
    let list = tenant.get("/contacts");
    assert_eq!(list["meta"]["total"], 1);
    let contact = &list["data"][0];
    assert_eq!(contact["standardFields"], json!({ "FIRSTNAME": "Max", "LASTNAME": "Mustermann" }));
    assert_eq!(contact["customFields"], json!({ "special date": "2020-12-12" }));
    assert_eq!((&contact["permission"], &contact["optIn"]), (&json!(1), &json!(false)));
}

#[test]
fn three_ways_to_send_and_the_body_wins() {
    let hub = behind_proxy();
    let (form, tenant) = Form::new(&hub, "acme");
    let json_type = [("content-type", "application/json")];
    let body = json!({ "email": "body@x.org", "permission": 2, "external_id": "e1" }).to_string();
    check(&form.send("email=query@x.org&sync_mode=1", &json_type, body.as_bytes()), 200);
    assert_eq!(tenant.get("/contacts/e1")["email"], "body@x.org");
    let form_type = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    check(
        &form.send("", &form_type, b"email=form%2Btag%40x.org&external_id=e2&standard_CITY=K%C3%B6ln"),
        200,
    );
    assert_eq!(tenant.get("/contacts/e2")["email"], "form+tag@x.org");
    assert_eq!(tenant.get("/contacts/e2")["standardFields"]["CITY"], "Köln");
    // A plus that was not encoded is a space.
    check(&form.query("email=a+b@x.org"), 400);
    check(&form.send("email=a@x.org", &[("content-type", "text/plain")], b"x"), 415);
    check(&form.send("", &json_type, br#"{"email":{"a":1}}"#), 400);
}

#[test]
fn sync_mode_and_permission_mean_what_the_vendor_says() {
    let hub = behind_proxy();
    let (form, tenant) = Form::new(&hub, "acme");
    let level = || tenant.get("/contacts/e1")["permission"].clone();
    check(&form.query("email=a@x.org&external_id=e1&permission=3&standard_CITY=Bonn"), 200);
    assert_eq!(level(), 3);
    // 2, the default: nothing is done.
    check(&form.query("email=a@x.org&permission=2&standard_CITY=Trier"), 200);
    assert_eq!(
        (level(), tenant.get("/contacts/e1")["standardFields"]["CITY"].clone()),
        (json!(3), json!("Bonn"))
    );
    check(&form.query("email=a@x.org&permission=2&standard_CITY=&sync_mode=1"), 200);
    assert_eq!((level(), tenant.get("/contacts/e1")["standardFields"].clone()), (json!(2), json!({})));
    check(&form.query("email=a@x.org&permission=4&sync_mode=1"), 200);
    for weaker in ["1", "2", "3", "6"] {
        check(
            &form.query(&format!("email=a@x.org&permission={weaker}&sync_mode=1&standard_CITY=Ulm{weaker}")),
            200,
        );
        assert_eq!(level(), 4, "a confirmed permission was lowered by {weaker}");
        assert_eq!(tenant.get("/contacts/e1")["standardFields"]["CITY"], format!("Ulm{weaker}"));
    }
    check(&form.query("email=a@x.org&permission=5&sync_mode=1"), 200);
    check(&form.query("email=a@x.org&permission=4&sync_mode=1"), 200);
    assert_eq!(level(), 5);
}

#[test]
fn what_is_wrong_is_refused_as_json() {
    let hub = behind_proxy();
    let (form, _) = Form::new(&hub, "acme");
    for query in [
        "email=max.mustermannQxqueue.com",
        "",
        "email=a@x.org&permission=7",
        "email=a@x.org&permission=x",
        "email=a@x.org&sync_mode=3",
        "email=a@x.org&doi=maybe",
        "email=a@x.org&standard_SHOESIZE=44",
        "email=a@x.org&standard_firstname=Max",
        "email=a@x.org&standard_GENDER=x",
    ] {
        check(&form.query(query), 400);
    }
    let secure = [("x-forwarded-proto", "https")];
    for key in ["", "key=nonsense&"] {
        let reply = request(hub.port, "POST", &format!("{PATH}?{key}email=a@x.org"), &secure, b"").unwrap();
        assert_eq!(check(&reply, 401)["message"], "Not Authorized");
    }
    let get = request(hub.port, "GET", PATH, &secure, b"").unwrap();
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    let big = vec![b'x'; 300_000];
    check(&form.send("", &[("content-type", "application/json")], &big), 413);
}

#[test]
fn the_key_needs_tls_and_no_browser_and_is_nowhere_kept() {
    let hub = behind_proxy();
    let (form, _) = Form::new(&hub, "acme");
    let path = format!("{PATH}?key={}&email=a@x.org", form.key);
    check(&request(hub.port, "POST", &path, &[], b"").unwrap(), 403);
    check(&request(hub.port, "POST", &path, &[("x-forwarded-proto", "http")], b"").unwrap(), 403);
    let browser = form.send("email=a@x.org", &[("origin", "https://shop.example")], b"");
    assert!(check(&browser, 403)["message"].as_str().unwrap().contains("browser"));
    check(&form.query("email=a@x.org"), 200);
    let json_body = json!({ "key": form.key, "email": "b@x.org" }).to_string();
    let headers = [("x-forwarded-proto", "https"), ("content-type", "application/json")];
    check(&request(hub.port, "POST", PATH, &headers, json_body.as_bytes()).unwrap(), 200);
    let id = hub.rows(&["events", "list", "--subject", "a@x.org"])[0]["id"].as_str().unwrap().to_owned();
    let shown = hub.run(&["events", "show", &id, "--json"]);
    assert!(!String::from_utf8_lossy(&shown.stdout).contains(&form.key));
    search(&hub, &form.key);
    let (plain, _) = hub_with("", "");
    let (form, _) = Form::new(&plain, "acme");
    check(&form.query("email=a@x.org"), 403);
}

#[test]
fn a_double_opt_in_is_asked_for_and_confirmed_once() {
    let own = "[[routes]]\nname = \"own\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n";
    let (hub, crm) = hub_with_proxy(own);
    let key =
        hub.rows(&["keys", "create", "--scope", "contacts:write", "--scope", "contacts:read"])[0]["key"]
            .as_str()
            .unwrap()
            .to_owned();
    let tenant = Tenant { hub: &hub, key: key.clone() };
    let form = Form { hub: &hub, key };
    check(&form.query("email=a@example.com&external_id=e1&standard_LOCALE=de_DE&doi=true&doiplus=true&doimailing=m7&src=shop&subscription_page=footer"), 200);
    let asked = until(10, "no confirmation was asked for", || {
        crm.ok_about("a@example.com")
            .into_iter()
            .find(|seen| seen.json()["type"] == "contact.confirmation_asked")
    });
    let data = asked.json()["data"].clone();
    assert_eq!(
        (&data["mailing"], &data["permission"], &data["source"], &data["page"]),
        (&json!("m7"), &json!(5), &json!("shop"), &json!("footer"))
    );
    let url = data["confirm_url"].as_str().unwrap();
    let path = url.split_once(&format!(":{}", hub.port)).unwrap().1.to_owned();

    let page = request(hub.port, "GET", &path, &[], b"").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Bestätigen") && page.text().contains("a@example.com"), "{}", page.text());
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(tenant.get("/contacts/e1")["permission"], 1, "looking confirmed it");
    assert_eq!(request(hub.port, "HEAD", &path, &[], b"").unwrap().status, 200);
    assert_eq!(tenant.get("/contacts/e1")["permission"], 1, "looking confirmed it");

    assert_eq!(request(hub.port, "POST", &path, &[], b"").unwrap().status, 200);
    let contact = tenant.get("/contacts/e1");
    assert_eq!((&contact["permission"], &contact["optIn"]), (&json!(5), &json!(true)));
    let facts = hub.rows(&["ledger", "list", "--subject", "a@example.com"]);
    let count = facts.len();
    let last = facts.last().unwrap();
    assert_eq!(
        (&last["what"], &last["evidence"]["origin"], &last["evidence"]["actor"]),
        (&json!("opt_in"), &json!("confirm"), &json!("visitor"))
    );
    // Again: the same page, no second fact.
    assert_eq!(request(hub.port, "POST", &path, &[], b"").unwrap().status, 200);
    assert_eq!(hub.rows(&["ledger", "list", "--subject", "a@example.com"]).len(), count);
    until(10, "the confirmation was not told", || {
        crm.ok_about("a@example.com").into_iter().find(|seen| seen.json()["type"] == "contact.confirmed")
    });
    // Whoever may look at events must not be able to confirm for others.
    let token = path.rsplit('/').next().unwrap();
    let events = hub.rows(&["events", "list", "--subject", "a@example.com"]);
    let show = |event: &Value| hub.rows(&["events", "show", event["id"].as_str().unwrap()]).remove(0);
    let mut shown: String = events.iter().map(|event| show(event).to_string()).collect();
    for delivery in hub.rows(&["deliveries", "list", "--subject", "a@example.com"]) {
        let id = delivery["id"].to_string();
        shown += &hub.rows(&["deliveries", "show", id.trim_matches('"')])[0].to_string();
    }
    shown += &String::from_utf8_lossy(&hub.run(&["contacts", "person", "a@example.com"]).stdout);
    assert!(shown.contains("/doi/[token]") && !shown.contains(token), "{shown}");
    for token in ["nonsense", &"A".repeat(43), "%ff"] {
        let status = request(hub.port, "GET", &format!("/doi/{token}"), &[], b"").unwrap().status;
        assert!(status == 404 || status == 400, "{token}: {status}");
    }
    // The account's switch: who has confirmed is not asked again.
    let asked = |crm: &mailspan_testkit::Receiver| {
        let seen = crm.ok_about("a@example.com");
        seen.iter().filter(|seen| seen.json()["type"] == "contact.confirmation_asked").count()
    };
    check(&form.query("email=a@example.com&sync_mode=1&doi=true"), 200);
    until(10, "it was not asked again", || (asked(&crm) == 2).then_some(()));
    hub.run(&["tenants", "set", "default", "--confirm-again", "false"]);
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    check(&form.query("email=a@example.com&sync_mode=1&doi=true&standard_CITY=Bonn"), 200);
    until(10, "the change was not told", || {
        crm.ok_about("a@example.com")
            .into_iter()
            .find(|seen| seen.json()["data"]["contact"]["standard"]["CITY"] == "Bonn")
    });
    assert_eq!(asked(&crm), 2);
    let report = hub.rows(&["contacts", "report"]);
    let row = report.iter().find(|row| row["source"] == "shop").expect("the form is not in the report");
    assert_eq!((&row["page"], &row["asked"], &row["confirmed"]), (&json!("footer"), &json!(1), &json!(1)));
}

/// Who is suppressed for more than an unsubscription is not asked; who is so when the link is clicked does not read that
/// all is well, and neither does who has left since.
#[test]
fn the_page_says_what_is_so_and_who_is_suppressed_is_not_asked() {
    let own = "[[routes]]\nname = \"own\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n";
    let (hub, crm) = hub_with_proxy(own);
    let mut create = vec!["keys", "create"];
    for scope in ["contacts:write", "contacts:read", "suppressions:write"] {
        create.extend(["--scope", scope]);
    }
    let key = hub.rows(&create)[0]["key"].as_str().unwrap().to_owned();
    let tenant = Tenant { hub: &hub, key: key.clone() };
    let form = Form { hub: &hub, key };
    let links = |email: &str| -> Vec<String> {
        let seen = crm.ok_about(email).into_iter().map(|seen| seen.json());
        let asked = seen.filter(|event| event["type"] == "contact.confirmation_asked");
        let path = |url: &str| url.split_once(&format!(":{}", hub.port)).unwrap().1.to_owned();
        asked.map(|event| path(event["data"]["confirm_url"].as_str().unwrap())).collect()
    };
    let click = |path: &str| request(hub.port, "POST", path, &[], b"").unwrap();
    let suppress = |email: &str, reason: &str| {
        let body = json!({ "email": email, "reason": reason });
        assert_eq!(tenant.ask("POST", "/suppressions", &body).status, 201);
    };
    for reason in ["complaint", "manual", "bounce", "unsubscribe"] {
        suppress(&format!("{reason}@x.org"), reason);
        check(&form.query(&format!("email={reason}@x.org&sync_mode=1&doi=true")), 200);
    }
    check(&form.query("email=a@x.org&external_id=a&sync_mode=1&doi=true"), 200);
    check(&form.query("email=b@x.org&external_id=b&sync_mode=1&doi=true"), 200);
    let asked = until(10, "nobody was asked", || links("b@x.org").pop());
    for (reason, count) in [("complaint", 0), ("manual", 0), ("bounce", 0), ("unsubscribe", 1)] {
        assert_eq!(links(&format!("{reason}@x.org")).len(), count, "{reason}");
    }
    suppress("b@x.org", "manual");
    let page = click(&asked);
    assert!(page.status == 200 && page.text().contains("not mailed at present"), "{}", page.text());
    assert_eq!(tenant.get("/contacts/b")["optIn"], true, "the word that was given is kept");
    let asked = until(10, "nobody was asked", || links("a@x.org").pop());
    assert!(click(&asked).text().contains("is confirmed"));
    assert!(request(hub.port, "GET", &asked, &[], b"").unwrap().text().contains("is confirmed"));
    assert_eq!(tenant.ask("PATCH", "/contacts/a", &json!({ "optIn": false })).status, 200);
    for page in [click(&asked), request(hub.port, "GET", &asked, &[], b"").unwrap()] {
        assert!(page.status == 410 && !page.text().contains("is confirmed"), "{}", page.text());
    }
}

/// The form's server of `examples/contact-form`; ended with the test.
struct FormServer(std::process::Child, u16);

impl FormServer {
    fn start(hub: &Hub, key: &str) -> FormServer {
        let port = mailspan_testkit::free_port();
        let script =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/contact-form/form.py");
        let child = std::process::Command::new("python3")
            .arg(script)
            .env("HUB_URL", format!("http://127.0.0.1:{}", hub.port))
            .env("HUB_KEY", key)
            .env("FORM_PORT", port.to_string())
            .spawn()
            .expect("python3 does not start: run scripts/test, which installs it");
        let server = FormServer(child, port);
        until(20, "the form is not served", || request(port, "GET", "/", &[], b"").ok());
        server
    }

    /// What a visitor's browser sends.
    fn fill_in(&self, form: &str) -> Reply {
        let origin = format!("http://127.0.0.1:{}", self.1);
        let headers = [("origin", origin.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        request(self.1, "POST", "/", &headers, form.as_bytes()).unwrap()
    }
}

impl Drop for FormServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_form_of_the_examples_fills_in_what_its_visitor_says_and_nothing_else() {
    let crm = mailspan_testkit::Receiver::start();
    let own = "[[routes]]\nname = \"own\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n";
    let config = crate::support::config(&crm, "", own);
    let mut hub = Hub::new(crate::support::BINARY, &config, &[("MAILTARGET_SECRET", crate::support::SECRET)]);
    // In clear on one machine.
    hub.serve_with(&["--dev"]);
    hub.start();
    let key =
        hub.rows(&["keys", "create", "--scope", "contacts:write", "--scope", "contacts:read"])[0]["key"]
            .as_str()
            .unwrap()
            .to_owned();
    let tenant = Tenant { hub: &hub, key: key.clone() };
    let form = FormServer::start(&hub, &key);
    let page = request(form.1, "GET", "/", &[], b"").unwrap();
    assert!(page.text().contains("name=\"email\"") && !page.text().contains(&key), "{}", page.text());
    let filled = form
        .fill_in("email=ada%40example.com&standard_FIRSTNAME=Ad%C3%A1&doi=false&permission=5&src=mine&key=x");
    assert_eq!(filled.status, 200, "{}", filled.text());
    let contact = tenant.get("/contacts")["data"][0].clone();
    assert_eq!(
        (&contact["email"], &contact["standardFields"]["FIRSTNAME"]),
        (&json!("ada@example.com"), &json!("Adá"))
    );
    assert_eq!((&contact["permission"], &contact["source"]), (&json!(1), &json!("shop")));
    let asked = until(10, "no confirmation was asked for", || {
        crm.ok_about("ada@example.com")
            .into_iter()
            .find(|seen| seen.json()["type"] == "contact.confirmation_asked")
    });
    assert_eq!(asked.json()["data"]["page"], "footer");
    assert_eq!(form.fill_in("email=nobody").status, 400);
    hub.kill();
    assert_eq!(form.fill_in("email=bob%40example.com").status, 502);
}

/// The key is in no file of the hub, and in no log.
fn search(hub: &Hub, key: &str) {
    for file in std::fs::read_dir(hub.folder()).unwrap() {
        let bytes = std::fs::read(file.as_ref().unwrap().path()).unwrap_or_default();
        let found = bytes.windows(key.len()).any(|window| window == key.as_bytes());
        assert!(!found, "the key is in {}", file.unwrap().path().display());
    }
}
