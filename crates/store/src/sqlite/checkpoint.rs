//! Checkpoints: what the log holds is moved into the file by a thread of its own, so that no commit waits for it.
//!
//! While the writer goes on, a checkpoint never reaches the log's end, and only a log that was moved to its end is begun anew.
//! So the thread goes over it twice, which leaves little, and the writer moves that itself, between two transactions.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::JoinHandle,
};

use raven_core::problem::chain;
use rusqlite::{Connection, hooks::Wal};

use super::connection;
use crate::{Error, Result};

/// Pages in the log after which they are moved: 16 MiB, enough that a page which grows by many commits is moved once.
const STEP: i64 = 4000;
/// Times that the thread goes over the log: the second time there is little to do.
const PASSES: usize = 2;

/// What the thread is told.
enum Ring {
    Begin,
    End,
}

/// The thread, and when it is to begin.
pub(super) struct Checkpointer {
    bell: SyncSender<Ring>,
    log: Arc<Log>,
    thread: Option<JoinHandle<()>>,
}

/// What is known of the log.
#[derive(Default)]
struct Log {
    /// Pages in it after the last commit.
    pages: AtomicI64,
    /// Is it the writer's turn to move what is left of it?
    is_left: AtomicBool,
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(path: PathBuf) -> Result<Self> {
        let (bell, rung) = mpsc::sync_channel(1);
        let log = Arc::new(Log::default());
        let moving = Moving { path, connection: None, log: log.clone() };
        let spawned = std::thread::Builder::new().name("raven-checkpoint".to_owned()).spawn(move || moving.run(&rung));
        let thread = spawned.map_err(|e| Error::Unavailable(e.into()))?;
        Ok(Self { bell, log, thread: Some(thread) })
    }

    /// Has the commits of a connection counted.
    pub(super) fn watch(&self, connection: &mut Connection) -> Result<()> {
        let (bell, log, mut begun_at) = (self.bell.clone(), self.log.clone(), 0);
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            let pages = i64::from(pages);
            log.pages.store(pages, Ordering::Release);
            if is_due(pages, &mut begun_at) {
                // A bell that rings already needs no second ring.
                let _ = bell.try_send(Ring::Begin);
            }
            Ok(())
        }))?;
        Ok(())
    }

    /// Moves what the thread left, if it left anything: called by the writer between two transactions.
    pub(super) fn finish(&self, connection: &Connection) {
        if self.log.is_left.load(Ordering::Acquire) {
            tell(move_log(connection).map(drop));
            self.log.is_left.store(false, Ordering::Release);
        }
    }
}

impl Drop for Checkpointer {
    /// Waits until the thread has ended, and with it its connection.
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.bell.send(Ring::End);
        if let Some(thread) = self.thread.take() {
            // An error means that it panicked: there is nothing left to end then.
            drop(thread.join());
        }
    }
}

/// Has the log grown by a step since it had `begun_at` pages, which is then moved on?
fn is_due(pages: i64, begun_at: &mut i64) -> bool {
    if pages < *begun_at {
        // It was begun anew.
        *begun_at = 0;
    }
    let due = pages - *begun_at >= STEP;
    if due {
        *begun_at = pages;
    }
    due
}

struct Moving {
    path: PathBuf,
    /// Opened when it is first needed, and again after a failure.
    connection: Option<Connection>,
    log: Arc<Log>,
}

impl Moving {
    fn run(mut self, rung: &Receiver<Ring>) {
        while let Ok(Ring::Begin) = rung.recv() {
            // Only one can, and the writer's turn comes with its next commit.
            if self.log.is_left.load(Ordering::Acquire) {
                continue;
            }
            match self.step() {
                Ok(is_left) => self.log.is_left.store(is_left, Ordering::Release),
                Err(e) => tell(Err(e)),
            }
        }
    }

    /// Moves what is there. Returns whether more has come meanwhile. A connection that failed is not used again.
    fn step(&mut self) -> Result<bool> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::checkpointer(&self.path)?,
        };
        let mut is_left = true;
        for _ in 0..PASSES {
            is_left = move_log(&connection)? < self.log.pages.load(Ordering::Acquire);
            if !is_left {
                break;
            }
        }
        self.connection = Some(connection);
        Ok(is_left)
    }
}

/// Moves what is in the log by now, as far as readers let it, and waits for nobody. Returns how many of its pages have been moved.
fn move_log(connection: &Connection) -> Result<i64> {
    Ok(connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |row| row.get(2))?)
}

/// Nothing is lost by a checkpoint that fails: the log is longer, and the next one tries again.
fn tell(result: Result<()>) {
    if let Err(e) = result {
        tracing::warn!(error = chain(&e), "the log could not be moved into the database's file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_due_with_each_step_that_it_grows() {
        let mut begun_at = 0;
        let due: Vec<i64> = (1..STEP * 7 / 2).filter(|pages| is_due(*pages, &mut begun_at)).collect();
        assert_eq!(due, [STEP, 2 * STEP, 3 * STEP]);
        assert!(!is_due(7, &mut begun_at), "begun anew");
        assert!(is_due(STEP + 7, &mut begun_at), "a commit of many pages");
        assert!(!is_due(2 * STEP + 6, &mut begun_at));
    }

    #[test]
    fn the_log_is_begun_anew_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raven.db");
        let mut writer = connection::create(&path).expect("a database");
        writer.execute_batch("CREATE TABLE lines (n INTEGER PRIMARY KEY, text TEXT NOT NULL)").expect("a table");
        let checkpointer = Checkpointer::start(path.clone()).expect("a thread");
        checkpointer.watch(&mut writer).expect("a hook");
        let log = path.with_extension("db-wal");
        for n in 0..400 {
            // Some 150 pages each.
            writer.execute("WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 1000) INSERT INTO lines (n, text) SELECT ?1 * 1000 + n, hex(randomblob(250)) FROM i", [n]).expect("lines");
            checkpointer.finish(&writer);
        }
        let pages = std::fs::metadata(&log).expect("a log").len() / 4096;
        let all = std::fs::metadata(&path).expect("a file").len() / 4096;
        assert!(pages < 20_000, "{pages} pages in the log, {all} in the file");
        assert!(all > 3000, "{all} pages in the file");
        drop(writer);
        drop(checkpointer);
        let lines: i64 =
            connection::reader(&path).expect("a reader").query_row("SELECT count(*) FROM lines", [], |r| r.get(0)).expect("a count");
        assert_eq!(lines, 400_000);
    }
}
