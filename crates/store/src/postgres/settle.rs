//! Starts and outcomes of attempts: one statement for a batch, with each message in it at most once, and one more before the
//! outcomes if any of them suppresses its recipient.

use std::collections::HashMap;

use raven_core::{Seq, Status, SuppressionReason, SuppressionSource, Timestamp, lookup::ProviderKey, suppression::indexed};
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Failure, Param},
    parts,
    rows::{code, get},
    usage,
};
use crate::{Action, Lease, Next, Result, Settlement, Start, Started, Tried, callbacks::provider_key};

// As in acceptance, recipients are looked up only for tenants that suppress somebody.
const START: &str = "
WITH tenant AS MATERIALIZED (
  SELECT t.id FROM unnest($8::uuid[]) AS t (id) WHERE (SELECT true FROM suppressions p WHERE p.tenant_id = t.id LIMIT 1)
), s AS MATERIALIZED (
  SELECT s.seq, s.attempt, s.config_id, CASE WHEN t.id IS NOT NULL THEN (SELECT p.reason FROM suppressions p WHERE p.tenant_id = s.tenant_id
    AND p.environment = s.environment AND p.channel = s.channel AND p.lookup = s.lookup LIMIT 1) END AS suppression
  FROM unnest($3::bigint[], $4::smallint[], $5::uuid[], $9::uuid[], $10::smallint[], $11::smallint[], $12::text[])
    AS s (seq, attempt, config_id, tenant_id, environment, channel, lookup)
  LEFT JOIN tenant t ON t.id = s.tenant_id
), job AS (
  UPDATE jobs j SET attempt = s.attempt, started_at = $2, config_id = s.config_id
  FROM s
  WHERE j.seq = ANY ($3) AND j.seq = s.seq AND j.epoch = $1 AND j.attempt = s.attempt - 1 AND j.started_at IS NULL AND s.suppression IS NULL
  RETURNING j.seq, j.attempt
), message AS (
  UPDATE messages m SET status = 20 FROM job
  WHERE m.seq = ANY ($3) AND m.seq BETWEEN $6 AND $7 AND m.seq = job.seq AND m.status < 20
)
SELECT seq, attempt, NULL::smallint AS suppression FROM job
UNION ALL
SELECT s.seq, s.attempt, s.suppression FROM s
JOIN jobs j ON j.seq = ANY (ARRAY(SELECT seq FROM s WHERE suppression IS NOT NULL)) AND j.seq = s.seq AND j.epoch = $1
  AND j.attempt = s.attempt - 1 AND j.started_at IS NULL
WHERE s.suppression IS NOT NULL";

// Few settlements suppress anybody, so this is a statement of its own, in the transaction of theirs and before them: what is
// settled already (its event is there) suppresses nobody again.
const SUPPRESS: &str = "
INSERT INTO suppressions (id, tenant_id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at)
SELECT s.id, m.tenant_id, m.environment, m.channel, s.lookup, s.address, s.reason, 2, s.seq, s.detail, s.at
FROM unnest($3::bigint[], $4::uuid[], $5::smallint[], $6::smallint[], $7::bigint[], $8::text[], $9::uuid[], $10::text[], $11::text[], $12::smallint[])
  AS s (seq, tenant_id, attempt, kind, at, detail, id, lookup, address, reason)
JOIN messages m ON m.seq = ANY ($3) AND m.seq BETWEEN $1 AND $2 AND m.seq = s.seq AND m.tenant_id = s.tenant_id
WHERE NOT EXISTS (SELECT FROM events e WHERE e.message_seq = ANY ($3) AND e.message_seq BETWEEN $1 AND $2 AND e.message_seq = s.seq
  AND e.attempt = s.attempt AND e.kind = s.kind AND e.at = s.at)
ORDER BY s.tenant_id, m.environment, m.channel, s.lookup
ON CONFLICT DO NOTHING";

