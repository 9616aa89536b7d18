//! Invariants in SQLite: each stretch is read in one snapshot of a reader's; what is mended is looked at again by the writer.

use async_trait::async_trait;
use raven_core::{Day, Environment, EventKind, Seq, Status, TenantId, Timestamp, retry::RetryPolicy, tenant::TenantStatus};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, queue,
    rows::{Id, code, id, limit, time, time_or_null},
};
use crate::{
    Action, Lease, Result,
    invariants::{
        Checked, CounterFacts, Invariants, JobFacts, Kind, Line, Margins, MessageFacts, Range, RecordKey, Subject, Violation, is_vain,
        remedy,
    },
    queue::Reaped,
};

pub(super) const STATEMENTS: &[&str] =
    &[JOBS, MESSAGES, LINES, RECORDS, TENANTS, QUOTAS, ACCEPTED, EACH, MESSAGE, INSERT_JOB, INSERT_UNKNOWN, JOB, DELETE_JOB, HOLDER];

const JOBS: &str = "SELECT j.seq, j.action, j.due_at, j.epoch, j.started_at, m.status, n.beat_at, t.status,
    m.status = 30 AND EXISTS (SELECT 1 FROM events e WHERE e.message_seq = j.seq AND e.kind = 10 AND e.report IS NOT NULL)
  FROM jobs j LEFT JOIN messages m ON m.seq = j.seq LEFT JOIN nodes n ON n.epoch = j.epoch LEFT JOIN tenants t ON t.id = j.tenant_id
  WHERE j.seq > ?1 AND j.seq <= ?2 ORDER BY j.seq LIMIT ?3";
const MESSAGES: &str = "SELECT m.seq, m.environment, m.status, j.attempt FROM messages m LEFT JOIN jobs j ON j.seq = m.seq
  WHERE m.seq > ?1 AND m.seq <= ?2 ORDER BY m.seq LIMIT ?3";
const LINES: &str = "SELECT kind, at, attempt, started_at IS NOT NULL FROM events WHERE message_seq = ?1 AND report IS NULL ORDER BY n";
const RECORDS: &str = "SELECT i.owner_id, i.environment, i.operation, i.key, i.message_seq, m.seq, t.status
  FROM idempotency i LEFT JOIN messages m ON m.seq = i.message_seq LEFT JOIN tenants t ON t.id = i.owner_id
  WHERE (i.owner_id, i.environment, i.operation, i.key) > (?1, ?2, ?3, ?4)
  ORDER BY i.owner_id, i.environment, i.operation, i.key LIMIT ?5";
const TENANTS: &str = "SELECT id, status FROM tenants WHERE id > ?1 ORDER BY id LIMIT ?2";
const QUOTAS: &str = "SELECT slot, granted, used FROM quotas WHERE tenant_id = ?1 AND day = ?2";
const ACCEPTED: &str = "SELECT coalesce(sum(messages), 0), coalesce(sum(suppressed), 0) FROM usage_accepted WHERE tenant_id = ?1 AND day = ?2 AND environment = ?3";
// Counted row by row, so that it can end when there are too many.
const EACH: &str = "SELECT 1 FROM messages INDEXED BY messages_tenant
  WHERE tenant_id = ?1 AND environment = ?2 AND seq >= ?3 AND seq < ?4 LIMIT ?5";

const MESSAGE: &str = "SELECT m.seq, m.environment, m.status, j.attempt, m.tenant_id, m.channel, m.priority
  FROM messages m LEFT JOIN jobs j ON j.seq = m.seq WHERE m.seq = ?1";
// The urgency of a message that was not tried is its priority.
const INSERT_JOB: &str = "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at, urgency)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
const INSERT_UNKNOWN: &str = "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt)
  SELECT ?1, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE message_seq = ?1), ?2, ?3, ?4, ?5";
const JOB: &str = "SELECT j.action, j.started_at, m.status,
    EXISTS (SELECT 1 FROM events e WHERE e.message_seq = j.seq AND e.kind = 10 AND e.report IS NOT NULL)
  FROM jobs j LEFT JOIN messages m ON m.seq = j.seq WHERE j.seq = ?1";
