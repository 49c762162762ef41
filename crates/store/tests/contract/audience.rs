//! Lists of contacts, and what a tenant declares: cursors, fields, tenants, secrets.

use std::collections::BTreeMap;

use mailspan_core::contact::{Change, ContactKey, ContactWrite};
use mailspan_core::{Millis, Name};
use mailspan_store::{
    ContactFilter, ContactPage, ContactRow, FieldKind, FieldWrite, SealedWrite, Store, TenantWrite, Trouble,
    Write,
};

use crate::contacts::{address, bulk, contact, said, update, upsert, write, write_all};
use crate::harness::{Harness, NOW, accepted, uid};

fn filter() -> ContactFilter {
    ContactFilter { tenant: Some(Name::default_tenant()), ..Default::default() }
}

/// Reads on to the end; what was seen by each id, and where it stands now.
pub async fn follow(
    store: &Store,
    mut rev: i64,
    limit: usize,
    seen: &mut BTreeMap<String, ContactRow>,
) -> i64 {
    loop {
        let list = store.contacts(filter(), ContactPage::After { rev, limit }).await.unwrap();
        for row in list.rows {
            assert!(row.rev > rev, "a row came twice: {row:?}");
            rev = row.rev;
            seen.insert(row.contact.uid.clone(), row);
        }
        assert!(list.rev >= rev);
        rev = list.rev;
        if !list.more {
            return rev;
        }
    }
}

pub async fn no_row_is_passed_over_by_a_cursor(hub: Harness) {
    let rows = |from: u64| (from..from + 20).map(|n| said(n, upsert(n, Some(&format!("a{n}@b.co")), None)));
    write_all(&hub, rows(0).collect()).await;
    let mut seen = BTreeMap::new();
    let mut rev = follow(&hub.store, 0, 7, &mut seen).await;
    assert_eq!(seen.len(), 20);
    for round in 1..5 {
        write_all(&hub, rows(round * 100).collect()).await;
        let named = Change::Set(format!("l{round}"));
        let id = uid(round);
        let n = round * 1_000;
        write(&hub, n, ContactWrite { locale: named.clone(), ..update(n, &id) }).await;
        rev = follow(&hub.store, rev, 3, &mut seen).await;
        assert_eq!(seen.len(), 20 + 20 * round as usize);
        assert_eq!(seen[&id].contact.locale, Some(format!("l{round}")));
    }
    // Nothing new: nothing comes, and nothing is said again by a write that changes nothing.
    write_all(&hub, rows(0).collect()).await;
    let list = hub.store.contacts(filter(), ContactPage::After { rev, limit: 5 }).await.unwrap();
    assert_eq!((list.rows.len(), list.more, list.rev), (0, false, rev));
}

