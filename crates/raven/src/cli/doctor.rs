//! `raven doctor`: looks for what is wrong, and tells what to do. Changes nothing, unless it is told to repair.

use std::{path::Path, sync::Arc, time::Duration};

use raven_core::{Clock, Timestamp};
use raven_engine::{
    OsEntropy, SystemClock,
    vault::{InstallationKeys, Vault},
};
use raven_store::{Store, nodes::DEAD_AFTER};
use serde_json::{Value, json};

use crate::{
    cli::{Around, span},
    config::{self, Config, Flags},
    failure::Failure,
    files,
    output::Output,
};

mod invariants;

/// Work that has been due for longer than this is late.
const LATE: Duration = Duration::from_secs(60);
/// Clocks that are further apart than this make limits and schedules inexact.
const SKEWED: Duration = Duration::from_secs(1);
/// Clocks that are further apart than this make nodes take each other for dead.
const APART: Duration = Duration::from_secs(5);
/// Free bytes below which the disk is nearly full, and below which it is as good as full.
const LITTLE_ROOM: u64 = 2 << 30;
const NO_ROOM: u64 = 200 << 20;
/// Tenants that are read at a time.
const PAGE: usize = 200;

/// Look for what is wrong with this installation, and tell what to do.
///
/// Prints a line for each finding. Exits with code 1 if one of them is a problem. Changes nothing (but for --repair), and works
/// while a server runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look through the data instead, for what contradicts itself or stands still. Needs RAVEN_MASTER_KEY
    #[arg(long)]
    invariants: bool,
    /// With --invariants: mend what can be mended without sending anything twice
    #[arg(long, requires = "invariants")]
    repair: bool,
    /// With --invariants: how far back to look at messages, as in 90s, 15m, 1h, 30d [default: 7d]
    #[arg(long, value_name = "SPAN", value_parser = span::parse, requires = "invariants")]
    since: Option<Duration>,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Problem,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

#[derive(Debug)]
struct Finding {
    level: Level,
    check: &'static str,
    text: String,
    /// What to do.
    advice: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level: Level::Ok, check, text: text.into(), advice: None });
    }

    fn warning(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, check, text: text.into(), advice: Some(advice.into()) });
    }

    fn problem(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { level: Level::Problem, check, text: text.into(), advice: Some(advice.into()) });
    }
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    if arguments.invariants {
        let config = around.config(config::KEEPER, &arguments.settings)?;
        let wish = invariants::Wish { repair: arguments.repair, json: arguments.json, since: arguments.since };
        return invariants::run(&config, wish, around.output).await;
    }
    let mut findings = Findings::default();
    match Config::load(config::OPERATOR, arguments.settings.given(), around.environment.clone()) {
        Ok(config) => {
            crate::telemetry::start(&config, around.plain)?;
            look(&config, &mut findings).await;
        }
        Err(mistakes) => {
            for mistake in mistakes.0 {
                findings.problem("settings", mistake, "correct it; `raven serve --help` describes every setting");
            }
        }
    }
    tell(&findings, arguments.json, around.output)?;
    if findings.0.iter().any(|f| f.level == Level::Problem) { Err(Failure::Told) } else { Ok(()) }
}

async fn look(config: &Config, findings: &mut Findings) {
    let missing: Vec<&str> = [("RAVEN_JWT_SECRET", config.jwt_secret.is_none()), ("RAVEN_MASTER_KEY", config.master_key.is_none())]
        .iter()
        .filter_map(|(name, missing)| missing.then_some(*name))
        .collect();
    if missing.is_empty() {
        findings.ok("settings", "all can be used, and both secrets are given");
    } else {
        let advice =
            "set what `raven serve` was started with, in the environment or in raven.toml; `raven quickstart` generates them for a trial";
        findings.problem("settings", format!("{} is not set", missing.join(" and ")), advice);
    }
    look_at_files(config, findings);
    let Some(store) = look_at_database(config, findings).await else { return };
    look_at_keys(config, &store, findings).await;
    look_at_clock(&*store, findings).await;
    look_at_plans(config, &*store, findings).await;
    look_at_work(&*store, SystemClock.now(), findings).await;
    store.close().await;
}

