//! `backlog`: what a quiet tenant suffers when another one has millions of messages waiting, because its provider takes a second for
//! each answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    Bench,
    quiet::{MOST, Quiet},
};
use crate::{
    database::Engine,
    fill::{Fill, Progress},
    report::{Met, Row},
    server::{Place, Role, USERNAME},
    sink::SLOW,
    template::Keys,
};

/// Calls of the other tenant that are under way before a window begins: as many as a lane is given at least.
const FULL: u64 = 96;
/// How long it may take until then.
const FILL: Duration = Duration::from_secs(20);
/// How long both sides run before a window.
const SETTLE: Duration = Duration::from_secs(1);

/// A place whose server is started for each window and ended after it, so that only one of the two takes CPU time.
struct Side {
    place: Place,
    quiet: Quiet,
    /// Messages that wait.
    behind: u64,
}

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let (name, behind) = (engine.name(), bench.scale.behind);
    bench.say(&format!("backlog, {name}: fills in {behind} messages that wait"));
    let mut sides = [side(bench, engine, "free", 0).await?, side(bench, engine, "behind", behind).await?];
    let mut calls = Vec::new();
    for round in 1..=bench.scale.rounds {
        for side in &mut sides {
            bench.settle().await?;
            let held = bench.sink.held();
            let server = bench.binary.serve(&side.place, Role::All).await?;
            side.quiet.moved(&server);
            if side.behind > 0 {
                lane_is_full(bench, held).await?;
            }
            tokio::time::sleep(SETTLE).await;
            let (begun, held) = (Instant::now(), bench.sink.held());
            side.quiet.window(bench).await?;
            if side.behind > 0 {
                let calls_a_second = (bench.sink.held() - held) as f64 / begun.elapsed().as_secs_f64();
                ensure!(calls_a_second >= FULL as f64 / 2.0, "only {calls_a_second:.0} calls a second for the tenant that is behind");
                calls.push(calls_a_second);
            }
            server.stop().await?;
        }
        let [free, late] = [sides[0].quiet.last(), sides[1].quiet.last()];
        bench.say(&format!("backlog, {name}, round {round}: p99 {late:.2} ms beside {behind} waiting, {free:.2} ms beside none"));
    }
    let [free, late] = [sides[0].quiet.times(), sides[1].quiet.times()];
    let ratio = late.millis(99.0) / free.millis(99.0);
    bench.report.row(Row {
        figure: format!("backlog, {name}"),
        measured: format!(
            "× {ratio:.2} (p99 {:.2} ms beside {behind} waiting, {:.2} ms beside none; p50 {:.2}, {:.2})",
            late.millis(99.0),
            free.millis(99.0),
            late.millis(50.0),
            free.millis(50.0)
        ),
        goal: "p99 ≤ 1.3 × (5,000,000 waiting)",
        met: if bench.scale.full && sides.iter().all(|s| s.quiet.is_judged()) { Met::of(ratio <= MOST) } else { Met::Open },
        cpu: String::new(),
    });
    let calls = crate::stats::median(&calls);
    bench.report.note(format!(
        "backlog, {name}, {} messages on each side, {calls:.0} calls a second for the tenant that is behind, p99 by window: beside {behind} {} ms; \
         beside none {} ms",
        late.len(),
        sides[1].quiet.tell(),
        sides[0].quiet.tell()
    ));
    for side in &sides {
        bench.remove(&side.place).await?;
    }
    Ok(())
}

async fn side(bench: &Bench, engine: Engine, name: &str, behind: u64) -> Result<Side> {
    let place = bench.place(engine, &format!("backlog-{name}")).await?;
    let server = bench.binary.serve(&place, Role::Api).await?;
    let [calm, late] =
        <[_; 2]>::try_from(server.tenants(&[("calm", USERNAME), ("late", SLOW)]).await?).ok().context("two tenants were made")?;
    let quiet = Quiet::new(&server, &calm, 0);
    server.stop().await?;
    let fill = Fill { tenant: late.id, config: late.config, count: behind, keys: Keys::Sequential, progress: Progress::Waiting };
    fill.run(&place.database().await?).await?;
    Ok(Side { place, quiet, behind })
}

/// Waits until the other tenant has all the calls under way that it may have. `held` were made before.
async fn lane_is_full(bench: &Bench, held: u64) -> Result<()> {
    let begun = Instant::now();
    while bench.sink.held() < held + FULL {
        ensure!(begun.elapsed() < FILL, "the tenant that is behind was not served within {FILL:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
