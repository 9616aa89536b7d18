//! The queue in SQLite: starts, outcomes, leases given back or taken away. Claims are in [`super::claim`].

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use raven_core::{Channel, Environment, EventKind, Seq, Status, SuppressionSource, TenantId, Timestamp};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, claim,
    rows::{Id, code, id, limit, time, time_or_null},
    suppressions::{self, Listed},
    usage::Outcomes,
};
use crate::{
    Action, Claimed, JobRecord, Lane, Lease, Next, Queue, Reaped, Result, Settlement, Start, Started, SuppressionRecord, Survey, Tried,
    callbacks::provider_key,
};

pub(super) const STATEMENTS: &[&str] = &[
    STARTABLE,
    START,
    START_MESSAGE,
    INSERT_EVENT,
    RAISE,
    STATE,
    FINISH,
    RESCHEDULE,
    NAME,
    REAPED,
    PARK,
    PARKED,
    UNPARK,
    NEXT_PARKED,
    FIND_JOB,
    RELEASE,
    UNSTARTED,
    RELEASE_UNSTARTED,
    HELD,
    HELD_JOB,
    RETRIES_UNKNOWN,
    SURVEY,
];

const STARTABLE: &str = "SELECT 1 FROM jobs WHERE seq = ?2 AND epoch = ?1 AND attempt = ?3 - 1 AND started_at IS NULL";
const START: &str = "UPDATE jobs SET attempt = ?3, started_at = ?4, config_id = ?5
  WHERE seq = ?2 AND epoch = ?1 AND attempt = ?3 - 1 AND started_at IS NULL";
// A retry finds the message risen already, and spares the write.
const START_MESSAGE: &str = "UPDATE messages SET status = ?2 WHERE seq = ?1 AND status < ?2";
const INSERT_EVENT: &str = "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt, started_at, detail, payload)
  SELECT ?1, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE message_seq = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8
  WHERE NOT EXISTS (SELECT 1 FROM events WHERE message_seq = ?1 AND kind = ?3 AND at = ?4 AND attempt = ?5)";
const INSERT_FIRST: &str = "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt, started_at, detail, payload)
  VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE message_seq = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const RAISE: &str = "UPDATE messages SET status = max(status, ?3), provider = coalesce(?4, provider), config_id = coalesce(?5, config_id),
    provider_message_id = coalesce(?6, provider_message_id), segments = coalesce(?7, segments), cost_currency = coalesce(?8, cost_currency),
    cost_micros = coalesce(?9, cost_micros), failure_reason = coalesce(?10, failure_reason)
  WHERE seq = ?1 AND tenant_id = ?2";
const STATE: &str = "SELECT m.status, m.environment, m.channel, j.attempt, j.epoch, j.started_at IS NOT NULL
  FROM messages m LEFT JOIN jobs j ON j.seq = m.seq WHERE m.seq = ?1 AND m.tenant_id = ?2";
const FINISH: &str = "DELETE FROM jobs WHERE seq = ?1";
// What is to be sent again is a retry from now on.
const RESCHEDULE: &str = "UPDATE jobs SET action = ?2, due_at = ?3, epoch = NULL, started_at = NULL, config_id = NULL, tried = ?4,
    outlet = ?5, parked = NULL, urgency = CASE WHEN ?2 = 1 THEN ((urgency - 1) | 2) + 1 ELSE urgency END
  WHERE seq = ?1";
const REAPED: &str = "UPDATE jobs SET action = ?2, due_at = ?3, epoch = NULL, started_at = NULL, config_id = NULL,
    urgency = CASE WHEN ?2 = 1 THEN ((urgency - 1) | 2) + 1 ELSE urgency END
  WHERE seq = ?1";
const _: () = assert!(Action::Send.code() == 1);
const NAME: &str = "INSERT INTO provider_ids (bucket, digest, seq) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const PARK: &str = "UPDATE jobs SET epoch = NULL, config_id = NULL, parked = due_at, due_at = ?3
  WHERE seq = ?2 AND epoch = ?1 AND started_at IS NULL";
const PARKED: &str = "SELECT seq FROM jobs INDEXED BY jobs_parked WHERE parked IS NOT NULL AND tenant_id = ?1 AND channel = ?2
  ORDER BY parked, seq LIMIT ?3";
