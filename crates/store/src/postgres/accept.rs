//! Acceptance, the hot path: a batch is one prepared statement in one round trip. Who loses an idempotency key to an
//! earlier message learns of it in a second one; a batch that fails is split until the row that fails stands alone. Messages
//! that the node's slice of a daily quota has no room for wait until it is refilled ([`super::quota`]), and are tried again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use raven_core::{
    Channel, Environment, EventKind, Priority, Seq, Status, SuppressionReason, TenantId, Timestamp, sms::Encoding, suppression::lookup,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    connection::{Connection, Failure, Param},
    parts::{self, Parts},
    quota::{self, Slice},
    rows::{code, get},
    usage::{self, AcceptedRow},
};
use crate::{
    Accepted, Action, Error, NewMessage, Refusal, Result, Urgency,
    messages::{Intake, MessageClaim},
};

// The candidates come sorted by key and keep that order (`n`), so that two batches never wait for each other in a circle.
// What was inserted is joined by seq, never by key. Only rows that were not accepted come back. `= ANY` keeps every plan
// to the rows that are asked for, whatever way it joins them. Tenants, keys and slices are few in a batch, so they are read
// once and not for each message. Whether a quota has room is decided before any key is taken:
// what is turned away uses up none. A slice that somebody took tokens back from meanwhile refuses its debit (a constraint). The debit
// is an insert because that looks its one row up by the whole key; an update would go over all parts of the tenant's counters.
// Most tenants suppress nobody, which is one look into the index for each tenant of the batch; only where there is something
// are recipients looked up, one by one: a correlated sub-select is the one way that the planner can't turn into a join.
// (OFFSET keeps it from being looked up again wherever it is named.)
// What most messages of a batch have in common comes once for each kind of message, not for each message: every array costs its
// elements a trip through a tuple store.
const ACCEPT: &str = "
WITH tenant AS MATERIALIZED (
  SELECT t.id, (SELECT true FROM suppressions s WHERE s.tenant_id = t.id LIMIT 1) AS suppresses
  FROM tenants t WHERE t.id = ANY ($32::uuid[]) AND t.status = 1
), key AS MATERIALIZED (
  SELECT id, tenant_id FROM api_keys WHERE id = ANY ($33::uuid[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)
), slice AS MATERIALIZED (
  SELECT s.tenant_id, s.day, s.slot, q.granted, q.used
  FROM unnest($34::uuid[], $35::integer[], $36::integer[]) AS s (tenant_id, day, slot)
  CROSS JOIN LATERAL (SELECT granted, used FROM quotas q WHERE q.tenant_id = s.tenant_id AND q.day = s.day AND q.slot = s.slot LIMIT 1) q
), candidate AS MATERIALIZED (
  SELECT a.*, CASE WHEN a.key_id IS NOT NULL AND a.known_key IS NULL THEN 1 WHEN a.known_tenant IS NULL THEN 2
    WHEN a.quota IS NOT NULL AND a.suppression IS NULL AND a.ordinal > a.room THEN 3 ELSE 0 END AS refusal
  FROM (
    SELECT c.seq, c.recipient, c.content, c.external_id, c.segments, c.key, c.fingerprint, c.due_at, c.ordinal, c.audit, c.lookup, c.n,
      g.tenant_id, g.environment, g.channel, g.source, g.key_id, g.large, g.operation, c.due_at + g.key_lasts AS key_expires_at,
      c.due_at + g.lasts AS expires_at, g.epoch, g.started, g.config_id, g.encoding, g.day, g.slot, g.quota, g.priority, g.outlet,
      k.id AS known_key, t.id AS known_tenant, LEAST(COALESCE(q.granted, 0), g.quota) - COALESCE(q.used, 0) AS room,
      CASE WHEN t.suppresses THEN (SELECT s.reason FROM suppressions s WHERE s.tenant_id = g.tenant_id AND s.environment = g.environment
        AND s.channel = g.channel AND s.lookup = COALESCE(c.lookup, c.recipient) LIMIT 1) END AS suppression
    FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[], $9::bytea[], $10::bigint[], $11::bigint[],
        $12::text[], $13::text[])
      WITH ORDINALITY AS c (seq, kind, recipient, content, external_id, segments, key, fingerprint, due_at, ordinal, audit, lookup, n)
    JOIN unnest($14::uuid[], $15::smallint[], $16::smallint[], $17::smallint[], $18::uuid[], $19::boolean[], $20::smallint[], $21::bigint[],
        $22::bigint[], $23::bigint[], $24::boolean[], $25::uuid[], $26::smallint[], $27::integer[], $28::integer[], $29::bigint[],
        $30::smallint[], $31::smallint[])
      WITH ORDINALITY AS g (tenant_id, environment, channel, source, key_id, large, operation, key_lasts,
        lasts, epoch, started, config_id, encoding, day, slot, quota, priority, outlet, n) ON g.n = c.kind
    LEFT JOIN tenant t ON t.id = g.tenant_id
    LEFT JOIN key k ON k.id = g.key_id AND k.tenant_id = g.tenant_id
    LEFT JOIN slice q ON q.tenant_id = g.tenant_id AND q.day = g.day AND q.slot = g.slot
    OFFSET 0
  ) a
  ORDER BY a.n
), claimed AS (
  INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, message_seq, accepted_status, expires_at)
  SELECT tenant_id, environment, operation, key, fingerprint, seq, CASE WHEN suppression IS NULL THEN 10 ELSE 42 END, key_expires_at
  FROM candidate WHERE refusal = 0 AND operation IS NOT NULL
  ON CONFLICT (owner_id, environment, operation, key) DO NOTHING RETURNING message_seq
), accepted AS MATERIALIZED (
  SELECT * FROM candidate WHERE refusal = 0 AND (operation IS NULL OR seq IN (SELECT message_seq FROM claimed))
), message AS (
  INSERT INTO messages (seq, tenant_id, environment, channel, source, status, large, segments, encoding, external_id, recipient, content, priority,
    failure_reason)
  SELECT seq, tenant_id, environment, channel, source, CASE WHEN suppression IS NOT NULL THEN 42 WHEN started THEN 20 ELSE 10 END, large,
    segments, encoding, external_id, recipient, content, priority, ($37::text[])[suppression]
  FROM accepted
), job AS (
  INSERT INTO jobs (seq, tenant_id, due_at, expires_at, epoch, started_at, environment, channel, action, attempt, config_id, urgency, outlet)
  SELECT seq, tenant_id, due_at, expires_at, epoch, CASE WHEN started THEN $1 END, environment, channel, 1, CASE WHEN started THEN 1 ELSE 0 END,
    config_id, priority, outlet
  FROM accepted WHERE suppression IS NULL
), event AS (
  INSERT INTO events (message_seq, tenant_id, kind, at, attempt, detail)
  SELECT seq, tenant_id, 7, $1, 0, ($37)[suppression] FROM accepted WHERE suppression IS NOT NULL
), debit AS (
  INSERT INTO quotas (tenant_id, day, slot, granted, used)
  SELECT tenant_id, day, slot, count(*), count(*) FROM accepted WHERE quota IS NOT NULL AND suppression IS NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
  ON CONFLICT (tenant_id, day, slot) DO UPDATE SET used = quotas.used + EXCLUDED.used
), usage AS (
  INSERT INTO usage_accepted (tenant_id, day, environment, channel, key_id, slot, messages, suppressed)
  SELECT tenant_id, day, environment, channel, COALESCE(key_id, '00000000-0000-0000-0000-000000000000'), slot, count(*),
    count(suppression)
  FROM accepted GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
  ON CONFLICT (tenant_id, day, environment, channel, key_id, slot) DO UPDATE SET messages = usage_accepted.messages + EXCLUDED.messages,
    suppressed = usage_accepted.suppressed + EXCLUDED.suppressed
), audit AS (
  INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, seq, audit FROM accepted WHERE audit IS NOT NULL
)
SELECT c.seq, c.refusal FROM candidate c
WHERE (SELECT count(*) FROM accepted) < cardinality($2) AND c.seq NOT IN (SELECT seq FROM accepted)
UNION ALL SELECT seq, 4 FROM accepted WHERE suppression IS NOT NULL";

