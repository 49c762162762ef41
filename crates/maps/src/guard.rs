//! What is checked before VRL's compiler sees a program: size, nesting, index literals, growth.
//! The compiler recurses with the program and would end the process (vectordotdev/vrl#243).

use mailspan_core::limits::{PROGRAM_BYTES_MAX, PROGRAM_CALLS_MAX, PROGRAM_DEPTH_MAX, PROGRAM_INDEX_MAX};

use crate::CompileError;
use crate::error::at;
use crate::growth;
use crate::tokens::{Kind, Token, Tokens};

/// Refuses programs over 64 KiB, nested deeper than 64, with an index literal over 10,000
/// (vectordotdev/vrl#133), or that put a value into itself in a loop. Total: any text is judged.
///
/// Depth counts brackets, the operators of one expression, the arms of `if … else if`, the parts of a
/// path and the templates of a string: each is one level of the tree that the compiler walks.
pub(crate) fn check(text: &str) -> Result<(), CompileError> {
    if text.len() > PROGRAM_BYTES_MAX {
        let bytes = text.len();
        return Err(at(
            text,
            0,
            format!("the program has {bytes} bytes, more than {PROGRAM_BYTES_MAX}: split the route"),
        ));
    }
    let tokens: Vec<Token<'_>> = Tokens::new(text).collect();
    depth(text, &tokens)?;
    calls(text, &tokens)?;
    indexes(text, &tokens)?;
    growth::check(text, &tokens)
}

/// The expression that is being read inside one pair of brackets.
#[derive(Default)]
struct Frame {
    operators: usize,
    /// The deepest operand of this expression.
    operand: usize,
    /// Parts of the path that is being read.
    parts: usize,
    /// Arms of `if … else if` so far, and the deepest of them.
    elses: usize,
    arm: usize,
    /// The deepest of the expressions that are finished.
    finished: usize,
}

impl Frame {
    fn height(&self) -> usize {
        self.elses + self.arm.max(self.operators + self.operand.max(self.parts))
    }

    fn finish(&mut self) {
        *self = Frame { finished: self.finished.max(self.height()), ..Frame::default() };
    }

    fn next_arm(&mut self) {
        let arm = self.arm.max(self.operators + self.operand.max(self.parts));
        *self = Frame { finished: self.finished, elses: self.elses + 1, arm, ..Frame::default() };
    }

    fn next_operand(&mut self) {
        self.operand = self.operand.max(self.parts);
        self.parts = 0;
    }

    fn operators(&mut self, count: usize) {
        self.next_operand();
        self.operators += count;
    }
}

