//! One write applied to one contact: what is kept, what changed, what is said of it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::facts::{Fact, Permission, Standing, Stated, standing};
use super::wishes::{is_freed, stated};
use super::{
    Change, Contact, ContactFields, ContactWrite, ERASED, Evidence, Suppressed, WriteMode, found, told,
};
use crate::{Millis, Reason};

/// What the store knows before a write.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The contact, where there is one.
    pub contact: Option<Contact>,
    /// Facts of the person.
    pub facts: Vec<Fact>,
    /// Of the newest fact that agrees; nothing where it is not known.
    pub agreed: Option<Evidence>,
    /// Why the address (the new one, where it changes) is suppressed, and since when.
    pub suppressed: Option<(Suppressed, Millis)>,
}

/// What kind of change it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Created,
    Updated,
    /// Nothing that can be seen.
    Unchanged,
    /// Known, and left as it was, as the write wished.
    Ignored,
    Erased,
    Refused(Reason),
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Applied {
    pub turn: Turn,
    pub after: Option<Contact>,
    /// Appended with the time and evidence of the write.
    pub facts: Vec<Stated>,
    /// `Some(Some)`: why the address is suppressed now, and since when; `Some(None)`: it is not any more.
    pub suppression: Option<Option<(Suppressed, Millis)>>,
    pub standing: Standing,
    /// The type and `data` of the hub's own event; nothing where nothing is to be said.
    pub event: Option<(&'static str, Box<RawValue>)>,
    /// A confirmation is to be asked for.
    pub ask: bool,
}

/// Pure and total. `learned`: when the hub learned of it, the time of the row.
pub fn apply(known: &Known, write: &ContactWrite, learned: Millis) -> Applied {
    match write.found {
        true if found::is_erased(known) => {
            refused(known, Reason::new(ERASED, "who has this address was erased"))
        }
        true => written(known, &found::differing(known, write), learned),
        false => written(known, write, learned),
    }
}

fn written(known: &Known, write: &ContactWrite, learned: Millis) -> Applied {
    let before = known.contact.as_ref();
    if write.erase {
        return erase(known, write);
    }
    match (before, write.mode) {
        (None, WriteMode::Update) => {
            return refused(known, Reason::new("not_found", "there is no such contact"));
        }
        (Some(_), WriteMode::CreateOnly) => return ignored(known, write),
        _ => {}
    }
    let mut facts = stated(known, write);
    let mut all = known.facts.clone();
    all.extend(facts.iter().map(|&what| Fact { at: write.at, what }));
    let standing = standing(&all);
    let suppression = suppression(known, write, &all).filter(|_| !repeats(known, write, &facts));
    let suppressed_at = match suppression {
        Some(now) => now.map(|(_, at)| at),
        None => known.suppressed.map(|(_, at)| at),
    };
    match (&write.suppress, suppression) {
        // An opt-out says it already.
        (Change::Set(_), Some(Some(_))) if !facts.iter().any(|fact| ends_consent(*fact)) => {
            facts.push(Stated::Suppressed);
        }
        (Change::Clear, Some(None)) => facts.push(Stated::SuppressionLifted),
        _ => {}
    }
    if before.is_none() && write.mode == WriteMode::Follow {
        return Applied {
            turn: Turn::Unchanged,
            after: None,
            facts,
            suppression,
            standing,
            event: suppression.map(|now| told::strangers_event(now, &write.evidence.origin)),
            ask: false,
        };
    }
    let mut after = changed(before, write, learned);
    after.opt_in = standing.opt_in();
    after.permission = standing.permission;
    after.suppressed_at = suppressed_at;
    after.unsubscribed_at = standing.opted_out_at.filter(|_| standing.has_left());
    let mut names = before.map(|before| told::differences(before, &after)).unwrap_or_default();
    // Another reason of the same moment is another suppression: who keeps one by its reason must be told.
    if before.is_some() && matches!(suppression, Some(Some(_))) && !names.contains(&"suppressed_at") {
        names.push("suppressed_at");
    }
    let agrees_anew =
        write.opt_in == Some(true) && known.contact.as_ref().is_some_and(|before| before.opt_in);
    if agrees_anew && !names.contains(&"opt_in") && is_freed(known, &super::standing(&known.facts)) {
        names.push("opt_in");
    }
    let turn = match before {
        None => Turn::Created,
        Some(_) if names.is_empty() => Turn::Unchanged,
        Some(_) => Turn::Updated,
    };
    if turn == Turn::Updated {
        after.updated_at = learned;
    }
    let suppressed = suppression.unwrap_or(known.suppressed).map(|(reason, _)| reason);
    let event = told::event(&turn, before, &after, &names, suppressed, &write.evidence.origin);
    let ask = asks(known, write);
    Applied { turn, after: Some(after), facts, suppression, standing, event, ask }
}

fn refused(known: &Known, reason: Reason) -> Applied {
    Applied {
        turn: Turn::Refused(reason),
        after: known.contact.clone(),
        facts: Vec::new(),
        suppression: None,
        standing: standing(&known.facts),
        event: None,
        ask: false,
    }
}

/// A known contact that is to be left alone may still be asked to confirm.
fn ignored(known: &Known, write: &ContactWrite) -> Applied {
    let ask = asks(known, write);
    let facts = if ask { vec![Stated::Asked] } else { Vec::new() };
    Applied { turn: Turn::Ignored, facts, ask, ..refused(known, Reason::new("ignored", "")) }
}

fn erase(known: &Known, write: &ContactWrite) -> Applied {
    let mut facts = known.facts.clone();
    facts.push(Fact { at: write.at, what: Stated::Erased });
    let standing = standing(&facts);
    // An older request that comes late does not make what was void count again.
    let before_that = known.suppressed.filter(|(why, _)| *why == Suppressed::Erasure).map(|(_, at)| at);
    let erased_at = before_that.map_or(write.at, |at| at.max(write.at));
    let Some(before) = &known.contact else {
        return match write.mode {
            WriteMode::Follow | WriteMode::Upsert => Applied {
                turn: Turn::Erased,
                after: None,
                facts: vec![Stated::Erased],
                suppression: Some(Some((Suppressed::Erasure, erased_at))),
                standing,
                // A person without a contact is known to destinations too.
                event: Some((
                    "contact.erased",
                    told::text(&json!({ "contact": {}, "origin": write.evidence.origin })),
                )),
                ..refused(known, Reason::new("erased", ""))
            },
            _ => refused(known, Reason::new("not_found", "there is no such contact")),
        };
    };
    let data = json!({
        "contact": { "id": before.uid, "external_id": before.external_id },
        "origin": write.evidence.origin,
    });
    Applied {
        turn: Turn::Erased,
        after: None,
        facts: vec![Stated::Erased],
        suppression: Some(Some((Suppressed::Erasure, erased_at))),
        standing,
        event: Some(("contact.erased", told::text(&data))),
        ask: false,
    }
}

fn ends_consent(fact: Stated) -> bool {
    matches!(fact, Stated::OptOut | Stated::DoNotContact | Stated::Erased)
}

/// The same whatever the order of arrival: an unsubscribe is the weakest reason, and void where the person
/// has confirmed anew after it, so the last one counts; of the others the first by its time stays; an erasure is
/// the last word. What happened before a suppression was lifted by hand is void too.
fn suppression(known: &Known, write: &ContactWrite, facts: &[Fact]) -> Option<Option<(Suppressed, Millis)>> {
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

/// A list that names every night who has unsubscribed moves nothing: only who agreed since has unsubscribed anew.
fn repeats(known: &Known, write: &ContactWrite, facts: &[Stated]) -> bool {
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

/// Who must not be mailed is not mailed a question either; who has unsubscribed is, as the answer lifts that.
pub(super) fn asks(known: &Known, write: &ContactWrite) -> bool {
    if known.suppressed.is_some_and(|(reason, _)| reason != Suppressed::Unsubscribe) {
        return false;
    }
    let has_confirmed = known.contact.as_ref().is_some_and(|contact| contact.permission.is_double());
    write.ask.as_ref().is_some_and(|ask| ask.again || !has_confirmed)
}

fn changed(before: Option<&Contact>, write: &ContactWrite, learned: Millis) -> Contact {
    let mut contact = before.cloned().unwrap_or_else(|| Contact {
        uid: write.uid.clone(),
        address: None,
        external_id: None,
        locale: None,
        opt_in: false,
        permission: Permission::None,
        consent_version: None,
        source: None,
        project: None,
        fields: ContactFields::default(),
        suppressed_at: None,
        unsubscribed_at: None,
        created_at: learned,
        updated_at: learned,
    });
    if let Some(address) = &write.address {
        let same = contact.address.as_ref().is_some_and(|old| old.key() == address.key());
        if !same {
            contact.address = Some(address.clone());
        }
    }
    set(&mut contact.external_id, &write.external_id);
    set(&mut contact.locale, &write.locale);
    set(&mut contact.consent_version, &write.consent_version);
    set(&mut contact.source, &write.source);
    set(&mut contact.project, &write.project);
    match &write.attributes {
        Change::Keep => {}
        Change::Clear => contact.fields.attributes.clear(),
        Change::Set(attributes) => contact.fields.attributes = attributes.clone(),
    }
    set_fields(&mut contact.fields.standard, &write.standard);
    set_fields(&mut contact.fields.custom, &write.custom);
    contact
}

fn set(value: &mut Option<String>, change: &Change<String>) {
    match change {
        Change::Keep => {}
        Change::Clear => *value = None,
        Change::Set(new) => *value = Some(new.clone()),
    }
}

fn set_fields(fields: &mut BTreeMap<String, Value>, changes: &BTreeMap<String, Change<Value>>) {
    for (name, change) in changes {
        match change {
            Change::Keep => {}
            Change::Clear => {
                fields.remove(name);
            }
            Change::Set(value) => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contact::ContactKey;

    /// What a sender can tell: its time, what it states, and why the address is suppressed by it.
    type Told = (i64, Stated, Option<Suppressed>);

    fn told() -> impl Strategy<Value = Told> {
        let what = prop_oneof![
            Just((Stated::OptIn(None), None)),
            Just((Stated::OptIn(Some(Permission::Confirmed)), None)),
            Just((Stated::OptIn(Some(Permission::Double)), None)),
            Just((Stated::OptIn(Some(Permission::DoublePlus)), None)),
            Just((Stated::OptOut, None)),
            Just((Stated::OptOut, Some(Suppressed::Unsubscribe))),
            Just((Stated::DoNotContact, Some(Suppressed::Complaint))),
            Just((Stated::Asked, Some(Suppressed::Bounce))),
        ];
        (0..5_i64, what).prop_map(|(at, (what, why))| (at, what, why))
    }

    fn write(at: i64, mode: WriteMode) -> ContactWrite {
        let key = ContactKey::Subject { address: crate::Address::parse("a@b.co").ok(), external_id: None };
        ContactWrite::new(key, mode, "c1".to_owned(), Millis(at), "x")
    }

    /// The known state after a write.
    fn after(known: Known, write: &ContactWrite) -> (Known, Applied) {
        let applied = apply(&known, write, Millis(100));
        let mut facts = known.facts;
        facts.extend(applied.facts.iter().map(|&what| Fact { at: write.at, what }));
        let suppressed = applied.suppression.unwrap_or(known.suppressed);
        let agrees = applied.facts.iter().any(|fact| fact.agrees());
        let agreed = if agrees { Some(write.evidence.clone()) } else { known.agreed };
        (Known { contact: applied.after.clone(), facts, agreed, suppressed }, applied)
    }

    fn said(applied: Applied) -> (&'static str, Value) {
        let (event_type, data) = applied.event.unwrap();
        (event_type, serde_json::from_str(data.get()).unwrap())
    }

    fn all(told: &[Told]) -> Known {
        let mut known = after(Known::default(), &write(0, WriteMode::Upsert)).0;
        for (at, what, why) in told {
            let suppress = why.map_or(Change::Keep, Change::Set);
            let one = ContactWrite { stated: vec![*what], suppress, ..write(*at, WriteMode::Follow) };
            known = after(known, &one).0;
        }
        known
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_order_and_number_of_what_is_told_do_not_count(
            told in prop::collection::vec(told(), 1..7),
            order in prop::collection::vec(0..100_usize, 0..12),
        ) {
            let mut other = told.clone();
            for place in order {
                other.insert(place % other.len(), told[place % told.len()]);
            }
            other.reverse();
            let state = |known: &Known| {
                let contact = known.contact.clone().unwrap();
                (contact.opt_in, contact.permission, contact.unsubscribed_at, known.suppressed.map(|now| now.0))
            };
            let (one, two) = (all(&told), all(&other));
            prop_assert_eq!(state(&one), state(&two), "{:?} and {:?}", told, other);
            let contact = one.contact.unwrap();
            prop_assert_eq!(contact.suppressed_at, one.suppressed.map(|now| now.1));
        }

        /// What is wished again changes nothing and tells nothing.
        #[test]
        fn a_wish_that_is_fulfilled_is_silent(
            told in prop::collection::vec(told(), 0..5),
            opt_in in any::<bool>(),
            locale in prop::option::of("[a-z]{2}"),
        ) {
            let mut wish = write(50, WriteMode::Upsert);
            wish.opt_in = Some(opt_in);
            wish.locale = locale.map_or(Change::Clear, Change::Set);
            let (known, first) = after(all(&told), &wish);
            prop_assert_eq!(known.contact.as_ref().unwrap().opt_in, opt_in);
            prop_assert_eq!(first.event.is_some(), first.turn == Turn::Updated);
            let (_, again) = after(known, &ContactWrite { at: Millis(60), ..wish });
            prop_assert_eq!(again.turn, Turn::Unchanged);
            prop_assert!(again.event.is_none() && again.facts.is_empty() && again.suppression.is_none());
        }
    }

    /// Levels wished one after the other, each with what was said of `opt_in`.
    fn check_wishes(wishes: &[(Option<bool>, Permission)], expected: Permission) {
        let mut known = after(Known::default(), &write(0, WriteMode::Upsert)).0;
        for (at, (opt_in, level)) in (1..).zip(wishes) {
            let wish =
                ContactWrite { opt_in: *opt_in, permission: Some(*level), ..write(at, WriteMode::Upsert) };
            known = after(known, &wish).0;
        }
        assert_eq!(known.contact.unwrap().permission, expected, "{wishes:?}");
        assert!(known.facts.len() <= 2 * wishes.len());
    }

    /// Lifted, nobody is opted in at a destination by that; whoever agrees then is, and once.
    #[test]
    fn the_next_opt_in_after_a_lift_is_told() {
        let wish = |at| ContactWrite { opt_in: Some(true), ..write(at, WriteMode::Upsert) };
        let suppress = |at, suppress| ContactWrite { suppress, ..write(at, WriteMode::Upsert) };
        let known = after(Known::default(), &wish(1)).0;
        let known = after(known, &suppress(2, Change::Set(Suppressed::Manual))).0;
        let known = after(known, &suppress(3, Change::Clear)).0;
        let (known, told) = after(known, &wish(4));
        let (event_type, data) = told.event.map(|(name, data)| (name, data.get().to_owned())).unwrap();
        assert_eq!(
            (event_type, data.contains(r#""changed":["opt_in"]"#)),
            ("contact.updated", true),
            "{data}"
        );
        assert_eq!(after(known, &wish(5)).1.event.map(|(name, _)| name), None);
    }

    /// Pushed every night it moves nothing; after an opt-in it is another unsubscription, and the last one counts.
    #[test]
    fn an_unsubscription_that_is_pushed_counts_again_after_an_opt_in() {
        let wish = |at, opt_in| ContactWrite { opt_in: Some(opt_in), ..write(at, WriteMode::Upsert) };
        let push = |at| ContactWrite {
            suppress: Change::Set(Suppressed::Unsubscribe),
            ..ContactWrite { mode: WriteMode::Follow, ..wish(at, false) }
        };
        let known = after(after(Known::default(), &wish(1, true)).0, &push(2)).0;
        let (known, night) = after(known, &push(3));
        assert!(night.event.is_none() && night.facts.is_empty() && night.suppression.is_none());
        let known = after(known, &wish(4, true)).0;
        let (known, pushed) = after(known, &push(6));
        assert_eq!(pushed.suppression, Some(Some((Suppressed::Unsubscribe, Millis(6)))));
        assert!(!known.contact.as_ref().unwrap().opt_in);
        // A confirmation from before it lifts nothing any more.
        let double = Stated::OptIn(Some(Permission::Double));
        let late = ContactWrite { stated: vec![double], ..write(5, WriteMode::Upsert) };
        let contact = after(known, &late).0.contact.unwrap();
        assert_eq!((contact.opt_in, contact.suppressed_at), (false, Some(Millis(6))));
    }

    fn ask(at: i64) -> ContactWrite {
        let event = crate::Event {
            seq: None,
            id: crate::EventId(1),
            tenant: crate::Name::default_tenant(),
            source: crate::Name::new("contacts"),
            event_type: crate::EventType::known("contact.confirmation_asked"),
            subject: crate::Subject::read("a@b.co"),
            time: Millis(at),
            received_at: Millis(at),
            test: false,
            transmission: None,
            recipient_role: None,
            extensions: None,
            data: crate::RawValue::NULL.to_owned().into(),
        };
        let (token, expires_at, gives) = ([0; 32], Millis(90), Permission::Double);
        let ask = crate::contact::Ask { token, expires_at, gives, mailing: None, again: true, event };
        ContactWrite { ask: Some(Box::new(ask)), ..write(at, WriteMode::Upsert) }
    }

    /// A question is a mail too.
    #[test]
    fn who_must_not_be_mailed_is_not_asked() {
        for (reason, asked) in Suppressed::ALL.map(|reason| (reason, reason == Suppressed::Unsubscribe)) {
            for mode in [WriteMode::Upsert, WriteMode::CreateOnly] {
                let suppressed = Some((reason, Millis(1)));
                let known = Known { suppressed, ..after(Known::default(), &write(0, WriteMode::Upsert)).0 };
                let applied = apply(&known, &ContactWrite { mode, ..ask(2) }, Millis(2));
                assert_eq!(
                    (applied.ask, applied.facts.contains(&Stated::Asked)),
                    (asked, asked),
                    "{reason:?}"
                );
            }
        }
    }

    #[test]
    fn a_level_alone_brings_nobody_back() {
        use Permission::{Confirmed, Double, DoublePlus, None as Nothing, Single};
        check_wishes(&[(None, Confirmed)], Confirmed);
        check_wishes(&[(Some(true), Double), (Some(false), Nothing), (None, Double)], Nothing);
        check_wishes(&[(Some(true), Double), (Some(false), Nothing), (Some(true), Confirmed)], Confirmed);
        check_wishes(&[(Some(true), DoublePlus), (Some(true), Single), (None, Confirmed)], DoublePlus);
    }

    #[test]
    fn who_is_no_contact_is_told_of_when_suppressed() {
        let block = ContactWrite { suppress: Change::Set(Suppressed::Bounce), ..write(3, WriteMode::Follow) };
        let (known, applied) = after(Known::default(), &block);
        let (event_type, data) = said(applied);
        assert_eq!((event_type, &data["suppressed_for"]), ("contact.suppression_changed", &"bounce".into()));
        assert!(data["contact"]["suppressed_at"].is_string());
        let lift = ContactWrite { suppress: Change::Clear, ..write(4, WriteMode::Follow) };
        let (_, applied) = after(known, &lift);
        let data = said(applied).1;
        assert_eq!((&data["contact"]["suppressed_at"], data.get("suppressed_for")), (&Value::Null, None));
    }

    #[test]
    fn consent_names_the_event_and_a_new_contact_is_told_once() {
        let made = ContactWrite { opt_in: Some(true), ..write(1, WriteMode::Upsert) };
        let (known, applied) = after(Known::default(), &made);
        let (event_type, data) = said(applied);
        assert_eq!((event_type, &data["contact"]["opt_in"]), ("contact.created", &true.into()));
        let mut out = ContactWrite { opt_in: Some(false), ..write(2, WriteMode::Update) };
        out.locale = Change::Set("en".to_owned());
        out.evidence = Evidence { origin: "one_click".to_owned(), ..Evidence::default() };
        let (_, applied) = after(known, &out);
        let (event_type, data) = said(applied);
        assert_eq!(event_type, "contact.unsubscribed");
        assert_eq!(data["changed"], json!(["locale", "opt_in", "permission", "unsubscribed_at"]));
        assert_eq!(data["origin"], "one_click");
    }
}
