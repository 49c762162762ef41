//! Rows in the tables of contacts, beside those of `full.rs`.

use mailspan_core::contact::{Ask, Change, ContactKey, Permission, Suppressed};
use mailspan_core::{Millis, Name};
use mailspan_store::{FieldKind, FieldWrite, SealedWrite, TenantWrite, Write};

use crate::contacts::{address, update, upsert, write};
use crate::harness::{Harness, NOW, event};

/// Contacts, one of them erased and one asked to confirm; a suppression, a field, a tenant, a sealed secret.
pub async fn fill(hub: &Harness) {
    let tenant = Name::default_tenant();
    let mut one = upsert(1, Some("one@full.example"), Some("full-1"));
    one.opt_in = Some(true);
    one.ask = Some(Box::new(Ask {
        token: [7; 32],
        expires_at: Millis(NOW.0 + 1_000),
        gives: Permission::Double,
        mailing: None,
        again: true,
        event: event(9_001, "contact.confirmation_asked", "one@full.example").event,
    }));
    write(hub, 9_002, one).await;
    let mut two = upsert(2, Some("two@full.example"), Some("full-2"));
    two.suppress = Change::Set(Suppressed::Manual);
    write(hub, 9_003, two).await;
    write(hub, 9_004, upsert(3, Some("three@full.example"), Some("full-3"))).await;
    let mut gone = update(4, "full-3");
    gone.erase = true;
    write(hub, 9_005, gone).await;
    let key = ContactKey::Address(address("two@full.example"));
    assert!(hub.store.contact(&tenant, &key).await.unwrap().is_some());
    let at = NOW;
    let field =
        FieldWrite { tenant: tenant.clone(), name: "plan".to_owned(), kind: Some(FieldKind::String), at };
    hub.store.write(Write::Field(field)).await.unwrap();
    let made = TenantWrite { name: Name::new("full"), settings: "{}".to_owned(), at };
    hub.store.write(Write::Tenant(made)).await.unwrap();
    let (about, key_id) = ("endpoint/full".to_owned(), "k".to_owned());
    let sealed = SealedWrite { tenant, about, key_id, sealed: vec![1, 2, 3], at };
    hub.store.write(Write::Sealed(sealed)).await.unwrap();
}

/// What can be read of it, as text.
pub async fn shown(hub: &Harness) -> Vec<String> {
    let (store, tenant) = (&hub.store, Name::default_tenant());
    let mut shown = Vec::new();
    for name in ["one@full.example", "two@full.example", "three@full.example"] {
        let key = ContactKey::Address(address(name));
        shown.push(format!("{:?}", store.contact(&tenant, &key).await.unwrap()));
    }
    assert!(shown[0].contains("full-1"), "the first contact is not there: {}", shown[0]);
    shown.push(format!("{:?}", store.field_kinds(&tenant).await.unwrap()));
    shown.push(format!("{:?}", store.tenants().await.unwrap()));
    shown
}
