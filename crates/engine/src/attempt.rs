//! One attempt: the call, what its outcome means, and what follows. The call's permit and the epoch travel with it.

use std::{borrow::Cow, collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use raven_core::{
    Clock, EventKind, IdCipher, Seq, Status, SuppressionId, SuppressionReason, Timestamp, message::Content, problem::chain,
    retry::RetryPolicy, suppression::comparable,
};
use raven_providers::{Bound, Class, Cx, HttpCall, Outbound, Provider, SendError, Sent};
use raven_store::{Action, Job, Lease, Next, Settlement, Store, Suppresses};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    clock::Entropy,
    directory::{Connection, Directory, Route},
    dispatch::Permit,
    mailer::Mailer,
    metrics::{AttemptLabels, Metrics, ProviderLabels},
    settle::{Actions, Held, Outcomes, Unsettled},
    transport::{CALL_CAP, CallError, Transport},
};

/// How long a message whose outcome is unknown waits for word from the provider.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Base URLs that the operator put in place of documented ones, by provider id.
pub type BaseUrls = HashMap<String, String>;

/// Makes attempts.
pub struct Attempts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) ids: Arc<IdCipher>,
    pub(crate) transport: Transport,
    pub(crate) mailer: Mailer,
    pub(crate) base_urls: BaseUrls,
    pub(crate) outcomes: Outcomes,
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Arc<Metrics>,
    /// Jobs that are being seen to without a call.
    pub(crate) actions: Actions,
    /// Jobs whose acceptance or start was not confirmed: leased, perhaps marked as started, and never called.
    pub(crate) orphans: Mutex<Vec<(Lease, Vec<Seq>)>>,
    /// Held while orphans are given back, and while jobs are claimed. A job that was given back, though the answer was lost,
    /// is given back again; had it been claimed and started here meanwhile, that start would be undone, and the message sent
    /// twice.
    pub(crate) claiming: tokio::sync::Mutex<()>,
}

/// What an attempt ended in.
type Ended = Result<Sent, SendError>;

impl Attempts {
    /// Begins the call of a started attempt (`job.attempt` is its number) in a task of its own.
    pub fn begin(self: &Arc<Self>, job: Job, route: Route, permit: Permit, lease: Lease, started_at: Timestamp) {
        let this = self.clone();
        self.tasks.spawn(async move {
            // A panic in an adapter is its message's misfortune only; whether the request went out can't be told.
            let began = Instant::now();
            let ended = AssertUnwindSafe(this.call(&job, &route)).catch_unwind().await;
            let took = began.elapsed();
            this.metrics.calls.get_or_create(&ProviderLabels { provider: route.provider() }).observe(took.as_secs_f64());
            let ended = ended
                .unwrap_or_else(|_| Err(SendError::new(Class::Unknown, "internal", "the adapter failed while the message was being sent")));
            let settlement = this.conclude(&job, &route, started_at, ended).await;
            this.tell(&job, &settlement, took);
            this.settle(lease, settlement, Held::Call(permit));
        });
    }

    /// One event with all that is known of an attempt, for whoever asked for it. No recipient, and nothing that was said.
    fn tell(&self, job: &Job, settlement: &Settlement, took: Duration) {
        if !tracing::enabled!(target: "raven::attempt", tracing::Level::DEBUG) {
            return;
        }
        tracing::debug!(
            target: "raven::attempt",
            id = %self.ids.seal(job.seq),
            tenant = %job.lane.tenant,
            environment = job.lane.environment.name(),
            channel = job.lane.channel.name(),
            attempt = job.attempt,
            provider = settlement.provider,
            config = settlement.config.map(|config| config.to_string()),
            outcome = settlement.kind.name(),
            status = settlement.status.name(),
            reason = settlement.detail.as_deref().and_then(|detail| detail.split(':').next()),
            provider_message_id = settlement.provider_message_id,
            next_at = match settlement.next {
                Next::Done => None,
                Next::At(_, at) => Some(at.to_string()),
            },
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            waited_ms = u64::try_from(settlement.at.since(job.seq.at()).as_millis()).unwrap_or(u64::MAX),
            "attempted"
        );
    }

    /// Sends an outcome to the settler.
    pub fn settle(&self, lease: Lease, settlement: Settlement, held: Held) {
        let provider = settlement.provider.clone().unwrap_or_else(|| "none".to_owned());
        self.metrics.attempts.get_or_create(&AttemptLabels { provider, outcome: settlement.kind.name() }).inc();
        if self.outcomes.send(Unsettled { lease, settlement, held }).is_err() {
            tracing::error!("an outcome came after the settler had stopped; it counts as unknown after the next start");
        }
    }

