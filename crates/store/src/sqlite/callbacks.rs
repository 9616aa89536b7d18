//! Callbacks in SQLite: kept, taken in turn, applied to messages.

use std::collections::HashSet;

use async_trait::async_trait;
use raven_core::{
    Channel, ConfigId, Environment, EventKind, Priority, Seq, Status, SuppressionReason, SuppressionSource, TenantId, Timestamp,
    lookup::oldest_bucket, money::Money, suppression::indexed,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, inbound,
    rows::{Id, code, id, limit},
    suppressions,
    usage::Outcomes,
};
use crate::{
    Action, CallbackRecord, CallbackState, Callbacks, Preference, Reading, Replay, Reported, Result, Suppressing, SuppressionRecord,
    Telling, Tried,
    callbacks::{Addition, Target, Told},
};

pub(super) const STATEMENTS: &[&str] = &[
    INSERT,
    DUE,
    POSTPONE,
    NOTE,
    BY_PROVIDER_ID,
    TARGET,
    LINES,
    INSERT_LINE,
    RAISE,
    RESEND,
    END_JOB,
    SOFT_BOUNCE,
    FORGET_BOUNCES,
    LIFT,
    REPLAYED,
    REPLAY,
    OLD,
    DELETE,
    OLD_IDS,
    DELETE_ID,
    OLD_BOUNCES,
    DELETE_BOUNCES,
];

const INSERT: &str = "INSERT INTO callbacks
  (seq, tenant_id, config_id, is_trusted, once, method, query, headers, body, state, tries, due_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10, ?11) ON CONFLICT DO NOTHING";
const DUE: &str = "SELECT seq, tenant_id, config_id, is_trusted, once, method, query, headers, body, tries FROM callbacks
  WHERE state = 1 AND due_at <= ?1 ORDER BY due_at, seq LIMIT ?2";
const POSTPONE: &str = "UPDATE callbacks SET due_at = ?2, tries = tries + 1 WHERE seq = ?1";
const NOTE: &str = "UPDATE callbacks SET state = ?2, due_at = coalesce(?3, due_at), problem = ?4 WHERE seq = ?1";
// One that went on through another config has that one's id by now.
const BY_PROVIDER_ID: &str = "SELECT p.seq FROM provider_ids p JOIN messages m ON m.seq = p.seq
  WHERE p.bucket = ?1 AND p.digest = ?2 AND m.tenant_id = ?3 AND (m.provider_message_id = ?4 OR m.config_id <> ?5)
  ORDER BY p.seq DESC LIMIT 1";
const TARGET: &str = "SELECT m.environment, m.channel, m.status, m.recipient, m.config_id, m.provider_message_id, m.failure_reason,
    m.cost_currency, m.cost_micros, m.segments, j.action, j.started_at IS NOT NULL, m.priority
  FROM messages m LEFT JOIN jobs j ON j.seq = m.seq WHERE m.seq = ?1 AND m.tenant_id = ?2";
const LINES: &str = "SELECT kind, at, report, attempt FROM events WHERE message_seq = ?1 ORDER BY n";
const INSERT_LINE: &str = "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt, detail, payload, report)
  VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE message_seq = ?1), ?2, ?3, ?4, 0, ?5, ?6, ?7)";
const RAISE: &str = "UPDATE messages SET status = ?2, failure_reason = ?3, cost_currency = ?4, cost_micros = ?5, segments = ?6,
    provider_message_id = ?7 WHERE seq = ?1";
// The job that it may have waits for word of the attempt that failed.
const RESEND: &str = "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at, urgency, tried, outlet)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
  ON CONFLICT (seq) DO UPDATE SET action = excluded.action, due_at = excluded.due_at, epoch = NULL, config_id = NULL, parked = NULL,
    urgency = excluded.urgency, tried = excluded.tried, outlet = excluded.outlet";
