//! The queue: the verbs, and leases given back or taken away. Claims are in [`super::claim`], starts and outcomes in
//! [`super::settle`].

use async_trait::async_trait;
use raven_core::{Channel, EventKind, Seq, TenantId, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore, claim,
    rows::{self, code, get, optional_time, time},
    settle,
};
use crate::{Action, Claimed, Error, JobRecord, Lane, Lease, Queue, Reaped, Result, Settlement, Start, Started, Survey, Tried};

const RELEASE: &str = "UPDATE jobs SET epoch = NULL, attempt = CASE WHEN started_at IS NULL THEN attempt ELSE attempt - 1 END, \
     started_at = NULL, config_id = NULL WHERE seq = ANY ($2::bigint[]) AND epoch = $1";

const PARK: &str = "UPDATE jobs j SET epoch = NULL, config_id = NULL, parked = j.due_at, due_at = p.until \
     FROM unnest($2::bigint[], $3::bigint[]) AS p (seq, until) WHERE j.seq = ANY ($2) AND j.seq = p.seq AND j.epoch = $1 AND j.started_at IS NULL";
const UNPARK: &str = "UPDATE jobs SET due_at = parked, parked = NULL WHERE seq = ANY (ARRAY( \
     SELECT seq FROM jobs WHERE parked IS NOT NULL AND tenant_id = $1 AND channel = $2 ORDER BY parked, seq LIMIT $3 FOR UPDATE SKIP LOCKED))";
const LIST_PARKED: &str = "
WITH RECURSIVE place AS (
  SELECT $1::uuid AS tenant_id, $2::smallint AS channel, 0::bigint AS n
  UNION ALL
  SELECT next.tenant_id, next.channel, place.n + 1
  FROM place CROSS JOIN LATERAL (
    SELECT j.tenant_id, j.channel FROM jobs j WHERE j.parked IS NOT NULL AND (j.tenant_id, j.channel) > (place.tenant_id, place.channel)
    ORDER BY j.tenant_id, j.channel LIMIT 1
  ) next
  WHERE place.n < $3
)
SELECT tenant_id, channel FROM place WHERE n > 0 ORDER BY n";
const FIND_JOB: &str = "SELECT action, attempt, due_at, expires_at, epoch IS NOT NULL AS held, started_at, tried, parked IS NOT NULL AS waits \
     FROM jobs WHERE seq = $1 AND tenant_id = $2";

// No index tells what an epoch holds (it would cost each acceptance), so these look through the queue.
const RELEASE_UNSTARTED: &str =
    "UPDATE jobs SET epoch = NULL, config_id = NULL WHERE epoch = $1 AND started_at IS NULL AND seq <> ALL ($2::bigint[])";
const REAP: &str = "
WITH held AS MATERIALIZED (
  SELECT j.seq, j.tenant_id, j.attempt, j.started_at, COALESCE(t.retry_unknown, false) AS retry
  FROM (SELECT seq, tenant_id, attempt, started_at FROM jobs WHERE epoch = $1 ORDER BY seq LIMIT $4 FOR UPDATE SKIP LOCKED) j
  LEFT JOIN tenants t ON t.id = j.tenant_id
), event AS (
  INSERT INTO events (message_seq, tenant_id, kind, at, attempt, started_at)
  SELECT seq, tenant_id, 11, $2, attempt, started_at FROM held WHERE started_at IS NOT NULL
), freed AS (
  UPDATE jobs j SET
    epoch = NULL,
    started_at = NULL,
    config_id = CASE WHEN held.started_at IS NULL THEN j.config_id END,
    action = CASE WHEN held.started_at IS NULL THEN j.action WHEN held.retry THEN 1 ELSE 2 END,
    urgency = CASE WHEN held.started_at IS NOT NULL AND held.retry THEN ((j.urgency - 1) | 2) + 1 ELSE j.urgency END,
    due_at = CASE WHEN held.started_at IS NULL THEN j.due_at WHEN held.retry THEN $2 ELSE $3 END
  FROM held WHERE j.seq = ANY (ARRAY(SELECT seq FROM held)) AND j.seq = held.seq
)
SELECT count(*) FILTER (WHERE started_at IS NULL) AS released, count(started_at) AS unknown FROM held";

const _: () = assert!(Action::Send.code() == 1 && Action::GiveUp.code() == 2 && EventKind::OutcomeUnknown.code() == 11);

const SURVEY: &str = "
WITH stretch AS MATERIALIZED (
  SELECT seq, channel, COALESCE(parked, due_at) AS due_at, CASE WHEN epoch IS NOT NULL AND seq < $4 AND COALESCE(started_at, 0) < $5
    AND NOT EXISTS (SELECT FROM nodes n WHERE n.epoch = jobs.epoch) THEN epoch END AS lost
  FROM jobs WHERE seq > $1 ORDER BY seq LIMIT $2
)
SELECT channel, count(*) AS jobs, min(due_at) FILTER (WHERE due_at <= $3) AS oldest, max(seq) AS last,
  array_agg(DISTINCT lost) FILTER (WHERE lost IS NOT NULL) AS lost
FROM stretch GROUP BY channel ORDER BY channel";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[RELEASE, PARK, UNPARK, LIST_PARKED, FIND_JOB, RELEASE_UNSTARTED, REAP, SURVEY];