// The codes that the statement spells out. The urgency of what was not tried yet is the message's priority. The names of
// reasons are a parameter, each at the place that its code tells.
const _: () = {
    assert!(Urgency::of(Priority::Transactional).code() == Priority::Transactional.code());
    assert!(Urgency::of(Priority::Bulk).code() == Priority::Bulk.code());
    assert!(Status::Queued.code() == 10 && Status::Sending.code() == 20 && Action::Send.code() == 1);
    assert!(Status::Suppressed.code() == 42 && EventKind::Suppressed.code() == 7);
    assert!(raven_core::tenant::TenantStatus::Active.code() == 1);
    let mut n = 0;
    while n < SuppressionReason::ALL.len() {
        assert!(SuppressionReason::ALL[n].code() as usize == n + 1);
        n += 1;
    }
};

const EARLIER: &str = "
SELECT u.seq AS candidate_seq, i.fingerprint, i.message_seq, i.accepted_status, m.recipient, m.channel
FROM unnest($1::bigint[], $2::uuid[], $3::smallint[], $4::smallint[], $5::text[]) AS u (seq, owner_id, environment, operation, key)
CROSS JOIN LATERAL (
  SELECT * FROM idempotency i
  WHERE i.owner_id = u.owner_id AND i.environment = u.environment AND i.operation = u.operation AND i.key = u.key LIMIT 1
) i
LEFT JOIN LATERAL (SELECT m.recipient, m.channel FROM messages m WHERE m.seq = i.message_seq LIMIT 1) m ON true";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[ACCEPT, EARLIER];

