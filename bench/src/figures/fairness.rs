//! `fairness`: what a quiet tenant suffers when one other sends a hundred times as much, against the same load spread evenly over a
//! hundred tenants.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Bench,
    quiet::{MOST, Quiet, RATE},
};
use crate::{
    database::Engine,
    pace::{self, Timetable},
    report::{Met, Row},
    server::{Role, Tenant, USERNAME},
    template::{Keys, TEXT, Template},
};

/// The others together send so many times as much as the quiet tenant.
const TIMES: u32 = 100;
/// Their connections.
const CONNECTIONS: u64 = 16;
/// Where the numbers of the quiet tenant's messages begin on the second side.
const SECOND: u64 = 1_000_000;
/// How much earlier than the quiet tenant they begin, and how much later they end.
const AROUND: Duration = Duration::from_millis(500);

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let name = engine.name();
    let place = bench.place(engine, "fairness").await?;
    let server = bench.binary.serve(&place, Role::All).await?;
    let slugs: Vec<String> = (0..TIMES + 2).map(|n| format!("bench-{n}")).collect();
    let wanted: Vec<(&str, &str)> = slugs.iter().map(|slug| (slug.as_str(), USERNAME)).collect();
    let tenants = server.tenants(&wanted).await?;
    let [calm, big, even @ ..] = tenants.as_slice() else { anyhow::bail!("tenants were made") };
    let template = |tenant: &Tenant| Template::message(&tenant.api_key, TEXT, Keys::Sequential);
    // The first side: all from one. The second: as much, from all in turn.
    let crowds: [Vec<Template>; 2] = [vec![template(big)], even.iter().map(template).collect()];
    // One tenant, whose numbers must not meet: idempotency keys are made of them.
    let mut sides = [Quiet::new(&server, calm, 0), Quiet::new(&server, calm, SECOND)];
    let gap = Duration::from_secs(1) / (RATE * TIMES);
    let lasts = Quiet::window_lasts(bench) + AROUND * 2;
    let count = u64::try_from(lasts.as_micros() / gap.as_micros())?;
    // The first use of a key costs a slow hash, which is not what is measured here.
    let (address, crowd) = (server.address, crowds.concat());
    let warm = u64::try_from(crowd.len())? * 2;
    let timetable = Timetable { first: 0, count: warm, gap, connections: CONNECTIONS };
    tokio::task::spawn_blocking(move || pace::run(address, &crowd, timetable)).await??;
    let mut first = warm;
    for round in 1..=bench.scale.rounds {
        for (side, crowd) in sides.iter_mut().zip(&crowds) {
            let (address, crowd) = (server.address, crowd.clone());
            let timetable = Timetable { first, count, gap, connections: CONNECTIONS };
            first += count;
            let others = tokio::task::spawn_blocking(move || pace::run(address, &crowd, timetable));
            tokio::time::sleep(AROUND).await;
            side.window(bench).await?;
            others.await?.context("of the others")?;
        }
        let [one, spread] = [sides[0].last(), sides[1].last()];
        bench.say(&format!("fairness, {name}, round {round}: p99 {one:.2} ms beside one, {spread:.2} ms beside {TIMES}"));
    }
    let [one, spread] = [sides[0].times(), sides[1].times()];
    let ratio = one.millis(99.0) / spread.millis(99.0);
    bench.report.row(Row {
        figure: format!("fairness, {name}"),
        measured: format!(
            "× {ratio:.2} (p99 {:.2} ms beside one that sends {}/s, {:.2} ms beside {TIMES} tenants; p50 {:.2}, {:.2})",
            one.millis(99.0),
            RATE * TIMES,
            spread.millis(99.0),
            one.millis(50.0),
            spread.millis(50.0)
        ),
        goal: "p99 ≤ 1.3 ×",
        met: if sides.iter().all(Quiet::is_judged) { Met::of(ratio <= MOST) } else { Met::Open },
        cpu: String::new(),
    });
    let (samples, one, spread) = (one.len(), sides[0].tell(), sides[1].tell());
    bench
        .report
        .note(format!("fairness, {name}, {samples} messages on each side, p99 by window: beside one {one} ms; beside {TIMES} {spread} ms"));
    bench.remove(&server.stop().await?).await
}
