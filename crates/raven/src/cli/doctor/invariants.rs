//! `raven doctor --invariants`: what should not be in the data, what it means, and what can be done about it.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use raven_core::{Clock, IdCipher, Timestamp};
use raven_engine::{
    SystemClock,
    invariants::{Checker, Extent, Findings},
    shared_clock::{Reference, SharedClock},
    vault::InstallationKeys,
};
use raven_store::{
    Store, Violation,
    invariants::{Kind, Margins, Subject},
};
use serde_json::{Value, json};

use crate::{config::Config, failure::Failure, operator, output::Output};

/// How far back messages are looked at unless a span is given.
const SINCE: Duration = Duration::from_secs(7 * 86_400);
/// Examples that are told of each kind.
const EXAMPLES: usize = 20;
/// Between the first and the second look at something.
const PAUSE: Duration = Duration::from_secs(2);
/// Rounds of mending: what is put right may show what else is wrong with the same message.
const ROUNDS: usize = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Mends what can be mended.
    pub(super) repair: bool,
    /// Prints JSON.
    pub(super) json: bool,
    /// How far back messages are looked at.
    pub(super) since: Option<Duration>,
}

pub(super) async fn run(config: &Config, wish: Wish, out: Output) -> Result<(), Failure> {
    let store = operator::open(config).await?;
    let told = look(config, &store, wish, out).await;
    store.close().await;
    if told? { Ok(()) } else { Err(Failure::Told) }
}

/// Looks, mends and tells; `true` when nothing is wrong in the end.
async fn look(config: &Config, store: &Arc<dyn Store>, wish: Wish, out: Output) -> anyhow::Result<bool> {
    let ids = ids(config, store).await?;
    let clock = SharedClock::new(Arc::new(SystemClock), Reference::Database);
    clock.compare(&**store).await.context("the database's clock can't be read")?;
    let since = clock.now().before(wish.since.unwrap_or(SINCE));
    let checker = Checker::new(store.clone(), Arc::new(clock), Margins::default());
    let broken = "the data can't be looked at";
    let mut findings = checker.check(Extent::Since(since), PAUSE).await.context(broken)?;
    let mut mended = Vec::new();
    for _ in 0..if wish.repair { ROUNDS } else { 0 } {
        if findings.is_clean() {
            break;
        }
        let kinds = checker.mend(&findings).await.context("what was found can't be mended")?;
        if kinds.is_empty() {
            break;
        }
        mended.extend(kinds);
        findings = checker.check(Extent::Since(since), PAUSE).await.context(broken)?;
    }
    let report = Report { findings, mended, since, ids };
    if wish.json {
        out.json(&report.json())?
    } else {
        report.print(out)?
    }
    Ok(report.findings.is_clean())
}

/// What makes message ids. A database without the keys for them has no messages.
async fn ids(config: &Config, store: &Arc<dyn Store>) -> anyhow::Result<Option<IdCipher>> {
    let vault = operator::vault(config)?;
    // Loading would make them.
    if store.find_secret("id-tag").await.context("the installation's keys can't be read")?.is_none() {
        return Ok(None);
    }
    Ok(Some(InstallationKeys::load(&vault, &**store).await.context("the installation's keys don't open")?.ids))
}

struct Report {
    findings: Findings,
    /// The kinds of what was mended.
    mended: Vec<Kind>,
    since: Timestamp,
    ids: Option<IdCipher>,
}

impl Report {
    fn mended(&self, kind: Kind) -> usize {
        self.mended.iter().filter(|mended| **mended == kind).count()
    }

    fn examples(&self, kind: Kind) -> Vec<String> {
        let shown = |violation: Violation| match (violation.subject, &self.ids) {
            (Subject::Message(seq), Some(ids)) => ids.seal(seq).to_string(),
            (Subject::Message(seq), None) => format!("seq {}", seq.0),
            (Subject::Counters(tenant, day), _) => format!("tenant {tenant} on {day}"),
        };
        self.findings.examples(kind, EXAMPLES).into_iter().map(shown).collect()
    }

