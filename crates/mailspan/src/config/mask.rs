//! What is shown of a line: never a secret, never a control character.

use std::ops::Range;

/// The characters of a line with their offsets in the file; what may be a secret is three stars.
/// Takes one walk over the line, however much is hidden.
pub fn mask(line: &str, start: usize, hidden: &[Range<usize>]) -> Vec<(usize, char)> {
    let here = start..start + line.len();
    let meets = |at: &&Range<usize>| at.start < here.end && at.end > here.start;
    let mut covered: Vec<Range<usize>> = hidden.iter().filter(meets).cloned().collect();
    covered.extend(suspects(line).into_iter().map(|at| at.start + start..at.end + start));
    covered.sort_by_key(|at| at.start);
    let mut covered = covered.into_iter().peekable();
    let mut shown = Vec::with_capacity(line.len());
    let mut masked_to = 0;
    for (offset, c) in line.char_indices() {
        let offset = offset + start;
        while let Some(at) = covered.next_if(|at| at.start <= offset) {
            if at.end > masked_to.max(offset) {
                if masked_to <= offset {
                    shown.extend([(offset, '*'); 3]);
                }
                masked_to = at.end;
            }
        }
        if offset >= masked_to {
            shown.push((offset, c));
        }
    }
    shown
}

/// Texts of a line that stand behind a key which sounds like a secret. Works on lines that are not
/// TOML too: a syntax error may be in the very line that holds a token.
fn suspects(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut secret = false;
    let mut word = String::new();
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' | '\'' => {
                let mut end = line.len();
                let mut inner = String::new();
                while let Some((here, next)) = chars.next() {
                    if next == c {
                        end = here;
                        break;
                    }
                    inner.push(next);
                    if next == '\\' && c == '"' {
                        chars.next();
                    }
                }
                if secret && end > at + 1 {
                    found.push(at + 1..end);
                }
                word = inner;
            }
            '=' => secret = sounds_secret(&word),
            '#' => break,
            c if c.is_alphanumeric() || matches!(c, '_' | '-') => {
                if !line[..at]
                    .ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | '-'))
                {
                    word.clear();
                }
                word.push(c);
            }
            _ => {}
        }
    }
    found
}

/// True for names of settings and headers whose values are secrets nearly always.
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '_'], "");
    ["secret", "token", "password", "passwd", "authorization", "apikey", "accesskey", "credential", "cookie"]
        .iter()
        .any(|word| name.contains(word))
}

/// Without control characters: a file may hold escape sequences that a terminal obeys.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { if c == '\t' { ' ' } else { '\u{fffd}' } } else { c })
        .collect()
}
