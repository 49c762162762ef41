//! Rows of a file of contacts, one after the other, each with the line it begins at. What cannot be read is a row
//! too, with the reason: it holds up none of the others.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use mailspan_core::json;
use mailspan_core::limits::{IMPORT_COLUMNS_MAX, IMPORT_PAGE_BYTES_MAX, IMPORT_ROW_BYTES_MAX};
use serde_json::{Map, Value};

use super::cells::{Cutter, Step};
use super::row::column;
use crate::contacts::rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Ndjson,
}

/// A file that is read piece by piece.
pub struct Rows<R> {
    reader: BufReader<R>,
    format: Format,
    /// Of CSV: what each column means; nothing: passed over.
    columns: Vec<Option<String>>,
    /// Lines that were looked at and are to be read again.
    again: VecDeque<Line>,
    line: u64,
}

/// One line with its end; nothing where it is longer than a row may be.
struct Line {
    number: u64,
    bytes: Option<Vec<u8>>,
}

/// The values of a row, or why it cannot be read.
type Read = Result<Map<String, Value>, String>;
/// The cells of a record, or why it cannot be read.
type Record = Result<Vec<String>, String>;

impl Rows<File> {
    pub fn open(path: &Path, format: Format) -> anyhow::Result<Rows<File>> {
        Rows::new(File::open(path).with_context(|| format!("open {}", path.display()))?, format)
    }
}

impl<R: std::io::Read> Rows<R> {
    /// A CSV file names its columns in its first line, each once, `email` among them.
    pub fn new(from: R, format: Format) -> anyhow::Result<Rows<R>> {
        let (columns, again) = (Vec::new(), VecDeque::new());
        let mut rows = Rows { reader: BufReader::new(from), format, columns, again, line: 0 };
        if format == Format::Csv {
            rows.columns = rows.header()?;
        }
        Ok(rows)
    }

    fn header(&mut self) -> anyhow::Result<Vec<Option<String>>> {
        let (line, header) = self.record()?.context("the file is empty: its first line names the columns")?;
        let header = header.map_err(|why| anyhow::anyhow!("line {line}: {why}"))?;
        let mut columns: Vec<Option<String>> = Vec::with_capacity(header.len());
        for name in header {
            let known = column(name.trim_start_matches('\u{feff}')).map_err(anyhow::Error::msg)?;
            if known.is_some() && columns.contains(&known) {
                bail!("the first line names the column `{}` twice: which one counts?", name.trim());
            }
            columns.push(known);
        }
        match columns.iter().flatten().any(|name| name == "email") {
            true => Ok(columns),
            false => bail!("the first line names no column `email`: it must name the columns"),
        }
    }

    pub fn skip(&mut self, rows: u64) -> anyhow::Result<()> {
        for _ in 0..rows {
            if self.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The next rows with their lines, at most so many and so many bytes: an object each, or a text that says why it
    /// could not be read, as `/v1/imports/{id}/rows` takes them.
    pub fn page(&mut self, most: usize) -> anyhow::Result<Vec<(u64, Value)>> {
        let (mut page, mut bytes) = (Vec::with_capacity(most), 0);
        while page.len() < most && bytes < IMPORT_PAGE_BYTES_MAX {
            let Some((line, read)) = self.next()? else { break };
            let row = read.map_or_else(Value::String, Value::Object);
            bytes += row.to_string().len();
            page.push((line, row));
        }
        Ok(page)
    }

    fn next(&mut self) -> anyhow::Result<Option<(u64, Read)>> {
        match self.format {
            Format::Csv => {
                let Some((line, cells)) = self.record()? else { return Ok(None) };
                Ok(Some((line, cells.and_then(|cells| self.named(cells)))))
            }
            Format::Ndjson => self.next_object(),
        }
    }

    fn named(&self, cells: Vec<String>) -> Read {
        if cells.len() != self.columns.len() {
            let (given, wanted) = (cells.len(), self.columns.len());
            return Err(format!(
                "has {given} cells, the first line names {wanted}: is a quote or a comma missing?"
            ));
        }
        let mut values = Map::new();
        for (name, cell) in self.columns.iter().zip(cells) {
            let Some(name) = name else { continue };
            insert(&mut values, name, Value::String(plain(cell)))?;
        }
        Ok(values)
    }

    fn next_object(&mut self) -> anyhow::Result<Option<(u64, Read)>> {
        while let Some(line) = self.next_line()? {
            let Some(bytes) = line.bytes else { return Ok(Some((line.number, Err(too_long())))) };
            let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some((line.number, object(bytes))));
            }
        }
        Ok(None)
    }

