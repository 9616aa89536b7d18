//! The built-in sandbox: plays a provider for test keys and reaches nobody. Whatever it is given is taken and delivered, but for
//! magic recipients, whose messages have other lives.

use std::time::Duration;

use raven_core::{Channel, EventKind, Status};

use crate::{Class, Outbound, SendError, Sent};

/// What stands where a provider's id does.
pub const ID: &str = "sandbox";
/// How long after it was sent a message is reported as delivered.
pub const DELIVERED_AFTER: Duration = Duration::from_millis(200);
/// What follows a delivery comes so long after it.
const LATER: Duration = Duration::from_secs(2);
/// How long a delayed message takes, and the report about one whose answer was lost.
const DELAYED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// How often a busy sandbox says so, and for how long.
const BUSY: (i16, Duration) = (3, Duration::from_secs(1));

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its name: the local part of an email address, and the end of a device token.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    answer: Answer,
    /// What is reported after the message was sent, in order.
    pub reports: &'static [Report],
}

/// What the sandbox answers to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
    /// Nothing comes, though it was taken.
    Silence,
    /// Too many requests, the first few times.
    Busy,
}

/// Something that is reported about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How long after what went before.
    pub after: Duration,
    /// The line in the timeline.
    pub kind: EventKind,
    /// The status that it stands for.
    pub status: Status,
    /// Why, where it is bad news: becomes `failureReason`.
    pub reason: Option<&'static str>,
}

const fn report(after: Duration, kind: EventKind, status: Status) -> Report {
    Report { after, kind, status, reason: None }
}

const fn bad(kind: EventKind, status: Status, reason: &'static str) -> Report {
    Report { after: DELIVERED_AFTER, kind, status, reason: Some(reason) }
}

const fn taken(name: &'static str, about: &'static str, reports: &'static [Report]) -> Life {
    Life { name, about, answer: Answer::Taken, reports }
}

const DELIVERY: Report = report(DELIVERED_AFTER, EventKind::Delivered, Status::Delivered);

/// The lives of magic recipients. The first is everybody else's, too.
pub const LIVES: &[Life] = &[
    taken("delivered", "delivered a moment after it was sent", &[DELIVERY]),
    Life { answer: Answer::Refused, ..taken("rejected", "refused by the provider: `failed`, `invalid_recipient`", &[]) },
    taken(
        "failed",
        "sent, then reported as not delivered: `failed`, `undelivered`",
        &[bad(EventKind::Failed, Status::Failed, "undelivered")],
    ),
    taken(
        "hard-bounce",
        "sent, then bounced for good: `bounced`, `hard_bounce`",
        &[bad(EventKind::Bounced, Status::Bounced, "hard_bounce")],
    ),
    taken(
        "soft-bounce",
        "sent, then bounced by a full mailbox: `bounced`, `soft_bounce`",
        &[bad(EventKind::Bounced, Status::Bounced, "soft_bounce")],
    ),
    taken(
        "bounce-complaint",
        "bounced, and two seconds later called spam: `complained`",
        &[bad(EventKind::Bounced, Status::Bounced, "soft_bounce"), report(LATER, EventKind::Complained, Status::Complained)],
    ),
    taken(
        "complaint",
        "delivered, and two seconds later called spam: `complained`",
        &[DELIVERY, report(LATER, EventKind::Complained, Status::Complained)],
    ),
    taken(
        "unsubscribed",
        "delivered, and two seconds later answered with STOP: `unsubscribed`",
        &[DELIVERY, report(LATER, EventKind::Unsubscribed, Status::Unsubscribed)],
    ),
    taken("delayed", "delivered a minute after it was sent", &[report(DELAYED.0, EventKind::Delivered, Status::Delivered)]),
    Life {
        answer: Answer::Silence,
        ..taken(
            "timeout",
            "taken, but the answer is lost: `outcome_unknown`, and delivered five seconds later all the same",
            &[report(DELAYED.1, EventKind::Delivered, Status::Delivered)],
        )
    },
    Life { answer: Answer::Busy, ..taken("rate-limited", "refused three times with 429, then sent and delivered", &[DELIVERY]) },
    taken(
        "out-of-order",
        "reported as delivered twice, and then as sent: stays `delivered`",
        &[DELIVERY, DELIVERY, report(DELIVERED_AFTER, EventKind::Sent, Status::Sent)],
    ),
];

/// The domain of magic email addresses. `.test` belongs to nobody (RFC 2606).
const DOMAIN: &str = "@raven.test";
/// What magic device tokens begin with.
const TOKEN: &str = "sandbox-";
/// What magic phone numbers begin with; the place of the life in [`LIVES`] follows, in two digits.
const NUMBER: &str = "+150055501";

impl Life {
    /// The life of a message to this recipient.
    #[must_use]
    pub fn of(channel: Channel, recipient: &str) -> &'static Self {
        let named = |name: &str| LIVES.iter().find(|life| life.name == name);
        let found = match channel {
            Channel::Sms | Channel::Whatsapp => {
                recipient.strip_prefix(NUMBER).filter(|n| n.len() == 2).and_then(|n| n.parse().ok()).and_then(|n: usize| LIVES.get(n))
            }
            // What stands behind a plus is the sender's own: `delivered+order-1042@raven.test`.
            Channel::Email => recipient.strip_suffix(DOMAIN).and_then(|local| named(local.split('+').next().unwrap_or(local))),
            Channel::Push => recipient.strip_prefix(TOKEN).and_then(named),
        };
        found.unwrap_or(&LIVES[0])
    }

    /// The recipient that has it.
    #[must_use]
    pub fn recipient(&self, channel: Channel) -> String {
        let place = LIVES.iter().position(|life| life.name == self.name).unwrap_or_default();
        match channel {
            Channel::Sms | Channel::Whatsapp => format!("{NUMBER}{place:02}"),
            Channel::Email => format!("{}{DOMAIN}", self.name),
            Channel::Push => format!("{TOKEN}{}", self.name),
        }
    }
}

/// Takes a message, as its recipient's life has it. Parts are left to the core's count, and nothing costs anything.
///
/// # Errors
/// What a provider would answer.
pub fn send(message: &Outbound<'_>) -> Result<Sent, SendError> {
    match Life::of(message.channel, message.recipient).answer {
        Answer::Refused => Err(SendError::new(Class::Rejected, "invalid_recipient", "the sandbox refuses this recipient")),
        Answer::Silence => Err(SendError::new(Class::Unknown, "no_answer", "the sandbox took the message and gave no answer")),
        Answer::Busy if message.attempt <= BUSY.0 => {
            Err(SendError::new(Class::RateLimited { after: Some(BUSY.1) }, "rate_limited", "the sandbox has too much to do"))
        }
        Answer::Taken | Answer::Busy => {
            Ok(Sent { provider_message_id: Some(format!("sandbox-{}", message.id)), segments: None, cost: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_has_a_recipient_on_every_channel() {
        for channel in Channel::ALL {
            for life in LIVES {
                assert_eq!(Life::of(*channel, &life.recipient(*channel)), life);
            }
            for other in ["+254722000000", "ada@example.com", "token", "+15005550199", "nobody@raven.test", "sandbox-", ""] {
                assert_eq!(Life::of(*channel, other).name, "delivered");
            }
        }
        assert_eq!(Life::of(Channel::Email, "hard-bounce+order-1042@raven.test").name, "hard-bounce");
    }
}