// A settlement whose answer was lost comes again: its event is there then, and stays the only one. A message that is gone
// (its tenant was deleted) gets none.
// All parts see the rows as they were before the statement. A newer attempt keeps an older one's outcome off the message.
// What rose to a status is counted in rows that other settlements of the tenant count in too: sorted, so that two of them never
// wait for each other in a circle.
// What a report has ended meanwhile (its status is past `sent`) is not sent again.
// `= ANY` keeps every plan to the rows that are asked for, whatever way it joins them (by hashing, see
// `connection::joining_by_hash`), and BETWEEN to their partitions.
const SETTLE: &str = "
WITH s AS MATERIALIZED (
  SELECT * FROM unnest($4::bigint[], $5::uuid[], $6::smallint[], $7::bigint[], $8::bigint[], $9::smallint[], $10::smallint[], $11::text[],
      $12::uuid[], $13::text[], $14::smallint[], $15::text[], $16::bigint[], $17::text[], $18::text[], $19::text[], $20::smallint[], $21::bigint[], $22::text[], $23::smallint[])
    AS s (seq, tenant_id, attempt, started_at, at, kind, status, provider,
      config_id, provider_message_id, segments, cost_currency, cost_micros, failure_reason, detail, payload, action, due_at, tried, outlet)
), before AS MATERIALIZED (
  SELECT seq, tenant_id, status FROM messages WHERE seq = ANY ($4) AND seq BETWEEN $2 AND $3
), event AS (
  INSERT INTO events (message_seq, tenant_id, kind, at, attempt, started_at, detail, payload)
  SELECT s.seq, s.tenant_id, s.kind, s.at, s.attempt, s.started_at, s.detail, s.payload
  FROM s JOIN before b ON b.seq = s.seq AND b.tenant_id = s.tenant_id
  WHERE NOT EXISTS (SELECT FROM events e WHERE e.message_seq = ANY ($4) AND e.message_seq BETWEEN $2 AND $3 AND e.message_seq = s.seq
    AND e.attempt = s.attempt AND e.kind = s.kind AND e.at = s.at)
), finished AS (
  DELETE FROM jobs j USING s LEFT JOIN before b ON b.seq = s.seq AND b.tenant_id = s.tenant_id
  WHERE j.seq = ANY ($4) AND j.seq = s.seq AND j.tenant_id = s.tenant_id AND (s.action IS NULL OR s.action < 3 AND b.status > 30)
    AND j.attempt = s.attempt AND (j.epoch IS NULL OR j.epoch = $1)
), rescheduled AS (
  UPDATE jobs j SET action = s.action, due_at = s.due_at, epoch = NULL, started_at = NULL, config_id = NULL, tried = s.tried, outlet = s.outlet,
    parked = NULL, urgency = CASE WHEN s.action = 1 THEN ((j.urgency - 1) | 2) + 1 ELSE j.urgency END
  FROM s LEFT JOIN before b ON b.seq = s.seq AND b.tenant_id = s.tenant_id
  WHERE j.seq = ANY ($4) AND j.seq = s.seq AND j.tenant_id = s.tenant_id AND s.action IS NOT NULL
    AND NOT (s.action < 3 AND COALESCE(b.status, 0) > 30) AND j.attempt = s.attempt AND (j.epoch IS NULL OR j.epoch = $1)
), message AS (
  UPDATE messages m SET
    status = GREATEST(m.status, s.status),
    provider = COALESCE(s.provider, m.provider),
    config_id = COALESCE(s.config_id, m.config_id),
    provider_message_id = COALESCE(s.provider_message_id, m.provider_message_id),
    segments = COALESCE(s.segments, m.segments),
    cost_currency = COALESCE(s.cost_currency, m.cost_currency),
    cost_micros = COALESCE(s.cost_micros, m.cost_micros),
    failure_reason = COALESCE(s.failure_reason, m.failure_reason)
  FROM s
  WHERE m.seq = ANY ($4) AND m.seq BETWEEN $2 AND $3 AND m.seq = s.seq AND m.tenant_id = s.tenant_id
    AND NOT EXISTS (SELECT FROM jobs j WHERE j.seq = ANY ($4) AND j.seq = s.seq AND j.tenant_id = s.tenant_id AND j.attempt > s.attempt)
  RETURNING m.seq, m.tenant_id, m.environment, m.channel, s.status
), named AS (
  INSERT INTO provider_ids (bucket, digest, seq)
  SELECT n.bucket, n.digest, n.seq FROM unnest($24::integer[], $25::bigint[], $26::bigint[]) AS n (bucket, digest, seq)
  ON CONFLICT DO NOTHING
)
INSERT INTO usage_outcomes (tenant_id, day, environment, channel, status, slot, messages)
SELECT c.tenant_id, c.day, c.environment, c.channel, c.status,
  c.slot + 256 * COALESCE((SELECT p.part FROM unnest($27::uuid[], $28::integer[]) AS p (tenant_id, part) WHERE p.tenant_id = c.tenant_id LIMIT 1), 0) AS slot,
  c.messages
FROM (
  SELECT m.tenant_id, ((m.seq >> 21) / 86400000)::integer AS day, m.environment, m.channel, m.status, (m.seq >> 13 & 255)::integer AS slot,
    count(*) AS messages
  FROM message m JOIN before b ON b.seq = m.seq WHERE m.status >= 30 AND m.status > b.status
  GROUP BY 1, 2, 3, 4, 5, 6
) c ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (tenant_id, day, environment, channel, status, slot) DO UPDATE SET messages = usage_outcomes.messages + EXCLUDED.messages";

