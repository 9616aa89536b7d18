//! What suppressions promise: the list, and what it does to acceptance, starts and settling.

use std::sync::Arc;

use raven_core::{
    Channel, Environment, EventKind, Seq, Status, SuppressionId, SuppressionReason, SuppressionSource, TenantId, Timestamp,
    suppression::comparable,
};

use super::fixture::{
    RECIPIENT, accept, at, attempt, audit, claim, claim_all, create, id, keyed, kinds, message, new_suppression, node, outcome, seq,
    status, suppress, suppression_record, tenant, violations,
};
use crate::{
    Accepted, Error, NewMessage, NewSuppression, Operation, Outcome, Refusal, Result, Scope, Settlement, Started, Store, Suppresses,
    SuppressionFilter, SuppressionPage, SuppressionQuery, SuppressionRecord,
};

pub async fn a_suppression_is_created_found_and_deleted(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let record = SuppressionRecord {
        message: Some(seq(7)),
        detail: Some("recipient_opted_out".to_owned()),
        source: SuppressionSource::Answer,
        reason: SuppressionReason::Unsubscribed,
        ..suppression_record(one, 1)
    };
    let suppression = suppress(&store, record.clone()).await?;
    for environment in [None, Some(Environment::Live)] {
        assert_eq!(store.find_suppression(one, environment, suppression).await?, Some(record.clone()));
    }
    assert_eq!(store.find_suppression(one, Some(Environment::Test), suppression).await?, None);
    let two = tenant(&store, 2).await?;
    for (tenant, environment, channel, found) in [
        (one, Environment::Live, Channel::Sms, Some(SuppressionReason::Unsubscribed)),
        (one, Environment::Test, Channel::Sms, None),
        (one, Environment::Live, Channel::Whatsapp, None),
        (two, Environment::Live, Channel::Sms, None),
    ] {
        assert_eq!(store.find_suppression_of(tenant, environment, channel, &record.address).await?, found);
    }
    assert!(store.delete_suppression(one, suppression, audit(one, 1)).await?);
    assert!(!store.delete_suppression(one, suppression, audit(one, 2)).await?);
    assert_eq!(store.find_suppression(one, None, suppression).await?, None);
    let log: Vec<_> = store.list_audit(one, None, 10).await?.into_iter().map(|record| record.seq).collect();
    assert!(log.contains(&audit(one, 6001).seq) && log.contains(&audit(one, 1).seq) && !log.contains(&audit(one, 2).seq), "{log:?}");
    suppress(&store, suppression_record(one, 2)).await.map(drop)
}

pub async fn an_address_is_listed_once(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    suppress(&store, suppression_record(one, 1)).await?;
    let again = SuppressionRecord { reason: SuppressionReason::HardBounce, ..suppression_record(one, 2) };
    let claimed = claim(Scope::Tenant(one, Environment::Live), Operation::CreateSuppression, "k", 1);
    let taken = NewSuppression { claim: Some(claimed.clone()), ..new_suppression(again) };
    assert!(matches!(store.create_suppression(taken).await, Err(Error::Conflict("suppression"))));
    assert!(!store.list_audit(one, None, 10).await?.iter().any(|record| record.seq == audit(one, 6002).seq));
    // The key was not used up.
    let other = SuppressionRecord { address: "+254722000001".to_owned(), ..suppression_record(one, 3) };
    assert_eq!(store.create_suppression(NewSuppression { claim: Some(claimed), ..new_suppression(other) }).await?, Outcome::Created);
    for (n, elsewhere) in [
        SuppressionRecord { environment: Environment::Test, ..suppression_record(one, 4) },
        SuppressionRecord { channel: Channel::Whatsapp, ..suppression_record(one, 5) },
        suppression_record(two, 6),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(store.create_suppression(new_suppression(elsewhere)).await?, Outcome::Created, "{n}");
    }
    Ok(())
}

