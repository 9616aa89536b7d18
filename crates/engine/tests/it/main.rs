//! The engine over both databases, with simulated providers, injected faults and crashes.

mod email;
mod faults;
mod keys;
mod oidc;
mod outcomes;
mod recovery;
