//! Events that were accepted a moment ago, in memory until the router comes for them: it need not read and unpack
//! again what this process has just written. The table `unrouted` alone says what waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailspan_core::limits::{RECENT_BYTES_MAX, RECENT_EVENTS_MAX};
use mailspan_core::{Event, Seq};

/// By rising `seq`, with gaps: what found no room is read from the file.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Recent {
    /// Takes events that are committed and synced, those of one group after those of the last. The router
    /// takes the oldest first, so what comes when all room is taken is left out.
    pub(crate) fn keep(&self, events: impl Iterator<Item = Event>) {
        let mut kept = self.kept();
        for event in events {
            let bytes = bytes(&event);
            if kept.events.len() < RECENT_EVENTS_MAX && kept.bytes + bytes <= RECENT_BYTES_MAX {
                kept.bytes += bytes;
                kept.events.push_back(event);
            }
        }
    }

    /// The event of each of these numbers, which rise, where it is there. All up to the last of them is
    /// forgotten: nobody asks twice, unless a write failed, and then the file answers.
    pub(crate) fn take(&self, seqs: &[Seq]) -> Vec<Option<Event>> {
        let mut kept = self.kept();
        seqs.iter().map(|seq| kept.take(*seq)).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, wanted: Seq) -> Option<Event> {
        while let Some(first) = self.events.front()
            && first.seq <= Some(wanted)
        {
            let first = self.events.pop_front()?;
            self.bytes -= bytes(&first);
            if first.seq == Some(wanted) {
                return Some(first);
            }
        }
        None
    }
}

/// About what an event takes in memory.
fn bytes(event: &Event) -> usize {
    event.data.get().len() + 512
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{EventId, EventType, Millis, Name, RawValue, Subject};

    fn event(seq: i64) -> Event {
        Event {
            seq: Some(Seq(seq)),
            id: EventId(1),
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            event_type: EventType::known("app.x"),
            subject: Subject::nobody(),
            time: Millis(0),
            received_at: Millis(0),
            test: false,
            transmission: None,
            recipient_role: None,
            data: RawValue::from_string("{}".to_owned()).unwrap().into(),
        }
    }

    fn check(recent: &Recent, asked: &[i64], expected: &[Option<i64>]) {
        let seqs: Vec<Seq> = asked.iter().map(|seq| Seq(*seq)).collect();
        let found: Vec<_> =
            recent.take(&seqs).into_iter().map(|event| event.map(|event| event.seq.unwrap().0)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_is_given_once_and_what_was_passed_over_is_forgotten() {
        let recent = Recent::default();
        recent.keep([2, 3, 5, 8, 9].map(event).into_iter());
        check(&recent, &[1, 3, 4, 5], &[None, Some(3), None, Some(5)]);
        check(&recent, &[2, 5], &[None, None]);
        check(&recent, &[9], &[Some(9)]);
        check(&recent, &[8, 10], &[None, None]);
        let kept = recent.kept();
        assert_eq!((kept.events.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn a_full_memory_keeps_the_oldest() {
        let recent = Recent::default();
        let all = RECENT_EVENTS_MAX as i64;
        recent.keep((1..=all + 5).map(event));
        check(&recent, &[1, all, all + 1], &[Some(1), Some(all), None]);
        recent.keep([event(all + 9)].into_iter());
        check(&recent, &[all + 9], &[Some(all + 9)]);
    }
}
