//! Jobs: pages with their cursor, walks, who may write a page.

use mailspan_core::limits::JOBS_OPEN_MAX;
use mailspan_core::{
    Attempt, Cause, DeliveryId, DestinationId, Millis, Name, Outcome, Reason, Settlement, State,
};
use mailspan_engine::Fence;
use mailspan_store::{
    JobFilter, JobState, NewJob, Page, PageItem, PageWork, Trouble, Walk, Walked, Write, Wrote,
};

use crate::harness::{Harness, NOW, ended, event, settlement};
use crate::nodes::{plain, take, two};

impl Harness {
    pub async fn job(&self) -> i64 {
        match self.store.write(Write::Job(new_job())).await.unwrap() {
            Wrote::Key { id } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Events 1 to `n` about as many people, each a dead letter of `crm`.
    pub async fn dead_letters(&self, n: u64) -> DestinationId {
        let crm = self.destination("crm").await;
        self.accept((1..=n).map(|n| event(n, "app.x", &format!("a{n}@b.co"))).collect()).await;
        self.route_all(crm).await;
        let dead = Outcome::Ended { state: State::Dead, reason: Some(Reason::new("bad", "no")) };
        let rows = self.all().await;
        let all = rows.iter().map(|row| settlement(row.id, dead.clone(), vec![])).collect();
        self.settle(crm, all).await.unwrap();
        crm
    }

    async fn walked(&self, walk: Walk) -> Walked {
        self.store.walk(walk).await.unwrap()
    }

    pub async fn page(&self, page: Page) -> Result<(u64, Vec<DestinationId>), Trouble> {
        match self.store.write(Write::Page(Box::new(page))).await? {
            Wrote::Paged { done, destinations } => Ok((done, destinations)),
            other => panic!("{other:?}"),
        }
    }
}

fn new_job() -> NewJob {
    NewJob {
        tenant: Name::default_tenant(),
        kind: "replay".to_owned(),
        argument: "{\"states\":[\"dead\"]}".to_owned(),
        at: NOW,
    }
}

pub fn walk(destination: DestinationId) -> Walk {
    Walk {
        tenant: Name::default_tenant(),
        destination,
        states: vec![State::Dead],
        route: None,
        event_type: None,
        subject: None,
        reason: None,
        since: None,
        until: None,
        after: DeliveryId(0),
        to: DeliveryId(1_000),
        limit: 256,
    }
}

pub fn page(job: i64, fence: Fence, work: PageWork) -> Page {
    Page {
        say: None,
        job,
        fence,
        at: Millis(NOW.0 + 9),
        cursor: "{\"after\":4}".to_owned(),
        total: None,
        end: None,
        work,
    }
}

pub fn offers(walked: &Walked) -> PageWork {
    let item = |row: &mailspan_store::WalkedRow| PageItem { offer: row.offer.clone(), state: row.state };
    PageWork::Offer { items: walked.rows.iter().map(item).collect(), again: false }
}

fn code(result: Result<impl std::fmt::Debug, Trouble>) -> String {
    match result {
        Err(Trouble::Refused(reason)) => reason.code,
        other => panic!("{other:?}"),
    }
}

pub async fn a_page_and_its_cursor_are_one(hub: Harness) {
    let crm = hub.dead_letters(6).await;
    let job = hub.job().await;
    let fence = hub.lease(&format!("job/{job}")).await;
    let first = hub.walked(Walk { limit: 4, ..walk(crm) }).await;
    assert_eq!((first.rows.len(), first.after), (4, first.rows[3].delivery));

    let old = hub.page(page(job, Fence(fence.0 + 1), offers(&first))).await;
    assert_eq!(old.unwrap_err(), Trouble::FenceLost);
    let row = hub.store.job(job).await.unwrap().unwrap();
    assert_eq!((row.state, row.done, row.cursor), (JobState::Running, 0, None));
    assert_eq!(hub.audit_adds_up().await.dead, 6);

    assert_eq!(hub.page(page(job, fence, offers(&first))).await.unwrap(), (4, vec![crm]));
    let row = hub.store.job(job).await.unwrap().unwrap();
    assert_eq!((row.done, row.total, row.cursor.as_deref()), (4, None, Some("{\"after\":4}")));
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.dead, audit.pending), (2, 4));
    assert_eq!(hub.store.replays_pending(crm).await.unwrap(), 4);
    assert!(hub.all().await[..4].iter().all(|row| row.cause == Cause::Replay && row.due.is_some()));

