//! The gate before one provider config in this process: its circuit breaker, its pace, how many calls it takes at a time, and
//! whether it is paused. It outlives what the directory knows of the config, and whoever has it sees the same.
//!
//! While nothing restricts a config, passing its gate and telling a success are a look at two atomics: no lock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use raven_core::Timestamp;
use raven_providers::{Class, SendError, Sent};
use raven_store::Routing;
use tokio::time::Instant;

use crate::breaker::Breaker;

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;
/// Nanoseconds of what clocks tell.
const TICK: i64 = 1_000_000;

/// How long calls grow in number after a breaker closed, until there is no limit but the config's own.
const RECOVERY: Duration = Duration::from_secs(60);
/// Calls a second at its beginning; twice as many after each [`DOUBLES`].
const RECOVERY_RATE: i64 = 2;
const DOUBLES: Duration = Duration::from_secs(5);

/// After a breaker closed: what waited does not fall upon the provider all at once.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    since: Timestamp,
    /// When the next call may be made, in nanoseconds.
    next: i64,
}

impl Recovery {
    fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.is_over(now) && self.next > nanos(now)).then(|| Timestamp::from_millis(self.next.saturating_add(TICK - 1) / TICK))
    }

    fn begin(&mut self, now: Timestamp) {
        let doubled = now.since(self.since).as_millis() / DOUBLES.as_millis();
        let rate = RECOVERY_RATE << u32::try_from(doubled).unwrap_or(0).min(20);
        // What was not used is not saved up, but for what belongs to a millisecond.
        self.next = self.next.max(nanos(now) - TICK) + SECOND / rate;
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.since) >= RECOVERY
    }
}

/// GCRA: a full bucket may be emptied at once, and fills evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// Nanoseconds between two calls.
    interval: i64,
    /// Calls at once after a rest.
    burst: i64,
    /// The theoretical arrival time of the next call, in nanoseconds.
    tat: i64,
}

impl Pace {
    /// This process's share, of so many that call.
    fn of(routing: &Routing, nodes: usize) -> Option<Self> {
        let rate = i64::from(routing.rate_per_second?).max(1);
        let nodes = i64::try_from(nodes).unwrap_or(1).max(1);
        let burst = i64::from(routing.burst.or(routing.rate_per_second)?);
        let interval = (SECOND * nodes / rate).max(1);
        // Clocks tell milliseconds: what belongs to one of them may be made at once, or the pace would never be reached.
        let least = (TICK + interval - 1) / interval;
        Some(Self { interval, burst: (burst / nodes).max(least), tat: 0 })
    }

    /// When the next call may be made: `None`, now.
    fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let window = self.interval.saturating_mul(self.burst);
        let now = nanos(now);
        // Further ahead than an empty bucket explains: the clock went back, or the pace became faster.
        let wait = self.tat.clamp(now, now.saturating_add(window)) + self.interval - window - now;
        (wait > 0).then(|| Timestamp::from_millis((now + wait).saturating_add(999_999) / 1_000_000))
    }

    fn begin(&mut self, now: Timestamp) {
        let now = nanos(now);
        self.tat = self.tat.clamp(now, now.saturating_add(self.interval.saturating_mul(self.burst))) + self.interval;
    }
}

const fn nanos(at: Timestamp) -> i64 {
    at.millis().saturating_mul(1_000_000)
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    pace: Option<Pace>,
    recovery: Option<Recovery>,
    routing: Routing,
    nodes: usize,
    /// Verdicts on its credentials that are being written down, and when the last one was.
    telling: usize,
    told: Option<Instant>,
}

/// What an outcome says of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It works, whatever it says of the message.
    Good,
    /// It doesn't, or not for us.
    Bad,
    /// Nothing: the trouble was ours.
    None,
}

impl Sign {
    fn of(ended: &Result<Sent, SendError>) -> Self {
        match ended {
            Ok(_) => Self::Good,
            Err(e) if e.code == OURS || e.code == "internal" => Self::None,
            Err(e) => match e.class {
                Class::Rejected | Class::Credentials => Self::Good,
                Class::Retry { .. } | Class::RateLimited { .. } | Class::Unknown => Self::Bad,
            },
        }
    }
}

