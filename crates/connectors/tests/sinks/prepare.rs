//! What a destination lacks, and how that is made.

use mailspan_connectors::hubspot::{Missing, prepare};

use super::*;

fn answered(status: u16, body: Value) -> Answer {
    Answer { at: AT, status, headers: vec![], body: body.to_string().into_bytes(), cut: false }
}

fn lacks(scope: &str) -> Answer {
    let context = json!({"requiredGranularScopes": [scope]});
    answered(403, json!({"status": "error", "category": "MISSING_SCOPES", "context": context}))
}

#[test]
fn prepare_shows_what_is_missing_and_creates_it() {
    let settings = json!({"properties": {"open_count": "opens", "click_count": ""}});
    let prepare = prepare(&settings).expect("good settings");
    let checks = prepare.checks();
    assert_eq!(checks[0].path, "/crm/properties/2026-03/contacts/batch/read");
    assert_eq!(checks.len(), 10);
    let paths: Vec<&str> = checks[5..].iter().map(|check| check.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/crm/objects/2026-03/contacts/batch/read",
            "/crm/objects/2026-03/contacts/batch/update",
            "/crm/objects/2026-03/notes/batch/upsert",
            "/crm/objects/2026-03/tasks/batch/upsert",
            "/communication-preferences/2026-03/statuses/batch/unsubscribe-all?channel=EMAIL",
        ]
    );
    assert!(
        checks[5..].iter().all(|check| body_of(check) == json!({"inputs": []})),
        "a check changes something"
    );
    let there: Vec<Value> = body_of(&checks[0])["inputs"]
        .as_array()
        .expect("inputs")
        .iter()
        .filter(|input| input["name"] != "mt_bounced_at" && input["name"] != "opens")
        .map(|input| match input["name"].as_str() {
            Some("email") => json!({"name": "email", "type": "string", "groupName": "contact_basics"}),
            Some("mt_do_not_contact") => json!({"name": "mt_do_not_contact", "type": "number"}),
            _ => json!({"name": input["name"]}),
        })
        .collect();
    let answers = [
        answered(
            207,
            json!({"status": "COMPLETE", "results": there, "errors": [{"category": "OBJECT_NOT_FOUND"}]}),
        ),
        answered(
            200,
            json!({"results": [{"name": "mt_event_key", "type": "string", "hasUniqueValue": false}]}),
        ),
        answered(200, json!({"results": [{"name": "hs_task_body", "groupName": "task"}]})),
        answered(
            403,
            json!({"status": "error", "category": "MISSING_SCOPES", "context": {"requiredScopes": ["crm.objects.owners.read"]}}),
        ),
        answered(200, json!({"results": []})),
        answered(400, json!({"status": "error", "category": "VALIDATION_ERROR"})),
        lacks("crm.objects.contacts.write"),
        lacks("crm.objects.contacts.write"),
        answered(200, json!({"results": []})),
    ];
    let missing = prepare.missing(&answers);
    let shown: Vec<String> = missing.iter().map(Missing::to_string).collect();
    for (line, words) in shown.iter().zip([
        "property opens of contacts (number)",
        "property mt_bounced_at of contacts (datetime)",
        "property mt_do_not_contact of contacts has type number instead of bool",
        "property mt_event_key of notes has no unique values",
        "property mt_event_key of tasks (string, unique values)",
        "scope crm.objects.owners.read of the token, for owners",
        "scope crm.objects.contacts.write of the token, for writing contacts",
        "writing opt-outs could not be checked: no answer",
    ]) {
        assert!(line.starts_with(words), "{line}\nexpected {words}");
    }
    assert_eq!(shown.len(), 8, "{shown:#?}");

    let create = prepare.create(&missing);
    let paths: Vec<&str> = create.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/crm/properties/2026-03/contacts/batch/create", "/crm/properties/2026-03/tasks/batch/create"]
    );
    assert_eq!(
        body_of(&create[0])["inputs"][0],
        json!({"name": "opens", "label": "Email opens", "groupName": "contact_basics", "type": "number", "fieldType": "number"})
    );
    assert_eq!(
        body_of(&create[1])["inputs"][0],
        json!({"name": "mt_event_key", "label": "Mailspan event key", "groupName": "task", "type": "string", "fieldType": "text", "hasUniqueValue": true})
    );
}
