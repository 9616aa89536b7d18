//! Measures Raven against its speed goals, and prints one table. `README.md` beside it says what each figure means.
//!
//! Every throughput is a share of what a bare echo answers under the same load, from interleaved runs on one machine: the
//! machine's own moods cancel out. Load ([`load`], [`pace`]), provider ([`sink`]) and readings are in this process, the
//! echo ([`echo`]), Raven ([`server`]) and PostgreSQL ([`cluster`]) in their own. What is measured is in [`figures`].

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

mod baseline;
mod cluster;
mod database;
mod echo;
mod figures;
mod fill;
mod flood;
mod http;
mod load;
mod machine;
mod pace;
mod process;
mod report;
mod server;
mod sink;
mod stats;
mod template;

use baseline::Prepared;
use cluster::Cluster;
use database::Engine;
use figures::{Bench, Scale, throughput::Work};
use report::{Met, Report, Row};
use server::{Binary, Echo};
use sink::Sink;
use template::Keys;

// As in the server: what the yardstick allocates with must not differ.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Raven against its speed goals. Everything it needs it starts itself, on loopback, and ends again.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// At most 10 minutes: shorter windows, 3 rounds, and a tenth of the rows in `list`, `backlog` and `decay`
    #[arg(long)]
    quick: bool,
    /// `decay` with the 10 million messages that its goal is about, instead of 3 million
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only these figures; `sustained` and `snapshot` are measured only if they are named
    #[arg(long, value_name = "NAME")]
    only: Vec<Figure>,
    /// Only this engine, in figures that are about both
    #[arg(long, value_name = "ENGINE")]
    engine: Option<OnlyEngine>,
    /// Which idempotency keys `accept` and `deliver` send (usually sequential ones), and `decay` (usually sequential ones, then random
    /// ones)
    #[arg(long, value_name = "KIND")]
    keys: Option<Keys>,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Most messages of `deliver` that have not arrived at the provider yet
    #[arg(long, value_name = "N", default_value_t = 256)]
    outstanding: u64,
    /// The program to measure; by default the one beside this
    #[arg(long, value_name = "PATH")]
    raven: Option<PathBuf>,
    /// The repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Where data is kept meanwhile: on a disk, or fsync costs nothing
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    work: PathBuf,
    /// Measure without the usual stack: goals that are about it stay open
    #[arg(long)]
    no_baseline: bool,
    /// Print the table, but keep no file of it
    #[arg(long)]
    dry: bool,
    /// Keep the table of some figures too, in a file that is named after them
    #[arg(long, conflicts_with = "dry")]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The bare server that is the yardstick.
    #[command(hide = true)]
    Echo,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    AcceptSqlite,
    AcceptPostgres,
    DeliverSqlite,
    DeliverPostgres,
    DeliverWide,
    Single,
    Latency,
    Callbacks,
    #[value(alias = "load")]
    Memory,
    Fairness,
    Failover,
    Hanging,
    Backlog,
    List,
    Decay,
    Footprint,
    Keys,
    Flood,
    Sustained,
    Snapshot,
}

impl Figure {
    /// Those that are not named after an engine and need PostgreSQL where it is asked for.
    const WITH_POSTGRES: [Self; 13] = [
        Self::DeliverWide,
        Self::Single,
        Self::Latency,
        Self::Callbacks,
        Self::Memory,
        Self::Fairness,
        Self::Failover,
        Self::Hanging,
        Self::Backlog,
        Self::List,
        Self::Decay,
        Self::Sustained,
        Self::Snapshot,
    ];

    /// Those that are measured only if they are named.
    const NAMED: [Self; 2] = [Self::Sustained, Self::Snapshot];

    /// As the command line calls it.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnlyEngine {
    Sqlite,
    Postgres,
}

impl Arguments {
    fn wants(&self, figure: Figure) -> bool {
        if self.only.is_empty() { !Figure::NAMED.contains(&figure) } else { self.only.contains(&figure) }
    }

