//! Callbacks: kept in batches, taken in turn, applied to messages in one transaction of a few statements, however many they are.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use raven_core::{
    Channel, ConfigId, Environment, EventKind, Priority, Seq, Status, SuppressionReason, SuppressionSource, TenantId, Timestamp,
    lookup::{bucket, oldest_bucket},
    money::Money,
    suppression::indexed,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Failure, Param},
    inbound,
    parts::{self, Parts},
    rows::{code, get, limit as limit_of, time},
    usage::{self, OutcomeRow},
};
use crate::{
    Action, CallbackRecord, CallbackState, Callbacks, Error, Preference, Reading, Replay, Reported, Result, Telling, Tried,
    callbacks::{Addition, Target, Told},
};

// Sorted, so that batches which overlap take their locks in the same order.
const RECORD: &str = "
INSERT INTO callbacks (seq, tenant_id, config_id, is_trusted, once, method, query, headers, body, state, tries, due_at)
SELECT r.seq, r.tenant_id, r.config_id, r.is_trusted, r.once, r.method, r.query, r.headers, r.body, 1, r.tries + 1, $11
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::smallint[])
  AS r (seq, tenant_id, config_id, is_trusted, once, method, query, headers, body, tries)
ORDER BY r.config_id, r.once, r.seq
ON CONFLICT DO NOTHING RETURNING seq";
const CLAIM: &str = "
UPDATE callbacks c SET due_at = $2, tries = tries + 1
WHERE c.seq = ANY (ARRAY(SELECT seq FROM callbacks WHERE state = 1 AND due_at <= $1 ORDER BY due_at, seq LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING c.seq, c.tenant_id, c.config_id, c.is_trusted, c.once, c.method, c.query, c.headers, c.body, (c.tries - 1)::smallint AS tries";
// An id is looked for in each bucket by itself: they are few, and a range of them would be read whole. A message that went on through
// another config has that one's id by now. OFFSET keeps each look-up one: as a join, the planner would read all ids there are.
const BY_PROVIDER_ID: &str = "
SELECT r.place, m.seq
FROM unnest($1::integer[], $2::bigint[], $3::uuid[], $4::text[], $7::uuid[]) AS r (place, digest, tenant_id, provider_id, config_id)
CROSS JOIN generate_series($5::integer, $6::integer) AS b (bucket)
CROSS JOIN LATERAL (SELECT p.seq FROM provider_ids p WHERE p.bucket = b.bucket AND p.digest = r.digest OFFSET 0) p
CROSS JOIN LATERAL (SELECT m.seq, m.tenant_id, m.provider_message_id, m.config_id FROM messages m WHERE m.seq = p.seq OFFSET 0) m
WHERE m.tenant_id = r.tenant_id AND (m.provider_message_id = r.provider_id OR m.config_id <> r.config_id)
ORDER BY m.seq";
const TARGETS: &str = "
SELECT m.seq, m.tenant_id, m.environment, m.channel, m.status, m.recipient, m.config_id, m.provider_message_id, m.failure_reason,
  m.cost_currency, m.cost_micros, m.segments, m.priority
FROM messages m WHERE m.seq = ANY ($1::bigint[]) AND m.seq BETWEEN $2 AND $3 ORDER BY m.seq FOR UPDATE";
// After the messages are locked, so that what others told of them is seen.
const AROUND: &str = "
SELECT e.message_seq AS seq, e.kind, e.at, e.report, e.attempt, NULL::smallint AS action, false AS started
FROM events e WHERE e.message_seq = ANY ($1::bigint[]) AND e.message_seq BETWEEN $2 AND $3
UNION ALL
SELECT j.seq, NULL, NULL, NULL, NULL, j.action, j.started_at IS NOT NULL FROM jobs j WHERE j.seq = ANY ($1)";
// The job that it may have waits for word of the attempt that failed.
const RESEND: &str = "
INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at, urgency, tried, outlet)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (seq) DO UPDATE SET action = EXCLUDED.action, due_at = EXCLUDED.due_at, epoch = NULL, config_id = NULL, parked = NULL,
  urgency = EXCLUDED.urgency, tried = EXCLUDED.tried, outlet = EXCLUDED.outlet";
const WRITE: &str = "
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::bigint[], $6::smallint[], $7::text[])
    AS m (seq, status, failure_reason, cost_currency, cost_micros, segments, provider_message_id)
), message AS (
  UPDATE messages t SET status = m.status, failure_reason = m.failure_reason, cost_currency = m.cost_currency, cost_micros = m.cost_micros,
    segments = m.segments, provider_message_id = m.provider_message_id
  FROM m WHERE t.seq = ANY ($1) AND t.seq BETWEEN $8 AND $9 AND t.seq = m.seq
), line AS (
  INSERT INTO events (message_seq, tenant_id, kind, at, attempt, detail, payload, report)
  SELECT l.seq, l.tenant_id, l.kind, l.at, 0, l.detail, l.payload, l.report
  FROM unnest($10::bigint[], $11::uuid[], $12::smallint[], $13::bigint[], $14::text[], $15::text[], $16::text[])
    WITH ORDINALITY AS l (seq, tenant_id, kind, at, detail, payload, report, place) ORDER BY l.place
), job AS (
  DELETE FROM jobs WHERE seq = ANY ($17::bigint[]) AND started_at IS NULL
)
INSERT INTO usage_outcomes (tenant_id, day, environment, channel, status, slot, messages)
SELECT u.tenant_id, u.day, u.environment, u.channel, u.status, u.slot, count(*)
FROM unnest($18::uuid[], $19::integer[], $20::smallint[], $21::smallint[], $22::smallint[], $23::integer[])
  AS u (tenant_id, day, environment, channel, status, slot)
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (tenant_id, day, environment, channel, status, slot) DO UPDATE SET messages = usage_outcomes.messages + EXCLUDED.messages";
const SOFT_BOUNCE: &str = "
INSERT INTO soft_bounces (tenant_id, environment, channel, lookup, bounces, since) VALUES ($1, $2, $3, $4, 1, $5)
ON CONFLICT (tenant_id, environment, channel, lookup) DO UPDATE SET
  bounces = CASE WHEN soft_bounces.since < $6 THEN 1 ELSE soft_bounces.bounces + 1 END,
  since = CASE WHEN soft_bounces.since < $6 THEN $5 ELSE soft_bounces.since END
