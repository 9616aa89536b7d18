//! Medians and percentiles.

use std::time::Duration;

/// The middle value (the mean of the middle two); 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Percentiles of durations by the nearest rank: a value that was really seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    /// Of these, in any order.
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// The smallest value that at least `percent` of all don't exceed; zero of nothing.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let Some(last) = self.0.len().checked_sub(1) else { return Duration::ZERO };
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0[rank.saturating_sub(1).min(last)]
    }

    /// The same in milliseconds.
    pub(crate) fn millis(&self, percent: f64) -> f64 {
        self.percentile(percent).as_secs_f64() * 1e3
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let all = Durations::of((1..=200).rev().map(Duration::from_millis).collect());
        for (percent, millis) in [(0.0, 1), (0.5, 1), (0.6, 2), (50.0, 100), (99.0, 198), (99.9, 200), (100.0, 200)] {
            assert_eq!(all.percentile(percent), Duration::from_millis(millis), "p{percent}");
        }
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn nothing_has_percentiles_of_zero() {
        assert_eq!(Durations::default().percentile(99.0), Duration::ZERO);
        assert_eq!(Durations::of(vec![Duration::from_secs(1)]).millis(1.0), 1000.0);
    }
}
