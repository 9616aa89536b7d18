//! Several real servers on one PostgreSQL: they share the work, wake each other, and take over from one that dies or stops.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use raven_testkit::{
    database::{PostgresDatabase, postgres_store},
    simulators::{AfricasTalking, Behaviour},
};
use tokio::{runtime::Runtime, time::Instant};
use tokio_postgres::{Client, NoTls};

use crate::{
    crash::{Load, Sender, expect_each_once, patiently, recipient, simulator},
    support::{Running, call, folder, raven_with_secrets, run},
};

/// A database, a provider, and a folder for servers to run in.
struct Site {
    folder: tempfile::TempDir,
    sim: AfricasTalking,
    _sims: Runtime,
    client: Client,
    runtime: Runtime,
    database: Option<PostgresDatabase>,
}

struct Server {
    running: Running,
    address: String,
}

impl Site {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (database, client) = runtime.block_on(async {
            let database = postgres_store().await;
            let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
            tokio::spawn(connection);
            (database, client)
        });
        let (_sims, sim) = simulator();
        Self { folder: folder(), sim, _sims, client, runtime, database: Some(database) }
    }

    fn server(&self, arguments: &[&str]) -> Server {
        self.server_with(arguments, &[])
    }

    fn server_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
        let mut command = raven_with_secrets(self.folder.path(), &[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
        command.env("RAVEN_DATABASE_URL", &self.database.as_ref().unwrap().url);
        command.env("RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL", self.sim.base_url()).env("RAVEN_DEFAULT_PLAN", "unlimited");
        command.envs(environment.iter().copied());
        let mut running = Running::start(command);
        let address = running.serve_address();
        Server { running, address }
    }

    /// A tenant of which messages are sent to these servers in turn.
    fn sender(&self, servers: &[&Server]) -> Sender {
        let mut sender = Sender::create(self.folder.path(), &servers[0].address);
        sender.addresses = servers.iter().map(|s| s.address.clone()).collect();
        sender
    }

    /// What one statement counts.
    fn count(&self, sql: &str) -> i64 {
        self.runtime.block_on(self.client.query_one(sql, &[])).unwrap().get(0)
    }

    /// Waits until all these servers hear each other.
    fn lines_are_up(&self, servers: i64) {
        patiently("the servers hear each other", || self.count(LINES) == servers);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.database.take());
    }
}

impl Server {
    fn stop(mut self) {
        self.running.signal("TERM");
        assert_eq!(self.running.end(), 0, "{}", self.running.seen);
    }
}

const NODES: &str = "SELECT count(*) FROM nodes";
const LINES: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% wakes' \
     AND query ~ '^(LISTEN|NOTIFY)' AND state = 'idle'";
const CUT_LINES: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
     AND application_name LIKE '% wakes'";
/// Of the node that came first.
const HELD: &str = "SELECT count(*) FROM jobs WHERE epoch = (SELECT min(epoch) FROM nodes) AND started_at IS NULL";
const STARTED: &str = "SELECT count(*) FROM jobs WHERE epoch = (SELECT min(epoch) FROM nodes) AND started_at IS NOT NULL";
const CALLING_NODES: &str = "SELECT count(DISTINCT epoch) FROM jobs WHERE started_at IS NOT NULL";

/// Posts these messages from a few threads, each until it is accepted.
fn post_all(sender: &Sender, numbers: std::ops::Range<usize>) -> HashMap<usize, String> {
    let (next, accepted) = (AtomicUsize::new(numbers.start), Mutex::new(HashMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= numbers.end {
                        return;
                    }
                    let (status, answer) = sender.post(n).unwrap();
                    assert_eq!(status, 202, "{answer}");
                    accepted.lock().unwrap().insert(n, answer["id"].as_str().unwrap().to_owned());
                }
            });
        }
    });
    accepted.into_inner().unwrap()
}

fn is_sent(sender: &Sender, id: &str) -> bool {
    sender.message(id)["status"] == "sent"
}

/// The shortest time from an acceptance to the provider, of ten messages sent one after the other.
fn quickest(site: &Site, sender: &Sender, first: usize) -> Duration {
    let delivery = |n| {
        let before = site.sim.count();
        let begun = Instant::now();
        assert_eq!(sender.post(n).unwrap().0, 202);
        patiently("the message reaches the provider", || site.sim.count() > before);
        begun.elapsed()
    };
    (first..first + 10).map(delivery).min().unwrap()
}

