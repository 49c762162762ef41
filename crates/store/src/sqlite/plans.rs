//! The plan of every statement that a day of work uses, as the database tells it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mailspan_core::contact::{CONTACTS, Change, ContactKey, ContactWrite, Suppressed, WriteMode};
use mailspan_core::limits::SEGMENT_KEYS_MAX;
use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, DestinationId, Digest, Event, EventId, EventType, Millis, Name, Offer,
    Outcome, Queue, RawValue, Reason, Room, RouteId, Seq, Settlement, State, Subject,
};
use mailspan_engine::Fence;

use super::{Journal, contact_list, contact_rows, erase_reads};
use crate::{
    Arrived, ContactFilter, ContactPage, JobFilter, JobState, Keep, NameKind, NewJob, Page, PageWork,
    Receipt, Routed, SuppressionFilter, Towards, Unread, Walk, Write,
};

thread_local! {
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

pub(crate) fn saw(sql: &str) {
    SEEN.with_borrow_mut(|seen| {
        seen.insert(sql.to_owned());
    });
}

/// What may be read from end to end in hot paths: it is empty at rest, or as long as the configuration.
const SMALL: [&str; 3] = ["unrouted", "destinations", "tenants"];

/// Statements that must use this index: part of the text, then the index.
const EXPECTED: [(&str, &str); 25] = [
    ("ORDER BY d.due, d.id LIMIT", "deliveries_due (destination=? AND queue=? AND due<?)"),
    ("ORDER BY d.due DESC, d.id DESC LIMIT", "deliveries_due (destination=? AND queue=? AND due<?)"),
    ("FROM deliveries h CROSS JOIN deliveries d", "deliveries_lane (person=? AND destination=? AND class=?)"),
    ("DELETE FROM spent", "PRIMARY KEY (destination=? AND quarter<?)"),
    ("SELECT due FROM deliveries", "deliveries_due"),
    ("SELECT destination FROM deliveries", "COVERING INDEX deliveries_due"),
    ("SELECT 1 FROM deliveries INDEXED BY deliveries_lane", "COVERING INDEX deliveries_lane"),
    (
        "SELECT id FROM deliveries INDEXED BY deliveries_lane",
        "deliveries_lane (person=? AND destination=? AND class=?)",
    ),
    ("UPDATE deliveries SET due", "PRIMARY KEY (rowid=?)"),
    ("WHERE event = ?1 AND route = ?2 AND destination = ?3", "deliveries_once"),
    ("SELECT 1 FROM deliveries WHERE event", "deliveries_once"),
    ("SELECT person FROM identities", "PRIMARY KEY"),
    ("SELECT several FROM transmissions", "PRIMARY KEY"),
    ("SELECT id FROM ledger WHERE event", "ledger_event"),
    (
        "FROM contacts INDEXED BY contacts_updated",
        "COVERING INDEX contacts_updated (tenant=? AND updated_at>?)",
    ),
    ("FROM contacts c INDEXED BY contacts_rev", "contacts_rev (tenant=? AND rev>?)"),
    ("FROM contacts c INDEXED BY contacts_person", "contacts_person (tenant=?)"),
    ("WHERE same_as = ?1", "persons_same"),
    ("DELETE FROM identities WHERE person", "identities_person"),
    ("UPDATE deliveries SET state = ?2, due = NULL", "deliveries_lane (person=?"),
    ("FROM deliveries INDEXED BY deliveries_dead WHERE", "deliveries_dead (destination=? AND id>? AND id<?)"),
    ("FROM deliveries INDEXED BY deliveries_replays", "COVERING INDEX deliveries_replays"),
    ("FROM deliveries NOT INDEXED WHERE", "PRIMARY KEY (rowid>? AND rowid<?)"),
    ("AND instr(coalesce(progress, ''), ?1) = 0", "erasures_open"),
    ("FROM erasures x INDEXED BY erasures_open", "erasures_open"),
];

#[test]
fn each_hot_statement_uses_its_index() {
    let mut journal = Journal::in_memory(7, SEGMENT_KEYS_MAX).unwrap();
    a_day_of_work(&mut journal);
    let seen = SEEN.with_borrow(Clone::clone);
    assert!(seen.len() > 40, "only {} statements were seen: does the day still work?", seen.len());
    for sql in &seen {
        let plan = plan_of(&journal, sql);
        check_no_scan(sql, &plan);
    }
    for (part, index) in EXPECTED {
        let sql = seen.iter().find(|sql| sql.contains(part));
        let sql = sql.unwrap_or_else(|| panic!("no statement has `{part}`: name its new text here"));
        let plan = plan_of(&journal, sql);
        assert!(plan.contains(index), "expected {index}\n{sql}\n{plan}");
        let in_order = !part.starts_with("ORDER BY") || !plan.contains("TEMP B-TREE");
        assert!(in_order, "the index gives the order\n{sql}\n{plan}");
    }
}

fn plan_of(journal: &Journal, sql: &str) -> String {
    let mut statement = journal.base.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3)).unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