    // The same page once more finds them in another state: nothing is done twice.
    assert_eq!(hub.page(page(job, fence, offers(&first))).await.unwrap(), (0, vec![]));

    let hub = hub.reopened().await;
    let fence = hub.lease(&format!("job/{job}")).await;
    assert_eq!(hub.store.running_jobs().await.unwrap().len(), 1, "it goes on after a restart");
    let rest = hub.walked(Walk { after: first.after, ..walk(crm) }).await;
    assert_eq!((rest.rows.len(), rest.after), (2, DeliveryId(1_000)));
    let last = Page {
        total: Some(6),
        end: Some((JobState::Done, "one was left".to_owned())),
        ..page(job, fence, offers(&rest))
    };
    assert_eq!(hub.page(last).await.unwrap().0, 2);
    let row = hub.store.job(job).await.unwrap().unwrap();
    assert_eq!((row.state, row.done, row.total), (JobState::Done, 6, Some(6)));
    assert_eq!(row.note.as_deref(), Some("one was left"));
    assert_eq!(hub.store.running_jobs().await.unwrap().len(), 0);
    let late = hub.page(page(job, fence, offers(&rest))).await;
    assert_eq!(late.unwrap_err(), Trouble::FenceLost, "the lease goes with the job");
    hub.audit_adds_up().await;
}

pub async fn a_walk_finds_what_matches(hub: Harness) {
    let crm = hub.dead_letters(5).await;
    let other = hub.destination("other").await;
    let mut late = event(6, "email.opened", "a1@b.co");
    late.event.received_at = Millis(NOW.0 + 100);
    hub.accept(vec![late]).await;
    hub.route_all(crm).await;
    let last = hub.all().await[5].id;
    hub.settle(crm, vec![ended(last, State::Delivered)]).await.unwrap();
    let any = vec![State::Delivered, State::Dead];
    let all = Walk { states: any.clone(), ..walk(crm) };
    let route = hub.route_id("r").await;
    let (no_route, text) = (mailspan_core::RouteId(route.0 + 100), |text: &str| Some(text.to_owned()));
    let cases: Vec<(Walk, &[i64])> = vec![
        (walk(crm), &[1, 2, 3, 4, 5]),
        (walk(other), &[]),
        (all.clone(), &[1, 2, 3, 4, 5, 6]),
        (Walk { destination: other, ..all.clone() }, &[]),
        (Walk { states: vec![State::Delivered], ..walk(crm) }, &[6]),
        (Walk { route: Some(route), ..all.clone() }, &[1, 2, 3, 4, 5, 6]),
        (Walk { route: Some(no_route), ..all.clone() }, &[]),
        (Walk { event_type: text("email.*"), ..all.clone() }, &[6]),
        (Walk { event_type: text("app.x"), ..all.clone() }, &[1, 2, 3, 4, 5]),
        (Walk { subject: text("A1@b.co"), ..all.clone() }, &[1, 6]),
        (Walk { subject: text("nobody@b.co"), ..all.clone() }, &[]),
        (Walk { reason: text("bad"), ..all.clone() }, &[1, 2, 3, 4, 5]),
        (Walk { since: Some(Millis(NOW.0 + 1)), ..all.clone() }, &[6]),
        (Walk { until: Some(Millis(NOW.0 + 100)), ..all.clone() }, &[1, 2, 3, 4, 5]),
        (Walk { since: Some(NOW), until: Some(NOW), ..all.clone() }, &[]),
        (Walk { after: DeliveryId(2), to: DeliveryId(4), ..all.clone() }, &[3, 4]),
        (Walk { tenant: Name::new("another"), ..all.clone() }, &[]),
    ];
    for (walk, expected) in cases {
        let shown = format!("{walk:?}");
        let found: Vec<_> = hub.walked(walk).await.rows.iter().map(|row| row.delivery.0).collect();
        assert_eq!(found, expected, "{shown}");
    }
    assert_eq!(hub.store.delivery_span().await.unwrap(), (DeliveryId(1), DeliveryId(6)));
    let found = hub.walked(walk(crm)).await.rows.remove(0);
    assert_eq!((found.state, found.reason.as_deref()), (State::Dead, Some("bad")));
}

