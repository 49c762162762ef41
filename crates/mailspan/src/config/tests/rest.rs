//! Variables, secrets, digests, the example, the schema and the reference.

use super::*;

#[test]
fn variables_stand_over_the_file() {
    let set = HashMap::from([
        ("MAILSPAN_SERVER_LISTEN", "0.0.0.0:9"),
        ("MAILSPAN_STORAGE_URL", "sqlite:/srv/x.db"),
    ]);
    let with = |name: &str| set.get(name).map(|text| (*text).to_owned()).or_else(|| env(name));
    let hub = parse_with(HUB, &with, false).unwrap();
    assert_eq!(hub.server.listen.to_string(), "0.0.0.0:9");
    assert!(hub.storage.is(&Storage::Sqlite { path: "/srv/x.db".into() }));
    let wrong =
        |name: &str| if name == "MAILSPAN_SERVER_LISTEN" { Some("here".to_owned()) } else { env(name) };
    let shown = parse_with(HUB, &wrong, false).err().unwrap().to_string();
    assert!(shown.starts_with("MAILSPAN_SERVER_LISTEN: `here` is no address"), "{shown}");
}

/// What a variable may say, by shape; a bad value is named with its variable.
#[test]
fn every_setting_outside_of_named_tables_has_a_variable() {
    let set = HashMap::from([
        ("MAILSPAN_SERVER_BODY_MAX", "1MiB"),
        ("MAILSPAN_SERVER_TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1"),
        ("MAILSPAN_EGRESS_ALLOW", "10.1.2.3:443"),
        ("MAILSPAN_LIMITS_INTAKE_QUEUE", "64"),
        ("MAILSPAN_RETENTION_EVENTS", "7d"),
    ]);
    let with = |name: &str| set.get(name).map(|text| (*text).to_owned());
    let hub = parse_with("[retention]\nevents = \"90d\"\nrequests = \"1d\"\n", &with, false).unwrap();
    assert_eq!((hub.server.body_bytes_max, hub.intake_queue), (1 << 20, 64));
    assert_eq!((hub.server.trusted_proxies.len(), hub.egress_allow.len()), (2, 1));
    assert_eq!(
        (hub.retention.events.to_string(), hub.retention.requests.to_string()),
        ("7d".into(), "1d".into())
    );

    let bad = |name: &'static str, text: &'static str, words: &str| {
        let with = |asked: &str| (asked == name).then(|| text.to_owned());
        let shown = parse_with("", &with, false).err().expect(name).to_string();
        assert!(shown.starts_with(&format!("{name}: ")) && shown.contains(words), "{shown}");
    };
    bad("MAILSPAN_SERVER_BODY_MAX", "big", "`big` is not a size");
    bad("MAILSPAN_LIMITS_INTAKE_QUEUE", "many", "a number from 1 to 2048");
    bad("MAILSPAN_LIMITS_INTAKE_QUEUE", "0", "out of range");
    bad("MAILSPAN_RETENTION_DEDUPE", "1s", "out of range");
    bad("MAILSPAN_EGRESS_ALLOW", "127.0.0.1:80,127.0.0.1", "port");
    bad("MAILSPAN_STORAGE_URL", "mysql://db", "`mysql:`");
}

#[test]
fn a_variable_that_sets_nothing_is_refused_with_the_nearest_name() {
    let with = |names: &[&str], text: &str| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        read("hub.toml", Path::new(""), text, &Options { env: &env, names: &names, dev: false })
    };
    let refused = |name: &str, help: &str| {
        let shown = with(&[name], "").err().expect(name).to_string();
        assert!(shown.starts_with(&format!("{name}: no setting")) && shown.contains(help), "{shown}");
    };
    refused("MAILSPAN_SERVER_LISTN", "did you mean `MAILSPAN_SERVER_LISTEN`?");
    refused("MAILSPAN_SEVER_PUBLIC_URL", "did you mean `MAILSPAN_SERVER_PUBLIC_URL`?");
    refused("MAILSPAN_RETENTION_EVENT", "did you mean `MAILSPAN_RETENTION_EVENTS`?");
    refused("MAILSPAN_LOG_FORMATS", "did you mean `MAILSPAN_LOG_FORMAT`?");
    refused("MAILSPAN_XYZZY", "docs/CONFIGURATION.md");
    let own = "[sources.x]\nkind = \"api\"\naccess = { kind = \"bearer\", token = { env = \"MAILSPAN_MY_TOKEN\" } }\n";
    let names = ["MAILSPAN_LOG", "MAILSPAN_CONFIG", "MAILSPAN_SIM_SEEDS", "MAILSPAN_STORAGE_URL", "PATH"];
    assert!(with(&names, "").is_ok());
    // A secret may be called as its user likes; here it only is not set.
    let shown = with(&["MAILSPAN_MY_TOKEN"], own).err().unwrap().to_string();
    assert!(!shown.contains("no setting has this variable"), "{shown}");
}

