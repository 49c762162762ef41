//! Cells of a record of CSV (RFC 4180), cut as its lines come.

/// Where a record is after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Whole,
    /// A quoted cell goes on in the next line.
    Open,
    Wrong(&'static str),
}

#[derive(Debug, Default)]
pub struct Cutter {
    done: Vec<Vec<u8>>,
    cell: Vec<u8>,
    place: Place,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    /// A quote in here is a character like any other, as in `5" pipe`.
    Plain,
    Quoted,
    /// Behind a quote in a quoted cell: its end, or one of a pair.
    Behind,
}

impl Cutter {
    /// Takes one line with its end.
    pub fn feed(&mut self, line: &[u8]) -> Step {
        let ends = line.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let (body, end) = line.split_at(line.len() - ends);
        for byte in body {
            match (self.place, byte) {
                (Place::Before, b'"') => self.place = Place::Quoted,
                (Place::Before | Place::Plain | Place::Behind, b',') => self.end_cell(),
                (Place::Before | Place::Plain, _) => self.push(*byte, Place::Plain),
                (Place::Quoted, b'"') => self.place = Place::Behind,
                (Place::Quoted, _) | (Place::Behind, b'"') => self.push(*byte, Place::Quoted),
                (Place::Behind, _) => {
                    return Step::Wrong(
                        "a quoted cell ends before its comma: a quote within one is written twice",
                    );
                }
            }
        }
        if self.place == Place::Quoted {
            self.cell.extend_from_slice(end);
            return Step::Open;
        }
        self.end_cell();
        Step::Whole
    }

    fn push(&mut self, byte: u8, place: Place) {
        self.cell.push(byte);
        self.place = place;
    }

    fn end_cell(&mut self) {
        self.done.push(std::mem::take(&mut self.cell));
        self.place = Place::Before;
    }

    /// Of a whole record.
    pub fn cells(self, most: usize) -> Result<Vec<String>, String> {
        if self.done.len() > most {
            return Err(format!("has more than {most} cells"));
        }
        let texts: Result<Vec<String>, _> = self.done.into_iter().map(String::from_utf8).collect();
        texts.map_err(|_| "is not UTF-8".to_owned())
    }
}
