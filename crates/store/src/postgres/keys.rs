//! API keys.

use async_trait::async_trait;
use raven_core::{Environment, KeyId, TenantId, Timestamp};

use super::{
    PostgresStore, idempotency,
    rows::{self, below, limit as limit_of, tenant_columns},
};
use crate::{KeyRecord, Keys, NewKey, Outcome, Result, TenantRecord};

macro_rules! key_columns {
    () => {
        "k.id, k.tenant_id, k.environment, k.prefix, k.last_four, k.secret_hash, k.secret_mac, k.scopes, k.name, k.rate_limit_rpm, \
         k.expires_at, k.created_at, k.revoked_at"
    };
}

const INSERT: &str = "INSERT INTO api_keys (id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, \
     rate_limit_rpm, expires_at, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
const FIND_BY_PREFIX: &str = concat!(
    "SELECT ",
    key_columns!(),
    ", ",
    tenant_columns!(),
    " FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.prefix = $1"
);
const FIND: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys k WHERE k.id = $1 AND k.tenant_id = $2 AND ($3::smallint IS NULL OR k.environment = $3) AND k.revoked_at IS NULL"
);
const LIST: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys k WHERE k.tenant_id = $1 AND ($2::smallint IS NULL OR k.environment = $2) AND k.revoked_at IS NULL \
     AND (k.created_at, k.id) < ($3, $4) ORDER BY k.created_at DESC, k.id DESC LIMIT $5"
);
const REVOKE: &str = "UPDATE api_keys SET revoked_at = $4 \
     WHERE id = $1 AND tenant_id = $2 AND ($3::smallint IS NULL OR environment = $3) AND revoked_at IS NULL";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND_BY_PREFIX, FIND, LIST, REVOKE];

#[async_trait]
impl Keys for PostgresStore {
    async fn create_key(&self, new: NewKey) -> Result<Outcome> {
        let NewKey { record: k, claim } = &new;
        let conflict = Some(("api_keys_prefix_key", "prefix"));
        idempotency::create(self.connection().await?, claim.as_ref(), conflict, async |connection| {
            connection
                .execute(
                    INSERT,
                    &[
                        &k.id.0,
                        &k.tenant.0,
                        &k.environment.code(),
                        &k.prefix,
                        &k.last_four,
                        &k.secret_hash,
                        &k.secret_mac.as_slice(),
                        &k.scopes.code(),
                        &k.name,
                        &k.rate_limit_rpm,
                        &k.expires_at.map(Timestamp::millis),
                        &k.created_at.millis(),
                        &k.revoked_at.map(Timestamp::millis),
                    ],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn find_key_by_prefix(&self, prefix: &str) -> Result<Option<(KeyRecord, TenantRecord)>> {
        let row = self.connection().await?.query_opt(FIND_BY_PREFIX, &[&prefix]).await?;
        row.map(|row| Ok((rows::key(&row)?, rows::tenant(&row)?))).transpose()
    }

    async fn find_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId) -> Result<Option<KeyRecord>> {
        let environment = environment.map(Environment::code);
        self.connection().await?.query_opt(FIND, &[&id.0, &tenant.0, &environment]).await?.as_ref().map(rows::key).transpose()
    }

    async fn list_keys(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        before: Option<(Timestamp, KeyId)>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>> {
        let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
        let environment = environment.map(Environment::code);
        let rows = self.connection().await?.query(LIST, &[&tenant.0, &environment, &created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(rows::key).collect()
    }

    async fn revoke_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId, now: Timestamp) -> Result<bool> {
        let environment = environment.map(Environment::code);
        Ok(self.connection().await?.execute(REVOKE, &[&id.0, &tenant.0, &environment, &now.millis()]).await? == 1)
    }
}
