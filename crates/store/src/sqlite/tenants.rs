//! Tenants and memberships in SQLite. How a tenant is deleted is in [`super::purge`].

use async_trait::async_trait;
use raven_core::{
    TenantId, Timestamp, UserId,
    permission::Role,
    tenant::{RESTORABLE, SuspendedBy, TenantStatus},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, audit, idempotency, members, purge,
    rows::{Id, code, id, limit, position, time, time_or_null},
};
use crate::{AuditRecord, Error, MemberRecord, NewTenant, Outcome, Result, StateChange, StateChanged, TenantChange, TenantRecord, Tenants};

pub(super) const STATEMENTS: &[&str] =
    &[INSERT, STATUS, FIND, FIND_BY_SLUG, FIND_MEMBERSHIP, LIST_MEMBERSHIPS, LIST, UPDATE, SET_STATE, LIST_ARCHIVED];

const INSERT: &str = "INSERT INTO tenants (id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key,
    retry_unknown, suspended_by, archived_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (slug) DO NOTHING";
const STATUS: &str = "SELECT status FROM tenants WHERE id = ?1";
const FIND: &str = "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key,
    retry_unknown, suspended_by, archived_at
  FROM tenants WHERE id = ?1";
const FIND_BY_SLUG: &str = "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key,
    retry_unknown, suspended_by, archived_at
  FROM tenants WHERE slug = ?1";
const FIND_MEMBERSHIP: &str = "SELECT t.id, slug, name, status, plan, country_code, default_locale, default_tz, t.created_at, data_key,
    retry_unknown, suspended_by, archived_at, role
  FROM tenants t JOIN members m ON m.tenant_id = t.id WHERE t.slug = ?1 AND m.user_id = ?2";
// Sorts what one human belongs to: few rows, so no index is kept for it.
const LIST_MEMBERSHIPS: &str = "SELECT t.id, slug, name, status, plan, country_code, default_locale, default_tz, t.created_at, data_key,
    retry_unknown, suspended_by, archived_at, role
  FROM members m JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = ?1 AND (t.created_at, t.id) < (?2, ?3)
  ORDER BY t.created_at DESC, t.id DESC LIMIT ?4";
const LIST: &str = "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key,
    retry_unknown, suspended_by, archived_at
  FROM tenants WHERE (created_at, id) < (?1, ?2) ORDER BY created_at DESC, id DESC LIMIT ?3";
const UPDATE: &str = "UPDATE tenants SET name = coalesce(?2, name), country_code = CASE WHEN ?3 THEN ?4 ELSE country_code END,
    default_locale = coalesce(?5, default_locale), default_tz = coalesce(?6, default_tz), plan = coalesce(?7, plan),
    retry_unknown = coalesce(?8, retry_unknown)
  WHERE id = ?1
  RETURNING id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key,
    retry_unknown, suspended_by, archived_at";
const SET_STATE: &str = "UPDATE tenants SET status = ?2, suspended_by = ?3, archived_at = ?4 WHERE id = ?1";
const LIST_ARCHIVED: &str = "SELECT id FROM tenants WHERE archived_at IS NOT NULL AND archived_at < ?1 ORDER BY archived_at, id LIMIT ?2";

/// Reads columns `first` and on.
pub(super) fn tenant(row: &Row<'_>, first: usize) -> rusqlite::Result<TenantRecord> {
    Ok(TenantRecord {
        id: TenantId(id(row, first)?),
        slug: row.get(first + 1)?,
        name: row.get(first + 2)?,
        status: code(row, first + 3, TenantStatus::from_code)?,
        plan: row.get(first + 4)?,
        country_code: row.get(first + 5)?,
        default_locale: row.get(first + 6)?,
        default_tz: row.get(first + 7)?,
        created_at: time(row, first + 8)?,
        data_key: row.get(first + 9)?,
        retry_unknown: row.get(first + 10)?,
        suspended_by: row.get::<_, Option<i16>>(first + 11)?.and_then(SuspendedBy::from_code),
        archived_at: time_or_null(row, first + 12)?,
    })
}

fn member(row: &Row<'_>) -> rusqlite::Result<MemberRecord> {
    Ok(MemberRecord { tenant: tenant(row, 0)?, role: code(row, 13, Role::from_code)? })
}

fn insert(c: &Connection, new: &NewTenant) -> Result<()> {
    let (t, owner) = (&new.record, &new.owner);
    let values = params![
        Id(t.id.0),
        t.slug,
        t.name,
        t.status.code(),
        t.plan,
        t.country_code,
        t.default_locale,
        t.default_tz,
        t.created_at.millis(),
        t.data_key,
        t.retry_unknown,
        t.suspended_by.map(SuspendedBy::code),
        t.archived_at.map(Timestamp::millis),
    ];
    if c.prepare_cached(INSERT)?.execute(values)? == 0 {
        return Err(Error::Conflict("slug"));
    }
    members::join(c, t.id, owner, Role::Owner, t.created_at)?;
    audit::record(c, &new.audit)
}

/// Is there such a tenant, and may it do everything?
pub(super) fn is_active(c: &Connection, tenant: TenantId) -> Result<bool> {
    let status = c.prepare_cached(STATUS)?.query_row([Id(tenant.0)], |r| code(r, 0, TenantStatus::from_code)).optional()?;
    Ok(status == Some(TenantStatus::Active))
}