/// Without a wake-up, a message that comes right after the last look waits for most of half a second.
const SOONER_THAN_POLLED: Duration = Duration::from_millis(250);

#[test]
fn what_one_node_has_no_room_for_another_sends_and_each_message_goes_out_once() {
    let site = Site::new();
    site.sim.script_always(Behaviour::After(Duration::from_secs(4)));
    let (first, second) = (site.server(&[]), site.server(&[]));
    site.lines_are_up(2);
    let sender = site.sender(&[&first]);
    // Half of them come to the first alone, who calls 128 at once and holds 256.
    let mut accepted = post_all(&sender, 0..450);
    patiently("both nodes call", || site.count(CALLING_NODES) == 2);
    site.sim.script_always(Behaviour::Normal);
    let mut both = sender;
    both.addresses = vec![first.address.clone(), second.address.clone()];
    accepted.extend(post_all(&both, 450..600));
    assert_eq!(expect_each_once(&both, &accepted, &site.sim), 0, "nothing went wrong, so nothing is unknown");
    assert_eq!(site.sim.count(), 600);
    first.stop();
    second.stop();
}

#[test]
fn kill_9_of_a_node_under_load_loses_and_doubles_nothing() {
    let site = Site::new();
    site.sim.script_always(Behaviour::After(Duration::from_secs(5)));
    let (mut first, second) = (site.server(&[]), site.server(&[]));
    let sender = Arc::new(site.sender(&[&first, &second]));
    let load = Load::start(&sender);
    load.grow(300);
    patiently("the first node holds work and calls", || site.count(HELD) > 10 && site.count(STARTED) > 10);
    first.running.signal("KILL");
    let killed = Instant::now();
    first.running.end();
    load.grow(50);
    let accepted = load.finish();
    patiently("the dead node's work is taken over", || site.count(NODES) == 1);
    // Dead after 20 s, found by the next heartbeat 5 s later at most; with patience for a busy machine.
    assert!(killed.elapsed() < Duration::from_secs(40), "{:?}", killed.elapsed());
    let unknown = expect_each_once(&sender, &accepted, &site.sim);
    assert!(unknown > 0, "calls of the dead node have no outcome");
    second.stop();
}

#[test]
fn a_node_that_stops_hands_its_work_over_at_once() {
    let site = Site::new();
    site.sim.script_always(Behaviour::After(Duration::from_secs(9)));
    let (mut first, second) = (site.server(&[]), site.server(&[]));
    site.lines_are_up(2);
    let sender = site.sender(&[&first]);
    // Tried once, and to be tried again in four to five seconds: while the first node waits for its calls to end.
    let late = recipient(200);
    site.sim.script_for(&late, Behaviour::RateLimited { retry_after: Some(3) });
    let mut accepted = post_all(&sender, 200..201);
    let id = accepted[&200].clone();
    patiently("the late one was tried", || sender.message(&id)["events"].to_string().contains("retry_scheduled"));
    site.sim.script_for(&late, Behaviour::Normal);
    accepted.extend(post_all(&sender, 0..200));
    let mut reader = sender;
    reader.addresses = vec![second.address.clone()];

    let before = site.sim.count();
    assert!(site.count(HELD) > 20, "the first node holds more than it calls");
    first.running.signal("TERM");
    patiently("the second node calls what the first one held", || site.sim.count() >= before + 20);
    patiently("what became due meanwhile is sent", || is_sent(&reader, &id));
    assert_eq!(site.count(NODES), 2, "the first node still waits for its calls");
    assert_eq!(first.running.end(), 0, "{}", first.running.seen);
    assert_eq!(site.count(NODES), 1);
    site.sim.script_always(Behaviour::Normal);
    patiently("all are sent", || accepted.values().all(|id| is_sent(&reader, id)));
    assert_eq!(site.sim.count(), 202, "each reached the provider once, and the late one twice");
    second.stop();
}

#[test]
fn a_worker_sends_at_once_what_an_api_node_accepts_also_after_their_lines_were_cut() {
    let site = Site::new();
    site.sim.script_always(Behaviour::Normal);
    let (api, worker) = (site.server(&["--only", "api"]), site.server(&["--only", "worker"]));
    site.lines_are_up(2);
    let sender = site.sender(&[&api]);
    let quick = quickest(&site, &sender, 0);
    assert!(quick < SOONER_THAN_POLLED, "{quick:?}");

    assert_eq!(site.count(CUT_LINES), 2);
    site.lines_are_up(2);
    let quick = quickest(&site, &sender, 10);
    assert!(quick < SOONER_THAN_POLLED, "{quick:?}");
    assert_eq!(site.sim.count(), 20);
    api.stop();
    worker.stop();
}

