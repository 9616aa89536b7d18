//! A circuit breaker: after so many failures calls stop, and now and then one is let through to see whether that was all.
//!
//! Pure bookkeeping: no clock, no lock.

use std::time::Duration;

use raven_core::Timestamp;

/// Failures in a row that open it.
const IN_A_ROW: u32 = 5;
/// Half of so many outcomes within [`WINDOW`], too.
const OF: u32 = 20;
/// See [`OF`].
const WINDOW: Duration = Duration::from_secs(10);
/// Before the first probe; doubles with each that fails.
const FIRST: Duration = Duration::from_secs(5);
/// Before a probe, at most.
const LONGEST: Duration = Duration::from_secs(60);
/// A probe that tells nothing for so long was never made: a call takes less.
const PROBE: Duration = Duration::from_secs(15);

/// Which calls are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All.
    #[default]
    Closed,
    /// None until then, and one then.
    Open(Timestamp),
    /// The one is under way, since then.
    Probing(Timestamp),
}

/// The breaker of one config.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    phase: Phase,
    /// Failures since the last success.
    row: u32,
    /// When the first failure of the window was.
    since: Timestamp,
    /// Outcomes since then, and those of them that were failures.
    all: u32,
    failed: u32,
    /// How long it stays open next.
    wait: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { phase: Phase::Closed, row: 0, since: Timestamp::from_millis(0), all: 0, failed: 0, wait: FIRST }
    }
}

impl Breaker {
    pub(crate) const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Has nothing gone wrong lately? Then a success need not be told.
    pub(crate) const fn is_calm(&self) -> bool {
        self.is_closed() && self.row == 0 && self.failed == 0
    }

    /// When the next call may be made: `None`, now.
    pub(crate) fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = match self.phase {
            Phase::Closed => return None,
            Phase::Open(until) => until,
            Phase::Probing(since) => since.after(PROBE),
        };
        (at > now).then_some(at)
    }

    /// A call begins; `true` when it is the probe.
    pub(crate) const fn begin(&mut self, now: Timestamp) -> bool {
        let probe = !self.is_closed();
        if probe {
            self.phase = Phase::Probing(now);
        }
        probe
    }

    /// A call ended; `true` when the phase is another one now.
    pub(crate) fn end(&mut self, failed: bool, probe: bool, now: Timestamp) -> bool {
        if probe {
            if failed {
                self.open(now);
            } else {
                *self = Self::default();
            }
            return true;
        }
        // What began before it opened decides nothing any more.
        if !self.is_closed() {
            return false;
        }
        if failed && (self.failed == 0 || now.since(self.since) > WINDOW) {
            (self.since, self.all, self.failed) = (now, 0, 0);
        }
        if self.failed > 0 && now.since(self.since) > WINDOW {
            (self.all, self.failed) = (0, 0);
        }
        if failed || self.failed > 0 {
            self.all += 1;
        }
        self.failed += u32::from(failed);
        self.row = if failed { self.row + 1 } else { 0 };
        if self.row >= IN_A_ROW || (self.all >= OF && self.failed * 2 >= self.all) {
            self.open(now);
            return true;
        }
        false
    }

    fn open(&mut self, now: Timestamp) {
        let wait = self.wait;
        *self = Self { phase: Phase::Open(now.after(wait)), wait: (wait * 2).min(LONGEST), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000).after(Duration::from_millis(ms))
    }

    /// Ends calls one after the other, a millisecond apart.
    fn ends(breaker: &mut Breaker, outcomes: &[bool]) {
        for (n, failed) in outcomes.iter().enumerate() {
            breaker.end(*failed, false, at(n as u64));
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        ends(&mut breaker, &[true, true, true, true, false, true, true, true, true]);
        assert!(breaker.is_closed() && !breaker.is_calm());
        assert!(breaker.end(true, false, at(9)));
        assert_eq!(breaker.opens_at(at(10)), Some(at(5009)));
    }

    #[test]
    fn half_of_twenty_within_ten_seconds_open_it_and_fewer_do_not() {
        let mut breaker = Breaker::default();
        ends(&mut breaker, &[true, false].repeat(9));
        assert!(breaker.is_closed());
        ends(&mut breaker, &[true, true]);
        assert!(!breaker.is_closed());

        let mut breaker = Breaker::default();
        ends(&mut breaker, &[true, false, false].repeat(30));
        assert!(breaker.is_closed());

        // Spread over more than ten seconds they are no sign of anything.
        let mut breaker = Breaker::default();
        for n in 0..100 {
            breaker.end(n % 2 == 0, false, at(n * 1200));
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn one_probe_goes_through_at_a_time_and_the_waits_double() {
        let mut breaker = Breaker::default();
        ends(&mut breaker, &[true; 5]);
        let mut now = at(4);
        for wait in [5, 10, 20, 40, 60, 60] {
            let opens = now.after(Duration::from_secs(wait));
            assert_eq!(breaker.opens_at(now), Some(opens));
            assert_eq!(breaker.opens_at(opens), None);
            assert!(breaker.begin(opens));
            assert!(breaker.opens_at(opens).is_some(), "a second one waits");
            assert!(!breaker.end(false, false, opens), "what began before decides nothing");
            assert!(breaker.end(true, true, opens));
            now = opens;
        }
        let opens = breaker.opens_at(now).unwrap();
        assert!(breaker.begin(opens) && breaker.end(false, true, opens));
        assert!(breaker.is_calm() && !breaker.begin(opens));
        ends(&mut breaker, &[true; 5]);
        assert_eq!(breaker.opens_at(at(4)), Some(at(5004)), "it begins anew");
    }

    #[test]
    fn a_probe_that_was_never_made_is_followed_by_another() {
        let mut breaker = Breaker::default();
        ends(&mut breaker, &[true; 5]);
        let opens = at(5004);
        breaker.begin(opens);
        assert_eq!(breaker.opens_at(opens), Some(opens.after(PROBE)));
        assert!(breaker.begin(opens.after(PROBE)));
    }
}