/// The code of an attempt that never came to the provider because our own database was away.
pub(crate) const OURS: &str = "unavailable";

/// What may have changed for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Calls stop.
    Opened,
    /// Calls go on.
    Closed,
}

/// Whether a config lets calls through.
pub struct Gate {
    state: Mutex<State>,
    /// Is there a pace, or is the breaker not closed?
    guarded: AtomicBool,
    /// Has nothing gone wrong lately?
    calm: AtomicBool,
    /// Is the breaker not closed?
    open: AtomicBool,
    paused: AtomicBool,
    /// 0: none of its own.
    concurrency: AtomicUsize,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("state", &*self.state.lock()).field("paused", &self.is_paused()).finish_non_exhaustive()
    }
}

/// A verdict on a config's credentials, until it is written down.
pub struct Telling(Arc<Gate>);

impl Drop for Telling {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.telling -= 1;
        state.told = Some(Instant::now());
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                breaker: Breaker::default(),
                pace: None,
                recovery: None,
                routing: Routing::default(),
                nodes: 1,
                telling: 0,
                told: None,
            }),
            guarded: AtomicBool::new(false),
            calm: AtomicBool::new(true),
            open: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            concurrency: AtomicUsize::new(0),
        }
    }
}

impl Gate {
    /// Sets pace and concurrency, of a process among so many that call.
    pub fn set(&self, routing: &Routing, nodes: usize) {
        let concurrency = routing.concurrency.map_or(0, |n| usize::try_from(n).unwrap_or(0).max(1));
        self.concurrency.store(concurrency, Ordering::Relaxed);
        let mut state = self.state.lock();
        let pace = Pace::of(routing, nodes);
        if pace.map(|p| (p.interval, p.burst)) != state.pace.map(|p| (p.interval, p.burst)) {
            let tat = state.pace.map_or(0, |p| p.tat);
            state.pace = pace.map(|pace| Pace { tat, ..pace });
        }
        (state.routing, state.nodes) = (routing.clone(), nodes);
        self.publish(&state);
    }

    /// Tells how many processes call.
    pub fn set_nodes(&self, nodes: usize) {
        let routing = {
            let state = self.state.lock();
            if state.nodes == nodes {
                return;
            }
            state.routing.clone()
        };
        self.set(&routing, nodes);
    }

    /// Calls at a time, at most, where the config says so itself.
    #[must_use]
    pub fn concurrency(&self) -> Option<usize> {
        let most = self.concurrency.load(Ordering::Relaxed);
        (most > 0).then_some(most)
    }

    /// Do its credentials not work?
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Pauses it, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Does as the config says that was read from this moment on. A verdict that was not written down by then knows better.
    pub fn follow(&self, paused: bool, began: Instant) {
        let state = self.state.lock();
        if state.telling == 0 && state.told.is_none_or(|told| told <= began) {
            self.pause(paused);
        }
    }

    /// A verdict on its credentials is going to be written down; it is when the telling is dropped.
    #[must_use]
    pub fn tell(self: &Arc<Self>) -> Telling {
        self.state.lock().telling += 1;
        Telling(self.clone())
    }

