//! A quiet tenant, by whose messages it is told what others do to their neighbours: few, by a fixed timetable, each noted when it
//! arrives at the provider.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::{Bench, latency};
use crate::{
    pace::{self, Timetable},
    server::{Server, Tenant},
    sink::MARK,
    stats::Durations,
    template::{Keys, NUMBER, TEXT, Template},
};

/// Its messages a second.
pub(crate) const RATE: u32 = 20;
/// Its connections.
const CONNECTIONS: u64 = 4;
/// Messages before a window, which warm connections and caches.
const WARM: u64 = 20;
/// What its 99th percentile may be, as a multiple of what it is without the others' doing.
pub(crate) const MOST: f64 = 1.3;
/// Fewer messages than this on each side, and their 99th percentile is chance.
const ENOUGH: usize = 1000;

/// The tenant.
pub(crate) struct Quiet {
    address: SocketAddr,
    template: Template,
    /// The number of its next message.
    next: u64,
    /// From sending to arrival, of all windows.
    times: Vec<Duration>,
    /// The 99th percentile of each window, in milliseconds.
    windows: Vec<f64>,
}

impl Quiet {
    /// As this tenant, with nothing measured yet. Its messages are numbered from `first` on.
    pub(crate) fn new(server: &Server, tenant: &Tenant, first: u64) -> Self {
        let template = Template::message(&tenant.api_key, &format!("{TEXT} {MARK}{NUMBER}"), Keys::Sequential);
        Self { address: server.address, template, next: first, times: Vec::new(), windows: Vec::new() }
    }

    /// Its server was started again.
    pub(crate) fn moved(&mut self, server: &Server) {
        self.address = server.address;
    }

    /// How long a window takes, with what goes before it.
    pub(crate) fn window_lasts(bench: &Bench) -> Duration {
        Duration::from_secs(1) * u32::try_from(bench.scale.quiet + WARM).unwrap_or(u32::MAX) / RATE
    }

    /// Measures a window.
    pub(crate) async fn window(&mut self, bench: &Bench) -> Result<()> {
        let mut timetable = |count| {
            self.next += count;
            Timetable { first: self.next - count, count, gap: Duration::from_secs(1) / RATE, connections: CONNECTIONS }
        };
        let (warm, times) = (timetable(WARM), timetable(bench.scale.quiet));
        bench.sink.note();
        let (address, template) = (self.address, [self.template.clone()]);
        let sent = tokio::task::spawn_blocking(move || {
            pace::run(address, &template, warm)?;
            pace::run(address, &template, times)
        })
        .await??;
        let seen = latency::arrived(bench, &sent, usize::try_from(WARM + times.count)?).await?;
        self.windows.push(Durations::of(seen.clone()).millis(99.0));
        self.times.extend(seen);
        Ok(())
    }

    /// What was measured so far counts no more.
    pub(crate) fn forget(&mut self) {
        self.times.clear();
        self.windows.clear();
    }

    /// All windows together.
    pub(crate) fn times(&self) -> Durations {
        Durations::of(self.times.clone())
    }

    /// The windows one by one.
    pub(crate) fn tell(&self) -> String {
        self.windows.iter().map(|p99| format!("{p99:.2}")).collect::<Vec<_>>().join(", ")
    }

    /// The 99th percentile of the last window, in milliseconds.
    pub(crate) fn last(&self) -> f64 {
        self.windows.last().copied().unwrap_or_default()
    }

    /// Are there enough messages for a judgement?
    pub(crate) fn is_judged(&self) -> bool {
        self.times.len() >= ENOUGH
    }
}
