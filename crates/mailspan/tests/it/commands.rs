//! The command line: exit codes, messages, output.

use mailspan_testkit::{Hub, Receiver, until};

use crate::support::{AT, BINARY, SECRET, config, event, hub, send};

#[test]
pub fn check_says_what_is_there_and_what_is_wrong() {
    let crm = Receiver::start();
    let good = Hub::new(BINARY, &config(&crm, "", ""), &[("MAILTARGET_SECRET", SECRET)]);
    let output = good.run(&["check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bad = Hub::new(BINARY, &config(&crm, "concurency = 8", ""), &[("MAILTARGET_SECRET", SECRET)]);
    let output = bad.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("hub.toml:") && said.contains("concurency") && said.contains("concurrency"),
        "{said}"
    );
    assert_eq!(good.run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(good.run(&["dead-letters", "replay"]).status.code(), Some(2));
}

#[test]
pub fn explain_tells_why_an_event_went_where_it_went() {
    let more = "[[routes]]\nname = \"clicks\"\nevents = [\"email.clicked\"]\nto = [\"crm\"]\n\
                [[routes]]\nname = \"never\"\nwhen = 'false'\nto = [\"crm\"]";
    let (hub, crm) = crate::support::hub_with("", more);
    send(&hub, &event("open", "a@example.com", AT));
    until(10, "not delivered", || crm.ok().pop());
    let row = until(5, "not settled", || {
        hub.rows(&["deliveries", "list"]).into_iter().find(|row| row["state"] == "delivered")
    });
    let explained = &hub.rows(&["explain", row["event_id"].as_str().unwrap()])[0];
    let of = |name: &str| {
        explained["routes"].as_array().unwrap().iter().find(|r| r["route"] == name).unwrap().clone()
    };
    assert_eq!(of("raw")["deliveries"][0]["state"], "delivered");
    assert!(of("clicks")["why"].as_str().unwrap().contains("email.clicked"));
    assert!(of("never")["why"].as_str().unwrap().contains("false"));
    let text = String::from_utf8(hub.run(&["explain", row["event_id"].as_str().unwrap()]).stdout).unwrap();
    assert!(text.contains("route raw: matched"), "{text}");
}

#[test]
pub fn a_sample_goes_through_the_front_door() {
    let (hub, crm) = hub();
    let output = hub.run(&["events", "send", "mailtarget"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(10, "the sample did not arrive", || crm.ok_about("sample@example.com").pop());
    let output = hub.run(&["events", "send", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mailtarget"));
}

/// Every kind and every preset has a sample that its own hub takes, and that reaches the destination.
#[test]
pub fn a_sample_of_every_sender_goes_through_the_front_door() {
    const KEY: &str = "whsec_c2FtcGxlLXNlY3JldC0wMTIzNDU2Nzg5YWJjZGVm";
    let presets = mailspan_connectors::signature::presets::PRESETS.iter().map(|preset| preset.name);
    let names: Vec<String> = presets.map(|name| format!("hmac-{name}")).collect();
    let source = |name: &String| {
        let preset = name.trim_start_matches("hmac-");
        format!("[sources.{name}]\nkind = \"hmac\"\npreset = \"{preset}\"\nsecrets = [{{ env = \"KEY\" }}]\n")
    };
    let others = "[sources.spelled]\nkind = \"hmac\"\nheader = \"X-Sig\"\nsecrets = [{ env = \"KEY\" }]\n\
        [sources.standard]\nkind = \"standard_webhooks\"\nsecrets = [{ env = \"KEY\" }]\n\
        [sources.core]\nkind = \"mailingcore\"\nsecrets = [{ env = \"KEY\" }]\n\
        [sources.maileon]\nkind = \"maileon\"\naccess = { kind = \"path\", secret = { env = \"PATH_SECRET\" } }\n\
        [sources.told]\nkind = \"hmac\"\npreset = \"stripe\"\nsecrets = [{ env = \"KEY\" }]\n\
        parse = '{ \"type\": \"app.\" + string!(.body.type) }'\n\
        [sources.picky]\nkind = \"hmac\"\npreset = \"stripe\"\nsecrets = [{ env = \"KEY\" }]\n\
        parse = '{ \"type\": string!(.body.nothing) }'\n\
        [sources.deaf]\nkind = \"hmac\"\npreset = \"stripe\"\nsecrets = [{ env = \"KEY\" }]\n\
        parse = 'if .body.type == \"x\" { { \"type\": \"app.x\" } } else { null }'\n";
    let all: Vec<String> =
        names.iter().cloned().chain(["spelled", "standard", "core", "maileon"].map(str::to_owned)).collect();
    let mut more: String = names.iter().map(source).collect();
    more = format!("{more}{others}[[routes]]\nname = \"all\"\nto = [\"crm\"]\n");
    let crm = Receiver::start();
    let env =
        [("MAILTARGET_SECRET", SECRET), ("KEY", KEY), ("PATH_SECRET", "0123456789abcdef0123456789abcdef")];
    let mut hub = Hub::new(BINARY, &config(&crm, "rate = \"1000/1s\"", &more), &env);
    hub.start();
    let sent = |name: &str, code: i32| {
        let output = hub.run(&["events", "send", name]);
        let (out, said) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{name}: {out}{said}");
        (out, said)
    };
    for name in &all {
        sent(name, 0);
        let rows = hub.rows(&["events", "list", "--source", name]);
        assert_eq!(rows.len(), 1, "{name}: {rows:?}");
        let kind = rows[0]["type"].as_str().unwrap();
        let expected = name.strip_prefix("hmac-").map(|preset| format!("app.{preset}"));
        assert!(expected.is_none_or(|expected| kind == expected), "{name}: {kind}");
        sent(name, 0);
        assert_eq!(
            hub.rows(&["events", "list", "--source", name]).len(),
            2,
            "{name}: the second sample is no copy"
        );
    }
    assert!(sent("told", 0).0.contains("makes 1 of it: app.customer.created"));
    assert!(sent("picky", 1).1.contains("`parse` program fails on the sample"));
    assert!(sent("deaf", 0).1.contains("makes no event of the sample"));
    until(20, "a sample did not arrive", || (crm.ok().len() > 2 * all.len()).then_some(()));
}

#[test]
pub fn tables_are_for_people_and_json_for_programs() {
    let (hub, crm) = hub();
    send(&hub, &event("open", "a@example.com", AT));
    until(10, "not delivered", || crm.ok().pop());
    let table = String::from_utf8(hub.run(&["events", "list"]).stdout).unwrap();
    assert!(table.contains("RECEIVED AT") && table.contains("email.opened"), "{table}");
    let row = &hub.rows(&["events", "list"])[0];
    let shown = &hub.rows(&["events", "show", row["id"].as_str().unwrap()])[0];
    assert!(shown["event_json"].as_str().unwrap().contains("email.opened"));
    assert!(shown["request"]["body"].as_str().unwrap().contains("a@example.com"));
    let metrics = hub.rows(&["destinations", "test", "crm"]);
    assert_eq!(metrics[0]["ok"], true);
}

#[test]
pub fn every_example_holds_its_cases() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = 0;
    for example in std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let output = std::process::Command::new(BINARY)
            .args(["test", "cases.json", "--config", "mailspan.toml"])
            .current_dir(example.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}:\n{said}", example.path().display());
        found += 1;
    }
    assert!(found >= 4, "only {found} examples were found");
}

#[test]
pub fn the_hubs_own_events_can_be_routed() {
    let alarms = Receiver::start();
    let more = format!(
        "[destinations.alarms]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/alarm\"\n\
         [[routes]]\nname = \"alarms\"\nfrom = [\"system\"]\nto = [\"alarms\"]",
        alarms.port
    );
    let (hub, crm) = crate::support::hub_with("retry = [\"50ms\"]", &more);
    crm.status(422);
    send(&hub, &event("open", "a@example.com", AT));
    let told = until(10, "nobody was told of the dead letter", || alarms.ok().pop());
    assert_eq!(told.json()["type"], "system.dead_letter");
    assert!(told.json()["data"]["text"].as_str().unwrap().contains("422"));
    crm.status(403);
    send(&hub, &event("open", "b@example.com", AT));
    until(10, "nobody was told of the pause", || {
        alarms.ok().into_iter().find(|seen| seen.json()["type"] == "system.destination_paused")
    });
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}
