//! Configurations that work and that do not, with the places that are named.

mod broken;
mod refused;
mod rest;

use std::collections::HashMap;
use std::path::Path;

use super::*;
use crate::hub::{Auth, Map, Sign, Storage};

const HUB: &str = include_str!("../../../tests/fixtures/hub.toml");

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
    read("bad.toml", Path::new("/etc/mailspan"), text, &Options { env, names: &[], dev })
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
    assert!(hub.storage.is(&Storage::Sqlite { path: "/etc/mailspan/hub.db".into() }));
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
    assert!(hub.warnings.iter().all(|warning| warning.contains("shorter than 16")), "{:?}", hub.warnings);
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
    for secrets in [
        "secrets = [\n  \"token-in-clear\" nonsense\n]",
        "secrets = [\"\"\"\ntoken-in-clear\n\u{1}==\"\"\"]",
        "tokn = 'token-in-clear'",
    ] {
        let shown = bad(&HUB.replace("secrets = [{ env = \"SHOP_SECRET\" }]", secrets)).to_string();
        assert!(!shown.contains("token-in-clear"), "the secret is shown:\n{shown}");
    }
    let shown = bad(&HUB.replace("sqlite:hub.db", "postgres://hub:token-in-clear@db/hub")).to_string();
    assert!(shown.contains("password in clear") && !shown.contains("token-in-clear"), "{shown}");
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
