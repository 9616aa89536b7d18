//! What callbacks promise: they are kept once, taken in turn, and move messages the same way in whatever order they come.

use std::sync::Arc;

use raven_core::{
    Channel, ConfigId, Environment, EventKind, Seq, Status, SuppressionId, SuppressionReason, SuppressionSource, TenantId, Timestamp,
    money::Money,
};

use super::fixture::{
    CONFIG, RECIPIENT, accept, at, attempt, callback, claim_all, create, id, inbound, kinds, message, node, outcome, reading, report, seq,
    status, step, suppress, suppression_record, tenant, violations,
};
use crate::{
    Accepted, Action, CallbackRecord, CallbackState, InboundFilter, InboundQuery, InboundRecord, Lease, NewMessage, Next, Patience,
    Preference, Reading, Replay, Reported, Result, Settlement, StateChange, Store, Suppressing, SuppressionFilter, SuppressionQuery,
    Telling,
};

const OTHER: ConfigId = ConfigId(id(3001));

fn reported(report: Reported) -> Vec<Telling> {
    vec![Telling::Reported(Box::new(report))]
}

/// Keeps the `n`th callback and applies what it is said to tell.
async fn apply(store: &Arc<dyn Store>, reading: Reading, n: i64) -> Result<CallbackState> {
    assert_eq!(store.record_callbacks(&[callback(reading.tenant, n)], at(10_000)).await?, [true]);
    Ok(store.apply_callbacks(&[reading], at(100)).await?[0])
}

/// A message that was sent through a config, and the lease.
async fn sent(store: &Arc<dyn Store>, tenant: TenantId, new: NewMessage, is_found_by_id: bool) -> Result<(Seq, Lease)> {
    let lease = node(store, "a").await?;
    let seq = create(store, new).await?;
    claim_all(store, lease, at(10)).await?;
    store.start(lease, &[attempt(tenant, seq, 1)], at(20)).await?;
    let sent = Settlement {
        started_at: Some(at(20)),
        config: Some(CONFIG),
        provider: Some("twilio".to_owned()),
        provider_message_id: Some("id-1".to_owned()),
        is_found_by_id,
        ..outcome(tenant, seq, 1, EventKind::Sent, Status::Sent, at(50))
    };
    store.settle(lease, &[sent]).await?;
    Ok((seq, lease))
}

pub async fn a_callback_is_kept_and_taken_in_turn(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let batch: Vec<_> = (0..5).map(|n| callback(one, n)).collect();
    assert_eq!(store.record_callbacks(&batch, at(100)).await?, [true; 5]);
    assert_eq!(store.claim_callbacks(10, at(99), at(500)).await?, [], "it is still whose it was");
    let seen = |tries| batch.iter().map(|c| CallbackRecord { tries, ..c.clone() }).collect::<Vec<_>>();
    assert_eq!(store.claim_callbacks(2, at(100), at(500)).await?, seen(1)[..2]);
    assert_eq!(store.claim_callbacks(10, at(100), at(500)).await?, seen(1)[2..]);
    assert_eq!(store.claim_callbacks(10, at(499), at(900)).await?, []);
    let again = store.claim_callbacks(1, at(500), at(900)).await?;
    assert_eq!(again, seen(2)[..1], "nothing had become of it");
    Ok(())
}

pub async fn a_callback_with_the_same_proof_is_kept_once(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let with = |n, once: &str, config| CallbackRecord { once: Some(once.to_owned()), config, ..callback(one, n) };
    let batch = [with(1, "token", CONFIG), with(2, "token", CONFIG), with(3, "token", OTHER), with(4, "other", CONFIG), callback(one, 5)];
    assert_eq!(store.record_callbacks(&batch, at(10)).await?, [true, false, true, true, true]);
    assert_eq!(store.record_callbacks(&[with(6, "other", CONFIG)], at(10)).await?, [false]);
    assert_eq!(store.claim_callbacks(10, at(10), at(20)).await?.len(), 4);
    Ok(())
}

