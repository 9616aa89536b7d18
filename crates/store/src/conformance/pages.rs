//! What pages of messages promise.

use std::sync::Arc;

use raven_core::{Channel, Environment, EventKind, Seq, Source, Status, TenantId, Timestamp};

use super::fixture::{accept, at, create, message, node, outcome, seq, tenant};
use crate::{MessageFilter, MessageQuery, NewMessage, Result, Settlement, Store};

fn query(filter: MessageFilter, limit: usize) -> MessageQuery {
    MessageQuery { filter, before: None, limit, scan: 1000 }
}

/// Reads page after page to the end.
async fn walk(store: &Arc<dyn Store>, tenant: TenantId, mut query: MessageQuery) -> Result<Vec<Seq>> {
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let page = store.list_messages(tenant, &query).await?;
        assert!(page.rows.len() <= query.limit);
        seen.extend(page.rows.iter().map(|m| m.seq));
        let Some(next) = page.next else { return Ok(seen) };
        assert!(query.before.is_none_or(|before| next < before), "a page goes on");
        query.before = Some(next);
    }
    panic!("the pages never end");
}

/// Seqs of so many milliseconds, newest first.
fn newest_first(numbers: impl IntoIterator<Item = i64>) -> Vec<Seq> {
    let mut seqs: Vec<_> = numbers.into_iter().map(seq).collect();
    seqs.sort_unstable_by(|a, b| b.cmp(a));
    seqs
}

pub async fn a_page_goes_on_where_the_last_one_ended(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    accept(&store, (0..10).map(|n| message(tenant, seq(n))).collect()).await?;
    let live = MessageFilter { environment: Some(Environment::Live), ..MessageFilter::default() };
    let first = store.list_messages(tenant, &query(live.clone(), 4)).await?;
    assert_eq!(first.rows.iter().map(|m| m.seq).collect::<Vec<_>>(), newest_first(6..10));
    assert_eq!(first.next, Some(seq(6)));
    for limit in [1, 3, 5, 10, 11] {
        assert_eq!(walk(&store, tenant, query(live.clone(), limit)).await?, newest_first(0..10), "{limit} a page");
    }
    let all = store.list_messages(tenant, &query(live.clone(), 10)).await?;
    assert_eq!((all.rows.len(), all.next), (10, None), "a full last page says that it is the last");
    let none = MessageQuery { before: Some(seq(0)), ..query(live, 10) };
    assert_eq!(store.list_messages(tenant, &none).await?, crate::messages::MessagePage { rows: Vec::new(), next: None });
    Ok(())
}

pub async fn messages_of_the_same_instant_are_all_seen(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let same: Vec<_> = (0..20).map(|n| Seq(seq(5).0 + n)).collect();
    let batch = same.iter().enumerate().map(|(n, s)| {
        let environment = Environment::ALL[n % 2];
        NewMessage { environment, ..message(tenant, *s) }
    });
    accept(&store, batch.collect()).await?;
    let expected: Vec<_> = same.into_iter().rev().collect();
    for limit in [1, 3, 7] {
        assert_eq!(walk(&store, tenant, query(MessageFilter::default(), limit)).await?, expected);
    }
    Ok(())
}

pub async fn inserts_between_pages_repeat_nothing(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    accept(&store, (0..6).map(|n| message(tenant, seq(n * 10))).collect()).await?;
    let mut q = query(MessageFilter::default(), 2);
    let mut seen = Vec::new();
    for n in 0.. {
        let page = store.list_messages(tenant, &q).await?;
        seen.extend(page.rows.iter().map(|m| m.seq));
        let Some(next) = page.next else { break };
        q.before = Some(next);
        // One that is newer than all, and one that the walk has passed.
        create(&store, message(tenant, seq(1000 + n))).await?;
        create(&store, message(tenant, seq(51 + n))).await?;
    }
    assert_eq!(seen, newest_first((0..6).map(|n| n * 10)));
    Ok(())
}

pub async fn environments_are_merged_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let test = |n: i64| n % 5 == 0 || (20..25).contains(&n);
    let environment = |n| if test(n) { Environment::Test } else { Environment::Live };
    accept(&store, (0..30).map(|n| NewMessage { environment: environment(n), ..message(tenant, seq(n)) }).collect()).await?;
    for limit in [1, 4, 30] {
        assert_eq!(walk(&store, tenant, query(MessageFilter::default(), limit)).await?, newest_first(0..30));
        let of = |environment| query(MessageFilter { environment: Some(environment), ..MessageFilter::default() }, limit);
        assert_eq!(walk(&store, tenant, of(Environment::Test)).await?, newest_first((0..30).filter(|n| test(*n))));
        assert_eq!(walk(&store, tenant, of(Environment::Live)).await?, newest_first((0..30).filter(|n| !test(*n))));
    }
    Ok(())
}

