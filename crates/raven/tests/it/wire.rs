//! The real binary under load, and a wire to its database that is cut, or forgets connections. What was answered 202 reaches its end,
//! and no SMS goes out twice.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use raven_testkit::database::postgres_store;

use crate::{
    crash::{Load, Server, expect_each_once, patiently, simulator},
    support::call,
};

/// A wire to PostgreSQL. It ends with the test's process.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    /// Raised when all connections there are at that moment are forgotten.
    generation: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Self { port, cut: Arc::default(), generation: Arc::default(), open: Arc::default() };
        let (is_cut, generation, streams) = (wire.cut.clone(), wire.generation.clone(), wire.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&upstream) else { continue };
                streams.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let born = generation.load(Ordering::SeqCst);
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let generation = generation.clone();
                    std::thread::spawn(move || carry(from, to, || generation.load(Ordering::SeqCst) == born));
                }
            }
        });
        wire
    }

    /// Ends all connections, and takes no new ones.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// All connections stay open on both sides, and nothing comes through any more. New ones work.
    fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

/// Carries bytes for as long as the connection is known; then it takes them, and nobody hears of them.
fn carry(mut from: TcpStream, mut to: TcpStream, is_known: impl Fn() -> bool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if is_known() && to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    if is_known() {
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Loads a server whose database is at the end of a wire, lets that be tampered with, and looks what became of every message.
fn tampered(tamper: impl FnOnce(&Wire, &Server, &Load)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = runtime.block_on(postgres_store());
    let (before, rest) = database.url.split_once("127.0.0.1:").unwrap();
    let (port, path) = rest.split_once('/').unwrap();
    let wire = Wire::to(format!("127.0.0.1:{port}"));
    let (sims, sim) = simulator();
    let server = Server::new(sim.base_url(), Some(format!("{before}127.0.0.1:{}/{path}", wire.port)));
    let mut running = server.start();
    let sender = Arc::new(server.tenant());
    let load = Load::start(&sender);
    tamper(&wire, &server, &load);
    let accepted = load.finish();
    expect_each_once(&sender, &accepted, &sim);
    server.expect_nothing_wrong();
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
    let _inside = runtime.enter();
    drop(database);
    drop(sim);
    sims.shutdown_background();
}

#[test]
fn a_database_that_goes_away_is_503_and_everything_goes_on_when_it_is_back() {
    tampered(|wire, server, load| {
        for _ in 0..3 {
            load.grow(50);
            let refused = load.refused.load(Ordering::SeqCst);
            wire.cut();
            patiently("503 while the database is away", || load.refused.load(Ordering::SeqCst) >= refused + 8);
            assert_eq!(call(&server.address, "GET", "/readyz", &[], "").0, 503);
            assert_eq!(call(&server.address, "GET", "/healthz", &[], "").0, 200);
            wire.mend();
        }
        load.grow(50);
    });
}

#[test]
fn connections_that_the_network_forgot_lose_and_double_nothing() {
    tampered(|wire, _, load| {
        load.grow(100);
        wire.forget_all();
        // Nobody tells the server: it notices because no answer comes, and goes on over new connections.
        load.grow(200);
    });
}
