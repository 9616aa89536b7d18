//! Reports of a failure in whose place a message goes through another config.

use std::sync::Arc;

use raven_core::{ConfigId, Environment, EventKind, Seq, Status, SuppressionId, SuppressionReason, TenantId, retry::RetryPolicy};

use super::fixture::{
    CONFIG, accept, at, attempt, claim_all, create, id, kinds, message, node, outcome, reading, report, seq, status, tenant, violations,
};
use crate::{
    Action, CallbackState, Detour, Lease, NewMessage, Next, Outlet, Reading, Reported, Result, Settlement, Store, Suppressing, Telling,
    Urgency,
};

const OTHER: ConfigId = ConfigId(id(3001));
const THIRD: ConfigId = ConfigId(id(3002));

/// Why a failure goes nowhere else, what tells of it, and the status after it.
type Case<'a> = (&'a str, &'a dyn Fn(Seq) -> Reading, Status);

fn detour(config: ConfigId) -> Detour {
    Detour { config, label: "Another".to_owned() }
}

/// A failure that these may mend.
fn failed(seq: Seq, key: &str, through: &[ConfigId]) -> Reported {
    Reported {
        reason: Some("undelivered".to_owned()),
        detours: through.iter().copied().map(detour).collect(),
        ..report(seq, EventKind::Failed, Some(Status::Failed), key)
    }
}

fn told(tenant: TenantId, reports: Vec<Reported>) -> Reading {
    reading(tenant, 1, reports.into_iter().map(|report| Telling::Reported(Box::new(report))).collect())
}

async fn apply(store: &Arc<dyn Store>, reading: Reading) -> Result<CallbackState> {
    Ok(store.apply_callbacks(&[reading], at(100)).await?[0])
}

/// A settlement of this attempt, which went through this config.
fn through(tenant: TenantId, seq: Seq, n: i16, config: ConfigId, kind: EventKind, status: Status) -> Settlement {
    Settlement {
        started_at: Some(at(20)),
        config: Some(config),
        provider: Some("twilio".to_owned()),
        provider_message_id: (kind == EventKind::Sent).then(|| format!("id-{n}")),
        ..outcome(tenant, seq, n, kind, status, at(50 + i64::from(n)))
    }
}

async fn sent(store: &Arc<dyn Store>, tenant: TenantId, new: NewMessage) -> Result<(Seq, Lease)> {
    let lease = node(store, "a").await?;
    let seq = create(store, new).await?;
    claim_all(store, lease, at(10)).await?;
    store.start(lease, &[attempt(tenant, seq, 1)], at(20)).await?;
    store.settle(lease, &[through(tenant, seq, 1, CONFIG, EventKind::Sent, Status::Sent)]).await?;
    Ok((seq, lease))
}

pub async fn a_failure_that_another_config_may_mend_is_tried_again_there(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (seq, lease) = sent(&store, one, message(one, seq(1))).await?;
    let first = failed(seq, "f", &[CONFIG, OTHER]);
    for _ in 0..2 {
        // Told twice, it counts once.
        assert_eq!(apply(&store, told(one, vec![first.clone()])).await?, CallbackState::Applied);
    }
    assert_eq!(status(&store, one, seq).await?, Status::Sent);
    let expected = [(EventKind::Queued, 0), (EventKind::Sending, 1), (EventKind::Sent, 1), (EventKind::RetryScheduled, 0)];
    assert_eq!(kinds(&store, one, seq).await?, expected);
    assert_eq!(store.list_events(one, seq).await?[3].detail.as_deref(), Some("undelivered; next: Another"));
    let job = store.find_job(one, seq).await?.expect("it has a job again");
    assert_eq!((job.action, job.attempt, job.due_at, job.held, job.started_at), (Action::Send, 1, at(100), false, None));
    assert_eq!(job.expires_at, seq.at().after(RetryPolicy::of(raven_core::Channel::Sms).max_age));
    assert!(job.tried.is_some_and(|tried| tried.is_over(CONFIG) && !tried.is_over(OTHER)));
    assert_eq!(violations(&store, at(100)).await?, []);
    // Another word of the same, while it waits.
    apply(&store, told(one, vec![failed(seq, "f2", &[OTHER, THIRD])])).await?;
    assert_eq!(kinds(&store, one, seq).await?.len(), 5);

    let claimed = claim_all(&store, lease, at(100)).await?.jobs;
    assert_eq!(
        claimed.iter().map(|j| (j.seq, j.lane.urgency, j.lane.outlet)).collect::<Vec<_>>(),
        [(seq, Urgency::TransactionalRetry, Outlet::of(Some(OTHER)))]
    );
    store.start(lease, &[attempt(one, seq, 2)], at(110)).await?;
    store.settle(lease, &[through(one, seq, 2, OTHER, EventKind::Sent, Status::Sent)]).await?;
    assert_eq!(store.find_job(one, seq).await?, None);
    // The first one is heard of no more, but for good news.
    apply(&store, told(one, vec![failed(seq, "f3", &[OTHER, THIRD])])).await?;
    assert_eq!((status(&store, one, seq).await?, store.find_job(one, seq).await?), (Status::Sent, None));
    // None of those that are left was not tried.
    let second = Reported { provider_message_id: Some("id-2".to_owned()), ..failed(seq, "g", &[CONFIG]) };
    apply(&store, Reading { config: OTHER, ..told(one, vec![second]) }).await?;
    let found = store.find_message(one, None, seq).await?.expect("it is there");
    assert_eq!((found.status, found.failure_reason.as_deref()), (Status::Failed, Some("undelivered")));
    assert_eq!(store.find_job(one, seq).await?, None);
    assert_eq!(violations(&store, at(200)).await?, []);
    Ok(())
}

