//! What acceptance promises.

use std::sync::Arc;

use raven_core::{Channel, ConfigId, Environment, EventKind, KeyId, Priority, Source, Status, TenantId, Timestamp, tenant::SuspendedBy};

use super::fixture::{
    accept, at, audit, claim_all, create, create_key, id, key_record, keyed, kinds, message, message_claim, node, outcome, seq, seqs,
    status, step, tenant,
};
use crate::{
    Accepted, Error, MessageRecord, NewMessage, Operation, Refusal, Result, StateChange, Store,
    messages::{Intake, LARGE_CONTENT, MessageClaim},
};

fn replayed(first: &NewMessage) -> Accepted {
    Accepted::Replayed { seq: first.seq, recipient: first.recipient.clone(), channel: first.channel, status: Status::Queued }
}

pub async fn a_message_is_stored_with_its_job(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let new = NewMessage { external_id: Some("order-1".to_owned()), ..message(tenant, seq(5)) };
    create(&store, new.clone()).await?;
    let expected = MessageRecord {
        seq: seq(5),
        environment: Environment::Live,
        channel: Channel::Sms,
        source: Source::Api,
        priority: Priority::Transactional,
        status: Status::Queued,
        recipient: new.recipient.clone(),
        external_id: new.external_id.clone(),
        provider: None,
        config: None,
        provider_message_id: None,
        segments: Some(1),
        encoding: Some(raven_core::sms::Encoding::Gsm7),
        cost_currency: None,
        cost_micros: None,
        failure_reason: None,
    };
    assert_eq!(store.find_message(tenant, None, seq(5)).await?, Some(expected.clone()));
    assert_eq!(store.find_message(tenant, Some(Environment::Live), seq(5)).await?, Some(expected));
    assert_eq!(store.find_message(tenant, Some(Environment::Test), seq(5)).await?, None);
    assert_eq!(store.find_content(tenant, seq(5)).await?, Some(new.content));
    assert_eq!(seqs(&claim_all(&store, lease, at(5)).await?), [seq(5)]);
    Ok(())
}

pub async fn texts_come_back_as_they_went_in(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let odd = "'; DROP TABLE messages; -- \\ \" {} \u{1}\r\n\t € 😀 e\u{301} %_ NULL";
    let new = NewMessage {
        channel: Channel::Push,
        environment: Environment::Test,
        source: Source::Dashboard,
        priority: Priority::Bulk,
        recipient: odd.repeat(90),
        content: format!("{{\"body\":\"{odd}\"}}"),
        external_id: Some(odd.to_owned()),
        segments: None,
        encoding: None,
        ..message(tenant, seq(1))
    };
    create(&store, new.clone()).await?;
    let found = store.find_message(tenant, None, seq(1)).await?.expect("just accepted");
    assert_eq!(
        (found.channel, found.environment, found.source, found.segments, found.encoding),
        (Channel::Push, Environment::Test, Source::Dashboard, None, None)
    );
    assert_eq!((found.recipient, found.external_id), (new.recipient, new.external_id));
    assert_eq!(store.find_content(tenant, seq(1)).await?, Some(new.content));
    Ok(())
}

pub async fn a_replayed_key_returns_the_first_message(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let first = NewMessage { recipient: "+254722000001".to_owned(), ..keyed(tenant, seq(1), "k", 7) };
    create(&store, first.clone()).await?;
    for n in 2..5 {
        let again = NewMessage { seq: seq(n), ..first.clone() };
        assert_eq!(accept(&store, vec![again]).await?, [replayed(&first)]);
        assert_eq!(store.find_message(tenant, None, seq(n)).await?, None);
    }
    assert_eq!(seqs(&claim_all(&store, lease, at(10)).await?), [seq(1)]);
    Ok(())
}

pub async fn a_key_with_another_payload_is_refused(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, keyed(tenant, seq(1), "k", 7)).await?;
    assert_eq!(accept(&store, vec![keyed(tenant, seq(2), "k", 8)]).await?, [Accepted::KeyReused]);
    assert_eq!(store.find_message(tenant, None, seq(2)).await?, None);
    assert_eq!(seqs(&claim_all(&store, lease, at(10)).await?), [seq(1)]);
    Ok(())
}

