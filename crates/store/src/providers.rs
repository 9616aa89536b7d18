//! Provider configs: a tenant's credentials at a provider. Secrets arrive here sealed.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, TenantId, Timestamp};

use crate::{AuditRecord, Claim, Outcome, Result};

/// Its credentials were not tried since they were set.
pub const UNVERIFIED: &str = "unverified";
/// Its credentials worked.
pub const VERIFIED: &str = "verified";
/// Its credentials did not work.
pub const FAILED: &str = "failed";

/// A provider config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRecord {
    /// Its id.
    pub id: ConfigId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Id of the provider in the catalog.
    pub provider: String,
    /// The provider's channel.
    pub channel: Channel,
    /// Shown.
    pub label: String,
    /// [`UNVERIFIED`], [`VERIFIED`] or [`FAILED`].
    pub status: String,
    /// Why it is `failed`, or why it could not be found out whether it is.
    pub status_reason: Option<String>,
    /// Public settings: a JSON object as text.
    pub public: String,
    /// Are callbacks taken that nothing proves to be the provider's?
    pub allow_unsigned: bool,
    /// Secret settings: a JSON object, sealed with the tenant's data key.
    pub secret: Vec<u8>,
    /// When it was created.
    pub created_at: Timestamp,
    /// What goes through it.
    pub routing: Routing,
}

/// What goes through a config, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Lower ones come first.
    pub priority: i16,
    /// Its share among those of equal priority.
    pub weight: i16,
    /// Which recipients it takes: JSON; `None`: all.
    pub rules: Option<String>,
    /// Calls a second.
    pub rate_per_second: Option<i32>,
    /// Calls at once after a rest.
    pub burst: Option<i32>,
    /// Calls at a time.
    pub concurrency: Option<i32>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { priority: 100, weight: 100, rules: None, rate_per_second: None, burst: None, concurrency: None }
    }
}

/// A provider config to create.
#[derive(Clone, Debug)]
pub struct NewConfig {
    /// The config.
    pub record: ConfigRecord,
    /// The caller's idempotency key, if one was given.
    pub claim: Option<Claim>,
    /// What the audit log says.
    pub audit: AuditRecord,
}

/// Verbs about provider configs.
#[async_trait]
pub trait Configs: Send + Sync {
    /// Creates a config.
    async fn create_config(&self, new: NewConfig) -> Result<Outcome>;

    /// The tenant's config with this id.
    async fn find_config(&self, tenant: TenantId, id: ConfigId) -> Result<Option<ConfigRecord>>;

    /// The tenant's configs, newest first by (created, id), from below `before` (exclusive) on.
    async fn list_configs(&self, tenant: TenantId, before: Option<(Timestamp, ConfigId)>, limit: usize) -> Result<Vec<ConfigRecord>>;

    /// Puts `new` in the place of `old`, if the config is still as `old` says; `false` when it is not, or is gone. Its id, tenant,
    /// provider, channel and time of creation stay as they are.
    async fn replace_config(&self, old: &ConfigRecord, new: &ConfigRecord, audit: Option<AuditRecord>) -> Result<bool>;

    /// Configs whose status is [`FAILED`], of all tenants that are active: from after one on.
    async fn list_failed_configs(&self, after: Option<ConfigId>, limit: usize) -> Result<Vec<(TenantId, ConfigId)>>;

    /// Configs of a provider, of all tenants that are active: from after one on.
    async fn list_configs_of(&self, provider: &str, after: Option<ConfigId>, limit: usize) -> Result<Vec<ConfigRecord>>;

    /// Deletes a config and its secrets; `false` when there is none.
    async fn delete_config(&self, tenant: TenantId, id: ConfigId, audit: AuditRecord) -> Result<bool>;
}