const _: () = assert!(EventKind::RetryScheduled.code() == 10 && Status::Sent.code() == 30);
const DELETE_JOB: &str = "DELETE FROM jobs WHERE seq = ?1";
const HOLDER: &str =
    "SELECT j.epoch, n.beat_at FROM jobs j LEFT JOIN nodes n ON n.epoch = j.epoch WHERE j.seq = ?1 AND j.epoch IS NOT NULL";

/// A status that may be absent: of a row that may be.
fn status_or_null(row: &Row<'_>, i: usize) -> rusqlite::Result<Option<Status>> {
    if row.get::<_, Option<i16>>(i)?.is_none() { Ok(None) } else { code(row, i, Status::from_code).map(Some) }
}

/// The end of a page: where the next one begins, if it was full.
fn next<P>(seen: usize, rows: usize, last: Option<P>) -> Option<P> {
    last.filter(|_| seen >= rows)
}

fn check_jobs(c: &Connection, range: Range, rows: usize, margins: &Margins, now: Timestamp) -> Result<Checked<Seq>> {
    let read = |row: &Row<'_>| {
        let beat = time_or_null(row, 6)?;
        Ok(JobFacts {
            seq: Seq(row.get(0)?),
            action: code(row, 1, Action::from_code)?,
            due_at: time(row, 2)?,
            held: row.get::<_, Option<i64>>(3)?.map(|_| beat),
            started_at: time_or_null(row, 4)?,
            message: status_or_null(row, 5)?,
            is_resent: row.get::<_, Option<bool>>(8)?.unwrap_or(false),
            is_tenant_active: row.get::<_, Option<i16>>(7)? == Some(TenantStatus::Active.code()),
        })
    };
    let mut select = c.prepare_cached(JOBS)?;
    let jobs: Vec<JobFacts> = select.query_map([range.after.0, range.until.0, limit(rows)], read)?.collect::<rusqlite::Result<_>>()?;
    Ok(Checked {
        rows: jobs.len(),
        uncounted: 0,
        violations: jobs.iter().filter_map(|job| job.judge(margins, now)).collect(),
        next: next(jobs.len(), rows, jobs.last().map(|job| job.seq)),
    })
}

/// A message without its timeline.
fn message(row: &Row<'_>) -> rusqlite::Result<MessageFacts> {
    Ok(MessageFacts {
        seq: Seq(row.get(0)?),
        environment: code(row, 1, Environment::from_code)?,
        status: code(row, 2, Status::from_code)?,
        job: row.get(3)?,
        lines: Vec::new(),
    })
}

fn lines(c: &Connection, seq: Seq) -> Result<Vec<Line>> {
    let read = |row: &Row<'_>| {
        Ok(Line { kind: code(row, 0, EventKind::from_code)?, at: time(row, 1)?, attempt: row.get(2)?, is_outcome: row.get(3)? })
    };
    Ok(c.prepare_cached(LINES)?.query_map([seq.0], read)?.collect::<rusqlite::Result<_>>()?)
}

fn check_messages(c: &Connection, range: Range, rows: usize) -> Result<Checked<Seq>> {
    let mut select = c.prepare_cached(MESSAGES)?;
    let mut messages = select.query_map([range.after.0, range.until.0, limit(rows)], message)?;
    let mut checked = Checked { rows: 0, uncounted: 0, violations: Vec::new(), next: None };
    let mut last = None;
    while let Some(mut facts) = messages.next().transpose()? {
        facts.lines = lines(c, facts.seq)?;
        facts.judge(&mut checked.violations);
        last = Some(facts.seq);
        checked.rows += 1;
    }
    checked.next = next(checked.rows, rows, last);
    Ok(checked)
}

