//! Several processes on one PostgreSQL that share the destinations and the work.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mailspan_testkit::{Hub, PostgresServer, Receiver, until};
use serde_json::json;

use crate::support::{AT, BINARY, SECRET, config, event, send};

const DESTINATIONS: usize = 7;

/// `crm` and six more, each with its route.
fn many(crm: &Receiver) -> String {
    let mut more = String::new();
    for n in 1..DESTINATIONS {
        more += &format!(
            "[destinations.d{n}]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/d{n}\"\n\
             [[routes]]\nname = \"r{n}\"\nfrom = [\"mailtarget\"]\nto = [\"d{n}\"]\n",
            crm.port
        );
    }
    config(crm, "", &more)
}

fn hub_of(url: &str, text: &str, env: &[(&str, &str)]) -> Hub {
    let all = [&[("MAILTARGET_SECRET", SECRET)], env].concat();
    Hub::new(BINARY, &text.replace("sqlite:hub.db", url), &all)
}

/// Made at one process, served by whoever has room: the other one is the only one that delivers.
#[test]
fn each_process_learns_of_webhook_endpoints_that_another_changed() {
    let server = PostgresServer::start();
    let url = server.database("endpoints");
    let (crm, receiver) = (Receiver::start(), Receiver::start());
    let key = "key = { env = \"STORE_KEY\" }";
    let text = config(&crm, "", "").replace("[egress]", &format!("{key}\n\n[egress]"));
    let env = [("STORE_KEY", "the-store-key-of-both-processes")];
    let mut hubs: Vec<Hub> = (0..2).map(|_| hub_of(&url, &text, &env)).collect();
    hubs[0].serve_with(&["--role", "intake"]);
    hubs[1].serve_with(&["--role", "delivery"]);
    hubs.iter_mut().for_each(Hub::start);
    let tenant = crate::contacts::Tenant::new(&hubs[0], "acme");
    let body = json!({
        "url": format!("http://127.0.0.1:{}/hook", receiver.port), "events": ["contact.unsubscribed"],
        "secret": "whsec_0123456789abcdef0123456789abcdef",
    });
    let made = tenant.ask("POST", "/webhooks/endpoints", &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    // An event that comes before the other process knows is not routed there: there is another one.
    let delivered = |text: &str| until(20, text, || unsubscribe_arrives(&tenant, &receiver).then_some(()));
    let not_delivered =
        |text: &str| until(20, text, || (!unsubscribe_arrives(&tenant, &receiver)).then_some(()));
    delivered("the other process does not know the endpoint");
    let toggled =
        tenant.ask("PATCH", &format!("/webhooks/endpoints/{id}/toggle"), &json!({ "isActive": false }));
    assert_eq!(toggled.status, 200, "{}", toggled.text());
    not_delivered("the other process still delivers");
    let back = tenant.ask("PATCH", &format!("/webhooks/endpoints/{id}/toggle"), &json!({ "isActive": true }));
    assert_eq!(back.status, 200, "{}", back.text());
    delivered("the other process does not know that it is back");
    assert_eq!(
        tenant.ask("DELETE", &format!("/webhooks/endpoints/{id}"), &serde_json::Value::Null).status,
        200
    );
    not_delivered("the other process still delivers to what was removed");
}

/// Somebody new unsubscribes; true where the receiver hears of it within a moment.
fn unsubscribe_arrives(tenant: &crate::contacts::Tenant, receiver: &Receiver) -> bool {
    let id = format!("u-{}", mailspan_testkit::free_port());
    let created = json!({ "email": format!("{id}@example.com"), "externalId": id, "optIn": true });
    assert_eq!(tenant.put(created).status, 200);
    assert_eq!(tenant.ask("PATCH", &format!("/contacts/{id}"), &json!({ "optIn": false })).status, 200);
    std::thread::sleep(Duration::from_millis(1_500));
    receiver.ok().iter().any(|seen| seen.json().to_string().contains(&id))
}

/// Which destinations a process serves now, by its log.
fn serves(hub: &Hub) -> usize {
    let log = hub.log();
    let count = |text: &str| log.matches(text).count();
    count("served by this process")
        - count("handed over to another process")
        - count("served by another process now")
}

#[test]
fn destinations_spread_evenly_and_nothing_is_interrupted() {
    let server = PostgresServer::start();
    let url = server.database("spread");
    let crm = Receiver::start();
    let text = many(&crm);
    let mut hubs: Vec<Hub> = (0..3).map(|_| hub_of(&url, &text, &[])).collect();
    hubs[0].start();
    until(20, "the first does not serve all", || (serves(&hubs[0]) == DESTINATIONS).then_some(()));
    let (stop, port) = (Arc::new(AtomicBool::new(false)), hubs[0].port);
    let stopped = stop.clone();
    let load = std::thread::spawn(move || {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            let body = event("open", &format!("s{sent}@example.com"), AT).to_string();
            let mac = crate::support::signed(SECRET, body.as_bytes());
            let headers = [("x-mailtarget-signature", mac.as_str())];
            let reply = mailspan_testkit::post(port, "/in/mailtarget", &headers, body.as_bytes()).unwrap();
            assert_eq!(reply.status, 200);
            sent += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        sent
    });
    let even = |hubs: &[Hub], expected: &[usize]| {
        until(40, &format!("not spread as {expected:?}"), || {
            let mut counts: Vec<usize> = hubs.iter().map(serves).collect();
            counts.sort_unstable();
            (counts == expected).then_some(())
        });
    };
    hubs[1].start();
    even(&hubs[..2], &[3, 4]);
    hubs[2].start();
    even(&hubs, &[2, 2, 3]);
    // Some more looks: whoever has its share keeps it.
    let logs = |hubs: &[Hub]| {
        hubs.iter().map(|hub| hub.log().matches("served by this process").count()).sum::<usize>()
    };
    let before = logs(&hubs);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(logs(&hubs), before, "destinations go round though nobody came or went");
    assert_eq!(before, DESTINATIONS + 3 + 2, "more was handed over than the two that came needed");
    stop.store(true, Ordering::Relaxed);
    let sent: usize = load.join().unwrap();
    until(60, "not all arrived", || (crm.ok().len() >= sent * DESTINATIONS).then_some(()));
    assert_eq!(crm.ok().len(), sent * DESTINATIONS, "something was sent twice in a hand-over");
    assert_eq!(hubs[2].stop(), Some(0));
    even(&hubs[..2], &[3, 4]);
}

#[test]
fn roles_split_intake_from_delivery() {
    let server = PostgresServer::start();
    let url = server.database("roles");
    let crm = Receiver::start();
    let text = config(&crm, "", "");
    let mut intake = hub_of(&url, &text, &[("MAILSPAN_ROLE", "intake")]);
    let mut delivery = hub_of(&url, &text, &[]);
    delivery.serve_with(&["--role", "delivery"]);
    intake.start();
    assert_eq!(send(&intake, &event("open", "a@example.com", AT)).json()["accepted"], 1);
    std::thread::sleep(Duration::from_secs(4));
    assert!(crm.seen().is_empty(), "an intake process delivered");
    assert!(!intake.log().contains("this process routes"), "an intake process routes");
    delivery.start();
    until(20, "not delivered", || crm.ok_about("a@example.com").pop());
    let refused = send(&delivery, &event("open", "b@example.com", AT));
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("takes_no_events")));
    assert!(refused.header("retry-after").is_some());
    // What an application waits for is said by the other process.
    let made = intake.rows(&["keys", "create", "--scope", "events:write", "--scope", "read"]).remove(0);
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap());
    let body = json!({ "type": "app.signup", "subject": "c@example.com", "data": {} }).to_string();
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let said = intake.post("/v1/events?wait=20s", &headers, body.as_bytes());
    assert_eq!(
        (said.status, said.json()["deliveries"][0]["state"].as_str()),
        (200, Some("delivered")),
        "{:?}",
        said.json()
    );
    let refused = delivery.post("/v1/events", &headers, body.as_bytes());
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("takes_no_events")));
    // Operators are answered by both.
    for hub in [&intake, &delivery] {
        let listed = mailspan_testkit::request(hub.port, "GET", "/v1/destinations", &headers, b"").unwrap();
        assert_eq!(listed.json()["items"][0]["id"], "crm");
        let metrics = mailspan_testkit::request(hub.port, "GET", "/metrics", &headers, b"").unwrap();
        assert_eq!(metrics.status, 200);
    }
}

