//! One suite over a store, whatever is behind it.

// A test starts threads itself; the product does so in runtime.rs only.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod accept;
mod afterwards;
mod audience;
mod coalesce;
mod consent;
mod contacts;
mod deliver;
mod ends;
mod erasures;
mod full;
mod full_contacts;
mod harness;
mod jobs;
mod keep;
mod late;
mod later;
mod leases;
mod moving;
mod nodes;
mod on_postgres;
mod open;
mod renewed;
mod rounds;
mod said;
mod same;
mod scans;
mod sealed;
mod stores;
mod tls;
mod unsubscribes;
mod upgrade;

use std::future::Future;

use harness::{Harness, sqlite};

/// Runs a case of the suite against a back end.
fn run<F: Future<Output = ()>>(open: fn() -> Harness, case: impl FnOnce(Harness) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(case(open()));
}

mod on_sqlite {
    use super::*;

    #[test]
    fn the_key_of_identities_is_sealed_under_the_store_key_and_follows_its_rotation() {
        run(sqlite, sealed::the_key_of_identities_is_sealed_under_the_store_key_and_follows_its_rotation);
    }

    #[test]
    fn what_is_accepted_is_read_back() {
        run(sqlite, accept::what_is_accepted_is_read_back);
    }
    #[test]
    fn duplicates_are_counted_not_kept() {
        run(sqlite, accept::duplicates_are_counted_not_kept);
    }
    #[test]
    fn dedupe_reaches_over_closed_segments_and_a_restart() {
        run(sqlite, accept::dedupe_reaches_over_closed_segments_and_a_restart);
    }
    #[test]
    fn the_first_answer_comes_again_for_the_same_key() {
        run(sqlite, accept::the_first_answer_comes_again_for_the_same_key);
    }
    #[test]
    fn an_answer_that_names_a_person_comes_again_until_the_erasure() {
        run(sqlite, accept::an_answer_that_names_a_person_comes_again_until_the_erasure);
    }
    #[test]
    fn one_bad_write_fails_alone_in_its_group() {
        run(sqlite, accept::one_bad_write_fails_alone_in_its_group);
    }
    #[test]
    fn an_id_that_exists_is_refused_alone() {
        run(sqlite, accept::an_id_that_exists_is_refused_alone);
    }
    #[test]
    fn consent_is_known_from_the_answer_on() {
        run(sqlite, accept::consent_is_known_from_the_answer_on);
    }
    #[test]
    fn two_identities_are_one_person() {
        run(sqlite, accept::two_identities_are_one_person);
    }
    #[test]
    fn the_ring_of_refused_keeps_the_newest() {
        run(sqlite, accept::the_ring_of_refused_keeps_the_newest);
    }
    #[test]
    fn keys_are_found_by_hash_and_revoked() {
        run(sqlite, accept::keys_are_found_by_hash_and_revoked);
    }
    #[test]
    fn an_event_goes_through_its_places() {
        run(sqlite, deliver::an_event_goes_through_its_places);
    }
    #[test]
    fn a_route_under_an_old_fence_or_twice_is_refused_whole() {
        run(sqlite, deliver::a_route_under_an_old_fence_or_twice_is_refused_whole);
    }
    #[test]
    fn a_settle_under_an_old_fence_is_refused_whole() {
        run(sqlite, deliver::a_settle_under_an_old_fence_is_refused_whole);
    }
    #[test]
    fn a_dead_letter_is_said_with_its_settlement_and_once() {
        run(sqlite, said::a_dead_letter_is_said_with_its_settlement_and_once);
    }
    #[test]
    fn a_condition_that_fails_is_said_with_its_dead_letter() {
        run(sqlite, said::a_condition_that_fails_is_said_with_its_dead_letter);
    }
    #[test]
    fn a_pause_under_an_old_fence_is_refused_and_says_nothing() {
        run(sqlite, said::a_pause_under_an_old_fence_is_refused_and_says_nothing);
    }
    #[test]
    fn the_end_of_a_job_is_said_with_it() {
        run(sqlite, said::the_end_of_a_job_is_said_with_it);
    }
    #[test]
    fn a_breaker_that_opens_is_said_with_what_is_kept_and_once() {
        run(sqlite, said::a_breaker_that_opens_is_said_with_what_is_kept_and_once);
    }
    #[test]
    fn what_is_said_of_an_event_is_accepted_with_it_and_once() {
        run(sqlite, said::what_is_said_of_an_event_is_accepted_with_it_and_once);
    }
    #[test]
    fn a_source_that_pauses_says_so_with_its_round_and_once() {
        run(sqlite, said::a_source_that_pauses_says_so_with_its_round_and_once);
    }
    #[test]
    fn what_waits_for_nobody_can_be_given_up() {
        run(sqlite, said::what_waits_for_nobody_can_be_given_up);
    }
    #[test]
    fn a_lane_has_one_head_and_lanes_run_beside_each_other() {
        run(sqlite, deliver::a_lane_has_one_head_and_lanes_run_beside_each_other);
    }
    #[test]
    fn a_class_that_is_lowered_frees_the_consent_lane() {
        run(sqlite, deliver::a_class_that_is_lowered_frees_the_consent_lane);
    }
    #[test]
    fn an_unsubscribe_is_known_when_the_last_destination_has_been_told() {
        run(sqlite, unsubscribes::an_unsubscribe_is_known_when_the_last_destination_has_been_told);
    }
    #[test]
    fn an_unsubscribe_is_known_though_something_else_remains() {
        run(sqlite, unsubscribes::an_unsubscribe_is_known_though_something_else_remains);
    }
    #[test]
    fn a_replay_keeps_what_is_done() {
        run(sqlite, deliver::a_replay_keeps_what_is_done);
    }
    #[test]
    fn what_is_handed_on_is_offered_once_with_its_settlement() {
        run(sqlite, deliver::what_is_handed_on_is_offered_once_with_its_settlement);
    }
    #[test]
    fn who_waits_behind_a_retry_of_consent_makes_it_due() {
        run(sqlite, deliver::who_waits_behind_a_retry_of_consent_makes_it_due);
    }
    #[test]
    fn only_a_dead_letter_is_discarded() {
        run(sqlite, deliver::only_a_dead_letter_is_discarded);
    }
    #[test]
    fn attempts_are_found_from_their_delivery() {
        run(sqlite, deliver::attempts_are_found_from_their_delivery);
    }
    #[test]
    fn leases_are_renewed_together_and_only_by_their_owner() {
        run(sqlite, leases::leases_are_renewed_together_and_only_by_their_owner);
    }

