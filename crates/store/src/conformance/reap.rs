//! What taking work away from a dead epoch promises.

use std::sync::Arc;

use raven_core::{EventKind, Status, TenantId};

use super::fixture::{at, attempt, claim_all, create, kinds, message, new_tenant, node, outcome, seq, seqs, start, status, tenant};
use crate::{Action, Lease, NewMessage, NewTenant, Reaped, Result, Settlement, Started, Store, TenantRecord};

/// Four messages that `lease` holds, of which it has started the even ones.
async fn held(store: &Arc<dyn Store>, tenant: TenantId, lease: Lease) -> Result<()> {
    for n in 1..5 {
        let started = (n % 2 == 0).then_some(None);
        create(store, NewMessage { lease: Some(lease), started, ..message(tenant, seq(n)) }).await?;
    }
    Ok(())
}

pub async fn what_was_not_started_is_due_again(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, dead, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    held(&store, tenant, dead).await?;
    assert_eq!(store.reap(dead, at(100), at(900), 100).await?, Reaped { released: 2, unknown: 2 });
    assert_eq!(store.reap(dead, at(100), at(900), 100).await?, Reaped::default());
    let claimed = claim_all(&store, other, at(100)).await?;
    assert_eq!(seqs(&claimed), [1, 3].map(seq));
    assert_eq!(kinds(&store, tenant, seq(1)).await?, [(EventKind::Queued, 0)]);
    assert_eq!(claimed.next_due, Some(at(900)));
    start(&store, other, seq(1), 1, at(101)).await
}

pub async fn what_was_started_is_ambiguous(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, dead, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    held(&store, tenant, dead).await?;
    // Taken away in small portions, as a large backlog is.
    let mut total = Reaped::default();
    for _ in 0..4 {
        let reaped = store.reap(dead, at(100), at(900), 1).await?;
        assert_eq!(reaped.released + reaped.unknown, 1);
        total = Reaped { released: total.released + reaped.released, unknown: total.unknown + reaped.unknown };
    }
    assert_eq!(total, Reaped { released: 2, unknown: 2 });
    let expected = [(EventKind::Queued, 0), (EventKind::Sending, 1), (EventKind::OutcomeUnknown, 1)];
    assert_eq!(kinds(&store, tenant, seq(2)).await?, expected);
    assert_eq!(store.list_events(tenant, seq(2)).await?[2].at, at(100));
    assert_eq!(status(&store, tenant, seq(2)).await?, Status::Sending);
    assert_eq!(seqs(&claim_all(&store, other, at(899)).await?), [1, 3].map(seq));
    let jobs = claim_all(&store, other, at(900)).await?.jobs;
    assert_eq!(jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect::<Vec<_>>(), [2, 4].map(|n| (seq(n), Action::GiveUp, 1)));
    Ok(())
}

pub async fn a_tenant_may_have_ambiguous_messages_sent_again(store: Arc<dyn Store>) -> Result<()> {
    let new = new_tenant(1);
    let record = TenantRecord { retry_unknown: true, ..new.record };
    let daring = record.id;
    store.create_tenant(NewTenant { record, ..new }).await?;
    let (dead, other) = (node(&store, "a").await?, node(&store, "b").await?);
    held(&store, daring, dead).await?;
    assert_eq!(store.reap(dead, at(100), at(900), 100).await?, Reaped { released: 2, unknown: 2 });
    assert_eq!(claim_all(&store, other, at(99)).await?.next_due, Some(at(100)));
    let jobs = claim_all(&store, other, at(100)).await?.jobs;
    let again: Vec<_> = jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect();
    assert_eq!(again, [2, 4].map(|n| (seq(n), Action::Send, 1)));
    assert_eq!(kinds(&store, daring, seq(2)).await?.last(), Some(&(EventKind::OutcomeUnknown, 1)));
    start(&store, other, seq(2), 2, at(101)).await
}

pub async fn other_epochs_keep_their_jobs(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, dead, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    held(&store, tenant, other).await?;
    create(&store, message(tenant, seq(9))).await?;
    assert_eq!(store.reap(dead, at(100), at(900), 100).await?, Reaped::default());
    assert_eq!(store.start(other, &[attempt(tenant, seq(1), 1)], at(101)).await?, [Started::Begun]);
    Ok(())
}

pub async fn an_outcome_after_the_reaping_counts(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, dead, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    held(&store, tenant, dead).await?;
    store.reap(dead, at(100), at(900), 100).await?;
    // The node was only slow: it knows how attempt 1 went, and nobody has begun another one.
    let late = Settlement { started_at: Some(seq(2).at()), ..outcome(tenant, seq(2), 1, EventKind::Sent, Status::Sent, at(120)) };
    store.settle(dead, &[late]).await?;
    assert_eq!(status(&store, tenant, seq(2)).await?, Status::Sent);
    assert_eq!(seqs(&claim_all(&store, other, at(900)).await?), [seq(1), seq(3), seq(4)]);
    Ok(())
}