pub async fn a_batch_adds_what_is_not_listed(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let listed = SuppressionRecord { reason: SuppressionReason::HardBounce, ..suppression_record(one, 1) };
    suppress(&store, listed.clone()).await?;
    let fresh = SuppressionRecord {
        channel: Channel::Email,
        address: "ada@example.com".to_owned(),
        source: SuppressionSource::Import,
        detail: Some("550 'no such user'".to_owned()),
        ..suppression_record(one, 3)
    };
    let long = SuppressionRecord { channel: Channel::Push, address: "a".repeat(4096), ..suppression_record(one, 4) };
    let elsewhere = SuppressionRecord { environment: Environment::Test, ..suppression_record(one, 5) };
    let twice = SuppressionRecord { reason: SuppressionReason::SpamComplaint, detail: None, id: SuppressionId(id(6006)), ..fresh.clone() };
    let batch = vec![suppression_record(one, 2), fresh.clone(), long.clone(), elsewhere.clone(), twice];
    assert_eq!(store.add_suppressions(one, batch.clone(), Some(audit(one, 1))).await?, 3);
    for record in [&listed, &fresh, &long, &elsewhere] {
        assert_eq!(store.find_suppression(one, None, record.id).await?.as_ref(), Some(record), "as it was first");
    }
    // Again it changes nothing.
    assert_eq!(store.add_suppressions(one, batch, None).await?, 0);
    assert_eq!(store.add_suppressions(one, Vec::new(), Some(audit(one, 2))).await?, 0);
    let log: Vec<_> = store.list_audit(one, None, 10).await?.into_iter().map(|record| record.seq).collect();
    assert_eq!(log.iter().filter(|seq| [audit(one, 1).seq, audit(one, 2).seq].contains(seq)).count(), 2, "{log:?}");
    // Nobody adds to another tenant's list.
    assert!(store.add_suppressions(two, vec![suppression_record(one, 9)], None).await.is_err());
    assert_eq!(store.find_suppression_of(two, Environment::Live, Channel::Email, "ada@example.com").await?, None);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let new = |n, payload| NewSuppression {
        claim: Some(claim(Scope::Tenant(one, Environment::Live), Operation::CreateSuppression, "k", payload)),
        ..new_suppression(suppression_record(one, n))
    };
    assert_eq!(store.create_suppression(new(1, 7)).await?, Outcome::Created);
    assert_eq!(store.create_suppression(new(2, 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_suppression(new(3, 8)).await?, Outcome::KeyReused);
    assert_eq!(store.count_suppressions(one, &all(), 10).await?, 1);
    Ok(())
}

fn all() -> SuppressionFilter {
    SuppressionFilter { environment: Environment::Live, channel: None, part: None }
}

fn query(filter: SuppressionFilter, limit: usize) -> SuppressionQuery {
    SuppressionQuery { filter, before: None, skip: 0, limit, scan: 100 }
}

/// Ten suppressions, two of each instant, of every channel in turn.
async fn ten(store: &Arc<dyn Store>, tenant: TenantId) -> Result<Vec<SuppressionRecord>> {
    let mut all = Vec::new();
    for n in [3, 1, 2, 9, 7, 8, 4, 6, 5, 0] {
        let channel = Channel::ALL[usize::from(n % 4)];
        let address = if channel == Channel::Email { format!("a_{n}%@example.com") } else { format!("Token-{n}") };
        all.push(SuppressionRecord { channel, address, created_at: at(i64::from(n / 2)), ..suppression_record(tenant, n) });
    }
    for record in &all {
        suppress(store, record.clone()).await?;
    }
    all.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.id)));
    Ok(all)
}

/// All pages, as one: with their sizes.
async fn walk(store: &Arc<dyn Store>, tenant: TenantId, mut query: SuppressionQuery) -> Result<(Vec<SuppressionRecord>, Vec<usize>)> {
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = store.list_suppressions(tenant, &query).await?;
        sizes.push(page.rows.len());
        rows.extend(page.rows);
        match page.next {
            Some(next) => query.before = Some(next),
            None => return Ok((rows, sizes)),
        }
    }
}

