//! Who may compute users' programs, and how many at once; never on a thread that serves requests.
//!
//! The router, the destinations and the sources have turns of their own, so that a slow program holds up those that
//! it belongs to. How long one takes is bounded in `mailspan_core::limits`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mailspan_core::Name;
use mailspan_core::limits::{MAPS_AT_ONCE_MAX, PARSE_WAIT_MS_MAX, PARSES_AT_ONCE_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime;

pub struct Turns {
    router: Arc<Semaphore>,
    maps: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    parses: Arc<Semaphore>,
    /// One for each source that has a program.
    sources: Mutex<HashMap<Name, Arc<Semaphore>>>,
    parse_wait_ms: u64,
}

/// Why a request was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// For [`PARSE_WAIT_MS_MAX`].
    Busy,
    /// What reads it panicked.
    Broke,
}

impl Default for Turns {
    fn default() -> Turns {
        let turns = |n| Arc::new(Semaphore::new(n));
        Turns {
            router: turns(1),
            maps: turns(MAPS_AT_ONCE_MAX),
            operators: turns(1),
            parses: turns(PARSES_AT_ONCE_MAX),
            sources: Mutex::default(),
            parse_wait_ms: PARSE_WAIT_MS_MAX,
        }
    }
}

impl Turns {
    /// The router's conditions; nothing where one panicked.
    pub async fn route<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        compute(&self.router, work).await
    }

    /// The maps of one destination, which asks for one turn at a time; nothing where one panicked.
    pub async fn map<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        compute(&self.maps, work).await
    }

    /// What an operator asks of programs; nothing where one panicked.
    pub async fn explain<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        compute(&self.operators, work).await
    }

    /// One request of a source, after those before it.
    pub async fn parse<T: Send + 'static>(
        &self,
        source: &Name,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoTurn> {
        let own = self.of_source(source);
        let turns = async { Some((turn(&own).await?, turn(&self.parses).await?)) };
        let turns = runtime::within(self.parse_wait_ms, turns).await.flatten().ok_or(NoTurn::Busy)?;
        let work = move || {
            let made = work();
            drop(turns);
            made
        };
        runtime::blocking(work).await.ok_or(NoTurn::Broke)
    }

    fn of_source(&self, source: &Name) -> Arc<Semaphore> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.entry(source.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

/// The turn ends with the work, also where nobody waits for it any more.
async fn compute<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let turn = turn(turns).await?;
    let work = move || {
        let made = work();
        drop(turn);
        made
    };
    runtime::blocking(work).await
}

/// In the order asked for. Nothing only where the semaphore was closed, which no one does.
async fn turn(turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    turns.clone().acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that goes on until the other end is dropped.
    fn held() -> (mpsc::SyncSender<()>, impl FnOnce() + Send + 'static) {
        let (go_on, until) = mpsc::sync_channel(1);
        (go_on, move || assert!(until.recv().is_err(), "the other end is only dropped"))
    }

    #[tokio::test]
    async fn a_slow_program_holds_up_nobody_else() {
        let turns = Arc::new(Turns::default());
        let (slow, other) = (Name::new("slow"), Name::new("other"));
        let (parse_on, parse) = held();
        let (map_on, map) = held();
        let of_map = turns.clone();
        let maps = async move { of_map.map(map).await };
        let of_parse = (turns.clone(), slow.clone());
        let parses = async move { of_parse.0.parse(&of_parse.1, parse).await };
        let beside = async {
            assert_eq!(turns.map(|| 1).await, Some(1), "another destination");
            assert_eq!(turns.route(|| 2).await, Some(2), "the router");
            assert_eq!(turns.explain(|| 3).await, Some(3), "an operator");
            assert_eq!(turns.parse(&other, || 4).await, Ok(4), "another source");
            drop((map_on, parse_on));
            assert_eq!(turns.parse(&slow, || 5).await, Ok(5), "the same source, in its turn");
        };
        let (mapped, parsed, ()) = tokio::join!(maps, parses, beside);
        assert_eq!((mapped, parsed), (Some(()), Ok(())));
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_ever() {
        let turns = Turns { parse_wait_ms: 1, ..Turns::default() };
        let source = Name::new("slow");
        let _held = turns.of_source(&source).acquire_owned().await;
        assert_eq!(turns.parse(&source, || ()).await, Err(NoTurn::Busy));
    }

    fn breaks() {
        panic!("as a test");
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_turn_back() {
        let turns = Turns::default();
        let source = Name::new("broken");
        for _ in 0..=PARSES_AT_ONCE_MAX {
            assert_eq!(turns.parse(&source, breaks).await, Err(NoTurn::Broke));
        }
        for _ in 0..=MAPS_AT_ONCE_MAX {
            assert_eq!(turns.map(breaks).await, None);
        }
    }
}
