//! What must hold is looked at without false alarms, what does not hold is found, and mended where nothing is sent twice by it.
//! (Damage that no verb can do is in the integration tests.)

use std::{sync::Arc, time::Duration};

use raven_core::{Environment, EventKind, Seq, Status, TenantId, Timestamp, tenant::SuspendedBy};

use super::fixture::{
    accept, at, attempt, claim_all, create, id, keyed, kinds, message, node, outcome, seq, seqs, start, status, step, tenant, violations,
};
use crate::{
    Accepted, Action, Lease, NewMessage, Next, Result, Settlement, Started, StateChange, Store, TenantChange, Violation,
    invariants::{Kind, Margins, Range, Subject},
};

const fn violation(kind: Kind, seq: Seq) -> Violation {
    Violation { kind, subject: Subject::Message(seq) }
}

fn later(seconds: u64) -> Timestamp {
    at(0).after(Duration::from_secs(seconds))
}

/// Mends all that is wrong; the number of things that were.
async fn mend(store: &Arc<dyn Store>, now: Timestamp) -> Result<usize> {
    let mut mended = 0;
    for violation in violations(store, now).await? {
        mended += usize::from(store.mend(violation, Margins::default(), now, now.after(Duration::from_secs(3600))).await?);
    }
    Ok(mended)
}

/// An outcome that lets a message be tried again.
fn retry(tenant: TenantId, seq: Seq, attempt: i16, next: Next) -> Settlement {
    let started_at = Some(at(1));
    Settlement { next, started_at, ..outcome(tenant, seq, attempt, EventKind::RetryScheduled, Status::Sending, at(50)) }
}

pub async fn a_database_in_the_midst_of_work_violates_nothing(store: Arc<dyn Store>) -> Result<()> {
    let (busy, held) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (one, other) = (node(&store, "a").await?, node(&store, "b").await?);
    let metered = |tenant, n| NewMessage { quota: Some(100), ..keyed(tenant, seq(n), &format!("key-{n}"), 1) };
    let batch = (0..20).map(|n| metered(if n < 15 { busy } else { held }, n)).collect();
    assert_eq!(accept(&store, batch).await?, vec![Accepted::Created; 20]);
    assert!(matches!(accept(&store, vec![metered(busy, 0)]).await?[..], [Accepted::Replayed { .. }]));
    let test = NewMessage { environment: Environment::Test, ..message(busy, seq(30)) };
    create(&store, NewMessage { lease: Some(other), started: Some(None), ..test }).await?;
    assert_eq!(violations(&store, at(30)).await?, []);

    let claimed = store.claim(one, 12, 12, &[], at(40)).await?;
    for job in &claimed.jobs[..8] {
        start(&store, one, job.seq, 1, at(41)).await?;
    }
    let jobs = |n: usize| (claimed.jobs[n].lane.tenant, claimed.jobs[n].seq);
    let unknown = |(tenant, seq): (TenantId, Seq)| Settlement {
        next: Next::At(Action::GiveUp, at(90)),
        ..outcome(tenant, seq, 1, EventKind::OutcomeUnknown, Status::Sending, at(50))
    };
    let sent = |(tenant, seq): (TenantId, Seq)| outcome(tenant, seq, 1, EventKind::Sent, Status::Sent, at(50));
    let failed = outcome(jobs(1).0, jobs(1).1, 1, EventKind::Failed, Status::Failed, at(50));
    let again = retry(jobs(2).0, jobs(2).1, 1, Next::At(Action::Send, at(60)));
    let played = Settlement { next: Next::At(Action::Play, at(60)), ..sent((busy, seq(30))) };
    store.settle(one, &[sent(jobs(0)), failed, again, unknown(jobs(3))]).await?;
    store.settle(other, &[played]).await?;
    store.release(one, &[jobs(9).1]).await?;
    assert_eq!(violations(&store, at(51)).await?, []);

    // The word of it comes late; another one is told twice; what a node leaves behind is taken over.
    store.settle(one, &[sent(jobs(3)), sent(jobs(0))]).await?;
    step(&store, held, StateChange::Suspend(SuspendedBy::Owner), 1).await?;
    assert!(store.reap(one, at(60), at(900), 100).await?.unknown > 0);
    store.retire_node(one).await?;
    assert!(store.beat(other, later(4000)).await?);
    let given_up = claim_all(&store, other, later(4000)).await?;
    assert!(given_up.jobs.iter().any(|job| job.action == Action::GiveUp) && given_up.jobs.iter().any(|job| job.action == Action::Play));
    assert_eq!(violations(&store, later(4000)).await?, [], "the jobs of a suspended tenant wait for as long as it takes");
    Ok(())
}