/// A bounded walk in the order of the primary key is no scan.
fn check_no_scan(sql: &str, plan: &str) {
    let bounded = sql.contains("LIMIT") && !plan.contains("TEMP B-TREE");
    for line in plan.lines().filter(|line| line.starts_with("SCAN ")) {
        let name = line.trim_start_matches("SCAN ").split(' ').next().unwrap_or_default();
        let is_small = SMALL.contains(&name) || matches!(name, "u" | "d" | "CONSTANT" | "(subquery-1)");
        assert!(is_small || bounded, "a scan of {name} in a hot path:\n{sql}\n{plan}");
    }
}

fn a_day_of_work(journal: &mut Journal) {
    let tenant = Name::default_tenant();
    let name =
        |journal: &mut Journal, kind, name: &str| journal.name(&tenant, kind, &Name::new(name)).unwrap();
    let route = RouteId(name(journal, NameKind::Route, "r"));
    let destination = DestinationId(name(journal, NameKind::Destination, "d"));
    let lease = |journal: &mut Journal, name: &str| {
        let (now, until) = (Millis(0), Millis(i64::MAX));
        journal.write(Write::Lease { name: name.to_owned(), owner: 1, now, until }).unwrap();
    };
    lease(journal, "router");
    lease(journal, &format!("destination/{}", destination.0));
    for n in 0..200 {
        journal.write(Write::Accept(Box::new(receipt(n)))).unwrap();
    }
    an_audience(journal);
    let routed = journal.unrouted(1_000).unwrap().into_iter().map(|event| Routed {
        times: mailspan_core::LastTimes::of(&event),
        to: match event.seq {
            // One in seven is unmatched.
            Some(Seq(seq)) if seq % 7 == 0 => vec![],
            _ => vec![Towards {
                say: None,
                route,
                destination,
                class: event.event_type.class(),
                failed: None,
                ordered: true,
            }],
        },
        event,
        opens: 1,
        clicks: 0,
    });
    let routed = routed.collect();
    journal.write(Write::Route { fence: Fence(1), routed }).unwrap();
    let room = Room { oldest: [100; 6], newest: [0, 0, 2, 0, 0, 0] };
    let claims = super::claim::claim(&journal.base, destination, room, Millis(10_000), &[]).unwrap().claims;
    journal.work().unwrap();
    let heads: Vec<DeliveryId> = claims.iter().map(|claim| claim.delivery).collect();
    super::claim::behind(&journal.base, destination, &heads).unwrap();
    super::walk::spent_since(&journal.base, destination, Millis(0)).unwrap();
    let settlements = claims.iter().enumerate().map(|(n, claim)| Settlement {
        delivery: claim.delivery,
        outcome: match n % 3 {
            0 => Outcome::Ended { state: State::Delivered, reason: None },
            1 => Outcome::Ended { state: State::Dead, reason: Some(Reason::new("x", "y")) },
            _ => Outcome::Again {
                due: Millis(20_000),
                queue: Queue::Retry,
                class: Class::Activity,
                reason: None,
            },
        },
        attempts: 1,
        crashes: 0,
        progress: vec![],
        attempt: Some(0),
        hand_on: None,
    });
    let settlements = settlements.collect();
    let attempts =
        vec![Attempt { at: Millis(10), took_ms: 1, items: 1, status: 200, request: None, answer: None }];
    let at = Millis(10_000);
    journal
        .write(Write::Settle { say: vec![], destination, fence: Fence(1), settlements, attempts, at })
        .unwrap();
    let class = Class::Activity;
    let offers = (1..=200).map(|n| Offer {
        event: Seq(n),
        route,
        destination,
        class,
        cause: Cause::Replay,
        ordered: true,
    });
    journal.write(Write::Offer { offers: offers.collect(), again: true, at }).unwrap();
    a_job(journal, destination, at);
    let year = Millis(365 * 86_400_000);
    for _ in 0..20 {
        let keep = Keep { now: year, requests_ms: 1, events_ms: 1, dedupe_ms: 1 };
        journal.write(Write::Retain(keep)).unwrap();
    }
}

