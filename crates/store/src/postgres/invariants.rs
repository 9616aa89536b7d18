//! Invariants: each stretch is one statement, so one snapshot. What is mended is looked at again behind a lock.
//!
//! A page of rows is chosen first, and what is around each of them is looked up by its key (`LATERAL … LIMIT`): no plan reads
//! more of the large tables than the page asks for, however many rows the planner expects.

use async_trait::async_trait;
use raven_core::{Channel, Day, Environment, EventKind, Seq, Status, TenantId, Timestamp, retry::RetryPolicy, tenant::TenantStatus};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Param},
    rows::{code, get, limit as limit_of, optional_time, time},
};
use crate::{
    Action, Result,
    invariants::{
        Checked, CounterFacts, Invariants, JobFacts, Kind, Line, Margins, MessageFacts, Range, RecordKey, Subject, Violation, is_vain,
        remedy,
    },
};

const JOBS: &str = "
WITH page AS MATERIALIZED (
  SELECT seq, tenant_id, action, due_at, epoch, started_at FROM jobs WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3
)
SELECT p.seq, p.action, p.due_at, p.epoch, p.started_at, m.status AS message_status,
  COALESCE(m.status = 30 AND EXISTS (SELECT FROM events e WHERE e.message_seq = p.seq AND e.kind = 10 AND e.report IS NOT NULL), false)
    AS is_resent, n.beat_at, t.status AS tenant_status
FROM page p
LEFT JOIN LATERAL (SELECT m.status FROM messages m WHERE m.seq = p.seq AND m.seq > $1 AND m.seq <= $2 LIMIT 1) m ON true
LEFT JOIN LATERAL (SELECT n.beat_at FROM nodes n WHERE n.epoch = p.epoch LIMIT 1) n ON true
LEFT JOIN LATERAL (SELECT t.status FROM tenants t WHERE t.id = p.tenant_id LIMIT 1) t ON true
ORDER BY p.seq";

/// Lines of a timeline that are read: a message has a few, unless something went very wrong with it.
const LINES_OF_EACH: i64 = 200;

const MESSAGES: &str = "
WITH page AS MATERIALIZED (
  SELECT seq, environment, status FROM messages WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3
)
SELECT p.seq, p.environment, p.status, j.attempt AS job_attempt, e.kind, e.at, e.attempt, e.started_at
FROM page p
LEFT JOIN LATERAL (SELECT j.attempt FROM jobs j WHERE j.seq = p.seq LIMIT 1) j ON true
LEFT JOIN LATERAL (SELECT e.n, e.kind, e.at, e.attempt, e.started_at FROM events e
  WHERE e.message_seq = p.seq AND e.message_seq > $1 AND e.message_seq <= $2 AND e.report IS NULL ORDER BY e.n LIMIT $4) e ON true
ORDER BY p.seq, e.n";

const RECORDS: &str = "
WITH page AS MATERIALIZED (
  SELECT owner_id, environment, operation, key, message_seq FROM idempotency WHERE (owner_id, environment, operation, key) > ($1, $2, $3, $4)
  ORDER BY owner_id, environment, operation, key LIMIT $5
)
SELECT p.owner_id, p.environment, p.operation, p.key, p.message_seq, m.seq AS there, t.status AS tenant_status
FROM page p
LEFT JOIN LATERAL (SELECT m.seq FROM messages m WHERE m.seq = p.message_seq LIMIT 1) m ON true
LEFT JOIN LATERAL (SELECT t.status FROM tenants t WHERE t.id = p.owner_id LIMIT 1) t ON true
ORDER BY p.owner_id, p.environment, p.operation, p.key";

const COUNTERS: &str = "
WITH page AS MATERIALIZED (SELECT id, status FROM tenants WHERE id > $1 ORDER BY id LIMIT $2)
SELECT p.id, p.status, q.centrals, q.central_granted, q.central_used, q.slices, q.slices_granted, q.slices_used, q.overdrawn,
  a.live, a.test, a.suppressed, l.there AS live_there, s.there AS test_there
