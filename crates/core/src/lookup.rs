//! How a message is found by the id that its provider gave it.
//!
//! Providers' ids are random, and an index over all of them would be touched all over by every message. So they stand in buckets
//! by time: only the present one grows, a callback looks through those of the last days, and old ones are dropped.

use crate::{ids::ConfigId, time::Timestamp};

/// Hours of a bucket.
const HOURS: i64 = 6;
const MILLIS: i64 = HOURS * 3_600_000;
/// For so many days a message is found.
pub const DAYS: i64 = 8;

/// What stands in the index for a provider's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderKey {
    /// When it was learned: the number of a bucket.
    pub bucket: i32,
    /// The id within its config. Others may have the same one, so what is found is compared with the message.
    pub digest: i64,
}

impl ProviderKey {
    /// The key of an id that was learned at this time.
    #[must_use]
    pub fn of(config: ConfigId, provider_message_id: &str, at: Timestamp) -> Self {
        Self { bucket: bucket(at), digest: digest(config, provider_message_id) }
    }
}

/// The bucket of a time.
#[must_use]
pub fn bucket(at: Timestamp) -> i32 {
    // A day's number fits by far, and so do four a day.
    i32::try_from(at.millis().div_euclid(MILLIS)).unwrap_or(i32::MAX)
}

/// The oldest bucket in which a callback of this time looks.
#[must_use]
pub fn oldest_bucket(now: Timestamp) -> i32 {
    bucket(now).saturating_sub(i32::try_from(DAYS * 24 / HOURS).unwrap_or(0))
}

/// What stands for a provider's id within its config.
#[must_use]
pub fn digest(config: ConfigId, provider_message_id: &str) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.0.as_bytes()).update(provider_message_id.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    i64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_for_some_days() {
        let config = ConfigId(uuid::Uuid::from_u128(7));
        let learned = Timestamp::from_millis(1_790_000_000_000);
        let key = ProviderKey::of(config, "ATXid_1", learned);
        assert_eq!(key.digest, digest(config, "ATXid_1"));
        assert_ne!(key.digest, digest(config, "ATXid_2"));
        assert_ne!(key.digest, digest(ConfigId(uuid::Uuid::from_u128(8)), "ATXid_1"));
        let days = |n: u64| learned.after(std::time::Duration::from_secs(n * 86_400));
        assert!(oldest_bucket(learned) < key.bucket && oldest_bucket(days(7)) <= key.bucket);
        assert!(oldest_bucket(days(9)) > key.bucket);
    }
}
