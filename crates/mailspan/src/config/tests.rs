use std::collections::HashMap;
use std::path::Path;

use mailspan_core::Millis;

use super::*;
use crate::hub::{Auth, Map, Sign, Storage};

const HUB: &str = include_str!("../../tests/fixtures/hub.toml");

fn env(name: &str) -> Option<String> {
    let text = match name {
        "MAILTARGET_SECRET" => "mt-secret-one",
        "MAILTARGET_SECRET_OLD" => "mt-secret-two",
        "PARTNER_SECRET" => "whsec_cGFydG5lci1zZWNyZXQtMDEyMzQ1Njc4OWFiY2RlZg==",
        "SHOP_SECRET" => "shop-secret",
        "LEGACY_SECRET" => "legacy-secret",
        "CRM_KEY" => "crm-key",
        "LEDGER_SECRET" => "whsec_bGVkZ2VyLXNlY3JldC0wMTIzNDU2Nzg5YWJjZGVmZw==",
        "HUBSPOT_TOKEN" => "hubspot-token",
        "LONG" => "0123456789abcdef0123456789abcdef",
        "SHORT" => "hunter2",
        "EMPTY" => "",
        "NOTHING" => "whsec_",
        "NOT_BASE64" => "whsec_!!!!!!!!!!!!!!!!",
        "TWO_LINES" => "0123456789abcdef\n0123456789abcdef",
        "SLASHED" => "0123456789abcdef/0123456789",
        _ => return None,
    };
    Some(text.to_owned())
}

fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>, dev: bool) -> Result<Hub, Problems> {
    read("bad.toml", Path::new("/etc/mailspan"), text, &Options { env, now: Millis(0), dev })
}

fn good(text: &str) -> Hub {
    match parse_with(text, &env, false) {
        Ok(hub) => hub,
        Err(problems) => panic!("this configuration should be accepted:\n{problems}\n---\n{text}"),
    }
}

fn bad(text: &str) -> Problems {
    match parse_with(text, &env, false) {
        Ok(_) => panic!("this configuration should be refused:\n{text}"),
        Err(problems) => problems,
    }
}

/// Problems by `LINE:COLUMN word word …`: exactly these, in this order, each with its words.
fn check(text: &str, expected: &[&str]) {
    let problems = bad(text);
    let shown = format!("{problems}\n---\n{}", if text.len() < 1_000 { text } else { "" });
    assert_eq!(problems.0.len(), expected.len(), "another number of problems than expected:\n{shown}");
    for (problem, expected) in problems.0.iter().zip(expected) {
        let (place, words) = expected.split_once(' ').unwrap_or((expected, ""));
        assert_eq!(
            format!("{}:{}", problem.line, problem.column),
            place,
            "expected `{expected}` in:\n{shown}"
        );
        let said = format!("{} {}", problem.message, problem.help.as_deref().unwrap_or_default());
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            assert!(said.contains(word), "`{word}` is missing in `{said}`\n{shown}");
        }
    }
}

/// `hub.toml` with one text replaced; the expected line is the first that differs.
fn check_hub(from: &str, to: &str, column: usize, words: &str) {
    assert!(HUB.contains(from), "the fixture has no `{from}`");
    let text = HUB.replacen(from, to, 1);
    let line = HUB.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap() + 1;
    check(&text, &[&format!("{line}:{column} {words}")]);
}

#[test]
fn the_acceptance_configuration_works_as_it_stands() {
    let hub = good(HUB);
    assert_eq!(hub.storage, Storage::Sqlite { path: "/etc/mailspan/hub.db".into() });
    assert_eq!(hub.server.listen.to_string(), "127.0.0.1:18080");
    let names: Vec<&str> = hub.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["mailtarget", "partner", "shop", "legacy", "app"]);
    let paths: Vec<&str> = hub.sources.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(paths, ["/in/mailtarget", "/in/partner", "/in/shop", "/old/hook", "/v1/events"]);
    assert_eq!(hub.source("mailtarget").unwrap().secrets[1].name, "env MAILTARGET_SECRET_OLD");

    let crm = hub.destination("crm").unwrap();
    assert_eq!(crm.target.base_url, "http://127.0.0.1:19101/activities");
    assert_eq!(crm.headers[0].0, "x-api-key");
    assert_eq!(crm.headers[0].1.expose(), "crm-key");
    assert_eq!((crm.limits.rate.count, crm.limits.concurrency, crm.target.timeout_ms), (500, 8, 2_000));
    assert_eq!(crm.limits.calendar.waits_ms, [200, 400, 800]);
    assert_eq!(crm.limits.calendar.horizon_ms, None);
    assert!(
        matches!(&hub.destination("ledger").unwrap().sign, Some(Sign::StandardWebhooks { secrets }) if secrets.len() == 1)
    );
    let hubspot = hub.destination("hubspot").unwrap();
    assert!(
        matches!(&hubspot.auth, Some(Auth::Bearer { token }) if token.secret.expose() == "hubspot-token")
    );
    assert_eq!((hubspot.limits.batch_max, hubspot.limits.batch_wait_ms), (100, 200));

    assert!(matches!(hub.route("engagement").unwrap().map, Map::Default));
    let clicks = hub.route("clicks").unwrap();
    assert!(matches!(clicks.map, Map::Program(_)) && clicks.when.is_some());
    // The short secrets of the acceptance run are worth a word, no more.
    assert!(hub.warnings.iter().all(|warning| warning.contains("has only")), "{:?}", hub.warnings);
    assert!(hub.warnings[0].starts_with("bad.toml:18:12: "), "{:?}", hub.warnings);
}