    #[test]
    fn the_newest_of_a_queue_come_beside_the_oldest() {
        run(sqlite, ends::the_newest_of_a_queue_come_beside_the_oldest);
    }

    #[test]
    fn a_replay_stands_in_the_class_that_the_router_gave() {
        run(sqlite, ends::a_replay_stands_in_the_class_that_the_router_gave);
    }

    #[test]
    fn a_claim_says_when_to_come_again() {
        run(sqlite, deliver::a_claim_says_when_to_come_again);
    }
    #[test]
    fn a_send_to_two_people_is_marked() {
        run(sqlite, deliver::a_send_to_two_people_is_marked);
    }
    #[test]
    fn leases_only_grow() {
        run(sqlite, leases::leases_only_grow);
    }
    #[test]
    fn a_page_and_its_cursor_are_one() {
        run(sqlite, jobs::a_page_and_its_cursor_are_one);
    }
    #[test]
    fn a_walk_finds_what_matches() {
        run(sqlite, jobs::a_walk_finds_what_matches);
    }
    #[test]
    fn a_job_that_was_stopped_takes_no_page() {
        run(sqlite, jobs::a_job_that_was_stopped_takes_no_page);
    }
    #[test]
    fn a_page_discards_or_only_counts() {
        run(sqlite, jobs::a_page_discards_or_only_counts);
    }
    #[test]
    fn open_jobs_are_bounded_and_listed() {
        run(sqlite, jobs::open_jobs_are_bounded_and_listed);
    }
    #[test]
    fn a_replay_keeps_the_story_before() {
        run(sqlite, jobs::a_replay_keeps_the_story_before);
    }
    #[test]
    fn what_waits_behind_a_head_is_carried_with_it() {
        run(sqlite, coalesce::what_waits_behind_a_head_is_carried_with_it);
    }
    #[test]
    fn what_waits_is_read_within_bounds() {
        run(sqlite, coalesce::what_waits_is_read_within_bounds);
    }
    #[test]
    fn what_was_spent_today_outlives_the_process() {
        run(sqlite, coalesce::what_was_spent_today_outlives_the_process);
    }
    #[test]
    fn where_order_does_not_count_a_replay_waits_for_nobody() {
        run(sqlite, coalesce::where_order_does_not_count_a_replay_waits_for_nobody);
    }
    #[test]
    fn a_paused_destination_says_so() {
        run(sqlite, leases::a_paused_destination_says_so);
    }

