//! Identifiers. Rows that arrive by the million are keyed by a [`Seq`], which grows; what the world sees of it is a
//! [`MessageId`], which looks like any UUIDv4 and is turned back by computation instead of an index ([`IdCipher`]).

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use uuid::Uuid;

use crate::time::Timestamp;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Reads the hyphenated or plain form; anything else is no such id.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

uuid_id! {
    /// A tenant.
    TenantId
    /// A human, as single sign-on names them (`sub`).
    UserId
    /// An API key.
    KeyId
    /// A tenant's credentials at one provider.
    ConfigId
    /// An invitation to join a tenant.
    InvitationId
    /// A suppression.
    SuppressionId
    /// A message, as the world sees it: an enciphered [`Seq`].
    MessageId
}

/// The key of a message's row: 42 bits of milliseconds since 1970, 8 bits of node slot, 13 bits of counter.
/// Orders by acceptance time; unique as long as no two running processes share a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub i64);

const SLOT_BITS: u32 = 8;
const COUNTER_BITS: u32 = 13;
const LOW_BITS: u32 = SLOT_BITS + COUNTER_BITS;

impl Seq {
    /// The smallest seq of its millisecond: where a time range begins.
    #[must_use]
    pub const fn first_at(at: Timestamp) -> Self {
        Self(at.millis() << LOW_BITS)
    }

    /// A key for a row that an operator's command writes beside the running nodes: of the last slot, which nodes take last,
    /// with a random counter. Two of the same millisecond may meet, so whoever uses it must bear a conflict.
    #[must_use]
    pub const fn of_command(at: Timestamp, random: u16) -> Self {
        let counter = random as i64 & ((1 << COUNTER_BITS) - 1);
        Self(at.millis() << LOW_BITS | ((1 << SLOT_BITS) - 1) << COUNTER_BITS | counter)
    }

    /// The node slot that handed it out.
    #[must_use]
    pub const fn slot(self) -> u8 {
        (self.0 >> COUNTER_BITS & 0xff) as u8
    }

    /// The time it was handed out (which runs ahead of the clock when more than 8,192 a millisecond are taken).
    #[must_use]
    pub const fn at(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> LOW_BITS)
    }
}

/// Hands out [`Seq`]s: strictly growing, even if the clock is set back while it runs.
#[derive(Debug)]
pub struct Ids {
    slot: u8,
    /// Milliseconds and counter, without the slot between them.
    last: AtomicI64,
}

impl Ids {
    /// A generator for the node slot that the store assigned, which starts after `floor`:
    /// the latest time at which a previous holder of the slot may have handed out ids.
    #[must_use]
    pub fn new(slot: u8, floor: Timestamp) -> Self {
        Self { slot, last: AtomicI64::new(floor.millis() << COUNTER_BITS) }
    }

    /// The next seq.
    pub fn next(&self, now: Timestamp) -> Seq {
        let present = now.millis() << COUNTER_BITS;
        let step = |last: i64| Some(if present > last { present } else { last + 1 });
        // `fetch_update` only fails if the closure answers None, and this one never does.
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|last| last);
        let taken = if present > last { present } else { last + 1 };
        let (ms, counter) = (taken >> COUNTER_BITS, taken & ((1 << COUNTER_BITS) - 1));
        Seq(ms << LOW_BITS | i64::from(self.slot) << COUNTER_BITS | counter)
    }
}

/// Turns a [`Seq`] into the id that the world sees, and back, in SIV form: a 58-bit tag made of the seq under one key,
/// then the seq hidden under another key and the tag. A guessed or altered id fails the tag, so it is refused without a query.
pub struct IdCipher {
    tag_key: [u8; 32],
    body_key: [u8; 32],
}

const TAG_BITS: u32 = 58;

impl IdCipher {
    /// A cipher under two independent keys, which must stay the same for the life of an installation.
    #[must_use]
    pub const fn new(tag_key: [u8; 32], body_key: [u8; 32]) -> Self {
        Self { tag_key, body_key }
    }

    /// The id of a seq: version and variant bits as in RFC 9562 §5.4, the other 122 bits indistinguishable from random.
    #[must_use]
    pub fn seal(&self, seq: Seq) -> MessageId {
        let tag = self.tag(seq.0);
        let body = seq.0.cast_unsigned() ^ self.pad(tag);
        let bits = u128::from(tag) << 64 | u128::from(body);
        let (high, middle, low) = (bits >> 74, bits >> 62 & 0xfff, bits & ((1 << 62) - 1));
        MessageId(Uuid::from_u128(high << 80 | 0x4 << 76 | middle << 64 | 0b10 << 62 | low))
    }

    /// The seq of an id that [`seal`](Self::seal) made; `None` for any other.
    #[must_use]
    pub fn open(&self, id: MessageId) -> Option<Seq> {
        let raw = id.0.as_u128();
        if raw >> 76 & 0xf != 0x4 || raw >> 62 & 0b11 != 0b10 {
            return None;
        }
        let bits = (raw >> 80) << 74 | (raw >> 64 & 0xfff) << 62 | raw & ((1 << 62) - 1);
        let tag = (bits >> 64) as u64;
        let seq = ((bits as u64) ^ self.pad(tag)).cast_signed();
        (seq >= 0 && self.tag(seq) == tag).then_some(Seq(seq))
    }

    fn tag(&self, seq: i64) -> u64 {
        prf(&self.tag_key, seq.to_le_bytes()) >> (64 - TAG_BITS)
    }

    fn pad(&self, tag: u64) -> u64 {
        prf(&self.body_key, tag.to_le_bytes())
    }
}

impl fmt::Debug for IdCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdCipher")
    }
}

fn prf(key: &[u8; 32], input: [u8; 8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::keyed_hash(key, &input).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_though_the_clock_goes_back() {
        let ids = Ids::new(7, Timestamp::from_millis(1000));
        let mut last = ids.next(Timestamp::from_millis(5));
        assert!(last.at() >= Timestamp::from_millis(1000));
        for ms in [2000, 1500, 2000, 2001, 0] {
            for _ in 0..9000 {
                let next = ids.next(Timestamp::from_millis(ms));
                assert!(next > last);
                last = next;
            }
        }
        assert_eq!(last.0 >> COUNTER_BITS & 0xff, 7);
    }

    #[test]
    fn an_id_opens_to_its_seq_and_a_flipped_bit_does_not() {
        let cipher = IdCipher::new([1; 32], [2; 32]);
        for n in [0, 1, 3_726_000_000_000_000_000, i64::MAX] {
            let id = cipher.seal(Seq(n));
            assert_eq!((id.0.get_version_num(), id.0.get_variant()), (4, uuid::Variant::RFC4122));
            assert_eq!(cipher.open(id), Some(Seq(n)));
            for bit in 0..128 {
                assert_eq!(cipher.open(MessageId(Uuid::from_u128(id.0.as_u128() ^ 1 << bit))), None);
            }
        }
    }

    #[test]
    fn ids_of_neighbours_share_nothing() {
        let cipher = IdCipher::new([3; 32], [4; 32]);
        let differing: u32 = (0..1000).map(|n| (cipher.seal(Seq(n)).0.as_u128() ^ cipher.seal(Seq(n + 1)).0.as_u128()).count_ones()).sum();
        assert!((59_000..63_000).contains(&differing), "{differing} of 122,000 bits");
    }
}
