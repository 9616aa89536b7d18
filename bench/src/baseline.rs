//! The usual stack doing the same job: NestJS, BullMQ and Redis beside PostgreSQL, from `bench/baseline-node`. It is made ready
//! by `scripts/baseline-node`, started here, and ended with whoever holds it. What it is measured by is not here.

use std::{
    io::BufRead,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use tokio_postgres::Client;

use crate::{
    cluster,
    database::Counts,
    http::{self, Connection},
    load::{ACCEPTED, Target},
    process::{self, Process},
    server::{Role, free_address},
    template::{FIRST_NUMBER, Keys, TEXT, Template},
};

/// How long each of its processes may take to become ready.
const READY: Duration = Duration::from_secs(30);
/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(10);
/// The script says with it that something it needs is not there.
const ABSENT: i32 = 3;
/// As long as Raven's keys. It protects nothing: the server listens on loopback for minutes and holds made-up data.
const API_KEY: &str = "rk_live_00000000_00000000000000000000000000000000000000000000";
/// What keys are hashed with; likewise.
const KEY_SECRET: &str = "benchmarks-only-benchmarks-only-benchmarks-only";

/// Whether there is a baseline on this machine.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// It can be started.
    Ready(Program),
    /// Node.js, npm or Redis is not there and can't be installed; which, in one line.
    Absent(String),
}

/// Installs and compiles what is missing or out of date.
pub(crate) fn prepare(root: &Path) -> Result<Prepared> {
    let done = Command::new(root.join("scripts/baseline-node")).output().context("scripts/baseline-node can't be run")?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    match done.status.code() {
        Some(0) => Ok(Prepared::Ready(Program { folder: root.join("bench/baseline-node") })),
        Some(ABSENT) => Ok(Prepared::Absent(said)),
        _ => bail!("scripts/baseline-node failed:\n{said}"),
    }
}

/// The compiled baseline.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    folder: PathBuf,
}

impl Program {
    /// One of its programs, with the settings that all of them share.
    fn node(&self, program: &str, url: &str) -> Command {
        let mut command = Command::new("node");
        // Settings of whoever runs the benchmark must not count.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("NODE_ENV", "production").env("DATABASE_URL", url).env("KEY_SECRET", KEY_SECRET);
        command.arg(self.folder.join("dist").join(program)).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts it on an empty database, with Redis and all logs in a folder of its own, and waits until it is ready.
    pub(crate) async fn start(&self, dir: &Path, url: &str, provider: SocketAddr, role: Role) -> Result<Baseline> {
        std::fs::create_dir_all(dir)?;
        let migrated = self.node("migrate.js", url).env("API_KEY", API_KEY).output().context("node can't be run")?;
        ensure!(migrated.status.success(), "the baseline's tables can't be made:\n{}", String::from_utf8_lossy(&migrated.stderr));
        let redis_at = free_address()?;
        let redis = start_redis(dir, redis_at)?;
        let redis_url = format!("redis://{redis_at}");
        let address = free_address()?;
        let mut command = self.node("api.js", url);
        command.env("REDIS_URL", &redis_url).env("HOST", address.ip().to_string()).env("PORT", address.port().to_string());
        let api = Process::start(command, &dir.join("api.log"))?;
        // From here on, whatever fails ends what was started.
        let mut baseline = Baseline { address, worker: None, api, redis, database: cluster::connect(url).await? };
        baseline.ready().await.context("the baseline's API did not start")?;
        if role == Role::All {
            let mut command = self.node("worker.js", url);
            command.env("REDIS_URL", &redis_url).env("PROVIDER_BASE_URL", format!("http://{provider}/version1")).stdout(Stdio::piped());
            let worker = baseline.worker.insert(Process::start(command, &dir.join("worker.log"))?);
            says_ready(worker).await.context("the baseline's worker did not start")?;
        }
        Ok(baseline)
    }
}

/// Starts Redis as queues are usually kept in it: every write goes to a log that is flushed once a second. No snapshots are taken
/// besides, which would cost CPU time and add nothing.
fn start_redis(dir: &Path, address: SocketAddr) -> Result<Process> {
    let data = dir.join("redis");
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]).arg("--dir").arg(&data);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]);
    command.stdin(Stdio::null()).stdout(std::fs::File::create(dir.join("redis.out"))?);
    Process::start(command, &dir.join("redis.log"))
}

