//! What is known of tenants while their messages move: their state and their providers, bound and ready to call.
//! Read again after a second, so a change on any node or by an operator's command counts within that time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use raven_core::{
    Channel, Clock, ConfigId, Environment, TenantId, Timestamp,
    message::{Feature, Features},
};
use raven_providers::{Bound, Class, Find, Provider, SendError, Sent};
use raven_store::{
    ConfigRecord, Store, TenantRecord,
    providers::{FAILED, VERIFIED},
};
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::{mailer::Mailbag, vault::Vault};

/// How long what was read is trusted.
const FRESH: Duration = Duration::from_secs(1);
/// Tenants remembered at most.
const CAPACITY: u64 = 10_000;
/// Configs of one tenant that are looked at.
const CONFIGS: usize = 1000;

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
    /// A token that the provider handed out, and until when it is used.
    pub token: tokio::sync::Mutex<Option<(SecretString, Timestamp)>>,
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
    fn judge(&self, outcome: &Result<Sent, SendError>) -> Option<ConfigRecord> {
        let failed = self.record.status == FAILED;
        let new = match outcome {
            Err(e) if e.class == Class::Credentials && !failed => self.with_status(FAILED, Some(format!("{}: {}", e.code, e.message))),
            Ok(_) if failed => self.with_status(VERIFIED, None),
            _ => return None,
        };
        (!self.judged.swap(true, Ordering::AcqRel)).then_some(new)
    }

    /// What was said last could not be written down.
    pub fn unjudge(&self) {
        self.judged.store(false, Ordering::Release);
    }

    fn with_status(&self, status: &str, reason: Option<String>) -> ConfigRecord {
        ConfigRecord { status: status.to_owned(), status_reason: reason, ..self.record.clone() }
    }
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

    /// What an outcome says of the config's credentials, if that is news: the record to put in the place of the connection's.
    #[must_use]
    pub fn judge(&self, outcome: &Result<Sent, SendError>) -> Option<(Arc<Connection>, ConfigRecord)> {
        match self {
            Self::Sandbox => None,
            Self::Provider(connection) => connection.judge(outcome).map(|record| (connection.clone(), record)),
        }
    }

    /// What it carries; the sandbox takes everything.
    #[must_use]
    pub fn features(&self) -> Features {
        match self {
            Self::Sandbox => Features::of(&Feature::ALL),
            Self::Provider(connection) => Features::of(connection.provider.spec.features),
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
}

impl TenantView {
    /// The route of a message: the sandbox in test, else the channel's oldest config.
    #[must_use]
    pub fn route(&self, environment: Environment, channel: Channel) -> Option<Route> {
        match environment {
            Environment::Test => Some(Route::Sandbox),
            Environment::Live => self.first(channel).cloned().map(Route::Provider),
        }
    }

    /// Does the channel's config name a sender for messages that name none (`from_email`)?
    #[must_use]
    pub fn has_default_sender(&self, channel: Channel) -> bool {
        self.first(channel).is_some_and(|c| c.default_sender)
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

    fn first(&self, channel: Channel) -> Option<&Arc<Connection>> {
        self.connections.iter().find(|c| c.record.channel == channel)
    }
}

/// Knows tenants.
pub struct Directory {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    vault: Vault,
    find: Find,
    views: Cache<TenantId, Arc<TenantView>>,
}

impl Directory {
    /// A directory over the store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, vault: Vault, find: Find) -> Self {
        Self { store, clock, vault, find, views: Cache::new(CAPACITY) }
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
        let read = async {
            let record = self.store.find_tenant(id).await?.ok_or_else(|| raven_store::Error::Conflict("tenant"))?;
            let mut configs = self.store.list_configs(id, None, CONFIGS).await?;
            configs.reverse();
            let known: HashMap<ConfigId, Arc<Connection>> =
                previous.iter().flat_map(|v| &v.connections).map(|c| (c.id, c.clone())).collect();
            let connections = configs.into_iter().filter_map(|config| self.connect(&record, config, &known)).collect();
            Ok(Arc::new(TenantView { record, connections, read_at: now }))
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

    fn connect(&self, tenant: &TenantRecord, record: ConfigRecord, known: &HashMap<ConfigId, Arc<Connection>>) -> Option<Arc<Connection>> {
        if let Some(connection) = known.get(&record.id).filter(|c| c.record == record) {
            return Some(connection.clone());
        }
        match self.bind(tenant, &record) {
            Ok((provider, bound)) => {
                let default_sender =
                    serde_json::from_str::<Map<String, Value>>(&record.public).is_ok_and(|public| public.contains_key("from_email"));
                Some(Arc::new(Connection {
                    id: record.id,
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