FROM page p
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE slot < 0) AS centrals,
    COALESCE(sum(granted) FILTER (WHERE slot < 0), 0)::bigint AS central_granted,
    COALESCE(sum(used) FILTER (WHERE slot < 0), 0)::bigint AS central_used,
    count(*) FILTER (WHERE slot >= 0) AS slices,
    COALESCE(sum(granted) FILTER (WHERE slot >= 0), 0)::bigint AS slices_granted,
    COALESCE(sum(used) FILTER (WHERE slot >= 0), 0)::bigint AS slices_used,
    count(*) FILTER (WHERE used > granted) AS overdrawn
  FROM quotas q WHERE q.tenant_id = p.id AND q.day = $3) q
CROSS JOIN LATERAL (SELECT COALESCE(sum(messages) FILTER (WHERE environment = 1), 0)::bigint AS live,
    COALESCE(sum(messages) FILTER (WHERE environment = 2), 0)::bigint AS test,
    COALESCE(sum(suppressed) FILTER (WHERE environment = 1), 0)::bigint AS suppressed
  FROM usage_accepted a WHERE a.tenant_id = p.id AND a.day = $3) a
CROSS JOIN LATERAL (SELECT count(*) AS there FROM (SELECT FROM messages m
  WHERE p.status <> 3 AND m.tenant_id = p.id AND m.environment = 1 AND m.seq >= $4 AND m.seq < $5 LIMIT $6::bigint + 1) m) l
CROSS JOIN LATERAL (SELECT count(*) AS there FROM (SELECT FROM messages m
  WHERE p.status <> 3 AND m.tenant_id = p.id AND m.environment = 2 AND m.seq >= $4 AND m.seq < $5 LIMIT $6::bigint + 1) m) s
ORDER BY p.id";

const _: () = assert!(Environment::Live.code() == 1 && Environment::Test.code() == 2 && TenantStatus::Archived.code() == 3);

// Whoever raises its status waits meanwhile.
const LOCK_MESSAGE: &str = "SELECT seq, environment, status, tenant_id, channel, priority FROM messages WHERE seq = $1 FOR UPDATE";
const AROUND: &str = "SELECT m.seq, m.environment, m.status, j.attempt AS job_attempt, e.kind, e.at, e.attempt, e.started_at \
     FROM messages m LEFT JOIN jobs j ON j.seq = $1 LEFT JOIN events e ON e.message_seq = $1 AND e.report IS NULL WHERE m.seq = $1 ORDER BY e.n";
// The urgency of a message that was not tried is its priority.
const INSERT_JOB: &str = "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at, urgency) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (seq) DO NOTHING";
const INSERT_UNKNOWN: &str = "INSERT INTO events (message_seq, tenant_id, kind, at, attempt) VALUES ($1, $2, 11, $3, $4)";
const LOCK_JOB: &str = "SELECT action, started_at, epoch,
  EXISTS (SELECT FROM events e WHERE e.message_seq = $1 AND e.kind = 10 AND e.report IS NOT NULL) AS is_resent
  FROM jobs WHERE seq = $1 FOR UPDATE";
