//! `accept` and `deliver`: messages a second as a share of what the bare echo answers, in rounds of echo, A, B, echo, A, B.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use raven_core::Seq;

use super::Bench;
use crate::{
    database::{Counts, Database, Engine},
    fill::now,
    load::{Gate, Load, Target},
    process,
    report::{Met, Row, rate},
    server::{Role, Server},
    stats::median,
    template::Keys,
};

/// How long a queue may take to empty between windows.
const DRAIN: Duration = Duration::from_secs(20);
/// How much a queue may differ at the two ends of a window without having grown: what is in flight at any time.
const SLACK: u64 = 512;

/// The share of the CPU that others may have without being mentioned, in percent.
const NOISE: f64 = 5.0;

/// Who is measured.
pub(crate) struct Subject<'a> {
    pub(crate) target: &'a Target,
    /// Its process.
    pub(crate) pid: u32,
    /// Its engine, if it has one.
    pub(crate) engine: Option<Engine>,
    /// Its database, if what is recorded counts.
    pub(crate) database: Option<&'a Database>,
}

/// A moment's readings.
struct Reading {
    at: Instant,
    answered: u64,
    arrived: u64,
    counts: Counts,
    /// Server, database, provider, load.
    cpu: [Duration; 4],
    /// Everything on the machine but what is measured here.
    others: Duration,
}

/// What a window showed, a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) accepted: f64,
    pub(crate) arrived: f64,
    pub(crate) recorded: f64,
    /// Jobs at the beginning and at the end.
    pub(crate) jobs: (u64, u64),
    /// CPU seconds a second of server, database, provider, load.
    pub(crate) cpu: [f64; 4],
    /// The share of the machine's CPU that went to others, in percent. Much of it makes a window worthless.
    pub(crate) others: f64,
    /// Of the whole request, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Window {
    /// What was accepted, delivered and recorded: the least of the three.
    pub(crate) fn sustained(&self) -> f64 {
        self.accepted.min(self.arrived).min(self.recorded)
    }

    /// CPU microseconds for one message.
    fn per_message(&self, rate: f64) -> [f64; 4] {
        self.cpu.map(|share| if rate > 0.0 { share * 1e6 / rate } else { 0.0 })
    }

    pub(crate) fn tell(&self) -> String {
        let delivery = if self.arrived > 0.0 || self.recorded > 0.0 {
            format!(", {} arrived, {} recorded, jobs {} → {}", rate(self.arrived), rate(self.recorded), self.jobs.0, self.jobs.1)
        } else {
            String::new()
        };
        let others = if self.others >= NOISE { format!(", others took {:.0} % of the CPU", self.others) } else { String::new() };
        let [server, database, ..] = self.cpu;
        let busy = if database > 0.0 {
            format!("cores busy: server {server:.2}, PostgreSQL {database:.2}")
        } else {
            format!("cores busy: {server:.2}")
        };
        format!("{} accepted (p50 {:.2} ms, p99 {:.2} ms; {busy}){delivery}{others}", rate(self.accepted), self.p50, self.p99)
    }
}

