//! How a tenant is deleted for good in SQLite: in portions, so that no transaction holds up acceptance for long.

use raven_core::{TenantId, tenant::TenantStatus};
use rusqlite::{Connection, params};

use super::{
    rows::{Id, limit},
    tenants,
};
use crate::{Operation, Result};

pub(super) const STATEMENTS: &[&str] = &[
    MESSAGES,
    DELETE_JOB,
    DELETE_EVENTS,
    DELETE_CONTENT,
    DELETE_MESSAGE,
    STRAYS,
    DELETE_STRAY,
    IDEMPOTENCY,
    KEYS,
    DELETE_KEY,
    DELETE_BUCKET,
    CONFIGS,
    SUPPRESSIONS,
    CALLBACKS,
    INBOUND,
    SOFT_BOUNCES,
    INVITATIONS,
    AUDIT,
    QUOTAS,
    ACCEPTED,
    OUTCOMES,
    MEMBERS,
    DELETE_CREATION,
    DELETE_MEMBER,
    FORGET_USER,
    DELETE_TENANT,
];

const MESSAGES: &str = "SELECT seq FROM messages WHERE tenant_id = ?1 LIMIT ?2";
const DELETE_JOB: &str = "DELETE FROM jobs WHERE seq = ?1";
const DELETE_EVENTS: &str = "DELETE FROM events WHERE message_seq = ?1";
const DELETE_CONTENT: &str = "DELETE FROM contents WHERE seq = ?1";
const DELETE_MESSAGE: &str = "DELETE FROM messages WHERE seq = ?1";
const STRAYS: &str =
    "SELECT seq FROM contents c WHERE tenant_id = ?1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.seq = c.seq) LIMIT ?2";
const DELETE_STRAY: &str = "DELETE FROM contents WHERE seq = ?1 AND tenant_id = ?2";
const IDEMPOTENCY: &str = "DELETE FROM idempotency WHERE owner_id = ?1 AND (environment, operation, key) IN
  (SELECT environment, operation, key FROM idempotency WHERE owner_id = ?1 LIMIT ?2)";
const KEYS: &str = "SELECT id FROM api_keys WHERE tenant_id = ?1 LIMIT ?2";
const DELETE_KEY: &str = "DELETE FROM api_keys WHERE id = ?1";
const DELETE_BUCKET: &str = "DELETE FROM rate_limits WHERE bucket = ?1";
const CONFIGS: &str = "DELETE FROM provider_configs WHERE id IN (SELECT id FROM provider_configs WHERE tenant_id = ?1 LIMIT ?2)";
const SUPPRESSIONS: &str = "DELETE FROM suppressions WHERE id IN (SELECT id FROM suppressions WHERE tenant_id = ?1 LIMIT ?2)";
const CALLBACKS: &str = "DELETE FROM callbacks WHERE seq IN (SELECT seq FROM callbacks WHERE tenant_id = ?1 LIMIT ?2)";
const INBOUND: &str = "DELETE FROM inbound_messages WHERE seq IN (SELECT seq FROM inbound_messages WHERE tenant_id = ?1 LIMIT ?2)";
const SOFT_BOUNCES: &str = "DELETE FROM soft_bounces WHERE tenant_id = ?1 AND (environment, channel, lookup) IN
  (SELECT environment, channel, lookup FROM soft_bounces WHERE tenant_id = ?1 LIMIT ?2)";
const INVITATIONS: &str = "DELETE FROM invitations WHERE id IN (SELECT id FROM invitations WHERE tenant_id = ?1 LIMIT ?2)";
const AUDIT: &str =
    "DELETE FROM audit_log WHERE tenant_id = ?1 AND seq IN (SELECT seq FROM audit_log WHERE tenant_id = ?1 ORDER BY seq LIMIT ?2)";
const QUOTAS: &str = "DELETE FROM quotas WHERE tenant_id = ?1 AND (day, slot) IN
  (SELECT day, slot FROM quotas WHERE tenant_id = ?1 LIMIT ?2)";
const ACCEPTED: &str = "DELETE FROM usage_accepted WHERE tenant_id = ?1 AND (day, environment, channel, key_id, slot) IN
  (SELECT day, environment, channel, key_id, slot FROM usage_accepted WHERE tenant_id = ?1 LIMIT ?2)";
const OUTCOMES: &str = "DELETE FROM usage_outcomes WHERE tenant_id = ?1 AND (day, environment, channel, status, slot) IN
  (SELECT day, environment, channel, status, slot FROM usage_outcomes WHERE tenant_id = ?1 LIMIT ?2)";
