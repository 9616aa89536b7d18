//! The caller's idempotency key: in the body or in the header.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::{Fields, IDEMPOTENCY_KEY, line};

/// Tells that an answer is a replay.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The value that [`REPLAYED`] has.
pub const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The key of a request, from its body's field (already taken) or its header; problems are noted.
pub fn key(fields: &mut Fields<'_>, body: Option<&str>, headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("idempotency-key").iter();
    let first = values.next();
    if values.any(|other| Some(other) != first) {
        // Which of them would count is a guess, and a wrong one could send twice.
        fields.note(IDEMPOTENCY_KEY, "is given in two Idempotency-Key headers that differ: send one of them");
        return None;
    }
    let header = match first.map(HeaderValue::to_str) {
        Some(Ok(text)) => Some(text.trim()),
        Some(Err(_)) => {
            fields.note(IDEMPOTENCY_KEY, "in the header must be 1 to 255 printable ASCII characters");
            None
        }
        None => None,
    };
    let key = match (body, header) {
        (Some(body), Some(header)) if body != header => {
            fields.note(IDEMPOTENCY_KEY, "differs between body and Idempotency-Key header: send one of them");
            return None;
        }
        (Some(key), _) | (None, Some(key)) => key,
        (None, None) => return None,
    };
    fields.check(IDEMPOTENCY_KEY, line(key, 1, 255))?;
    Some(key.to_owned())
}
