//! Looking for what should not be: stretch by stretch, a second time before it is told, and mending it.
//!
//! What lives here: how far a look goes, and what is made of two of them. What must not: the rules, which are the store's
//! ([`raven_store::invariants`]).

use std::{collections::HashSet, sync::Arc, time::Duration};

use raven_core::{Clock, Day, Seq, TenantId, Timestamp};
use raven_store::{
    Result, Store, Violation,
    invariants::{Checked, Kind, Margins, Range, RecordKey},
};

use crate::attempt::UNKNOWN_FOR;

/// Jobs, messages or records that one statement looks at.
const ROWS: usize = 1000;
/// The same while a server runs: less than a millisecond's worth, with a pause after it, so that nobody's message waits for it.
const ROWS_BESIDE: (usize, Duration) = (200, Duration::from_millis(10));
/// Tenants whose counters one statement compares. Their messages are counted, which takes longer.
const TENANTS: usize = 10;
/// Messages of one tenant, day and environment that are counted at most.
const COUNTED: usize = 100_000;
/// How far back the look of a running server goes, and how many stretches of jobs and of messages it takes at most.
const RECENT: (Duration, usize) = (Duration::from_secs(900), 250);

/// The kinds that a running server looks for: those of jobs and messages.
pub const WATCHED: [Kind; 7] = [
    Kind::MessageWithoutJob,
    Kind::JobWithoutMessage,
    Kind::JobOfFinalMessage,
    Kind::JobOfDeadNode,
    Kind::StuckJob,
    Kind::OverdueStart,
    Kind::EventsOutOfOrder,
];

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All jobs and idempotency records, the messages accepted at this time or later, the counters of today and yesterday.
    Since(Timestamp),
    /// As many jobs, and messages of the last minutes, as a running server can look at without being felt.
    Recent,
}

/// How fast a look goes.
#[derive(Clone, Copy)]
struct Pace {
    /// Rows of a stretch.
    rows: usize,
    /// Stretches of jobs, and of messages, at most.
    stretches: usize,
    /// After each.
    pause: Duration,
}

impl Pace {
    async fn rest(self) {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// A stretch that can be looked at again.
#[derive(Clone, Debug)]
enum Stretch {
    Jobs(Range),
    Messages(Range),
    Records(Option<RecordKey>),
    Counters(Day, Option<TenantId>),
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Jobs that were looked at.
    pub jobs: usize,
    /// Messages that were looked at.
    pub messages: usize,
    /// Idempotency records that were looked at.
    pub records: usize,
    /// Tenants whose counters were compared, once for each day.
    pub counters: usize,
    /// Counts that were left out because there were too many messages to count.
    pub uncounted: usize,
    stretches: Vec<(Stretch, Vec<Violation>)>,
}

impl Findings {
    /// All that is wrong.
    pub fn violations(&self) -> impl Iterator<Item = Violation> + '_ {
        self.stretches.iter().flat_map(|(_, violations)| violations.iter().copied())
    }

    /// Is nothing wrong?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stretches.is_empty()
    }

    /// How often something of this kind is wrong.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.violations().filter(|violation| violation.kind == kind).count()
    }

    /// The first few things of this kind that are wrong.
    #[must_use]
    pub fn examples(&self, kind: Kind, most: usize) -> Vec<Violation> {
        self.violations().filter(|violation| violation.kind == kind).take(most).collect()
    }

    /// Notes a stretch, and tells where the next one begins.
    fn note<P>(&mut self, stretch: Stretch, checked: Checked<P>) -> Option<P> {
        let rows = match stretch {
            Stretch::Jobs(_) => &mut self.jobs,
            Stretch::Messages(_) => &mut self.messages,
            Stretch::Records(_) => &mut self.records,
            Stretch::Counters(..) => &mut self.counters,
        };
        *rows += checked.rows;
        self.uncounted += checked.uncounted;
        if !checked.violations.is_empty() {
            self.stretches.push((stretch, checked.violations));
        }
        checked.next
    }
}

/// Looks for violations.
pub struct Checker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    margins: Margins,
}

