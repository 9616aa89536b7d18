//! `accept` and `deliver`: messages a second as a share of what the bare echo answers, and as a multiple of what the usual stack
//! does, in rounds of echo, A, B, usual stack, echo, A, B, …

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use raven_core::{Seq, Timestamp};

use super::Bench;
use crate::{
    baseline::{Baseline, Prepared},
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
/// Windows of the usual stack that don't count, before the first.
const WARMING: usize = 3;
/// Arrivals for one acceptance: less, and acceptance outran delivery.
const ARRIVE: f64 = 0.98;
/// The most CPU time that a message may cost server and database when it is accepted, delivered and recorded, in µs.
const CPU: f64 = 90.0;
/// The most that the 99th percentile of answers at full load may be, in ms, and the connections that this is about.
const ANSWER: (f64, usize) = (6.0, 64);

/// Where what is recorded can be counted.
#[derive(Clone, Copy)]
pub(crate) enum Ledger<'a> {
    Raven(&'a Database),
    Usual(&'a Baseline),
}

impl Ledger<'_> {
    async fn counts(self, since: Timestamp) -> Result<Counts> {
        match self {
            Self::Raven(database) => database.counts(Seq::first_at(since)).await,
            Self::Usual(baseline) => {
                let since = Duration::from_millis(u64::try_from(since.millis())?);
                baseline.counts(SystemTime::UNIX_EPOCH + since).await
            }
        }
    }

    /// Messages that have no outcome yet.
    async fn jobs(self) -> Result<u64> {
        match self {
            Self::Raven(database) => database.jobs().await,
            Self::Usual(baseline) => Ok(baseline.counts(SystemTime::UNIX_EPOCH).await?.jobs),
        }
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn drain(self) -> Result<()> {
        let begun = Instant::now();
        while self.jobs().await? > 0 {
            ensure!(begun.elapsed() < DRAIN, "messages still wait {DRAIN:?} after the load ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Who is measured.
pub(crate) struct Subject<'a> {
    pub(crate) target: &'a Target,
    /// CPU time that its own processes have used, and its database's beside them.
    pub(crate) cpu: &'a dyn Fn() -> [Duration; 2],
    /// There if what is recorded counts.
    pub(crate) ledger: Option<Ledger<'a>>,
}

/// How it is loaded.
#[derive(Clone)]
pub(crate) struct Drive {
    pub(crate) connections: usize,
    pub(crate) gate: Option<Gate>,
}

/// The CPU time of a server, and of its database beside it.
pub(crate) fn cpu_of(bench: &Bench, server: &Server, engine: Engine) -> [Duration; 2] {
    [process::cpu(server.process.id()), bench.database_cpu(engine)]
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

    /// Did acceptance outrun delivery?
    fn ran_ahead(&self) -> bool {
        self.arrived < self.accepted * ARRIVE || self.jobs.1 > self.jobs.0 + SLACK
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
pub(crate) async fn window(bench: &Bench, subject: &Subject<'_>, drive: Drive) -> Result<Window> {
    // A message under way belongs to the window too.
    let since = now().before(Duration::from_secs(1));
    let arrivals = bench.sink.arrivals();
    let load = Load::start(subject.target, drive.connections, drive.gate)?;
    let read = async || -> Result<Reading> {
        let [server, database] = (subject.cpu)();
        let reading = Reading {
            at: Instant::now(),
            answered: load.answered(),
            arrived: arrivals.count(),
            cpu: [server, database, process::thread_cpu(bench.sink.thread), process::thread_cpu(load.id)],
            others: process::machine_cpu().saturating_sub(server + database + process::cpu(std::process::id())),
            counts: match subject.ledger {
                Some(ledger) => ledger.counts(since).await?,
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

/// What is measured of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Durable 202s alone.
    Accept,
    /// Accepted, delivered, recorded.
    Deliver,
}

impl Work {
    /// As figures call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Deliver => "deliver",
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::Accept => Role::Api,
            Self::Deliver => Role::All,
        }
    }

    /// The rate that counts.
    fn rate(self, window: &Window) -> f64 {
        match self {
            Self::Accept => window.accepted,
            Self::Deliver => window.sustained(),
        }
    }
}

/// A running Raven.
pub(crate) struct Contender {
    pub(crate) engine: Engine,
    pub(crate) server: Server,
    pub(crate) target: Target,
    pub(crate) database: Database,
    pub(crate) windows: Vec<Window>,
}

impl Contender {
    /// Starts one that has a tenant, on an empty database.
    pub(crate) async fn start(bench: &Bench, name: &str, engine: Engine, role: Role, keys: Keys) -> Result<Self> {
        let place = bench.place(engine, name).await?;
        let server = bench.binary.serve(&place, role).await?;
        let tenant = server.tenant().await?;
        let target = server.target(&tenant, keys, 0);
        Ok(Self { engine, target, database: place.database().await?, server, windows: Vec::new() })
    }

    /// Loads it, and looks at it for a window.
    pub(crate) async fn window(&self, bench: &Bench, work: Work, drive: Drive) -> Result<Window> {
        let ledger = (work == Work::Deliver).then_some(Ledger::Raven(&self.database));
        let cpu = || cpu_of(bench, &self.server, self.engine);
        let seen = window(bench, &Subject { target: &self.target, cpu: &cpu, ledger }, drive).await?;
        if let Some(ledger) = ledger {
            ledger.drain().await?;
        }
        Ok(seen)
    }
}

/// The running usual stack.
struct Usual {
    baseline: Baseline,
    target: Target,
    /// Its database.
    url: String,
    windows: Vec<Window>,
}

impl Usual {
    /// Starts it, if it is there.
    async fn start(bench: &Bench, work: Work, keys: Keys) -> Result<Option<Self>> {
        let Prepared::Ready(program) = &bench.baseline else { return Ok(None) };
        let cluster = bench.cluster.as_ref().context("PostgreSQL was not started")?;
        let url = cluster.create(&format!("baseline_{}", work.name())).await?;
        let dir = bench.work.join(format!("baseline-{}", work.name()));
        let baseline = program.start(&dir, &url, bench.sink.address, work.role()).await?;
        Ok(Some(Self { target: baseline.target(keys, 0), baseline, url, windows: Vec::new() }))
    }

    async fn window(&self, bench: &Bench, work: Work, drive: Drive) -> Result<Window> {
        let ledger = (work == Work::Deliver).then_some(Ledger::Usual(&self.baseline));
        let cpu = || [self.baseline.cpu(), bench.database_cpu(Engine::Postgres)];
        let seen = window(bench, &Subject { target: &self.target, cpu: &cpu, ledger }, drive).await?;
        if let Some(ledger) = ledger {
            ledger.drain().await?;
        }
        Ok(seen)
    }

    async fn end(self, bench: &Bench) -> Result<()> {
        self.baseline.stop().await?;
        bench.cluster.as_ref().context("PostgreSQL was not started")?.remove(&self.url).await
    }
}

/// The bare echo, looked at for a window.
pub(crate) async fn echo(bench: &Bench, target: &Target, connections: usize) -> Result<Window> {
    let cpu = || [process::cpu(bench.echo.process.id()), Duration::ZERO];
    window(bench, &Subject { target, cpu: &cpu, ledger: None }, Drive { connections, gate: None }).await
}

/// Measures the engines side by side.
pub(crate) async fn measure(bench: &Bench, work: Work, engines: &[Engine], keys: Keys) -> Result<()> {
    let name = work.name();
    let mut contenders = Vec::new();
    for engine in engines {
        contenders.push(Contender::start(bench, name, *engine, work.role(), keys).await?);
    }
    let mut usual = Usual::start(bench, work, keys).await?;
    let echo_target = bench.echo.target();
    let gate = (work == Work::Deliver).then(|| Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding });
    let drive = Drive { connections: bench.connections, gate };
    // Node compiles what runs often. Its first seconds, which are half as fast, would flatter Raven.
    if let Some(usual) = &usual {
        for _ in 0..WARMING {
            usual.window(bench, work, drive.clone()).await?;
        }
    }
    let mut echoes = Vec::new();
    for round in 1..=bench.scale.rounds {
        let seen = echo(bench, &echo_target, bench.connections).await?;
        bench.say(&format!("{name}, round {round}: echo {}", seen.tell()));
        echoes.push(seen);
        for contender in &mut contenders {
            let seen = contender.window(bench, work, drive.clone()).await?;
            bench.say(&format!("{name}, round {round}: {} {}", contender.engine.name(), seen.tell()));
            contender.windows.push(seen);
        }
        if let Some(usual) = &mut usual {
            let seen = usual.window(bench, work, drive.clone()).await?;
            bench.say(&format!("{name}, round {round}: the usual stack {}", seen.tell()));
            usual.windows.push(seen);
        }
    }
    let yardsticks = Yardsticks { echoes: &echoes, usual: usual.as_ref().map(|u| u.windows.as_slice()) };
    for contender in contenders {
        add(bench, work, keys, &yardsticks, &contender);
        bench.remove(&contender.server.stop().await?).await?;
    }
    add_usual(bench, work, &yardsticks);
    match usual {
        Some(usual) => usual.end(bench).await,
        None => Ok(()),
    }
}

/// What Raven is compared with, round by round.
struct Yardsticks<'a> {
    echoes: &'a [Window],
    /// There if the usual stack is.
    usual: Option<&'a [Window]>,
}

/// A goal, and what it asks for.
struct Goal {
    name: &'static str,
    text: &'static str,
    /// The least share of the echo, in percent.
    share: f64,
    /// The least multiple of the usual stack.
    times: f64,
}

const fn goal(work: Work, engine: Engine) -> Goal {
    match (work, engine) {
        (Work::Accept, Engine::Sqlite) => {
            Goal { name: "accept-sqlite", text: "≥ 50 % of the echo and ≥ 12 × the usual stack", share: 50.0, times: 12.0 }
        }
        (Work::Accept, Engine::Postgres) => {
            Goal { name: "accept-postgres", text: "≥ 40 % of the echo and ≥ 10 × the usual stack", share: 40.0, times: 10.0 }
        }
        (Work::Deliver, Engine::Sqlite) => {
            Goal { name: "deliver-sqlite", text: "≥ 10 × the usual stack, arrivals ≥ 98 %", share: 0.0, times: 10.0 }
        }
        (Work::Deliver, Engine::Postgres) => {
            Goal { name: "deliver-postgres", text: "≥ 10 × the usual stack, arrivals ≥ 98 %", share: 0.0, times: 10.0 }
        }
    }
}

/// The ratios of two rates, round by round.
fn ratios(work: Work, windows: &[Window], others: &[Window]) -> Vec<f64> {
    windows.iter().zip(others).map(|(w, o)| work.rate(w) / work.rate(o)).collect()
}

/// The shares of the echo, round by round, in percent. The echo only answers, whatever is compared with it.
fn shares(work: Work, windows: &[Window], echoes: &[Window]) -> Vec<f64> {
    windows.iter().zip(echoes).map(|(w, e)| work.rate(w) / e.accepted * 100.0).collect()
}

/// CPU microseconds for one message, of server, database, provider and load.
fn cpu_per_message(work: Work, windows: &[Window]) -> [f64; 4] {
    std::array::from_fn(|i| median(&windows.iter().map(|w| w.per_message(work.rate(w))[i]).collect::<Vec<_>>()))
}

fn tell_cpu(work: Work, server: &str, per_message: [f64; 4]) -> String {
    let [own, database, provider, load] = per_message;
    let mut text = format!("{server} {own:.0}");
    if database > 0.0 {
        text += &format!(", PostgreSQL {database:.0}");
    }
    if work == Work::Deliver {
        text += &format!(", provider {provider:.0}");
    }
    text + &format!(", load {load:.0}")
}

fn add(bench: &Bench, work: Work, keys: Keys, yardsticks: &Yardsticks<'_>, contender: &Contender) {
    let Contender { engine, windows, .. } = contender;
    let goal = goal(work, *engine);
    let middle = |of: &dyn Fn(&Window) -> f64| median(&windows.iter().map(of).collect::<Vec<_>>());
    let shares = shares(work, windows, yardsticks.echoes);
    let share = median(&shares);
    let ran_ahead = work == Work::Deliver && windows.iter().any(Window::ran_ahead);
    let mut met = Met::of(share >= goal.share && !ran_ahead);
    let mut measured = format!("{}, {share:.1} % of the echo", rate(middle(&|w| work.rate(w))));
    match yardsticks.usual {
        Some(usual) => {
            let times = median(&ratios(work, windows, usual));
            met = met.and(Met::of(times >= goal.times));
            measured += &format!(", × {times:.1} the usual stack");
        }
        None => met = met.and(Met::Open),
    }
    if work == Work::Deliver {
        let [accepted, arrived, recorded] = [middle(&|w| w.accepted), middle(&|w| w.arrived), middle(&|w| w.recorded)].map(rate);
        measured += &format!("; accepted {accepted}, arrived {arrived}, recorded {recorded}");
        if ran_ahead {
            measured += "; acceptance ran ahead";
        }
    }
    let per_message = cpu_per_message(work, windows);
    let cpu = tell_cpu(work, "server", per_message);
    bench.report.row(Row { figure: goal.name.to_owned(), measured, goal: goal.text, met, cpu: cpu.clone() });
    let name = goal.name;
    match work {
        Work::Accept => {
            let (p50, p99) = (middle(&|w| w.p50), middle(&|w| w.p99));
            bench.report.row(Row {
                figure: format!("{name}, the 202 at {} connections", bench.connections),
                measured: format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
                goal: "p99 ≤ 6 ms at 64",
                met: if bench.connections == ANSWER.1 { Met::of(p99 <= ANSWER.0) } else { Met::Open },
                cpu: String::new(),
            });
        }
        Work::Deliver => {
            let [server, database, ..] = per_message;
            bench.report.row(Row {
                figure: format!("{name}, CPU a message"),
                measured: format!("{:.0} µs in server and database", server + database),
                goal: "≤ 90 µs",
                met: Met::of(server + database <= CPU),
                cpu,
            });
        }
    }
    let rounds: Vec<String> = windows
        .iter()
        .zip(yardsticks.echoes)
        .zip(&shares)
        .map(|((w, e), s)| format!("{} ({s:.1} % of {})", w.tell(), rate(e.accepted)))
        .collect();
    bench.report.note(format!("{name}, {} connections, keys {keys:?}: {}", bench.connections, rounds.join("; ")));
}

fn add_usual(bench: &Bench, work: Work, yardsticks: &Yardsticks<'_>) {
    let figure = format!("{}, the usual stack", work.name());
    let Some(windows) = yardsticks.usual else {
        let why = if let Prepared::Absent(why) = &bench.baseline { why.as_str() } else { "it was not wanted" };
        bench.report.row(Row { figure, measured: format!("skipped: {why}"), goal: "", met: Met::Open, cpu: String::new() });
        return;
    };
    let middle = median(&windows.iter().map(|w| work.rate(w)).collect::<Vec<_>>());
    let share = median(&shares(work, windows, yardsticks.echoes));
    let cpu = tell_cpu(work, "Node and Redis", cpu_per_message(work, windows));
    bench.report.row(Row {
        figure: figure.clone(),
        measured: format!("{}, {share:.1} % of the echo", rate(middle)),
        goal: "",
        met: Met::Open,
        cpu,
    });
    bench.report.note(format!("{figure}: {}", windows.iter().map(Window::tell).collect::<Vec<_>>().join("; ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_for_what_all_three_reached_and_not_if_acceptance_ran_ahead() {
        let good = Window { accepted: 1000.0, arrived: 990.0, recorded: 985.0, jobs: (100, 150), ..Window::default() };
        assert_eq!((Work::Accept.rate(&good), Work::Deliver.rate(&good)), (1000.0, 985.0));
        assert!(!good.ran_ahead());
        assert!(Window { arrived: 979.0, ..good.clone() }.ran_ahead());
        assert!(Window { jobs: (100, 100 + SLACK + 1), ..good }.ran_ahead());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let of = |rates: [f64; 3]| rates.map(|accepted| Window { accepted, ..Window::default() });
        let (ours, theirs) = (of([10.0, 60.0, 30.0]), of([1.0, 3.0, 2.0]));
        assert_eq!(median(&ratios(Work::Accept, &ours, &theirs)), 15.0);
        assert_eq!(shares(Work::Accept, &theirs, &ours), [10.0, 5.0, 100.0 / 15.0]);
    }
}
