//! The flight note: which events are being mapped, planned or judged right now, in a file beside the store.
//!
//! A panic is caught around its item; what ends the process itself (a stack that overflows, memory that
//! runs out) leaves nothing behind but this file. It is written without a sync: the kernel outlives us.
//! After an unclean end the next start finds the suspects in it and runs them alone (`deliver/alone.rs`).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mailspan_core::{Answer, DestinationId, EventId, Key};

use crate::deliver::judged::{self, Judged};

/// Format 2: the mark, the suspect that runs alone, the batch that is planned, the head of what is judged, a
/// slot a destination, and far behind (the file has a hole there) what is judged with its answer.
const MARK: &[u8; 8] = b"MSFLY\0\0\x02";
const ALONE_AT: u64 = 8;
const PLAN_AT: u64 = ALONE_AT + SLOT;
/// Destination (8 bytes) and event (16 bytes), big-endian; all zero: empty.
const SLOT: u64 = 24;
/// A batch has at most 1,000 items (`config/limits.rs`); further ones are not noted.
const BATCH_MAX: usize = 1_000;
/// One byte of [`Stage`], then the length of what is judged.
const JUDGE_AT: u64 = PLAN_AT + 8 + 4 + 16 * BATCH_MAX as u64;
const JUDGE_HEAD: u64 = 1 + 4;
const MAPS_AT: u64 = JUDGE_AT + JUDGE_HEAD;
/// With slots for 64 destinations; more make it longer.
const BLANK: u64 = MAPS_AT + SLOT * 64;
/// More destinations than any hub has.
const JUDGED_AT: u64 = MAPS_AT + SLOT * 100_000;
/// What is read of an old note.
const BYTES_MAX: u64 = JUDGED_AT + judged::BYTES_MAX as u64;

/// An event on its way to a destination that was being mapped or planned when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspect {
    pub destination: DestinationId,
    pub event: EventId,
}

/// What the last process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub suspects: Vec<Suspect>,
    /// This one ran alone when the process ended.
    pub alone: Option<Suspect>,
    /// A batch with the answer that was being judged.
    pub judged: Option<(Stage, Judged)>,
}

/// In which run something is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Beside all else.
    Usual = 1,
    /// At the start after the one that ended there.
    Alone = 2,
}

/// The note of this process.
pub struct Flight {
    path: PathBuf,
    file: File,
    slots: Mutex<HashMap<DestinationId, u64>>,
    /// Bytes of what is being judged.
    judging: AtomicUsize,
    /// A write failed: said once.
    failed: AtomicBool,
}

