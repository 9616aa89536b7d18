//! Claims: which lanes have due jobs, by hops over the index of waiting jobs (one look-up a lane, however many jobs it
//! has), and the leasing of some of each. A claim that finds nothing due is one cheap read.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use raven_core::{Channel, Environment, TenantId, Timestamp, retry::RetryPolicy, tenant::TenantStatus};
use tokio::time::Instant;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Param},
    rows::{self, get, limit as limit_of, time},
    worn::Beginnings,
};
use crate::{Claimed, Job, Lane, Lease, Outlet, Result, Urgency};

/// The first waiting jobs that are due at a time or later. That none is due before 0 names the index to the planner. A tenant that is not
/// active holds its jobs.
const NEXT: &str = "
SELECT j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.due_at, EXISTS (SELECT FROM tenants t WHERE t.id = j.tenant_id AND t.status <> 1) AS held
FROM (SELECT tenant_id, environment, channel, urgency, outlet, due_at FROM jobs WHERE epoch IS NULL AND due_at >= 0 AND due_at >= $1 ORDER BY due_at LIMIT $2) j ORDER BY j.due_at";

/// The lanes after one and before a tenant, with the due time of their first job and that of the first one that is not due yet, and
/// whether their tenant holds them.
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
      AND j.tenant_id < $8
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

