//! Callbacks of providers: kept raw first, then applied.
//!
//! What lives here: the records, the verbs, and the rules by which what a callback tells moves a message (pure functions over what
//! the engines read under a lock). What must not: SQL, and what providers' words mean.

use std::collections::HashSet;

use async_trait::async_trait;
use raven_core::{
    Channel, ConfigId, Environment, EventKind, Priority, Seq, Status, SuppressionId, SuppressionReason, SuppressionSource, TenantId,
    Timestamp, lookup::ProviderKey, money::Money, retry::RetryPolicy, suppression::comparable,
};

use crate::{Action, InboundRecord, Outlet, Result, Tried, Urgency};

/// A callback as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackRecord {
    /// Its key; its time is that of its arrival.
    pub seq: Seq,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which config it came to.
    pub config: ConfigId,
    /// Did a signature or a token prove it to be the provider's?
    pub is_trusted: bool,
    /// What no other callback of the config may have.
    pub once: Option<String>,
    /// The method of the request.
    pub method: String,
    /// The query, without the config's token.
    pub query: String,
    /// Headers that reading it takes: a JSON object as text.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
    /// How often it was looked at.
    pub tries: i16,
}

/// What a callback tells of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// Which message: its key, as our id says.
    pub message: Option<Seq>,
    /// Which message: the provider's id of it.
    pub provider_message_id: Option<String>,
    /// Whom it is about, in the form in which recipients are compared, where the provider says so.
    pub recipient: Option<String>,
    /// The line in the timeline.
    pub kind: EventKind,
    /// The status to rise to; `None`: none.
    pub status: Option<Status>,
    /// When it happened.
    pub at: Timestamp,
    /// What tells it from other reports of its kind about the message.
    pub key: String,
    /// Why, where it went wrong.
    pub reason: Option<String>,
    /// Explanation for the timeline.
    pub detail: Option<String>,
    /// What the provider said, raw.
    pub payload: Option<String>,
    /// Parts, where it counts them.
    pub segments: Option<i16>,
    /// Cost, where it names one.
    pub cost: Option<Money>,
    /// What it says of the recipient, for the messages after this one.
    pub suppresses: Option<Suppressing>,
    /// Where it failed: the configs through which the message may still arrive, the best ones first. It goes through the first one
    /// through which no report told of a failure yet, and does not fail.
    pub detours: Vec<Detour>,
}

/// A config that may carry what another one could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// Its id.
    pub config: ConfigId,
    /// What it is called, for the timeline.
    pub label: String,
}

/// What a report says of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressing {
    /// Id of the suppression that comes of it.
    pub id: SuppressionId,
    /// Why.
    pub reason: SuppressionReason,
    /// Only if there were so many of these since then, without a delivery: soft bounces.
    pub only_after: Option<Patience>,
}

/// How many soft bounces an address has before it is suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// So many.
    pub bounces: i64,
    /// Since then.
    pub since: Timestamp,
}

/// Somebody who wants no more messages, or wants them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Id of the suppression that comes of it.
    pub id: SuppressionId,
    /// Who, in the form in which recipients are compared.
    pub address: String,
    /// `true` lifts what such a wish made before, and nothing else.
    pub wants: bool,
    /// The message it came of.
    pub message: Option<Seq>,
    /// What they said.
    pub detail: Option<String>,
    /// Was it said by a message of their own?
    pub is_inbound: bool,
}

/// One thing that a callback tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Telling {
    /// What became of a message.
    Reported(Box<Reported>),
    /// A message to the tenant; kept once.
    Inbound(Box<InboundRecord>),
    /// A wish.
    Preference(Preference),
}

