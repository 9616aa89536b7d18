//! Pure types and rules of Raven.
//!
//! What lives here: identifiers, time as a value, addresses, the message, its content and its status lattice, SMS segmentation,
//! retry policy, idempotency fingerprints, page cursors, roles and scopes.
//! What must not: a clock, randomness, I/O, an async runtime, SQL or HTTP.

pub mod address;
mod content;
pub mod country;
pub mod ids;
pub mod json;
pub mod key;
pub mod keyword;
pub mod lookup;
pub mod message;
pub mod money;
pub mod page;
pub mod permission;
pub mod problem;
pub mod reach;
pub mod retry;
pub mod sms;
pub mod suppression;
pub mod tenant;
pub mod time;

pub use ids::{ConfigId, IdCipher, Ids, InvitationId, KeyId, MessageId, Seq, SuppressionId, TenantId, UserId};
pub use message::{Channel, Environment, EventKind, Priority, Source, Status};
pub use problem::{FieldProblem, Problems};
pub use suppression::{SuppressionReason, SuppressionSource};
pub use time::{Clock, Day, Timestamp};
