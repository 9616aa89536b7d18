//! Rate limits that hold across nodes: each node takes tokens of a bucket in slices, and spends them in memory.

use async_trait::async_trait;
use uuid::Uuid;

use crate::Result;

/// A bucket of a rate limit (GCRA), as the store sees it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeTokens {
    /// Whose: the id of a key, a tenant or a user.
    pub bucket: Uuid,
    /// Tokens wanted.
    pub want: i64,
    /// Nanoseconds in which one token comes back.
    pub interval: i64,
    /// Tokens of a full bucket.
    pub burst: i64,
    /// Now, in nanoseconds since 1970.
    pub now: i64,
}

/// Tokens that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many: 0 to as many as wanted.
    pub granted: i64,
    /// When the bucket is full again, in nanoseconds since 1970 (the "theoretical arrival time" of GCRA). Never less than
    /// the time of the request.
    pub tat: i64,
}

/// Verbs about rate limits.
#[async_trait]
pub trait Limits: Send + Sync {
    /// Takes as many of the wanted tokens as there are: `min(want, burst - (max(tat, now) - now) / interval)`, rounded
    /// down, and moves the bucket's `tat` by `interval` for each. A `tat` further ahead than a full bucket explains (the
    /// clock went back, or the limit became smaller) counts as an empty bucket.
    async fn take_tokens(&self, request: TakeTokens) -> Result<Taken>;
}