const _: () = assert!(EventKind::RetryScheduled.code() == 10 && Status::Sent.code() == 30);
const STATUS: &str = "SELECT status FROM messages WHERE seq = $1";
const DELETE_JOB: &str = "DELETE FROM jobs WHERE seq = $1";
// Its next beat waits, and finds what became of the job.
const LOCK_NODE: &str = "SELECT beat_at FROM nodes WHERE epoch = $1 FOR UPDATE";
// No index tells who holds what (it would cost each acceptance), so this looks through the queue.
// As reaping does with all that an epoch holds.
const FREE: &str = "
WITH held AS MATERIALIZED (
  SELECT j.seq, j.tenant_id, j.attempt, j.started_at, COALESCE(t.retry_unknown, false) AS retry
  FROM jobs j LEFT JOIN tenants t ON t.id = j.tenant_id WHERE j.seq = $1
), event AS (
  INSERT INTO events (message_seq, tenant_id, kind, at, attempt, started_at)
  SELECT seq, tenant_id, 11, $2, attempt, started_at FROM held WHERE started_at IS NOT NULL
)
UPDATE jobs j SET
  epoch = NULL,
  started_at = NULL,
  config_id = CASE WHEN held.started_at IS NULL THEN j.config_id END,
  action = CASE WHEN held.started_at IS NULL THEN j.action WHEN held.retry THEN 1 ELSE 2 END,
  urgency = CASE WHEN held.started_at IS NOT NULL AND held.retry THEN ((j.urgency - 1) | 2) + 1 ELSE j.urgency END,
  due_at = CASE WHEN held.started_at IS NULL THEN j.due_at WHEN held.retry THEN $2 ELSE $3 END
FROM held WHERE j.seq = $1 AND j.seq = held.seq";

const _: () = assert!(Action::Send.code() == 1 && Action::GiveUp.code() == 2 && EventKind::OutcomeUnknown.code() == 11);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] =
    &[JOBS, MESSAGES, RECORDS, COUNTERS, LOCK_MESSAGE, AROUND, INSERT_JOB, INSERT_UNKNOWN, LOCK_JOB, STATUS, DELETE_JOB, LOCK_NODE, FREE];

/// The end of a page: where the next one begins, if it was full.
fn next<P>(seen: usize, rows: usize, last: Option<P>) -> Option<P> {
    last.filter(|_| seen >= rows)
}

fn status_or_null(row: &Row, column: &str) -> Result<Option<Status>> {
    if get::<Option<i16>>(row, column)?.is_none() { Ok(None) } else { code(row, column, Status::from_code).map(Some) }
}

fn job(row: &Row) -> Result<JobFacts> {
    let beat = optional_time(row, "beat_at")?;
    Ok(JobFacts {
        seq: Seq(get(row, "seq")?),
        action: code(row, "action", Action::from_code)?,
        due_at: time(row, "due_at")?,
        held: get::<Option<i64>>(row, "epoch")?.map(|_| beat),
        started_at: optional_time(row, "started_at")?,
        message: status_or_null(row, "message_status")?,
        is_resent: get(row, "is_resent")?,
        is_tenant_active: get::<Option<i16>>(row, "tenant_status")? == Some(TenantStatus::Active.code()),
    })
}

/// Messages, each with its timeline, of rows of one line each.
fn messages(rows: &[Row]) -> Result<Vec<MessageFacts>> {
    let mut messages: Vec<MessageFacts> = Vec::new();
    for row in rows {
        let seq = Seq(get(row, "seq")?);
        if messages.last().is_none_or(|last| last.seq != seq) {
            messages.push(MessageFacts {
                seq,
                environment: code(row, "environment", Environment::from_code)?,
                status: code(row, "status", Status::from_code)?,
                job: get(row, "job_attempt")?,
                lines: Vec::new(),
            });
        }
        if let Some(message) = messages.last_mut()
            && get::<Option<i16>>(row, "kind")?.is_some()
        {
            message.lines.push(Line {
                kind: code(row, "kind", EventKind::from_code)?,
                at: time(row, "at")?,
                attempt: get(row, "attempt")?,
                is_outcome: get::<Option<i64>>(row, "started_at")?.is_some(),
            });
        }
    }
    Ok(messages)
}

fn counters(row: &Row, day: Day, most: i64) -> Result<CounterFacts> {
    let there = |column| get::<i64>(row, column).map(|n| (n <= most).then_some(n));
    let central = (get(row, "central_granted")?, get(row, "central_used")?);
    Ok(CounterFacts {
        tenant: TenantId(get(row, "id")?),
        day,
        central: (get::<i64>(row, "centrals")? > 0).then_some(central),
        slices: (get(row, "slices")?, get(row, "slices_granted")?, get(row, "slices_used")?),
        overdrawn: get(row, "overdrawn")?,
        accepted: [get(row, "live")?, get(row, "test")?],
        suppressed: get(row, "suppressed")?,
        there: [there("live_there")?, there("test_there")?],
    })
}

