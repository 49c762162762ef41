//! The confirmation page in a real browser, which obeys the page's policy and presses its button with a mouse.
//! Chromium is large, so this is an extra: `scripts/test` runs it where there is one, and says so where there is not.

use std::path::Path;
use std::process::Command;

use mailspan_testkit::until;
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::{BINARY, SECRET, config};

const ROUTE: &str = "[[routes]]\nname = \"contacts\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n";

#[test]
#[ignore = "needs chromium: scripts/test runs it where there is one"]
fn a_visitor_confirms_by_the_button() {
    let crm = mailspan_testkit::Receiver::start();
    let mut hub =
        mailspan_testkit::Hub::new(BINARY, &config(&crm, "", ROUTE), &[("MAILTARGET_SECRET", SECRET)]);
    // A form's server on the same machine, in clear.
    hub.serve_with(&["--dev"]);
    hub.start();
    let made = &hub.rows(&["keys", "create", "--scope", "contacts:write", "--scope", "contacts:read"])[0];
    let tenant = Tenant { hub: &hub, key: made["key"].as_str().unwrap().to_owned() };
    let form = "email=chloe%40example.com&standard_LOCALE=de_DE&doi=true&src=shop";
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = format!("/webhooks/contacts/email?key={}", tenant.key);
    let asked = hub.post(&path, &headers, form.as_bytes());
    assert_eq!(asked.status, 200, "{}", asked.text());
    // Whoever sends the mail is told the whole link; it is shown nowhere else.
    let url = until(10, "no link to confirm is told", || {
        let asked = crm.ok().into_iter().find(|seen| seen.json()["type"] == "contact.confirmation_asked")?;
        asked.json()["data"]["confirm_url"].as_str().map(str::to_owned)
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