pub async fn a_replay_tells_the_status_of_its_acceptance(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let first = NewMessage { lease: Some(lease), started: Some(None), ..keyed(tenant, seq(1), "k", 7) };
    create(&store, first.clone()).await?;
    store.settle(lease, &[outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(2))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sent);
    assert_eq!(accept(&store, vec![keyed(tenant, seq(3), "k", 7)]).await?, [replayed(&first)]);
    Ok(())
}

pub async fn a_replay_is_found_without_accepting(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (same, other) = (message_claim("k", 7), message_claim("k", 8));
    let live = Environment::Live;
    assert_eq!(store.find_replay(one, live, &same).await?, None);
    let first = keyed(one, seq(1), "k", 7);
    create(&store, first.clone()).await?;
    assert_eq!(store.find_replay(one, live, &same).await?, Some(replayed(&first)));
    assert_eq!(store.find_replay(one, live, &other).await?, Some(Accepted::KeyReused));
    assert_eq!(store.find_replay(one, Environment::Test, &same).await?, None);
    assert_eq!(store.find_replay(two, live, &same).await?, None);
    let as_human = MessageClaim { operation: Operation::SendMessageAsHuman, ..same };
    assert_eq!(store.find_replay(one, live, &as_human).await?, None);
    Ok(())
}

pub async fn keys_of_other_scopes_are_independent(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let human = MessageClaim { operation: Operation::SendMessageAsHuman, ..message_claim("k", 9) };
    let batch = vec![
        keyed(one, seq(1), "k", 1),
        keyed(two, seq(2), "k", 2),
        NewMessage { environment: Environment::Test, ..keyed(one, seq(3), "k", 3) },
        NewMessage { idempotency: Some(human), ..message(one, seq(4)) },
        keyed(one, seq(5), "K", 4),
        keyed(one, seq(6), "k ", 5),
    ];
    assert_eq!(accept(&store, batch.clone()).await?, vec![Accepted::Created; 6]);
    let again = batch.iter().map(|m| NewMessage { seq: raven_core::Seq(m.seq.0 + 1000), ..m.clone() });
    assert_eq!(accept(&store, again.collect()).await?, batch.iter().map(replayed).collect::<Vec<_>>());
    Ok(())
}

pub async fn a_key_that_opens_nothing_is_refused(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let good = create_key(&store, key_record(one, 1)).await?;
    let revoked = create_key(&store, key_record(one, 2)).await?;
    assert!(store.revoke_key(one, None, revoked, at(1), audit(one, 1)).await?);
    let expiring = create_key(&store, crate::KeyRecord { expires_at: Some(at(50)), ..key_record(one, 3) }).await?;
    let foreign = create_key(&store, key_record(two, 4)).await?;
    let unknown = KeyId(id(9999));
    let with = |key: KeyId, n: i64| NewMessage { key: Some(key), ..message(one, seq(n)) };
    let batch = vec![with(good, 1), with(revoked, 2), with(expiring, 3), with(foreign, 4), with(unknown, 5), with(good, 6)];
    let refused = Accepted::Refused(Refusal::Key);
    let expected = [Accepted::Created, refused.clone(), Accepted::Created, refused.clone(), refused.clone(), Accepted::Created];
    assert_eq!(accept(&store, batch).await?, expected);
    assert_eq!(store.find_message(one, None, seq(2)).await?, None);
    // The very instant at which a key expires is too late.
    assert_eq!(accept(&store, vec![with(expiring, 49)]).await?, [Accepted::Created]);
    assert_eq!(accept(&store, vec![with(expiring, 50)]).await?, [refused]);
    Ok(())
}

pub async fn a_tenant_that_is_not_active_is_refused(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let revoked = create_key(&store, key_record(one, 1)).await?;
    assert!(store.revoke_key(one, None, revoked, at(1), audit(one, 1)).await?);
    create(&store, keyed(one, seq(1), "k", 7)).await?;
    let refused = Accepted::Refused(Refusal::Tenant);
    for (n, change) in [(10, StateChange::Suspend(SuspendedBy::Owner)), (20, StateChange::Archive(at(20)))] {
        step(&store, one, change, n).await?;
        let batch = vec![
            message(one, seq(n)),
            message(two, seq(n + 1)),
            keyed(one, seq(n + 2), "k", 7),
            NewMessage { key: Some(revoked), ..message(one, seq(n + 3)) },
            message(TenantId(id(99)), seq(n + 4)),
        ];
        let expected = [refused.clone(), Accepted::Created, refused.clone(), Accepted::Refused(Refusal::Key), refused.clone()];
        assert_eq!(accept(&store, batch).await?, expected);
    }
    step(&store, one, StateChange::Restore(at(21)), 30).await?;
    step(&store, one, StateChange::Reactivate(SuspendedBy::Owner), 31).await?;
    create(&store, message(one, seq(30))).await?;
    Ok(())
}

