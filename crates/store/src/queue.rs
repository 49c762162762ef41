//! Two bounded queues under one lock: intake and work. While one sync runs, the next group gathers here.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mailspan_core::limits::{GROUP_BYTES_MAX, GROUP_WRITES_MAX, WORK_QUEUE_MAX};
use tokio::sync::{Notify, oneshot};

use crate::prepare::Prepared;
use crate::write::{Trouble, Wrote};

/// A write with whom to tell.
pub(crate) struct Job {
    pub write: Prepared,
    pub reply: oneshot::Sender<Result<Wrote, Trouble>>,
}

pub(crate) struct Queues {
    intake_max: usize,
    inner: Mutex<Inner>,
    /// Wakes a writer that is a thread.
    wake: Condvar,
    /// Wakes a writer that is a task.
    bell: Notify,
}

#[derive(Default)]
struct Inner {
    intake: VecDeque<Job>,
    work: VecDeque<Job>,
    /// A writer that is a thread waits to be woken: to wake one that is awake would be a system call for nothing.
    asleep: bool,
    closed: bool,
}

impl Queues {
    pub(crate) fn new(intake_max: usize) -> Queues {
        let (inner, wake, bell) = Default::default();
        Queues { intake_max: intake_max.max(1), inner, wake, bell }
    }

    /// `Busy` when the queue of that kind is full, `Broken` when the store was closed.
    pub(crate) fn push(&self, job: Job) -> Result<(), Trouble> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(closed());
        }
        let (queue, room) = match job.write.is_intake() {
            true => (&mut inner.intake, self.intake_max),
            false => (&mut inner.work, WORK_QUEUE_MAX),
        };
        if queue.len() >= room {
            return Err(Trouble::Busy);
        }
        queue.push_back(job);
        let asleep = std::mem::take(&mut inner.asleep);
        drop(inner);
        if asleep {
            self.wake.notify_one();
        }
        self.bell.notify_one();
        Ok(())
    }

    /// Waits for one write and takes what else is there, within a group's bounds; `None` when the
    /// store was closed and nothing waits. At most three quarters come from one queue while the other waits.
    pub(crate) fn take_group(&self) -> Option<Vec<Job>> {
        let mut inner = self.inner();
        while inner.intake.is_empty() && inner.work.is_empty() {
            if inner.closed {
                return None;
            }
            inner.asleep = true;
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.asleep = false;
        Some(inner.group())
    }

    /// [`Queues::take_group`] for a writer that is a task.
    pub(crate) async fn next_group(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut inner = self.inner();
                if !inner.intake.is_empty() || !inner.work.is_empty() {
                    return Some(inner.group());
                }
                if inner.closed {
                    return None;
                }
            }
            self.bell.notified().await;
        }
    }

    pub(crate) fn close(&self) {
        self.inner().closed = true;
        self.wake.notify_all();
        self.bell.notify_one();
    }

    /// The writer is gone: nobody will answer what waits.
    pub(crate) fn abandon(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.intake.clear();
        inner.work.clear();
    }

    /// How many wait: intake, work.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.intake.len(), inner.work.len())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What is there, within a group's bounds.
    fn group(&mut self) -> Vec<Job> {
        let share = if self.intake.is_empty() || self.work.is_empty() { 4 } else { 3 };
        let mut group = Group { jobs: Vec::new(), bytes: 0 };
        group.fill(&mut self.work, GROUP_WRITES_MAX * share / 4, GROUP_BYTES_MAX * share / 4);
        group.fill(&mut self.intake, GROUP_WRITES_MAX, GROUP_BYTES_MAX);
        group.jobs
    }
}

/// Should the writer end by a panic, nobody waits for ever.
pub(crate) struct AbandonOnEnd(pub Arc<Queues>);

impl Drop for AbandonOnEnd {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

pub(crate) fn closed() -> Trouble {
    Trouble::Broken("it was closed: the hub is stopping".to_owned())
}

struct Group {
    jobs: Vec<Job>,
    bytes: usize,
}

impl Group {
    /// The first is taken whatever its size: a write larger than a group must go too.
    fn fill(&mut self, queue: &mut VecDeque<Job>, writes_max: usize, bytes_max: usize) {
        while let Some(job) = queue.front() {
            let bytes = job.write.bytes;
            let fits = self.jobs.len() < writes_max && self.bytes + bytes <= bytes_max;
            if !fits && !self.jobs.is_empty() {
                return;
            }
            self.bytes += bytes;
            self.jobs.extend(queue.pop_front());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{RefusedRequest, Write};
    use mailspan_core::{DeliveryId, Millis, Name, limits::INTAKE_QUEUE_MAX};

    fn intake() -> Write {
        Write::Refused(Box::new(RefusedRequest {
            tenant: Name::new("t"),
            source: Name::new("s"),
            at: Millis(0),
            check: String::new(),
            text: String::new(),
            hint: None,
            headers: vec![],
            body: Default::default(),
        }))
    }

    fn work() -> Write {
        Write::Discard { unserved: None, delivery: DeliveryId(1), note: String::new(), at: Millis(0) }
    }

    fn push(queues: &Queues, write: Write) -> Result<(), Trouble> {
        let write = crate::prepare::prepare(write, &crate::identity::IdentityKey::new(&[0; 32]));
        queues.push(Job { write, reply: oneshot::channel().0 })
    }

    #[test]
    fn a_full_queue_is_busy_and_leaves_room_for_the_other() {
        let queues = Queues::new(INTAKE_QUEUE_MAX);
        for _ in 0..INTAKE_QUEUE_MAX {
            push(&queues, intake()).unwrap();
        }
        assert_eq!(push(&queues, intake()), Err(Trouble::Busy));
        for _ in 0..WORK_QUEUE_MAX {
            push(&queues, work()).unwrap();
        }
        assert_eq!(push(&queues, work()), Err(Trouble::Busy));
        let group = queues.take_group().unwrap();
        let of_intake = group.iter().filter(|job| job.write.is_intake()).count();
        assert_eq!((group.len(), of_intake), (GROUP_WRITES_MAX, GROUP_WRITES_MAX / 4));
    }

    #[test]
    fn what_waits_is_done_before_the_end() {
        let queues = Queues::new(1);
        push(&queues, work()).unwrap();
        queues.close();
        assert!(matches!(push(&queues, work()), Err(Trouble::Broken(_))));
        assert_eq!(queues.take_group().unwrap().len(), 1);
        assert!(queues.take_group().is_none());
    }
}
