//! Tenants, and the humans in them.

use async_trait::async_trait;
use raven_core::{TenantId, Timestamp, UserId, permission::Role, tenant::TenantStatus};

use crate::{Claim, Outcome, Result};

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

    /// Sets what the tenant may do at all; `false` when there is no such tenant.
    async fn set_tenant_status(&self, id: TenantId, status: TenantStatus) -> Result<bool>;

    /// Sets whether the tenant's messages with an unknown outcome are sent again; `false` when there is no such tenant.
    async fn set_retry_unknown(&self, id: TenantId, retry: bool) -> Result<bool>;

    /// All tenants, newest first by (created, id): for operators.
    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<TenantRecord>>;
}