const UNPARK: &str = "UPDATE jobs SET due_at = parked, parked = NULL WHERE seq = ?1 AND parked IS NOT NULL";
// See `claim::NEXT_LANE`.
pub(super) const NEXT_PARKED: &str = "SELECT tenant_id, channel FROM jobs INDEXED BY jobs_parked
  WHERE parked IS NOT NULL AND (tenant_id, channel, parked) > (?1, ?2, 9223372036854775807) ORDER BY tenant_id, channel LIMIT 1";
const FIND_JOB: &str = "SELECT action, attempt, due_at, expires_at, epoch IS NOT NULL, started_at, tried, parked IS NOT NULL
  FROM jobs WHERE seq = ?1 AND tenant_id = ?2";
const RELEASE: &str = "UPDATE jobs SET epoch = NULL, attempt = attempt - (started_at IS NOT NULL), started_at = NULL, config_id = NULL
  WHERE seq = ?2 AND epoch = ?1";
const UNSTARTED: &str = "SELECT seq FROM jobs WHERE epoch = ?1 AND started_at IS NULL";
const RELEASE_UNSTARTED: &str = "UPDATE jobs SET epoch = NULL, config_id = NULL WHERE seq = ?2 AND epoch = ?1 AND started_at IS NULL";
const HELD: &str = "SELECT seq FROM jobs WHERE epoch = ?1 ORDER BY seq LIMIT ?2";
const HELD_JOB: &str = "SELECT tenant_id, attempt, started_at FROM jobs WHERE seq = ?2 AND epoch = ?1";
const RETRIES_UNKNOWN: &str = "SELECT retry_unknown FROM tenants WHERE id = ?1";
const SURVEY: &str =
    "SELECT seq, channel, coalesce(parked, due_at), CASE WHEN epoch IS NOT NULL AND seq < ?3 AND coalesce(started_at, 0) < ?4
    AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.epoch = jobs.epoch) THEN epoch END
  FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT ?2";

fn start(c: &Connection, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>> {
    let (mut startable, mut job, mut message) = (c.prepare_cached(STARTABLE)?, c.prepare_cached(START)?, c.prepare_cached(START_MESSAGE)?);
    let mut listed = Listed::new(c);
    let mut answers = Vec::with_capacity(starts.len());
    for s in starts {
        let Lane { tenant, environment, channel, .. } = s.lane;
        if let Some(reason) = listed.reason(tenant, environment, channel, || s.lookup.as_str().into())?
            && startable.exists(params![lease.0, s.seq.0, s.attempt])?
        {
            answers.push(Started::Suppressed(reason));
            continue;
        }
        let held = job.execute(params![lease.0, s.seq.0, s.attempt, now.millis(), s.config.map(|c| Id(c.0))])? == 1;
        if held {
            message.execute(params![s.seq.0, Status::Sending.code()])?;
        }
        answers.push(if held { Started::Begun } else { Started::NotHeld });
    }
    Ok(answers)
}

/// Adds the first line to a message's timeline.
pub(super) fn event(c: &Connection, tenant: TenantId, seq: Seq, kind: EventKind, at: Timestamp, detail: &str) -> Result<()> {
    let nothing: Option<&str> = None;
    c.prepare_cached(INSERT_FIRST)?.execute(params![seq.0, Id(tenant.0), kind.code(), at.millis(), 0, nothing, detail, nothing])?;
    Ok(())
}

/// A message before a settlement, with its job's attempt and epoch.
struct State {
    status: Status,
    environment: Environment,
    channel: Channel,
    job: Option<(i16, Option<i64>)>,
    /// Is an attempt under way?
    started: bool,
}

fn state(row: &Row<'_>) -> rusqlite::Result<State> {
    let (attempt, epoch): (Option<i16>, _) = (row.get(3)?, row.get(4)?);
    Ok(State {
        status: code(row, 0, Status::from_code)?,
        environment: code(row, 1, Environment::from_code)?,
        channel: code(row, 2, Channel::from_code)?,
        job: attempt.map(|attempt| (attempt, epoch)),
        started: row.get(5)?,
    })
}

/// The statements of settling, taken from the cache once a batch.
struct Settling<'c> {
    connection: &'c Connection,
    state: CachedStatement<'c>,
    event: CachedStatement<'c>,
    further_event: CachedStatement<'c>,
    raise: CachedStatement<'c>,
    finish: CachedStatement<'c>,
    reschedule: CachedStatement<'c>,
    outcomes: Outcomes,
}

