//! Problems of a configuration file, drawn so that a person can mend them at once.

use std::fmt;
use std::ops::Range;

use super::mask::{mask, printable};

/// Everything that is wrong with a file, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file as its user named it, or the environment variable that holds the value.
    pub place: String,
    /// From 1, in lines and characters; both 0 where no place in the file can be named.
    pub line: usize,
    pub column: usize,
    pub message: String,
    /// The line with secrets masked and carets below it; empty where there is none.
    pub excerpt: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Bytes of the file.
    File(Range<usize>),
    /// An environment variable that overrides the file.
    Env(String),
    /// The file as a whole.
    Whole,
}

/// A problem before it is drawn: secrets may still be found in its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub at: Place,
    pub message: String,
    pub help: Option<String>,
}

/// A file that is broken everywhere helps nobody: further problems are counted, not shown.
const SHOWN_MAX: usize = 100;
/// What is shown of a long line, in characters before and after its first caret.
const BEFORE_MAX: usize = 60;
const AFTER_MAX: usize = 100;

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().take(SHOWN_MAX).enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{problem}")?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => writeln!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.message)?,
            _ => write!(f, "{}:{}:{}: {}", self.place, self.line, self.column, self.message)?,
        }
        if !self.excerpt.is_empty() {
            write!(f, "\n{}", self.excerpt)?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

/// Draws drafts in the order of the file, each once. `hidden` are places of the file that hold
/// secrets in clear: they are never shown. Takes one walk over the text, however many drafts there are.
pub fn draw(file: &str, text: &str, mut drafts: Vec<Draft>, hidden: &[Range<usize>]) -> Problems {
    drafts.sort_by_key(|draft| start(&draft.at));
    drafts.dedup();
    let mut walk = Walk::new(text);
    let mut lines = Lines { text, hidden, start: usize::MAX, shown: Vec::new() };
    let draw_one = |(n, draft): (usize, Draft)| {
        let (place, line, column, excerpt) = match &draft.at {
            Place::Env(name) => (name.clone(), 0, 0, String::new()),
            Place::Whole => (file.to_owned(), 0, 0, String::new()),
            Place::File(at) => {
                let (line, column) = walk.to(at.start);
                let excerpt = if n < SHOWN_MAX { lines.excerpt(line, at) } else { String::new() };
                (file.to_owned(), line, column, excerpt)
            }
        };
        let message = printable(&draft.message);
        Problem { place, line, column, message, excerpt, help: draft.help.map(|help| printable(&help)) }
    };
    Problems(drafts.into_iter().enumerate().map(draw_one).collect())
}

/// What has no place in the file stands before what has one.
pub fn start(at: &Place) -> (usize, usize) {
    match at {
        Place::File(at) => (1, at.start),
        Place::Env(_) | Place::Whole => (0, 0),
    }
}

/// A walk over a text that knows its line and column (both from 1, the column in characters).
pub struct Walk<'t> {
    text: &'t str,
    at: usize,
    line: usize,
    column: usize,
}

impl<'t> Walk<'t> {
    pub fn new(text: &'t str) -> Walk<'t> {
        Walk { text, at: 0, line: 1, column: 1 }
    }

    /// The position of a byte; cheap where it is not before the last one that was asked for.
    pub fn to(&mut self, at: usize) -> (usize, usize) {
        let at = floor(self.text, at);
        if at < self.at {
            *self = Walk::new(self.text);
        }
        for c in self.text[self.at..at].chars() {
            match c {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.at = at;
        (self.line, self.column)
    }
}

/// The nearest border of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Draws places in lines; the line of the last one is kept, as many places may stand in one long line.
struct Lines<'t> {
    text: &'t str,
    hidden: &'t [Range<usize>],
    start: usize,
    shown: Vec<(usize, char)>,
}

impl Lines<'_> {
    fn excerpt(&mut self, number: usize, at: &Range<usize>) -> String {
        let begin = floor(self.text, at.start);
        let start = self.text[..begin].rfind('\n').map_or(0, |newline| newline + 1);
        if start != self.start {
            let line = self.text[start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
            (self.start, self.shown) = (start, mask(line, start, self.hidden));
        }
        let shown = &self.shown;
        let caret = shown.partition_point(|(offset, _)| *offset < begin);
        let end = shown.partition_point(|(offset, _)| *offset < at.end);
        let from = caret.saturating_sub(BEFORE_MAX);
        let to = shown.len().min(caret + AFTER_MAX);
        let cut = |cut: bool| if cut { "…" } else { "" };
        let body: String = shown[from..to].iter().map(|(_, c)| *c).collect();
        let width = end.min(to).saturating_sub(caret).max(1);
        let gutter = number.to_string();
        let blank = " ".repeat(gutter.len());
        let indent = " ".repeat(caret - from + cut(from > 0).chars().count());
        let (before, after) = (cut(from > 0), cut(to < shown.len()));
        format!(
            "{blank} |\n{gutter} | {before}{}{after}\n{blank} | {indent}{}",
            printable(&body),
            "^".repeat(width)
        )
    }
}
