//! What tenants used: accepted messages and what became of them by day, and the daily quota.

use std::{collections::BTreeMap, ops::RangeInclusive};

use async_trait::async_trait;
use raven_core::{Channel, Day, Environment, KeyId, Status, TenantId};

use crate::Result;

/// Messages that were accepted on a day, those to suppressed recipients included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcceptedCount {
    /// The day of acceptance.
    pub day: Day,
    /// The channel.
    pub channel: Channel,
    /// By this key; `None`: by humans, and keys that acted as one.
    pub key: Option<KeyId>,
    /// How many.
    pub messages: i64,
}

/// Messages accepted on a day that reached a status since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutcomeCount {
    /// The day of acceptance.
    pub day: Day,
    /// The channel.
    pub channel: Channel,
    /// The status.
    pub status: Status,
    /// How many.
    pub messages: i64,
}

/// What a tenant used in a range of days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By day, channel and key.
    pub accepted: Vec<AcceptedCount>,
    /// By day, channel and status. A message counts for each status that it rose to; `queued` and `sending` are not counted.
    pub outcomes: Vec<OutcomeCount>,
}

/// Adds up rows of counters that differ in what is not asked for.
#[derive(Default)]
pub(crate) struct Sums {
    accepted: BTreeMap<(Day, Channel, Option<KeyId>), i64>,
    outcomes: BTreeMap<(Day, Channel, Status), i64>,
}

impl Sums {
    /// Adds accepted messages, and that some of them were suppressed then: that is their outcome, and not counted as such again.
    pub(crate) fn accept(&mut self, day: Day, channel: Channel, key: Option<KeyId>, messages: i64, suppressed: i64) {
        *self.accepted.entry((day, channel, key)).or_default() += messages;
        if suppressed > 0 {
            self.reach(day, channel, Status::Suppressed, suppressed);
        }
    }

    /// Adds messages that reached a status.
    pub(crate) fn reach(&mut self, day: Day, channel: Channel, status: Status, messages: i64) {
        *self.outcomes.entry((day, channel, status)).or_default() += messages;
    }

    /// The sums, sorted.
    pub(crate) fn usage(self) -> Usage {
        Usage {
            accepted: self
                .accepted
                .into_iter()
                .map(|((day, channel, key), messages)| AcceptedCount { day, channel, key, messages })
                .collect(),
            outcomes: self
                .outcomes
                .into_iter()
                .map(|((day, channel, status), messages)| OutcomeCount { day, channel, status, messages })
                .collect(),
        }
    }
}

/// Verbs about usage.
#[async_trait]
pub trait Usages: Send + Sync {
    /// What the tenant used on these days in one environment, or in both together; sorted.
    async fn usage(&self, tenant: TenantId, environment: Option<Environment>, days: RangeInclusive<Day>) -> Result<Usage>;

    /// Live messages of the day that count against the tenant's quota.
    async fn quota_used(&self, tenant: TenantId, day: Day) -> Result<i64>;

    /// Forgets the quota counters of days before `day` and rate-limit buckets that are full again since before that day;
    /// at most `limit` rows of each. The number forgotten.
    async fn purge_counters(&self, day: Day, limit: usize) -> Result<usize>;
}