    /// Is its breaker open, and no probe due? Or is it only just closed, and takes no more at this moment: what finds another config
    /// needs not wait for that.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        if !self.guarded.load(Ordering::Relaxed) {
            return false;
        }
        let state = self.state.lock();
        state.breaker.opens_at(now).is_some() || state.recovery.is_some_and(|recovery| recovery.opens_at(now).is_some())
    }

    /// Is there a pace, or was there trouble lately?
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded.load(Ordering::Relaxed)
    }

    /// Should what waits here look for another config?
    #[must_use]
    pub fn turns_away(&self) -> bool {
        self.open.load(Ordering::Relaxed) || self.is_paused()
    }

    /// When the next call may be made: `None`, now. A paused config lets nothing through until that changes.
    #[must_use]
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_paused() {
            return Some(Timestamp::from_millis(i64::MAX));
        }
        if !self.guarded.load(Ordering::Relaxed) {
            return None;
        }
        let state = self.state.lock();
        let breaker = state.breaker.opens_at(now);
        let recovery = state.recovery.as_ref().and_then(|recovery| recovery.opens_at(now));
        breaker.max(recovery).max(state.pace.as_ref().and_then(|pace| pace.opens_at(now)))
    }

    /// When the pace lets the next call through, and when the breaker does: for those who want to know why something waits.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let state = self.state.lock();
        let recovery = state.recovery.as_ref().and_then(|recovery| recovery.opens_at(now));
        (state.pace.as_ref().and_then(|pace| pace.opens_at(now)), state.breaker.opens_at(now).max(recovery))
    }

    /// A call begins; `true` when it is a probe. The caller has seen that it may be made.
    pub fn begin(&self, now: Timestamp) -> bool {
        if !self.guarded.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state.lock();
        if let Some(pace) = &mut state.pace {
            pace.begin(now);
        }
        if state.recovery.is_some_and(|recovery| recovery.is_over(now)) {
            state.recovery = None;
            self.publish(&state);
        } else if let Some(recovery) = &mut state.recovery {
            recovery.begin(now);
        }
        state.breaker.begin(now)
    }

    /// A call ended.
    pub fn end(&self, ended: &Result<Sent, SendError>, probe: bool, now: Timestamp) -> Option<Turn> {
        let sign = Sign::of(ended);
        if sign == Sign::None || (sign == Sign::Good && !probe && self.calm.load(Ordering::Relaxed)) {
            return None;
        }
        let mut state = self.state.lock();
        let turned = state.breaker.end(sign == Sign::Bad, probe, now);
        if turned {
            state.recovery = state.breaker.is_closed().then(|| Recovery { since: now, next: nanos(now) });
        }
        self.publish(&state);
        turned.then(|| if state.breaker.is_closed() { Turn::Closed } else { Turn::Opened })
    }

    /// Tells what can be known without the lock.
    fn publish(&self, state: &State) {
        let closed = state.breaker.is_closed();
        self.open.store(!closed, Ordering::Relaxed);
        self.calm.store(state.breaker.is_calm(), Ordering::Relaxed);
        self.guarded.store(!closed || state.pace.is_some() || state.recovery.is_some(), Ordering::Relaxed);
    }

    /// Is there nothing about it that the config itself doesn't say?
    pub(crate) fn is_plain(&self) -> bool {
        let state = self.state.lock();
        state.breaker.is_calm() && state.pace.is_none() && state.recovery.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).after(Duration::from_millis(ms))
    }

    fn paced(rate: i32, burst: Option<i32>) -> Routing {
        Routing { rate_per_second: Some(rate), burst, ..Routing::default() }
    }

    /// Calls in this many milliseconds, each made as soon as it may be.
    fn calls(gate: &Gate, from: u64, lasts: u64) -> u64 {
        let mut made = 0;
        for ms in from..from + lasts {
            while gate.opens_at(at(ms)).is_none() {
                gate.begin(at(ms));
                made += 1;
            }
        }
        made
    }

    #[test]
    fn a_pace_is_kept_exactly_over_a_minute() {
        for (rate, burst, first) in [(1, None, 1), (7, Some(3), 3), (100, None, 100), (10_000, Some(1), 10)] {
            let gate = Gate::default();
            gate.set(&paced(rate, burst), 1);
            let made = calls(&gate, 0, 60_000);
            // The last look is a millisecond before the minute's end.
            assert_eq!(made, first + u64::from(rate.unsigned_abs()) * 59_999 / 1000, "{rate}");
        }
    }

    #[test]
    fn processes_share_a_pace_and_a_change_of_it_forgets_no_calls() {
        let gate = Gate::default();
        gate.set(&paced(100, None), 1);
        assert_eq!(calls(&gate, 0, 1), 100);
        gate.set_nodes(4);
        assert_eq!(calls(&gate, 1, 1), 0);
        let made = calls(&gate, 60_000, 60_000);
        assert!((25 * 60 + 24..=25 * 60 + 25).contains(&made), "{made}");
        gate.set(&Routing::default(), 4);
        assert_eq!(gate.opens_at(at(120_000)), None);
        assert!(gate.is_plain());
    }

    #[test]
    fn the_wait_is_told_to_the_millisecond() {
        let gate = Gate::default();
        gate.set(&paced(3, Some(1)), 1);
        gate.begin(at(0));
        assert_eq!(gate.opens_at(at(0)), Some(at(334)));
        assert_eq!(gate.opens_at(at(334)), None);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let gate = Gate::default();
        gate.set(&paced(1, None), 1);
        gate.begin(at(3_600_000));
        assert!(gate.opens_at(at(0)).is_some_and(|opens| opens <= at(1000)));
    }

    #[test]
    fn only_what_says_something_of_the_provider_counts() {
        let gate = Gate::default();
        let end = |class, code: &str| Err(SendError::new(class, code, ""));
        for _ in 0..20 {
            assert_eq!(gate.end(&end(Class::Rejected, "invalid"), false, at(0)), None);
            assert_eq!(gate.end(&end(Class::Retry { after: None }, OURS), false, at(0)), None);
            assert_eq!(gate.end(&end(Class::Unknown, "internal"), false, at(0)), None);
        }
        let bad = [Class::Unknown, Class::Retry { after: None }, Class::RateLimited { after: None }, Class::Unknown];
        for class in bad {
            assert_eq!(gate.end(&end(class, "no"), false, at(0)), None);
        }
        assert_eq!(gate.end(&end(Class::Unknown, "no"), false, at(0)), Some(Turn::Opened));
        assert!(gate.turns_away() && gate.is_open(at(4999)) && !gate.is_open(at(5000)));
        assert!(gate.begin(at(5000)));
        assert_eq!(gate.end(&Ok(Sent::default()), true, at(5001)), Some(Turn::Closed));
        assert!(!gate.turns_away() && gate.opens_at(at(5001)).is_none());
    }

    #[test]
    fn what_waited_for_a_breaker_comes_little_by_little() {
        let gate = Gate::default();
        let down = Err(SendError::new(Class::Unknown, "no", ""));
        for _ in 0..5 {
            gate.end(&down, false, at(0));
        }
        assert!(gate.begin(at(5000)));
        gate.end(&Ok(Sent::default()), true, at(5000));
        let each: Vec<u64> = (0..6).map(|n| calls(&gate, 5000 + n * 5000, 5000)).collect();
        for (n, made) in (0..).zip(&each) {
            let even = 10 << n;
            assert!((even..=even + even / 10 + 1).contains(made), "{each:?}");
        }
        assert_eq!(gate.opens_at(at(65_000)), None);
        gate.begin(at(65_000));
        assert!(gate.is_plain());
    }

    #[test]
    fn what_has_just_recovered_counts_as_open_until_it_takes_the_next_call() {
        let gate = Gate::default();
        for _ in 0..5 {
            gate.end(&Err(SendError::new(Class::Unknown, "no", "")), false, at(0));
        }
        assert!(gate.begin(at(5000)));
        gate.end(&Ok(Sent::default()), true, at(5000));
        assert!(!gate.is_open(at(5000)), "the first one");
        gate.begin(at(5000));
        assert!(gate.is_open(at(5001)) && gate.is_open(at(5490)) && !gate.is_open(at(5500)), "two a second");
        assert!(!gate.is_open(at(65_000)));
        // A pace alone sends nobody elsewhere.
        let paced_only = Gate::default();
        paced_only.set(&paced(1, Some(1)), 1);
        paced_only.begin(at(0));
        assert!(!paced_only.is_open(at(1)) && paced_only.opens_at(at(1)).is_some());
    }

    #[test]
    fn a_paused_config_lets_nothing_through() {
        let gate = Gate::default();
        gate.pause(true);
        assert!(gate.turns_away() && gate.opens_at(at(0)).is_some());
        gate.pause(false);
        assert_eq!((gate.turns_away(), gate.opens_at(at(0))), (false, None));
    }
}
