//! One writer's end of acceptance. Whenever the writer can take more, it is offered all that waits (no timer): it asks for
//! the messages at the moment when it begins to write, so a batch holds whatever came while the one before was committed.
//! Only when a batch is durable is anybody answered, and only then is a message handed to dispatch.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use raven_core::{Channel, Clock, Environment, Seq, Status, TenantId, Timestamp, problem::chain};
use raven_store::{Accepted, Action, Job, Lane, Lease, NewMessage, Refusal, Store, Urgency, messages::Intake};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    attempt::Attempts,
    directory::Route,
    dispatch::{Dispatcher, Held, Place},
    ingest::{Answer, IngestError, Parts, Receipt},
    inlet::Inlet,
    membership::Membership,
    metrics::Metrics,
};

/// Messages in one transaction at most.
const BATCH: usize = 500;
/// Batches on their way at a time: one that is committed, and one that is asked for as soon as the writer is free.
const UNDER_WAY: usize = 2;

/// A message that waits to be accepted.
pub(crate) struct Waiting {
    pub(crate) message: NewMessage,
    /// Where it goes if it is called at once; `None`: no config takes it at present.
    pub(crate) route: Option<Route>,
    pub(crate) answer: oneshot::Sender<Answer>,
    pub(crate) arrived: Instant,
}

/// Takes what waits and has it stored.
pub(crate) struct Coalescer {
    /// The writer's number.
    writer: usize,
    desk: Arc<Desk>,
}

/// What a batch is made with: by the writer, when it asks.
struct Desk {
    store: Arc<dyn Store>,
    inlet: Arc<Inlet<Waiting>>,
    clock: Arc<dyn Clock>,
    membership: Arc<Membership>,
    /// Where this process also calls providers.
    dispatch: Option<(Arc<Dispatcher>, Arc<Attempts>)>,
    metrics: Arc<Metrics>,
}

/// A batch that the writer asked for.
struct Batch {
    leaders: Vec<Leader>,
    lease: Lease,
    now: Timestamp,
    began: Instant,
}

/// A batch to be asked for.
struct Offer {
    desk: Arc<Desk>,
    /// Where the rest of the batch is left for whoever concludes it.
    left: Arc<Mutex<Option<Batch>>>,
}

impl Intake for Offer {
    fn take(self: Box<Self>) -> (Vec<NewMessage>, Timestamp) {
        let (messages, batch) = self.desk.batch();
        let now = batch.now;
        *self.left.lock() = Some(batch);
        (messages, now)
    }
}

/// What became of an offer.
type Landed = (raven_store::Result<Vec<raven_store::Result<Accepted>>>, Option<Batch>);

/// A message of a batch, on its way through the store.
struct Leader {
    answers: Vec<oneshot::Sender<Answer>>,
    route: Option<Route>,
    place: Place,
    job: Option<Job>,
    channel: Channel,
    recipient: String,
    seq: Seq,
    fingerprint: Option<[u8; 16]>,
    /// Is it left to a claim, whether this node is full or not?
    waits: bool,
    arrived: Instant,
}

impl Coalescer {
    pub(crate) fn new(parts: Parts, writer: usize, inlet: Arc<Inlet<Waiting>>) -> Self {
        let Parts { store, clock, membership, dispatch, metrics, .. } = parts;
        Self { writer, desk: Arc::new(Desk { store, inlet, clock, membership, dispatch, metrics }) }
    }

    /// Has what waits stored until nothing can come any more.
    pub(crate) async fn run(self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((result, batch)) = under_way.next() => self.desk.land(result, batch),
                more = self.desk.inlet.arrived(), if under_way.len() < UNDER_WAY => {
                    if !more {
                        break;
                    }
                    under_way.push(self.offer());
                }
            }
        }
        while let Some((result, batch)) = under_way.next().await {
            self.desk.land(result, batch);
        }
    }

    fn offer(&self) -> impl Future<Output = Landed> + use<> {
        let (store, writer, left) = (self.desk.store.clone(), self.writer, Arc::new(Mutex::new(None)));
        self.desk.inlet.announce();
        let offer = Box::new(Offer { desk: self.desk.clone(), left: left.clone() });
        async move {
            let result = store.accept_waiting(writer, offer).await;
            let batch = left.lock().take();
            (result, batch)
        }
    }
}