pub async fn a_report_moves_its_message_and_stands_in_its_timeline(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (seq, _) = sent(&store, one, message(one, seq(1)), false).await?;
    let delivered = Reported {
        cost: Some(Money { currency: "KES".to_owned(), micros: 800_000 }),
        segments: Some(2),
        // Before it was sent, by a clock that tells whole seconds.
        at: at(0),
        ..report(seq, EventKind::Delivered, Some(Status::Delivered), "d")
    };
    assert_eq!(apply(&store, reading(one, 1, reported(delivered.clone())), 1).await?, CallbackState::Applied);
    let found = store.find_message(one, None, seq).await?.expect("it is there");
    assert_eq!((found.status, found.cost_micros, found.segments), (Status::Delivered, Some(800_000), Some(2)));
    let expected = [(EventKind::Queued, 0), (EventKind::Sending, 1), (EventKind::Sent, 1), (EventKind::Delivered, 0)];
    assert_eq!(kinds(&store, one, seq).await?, expected);
    let events = store.list_events(one, seq).await?;
    assert_eq!((events[3].at, events[3].payload.as_deref()), (at(50), Some(r#"{"k":"d"}"#)));
    // Told again, by another callback and by the same one.
    for n in [2, 1] {
        store.record_callbacks(&[callback(one, n)], at(10_000)).await?;
        assert_eq!(store.apply_callbacks(&[reading(one, n, reported(delivered.clone()))], at(200)).await?, [CallbackState::Applied]);
    }
    assert_eq!(kinds(&store, one, seq).await?, expected);
    assert_eq!(store.claim_callbacks(10, at(90_000), at(90_001)).await?, [], "nothing is left to do");
    let day = at(0).day();
    let reached: Vec<_> = store.usage(one, None, day..=day).await?.outcomes.iter().map(|o| (o.status, o.messages)).collect();
    assert_eq!(reached, [(Status::Sent, 1), (Status::Delivered, 1)]);
    assert_eq!(violations(&store, at(100)).await?, []);
    Ok(())
}

pub async fn every_order_of_callbacks_ends_the_same(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let tell = |seq: Seq, n: usize| match n {
        0 => report(seq, EventKind::Sent, Some(Status::Sent), "s"),
        1 => report(seq, EventKind::Delivered, Some(Status::Delivered), "d"),
        2 => Reported { reason: Some("soft".to_owned()), ..report(seq, EventKind::Bounced, Some(Status::Bounced), "b1") },
        3 => Reported { reason: Some("hard".to_owned()), ..report(seq, EventKind::Bounced, Some(Status::Bounced), "b2") },
        _ => report(seq, EventKind::Opened, None, "o"),
    };
    let mut ends = Vec::new();
    let mut order = [0, 1, 2, 3, 4];
    let mut n = 0;
    permute(&mut order, 0, &mut |order| ends.push(order.to_vec()));
    assert_eq!(ends.len(), 120);
    let lease = node(&store, "a").await?;
    let mut seen: Option<(Status, Option<String>)> = None;
    for order in ends {
        n += 1;
        let seq = create(&store, message(one, seq(1000 + n))).await?;
        let sent = Settlement { config: Some(CONFIG), ..outcome(one, seq, 0, EventKind::Sent, Status::Sent, at(2000)) };
        store.settle(lease, &[sent]).await?;
        // Half of them in one batch.
        if n % 2 == 0 {
            let all: Vec<_> = order.iter().map(|i| reading(one, *i as i64, reported(tell(seq, *i)))).collect();
            assert_eq!(store.apply_callbacks(&all, at(3000)).await?, [CallbackState::Applied; 5]);
        } else {
            for i in &order {
                store.apply_callbacks(&[reading(one, *i as i64, reported(tell(seq, *i)))], at(3000)).await?;
            }
        }
        let found = store.find_message(one, None, seq).await?.expect("it is there");
        let end = (found.status, found.failure_reason);
        assert_eq!(end, *seen.get_or_insert_with(|| end.clone()), "{order:?}");
        assert_eq!(store.list_events(one, seq).await?.len(), 7, "{order:?}");
    }
    assert_eq!(seen, Some((Status::Bounced, Some("hard".to_owned()))));
    Ok(())
}

fn permute(order: &mut [usize; 5], from: usize, each: &mut impl FnMut(&[usize; 5])) {
    if from == order.len() {
        return each(order);
    }
    for i in from..order.len() {
        order.swap(from, i);
        permute(order, from + 1, each);
        order.swap(from, i);
    }
}

pub async fn a_message_is_found_by_its_providers_id(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let by_id = |id: &str| {
        reported(Reported {
            message: None,
            provider_message_id: Some(id.to_owned()),
            ..report(seq(1), EventKind::Delivered, Some(Status::Delivered), "d")
        })
    };
    // It comes before the answer to our own call.
    assert_eq!(apply(&store, reading(one, 1, by_id("id-1")), 1).await?, CallbackState::Waiting);
    assert_eq!(store.claim_callbacks(10, at(4999), at(9000)).await?, []);
    let (seq, _) = sent(&store, one, message(one, seq(1)), true).await?;
    let due = store.claim_callbacks(10, at(5000), at(9000)).await?;
    assert_eq!(due.len(), 1, "it waits for the message");
    for (whose, config, state) in
        [(two, CONFIG, CallbackState::Unmatched), (one, OTHER, CallbackState::Unmatched), (one, CONFIG, CallbackState::Applied)]
    {
        let reading = Reading { config, again_at: None, ..reading(whose, 1, by_id("id-1")) };
        assert_eq!(store.apply_callbacks(&[reading], at(6000)).await?, [state]);
    }
    assert_eq!(status(&store, one, seq).await?, Status::Delivered);
    // Hours and days later it still is.
    for (hours, state) in
        [(5, CallbackState::Applied), (13, CallbackState::Applied), (7 * 24, CallbackState::Applied), (9 * 24, CallbackState::Unmatched)]
    {
        let later = Reading { again_at: None, ..reading(one, 1, by_id("id-1")) };
        let now = at(0).after(std::time::Duration::from_secs(hours * 3600));
        assert_eq!(store.apply_callbacks(&[later], now).await?, [state], "{hours} hours later");
    }
    let unknown = Reading { again_at: None, ..reading(one, 2, by_id("id-2")) };
    assert_eq!(apply(&store, unknown, 2).await?, CallbackState::Unmatched);
    Ok(())
}

pub async fn another_tenants_message_is_not_moved(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (seq, _) = sent(&store, one, message(one, seq(1)), true).await?;
    let foreign =
        Reading { again_at: None, ..reading(two, 1, reported(report(seq, EventKind::Complained, Some(Status::Complained), "c"))) };
    assert_eq!(apply(&store, foreign, 1).await?, CallbackState::Unmatched);
    assert_eq!(status(&store, one, seq).await?, Status::Sent);
    assert_eq!(store.list_events(one, seq).await?.len(), 3);
    Ok(())
}

pub async fn what_nothing_proves_moves_only_what_it_names(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (seq, _) = sent(&store, one, message(one, seq(1)), false).await?;
    let complaint = Reported {
        suppresses: Some(Suppressing { id: SuppressionId(id(9)), reason: SuppressionReason::SpamComplaint, only_after: None }),
        ..report(seq, EventKind::Complained, Some(Status::Complained), "c")
    };
    let stop =
        Preference { id: SuppressionId(id(8)), address: RECIPIENT.to_owned(), wants: false, message: None, detail: None, is_inbound: true };
    let guess = Reported { provider_message_id: Some("id-2".to_owned()), ..complaint.clone() };
    let untrusted = |tells| Reading { is_trusted: false, ..reading(one, 1, tells) };
    let tells = [reported(guess), vec![Telling::Preference(stop)]].concat();
    assert_eq!(apply(&store, untrusted(tells), 1).await?, CallbackState::Applied);
    assert_eq!(status(&store, one, seq).await?, Status::Sent);
    store.apply_callbacks(&[untrusted(reported(complaint))], at(100)).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Complained);
    assert_eq!(store.find_suppression_of(one, Environment::Live, Channel::Sms, RECIPIENT).await?, None, "it never suppresses");
    Ok(())
}

pub async fn word_of_an_unknown_outcome_ends_the_wait(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let lease = node(&store, "a").await?;
    let mut all = Vec::new();
    for n in 1..=4 {
        all.push(create(&store, message(one, seq(n))).await?);
    }
    claim_all(&store, lease, at(10)).await?;
    let starts: Vec<_> = all.iter().map(|seq| attempt(one, *seq, 1)).collect();
    store.start(lease, &starts, at(20)).await?;
    let unknown = |seq, next| Settlement { next, ..outcome(one, seq, 1, EventKind::OutcomeUnknown, Status::Sending, at(50)) };
    // The fourth one is under way.
    store
        .settle(
            lease,
            &[
                unknown(all[0], Next::At(Action::GiveUp, at(90_000))),
                unknown(all[1], Next::At(Action::GiveUp, at(90_000))),
                unknown(all[2], Next::At(Action::Send, at(90_000))),
            ],
        )
        .await?;
    let failed = |seq| report(seq, EventKind::Failed, Some(Status::Failed), "f");
    for (n, tells, state, expected, job) in [
        (0, report(all[0], EventKind::Delivered, Some(Status::Delivered), "d"), CallbackState::Applied, Status::Delivered, false),
        (1, failed(all[1]), CallbackState::Applied, Status::Failed, false),
        // A failure of what was tried before is no end while it is to be tried again; a delivery is.
        (2, failed(all[2]), CallbackState::Applied, Status::Sending, true),
        (2, report(all[2], EventKind::Delivered, Some(Status::Delivered), "d"), CallbackState::Applied, Status::Delivered, false),
        // The provider was faster than its own answer.
        (3, failed(all[3]), CallbackState::Waiting, Status::Sending, true),
    ] {
        assert_eq!(store.apply_callbacks(&[reading(one, 1, reported(tells))], at(100)).await?, [state]);
        assert_eq!(status(&store, one, all[n]).await?, expected, "{n}");
        let left = claim_all(&store, lease, at(1_000_000)).await?.jobs.iter().any(|j| j.seq == all[n]);
        store.release(lease, &all[..3]).await?;
        assert_eq!(left, job && n != 3, "{n}");
    }
    let sent = Settlement { config: Some(CONFIG), ..outcome(one, all[3], 1, EventKind::Sent, Status::Sent, at(110)) };
    store.settle(lease, &[sent]).await?;
    assert_eq!(store.apply_callbacks(&[reading(one, 1, reported(failed(all[3])))], at(200)).await?, [CallbackState::Applied]);
    assert_eq!(status(&store, one, all[3]).await?, Status::Failed);
    assert_eq!(violations(&store, at(200)).await?, []);
    Ok(())
}

pub async fn a_failure_at_a_former_config_is_no_end(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (seq, _) = sent(&store, one, message(one, seq(1)), false).await?;
    let former = |tells| Reading { config: OTHER, ..reading(one, 1, reported(tells)) };
    let bounced = report(seq, EventKind::Bounced, Some(Status::Bounced), "b");
    apply(&store, former(bounced.clone()), 1).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Sent);
    apply(&store, former(report(seq, EventKind::Delivered, Some(Status::Delivered), "d")), 2).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Delivered, "it has arrived, whichever way");
    let own = Reported { key: "b2".to_owned(), ..bounced };
    apply(&store, reading(one, 3, reported(own)), 3).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Bounced);
    Ok(())
}

