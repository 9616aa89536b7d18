//! What rate limits promise. Their buckets hold ten tokens, of which one comes back each second, where nothing else is said.

use std::sync::Arc;

use super::fixture::{id, tokens};
use crate::{Result, Store, TakeTokens, Taken};

const SECOND: i64 = 1_000_000_000;

/// A request that comes so many nanoseconds after the first one.
fn later(after: i64, want: i64) -> TakeTokens {
    let first = tokens(id(1), want);
    TakeTokens { now: first.now + after, ..first }
}

/// So many tokens, of a bucket that is full again so long after the first request.
fn taken(granted: i64, full_after: i64) -> Taken {
    Taken { granted, tat: tokens(id(1), 0).now + full_after }
}

pub async fn a_full_bucket_grants_what_it_holds(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.take_tokens(later(0, 7)).await?, taken(7, 7 * SECOND));
    assert_eq!(store.take_tokens(later(0, 7)).await?, taken(3, 10 * SECOND));
    assert_eq!(store.take_tokens(later(0, 7)).await?, taken(0, 10 * SECOND));
    assert_eq!(store.take_tokens(tokens(id(2), 99)).await?, taken(10, 10 * SECOND), "another bucket");
    Ok(())
}

pub async fn tokens_come_back_evenly(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.take_tokens(later(0, 10)).await?.granted, 10);
    assert_eq!(store.take_tokens(later(SECOND - 1, 5)).await?, taken(0, 10 * SECOND));
    assert_eq!(store.take_tokens(later(SECOND, 5)).await?, taken(1, 11 * SECOND));
    assert_eq!(store.take_tokens(later(SECOND, 5)).await?, taken(0, 11 * SECOND));
    // Two and a half came back: the half is not lost.
    assert_eq!(store.take_tokens(later(3 * SECOND + SECOND / 2, 5)).await?, taken(2, 13 * SECOND));
    assert_eq!(store.take_tokens(later(4 * SECOND, 5)).await?, taken(1, 14 * SECOND));
    // However long nobody asks, a bucket holds no more than it holds.
    assert_eq!(store.take_tokens(later(999 * SECOND, 99)).await?, taken(10, 1009 * SECOND));
    Ok(())
}

pub async fn a_request_for_nothing_tells_when_the_bucket_is_full(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.take_tokens(later(0, 0)).await?, taken(0, 0));
    assert_eq!(store.take_tokens(later(0, 4)).await?, taken(4, 4 * SECOND));
    assert_eq!(store.take_tokens(later(SECOND, 0)).await?, taken(0, 4 * SECOND));
    assert_eq!(store.take_tokens(later(9 * SECOND, 0)).await?, taken(0, 9 * SECOND), "never before the request");
    Ok(())
}

pub async fn a_bucket_recovers_from_a_clock_that_was_set_back(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.take_tokens(later(0, 10)).await?.granted, 10);
    // Counts as empty at that time, and not as one that is ahead by a hundred seconds more.
    assert_eq!(store.take_tokens(later(-100 * SECOND, 5)).await?, taken(0, -90 * SECOND));
    assert_eq!(store.take_tokens(later(-99 * SECOND, 5)).await?, taken(1, -89 * SECOND));
    assert_eq!(store.take_tokens(later(-89 * SECOND, 99)).await?, taken(10, -79 * SECOND));
    Ok(())
}

pub async fn another_limit_holds_at_once(store: Arc<dyn Store>) -> Result<()> {
    let small = |after, want| TakeTokens { burst: 3, ..later(after, want) };
    assert_eq!(store.take_tokens(later(0, 8)).await?, taken(8, 8 * SECOND));
    assert_eq!(store.take_tokens(small(0, 5)).await?, taken(0, 3 * SECOND), "more was taken than a small bucket holds");
    assert_eq!(store.take_tokens(small(2 * SECOND, 5)).await?, taken(2, 5 * SECOND));
    let large = TakeTokens { burst: 20, ..later(2 * SECOND, 99) };
    assert_eq!(store.take_tokens(large).await?, taken(17, 22 * SECOND));
    Ok(())
}

pub async fn a_large_bucket_counts_exactly(store: Arc<dyn Store>) -> Result<()> {
    let large = |after, want| TakeTokens { burst: 2_000_000, interval: 30_000, ..later(after, want) };
    assert_eq!(store.take_tokens(large(0, 1_999_999)).await?, taken(1_999_999, 59_999_970_000));
    assert_eq!(store.take_tokens(large(0, 2_000_000)).await?, taken(1, 60_000_000_000));
    assert_eq!(store.take_tokens(large(SECOND, 2_000_000)).await?.granted, 33_333);
    Ok(())
}

pub async fn takers_at_the_same_time_share_one_bucket(store: Arc<dyn Store>) -> Result<()> {
    let takers = (0..40).map(|_| store.take_tokens(TakeTokens { burst: 50, ..later(0, 3) }));
    let granted = futures_util::future::try_join_all(takers).await?;
    assert_eq!(granted.iter().map(|t| t.granted).sum::<i64>(), 50);
    assert_eq!(granted.iter().map(|t| t.tat).max(), Some(taken(0, 50 * SECOND).tat));
    Ok(())
}