    /// Remembers jobs that the store may hold for us though we never got to call them.
    pub fn orphaned(&self, lease: Lease, seqs: Vec<Seq>) {
        if !seqs.is_empty() {
            self.orphans.lock().push((lease, seqs));
        }
    }

    /// Gives orphaned jobs back; `true` if there were any. Leaves them to whoever is claiming at the moment, who gives them back
    /// before each claim: a heartbeat, which does this too, must not be late because a claim takes long.
    ///
    /// # Errors
    /// When the store is still away; the rest is kept.
    pub async fn release_orphans(&self) -> raven_store::Result<bool> {
        let Ok(turn) = self.claiming.try_lock() else { return Ok(false) };
        self.release_orphans_in(&turn).await
    }

    /// The same for who has the turn.
    ///
    /// # Errors
    /// When the store is still away; the rest is kept.
    pub(crate) async fn release_orphans_in(&self, _turn: &tokio::sync::MutexGuard<'_, ()>) -> raven_store::Result<bool> {
        let mut by_lease: HashMap<Lease, Vec<Seq>> = HashMap::new();
        for (lease, seqs) in std::mem::take(&mut *self.orphans.lock()) {
            by_lease.entry(lease).or_default().extend(seqs);
        }
        let any = !by_lease.is_empty();
        let mut failure = None;
        for (lease, seqs) in by_lease {
            if let Err(e) = self.store.release(lease, &seqs).await {
                self.orphaned(lease, seqs);
                failure = Some(e);
            }
        }
        failure.map_or(Ok(any), Err)
    }

    async fn call(&self, job: &Job, route: &Route) -> Ended {
        let content: Content<'_> = serde_json::from_str(&job.content)
            .map_err(|_| SendError::new(Class::Rejected, "internal", "the stored content can't be read"))?;
        let message = Outbound {
            id: self.ids.seal(job.seq),
            channel: job.lane.channel,
            recipient: &job.recipient,
            content: &content,
            attempt: job.attempt,
            now: self.clock.now(),
        };
        match route {
            Route::Sandbox => raven_providers::sandbox::send(&message),
            Route::Provider(connection) => self.call_provider(connection, &message).await,
        }
    }

    async fn call_provider(&self, connection: &Connection, message: &Outbound<'_>) -> Ended {
        match &connection.bound {
            Bound::Http(provider) => self.call_http(connection, &**provider, message).await,
            Bound::Smtp(settings) => self.mailer.send(&connection.mail, settings, message).await,
        }
    }

    async fn call_http(&self, connection: &Connection, provider: &dyn HttpCall, message: &Outbound<'_>) -> Ended {
        let began = Instant::now();
        let mut cx = Cx { base_url: self.base_url(connection.provider), token: None };
        let token = self.token(connection, provider, &cx).await?;
        cx.token = token.as_ref().map(ExposeSecret::expose_secret);
        let request = provider.request(message, &cx)?;
        match self.transport.call(request, began.elapsed()).await {
            Ok(response) => {
                let outcome = provider.outcome(&response);
                if token.is_some() && outcome.as_ref().is_err_and(|e| e.class == Class::Credentials) {
                    // It may have been withdrawn before its time.
                    *connection.token.lock().await = None;
                }
                outcome
            }
            Err(CallError::NotSent(text)) => {
                tracing::warn!(config = %connection.id, error = text, "a provider can't be reached");
                Err(SendError::new(Class::Retry { after: None }, "provider_unreachable", "no connection to the provider"))
            }
            Err(CallError::Unknown(text)) => {
                tracing::warn!(config = %connection.id, error = text, "a provider gave no answer");
                Err(SendError::new(Class::Unknown, "no_answer", "the provider gave no answer"))
            }
        }
    }