const END_JOB: &str = "DELETE FROM jobs WHERE seq = ?1";
// What was counted before the window counts no more.
const SOFT_BOUNCE: &str =
    "INSERT INTO soft_bounces (tenant_id, environment, channel, lookup, bounces, since) VALUES (?1, ?2, ?3, ?4, 1, ?5)
  ON CONFLICT DO UPDATE SET bounces = CASE WHEN since < ?6 THEN 1 ELSE bounces + 1 END, since = CASE WHEN since < ?6 THEN ?5 ELSE since END
  RETURNING bounces";
const FORGET_BOUNCES: &str = "DELETE FROM soft_bounces WHERE tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND lookup = ?4";
const LIFT: &str = "DELETE FROM suppressions WHERE tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND lookup = ?4 AND reason = ?5";
const REPLAYED: &str = "SELECT seq FROM callbacks WHERE seq > ?1 AND seq >= ?2 AND (?3 IS NULL OR tenant_id = ?3)
    AND (?4 IS NULL OR config_id = ?4) AND (?5 OR state IN (3, 4)) AND state <> 1 ORDER BY seq LIMIT ?6";
const REPLAY: &str = "UPDATE callbacks SET state = 1, tries = 0, due_at = ?2, problem = NULL WHERE seq = ?1";
const OLD: &str = "SELECT seq FROM callbacks WHERE seq < ?1 AND state <> 1 ORDER BY seq LIMIT ?2";
const DELETE: &str = "DELETE FROM callbacks WHERE seq = ?1 AND state <> 1";
const OLD_IDS: &str = "SELECT bucket, digest, seq FROM provider_ids WHERE bucket < ?1 LIMIT ?2";
const DELETE_ID: &str = "DELETE FROM provider_ids WHERE bucket = ?1 AND digest = ?2 AND seq = ?3";
const OLD_BOUNCES: &str = "SELECT tenant_id, environment, channel, lookup FROM soft_bounces WHERE since < ?1 LIMIT ?2";
const DELETE_BOUNCES: &str =
    "DELETE FROM soft_bounces WHERE tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND lookup = ?4 AND since < ?5";

const _: () = {
    assert!(CallbackState::Waiting.code() == 1 && CallbackState::Unmatched.code() == 3 && CallbackState::Unreadable.code() == 4);
};

fn record(row: &Row<'_>) -> rusqlite::Result<CallbackRecord> {
    Ok(CallbackRecord {
        seq: Seq(row.get(0)?),
        tenant: TenantId(id(row, 1)?),
        config: ConfigId(id(row, 2)?),
        is_trusted: row.get(3)?,
        once: row.get(4)?,
        method: row.get(5)?,
        query: row.get(6)?,
        headers: row.get(7)?,
        body: row.get(8)?,
        tries: row.get(9)?,
    })
}

/// A message with what a report is compared with.
fn target(c: &Connection, tenant: TenantId, seq: Seq) -> Result<Option<Target>> {
    let read = |row: &Row<'_>| {
        let (currency, micros): (Option<String>, Option<i64>) = (row.get(7)?, row.get(8)?);
        let action: Option<i16> = row.get(10)?;
        Ok(Target {
            seq,
            environment: code(row, 0, Environment::from_code)?,
            channel: code(row, 1, Channel::from_code)?,
            status: code(row, 2, Status::from_code)?,
            priority: code(row, 12, Priority::from_code)?,
            recipient: row.get(3)?,
            config: row.get::<_, Option<Id>>(4)?.map(|id| ConfigId(id.0)),
            provider_message_id: row.get(5)?,
            failure_reason: row.get(6)?,
            cost: currency.zip(micros).map(|(currency, micros)| Money { currency, micros }),
            segments: row.get(9)?,
            job: action.and_then(Action::from_code).zip(Some(row.get(11)?)),
            sent_at: None,
            attempt: 0,
            told: HashSet::new(),
            failed: Tried::default(),
        })
    };
    let Some(mut target) = c.prepare_cached(TARGET)?.query_row(params![seq.0, Id(tenant.0)], read).optional()? else { return Ok(None) };
    let mut select = c.prepare_cached(LINES)?;
    let mut lines = select.query([seq.0])?;
    while let Some(row) = lines.next()? {
        let (kind, at) = (code(row, 0, EventKind::from_code)?, Timestamp::from_millis(row.get(1)?));
        target.read(kind, at, row.get(3)?, row.get(2)?);
    }
    Ok(Some(target))
}

