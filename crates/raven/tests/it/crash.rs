//! The real binary under load, killed, cut off from its database, out of disk, beset by slow clients. What was answered 202
//! reaches its end, and no SMS goes out twice.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use raven_testkit::{
    database::postgres_store,
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::{Value, json};

use crate::support::{JWT_SECRET, MASTER_KEY, Running, call, folder, raven_with_secrets, run};

/// A server that is started again and again on one port.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    pub(crate) address: String,
    database_url: Option<String>,
    provider_url: String,
}

/// What it takes to send, to one server or to several in turn.
pub(crate) struct Sender {
    pub(crate) addresses: Vec<String>,
    pub(crate) key: String,
    /// What it takes to act as the tenant's owner.
    pub(crate) bearer: String,
    pub(crate) slug: String,
    turn: AtomicUsize,
}

impl Server {
    pub(crate) fn new(provider_url: String, database_url: Option<String>) -> Self {
        // A port that was free a moment ago; the server takes it again after each kill.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder: folder(), address: format!("127.0.0.1:{port}"), database_url, provider_url }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = raven_with_secrets(self.folder.path(), &["serve", "--listen", &self.address]);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env("RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL", &self.provider_url).env("RAVEN_DEFAULT_PLAN", "unlimited");
        if let Some(url) = &self.database_url {
            command.env("RAVEN_DATABASE_URL", url);
        }
    }

    pub(crate) fn start(&self) -> Running {
        let mut server = Running::start(self.command());
        server.serve_address();
        server
    }

    /// Looks for damage, beside the server that runs.
    pub(crate) fn expect_nothing_wrong(&self) {
        let mut doctor = raven_with_secrets(self.folder.path(), &["doctor", "--invariants", "--json"]);
        self.environment(&mut doctor);
        let (code, report, stderr) = run(doctor);
        assert_eq!(code, 0, "{report}{stderr}");
    }

    /// A tenant with a provider, and its live key.
    pub(crate) fn tenant(&self) -> Sender {
        Sender::create(self.folder.path(), &self.address)
    }
}

impl Sender {
    /// A tenant with a provider, and its live key, by a server in this folder.
    pub(crate) fn create(folder: &Path, address: &str) -> Self {
        let (code, token, stderr) = run(raven_with_secrets(folder, &["token", "--email", "ada@example.com"]));
        assert_eq!(code, 0, "{stderr}");
        let bearer = format!("Bearer {}", token.trim());
        let post = |path: &str, headers: &[(&str, &str)], body: Value| {
            let headers = [&[("authorization", bearer.as_str()), ("content-type", "application/json")], headers].concat();
            let (status, answer) = call(address, "POST", path, &headers, &body.to_string());
            assert_eq!(status, 201, "{answer}");
            answer
        };
        let tenant = post("/v1/admin/tenants", &[], json!({ "name": "Acme" }));
        let slug = tenant["slug"].as_str().unwrap().to_owned();
        let in_tenant = [("x-tenant-slug", slug.as_str())];
        let key = post("/v1/admin/api-keys", &in_tenant, json!({ "name": "load" }));
        let config = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "atsk" } });
        post("/v1/admin/providers", &in_tenant, config);
        let key = key["plaintext"].as_str().unwrap().to_owned();
        Self { addresses: vec![address.to_owned()], key, bearer, slug, turn: AtomicUsize::new(0) }
    }

    /// Posts message number `n`; `None` when there was no answer at all.
    pub(crate) fn post(&self, n: usize) -> Option<(u16, Value)> {
        let body = json!({ "channel": "sms", "to": recipient(n), "body": "Hi", "idempotencyKey": format!("order-{n}") }).to_string();
        let mut stream = TcpStream::connect(&self.addresses[self.turn.fetch_add(1, Ordering::SeqCst) % self.addresses.len()]).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: raven\r\nconnection: close\r\nx-raven-key: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
    }

    /// Reads a message from the last of the servers: the one that survives.
    pub(crate) fn message(&self, id: &str) -> Value {
        let address = self.addresses.last().unwrap();
        // For a moment after the database is back, connections to it are still being made.
        for _ in 0..2_000 {
            let (status, message) = call(address, "GET", &format!("/v1/messages/{id}"), &[("x-raven-key", &self.key)], "");
            if status != 503 {
                assert_eq!(status, 200, "a message that was answered 202 is there: {message}");
                return message;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("messages can't be read");
    }
}

pub(crate) fn recipient(n: usize) -> String {
    format!("+2547{n:08}")
}

/// Posts messages from four threads until it is stopped, each again and again until it is accepted, and pauses after each: the
/// server keeps up, so that only a small part is on its way at any time.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashMap<usize, String>>>,
    pub(crate) refused: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(sender: &Arc<Sender>) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (accepted, refused) = (Arc::<Mutex<HashMap<usize, String>>>::default(), Arc::new(AtomicUsize::new(0)));
        let threads = (0..4).map(|_| {
            let (sender, stop, next, accepted, refused) = (sender.clone(), stop.clone(), next.clone(), accepted.clone(), refused.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    let mut done = false;
                    while !done {
                        match sender.post(n) {
                            Some((202, answer)) => {
                                accepted.lock().unwrap().insert(n, answer["id"].as_str().unwrap().to_owned());
                                done = true;
                            }
                            Some((503, answer)) => {
                                assert_eq!(answer["code"], "overloaded");
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                            Some((status, answer)) => panic!("{status}: {answer}"),
                            None => {}
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            })
        });
        Self { threads: threads.collect(), stop, accepted, refused }
    }

    pub(crate) fn count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// Waits until so many more were accepted.
    pub(crate) fn grow(&self, by: usize) {
        let target = self.count() + by;
        patiently("messages are accepted", || self.count() >= target);
    }

    pub(crate) fn finish(self) -> HashMap<usize, String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::into_inner(self.accepted).unwrap().into_inner().unwrap()
    }
}