/// 24 messages that differ in everything a filter knows.
async fn medley(store: &Arc<dyn Store>) -> Result<TenantId> {
    let (tenant, lease) = (tenant(store, 1).await?, node(store, "a").await?);
    let statuses = [Status::Sent, Status::Failed, Status::Delivered, Status::Bounced, Status::Expired, Status::Complained];
    for n in 0..24 {
        let new = NewMessage {
            environment: Environment::ALL[usize::from(n % 2 == 1)],
            channel: if n % 3 == 0 { Channel::Email } else { Channel::Sms },
            source: if n % 4 == 0 { Source::Dashboard } else { Source::Api },
            recipient: format!("+25472200000{}", n % 5),
            external_id: (n % 6 != 0).then(|| format!("order-{}", n % 4)),
            lease: Some(lease),
            started: Some(None),
            ..message(tenant, seq(n))
        };
        create(store, new).await?;
        let end = statuses[usize::try_from(n % 7).expect("not negative").min(5)];
        let told =
            Settlement { provider: (n % 2 == 0).then(|| "twilio".to_owned()), ..outcome(tenant, seq(n), 1, EventKind::Sent, end, at(100)) };
        store.settle(lease, &[told]).await?;
    }
    Ok(tenant)
}

/// What a filter must pick from the medley, told by the messages themselves.
async fn expected(store: &Arc<dyn Store>, tenant: TenantId, f: &MessageFilter) -> Result<Vec<Seq>> {
    let mut picked = Vec::new();
    for n in (0..24).rev() {
        let m = store.find_message(tenant, None, seq(n)).await?.expect("accepted");
        let text = |wanted: &Option<String>, has: Option<&str>| wanted.as_deref().is_none_or(|w| has == Some(w));
        let good = f.environment.is_none_or(|e| m.environment == e)
            && f.status.is_none_or(|s| m.status == s)
            && f.channel.is_none_or(|c| m.channel == c)
            && f.source.is_none_or(|s| m.source == s)
            && text(&f.recipient, Some(&m.recipient))
            && text(&f.external_id, m.external_id.as_deref())
            && text(&f.provider, m.provider.as_deref())
            && f.from.is_none_or(|t| m.seq.at() >= t)
            && f.until.is_none_or(|t| m.seq.at() < t);
        if good {
            picked.push(m.seq);
        }
    }
    Ok(picked)
}

async fn check(store: &Arc<dyn Store>, tenant: TenantId, filter: MessageFilter) -> Result<()> {
    let expected = expected(store, tenant, &filter).await?;
    for (limit, scan) in [(1, 1000), (4, 1000), (50, 1000), (50, 1), (2, 3)] {
        let q = MessageQuery { scan, ..query(filter.clone(), limit) };
        assert_eq!(walk(store, tenant, q).await?, expected, "{filter:?}, {limit} a page, {scan} scanned");
    }
    Ok(())
}

pub async fn every_filter_picks_its_messages(store: Arc<dyn Store>) -> Result<()> {
    let tenant = medley(&store).await?;
    let none = MessageFilter::default;
    for environment in Environment::ALL {
        check(&store, tenant, MessageFilter { environment: Some(*environment), ..none() }).await?;
    }
    for status in Status::ALL {
        check(&store, tenant, MessageFilter { status: Some(*status), ..none() }).await?;
    }
    for channel in Channel::ALL {
        check(&store, tenant, MessageFilter { channel: Some(*channel), ..none() }).await?;
    }
    for source in Source::ALL {
        check(&store, tenant, MessageFilter { source: Some(*source), ..none() }).await?;
    }
    for text in ["+254722000003", "order-1", "order-", "twilio", "postmark", ""] {
        check(&store, tenant, MessageFilter { recipient: Some(text.to_owned()), ..none() }).await?;
        check(&store, tenant, MessageFilter { external_id: Some(text.to_owned()), ..none() }).await?;
        check(&store, tenant, MessageFilter { provider: Some(text.to_owned()), ..none() }).await?;
    }
    check(&store, tenant, none()).await
}

