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
    assert_eq!(facts[0]["happened_at"], "2024-05-01T10:00:00.000Z");
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

/// Lines of refused rows with a word of each reason.
fn refused(hub: &mailspan_testkit::Hub) -> Vec<(i64, String)> {
    let text = std::fs::read_to_string(hub.folder().join("r.ndjson")).unwrap_or_default();
    let _ = std::fs::remove_file(hub.folder().join("r.ndjson"));
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["line"].as_i64().unwrap(), row["why"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_bad_row_holds_up_none_of_the_others() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let import = |name: &str, bytes: &[u8]| {
        std::fs::write(hub.folder().join(name), bytes).unwrap();
        hub.rows(&["contacts", "import", name, "--tenant", "acme", "--refused", "r.ndjson"])[0].clone()
    };
    let check = |done: &Value, rows: i64, wrong: &[(i64, &str)]| {
        let found = refused(&hub);
        assert_eq!(found.len(), wrong.len(), "{found:?}");
        for ((line, why), (wanted, word)) in found.iter().zip(wrong) {
            assert!(line == wanted && why.contains(word), "{line}: {why}");
        }
        let sum = ["created", "updated", "unchanged", "refused"].map(|name| done[name].as_i64().unwrap());
        assert_eq!(sum.iter().sum::<i64>(), rows, "{done}");
        assert_eq!(done["rows"], rows, "{done}");
    };
    let pipes = "email,external_id,attribute_size\nlo1@x.org,lo1,5\" pipe\nlo2@x.org,lo2,7\" pipe\nlo3@x.org,lo3,9 mm\n";
    check(&import("pipes.csv", pipes.as_bytes()), 3, &[]);
    assert_eq!(tenant.get("/contacts/lo2")["attributes"]["size"], "7\" pipe");
    let mut csv = b"email,external_id\na1@x.org,a1\nshort@x.org\na2@x.org,a2\nbad@x.org,\xff\n".to_vec();
    csv.extend_from_slice(
        format!("long@x.org,{}\na3@x.org,a3\nopen@x.org,\"a4\n", "x".repeat(300_000)).as_bytes(),
    );
    csv.extend_from_slice(b"a5@x.org,a5\nb@x.org,bulk\n");
    let wrong = [(3, "cells"), (5, "UTF-8"), (6, "bytes"), (8, "never closed"), (10, "external_id")];
    check(&import("bad.csv", &csv), 9, &wrong);
    for id in ["a1", "a2", "a3", "a5"] {
        tenant.get(&format!("/contacts/{id}"));
    }
    let ndjson = "{\"email\":\"s1@x.org\",\"external_id\":\"s1\"}\nnot json\n{\"email\":\"s2@x.org\",\"x\":1}\n\
        {\"email\":\"s3@x.org\",\"external_id\":\"s3\",\"locale\":\"klingon\"}\n\
        {\"email\":\"s4@x.org\",\"attributes\":{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":1}}}}}}}\n\
        {\"email\":\"s5@x.org\",\"external_id\":\"s5\"}\n";
    let wrong = [(2, "JSON"), (3, "`x`"), (4, "locale"), (5, "levels")];
    check(&import("bad.ndjson", ndjson.as_bytes()), 6, &wrong);
    tenant.get("/contacts/s5");
    assert!(hub.rows(&["jobs", "list"]).iter().all(|job| job["state"] == "done"), "an import did not end");
}

#[test]
fn a_dry_run_foresees_conflicts() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    tenant.put(json!({ "email": "d1@x.org", "externalId": "d1" }));
    tenant.put(json!({ "email": "d2@x.org", "externalId": "d2" }));
    write(&hub, "d.csv", "email,external_id\nd1@x.org,other\nd2@x.org,d1\nd1@x.org,d1\nnew@x.org,n\n");
    let sums = |more: &[&str]| {
        let words = [&["contacts", "import", "d.csv", "--tenant", "acme"], more].concat();
        let done = &hub.rows(&words)[0];
        (done["created"].clone(), done["refused"].clone())
    };
    let dry = sums(&["--dry-run"]);
    assert_eq!(dry, (json!(1), json!(2)));
    assert_eq!(sums(&[]), dry, "the dry run said something else");
}

#[test]
fn an_export_that_is_imported_where_it_came_from_changes_nothing() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    tenant.put(json!({ "email": "in@x.org", "externalId": "in", "source": "'=x", "locale": "de" }));
    tenant.put(json!({ "email": "out@x.org", "externalId": "out", "optIn": true, "attributes": { "n": 1 } }));
    tenant.ask("PATCH", "/contacts/out", &json!({ "optIn": false }));
    let before = tenant.get("/contacts")["data"].clone();
    assert!(before[1]["unsubscribedAt"].is_string(), "{before}");
    for format in ["csv", "ndjson"] {
        let file = format!("out.{format}");
        hub.run(&["contacts", "export", "--tenant", "acme", "--format", format, "--output", &file]);
        let done = &hub.rows(&["contacts", "import", &file, "--tenant", "acme"])[0];
        assert_eq!((&done["refused"], &done["unchanged"]), (&json!(0), &json!(2)), "{format}: {done}");
        assert_eq!(tenant.get("/contacts")["data"], before, "{format}");
    }
}

#[test]
fn a_file_that_is_no_table_is_refused_with_its_line() {
    let (hub, _) = hub();
    for (text, named) in [
        ("", "empty"),
        ("name\nx\n", "name"),
        ("email,email\na@x.org,b@x.org\n", "twice"),
        ("email,external_id,externalId\na@x.org,1,2\n", "twice"),
    ] {
        let file = write(&hub, "bad.csv", text);
        let out = hub.run(&["contacts", "import", &file]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(named), "{text:?}: {said}");
    }
    assert_eq!(hub.rows(&["jobs", "list"]), Vec::<Value>::new(), "a file that is no table began a job");
}

