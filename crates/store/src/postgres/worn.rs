//! Where claims begin to look. A job that is claimed leaves its entry in the indexes of waiting jobs behind, and while a snapshot is
//! held open that may see it (a dump, a long report, a forgotten transaction) PostgreSQL can't remove it: each look at a lane goes
//! over all that was claimed of it since. So once looks take long, claims begin in the lanes that they drain where the last one ended.
//!
//! What becomes due before that place would stay unseen, so what is due lately is always looked at, now and then everything is, and
//! whoever puts jobs back says so.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use raven_core::Timestamp;
use tokio::time::Instant;

use crate::Lane;

/// A look at everything that takes longer than this has gone over many entries of jobs that are gone.
const SLOW: Duration = Duration::from_millis(4);
/// How often everything is looked at at most, how much of the time that may take, as one part of so many, and how often at least.
const AGAIN: Duration = Duration::from_secs(1);
const PART: u32 = 20;
const SELDOM: Duration = Duration::from_secs(30);
/// What became due within this time is looked at always: acceptance takes a moment to commit, and clocks differ by a little.
const LATELY: Duration = Duration::from_secs(1);
/// Jobs claimed of a lane before it is remembered, and lanes that are.
const MANY: usize = 512;
const LANES: usize = 32;
/// Lanes whose jobs are counted.
const COUNTED: usize = 1024;

/// Where a claim begins to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beginnings {
    /// At the very beginning of everything.
    pub(super) whole: bool,
    /// No waiting job is due before this, or else it is seen when everything is looked at.
    pub(super) first: i64,
    /// The same of lanes, in order.
    pub(super) lanes: Vec<(Lane, i64)>,
}

impl Beginnings {
    /// The beginning of a lane.
    pub(super) fn of(&self, lane: Lane) -> i64 {
        self.lanes.iter().find(|(known, _)| *known == lane).map_or(i64::MIN, |(_, due)| *due)
    }
}

struct Drained {
    jobs: usize,
    /// When the last job that was claimed was due.
    due: i64,
}

/// Looks take long.
struct Slow {
    /// When everything was looked at; `None`: it is to be looked at now.
    at: Option<Instant>,
    lasted: Duration,
    /// When the first waiting job was due.
    first: i64,
}

#[derive(Default)]
struct State {
    slow: Option<Slow>,
    drained: HashMap<Lane, Drained>,
}

/// What claims know of each other.
pub(super) struct Worn {
    slow_after: Duration,
    state: Mutex<State>,
}

impl Default for Worn {
    fn default() -> Self {
        Self { slow_after: SLOW, state: Mutex::default() }
    }
}

impl Worn {
    /// One to which every look is a slow one.
    #[cfg(any(test, feature = "conformance"))]
    pub(super) fn from_the_first() -> Self {
        Self { slow_after: Duration::ZERO, ..Self::default() }
    }

    /// Where a claim begins.
    pub(super) fn beginnings(&self, now: Timestamp) -> Beginnings {
        let state = self.state.lock();
        let whole = Beginnings { whole: true, first: i64::MIN, lanes: Vec::new() };
        let Some(slow) = &state.slow else { return whole };
        if slow.at.is_none_or(|at| at.elapsed() >= (slow.lasted * PART).clamp(AGAIN, SELDOM)) {
            return whole;
        }
        let lately = now.before(LATELY).millis();
        let mut worn: Vec<(&Lane, &Drained)> = state.drained.iter().filter(|(_, drained)| drained.jobs >= MANY).collect();
        worn.sort_unstable_by_key(|(_, drained)| std::cmp::Reverse(drained.jobs));
        let mut lanes: Vec<(Lane, i64)> = worn.into_iter().take(LANES).map(|(lane, drained)| (*lane, drained.due.min(lately))).collect();
        lanes.sort_unstable();
        Beginnings { whole: false, first: slow.first.min(lately), lanes }
    }

    /// Takes note of a look: when the first waiting job is due, if there is one, and how long it took to find what is due.
    pub(super) fn looked(&self, from: &Beginnings, first: Option<i64>, lasted: Duration) {
        let mut state = self.state.lock();
        let first = first.unwrap_or(i64::MAX);
        if !from.whole {
            if let Some(slow) = &mut state.slow {
                slow.first = first;
            }
        } else if lasted >= self.slow_after {
            state.slow = Some(Slow { at: Some(Instant::now()), lasted, first });
        } else {
            *state = State::default();
        }
    }

    /// A look failed after so long: if that was because everything was to be looked at, the next ones go on where they were.
    pub(super) fn failed(&self, from: &Beginnings, lasted: Duration) {
        if let (true, Some(slow)) = (from.whole, &mut self.state.lock().slow) {
            (slow.at, slow.lasted) = (Some(Instant::now()), lasted);
        }
    }

