//! First inputs of the fuzzer, made of the fixtures that the tests read.

use std::path::{Path, PathBuf};

use mailspan_connectors::fuzzing;
use serde_json::Value;

/// Programs that use what the guard looks at: closures, errors, indexing, string templates, comments.
const PROGRAMS: [&str; 4] = [
    "exists(.data.url) && .source == \"mailtarget\"",
    "out = []\nfor_each(array!(.body.a)) -> |i, v| { if v == 1 { out = push(out, {\"n\": v, \"i\": i}) } }\n\
     x, err = to_int(.body.b[0])\n{\"type\": \"a.b\", \"data\": {\"out\": out, \"x\": x ?? 1, \"s\": \"{{ err }}\"}}",
    "# a shop\n{\"type\": \"order.created\", \"id\": to_string!(.body.id), \"subject\": downcase(string!(.body.email))}",
    "map_values(object!(.body)) -> |v| { split(string!(v), r'[,;]') }",
];

/// Writes the inputs into `corpus/all` beside this package; what the fuzzer has found there stays.
pub fn write() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/all");
    std::fs::create_dir_all(&folder).expect("the corpus folder can be made");
    for (at, (function, data)) in all().into_iter().enumerate() {
        let path = folder.join(format!("seed-{at:04}"));
        std::fs::write(path, [&[function], &data[..]].concat()).expect("the corpus folder can be written");
    }
}

/// The number of a function in `FUNCTIONS`, and its input.
fn all() -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    for kind in ["mailtarget", "standard_webhooks", "hmac", "api", "mailingcore", "maileon"] {
        for path in files(kind) {
            let request = &read(&path)["request"];
            seeds.push((5, text(&request["body"], &request["body_json"]).into_bytes()));
            for input in requests(kind, request) {
                seeds.extend([(0, input.clone()), (1, input)]);
            }
        }
    }
    for kind in ["hubspot", "http", "mailingcore_sink", "maileon_sink"] {
        let cases = read(&fixtures(kind).join("answers.json"));
        for (at, case) in cases.as_array().into_iter().flatten().enumerate() {
            seeds.push((2, answer(at as u8, case)));
        }
    }
    for program in PROGRAMS {
        seeds.push((3, program.into()));
        seeds.push((4, format!("{program}\0{{\"a\":[1,2],\"b\":[\"5\"],\"id\":9007199254740993}}").into()));
    }
    seeds.push((6, b"{timestamp}.{method}{url}{body}".to_vec()));
    seeds.push((7, b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec()));
    seeds.push((8, b"\0\0{\"v\":1,\"since\":0,\"cursor\":\"n1\"}\n{\"data\":[{\"id\":\"a\",\"email\":\"a@b.co\",\
        \"optIn\":true,\"createdAt\":\"2026-01-01T00:00:00.000Z\",\"updatedAt\":\"2026-01-02T00:00:00.000Z\"}],\
        \"meta\":{\"nextCursor\":\"n2\"}}".to_vec()));
    seeds.push((9, b"<report><invalid_contacts><contact><email>a&amp;b</email><error code='3'/></contact></invalid_contacts></report>".to_vec()));
    seeds
}

/// A fixture's request for each target of its kind, signed where the target can sign.
fn requests(kind: &str, request: &Value) -> Vec<Vec<u8>> {
    let headers = request["headers"].as_object().into_iter().flatten();
    let headers: Vec<(String, Vec<u8>)> =
        headers.map(|(name, value)| (name.to_lowercase(), text(value, value).into_bytes())).collect();
    let body = text(&request["body"], &request["body_json"]);
    let query = request["query"].as_str();
    let mut inputs = Vec::new();
    for (at, target) in
        fuzzing::targets().iter().enumerate().filter(|(_, target)| target.label.starts_with(kind))
    {
        let mut request = fuzzing::request(headers.clone(), body.as_bytes());
        request.query = query.map_or(request.query, str::to_owned);
        if let Some(secret) = target.secrets.first() {
            let signed = target.source.sign(&request, secret, fuzzing::NOW);
            request.headers.extend(signed.into_iter().map(|(name, value)| (name, value.into_bytes())));
        }
        inputs.push(fuzzing::write(at as u8, &request));
    }
    inputs
}

/// What `fuzzing_sinks::judge` reads: operations, count, status in two bytes, headers, body.
fn answer(kind: u8, case: &Value) -> Vec<u8> {
    let status = (case["status"].as_u64().unwrap_or(200) as u16).saturating_sub(100).to_be_bytes();
    let mut data = vec![kind, kind, status[0], status[1]];
    for (name, value) in case["headers"].as_object().into_iter().flatten() {
        data.extend(format!("{name}: {}\n", text(value, value)).bytes());
    }
    data.extend(b"\n\n");
    data.extend(case["body"].to_string().bytes());
    data
}

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/connectors/fixtures").join(kind)
}

fn files(kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures(kind)).expect("fixtures of every source kind");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("a fixture is JSON")
}

/// A string as it is; else the JSON of the other.
fn text(string: &Value, other: &Value) -> String {
    string.as_str().map_or_else(|| other.to_string(), str::to_owned)
}
