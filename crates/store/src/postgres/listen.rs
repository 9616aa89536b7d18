//! Wake-ups by LISTEN and NOTIFY, over one connection of their own that goes past any pooler. A NOTIFY takes a lock of the
//! whole cluster until its commit is done, so it is never part of a transaction that does anything else.
//!
//! What lives here: the line, the task that holds it, and how it is made anew. What must not: the pools' connections.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Config, SimpleQueryMessage};

use super::{PostgresStore, tls::Tls};
use crate::{Error, Result, Wakes};

/// Between two wake-ups that this node sends.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How long making the line, or one statement on it, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The pause before the line is made anew; it doubles up to the longest one while that fails.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the last wake-up and the goodbye may take when the store is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

// A channel belongs to its database. Neither statement is prepared: each runs once, or must not depend on the session.
const LISTEN: &str = "LISTEN raven_work";
const NOTIFY: &str = "NOTIFY raven_work";
const OWN_PROCESS: &str = "SELECT pg_backend_pid()";

/// Nothing is lost with a wake-up, so its commit need not wait for the disk.
const OPTIONS: &str = "-c synchronous_commit=off";

/// The line on which nodes wake each other.
pub(super) struct Line {
    ends: Arc<Ends>,
    way: (Config, Tls),
    closing: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the line's task shares with the verbs. Each bell remembers one ring at most.
#[derive(Default)]
struct Ends {
    /// Rung when this node has something to tell.
    told: Notify,
    /// Rung when another node may have told something.
    woken: Notify,
}

impl Line {
    /// A line that is not up yet, by the direct way to the database.
    pub(super) fn new(config: &Config, tls: &Tls) -> Self {
        let mut config = config.clone();
        // In the list of the server's processes it is told apart from those of the pools.
        let name = config.get_application_name().map_or_else(|| "wakes".to_owned(), |name| format!("{name} wakes"));
        config.application_name(name);
        let options = config.get_options().map_or_else(|| OPTIONS.to_owned(), |own| format!("{own} {OPTIONS}"));
        config.options(options);
        Self { ends: Arc::default(), way: (config, tls.clone()), closing: watch::Sender::new(false), task: Mutex::default() }
    }

    fn open(&self) {
        let mut task = self.task.lock();
        if task.is_none() && !*self.closing.borrow() {
            let way = self.way.clone();
            *task = Some(tokio::spawn(hold(self.ends.clone(), way, self.closing.subscribe())));
        }
    }

    /// Sends what was told last, and ends the line.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && timeout(CLOSE_WITHIN, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

/// Keeps the line up until the store is closed.
async fn hold(ends: Arc<Ends>, (config, tls): (Config, Tls), mut closing: watch::Receiver<bool>) {
    let (mut pause, mut down) = (SHORTEST_PAUSE, false);
    loop {
        let mut was_up = false;
        let up = || {
            was_up = true;
            if down {
                tracing::info!("nodes wake each other again");
            }
        };
        let Err(error) = talk(&ends, &config, &tls, closing.clone(), up).await else { return };
        if was_up {
            (pause, down) = (SHORTEST_PAUSE, false);
        }
        if !down {
            let error = raven_core::problem::chain(&error);
            tracing::warn!(error, "nodes can't wake each other; until they can, work that another node left is found within half a second");
            down = true;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Makes the line, then hears and tells on it. `Ok` when the store is closed, an error when the line is lost.
async fn talk(ends: &Ends, config: &Config, tls: &Tls, mut closing: watch::Receiver<bool>, up: impl FnOnce()) -> Result<()> {
    let (client, mut connection) = within(config.connect(tls.connector()?)).await?;
    let own_process = AtomicI32::new(0);
    let hear = async {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(told))) if told.process_id() != own_process.load(Ordering::Relaxed) => {
                    ends.woken.notify_one();
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(lost(e)),
                None => return Ok(()),
            }
        }
    };
    let tell = async {
        own_process.store(process_of(&client).await?, Ordering::Relaxed);
        within(client.batch_execute(LISTEN)).await?;
        up();
        // What was told while the line was down has gone by.
        ends.woken.notify_one();
        loop {
            tokio::select! {
                biased;
                () = ends.told.notified() => {}
                _ = closing.wait_for(|closing| *closing) => {
                    drop(client);
                    return Ok(());
                }
            }
            if let Err(e) = within(client.batch_execute(NOTIFY)).await {
                ends.told.notify_one();
                return Err(e);
            }
            // Whoever closes waits for the last wake-up, not for the pause after it.
            tokio::select! {
                () = sleep(DEBOUNCE) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    };
    tokio::pin!(hear);
    tokio::select! {
        // The other side ended it, without an error of its own.
        heard = &mut hear => heard.and_then(|()| Err(Error::Unavailable("the connection was ended".into()))),
        told = tell => {
            told?;
            hear.await
        }
    }
}

/// The server's process behind this connection: what it tells comes back to it, too.
async fn process_of(client: &Client) -> Result<i32> {
    let rows = within(client.simple_query(OWN_PROCESS)).await?;
    let process = rows.iter().find_map(|row| if let SimpleQueryMessage::Row(row) = row { row.get(0)?.parse().ok() } else { None });
    process.ok_or_else(|| Error::internal("the server did not name its process"))
}

async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match timeout(ANSWER_WITHIN, work).await {
        Ok(done) => done.map_err(lost),
        Err(_) => Err(Error::Unavailable("no answer in time".into())),
    }
}

fn lost(error: tokio_postgres::Error) -> Error {
    Error::Unavailable(Box::new(error))
}

#[async_trait]
impl Wakes for PostgresStore {
    fn listen(&self) {
        self.line.open();
    }

    fn announce(&self) {
        self.line.ends.told.notify_one();
    }

    async fn woken(&self) {
        self.line.ends.woken.notified().await;
    }
}
