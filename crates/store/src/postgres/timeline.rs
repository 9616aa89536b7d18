//! The timeline of a message: stored outcomes, with the lines filled in that need no row of their own.

use raven_core::{EventKind, Seq, TenantId, Timestamp};

use super::{
    PostgresStore,
    rows::{self, get, optional_time, time},
};
use crate::{EventRecord, Result};

// One row at least if the tenant has the message: the job's or an outcome's columns are absent where there is none.
const LIST: &str = "
SELECT e.kind, e.at, e.attempt, e.started_at, e.detail, e.payload, j.attempt AS job_attempt, j.started_at AS job_started_at
FROM messages m
LEFT JOIN jobs j ON j.seq = m.seq AND j.started_at IS NOT NULL
LEFT JOIN events e ON e.message_seq = m.seq AND e.message_seq = $1
WHERE m.seq = $1 AND m.tenant_id = $2 ORDER BY e.n";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[LIST];

/// Order of lines of the same instant: that of recording. What is filled in of an attempt stands before the first line of it that was
/// recorded (`false`), so that attempts which follow each other within an instant don't mix.
type Place = (usize, bool);
/// Before all that was recorded.
const QUEUED: Place = (0, false);
/// After it: nothing was recorded of the attempt yet.
const UNDER_WAY: Place = (usize::MAX, false);

fn line(kind: EventKind, at: Timestamp, attempt: i16) -> EventRecord {
    EventRecord { kind, at, attempt, detail: None, payload: None }
}

/// See [`Messages::list_events`](crate::Messages::list_events).
pub(super) async fn list(store: &PostgresStore, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>> {
    let rows = store.connection().await?.query_within(tenant, LIST, &[&seq.0, &tenant.0]).await?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let mut lines = vec![(QUEUED, line(EventKind::Queued, seq.at(), 0))];
    let mut starts: Vec<(i16, Timestamp, Place)> = Vec::new();
    if let Some(at) = optional_time(first, "job_started_at")? {
        starts.push((get(first, "job_attempt")?, at, UNDER_WAY));
    }
    for row in &rows {
        if get::<Option<i16>>(row, "kind")?.is_none() {
            continue;
        }
        let (event, n) = (rows::event(row)?, lines.len());
        if get::<Option<i64>>(row, "started_at")?.is_some() {
            starts.push((event.attempt, time(row, "started_at")?, (n, false)));
        }
        lines.push(((n, true), event));
    }
    // An attempt starts once, though several reports may tell of it.
    starts.sort_unstable();
    starts.dedup_by_key(|(attempt, ..)| *attempt);
    lines.extend(starts.into_iter().map(|(attempt, at, place)| (place, line(EventKind::Sending, at, attempt))));
    lines.sort_by_key(|(place, event)| (event.at, *place));
    Ok(lines.into_iter().map(|(_, event)| event).collect())
}