/// What the statement says of a row that it didn't accept as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turned {
    Away(Refusal),
    /// The slice of its quota has no room for it.
    Short,
    /// Its idempotency key is taken.
    Taken,
    /// Accepted, but its recipient is suppressed.
    Suppressed,
}

/// What messages of a batch have in common, often all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Common {
    tenant: Uuid,
    environment: i16,
    channel: i16,
    source: i16,
    key: Option<Uuid>,
    large: bool,
    operation: Option<i16>,
    /// How long after the message is due its idempotency record and it itself expire, in milliseconds.
    key_lasts: Option<i64>,
    lasts: i64,
    epoch: Option<i64>,
    started: bool,
    config: Option<Uuid>,
    encoding: Option<i16>,
    slice: Slice,
    quota: Option<i64>,
    priority: i16,
    outlet: i16,
}

impl Common {
    fn of(m: &NewMessage, slice: Slice) -> Self {
        let claim = m.idempotency.as_ref();
        let lasts = |until: Timestamp| until.millis() - m.due_at.millis();
        Self {
            tenant: m.tenant.0,
            environment: m.environment.code(),
            channel: m.channel.code(),
            source: m.source.code(),
            key: m.key.map(|k| k.0),
            large: m.large,
            operation: claim.map(|c| c.operation.code()),
            key_lasts: claim.map(|c| lasts(c.expires_at)),
            lasts: lasts(m.expires_at),
            epoch: m.lease.map(|l| l.0),
            started: m.started.is_some(),
            config: m.started.flatten().map(|c| c.0),
            encoding: m.encoding.map(Encoding::code),
            slice,
            quota: m.quota,
            priority: m.priority.code(),
            outlet: m.outlet.0,
        }
    }
}

/// A batch in the order in which it is stored, column by column.
#[derive(Default)]
struct Columns<'b> {
    seq: Vec<i64>,
    /// The place among `kinds`, from 1.
    kind: Vec<i32>,
    recipient: Vec<&'b str>,
    content: Vec<&'b str>,
    external_id: Vec<Option<&'b str>>,
    segments: Vec<Option<i16>>,
    key: Vec<Option<&'b str>>,
    fingerprint: Vec<Option<&'b [u8]>>,
    due_at: Vec<i64>,
    /// The message's place among those that are debited from the same slice, from 1.
    ordinal: Vec<Option<i64>>,
    audit: Vec<Option<&'b str>>,
    /// What stands in the index of suppressions for the recipient, where that is not the recipient itself.
    lookup: Vec<Option<Cow<'b, str>>>,
    /// Neighbours differ; that one comes again does no harm.
    kinds: Vec<Common>,
    /// Each once.
    tenants: Vec<Uuid>,
    keys: Vec<Uuid>,
    slices: Vec<Slice>,
    debits: HashMap<Slice, i64>,
}

