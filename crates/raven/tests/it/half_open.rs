//! A network that forgets connections: they stay open on both sides, and nothing comes through any more. New ones work.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use raven_testkit::database::postgres_store;

use crate::crash::{Load, Server, expect_each_once, simulator};

/// Between the server and its database.
struct Proxy {
    address: SocketAddr,
    /// Raised when all connections there are at that moment are forgotten.
    generation: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), generation: Arc::default() };
        let generation = proxy.generation.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&upstream) else { continue };
                let born = generation.load(Ordering::SeqCst);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to, generation) = (from.try_clone().unwrap(), to.try_clone().unwrap(), generation.clone());
                    std::thread::spawn(move || carry(from, to, || generation.load(Ordering::SeqCst) == born));
                }
            }
        });
        proxy
    }

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

#[test]
fn connections_that_the_network_forgot_lose_and_double_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = runtime.block_on(postgres_store());
    let (rest, name) = database.url.rsplit_once('/').unwrap();
    let (user, upstream) = rest.rsplit_once('@').unwrap();
    let proxy = Proxy::start(upstream.to_owned());
    let (sim_runtime, sim) = simulator();
    let server = Server::new(sim.base_url(), Some(format!("{user}@{}/{name}", proxy.address)));
    let mut running = server.start();
    let sender = Arc::new(server.tenant());
    let load = Load::start(&sender);
    load.grow(100);
    proxy.forget_all();
    // Nobody tells the server: it notices because no answer comes, and goes on over new connections.
    load.grow(200);
    let accepted = load.finish();
    expect_each_once(&sender, &accepted, &sim);
    server.expect_nothing_wrong();
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);
    drop(sim);
    sim_runtime.shutdown_background();
    let _inside = runtime.enter();
    drop(database);
}