pub async fn what_is_no_certain_failure_of_the_config_goes_nowhere_else(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let usual = |seq| told(one, vec![failed(seq, "f", &[OTHER])]);
    let suppressing = Suppressing { id: SuppressionId(id(9)), reason: SuppressionReason::Unsubscribed, only_after: None };
    let cases: [Case<'_>; 6] = [
        ("nobody proved it", &|seq| Reading { is_trusted: false, ..usual(seq) }, Status::Failed),
        (
            "it is about another attempt",
            &|seq| {
                let report = Reported { provider_message_id: Some("id-0".to_owned()), ..failed(seq, "f", &[OTHER]) };
                told(one, vec![report])
            },
            Status::Failed,
        ),
        ("another config says so", &|seq| Reading { config: OTHER, ..usual(seq) }, Status::Sent),
        (
            "the recipient's doing",
            &|seq| told(one, vec![Reported { suppresses: Some(suppressing.clone()), ..failed(seq, "f", &[OTHER]) }]),
            Status::Failed,
        ),
        ("there is no other", &|seq| told(one, vec![failed(seq, "f", &[])]), Status::Failed),
        ("only itself", &|seq| told(one, vec![failed(seq, "f", &[CONFIG])]), Status::Failed),
    ];
    for (n, (why, reading, expected)) in (1..).zip(cases) {
        let to = NewMessage { recipient: format!("+2547000000{n:02}"), ..message(one, seq(n)) };
        let (seq, _) = sent(&store, one, to).await?;
        apply(&store, reading(seq)).await?;
        assert_eq!((status(&store, one, seq).await?, store.find_job(one, seq).await?), (expected, None), "{why}");
    }
    let bounced = |seq| Reported { detours: vec![detour(OTHER)], ..report(seq, EventKind::Bounced, Some(Status::Bounced), "b") };
    let (bounces, _) = sent(&store, one, message(one, seq(7))).await?;
    apply(&store, told(one, vec![bounced(bounces)])).await?;
    assert_eq!((status(&store, one, bounces).await?, store.find_job(one, bounces).await?), (Status::Bounced, None));
    let (test, _) = sent(&store, one, NewMessage { environment: Environment::Test, ..message(one, seq(8)) }).await?;
    apply(&store, usual(test)).await?;
    assert_eq!((status(&store, one, test).await?, store.find_job(one, test).await?), (Status::Failed, None));
    let (old, _) = sent(&store, one, message(one, seq(9))).await?;
    let late = old.at().after(RetryPolicy::of(raven_core::Channel::Sms).max_age);
    store.apply_callbacks(&[usual(old)], late).await?;
    assert_eq!((status(&store, one, old).await?, store.find_job(one, old).await?), (Status::Failed, None));
    Ok(())
}

