//! Which deliveries from the newest end of a long queue are on their way, in a file beside the store.
//!
//! What was in flight when the process was killed is to be sent again at once. Of the oldest end it is found there
//! again; at the newest end stands what has arrived since, and the oldest would take hours to come to it. So these
//! are noted, and claimed first at the next start. Written without a sync: the kernel outlives the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailspan_core::{DeliveryId, DestinationId};

/// Deliveries that are noted at once, for all destinations: 16 KB. Further ones wait as any other after a kill.
const NOTED_MAX: usize = 1_024;
/// Destination and delivery (8 bytes each), big-endian; all zero: empty.
const SLOT: usize = 16;

pub struct Newest {
    path: PathBuf,
    file: File,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    slots: HashMap<DeliveryId, usize>,
    free: Vec<usize>,
    /// Of the process before, until they are claimed.
    before: HashMap<DestinationId, Vec<DeliveryId>>,
}

impl Newest {
    /// Opens the note (0600). What a kill left in it stays there until [`Newest::kept`].
    pub fn open(path: &Path) -> io::Result<Newest> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        (&file).take((NOTED_MAX * SLOT) as u64).read_to_end(&mut bytes)?;
        bytes.resize(NOTED_MAX * SLOT, 0);
        let mut noted = Noted::default();
        for (slot, bytes) in bytes.as_chunks::<SLOT>().0.iter().enumerate() {
            let number = |from: usize| i64::from_be_bytes(std::array::from_fn(|at| bytes[from + at]));
            match (DestinationId(number(0)), DeliveryId(number(8))) {
                (_, delivery) if delivery.0 <= 0 || noted.slots.contains_key(&delivery) => {
                    noted.free.push(slot)
                }
                (destination, delivery) => {
                    noted.slots.insert(delivery, slot);
                    noted.before.entry(destination).or_default().push(delivery);
                }
            }
        }
        Ok(Newest { path: path.to_owned(), file, noted: Mutex::new(noted) })
    }

    /// They go out now.
    pub fn sent(&self, destination: DestinationId, deliveries: &[DeliveryId]) {
        let mut noted = self.noted();
        for delivery in deliveries.iter().filter(|delivery| delivery.0 > 0) {
            if noted.slots.contains_key(delivery) {
                continue;
            }
            let Some(slot) = noted.free.pop() else { return };
            noted.slots.insert(*delivery, slot);
            self.write(slot, u128::from(destination.0 as u64) << 64 | u128::from(delivery.0 as u64));
        }
    }

    /// What became of them is kept, or they are not to be claimed any more.
    pub fn kept(&self, deliveries: &[DeliveryId]) {
        let mut noted = self.noted();
        if noted.slots.is_empty() {
            return;
        }
        for delivery in deliveries {
            if let Some(slot) = noted.slots.remove(delivery) {
                noted.free.push(slot);
                self.write(slot, 0);
            }
        }
    }

    /// What was in flight of a destination when the last process was killed; each is given once.
    pub fn before(&self, destination: DestinationId) -> Vec<DeliveryId> {
        self.noted().before.remove(&destination).unwrap_or_default()
    }

    /// A clean end: nothing is in flight.
    pub fn land(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the note {} could not be removed", self.path.display());
        }
    }

    /// The note is a help, never a condition: on a full disk deliveries go on.
    fn write(&self, slot: usize, value: u128) {
        if let Err(error) = self.file.write_all_at(&value.to_be_bytes(), (slot * SLOT) as u64) {
            tracing::debug!(%error, "the note {} cannot be written", self.path.display());
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRM: DestinationId = DestinationId(7);

    fn deliveries(numbers: std::ops::Range<i64>) -> Vec<DeliveryId> {
        numbers.map(DeliveryId).collect()
    }

    fn left(path: &Path) -> Vec<DeliveryId> {
        let mut left = Newest::open(path).unwrap().before(CRM);
        left.sort();
        left
    }

    #[test]
    fn what_was_sent_and_is_not_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        let note = Newest::open(&path).unwrap();
        assert_eq!(note.before(CRM), []);
        note.sent(CRM, &deliveries(1..6));
        note.sent(DestinationId(8), &deliveries(9..10));
        note.kept(&deliveries(2..4));
        note.sent(CRM, &deliveries(5..7));
        assert_eq!(left(&path), [1, 4, 5, 6].map(DeliveryId));
        let next = Newest::open(&path).unwrap();
        assert_eq!((next.before(CRM).len(), next.before(CRM).len()), (4, 0), "each is given once");
        next.kept(&[DeliveryId(1)]);
        assert_eq!(left(&path), [4, 5, 6].map(DeliveryId), "killed again before they were settled");
        next.land();
        assert_eq!(left(&path), []);
    }

    #[test]
    fn a_full_note_and_a_damaged_one_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        let note = Newest::open(&path).unwrap();
        note.sent(CRM, &deliveries(1..NOTED_MAX as i64 + 9));
        assert_eq!(left(&path).len(), NOTED_MAX);
        note.kept(&deliveries(1..NOTED_MAX as i64 + 9));
        assert_eq!(left(&path), []);
        for bytes in [vec![b'x'; 5], vec![0xff; 40_000], vec![1; SLOT * 3]] {
            std::fs::write(&path, &bytes).unwrap();
            Newest::open(&path).unwrap().sent(CRM, &deliveries(1..3));
            assert!(left(&path).len() <= 2, "{} bytes", bytes.len());
        }
    }
}
