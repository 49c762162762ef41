//! Typed readings of nodes. Each reports what is wrong and goes on, so one run finds every problem.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::path::Path;

use mailspan_core::{Name, Rate, Span, clip};

use super::Options;
use super::report::{Draft, Place, Problems, Walk, draw, start};
use super::tree::{Data, Entry, Node, Table};

pub struct Reader<'a> {
    /// As its user named it.
    pub file: &'a str,
    /// Relative paths are taken from here.
    pub folder: &'a Path,
    pub text: &'a str,
    pub options: &'a Options<'a>,
    drafts: RefCell<Vec<Draft>>,
    warnings: RefCell<Vec<(Place, String)>>,
    hidden: RefCell<Vec<Range<usize>>>,
    compared: Cell<usize>,
    line_breaks: OnceCell<Vec<usize>>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, folder: &'a Path, text: &'a str, options: &'a Options<'a>) -> Reader<'a> {
        let (drafts, warnings, hidden, compared) = Default::default();
        let line_breaks = OnceCell::new();
        Reader { file, folder, text, options, drafts, warnings, hidden, compared, line_breaks }
    }

    pub fn problem(&self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        self.drafts.borrow_mut().push(Draft { at: at.clone(), message: message.into(), help });
    }

    pub fn problems(&self, drafts: Vec<Draft>) {
        self.drafts.borrow_mut().extend(drafts);
    }

    pub fn warn(&self, at: &Place, text: impl std::fmt::Display) {
        self.warnings.borrow_mut().push((at.clone(), text.to_string()));
    }

    /// Keeps what stands there out of every drawing.
    pub fn hide(&self, at: &Place) {
        if let Place::File(at) = at {
            self.hidden.borrow_mut().push(at.clone());
        }
    }

    /// The line of a place, from 1; 0 where it is not in the file.
    pub fn line(&self, at: &Place) -> usize {
        let Place::File(at) = at else { return 0 };
        let line_breaks = || self.text.match_indices('\n').map(|(at, _)| at).collect();
        self.line_breaks.get_or_init(line_breaks).partition_point(|newline| *newline < at.start) + 1
    }

    /// How many problems there are so far: a reading that adds none succeeded.
    pub fn count(&self) -> usize {
        self.drafts.borrow().len()
    }

    /// The warnings in the order of the file, or the problems.
    pub fn finish(self) -> Result<Vec<String>, Problems> {
        let drafts = self.drafts.into_inner();
        if !drafts.is_empty() {
            return Err(draw(self.file, self.text, drafts, &self.hidden.into_inner()));
        }
        let mut warnings = self.warnings.into_inner();
        warnings
            .sort_by(|(one, one_text), (two, two_text)| (start(one), one_text).cmp(&(start(two), two_text)));
        warnings.dedup();
        let mut walk = Walk::new(self.text);
        let drawn = warnings.into_iter().map(|(at, text)| match at {
            Place::File(at) => {
                let (line, column) = walk.to(at.start);
                format!("{}:{line}:{column}: {text}", self.file)
            }
            Place::Env(name) => format!("{name}: {text}"),
            Place::Whole => format!("{}: {text}", self.file),
        });
        Ok(drawn.collect())
    }

    pub fn text<'n>(&self, node: &'n Node, example: &str) -> Option<&'n str> {
        match &node.data {
            Data::Text(text) => Some(text),
            _ => self.wrong(node, "text", example),
        }
    }

    pub fn flag(&self, node: &Node) -> Option<bool> {
        match node.data {
            Data::Flag(flag) => Some(flag),
            _ => self.wrong(node, "true or false", "write true or false without quotes"),
        }
    }

    /// A whole number between the two, both included.
    pub fn number(&self, node: &Node, min: u32, max: u32) -> Option<u32> {
        let Data::Integer(number) = node.data else {
            return self.wrong(
                node,
                "a whole number",
                &format!("write a number from {min} to {max}, without quotes"),
            );
        };
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.problem(&node.at, "out of range", format!("write a number from {min} to {max}"));
                None
            }
        }
    }

    /// A length of time between the two (milliseconds), both included.
    pub fn span(&self, node: &Node, min_ms: u64, max_ms: u64) -> Option<Span> {
        let text = self.text(node, "write a length of time, like \"5m\"")?;
        let span = self.parsed(node, Span::parse(text))?;
        if (min_ms..=max_ms).contains(&span.ms) {
            return Some(span);
        }
        let (min, max) = (Span { ms: min_ms }, Span { ms: max_ms });
        self.problem(
            &node.at,
            format!("`{}` is out of range", clip(text, 40)),
            format!("write {min} to {max}"),
        );
        None
    }

    pub fn rate(&self, node: &Node) -> Option<Rate> {
        let text = self.text(node, "write a count and a time, like \"100/10s\"")?;
        self.parsed(node, Rate::parse(text))
    }

    /// Takes a value or reports `problem: what to write instead` at the node.
    pub fn parsed<T>(&self, node: &Node, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(text) => {
                let (message, help) = text.split_once(": ").unwrap_or((&text, ""));
                // Some texts begin with the value alone.
                let bare =
                    message.starts_with('`') && message.matches('`').count() == 2 && message.ends_with('`');
                let message = if bare { format!("{message} cannot be taken") } else { message.to_owned() };
                self.problem(&node.at, message, help);
                None
            }
        }
    }

    pub fn table<'n>(&self, node: &'n Node, example: &str) -> Option<&'n Table> {
        match &node.data {
            Data::Table(table) => Some(table),
            _ => self.wrong(node, "a table", example),
        }
    }

    pub fn list<'n>(&self, node: &'n Node, example: &str) -> Option<&'n [Node]> {
        match &node.data {
            Data::List(list) => Some(list),
            _ => self.wrong(node, "a list", example),
        }
    }

    /// A list of texts, each with its node.
    pub fn texts<'n>(&self, node: &'n Node, example: &str) -> Option<Vec<(&'n Node, &'n str)>> {
        let list = self.list(node, example)?;
        Some(list.iter().filter_map(|item| Some((item, self.text(item, example)?))).collect())
    }

    fn wrong<T>(&self, node: &Node, wanted: &str, example: &str) -> Option<T> {
        self.problem(&node.at, format!("expected {wanted}, found {}", node.shape()), example);
        None
    }

    /// Reports each key that is not among those known.
    pub fn known(&self, table: &Table, place: &str, known: &[&str]) {
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            self.unknown(entry, place, known);
        }
    }

    pub fn unknown(&self, entry: &Entry, place: &str, known: &[&str]) {
        let message = match place {
            "" => format!("unknown section `{}`", clip(&entry.key, 60)),
            place => format!("unknown key `{}` in `{place}`", clip(&entry.key, 60)),
        };
        if self.compares(SECRET_WORDS.len()).is_none() || nearest(&entry.key, SECRET_WORDS).is_some() {
            self.hide(&entry.node.at);
        }
        self.problem(&entry.key_at, message, self.suggestion(&entry.key, known.iter().copied()));
    }

    /// `did you mean …?`, or what there is; without a comparison once there were very many of them.
    pub fn suggestion<'k>(&self, word: &str, known: impl Iterator<Item = &'k str>) -> String {
        if self.compares(1).is_none() {
            return "nothing is of this name: mend the mistakes above first".to_owned();
        }
        let known: Vec<&str> = known.take(CANDIDATES_MAX).collect();
        self.compares(known.len());
        suggestion(word, &known)
    }

    /// Counts comparisons of words, and says whether there may be further ones.
    fn compares(&self, words: usize) -> Option<()> {
        let compared = self.compared.get().saturating_add(words);
        self.compared.set(compared);
        (compared <= COMPARISONS_MAX).then_some(())
    }

    /// A required key; reports it at the place of its table.
    pub fn required<'t>(
        &self,
        table: &'t Table,
        at: &Place,
        key: &str,
        place: &str,
        example: &str,
    ) -> Option<&'t Node> {
        let found = table.get(key);
        if found.is_none() {
            self.problem(at, format!("`{place}` has no `{key}`"), format!("write {example}"));
        }
        found
    }

    /// The name of a source, destination, route or tenant.
    pub fn name(&self, at: &Place, text: &str) -> Option<Name> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if begins && text.len() <= NAME_BYTES_MAX && text.chars().all(fits) {
            return Some(Name::new(text));
        }
        self.problem(
            at,
            format!("`{}` is no name", clip(text, 80)),
            format!("write at most {NAME_BYTES_MAX} of a-z, 0-9, `_`, `-` and `.`, a letter or digit first, like `crm` or `shop.eu`"),
        );
        None
    }

    /// The tenant of a section; the default one where none is named.
    pub fn tenant(&self, table: &Table) -> Option<Name> {
        let Some(node) = table.get("tenant") else { return Some(Name::default_tenant()) };
        self.name(&node.at, self.text(node, "write the tenant's name, like \"acme\"")?)
    }
}

