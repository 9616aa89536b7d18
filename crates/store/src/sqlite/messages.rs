//! Messages in SQLite: acceptance (the hot path), contents, and forgetting. Lists are in [`super::pages`], timelines in
//! [`super::timeline`].

use std::collections::HashMap;

use async_trait::async_trait;
use raven_core::{
    Channel, Environment, EventKind, KeyId, Seq, Status, SuppressionReason, TenantId, Timestamp, sms::Encoding, suppression::lookup,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{
    SqliteStore, audit, pages, queue,
    rows::{Id, code, id, limit, time_or_null},
    suppressions::Listed,
    tenants, timeline,
    usage::Counts,
    writer::execute,
};
use crate::{
    Accepted, Action, Error, EventRecord, MessageQuery, MessageRecord, Messages, NewMessage, Refusal, Result, Urgency,
    messages::{Intake, MessageClaim, MessagePage},
};

pub(super) const STATEMENTS: &[&str] = &[
    KEY_STATE,
    CLAIM_KEY,
    CLAIMED_KEY,
    INSERT_MESSAGE,
    INSERT_JOB,
    PUT_CONTENT,
    ORPHANS,
    DELETE_ORPHAN,
    FIND_OUTLINE,
    FIND_CONTENT,
    SCAN_IDEMPOTENCY,
    PURGE_IDEMPOTENCY,
];

const KEY_STATE: &str = "SELECT tenant_id, expires_at FROM api_keys WHERE id = ?1 AND revoked_at IS NULL";
const CLAIM_KEY: &str = "INSERT INTO idempotency
  (owner_id, environment, operation, key, fingerprint, message_seq, accepted_status, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
const CLAIMED_KEY: &str = "SELECT i.fingerprint, i.message_seq, i.accepted_status, m.recipient, m.channel
  FROM idempotency i LEFT JOIN messages m ON m.seq = i.message_seq
  WHERE i.owner_id = ?1 AND i.environment = ?2 AND i.operation = ?3 AND i.key = ?4";
const INSERT_MESSAGE: &str = "INSERT INTO messages
  (seq, tenant_id, environment, channel, source, status, large, segments, encoding, external_id, recipient, content, priority,
    failure_reason)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
const INSERT_JOB: &str = "INSERT INTO jobs
  (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at, epoch, started_at, config_id, urgency, outlet)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
// A call that is repeated because its answer got lost finds its own row.
const PUT_CONTENT: &str = "INSERT INTO contents (seq, tenant_id, content) VALUES (?1, ?2, ?3)
  ON CONFLICT (seq) DO UPDATE SET content = excluded.content WHERE tenant_id = excluded.tenant_id";
const ORPHANS: &str =
    "SELECT seq FROM contents WHERE seq < ?1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.seq = contents.seq) LIMIT ?2";
const DELETE_ORPHAN: &str = "DELETE FROM contents WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.seq = contents.seq)";
const FIND_OUTLINE: &str = "SELECT content FROM messages WHERE seq = ?1 AND tenant_id = ?2";
const FIND_CONTENT: &str = "SELECT CASE WHEN m.large THEN c.content ELSE m.content END
  FROM messages m LEFT JOIN contents c ON c.seq = m.seq AND m.large WHERE m.seq = ?1 AND m.tenant_id = ?2";
const SCAN_IDEMPOTENCY: &str = "SELECT owner_id, environment, operation, key, expires_at FROM idempotency
  WHERE (owner_id, environment, operation, key) > (?1, ?2, ?3, ?4) ORDER BY owner_id, environment, operation, key LIMIT ?5";
const PURGE_IDEMPOTENCY: &str = "DELETE FROM idempotency
  WHERE owner_id = ?1 AND environment = ?2 AND operation = ?3 AND key = ?4 AND expires_at < ?5";

/// Idempotency records that one read looks through: the snapshot is let go between.
pub(super) const SCAN: usize = 5_000;
/// Such reads in one call.
const STRETCHES: usize = 10;

/// The states of the tenants and keys of a batch, each looked up once, and what the batch counts.
struct Gate<'c> {
    connection: &'c Connection,
    now: Timestamp,
    tenants: HashMap<TenantId, bool>,
    /// The tenant of each key that opens.
    keys: HashMap<KeyId, Option<TenantId>>,
    listed: Listed<'c>,
    counts: Counts,
}

impl<'c> Gate<'c> {
    fn new(connection: &'c Connection, now: Timestamp) -> Self {
        Self { connection, now, tenants: HashMap::new(), keys: HashMap::new(), listed: Listed::new(connection), counts: Counts::default() }
    }

    fn refusal(&mut self, message: &NewMessage) -> Result<Option<Refusal>> {
        if let Some(key) = message.key
            && self.owner(key)? != Some(message.tenant)
        {
            return Ok(Some(Refusal::Key));
        }
        Ok(if self.is_active(message.tenant)? { None } else { Some(Refusal::Tenant) })
    }

    fn owner(&mut self, key: KeyId) -> Result<Option<TenantId>> {
        if let Some(known) = self.keys.get(&key) {
            return Ok(*known);
        }
        let mut select = self.connection.prepare_cached(KEY_STATE)?;
        let found = select.query_row([Id(key.0)], |r| Ok((TenantId(id(r, 0)?), time_or_null(r, 1)?))).optional()?;
        let owner = found.filter(|(_, expires)| expires.is_none_or(|at| at > self.now)).map(|(tenant, _)| tenant);
        self.keys.insert(key, owner);
        Ok(owner)
    }

    fn is_active(&mut self, tenant: TenantId) -> Result<bool> {
        if let Some(known) = self.tenants.get(&tenant) {
            return Ok(*known);
        }
        let active = tenants::is_active(self.connection, tenant)?;
        self.tenants.insert(tenant, active);
        Ok(active)
    }
}

/// The statements of acceptance, taken from the cache once a batch.
struct Inserts<'c> {
    connection: &'c Connection,
    claim: CachedStatement<'c>,
    message: CachedStatement<'c>,
    job: CachedStatement<'c>,
}

