//! A running Raven: started with an empty database, given a tenant, a key and a provider config over the API.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    database::Database,
    http::{self, Connection},
    load::{ACCEPTED, Target},
    process::Process,
    template::{FIRST_NUMBER, Keys, TEXT, Template},
};

/// How long a server may take to become ready.
const READY: Duration = Duration::from_secs(30);
/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(1);
/// Shared with `raven token`. It protects nothing: the server listens on loopback for minutes and holds made-up data.
const JWT_SECRET: &str = "benchmarks-only-benchmarks-only-benchmarks-only";
/// 32 zero bytes in base64; likewise.
const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// The same in bytes.
pub(crate) const MASTER_KEY_BYTES: [u8; 32] = [0; 32];

/// A username at the provider that nothing is special about.
pub(crate) const USERNAME: &str = "acme";

/// Which half of the work a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes requests; what is accepted waits.
    Api,
    /// Delivers too.
    All,
}

/// Where a server keeps its data. It outlives the server, which can be started on it again.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its data directory.
    pub(crate) dir: PathBuf,
    /// Its PostgreSQL; `None`: the embedded SQLite.
    pub(crate) url: Option<String>,
}

impl Place {
    /// The database, from beside the server.
    pub(crate) async fn database(&self) -> Result<Database> {
        match &self.url {
            None => Ok(Database::Sqlite(self.dir.join("raven.db"))),
            Some(url) => Database::postgres(url).await,
        }
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    /// The program.
    pub(crate) path: PathBuf,
    /// Where Africa's Talking is said to be.
    pub(crate) provider: SocketAddr,
    /// Settings beside the usual ones.
    pub(crate) settings: &'static [(&'static str, &'static str)],
}

impl Binary {
    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new(&self.path);
        // Settings of whoever runs the benchmark must not count, and neither must a file in the working directory.
        command.env_clear().current_dir(&place.dir).stdin(Stdio::null());
        command.env("RAVEN_DATA_DIR", &place.dir).env("RAVEN_JWT_SECRET", JWT_SECRET).env("RAVEN_MASTER_KEY", MASTER_KEY);
        if let Some(url) = &place.url {
            command.env("RAVEN_DATABASE_URL", url);
        }
        command
    }

    /// Starts a server, and waits until it is ready.
    pub(crate) async fn serve(&self, place: &Place, role: Role) -> Result<Server> {
        std::fs::create_dir_all(&place.dir)?;
        let address = free_address()?;
        let mut command = self.command(place);
        command.args(["serve", "--migrate"]).stdout(Stdio::null());
        command.env("RAVEN_LISTEN", address.to_string()).env("RAVEN_LOG", "info");
        // Every message is metered and every request counted, by limits that the load does not reach.
        command.env("RAVEN_DEFAULT_PLAN", "unlimited");
        command.env("RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL", format!("http://{}/version1", self.provider));
        if role == Role::Api {
            command.env("RAVEN_ONLY", "api");
        }
        command.envs(self.settings.iter().copied());
        let begun = Instant::now();
        let mut process = Process::start(command, &place.dir.with_extension("log"))?;
        ready(&mut process, address, begun).await.context("raven did not start")?;
        Ok(Server { ready_after: begun.elapsed(), process, address, binary: self.clone(), place: place.clone() })
    }

