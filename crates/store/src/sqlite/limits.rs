//! Rate limits in SQLite. One process serves from the file, so what it takes here only has to outlive a restart.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{SqliteStore, rows::Id};
use crate::{Limits, Result, TakeTokens, Taken};

pub(super) const STATEMENTS: &[&str] = &[FIND, STORE];

const FIND: &str = "SELECT tat FROM rate_limits WHERE bucket = ?1";
const STORE: &str = "INSERT INTO rate_limits (bucket, tat, granted) VALUES (?1, ?2, ?3)
  ON CONFLICT (bucket) DO UPDATE SET tat = excluded.tat, granted = excluded.granted";

/// What a bucket with this `tat` grants. Counts in 128 bits: no product of two of the numbers overflows.
fn granted(r: &TakeTokens, tat: i64) -> Taken {
    let (interval, now) = (i128::from(r.interval.max(1)), i128::from(r.now));
    let full = i128::from(r.burst.max(0)) * interval;
    // Further ahead than an empty bucket is: the clock was set back, or the limit was lowered.
    let tat = i128::from(tat).clamp(now, now + full);
    let free = (now + full - tat) / interval;
    let granted = i128::from(r.want.max(0)).min(free);
    let told = |n: i128| i64::try_from(n).unwrap_or(i64::MAX);
    Taken { granted: told(granted), tat: told(tat + granted * interval) }
}

fn take(c: &Connection, request: &TakeTokens) -> Result<Taken> {
    let bucket = Id(request.bucket);
    let stored: Option<i64> = c.prepare_cached(FIND)?.query_row([bucket], |r| r.get(0)).optional()?;
    let taken = granted(request, stored.unwrap_or(request.now));
    // A bucket that was full and gives nothing needs no row.
    let before = stored.unwrap_or(taken.tat);
    if taken.granted > 0 || before > taken.tat {
        c.prepare_cached(STORE)?.execute(params![bucket, taken.tat, taken.granted])?;
    }
    Ok(taken)
}

#[async_trait]
impl Limits for SqliteStore {
    async fn take_tokens(&self, request: TakeTokens) -> Result<Taken> {
        self.write(move |c| take(c, &request)).await
    }
}
