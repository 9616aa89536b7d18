//! Pages: their limit, and cursors that only open where they were made.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

/// Rows on a page when the caller names no number.
pub const DEFAULT_LIMIT: usize = 50;
/// Rows on a page at most.
pub const MAX_LIMIT: usize = 200;

const MAC_LEN: usize = 12;
const POSITION_MAX: usize = 64;

/// Makes and opens cursors. A cursor is a position and a MAC over it and its scope (endpoint, tenant, filters), so one
/// that was altered, or comes from elsewhere, does not open.
pub struct CursorKey([u8; 32]);

impl CursorKey {
    /// Under this key, which every node shares.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The text of a position within a scope; only URL-safe characters.
    #[must_use]
    pub fn seal(&self, scope: &[u8], position: &[u8]) -> String {
        let mut raw = Vec::with_capacity(position.len() + MAC_LEN);
        raw.extend_from_slice(position);
        raw.extend_from_slice(&self.mac(scope, position));
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// The position, if this text was made for the same scope.
    #[must_use]
    pub fn open(&self, scope: &[u8], text: &str) -> Option<Vec<u8>> {
        if text.len() > (POSITION_MAX + MAC_LEN) * 4 / 3 + 4 {
            return None;
        }
        let mut raw = URL_SAFE_NO_PAD.decode(text).ok()?;
        let split = raw.len().checked_sub(MAC_LEN)?;
        let good = self.mac(scope, &raw[..split]).ct_eq(&raw[split..]);
        raw.truncate(split);
        bool::from(good).then_some(raw)
    }

    fn mac(&self, scope: &[u8], position: &[u8]) -> [u8; MAC_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(scope.len() as u64).to_le_bytes()).update(scope).update(position);
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..MAC_LEN]);
        mac
    }
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_only_in_its_scope_and_unaltered() {
        let key = CursorKey::new([7; 32]);
        let text = key.seal(b"messages", b"position");
        assert_eq!(key.open(b"messages", &text).as_deref(), Some(&b"position"[..]));
        assert_eq!(key.open(b"message", &text), None);
        assert_eq!(CursorKey::new([8; 32]).open(b"messages", &text), None);
        for i in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[i] = if other[i] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.open(b"messages", std::str::from_utf8(&other).unwrap()), None);
        }
        for bad in ["", "A", "!!!!", &"A".repeat(1000)] {
            assert_eq!(key.open(b"messages", bad), None);
        }
    }
}