pub async fn a_refused_message_uses_up_no_key(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    step(&store, tenant, StateChange::Suspend(SuspendedBy::Owner), 1).await?;
    assert_eq!(accept(&store, vec![keyed(tenant, seq(1), "k", 7)]).await?, [Accepted::Refused(Refusal::Tenant)]);
    step(&store, tenant, StateChange::Reactivate(SuspendedBy::Owner), 2).await?;
    create(&store, keyed(tenant, seq(2), "k", 8)).await?;
    Ok(())
}

pub async fn a_duplicate_seq_fails_only_itself(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    create(&store, keyed(tenant, seq(3), "first", 1)).await?;
    let batch = (1..6).map(|n| keyed(tenant, seq(n), &format!("key-{n}"), 1)).collect();
    let answers = store.accept(batch, at(10)).await?;
    let good: Vec<_> = answers.iter().map(|a| matches!(a, Ok(Accepted::Created))).collect();
    assert_eq!(good, [true, true, false, true, true]);
    assert!(matches!(answers[2], Err(Error::Internal(_))), "{:?}", answers[2]);
    // It used up no key, and the first message of that seq is untouched.
    create(&store, keyed(tenant, seq(7), "key-3", 2)).await?;
    assert_eq!(accept(&store, vec![keyed(tenant, seq(8), "first", 2)]).await?, [Accepted::KeyReused]);
    let mut claimed = seqs(&claim_all(&store, lease, at(10)).await?);
    claimed.sort_unstable();
    assert_eq!(claimed, [1, 2, 3, 4, 5, 7].map(seq));
    Ok(())
}

pub async fn answers_stand_in_the_order_of_the_batch(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let three = tenant(&store, 3).await?;
    step(&store, three, StateChange::Suspend(SuspendedBy::Owner), 1).await?;
    let firsts = [keyed(two, seq(1), "z", 1), keyed(one, seq(2), "a", 1)];
    assert_eq!(accept(&store, firsts.to_vec()).await?, [Accepted::Created, Accepted::Created]);
    let batch = vec![
        message(three, seq(90)),
        keyed(two, seq(80), "z", 1),
        keyed(two, seq(70), "y", 1),
        keyed(one, seq(60), "a", 2),
        message(one, seq(50)),
        keyed(one, seq(40), "b", 1),
        keyed(two, seq(30), "x", 1),
        message(three, seq(20)),
    ];
    let expected = [
        Accepted::Refused(Refusal::Tenant),
        replayed(&firsts[0]),
        Accepted::Created,
        Accepted::KeyReused,
        Accepted::Created,
        Accepted::Created,
        Accepted::Created,
        Accepted::Refused(Refusal::Tenant),
    ];
    assert_eq!(accept(&store, batch).await?, expected);
    Ok(())
}

pub async fn five_hundred_messages_are_accepted_at_once(store: Arc<dyn Store>) -> Result<()> {
    let tenants = [tenant(&store, 1).await?, tenant(&store, 2).await?, tenant(&store, 3).await?];
    let batch: Vec<_> = (0..500).map(|n: i64| keyed(tenants[n as usize % 3], seq(n), &format!("key-{}", n * 7919 % 500), 1)).collect();
    assert_eq!(accept(&store, batch.clone()).await?, vec![Accepted::Created; 500]);
    let again = batch.iter().map(|m| NewMessage { seq: raven_core::Seq(m.seq.0 + 1), ..m.clone() }).collect();
    assert_eq!(accept(&store, again).await?, batch.iter().map(replayed).collect::<Vec<_>>());
    Ok(())
}

