//! What must hold of an installation at any moment, how it is looked for in stretches, and what can be mended.
//!
//! What lives here: the kinds of violation, the rules that tell them (pure functions over what the engines read), and the
//! verbs. What must not: SQL. A stretch is read in one snapshot, so what other transactions are about to do is never taken
//! for damage.

use std::time::Duration;

use async_trait::async_trait;
use raven_core::{Day, Environment, EventKind, Seq, Status, TenantId, Timestamp};
use uuid::Uuid;

use crate::{Action, Result, nodes::DEAD_AFTER};

/// A way in which an installation can be damaged, or come to a standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A message that something is still to be done for, and no job that would do it. (A test message that was sent waits for
    /// the sandbox, a live one for nothing of ours.)
    MessageWithoutJob,
    /// A job whose message is gone. It can't be claimed, and on SQLite no claim that meets it gets anything.
    JobWithoutMessage,
    /// A job that would send a message, or give it up, though it was sent or has ended already.
    JobOfFinalMessage,
    /// A job that is held under an epoch that there is not, or whose node was silent for so long that others should have
    /// taken the job over. (An epoch that is over may leave a job for a moment: what the database was still doing for a process
    /// when it was killed is committed after its work was taken over.)
    JobOfDeadNode,
    /// A job of an active tenant that nobody holds and that has been due for too long.
    StuckJob,
    /// An attempt of a living node that began so long ago that its outcome should be known.
    OverdueStart,
    /// An idempotency record that names a message which is gone: a replay would answer with nothing.
    IdempotencyWithoutMessage,
    /// The daily quota of a tenant was not debited with what was accepted, or what was granted of it doesn't add up.
    QuotaMismatch,
    /// The messages that are counted as accepted on a day are not those that are there.
    UsageMismatch,
    /// A timeline that contradicts itself: a line twice, two ways of being sent by one attempt, an attempt that never was.
    EventsOutOfOrder,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::MessageWithoutJob,
        Self::JobWithoutMessage,
        Self::JobOfFinalMessage,
        Self::JobOfDeadNode,
        Self::StuckJob,
        Self::OverdueStart,
        Self::IdempotencyWithoutMessage,
        Self::QuotaMismatch,
        Self::UsageMismatch,
        Self::EventsOutOfOrder,
    ];

    /// Its name in metrics and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageWithoutJob => "message_without_job",
            Self::JobWithoutMessage => "job_without_message",
            Self::JobOfFinalMessage => "job_of_final_message",
            Self::JobOfDeadNode => "job_of_dead_node",
            Self::StuckJob => "stuck_job",
            Self::OverdueStart => "overdue_start",
            Self::IdempotencyWithoutMessage => "idempotency_without_message",
            Self::QuotaMismatch => "quota_mismatch",
            Self::UsageMismatch => "usage_mismatch",
            Self::EventsOutOfOrder => "events_out_of_order",
        }
    }
}

/// What a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A message, or its job.
    Message(Seq),
    /// What is counted of a tenant on a day.
    Counters(TenantId, Day),
}

/// Something that should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Violation {
    /// What is wrong.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
}

impl Violation {
    const fn of(kind: Kind, seq: Seq) -> Self {
        Self { kind, subject: Subject::Message(seq) }
    }
}

/// A stretch that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<P> {
    /// Rows that were looked at: jobs, messages, idempotency records, tenants.
    pub rows: usize,
    /// Of these, counts that were left out because there was too much to count at once.
    pub uncounted: usize,
    /// What is wrong, in the order of the stretch.
    pub violations: Vec<Violation>,
    /// The last one looked at, where the next stretch begins; `None` when nothing is left.
    pub next: Option<P>,
}

/// Keys of messages or jobs: above `after`, up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Exclusive.
    pub after: Seq,
    /// Inclusive.
    pub until: Seq,
}

