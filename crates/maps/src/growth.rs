//! Values that are put into themselves: the type that VRL's compiler keeps, or the value itself in a
//! loop, would grow until the stack or the memory ends.

use crate::CompileError;
use crate::error::at;
use crate::tokens::{Kind, Token};

/// How often a program may put a value into itself outside of loops: `. = { "event": . }`. Each may
/// double what the compiler keeps, so 16 gives at most a few hundred copies.
const SELF_NESTING_MAX: usize = 16;

/// Refuses `x = [x]` inside a closure, and more than 16 of it elsewhere. What goes round through a
/// second variable is not seen.
pub(crate) fn check(text: &str, tokens: &[Token<'_>]) -> Result<(), CompileError> {
    let mut nested = 0;
    let mut loops = Loops::default();
    for (position, token) in tokens.iter().enumerate() {
        loops.read(tokens, position);
        if !matches!(token.kind, Kind::Operator("=" | "|=")) {
            continue;
        }
        let Some(target) = target(text, tokens, position) else { continue };
        let found = self_nesting(text, tokens, position, target);
        nested += found;
        if found > 0 && (loops.inside() || nested > SELF_NESTING_MAX) {
            return Err(at(
                text,
                token.at,
                "a value is put into itself over and over: collect with push() or merge() instead".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Which open brackets are the blocks of closures.
#[derive(Default)]
struct Loops {
    open: Vec<bool>,
}

impl Loops {
    fn read(&mut self, tokens: &[Token<'_>], position: usize) {
        match tokens[position].kind {
            // `-> |key, value| {`: the bar before the brace is the closure's.
            Kind::Open(b'{') => {
                let before = position.checked_sub(1).map(|before| tokens[before].kind);
                self.open.push(matches!(before, Some(Kind::Operator("|" | "||"))));
            }
            Kind::Open(_) => self.open.push(false),
            Kind::Close => {
                self.open.pop();
            }
            _ => {}
        }
    }

    fn inside(&self) -> bool {
        self.open.contains(&true)
    }
}

/// A path as it is written, and how many parts follow its root (a variable's name, or the dot).
#[derive(Clone, Copy)]
struct Path<'a> {
    text: &'a str,
    parts: usize,
}

impl Path<'_> {
    fn holds(self, other: Path<'_>) -> bool {
        let rest = other.text.strip_prefix(self.text);
        self.text == "." && rest.is_some()
            || rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    }
}

/// The path that stands before an `=`.
fn target<'a>(text: &'a str, tokens: &[Token<'_>], equals: usize) -> Option<Path<'a>> {
    let mut from = equals;
    while from > 0 {
        let (token, after) = (&tokens[from - 1], tokens.get(from));
        let joined = from == equals || after.is_some_and(|after| after.at == token.end);
        if !joined || !is_part(token.kind) {
            break;
        }
        from -= 1;
    }
    (from < equals).then(|| path(text, tokens, from).0)
}

fn is_part(kind: Kind<'_>) -> bool {
    matches!(
        kind,
        Kind::Word(_) | Kind::Text { .. } | Kind::Dot | Kind::Number(_) | Kind::Open(b'[') | Kind::Close
    )
}

/// Reads the path that begins at a token, and says where it ends.
fn path<'a>(text: &'a str, tokens: &[Token<'_>], from: usize) -> (Path<'a>, usize) {
    let mut parts = 0;
    let mut end = from + 1;
    while let Some(token) = tokens.get(end).filter(|token| token.at == tokens[end - 1].end) {
        match token.kind {
            Kind::Word(_) | Kind::Text { .. } | Kind::Number(_) => parts += 1,
            Kind::Dot => {}
            Kind::Open(b'[') if matches!(tokens.get(end + 1).map(|t| t.kind), Some(Kind::Number(_))) => {}
            Kind::Close if matches!(tokens[end - 1].kind, Kind::Number(_)) => {}
            _ => break,
        }
        end += 1;
    }
    (Path { text: &text[tokens[from].at..tokens[end - 1].end], parts }, end)
}

/// How often the value assigned holds the target deeper than it stood there.
fn self_nesting(text: &str, tokens: &[Token<'_>], equals: usize, target: Path<'_>) -> usize {
    // For each open bracket, whether it makes the value deeper: an array or an object.
    let mut open: Vec<bool> = Vec::new();
    let mut found = 0;
    let mut position = equals + 1;
    while let Some(token) = tokens.get(position) {
        match token.kind {
            Kind::Open(bracket) => {
                open.push(bracket == b'[' || bracket == b'{' && is_object(tokens, position))
            }
            Kind::Close if open.pop().is_none() => break,
            Kind::Newline | Kind::Semicolon if open.is_empty() && position > equals + 1 => break,
            Kind::Word(_) | Kind::Dot => {
                let (read, end) = path(text, tokens, position);
                let levels = open.iter().filter(|deeper| **deeper).count();
                let related = read.holds(target) || target.holds(read);
                found += usize::from(related && target.parts + levels > read.parts && !is_name(tokens, end));
                position = end;
                continue;
            }
            _ => {}
        }
        position += 1;
    }
    found
}

/// `{ "key":` begins an object, all else a block.
fn is_object(tokens: &[Token<'_>], brace: usize) -> bool {
    let mut after = tokens[brace + 1..]
        .iter()
        .map(|token| token.kind)
        .filter(|kind| !matches!(kind, Kind::Newline | Kind::Comment));
    matches!((after.next(), after.next()), (Some(Kind::Text { .. }), Some(Kind::Colon)))
}

/// A name that reads nothing: of an argument, of a function, of what an inner assignment sets.
fn is_name(tokens: &[Token<'_>], end: usize) -> bool {
    matches!(
        tokens.get(end).map(|token| token.kind),
        Some(Kind::Colon | Kind::Open(b'(') | Kind::Operator("!" | "=" | "|="))
    )
}

#[cfg(test)]
mod tests {
    use crate::guard;

    fn check(text: &str, refused: bool) {
        assert_eq!(guard::check(text).is_err(), refused, "{text}");
    }

    #[test]
    fn what_nests_itself_in_a_loop_is_refused() {
        check("for_each(array!(.data.a)) -> |_i, v| { x = [x, v] }", true);
        check("for_each(array!(.data.a)) -> |_i, v| {\n x = {\"before\": x, \"v\": v}\n}", true);
        check("for_each(array!(.data.a)) -> |_i, v| { .a = {\"b\": .} }", true);
        check("for_each(array!(.data.a)) -> |_i, v| { x = push(x, {\"v\": v})\n n = n + 1 }", false);
        check("for_each(object!(.data)) -> |k, v| { if k == \"x\" { out.count = out.count + 1 } }", false);
        check("for_each(x) -> |_i, v| { out = if v == 1 { push(out, v) } else { out } }", false);
        check("for_each(x) -> |_i, v| {\n .a = {\n # note\n \"b\": .a }\n}", true);
        check("map_values(.data) -> |v| { { \"v\": v } }", false);
    }

    #[test]
    fn what_nests_itself_over_and_over_is_refused() {
        check(&"x = [x, x]\n".repeat(30), true);
        check(&". = {\"a\": .}\n".repeat(30), true);
        check(&". = {\"a\": .}\n".repeat(3), false);
        check(&".fields = {\"a\": .data.b, \"c\": .subject}\n".repeat(100), false);
        check(&". = {\"x\": {\"y\": .x}}\n".repeat(30), true);
        check(&". = {\"person\": .subject, \"at\": .time}\n".repeat(100), false);
    }
}
