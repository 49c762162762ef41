//! The confirmation page in a real browser, which obeys the page's policy and presses its button with a mouse.
//! Chromium is large, so this is an extra: `scripts/test` runs it where there is one, and says so where there is not.

use std::path::Path;
use std::process::Command;

use mailspan_testkit::until;
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::{BINARY, SECRET, config};

#[test]
#[ignore = "needs chromium: scripts/test runs it where there is one"]
fn a_visitor_confirms_by_the_button() {
    let crm = mailspan_testkit::Receiver::start();
    let mut hub = mailspan_testkit::Hub::new(BINARY, &config(&crm, "", ""), &[("MAILTARGET_SECRET", SECRET)]);
    // A form's server on the same machine, in clear.
    hub.serve_with(&["--dev"]);
    hub.start();
    let tenant = Tenant::new(&hub, "acme");
    let form = "email=chloe%40example.com&standard_LOCALE=de_DE&doi=true&src=shop";
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = format!("/webhooks/contacts/email?key={}", tenant.key);
    let asked = hub.post(&path, &headers, form.as_bytes());
    assert_eq!(asked.status, 200, "{}", asked.text());
    let url = until(10, "no link to confirm is told", || {
        let rows = hub.rows(&["events", "list", "--limit", "10"]);
        let row = rows.iter().find(|row| row["type"] == "contact.confirmation_asked")?;
        let told = format!("{:?}", hub.rows(&["events", "show", row["id"].as_str().unwrap()]));
        let start = told.find("http://127.0.0.1:")?;
        let url: String = told[start..].chars().take_while(|c| !"\"\\ ".contains(*c)).collect();
        Some(url)
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/browser/press.mjs");
    let node = ["--experimental-websocket", "--no-warnings"];
    let output = Command::new("node").args(node).arg(script).arg(&url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (before, after) = (&seen["before"], &seen["after"]);
    assert_eq!((&before["lang"], &before["button"]), (&json!("de"), &json!("Bestätigen")), "{seen}");
    assert!(before["text"].as_str().unwrap().contains("chloe@example.com"), "{seen}");
    assert_eq!(after["button"], Value::Null, "{seen}");
    assert!(after["text"].as_str().unwrap().contains("bestätigt"), "{seen}");
    let rows = tenant.get("/contacts");
    assert_eq!(
        (&rows["data"][0]["optIn"], &rows["data"][0]["permission"]),
        (&json!(true), &json!(4)),
        "{rows}"
    );
}
