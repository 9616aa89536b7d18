//! The engine over both databases, with simulated providers, injected faults and crashes.

mod email;
mod faults;
mod oidc;
mod outcomes;
mod recovery;