const _: () = {
    assert!(Status::Sending.code() == 20 && Status::Sent.code() == 30 && Action::Send.code() == 1);
    assert!(Action::GiveUp.code() == 2 && Action::Play.code() == 3);
    assert!(SuppressionSource::Answer.code() == 2);
    // A seq of the second millisecond, of slot 3.
    let seq = Seq((1 << 21) + (3 << 13) + 5);
    assert!(parts::slot(seq.slot(), 2) == 3 + 256 * 2);
    assert!(seq.at().millis() == seq.0 >> 21 && seq.slot() as i64 == seq.0 >> 13 & 255);
};

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[START, SUPPRESS, SETTLE];

/// See [`Queue::start`](crate::Queue::start).
pub(super) async fn start(store: &PostgresStore, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>> {
    // Sorted, so that batches that overlap take their locks in the same order. Only the first of equal starts can succeed.
    let mut order: Vec<usize> = (0..starts.len()).collect();
    order.sort_by_key(|i| (starts[*i].seq, starts[*i].attempt));
    order.dedup_by_key(|i| (starts[*i].seq, starts[*i].attempt));
    let sorted = || order.iter().map(|i| &starts[*i]);
    let (Some(first), Some(last)) = (sorted().next(), sorted().next_back()) else { return Ok(Vec::new()) };
    let seqs: Vec<i64> = sorted().map(|s| s.seq.0).collect();
    let attempts: Vec<i16> = sorted().map(|s| s.attempt).collect();
    let configs: Vec<Option<Uuid>> = sorted().map(|s| s.config.map(|c| c.0)).collect();
    let owners: Vec<Uuid> = sorted().map(|s| s.lane.tenant.0).collect();
    let environments: Vec<i16> = sorted().map(|s| s.lane.environment.code()).collect();
    let channels: Vec<i16> = sorted().map(|s| s.lane.channel.code()).collect();
    let lookups: Vec<&str> = sorted().map(|s| s.lookup.as_str()).collect();
    let mut tenants = owners.clone();
    tenants.sort_unstable();
    tenants.dedup();
    let params: [Param<'_>; 12] = [
        &lease.0,
        &now.millis(),
        &seqs,
        &attempts,
        &configs,
        &first.seq.0,
        &last.seq.0,
        &tenants,
        &owners,
        &environments,
        &channels,
        &lookups,
    ];
    let mut connection = store.markers.get().await?;
    let mut run = async || connection.query(START, &params).await;
    let mut rows = run().await;
    if rows.as_ref().is_err_and(Failure::is_collision) {
        rows = run().await;
    }
    let mut told: HashMap<(i64, i16), Started> = HashMap::new();
    for row in &rows? {
        let started = match get::<Option<i16>>(row, "suppression")? {
            None => Started::Begun,
            Some(_) => Started::Suppressed(code(row, "suppression", SuppressionReason::from_code)?),
        };
        told.insert((get(row, "seq")?, get(row, "attempt")?), started);
    }
    let mut answers = vec![Started::NotHeld; starts.len()];
    for i in order {
        answers[i] = told.get(&(starts[i].seq.0, starts[i].attempt)).copied().unwrap_or(Started::NotHeld);
    }
    Ok(answers)
}

/// See [`Queue::settle`](crate::Queue::settle).
pub(super) async fn settle(store: &PostgresStore, lease: Lease, settlements: &[Settlement]) -> Result<()> {
    let rounds = rounds(settlements);
    if rounds.is_empty() {
        return Ok(());
    }
    let suppressing: Vec<&Settlement> = rounds.iter().flatten().copied().filter(|s| s.suppresses.is_some()).collect();
    let batch = Batch { lease, suppressing, parts: store.outcomes.beyond_first(settlements.iter().map(|s| s.tenant.0)), rounds };
    let mut connection = store.markers.get().await?;
    batch.run(&mut connection).await?;
    let counted = settlements.iter().filter(|s| s.status.is_settled()).map(|s| (s.tenant.0, s.seq, s.status));
    usage::look_at_outcomes(&store.outcomes, &mut connection, counted).await;
    Ok(())
}

/// Settlements on their way: those that suppress, and all of them in rounds.
struct Batch<'s> {
    lease: Lease,
    suppressing: Vec<&'s Settlement>,
    /// Tenants whose outcomes are not counted in their first part any more, and the parts.
    parts: (Vec<Uuid>, Vec<i32>),
    rounds: Vec<Vec<&'s Settlement>>,
}