    #[test]
    fn what_was_sent_lately_is_counted() {
        run(sqlite, leases::what_was_sent_lately_is_counted);
    }
    #[test]
    fn retention_keeps_the_audit_adding_up() {
        run(sqlite, keep::retention_keeps_the_audit_adding_up);
    }
    #[test]
    fn what_proves_a_fact_stays() {
        run(sqlite, keep::what_proves_a_fact_stays);
    }
    #[test]
    fn what_needs_a_human_stays() {
        run(sqlite, keep::what_needs_a_human_stays);
    }
    #[test]
    fn what_stays_hides_nothing_behind_it() {
        run(sqlite, keep::what_stays_hides_nothing_behind_it);
    }
    #[test]
    fn numbers_are_never_given_twice() {
        run(sqlite, keep::numbers_are_never_given_twice);
    }
    #[test]
    fn dedupe_keys_go_after_their_time() {
        run(sqlite, keep::dedupe_keys_go_after_their_time);
    }
    #[test]
    fn what_was_committed_is_there_after_an_end_without_close() {
        run(sqlite, open::what_was_committed_is_there_after_an_end_without_close);
    }
    #[test]
    fn a_copy_of_the_files_at_any_moment_has_what_was_answered() {
        run(sqlite, open::a_copy_of_the_files_at_any_moment_has_what_was_answered);
    }
    #[test]
    fn an_envelope_with_later_fields_passes_through_unharmed() {
        run(sqlite, later::an_envelope_with_later_fields_passes_through_unharmed);
    }
    #[test]
    fn a_lease_that_is_given_up_is_free() {
        run(sqlite, leases::a_lease_that_is_given_up_is_free);
    }
    #[test]
    fn a_closed_store_says_so() {
        run(sqlite, open::a_closed_store_says_so);
    }
    #[test]
    fn the_matching_table() {
        run(sqlite, contacts::the_matching_table);
    }
    #[test]
    fn what_changes_is_told_once() {
        run(sqlite, contacts::what_changes_is_told_once);
    }
    #[test]
    fn consent_is_the_same_in_any_order() {
        run(sqlite, contacts::consent_is_the_same_in_any_order);
    }
    #[test]
    fn contacts_follow_what_happened() {
        run(sqlite, contacts::contacts_follow_what_happened);
    }
    #[test]
    fn conflicts_in_a_bulk_keep_the_good_ones() {
        run(sqlite, contacts::conflicts_in_a_bulk_keep_the_good_ones);
    }
    #[test]
    fn a_changed_address_moves() {
        run(sqlite, contacts::a_changed_address_moves);
    }
    #[test]
    fn suppressions_are_listed_and_lifted() {
        run(sqlite, renewed::suppressions_are_listed_and_lifted);
    }
    #[test]
    fn a_confirmation_counts_once() {
        run(sqlite, contacts::a_confirmation_counts_once);
    }
    #[test]
    fn an_erasure_forgets_the_address() {
        run(sqlite, contacts::an_erasure_forgets_the_address);
    }
    #[test]
    fn a_fact_of_tomorrow_counts_from_when_it_was_learned() {
        run(sqlite, consent::a_fact_of_tomorrow_counts_from_when_it_was_learned);
    }
    #[test]
    fn what_decides_is_never_forgotten() {
        run(sqlite, consent::what_decides_is_never_forgotten);
    }
    #[test]
    fn what_happened_before_an_erasure_makes_nobody() {
        run(sqlite, consent::what_happened_before_an_erasure_makes_nobody);
    }
    #[test]
    fn a_request_that_only_proves_is_found_by_its_fact() {
        run(sqlite, renewed::a_request_that_only_proves_is_found_by_its_fact);
    }
    #[test]
    fn who_confirms_after_a_lift_is_told() {
        run(sqlite, consent::who_confirms_after_a_lift_is_told);
    }
    #[test]
    fn what_a_reported_confirmation_lifts_is_told() {
        run(sqlite, consent::what_a_reported_confirmation_lifts_is_told);
    }
    #[test]
    fn the_erasure_of_a_stranger_is_followed_to_its_end() {
        run(sqlite, erasures::the_erasure_of_a_stranger_is_followed_to_its_end);
    }
    #[test]
    fn a_former_address_is_erased_with_its_person() {
        run(sqlite, consent::a_former_address_is_erased_with_its_person);
    }
    #[test]
    fn a_link_confirms_the_address_that_it_went_to() {
        run(sqlite, consent::a_link_confirms_the_address_that_it_went_to);
    }
    #[test]
    fn an_echo_is_no_news() {
        run(sqlite, consent::an_echo_is_no_news);
    }
    #[test]
    fn an_account_that_repeats_an_opt_out_suppresses_nobody() {
        run(sqlite, consent::an_account_that_repeats_an_opt_out_suppresses_nobody);
    }
    #[test]
    fn a_suppression_is_known_where_deliveries_are_made() {
        run(sqlite, consent::a_suppression_is_known_where_deliveries_are_made);
    }
    #[test]
    fn a_stronger_reason_takes_the_place_of_an_unsubscription() {
        run(sqlite, renewed::a_stronger_reason_takes_the_place_of_an_unsubscription);
    }
    #[test]
    fn a_consent_that_is_renewed_is_a_fact_with_its_proof() {
        run(sqlite, renewed::a_consent_that_is_renewed_is_a_fact_with_its_proof);
    }
    #[test]
    fn what_stands_behind_a_contact_is_read_with_it() {
        run(sqlite, renewed::what_stands_behind_a_contact_is_read_with_it);
    }
    #[test]
    fn what_others_lose_goes_out_and_does_not_come_back() {
        run(sqlite, erasures::what_others_lose_goes_out_and_does_not_come_back);
    }
    #[test]
    fn what_is_older_than_an_erasure_is_void() {
        run(sqlite, afterwards::what_is_older_than_an_erasure_is_void);
    }
    #[test]
    fn an_erasure_is_told_by_all_that_is_known() {
        run(sqlite, afterwards::an_erasure_is_told_by_all_that_is_known);
    }
    #[test]
    fn an_erasure_is_told_by_what_the_person_was_called() {
        run(sqlite, afterwards::an_erasure_is_told_by_what_the_person_was_called);
    }
    #[test]
    fn an_echo_states_nothing() {
        run(sqlite, afterwards::an_echo_states_nothing);
    }
    #[test]
    fn nothing_of_the_person_is_found() {
        run(sqlite, erasures::nothing_of_the_person_is_found);
    }
    #[test]
    fn what_comes_late_of_who_is_erased_says_nothing() {
        run(sqlite, erasures::what_comes_late_of_who_is_erased_says_nothing);
    }