fn check_records(c: &Connection, after: Option<&RecordKey>, rows: usize) -> Result<Checked<RecordKey>> {
    let mut select = c.prepare_cached(RECORDS)?;
    let mut records = match after {
        // No id is empty, so every record comes after this.
        None => select.query(params![&[] as &[u8], 0, 0, "", limit(rows)])?,
        Some(k) => select.query(params![Id(k.owner), k.environment, k.operation, k.key, limit(rows)])?,
    };
    let mut checked = Checked { rows: 0, uncounted: 0, violations: Vec::new(), next: None };
    while let Some(row) = records.next()? {
        checked.rows += 1;
        let (named, there): (Option<i64>, Option<i64>) = (row.get(4)?, row.get(5)?);
        let tenant: Option<i16> = row.get(6)?;
        if let Some(seq) = named
            && there.is_none()
            && tenant.is_some_and(|status| status != TenantStatus::Archived.code())
        {
            checked.violations.push(Violation { kind: Kind::IdempotencyWithoutMessage, subject: Subject::Message(Seq(seq)) });
        }
        if checked.rows >= rows {
            checked.next = Some(RecordKey { owner: id(row, 0)?, environment: row.get(1)?, operation: row.get(2)?, key: row.get(3)? });
        }
    }
    Ok(checked)
}

fn counters(c: &Connection, tenant: TenantId, day: Day, most: usize) -> Result<CounterFacts> {
    let whose = Id(tenant.0);
    let mut facts =
        CounterFacts { tenant, day, central: None, slices: (0, 0, 0), overdrawn: 0, accepted: [0; 2], suppressed: 0, there: [None; 2] };
    let mut select = c.prepare_cached(QUOTAS)?;
    let mut rows = select.query(params![whose, day.0])?;
    while let Some(row) = rows.next()? {
        let (slot, granted, used): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        facts.overdrawn += i64::from(used > granted);
        if slot < 0 {
            facts.central = Some((granted, used));
        } else {
            facts.slices = (facts.slices.0 + 1, facts.slices.1 + granted, facts.slices.2 + used);
        }
    }
    let (first, end) = (Seq::first_at(day.start()), Seq::first_at(day.plus(1).start()));
    for (n, environment) in [Environment::Live, Environment::Test].into_iter().enumerate() {
        let read = |r: &Row<'_>| Ok((r.get(0)?, r.get(1)?));
        let (accepted, suppressed) = c.prepare_cached(ACCEPTED)?.query_row(params![whose, day.0, environment.code()], read)?;
        facts.accepted[n] = accepted;
        if environment == Environment::Live {
            facts.suppressed = suppressed;
        }
        let values = params![whose, environment.code(), first.0, end.0, limit(most.saturating_add(1))];
        let mut each = c.prepare_cached(EACH)?;
        let mut rows = each.query(values)?;
        let mut there = 0;
        while rows.next()?.is_some() {
            there += 1;
        }
        facts.there[n] = (there <= limit(most)).then_some(there);
    }
    Ok(facts)
}

fn check_counters(c: &Connection, day: Day, after: Option<TenantId>, tenants: usize, most: usize) -> Result<Checked<TenantId>> {
    let mut select = c.prepare_cached(TENANTS)?;
    let read = |row: &Row<'_>| Ok((TenantId(id(row, 0)?), code(row, 1, TenantStatus::from_code)?));
    let page: Vec<(TenantId, TenantStatus)> = match after {
        None => select.query_map(params![&[] as &[u8], limit(tenants)], read)?.collect::<rusqlite::Result<_>>()?,
        Some(after) => select.query_map(params![Id(after.0), limit(tenants)], read)?.collect::<rusqlite::Result<_>>()?,
    };
    let mut checked = Checked { rows: page.len(), uncounted: 0, violations: Vec::new(), next: None };
    for (tenant, _) in page.iter().filter(|(_, status)| *status != TenantStatus::Archived) {
        let facts = counters(c, *tenant, day, most)?;
        facts.judge(&mut checked.violations);
        checked.uncounted += facts.uncounted();
    }
    checked.next = next(page.len(), tenants, page.last().map(|(tenant, _)| *tenant));
    Ok(checked)
}