impl Batch<'_> {
    async fn run(&self, connection: &mut Connection) -> Result<(), Failure> {
        // A single statement is a transaction of its own, and one round trip.
        if let ([only], []) = (&self.rounds[..], &self.suppressing[..]) {
            return match self.settle(connection, only).await {
                Err(failure) if failure.is_collision() => self.settle(connection, only).await,
                other => other,
            };
        }
        match self.settle_all(connection).await {
            Err(failure) if failure.is_collision() => {
                connection.rollback().await?;
                self.settle_all(connection).await
            }
            other => other,
        }
    }

    async fn settle_all(&self, connection: &mut Connection) -> Result<(), Failure> {
        connection.begin().await?;
        suppress(connection, &self.suppressing).await?;
        for round in &self.rounds {
            self.settle(connection, round).await?;
        }
        connection.commit().await
    }

    async fn settle(&self, connection: &mut Connection, round: &[&Settlement]) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (round.first(), round.last()) else { return Ok(()) };
        let next = |s: &Settlement| match s.next {
            Next::Done => None,
            Next::At(action, at) => Some((action.code(), at.millis())),
        };
        let mut named: Vec<(ProviderKey, Seq)> = round.iter().filter_map(|s| Some((provider_key(s)?, s.seq))).collect();
        named.sort_unstable();
        connection
            .execute(
                SETTLE,
                &[
                    &self.lease.0,
                    &first.seq.0,
                    &last.seq.0,
                    &column(round, |s| s.seq.0),
                    &column(round, |s| s.tenant.0),
                    &column(round, |s| s.attempt),
                    &column(round, |s| s.started_at.map(Timestamp::millis)),
                    &column(round, |s| s.at.millis()),
                    &column(round, |s| s.kind.code()),
                    &column(round, |s| s.status.code()),
                    &column(round, |s| s.provider.as_deref()),
                    &column(round, |s| s.config.map(|c| c.0)),
                    &column(round, |s| s.provider_message_id.as_deref()),
                    &column(round, |s| s.segments),
                    &column(round, |s| s.cost_currency.as_deref()),
                    &column(round, |s| s.cost_micros),
                    &column(round, |s| s.failure_reason.as_deref()),
                    &column(round, |s| s.detail.as_deref()),
                    &column(round, |s| s.payload.as_deref()),
                    &column(round, |s| next(s).map(|(action, _)| action)),
                    &column(round, |s| next(s).map(|(_, at)| at)),
                    &column(round, |s| s.tried.as_ref().map(Tried::text)),
                    &column(round, |s| s.outlet.0),
                    &named.iter().map(|(key, _)| key.bucket).collect::<Vec<_>>(),
                    &named.iter().map(|(key, _)| key.digest).collect::<Vec<_>>(),
                    &named.iter().map(|(_, seq)| seq.0).collect::<Vec<_>>(),
                    &self.parts.0,
                    &self.parts.1,
                ],
            )
            .await?;
        Ok(())
    }
}

/// Several outcomes of one message apply in their order, so the second one of any message waits for a second statement.
fn rounds(settlements: &[Settlement]) -> Vec<Vec<&Settlement>> {
    let mut rounds: Vec<Vec<&Settlement>> = Vec::new();
    let mut seen: HashMap<i64, usize> = HashMap::with_capacity(settlements.len());
    for settlement in settlements {
        let round = seen.entry(settlement.seq.0).and_modify(|n| *n += 1).or_insert(0);
        if *round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*round].push(settlement);
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|s| s.seq);
    }
    rounds
}

fn column<'s, T>(settlements: &[&'s Settlement], of: impl Fn(&'s Settlement) -> T) -> Vec<T> {
    settlements.iter().map(|s| of(s)).collect()
}

/// Adds the recipients of these, each of which suppresses one, to their tenants' suppressions.
async fn suppress(connection: &mut Connection, settlements: &[&Settlement]) -> Result<(), Failure> {
    let (Some(first), Some(last)) = (settlements.iter().map(|s| s.seq.0).min(), settlements.iter().map(|s| s.seq.0).max()) else {
        return Ok(());
    };
    connection
        .execute(
            SUPPRESS,
            &[
                &first,
                &last,
                &column(settlements, |s| s.seq.0),
                &column(settlements, |s| s.tenant.0),
                &column(settlements, |s| s.attempt),
                &column(settlements, |s| s.kind.code()),
                &column(settlements, |s| s.at.millis()),
                &column(settlements, |s| s.detail.as_deref()),
                &column(settlements, |s| s.suppresses.as_ref().map(|s| s.id.0)),
                &column(settlements, |s| s.suppresses.as_ref().map(|s| indexed(&s.address))),
                &column(settlements, |s| s.suppresses.as_ref().map(|s| s.address.as_str())),
                &column(settlements, |s| s.suppresses.as_ref().map(|s| s.reason.code())),
            ],
        )
        .await?;
    Ok(())
}
