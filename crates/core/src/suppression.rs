//! Suppressions: why an address is not written to any more, and the form in which addresses are compared.

use std::{borrow::Cow, fmt};

use crate::message::{Channel, named};

named! {
    /// Why an address is not written to any more.
    SuppressionReason {
        /// The address does not exist.
        HardBounce = 1 "hard_bounce",
        /// The recipient called a message spam.
        SpamComplaint = 2 "spam_complaint",
        /// The recipient wants no more.
        Unsubscribed = 3 "unsubscribed",
        /// Somebody of the tenant put it there.
        Manual = 4 "manual",
    }
}

named! {
    /// What made a suppression. Who it was, where somebody did, is in the audit log.
    SuppressionSource {
        /// A request.
        Request = 1 "request",
        /// A provider's answer to a send.
        Answer = 2 "answer",
        /// A provider's callback.
        Callback = 3 "callback",
        /// A message of the recipient's, such as `STOP`.
        Inbound = 4 "inbound",
        /// The link in an email by which its recipient unsubscribes.
        Link = 5 "link",
        /// A list that was imported.
        Import = 6 "import",
    }
}

impl SuppressionReason {
    /// What a provider's permanent rejection with this code says of the recipient, if anything.
    #[must_use]
    pub fn of_rejection(code: &str) -> Option<Self> {
        match code {
            "recipient_opted_out" => Some(Self::Unsubscribed),
            // A device token that its push service has withdrawn.
            "unregistered" => Some(Self::HardBounce),
            _ => None,
        }
    }
}

/// The form in which a message's recipient is compared. Recipients are stored with their domain in order, so only the local
/// part of an email address is left to do: its case does not matter. All others are compared as they are stored.
#[must_use]
pub fn comparable(channel: Channel, recipient: &str) -> Cow<'_, str> {
    if channel != Channel::Email || recipient.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return Cow::Borrowed(recipient);
    }
    match recipient.rsplit_once('@') {
        Some((local, domain)) => Cow::Owned(format!("{}@{domain}", local.to_lowercase())),
        None => Cow::Owned(recipient.to_lowercase()),
    }
}

/// Bytes of an address that an index takes. PostgreSQL's take 2.7 kB at most, and a device token may be longer.
const INDEXED: usize = 512;

/// What stands in the index for an address in its comparable form: the address, or a digest of it where it is too long.
#[must_use]
pub fn indexed(address: &str) -> Cow<'_, str> {
    if address.len() <= INDEXED {
        return Cow::Borrowed(address);
    }
    Cow::Owned(format!("blake3:{}", blake3::hash(address.as_bytes()).to_hex()))
}

/// What would stand in the index for a message's recipient.
#[must_use]
pub fn lookup(channel: Channel, recipient: &str) -> Cow<'_, str> {
    match comparable(channel, recipient) {
        Cow::Borrowed(address) => indexed(address),
        Cow::Owned(address) => Cow::Owned(indexed(&address).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Email;

    #[test]
    fn only_the_case_of_a_local_part_is_evened_out() {
        for (channel, recipient, expected) in [
            (Channel::Email, "Ada.Lovelace+X@example.com", "ada.lovelace+x@example.com"),
            (Channel::Email, "JÜRGEN@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"),
            (Channel::Email, "ada@example.com", "ada@example.com"),
            (Channel::Sms, "+254722000000", "+254722000000"),
            (Channel::Push, "AbC:dEf", "AbC:dEf"),
        ] {
            assert_eq!(comparable(channel, recipient), expected);
            assert_eq!(comparable(channel, expected), expected, "it is its own form");
        }
    }

    #[test]
    fn an_email_address_is_compared_as_it_is_listed() {
        for text in ["Ada@Example.COM", "ada@BÜCHER.example", "ΑΣ'@example.com", "İ@example.com"] {
            let email = Email::parse(text).unwrap();
            assert_eq!(comparable(Channel::Email, &email.to_string()), email.comparable(), "{text}");
        }
    }

    #[test]
    fn long_tokens_have_a_digest() {
        let long = "a".repeat(4096);
        assert_eq!(lookup(Channel::Push, &long).len(), 71);
        assert_ne!(lookup(Channel::Push, &long), lookup(Channel::Push, &long[1..]));
        assert_eq!(lookup(Channel::Push, &long[..512]), long[..512]);
    }

    #[test]
    fn rejections_that_say_something_of_the_recipient_are_known() {
        assert_eq!(SuppressionReason::of_rejection("recipient_opted_out"), Some(SuppressionReason::Unsubscribed));
        assert_eq!(SuppressionReason::of_rejection("unregistered"), Some(SuppressionReason::HardBounce));
        assert_eq!(SuppressionReason::of_rejection("invalid_recipient"), None);
    }
}
