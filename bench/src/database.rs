//! What is looked up in the database beside the server: counts, of messages with an outcome and of jobs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use raven_core::{Seq, Status};
use rusqlite::{Connection, OpenFlags};
use tokio_postgres::Client;

use crate::cluster;

/// The engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// As figures call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A database, seen from beside the server.
pub(crate) enum Database {
    /// This file.
    Sqlite(PathBuf),
    /// A connection of its own.
    Postgres(Client),
}

/// What stands in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages with an outcome.
    pub(crate) recorded: u64,
    /// Jobs: messages without one.
    pub(crate) jobs: u64,
}

impl Database {
    /// The one with this URL.
    pub(crate) async fn postgres(url: &str) -> Result<Self> {
        Ok(Self::Postgres(cluster::connect(url).await?))
    }

    /// Counts what was accepted at `since` or later.
    pub(crate) async fn counts(&self, since: Seq) -> Result<Counts> {
        let (since, status) = (since.0, Status::Sent.code());
        let (recorded, jobs): (i64, i64) = match self {
            Self::Sqlite(file) => {
                let file = file.clone();
                tokio::task::spawn_blocking(move || -> Result<_> {
                    let connection = open(&file)?;
                    let recorded =
                        connection
                            .query_row("SELECT count(*) FROM messages WHERE seq >= ?1 AND status >= ?2", (since, status), |r| r.get(0))?;
                    let jobs = connection.query_row("SELECT count(*) FROM jobs WHERE seq >= ?1", [since], |r| r.get(0))?;
                    Ok((recorded, jobs))
                })
                .await??
            }
            Self::Postgres(client) => {
                let row = client
                    .query_one(
                        "SELECT (SELECT count(*) FROM messages WHERE seq >= $1 AND status >= $2), (SELECT count(*) FROM jobs WHERE seq >= $1)",
                        &[&since, &status],
                    )
                    .await?;
                (row.try_get(0)?, row.try_get(1)?)
            }
        };
        Ok(Counts { recorded: u64::try_from(recorded)?, jobs: u64::try_from(jobs)? })
    }

    /// Counts all jobs, without a look at the messages, of which there may be millions.
    pub(crate) async fn jobs(&self) -> Result<u64> {
        self.count("SELECT count(*) FROM jobs").await
    }

    /// Counts the callbacks that are stored and not applied yet.
    pub(crate) async fn waiting_callbacks(&self) -> Result<u64> {
        self.count("SELECT count(*) FROM callbacks WHERE state = 1").await
    }

    /// Counts the messages that arrived.
    pub(crate) async fn delivered(&self) -> Result<u64> {
        const { assert!(Status::Delivered.code() == 60) };
        self.count("SELECT count(*) FROM messages WHERE status = 60").await
    }

    async fn count(&self, sql: &'static str) -> Result<u64> {
        let rows: i64 = match self {
            Self::Sqlite(file) => {
                let file = file.clone();
                tokio::task::spawn_blocking(move || anyhow::Ok(open(&file)?.query_row(sql, [], |r| r.get(0))?)).await??
            }
            Self::Postgres(client) => client.query_one(sql, &[]).await?.try_get(0)?,
        };
        Ok(u64::try_from(rows)?)
    }
}

/// Opens a database file that a server may have open as well.
pub(crate) fn open(file: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).with_context(|| format!("{} can't be opened", file.display()))?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}
