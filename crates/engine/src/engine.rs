//! The engine put together: what runs, in which order it starts, and how it stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64},
    },
    time::Duration,
};

use raven_core::{Channel, Clock, TenantId, problem::chain};
use raven_providers::Find;
use raven_store::{ConfigRecord, Store, TenantRecord};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempt::Attempts,
    callbacks::{Applier, CallbackOptions, CallbackUrls, Intake, Reception, Recorder, passage},
    calls::{BaseUrls, Calls},
    clock::Entropy,
    coalescer::Coalescer,
    directory::Directory,
    dispatch::{Dispatcher, Limits},
    guard::Guard,
    healing::Healing,
    housekeeping::Housekeeping,
    ingest::{Ingest, Parts},
    keyring::Keyring,
    limiter::Limiter,
    mailer::Mailer,
    membership::Membership,
    metrics::Metrics,
    oidc::{self, Issuer, IssuerOptions},
    parking,
    plans::Plans,
    settle::{Actions, Settler},
    shared_clock::{Reference, SharedClock},
    smpp::{Pace, Sessions},
    token::Tokens,
    transport::{ExtraRoots, Transport},
    unsubscribe::UnsubscribeLinks,
    vault::{InstallationKeys, SecretKey, Vault},
    worker::Worker,
};

/// Between two looks for due jobs that nobody told us of.
pub(crate) const POLL: Duration = Duration::from_millis(500);
/// Between two times that the last uses of keys are written down.
const LAST_USED: Duration = Duration::from_secs(10);
/// Between two looks for sessions that are missing.
const SESSIONS: Duration = Duration::from_secs(5);
/// Between two looks for what should not be.
const CHECK: Duration = Duration::from_secs(300);
/// How long a stop waits for the loops to end, each after its present step: longer only where the store hangs.
const LOOPS_END: Duration = Duration::from_secs(5);

/// Where the engine finds itself.
#[derive(Clone)]
pub struct Surroundings {
    /// The storage, migrated.
    pub store: Arc<dyn Store>,
    /// This machine's time.
    pub clock: Arc<dyn Clock>,
    /// Whose time counts where nodes share a database.
    pub reference: Reference,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// This process's name among the nodes.
    pub node_id: String,
    /// Wraps all other keys.
    pub master_key: SecretKey,
    /// Verifies bearer tokens.
    pub jwt_secret: secrecy::SecretString,
    /// `iss` that tokens must have.
    pub jwt_issuer: Option<String>,
    /// `aud` that tokens must have.
    pub jwt_audience: Option<String>,
    /// An OIDC issuer whose bearer tokens are taken, too. `jwt_issuer` and `jwt_audience` don't concern them.
    pub oidc: Option<IssuerOptions>,
    /// Does this process call providers?
    pub works: bool,
    /// How much may be under way.
    pub limits: Limits,
    /// What tenants may do.
    pub plans: Plans,
    /// How long a call of a provider may take; at most [`crate::transport::CALL_CAP`].
    pub call_cap: Duration,
    /// May tenants reach private networks?
    pub allow_private: bool,
    /// The providers that there are.
    pub find_provider: Find,
    /// Base URLs in place of documented ones.
    pub base_urls: BaseUrls,
    /// Trusted beside the public certificate authorities.
    pub extra_roots: ExtraRoots,
    /// How mail servers are greeted.
    pub hello_name: String,
    /// How patient sessions with message centres are.
    pub smpp_pace: Pace,
    /// What is made of callbacks.
    pub callbacks: CallbackOptions,
}

/// Why the engine can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The installation's keys don't open.
    #[error(transparent)]
    Vault(#[from] crate::vault::VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] raven_store::Error),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] crate::clock::EntropyError),
    /// A setting can't be used.
    #[error("{0}")]
    Setting(String),
}

/// A running engine. What handlers need of it is public.
pub struct Engine {
    /// The storage.
    pub store: Arc<dyn Store>,
    /// The time that all nodes go by.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Acceptance.
    pub ingest: Ingest,
    /// Keys.
    pub keyring: Keyring,
    /// Bearer tokens.
    pub tokens: Tokens,
    /// What tenants may do.
    pub plans: Arc<Plans>,
    /// Rate limits.
    pub limiter: Limiter,
    /// Tenants.
    pub directory: Arc<Directory>,
    /// Calls of providers.
    pub calls: Arc<Calls>,
    /// Where callbacks go.
    pub callback_urls: Arc<CallbackUrls>,
    /// Links by which recipients unsubscribe.
    pub unsubscribe_links: Arc<UnsubscribeLinks>,
    /// Callbacks that come in.
    pub reception: Reception,
    /// Callbacks that are applied; tests step it.
    pub applier: Arc<Applier>,
    /// Sealed secrets.
    pub vault: Vault,
    /// Message ids.
    pub ids: Arc<raven_core::IdCipher>,
    /// Cursors.
    pub cursors: raven_core::page::CursorKey,
    /// This node.
    pub membership: Arc<Membership>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Chores; tests step them.
    pub housekeeping: Housekeeping,
    worker: Option<Arc<Worker>>,
    stopping: CancellationToken,
    parts: parking_lot::Mutex<Option<Running>>,
}

