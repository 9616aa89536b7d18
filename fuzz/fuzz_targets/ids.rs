//! Ids and cursors: what was not made here does not open, and what was made here opens to what went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raven_core::{
    MessageId,
    ids::{IdCipher, Seq},
    page::CursorKey,
};
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let cipher = IdCipher::new([1; 32], [2; 32]);
    let key = CursorKey::new([3; 32]);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(id) = MessageId::parse(text)
            && let Some(seq) = cipher.open(id)
        {
            assert_eq!(cipher.seal(seq), id);
        }
        if let Some(position) = key.open(b"messages", text) {
            assert_eq!(key.open(b"messages", &key.seal(b"messages", &position)), Some(position));
        }
    }
    if let Some(raw) = data.first_chunk::<16>() {
        let id = MessageId(Uuid::from_bytes(*raw));
        if let Some(seq) = cipher.open(id) {
            assert_eq!(cipher.seal(seq), id);
        }
        let seq = Seq(i64::from_le_bytes(*raw.first_chunk().expect("eight of sixteen")) & i64::MAX);
        assert_eq!(cipher.open(cipher.seal(seq)), Some(seq));
    }
    let position = &data[..data.len().min(64)];
    let sealed = key.seal(b"messages", position);
    assert_eq!(key.open(b"messages", &sealed).as_deref(), Some(position));
    assert_eq!(key.open(b"events", &sealed), None);
});
