//! Leases, the standing of a destination, and what its owner must know of those before it.

use mailspan_core::{Attempt, Millis, Name, Reason};
use mailspan_engine::Fence;
use mailspan_store::{Write, Wrote};

use crate::harness::{Harness, NOW, event};
use crate::nodes::take;

pub async fn leases_only_grow(hub: Harness) {
    let lease = |owner, now, until| Write::Lease {
        name: "job/1".to_owned(),
        owner,
        now: Millis(now),
        until: Millis(until),
    };
    let cases = [
        (lease(1, 0, 10), Some(1)),
        (lease(2, 5, 20), None),
        (lease(1, 9, 30), Some(1)),
        (lease(2, 30, 40), Some(2)),
        (lease(1, 35, 50), None),
        (lease(1, 40, 50), Some(3)),
    ];
    for (write, expected) in cases {
        let shown = format!("{write:?}");
        match hub.store.write(write).await.unwrap() {
            Wrote::Lease { fence } => assert_eq!(fence, expected.map(Fence), "{shown}"),
            other => panic!("{other:?}"),
        }
    }
    // After a restart nobody else lives: the lease is free, and still grows.
    let hub = hub.reopened().await;
    match hub.store.write(lease(9, 41, 60)).await.unwrap() {
        Wrote::Lease { fence } => assert_eq!(fence, Some(Fence(4))),
        other => panic!("{other:?}"),
    }
}

pub async fn a_paused_destination_says_so(hub: Harness) {
    let crm = hub.destination("crm").await;
    assert_eq!(hub.destination("crm").await, crm);
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let reason = Reason::new("unauthorized", "token `CRM_TOKEN` was refused");
    hub.store
        .write(Write::Stand {
            fence: None,
            say: None,
            destination: crm,
            paused: Some(reason.clone()),
            at: NOW,
        })
        .await
        .unwrap();
    let row = hub.store.standing(crm).await.unwrap().unwrap();
    assert_eq!((row.paused, row.pending, row.dead, row.oldest), (Some(reason), 1, 0, Some(NOW)));
    hub.store
        .write(Write::Stand { fence: None, say: None, destination: crm, paused: None, at: NOW })
        .await
        .unwrap();
    assert_eq!(hub.store.destinations(None).await.unwrap()[0].paused, None);
    assert_eq!(hub.store.destinations(Some(Name::new("nobody"))).await.unwrap().len(), 0);
    let sizes = hub.store.sizes().await.unwrap();
    assert_eq!((sizes.destinations[0].pending, sizes.unrouted), (1, 0));
    assert!(sizes.file_bytes + sizes.wal_bytes > 0);
}

pub async fn what_was_sent_lately_is_counted(hub: Harness) {
    let crm = hub.destination("crm").await;
    let other = hub.destination("other").await;
    assert_eq!(hub.store.last_sent().await.unwrap().since(crm, NOW), Some(vec![]));
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let attempt = |at: i64| Attempt {
        at: NOW.plus(at as u64),
        took_ms: 1,
        items: 1,
        status: 200,
        request: None,
        answer: None,
    };
    let attempts = vec![attempt(0), attempt(10), attempt(20)];
    let write =
        Write::Settle { say: vec![], destination: crm, fence, settlements: vec![], attempts, at: NOW };
    hub.store.write(write).await.unwrap();
    let last = hub.store.last_sent().await.unwrap();
    assert_eq!(last.since(crm, NOW.plus(10)), Some(vec![NOW.plus(20), NOW.plus(10)]));
    assert_eq!(last.since(other, NOW), Some(vec![]));
}

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
    let stand =
        Write::Stand { fence: None, say: None, destination: made, paused: Some(reason.clone()), at: NOW };
    hub.store.write(stand).await.unwrap();
    let after = hub.store.look(vec![made]).await.unwrap();
    assert_eq!((before.unrouted, after.unrouted), (true, false));
    assert_eq!(after.standings[&made], (Some(reason), 1));
    assert_eq!(after.leases, hub.store.leases().await.unwrap());
    assert_eq!(hub.store.look(vec![]).await.unwrap().standings.len(), 0);
}

pub async fn a_lease_that_is_given_up_is_free(hub: Harness) {
    let give_up = |name: &str, owner| Write::Release { name: name.to_owned(), owner };
    let shown = async || {
        let rows = hub.store.leases().await.unwrap();
        rows.into_iter().map(|row| (row.name, row.owner, row.until.0)).collect::<Vec<_>>()
    };
    for (name, owner) in [("destination/7", 1), ("node/01", 1), ("node/02", 2)] {
        assert!(take(&hub, name, owner, 0, 50).await.is_some());
    }
    let row = |name: &str, owner, until| (name.to_owned(), owner, until);
    let nodes = [row("node/01", 1, 50), row("node/02", 2, 50)];
    let all = [vec![row("destination/7", 1, 50)], nodes.to_vec()].concat();
    assert_eq!(shown().await, all);
    // Of another, and of one that there is not: nothing changes.
    for (name, owner) in [("destination/7", 2), ("node/02", 1), ("destination/8", 1)] {
        hub.store.write(give_up(name, owner)).await.unwrap();
    }
    assert_eq!(shown().await, all);
    hub.store.write(give_up("destination/7", 1)).await.unwrap();
    hub.store.write(give_up("node/01", 1)).await.unwrap();
    assert_eq!(shown().await, [row("destination/7", 1, 0), row("node/02", 2, 50)]);
    assert_eq!(take(&hub, "destination/7", 2, 1, 50).await, Some(Fence(2)), "the fence grows all the same");
}