pub async fn a_report_suppresses_its_recipient(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let email = NewMessage { channel: Channel::Email, recipient: "Ada@example.com".to_owned(), ..message(one, seq(1)) };
    let (seq, _) = sent(&store, one, email, false).await?;
    let suppressing = |n, reason| Some(Suppressing { id: SuppressionId(id(n)), reason, only_after: None });
    // A copy's fate is not the message's.
    let copy = Reported {
        recipient: Some("grace@example.com".to_owned()),
        suppresses: suppressing(1, SuppressionReason::HardBounce),
        detail: Some("550 no such user".to_owned()),
        ..report(seq, EventKind::Bounced, Some(Status::Bounced), "copy")
    };
    apply(&store, reading(one, 1, reported(copy)), 1).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Sent);
    let of = async |address: &str| store.find_suppression_of(one, Environment::Live, Channel::Email, address).await;
    assert_eq!(of("grace@example.com").await?, Some(SuppressionReason::HardBounce));
    assert_eq!(of("ada@example.com").await?, None);
    let complaint = Reported {
        recipient: Some("ada@example.com".to_owned()),
        suppresses: suppressing(2, SuppressionReason::SpamComplaint),
        detail: Some("abuse".to_owned()),
        ..report(seq, EventKind::Complained, Some(Status::Complained), "c")
    };
    apply(&store, reading(one, 2, reported(complaint)), 2).await?;
    assert_eq!(status(&store, one, seq).await?, Status::Complained);
    assert_eq!(of("Ada@example.com").await?, Some(SuppressionReason::SpamComplaint));
    let found = store.find_suppression(one, None, SuppressionId(id(2))).await?.expect("it is listed");
    assert_eq!((found.source, found.message, found.detail.as_deref()), (SuppressionSource::Callback, Some(seq), Some("abuse")));
    Ok(())
}