RETURNING bounces";
const FORGET_BOUNCES: &str = "
DELETE FROM soft_bounces b USING unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::text[]) AS d (tenant_id, environment, channel, lookup)
WHERE b.tenant_id = d.tenant_id AND b.environment = d.environment AND b.channel = d.channel AND b.lookup = d.lookup";
const SUPPRESS: &str = "
INSERT INTO suppressions (id, tenant_id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
const LIFT: &str = "DELETE FROM suppressions WHERE tenant_id = $1 AND environment = $2 AND channel = $3 AND lookup = $4 AND reason = $5";
const NOTE: &str = "
UPDATE callbacks c SET state = n.state, due_at = COALESCE(n.due_at, c.due_at), problem = n.problem
FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::text[]) AS n (seq, state, due_at, problem)
WHERE c.seq = ANY ($1) AND c.seq = n.seq";
const REPLAY: &str = "
WITH found AS MATERIALIZED (
  SELECT seq FROM callbacks WHERE seq > $1 AND seq >= $2 AND ($3::uuid IS NULL OR tenant_id = $3) AND ($4::uuid IS NULL OR config_id = $4)
    AND ($5 OR state IN (3, 4)) AND state <> 1 ORDER BY seq LIMIT $6
)
UPDATE callbacks c SET state = 1, tries = 0, due_at = $7, problem = NULL FROM found f WHERE c.seq = f.seq RETURNING c.seq";
const PURGE: &str = "DELETE FROM callbacks WHERE seq = ANY (ARRAY(SELECT seq FROM callbacks WHERE seq < $1 AND state <> 1 ORDER BY seq LIMIT $2)) \
     AND state <> 1";
const PURGE_IDS: &str =
    "DELETE FROM provider_ids WHERE ctid = ANY (ARRAY(SELECT ctid FROM provider_ids WHERE bucket < $1 LIMIT $2)) AND bucket < $1";
const PURGE_BOUNCES: &str =
    "DELETE FROM soft_bounces WHERE ctid = ANY (ARRAY(SELECT ctid FROM soft_bounces WHERE since < $1 LIMIT $2)) AND since < $1";