fn an_audience(journal: &mut Journal) {
    let write = |n: i64, mode, erase| {
        let key = ContactKey::Subject {
            address: mailspan_core::Address::parse("ann@example.org").ok(),
            external_id: Some("u-1".to_owned()),
        };
        let opt_in = Some(n % 2 == 0);
        let write = ContactWrite::new(key, mode, format!("c{n}"), Millis(n), "api");
        ContactWrite { opt_in, erase, suppress: Change::Set(Suppressed::Manual), ..write }
    };
    let accept = |journal: &mut Journal, n: i64, erase| {
        let mut accepted = receipt(1_000 + n as u128);
        accepted.source = Name::new(CONTACTS);
        accepted.arrivals[0].contact = Some(Box::new(write(n, WriteMode::Upsert, erase)));
        journal.write(Write::Accept(Box::new(accepted))).unwrap();
    };
    for n in 1..5 {
        accept(journal, n, false);
    }
    let (tenant, base) = (Name::default_tenant(), &journal.base);
    let filter = ContactFilter { updated_since: Some(Millis(1)), ..ContactFilter::default() };
    for page in [ContactPage::After { rev: 0, limit: 9 }, ContactPage::Numbered { page: 1, limit: 9 }] {
        contact_list::list(base, &filter, page).unwrap();
    }
    let whole = ContactPage::Numbered { page: 1, limit: 9 };
    contact_list::list(base, &ContactFilter::default(), whole).unwrap();
    let address = mailspan_core::Address::parse("ann@example.org").unwrap();
    for key in [ContactKey::Id("c1".to_owned()), ContactKey::Address(address.clone())] {
        contact_rows::one(base, &tenant, &key).unwrap();
    }
    contact_rows::suppression_of(base, &tenant, &address).unwrap();
    for tenant in [None, Some(tenant.clone())] {
        contact_rows::suppressions(base, &SuppressionFilter { tenant, after: 0, limit: 9 }).unwrap();
    }
    contact_rows::facts_of(base, &tenant, mailspan_core::PersonId(1), 0, 9).unwrap();
    contact_list::proofs(base, &tenant, &[(mailspan_core::PersonId(1), Some(address))]).unwrap();
    contact_rows::confirmation(base, &[0; 32]).unwrap();
    accept(journal, 5, true);
    for _ in 0..20 {
        journal.write(Write::Erase).unwrap();
    }
    erase_reads::open(&journal.base).unwrap();
}

fn a_job(journal: &mut Journal, destination: DestinationId, at: Millis) {
    let tenant = Name::default_tenant();
    let new = NewJob { tenant: tenant.clone(), kind: "replay".to_owned(), argument: "{}".to_owned(), at };
    journal.write(Write::Job(new)).unwrap();
    let (now, until) = (Millis(0), Millis(i64::MAX));
    journal.write(Write::Lease { name: "job/1".to_owned(), owner: 1, now, until }).unwrap();
    let walk = |states| Walk {
        tenant: tenant.clone(),
        destination,
        states,
        route: None,
        event_type: None,
        subject: None,
        reason: None,
        since: None,
        until: None,
        after: DeliveryId(0),
        to: DeliveryId(1_000),
        limit: 10,
    };
    super::walk::page(&journal.base, &walk(vec![State::Dead])).unwrap();
    super::walk::page(&journal.base, &walk(vec![State::Delivered])).unwrap();
    super::walk::span(&journal.base).unwrap();
    super::walk::replays_pending(&journal.base, destination).unwrap();
    super::jobs::running(&journal.base).unwrap();
    super::jobs::list(&journal.base, &JobFilter::default()).unwrap();
    let work = PageWork::Discard { unserved: None, deliveries: vec![DeliveryId(1)], note: String::new() };
    let (cursor, end) = ("{}".to_owned(), Some((JobState::Done, String::new())));
    let page = Page { say: None, job: 1, fence: Fence(1), at, cursor, total: None, end, work };
    journal.write(Write::Page(Box::new(page))).unwrap();
}

fn receipt(n: u128) -> Receipt {
    let kinds = ["email.opened", "contact.unsubscribed", "email.bounced"];
    let event = Event {
        seq: None,
        id: EventId(n),
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        event_type: EventType::known(kinds[(n % 3) as usize]),
        subject: Subject::read(&format!("a{}@example.org", n % 20)),
        time: Millis(1_000),
        received_at: Millis(1_000),
        test: false,
        transmission: Some(format!("t{}", n % 40)),
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
    };
    Receipt {
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        credential: "c".to_owned(),
        received_at: Millis(1_000),
        digest: Digest([0; 16]),
        packed: Some(vec![0]),
        arrivals: vec![Arrived { event, part: 0, dedupe: Some(Digest(n.to_le_bytes())), contact: None }],
        unreadable: vec![Unread { part: 1, reason: Reason::new("x", "y"), raw: "z".to_owned() }],
        idempotency: Some(crate::Idempotency {
            api_key: 1,
            key: n.to_string(),
            body: Digest([0; 16]),
            tell: None,
        }),
        round: None,
        say: Vec::new(),
    }
}