impl<'c> Inserts<'c> {
    fn new(c: &'c Connection) -> Result<Self> {
        Ok(Self {
            connection: c,
            claim: c.prepare_cached(CLAIM_KEY)?,
            message: c.prepare_cached(INSERT_MESSAGE)?,
            job: c.prepare_cached(INSERT_JOB)?,
        })
    }

    fn accept(&mut self, gate: &mut Gate<'_>, m: &NewMessage) -> Result<Accepted> {
        if let Some(refusal) = gate.refusal(m)? {
            return Ok(Accepted::Refused(refusal));
        }
        let suppression = gate.listed.reason(m.tenant, m.environment, m.channel, || lookup(m.channel, &m.recipient))?;
        if suppression.is_none() && !gate.counts.has_room(self.connection, m)? {
            return self.without_room(gate, m);
        }
        let (tenant, environment, channel) = (Id(m.tenant.0), m.environment.code(), m.channel.code());
        if let Some(claim) = &m.idempotency {
            let status = if suppression.is_some() { Status::Suppressed } else { Status::Queued };
            let (operation, status) = (claim.operation.code(), status.code());
            let expires_at = claim.expires_at.millis();
            let values = params![tenant, environment, operation, claim.key, claim.fingerprint, m.seq.0, status, expires_at];
            if self.claim.execute(values)? == 0 {
                let earlier = earlier(self.connection, m.tenant, m.environment, claim)?
                    .ok_or_else(|| Error::internal("a taken key has no record"))?;
                // The same payload names the same recipient and channel.
                return earlier.answer(|| Ok((m.recipient.clone(), m.channel)));
            }
        }
        let (status, attempt, started_at, config) = match m.started {
            _ if suppression.is_some() => (Status::Suppressed, 0_i16, None, None),
            None => (Status::Queued, 0, None, None),
            Some(config) => (Status::Sending, 1, Some(gate.now.millis()), config.map(|c| Id(c.0))),
        };
        self.message.execute(params![
            m.seq.0,
            tenant,
            environment,
            channel,
            m.source.code(),
            status.code(),
            m.large,
            m.segments,
            m.encoding.map(Encoding::code),
            m.external_id,
            m.recipient,
            m.content,
            m.priority.code(),
            suppression.map(SuppressionReason::name),
        ])?;
        if let Some(reason) = suppression {
            queue::event(self.connection, m.tenant, m.seq, EventKind::Suppressed, gate.now, reason.name())?;
            self.audit(m)?;
            gate.counts.add_suppressed(m);
            return Ok(Accepted::Suppressed);
        }
        self.job.execute(params![
            m.seq.0,
            tenant,
            environment,
            channel,
            Action::Send.code(),
            attempt,
            m.due_at.millis(),
            m.expires_at.millis(),
            m.lease.map(|l| l.0),
            started_at,
            config,
            Urgency::of(m.priority).code(),
            m.outlet.0,
        ])?;
        self.audit(m)?;
        // The last thing, so that a row which fails was not counted.
        gate.counts.add(m);
        Ok(Accepted::Created)
    }

