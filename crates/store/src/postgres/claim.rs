//! Claims: which lanes have due jobs, by hops over the index of waiting jobs (one look-up a lane, however many jobs it
//! has), and the leasing of some of each. A claim that finds nothing due is one cheap read.

use std::collections::HashSet;

use raven_core::{Timestamp, retry::RetryPolicy, tenant::TenantStatus};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::Connection,
    rows::{self, get, limit as limit_of, time},
};
use crate::{Claimed, Job, Lane, Lease, Result};

/// The first waiting jobs that are due after a time. A tenant that is not active holds its jobs.
const NEXT: &str = "
SELECT j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.due_at, EXISTS (SELECT FROM tenants t WHERE t.id = j.tenant_id AND t.status <> 1) AS held
FROM (SELECT tenant_id, environment, channel, urgency, outlet, due_at FROM jobs WHERE epoch IS NULL AND due_at > $1 ORDER BY due_at LIMIT $2) j ORDER BY j.due_at";

/// The lanes after one, with the due time of their first job and that of the first one that is not due yet, and whether their
/// tenant holds them.
const LANES: &str = "
WITH RECURSIVE lane AS (
  SELECT $1::uuid AS tenant_id, $2::smallint AS environment, $3::smallint AS channel, $6::smallint AS urgency, $7::smallint AS outlet,
    NULL::bigint AS due_at, 0::bigint AS n
  UNION ALL
  SELECT next.tenant_id, next.environment, next.channel, next.urgency, next.outlet, next.due_at, lane.n + 1
  FROM lane CROSS JOIN LATERAL (
    SELECT j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.due_at FROM jobs j
    WHERE j.epoch IS NULL
      AND (j.tenant_id, j.environment, j.channel, j.urgency, j.outlet) > (lane.tenant_id, lane.environment, lane.channel, lane.urgency, lane.outlet)
    ORDER BY j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.due_at LIMIT 1
  ) next
  WHERE lane.n < $4
)
SELECT tenant_id, environment, channel, urgency, outlet, due_at, CASE WHEN due_at > $5 THEN due_at ELSE (
    SELECT j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = lane.tenant_id AND j.environment = lane.environment AND j.channel = lane.channel AND j.urgency = lane.urgency
      AND j.outlet = lane.outlet AND j.due_at > $5
    ORDER BY j.due_at LIMIT 1
  ) END AS later, EXISTS (SELECT FROM tenants t WHERE t.id = lane.tenant_id AND t.status <> 1) AS held
FROM lane WHERE n > 0 ORDER BY n";

const _: () = assert!(TenantStatus::Active.code() == 1);

/// Leases due jobs of some lanes, each up to a time of its own, round by round: the first of each, then the second of each. What another node is leasing
/// at the same moment is passed over.
const TAKE: &str = "
WITH locked AS MATERIALIZED (
  SELECT j.seq, l.n AS lane, row_number() OVER (PARTITION BY l.n ORDER BY j.due_at, j.seq) AS round
  FROM unnest($2::uuid[], $3::smallint[], $4::smallint[], $5::bigint[], $8::smallint[], $9::smallint[])
    WITH ORDINALITY AS l (tenant_id, environment, channel, until, urgency, outlet, n)
  CROSS JOIN LATERAL (
    SELECT j.seq, j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = l.tenant_id AND j.environment = l.environment AND j.channel = l.channel AND j.urgency = l.urgency
      AND j.outlet = l.outlet AND j.due_at <= l.until
    ORDER BY j.due_at, j.seq LIMIT $6 FOR UPDATE SKIP LOCKED
  ) j
), chosen AS MATERIALIZED (
  SELECT * FROM locked ORDER BY round, lane LIMIT $7
), leased AS (
  UPDATE jobs j SET epoch = $1, parked = NULL FROM chosen c WHERE j.seq = ANY (ARRAY(SELECT seq FROM chosen)) AND j.seq = c.seq
  RETURNING j.seq, j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.action, j.attempt, j.expires_at, j.tried, c.round, c.lane
)
SELECT l.seq, l.tenant_id, l.environment, l.channel, l.urgency, l.outlet, l.action, l.attempt, l.expires_at, l.tried, m.recipient, COALESCE(c.content, m.content) AS content
FROM leased l
LEFT JOIN LATERAL (SELECT recipient, content, large FROM messages WHERE seq = l.seq LIMIT 1) m ON true
LEFT JOIN LATERAL (SELECT content FROM contents WHERE m.large AND seq = l.seq LIMIT 1) c ON true
ORDER BY l.round, l.lane";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[NEXT, LANES, TAKE];

/// Waiting jobs that one look takes in: the lanes of the first ones may all be skipped.
const SAMPLE: i64 = 32;
/// Lanes that one read hops over.
const HOPS: i64 = 128;
/// Lanes that one claim hops over. The next one goes on where this one stopped.
const MOST_LANES: usize = 4096;

/// What a walk over the lanes found.
struct Walk {
    /// Lanes with due jobs, beginning after the last claim's, and up to when their jobs count as due.
    due: Vec<(Lane, Timestamp)>,
    /// When the first job that isn't due yet will be.
    next_due: Option<Timestamp>,
    /// The last lane that was looked at.
    last: Option<Lane>,
    /// Has every lane been looked at?
    complete: bool,
}

