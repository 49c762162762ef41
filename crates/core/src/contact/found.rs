//! What a row of another system's list says that is not known here.

use super::facts::{Stated, standing};
use super::{Change, Contact, ContactWrite, Known, Suppressed};
use serde_json::Value;

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
    if let Some(contact) = &known.contact {
        unmixed(contact, &mut write);
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

/// A system that has one object for all was told standard and custom fields of the contact as attributes, and lists
/// them so: what is as it was told is no attribute. What is otherwise there is of that field, where it is a value of
/// the same kind, else it is left.
fn unmixed(contact: &Contact, write: &mut ContactWrite) {
    let Change::Set(listed) = &mut write.attributes else { return };
    let fields = &contact.fields;
    for (own, changes) in [(&fields.custom, &mut write.custom), (&fields.standard, &mut write.standard)] {
        for (name, value) in own {
            let Some(theirs) = listed.remove(name) else { continue };
            // An attribute of the same name was not told.
            if let Some(attribute) = fields.attributes.get(name) {
                listed.insert(name.clone(), attribute.clone());
            }
            if theirs != *value && same_kind(&theirs, value) {
                changes.entry(name.clone()).or_insert(Change::Set(theirs));
            }
        }
    }
}

fn same_kind(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.is_f64() == other.is_f64(),
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
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

    /// A list whose attributes are so, of a contact with FIRSTNAME and a declared `n`; what is written then.
    fn check_fields(
        listed: &[(&str, Value)],
        own: &[(&str, Value)],
        expected: Option<[Vec<(&str, Value)>; 3]>,
    ) {
        let map = |of: &[(&str, Value)]| -> std::collections::BTreeMap<String, Value> {
            of.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let mut first = self::row(10, &[], "de");
        first.attributes = Change::Set(map(own));
        first.standard = [("FIRSTNAME".to_owned(), Change::Set("Ann".into()))].into();
        first.custom = [("n".to_owned(), Change::Set(5.into()))].into();
        let made = apply(&Known::default(), &first, Millis(10));
        let known = Known { contact: made.after.clone(), ..Known::default() };
        let mut second = found(self::row(11, &[], "de"));
        second.attributes = Change::Set(map(listed));
        let applied = apply(&known, &second, Millis(99));
        match expected {
            None => assert_eq!(applied.turn, Turn::Unchanged, "{listed:?}"),
            Some([attributes, standard, custom]) => {
                let fields = applied.after.unwrap().fields.clone();
                let expected = [map(&attributes), map(&standard), map(&custom)];
                assert_eq!([fields.attributes, fields.standard, fields.custom], expected, "{listed:?}");
            }
        }
    }

    #[test]
    fn fields_that_were_told_as_attributes_come_back_as_fields() {
        let (plan, ann, bea) =
            (("plan", "pro".into()), ("FIRSTNAME", "Ann".into()), ("FIRSTNAME", "Bea".into()));
        let (five, six, text) = (("n", 5.into()), ("n", 6.into()), ("n", "six".into()));
        let own = [plan.clone()];
        check_fields(&[plan.clone(), ann.clone(), five.clone()], &own, None);
        check_fields(
            &[plan.clone(), bea.clone(), six.clone()],
            &own,
            Some([vec![plan.clone()], vec![bea], vec![six]]),
        );
        // No number: it cannot be the field's.
        check_fields(&[plan.clone(), ann.clone(), text], &own, None);
        // One name for both: the account was told the field.
        let both: [(&str, Value); 1] = [("n", 4.into())];
        check_fields(&[ann, five], &both, None);
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
