//! Writes one after the other.

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
    (
        Known { contact: applied.after.clone(), facts, agreed, suppressed, formerly: Formerly::default() },
        applied,
    )
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
        let wish = ContactWrite { opt_in: *opt_in, permission: Some(*level), ..write(at, WriteMode::Upsert) };
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
    assert_eq!((event_type, data.contains(r#""changed":["opt_in"]"#)), ("contact.updated", true), "{data}");
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
            assert_eq!((applied.ask, applied.facts.contains(&Stated::Asked)), (asked, asked), "{reason:?}");
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
