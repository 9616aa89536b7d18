//! Raven's HTTP API.
//!
//! What lives here: routes (all of them visible in [`routes`]), who the caller is ([`caller`]), how a request is read
//! ([`body`], [`fields`], [`query`]), how an error is told ([`codes`], [`problem`]), the OpenAPI document ([`openapi()`]).
//! What must not: SQL, rules that would hold without HTTP, outgoing connections, the environment.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, AtomicUsize},
};

use raven_engine::{Engine, clock::EntropyError};
use secrecy::SecretString;

pub mod body;
pub mod caller;
pub mod codes;
pub mod fields;
pub mod idempotency;
pub mod layers;
pub mod openapi;
pub mod page;
pub mod problem;
pub mod query;
pub mod resources;
pub mod routes;
pub mod serve;

pub use openapi::document as openapi;
pub use routes::service;
pub use serve::{serve, serve_metrics, serve_worker};

/// What the operator decides about the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the world reaches this installation, no slash at the end.
    pub public_url: String,
    /// `production` or `staging`.
    pub environment: String,
    /// Opens `GET /metrics` on the API's own listener, as a bearer token; without it that route does not exist there.
    pub metrics_token: Option<SecretString>,
    /// Reverse proxies in front of this process, each of which adds the address it was called from to `X-Forwarded-For`.
    pub trusted_proxies: usize,
    /// How long an idempotency key is kept.
    pub idempotency_kept: std::time::Duration,
}

/// What every handler works with.
pub struct App {
    /// What moves.
    pub engine: Arc<Engine>,
    /// What the operator decided.
    pub settings: Settings,
    /// Bytes of large bodies that are held now.
    large_bodies: AtomicUsize,
    /// Makes request ids: a part of this process, and a count.
    request_prefix: u64,
    request_count: AtomicU64,
    /// The OpenAPI document, once somebody asked for it: it takes megabytes to make.
    openapi: OnceLock<bytes::Bytes>,
}

impl App {
    /// The API of an engine.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(engine: Arc<Engine>, settings: Settings) -> Result<Arc<Self>, EntropyError> {
        let mut prefix = [0; 8];
        engine.entropy.fill(&mut prefix)?;
        Ok(Arc::new(Self {
            engine,
            settings,
            large_bodies: AtomicUsize::new(0),
            request_prefix: u64::from_le_bytes(prefix),
            request_count: AtomicU64::new(0),
            openapi: OnceLock::new(),
        }))
    }
}