/// Names stand in addresses, metrics and table columns.
const NAME_BYTES_MAX: usize = 64;

/// An unknown key that was meant to be one of these has a secret for its value.
const SECRET_WORDS: &[&str] =
    &["token", "secret", "secrets", "password", "auth", "access", "sign", "api_key", "key"];

/// Comparisons of words for suggestions in one file: each takes microseconds, and a file may have two hundred
/// thousand unknown keys.
const COMPARISONS_MAX: usize = 30_000;
/// Words that one unknown word is compared with.
const CANDIDATES_MAX: usize = 2_000;
/// Words that are listed where none is near.
const LISTED_MAX: usize = 40;

/// `did you mean …?`, or what there is.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(word, known) {
        return format!("did you mean `{near}`?");
    }
    match known {
        [] => "none is defined".to_owned(),
        known => {
            let listed: Vec<String> = known.iter().take(LISTED_MAX).map(|k| format!("`{k}`")).collect();
            let more = match known.len().saturating_sub(LISTED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("known are {}{more}", listed.join(", "))
        }
    }
}

/// The known word that a typing mistake would have turned into `word`, or one that begins alike.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(clip(word, 80).as_ref());
    let mistyped = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 3))
        .min();
    let alike = || {
        known
            .iter()
            .map(|candidate| (strsim::jaro_winkler(&word, &plain(candidate)), *candidate))
            .filter(|(likeness, _)| *likeness >= ALIKE)
            .max_by(|(one, _), (two, _)| one.total_cmp(two))
    };
    mistyped.map(|(_, candidate)| candidate).or_else(|| alike().map(|(_, candidate)| candidate))
}

/// `retries` and `retry` have 0.87, `port` and `path` 0.70.
const ALIKE: f64 = 0.86;
