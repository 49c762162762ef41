//! Why an address is suppressed after a write.

use super::apply::{Known, ends_consent};
use super::facts::{Fact, Stated};
use super::{Change, ContactWrite, Suppressed};
use crate::Millis;

/// Nothing: it stays as it is. Else why the address is suppressed now, and since when; or that it is not any more.
pub(super) type Suppression = Option<Option<(Suppressed, Millis)>>;

/// The same whatever the order of arrival: an unsubscribe is the weakest reason, and void where the person
/// has confirmed anew after it, so the last one counts; of the others the first by its time stays; an erasure is
/// the last word. What happened before a suppression was lifted by hand is void too.
pub(super) fn suppression(known: &Known, write: &ContactWrite, facts: &[Fact]) -> Suppression {
    let since =
        |what: fn(&Stated) -> bool| facts.iter().filter(|fact| what(&fact.what)).map(|fact| fact.at).max();
    let confirmed = since(|what| matches!(what, Stated::OptIn(Some(level)) if level.is_double()));
    match (&write.suppress, known.suppressed) {
        (Change::Set(reason), before) => {
            let lifted = since(|what| matches!(what, Stated::SuppressionLifted));
            let is_void = lifted.is_some_and(|lifted| lifted >= write.at)
                || *reason == Suppressed::Unsubscribe && confirmed.is_some_and(|at| at > write.at);
            let new = (*reason, write.at);
            (!is_void && before.is_none_or(|before| is_before(new, before))).then_some(Some(new))
        }
        (Change::Clear, Some(_)) => Some(None),
        // Who confirms anew after having unsubscribed may be mailed again.
        (Change::Keep, Some((Suppressed::Unsubscribe, since))) => {
            // The last of them: at equal times it wins. An opt-out that suppresses nothing does not count here.
            confirmed.is_some_and(|at| at > since).then_some(None)
        }
        (Change::Clear, None) | (Change::Keep, _) => None,
    }
}

/// Destinations were told otherwise, or say otherwise themselves: the person agreed anew, and that lifted a suppression
/// or had made this unsubscription void before it came.
pub(super) fn stands_anew(
    known: &Known,
    write: &ContactWrite,
    facts: &[Stated],
    suppression: Suppression,
) -> bool {
    match write.suppress {
        Change::Keep => suppression == Some(None),
        Change::Set(Suppressed::Unsubscribe) => {
            suppression.is_none() && known.suppressed.is_none() && facts.contains(&Stated::OptOut)
        }
        _ => false,
    }
}

/// A list that names every night who has unsubscribed moves nothing: only who agreed since has unsubscribed anew.
pub(super) fn repeats(known: &Known, write: &ContactWrite, facts: &[Stated]) -> bool {
    let stands = known.suppressed.is_some_and(|(reason, _)| reason == Suppressed::Unsubscribe);
    let wishes = write.opt_in == Some(false) && write.suppress == Change::Set(Suppressed::Unsubscribe);
    stands && wishes && !facts.iter().any(|fact| ends_consent(*fact))
}

/// Whether a reason takes the place of another.
fn is_before(new: (Suppressed, Millis), old: (Suppressed, Millis)) -> bool {
    let rank = |(reason, at): (Suppressed, Millis)| match reason {
        Suppressed::Erasure => (0, Millis(at.0.saturating_neg()), reason as u8),
        Suppressed::Unsubscribe => (2, Millis(at.0.saturating_neg()), 0),
        _ => (1, at, reason as u8),
    };
    rank(new) < rank(old)
}