pub async fn contacts_are_filtered_and_numbered(hub: Harness) {
    for n in 1..=9 {
        let mut one = upsert(n, Some(&format!("a{n}@b.co")), None);
        one.opt_in = Some(n % 2 == 0);
        one.project = Change::Set(format!("p{}", n % 3));
        if n > 6 {
            one.locale = Change::Set("en".to_owned());
        }
        let mut receipt = bulk(vec![said(n, one)]);
        // A clock that stands still, and one that goes back: the time of a row does not.
        receipt.received_at = Millis(NOW.0 + [0, 0, 5, 5, 4, 3, 8, 8, 8][n as usize - 1]);
        accepted(hub.store.write(Write::Accept(Box::new(receipt))).await);
    }
    let uids = |rows: &[ContactRow]| rows.iter().map(|row| row.contact.uid.clone()).collect::<Vec<_>>();
    let page = |page, limit| ContactPage::Numbered { page, limit };
    let list = hub.store.contacts(filter(), page(2, 4)).await.unwrap();
    assert_eq!((list.total, list.more, uids(&list.rows)), (Some(9), true, (5..9).map(uid).collect()));
    let list = hub.store.contacts(filter(), page(3, 4)).await.unwrap();
    assert_eq!((list.more, uids(&list.rows)), (false, vec![uid(9)]));
    assert!(hub.store.contacts(filter(), page(4, 4)).await.unwrap().rows.is_empty());

    let check = async |filter: ContactFilter, expected: &[u64]| {
        let expected: Vec<_> = expected.iter().map(|n| uid(*n)).collect();
        let list = hub.store.contacts(filter.clone(), page(1, 100)).await.unwrap();
        assert_eq!(
            (uids(&list.rows), list.total),
            (expected.clone(), Some(expected.len() as u64)),
            "{filter:?}"
        );
        let after = ContactPage::After { rev: 0, limit: 100 };
        assert_eq!(
            uids(&hub.store.contacts(filter.clone(), after).await.unwrap().rows),
            expected,
            "{filter:?}"
        );
    };
    check(ContactFilter { locale: Some(Some("en".to_owned())), ..filter() }, &[7, 8, 9]).await;
    check(ContactFilter { locale: Some(None), opt_in: Some(true), ..filter() }, &[2, 4, 6]).await;
    check(ContactFilter { project: Some("p1".to_owned()), ..filter() }, &[1, 4, 7]).await;
    let since = |at| ContactFilter { updated_since: Some(Millis(NOW.0 + at)), ..filter() };
    check(since(0), &[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    check(since(1), &[3, 4, 5, 6, 7, 8, 9]).await;
    check(since(5), &[3, 4, 5, 6, 7, 8, 9]).await;
    check(since(8), &[7, 8, 9]).await;
    check(since(9), &[]).await;
    check(ContactFilter { tenant: Some(Name::new("nobody")), ..Default::default() }, &[]).await;
}

pub async fn tenants_fields_and_secrets_are_kept(hub: Harness) {
    let tenant = Name::new("acme");
    let set = |settings: &str, at: i64| {
        Write::Tenant(TenantWrite { name: tenant.clone(), settings: settings.to_owned(), at: Millis(at) })
    };
    hub.store.write(set("{\"rate_per_minute\":10}", 5)).await.unwrap();
    hub.store.write(set("{}", 9)).await.unwrap();
    let row = hub.store.tenant(&tenant).await.unwrap().unwrap();
    assert_eq!((row.settings.as_str(), row.made_at), ("{}", Some(Millis(5))));
    assert_eq!(hub.store.tenant(&Name::new("nobody")).await.unwrap(), None);
    write(&hub, 1, upsert(1, Some("a@b.co"), None)).await;
    let names: Vec<_> = hub.store.tenants().await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(names, [tenant.clone(), Name::default_tenant()]);

    let field = |name: &str, kind| {
        Write::Field(FieldWrite { tenant: tenant.clone(), name: name.to_owned(), kind, at: NOW })
    };
    let code = |wrote: Result<_, Trouble>| match wrote {
        Err(Trouble::Refused(reason)) => reason.code,
        other => format!("{other:?}"),
    };
    hub.store.write(field("plan", Some(FieldKind::String))).await.unwrap();
    hub.store.write(field("plan", Some(FieldKind::String))).await.unwrap();
    hub.store.write(field("Age", Some(FieldKind::Integer))).await.unwrap();
    assert_eq!(code(hub.store.write(field("plan", Some(FieldKind::Date))).await), "field_kind_conflict");
    assert_eq!(code(hub.store.write(field("none", None)).await), "not_found");
    let kinds: Vec<_> =
        hub.store.field_kinds(&tenant).await.unwrap().into_iter().map(|row| (row.name, row.kind)).collect();
    assert_eq!(kinds, [("Age".to_owned(), FieldKind::Integer), ("plan".to_owned(), FieldKind::String)]);
    hub.store.write(field("plan", None)).await.unwrap();
    assert_eq!(hub.store.field_kinds(&tenant).await.unwrap().len(), 1);

    let seal = |about: &str, sealed: &[u8]| {
        let (about, key_id) = (about.to_owned(), "k1".to_owned());
        Write::Sealed(SealedWrite { tenant: tenant.clone(), about, key_id, sealed: sealed.to_vec(), at: NOW })
    };
    hub.store.write(seal("endpoint/1", b"\0one")).await.unwrap();
    hub.store.write(seal("endpoint/2", b"two")).await.unwrap();
    hub.store.write(seal("endpoint/1", b"\0three")).await.unwrap();
    assert_eq!(hub.store.sealed(&tenant, "endpoint/1").await.unwrap().unwrap().sealed, b"\0three");
    assert_eq!(hub.store.sealed_all().await.unwrap().len(), 2);
    hub.store.write(seal("endpoint/2", b"")).await.unwrap();
    assert_eq!(hub.store.sealed(&tenant, "endpoint/2").await.unwrap(), None);
    assert_eq!(hub.store.sealed_all().await.unwrap().len(), 1);
}

/// Fields are merged one by one, attributes replaced whole; all of it comes back as it was written.
pub async fn fields_come_back_as_written(hub: Harness) {
    let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    let mut one = upsert(1, Some("a@b.co"), None);
    one.attributes = Change::Set([("plan".to_owned(), value("{\"x\":[1,null,\"\\u0000\"]}"))].into());
    one.standard = [("FIRSTNAME".to_owned(), Change::Set(value("\"Núria\"")))].into();
    one.custom =
        [("n".to_owned(), Change::Set(value("12345678901"))), ("gone".to_owned(), Change::Set(value("1.5")))]
            .into();
    write(&hub, 1, one).await;
    let mut two = update(2, &uid(1));
    two.attributes = Change::Set([("other".to_owned(), value("true"))].into());
    two.custom = [("gone".to_owned(), Change::Clear)].into();
    let outcome = write(&hub, 2, two).await.contact.unwrap();
    let row = contact(&hub, ContactKey::Address(address("A@B.co"))).await.unwrap();
    assert_eq!(row.contact, *outcome);
    let json = serde_json::to_string(&row.contact.fields).unwrap();
    assert_eq!(
        json,
        r#"{"attributes":{"other":true},"standard":{"FIRSTNAME":"Núria"},"custom":{"n":12345678901}}"#
    );
}
