//! PostgreSQL: statements by hand over a few connections, batches as arrays, one round trip for what is hot.
//!
//! What lives here: the store and its connections; one file per noun with its statements beside the verbs that run them.
//! What must not: session state (everything but the line of `listen` works through a transaction pooler), `now()`, triggers.

use async_trait::async_trait;
use parking_lot::Mutex;
use raven_core::Timestamp;
use tokio_postgres::Config;

use crate::{Health, Lane, Migrations, Result};

mod accept;
mod audit;
mod callbacks;
mod claim;
mod connection;
mod idempotency;
mod inbound;
mod invariants;
mod invitations;
mod keys;
mod limits;
mod listen;
mod members;
mod messages;
mod migrate;
mod nodes;
mod parts;
mod providers;
mod purge;
mod queue;
mod quota;
mod rows;
mod scope;
mod secrets;
mod settle;
mod suppressions;
mod tenants;
mod timeline;
mod tls;
mod usage;
mod worn;

use connection::{Connection, Connections};

/// Connections that accept: a tenant's messages always meet in the same one.
const WRITERS: usize = 2;
/// Connections that start and settle. Theirs are other rows, and their commits share the log's flush with acceptance.
const MARKERS: usize = 2;
/// Connections for all the rest.
const GENERAL: usize = 12;

/// A store on PostgreSQL.
pub struct PostgresStore {
    general: Connections,
    writers: Vec<Connections>,
    markers: Connections,
    /// Where acceptance counts, and settling, and the application of callbacks.
    accepted: parts::Parts<usage::AcceptedRow>,
    outcomes: parts::Parts<usage::OutcomeRow>,
    reported: parts::Parts<usage::OutcomeRow>,
    direct: (Config, tls::Tls),
    /// Where nodes wake each other.
    line: listen::Line,
    /// The lane after which the next claim starts looking.
    last_lane: Mutex<Option<Lane>>,
    /// Where claims begin to look.
    worn: worn::Worn,
    /// The block of the idempotency table where the next purge starts looking.
    purge_from: Mutex<i64>,
}

impl PostgresStore {
    /// Opens a store and reaches its database once. With a `direct_url`, `url` may lead through a transaction pooler
    /// (PgBouncer 1.21 or later with `max_prepared_statements`, pgcat, Supavisor); migrations and wake-ups take the direct
    /// way.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when it cannot be reached, [`Error::Internal`](crate::Error::Internal)
    /// when the URL is none or the database refuses us.
    pub async fn connect(url: &str, direct_url: Option<&str>) -> Result<Self> {
        let pooled = direct_url.is_some_and(|direct| direct != url);
        let (config, tls) = connection::config(url, pooled)?;
        let direct = connection::config(direct_url.unwrap_or(url), false)?;
        let pool = |size| Connections::new(&config, &tls, size);
        let store = Self {
            general: pool(GENERAL)?,
            writers: (0..WRITERS).map(|_| Connections::new(&connection::joining_by_hash(&config), &tls, 1)).collect::<Result<_>>()?,
            markers: Connections::new(&connection::joining_by_hash(&config), &tls, MARKERS)?,
            accepted: parts::Parts::default(),
            outcomes: parts::Parts::default(),
            reported: parts::Parts::default(),
            line: listen::Line::new(&direct.0, &direct.1),
            direct,
            last_lane: Mutex::new(None),
            worn: worn::Worn::default(),
            purge_from: Mutex::new(0),
        };
        store.ping().await?;
        Ok(store)
    }

    async fn connection(&self) -> Result<Connection> {
        self.general.get().await
    }
}

/// What only tests do.
#[cfg(any(test, feature = "conformance"))]
impl PostgresStore {
    /// The same store, as if its looks for due jobs took long from the first one on.
    #[must_use]
    pub fn with_slow_looks(self) -> Self {
        Self { worn: worn::Worn::from_the_first(), ..self }
    }

    /// Runs a statement as the verbs of a tenant run theirs, and tells how many rows came back.
    ///
    /// # Errors
    /// What the database refuses is [`Error::Internal`](crate::Error::Internal).
    pub async fn rows_within(&self, tenant: raven_core::TenantId, sql: &'static str) -> Result<usize> {
        Ok(self.connection().await?.query_within(tenant, sql, &[]).await?.len())
    }
}

const PING: &str = "SELECT 1";
/// The one place where the database's clock is read: to compare it with ours.
const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now";

#[async_trait]
impl Health for PostgresStore {
    fn engine(&self) -> &'static str {
        "postgres"
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn database_time(&self) -> Result<Option<Timestamp>> {
        let row = self.connection().await?.query_opt(TIME, &[]).await?;
        row.map(|row| rows::time(&row, "now")).transpose()
    }

    fn writers(&self) -> usize {
        WRITERS
    }

    async fn ping(&self) -> Result<()> {
        self.connection().await?.query(PING, &[]).await?;
        Ok(())
    }

    async fn migrations(&self) -> Result<Migrations> {
        migrate::state(&mut self.connection().await?).await
    }

    async fn migrate(&self, now: Timestamp) -> Result<Migrations> {
        migrate::migrate(&self.direct.0, &self.direct.1, now).await
    }

    async fn extend(&self, now: Timestamp) -> Result<()> {
        migrate::extend(&self.direct.0, &self.direct.1, &mut self.connection().await?, now).await
    }

    async fn close(&self) {
        self.line.close().await;
        self.general.close();
        self.markers.close();
        for writer in &self.writers {
            writer.close();
        }
    }
}

/// The SQL of all migrations, in order: two programs with the same text make the same schema.
pub fn migration_texts() -> impl Iterator<Item = &'static str> {
    migrate::texts()
}

/// Every statement that this engine prepares, for the test that prepares them all.
#[cfg(any(test, feature = "conformance"))]
#[must_use]
pub fn statements() -> Vec<&'static str> {
    let mut all = vec![PING, TIME];
    for of_noun in [
        accept::STATEMENTS,
        audit::STATEMENTS,
        claim::STATEMENTS,
        idempotency::STATEMENTS,
        invariants::STATEMENTS,
        invitations::STATEMENTS,
        keys::STATEMENTS,
        limits::STATEMENTS,
        members::STATEMENTS,
        messages::STATEMENTS,
        migrate::STATEMENTS,
        nodes::STATEMENTS,
        providers::STATEMENTS,
        purge::STATEMENTS,
        queue::STATEMENTS,
        quota::STATEMENTS,
        scope::STATEMENTS,
        secrets::STATEMENTS,
        settle::STATEMENTS,
        suppressions::STATEMENTS,
        callbacks::STATEMENTS,
        inbound::STATEMENTS,
        tenants::STATEMENTS,
        timeline::STATEMENTS,
        usage::STATEMENTS,
    ] {
        all.extend_from_slice(of_noun);
    }
    all
}
