//! Tenants, and the humans in them.

use async_trait::async_trait;
use raven_core::{
    TenantId, Timestamp, UserId,
    permission::Role,
    tenant::{SuspendedBy, TenantStatus},
};

use crate::{AuditRecord, Claim, Outcome, Result};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRecord {
    /// Its id.
    pub id: TenantId,
    /// Unique; stands in `X-Tenant-Slug`.
    pub slug: String,
    /// Shown.
    pub name: String,
    /// What it may do at all.
    pub status: TenantStatus,
    /// Name of its plan.
    pub plan: String,
    /// ISO 3166-1 alpha-2.
    pub country_code: Option<String>,
    /// BCP 47.
    pub default_locale: String,
    /// IANA time zone.
    pub default_tz: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its data key, wrapped by the master key.
    pub data_key: Vec<u8>,
    /// May a message whose outcome is unknown be sent again (and perhaps arrive twice)?
    pub retry_unknown: bool,
    /// Who suspended it, if it is, or was when it was archived.
    pub suspended_by: Option<SuspendedBy>,
    /// When it was archived, if it is.
    pub archived_at: Option<Timestamp>,
}

/// What a token says of a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserProfile {
    /// `sub`
    pub id: UserId,
    /// `email`
    pub email: String,
    /// `name`
    pub name: Option<String>,
    /// `picture`
    pub avatar_url: Option<String>,
}

/// A tenant to create, and who becomes its owner.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// The tenant.
    pub record: TenantRecord,
    /// Its first owner.
    pub owner: UserProfile,
    /// The caller's idempotency key, if one was given.
    pub claim: Option<Claim>,
    /// What the audit log says.
    pub audit: AuditRecord,
}

/// What to change of a tenant; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantChange {
    /// Its name.
    pub name: Option<String>,
    /// Its country; `Some(None)` takes it away.
    pub country_code: Option<Option<String>>,
    /// Its locale.
    pub default_locale: Option<String>,
    /// Its time zone.
    pub default_tz: Option<String>,
    /// Its plan: for operators.
    pub plan: Option<String>,
    /// Whether messages with an unknown outcome are sent again: for operators.
    pub retry_unknown: Option<bool>,
}

/// A step in a tenant's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// From active. An operator may also take over an owner's suspension.
    Suspend(SuspendedBy),
    /// From suspended. An operator's suspension is only lifted by an operator, who may also lift an owner's.
    Reactivate(SuspendedBy),
    /// From active or suspended, at this time.
    Archive(Timestamp),
    /// From archived, at this time, unless it was archived [`raven_core::tenant::RESTORABLE`] ago or longer: back to what it was.
    Restore(Timestamp),
}

/// What became of a [`StateChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChanged {
    /// The tenant as it is now.
    pub tenant: TenantRecord,
    /// `false`: its state does not allow the step, and nothing was changed.
    pub changed: bool,
}

/// A human's place in a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// The tenant.
    pub tenant: TenantRecord,
    /// The human's role in it.
    pub role: Role,
}

/// Verbs about tenants and their members.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Creates a tenant with its owner (whose profile is stored or refreshed).
    ///
    /// # Errors
    /// [`Conflict("slug")`](crate::Error::Conflict) when another tenant has the slug; then the idempotency key is not used up.
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome>;

    /// The tenant with this id.
    async fn find_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>>;

    /// The tenant with this slug.
    async fn find_tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRecord>>;

    /// The human's place in the tenant with this slug; `None` when there is no such tenant or they have none.
    async fn find_membership(&self, user: UserId, slug: &str) -> Result<Option<MemberRecord>>;

    /// The tenants that the human belongs to, newest first by (created, id), from below `before` (exclusive) on.
    async fn list_memberships(&self, user: UserId, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<MemberRecord>>;

    /// Changes a tenant; as it is afterwards, or `None` when there is none. A smaller plan's quota holds at once: what nodes
    /// hold of today's quota and have not used is taken back.
    async fn update_tenant(&self, id: TenantId, change: TenantChange, audit: AuditRecord) -> Result<Option<TenantRecord>>;

    /// Takes a step in the tenant's life; `None` when there is no such tenant. Nothing is written to the audit log when the
    /// step is refused.
    async fn change_state(&self, id: TenantId, change: StateChange, audit: AuditRecord) -> Result<Option<StateChanged>>;

    /// Tenants that were archived before `before`, the longest ago first.
    async fn list_archived(&self, before: Timestamp, limit: usize) -> Result<Vec<TenantId>>;

    /// Deletes some of what a tenant has, `rows` of a table at most, and the tenant itself when nothing else is left. `true`
    /// when it is gone: nothing of it remains then, and humans who belong to no other tenant are forgotten too. A tenant
    /// that is not archived is left as it is, and counts as gone.
    async fn purge_tenant(&self, id: TenantId, rows: usize) -> Result<bool>;

    /// All tenants, newest first by (created, id): for operators.
    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<TenantRecord>>;
}