    fn audit(&self, m: &NewMessage) -> Result<()> {
        match &m.audit {
            Some(entry) => audit::insert(self.connection, m.tenant, m.seq, entry),
            None => Ok(()),
        }
    }

    /// The answer to a message that the quota has no room for: what its key was used for before, if it was.
    fn without_room(&self, gate: &mut Gate<'_>, m: &NewMessage) -> Result<Accepted> {
        let earlier = match &m.idempotency {
            Some(claim) => earlier(self.connection, m.tenant, m.environment, claim)?,
            None => None,
        };
        match earlier {
            Some(earlier) => earlier.answer(|| Ok((m.recipient.clone(), m.channel))),
            None => {
                gate.counts.refuse(m);
                Ok(Accepted::Refused(Refusal::Quota))
            }
        }
    }
}

/// What the record says that holds the key, if there is one.
fn earlier(c: &Connection, tenant: TenantId, environment: Environment, claim: &MessageClaim) -> Result<Option<Earlier>> {
    let mut select = c.prepare_cached(CLAIMED_KEY)?;
    let found = select.query_row(params![Id(tenant.0), environment.code(), claim.operation.code(), claim.key], |r| {
        if r.get::<_, [u8; 16]>(0)? != claim.fingerprint {
            return Ok(Earlier::OtherPayload);
        }
        let message = match r.get(3)? {
            Some(recipient) => Some((recipient, code(r, 4, Channel::from_code)?)),
            None => None,
        };
        Ok(Earlier::SamePayload { seq: Seq(r.get(1)?), status: code(r, 2, Status::from_code)?, message })
    });
    Ok(found.optional()?)
}

/// An earlier use of an idempotency key.
enum Earlier {
    OtherPayload,
    SamePayload {
        seq: Seq,
        status: Status,
        /// Recipient and channel; the record may outlive the message.
        message: Option<(String, Channel)>,
    },
}

impl Earlier {
    fn answer(self, or: impl FnOnce() -> Result<(String, Channel)>) -> Result<Accepted> {
        let Self::SamePayload { seq, status, message } = self else { return Ok(Accepted::KeyReused) };
        let (recipient, channel) = message.map_or_else(or, Ok)?;
        Ok(Accepted::Replayed { seq, recipient, channel, status })
    }
}

fn accept(c: &Connection, batch: &[NewMessage], now: Timestamp) -> Result<Vec<Result<Accepted>>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let (mut gate, mut inserts) = (Gate::new(c, now), Inserts::new(c)?);
    // All in one go first. Only if a row is refused are they taken one by one, so that it fails alone.
    execute(c, "SAVEPOINT batch")?;
    let all: Result<Vec<_>> = batch.iter().map(|m| inserts.accept(&mut gate, m)).collect();
    let answers = match all {
        Ok(accepted) => accepted.into_iter().map(Ok).collect(),
        Err(error @ Error::Unavailable(_)) => return Err(error),
        Err(_) => {
            execute(c, "ROLLBACK TO batch")?;
            gate.counts.reset();
            one_by_one(c, &mut inserts, &mut gate, batch)?
        }
    };
    execute(c, "RELEASE batch")?;
    gate.counts.store(c)?;
    Ok(answers)
}

fn one_by_one(c: &Connection, inserts: &mut Inserts<'_>, gate: &mut Gate<'_>, batch: &[NewMessage]) -> Result<Vec<Result<Accepted>>> {
    let mut answers = Vec::with_capacity(batch.len());
    for message in batch {
        execute(c, "SAVEPOINT row")?;
        let answer = inserts.accept(gate, message);
        match answer {
            Ok(_) => {}
            Err(Error::Unavailable(_)) => return answer.map(|_| Vec::new()),
            Err(_) => execute(c, "ROLLBACK TO row")?,
        }
        execute(c, "RELEASE row")?;
        answers.push(answer);
    }
    Ok(answers)
}

/// The first four columns of an idempotency record: its primary key.
pub(super) type RecordKey = (Id, i16, i16, String);

/// Reads the next records until `most` of them have expired: these, and where to go on, if anywhere.
fn scan_idempotency(c: &Connection, after: Option<&RecordKey>, now: Timestamp, most: usize) -> Result<(Vec<RecordKey>, Option<RecordKey>)> {
    let mut select = c.prepare_cached(SCAN_IDEMPOTENCY)?;
    let mut rows = match after {
        // No id is empty, so every record comes after this.
        None => select.query(params![&[] as &[u8], 0, 0, "", limit(SCAN)])?,
        Some((owner, environment, operation, key)) => select.query(params![owner, environment, operation, key, limit(SCAN)])?,
    };
    let (mut expired, mut seen) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        seen += 1;
        let key = || -> rusqlite::Result<RecordKey> { Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)) };
        if row.get::<_, i64>(4)? < now.millis() {
            expired.push(key()?);
        }
        if seen == SCAN || expired.len() == most {
            return Ok((expired, Some(key()?)));
        }
    }
    Ok((expired, None))
}