    /// Mints a bearer token.
    fn token(&self, place: &Place) -> Result<String> {
        let output = self.command(place).args(["token", "--email", "bench@example.com"]).output().context("raven token can't be run")?;
        ensure!(output.status.success(), "raven token failed:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Where nobody listens, a moment ago at least.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

async fn ready(process: &mut Process, address: SocketAddr, begun: Instant) -> Result<()> {
    let request = http::request("GET", "/readyz", &[], "");
    let mut connection = None;
    loop {
        process.check()?;
        if begun.elapsed() > READY {
            bail!("it was not ready within {READY:?}:\n{}", process.last_words());
        }
        if connection.is_none() {
            connection = Connection::open(address).await.ok();
        }
        if let Some(open) = &mut connection {
            match open.call(&request).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(_) => {}
                Err(_) => connection = None,
            }
        }
        tokio::time::sleep(ASK).await;
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// From its start until `/readyz` answered 200.
    pub(crate) ready_after: Duration,
    binary: Binary,
    pub(crate) place: Place,
}

/// A tenant of a server.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: Uuid,
    pub(crate) config: Uuid,
    pub(crate) api_key: String,
    /// Where the provider's callbacks go.
    pub(crate) callback_path: String,
}

impl Server {
    /// Makes a tenant with a live key and a config of Africa's Talking.
    pub(crate) async fn tenant(&self) -> Result<Tenant> {
        self.tenants(&[("bench", USERNAME)]).await?.pop().context("a tenant was made")
    }

    /// Makes several, each with a slug and a username at the provider.
    pub(crate) async fn tenants(&self, wanted: &[(&str, &str)]) -> Result<Vec<Tenant>> {
        let bearer = format!("Bearer {}", self.binary.token(&self.place)?);
        let mut connection = Connection::open(self.address).await?;
        let mut all = Vec::new();
        for (slug, username) in wanted {
            all.push(make(&mut connection, &bearer, slug, username).await.with_context(|| format!("tenant {slug}"))?);
        }
        Ok(all)
    }

    /// Where a load goes that sends as this tenant, with numbers from `first` on.
    pub(crate) fn target(&self, tenant: &Tenant, keys: Keys, first: u64) -> Target {
        let template = Template::message(&tenant.api_key, TEXT, keys);
        Target { address: self.address, template, expects: ACCEPTED, next: Arc::new(AtomicU64::new(FIRST_NUMBER + first)) }
    }

    /// Where the provider tells that the messages with its ids from `first` on were delivered.
    pub(crate) fn callbacks(&self, tenant: &Tenant, first: u64) -> Target {
        let template = Template::delivery_report(&tenant.callback_path);
        Target { address: self.address, template, expects: 200, next: Arc::new(AtomicU64::new(first)) }
    }

    /// Stops it in order. What it leaves behind is where it was.
    pub(crate) async fn stop(self) -> Result<Place> {
        let status = self.process.stop().await?;
        ensure!(status.success(), "raven ended with {status}");
        Ok(self.place)
    }
}

/// A tenant, over the API.
async fn make(connection: &mut Connection, bearer: &str, slug: &str, username: &str) -> Result<Tenant> {
    let tenant = json!({"name": "Bench", "slug": slug});
    let tenant = post(connection, "/v1/admin/tenants", &[("authorization", bearer)], &tenant).await?;
    let within = [("authorization", bearer), ("x-tenant-slug", slug)];
    let key = json!({"name": "bench", "environment": "live", "rateLimitRpm": 100_000_000});
    let key = post(connection, "/v1/admin/api-keys", &within, &key).await?;
    let config = json!({"provider": "africas_talking", "label": "Loopback", "publicConfig": {"username": username}, "secretConfig": {"api_key": "atsk_0000000000000000"}});
    let config = post(connection, "/v1/admin/providers", &within, &config).await?;
    Ok(Tenant {
        id: uuid_of(&tenant["id"])?,
        config: uuid_of(&config["id"])?,
        callback_path: callback_path(&config)?,
        api_key: key["plaintext"].as_str().context("no key")?.to_owned(),
    })
}

async fn post(connection: &mut Connection, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<Value> {
    let answer = connection.call(&http::request("POST", path, headers, &body.to_string())).await?;
    answer.json(201).with_context(|| format!("POST {path}"))
}

/// The path of a config's callback URL, with its token.
fn callback_path(config: &Value) -> Result<String> {
    let url = config["callbackUrl"].as_str().context("a config without a callback URL")?;
    let at = url.find("/v1/").context("a callback URL of another form")?;
    Ok(url[at..].to_owned())
}

fn uuid_of(value: &Value) -> Result<Uuid> {
    value.as_str().and_then(|text| text.parse().ok()).context("no id in the answer")
}

/// The yardstick's process.
pub(crate) struct Echo {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Echo {
    /// Starts it.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command, &dir.join("echo.log"))?;
        let mut line = String::new();
        let stdout = process.child.stdout.as_mut().context("its output is piped")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let address = line.trim().parse().with_context(|| format!("the echo did not start: {}", process.last_words()))?;
        Ok(Self { process, address })
    }

    /// Where a load goes. The keys only make its requests as long as Raven's.
    pub(crate) fn target(&self) -> Target {
        let template = Template::message("rk_live_00000000_00000000000000000000000000000000000000000000", TEXT, Keys::Sequential);
        Target { address: self.address, template, expects: ACCEPTED, next: Arc::new(AtomicU64::new(FIRST_NUMBER)) }
    }
}
