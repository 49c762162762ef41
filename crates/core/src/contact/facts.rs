//! Facts of consent, and the state that is folded from them.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// Levels of permission, as at Maileon: the numbers are stored and spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Permission {
    None = 1,
    Single = 2,
    Confirmed = 3,
    Double = 4,
    /// Double opt-in with leave to track opens and clicks of the one person.
    DoublePlus = 5,
    Other = 6,
}

impl Permission {
    pub const ALL: [Permission; 6] = [
        Permission::None,
        Permission::Single,
        Permission::Confirmed,
        Permission::Double,
        Permission::DoublePlus,
        Permission::Other,
    ];

    pub fn from_number(number: i64) -> Option<Permission> {
        Permission::ALL.into_iter().find(|level| i64::from(*level as u8) == number)
    }

    /// Confirmed by the person: never lowered by a weaker write.
    pub fn is_double(self) -> bool {
        matches!(self, Permission::Double | Permission::DoublePlus)
    }
}

impl From<Permission> for u8 {
    fn from(level: Permission) -> u8 {
        level as u8
    }
}

impl TryFrom<u8> for Permission {
    type Error = String;

    fn try_from(number: u8) -> Result<Permission, String> {
        Permission::from_number(i64::from(number))
            .ok_or_else(|| format!("{number} is no permission: they are 1 to 6"))
    }
}

/// What is stated. The order is that of the fold where times are equal: what forbids comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stated {
    /// A double opt-in was asked for; changes no state.
    Asked,
    /// The contact got another address: what was confirmed before was the one that it had.
    Moved,
    /// A level, given by whoever keeps the list.
    Level(Permission),
    /// Agreed; without a level at least single.
    OptIn(Option<Permission>),
    SuppressionLifted,
    Suppressed,
    OptOut,
    DoNotContact,
    Erased,
}

impl Stated {
    /// As stored in `ledger.what`.
    pub fn number(self) -> i64 {
        match self {
            Stated::OptIn(_) => 0,
            Stated::OptOut => 1,
            Stated::DoNotContact => 2,
            Stated::Asked => 3,
            Stated::Erased => 4,
            Stated::Suppressed => 5,
            Stated::SuppressionLifted => 6,
            Stated::Level(_) => 7,
            Stated::Moved => 8,
        }
    }

    /// From the stored numbers.
    pub fn from_numbers(what: i64, permission: Option<i64>) -> Option<Stated> {
        let level = permission.and_then(Permission::from_number);
        Some(match what {
            0 => Stated::OptIn(level),
            1 => Stated::OptOut,
            2 => Stated::DoNotContact,
            3 => Stated::Asked,
            4 => Stated::Erased,
            5 => Stated::Suppressed,
            6 => Stated::SuppressionLifted,
            7 => Stated::Level(level?),
            8 => Stated::Moved,
            _ => return None,
        })
    }

    pub fn permission(self) -> Option<Permission> {
        match self {
            Stated::OptIn(level) => level,
            Stated::Level(level) => Some(level),
            _ => None,
        }
    }

    /// An opt-in, or a level above none.
    pub fn agrees(self) -> bool {
        match self {
            Stated::OptIn(_) => true,
            Stated::Level(level) => level != Permission::None,
            _ => false,
        }
    }

    /// The word in lists and exports.
    pub fn name(self) -> &'static str {
        match self {
            Stated::OptIn(_) => "opt_in",
            Stated::OptOut => "opt_out",
            Stated::DoNotContact => "do_not_contact",
            Stated::Asked => "confirmation_asked",
            Stated::Erased => "erased",
            Stated::Suppressed => "suppressed",
            Stated::SuppressionLifted => "suppression_lifted",
            Stated::Level(_) => "permission",
            Stated::Moved => "address_changed",
        }
    }
}

/// One fact, as far as the fold looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// When it happened, not when it was learned.
    pub at: Millis,
    pub what: Stated,
}

/// What the facts of a person come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub permission: Permission,
    pub opted_in_at: Option<Millis>,
    pub opted_out_at: Option<Millis>,
}

impl Standing {
    pub fn nothing_said() -> Standing {
        Standing { permission: Permission::None, opted_in_at: None, opted_out_at: None }
    }

    pub fn opt_in(&self) -> bool {
        self.permission != Permission::None
    }

    /// Was in, and is out.
    pub fn has_left(&self) -> bool {
        !self.opt_in() && self.opted_in_at.is_some()
    }
}

