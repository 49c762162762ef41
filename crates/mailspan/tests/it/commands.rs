//! The command line: exit codes, messages, output.

use mailspan_testkit::{Hub, Receiver, until};

use crate::support::{AT, BINARY, SECRET, config, event, hub, send};

#[test]
fn check_says_what_is_there_and_what_is_wrong() {
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
fn explain_tells_why_an_event_went_where_it_went() {
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
fn a_sample_goes_through_the_front_door() {
    let (hub, crm) = hub();
    let output = hub.run(&["events", "send", "mailtarget"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(10, "the sample did not arrive", || crm.ok_about("sample@example.com").pop());
    let output = hub.run(&["events", "send", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mailtarget"));
}

#[test]
fn tables_are_for_people_and_json_for_programs() {
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
