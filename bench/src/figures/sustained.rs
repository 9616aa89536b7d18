//! `sustained`: does it go on like this? Full speed until ten minutes are over or ten million messages are stored.

use std::time::{Duration, Instant};

use anyhow::Result;
use raven_core::Seq;

use super::{
    Bench,
    throughput::{Contender, Ledger},
};
use crate::{
    database::Engine,
    load::{Gate, Load},
    process,
    report::{Met, Row, rate},
    server::Role,
    template::Keys,
};

/// The longest that an engine takes, with what comes before and after.
pub(crate) const LONGEST: Duration = Duration::from_secs(15 * 60);
const MB: f64 = 1e6;

/// What a part of the run showed.
struct Part {
    accepted: f64,
    arrived: f64,
    p50: f64,
    p99: f64,
    /// Resident memory at its end, in megabytes.
    memory: f64,
}

impl Part {
    fn tell(&self) -> String {
        let Self { accepted, arrived, p50, p99, memory } = self;
        format!("{} accepted, {} arrived, p50 {p50:.2} ms, p99 {p99:.2} ms, {memory:.0} MB", rate(*accepted), rate(*arrived))
    }
}

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let name = engine.name();
    let contender = Contender::start(bench, "sustained", engine, Role::All, Keys::Sequential).await?;
    let arrivals = bench.sink.arrivals();
    let gate = Gate { arrivals: arrivals.clone(), most: bench.outstanding };
    let load = Load::start(&contender.target, bench.connections, Some(gate))?;
    load.measure();
    let begun = Instant::now();
    let (mut parts, mut at, mut answered, mut arrived) = (Vec::<Part>::new(), begun, 0, arrivals.count());
    // The part that reaches the end is a whole one too: parts are compared.
    while begun.elapsed() < bench.scale.lasting && load.answered() < bench.scale.stream && !load.has_ended() {
        tokio::time::sleep(bench.scale.part).await;
        let (now, times) = (Instant::now(), load.take_times());
        let (all_answered, all_arrived) = (load.answered(), arrivals.count());
        let per_second = |a: u64, b: u64| (b - a) as f64 / now.duration_since(at).as_secs_f64();
        let part = Part {
            accepted: per_second(answered, all_answered),
            arrived: per_second(arrived, all_arrived),
            p50: times.millis(50.0),
            p99: times.millis(99.0),
            memory: process::resident(contender.server.process.id())?.all as f64 / MB,
        };
        (at, answered, arrived) = (now, all_answered, all_arrived);
        bench.say(&format!("sustained, {name}, {all_answered} so far: {}", part.tell()));
        parts.push(part);
    }
    let outcome = load.finish().await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ledger::Raven(&contender.database).drain().await?;
    let recorded = contender.database.counts(Seq(0)).await?.recorded;
    let whole = outcome.wrong == 0 && recorded == outcome.answered;
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { anyhow::bail!("nothing was measured") };
    let worst = parts.iter().map(|p| p.p99).fold(0.0, f64::max);
    bench.report.row(Row {
        figure: format!("sustained, {name}"),
        measured: format!(
            "{} at first, {} in the end, × {:.2}; {} in {seconds:.0} s, {recorded} recorded, {} refused; p99 {:.2} ms at first, {:.2} in the end, \
             {worst:.2} at worst; {:.0} MB in the end",
            rate(first.arrived),
            rate(last.arrived),
            last.arrived / first.arrived,
            outcome.answered,
            outcome.wrong,
            first.p99,
            last.p99,
            last.memory
        ),
        goal: "nothing refused, all recorded",
        met: Met::of(whole),
        cpu: String::new(),
    });
    if let Some(text) = outcome.first_wrong {
        bench.report.note(format!("sustained, {name}: the first answer that was not 202: `{}`", text.replace(['\r', '\n'], " ")));
    }
    let each = bench.scale.part.as_secs();
    let told: Vec<String> = parts.iter().map(Part::tell).collect();
    bench.report.note(format!("sustained, {name}, every {each} s: {}", told.join("; ")));
    bench.remove(&contender.server.stop().await?).await
}
