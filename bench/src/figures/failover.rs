//! `failover`: what a message loses by it that the provider of its first config is down, against the same message of a tenant that
//! has no such config. The breaker is open: that is what it is for.

use anyhow::Result;

use super::{Bench, quiet::Quiet};
use crate::{
    database::Engine,
    report::{Met, Row},
    server::{Role, USERNAME},
    sink::DOWN,
};

/// The most that it may lose, in milliseconds.
const MOST: f64 = 10.0;
/// Where the numbers of the second side's messages begin.
const SECOND: u64 = 1_000_000;
/// The percentile that counts. Beyond it are the messages by which it is probed whether the provider is up again: one a minute, once
/// it has been down for a while, but more at first.
const PERCENTILE: f64 = 95.0;

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let name = engine.name();
    let place = bench.place(engine, "failover").await?;
    let server = bench.binary.serve(&place, Role::All).await?;
    let tenants = server.tenants(&[("alone", USERNAME), ("over", USERNAME)]).await?;
    let [alone, over] = tenants.as_slice() else { anyhow::bail!("tenants were made") };
    // Before the one that works.
    server.config("over", DOWN, 1).await?;
    let mut sides = [Quiet::new(&server, alone, 0), Quiet::new(&server, over, SECOND)];
    // Not measured: the messages that open the breaker, and are tried again after two seconds.
    sides[1].window(bench).await?;
    sides[1].forget();
    for round in 1..=bench.scale.rounds {
        for side in &mut sides {
            side.window(bench).await?;
        }
        let [alone, over] = [sides[0].last(), sides[1].last()];
        bench.say(&format!("failover, {name}, round {round}: p99 {over:.2} ms past an open breaker, {alone:.2} ms without"));
    }
    let [alone, over] = [sides[0].times(), sides[1].times()];
    let added = over.millis(PERCENTILE) - alone.millis(PERCENTILE);
    bench.report.row(Row {
        figure: format!("failover, {name}"),
        measured: format!(
            "{added:+.2} ms (p{PERCENTILE} {:.2} ms past an open breaker, {:.2} ms without; p50 {:.2}, {:.2}; p99 {:.2}, {:.2})",
            over.millis(PERCENTILE),
            alone.millis(PERCENTILE),
            over.millis(50.0),
            alone.millis(50.0),
            over.millis(99.0),
            alone.millis(99.0)
        ),
        goal: "p95 ≤ 10 ms more",
        met: if sides.iter().all(Quiet::is_judged) { Met::of(added <= MOST) } else { Met::Open },
        cpu: String::new(),
    });
    let (samples, probes, alone, over) = (over.len(), bench.sink.refused(), sides[0].tell(), sides[1].tell());
    bench.report.note(format!(
        "failover, {name}, {samples} messages on each side, {probes} calls to the provider that is down, p99 by window: without {alone} ms; \
         past it {over} ms"
    ));
    bench.remove(&server.stop().await?).await
}
