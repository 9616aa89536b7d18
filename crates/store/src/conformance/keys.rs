//! What API keys promise.

use std::sync::Arc;

use raven_core::Environment;

use super::fixture::{at, claim, create_key, key_record, tenant, tenant_record};
use crate::{Error, KeyRecord, NewKey, Operation, Outcome, Result, Scope, Store};

fn test_key(record: KeyRecord) -> KeyRecord {
    KeyRecord { environment: Environment::Test, ..record }
}

pub async fn a_key_is_found_by_its_prefix_with_its_tenant(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    let record = KeyRecord { expires_at: Some(at(50)), rate_limit_rpm: None, ..key_record(tenant, 1) };
    create_key(&store, record.clone()).await?;
    assert_eq!(store.find_key_by_prefix(&record.prefix).await?, Some((record, tenant_record(1))));
    assert_eq!(store.find_key_by_prefix("rk_live_ffffffff").await?, None);
    Ok(())
}

pub async fn a_taken_prefix_is_a_conflict(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    create_key(&store, key_record(one, 1)).await?;
    let taken = KeyRecord { prefix: key_record(one, 1).prefix, ..key_record(two, 2) };
    let scope = Scope::Tenant(two, Environment::Live);
    let new = |record, payload| NewKey { record, claim: Some(claim(scope, Operation::CreateKey, "k", payload)) };
    assert!(matches!(store.create_key(new(taken, 7)).await, Err(Error::Conflict("prefix"))));
    assert_eq!(store.list_keys(two, None, None, 10).await?, []);
    assert_eq!(store.create_key(new(key_record(two, 2), 8)).await?, Outcome::Created);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let scope = Scope::Tenant(one, Environment::Live);
    let new = |n, payload| NewKey { record: key_record(one, n), claim: Some(claim(scope, Operation::CreateKey, "k", payload)) };
    assert_eq!(store.create_key(new(1, 7)).await?, Outcome::Created);
    assert_eq!(store.create_key(new(2, 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_key(new(3, 8)).await?, Outcome::KeyReused);
    assert_eq!(store.list_keys(one, None, None, 10).await?, [key_record(one, 1)]);
    Ok(())
}

pub async fn a_revoked_key_is_only_found_by_its_prefix(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let key = create_key(&store, key_record(one, 1)).await?;
    assert!(!store.revoke_key(one, Some(Environment::Test), key, at(5)).await?);
    assert!(store.revoke_key(one, Some(Environment::Live), key, at(5)).await?);
    assert!(!store.revoke_key(one, None, key, at(6)).await?);
    assert_eq!(store.find_key(one, None, key).await?, None);
    assert_eq!(store.list_keys(one, None, None, 10).await?, []);
    let found = store.find_key_by_prefix(&key_record(one, 1).prefix).await?.map(|(key, _)| key.revoked_at);
    assert_eq!(found, Some(Some(at(5))));
    Ok(())
}

pub async fn keys_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    for n in [2, 4, 1, 3] {
        let record = KeyRecord { created_at: at(i64::from(n / 2)), ..key_record(one, n) };
        create_key(&store, if n == 3 { test_key(record) } else { record }).await?;
    }
    let names = |rows: &[KeyRecord]| rows.iter().map(|k| k.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&store.list_keys(one, None, None, 10).await?), ["key 4", "key 3", "key 2", "key 1"]);
    assert_eq!(names(&store.list_keys(one, Some(Environment::Live), None, 10).await?), ["key 4", "key 2", "key 1"]);
    assert_eq!(names(&store.list_keys(one, Some(Environment::Test), None, 10).await?), ["key 3"]);
    let first = store.list_keys(one, None, None, 2).await?;
    let last = first.last().expect("a page of two");
    assert_eq!(names(&store.list_keys(one, None, Some((last.created_at, last.id)), 2).await?), ["key 2", "key 1"]);
    Ok(())
}

pub async fn keys_of_another_tenant_are_out_of_reach(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let key = create_key(&store, key_record(one, 1)).await?;
    assert_eq!(store.find_key(two, None, key).await?, None);
    assert_eq!(store.list_keys(two, None, None, 10).await?, []);
    assert!(!store.revoke_key(two, None, key, at(5)).await?);
    assert_eq!(store.find_key(one, None, key).await?, Some(key_record(one, 1)));
    assert_eq!(store.find_key(one, Some(Environment::Live), key).await?, Some(key_record(one, 1)));
    assert_eq!(store.find_key(one, Some(Environment::Test), key).await?, None);
    Ok(())
}