impl Flight {
    /// Opens the note (0600), with what an unclean end left in it. That stays there until
    /// [`Flight::begin`]; only a suspect that runs alone is written before.
    pub fn open(path: &Path) -> io::Result<(Flight, Left)> {
        let path = path.to_owned();
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(&file, BYTES_MAX), &mut bytes)?;
        let left = read(&bytes);
        if !bytes.starts_with(MARK) {
            file.set_len(0)?;
            file.write_all_at(&blank(), 0)?;
        }
        let (slots, judging, failed) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        Ok((Flight { path, file, slots, judging, failed }, left))
    }

    /// Every suspect was dealt with: the note is blank from here on.
    pub fn begin(&self) {
        self.write(0, &blank());
        if let Err(error) = self.file.set_len(BLANK) {
            self.say(&error);
        }
    }

    pub fn alone(&self, suspect: Option<Suspect>) {
        self.write(ALONE_AT, &suspect.map_or([0; SLOT as usize], slot));
    }

    /// One task maps for a destination at a time.
    pub fn mapping(&self, destination: DestinationId, event: EventId) {
        let at = self.slot_of(destination);
        self.write(at, &slot(Suspect { destination, event }));
    }

    pub fn mapped(&self, destination: DestinationId) {
        let at = self.slot_of(destination);
        self.write(at, &[0; SLOT as usize]);
    }

    /// One thread plans, for all destinations.
    pub fn planning<'a>(&self, destination: DestinationId, keys: impl Iterator<Item = &'a Key>) {
        let events: Vec<EventId> = keys.filter_map(event_of).take(BATCH_MAX).collect();
        let mut bytes = Vec::with_capacity(12 + 16 * events.len());
        bytes.extend_from_slice(&destination.0.to_be_bytes());
        bytes.extend_from_slice(&(events.len() as u32).to_be_bytes());
        events.iter().for_each(|event| bytes.extend_from_slice(&event.0.to_be_bytes()));
        self.write(PLAN_AT, &bytes);
    }

    pub fn planned(&self) {
        self.write(PLAN_AT, &[0; 12]);
    }

    /// One task judges, for all destinations.
    pub fn judging<'a>(
        &self,
        destination: DestinationId,
        keys: impl Iterator<Item = &'a Key>,
        answer: &Answer,
    ) {
        let bytes = judged::write(destination, keys.take(BATCH_MAX), answer);
        self.write(JUDGED_AT, &bytes);
        self.judging_at(Some(Stage::Usual), bytes.len());
    }

    /// What was left is judged again, alone.
    pub fn judging_alone(&self, judged: &Judged) {
        self.judging_at(Some(Stage::Alone), judged.bytes);
    }

    /// An answer may name somebody: nothing of it stays.
    pub fn judged(&self) {
        let length = self.judging.load(Ordering::Relaxed);
        self.judging_at(None, 0);
        self.write(JUDGED_AT, &vec![0; length]);
    }

    fn judging_at(&self, stage: Option<Stage>, length: usize) {
        self.judging.store(length, Ordering::Relaxed);
        let mut head = [0; JUDGE_HEAD as usize];
        head[0] = stage.map_or(0, |stage| stage as u8);
        head[1..].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
        self.write(JUDGE_AT, &head);
    }

    /// A clean end: nothing is suspected at the next start.
    pub fn land(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the flight note {} could not be removed", self.path.display());
        }
    }

    fn slot_of(&self, destination: DestinationId) -> u64 {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let next = MAPS_AT + SLOT * slots.len() as u64;
        *slots.entry(destination).or_insert(next)
    }

    /// The note is a help, never a condition: on a full disk deliveries go on.
    fn write(&self, at: u64, bytes: &[u8]) {
        if let Err(error) = self.file.write_all_at(bytes, at) {
            self.say(&error);
        }
    }

    fn say(&self, error: &io::Error) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the flight note {} cannot be written", self.path.display());
        }
    }
}

/// Written whole, so that marks made later need no room on the disk.
fn blank() -> Vec<u8> {
    let mut bytes = vec![0; BLANK as usize];
    bytes[..MARK.len()].copy_from_slice(MARK);
    bytes
}

fn slot(suspect: Suspect) -> [u8; SLOT as usize] {
    let mut bytes = [0; SLOT as usize];
    bytes[..8].copy_from_slice(&suspect.destination.0.to_be_bytes());
    bytes[8..].copy_from_slice(&suspect.event.0.to_be_bytes());
    bytes
}

/// Total: a note that was cut or is of another format names nobody.
fn read(bytes: &[u8]) -> Left {
    let mut left = Left::default();
    if !bytes.starts_with(MARK) {
        return left;
    }
    left.alone = suspect_at(bytes, ALONE_AT as usize);
    left.suspects.extend(planned(bytes.get(PLAN_AT as usize..).unwrap_or_default()));
    left.judged = judged_at(bytes);
    let slots = (MAPS_AT as usize..bytes.len().min(JUDGED_AT as usize)).step_by(SLOT as usize);
    left.suspects.extend(slots.filter_map(|at| suspect_at(bytes, at)));
    left.suspects.dedup();
    left
}

fn judged_at(bytes: &[u8]) -> Option<(Stage, Judged)> {
    let head = bytes.get(JUDGE_AT as usize..MAPS_AT as usize)?;
    let stage = [Stage::Usual, Stage::Alone].into_iter().find(|stage| *stage as u8 == head[0])?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    let rest = bytes.get(JUDGED_AT as usize..)?;
    Some((stage, judged::read(rest.get(..length)?)?))
}

