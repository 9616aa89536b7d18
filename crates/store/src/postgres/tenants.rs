//! Tenants and their members.

use async_trait::async_trait;
use raven_core::{TenantId, Timestamp, UserId, permission::Role, tenant::TenantStatus};

use super::{
    PostgresStore, idempotency,
    rows::{self, below, limit as limit_of, tenant_columns},
};
use crate::{MemberRecord, NewTenant, Outcome, Result, TenantRecord, Tenants};

const INSERT: &str = "INSERT INTO tenants (id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, retry_unknown) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const UPSERT_USER: &str = "INSERT INTO users (id, email, name, avatar_url) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email, name = EXCLUDED.name, avatar_url = EXCLUDED.avatar_url";
const INSERT_MEMBER: &str = "INSERT INTO members (user_id, tenant_id, role, created_at) VALUES ($1, $2, $3, $4)";
const FIND: &str = concat!("SELECT ", tenant_columns!(), " FROM tenants t WHERE t.id = $1");
const FIND_BY_SLUG: &str = concat!("SELECT ", tenant_columns!(), " FROM tenants t WHERE t.slug = $1");
const FIND_MEMBERSHIP: &str = concat!(
    "SELECT m.role, ",
    tenant_columns!(),
    " FROM tenants t JOIN members m ON m.tenant_id = t.id WHERE t.slug = $1 AND m.user_id = $2"
);
const LIST_MEMBERSHIPS: &str = concat!(
    "SELECT m.role, ",
    tenant_columns!(),
    " FROM members m JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = $1 AND (t.created_at, t.id) < ($2, $3) \
     ORDER BY t.created_at DESC, t.id DESC LIMIT $4"
);
const LIST: &str = concat!(
    "SELECT ",
    tenant_columns!(),
    " FROM tenants t WHERE (t.created_at, t.id) < ($1, $2) ORDER BY t.created_at DESC, t.id DESC LIMIT $3"
);
const SET_STATUS: &str = "UPDATE tenants SET status = $2 WHERE id = $1";
const SET_RETRY_UNKNOWN: &str = "UPDATE tenants SET retry_unknown = $2 WHERE id = $1";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] =
    &[INSERT, UPSERT_USER, INSERT_MEMBER, FIND, FIND_BY_SLUG, FIND_MEMBERSHIP, LIST_MEMBERSHIPS, LIST, SET_STATUS, SET_RETRY_UNKNOWN];

#[async_trait]
impl Tenants for PostgresStore {
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome> {
        let NewTenant { record: t, owner, claim } = &new;
        let created_at = t.created_at.millis();
        let conflict = Some(("tenants_slug_key", "slug"));
        idempotency::create(self.connection().await?, claim.as_ref(), conflict, async |connection| {
            connection
                .execute(
                    INSERT,
                    &[
                        &t.id.0,
                        &t.slug,
                        &t.name,
                        &t.status.code(),
                        &t.plan,
                        &t.country_code,
                        &t.default_locale,
                        &t.default_tz,
                        &created_at,
                        &t.data_key,
                        &t.retry_unknown,
                    ],
                )
                .await?;
            connection.execute(UPSERT_USER, &[&owner.id.0, &owner.email, &owner.name, &owner.avatar_url]).await?;
            connection.execute(INSERT_MEMBER, &[&owner.id.0, &t.id.0, &Role::Owner.code(), &created_at]).await?;
            Ok(())
        })
        .await
    }

    async fn find_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>> {
        self.connection().await?.query_opt(FIND, &[&id.0]).await?.as_ref().map(rows::tenant).transpose()
    }

    async fn find_tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRecord>> {
        self.connection().await?.query_opt(FIND_BY_SLUG, &[&slug]).await?.as_ref().map(rows::tenant).transpose()
    }

    async fn find_membership(&self, user: UserId, slug: &str) -> Result<Option<MemberRecord>> {
        let row = self.connection().await?.query_opt(FIND_MEMBERSHIP, &[&slug, &user.0]).await?;
        row.map(|row| Ok(MemberRecord { tenant: rows::tenant(&row)?, role: rows::role(&row)? })).transpose()
    }

    async fn list_memberships(&self, user: UserId, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<MemberRecord>> {
        let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
        let rows = self.connection().await?.query(LIST_MEMBERSHIPS, &[&user.0, &created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(|row| Ok(MemberRecord { tenant: rows::tenant(row)?, role: rows::role(row)? })).collect()
    }

    async fn set_tenant_status(&self, id: TenantId, status: TenantStatus) -> Result<bool> {
        Ok(self.connection().await?.execute(SET_STATUS, &[&id.0, &status.code()]).await? == 1)
    }

    async fn set_retry_unknown(&self, id: TenantId, retry: bool) -> Result<bool> {
        Ok(self.connection().await?.execute(SET_RETRY_UNKNOWN, &[&id.0, &retry]).await? == 1)
    }

    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<TenantRecord>> {
        let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
        let rows = self.connection().await?.query(LIST, &[&created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(rows::tenant).collect()
    }
}