impl<'c> Settling<'c> {
    fn new(c: &'c Connection) -> Result<Self> {
        Ok(Self {
            connection: c,
            state: c.prepare_cached(STATE)?,
            event: c.prepare_cached(INSERT_FIRST)?,
            further_event: c.prepare_cached(INSERT_EVENT)?,
            raise: c.prepare_cached(RAISE)?,
            finish: c.prepare_cached(FINISH)?,
            reschedule: c.prepare_cached(RESCHEDULE)?,
            outcomes: Outcomes::default(),
        })
    }

    fn settle(&mut self, lease: Lease, s: &Settlement) -> Result<()> {
        let (seq, tenant) = (s.seq.0, Id(s.tenant.0));
        // A message that is gone (its tenant was deleted) must not leave events behind.
        let Some(before) = self.state.query_row(params![seq, tenant], state).optional()? else { return Ok(()) };
        let job = before.job;
        let ours = job.is_some_and(|(attempt, epoch)| attempt == s.attempt && epoch.is_none_or(|epoch| epoch == lease.0));
        // The attempt ends with its settlement. Where it is still under way this one comes for the first time, so there is no need
        // to look for its event.
        let event = if ours && before.started { &mut self.event } else { &mut self.further_event };
        let started_at = s.started_at.map(Timestamp::millis);
        let told = event.execute(params![seq, tenant, s.kind.code(), s.at.millis(), s.attempt, started_at, s.detail, s.payload])?;
        if told == 1 {
            self.suppress(s, &before)?;
            if let Some(key) = provider_key(s) {
                self.connection.prepare_cached(NAME)?.execute(params![key.bucket, key.digest, seq])?;
            }
        }
        if job.is_none_or(|(attempt, _)| attempt <= s.attempt) {
            self.raise.execute(params![
                seq,
                tenant,
                s.status.code(),
                s.provider,
                s.config.map(|c| Id(c.0)),
                s.provider_message_id,
                s.segments,
                s.cost_currency,
                s.cost_micros,
                s.failure_reason,
            ])?;
            if s.status.is_settled() && s.status > before.status {
                self.outcomes.add(s.tenant, s.seq, before.environment, before.channel, s.status);
            }
        }
        match s.next {
            _ if !ours => {}
            // What a report has ended meanwhile is not sent again.
            Next::At(Action::Send | Action::GiveUp, _) if before.status > Status::Sent => {
                self.finish.execute([seq])?;
            }
            Next::Done => {
                self.finish.execute([seq])?;
            }
            Next::At(action, at) => {
                self.reschedule.execute(params![seq, action.code(), at.millis(), s.tried.as_ref().map(Tried::text), s.outlet.0])?;
            }
        }
        Ok(())
    }

    /// Adds what the outcome says of the recipient.
    fn suppress(&self, s: &Settlement, message: &State) -> Result<()> {
        let Some(suppresses) = &s.suppresses else { return Ok(()) };
        let record = SuppressionRecord {
            id: suppresses.id,
            tenant: s.tenant,
            environment: message.environment,
            channel: message.channel,
            address: suppresses.address.clone(),
            reason: suppresses.reason,
            source: SuppressionSource::Answer,
            message: Some(s.seq),
            detail: s.detail.clone(),
            created_at: s.at,
        };
        suppressions::insert(self.connection, &record).map(drop)
    }
}

