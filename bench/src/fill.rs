//! Filling a database with messages that were sent long ago, by SQL: as the server would have left them (message,
//! idempotency record, outcome, no job), row after row in the order of acceptance, so that indexes end in the same state.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use raven_core::{Channel, Environment, EventKind, Seq, Source, Status, Timestamp, message::Content, sms::Encoding};
use rusqlite::params;
use uuid::Uuid;

use crate::{
    database::{self, Database},
    template::{FIRST_NUMBER, Keys, RECIPIENT, TEXT, random_key},
};

/// Rows in one transaction.
const CHUNK: u64 = 50_000;
/// Records are kept for 30 days.
const KEPT: i64 = 30 * 24 * 3600 * 1000;
/// The store's code for the operation that sends a message.
const SEND_MESSAGE: i16 = 1;

/// What to fill in: one message a millisecond, up to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) tenant: Uuid,
    pub(crate) config: Uuid,
    pub(crate) count: u64,
    pub(crate) keys: Keys,
}

impl Fill {
    fn start(&self) -> Result<i64> {
        Ok(now().millis() - i64::try_from(self.count)?)
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
        let (start, content) = (self.start()?, Self::content()?);
        let mut connection = database::open(file)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "cache_size", -1024 * 1024)?;
        for first in (0..self.count).step_by(usize::try_from(CHUNK)?) {
            let transaction = connection.transaction()?;
            {
                let mut message = transaction.prepare_cached(
                    "INSERT INTO messages (seq, tenant_id, environment, channel, source, status, large, segments, encoding, cost_micros,
                       cost_currency, provider, config_id, provider_message_id, recipient, content)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, ?7, 800000, 'KES', 'africas_talking', ?8, ?9, ?10, ?11)",
                )?;
                let mut record = transaction.prepare_cached(
                    "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, message_seq, accepted_status, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?;
                let mut event = transaction.prepare_cached(
                    "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt, started_at) VALUES (?1, 1, ?2, ?3, ?4, 1, ?4)",
                )?;
                let (tenant, config, live) = (self.tenant.as_bytes(), self.config.as_bytes(), Environment::Live.code());
                for n in first..self.count.min(first + CHUNK) {
                    let at = start + i64::try_from(n)?;
                    let (seq, number) = (Seq::first_at(Timestamp::from_millis(at)).0, FIRST_NUMBER + n);
                    message.execute(params![
                        seq,
                        tenant,
                        live,
                        Channel::Sms.code(),
                        Source::Api.code(),
                        Status::Sent.code(),
                        Encoding::Gsm7.code(),
                        config,
                        format!("ATXid_{number}"),
                        RECIPIENT,
                        content
                    ])?;
                    event.execute(params![seq, tenant, EventKind::Sent.code(), at])?;
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
        let (sms, api, sent, queued, event) =
            (Channel::Sms.code(), Source::Api.code(), Status::Sent.code(), Status::Queued.code(), EventKind::Sent.code());
        let gsm7 = Encoding::Gsm7.code();
        let seq = format!("(({start}::bigint + i) << 21)");
        for first in (0..self.count).step_by(usize::try_from(CHUNK)?) {
            let rows = format!("generate_series({first}::bigint, {}::bigint) AS i", self.count.min(first + CHUNK) - 1);
            client
                .batch_execute(&format!(
                    "INSERT INTO messages (seq, tenant_id, cost_micros, environment, channel, source, status, segments, encoding, large, config_id,
                       cost_currency, provider, provider_message_id, recipient, content)
                     SELECT {seq}, '{tenant}', 800000, {live}, {sms}, {api}, {sent}, 1, {gsm7}, false, '{config}', 'KES', 'africas_talking',
                       'ATXid_' || ({FIRST_NUMBER} + i), '{RECIPIENT}', '{content}' FROM {rows};
                     INSERT INTO events (message_seq, at, started_at, tenant_id, kind, attempt)
                     SELECT {seq}, {start} + i, {start} + i, '{tenant}', {event}, 1 FROM {rows}"
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
        for table in ["messages", "events", "idempotency"] {
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
