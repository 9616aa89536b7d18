//! The message: its channel, environment and source, its content, and the lattice of its status.

use std::fmt;

pub use crate::content::{Attachment, Content, Feature, Features, Template};

/// Declares an enum with the code it is stored as and the name the API shows.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The code in the database.
            #[must_use]
            pub const fn code(self) -> i16 {
                self as i16
            }

            /// The one with this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }

            /// The one with this code.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }
    };
}
pub(crate) use named;

named! {
    /// How a message travels.
    Channel {
        /// Text message.
        Sms = 1 "sms",
        /// Email.
        Email = 2 "email",
        /// Notification on a device.
        Push = 3 "push",
        /// WhatsApp message.
        Whatsapp = 4 "whatsapp",
    }
}

named! {
    /// Live messages reach a provider, test ones the sandbox. Neither sees the other.
    Environment {
        /// Real.
        Live = 1 "live",
        /// Sandbox.
        Test = 2 "test",
    }
}

named! {
    /// What goes first. Transactional messages (one-time codes, receipts) don't wait for bulk ones (newsletters, campaigns).
    Priority {
        /// Somebody waits for it.
        Transactional = 1 "transactional",
        /// Nobody minds when it comes a little later.
        Bulk = 2 "bulk",
    }
}

named! {
    /// Who asked for the message.
    Source {
        /// A service, with a key.
        Api = 1 "api",
        /// A human.
        Dashboard = 2 "dashboard",
    }
}

named! {
    /// Where a message is in its life. The code is the rank: a message's status only moves to a larger one, so any order
    /// and any repetition of the same reports ends in the same status.
    Status {
        /// Waits for its time.
        Scheduled = 0 "scheduled",
        /// Accepted.
        Queued = 10 "queued",
        /// A worker calls the provider, or will again.
        Sending = 20 "sending",
        /// The provider accepted it.
        Sent = 30 "sent",
        /// Too old to send.
        Expired = 40 "expired",
        /// Called back before it was sent.
        Canceled = 41 "canceled",
        /// The recipient may not be written to.
        Suppressed = 42 "suppressed",
        /// Rejected, or given up.
        Failed = 50 "failed",
        /// Confirmed at the recipient.
        Delivered = 60 "delivered",
        /// The address rejects mail.
        Bounced = 70 "bounced",
        /// The recipient wants no more.
        Unsubscribed = 80 "unsubscribed",
        /// The recipient called it spam.
        Complained = 90 "complained",
    }
}

impl Status {
    /// Will nothing more be done by us for it, unless a report says otherwise?
    #[must_use]
    pub const fn is_settled(self) -> bool {
        self.code() >= Self::Sent.code()
    }

    /// The status after a report of `next`, whatever came before.
    #[must_use]
    pub fn raised_to(self, next: Self) -> Self {
        self.max(next)
    }
}

named! {
    /// One line of a message's timeline.
    EventKind {
        /// Accepted.
        Queued = 1 "queued",
        /// An attempt began.
        Sending = 2 "sending",
        /// The provider accepted it.
        Sent = 3 "sent",
        /// Confirmed at the recipient.
        Delivered = 4 "delivered",
        /// Rejected, or given up.
        Failed = 5 "failed",
        /// The address rejects mail.
        Bounced = 6 "bounced",
        /// Not sent: the recipient may not be written to.
        Suppressed = 7 "suppressed",
        /// The recipient called it spam.
        Complained = 8 "complained",
        /// The recipient wants no more.
        Unsubscribed = 9 "unsubscribed",
        /// An attempt failed for now; another one follows.
        RetryScheduled = 10 "retry_scheduled",
        /// The request may have gone out, and no answer came.
        OutcomeUnknown = 11 "outcome_unknown",
        /// Too old to send.
        Expired = 12 "expired",
        /// Called back before it was sent.
        Canceled = 13 "canceled",
        /// Waits for its time.
        Scheduled = 14 "scheduled",
        /// The provider could not deliver it yet, and goes on trying.
        Delayed = 15 "delayed",
        /// It was read.
        Opened = 16 "opened",
        /// A link in it was followed.
        Clicked = 17 "clicked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_reports_ends_the_same() {
        for a in Status::ALL {
            for b in Status::ALL {
                for c in Status::ALL {
                    let end = a.raised_to(*b).raised_to(*c);
                    assert_eq!(end, c.raised_to(*b).raised_to(*a));
                    assert_eq!(end, b.raised_to(*c).raised_to(*b).raised_to(*a));
                    assert!(end >= *a && end >= *b && end >= *c);
                }
            }
        }
    }

    #[test]
    fn names_and_codes_read_back() {
        for s in Status::ALL {
            assert_eq!(Status::parse(s.name()), Some(*s));
            assert_eq!(Status::from_code(s.code()), Some(*s));
        }
        assert_eq!(Status::from_code(11), None);
        assert_eq!(Channel::parse("SMS"), None);
    }
}