/// A callback that was read, or what a recipient told us by a link in an email.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The callback's key; `None`: it came by a link, and there is nothing to note of a callback.
    pub callback: Option<Seq>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which config it came to.
    pub config: ConfigId,
    /// The config's channel.
    pub channel: Channel,
    /// Did a signature or a token prove it to be the provider's? If not, it moves only what it names by the provider's id, and
    /// neither suppresses nor lifts.
    pub is_trusted: bool,
    /// What it tells, or why it can't be read.
    pub tells: std::result::Result<Vec<Telling>, String>,
    /// When to look for its messages again, if some are not known yet; `None`: no more.
    pub again_at: Option<Timestamp>,
}

impl Reading {
    /// What makes the suppressions that come of its reports.
    pub(crate) const fn source(&self) -> SuppressionSource {
        match self.callback {
            Some(_) => SuppressionSource::Callback,
            None => SuppressionSource::Link,
        }
    }
}

/// What became of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum CallbackState {
    /// It is to be looked at, or looked at again.
    Waiting = 1,
    /// All that it tells counts.
    Applied = 2,
    /// It names messages that are not known.
    Unmatched = 3,
    /// It can't be read.
    Unreadable = 4,
}

impl CallbackState {
    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Applied => "applied",
            Self::Unmatched => "unmatched",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Which stored callbacks are to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Of this tenant only.
    pub tenant: Option<TenantId>,
    /// Of this config only.
    pub config: Option<ConfigId>,
    /// Those that were applied, too: by default those that could not be read or matched.
    pub all: bool,
    /// That came at this time or later.
    pub from: Option<Timestamp>,
}

/// Verbs about callbacks.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Keeps callbacks, durably; each is due at `due_at`, and until then the caller's to apply. The answers stand in the order of
    /// the batch (which counts as one look at each): `false` where another one of the config had the same `once`, and nothing was kept.
    async fn record_callbacks(&self, batch: &[CallbackRecord], due_at: Timestamp) -> Result<Vec<bool>>;

    /// Takes callbacks that are due, oldest first: they are due again `until`, if nothing becomes of them.
    async fn claim_callbacks(&self, limit: usize, now: Timestamp, until: Timestamp) -> Result<Vec<CallbackRecord>>;

    /// Applies what callbacks tell, and notes what became of each, in one transaction. To apply one twice does no harm. The answers
    /// stand in the order of the readings.
    async fn apply_callbacks(&self, readings: &[Reading], now: Timestamp) -> Result<Vec<CallbackState>>;

    /// The message that a config's provider knows by this id, where its callbacks know no other.
    async fn find_by_provider_id(&self, tenant: TenantId, config: ConfigId, provider_id: &str, now: Timestamp) -> Result<Option<Seq>>;

    /// Has stored callbacks read again, oldest first after a place, at most so many. The last one of them, where the next call goes
    /// on; `None` when there are no more; and how many.
    async fn replay_callbacks(&self, which: &Replay, after: Option<Seq>, limit: usize, now: Timestamp) -> Result<(Option<Seq>, usize)>;

    /// Forgets callbacks that came before a time and wait for nothing, the ids and the counts of soft bounces that are too old; at
    /// most so many of each. The number forgotten.
    async fn purge_callbacks(&self, before: Timestamp, now: Timestamp, limit: usize) -> Result<usize>;
}

/// A message as it is before a callback, read under a lock.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) seq: Seq,
    pub(crate) environment: Environment,
    pub(crate) channel: Channel,
    pub(crate) status: Status,
    pub(crate) priority: Priority,
    pub(crate) recipient: String,
    pub(crate) config: Option<ConfigId>,
    pub(crate) provider_message_id: Option<String>,
    pub(crate) failure_reason: Option<String>,
    pub(crate) cost: Option<Money>,
    pub(crate) segments: Option<i16>,
    /// What its job is for, if it has one; and whether an attempt is under way.
    pub(crate) job: Option<(Action, bool)>,
    /// When the provider took it, as its answer told.
    pub(crate) sent_at: Option<Timestamp>,
    /// Its newest attempt.
    pub(crate) attempt: i16,
    /// Reports that are in its timeline.
    pub(crate) told: HashSet<(EventKind, String)>,
    /// Configs through which it failed, as reports told.
    pub(crate) failed: Tried,
}