fn depth(text: &str, tokens: &[Token<'_>]) -> Result<(), CompileError> {
    let mut frames = vec![Frame::default()];
    let mut ended = false;
    let mut before = Kind::Newline;
    for (position, token) in tokens.iter().enumerate() {
        if ended && !matches!(token.kind, Kind::Newline | Kind::Comment) {
            // VRL takes an `else` on the next line to the `if` above.
            if token.kind != Kind::Word("else") {
                frames.last_mut().into_iter().for_each(Frame::finish);
            }
            ended = false;
        }
        let next = tokens.get(position + 1).map(|token| token.kind);
        read(&mut frames, token.kind, before, next);
        ended |= token.kind == Kind::Newline && !matches!(before, Kind::Operator(_));
        if !matches!(token.kind, Kind::Newline | Kind::Comment) {
            before = token.kind;
        }
        let height = frames.len() - 1 + frames.last().map_or(0, Frame::height);
        if height > PROGRAM_DEPTH_MAX {
            return Err(at(
                text,
                token.at,
                format!(
                    "nested deeper than {PROGRAM_DEPTH_MAX} (brackets, operators of one expression, arms of \
                     an if, parts of a path): put a part into a variable of its own"
                ),
            ));
        }
    }
    Ok(())
}

fn read(frames: &mut Vec<Frame>, kind: Kind<'_>, before: Kind<'_>, next: Option<Kind<'_>>) {
    let Some(frame) = frames.last_mut() else { return };
    match kind {
        Kind::Open(_) => frames.push(Frame::default()),
        Kind::Close => close(frames),
        // The mark of a call that aborts, `f!(…)`, is no level of its own.
        Kind::Operator("!") if matches!((before, next), (Kind::Word(_), Some(Kind::Open(b'(')))) => {}
        // `!!!a` is three of them.
        Kind::Operator(run) => frame.operators(run.matches('!').count().max(1)),
        Kind::Word("abort" | "return" | "if") => frame.operators(1),
        Kind::Word("else") => frame.next_arm(),
        Kind::Comma | Kind::Semicolon => frame.finish(),
        Kind::Text { templates } => {
            frame.operand = frame.operand.max(2 * templates);
            frame.parts += 1;
        }
        Kind::Word(_) | Kind::Number(_) | Kind::Quoted | Kind::Other => frame.parts += 1,
        Kind::Dot => {
            if !matches!(before, Kind::Word(_) | Kind::Text { .. } | Kind::Close) {
                frame.next_operand();
            }
        }
        Kind::Colon => frame.next_operand(),
        Kind::Newline | Kind::Comment => {}
    }
}

fn close(frames: &mut Vec<Frame>) {
    if frames.len() == 1 {
        return;
    }
    let Some(mut inner) = frames.pop() else { return };
    inner.finish();
    if let Some(outer) = frames.last_mut() {
        outer.operand = outer.operand.max(inner.finished + 1);
        outer.parts += 1;
    }
}

/// The compiler looks at what is inside a call twice, at each level anew.
fn calls(text: &str, tokens: &[Token<'_>]) -> Result<(), CompileError> {
    let mut open: Vec<bool> = Vec::new();
    let mut inside = 0;
    let mut before = [Kind::Newline, Kind::Newline];
    for token in tokens {
        match token.kind {
            Kind::Open(bracket) => {
                let call = match bracket {
                    b'(' => matches!(before, [_, Kind::Word(_)] | [Kind::Word(_), Kind::Operator("!")]),
                    // `-> |key, value| {`
                    b'{' => matches!(before[1], Kind::Operator("|" | "||")),
                    _ => false,
                };
                inside += usize::from(call);
                open.push(call);
            }
            Kind::Close => inside -= usize::from(open.pop().unwrap_or_default()),
            _ => {}
        }
        if inside > PROGRAM_CALLS_MAX {
            let message = format!(
                "calls are nested deeper than {PROGRAM_CALLS_MAX}: put the inner ones into variables"
            );
            return Err(at(text, token.at, message));
        }
        if !matches!(token.kind, Kind::Newline | Kind::Comment) {
            before = [before[1], token.kind];
        }
    }
    Ok(())
}

fn indexes(text: &str, tokens: &[Token<'_>]) -> Result<(), CompileError> {
    let mut before = [Kind::Newline, Kind::Newline];
    for token in tokens.iter().filter(|token| token.kind != Kind::Comment) {
        if let (Kind::Number(number), [owner, Kind::Open(b'[')]) = (token.kind, before) {
            let digits = number.replace(['_', '-'], "");
            let fits = digits.parse::<u64>().is_ok_and(|index| index <= PROGRAM_INDEX_MAX);
            if has_index(owner) && !fits {
                return Err(at(text, token.at, format!("an index is at most {PROGRAM_INDEX_MAX}")));
            }
        }
        before = [before[1], token.kind];
    }
    Ok(())
}

/// Whether `[` after this token is an index, not an array.
fn has_index(before: Kind<'_>) -> bool {
    match before {
        Kind::Word(word) => !matches!(word, "return" | "abort" | "if" | "else"),
        Kind::Text { .. } | Kind::Quoted | Kind::Number(_) | Kind::Close | Kind::Dot | Kind::Other => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, expected: &str) {
        match check(text) {
            Err(error) if error.text.contains(expected) => {}
            other => panic!("{} must be refused with `{expected}`: {other:?}", mailspan_core::clip(text, 80)),
        }
    }

    #[test]
    fn deep_programs_are_refused() {
        for (open, close) in [("[", "]"), ("(", ")"), ("{\"a\":", "}"), ("!(", ")"), ("{ x = ", "}")] {
            check_refused(&format!("{}1{}", open.repeat(65), close.repeat(65)), "deeper than 64");
            check_refused(&open.repeat(30_000 / open.len()), "deeper than 64");
        }
        for part in ["1 + ", "x = ", "!", "abort ", "return ", ".a ?? ", "1 +\n", "a || "] {
            check_refused(&format!("{}1", part.repeat(60_000 / part.len())), "deeper than 64");
        }
        check_refused(&format!(".a{} = 1", ".a".repeat(100)), "deeper than 64");
        check_refused(&format!(".a{} = 1", "[0]".repeat(100)), "deeper than 64");
        check_refused(&format!("x = \"{}\"", "{{a}} ".repeat(100)), "deeper than 64");
        check_refused(&format!("if a {{ 1 }}{}", "\nelse if b { 2 }".repeat(70)), "deeper than 64");
        check_refused(&format!("{}1{}", "f(".repeat(9), ")".repeat(9)), "calls are nested");
        check_refused(&format!("{}1{}", "f!({ x = ".repeat(9), "})".repeat(9)), "calls are nested");
        check_refused(&format!("{}1{}", "f(a) -> |v| { ".repeat(9), "}".repeat(9)), "calls are nested");
        check_refused(&"x".repeat(PROGRAM_BYTES_MAX + 1), "bytes");
    }

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        let brackets = "([{".repeat(100);
        for text in [
            format!("\"{brackets}\""),
            format!("s'{brackets}'"),
            format!("r'{brackets}'"),
            format!("# {brackets}\n1"),
        ] {
            assert_eq!(check(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn long_flat_programs_are_taken() {
        let fields = "\"key\": string!(.data.some.field) + \"x\" ?? null,\n".repeat(500);
        assert_eq!(check(&format!("{{\n{fields}}}")), Ok(()));
        assert_eq!(check(&".a.b = .c + 1 # note\n".repeat(1_000)), Ok(()));
        assert_eq!(check(&format!("if a {{ 1 }}{}", "\nelse if b == c || d { 2 }".repeat(40))), Ok(()));
    }

    #[test]
    fn index_literals_are_bounded() {
        check_refused(".a[9223372036854775807] = 1", "an index");
        check_refused("x = [0]\nx[-99_999] = 1", "an index");
        check_refused(".[99999999999999999999999]", "an index");
        check_refused(".\"a\"[ 10001 ]", "an index");
        assert_eq!(check(".a[10000] = 1"), Ok(()));
        assert_eq!(check("includes([404000], .a) && return [500000]"), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged(text in r#"[\[\](){}.,:;"'\\#srt!=+|a-c0-9\n é-]{0,200}"#) {
            let _ = check(&text);
        }
    }
}
