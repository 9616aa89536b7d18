//! Filling a database with messages, by SQL, as the server would have left them: sent long ago (message, idempotency record,
//! outcome, no job), or waiting still (message, idempotency record, job). Row after row in the order of acceptance, so that indexes
//! end in the same state.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use raven_core::{Channel, Environment, EventKind, Seq, Source, Status, Timestamp, message::Content, retry::RetryPolicy, sms::Encoding};
use raven_store::Action;
use rusqlite::params;
use uuid::Uuid;

use crate::{
    database::{self, Database},
    template::{FIRST_NUMBER, Keys, RECIPIENT, TEXT, random_key},
};

/// Rows in one transaction.
const CHUNK: u64 = 50_000;
/// How full, in percent, a page of PostgreSQL's messages is when their outcomes are recorded and the table is vacuumed: each was
/// written twice, and the first version is gone. (After 800,000 messages in a minute of full speed, pages were 30 to 70 % full, on
/// average 56 %.) A page without that room would take one more message after the vacuum, and each acceptance touch an old page.
const FULL_PAGE: u8 = 56;
/// Records are kept for 30 days.
const KEPT: i64 = 30 * 24 * 3600 * 1000;
/// The store's code for the operation that sends a message.
const SEND_MESSAGE: i16 = 1;

/// How far the messages have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Sent.
    Sent,
    /// Accepted, due, held by nobody.
    Waiting,
}

/// What to fill in: one message a millisecond, up to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) tenant: Uuid,
    pub(crate) config: Uuid,
    pub(crate) count: u64,
    pub(crate) keys: Keys,
    pub(crate) progress: Progress,
}

impl Fill {
    fn start(&self) -> Result<i64> {
        Ok(now().millis() - i64::try_from(self.count)?)
    }

    /// How long after its acceptance a message is given up, in milliseconds.
    fn patience() -> Result<i64> {
        Ok(i64::try_from(RetryPolicy::of(Channel::Sms).max_age.as_millis())?)
    }

    fn content() -> Result<String> {
        Ok(serde_json::to_string(&Content { body: Some(TEXT.into()), ..Content::default() })?)
    }

    /// Fills. No server may have a SQLite file open meanwhile.
    pub(crate) async fn run(self, database: &Database) -> Result<()> {
        match database {
            Database::Sqlite(file) => {
                let file = file.clone();
                tokio::task::spawn_blocking(move || self.sqlite(&file)).await?
            }
            Database::Postgres(client) => self.postgres(client).await,
        }
    }

    fn sqlite(self, file: &std::path::Path) -> Result<()> {
        let (start, content, patience) = (self.start()?, Self::content()?, Self::patience()?);
        let sent = self.progress == Progress::Sent;
        let (status, provider) = if sent { (Status::Sent, Some("africas_talking")) } else { (Status::Queued, None) };
        let (cost, currency) = (sent.then_some(800_000), sent.then_some("KES"));
        let mut connection = database::open(file)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "cache_size", -1024 * 1024)?;
        for first in (0..self.count).step_by(usize::try_from(CHUNK)?) {
            let transaction = connection.transaction()?;
            {
                let mut message = transaction.prepare_cached(
                    "INSERT INTO messages (seq, tenant_id, environment, channel, source, status, large, segments, encoding, cost_micros,
                       cost_currency, provider, config_id, provider_message_id, recipient, content)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                )?;
                let mut record = transaction.prepare_cached(
                    "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, message_seq, accepted_status, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?;
                let mut event = transaction.prepare_cached(
                    "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt, started_at) VALUES (?1, 1, ?2, ?3, ?4, 1, ?4)",
                )?;
                let mut job = transaction.prepare_cached(
                    "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)",
                )?;
                let (tenant, config, live) = (self.tenant.as_bytes(), self.config.as_bytes(), Environment::Live.code());
                let sms = Channel::Sms.code();
                for n in first..self.count.min(first + CHUNK) {
                    let at = start + i64::try_from(n)?;
                    let (seq, number) = (Seq::first_at(Timestamp::from_millis(at)).0, FIRST_NUMBER + n);
                    message.execute(params![
                        seq,
                        tenant,
                        live,
                        sms,
                        Source::Api.code(),
                        status.code(),
                        Encoding::Gsm7.code(),
                        cost,
                        currency,
                        provider,
                        sent.then_some(config),
                        sent.then(|| format!("ATXid_{number}")),
                        RECIPIENT,
                        content
                    ])?;
                    if sent {
                        event.execute(params![seq, tenant, EventKind::Sent.code(), at])?;
                    } else {
                        job.execute(params![seq, tenant, live, sms, Action::Send.code(), at, at + patience])?;
                    }
                    if let Some(key) = key(self.keys, number) {
                        let fingerprint = (u128::from(number) << 64 | u128::from(!number)).to_be_bytes();
                        record.execute(params![tenant, live, SEND_MESSAGE, key, fingerprint, seq, Status::Queued.code(), at + KEPT])?;
                    }
                }
            }
            transaction.commit()?;
        }
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    async fn postgres(self, client: &tokio_postgres::Client) -> Result<()> {
        let (start, content, keys) = (self.start()?, Self::content()?, Fill::postgres_key(self.keys));
        client.batch_execute("SET synchronous_commit = off").await?;
        // Constants stand in the text: what varies is `i` alone, a number below ten digits.
        let (tenant, config, live) = (self.tenant, self.config, Environment::Live.code());
        let (sms, api, queued, gsm7) = (Channel::Sms.code(), Source::Api.code(), Status::Queued.code(), Encoding::Gsm7.code());
        let (event, action, patience) = (EventKind::Sent.code(), Action::Send.code(), Self::patience()?);
        let (status, told) = match self.progress {
            Progress::Sent => {
                (Status::Sent.code(), format!("'{config}', 800000, 'KES', 'africas_talking', 'ATXid_' || ({FIRST_NUMBER} + i)"))
            }
            Progress::Waiting => (queued, "NULL::uuid, NULL::bigint, NULL, NULL, NULL".to_owned()),
        };
        let seq = format!("(({start}::bigint + i) << 21)");
        if self.progress == Progress::Sent {
            of_each_week(client, &format!("SET (fillfactor = {FULL_PAGE})")).await?;
        }
        for first in (0..self.count).step_by(usize::try_from(CHUNK)?) {
            let rows = format!("generate_series({first}::bigint, {}::bigint) AS i", self.count.min(first + CHUNK) - 1);
            let follows = match self.progress {
                Progress::Sent => format!(
                    "INSERT INTO events (message_seq, at, started_at, tenant_id, kind, attempt)
                     SELECT {seq}, {start} + i, {start} + i, '{tenant}', {event}, 1 FROM {rows}"
                ),
                Progress::Waiting => format!(
                    "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at)
                     SELECT {seq}, '{tenant}', {live}, {sms}, {action}, 0, {start} + i, {start} + i + {patience} FROM {rows}"
                ),
            };
            client
                .batch_execute(&format!(
                    "INSERT INTO messages (seq, tenant_id, environment, channel, source, status, segments, encoding, large, config_id,
                       cost_micros, cost_currency, provider, provider_message_id, recipient, content)
                     SELECT {seq}, '{tenant}', {live}, {sms}, {api}, {status}, 1, {gsm7}, false, {told}, '{RECIPIENT}', '{content}' FROM {rows};
                     {follows}"
                ))
                .await?;
            if let Some(key) = &keys {
                client
                    .batch_execute(&format!(
                        "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, message_seq, accepted_status, expires_at)
                         SELECT '{tenant}', {live}, {SEND_MESSAGE}, {key}, decode(md5(i::text), 'hex'), {seq}, {queued}, {start} + i + {KEPT} FROM {rows}"
                    ))
                    .await?;
            }
        }
        of_each_week(client, "RESET (fillfactor)").await?;
        for table in ["messages", "events", "jobs", "idempotency"] {
            client.batch_execute(&format!("VACUUM (ANALYZE) {table}")).await?;
        }
        client.batch_execute("CHECKPOINT").await?;
        Ok(())
    }

    fn postgres_key(keys: Keys) -> Option<String> {
        match keys {
            Keys::Sequential => Some(format!("'order-' || ({FIRST_NUMBER} + i)")),
            Keys::Random => Some("gen_random_uuid()::text".to_owned()),
            Keys::Absent => None,
        }
    }
}

