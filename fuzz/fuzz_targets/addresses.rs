//! Whatever is taken as an address is one that can't write a line of its own, and reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raven_core::address::{Email, Mailbox, phone, sender_id};

fuzz_target!(|text: &str| {
    if let Ok(number) = phone(text) {
        assert!(number.bytes().all(|b| b.is_ascii_digit() || b == b'+'));
    }
    if let Ok(sender) = sender_id(text) {
        assert!(!sender.contains(char::is_control));
    }
    if let Ok(email) = Email::parse(text) {
        let written = email.to_string();
        assert!(!written.contains(|c: char| c.is_control() || c.is_whitespace()), "{written:?}");
        let again = Email::parse(&written).unwrap_or_else(|e| panic!("{written:?}: {e}"));
        assert_eq!((again.local(), again.domain()), (email.local(), email.domain()));
        assert_eq!(again.comparable(), email.comparable());
    }
    if let Ok(mailbox) = Mailbox::parse(text) {
        assert!(mailbox.name.as_deref().is_none_or(|name| !name.contains(char::is_control)));
    }
});
