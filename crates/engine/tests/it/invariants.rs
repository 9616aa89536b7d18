//! The look for damage that a running server takes, and the one that an operator does.

use std::time::Duration;

use raven_core::{Clock, EventKind};
use raven_engine::invariants::{Checker, Extent};
use raven_store::{
    Lease, NewMessage,
    conformance::fixture,
    invariants::{Kind, Margins},
    nodes::DEAD_AFTER,
};
use raven_testkit::app::{TestApp, TestTenant, on_both};
use serde_json::json;

async fn send(app: &TestApp, tenant: &TestTenant, count: usize) {
    for i in 0..count {
        let body = json!({ "channel": "sms", "to": format!("+25472200{i:04}"), "body": "Hi", "idempotencyKey": i.to_string() });
        app.post_message(&tenant.test, body).await.expect(202);
    }
}

/// The value of a metric's line that begins like this.
fn metric(app: &TestApp, begins: &str) -> i64 {
    let text = app.engine.metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(begins)).unwrap_or_else(|| panic!("no {begins}: {text}"));
    line.trim().parse().expect("a number")
}

fn violations(app: &TestApp, kind: Kind) -> i64 {
    metric(app, &format!("raven_invariant_violations{{kind=\"{}\"}}", kind.name()))
}

#[tokio::test]
async fn a_server_counts_what_is_wrong_and_forgets_it_when_it_is_right_again() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        send(&app, &tenant, 5).await;
        app.settle().await;
        assert_eq!(metric(&app, "raven_invariants_checked_timestamp_seconds"), 0);
        app.engine.housekeeping.check().await.expect("the store works");
        assert_eq!((violations(&app, Kind::JobOfDeadNode), violations(&app, Kind::MessageWithoutJob)), (0, 0));
        let checked_at = metric(&app, "raven_invariants_checked_timestamp_seconds");
        assert_eq!(checked_at, app.clock.now().seconds());

        // A job that a node left behind, and nobody else knows of.
        let seq = app.engine.membership.ids.next(app.clock.now());
        let lost = NewMessage { lease: Some(Lease(77)), quota: Some(100), ..fixture::message(tenant.id, seq) };
        app.store.accept(vec![lost], app.clock.now()).await.expect("the store works");
        app.clock.advance(Duration::from_secs(90));
        app.engine.housekeeping.check().await.expect("the store works");
        assert_eq!((violations(&app, Kind::JobOfDeadNode), violations(&app, Kind::StuckJob)), (1, 0));
        assert_eq!(metric(&app, "raven_invariants_checked_timestamp_seconds"), checked_at + 90);

        let checker = Checker::new(app.store.clone(), app.clock.clone(), Margins::default());
        let since = Extent::Since(app.clock.now().before(Duration::from_secs(100)));
        let findings = checker.check(since, Duration::ZERO).await.expect("the store works");
        assert_eq!((findings.violations().count(), findings.count(Kind::JobOfDeadNode), findings.messages), (1, 1, 6));
        assert_eq!((findings.records, findings.jobs), (5, 6), "the sandbox has not played its last step");
        assert_eq!(checker.mend(&findings).await.expect("the store works"), [Kind::JobOfDeadNode]);
        app.engine.housekeeping.check().await.expect("the store works");
        assert_eq!(violations(&app, Kind::JobOfDeadNode), 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_right_at_the_second_look_is_not_told() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        send(&app, &tenant, 3).await;
        app.settle().await;
        let checker = Checker::new(app.store.clone(), app.clock.clone(), Margins::default());
        let mut seqs = Vec::new();
        for _ in 0..2 {
            let seq = app.engine.membership.ids.next(app.clock.now());
            let lost = NewMessage { lease: Some(Lease(77)), quota: Some(100), ..fixture::message(tenant.id, seq) };
            app.store.accept(vec![lost], app.clock.now()).await.expect("the store works");
            seqs.push(seq);
        }
        app.clock.advance(Duration::from_secs(90));
        let mut findings = checker.look(Extent::Recent).await.expect("the store works");
        assert_eq!(findings.count(Kind::JobOfDeadNode), 2);
        app.store.release(Lease(77), &seqs[..1]).await.expect("the store works");
        checker.confirm(&mut findings).await.expect("the store works");
        let left: Vec<_> = findings.violations().map(|v| v.subject).collect();
        assert_eq!(left, [raven_store::invariants::Subject::Message(seqs[1])]);
        app.store.release(Lease(77), &seqs).await.expect("the store works");
        checker.confirm(&mut findings).await.expect("the store works");
        assert!(findings.is_clean());
    })
    .await;
}

#[tokio::test]
async fn what_an_epoch_that_is_over_left_behind_is_taken_over() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        let mut lost = Vec::new();
        for started in [None, Some(None)] {
            let seq = app.engine.membership.ids.next(app.clock.now());
            let new = NewMessage { lease: Some(Lease(77)), started, quota: Some(100), ..fixture::message(tenant.id, seq) };
            app.store.accept(vec![new], app.clock.now()).await.expect("the store works");
            lost.push(seq);
        }
        let before = app.clock.now().after(Duration::from_secs(1));
        app.clock.advance(DEAD_AFTER);
        app.engine.housekeeping.measure().await.expect("the store works");
        assert_eq!(app.store.lost_leases(before).await.expect("the store works"), [Lease(77)], "its own node may give it back yet");
        app.clock.advance(Duration::from_millis(1));
        app.engine.housekeeping.measure().await.expect("the store works");
        assert_eq!(app.store.lost_leases(before).await.expect("the store works"), []);
        let depths = app.store.depth(app.clock.now()).await.expect("the store works");
        assert_eq!(depths.iter().map(|(_, jobs, _)| jobs).sum::<i64>(), 2, "one is due, one is given up in a day");
        let told = app.store.list_events(tenant.id, lost[1]).await.expect("the store works");
        assert_eq!(told.last().map(|line| line.kind), Some(EventKind::OutcomeUnknown));
    })
    .await;
}
