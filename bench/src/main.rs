//! Measures Raven against its speed goals, and prints one table. `README.md` beside it says what each figure means.
//!
//! Every throughput is a share of what a bare echo answers under the same load, from interleaved runs on one machine: the
//! machine's own moods cancel out. Load ([`load`], [`pace`]), provider ([`sink`]) and readings are in this process, the
//! echo ([`echo`]), Raven ([`server`]) and PostgreSQL ([`cluster`]) in their own. What is measured is in [`figures`].

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

#[expect(dead_code, reason = "no figure measures it yet")]
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
    /// At most 4 minutes: shorter windows, and a tenth of the rows in `list` and `decay`
    #[arg(long)]
    quick: bool,
    /// Only these figures
    #[arg(long, value_name = "NAME")]
    only: Vec<Figure>,
    /// Only this engine, in figures that are about both
    #[arg(long, value_name = "ENGINE")]
    engine: Option<OnlyEngine>,
    /// Which idempotency keys `accept` and `deliver` send
    #[arg(long, value_name = "KIND", default_value = "sequential")]
    keys: Keys,
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
    /// Print the table, but keep no file of it
    #[arg(long)]
    dry: bool,
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
    Latency,
    List,
    Decay,
    Footprint,
    Keys,
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnlyEngine {
    Sqlite,
    Postgres,
}

impl Arguments {
    fn wants(&self, figure: Figure) -> bool {
        self.only.is_empty() || self.only.contains(&figure)
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

    fn wants_postgres(&self) -> bool {
        let pairs = [(Figure::AcceptSqlite, Figure::AcceptPostgres), (Figure::DeliverSqlite, Figure::DeliverPostgres)];
        let both =
            [Figure::Latency, Figure::List, Figure::Decay].into_iter().any(|f| self.wants(f)) && self.engines().contains(&Engine::Postgres);
        both || pairs.iter().any(|(s, p)| self.pair(*s, *p).contains(&Engine::Postgres))
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
    let cluster = match arguments.wants_postgres() {
        true => Some(Cluster::start(&root, &arguments.work.join(format!("raven-bench-pg-{id}")))?),
        false => None,
    };
    let sink = Sink::start()?;
    let bench = Bench {
        scale: if arguments.quick { Scale::QUICK } else { Scale::FULL },
        connections: arguments.connections,
        outstanding: arguments.outstanding,
        binary: Binary { path: raven, provider: sink.address, settings: &[] },
        sink,
        echo: Echo::start(&work.0)?,
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
    if arguments.wants(Figure::Footprint) {
        conclude("footprint", figures::footprint::measure(bench).await);
    }
    if arguments.wants(Figure::Keys) {
        conclude("keys", figures::guard::keys(bench).await);
    }
    if arguments.wants(Figure::Flood) {
        conclude("flood", figures::guard::flood(bench).await);
    }
    for (work, sqlite, postgres) in
        [(Work::Accept, Figure::AcceptSqlite, Figure::AcceptPostgres), (Work::Deliver, Figure::DeliverSqlite, Figure::DeliverPostgres)]
    {
        let pair = arguments.pair(sqlite, postgres);
        if !pair.is_empty() {
            let name = if work == Work::Accept { "accept" } else { "deliver" };
            conclude(name, figures::throughput::measure(bench, work, &pair, arguments.keys).await);
        }
    }
    if arguments.wants(Figure::Latency) {
        conclude("latency", figures::latency::measure(bench, &engines).await);
    }
    for engine in &engines {
        if arguments.wants(Figure::List) {
            conclude(&format!("list, {}", engine.name()), figures::list::measure(bench, *engine).await);
        }
    }
    for engine in &engines {
        if arguments.wants(Figure::Decay) {
            conclude(&format!("decay, {}", engine.name()), figures::decay::measure(bench, *engine).await);
        }
    }
    Ok(whole)
}

/// Prints the table, and keeps it.
fn conclude(bench: &Bench, runtime: &tokio::runtime::Runtime, arguments: &Arguments, root: &Path) -> Result<()> {
    let postgres = match &bench.cluster {
        Some(cluster) => runtime.block_on(cluster.version())?,
        None => "not used".to_owned(),
    };
    let mut out = std::io::stdout();
    write!(out, "{}\n{}", bench.report.table(), bench.report.notes())?;
    // What is kept is comparable: all figures, as they are by default.
    if arguments.dry || !arguments.only.is_empty() || arguments.engine.is_some() {
        return Ok(());
    }
    let mut machine = machine::describe(root, &bench.work, &postgres);
    let given: Vec<String> = std::env::args().skip(1).collect();
    machine.push(("command", format!("scripts/bench {}", given.join(" ")).trim_end().to_owned()));
    machine.push(("took", format!("{:.0} s", bench.begun.elapsed().as_secs_f64())));
    let now = fill::now().to_string();
    let (date, time) = now.split_once('T').context("a time has a date")?;
    let results = root.join("bench/results");
    std::fs::create_dir_all(&results)?;
    let (suffix, kind) = if arguments.quick { ("-quick", ", quick") } else { ("", "") };
    let file = results.join(format!("{date}{suffix}.md"));
    std::fs::write(&file, bench.report.document(&format!("{date} {} UTC{kind}", &time[..5]), &machine))?;
    writeln!(out, "\nkept in {}", file.strip_prefix(root).unwrap_or(&file).display())?;
    Ok(())
}
