//! VRL programs in the file: compiled at load, errors at their line and column.

use mailspan_core::clip;
use mailspan_maps::{CompileError, Meter, Program, Purpose};

use super::reader::Reader;
use super::report::Place;
use super::tree::{Node, inside};
use crate::{memory, runtime};

/// What runs of a configuration's programs are measured by.
pub const METER: Meter = Meter { computed_ms: runtime::computed_ms, memory: memory::of_thread };

pub fn program(reader: &Reader, node: &Node, purpose: Purpose) -> Option<Program> {
    let example = match purpose {
        Purpose::Condition => "write a VRL condition, like 'exists(.data.url)'",
        Purpose::Map | Purpose::Parse => "write a VRL program between ''' and '''",
    };
    let text = reader.text(node, example)?;
    if text.trim().is_empty() {
        reader.problem(&node.at, "the program is empty", example);
        return None;
    }
    let errors = match Program::compile(text, purpose) {
        Ok(program) => return Some(program.with_meter(METER)),
        Err(errors) => errors,
    };
    // What follows a syntax error is mostly its echo.
    let echo = |error: &&CompileError| error.text.starts_with("syntax error");
    let first = errors.iter().find(echo);
    for error in errors.iter().filter(|error| !echo(error)).chain(first) {
        let (message, help) = worded(&error.text);
        reader.problem(&place(reader, node, error.line, error.column), message, help);
    }
    None
}

/// The compiler's first line, and the rest of it as help.
fn worded(text: &str) -> (String, String) {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let mut help: Vec<String> = lines.map(str::to_owned).collect();
    let mut message = first;
    if let Some((before, expected)) = first.split_once("; expected one of: ") {
        help.insert(0, format!("expected one of {}", clip(expected, HELP_CHARS_MAX)));
        message = before;
    } else if let Some((before, near)) = first.split_once("; did you mean ") {
        help.insert(0, format!("did you mean {near}"));
        message = before;
    }
    // Our own texts say what to do after a colon.
    if help.is_empty() {
        let (before, after) = message.split_once(": ").unwrap_or((message, HELP));
        (message, help) = (before, vec![after.to_owned()]);
    }
    (format!("the program does not compile: {message}"), help.join("\n      "))
}

const HELP: &str = "docs/MAPS.md shows what a program may say";
/// The compiler lists every token that it knows.
const HELP_CHARS_MAX: usize = 160;

/// Where a line and column of the program stand in the file.
fn place(reader: &Reader, node: &Node, line: usize, column: usize) -> Place {
    match &node.at {
        Place::File(at) => match reader.text.get(at.clone()) {
            Some(raw) => Place::File(inside(raw, at.start, line, column)),
            None => node.at.clone(),
        },
        other => other.clone(),
    }
}
