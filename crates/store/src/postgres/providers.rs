//! Provider configs.

use async_trait::async_trait;
use raven_core::{ConfigId, TenantId, Timestamp};
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::Param,
    idempotency::{Creation, create},
    rows::{self, below, limit as limit_of},
};
use crate::{AuditRecord, ConfigRecord, Configs, NewConfig, Outcome, Result, providers::FAILED};

macro_rules! config_columns {
    () => {
        "id, tenant_id, provider, channel, label, status, public, secret, created_at, status_reason, priority, weight, rules, rate_per_second, burst, \
         concurrency, allow_unsigned"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO provider_configs (",
    config_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
);
const FIND: &str = concat!("SELECT ", config_columns!(), " FROM provider_configs WHERE id = $1 AND tenant_id = $2");
const LIST: &str = concat!(
    "SELECT ",
    config_columns!(),
    " FROM provider_configs WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4"
);
const REPLACE: &str = "WITH replaced AS ( \
       UPDATE provider_configs SET label = $3, status = $4, status_reason = $5, public = $6, secret = $7, \
         priority = $15, weight = $16, rules = $17, rate_per_second = $18, burst = $19, concurrency = $20, allow_unsigned = $27 \
       WHERE id = $1 AND tenant_id = $2 AND label = $8 AND status = $9 AND status_reason IS NOT DISTINCT FROM $10 AND public = $11 AND secret = $12 \
         AND priority = $21 AND weight = $22 AND rules IS NOT DISTINCT FROM $23 AND rate_per_second IS NOT DISTINCT FROM $24 \
         AND burst IS NOT DISTINCT FROM $25 AND concurrency IS NOT DISTINCT FROM $26 AND allow_unsigned = $28 \
       RETURNING tenant_id), \
     told AS (INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $13::bigint, $14 FROM replaced WHERE $13::bigint IS NOT NULL) \
     SELECT 1 FROM replaced";
const FAILED_CONFIGS: &str = "SELECT c.tenant_id, c.id FROM provider_configs c JOIN tenants t ON t.id = c.tenant_id AND t.status = 1 \
     WHERE c.status = $1 AND c.id > $2 ORDER BY c.id LIMIT $3";
const OF_PROVIDER: &str = concat!(
    "SELECT ",
    config_columns!(),
    " FROM provider_configs WHERE provider = $1 AND id > $2 AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = provider_configs.tenant_id AND t.status = 1) ORDER BY id LIMIT $3"
);
const DELETE: &str = "WITH gone AS (DELETE FROM provider_configs WHERE id = $1 AND tenant_id = $2 RETURNING tenant_id) \
     INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $3, $4 FROM gone";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND, LIST, REPLACE, FAILED_CONFIGS, OF_PROVIDER, DELETE];

#[async_trait]
impl Configs for PostgresStore {
    async fn create_config(&self, new: NewConfig) -> Result<Outcome> {
        let NewConfig { record: c, claim, audit } = &new;
        let creation = Creation { within: Some(c.tenant), claim: claim.as_ref(), conflict: None, audit };
        create(self.connection().await?, creation, async |connection| {
            connection
                .execute(
                    INSERT,
                    &[
                        &c.id.0,
                        &c.tenant.0,
                        &c.provider,
                        &c.channel.code(),
                        &c.label,
                        &c.status,
                        &c.public,
                        &c.secret,
                        &c.created_at.millis(),
                        &c.status_reason,
                        &c.routing.priority,
                        &c.routing.weight,
                        &c.routing.rules,
                        &c.routing.rate_per_second,
                        &c.routing.burst,
                        &c.routing.concurrency,
                        &c.allow_unsigned,
                    ],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn find_config(&self, tenant: TenantId, id: ConfigId) -> Result<Option<ConfigRecord>> {
        self.connection().await?.query_opt_within(tenant, FIND, &[&id.0, &tenant.0]).await?.as_ref().map(rows::config).transpose()
    }

    async fn list_configs(&self, tenant: TenantId, before: Option<(Timestamp, ConfigId)>, limit: usize) -> Result<Vec<ConfigRecord>> {
        let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
        let rows = self.connection().await?.query_within(tenant, LIST, &[&tenant.0, &created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(rows::config).collect()
    }

    async fn replace_config(&self, old: &ConfigRecord, new: &ConfigRecord, audit: Option<AuditRecord>) -> Result<bool> {
        let (seq, entry) = audit.map(|audit| (audit.seq.0, audit.entry)).unzip();
        let params: [Param<'_>; 28] = [
            &old.id.0,
            &old.tenant.0,
            &new.label,
            &new.status,
            &new.status_reason,
            &new.public,
            &new.secret,
            &old.label,
            &old.status,
            &old.status_reason,
            &old.public,
            &old.secret,
            &seq,
            &entry,
            &new.routing.priority,
            &new.routing.weight,
            &new.routing.rules,
            &new.routing.rate_per_second,
            &new.routing.burst,
            &new.routing.concurrency,
            &old.routing.priority,
            &old.routing.weight,
            &old.routing.rules,
            &old.routing.rate_per_second,
            &old.routing.burst,
            &old.routing.concurrency,
            &new.allow_unsigned,
            &old.allow_unsigned,
        ];
        Ok(self.connection().await?.query_opt_within(old.tenant, REPLACE, &params).await?.is_some())
    }

    async fn list_failed_configs(&self, after: Option<ConfigId>, limit: usize) -> Result<Vec<(TenantId, ConfigId)>> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let rows = self.connection().await?.query(FAILED_CONFIGS, &[&FAILED, &after, &limit_of(limit)]).await?;
        rows.iter().map(|row| Ok((TenantId(rows::get(row, "tenant_id")?), ConfigId(rows::get(row, "id")?)))).collect()
    }

    async fn list_configs_of(&self, provider: &str, after: Option<ConfigId>, limit: usize) -> Result<Vec<ConfigRecord>> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let rows = self.connection().await?.query(OF_PROVIDER, &[&provider, &after, &limit_of(limit)]).await?;
        rows.iter().map(rows::config).collect()
    }

    async fn delete_config(&self, tenant: TenantId, id: ConfigId, audit: AuditRecord) -> Result<bool> {
        let params: [Param<'_>; 4] = [&id.0, &tenant.0, &audit.seq.0, &audit.entry];
        Ok(self.connection().await?.execute_within(tenant, DELETE, &params).await? == 1)
    }
}