pub async fn a_link_suppresses_with_no_callback_to_note(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    // Links work in test, too.
    for (n, environment) in [(1, Environment::Live), (2, Environment::Test)] {
        let email = NewMessage { channel: Channel::Email, recipient: "Ada@example.com".to_owned(), environment, ..message(one, seq(n)) };
        let (seq, _) = sent(&store, one, email, false).await?;
        let suppression = SuppressionId(id(u128::try_from(n).expect("positive")));
        let by_link = Reported {
            provider_message_id: None,
            suppresses: Some(Suppressing { id: suppression, reason: SuppressionReason::Unsubscribed, only_after: None }),
            detail: Some("by the link".to_owned()),
            ..report(seq, EventKind::Unsubscribed, Some(Status::Unsubscribed), "link")
        };
        let told = Reading { callback: None, config: OTHER, channel: Channel::Email, ..reading(one, n, reported(by_link)) };
        for _ in 0..2 {
            assert_eq!(store.apply_callbacks(std::slice::from_ref(&told), at(100)).await?, [CallbackState::Applied]);
            assert_eq!(status(&store, one, seq).await?, Status::Unsubscribed);
        }
        let lines = kinds(&store, one, seq).await?.into_iter().filter(|(kind, _)| *kind == EventKind::Unsubscribed).count();
        assert_eq!(lines, 1, "twice is the same as once");
        let found = store.find_suppression(one, Some(environment), suppression).await?.expect("it is listed");
        assert_eq!((found.source, found.message, found.detail.as_deref()), (SuppressionSource::Link, Some(seq), Some("by the link")));
        assert_eq!(found.address, "ada@example.com");
    }
    Ok(())
}

