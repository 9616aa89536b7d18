//! API keys.

use async_trait::async_trait;
use raven_core::{Environment, KeyId, Priority, TenantId, Timestamp};
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Failure, Param},
    idempotency::{self, Creation, create, create_if},
    rows::{self, below, limit as limit_of, tenant_columns},
};
use crate::{AuditRecord, Claim, KeyChange, KeyRecord, Keys, NewKey, Outcome, Result, Rotation, TenantRecord};

macro_rules! key_columns {
    () => {
        "k.id, k.tenant_id, k.environment, k.prefix, k.last_four, k.secret_hash, k.secret_mac, k.scopes, k.name, k.rate_limit_rpm, \
         k.expires_at, k.created_at, k.revoked_at, k.last_used_at, k.priority"
    };
}

const INSERT: &str = "INSERT INTO api_keys (id, tenant_id, environment, prefix, last_four, secret_hash, secret_mac, scopes, name, \
     rate_limit_rpm, expires_at, created_at, revoked_at, last_used_at, priority) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
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
// What was revoked, a line each in the audit log: their number is the number of keys revoked.
const REVOKE: &str = "WITH revoked AS (UPDATE api_keys SET revoked_at = $4 \
       WHERE id = $1 AND tenant_id = $2 AND ($3::smallint IS NULL OR environment = $3) AND revoked_at IS NULL RETURNING tenant_id) \
     INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $5, $6 FROM revoked";
const UPDATE: &str = concat!(
    "WITH k AS (UPDATE api_keys SET name = COALESCE($4, name), rate_limit_rpm = CASE WHEN $5 THEN $6 ELSE rate_limit_rpm END, \
         priority = CASE WHEN $9 THEN $10 ELSE priority END \
       WHERE id = $1 AND tenant_id = $2 AND ($3::smallint IS NULL OR environment = $3) AND revoked_at IS NULL RETURNING *), \
     noted AS (INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $7, $8 FROM k) SELECT ",
    key_columns!(),
    " FROM k"
);
// An earlier end stays. What has ended is not begun anew.
const END: &str = "UPDATE api_keys SET expires_at = LEAST(expires_at, $3) WHERE id = $1 AND tenant_id = $2 AND revoked_at IS NULL \
     AND (expires_at IS NULL OR expires_at > $4)";
// Sorted, so that two nodes that tell of the same keys don't wait for each other in a circle.
const TOUCH: &str = "UPDATE api_keys k SET last_used_at = u.at \
     FROM (SELECT id, max(at) AS at FROM unnest($1::uuid[], $2::bigint[]) AS u (id, at) GROUP BY id ORDER BY id) u \
     WHERE k.id = ANY ($1) AND k.id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND_BY_PREFIX, FIND, LIST, REVOKE, UPDATE, END, TOUCH];

/// The constraint that a taken prefix violates, and what the caller is told.
const TAKEN: Option<(&str, &str)> = Some(("api_keys_prefix_key", "prefix"));

async fn insert(connection: &mut Connection, k: &KeyRecord) -> Result<(), Failure> {
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
                &k.last_used_at.map(Timestamp::millis),
                &k.priority.map(Priority::code),
            ],
        )
        .await?;
    Ok(())
}

#[async_trait]
impl Keys for PostgresStore {
    async fn create_key(&self, new: NewKey) -> Result<Outcome> {
        let NewKey { record, claim, audit } = &new;
        let creation = Creation { within: Some(record.tenant), claim: claim.as_ref(), conflict: TAKEN, audit };
        create(self.connection().await?, creation, async |connection| insert(connection, record).await).await
    }

    async fn find_creation(&self, tenant: TenantId, claim: &Claim) -> Result<Option<Outcome>> {
        idempotency::find(self.connection().await?, tenant, claim).await
    }

    async fn find_key_by_prefix(&self, prefix: &str) -> Result<Option<(KeyRecord, TenantRecord)>> {
        let row = self.connection().await?.query_opt(FIND_BY_PREFIX, &[&prefix]).await?;
        row.map(|row| Ok((rows::key(&row)?, rows::tenant(&row)?))).transpose()
    }

    async fn find_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId) -> Result<Option<KeyRecord>> {
        let environment = environment.map(Environment::code);
        self.connection()
            .await?
            .query_opt_within(tenant, FIND, &[&id.0, &tenant.0, &environment])
            .await?
            .as_ref()
            .map(rows::key)
            .transpose()
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
        let rows =
            self.connection().await?.query_within(tenant, LIST, &[&tenant.0, &environment, &created_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(rows::key).collect()
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
        let params: [Param<'_>; 6] = [&id.0, &tenant.0, &environment, &now.millis(), &audit.seq.0, &audit.entry];
        Ok(self.connection().await?.execute_within(tenant, REVOKE, &params).await? == 1)
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
        let (changes_rate, rate) = (change.rate_limit_rpm.is_some(), change.rate_limit_rpm.flatten());
        let (changes_priority, priority) = (change.priority.is_some(), change.priority.flatten().map(Priority::code));
        let params: [Param<'_>; 10] =
            [&id.0, &tenant.0, &environment, &change.name, &changes_rate, &rate, &audit.seq.0, &audit.entry, &changes_priority, &priority];
        self.connection().await?.query_opt_within(tenant, UPDATE, &params).await?.as_ref().map(rows::key).transpose()
    }

    async fn rotate_key(&self, rotation: Rotation) -> Result<Option<Outcome>> {
        let Rotation { old, old_expires_at, new: NewKey { record, claim, audit } } = &rotation;
        let creation = Creation { within: Some(record.tenant), claim: claim.as_ref(), conflict: TAKEN, audit };
        create_if(self.connection().await?, creation, async |connection| {
            if connection.execute(END, &[&old.0, &record.tenant.0, &old_expires_at.millis(), &record.created_at.millis()]).await? == 0 {
                return Ok(false);
            }
            insert(connection, record).await?;
            Ok(true)
        })
        .await
    }

    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<()> {
        if used.is_empty() {
            return Ok(());
        }
        let keys: Vec<Uuid> = used.iter().map(|(key, _)| key.0).collect();
        let times: Vec<i64> = used.iter().map(|(_, at)| at.millis()).collect();
        self.connection().await?.execute(TOUCH, &[&keys, &times]).await?;
        Ok(())
    }
}