pub async fn filters_combine(store: Arc<dyn Store>) -> Result<()> {
    let tenant = medley(&store).await?;
    let order = MessageFilter { external_id: Some("order-1".to_owned()), ..MessageFilter::default() };
    let failed = MessageFilter { status: Some(Status::Failed), ..MessageFilter::default() };
    let live = MessageFilter { environment: Some(Environment::Live), ..MessageFilter::default() };
    let filters = [
        MessageFilter { environment: Some(Environment::Test), ..order.clone() },
        MessageFilter { status: Some(Status::Failed), ..order.clone() },
        MessageFilter { status: Some(Status::Delivered), channel: Some(Channel::Sms), ..order.clone() },
        MessageFilter { environment: Some(Environment::Live), ..failed.clone() },
        MessageFilter { channel: Some(Channel::Email), provider: Some("twilio".to_owned()), ..failed.clone() },
        MessageFilter { source: Some(Source::Api), recipient: Some("+254722000002".to_owned()), ..live.clone() },
        MessageFilter { from: Some(at(5)), until: Some(at(20)), ..live },
        MessageFilter { from: Some(at(8)), ..order },
        MessageFilter { until: Some(at(9)), ..failed },
    ];
    for filter in filters {
        check(&store, tenant, filter).await?;
    }
    Ok(())
}

pub async fn a_range_of_time_has_an_open_end(store: Arc<dyn Store>) -> Result<()> {
    let tenant = medley(&store).await?;
    let range = |from: Option<Timestamp>, until: Option<Timestamp>| MessageFilter { from, until, ..MessageFilter::default() };
    for (from, until) in
        [(Some(at(5)), None), (None, Some(at(5))), (Some(at(5)), Some(at(6))), (Some(at(6)), Some(at(6))), (Some(at(9)), Some(at(3)))]
    {
        check(&store, tenant, range(from, until)).await?;
    }
    // Times that no seq can tell: before 1970, and the years 5000 and 9999.
    for far in [95_617_584_000_000, 253_402_300_799_999].map(Timestamp::from_millis) {
        check(&store, tenant, range(None, Some(far))).await?;
        check(&store, tenant, range(Some(far), None)).await?;
        check(&store, tenant, range(Some(Timestamp::from_millis(-62_135_596_800_000)), Some(far))).await?;
    }
    check(&store, tenant, range(None, Some(Timestamp::from_millis(-1)))).await
}

pub async fn a_scan_stops_and_goes_on(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let needle = |n| if n == 3 || n == 40 { "+254722000009" } else { "+254722000000" };
    accept(&store, (0..100).map(|n| NewMessage { recipient: needle(n).to_owned(), ..message(tenant, seq(n)) }).collect()).await?;
    let filter =
        MessageFilter { environment: Some(Environment::Live), recipient: Some("+254722000009".to_owned()), ..MessageFilter::default() };
    let q = MessageQuery { scan: 10, ..query(filter.clone(), 5) };
    let first = store.list_messages(tenant, &q).await?;
    assert_eq!((first.rows.len(), first.next), (0, Some(seq(90))), "it looked at ten rows and says where to go on");
    assert_eq!(walk(&store, tenant, q).await?, newest_first([3, 40]));
    // Without a filter to sift by, the scan's bound is none of the page's.
    let plain = MessageFilter { environment: Some(Environment::Live), ..MessageFilter::default() };
    let page = store.list_messages(tenant, &MessageQuery { scan: 3, ..query(plain, 20) }).await?;
    assert_eq!(page.rows.len(), 20);
    Ok(())
}

pub async fn another_tenants_messages_are_out_of_reach(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    create(&store, NewMessage { external_id: Some("order-1".to_owned()), ..message(one, seq(1)) }).await?;
    create(&store, NewMessage { external_id: Some("order-1".to_owned()), ..message(two, seq(2)) }).await?;
    assert_eq!(store.find_message(two, None, seq(1)).await?, None);
    assert_eq!(store.find_content(two, seq(1)).await?, None);
    let order = MessageFilter { external_id: Some("order-1".to_owned()), ..MessageFilter::default() };
    for filter in [MessageFilter::default(), order] {
        assert_eq!(walk(&store, one, query(filter.clone(), 10)).await?, [seq(1)]);
        assert_eq!(walk(&store, two, query(filter, 10)).await?, [seq(2)]);
    }
    Ok(())
}
