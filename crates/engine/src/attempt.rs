//! One attempt: the call, what its outcome means, and what follows. The call's permit and the epoch travel with it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use raven_core::{
    Clock, ConfigId, EventKind, IdCipher, Seq, Status, SuppressionId, SuppressionReason, TenantId, Timestamp, address::Mailbox,
    message::Content, problem::chain, retry::RetryPolicy, suppression::comparable,
};
use raven_providers::{Class, Outbound, SendError, Sent, sandbox::Life};
use raven_store::{Action, Job, Lane, Lease, Next, Outlet, Settlement, Store, Suppresses, providers::FAILED};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    calls::Calls,
    clock::Entropy,
    directory::{Connection, Directory, Route, Verdict},
    dispatch::Permit,
    gate::{OURS, Turn},
    metrics::{AttemptLabels, Metrics, ProviderLabels},
    parking,
    routing::{Needs, Query},
    settle::{Acting, Actions, Held, Outcomes, Unsettled},
    unsubscribe::UnsubscribeLinks,
};

/// Attempts through one config, where the provider has trouble, before it is another config's turn.
const ATTEMPTS: u16 = 3;

/// How long a message whose outcome is unknown waits for word from the provider.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Makes attempts.
pub struct Attempts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) ids: Arc<IdCipher>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) unsubscribe_links: Arc<UnsubscribeLinks>,
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
    pub fn begin(self: &Arc<Self>, job: Job, route: Route, mut permit: Permit, lease: Lease, started_at: Timestamp) {
        let this = self.clone();
        self.tasks.spawn(async move {
            // A panic in an adapter is its message's misfortune only; whether the request went out can't be told.
            let began = Instant::now();
            let ended = AssertUnwindSafe(Box::pin(this.call(&job, &route))).catch_unwind().await;
            let took = began.elapsed();
            this.metrics.calls.get_or_create(&ProviderLabels { provider: route.provider() }).observe(took.as_secs_f64());
            let ended = ended
                .unwrap_or_else(|_| Err(SendError::new(Class::Unknown, "internal", "the adapter failed while the message was being sent")));
            let verdict = route.judge(&ended);
            if let Some(turn) = route.gate().and_then(|gate| gate.end(&ended, permit.is_probe(), this.clock.now())) {
                let labels = ProviderLabels { provider: route.provider() };
                match turn {
                    Turn::Opened => this.metrics.breaker_opened.get_or_create(&labels).inc(),
                    Turn::Closed => this.metrics.breaker_closed.get_or_create(&labels).inc(),
                };
                permit.dispatcher().turned();
            } else if verdict.is_some() {
                permit.dispatcher().turned();
            }
            permit.called();
            let settlement = this.conclude(&job, &route, started_at, ended).await;
            this.tell(&job, &settlement, took);
            this.settle(lease, settlement, Held::Call(permit));
            // After the outcome, which must not wait for it.
            if let Some((connection, verdict)) = verdict {
                Box::pin(this.tell_config(&connection, verdict)).await;
            }
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
        let mut content: Content<'_> = serde_json::from_str(&job.content)
            .map_err(|_| SendError::new(Class::Rejected, "internal", "the stored content can't be read"))?;
        for copies in [&mut content.cc, &mut content.bcc].into_iter().filter(|copies| !copies.is_empty()) {
            *copies = Box::pin(self.without_suppressed(job, std::mem::take(copies))).await?;
        }
        if !self.unsubscribe_links.write(&mut content, job.lane.tenant, job.seq) {
            tracing::error!("an email that is to carry a link waits: this process has no public_url that begins with https");
            let text = "this process has no public_url that begins with https, so it can't make the email's unsubscribe link";
            return Err(SendError::new(Class::Retry { after: None }, OURS, text));
        }
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
            Route::Provider(connection) => self.calls.send(connection, &message).await,
        }
    }

    /// Those recipients of copies who may be written to. Whom the message is for was looked up with the start.
    async fn without_suppressed(&self, job: &Job, mailboxes: Vec<String>) -> Result<Vec<String>, SendError> {
        let Lane { tenant, environment, channel, .. } = job.lane;
        let mut kept = Vec::with_capacity(mailboxes.len());
        for text in mailboxes {
            // One that can't be read is the adapter's to refuse.
            let address = Mailbox::parse(&text).ok().map(|mailbox| mailbox.email.to_string());
            let suppressed = match address {
                None => None,
                Some(address) => self.store.find_suppression_of(tenant, environment, channel, &address).await.map_err(|e| {
                    tracing::error!(error = chain(&e), "suppressions can't be read; a message with copies waits");
                    SendError::new(Class::Retry { after: None }, OURS, "the list of suppressions could not be read")
                })?,
            };
            if suppressed.is_none() {
                kept.push(text);
            }
        }
        Ok(kept)
    }

    /// Credentials were refused though no message was sent: told on the config, like those that a message was refused for.
    pub(crate) async fn refused(&self, tenant: TenantId, config: ConfigId, error: SendError) {
        let view = match self.directory.tenant(tenant).await {
            Ok(view) => view,
            Err(e) => return tracing::error!(error = chain(&*e), "a tenant can't be read; its config's status stays"),
        };
        let Some(connection) = view.as_ref().and_then(|view| view.connection(config)) else { return };
        if let Some((connection, verdict)) = Route::Provider(connection.clone()).judge(&Err(error)) {
            self.tell_config(&connection, verdict).await;
        }
    }

    /// Writes down on a config that its credentials don't work, or work again.
    async fn tell_config(&self, connection: &Connection, verdict: Verdict) {
        let Verdict { record: new, telling } = verdict;
        tracing::warn!(tenant = %new.tenant, config = %new.id, provider = new.provider, status = new.status, "a provider config's credentials");
        let labels = ProviderLabels { provider: connection.provider.spec.id };
        let changes = if new.status == FAILED { &self.metrics.paused } else { &self.metrics.resumed };
        changes.get_or_create(&labels).inc();
        if let Err(e) = self.store.replace_config(connection.record(), &new, None).await {
            tracing::error!(error = chain(&e), "a provider config's status can't be written down");
            connection.unjudge();
        }
        // What is read from here on is as new as the verdict.
        drop(telling);
        self.directory.forget(new.tenant).await;
        if !connection.gate.is_paused() {
            parking::unpark(&*self.store, new.tenant, new.channel).await;
        }
    }

    async fn conclude(&self, job: &Job, route: &Route, started_at: Timestamp, ended: Ended) -> Settlement {
        let now = self.clock.now();
        let mut settlement = blank(job, now);
        settlement.started_at = Some(started_at);
        settlement.provider = Some(route.provider().to_owned());
        settlement.config = route.config();
        // Unless something of it is to be remembered.
        settlement.tried = None;
        match ended {
            Ok(sent) => {
                settlement.kind = EventKind::Sent;
                settlement.status = Status::Sent;
                settlement.provider_message_id = sent.provider_message_id;
                settlement.is_found_by_id = route.is_found_by_id();
                settlement.segments = sent.segments;
                settlement.cost_micros = sent.cost.as_ref().map(|c| c.micros);
                settlement.cost_currency = sent.cost.map(|c| c.currency);
                settlement.next = match route {
                    Route::Sandbox => report_follows(job, 0, now).unwrap_or(Next::Done),
                    Route::Provider(_) => Next::Done,
                };
            }
            Err(error) => {
                Box::pin(self.conclude_failure(job, route, error, now, &mut settlement)).await;
                // The sandbox reports what became of a message, as providers do where the answer was lost.
                if let (EventKind::OutcomeUnknown, Route::Sandbox) = (settlement.kind, route) {
                    settlement.next = report_follows(job, 0, now).unwrap_or(settlement.next);
                }
            }
        }
        settlement
    }

    async fn conclude_failure(&self, job: &Job, route: &Route, error: SendError, now: Timestamp, settlement: &mut Settlement) {
        let (usual, patience) = match error.class {
            Class::Rejected => {
                settlement.suppresses = self.suppresses(job, &error);
                return fail(settlement, error);
            }
            Class::Unknown => {
                settlement.kind = EventKind::OutcomeUnknown;
                settlement.detail = Some(describe(&error));
                if !self.retries_unknown(job).await {
                    settlement.next = Next::At(Action::GiveUp, now.after(UNKNOWN_FOR));
                    return;
                }
                (self.retry_at(job, now, None), ATTEMPTS)
            }
            Class::Retry { after } => (self.retry_at(job, now, after), ATTEMPTS),
            Class::RateLimited { after } => (self.retry_at(job, now, after), 1),
            // Nothing goes through this config until it is mended, and the message waits for that whenever it is due.
            Class::Credentials => ((now < job.expires_at).then_some(now), 1),
        };
        let next = self.turn(job, route, now, patience, settlement).await;
        let Some(at) = next.as_ref().map(|_| now).or(usual) else {
            match settlement.kind {
                EventKind::OutcomeUnknown => settlement.next = Next::At(Action::GiveUp, now),
                _ => fail(settlement, error),
            }
            return;
        };
        settlement.next = Next::At(Action::Send, at);
        if settlement.kind != EventKind::OutcomeUnknown {
            settlement.kind = EventKind::RetryScheduled;
            settlement.detail = Some(describe(&error));
        }
        if let (Some(next), Some(detail)) = (next, &mut settlement.detail) {
            detail.push_str("; next: ");
            detail.push_str(&next.record().label);
        }
    }

    /// The config whose turn it is now, if it is another one's: when this one was tried so often (`patience`). Notes what is to be
    /// remembered of it. When all had their turns, a new round begins.
    async fn turn(&self, job: &Job, route: &Route, now: Timestamp, patience: u16, settlement: &mut Settlement) -> Option<Arc<Connection>> {
        settlement.outlet = Outlet::of(route.config());
        let Route::Provider(connection) = route else { return None };
        let view = match self.directory.tenant(job.lane.tenant).await {
            // With one config there are no turns.
            Ok(Some(view)) if view.on(job.lane.channel).nth(1).is_some() => view,
            _ => return None,
        };
        let mut tried = job.tried.clone().unwrap_or_default();
        if tried.add(connection.id) >= patience {
            tried.end(connection.id);
        }
        let needs = Needs::read(job.lane.channel, &job.content);
        let query = Query { channel: job.lane.channel, recipient: &job.recipient, needs: &needs, seq: job.seq, tried: Some(&tried) };
        let Some(Route::Provider(best)) = view.route(job.lane.environment, &query, now) else { return None };
        if tried.is_over(best.id) || now >= job.expires_at {
            return None;
        }
        let other = best.id != connection.id && tried.is_over(connection.id) && !best.gate.is_open(now);
        settlement.tried = Some(tried);
        if !other {
            return None;
        }
        settlement.outlet = Outlet::of(Some(best.id));
        Some(best)
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

    /// Lets the sandbox report what becomes of a message.
    pub fn play(self: &Arc<Self>, job: Job, lease: Lease) {
        let acting = self.actions.begin(job.seq);
        let life = Life::of(job.lane.channel, &job.recipient);
        if life.reports.len() <= 1 {
            return self.report(&job, lease, 0, acting);
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            match this.store.list_events(job.lane.tenant, job.seq).await {
                Ok(events) => {
                    // Of the others one is the attempt's outcome.
                    let own = |kind| !matches!(kind, EventKind::Queued | EventKind::Sending | EventKind::RetryScheduled);
                    let reported = events.iter().filter(|event| own(event.kind)).count().saturating_sub(1);
                    this.report(&job, lease, reported, acting);
                }
                Err(e) => {
                    tracing::error!(error = chain(&e), "a timeline can't be read; the sandbox's report waits");
                    this.orphaned(lease, vec![job.seq]);
                }
            }
        });
    }

    /// Writes down the sandbox's report after so many.
    fn report(&self, job: &Job, lease: Lease, reported: usize, acting: Acting) {
        let now = self.clock.now();
        let mut settlement = blank(job, now);
        (settlement.kind, settlement.status) = (EventKind::Delivered, Status::Delivered);
        if let Some(report) = Life::of(job.lane.channel, &job.recipient).reports.get(reported) {
            (settlement.kind, settlement.status) = (report.kind, report.status);
            settlement.failure_reason = report.reason.map(str::to_owned);
        }
        settlement.next = report_follows(job, reported + 1, now).unwrap_or(Next::Done);
        self.settle(lease, settlement, Held::Action(acting));
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

/// When the sandbox reports next about a message, after so many reports.
fn report_follows(job: &Job, reported: usize, now: Timestamp) -> Option<Next> {
    let report = Life::of(job.lane.channel, &job.recipient).reports.get(reported)?;
    Some(Next::At(Action::Play, now.after(report.after)))
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
        is_found_by_id: false,
        tried: job.tried.clone(),
        outlet: job.lane.outlet,
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
