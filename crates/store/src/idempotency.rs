//! Idempotency: at most one resource for one key, decided in the transaction that creates the resource.

use raven_core::{Environment, TenantId, Timestamp, UserId};

/// The creating operations. Keys of different operations never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Operation {
    /// `POST /v1/messages`
    SendMessage = 1,
    /// `POST /v1/admin/messages`
    SendMessageAsHuman = 2,
    /// `POST /v1/admin/tenants`
    CreateTenant = 3,
    /// `POST /v1/admin/api-keys`
    CreateKey = 4,
    /// `POST /v1/admin/providers`
    CreateConfig = 5,
    /// `POST /v1/admin/members` (an invitation)
    CreateInvitation = 6,
    /// `POST /v1/admin/api-keys/{id}/rotate`
    RotateKey = 7,
    /// `POST /v1/admin/suppressions`
    CreateSuppression = 8,
}

impl Operation {
    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

/// Whose key it is. For tenant-agnostic creations the user stands where the tenant would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Within a tenant's environment.
    Tenant(TenantId, Environment),
    /// Of a human.
    User(UserId),
}

impl Scope {
    /// The owner's id and the environment's code (0 for a human), as they are stored.
    #[must_use]
    pub const fn parts(self) -> (uuid::Uuid, i16) {
        match self {
            Self::Tenant(tenant, environment) => (tenant.0, environment.code()),
            Self::User(user) => (user.0, 0),
        }
    }
}

/// A caller's claim on an idempotency key, for the verbs that create one resource and store the answer with it.
/// (Messages carry their own, leaner form: [`crate::messages::NewMessage::idempotency`].)
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whose key.
    pub scope: Scope,
    /// For which operation.
    pub operation: Operation,
    /// The caller's key, 1 to 255 printable characters.
    pub key: String,
    /// Of the payload ([`raven_core::json::fingerprint`]).
    pub fingerprint: [u8; 16],
    /// When housekeeping may forget the record. Until it does, the record counts.
    pub expires_at: Timestamp,
    /// The body that a replay gets (JSON; no secrets).
    pub response: String,
}

/// What became of a creation with a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Created now.
    Created,
    /// Created before, with the same payload: the stored body.
    Replayed(String),
    /// The key was used with another payload; nothing was created.
    KeyReused,
}