const _: () = {
    assert!(CallbackState::Waiting.code() == 1 && CallbackState::Unmatched.code() == 3 && CallbackState::Unreadable.code() == 4);
};

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[
    RECORD,
    CLAIM,
    BY_PROVIDER_ID,
    TARGETS,
    AROUND,
    RESEND,
    WRITE,
    SOFT_BOUNCE,
    FORGET_BOUNCES,
    SUPPRESS,
    LIFT,
    NOTE,
    REPLAY,
    PURGE,
    PURGE_IDS,
    PURGE_BOUNCES,
];

fn record(row: &Row) -> Result<CallbackRecord> {
    Ok(CallbackRecord {
        seq: Seq(get(row, "seq")?),
        tenant: TenantId(get(row, "tenant_id")?),
        config: ConfigId(get(row, "config_id")?),
        is_trusted: get(row, "is_trusted")?,
        once: get(row, "once")?,
        method: get(row, "method")?,
        query: get(row, "query")?,
        headers: get(row, "headers")?,
        body: get(row, "body")?,
        tries: get(row, "tries")?,
    })
}

fn target(row: &Row) -> Result<((TenantId, Seq), Target)> {
    let seq = Seq(get(row, "seq")?);
    let (currency, micros): (Option<String>, Option<i64>) = (get(row, "cost_currency")?, get(row, "cost_micros")?);
    let target = Target {
        seq,
        environment: code(row, "environment", Environment::from_code)?,
        channel: code(row, "channel", Channel::from_code)?,
        status: code(row, "status", Status::from_code)?,
        priority: code(row, "priority", Priority::from_code)?,
        recipient: get(row, "recipient")?,
        config: get::<Option<Uuid>>(row, "config_id")?.map(ConfigId),
        provider_message_id: get(row, "provider_message_id")?,
        failure_reason: get(row, "failure_reason")?,
        cost: currency.zip(micros).map(|(currency, micros)| Money { currency, micros }),
        segments: get(row, "segments")?,
        job: None,
        sent_at: None,
        attempt: 0,
        told: HashSet::new(),
        failed: Tried::default(),
    };
    Ok(((TenantId(get(row, "tenant_id")?), seq), target))
}

/// A report, where it stands in its batch, and what came of it.
struct Report<'r> {
    reading: &'r Reading,
    report: &'r Reported,
    /// The place of its reading.
    of: usize,
    message: Option<Seq>,
    addition: Option<Addition>,
}

/// A batch under way.
struct Applying<'r> {
    readings: &'r [Reading],
    counters: &'r Parts<OutcomeRow>,
    now: Timestamp,
    reports: Vec<Report<'r>>,
    targets: HashMap<(TenantId, Seq), Target>,
    /// Readings some of whose messages are not known, or not yet.
    missing: HashSet<usize>,
}

impl<'r> Applying<'r> {
    fn new(readings: &'r [Reading], counters: &'r Parts<OutcomeRow>, now: Timestamp) -> Self {
        let mut reports = Vec::new();
        for (of, reading) in readings.iter().enumerate() {
            for telling in reading.tells.as_ref().map_or(&[][..], Vec::as_slice) {
                if let Telling::Reported(report) = telling {
                    reports.push(Report { reading, report, of, message: report.message, addition: None });
                }
            }
        }
        Self { readings, counters, now, reports, targets: HashMap::new(), missing: HashSet::new() }
    }

    /// Runs the transaction. One that fails is left open, and its connection is closed with it.
    async fn run(mut self, mut connection: Connection) -> Result<Vec<CallbackState>> {
        connection.begin().await?;
        self.find(&mut connection).await?;
        self.lock(&mut connection).await?;
        self.fold();
        self.resend(&mut connection).await?;
        self.write(&mut connection).await?;
        self.write_further(&mut connection).await?;
        let states = self.note(&mut connection).await?;
        connection.commit().await?;
        let counted = self.risen().map(|(r, target, status)| (r.reading.tenant.0, target.seq, status));
        usage::look_at_outcomes(self.counters, &mut connection, counted).await;
        Ok(states)
    }

    /// Finds the messages that are named by their provider's id alone. Most callbacks come soon, so the newest bucket is looked
    /// through first, and the others only for what is not there.
    async fn find(&mut self, connection: &mut Connection) -> Result<()> {
        let (oldest, newest) = (oldest_bucket(self.now), bucket(self.now));
        for (from, to) in [(newest, newest), (newest - 1, newest - 1), (oldest, newest - 2)] {
            if !self.find_within(connection, from, to).await? {
                break;
            }
        }
        Ok(())
    }

