//! A person is erased: at the destinations, in every file of the hub, and again where a back-up comes back.

use std::path::Path;

use mailspan_testkit::{Hub, PostgresServer, Receiver, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::crm::{ADA, BOB as CRM_BOB, contact, pair, plain, send_all, settled};
use crate::support::{AT, BINARY, SECRET, config, event, hub_with, send};

const ANN: &str = "ann.erasable7@gone.example";
const FORMER: &str = "ann.former-8@gone.example";
const BOB: &str = "bob@stays.example";
/// Address, local part, external id; and where she was before.
const NEEDLES: [&str; 5] = [ANN, "ann.erasable7", "u-erased-9", FORMER, "ann.former-8"];

const CONTACTS_ROUTE: &str = r#"
[[routes]]
name = "contacts"
from = ["contacts"]
to = ["crm"]

[destinations.erp]
kind = "http"
url = "http://127.0.0.1:9/erp"
"#;

const QUICK: &str = "retry = [\"50ms\"]\nrate = \"1000/1s\"\nconcurrency = 8";

fn hub() -> (Hub, Receiver) {
    hub_with(QUICK, CONTACTS_ROUTE)
}

fn key(hub: &Hub) -> Tenant<'_> {
    let made = hub.rows(&["keys", "create", "--scope", "contacts:write", "--scope", "contacts:read"]);
    Tenant { hub, key: made[0]["key"].as_str().unwrap().to_owned() }
}

/// All that may be about a person: a contact with a former address, a batch with others, dead letters with what was
/// sent and answered, an import, a refused request, a quarantined element, a replay that names her.
fn a_life(hub: &Hub, crm: &Receiver) {
    let tenant = key(hub);
    for body in [
        json!({ "email": FORMER, "externalId": "u-erased-9", "optIn": true, "attributes": { "phone": "+34 600" } }),
        json!({ "email": ANN, "externalId": "u-erased-9", "locale": "es" }),
        json!({ "email": BOB, "externalId": "u-bob-stays" }),
    ] {
        assert_eq!(tenant.put(body).status, 200);
    }
    let bulk =
        json!({ "contacts": [{ "email": BOB, "attributes": { "n": 1 } }, { "email": ANN, "optIn": true }] });
    assert_eq!(tenant.ask("POST", "/contacts/bulk", &bulk).status, 200);
    let csv = hub.folder().join("in.csv");
    std::fs::write(&csv, format!("email,external_id,custom_none\n{ANN},u-erased-9,\n{BOB},u-bob-stays,\n"))
        .unwrap();
    hub.run(&["contacts", "import", "in.csv"]);
    std::fs::remove_file(csv).unwrap();
    crm.answer(|seen| {
        let text = seen.json().to_string();
        let status = if text.contains("ann.") && !text.contains("contact.erased") { 422 } else { 200 };
        (status, Vec::new(), format!("I know {text}"))
    });
    let batch = json!([event("open", ANN, AT), event("open", BOB, AT), event("click", ANN, AT), { "recipient": ANN }]);
    assert_eq!(send(hub, &batch).status, 200);
    let unsigned =
        hub.post("/in/mailtarget", &[("x-mailtarget-signature", "00")], batch.to_string().as_bytes());
    assert_eq!(unsigned.status, 401);
    until(30, "nothing became a dead letter", || {
        let audit = hub.rows(&["audit"])[0].clone();
        (audit["dead"].as_u64() >= Some(2) && audit["pending"] == 0).then_some(())
    });
    hub.run(&["dead-letters", "replay", "--all", "--subject", ANN, "--dry-run"]);
}

fn done(hub: &Hub) -> Value {
    until(60, "the erasure does not end", || {
        let row = hub.rows(&["contacts", "erasures", "show", "1"]).remove(0);
        (row["stage"] == "done").then_some(row)
    })
}

/// Files of the hub that hold this text as it is, in any case.
fn files_with(folder: &Path, needle: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let holds = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default().to_ascii_lowercase();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    files.filter(holds).map(|path| path.display().to_string()).collect()
}