/// Loads a subject and looks at it for a window.
pub(crate) async fn window(bench: &Bench, subject: &Subject<'_>, gate: Option<Gate>) -> Result<Window> {
    // A message under way belongs to the window too.
    let since = Seq::first_at(now().before(Duration::from_secs(1)));
    let arrivals = bench.sink.arrivals();
    let load = Load::start(subject.target, bench.connections, gate)?;
    let read = async || -> Result<Reading> {
        let (server, database) = (process::cpu(subject.pid), subject.engine.map_or(Duration::ZERO, |engine| bench.database_cpu(engine)));
        let reading = Reading {
            at: Instant::now(),
            answered: load.answered(),
            arrived: arrivals.count(),
            cpu: [server, database, process::thread_cpu(bench.sink.thread), process::thread_cpu(load.id)],
            others: process::machine_cpu().saturating_sub(server + database + process::cpu(std::process::id())),
            counts: match subject.database {
                Some(database) => database.counts(since).await?,
                None => Counts::default(),
            },
        };
        Ok(reading)
    };
    tokio::time::sleep(bench.scale.warm).await;
    load.measure();
    let first = read().await?;
    tokio::time::sleep(bench.scale.window).await;
    let last = read().await?;
    let outcome = load.finish().await?;
    if let Some(wrong) = outcome.first_wrong {
        bench.report.note(format!("{} answers were not 202, the first: `{}`", outcome.wrong, wrong.replace(['\r', '\n'], " ")));
    }
    ensure!(outcome.times.len() > 0, "nothing was answered within a window");
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let per_second = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
    Ok(Window {
        accepted: per_second(first.answered, last.answered),
        arrived: per_second(first.arrived, last.arrived),
        recorded: per_second(first.counts.recorded, last.counts.recorded),
        jobs: (first.counts.jobs, last.counts.jobs),
        cpu: std::array::from_fn(|i| last.cpu[i].saturating_sub(first.cpu[i]).as_secs_f64() / seconds),
        others: last.others.saturating_sub(first.others).as_secs_f64() / seconds / cores() * 100.0,
        p50: outcome.times.millis(50.0),
        p99: outcome.times.millis(99.0),
    })
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// Waits until nothing is left to do.
pub(crate) async fn drain(database: &Database) -> Result<()> {
    let begun = Instant::now();
    while database.counts(Seq(0)).await?.jobs > 0 {
        ensure!(begun.elapsed() < DRAIN, "messages still wait {DRAIN:?} after the load ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What is measured of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Durable 202s alone.
    Accept,
    /// Accepted, delivered, recorded.
    Deliver,
}

struct Contender {
    engine: Engine,
    server: Server,
    target: Target,
    database: Database,
    windows: Vec<Window>,
}

/// Measures the engines side by side.
pub(crate) async fn measure(bench: &Bench, work: Work, engines: &[Engine], keys: Keys) -> Result<()> {
    let (name, role) = match work {
        Work::Accept => ("accept", Role::Api),
        Work::Deliver => ("deliver", Role::All),
    };
    let mut contenders = Vec::new();
    for engine in engines {
        let place = bench.place(*engine, name).await?;
        let server = bench.binary.serve(&place, role).await?;
        let tenant = server.tenant().await?;
        let target = server.target(&tenant, keys, 0);
        contenders.push(Contender { engine: *engine, target, database: place.database().await?, server, windows: Vec::new() });
    }
    let echo_target = bench.echo.target();
    let echo = Subject { target: &echo_target, pid: bench.echo.process.id(), engine: None, database: None };
    let mut echoes = Vec::new();
    for round in 1..=bench.scale.rounds {
        let seen = window(bench, &echo, None).await?;
        bench.say(&format!("{name}, round {round}: echo {}", seen.tell()));
        echoes.push(seen);
        for contender in &mut contenders {
            let deliver = work == Work::Deliver;
            let subject = Subject {
                target: &contender.target,
                pid: contender.server.process.id(),
                engine: Some(contender.engine),
                database: deliver.then_some(&contender.database),
            };
            let gate = deliver.then(|| Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding });
            let seen = window(bench, &subject, gate).await?;
            if deliver {
                drain(&contender.database).await?;
            }
            bench.say(&format!("{name}, round {round}: {} {}", contender.engine.name(), seen.tell()));
            contender.windows.push(seen);
        }
    }
    for contender in contenders {
        add(bench, work, keys, &echoes, &contender);
        bench.remove(&contender.server.stop().await?).await?;
    }
    Ok(())
}

fn add(bench: &Bench, work: Work, keys: Keys, echoes: &[Window], contender: &Contender) {
    let Contender { engine, windows, .. } = contender;
    let rate_of = |w: &Window| if work == Work::Deliver { w.sustained() } else { w.accepted };
    let middle = |of: &dyn Fn(&Window) -> f64| median(&windows.iter().map(of).collect::<Vec<_>>());
    let shares: Vec<f64> = windows.iter().zip(echoes).map(|(w, e)| rate_of(w) / e.accepted * 100.0).collect();
    let (share, echo) = (median(&shares), median(&echoes.iter().map(|e| e.accepted).collect::<Vec<_>>()));
    let grew = windows.iter().any(|w| w.jobs.1 > w.jobs.0 + SLACK);
    let (name, goal, least) = match (work, engine) {
        (Work::Accept, Engine::Sqlite) => ("accept-sqlite", "≥ 30 %", 30.0),
        (Work::Accept, Engine::Postgres) => ("accept-postgres", "≥ 20 %", 20.0),
        (Work::Deliver, Engine::Sqlite) => ("deliver-sqlite", "≥ 10 %", 10.0),
        (Work::Deliver, Engine::Postgres) => ("deliver-postgres", "≥ 10 %", 10.0),
    };
    let mut measured = format!("{share:.1} % ({} of {})", rate(middle(&rate_of)), rate(echo));
    if work == Work::Deliver {
        measured += &format!(
            "; accepted {}, arrived {}, recorded {}",
            rate(middle(&|w| w.accepted)),
            rate(middle(&|w| w.arrived)),
            rate(middle(&|w| w.recorded))
        );
        if grew {
            measured += "; the backlog grew";
        }
    }
    let [server, database, provider, load] =
        std::array::from_fn(|i| median(&windows.iter().map(|w| w.per_message(rate_of(w))[i]).collect::<Vec<_>>()));
    let mut cpu = format!("server {server:.0}");
    if *engine == Engine::Postgres {
        cpu += &format!(", PostgreSQL {database:.0}");
    }
    if work == Work::Deliver {
        cpu += &format!(", provider {provider:.0}");
    }
    cpu += &format!(", load {load:.0}");
    bench.report.row(Row { figure: name.to_owned(), measured, goal, met: Met::of(share >= least && !grew), cpu });
    let rounds: Vec<String> =
        windows.iter().zip(echoes).zip(&shares).map(|((w, e), s)| format!("{} ({s:.1} % of {})", w.tell(), rate(e.accepted))).collect();
    bench.report.note(format!("{name}, {} connections, keys {keys:?}: {}", bench.connections, rounds.join("; ")));
}