#[async_trait]
impl Queue for PostgresStore {
    async fn start(&self, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>> {
        settle::start(self, lease, starts, now).await
    }

    async fn settle(&self, lease: Lease, settlements: &[Settlement]) -> Result<()> {
        settle::settle(self, lease, settlements).await
    }

    async fn claim(&self, lease: Lease, limit: usize, per_lane: usize, skip: &[Lane], now: Timestamp) -> Result<Claimed> {
        claim::claim(self, lease, limit, per_lane, skip, now).await
    }

    async fn release(&self, lease: Lease, seqs: &[Seq]) -> Result<()> {
        if seqs.is_empty() {
            return Ok(());
        }
        let seqs: Vec<i64> = seqs.iter().map(|s| s.0).collect();
        self.connection().await?.execute(RELEASE, &[&lease.0, &seqs]).await?;
        self.worn.forget();
        Ok(())
    }

    async fn park(&self, lease: Lease, jobs: &[(Seq, Timestamp)]) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let (seqs, untils): (Vec<i64>, Vec<i64>) = jobs.iter().map(|(seq, until)| (seq.0, until.millis())).unzip();
        self.connection().await?.execute(PARK, &[&lease.0, &seqs, &untils]).await?;
        Ok(())
    }

    async fn unpark(&self, tenant: TenantId, channel: Channel, limit: usize) -> Result<usize> {
        let done = self.connection().await?.execute(UNPARK, &[&tenant.0, &channel.code(), &rows::limit(limit)]).await?;
        if done > 0 {
            self.worn.forget();
        }
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }

    async fn list_parked(&self, after: Option<(TenantId, Channel)>, limit: usize) -> Result<Vec<(TenantId, Channel)>> {
        let (tenant, channel) = after.map_or((Uuid::nil(), 0), |(tenant, channel)| (tenant.0, channel.code()));
        let found = self.connection().await?.query(LIST_PARKED, &[&tenant, &channel, &rows::limit(limit)]).await?;
        found.iter().map(|row| Ok((TenantId(get(row, "tenant_id")?), code(row, "channel", Channel::from_code)?))).collect()
    }

    async fn find_job(&self, tenant: TenantId, seq: Seq) -> Result<Option<JobRecord>> {
        let found = self.connection().await?.query_opt_within(tenant, FIND_JOB, &[&seq.0, &tenant.0]).await?;
        let record = |row: &Row| {
            Ok(JobRecord {
                action: code(row, "action", Action::from_code)?,
                attempt: get(row, "attempt")?,
                due_at: time(row, "due_at")?,
                expires_at: time(row, "expires_at")?,
                held: get(row, "held")?,
                started_at: optional_time(row, "started_at")?,
                tried: get::<Option<&str>>(row, "tried")?.map(Tried::parse),
                parked: get(row, "waits")?,
            })
        };
        found.as_ref().map(record).transpose()
    }

    async fn release_unstarted(&self, lease: Lease, except: &[Seq]) -> Result<usize> {
        let except: Vec<i64> = except.iter().map(|s| s.0).collect();
        let released = self.connection().await?.execute(RELEASE_UNSTARTED, &[&lease.0, &except]).await?;
        if released > 0 {
            self.worn.forget();
        }
        Ok(usize::try_from(released).unwrap_or(usize::MAX))
    }

    async fn reap(&self, lease: Lease, now: Timestamp, give_up_at: Timestamp, limit: usize) -> Result<Reaped> {
        let mut connection = self.connection().await?;
        let row = connection.query_opt(REAP, &[&lease.0, &now.millis(), &give_up_at.millis(), &rows::limit(limit)]).await?;
        let row = row.ok_or_else(|| Error::internal("a count gave no row"))?;
        let number = |column| get::<i64>(&row, column).map(|n| usize::try_from(n).unwrap_or(0));
        let reaped = Reaped { released: number("released")?, unknown: number("unknown")? };
        if reaped.released + reaped.unknown > 0 {
            self.worn.forget();
        }
        Ok(reaped)
    }

    async fn survey(&self, after: Option<Seq>, rows: usize, now: Timestamp, lost_before: Timestamp) -> Result<Survey> {
        let (after, first) = (after.map_or(-1, |seq| seq.0), Seq::first_at(lost_before.max(Timestamp::from_millis(0))).0);
        let found =
            self.connection().await?.query(SURVEY, &[&after, &rows::limit(rows), &now.millis(), &first, &lost_before.millis()]).await?;
        let (mut channels, mut lost, mut seen, mut last) = (Vec::new(), Vec::new(), 0, None);
        for row in &found {
            let jobs: i64 = get(row, "jobs")?;
            channels.push((code(row, "channel", Channel::from_code)?, jobs, optional_time(row, "oldest")?));
            seen += jobs;
            last = last.max(Some(Seq(get(row, "last")?)));
            for epoch in get::<Option<Vec<i64>>>(row, "lost")?.unwrap_or_default() {
                if !lost.contains(&Lease(epoch)) {
                    lost.push(Lease(epoch));
                }
            }
        }
        Ok(Survey::of(channels, lost, last.filter(|_| seen == rows::limit(rows))))
    }
}