/// Everything that the hub shows, bodies unpacked.
fn all_that_is_shown(hub: &Hub) -> String {
    let mut text = String::new();
    for event in hub.rows(&["events", "list", "--limit", "1000"]) {
        text += &format!("{event}\n{:?}\n", hub.rows(&["events", "show", event["id"].as_str().unwrap()]));
    }
    for delivery in hub.rows(&["deliveries", "list", "--limit", "1000"]) {
        let id = delivery["id"].to_string();
        text += &format!("{delivery}\n{:?}\n", hub.rows(&["deliveries", "show", id.trim_matches('"')]));
    }
    for words in
        [&["refused"][..], &["quarantined"], &["ledger", "list"], &["contacts", "list"], &["jobs", "list"]]
    {
        text += &String::from_utf8_lossy(&hub.run(&[words, &["--json"]].concat()).stdout);
    }
    text.to_lowercase()
}

#[test]
fn after_an_erasure_nothing_of_the_person_is_found() {
    let (mut hub, crm) = hub();
    a_life(&hub, &crm);
    erased_everywhere(&hub, &crm);
    assert_eq!(hub.stop(), Some(0));
    assert!(hub.run(&["migrate", "--compact"]).status.success());
    for needle in NEEDLES {
        assert_eq!(files_with(hub.folder(), needle), Vec::<String>::new(), "{needle} is still in a file");
    }
}