const MEMBERS: &str = "SELECT user_id FROM members WHERE tenant_id = ?1 LIMIT ?2";
// What the human got when they created the tenant tells of it. A replay within the key's life creates another one then.
const DELETE_CREATION: &str =
    "DELETE FROM idempotency WHERE owner_id = ?1 AND environment = 0 AND operation = ?2 AND instr(response, ?3) > 0";
const DELETE_MEMBER: &str = "DELETE FROM members WHERE user_id = ?1 AND tenant_id = ?2";
const FORGET_USER: &str = "DELETE FROM users WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM members m WHERE m.user_id = users.id)";
const DELETE_TENANT: &str = "DELETE FROM tenants WHERE id = ?1";

/// The tables whose rows are deleted by their primary key's beginning or an index of the tenant's, and need nothing else.
const PLAIN: &[&str] =
    &[IDEMPOTENCY, CONFIGS, SUPPRESSIONS, CALLBACKS, INBOUND, SOFT_BOUNCES, INVITATIONS, AUDIT, QUOTAS, ACCEPTED, OUTCOMES];

/// Contents of the tenant that have no message. No index tells them, so this reads all contents: for a reader.
pub(super) fn strays(c: &Connection, tenant: TenantId, rows: usize) -> Result<Vec<i64>> {
    if !is_archived(c, tenant)? {
        return Ok(Vec::new());
    }
    let mut select = c.prepare_cached(STRAYS)?;
    Ok(select.query_map(params![Id(tenant.0), limit(rows.max(1))], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Deletes a portion; `true` when the tenant is gone, or is not archived.
pub(super) fn purge(c: &Connection, tenant: TenantId, rows: usize, strays: &[i64]) -> Result<bool> {
    if !is_archived(c, tenant)? {
        return Ok(true);
    }
    let most = rows.max(1);
    for seq in strays {
        c.prepare_cached(DELETE_STRAY)?.execute(params![seq, Id(tenant.0)])?;
    }
    // Where a whole portion was deleted there may be more.
    if strays.len() == most || messages(c, tenant, most)? == most {
        return Ok(false);
    }
    for sql in PLAIN {
        if c.prepare_cached(sql)?.execute(params![Id(tenant.0), limit(most)])? == most {
            return Ok(false);
        }
    }
    if keys(c, tenant, most)? == most || members(c, tenant, most)? == most {
        return Ok(false);
    }
    c.prepare_cached(DELETE_BUCKET)?.execute([Id(tenant.0)])?;
    c.prepare_cached(DELETE_TENANT)?.execute([Id(tenant.0)])?;
    Ok(true)
}

fn is_archived(c: &Connection, tenant: TenantId) -> Result<bool> {
    Ok(tenants::find(c, tenant)?.is_some_and(|t| t.status == TenantStatus::Archived))
}

fn messages(c: &Connection, tenant: TenantId, most: usize) -> Result<usize> {
    let mut select = c.prepare_cached(MESSAGES)?;
    let seqs: Vec<i64> = select.query_map(params![Id(tenant.0), limit(most)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    for sql in [DELETE_JOB, DELETE_EVENTS, DELETE_CONTENT, DELETE_MESSAGE] {
        let mut delete = c.prepare_cached(sql)?;
        seqs.iter().try_for_each(|seq| delete.execute([seq]).map(drop))?;
    }
    Ok(seqs.len())
}

fn keys(c: &Connection, tenant: TenantId, most: usize) -> Result<usize> {
    let mut select = c.prepare_cached(KEYS)?;
    let keys: Vec<Id> = select.query_map(params![Id(tenant.0), limit(most)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    for key in &keys {
        c.prepare_cached(DELETE_BUCKET)?.execute([key])?;
        c.prepare_cached(DELETE_KEY)?.execute([key])?;
    }
    Ok(keys.len())
}

fn members(c: &Connection, tenant: TenantId, most: usize) -> Result<usize> {
    let mut select = c.prepare_cached(MEMBERS)?;
    let users: Vec<Id> = select.query_map(params![Id(tenant.0), limit(most)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let (operation, named) = (Operation::CreateTenant.code(), tenant.to_string());
    for user in &users {
        c.prepare_cached(DELETE_CREATION)?.execute(params![user, operation, named])?;
        c.prepare_cached(DELETE_MEMBER)?.execute(params![user, Id(tenant.0)])?;
        c.prepare_cached(FORGET_USER)?.execute([user])?;
    }
    Ok(users.len())
}