fn suspect_at(bytes: &[u8], at: usize) -> Option<Suspect> {
    let destination = DestinationId(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let event = EventId(u128::from_be_bytes(bytes.get(at + 8..at + 24)?.try_into().ok()?));
    (event.0 != 0).then_some(Suspect { destination, event })
}

fn planned(bytes: &[u8]) -> Vec<Suspect> {
    let Some((head, rest)) = bytes.split_first_chunk::<12>() else { return Vec::new() };
    let destination = DestinationId(i64::from_be_bytes(std::array::from_fn(|at| head[at])));
    let count = u32::from_be_bytes(std::array::from_fn(|at| head[at + 8])) as usize;
    let (events, _) = rest.as_chunks::<16>();
    let suspect = |event: &[u8; 16]| Suspect { destination, event: EventId(u128::from_be_bytes(*event)) };
    events.iter().take(count.min(BATCH_MAX)).map(suspect).collect()
}

/// A key begins with its event's id.
pub fn event_of(key: &Key) -> Option<EventId> {
    key.0.get(..36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use mailspan_core::{Key, Millis};

    use super::*;

    const A: Suspect = Suspect { destination: DestinationId(1), event: EventId(7) };
    const B: Suspect = Suspect { destination: DestinationId(2), event: EventId(8) };

    fn left(store: &Path) -> Left {
        Flight::open(store).unwrap().1
    }

    #[test]
    fn what_was_being_done_is_found_again_and_what_was_done_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("hub.db");
        let (flight, found) = Flight::open(&store).unwrap();
        assert_eq!(found, Left::default());
        flight.mapping(A.destination, EventId(5));
        flight.mapping(A.destination, A.event);
        flight.mapping(B.destination, B.event);
        flight.mapped(B.destination);
        let keys = [Key::derive(EventId(9), "r", "d", 0), Key::derive(EventId(10), "r", "d", 3)];
        flight.planning(B.destination, keys.iter());
        let planned = |event| Suspect { destination: B.destination, event: EventId(event) };
        let suspects = vec![planned(9), planned(10), A];
        assert_eq!(left(&store), Left { suspects, ..Left::default() });
        flight.planned();
        flight.alone(Some(B));
        assert_eq!(left(&store), Left { suspects: vec![A], alone: Some(B), judged: None });
        flight.begin();
        assert_eq!(left(&store), Left::default());
        flight.mapping(A.destination, A.event);
        flight.land();
        assert_eq!(left(&store), Left::default());
    }

    #[test]
    fn what_was_being_judged_is_found_again_with_its_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        let (flight, _) = Flight::open(&path).unwrap();
        let keys = vec![Key::derive(EventId(9), "r", "d", 0), Key::derive(EventId(10), "r", "d", 3)];
        let answer = Answer {
            at: Millis(7),
            status: 207,
            headers: vec![("retry-after".to_owned(), "3".to_owned()), ("x".to_owned(), String::new())],
            body: b"\0\xff{}".to_vec(),
            cut: true,
        };
        flight.judging(B.destination, keys.iter(), &answer);
        let (stage, judged) = left(&path).judged.unwrap();
        let found = (stage, judged.destination, &judged.keys, &judged.answer);
        assert_eq!(found, (Stage::Usual, B.destination, &keys, &answer));
        flight.judging_alone(&judged);
        assert_eq!(left(&path).judged, Some((Stage::Alone, judged)));
        flight.judged();
        assert_eq!(left(&path), Left::default());
        let told = Answer { body: b"no such user ann@x.org".to_vec(), ..answer };
        let holds = || std::fs::read(&path).unwrap().windows(9).any(|bytes| bytes == b"ann@x.org");
        flight.judging(B.destination, keys.iter(), &told);
        assert!(holds(), "the answer is not noted: this test looks for nothing");
        flight.judged();
        assert!(!holds(), "an answer stays in the note after it was judged");
    }

    #[test]
    fn a_damaged_note_names_nobody() {
        for length in 0..64 {
            assert_eq!(read(&vec![b'x'; length]), Left::default());
            assert_eq!(read(&[MARK.as_slice(), &vec![0; length]].concat()), Left::default());
        }
        let endless = [MARK.as_slice(), &[0; 24], &[0, 0, 0, 0, 0, 0, 0, 1], &[0xff; 4 + 16 * 3]].concat();
        assert_eq!(read(&endless).suspects.len(), 1);
    }
}