/// Gives a message without a job the one that it should have: within a transaction.
async fn give_job(connection: &mut Connection, seq: Seq, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
    let Some(locked) = connection.query_opt(LOCK_MESSAGE, &[&seq.0]).await? else { return Ok(false) };
    let around = messages(&connection.query(AROUND, &[&seq.0]).await?)?;
    let Some(remedy) = around.first().and_then(|facts| remedy(facts, now, give_up_at)) else { return Ok(false) };
    let tenant: Uuid = get(&locked, "tenant_id")?;
    let channel = code(&locked, "channel", Channel::from_code)?;
    let given = connection
        .execute(
            INSERT_JOB,
            &[
                &seq.0,
                &tenant,
                &get::<i16>(&locked, "environment")?,
                &channel.code(),
                &remedy.action.code(),
                &remedy.attempt,
                &remedy.due_at.millis(),
                &seq.at().after(RetryPolicy::of(channel).max_age).millis(),
                &get::<i16>(&locked, "priority")?,
            ],
        )
        .await?;
    if given == 1 && remedy.notes_unknown {
        connection.execute(INSERT_UNKNOWN, &[&seq.0, &tenant, &now.millis(), &remedy.attempt]).await?;
    }
    Ok(given == 1)
}

/// Deletes a job whose message is gone, or final: within a transaction.
async fn delete_job(connection: &mut Connection, seq: Seq, kind: Kind) -> Result<bool> {
    let Some(locked) = connection.query_opt(LOCK_JOB, &[&seq.0]).await? else { return Ok(false) };
    let (action, started_at) = (code(&locked, "action", Action::from_code)?, optional_time(&locked, "started_at")?);
    let status = connection.query_opt(STATUS, &[&seq.0]).await?;
    let wrong = match status.map(|row| code(&row, "status", Status::from_code)).transpose()? {
        None => kind == Kind::JobWithoutMessage,
        Some(status) => kind == Kind::JobOfFinalMessage && is_vain(action, started_at, status, get(&locked, "is_resent")?),
    };
    Ok(wrong && connection.execute(DELETE_JOB, &[&seq.0]).await? == 1)
}

/// Takes a job away from an epoch that there is not, or whose node is dead: within a transaction.
async fn free_job(connection: &mut Connection, seq: Seq, margins: &Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
    let Some(locked) = connection.query_opt(LOCK_JOB, &[&seq.0]).await? else { return Ok(false) };
    let Some(epoch) = get::<Option<i64>>(&locked, "epoch")? else { return Ok(false) };
    let beat = connection.query_opt(LOCK_NODE, &[&epoch]).await?.map(|row| time(&row, "beat_at")).transpose()?;
    if beat.is_some_and(|at| at >= margins.dead_before(now)) {
        return Ok(false);
    }
    Ok(connection.execute(FREE, &[&seq.0, &now.millis(), &give_up_at.millis()]).await? == 1)
}

#[async_trait]
impl Invariants for PostgresStore {
    async fn check_jobs(&self, range: Range, rows: usize, margins: Margins, now: Timestamp) -> Result<Checked<Seq>> {
        let rows = rows.max(1);
        let page = self.connection().await?.query(JOBS, &[&range.after.0, &range.until.0, &limit_of(rows)]).await?;
        let jobs = page.iter().map(job).collect::<Result<Vec<_>>>()?;
        Ok(Checked {
            rows: jobs.len(),
            uncounted: 0,
            violations: jobs.iter().filter_map(|job| job.judge(&margins, now)).collect(),
            next: next(jobs.len(), rows, jobs.last().map(|job| job.seq)),
        })
    }