/// The message that the provider knows by this id.
fn by_provider_id(c: &Connection, tenant: TenantId, config: ConfigId, provider_id: &str, now: Timestamp) -> Result<Option<Seq>> {
    let digest = raven_core::lookup::digest(config, provider_id);
    let mut select = c.prepare_cached(BY_PROVIDER_ID)?;
    // The newest ones first: most callbacks come within minutes.
    for bucket in (oldest_bucket(now)..=raven_core::lookup::bucket(now)).rev() {
        let found = select.query_row(params![bucket, digest, Id(tenant.0), provider_id, Id(config.0)], |r| r.get(0)).optional()?;
        if found.is_some() {
            return Ok(found.map(Seq));
        }
    }
    Ok(None)
}

/// Applies readings one after another.
struct Applying<'c> {
    c: &'c Connection,
    now: Timestamp,
    outcomes: Outcomes,
}

impl Applying<'_> {
    fn apply(&mut self, reading: &Reading) -> Result<CallbackState> {
        let (state, problem) = match &reading.tells {
            Err(why) => (CallbackState::Unreadable, Some(why.as_str())),
            Ok(tellings) => {
                let mut missing = false;
                for telling in tellings {
                    match telling {
                        Telling::Reported(report) => missing |= !self.report(reading, report)?,
                        Telling::Inbound(message) => {
                            inbound::insert(self.c, message)?;
                        }
                        Telling::Preference(preference) => self.prefer(reading, preference)?,
                    }
                }
                match (missing, reading.again_at) {
                    (false, _) => (CallbackState::Applied, None),
                    (true, Some(_)) => (CallbackState::Waiting, None),
                    (true, None) => (CallbackState::Unmatched, None),
                }
            }
        };
        let again = reading.again_at.filter(|_| state == CallbackState::Waiting).map(Timestamp::millis);
        if let Some(callback) = reading.callback {
            self.c.prepare_cached(NOTE)?.execute(params![callback.0, state.code(), again, problem])?;
        }
        Ok(state)
    }

    /// `false` when the message is not known, or not yet.
    fn report(&mut self, reading: &Reading, report: &Reported) -> Result<bool> {
        let seq = match (report.message, &report.provider_message_id) {
            (Some(seq), _) => Some(seq),
            (None, Some(provider_id)) => by_provider_id(self.c, reading.tenant, reading.config, provider_id, self.now)?,
            (None, None) => None,
        };
        let Some(seq) = seq else { return Ok(false) };
        let Some(mut target) = target(self.c, reading.tenant, seq)? else { return Ok(false) };
        match target.apply(reading, report, self.now) {
            Told::Added(addition) => self.add(reading, report, &target, &addition).map(|()| true),
            Told::Nothing => Ok(true),
            Told::TooEarly => Ok(false),
        }
    }

    fn add(&mut self, reading: &Reading, report: &Reported, after: &Target, addition: &Addition) -> Result<()> {
        let (c, seq, tenant) = (self.c, after.seq.0, Id(reading.tenant.0));
        let line = params![seq, tenant, addition.kind.code(), addition.at.millis(), addition.detail, report.payload, addition.key];
        c.prepare_cached(INSERT_LINE)?.execute(line)?;
        let (currency, micros) = after.cost.as_ref().map(|cost| (cost.currency.as_str(), cost.micros)).unzip();
        let values = params![seq, after.status.code(), after.failure_reason, currency, micros, after.segments, after.provider_message_id];
        c.prepare_cached(RAISE)?.execute(values)?;
        if let Some(status) = addition.rose_to.filter(|status| status.is_settled()) {
            self.outcomes.add(reading.tenant, after.seq, after.environment, after.channel, status);
        }
        if let Some(resend) = &addition.resend {
            let values = params![
                seq,
                tenant,
                after.environment.code(),
                after.channel.code(),
                Action::Send.code(),
                resend.attempt,
                self.now.millis(),
                resend.expires_at.millis(),
                resend.urgency.code(),
                resend.tried.text(),
                resend.outlet.0,
            ];
            c.prepare_cached(RESEND)?.execute(values)?;
        }
        if addition.ends_job {
            c.prepare_cached(END_JOB)?.execute([seq])?;
        }
        if addition.is_delivery {
            let whose = params![tenant, after.environment.code(), after.channel.code(), indexed(&addition.address)];
            c.prepare_cached(FORGET_BOUNCES)?.execute(whose)?;
        }
        match &report.suppresses {
            Some(suppressing) if reading.is_trusted => self.suppress(reading, report, after, addition, suppressing),
            _ => Ok(()),
        }
    }

    fn suppress(&self, reading: &Reading, report: &Reported, after: &Target, addition: &Addition, suppressing: &Suppressing) -> Result<()> {
        let mut detail = addition.detail.clone();
        if let Some(patience) = suppressing.only_after {
            let values = params![
                Id(reading.tenant.0),
                after.environment.code(),
                after.channel.code(),
                indexed(&addition.address),
                report.at.millis(),
                patience.since.millis(),
            ];
            let bounces: i64 = self.c.prepare_cached(SOFT_BOUNCE)?.query_row(values, |r| r.get(0))?;
            if bounces < patience.bounces {
                return Ok(());
            }
            detail = Some(format!("{bounces} soft bounces without a delivery"));
        }
        let record = SuppressionRecord {
            id: suppressing.id,
            tenant: reading.tenant,
            environment: after.environment,
            channel: after.channel,
            address: addition.address.clone(),
            reason: suppressing.reason,
            source: reading.source(),
            message: Some(after.seq),
            detail,
            created_at: self.now,
        };
        suppressions::insert(self.c, &record).map(drop)
    }

    fn prefer(&self, reading: &Reading, preference: &Preference) -> Result<()> {
        if !reading.is_trusted {
            return Ok(());
        }
        // Configs are for live messages.
        let (environment, reason) = (Environment::Live, SuppressionReason::Unsubscribed);
        if preference.wants {
            let whose =
                params![Id(reading.tenant.0), environment.code(), reading.channel.code(), indexed(&preference.address), reason.code()];
            self.c.prepare_cached(LIFT)?.execute(whose)?;
            return Ok(());
        }
        let record = SuppressionRecord {
            id: preference.id,
            tenant: reading.tenant,
            environment,
            channel: reading.channel,
            address: preference.address.clone(),
            reason,
            source: if preference.is_inbound { SuppressionSource::Inbound } else { SuppressionSource::Callback },
            message: preference.message,
            detail: preference.detail.clone(),
            created_at: self.now,
        };
        suppressions::insert(self.c, &record).map(drop)
    }
}

