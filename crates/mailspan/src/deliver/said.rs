//! What destinations answered, kept for a moment while somebody waits for it (`?wait=`), and what webhook endpoints
//! answered until it is settled: of other successes the store keeps no answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mailspan_core::limits::ANSWER_KEPT_BYTES_MAX;
use mailspan_core::{Answer, DeliveryId, Lost};

/// Exchanges that are kept at once: as many as may be in flight, twice.
const EXCHANGES_MAX: usize = 1_024;

#[derive(Default)]
pub struct Said {
    waiting: AtomicUsize,
    exchanges: Mutex<VecDeque<Exchange>>,
}

/// One request and what was said to it.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub deliveries: Vec<DeliveryId>,
    /// Method and path as planned: `POST /crm/objects/…`.
    pub request: String,
    /// 0 where no answer came.
    pub status: u16,
    /// At most [`ANSWER_KEPT_BYTES_MAX`] of the answer, or why there was none.
    pub answer: String,
}

/// Somebody waits for as long as this lives.
pub struct Waiting<'a>(&'a Said);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Said {
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub fn keep(&self, deliveries: Vec<DeliveryId>, request: String, answer: &Result<Answer, Lost>) {
        let (status, answer) = match answer {
            Ok(answer) => {
                let cut = answer.body.len().min(ANSWER_KEPT_BYTES_MAX);
                (answer.status, String::from_utf8_lossy(&answer.body[..cut]).into_owned())
            }
            Err(lost) => (0, lost.why.to_string()),
        };
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        if exchanges.len() >= EXCHANGES_MAX {
            exchanges.pop_front();
        }
        exchanges.push_back(Exchange { deliveries, request, status, answer });
    }

    /// Exchanges that were made for a delivery, in order, as far as they are still here.
    pub fn of(&self, delivery: DeliveryId) -> Vec<Exchange> {
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        exchanges.iter().filter(|exchange| exchange.deliveries.contains(&delivery)).cloned().collect()
    }
}