pub async fn a_job_that_was_stopped_takes_no_page(hub: Harness) {
    let crm = hub.dead_letters(2).await;
    let job = hub.job().await;
    let fence = hub.lease(&format!("job/{job}")).await;
    let all = hub.walked(walk(crm)).await;
    let stand = |state| Write::JobStand { say: None, id: job, state, note: "why".to_owned(), at: NOW };
    hub.store.write(stand(JobState::Paused)).await.unwrap();
    assert_eq!(code(hub.page(page(job, fence, offers(&all))).await), "job_not_running");
    assert_eq!(hub.store.running_jobs().await.unwrap().len(), 0);
    hub.store.write(stand(JobState::Running)).await.unwrap();
    assert_eq!(hub.store.running_jobs().await.unwrap().len(), 1);
    hub.store.write(stand(JobState::Cancelled)).await.unwrap();
    assert_eq!(hub.page(page(job, fence, offers(&all))).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(code(hub.store.write(stand(JobState::Running)).await), "job_ended");
    let unknown =
        Write::JobStand { say: None, id: 99, state: JobState::Paused, note: String::new(), at: NOW };
    assert_eq!(code(hub.store.write(unknown).await), "not_found");
    let row = hub.store.job(job).await.unwrap().unwrap();
    assert_eq!((row.state, row.note.as_deref(), row.done), (JobState::Cancelled, Some("why"), 0));
    assert_eq!(hub.audit_adds_up().await.dead, 2);
}

pub async fn a_page_discards_or_only_counts(hub: Harness) {
    let crm = hub.dead_letters(3).await;
    let job = hub.job().await;
    let fence = hub.lease(&format!("job/{job}")).await;
    assert_eq!(hub.page(page(job, fence, PageWork::Count { matched: 3 })).await.unwrap(), (3, vec![]));
    assert_eq!(hub.audit_adds_up().await.dead, 3);
    let rows = hub.walked(walk(crm)).await.rows;
    let note = "an old campaign".to_owned();
    hub.store
        .write(Write::Discard { unserved: None, delivery: rows[0].delivery, note: note.clone(), at: NOW })
        .await
        .unwrap();
    let deliveries = rows.iter().map(|row| row.delivery).collect();
    let work = PageWork::Discard { unserved: None, deliveries, note: note.clone() };
    assert_eq!(hub.page(page(job, fence, work)).await.unwrap().0, 2, "what was discarded is passed over");
    assert_eq!(hub.audit_adds_up().await.discarded, 3);
    assert!(hub.all().await.iter().all(|row| row.reason.as_ref().unwrap().text == note));
}

pub async fn open_jobs_are_bounded_and_listed(hub: Harness) {
    for _ in 0..JOBS_OPEN_MAX {
        hub.job().await;
    }
    assert_eq!(code(hub.store.write(Write::Job(new_job())).await), "too_many_jobs");
    let newest = JobFilter { tenant: Some(Name::default_tenant()), before: None, limit: 2 };
    let rows = hub.store.jobs(newest).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [64, 63]);
    assert_eq!((rows[0].kind.as_str(), rows[0].argument.as_str()), ("replay", "{\"states\":[\"dead\"]}"));
    let older = hub.store.jobs(JobFilter { tenant: None, before: Some(3), limit: 9 }).await.unwrap();
    assert_eq!(older.iter().map(|row| row.id).collect::<Vec<_>>(), [2, 1]);
    let others = JobFilter { tenant: Some(Name::new("another")), ..JobFilter::default() };
    assert_eq!(hub.store.jobs(others).await.unwrap().len(), 0);
}

