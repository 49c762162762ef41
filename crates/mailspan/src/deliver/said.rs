//! What destinations answered, kept for a moment while somebody waits for it (`?wait=`): the store keeps
//! the answers of failures only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mailspan_core::limits::ANSWER_KEPT_BYTES_MAX;
use mailspan_core::{Answer, KEY, Request};

/// Answers that are kept at once: as many as may be in flight, twice.
const ANSWERS_MAX: usize = 1_024;

#[derive(Default)]
pub struct Said {
    waiting: AtomicUsize,
    answers: Mutex<VecDeque<(String, String)>>,
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

    /// The key that a request is sent under, where somebody waits.
    pub fn key_of(&self, request: &Request) -> Option<String> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let under = |wanted: &str| request.headers.iter().find(|(name, _)| name == wanted);
        under(KEY).or_else(|| under("idempotency-key")).map(|(_, value)| value.clone())
    }

    pub fn keep(&self, key: String, answer: &Answer) {
        let cut = answer.body.len().min(ANSWER_KEPT_BYTES_MAX);
        let body = String::from_utf8_lossy(&answer.body[..cut]).into_owned();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.pop_front();
        }
        answers.push_back((key, body));
    }

    /// The last answer to a key, if it is still there.
    pub fn answer(&self, key: &str) -> Option<String> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().rev().find(|(of, _)| of == key).map(|(_, body)| body.clone())
    }
}
