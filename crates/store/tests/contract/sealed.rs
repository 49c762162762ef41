//! The key of identities under the operator's store key.

use mailspan_core::{Name, Subject};
use mailspan_store::{StoreKey, Write, Wrote};

use crate::harness::{Harness, event};

fn key(id: &str, byte: u8) -> StoreKey {
    StoreKey { id: id.to_owned(), key: [byte; 32] }
}

/// Bare, then sealed, then sealed under another key: whoever was known is known.
pub async fn the_key_of_identities_is_sealed_under_the_store_key_and_follows_its_rotation(hub: Harness) {
    let (one, two) = (&[key("one", 1)][..], &[key("two", 2)][..]);
    let rotating = [two, one].concat();
    hub.accept(vec![event(1, "contact.unsubscribed", "a@b.co")]).await;
    let derived = hub.store.derived_key("test");
    let hub = hub.reopened_under(&[], one).await;
    knows(&hub, derived).await;
    // A back-up that comes back without its key, and with another one of the same name.
    let hub = hub.reopened_under(&[&[], two, &[key("one", 9)]], one).await;
    knows(&hub, derived).await;
    let hub = hub.reopened_under(&[], &rotating).await;
    knows(&hub, derived).await;
    // Opened by an old key it is still under that one.
    let hub = hub.reopened_under(&[two], &rotating).await;
    assert!(matches!(hub.store.write(Write::IdentityKey(two[0].clone())).await, Ok(Wrote::Done)));
    knows(&hub, derived).await;
    let hub = hub.reopened_under(&[one, &[]], two).await;
    knows(&hub, derived).await;
}

async fn knows(hub: &Harness, derived: [u8; 32]) {
    assert_eq!(hub.store.derived_key("test"), derived);
    let person = hub.store.person(&Name::default_tenant(), &Subject::read("a@b.co")).await.unwrap();
    assert!(person.unwrap().opted_out_at.is_some());
}
