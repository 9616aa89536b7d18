//! Acceptance. Messages wait in a bounded queue; the moment a writer is free it takes all that wait (no timer) and
//! stores them in one durable transaction. Only then is anybody answered, and only then is a message handed to dispatch.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use raven_core::{
    Channel, Clock, Environment, IdCipher, KeyId, Priority, Seq, Source, Status, TenantId, Timestamp, problem::chain, retry::RetryPolicy,
    sms::Encoding,
};
use raven_store::{
    Accepted, Action, Job, Lane, Lease, NewMessage, Refusal, Store, Urgency,
    messages::{LARGE_CONTENT, MessageClaim},
};
use tokio::sync::oneshot;

use crate::{
    attempt::Attempts,
    audit::Entry,
    directory::Route,
    dispatch::{Dispatcher, Place},
    inlet::{self, Drain, Inlet},
    membership::Membership,
    metrics::Metrics,
};

/// Messages in one transaction at most.
const BATCH: usize = 500;
/// Messages that wait for one writer at most, a quarter of them of one tenant: beyond it, 503.
const WAITING: usize = 8192;

/// A message to be accepted, checked by its caller.
pub struct Submission {
    /// Whose it is.
    pub tenant: TenantId,
    /// Live or test.
    pub environment: Environment,
    /// Who asked.
    pub source: Source,
    /// What goes first.
    pub priority: Priority,
    /// The key that asked.
    pub key: Option<KeyId>,
    /// How it travels.
    pub channel: Channel,
    /// Whom it reaches.
    pub recipient: String,
    /// JSON of [`raven_core::message::Content`].
    pub content: String,
    /// The caller's own reference.
    pub external_id: Option<String>,
    /// Parts of an SMS.
    pub segments: Option<i16>,
    /// Encoding of an SMS.
    pub encoding: Option<Encoding>,
    /// The caller's claim on an idempotency key.
    pub idempotency: Option<MessageClaim>,
    /// Where it goes if it is called at once.
    pub route: Route,
    /// Messages that the tenant may have accepted today, with this one; `None`: it does not count.
    pub quota: Option<i64>,
    /// The entry for the audit log, where somebody acts in a session; the message's id is filled in.
    pub audit: Option<Entry>,
}

/// A message that was accepted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its key.
    pub seq: Seq,
    /// The status that its 202 tells.
    pub status: Status,
    /// Its channel.
    pub channel: Channel,
    /// Whom it reaches.
    pub recipient: String,
    /// Accepted before, with the same idempotency key and payload.
    pub replayed: bool,
}

/// Why a message was not accepted. Nothing of it is stored, but for [`Self::Unavailable`], where that can't be known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// The idempotency key was used with another payload.
    #[error("the idempotency key was used with another payload")]
    KeyReused,
    /// The API key is no longer good.
    #[error("the key is no longer valid")]
    KeyRefused,
    /// The tenant is not active.
    #[error("the tenant is not active")]
    TenantRefused,
    /// The tenant's quota of the day is used up.
    #[error("the quota of the day is used up")]
    QuotaExceeded,
    /// Too much waits, in all or of this tenant, or this process is stopping.
    #[error("too much waits for the database")]
    Overloaded,
    /// The database is away.
    #[error("the database is unavailable")]
    Unavailable,
    /// A bug.
    #[error("the message could not be stored")]
    Internal,
}

type Answer = Result<Receipt, IngestError>;

struct Waiting {
    message: NewMessage,
    route: Route,
    answer: oneshot::Sender<Answer>,
}

/// The way into acceptance.
pub struct Ingest {
    inlets: Vec<Inlet<Waiting>>,
    hasher: RandomState,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    membership: Arc<Membership>,
    ids: Arc<IdCipher>,
    metrics: Arc<Metrics>,
}

/// One writer's end: takes what waits and stores it.
pub struct Coalescer {
    waiting: Drain<Waiting>,
    batch: Vec<Waiting>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    membership: Arc<Membership>,
    /// Where this process also calls providers.
    dispatch: Option<(Arc<Dispatcher>, Arc<Attempts>)>,
    metrics: Arc<Metrics>,
}

