//! Every source kind against its fixtures: `fixtures/<kind>/*.json`, each a request, the secrets, the
//! time, and what is expected of `verify` and `parse`. After a wanted change, run with
//! `MAILSPAN_BLESS=1` to write `expect` anew, and read the difference before committing it.

#![allow(clippy::disallowed_methods, reason = "a test reads its fixtures from files")]

use std::path::{Path, PathBuf};

use base64::Engine as _;
use mailspan_connectors::contract::{Arrival, BadBody, Dedupe, Kind, Parsed, Source, Verified};
use mailspan_connectors::{api, fuzzing, registry};
use mailspan_core::limits::{EVENT_DATA_BYTES_MAX, EVENTS_PER_REQUEST_MAX};
use mailspan_core::{Millis, Named, RawRequest, Secret};
use serde_json::{Map, Value, json};

fn source_kinds() -> impl Iterator<Item = &'static Kind> {
    registry::KINDS.iter().copied().filter(|kind| kind.source.is_some())
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(kind);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

#[test]
fn every_source_kind_is_complete() {
    let names: Vec<&str> = source_kinds().map(|kind| kind.name).collect();
    for name in ["mailtarget", "standard_webhooks", "hmac", "api", "mailingcore", "maileon"] {
        assert!(names.contains(&name), "kind `{name}` is missing: add its KIND to registry.rs");
    }
    for kind in source_kinds() {
        let source = kind.source.as_ref().expect("a source");
        let name = kind.name;
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}: write it in snake_case");
        assert!(
            !kind.title.is_empty() && kind.about.len() > 200,
            "{name}: `about` is a paragraph of reference"
        );
        assert!(!kind.about.contains("  "), "{name}: `about` has blanks of its source text");
        let schema = (source.schema)();
        assert_eq!(schema["type"], "object", "{name}: the schema of the settings is an object");
        assert_eq!(schema["additionalProperties"], false, "{name}: unknown settings are errors");
        for (setting, schema) in schema["properties"].as_object().unwrap_or(&Map::new()) {
            assert!(schema["description"].is_string(), "{name}.{setting}: give it a doc comment");
        }
        let unknown = (source.build)(&json!({"concurency": 8})).err().expect("an unknown setting is refused");
        assert!(unknown.text.contains("concurency"), "{name}: {unknown:?} names the setting");
        assert!(!fixtures(name).is_empty(), "{name}: add fixtures/{name}/*.json");
    }
}

#[test]
fn fixtures_give_what_they_expect() {
    let bless = std::env::var_os("MAILSPAN_BLESS").is_some();
    let mut wrong = Vec::new();
    for kind in source_kinds() {
        for path in fixtures(kind.name) {
            let text = std::fs::read_to_string(&path).expect("the fixture can be read");
            let mut fixture: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let got = run(kind, &fixture);
            if bless {
                fixture["expect"] = got;
                let text = serde_json::to_string_pretty(&fixture).expect("JSON") + "\n";
                std::fs::write(&path, text).expect("the fixture can be written");
            } else if fixture["expect"] != got {
                let got = serde_json::to_string_pretty(&got).expect("JSON");
                wrong.push(format!("{}\n{}\nwas found:\n{got}", path.display(), fixture["about"]));
            }
        }
    }
    let advice = "if the change is wanted, run with MAILSPAN_BLESS=1 and read the difference";
    assert!(wrong.is_empty(), "{}\n\n{advice}", wrong.join("\n\n"));
}

