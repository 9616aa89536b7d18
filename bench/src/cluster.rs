//! The throwaway PostgreSQL, started and ended through `scripts/postgres`, with its fsync on.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls};

use crate::process;

/// The running cluster; ended and removed when dropped.
pub(crate) struct Cluster {
    script: PathBuf,
    dir: PathBuf,
    url: String,
    /// The process that all its others descend from.
    postmaster: u32,
}

impl Cluster {
    /// Starts it in a folder that does not exist yet.
    pub(crate) fn start(root: &Path, dir: &Path) -> Result<Self> {
        let script = root.join("scripts/postgres");
        let started = Command::new(&script)
            .args(["start", "--durable"])
            .env("RAVEN_TEST_PG_DIR", dir)
            .output()
            .context("scripts/postgres can't be run")?;
        ensure!(started.status.success(), "PostgreSQL did not start:\n{}", String::from_utf8_lossy(&started.stderr));
        // From here on, whatever fails ends it.
        let mut cluster = Self { script, dir: dir.to_owned(), url: String::new(), postmaster: 0 };
        cluster.url = std::fs::read_to_string(dir.join("url")).context("the cluster has no URL")?.trim().to_owned();
        let pid = std::fs::read_to_string(dir.join("data/postmaster.pid")).context("the cluster has no postmaster")?;
        cluster.postmaster = pid.lines().next().and_then(|l| l.trim().parse().ok()).context("postmaster.pid holds no process id")?;
        Ok(cluster)
    }

    /// Makes an empty database, and returns its URL.
    pub(crate) async fn create(&self, name: &str) -> Result<String> {
        let client = connect(&self.url).await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let (server, _) = self.url.rsplit_once('/').context("the cluster's URL names no database")?;
        Ok(format!("{server}/{name}"))
    }

    /// Removes a database that [`Self::create`] made.
    pub(crate) async fn remove(&self, url: &str) -> Result<()> {
        let (_, name) = url.rsplit_once('/').context("the URL names no database")?;
        Ok(connect(&self.url).await?.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?)
    }

    /// Writes out what is dirty, so that it is not done within a window.
    pub(crate) async fn settle(&self) -> Result<()> {
        Ok(connect(&self.url).await?.batch_execute("CHECKPOINT").await?)
    }

    /// Its version.
    pub(crate) async fn version(&self) -> Result<String> {
        Ok(connect(&self.url).await?.query_one("SHOW server_version", &[]).await?.try_get(0)?)
    }

    /// CPU time that all its processes have used.
    pub(crate) fn cpu(&self) -> Duration {
        process::family_cpu(self.postmaster)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left to tell a failure to.
        let _ = Command::new(&self.script).arg("stop").env("RAVEN_TEST_PG_DIR", &self.dir).status();
        let mut lock = self.dir.clone().into_os_string();
        lock.push(".lock");
        let _ = std::fs::remove_file(lock);
    }
}

/// A connection to a database.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("the database can't be reached")?;
    // It ends with its client; the client reports what goes wrong.
    tokio::spawn(connection);
    Ok(client)
}
