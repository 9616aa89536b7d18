//! `memory`: what the server keeps in memory under full load, and for messages that wait because a provider is in trouble.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Bench,
    throughput::{Drive, Ledger, Subject, cpu_of, window},
};
use crate::{
    database::{Database, Engine},
    load::{Gate, Load, Target},
    process::{self, Resident},
    report::{Met, Row, rate},
    server::{Role, Server, USERNAME},
    sink::SLOW,
    stats::median,
    template::Keys,
};

/// Connections.
const CONNECTIONS: usize = 128;
/// How often memory is read under load.
const READ: Duration = Duration::from_millis(50);
/// How long a server rests before its memory is read without.
const REST: Duration = Duration::from_secs(2);
/// Messages that wait: at first, and in the end.
const FEW: u64 = 10_000;
const MANY: u64 = 100_000;
const MB: f64 = 1e6;
/// Goals: megabytes at full load, and bytes for each message that waits. Its text alone is longer: what grows by less holds none of them,
/// and an allocator's own moods are of that size.
const LOADED: f64 = 80.0;
const WAITING: f64 = 20.0;

/// What one server showed, in megabytes.
struct Seen {
    /// The most under full load.
    loaded: f64,
    /// Messages accepted, delivered and recorded a second meanwhile.
    rate: f64,
    /// With few and with many messages waiting, and how many there were.
    waiting: [(f64, u64); 2],
}

impl Seen {
    /// Bytes by which memory grew for each message more that waits.
    fn growth(&self) -> f64 {
        let [(before, few), (after, many)] = self.waiting;
        (after - before) * MB / (many - few) as f64
    }
}

/// Measures an engine, each time with a new server.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let name = engine.name();
    let mut all = Vec::new();
    for round in 1..=bench.scale.rounds.min(3) {
        let place = bench.place(engine, "memory").await?;
        let server = bench.binary.serve(&place, Role::All).await?;
        let seen = look(bench, engine, &server, &place.database().await?).await?;
        let [few, many] = seen.waiting.map(|(mb, n)| format!("{mb:.1} MB with {n} waiting"));
        bench.say(&format!("memory, {name}, round {round}: {:.1} MB at {}, {few}, {many}", seen.loaded, rate(seen.rate)));
        all.push(seen);
        bench.remove(&server.stop().await?).await?;
    }
    let middle = |of: &dyn Fn(&Seen) -> f64| median(&all.iter().map(of).collect::<Vec<_>>());
    let (loaded, growth) = (middle(&|s| s.loaded), middle(&Seen::growth));
    let line = |figure: &str, measured: String, goal, met| {
        bench.report.row(Row { figure: format!("memory, {name}, {figure}"), measured, goal, met, cpu: String::new() });
    };
    let measured = format!("{loaded:.1} MB at {}", rate(middle(&|s| s.rate)));
    line("full load, 128 connections", measured, "≤ 80 MB", Met::of(loaded <= LOADED));
    let [few, many] = [middle(&|s| s.waiting[0].0), middle(&|s| s.waiting[1].0)];
    let measured = format!("{growth:.1} bytes for each more ({few:.1} MB with {FEW} waiting, {many:.1} MB with {MANY})");
    line("waiting messages", measured, "no growth (≤ 20 bytes)", Met::of(growth <= WAITING));
    let rounds: Vec<String> = all
        .iter()
        .map(|s| {
            let [few, many] = s.waiting.map(|(mb, n)| format!("{mb:.1} MB with {n} waiting"));
            format!("{:.1} MB at {}, {few}, {many}", s.loaded, rate(s.rate))
        })
        .collect();
    bench.report.note(format!("memory, {name}: {}", rounds.join("; ")));
    Ok(())
}

async fn look(bench: &Bench, engine: Engine, server: &Server, database: &Database) -> Result<Seen> {
    let pid = server.process.id();
    let [well, ill] =
        <[_; 2]>::try_from(server.tenants(&[("well", USERNAME), ("ill", SLOW)]).await?).ok().context("two tenants were made")?;
    let target = server.target(&well, Keys::Sequential, 0);
    let cpu = || cpu_of(bench, server, engine);
    let ledger = Ledger::Raven(database);
    let subject = Subject { target: &target, cpu: &cpu, ledger: Some(ledger) };
    let gate = Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding };
    let drive = Drive { connections: CONNECTIONS, gate: Some(gate) };
    let mut most = Resident { all: 0, anonymous: 0 };
    let watch = async {
        loop {
            let resident = process::resident(pid)?;
            if resident.all > most.all {
                most = resident;
            }
            tokio::time::sleep(READ).await;
        }
    };
    let loaded = tokio::select! {
        loaded = window(bench, &subject, drive) => loaded?,
        failed = watch => return failed,
    };
    ledger.drain().await?;
    // From here on nothing is delivered but by the provider that is in trouble.
    let target = server.target(&ill, Keys::Sequential, 0);
    let mut waiting = Vec::new();
    for count in [FEW, MANY] {
        accept_until(&target, database, count).await?;
        tokio::time::sleep(REST).await;
        let jobs = database.jobs().await?;
        // The provider is slow, not dead, so the number is not exact; what was reached is what growth is told by.
        ensure!(jobs >= count / 10 * 9, "{jobs} messages wait, not {count}");
        waiting.push((process::resident(pid)?.all as f64 / MB, jobs));
    }
    let waiting = <[_; 2]>::try_from(waiting).ok().context("memory was read twice")?;
    Ok(Seen { loaded: most.all as f64 / MB, rate: loaded.sustained(), waiting })
}

/// Has messages accepted until about so many wait, and some more: those that are delivered while the server rests.
async fn accept_until(target: &Target, database: &Database, count: u64) -> Result<()> {
    const MORE: u64 = 1000;
    let missing = (count + MORE).saturating_sub(database.jobs().await?);
    let load = Load::start(target, CONNECTIONS, None)?;
    while load.answered() < missing {
        tokio::time::sleep(Duration::from_millis(2)).await;
        ensure!(!load.has_ended(), "the load ended by itself");
    }
    let outcome = load.finish().await?;
    ensure!(outcome.wrong == 0, "{} answers were not 202, the first: {:?}", outcome.wrong, outcome.first_wrong);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_for_each_message_more() {
        let seen = Seen { loaded: 0.0, rate: 0.0, waiting: [(30.0, 10_000), (33.0, 110_000)] };
        assert!((seen.growth() - 30.0).abs() < 1e-6, "{}", seen.growth());
    }
}