    /// Takes note of the jobs that were claimed, in their lanes' order, and when they were due.
    pub(super) fn took(&self, jobs: impl Iterator<Item = (Lane, i64)>) {
        let mut state = self.state.lock();
        if state.slow.is_none() {
            return;
        }
        for (lane, due) in jobs {
            let drained = state.drained.entry(lane).or_insert(Drained { jobs: 0, due });
            (drained.jobs, drained.due) = (drained.jobs + 1, due);
        }
        if state.drained.len() > COUNTED {
            state.drained.retain(|_, drained| drained.jobs >= MANY);
        }
    }

    /// Jobs were put back: everything is to be looked at.
    pub(super) fn forget(&self) {
        if let Some(slow) = &mut self.state.lock().slow {
            slow.at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use raven_core::{Channel, Environment, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::{Outlet, Urgency};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn lane(n: u128) -> Lane {
        Lane {
            tenant: TenantId(Uuid::from_u128(n)),
            environment: Environment::Live,
            channel: Channel::Sms,
            urgency: Urgency::Transactional,
            outlet: Outlet::NONE,
        }
    }

    /// A claim that takes jobs of a lane, due at these times.
    fn claim(worn: &Worn, n: u128, due: std::ops::Range<i64>, lasted: Duration) -> Beginnings {
        let from = worn.beginnings(NOW);
        worn.looked(&from, Some(due.start), lasted);
        worn.took(due.map(|due| (lane(n), due)));
        from
    }

    #[tokio::test(start_paused = true)]
    async fn claims_begin_where_the_last_one_ended_once_looks_take_long() {
        let worn = Worn::default();
        for _ in 0..3 {
            assert!(claim(&worn, 1, 0..1000, SLOW / 2).whole);
        }
        assert!(claim(&worn, 1, 0..400, SLOW).whole);
        let known = |first, lanes| Beginnings { whole: false, first, lanes };
        assert_eq!(claim(&worn, 1, 400..600, SLOW), known(0, vec![]), "not worth it yet");
        assert_eq!(claim(&worn, 1, 600..700, SLOW), known(400, vec![(lane(1), 599)]));
        let from = claim(&worn, 2, 5..10, SLOW);
        assert_eq!(from, known(600, vec![(lane(1), 699)]));
        assert_eq!((from.of(lane(1)), from.of(lane(2))), (699, i64::MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_lately_is_always_looked_at() {
        let worn = Worn::default();
        claim(&worn, 1, 0..1, SLOW);
        claim(&worn, 1, NOW.millis() - 2000..NOW.millis(), SLOW);
        let lately = NOW.millis() - 1000;
        assert_eq!(worn.beginnings(NOW).lanes, [(lane(1), lately)]);
        worn.looked(&worn.beginnings(NOW), None, SLOW);
        assert_eq!(worn.beginnings(NOW).first, lately);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_looked_at_now_and_then_and_when_jobs_were_put_back() {
        let worn = Worn::default();
        claim(&worn, 1, 0..1000, SLOW);
        assert!(!worn.beginnings(NOW).whole);
        tokio::time::advance(AGAIN).await;
        // The longer that takes, the rarer it is. What is known of the lanes stays good for the claims between.
        assert!(claim(&worn, 1, 1000..1001, AGAIN).whole);
        for _ in 0..PART - 1 {
            tokio::time::advance(AGAIN).await;
            assert_eq!(worn.beginnings(NOW).lanes, [(lane(1), 1000)]);
        }
        tokio::time::advance(AGAIN).await;
        assert!(claim(&worn, 1, 1001..1002, SLOW).whole);
        worn.forget();
        let from = claim(&worn, 1, 7..8, SLOW);
        assert!(from.whole);
        assert_eq!(worn.beginnings(NOW).lanes, [(lane(1), 7)], "more may wait behind what was put back");
        // A look at everything that fails is not what every claim begins with.
        worn.forget();
        let from = worn.beginnings(NOW);
        assert!(from.whole);
        worn.failed(&from, SELDOM);
        assert_eq!(worn.beginnings(NOW).lanes, [(lane(1), 7)]);
        tokio::time::advance(SELDOM).await;
        // The snapshot is gone.
        assert!(claim(&worn, 1, 8..9, SLOW / 2).whole);
        assert!(worn.beginnings(NOW).whole);
    }

    #[tokio::test(start_paused = true)]
    async fn few_lanes_are_remembered_and_they_come_in_order() {
        let worn = Worn::default();
        claim(&worn, 1, 0..1, SLOW);
        for n in (2..100).rev() {
            claim(&worn, n, 0..600 + i64::try_from(n).unwrap(), SLOW);
        }
        let lanes: Vec<Lane> = worn.beginnings(NOW).lanes.into_iter().map(|(lane, _)| lane).collect();
        assert_eq!(lanes, (68..100).map(lane).collect::<Vec<_>>());
        for n in 100..5000 {
            claim(&worn, n, 0..1, SLOW);
        }
        assert!(worn.state.lock().drained.len() <= COUNTED);
    }
}
