//! The engine over both databases, with simulated providers, injected faults and crashes.

mod callbacks;
mod clocks;
mod email;
mod faults;
mod http2;
mod invariants;
mod keys;
mod oidc;
mod outcomes;
mod poison;
mod recovery;
mod rerouting;
mod routing;
mod smpp;
mod suppressions;
mod tokens;
mod wakes;
