//! Tenants: their records, their states, and who belongs to them. Members one by one are in [`super::members`], the end of a
//! tenant is in [`super::purge`].

use async_trait::async_trait;
use raven_core::{
    TenantId, Timestamp, UserId,
    permission::Role,
    tenant::{RESTORABLE, SuspendedBy, TenantStatus},
};
use tokio_postgres::Row;

use super::{
    PostgresStore, audit,
    connection::{Connection, Failure, Param},
    idempotency::{Creation, create},
    purge, quota,
    rows::{self, below, get, limit as limit_of, tenant_columns},
};
use crate::{
    AuditRecord, MemberRecord, NewTenant, Outcome, Result, StateChange, StateChanged, TenantChange, TenantRecord, Tenants, UserProfile,
};

const INSERT: &str = "INSERT INTO tenants (id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, \
     retry_unknown, suspended_by, archived_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
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
const UPDATE: &str = concat!(
    "WITH t AS (UPDATE tenants SET name = COALESCE($2, name), country_code = CASE WHEN $3 THEN $4 ELSE country_code END, \
       default_locale = COALESCE($5, default_locale), default_tz = COALESCE($6, default_tz), plan = COALESCE($7, plan), \
       retry_unknown = COALESCE($8, retry_unknown) WHERE id = $1 RETURNING *), \
     noted AS (INSERT INTO audit_log (tenant_id, seq, entry) SELECT id, $9, $10 FROM t) SELECT ",
    tenant_columns!(),
    " FROM t"
);
const LOCK: &str = concat!("SELECT ", tenant_columns!(), " FROM tenants t WHERE t.id = $1 FOR NO KEY UPDATE");
const SET_STATE: &str =
    concat!("UPDATE tenants t SET status = $2, suspended_by = $3, archived_at = $4 WHERE t.id = $1 RETURNING ", tenant_columns!());
const LIST_ARCHIVED: &str =
    "SELECT id FROM tenants WHERE archived_at IS NOT NULL AND archived_at < $1 AND status = 3 ORDER BY archived_at, id LIMIT $2";

const _: () = assert!(TenantStatus::Archived.code() == 3);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[
    INSERT,
    UPSERT_USER,
    INSERT_MEMBER,
    FIND,
    FIND_BY_SLUG,
    FIND_MEMBERSHIP,
    LIST_MEMBERSHIPS,
    LIST,
    UPDATE,
    LOCK,
    SET_STATE,
    LIST_ARCHIVED,
];

/// Stores or refreshes what a token said of a human.
pub(super) async fn remember(connection: &mut Connection, user: &UserProfile) -> Result<(), Failure> {
    connection.execute(UPSERT_USER, &[&user.id.0, &user.email, &user.name, &user.avatar_url]).await?;
    Ok(())
}

/// What a tenant may be changed into: its status, who suspended it and when it was archived. `None`: its state does not
/// allow the step.
fn after(tenant: &TenantRecord, change: StateChange) -> Option<(TenantStatus, Option<SuspendedBy>, Option<Timestamp>)> {
    let lifts = |by| by == SuspendedBy::Operator || tenant.suspended_by == Some(SuspendedBy::Owner);
    match (change, tenant.status) {
        (StateChange::Suspend(by), TenantStatus::Active) => Some((TenantStatus::Suspended, Some(by), None)),
        (StateChange::Suspend(SuspendedBy::Operator), TenantStatus::Suspended) if tenant.suspended_by == Some(SuspendedBy::Owner) => {
            Some((TenantStatus::Suspended, Some(SuspendedBy::Operator), None))
        }
        (StateChange::Reactivate(by), TenantStatus::Suspended) if lifts(by) => Some((TenantStatus::Active, None, None)),
        (StateChange::Archive(at), TenantStatus::Active | TenantStatus::Suspended) => {
            Some((TenantStatus::Archived, tenant.suspended_by, Some(at)))
        }
        (StateChange::Restore(at), TenantStatus::Archived) if tenant.archived_at.is_none_or(|since| at.since(since) < RESTORABLE) => {
            let status = if tenant.suspended_by.is_some() { TenantStatus::Suspended } else { TenantStatus::Active };
            Some((status, tenant.suspended_by, None))
        }
        _ => None,
    }
}

#[async_trait]
impl Tenants for PostgresStore {
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome> {
        let NewTenant { record: t, owner, claim, audit } = &new;
        let created_at = t.created_at.millis();
        let creation = Creation { within: None, claim: claim.as_ref(), conflict: Some(("tenants_slug_key", "slug")), audit };
        create(self.connection().await?, creation, async |connection| {
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
                        &t.suspended_by.map(SuspendedBy::code),
                        &t.archived_at.map(Timestamp::millis),
                    ],
                )
                .await?;
            remember(connection, owner).await?;
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

    async fn update_tenant(&self, id: TenantId, change: TenantChange, audit: AuditRecord) -> Result<Option<TenantRecord>> {
        let (changes_country, country) = (change.country_code.is_some(), change.country_code.flatten());
        let params: [Param<'_>; 10] = [
            &id.0,
            &change.name,
            &changes_country,
            &country,
            &change.default_locale,
            &change.default_tz,
            &change.plan,
            &change.retry_unknown,
            &audit.seq.0,
            &audit.entry,
        ];
        let mut connection = self.connection().await?;
        let row: Option<Row> = if change.plan.is_some() {
            connection.begin_within(id).await?;
            let row = connection.query_opt(UPDATE, &params).await?;
            quota::take_back(&mut connection, id.0, None).await?;
            connection.commit().await?;
            row
        } else {
            connection.query_opt_within(id, UPDATE, &params).await?
        };
        row.as_ref().map(rows::tenant).transpose()
    }

    async fn change_state(&self, id: TenantId, change: StateChange, audit: AuditRecord) -> Result<Option<StateChanged>> {
        let mut connection = self.connection().await?;
        connection.begin().await?;
        let Some(row) = connection.query_opt(LOCK, &[&id.0]).await? else {
            connection.rollback().await?;
            return Ok(None);
        };
        let tenant = rows::tenant(&row)?;
        let Some((status, suspended_by, archived_at)) = after(&tenant, change) else {
            connection.rollback().await?;
            return Ok(Some(StateChanged { tenant, changed: false }));
        };
        let params: [Param<'_>; 4] = [&id.0, &status.code(), &suspended_by.map(SuspendedBy::code), &archived_at.map(Timestamp::millis)];
        let row = connection.query_opt(SET_STATE, &params).await?;
        audit::write(&mut connection, &audit).await?;
        connection.commit().await?;
        row.map(|row| Ok(StateChanged { tenant: rows::tenant(&row)?, changed: true })).transpose()
    }

    async fn list_archived(&self, before: Timestamp, limit: usize) -> Result<Vec<TenantId>> {
        let rows = self.connection().await?.query(LIST_ARCHIVED, &[&before.millis(), &limit_of(limit)]).await?;
        rows.iter().map(|row| get(row, "id").map(TenantId)).collect()
    }

    async fn purge_tenant(&self, id: TenantId, rows: usize) -> Result<bool> {
        purge::purge(self, id, rows).await
    }

    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<TenantRecord>> {
        let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
        let rows = self.connection().await?.query(LIST, &[&created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(rows::tenant).collect()
    }
}
