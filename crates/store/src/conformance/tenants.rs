//! What tenants and memberships promise.

use std::sync::Arc;

use raven_core::{Environment, TenantId, UserId, permission::Role, tenant::TenantStatus};

use super::fixture::{at, claim, id, new_tenant, tenant, tenant_record, user};
use crate::{Claim, Error, MemberRecord, NewTenant, Operation, Outcome, Result, Scope, Store, TenantRecord, UserProfile};

fn claimed(n: u8, key: &str, payload: u8) -> NewTenant {
    NewTenant { claim: Some(claim(Scope::User(user(n).id), Operation::CreateTenant, key, payload)), ..new_tenant(n) }
}

pub async fn a_tenant_is_created_with_its_owner(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    tenant(&store, 2).await?;
    assert_eq!(store.find_tenant(one).await?, Some(tenant_record(1)));
    assert_eq!(store.find_tenant_by_slug("tenant-1").await?, Some(tenant_record(1)));
    assert_eq!(store.find_tenant_by_slug("TENANT-1").await?, None);
    assert_eq!(store.find_tenant(TenantId(id(99))).await?, None);
    let member = MemberRecord { tenant: tenant_record(1), role: Role::Owner };
    assert_eq!(store.find_membership(user(1).id, "tenant-1").await?, Some(member));
    assert_eq!(store.find_membership(user(1).id, "tenant-2").await?, None);
    assert_eq!(store.find_membership(UserId(id(99)), "tenant-1").await?, None);
    assert_eq!(store.find_membership(user(1).id, "no-such").await?, None);
    Ok(())
}

pub async fn a_taken_slug_is_a_conflict_and_uses_up_no_key(store: Arc<dyn Store>) -> Result<()> {
    tenant(&store, 1).await?;
    let mut second = claimed(2, "k", 7);
    second.record.slug = "tenant-1".to_owned();
    let second_id = second.record.id;
    assert!(matches!(store.create_tenant(second).await, Err(Error::Conflict("slug"))));
    assert_eq!(store.find_tenant(second_id).await?, None);
    assert_eq!(store.list_memberships(user(2).id, None, 10).await?, []);
    // Another payload under the same key: the first one used nothing up.
    assert_eq!(store.create_tenant(claimed(2, "k", 8)).await?, Outcome::Created);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.create_tenant(claimed(1, "k", 7)).await?, Outcome::Created);
    // The slug is taken by now, but what the key says comes first.
    assert_eq!(store.create_tenant(claimed(1, "k", 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_tenant(claimed(1, "k", 8)).await?, Outcome::KeyReused);
    assert_eq!(store.create_tenant(claimed(2, "k", 8)).await?, Outcome::Created, "the key of another human");
    let tenant_scope = Scope::Tenant(tenant_record(1).id, Environment::Live);
    let third = Claim { scope: tenant_scope, ..claim(tenant_scope, Operation::CreateTenant, "k", 9) };
    assert_eq!(store.create_tenant(NewTenant { claim: Some(third), ..new_tenant(3) }).await?, Outcome::Created);
    let calls = (0..16).map(|_| {
        let store = Arc::clone(&store);
        async move { store.create_tenant(claimed(4, "raced", 7)).await }
    });
    let outcomes = futures_util::future::try_join_all(calls).await?;
    let replay = Outcome::Replayed(r#"{"payload":7}"#.to_owned());
    assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Created).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == replay).count(), 15);
    Ok(())
}

pub async fn an_owners_profile_is_refreshed(store: Arc<dyn Store>) -> Result<()> {
    tenant(&store, 1).await?;
    let owner = UserProfile {
        id: user(1).id,
        email: "new@example.com".to_owned(),
        name: None,
        avatar_url: Some("https://example.com/a.png".to_owned()),
    };
    assert_eq!(store.create_tenant(NewTenant { owner, ..new_tenant(2) }).await?, Outcome::Created);
    assert_eq!(store.list_memberships(user(1).id, None, 10).await?.len(), 2);
    Ok(())
}

pub async fn tenants_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    // Two of them were created at the same time.
    for n in [3, 1, 4, 2] {
        let new = new_tenant(n);
        let created_at = if n == 3 { at(2) } else { new.record.created_at };
        store.create_tenant(NewTenant { record: TenantRecord { created_at, ..new.record }, ..new }).await?;
    }
    let slugs = |rows: &[TenantRecord]| rows.iter().map(|t| t.slug.clone()).collect::<Vec<_>>();
    assert_eq!(slugs(&store.list_tenants(None, 10).await?), ["tenant-4", "tenant-3", "tenant-2", "tenant-1"]);
    let mut walked = Vec::new();
    let mut before = None;
    loop {
        let page = store.list_tenants(before, 1).await?;
        let Some(last) = page.last() else { break };
        before = Some((last.created_at, last.id));
        walked.extend(slugs(&page));
    }
    assert_eq!(walked, ["tenant-4", "tenant-3", "tenant-2", "tenant-1"]);
    Ok(())
}

pub async fn memberships_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    for n in [2, 1, 3] {
        store.create_tenant(NewTenant { owner: user(7), ..new_tenant(n) }).await?;
    }
    tenant(&store, 4).await?;
    let slugs = |rows: &[MemberRecord]| rows.iter().map(|m| m.tenant.slug.clone()).collect::<Vec<_>>();
    assert_eq!(slugs(&store.list_memberships(user(7).id, None, 2).await?), ["tenant-3", "tenant-2"]);
    let before = Some((tenant_record(2).created_at, tenant_record(2).id));
    assert_eq!(slugs(&store.list_memberships(user(7).id, before, 2).await?), ["tenant-1"]);
    assert_eq!(store.list_memberships(UserId(id(99)), None, 2).await?, []);
    Ok(())
}

pub async fn a_status_is_set(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    assert!(store.set_tenant_status(one, TenantStatus::Suspended).await?);
    assert_eq!(store.find_tenant(one).await?.map(|t| t.status), Some(TenantStatus::Suspended));
    assert_eq!(store.find_tenant(two).await?.map(|t| t.status), Some(TenantStatus::Active));
    assert!(!store.set_tenant_status(TenantId(id(99)), TenantStatus::Suspended).await?);
    assert!(store.set_retry_unknown(one, true).await?);
    assert_eq!(store.find_tenant(one).await?.map(|t| t.retry_unknown), Some(true));
    assert_eq!(store.find_tenant(two).await?.map(|t| t.retry_unknown), Some(false));
    assert!(!store.set_retry_unknown(TenantId(id(99)), true).await?);
    Ok(())
}
