//! Provider configs in SQLite.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, TenantId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, audit, idempotency,
    rows::{Id, code, id, limit, position, time},
};
use crate::{AuditRecord, ConfigRecord, Configs, NewConfig, Outcome, Result, Routing, providers::FAILED};

pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND, LIST, REPLACE, FAILED_CONFIGS, OF_PROVIDER, DELETE];

const INSERT: &str =
    "INSERT INTO provider_configs (id, tenant_id, provider, channel, label, status, public, secret, created_at, status_reason,
    priority, weight, rules, rate_per_second, burst, concurrency, allow_unsigned)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
const FIND: &str = "SELECT id, tenant_id, provider, channel, label, status, public, secret, created_at, status_reason,
    priority, weight, rules, rate_per_second, burst, concurrency, allow_unsigned FROM provider_configs
  WHERE id = ?1 AND tenant_id = ?2";
const LIST: &str = "SELECT id, tenant_id, provider, channel, label, status, public, secret, created_at, status_reason,
    priority, weight, rules, rate_per_second, burst, concurrency, allow_unsigned FROM provider_configs
  WHERE tenant_id = ?1 AND (created_at, id) < (?2, ?3) ORDER BY created_at DESC, id DESC LIMIT ?4";
const REPLACE: &str = "UPDATE provider_configs SET label = ?3, status = ?4, status_reason = ?5, public = ?6, secret = ?7,
    priority = ?13, weight = ?14, rules = ?15, rate_per_second = ?16, burst = ?17, concurrency = ?18, allow_unsigned = ?25
  WHERE id = ?1 AND tenant_id = ?2 AND label = ?8 AND status = ?9 AND status_reason IS ?10 AND public = ?11 AND secret = ?12
    AND priority = ?19 AND weight = ?20 AND rules IS ?21 AND rate_per_second IS ?22 AND burst IS ?23 AND concurrency IS ?24 AND allow_unsigned = ?26";
const FAILED_CONFIGS: &str = "SELECT c.tenant_id, c.id FROM provider_configs c JOIN tenants t ON t.id = c.tenant_id AND t.status = 1
  WHERE c.status = ?1 AND c.id > ?2 ORDER BY c.id LIMIT ?3";
const OF_PROVIDER: &str = "SELECT id, tenant_id, provider, channel, label, status, public, secret, created_at, status_reason,
    priority, weight, rules, rate_per_second, burst, concurrency, allow_unsigned FROM provider_configs
  WHERE provider = ?1 AND id > ?2 AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = provider_configs.tenant_id AND t.status = 1) ORDER BY id LIMIT ?3";
const DELETE: &str = "DELETE FROM provider_configs WHERE id = ?1 AND tenant_id = ?2";

fn config(row: &Row<'_>) -> rusqlite::Result<ConfigRecord> {
    Ok(ConfigRecord {
        id: ConfigId(id(row, 0)?),
        tenant: TenantId(id(row, 1)?),
        provider: row.get(2)?,
        channel: code(row, 3, Channel::from_code)?,
        label: row.get(4)?,
        status: row.get(5)?,
        public: row.get(6)?,
        secret: row.get(7)?,
        created_at: time(row, 8)?,
        status_reason: row.get(9)?,
        routing: Routing {
            priority: row.get(10)?,
            weight: row.get(11)?,
            rules: row.get(12)?,
            rate_per_second: row.get(13)?,
            burst: row.get(14)?,
            concurrency: row.get(15)?,
        },
        allow_unsigned: row.get(16)?,
    })
}

fn insert(c: &Connection, new: &NewConfig) -> Result<()> {
    audit::record(c, &new.audit)?;
    let new = &new.record;
    c.prepare_cached(INSERT)?.execute(params![
        Id(new.id.0),
        Id(new.tenant.0),
        new.provider,
        new.channel.code(),
        new.label,
        new.status,
        new.public,
        new.secret,
        new.created_at.millis(),
        new.status_reason,
        new.routing.priority,
        new.routing.weight,
        new.routing.rules,
        new.routing.rate_per_second,
        new.routing.burst,
        new.routing.concurrency,
        new.allow_unsigned,
    ])?;
    Ok(())
}

#[async_trait]
impl Configs for SqliteStore {
    async fn create_config(&self, new: NewConfig) -> Result<Outcome> {
        self.write(move |c| idempotency::once(c, new.claim.as_ref(), || insert(c, &new))).await
    }

    async fn find_config(&self, tenant: TenantId, id: ConfigId) -> Result<Option<ConfigRecord>> {
        self.read(move |c| Ok(c.prepare_cached(FIND)?.query_row([Id(id.0), Id(tenant.0)], config).optional()?)).await
    }

    async fn list_configs(&self, tenant: TenantId, before: Option<(Timestamp, ConfigId)>, rows: usize) -> Result<Vec<ConfigRecord>> {
        let (at, after) = position(before.map(|(at, id)| (at, id.0)));
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST)?;
            Ok(select.query_map(params![Id(tenant.0), at, after, limit(rows)], config)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn replace_config(&self, old: &ConfigRecord, new: &ConfigRecord, audit: Option<AuditRecord>) -> Result<bool> {
        let (old, new) = (old.clone(), new.clone());
        self.write(move |c| {
            let replaced = c.prepare_cached(REPLACE)?.execute(params![
                Id(old.id.0),
                Id(old.tenant.0),
                new.label,
                new.status,
                new.status_reason,
                new.public,
                new.secret,
                old.label,
                old.status,
                old.status_reason,
                old.public,
                old.secret,
                new.routing.priority,
                new.routing.weight,
                new.routing.rules,
                new.routing.rate_per_second,
                new.routing.burst,
                new.routing.concurrency,
                old.routing.priority,
                old.routing.weight,
                old.routing.rules,
                old.routing.rate_per_second,
                old.routing.burst,
                old.routing.concurrency,
                new.allow_unsigned,
                old.allow_unsigned,
            ])? == 1;
            if let (true, Some(audit)) = (replaced, &audit) {
                audit::record(c, audit)?;
            }
            Ok(replaced)
        })
        .await
    }

    async fn list_failed_configs(&self, after: Option<ConfigId>, rows: usize) -> Result<Vec<(TenantId, ConfigId)>> {
        self.read(move |c| {
            // No id is empty, so every one comes after this.
            let after = after.map_or(Vec::new(), |id| id.0.as_bytes().to_vec());
            let found = |r: &Row<'_>| Ok((TenantId(id(r, 0)?), ConfigId(id(r, 1)?)));
            let mut select = c.prepare_cached(FAILED_CONFIGS)?;
            Ok(select.query_map(params![FAILED, after, limit(rows)], found)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn list_configs_of(&self, provider: &str, after: Option<ConfigId>, rows: usize) -> Result<Vec<ConfigRecord>> {
        let provider = provider.to_owned();
        self.read(move |c| {
            // No id is empty, so every one comes after this.
            let after = after.map_or(Vec::new(), |id| id.0.as_bytes().to_vec());
            let mut select = c.prepare_cached(OF_PROVIDER)?;
            Ok(select.query_map(params![provider, after, limit(rows)], config)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn delete_config(&self, tenant: TenantId, id: ConfigId, audit: AuditRecord) -> Result<bool> {
        self.write(move |c| {
            let deleted = c.prepare_cached(DELETE)?.execute([Id(id.0), Id(tenant.0)])? == 1;
            if deleted {
                audit::record(c, &audit)?;
            }
            Ok(deleted)
        })
        .await
    }
}
