//! `deliver-wide`: are 512 connections served as well as 128? In rounds of few, many, few, many, for each engine on one server.

use anyhow::Result;

use super::{
    Bench,
    throughput::{Contender, Drive, Window, Work},
};
use crate::{
    database::Engine,
    load::Gate,
    report::{Met, Row, rate},
    server::Role,
    stats::median,
    template::Keys,
};

/// Connections of the two sides.
const FEW: usize = 128;
const MANY: usize = 512;
/// Goal: no less. Medians of the same thing measured twice differ by as much as is missing here.
const LEAST: f64 = 0.98;

/// Measures the engines.
pub(crate) async fn measure(bench: &Bench, engines: &[Engine]) -> Result<()> {
    let mut contenders = Vec::new();
    for engine in engines {
        let few = Contender::start(bench, "wide", *engine, Role::All, Keys::Sequential).await?;
        contenders.push((few, Vec::<Window>::new()));
    }
    // Each connection may have a message under way, on either side.
    let gate = Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding.max(MANY as u64) };
    let drive = |connections| Drive { connections, gate: Some(gate.clone()) };
    for round in 1..=bench.scale.rounds {
        for (few, many) in &mut contenders {
            let seen = few.window(bench, Work::Deliver, drive(FEW)).await?;
            bench.say(&format!("deliver-wide, round {round}: {} at {FEW} {}", few.engine.name(), seen.tell()));
            few.windows.push(seen);
            let seen = few.window(bench, Work::Deliver, drive(MANY)).await?;
            bench.say(&format!("deliver-wide, round {round}: {} at {MANY} {}", few.engine.name(), seen.tell()));
            many.push(seen);
        }
    }
    for (few, many) in contenders {
        let middle = |of: &[Window]| rate(median(&of.iter().map(Window::sustained).collect::<Vec<_>>()));
        let ratio = median(&many.iter().zip(&few.windows).map(|(m, f)| m.sustained() / f.sustained()).collect::<Vec<_>>());
        let name = few.engine.name();
        bench.report.row(Row {
            figure: format!("deliver-wide, {name}"),
            measured: format!("× {ratio:.2} ({} at {MANY} connections, {} at {FEW})", middle(&many), middle(&few.windows)),
            goal: "no less (≥ 0.98) at 512 than at 128",
            met: Met::of(ratio >= LEAST),
            cpu: String::new(),
        });
        let rounds: Vec<String> =
            few.windows.iter().zip(&many).map(|(f, m)| format!("at {FEW} {}, at {MANY} {}", f.tell(), m.tell())).collect();
        bench.report.note(format!("deliver-wide, {name}: {}", rounds.join("; ")));
        bench.remove(&few.server.stop().await?).await?;
    }
    Ok(())
}