impl Range {
    /// All there are.
    pub const ALL: Self = Self { after: Seq(-1), until: Seq(i64::MAX) };
}

/// The place of an idempotency record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey {
    /// Whose it is: a tenant or a human.
    pub owner: Uuid,
    /// The code of the environment; 0 where there is none.
    pub environment: i16,
    /// The code of the operation.
    pub operation: i16,
    /// The caller's text.
    pub key: String,
}

/// How long things may take before they count as wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margins {
    /// For which a job may be due without anybody holding it.
    pub due: Duration,
    /// For which an attempt may be under way.
    pub start: Duration,
    /// Beyond [`DEAD_AFTER`], for a dead node's jobs to be taken over by others.
    pub takeover: Duration,
}

impl Default for Margins {
    fn default() -> Self {
        Self { due: Duration::from_secs(600), start: Duration::from_secs(300), takeover: Duration::from_secs(60) }
    }
}

impl Margins {
    /// A node whose last beat is older than this has no call under way, and others should have its work.
    #[must_use]
    pub fn dead_before(&self, now: Timestamp) -> Timestamp {
        now.before(DEAD_AFTER + self.takeover)
    }
}

/// A job and what is around it, in one snapshot.
pub(crate) struct JobFacts {
    pub(crate) seq: Seq,
    pub(crate) action: Action,
    pub(crate) due_at: Timestamp,
    /// The epoch that it is held under, with the last beat of its node, if there is one.
    pub(crate) held: Option<Option<Timestamp>>,
    pub(crate) started_at: Option<Timestamp>,
    /// The status of its message, if that is there.
    pub(crate) message: Option<Status>,
    /// Did a report tell of a failure, so that it goes another way?
    pub(crate) is_resent: bool,
    pub(crate) is_tenant_active: bool,
}

impl JobFacts {
    /// What is wrong with the job: the first thing that has to be put right.
    pub(crate) fn judge(&self, margins: &Margins, now: Timestamp) -> Option<Violation> {
        self.kind(margins, now).map(|kind| Violation::of(kind, self.seq))
    }

    /// Its holder had it at this time or later.
    fn touched_at(&self) -> Timestamp {
        self.started_at.unwrap_or_default().max(self.due_at).max(self.seq.at())
    }

    fn kind(&self, margins: &Margins, now: Timestamp) -> Option<Kind> {
        let Some(status) = self.message else { return Some(Kind::JobWithoutMessage) };
        // How long ago an epoch ended isn't told by anything, but not before what was last done in it.
        if let Some(beat) = self.held
            && beat.unwrap_or_else(|| self.touched_at()) < margins.dead_before(now)
        {
            return Some(Kind::JobOfDeadNode);
        }
        if is_vain(self.action, self.started_at, status, self.is_resent) {
            return Some(Kind::JobOfFinalMessage);
        }
        match self.started_at {
            Some(at) if self.held.is_some() => (at < now.before(margins.start)).then_some(Kind::OverdueStart),
            _ => {
                let waits = self.held.is_none() && self.is_tenant_active;
                (waits && self.due_at < now.before(margins.due)).then_some(Kind::StuckJob)
            }
        }
    }
}

/// Would the job do what must not be done any more? A call that is under way can't be taken back, and its outcome ends the
/// job; the sandbox's play goes on from `sent`. A status that is past `sent` while a retry waits comes from a late outcome of
/// the same attempt, which ends the job as well, unless another epoch held it at that moment. What was sent, and is reported not to
/// have arrived, is sent another way and stays `sent` meanwhile.
pub(crate) fn is_vain(action: Action, started_at: Option<Timestamp>, status: Status, is_resent: bool) -> bool {
    action != Action::Play && started_at.is_none() && status.is_settled() && !(is_resent && status == Status::Sent)
}

/// Does something wait to be done for a message like this one?
pub(crate) fn awaits(status: Status, environment: Environment) -> bool {
    !status.is_settled() || (status == Status::Sent && environment == Environment::Test)
}

