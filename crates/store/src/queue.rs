//! The queue: one job for every message that something is still to be done for. Claim, act, settle: no transaction is
//! held while a provider is called.

use async_trait::async_trait;
use raven_core::{
    Channel, ConfigId, Environment, EventKind, Priority, Seq, Status, SuppressionId, SuppressionReason, TenantId, Timestamp,
    suppression::lookup,
};

use crate::{Lease, Result};

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Action {
    /// Send the message.
    Send = 1,
    /// Give up waiting for the outcome of an attempt that may have gone out.
    GiveUp = 2,
    /// Let the sandbox play the next step of the message's life.
    Play = 3,
}

impl Action {
    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The one with this code.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Self::Send),
            2 => Some(Self::GiveUp),
            3 => Some(Self::Play),
            _ => None,
        }
    }
}

/// Which of a tenant's work on a channel goes first. What was tried before waits apart, so that a provider's bad hour
/// doesn't stand before what is sent after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Urgency {
    /// A transactional message, not tried yet.
    Transactional = 1,
    /// A bulk message, not tried yet.
    Bulk = 2,
    /// A transactional message that is tried again.
    TransactionalRetry = 3,
    /// A bulk message that is tried again.
    BulkRetry = 4,
}

impl Urgency {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Transactional, Self::Bulk, Self::TransactionalRetry, Self::BulkRetry];

    /// Of a message that was not tried yet.
    #[must_use]
    pub const fn of(priority: Priority) -> Self {
        match priority {
            Priority::Transactional => Self::Transactional,
            Priority::Bulk => Self::Bulk,
        }
    }

    /// Once it is to be tried again. (In SQL: `((urgency - 1) | 2) + 1`.)
    #[must_use]
    pub const fn retried(self) -> Self {
        match self {
            Self::Transactional | Self::TransactionalRetry => Self::TransactionalRetry,
            Self::Bulk | Self::BulkRetry => Self::BulkRetry,
        }
    }

    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The one with this code.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Self::Transactional),
            2 => Some(Self::Bulk),
            3 => Some(Self::TransactionalRetry),
            4 => Some(Self::BulkRetry),
            _ => None,
        }
    }
}

// What the statements spell out.
const _: () = {
    let mut n = 0;
    while n < Urgency::ALL.len() {
        let urgency = Urgency::ALL[n];
        assert!(((urgency.code() - 1) | 2) + 1 == urgency.retried().code());
        n += 1;
    }
};

/// What is dispatched side by side without delaying others: the work of one tenant in one environment on one channel, of one
/// urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The tenant.
    pub tenant: TenantId,
    /// Live or test.
    pub environment: Environment,
    /// The channel.
    pub channel: Channel,
    /// What goes first.
    pub urgency: Urgency,
    /// Through which config it is expected to go.
    pub outlet: Outlet,
}

/// A number that stands for a config in the order of waiting work, so that what waits for one config stands before nothing
/// that waits for another one. Two configs may share one: then so do their lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outlet(pub i16);

impl Outlet {
    /// Not known, or the sandbox.
    pub const NONE: Self = Self(0);

    /// That of a config.
    #[must_use]
    pub fn of(config: Option<ConfigId>) -> Self {
        // The end of an id is random, however it was made.
        config.map_or(Self::NONE, |id| {
            let [.., a, b] = *id.0.as_bytes();
            Self(i16::from_be_bytes([a & 0x7f, b]).max(1))
        })
    }
}

/// Which configs were tried for a message in the present round, and how often each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(Vec<Trial>);

/// What became of a message's attempts through one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trial {
    config: ConfigId,
    attempts: u16,
    /// It is another config's turn.
    over: bool,
}

impl Tried {
    /// Adds an attempt through a config; how many there were.
    pub fn add(&mut self, config: ConfigId) -> u16 {
        if let Some(trial) = self.0.iter_mut().find(|trial| trial.config == config) {
            trial.attempts = trial.attempts.saturating_add(1);
            return trial.attempts;
        }
        self.0.push(Trial { config, attempts: 1, over: false });
        1
    }

    /// It had its turn: others come first in this round.
    pub fn end(&mut self, config: ConfigId) {
        match self.0.iter_mut().find(|trial| trial.config == config) {
            Some(trial) => trial.over = true,
            None => self.0.push(Trial { config, attempts: 0, over: true }),
        }
    }

