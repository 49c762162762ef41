//! VRL's diagnostics in our words: line, column, message and hint.

use vrl::compiler::ExpressionError;
use vrl::compiler::runtime::Terminate;
use vrl::diagnostic::{Diagnostic, DiagnosticList, Label, Note};

use crate::CompileError;
use crate::functions;

/// An error at a byte of the program; the byte is moved to the character that it is in.
pub(crate) fn at(program: &str, byte: usize, text: String) -> CompileError {
    let mut byte = byte.min(program.len());
    while !program.is_char_boundary(byte) {
        byte -= 1;
    }
    let before = &program[..byte];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    CompileError { line, column, text }
}

/// What the compiler found, warnings left out; never empty.
pub(crate) fn compile_errors(program: &str, found: DiagnosticList) -> Vec<CompileError> {
    let mut errors: Vec<CompileError> =
        found.into_iter().filter(Diagnostic::is_problem).map(|problem| one(program, &problem)).collect();
    if errors.is_empty() {
        errors.push(at(program, 0, "VRL refuses the program without a reason".to_owned()));
    }
    errors
}

fn one(program: &str, problem: &Diagnostic) -> CompileError {
    let span = primary(problem.labels()).or(problem.labels().first()).map(|label| label.span);
    let byte = span.map_or(0, vrl::diagnostic::Span::start);
    let named = span.and_then(|span| program.get(span.range())).unwrap_or_default();
    if let Some(why) = functions::left_out(named).filter(|_| problem.message().contains("undefined function"))
    {
        return at(program, byte, format!("`{named}` is not available here: {why}"));
    }
    let labels = problem.labels().iter().map(|label| label.message.clone());
    let notes = problem.notes().iter().filter(|note| says_something(note)).map(ToString::to_string);
    let mut text = String::new();
    for part in std::iter::once(problem.message().to_owned()).chain(labels).chain(notes) {
        let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
        if part.is_empty() || text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(if text.ends_with(':') { " " } else { "; " });
        }
        text.push_str(&part);
    }
    let mut text = mailspan_core::clip(&text, mailspan_core::limits::REASON_CHARS_MAX).into_owned();
    if let Some(help) = help(problem.code) {
        text.push('\n');
        text.push_str(help);
    }
    at(program, byte, text)
}

/// What to write instead, for what is met most (codes: <https://errors.vrl.dev>).
fn help(code: usize) -> Option<&'static str> {
    Some(match code {
        100 => {
            "it can fail on some events: give another value with `??`, like `(to_int(.data.n) ?? 0) > 3`, or end \
             the run with `!`, like `int!(.data.n) > 3` or `string!(.data.a)`"
        }
        101 => "write the regular expression between r' and ', like r'^[a-z]+$'",
        102 => "an `if` takes true or false: compare with ==, or use exists(.data.x)",
        103 => {
            "what is assigned can fail on some events: write `x = to_int(.data.n) ?? 0`, `x = int!(.data.n)`, or \
             `x, err = to_int(.data.n)`"
        }
        104 | 620 | 651 => "it cannot fail: leave out the `!`, the `??` or the `, err`",
        110 => {
            "the argument may be of another type on some events: write `string!(.data.a)`, `int!(.data.n)` or \
             `array!(.data.l)` around it, or call the function with `!`"
        }
        630 => {
            "an argument can fail on some events: write `string!(.data.a)` in its place, `(to_string(.data.a) ?? \"\")`, \
             or put it into a variable first"
        }
        640 => "it changes nothing: assign it to a name, or leave it out",
        650 => "compare two values at a time: `.a < .b && .b < .c`",
        652 => "only objects are merged: write `object!(.data.a) | object!(.data.b)`",
        660 => "only true and false are negated: write `!bool!(.data.a)`, or compare with ==",
        701 => {
            "a field of the event begins with a dot: `.data.x`; a name without one is a variable, set before it is read"
        }
        _ => return None,
    })
}

fn says_something(note: &Note) -> bool {
    matches!(
        note,
        Note::Hint(_) | Note::Example(_) | Note::CoerceValue | Note::Basic(_) | Note::UserErrorMessage(_)
    )
}

fn primary(labels: &[Label]) -> Option<&Label> {
    labels.iter().find(|label| label.primary)
}

/// Why a run ended, as `line:column: message`.
pub(crate) fn run_error(program: &str, ended: Terminate) -> String {
    let (byte, message) = match ended {
        Terminate::Interrupted => return ended.to_string(),
        Terminate::Abort(error) | Terminate::Error(error) => read(error),
    };
    match byte {
        Some(byte) => at(program, byte, message).to_string(),
        None => message,
    }
}

fn read(error: ExpressionError) -> (Option<usize>, String) {
    match error {
        ExpressionError::Abort { span, message } => (
            Some(span.start()),
            message.map_or_else(|| "the program aborted".to_owned(), |text| format!("aborted: {text}")),
        ),
        ExpressionError::Error { message, labels, .. } => {
            let byte = primary(&labels).or(labels.first()).map(|label| label.span.start());
            let (inside, message) = without_place(&message);
            (byte.or(inside), message)
        }
        other => (None, other.to_string()),
    }
}

/// VRL writes places as ` at (12:34)`, in bytes: the first such is taken out.
fn without_place(message: &str) -> (Option<usize>, String) {
    let Some(from) = message.find(" at (") else { return (None, message.to_owned()) };
    let rest = &message[from + 5..];
    let Some(end) = rest.find(')') else { return (None, message.to_owned()) };
    match rest[..end].split_once(':').and_then(|(start, _)| start.parse().ok()) {
        Some(byte) => (Some(byte), format!("{}{}", &message[..from], &rest[end + 1..])),
        None => (None, message.to_owned()),
    }
}