/// How much is under way in a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls whose permits are out.
    pub calls: usize,
    /// Jobs held in memory.
    pub held: usize,
    /// Of these, jobs that wait until their config lets them through.
    pub gated: usize,
    /// Outcomes on their way to the store.
    pub unsettled: usize,
    /// Calls, and what is done about them beyond their outcomes.
    pub tasks: usize,
}

struct Running {
    coalescers: Vec<Coalescer>,
    recorder: Option<Recorder>,
    settler: Option<Settler>,
    accepting: Vec<JoinHandle<()>>,
    settling: Option<JoinHandle<()>>,
    loops: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Puts the engine together and registers the node, taking back at once what an earlier life of it left behind.
    /// Nothing runs yet: see [`run`](Self::run).
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn new(surroundings: Surroundings, options: Options) -> Result<Arc<Self>, StartError> {
        let Surroundings { store, clock, reference, entropy } = surroundings;
        let shared_clock = Arc::new(SharedClock::new(clock, reference));
        let clock: Arc<dyn Clock> = shared_clock.clone();
        let vault = Vault::new(options.master_key, entropy.clone());
        let keys = InstallationKeys::load(&vault, &*store).await?;
        let (membership, registration) = Membership::join(&*store, shared_clock, &options.node_id).await?;
        let (membership, metrics, ids) = (Arc::new(membership), Arc::new(Metrics::default()), Arc::new(keys.ids));
        let directory = Arc::new(Directory::new(store.clone(), clock.clone(), vault.clone(), options.find_provider));
        let plans = Arc::new(options.plans);
        let guard = Guard { allow_private: options.allow_private };
        let mut tokens = Tokens::new(&options.jwt_secret, options.jwt_issuer.as_deref(), options.jwt_audience.as_deref());
        if let Some(issuer) = options.oidc {
            tokens = tokens.with_oidc(Issuer::new(issuer, &options.extra_roots).map_err(StartError::Setting)?);
        }

        let callback_urls = Arc::new(CallbackUrls::new(options.callbacks.public_url.clone(), keys.callbacks));
        let unsubscribe_links = Arc::new(UnsubscribeLinks::new(options.callbacks.public_url.clone(), keys.unsubscribe));
        let (intake, waiting) = Intake::new(clock.clone(), membership.clone(), metrics.clone());
        let (extra, cap) = (&options.extra_roots, options.call_cap);
        let smpp = Sessions::new(guard, clock.clone(), extra, cap, options.smpp_pace, intake.clone(), metrics.clone());
        let calls = Arc::new(Calls {
            smpp: Arc::new(smpp.map_err(StartError::Setting)?),
            callback_urls: callback_urls.clone(),
            clock: clock.clone(),
            transport: Transport::new(&options.extra_roots, options.call_cap).map_err(StartError::Setting)?,
            mailer: Mailer::new(guard, clock.clone(), &options.hello_name, &options.extra_roots, options.call_cap)
                .map_err(StartError::Setting)?,
            base_urls: options.base_urls,
        });
        let (mut worker, mut settler) = (None, None);
        if options.works {
            let wake = Arc::new(Notify::new());
            let (outcomes, end) = Settler::new(store.clone(), wake.clone());
            let attempts = Arc::new(Attempts {
                store: store.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                directory: directory.clone(),
                ids: ids.clone(),
                calls: calls.clone(),
                unsubscribe_links: unsubscribe_links.clone(),
                outcomes,
                tasks: TaskTracker::new(),
                metrics: metrics.clone(),
                actions: Actions::default(),
                claiming: tokio::sync::Mutex::default(),
                orphans: parking_lot::Mutex::default(),
            });
            let dispatcher = Dispatcher::new(options.limits, metrics.clone());
            settler = Some(end);
            worker = Some(Arc::new(Worker {
                store: store.clone(),
                clock: clock.clone(),
                membership: membership.clone(),
                directory: directory.clone(),
                dispatcher,
                attempts,
                wake,
                lost_claim: AtomicBool::new(false),
                opens_at: AtomicI64::new(i64::MAX),
            }));
        }
        let dispatch = worker.as_ref().map(|w| (w.dispatcher.clone(), w.attempts.clone()));
        let parts = Parts {
            store: store.clone(),
            clock: clock.clone(),
            membership: membership.clone(),
            ids: ids.clone(),
            dispatch: dispatch.clone(),
            metrics: metrics.clone(),
        };
        let (ingest, coalescers) = Ingest::new(&parts);
        let reception = Reception::new(clock.clone(), directory.clone(), calls.clone(), callback_urls.clone(), intake);
        let (stored, to_apply) = passage();
        let recorder = Recorder { store: store.clone(), clock: clock.clone(), waiting, stored };
        let applier = Arc::new(Applier {
            store: store.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            directory: directory.clone(),
            membership: membership.clone(),
            cipher: ids.clone(),
            calls: calls.clone(),
            metrics: metrics.clone(),
            options: options.callbacks,
            stored: tokio::sync::Mutex::new(to_apply),
        });
        let housekeeping = Housekeeping {
            store: store.clone(),
            clock: clock.clone(),
            membership: membership.clone(),
            dispatch,
            metrics: metrics.clone(),
            directory: directory.clone(),
            calls: calls.clone(),
            healing: Healing::default(),
        };
        housekeeping.take_over(registration.predecessors).await?;
        Ok(Arc::new(Self {
            keyring: Keyring::new(store.clone(), clock.clone(), entropy.clone(), &keys.key_mac, plans.clone())?,
            limiter: Limiter::new(store.clone(), clock.clone()),
            plans,
            tokens,
            cursors: keys.cursors,
            store,
            clock,
            entropy,
            ingest,
            directory,
            calls,
            callback_urls,
            unsubscribe_links,
            reception,
            applier,
            vault,
            ids,
            membership,
            metrics,
            housekeeping,
            worker,
            stopping: CancellationToken::new(),
            parts: parking_lot::Mutex::new(Some(Running {
                coalescers,
                recorder: Some(recorder),
                settler,
                accepting: Vec::new(),
                settling: None,
                loops: Vec::new(),
            })),
        }))
    }