/// The slice of a quota that a message is debited from, if it counts; and what tells the rows of usage that it is counted in.
fn slice(m: &NewMessage, part: i32) -> Slice {
    Slice { tenant: m.tenant.0, day: m.seq.at().day().0, slot: parts::slot(m.seq.slot(), part) }
}

/// Adds what is not the last one already. (One that comes again later does no harm.)
fn note<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if all.last() != Some(&one) {
        all.push(one);
    }
}

impl<'b> Columns<'b> {
    fn push(&mut self, m: &'b NewMessage, slice: Slice) {
        let (claim, common) = (m.idempotency.as_ref(), Common::of(m, slice));
        note(&mut self.kinds, common);
        self.seq.push(m.seq.0);
        self.kind.push(i32::try_from(self.kinds.len()).unwrap_or(i32::MAX));
        self.recipient.push(&m.recipient);
        self.content.push(&m.content);
        self.external_id.push(m.external_id.as_deref());
        self.segments.push(m.segments);
        self.key.push(claim.map(|c| c.key.as_str()));
        self.fingerprint.push(claim.map(|c| c.fingerprint.as_slice()));
        self.due_at.push(m.due_at.millis());
        self.ordinal.push(m.quota.map(|_| {
            let debits = self.debits.entry(common.slice).or_default();
            *debits += 1;
            *debits
        }));
        self.audit.push(m.audit.as_deref());
        self.lookup.push(Some(lookup(m.channel, &m.recipient)).filter(|lookup| *lookup != m.recipient));
        // Messages come sorted by tenant, and most of a batch have the key and the slice of the one before.
        note(&mut self.tenants, common.tenant);
        if let Some(key) = common.key {
            note(&mut self.keys, key);
        }
        let mut of_tenant = self.slices.iter().rev().take_while(|known| known.tenant == slice.tenant);
        if !of_tenant.any(|known| *known == slice) {
            self.slices.push(slice);
        }
    }

    fn of_kinds<T>(&self, of: impl Fn(&Common) -> T) -> Vec<T> {
        self.kinds.iter().map(of).collect()
    }

    fn of_slices<T>(&self, of: impl Fn(&Slice) -> T) -> Vec<T> {
        self.slices.iter().map(of).collect()
    }

    /// Accepts, and tells by seq which rows were not, or not to be sent.
    async fn accept(&self, connection: &mut Connection, now: Timestamp) -> Result<HashMap<i64, Turned>, Failure> {
        let reasons: Vec<&str> = SuppressionReason::ALL.iter().map(|reason| reason.name()).collect();
        let rows = connection
            .query(
                ACCEPT,
                &[
                    &now.millis(),
                    &self.seq,
                    &self.kind,
                    &self.recipient,
                    &self.content,
                    &self.external_id,
                    &self.segments,
                    &self.key,
                    &self.fingerprint,
                    &self.due_at,
                    &self.ordinal,
                    &self.audit,
                    &self.lookup,
                    &self.of_kinds(|kind| kind.tenant),
                    &self.of_kinds(|kind| kind.environment),
                    &self.of_kinds(|kind| kind.channel),
                    &self.of_kinds(|kind| kind.source),
                    &self.of_kinds(|kind| kind.key),
                    &self.of_kinds(|kind| kind.large),
                    &self.of_kinds(|kind| kind.operation),
                    &self.of_kinds(|kind| kind.key_lasts),
                    &self.of_kinds(|kind| kind.lasts),
                    &self.of_kinds(|kind| kind.epoch),
                    &self.of_kinds(|kind| kind.started),
                    &self.of_kinds(|kind| kind.config),
                    &self.of_kinds(|kind| kind.encoding),
                    &self.of_kinds(|kind| kind.slice.day),
                    &self.of_kinds(|kind| kind.slice.slot),
                    &self.of_kinds(|kind| kind.quota),
                    &self.of_kinds(|kind| kind.priority),
                    &self.of_kinds(|kind| kind.outlet),
                    &self.tenants,
                    &self.keys,
                    &self.of_slices(|slice| slice.tenant),
                    &self.of_slices(|slice| slice.day),
                    &self.of_slices(|slice| slice.slot),
                    &reasons,
                ],
            )
            .await?;
        let turned = |row: &Row| -> Result<(i64, Turned), tokio_postgres::Error> {
            let turned = match row.try_get(1)? {
                1 => Turned::Away(Refusal::Key),
                2 => Turned::Away(Refusal::Tenant),
                3 => Turned::Short,
                4 => Turned::Suppressed,
                _ => Turned::Taken,
            };
            Ok((row.try_get(0)?, turned))
        };
        rows.iter().map(|row| turned(row).map_err(Failure::Driver)).collect()
    }
}

