//! What moves in Raven.
//!
//! What lives here: acceptance ([`ingest`]), which config a message goes through ([`routing`], [`gate`], [`parking`]), dispatch and
//! its settling ([`dispatch`], [`attempt`], [`settle`]), the checks
//! of credentials ([`keyring`], [`token`], [`oidc`]), how much callers may do ([`plans`], [`limiter`]), what is known of
//! tenants ([`directory`]), callbacks of providers ([`callbacks`]), sealed secrets ([`vault`]), outgoing connections ([`transport`], [`mailer`], [`smpp`], [`guard`]), what the audit log says ([`audit`]), the
//! node's life ([`membership`], [`housekeeping`]) and the time that all nodes go by ([`shared_clock`]).
//! The look for damage is in [`invariants`].
//! What must not: SQL, the API's status codes and JSON, the environment. Time and chance are arguments ([`Surroundings`]).

pub mod attempt;
pub mod audit;
mod breaker;
pub mod callbacks;
pub mod calls;
pub mod clock;
mod coalescer;
pub mod directory;
pub mod dispatch;
pub mod engine;
pub mod gate;
pub mod guard;
pub mod healing;
pub mod housekeeping;
pub mod ingest;
mod inlet;
pub mod invariants;
mod jwks;
pub mod keyring;
pub mod limiter;
pub mod mailer;
pub mod membership;
pub mod metrics;
pub mod oidc;
pub mod parking;
pub mod plans;
pub mod routing;
pub mod settle;
pub mod shared_clock;
pub mod smpp;
pub mod token;
pub mod transport;
pub mod unsubscribe;
pub mod vault;
pub mod worker;

pub use clock::{Entropy, OsEntropy, SystemClock};
pub use engine::{Engine, Options, Surroundings};
