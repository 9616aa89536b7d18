//! Acceptance: the way in. Messages wait in a bounded queue, from which `coalescer` has them stored.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use raven_core::{
    Channel, Clock, Environment, IdCipher, KeyId, Priority, Seq, Source, Status, TenantId, Timestamp, message::Content, retry::RetryPolicy,
    sms::Encoding,
};
use raven_store::{
    NewMessage, Outlet, Store,
    messages::{LARGE_CONTENT, MessageClaim},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    attempt::Attempts,
    audit::Entry,
    coalescer::{Coalescer, Waiting},
    directory::{Route, TenantView},
    dispatch::Dispatcher,
    inlet::Inlet,
    membership::Membership,
    metrics::Metrics,
    routing::{Needs, Query},
};

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
    /// Its tenant.
    pub view: Arc<TenantView>,
    /// What it asks of a config.
    pub needs: Needs,
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

/// What a caller is told.
pub(crate) type Answer = Result<Receipt, IngestError>;

/// The way into acceptance.
pub struct Ingest {
    inlets: Vec<Arc<Inlet<Waiting>>>,
    hasher: RandomState,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    membership: Arc<Membership>,
    ids: Arc<IdCipher>,
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
            .map(|writer| {
                let inlet = Arc::new(Inlet::new(WAITING));
                (inlet.clone(), Coalescer::new(parts.clone(), writer, inlet))
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
        let query = Query { channel: submission.channel, recipient: &submission.recipient, needs: &submission.needs, seq, tried: None };
        let route = submission.view.route(submission.environment, &query, now);
        let tenant = submission.tenant;
        let mut message = new_message(submission, seq, now, &self.ids);
        message.outlet = Outlet::of(route.as_ref().and_then(Route::config));
        if message.content.len() > LARGE_CONTENT {
            self.store.put_content(tenant, seq, &message.content).await.map_err(|e| IngestError::of(&e))?;
            message.content = outline(&message.content);
            message.large = true;
        }
        // A tenant's messages meet in one writer: there equal keys are folded, and batches don't deadlock on them.
        let inlet = match self.inlets.as_slice() {
            [only] => only,
            all => &all[usize::try_from(self.hasher.hash_one(tenant)).unwrap_or(usize::MAX) % all.len()],
        };
        let (answer, answered) = oneshot::channel();
        if !inlet.push(tenant, Waiting { message, route, answer, arrived: Instant::now() }) {
            self.metrics.refused.inc();
            return Err(IngestError::Overloaded);
        }
        answered.await.unwrap_or(Err(IngestError::Unavailable))
    }
}

/// What of large content is asked for with the message itself, and so stays with it.
fn outline(content: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Labels {
        #[serde(default)]
        tags: Vec<String>,
        #[serde(default)]
        metadata: BTreeMap<String, String>,
    }
    let labels = serde_json::from_str(content).map(|Labels { tags, metadata }| Content { tags, metadata, ..Content::default() });
    serde_json::to_string(&labels.unwrap_or_default()).unwrap_or_default()
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
        outlet: Outlet::NONE,
        started: None,
        quota: s.quota,
        audit: s.audit.map(|mut entry| {
            entry.resource.id = ids.seal(seq).0;
            entry.text()
        }),
    }
}
