//! What is known of tenants while their messages move: their state and their providers, bound and ready to call.
//! Read again after a second, so a change on any node or by an operator's command counts within that time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use parking_lot::Mutex;
use raven_core::{Channel, Clock, ConfigId, Environment, TenantId, Timestamp, message::Features, reach::Reach};
use raven_providers::{Bound, Class, Find, Provider, SendError, Sent};
use raven_store::{
    ConfigRecord, Store, TenantRecord,
    providers::{FAILED, VERIFIED},
};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    gate::{Gate, Telling},
    mailer::Mailbag,
    routing::{self, Contender, Objection, Query},
    vault::Vault,
};

/// How long what was read is trusted.
const FRESH: Duration = Duration::from_secs(1);
/// Tenants remembered at most.
const CAPACITY: u64 = 10_000;
/// Configs of one tenant that are looked at.
const CONFIGS: usize = 1000;
/// Gates kept at most before those that say nothing are let go.
const GATES: usize = 10_000;

/// A token that a provider handed out.
pub struct HeldToken {
    /// What requests carry.
    pub secret: SecretString,
    /// Until when it is used.
    pub until: Timestamp,
    /// When it was asked for.
    pub fetched: tokio::time::Instant,
}

/// A provider config, ready to call. Its secrets are wiped when it is dropped.
pub struct Connection {
    /// The config's id.
    pub id: ConfigId,
    /// The provider.
    pub provider: &'static Provider,
    /// The provider with the tenant's settings.
    pub bound: Bound,
    /// SMTP connections, where it is that.
    pub mail: Mailbag,
    /// A token that the provider handed out.
    pub token: tokio::sync::Mutex<Option<HeldToken>>,
    /// Whether it lets calls through.
    pub gate: Arc<Gate>,
    reach: Reach,
    features: Features,
    default_sender: bool,
    record: ConfigRecord,
    /// Was its status written down anew since it was read?
    judged: AtomicBool,
}

impl Connection {
    /// The record as it was read.
    #[must_use]
    pub const fn record(&self) -> &ConfigRecord {
        &self.record
    }

    /// The record that an outcome calls for, if it is another one than the present: credentials that don't work are told on the
    /// config, and that they work again, too. Asked once, it says no until the config was read again.
    fn judge(&self, outcome: &Result<Sent, SendError>) -> Option<Verdict> {
        let failed = self.record.status == FAILED;
        let refused = match outcome {
            Err(e) if e.class == Class::Credentials => Some(format!("{}: {}", e.code, e.message)),
            Ok(_) if failed || self.gate.is_paused() => None,
            _ => return None,
        };
        // At once, for this node: what is written down is read a moment later.
        let telling = self.gate.tell();
        self.gate.pause(refused.is_some());
        if refused.is_some() == failed || self.judged.swap(true, Ordering::AcqRel) {
            return None;
        }
        let status = if refused.is_some() { FAILED } else { VERIFIED };
        let record = ConfigRecord { status: status.to_owned(), status_reason: refused, ..self.record.clone() };
        Some(Verdict { record, telling })
    }

    /// What was said last could not be written down.
    pub fn unjudge(&self) {
        self.gate.pause(self.record.status == FAILED);
        self.judged.store(false, Ordering::Release);
    }

    /// As it may be chosen at this time.
    #[must_use]
    pub fn contender(&self, now: Timestamp) -> Contender<'_> {
        Contender {
            id: self.id,
            provider: self.provider.spec.id,
            priority: self.record.routing.priority,
            weight: self.record.routing.weight,
            reach: &self.reach,
            features: self.features,
            default_sender: self.default_sender,
            paused: self.gate.is_paused(),
            open: self.gate.is_open(now),
        }
    }
}

/// What an outcome says of a config's credentials, to be written down.
pub struct Verdict {
    /// The record to put in the place of the connection's.
    pub record: ConfigRecord,
    /// Until it is written down, and its gate does as the config says again.
    pub telling: Telling,
}

/// Where a message goes.
#[derive(Clone)]
pub enum Route {
    /// To the built-in sandbox.
    Sandbox,
    /// To a provider.
    Provider(Arc<Connection>),
}

impl Route {
    /// The config's id; none for the sandbox.
    #[must_use]
    pub fn config(&self) -> Option<ConfigId> {
        match self {
            Self::Sandbox => None,
            Self::Provider(connection) => Some(connection.id),
        }
    }

    /// What an outcome says of the config's credentials, if that is news.
    #[must_use]
    pub fn judge(&self, outcome: &Result<Sent, SendError>) -> Option<(Arc<Connection>, Verdict)> {
        match self {
            Self::Sandbox => None,
            Self::Provider(connection) => connection.judge(outcome).map(|verdict| (connection.clone(), verdict)),
        }
    }

