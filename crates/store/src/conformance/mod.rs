//! The suite that both engines pass: one function for each behaviour, over a store that is fresh and migrated.
//!
//! What lives here: what the verbs promise, told once. What must not: SQL, or anything that only one engine does.
//! [`conformance_tests!`](crate::conformance_tests) makes one test of each behaviour.

#![expect(missing_docs, reason = "the name of a behaviour is the sentence that it proves")]

pub mod accept;
pub mod audit;
pub mod callbacks;
pub mod claim;
pub mod configs;
pub mod fixture;
pub mod health;
pub mod housekeeping;
pub mod invariants;
pub mod invitations;
pub mod keys;
pub mod limits;
pub mod members;
pub mod nodes;
pub mod pages;
pub mod parking;
pub mod reap;
pub mod rerouting;
pub mod settle;
pub mod start;
pub mod suppressions;
pub mod tenants;
pub mod timeline;
pub mod usage;

/// The names of all behaviours, read from the source: the macro's list is checked against it.
#[must_use]
pub fn behaviours() -> Vec<String> {
    let sources = [
        ("accept", include_str!("accept.rs")),
        ("audit", include_str!("audit.rs")),
        ("callbacks", include_str!("callbacks.rs")),
        ("claim", include_str!("claim.rs")),
        ("configs", include_str!("configs.rs")),
        ("health", include_str!("health.rs")),
        ("housekeeping", include_str!("housekeeping.rs")),
        ("invariants", include_str!("invariants.rs")),
        ("invitations", include_str!("invitations.rs")),
        ("keys", include_str!("keys.rs")),
        ("limits", include_str!("limits.rs")),
        ("members", include_str!("members.rs")),
        ("nodes", include_str!("nodes.rs")),
        ("pages", include_str!("pages.rs")),
        ("parking", include_str!("parking.rs")),
        ("reap", include_str!("reap.rs")),
        ("rerouting", include_str!("rerouting.rs")),
        ("settle", include_str!("settle.rs")),
        ("start", include_str!("start.rs")),
        ("suppressions", include_str!("suppressions.rs")),
        ("tenants", include_str!("tenants.rs")),
        ("timeline", include_str!("timeline.rs")),
        ("usage", include_str!("usage.rs")),
    ];
    let name = |line: &str| Some(line.strip_prefix("pub async fn ")?.split('(').next()?.to_owned());
    sources.iter().flat_map(|(file, text)| text.lines().filter_map(name).map(move |n| format!("{file}::{n}"))).collect()
}