pub async fn soft_bounces_suppress_when_they_are_too_many(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let email = |n| NewMessage { channel: Channel::Email, recipient: "ada@example.com".to_owned(), ..message(one, seq(n)) };
    let mut n = 0;
    let mut bounce = async |when: Timestamp| -> Result<bool> {
        n += 1;
        let (seq, _) = sent(&store, one, email(n), false).await?;
        let patience = Patience { bounces: 3, since: when.before(std::time::Duration::from_secs(30)) };
        let soft = Reported {
            at: when,
            suppresses: Some(Suppressing {
                id: SuppressionId(id(u128::try_from(n).expect("positive"))),
                reason: SuppressionReason::HardBounce,
                only_after: Some(patience),
            }),
            ..report(seq, EventKind::Bounced, Some(Status::Bounced), "soft")
        };
        apply(&store, reading(one, n, reported(soft.clone())), n).await?;
        // Told again, it counts once.
        store.apply_callbacks(&[reading(one, n, reported(soft))], at(100)).await?;
        Ok(store.find_suppression_of(one, Environment::Live, Channel::Email, "ada@example.com").await?.is_some())
    };
    assert!(!bounce(at(1000)).await? && !bounce(at(2000)).await?);
    // The window of the first ones is over.
    assert!(!bounce(at(40_000)).await? && !bounce(at(41_000)).await?);
    let (seq, _) = sent(&store, one, email(500), false).await?;
    apply(&store, reading(one, 500, reported(report(seq, EventKind::Delivered, Some(Status::Delivered), "d"))), 500).await?;
    // A delivery in between.
    assert!(!bounce(at(42_000)).await? && !bounce(at(43_000)).await?);
    assert!(bounce(at(44_000)).await?, "three without a delivery");
    Ok(())
}