/// Waits for the line that the worker says when it takes jobs.
async fn says_ready(worker: &mut Process) -> Result<()> {
    let stdout = worker.child.stdout.take().context("its output is piped")?;
    // If it stays silent it is killed, which ends the read.
    let read = tokio::task::spawn_blocking(move || -> Result<(String, ChildStdout)> {
        let (mut line, mut reader) = (String::new(), std::io::BufReader::new(stdout));
        reader.read_line(&mut line)?;
        Ok((line, reader.into_inner()))
    });
    let Ok(read) = tokio::time::timeout(READY, read).await else {
        bail!("it was not ready within {READY:?}:\n{}", worker.last_words());
    };
    let (line, stdout) = read??;
    ensure!(line.trim() == "ready", "it said {line:?}:\n{}", worker.last_words());
    // Kept open: a process that speaks into a closed pipe fails.
    worker.child.stdout = Some(stdout);
    Ok(())
}

/// The running baseline; killed when dropped.
pub(crate) struct Baseline {
    /// Where its API listens.
    pub(crate) address: SocketAddr,
    // Fields are dropped in this order: what others need goes last.
    worker: Option<Process>,
    api: Process,
    redis: Process,
    database: Client,
}

impl Baseline {
    async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        let request = http::request("GET", "/readyz", &[], "");
        loop {
            self.redis.check().context("Redis")?;
            self.api.check()?;
            if let Ok(mut connection) = Connection::open(self.address).await
                && let Ok(Ok(answer)) = tokio::time::timeout(READY, connection.call(&request)).await
                && answer.status == 200
            {
                return Ok(());
            }
            if begun.elapsed() > READY {
                bail!("it was not ready within {READY:?}:\n{}", self.api.last_words());
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Where a load goes that sends as its tenant, with numbers from `first` on.
    pub(crate) fn target(&self, keys: Keys, first: u64) -> Target {
        let template = Template::message(API_KEY, TEXT, keys);
        Target { address: self.address, template, expects: ACCEPTED, next: Arc::new(AtomicU64::new(FIRST_NUMBER + first)) }
    }

    /// Counts what was accepted at `since` or later: messages with an outcome, and messages without one.
    pub(crate) async fn counts(&self, since: SystemTime) -> Result<Counts> {
        let row = self
            .database
            .query_one(
                "SELECT count(*) FILTER (WHERE status IN ('sent', 'failed')), count(*) FILTER (WHERE status IN ('queued', 'sending'))
                 FROM messages WHERE tenant_id = (SELECT id FROM tenants) AND created_at >= $1",
                &[&since],
            )
            .await?;
        let (recorded, jobs): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Counts { recorded: u64::try_from(recorded)?, jobs: u64::try_from(jobs)? })
    }

    /// CPU time that API, worker and Redis have used: all that does the work beside PostgreSQL.
    pub(crate) fn cpu(&self) -> Duration {
        [Some(&self.api), self.worker.as_ref(), Some(&self.redis)].into_iter().flatten().map(|p| process::cpu(p.id())).sum()
    }

    /// Stops it in order. What it leaves behind is in its folder and its database.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { worker, api, redis, .. } = self;
        for (name, process) in [("worker", worker), ("API", Some(api)), ("Redis", Some(redis))] {
            let Some(process) = process else { continue };
            let status = process.stop().await.with_context(|| format!("the baseline's {name}"))?;
            ensure!(status.success(), "the baseline's {name} ended with {status}");
        }
        Ok(())
    }
}