/// What acceptance works with.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) ids: Arc<IdCipher>,
    pub(crate) dispatch: Option<(Arc<Dispatcher>, Arc<Attempts>)>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Ingest {
    /// The way in, and one coalescer for each of the store's writers.
    pub(crate) fn new(parts: &Parts) -> (Self, Vec<Coalescer>) {
        let (inlets, coalescers) = (0..parts.store.writers().max(1))
            .map(|_| {
                let (inlet, waiting) = inlet::queue(WAITING);
                let Parts { store, clock, membership, dispatch, metrics, .. } = parts.clone();
                (inlet, Coalescer { waiting, batch: Vec::with_capacity(BATCH), store, clock, membership, dispatch, metrics })
            })
            .unzip();
        let Parts { store, clock, membership, ids, metrics, .. } = parts.clone();
        (Self { inlets, hasher: RandomState::new(), store, clock, membership, ids, metrics }, coalescers)
    }

    /// Accepts a message: returns when it is durably stored, or replayed, or refused.
    ///
    /// # Errors
    /// [`IngestError`].
    pub async fn accept(&self, submission: Submission) -> Answer {
        let now = self.clock.now();
        let seq = self.membership.ids.next(now);
        let route = submission.route.clone();
        let tenant = submission.tenant;
        let mut message = new_message(submission, seq, now, &self.ids);
        if message.content.len() > LARGE_CONTENT {
            self.store.put_content(tenant, seq, &message.content).await.map_err(|e| refuse(&e))?;
            message.content = String::new();
            message.large = true;
        }
        // A tenant's messages meet in one writer: there equal keys are folded, and batches don't deadlock on them.
        let inlet = match self.inlets.as_slice() {
            [only] => only,
            all => &all[usize::try_from(self.hasher.hash_one(tenant)).unwrap_or(usize::MAX) % all.len()],
        };
        let (answer, answered) = oneshot::channel();
        if !inlet.push(tenant, Waiting { message, route, answer }) {
            self.metrics.refused.inc();
            return Err(IngestError::Overloaded);
        }
        answered.await.unwrap_or(Err(IngestError::Unavailable))
    }
}

fn new_message(s: Submission, seq: Seq, now: Timestamp, ids: &IdCipher) -> NewMessage {
    NewMessage {
        seq,
        tenant: s.tenant,
        environment: s.environment,
        channel: s.channel,
        source: s.source,
        priority: s.priority,
        key: s.key,
        recipient: s.recipient,
        content: s.content,
        large: false,
        external_id: s.external_id,
        segments: s.segments,
        encoding: s.encoding,
        idempotency: s.idempotency,
        due_at: now,
        expires_at: now.after(RetryPolicy::of(s.channel).max_age),
        lease: None,
        started: None,
        quota: s.quota,
        audit: s.audit.map(|mut entry| {
            entry.resource.id = ids.seal(seq).0;
            entry.text()
        }),
    }
}

fn refuse(error: &raven_store::Error) -> IngestError {
    tracing::error!(error = chain(error), "messages can't be accepted");
    match error {
        raven_store::Error::Unavailable(_) => IngestError::Unavailable,
        _ => IngestError::Internal,
    }
}

/// A message of a batch, on its way through the store.
struct Leader {
    answers: Vec<oneshot::Sender<Answer>>,
    route: Route,
    place: Place,
    job: Option<Job>,
    channel: Channel,
    recipient: String,
    seq: Seq,
    fingerprint: Option<[u8; 16]>,
    large: bool,
}