    /// The gate before it; none before the sandbox.
    #[must_use]
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        match self {
            Self::Sandbox => None,
            Self::Provider(connection) => Some(&connection.gate),
        }
    }

    /// Do callbacks about its messages know no id but the provider's?
    #[must_use]
    pub fn is_found_by_id(&self) -> bool {
        matches!(self, Self::Provider(connection) if connection.provider.spec.callbacks.is_some_and(|callbacks| callbacks.by_id))
    }

    /// The provider's id.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        match self {
            Self::Sandbox => raven_providers::sandbox::ID,
            Self::Provider(connection) => connection.provider.spec.id,
        }
    }
}

/// A tenant, as it was a moment ago.
pub struct TenantView {
    /// Its record.
    pub record: TenantRecord,
    /// Its connections, oldest first.
    connections: Vec<Arc<Connection>>,
    read_at: Timestamp,
    /// When its reading began.
    began: Instant,
}

impl TenantView {
    /// The route of a message: the sandbox in test, else the best of the channel's configs ([`routing`]); `None` when none of them
    /// takes it at this time.
    #[must_use]
    pub fn route(&self, environment: Environment, query: &Query<'_>, now: Timestamp) -> Option<Route> {
        if environment == Environment::Test {
            return Some(Route::Sandbox);
        }
        let at = routing::choose(self.on(query.channel).map(|connection| connection.contender(now)), query)?;
        self.on(query.channel).nth(at).cloned().map(Route::Provider)
    }

    /// Does a message wait for nothing but a config whose credentials don't work?
    #[must_use]
    pub fn waits_for_a_paused_one(&self, environment: Environment, query: &Query<'_>, now: Timestamp) -> bool {
        let found = |c: &Arc<Connection>| routing::assess(&c.contender(now), query) == Err(Objection::Paused);
        environment == Environment::Live && self.route(environment, query, now).is_none() && self.on(query.channel).any(found)
    }

    /// The connections of a channel, oldest first.
    pub fn on(&self, channel: Channel) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().filter(move |c| c.record.channel == channel)
    }

    /// A route as it is by now; `None` when its config is gone, or takes nothing any more.
    #[must_use]
    pub fn renew(&self, route: &Route) -> Option<Route> {
        match route {
            Route::Sandbox => Some(Route::Sandbox),
            Route::Provider(old) => {
                let connection = self.connection(old.id).filter(|c| !c.gate.is_paused())?;
                // With other rules, say, it may be no candidate any more.
                (connection.record.routing == old.record.routing).then(|| Route::Provider(connection.clone()))
            }
        }
    }

    /// Was it read after that moment?
    #[must_use]
    pub fn is_since(&self, moment: Instant) -> bool {
        self.began >= moment
    }

    /// Are the configs of a channel the same in another view?
    #[must_use]
    pub fn agrees(&self, other: &Self, channel: Channel) -> bool {
        self.on(channel).map(|c| &c.record).eq(other.on(channel).map(|c| &c.record))
    }

    /// Its connections, oldest first.
    #[must_use]
    pub fn connections(&self) -> &[Arc<Connection>] {
        &self.connections
    }

    /// The connection of this config.
    #[must_use]
    pub fn connection(&self, id: ConfigId) -> Option<&Arc<Connection>> {
        self.connections.iter().find(|c| c.id == id)
    }
}

/// Knows tenants.
pub struct Directory {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    vault: Vault,
    find: Find,
    views: Cache<TenantId, Arc<TenantView>>,
    gates: Mutex<HashMap<ConfigId, Arc<Gate>>>,
    /// Processes that call, which share the pace of a config.
    nodes: AtomicUsize,
}

