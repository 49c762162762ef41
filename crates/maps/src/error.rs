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
    at(program, byte, mailspan_core::clip(&text, mailspan_core::limits::REASON_CHARS_MAX).into_owned())
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
        Terminate::Interrupted => {
            let steps = mailspan_core::limits::RUN_STEPS_MAX;
            return format!("the program took more than {steps} steps: loop over less");
        }
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