#[async_trait]
impl Messages for SqliteStore {
    async fn accept(&self, batch: Vec<NewMessage>, now: Timestamp) -> Result<Vec<Result<Accepted>>> {
        self.write(move |c| accept(c, &batch, now)).await
    }

    async fn accept_waiting(&self, _writer: usize, intake: Box<dyn Intake>) -> Result<Vec<Result<Accepted>>> {
        // The writer asks: what comes while it commits for others is then in this batch, and it need not wait for anybody.
        self.write(move |c| {
            let (batch, now) = intake.take();
            accept(c, &batch, now)
        })
        .await
    }

    async fn find_replay(&self, tenant: TenantId, environment: Environment, claim: &MessageClaim) -> Result<Option<Accepted>> {
        let claim = claim.clone();
        self.read(move |c| match earlier(c, tenant, environment, &claim)? {
            Some(earlier) => earlier.answer(|| Err(Error::internal("the message of an idempotency record is gone"))).map(Some),
            None => Ok(None),
        })
        .await
    }

    async fn put_content(&self, tenant: TenantId, seq: Seq, content: &str) -> Result<()> {
        let content = content.to_owned();
        self.write(move |c| Ok(c.prepare_cached(PUT_CONTENT)?.execute(params![seq.0, Id(tenant.0), content]).map(drop)?)).await
    }

    async fn sweep_contents(&self, before: Timestamp, rows: usize) -> Result<usize> {
        let before = pages::floor(before);
        // Looked for on a reader, so that the writer is not held up by what is kept.
        let orphans: Vec<i64> = self
            .read(move |c| {
                let mut select = c.prepare_cached(ORPHANS)?;
                Ok(select.query_map([before, limit(rows)], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        if orphans.is_empty() {
            return Ok(0);
        }
        self.write(move |c| {
            let mut delete = c.prepare_cached(DELETE_ORPHAN)?;
            let mut deleted = 0;
            for seq in orphans {
                deleted += delete.execute([seq])?;
            }
            Ok(deleted)
        })
        .await
    }

    async fn find_message(&self, tenant: TenantId, environment: Option<Environment>, seq: Seq) -> Result<Option<MessageRecord>> {
        self.read(move |c| pages::find(c, tenant, environment, seq)).await
    }

    async fn list_events(&self, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>> {
        self.read(move |c| timeline::list(c, tenant, seq)).await
    }

    async fn find_outline(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.read(move |c| Ok(c.prepare_cached(FIND_OUTLINE)?.query_row(params![seq.0, Id(tenant.0)], |r| r.get(0)).optional()?)).await
    }

    async fn find_content(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.read(move |c| Ok(c.prepare_cached(FIND_CONTENT)?.query_row(params![seq.0, Id(tenant.0)], |r| r.get(0)).optional()?)).await
    }

    async fn list_messages(&self, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage> {
        let query = query.clone();
        self.read(move |c| pages::list(c, tenant, &query)).await
    }

    async fn purge_idempotency(&self, now: Timestamp, rows: usize) -> Result<usize> {
        // No index tells the expired ones (it would cost each acceptance), so all are read, on a reader and by stretches; a few in
        // one call, so that whoever waits for a processor hardly notices.
        let mut after = self.purged_to.lock().take();
        let (mut purged, mut stretches) = (0, 0);
        while purged < rows && stretches < STRETCHES {
            let most = rows - purged;
            let (expired, next) = self.read(move |c| scan_idempotency(c, after.as_ref(), now, most)).await?;
            if !expired.is_empty() {
                purged += self.write(move |c| purge(c, &expired, now)).await?;
            }
            (after, stretches) = (next, stretches + 1);
            if after.is_none() {
                break;
            }
        }
        *self.purged_to.lock() = after;
        Ok(purged)
    }
}

fn purge(c: &Connection, expired: &[RecordKey], now: Timestamp) -> Result<usize> {
    let mut delete = c.prepare_cached(PURGE_IDEMPOTENCY)?;
    let mut purged = 0;
    for (owner, environment, operation, key) in expired {
        purged += delete.execute(params![owner, environment, operation, key, now.millis()])?;
    }
    Ok(purged)
}
