//! Providers of notifications, and what they share: signed tokens (RFC 7519) and keys that collapse notifications.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub mod apns;
pub mod fcm;
pub mod web_push;

/// A JSON web token; `sign` makes the signature's bytes over what comes before it.
fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Zeroizing<String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut text = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    text.push('.');
    text.push_str(&signature);
    Zeroizing::new(text)
}

/// A signature by ES256 (RFC 7518, section 3.4). It needs no randomness (RFC 6979): the same text gives the same signature.
fn es256(key: &SigningKey, text: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(text);
    signature.to_bytes().to_vec()
}

/// The collapse key as a header carries it: itself where it fits, else 32 characters of its hash. Nobody reads it, only
/// equal keys must stay equal.
fn collapse(key: &str, longest: usize, fits: fn(u8) -> bool) -> String {
    if (1..=longest).contains(&key.len()) && key.bytes().all(fits) {
        return key.to_owned();
    }
    let mut hash = URL_SAFE_NO_PAD.encode(Sha256::digest(key));
    hash.truncate(32);
    hash
}

/// What APNs takes in `apns-collapse-id`.
fn apns_collapse_id(key: &str) -> String {
    collapse(key, 64, |b| b.is_ascii_graphic())
}

/// What RFC 8030, section 5.4 takes in `Topic`.
fn topic(key: &str) -> String {
    collapse(key, 32, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Adds a header.
fn put(request: &mut Request<Bytes>, name: &'static str, value: &str) {
    // Stored settings that no header can carry are left to the provider to miss.
    if let Ok(value) = HeaderValue::from_str(value) {
        request.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_key_that_fits_is_itself_and_others_stay_apart() {
        assert_eq!((topic("score-7_a"), apns_collapse_id("score 7").len()), ("score-7_a".to_owned(), 32));
        assert_eq!(apns_collapse_id("match/7"), "match/7");
        for long in ["match/7", "é", "", &"x".repeat(33)] {
            let hash = topic(long);
            assert!(hash.len() == 32 && hash == topic(long) && hash != topic("match/8"), "{long}");
        }
    }

    #[test]
    fn es256_signs_as_rfc_6979_does() {
        // Appendix A.2.5, message "sample" with SHA-256.
        let key = [
            0xC9, 0xAF, 0xA9, 0xD8, 0x45, 0xBA, 0x75, 0x16, 0x6B, 0x5C, 0x21, 0x57, 0x67, 0xB1, 0xD6, 0x93, 0x4E, 0x50, 0xC3, 0xDB, 0x36,
            0xE8, 0x9B, 0x12, 0x7B, 0x8A, 0x62, 0x2B, 0x12, 0x0F, 0x67, 0x21,
        ];
        let signature = es256(&SigningKey::from_slice(&key).expect("a key"), b"sample");
        let hex: String = signature.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(
            hex,
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
        );
    }
}