/// What a report adds to the message's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    /// The line's kind and what tells it from others of its kind.
    pub(crate) kind: EventKind,
    pub(crate) key: String,
    pub(crate) at: Timestamp,
    pub(crate) detail: Option<String>,
    /// The recipient to suppress, or whose soft bounces are forgotten, in the form in which recipients are compared.
    pub(crate) address: String,
    /// Did the message arrive at its recipient?
    pub(crate) is_delivery: bool,
    /// The status it rose to.
    pub(crate) rose_to: Option<Status>,
    /// Is its job not needed any more?
    pub(crate) ends_job: bool,
    /// It is to be sent again, another way.
    pub(crate) resend: Option<Resend>,
}

/// A job that sends a message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resend {
    /// The newest attempt.
    pub(crate) attempt: i16,
    pub(crate) expires_at: Timestamp,
    pub(crate) urgency: Urgency,
    pub(crate) tried: Tried,
    pub(crate) outlet: Outlet,
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is added.
    Added(Addition),
    /// It was told before, or says nothing of this message.
    Nothing,
    /// What it is about is still under way: it is to come again.
    TooEarly,
}

impl Target {
    /// Takes in a line of the timeline, as it was stored.
    pub(crate) fn read(&mut self, kind: EventKind, at: Timestamp, attempt: i16, report: Option<String>) {
        self.attempt = self.attempt.max(attempt);
        match report {
            None if kind == EventKind::Sent => self.sent_at = self.sent_at.max(Some(at)),
            None => {}
            // Written in the place of a failure.
            Some(report) if kind == EventKind::RetryScheduled => {
                let (failed, key) = report.split_once('|').unwrap_or(("", &report));
                if let Some(config) = ConfigId::parse(failed) {
                    self.failed.end(config);
                }
                self.told.insert((EventKind::Failed, key.to_owned()));
            }
            Some(report) => {
                self.told.insert((kind, report));
            }
        }
    }

    /// Applies a report.
    ///
    /// Whatever the order in which reports come, the message ends the same: the highest status stays, and its reason; of two reports
    /// of one status the reason that sorts first; the highest cost.
    pub(crate) fn apply(&mut self, reading: &Reading, report: &Reported, now: Timestamp) -> Told {
        let names_it = report.provider_message_id.is_some() && self.provider_message_id == report.provider_message_id;
        if !(reading.is_trusted || names_it && self.config == Some(reading.config)) {
            return Told::Nothing;
        }
        let fails = matches!(report.status, Some(Status::Failed | Status::Bounced));
        if fails && matches!(self.job, Some((Action::Send, true))) && reading.again_at.is_some() {
            return Told::TooEarly;
        }
        if !self.told.insert((report.kind, report.key.clone())) {
            return Told::Nothing;
        }
        let own = comparable(self.channel, &self.recipient).into_owned();
        let address = report.recipient.clone().unwrap_or_else(|| own.clone());
        // A copy has a fate of its own.
        let is_copy = address != own;
        let mut detail = report.detail.clone();
        if is_copy {
            let what = detail.unwrap_or_else(|| report.kind.name().to_owned());
            detail = Some(format!("{what} (a copy, to {address})"));
        }
        let detour = if is_copy { None } else { self.detour(reading, report, now) };
        let status = report.status.filter(|_| !is_copy && detour.is_none()).filter(|status| self.takes(reading, *status));
        let rose_to = status.filter(|status| *status > self.status);
        if let Some(status) = rose_to {
            self.status = status;
            self.failure_reason.clone_from(&report.reason);
        } else if let (Some(status), Some(reason)) = (status, &report.reason)
            && status == self.status
            && self.failure_reason.as_ref().is_none_or(|known| reason < known)
        {
            self.failure_reason = Some(reason.clone());
        }
        if !is_copy {
            self.segments = report.segments.or(self.segments);
            if let Some(cost) = &report.cost
                && self.cost.as_ref().is_none_or(|known| known.currency == cost.currency && known.micros < cost.micros)
            {
                self.cost = Some(cost.clone());
            }
            if self.provider_message_id.is_none() && self.config.is_none_or(|config| config == reading.config) {
                self.provider_message_id.clone_from(&report.provider_message_id);
            }
        }
        let ends_job = rose_to.is_some_and(|status| self.is_done_with(status));
        // Providers tell whole seconds: what followed our call is not shown before it.
        let at = self.sent_at.map_or(report.at, |sent| report.at.max(sent)).max(self.seq.at());
        let (mut kind, mut key) = (report.kind, report.key.clone());
        let resend = detour.map(|detour| {
            let why = detail.take().or_else(|| report.reason.clone()).unwrap_or_else(|| report.kind.name().to_owned());
            detail = Some(format!("{why}; next: {}", detour.label));
            self.job = Some((Action::Send, false));
            self.failed.end(reading.config);
            (kind, key) = (EventKind::RetryScheduled, format!("{}|{key}", reading.config));
            Resend {
                attempt: self.attempt,
                expires_at: self.expires_at(),
                urgency: Urgency::of(self.priority).retried(),
                tried: self.failed.clone(),
                outlet: Outlet::of(Some(detour.config)),
            }
        });
        let is_delivery = !is_copy && report.kind == EventKind::Delivered;
        Told::Added(Addition { kind, key, at, detail, address, is_delivery, rose_to, ends_job, resend })
    }

