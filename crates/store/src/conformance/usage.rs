//! What counting promises: the daily quota, and usage by day.

use std::sync::Arc;

use raven_core::{Channel, Day, Environment, EventKind, KeyId, Seq, Status, TenantId};

use super::fixture::{
    accept, at, audit, claim_all, create, create_key, id, key_record, keyed, message, message_claim, node, outcome, seq, start, tenant,
};
use crate::{
    Accepted, AcceptedCount, Action, Lease, NewMessage, Next, OutcomeCount, Refusal, Result, Settlement, Store, TenantChange, Usage,
};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

fn today() -> Day {
    at(0).day()
}

fn metered(tenant: TenantId, seq: Seq, quota: i64) -> NewMessage {
    NewMessage { quota: Some(quota), ..message(tenant, seq) }
}

/// How many of some metered messages are created, all of one batch; the others must be refused for the quota.
async fn created(store: &Arc<dyn Store>, tenant: TenantId, from: i64, count: i64, quota: i64) -> Result<usize> {
    let answers = accept(store, (from..from + count).map(|n| metered(tenant, seq(n), quota)).collect()).await?;
    let refused = answers.iter().filter(|a| **a == Accepted::Refused(Refusal::Quota)).count();
    let created = answers.iter().filter(|a| **a == Accepted::Created).count();
    assert_eq!(created + refused, answers.len(), "{answers:?}");
    Ok(created)
}

/// All that was accepted on a day, of both environments.
async fn accepted(store: &Arc<dyn Store>, tenant: TenantId, day: Day) -> Result<i64> {
    Ok(store.usage(tenant, None, day..=day).await?.accepted.iter().map(|row| row.messages).sum())
}

pub async fn the_quota_is_exact_within_a_batch(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let answers = accept(&store, (0..10).map(|n| metered(one, seq(n), 7)).collect()).await?;
    let refused = Accepted::Refused(Refusal::Quota);
    assert_eq!(answers[..7], vec![Accepted::Created; 7]);
    assert_eq!(answers[7..], vec![refused; 3]);
    assert_eq!(store.quota_used(one, today()).await?, 7);
    assert_eq!(accepted(&store, one, today()).await?, 7);
    for n in 0..10 {
        assert_eq!(store.find_message(one, None, seq(n)).await?.is_some(), n < 7);
    }
    Ok(())
}

pub async fn the_quota_is_exact_over_batches(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let mut all = 0;
    for batch in 0..9 {
        all += created(&store, one, batch * 10, batch % 4 + 1, 13).await?;
        assert_eq!(store.quota_used(one, today()).await?, i64::try_from(all).expect("few messages"));
    }
    assert_eq!(all, 13);
    assert_eq!(created(&store, one, 900, 1, 13).await?, 0);
    Ok(())
}

pub async fn the_quota_is_exact_for_callers_at_the_same_time(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let calls = (0..12).map(|call| {
        let store = Arc::clone(&store);
        async move { created(&store, one, call * 100, 10, 35).await }
    });
    let all: usize = futures_util::future::try_join_all(calls).await?.into_iter().sum();
    assert_eq!(all, 35);
    assert_eq!(store.quota_used(one, today()).await?, 35);
    assert_eq!(accepted(&store, one, today()).await?, 35);
    Ok(())
}

pub async fn a_tenant_without_quota_sends_nothing(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    assert_eq!(created(&store, one, 0, 3, 0).await?, 0);
    assert_eq!(store.quota_used(one, today()).await?, 0);
    assert_eq!(store.usage(one, None, today()..=today()).await?, Usage::default());
    Ok(())
}

pub async fn what_is_not_metered_is_used_but_takes_no_quota(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let test = |n| NewMessage { environment: Environment::Test, ..message(one, seq(n)) };
    let batch = vec![test(1), metered(one, seq(2), 2), test(3), metered(one, seq(4), 2), test(5), metered(one, seq(6), 2)];
    let answers = accept(&store, batch).await?;
    assert_eq!(answers[..5], vec![Accepted::Created; 5]);
    assert_eq!(answers[5], Accepted::Refused(Refusal::Quota));
    create(&store, test(7)).await?;
    assert_eq!(store.quota_used(one, today()).await?, 2);
    let of = |environment| store.usage(one, environment, today()..=today());
    let row = |messages| AcceptedCount { day: today(), channel: Channel::Sms, key: None, messages };
    assert_eq!(of(Some(Environment::Live)).await?.accepted, [row(2)]);
    assert_eq!(of(Some(Environment::Test)).await?.accepted, [row(4)]);
    assert_eq!(of(None).await?.accepted, [row(6)]);
    Ok(())
}

