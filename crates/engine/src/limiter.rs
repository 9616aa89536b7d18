//! Rate limits: GCRA, so a full bucket may be emptied at once and then fills evenly, and there is no window at whose edge
//! the limit would be doubled.
//!
//! A process alone decides in memory. Where others serve from the same database, a bucket's tokens are taken from there in
//! slices of a hundredth of the limit and spent in memory, so what nodes hold beyond the limit stays below a few hundredths
//! of it, and most decisions cost no round trip.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use raven_core::{Clock, Timestamp};
use raven_store::{Store, TakeTokens, Taken};
use uuid::Uuid;

/// Nanoseconds of a minute.
const MINUTE: i64 = 60_000_000_000;
/// A slice is this part of the limit.
const SLICES: i64 = 100;
/// Buckets remembered at most.
const CAPACITY: u64 = 100_000;
/// Buckets for addresses.
const ADDRESSES: u64 = 16 * 1024;
/// A bucket that rested for so long is full, so it need not be remembered.
const IDLE: Duration = Duration::from_secs(120);
/// Wrong credentials that one address may send in a minute before it is told to wait.
pub const FAILURES_PER_MINUTE: u32 = 300;

/// A limit: so many requests a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    /// Nanoseconds in which one token comes back.
    interval: i64,
    /// Tokens of a full bucket.
    burst: i64,
}

impl Rate {
    fn per_minute(rpm: u32) -> Self {
        let burst = i64::from(rpm.max(1));
        Self { interval: (MINUTE / burst).max(1), burst }
    }

    /// Nanoseconds in which an empty bucket fills.
    const fn window(self) -> i64 {
        self.interval * self.burst
    }

    fn standing(self, tat: i64, tokens: i64, now: i64, wait: Option<i64>) -> Standing {
        let debt = (tat - now).clamp(0, self.window());
        let remaining = (tokens + (self.window() - debt) / self.interval).clamp(0, self.burst);
        Standing {
            limit: saturate(self.burst),
            remaining: if wait.is_some() { 0 } else { saturate(remaining) },
            reset: seconds(debt),
            retry_after: wait.map(|wait| seconds(wait).max(1)),
        }
    }
}

fn saturate(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

fn seconds(nanos: i64) -> u32 {
    saturate(nanos.max(0).saturating_add(999_999_999) / 1_000_000_000)
}

fn nanos(at: Timestamp) -> i64 {
    at.millis().saturating_mul(1_000_000)
}

/// Where a caller stands after a request was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute.
    pub limit: u32,
    /// Requests that could follow at once.
    pub remaining: u32,
    /// Seconds until the bucket is full again.
    pub reset: u32,
    /// Set when the request is refused: seconds until one would not be.
    pub retry_after: Option<u32>,
}

impl Standing {
    /// May the request go on?
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        self.retry_after.is_none()
    }
}

/// The tokens of one key, tenant or human.
#[derive(Debug)]
pub struct Bucket {
    id: Uuid,
    /// GCRA's theoretical arrival time in nanoseconds: here in memory, or the database's as far as this process knows it.
    tat: AtomicI64,
    /// Tokens taken from the database and not spent yet.
    tokens: AtomicI64,
    /// The limit that the tokens were taken under.
    rpm: AtomicU32,
    /// One at a time takes tokens.
    taking: tokio::sync::Mutex<()>,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self { id, tat: AtomicI64::new(0), tokens: AtomicI64::new(0), rpm: AtomicU32::new(0), taking: tokio::sync::Mutex::new(()) }
    }

    /// Counts a request in memory alone.
    fn count(&self, rate: Rate, now: i64) -> Standing {
        count(&self.tat, rate, now)
    }

    /// Spends a token that was taken before; how many are left then.
    fn spend(&self) -> Option<i64> {
        let spent = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n > 0).then_some(n - 1));
        spent.ok().map(|before| before - 1)
    }
}