/// What a contact is known to agree to, and why it is not mailed.
fn consent(tenant: &Tenant, id: &str) -> Value {
    let contact = tenant.get(&format!("/contacts/{id}"));
    let list = tenant.get("/suppressions?limit=100");
    let is_own = |row: &&Value| row["email"] == contact["email"];
    let reason = list["data"].as_array().unwrap().iter().find(is_own).map(|row| row["reason"].clone());
    json!([
        contact["email"],
        contact["optIn"],
        contact["permission"],
        contact["unsubscribedAt"],
        contact["suppressedAt"],
        reason,
    ])
}

/// Under another address it would be the same person: who signs up anew is made by the API.
#[test]
fn a_file_brings_back_nobody_under_the_external_id_of_who_was_erased() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    tenant.put(json!({ "email": "old@x.org", "externalId": "crm-4711", "optIn": true }));
    assert_eq!(tenant.ask("DELETE", "/contacts/crm-4711", &Value::Null).status, 200);
    let rows = "email,external_id,opt_in,consent_at,source\n\
        new@x.org,crm-4711,true,2026-01-01T00:00:00Z,fair\nother@x.org,crm-4712,true,2026-01-01T00:00:00Z,fair\n";
    write(&hub, "people.csv", rows);
    let import = ["contacts", "import", "people.csv", "--tenant", "acme", "--refused", "r.ndjson"];
    let done = &hub.rows(&import)[0];
    assert_eq!((&done["created"], &done["refused"]), (&json!(1), &json!(1)), "{done}");
    assert!(refused(&hub)[0].1.contains("erased"), "{:?}", refused(&hub));
    assert_eq!(tenant.ask("GET", "/contacts/crm-4711", &Value::Null).status, 404);
    assert_eq!(tenant.put(json!({ "email": "new@x.org", "externalId": "crm-4711" })).status, 200);
    assert_eq!(hub.rows(&import)[0]["refused"], 0);
}

#[test]
fn a_round_trip_keeps_consent_and_suppressions_and_lifts_none() {
    let (hub, _) = hub();
    let (from, csv, ndjson) =
        (Tenant::new(&hub, "from"), Tenant::new(&hub, "csv"), Tenant::new(&hub, "ndjson"));
    from.put(json!({ "email": "in@x.org", "externalId": "in", "optIn": true, "permission": 4, "consentPage": "/f" }));
    from.put(json!({ "email": "never@x.org", "externalId": "never" }));
    from.put(json!({ "email": "left@x.org", "externalId": "left", "optIn": true }));
    from.ask("PATCH", "/contacts/left", &json!({ "optIn": false }));
    let ids = ["in", "never", "left", "complained", "unsubscribed", "lifted-not"];
    for (id, reason) in
        [("complained", "complaint"), ("unsubscribed", "unsubscribe"), ("lifted-not", "unsubscribe")]
    {
        let email = format!("{id}@x.org");
        from.put(json!({ "email": email, "externalId": id, "optIn": true, "locale": "de" }));
        from.ask("POST", "/suppressions", &json!({ "email": email, "reason": reason }));
    }
    // Opted in anew by the application: the suppression stands all the same, and must in the copy.
    from.put(
        json!({ "email": "lifted-not@x.org", "externalId": "lifted-not", "optIn": true, "permission": 4 }),
    );
    for (to, format) in [(&csv, "csv"), (&ndjson, "ndjson")] {
        let file = format!("out.{format}");
        hub.run(&["contacts", "export", "--tenant", "from", "--format", format, "--output", &file]);
        let import = || hub.rows(&["contacts", "import", &file, "--tenant", format])[0].clone();
        let done = import();
        assert_eq!((&done["created"], &done["refused"]), (&json!(6), &json!(0)), "{format}: {done}");
        for id in ids {
            assert_eq!(consent(to, id), consent(&from, id), "{format} {id}");
        }
        // Again: nothing changes, and nobody is refused.
        let again = import();
        assert_eq!((&again["unchanged"], &again["refused"]), (&json!(6), &json!(0)), "{format}: {again}");
        // The proof came along, and a confirmation in a later file lifts nothing.
        let facts = hub.rows(&["ledger", "list", "--subject", "in@x.org"]);
        let copied =
            facts.iter().filter(|fact| fact["tenant"] == format).map(|fact| &fact["evidence"]["page"]);
        assert!(copied.clone().count() > 0 && copied.clone().all(|page| page == "/f"), "{facts:?}");
        let late = "email,external_id,opt_in,permission,consent_at,source\n\
            unsubscribed@x.org,unsubscribed,true,4,TIME,fair\n";
        let now = to.get("/contacts/in")["updatedAt"].as_str().unwrap().to_owned();
        write(&hub, "late.csv", &late.replace("TIME", &now));
        let done = &hub.rows(&["contacts", "import", "late.csv", "--tenant", format])[0];
        assert_eq!(done["refused"], 1, "{done}");
        assert_eq!(consent(to, "unsubscribed"), consent(&from, "unsubscribed"));
    }
    for (row, named) in [
        (json!({ "email": "a@x.org", "suppressed_for": "bounce" }), "suppressed_at"),
        (
            json!({ "email": "a@x.org", "suppressed_at": "2024-01-01T00:00:00Z", "suppressed_for": "mood" }),
            "manual",
        ),
    ] {
        write(&hub, "bad.ndjson", &format!("{row}\n"));
        let refusals = ["contacts", "import", "bad.ndjson", "--tenant", "csv", "--refused", "r.ndjson"];
        assert_eq!(hub.rows(&refusals)[0]["refused"], 1);
        assert!(refused(&hub)[0].1.contains(named));
    }
}