pub async fn word_of_a_failure_ends_the_wait_for_an_unknown_outcome_with_another_try(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    let seq = create(&store, message(one, seq(1))).await?;
    claim_all(&store, lease, at(10)).await?;
    store.start(lease, &[attempt(one, seq, 1)], at(20)).await?;
    // Its call is under way: what was told comes again.
    assert_eq!(apply(&store, told(one, vec![failed(seq, "f", &[OTHER])])).await?, CallbackState::Waiting);
    let next = Next::At(Action::GiveUp, at(90_000));
    store.settle(lease, &[Settlement { next, ..through(one, seq, 1, CONFIG, EventKind::OutcomeUnknown, Status::Sending) }]).await?;
    assert_eq!(apply(&store, told(one, vec![failed(seq, "f", &[OTHER])])).await?, CallbackState::Applied);
    let job = store.find_job(one, seq).await?.expect("a job");
    assert_eq!((job.action, job.attempt, job.due_at, status(&store, one, seq).await?), (Action::Send, 1, at(100), Status::Sending));
    assert_eq!(violations(&store, at(100)).await?, []);
    Ok(())
}

pub async fn what_has_arrived_after_all_is_not_sent_again(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let delivered = |seq| report(seq, EventKind::Delivered, Some(Status::Delivered), "d");
    // In one batch, in one reading, one after the other, and before.
    for (n, order) in (1..).zip([&[0, 1][..], &[1, 0]]) {
        for (m, together) in (0..).zip([true, false]) {
            let (seq, _) = sent(&store, one, message(one, seq(2 * n + m))).await?;
            let reports = order.iter().map(|i| if *i == 0 { failed(seq, "f", &[OTHER]) } else { delivered(seq) });
            if together {
                apply(&store, told(one, reports.collect())).await?;
            } else {
                for report in reports {
                    apply(&store, told(one, vec![report])).await?;
                }
            }
            assert_eq!(
                (status(&store, one, seq).await?, store.find_job(one, seq).await?),
                (Status::Delivered, None),
                "{order:?} {together}"
            );
        }
    }
    // While the other config is being called, which then has trouble.
    let (seq, lease) = sent(&store, one, message(one, seq(9))).await?;
    apply(&store, told(one, vec![failed(seq, "f", &[OTHER])])).await?;
    claim_all(&store, lease, at(100)).await?;
    store.start(lease, &[attempt(one, seq, 2)], at(110)).await?;
    apply(&store, told(one, vec![delivered(seq)])).await?;
    assert!(store.find_job(one, seq).await?.is_some(), "a call that is under way ends by itself");
    let next = Next::At(Action::Send, at(500));
    store.settle(lease, &[Settlement { next, ..through(one, seq, 2, OTHER, EventKind::RetryScheduled, Status::Sending) }]).await?;
    assert_eq!((status(&store, one, seq).await?, store.find_job(one, seq).await?), (Status::Delivered, None));
    assert_eq!(violations(&store, at(200)).await?, []);
    Ok(())
}

pub async fn a_message_is_looked_up_by_its_providers_id(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let lease = node(&store, "a").await?;
    accept(&store, vec![message(one, seq(1)), message(one, seq(2))]).await?;
    claim_all(&store, lease, at(10)).await?;
    store.start(lease, &[attempt(one, seq(1), 1), attempt(one, seq(2), 1)], at(20)).await?;
    let named = |n: i64| Settlement {
        is_found_by_id: true,
        provider_message_id: Some(format!("id-{n}")),
        ..through(one, seq(n), 1, CONFIG, EventKind::Sent, Status::Sent)
    };
    store.settle(lease, &[named(1), named(2)]).await?;
    // One goes on through another config, and is found by the former one's id, too.
    let again = Settlement { is_found_by_id: true, ..through(one, seq(2), 2, OTHER, EventKind::Sent, Status::Sent) };
    store.settle(lease, &[Settlement { provider_message_id: Some("other-2".to_owned()), ..again }]).await?;
    assert_eq!(store.find_by_provider_id(one, OTHER, "other-2", at(100)).await?, Some(seq(2)));
    for (whose, config, theirs, expected) in [
        (one, CONFIG, "id-1", Some(seq(1))),
        (one, CONFIG, "id-2", Some(seq(2))),
        (one, CONFIG, "id-3", None),
        (one, OTHER, "id-1", None),
        (two, CONFIG, "id-1", None),
    ] {
        assert_eq!(store.find_by_provider_id(whose, config, theirs, at(100)).await?, expected, "{theirs}");
    }
    Ok(())
}