/// Folds facts in the order in which they happened: the same whatever the order of arrival, and
/// however often one arrives. An opt-out ends every level before it, at equal times too; a level that
/// the person confirmed (4, 5) is lowered by nothing else, but is a single opt-in (2) where the address has
/// changed since. Of each kind and level only the latest counts: what the store hands over may be these alone.
pub fn standing(facts: &[Fact]) -> Standing {
    let mut facts = facts.to_vec();
    facts.sort_unstable();
    let moved_at = facts.iter().filter(|fact| fact.what == Stated::Moved).map(|fact| fact.at).max();
    let of_address = |at: Millis, level: Permission| match moved_at {
        Some(moved) if level.is_double() && at < moved => Permission::Single,
        _ => level,
    };
    let mut now = Standing::nothing_said();
    for fact in facts {
        match fact.what {
            Stated::OptOut | Stated::DoNotContact | Stated::Erased => {
                now.permission = Permission::None;
                now.opted_out_at = Some(fact.at);
            }
            Stated::OptIn(level) => {
                // Who agrees has at least agreed, whatever level was written beside it.
                let level = level.filter(|level| *level != Permission::None);
                now.permission = raised(now.permission, level.map(|level| of_address(fact.at, level)));
                now.opted_in_at = Some(fact.at);
            }
            Stated::Level(level) => {
                if level != Permission::None {
                    now.opted_in_at = Some(fact.at);
                }
                now.permission = raised(now.permission, Some(of_address(fact.at, level)));
            }
            Stated::Asked | Stated::Moved | Stated::Suppressed | Stated::SuppressionLifted => {}
        }
    }
    now
}

fn raised(now: Permission, stated: Option<Permission>) -> Permission {
    match stated {
        None if now == Permission::None => Permission::Single,
        None => now,
        Some(level) if now.is_double() => match level.is_double() {
            true => now.max(level),
            false => now,
        },
        Some(level) => level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(facts: &[(i64, Stated)], expected: Permission) {
        let facts: Vec<Fact> = facts.iter().map(|&(at, what)| Fact { at: Millis(at), what }).collect();
        assert_eq!(standing(&facts).permission, expected, "{facts:?}");
    }

    #[test]
    fn an_opt_out_beats_what_was_before_it_and_at_its_time() {
        check(&[(5, Stated::OptOut), (3, Stated::OptIn(None))], Permission::None);
        check(&[(5, Stated::OptIn(None)), (5, Stated::OptOut)], Permission::None);
        check(&[(5, Stated::OptOut), (6, Stated::OptIn(None))], Permission::Single);
        check(&[(5, Stated::OptOut), (4, Stated::OptIn(Some(Permission::Double)))], Permission::None);
    }

    #[test]
    fn a_confirmed_level_is_not_lowered() {
        let double = Stated::OptIn(Some(Permission::Double));
        check(&[(1, double), (2, Stated::Level(Permission::None))], Permission::Double);
        check(&[(1, double), (2, Stated::Level(Permission::DoublePlus))], Permission::DoublePlus);
        check(&[(1, Stated::OptIn(Some(Permission::DoublePlus))), (2, double)], Permission::DoublePlus);
        check(
            &[(1, Stated::Level(Permission::Confirmed)), (2, Stated::Level(Permission::None))],
            Permission::None,
        );
        check(&[(1, Stated::OptIn(None)), (2, Stated::Asked)], Permission::Single);
    }

    #[test]
    fn a_confirmation_is_of_an_address() {
        let double = Stated::OptIn(Some(Permission::Double));
        check(&[(1, double), (2, Stated::Moved)], Permission::Single);
        check(&[(3, Stated::Moved), (2, double), (3, double)], Permission::Double);
        check(&[(1, Stated::Level(Permission::Confirmed)), (2, Stated::Moved)], Permission::Confirmed);
        check(&[(1, double), (2, Stated::OptOut), (3, Stated::Moved)], Permission::None);
    }

    fn any_fact() -> impl proptest::strategy::Strategy<Value = Fact> {
        use proptest::prelude::*;
        let level = prop::sample::select(&Permission::ALL[..]);
        let what = prop_oneof![
            Just(Stated::Asked),
            Just(Stated::Moved),
            level.clone().prop_map(Stated::Level),
            prop::option::of(level).prop_map(Stated::OptIn),
            Just(Stated::SuppressionLifted),
            Just(Stated::Suppressed),
            Just(Stated::OptOut),
            Just(Stated::DoNotContact),
            Just(Stated::Erased),
        ];
        (0..6_i64, what).prop_map(|(at, what)| Fact { at: Millis(at), what })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]
        #[test]
        fn the_order_and_number_of_arrivals_do_not_count(
            facts in proptest::collection::vec(any_fact(), 0..8),
            order in proptest::collection::vec(0..100_usize, 0..16),
        ) {
            let known = standing(&facts);
            let mut other = facts.clone();
            for place in order.iter().filter(|_| !facts.is_empty()) {
                let one = facts[place % facts.len()];
                other.insert(place % other.len(), one);
            }
            other.reverse();
            proptest::prop_assert_eq!(standing(&other), known);
            // Of each kind and level the latest is enough.
            let is_latest = |fact: &&Fact| !facts.iter().any(|one| one.what == fact.what && one.at > fact.at);
            let latest: Vec<Fact> = facts.iter().filter(is_latest).copied().collect();
            proptest::prop_assert_eq!(standing(&latest), known);
            if let (Some(out), true) = (known.opted_out_at, known.opt_in()) {
                proptest::prop_assert!(known.opted_in_at > Some(out));
            }
        }
    }
}
