//! Usage in SQLite: what acceptance and settling counted, and the counting itself ([`Counts`], [`Outcomes`]), which is
//! done in memory for a batch and written down once at its end.

use std::{collections::HashMap, ops::RangeInclusive};

use async_trait::async_trait;
use raven_core::{Channel, Day, Environment, KeyId, Seq, Status, TenantId};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{
    SqliteStore,
    rows::{Id, code, id, limit},
};
use crate::{NewMessage, Result, Usage, Usages, usage::Sums};

pub(super) const STATEMENTS: &[&str] =
    &[ACCEPTED, OUTCOMES, QUOTA_USED, LIVE, STORE_QUOTA, ADD_ACCEPTED, ADD_OUTCOMES, OLD_QUOTAS, DELETE_QUOTA, FULL_BUCKETS, DELETE_BUCKET];

const ACCEPTED: &str = "SELECT day, channel, key_id, messages, suppressed FROM usage_accepted
  WHERE tenant_id = ?1 AND day >= ?2 AND day <= ?3 AND (?4 IS NULL OR environment = ?4)";
const OUTCOMES: &str = "SELECT day, channel, status, messages FROM usage_outcomes
  WHERE tenant_id = ?1 AND day >= ?2 AND day <= ?3 AND (?4 IS NULL OR environment = ?4)";
const QUOTA_USED: &str = "SELECT used FROM quotas WHERE tenant_id = ?1 AND day = ?2 AND slot = -1";
const LIVE: &str =
    "SELECT coalesce(sum(messages - suppressed), 0) FROM usage_accepted WHERE tenant_id = ?1 AND day = ?2 AND environment = ?3";
// Only this engine's central row: all that is granted is used.
const STORE_QUOTA: &str = "INSERT INTO quotas (tenant_id, day, slot, granted, used) VALUES (?1, ?2, -1, ?3, ?3)
  ON CONFLICT (tenant_id, day, slot) DO UPDATE SET granted = excluded.granted, used = excluded.used";
const ADD_ACCEPTED: &str = "INSERT INTO usage_accepted (tenant_id, day, environment, channel, key_id, slot, messages, suppressed)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
  ON CONFLICT (tenant_id, day, environment, channel, key_id, slot) DO UPDATE SET messages = messages + excluded.messages,
    suppressed = suppressed + excluded.suppressed";
const ADD_OUTCOMES: &str = "INSERT INTO usage_outcomes (tenant_id, day, environment, channel, status, slot, messages)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
  ON CONFLICT (tenant_id, day, environment, channel, status, slot) DO UPDATE SET messages = messages + excluded.messages";
const OLD_QUOTAS: &str = "SELECT tenant_id, day, slot FROM quotas WHERE day < ?1 LIMIT ?2";
const DELETE_QUOTA: &str = "DELETE FROM quotas WHERE tenant_id = ?1 AND day = ?2 AND slot = ?3";
const FULL_BUCKETS: &str = "SELECT bucket FROM rate_limits WHERE tat < ?1 LIMIT ?2";
const DELETE_BUCKET: &str = "DELETE FROM rate_limits WHERE bucket = ?1 AND tat < ?2";

/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;

/// A tenant's day: what counted against its quota before this batch, and in it.
struct Metered {
    before: i64,
    added: i64,
    /// The limit turned something away, so what it was measured against is written down.
    refused: bool,
}

/// A row of `usage_accepted`: tenant, day, environment, channel, key, slot.
type AcceptedRow = (TenantId, Day, Environment, Channel, Option<KeyId>, u8);

/// What a batch of acceptances adds.
#[derive(Default)]
pub(super) struct Counts {
    quotas: HashMap<(TenantId, Day), Metered>,
    /// Messages, and those of them that are suppressed.
    accepted: HashMap<AcceptedRow, (i64, i64)>,
}

impl Counts {
    /// Is there room for this message in its tenant's day? One that does not count always has it.
    pub(super) fn has_room(&mut self, c: &Connection, m: &NewMessage) -> Result<bool> {
        let Some(most) = m.quota else { return Ok(true) };
        let whose = (m.tenant, m.seq.at().day());
        let known = match self.quotas.get(&whose) {
            Some(known) => known.before + known.added,
            None => {
                let before = before(c, whose.0, whose.1)?;
                self.quotas.insert(whose, Metered { before, added: 0, refused: false });
                before
            }
        };
        Ok(known < most)
    }

    /// Counts a message that was created.
    pub(super) fn add(&mut self, m: &NewMessage) {
        let day = m.seq.at().day();
        if m.quota.is_some()
            && let Some(metered) = self.quotas.get_mut(&(m.tenant, day))
        {
            metered.added += 1;
        }
        self.accepted.entry((m.tenant, day, m.environment, m.channel, m.key, m.seq.slot())).or_default().0 += 1;
    }

    /// Counts a message that was created and is not to be sent: no quota is debited for it.
    pub(super) fn add_suppressed(&mut self, m: &NewMessage) {
        let counted = self.accepted.entry((m.tenant, m.seq.at().day(), m.environment, m.channel, m.key, m.seq.slot())).or_default();
        *counted = (counted.0 + 1, counted.1 + 1);
    }

    /// Notes that a message was refused for its tenant's quota.
    pub(super) fn refuse(&mut self, m: &NewMessage) {
        if let Some(metered) = self.quotas.get_mut(&(m.tenant, m.seq.at().day())) {
            metered.refused = true;
        }
    }

    /// Forgets what was added: the messages were taken back.
    pub(super) fn reset(&mut self) {
        self.quotas.values_mut().for_each(|metered| (metered.added, metered.refused) = (0, false));
        self.accepted.clear();
    }

