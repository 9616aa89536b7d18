//! Raven's storage: one set of verbs over two engines, an embedded SQLite file or a shared PostgreSQL.
//!
//! What lives here: one file per noun with a trait of verbs and their parameters (no SQL), the two engines behind it
//! (`sqlite/`, `postgres/`), the migrations, and the suite that both engines pass (`conformance/`).
//! What must not: a clock, randomness, HTTP, providers, plaintext secrets. A verb is a transaction; no transaction
//! type crosses a trait. Time is always an argument.

use std::sync::Arc;

pub mod audit;
pub mod callbacks;
pub mod error;
pub mod idempotency;
pub mod inbound;
pub mod invariants;
pub mod keys;
pub mod limits;
pub mod members;
pub mod messages;
pub mod nodes;
pub mod postgres;
pub mod providers;
pub mod queue;
pub mod secrets;
pub mod sqlite;
pub mod suppressions;
pub mod tenants;
pub mod usage;
pub mod wakes;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use audit::{AuditRecord, Audits};
pub use callbacks::{
    CallbackRecord, CallbackState, Callbacks, Detour, Patience, Preference, Reading, Replay, Reported, Suppressing, Telling,
};
pub use error::{Error, Result};
pub use idempotency::{Claim, Operation, Outcome, Scope};
pub use inbound::{InboundFilter, InboundMessages, InboundPage, InboundQuery, InboundRecord};
pub use invariants::{Invariants, Violation};
pub use keys::{KeyChange, KeyRecord, Keys, NewKey, Rotation};
pub use limits::{Limits, TakeTokens, Taken};
pub use members::{Answered, InvitationRecord, MemberChange, Members, NewInvitation, Reply, TenantMember};
pub use messages::{Accepted, EventRecord, MessageFilter, MessageQuery, MessageRecord, Messages, NewMessage, Refusal};
pub use nodes::{Lease, Node, Nodes, Registration};
pub use providers::{ConfigRecord, Configs, NewConfig, Routing};
pub use queue::{
    Action, Claimed, Job, JobRecord, Lane, Next, Outlet, Queue, Reaped, Settlement, Start, Started, Suppresses, Survey, Tried, Urgency,
};
pub use secrets::Secrets;
pub use suppressions::{NewSuppression, SuppressionFilter, SuppressionPage, SuppressionQuery, SuppressionRecord, Suppressions};
pub use tenants::{MemberRecord, NewTenant, StateChange, StateChanged, TenantChange, TenantRecord, Tenants, UserProfile};
pub use usage::{AcceptedCount, OutcomeCount, Usage, Usages};
pub use wakes::Wakes;

/// Everything that a store can do.
pub trait Store:
    Tenants
    + Members
    + Keys
    + Configs
    + Messages
    + Suppressions
    + Callbacks
    + InboundMessages
    + Queue
    + Usages
    + Limits
    + Audits
    + Nodes
    + Secrets
    + Health
    + Invariants
    + Wakes
{
}

impl<
    T: Tenants
        + Members
        + Keys
        + Configs
        + Messages
        + Suppressions
        + Callbacks
        + InboundMessages
        + Queue
        + Usages
        + Limits
        + Audits
        + Nodes
        + Secrets
        + Health
        + Invariants
        + Wakes,
> Store for T
{
}

/// Whether the store can be used, and what it is.
#[async_trait::async_trait]
pub trait Health: Send + Sync {
    /// `sqlite` or `postgres`.
    fn engine(&self) -> &'static str;

    /// Can other processes serve from the same database at the same time? Then what nodes know of limits they share through it.
    fn is_shared(&self) -> bool;

    /// The database's own clock, where it has one (PostgreSQL): to see how far this machine's is off.
    async fn database_time(&self) -> Result<Option<raven_core::Timestamp>>;

    /// How many writers accept side by side: messages of one tenant should always go to the same one of them.
    fn writers(&self) -> usize;

    /// Reaches the database with a trivial read and, on SQLite, sees that its writer thread lives.
    async fn ping(&self) -> Result<()>;

    /// The steps that are applied and those that this binary has, as numbers: equal when the schema is current.
    async fn migrations(&self) -> Result<Migrations>;

    /// Brings the schema up to date, one process at a time. Does nothing when it is. `now` tells which partitions are
    /// needed on PostgreSQL.
    async fn migrate(&self, now: raven_core::Timestamp) -> Result<Migrations>;

    /// Prepares storage for the coming weeks (partitions on PostgreSQL; nothing on SQLite). Cheap when it is there.
    async fn extend(&self, now: raven_core::Timestamp) -> Result<()>;

    /// Stops taking work, finishes what was taken, closes connections.
    async fn close(&self);
}

/// The state of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrations {
    /// Number of the last step applied to the database; 0 for an empty one.
    pub applied: i32,
    /// Number of the last step that this binary has.
    pub latest: i32,
}

impl Migrations {
    /// Is the schema the one that this binary wants?
    #[must_use]
    pub const fn is_current(self) -> bool {
        self.applied == self.latest
    }
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Location {
    /// An SQLite file; its folder must exist.
    Sqlite(std::path::PathBuf),
    /// A PostgreSQL, by connection URL (`postgres://…`), and the URL for migrations and LISTEN where that one is pooled.
    Postgres {
        /// For ordinary work; may lead through a transaction pooler.
        url: String,
        /// Direct; `None`: the same as `url`.
        direct_url: Option<String>,
    },
}

/// Opens a store. Does not migrate.
///
/// # Errors
/// [`Error::Unavailable`] when the database cannot be reached, [`Error::Internal`] when it cannot be used.
pub async fn connect(location: &Location) -> Result<Arc<dyn Store>> {
    Ok(match location {
        Location::Sqlite(path) => Arc::new(sqlite::SqliteStore::open(path).await?),
        Location::Postgres { url, direct_url } => Arc::new(postgres::PostgresStore::connect(url, direct_url.as_deref()).await?),
    })
}
