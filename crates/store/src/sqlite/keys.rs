//! API keys in SQLite.

use async_trait::async_trait;
use raven_core::{Environment, KeyId, Priority, TenantId, Timestamp, permission::Scopes};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, audit, idempotency,
    rows::{Id, code, id, limit, position, time, time_or_null},
    tenants,
};
use crate::{AuditRecord, Claim, Error, KeyChange, KeyRecord, Keys, NewKey, Outcome, Result, Rotation, TenantRecord};

pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND_BY_PREFIX, FIND, LIST, REVOKE, UPDATE, EXPIRE, TOUCH];

const INSERT: &str = "INSERT INTO api_keys
  (id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, rate_limit_rpm, expires_at, created_at,
    revoked_at, last_used_at, priority)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (prefix) DO NOTHING";
const FIND_BY_PREFIX: &str =
    "SELECT k.id, k.tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, k.name, rate_limit_rpm,
    expires_at, k.created_at, revoked_at, last_used_at, priority,
    t.id, slug, t.name, status, plan, country_code, default_locale, default_tz, t.created_at, data_key, retry_unknown,
    suspended_by, archived_at
  FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.prefix = ?1";
const FIND: &str = "SELECT id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, rate_limit_rpm,
    expires_at, created_at, revoked_at, last_used_at, priority
  FROM api_keys WHERE id = ?1 AND tenant_id = ?2 AND revoked_at IS NULL AND (?3 IS NULL OR environment = ?3)";
const LIST: &str = "SELECT id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, rate_limit_rpm,
    expires_at, created_at, revoked_at, last_used_at, priority
  FROM api_keys WHERE tenant_id = ?1 AND revoked_at IS NULL AND (?2 IS NULL OR environment = ?2) AND (created_at, id) < (?3, ?4)
  ORDER BY created_at DESC, id DESC LIMIT ?5";
const REVOKE: &str = "UPDATE api_keys SET revoked_at = ?4
  WHERE id = ?1 AND tenant_id = ?2 AND revoked_at IS NULL AND (?3 IS NULL OR environment = ?3)";

const UPDATE: &str = "UPDATE api_keys SET name = coalesce(?4, name), rate_limit_rpm = CASE WHEN ?5 THEN ?6 ELSE rate_limit_rpm END,
    priority = CASE WHEN ?7 THEN ?8 ELSE priority END
  WHERE id = ?1 AND tenant_id = ?2 AND revoked_at IS NULL AND (?3 IS NULL OR environment = ?3)
  RETURNING id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, rate_limit_rpm,
    expires_at, created_at, revoked_at, last_used_at, priority";
// What has ended is not begun anew.
const EXPIRE: &str = "UPDATE api_keys SET expires_at = min(coalesce(expires_at, ?3), ?3)
  WHERE id = ?1 AND tenant_id = ?2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?4)";
const TOUCH: &str = "UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)";

fn key(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    Ok(KeyRecord {
        id: KeyId(id(row, 0)?),
        tenant: TenantId(id(row, 1)?),
        environment: code(row, 2, Environment::from_code)?,
        prefix: row.get(3)?,
        last_four: row.get(4)?,
        secret_hash: row.get(5)?,
        secret_mac: row.get(6)?,
        scopes: code(row, 7, |code| Some(Scopes::from_code(code)))?,
        name: row.get(8)?,
        rate_limit_rpm: row.get(9)?,
        expires_at: time_or_null(row, 10)?,
        created_at: time(row, 11)?,
        revoked_at: time_or_null(row, 12)?,
        last_used_at: time_or_null(row, 13)?,
        priority: row.get::<_, Option<i16>>(14)?.and_then(Priority::from_code),
    })
}

fn key_and_tenant(row: &Row<'_>) -> rusqlite::Result<(KeyRecord, TenantRecord)> {
    Ok((key(row)?, tenants::tenant(row, 15)?))
}