/// A line of a timeline, as far as it can contradict others.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) kind: EventKind,
    pub(crate) at: Timestamp,
    pub(crate) attempt: i16,
    /// It is the outcome of a call, and not a report about an earlier one.
    pub(crate) is_outcome: bool,
}

/// A message and what is around it, in one snapshot.
pub(crate) struct MessageFacts {
    pub(crate) seq: Seq,
    pub(crate) environment: Environment,
    pub(crate) status: Status,
    /// The attempt of its job, if it has one.
    pub(crate) job: Option<i16>,
    pub(crate) lines: Vec<Line>,
}

impl MessageFacts {
    /// Adds what is wrong with the message.
    pub(crate) fn judge(&self, violations: &mut Vec<Violation>) {
        if self.job.is_none() && awaits(self.status, self.environment) {
            violations.push(Violation::of(Kind::MessageWithoutJob, self.seq));
        }
        if self.is_contradicted() {
            violations.push(Violation::of(Kind::EventsOutOfOrder, self.seq));
        }
    }

    /// The times of lines need not rise: an older attempt's outcome may be known late. But a line is recorded once, an attempt
    /// is sent once, and none is newer than the job's.
    fn is_contradicted(&self) -> bool {
        let is_sent = |line: &Line| line.kind == EventKind::Sent && line.is_outcome;
        self.lines.iter().enumerate().any(|(n, line)| {
            self.job.is_some_and(|newest| line.attempt > newest)
                || self.lines[..n].iter().any(|earlier| {
                    earlier.attempt == line.attempt
                        && (earlier.kind == line.kind && earlier.at == line.at || is_sent(earlier) && is_sent(line))
                })
        })
    }
}

/// What is counted of a tenant on a day, and what there is, in one snapshot.
pub(crate) struct CounterFacts {
    pub(crate) tenant: TenantId,
    pub(crate) day: Day,
    /// The central row: what was granted of the limit in all, and what was used before there were slices.
    pub(crate) central: Option<(i64, i64)>,
    /// The nodes' slices: their number, what they were granted and what they used.
    pub(crate) slices: (i64, i64, i64),
    /// Rows of either sort that used more than they were granted.
    pub(crate) overdrawn: i64,
    /// Messages that are counted as accepted: live and test ones.
    pub(crate) accepted: [i64; 2],
    /// Live ones of them whose recipient was suppressed: they take no quota.
    pub(crate) suppressed: i64,
    /// Messages that are there: live and test ones; `None` where there are too many to count.
    pub(crate) there: [Option<i64>; 2],
}

impl CounterFacts {
    /// Adds what is wrong with the counts.
    pub(crate) fn judge(&self, violations: &mut Vec<Violation>) {
        let subject = Subject::Counters(self.tenant, self.day);
        if !self.quota_adds_up() {
            violations.push(Violation { kind: Kind::QuotaMismatch, subject });
        }
        if self.accepted.iter().zip(self.there).any(|(counted, there)| there.is_some_and(|there| there != *counted)) {
            violations.push(Violation { kind: Kind::UsageMismatch, subject });
        }
    }

    /// Where nothing was limited there are no rows, and nothing to compare.
    fn quota_adds_up(&self) -> bool {
        let (slices, slices_granted, slices_used) = self.slices;
        match self.central {
            None => slices == 0,
            Some((granted, used)) => {
                self.overdrawn == 0 && granted == used + slices_granted && used + slices_used == self.accepted[0] - self.suppressed
            }
        }
    }

    /// Counts that were left out.
    pub(crate) fn uncounted(&self) -> usize {
        self.there.iter().filter(|there| there.is_none()).count()
    }
}

/// What becomes of a message that lost its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remedy {
    pub(crate) action: Action,
    pub(crate) attempt: i16,
    pub(crate) due_at: Timestamp,
    /// Is the end of this attempt unknown, and not in the timeline yet?
    pub(crate) notes_unknown: bool,
}

