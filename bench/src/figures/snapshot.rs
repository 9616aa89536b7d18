//! `snapshot`: what becomes of PostgreSQL's speed while somebody holds a snapshot open (a dump, a report, a forgotten transaction), so that
//! no old version of a row can go: of acceptance and delivery at full speed, and of a backlog that is delivered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use super::Bench;
use crate::{
    cluster,
    database::Engine,
    fill::{Fill, Progress},
    load::{Gate, Load},
    report::{Met, Row, rate},
    server::{Place, Role},
    stats::median,
    template::Keys,
};

/// Goal.
const LEAST: f64 = 0.8;
/// How long a backlog may take to be delivered.
const DRAIN: Duration = Duration::from_secs(120);

/// A transaction that sees the database as it was; it ends when this is dropped.
struct Snapshot(#[expect(dead_code, reason = "the transaction lasts as long as its connection")] Client);

impl Snapshot {
    async fn take(place: &Place) -> Result<Self> {
        let client = cluster::connect(place.url.as_ref().context("it is PostgreSQL's")?).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM tenants").await?;
        Ok(Self(client))
    }
}

/// Measures both.
pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    full_speed(bench).await?;
    drain(bench).await
}

/// The same server before and after the snapshot is taken, so long after that old versions have piled up.
async fn full_speed(bench: &Bench) -> Result<()> {
    let place = bench.place(Engine::Postgres, "snapshot").await?;
    let server = bench.binary.serve(&place, Role::All).await?;
    let target = server.target(&server.tenant().await?, Keys::Sequential, 0);
    let arrivals = bench.sink.arrivals();
    let load = Load::start(&target, bench.connections, Some(Gate { arrivals: arrivals.clone(), most: bench.outstanding }))?;
    let mut snapshot = None;
    let mut parts = Vec::new();
    for part in 0..=bench.scale.parts {
        let (begun, before) = (Instant::now(), arrivals.count());
        tokio::time::sleep(bench.scale.window * 2).await;
        parts.push((arrivals.count() - before) as f64 / begun.elapsed().as_secs_f64());
        if part == 0 {
            snapshot = Some(Snapshot::take(&place).await?);
        }
        bench.say(&format!("snapshot, part {part}: {} delivered", rate(parts[part])));
    }
    drop(snapshot);
    let seen = load.finish().await?;
    ensure!(seen.wrong == 0, "an answer was {}", seen.first_wrong.unwrap_or_default());
    let (before, last) = (parts[0], parts[parts.len() - 1]);
    bench.report.row(Row {
        figure: "snapshot, PostgreSQL".to_owned(),
        measured: format!("{:.0} % ({} delivered beside one, {} before)", last / before * 100.0, rate(last), rate(before)),
        goal: "≥ 80 %",
        met: Met::of(last / before >= LEAST),
        cpu: String::new(),
    });
    let told: Vec<String> = parts.iter().map(|part| rate(*part)).collect();
    bench.report.note(format!("snapshot, every {:?}, taken after the first: {}", bench.scale.window * 2, told.join(", ")));
    bench.remove(&server.stop().await?).await
}

/// Two backlogs of the same size, one after the other.
async fn drain(bench: &Bench) -> Result<()> {
    let count = bench.scale.listed / 4;
    let mut ratios = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    for round in 1..=bench.scale.rounds.div_ceil(2) {
        for (side, held) in [false, true].into_iter().enumerate() {
            let place = bench.place(Engine::Postgres, "snapshot-drain").await?;
            let server = bench.binary.serve(&place, Role::Api).await?;
            let tenant = server.tenant().await?;
            server.stop().await?;
            let fill = Fill { tenant: tenant.id, config: tenant.config, count, keys: Keys::Sequential, progress: Progress::Waiting };
            fill.run(&place.database().await?).await?;
            let snapshot = if held { Some(Snapshot::take(&place).await?) } else { None };
            let arrivals = bench.sink.arrivals();
            let before = arrivals.count();
            let server = bench.binary.serve(&place, Role::All).await?;
            let begun = Instant::now();
            while arrivals.count() < before + count {
                ensure!(begun.elapsed() < DRAIN, "{} of {count} were delivered within {DRAIN:?}", arrivals.count() - before);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            rates[side].push(count as f64 / begun.elapsed().as_secs_f64());
            drop(snapshot);
            bench.remove(&server.stop().await?).await?;
        }
        let [without, beside] = [rates[0][round - 1], rates[1][round - 1]];
        ratios.push(beside / without);
        bench.say(&format!("snapshot, a backlog, round {round}: {} beside one, {} without", rate(beside), rate(without)));
    }
    let ratio = median(&ratios);
    bench.report.row(Row {
        figure: "snapshot, a backlog".to_owned(),
        measured: format!(
            "{:.0} % ({} delivered of {count} that waited, {} without one)",
            ratio * 100.0,
            rate(median(&rates[1])),
            rate(median(&rates[0]))
        ),
        goal: "≥ 80 %",
        met: Met::of(ratio >= LEAST),
        cpu: String::new(),
    });
    let told: Vec<String> = ratios.iter().map(|ratio| format!("{:.0} %", ratio * 100.0)).collect();
    bench.report.note(format!("snapshot, a backlog, share by round: {}", told.join(", ")));
    Ok(())
}
