//! The leases of a node, renewed by one statement, and what it looks at beside them.

use mailspan_core::{Millis, Reason};
use mailspan_store::{Write, Wrote};

use crate::harness::{Harness, NOW, event};

pub async fn leases_are_renewed_together_and_only_by_their_owner(hub: Harness) {
    let take = async |name: &str, owner| {
        let until = Millis(NOW.0 + 1_000);
        let write = Write::Lease { name: name.to_owned(), owner, now: NOW, until };
        match hub.store.write(write).await.unwrap() {
            Wrote::Lease { fence } => fence.map(|fence| fence.0),
            other => panic!("{other:?}"),
        }
    };
    let renew = async |names: &[&str], owner, until| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        match hub.store.write(Write::Renew { names, owner, until: Millis(until) }).await.unwrap() {
            Wrote::Renewed { fences } => fences.into_iter().map(|fence| fence.map(|fence| fence.0)).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((take("a", 1).await, take("b", 1).await, take("c", 2).await), (Some(1), Some(1), Some(1)));
    let far = NOW.0 + 5_000_000;
    let fences: Vec<Option<i64>> = renew(&["c", "b", "never", "a"], 1, far).await;
    assert_eq!(fences, [None, Some(1), None, Some(1)], "in the order of the names");
    let until = async |name: &str| {
        hub.store.leases().await.unwrap().into_iter().find(|row| row.name == name).unwrap().until.0
    };
    assert_eq!((until("a").await, until("b").await, until("c").await), (far, far, NOW.0 + 1_000));
    assert!(hub.store.leases().await.unwrap().iter().all(|row| row.name != "never"), "a renewal makes none");
    // Run out and not taken by another: it goes on under its fence. Beside other writes it is the same.
    let fences: Vec<Option<i64>> = renew(&["a"], 1, NOW.0 - 1).await;
    assert_eq!(fences, [Some(1)]);
    let (fences, made) = tokio::join!(renew(&["a", "b"], 1, far), hub.destination("crm"));
    let fences: Vec<Option<i64>> = fences;
    assert_eq!(fences, [Some(1), Some(1)]);

    hub.accept(vec![event(1, "email.opened", "a@b.co")]).await;
    let before = hub.store.look(vec![made]).await.unwrap();
    hub.route_all(made).await;
    hub.lease(&format!("destination/{}", made.0)).await;
    let reason = Reason::new("operator", "paused by hand");
    hub.store.write(Write::Stand { destination: made, paused: Some(reason.clone()), at: NOW }).await.unwrap();
    let after = hub.store.look(vec![made]).await.unwrap();
    assert_eq!((before.unrouted, after.unrouted), (true, false));
    assert_eq!(after.standings[&made], (Some(reason), 1));
    assert_eq!(after.leases, hub.store.leases().await.unwrap());
    assert_eq!(hub.store.look(vec![]).await.unwrap().standings.len(), 0);
}
