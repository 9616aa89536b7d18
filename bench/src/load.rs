//! The closed loop: so many connections, each sending its next request when the last one is answered. One thread, requests
//! that are built beforehand, answers that are read only as far as their length, so that little CPU goes into asking.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::{http, process, sink::Arrivals, stats::Durations, template::Template};

/// How often is looked whether a shut gate has opened.
const PAUSE: Duration = Duration::from_millis(1);
/// The status that every answer should have, where messages are sent.
pub(crate) const ACCEPTED: u16 = 202;

/// Where requests go and what they say.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) template: Template,
    /// The status that every answer should have.
    pub(crate) expects: u16,
    /// The next running number; goes on from one load to the next.
    pub(crate) next: Arc<AtomicU64>,
}

/// Keeps what is under way small: requests wait while more than `most` have not arrived at the provider, so what is
/// accepted is what is delivered, and no queue grows.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) arrivals: Arrivals,
    pub(crate) most: u64,
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    answered: AtomicU64,
    wrong: AtomicU64,
    measuring: AtomicBool,
    stop: AtomicBool,
    first_wrong: Mutex<Option<String>>,
    /// What was measured and not taken yet. One thread asks, so nobody waits for it.
    times: Mutex<Vec<Duration>>,
    /// Rung for each connection that may pass the gate again.
    bell: Notify,
}

impl Shared {
    /// How many more may be under way.
    fn room(&self, gate: &Passage) -> u64 {
        let under_way = self.sent.load(Ordering::Relaxed).saturating_sub(gate.gate.arrivals.count() - gate.before);
        gate.gate.most.saturating_sub(under_way)
    }