#[async_trait]
impl Callbacks for SqliteStore {
    async fn record_callbacks(&self, batch: &[CallbackRecord], due_at: Timestamp) -> Result<Vec<bool>> {
        let batch = batch.to_vec();
        self.write(move |c| {
            let mut insert = c.prepare_cached(INSERT)?;
            let mut kept = Vec::with_capacity(batch.len());
            for r in &batch {
                let values = params![
                    r.seq.0,
                    Id(r.tenant.0),
                    Id(r.config.0),
                    r.is_trusted,
                    r.once,
                    r.method,
                    r.query,
                    r.headers,
                    r.body,
                    r.tries + 1,
                    due_at.millis(),
                ];
                kept.push(insert.execute(values)? == 1);
            }
            Ok(kept)
        })
        .await
    }

    async fn claim_callbacks(&self, most: usize, now: Timestamp, until: Timestamp) -> Result<Vec<CallbackRecord>> {
        // Most looks find nothing, so a reader looks first and the writer is not bothered.
        let is_due = self.read(move |c| Ok(c.prepare_cached(DUE)?.exists([now.millis(), 1])?)).await?;
        if !is_due {
            return Ok(Vec::new());
        }
        self.write(move |c| {
            let mut select = c.prepare_cached(DUE)?;
            let due: Vec<_> = select.query_map([now.millis(), limit(most)], record)?.collect::<rusqlite::Result<_>>()?;
            let mut postpone = c.prepare_cached(POSTPONE)?;
            due.iter().try_for_each(|r| postpone.execute([r.seq.0, until.millis()]).map(drop))?;
            Ok(due)
        })
        .await
    }