pub async fn a_replay_keeps_the_story_before(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let id = hub.all().await[0].id;
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let offer = hub.store.offer_of(id).await.unwrap().unwrap();
    for status in [200, 201] {
        let attempts = vec![Attempt { at: NOW, took_ms: 3, items: 1, status, request: None, answer: None }];
        let one = Settlement { attempt: Some(0), ..ended(id, State::Delivered) };
        let settle =
            Write::Settle { say: vec![], destination: crm, fence, settlements: vec![one], attempts, at: NOW };
        hub.store.write(settle).await.unwrap();
        let offers = vec![offer.clone()];
        hub.store.write(Write::Offer { offers, again: true, at: NOW }).await.unwrap();
    }
    let statuses: Vec<u16> = hub.store.attempts(id).await.unwrap().iter().map(|row| row.status).collect();
    assert_eq!(statuses, [200, 201], "a delivery that ended well at once keeps its attempt over a replay");
}

/// Several nodes: who was taken over writes no page, whoever serves the destination is woken, and a page that
/// meets settlements of another node breaks no lane.
pub async fn a_job_is_taken_over_with_its_cursor(url: String) {
    let (one, other) = two(url.clone()).await;
    let crm = one.dead_letters(40).await;
    let served = take(&other, &format!("destination/{}", crm.0), 2, i64::MAX, i64::MAX).await.unwrap();
    let mut heard = other.store.listen();
    let job = one.job().await;
    let lease = format!("job/{job}");
    let old = take(&one, &lease, 1, 0, 100).await.unwrap();
    let first = one.walked(Walk { limit: 20, ..walk(crm) }).await;
    assert_eq!(one.page(page(job, old, offers(&first))).await.unwrap(), (20, vec![crm]));
    while heard.next().await != mailspan_store::Heard::Offered(vec![crm]) {}
    assert_eq!(take(&other, &lease, 2, 99, 200).await, None, "it has not run out");

    take(&other, &lease, 2, 100, 200).await.unwrap();
    let rest = other.walked(Walk { after: first.after, ..walk(crm) }).await;
    assert_eq!(one.page(page(job, old, offers(&rest))).await.unwrap_err(), Trouble::FenceLost);
    let row = other.store.job(job).await.unwrap().unwrap();
    assert_eq!((row.done, row.cursor.as_deref()), (20, Some("{\"after\":4}")));

    let new = take(&one, &lease, 1, 200, 300).await.unwrap();
    let claims = other.claim(crm).await;
    let settlements = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
    let settle = Write::Settle {
        say: vec![],
        destination: crm,
        fence: served,
        settlements,
        attempts: vec![],
        at: NOW,
    };
    let last = Page { end: Some((JobState::Done, String::new())), ..page(job, new, offers(&rest)) };
    let (paged, settled) = tokio::join!(one.page(last), other.store.write(settle));
    settled.unwrap();
    assert_eq!(paged.unwrap().0, 20);
    let audit = one.audit_adds_up().await;
    assert_eq!((audit.delivered, audit.pending, audit.dead), (20, 20, 0));

    // The end takes the lease along, and what comes late does not make it again.
    let late = one.page(page(job, old, offers(&rest))).await;
    assert_eq!(late.unwrap_err(), Trouble::FenceLost);
    let left = "SELECT count(*) FROM leases WHERE name LIKE 'job/%'";
    assert_eq!(plain(&url).await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}