    /// One record of CSV (RFC 4180): a quoted cell may go over lines. Where it cannot be read, the next one begins at
    /// the line after its first: a quote that is never closed takes no other row with it.
    fn record(&mut self) -> anyhow::Result<Option<(u64, Record)>> {
        let first = loop {
            let Some(line) = self.next_line()? else { return Ok(None) };
            if line.bytes.as_ref().is_none_or(|bytes| !bytes.trim_ascii().is_empty()) {
                break line;
            }
        };
        let began = first.number;
        let Some(bytes) = first.bytes else { return Ok(Some((began, Err(too_long())))) };
        let (mut cut, mut size, mut more) = (Cutter::default(), bytes.len(), Vec::new());
        let mut step = cut.feed(&bytes);
        while step == Step::Open {
            let Some(line) = self.next_line()? else {
                step = Step::Wrong("a quote that this row opens is never closed");
                break;
            };
            size += line.bytes.as_ref().map_or(IMPORT_ROW_BYTES_MAX, Vec::len);
            step = match &line.bytes {
                Some(bytes) if size <= IMPORT_ROW_BYTES_MAX => cut.feed(bytes),
                _ => Step::Wrong("a quote that this row opens is not closed within what a row may have"),
            };
            more.push(line);
        }
        if let Step::Wrong(why) = step {
            more.into_iter().rev().for_each(|line| self.again.push_front(line));
            return Ok(Some((began, Err(why.to_owned()))));
        }
        Ok(Some((began, cut.cells(IMPORT_COLUMNS_MAX))))
    }

    /// The next line with its end: `\n`; of CSV `\r\n` and `\r` too.
    fn next_line(&mut self) -> anyhow::Result<Option<Line>> {
        if let Some(line) = self.again.pop_front() {
            return Ok(Some(line));
        }
        let mut line = Line { number: self.line + 1, bytes: Some(Vec::new()) };
        let mut began = false;
        loop {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            began = true;
            let ends = |byte: &u8| *byte == b'\n' || *byte == b'\r' && self.format == Format::Csv;
            let end = piece.iter().position(ends);
            let taken = end.map_or(piece.len(), |end| end + 1);
            let is_return = end.is_some_and(|end| piece[end] == b'\r');
            line.take(&piece[..taken]);
            self.reader.consume(taken);
            if is_return && self.reader.fill_buf()?.first() == Some(&b'\n') {
                line.take(b"\n");
                self.reader.consume(1);
            }
            if end.is_some() {
                break;
            }
        }
        self.line += u64::from(began);
        Ok(began.then_some(line))
    }
}

impl Line {
    fn take(&mut self, piece: &[u8]) {
        let Some(bytes) = &mut self.bytes else { return };
        bytes.extend_from_slice(piece);
        if bytes.len() > IMPORT_ROW_BYTES_MAX {
            self.bytes = None;
        }
    }
}

fn too_long() -> String {
    format!("has more than {IMPORT_ROW_BYTES_MAX} bytes")
}

fn object(bytes: &[u8]) -> Read {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let node = json::parse(bytes).map_err(|error| format!("is not JSON: {error}"))?;
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| "is not a JSON object".to_owned())?;
    rules::exact(&node)?;
    let mut values = Map::new();
    for (name, value) in object {
        if let Some(known) = column(&name)? {
            insert(&mut values, &known, value)?;
        }
    }
    Ok(values)
}

/// What an export writes as one JSON object becomes a column for each field.
fn insert(values: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), String> {
    let prefix = match name {
        "standard_fields" => "standard_",
        "custom_fields" => "custom_",
        _ => {
            return match values.insert(name.to_owned(), value) {
                None => Ok(()),
                Some(_) => Err(format!("{name}: is given twice: which one counts?")),
            };
        }
    };
    let object = match value {
        Value::Object(object) => object,
        Value::Null => return Ok(()),
        Value::String(text) if text.trim().is_empty() => return Ok(()),
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|_| format!("{name}: is a JSON object"))?
        }
        _ => return Err(format!("{name}: is a JSON object")),
    };
    object.into_iter().try_for_each(|(field, value)| insert(values, &format!("{prefix}{field}"), value))
}

/// Without the apostrophe that an export puts before what a spreadsheet would run.
fn plain(cell: String) -> String {
    match cell.strip_prefix('\'') {
        Some(rest) if formula(rest) => rest.to_owned(),
        _ => cell,
    }
}

