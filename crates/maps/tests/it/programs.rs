//! Programs from outside: what compiles, what they give, what their errors say.

use mailspan_core::*;
use mailspan_maps::{Program, Purpose};
use serde_json::{Value, json};

fn event(data: &str) -> Event {
    Event {
        seq: None,
        id: EventId(0x0197_f0c2_0000_7000_8000_0000_0000_0001),
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        event_type: EventType::known("email.clicked"),
        subject: Subject::read("Ann@x.example"),
        time: Millis(1_778_210_055_000),
        received_at: Millis(1_778_210_056_500),
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string(data.to_owned()).unwrap().into(),
    }
}

const CLICK: &str = r#"{"url":"https://example.com/x","tries":3,"big":92356927693813856123,"total":9.90,
    "items":[1,2,3],"correlation":{"crm_deal_id":"9007199254740993","crm_contact_id":9007199254740993}}"#;

fn compile(text: &str, purpose: Purpose) -> Program {
    Program::compile(text, purpose).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

fn check_condition(text: &str, expected: bool) {
    assert_eq!(compile(text, Purpose::Condition).condition(&event(CLICK)), Ok(expected), "{text}");
}

fn check_bodies(text: &str, expected: &[Value]) {
    let bodies = compile(text, Purpose::Map).bodies(&event(CLICK)).unwrap();
    let bodies: Vec<Value> = bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(bodies, expected, "{text}");
}

/// The error's place, and a part of what it says.
fn check_error(text: &str, purpose: Purpose, place: (usize, usize), expected: &str) {
    let errors = Program::compile(text, purpose).err().unwrap_or_else(|| panic!("{text} must not compile"));
    let error = &errors[0];
    assert_eq!((error.line, error.column), place, "{text}: {errors:#?}");
    assert!(error.text.contains(expected), "{text}: {errors:#?}");
}

fn request(body: &str, content_type: &str) -> RawRequest {
    RawRequest {
        method: "POST".to_owned(),
        url: "https://hub.example/in/shop?shop=a%20b".to_owned(),
        path: "/in/shop".to_owned(),
        query: "shop=a%20b".to_owned(),
        headers: vec![
            ("content-type".to_owned(), content_type.into()),
            ("x-topic".to_owned(), b"orders/create".to_vec()),
            ("x-many".to_owned(), b"1".to_vec()),
            ("x-many".to_owned(), b"2".to_vec()),
        ],
        body: body.to_owned().into(),
        received_at: Millis(0),
    }
}

fn check_parse(text: &str, body: &str, content_type: &str, expected: Value) {
    let events = compile(text, Purpose::Parse).parse(&request(body, content_type)).unwrap();
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(json!(events), expected, "{text}");
}

#[test]
fn conditions_decide() {
    check_condition("exists(.data.url)", true);
    check_condition("exists(.data.none)", false);
    check_condition(r#".type == "email.clicked" && .source == "/mailtarget""#, true);
    check_condition(r#"starts_with(string!(.data.url), "https://example.com/")"#, true);
    check_condition("tries, err = to_int(.data.tries)\nerr == null && tries > 2", true);
    check_condition(r#"contains(downcase(string!(.subject)), "@x.example")"#, true);
    check_condition(".data.big == \"92356927693813856123\"", true);
    check_condition("if .data.tries == 3 { return true }\nfalse", true);
    check_condition("# only one line\n\n.data.tries == 3 # and a note", true);
}

#[test]
fn a_condition_is_a_boolean() {
    check_error("\"yes\"", Purpose::Condition, (1, 1), "true or false");
    check_error("  ", Purpose::Condition, (1, 1), "empty");
    let reason = compile(".data.url", Purpose::Condition).condition(&event(CLICK)).unwrap_err();
    assert_eq!(reason.code, "condition_failed");
    assert!(reason.text.contains("a string"), "{reason}");
}

#[test]
fn a_parse_program_can_make_an_event() {
    for text in ["5", "\"text\"", "[1, \"a\"]", "to_string(.body) ?? \"\"", ".body == 5"] {
        check_error(text, Purpose::Parse, (1, 1), "no event");
    }
    for text in ["{}", "{ \"typ\": .body.type }", "[{ \"id\": 5 }]", "{ \"type\": 5 }"] {
        check_error(text, Purpose::Parse, (1, 1), "no `type`");
    }
    let assigned = "event = {}\nfor_each(array!(.body)) -> |_i, item| { event.type = item }\nevent";
    let maybe = "if .body.x == 1 { { \"type\": \"a.b\" } } else { null }";
    for text in [
        "null",
        "[]",
        ".body",
        "{ \"type\": .body.type }",
        "if .body.a == 1 { return .body }\n5",
        maybe,
        assigned,
    ] {
        compile(text, Purpose::Parse);
    }
}

#[test]
fn maps_give_bodies() {
    let map = "
{
  \"person\": .subject,
  \"link\": .data.url,
  \"deal\": .data.correlation.crm_deal_id,
  \"at\": .time,
}
";
    check_bodies(
        map,
        &[json!({"person": "Ann@x.example", "link": "https://example.com/x", "deal": "9007199254740993",
                 "at": "2026-05-08T03:14:15Z"})],
    );
    check_bodies(".data.correlation.crm_contact_id", &[json!(9_007_199_254_740_993_i64)]);
    check_bodies("[.data.big, .data.total]", &[json!("92356927693813856123"), json!("9.90")]);
    check_bodies(
        "map_values(array!(.data.items)) -> |v| { { \"n\": v } }",
        &[json!({"n":1}), json!({"n":2}), json!({"n":3})],
    );
    check_bodies(".seen = true\n.seen", &[json!(true)]);
    for nothing in ["null", "[]", "[null, { if .data.tries == 4 { 1 } }]", "if .type == \"other\" { {} }"] {
        check_bodies(nothing, &[]);
    }
}

#[test]
fn results_are_bounded() {
    let event = event(CLICK);
    let many = compile("range!(0, 101)", Purpose::Map).bodies(&event).unwrap_err();
    assert!(many.text.contains("101 results"), "{many}");
    let doubled = format!("x = \"0123456789abcdef\"\n{}x", "x = x + x\n".repeat(17));
    let large = compile(&doubled, Purpose::Map).bodies(&event).unwrap_err();
    assert!(large.text.contains("bytes"), "{large}");
    let long = "n = 0\nfor_each(range!(0, 99999)) -> |_i, _v| { for_each(range!(0, 99999)) -> |_i, _v| { n = n + 1 } }\nn";
    let long = compile(long, Purpose::Map).bodies(&event).unwrap_err();
    assert!(long.text.contains("steps"), "{long}");
}

#[test]
fn errors_of_a_run_name_their_place() {
    for (program, place, expected) in [
        ("{\n  \"a\": string!(.data.tries) }", "2:8", "expected string"),
        ("x = 1\nif .data.tries == 3 { abort \"no order\" }\nx", "2:23", "aborted: no order"),
        ("assert!(.data.tries == 4)", "1:1", "assertion"),
    ] {
        let reason = compile(program, Purpose::Map).bodies(&event(CLICK)).unwrap_err();
        assert_eq!(reason.code, "map_failed");
        assert!(reason.text.starts_with(&format!("{place}: ")) && reason.text.contains(expected), "{reason}");
    }
}

#[test]
fn errors_of_the_compiler_name_place_and_mend() {
    check_error("{\n  \"link\": .data.url +,\n}", Purpose::Map, (2, 22), "syntax error");
    check_error("\"é\"; x = upcase(.subject)", Purpose::Map, (1, 10), "upcase!(.subject)");
    check_error("x = to_int(.data.tries)\nx", Purpose::Map, (1, 5), "fallible");
    check_error("nothing(1)", Purpose::Map, (1, 1), "undefined function");
    check_error("\n\n  unknown_name", Purpose::Map, (3, 3), "undefined variable");
    check_error(&"[".repeat(100), Purpose::Map, (1, 65), "deeper than 64");
    check_error("a = 1\n.a[99999] = a", Purpose::Map, (2, 4), "an index is at most 10000");
}

/// Each error that is met often says what to write, on a line of its own.
#[test]
fn errors_of_the_compiler_say_what_to_write() {
    let check = |text: &str, expected: &str| {
        let errors =
            Program::compile(text, Purpose::Map).err().unwrap_or_else(|| panic!("{text} must not compile"));
        let helps: Vec<&str> = errors.iter().flat_map(|error| error.text.lines().skip(1)).collect();
        assert!(helps.iter().any(|help| help.contains(expected)), "{text}: {errors:#?}");
    };
    check(".data.n > 3", "(to_int(.data.n) ?? 0) > 3");
    check("string(.a)", "string!(.data.a)");
    check("x = to_int(.data.n)\nx", "x, err = to_int(.data.n)");
    check("upcase(.subject)", "string!(.data.a)");
    check("upcase(string(.subject))", "string!(.data.a)");
    check("x, err = 1\nx", "leave out");
    check("if .data.n { 1 }", "exists(");
    check("url", "`.data.x`");
}

/// The example of `docs/MAPS.md`.
#[test]
fn many_events_are_made_with_map_values() {
    let text = "
map_values(array!(.body.events)) -> |item| {
  event = null
  if item.kind != \"ping\" {
    event = { \"type\": \"app.\" + string!(item.kind), \"subject\": item.user, \"data\": item }
  }
  event
}
";
    let body = json!({ "events": [{ "kind": "a", "user": "u1" }, { "kind": "ping" }, { "kind": "b" }] });
    let request = mailspan_core::RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: String::new(),
        query: String::new(),
        headers: Vec::new(),
        body: body.to_string().into(),
        received_at: mailspan_core::Millis(0),
    };
    let made = compile(text, Purpose::Parse).parse(&request).unwrap();
    let made: Vec<serde_json::Value> = made.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let kinds: Vec<Option<&str>> = made.iter().map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, [Some("app.a"), Some("app.b")]);
}

#[test]
fn nothing_outside_the_input_can_be_reached() {
    for call in [
        "dns_lookup!(\"localhost\")",
        "reverse_dns!(\"127.0.0.1\")",
        "http_request!(\"http://127.0.0.1\")",
        "get_env_var!(\"HOME\")",
        "get_hostname!()",
        "now()",
        "uuid_v4()",
        "random_int!(0, 1)",
        "set!(., [\"a\"], 1)",
    ] {
        check_error(call, Purpose::Map, (1, 1), "not available here");
    }
    check_error("get_secret!(\"x\")", Purpose::Map, (1, 1), "undefined function");
}

#[test]
fn operations_are_checked() {
    let run = |text: &str| compile(text, Purpose::Map).operations(&event(CLICK));
    let given = run(r#"[
        { "op": "log_activity", "title": "Clicked", "body": string!(.data.url), "record": .data.correlation.crm_contact_id },
        { "op": "set_fields", "fields": { "plan": "pro", "seats": 12, "share": 0.25 } },
        { "op": "set_consent", "consent": "opt_out", "at": .time, "reason": "asked" },
        { if .data.tries == 4 { { "op": "erase_contact" } } },
    ]"#)
    .unwrap();
    let at = Millis(1_778_210_055_000);
    let fields = Fields::from([
        ("plan".to_owned(), json!("pro")),
        ("seats".to_owned(), json!(12)),
        ("share".to_owned(), json!(0.25)),
    ]);
    let expected = [
        Operation::LogActivity {
            title: "Clicked".to_owned(),
            body: "https://example.com/x".to_owned(),
            at,
            record: Some("9007199254740993".to_owned()),
            deal: None,
        },
        Operation::SetFields { fields, record: None },
        Operation::SetConsent { consent: Consent::OptOut, at, reason: Some("asked".to_owned()) },
    ];
    assert_eq!(given, expected);
    assert_eq!(run(r#"{ "op": "erase_contact" }"#).unwrap(), [Operation::EraseContact]);
    for (text, expected) in [
        (
            r#"[{ "op": "erase_contact" }, { "op": "log_activity", "title": "t" }]"#,
            "operation 2 of 2 (log_activity): missing field `body`",
        ),
        (r#"{ "op": "set_consent", "consent": "maybe" }"#, "unknown variant `maybe`"),
        (r#"{ "op": "set_consent", "consent": "opt_in", "at": "soon" }"#, "RFC 3339"),
        (r#"{ "op": "set_fields", "field": {} }"#, "`field`"),
        (r#"{ "op": "send", "content_type": "", "body": "" }"#, "kind http"),
        (r#"{ "title": "t" }"#, "operation 1 of 1 (no `op`)"),
        ("1", "an object with `op`"),
    ] {
        let reason = run(text).unwrap_err();
        assert!(reason.text.contains(expected), "{text}: {reason}");
    }
}

#[test]
fn parse_programs_make_events() {
    check_parse(
        "
{
  \"type\": \"order.created\",
  \"id\": to_string!(.body.id),
  \"subject\": downcase(string!(.body.email)),
  \"data\": { \"total\": .body.total_price, \"currency\": .body.currency },
}
",
        r#"{"id": 820982911946154508, "email": "ANN@X.example", "total_price": "9.90", "currency": "EUR"}"#,
        "application/json",
        json!([{"type": "order.created", "id": "820982911946154508", "subject": "ann@x.example",
                "data": {"total": "9.90", "currency": "EUR"}}]),
    );
    check_parse(
        r#"{ "type": "app.legacy", "subject": .body.user, "data": .body }"#,
        r#"{"user":"a@b.co","n":12345678901234567890}"#,
        "application/json",
        json!([{"type": "app.legacy", "subject": "a@b.co", "data": {"user": "a@b.co", "n": "12345678901234567890"}}]),
    );
    check_parse(
        r#"{ "type": "app.form", "subject": .body.user, "data": { "q": .query.shop, "t": .headers."x-topic", "m": .headers."x-many" } }"#,
        "user=a%40b.co&x=1",
        "application/x-www-form-urlencoded; charset=utf-8",
        json!([{"type": "app.form", "subject": "a@b.co", "data": {"q": "a b", "t": "orders/create", "m": "1, 2"}}]),
    );
    check_parse(
        r#"{ "type": "app.text", "data": { "text": .body } }"#,
        "hello",
        "text/plain",
        json!([{"type": "app.text", "data": {"text": "hello"}}]),
    );
    check_parse("array!(.body)", r#"[{"type":"a.b"}, 5]"#, "application/json", json!([{"type": "a.b"}, 5]));
    check_parse("null", "{}", "application/json", json!([]));
    let reason = compile(".body", Purpose::Parse).parse(&request("5", "application/json")).unwrap_err();
    assert_eq!(reason.code, "parse_failed");
}

#[test]
fn programs_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&compile("true", Purpose::Condition));
}

/// The deepest programs that the guard lets through, on the stack that a worker thread has.
#[test]
fn the_deepest_programs_fit_a_small_stack() {
    let deep = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let programs = [
        deep("[", ".a", "]", 60),
        deep("(", ".a", ")", 60),
        deep("{\"a\":", ".a", "}", 60),
        deep("{ x = ", "1", "}", 30),
        deep("to_string!(", ".a", ")", 8),
        deep("!", "true", "", 60),
        deep("x = ", "1", "", 60),
        deep("if true { ", "1", " }", 30),
        deep("map_values([1]) -> |v| { [", "v", "] }", 8),
        deep("(to_int(.a) ?? ", "to_int!(.b)", ")", 30),
        deep("((1 + 1 + 1 + 1) + ", "1", ")", 12),
        deep("1 + ", "1", "", 60),
        deep(".a == 1 || ", "true", "", 30),
        format!("if .a == 1 {{ 1 }}{}", " else if .a == 2 { 2 }".repeat(60)),
        format!(".a{} = 1\n.", ".a".repeat(60)),
        format!(".a{} = 1\n.", "[0]".repeat(40)),
        format!("x = \"a\"\n\"{}\"", "{{x}}-".repeat(30)),
        deep("{ if .a == 1 { x = [{\"a\": ", "1", "}] } }", 9),
        deep("{ .x = {\"a\": [.a == 1 || ", "true", "]} }", 9),
        ". = {\"a\": .}\n".repeat(16),
        "x = 1\n".to_owned() + &"x = [x, x]\n".repeat(8),
    ];
    let run = move || {
        for program in &programs {
            let result = Program::compile(program, Purpose::Map).map(|map| map.bodies(&event(CLICK)).is_ok());
            assert!(result.is_ok(), "{}: {result:?}", clip(program, 60));
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

/// Every example of the reference compiles, for what its section is about.
#[test]
fn the_examples_of_the_reference_compile() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/MAPS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut seen = 0;
    for section in text.split("\n## ") {
        let purpose = match section.split('\n').next().unwrap_or_default() {
            "Conditions" => Purpose::Condition,
            "Parse programs" => Purpose::Parse,
            _ => Purpose::Map,
        };
        let blocks = section.split("```coffee\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks {
            let each: Vec<&str> =
                if purpose == Purpose::Condition { block.lines().collect() } else { vec![block] };
            seen += each.len();
            for program in each {
                compile(program, purpose);
            }
        }
    }
    assert!(seen >= 10, "docs/MAPS.md has {seen} examples in ```coffee blocks");
}
