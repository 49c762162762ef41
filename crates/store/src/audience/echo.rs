//! Which events of other sources are no news: what comes back from an account that the hub writes to, and what
//! happened before somebody was erased.

use mailspan_core::Millis;
use mailspan_core::contact::{ContactWrite, Fact, Stated, Suppressed, standing};
use mailspan_core::limits::ECHO_SKEW_MS;

use super::{Audience, Confirmed, HeldBack, Written, find};

/// When a suppression of the person was last lifted, as far as that can be told: by a word of an operator, or by a
/// confirmation after an opt-out, which is named.
fn free_at<'c>(
    facts: &[Fact],
    confirmed: impl Iterator<Item = &'c Confirmed>,
) -> Option<(Millis, Option<i64>)> {
    let out_at = facts.iter().filter(|fact| fact.what == Stated::OptOut).map(|fact| fact.at).min();
    let is_after = |at: Millis| out_at.is_some_and(|out| out < at);
    let frees = |fact: &&Fact| match fact.what {
        Stated::SuppressionLifted => true,
        Stated::Level(level) => level.is_double() && is_after(fact.at),
        _ => false,
    };
    let stated = facts.iter().filter(frees).map(|fact| (fact.at, None));
    let confirmed = confirmed.filter(|one| is_after(one.at)).map(|one| (one.learned, Some(one.fact)));
    stated.chain(confirmed).max()
}

impl Audience {
    /// Why the event changes nothing, where it does not. `write.at` is not later than it was learned of.
    pub(super) fn holds_back(&self, write: &ContactWrite) -> Option<HeldBack> {
        match () {
            () if self.is_before_erasure(write) => Some(HeldBack::Erased),
            () if self.is_echo(write) => Some(HeldBack::Echo),
            () => None,
        }
    }

    fn is_before_erasure(&self, write: &ContactWrite) -> bool {
        if write.erase {
            return false;
        }
        let (address, external_id) = find::parts(&write.key);
        let addresses =
            address.into_iter().chain(write.address.as_ref()).map(|address| self.hash_of(address));
        let ids = external_id.into_iter().chain(find::set_id(write)).map(|id| self.hash_of_id(id));
        let mut all = addresses.chain(ids);
        // Nobody may have been known when that was asked for: then the address alone says so.
        let at_address = |hash| self.suppressed(Some(hash)).filter(|(why, _)| *why == Suppressed::Erasure);
        let erased_at = |hash| self.gone.get(&hash).copied().max(at_address(hash).map(|(_, at)| at));
        // What the hub wrote of the erased person comes back a little later, and its facts are of nobody by now.
        let is_opt_out = write.stated.as_slice() == [Stated::OptOut];
        let later = if write.mirror.is_some() && is_opt_out { ECHO_SKEW_MS } else { 0 };
        all.any(|hash| erased_at(hash).is_some_and(|at| at.0.saturating_add(later) >= write.at.0))
    }

    /// True for an opt-out that the hub states already, where the account only repeats what it holds; and for
    /// what happened there while the hub was writing just that. Only one opt-in or opt-out by itself can be one:
    /// a complaint, or a bounce, is always a word of somebody else.
    fn is_echo(&self, write: &ContactWrite) -> bool {
        let Some(mirror) = &write.mirror else { return false };
        let opts_in = match write.stated.as_slice() {
            [Stated::OptIn(_)] => true,
            [Stated::OptOut] => false,
            _ => return false,
        };
        let Ok(Some(person)) = self.followed(write) else { return false };
        let facts = self.facts_of(person);
        let now = standing(&facts);
        // Who is suppressed was written there as opted out, whatever the person has agreed to.
        let is_suppressed = self.contacts.get(&person).is_some_and(|contact| contact.suppressed_at.is_some());
        let is_out = is_suppressed || !now.opt_in() && now.opted_out_at.is_some();
        if mirror.repeats && !opts_in && is_out {
            return true;
        }
        let persons = self.all_of(person);
        let written = persons.iter().filter_map(|one| self.written.get(one)).flatten();
        let skew = |at: Millis, ms: i64| Millis(at.0.saturating_add(ms));
        // What was told before the address was free again may have been told as no opt-in.
        let confirmed = persons.iter().filter_map(|one| self.confirmed.get(one)).flatten();
        let free_at = if mirror.repeats && !opts_in { free_at(&facts, confirmed) } else { None };
        let was_told_as_none =
            |one: &Written| free_at.is_some_and(|(free, by)| one.from <= free && by != Some(one.fact));
        let may_say_so = |one: &&Written| one.opts_in == opts_in || one.opts_in && was_told_as_none(one);
        written
            .filter(may_say_so)
            .filter(|one| mirror.destinations.iter().any(|destination| destination.0 == one.destination))
            .any(|one| {
                let is_ended = one.until.is_some_and(|until| skew(until, ECHO_SKEW_MS) < write.at);
                skew(one.from, -ECHO_SKEW_MS) <= write.at && !is_ended
            })
    }
}