/// Takes one job away from an epoch that is over.
pub(super) fn reap(c: &Connection, lease: Lease, seq: i64, now: Timestamp, give_up_at: Timestamp, reaped: &mut Reaped) -> Result<()> {
    let held = c
        .prepare_cached(HELD_JOB)?
        .query_row([lease.0, seq], |r| Ok((TenantId(id(r, 0)?), r.get::<_, i16>(1)?, time_or_null(r, 2)?)))
        .optional()?;
    let Some((tenant, attempt, started_at)) = held else { return Ok(()) };
    let Some(started_at) = started_at else {
        c.prepare_cached(RELEASE)?.execute([lease.0, seq])?;
        reaped.released += 1;
        return Ok(());
    };
    let tenant = Id(tenant.0);
    let nothing: Option<&str> = None;
    let event = params![seq, tenant, EventKind::OutcomeUnknown.code(), now.millis(), attempt, started_at.millis(), nothing, nothing];
    c.prepare_cached(INSERT_EVENT)?.execute(event)?;
    let retry = c.prepare_cached(RETRIES_UNKNOWN)?.query_row([tenant], |r| r.get(0)).optional()?.unwrap_or(false);
    let (action, at) = if retry { (Action::Send, now) } else { (Action::GiveUp, give_up_at) };
    c.prepare_cached(REAPED)?.execute(params![seq, action.code(), at.millis()])?;
    reaped.unknown += 1;
    Ok(())
}

#[async_trait]
impl Queue for SqliteStore {
    async fn start(&self, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>> {
        let starts = starts.to_vec();
        self.write(move |c| start(c, lease, &starts, now)).await
    }

    async fn settle(&self, lease: Lease, settlements: &[Settlement]) -> Result<()> {
        let settlements = settlements.to_vec();
        self.write(move |c| {
            let mut settling = Settling::new(c)?;
            settlements.iter().try_for_each(|s| settling.settle(lease, s))?;
            settling.outcomes.store(c)
        })
        .await
    }

    async fn claim(&self, lease: Lease, limit: usize, per_lane: usize, skip: &[Lane], now: Timestamp) -> Result<Claimed> {
        let skip = skip.iter().copied().collect();
        // Most claims find nothing, so a reader looks first and the writer is not bothered.
        let found = self.read(move |c| claim::look(c, &skip, now)).await?;
        if found.due.is_empty() || limit == 0 || per_lane == 0 {
            return Ok(Claimed { jobs: Vec::new(), next_due: found.next_due });
        }
        let last = std::sync::Arc::clone(&self.last_lane);
        self.write(move |c| {
            let mut last = last.lock();
            let jobs = claim::take(c, lease, found.due_after(*last), limit, per_lane)?;
            if let Some(job) = jobs.last() {
                *last = Some(job.lane);
            }
            Ok(Claimed { jobs, next_due: found.next_due })
        })
        .await
    }

    async fn release(&self, lease: Lease, seqs: &[Seq]) -> Result<()> {
        let seqs = seqs.to_vec();
        self.write(move |c| {
            let mut release = c.prepare_cached(RELEASE)?;
            seqs.iter().try_for_each(|seq| release.execute([lease.0, seq.0]).map(drop))?;
            Ok(())
        })
        .await
    }

    async fn park(&self, lease: Lease, jobs: &[(Seq, Timestamp)]) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let jobs = jobs.to_vec();
        self.write(move |c| {
            let mut park = c.prepare_cached(PARK)?;
            jobs.iter().try_for_each(|(seq, until)| park.execute(params![lease.0, seq.0, until.millis()]).map(drop))?;
            Ok(())
        })
        .await
    }