    /// Has this config had its turn?
    #[must_use]
    pub fn is_over(&self, config: ConfigId) -> bool {
        self.0.iter().any(|trial| trial.config == config && trial.over)
    }

    /// The text in the database: `id*attempts`, with a `!` where it is over.
    #[must_use]
    pub fn text(&self) -> String {
        let of = |t: &Trial| format!("{}*{}{}", t.config, t.attempts, if t.over { "!" } else { "" });
        self.0.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    /// Reads the text; what another version may have written there is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let read = |word: &str| {
            let (config, attempts) = word.split_once('*')?;
            let (attempts, over) = attempts.strip_suffix('!').map_or((attempts, false), |attempts| (attempts, true));
            Some(Trial { config: ConfigId::parse(config)?, attempts: attempts.parse().ok()?, over })
        };
        Self(text.split(' ').filter_map(read).collect())
    }
}

/// A job as it stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// What is to be done.
    pub action: Action,
    /// Attempts started so far.
    pub attempt: i16,
    /// When it is due.
    pub due_at: Timestamp,
    /// When the message is given up.
    pub expires_at: Timestamp,
    /// Does a node hold it?
    pub held: bool,
    /// When the attempt began that is under way.
    pub started_at: Option<Timestamp>,
    /// Which configs were tried in this round.
    pub tried: Option<Tried>,
    /// Does it wait until a config takes it?
    pub parked: bool,
}

/// A job, with all that acting on it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The message's key.
    pub seq: Seq,
    /// Whose turn it takes.
    pub lane: Lane,
    /// What to do.
    pub action: Action,
    /// Attempts started so far.
    pub attempt: i16,
    /// When the message is given up.
    pub expires_at: Timestamp,
    /// Whom it reaches.
    pub recipient: String,
    /// What it says (JSON), also when it was stored as large content.
    pub content: String,
    /// Which configs were tried in this round.
    pub tried: Option<Tried>,
}

/// An attempt that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The message's key.
    pub seq: Seq,
    /// The attempt's number: one more than the job's.
    pub attempt: i16,
    /// Through which config (`None`: the sandbox).
    pub config: Option<ConfigId>,
    /// The lane of the job.
    pub lane: Lane,
    /// The recipient as suppressions are looked up ([`raven_core::suppression::lookup`]).
    pub lookup: String,
}

impl Start {
    /// The next attempt of a job.
    #[must_use]
    pub fn next(job: &Job, config: Option<ConfigId>) -> Self {
        let lookup = lookup(job.lane.channel, &job.recipient).into_owned();
        Self { seq: job.seq, attempt: job.attempt + 1, config, lane: job.lane, lookup }
    }
}

/// What became of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// The attempt is marked as started: make the call.
    Begun,
    /// The job is not ours to start.
    NotHeld,
    /// The recipient may not be written to. Nothing was changed: settle it.
    Suppressed(SuppressionReason),
}

/// What is to be done next for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the job is deleted.
    Done,
    /// This, at that time, by whoever claims it.
    At(Action, Timestamp),
}

/// The outcome of an attempt (or of another action of a job).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The message's key.
    pub seq: Seq,
    /// Whose it is.
    pub tenant: TenantId,
    /// The attempt that this is the outcome of.
    pub attempt: i16,
    /// When the attempt started; `None` when no attempt began (expired before any, given up, played by the sandbox).
    pub started_at: Option<Timestamp>,
    /// When the outcome was known.
    pub at: Timestamp,
    /// The line in the timeline.
    pub kind: EventKind,
    /// The status to rise to.
    pub status: Status,
    /// Who had it, if anyone.
    pub provider: Option<String>,
    /// Through which config.
    pub config: Option<ConfigId>,
    /// The provider's own id.
    pub provider_message_id: Option<String>,
    /// Is the message to be found by that id? Its provider's callbacks know no other then.
    pub is_found_by_id: bool,
    /// Parts, where the provider counted them.
    pub segments: Option<i16>,
    /// Cost: ISO 4217 code.
    pub cost_currency: Option<String>,
    /// Cost: millionths of a unit.
    pub cost_micros: Option<i64>,
    /// Why it failed for good: becomes the message's `failureReason`.
    pub failure_reason: Option<String>,
    /// Explanation for the timeline.
    pub detail: Option<String>,
    /// What the provider said, raw and already redacted (at most 4 KiB).
    pub payload: Option<String>,
    /// What to do next.
    pub next: Next,
    /// The recipient is not to be written to any more.
    pub suppresses: Option<Suppresses>,
    /// Where something follows: which configs were tried in this round, so that another one comes next.
    pub tried: Option<Tried>,
    /// Where something follows: through which config it is expected to go.
    pub outlet: Outlet,
}