/// Waits for something that must come.
pub(crate) fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("in vain: {what}");
}

/// Every accepted message is sent (and reached the provider once) or honestly unknown (and reached it once at most).
/// Returns how many are unknown.
pub(crate) fn expect_each_once(sender: &Sender, accepted: &HashMap<usize, String>, sim: &AfricasTalking) -> usize {
    let mut arrivals: HashMap<String, usize> = HashMap::new();
    patiently("all messages come to rest", || accepted.values().all(|id| is_at_rest(&sender.message(id))));
    for received in sim.received() {
        *arrivals.entry(received.recipient).or_default() += 1;
    }
    let mut unknown = 0;
    for (n, id) in accepted {
        let message = sender.message(id);
        let arrived = arrivals.get(&recipient(*n)).copied().unwrap_or(0);
        if message["status"] == "sent" {
            assert_eq!(arrived, 1, "{message}");
        } else {
            assert!(arrived <= 1, "an SMS went out twice: {message}");
            unknown += 1;
        }
    }
    assert!(unknown < accepted.len() / 2, "{unknown} of {} are unknown", accepted.len());
    assert!(arrivals.values().all(|n| *n == 1), "an SMS went out twice");
    unknown
}

fn is_at_rest(message: &Value) -> bool {
    let last = message["events"].as_array().unwrap().last().unwrap()["eventType"].clone();
    message["status"] == "sent" || last == "outcome_unknown"
}

/// Runs a simulator on threads of its own.
pub(crate) fn simulator() -> (tokio::runtime::Runtime, AfricasTalking) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let sim = runtime.block_on(AfricasTalking::start());
    sim.script_always(Behaviour::After(Duration::from_millis(20)));
    (runtime, sim)
}