/// The same of known tenants: of lanes that are known, each from a due time on, and of those between them. (A row comparison would
/// do for their end too, but PostgreSQL doesn't stop at it as long as the first column is the same.)
const OF_TENANTS: &str = "
WITH RECURSIVE gap AS (
  SELECT g.tenant_id, g.environment, g.channel, g.urgency, f.outlet, f.due_at, g.until
  FROM unnest($8::uuid[], $9::smallint[], $10::smallint[], $11::smallint[], $12::integer[], $13::integer[])
    AS g (tenant_id, environment, channel, urgency, since, until)
  CROSS JOIN LATERAL (
    SELECT j.outlet, j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = g.tenant_id AND j.environment = g.environment AND j.channel = g.channel AND j.urgency = g.urgency
      AND j.outlet > g.since AND j.outlet < g.until
    ORDER BY j.outlet, j.due_at LIMIT 1
  ) f
  UNION ALL
  SELECT g.tenant_id, g.environment, g.channel, g.urgency, f.outlet, f.due_at, g.until
  FROM gap g CROSS JOIN LATERAL (
    SELECT j.outlet, j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = g.tenant_id AND j.environment = g.environment AND j.channel = g.channel AND j.urgency = g.urgency
      AND j.outlet > g.outlet AND j.outlet < g.until
    ORDER BY j.outlet, j.due_at LIMIT 1
  ) f
), lane AS (
  SELECT tenant_id, environment, channel, urgency, outlet, due_at FROM gap
  UNION ALL
  SELECT l.tenant_id, l.environment, l.channel, l.urgency, l.outlet, f.due_at
  FROM unnest($2::uuid[], $3::smallint[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bigint[])
    AS l (tenant_id, environment, channel, urgency, outlet, since)
  CROSS JOIN LATERAL (
    SELECT j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = l.tenant_id AND j.environment = l.environment AND j.channel = l.channel AND j.urgency = l.urgency
      AND j.outlet = l.outlet AND j.due_at >= l.since
    ORDER BY j.due_at LIMIT 1
  ) f
)
SELECT tenant_id, environment, channel, urgency, outlet, due_at, CASE WHEN due_at > $1 THEN due_at ELSE (
    SELECT j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = lane.tenant_id AND j.environment = lane.environment AND j.channel = lane.channel AND j.urgency = lane.urgency
      AND j.outlet = lane.outlet AND j.due_at > $1
    ORDER BY j.due_at LIMIT 1
  ) END AS later, EXISTS (SELECT FROM tenants t WHERE t.id = lane.tenant_id AND t.status <> 1) AS held
FROM lane ORDER BY tenant_id, environment, channel, urgency, outlet";

const _: () = assert!(TenantStatus::Active.code() == 1);

/// Leases due jobs of some lanes, each from and up to times of its own, round by round: the first of each, then the second of each.
/// What another node is leasing at the same moment is passed over.
const TAKE: &str = "
WITH locked AS MATERIALIZED (
  SELECT j.seq, j.due_at, l.n AS lane, row_number() OVER (PARTITION BY l.n ORDER BY j.due_at, j.seq) AS round
  FROM unnest($2::uuid[], $3::smallint[], $4::smallint[], $5::bigint[], $8::smallint[], $9::smallint[], $10::bigint[])
    WITH ORDINALITY AS l (tenant_id, environment, channel, until, urgency, outlet, since, n)
  CROSS JOIN LATERAL (
    SELECT j.seq, j.due_at FROM jobs j
    WHERE j.epoch IS NULL AND j.tenant_id = l.tenant_id AND j.environment = l.environment AND j.channel = l.channel AND j.urgency = l.urgency
      AND j.outlet = l.outlet AND j.due_at >= l.since AND j.due_at <= l.until
    ORDER BY j.due_at, j.seq LIMIT $6 FOR UPDATE SKIP LOCKED
  ) j
), chosen AS MATERIALIZED (
  SELECT * FROM locked ORDER BY round, lane LIMIT $7
), leased AS (
  UPDATE jobs j SET epoch = $1, parked = NULL FROM chosen c WHERE j.seq = ANY (ARRAY(SELECT seq FROM chosen)) AND j.seq = c.seq
  RETURNING j.seq, j.tenant_id, j.environment, j.channel, j.urgency, j.outlet, j.action, j.attempt, j.expires_at, j.tried, c.due_at, c.round, c.lane
)
SELECT l.seq, l.tenant_id, l.environment, l.channel, l.urgency, l.outlet, l.action, l.attempt, l.expires_at, l.tried, l.due_at, m.recipient, COALESCE(c.content, m.content) AS content
FROM leased l
LEFT JOIN LATERAL (SELECT recipient, content, large FROM messages WHERE seq = l.seq LIMIT 1) m ON true
LEFT JOIN LATERAL (SELECT content FROM contents WHERE m.large AND seq = l.seq LIMIT 1) c ON true
ORDER BY l.round, l.lane";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[NEXT, LANES, OF_TENANTS, TAKE];

/// Waiting jobs that one look takes in: the lanes of the first ones may all be skipped.
const SAMPLE: i64 = 32;
/// Lanes that one read hops over.
const HOPS: i64 = 128;
/// Lanes that one claim hops over. The next one goes on where this one stopped.
const MOST_LANES: usize = 4096;

/// What a walk over the lanes found.
#[derive(Default)]
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
    let (from, begun) = (store.worn.beginnings(now), Instant::now());
    let after = *store.last_lane.lock();
    let (first, walk) = match find(&mut connection, &from, after, &skip, limit, now).await {
        Ok(found) => found,
        Err(e) => {
            store.worn.failed(&from, begun.elapsed());
            return Err(e);
        }
    };
    store.worn.looked(&from, first, begun.elapsed());
    let Some(walk) = walk else { return Ok(Claimed::default()) };
    let mut jobs = Vec::new();
    if !walk.due.is_empty() && per_lane > 0 {
        let taken = take(&mut connection, lease, &from, &walk.due, limit, per_lane).await?;
        store.worn.took(taken.iter().map(|(job, due)| (job.lane, *due)));
        jobs = taken.into_iter().map(|(job, _)| job).collect();
    }
    if let Some(last) = jobs.last().map(|job: &Job| job.lane).or(if walk.complete { None } else { walk.last }) {
        *store.last_lane.lock() = Some(last);
    }
    let mut next_due = walk.next_due;
    if !walk.complete
        && let (Look::At(due), _) = look(&mut connection, &skip, now.millis().saturating_add(1), now).await?
    {
        next_due = Some(next_due.map_or(due, |seen| seen.min(due)));
    }
    Ok(Claimed { jobs, next_due })
}

/// Finds lanes with due jobs, unless there are none at all; and tells when the first waiting job is due.
async fn find(
    connection: &mut Connection,
    from: &Beginnings,
    after: Option<Lane>,
    skip: &HashSet<Lane>,
    limit: usize,
    now: Timestamp,
) -> Result<(Option<i64>, Option<Walk>)> {
    let (look, first) = look(connection, skip, from.first, now).await?;
    let walk = match look {
        Look::Nothing => None,
        Look::At(due) if due > now => Some(Walk { next_due: Some(due), complete: true, ..Walk::default() }),
        Look::At(_) | Look::Unclear => Some(walk(connection, from, after, skip, limit, now).await?),
    };
    Ok((first, walk))
}

/// The first waiting job of a lane that isn't skipped, as far as a look at the first ones tells.
enum Look {
    Nothing,
    At(Timestamp),
    Unclear,
}

