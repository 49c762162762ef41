//! Answers to look-ups, remembered for a while, and who waits for which.

use std::collections::{BTreeMap, VecDeque};

use mailspan_connectors::contract::{Known, Question};
use mailspan_core::limits::{QUESTION_MS_MAX, QUESTIONS_MAX};
use mailspan_core::{DeliveryId, Millis};

#[derive(Debug, Default)]
pub(crate) struct Questions {
    known: Known,
    /// When each answer is forgotten; the oldest first. One that was learned again stands twice.
    until: VecDeque<(Millis, Question)>,
    expires: BTreeMap<Question, Millis>,
    /// One call a question is in flight; these wait for it.
    pub(crate) waiting: BTreeMap<Question, Vec<DeliveryId>>,
}

impl Questions {
    /// What is known now.
    pub(crate) fn known(&mut self, now: Millis) -> &Known {
        while self.until.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
        &self.known
    }

    pub(crate) fn learn(&mut self, now: Millis, question: Question, answer: String) {
        let until = now.plus(QUESTION_MS_MAX);
        self.known.0.insert(question.clone(), answer);
        self.expires.insert(question.clone(), until);
        self.until.push_back((until, question));
        while self.until.len() > QUESTIONS_MAX {
            self.forget_oldest();
        }
    }

    /// Other settings may mean another account: nothing is known any more.
    pub(crate) fn forget(&mut self) {
        self.known.0.clear();
        self.expires.clear();
        self.until.clear();
    }

    fn forget_oldest(&mut self) {
        let Some((until, question)) = self.until.pop_front() else { return };
        if self.expires.get(&question) == Some(&until) {
            self.expires.remove(&question);
            self.known.0.remove(&question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_by_age_and_by_number() {
        let mut questions = Questions::default();
        let ask = |number: usize| Question(number.to_string());
        for number in 0..QUESTIONS_MAX + 5 {
            questions.learn(Millis(number as i64), ask(number), "yes".to_owned());
        }
        assert_eq!(questions.known(Millis(0)).0.len(), QUESTIONS_MAX);
        let known = questions.known(Millis(0));
        assert_eq!((known.get("4"), known.get("5")), (None, Some("yes")));

        questions.learn(Millis(2_000), ask(5), "again".to_owned());
        let later = Millis(1_999).plus(QUESTION_MS_MAX);
        assert_eq!(questions.known(later).get("5"), Some("again"));
        assert_eq!(questions.known(later).0.len(), 1);
        assert_eq!(questions.known(later.plus(1)).0.len(), 0);
        assert!(questions.expires.is_empty() && questions.until.is_empty());
    }
}