/// See [`Queue::claim`](crate::Queue::claim).
pub(super) async fn claim(
    store: &PostgresStore,
    lease: Lease,
    limit: usize,
    per_lane: usize,
    skip: &[Lane],
    now: Timestamp,
) -> Result<Claimed> {
    let skip: HashSet<Lane> = skip.iter().copied().collect();
    let mut connection = store.connection().await?;
    let first = look(&mut connection, &skip, i64::MIN, now).await?;
    match first {
        Look::Nothing => return Ok(Claimed::default()),
        Look::At(due) if due > now => return Ok(Claimed { jobs: Vec::new(), next_due: Some(due) }),
        Look::At(_) | Look::Unclear => {}
    }
    let after = *store.last_lane.lock();
    let walk = walk(&mut connection, after, &skip, limit, now).await?;
    let jobs =
        if walk.due.is_empty() || per_lane == 0 { Vec::new() } else { take(&mut connection, lease, &walk.due, limit, per_lane).await? };
    if let Some(last) = jobs.last().map(|job| job.lane).or(if walk.complete { None } else { walk.last }) {
        *store.last_lane.lock() = Some(last);
    }
    let mut next_due = walk.next_due;
    if !walk.complete
        && let Look::At(due) = look(&mut connection, &skip, now.millis(), now).await?
    {
        next_due = Some(next_due.map_or(due, |seen| seen.min(due)));
    }
    Ok(Claimed { jobs, next_due })
}

/// The first waiting job of a lane that isn't skipped, as far as a look at the first ones tells.
enum Look {
    Nothing,
    At(Timestamp),
    Unclear,
}

async fn look(connection: &mut Connection, skip: &HashSet<Lane>, after: i64, now: Timestamp) -> Result<Look> {
    let rows = connection.query(NEXT, &[&after, &SAMPLE]).await?;
    for row in &rows {
        let lane = rows::lane(row)?;
        let due_at = time(row, "due_at")?;
        if skip.contains(&lane) || get(row, "held")? && due_at > held_until(lane, now) {
            continue;
        }
        return Ok(Look::At(due_at));
    }
    Ok(if limit_of(rows.len()) < SAMPLE { Look::Nothing } else { Look::Unclear })
}

/// What of a lane whose tenant is not active counts as due: what must have expired meanwhile, and is only to be told so.
fn held_until(lane: Lane, now: Timestamp) -> Timestamp {
    now.before(RetryPolicy::of(lane.channel).max_age)
}

/// Hops over the lanes after `after`, then over those before it, until `most` with due jobs are found.
async fn walk(connection: &mut Connection, after: Option<Lane>, skip: &HashSet<Lane>, most: usize, now: Timestamp) -> Result<Walk> {
    let mut walk = Walk { due: Vec::new(), next_due: None, last: None, complete: false };
    let (mut from, mut wrapped, mut seen) = (after, after.is_none(), 0);
    while walk.due.len() < most && seen < MOST_LANES {
        let rows = hop(connection, from, now).await?;
        for row in &rows {
            let lane = rows::lane(row)?;
            if wrapped && after.is_some_and(|after| lane > after) {
                walk.complete = true;
                return Ok(walk);
            }
            (from, walk.last) = (Some(lane), Some(lane));
            seen += 1;
            if skip.contains(&lane) {
                continue;
            }
            let held = get(row, "held")?;
            let until = if held { held_until(lane, now) } else { now };
            if !held {
                walk.next_due = walk.next_due.into_iter().chain(rows::optional_time(row, "later")?).min();
            }
            if time(row, "due_at")? <= until {
                walk.due.push((lane, until));
                if walk.due.len() == most {
                    return Ok(walk);
                }
            }
        }
        if limit_of(rows.len()) < HOPS {
            if wrapped {
                walk.complete = true;
                return Ok(walk);
            }
            (from, wrapped) = (None, true);
        }
    }
    Ok(walk)
}

async fn hop(connection: &mut Connection, from: Option<Lane>, now: Timestamp) -> Result<Vec<Row>> {
    // No environment has code 0, so every lane comes after this.
    let (tenant, environment, channel, urgency, outlet) =
        from.map_or((Uuid::nil(), 0, 0, 0, 0), |l| (l.tenant.0, l.environment.code(), l.channel.code(), l.urgency.code(), l.outlet.0));
    Ok(connection.query(LANES, &[&tenant, &environment, &channel, &HOPS, &now.millis(), &urgency, &outlet]).await?)
}

async fn take(connection: &mut Connection, lease: Lease, lanes: &[(Lane, Timestamp)], most: usize, per_lane: usize) -> Result<Vec<Job>> {
    let tenants: Vec<Uuid> = lanes.iter().map(|(lane, _)| lane.tenant.0).collect();
    let environments: Vec<i16> = lanes.iter().map(|(lane, _)| lane.environment.code()).collect();
    let channels: Vec<i16> = lanes.iter().map(|(lane, _)| lane.channel.code()).collect();
    let urgencies: Vec<i16> = lanes.iter().map(|(lane, _)| lane.urgency.code()).collect();
    let outlets: Vec<i16> = lanes.iter().map(|(lane, _)| lane.outlet.0).collect();
    let untils: Vec<i64> = lanes.iter().map(|(_, until)| until.millis()).collect();
    // Each of the other lanes gives one at least, so more than this can't be taken of any.
    let each = per_lane.min(most.saturating_sub(lanes.len() - 1).max(1));
    let rows = connection
        .query(TAKE, &[&lease.0, &tenants, &environments, &channels, &untils, &limit_of(each), &limit_of(most), &urgencies, &outlets])
        .await?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in &rows {
        if get::<Option<&str>>(row, "recipient")?.is_none() {
            tracing::error!(seq = get::<i64>(row, "seq")?, "a job has no message");
            continue;
        }
        jobs.push(rows::job(row)?);
    }
    Ok(jobs)
}