#[test]
fn an_empty_file_has_the_defaults() {
    let hub = good("");
    assert_eq!(hub.server.public_url, "http://127.0.0.1:8080");
    assert_eq!(hub.server.body_bytes_max, 5 << 20);
    assert!(hub.storage.is(&Storage::Sqlite { path: "/etc/mailspan/mailspan.db".into() }));
    assert_eq!(hub.retention.events.to_string(), "90d");
}

#[test]
fn secrets_in_clear_are_for_dev_only() {
    let text = base("secrets = [\"0123456789abcdef\"]", URL, TO);
    let hub = parse_with(&text, &env, true).unwrap();
    assert_eq!(hub.sources[0].secrets[0].secret.expose(), "0123456789abcdef");
    assert!(hub.warnings[0].contains("--dev"), "{:?}", hub.warnings);
}

#[test]
fn secrets_come_from_files_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shop.secret"), "0123456789abcdef \r\n").unwrap();
    fs::write(folder.path().join("hub.toml"), base("secrets = [{ file = \"shop.secret\" }]", URL, TO))
        .unwrap();
    let options = Options { env: &env, names: &[], dev: false };
    let hub = load(&folder.path().join("hub.toml"), &options).unwrap();
    assert_eq!(hub.sources[0].secrets[0].secret.expose(), "0123456789abcdef ");
    assert_eq!(hub.sources[0].secrets[0].name, "file shop.secret");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { env: &env, names: &[], dev: false };
    let shown = load(&folder.path().join("no.toml"), &options).err().unwrap().to_string();
    assert!(shown.contains("no.toml: cannot be read"), "{shown}");
    fs::write(folder.path().join("latin.toml"), b"[server]\n# caf\xe9\n").unwrap();
    let shown = load(&folder.path().join("latin.toml"), &options).err().unwrap().to_string();
    assert!(shown.contains("latin.toml:2:6: not UTF-8"), "{shown}");
}

#[test]
fn notify_makes_a_destination() {
    let hub = good(&base(SECRETS, URL, &format!("{TO}\nnotify = \"https://chat.example.com/hook\"")));
    let route = hub.route("all").unwrap();
    assert_eq!(route.notify.as_ref().unwrap().as_str(), "all.notify");
    let made = hub.destination("all.notify").unwrap();
    assert_eq!((made.kind.name, made.target.base_url.as_str()), ("http", "https://chat.example.com/hook"));
}

#[test]
fn a_change_is_seen_by_its_digest_and_a_new_client_by_its_key() {
    let lines = format!("{URL}\nheaders = {{ \"X-Api-Key\" = {{ env = \"LONG\" }} }}");
    let text = base(SECRETS, &lines, TO);
    let of = |text: &str, env: &dyn Fn(&str) -> Option<String>| {
        let hub = parse_with(text, env, false).unwrap();
        (hub.destinations[0].digest, hub.destinations[0].target.key.clone())
    };
    let first = of(&text, &env);
    assert_eq!(of(&format!("# a comment\n{text}"), &env), first);
    let turned =
        of(&text, &|name| env(name).map(|text| if name == "LONG" { text.replace('0', "1") } else { text }));
    assert!(turned.0 != first.0 && turned.1 == first.1, "a turned key is a change, but no new client");
    let moved = of(&text.replace("/hook", "/moved"), &env);
    assert!(moved.0 != first.0 && moved.1 != first.1, "another URL is a change and a new client");
}

#[test]
fn retry_has_two_forms() {
    let hub = good(&base(
        SECRETS,
        &format!("{URL}\nretry = {{ calendar = [\"1s\", \"1m\"], for = {{ activity = \"1h\" }} }}"),
        TO,
    ));
    let calendar = &hub.destinations[0].limits.calendar;
    assert_eq!(calendar.waits_ms, [1_000, 60_000]);
    assert_eq!(calendar.horizon_ms.unwrap().map(|ms| ms / 3_600_000), [168, 72, 1]);
    let hub = good(&base(SECRETS, &format!("{URL}\nretry = {{ for = \"2h\" }}"), TO));
    assert_eq!(hub.destinations[0].limits.calendar.horizon_ms, Some([7_200_000; 3]));
}