fn look_at_files(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    if !dir.is_dir() {
        let text = format!("{} is no directory", dir.display());
        if config.is_embedded() {
            findings.problem("data directory", text, "start a server once, which makes it, or point --data-dir to the right one");
        } else {
            findings.warning("data directory", text, "the first start makes it, for this node's id");
        }
        return;
    }
    let mut closed = true;
    let mut check = |path: &Path, mode: &str| match files::open_to_others(path) {
        Ok(0) => {}
        Ok(_) => {
            closed = false;
            findings.problem(
                "data directory",
                format!("others than its owner can use {}", path.display()),
                format!("chmod {mode} {}", path.display()),
            );
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            closed = false;
            findings.problem(
                "data directory",
                format!("{} can't be looked at: {e}", path.display()),
                "run this as the user that the server runs as",
            );
        }
    };
    check(dir, "700");
    check(&config.sqlite_file(), "600");
    check(&config.secrets_file(), "600");
    check(&dir.join("quickstart.toml"), "600");
    if let Some(file) = &config.secret_file {
        check(file, "600");
    }
    look_at_disk(config, findings);
    if closed {
        findings.ok("data directory", format!("{} is there, and its owner's alone", dir.display()));
    }
}

fn look_at_disk(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    let room = match rustix::fs::statvfs(dir) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(e) => {
            let text = format!("the room on the disk of {} can't be looked at: {e}", dir.display());
            return findings.warning("disk", text, "run this as the user that the server runs as");
        }
    };
    let text = format!("{} MiB are free where {} is", room >> 20, dir.display());
    if !config.is_embedded() || room >= LITTLE_ROOM {
        findings.ok("disk", text);
    } else if room >= NO_ROOM {
        findings.warning("disk", text, "make room, or move the data directory: when the disk is full, messages are refused with 503");
    } else {
        findings.problem("disk", text, "make room now, or move the data directory: messages are refused with 503 when nothing is left");
    }
}

async fn look_at_clock(store: &dyn Store, findings: &mut Findings) {
    let before = SystemClock.now();
    match store.database_time().await {
        Ok(None) => {}
        Ok(Some(theirs)) => {
            // The answer was made somewhere between the two looks at our own clock.
            let after = SystemClock.now();
            let apart = theirs.since(after).max(before.since(theirs));
            let text = format!("this machine's and the database's are {} ms apart", apart.as_millis());
            let advice = "let all machines keep their clocks by NTP (chrony or systemd-timesyncd)";
            if apart <= SKEWED {
                findings.ok("clock", text);
            } else if apart <= APART {
                findings.warning("clock", text, advice);
            } else {
                findings.problem("clock", text, advice);
            }
        }
        Err(e) => findings.problem("clock", raven_core::problem::chain(&e), "see the database's own log"),
    }
}

/// Tenants whose plan is in nobody's settings get the default plan's limits.
async fn look_at_plans(config: &Config, store: &dyn Store, findings: &mut Findings) {
    let (mut before, mut seen, mut lost) = (None, 0, Vec::new());
    loop {
        let page = match store.list_tenants(before, PAGE).await {
            Ok(page) => page,
            Err(e) => return findings.problem("plans", raven_core::problem::chain(&e), "see the database's own log"),
        };
        seen += page.len();
        lost.extend(page.iter().filter(|t| config.plans.find(&t.plan).is_none()).map(|t| format!("{} ({})", t.slug, t.plan)));
        before = page.last().map(|t| (t.created_at, t.id));
        if page.len() < PAGE {
            break;
        }
    }
    if lost.is_empty() {
        return findings.ok("plans", format!("{seen} tenants, each on a plan that the settings know"));
    }
    let shown = lost.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let text =
        format!("{} of {seen} tenants are on plans that the settings don't know, and have the default's limits: {shown}", lost.len());
    findings.warning("plans", text, "put them on another plan with `raven tenants set-plan`, or define the plan in raven.toml");
}