/// How often messages are tried again when refilling a slice didn't help. Another node takes tokens back at each time then,
/// which can only go on while nobody uses them.
const REFILLS: usize = 16;

/// A batch under way: answers are filled in as they become known.
struct Batch<'b> {
    messages: &'b [NewMessage],
    /// What each of them is debited from.
    slices: Vec<Slice>,
    answers: Vec<Option<Result<Accepted>>>,
    /// Positions of messages that lost their key to an earlier one.
    taken: Vec<usize>,
    /// Positions of messages that their slice of the quota had no room for, in the order in which they are stored.
    short: Vec<usize>,
    now: Timestamp,
}

impl<'b> Batch<'b> {
    fn new(messages: &'b [NewMessage], parts: &Parts<AcceptedRow>, now: Timestamp) -> Self {
        let parts = parts.of(messages.iter().map(|m| m.tenant.0));
        let slices = messages.iter().zip(parts).map(|(m, part)| slice(m, part)).collect();
        Self { messages, slices, answers: messages.iter().map(|_| None).collect(), taken: Vec::new(), short: Vec::new(), now }
    }

    /// Positions in `messages`, in the order in which they are stored.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.messages.len()).collect();
        let rank = |i: &usize| {
            let m = &self.messages[*i];
            (m.tenant, m.environment, m.idempotency.as_ref().map(|c| (c.operation, c.key.as_str())), m.seq)
        };
        order.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)));
        order
    }

    /// Accepts all. An error is one of the database as a whole; rows that are not answered yet share it.
    async fn run(&mut self, connection: &mut Connection) -> Result<()> {
        self.accept_all(connection, &self.order()).await?;
        let mut refills = 0;
        while !self.short.is_empty() {
            let short = std::mem::take(&mut self.short);
            // A replay answers though the quota is used up.
            let new = self.read_earlier(connection, short).await?;
            if refills == REFILLS {
                for i in new {
                    self.answers[i] = Some(Err(Error::Unavailable("nodes took the quota from each other".into())));
                }
                break;
            }
            refills += 1;
            let room = self.refill(connection, new).await?;
            self.accept_all(connection, &room).await?;
        }
        let taken = std::mem::take(&mut self.taken);
        for i in self.read_earlier(connection, taken).await? {
            self.answers[i] = Some(Err(Error::Unavailable("the record of the key was purged just now".into())));
        }
        Ok(())
    }

    /// Accepts the messages at these positions.
    async fn accept_all(&mut self, connection: &mut Connection, order: &[usize]) -> Result<()> {
        // The stretches still to do, the next one last, and whether they were tried before.
        let mut ahead = vec![(order, false)];
        while let Some((stretch, again)) = ahead.pop() {
            if stretch.is_empty() {
                continue;
            }
            match self.accept(connection, stretch).await {
                Ok(()) => {}
                Err(failure) if (failure.is_collision() || failure.overdraws()) && !again => ahead.push((stretch, true)),
                Err(failure) if failure.is_outage() => return Err(failure.into_error()),
                Err(failure) if stretch.len() == 1 && failure.overdraws() => self.short.extend_from_slice(stretch),
                Err(failure) if stretch.len() == 1 => self.answers[stretch[0]] = Some(Err(failure.into_error())),
                Err(failure) => {
                    tracing::warn!(rows = stretch.len(), error = ?failure, "a batch failed and is split");
                    let (first, second) = stretch.split_at(stretch.len() / 2);
                    ahead.push((second, false));
                    ahead.push((first, false));
                }
            }
        }
        Ok(())
    }

    async fn accept(&mut self, connection: &mut Connection, stretch: &[usize]) -> Result<(), Failure> {
        let mut columns = Columns::default();
        for i in stretch {
            columns.push(&self.messages[*i], self.slices[*i]);
        }
        let turned = columns.accept(connection, self.now).await?;
        for i in stretch {
            match turned.get(&self.messages[*i].seq.0) {
                None => self.answers[*i] = Some(Ok(Accepted::Created)),
                Some(Turned::Suppressed) => self.answers[*i] = Some(Ok(Accepted::Suppressed)),
                Some(Turned::Away(refusal)) => self.answers[*i] = Some(Ok(Accepted::Refused(*refusal))),
                Some(Turned::Short) => self.short.push(*i),
                Some(Turned::Taken) => self.taken.push(*i),
            }
        }
        Ok(())
    }

    /// What is accepted now, and the rows of usage that it is counted in.
    fn counted(&self) -> impl Iterator<Item = AcceptedRow> {
        let is_counted = |i: &usize| matches!(self.answers[*i], Some(Ok(Accepted::Created | Accepted::Suppressed)));
        (0..self.messages.len()).filter(is_counted).map(|i| {
            let m = &self.messages[i];
            let key = m.key.map_or(Uuid::nil(), |key| key.0);
            AcceptedRow { slice: self.slices[i], environment: m.environment.code(), channel: m.channel.code(), key }
        })
    }

    /// Answers those of the messages whose key was used before, and gives back the positions of the others. A statement of its
    /// own, because only a new snapshot sees what was committed while ours waited for it.
    async fn read_earlier(&mut self, connection: &mut Connection, positions: Vec<usize>) -> Result<Vec<usize>> {
        let mut keys = Keys::default();
        for i in &positions {
            keys.push(&self.messages[*i]);
        }
        let mut earlier: HashMap<i64, Row> = HashMap::new();
        if !keys.seq.is_empty() {
            for row in keys.read(connection).await? {
                earlier.insert(get(&row, "candidate_seq")?, row);
            }
        }
        let mut others = Vec::new();
        for i in positions {
            let message = &self.messages[i];
            match (&message.idempotency, earlier.get(&message.seq.0)) {
                // The same payload names the same recipient and channel, so they are known even if that message is gone.
                (Some(claim), Some(row)) => {
                    self.answers[i] = Some(answer_of(row, claim, || Ok((message.recipient.clone(), message.channel))));
                }
                _ => others.push(i),
            }
        }
        Ok(others)
    }

    /// Refills the slices that the messages at these positions count in. Those whose quota is used up are answered; the
    /// positions of the others come back.
    async fn refill(&mut self, connection: &mut Connection, positions: Vec<usize>) -> Result<Vec<usize>> {
        let mut wanted: BTreeMap<Slice, (i64, i64)> = BTreeMap::new();
        for i in &positions {
            let (limit, needed) = wanted.entry(self.slices[*i]).or_insert((i64::MAX, 0));
            *limit = (*limit).min(self.messages[*i].quota.unwrap_or(i64::MAX));
            *needed += 1;
        }
        let mut used_up: HashSet<Slice> = HashSet::new();
        for (slice, (limit, needed)) in wanted {
            match quota::refill(connection, slice, limit, needed).await {
                Ok(0) => {
                    used_up.insert(slice);
                }
                Ok(_) => {}
                // Tried again with the messages.
                Err(failure) if failure.is_collision() => tracing::debug!(error = ?failure, "a refill met another one"),
                Err(failure) => return Err(failure.into_error()),
            }
        }
        let (refused, room): (Vec<usize>, Vec<usize>) = positions.into_iter().partition(|i| used_up.contains(&self.slices[*i]));
        for i in refused {
            self.answers[i] = Some(Ok(Accepted::Refused(Refusal::Quota)));
        }
        Ok(room)
    }
}