pub async fn a_replay_takes_no_quota_and_answers_without_any(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let with = |n, key: &str, payload| NewMessage { quota: Some(3), ..keyed(one, seq(n), key, payload) };
    create(&store, with(1, "a", 7)).await?;
    create(&store, with(2, "b", 7)).await?;
    // One is left, and a replay in the same batch does not take it.
    let answers = accept(&store, vec![with(3, "a", 7), with(4, "b", 8), with(5, "c", 7), with(6, "d", 7)]).await?;
    assert!(matches!(answers[0], Accepted::Replayed { seq: first, .. } if first == seq(1)), "{answers:?}");
    assert_eq!(answers[1..], [Accepted::KeyReused, Accepted::Created, Accepted::Refused(Refusal::Quota)]);
    let answers = accept(&store, vec![with(7, "c", 7), with(8, "c", 8), with(9, "e", 7)]).await?;
    assert!(matches!(answers[0], Accepted::Replayed { seq: first, .. } if first == seq(5)), "{answers:?}");
    assert_eq!(answers[1..], [Accepted::KeyReused, Accepted::Refused(Refusal::Quota)]);
    assert_eq!(store.quota_used(one, today()).await?, 3);
    assert_eq!(accepted(&store, one, today()).await?, 3);
    Ok(())
}

pub async fn a_message_beyond_the_quota_uses_up_no_key(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let with = |n, quota, payload| NewMessage { quota: Some(quota), ..keyed(one, seq(n), "k", payload) };
    assert_eq!(created(&store, one, 1, 2, 2).await?, 2);
    assert_eq!(accept(&store, vec![with(3, 2, 7)]).await?, [Accepted::Refused(Refusal::Quota)]);
    assert_eq!(store.find_replay(one, Environment::Live, &message_claim("k", 7)).await?, None);
    assert_eq!(accept(&store, vec![with(4, 3, 8)]).await?, [Accepted::Created]);
    assert_eq!(claim_all(&store, lease, at(10)).await?.jobs.len(), 3);
    Ok(())
}

pub async fn other_refusals_come_before_the_quota(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let foreign = create_key(&store, key_record(two, 1)).await?;
    let batch =
        vec![NewMessage { key: Some(foreign), ..metered(one, seq(1), 0) }, metered(TenantId(id(99)), seq(2), 0), metered(one, seq(3), 0)];
    let expected = [Refusal::Key, Refusal::Tenant, Refusal::Quota].map(Accepted::Refused);
    assert_eq!(accept(&store, batch).await?, expected);
    Ok(())
}

pub async fn each_tenant_has_its_own_quota_of_each_day(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let tomorrow = at(DAY).day();
    assert_eq!(tomorrow, today().plus(1));
    let midnight = tomorrow.start().millis() - at(0).millis();
    // A batch may lie on both sides of midnight.
    let batch = vec![
        metered(one, seq(midnight - 2), 1),
        metered(one, seq(midnight - 1), 1),
        metered(one, seq(midnight), 1),
        metered(two, Seq(seq(midnight - 1).0 + 5), 1),
        metered(one, seq(midnight + 1), 1),
    ];
    let (done, refused) = (Accepted::Created, Accepted::Refused(Refusal::Quota));
    assert_eq!(accept(&store, batch).await?, [done.clone(), refused.clone(), done.clone(), done, refused]);
    assert_eq!((store.quota_used(one, today()).await?, store.quota_used(one, tomorrow).await?), (1, 1));
    assert_eq!((store.quota_used(two, today()).await?, store.quota_used(two, tomorrow).await?), (1, 0));
    Ok(())
}

pub async fn another_limit_holds_at_once(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    assert_eq!(created(&store, one, 0, 9, 5).await?, 5);
    assert_eq!(created(&store, one, 100, 9, 8).await?, 3);
    assert_eq!(created(&store, one, 200, 9, 2).await?, 0);
    assert_eq!(created(&store, one, 300, 2, 1000).await?, 2);
    // What was held of the larger limit is taken back with the change of the plan.
    let smaller = TenantChange { plan: Some("small".to_owned()), ..TenantChange::default() };
    assert!(store.update_tenant(one, smaller, audit(one, 1)).await?.is_some());
    assert_eq!(created(&store, one, 400, 9, 11).await?, 1);
    assert_eq!(store.quota_used(one, today()).await?, 11);
    Ok(())
}

