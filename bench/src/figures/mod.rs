//! The figures. Each file measures one kind, and adds its lines to the report.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    baseline::Prepared,
    cluster::Cluster,
    database::Engine,
    report::Report,
    server::{Binary, Echo, Place},
    sink::Sink,
};

pub(crate) mod backlog;
pub(crate) mod callbacks;
pub(crate) mod decay;
pub(crate) mod failover;
pub(crate) mod fairness;
pub(crate) mod footprint;
pub(crate) mod guard;
pub(crate) mod hanging;
pub(crate) mod latency;
pub(crate) mod list;
pub(crate) mod memory;
mod quiet;
pub(crate) mod single;
pub(crate) mod snapshot;
pub(crate) mod sustained;
pub(crate) mod throughput;
pub(crate) mod wide;

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
    /// Messages that wait in `backlog`.
    pub(crate) behind: u64,
    /// Messages of one window of the quiet tenant in `fairness` and `backlog`.
    pub(crate) quiet: u64,
    /// The longest that `sustained` goes on, the most messages it stores, and how long its parts are.
    pub(crate) lasting: Duration,
    pub(crate) stream: u64,
    pub(crate) part: Duration,
    /// Parts of `snapshot`, each as long as two windows.
    pub(crate) parts: usize,
    /// Starts in `footprint`.
    pub(crate) starts: usize,
    /// The longest that one figure takes, of one engine where engines are measured one after the other.
    pub(crate) figure: Duration,
    /// The longest that the whole run takes.
    pub(crate) budget: Duration,
    /// Do the sizes that the goals name hold?
    pub(crate) full: bool,
}

impl Scale {
    /// What the goals are about.
    pub(crate) const FULL: Self = Self {
        rounds: 5,
        warm: Duration::from_secs(1),
        window: Duration::from_secs(4),
        paced: 1000,
        listed: 1_000_000,
        stored: 3_000_000,
        behind: 5_000_000,
        quiet: 200,
        lasting: Duration::from_secs(10 * 60),
        stream: 10_000_000,
        part: Duration::from_secs(30),
        parts: 7,
        starts: 10,
        figure: Duration::from_secs(10 * 60),
        budget: Duration::from_secs(40 * 60),
        full: true,
    };

    /// The same, and as many messages in `decay` as its goal is about.
    pub(crate) const LARGE: Self =
        Self { stored: 10_000_000, figure: Duration::from_secs(40 * 60), budget: Duration::from_secs(120 * 60), ..Self::FULL };

    /// Shorter windows, fewer rounds and a tenth of the rows: a look, not a judgement on what needs many of them.
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        warm: Duration::from_millis(500),
        window: Duration::from_millis(1500),
        paced: 400,
        listed: 100_000,
        stored: 300_000,
        behind: 500_000,
        quiet: 80,
        lasting: Duration::from_secs(20),
        stream: 1_000_000,
        part: Duration::from_secs(5),
        parts: 4,
        starts: 5,
        figure: Duration::from_secs(3 * 60),
        budget: Duration::from_secs(10 * 60),
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
    /// The usual stack, if a figure wants it and it is there.
    pub(crate) baseline: Prepared,
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
