//! A flood of wrong keys: so many a second by a fixed timetable, each with the prefix of a real key, another secret, and
//! another address in front of it, as an attacker with a botnet would send them. One thread, so its share of the CPU can
//! be told.

use std::{
    net::SocketAddr,
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
    let mut request = wrong(&prefix);
    let mut due = interval_at(begin + gap * u32::try_from(first)? / u32::try_from(CONNECTIONS)?, gap);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        write(&mut request, number);
        let answer = connection.call(&request.bytes).await?;
        ensure!(answer.status == EXPECTED, "a wrong key was answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        refused.fetch_add(1, Ordering::Relaxed);
        number += CONNECTIONS;
    }
    Ok(())
}

/// A request that is built once, and of which only the secret and the address are written anew.
struct Wrong {
    bytes: Vec<u8>,
    secret: usize,
    address: usize,
}

/// Characters of a secret, and of the part of an address that tells one from the other.
const SECRET: usize = 32;
const NETWORK: &str = "0000:0000";

fn wrong(prefix: &str) -> Wrong {
    let (key, from) = (format!("{prefix}_{}", "0".repeat(SECRET)), format!("2001:db8:{NETWORK}::1"));
    let bytes = http::request("POST", "/v1/messages", &[("x-raven-key", &key), ("x-forwarded-for", &from)], "{}");
    let find = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap_or_default();
    Wrong { secret: find(&key) + prefix.len() + 1, address: find(NETWORK), bytes }
}

fn write(request: &mut Wrong, number: u64) {
    let mut rest = number;
    for digit in request.bytes[request.secret..request.secret + SECRET].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = number;
    for at in (0..NETWORK.len()).rev().filter(|at| NETWORK.as_bytes()[*at] != b':') {
        request.bytes[request.address + at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_key_has_a_secret_and_an_address_of_its_own() {
        let mut request = wrong("rk_live_a3f7b2c1");
        let mut seen = std::collections::HashSet::new();
        for number in [0, 1, 15, 16, 0xabcd_ef01, 99_999] {
            write(&mut request, number);
            let text = String::from_utf8(request.bytes.clone()).expect("it is text");
            let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).expect("a header").to_owned();
            assert_eq!(value("x-raven-key: "), format!("rk_live_a3f7b2c1_{number:032}"));
            let address: std::net::Ipv6Addr = value("x-forwarded-for: ").parse().expect("an address");
            assert!(seen.insert(address.octets()[..8].to_vec()), "{address}");
        }
    }
}