pub async fn suppressions_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    assert_eq!(store.list_suppressions(one, &query(all(), 3)).await?, SuppressionPage { rows: vec![], next: None });
    let expected = ten(&store, one).await?;
    suppress(&store, SuppressionRecord { environment: Environment::Test, ..suppression_record(one, 10) }).await?;
    let (rows, sizes) = walk(&store, one, query(all(), 3)).await?;
    assert_eq!((rows, sizes), (expected.clone(), vec![3, 3, 3, 1]));
    assert_eq!(walk(&store, one, query(all(), 5)).await?.1, [5, 5], "a full last page is the last one");
    // By numbers.
    for (skip, rest) in [(0, 3), (3, 6), (9, 10), (10, 10), (12, 12)] {
        let page = store.list_suppressions(one, &SuppressionQuery { skip, ..query(all(), 3) }).await?;
        assert_eq!(page.rows, expected[skip.min(10)..rest.min(10)], "{skip}");
        assert_eq!(page.next.is_some(), rest < 10, "{skip}");
    }
    assert_eq!(store.count_suppressions(one, &all(), 100).await?, 10);
    assert_eq!(store.count_suppressions(one, &all(), 4).await?, 4);
    Ok(())
}

pub async fn filters_and_pages_look_at_so_many_rows(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let expected = ten(&store, one).await?;
    let of = |filter: &SuppressionFilter| expected.iter().filter(|s| filter.takes(s.channel, &s.address)).cloned().collect::<Vec<_>>();
    let part = |text: &str| SuppressionFilter { part: Some(text.to_owned()), ..all() };
    for (filter, count) in [
        (SuppressionFilter { channel: Some(Channel::Email), ..all() }, 3),
        (part("token"), 7),
        (part("token-7"), 1),
        (part("a_"), 3),
        (part("_%"), 0),
        (part("%@"), 3),
        (part("TOKEN"), 0),
        (SuppressionFilter { channel: Some(Channel::Push), ..part("-") }, 2),
        (SuppressionFilter { environment: Environment::Test, ..all() }, 0),
    ] {
        let of_live = if filter.environment == Environment::Live { of(&filter) } else { Vec::new() };
        assert_eq!(of_live.len(), count, "{filter:?}");
        for (limit, scan) in [(100, 100), (1, 100), (2, 3), (1, 1), (3, 10), (4, 9)] {
            let (rows, _) = walk(&store, one, SuppressionQuery { scan, ..query(filter.clone(), limit) }).await?;
            assert_eq!(rows, of_live, "{filter:?} {limit} {scan}");
        }
        assert_eq!(store.count_suppressions(one, &filter, 100).await?, count);
    }
    // Only the newest four are looked at.
    let newest = SuppressionQuery { scan: 4, ..query(part("token"), 10) };
    let page = store.list_suppressions(one, &newest).await?;
    assert_eq!(page.rows, expected[..4].iter().filter(|s| s.address.starts_with("Token")).cloned().collect::<Vec<_>>());
    assert_eq!(page.next, Some((expected[3].created_at, expected[3].id)));
    let page = store.list_suppressions(one, &SuppressionQuery { skip: 9, scan: 4, ..query(all(), 3) }).await?;
    assert_eq!((page.rows, page.next), (vec![], Some((expected[3].created_at, expected[3].id))));
    assert_eq!(store.count_suppressions(one, &part("token"), 4).await?, 3);
    Ok(())
}

pub async fn another_tenants_suppressions_are_out_of_reach(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let suppression = suppress(&store, suppression_record(one, 1)).await?;
    assert_eq!(store.find_suppression(two, None, suppression).await?, None);
    assert_eq!(store.list_suppressions(two, &query(all(), 10)).await?.rows, []);
    assert_eq!(store.count_suppressions(two, &all(), 10).await?, 0);
    assert!(!store.delete_suppression(two, suppression, audit(two, 1)).await?);
    assert!(store.find_suppression(one, None, suppression).await?.is_some());
    Ok(())
}