    async fn check_messages(&self, range: Range, rows: usize) -> Result<Checked<Seq>> {
        let rows = rows.max(1);
        let params: [Param<'_>; 4] = [&range.after.0, &range.until.0, &limit_of(rows), &LINES_OF_EACH];
        let page = messages(&self.connection().await?.query(MESSAGES, &params).await?)?;
        let mut violations = Vec::new();
        page.iter().for_each(|message| message.judge(&mut violations));
        let next = next(page.len(), rows, page.last().map(|message| message.seq));
        Ok(Checked { rows: page.len(), uncounted: 0, violations, next })
    }

    async fn check_records(&self, after: Option<RecordKey>, rows: usize) -> Result<Checked<RecordKey>> {
        let rows = rows.max(1);
        // No code is negative, so every record comes after this.
        let after = after.unwrap_or(RecordKey { owner: Uuid::nil(), environment: -1, operation: -1, key: String::new() });
        let params: [Param<'_>; 5] = [&after.owner, &after.environment, &after.operation, &after.key, &limit_of(rows)];
        let page = self.connection().await?.query(RECORDS, &params).await?;
        let mut violations = Vec::new();
        for row in &page {
            let (named, there): (Option<i64>, Option<i64>) = (get(row, "message_seq")?, get(row, "there")?);
            let tenant: Option<i16> = get(row, "tenant_status")?;
            if let Some(seq) = named
                && there.is_none()
                && tenant.is_some_and(|status| status != TenantStatus::Archived.code())
            {
                violations.push(Violation { kind: Kind::IdempotencyWithoutMessage, subject: Subject::Message(Seq(seq)) });
            }
        }
        let key = |row: &Row| -> Result<RecordKey> {
            Ok(RecordKey {
                owner: get(row, "owner_id")?,
                environment: get(row, "environment")?,
                operation: get(row, "operation")?,
                key: get(row, "key")?,
            })
        };
        let last = page.last().map(key).transpose()?;
        Ok(Checked { rows: page.len(), uncounted: 0, violations, next: next(page.len(), rows, last) })
    }

    async fn check_counters(&self, day: Day, after: Option<TenantId>, tenants: usize, most: usize) -> Result<Checked<TenantId>> {
        let (tenants, most) = (tenants.max(1), limit_of(most).min(i64::MAX - 1));
        let after = after.map_or(Uuid::nil(), |tenant| tenant.0);
        let (first, end) = (Seq::first_at(day.start()).0, Seq::first_at(day.plus(1).start()).0);
        let params: [Param<'_>; 6] = [&after, &limit_of(tenants), &day.0, &first, &end, &most];
        let page = self.connection().await?.query(COUNTERS, &params).await?;
        let mut checked = Checked { rows: page.len(), uncounted: 0, violations: Vec::new(), next: None };
        let mut last = None;
        for row in &page {
            let facts = counters(row, day, most)?;
            last = Some(facts.tenant);
            if get::<i16>(row, "status")? != TenantStatus::Archived.code() {
                facts.judge(&mut checked.violations);
                checked.uncounted += facts.uncounted();
            }
        }
        checked.next = next(page.len(), tenants, last);
        Ok(checked)
    }

    async fn mend(&self, violation: Violation, margins: Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
        let Subject::Message(seq) = violation.subject else { return Ok(false) };
        let mut connection = self.connection().await?;
        connection.begin().await?;
        let mended = match violation.kind {
            Kind::MessageWithoutJob => give_job(&mut connection, seq, now, give_up_at).await?,
            kind @ (Kind::JobWithoutMessage | Kind::JobOfFinalMessage) => delete_job(&mut connection, seq, kind).await?,
            Kind::JobOfDeadNode => free_job(&mut connection, seq, &margins, now, give_up_at).await?,
            _ => false,
        };
        connection.commit().await?;
        if mended {
            self.worn.forget();
        }
        Ok(mended)
    }
}
