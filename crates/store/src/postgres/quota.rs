//! The daily quota of live messages. A node accepts from a slice of its own, so that nodes don't meet in one row; the central
//! row (slot -1) tells how much of the limit was given away in all. This is how a slice is filled, and how tokens come back.
//! The debit itself is part of acceptance ([`super::accept`]).
//!
//! At any time, in each day of a tenant: `granted` of the central row is its own `used` (what was accepted before there were
//! slices) and the sum of the slices' `granted`, and no slice's `used` is above its `granted`. So all that is used stays
//! within what was granted, and that within the limit.

use raven_core::Environment;
use uuid::Uuid;

use super::connection::{Connection, Failure};

/// The constraint that refuses a debit of what a slice doesn't hold any more.
pub(super) const NEVER_OVERDRAWN: &str = "quotas_used_check";

// Without locks, so that refusing the messages of a tenant who has used up its day costs one read.
const USED: &str = "SELECT COALESCE(sum(used), 0)::bigint AS used FROM quotas WHERE tenant_id = $1 AND day = $2";
const LOCK_CENTRAL: &str = "SELECT granted FROM quotas WHERE tenant_id = $1 AND day = $2 AND slot = -1 FOR UPDATE";
// Messages of the day that were accepted before anything limited them count too.
const OPEN: &str = "INSERT INTO quotas (tenant_id, day, slot, granted, used) \
     SELECT $1, $2, -1, n, n FROM (SELECT COALESCE(sum(messages - suppressed), 0)::bigint AS n FROM usage_accepted \
       WHERE tenant_id = $1 AND day = $2 AND environment = 1) counted \
     ON CONFLICT (tenant_id, day, slot) DO NOTHING";
const LOCK_SLICE: &str = "SELECT granted - used AS free FROM quotas WHERE tenant_id = $1 AND day = $2 AND slot = $3 FOR UPDATE";
const GRANT: &str = "WITH central AS (UPDATE quotas SET granted = granted + $4 WHERE tenant_id = $1 AND day = $2 AND slot = -1) \
     INSERT INTO quotas (tenant_id, day, slot, granted, used) VALUES ($1, $2, $3, $4, 0) \
     ON CONFLICT (tenant_id, day, slot) DO UPDATE SET granted = quotas.granted + EXCLUDED.granted";
// The central row comes first: whoever holds it has the rest of its day to itself, but for debits.
const LOCK_ALL: &str =
    "SELECT slot FROM quotas WHERE tenant_id = $1 AND ($2::integer IS NULL OR day = $2) ORDER BY tenant_id, day, slot FOR UPDATE";
const TAKE_BACK: &str = "WITH slices AS (
  UPDATE quotas SET granted = used WHERE tenant_id = $1 AND ($2::integer IS NULL OR day = $2) AND slot >= 0 AND granted > used
)
UPDATE quotas c SET granted = c.used + COALESCE(
  (SELECT sum(s.used) FROM quotas s WHERE s.tenant_id = $1 AND s.day = c.day AND s.slot >= 0), 0)::bigint
WHERE c.tenant_id = $1 AND ($2::integer IS NULL OR c.day = $2) AND c.slot = -1";

const _: () = assert!(Environment::Live.code() == 1);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[USED, LOCK_CENTRAL, OPEN, LOCK_SLICE, GRANT, LOCK_ALL, TAKE_BACK];

/// A refill takes this part of what is left, so slices get smaller towards the end.
const PART: i64 = 16;
/// And never more than this.
const LARGEST: i64 = 100_000;

/// Whose quota, of which day, and which node's slice of it (in parts: [`super::parts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slice {
    pub(super) tenant: Uuid,
    pub(super) day: i32,
    pub(super) slot: i32,
}

/// Sees that a slice holds `needed` tokens, or as many as the limit leaves: the number that it holds now. Zero is only
/// answered when all of the limit is used.
pub(super) async fn refill(connection: &mut Connection, slice: Slice, limit: i64, needed: i64) -> Result<i64, Failure> {
    let used = connection.query_opt(USED, &[&slice.tenant, &slice.day]).await?;
    if used.is_none_or(|row| row.try_get("used").is_ok_and(|used: i64| used >= limit)) {
        return Ok(0);
    }
    connection.begin().await?;
    let held = top_up(connection, slice, limit, needed).await;
    if held.is_ok() {
        connection.commit().await?;
    } else if let Err(e) = connection.rollback().await {
        // A connection that cannot roll back is closed, which does the same.
        tracing::debug!(error = ?e, "could not roll back");
    }
    held
}

async fn top_up(connection: &mut Connection, slice: Slice, limit: i64, needed: i64) -> Result<i64, Failure> {
    let Slice { tenant, day, slot } = slice;
    let mut granted = match granted_of(connection, slice).await? {
        Some(granted) => granted,
        None => {
            connection.execute(OPEN, &[&tenant, &day]).await?;
            granted_of(connection, slice).await?.unwrap_or(limit)
        }
    };
    let free = connection.query_opt(LOCK_SLICE, &[&tenant, &day, &slot]).await?;
    let mut held: i64 = free.map_or(Ok(0), |row| row.try_get("free")).map_err(Failure::Driver)?;
    if granted <= limit && held >= needed {
        return Ok(held);
    }
    if granted > limit || limit - granted < needed - held {
        take_back(connection, tenant, Some(day)).await?;
        granted = granted_of(connection, slice).await?.unwrap_or(limit);
        held = 0;
    }
    let left = (limit - granted).max(0);
    let grant = (needed - held).max((left / PART).min(LARGEST)).min(left);
    if grant > 0 {
        connection.execute(GRANT, &[&tenant, &day, &slot, &grant]).await?;
    }
    Ok(held + grant)
}

async fn granted_of(connection: &mut Connection, slice: Slice) -> Result<Option<i64>, Failure> {
    let row = connection.query_opt(LOCK_CENTRAL, &[&slice.tenant, &slice.day]).await?;
    row.map(|row| row.try_get("granted")).transpose().map_err(Failure::Driver)
}

/// Takes back what slices hold and have not used, of one day or of all: within a transaction. A node that was about to use
/// it is refused by [`NEVER_OVERDRAWN`] and asks again.
pub(super) async fn take_back(connection: &mut Connection, tenant: Uuid, day: Option<i32>) -> Result<(), Failure> {
    connection.query(LOCK_ALL, &[&tenant, &day]).await?;
    connection.execute(TAKE_BACK, &[&tenant, &day]).await?;
    Ok(())
}