    /// Starts all loops.
    pub fn run(self: &Arc<Self>) {
        self.store.listen();
        self.run_acceptance();
        let mut parts = self.parts.lock();
        let Some(running) = parts.as_mut() else { return };
        if let Some(worker) = &self.worker {
            running.loops.push(tokio::spawn(worker.clone().run_starts(self.stopping.clone())));
            running.loops.push(tokio::spawn(worker.clone().run_claims(self.stopping.clone())));
        }
        running.loops.push(tokio::spawn(self.applier.clone().run(self.stopping.clone())));
        running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), raven_store::nodes::HEARTBEAT, Chore::Beat))));
        running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), Duration::from_secs(60), Chore::Tidy))));
        running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), Duration::from_secs(15), Chore::Measure))));
        if self.worker.is_some() {
            running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), Duration::from_secs(15), Chore::Heal))));
            running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), SESSIONS, Chore::Sessions))));
        }
        let engine = self.clone();
        running.loops.push(tokio::spawn(until(self.stopping.clone(), async {
            // After a standstill much is late, which the first minutes put right.
            tokio::time::sleep(CHECK).await;
            every(engine, CHECK, Chore::Check).await;
        })));
        if self.tokens.oidc().is_some() {
            running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), oidc::REFRESH, Chore::IssuerKeys))));
        }
        running.loops.push(tokio::spawn(until(self.stopping.clone(), every(self.clone(), LAST_USED, Chore::WriteLastUsed))));
    }

    /// Starts acceptance and settling alone. What else there is to do is done by [`step`](Self::step): for tests.
    pub fn run_acceptance(&self) {
        let mut parts = self.parts.lock();
        let Some(running) = parts.as_mut() else { return };
        running.accepting.extend(running.coalescers.drain(..).map(|c| tokio::spawn(c.run())));
        running.accepting.extend(running.recorder.take().map(|r| tokio::spawn(r.run())));
        running.settling = running.settler.take().map(|s| tokio::spawn(s.run()));
    }

    /// Claims what is due and begins what can begin. Returns how many jobs moved.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn step(&self) -> raven_store::Result<usize> {
        let Some(worker) = &self.worker else { return Ok(0) };
        let (_, claimed) = worker.step_claims().await?;
        Ok(usize::from(claimed) + worker.step_starts().await)
    }

    /// Calls under way, jobs held in memory, and outcomes that are not written down yet.
    #[must_use]
    pub fn load(&self) -> Load {
        self.worker.as_ref().map_or(Load::default(), |w| Load {
            calls: w.dispatcher.calls(),
            held: w.dispatcher.held(),
            gated: w.dispatcher.gated(self.clock.now()),
            unsettled: w.attempts.outcomes.pending(),
            tasks: w.attempts.tasks.len(),
        })
    }

    /// Where the callbacks of a config go, below `base`; `None` for a provider that makes none, or settings that can't be used.
    #[must_use]
    pub fn callback_url(&self, base: &str, tenant: &TenantRecord, config: ConfigRecord) -> Option<String> {
        let connection = self.directory.bound(tenant, config)?;
        self.callback_urls.url(base, &connection)
    }

    /// A tenant's configs of a channel have changed: what is known of them is forgotten, and what waits for them goes on.
    pub async fn configs_changed(&self, tenant: TenantId, channel: Channel) {
        self.directory.forget(tenant).await;
        if parking::unpark(&*self.store, tenant, channel).await > 0
            && let Some(worker) = &self.worker
        {
            worker.wake.notify_one();
        }
    }

    /// Is this process on its way out?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Stops in order: no new claims and starts, then calls under way end and are settled, what is held goes back, the
    /// node retires. The server must have stopped taking requests before.
    pub async fn stop(&self, most: Duration) {
        let deadline = Instant::now() + most;
        self.stopping.cancel();
        let Some(mut running) = self.parts.lock().take() else { return };
        let patience = deadline.min(Instant::now() + LOOPS_END);
        for mut handle in running.loops.drain(..) {
            if tokio::time::timeout_at(patience, &mut handle).await.is_err() {
                handle.abort();
            }
        }
        if let Err(e) = self.keyring.write_last_used().await {
            tracing::debug!(error = chain(&e), "the last uses of keys could not be written down");
        }
        let lease = self.membership.lease();
        if let Some(worker) = &self.worker {
            let held = worker.dispatcher.stop();
            worker.release(&held).await;
            worker.attempts.tasks.close();
            if tokio::time::timeout_at(deadline, worker.attempts.tasks.wait()).await.is_err() {
                tracing::warn!(
                    calls = worker.dispatcher.calls(),
                    "calls were still under way at the end of the stop; their outcomes count as unknown"
                );
            }
            while (worker.dispatcher.calls() > 0 || worker.attempts.outcomes.pending() > 0) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // What message centres have sent until now is still stored.
        self.calls.smpp.close(deadline.min(Instant::now() + LOOPS_END)).await;
        for handle in running.accepting.drain(..).chain(running.settling.take()) {
            handle.abort();
        }
        // What is left under the epoch (calls that did not end) is for the next life of this node, or for the others.
        let left = match self.store.reap(lease, self.clock.now(), self.clock.now().after(crate::attempt::UNKNOWN_FOR), 10_000).await {
            Ok(_) => {
                self.store.announce();
                self.store.retire_node(lease).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = left {
            tracing::warn!(error = chain(&e), "the node could not sign off; it will be declared dead");
        }
        self.store.close().await;
    }
}

pub(crate) async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

enum Chore {
    Beat,
    Measure,
    Tidy,
    Heal,
    Sessions,
    Check,
    WriteLastUsed,
    IssuerKeys,
}

async fn every(engine: Arc<Engine>, period: Duration, chore: Chore) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let done = match chore {
            Chore::Beat => engine.housekeeping.beat().await,
            Chore::Measure => engine.housekeeping.measure().await,
            Chore::Tidy => engine.housekeeping.tidy().await,
            Chore::Heal => engine.housekeeping.heal().await,
            // Hosts that don't answer keep nobody waiting.
            Chore::Sessions => engine.housekeeping.keep_sessions().await.map(drop),
            Chore::Check => engine.housekeeping.check().await,
            Chore::IssuerKeys => {
                if let Some(issuer) = engine.tokens.oidc() {
                    issuer.refresh(engine.clock.now()).await;
                }
                Ok(())
            }
            Chore::WriteLastUsed => engine.keyring.write_last_used().await,
        };
        if let Err(e) = done {
            tracing::error!(error = chain(&e), "a chore failed and will be tried again");
        }
    }
}