impl Directory {
    /// A directory over the store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, vault: Vault, find: Find) -> Self {
        Self { store, clock, vault, find, views: Cache::new(CAPACITY), gates: Mutex::default(), nodes: AtomicUsize::new(1) }
    }

    /// The tenant; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<TenantView>>, Arc<raven_store::Error>> {
        let now = self.clock.now();
        let previous = self.views.get(&id).await;
        if let Some(view) = &previous {
            if now >= view.read_at && now.since(view.read_at) < FRESH {
                return Ok(Some(view.clone()));
            }
            // Only the caller that still sees the stale view removes it; the others join the read below.
            self.views.invalidate(&id).await;
        }
        Box::pin(self.read(id, previous, now)).await
    }

    /// Reads the tenant, once for all who ask meanwhile.
    async fn read(
        &self,
        id: TenantId,
        previous: Option<Arc<TenantView>>,
        now: Timestamp,
    ) -> Result<Option<Arc<TenantView>>, Arc<raven_store::Error>> {
        let read = async {
            let began = Instant::now();
            let record = self.store.find_tenant(id).await?.ok_or_else(|| raven_store::Error::Conflict("tenant"))?;
            let mut configs = self.store.list_configs(id, None, CONFIGS).await?;
            configs.reverse();
            let known: HashMap<ConfigId, Arc<Connection>> =
                previous.iter().flat_map(|v| &v.connections).map(|c| (c.id, c.clone())).collect();
            let connect = |config: ConfigRecord| {
                let failed = config.status == FAILED;
                let connection = self.connect(&record, config, &known)?;
                connection.gate.follow(failed, began);
                Some(connection)
            };
            let connections = configs.into_iter().filter_map(connect).collect();
            Ok(Arc::new(TenantView { record, connections, read_at: now, began }))
        };
        match self.views.try_get_with(id, read).await {
            Ok(view) => Ok(Some(view)),
            Err(e) if matches!(*e, raven_store::Error::Conflict(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Forgets what is known of a tenant: after it was changed here.
    pub async fn forget(&self, id: TenantId) {
        self.views.invalidate(&id).await;
    }

    /// A config of the tenant, ready to call, whatever is remembered of it; `None` when it can't be used.
    #[must_use]
    pub fn bound(&self, tenant: &TenantRecord, record: ConfigRecord) -> Option<Arc<Connection>> {
        self.connect(tenant, record, &HashMap::new())
    }

    /// The tenant as it is now, whatever was known.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn tenant_anew(&self, id: TenantId) -> Result<Option<Arc<TenantView>>, Arc<raven_store::Error>> {
        let moment = Instant::now();
        loop {
            self.forget(id).await;
            let view = self.tenant(id).await?;
            // Another one's reading may have been joined that began before.
            if view.as_ref().is_none_or(|view| view.is_since(moment)) {
                return Ok(view);
            }
        }
    }

    /// Tells how many processes call.
    pub fn set_nodes(&self, nodes: usize) {
        let nodes = nodes.max(1);
        if self.nodes.swap(nodes, Ordering::Relaxed) != nodes {
            self.gates.lock().values().for_each(|gate| gate.set_nodes(nodes));
        }
    }

    /// The gate before a config: the same one for as long as there is anything to remember.
    fn gate(&self, id: ConfigId) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if gates.len() >= GATES {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_plain());
        }
        gates.entry(id).or_default().clone()
    }

    fn connect(&self, tenant: &TenantRecord, record: ConfigRecord, known: &HashMap<ConfigId, Arc<Connection>>) -> Option<Arc<Connection>> {
        if let Some(connection) = known.get(&record.id).filter(|c| c.record == record) {
            return Some(connection.clone());
        }
        match self.bind(tenant, &record) {
            Ok((provider, bound)) => {
                let default_sender =
                    serde_json::from_str::<Map<String, Value>>(&record.public).is_ok_and(|public| public.contains_key("from_email"));
                let gate = self.gate(record.id);
                gate.set(&record.routing, self.nodes.load(Ordering::Relaxed));
                Some(Arc::new(Connection {
                    id: record.id,
                    gate,
                    // What can't be read names nobody, rather than everybody.
                    reach: record.routing.rules.as_deref().map_or_else(Reach::default, |rules| {
                        serde_json::from_str(rules).unwrap_or_else(|_| Reach { prefixes: vec!["none".to_owned()], ..Reach::default() })
                    }),
                    features: Features::of(provider.spec.features),
                    provider,
                    bound,
                    mail: Mailbag::default(),
                    token: tokio::sync::Mutex::default(),
                    default_sender,
                    record,
                    judged: AtomicBool::new(false),
                }))
            }
            Err(reason) => {
                tracing::error!(tenant = %tenant.id, config = %record.id, provider = record.provider, reason, "a provider config can't be used");
                None
            }
        }
    }

    fn bind(&self, tenant: &TenantRecord, record: &ConfigRecord) -> Result<(&'static Provider, Bound), String> {
        let provider = (self.find)(&record.provider).ok_or("this version does not know the provider")?;
        let public: Map<String, Value> = serde_json::from_str(&record.public).map_err(|e| e.to_string())?;
        let plain = self.vault.open_config(&tenant.data_key, tenant.id, record.id, &record.secret).map_err(|e| e.to_string())?;
        // The error of a parser may quote what it read, so it is not shown.
        let secret: Map<String, Value> = serde_json::from_slice(&plain).map_err(|_| "the opened secrets are not an object")?;
        Ok((provider, provider.bind(&public, &secret)?))
    }
}
