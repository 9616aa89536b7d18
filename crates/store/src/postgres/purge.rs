//! The end of a tenant: all that it has is deleted piece by piece, then the tenant, then the humans who belong to no other.

use raven_core::{TenantId, tenant::TenantStatus};
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::Connection,
    rows::{code, get, limit as limit_of},
};
use crate::{Operation, Result};

// Whoever inserts a row that refers to the tenant waits for this lock, and finds it gone.
const LOCK: &str = "SELECT status FROM tenants WHERE id = $1 FOR UPDATE";
const MESSAGES: &str = "SELECT seq FROM messages WHERE tenant_id = $1 ORDER BY environment, seq LIMIT $2";
// BETWEEN keeps the plans of partitioned tables to the partitions that are asked for.
const DELETE_EVENTS: &str = "DELETE FROM events WHERE message_seq = ANY ($1::bigint[]) AND message_seq BETWEEN $2 AND $3";
const DELETE_CONTENTS: &str = "DELETE FROM contents WHERE seq = ANY ($1::bigint[])";
const DELETE_JOBS: &str = "DELETE FROM jobs WHERE seq = ANY ($1::bigint[])";
const DELETE_MESSAGES: &str = "DELETE FROM messages WHERE seq = ANY ($1::bigint[]) AND seq BETWEEN $2 AND $3";