    /// Writes down what was added.
    pub(super) fn store(self, c: &Connection) -> Result<()> {
        for ((tenant, day, environment, channel, key, slot), (messages, suppressed)) in self.accepted {
            let key = Id(key.map_or(Uuid::nil(), |key| key.0));
            let values = params![Id(tenant.0), day.0, environment.code(), channel.code(), key, slot, messages, suppressed];
            c.prepare_cached(ADD_ACCEPTED)?.execute(values)?;
        }
        for ((tenant, day), metered) in self.quotas {
            if metered.added > 0 || metered.refused {
                c.prepare_cached(STORE_QUOTA)?.execute(params![Id(tenant.0), day.0, metered.before + metered.added])?;
            }
        }
        Ok(())
    }
}

/// What counts against the day's quota so far. The first message that counts finds those that were accepted while the
/// tenant's plan had no limit.
fn before(c: &Connection, tenant: TenantId, day: Day) -> Result<i64> {
    let tenant = Id(tenant.0);
    if let Some(used) = c.prepare_cached(QUOTA_USED)?.query_row(params![tenant, day.0], |r| r.get(0)).optional()? {
        return Ok(used);
    }
    Ok(c.prepare_cached(LIVE)?.query_row(params![tenant, day.0, Environment::Live.code()], |r| r.get(0))?)
}

/// What the settlements of one call add.
#[derive(Default)]
pub(super) struct Outcomes(HashMap<(TenantId, Day, Environment, Channel, Status, u8), i64>);

impl Outcomes {
    /// Counts a message that rose from one status to another.
    pub(super) fn add(&mut self, tenant: TenantId, seq: Seq, environment: Environment, channel: Channel, status: Status) {
        *self.0.entry((tenant, seq.at().day(), environment, channel, status, seq.slot())).or_default() += 1;
    }

    /// Writes down what was added.
    pub(super) fn store(self, c: &Connection) -> Result<()> {
        for ((tenant, day, environment, channel, status, slot), messages) in self.0 {
            let values = params![Id(tenant.0), day.0, environment.code(), channel.code(), status.code(), slot, messages];
            c.prepare_cached(ADD_OUTCOMES)?.execute(values)?;
        }
        Ok(())
    }
}

/// Adds rows up that differ in what is not asked for: environment and slot.
fn usage(c: &Connection, tenant: TenantId, environment: Option<Environment>, days: &RangeInclusive<Day>) -> Result<Usage> {
    let values = params![Id(tenant.0), days.start().0, days.end().0, environment.map(Environment::code)];
    let mut sums = Sums::default();
    let mut select = c.prepare_cached(ACCEPTED)?;
    let mut rows = select.query(values)?;
    while let Some(row) = rows.next()? {
        let key = Some(id(row, 2)?).filter(|key| !key.is_nil()).map(KeyId);
        sums.accept(Day(row.get(0)?), code(row, 1, Channel::from_code)?, key, row.get(3)?, row.get(4)?);
    }
    let mut select = c.prepare_cached(OUTCOMES)?;
    let mut rows = select.query(values)?;
    while let Some(row) = rows.next()? {
        sums.reach(Day(row.get(0)?), code(row, 1, Channel::from_code)?, code(row, 2, Status::from_code)?, row.get(3)?);
    }
    Ok(sums.usage())
}

/// The primary key of a row of `quotas`.
type QuotaRow = (Id, i32, i64);

fn forget(c: &Connection, quotas: &[QuotaRow], buckets: &[Id], full_before: i64) -> Result<usize> {
    let mut forgotten = 0;
    for (tenant, day, slot) in quotas {
        forgotten += c.prepare_cached(DELETE_QUOTA)?.execute(params![tenant, day, slot])?;
    }
    for bucket in buckets {
        forgotten += c.prepare_cached(DELETE_BUCKET)?.execute(params![bucket, full_before])?;
    }
    Ok(forgotten)
}

#[async_trait]
impl Usages for SqliteStore {
    async fn usage(&self, tenant: TenantId, environment: Option<Environment>, days: RangeInclusive<Day>) -> Result<Usage> {
        self.read(move |c| usage(c, tenant, environment, &days)).await
    }

    async fn quota_used(&self, tenant: TenantId, day: Day) -> Result<i64> {
        self.read(move |c| {
            let used = c.prepare_cached(QUOTA_USED)?.query_row(params![Id(tenant.0), day.0], |r| r.get(0)).optional()?;
            Ok(used.unwrap_or(0))
        })
        .await
    }

    async fn purge_counters(&self, day: Day, rows: usize) -> Result<usize> {
        let full_before = day.start().millis().saturating_mul(NANOS);
        // No index tells them, so a reader looks for them and the writer is not held up by what is kept.
        let (quotas, buckets): (Vec<QuotaRow>, Vec<Id>) = self
            .read(move |c| {
                let mut select = c.prepare_cached(OLD_QUOTAS)?;
                let old = select.query_map(params![day.0, limit(rows)], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
                let old = old.collect::<rusqlite::Result<_>>()?;
                let mut select = c.prepare_cached(FULL_BUCKETS)?;
                let full = select.query_map(params![full_before, limit(rows)], |r| r.get(0))?;
                Ok((old, full.collect::<rusqlite::Result<_>>()?))
            })
            .await?;
        if quotas.is_empty() && buckets.is_empty() {
            return Ok(0);
        }
        self.write(move |c| forget(c, &quotas, &buckets, full_before)).await
    }
}
