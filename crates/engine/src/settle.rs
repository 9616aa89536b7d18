//! Settling: outcomes of attempts, written down in batches. An outcome is kept and tried again until the store has it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use raven_core::Seq;
use raven_store::{Error, Lease, Next, Settlement, Store};
use tokio::sync::{Notify, mpsc};

use crate::{dispatch::Permit, engine::POLL};

/// Outcomes in one transaction at most.
const BATCH: usize = 500;
/// So many outcomes at once tell of more right behind them, which are waited for this long: to spare the database half of the
/// transactions is worth more than to have outcomes a moment sooner.
const CROWD: usize = 8;
const GATHER: Duration = Duration::from_millis(2);
/// Waits between tries while the store is away: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An outcome on its way to the store; the permit of its call goes free when it is there.
pub struct Unsettled {
    /// The epoch that the job was held under.
    pub lease: Lease,
    /// The outcome.
    pub settlement: Settlement,
    /// What goes free when it is there.
    pub held: Held,
}

/// What an outcome holds until the store has it.
pub enum Held {
    /// The permit of its call.
    Call(Permit),
    /// The note that a job without a call is being seen to.
    Action(Acting),
}

/// Jobs that are being seen to without a call: given up, played by the sandbox, expired.
#[derive(Clone, Default)]
pub struct Actions(Arc<Mutex<HashSet<Seq>>>);

/// The note that a job is being seen to; gone when dropped.
pub struct Acting {
    actions: Actions,
    seq: Seq,
}

impl Actions {
    /// Notes that a job is being seen to.
    #[must_use]
    pub fn begin(&self, seq: Seq) -> Acting {
        self.0.lock().insert(seq);
        Acting { actions: self.clone(), seq }
    }

    /// Those that are being seen to.
    #[must_use]
    pub fn known(&self) -> Vec<Seq> {
        self.0.lock().iter().copied().collect()
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.actions.0.lock().remove(&self.seq);
    }
}

/// The way to the settler. Not bounded by itself: permits and the size of claims bound what can be in it.
#[derive(Clone)]
pub struct Outcomes {
    sender: mpsc::UnboundedSender<Unsettled>,
    pending: Arc<AtomicUsize>,
}

impl Outcomes {
    /// Hands an outcome over; gives it back when the settler has stopped.
    ///
    /// # Errors
    /// The outcome.
    pub fn send(&self, unsettled: Unsettled) -> Result<(), Box<Unsettled>> {
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.sender.send(unsettled).map_err(|e| Box::new(e.0))
    }

    /// Outcomes that are not written down yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }
}

/// Is something to be done for the message before other nodes look by themselves?
fn is_due_soon(settlement: &Settlement) -> bool {
    matches!(settlement.next, Next::At(_, at) if at.since(settlement.at) <= POLL)
}

/// Outcomes of one epoch.
struct Batch {
    lease: Lease,
    settlements: Vec<Settlement>,
    held: Vec<Held>,
}

/// The settler's end.
pub struct Settler {
    store: Arc<dyn Store>,
    outcomes: mpsc::UnboundedReceiver<Unsettled>,
    pending: Arc<AtomicUsize>,
    /// Rung when something was settled that another action follows on.
    wake: Arc<Notify>,
    received: Vec<Unsettled>,
    batches: VecDeque<Batch>,
}

impl Settler {
    /// A settler, and the way to it. `wake` is rung when something was settled that another action follows on.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, wake: Arc<Notify>) -> (Outcomes, Self) {
        let (sender, outcomes) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let settler =
            Self { store, outcomes, pending: pending.clone(), wake, received: Vec::with_capacity(BATCH), batches: VecDeque::new() };
        (Outcomes { sender, pending }, settler)
    }

    /// Waits for outcomes and writes down all that wait. `false` when nothing can come any more and all is written.
    ///
    /// # Errors
    /// When the store is away; what was to be written is kept for the next step.
    pub async fn step(&mut self) -> raven_store::Result<bool> {
        if self.batches.is_empty() {
            if self.received.is_empty() && self.outcomes.recv_many(&mut self.received, BATCH).await == 0 {
                return Ok(false);
            }
            if (CROWD..BATCH / 4).contains(&self.received.len()) {
                tokio::time::sleep(GATHER).await;
                while self.received.len() < BATCH
                    && let Ok(more) = self.outcomes.try_recv()
                {
                    self.received.push(more);
                }
            }
            self.sort();
        }
        while let Some(batch) = self.batches.pop_front() {
            match self.store.settle(batch.lease, &batch.settlements).await {
                Ok(()) => {
                    self.pending.fetch_sub(batch.settlements.len(), Ordering::AcqRel);
                    if batch.settlements.iter().any(|s| matches!(s.next, Next::At(..))) {
                        self.wake.notify_one();
                        if batch.settlements.iter().any(is_due_soon) {
                            // This node may be full, or stopping.
                            self.store.announce();
                        }
                    }
                }
                Err(Error::Unavailable(e)) => {
                    self.batches.push_front(batch);
                    return Err(Error::Unavailable(e));
                }
                Err(e) if batch.settlements.len() > 1 => {
                    tracing::warn!(error = raven_core::problem::chain(&e), "a batch of outcomes was refused and is tried in halves");
                    self.halve(batch);
                }
                Err(e) => {
                    // Nothing more can be done here: the job stays marked as started, and counts as unknown after a restart.
                    let seq = batch.settlements.first().map(|s| s.seq.0);
                    self.pending.fetch_sub(batch.settlements.len(), Ordering::AcqRel);
                    tracing::error!(error = raven_core::problem::chain(&e), seq, "an outcome was refused by the store");
                }
            }
        }
        Ok(true)
    }

    fn sort(&mut self) {
        for unsettled in self.received.drain(..) {
            if self.batches.back().is_none_or(|b| b.lease != unsettled.lease) {
                self.batches.push_back(Batch { lease: unsettled.lease, settlements: Vec::new(), held: Vec::new() });
            }
            if let Some(batch) = self.batches.back_mut() {
                batch.settlements.push(unsettled.settlement);
                batch.held.push(unsettled.held);
            }
        }
    }

    fn halve(&mut self, mut batch: Batch) {
        let middle = batch.settlements.len() / 2;
        let second = Batch { lease: batch.lease, settlements: batch.settlements.split_off(middle), held: batch.held.split_off(middle) };
        self.batches.push_front(second);
        self.batches.push_front(batch);
    }

    /// Settles until nothing can come any more, trying again while the store is away.
    pub async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            match self.step().await {
                Ok(true) => wait = BACKOFF.0,
                Ok(false) => return,
                Err(e) => {
                    tracing::error!(error = raven_core::problem::chain(&e), "outcomes can't be settled yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }
}