    fn json(&self) -> Value {
        let kind = |kind: Kind| {
            let (meaning, remedy) = explain(kind);
            json!({
                "kind": kind.name(),
                "found": self.findings.count(kind),
                "mended": self.mended(kind),
                "examples": self.examples(kind),
                "meaning": meaning,
                "remedy": remedy,
            })
        };
        let found = &self.findings;
        json!({
            "violations": found.violations().count(),
            "mended": self.mended.len(),
            "checked": {
                "messagesSince": self.since.to_string(),
                "messages": found.messages,
                "jobs": found.jobs,
                "idempotencyRecords": found.records,
                "counters": found.counters,
                "countersLeftOut": found.uncounted,
            },
            "kinds": Kind::ALL.into_iter().map(kind).collect::<Value>(),
        })
    }

    fn print(&self, out: Output) -> std::io::Result<()> {
        let found = &self.findings;
        out.line(format!(
            "Looked at {} jobs, {} messages since {}, {} idempotency records, {} days of tenants' counters.",
            found.jobs, found.messages, self.since, found.records, found.counters
        ))?;
        if found.uncounted > 0 {
            out.line(format!("{} counters were left out: there are too many messages to count.", found.uncounted))?;
        }
        let row = |kind: Kind| {
            let example = self.examples(kind).into_iter().next().unwrap_or_default();
            vec![kind.name().to_owned(), found.count(kind).to_string(), self.mended(kind).to_string(), example]
        };
        out.line("")?;
        out.table(&["KIND", "FOUND", "MENDED", "FOR EXAMPLE"], &Kind::ALL.map(row))?;
        for kind in Kind::ALL.into_iter().filter(|kind| found.count(*kind) > 0) {
            let (meaning, remedy) = explain(kind);
            out.line("")?;
            out.line(out.red(kind.name()))?;
            out.line(format!("  {meaning}"))?;
            out.line(format!("  → {remedy}"))?;
            for example in self.examples(kind) {
                out.line(format!("    {example}"))?;
            }
        }
        out.line("")?;
        out.line(match found.violations().count() {
            0 => out.green("Nothing is wrong."),
            n => out.red(&format!("{n} things are wrong.")),
        })
    }
}

/// What a kind means, and what there is to do.
const fn explain(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::MessageWithoutJob => (
            "A message is not at its end, and nothing will ever be done for it.",
            "--repair: one that was never tried is sent now; one that may have gone out is not sent again, but ends as failed \
             (outcome_unknown) in 24 hours unless its outcome comes in; a sandbox message plays on. One whose timeline tells of an end is left as it is.",
        ),
        Kind::JobWithoutMessage => {
            ("A job has no message. On SQLite, claims that meet it fail, so nothing may be sent at all.", "--repair: the job is deleted.")
        }
        Kind::JobOfFinalMessage => (
            "A job would send a message, or mark it as failed, that was sent or is at its end already.",
            "--repair: the job is deleted, unless its call is under way.",
        ),
        Kind::JobOfDeadNode => (
            "A job is held by a server that is gone, and no other one has taken it over.",
            "--repair: what had not begun is free again; what had begun counts as outcome_unknown, as after a crash.",
        ),
        Kind::StuckJob => (
            "A job has been due for more than ten minutes, and no server has taken it.",
            "not mended: see that a server with workers runs, and that it keeps up; then look again.",
        ),
        Kind::OverdueStart => (
            "A call began more than five minutes ago, its server is alive, and its outcome was not recorded.",
            "not mended: look for refused outcomes in the log of the server, and restart it; the message then counts as outcome_unknown.",
        ),
        Kind::IdempotencyWithoutMessage => (
            "An Idempotency-Key names a message that is gone; rows were deleted past Raven.",
            "not mended: the record keeps a repeated request from being sent a second time until it expires.",
        ),
        Kind::QuotaMismatch => (
            "The daily quota was not debited with what was accepted, or what was granted of it doesn't add up.",
            "not mended: which count is right can't be told, and the next day begins anew. Report it if nobody changed rows by hand.",
        ),
        Kind::UsageMismatch => (
            "The usage of a day doesn't count the messages that are there.",
            "not mended: rows were deleted or changed past Raven, or a backup mixes two states. Usage of that day is off by as many.",
        ),
        Kind::EventsOutOfOrder => (
            "A timeline contradicts itself: a line twice, an attempt that was sent twice, or one that never began.",
            "not mended: compare it with the provider's own log. Report it if nobody changed rows by hand.",
        ),
    }
}