/// The job that a message without one should have; `None` where it needs none, or nobody can tell which: a status below the
/// end that the timeline tells of is damaged itself. A message that may have gone out is never sent again: it waits for word,
/// and is given up at `give_up_at`.
pub(crate) fn remedy(message: &MessageFacts, now: Timestamp, give_up_at: Timestamp) -> Option<Remedy> {
    if message.job.is_some() || !awaits(message.status, message.environment) {
        return None;
    }
    let last = message.lines.iter().map(|line| line.attempt).max().unwrap_or(0);
    let of_last = |kind| message.lines.iter().any(|line| line.attempt == last && line.kind == kind);
    match message.status {
        // When it was to be sent stood in the job alone.
        Status::Scheduled => None,
        Status::Sent => Some(Remedy { action: Action::Play, attempt: last, due_at: now, notes_unknown: false }),
        _ if message.lines.iter().any(|line| line.attempt == last && ends(line.kind)) => None,
        // An attempt that starts raises the message in the same transaction.
        Status::Queued if last == 0 => Some(Remedy { action: Action::Send, attempt: 0, due_at: now, notes_unknown: false }),
        _ => {
            // After an outcome that let it be tried again, the next attempt may have begun.
            let attempt = if last == 0 || of_last(EventKind::RetryScheduled) { last.saturating_add(1) } else { last };
            let notes_unknown = attempt > last || !of_last(EventKind::OutcomeUnknown);
            Some(Remedy { action: Action::GiveUp, attempt, due_at: give_up_at, notes_unknown })
        }
    }
}

/// Is this the end of an attempt, or of what became of it?
const fn ends(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Queued | EventKind::Sending | EventKind::Scheduled | EventKind::RetryScheduled | EventKind::OutcomeUnknown)
}

/// Verbs that look for violations and mend them. Each is for all tenants, so it runs with the rights of the engine.
#[async_trait]
pub trait Invariants: Send + Sync {
    /// Looks at the next `rows` jobs of a range, in the order of their keys.
    async fn check_jobs(&self, range: Range, rows: usize, margins: Margins, now: Timestamp) -> Result<Checked<Seq>>;

    /// Looks at the next `rows` messages of a range, in the order of their keys, at their jobs and timelines.
    async fn check_messages(&self, range: Range, rows: usize) -> Result<Checked<Seq>>;

    /// Looks at the next `rows` idempotency records after a place. Those of tenants that are archived are passed over: they may
    /// be being deleted.
    async fn check_records(&self, after: Option<RecordKey>, rows: usize) -> Result<Checked<RecordKey>>;

    /// Compares the counters of a day with each other and with the messages that are there, for the next `tenants` tenants
    /// after one that are not archived. Of a tenant and environment with more than `most` messages on that day the messages
    /// are not counted. The day must be one of the last two: counters of earlier ones are forgotten bit by bit.
    async fn check_counters(&self, day: Day, after: Option<TenantId>, tenants: usize, most: usize) -> Result<Checked<TenantId>>;

