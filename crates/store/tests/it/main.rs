//! The store's integration tests: both engines against one suite, against each other, and against their schemas.

mod differential;
mod invariants;
mod parity;
mod plans;
mod postgres;
mod rls;
mod snapshots;
mod sqlite;
mod wakes;