    #[test]
    fn who_is_erased_is_not_made_again() {
        run(sqlite, erasures::who_is_erased_is_not_made_again);
    }
    #[test]
    fn a_walk_goes_on_after_a_restart() {
        run(sqlite, erasures::a_walk_goes_on_after_a_restart);
    }
    #[test]
    fn what_paused_a_source_or_a_destination_names_nobody_who_is_erased() {
        run(sqlite, erasures::what_paused_a_source_or_a_destination_names_nobody_who_is_erased);
    }
    #[test]
    fn what_stays_for_good_is_read_once() {
        run(sqlite, keep::what_stays_for_good_is_read_once);
    }
    #[test]
    fn more_than_are_walked_together_come_to_their_end() {
        run(sqlite, erasures::more_than_are_walked_together_come_to_their_end);
    }
    #[test]
    fn no_row_is_passed_over_by_a_cursor() {
        run(sqlite, audience::no_row_is_passed_over_by_a_cursor);
    }
    #[test]
    fn contacts_are_filtered_and_numbered() {
        run(sqlite, audience::contacts_are_filtered_and_numbered);
    }
    #[test]
    fn tenants_fields_and_secrets_are_kept() {
        run(sqlite, audience::tenants_fields_and_secrets_are_kept);
    }
    #[test]
    fn a_page_and_its_cursor_are_kept_together_and_only_differences_make_events() {
        run(sqlite, rounds::a_page_and_its_cursor_are_kept_together_and_only_differences_make_events);
    }
    #[test]
    fn a_page_under_an_old_fence_is_refused_whole() {
        run(sqlite, rounds::a_page_under_an_old_fence_is_refused_whole);
    }
    #[test]
    fn a_round_that_is_paused_goes_on_where_it_was() {
        run(sqlite, rounds::a_round_that_is_paused_goes_on_where_it_was);
    }
    #[test]
    fn fields_come_back_as_written() {
        run(sqlite, audience::fields_come_back_as_written);
    }
}