    /// How long and how often things are measured.
    fn scale(&self) -> Scale {
        let scale = match (self.quick, self.full) {
            (true, _) => Scale::QUICK,
            (false, true) => Scale::LARGE,
            (false, false) => Scale::FULL,
        };
        let more = if self.wants(Figure::Sustained) { figures::sustained::LONGEST * 2 } else { Duration::ZERO };
        Scale { budget: scale.budget + more, ..scale }
    }

    /// The engines of a figure that is about both.
    fn engines(&self) -> Vec<Engine> {
        match self.engine {
            Some(OnlyEngine::Sqlite) => vec![Engine::Sqlite],
            Some(OnlyEngine::Postgres) => vec![Engine::Postgres],
            None => vec![Engine::Sqlite, Engine::Postgres],
        }
    }

    /// The engines of a figure that is named after one.
    fn pair(&self, sqlite: Figure, postgres: Figure) -> Vec<Engine> {
        let wanted = |engine: &Engine| self.wants(if *engine == Engine::Sqlite { sqlite } else { postgres });
        self.engines().into_iter().filter(wanted).collect()
    }

    /// The figures of `accept` and `deliver`.
    fn throughputs(&self) -> Vec<(Work, Vec<Engine>)> {
        let accept = (Work::Accept, self.pair(Figure::AcceptSqlite, Figure::AcceptPostgres));
        let deliver = (Work::Deliver, self.pair(Figure::DeliverSqlite, Figure::DeliverPostgres));
        [accept, deliver].into_iter().filter(|(_, engines)| !engines.is_empty()).collect()
    }

    fn wants_baseline(&self) -> bool {
        !self.no_baseline && !self.throughputs().is_empty()
    }

    /// Does one of Raven's figures want it?
    fn wants_postgres(&self) -> bool {
        let both = Figure::WITH_POSTGRES.into_iter().any(|f| self.wants(f)) && self.engines().contains(&Engine::Postgres);
        both || self.throughputs().iter().any(|(_, engines)| engines.contains(&Engine::Postgres))
    }

