//! Read connections, each on a thread of its own, fed by one bounded queue.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::queue::closed;
use crate::sqlite::Base;
use crate::write::Trouble;

/// Reads that wait before a caller is told `Busy`: a page of a list takes a millisecond, so about a second.
pub(crate) const READ_QUEUE_MAX: usize = 1_024;

pub(crate) type Read = Box<dyn FnOnce(&Base) + Send>;

#[derive(Default)]
pub(crate) struct ReadQueue {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    reads: VecDeque<Read>,
    closed: bool,
}

impl ReadQueue {
    pub(crate) fn push(&self, read: Read) -> Result<(), Trouble> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(closed());
        }
        if inner.reads.len() >= READ_QUEUE_MAX {
            return Err(Trouble::Busy);
        }
        inner.reads.push_back(read);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    fn take(&self) -> Option<Read> {
        let mut inner = self.inner();
        loop {
            if let Some(read) = inner.reads.pop_front() {
                return Some(read);
            }
            if inner.closed {
                return None;
            }
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn close(&self) {
        self.inner().closed = true;
        self.wake.notify_all();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One read connection. The program runs it on a thread of its own.
pub struct Reader {
    pub(crate) queue: Arc<ReadQueue>,
    pub(crate) base: Base,
}

impl Reader {
    /// Answers reads until the store is closed or its last handle is dropped.
    pub fn run(self) {
        while let Some(read) = self.queue.take() {
            // A read that panics fails alone: whoever asked sees that no answer comes, the thread goes on.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&self.base)));
            if done.is_err() {
                tracing::error!("a read of the store panicked");
            }
        }
    }
}