/// A look at the first jobs that are due at `since` or later, and when the first of all is due.
async fn look(connection: &mut Connection, skip: &HashSet<Lane>, since: i64, now: Timestamp) -> Result<(Look, Option<i64>)> {
    let rows = connection.query(NEXT, &[&since, &SAMPLE]).await?;
    let first = rows.first().map(|row| get(row, "due_at")).transpose()?;
    for row in &rows {
        let lane = rows::lane(row)?;
        let due_at = time(row, "due_at")?;
        if skip.contains(&lane) || get(row, "held")? && due_at > held_until(lane, now) {
            continue;
        }
        return Ok((Look::At(due_at), first));
    }
    Ok((if limit_of(rows.len()) < SAMPLE { Look::Nothing } else { Look::Unclear }, first))
}

/// What of a lane whose tenant is not active counts as due: what must have expired meanwhile, and is only to be told so.
fn held_until(lane: Lane, now: Timestamp) -> Timestamp {
    now.before(RetryPolicy::of(lane.channel).max_age)
}

/// A lane with waiting jobs.
#[derive(Clone, Copy)]
struct Found {
    lane: Lane,
    due_at: Timestamp,
    /// When the first of them that isn't due yet will be.
    later: Option<Timestamp>,
    /// Its tenant holds them.
    held: bool,
}

impl Found {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            lane: rows::lane(row)?,
            due_at: time(row, "due_at")?,
            later: rows::optional_time(row, "later")?,
            held: get(row, "held")?,
        })
    }
}

/// A place in the order of lanes.
type Place = (Uuid, i16, i16, i16, i16);

/// Before all lanes, as no environment has code 0.
const BEFORE_ALL: Place = (Uuid::nil(), 0, 0, 0, 0);

const fn place(lane: Lane) -> Place {
    (lane.tenant.0, lane.environment.code(), lane.channel.code(), lane.urgency.code(), lane.outlet.0)
}

/// Hops over the lanes after `after`, then over those before it, until `most` with due jobs are found.
async fn walk(
    connection: &mut Connection,
    beginnings: &Beginnings,
    after: Option<Lane>,
    skip: &HashSet<Lane>,
    most: usize,
    now: Timestamp,
) -> Result<Walk> {
    let mut walk = Walk::default();
    let known = of_tenants(connection, &beginnings.lanes, now).await?;
    let is_behind = |at: Place| after.is_some_and(|after| at > place(after));
    let (mut from, mut wrapped, mut seen) = (after.map_or(BEFORE_ALL, place), after.is_none(), 0);
    while walk.due.len() < most && seen < MOST_LANES {
        let (found, reached) = match known.get(&from.0) {
            // What is known of a tenant is not hopped over: that would go over what is gone.
            Some(lanes) if from.1 < i16::MAX => {
                (lanes.iter().filter(|found| place(found.lane) > from).copied().collect(), Some((from.0, i16::MAX, 0, 0, 0)))
            }
            _ => {
                let until = known.range((Bound::Excluded(from.0), Bound::Unbounded)).next().map(|(tenant, _)| *tenant);
                let found = hop(connection, from, until.unwrap_or(Uuid::max()), now).await?;
                let ends = limit_of(found.len()) < HOPS;
                let reached = if ends { until.map(|tenant| (tenant, 0, 0, 0, 0)) } else { found.last().map(|found| place(found.lane)) };
                (found, reached)
            }
        };
        for Found { lane, due_at, later, held } in found {
            if wrapped && is_behind(place(lane)) {
                walk.complete = true;
                return Ok(walk);
            }
            walk.last = Some(lane);
            seen += 1;
            if skip.contains(&lane) {
                continue;
            }
            let until = if held { held_until(lane, now) } else { now };
            if !held {
                walk.next_due = walk.next_due.into_iter().chain(later).min();
            }
            if due_at <= until {
                walk.due.push((lane, until));
                if walk.due.len() == most {
                    return Ok(walk);
                }
            }
        }
        match reached {
            Some(reached) if !(wrapped && is_behind(reached)) => from = reached,
            _ if wrapped => {
                walk.complete = true;
                return Ok(walk);
            }
            _ => (from, wrapped) = (BEFORE_ALL, true),
        }
    }
    Ok(walk)
}

