//! The map «audience» against the files of `fixtures/audience`: «this event, these operations».

use mailspan_core::{
    Address, Event, Fields, Formerly, LastTimes, Millis, Operation, Person, PersonId, Subject, fields,
};
use mailspan_maps::audience;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::crm::event;

fn person(from: &Value) -> Option<Person> {
    let at = |place: usize| from["opts"][place].as_i64().map(Millis);
    let suppressed = from["suppressed"] == true;
    let before = |place: usize| {
        let texts = from["before"][place].as_array().map(Vec::as_slice).unwrap_or_default();
        texts.iter().filter_map(Value::as_str)
    };
    let address = |text| Some((Address::parse(text).ok()?, Millis(1_778_210_055_000)));
    let formerly = Formerly {
        addresses: before(0).filter_map(address).collect(),
        external_ids: before(1).map(|id| (id.to_owned(), Millis(1_778_210_055_000))).collect(),
        taken: before(2).filter_map(|text| Address::parse(text).ok()).collect(),
    };
    from.is_object().then(|| Person { suppressed, formerly, ..known(at(0), at(1)) })
}

fn known(opted_out_at: Option<Millis>, opted_in_at: Option<Millis>) -> Person {
    let subject = Subject::read("ann@x.example");
    Person {
        id: PersonId(1),
        subject,
        opens: 0,
        clicks: 0,
        opted_out_at,
        opted_in_at,
        suppressed: false,
        erased: false,
        formerly: Formerly::default(),
    }
}

/// With `MAILSPAN_BLESS=1` the files are written anew: read the difference before it is committed.
#[test]
fn events_become_the_operations_of_the_fixtures() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/audience");
    let bless = std::env::var_os("MAILSPAN_BLESS").is_some();
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let mut case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let person = person(&case["person"]);
        let today = case.get("today");
        let got = json!(audience(&event(&case["event"]), person.as_ref(), LastTimes::default(), today));
        if bless {
            case["operations"] = got;
            std::fs::write(&path, format!("{case:#}\n")).unwrap();
        } else {
            let advice = "mend the map, or run with MAILSPAN_BLESS=1";
            assert_eq!(got, case["operations"], "{}: {advice}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 20, "fixtures are missing in {}", folder.display());
}

fn upserted(event: &Event, person: &Person) -> Fields {
    match audience(event, Some(person), LastTimes::default(), None).into_iter().next() {
        Some(Operation::UpsertContact { fields }) => fields,
        other => panic!("{other:?}"),
    }
}

/// What is effective leaves the hub: agreed, and not suppressed.
#[test]
fn an_opt_in_of_somebody_suppressed_is_told_as_none() {
    let told = |name: &str, contact: Value, suppressed: bool| {
        let person = Person { suppressed, ..known(None, None) };
        let event = event(&json!({"type": name, "data": {"contact": contact}}));
        upserted(&event, &person).get(fields::OPT_IN).cloned()
    };
    for name in ["contact.created", "contact.updated", "contact.subscribed", "contact.confirmed"] {
        let agreed = json!({"opt_in": true, "permission": 4});
        assert_eq!(told(name, agreed.clone(), false), Some(true.into()), "{name}");
        assert_eq!(told(name, agreed, true), Some(false.into()), "{name}");
        let at = json!({"opt_in": true, "suppressed_at": "2026-01-01T00:00:00Z"});
        assert_eq!(told(name, at, false), Some(false.into()), "{name}: suppressed when it was told");
    }
}

/// Neither undoes what was taken back after it was received.
#[test]
fn an_opt_in_of_tomorrow_counts_today() {
    let event = event(&json!({
        "type": "contact.subscribed", "time": "2099-01-01T00:00:00Z", "received_at": "2026-05-08T00:00:00Z", "data": {}
    }));
    let out = Millis::parse_rfc3339("2026-05-08T00:00:01Z");
    assert_eq!(upserted(&event, &known(out, None)).get(fields::OPT_IN), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Invariant 7, for an opt-in that travels with a contact.
    #[test]
    fn an_opt_in_that_is_not_newer_than_the_last_opt_out_is_never_written(
        at in -5_i64..5, out in -5_i64..5, kind in 0_usize..4, permission in 0_u8..8,
    ) {
        let kinds = ["contact.created", "contact.updated", "contact.subscribed", "contact.confirmed"];
        let time = Millis(1_700_000_000_000 + at);
        let data = json!({"contact": {"opt_in": true, "permission": permission}});
        let event = event(&json!({"type": kinds[kind], "time": time.rfc3339(), "data": data}));
        let fields = upserted(&event, &known(Some(Millis(1_700_000_000_000 + out)), None));
        prop_assert_eq!(fields.get(fields::OPT_IN).cloned(), (at > out).then_some(Value::Bool(true)));
        prop_assert!(fields.contains_key(fields::OPT_IN) || !fields.contains_key(fields::PERMISSION));
    }
}

/// The destination may not know that its address is suppressed.
#[test]
fn who_is_suppressed_here_and_opted_in_is_suppressed_there() {
    let event =
        event(&json!({"type": "contact.subscribed", "data": {"contact": {"email": "ann@x.example"}}}));
    let check = |suppressed: bool, expected: usize| {
        let person = Person { suppressed, ..known(None, None) };
        let made = audience(&event, Some(&person), LastTimes::default(), None);
        assert_eq!(made.len(), expected, "{made:?}");
        let Some(Operation::SetFields { fields, .. }) = made.get(1) else { return };
        assert_eq!(fields.get(fields::SUPPRESSED), Some(&Value::Bool(true)));
    };
    check(true, 2);
    check(false, 1);
}

/// Lifted, and suppressed again before it could be told: the account may have told of that itself.
#[test]
fn a_lift_is_not_told_while_the_address_is_suppressed_again() {
    let contact = json!({"email": "ann@x.example", "opt_in": true, "suppressed_at": null});
    let data = json!({"contact": contact, "changed": ["opt_in", "suppressed_at"]});
    let lifted = event(&json!({"type": "contact.updated", "data": data}));
    let check = |suppressed: bool, expected: Option<bool>| {
        let person = Person { suppressed, ..known(None, None) };
        let made = audience(&lifted, Some(&person), LastTimes::default(), None);
        let set = made.iter().find_map(|operation| match operation {
            Operation::SetFields { fields, .. } => fields.get(fields::SUPPRESSED)?.as_bool(),
            _ => None,
        });
        assert_eq!(set, expected, "{made:?}");
    };
    check(false, Some(false));
    check(true, Some(true));
}
