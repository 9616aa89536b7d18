//! The suite that both engines pass: one function for each behaviour, over a store that is fresh and migrated.
//!
//! What lives here: what the verbs promise, told once. What must not: SQL, or anything that only one engine does.
//! [`conformance_tests!`](crate::conformance_tests) makes one test of each behaviour.

#![expect(missing_docs, reason = "the name of a behaviour is the sentence that it proves")]

pub mod accept;
pub mod claim;
pub mod configs;
pub mod fixture;
pub mod health;
pub mod housekeeping;
pub mod keys;
pub mod nodes;
pub mod pages;
pub mod reap;
pub mod settle;
pub mod start;
pub mod tenants;
pub mod timeline;

/// The names of all behaviours, read from the source: the macro's list is checked against it.
#[must_use]
pub fn behaviours() -> Vec<String> {
    let sources = [
        ("accept", include_str!("accept.rs")),
        ("claim", include_str!("claim.rs")),
        ("configs", include_str!("configs.rs")),
        ("health", include_str!("health.rs")),
        ("housekeeping", include_str!("housekeeping.rs")),
        ("keys", include_str!("keys.rs")),
        ("nodes", include_str!("nodes.rs")),
        ("pages", include_str!("pages.rs")),
        ("reap", include_str!("reap.rs")),
        ("settle", include_str!("settle.rs")),
        ("start", include_str!("start.rs")),
        ("tenants", include_str!("tenants.rs")),
        ("timeline", include_str!("timeline.rs")),
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
            accept: a_message_is_stored_with_its_job, texts_come_back_as_they_went_in, a_replayed_key_returns_the_first_message,
                a_key_with_another_payload_is_refused, a_replay_tells_the_status_of_its_acceptance, a_replay_is_found_without_accepting,
                keys_of_other_scopes_are_independent, a_key_that_opens_nothing_is_refused, a_tenant_that_is_not_active_is_refused,
                a_refused_message_uses_up_no_key, a_duplicate_seq_fails_only_itself, answers_stand_in_the_order_of_the_batch,
                five_hundred_messages_are_accepted_at_once, an_empty_batch_is_accepted, large_content_is_read_back,
                a_started_message_is_sending_and_leased, equal_keys_at_the_same_time_make_one_message;
            claim: due_jobs_are_claimed_oldest_first, a_claimed_job_carries_all_that_acting_takes, nothing_is_claimed_before_its_time,
                lanes_take_turns, a_lane_gets_no_more_than_its_share, skipped_lanes_are_passed_over, claims_go_on_after_the_last_lane,
                claimers_never_get_the_same_job, a_released_job_is_due_when_it_was, only_the_holder_releases, depth_counts_by_channel;
            configs: a_config_is_created_found_and_deleted, configs_are_listed_newest_first, a_replayed_creation_answers_its_first_body,
                configs_of_another_tenant_are_out_of_reach;
            health: a_fresh_store_is_current, migrating_again_changes_nothing, secrets_are_stored_once, a_closed_store_is_unavailable;
            housekeeping: expired_idempotency_records_are_forgotten, orphaned_content_is_swept;
            keys: a_key_is_found_by_its_prefix_with_its_tenant, a_taken_prefix_is_a_conflict, a_replayed_creation_answers_its_first_body,
                a_revoked_key_is_only_found_by_its_prefix, keys_are_listed_newest_first, keys_of_another_tenant_are_out_of_reach;
            nodes: a_node_gets_the_lowest_free_slot, epochs_grow_and_are_never_used_twice, a_restarted_node_learns_of_its_former_lives,
                a_silent_node_is_dead, a_retired_epoch_beats_no_more, the_257th_node_is_refused;
            pages: a_page_goes_on_where_the_last_one_ended, messages_of_the_same_instant_are_all_seen, inserts_between_pages_repeat_nothing,
                environments_are_merged_newest_first, every_filter_picks_its_messages, filters_combine, a_range_of_time_has_an_open_end,
                a_scan_stops_and_goes_on, another_tenants_messages_are_out_of_reach;
            reap: what_was_not_started_is_due_again, what_was_started_is_ambiguous, a_tenant_may_have_ambiguous_messages_sent_again,
                other_epochs_keep_their_jobs, an_outcome_after_the_reaping_counts;
            settle: every_order_of_reports_ends_the_same, details_are_taken_over_where_given, a_settlement_that_is_told_again_is_recorded_once, a_job_that_is_done_is_gone,
                a_retry_waits_unleased, a_late_outcome_moves_nothing, a_foreign_lease_leaves_the_job, a_job_that_nobody_holds_is_settled,
                a_report_after_the_end_raises_the_status, outcomes_of_one_message_are_applied_in_order;
            start: only_the_holder_starts_the_next_attempt, an_attempt_starts_once, a_released_start_counts_as_none, starts_answer_in_order;
            tenants: a_tenant_is_created_with_its_owner, a_taken_slug_is_a_conflict_and_uses_up_no_key,
                a_replayed_creation_answers_its_first_body, an_owners_profile_is_refreshed, tenants_are_listed_newest_first,
                memberships_are_listed_newest_first, a_status_is_set;
            timeline: a_message_is_queued_first, an_attempt_begins_before_it_ends, what_is_under_way_shows, lines_of_the_same_instant_keep_their_order,
                an_attempt_begins_once_though_told_twice, another_tenants_timeline_is_empty;
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
