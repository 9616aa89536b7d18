//! `hanging`: what goes through one of a tenant's providers while another one of it takes every request and answers none, as a share
//! of what goes through it alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Bench;
use crate::{
    database::Engine,
    load::{Gate, Load},
    pace::{self, Timetable},
    report::{Met, Row, rate},
    server::{Role, USERNAME},
    sink::HANGS,
    stats::median,
    template::{Keys, Template},
};

/// Goal.
const LEAST: f64 = 0.95;
/// Messages a second to the provider that hangs, and their connections.
const RATE: u32 = 50;
const CONNECTIONS: u64 = 4;
/// Pairs of windows in a round: a window differs from the next one by more than the goal leaves.
const PAIRS: usize = 2;

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let name = engine.name();
    let place = bench.place(engine, "hanging").await?;
    let server = bench.binary.serve(&place, Role::All).await?;
    let tenants = server.tenants(&[("alone", USERNAME), ("beside", USERNAME)]).await?;
    let [alone, beside] = tenants.as_slice() else { anyhow::bail!("tenants were made") };
    let hangs = server.config("beside", HANGS, 1).await?;
    let mut targets = [alone, beside].map(|tenant| server.target(tenant, Keys::Sequential, 0));
    for (target, tenant) in targets.iter_mut().zip([alone, beside]) {
        target.template = Template::pinned(&tenant.api_key, tenant.config);
    }
    let stuck = Template::pinned(&beside.api_key, hangs);
    let lasts = bench.scale.warm + bench.scale.window;
    let count = u64::from(RATE) * u64::try_from(lasts.as_millis())? / 1000;
    // Numbers that the other load never comes to.
    let mut first = 5_000_000_000;
    let (mut shares, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 1..=bench.scale.rounds * PAIRS {
        // In turn, so that what grows from window to window favours neither.
        for side in if round % 2 == 1 { [0, 1] } else { [1, 0] } {
            let hung = bench.sink.hung();
            let others = (side == 1).then(|| {
                let (address, template) = (server.address, [stuck.clone()]);
                let timetable = Timetable { first, count, gap: Duration::from_secs(1) / RATE, connections: CONNECTIONS };
                first += count;
                tokio::task::spawn_blocking(move || pace::run(address, &template, timetable))
            });
            let gate = Gate { arrivals: bench.sink.arrivals(), most: bench.outstanding };
            let load = Load::start(&targets[side], bench.connections, Some(gate))?;
            tokio::time::sleep(bench.scale.warm).await;
            let (begun, before) = (Instant::now(), bench.sink.arrivals().count());
            tokio::time::sleep(bench.scale.window).await;
            let arrived = (bench.sink.arrivals().count() - before) as f64 / begun.elapsed().as_secs_f64();
            let seen = load.finish().await?;
            ensure!(seen.wrong == 0, "an answer was {}", seen.first_wrong.unwrap_or_default());
            if let Some(others) = others {
                others.await?.context("of the provider that hangs")?;
                ensure!(round > 1 || bench.sink.hung() > hung, "the provider that hangs was not called");
            }
            rates[side].push(arrived);
        }
        let [alone, beside] = [rates[0][round - 1], rates[1][round - 1]];
        shares.push(beside / alone);
        bench.say(&format!("hanging, {name}, round {round}: {} beside one that hangs, {} alone", rate(beside), rate(alone)));
    }
    let share = median(&shares);
    bench.report.row(Row {
        figure: format!("hanging, {name}"),
        measured: format!("{:.1} % ({} beside one that hangs, {} alone)", share * 100.0, rate(median(&rates[1])), rate(median(&rates[0]))),
        goal: "≥ 95 %",
        met: Met::of(share >= LEAST),
        cpu: String::new(),
    });
    let rounds: Vec<String> = shares.iter().map(|share| format!("{:.1} %", share * 100.0)).collect();
    bench.report.note(format!("hanging, {name}, {} calls were never answered, share by round: {}", bench.sink.hung(), rounds.join(", ")));
    bench.remove(&server.stop().await?).await
}
