//! The embedded engine: one SQLite file, one thread that writes to it (`writer`) and one that moves what was written out of the log
//! (`checkpoint`), a few connections that read (`readers`).
//!
//! What lives here: the store, how its connections are opened, its health. One file per noun holds the SQL of its verbs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use raven_core::Timestamp;
use rusqlite::Connection;

use crate::{Error, Health, Lane, Migrations, Result};

mod audit;
mod callbacks;
mod checkpoint;
mod claim;
mod connection;
mod idempotency;
mod inbound;
mod invariants;
mod invitations;
mod keys;
mod limits;
mod members;
mod messages;
mod migrate;
mod nodes;
mod pages;
mod providers;
mod purge;
mod queue;
mod readers;
mod rows;
mod secrets;
mod suppressions;
mod tenants;
#[cfg(test)]
mod tests;
mod timeline;
mod usage;
mod wakes;
mod writer;

use readers::Readers;
use writer::Writer;

/// A store in one SQLite file. One process serves from it; operator commands of other processes may open it beside.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    /// Where the last claim ended: the next one starts with the lane after it.
    last_lane: Arc<Mutex<Option<Lane>>>,
    /// Where the last purge of idempotency records stopped; `None`: at the end.
    purged_to: Arc<Mutex<Option<messages::RecordKey>>>,
}

impl SqliteStore {
    /// Opens the file, which is made when there is none; its folder must exist. Does not migrate.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file can't be opened now, [`Error::Internal`] when it is no database of Raven's, or
    /// one of a newer Raven.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let connection = connection::create(&path)?;
            migrate::inspect(&connection)?;
            Ok(Self {
                writer: Writer::start(connection, path.clone())?,
                readers: Readers::new(path.clone()),
                path,
                last_lane: Arc::default(),
                purged_to: Arc::default(),
            })
        });
        opened.await.map_err(|e| Error::Internal(e.into()))?
    }

    /// Runs `work` in a transaction of the writer's, durable when this returns.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.writer.call(work).await
    }

    /// Runs `work` on a snapshot.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.readers.call(work).await
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl Health for SqliteStore {
    fn engine(&self) -> &'static str {
        "sqlite"
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn database_time(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    fn writers(&self) -> usize {
        1
    }

    async fn ping(&self) -> Result<()> {
        self.writer.is_alive()?;
        self.read(|c| Ok(c.prepare_cached(PING)?.query_row([], |_| Ok(()))?)).await
    }

    async fn migrations(&self) -> Result<Migrations> {
        self.read(|c| Ok(Migrations { applied: migrate::applied(c)?, latest: migrate::LATEST })).await
    }

    async fn migrate(&self, now: Timestamp) -> Result<Migrations> {
        for step in migrate::STEPS {
            self.write(move |c| migrate::apply(c, step, now)).await?;
        }
        self.migrations().await
    }

    async fn extend(&self, _now: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {
        // The writer's connection goes last: the last one to close moves the log into the file.
        self.readers.close().await;
        self.writer.close().await;
    }
}

const PING: &str = "SELECT count(*) FROM sqlite_schema";

/// Every statement that this engine runs on a migrated database, so that a test can prepare and explain them all.
#[must_use]
pub fn statements() -> Vec<&'static str> {
    let all = [
        audit::STATEMENTS,
        claim::STATEMENTS,
        idempotency::STATEMENTS,
        invariants::STATEMENTS,
        invitations::STATEMENTS,
        keys::STATEMENTS,
        limits::STATEMENTS,
        members::STATEMENTS,
        messages::STATEMENTS,
        nodes::STATEMENTS,
        pages::STATEMENTS,
        providers::STATEMENTS,
        purge::STATEMENTS,
        queue::STATEMENTS,
        secrets::STATEMENTS,
        suppressions::STATEMENTS,
        callbacks::STATEMENTS,
        inbound::STATEMENTS,
        tenants::STATEMENTS,
        timeline::STATEMENTS,
        usage::STATEMENTS,
        &[PING],
    ];
    all.concat()
}
