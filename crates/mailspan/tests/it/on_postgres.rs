//! The flows on PostgreSQL: the tests of the modules below, each with a database of its own on one server, some at
//! once. `CASES=replay` runs those whose name holds that text.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mailspan_testkit::{PostgresServer, use_stores};

use crate::{access, api, commands, deliver, hubspot, intake, notices, operations, poll, prepare, reconcile};
use crate::{once, reload, replay, store_key, told_kills};

type Case = (&'static str, fn());

/// Cases that run at once.
const AT_ONCE: usize = 4;

/// Tests of these modules that run on SQLite alone, and why.
const ON_SQLITE_ONLY: &[(&str, &str)] = &[
    (
        "a_back_up_works_with_the_key_that_lay_beside_the_file_and_not_without",
        "is about the file beside a file",
    ),
    (
        "a_source_that_is_slow_is_not_asked_twice_at_once",
        "is about one process; a lease keeps others out, see `a_page_under_an_old_fence_is_refused_whole`",
    ),
    ("no_secret_is_in_a_file_or_on_a_screen", "reads the file for secrets"),
    ("commands_reach_the_running_hub_while_the_file_is_wrong", "is about the socket beside a file"),
    ("check_says_what_is_there_and_what_is_wrong", "opens no store"),
    ("every_example_holds_its_cases", "opens no store"),
    (
        "a_sample_of_every_sender_goes_through_the_front_door",
        "is about the senders; `a_sample_goes_through_the_front_door` is on both",
    ),
    (
        "a_destination_that_fails_is_degraded_waits_and_recovers",
        "asks the hub through its socket, which stands beside a file",
    ),
    ("migrate_makes_the_store_and_leaves_a_served_one_alone", "is about the file, its lock and its socket"),
    (
        "retention_drops_what_is_old_and_keeps_what_is_open",
        "makes rows of the file older; the contract suite does it on both",
    ),
    ("retention_that_is_too_short_is_refused", "opens no store"),
    (
        "a_replay_goes_on_after_a_kill_and_live_traffic_goes_before_it",
        "a thousand dead letters are slow to make; `a_job_of_a_dead_process_goes_on_elsewhere` does it there",
    ),
    (
        "a_job_waits_for_a_paused_destination_and_can_be_cancelled",
        "a thousand dead letters are slow to make; `a_job_of_a_dead_process_goes_on_elsewhere` waits for room there",
    ),
];

const CASES: &[Case] = &[
    ("api::a_listing_says_what_it_did_not_find", api::a_listing_says_what_it_did_not_find),
    ("api::a_map_that_takes_too_much_is_a_dead_letter", api::a_map_that_takes_too_much_is_a_dead_letter),
    (
        "once::each_write_is_done_once_under_a_key_and_answered_the_same",
        once::each_write_is_done_once_under_a_key_and_answered_the_same,
    ),
    (
        "once::a_key_is_of_one_path_and_refusals_are_judged_anew",
        once::a_key_is_of_one_path_and_refusals_are_judged_anew,
    ),
    (
        "once::an_answer_about_a_person_who_was_erased_since_is_given_no_more",
        once::an_answer_about_a_person_who_was_erased_since_is_given_no_more,
    ),
    (
        "once::a_kill_between_write_and_answer_does_it_no_second_time",
        once::a_kill_between_write_and_answer_does_it_no_second_time,
    ),
    (
        "told_kills::a_breaker_is_told_of_once_over_kills_before_and_after_it_is_kept",
        told_kills::a_breaker_is_told_of_once_over_kills_before_and_after_it_is_kept,
    ),
    (
        "told_kills::a_complaint_is_told_of_once_over_kills_before_and_after_its_answer",
        told_kills::a_complaint_is_told_of_once_over_kills_before_and_after_its_answer,
    ),
    (
        "store_key::a_store_is_served_with_its_store_key_alone_and_the_key_can_be_changed",
        store_key::a_store_is_served_with_its_store_key_alone_and_the_key_can_be_changed,
    ),
    (
        "poll::reconciliation_finds_what_webhooks_never_told_and_nothing_else",
        poll::reconciliation_finds_what_webhooks_never_told_and_nothing_else,
    ),
    (
        "poll::a_source_whose_credential_is_refused_is_paused_and_named",
        poll::a_source_whose_credential_is_refused_is_paused_and_named,
    ),
    ("poll::a_second_pull_costs_what_changed", poll::a_second_pull_costs_what_changed),
    (
        "poll::a_page_that_is_too_large_is_asked_for_in_smaller_ones",
        poll::a_page_that_is_too_large_is_asked_for_in_smaller_ones,
    ),
    ("poll::a_vendor_that_asks_for_time_gets_it", poll::a_vendor_that_asks_for_time_gets_it),
    (
        "poll::a_kill_at_any_point_of_a_page_loses_and_doubles_nothing",
        poll::a_kill_at_any_point_of_a_page_loses_and_doubles_nothing,
    ),
    (
        "poll::rounds_that_were_missed_are_made_up_for_once",
        poll::rounds_that_were_missed_are_made_up_for_once,
    ),
    (
        "poll::a_source_can_be_asked_by_a_command_while_no_hub_runs",
        poll::a_source_can_be_asked_by_a_command_while_no_hub_runs,
    ),
    (
        "reconcile::each_difference_to_the_providers_log_is_named_and_can_be_mended",
        reconcile::each_difference_to_the_providers_log_is_named_and_can_be_mended,
    ),
    ("reconcile::what_cannot_be_compared_says_why", reconcile::what_cannot_be_compared_says_why),
    (
        "reconcile::a_resync_tells_again_only_what_changed_since_the_last_push_that_arrived",
        reconcile::a_resync_tells_again_only_what_changed_since_the_last_push_that_arrived,
    ),
    ("reconcile::a_resync_reaches_no_other_destination", reconcile::a_resync_reaches_no_other_destination),
    (
        "reconcile::fields_that_were_told_come_back_as_fields",
        reconcile::fields_that_were_told_come_back_as_fields,
    ),
    ("intake::a_signed_event_is_kept_and_delivered", intake::a_signed_event_is_kept_and_delivered),
    (
        "intake::a_refused_signature_tells_the_operator_and_nobody_else",
        intake::a_refused_signature_tells_the_operator_and_nobody_else,
    ),
    (
        "intake::bad_bodies_get_a_clear_answer_and_lose_nothing",
        intake::bad_bodies_get_a_clear_answer_and_lose_nothing,
    ),
    (
        "intake::the_dashboards_test_batch_is_kept_and_makes_no_delivery",
        intake::the_dashboards_test_batch_is_kept_and_makes_no_delivery,
    ),
    ("intake::paths_and_methods_that_are_not_there", intake::paths_and_methods_that_are_not_there),
    ("deliver::a_lane_keeps_its_order_through_failures", deliver::a_lane_keeps_its_order_through_failures),
    (
        "deliver::a_refusal_is_a_dead_letter_that_can_be_replayed_or_discarded",
        deliver::a_refusal_is_a_dead_letter_that_can_be_replayed_or_discarded,
    ),
    (
        "deliver::a_dead_credential_pauses_and_keeps_the_queue_over_a_restart",
        deliver::a_dead_credential_pauses_and_keeps_the_queue_over_a_restart,
    ),
    (
        "deliver::out_of_tries_is_a_dead_letter_with_the_last_answer",
        deliver::out_of_tries_is_a_dead_letter_with_the_last_answer,
    ),
    (
        "deliver::batches_are_cloudevents_and_each_item_is_settled",
        deliver::batches_are_cloudevents_and_each_item_is_settled,
    ),
    (
        "deliver::a_private_address_that_is_not_allowed_is_not_reached",
        deliver::a_private_address_that_is_not_allowed_is_not_reached,
    ),
    ("api::keys_are_needed_and_have_scopes", api::keys_are_needed_and_have_scopes),
    (
        "api::an_idempotency_key_gives_the_first_answer_again",
        api::an_idempotency_key_gives_the_first_answer_again,
    ),
    ("api::wait_answers_with_what_each_destination_said", api::wait_answers_with_what_each_destination_said),
    (
        "api::cloudevents_come_in_three_modes_and_numbers_survive",
        api::cloudevents_come_in_three_modes_and_numbers_survive,
    ),
    ("access::basic_stands_instead_of_a_signature", access::basic_stands_instead_of_a_signature),
    ("access::bearer_stands_instead_of_a_signature", access::bearer_stands_instead_of_a_signature),
    (
        "access::a_secret_path_stands_instead_of_a_signature",
        access::a_secret_path_stands_instead_of_a_signature,
    ),
    (
        "access::a_credential_comes_in_addition_to_a_signature",
        access::a_credential_comes_in_addition_to_a_signature,
    ),
    (
        "access::a_sample_is_sent_with_the_credential_of_its_source",
        access::a_sample_is_sent_with_the_credential_of_its_source,
    ),
    (
        "commands::explain_tells_why_an_event_went_where_it_went",
        commands::explain_tells_why_an_event_went_where_it_went,
    ),
    ("commands::a_sample_goes_through_the_front_door", commands::a_sample_goes_through_the_front_door),
    (
        "commands::tables_are_for_people_and_json_for_programs",
        commands::tables_are_for_people_and_json_for_programs,
    ),
    ("commands::the_hubs_own_events_can_be_routed", commands::the_hubs_own_events_can_be_routed),
    (
        "operations::the_ledger_knows_who_said_what_and_what_each_destination_answered",
        operations::the_ledger_knows_who_said_what_and_what_each_destination_answered,
    ),
    (
        "operations::a_reload_brings_a_new_route_and_takes_it_away",
        operations::a_reload_brings_a_new_route_and_takes_it_away,
    ),
    (
        "operations::a_broken_configuration_is_not_applied_and_the_log_says_why",
        operations::a_broken_configuration_is_not_applied_and_the_log_says_why,
    ),
    (
        "operations::a_rotated_secret_in_a_file_is_taken_at_a_reload",
        operations::a_rotated_secret_in_a_file_is_taken_at_a_reload,
    ),
    (
        "operations::metrics_have_every_documented_name_and_count_what_happened",
        operations::metrics_have_every_documented_name_and_count_what_happened,
    ),
    ("operations::metrics_are_for_keys_that_may_read", operations::metrics_are_for_keys_that_may_read),
    ("replay::a_dry_run_counts_and_changes_nothing", replay::a_dry_run_counts_and_changes_nothing),
    (
        "replay::a_time_range_in_any_state_is_sent_again_to_one_destination",
        replay::a_time_range_in_any_state_is_sent_again_to_one_destination,
    ),
    (
        "replay::a_dead_letter_shows_its_request_and_a_corrected_event_takes_its_place",
        replay::a_dead_letter_shows_its_request_and_a_corrected_event_takes_its_place,
    ),
    ("reload::another_address_gets_the_queue", reload::another_address_gets_the_queue),
    ("reload::another_map_holds_for_what_waits", reload::another_map_holds_for_what_waits),
    ("reload::a_listener_cannot_be_moved_by_a_reload", reload::a_listener_cannot_be_moved_by_a_reload),
    (
        "reload::a_destination_that_is_taken_away_keeps_its_queue_until_it_is_back",
        reload::a_destination_that_is_taken_away_keeps_its_queue_until_it_is_back,
    ),
    (
        "reload::many_reloads_at_once_end_with_the_last_file",
        reload::many_reloads_at_once_end_with_the_last_file,
    ),
    (
        "hubspot::what_happens_to_a_person_is_in_the_crm_once_whatever_is_repeated",
        hubspot::what_happens_to_a_person_is_in_the_crm_once_whatever_is_repeated,
    ),
    (
        "hubspot::events_that_come_late_do_not_set_a_person_back",
        hubspot::events_that_come_late_do_not_set_a_person_back,
    ),
    (
        "hubspot::an_unknown_contact_is_skipped_counted_and_listed_and_replayed_once_it_is_there",
        hubspot::an_unknown_contact_is_skipped_counted_and_listed_and_replayed_once_it_is_there,
    ),
    ("hubspot::a_route_that_may_creates_contacts", hubspot::a_route_that_may_creates_contacts),
    (
        "hubspot::an_old_mail_that_is_opened_makes_nobody_of_who_was_erased",
        hubspot::an_old_mail_that_is_opened_makes_nobody_of_who_was_erased,
    ),
    (
        "hubspot::metadata_names_the_record_and_consent_follows_the_address",
        hubspot::metadata_names_the_record_and_consent_follows_the_address,
    ),
    (
        "hubspot::a_paused_crm_keeps_its_queue_and_loses_no_opt_out",
        hubspot::a_paused_crm_keeps_its_queue_and_loses_no_opt_out,
    ),
    (
        "notices::a_known_owner_gets_one_task_however_often_it_is_tried",
        notices::a_known_owner_gets_one_task_however_often_it_is_tried,
    ),
    (
        "notices::without_an_owner_the_notify_url_is_told_once",
        notices::without_an_owner_the_notify_url_is_told_once,
    ),
    (
        "notices::deals_get_the_activity_too_and_deals_that_are_gone_do_not_lose_it",
        notices::deals_get_the_activity_too_and_deals_that_are_gone_do_not_lose_it,
    ),
    (
        "notices::an_owner_whom_the_crm_does_not_know_is_named_in_a_task_of_the_contact",
        notices::an_owner_whom_the_crm_does_not_know_is_named_in_a_task_of_the_contact,
    ),
    (
        "prepare::a_bare_account_is_prepared_and_then_works",
        prepare::a_bare_account_is_prepared_and_then_works,
    ),
    (
        "prepare::what_is_not_prepared_is_a_dead_letter_that_names_it",
        prepare::what_is_not_prepared_is_a_dead_letter_that_names_it,
    ),
    ("prepare::prepare_names_what_it_cannot_create", prepare::prepare_names_what_it_cannot_create),
    ("prepare::test_tells_what_works_from_what_does_not", prepare::test_tells_what_works_from_what_does_not),
    (
        "prepare::pause_keeps_the_queue_and_resume_sends_it",
        prepare::pause_keeps_the_queue_and_resume_sends_it,
    ),
    ("api::wait_shows_the_answer_to_each_request", api::wait_shows_the_answer_to_each_request),
    (
        "api::extensions_of_a_cloudevent_reach_the_receiver",
        api::extensions_of_a_cloudevent_reach_the_receiver,
    ),
    (
        "api::bad_paths_and_bodies_are_problems_like_everything_else",
        api::bad_paths_and_bodies_are_problems_like_everything_else,
    ),
    (
        "notices::an_owner_whom_the_crm_does_not_know_is_told_once_at_the_notify_url",
        notices::an_owner_whom_the_crm_does_not_know_is_told_once_at_the_notify_url,
    ),
];

#[test]
fn the_flows_hold_on_postgresql() {
    hold_on(PostgresServer::start());
}

#[test]
fn the_flows_hold_on_the_newest_postgresql() {
    hold_on(PostgresServer::start_newest());
}

fn hold_on(server: PostgresServer) {
    let wanted = std::env::var("CASES").unwrap_or_default();
    let work: Vec<Case> = CASES.iter().filter(|(name, _)| name.contains(&wanted)).copied().collect();
    let (work, failed) = (Mutex::new(work), Mutex::new(Vec::new()));
    let (server, number) = (Arc::new(server), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((name, case)) = work.lock().unwrap().pop() else { return };
                    let (server, number) = (server.clone(), number.clone());
                    let started = std::time::Instant::now();
                    let run = std::thread::spawn(move || {
                        use_stores(move || {
                            server.database(&format!("flow_{}", number.fetch_add(1, Ordering::Relaxed)))
                        });
                        case();
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

/// A test that is added for SQLite must run here too, or say why not.
#[test]
fn every_flow_runs_on_both() {
    let sources = [
        ("intake", include_str!("intake.rs")),
        ("deliver", include_str!("deliver.rs")),
        ("api", include_str!("api.rs")),
        ("access", include_str!("access.rs")),
        ("commands", include_str!("commands.rs")),
        ("operations", include_str!("operations.rs")),
        ("replay", include_str!("replay.rs")),
        ("reload", include_str!("reload.rs")),
        ("hubspot", include_str!("hubspot.rs")),
        ("notices", include_str!("notices.rs")),
        ("prepare", include_str!("prepare.rs")),
        ("store_key", include_str!("store_key.rs")),
        ("poll", include_str!("poll.rs")),
        ("reconcile", include_str!("reconcile.rs")),
        ("once", include_str!("once.rs")),
        ("told_kills", include_str!("told_kills.rs")),
    ];
    for (module, text) in sources {
        let mut lines = text.lines();
        while lines.any(|line| line == "#[test]") {
            let line = lines.find(|line| !line.starts_with("#[")).unwrap_or_default();
            let name = line.trim_start_matches("pub ").trim_start_matches("fn ").split('(').next().unwrap();
            let runs = CASES.iter().any(|(case, _)| *case == format!("{module}::{name}"));
            let is_left_out = ON_SQLITE_ONLY.iter().any(|(only, _)| *only == name);
            assert!(
                runs != is_left_out,
                "add `{module}::{name}` to the cases of on_postgres.rs, or to those that run on SQLite only"
            );
        }
    }
}
