//! What housekeeping forgets, and what it keeps.

use std::sync::Arc;

use raven_core::{Day, Environment, Seq, TenantId};

use super::fixture::{accept, at, claim, create, id, keyed, message, message_claim, new_tenant, seq, tenant, tokens, user};
use crate::{Accepted, Claim, NewMessage, NewTenant, Operation, Outcome, Result, Scope, Store, TakeTokens, messages::MessageClaim};

pub async fn expired_idempotency_records_are_forgotten(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    for n in 0..10 {
        let idempotency = Some(MessageClaim { expires_at: at(100 + n), ..message_claim(&format!("key-{n}"), 7) });
        create(&store, NewMessage { idempotency, ..message(tenant, seq(n)) }).await?;
    }
    let humans = Claim { expires_at: at(100), ..claim(Scope::User(user(2).id), Operation::CreateTenant, "k", 1) };
    assert_eq!(store.create_tenant(NewTenant { claim: Some(humans), ..new_tenant(2) }).await?, Outcome::Created);
    assert_eq!(store.purge_idempotency(at(100), 100).await?, 0, "what expires now counts still");
    // Of keys 0 to 4 and the human's, which expired, four go, and then the other two.
    assert_eq!(store.purge_idempotency(at(105), 4).await?, 4);
    assert_eq!(store.purge_idempotency(at(105), 4).await?, 2);
    assert_eq!(store.purge_idempotency(at(105), 4).await?, 0);
    for n in 0..10 {
        let free = store.find_replay(tenant, Environment::Live, &message_claim(&format!("key-{n}"), 7)).await?.is_none();
        assert_eq!(free, n < 5, "key-{n}");
    }
    assert_eq!(accept(&store, vec![keyed(tenant, seq(200), "key-0", 9)]).await?, [Accepted::Created]);
    Ok(())
}

pub async fn orphaned_content_is_swept(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    for n in 0..6 {
        store.put_content(tenant, seq(n), &format!("content {n}")).await?;
    }
    create(&store, NewMessage { large: true, content: String::new(), ..message(tenant, seq(2)) }).await?;
    assert_eq!(store.sweep_contents(at(0), 100).await?, 0);
    assert_eq!(store.sweep_contents(at(4), 2).await?, 2);
    assert_eq!(store.sweep_contents(at(4), 2).await?, 1);
    assert_eq!(store.sweep_contents(at(4), 2).await?, 0);
    assert_eq!(store.find_content(tenant, seq(2)).await?.as_deref(), Some("content 2"));
    // What is younger may still get its message.
    create(&store, NewMessage { large: true, content: String::new(), ..message(tenant, seq(4)) }).await?;
    assert_eq!(store.find_content(tenant, seq(4)).await?.as_deref(), Some("content 4"));
    Ok(())
}

/// What some tenants used of a day's quota, together.
async fn used(store: &Arc<dyn Store>, tenants: &[TenantId], day: Day) -> Result<i64> {
    let mut all = 0;
    for tenant in tenants {
        all += store.quota_used(*tenant, day).await?;
    }
    Ok(all)
}

pub async fn quotas_of_past_days_are_forgotten(store: Arc<dyn Store>) -> Result<()> {
    let today = at(0).day();
    let tomorrow = today.plus(1);
    let mut tenants = Vec::new();
    for n in 1..4 {
        let tenant = tenant(&store, n).await?;
        for ms in [0, tomorrow.start().millis() - at(0).millis()] {
            create(&store, NewMessage { quota: Some(10), ..message(tenant, Seq(seq(ms).0 + i64::from(n))) }).await?;
        }
        tenants.push(tenant);
    }
    assert_eq!(store.purge_counters(today, 100).await?, 0);
    assert_eq!((used(&store, &tenants, today).await?, used(&store, &tenants, tomorrow).await?), (3, 3));
    assert_eq!(store.purge_counters(tomorrow, 1).await?, 1, "a portion of one");
    while store.purge_counters(tomorrow, 1).await? > 0 {}
    assert_eq!((used(&store, &tenants, today).await?, used(&store, &tenants, tomorrow).await?), (0, 3));
    let usage = store.usage(tenants[0], None, today..=today).await?;
    assert_eq!(usage.accepted.iter().map(|row| row.messages).sum::<i64>(), 1, "usage is kept");
    Ok(())
}

pub async fn buckets_that_are_full_again_are_forgotten(store: Arc<dyn Store>) -> Result<()> {
    let tomorrow = at(0).day().plus(1);
    let midnight = tomorrow.start().millis() * 1_000_000;
    // Full again ten seconds after they were emptied.
    let second = 1_000_000_000;
    let emptied = |n: u128, full: i64| TakeTokens { now: full - 10 * second, ..tokens(id(n), 10) };
    for (n, full) in [(1, midnight - 1), (2, midnight), (3, midnight - 99 * second), (4, midnight + second)] {
        assert_eq!(store.take_tokens(emptied(n, full)).await?.granted, 10);
    }
    assert_eq!(store.purge_counters(tomorrow.plus(-1), 9).await?, 0);
    assert_eq!(store.purge_counters(tomorrow, 1).await?, 1);
    assert_eq!(store.purge_counters(tomorrow, 9).await?, 1);
    assert_eq!(store.purge_counters(tomorrow, 9).await?, 0);
    for (n, full, granted) in [(1, midnight - 1, 10), (2, midnight, 0), (3, midnight - 99 * second, 10), (4, midnight + second, 0)] {
        assert_eq!(store.take_tokens(emptied(n, full)).await?.granted, granted, "bucket {n}");
    }
    Ok(())
}