/// How often something is killed in one test. `scripts/kill9` asks for more than fits into a test run.
#[expect(clippy::disallowed_methods, reason = "it decides how long a test runs, and nothing of what it tests")]
fn kills() -> usize {
    std::env::var("RAVEN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// What `scripts/kill9` reads.
fn tell(kills: usize, accepted: usize, unknown: usize) {
    let _ = writeln!(std::io::stdout(), "kills={kills} accepted={accepted} sent={} unknown={unknown}", accepted - unknown);
}

fn killed_again_and_again(database_url: Option<String>) {
    let (runtime, sim) = simulator();
    let server = Server::new(sim.base_url(), database_url);
    let mut running = server.start();
    let sender = Arc::new(server.tenant());
    let load = Load::start(&sender);
    for _ in 0..kills() {
        load.grow(100);
        running.signal("KILL");
        running.end();
        running = server.start();
        server.expect_nothing_wrong();
    }
    load.grow(50);
    let accepted = load.finish();
    assert!(accepted.len() >= 100 * kills() + 50);
    let unknown = expect_each_once(&sender, &accepted, &sim);
    server.expect_nothing_wrong();
    tell(kills(), accepted.len(), unknown);
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
    drop(sim);
    runtime.shutdown_background();
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing_on_sqlite() {
    killed_again_and_again(None);
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing_on_postgres() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = runtime.block_on(postgres_store());
    killed_again_and_again(Some(database.url.clone()));
    let _inside = runtime.enter();
    drop(database);
}

/// A PostgreSQL of its own, with fsync on, that is there to be killed.
struct Cluster {
    folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let cluster = Self { folder: folder() };
        // It is run by another user, who has to get in.
        std::fs::set_permissions(cluster.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        cluster.script(&["start", "--durable"]);
        cluster
    }

    fn script(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres"));
        let output = command.args(arguments).env("RAVEN_TEST_PG_DIR", self.folder.path().join("cluster")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn kill(&self) {
        let pid = std::fs::read_to_string(self.folder.path().join("cluster/data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

#[test]
fn kill_9_of_postgres_under_load_loses_and_doubles_nothing() {
    let cluster = Cluster::start();
    let (runtime, sim) = simulator();
    let server = Server::new(sim.base_url(), Some(cluster.script(&["url"])));
    let mut migrate = raven_with_secrets(server.folder.path(), &["migrate"]);
    server.environment(&mut migrate);
    assert_eq!(run(migrate).0, 0);
    let mut running = server.start();
    let sender = Arc::new(server.tenant());
    let load = Load::start(&sender);
    for _ in 0..kills() {
        load.grow(100);
        let refused = load.refused.load(Ordering::SeqCst);
        cluster.kill();
        patiently("503 while the database is down", || load.refused.load(Ordering::SeqCst) >= refused + 4);
        cluster.script(&["restart"]);
    }
    load.grow(50);
    let accepted = load.finish();
    let unknown = expect_each_once(&sender, &accepted, &sim);
    // The server lived on, so every outcome was kept until the database was back.
    assert_eq!(unknown, 0);
    server.expect_nothing_wrong();
    tell(kills(), accepted.len(), unknown);
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
    drop(sim);
    runtime.shutdown_background();
}

#[test]
fn a_full_disk_is_503_and_everything_goes_on_when_there_is_room() {
    let (sims, sim) = simulator();
    let server = Server::new(sim.base_url(), None);
    let mut first = server.start();
    let sender = Arc::new(server.tenant());
    first.signal("TERM");
    assert_eq!(first.end(), 0);

    // No file may grow beyond 800 KiB: for the database that is a full disk.
    let mut limited = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -S -f 1600; exec '{}' serve --listen {}", env!("CARGO_BIN_EXE_raven"), server.address);
    limited.args(["-c", &script]).current_dir(server.folder.path()).env_clear();
    limited.env("PATH", "/usr/bin:/bin").env("RAVEN_JWT_SECRET", JWT_SECRET).env("RAVEN_MASTER_KEY", MASTER_KEY);
    server.environment(&mut limited);
    let mut running = Running::start(limited);
    running.serve_address();
    let load = Load::start(&sender);
    patiently("503 when the disk is full", || load.refused.load(Ordering::SeqCst) >= 20);
    let pid = running.pid().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap().success());
    load.grow(100);
    let accepted = load.finish();
    expect_each_once(&sender, &accepted, &sim);
    server.expect_nothing_wrong();
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
    drop(sim);
    sims.shutdown_background();
}

#[test]
fn slow_clients_hold_nobody_up_and_are_sent_away() {
    let server = Server::new("http://127.0.0.1:9".to_owned(), None);
    let mut running = server.start();
    let slow: Vec<TcpStream> = (0..200)
        .map(|i| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            let head = if i % 2 == 0 { "POST /v1/messages HTTP/1.1\r\nho" } else { "" };
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let sender = server.tenant();
    assert_eq!(call(&server.address, "GET", "/v1/messages", &[("x-raven-key", &sender.key)], "").0, 200);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end as a close.
        if let Err(e) = stream.read_to_end(&mut rest) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
}