    fn take_times(&self) -> Durations {
        Durations::of(std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A gate, and what had arrived before the load began.
#[derive(Clone)]
struct Passage {
    gate: Gate,
    before: u64,
}

/// A running load; ends when dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Its thread.
    pub(crate) id: u32,
}

/// What a load saw.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From sending to the whole answer, of what was answered while measuring and not taken before.
    pub(crate) times: Durations,
    /// Answers as they should be, in all.
    pub(crate) answered: u64,
    /// Answers that were not.
    pub(crate) wrong: u64,
    /// The first of them.
    pub(crate) first_wrong: Option<String>,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(target: &Target, connections: usize, gate: Option<Gate>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, target) = (shared.clone(), target.clone());
        let (started, begun) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let _ = started.send(process::thread_id()?);
            let gate = gate.map(|gate| Passage { before: gate.arrivals.count(), gate });
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let ask = |_| tokio::spawn(ask(target.clone(), theirs.clone(), gate.clone()));
                let all: Vec<_> = (0..connections).map(ask).collect();
                if let Some(gate) = gate.clone() {
                    tokio::spawn(open(theirs.clone(), gate, connections));
                }
                for one in all {
                    one.await??;
                }
                Ok(())
            })
        })?;
        let id = begun.recv().context("the load did not start")?;
        Ok(Self { shared, thread: Some(thread), id })
    }

    /// Requests answered as they should be so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Did it end by itself? [`Self::finish`] tells why.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// From now on the time of each request is kept.
    pub(crate) fn measure(&self) {
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    /// The times that were kept since this was asked last.
    pub(crate) fn take_times(&self) -> Durations {
        self.shared.take_times()
    }

    /// Ends it: no request is left unanswered.
    pub(crate) async fn finish(mut self) -> Result<Outcome> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a load ends once")?;
        tokio::task::spawn_blocking(|| thread.join().map_err(|_| anyhow!("the load failed"))).await???;
        let first_wrong = self.shared.first_wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Outcome {
            times: self.shared.take_times(),
            answered: self.answered(),
            wrong: self.shared.wrong.load(Ordering::Relaxed),
            first_wrong,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Lets as many waiting connections on as there is room for. One that looked by itself every so often would cost more CPU time the
/// more of them wait.
async fn open(shared: Arc<Shared>, gate: Passage, connections: usize) {
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        for _ in 0..shared.room(&gate).min(connections as u64) {
            shared.bell.notify_one();
        }
    }
    shared.bell.notify_waiters();
}

async fn ask(target: Target, shared: Arc<Shared>, gate: Option<Passage>) -> Result<()> {
    let mut stream = TcpStream::connect(target.address).await.with_context(|| format!("no connection to {}", target.address))?;
    stream.set_nodelay(true)?;
    let mut request = target.template.copy();
    let mut buffer = vec![0; 16 * 1024];
    while !shared.stop.load(Ordering::Relaxed) {
        if gate.as_ref().is_some_and(|gate| shared.room(gate) == 0) {
            shared.bell.notified().await;
            continue;
        }
        target.template.write(&mut request, target.next.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        stream.write_all(&request).await?;
        shared.sent.fetch_add(1, Ordering::Relaxed);
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed, or an answer was too long");
            filled += read;
            if let Some(head) = http::head(&buffer[..filled]).filter(|head| head.total() <= filled) {
                break head;
            }
        };
        if head.status == target.expects {
            shared.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            if shared.wrong.fetch_add(1, Ordering::Relaxed) == 0 {
                let text = String::from_utf8_lossy(&buffer[..filled]).into_owned();
                *shared.first_wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
            // What is refused never arrives.
            shared.sent.fetch_sub(1, Ordering::Relaxed);
        }
        if shared.measuring.load(Ordering::Relaxed) {
            shared.times.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sink::Sink, template::Keys};

    #[tokio::test]
    async fn every_request_has_its_own_number_and_other_answers_are_told() {
        let sink = Sink::start().expect("it starts");
        let next = Arc::new(AtomicU64::new(5));
        let target = Target { address: sink.address, template: Template::message("k", "mark##########", Keys::Absent), expects: ACCEPTED, next: next.clone() };
        sink.note();
        let load = Load::start(&target, 3, None).expect("it starts");
        load.measure();
        while sink.noted() < 50 {
            tokio::task::yield_now().await;
        }
        let taken = load.take_times().len();
        let outcome = load.finish().await.expect("it ends");
        let mut numbers: Vec<u64> = sink.take_notes().iter().map(|n| n.0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (5..next.load(Ordering::Relaxed)).collect::<Vec<_>>());
        // The provider answers 201, not 202.
        assert_eq!(outcome.wrong, numbers.len() as u64);
        // Measuring may have begun after the first of them.
        assert!(taken > 0 && taken + outcome.times.len() <= numbers.len());
        assert!(outcome.first_wrong.is_some_and(|text| text.starts_with("HTTP/1.1 201")));
    }

    #[tokio::test]
    async fn a_gate_lets_no_more_through_than_it_says() {
        let (elsewhere, sink) = (Sink::start().expect("it starts"), Sink::start().expect("it starts"));
        let target = Target { address: sink.address, template: Template::message("k", "x", Keys::Absent), expects: ACCEPTED, next: Arc::default() };
        // Nothing ever arrives at the other provider, and refused requests don't count: a gate of 0 lets nothing through.
        let load = Load::start(&target, 2, Some(Gate { arrivals: elsewhere.arrivals(), most: 0 })).expect("it starts");
        let outcome = load.finish().await.expect("it ends");
        assert_eq!((outcome.wrong, sink.arrivals().count()), (0, 0));
    }

    #[tokio::test]
    async fn a_gate_that_opens_lets_waiting_connections_on() {
        let sink = Sink::start().expect("it starts");
        let target = Target { address: sink.address, template: Template::message("k", "x", Keys::Absent), expects: ACCEPTED, next: Arc::default() };
        // More connections than may be under way: all but one wait at any time, and what arrives lets others on.
        let load = Load::start(&target, 8, Some(Gate { arrivals: sink.arrivals(), most: 1 })).expect("it starts");
        while sink.arrivals().count() < 20 {
            tokio::task::yield_now().await;
        }
        let outcome = load.finish().await.expect("it ends, whoever waits");
        assert_eq!(outcome.wrong, sink.arrivals().count());
    }
}