impl Coalescer {
    /// Waits for messages, stores all that wait, answers them. `false` when nothing can come any more.
    pub async fn step(&mut self) -> bool {
        if self.waiting.take(BATCH, &mut self.batch).await == 0 {
            return false;
        }
        let now = self.clock.now();
        let (mut messages, mut leaders) = self.fold();
        self.metrics.batch.observe(f64::from(u32::try_from(messages.len()).unwrap_or(u32::MAX)));
        let lease = self.membership.lease();
        if let Some((dispatcher, _)) = &self.dispatch
            && self.membership.is_fresh()
        {
            for (message, leader) in messages.iter_mut().zip(&mut leaders) {
                place(dispatcher, lease, message, leader);
            }
        }
        match self.store.accept(messages, now).await {
            Ok(results) => {
                for (leader, result) in leaders.into_iter().zip(results) {
                    self.conclude(leader, result, lease, now);
                }
            }
            Err(e) => {
                let error = refuse(&e);
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
        }
        true
    }

    /// Stores until nothing can come any more.
    pub async fn run(mut self) {
        while self.step().await {}
    }

    /// Folds messages with equal idempotency keys: the first leads, those with the same payload share its answer, others
    /// are refused here.
    fn fold(&mut self) -> (Vec<NewMessage>, Vec<Leader>) {
        let mut messages: Vec<NewMessage> = Vec::with_capacity(self.batch.len());
        let mut leaders: Vec<Leader> = Vec::with_capacity(self.batch.len());
        let mut by_key: HashMap<(TenantId, Environment, i16, String), usize> = HashMap::new();
        for Waiting { message, route, answer } in self.batch.drain(..) {
            let fingerprint = message.idempotency.as_ref().map(|c| c.fingerprint);
            if let Some(claim) = &message.idempotency {
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
                large: false,
            });
            messages.push(message);
        }
        (messages, leaders)
    }

    fn conclude(&self, mut leader: Leader, result: raven_store::Result<Accepted>, lease: Lease, now: Timestamp) {
        let answer = match result {
            Ok(Accepted::Created) => {
                self.metrics.accepted.inc();
                self.hand_over(&mut leader, lease, now);
                Ok(Receipt {
                    seq: leader.seq,
                    status: Status::Queued,
                    channel: leader.channel,
                    recipient: std::mem::take(&mut leader.recipient),
                    replayed: false,
                })
            }
            Ok(Accepted::Replayed { seq, recipient, channel, status }) => Ok(Receipt { seq, status, channel, recipient, replayed: true }),
            Ok(Accepted::KeyReused) => Err(IngestError::KeyReused),
            Ok(Accepted::Refused(Refusal::Key)) => Err(IngestError::KeyRefused),
            Ok(Accepted::Refused(Refusal::Tenant)) => Err(IngestError::TenantRefused),
            Ok(Accepted::Refused(Refusal::Quota)) => Err(IngestError::QuotaExceeded),
            Err(e) => Err(refuse(&e)),
        };
        leader.reply(&answer);
    }

    fn hand_over(&self, leader: &mut Leader, lease: Lease, now: Timestamp) {
        let Some((dispatcher, attempts)) = &self.dispatch else { return self.store.announce() };
        if leader.large {
            self.store.announce();
            return dispatcher.look();
        }
        let Some(job) = leader.job.take() else { return self.store.announce() };
        let place = std::mem::replace(&mut leader.place, Place::None);
        if !self.membership.is_fresh() || self.membership.lease() != lease {
            // The transaction took so long that others may hold the work by now, or soon.
            return attempts.orphaned(lease, vec![job.seq]);
        }
        match place {
            Place::Call(permit) => attempts.begin(job, leader.route.clone(), permit, lease, now),
            Place::Held(promise) => promise.fill(job),
            Place::None => {}
        }
    }
}

fn place(dispatcher: &Arc<Dispatcher>, lease: Lease, message: &mut NewMessage, leader: &mut Leader) {
    if message.large {
        // Large content is not kept in memory while it waits: a claim brings it when its turn has come.
        leader.large = true;
        return dispatcher.left_behind(true);
    }
    let (tenant, environment, channel) = (message.tenant, message.environment, message.channel);
    let lane = Lane { tenant, environment, channel, urgency: Urgency::of(message.priority) };
    leader.place = dispatcher.reserve(lane);
    let attempt = match leader.place {
        Place::None => return,
        Place::Held(_) => 0,
        Place::Call(_) => {
            message.started = Some(leader.route.config());
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
    });
}

impl Leader {
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