pub async fn a_limit_counts_what_came_before_it(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    for n in 0..3 {
        create(&store, message(one, seq(n))).await?;
    }
    create(&store, NewMessage { environment: Environment::Test, ..message(one, seq(3)) }).await?;
    assert_eq!(created(&store, one, 10, 2, 3).await?, 0, "it is used up before the first that counts");
    assert_eq!(store.quota_used(one, today()).await?, 3);
    assert_eq!(created(&store, one, 20, 9, 5).await?, 2);
    assert_eq!(store.quota_used(one, today()).await?, 5);
    Ok(())
}

pub async fn a_row_that_fails_is_not_counted(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    create(&store, metered(one, seq(3), 6)).await?;
    let batch = (1..9).map(|n| metered(one, seq(n), 6)).collect();
    let answers = store.accept(batch, at(10)).await?;
    let told: Vec<_> = answers.into_iter().map(std::result::Result::ok).collect();
    let (created, refused) = (Some(Accepted::Created), Some(Accepted::Refused(Refusal::Quota)));
    let expected = [&created, &created, &None, &created, &created, &created, &refused, &refused];
    assert_eq!(told.iter().collect::<Vec<_>>(), expected);
    assert_eq!(store.quota_used(one, today()).await?, 6);
    assert_eq!(accepted(&store, one, today()).await?, 6);
    Ok(())
}

pub async fn usage_is_told_by_day_channel_and_key(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (a, b) = (create_key(&store, key_record(one, 1)).await?, create_key(&store, key_record(one, 2)).await?);
    let from = |key: Option<KeyId>, channel, ms| NewMessage { key, channel, ..message(one, seq(ms)) };
    let (sms, email) = (Channel::Sms, Channel::Email);
    let batch = vec![
        from(Some(b), sms, 1),
        from(Some(a), email, 2),
        from(None, email, 3),
        from(Some(a), sms, DAY),
        from(Some(b), sms, 4),
        from(Some(a), sms, 2 * DAY),
        from(Some(a), sms, 5),
        NewMessage { environment: Environment::Test, ..from(Some(b), sms, 6) },
        message(two, seq(7)),
    ];
    assert_eq!(accept(&store, batch).await?, vec![Accepted::Created; 9]);
    create(&store, from(Some(a), email, 8)).await?;
    let row = |days, channel, key, messages| AcceptedCount { day: today().plus(days), channel, key, messages };
    let first = [row(0, sms, Some(a), 1), row(0, sms, Some(b), 3), row(0, email, None, 1), row(0, email, Some(a), 2)];
    let second = row(1, sms, Some(a), 1);
    assert_eq!(store.usage(one, None, today()..=today()).await?.accepted, first);
    assert_eq!(store.usage(one, None, today()..=today().plus(1)).await?.accepted, [&first[..], &[second]].concat());
    assert_eq!(store.usage(one, None, today().plus(1)..=today().plus(1)).await?.accepted, [second]);
    assert_eq!(store.usage(one, None, today().plus(3)..=today().plus(9)).await?, Usage::default());
    assert_eq!(store.usage(one, Some(Environment::Test), today()..=today()).await?.accepted, [row(0, sms, Some(b), 1)]);
    assert_eq!(store.usage(two, None, today()..=today()).await?.accepted, [row(0, sms, None, 1)]);
    Ok(())
}

/// What became of a tenant's messages on the first day: status and number, of SMS.
async fn outcomes(store: &Arc<dyn Store>, tenant: TenantId) -> Result<Vec<(Status, i64)>> {
    let rows = store.usage(tenant, None, today()..=today()).await?.outcomes;
    assert!(rows.iter().all(|row| row.channel == Channel::Sms && row.day == today()), "{rows:?}");
    Ok(rows.into_iter().map(|row| (row.status, row.messages)).collect())
}

/// A report at another time each, so that none is a repetition.
fn report(tenant: TenantId, seq: Seq, kind: EventKind, status: Status, ms: i64) -> Settlement {
    outcome(tenant, seq, 1, kind, status, at(ms))
}

async fn sending(store: &Arc<dyn Store>, tenant: TenantId, lease: Lease, seq: Seq) -> Result<()> {
    create(store, NewMessage { lease: Some(lease), started: Some(None), ..message(tenant, seq) }).await.map(drop)
}