async fn look_at_database(config: &Config, findings: &mut Findings) -> Option<Arc<dyn Store>> {
    // Opening the embedded one would make it.
    if config.is_embedded() && !config.sqlite_file().exists() {
        findings.problem(
            "database",
            format!("there is none at {}", config.sqlite_file().display()),
            "`raven migrate` or the first start of a server makes it",
        );
        return None;
    }
    let store = match raven_store::connect(&config.location()).await {
        Ok(store) => store,
        Err(e) => {
            findings.problem(
                "database",
                raven_core::problem::chain(&e),
                "see that it runs, and that RAVEN_DATABASE_URL names it with the right user and password",
            );
            return None;
        }
    };
    let checked = match store.ping().await {
        Ok(()) => store.migrations().await,
        Err(e) => Err(e),
    };
    match checked {
        Ok(found) if found.is_current() => {
            let engine = if config.is_embedded() { "embedded SQLite" } else { "PostgreSQL" };
            findings.ok("database", format!("{engine}, reached, its schema is current (step {})", found.applied));
            Some(store)
        }
        Ok(found) if found.applied > found.latest => {
            findings.problem(
                "database",
                format!("its schema is newer (step {}) than this program (step {})", found.applied, found.latest),
                "run the newer raven",
            );
            None
        }
        Ok(found) => {
            findings.problem("database", format!("its schema is at step {} of {}", found.applied, found.latest), "raven migrate");
            None
        }
        Err(e) => {
            findings.problem("database", raven_core::problem::chain(&e), "see the database's own log");
            None
        }
    }
}

async fn look_at_keys(config: &Config, store: &Arc<dyn Store>, findings: &mut Findings) {
    let Some(master) = config.master_key.clone() else { return };
    match store.find_secret("id-tag").await {
        // Loading would make them.
        Ok(None) => findings.ok("master key", "the installation has no keys yet; the first start makes them"),
        Ok(Some(_)) => match InstallationKeys::load(&Vault::new(master, Arc::new(OsEntropy)), &**store).await {
            Ok(_) => findings.ok("master key", "opens the installation's keys"),
            Err(e) => findings.problem(
                "master key",
                raven_core::problem::chain(&e),
                "give the RAVEN_MASTER_KEY that the installation was made with; without it the tenants' credentials are lost",
            ),
        },
        Err(e) => findings.problem("master key", raven_core::problem::chain(&e), "see the database's own log"),
    }
}

async fn look_at_work(store: &dyn Store, now: Timestamp, findings: &mut Findings) {
    match store.list_nodes().await {
        Ok(nodes) => {
            let alive = nodes.iter().filter(|n| now.since(n.beat_at) <= DEAD_AFTER).count();
            let ahead = nodes.iter().filter(|n| n.beat_at.since(now) > DEAD_AFTER).count();
            match alive {
                0 => findings.ok("nodes", "no server runs"),
                1 => findings.ok("nodes", "one server runs"),
                n => findings.ok("nodes", format!("{n} servers run")),
            }
            if ahead > 0 {
                findings.warning("clock", "a server's heartbeat lies in the future", "let all machines keep their clocks by NTP");
            }
        }
        Err(e) => findings.problem("nodes", raven_core::problem::chain(&e), "see the database's own log"),
    }
    match store.depth(now).await {
        Ok(lanes) => {
            let waiting: i64 = lanes.iter().map(|(_, depth, _)| depth).sum();
            let late = lanes
                .iter()
                .filter_map(|(channel, _, oldest)| oldest.map(|at| (channel, now.since(at))))
                .filter(|(_, age)| *age > LATE)
                .max_by_key(|(_, age)| *age);
            match late {
                Some((channel, age)) => findings.warning(
                    "queue",
                    format!("{waiting} jobs wait, and one of {channel} has been due for {} s", age.as_secs()),
                    "see that a server with workers runs, and look for provider errors in its log",
                ),
                None => findings.ok("queue", format!("{waiting} jobs wait, none is late")),
            }
        }
        Err(e) => findings.problem("queue", raven_core::problem::chain(&e), "see the database's own log"),
    }
}

fn tell(findings: &Findings, as_json: bool, out: Output) -> std::io::Result<()> {
    if as_json {
        let view = |f: &Finding| json!({ "level": f.level.name(), "check": f.check, "text": f.text, "advice": f.advice });
        let problems = findings.0.iter().filter(|f| f.level == Level::Problem).count();
        return out.json(&json!({ "problems": problems, "findings": findings.0.iter().map(view).collect::<Value>() }));
    }
    for finding in &findings.0 {
        let level = format!("{:<8}", finding.level.name());
        let level = match finding.level {
            Level::Ok => out.green(&level),
            Level::Warning => out.yellow(&level),
            Level::Problem => out.red(&level),
        };
        out.line(format!("{level} {}: {}", finding.check, finding.text))?;
        if let Some(advice) = &finding.advice {
            out.line(format!("         → {advice}"))?;
        }
    }
    Ok(())
}
