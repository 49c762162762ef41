//! Every function that reads what others send, in one fuzzer: the first byte chooses the function, the
//! rest is its input. A panic is the only fault. The seeded tests on stable drive the same functions.
#![no_main]

mod seeds;

use libfuzzer_sys::fuzz_target;
use mailspan_connectors::signature::{self, recipe, standard};
use mailspan_connectors::{fuzzing, fuzzing_sinks};
use mailspan_core::json;

/// A first byte names them by their place here, in `seeds.rs` and in every corpus: new ones go to the end.
const FUNCTIONS: [fn(&[u8]); 10] = [
    source_verify,
    source_parse,
    fuzzing_sinks::judge,
    mailspan_maps::fuzzing::guard,
    mailspan_maps::fuzzing::run,
    core_json,
    recipe_pieces,
    signature_texts,
    fuzzing_sinks::poll,
    core_xml,
];

fuzz_target!(init: seeds::write(), |data: &[u8]| {
    if let Some((first, rest)) = data.split_first() {
        FUNCTIONS[usize::from(*first) % FUNCTIONS.len()](rest);
    }
});

/// The verifiers of all sources, every preset too: the next byte chooses one.
fn source_verify(data: &[u8]) {
    fuzzing::verify(data);
}

fn source_parse(data: &[u8]) {
    fuzzing::parse(data);
}

/// What the lossless reader takes, it gives back as text that it takes again.
fn core_json(data: &[u8]) {
    if let Ok(node) = json::parse(data) {
        let again = json::parse(node.raw.as_bytes()).expect("a value's own text is a document");
        assert_eq!(again.raw, node.raw);
    }
}

/// What was escaped is read as it was.
fn core_xml(data: &[u8]) {
    let _ = mailspan_core::xml::parse(data);
    let text = String::from_utf8_lossy(data);
    let escaped = mailspan_core::xml::escaped(&text);
    let root = mailspan_core::xml::parse(format!("<a>{escaped}</a>").as_bytes()).expect("it is an element");
    assert_eq!(mailspan_core::xml::escaped(&root.text), escaped);
}

/// Recipes of signed strings, as they stand in a configuration.
fn recipe_pieces(data: &[u8]) {
    let _ = recipe::pieces(&String::from_utf8_lossy(data));
}

/// Secrets and digests as text.
fn signature_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = standard::Key::read(&text);
    let _ = standard::key(&text);
    let _ = signature::unhex(&text);
    let _ = signature::unbase64(&text);
}
