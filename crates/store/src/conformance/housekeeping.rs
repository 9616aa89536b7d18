//! What housekeeping forgets, and what it keeps.

use std::sync::Arc;

use raven_core::Environment;

use super::fixture::{accept, at, claim, create, keyed, message, message_claim, new_tenant, seq, tenant, user};
use crate::{Accepted, Claim, NewMessage, NewTenant, Operation, Outcome, Result, Scope, Store, messages::MessageClaim};

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