    async fn apply_callbacks(&self, readings: &[Reading], now: Timestamp) -> Result<Vec<CallbackState>> {
        let readings = readings.to_vec();
        self.write(move |c| {
            let mut applying = Applying { c, now, outcomes: Outcomes::default() };
            let states = readings.iter().map(|reading| applying.apply(reading)).collect::<Result<_>>()?;
            applying.outcomes.store(c)?;
            Ok(states)
        })
        .await
    }

    async fn find_by_provider_id(&self, tenant: TenantId, config: ConfigId, provider_id: &str, now: Timestamp) -> Result<Option<Seq>> {
        let provider_id = provider_id.to_owned();
        self.read(move |c| by_provider_id(c, tenant, config, &provider_id, now)).await
    }

    async fn replay_callbacks(&self, which: &Replay, after: Option<Seq>, most: usize, now: Timestamp) -> Result<(Option<Seq>, usize)> {
        let which = which.clone();
        self.write(move |c| {
            let from = which.from.map_or(0, |from| Seq::first_at(from.max(Timestamp::from_millis(0))).0);
            let (tenant, config) = (which.tenant.map(|t| Id(t.0)), which.config.map(|t| Id(t.0)));
            let mut select = c.prepare_cached(REPLAYED)?;
            let values = params![after.map_or(-1, |seq| seq.0), from, tenant, config, which.all, limit(most)];
            let found: Vec<i64> = select.query_map(values, |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
            let mut replay = c.prepare_cached(REPLAY)?;
            found.iter().try_for_each(|seq| replay.execute([*seq, now.millis()]).map(drop))?;
            Ok((found.last().filter(|_| found.len() == most).copied().map(Seq), found.len()))
        })
        .await
    }

    async fn purge_callbacks(&self, before: Timestamp, now: Timestamp, most: usize) -> Result<usize> {
        let old = Seq::first_at(before.max(Timestamp::from_millis(0))).0;
        let (callbacks, ids, bounces) = self
            .read(move |c| {
                let callbacks: Vec<i64> =
                    c.prepare_cached(OLD)?.query_map([old, limit(most)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
                let ids: Vec<(i32, i64, i64)> = c
                    .prepare_cached(OLD_IDS)?
                    .query_map(params![oldest_bucket(now), limit(most)], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                let bounces: Vec<(Id, i16, i16, String)> = c
                    .prepare_cached(OLD_BOUNCES)?
                    .query_map([before.millis(), limit(most)], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                Ok((callbacks, ids, bounces))
            })
            .await?;
        if callbacks.is_empty() && ids.is_empty() && bounces.is_empty() {
            return Ok(0);
        }
        self.write(move |c| {
            let mut gone = 0;
            for seq in callbacks {
                gone += c.prepare_cached(DELETE)?.execute([seq])?;
            }
            for (bucket, digest, seq) in ids {
                gone += c.prepare_cached(DELETE_ID)?.execute(params![bucket, digest, seq])?;
            }
            for (tenant, environment, channel, lookup) in bounces {
                gone += c.prepare_cached(DELETE_BOUNCES)?.execute(params![tenant, environment, channel, lookup, before.millis()])?;
            }
            Ok(gone)
        })
        .await
    }
}