/// Idempotency keys to look up, column by column.
#[derive(Default)]
struct Keys<'b> {
    seq: Vec<i64>,
    owner: Vec<Uuid>,
    environment: Vec<i16>,
    operation: Vec<i16>,
    key: Vec<&'b str>,
}

impl<'b> Keys<'b> {
    fn push(&mut self, m: &'b NewMessage) {
        if let Some(claim) = &m.idempotency {
            self.add(m.seq, m.tenant, m.environment, claim);
        }
    }

    fn add(&mut self, seq: Seq, tenant: TenantId, environment: Environment, claim: &'b MessageClaim) {
        self.seq.push(seq.0);
        self.owner.push(tenant.0);
        self.environment.push(environment.code());
        self.operation.push(claim.operation.code());
        self.key.push(&claim.key);
    }

    fn params(&self) -> [Param<'_>; 5] {
        [&self.seq, &self.owner, &self.environment, &self.operation, &self.key]
    }

    async fn read(&self, connection: &mut Connection) -> Result<Vec<Row>, Failure> {
        connection.query(EARLIER, &self.params()).await
    }
}

/// What the record of an earlier use answers to a claim. The record may outlive its message: then `or` tells whom it reached.
fn answer_of(row: &Row, claim: &MessageClaim, or: impl FnOnce() -> Result<(String, Channel)>) -> Result<Accepted> {
    if get::<&[u8]>(row, "fingerprint")? != claim.fingerprint {
        return Ok(Accepted::KeyReused);
    }
    let (recipient, channel) = match get::<Option<String>>(row, "recipient")? {
        Some(recipient) => (recipient, code(row, "channel", Channel::from_code)?),
        None => or()?,
    };
    Ok(Accepted::Replayed {
        seq: Seq(get(row, "message_seq")?),
        recipient,
        channel,
        status: code(row, "accepted_status", Status::from_code)?,
    })
}

