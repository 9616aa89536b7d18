//! JSON bodies: the canonical form reads back as itself, and so does the fingerprint that tells equal requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raven_core::json::{Json, fingerprint};

fn canonical(value: &Json<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    value.write_canonical(&mut out);
    out
}

fn print(value: &Json<'_>) -> Option<[u8; 16]> {
    match value {
        Json::Object(members) => Some(fingerprint(members.iter().map(|(name, value)| (name.as_ref(), value)))),
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Json<'_>>(data) else { return };
    let written = canonical(&value);
    let again: Json<'_> = serde_json::from_slice(&written).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&written)));
    assert_eq!(canonical(&again), written);
    assert_eq!(print(&again), print(&value));
    assert_eq!(canonical(&value.clone().into_owned()), written);
    // The other parser of this house agrees on what is JSON at all.
    serde_json::from_slice::<serde_json::Value>(data).expect("it is JSON");
});