pub async fn a_message_from_outside_is_kept_once_and_listed(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let all: Vec<_> =
        (1..=5).map(|n| InboundRecord { channel: if n == 3 { Channel::Whatsapp } else { Channel::Sms }, ..inbound(one, n) }).collect();
    for (n, record) in (1..).zip(&all) {
        let tells = vec![Telling::Inbound(Box::new(record.clone()))];
        apply(&store, reading(one, n, tells.clone()), n).await?;
        let again = Telling::Inbound(Box::new(InboundRecord { seq: Seq(record.seq.0 + 100), ..record.clone() }));
        store.apply_callbacks(&[reading(one, n, vec![again])], at(100)).await?;
    }
    apply(&store, reading(two, 9, vec![Telling::Inbound(Box::new(InboundRecord { config: OTHER, ..inbound(two, 9) }))]), 9).await?;
    let query = |limit, scan, channel, before| InboundQuery {
        filter: InboundFilter { environment: None, channel, sender: None },
        before,
        limit,
        scan,
    };
    let page = store.list_inbound(one, &query(2, 10, None, None)).await?;
    assert_eq!(page.rows, [all[4].clone(), all[3].clone()]);
    let rest = store.list_inbound(one, &query(10, 10, None, page.next)).await?;
    assert_eq!((rest.rows, rest.next), (vec![all[2].clone(), all[1].clone(), all[0].clone()], None));
    let looked = store.list_inbound(one, &query(5, 2, Some(Channel::Whatsapp), None)).await?;
    assert_eq!((looked.rows.len(), looked.next), (0, Some(all[3].seq)), "the scan stopped first");
    let found = store.list_inbound(one, &query(5, 2, Some(Channel::Whatsapp), looked.next)).await?;
    assert_eq!(found.rows, [all[2].clone()]);
    let sender = InboundFilter { environment: Some(Environment::Live), channel: None, sender: Some("+1".to_owned()) };
    let none = store.list_inbound(one, &InboundQuery { filter: sender, before: None, limit: 9, scan: 99 }).await?;
    assert_eq!((none.rows, none.next), (vec![], None));
    let test = InboundFilter { environment: Some(Environment::Test), ..InboundFilter::default() };
    assert_eq!(store.list_inbound(one, &InboundQuery { filter: test, before: None, limit: 9, scan: 99 }).await?.rows, []);
    Ok(())
}

pub async fn the_last_message_to_somebody_is_found(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let to = |n, recipient: &str| NewMessage { recipient: recipient.to_owned(), ..message(one, seq(n)) };
    let batch = vec![to(1, "+254700000001"), to(2, "+254700000002"), to(3, "+254700000001"), to(4, "+254700000003")];
    assert_eq!(accept(&store, batch).await?, [Accepted::Created, Accepted::Created, Accepted::Created, Accepted::Created]);
    let last = async |recipient: &str, scan| store.find_last_sent(one, Environment::Live, Channel::Sms, recipient, scan).await;
    assert_eq!(last("+254700000001", 10).await?, Some(seq(3)));
    assert_eq!(last("+254700000002", 10).await?, Some(seq(2)));
    assert_eq!(last("+254700000002", 2).await?, None, "it looks so far and no further");
    assert_eq!(store.find_last_sent(one, Environment::Test, Channel::Sms, "+254700000001", 10).await?, None);
    assert_eq!(store.find_last_sent(one, Environment::Live, Channel::Whatsapp, "+254700000001", 10).await?, None);
    Ok(())
}

pub async fn a_wish_suppresses_and_is_lifted(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let wish = |wants, address: &str, n| {
        vec![Telling::Preference(Preference {
            id: SuppressionId(id(n)),
            address: address.to_owned(),
            wants,
            message: Some(seq(1)),
            detail: Some("STOP".to_owned()),
            is_inbound: true,
        })]
    };
    apply(&store, reading(one, 1, wish(false, RECIPIENT, 1)), 1).await?;
    let of = async |channel, address: &str| store.find_suppression_of(one, Environment::Live, channel, address).await;
    assert_eq!(of(Channel::Sms, RECIPIENT).await?, Some(SuppressionReason::Unsubscribed));
    assert_eq!(of(Channel::Whatsapp, RECIPIENT).await?, None, "by the same channel only");
    let found = store.find_suppression(one, None, SuppressionId(id(1))).await?.expect("it is listed");
    assert_eq!((found.source, found.message, found.detail.as_deref()), (SuppressionSource::Inbound, Some(seq(1)), Some("STOP")));
    apply(&store, reading(one, 2, wish(true, RECIPIENT, 2)), 2).await?;
    assert_eq!(of(Channel::Sms, RECIPIENT).await?, None);
    // What somebody of the tenant put there stays, whatever the recipient says.
    let manual = "+254700000009";
    suppress(&store, crate::SuppressionRecord { address: manual.to_owned(), ..suppression_record(one, 7) }).await?;
    apply(&store, reading(one, 3, wish(true, manual, 3)), 3).await?;
    assert_eq!(of(Channel::Sms, manual).await?, Some(SuppressionReason::Manual));
    let filter = SuppressionFilter { environment: Environment::Live, channel: None, part: None };
    let page = store.list_suppressions(one, &SuppressionQuery { filter, before: None, skip: 0, limit: 9, scan: 9 }).await?;
    assert_eq!(page.rows.len(), 1);
    Ok(())
}