pub async fn a_message_without_a_job_is_found_and_gets_one(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    let metered = |n| NewMessage { quota: Some(9), ..message(tenant, seq(n)) };
    // One was never tried; of one an attempt may be under way; one failed for now; of one the end is unknown.
    let [queued, sending, retried, unknown] = [seq(0), seq(1), seq(2), seq(3)];
    assert_eq!(accept(&store, (0..4).map(metered).collect()).await?, vec![Accepted::Created; 4]);
    claim_all(&store, lease, at(10)).await?;
    for seq in [retried, unknown] {
        start(&store, lease, seq, 1, at(10)).await?;
    }
    let lost = |kind, seq, attempt, status| outcome(tenant, seq, attempt, kind, status, at(20));
    store
        .settle(
            lease,
            &[
                lost(EventKind::RetryScheduled, queued, 0, Status::Queued),
                lost(EventKind::RetryScheduled, sending, 0, Status::Sending),
                lost(EventKind::RetryScheduled, retried, 1, Status::Sending),
                lost(EventKind::OutcomeUnknown, unknown, 1, Status::Sending),
            ],
        )
        .await?;
    let found = violations(&store, at(30)).await?;
    assert_eq!(found, [queued, sending, retried, unknown].map(|seq| violation(Kind::MessageWithoutJob, seq)));
    assert_eq!(mend(&store, at(30)).await?, 4);
    assert_eq!((violations(&store, at(30)).await?, mend(&store, at(30)).await?), (vec![], 0));

    let due = claim_all(&store, lease, at(40)).await?;
    assert_eq!(due.jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect::<Vec<_>>(), [(queued, Action::Send, 0)]);
    assert_eq!(due.jobs[0].expires_at, message(tenant, queued).expires_at, "it gets no younger");
    let given_up = claim_all(&store, lease, later(3700)).await?;
    let mut rest: Vec<_> = given_up.jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect();
    rest.sort_by_key(|(seq, ..)| *seq);
    assert_eq!(rest, [(sending, Action::GiveUp, 1), (retried, Action::GiveUp, 2), (unknown, Action::GiveUp, 1)]);
    for (seq, attempt) in [(sending, 1), (retried, 2), (unknown, 1)] {
        let told = kinds(&store, tenant, seq).await?.iter().filter(|line| **line == (EventKind::OutcomeUnknown, attempt)).count();
        assert_eq!(told, 1);
    }
    Ok(())
}

pub async fn a_sandbox_message_that_stands_still_plays_on(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    for (n, environment) in [Environment::Live, Environment::Test].into_iter().enumerate() {
        let n = i64::try_from(n).expect("two");
        create(&store, NewMessage { environment, quota: (environment == Environment::Live).then_some(9), ..message(tenant, seq(n)) })
            .await?;
        claim_all(&store, lease, at(5)).await?;
        start(&store, lease, seq(n), 1, at(5)).await?;
        store.settle(lease, &[outcome(tenant, seq(n), 1, EventKind::Sent, Status::Sent, at(6))]).await?;
    }
    assert_eq!(violations(&store, at(10)).await?, [violation(Kind::MessageWithoutJob, seq(1))], "a live one waits for nothing of ours");
    assert_eq!(mend(&store, at(10)).await?, 1);
    let claimed = claim_all(&store, lease, at(10)).await?;
    assert_eq!((claimed.jobs.len(), claimed.jobs[0].action, claimed.jobs[0].attempt), (1, Action::Play, 1));
    Ok(())
}

pub async fn a_job_of_a_final_message_is_found_and_deleted(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    for (n, (next, status)) in [
        (Next::At(Action::Send, at(60)), Status::Sent),
        (Next::At(Action::GiveUp, at(60)), Status::Delivered),
        (Next::At(Action::Play, at(60)), Status::Sent),
        (Next::At(Action::Send, at(60)), Status::Sending),
    ]
    .into_iter()
    .enumerate()
    {
        let seq = create(&store, NewMessage { quota: Some(9), ..message(tenant, seq(i64::try_from(n).expect("four"))) }).await?;
        claim_all(&store, lease, at(10)).await?;
        start(&store, lease, seq, 1, at(10)).await?;
        store.settle(lease, &[Settlement { next, ..outcome(tenant, seq, 1, EventKind::Sent, status, at(20)) }]).await?;
    }
    let found = [violation(Kind::JobOfFinalMessage, seq(0)), violation(Kind::JobOfFinalMessage, seq(1))];
    assert_eq!(violations(&store, at(30)).await?, found);
    // A node that holds one and has not begun yet finds it gone.
    claim_all(&store, lease, at(60)).await?;
    assert_eq!(mend(&store, at(70)).await?, 2);
    assert_eq!(store.start(lease, &[attempt(tenant, seq(0), 2)], at(70)).await?, [Started::NotHeld]);
    assert_eq!(violations(&store, at(70)).await?, []);
    Ok(())
}