/// What an outcome says of the message's recipient, for other messages of its tenant, environment and channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppresses {
    /// The id of the suppression, if it is new.
    pub id: SuppressionId,
    /// The address, in the form in which it is compared ([`raven_core::suppression::comparable`]).
    pub address: String,
    /// Why.
    pub reason: SuppressionReason,
}

/// What a claim got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The jobs, now leased.
    pub jobs: Vec<Job>,
    /// When the next unleased job of a lane that was not skipped is due, as far as the claim saw; `None`: none waits.
    pub next_due: Option<Timestamp>,
}

/// What a reaping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Jobs that had not been started: free again, due at once.
    pub released: usize,
    /// Jobs with a started attempt and no outcome: `outcome_unknown` is recorded, and they wait.
    pub unknown: usize,
}

/// Verbs about the queue.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Marks attempts as started, durably, before the provider is called: the job's `attempt` and `started_at` are set,
    /// the message rises to `sending`. The answer tells for each, in order, whether the job was still held under `lease`
    /// with the attempt before this one, and not started; only when it has [`Begun`](Started::Begun) may the call be made. A
    /// job whose recipient is suppressed, as the transaction sees it, is not started.
    async fn start(&self, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>>;

    /// Records outcomes, in one transaction. For each: the event is always added; the message rises to the status (never
    /// falls), and takes over provider, ids, cost and reason where given, unless a newer attempt has started
    /// (job.attempt > settlement.attempt); the job is deleted or rescheduled (unleased, not started) only if it is still
    /// of this attempt, and is either held under `lease` or held by nobody. A settlement that was recorded before (its answer
    /// was lost) may come again and changes nothing more: an event of the same message, attempt, kind and time is one event.
    /// What it says of the recipient is added with its event, unless the address is listed already.
    async fn settle(&self, lease: Lease, settlements: &[Settlement]) -> Result<()>;

    /// Leases due unleased jobs: round by round over the lanes that have any, at most `per_lane` of each, `limit` in all,
    /// oldest due first within a lane. Lanes in `skip` are passed over (full here).
    /// A tenant that is not active holds its jobs: only those are claimed that were due so long ago that they must have
    /// expired (their channel's [`RetryPolicy::max_age`](raven_core::retry::RetryPolicy) before `now`).
    async fn claim(&self, lease: Lease, limit: usize, per_lane: usize, skip: &[Lane], now: Timestamp) -> Result<Claimed>;

    /// Gives jobs back: unleased, due when they were. A job whose attempt is marked as started counts as not started
    /// again (its attempt number goes back by one): the caller vouches that the provider was not called. Jobs that are
    /// not held under `lease` are left alone.
    async fn release(&self, lease: Lease, seqs: &[Seq]) -> Result<()>;

    /// Gives jobs back that are held under `lease` and not started, to wait for a change ([`unpark`](Self::unpark)) until these
    /// times, when they are due. When they were due before is kept, and tells the order in which they come back.
    async fn park(&self, lease: Lease, jobs: &[(Seq, Timestamp)]) -> Result<()>;

    /// Makes up to `limit` of a tenant's waiting jobs of one channel due when they were, oldest due first; how many. Call until
    /// it does fewer.
    async fn unpark(&self, tenant: TenantId, channel: Channel, limit: usize) -> Result<usize>;

    /// Tenants and channels of which jobs wait for a change, in order, after one.
    async fn list_parked(&self, after: Option<(TenantId, Channel)>, limit: usize) -> Result<Vec<(TenantId, Channel)>>;

    /// The job of a tenant's message, if something is still to be done for it.
    async fn find_job(&self, tenant: TenantId, seq: Seq) -> Result<Option<JobRecord>>;

    /// Gives back what is held under `lease` and not started, but for these; how many. For a node that can't tell what a claim
    /// got whose answer was lost. (Giving back too much harms nobody: a job is started by its holder only.)
    async fn release_unstarted(&self, lease: Lease, except: &[Seq]) -> Result<usize>;

    /// Takes up to `limit` jobs away from an epoch that is over. Not started: released. Started: ambiguous, so an
    /// `outcome_unknown` event is recorded and the job becomes [`Action::GiveUp`] at `give_up_at` (or
    /// [`Action::Send`] now, where the tenant's policy is to retry). Call until it reaps nothing.
    async fn reap(&self, lease: Lease, now: Timestamp, give_up_at: Timestamp, limit: usize) -> Result<Reaped>;

    /// Looks at up to `rows` jobs after one, in the order of their messages: how many there are by channel, what is due, and which
    /// epochs that there are not (any more) hold some that were accepted before `lost_before` and not started since. A queue of
    /// millions is looked at by stretches, so that nobody notices.
    async fn survey(&self, after: Option<Seq>, rows: usize, now: Timestamp, lost_before: Timestamp) -> Result<Survey>;

    /// Jobs in the queue and the due time of the oldest that is due, by channel. Looks at all of them.
    async fn depth(&self, now: Timestamp) -> Result<Vec<(Channel, i64, Option<Timestamp>)>> {
        let mut whole = Survey::default();
        while let Some(after) = whole.goes_on() {
            whole.add(self.survey(after, SURVEY_ROWS, now, Timestamp::from_millis(0)).await?);
        }
        Ok(whole.channels)
    }

    /// Epochs that there are not (any more), under which jobs are held that were accepted before `before`, and not started
    /// since. Nobody works on those, and nobody else will look for them: they are to be reaped. Looks at the whole queue.
    async fn lost_leases(&self, before: Timestamp) -> Result<Vec<Lease>> {
        let mut whole = Survey::default();
        while let Some(after) = whole.goes_on() {
            whole.add(self.survey(after, SURVEY_ROWS, before, before).await?);
        }
        Ok(whole.lost)
    }
}