/// Changes each partition of messages.
async fn of_each_week(client: &tokio_postgres::Client, change: &str) -> Result<()> {
    let weeks = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass";
    for week in client.query(weeks, &[]).await? {
        client.batch_execute(&format!("ALTER TABLE {} {change}", week.get::<_, &str>(0))).await?;
    }
    Ok(())
}

fn key(keys: Keys, number: u64) -> Option<String> {
    match keys {
        Keys::Sequential => Some(format!("order-{number}")),
        Keys::Random => Some(random_key(number)),
        Keys::Absent => None,
    }
}

/// The present.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use raven_core::{TenantId, tenant::TenantStatus};
    use raven_store::{Lease, Location, connect};

    use super::*;
    use crate::database::Counts;

    #[tokio::test]
    async fn what_waits_is_claimed_in_order_and_what_was_sent_is_not() {
        let dir = std::env::temp_dir().join(format!("raven-bench-fill-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("it can be made");
        let (tenant, config) = (Uuid::from_u128(2), Uuid::from_u128(3));
        for (progress, recorded, jobs) in [(Progress::Sent, 1000, 0), (Progress::Waiting, 0, 1000)] {
            let file = dir.join(format!("{progress:?}.db"));
            let store = connect(&Location::Sqlite(file.clone())).await.expect("it opens");
            store.migrate(now()).await.expect("it has tables");
            database::open(&file)
                .and_then(|c| {
                    let values = params![tenant.as_bytes(), TenantStatus::Active.code()];
                    Ok(c.execute(
                        "INSERT INTO tenants (id, slug, name, status, plan, default_locale, default_tz, created_at, data_key, retry_unknown)
                         VALUES (?1, 'a', 'A', ?2, '', 'en', 'UTC', 0, x'', 0)",
                        values,
                    )?)
                })
                .expect("there is a tenant");
            let database = Database::Sqlite(file);
            Fill { tenant, config, count: 1000, keys: Keys::Sequential, progress }.run(&database).await.expect("it fills");
            assert_eq!(database.counts(Seq(0)).await.expect("it counts"), Counts { recorded, jobs }, "{progress:?}");
            let claimed = store.claim(Lease(1), 5, 5, &[], now()).await.expect("it claims").jobs;
            assert_eq!(claimed.len() as u64, jobs.min(5), "{progress:?}");
            assert!(claimed.is_sorted_by_key(|job| job.seq));
            // Half of its patience is left at least: it is sent, not given up.
            let patience = RetryPolicy::of(Channel::Sms).max_age;
            assert!(claimed.iter().all(|job| job.lane.tenant == TenantId(tenant) && job.expires_at > now().after(patience / 2)));
        }
        let _ = std::fs::remove_dir_all(&dir);
    }
}