/// Every variable set, each to another key that all schemes take.
fn any(name: &str) -> Option<String> {
    use base64::Engine;
    let key = base64::engine::general_purpose::STANDARD.encode(format!("{name:-<32}"));
    (!name.starts_with("MAILSPAN_")).then(|| format!("whsec_{key}"))
}

#[test]
fn the_example_is_a_valid_configuration() {
    match parse_with(example(), &any, false) {
        Ok(hub) => assert_eq!(hub.warnings, Vec::<String>::new(), "the example should give no warning"),
        Err(problems) => panic!("mend mailspan.toml:\n{problems}"),
    }
}

/// A line `# key = value` is a setting that is switched off; without its comment sign it must hold.
#[test]
fn every_commented_setting_of_the_example_is_known() {
    let key = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let on: Vec<&str> = example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| key(name)) => rest,
            _ => line,
        })
        .collect();
    if let Err(problems) = parse_with(&on.join("\n"), &any, false) {
        panic!("mend a commented setting of mailspan.toml:\n{problems}");
    }
}

#[test]
fn the_acceptance_breaks_are_found_where_they_are() {
    check_hub("concurrency = 8", "concurency = 8", 1, "unknown `concurency` destinations.crm `concurrency`?");
    check_hub(r#"to = ["ledger"]"#, r#"to = ["legder"]"#, 7, "destination `legder` `ledger`?");
    check_hub(
        r#"token = { env = "HUBSPOT_TOKEN" }"#,
        r#"token = "token-in-clear""#,
        35,
        "`token` clear { env file HUBSPOT_TOKEN --dev",
    );
    let text = HUB.replace(r#"{ env = "CRM_KEY" }"#, r#"{ env = "CRM_KEYS" }"#);
    check(&text, &["60:35 environment variable `CRM_KEYS` set"]);
}

#[test]
fn a_secret_in_clear_is_never_shown() {
    for text in [
        r#"token = "token-in-clear""#,
        r#"tokn = "token-in-clear""#,
        r#"token = ["token-in-clear"]"#,
        r#"token = { env = "token-in-clear" }"#,
        r#"token = { en = "token-in-clear" }"#,
        r#"token = "token-in-clear"#,
        r#"token = 'token-in-clear', nonsense"#,
        r#"token = { env = "HUBSPOT_TOKEN" } }, password = "token-in-clear""#,
    ] {
        let shown = bad(&HUB.replace(r#"token = { env = "HUBSPOT_TOKEN" }"#, text)).to_string();
        assert!(!shown.contains("token-in-clear"), "the secret is shown:\n{shown}");
    }
    for auth in [r#""token-in-clear""#, r#"["token-in-clear"]"#] {
        let shown =
            bad(&HUB.replace(r#"{ kind = "bearer", token = { env = "HUBSPOT_TOKEN" } }"#, auth)).to_string();
        assert!(!shown.contains("token-in-clear"), "the secret is shown:\n{shown}");
    }
    for url in ["http://user:token-in-clear@127.0.0.1:1/x", "http//user:token-in-clear@crm.example.com"] {
        let shown = bad(&HUB.replace("http://127.0.0.1:19101/activities", url)).to_string();
        assert!(!shown.contains("token-in-clear"), "the secret is shown:\n{shown}");
    }
    let shown = bad(&HUB.replace("sqlite:hub.db", "postgres://hub:token-in-clear@db/hub")).to_string();
    assert!(shown.contains("later version") && !shown.contains("token-in-clear"), "{shown}");
}

#[test]
fn a_problem_is_drawn_with_its_line_and_carets() {
    let shown = bad("[server]\nlissten = \"127.0.0.1:80\"\n").to_string();
    let expected = "bad.toml:2:1: unknown key `lissten` in `server`\n  |\n2 | lissten = \"127.0.0.1:80\"\n  | ^^^^^^^\nhelp: did you mean `listen`?\n";
    assert_eq!(shown, expected);
    let shown =
        bad(&HUB.replace(r#"token = { env = "HUBSPOT_TOKEN" }"#, r#"token = "token-in-clear""#)).to_string();
    assert!(
        shown.contains(
            "\n77 | auth = { kind = \"bearer\", token = *** }\n   |                                   ^^^\n"
        ),
        "{shown}"
    );
}

/// One source and one destination that hold, for cases that break one line.
fn base(source: &str, destination: &str, route: &str) -> String {
    format!(
        "[sources.shop]\nkind = \"mailtarget\"\n{source}\n[destinations.crm]\nkind = \"http\"\n{destination}\n[[routes]]\nname = \"all\"\n{route}\n"
    )
}

const SECRETS: &str = "secrets = [{ env = \"LONG\" }]";
const URL: &str = "url = \"https://crm.example.com/hook\"";
const TO: &str = "to = [\"crm\"]";

fn check_source(lines: &str, expected: &[&str]) {
    check(&base(lines, URL, TO), expected);
}

fn check_destination(lines: &str, expected: &[&str]) {
    check(&base(SECRETS, lines, TO), expected);
}

fn check_route(lines: &str, expected: &[&str]) {
    check(&base(SECRETS, URL, lines), expected);
}

#[test]
fn the_base_of_the_cases_holds() {
    assert_eq!(good(&base(SECRETS, URL, TO)).warnings, Vec::<String>::new());
}

#[test]
fn files_that_are_no_configuration() {
    check("[server\nlisten = 1\n", &["1:8 TOML"]);
    check("[server]\nlisten = \"127.0.0.1:80\"\nlisten = \"127.0.0.1:81\"\n", &["3:1 TOML duplicate"]);
    check("[sorces.a]\nkind = \"api\"\n", &["1:2 section `sorces` `sources`?"]);
    check("server = 1\n", &["1:10 table [server]"]);
    check("[[sources]]\nkind = \"api\"\n", &["1:1 table [sources.NAME]"]);
    check("[routes]\nname = \"x\"\n", &["1:1 [[routes]]"]);
}

#[test]
fn server_storage_egress_and_retention() {
    check("[server]\nlisten = \"example.com\"\n", &["2:10 `example.com` 127.0.0.1:8080"]);
    check("[server]\nlisten = 8080\n", &["2:10 text number"]);
    check("[server]\nlisten = \"127.0.0.1:1\"\noperator_listen = \"127.0.0.1:1\"\n", &["3:19 same listen"]);
    check("[server]\npublic_url = \"hub.example.com\"\n", &["2:14 http https://hub.example.com"]);
    check("[server]\npublic_url = \"https://hub.example.com/?a=b\"\n", &["2:14 public_url path"]);
    check("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]\n", &["2:34 `proxy` CIDR"]);
    check("[server]\nbody_max = \"5 apples\"\n", &["2:12 size 5MiB"]);
    check("[server]\nbody_max = \"5000MiB\"\n", &["2:12 range 64MiB"]);
    check("[storage]\nurl = \"postgres://db/hub\"\n", &["2:7 PostgreSQL later sqlite:"]);
    check("[storage]\nurl = \"mysql://db\"\n", &["2:7 `mysql:` sqlite:"]);
    check("[storage]\nurl = \"sqlite::memory:\"\n", &["2:7 memory forgets"]);
    check("[egress]\nallow = [\"127.0.0.1:80\", \"127.0.0.1\"]\n", &["2:26 port"]);
    check("[retention]\nevents = \"3 months\"\ndedupe = \"1s\"\n", &["2:10 length time", "3:10 range 1h"]);
    check("[retention]\nevent = \"90d\"\n", &["2:1 `event` `events`?"]);
}

#[test]
fn sources() {
    check("[sources.x]\npath = \"/x\"\n", &["1:10 `sources.x` `kind`"]);
    check("[sources.x]\nkind = \"mailtaget\"\n", &["2:8 kind `mailtaget` `mailtarget`?"]);
    check("[sources.x]\nkind = \"hubspot\"\n", &["2:8 `hubspot` destination"]);
    check("[sources.X]\nkind = \"api\"\n", &["1:10 `X` a-z"]);
    check_source("", &["1:10 no `secrets` anyone SHOP_SECRET"]);
    check_source("secrets = []", &["3:11 empty anyone"]);
    check_source("secret = { env = \"LONG\" }", &["1:10 no `secrets`", "3:1 `secret` `secrets`?"]);
    check_source("secrets = [{ env = \"EMPTY\" }]", &["3:20 EMPTY empty"]);
    check_source("secrets = [{ env = \"NOTHING\" }]", &["3:20 NOTHING whsec_ nothing"]);
    check_source("secrets = [{ env = \"UNSET\" }, { env = \"LONG\" }]", &["3:20 UNSET set"]);
    check_source("secrets = [{ file = \"no.such.file\" }]", &["3:21 /etc/mailspan/no.such.file read"]);
    check_source("secrets = [{ env = \"LONG\", file = \"x\" }]", &["3:12 one of `env` `file`"]);
    check_source("secrets = [\"abc\"]", &["3:12 clear"]);
    check_source("secrets = \"abc\"", &["3:11 clear"]);
    check_source(&format!("{SECRETS}\npath = \"hook\""), &["4:8 `hook` absolute"]);
    check_source(&format!("{SECRETS}\npath = \"/v1/hook\""), &["4:8 `/v1` hub"]);
    check_source(&format!("{SECRETS}\npath = \"/a//b\""), &["4:8 `/a//b`"]);
    check_source(&format!("{SECRETS}\ntenant = \"A B\""), &["4:10 `A"]);
    check_source("access = { kind = \"digest\" }", &["3:19 kind `digest` access"]);
    check_source(
        "access = { kind = \"basic\", user = \"a:b\", password = { env = \"LONG\" } }",
        &["3:35 colon"],
    );
    check_source("access = { kind = \"path\", secret = { env = \"SLASHED\" } }", &["3:36 path"]);
    check_source("access = { kind = \"bearer\" }", &["3:10 `token`"]);
    let two = "[sources.a]\nkind = \"mailtarget\"\npath = \"/x\"\nsecrets = [{ env = \"LONG\" }]\n[sources.b]\nkind = \"mailtarget\"\npath = \"/x\"\nsecrets = [{ env = \"LONG\" }]\n";
    check(two, &["7:8 sources.a sources.b `/x`"]);
    check("[sources.a]\nkind = \"api\"\n[sources.b]\nkind = \"api\"\n", &["3:10 second api sources.a"]);
    check("[sources.a]\nkind = \"api\"\nsecrets = [{ env = \"LONG\" }]\n", &["3:1 `secrets` nothing keys"]);
}

#[test]
fn settings_that_a_kind_adds() {
    check_hub("preset = \"shopify\"", "preset = \"shopfy\"", 10, "preset shopify");
    check_hub("tolerance = \"5m\"", "tolerance = \"5 minutes\"", 13, "length time");
    check_hub("tolerance = \"5m\"", "tolerence = \"5m\"", 1, "`tolerence` `tolerance`?");
    check_hub("unit = \"s\"", "unti = \"s\"", 46, "`unti` `unit`?");
    check_destination(
        &format!("{URL}\nmethod = \"GETT\"\nbatch_format = 3\nretries = 3"),
        &["7:10 method", "8:16 batch_format", "9:1 `retries` `retry`?"],
    );
}

#[test]
fn destinations() {
    check("[destinations.x]\nkind = \"htp\"\n", &["2:8 `htp` `http`?"]);
    check("[destinations.x]\nkind = \"mailtarget\"\n", &["2:8 `mailtarget` source"]);
    check_destination("", &["4:15 `url`"]);
    check_destination("base_url = \"https://crm.example.com\"", &["6:1 base_url `url`"]);
    check_destination("url = \"crm.example.com\"", &["6:7 http https URL"]);
    check_destination("url = \"ftp://crm.example.com\"", &["6:7 http"]);
    check_destination("url = \"https://u:p@crm.example.com\"", &["6:7 password auth"]);
    check_destination("url = \"https://crm.example.com/#x\"", &["6:7 #"]);
    check_destination(&format!("{URL}\nrate = \"fast\""), &["7:8 rate 100/10s"]);
    check_destination(&format!("{URL}\nrate = \"0/1s\""), &["7:8 zero pause"]);
    check_destination(&format!("{URL}\nconcurrency = 0"), &["7:15 range 1"]);
    check_destination(&format!("{URL}\nconcurrency = \"8\""), &["7:15 number quotes"]);
    check_destination(&format!("{URL}\ntimeout = \"1h\""), &["7:11 range 5m"]);
    check_destination(&format!("{URL}\nretry = []"), &["7:9 0 waits"]);
    check_destination(&format!("{URL}\nretry = [\"5s\", \"soon\"]"), &["7:16 `soon`"]);
    check_destination(&format!("{URL}\nretry = 3"), &["7:9 list calendar"]);
    check_destination(
        &format!("{URL}\nretry = {{ calender = [\"5s\"], for = \"72h\" }}"),
        &["7:11 calender `calendar`?"],
    );
    check_destination(
        &format!("{URL}\nretry = {{ for = {{ consents = \"7d\" }} }}"),
        &["7:19 consents `consent`?"],
    );
    check_destination(&format!("{URL}\nbatch = {{ max = 0, wait = \"2h\" }}"), &["7:17 range", "7:27 range"]);
    check_destination(&format!("{URL}\nbatch = 100"), &["7:9 table max"]);
    check_destination(&format!("{URL}\norder = \"nine\""), &["7:9 `none`?"]);
    check_destination(&format!("{URL}\nheaders = {{ \"X Y\" = \"a\" }}"), &["7:13 header"]);
    check_destination(&format!("{URL}\nheaders = {{ \"X-Api-Key\" = \"abc\" }}"), &["7:27 clear"]);
    check_destination(&format!("{URL}\nheaders = {{ Host = \"a\" }}"), &["7:13 `host` itself"]);
    check_destination(&format!("{URL}\nheaders = {{ A = \"1\", a = \"2\" }}"), &["7:22 twice"]);
    check_destination(
        &format!(
            "{URL}\nheaders = {{ Authorization = {{ env = \"LONG\" }} }}\nauth = {{ kind = \"bearer\", token = {{ env = \"LONG\" }} }}"
        ),
        &["7:1 `authorization` both"],
    );
    check_destination(
        &format!("{URL}\nauth = {{ kind = \"bearer\", token = {{ env = \"TWO_LINES\" }} }}"),
        &["7:35 TWO_LINES line"],
    );
    check_destination(&format!("{URL}\nauth = {{ kind = \"oauth\" }}"), &["7:17 `oauth`"]);
    check_destination(&format!("{URL}\nauth = {{ token = {{ env = \"LONG\" }} }}"), &["7:8 `kind`"]);
    check_destination(
        &format!("{URL}\nsign = {{ kind = \"standard_webhooks\", secret = {{ env = \"NOT_BASE64\" }} }}"),
        &["7:47 NOT_BASE64 base64"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", signed = \"{{bdy}}\" }}"
        ),
        &["7:75 {bdy}"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", signed = \"{{timestamp}}.{{body}}\" }}"
        ),
        &["7:75 timestamp_header"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", encoding = \"hax\" }}"
        ),
        &["7:77 `hex`?"],
    );
    check_destination(&format!("{URL}\nca = \"ca.pem\""), &["7:6 file"]);
    check_destination(&format!("{URL}\nca = {{ env = \"LONG\" }}"), &["7:6 certificate PEM"]);
    check_destination(
        &format!("{URL}\nclient_certificate = {{ cert = {{ env = \"LONG\" }} }}"),
        &["7:22 `key`", "7:31 certificate"],
    );
    check_destination(&format!("{URL}\ntitle_case_headers = \"yes\""), &["7:22 true false"]);
    check(
        "[destinations.x]\nkind = \"hubspot\"\nsign = { kind = \"standard_webhooks\", secret = { env = \"LONG\" } }\nbase_url = \"https://x.example.com/?a\"\n",
        &["3:1 `sign`", "4:12 query"],
    );
}

#[test]
fn routes() {
    check("[[routes]]\nto = []\n", &["1:1 `name`", "2:6 destination"]);
    check_route("", &["7:1 `to` nowhere"]);
    check_route("to = \"crm\"", &["9:6 list"]);
    check_route("to = [\"crm\", \"crn\"]", &["9:14 `crn` `crm`?"]);
    check_route("to = [\"crm\", \"crm\"]", &["9:14 twice"]);
    check_route(&format!("{TO}\nfrom = [\"shop\", \"sohp\"]"), &["10:17 source `sohp` `shop`?"]);
    check_route(&format!("{TO}\nfrom = []"), &["10:8 leave from"]);
    check_route(&format!("{TO}\nform = [\"shop\"]"), &["10:1 `form` `from`?"]);
    check_route(&format!("{TO}\nevents = [\"clicked\"]"), &["10:11 `clicked` email.clicked"]);
    check_route(&format!("{TO}\nevents = \"email.clicked\""), &["10:10 list"]);
    check_route(&format!("{TO}\nmap = \"crn\""), &["10:7 `crn` \"crm\""]);
    check_route(&format!("{TO}\nwhen = ''"), &["10:8 empty"]);
    check_route(&format!("{TO}\ncreate_contacts = 1"), &["10:19 true"]);
    check_route(&format!("{TO}\nnotify = \"mailto:me@example.com\""), &["10:10 http"]);
    check_route(&format!("{TO}\ntenant = \"acme\""), &["9:7 tenant `default`"]);
    check_route(&format!("{TO}\n[[routes]]\nname = \"all\"\n{TO}"), &["11:8 second `all` 8"]);
    let notify = base(SECRETS, URL, &format!("{TO}\nnotify = \"https://x.example.com/\""))
        + "[destinations.\"all.notify\"]\nkind = \"http\"\nurl = \"https://x.example.com/\"\n";
    check(&notify, &["11:15 `all.notify` taken"]);
}

#[test]
fn programs_that_do_not_compile_point_into_the_file() {
    check_hub("\"link\": .data.url,", "\"link\": .data.url +,", 22, "");
    check_hub("'exists(.data.url)'", "'exist(.data.url)'", 9, "exist");
    check_hub("\"data\": .body }'''", "\"data\": .body +}'''", 74, "");
    check_route(&format!("{TO}\nwhen = \"exists(.\\\"a\\\") && nope(.x)\""), &["10:27 nope"]);
}

#[test]
fn all_problems_are_found_in_one_run() {
    let text = "[server]\nlisten = 1\nport = 2\n[sources.a]\nkind = \"mailtarget\"\n[destinations.b]\nkind = \"http\"\nrate = \"x\"\n[[routes]]\nname = \"r\"\nfrom = [\"c\"]\nto = [\"d\"]\n";
    check(text, &["2:10 text", "3:1 `port`", "4:10 secrets", "6:15 url", "8:8 rate", "11:9 `c`", "12:7 `d`"]);
}

#[test]
fn variables_stand_over_the_file() {
    let set = HashMap::from([
        ("MAILSPAN_SERVER_LISTEN", "0.0.0.0:9"),
        ("MAILSPAN_STORAGE_URL", "sqlite:/srv/x.db"),
    ]);
    let with = |name: &str| set.get(name).map(|text| (*text).to_owned()).or_else(|| env(name));
    let hub = parse_with(HUB, &with, false).unwrap();
    assert_eq!(hub.server.listen.to_string(), "0.0.0.0:9");
    assert_eq!(hub.storage, Storage::Sqlite { path: "/srv/x.db".into() });
    let wrong =
        |name: &str| if name == "MAILSPAN_SERVER_LISTEN" { Some("here".to_owned()) } else { env(name) };
    let shown = parse_with(HUB, &wrong, false).err().unwrap().to_string();
    assert!(shown.starts_with("MAILSPAN_SERVER_LISTEN: `here` is no address"), "{shown}");
}

#[test]
fn an_empty_file_has_the_defaults() {
    let hub = good("");
    assert_eq!(hub.server.public_url, "http://127.0.0.1:8080");
    assert_eq!(hub.server.body_bytes_max, 5 << 20);
    assert_eq!(hub.storage, Storage::Sqlite { path: "/etc/mailspan/mailspan.db".into() });
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
    let options = Options { env: &env, now: Millis(0), dev: false };
    let hub = load(&folder.path().join("hub.toml"), &options).unwrap();
    assert_eq!(hub.sources[0].secrets[0].secret.expose(), "0123456789abcdef ");
    assert_eq!(hub.sources[0].secrets[0].name, "file shop.secret");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { env: &env, now: Millis(0), dev: false };
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
        "SHORT) has only 7",
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
    let reference = include_str!("../../../../docs/CONFIGURATION.md");
    let tables = [
        SERVER,
        STORAGE,
        EGRESS,
        RETENTION,
        SOURCE,
        ACCESS,
        DESTINATION,
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
    for set in env::OVERRIDES {
        assert!(reference.contains(set.variable), "docs/CONFIGURATION.md does not name {}", set.variable);
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
