//! What a row of another system's list says that is not known here.

use super::facts::{Stated, standing};
use super::{Change, ContactWrite, Known, Suppressed};

/// True where the address is that of somebody who was erased: a list that still has them makes nobody again.
pub fn is_erased(known: &Known) -> bool {
    known.contact.is_none() && matches!(known.suppressed, Some((Suppressed::Erasure, _)))
}

/// The write with what is news alone. A state of consent that holds here already states nothing, whenever it was
/// said there: it is the echo of what this hub told, or what a webhook told. A row that is older than the
/// contact here changes no profile: what was written here is on its way there.
pub fn differing(known: &Known, write: &ContactWrite) -> ContactWrite {
    let now = standing(&known.facts);
    let mut write = write.clone();
    for fact in std::mem::take(&mut write.stated) {
        match fact {
            Stated::OptIn(_) if now.opt_in() => {}
            Stated::OptOut | Stated::DoNotContact if !now.opt_in() && now.opted_out_at.is_some() => {
                // What no confirmation lifts is news beside an unsubscription.
                if write.suppress == Change::Set(Suppressed::Unsubscribe) {
                    write.suppress = Change::Keep;
                }
            }
            other => write.stated.push(other),
        }
    }
    if known.contact.as_ref().is_some_and(|contact| contact.updated_at >= write.at) {
        write.address = None;
        write.external_id = Change::Keep;
        write.locale = Change::Keep;
        write.consent_version = Change::Keep;
        write.source = Change::Keep;
        write.project = Change::Keep;
        write.attributes = Change::Keep;
        write.standard.clear();
        write.custom.clear();
    }
    write
}

#[cfg(test)]
mod tests {
    use super::super::{Applied, ContactKey, Turn, WriteMode, apply};
    use super::*;
    use crate::{Address, Millis};

    fn row(at: i64, stated: &[Stated], locale: &str) -> ContactWrite {
        let address = Address::parse("a@b.co").unwrap();
        let key = ContactKey::Subject { address: Some(address.clone()), external_id: None };
        let mut write = ContactWrite::new(key, WriteMode::Upsert, "c1".to_owned(), Millis(at), "core");
        write.address = Some(address);
        write.stated = stated.to_vec();
        write.locale = Change::Set(locale.to_owned());
        write
    }

    fn found(write: ContactWrite) -> ContactWrite {
        ContactWrite { found: true, ..write }
    }

    /// Written here at 10, in German and opted in; then the row.
    fn after(row: ContactWrite) -> Applied {
        let first = self::row(10, &[Stated::OptIn(None)], "de");
        let made = apply(&Known::default(), &first, Millis(10));
        let facts = made.facts.iter().map(|&what| super::super::Fact { at: Millis(10), what }).collect();
        let known = Known { contact: made.after, facts, ..Known::default() };
        apply(&known, &row, Millis(99))
    }

    fn check(row: ContactWrite, turn: Turn, facts: &[Stated]) {
        let applied = after(row);
        assert_eq!((applied.turn, applied.facts), (turn, facts.to_vec()));
    }

    #[test]
    fn only_what_is_otherwise_here_is_news() {
        check(found(row(11, &[], "de")), Turn::Unchanged, &[]);
        check(found(row(11, &[], "fr")), Turn::Updated, &[]);
        // Older than what was written here.
        check(found(row(9, &[], "fr")), Turn::Unchanged, &[]);
        check(found(row(10, &[], "fr")), Turn::Unchanged, &[]);
        // An opt-in that is told is a fact; one that is found where somebody is opted in is none.
        check(row(11, &[Stated::OptIn(None)], "de"), Turn::Unchanged, &[Stated::OptIn(None)]);
        check(found(row(11, &[Stated::OptIn(None)], "de")), Turn::Unchanged, &[]);
        check(found(row(11, &[Stated::OptOut], "de")), Turn::Updated, &[Stated::OptOut]);
    }

    #[test]
    fn an_opt_out_that_is_known_suppresses_nothing_a_second_time() {
        let out = row(5, &[Stated::OptOut], "de");
        let facts = vec![super::super::Fact { at: Millis(4), what: Stated::OptOut }];
        let known = Known { facts, ..Known::default() };
        let mut follow = found(ContactWrite { mode: WriteMode::Follow, ..out });
        follow.suppress = Change::Set(Suppressed::Unsubscribe);
        let applied = apply(&known, &follow, Millis(99));
        assert!(applied.facts.is_empty() && applied.suppression.is_none());
        let applied = apply(&Known::default(), &follow, Millis(99));
        assert_eq!(applied.facts, [Stated::OptOut]);
        assert!(applied.suppression.is_some());
        let unsubscribed = Known { suppressed: Some((Suppressed::Unsubscribe, Millis(4))), ..known };
        follow.suppress = Change::Set(Suppressed::Complaint);
        let applied = apply(&unsubscribed, &follow, Millis(99));
        assert_eq!(applied.suppression, Some(Some((Suppressed::Complaint, Millis(5)))));
    }

    #[test]
    fn who_was_erased_is_not_made_again() {
        let erased = Some((Suppressed::Erasure, Millis(3)));
        let known = Known { suppressed: erased, ..Known::default() };
        let applied = apply(&known, &found(row(11, &[], "de")), Millis(99));
        assert!(matches!(applied.turn, Turn::Refused(reason) if reason.code == super::super::ERASED));
    }
}
