//! The only place where everything is put together: the store, the engine, the API, and the order in which they stop.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use raven_core::Clock;
use raven_engine::{
    Engine, Options, OsEntropy, Surroundings, SystemClock, callbacks::CallbackOptions, dispatch::Limits, shared_clock::Reference,
    smpp::Pace,
};
use raven_http::{App, Settings};
use raven_store::Store;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Role, parse, settings},
    files::{self, Lock},
};

/// The longest that a whole stop takes; orchestrators lose patience after 30 s.
const STOP: Duration = Duration::from_secs(28);
/// The part of it in which requests under way may end.
const DRAIN: Duration = Duration::from_secs(10);
/// The part of it in which calls to providers may end.
const CALLS: Duration = Duration::from_secs(25);

/// What to do with a PostgreSQL whose schema is not the one that this binary wants. (An embedded database is always migrated.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outdated {
    /// Bring it up to date.
    Migrate,
    /// Don't start.
    Refuse,
}

/// Opens the store for a server.
pub(crate) async fn open_store(config: &Config, outdated: Outdated) -> anyhow::Result<Arc<dyn Store>> {
    let store = connect(config).await?;
    let found = store.migrations().await.context("the state of the database's schema can't be read")?;
    if found.applied > found.latest {
        bail!("the database is of a newer version (step {}) than this program (step {}): run the newer one", found.applied, found.latest);
    }
    if !found.is_current() {
        if !config.is_embedded() && outdated == Outdated::Refuse {
            let state =
                if found.applied == 0 { "is empty".to_owned() } else { format!("is at step {} of {}", found.applied, found.latest) };
            bail!("the database {state}: run `raven migrate` first, or start with `raven serve --migrate`");
        }
        store.migrate(SystemClock.now()).await.context("the database can't be migrated")?;
        tracing::info!(from = found.applied, to = found.latest, "the database was migrated");
    }
    Ok(store)
}

/// Opens the store, whatever the state of its schema; the embedded one is made where there is none, closed to others.
pub(crate) async fn connect(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    if config.is_embedded() {
        files::make_data_dir(&config.data_dir)?;
        files::touch_private(&config.sqlite_file())?;
    }
    raven_store::connect(&config.location()).await.context("the database can't be opened")
}

/// Opens a listener.
pub(crate) async fn bind(address: &str, setting: &settings::Setting) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => {
            anyhow!(
                "{address} is taken by another program: choose another address with --{} (or {})",
                setting.flag_name(),
                setting.variable()
            )
        }
        _ => anyhow!("can't listen on {address}: {e}; choose another address with --{} (or {})", setting.flag_name(), setting.variable()),
    })
}

/// A running server.
pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    /// Where the API listens.
    pub(crate) address: SocketAddr,
    /// Where the world reaches it.
    pub(crate) public_url: String,
    stop: CancellationToken,
    serving: JoinSet<()>,
    _node: Option<Lock>,
}

/// Puts a server together and starts it. The secrets must be in the config.
pub(crate) async fn start(config: &Config, store: Arc<dyn Store>, listener: TcpListener) -> anyhow::Result<Server> {
    let address = listener.local_addr().context("the listener has no address")?;
    let metrics = match &config.metrics_listen {
        Some(at) => Some(bind(at, &settings::METRICS_LISTEN).await?),
        None => None,
    };
    let (node_id, node) = match &config.node_id {
        Some(id) => (id.clone(), None),
        None => files::node_id(&config.data_dir, &OsEntropy).map(|(id, lock)| (id, Some(lock)))?,
    };
    let public_url = config.public_url.clone().unwrap_or_else(|| format!("http://{}", reachable(address)));
    let options = Options {
        node_id: node_id.clone(),
        master_key: config.master_key.clone().context("there is no master key")?,
        jwt_secret: config.jwt_secret.clone().context("there is no secret for bearer tokens")?,
        jwt_issuer: config.jwt_issuer.clone(),
        jwt_audience: config.jwt_audience.clone(),
        // Who takes no requests needs no keys.
        oidc: config.oidc.clone().filter(|_| config.only != Some(Role::Worker)),
        call_cap: raven_engine::transport::CALL_CAP,
        works: config.only != Some(Role::Api),
        limits: Limits::default(),
        plans: config.plans.clone(),
        allow_private: config.allow_private_networks,
        find_provider: raven_providers::find,
        base_urls: config.base_urls.clone(),
        extra_roots: config.extra_roots.clone(),
        callbacks: CallbackOptions {
            public_url: config.public_url.clone(),
            keywords: config.keywords.clone(),
            soft_bounces: config.soft_bounces,
        },
        smpp_pace: Pace::default(),
        hello_name: config.hello_name.clone().unwrap_or_else(|| parse::host_of(&public_url).unwrap_or("localhost").to_owned()),
    };
    let surroundings = Surroundings { store, clock: Arc::new(SystemClock), reference: Reference::Database, entropy: Arc::new(OsEntropy) };
    let engine = Engine::new(surroundings, options).await.context("the engine can't start")?;
    engine.run();

    let settings = Settings {
        public_url: public_url.clone(),
        environment: config.environment.to_owned(),
        metrics_token: config.metrics_token.clone(),
        idempotency_kept: config.idempotency_kept,
        trusted_proxies: config.trusted_proxies,
    };
    let app = App::new(engine.clone(), settings)?;
    let (stop, mut serving) = (CancellationToken::new(), JoinSet::new());
    if let Some(metrics) = metrics {
        serving.spawn(raven_http::serve_metrics(metrics, app.clone(), stop.clone()));
    }
    if config.only == Some(Role::Worker) {
        serving.spawn(raven_http::serve_worker(listener, app, stop.clone()));
    } else {
        serving.spawn(raven_http::serve(listener, app, stop.clone()));
    }
    let role = match config.only {
        None => "api and worker",
        Some(Role::Api) => "api",
        Some(Role::Worker) => "worker",
    };
    tracing::info!(%address, node = node_id, role, database = engine.store.engine(), version = env!("CARGO_PKG_VERSION"), "listening");
    Ok(Server { engine, address, public_url, stop, serving, _node: node })
}

impl Server {
    /// Stops in order: no new connections, requests under way end, then the engine stops.
    pub(crate) async fn stop(mut self) {
        let begun = Instant::now();
        tracing::info!("stopping");
        self.stop.cancel();
        let drained = async { while self.serving.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut");
            self.serving.shutdown().await;
        }
        self.engine.stop(CALLS.min(STOP.saturating_sub(begun.elapsed()))).await;
        tracing::info!("stopped");
    }
}

/// An address that a client on this machine can use: one that listens everywhere is reached by loopback.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they are ours.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for `work`; a signal in the meantime ends the process at once.
    pub(crate) async fn impatiently(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.next() => {
                tracing::warn!("a second signal: the process ends at once; what was under way is taken over later");
                std::process::exit(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_everywhere_is_reached_by_loopback() {
        for (at, reached) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")] {
            assert_eq!(reachable(at.parse().unwrap()).to_string(), reached);
        }
    }

    #[tokio::test]
    async fn a_taken_address_is_told_with_the_way_out() {
        let taken = bind("127.0.0.1:0", &settings::LISTEN).await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let told = bind(&address, &settings::LISTEN).await.unwrap_err().to_string();
        assert!(told.contains(&address) && told.contains("--listen") && told.contains("RAVEN_LISTEN"), "{told}");
    }
}
