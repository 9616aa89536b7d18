//! A cheap provider on loopback that speaks Africa's Talking: reads a request no further than its length, answers 201, and
//! counts. It runs on a thread of its own, so that its share of the CPU can be told.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    http, process,
    template::{NUMBER, Template},
};

/// What stands before a number in a text whose arrival is to be noted.
pub(crate) const MARK: &str = "mark";
/// The username of tenants whose provider is in trouble: it takes [`HOLD`] for each answer, so its lane is always full.
pub(crate) const SLOW: &str = "slow";
/// How a form of theirs begins.
const SLOW_FORM: &[u8] = b"username=slow&";
/// The username of those whose provider is down: it answers 500.
pub(crate) const DOWN: &str = "down";
const DOWN_FORM: &[u8] = b"username=down&";
/// The username of those whose provider takes requests and never answers.
pub(crate) const HANGS: &str = "hangs";
const HANGS_FORM: &[u8] = b"username=hangs&";
/// How long it takes for [`SLOW`].
const HOLD: Duration = Duration::from_secs(1);
/// Bytes of a request that are read at most.
const REQUEST_MAX: usize = 64 * 1024;

#[derive(Default)]
struct Counters {
    arrivals: AtomicU64,
    /// Of them, those that were answered late.
    held: AtomicU64,
    /// Requests of [`DOWN`] and of [`HANGS`], which arrive nowhere.
    refused: AtomicU64,
    hung: AtomicU64,
    /// Are arrivals noted one by one?
    noting: AtomicBool,
    notes: Mutex<Vec<(u64, Instant)>>,
}

/// The running provider. It ends with the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    pub(crate) thread: u32,
    counters: Arc<Counters>,
}

/// How many requests arrived; can be read from any thread.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Counters>);

impl Arrivals {
    pub(crate) fn count(&self) -> u64 {
        self.0.arrivals.load(Ordering::Relaxed)
    }
}

