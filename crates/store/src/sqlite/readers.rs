//! Connections that only read: each call runs on a thread for blocking work, on a snapshot of its own. They neither wait
//! for the writer nor hold it up.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{connection, writer::execute};
use crate::{Error, Result};

/// Reads that run side by side.
const READERS: u32 = 3;

/// The connections. They are opened when they are first needed, and again after they failed.
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    /// None is open yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, permits: Arc::new(Semaphore::new(READERS as usize)), idle: Arc::default() }
    }

    /// Runs `work` in a read transaction.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let ran = tokio::task::spawn_blocking(move || {
            // Held until the connection is back, even if nobody waits for the answer any more.
            let _permit = permit;
            let taken = idle.lock().pop();
            let connection = match taken {
                Some(connection) => connection,
                None => connection::reader(&path)?,
            };
            execute(&connection, "BEGIN")?;
            let result = work(&connection);
            // One that failed is not used again: whatever broke it, the next call starts afresh.
            if result.is_ok() {
                execute(&connection, "COMMIT")?;
                idle.lock().push(connection);
            }
            result
        });
        ran.await.map_err(|e| Error::Internal(e.into()))?
    }

    /// Waits for the reads that run, refuses further ones, and closes the connections.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.permits.acquire_many(READERS).await {
            self.permits.close();
            drop(all);
            self.idle.lock().clear();
        }
    }
}

fn closed() -> Error {
    Error::Unavailable("the store is closed".into())
}
