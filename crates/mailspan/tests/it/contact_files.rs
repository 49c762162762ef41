//! Files of contacts: import with its refusals, dry run and resume; export and back.

use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::hub;

fn write(hub: &mailspan_testkit::Hub, name: &str, text: &str) -> String {
    let path = hub.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_csv_is_brought_in_with_refusals_by_line() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    tenant.ask("POST", "/suppressions", &json!({ "email": "gone@x.org", "reason": "unsubscribe" }));
    tenant.put(json!({ "email": "erased@x.org", "externalId": "e" }));
    tenant.ask("DELETE", "/contacts/e", &Value::Null);
    let file = write(
        &hub,
        "a.csv",
        "\u{feff}Email,External ID,opt_in,consent_at,source,custom_age,standard_CITY\n\
one@x.org,1,true,2024-05-01T10:00:00Z,fair,,\"Köln, am \"\"Rhein\"\"\"\n\
bad,2,,,,,\n\
two@x.org,2,true,,,,\n\
\n\
gone@x.org,3,true,2024-05-01T10:00:00Z,fair,,\n\
erased@x.org,e,,,,,\n\
three@x.org,4,,,,17,\"two\nlines\"\n\
four@x.org,5,false,,,,\n",
    );
    let import = |more: &[&str]| {
        let words =
            [&["contacts", "import", file.as_str(), "--tenant", "acme", "--refused", "r.ndjson"], more]
                .concat();
        hub.rows(&words)[0].clone()
    };
    let dry = import(&["--dry-run"]);
    assert_eq!((&dry["rows"], &dry["created"], &dry["refused"]), (&json!(7), &json!(2), &json!(5)));
    assert_eq!(tenant.get("/contacts")["meta"]["total"], 0, "a dry run wrote");
    hub.run(&["fields", "declare", "age", "integer", "--tenant", "acme"]);
    std::fs::remove_file(hub.folder().join("r.ndjson")).unwrap();
    let done = import(&[]);
    assert_eq!((&done["rows"], &done["created"], &done["refused"]), (&json!(7), &json!(3), &json!(4)));
    let refused = std::fs::read_to_string(hub.folder().join("r.ndjson")).unwrap();
    let lines: Vec<Value> = refused.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<i64> = lines.iter().map(|line| line["line"].as_i64().unwrap()).collect();
    assert_eq!(places, [3, 4, 6, 7], "{refused}");
    assert!(lines[1]["why"].as_str().unwrap().contains("consent_at"));
    assert!(lines[2]["why"].as_str().unwrap().contains("unsubscribe"));
    assert!(lines[3]["why"].as_str().unwrap().contains("erasure"));
    let one = tenant.get("/contacts/1");
    assert_eq!((&one["optIn"], &one["standardFields"]["CITY"]), (&json!(true), &json!("Köln, am \"Rhein\"")));
    assert_eq!(tenant.get("/contacts/4")["customFields"]["age"], 17);
    // The same file again: nothing changes.
    let again = import(&[]);
    assert_eq!((&again["created"], &again["unchanged"]), (&json!(0), &json!(3)));
    let facts = hub.rows(&["ledger", "list", "--subject", "one@x.org"]);
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0]["happened_at"], "2024-05-01T10:00:00Z");
    assert_eq!(facts[0]["evidence"]["origin"], "import");
}

#[test]
fn an_export_comes_back_as_it_was() {
    let (hub, _) = hub();
    let (from, to) = (Tenant::new(&hub, "from"), Tenant::new(&hub, "to"));
    for tenant in ["from", "to"] {
        hub.run(&["fields", "declare", "plan name", "string", "--tenant", tenant]);
    }
    let rows: Vec<Value> = (0..1_200)
        .map(|n| json!({ "email": format!("n{n}@x.org"), "externalId": format!("-{n}"), "locale": "de",
            "attributes": { "n": n }, "customFields": { "plan name": "a,b\"c" }, "standardFields": { "CITY": "=1+1" } }))
        .collect();
    for rows in rows.chunks(1_000) {
        assert_eq!(from.ask("POST", "/contacts/bulk", &json!({ "contacts": rows })).status, 200);
    }
    for format in ["csv", "ndjson"] {
        let file = format!("out.{format}");
        hub.run(&["contacts", "export", "--tenant", "from", "--format", format, "--output", &file]);
        let done = &hub.rows(&["contacts", "import", &file, "--tenant", "to"])[0];
        assert_eq!((&done["rows"], &done["refused"]), (&json!(1_200), &json!(0)), "{format}: {done}");
        let contact = to.get("/contacts/-7");
        assert_eq!(contact["attributes"]["n"], 7, "{format}");
        assert_eq!(contact["standardFields"]["CITY"], "=1+1");
        assert_eq!(contact["customFields"]["plan name"], "a,b\"c");
    }
    assert_eq!(to.get("/contacts")["meta"]["total"], 1_200);
}

#[test]
fn an_import_goes_on_where_it_was_cut_off() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let lines: Vec<String> = (0..3_000).map(|n| format!("n{n}@x.org,{n}")).collect();
    let file = write(&hub, "a.csv", &format!("email,externalId\n{}\n", lines.join("\n")));
    // What a client that died after its first page leaves behind.
    let bytes = std::fs::read(&file).unwrap();
    let digest = mailspan_connectors::signature::hex(&mailspan_connectors::signature::sha256(&bytes));
    let begun = tenant.ask("POST", "/v1/imports", &json!({ "file": file, "digest": digest }));
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let page: Vec<Value> =
        (0..500).map(|n| json!({ "email": format!("n{n}@x.org"), "external_id": n.to_string() })).collect();
    let path = format!("/v1/imports/{id}/rows");
    assert_eq!(tenant.ask("POST", &path, &json!({ "after": 0, "rows": page })).status, 200);
    assert_eq!(
        tenant.ask("POST", &path, &json!({ "after": 0, "rows": page })).status,
        409,
        "a page was taken twice"
    );
    let out = hub.run(&["contacts", "import", &file, "--tenant", "acme", "--json"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("500 rows are done"), "{out:?}");
    let done: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&done["id"], &done["rows"], &done["created"]), (&json!(id), &json!(3_000), &json!(3_000)));
    assert_eq!(tenant.get("/contacts")["meta"]["total"], 3_000);
}

#[test]
fn a_file_that_is_no_table_is_refused_with_its_line() {
    let (hub, _) = hub();
    for (text, named) in [
        ("", "empty"),
        ("name\nx\n", "name"),
        ("email,opt_in\na@x.org\n", "line 2"),
        ("email\n\"a@x.org\n", "never closed"),
    ] {
        let file = write(&hub, "bad.csv", text);
        let out = hub.run(&["contacts", "import", &file]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(named), "{text:?}: {said}");
    }
}
