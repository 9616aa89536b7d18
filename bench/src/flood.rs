//! A flood of wrong keys: so many a second by a fixed timetable, each with the prefix of a real key, another secret, and
//! another address in front of it, as an attacker with a botnet would send them. One thread, so its share of the CPU can
//! be told.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::http::{self, Connection};

/// Connections; each sends once a tick.
const CONNECTIONS: u64 = 20;
/// What a wrong key is answered with.
const EXPECTED: u16 = 401;

/// A running flood; ends when dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts it: `rate` wrong keys a second that begin as `api_key` does.
    pub(crate) fn start(address: SocketAddr, api_key: &str, rate: u64) -> Result<Self> {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (theirs, counter) = (stop.clone(), refused.clone());
        let (prefix, _) = api_key.rsplit_once('_').context("the key has no prefix")?;
        let prefix = prefix.to_owned();
        let gap = Duration::from_secs(1) * u32::try_from(CONNECTIONS)? / u32::try_from(rate)?;
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let begin = Instant::now();
                let send = |n| tokio::spawn(send(address, prefix.clone(), n, begin, gap, theirs.clone(), counter.clone()));
                for one in (0..CONNECTIONS).map(send).collect::<Vec<_>>() {
                    one.await??;
                }
                Ok(())
            })
        })?;
        Ok(Self { stop, refused, thread: Some(thread) })
    }

    /// Wrong keys that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a flood ends once")?;
        tokio::task::spawn_blocking(|| thread.join().map_err(|_| anyhow!("the flood failed"))).await??
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A connection's part of the timetable. One that fell behind catches up.
async fn send(
    address: SocketAddr,
    prefix: String,
    first: u64,
    begin: Instant,
    gap: Duration,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut due = interval_at(begin + gap * u32::try_from(first)? / u32::try_from(CONNECTIONS)?, gap);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let answer = connection.call(&wrong(&prefix, number)).await?;
        ensure!(answer.status == EXPECTED, "a wrong key was answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        refused.fetch_add(1, Ordering::Relaxed);
        number += CONNECTIONS;
    }
    Ok(())
}

fn wrong(prefix: &str, number: u64) -> Vec<u8> {
    let key = format!("{prefix}_{number:032}");
    // Addresses of documentation and neighbours, sixteen million of them.
    let from = Ipv4Addr::from_bits(0x0b00_0000 | (number as u32 & 0x00ff_ffff)).to_string();
    http::request("POST", "/v1/messages", &[("x-raven-key", &key), ("x-forwarded-for", &from)], "{}")
}