const CANT_WAKE: &str = "can't wake each other";

#[test]
fn nodes_that_cant_wake_each_other_find_the_work_themselves() {
    let site = Site::new();
    site.sim.script_always(Behaviour::Normal);
    let nowhere = [("RAVEN_DATABASE_DIRECT_URL", "postgres://raven@127.0.0.1:1/raven")];
    let (api, mut worker) = (site.server_with(&["--only", "api"], &nowhere), site.server_with(&["--only", "worker"], &nowhere));
    if !worker.running.seen.contains(CANT_WAKE) {
        worker.running.line(CANT_WAKE);
    }
    let sender = site.sender(&[&api]);
    let accepted = post_all(&sender, 0..20);
    assert_eq!(expect_each_once(&sender, &accepted, &site.sim), 0);
    api.stop();
    worker.stop();
}

/// Sends to one server while `change` is made by another, until some seconds after that was answered. By then messages are
/// refused with this status (or by the limit of refusals), and none is accepted.
fn refused_everywhere(sender: &Sender, numbers: usize, refused: u16, change: impl FnOnce()) {
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let changed = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in numbers.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let asked = Instant::now();
                let (status, _) = sender.post(n).unwrap();
                answers.lock().unwrap().push((asked, status));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let saw = |wanted: u16| answers.lock().unwrap().iter().any(|(_, status)| *status == wanted);
        patiently("messages are accepted", || saw(202));
        change();
        let changed = Instant::now();
        patiently("the change counts, and is some seconds old", || saw(refused) && changed.elapsed() > Duration::from_secs(4));
        stop.store(true, Ordering::SeqCst);
        changed
    });
    let answers = answers.into_inner().unwrap();
    // It takes a second; the rest is patience with a busy machine.
    let late: HashSet<u16> =
        answers.iter().filter(|(asked, _)| *asked > changed + Duration::from_secs(3)).map(|(_, status)| *status).collect();
    assert!(!late.is_empty() && late.is_subset(&HashSet::from([refused, 429])), "{late:?}");
}

#[test]
fn a_revocation_and_a_suspension_by_one_node_count_at_the_other_soon() {
    let site = Site::new();
    site.sim.script_always(Behaviour::Normal);
    let (first, second) = (site.server(&[]), site.server(&[]));
    let mut sender = site.sender(&[&first]);
    sender.addresses = vec![second.address.clone()];
    let (bearer, slug) = (sender.bearer.clone(), sender.slug.clone());
    let owner = |method: &str, path: &str, body: &str| {
        let headers = [("authorization", bearer.as_str()), ("x-tenant-slug", slug.as_str()), ("content-type", "application/json")];
        call(&first.address, method, path, &headers, body)
    };

    let (_, keys) = owner("GET", "/v1/admin/api-keys", "");
    let id = keys["data"][0]["id"].as_str().unwrap_or_else(|| panic!("{keys}")).to_owned();
    refused_everywhere(&sender, 0, 401, || {
        let (status, answer) = owner("DELETE", &format!("/v1/admin/api-keys/{id}"), "");
        assert!(status == 200 || status == 204, "{status}: {answer}");
    });

    let (status, key) = owner("POST", "/v1/admin/api-keys", r#"{"name":"another"}"#);
    assert_eq!(status, 201, "{key}");
    sender.key = key["plaintext"].as_str().unwrap().to_owned();
    refused_everywhere(&sender, 1_000_000, 403, || {
        let (status, answer) = owner("POST", "/v1/admin/tenant/suspend", "{}");
        assert_eq!(status, 200, "{answer}");
    });
    // The same by an operator's command, the other way round.
    let (status, answer) = owner("POST", "/v1/admin/tenant/reactivate", "{}");
    assert_eq!(status, 200, "{answer}");
    patiently("the tenant is active again", || sender.post(2_000_000).unwrap().0 == 202);
    refused_everywhere(&sender, 2_000_001, 403, || {
        let mut command = raven_with_secrets(site.folder.path(), &["tenants", "suspend", &slug]);
        command.env("RAVEN_DATABASE_URL", &site.database.as_ref().unwrap().url);
        let (code, _, stderr) = run(command);
        assert_eq!(code, 0, "{stderr}");
    });
    first.stop();
    second.stop();
}
