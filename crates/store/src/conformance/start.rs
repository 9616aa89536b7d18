//! What starting an attempt promises.

use std::sync::Arc;

use raven_core::{ConfigId, EventKind, Status};

use super::fixture::{at, attempt, claim_all, create, id, kinds, message, node, outcome, seq, start, status, tenant};
use crate::{Action, Next, Result, Settlement, Start, Started, Store};

pub async fn only_the_holder_starts_the_next_attempt(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    create(&store, message(tenant, seq(1))).await?;
    let attempt = |number| [Start { config: Some(ConfigId(id(3001))), ..attempt(tenant, seq(1), number) }];
    assert_eq!(store.start(lease, &attempt(1), at(2)).await?, [Started::NotHeld], "nobody holds it");
    claim_all(&store, lease, at(2)).await?;
    assert_eq!(store.start(other, &attempt(1), at(2)).await?, [Started::NotHeld], "another one holds it");
    assert_eq!(store.start(lease, &attempt(2), at(2)).await?, [Started::NotHeld], "the first attempt comes first");
    assert_eq!(store.start(lease, &attempt(0), at(2)).await?, [Started::NotHeld]);
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Queued);
    assert_eq!(store.start(lease, &attempt(1), at(2)).await?, [Started::Begun]);
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sending);
    assert_eq!(kinds(&store, tenant, seq(1)).await?, [(EventKind::Queued, 0), (EventKind::Sending, 1)]);
    Ok(())
}

pub async fn an_attempt_starts_once(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, message(tenant, seq(1))).await?;
    claim_all(&store, lease, at(2)).await?;
    start(&store, lease, seq(1), 1, at(2)).await?;
    for number in [1, 2] {
        assert_eq!(store.start(lease, &[attempt(tenant, seq(1), number)], at(3)).await?, [Started::NotHeld]);
    }
    let retry = Settlement {
        started_at: Some(at(2)),
        next: Next::At(Action::Send, at(10)),
        ..outcome(tenant, seq(1), 1, EventKind::RetryScheduled, Status::Sending, at(3))
    };
    store.settle(lease, &[retry]).await?;
    claim_all(&store, lease, at(10)).await?;
    assert_eq!(store.start(lease, &[attempt(tenant, seq(1), 1)], at(11)).await?, [Started::NotHeld]);
    start(&store, lease, seq(1), 2, at(11)).await
}

pub async fn a_released_start_counts_as_none(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    create(&store, message(tenant, seq(1))).await?;
    for (holder, now) in [(lease, 2), (other, 5)] {
        assert_eq!(claim_all(&store, holder, at(now)).await?.jobs.iter().map(|j| (j.seq, j.attempt)).collect::<Vec<_>>(), [(seq(1), 0)]);
        start(&store, holder, seq(1), 1, at(now)).await?;
        store.release(holder, &[seq(1)]).await?;
        assert_eq!(kinds(&store, tenant, seq(1)).await?, [(EventKind::Queued, 0)], "an attempt that was not made is none");
    }
    Ok(())
}

pub async fn starts_answer_in_order(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in [1, 3, 5] {
        create(&store, message(tenant, seq(n))).await?;
    }
    claim_all(&store, lease, at(10)).await?;
    let starts = [5, 4, 3, 2, 1].map(|n| attempt(tenant, seq(n), 1));
    let (begun, not) = (Started::Begun, Started::NotHeld);
    assert_eq!(store.start(lease, &starts, at(11)).await?, [begun, not, begun, not, begun]);
    assert_eq!(store.start(lease, &[], at(11)).await?, []);
    Ok(())
}
