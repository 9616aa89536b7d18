//! What recording an outcome promises.

use std::sync::Arc;

use raven_core::{ConfigId, EventKind, Seq, Status, TenantId};

use super::fixture::{at, attempt, claim_all, create, id, kinds, message, node, outcome, seq, seqs, start, status, tenant};
use crate::{Action, EventRecord, Lease, NewMessage, Next, Result, Settlement, Started, Store};

/// A message whose first attempt is under way.
async fn sending(store: &Arc<dyn Store>, tenant: TenantId, lease: Lease, seq: Seq) -> Result<()> {
    create(store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq) }).await.map(drop)
}

fn retry(tenant: TenantId, seq: Seq, attempt: i16, due: i64) -> Settlement {
    Settlement {
        next: Next::At(Action::Send, at(due)),
        ..outcome(tenant, seq, attempt, EventKind::RetryScheduled, Status::Sending, at(due - 1))
    }
}

/// Every order of four things.
fn permutations() -> Vec<[usize; 4]> {
    let all = (0..256).map(|n| [n / 64 % 4, n / 16 % 4, n / 4 % 4, n % 4]);
    all.filter(|p| (0..4).all(|n| p.contains(&n))).collect()
}

pub async fn every_order_of_reports_ends_the_same(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let lists = [
        (
            [(EventKind::Sent, Status::Sent), (EventKind::Delivered, Status::Delivered), (EventKind::Complained, Status::Complained)],
            Status::Complained,
        ),
        (
            [(EventKind::Sent, Status::Sent), (EventKind::Failed, Status::Failed), (EventKind::Delivered, Status::Delivered)],
            Status::Delivered,
        ),
        ([(EventKind::Sent, Status::Sent), (EventKind::Bounced, Status::Bounced), (EventKind::Failed, Status::Failed)], Status::Bounced),
    ];
    let mut n = 0;
    for (reports, end) in lists {
        let repeated = [reports[0], reports[1], reports[2], reports[1]];
        for order in permutations() {
            n += 1;
            sending(&store, tenant, lease, seq(n)).await?;
            for (i, report) in order.into_iter().enumerate() {
                let (kind, status) = repeated[report];
                let told = Settlement {
                    provider: Some("sandbox".to_owned()),
                    provider_message_id: Some("id-1".to_owned()),
                    ..outcome(tenant, seq(n), 1, kind, status, at(n + i64::try_from(i).expect("four reports")))
                };
                store.settle(lease, &[told]).await?;
            }
            assert_eq!(status(&store, tenant, seq(n)).await?, end, "{order:?}");
            assert_eq!(store.list_events(tenant, seq(n)).await?.len(), 5, "nothing that was told is lost");
        }
    }
    assert_eq!(store.depth(at(0)).await?, []);
    Ok(())
}

pub async fn details_are_taken_over_where_given(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let config = ConfigId(id(3001));
    create(&store, NewMessage { lease: Some(lease), started: Some(Some(config)), ..message(tenant, seq(1)) }).await?;
    let sent = Settlement {
        started_at: Some(at(1)),
        provider: Some("africas_talking".to_owned()),
        config: Some(config),
        provider_message_id: Some("ATXid_1".to_owned()),
        segments: Some(3),
        cost_currency: Some("KES".to_owned()),
        cost_micros: Some(800_000),
        detail: Some("told in words".to_owned()),
        payload: Some(r#"{"raw":"\u0000 😀"}"#.to_owned()),
        ..outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(2))
    };
    let failed =
        Settlement { failure_reason: Some("absent".to_owned()), ..outcome(tenant, seq(1), 1, EventKind::Failed, Status::Failed, at(3)) };
    store.settle(lease, std::slice::from_ref(&sent)).await?;
    store.settle(lease, &[failed]).await?;
    let found = store.find_message(tenant, None, seq(1)).await?.expect("just accepted");
    assert_eq!((found.status, found.provider, found.config), (Status::Failed, sent.provider, Some(config)));
    assert_eq!((found.provider_message_id, found.segments), (sent.provider_message_id, Some(3)));
    assert_eq!((found.cost_currency, found.cost_micros), (sent.cost_currency, Some(800_000)));
    assert_eq!(found.failure_reason.as_deref(), Some("absent"));
    let events = store.list_events(tenant, seq(1)).await?;
    let expected = EventRecord { kind: EventKind::Sent, at: at(2), attempt: 1, detail: sent.detail, payload: sent.payload };
    assert_eq!(events[2], expected);
    Ok(())
}

pub async fn a_settlement_that_is_told_again_is_recorded_once(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq(1)) }).await?;
    let retry = Settlement {
        started_at: Some(at(1)),
        next: Next::At(Action::Send, at(9)),
        ..outcome(tenant, seq(1), 1, EventKind::RetryScheduled, Status::Sending, at(2))
    };
    store.settle(lease, std::slice::from_ref(&retry)).await?;
    let once = store.list_events(tenant, seq(1)).await?;
    store.settle(lease, std::slice::from_ref(&retry)).await?;
    assert_eq!(store.list_events(tenant, seq(1)).await?, once);
    // Another time, or another attempt, is another event.
    store.settle(lease, &[Settlement { at: at(3), ..retry.clone() }, Settlement { attempt: 2, ..retry }]).await?;
    assert_eq!(store.list_events(tenant, seq(1)).await?.iter().filter(|e| e.kind == EventKind::RetryScheduled).count(), 3);
    Ok(())
}

