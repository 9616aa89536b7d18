//! The one thread that writes. It takes whatever waits, runs each request in a savepoint of one transaction, commits once,
//! and then answers all of them: with many callers a commit is shared by many, with one it is not delayed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{checkpoint::Checkpointer, connection};
use crate::{Error, Result};

/// Requests that may wait; further callers wait for room.
const WAITING: usize = 1024;
/// Requests that share one commit at most.
const GROUP: usize = 64;

/// The way to the writer thread.
pub(super) struct Writer {
    sender: Mutex<Option<mpsc::Sender<Box<dyn Request>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(mut connection: Connection, path: PathBuf) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let checkpointer = Checkpointer::start(path.clone())?;
        checkpointer.watch(&mut connection)?;
        let writing = Writing { connection: Some(connection), path, checkpointer };
        let spawned = std::thread::Builder::new().name("raven-writer".to_owned()).spawn(move || writing.run(receiver));
        let thread = spawned.map_err(|e| Error::Unavailable(e.into()))?;
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Runs `work` in a transaction. Once it was handed over it is carried out, even if the caller stops waiting.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { work: Some(work), result: None, reply };
        let sender = self.sender.lock().clone().ok_or_else(closed)?;
        sender.send(Box::new(call)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Does the thread take requests?
    pub(super) fn is_alive(&self) -> Result<()> {
        match &*self.sender.lock() {
            Some(sender) if !sender.is_closed() => Ok(()),
            _ => Err(closed()),
        }
    }

    /// Finishes what was handed over, then ends the thread and closes its connection.
    pub(super) async fn close(&self) {
        self.sender.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // An error means that the thread or the waiting task panicked: there is nothing left to close then.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

fn closed() -> Error {
    Error::Unavailable("the writer is closed".into())
}

/// What became of a request before the commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// To be committed.
    Done,
    /// To be rolled back.
    Refused,
    /// To be rolled back, and the connection may be of no more use.
    Broken,
}

/// A request of any result type.
trait Request: Send {
    fn run(&mut self, connection: &Connection) -> Ran;
    fn answer(self: Box<Self>, failure: Option<&Arc<Error>>);
}

struct Call<T, F> {
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Request for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> Ran {
        let Some(work) = self.work.take() else { return Ran::Refused };
        // The savepoint undoes what a panic left half done in the database, and nothing else is shared with the closure.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or_else(|_| Err(Error::internal("a transaction panicked")));
        let ran = match &result {
            Ok(_) => Ran::Done,
            Err(Error::Unavailable(_)) => Ran::Broken,
            Err(_) => Ran::Refused,
        };
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, failure: Option<&Arc<Error>>) {
        let result = match (self.result, failure) {
            (Some(Err(own)), _) => Err(own),
            (_, Some(shared)) => Err(Error::Unavailable(Box::new(Arc::clone(shared)))),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(Error::internal("a transaction was not run")),
        };
        // The caller may have stopped waiting; what was committed stays.
        drop(self.reply.send(result));
    }
}

struct Writing {
    /// `None` after a failure: opened again for the next group.
    connection: Option<Connection>,
    path: PathBuf,
    checkpointer: Checkpointer,
}

impl Writing {
    fn run(mut self, mut requests: mpsc::Receiver<Box<dyn Request>>) {
        let mut group = Vec::with_capacity(GROUP);
        while requests.blocking_recv_many(&mut group, GROUP) > 0 {
            let failure = self.transact(&mut group).err().map(Arc::new);
            for request in group.drain(..) {
                request.answer(failure.as_ref());
            }
            if let Some(connection) = &self.connection {
                self.checkpointer.finish(connection);
            }
        }
    }

    /// Runs a group in one transaction. An error here is one of the transaction, so of everyone in it.
    fn transact(&mut self, group: &mut [Box<dyn Request>]) -> Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = connection::reopen(&self.path)?;
                self.checkpointer.watch(&mut connection)?;
                connection
            }
        };
        let result = run_group(&connection, group);
        // One that failed is closed, which rolls back what is still open, and the next group starts afresh.
        if result.as_ref().is_ok_and(|ran| *ran != Ran::Broken) {
            self.connection = Some(connection);
        }
        result.map(drop).map_err(Error::from)
    }
}

fn run_group(c: &Connection, group: &mut [Box<dyn Request>]) -> rusqlite::Result<Ran> {
    execute(c, "BEGIN IMMEDIATE")?;
    if let [alone] = group {
        let ran = alone.run(c);
        // Some failures (a full disk, say) end the transaction by themselves.
        if ran == Ran::Done {
            execute(c, "COMMIT")?;
        } else if !c.is_autocommit() {
            execute(c, "ROLLBACK")?;
        }
        return Ok(ran);
    }
    let mut worst = Ran::Done;
    for request in group {
        execute(c, "SAVEPOINT request")?;
        let ran = request.run(c);
        if ran != Ran::Done {
            // Fails when the transaction is gone, and with it what the requests before this one did.
            execute(c, "ROLLBACK TO request")?;
        }
        execute(c, "RELEASE request")?;
        if ran == Ran::Broken {
            worst = ran;
        }
    }
    execute(c, "COMMIT")?;
    Ok(worst)
}

/// Runs a statement without parameters or rows.
pub(super) fn execute(c: &Connection, sql: &str) -> rusqlite::Result<()> {
    c.prepare_cached(sql)?.execute([]).map(drop)
}
