//! `callbacks`: durable 200s a second for what a provider tells of messages, as a share of the durable 202s of the same rounds. Each
//! callback names a message that was sent just before, and all of them count in the end.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Bench,
    throughput::{self, Contender, Drive, Subject, Window, Work},
};
use crate::{
    database::Engine,
    load::{Gate, Load},
    report::{Met, Row, rate},
    server::{Role, Tenant},
    stats::median,
    template::Keys,
};

/// Goal.
const LEAST: f64 = 0.6;
/// How much longer messages are sent than callbacks about them are taken: those are quicker.
const LONGER: u32 = 3;
/// How long callbacks may take to be applied after a window.
const APPLIED: Duration = Duration::from_secs(60);

/// A server that has sent messages and takes callbacks.
struct Informed {
    contender: Contender,
    tenant: Tenant,
    windows: Vec<Window>,
    /// Messages that callbacks named so far.
    told: u64,
    /// From the end of the load until all was applied, a second.
    behind: Vec<f64>,
}

impl Informed {
    async fn start(bench: &Bench, engine: Engine) -> Result<Self> {
        let place = bench.place(engine, "callbacks").await?;
        let server = bench.binary.serve(&place, Role::All).await?;
        let tenant = server.tenant().await?;
        let target = server.target(&tenant, Keys::Sequential, 0);
        let contender = Contender { engine, target, database: place.database().await?, server, windows: Vec::new() };
        Ok(Self { contender, tenant, windows: Vec::new(), told: 0, behind: Vec::new() })
    }

    /// Sends messages, then takes the provider's word for each of them.
    async fn round(&mut self, bench: &Bench) -> Result<Window> {
        let Contender { target, database, server, engine, .. } = &self.contender;
        let first = bench.sink.arrivals().count();
        let gate = Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding };
        let load = Load::start(target, bench.connections, Some(gate))?;
        tokio::time::sleep((bench.scale.warm + bench.scale.window) * LONGER).await;
        let sent = load.finish().await?.answered;
        throughput::Ledger::Raven(database).drain().await?;

        let callbacks = server.callbacks(&self.tenant, first);
        let cpu = || throughput::cpu_of(bench, server, *engine);
        let drive = Drive { connections: bench.connections, gate: None };
        let seen = throughput::window(bench, &Subject { target: &callbacks, cpu: &cpu, ledger: None }, drive).await?;
        let ended = Instant::now();
        while database.waiting_callbacks().await? > 0 {
            ensure!(ended.elapsed() < APPLIED, "callbacks still wait {APPLIED:?} after the load ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.behind.push(ended.elapsed().as_secs_f64());
        let taken = callbacks.next.load(Ordering::Relaxed) - first;
        ensure!(taken <= sent, "{taken} callbacks came about {sent} messages: send longer before");
        self.told += taken;
        let delivered = database.delivered().await?;
        ensure!(delivered == self.told, "{} callbacks were answered, and {delivered} messages are delivered", self.told);
        Ok(seen)
    }
}

/// Measures the engines side by side.
pub(crate) async fn measure(bench: &Bench, engines: &[Engine]) -> Result<()> {
    let mut pairs = Vec::new();
    for engine in engines {
        let accepting = Contender::start(bench, "callbacks-accept", *engine, Role::Api, Keys::Sequential).await?;
        pairs.push((accepting, Informed::start(bench, *engine).await?));
    }
    for round in 1..=bench.scale.rounds {
        for (accepting, informed) in &mut pairs {
            let name = accepting.engine.name();
            let seen = accepting.window(bench, Work::Accept, Drive { connections: bench.connections, gate: None }).await?;
            bench.say(&format!("callbacks, round {round}: {name}, messages {}", seen.tell()));
            accepting.windows.push(seen);
            let seen = informed.round(bench).await?;
            bench.say(&format!("callbacks, round {round}: {name}, callbacks {}", seen.tell()));
            informed.windows.push(seen);
        }
    }
    for (accepting, informed) in pairs {
        add(bench, &accepting, &informed);
        bench.remove(&accepting.server.stop().await?).await?;
        bench.remove(&informed.contender.server.stop().await?).await?;
    }
    Ok(())
}

fn add(bench: &Bench, accepting: &Contender, informed: &Informed) {
    let ratios: Vec<f64> = informed.windows.iter().zip(&accepting.windows).map(|(c, a)| c.accepted / a.accepted).collect();
    let middle = |of: &[Window]| rate(median(&of.iter().map(|w| w.accepted).collect::<Vec<_>>()));
    let p99 = median(&informed.windows.iter().map(|w| w.p99).collect::<Vec<_>>());
    let (share, name) = (median(&ratios), accepting.engine.name());
    bench.report.row(Row {
        figure: format!("callbacks, {name}"),
        measured: format!(
            "{} durable 200s, {:.0} % of {} 202s; p99 {p99:.2} ms; all applied {:.1} s after the load",
            middle(&informed.windows),
            share * 100.0,
            middle(&accepting.windows),
            median(&informed.behind)
        ),
        goal: "≥ 60 % of the 202s",
        met: Met::of(share >= LEAST),
        cpu: String::new(),
    });
    let rounds: Vec<String> = informed.windows.iter().zip(&ratios).map(|(w, r)| format!("{} ({:.0} %)", w.tell(), r * 100.0)).collect();
    bench.report.note(format!("callbacks, {name}: {} of messages in all; {}", informed.told, rounds.join("; ")));
}