/// Deletes some of the tenant's rows of a table whose primary key begins with the tenant, or that has an index which does.
macro_rules! some {
    ($table:literal, $owner:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE ctid = ANY (ARRAY(SELECT ctid FROM ",
            $table,
            " WHERE ",
            $owner,
            " = $1 LIMIT $2)) AND ",
            $owner,
            " = $1"
        )
    };
}

/// What is left once the messages are gone. Contents and jobs without a message are few, if any, and so are contents at all and
/// jobs that are held: they are looked for without an index of their own.
const REST: [&str; 13] = [
    "DELETE FROM contents WHERE seq = ANY (ARRAY(SELECT seq FROM contents WHERE tenant_id = $1 ORDER BY seq LIMIT $2))",
    "DELETE FROM jobs WHERE seq = ANY (ARRAY(SELECT seq FROM jobs WHERE tenant_id = $1 ORDER BY seq LIMIT $2))",
    some!("idempotency", "owner_id"),
    some!("provider_configs", "tenant_id"),
    some!("suppressions", "tenant_id"),
    some!("callbacks", "tenant_id"),
    some!("inbound_messages", "tenant_id"),
    some!("soft_bounces", "tenant_id"),
    some!("invitations", "tenant_id"),
    some!("audit_log", "tenant_id"),
    some!("quotas", "tenant_id"),
    some!("usage_accepted", "tenant_id"),
    some!("usage_outcomes", "tenant_id"),
];
const DELETE_KEYS: &str = "DELETE FROM api_keys WHERE id = ANY (ARRAY(SELECT id FROM api_keys WHERE tenant_id = $1 LIMIT $2)) RETURNING id";
const DELETE_BUCKETS: &str = "DELETE FROM rate_limits WHERE bucket = ANY ($1::uuid[])";
const DELETE_MEMBERS: &str = "DELETE FROM members WHERE tenant_id = $1 \
     AND user_id = ANY (ARRAY(SELECT user_id FROM members WHERE tenant_id = $1 LIMIT $2)) RETURNING user_id";
// The record that answers a replay of the tenant's creation tells all about it.
const DELETE_CREATIONS: &str = "DELETE FROM idempotency WHERE owner_id = ANY ($1::uuid[]) AND environment = 0 AND operation = 3 \
     AND position($2 IN response) > 0";
const DELETE_TENANT: &str = "DELETE FROM tenants WHERE id = $1";
// Locked by a statement of its own: whoever becomes a member of something meanwhile is seen by the next one.
const LOCK_USERS: &str = "SELECT id FROM users WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE";
const DELETE_USERS: &str = "DELETE FROM users u WHERE u.id = ANY ($1::uuid[]) \
     AND NOT EXISTS (SELECT FROM members m WHERE m.user_id = ANY ($1) AND m.user_id = u.id) RETURNING id";

const _: () = assert!(Operation::CreateTenant.code() == 3);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[
    LOCK,
    MESSAGES,
    DELETE_EVENTS,
    DELETE_CONTENTS,
    DELETE_JOBS,
    DELETE_MESSAGES,
    REST[0],
    REST[1],
    REST[2],
    REST[3],
    REST[4],
    REST[5],
    REST[6],
    REST[7],
    REST[8],
    REST[9],
    REST[10],
    REST[11],
    REST[12],
    DELETE_KEYS,
    DELETE_BUCKETS,
    DELETE_MEMBERS,
    DELETE_CREATIONS,
    DELETE_TENANT,
    LOCK_USERS,
    DELETE_USERS,
];

/// See [`Tenants::purge_tenant`](crate::Tenants::purge_tenant).
pub(super) async fn purge(store: &PostgresStore, tenant: TenantId, rows: usize) -> Result<bool> {
    let mut connection = store.connection().await?;
    connection.begin().await?;
    let status = connection.query_opt(LOCK, &[&tenant.0]).await?;
    let status = status.map(|row| code(&row, "status", TenantStatus::from_code)).transpose()?;
    if status != Some(TenantStatus::Archived) {
        connection.rollback().await?;
        return Ok(true);
    }
    let gone = purge_some(&mut connection, tenant, rows.max(1)).await?;
    connection.commit().await?;
    Ok(gone)
}

async fn purge_some(connection: &mut Connection, tenant: TenantId, rows: usize) -> Result<bool> {
    let most = limit_of(rows);
    if messages(connection, tenant, rows).await? {
        return Ok(false);
    }
    let mut left = false;
    for statement in REST {
        left |= connection.execute(statement, &[&tenant.0, &most]).await? >= most.unsigned_abs();
    }
    let mut buckets = ids(connection, DELETE_KEYS, tenant, most).await?;
    left |= buckets.len() >= rows;
    buckets.push(tenant.0);
    connection.execute(DELETE_BUCKETS, &[&buckets]).await?;
    if left {
        return Ok(false);
    }
    let members = ids(connection, DELETE_MEMBERS, tenant, most).await?;
    connection.execute(DELETE_CREATIONS, &[&members, &tenant.to_string()]).await?;
    let more = members.len() >= rows;
    if !more {
        connection.execute(DELETE_TENANT, &[&tenant.0]).await?;
    }
    connection.query(LOCK_USERS, &[&members]).await?;
    let forgotten = connection.query(DELETE_USERS, &[&members]).await?;
    let forgotten = forgotten.iter().map(|row| get(row, "id")).collect::<Result<Vec<Uuid>>>()?;
    connection.execute(DELETE_BUCKETS, &[&forgotten]).await?;
    Ok(!more)
}

/// Deletes some messages with what belongs to them. `true`: there may be more.
async fn messages(connection: &mut Connection, tenant: TenantId, rows: usize) -> Result<bool> {
    let found = connection.query(MESSAGES, &[&tenant.0, &limit_of(rows)]).await?;
    let seqs = found.iter().map(|row| get(row, "seq")).collect::<Result<Vec<i64>>>()?;
    let (Some(first), Some(last)) = (seqs.iter().min(), seqs.iter().max()) else { return Ok(false) };
    connection.execute(DELETE_EVENTS, &[&seqs, first, last]).await?;
    connection.execute(DELETE_CONTENTS, &[&seqs]).await?;
    connection.execute(DELETE_JOBS, &[&seqs]).await?;
    connection.execute(DELETE_MESSAGES, &[&seqs, first, last]).await?;
    Ok(seqs.len() >= rows)
}

async fn ids(connection: &mut Connection, statement: &'static str, tenant: TenantId, most: i64) -> Result<Vec<Uuid>> {
    let rows = connection.query(statement, &[&tenant.0, &most]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(|e| crate::Error::Internal(Box::new(e)))).collect()
}