/// Jobs in one stretch of a survey: a millisecond's worth at most.
pub const SURVEY_ROWS: usize = 1_000;

/// What stands in a stretch of the queue, or in all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Jobs by channel, and when the oldest of those that are due was due.
    pub channels: Vec<(Channel, i64, Option<Timestamp>)>,
    /// Epochs that there are not, though jobs are held under them.
    pub lost: Vec<Lease>,
    /// Where it ends, if there may be more.
    pub next: Option<Seq>,
    /// Was anything looked at?
    begun: bool,
}

impl Survey {
    /// A stretch.
    #[must_use]
    pub const fn of(channels: Vec<(Channel, i64, Option<Timestamp>)>, lost: Vec<Lease>, next: Option<Seq>) -> Self {
        Self { channels, lost, next, begun: true }
    }

    /// Where the next stretch begins (inside: `None` at the beginning); `None` when all was looked at.
    #[must_use]
    pub const fn goes_on(&self) -> Option<Option<Seq>> {
        match (self.begun, self.next) {
            (false, _) => Some(None),
            (true, Some(seq)) => Some(Some(seq)),
            (true, None) => None,
        }
    }

    /// Adds the next stretch.
    pub fn add(&mut self, other: Self) {
        for (channel, jobs, oldest) in other.channels {
            match self.channels.iter_mut().find(|(c, ..)| *c == channel) {
                Some((_, all, first)) => {
                    *all += jobs;
                    *first = first.iter().copied().chain(oldest).min();
                }
                None => self.channels.push((channel, jobs, oldest)),
            }
        }
        self.channels.sort_unstable_by_key(|(channel, ..)| *channel);
        for lease in other.lost {
            if !self.lost.contains(&lease) {
                self.lost.push(lease);
            }
        }
        self.next = other.next;
        self.begun = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_was_tried_reads_back_and_what_is_not_known_is_passed_over() {
        let [one, two] = [1, 2].map(|n| ConfigId(Uuid::from_u128(n)));
        let mut tried = Tried::default();
        assert_eq!([tried.add(one), tried.add(one), tried.add(two)], [1, 2, 1]);
        tried.end(two);
        assert_eq!(Tried::parse(&tried.text()), tried);
        assert_eq!((tried.is_over(one), tried.is_over(two)), (false, true));
        tried.end(one);
        assert!(tried.is_over(one));
        assert_eq!(Tried::parse(&format!("{} x *3 {one}*many", Tried::parse("").text())), Tried::default());
    }

    #[test]
    fn every_config_has_an_outlet_that_is_not_none() {
        for n in [0, 1, 0x7fff, 0x8000, 0xffff, u128::MAX] {
            assert!(Outlet::of(Some(ConfigId(Uuid::from_u128(n)))).0 > 0, "{n:x}");
        }
        assert_eq!(Outlet::of(None), Outlet::NONE);
    }
}