impl Sink {
    /// Starts it on a free port.
    pub(crate) fn start() -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let theirs = counters.clone();
        let (started, begun) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("provider".to_owned()).spawn(move || {
            let serve = async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
                let _ = started.send((listener.local_addr()?, process::thread_id()?));
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(serve(stream, theirs.clone()));
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // A failure drops `started`, which is noticed.
            let _: Result<()> = runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(serve));
        })?;
        let (address, thread) = begun.recv().context("the provider did not start")?;
        Ok(Self { address, thread, counters })
    }

    /// Requests that arrived so far.
    pub(crate) fn arrivals(&self) -> Arrivals {
        Arrivals(self.counters.clone())
    }

    /// Requests of [`SLOW`] that arrived so far.
    pub(crate) fn held(&self) -> u64 {
        self.counters.held.load(Ordering::Relaxed)
    }

    /// Requests of [`DOWN`] that were answered 500 so far.
    pub(crate) fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }

    /// Requests of [`HANGS`] that were not answered so far.
    pub(crate) fn hung(&self) -> u64 {
        self.counters.hung.load(Ordering::Relaxed)
    }

    /// From now on the arrival of each marked text is noted.
    pub(crate) fn note(&self) {
        self.counters.noting.store(true, Ordering::Relaxed);
    }

    /// The number and time of each arrival that was noted; noting ends.
    pub(crate) fn take_notes(&self) -> Vec<(u64, Instant)> {
        self.counters.noting.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.counters.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marked arrivals noted so far.
    pub(crate) fn noted(&self) -> usize {
        self.counters.notes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn answer() -> Template {
    let body = format!(
        "{{\"SMSMessageData\":{{\"Message\":\"Sent to 1/1 Total Cost: KES 0.8000\",\"Recipients\":[{{\"statusCode\":101,\
         \"number\":\"+254722000000\",\"status\":\"Success\",\"cost\":\"KES 0.8000\",\"messageId\":\"ATXid_{NUMBER}\"}}]}}}}"
    );
    Template::of(
        format!("HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    )
}

const DOWN_ANSWER: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";

/// Answers one request after the other. Whatever goes wrong ends the connection.
async fn serve(mut stream: TcpStream, counters: Arc<Counters>) -> std::io::Result<()> {
    let template = answer();
    let mut answer = template.copy();
    let mut buffer = vec![0; REQUEST_MAX];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        let now = Instant::now();
        filled += read;
        while let Some(head) = http::head(&buffer[..filled]).filter(|head| head.total() <= filled) {
            let body = &buffer[head.len..head.total()];
            if body.starts_with(HANGS_FORM) {
                counters.hung.fetch_add(1, Ordering::Relaxed);
                // Until whoever asked has had enough.
                return stream.read(&mut buffer).await.map(drop);
            }
            if body.starts_with(DOWN_FORM) {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                stream.write_all(DOWN_ANSWER).await?;
                buffer.copy_within(head.total()..filled, 0);
                filled -= head.total();
                continue;
            }
            let number = counters.arrivals.fetch_add(1, Ordering::Relaxed);
            if counters.noting.load(Ordering::Relaxed)
                && let Some(mark) = mark(&buffer[head.len..head.total()])
            {
                counters.notes.lock().unwrap_or_else(PoisonError::into_inner).push((mark, now));
            }
            if buffer[head.len..head.total()].starts_with(SLOW_FORM) {
                counters.held.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(HOLD).await;
            }
            template.write(&mut answer, number);
            stream.write_all(&answer).await?;
            buffer.copy_within(head.total()..filled, 0);
            filled -= head.total();
        }
    }
}

/// The number behind the mark in a form body.
fn mark(body: &[u8]) -> Option<u64> {
    let at = body.windows(MARK.len()).position(|w| w == MARK.as_bytes())? + MARK.len();
    std::str::from_utf8(body.get(at..at + NUMBER.len())?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_a_form() {
        assert_eq!(mark(b"username=acme&to=%2B254722000000&message=Hi+mark0000000042&bulkSMSMode=1"), Some(42));
        assert_eq!(mark(b"message=Hi+mark00042"), None);
        assert_eq!(mark(b"message=Hi"), None);
    }

    #[test]
    fn the_answer_is_whole_and_names_its_message() {
        let template = answer();
        let mut copy = template.copy();
        template.write(&mut copy, 7);
        let head = http::head(&copy).expect("it is whole");
        assert_eq!((head.status, head.total()), (201, copy.len()));
        let body: serde_json::Value = serde_json::from_slice(&copy[head.len..]).expect("it is JSON");
        assert_eq!(body["SMSMessageData"]["Recipients"][0]["messageId"], "ATXid_0000000007");
    }

    #[tokio::test]
    async fn who_is_slow_keeps_nobody_else_waiting() {
        let form = format!("username={SLOW}&to=1");
        assert!(form.as_bytes().starts_with(SLOW_FORM));
        let sink = Sink::start().expect("it starts");
        let slow = http::request("POST", "/version1/messaging", &[], &form);
        let (mut first, mut second) = (
            http::Connection::open(sink.address).await.expect("it listens"),
            http::Connection::open(sink.address).await.expect("it listens"),
        );
        let waits = tokio::spawn(async move { first.call(&slow).await.map(|a| a.status) });
        while sink.held() == 0 {
            tokio::task::yield_now().await;
        }
        let quick = http::request("POST", "/version1/messaging", &[], "username=acme&to=1");
        assert_eq!(second.call(&quick).await.expect("it answers").status, 201);
        assert_eq!((sink.held(), sink.arrivals().count()), (1, 2));
        waits.abort();
    }

    #[tokio::test]
    async fn who_is_down_answers_500_who_hangs_nothing_and_neither_counts_as_arrived() {
        let sink = Sink::start().expect("it starts");
        sink.note();
        let ask =
            |username: &str| http::request("POST", "/version1/messaging", &[], &format!("username={username}&message=mark0000000001"));
        let mut down = http::Connection::open(sink.address).await.expect("it listens");
        for _ in 0..2 {
            assert_eq!(down.call(&ask(DOWN)).await.expect("it answers").status, 500);
        }
        let mut hangs = http::Connection::open(sink.address).await.expect("it listens");
        let stuck = ask(HANGS);
        let waits = tokio::spawn(async move { hangs.call(&stuck).await.map(|a| a.status) });
        while sink.hung() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        waits.abort();
        assert_eq!((sink.refused(), sink.hung(), sink.arrivals().count(), sink.noted()), (2, 1, 0, 0));
    }

    #[tokio::test]
    async fn requests_are_answered_and_counted() {
        let sink = Sink::start().expect("it starts");
        let mut connection = http::Connection::open(sink.address).await.expect("it listens");
        sink.note();
        let request = http::request("POST", "/version1/messaging", &[], "message=mark0000000009&to=1");
        for _ in 0..3 {
            assert_eq!(connection.call(&request).await.expect("it answers").status, 201);
        }
        assert_eq!(sink.arrivals().count(), 3);
        assert_eq!(sink.take_notes().iter().map(|n| n.0).collect::<Vec<_>>(), [9, 9, 9]);
    }
}