    /// Where the message goes in place of failing: when the provider that has it says for certain that it did not arrive, and another
    /// config was not tried so. Never after anything further was told of it, or while it is sent already.
    fn detour<'r>(&self, reading: &Reading, report: &'r Reported, now: Timestamp) -> Option<&'r Detour> {
        let is_failure = report.status == Some(Status::Failed) && report.suppresses.is_none();
        let waits_for_nothing = matches!(self.job, None | Some((Action::GiveUp, false)));
        let is_its_own = self.config == Some(reading.config)
            && (report.provider_message_id.is_none()
                || self.provider_message_id.is_none()
                || report.provider_message_id == self.provider_message_id);
        if !(is_failure && reading.is_trusted && waits_for_nothing && is_its_own)
            || self.environment != Environment::Live
            || self.status > Status::Sent
            || now >= self.expires_at()
        {
            return None;
        }
        report.detours.iter().find(|detour| detour.config != reading.config && !self.failed.is_over(detour.config))
    }

    /// When it is too old to be sent again.
    fn expires_at(&self) -> Timestamp {
        self.seq.at().after(RetryPolicy::of(self.channel).max_age)
    }

    /// Does a report of this status concern the message as it is now? That an attempt through another config failed, or that one
    /// failed while the next one waits, is no end.
    fn takes(&self, reading: &Reading, status: Status) -> bool {
        if !matches!(status, Status::Failed | Status::Bounced) {
            return true;
        }
        self.config.is_none_or(|config| config == reading.config) && !matches!(self.job, Some((Action::Send, _)))
    }

    /// Is there nothing left to do for the message once it has this status? What is under way ends by itself.
    fn is_done_with(&self, status: Status) -> bool {
        status.is_settled() && matches!(self.job, Some((Action::Send | Action::GiveUp, false)))
    }
}

impl Reported {
    /// The key under which the message is looked for, where it is named by the provider's id alone.
    pub(crate) fn digest(&self, config: ConfigId) -> Option<i64> {
        let id = self.provider_message_id.as_ref().filter(|_| self.message.is_none())?;
        Some(raven_core::lookup::digest(config, id))
    }
}

/// The index entry of a message whose provider's callbacks know no id but their own.
pub(crate) fn provider_key(s: &crate::Settlement) -> Option<ProviderKey> {
    let (config, id) = (s.config?, s.provider_message_id.as_deref()?);
    s.is_found_by_id.then(|| ProviderKey::of(config, id, s.at))
}