pub async fn a_job_of_an_epoch_that_there_is_not_is_found_and_freed(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    store.retire_node(lease).await?;
    let held = NewMessage { quota: Some(9), lease: Some(lease), ..message(tenant, seq(0)) };
    create(&store, held.clone()).await?;
    create(&store, NewMessage { started: Some(None), seq: seq(1), ..held }).await?;
    let found = [violation(Kind::JobOfDeadNode, seq(0)), violation(Kind::JobOfDeadNode, seq(1))];
    assert_eq!((violations(&store, later(80)).await?, store.lost_leases(at(0)).await?), (vec![], vec![]), "it may be given back yet");
    assert_eq!((violations(&store, later(81)).await?, store.lost_leases(at(1)).await?), (found.to_vec(), vec![lease]));
    assert_eq!((mend(&store, later(81)).await?, violations(&store, later(81)).await?), (2, vec![]));
    assert_eq!(store.lost_leases(later(81)).await?, []);
    let other = store.register_node("b", later(81)).await?.lease;
    assert_eq!(seqs(&claim_all(&store, other, later(82)).await?), [seq(0)], "what had not begun is free");
    let unknown = claim_all(&store, other, later(3700)).await?;
    assert_eq!((seqs(&unknown), unknown.jobs[0].action), (vec![seq(1)], Action::GiveUp));
    assert!(kinds(&store, tenant, seq(1)).await?.contains(&(EventKind::OutcomeUnknown, 1)));
    Ok(())
}

pub async fn a_job_of_a_dead_node_is_found_and_taken_over(store: Arc<dyn Store>) -> Result<()> {
    let (careful, eager) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let change = TenantChange { retry_unknown: Some(true), ..TenantChange::default() };
    store.update_tenant(eager, change, super::fixture::audit(eager, 1)).await?.expect("there is such a tenant");
    let lease = node(&store, "a").await?;
    for (tenant, n) in [(careful, 0), (eager, 1)] {
        let held = NewMessage { quota: Some(9), lease: Some(lease), ..message(tenant, seq(n)) };
        create(&store, NewMessage { started: Some(None), ..held }).await?;
    }
    let found = [violation(Kind::JobOfDeadNode, seq(0)), violation(Kind::JobOfDeadNode, seq(1))];
    assert_eq!(violations(&store, later(80)).await?, []);
    assert_eq!(violations(&store, later(81)).await?, found);
    assert!(store.beat(lease, later(81)).await?);
    for violation in found {
        assert!(!store.mend(violation, Margins::default(), later(81), later(99)).await?, "it is alive again");
    }
    assert_eq!(mend(&store, later(162)).await?, 2);
    let other = store.register_node("b", later(162)).await?.lease;
    let claimed = claim_all(&store, other, later(163)).await?;
    assert_eq!((seqs(&claimed), claimed.jobs[0].action), (vec![seq(1)], Action::Send), "as its tenant's policy is");
    Ok(())
}

pub async fn what_waits_or_runs_for_too_long_is_found(store: Arc<dyn Store>) -> Result<()> {
    let (active, suspended) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let lease = node(&store, "a").await?;
    for (tenant, n) in [(active, 0), (suspended, 1)] {
        create(&store, NewMessage { quota: Some(9), ..message(tenant, seq(n)) }).await?;
    }
    let held = NewMessage { quota: Some(9), lease: Some(lease), ..message(active, seq(2)) };
    create(&store, NewMessage { started: Some(None), ..held.clone() }).await?;
    create(&store, NewMessage { seq: seq(3), ..held }).await?;
    step(&store, suspended, StateChange::Suspend(SuspendedBy::Operator), 1).await?;
    store.beat(lease, later(590)).await?;
    assert_eq!(violations(&store, later(300)).await?, []);
    assert_eq!(violations(&store, later(301)).await?, [violation(Kind::OverdueStart, seq(2))]);
    let found = [violation(Kind::StuckJob, seq(0)), violation(Kind::OverdueStart, seq(2))];
    assert_eq!(violations(&store, later(601)).await?, found);
    assert_eq!(mend(&store, later(601)).await?, 0, "only a living worker can help");
    Ok(())
}

