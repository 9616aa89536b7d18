//! The figures. Each file measures one kind, and adds its lines to the report.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    cluster::Cluster,
    database::Engine,
    report::Report,
    server::{Binary, Echo, Place},
    sink::Sink,
};

pub(crate) mod decay;
pub(crate) mod footprint;
pub(crate) mod guard;
pub(crate) mod latency;
pub(crate) mod list;
pub(crate) mod throughput;

/// How long and how often things are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Repetitions of each interleaved run.
    pub(crate) rounds: usize,
    /// Load before a window.
    pub(crate) warm: Duration,
    /// A window.
    pub(crate) window: Duration,
    /// Requests of one window of the open loop.
    pub(crate) paced: u64,
    /// Messages of the large tenant in `list`.
    pub(crate) listed: u64,
    /// Messages of the large database in `decay`.
    pub(crate) stored: u64,
    /// Starts in `footprint`.
    pub(crate) starts: usize,
    /// The longest that the whole run takes.
    pub(crate) budget: Duration,
    /// Do the sizes that the goals name hold?
    pub(crate) full: bool,
}

impl Scale {
    /// What the goals are about.
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        warm: Duration::from_secs(1),
        window: Duration::from_secs(4),
        paced: 1000,
        listed: 1_000_000,
        stored: 3_000_000,
        starts: 10,
        budget: Duration::from_secs(15 * 60),
        full: true,
    };

    /// Shorter windows and a tenth of the rows: a look, not a judgement on `list` and `decay`.
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        warm: Duration::from_millis(500),
        window: Duration::from_millis(1500),
        paced: 400,
        listed: 100_000,
        stored: 300_000,
        starts: 5,
        budget: Duration::from_secs(4 * 60),
        full: false,
    };
}

/// What all figures share.
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    pub(crate) connections: usize,
    /// Most messages under way in `deliver`.
    pub(crate) outstanding: u64,
    /// Where data and logs go.
    pub(crate) work: PathBuf,
    pub(crate) binary: Binary,
    pub(crate) sink: Sink,
    pub(crate) echo: Echo,
    /// There when a figure wants it.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) report: Report,
    pub(crate) begun: Instant,
}

impl Bench {
    /// An empty place for a server's data.
    pub(crate) async fn place(&self, engine: Engine, name: &str) -> Result<Place> {
        let dir = self.work.join(format!("{}-{name}", engine.name().to_ascii_lowercase()));
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let url = match (engine, &self.cluster) {
            (Engine::Sqlite, _) => None,
            (Engine::Postgres, Some(cluster)) => Some(cluster.create(&format!("bench_{}", name.replace('-', "_"))).await?),
            (Engine::Postgres, None) => anyhow::bail!("PostgreSQL was not started"),
        };
        Ok(Place { dir, url })
    }

    /// Removes what a server left there: it would only be vacuumed while something else is measured.
    pub(crate) async fn remove(&self, place: &Place) -> Result<()> {
        if let (Some(url), Some(cluster)) = (&place.url, &self.cluster) {
            cluster.remove(url).await?;
        }
        Ok(std::fs::remove_dir_all(&place.dir)?)
    }

    /// CPU time that the database's own processes have used: none where it lives in the server's.
    pub(crate) fn database_cpu(&self, engine: Engine) -> Duration {
        match (engine, &self.cluster) {
            (Engine::Postgres, Some(cluster)) => cluster.cpu(),
            _ => Duration::ZERO,
        }
    }

    /// Has PostgreSQL write out what is dirty.
    pub(crate) async fn settle(&self) -> Result<()> {
        match &self.cluster {
            Some(cluster) => cluster.settle().await,
            None => Ok(()),
        }
    }

    /// Tells on standard error what happens.
    pub(crate) fn say(&self, what: &str) {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{:>5.0} s  {what}", self.begun.elapsed().as_secs_f64());
    }
}
