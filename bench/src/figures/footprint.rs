//! `footprint`: memory at rest, how long a start takes, the size of the program.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    database::Engine,
    process,
    report::{Met, Row},
    server::Role,
    stats::median,
};

/// How long a server rests before its memory is read.
const REST: Duration = Duration::from_secs(1);
const MB: f64 = 1e6;

/// Measures SQLite.
pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let place = bench.place(Engine::Sqlite, "footprint").await?;
    // The first start makes and migrates the database, the others find it.
    let first = bench.binary.serve(&place, Role::All).await?;
    let first_start = first.ready_after;
    first.stop().await?;
    let (mut starts, mut memory, mut anonymous) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..bench.scale.starts {
        let server = bench.binary.serve(&place, Role::All).await?;
        starts.push(server.ready_after.as_secs_f64() * 1e3);
        if n < 3 {
            tokio::time::sleep(REST).await;
            let resident = process::resident(server.process.id())?;
            memory.push(resident.all as f64 / MB);
            anonymous.push(resident.anonymous as f64 / MB);
        }
        server.stop().await?;
    }
    let (memory, anonymous, start) = (median(&memory), median(&anonymous), median(&starts));
    let size = std::fs::metadata(&bench.binary.path)?.len() as f64 / MB;
    let line = |figure: &str, measured: String, goal, met| {
        bench.report.row(Row { figure: figure.to_owned(), measured, goal, met, cpu: String::new() })
    };
    line(
        "footprint, memory at rest",
        format!("{memory:.1} MB ({anonymous:.1} MB of it allocated, the rest pages of the program)"),
        "≤ 25 MB",
        Met::of(memory <= 25.0),
    );
    let milliseconds = first_start.as_secs_f64() * 1e3;
    line(
        "footprint, start to ready",
        format!("{start:.0} ms (the first, on nothing: {milliseconds:.0} ms)"),
        "≤ 300 ms",
        Met::of(start <= 300.0),
    );
    line("footprint, program", format!("{size:.1} MB"), "≤ 30 MB", Met::of(size <= 30.0));
    bench.say(&format!("footprint: {memory:.1} MB at rest, ready after {start:.0} ms, program of {size:.1} MB"));
    bench.remove(&place).await
}