fn run(kind: &Kind, fixture: &Value) -> Value {
    let settings = fixture.get("settings").cloned().unwrap_or_else(|| json!({}));
    let source = kind.source.as_ref().expect("a source");
    let source = (source.build)(&settings).unwrap_or_else(|bad| panic!("{bad:?}"));
    let now = Millis::parse_rfc3339(fixture["now"].as_str().expect("`now`")).expect("`now` is RFC 3339");
    let secrets: Vec<Named> = fixture["secrets"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, text)| named(name, text.as_str().expect("a secret is text")))
        .collect();
    let mut request = request(&fixture["request"], now);
    if let Some(signer) = fixture["sign"].as_str() {
        let secret = secrets.iter().find(|named| named.name == signer).expect("`sign` names a secret");
        for (name, value) in source.sign(&request, secret, now) {
            request.headers.push((name, value.into_bytes()));
        }
    }
    // As in the product, only what was let in is parsed.
    let let_in = match fixture["access"] == true {
        // A secret path, a token or a password is looked at by the hub itself.
        true => Verified::By { credential: "access".to_owned() },
        false => source.verify(&request, &secrets, now, true),
    };
    let mut got = match let_in {
        Verified::By { .. } => parsed(&*source, &request),
        _ => Map::new(),
    };
    got.insert("verified".to_owned(), verified(let_in));
    Value::Object(got)
}

fn named(name: &str, text: &str) -> Named {
    Named { name: name.to_owned(), secret: Secret::new(text.to_owned()) }
}

fn request(fixture: &Value, now: Millis) -> RawRequest {
    let headers = fixture["headers"].as_object().into_iter().flatten();
    let headers = headers
        .map(|(name, value)| {
            (name.to_ascii_lowercase(), value.as_str().expect("a header is text").as_bytes().to_vec())
        })
        .collect();
    let body = match (fixture["body"].as_str(), fixture["body_base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => {
            base64::engine::general_purpose::STANDARD.decode(text).expect("`body_base64` is base64")
        }
        (None, None) => serde_json::to_vec(&fixture["body_json"]).expect("JSON"),
        _ => panic!("a request has one of `body`, `body_base64`, `body_json`"),
    };
    let mut request = RawRequest { received_at: now, ..fuzzing::request(headers, &body) };
    if let Some(query) = fixture["query"].as_str() {
        request.query = query.to_owned();
    }
    request
}

fn verified(verified: Verified) -> Value {
    match verified {
        Verified::By { credential } => json!(credential),
        Verified::Refused(refusal) => {
            json!({"check": refusal.check, "text": refusal.text, "hint": refusal.hint})
        }
        Verified::Handshake { status, body, .. } => json!({"handshake": status, "body": body}),
    }
}

fn parsed(source: &dyn Source, request: &RawRequest) -> Map<String, Value> {
    let mut got = Map::new();
    match source.parse(request) {
        Err(bad) => {
            got.insert("bad_body".to_owned(), json!(bad.text));
        }
        Ok(parsed) => {
            let unreadable = parsed.unreadable.iter();
            let unreadable: Vec<Value> = unreadable
                .map(|one| json!({"part": one.part, "reason": one.reason.to_string(), "raw": one.raw}))
                .collect();
            got.insert("events".to_owned(), parsed.arrivals.iter().map(shown).collect());
            got.insert("unreadable".to_owned(), json!(unreadable));
        }
    }
    got
}

/// An event as fixtures show it; `data.raw` is left out, as it repeats the request.
fn shown(arrival: &Arrival) -> Value {
    let mut data: Value = serde_json::from_str(arrival.data.get()).expect("data is JSON");
    data.as_object_mut().expect("data is an object").remove("raw");
    let mut shown = json!({
        "part": arrival.part,
        "type": arrival.event_type.as_str(),
        "subject": arrival.subject.shown(),
        "external_id": arrival.subject.external_id,
        "time": arrival.time.map(Millis::rfc3339),
        "test": arrival.test,
        "transmission": arrival.transmission,
        "role": arrival.recipient_role.map(|role| format!("{role:?}")),
        "dedupe": match &arrival.dedupe {
            Dedupe::Id(id) => json!({"id": id}),
            Dedupe::Fields(fields) => json!({"fields": fields}),
            Dedupe::Body => json!("body"),
            Dedupe::Never => json!("never"),
        },
        "data": data,
    });
    if let Some(extensions) = &arrival.extensions {
        shown["extensions"] = serde_json::from_str(extensions.get()).expect("extensions are JSON");
    }
    shown
}

fn parse(kind: &str, settings: Value, body: &str) -> Result<Parsed, BadBody> {
    let kind = registry::kind(kind).and_then(|kind| kind.source.as_ref()).expect("a source kind");
    let source = (kind.build)(&settings).unwrap_or_else(|bad| panic!("{bad:?}"));
    source.parse(&fuzzing::request(Vec::new(), body.as_bytes()))
}

