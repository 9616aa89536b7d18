//! `decay`: does acceptance slow down as messages pile up? With sequential and with random idempotency keys.

use anyhow::Result;

use super::{
    Bench,
    list::filled,
    throughput::{Drive, Subject, Window, cpu_of, window},
};
use crate::{
    database::Engine,
    load::Target,
    report::{Met, Row, rate},
    server::Server,
    stats::median,
    template::Keys,
};

/// Messages of the small database.
const FEW: u64 = 10_000;
/// Goal, and the messages it is about.
const LEAST: (f64, u64) = (0.8, 10_000_000);

/// Measures an engine, with keys of one kind or of both.
pub(crate) async fn measure(bench: &Bench, engine: Engine, only: Option<Keys>) -> Result<()> {
    for keys in only.map_or(vec![Keys::Sequential, Keys::Random], |only| vec![only]) {
        let kind = match keys {
            Keys::Sequential => "sequential",
            Keys::Random => "random",
            Keys::Absent => "no",
        };
        bench.say(&format!("decay, {}, {kind} keys: fills in {} messages", engine.name(), bench.scale.stored));
        let large = side(bench, engine, &format!("decay-{kind}-large"), bench.scale.stored, keys).await?;
        let (mut few, mut many) = (Vec::new(), Vec::new());
        for round in 1..=bench.scale.rounds {
            // A new one each time: a window adds more than it begins with.
            let small = side(bench, engine, &format!("decay-{kind}-small"), FEW, keys).await?;
            bench.settle().await?;
            few.push(look(bench, engine, &small).await?);
            bench.remove(&small.0.stop().await?).await?;
            bench.settle().await?;
            many.push(look(bench, engine, &large).await?);
            let (a, b) = (&few[round - 1], &many[round - 1]);
            bench.say(&format!("decay, {}, {kind} keys, round {round}: at {FEW} {}", engine.name(), a.tell()));
            bench.say(&format!("decay, {}, {kind} keys, round {round}: at {} {}", engine.name(), bench.scale.stored, b.tell()));
        }
        bench.remove(&large.0.stop().await?).await?;
        let ratios: Vec<f64> = many.iter().zip(&few).map(|(b, a)| b.accepted / a.accepted).collect();
        let ratio = median(&ratios);
        let middle = |of: &[Window]| rate(median(&of.iter().map(|w| w.accepted).collect::<Vec<_>>()));
        bench.report.row(Row {
            figure: format!("decay, {}, {kind} keys", engine.name()),
            measured: format!("× {ratio:.2} ({} at {}, {} at {FEW})", middle(&many), bench.scale.stored, middle(&few)),
            goal: if keys == Keys::Sequential { "≥ 0.8 (10,000,000 to 10,000)" } else { "reported" },
            met: match keys {
                Keys::Sequential if bench.scale.stored >= LEAST.1 => Met::of(ratio >= LEAST.0),
                // What is missed with fewer messages is missed; what is met tells nothing yet.
                Keys::Sequential if bench.scale.full && ratio < LEAST.0 => Met::No,
                _ => Met::Open,
            },
            cpu: String::new(),
        });
        let rounds: Vec<String> = ratios
            .iter()
            .zip(few.iter().zip(&many))
            .map(|(r, (a, b))| format!("× {r:.2}: {} at first, {} when full", a.tell(), b.tell()))
            .collect();
        bench.report.note(format!("decay, {}, {kind} keys: {}", engine.name(), rounds.join("; ")));
    }
    Ok(())
}

async fn side(bench: &Bench, engine: Engine, name: &str, count: u64, keys: Keys) -> Result<(Server, Target)> {
    let (server, tenant) = filled(bench, engine, name, count, keys).await?;
    let target = server.target(&tenant, keys, count);
    Ok((server, target))
}

async fn look(bench: &Bench, engine: Engine, (server, target): &(Server, Target)) -> Result<Window> {
    let cpu = || cpu_of(bench, server, engine);
    window(bench, &Subject { target, cpu: &cpu, ledger: None }, Drive { connections: bench.connections, gate: None }).await
}
