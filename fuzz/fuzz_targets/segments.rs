//! Texts cut into parts of SMS: nothing is lost, no part is too long, and the count is that of the parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raven_core::{
    keyword::Keywords,
    sms::{Encoding, parts, segments},
};

fuzz_target!(|text: &str| {
    let counted = segments(text);
    let parts = parts(text);
    assert_eq!(parts.concat(), text);
    assert_eq!(parts.len(), usize::from(counted.count));
    if counted.encoding == Encoding::Ucs2 {
        let room = if parts.len() == 1 { 70 } else { 67 };
        assert!(parts.iter().all(|part| part.encode_utf16().count() <= room), "{parts:?}");
    } else {
        let room = if parts.len() == 1 { 160 } else { 153 };
        assert!(parts.iter().all(|part| part.chars().count() <= room), "{parts:?}");
    }
    let _ = Keywords::default().find(text);
});