/// What a spreadsheet would run, with or without apostrophes before it.
pub fn formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(text: &[u8], format: Format) -> Vec<(u64, Value)> {
        let mut rows = Rows::new(text, format).unwrap();
        let mut all = Vec::new();
        loop {
            let page = rows.page(2).unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// Rows by line: `Err` holds a part of the reason.
    fn check(text: &[u8], format: Format, expected: &[(u64, Result<Value, &str>)]) {
        let read = all(text, format);
        let shown = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
        assert_eq!(read.len(), expected.len(), "{shown}: {read:?}");
        for ((line, row), (wanted, expected)) in read.iter().zip(expected) {
            assert_eq!(line, wanted, "{shown}");
            match expected {
                Ok(values) => assert_eq!(row, values, "{shown}"),
                Err(why) => assert!(row.as_str().is_some_and(|text| text.contains(why)), "{shown}: {row}"),
            }
        }
    }

    #[test]
    fn every_row_of_a_csv_is_a_row_or_a_reason() {
        let row = |email: &str, note: &str| Ok(json!({ "email": email, "attribute_n": note }));
        let csv = |body: &str| format!("email,attribute_n\n{body}").into_bytes();
        check(
            &csv("a,5\" pipe\nb,7\" pipe\nc,9 mm\n"),
            Format::Csv,
            &[(2, row("a", "5\" pipe")), (3, row("b", "7\" pipe")), (4, row("c", "9 mm"))],
        );
        check(
            &csv("a,\"x\"\"y\n\nz\"\r\nb\n\nc,1,2\nd,4"),
            Format::Csv,
            &[(2, row("a", "x\"y\n\nz")), (5, Err("1 cells")), (7, Err("3 cells")), (8, row("d", "4"))],
        );
        check(
            &csv("a,\"open\nb,1\nc,2\n"),
            Format::Csv,
            &[(2, Err("never closed")), (3, row("b", "1")), (4, row("c", "2"))],
        );
        check(&csv("a,\"x\" y\nb,1\n"), Format::Csv, &[(2, Err("comma")), (3, row("b", "1"))]);
        check(
            b"email\ra\rb",
            Format::Csv,
            &[(2, Ok(json!({ "email": "a" }))), (3, Ok(json!({ "email": "b" })))],
        );
        let mut long = csv("");
        long.extend_from_slice(b"a,\xff\nb,");
        long.extend_from_slice("x".repeat(IMPORT_ROW_BYTES_MAX).as_bytes());
        long.extend_from_slice(b"\nc,3\n");
        check(&long, Format::Csv, &[(2, Err("UTF-8")), (3, Err("bytes")), (4, row("c", "3"))]);
    }

    #[test]
    fn every_line_of_ndjson_is_a_row_or_a_reason() {
        let row = |email: &str| Ok(json!({ "email": email }));
        check(
            b"{\"email\":\"a\"}\nnot json\n[1]\n\n{\"email\":\"b\",\"whatever\":1}\n{\"email\":\"\xff\"}\n{\"email\":\"c\"}",
            Format::Ndjson,
            &[
                (1, row("a")),
                (2, Err("JSON")),
                (3, Err("object")),
                (5, Err("whatever")),
                (6, Err("UTF-8")),
                (7, row("c")),
            ],
        );
        check(
            b"{\"externalId\":\"a\",\"external_id\":\"b\"}\n{\"attributes\":{\"n\":123456789012345678901234}}",
            Format::Ndjson,
            &[(1, Err("twice")), (2, Err("digits"))],
        );
    }

    #[test]
    fn a_column_is_named_once() {
        for text in ["email,email\n", "email,external_id,externalId\n", "email,x\n", "", "name\n"] {
            assert!(Rows::new(text.as_bytes(), Format::Csv).is_err(), "{text:?}");
        }
        assert!(Rows::new(&b"email,createdAt,updatedAt\n"[..], Format::Csv).is_ok());
    }

    proptest! {
        /// Whatever the cells hold, what a writer of CSV wrote is read back, row by row.
        #[test]
        fn what_was_written_is_read(cells in prop::collection::vec("[a,\"\n\r =']{0,6}", 1..12)) {
            let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
            writer.write_record(["email", "attribute_n"]).unwrap();
            for cell in &cells {
                writer.write_record(["x", cell]).unwrap();
            }
            let read = all(&writer.into_inner().unwrap(), Format::Csv);
            let read: Vec<&str> = read.iter().map(|(_, row)| row["attribute_n"].as_str().unwrap()).collect();
            let wanted: Vec<String> = cells.iter().map(|cell| plain(cell.clone())).collect();
            prop_assert_eq!(read, wanted);
        }

        /// Any bytes: it ends, and each row has its line.
        #[test]
        fn anything_is_read(body in prop::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..200)) {
            let text = [&b"email,attribute_n\n"[..], &body].concat();
            let lines: Vec<u64> = all(&text, Format::Csv).into_iter().map(|(line, _)| line).collect();
            prop_assert!(lines.is_sorted_by(|one, two| one < two));
        }
    }
}
