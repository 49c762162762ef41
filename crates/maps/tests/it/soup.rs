//! Programs that nobody would write: the guard, the compiler and the run end in a value or a reason.

use mailspan_core::SplitMix64;
use mailspan_maps::fuzzing;

const PARTS: &[&str] = &[
    ".",
    ".a",
    ".data.url",
    "x",
    "y.z",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "\"k\": ",
    "\"s {{x}}\"",
    "s'raw'",
    "r'[a-z]+'",
    "t'2026-05-08T03:14:15Z'",
    "1",
    "-7",
    "2.5",
    "true",
    "null",
    " + ",
    " - ",
    " * ",
    " / ",
    " == ",
    " && ",
    " || ",
    " ?? ",
    " | ",
    "!",
    " = ",
    ", ",
    ", err = ",
    "\n",
    "; ",
    "if ",
    " else ",
    "abort",
    "return ",
    "break",
    "-> |k, v| {",
    "string!(",
    "to_int(",
    "length(",
    "map_values(",
    "for_each(",
    "push(",
    "merge(",
    "exists(",
    "del(",
    "[0]",
    "[-1]",
    "# note\n",
    "é",
    "\\",
    "%",
    "@",
    "'",
    "\"",
    "|=",
    "_",
    ":",
    "parse_json!(",
    "slice!(",
    "range!(",
    "is_null(",
];

fn soup(random: &mut SplitMix64, parts: u64) -> String {
    let pick = |random: &mut SplitMix64| PARTS[random.below(PARTS.len() as u64) as usize];
    (0..random.below(parts)).map(|_| pick(random)).collect()
}

#[test]
fn soup_of_tokens_is_survived() {
    let mut random = SplitMix64(7);
    for _ in 0..1_500 {
        let program = soup(&mut random, 24);
        fuzzing::guard(program.as_bytes());
        fuzzing::run(format!("{program}\0{{\"a\":[1,2]}}").as_bytes());
    }
}

#[test]
fn mutated_programs_are_survived() {
    let whole = "out = []\nfor_each(array!(.body.a)) -> |i, v| {\n  if v == 1 { out = push(out, {\"n\": v, \"i\": i}) }\n}\n\
                 x, err = to_int(.body.b[0])\n{ \"type\": \"a.b\", \"data\": {\"out\": out, \"x\": x ?? 1, \"s\": \"{{ err }}\"} }";
    let mut random = SplitMix64(11);
    for _ in 0..1_500 {
        let mut bytes = whole.as_bytes().to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            let until = bytes.len().min(at + random.below(6) as usize);
            bytes.splice(at..until, soup(&mut random, 3).into_bytes());
            bytes.push(b' ');
        }
        bytes.extend(b"\0{\"a\":[1,2],\"b\":[\"5\"]}");
        fuzzing::run(&bytes);
    }
}
