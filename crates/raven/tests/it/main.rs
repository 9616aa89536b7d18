//! The real binary, from outside: started in a folder of its own, with an environment of its own.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod callbacks;
mod crash;
mod documents;
mod invariants;
mod layers;
mod logs;
mod nodes;
mod oidc;
mod operators;
mod quickstart;
mod schemathesis;
mod serve;
mod settings;
mod support;
mod wire;