    /// The file of the table, without the date; `None`: it is not kept.
    fn keeps_as(&self) -> Option<String> {
        let quick = if self.quick { "-quick" } else { "" };
        let whole = self.only.is_empty() && self.engine.is_none() && !self.no_baseline;
        if self.dry || !(whole || self.keep) {
            return None;
        }
        // A whole run is comparable: all figures, as they are by default. The others say what they are.
        let engine = match self.engine {
            None => "",
            Some(OnlyEngine::Sqlite) => "-sqlite",
            Some(OnlyEngine::Postgres) => "-postgres",
        };
        let figures: String = self.only.iter().map(|figure| format!("-{}", figure.name())).collect();
        let alone = if self.no_baseline { "-no-baseline" } else { "" };
        let full = if self.full { "-full" } else { "" };
        Some(format!("{figures}{engine}{alone}{full}{quick}"))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Echo) => echo::run().map(|()| ExitCode::SUCCESS),
        None => run(&arguments),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// The folder for data; removed when dropped.
struct WorkDir(PathBuf);

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let id = std::process::id();
    // Declared first, so that it goes last.
    let work = WorkDir(arguments.work.join(format!("raven-bench-{id}")));
    std::fs::create_dir_all(&work.0).with_context(|| format!("{} can't be made", work.0.display()))?;
    let root = arguments.root.canonicalize().context("there is no such repository")?;
    let raven = match &arguments.raven {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("raven"),
    };
    let raven = raven.canonicalize().with_context(|| format!("{} is not there: build it, or name it with --raven", raven.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let baseline = match arguments.wants_baseline() {
        // What it lacks keeps nothing else from being measured.
        true => baseline::prepare(&root).unwrap_or_else(|error| Prepared::Absent(format!("{error:#}").replace('\n', " "))),
        false => Prepared::Absent("not asked for".to_owned()),
    };
    let cluster = match arguments.wants_postgres() || matches!(baseline, Prepared::Ready(_)) {
        true => Some(Cluster::start(&root, &arguments.work.join(format!("raven-bench-pg-{id}")))?),
        false => None,
    };
    let sink = Sink::start()?;
    let bench = Bench {
        scale: arguments.scale(),
        connections: arguments.connections,
        outstanding: arguments.outstanding,
        binary: Binary { path: raven, provider: sink.address, settings: &[] },
        sink,
        echo: Echo::start(&work.0)?,
        baseline,
        cluster,
        report: Report::default(),
        begun: Instant::now(),
        work: work.0.clone(),
    };
    let whole = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = tokio::time::timeout(bench.scale.budget, measure(&bench, arguments)) => match done {
                Ok(whole) => whole,
                Err(_) => {
                    bench.report.note(format!("the run was cut short after {:?}: what is missing was not measured", bench.scale.budget));
                    Ok(false)
                }
            },
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        }
    });
    let whole = match whole {
        Ok(whole) => {
            conclude(&bench, &runtime, arguments, &root)?;
            whole
        }
        Err(error) => {
            // A fill that is under way is not waited for.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    runtime.shutdown_background();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures what is wanted. A figure that fails doesn't keep the others from being measured; `false` if one did.
async fn measure(bench: &Bench, arguments: &Arguments) -> Result<bool> {
    let engines = arguments.engines();
    let mut whole = true;
    let mut conclude = |name: &str, done: Result<()>| {
        if let Err(error) = done {
            whole = false;
            bench.say(&format!("{name} failed: {error:#}"));
            let measured = format!("failed: {}", format!("{error:#}").lines().next().unwrap_or_default());
            bench.report.row(Row { figure: name.to_owned(), measured, goal: "", met: Met::Open, cpu: String::new() });
        }
    };
    let longest = bench.scale.figure;
    if arguments.wants(Figure::Footprint) {
        conclude("footprint", bounded(longest, figures::footprint::measure(bench)).await);
    }
    if arguments.wants(Figure::Keys) {
        conclude("keys", bounded(longest, figures::guard::keys(bench)).await);
    }
    if arguments.wants(Figure::Flood) {
        conclude("flood", bounded(longest, figures::guard::flood(bench)).await);
    }
    for (work, pair) in arguments.throughputs() {
        conclude(
            work.name(),
            bounded(longest, figures::throughput::measure(bench, work, &pair, arguments.keys.unwrap_or(Keys::Sequential))).await,
        );
    }
    if arguments.wants(Figure::DeliverWide) {
        conclude("deliver-wide", bounded(longest, figures::wide::measure(bench, &engines)).await);
    }
    if arguments.wants(Figure::Single) {
        conclude("single", bounded(longest, figures::single::measure(bench, &engines)).await);
    }
    if arguments.wants(Figure::Latency) {
        conclude("latency", bounded(longest, figures::latency::measure(bench, &engines)).await);
    }
    if arguments.wants(Figure::Callbacks) {
        conclude("callbacks", bounded(longest, figures::callbacks::measure(bench, &engines)).await);
    }
    // Engine after engine, figure after figure.
    let each = [
        Figure::Memory,
        Figure::Fairness,
        Figure::Failover,
        Figure::Hanging,
        Figure::Backlog,
        Figure::List,
        Figure::Decay,
        Figure::Sustained,
    ];
    for figure in each.into_iter().filter(|figure| arguments.wants(*figure)) {
        for engine in engines.iter().copied() {
            let done = match figure {
                Figure::Memory => bounded(longest, figures::memory::measure(bench, engine)).await,
                Figure::Fairness => bounded(longest, figures::fairness::measure(bench, engine)).await,
                Figure::Failover => bounded(longest, figures::failover::measure(bench, engine)).await,
                Figure::Hanging => bounded(longest, figures::hanging::measure(bench, engine)).await,
                Figure::Backlog => bounded(longest, figures::backlog::measure(bench, engine)).await,
                Figure::List => bounded(longest, figures::list::measure(bench, engine)).await,
                Figure::Decay => bounded(longest, figures::decay::measure(bench, engine, arguments.keys)).await,
                _ => bounded(figures::sustained::LONGEST, figures::sustained::measure(bench, engine)).await,
            };
            conclude(&format!("{}, {}", figure.name(), engine.name()), done);
        }
    }
    if arguments.wants(Figure::Snapshot) && engines.contains(&Engine::Postgres) {
        conclude("snapshot", bounded(longest, figures::snapshot::measure(bench)).await);
    }
    Ok(whole)
}

/// A figure that hangs must not take the time of all others.
async fn bounded(longest: Duration, figure: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(longest, figure).await.with_context(|| format!("it took longer than {longest:?}"))?
}

/// Prints the table, and keeps it.
fn conclude(bench: &Bench, runtime: &tokio::runtime::Runtime, arguments: &Arguments, root: &Path) -> Result<()> {
    let postgres = match &bench.cluster {
        Some(cluster) => runtime.block_on(cluster.version())?,
        None => "not used".to_owned(),
    };
    let mut out = std::io::stdout();
    write!(out, "{}\n{}", bench.report.table(), bench.report.notes())?;
    let Some(name) = arguments.keeps_as() else { return Ok(()) };
    let mut machine = machine::describe(root, &bench.work, &postgres);
    let given: Vec<String> = std::env::args().skip(1).collect();
    machine.push(("command", format!("scripts/bench {}", given.join(" ")).trim_end().to_owned()));
    machine.push(("took", format!("{:.0} s", bench.begun.elapsed().as_secs_f64())));
    let now = fill::now().to_string();
    let (date, time) = now.split_once('T').context("a time has a date")?;
    let results = root.join("bench/results");
    std::fs::create_dir_all(&results)?;
    let kind = if arguments.quick { ", quick" } else { "" };
    let file = results.join(format!("{date}{name}.md"));
    std::fs::write(&file, bench.report.document(&format!("{date} {} UTC{kind}", &time[..5]), &machine))?;
    writeln!(out, "\nkept in {}", file.strip_prefix(root).unwrap_or(&file).display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(given: &str) -> Arguments {
        Arguments::try_parse_from(given.split_ascii_whitespace()).expect("it can be read")
    }

    #[test]
    fn a_whole_run_is_kept_and_a_part_when_asked() {
        let kept = [
            ("bench", Some("")),
            ("bench --quick", Some("-quick")),
            ("bench --dry", None),
            ("bench --only single", None),
            ("bench --engine sqlite", None),
            ("bench --no-baseline", None),
            ("bench --only single --only load --keep", Some("-single-memory")),
            ("bench --only decay --full --engine postgres --keep", Some("-decay-postgres-full")),
        ];
        for (given, name) in kept {
            assert_eq!(arguments(given).keeps_as().as_deref(), name, "{given}");
        }
    }

    #[test]
    fn what_takes_long_is_measured_only_by_name_and_has_its_time() {
        let (whole, named) = (arguments("bench"), arguments("bench --only sustained"));
        assert!(!whole.wants(Figure::Sustained) && named.wants(Figure::Sustained));
        assert!(named.scale().budget > Scale::FULL.budget);
        assert_eq!((whole.scale().stored, arguments("bench --full").scale().stored), (3_000_000, 10_000_000));
    }

    #[test]
    fn postgresql_and_the_usual_stack_are_started_for_who_wants_them() {
        let alone = arguments("bench --only accept-sqlite --no-baseline");
        assert!(!alone.wants_postgres() && !alone.wants_baseline());
        assert!(arguments("bench --only accept-sqlite").wants_baseline());
        assert!(!arguments("bench --only fairness").wants_baseline());
        assert!(arguments("bench --only fairness").wants_postgres());
        assert!(!arguments("bench --only fairness --engine sqlite").wants_postgres());
    }
}