#[test]
fn what_works_but_should_be_seen_is_a_warning() {
    let text = base(
        "secrets = [{ env = \"SHORT\" }]",
        "url = \"http://10.1.2.3/\"",
        "from = [\"shop\"]\nto = [\"crm\"]\nevents = [\"email.clickd\"]",
    ) + "[sources.app]\nkind = \"api\"\n[destinations.idle]\nkind = \"hubspot\"\n";
    let warnings = good(&text).warnings;
    let expected = [
        "SHORT) is shorter than 16",
        "egress",
        "email.clicked",
        "sources.app",
        "destinations.idle` has no `auth`",
        "leads to `destinations.idle",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, word) in warnings.iter().zip(expected) {
        assert!(warning.contains(word), "`{word}` is missing in {warning}");
        assert!(!warning.contains("hunter2"), "the secret is shown: {warning}");
    }
}

/// An application calls its events as it likes.
#[test]
fn a_type_without_a_family_can_be_routed() {
    let hub = good(&base(SECRETS, URL, &format!("{TO}\nevents = [\"signup\", \"clicked\", \"app/x:1\"]")));
    assert_eq!(hub.routes[0].events, ["signup", "clicked", "app/x:1"]);
    assert_eq!(hub.warnings.len(), 1, "{:?}", hub.warnings);
    assert!(hub.warnings[0].starts_with("bad.toml:10:21: `clicked`"), "{:?}", hub.warnings);
    assert!(hub.warnings[0].contains("`email.clicked`"), "{:?}", hub.warnings);
}

#[test]
fn places_inside_strings_are_found() {
    let check = |raw: &str, line: usize, column: usize, expected: &str| {
        let at = tree::inside(raw, 0, line, column);
        assert_eq!(&raw[at], expected, "{raw} {line}:{column}");
    };
    check("'abc'", 1, 2, "b");
    check("'abc'", 1, 4, "'");
    check("'abc'", 9, 9, "'");
    check("'''\nab\ncd'''", 2, 2, "d");
    check("'''\r\nab\r\ncd'''", 2, 1, "c");
    check("'''ab\ncd'''", 1, 2, "b");
    check("\"a\\\"b\"", 1, 3, "b");
    check("\"a\\nb\"", 2, 1, "b");
    check("\"\\u00e9x\"", 1, 1, "\\u00e9");
    check("\"\\U0001F600x\"", 1, 2, "x");
    check("\"éx\"", 1, 2, "x");
    check("\"\"\"\na \\\n   b\"\"\"", 1, 3, "b");
    check("'a\tb'", 1, 3, "b");
}

#[test]
fn the_schema_for_editors_knows_every_setting() {
    let schema = json_schema();
    assert_eq!(schema["properties"]["server"]["properties"]["listen"]["type"], "string");
    for side in ["sources", "destinations"] {
        let branches = schema["properties"][side]["additionalProperties"]["allOf"].as_array().unwrap();
        assert!(!branches.is_empty(), "{side}");
    }
    let text = schema.to_string();
    for (at, _) in text.match_indices("\"#/$defs/") {
        let name = text[at + 9..].split('"').next().unwrap();
        assert!(schema["$defs"].get(name).is_some(), "the schema refers to `{name}`, which is not there");
    }
}

#[test]
fn the_reference_names_every_setting() {
    use super::settings::*;
    let reference = include_str!("../../../../../docs/CONFIGURATION.md");
    let tables = [
        SERVER,
        STORAGE,
        EGRESS,
        LIMITS,
        RETENTION,
        SOURCE,
        ACCESS,
        DESTINATION,
        RESYNC,
        AUTH,
        SIGN,
        BATCH,
        RETRY,
        HORIZON,
        CLIENT_CERTIFICATE,
        ROUTE,
    ];
    for setting in tables.into_iter().flatten() {
        let named = [format!("`{}`", setting.name), format!("{} = ", setting.name)];
        assert!(
            named.iter().any(|word| reference.contains(word)),
            "docs/CONFIGURATION.md does not name `{}`",
            setting.name
        );
    }
    for set in env::overrides() {
        assert!(reference.contains(&set.variable), "docs/CONFIGURATION.md does not name {}", set.variable);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Cuts and garbage give a hub or problems with places, never a panic, and never a secret.
    #[test]
    fn a_mutilated_file_is_refused_or_read(from in 0..HUB.len(), length in 0..60usize, with in "[\\PC\"'=\\[\\]{}\n]{0,6}") {
        if let (Some(before), Some(after)) = (HUB.get(..from), HUB.get((from + length).min(HUB.len())..)) {
            let text = format!("{before}{with}{after}");
            match parse_with(&text, &env, false) {
                Ok(_) => {}
                Err(problems) => {
                    proptest::prop_assert!(!problems.0.is_empty());
                    proptest::prop_assert!(!problems.to_string().contains("mt-secret-one"));
                }
            }
        }
    }
}