impl Drop for Coalescer {
    fn drop(&mut self) {
        // Whoever waits is told, and nobody comes to wait for nothing.
        self.desk.inlet.close();
    }
}

impl Desk {
    /// Makes a batch of what waits.
    fn batch(&self) -> (Vec<NewMessage>, Batch) {
        let waiting = self.inlet.take(BATCH);
        let (now, lease, began) = (self.clock.now(), self.membership.lease(), Instant::now());
        self.metrics.waiting.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        let (mut messages, mut leaders) = fold(waiting);
        if !messages.is_empty() {
            self.metrics.batch.observe(f64::from(u32::try_from(messages.len()).unwrap_or(u32::MAX)));
        }
        if let Some((dispatcher, _)) = &self.dispatch
            && self.membership.is_fresh()
        {
            for (message, leader) in messages.iter_mut().zip(&mut leaders) {
                place(dispatcher, lease, now, message, leader);
            }
        }
        (messages, Batch { leaders, lease, now, began })
    }

    /// Answers everybody of a batch.
    fn land(&self, result: raven_store::Result<Vec<raven_store::Result<Accepted>>>, batch: Option<Batch>) {
        match (result, batch) {
            (Ok(results), Some(Batch { leaders, lease, now, began })) => {
                let durable = Instant::now();
                if !leaders.is_empty() {
                    self.metrics.commit.observe(durable.duration_since(began).as_secs_f64());
                }
                for leader in &leaders {
                    self.metrics.accept.observe(durable.duration_since(leader.arrived).as_secs_f64());
                }
                for (leader, result) in leaders.into_iter().zip(results) {
                    self.conclude(leader, result, lease, now);
                }
            }
            (Err(e), Some(Batch { leaders, lease, .. })) => {
                if leaders.is_empty() {
                    return;
                }
                let error = IngestError::of(&e);
                let leased: Vec<Seq> = leaders.iter().filter(|l| !matches!(l.place, Place::None)).map(|l| l.seq).collect();
                for leader in leaders {
                    leader.reply(&Err(error.clone()));
                }
                // The transaction may have been committed though its answer was lost. Then its jobs are leased to us and
                // nobody works on them: they are given back as soon as the store answers again.
                if let Some((_, attempts)) = &self.dispatch {
                    attempts.orphaned(lease, leased);
                }
            }
            // The store never asked. Whoever waited for that is told, or they would wait for as long as it is away.
            (Err(e), None) => {
                let waiting = self.inlet.take(BATCH);
                if !waiting.is_empty() {
                    let error = IngestError::of(&e);
                    for Waiting { answer, .. } in waiting {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
            (Ok(_), None) => {
                self.inlet.take(0);
                tracing::error!("the store told of messages that it had not asked for");
            }
        }
    }

    fn conclude(&self, mut leader: Leader, result: raven_store::Result<Accepted>, lease: Lease, now: Timestamp) {
        let answer = match result {
            Ok(Accepted::Created) => {
                self.metrics.accepted.inc();
                self.hand_over(&mut leader, lease, now);
                Ok(leader.receipt(Status::Queued))
            }
            Ok(Accepted::Suppressed) => {
                self.metrics.accepted.inc();
                // No call is made, so the place is for others.
                leader.place = Place::None;
                Ok(leader.receipt(Status::Suppressed))
            }
            Ok(Accepted::Replayed { seq, recipient, channel, status }) => Ok(Receipt { seq, status, channel, recipient, replayed: true }),
            Ok(Accepted::KeyReused) => Err(IngestError::KeyReused),
            Ok(Accepted::Refused(Refusal::Key)) => Err(IngestError::KeyRefused),
            Ok(Accepted::Refused(Refusal::Tenant)) => Err(IngestError::TenantRefused),
            Ok(Accepted::Refused(Refusal::Quota)) => Err(IngestError::QuotaExceeded),
            Err(e) => Err(IngestError::of(&e)),
        };
        leader.reply(&answer);
    }

    fn hand_over(&self, leader: &mut Leader, lease: Lease, now: Timestamp) {
        let Some((dispatcher, attempts)) = &self.dispatch else { return self.store.announce() };
        if leader.waits {
            self.store.announce();
            return dispatcher.look();
        }
        let (Some(job), Some(route)) = (leader.job.take(), leader.route.take()) else { return self.store.announce() };
        let place = std::mem::replace(&mut leader.place, Place::None);
        if !self.membership.is_fresh() || self.membership.lease() != lease {
            // The transaction took so long that others may hold the work by now, or soon.
            return attempts.orphaned(lease, vec![job.seq]);
        }
        match place {
            Place::Call(permit) => attempts.begin(job, route, permit, lease, now),
            Place::Held(promise) => promise.fill(Held { job, route }),
            Place::None => {}
        }
    }
}

/// Folds messages with equal idempotency keys: the first leads, those with the same payload share its answer, others are
/// refused here.
fn fold(batch: Vec<Waiting>) -> (Vec<NewMessage>, Vec<Leader>) {
    let mut messages: Vec<NewMessage> = Vec::with_capacity(batch.len());
    let mut leaders: Vec<Leader> = Vec::with_capacity(batch.len());
    let mut by_key: HashMap<(TenantId, Environment, i16, String), usize> = HashMap::new();
    let alone = batch.len() == 1;
    for Waiting { message, route, answer, arrived } in batch {
        let fingerprint = message.idempotency.as_ref().map(|c| c.fingerprint);
        if let Some(claim) = message.idempotency.as_ref().filter(|_| !alone) {
            let key = (message.tenant, message.environment, claim.operation.code(), claim.key.clone());
            if let Some(&first) = by_key.get(&key) {
                let leader: &mut Leader = &mut leaders[first];
                if leader.fingerprint == fingerprint {
                    leader.answers.push(answer);
                } else {
                    // The leader may yet fail, but then the caller's retry is judged anew.
                    let _ = answer.send(Err(IngestError::KeyReused));
                }
                continue;
            }
            by_key.insert(key, leaders.len());
        }
        leaders.push(Leader {
            answers: vec![answer],
            route,
            place: Place::None,
            job: None,
            channel: message.channel,
            recipient: message.recipient.clone(),
            seq: message.seq,
            fingerprint,
            waits: false,
            arrived,
        });
        messages.push(message);
    }
    (messages, leaders)
}

fn place(dispatcher: &Arc<Dispatcher>, lease: Lease, now: Timestamp, message: &mut NewMessage, leader: &mut Leader) {
    let route = match &leader.route {
        Some(route) if !message.large => route,
        // Large content is not kept in memory while it waits: a claim brings it when its turn has come. What no config takes waits
        // for one in the database.
        _ => {
            leader.waits = true;
            return dispatcher.left_behind(true, &[]);
        }
    };
    let (tenant, environment, channel) = (message.tenant, message.environment, message.channel);
    let lane = Lane { tenant, environment, channel, urgency: Urgency::of(message.priority), outlet: message.outlet };
    leader.place = dispatcher.reserve(lane, route, now);
    let attempt = match leader.place {
        Place::None => return,
        Place::Held(_) => 0,
        Place::Call(_) => {
            message.started = Some(route.config());
            1
        }
    };
    message.lease = Some(lease);
    leader.job = Some(Job {
        seq: message.seq,
        lane,
        action: Action::Send,
        attempt,
        expires_at: message.expires_at,
        recipient: message.recipient.clone(),
        content: message.content.clone(),
        tried: None,
    });
}

impl Leader {
    /// What those who sent it are told.
    fn receipt(&mut self, status: Status) -> Receipt {
        Receipt { seq: self.seq, status, channel: self.channel, recipient: std::mem::take(&mut self.recipient), replayed: false }
    }

    fn reply(self, answer: &Answer) {
        let mut answers = self.answers.into_iter();
        if let Some(first) = answers.next() {
            // A caller that went away needs no answer; the message stands.
            let _ = first.send(answer.clone());
        }
        for follower in answers {
            let _ = follower.send(answer.clone().map(|receipt| Receipt { replayed: true, ..receipt }));
        }
    }
}

impl IngestError {
    /// Of a failed store. What is told to callers says nothing of it, so it is logged here.
    pub(crate) fn of(error: &raven_store::Error) -> Self {
        tracing::error!(error = chain(error), "messages can't be accepted");
        match error {
            raven_store::Error::Unavailable(_) => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}