    /// The base URL that the operator put in place of a provider's own.
    pub(crate) fn base_url(&self, provider: &Provider) -> Option<Cow<'_, str>> {
        self.base_urls.get(provider.spec.id).map(|url| url.as_str().into())
    }

    /// The provider's token for a config, where it wants one: the last one, or a new one. Nothing was sent when this fails.
    async fn token(&self, connection: &Connection, provider: &dyn HttpCall, cx: &Cx<'_>) -> Result<Option<SecretString>, SendError> {
        let now = self.clock.now();
        let Some(request) = provider.token_request(now, cx) else { return Ok(None) };
        // Those who come meanwhile wait for the same token.
        let mut held = connection.token.lock().await;
        if let Some((token, until)) = held.as_ref()
            && now < *until
        {
            return Ok(Some(token.clone()));
        }
        // A third of the call's time; the rest is for the message.
        let response = self.transport.call(request, CALL_CAP * 2 / 3).await.map_err(|e| {
            tracing::warn!(config = %connection.id, error = chain(&e), "a provider hands out no token");
            SendError::new(Class::Retry { after: None }, "provider_unreachable", "the provider's token service gave no answer")
        })?;
        let token = provider.token(&response)?;
        *held = Some((token.secret.clone(), now.after(token.lasts)));
        Ok(Some(token.secret))
    }

    async fn conclude(&self, job: &Job, route: &Route, started_at: Timestamp, ended: Ended) -> Settlement {
        let now = self.clock.now();
        let mut settlement = blank(job, now);
        settlement.started_at = Some(started_at);
        settlement.provider = Some(route.provider().to_owned());
        settlement.config = route.config();
        match ended {
            Ok(sent) => {
                settlement.kind = EventKind::Sent;
                settlement.status = Status::Sent;
                settlement.provider_message_id = sent.provider_message_id;
                settlement.segments = sent.segments;
                settlement.cost_micros = sent.cost.as_ref().map(|c| c.micros);
                settlement.cost_currency = sent.cost.map(|c| c.currency);
                settlement.next = match route {
                    Route::Sandbox => Next::At(Action::Play, now.after(raven_providers::sandbox::DELIVERED_AFTER)),
                    Route::Provider(_) => Next::Done,
                };
            }
            Err(error) => self.conclude_failure(job, error, now, &mut settlement).await,
        }
        settlement
    }

    async fn conclude_failure(&self, job: &Job, error: SendError, now: Timestamp, settlement: &mut Settlement) {
        let hint = match error.class {
            Class::Rejected => {
                settlement.suppresses = self.suppresses(job, &error);
                return fail(settlement, error);
            }
            Class::Unknown => {
                settlement.kind = EventKind::OutcomeUnknown;
                settlement.detail = Some(describe(&error));
                settlement.next = if self.retries_unknown(job).await {
                    self.retry_at(job, now, None).map_or(Next::At(Action::GiveUp, now), |at| Next::At(Action::Send, at))
                } else {
                    Next::At(Action::GiveUp, now.after(UNKNOWN_FOR))
                };
                return;
            }
            Class::Retry { after } | Class::RateLimited { after } => after,
            // Nothing goes through this config until someone mends it, so there is no hurry.
            Class::Credentials => Some(Duration::from_secs(60)),
        };
        match self.retry_at(job, now, hint) {
            Some(at) => {
                settlement.kind = EventKind::RetryScheduled;
                settlement.detail = Some(describe(&error));
                settlement.next = Next::At(Action::Send, at);
            }
            None => fail(settlement, error),
        }
    }

    /// What a permanent rejection says of the recipient, for the messages after this one.
    fn suppresses(&self, job: &Job, error: &SendError) -> Option<Suppresses> {
        let reason = SuppressionReason::of_rejection(&error.code)?;
        let mut id = [0; 16];
        if let Err(e) = self.entropy.fill(&mut id) {
            tracing::error!(error = chain(&e), "a recipient can't be suppressed; the next message to them will be rejected too");
            return None;
        }
        let id = SuppressionId(uuid::Builder::from_random_bytes(id).into_uuid());
        Some(Suppresses { id, address: comparable(job.lane.channel, &job.recipient).into_owned(), reason })
    }

    fn retry_at(&self, job: &Job, now: Timestamp, hint: Option<Duration>) -> Option<Timestamp> {
        let mut jitter = [0];
        // Without randomness retries still work, only bunched.
        let _ = self.entropy.fill(&mut jitter);
        RetryPolicy::of(job.lane.channel).next(job.attempt, now, job.expires_at, hint, jitter[0])
    }

    async fn retries_unknown(&self, job: &Job) -> bool {
        match self.directory.tenant(job.lane.tenant).await {
            Ok(view) => view.is_some_and(|v| v.record.retry_unknown),
            Err(e) => {
                tracing::error!(error = chain(&*e), "a tenant's policy can't be read; the message is not repeated");
                false
            }
        }
    }
}

/// A settlement that changes nothing yet: an event of no attempt, the status kept, the job done.
#[must_use]
pub fn blank(job: &Job, now: Timestamp) -> Settlement {
    Settlement {
        seq: job.seq,
        tenant: job.lane.tenant,
        attempt: job.attempt,
        started_at: None,
        at: now,
        kind: EventKind::Failed,
        status: Status::Sending,
        provider: None,
        config: None,
        provider_message_id: None,
        segments: None,
        cost_currency: None,
        cost_micros: None,
        failure_reason: None,
        detail: None,
        payload: None,
        next: Next::Done,
        suppresses: None,
    }
}

fn fail(settlement: &mut Settlement, error: SendError) {
    settlement.kind = EventKind::Failed;
    settlement.status = Status::Failed;
    settlement.detail = Some(describe(&error));
    settlement.failure_reason = Some(error.code);
    settlement.next = Next::Done;
}

fn describe(error: &SendError) -> String {
    format!("{}: {}", error.code, error.message)
}