impl Checker {
    /// A checker of what a store holds.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, margins: Margins) -> Self {
        Self { store, clock, margins }
    }

    /// Looks, and looks again after a pause at what seems to be wrong. What is wrong both times is told.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn check(&self, extent: Extent, pause: Duration) -> Result<Findings> {
        let mut findings = self.look(extent).await?;
        if !findings.is_clean() {
            tokio::time::sleep(pause).await;
            self.confirm(&mut findings).await?;
        }
        Ok(findings)
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn look(&self, extent: Extent) -> Result<Findings> {
        let mut findings = Findings::default();
        let now = self.clock.now();
        let (since, pace) = match extent {
            Extent::Since(since) => (since, Pace { rows: ROWS, stretches: usize::MAX, pause: Duration::ZERO }),
            Extent::Recent => (now.before(RECENT.0), Pace { rows: ROWS_BESIDE.0, stretches: RECENT.1, pause: ROWS_BESIDE.1 }),
        };
        self.look_at_jobs(&mut findings, pace).await?;
        self.look_at_messages(&mut findings, since, pace).await?;
        if matches!(extent, Extent::Since(_)) {
            self.look_at_records(&mut findings).await?;
            for day in [now.day().plus(-1), now.day()] {
                self.look_at_counters(&mut findings, day).await?;
            }
        }
        Ok(findings)
    }

    async fn look_at_jobs(&self, findings: &mut Findings, pace: Pace) -> Result<()> {
        let mut range = Range::ALL;
        for _ in 0..pace.stretches {
            let checked = self.store.check_jobs(range, pace.rows, self.margins, self.clock.now()).await?;
            let stretch = Range { until: checked.next.unwrap_or(range.until), ..range };
            let Some(after) = findings.note(Stretch::Jobs(stretch), checked) else { break };
            range.after = after;
            pace.rest().await;
        }
        Ok(())
    }

    async fn look_at_messages(&self, findings: &mut Findings, since: Timestamp, pace: Pace) -> Result<()> {
        let first = Seq::first_at(since.max(Timestamp::from_millis(0)));
        let mut range = Range { after: Seq(first.0 - 1), ..Range::ALL };
        for _ in 0..pace.stretches {
            let checked = self.store.check_messages(range, pace.rows).await?;
            let stretch = Range { until: checked.next.unwrap_or(range.until), ..range };
            let Some(after) = findings.note(Stretch::Messages(stretch), checked) else { break };
            range.after = after;
            pace.rest().await;
        }
        Ok(())
    }

    async fn look_at_records(&self, findings: &mut Findings) -> Result<()> {
        let mut after = None;
        loop {
            let checked = self.store.check_records(after.clone(), ROWS).await?;
            match findings.note(Stretch::Records(after), checked) {
                Some(place) => after = Some(place),
                None => return Ok(()),
            }
        }
    }

    async fn look_at_counters(&self, findings: &mut Findings, day: Day) -> Result<()> {
        let mut after = None;
        loop {
            let checked = self.store.check_counters(day, after, TENANTS, COUNTED).await?;
            match findings.note(Stretch::Counters(day, after), checked) {
                Some(tenant) => after = Some(tenant),
                None => return Ok(()),
            }
        }
    }

    /// Keeps what is still wrong.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn confirm(&self, findings: &mut Findings) -> Result<()> {
        for (stretch, violations) in &mut findings.stretches {
            let again: HashSet<Violation> = self.look_again(stretch).await?.into_iter().collect();
            violations.retain(|violation| again.contains(violation));
        }
        findings.stretches.retain(|(_, violations)| !violations.is_empty());
        Ok(())
    }

    async fn look_again(&self, stretch: &Stretch) -> Result<Vec<Violation>> {
        let mut all = Vec::new();
        match stretch {
            Stretch::Jobs(range) => {
                // More rows may lie in the range by now, so it is looked through to its end.
                let mut range = *range;
                loop {
                    let checked = self.store.check_jobs(range, ROWS, self.margins, self.clock.now()).await?;
                    all.extend(checked.violations);
                    let Some(after) = checked.next else { break };
                    range.after = after;
                }
            }
            Stretch::Messages(range) => {
                let mut range = *range;
                loop {
                    let checked = self.store.check_messages(range, ROWS).await?;
                    all.extend(checked.violations);
                    let Some(after) = checked.next else { break };
                    range.after = after;
                }
            }
            // Records that came in between push the last ones out of a stretch of the same length.
            Stretch::Records(after) => all = self.store.check_records(after.clone(), 4 * ROWS).await?.violations,
            Stretch::Counters(day, after) => all = self.store.check_counters(*day, *after, 2 * TENANTS, COUNTED).await?.violations,
        }
        Ok(all)
    }

    /// Mends what can be mended; the kinds of what was.
    ///
    /// # Errors
    /// When the store can't; the rest is as it was.
    pub async fn mend(&self, findings: &Findings) -> Result<Vec<Kind>> {
        let mut mended = Vec::new();
        for violation in findings.violations() {
            let now = self.clock.now();
            if self.store.mend(violation, self.margins, now, now.after(UNKNOWN_FOR)).await? {
                mended.push(violation.kind);
            }
        }
        Ok(mended)
    }
}