    /// Mends a violation, if it is still there and can be mended without any risk of sending a message twice. `true` when
    /// something was changed.
    ///
    /// - [`Kind::MessageWithoutJob`]: a message that was never tried gets a job that sends it now; one that may have gone out
    ///   gets one that gives it up at `give_up_at`, with `outcome_unknown` in its timeline; a sandbox message plays on. One whose
    ///   timeline tells of an end is left as it is.
    /// - [`Kind::JobWithoutMessage`] and [`Kind::JobOfFinalMessage`]: the job is deleted.
    /// - [`Kind::JobOfDeadNode`]: the job is taken away as [`Queue::reap`](crate::Queue::reap) does.
    /// - The others are not mended here. What is stuck or overdue needs a living worker. Which of two counts or two lines is
    ///   the right one nobody can tell, and counters only matter for a day. A record without a message keeps a caller's
    ///   repeated request from being sent a second time until it expires.
    async fn mend(&self, violation: Violation, margins: Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn ago(seconds: u64) -> Timestamp {
        NOW.before(Duration::from_secs(seconds))
    }

    fn job() -> JobFacts {
        JobFacts {
            seq: Seq(1),
            action: Action::Send,
            due_at: NOW,
            held: None,
            started_at: None,
            message: Some(Status::Sending),
            is_resent: false,
            is_tenant_active: true,
        }
    }

    fn kind(facts: &JobFacts) -> Option<Kind> {
        facts.judge(&Margins::default(), NOW).map(|violation| violation.kind)
    }

    #[test]
    fn jobs_are_judged_at_the_edges_of_the_margins() {
        assert_eq!(kind(&job()), None);
        assert_eq!(kind(&JobFacts { message: None, ..job() }), Some(Kind::JobWithoutMessage));
        assert_eq!(kind(&JobFacts { due_at: ago(600), ..job() }), None);
        let late = JobFacts { due_at: ago(601), ..job() };
        assert_eq!(kind(&late), Some(Kind::StuckJob));
        assert_eq!(kind(&JobFacts { is_tenant_active: false, ..late }), None);
        assert_eq!(kind(&JobFacts { due_at: ago(601), held: Some(Some(NOW)), ..job() }), None, "it waits in a node's memory");
        assert_eq!(kind(&JobFacts { held: Some(Some(ago(80))), ..job() }), None);
        assert_eq!(kind(&JobFacts { held: Some(Some(ago(81))), ..job() }), Some(Kind::JobOfDeadNode));
        let lost = |seconds| JobFacts { held: Some(None), due_at: ago(seconds), ..job() };
        assert_eq!((kind(&lost(80)), kind(&lost(81))), (None, Some(Kind::JobOfDeadNode)));
        assert_eq!(kind(&JobFacts { started_at: Some(ago(80)), ..lost(900) }), None);
        let started = |seconds| JobFacts { held: Some(Some(NOW)), started_at: Some(ago(seconds)), ..job() };
        assert_eq!((kind(&started(300)), kind(&started(301))), (None, Some(Kind::OverdueStart)));
    }

    #[test]
    fn only_what_would_act_on_a_final_message_is_vain() {
        let (began, status) = (Some(NOW), Status::Delivered);
        let is_vain = |action, began, status| is_vain(action, began, status, false);
        assert!(is_vain(Action::Send, None, Status::Sent) && is_vain(Action::GiveUp, None, status));
        assert!(!super::is_vain(Action::Send, None, Status::Sent, true) && super::is_vain(Action::Send, None, Status::Failed, true));
        assert!(
            !is_vain(Action::Send, None, Status::Sending) && !is_vain(Action::Send, began, status) && !is_vain(Action::Play, None, status)
        );
    }

    fn line(kind: EventKind, attempt: i16, at: i64) -> Line {
        Line { kind, at: Timestamp::from_millis(at), attempt, is_outcome: true }
    }

    fn message(status: Status, lines: &[Line]) -> MessageFacts {
        MessageFacts { seq: Seq(1), environment: Environment::Live, status, job: None, lines: lines.to_vec() }
    }

    #[test]
    fn a_timeline_contradicts_itself_only_where_it_must_not() {
        let retry = line(EventKind::RetryScheduled, 1, 9);
        let late = line(EventKind::OutcomeUnknown, 1, 5);
        let sent = line(EventKind::Sent, 2, 7);
        let of = |job, lines: &[Line]| MessageFacts { job, ..message(Status::Sending, lines) }.is_contradicted();
        assert!(!of(Some(2), &[retry, late, sent]), "an outcome may be known late");
        assert!(of(Some(1), &[retry, sent]), "a second attempt never was");
        assert!(of(None, &[retry, retry]));
        assert!(of(None, &[sent, Line { at: Timestamp::from_millis(8), ..sent }]));
        assert!(!of(None, &[sent, Line { attempt: 1, ..sent }]));
        assert!(!of(None, &[sent, Line { is_outcome: false, at: Timestamp::from_millis(8), ..sent }]), "a report of the provider's");
    }

    #[test]
    fn what_may_have_gone_out_is_never_sent_again() {
        let later = NOW.after(Duration::from_secs(86_400));
        let of = |status, lines: &[Line]| remedy(&message(status, lines), NOW, later).map(|r| (r.action, r.attempt, r.notes_unknown));
        assert_eq!(of(Status::Queued, &[]), Some((Action::Send, 0, false)));
        assert_eq!(of(Status::Queued, &[line(EventKind::RetryScheduled, 0, 1)]), Some((Action::Send, 0, false)), "it had no route");
        assert_eq!(of(Status::Sending, &[]), Some((Action::GiveUp, 1, true)));
        assert_eq!(of(Status::Sending, &[line(EventKind::RetryScheduled, 1, 1)]), Some((Action::GiveUp, 2, true)));
        assert_eq!(of(Status::Sending, &[line(EventKind::OutcomeUnknown, 1, 1)]), Some((Action::GiveUp, 1, false)));
        assert_eq!(of(Status::Queued, &[line(EventKind::OutcomeUnknown, 1, 1)]), Some((Action::GiveUp, 1, false)));
        assert_eq!(of(Status::Sending, &[line(EventKind::Sent, 1, 1)]), None, "the status is what is wrong");
        assert_eq!(
            of(Status::Sending, &[line(EventKind::Failed, 1, 1), line(EventKind::RetryScheduled, 2, 2)]),
            Some((Action::GiveUp, 3, true))
        );
        assert_eq!((of(Status::Scheduled, &[]), of(Status::Sent, &[]), of(Status::Failed, &[])), (None, None, None));
        let sandbox = MessageFacts { environment: Environment::Test, ..message(Status::Sent, &[line(EventKind::Sent, 1, 1)]) };
        assert_eq!(remedy(&sandbox, NOW, later).map(|r| (r.action, r.due_at)), Some((Action::Play, NOW)));
        assert_eq!(remedy(&MessageFacts { job: Some(0), ..message(Status::Queued, &[]) }, NOW, later), None);
    }

    fn counters() -> CounterFacts {
        CounterFacts {
            tenant: TenantId(Uuid::nil()),
            day: Day(1),
            central: Some((13, 3)),
            slices: (2, 10, 4),
            overdrawn: 0,
            accepted: [8, 2],
            suppressed: 1,
            there: [Some(8), Some(2)],
        }
    }

    #[test]
    fn counters_add_up_or_are_told() {
        let kinds = |facts: CounterFacts| {
            let mut violations = Vec::new();
            facts.judge(&mut violations);
            violations.iter().map(|violation| violation.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(counters()), []);
        assert_eq!(kinds(CounterFacts { central: Some((12, 3)), ..counters() }), [Kind::QuotaMismatch]);
        assert_eq!(kinds(CounterFacts { slices: (2, 10, 5), ..counters() }), [Kind::QuotaMismatch]);
        assert_eq!(kinds(CounterFacts { overdrawn: 1, ..counters() }), [Kind::QuotaMismatch]);
        assert_eq!(kinds(CounterFacts { central: None, ..counters() }), [Kind::QuotaMismatch]);
        assert_eq!(kinds(CounterFacts { central: None, slices: (0, 0, 0), ..counters() }), []);
        assert_eq!(kinds(CounterFacts { there: [Some(8), Some(3)], ..counters() }), [Kind::UsageMismatch]);
        let too_many = CounterFacts { there: [None, Some(2)], ..counters() };
        assert_eq!((too_many.uncounted(), kinds(too_many)), (1, vec![]));
    }
}