pub async fn a_timeline_that_contradicts_itself_is_found(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    for n in 0..3 {
        create(
            &store,
            NewMessage { quota: Some(9), lease: Some(node(&store, "a").await?), started: Some(None), ..message(tenant, seq(n)) },
        )
        .await?;
    }
    let sent =
        |n, attempt, ms| Settlement { started_at: Some(at(1)), ..outcome(tenant, seq(n), attempt, EventKind::Sent, Status::Sent, at(ms)) };
    // Sent twice by one attempt; by an attempt that never was; and once, though told twice.
    store.settle(Lease(0), &[sent(0, 1, 10), sent(0, 1, 11), sent(1, 2, 10), sent(2, 1, 10), sent(2, 1, 10)]).await?;
    let found: Vec<_> = violations(&store, at(20)).await?.into_iter().filter(|v| v.kind == Kind::EventsOutOfOrder).collect();
    assert_eq!(found, [violation(Kind::EventsOutOfOrder, seq(0)), violation(Kind::EventsOutOfOrder, seq(1))]);
    for violation in found {
        assert!(!store.mend(violation, Margins::default(), at(20), at(90)).await?);
    }
    Ok(())
}

pub async fn a_quota_that_was_not_debited_is_found(store: Arc<dyn Store>) -> Result<()> {
    let (right, wrong) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    for (tenant, n) in [(right, 0), (wrong, 1)] {
        create(&store, NewMessage { quota: Some(9), ..message(tenant, seq(n)) }).await?;
    }
    create(&store, NewMessage { environment: Environment::Test, ..message(right, seq(2)) }).await?;
    assert_eq!(violations(&store, at(5)).await?, []);
    create(&store, NewMessage { quota: None, ..message(wrong, seq(3)) }).await?;
    let found = Violation { kind: Kind::QuotaMismatch, subject: Subject::Counters(wrong, at(0).day()) };
    assert_eq!(violations(&store, at(5)).await?, [found]);
    assert!(!store.mend(found, Margins::default(), at(5), at(90)).await?);
    step(&store, wrong, StateChange::Archive(at(5)), 1).await?;
    assert_eq!(violations(&store, at(6)).await?, [], "it may be being deleted, bit by bit");
    Ok(())
}

pub async fn what_is_right_is_not_mended(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    create(&store, message(tenant, seq(0))).await?;
    create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq(1)) }).await?;
    create(&store, message(tenant, seq(2))).await?;
    claim_all(&store, lease, at(9)).await?;
    start(&store, lease, seq(2), 1, at(9)).await?;
    store.settle(lease, &[outcome(tenant, seq(2), 1, EventKind::Sent, Status::Sent, at(10))]).await?;
    store.release(lease, &[seq(0)]).await?;
    for n in 0..4 {
        for kind in Kind::ALL {
            assert!(!store.mend(violation(kind, seq(n)), Margins::default(), at(20), at(90)).await?, "{kind:?} of message {n}");
        }
    }
    assert_eq!(seqs(&claim_all(&store, lease, at(20)).await?), [seq(0)]);
    assert_eq!((status(&store, tenant, seq(1)).await?, status(&store, tenant, seq(2)).await?), (Status::Sending, Status::Sent));
    Ok(())
}

pub async fn stretches_go_on_where_the_last_one_ended(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    for n in 0..7 {
        create(&store, keyed(tenant, seq(n), &format!("key-{n}"), 1)).await?;
    }
    let range = Range { after: seq(0), until: seq(5) };
    let jobs = store.check_jobs(range, 3, Margins::default(), later(601)).await?;
    assert_eq!((jobs.rows, jobs.next), (3, Some(seq(3))));
    assert_eq!(jobs.violations, [1, 2, 3].map(|n| violation(Kind::StuckJob, seq(n))));
    let rest = store.check_jobs(Range { after: seq(3), ..range }, 3, Margins::default(), later(601)).await?;
    assert_eq!((rest.rows, rest.next), (2, None));
    let messages = store.check_messages(range, 5).await?;
    assert_eq!((messages.rows, messages.next), (5, Some(seq(5))));
    assert_eq!(store.check_messages(Range { after: seq(5), ..range }, 5).await?.rows, 0);
    let records = store.check_records(None, 4).await?;
    let place = records.next.expect("three are left");
    assert_eq!((records.rows, place.owner, place.key.as_str()), (4, tenant.0, "key-3"));
    let rest = store.check_records(Some(place), 4).await?;
    assert_eq!((rest.rows, rest.next), (3, None));
    let counters = store.check_counters(at(0).day(), None, 1, 100).await?;
    assert_eq!((counters.rows, counters.next), (1, Some(tenant)));
    assert_eq!(store.check_counters(at(0).day(), counters.next, 1, 100).await?.rows, 0);
    Ok(())
}

pub async fn too_much_to_count_is_not_counted(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    assert_eq!(tenant.0, id(1));
    for n in 0..3 {
        create(&store, message(tenant, seq(n))).await?;
    }
    for (most, uncounted) in [(2, 1), (3, 0)] {
        let checked = store.check_counters(at(0).day(), None, 5, most).await?;
        assert_eq!((checked.uncounted, checked.violations), (uncounted, vec![]));
    }
    Ok(())
}