/// Counts a request in a bucket of which this is the theoretical arrival time.
fn count(bucket: &AtomicI64, rate: Rate, now: i64) -> Standing {
    let full = now.saturating_add(rate.window());
    loop {
        let tat = bucket.load(Ordering::Relaxed);
        // Further ahead than a full bucket explains: the clock went back, or the limit became smaller.
        let base = tat.clamp(now, full);
        let next = base + rate.interval;
        if next > full {
            if base < tat {
                // From here on the bucket fills by the clock as it is now.
                let _ = bucket.compare_exchange(tat, base, Ordering::Relaxed, Ordering::Relaxed);
            }
            return rate.standing(base, 0, now, Some(next - full));
        }
        if bucket.compare_exchange_weak(tat, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return rate.standing(next, 0, now, None);
        }
    }
}

/// Decides.
pub struct Limiter {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    shared: bool,
    buckets: Cache<Uuid, Arc<Bucket>>,
    /// Buckets of addresses that sent wrong credentials, each found by a hash that nobody outside can compute. Addresses that
    /// share one share its tokens, so a flood from a million addresses costs no memory, and is stopped the sooner.
    addresses: Box<[AtomicI64]>,
    hasher: RandomState,
}

/// Who counts as one address: a whole /64 of IPv6, since one machine has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Address(u64, u32);

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(0, u32::from(ip)),
            IpAddr::V6(ip) => Self((u128::from(ip) >> 64) as u64, 0),
        }
    }
}

async fn remembered(cache: &Cache<Uuid, Arc<Bucket>>, id: Uuid) -> Arc<Bucket> {
    match cache.get(&id).await {
        Some(bucket) => bucket,
        None => cache.get_with(id, async { Arc::new(Bucket::new(id)) }).await,
    }
}

impl Limiter {
    /// A limiter over the store's buckets.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let shared = store.is_shared();
        let buckets = Cache::builder().max_capacity(CAPACITY).time_to_idle(IDLE).build();
        let addresses = (0..ADDRESSES).map(|_| AtomicI64::new(0)).collect();
        Self { store, clock, shared, buckets, addresses, hasher: RandomState::new() }
    }

    /// Counts a request of a tenant (its admin endpoints as a whole) or a human.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn count(&self, id: Uuid, rpm: u32) -> raven_store::Result<Standing> {
        let bucket = remembered(&self.buckets, id).await;
        self.count_in(&bucket, rpm).await
    }

    /// Counts a request in a bucket at hand.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn count_in(&self, bucket: &Arc<Bucket>, rpm: u32) -> raven_store::Result<Standing> {
        let (rate, now) = (Rate::per_minute(rpm), nanos(self.clock.now()));
        if !self.shared {
            return Ok(bucket.count(rate, now));
        }
        if bucket.rpm.load(Ordering::Relaxed) != rpm && bucket.rpm.swap(rpm, Ordering::Relaxed) != rpm {
            // Tokens of another limit: a slice of it may be more than the whole new one.
            bucket.tokens.store(0, Ordering::Relaxed);
            bucket.tat.store(0, Ordering::Relaxed);
        }
        if let Some(left) = bucket.spend() {
            return Ok(rate.standing(bucket.tat.load(Ordering::Relaxed), left, now, None));
        }
        let _turn = bucket.taking.lock().await;
        if let Some(left) = bucket.spend() {
            return Ok(rate.standing(bucket.tat.load(Ordering::Relaxed), left, now, None));
        }
        // Nobody else can have put tokens back, so until one has come back by itself there is no need to ask.
        // (A time further ahead than a full bucket explains is of a clock that went back since: the database puts it right.)
        let (known, full) = (bucket.tat.load(Ordering::Relaxed), now.saturating_add(rate.window()));
        let wait = known.saturating_add(rate.interval) - full;
        if wait > 0 && known <= full {
            return Ok(rate.standing(known, 0, now, Some(wait)));
        }
        let Taken { granted, tat } = take(&*self.store, bucket, rate, (rate.burst / SLICES).max(1), now).await?;
        bucket.tat.store(tat, Ordering::Relaxed);
        if granted < 1 {
            return Ok(rate.standing(tat, 0, now, Some(tat + rate.interval - now - rate.window())));
        }
        bucket.tokens.fetch_add(granted - 1, Ordering::Relaxed);
        Ok(rate.standing(tat, granted - 1, now, None))
    }

    /// Counts wrong credentials from an address.
    #[must_use]
    pub fn count_failure(&self, from: IpAddr) -> Standing {
        let at = usize::try_from(self.hasher.hash_one(Address::from(from)) % ADDRESSES).unwrap_or_default();
        count(&self.addresses[at], Rate::per_minute(FAILURES_PER_MINUTE), nanos(self.clock.now()))
    }
}

