//! The suite on PostgreSQL, the oldest version and the newest: a throw-away server, a database for each case, some
//! cases at once.
//!
//! `CASES=replay cargo test …` runs those whose name holds that text.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use mailspan_core::EventId;
use mailspan_store::{Store, Trouble, Write};

use crate::harness::{Harness, event, postgres, receipt};
use crate::{
    accept, afterwards, audience, coalesce, consent, contacts, deliver, ends, erasures, jobs, keep, later,
    leases, nodes, open, renewed, rounds, said, sealed, unsubscribes,
};
use mailspan_testkit::PostgresServer;

type Done = Pin<Box<dyn Future<Output = ()>>>;
type Case = (&'static str, fn(Harness) -> Done);
/// A case with its database to come.
type Work = Box<dyn FnOnce(String) -> Done + Send>;

/// About files, so only for SQLite.
const ABOUT_FILES: [&str; 1] = ["a_copy_of_the_files_at_any_moment_has_what_was_answered"];
/// Cases that run at once.
const AT_ONCE: usize = 3;

fn cases() -> Vec<Case> {
    vec![
        ("a_dead_letter_is_said_with_its_settlement_and_once", |hub| {
            Box::pin(said::a_dead_letter_is_said_with_its_settlement_and_once(hub))
        }),
        ("a_condition_that_fails_is_said_with_its_dead_letter", |hub| {
            Box::pin(said::a_condition_that_fails_is_said_with_its_dead_letter(hub))
        }),
        ("a_pause_under_an_old_fence_is_refused_and_says_nothing", |hub| {
            Box::pin(said::a_pause_under_an_old_fence_is_refused_and_says_nothing(hub))
        }),
        ("the_end_of_a_job_is_said_with_it", |hub| Box::pin(said::the_end_of_a_job_is_said_with_it(hub))),
        ("a_breaker_that_opens_is_said_with_what_is_kept_and_once", |hub| {
            Box::pin(said::a_breaker_that_opens_is_said_with_what_is_kept_and_once(hub))
        }),
        ("what_is_said_of_an_event_is_accepted_with_it_and_once", |hub| {
            Box::pin(said::what_is_said_of_an_event_is_accepted_with_it_and_once(hub))
        }),
        ("a_source_that_pauses_says_so_with_its_round_and_once", |hub| {
            Box::pin(said::a_source_that_pauses_says_so_with_its_round_and_once(hub))
        }),
        ("what_waits_for_nobody_can_be_given_up", |hub| {
            Box::pin(said::what_waits_for_nobody_can_be_given_up(hub))
        }),
        ("the_key_of_identities_is_sealed_under_the_store_key_and_follows_its_rotation", |hub| {
            let case = sealed::the_key_of_identities_is_sealed_under_the_store_key_and_follows_its_rotation;
            Box::pin(case(hub))
        }),
        ("a_page_and_its_cursor_are_kept_together_and_only_differences_make_events", |hub| {
            Box::pin(rounds::a_page_and_its_cursor_are_kept_together_and_only_differences_make_events(hub))
        }),
        ("a_page_under_an_old_fence_is_refused_whole", |hub| {
            Box::pin(rounds::a_page_under_an_old_fence_is_refused_whole(hub))
        }),
        ("a_round_that_is_paused_goes_on_where_it_was", |hub| {
            Box::pin(rounds::a_round_that_is_paused_goes_on_where_it_was(hub))
        }),
        ("what_is_accepted_is_read_back", |hub| Box::pin(accept::what_is_accepted_is_read_back(hub))),
        ("duplicates_are_counted_not_kept", |hub| Box::pin(accept::duplicates_are_counted_not_kept(hub))),
        ("dedupe_reaches_over_closed_segments_and_a_restart", |hub| {
            Box::pin(accept::dedupe_reaches_over_closed_segments_and_a_restart(hub))
        }),
        ("the_first_answer_comes_again_for_the_same_key", |hub| {
            Box::pin(accept::the_first_answer_comes_again_for_the_same_key(hub))
        }),
        ("an_answer_that_names_a_person_comes_again_until_the_erasure", |hub| {
            Box::pin(accept::an_answer_that_names_a_person_comes_again_until_the_erasure(hub))
        }),
        ("one_bad_write_fails_alone_in_its_group", |hub| {
            Box::pin(accept::one_bad_write_fails_alone_in_its_group(hub))
        }),
        ("an_id_that_exists_is_refused_alone", |hub| {
            Box::pin(accept::an_id_that_exists_is_refused_alone(hub))
        }),
        ("consent_is_known_from_the_answer_on", |hub| {
            Box::pin(accept::consent_is_known_from_the_answer_on(hub))
        }),
        ("two_identities_are_one_person", |hub| Box::pin(accept::two_identities_are_one_person(hub))),
        ("the_ring_of_refused_keeps_the_newest", |hub| {
            Box::pin(accept::the_ring_of_refused_keeps_the_newest(hub))
        }),
        ("keys_are_found_by_hash_and_revoked", |hub| {
            Box::pin(accept::keys_are_found_by_hash_and_revoked(hub))
        }),
        ("what_is_handed_on_is_offered_once_with_its_settlement", |hub| {
            Box::pin(deliver::what_is_handed_on_is_offered_once_with_its_settlement(hub))
        }),
        ("who_waits_behind_a_retry_of_consent_makes_it_due", |hub| {
            Box::pin(deliver::who_waits_behind_a_retry_of_consent_makes_it_due(hub))
        }),
        ("what_waits_behind_a_head_is_carried_with_it", |hub| {
            Box::pin(coalesce::what_waits_behind_a_head_is_carried_with_it(hub))
        }),
        ("what_waits_is_read_within_bounds", |hub| Box::pin(coalesce::what_waits_is_read_within_bounds(hub))),
        ("what_was_spent_today_outlives_the_process", |hub| {
            Box::pin(coalesce::what_was_spent_today_outlives_the_process(hub))
        }),
        ("where_order_does_not_count_a_replay_waits_for_nobody", |hub| {
            Box::pin(coalesce::where_order_does_not_count_a_replay_waits_for_nobody(hub))
        }),
        ("an_unsubscribe_is_known_when_the_last_destination_has_been_told", |hub| {
            Box::pin(unsubscribes::an_unsubscribe_is_known_when_the_last_destination_has_been_told(hub))
        }),
        ("an_unsubscribe_is_known_though_something_else_remains", |hub| {
            Box::pin(unsubscribes::an_unsubscribe_is_known_though_something_else_remains(hub))
        }),
        ("an_event_goes_through_its_places", |hub| Box::pin(deliver::an_event_goes_through_its_places(hub))),
        ("a_route_under_an_old_fence_or_twice_is_refused_whole", |hub| {
            Box::pin(deliver::a_route_under_an_old_fence_or_twice_is_refused_whole(hub))
        }),
        ("a_settle_under_an_old_fence_is_refused_whole", |hub| {
            Box::pin(deliver::a_settle_under_an_old_fence_is_refused_whole(hub))
        }),
        ("a_lane_has_one_head_and_lanes_run_beside_each_other", |hub| {
            Box::pin(deliver::a_lane_has_one_head_and_lanes_run_beside_each_other(hub))
        }),
        ("a_class_that_is_lowered_frees_the_consent_lane", |hub| {
            Box::pin(deliver::a_class_that_is_lowered_frees_the_consent_lane(hub))
        }),
        ("a_replay_keeps_what_is_done", |hub| Box::pin(deliver::a_replay_keeps_what_is_done(hub))),
        ("only_a_dead_letter_is_discarded", |hub| Box::pin(deliver::only_a_dead_letter_is_discarded(hub))),
        ("attempts_are_found_from_their_delivery", |hub| {
            Box::pin(deliver::attempts_are_found_from_their_delivery(hub))
        }),
        ("leases_are_renewed_together_and_only_by_their_owner", |hub| {
            Box::pin(leases::leases_are_renewed_together_and_only_by_their_owner(hub))
        }),
        ("the_newest_of_a_queue_come_beside_the_oldest", |hub| {
            Box::pin(ends::the_newest_of_a_queue_come_beside_the_oldest(hub))
        }),
        ("a_replay_stands_in_the_class_that_the_router_gave", |hub| {
            Box::pin(ends::a_replay_stands_in_the_class_that_the_router_gave(hub))
        }),
        ("a_claim_says_when_to_come_again", |hub| Box::pin(deliver::a_claim_says_when_to_come_again(hub))),
        ("a_send_to_two_people_is_marked", |hub| Box::pin(deliver::a_send_to_two_people_is_marked(hub))),
        ("leases_only_grow", |hub| Box::pin(leases::leases_only_grow(hub))),
        ("a_paused_destination_says_so", |hub| Box::pin(leases::a_paused_destination_says_so(hub))),
        ("what_was_sent_lately_is_counted", |hub| Box::pin(leases::what_was_sent_lately_is_counted(hub))),
        ("retention_keeps_the_audit_adding_up", |hub| {
            Box::pin(keep::retention_keeps_the_audit_adding_up(hub))
        }),
        ("what_proves_a_fact_stays", |hub| Box::pin(keep::what_proves_a_fact_stays(hub))),
        ("what_needs_a_human_stays", |hub| Box::pin(keep::what_needs_a_human_stays(hub))),
        ("what_stays_hides_nothing_behind_it", |hub| Box::pin(keep::what_stays_hides_nothing_behind_it(hub))),
        ("numbers_are_never_given_twice", |hub| Box::pin(keep::numbers_are_never_given_twice(hub))),
        ("dedupe_keys_go_after_their_time", |hub| Box::pin(keep::dedupe_keys_go_after_their_time(hub))),
        ("what_was_committed_is_there_after_an_end_without_close", |hub| {
            Box::pin(open::what_was_committed_is_there_after_an_end_without_close(hub))
        }),
        ("a_page_and_its_cursor_are_one", |hub| Box::pin(jobs::a_page_and_its_cursor_are_one(hub))),
        ("a_walk_finds_what_matches", |hub| Box::pin(jobs::a_walk_finds_what_matches(hub))),
        ("a_job_that_was_stopped_takes_no_page", |hub| {
            Box::pin(jobs::a_job_that_was_stopped_takes_no_page(hub))
        }),
        ("a_page_discards_or_only_counts", |hub| Box::pin(jobs::a_page_discards_or_only_counts(hub))),
        ("open_jobs_are_bounded_and_listed", |hub| Box::pin(jobs::open_jobs_are_bounded_and_listed(hub))),
        ("a_replay_keeps_the_story_before", |hub| Box::pin(jobs::a_replay_keeps_the_story_before(hub))),
        ("a_fact_of_tomorrow_counts_from_when_it_was_learned", |hub| {
            Box::pin(consent::a_fact_of_tomorrow_counts_from_when_it_was_learned(hub))
        }),
        ("what_decides_is_never_forgotten", |hub| Box::pin(consent::what_decides_is_never_forgotten(hub))),
        ("what_happened_before_an_erasure_makes_nobody", |hub| {
            Box::pin(consent::what_happened_before_an_erasure_makes_nobody(hub))
        }),
        ("a_request_that_only_proves_is_found_by_its_fact", |hub| {
            Box::pin(renewed::a_request_that_only_proves_is_found_by_its_fact(hub))
        }),
        ("who_confirms_after_a_lift_is_told", |hub| {
            Box::pin(consent::who_confirms_after_a_lift_is_told(hub))
        }),
        ("what_a_reported_confirmation_lifts_is_told", |hub| {
            Box::pin(consent::what_a_reported_confirmation_lifts_is_told(hub))
        }),
        ("the_erasure_of_a_stranger_is_followed_to_its_end", |hub| {
            Box::pin(erasures::the_erasure_of_a_stranger_is_followed_to_its_end(hub))
        }),
        ("a_former_address_is_erased_with_its_person", |hub| {
            Box::pin(consent::a_former_address_is_erased_with_its_person(hub))
        }),
        ("a_link_confirms_the_address_that_it_went_to", |hub| {
            Box::pin(consent::a_link_confirms_the_address_that_it_went_to(hub))
        }),
        ("an_echo_is_no_news", |hub| Box::pin(consent::an_echo_is_no_news(hub))),
        ("an_account_that_repeats_an_opt_out_suppresses_nobody", |hub| {
            Box::pin(consent::an_account_that_repeats_an_opt_out_suppresses_nobody(hub))
        }),
        ("a_suppression_is_known_where_deliveries_are_made", |hub| {
            Box::pin(consent::a_suppression_is_known_where_deliveries_are_made(hub))
        }),
        ("a_stronger_reason_takes_the_place_of_an_unsubscription", |hub| {
            Box::pin(renewed::a_stronger_reason_takes_the_place_of_an_unsubscription(hub))
        }),
        ("a_consent_that_is_renewed_is_a_fact_with_its_proof", |hub| {
            Box::pin(renewed::a_consent_that_is_renewed_is_a_fact_with_its_proof(hub))
        }),
        ("what_stands_behind_a_contact_is_read_with_it", |hub| {
            Box::pin(renewed::what_stands_behind_a_contact_is_read_with_it(hub))
        }),
        ("what_others_lose_goes_out_and_does_not_come_back", |hub| {
            Box::pin(erasures::what_others_lose_goes_out_and_does_not_come_back(hub))
        }),
        ("the_matching_table", |hub| Box::pin(contacts::the_matching_table(hub))),
        ("what_changes_is_told_once", |hub| Box::pin(contacts::what_changes_is_told_once(hub))),
        ("consent_is_the_same_in_any_order", |hub| Box::pin(contacts::consent_is_the_same_in_any_order(hub))),
        ("contacts_follow_what_happened", |hub| Box::pin(contacts::contacts_follow_what_happened(hub))),
        ("conflicts_in_a_bulk_keep_the_good_ones", |hub| {
            Box::pin(contacts::conflicts_in_a_bulk_keep_the_good_ones(hub))
        }),
        ("a_changed_address_moves", |hub| Box::pin(contacts::a_changed_address_moves(hub))),
        ("suppressions_are_listed_and_lifted", |hub| {
            Box::pin(renewed::suppressions_are_listed_and_lifted(hub))
        }),
        ("a_confirmation_counts_once", |hub| Box::pin(contacts::a_confirmation_counts_once(hub))),
        ("an_erasure_forgets_the_address", |hub| Box::pin(contacts::an_erasure_forgets_the_address(hub))),
        ("what_is_older_than_an_erasure_is_void", |hub| {
            Box::pin(afterwards::what_is_older_than_an_erasure_is_void(hub))
        }),
        ("an_erasure_is_told_by_all_that_is_known", |hub| {
            Box::pin(afterwards::an_erasure_is_told_by_all_that_is_known(hub))
        }),
        ("an_erasure_is_told_by_what_the_person_was_called", |hub| {
            Box::pin(afterwards::an_erasure_is_told_by_what_the_person_was_called(hub))
        }),
        ("an_echo_states_nothing", |hub| Box::pin(afterwards::an_echo_states_nothing(hub))),
        ("nothing_of_the_person_is_found", |hub| Box::pin(erasures::nothing_of_the_person_is_found(hub))),
        ("what_comes_late_of_who_is_erased_says_nothing", |hub| {
            Box::pin(erasures::what_comes_late_of_who_is_erased_says_nothing(hub))
        }),
        ("who_is_erased_is_not_made_again", |hub| Box::pin(erasures::who_is_erased_is_not_made_again(hub))),
        ("a_walk_goes_on_after_a_restart", |hub| Box::pin(erasures::a_walk_goes_on_after_a_restart(hub))),
        ("what_paused_a_source_or_a_destination_names_nobody_who_is_erased", |hub| {
            Box::pin(erasures::what_paused_a_source_or_a_destination_names_nobody_who_is_erased(hub))
        }),
        ("what_stays_for_good_is_read_once", |hub| Box::pin(keep::what_stays_for_good_is_read_once(hub))),
        ("more_than_are_walked_together_come_to_their_end", |hub| {
            Box::pin(erasures::more_than_are_walked_together_come_to_their_end(hub))
        }),
        ("no_row_is_passed_over_by_a_cursor", |hub| {
            Box::pin(audience::no_row_is_passed_over_by_a_cursor(hub))
        }),
        ("contacts_are_filtered_and_numbered", |hub| {
            Box::pin(audience::contacts_are_filtered_and_numbered(hub))
        }),
        ("tenants_fields_and_secrets_are_kept", |hub| {
            Box::pin(audience::tenants_fields_and_secrets_are_kept(hub))
        }),
        ("fields_come_back_as_written", |hub| Box::pin(audience::fields_come_back_as_written(hub))),
        ("an_envelope_with_later_fields_passes_through_unharmed", |hub| {
            Box::pin(later::an_envelope_with_later_fields_passes_through_unharmed(hub))
        }),
        ("a_lease_that_is_given_up_is_free", |hub| Box::pin(leases::a_lease_that_is_given_up_is_free(hub))),
        ("a_closed_store_says_so", |hub| Box::pin(open::a_closed_store_says_so(hub))),
    ]
}

#[test]
fn the_contract_holds_on_postgresql() {
    holds_on(PostgresServer::start());
}

#[test]
fn the_contract_holds_on_the_newest_postgresql() {
    holds_on(PostgresServer::start_newest());
}

fn holds_on(server: PostgresServer) {
    let mut work: Vec<(&str, Work)> = vec![];
    for (name, case) in cases() {
        work.push((name, Box::new(move |url| Box::pin(async move { case(postgres(url).await).await }))));
    }
    for (name, case) in nodes::cases() {
        work.push((name, Box::new(case)));
    }
    if let Ok(wanted) = std::env::var("CASES") {
        work.retain(|(name, _)| name.contains(&wanted));
    }
    let (work, failed) = (Mutex::new(work), Mutex::new(vec![]));
    let number = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((name, case)) = work.lock().unwrap().pop() else { return };
                    let url = server.database(&format!("case_{}", number.fetch_add(1, Ordering::Relaxed)));
                    let started = std::time::Instant::now();
                    let run = std::thread::spawn(move || {
                        let runtime =
                            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        runtime.block_on(case(url));
                    });
                    let ended = run.join();
                    println!("{:6.1} s  {name}", started.elapsed().as_secs_f64());
                    if ended.is_err() {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "on PostgreSQL these failed (their texts stand above): {failed:?}");
}

/// A case that is added for SQLite must run here too.
#[test]
fn every_case_runs_on_both() {
    let here: Vec<&str> = cases().iter().map(|(name, _)| *name).chain(ABOUT_FILES).collect();
    for line in include_str!("main.rs").lines() {
        let Some((_, rest)) = line.split_once("run(sqlite, ") else { continue };
        let name = rest.trim_end_matches(");").rsplit("::").next().unwrap();
        assert!(here.contains(&name), "add `{name}` to the cases of tests/contract/on_postgres.rs");
    }
}

/// Acknowledged means synced: the server is killed under load, and comes back with all of it.
#[test]
fn what_was_answered_survives_a_kill_of_the_server() {
    let mut server = PostgresServer::start();
    let url = server.database("killed");
    let (under_load, wait) = mpsc::sync_channel(1);
    let is_back = Arc::new(AtomicBool::new(false));
    let seen = is_back.clone();
    let load = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let hub = postgres(url).await;
            let senders =
                (0..8).map(|sender| send_until(hub.store.clone(), sender, seen.clone(), under_load.clone()));
            let mut answered = vec![];
            for sender in senders.map(tokio::spawn).collect::<Vec<_>>() {
                answered.extend(sender.await.unwrap());
            }
            let hub = hub.reopened().await;
            for n in &answered {
                assert!(
                    hub.store.event(EventId(u128::from(*n))).await.unwrap().is_some(),
                    "event {n} is lost"
                );
            }
            assert!(hub.audit_adds_up().await.accepted >= answered.len() as u64);
        });
    });
    wait.recv().unwrap();
    server.killed_and_started();
    is_back.store(true, Ordering::Relaxed);
    load.join().unwrap();
}

/// Sends until the server is back and has answered this sender again; the numbers that were answered.
async fn send_until(
    store: Store,
    sender: u64,
    is_back: Arc<AtomicBool>,
    under_load: mpsc::SyncSender<()>,
) -> Vec<u64> {
    let mut answered = vec![];
    for n in 0..1_000_000 {
        let number = sender * 1_000_000 + n;
        let one = receipt(vec![event(number, "app.x", "a@b.co")]);
        match store.write(Write::Accept(Box::new(one))).await {
            Ok(_) => answered.push(number),
            Err(Trouble::Broken(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(other) => panic!("{other:?}"),
        }
        if answered.len() == 20 {
            let _ = under_load.try_send(());
        }
        if is_back.load(Ordering::Relaxed) && answered.last() == Some(&number) {
            break;
        }
    }
    answered
}