/// The tenant with this id.
pub(super) fn find(c: &Connection, id: TenantId) -> Result<Option<TenantRecord>> {
    Ok(c.prepare_cached(FIND)?.query_row([Id(id.0)], |r| tenant(r, 0)).optional()?)
}

fn update(c: &Connection, id: TenantId, change: &TenantChange, line: &AuditRecord) -> Result<Option<TenantRecord>> {
    let values = params![
        Id(id.0),
        change.name,
        change.country_code.is_some(),
        change.country_code.as_ref().and_then(Option::as_ref),
        change.default_locale,
        change.default_tz,
        change.plan,
        change.retry_unknown,
    ];
    // No slices of the quota are out, so a smaller plan's limit holds with the next message.
    let updated = c.prepare_cached(UPDATE)?.query_row(values, |r| tenant(r, 0)).optional()?;
    if updated.is_some() {
        audit::record(c, line)?;
    }
    Ok(updated)
}

/// The tenant after the step; `None` when its state does not allow it.
fn after(t: &TenantRecord, change: StateChange) -> Option<TenantRecord> {
    use TenantStatus::{Active, Archived, Suspended};
    // A suspension that nobody is named for counts as an operator's.
    let owners = t.suspended_by == Some(SuspendedBy::Owner);
    let next = |status, suspended_by, archived_at| Some(TenantRecord { status, suspended_by, archived_at, ..t.clone() });
    match (change, t.status) {
        (StateChange::Suspend(by), Active) => next(Suspended, Some(by), None),
        (StateChange::Suspend(SuspendedBy::Operator), Suspended) if owners => next(Suspended, Some(SuspendedBy::Operator), None),
        (StateChange::Reactivate(by), Suspended) if owners || by == SuspendedBy::Operator => next(Active, None, None),
        (StateChange::Archive(at), Active | Suspended) => next(Archived, t.suspended_by, Some(at)),
        (StateChange::Restore(at), Archived) if t.archived_at.is_none_or(|archived| archived.after(RESTORABLE) > at) => {
            next(if t.suspended_by.is_some() { Suspended } else { Active }, t.suspended_by, None)
        }
        _ => None,
    }
}

fn change_state(c: &Connection, id: TenantId, change: StateChange, line: &AuditRecord) -> Result<Option<StateChanged>> {
    let Some(before) = find(c, id)? else { return Ok(None) };
    let Some(tenant) = after(&before, change) else { return Ok(Some(StateChanged { tenant: before, changed: false })) };
    c.prepare_cached(SET_STATE)?.execute(params![
        Id(id.0),
        tenant.status.code(),
        tenant.suspended_by.map(SuspendedBy::code),
        tenant.archived_at.map(Timestamp::millis),
    ])?;
    audit::record(c, line)?;
    Ok(Some(StateChanged { tenant, changed: true }))
}

#[async_trait]
impl Tenants for SqliteStore {
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome> {
        self.write(move |c| idempotency::once(c, new.claim.as_ref(), || insert(c, &new))).await
    }

    async fn find_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>> {
        self.read(move |c| find(c, id)).await
    }

    async fn find_tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRecord>> {
        let slug = slug.to_owned();
        self.read(move |c| Ok(c.prepare_cached(FIND_BY_SLUG)?.query_row([slug], |r| tenant(r, 0)).optional()?)).await
    }

    async fn find_membership(&self, user: UserId, slug: &str) -> Result<Option<MemberRecord>> {
        let slug = slug.to_owned();
        self.read(move |c| Ok(c.prepare_cached(FIND_MEMBERSHIP)?.query_row(params![slug, Id(user.0)], member).optional()?)).await
    }

    async fn list_memberships(&self, user: UserId, before: Option<(Timestamp, TenantId)>, rows: usize) -> Result<Vec<MemberRecord>> {
        let (at, after) = position(before.map(|(at, id)| (at, id.0)));
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST_MEMBERSHIPS)?;
            Ok(select.query_map(params![Id(user.0), at, after, limit(rows)], member)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, rows: usize) -> Result<Vec<TenantRecord>> {
        let (at, after) = position(before.map(|(at, id)| (at, id.0)));
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST)?;
            Ok(select.query_map(params![at, after, limit(rows)], |r| tenant(r, 0))?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn update_tenant(&self, id: TenantId, change: TenantChange, audit: AuditRecord) -> Result<Option<TenantRecord>> {
        self.write(move |c| update(c, id, &change, &audit)).await
    }

    async fn change_state(&self, id: TenantId, change: StateChange, audit: AuditRecord) -> Result<Option<StateChanged>> {
        self.write(move |c| change_state(c, id, change, &audit)).await
    }

    async fn list_archived(&self, before: Timestamp, rows: usize) -> Result<Vec<TenantId>> {
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST_ARCHIVED)?;
            let archived = select.query_map([before.millis(), limit(rows)], |r| Ok(TenantId(id(r, 0)?)))?;
            Ok(archived.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn purge_tenant(&self, id: TenantId, rows: usize) -> Result<bool> {
        let strays = self.read(move |c| purge::strays(c, id, rows)).await?;
        self.write(move |c| purge::purge(c, id, rows, &strays)).await
    }
}