    async fn unpark(&self, tenant: TenantId, channel: Channel, rows: usize) -> Result<usize> {
        let parked = move |c: &Connection| -> Result<Vec<i64>> {
            let mut select = c.prepare_cached(PARKED)?;
            Ok(select.query_map(params![Id(tenant.0), channel.code(), limit(rows)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
        };
        // Mostly there is nothing, and the writer is not bothered.
        if self.read(parked).await?.is_empty() {
            return Ok(0);
        }
        self.write(move |c| {
            let mut unpark = c.prepare_cached(UNPARK)?;
            let mut done = 0;
            for seq in parked(c)? {
                done += unpark.execute([seq])?;
            }
            Ok(done)
        })
        .await
    }

    async fn list_parked(&self, after: Option<(TenantId, Channel)>, rows: usize) -> Result<Vec<(TenantId, Channel)>> {
        self.read(move |c| {
            let mut select = c.prepare_cached(NEXT_PARKED)?;
            let mut found: Vec<(TenantId, Channel)> = Vec::new();
            while found.len() < rows {
                // No id is empty, so every one comes after this.
                let (tenant, channel) =
                    found.last().copied().or(after).map_or((Vec::new(), 0), |(t, c)| (t.0.as_bytes().to_vec(), c.code()));
                let read = |r: &Row<'_>| Ok((TenantId(id(r, 0)?), code(r, 1, Channel::from_code)?));
                let Some(next) = select.query_row(params![tenant, channel], read).optional()? else { break };
                found.push(next);
            }
            Ok(found)
        })
        .await
    }

    async fn find_job(&self, tenant: TenantId, seq: Seq) -> Result<Option<JobRecord>> {
        let read = |r: &Row<'_>| {
            Ok(JobRecord {
                action: code(r, 0, Action::from_code)?,
                attempt: r.get(1)?,
                due_at: time(r, 2)?,
                expires_at: time(r, 3)?,
                held: r.get(4)?,
                started_at: time_or_null(r, 5)?,
                tried: r.get::<_, Option<String>>(6)?.as_deref().map(Tried::parse),
                parked: r.get(7)?,
            })
        };
        self.read(move |c| Ok(c.prepare_cached(FIND_JOB)?.query_row(params![seq.0, Id(tenant.0)], read).optional()?)).await
    }

    async fn release_unstarted(&self, lease: Lease, except: &[Seq]) -> Result<usize> {
        let except: HashSet<i64> = except.iter().map(|seq| seq.0).collect();
        // No index tells what an epoch holds, so a reader looks for it.
        let unstarted: Vec<i64> = self
            .read(move |c| {
                let mut select = c.prepare_cached(UNSTARTED)?;
                let all: Vec<i64> = select.query_map([lease.0], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
                Ok(all.into_iter().filter(|seq| !except.contains(seq)).collect())
            })
            .await?;
        if unstarted.is_empty() {
            return Ok(0);
        }
        self.write(move |c| {
            let mut release = c.prepare_cached(RELEASE_UNSTARTED)?;
            let mut released = 0;
            for seq in unstarted {
                released += release.execute([lease.0, seq])?;
            }
            Ok(released)
        })
        .await
    }

    async fn reap(&self, lease: Lease, now: Timestamp, give_up_at: Timestamp, rows: usize) -> Result<Reaped> {
        // No index tells what an epoch holds (it would cost each acceptance), so a reader looks for it.
        let held: Vec<i64> = self
            .read(move |c| {
                let mut select = c.prepare_cached(HELD)?;
                Ok(select.query_map([lease.0, limit(rows)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        if held.is_empty() {
            return Ok(Reaped::default());
        }
        self.write(move |c| {
            let mut reaped = Reaped::default();
            held.iter().try_for_each(|seq| reap(c, lease, *seq, now, give_up_at, &mut reaped))?;
            Ok(reaped)
        })
        .await
    }

    async fn survey(&self, after: Option<Seq>, rows: usize, now: Timestamp, lost_before: Timestamp) -> Result<Survey> {
        let (after, first) = (after.map_or(-1, |seq| seq.0), Seq::first_at(lost_before.max(Timestamp::from_millis(0))).0);
        self.read(move |c| {
            let (mut channels, mut lost, mut seen, mut last) = (BTreeMap::<Channel, (i64, Option<i64>)>::new(), Vec::new(), 0, None);
            let mut select = c.prepare_cached(SURVEY)?;
            let mut found = select.query(params![after, limit(rows), first, lost_before.millis()])?;
            while let Some(row) = found.next()? {
                (seen, last) = (seen + 1, Some(Seq(row.get(0)?)));
                let (jobs, oldest) = channels.entry(code(row, 1, Channel::from_code)?).or_default();
                *jobs += 1;
                let due_at: i64 = row.get(2)?;
                if due_at <= now.millis() {
                    *oldest = Some(oldest.map_or(due_at, |other| other.min(due_at)));
                }
                if let Some(epoch) = row.get(3)?
                    && !lost.contains(&Lease(epoch))
                {
                    lost.push(Lease(epoch));
                }
            }
            let channels = channels.into_iter().map(|(c, (jobs, oldest))| (c, jobs, oldest.map(Timestamp::from_millis))).collect();
            Ok(Survey::of(channels, lost, last.filter(|_| seen == rows)))
        })
        .await
    }
}