pub async fn an_empty_batch_is_accepted(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(accept(&store, Vec::new()).await?, []);
    Ok(())
}

pub async fn large_content_is_read_back(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    let long = format!(r#"{{"bodyHtml":"{}"}}"#, "<p>é</p>".repeat(LARGE_CONTENT / 4));
    store.put_content(one, seq(1), &long).await?;
    let outline = r#"{"tags":["receipts"]}"#.to_owned();
    create(&store, NewMessage { channel: Channel::Email, content: outline.clone(), large: true, ..message(one, seq(1)) }).await?;
    assert_eq!(store.find_outline(one, seq(1)).await?, Some(outline));
    assert_eq!(store.find_outline(two, seq(1)).await?, None);
    assert_eq!(store.find_content(one, seq(1)).await?.as_ref(), Some(&long));
    assert_eq!(store.find_content(two, seq(1)).await?, None);
    let claimed = claim_all(&store, lease, at(1)).await?;
    assert_eq!(claimed.jobs.iter().map(|job| &job.content).collect::<Vec<_>>(), [&long]);
    Ok(())
}

pub async fn a_started_message_is_sending_and_leased(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, ours, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    let config = Some(ConfigId(id(3001)));
    create(&store, NewMessage { lease: Some(ours), started: Some(config), ..message(tenant, seq(1)) }).await?;
    create(&store, NewMessage { lease: Some(ours), ..message(tenant, seq(2)) }).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sending);
    assert_eq!(status(&store, tenant, seq(2)).await?, Status::Queued);
    assert_eq!(seqs(&claim_all(&store, other, at(10)).await?), []);
    assert_eq!(kinds(&store, tenant, seq(1)).await?, [(EventKind::Queued, 0), (EventKind::Sending, 1)]);
    assert_eq!(kinds(&store, tenant, seq(2)).await?, [(EventKind::Queued, 0)]);
    store.release(ours, &[seq(2)]).await?;
    assert_eq!(seqs(&claim_all(&store, other, at(10)).await?), [seq(2)]);
    store.settle(ours, &[outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(11))]).await?;
    assert_eq!(status(&store, tenant, seq(1)).await?, Status::Sent);
    Ok(())
}

pub async fn equal_keys_at_the_same_time_make_one_message(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let calls = (0..32).map(|n| {
        let store = Arc::clone(&store);
        async move { accept(&store, vec![keyed(tenant, seq(n), "k", 7)]).await }
    });
    let answers = futures_util::future::try_join_all(calls).await?;
    let created: Vec<_> = answers.iter().enumerate().filter(|(_, a)| a[0] == Accepted::Created).collect();
    assert_eq!(created.len(), 1, "{answers:?}");
    let winner = seq(i64::try_from(created[0].0).expect("32 calls"));
    let same = |a: &Vec<Accepted>| matches!(a[0], Accepted::Created) || matches!(a[0], Accepted::Replayed { seq, .. } if seq == winner);
    assert!(answers.iter().all(same), "{answers:?}");
    Ok(())
}

/// A batch that notes when it is asked for.
struct Waiting(Vec<NewMessage>, Arc<std::sync::atomic::AtomicUsize>);

impl Intake for Waiting {
    fn take(self: Box<Self>) -> (Vec<NewMessage>, Timestamp) {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (self.0, at(1))
    }
}

pub async fn what_waits_is_asked_for_when_it_is_written(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for writer in 0..store.writers() {
        let n = i64::try_from(writer).expect("few writers") * 10;
        let messages = vec![keyed(tenant, seq(n + 1), "k", 1), message(tenant, seq(n + 2))];
        let answers = store.accept_waiting(writer, Box::new(Waiting(messages, asked.clone()))).await?;
        let [first, second] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(matches!(second, Ok(Accepted::Created)), "{second:?}");
        assert_eq!(matches!(first, Ok(Accepted::Created)), writer == 0, "{first:?}");
        assert!(store.accept_waiting(writer, Box::new(Waiting(Vec::new(), asked.clone()))).await?.is_empty());
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2 * store.writers());
    store.close().await;
    assert!(store.accept_waiting(0, Box::new(Waiting(vec![message(tenant, seq(99))], asked.clone()))).await.is_err());
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2 * store.writers(), "a store that can't write asks for nothing");
    Ok(())
}
