//! What API keys promise.

use std::sync::Arc;

use raven_core::{Environment, KeyId, Priority, TenantId};

use super::fixture::{accept, at, audit, claim, create_key, id, key_record, message, new_key, seq, tenant, tenant_record};
use crate::{Accepted, Error, KeyChange, KeyRecord, NewKey, NewMessage, Operation, Outcome, Refusal, Result, Rotation, Scope, Store};

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
    let new = |record, payload| NewKey { claim: Some(claim(scope, Operation::CreateKey, "k", payload)), ..new_key(record) };
    assert!(matches!(store.create_key(new(taken, 7)).await, Err(Error::Conflict("prefix"))));
    assert_eq!(store.list_keys(two, None, None, 10).await?, []);
    assert_eq!(store.create_key(new(key_record(two, 2), 8)).await?, Outcome::Created);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let scope = Scope::Tenant(one, Environment::Live);
    let new = |n, payload| NewKey { claim: Some(claim(scope, Operation::CreateKey, "k", payload)), ..new_key(key_record(one, n)) };
    assert_eq!(store.create_key(new(1, 7)).await?, Outcome::Created);
    assert_eq!(store.create_key(new(2, 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_key(new(3, 8)).await?, Outcome::KeyReused);
    assert_eq!(store.list_keys(one, None, None, 10).await?, [key_record(one, 1)]);
    Ok(())
}

pub async fn a_revoked_key_is_only_found_by_its_prefix(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let key = create_key(&store, key_record(one, 1)).await?;
    assert!(!store.revoke_key(one, Some(Environment::Test), key, at(5), audit(one, 1)).await?);
    assert!(store.revoke_key(one, Some(Environment::Live), key, at(5), audit(one, 2)).await?);
    assert!(!store.revoke_key(one, None, key, at(6), audit(one, 3)).await?);
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
    assert!(!store.revoke_key(two, None, key, at(5), audit(two, 1)).await?);
    assert_eq!(store.find_key(one, None, key).await?, Some(key_record(one, 1)));
    assert_eq!(store.find_key(one, Some(Environment::Live), key).await?, Some(key_record(one, 1)));
    assert_eq!(store.find_key(one, Some(Environment::Test), key).await?, None);
    Ok(())
}

pub async fn a_key_is_changed_where_something_is_given(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let key = create_key(&store, key_record(one, 1)).await?;
    create_key(&store, key_record(one, 2)).await?;
    let named = |name: &str| KeyChange { name: Some(name.to_owned()), rate_limit_rpm: None, priority: None };
    let limited = |rpm| KeyChange { name: None, rate_limit_rpm: Some(rpm), priority: None };
    let live = Some(Environment::Live);
    let mut expected = KeyRecord { name: "other".to_owned(), ..key_record(one, 1) };
    assert_eq!(store.update_key(one, None, key, named("other"), audit(one, 1)).await?.as_ref(), Some(&expected));
    expected.rate_limit_rpm = None;
    assert_eq!(store.update_key(one, live, key, limited(None), audit(one, 2)).await?.as_ref(), Some(&expected));
    expected.rate_limit_rpm = Some(7);
    assert_eq!(store.update_key(one, None, key, limited(Some(7)), audit(one, 3)).await?.as_ref(), Some(&expected));
    for (n, priority) in [(20, Some(Priority::Bulk)), (21, None)] {
        expected.priority = priority;
        let change = KeyChange { name: None, rate_limit_rpm: None, priority: Some(priority) };
        assert_eq!(store.update_key(one, None, key, change, audit(one, n)).await?.as_ref(), Some(&expected));
    }
    assert_eq!(store.find_key(one, None, key).await?.as_ref(), Some(&expected));
    assert_eq!(store.find_key(one, None, key_record(one, 2).id).await?, Some(key_record(one, 2)));
    // Of another tenant, another environment, unknown, revoked.
    assert_eq!(store.update_key(two, None, key, named("x"), audit(two, 1)).await?, None);
    assert_eq!(store.update_key(one, Some(Environment::Test), key, named("x"), audit(one, 4)).await?, None);
    assert_eq!(store.update_key(one, None, KeyId(id(99)), named("x"), audit(one, 5)).await?, None);
    assert_eq!(store.find_key(one, None, key).await?, Some(expected));
    assert!(store.revoke_key(one, None, key, at(5), audit(one, 6)).await?);
    assert_eq!(store.update_key(one, None, key, named("x"), audit(one, 7)).await?, None);
    Ok(())
}

/// The `new`th key in the place of the `old`th one, which stays good until then.
fn rotation(tenant: TenantId, old: u8, until: i64, new: u8) -> Rotation {
    Rotation { old: key_record(tenant, old).id, old_expires_at: at(until), new: new_key(key_record(tenant, new)) }
}

pub async fn a_rotated_key_expires_when_it_is_told_or_earlier(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    for (n, expires_at) in [(1, None), (2, Some(at(100))), (3, Some(at(50)))] {
        create_key(&store, KeyRecord { expires_at, ..key_record(one, n) }).await?;
        assert_eq!(store.rotate_key(rotation(one, n, 70, n + 10)).await?, Some(Outcome::Created));
        let expected = KeyRecord { expires_at: Some(at(if n == 3 { 50 } else { 70 })), ..key_record(one, n) };
        assert_eq!(store.find_key(one, None, expected.id).await?, Some(expected));
        assert_eq!(store.find_key(one, None, key_record(one, n + 10).id).await?, Some(key_record(one, n + 10)));
    }
    // Both work until then.
    let with = |n, ms| NewMessage { key: Some(key_record(one, n).id), ..message(one, seq(ms)) };
    assert_eq!(accept(&store, vec![with(1, 69), with(11, 68)]).await?, [Accepted::Created, Accepted::Created]);
    assert_eq!(accept(&store, vec![with(1, 70), with(11, 71)]).await?, [Accepted::Refused(Refusal::Key), Accepted::Created]);
    Ok(())
}

pub async fn only_a_key_that_is_there_is_rotated(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (key, foreign) = (create_key(&store, key_record(one, 1)).await?, create_key(&store, key_record(two, 2)).await?);
    assert_eq!(store.rotate_key(rotation(one, 2, 70, 10)).await?, None, "the key of another tenant");
    assert_eq!(store.rotate_key(rotation(one, 99, 70, 10)).await?, None);
    // A taken prefix leaves the old key as it was.
    let mut taken = rotation(one, 1, 70, 10);
    taken.new.record.prefix = key_record(two, 2).prefix;
    assert!(matches!(store.rotate_key(taken).await, Err(Error::Conflict("prefix"))));
    assert_eq!(store.find_key(one, None, key).await?, Some(key_record(one, 1)));
    assert_eq!(store.find_key(two, None, foreign).await?, Some(key_record(two, 2)));
    assert!(store.revoke_key(one, None, key, at(5), audit(one, 1)).await?);
    assert_eq!(store.rotate_key(rotation(one, 1, 70, 10)).await?, None);
    assert_eq!(store.list_keys(one, None, None, 10).await?, []);
    Ok(())
}

pub async fn a_key_that_has_expired_is_not_rotated(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    create_key(&store, KeyRecord { expires_at: Some(at(50)), ..key_record(one, 1) }).await?;
    let new_at = |ms, n| {
        let mut rotation = rotation(one, 1, 90, n);
        rotation.new.record.created_at = at(ms);
        rotation
    };
    assert_eq!(store.rotate_key(new_at(50, 10)).await?, None);
    assert_eq!(store.list_keys(one, None, None, 10).await?.len(), 1);
    assert_eq!(store.rotate_key(new_at(49, 11)).await?, Some(Outcome::Created));
    Ok(())
}

pub async fn a_replayed_rotation_answers_before_the_old_key_is_looked_at(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let key = create_key(&store, key_record(one, 1)).await?;
    let scope = Scope::Tenant(one, Environment::Live);
    let claimed = |old, new, payload| {
        let mut rotation = rotation(one, old, 70, new);
        rotation.new.claim = Some(claim(scope, Operation::RotateKey, "k", payload));
        rotation
    };
    assert_eq!(store.rotate_key(claimed(99, 9, 7)).await?, None, "which uses up no key");
    assert_eq!(store.rotate_key(claimed(1, 10, 7)).await?, Some(Outcome::Created));
    assert!(store.revoke_key(one, None, key, at(5), audit(one, 1)).await?);
    assert_eq!(store.rotate_key(claimed(1, 11, 7)).await?, Some(Outcome::Replayed(r#"{"payload":7}"#.to_owned())));
    assert_eq!(store.rotate_key(claimed(1, 12, 8)).await?, Some(Outcome::KeyReused));
    assert_eq!(store.list_keys(one, None, None, 10).await?, [key_record(one, 10)]);
    Ok(())
}

pub async fn the_last_use_of_a_key_never_goes_back(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (a, b) = (create_key(&store, key_record(one, 1)).await?, create_key(&store, key_record(one, 2)).await?);
    let used = |key: KeyId| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Error>(store.find_key(one, None, key).await?.and_then(|k| k.last_used_at)) }
    };
    store.touch_keys(&[]).await?;
    store.touch_keys(&[(a, at(50)), (KeyId(id(99)), at(60))]).await?;
    assert_eq!((used(a).await?, used(b).await?), (Some(at(50)), None));
    store.touch_keys(&[(b, at(10)), (a, at(49))]).await?;
    assert_eq!((used(a).await?, used(b).await?), (Some(at(50)), Some(at(10))));
    store.touch_keys(&[(a, at(51))]).await?;
    let expected = KeyRecord { last_used_at: Some(at(51)), ..key_record(one, 1) };
    assert_eq!(store.find_key_by_prefix(&expected.prefix).await?.map(|(key, _)| key), Some(expected));
    Ok(())
}
