//! When to try again, as data.

use std::time::Duration;

use crate::{message::Channel, time::Timestamp};

/// How often and how long a message of one channel is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failed attempt; doubles with each further one.
    pub first: Duration,
    /// The longest wait of our own; a provider may ask for a longer one.
    pub longest: Duration,
    /// Age, counted from when it was due first, at which a message is given up.
    pub max_age: Duration,
}

impl RetryPolicy {
    /// The policy of a channel: a one-time code by SMS is worthless after an hour or so, an email is not.
    #[must_use]
    pub const fn of(channel: Channel) -> Self {
        let (first, longest, max_age) = match channel {
            Channel::Sms => (2, 10 * 60, 4 * 3600),
            Channel::Push => (2, 10 * 60, 4 * 3600),
            Channel::Whatsapp => (2, 10 * 60, 24 * 3600),
            Channel::Email => (5, 30 * 60, 24 * 3600),
        };
        Self { first: Duration::from_secs(first), longest: Duration::from_secs(longest), max_age: Duration::from_secs(max_age) }
    }

    /// When to try again after attempt number `attempt` (from 1) failed at `now`, or `None` if that would be past
    /// `expires_at`. `hint` is the wait that the provider asked for: never sooner. `jitter` in 0..=255 spreads the wait
    /// over its upper half, so that what failed together does not come back together.
    #[must_use]
    pub fn next(&self, attempt: i16, now: Timestamp, expires_at: Timestamp, hint: Option<Duration>, jitter: u8) -> Option<Timestamp> {
        let doublings = u32::from(attempt.max(1).unsigned_abs() - 1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        let spread = full / 2 + full.mul_f64(f64::from(jitter) / 510.0);
        let wait = match hint {
            Some(asked) => asked + spread.min(asked / 4 + self.first),
            None => spread,
        };
        let at = now.after(wait);
        (at < expires_at).then_some(at)
    }
}

/// May a message that a provider reported as not delivered, for this reason, still arrive through another one? Not where the reason is
/// the recipient's or the message's own: those go with it. A code that is not known is the route's.
#[must_use]
pub fn may_arrive_elsewhere(code: &str) -> bool {
    !matches!(
        code,
        // There is nobody there, or nobody who wants it.
        "hard_bounce" | "soft_bounce" | "unregistered" | "unknown_recipient" | "invalid_recipient" | "not_a_mobile_number" | "blocked"
            | "do_not_disturb" | "mailbox_full" | "mailbox_unavailable" | "recipient_opted_out" | "recipient_suppressed" | "too_many_to_recipient"
            // No provider carries it.
            | "body_too_long" | "invalid_message" | "missing_body" | "media_unavailable" | "unsupported_attachment" | "outside_window"
            | "rejected_by_policy" | "invalid_template" | "template_not_found" | "template_paused" | "template_disabled"
            // Somebody stopped it, it is there already, or nobody knows.
            | "canceled" | "duplicate_message_id" | "delivery_unknown"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { first: Duration::from_secs(2), longest: Duration::from_secs(60), max_age: Duration::from_secs(3600) };

    fn wait(attempt: i16, hint: Option<u64>, jitter: u8) -> Option<u64> {
        let now = Timestamp::from_millis(1_000_000);
        POLICY.next(attempt, now, now.after(POLICY.max_age), hint.map(Duration::from_secs), jitter).map(|t| t.since(now).as_millis() as u64)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 7, i16::MAX].map(|n| wait(n, None, 255)),
            [2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000].map(Some)
        );
        assert_eq!(wait(3, None, 0), Some(4000));
    }

    #[test]
    fn a_hint_is_never_undercut() {
        for jitter in [0, 128, 255] {
            assert!(wait(1, Some(120), jitter).unwrap() >= 120_000);
            assert!(wait(9, Some(1), jitter).unwrap() < 4000);
        }
    }

    #[test]
    fn what_is_wrong_with_the_recipient_or_the_message_is_wrong_everywhere() {
        for code in ["unknown_recipient", "recipient_opted_out", "hard_bounce", "body_too_long", "delivery_unknown", "canceled"] {
            assert!(!may_arrive_elsewhere(code), "{code}");
        }
        for code in ["undelivered", "unreachable", "filtered", "no_route", "expired", "insufficient_balance", "30034"] {
            assert!(may_arrive_elsewhere(code), "{code}");
        }
    }

    #[test]
    fn past_the_maximum_age_there_is_no_next() {
        assert_eq!(wait(1, Some(3600), 0), None);
        assert_eq!(wait(1, Some(u64::MAX / 4), 0), None);
    }
}
