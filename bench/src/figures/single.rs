//! `single`: how long a caller alone waits for its durable 202, one request after the other over one connection.

use anyhow::Result;

use super::{
    Bench,
    throughput::{self, Contender, Drive, Work},
};
use crate::{
    database::Engine,
    report::{Met, Row},
    server::Role,
    stats::median,
    template::Keys,
};

/// Goal, in milliseconds.
const P50: f64 = 0.5;

/// Measures the engines side by side, and how long the bare echo takes.
pub(crate) async fn measure(bench: &Bench, engines: &[Engine]) -> Result<()> {
    let mut contenders = Vec::new();
    for engine in engines {
        contenders.push(Contender::start(bench, "single", *engine, Role::Api, Keys::Sequential).await?);
    }
    let target = bench.echo.target();
    let mut echoes = Vec::new();
    for round in 1..=bench.scale.rounds {
        echoes.push(throughput::echo(bench, &target, 1).await?.p50);
        for contender in &mut contenders {
            let seen = contender.window(bench, Work::Accept, Drive { connections: 1, gate: None }).await?;
            bench.say(&format!("single, round {round}: {} {}", contender.engine.name(), seen.tell()));
            contender.windows.push(seen);
        }
    }
    for contender in contenders {
        let middle = |of: fn(&throughput::Window) -> f64| median(&contender.windows.iter().map(of).collect::<Vec<_>>());
        let (p50, p99, echo) = (middle(|w| w.p50), middle(|w| w.p99), median(&echoes));
        let name = contender.engine.name();
        bench.report.row(Row {
            figure: format!("single connection, {name}"),
            measured: format!("p50 {p50:.2} ms, p99 {p99:.2} ms (echo answers: p50 {echo:.2})"),
            goal: "p50 ≤ 0.5 ms",
            met: Met::of(p50 <= P50),
            cpu: String::new(),
        });
        let rounds: Vec<String> = contender.windows.iter().map(|w| format!("p50 {:.2}, p99 {:.2} ms", w.p50, w.p99)).collect();
        bench.report.note(format!("single connection, {name}: {}", rounds.join("; ")));
        bench.remove(&contender.server.stop().await?).await?;
    }
    Ok(())
}
