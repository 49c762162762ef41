//! What a later version wrote, read and carried by this one.

use mailspan_core::{Outcome, Seq, State};

use crate::harness::{Harness, event, settlement};

/// As it stands in the tables, version 1: role, address, external id, transmission, data, each text with its
/// length in front. The last two fields are of a later version.
fn envelope(data: &str) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut plain = vec![1, 2];
    plain.push(1);
    text(&mut plain, "a@b.co");
    plain.push(0);
    plain.push(1);
    text(&mut plain, "tx-7");
    text(&mut plain, data);
    text(&mut plain, "a field of a later version");
    plain.push(9);
    // Not compressed: 0, then the length.
    let mut packed = vec![0];
    packed.extend((plain.len() as u32).to_le_bytes());
    packed.extend(plain);
    packed
}

/// Nodes of two versions share a database while one after another is upgraded.
pub async fn an_envelope_with_later_fields_passes_through_unharmed(hub: Harness) {
    let crm = hub.destination("crm").await;
    let data = r#"{"n":1.50,"later":{"deep":[1e400]},"n":2}"#;
    let packed = envelope(data);
    hub.accept(vec![event(1, "email.opened", "a@b.co")]).await;
    hub.put_envelope(Seq(1), &packed).await;
    let waiting = hub.store.unrouted(10).await.unwrap();
    assert_eq!((waiting.len(), waiting[0].data.get()), (1, data));
    assert_eq!(waiting[0].transmission.as_deref(), Some("tx-7"));
    assert_eq!(waiting[0].subject.address.as_ref().map(|address| address.as_str()), Some("a@b.co"));
    assert_eq!(hub.route_all(crm).await, [crm]);
    let claims = hub.claim(crm).await;
    assert_eq!(claims[0].event.data.get(), data);
    let delivery = claims[0].delivery;
    let delivered = Outcome::Ended { state: State::Delivered, reason: None };
    hub.settle(crm, vec![settlement(delivery, delivered, vec![])]).await.unwrap();
    assert_eq!(hub.envelope(Seq(1)).await, packed, "what was not understood is still there");
    let hub = hub.reopened().await;
    let id = hub.store.delivery(delivery).await.unwrap().unwrap().event_id;
    assert_eq!(hub.store.event(id).await.unwrap().unwrap().event.data.get(), data);
    hub.audit_adds_up().await;
}