async fn take(store: &dyn Store, bucket: &Bucket, rate: Rate, want: i64, now: i64) -> raven_store::Result<Taken> {
    let Rate { interval, burst } = rate;
    store.take_tokens(TakeTokens { bucket: bucket.id, want, interval, burst, now }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn allowed(bucket: &Bucket, rpm: u32, now: i64, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(bucket.count(Rate::per_minute(rpm), now).is_allowed())).sum()
    }

    #[test]
    fn the_burst_is_the_limit_and_it_refills_evenly() {
        let bucket = Bucket::new(Uuid::nil());
        let start = 1_000_000 * SECOND;
        assert_eq!(allowed(&bucket, 60, start, 100), 60);
        assert_eq!(allowed(&bucket, 60, start + SECOND - 1, 5), 0);
        assert_eq!(allowed(&bucket, 60, start + SECOND, 5), 1);
        // No window's edge: after half a minute half of it is back, and no more.
        assert_eq!(allowed(&bucket, 60, start + 31 * SECOND, 100), 30);
        assert_eq!(allowed(&bucket, 60, start + 1000 * SECOND, 100), 60);
    }

    #[test]
    fn a_caller_is_told_where_it_stands() {
        let (bucket, now) = (Bucket::new(Uuid::nil()), 5 * SECOND);
        let rate = Rate::per_minute(2);
        assert_eq!(bucket.count(rate, now), Standing { limit: 2, remaining: 1, reset: 30, retry_after: None });
        assert_eq!(bucket.count(rate, now), Standing { limit: 2, remaining: 0, reset: 60, retry_after: None });
        assert_eq!(bucket.count(rate, now), Standing { limit: 2, remaining: 0, reset: 60, retry_after: Some(30) });
        assert_eq!(bucket.count(rate, now + 30 * SECOND).retry_after, None);
    }

    #[test]
    fn every_rate_from_one_to_a_hundred_million_holds() {
        for rpm in [1, 7, 59, 1000, 999_999, 100_000_000] {
            let bucket = Bucket::new(Uuid::nil());
            let rate = Rate::per_minute(rpm);
            let start = 1_800_000_000 * SECOND;
            // Empty it in one step, then see what a minute brings back.
            bucket.tat.store(start + rate.window(), Ordering::Relaxed);
            assert!(!bucket.count(rate, start).is_allowed(), "{rpm}");
            let standing = bucket.count(rate, start + MINUTE + i64::from(rpm));
            assert!(standing.is_allowed() && standing.limit == rpm && standing.remaining + 1 >= rpm, "{rpm}: {standing:?}");
        }
    }

    #[test]
    fn a_clock_set_back_does_not_lock_anybody_out_for_longer_than_the_window() {
        let bucket = Bucket::new(Uuid::nil());
        let late = 1_000_000 * SECOND;
        assert_eq!(allowed(&bucket, 60, late, 100), 60);
        let early = late - 3600 * SECOND;
        let standing = bucket.count(Rate::per_minute(60), early);
        assert_eq!((standing.is_allowed(), standing.retry_after), (false, Some(1)));
        assert_eq!(allowed(&bucket, 60, early + 2 * SECOND, 100), 2);
    }

    #[test]
    fn one_machine_is_one_address() {
        let of = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