pub async fn a_job_that_is_done_is_gone(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..4 {
        sending(&store, tenant, lease, seq(n)).await?;
    }
    let done = |n| outcome(tenant, seq(n), 1, EventKind::Sent, Status::Sent, at(9));
    store.settle(lease, &[done(1), done(3)]).await?;
    assert_eq!(store.depth(at(9)).await?, [(raven_core::Channel::Sms, 1, Some(at(2)))]);
    store.settle(lease, &[]).await?;
    assert_eq!(status(&store, tenant, seq(2)).await?, Status::Sending);
    Ok(())
}

pub async fn a_retry_waits_unleased(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    sending(&store, tenant, lease, seq(1)).await?;
    store.settle(lease, &[retry(tenant, seq(1), 1, 50)]).await?;
    assert_eq!(claim_all(&store, other, at(49)).await?.next_due, Some(at(50)));
    let claimed = claim_all(&store, other, at(50)).await?;
    assert_eq!(claimed.jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect::<Vec<_>>(), [(seq(1), Action::Send, 1)]);
    start(&store, other, seq(1), 2, at(51)).await?;
    let give_up = Settlement {
        next: Next::At(Action::GiveUp, at(90)),
        ..outcome(tenant, seq(1), 2, EventKind::OutcomeUnknown, Status::Sending, at(52))
    };
    store.settle(other, &[give_up]).await?;
    let claimed = claim_all(&store, lease, at(90)).await?;
    assert_eq!(claimed.jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect::<Vec<_>>(), [(seq(1), Action::GiveUp, 2)]);
    Ok(())
}

pub async fn a_late_outcome_moves_nothing(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    sending(&store, tenant, lease, seq(1)).await?;
    store.settle(lease, &[retry(tenant, seq(1), 1, 50)]).await?;
    claim_all(&store, other, at(50)).await?;
    start(&store, other, seq(1), 2, at(51)).await?;
    let late = Settlement {
        provider: Some("late".to_owned()),
        failure_reason: Some("late".to_owned()),
        ..outcome(tenant, seq(1), 1, EventKind::Failed, Status::Failed, at(60))
    };
    store.settle(lease, &[late]).await?;
    let found = store.find_message(tenant, None, seq(1)).await?.expect("just accepted");
    assert_eq!((found.status, found.provider, found.failure_reason), (Status::Sending, None, None));
    assert!(kinds(&store, tenant, seq(1)).await?.contains(&(EventKind::Failed, 1)), "it is in the timeline all the same");
    // The newer attempt is still under way, and its outcome counts.
    assert_eq!(store.start(other, &[attempt(tenant, seq(1), 2)], at(61)).await?, [Started::NotHeld]);
    store.settle(other, &[outcome(tenant, seq(1), 2, EventKind::Sent, Status::Sent, at(62))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sent);
    assert_eq!(store.depth(at(99)).await?, []);
    Ok(())
}

pub async fn a_foreign_lease_leaves_the_job(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    sending(&store, tenant, lease, seq(1)).await?;
    store.settle(other, &[outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(5))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sent, "what is known of this attempt counts");
    assert_eq!(store.depth(at(9)).await?.len(), 1);
    store.settle(other, &[retry(tenant, seq(1), 1, 6)]).await?;
    assert_eq!(seqs(&claim_all(&store, other, at(9)).await?), []);
    store.settle(lease, &[outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(7))]).await?;
    assert_eq!(store.depth(at(9)).await?, []);
    Ok(())
}

pub async fn a_job_that_nobody_holds_is_settled(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, message(tenant, seq(1))).await?;
    store.settle(lease, &[outcome(tenant, seq(1), 0, EventKind::Expired, Status::Expired, at(5))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Expired);
    assert_eq!(store.depth(at(9)).await?, []);
    Ok(())
}

pub async fn a_report_after_the_end_raises_the_status(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    sending(&store, tenant, lease, seq(1)).await?;
    store.settle(lease, &[outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(5))]).await?;
    store.settle(lease, &[outcome(tenant, seq(1), 1, EventKind::Delivered, Status::Delivered, at(6))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Delivered);
    store.settle(lease, &[retry(tenant, seq(1), 1, 7)]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Delivered);
    assert_eq!(store.depth(at(9)).await?, [], "no job comes back");
    Ok(())
}

pub async fn outcomes_of_one_message_are_applied_in_order(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    sending(&store, tenant, lease, seq(1)).await?;
    sending(&store, tenant, lease, seq(2)).await?;
    let with = |seq, kind, status, id: &str, next| Settlement {
        provider_message_id: Some(id.to_owned()),
        next,
        ..outcome(tenant, seq, 1, kind, status, at(9))
    };
    let play = Next::At(Action::Play, at(20));
    let settlements = [
        with(seq(1), EventKind::Sent, Status::Sent, "first", play),
        with(seq(2), EventKind::Sent, Status::Sent, "first", Next::Done),
        with(seq(1), EventKind::Delivered, Status::Delivered, "second", Next::Done),
        with(seq(2), EventKind::Delivered, Status::Delivered, "second", play),
        Settlement { at: at(10), ..with(seq(1), EventKind::Sent, Status::Sent, "third", Next::Done) },
    ];
    store.settle(lease, &settlements).await?;
    let first = store.find_message(tenant, None, seq(1)).await?.expect("just accepted");
    assert_eq!((first.status, first.provider_message_id.as_deref()), (Status::Delivered, Some("third")));
    let second = store.find_message(tenant, None, seq(2)).await?.expect("just accepted");
    assert_eq!((second.status, second.provider_message_id.as_deref()), (Status::Delivered, Some("second")));
    let (sent, delivered) = ((EventKind::Sent, 1), (EventKind::Delivered, 1));
    assert_eq!(kinds(&store, tenant, seq(1)).await?, [(EventKind::Queued, 0), sent, delivered, sent]);
    assert_eq!(store.depth(at(9)).await?, []);
    Ok(())
}
