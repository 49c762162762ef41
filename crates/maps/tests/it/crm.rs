//! The built-in map against the files of `fixtures/crm`: «this event, these operations».

use mailspan_core::*;
use mailspan_maps::{CrmContext, crm};
use serde_json::{Value, json};

pub fn event(from: &Value) -> Event {
    let role = match from["role"].as_str() {
        Some("cc") => Some(RecipientRole::Cc),
        Some("bcc") => Some(RecipientRole::Bcc),
        Some("to") => Some(RecipientRole::To),
        _ => None,
    };
    Event {
        seq: None,
        id: EventId(1),
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        event_type: EventType::parse(from["type"].as_str().unwrap()).unwrap(),
        subject: Subject::read(from["subject"].as_str().unwrap_or("ann@x.example")),
        time: Millis::parse_rfc3339(from["time"].as_str().unwrap_or("2026-05-08T03:14:15Z")).unwrap(),
        received_at: Millis::parse_rfc3339(from["received_at"].as_str().unwrap_or("2027-01-01T00:00:00Z"))
            .unwrap(),
        test: false,
        transmission: None,
        recipient_role: role,
        extensions: None,
        data: RawValue::from_string(from["data"].to_string()).unwrap().into(),
    }
}

fn person(from: &Value) -> Option<Person> {
    Some(Person {
        id: PersonId(1),
        subject: Subject::read("ann@x.example"),
        opens: from["opens"].as_u64()?,
        clicks: from["clicks"].as_u64()?,
        opted_out_at: None,
        opted_in_at: None,
        suppressed: false,
        erased: false,
        formerly: mailspan_core::Formerly::default(),
    })
}

fn context(from: &Value) -> CrmContext {
    CrmContext {
        create_contacts: from["create_contacts"] == true,
        several_recipients: from["several_recipients"] == true,
        times: mailspan_core::LastTimes::default(),
    }
}

/// With `MAILSPAN_BLESS=1` the files are written anew: read the difference before it is committed.
#[test]
fn events_become_the_operations_of_the_fixtures() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/crm");
    let bless = std::env::var_os("MAILSPAN_BLESS").is_some();
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let mut case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let got =
            json!(crm(&event(&case["event"]), person(&case["person"]).as_ref(), context(&case["context"])));
        if bless {
            case["operations"] = got;
            std::fs::write(&path, format!("{case:#}\n")).unwrap();
        } else {
            assert_eq!(
                got,
                case["operations"],
                "{}: mend the map, or run with MAILSPAN_BLESS=1",
                path.display()
            );
        }
        seen += 1;
    }
    assert!(seen >= 15, "fixtures are missing in {}", folder.display());
}