#[test]
fn one_process_on_a_file_does_all() {
    let crm = Receiver::start();
    let mut hub = hub_of("sqlite:hub.db", &config(&crm, "", ""), &[]);
    let said = hub.run(&["serve", "--role", "intake"]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("one process serves a SQLite file"), "{text}");
    hub.set_env("MAILSPAN_ROLE", "delivery");
    let said = hub.run(&["check"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && text.contains("must do all"), "{text}");
}

#[test]
fn each_process_of_a_fleet_hears_its_reload() {
    let server = PostgresServer::start();
    let url = server.database("reload");
    let (crm, second) = (Receiver::start(), Receiver::start());
    let text = config(&crm, "", "");
    let mut hubs: Vec<Hub> = (0..2).map(|_| hub_of(&url, &text, &[])).collect();
    hubs.iter_mut().for_each(Hub::start);
    send(&hubs[0], &event("open", "before@example.com", AT));
    until(20, "not delivered", || crm.ok_about("before@example.com").pop());
    let more = format!(
        "[destinations.second]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n\
         [[routes]]\nname = \"two\"\nfrom = [\"mailtarget\"]\nto = [\"second\"]\n",
        second.port
    );
    for hub in &hubs {
        let path = hub.folder().join("hub.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("/activities", "/moved");
        std::fs::write(&path, text + &more).unwrap();
        assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
        until(20, "the reload is not heard", || hub.log().contains("configuration read again").then_some(()));
    }
    send(&hubs[1], &event("open", "after@example.com", AT));
    until(20, "the new destination is not served", || second.ok_about("after@example.com").pop());
    let moved = until(20, "not delivered", || crm.ok_about("after@example.com").pop());
    assert_eq!(moved.path, "/moved", "the old settings are in force");
    assert_eq!(hubs[0].rows(&["audit"])[0]["adds_up"], true);
}
