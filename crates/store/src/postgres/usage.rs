//! What tenants used. The counters are written by acceptance and settling ([`super::accept`], [`super::settle`]), each node
//! in rows of its own; they are summed up here.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use raven_core::{Channel, Day, Environment, KeyId, Status, TenantId};
use uuid::Uuid;

use super::{
    PostgresStore,
    rows::{code, get, limit as limit_of},
};
use crate::{Error, Result, Usage, Usages, usage::Sums};

// Both counts in one round trip: a row has either a key or a status.
const USAGE: &str = "
SELECT day, channel, key_id, NULL::smallint AS status, sum(messages)::bigint AS messages, sum(suppressed)::bigint AS suppressed FROM usage_accepted
WHERE tenant_id = $1 AND day BETWEEN $2 AND $3 AND ($4::smallint IS NULL OR environment = $4) GROUP BY day, channel, key_id
UNION ALL
SELECT day, channel, NULL::uuid, status, sum(messages)::bigint, 0 FROM usage_outcomes
WHERE tenant_id = $1 AND day BETWEEN $2 AND $3 AND ($4::smallint IS NULL OR environment = $4) GROUP BY day, channel, status";
const QUOTA_USED: &str = "SELECT COALESCE(sum(used), 0)::bigint AS used FROM quotas WHERE tenant_id = $1 AND day = $2";
// Neither table has an index for this: they hold a few rows for each tenant and key, and this runs now and then.
const PURGE_QUOTAS: &str =
    "DELETE FROM quotas WHERE (tenant_id, day, slot) IN (SELECT tenant_id, day, slot FROM quotas WHERE day < $1 LIMIT $2)";
const PURGE_LIMITS: &str = "DELETE FROM rate_limits WHERE bucket IN (SELECT bucket FROM rate_limits WHERE tat < $1 LIMIT $2) AND tat < $1";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[USAGE, QUOTA_USED, PURGE_QUOTAS, PURGE_LIMITS];

/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;

#[async_trait]
impl Usages for PostgresStore {
    async fn usage(&self, tenant: TenantId, environment: Option<Environment>, days: RangeInclusive<Day>) -> Result<Usage> {
        let (first, last) = (days.start().0, days.end().0);
        let environment = environment.map(Environment::code);
        let mut sums = Sums::default();
        for row in self.connection().await?.query_within(tenant, USAGE, &[&tenant.0, &first, &last, &environment]).await? {
            let (day, channel, messages) = (Day(get(&row, "day")?), code(&row, "channel", Channel::from_code)?, get(&row, "messages")?);
            if let Some(key) = get::<Option<Uuid>>(&row, "key_id")? {
                let key = (!key.is_nil()).then_some(KeyId(key));
                sums.accept(day, channel, key, messages, get(&row, "suppressed")?);
            } else {
                sums.reach(day, channel, code(&row, "status", Status::from_code)?, messages);
            }
        }
        Ok(sums.usage())
    }

    async fn quota_used(&self, tenant: TenantId, day: Day) -> Result<i64> {
        let row = self.connection().await?.query_opt_within(tenant, QUOTA_USED, &[&tenant.0, &day.0]).await?;
        row.map_or_else(|| Err(Error::internal("a sum gave no row")), |row| get(&row, "used"))
    }

    async fn purge_counters(&self, day: Day, limit: usize) -> Result<usize> {
        let mut connection = self.connection().await?;
        let full_since = day.start().millis().saturating_mul(NANOS);
        let quotas = connection.execute(PURGE_QUOTAS, &[&day.0, &limit_of(limit)]).await?;
        let limits = connection.execute(PURGE_LIMITS, &[&full_since, &limit_of(limit)]).await?;
        Ok(usize::try_from(quotas + limits).unwrap_or(usize::MAX))
    }
}
