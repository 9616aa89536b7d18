//! API keys.

use async_trait::async_trait;
use raven_core::{Environment, KeyId, Priority, TenantId, Timestamp, permission::Scopes};

use crate::{AuditRecord, Claim, Outcome, Result};

/// An API key as it is stored: nothing here opens a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which environment it sees.
    pub environment: Environment,
    /// `rk_live_a3f7b2c1`; unique.
    pub prefix: String,
    /// The last four characters, for humans to tell keys apart.
    pub last_four: String,
    /// Argon2id hash of the secret (PHC string).
    pub secret_hash: String,
    /// HMAC-SHA-256 of the secret under the server key.
    pub secret_mac: [u8; 32],
    /// What it may do.
    pub scopes: Scopes,
    /// Shown.
    pub name: String,
    /// Requests a minute; `None`: the plan's.
    pub rate_limit_rpm: Option<i32>,
    /// Priority of what is sent with it without saying; `None`: the plan's.
    pub priority: Option<Priority>,
    /// From when it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, as far as that was written down ([`Keys::touch_keys`]).
    pub last_used_at: Option<Timestamp>,
}

/// A key to create.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key.
    pub record: KeyRecord,
    /// The caller's idempotency key, if one was given.
    pub claim: Option<Claim>,
    /// What the audit log says.
    pub audit: AuditRecord,
}

/// What to change of a key; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Its name.
    pub name: Option<String>,
    /// Its rate limit; `Some(None)`: the plan's.
    pub rate_limit_rpm: Option<Option<i32>>,
    /// Its priority (inside: `None` for the plan's).
    pub priority: Option<Option<Priority>>,
}

/// A key to put in another one's place.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The old key.
    pub old: KeyId,
    /// From when the old key is refused, unless it is refused earlier anyway.
    pub old_expires_at: Timestamp,
    /// The new key.
    pub new: NewKey,
}

/// Verbs about API keys.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Creates a key.
    ///
    /// # Errors
    /// [`Conflict("prefix")`](crate::Error::Conflict) when the prefix is taken: make another one.
    async fn create_key(&self, new: NewKey) -> Result<Outcome>;

    /// What a claim of a tenant's was answered before, if it was: for whoever would rather know before making a key, which
    /// takes long. The creation itself asks again.
    async fn find_creation(&self, tenant: TenantId, claim: &Claim) -> Result<Option<Outcome>>;

    /// The key with this prefix, revoked ones too, with its tenant's record.
    async fn find_key_by_prefix(&self, prefix: &str) -> Result<Option<(KeyRecord, crate::TenantRecord)>>;

    /// The tenant's key with this id. Only of `environment`, where one is given; revoked ones are not found.
    async fn find_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId) -> Result<Option<KeyRecord>>;

    /// The tenant's keys that are not revoked, newest first by (created, id), from below `before` (exclusive) on.
    async fn list_keys(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        before: Option<(Timestamp, KeyId)>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>>;

    /// Revokes a key; `false` when the tenant has no such key that is not revoked yet.
    async fn revoke_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        now: Timestamp,
        audit: AuditRecord,
    ) -> Result<bool>;

    /// Changes a key; as it is afterwards, or `None` when the tenant has no such key that is not revoked.
    async fn update_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        change: KeyChange,
        audit: AuditRecord,
    ) -> Result<Option<KeyRecord>>;

    /// Creates a key in the place of another one of the same tenant; `None` (and nothing created) when there is no such old
    /// key that is neither revoked nor expired by the time that the new one is created. A replay answers before the old key is looked at.
    ///
    /// # Errors
    /// [`Conflict("prefix")`](crate::Error::Conflict) as in [`create_key`](Self::create_key).
    async fn rotate_key(&self, rotation: Rotation) -> Result<Option<Outcome>>;

    /// Notes when keys were last used. A time never goes back.
    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<()>;
}