#[test]
fn spelling_of_numbers_and_duplicate_keys_survive() {
    let element = r#"{"event":"open","recipient":"a@b.co","metadata":{"n":92356927693813856123,"n":1.50},"raw":{"x":1e999,"s":"\ud800"}}"#;
    let parsed = parse("mailtarget", json!({}), element).expect("it can be read");
    let data = parsed.arrivals[0].data.get();
    assert!(data.contains(r#""correlation":{"n":92356927693813856123,"n":1.50}"#), "{data}");
    assert!(data.ends_with(&format!(r#""raw":{element}}}"#)), "{data}");
    for (kind, settings) in [("hmac", json!({"preset": "shopify"})), ("standard_webhooks", json!({}))] {
        let body = r#"{"id": 820982911946154508123, "a": 1.0, "a": -0}"#;
        let parsed = parse(kind, settings, body).expect("it can be read");
        assert_eq!(parsed.arrivals[0].data.get(), body, "{kind}");
    }
}

#[test]
fn too_many_events_and_too_much_data_are_refused() {
    let many = |one: &str| format!("[{}]", vec![one; EVENTS_PER_REQUEST_MAX + 1].join(","));
    let large = "x".repeat(EVENT_DATA_BYTES_MAX);
    let deep = format!("{}{}", "[".repeat(62), "]".repeat(62));
    for (kind, settings) in [
        ("mailtarget", json!({})),
        ("api", json!({})),
        ("standard_webhooks", json!({})),
        ("hmac", json!({"header": "x"})),
    ] {
        let bad = parse(kind, settings.clone(), &many("{}")).expect_err("too many");
        assert!(bad.text.contains("at most 5000"), "{kind}: {}", bad.text);
        let one = |data: &str| {
            format!(
                r#"[{{"event":"open","type":"a.b","recipient":"a@b.co","data":{{"x":{data}}},"raw":{{"x":{data}}}}}]"#
            )
        };
        let parsed =
            parse(kind, settings.clone(), &one(&format!("\"{large}\""))).expect("the batch can be read");
        assert_eq!((parsed.arrivals.len(), parsed.unreadable.len()), (0, 1), "{kind}: too large");
        assert!(parse(kind, settings, &one(&deep)).is_err(), "{kind}: nested deeper than 64");
    }
}

#[test]
fn what_a_parse_program_made_is_read_as_an_event() {
    let read = |text: &str| api::event_from_json(text, 3, Dedupe::Id("delivery-1".to_owned()));
    let event = read(r#"{"type":"order.created","id":"820","subject":"ADA@Example.com","data":{"n":1.50}}"#)
        .expect("an event");
    assert_eq!((event.part, event.event_type.as_str()), (3, "order.created"));
    assert_eq!(event.dedupe, Dedupe::Id("820".to_owned()));
    assert_eq!(event.data.get(), r#"{"n":1.50}"#);
    let event = read(r#"{"type":"app.legacy","subject":null,"id":null,"data":7}"#).expect("an event");
    assert_eq!(event.dedupe, Dedupe::Id("delivery-1".to_owned()), "without an id the request's own decides");
    assert_eq!(event.data.get(), r#"{"value":7}"#);
    for (bad, text) in [
        ("", "not JSON"),
        ("3", "expected an event"),
        (r#"{"subject":"a@b.co"}"#, "field \"type\""),
        (r#"{"type":"a.b","id":[]}"#, "field \"id\""),
        (r#"{"type":"a.b","subject":"a@b.co","type":"a.c"}"#, "field \"type\": it is given twice"),
        (
            r#"{"type":"a.b","subject":"a@b.co","sub\u006aect":"c@d.co"}"#,
            "field \"subject\": it is given twice",
        ),
        (r#"{"type":"a.b","subject":true}"#, "field \"subject\""),
    ] {
        let reason = read(bad).expect_err("no event");
        assert!(reason.code == "bad_event" && reason.text.contains(text), "{bad}: {reason}");
    }
}