/// Gives a message without a job the one that it should have.
fn give_job(c: &Connection, seq: Seq, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
    let read = |row: &Row<'_>| {
        let channel = code(row, 5, raven_core::Channel::from_code)?;
        Ok((message(row)?, row.get::<_, Id>(4)?, channel, row.get::<_, i16>(6)?))
    };
    let Some((mut facts, tenant, channel, urgency)) = c.prepare_cached(MESSAGE)?.query_row([seq.0], read).optional()? else {
        return Ok(false);
    };
    facts.lines = lines(c, seq)?;
    let Some(remedy) = remedy(&facts, now, give_up_at) else { return Ok(false) };
    let expires_at = seq.at().after(RetryPolicy::of(channel).max_age);
    c.prepare_cached(INSERT_JOB)?.execute(params![
        seq.0,
        tenant,
        facts.environment.code(),
        channel.code(),
        remedy.action.code(),
        remedy.attempt,
        remedy.due_at.millis(),
        expires_at.millis(),
        urgency,
    ])?;
    if remedy.notes_unknown {
        let unknown = EventKind::OutcomeUnknown.code();
        c.prepare_cached(INSERT_UNKNOWN)?.execute(params![seq.0, tenant, unknown, now.millis(), remedy.attempt])?;
    }
    Ok(true)
}

/// Deletes a job whose message is gone, or final.
fn delete_job(c: &Connection, seq: Seq, kind: Kind) -> Result<bool> {
    let read = |row: &Row<'_>| Ok((code(row, 0, Action::from_code)?, time_or_null(row, 1)?, status_or_null(row, 2)?, row.get(3)?));
    let Some((action, started_at, status, is_resent)) = c.prepare_cached(JOB)?.query_row([seq.0], read).optional()? else {
        return Ok(false);
    };
    let wrong = match status {
        None => kind == Kind::JobWithoutMessage,
        Some(status) => kind == Kind::JobOfFinalMessage && is_vain(action, started_at, status, is_resent),
    };
    Ok(wrong && c.prepare_cached(DELETE_JOB)?.execute([seq.0])? == 1)
}

/// Takes a job away from an epoch that there is not, or whose node is dead.
fn free_job(c: &Connection, seq: Seq, margins: &Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
    let holder = c.prepare_cached(HOLDER)?.query_row([seq.0], |r| Ok((Lease(r.get(0)?), time_or_null(r, 1)?))).optional()?;
    let Some((lease, beat)) = holder else { return Ok(false) };
    if beat.is_some_and(|at| at >= margins.dead_before(now)) {
        return Ok(false);
    }
    let mut reaped = Reaped::default();
    queue::reap(c, lease, seq.0, now, give_up_at, &mut reaped)?;
    Ok(reaped.released + reaped.unknown > 0)
}

#[async_trait]
impl Invariants for SqliteStore {
    async fn check_jobs(&self, range: Range, rows: usize, margins: Margins, now: Timestamp) -> Result<Checked<Seq>> {
        self.read(move |c| check_jobs(c, range, rows.max(1), &margins, now)).await
    }

    async fn check_messages(&self, range: Range, rows: usize) -> Result<Checked<Seq>> {
        self.read(move |c| check_messages(c, range, rows.max(1))).await
    }

    async fn check_records(&self, after: Option<RecordKey>, rows: usize) -> Result<Checked<RecordKey>> {
        self.read(move |c| check_records(c, after.as_ref(), rows.max(1))).await
    }

    async fn check_counters(&self, day: Day, after: Option<TenantId>, tenants: usize, most: usize) -> Result<Checked<TenantId>> {
        self.read(move |c| check_counters(c, day, after, tenants.max(1), most)).await
    }

    async fn mend(&self, violation: Violation, margins: Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
        let Subject::Message(seq) = violation.subject else { return Ok(false) };
        match violation.kind {
            Kind::MessageWithoutJob => self.write(move |c| give_job(c, seq, now, give_up_at)).await,
            kind @ (Kind::JobWithoutMessage | Kind::JobOfFinalMessage) => self.write(move |c| delete_job(c, seq, kind)).await,
            Kind::JobOfDeadNode => self.write(move |c| free_job(c, seq, &margins, now, give_up_at)).await,
            _ => Ok(false),
        }
    }
}
