//! What lanes of configs, and jobs that wait for a change, promise.

use std::sync::Arc;

use raven_core::{Channel, Environment, EventKind, Status};

use super::fixture::{at, claim_all, config_record, create, message, node, outcome, seq, seqs, start, step, tenant};
use crate::{
    Action, ConfigRecord, JobRecord, Lane, NewMessage, Next, Outlet, Result, Routing, Settlement, StateChange, Store, Tried, Urgency,
    providers::FAILED,
};

pub async fn what_waits_for_one_config_stands_before_nothing_else(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..=6 {
        create(&store, NewMessage { outlet: Outlet(if n < 5 { 3 } else { 9 }), ..message(tenant, seq(n)) }).await?;
    }
    let (environment, channel, urgency) = (Environment::Live, Channel::Sms, Urgency::Transactional);
    let lane = |outlet| Lane { tenant, environment, channel, urgency, outlet: Outlet(outlet) };
    let claimed = store.claim(lease, 100, 100, &[lane(3)], at(20)).await?;
    assert_eq!((seqs(&claimed), claimed.jobs[0].lane), ([5, 6].map(seq).to_vec(), lane(9)));
    let claimed = store.claim(lease, 100, 2, &[], at(20)).await?;
    assert_eq!((seqs(&claimed), claimed.jobs[0].lane), ([1, 2].map(seq).to_vec(), lane(3)));
    Ok(())
}

pub async fn what_waits_for_a_change_is_due_at_its_end(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    for n in 1..=3 {
        create(&store, message(one, seq(n))).await?;
    }
    create(&store, NewMessage { channel: Channel::Email, ..message(two, seq(4)) }).await?;
    assert_eq!(claim_all(&store, lease, at(20)).await?.jobs.len(), 4);
    let until = |n| (seq(n), at(500));
    store.park(lease, &[1, 2, 3, 4].map(until)).await?;
    let claimed = claim_all(&store, lease, at(499)).await?;
    assert_eq!((claimed.jobs.len(), claimed.next_due), (0, Some(at(500))));
    assert_eq!(store.depth(at(20)).await?, [(Channel::Sms, 3, Some(at(1))), (Channel::Email, 1, Some(at(4)))], "it counts as due");
    assert_eq!(store.list_parked(None, 9).await?, [(one, Channel::Sms), (two, Channel::Email)]);
    assert_eq!(store.list_parked(Some((one, Channel::Sms)), 9).await?, [(two, Channel::Email)]);

    assert_eq!(store.unpark(one, Channel::Email, 9).await?, 0);
    assert_eq!(store.unpark(one, Channel::Sms, 2).await?, 2);
    assert_eq!(seqs(&claim_all(&store, lease, at(20)).await?), [1, 2].map(seq), "the oldest first, due when they were");
    assert_eq!(store.unpark(one, Channel::Sms, 2).await?, 1);
    assert_eq!(store.unpark(one, Channel::Sms, 2).await?, 0);
    let mut rest = seqs(&claim_all(&store, lease, at(500)).await?);
    // Which tenant's turn it is depends on the claims before.
    rest.sort_unstable();
    assert_eq!(rest, [3, 4].map(seq));
    assert_eq!(store.list_parked(None, 9).await?, [], "what was claimed waits no more");
    Ok(())
}

pub async fn only_what_is_held_and_not_started_is_parked(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, ours, theirs) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    for n in 1..=2 {
        create(&store, NewMessage { lease: Some(ours), ..message(tenant, seq(n)) }).await?;
    }
    start(&store, ours, seq(2), 1, at(5)).await?;
    let until = |n| (seq(n), at(500));
    store.park(theirs, &[until(1), until(2)]).await?;
    store.park(ours, &[until(2)]).await?;
    assert_eq!(store.list_parked(None, 9).await?, []);
    store.park(ours, &[until(1)]).await?;
    assert_eq!(store.list_parked(None, 9).await?, [(tenant, Channel::Sms)]);
    store.park(ours, &[]).await
}

pub async fn what_was_tried_stays_with_the_job(store: Arc<dyn Store>) -> Result<()> {
    let (one, other) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let lease = node(&store, "a").await?;
    create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(one, seq(1)) }).await?;
    let mut tried = Tried::default();
    tried.add(config_record(one, 1).id);
    tried.end(config_record(one, 1).id);
    let retry = Settlement {
        next: Next::At(Action::Send, at(9)),
        tried: Some(tried.clone()),
        outlet: Outlet(5),
        ..outcome(one, seq(1), 1, EventKind::RetryScheduled, Status::Sending, at(2))
    };
    store.settle(lease, &[retry]).await?;
    let expected = JobRecord {
        action: Action::Send,
        attempt: 1,
        due_at: at(9),
        expires_at: message(one, seq(1)).expires_at,
        held: false,
        started_at: None,
        tried: Some(tried.clone()),
        parked: false,
    };
    assert_eq!(store.find_job(one, seq(1)).await?, Some(expected));
    assert_eq!(store.find_job(other, seq(1)).await?, None);
    let job = claim_all(&store, lease, at(9)).await?.jobs.remove(0);
    assert_eq!((job.tried, job.lane.outlet, job.lane.urgency), (Some(tried), Outlet(5), Urgency::TransactionalRetry));
    start(&store, lease, seq(1), 2, at(10)).await?;
    store.reap(lease, at(11), at(20), 9).await?;
    assert!(store.find_job(one, seq(1)).await?.is_some_and(|job| job.tried.is_some()), "a crash forgets nothing of it");
    store.settle(lease, &[outcome(one, seq(1), 2, EventKind::Sent, Status::Sent, at(12))]).await?;
    assert_eq!(store.find_job(one, seq(1)).await?, None);
    Ok(())
}

pub async fn a_config_keeps_what_goes_through_it(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let old = config_record(one, 1);
    super::fixture::create_config(&store, old.clone()).await?;
    let routing = Routing {
        priority: 0,
        weight: 1000,
        rules: Some(r#"{"domains":["example.com"]}"#.to_owned()),
        rate_per_second: Some(10_000),
        burst: Some(1),
        concurrency: Some(512),
    };
    let new = ConfigRecord { routing, ..old.clone() };
    assert!(store.replace_config(&old, &new, None).await?);
    assert_eq!(store.find_config(one, old.id).await?, Some(new.clone()));
    assert!(!store.replace_config(&old, &new, None).await?, "it is another by now");
    assert!(store.replace_config(&new, &old, None).await?, "and back");
    Ok(())
}

pub async fn failed_configs_of_active_tenants_are_listed(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let failed = |tenant, n| ConfigRecord { status: FAILED.to_owned(), ..config_record(tenant, n) };
    for record in [failed(one, 1), config_record(one, 2), failed(one, 3), failed(two, 4)] {
        super::fixture::create_config(&store, record).await?;
    }
    let id = |tenant, n| (tenant, config_record(tenant, n).id);
    assert_eq!(store.list_failed_configs(None, 2).await?, [id(one, 1), id(one, 3)]);
    assert_eq!(store.list_failed_configs(Some(config_record(one, 3).id), 9).await?, [id(two, 4)]);
    step(&store, one, StateChange::Suspend(raven_core::tenant::SuspendedBy::Owner), 7).await?;
    assert_eq!(store.list_failed_configs(None, 9).await?, [id(two, 4)]);
    Ok(())
}
