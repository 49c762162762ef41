//! Which facts a write states, by what is known already.

use super::apply::{Known, asks};
use super::facts::{Fact, Standing, Stated, standing};
use super::{Contact, ContactWrite, Evidence, Suppressed, WriteMode, renewed};

/// A wish that is fulfilled already states nothing.
pub(super) fn stated(known: &Known, write: &ContactWrite) -> Vec<Stated> {
    let mut before = known.facts.clone();
    let mut facts: Vec<Stated> = write.stated.clone();
    if moves(known.contact.as_deref(), write) {
        facts.push(Stated::Moved);
        before.push(Fact { at: write.at, what: Stated::Moved });
    }
    let now = standing(&before);
    let level = wished_level(&before, &now, write);
    facts.extend(level);
    let is_nobody =
        known.contact.is_none() && known.suppressed.is_some_and(|(reason, _)| reason == Suppressed::Erasure);
    match write.opt_in {
        // Who was erased is no person again for being named in a list of unsubscriptions.
        Some(false) if is_nobody && write.mode == WriteMode::Follow => {}
        Some(true) if !now.opt_in() || is_freed(known, &now) => facts.push(Stated::OptIn(None)),
        // Said where nothing was said yet too: an older opt-in that comes late must not win.
        Some(false) if now.opt_in() || now.opted_out_at.is_none() => facts.push(Stated::OptOut),
        _ => {}
    }
    facts.retain(|fact| {
        let same = Fact { at: write.at, what: *fact };
        let levelled = matches!(fact, Stated::Level(level) if *level == now.permission);
        !known.facts.contains(&same) && !levelled
    });
    if write.opt_in == Some(true) && facts.is_empty() && is_renewed(known, write) {
        // Never an opt-in with a level: that would be a confirmation, which lifts an unsubscription.
        facts.push(write.permission.map_or(Stated::OptIn(None), Stated::Level));
    }
    if asks(known, write) {
        facts.push(Stated::Asked);
    }
    facts
}

/// Who agrees after a suppression was lifted agrees anew: destinations were told that nobody had.
pub(super) fn is_freed(known: &Known, now: &Standing) -> bool {
    let lifted = known.facts.iter().filter(|fact| fact.what == Stated::SuppressionLifted);
    lifted
        .map(|fact| fact.at)
        .max()
        .is_some_and(|lifted| now.opted_in_at.is_some_and(|agreed| agreed <= lifted))
}

/// Other proof of an agreement that stands.
fn is_renewed(known: &Known, write: &ContactWrite) -> bool {
    let nothing = Evidence::default();
    renewed::is_renewed(known.agreed.as_ref().unwrap_or(&nothing), write)
}

/// The contact gets another address than it had.
fn moves(before: Option<&Contact>, write: &ContactWrite) -> bool {
    let old = before.and_then(|contact| contact.address.as_ref()).filter(|_| write.mode != WriteMode::Follow);
    old.zip(write.address.as_ref()).is_some_and(|(old, new)| old.key() != new.key())
}

/// Nothing where it would change nothing: what is repeated every hour must not push out what was agreed to.
fn wished_level(before: &[Fact], now: &Standing, write: &ContactWrite) -> Option<Stated> {
    let wish = Stated::Level(write.permission?);
    let has_opted_out = !now.opt_in() && now.opted_out_at.is_some();
    if has_opted_out && write.opt_in != Some(true) {
        return None;
    }
    let mut all = before.to_vec();
    all.push(Fact { at: write.at, what: wish });
    (standing(&all).permission != now.permission).then_some(wish)
}
