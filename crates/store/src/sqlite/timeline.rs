//! The timeline of a message in SQLite: stored outcomes, with the lines filled in that need no row of their own.

use raven_core::{EventKind, Seq, TenantId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{Id, code, time, time_or_null};
use crate::{EventRecord, Result};

pub(super) const STATEMENTS: &[&str] = &[EXISTS, LIST, STARTED];

const EXISTS: &str = "SELECT 1 FROM messages WHERE seq = ?1 AND tenant_id = ?2";
const LIST: &str = "SELECT kind, at, attempt, started_at, detail, payload FROM events WHERE message_seq = ?1 AND tenant_id = ?2 ORDER BY n";
const STARTED: &str = "SELECT attempt, started_at FROM jobs WHERE seq = ?1 AND tenant_id = ?2 AND started_at IS NOT NULL";

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

fn stored(row: &Row<'_>) -> rusqlite::Result<(EventRecord, Option<Timestamp>)> {
    let event = EventRecord {
        kind: code(row, 0, EventKind::from_code)?,
        at: time(row, 1)?,
        attempt: row.get(2)?,
        detail: row.get(4)?,
        payload: row.get(5)?,
    };
    Ok((event, time_or_null(row, 3)?))
}

/// All lines, oldest first; none if the tenant has no such message.
pub(super) fn list(c: &Connection, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>> {
    let whose = params![seq.0, Id(tenant.0)];
    if !c.prepare_cached(EXISTS)?.exists(whose)? {
        return Ok(Vec::new());
    }
    let mut lines = vec![(QUEUED, line(EventKind::Queued, seq.at(), 0))];
    let mut starts: Vec<(i16, Timestamp, Place)> = Vec::new();
    let mut select = c.prepare_cached(LIST)?;
    let mut rows = select.query(whose)?;
    while let Some(row) = rows.next()? {
        let (event, started_at) = stored(row)?;
        let n = lines.len();
        starts.extend(started_at.map(|at| (event.attempt, at, (n, false))));
        lines.push(((n, true), event));
    }
    let under_way = c.prepare_cached(STARTED)?.query_row(whose, |r| Ok((r.get(0)?, time(r, 1)?, UNDER_WAY))).optional()?;
    starts.extend(under_way);
    // An attempt starts once, though several reports may tell of it.
    starts.sort_unstable();
    starts.dedup_by_key(|(attempt, ..)| *attempt);
    lines.extend(starts.into_iter().map(|(attempt, at, place)| (place, line(EventKind::Sending, at, attempt))));
    lines.sort_by_key(|(place, event)| (event.at, *place));
    Ok(lines.into_iter().map(|(_, event)| event).collect())
}
