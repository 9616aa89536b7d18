//! Rate limits across nodes: one statement takes tokens from a bucket.

use async_trait::async_trait;

use super::{PostgresStore, rows::get};
use crate::{Error, Limits, Result, TakeTokens, Taken};

/// When the bucket is full again as seen now: never past, and no further ahead than an empty bucket explains.
macro_rules! tat {
    () => {
        "LEAST(GREATEST(r.tat, $5), $6)"
    };
}

/// What is granted of what is wanted. Part of a token counts as none.
macro_rules! granted {
    () => {
        concat!("GREATEST(LEAST($2, $4 - (", tat!(), " - $5) / $3 - CASE WHEN (", tat!(), " - $5) % $3 > 0 THEN 1 ELSE 0 END), 0)")
    };
}

const TAKE: &str = concat!(
    "INSERT INTO rate_limits AS r (bucket, tat, granted) VALUES ($1, $5::bigint + LEAST($2::bigint, $4::bigint) * $3::bigint, LEAST($2, $4)) \
     ON CONFLICT (bucket) DO UPDATE SET tat = ",
    tat!(),
    " + ",
    granted!(),
    " * $3, granted = ",
    granted!(),
    " RETURNING granted, tat"
);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[TAKE];

#[async_trait]
impl Limits for PostgresStore {
    async fn take_tokens(&self, request: TakeTokens) -> Result<Taken> {
        let TakeTokens { bucket, want, interval, burst, now } = request;
        let (want, interval, now) = (want.max(0), interval.max(1), now.max(0));
        // No bucket may reach beyond the end of time: then no step of the statement leaves an i64 either.
        let burst = burst.clamp(0, (i64::MAX - now) / interval);
        let empty = now + burst * interval;
        let row = self.connection().await?.query_opt(TAKE, &[&bucket, &want, &interval, &burst, &now, &empty]).await?;
        let row = row.ok_or_else(|| Error::internal("no bucket came back"))?;
        Ok(Taken { granted: get(&row, "granted")?, tat: get(&row, "tat")? })
    }
}
