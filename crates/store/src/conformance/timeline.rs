//! What the timeline of a message tells.

use std::sync::Arc;

use raven_core::{EventKind, Status};

use super::fixture::{accept, at, claim_all, create, kinds, message, node, outcome, seq, start, tenant};
use crate::{Action, NewMessage, Next, Result, Settlement, Store};

pub async fn a_message_is_queued_first(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    create(&store, message(tenant, seq(7))).await?;
    let events = store.list_events(tenant, seq(7)).await?;
    assert_eq!(events.iter().map(|e| (e.kind, e.at, e.attempt)).collect::<Vec<_>>(), [(EventKind::Queued, at(7), 0)]);
    Ok(())
}

pub async fn an_attempt_begins_before_it_ends(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, NewMessage { lease: Some(lease), ..message(tenant, seq(1)) }).await?;
    start(&store, lease, seq(1), 1, at(10)).await?;
    let retry = Settlement {
        started_at: Some(at(10)),
        next: Next::At(Action::Send, at(30)),
        ..outcome(tenant, seq(1), 1, EventKind::RetryScheduled, Status::Sending, at(20))
    };
    store.settle(lease, &[retry]).await?;
    claim_all(&store, lease, at(30)).await?;
    start(&store, lease, seq(1), 2, at(40)).await?;
    let sent = Settlement { started_at: Some(at(40)), ..outcome(tenant, seq(1), 2, EventKind::Sent, Status::Sent, at(50)) };
    store.settle(lease, &[sent]).await?;
    store.settle(lease, &[outcome(tenant, seq(1), 2, EventKind::Delivered, Status::Delivered, at(60))]).await?;
    let lines: Vec<_> = store.list_events(tenant, seq(1)).await?.into_iter().map(|e| (e.kind, e.at, e.attempt)).collect();
    let expected = [
        (EventKind::Queued, at(1), 0),
        (EventKind::Sending, at(10), 1),
        (EventKind::RetryScheduled, at(20), 1),
        (EventKind::Sending, at(40), 2),
        (EventKind::Sent, at(50), 2),
        (EventKind::Delivered, at(60), 2),
    ];
    assert_eq!(lines, expected);
    Ok(())
}

pub async fn what_is_under_way_shows(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, message(tenant, seq(1))).await?;
    claim_all(&store, lease, at(2)).await?;
    start(&store, lease, seq(1), 1, at(3)).await?;
    let lines: Vec<_> = store.list_events(tenant, seq(1)).await?.into_iter().map(|e| (e.kind, e.at, e.attempt)).collect();
    assert_eq!(lines, [(EventKind::Queued, at(1), 0), (EventKind::Sending, at(3), 1)]);
    Ok(())
}

pub async fn lines_of_the_same_instant_keep_their_order(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq(1)) }).await?;
    let sent = Settlement { started_at: Some(at(1)), ..outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(1)) };
    let told =
        [EventKind::Complained, EventKind::Delivered, EventKind::Bounced].map(|kind| outcome(tenant, seq(1), 1, kind, Status::Sent, at(1)));
    store.settle(lease, &[&[sent][..], &told].concat()).await?;
    // Told last, but of an earlier time.
    store.settle(lease, &[outcome(tenant, seq(1), 1, EventKind::Failed, Status::Sent, at(0))]).await?;
    let kinds: Vec<_> = kinds(&store, tenant, seq(1)).await?.into_iter().map(|(kind, _)| kind).collect();
    let expected = [
        EventKind::Failed,
        EventKind::Queued,
        EventKind::Sending,
        EventKind::Sent,
        EventKind::Complained,
        EventKind::Delivered,
        EventKind::Bounced,
    ];
    assert_eq!(kinds, expected);
    Ok(())
}

pub async fn attempts_of_the_same_instant_follow_each_other(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, NewMessage { lease: Some(lease), ..message(tenant, seq(1)) }).await?;
    for n in 1..=2 {
        start(&store, lease, seq(1), n, at(1)).await?;
        let retry = Settlement {
            started_at: Some(at(1)),
            next: Next::At(Action::Send, at(1)),
            ..outcome(tenant, seq(1), n, EventKind::RetryScheduled, Status::Sending, at(1))
        };
        store.settle(lease, &[retry]).await?;
        claim_all(&store, lease, at(1)).await?;
    }
    start(&store, lease, seq(1), 3, at(1)).await?;
    let told = [
        (EventKind::Queued, 0),
        (EventKind::Sending, 1),
        (EventKind::RetryScheduled, 1),
        (EventKind::Sending, 2),
        (EventKind::RetryScheduled, 2),
        (EventKind::Sending, 3),
    ];
    assert_eq!(kinds(&store, tenant, seq(1)).await?, told);
    let sent = Settlement { started_at: Some(at(1)), ..outcome(tenant, seq(1), 3, EventKind::Sent, Status::Sent, at(1)) };
    store.settle(lease, &[sent]).await?;
    assert_eq!(kinds(&store, tenant, seq(1)).await?, [&told[..], &[(EventKind::Sent, 3)]].concat());
    Ok(())
}

pub async fn an_attempt_begins_once_though_told_twice(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq(1)) }).await?;
    store.reap(lease, at(100), at(900), 10).await?;
    let late = Settlement { started_at: Some(at(1)), ..outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(120)) };
    store.settle(lease, &[late]).await?;
    let expected = [(EventKind::Queued, 0), (EventKind::Sending, 1), (EventKind::OutcomeUnknown, 1), (EventKind::Sent, 1)];
    assert_eq!(kinds(&store, tenant, seq(1)).await?, expected);
    Ok(())
}

pub async fn another_tenants_timeline_is_empty(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    accept(&store, vec![message(one, seq(1))]).await?;
    assert_eq!(store.list_events(two, seq(1)).await?, []);
    assert_eq!(store.list_events(one, seq(2)).await?, []);
    Ok(())
}