/// The status of a message and the reason that it keeps.
async fn told(store: &Arc<dyn Store>, tenant: TenantId, seq: Seq) -> Result<(Status, Option<String>)> {
    let found = store.find_message(tenant, None, seq).await?.expect("the message was accepted");
    Ok((found.status, found.failure_reason))
}

pub async fn a_suppressed_message_is_stored_and_not_sent(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    suppress(&store, SuppressionRecord { reason: SuppressionReason::SpamComplaint, ..suppression_record(one, 1) }).await?;
    let to = |n, recipient: &str| NewMessage { recipient: recipient.to_owned(), ..message(one, seq(n)) };
    let batch = vec![
        NewMessage { lease: Some(lease), started: Some(None), audit: Some("{}".to_owned()), ..message(one, seq(5)) },
        to(6, "+254722000001"),
        NewMessage { lease: Some(lease), ..message(one, seq(7)) },
        message(one, seq(8)),
    ];
    assert_eq!(accept(&store, batch).await?, [Accepted::Suppressed, Accepted::Created, Accepted::Suppressed, Accepted::Suppressed]);
    for n in [5, 7, 8] {
        assert_eq!(told(&store, one, seq(n)).await?, (Status::Suppressed, Some("spam_complaint".to_owned())));
        let lines = store.list_events(one, seq(n)).await?;
        assert_eq!(lines.iter().map(|e| (e.kind, e.attempt)).collect::<Vec<_>>(), [(EventKind::Queued, 0), (EventKind::Suppressed, 0)]);
        assert_eq!((lines[1].at, lines[1].detail.as_deref()), (at(8), Some("spam_complaint")));
        assert_eq!(store.find_content(one, seq(n)).await?.as_deref(), Some(r#"{"body":"Hi"}"#));
    }
    assert_eq!(told(&store, one, seq(6)).await?, (Status::Queued, None));
    let claimed = claim_all(&store, lease, at(9)).await?;
    assert_eq!(claimed.jobs.iter().map(|job| job.seq).collect::<Vec<_>>(), [seq(6)], "the others have no job");
    assert_eq!(store.release_unstarted(lease, &[]).await?, 1);
    assert!(store.list_audit(one, None, 10).await?.iter().any(|record| record.seq == seq(5)));
    // When it is taken off the list, what comes is sent again.
    assert!(store.delete_suppression(one, suppression_record(one, 1).id, audit(one, 1)).await?);
    create(&store, message(one, seq(10))).await.map(drop)
}

pub async fn a_suppression_reaches_no_further_than_its_tenant_environment_and_channel(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    suppress(&store, suppression_record(one, 1)).await?;
    let batch = vec![
        message(one, seq(1)),
        NewMessage { environment: Environment::Test, ..message(one, seq(2)) },
        NewMessage { channel: Channel::Whatsapp, ..message(one, seq(3)) },
        message(two, seq(4)),
    ];
    let created = Accepted::Created;
    assert_eq!(accept(&store, batch).await?, [Accepted::Suppressed, created.clone(), created.clone(), created]);
    Ok(())
}

pub async fn the_case_of_an_address_does_not_matter(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    for (n, address) in ["ada@example.com", "jürgen@xn--bcher-kva.example"].into_iter().enumerate() {
        let n = u8::try_from(n).expect("two");
        let record = SuppressionRecord { channel: Channel::Email, address: address.to_owned(), ..suppression_record(one, n) };
        suppress(&store, record).await?;
    }
    let to = |n, recipient: &str| NewMessage { channel: Channel::Email, recipient: recipient.to_owned(), ..message(one, seq(n)) };
    let batch = vec![
        to(1, "ada@example.com"),
        to(2, "ADA@example.com"),
        to(3, "JÜrgen@xn--bcher-kva.example"),
        to(4, "ada@xn--bcher-kva.example"),
        to(5, "ad@example.com"),
    ];
    let (suppressed, created) = (Accepted::Suppressed, Accepted::Created);
    assert_eq!(accept(&store, batch).await?, [suppressed.clone(), suppressed.clone(), suppressed, created.clone(), created]);
    let shown = store.find_message(one, None, seq(2)).await?.expect("it was accepted").recipient;
    assert_eq!(shown, "ADA@example.com", "what is stored is what was sent");
    Ok(())
}

pub async fn a_token_of_any_length_is_suppressed(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let token: String =
        (0..4096_u32).map(|n| char::from(b'a' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 16 & 15).expect("16"))).collect();
    let record = SuppressionRecord { channel: Channel::Push, address: token.clone(), ..suppression_record(one, 1) };
    suppress(&store, record.clone()).await?;
    assert!(matches!(
        store.create_suppression(new_suppression(SuppressionRecord { id: SuppressionId(id(6002)), ..record })).await,
        Err(Error::Conflict(_))
    ));
    let to = |n, recipient: &str| NewMessage { channel: Channel::Push, recipient: recipient.to_owned(), ..message(one, seq(n)) };
    assert_eq!(accept(&store, vec![to(1, &token), to(2, &token[1..])]).await?, [Accepted::Suppressed, Accepted::Created]);
    assert_eq!(store.list_suppressions(one, &query(all(), 1)).await?.rows[0].address, token);
    Ok(())
}

pub async fn a_suppressed_message_takes_no_quota(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    suppress(&store, suppression_record(one, 1)).await?;
    let metered = |n, recipient: &str| NewMessage { quota: Some(2), recipient: recipient.to_owned(), ..message(one, seq(n)) };
    let (created, suppressed) = (Accepted::Created, Accepted::Suppressed);
    let batch = vec![metered(1, RECIPIENT), metered(2, "+254722000001"), metered(3, RECIPIENT)];
    assert_eq!(accept(&store, batch).await?, [suppressed.clone(), created.clone(), suppressed.clone()]);
    assert_eq!(store.quota_used(one, at(0).day()).await?, 1);
    // Those before it in its batch leave the last of the quota to the one that is sent.
    let batch =
        vec![metered(4, RECIPIENT), metered(5, RECIPIENT), metered(6, "+254722000001"), metered(7, "+254722000001"), metered(8, RECIPIENT)];
    let expected = [suppressed.clone(), suppressed.clone(), created, Accepted::Refused(Refusal::Quota), suppressed];
    assert_eq!(accept(&store, batch).await?, expected);
    assert_eq!(store.quota_used(one, at(0).day()).await?, 2);
    let usage = store.usage(one, None, at(0).day()..=at(0).day()).await?;
    assert_eq!(usage.accepted.iter().map(|count| count.messages).collect::<Vec<_>>(), [7]);
    assert_eq!(usage.outcomes.iter().map(|count| (count.status, count.messages)).collect::<Vec<_>>(), [(Status::Suppressed, 5)]);
    assert_eq!(violations(&store, at(20)).await?, []);
    // What is accepted without a limit counts later, but for those.
    let unmetered = |n, recipient: &str| NewMessage { recipient: recipient.to_owned(), ..message(tenant_two(), seq(n)) };
    let two = tenant(&store, 2).await?;
    suppress(&store, suppression_record(two, 2)).await?;
    accept(&store, vec![unmetered(11, RECIPIENT), unmetered(12, "+254722000001")]).await?;
    let limited = |n| NewMessage { quota: Some(2), recipient: "+254722000001".to_owned(), ..message(two, seq(n)) };
    assert_eq!(accept(&store, vec![limited(13), limited(14)]).await?, [Accepted::Created, Accepted::Refused(Refusal::Quota)]);
    assert_eq!(violations(&store, at(20)).await?, []);
    Ok(())
}

fn tenant_two() -> TenantId {
    super::fixture::tenant_record(2).id
}

pub async fn a_replay_tells_that_the_first_message_was_suppressed(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let suppression = suppress(&store, suppression_record(one, 1)).await?;
    let with = |n| NewMessage { quota: Some(9), ..keyed(one, seq(n), "k", 7) };
    assert_eq!(accept(&store, vec![with(1)]).await?, [Accepted::Suppressed]);
    let replayed = Accepted::Replayed { seq: seq(1), recipient: RECIPIENT.to_owned(), channel: Channel::Sms, status: Status::Suppressed };
    assert_eq!(accept(&store, vec![with(2)]).await?, std::slice::from_ref(&replayed));
    assert!(store.delete_suppression(one, suppression, audit(one, 1)).await?);
    assert_eq!(accept(&store, vec![with(3)]).await?, [replayed]);
    // And one that was sent is told as that, whoever is suppressed since.
    assert_eq!(accept(&store, vec![keyed(one, seq(4), "l", 7)]).await?, [Accepted::Created]);
    suppress(&store, suppression_record(one, 2)).await?;
    let [Accepted::Replayed { status: Status::Queued, .. }] = &accept(&store, vec![keyed(one, seq(5), "l", 7)]).await?[..] else {
        panic!("the first message was queued");
    };
    Ok(())
}

pub async fn what_waits_is_not_started_once_its_recipient_is_suppressed(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (lease, other) = (node(&store, "a").await?, node(&store, "b").await?);
    for (owner, n) in [(one, 1), (one, 2), (two, 3)] {
        create(&store, message(owner, seq(n))).await?;
    }
    create(&store, NewMessage { recipient: "+254722000001".to_owned(), ..message(one, seq(4)) }).await?;
    claim_all(&store, lease, at(10)).await?;
    store.release(lease, &[seq(2)]).await?;
    suppress(&store, suppression_record(one, 11)).await?;
    let mut starts = [(one, 1), (one, 2), (two, 3), (one, 4)].map(|(owner, n)| attempt(owner, seq(n), 1));
    starts[3].lookup = "+254722000001".to_owned();
    let suppressed = Started::Suppressed(SuppressionReason::Manual);
    let (begun, not_held) = (Started::Begun, Started::NotHeld);
    assert_eq!(store.start(other, &starts, at(12)).await?, [not_held; 4]);
    assert_eq!(store.start(lease, &starts, at(12)).await?, [suppressed, not_held, begun, begun], "what is not held is nobody's to end");
    assert_eq!(told(&store, one, seq(1)).await?, (Status::Queued, None), "that is for its settlement");
    let end = Settlement {
        failure_reason: Some("manual".to_owned()),
        ..outcome(one, seq(1), 0, EventKind::Suppressed, Status::Suppressed, at(13))
    };
    store.settle(lease, &[end]).await?;
    assert_eq!(told(&store, one, seq(1)).await?, (Status::Suppressed, Some("manual".to_owned())));
    assert_eq!(kinds(&store, one, seq(1)).await?, [(EventKind::Queued, 0), (EventKind::Suppressed, 0)]);
    assert_eq!(claim_all(&store, lease, at(20)).await?.jobs.iter().map(|job| job.seq).collect::<Vec<_>>(), [seq(2)]);
    // It counts where it is, with those that were suppressed at once, and what was debited for it stays so.
    assert_eq!(accept(&store, vec![message(one, seq(5))]).await?, [Accepted::Suppressed]);
    let usage = store.usage(one, None, at(0).day()..=at(0).day()).await?;
    assert_eq!(usage.outcomes.iter().map(|count| (count.status, count.messages)).collect::<Vec<_>>(), [(Status::Suppressed, 2)]);
    assert_eq!(status(&store, two, seq(3)).await?, Status::Sending);
    Ok(())
}

/// The outcome of the first attempt at a message: its recipient wants no more.
fn opted_out(tenant: TenantId, message: Seq, channel: Channel, recipient: &str, n: u8, now: Timestamp) -> Settlement {
    Settlement {
        started_at: Some(now),
        failure_reason: Some("recipient_opted_out".to_owned()),
        detail: Some("recipient_opted_out: 21610".to_owned()),
        suppresses: Some(Suppresses {
            id: suppression_record(tenant, n).id,
            address: comparable(channel, recipient).into_owned(),
            reason: SuppressionReason::Unsubscribed,
        }),
        ..outcome(tenant, message, 1, EventKind::Failed, Status::Failed, now)
    }
}

pub async fn an_outcome_suppresses_its_recipient(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let started = |n, environment| NewMessage {
        channel: Channel::Email,
        recipient: "Ada@example.com".to_owned(),
        environment,
        lease: Some(lease),
        started: Some(None),
        ..message(one, seq(n))
    };
    accept(&store, vec![started(1, Environment::Test), started(2, Environment::Live)]).await?;
    store.settle(lease, &[opted_out(one, seq(1), Channel::Email, "Ada@example.com", 1, at(5))]).await?;
    let expected = SuppressionRecord {
        environment: Environment::Test,
        channel: Channel::Email,
        address: "ada@example.com".to_owned(),
        reason: SuppressionReason::Unsubscribed,
        source: SuppressionSource::Answer,
        message: Some(seq(1)),
        detail: Some("recipient_opted_out: 21610".to_owned()),
        created_at: at(5),
        ..suppression_record(one, 1)
    };
    assert_eq!(store.find_suppression(one, None, expected.id).await?, Some(expected));
    assert_eq!(told(&store, one, seq(1)).await?, (Status::Failed, Some("recipient_opted_out".to_owned())));
    let answers = accept(&store, vec![started(6, Environment::Test), started(7, Environment::Live)]).await?;
    assert_eq!(answers, [Accepted::Suppressed, Accepted::Created], "each environment has its own");
    Ok(())
}

pub async fn an_outcome_suppresses_once(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..4 {
        create(&store, NewMessage { lease: Some(lease), started: Some(None), ..message(one, seq(n)) }).await?;
    }
    let first = opted_out(one, seq(1), Channel::Sms, RECIPIENT, 1, at(5));
    let second = opted_out(one, seq(2), Channel::Sms, RECIPIENT, 2, at(5));
    store.settle(lease, &[first.clone(), second]).await?;
    let listed = || async {
        Ok::<_, Error>(store.list_suppressions(one, &query(all(), 10)).await?.rows.iter().map(|s| s.message).collect::<Vec<_>>())
    };
    assert_eq!(listed().await?, [Some(seq(1))]);
    assert_eq!(told(&store, one, seq(2)).await?.0, Status::Failed);
    // Told again, it stays off the list when somebody took it off meanwhile.
    assert!(store.delete_suppression(one, suppression_record(one, 1).id, audit(one, 1)).await?);
    store.settle(lease, &[first]).await?;
    assert_eq!(listed().await?, []);
    // Nor does the outcome of a message that is gone, or not its tenant's, leave anything behind.
    let two = tenant(&store, 2).await?;
    store
        .settle(
            lease,
            &[opted_out(two, seq(3), Channel::Sms, RECIPIENT, 3, at(6)), opted_out(two, seq(4), Channel::Sms, RECIPIENT, 4, at(6))],
        )
        .await?;
    assert_eq!(store.count_suppressions(two, &all(), 10).await?, 0);
    Ok(())
}

pub async fn a_suppressed_message_is_no_violation(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    suppress(&store, suppression_record(one, 1)).await?;
    let batch =
        (0..9).map(|n| NewMessage { environment: Environment::ALL[usize::from(n % 2 == 1)], ..keyed(one, seq(n), &format!("k{n}"), 1) });
    let batch = batch.map(|m| NewMessage { quota: (m.environment == Environment::Live).then_some(5), ..m }).collect();
    accept(&store, batch).await?;
    assert_eq!(violations(&store, at(100)).await?, []);
    Ok(())
}