pub async fn what_could_not_be_read_is_read_again_when_told(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let unreadable = |whose, n| Reading { tells: Err("new format".to_owned()), ..reading(whose, n, Vec::new()) };
    assert_eq!(apply(&store, unreadable(one, 1), 1).await?, CallbackState::Unreadable);
    assert_eq!(apply(&store, unreadable(one, 2), 2).await?, CallbackState::Unreadable);
    assert_eq!(apply(&store, unreadable(two, 3), 3).await?, CallbackState::Unreadable);
    assert_eq!(apply(&store, reading(one, 4, Vec::new()), 4).await?, CallbackState::Applied);
    let of = |tenant| Replay { tenant, ..Replay::default() };
    assert_eq!(store.replay_callbacks(&of(Some(one)), None, 1, at(200)).await?, (Some(callback(one, 1).seq), 1));
    assert_eq!(store.replay_callbacks(&of(Some(one)), Some(callback(one, 1).seq), 1, at(200)).await?.1, 1);
    assert_eq!(store.replay_callbacks(&of(Some(one)), Some(callback(one, 2).seq), 9, at(200)).await?, (None, 0));
    assert_eq!(store.claim_callbacks(9, at(200), at(300)).await?.len(), 2);
    let later = Replay { from: Some(at(4)), all: true, ..Replay::default() };
    assert_eq!(store.replay_callbacks(&later, None, 9, at(400)).await?, (None, 1), "the applied one");
    let config = Replay { config: Some(OTHER), all: true, ..Replay::default() };
    assert_eq!(store.replay_callbacks(&config, None, 9, at(400)).await?, (None, 0));
    Ok(())
}

pub async fn what_is_old_is_forgotten(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    sent(&store, one, message(one, seq(1)), true).await?;
    apply(&store, reading(one, 1, Vec::new()), 1).await?;
    store.record_callbacks(&[callback(one, 2)], at(50)).await?;
    assert_eq!(store.purge_callbacks(at(1), at(100), 10).await?, 0);
    assert_eq!(store.purge_callbacks(at(10), at(100), 10).await?, 1, "what waits stays");
    let days = |n: u64| at(0).after(std::time::Duration::from_secs(n * 86_400));
    assert_eq!(store.purge_callbacks(at(10), days(7), 10).await?, 0);
    assert_eq!(store.purge_callbacks(at(10), days(9), 10).await?, 1, "the id of the message");
    Ok(())
}

pub async fn a_purged_tenant_leaves_no_callbacks(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    apply(&store, reading(one, 1, vec![Telling::Inbound(Box::new(inbound(one, 1)))]), 1).await?;
    store.record_callbacks(&[callback(one, 2)], at(50)).await?;
    step(&store, one, StateChange::Archive(at(1)), 1).await?;
    while !store.purge_tenant(one, 2).await? {}
    assert_eq!(store.claim_callbacks(9, at(90_000), at(90_001)).await?, []);
    let query = InboundQuery { filter: InboundFilter::default(), before: None, limit: 9, scan: 9 };
    assert_eq!(store.list_inbound(one, &query).await?.rows, []);
    let all = Replay { all: true, ..Replay::default() };
    assert_eq!(store.replay_callbacks(&all, None, 9, at(400)).await?, (None, 0));
    Ok(())
}
