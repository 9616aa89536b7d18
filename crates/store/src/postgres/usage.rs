//! What tenants used. The counters are written by acceptance and settling ([`super::accept`], [`super::settle`]), each node
//! in rows of its own ([`super::parts`]); they are summed up here.

use std::{collections::HashSet, ops::RangeInclusive};

use async_trait::async_trait;
use raven_core::{Channel, Day, Environment, KeyId, Seq, Status, TenantId};
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Failure},
    parts::{self, Parts},
    quota::Slice,
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

const LOOK_AT_ACCEPTED: &str = "SELECT (ctid::text::point)[0]::bigint AS block FROM usage_accepted \
     WHERE tenant_id = $1 AND day = $2 AND environment = $3 AND channel = $4 AND key_id = $5 AND slot = $6";
// Outcomes don't tell environment and channel; the row that counted most is the one that the next batch most likely meets.
const LOOK_AT_OUTCOMES: &str = "SELECT environment, channel, (ctid::text::point)[0]::bigint AS block FROM usage_outcomes \
     WHERE tenant_id = $1 AND day = $2 AND environment = ANY ($3::smallint[]) AND channel = ANY ($4::smallint[]) AND status = $5 AND slot = $6 \
     ORDER BY messages DESC, environment, channel LIMIT 1";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[USAGE, QUOTA_USED, PURGE_QUOTAS, PURGE_LIMITS, LOOK_AT_ACCEPTED, LOOK_AT_OUTCOMES];

/// A row that accepted messages are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AcceptedRow {
    pub(super) slice: Slice,
    pub(super) environment: i16,
    pub(super) channel: i16,
    pub(super) key: Uuid,
}

/// A row that messages with an outcome are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutcomeRow {
    day: i32,
    environment: i16,
    channel: i16,
    status: i16,
    slot: i32,
}

/// Notes what a batch of acceptance counted, and looks where the rows of busy tenants are now. What fails is for the next batch.
pub(super) async fn look_at_accepted(parts: &Parts<AcceptedRow>, connection: &mut Connection, counted: impl Iterator<Item = AcceptedRow>) {
    let mut seen = HashSet::new();
    for row in counted.filter(|row| seen.insert(row.slice.tenant)) {
        let Slice { tenant, day, slot } = row.slice;
        if !parts.counted(tenant) {
            continue;
        }
        let found = connection.query_opt(LOOK_AT_ACCEPTED, &[&tenant, &day, &row.environment, &row.channel, &row.key, &slot]).await;
        match found.and_then(|found| found.map(|found| found.try_get("block")).transpose().map_err(Failure::Driver)) {
            Ok(Some(block)) => parts.saw(tenant, row, block),
            Ok(None) => {}
            Err(error) => tracing::debug!(error = ?error, "could not look where a counter is"),
        }
    }
}

/// The same of messages that rose to a status.
pub(super) async fn look_at_outcomes(
    parts: &Parts<OutcomeRow>,
    connection: &mut Connection,
    counted: impl Iterator<Item = (Uuid, Seq, Status)>,
) {
    let mut seen = HashSet::new();
    for (tenant, seq, status) in counted.filter(|(tenant, ..)| seen.insert(*tenant)) {
        if !parts.counted(tenant) {
            continue;
        }
        let slot = parts::slot(seq.slot(), parts.number(tenant));
        match outcome_row(connection, tenant, seq.at().day(), status, slot).await {
            Ok(Some((row, block))) => parts.saw(tenant, row, block),
            Ok(None) => {}
            Err(error) => tracing::debug!(error = ?error, "could not look where a counter is"),
        }
    }
}

async fn outcome_row(
    connection: &mut Connection,
    tenant: Uuid,
    Day(day): Day,
    status: Status,
    slot: i32,
) -> Result<Option<(OutcomeRow, i64)>, Failure> {
    let environments: Vec<i16> = Environment::ALL.iter().map(|e| e.code()).collect();
    let channels: Vec<i16> = Channel::ALL.iter().map(|c| c.code()).collect();
    let status = status.code();
    let Some(row) = connection.query_opt(LOOK_AT_OUTCOMES, &[&tenant, &day, &environments, &channels, &status, &slot]).await? else {
        return Ok(None);
    };
    let number = |column| row.try_get(column).map_err(Failure::Driver);
    let counter = OutcomeRow { day, environment: number("environment")?, channel: number("channel")?, status, slot };
    Ok(Some((counter, row.try_get("block").map_err(Failure::Driver)?)))
}

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