async fn hop(connection: &mut Connection, from: Place, until: Uuid, now: Timestamp) -> Result<Vec<Found>> {
    let (tenant, environment, channel, urgency, outlet) = from;
    let params: [Param<'_>; 8] = [&tenant, &environment, &channel, &HOPS, &now.millis(), &urgency, &outlet, &until];
    connection.query(LANES, &params).await?.iter().map(Found::read).collect()
}

/// The lanes with jobs waiting of all tenants of these lanes, by tenant and in order.
async fn of_tenants(connection: &mut Connection, lanes: &[(Lane, i64)], now: Timestamp) -> Result<BTreeMap<Uuid, Vec<Found>>> {
    let mut known: BTreeMap<Uuid, Vec<Found>> = lanes.iter().map(|(lane, _)| (lane.tenant.0, Vec::new())).collect();
    if known.is_empty() {
        return Ok(known);
    }
    let gaps = gaps(lanes);
    let params: [Param<'_>; 13] = [
        &now.millis(),
        &lanes.iter().map(|(lane, _)| lane.tenant.0).collect::<Vec<_>>(),
        &lanes.iter().map(|(lane, _)| lane.environment.code()).collect::<Vec<_>>(),
        &lanes.iter().map(|(lane, _)| lane.channel.code()).collect::<Vec<_>>(),
        &lanes.iter().map(|(lane, _)| lane.urgency.code()).collect::<Vec<_>>(),
        &lanes.iter().map(|(lane, _)| lane.outlet.0).collect::<Vec<_>>(),
        &lanes.iter().map(|(_, since)| *since).collect::<Vec<_>>(),
        &gaps.iter().map(|(of, ..)| of.tenant.0).collect::<Vec<_>>(),
        &gaps.iter().map(|(of, ..)| of.environment.code()).collect::<Vec<_>>(),
        &gaps.iter().map(|(of, ..)| of.channel.code()).collect::<Vec<_>>(),
        &gaps.iter().map(|(of, ..)| of.urgency.code()).collect::<Vec<_>>(),
        &gaps.iter().map(|(_, since, _)| *since).collect::<Vec<_>>(),
        &gaps.iter().map(|(.., until)| *until).collect::<Vec<_>>(),
    ];
    for row in &connection.query(OF_TENANTS, &params).await? {
        let found = Found::read(row)?;
        known.entry(found.lane.tenant.0).or_default().push(found);
    }
    Ok(known)
}

/// What is between these lanes, which are in order, of all that their tenants may have: outlets after and before one, of lanes that are
/// alike but for it.
fn gaps(lanes: &[(Lane, i64)]) -> Vec<(Lane, i32, i32)> {
    let (before, behind) = (i32::from(i16::MIN) - 1, i32::from(i16::MAX) + 1);
    let mut tenants: Vec<TenantId> = lanes.iter().map(|(lane, _)| lane.tenant).collect();
    tenants.dedup();
    let mut gaps = Vec::new();
    for tenant in tenants {
        for environment in Environment::ALL.iter().copied() {
            for channel in Channel::ALL.iter().copied() {
                for urgency in Urgency::ALL {
                    let of = Lane { tenant, environment, channel, urgency, outlet: Outlet::NONE };
                    let mut since = before;
                    for (lane, _) in lanes.iter().filter(|(lane, _)| Lane { outlet: Outlet::NONE, ..*lane } == of) {
                        gaps.push((of, since, i32::from(lane.outlet.0)));
                        since = i32::from(lane.outlet.0);
                    }
                    gaps.push((of, since, behind));
                }
            }
        }
    }
    gaps
}

/// Leases jobs of lanes; with when each was due.
async fn take(
    connection: &mut Connection,
    lease: Lease,
    beginnings: &Beginnings,
    lanes: &[(Lane, Timestamp)],
    most: usize,
    per_lane: usize,
) -> Result<Vec<(Job, i64)>> {
    let tenants: Vec<Uuid> = lanes.iter().map(|(lane, _)| lane.tenant.0).collect();
    let environments: Vec<i16> = lanes.iter().map(|(lane, _)| lane.environment.code()).collect();
    let channels: Vec<i16> = lanes.iter().map(|(lane, _)| lane.channel.code()).collect();
    let urgencies: Vec<i16> = lanes.iter().map(|(lane, _)| lane.urgency.code()).collect();
    let outlets: Vec<i16> = lanes.iter().map(|(lane, _)| lane.outlet.0).collect();
    let sinces: Vec<i64> = lanes.iter().map(|(lane, _)| beginnings.of(*lane)).collect();
    let untils: Vec<i64> = lanes.iter().map(|(_, until)| until.millis()).collect();
    // Each of the other lanes gives one at least, so more than this can't be taken of any.
    let each = per_lane.min(most.saturating_sub(lanes.len() - 1).max(1));
    let params: [Param<'_>; 10] =
        [&lease.0, &tenants, &environments, &channels, &untils, &limit_of(each), &limit_of(most), &urgencies, &outlets, &sinces];
    let rows = connection.query(TAKE, &params).await?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in &rows {
        if get::<Option<&str>>(row, "recipient")?.is_none() {
            tracing::error!(seq = get::<i64>(row, "seq")?, "a job has no message");
            continue;
        }
        jobs.push((rows::job(row)?, get(row, "due_at")?));
    }
    Ok(jobs)
}
