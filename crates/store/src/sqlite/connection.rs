//! How connections are opened and tuned, and what their errors mean.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use crate::{Error, Result};

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// KiB of pages that the writer keeps: the right edges of all trees and the inner pages of the large ones.
const WRITER_CACHE_KIB: i32 = 8 * 1024;
/// KiB of pages that each reader keeps.
const READER_CACHE_KIB: i32 = 1024;
/// Bytes that the log keeps on disk after a checkpoint found it larger (a long read had held it).
const LOG_BYTES: i64 = 64 * 1024 * 1024;
/// More than there are statements: none is ever prepared twice.
const STATEMENT_CACHE: usize = 256;

/// Opens the writer's connection, and makes the file if there is none.
pub(super) fn create(path: &Path) -> Result<Connection> {
    writer_with(path, OpenFlags::SQLITE_OPEN_CREATE)
}

/// Opens the writer's connection again. A file that vanished is not replaced by an empty one.
pub(super) fn reopen(path: &Path) -> Result<Connection> {
    writer_with(path, OpenFlags::empty())
}

fn writer_with(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let c = open(path, flags)?;
    // A commit is on the disk before it is answered.
    c.pragma_update(None, "synchronous", "FULL")?;
    c.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // No commit does it: see `checkpoint`.
    c.pragma_update(None, "wal_autocheckpoint", 0)?;
    c.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    Ok(c)
}

/// Opens a connection that only moves the log into the file.
pub(super) fn checkpointer(path: &Path) -> Result<Connection> {
    let c = open(path, OpenFlags::empty())?;
    // The log is on the disk before the file is written to, and the file before the log is begun anew.
    c.pragma_update(None, "synchronous", "FULL")?;
    c.pragma_update(None, "cache_size", 1)?;
    Ok(c)
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let c = open(path, OpenFlags::empty())?;
    c.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    c.pragma_update(None, "query_only", true)?;
    Ok(c)
}

fn open(path: &Path, more: OpenFlags) -> Result<Connection> {
    // Readers get the flag to write too: whoever comes first after a crash must recover the log.
    let c = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more)?;
    c.busy_timeout(BUSY_TIMEOUT)?;
    c.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    c.pragma_update(None, "temp_store", "MEMORY")?;
    c.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Plans don't depend on the values bound, so a statement is never planned again because they changed.
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(c)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let passes = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied
                    | ErrorCode::OutOfMemory
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::FileLockingProtocolFailed
            )
        );
        if passes { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}