fn insert(c: &Connection, new: &NewKey) -> Result<()> {
    let k = &new.record;
    let values = params![
        Id(k.id.0),
        Id(k.tenant.0),
        k.environment.code(),
        k.prefix,
        k.last_four,
        k.secret_hash,
        k.secret_mac,
        k.scopes.code(),
        k.name,
        k.rate_limit_rpm,
        k.expires_at.map(Timestamp::millis),
        k.created_at.millis(),
        k.revoked_at.map(Timestamp::millis),
        k.last_used_at.map(Timestamp::millis),
        k.priority.map(Priority::code),
    ];
    if c.prepare_cached(INSERT)?.execute(values)? == 0 {
        return Err(Error::Conflict("prefix"));
    }
    audit::record(c, &new.audit)
}

fn rotate(c: &Connection, rotation: &Rotation) -> Result<Option<Outcome>> {
    let new = &rotation.new;
    if let Some(outcome) = idempotency::earlier(c, new.claim.as_ref())? {
        return Ok(Some(outcome));
    }
    let values = params![Id(rotation.old.0), Id(new.record.tenant.0), rotation.old_expires_at.millis(), new.record.created_at.millis()];
    if c.prepare_cached(EXPIRE)?.execute(values)? == 0 {
        return Ok(None);
    }
    insert(c, new)?;
    idempotency::store(c, new.claim.as_ref())?;
    Ok(Some(Outcome::Created))
}

#[async_trait]
impl Keys for SqliteStore {
    async fn create_key(&self, new: NewKey) -> Result<Outcome> {
        self.write(move |c| idempotency::once(c, new.claim.as_ref(), || insert(c, &new))).await
    }

    async fn find_creation(&self, tenant: TenantId, claim: &Claim) -> Result<Option<Outcome>> {
        if claim.scope.parts().0 != tenant.0 {
            return Ok(None);
        }
        let claim = claim.clone();
        self.read(move |c| idempotency::earlier(c, Some(&claim))).await
    }

    async fn find_key_by_prefix(&self, prefix: &str) -> Result<Option<(KeyRecord, TenantRecord)>> {
        let prefix = prefix.to_owned();
        self.read(move |c| Ok(c.prepare_cached(FIND_BY_PREFIX)?.query_row([prefix], key_and_tenant).optional()?)).await
    }

    async fn find_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId) -> Result<Option<KeyRecord>> {
        let environment = environment.map(Environment::code);
        self.read(move |c| Ok(c.prepare_cached(FIND)?.query_row(params![Id(id.0), Id(tenant.0), environment], key).optional()?)).await
    }

    async fn list_keys(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        before: Option<(Timestamp, KeyId)>,
        rows: usize,
    ) -> Result<Vec<KeyRecord>> {
        let (at, after) = position(before.map(|(at, id)| (at, id.0)));
        let environment = environment.map(Environment::code);
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST)?;
            Ok(select.query_map(params![Id(tenant.0), environment, at, after, limit(rows)], key)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn revoke_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        now: Timestamp,
        audit: AuditRecord,
    ) -> Result<bool> {
        let environment = environment.map(Environment::code);
        self.write(move |c| {
            let revoked = c.prepare_cached(REVOKE)?.execute(params![Id(id.0), Id(tenant.0), environment, now.millis()])? == 1;
            if revoked {
                audit::record(c, &audit)?;
            }
            Ok(revoked)
        })
        .await
    }

    async fn update_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        change: KeyChange,
        audit: AuditRecord,
    ) -> Result<Option<KeyRecord>> {
        let environment = environment.map(Environment::code);
        self.write(move |c| {
            let (rpm, priority) = (change.rate_limit_rpm, change.priority);
            let values = params![
                Id(id.0),
                Id(tenant.0),
                environment,
                change.name,
                rpm.is_some(),
                rpm.flatten(),
                priority.is_some(),
                priority.flatten().map(Priority::code)
            ];
            let updated = c.prepare_cached(UPDATE)?.query_row(values, key).optional()?;
            if updated.is_some() {
                audit::record(c, &audit)?;
            }
            Ok(updated)
        })
        .await
    }

    async fn rotate_key(&self, rotation: Rotation) -> Result<Option<Outcome>> {
        self.write(move |c| rotate(c, &rotation)).await
    }

    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<()> {
        if used.is_empty() {
            return Ok(());
        }
        let used = used.to_vec();
        self.write(move |c| {
            let mut touch = c.prepare_cached(TOUCH)?;
            used.iter().try_for_each(|(key, at)| touch.execute(params![Id(key.0), at.millis()]).map(drop))?;
            Ok(())
        })
        .await
    }
}