pub async fn each_status_that_is_reached_counts_once(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..4 {
        sending(&store, one, lease, seq(n)).await?;
    }
    assert_eq!(outcomes(&store, one).await?, []);
    let sent = |n, ms| report(one, seq(n), EventKind::Sent, Status::Sent, ms);
    let delivered = |n, ms| report(one, seq(n), EventKind::Delivered, Status::Delivered, ms);
    store.settle(lease, &[sent(1, 10), sent(2, 10), sent(3, 10)]).await?;
    assert_eq!(outcomes(&store, one).await?, [(Status::Sent, 3)]);
    // The same again, the same at another time, and a step back count nothing.
    store.settle(lease, &[sent(1, 10), sent(1, 11)]).await?;
    store.settle(lease, &[delivered(1, 20)]).await?;
    store.settle(lease, &[delivered(1, 20), delivered(1, 21), sent(1, 22)]).await?;
    assert_eq!(outcomes(&store, one).await?, [(Status::Sent, 3), (Status::Delivered, 1)]);
    // Two steps of one message in one call.
    store.settle(lease, &[delivered(2, 30), report(one, seq(2), EventKind::Complained, Status::Complained, 31)]).await?;
    let expected = [(Status::Sent, 3), (Status::Delivered, 2), (Status::Complained, 1)];
    assert_eq!(outcomes(&store, one).await?, expected);
    // A lower one that comes after a higher one was never a status of the message.
    store.settle(lease, &[report(one, seq(3), EventKind::Bounced, Status::Bounced, 40)]).await?;
    store.settle(lease, &[delivered(3, 41)]).await?;
    let expected = [(Status::Sent, 3), (Status::Delivered, 2), (Status::Bounced, 1), (Status::Complained, 1)];
    assert_eq!(outcomes(&store, one).await?, expected);
    Ok(())
}

pub async fn what_decides_nothing_counts_nothing(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    sending(&store, one, lease, seq(1)).await?;
    // A retry, an outcome of a message that there is not, and one in another tenant's name.
    let retry = report(one, seq(1), EventKind::RetryScheduled, Status::Sending, 2);
    store.settle(lease, &[Settlement { next: Next::At(Action::Send, at(5)), ..retry }]).await?;
    store.settle(lease, &[report(one, seq(99), EventKind::Sent, Status::Sent, 3)]).await?;
    store.settle(lease, &[report(two, seq(1), EventKind::Sent, Status::Sent, 3)]).await?;
    assert_eq!((outcomes(&store, one).await?, outcomes(&store, two).await?), (vec![], vec![]));
    // A newer attempt has begun: what is told of the first one moves nothing.
    assert_eq!(claim_all(&store, lease, at(5)).await?.jobs.len(), 1);
    start(&store, lease, seq(1), 2, at(6)).await?;
    store.settle(lease, &[report(one, seq(1), EventKind::Failed, Status::Failed, 7)]).await?;
    assert_eq!(outcomes(&store, one).await?, []);
    store.settle(lease, &[outcome(one, seq(1), 2, EventKind::Sent, Status::Sent, at(8))]).await?;
    assert_eq!(outcomes(&store, one).await?, [(Status::Sent, 1)]);
    Ok(())
}

pub async fn outcomes_are_told_by_the_day_of_acceptance(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let test = |channel, ms| NewMessage { environment: Environment::Test, channel, ..message(one, seq(ms)) };
    let batch = vec![message(one, seq(1)), test(Channel::Email, 2), test(Channel::Sms, 3), message(one, seq(DAY))];
    let all: Vec<_> = batch.iter().map(|m| m.seq).collect();
    assert_eq!(accept(&store, batch).await?, vec![Accepted::Created; 4]);
    // All of them fail two days later.
    let failed = |seq: &Seq| outcome(one, *seq, 0, EventKind::Failed, Status::Failed, at(2 * DAY));
    store.settle(lease, &all.iter().map(failed).collect::<Vec<_>>()).await?;
    let row = |days, channel, messages| OutcomeCount { day: today().plus(days), channel, status: Status::Failed, messages };
    let of = |environment| store.usage(one, environment, today()..=today().plus(2));
    assert_eq!(of(Some(Environment::Live)).await?.outcomes, [row(0, Channel::Sms, 1), row(1, Channel::Sms, 1)]);
    assert_eq!(of(Some(Environment::Test)).await?.outcomes, [row(0, Channel::Sms, 1), row(0, Channel::Email, 1)]);
    assert_eq!(of(None).await?.outcomes, [row(0, Channel::Sms, 2), row(0, Channel::Email, 1), row(1, Channel::Sms, 1)]);
    assert_eq!(store.usage(one, None, today().plus(2)..=today().plus(2)).await?, Usage::default());
    Ok(())
}