    /// Finds those that are in these buckets; `false` when there is nothing left to find.
    async fn find_within(&mut self, connection: &mut Connection, from: i32, to: i32) -> Result<bool> {
        let (mut places, mut digests, mut tenants, mut ids, mut configs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, r) in self.reports.iter().enumerate().filter(|(_, r)| r.message.is_none()) {
            if let (Some(digest), Some(id)) = (r.report.digest(r.reading.config), &r.report.provider_message_id) {
                places.push(i32::try_from(place).unwrap_or(i32::MAX));
                digests.push(digest);
                tenants.push(r.reading.tenant.0);
                ids.push(id.as_str());
                configs.push(r.reading.config.0);
            }
        }
        if places.is_empty() {
            return Ok(false);
        }
        let params: [Param<'_>; 7] = [&places, &digests, &tenants, &ids, &from, &to, &configs];
        for row in &connection.query(BY_PROVIDER_ID, &params).await? {
            let place: i32 = get(row, "place")?;
            if let Some(report) = usize::try_from(place).ok().and_then(|place| self.reports.get_mut(place)) {
                report.message = Some(Seq(get(row, "seq")?));
            }
        }
        Ok(true)
    }

    /// Locks the messages and reads what is around them.
    async fn lock(&mut self, connection: &mut Connection) -> Result<()> {
        let seqs: BTreeSet<i64> = self.reports.iter().filter_map(|r| r.message).map(|seq| seq.0).collect();
        let (Some(first), Some(last)) = (seqs.first().copied(), seqs.last().copied()) else { return Ok(()) };
        let seqs: Vec<i64> = seqs.into_iter().collect();
        for row in &connection.query(TARGETS, &[&seqs, &first, &last]).await? {
            let (key, target) = target(row)?;
            self.targets.insert(key, target);
        }
        let mut by_seq: HashMap<i64, &mut Target> = self.targets.iter_mut().map(|((_, seq), target)| (seq.0, target)).collect();
        for row in &connection.query(AROUND, &[&seqs, &first, &last]).await? {
            let Some(target) = by_seq.get_mut(&get::<i64>(row, "seq")?) else { continue };
            if let Some(action) = get::<Option<i16>>(row, "action")? {
                target.job = Action::from_code(action).zip(Some(get(row, "started")?));
                continue;
            }
            target.read(code(row, "kind", EventKind::from_code)?, time(row, "at")?, get(row, "attempt")?, get(row, "report")?);
        }
        Ok(())
    }

    /// Applies the reports to what was read.
    fn fold(&mut self) {
        for r in &mut self.reports {
            let target = r.message.and_then(|seq| self.targets.get_mut(&(r.reading.tenant, seq)));
            match target.map(|target| target.apply(r.reading, r.report, self.now)) {
                Some(Told::Added(addition)) => r.addition = Some(addition),
                Some(Told::Nothing) => {}
                Some(Told::TooEarly) | None => {
                    self.missing.insert(r.of);
                }
            }
        }
    }

    /// Reports that say something new, with their messages as they are afterwards.
    fn added(&self) -> impl Iterator<Item = (&Report<'r>, &Target, &Addition)> {
        self.reports.iter().filter_map(|r| {
            let target = self.targets.get(&(r.reading.tenant, r.message?))?;
            Some((r, target, r.addition.as_ref()?))
        })
    }

    /// Those of them that raise their message to a status that is counted.
    fn risen(&self) -> impl Iterator<Item = (&Report<'r>, &Target, Status)> {
        self.added().filter_map(|(r, target, addition)| Some((r, target, addition.rose_to.filter(|status| status.is_settled())?)))
    }

    /// Gives jobs to messages that go another way. First, so that what else the batch tells can end them.
    async fn resend(&self, connection: &mut Connection) -> Result<()> {
        for (r, target, addition) in self.added() {
            let Some(resend) = &addition.resend else { continue };
            let params: [Param<'_>; 11] = [
                &target.seq.0,
                &r.reading.tenant.0,
                &target.environment.code(),
                &target.channel.code(),
                &Action::Send.code(),
                &resend.attempt,
                &self.now.millis(),
                &resend.expires_at.millis(),
                &resend.urgency.code(),
                &resend.tried.text(),
                &resend.outlet.0,
            ];
            connection.execute(RESEND, &params).await?;
        }
        Ok(())
    }

    async fn write(&self, connection: &mut Connection) -> Result<()> {
        let added: Vec<_> = self.added().collect();
        let mut changed: Vec<&Target> = added.iter().map(|(_, target, _)| *target).collect();
        changed.sort_unstable_by_key(|target| target.seq);
        changed.dedup_by_key(|target| target.seq);
        let (Some(first), Some(last)) = (changed.first().map(|t| t.seq.0), changed.last().map(|t| t.seq.0)) else { return Ok(()) };
        let risen: Vec<_> = self.risen().collect();
        let parts = self.counters.of(risen.iter().map(|(r, ..)| r.reading.tenant.0));
        let of = |target: &Target| target.cost.as_ref().map(|cost| cost.currency.clone());
        let params: [Param<'_>; 23] = [
            &changed.iter().map(|t| t.seq.0).collect::<Vec<_>>(),
            &changed.iter().map(|t| t.status.code()).collect::<Vec<_>>(),
            &changed.iter().map(|t| t.failure_reason.as_deref()).collect::<Vec<_>>(),
            &changed.iter().map(|t| of(t)).collect::<Vec<_>>(),
            &changed.iter().map(|t| t.cost.as_ref().map(|cost| cost.micros)).collect::<Vec<_>>(),
            &changed.iter().map(|t| t.segments).collect::<Vec<_>>(),
            &changed.iter().map(|t| t.provider_message_id.as_deref()).collect::<Vec<_>>(),
            &first,
            &last,
            &added.iter().map(|(_, target, _)| target.seq.0).collect::<Vec<_>>(),
            &added.iter().map(|(r, ..)| r.reading.tenant.0).collect::<Vec<_>>(),
            &added.iter().map(|(.., addition)| addition.kind.code()).collect::<Vec<_>>(),
            &added.iter().map(|(.., addition)| addition.at.millis()).collect::<Vec<_>>(),
            &added.iter().map(|(.., addition)| addition.detail.as_deref()).collect::<Vec<_>>(),
            &added.iter().map(|(r, ..)| r.report.payload.as_deref()).collect::<Vec<_>>(),
            &added.iter().map(|(.., addition)| addition.key.as_str()).collect::<Vec<_>>(),
            &added.iter().filter(|(.., addition)| addition.ends_job).map(|(_, target, _)| target.seq.0).collect::<Vec<_>>(),
            &risen.iter().map(|(r, ..)| r.reading.tenant.0).collect::<Vec<_>>(),
            &risen.iter().map(|(_, target, _)| target.seq.at().day().0).collect::<Vec<_>>(),
            &risen.iter().map(|(_, target, _)| target.environment.code()).collect::<Vec<_>>(),
            &risen.iter().map(|(_, target, _)| target.channel.code()).collect::<Vec<_>>(),
            &risen.iter().map(|(.., status)| status.code()).collect::<Vec<_>>(),
            &risen.iter().zip(parts).map(|((_, target, _), part)| parts::slot(target.seq.slot(), part)).collect::<Vec<_>>(),
        ];
        connection.execute(WRITE, &params).await?;
        Ok(())
    }

    /// What reports say of recipients, messages from outside, wishes. Few callbacks tell any of it.
    async fn write_further(&self, connection: &mut Connection) -> Result<()> {
        let delivered: Vec<_> = self
            .added()
            .filter(|(_, target, addition)| addition.is_delivery && target.channel == Channel::Email)
            .map(|(r, target, addition)| (r.reading.tenant.0, target.environment.code(), target.channel.code(), addition.address.clone()))
            .collect();
        if !delivered.is_empty() {
            let params: [Param<'_>; 4] = [
                &delivered.iter().map(|d| d.0).collect::<Vec<_>>(),
                &delivered.iter().map(|d| d.1).collect::<Vec<_>>(),
                &delivered.iter().map(|d| d.2).collect::<Vec<_>>(),
                &delivered.iter().map(|d| indexed(&d.3).into_owned()).collect::<Vec<_>>(),
            ];
            connection.execute(FORGET_BOUNCES, &params).await?;
        }
        for report in &self.reports {
            self.suppress(connection, report).await?;
        }
        for reading in self.readings {
            for telling in reading.tells.as_ref().map_or(&[][..], Vec::as_slice) {
                match telling {
                    Telling::Reported(_) => {}
                    Telling::Inbound(message) => inbound::insert(connection, message).await?,
                    Telling::Preference(preference) => self.prefer(connection, reading, preference).await?,
                }
            }
        }
        Ok(())
    }

    async fn suppress(&self, connection: &mut Connection, r: &Report<'_>) -> Result<()> {
        let (Some(suppressing), Some(addition), true) = (&r.report.suppresses, &r.addition, r.reading.is_trusted) else { return Ok(()) };
        let Some(target) = r.message.and_then(|seq| self.targets.get(&(r.reading.tenant, seq))) else { return Ok(()) };
        let (tenant, environment, channel) = (r.reading.tenant.0, target.environment.code(), target.channel.code());
        let lookup = indexed(&addition.address);
        let mut detail = addition.detail.clone();
        if let Some(patience) = suppressing.only_after {
            let params: [Param<'_>; 6] =
                [&tenant, &environment, &channel, &lookup.as_ref(), &r.report.at.millis(), &patience.since.millis()];
            let row = connection.query_opt(SOFT_BOUNCE, &params).await?;
            let bounces: i64 = row.map_or(Ok(0), |row| get(&row, "bounces"))?;
            if bounces < patience.bounces {
                return Ok(());
            }
            detail = Some(format!("{bounces} soft bounces without a delivery"));
        }
        let params: [Param<'_>; 11] = [
            &suppressing.id.0,
            &tenant,
            &environment,
            &channel,
            &lookup.as_ref(),
            &addition.address,
            &suppressing.reason.code(),
            &r.reading.source().code(),
            &Some(target.seq.0),
            &detail,
            &self.now.millis(),
        ];
        connection.execute(SUPPRESS, &params).await?;
        Ok(())
    }

    async fn prefer(&self, connection: &mut Connection, reading: &Reading, preference: &Preference) -> Result<()> {
        if !reading.is_trusted {
            return Ok(());
        }
        // Configs are for live messages.
        let (environment, reason) = (Environment::Live.code(), SuppressionReason::Unsubscribed.code());
        let (channel, lookup) = (reading.channel.code(), indexed(&preference.address));
        if preference.wants {
            let params: [Param<'_>; 5] = [&reading.tenant.0, &environment, &channel, &lookup.as_ref(), &reason];
            connection.execute(LIFT, &params).await?;
            return Ok(());
        }
        let source = if preference.is_inbound { SuppressionSource::Inbound } else { SuppressionSource::Callback };
        let params: [Param<'_>; 11] = [
            &preference.id.0,
            &reading.tenant.0,
            &environment,
            &channel,
            &lookup.as_ref(),
            &preference.address,
            &reason,
            &source.code(),
            &preference.message.map(|seq| seq.0),
            &preference.detail,
            &self.now.millis(),
        ];
        connection.execute(SUPPRESS, &params).await?;
        Ok(())
    }

    /// Notes what became of each.
    async fn note(&self, connection: &mut Connection) -> Result<Vec<CallbackState>> {
        let state = |(of, reading): (usize, &Reading)| match (&reading.tells, self.missing.contains(&of), reading.again_at) {
            (Err(_), ..) => CallbackState::Unreadable,
            (Ok(_), false, _) => CallbackState::Applied,
            (Ok(_), true, Some(_)) => CallbackState::Waiting,
            (Ok(_), true, None) => CallbackState::Unmatched,
        };
        let states: Vec<CallbackState> = self.readings.iter().enumerate().map(state).collect();
        let again = |(reading, state): (&Reading, &CallbackState)| {
            reading.again_at.filter(|_| *state == CallbackState::Waiting).map(Timestamp::millis)
        };
        let (mut callbacks, mut codes, mut due, mut problems) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (reading, state) in self.readings.iter().zip(&states) {
            let Some(callback) = reading.callback else { continue };
            callbacks.push(callback.0);
            codes.push(state.code());
            due.push(again((reading, state)));
            problems.push(reading.tells.as_ref().err().map(String::as_str));
        }
        if !callbacks.is_empty() {
            let params: [Param<'_>; 4] = [&callbacks, &codes, &due, &problems];
            connection.execute(NOTE, &params).await?;
        }
        Ok(states)
    }
}

#[async_trait]
impl Callbacks for PostgresStore {
    async fn record_callbacks(&self, batch: &[CallbackRecord], due_at: Timestamp) -> Result<Vec<bool>> {
        let params: [Param<'_>; 11] = [
            &batch.iter().map(|r| r.seq.0).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.tenant.0).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.config.0).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.is_trusted).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.once.as_deref()).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.query.as_str()).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.headers.as_str()).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.body.as_slice()).collect::<Vec<_>>(),
            &batch.iter().map(|r| r.tries).collect::<Vec<_>>(),
            &due_at.millis(),
        ];
        let mut connection = self.connection().await?;
        let mut rows = connection.query(RECORD, &params).await;
        if rows.as_ref().is_err_and(Failure::is_collision) {
            rows = connection.query(RECORD, &params).await;
        }
        let kept: HashSet<i64> = rows?.iter().map(|row| get(row, "seq")).collect::<Result<_>>()?;
        Ok(batch.iter().map(|r| kept.contains(&r.seq.0)).collect())
    }

    async fn claim_callbacks(&self, limit: usize, now: Timestamp, until: Timestamp) -> Result<Vec<CallbackRecord>> {
        let params: [Param<'_>; 3] = [&now.millis(), &until.millis(), &limit_of(limit)];
        let rows = self.connection().await?.query(CLAIM, &params).await?;
        let mut claimed: Vec<CallbackRecord> = rows.iter().map(record).collect::<Result<_>>()?;
        claimed.sort_unstable_by_key(|r| r.seq);
        Ok(claimed)
    }

    async fn apply_callbacks(&self, readings: &[Reading], now: Timestamp) -> Result<Vec<CallbackState>> {
        if readings.is_empty() {
            return Ok(Vec::new());
        }
        let run = async || Applying::new(readings, &self.reported, now).run(self.connection().await?).await;
        match run().await {
            // Two transactions that met, perhaps: the same may work at once.
            Err(Error::Unavailable(_)) => run().await,
            other => other,
        }
    }

    async fn find_by_provider_id(&self, tenant: TenantId, config: ConfigId, provider_id: &str, now: Timestamp) -> Result<Option<Seq>> {
        let (places, digests) = (vec![0_i32], vec![raven_core::lookup::digest(config, provider_id)]);
        let (tenants, ids, configs) = (vec![tenant.0], vec![provider_id], vec![config.0]);
        let params: [Param<'_>; 7] = [&places, &digests, &tenants, &ids, &oldest_bucket(now), &bucket(now), &configs];
        let rows = self.connection().await?.query(BY_PROVIDER_ID, &params).await?;
        // The newest one, as where a batch is applied.
        rows.last().map(|row| get(row, "seq").map(Seq)).transpose()
    }

    async fn replay_callbacks(&self, which: &Replay, after: Option<Seq>, limit: usize, now: Timestamp) -> Result<(Option<Seq>, usize)> {
        let from = which.from.map_or(0, |from| Seq::first_at(from.max(Timestamp::from_millis(0))).0);
        let (tenant, config) = (which.tenant.map(|t| t.0), which.config.map(|c| c.0));
        let params: [Param<'_>; 7] = [&after.map_or(-1, |seq| seq.0), &from, &tenant, &config, &which.all, &limit_of(limit), &now.millis()];
        let rows = self.connection().await?.query(REPLAY, &params).await?;
        let seqs: Vec<i64> = rows.iter().map(|row| get(row, "seq")).collect::<Result<_>>()?;
        Ok((seqs.iter().max().filter(|_| seqs.len() == limit).copied().map(Seq), seqs.len()))
    }

    async fn purge_callbacks(&self, before: Timestamp, now: Timestamp, limit: usize) -> Result<usize> {
        let old = Seq::first_at(before.max(Timestamp::from_millis(0))).0;
        let mut connection = self.connection().await?;
        let mut gone = connection.execute(PURGE, &[&old, &limit_of(limit)]).await?;
        gone += connection.execute(PURGE_IDS, &[&oldest_bucket(now), &limit_of(limit)]).await?;
        gone += connection.execute(PURGE_BOUNCES, &[&before.millis(), &limit_of(limit)]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
