//! `latency`: from sending the request to its bytes at the provider, by a fixed timetable of 200 a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::Bench;
use crate::{
    database::Engine,
    pace::{self, Sent, Timetable},
    report::{Met, Row},
    server::Role,
    sink::MARK,
    stats::{Durations, median},
    template::{Keys, NUMBER, TEXT, Template},
};

/// Requests a second.
const RATE: u32 = 200;
/// Connections.
const CONNECTIONS: u64 = 16;
/// Requests before a window, which warm connections and caches.
const WARM: u64 = 100;
/// How long the last messages may take to arrive.
const ARRIVE: Duration = Duration::from_secs(10);
/// Goals, in milliseconds.
const P50: f64 = 1.0;
const P99: f64 = 4.0;

/// Percentiles of a window, in milliseconds.
struct Window {
    delivered: (f64, f64),
    answered: (f64, f64),
}

fn both(times: &Durations) -> (f64, f64) {
    (times.millis(50.0), times.millis(99.0))
}

fn answers(sent: &[Sent]) -> Durations {
    Durations::of(sent.iter().map(|s| s.answered.duration_since(s.at)).collect())
}

/// Measures the engines side by side, and how long the bare echo takes to answer.
pub(crate) async fn measure(bench: &Bench, engines: &[Engine]) -> Result<()> {
    let text = format!("{TEXT} {MARK}{NUMBER}");
    let mut contenders = Vec::new();
    for engine in engines {
        let place = bench.place(*engine, "latency").await?;
        let server = bench.binary.serve(&place, Role::All).await?;
        let tenant = server.tenant().await?;
        contenders.push((*engine, server, Template::message(&tenant.api_key, &text, Keys::Sequential), Vec::<Window>::new()));
    }
    let mut next = 0;
    let mut timetable = |count| {
        next += count;
        Timetable { first: next - count, count, gap: Duration::from_secs(1) / RATE, connections: CONNECTIONS }
    };
    let mut echoes = Vec::new();
    for round in 1..=bench.scale.rounds {
        let (target, times) = (bench.echo.target(), timetable(bench.scale.paced));
        let sent = tokio::task::spawn_blocking(move || pace::run(target.address, &[target.template], times)).await??;
        echoes.push(both(&answers(&sent)));
        for (engine, server, template, windows) in &mut contenders {
            let (address, warm, times) = (server.address, timetable(WARM), timetable(bench.scale.paced));
            bench.sink.note();
            let theirs = [template.clone()];
            let sent = tokio::task::spawn_blocking(move || {
                pace::run(address, &theirs, warm)?;
                pace::run(address, &theirs, times)
            })
            .await??;
            let delivered = arrived(bench, &sent, usize::try_from(WARM + times.count)?).await?;
            let window = Window { delivered: both(&Durations::of(delivered)), answered: both(&answers(&sent)) };
            let ((p50, p99), (a50, a99)) = (window.delivered, window.answered);
            bench.say(&format!(
                "latency, round {round}: {} at the provider p50 {p50:.2} ms, p99 {p99:.2} ms; 202 {a50:.2}, {a99:.2}",
                engine.name()
            ));
            windows.push(window);
        }
    }
    let middle = |of: &dyn Fn(usize) -> f64| median(&(0..bench.scale.rounds).map(of).collect::<Vec<_>>());
    let (e50, e99) = (middle(&|i| echoes[i].0), middle(&|i| echoes[i].1));
    for (engine, server, _, windows) in contenders {
        let (p50, p99) = (middle(&|i| windows[i].delivered.0), middle(&|i| windows[i].delivered.1));
        let (a50, a99) = (middle(&|i| windows[i].answered.0), middle(&|i| windows[i].answered.1));
        bench.report.row(Row {
            figure: format!("latency, {}", engine.name()),
            measured: format!(
                "p50 {p50:.2} ms, p99 {p99:.2} ms at the provider (202: {a50:.2}, {a99:.2}; echo answers: {e50:.2}, {e99:.2})"
            ),
            goal: "p50 ≤ 1 ms, p99 ≤ 4 ms",
            met: Met::of(p50 <= P50 && p99 <= P99),
            cpu: String::new(),
        });
        let rounds: Vec<String> = windows.iter().map(|w| format!("p50 {:.2}, p99 {:.2} ms", w.delivered.0, w.delivered.1)).collect();
        bench.report.note(format!("latency, {}, {} requests a window: {}", engine.name(), bench.scale.paced, rounds.join("; ")));
        bench.remove(&server.stop().await?).await?;
    }
    Ok(())
}

/// Waits for what was sent to arrive, `expected` with what was sent before; tells how long each took.
pub(crate) async fn arrived(bench: &Bench, sent: &[Sent], expected: usize) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    while bench.sink.noted() < expected && begun.elapsed() < ARRIVE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut arrivals = HashMap::new();
    for (number, at) in bench.sink.take_notes() {
        ensure!(arrivals.insert(number, at).is_none(), "message {number} arrived twice");
    }
    let delivered: Vec<Duration> = sent.iter().filter_map(|s| Some(arrivals.get(&s.number)?.saturating_duration_since(s.at))).collect();
    ensure!(delivered.len() == sent.len(), "{} of {} messages arrived within {ARRIVE:?}", delivered.len(), sent.len());
    Ok(delivered)
}
