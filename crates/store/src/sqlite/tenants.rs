//! Tenants and their members in SQLite.

use async_trait::async_trait;
use raven_core::{TenantId, Timestamp, UserId, permission::Role, tenant::TenantStatus};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, idempotency,
    rows::{Id, code, id, limit, position, time},
};
use crate::{Error, MemberRecord, NewTenant, Outcome, Result, TenantRecord, Tenants};

pub(super) const STATEMENTS: &[&str] =
    &[INSERT, UPSERT_USER, INSERT_MEMBER, SET_STATUS, SET_RETRY_UNKNOWN, FIND, FIND_BY_SLUG, FIND_MEMBERSHIP, LIST_MEMBERSHIPS, LIST];

const INSERT: &str = "INSERT INTO tenants
  (id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, retry_unknown)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (slug) DO NOTHING";
const UPSERT_USER: &str = "INSERT INTO users (id, email, name, avatar_url) VALUES (?1, ?2, ?3, ?4)
  ON CONFLICT (id) DO UPDATE SET email = excluded.email, name = excluded.name, avatar_url = excluded.avatar_url";
const INSERT_MEMBER: &str = "INSERT INTO members (user_id, tenant_id, role, created_at) VALUES (?1, ?2, ?3, ?4)";
const SET_STATUS: &str = "UPDATE tenants SET status = ?2 WHERE id = ?1";
const SET_RETRY_UNKNOWN: &str = "UPDATE tenants SET retry_unknown = ?2 WHERE id = ?1";
const FIND: &str = "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, retry_unknown FROM tenants WHERE id = ?1";
const FIND_BY_SLUG: &str = "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, retry_unknown FROM tenants WHERE slug = ?1";
const FIND_MEMBERSHIP: &str =
    "SELECT t.id, slug, name, status, plan, country_code, default_locale, default_tz, t.created_at, data_key, retry_unknown, role
  FROM tenants t JOIN members m ON m.tenant_id = t.id WHERE t.slug = ?1 AND m.user_id = ?2";
// Sorts what one human belongs to: few rows, so no index is kept for it.
const LIST_MEMBERSHIPS: &str =
    "SELECT t.id, slug, name, status, plan, country_code, default_locale, default_tz, t.created_at, data_key, retry_unknown, role
  FROM members m JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = ?1 AND (t.created_at, t.id) < (?2, ?3)
  ORDER BY t.created_at DESC, t.id DESC LIMIT ?4";
const LIST: &str =
    "SELECT id, slug, name, status, plan, country_code, default_locale, default_tz, created_at, data_key, retry_unknown FROM tenants
  WHERE (created_at, id) < (?1, ?2) ORDER BY created_at DESC, id DESC LIMIT ?3";

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
    })
}

fn member(row: &Row<'_>) -> rusqlite::Result<MemberRecord> {
    Ok(MemberRecord { tenant: tenant(row, 0)?, role: code(row, 11, Role::from_code)? })
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
    ];
    if c.prepare_cached(INSERT)?.execute(values)? == 0 {
        return Err(Error::Conflict("slug"));
    }
    c.prepare_cached(UPSERT_USER)?.execute(params![Id(owner.id.0), owner.email, owner.name, owner.avatar_url])?;
    c.prepare_cached(INSERT_MEMBER)?.execute(params![Id(owner.id.0), Id(t.id.0), Role::Owner.code(), t.created_at.millis()])?;
    Ok(())
}

#[async_trait]
impl Tenants for SqliteStore {
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome> {
        self.write(move |c| idempotency::once(c, new.claim.as_ref(), || insert(c, &new))).await
    }

    async fn find_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>> {
        self.read(move |c| Ok(c.prepare_cached(FIND)?.query_row([Id(id.0)], |r| tenant(r, 0)).optional()?)).await
    }

    async fn find_tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRecord>> {
        let slug = slug.to_owned();
        self.read(move |c| Ok(c.prepare_cached(FIND_BY_SLUG)?.query_row([slug], |r| tenant(r, 0)).optional()?)).await
    }

    async fn set_tenant_status(&self, id: TenantId, status: TenantStatus) -> Result<bool> {
        self.write(move |c| Ok(c.prepare_cached(SET_STATUS)?.execute(params![Id(id.0), status.code()])? == 1)).await
    }

    async fn set_retry_unknown(&self, id: TenantId, retry: bool) -> Result<bool> {
        self.write(move |c| Ok(c.prepare_cached(SET_RETRY_UNKNOWN)?.execute(params![Id(id.0), retry])? == 1)).await
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
}