/// Makes one test of every behaviour. `fresh` names an async function in scope that returns a guard with a field
/// `store: Arc<dyn Store>`: a new, migrated store, which lives as long as the guard.
#[macro_export]
macro_rules! conformance_tests {
    ($fresh:ident) => {
        $crate::conformance_tests! { $fresh =>
            accept: what_waits_is_asked_for_when_it_is_written, a_message_is_stored_with_its_job, texts_come_back_as_they_went_in, a_replayed_key_returns_the_first_message,
                a_key_with_another_payload_is_refused, a_replay_tells_the_status_of_its_acceptance, a_replay_is_found_without_accepting,
                keys_of_other_scopes_are_independent, a_key_that_opens_nothing_is_refused, a_tenant_that_is_not_active_is_refused,
                a_refused_message_uses_up_no_key, a_duplicate_seq_fails_only_itself, answers_stand_in_the_order_of_the_batch,
                five_hundred_messages_are_accepted_at_once, an_empty_batch_is_accepted, large_content_is_read_back,
                a_started_message_is_sending_and_leased, equal_keys_at_the_same_time_make_one_message;
            audit: a_change_is_written_to_the_log_with_it, a_change_that_did_not_happen_is_not_in_the_log, a_log_is_listed_newest_first,
                another_tenants_log_is_out_of_reach, an_accepted_message_is_in_the_log_once;
            callbacks: a_callback_is_kept_and_taken_in_turn, a_callback_with_the_same_proof_is_kept_once,
                a_report_moves_its_message_and_stands_in_its_timeline, every_order_of_callbacks_ends_the_same,
                a_message_is_found_by_its_providers_id, another_tenants_message_is_not_moved,
                what_nothing_proves_moves_only_what_it_names, word_of_an_unknown_outcome_ends_the_wait,
                a_failure_at_a_former_config_is_no_end, a_report_suppresses_its_recipient, a_link_suppresses_with_no_callback_to_note, soft_bounces_suppress_when_they_are_too_many,
                a_message_from_outside_is_kept_once_and_listed, the_last_message_to_somebody_is_found, a_wish_suppresses_and_is_lifted,
                what_could_not_be_read_is_read_again_when_told, what_is_old_is_forgotten, a_purged_tenant_leaves_no_callbacks;
            claim: due_jobs_are_claimed_oldest_first, a_claimed_job_carries_all_that_acting_takes, nothing_is_claimed_before_its_time,
                priorities_are_lanes_of_their_own, what_is_tried_again_waits_apart, lanes_take_turns, a_lane_gets_no_more_than_its_share, skipped_lanes_are_passed_over, claims_go_on_after_the_last_lane,
                claimers_never_get_the_same_job, a_released_job_is_due_when_it_was, only_the_holder_releases, what_nobody_knows_of_is_given_back, depth_counts_by_channel, a_survey_by_stretches_adds_up,
                the_jobs_of_a_suspended_tenant_are_held, what_must_have_expired_is_claimed_though_it_is_held;
            configs: a_config_is_created_found_and_deleted, a_config_is_replaced_only_as_long_as_it_is_what_was_read, configs_are_listed_newest_first, a_replayed_creation_answers_its_first_body,
                configs_of_another_tenant_are_out_of_reach, configs_of_a_provider_are_listed_over_all_active_tenants;
            health: a_fresh_store_is_current, migrating_again_changes_nothing, secrets_are_stored_once, a_closed_store_is_unavailable;
            housekeeping: expired_idempotency_records_are_forgotten, orphaned_content_is_swept, quotas_of_past_days_are_forgotten,
                buckets_that_are_full_again_are_forgotten;
            invariants: a_database_in_the_midst_of_work_violates_nothing, a_message_without_a_job_is_found_and_gets_one,
                a_sandbox_message_that_stands_still_plays_on, a_job_of_a_final_message_is_found_and_deleted,
                a_job_of_an_epoch_that_there_is_not_is_found_and_freed, a_job_of_a_dead_node_is_found_and_taken_over,
                what_waits_or_runs_for_too_long_is_found, a_timeline_that_contradicts_itself_is_found,
                a_quota_that_was_not_debited_is_found, what_is_right_is_not_mended, stretches_go_on_where_the_last_one_ended,
                too_much_to_count_is_not_counted;
            invitations: an_invitation_is_found_by_its_tenant_and_its_address, invitations_are_listed_newest_first,
                an_address_has_one_open_invitation, a_replayed_invitation_answers_its_first_body, who_accepts_becomes_a_member,
                who_declines_does_not, an_invitation_is_answered_once_by_whom_it_was_sent_to, of_many_answers_at_the_same_time_one_counts,
                an_expired_invitation_is_not_accepted, a_member_does_not_join_again, nobody_joins_a_tenant_that_is_not_active,
                only_an_open_invitation_is_revoked, an_address_sees_what_it_can_accept;
            keys: a_key_is_found_by_its_prefix_with_its_tenant, a_taken_prefix_is_a_conflict, a_replayed_creation_answers_its_first_body,
                a_revoked_key_is_only_found_by_its_prefix, keys_are_listed_newest_first, keys_of_another_tenant_are_out_of_reach,
                a_key_is_changed_where_something_is_given, a_rotated_key_expires_when_it_is_told_or_earlier,
                only_a_key_that_is_there_is_rotated, a_key_that_has_expired_is_not_rotated, a_replayed_rotation_answers_before_the_old_key_is_looked_at,
                the_last_use_of_a_key_never_goes_back;
            limits: a_full_bucket_grants_what_it_holds, tokens_come_back_evenly, a_request_for_nothing_tells_when_the_bucket_is_full,
                a_bucket_recovers_from_a_clock_that_was_set_back, another_limit_holds_at_once, a_large_bucket_counts_exactly,
                takers_at_the_same_time_share_one_bucket;
            members: members_are_listed_newest_first, a_member_is_found_in_their_tenant_only, a_role_is_changed_by_nobody_below_it,
                the_last_owner_stays, of_two_owners_who_leave_at_the_same_time_one_stays, ownership_is_transferred;
            nodes: a_node_gets_the_lowest_free_slot, epochs_grow_and_are_never_used_twice, a_restarted_node_learns_of_its_former_lives,
                a_silent_node_is_dead, a_retired_epoch_beats_no_more, the_257th_node_is_refused;
            pages: a_page_goes_on_where_the_last_one_ended, messages_of_the_same_instant_are_all_seen, inserts_between_pages_repeat_nothing,
                environments_are_merged_newest_first, every_filter_picks_its_messages, filters_combine, a_range_of_time_has_an_open_end,
                a_scan_stops_and_goes_on, another_tenants_messages_are_out_of_reach;
            parking: what_waits_for_one_config_stands_before_nothing_else, what_waits_for_a_change_is_due_at_its_end,
                only_what_is_held_and_not_started_is_parked, what_was_tried_stays_with_the_job, a_config_keeps_what_goes_through_it,
                failed_configs_of_active_tenants_are_listed;
            reap: what_was_not_started_is_due_again, what_was_started_is_ambiguous, a_tenant_may_have_ambiguous_messages_sent_again,
                other_epochs_keep_their_jobs, an_outcome_after_the_reaping_counts;
            rerouting: a_failure_that_another_config_may_mend_is_tried_again_there,
                what_is_no_certain_failure_of_the_config_goes_nowhere_else,
                word_of_a_failure_ends_the_wait_for_an_unknown_outcome_with_another_try,
                what_has_arrived_after_all_is_not_sent_again, a_message_is_looked_up_by_its_providers_id;
            settle: every_order_of_reports_ends_the_same, details_are_taken_over_where_given,
                a_settlement_that_is_told_again_is_recorded_once, a_job_that_is_done_is_gone, a_retry_waits_unleased,
                a_late_outcome_moves_nothing, a_foreign_lease_leaves_the_job, a_job_that_nobody_holds_is_settled,
                a_report_after_the_end_raises_the_status, outcomes_of_one_message_are_applied_in_order;
            start: only_the_holder_starts_the_next_attempt, an_attempt_starts_once, a_released_start_counts_as_none, starts_answer_in_order;
            suppressions: a_suppression_is_created_found_and_deleted, an_address_is_listed_once, a_batch_adds_what_is_not_listed, a_replayed_creation_answers_its_first_body,
                suppressions_are_listed_newest_first, filters_and_pages_look_at_so_many_rows, another_tenants_suppressions_are_out_of_reach,
                a_suppressed_message_is_stored_and_not_sent, a_suppression_reaches_no_further_than_its_tenant_environment_and_channel,
                the_case_of_an_address_does_not_matter, a_token_of_any_length_is_suppressed, a_suppressed_message_takes_no_quota,
                a_replay_tells_that_the_first_message_was_suppressed, what_waits_is_not_started_once_its_recipient_is_suppressed,
                an_outcome_suppresses_its_recipient, an_outcome_suppresses_once, a_suppressed_message_is_no_violation;
            tenants: a_tenant_is_created_with_its_owner, a_taken_slug_is_a_conflict_and_uses_up_no_key,
                a_replayed_creation_answers_its_first_body, an_owners_profile_is_refreshed, tenants_are_listed_newest_first,
                memberships_are_listed_newest_first, a_step_is_taken_where_the_state_allows_it, a_tenant_is_restored_within_thirty_days,
                an_update_changes_what_is_given, archived_tenants_are_listed_the_longest_ago_first, a_purged_tenant_leaves_nothing_behind,
                a_purged_tenant_can_be_made_anew, a_tenant_that_is_not_archived_is_not_purged, a_human_of_another_tenant_is_not_forgotten;
            timeline: a_message_is_queued_first, an_attempt_begins_before_it_ends, what_is_under_way_shows,
                lines_of_the_same_instant_keep_their_order, attempts_of_the_same_instant_follow_each_other, an_attempt_begins_once_though_told_twice, another_tenants_timeline_is_empty;
            usage: the_quota_is_exact_within_a_batch, the_quota_is_exact_over_batches, the_quota_is_exact_for_callers_at_the_same_time,
                a_tenant_without_quota_sends_nothing, what_is_not_metered_is_used_but_takes_no_quota,
                a_replay_takes_no_quota_and_answers_without_any, a_message_beyond_the_quota_uses_up_no_key,
                other_refusals_come_before_the_quota, each_tenant_has_its_own_quota_of_each_day, another_limit_holds_at_once,
                a_limit_counts_what_came_before_it, a_row_that_fails_is_not_counted, usage_is_told_by_day_channel_and_key,
                each_status_that_is_reached_counts_once, what_decides_nothing_counts_nothing, outcomes_are_told_by_the_day_of_acceptance;
        }
    };
    ($fresh:ident => $($file:ident: $($behaviour:ident),*;)*) => {
        $(mod $file {
            $(#[tokio::test]
            async fn $behaviour() -> $crate::Result<()> {
                let database = super::$fresh().await;
                $crate::conformance::$file::$behaviour(std::sync::Arc::clone(&database.store)).await
            })*
        })*

        #[test]
        fn every_behaviour_is_tested() {
            let listed = [$($(concat!(stringify!($file), "::", stringify!($behaviour)).to_owned()),*),*];
            let missing: Vec<_> = $crate::conformance::behaviours().into_iter().filter(|name| !listed.contains(name)).collect();
            assert!(missing.is_empty(), "not listed in conformance_tests!: {missing:?}");
        }
    };
}