/// See [`Messages::accept`](crate::Messages::accept).
pub(super) async fn accept(store: &PostgresStore, messages: &[NewMessage], now: Timestamp) -> Result<Vec<Result<Accepted>>> {
    let Some(first) = messages.first() else { return Ok(Vec::new()) };
    let writer = usize::from(first.tenant.0.as_bytes()[15]) % store.writers.len();
    let mut connection = store.writers[writer].get().await?;
    accept_over(&store.accepted, &mut connection, messages, now).await
}

/// See [`Messages::accept_waiting`](crate::Messages::accept_waiting).
pub(super) async fn accept_waiting(store: &PostgresStore, writer: usize, intake: Box<dyn Intake>) -> Result<Vec<Result<Accepted>>> {
    let mut connection = store.writers[writer % store.writers.len()].get_in_turn().await?;
    let (messages, now) = intake.take();
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    accept_over(&store.accepted, &mut connection, &messages, now).await
}

async fn accept_over(
    parts: &Parts<AcceptedRow>,
    connection: &mut Connection,
    messages: &[NewMessage],
    now: Timestamp,
) -> Result<Vec<Result<Accepted>>> {
    let mut batch = Batch::new(messages, parts, now);
    if let Err(error) = batch.run(connection).await {
        // What was committed before stays answered; if nothing was, the error is the whole answer.
        if batch.answers.iter().all(Option::is_none) {
            return Err(error);
        }
        tracing::warn!(error = ?error, "the database was lost amid a batch");
    } else {
        usage::look_at_accepted(parts, connection, batch.counted()).await;
    }
    let lost = || Err(Error::Unavailable("the database was lost amid the batch".into()));
    Ok(batch.answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect())
}

/// See [`Messages::find_replay`](crate::Messages::find_replay).
pub(super) async fn find_replay(
    store: &PostgresStore,
    tenant: TenantId,
    environment: Environment,
    claim: &MessageClaim,
) -> Result<Option<Accepted>> {
    let mut keys = Keys::default();
    keys.add(Seq(0), tenant, environment, claim);
    let rows = store.connection().await?.query_within(tenant, EARLIER, &keys.params()).await?;
    let gone = || Err(Error::internal("the message of an idempotency record is gone"));
    rows.first().map(|row| answer_of(row, claim, gone)).transpose()
}
