//! Migrations: steps that only go forward, each in a transaction of its own, written down in the table `migrations`.

use raven_core::Timestamp;
use rusqlite::{Connection, params};

use crate::{Error, Result};

/// `Ravn`: marks a file as Raven's (SQLite's own header field for that).
const APPLICATION_ID: i32 = 0x5261_766e;

/// A step.
pub(super) struct Step {
    number: i32,
    name: &'static str,
    sql: &'static str,
}

/// All steps, in order.
pub(super) const STEPS: &[Step] = &[
    Step { number: 1, name: "first", sql: include_str!("../../migrations/0001_first/sqlite.sql") },
    Step { number: 2, name: "contract", sql: include_str!("../../migrations/0002_contract/sqlite.sql") },
    Step { number: 3, name: "priority", sql: include_str!("../../migrations/0003_priority/sqlite.sql") },
    Step { number: 4, name: "config_status", sql: include_str!("../../migrations/0004_config_status/sqlite.sql") },
    Step { number: 5, name: "suppressions", sql: include_str!("../../migrations/0005_suppressions/sqlite.sql") },
    Step { number: 6, name: "callbacks", sql: include_str!("../../migrations/0006_callbacks/sqlite.sql") },
    Step { number: 7, name: "routing", sql: include_str!("../../migrations/0007_routing/sqlite.sql") },
    Step { number: 8, name: "rare_statuses", sql: include_str!("../../migrations/0008_rare_statuses/sqlite.sql") },
    Step { number: 9, name: "parts", sql: include_str!("../../migrations/0009_parts/sqlite.sql") },
    Step { number: 10, name: "waiting", sql: include_str!("../../migrations/0010_waiting/sqlite.sql") },
];

/// Number of the last step.
pub(super) const LATEST: i32 = STEPS[STEPS.len() - 1].number;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migrations (
  number INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  applied_at INTEGER NOT NULL
) STRICT";

/// Refuses a file that isn't Raven's, or that a newer Raven made.
pub(super) fn inspect(c: &Connection) -> Result<()> {
    let id: i32 = c.query_row("PRAGMA application_id", [], |r| r.get(0))?;
    let tables: i64 = c.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if id != APPLICATION_ID && (id != 0 || tables > 0) {
        return Err(Error::internal("the file is a database of another application"));
    }
    let applied = applied(c)?;
    if applied > LATEST {
        return Err(Error::internal(format!(
            "the database is of a newer version (step {applied}) than this program (step {LATEST}): run the newer one"
        )));
    }
    Ok(())
}

/// Number of the last step that was applied; 0 for an empty file.
pub(super) fn applied(c: &Connection) -> Result<i32> {
    let table = c.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'")?.exists([])?;
    if !table {
        return Ok(0);
    }
    Ok(c.query_row("SELECT coalesce(max(number), 0) FROM migrations", [], |r| r.get(0))?)
}

/// Applies a step, in the caller's transaction; does nothing if it is applied.
pub(super) fn apply(c: &Connection, step: &Step, now: Timestamp) -> Result<()> {
    // Looked at within the transaction: another process may have migrated since the file was opened.
    inspect(c)?;
    if applied(c)? >= step.number {
        return Ok(());
    }
    c.pragma_update(None, "application_id", APPLICATION_ID)?;
    c.execute_batch(TABLE)?;
    c.execute_batch(step.sql)?;
    c.execute("INSERT INTO migrations (number, name, applied_at) VALUES (?1, ?2, ?3)", params![step.number, step.name, now.millis()])?;
    Ok(())
}