/// The same on PostgreSQL: in the tables after `VACUUM FULL` and a checkpoint, in what `pg_dump` would save, in the
/// hub's log. The server's own log of changes (WAL) runs over by itself, and is the operator's.
#[test]
fn after_an_erasure_nothing_of_the_person_is_found_on_postgresql() {
    let server = PostgresServer::start();
    let crm = Receiver::start();
    let config = config(&crm, QUICK, CONTACTS_ROUTE).replace("sqlite:hub.db", &server.database("erased"));
    let mut hub = Hub::new(BINARY, &config, &[("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    a_life(&hub, &crm);
    erased_everywhere(&hub, &crm);
    assert_eq!(hub.stop(), Some(0));
    server.ask("erased", "VACUUM FULL");
    server.ask("erased", "CHECKPOINT");
    let dump = server.dump("erased").to_ascii_lowercase();
    assert!(dump.contains(BOB), "the dump holds nothing");
    for needle in NEEDLES {
        let hex: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(needle) && !dump.contains(&hex), "{needle} is still in a table");
        assert_eq!(files_with(hub.folder(), needle), Vec::<String>::new(), "{needle} is still in a file");
        let tables = files_below(&server.data().join("base"), needle);
        assert_eq!(tables, Vec::<String>::new(), "{needle} is still in a file of the database");
    }
}

/// Files at any depth.
fn files_below(folder: &Path, needle: &str) -> Vec<String> {
    let mut found = files_with(folder, needle);
    for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        found.extend(files_below(&entry.path(), needle));
    }
    found
}

fn erased_everywhere(hub: &Hub, crm: &Receiver) {
    let before = all_that_is_shown(hub);
    for needle in NEEDLES {
        assert!(before.contains(needle), "{needle} was never there: the test looks for nothing");
    }
    let dry = &hub.rows(&["contacts", "erase", ANN, "--dry-run"])[0];
    assert_eq!((&dry["contact"], &dry["destinations"]), (&json!(true), &json!(["crm"])));
    assert!(dry["events"].as_u64() >= Some(4), "{dry}");
    let asked = &hub.rows(&["contacts", "erase", ANN])[0];
    assert_eq!(asked["id"], 1);
    check_certificate(&done(hub));
    let told = crm.seen().iter().filter(|seen| seen.json().to_string().contains("contact.erased")).count();
    assert_eq!(told, 1, "the destination was told {told} times");

    let after = all_that_is_shown(hub);
    for needle in NEEDLES {
        let at = after.find(needle);
        assert_eq!(
            at,
            None,
            "{}",
            &after[at.unwrap_or(0).saturating_sub(300)..after.len().min(at.unwrap_or(0) + 200)]
        );
    }
    assert!(after.contains(BOB), "others stay");
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

/// What is about her without being hers: an operator's job of another tenant, a file's name, a friend's `source`, a
/// header, the log, in which a vendor's answer was quoted.
#[test]
fn an_erasure_reaches_notes_names_and_the_log() {
    let route =
        "[[routes]]\nname = \"of-acme\"\ntenant = \"acme\"\nfrom = [\"contacts\"]\nto = [\"strict\"]\n";
    let strict = Receiver::start();
    let more = format!(
        "[destinations.strict]\nkind = \"http\"\ntenant = \"acme\"\nurl = \"http://127.0.0.1:{}/x\"\n\n{route}",
        strict.port
    );
    let (mut hub, _) = hub_with("retry = [\"50ms\"]", &more);
    strict.answer(|seen| {
        let erases = seen.json().to_string().contains("contact.erased");
        let status = if erases { 200 } else { 422 };
        (status, Vec::new(), r#"{"error":"customer u-erased-9 (login ann.erasable7) is locked"}"#.to_owned())
    });
    let tenant = Tenant::new(&hub, "acme");
    // Named before she is a contact, and by a part of her address: not refused, and not readable in the file.
    let url = "http://127.0.0.1:9999/of/ann.erasable7/u-erased-9.json";
    let made = tenant.ask("POST", "/webhooks/endpoints", &json!({ "url": url, "events": ["email.bounced"] }));
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(tenant.put(json!({ "email": ANN, "externalId": "u-erased-9", "optIn": true })).status, 200);
    // His fact of consent has a dead letter too, whose words are about her: kept with the fact.
    let friend = json!({
        "email": BOB, "externalId": "u-bob-stays", "source": format!("ref {ANN}"), "optIn": true,
    });
    let named = [("idempotency-key", "idem-ann.erasable7@gone.example")];
    assert_eq!(tenant.ask_with("PUT", "/contacts", &named, &friend).status, 200);
    let file = hub.folder().join("u-erased-9.csv");
    std::fs::write(&file, format!("email,external_id\n{BOB},u-bob-stays\n")).unwrap();
    hub.run(&["contacts", "import", "u-erased-9.csv", "--tenant", "acme"]);
    std::fs::remove_file(&file).unwrap();
    for url in ["http://127.0.0.1:9999/u-erased-9", "http://127.0.0.1:9999/?to=ann%40x.org"] {
        let refused =
            tenant.ask("POST", "/webhooks/endpoints", &json!({ "url": url, "events": ["contact.created"] }));
        assert!(refused.status == 400 && refused.text().contains("erasure"), "{url}: {}", refused.text());
    }
    until(20, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    hub.run(&["dead-letters", "replay", "--all", "--subject", ANN, "--dry-run"]);
    let jobs = hub.run(&["jobs", "list", "--json"]).stdout;
    assert!(
        String::from_utf8_lossy(&jobs).contains(ANN),
        "the job does not name her: the test looks for nothing"
    );
    hub.rows(&["contacts", "erase", ANN, "--tenant", "acme"]);
    done(&hub);
    let source = &tenant.get("/contacts/u-bob-stays")["source"];
    assert_eq!(source, "ref [erased]");
    assert_eq!(tenant.get("/webhooks/endpoints")["data"][0]["url"], url, "the endpoint is the tenant's");
    let log = hub.log();
    assert!(log.contains("dead letter: ") && log.contains("HTTP 422"), "{log}");
    assert!(!log.contains("u-erased-9") && !log.contains("ann.erasable7"), "{log}");
    assert_eq!(hub.stop(), Some(0));
    assert!(hub.run(&["migrate", "--compact"]).status.success());
    for needle in [ANN, "ann.erasable7", "u-erased-9"] {
        assert_eq!(files_with(hub.folder(), needle), Vec::<String>::new(), "{needle} is still in a file");
    }
}

/// A source that is asked names somebody in what it refuses with, and stays paused.
#[test]
fn what_a_source_answers_is_in_no_log_and_goes_with_the_person() {
    let account = Receiver::start();
    account.answer(|_| (403, Vec::new(), r#"{"error":"key may not see ext-7788-ann"}"#.to_owned()));
    let secret = r#"{ env = "MAILTARGET_SECRET" }"#;
    let source = format!(
        "[sources.core]\nkind = \"mailingcore\"\nsecrets = [{secret}]\nbase_url = \"http://127.0.0.1:{}\"\n\
         auth = {{ kind = \"bearer\", token = {secret} }}\npoll = {{ every = \"1h\" }}\n{CONTACTS_ROUTE}",
        account.port
    );
    let (mut hub, crm) = hub_with(QUICK, &source);
    crm.status(200);
    let source = || hub.rows(&["sources", "show", "core"]).remove(0);
    let row = until(20, "the source is not paused", || Some(source()).filter(|row| row["state"] == "paused"));
    assert!(row["reason"].as_str().is_some_and(|text| text.contains("ext-7788-ann")), "{row}");
    assert_eq!(key(&hub).put(json!({ "email": ANN, "externalId": "ext-7788-ann" })).status, 200);
    hub.rows(&["contacts", "erase", ANN]);
    let certificate = &done(&hub)["certificate"];
    assert_eq!(certificate["hub"]["removed"]["rounds"], 1, "{certificate}");
    let row = source();
    assert_eq!(row["state"], "paused");
    assert!(row["reason"].as_str().is_some_and(|text| text.contains("may not see [erased]")), "{row}");
    assert_eq!(hub.stop(), Some(0));
    let log = hub.log();
    assert!(log.contains("not asked any more: unauthorized (HTTP 403)"), "{log}");
    assert!(hub.run(&["migrate", "--compact"]).status.success());
    assert_eq!(files_with(hub.folder(), "ext-7788-ann"), Vec::<String>::new(), "it is still in a file");
}

/// A page of the walk takes a hundred. Those that wait for a destination take nobody's place.
#[test]
fn none_of_a_hundred_erasures_and_more_waits_behind_others() {
    const MANY: usize = 104;
    let (hub, crm) = hub();
    crm.status(200);
    let tenant = key(&hub);
    for part in (0..MANY).collect::<Vec<_>>().chunks(100) {
        let contact = |n: &usize| {
            let id = format!("many-{n}");
            json!({ "email": format!("{id}@gone.example"), "externalId": id })
        };
        let contacts: Vec<Value> = part.iter().map(contact).collect();
        assert_eq!(tenant.ask("POST", "/contacts/bulk", &json!({ "contacts": contacts })).status, 200);
    }
    assert!(hub.run(&["destinations", "pause", "crm"]).status.success());
    for n in 0..MANY {
        assert_eq!(tenant.ask("DELETE", &format!("/contacts/many-{n}"), &Value::Null).status, 200);
    }
    let stages = || {
        let answer = tenant.get("/v1/erasures?limit=1000");
        let rows = answer["items"].as_array().unwrap();
        assert_eq!(rows.len(), MANY);
        rows.iter().fold(std::collections::BTreeMap::new(), |mut counts, row| {
            *counts.entry(row["stage"].as_str().unwrap().to_owned()).or_insert(0_usize) += 1;
            counts
        })
    };
    let all_are = |stage: &str| {
        let what = format!("an erasure stands still before `{stage}`: it waits behind others");
        until(60, &what, || (stages() == [(stage.to_owned(), MANY)].into()).then_some(()));
    };
    all_are("asking");
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    all_are("done");
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

fn check_certificate(row: &Value) {
    let certificate = &row["certificate"];
    assert_eq!(certificate["destinations"][0]["destination"], "crm", "{certificate}");
    assert_eq!(certificate["destinations"][0]["verdict"], "delivered");
    assert_eq!(certificate["not_asked"][0]["destination"], "erp");
    for table in ["events", "requests", "attempts", "deliveries", "unreadable", "refused"] {
        assert!(certificate["hub"]["removed"][table].as_u64() > Some(0), "{table}: {certificate}");
    }
    assert_eq!(certificate["hub"]["not_readable"], 0);
    assert!(certificate["identities"].as_array().is_some_and(|all| all.len() >= 2), "{certificate}");
    let text = certificate.to_string().to_lowercase();
    assert!(NEEDLES.iter().all(|needle| !text.contains(needle)), "{text}");
}

#[test]
fn all_that_is_held_about_a_person_is_exported() {
    let (hub, crm) = hub();
    a_life(&hub, &crm);
    // She is opted in already: they prove it anew, change nothing that can be seen, and make no event.
    for page in ["/proven-a", "/proven-b"] {
        let anew = json!({ "email": ANN, "externalId": "u-erased-9", "optIn": true, "consentPage": page });
        assert_eq!(key(&hub).put(anew).status, 200);
    }
    assert!(hub.run(&["contacts", "person", ANN, "--output", "ann.json"]).status.success());
    let text = std::fs::read_to_string(hub.folder().join("ann.json")).unwrap();
    let person: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&person["contact"]["email"], &person["contact"]["attributes"]["phone"]),
        (&json!(ANN), &json!("+34 600"))
    );
    assert!(person["facts"].as_array().is_some_and(|facts| !facts.is_empty()), "{text}");
    assert!(
        person["known_as"].to_string().contains(FORMER),
        "her former address is held: {}",
        person["known_as"]
    );
    let proofs = person["proofs"].as_array().unwrap();
    let bodies: Vec<&str> = proofs.iter().filter_map(|proof| proof["bodies"][0].as_str()).collect();
    assert!(
        bodies.len() == 2 && bodies[0].contains("/proven-a") && bodies[1].contains("/proven-b"),
        "{proofs:?}"
    );
    let events = person["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["type"] == "email.opened" && event["request"]["body"].is_string())
    );
    assert!(person["deliveries"].to_string().contains("I know"), "what was answered is held too");
    let quarantined = person["quarantined"].as_array().unwrap();
    assert!(quarantined.iter().any(|one| one["raw"].as_str().unwrap().contains(ANN)), "{quarantined:?}");
    let refused = person["refused"].as_array().unwrap();
    assert_eq!((refused.len(), &refused[0]["source"]), (1, &json!("mailtarget")), "{refused:?}");
    assert_eq!(refused[0]["bodies"].as_array().map(Vec::len), Some(3), "those of the batch that name her");
    assert!(person["not_searched"].as_array().is_some_and(|places| !places.is_empty()));
    assert_eq!(person["complete"], true);
    assert!(!text.contains(BOB), "others are named in it");
    let nobody = hub.run(&["contacts", "person", "nobody@x.org"]);
    assert!(!nobody.status.success() && String::from_utf8_lossy(&nobody.stderr).contains("nobody is known"));
}

#[test]
fn a_store_from_a_back_up_erases_again_before_it_serves() {
    let (mut hub, crm) = hub();
    crm.status(200);
    assert_eq!(key(&hub).put(json!({ "email": ANN, "externalId": "u-erased-9" })).status, 200);
    assert_eq!(key(&hub).put(json!({ "email": BOB })).status, 200);
    assert_eq!(hub.stop(), Some(0));
    let (file, saved) = (hub.folder().join("hub.db"), hub.folder().join("saved"));
    std::fs::copy(&file, &saved).unwrap();
    hub.start();
    hub.run(&["contacts", "erase", "u-erased-9"]);
    done(&hub);
    let listed = hub.run(&["contacts", "erasures", "identities"]).stdout;
    hub.kill();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(hub.folder().join(format!("hub.db{end}")));
    }
    std::fs::copy(&saved, &file).unwrap();
    check_by_command(&hub, &listed);
    std::fs::copy(&saved, &file).unwrap();
    std::fs::remove_file(&saved).unwrap();
    hub.start();
    let listed = hub.rows(&["contacts", "list"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["email"], BOB);
    assert_eq!(done(&hub)["asked_by"], "restore");
    hub.kill();
    // Once more: it knows now.
    hub.start();
    assert_eq!(hub.rows(&["contacts", "erasures", "list"]).len(), 1);
}

/// What an operator does where no file lies beside the store: before a hub serves.
fn check_by_command(hub: &Hub, listed: &[u8]) {
    std::fs::write(hub.folder().join("listed"), listed).unwrap();
    let done = &hub.rows(&["contacts", "erase", "--from", "listed"])[0];
    assert_eq!((&done["lines"], &done["erased"]), (&json!(2), &json!(1)));
    let rows = hub.rows(&["contacts", "list"]);
    assert_eq!((rows.len(), &rows[0]["email"]), (1, &json!(BOB)));
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(hub.folder().join(format!("hub.db{end}")));
    }
}

#[test]
fn an_erasure_goes_on_after_a_kill() {
    let (mut hub, crm) = hub();
    a_life(&hub, &crm);
    hub.run(&["contacts", "erase", ANN]);
    hub.kill();
    hub.start();
    check_certificate(&done(&hub));
    let after = all_that_is_shown(&hub);
    assert!(NEEDLES.iter().all(|needle| !after.contains(needle)));
}

#[test]
fn hubspot_deletes_a_person_for_good() {
    let route = "\n[[routes]]\nname = \"contacts\"\nfrom = [\"contacts\"]\nevents = [\"contact.erased\"]\nto = [\"crm\"]\n";
    let (hub, sandbox) = pair("", route);
    send_all(&hub, &[plain("open", ADA, 1), plain("open", CRM_BOB, 2)]);
    settled(&hub, 2);
    assert_ne!(contact(&sandbox.state(), ADA), Value::Null);
    // No contact of the hub: a person whom events alone are about.
    hub.rows(&["contacts", "erase", ADA]);
    let row = done(&hub);
    assert_eq!(row["certificate"]["destinations"][0]["verdict"], "delivered", "{row}");
    let state = sandbox.state();
    assert_eq!(contact(&state, ADA), Value::Null);
    assert_ne!(contact(&state, CRM_BOB), Value::Null);
    assert!(!all_that_is_shown(&hub).contains(ADA));
    assert!(!hub.run(&["contacts", "erase", ADA]).status.success(), "she is not here any more");
}
