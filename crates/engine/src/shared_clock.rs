//! The time that all nodes go by. Leases, due times and message keys are compared between nodes, so they must not depend on
//! a machine whose clock is wrong: where nodes share a database, its clock counts, and each node knows by how much its own
//! differs.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use raven_core::{Clock, Timestamp};
use raven_store::Store;

/// Whose clock all nodes go by.
#[derive(Clone)]
pub enum Reference {
    /// The database's, where it has one; else this machine's.
    Database,
    /// This one: for tests, whose time stands still.
    Given(Arc<dyn Clock>),
}

/// This machine's clock, corrected by what it was found to differ from the reference.
pub struct SharedClock {
    own: Arc<dyn Clock>,
    reference: Reference,
    /// Milliseconds that the reference is ahead of our own clock.
    ahead: AtomicI64,
}

impl SharedClock {
    /// A clock that is taken to be right until it was [compared](Self::compare).
    #[must_use]
    pub const fn new(own: Arc<dyn Clock>, reference: Reference) -> Self {
        Self { own, reference, ahead: AtomicI64::new(0) }
    }

    /// Looks at the reference and corrects this clock. Returns what the reference showed: never later than its present time.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn compare(&self, store: &dyn Store) -> raven_store::Result<Timestamp> {
        let asked = self.own.now();
        let shown = match &self.reference {
            Reference::Database => store.database_time().await?,
            Reference::Given(clock) => Some(clock.now()),
        };
        let Some(shown) = shown else { return Ok(asked) };
        let before = self.ahead.load(Ordering::Acquire);
        self.ahead.store(corrected(before, asked.millis(), shown.millis(), self.own.now().millis()), Ordering::Release);
        Ok(shown)
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.own.now().millis().saturating_add(self.ahead.load(Ordering::Acquire)))
    }
}

/// How far the reference is ahead, by a look that was `asked` for and `answered` at these times of our own clock. When in that
/// time it was read isn't known, so a look that may agree with what was known before changes nothing: else each slow answer
/// would move the time.
const fn corrected(before: i64, asked: i64, shown: i64, answered: i64) -> i64 {
    let took = answered.saturating_sub(asked);
    let found = shown.saturating_sub(asked).saturating_sub(took / 2);
    // The reference's milliseconds are rounded, and so are ours.
    let error = took.saturating_abs() / 2 + 1;
    if found.saturating_sub(before).saturating_abs() <= error { before } else { found }
}

#[cfg(test)]
mod tests {
    use super::corrected;

    #[test]
    fn a_clock_that_is_off_is_corrected() {
        assert_eq!(corrected(0, 1_000, 601_005, 1_010), 600_000);
        assert_eq!(corrected(600_000, 901_000, 301_005, 901_010), -600_000);
    }

    #[test]
    fn a_look_that_may_agree_changes_nothing() {
        assert_eq!(corrected(0, 1_000, 1_001, 1_000), 0);
        assert_eq!(corrected(0, 1_000, 1_900, 2_000), 0, "a slow answer");
        assert_eq!(corrected(500, 1_000, 1_900, 2_000), 500);
        assert_eq!(corrected(0, 1_000, 2_100, 2_000), 600, "slow, and still too far off");
    }

    #[test]
    fn a_clock_that_was_set_during_the_look_does_not_move_the_time_by_more() {
        // Set forward by ten minutes: told apart from a slow answer at the next look only.
        assert_eq!(corrected(0, 1_000, 1_005, 601_010), 0);
        assert_eq!(corrected(0, 606_000, 6_005, 606_010), -600_000);
        assert_eq!(corrected(0, i64::MAX, i64::MIN, i64::MIN), 0);
    }
}
