//! `keys` and `flood`: what it costs to know a caller, to count a request, and to be flooded with wrong keys.

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use raven_engine::{
    OsEntropy, SystemClock,
    keyring::Keyring,
    limiter::{Bucket, Limiter},
    plans::{Plan, Plans},
    vault::{InstallationKeys, SecretKey, Vault},
};
use uuid::Uuid;

use super::Bench;
use crate::{
    database::Engine,
    flood::Flood,
    load::{Load, Target},
    report::{Met, Row, rate},
    server::{MASTER_KEY_BYTES, Role},
    stats::median,
    template::Keys,
};

/// Calls in one timing.
const CALLS: u32 = 100_000;
/// Timings.
const TIMINGS: usize = 9;
/// Wrong keys a second.
const WRONG: u64 = 10_000;
/// A limit that is never reached.
const RPM: u32 = 100_000_000;

/// Times the check of a key that is known, and the decision of the rate limiter, in this process.
pub(crate) async fn keys(bench: &Bench) -> Result<()> {
    // A server makes the tenant and the key; this process then opens what it left.
    let place = bench.place(Engine::Sqlite, "keys").await?;
    let server = bench.binary.serve(&place, Role::Api).await?;
    let tenant = server.tenant().await?;
    let place = server.stop().await?;
    let store = raven_store::connect(&raven_store::Location::Sqlite(place.dir.join("raven.db"))).await?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let vault = Vault::new(SecretKey::new(MASTER_KEY_BYTES), entropy.clone());
    let installation = InstallationKeys::load(&vault, &*store).await?;
    let plans = Plans::new(vec![Plan::free()], "unlimited").map_err(anyhow::Error::msg)?;
    let keyring = Keyring::new(store.clone(), clock.clone(), entropy, &installation.key_mac, Arc::new(plans))?;
    let limiter = Limiter::new(store, clock);
    let good = tenant.api_key.as_str();
    let wrong = format!("{}{}", &good[..good.len() - 1], if good.ends_with('a') { 'b' } else { 'a' });
    keyring.check(good).await.context("the key is not known")?;

    let bucket = Arc::new(Bucket::new(Uuid::nil()));
    let (mut known, mut refused, mut decided) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMINGS {
        let begun = Instant::now();
        for _ in 0..CALLS {
            black_box(keyring.check(black_box(good)).await.is_ok());
        }
        known.push(micros(begun));
        let begun = Instant::now();
        for _ in 0..CALLS {
            black_box(keyring.check(black_box(&wrong)).await.is_err());
        }
        refused.push(micros(begun));
        let begun = Instant::now();
        for _ in 0..CALLS {
            black_box(limiter.count_in(black_box(&bucket), RPM).await?);
        }
        decided.push(micros(begun));
    }
    let line = |figure: &str, measured: f64, goal, most: f64| {
        bench.say(&format!("{figure}: {measured:.2} µs"));
        bench.report.row(Row {
            figure: figure.to_owned(),
            measured: format!("{measured:.2} µs"),
            goal,
            met: if most > 0.0 { Met::of(measured <= most) } else { Met::Open },
            cpu: String::new(),
        });
    };
    line("keys, check of a known key", median(&known), "≤ 5 µs", 5.0);
    line("keys, refusal of a wrong secret", median(&refused), "", 0.0);
    line("keys, decision of the rate limiter", median(&decided), "≤ 1 µs", 1.0);
    bench.remove(&place).await
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

/// Measures what a flood of wrong keys for a known prefix costs the caller that has the right one.
pub(crate) async fn flood(bench: &Bench) -> Result<()> {
    let mut binary = bench.binary.clone();
    // Every wrong key comes from another address, so it is the check that is measured and not the limit of an address.
    binary.settings = &[("RAVEN_TRUSTED_PROXIES", "1")];
    let place = bench.place(Engine::Sqlite, "flood").await?;
    let server = binary.serve(&place, Role::Api).await?;
    let tenant = server.tenant().await?;
    let target = server.target(&tenant, Keys::Sequential, 0);
    let (mut shares, mut told) = (Vec::new(), Vec::new());
    for round in 1..=bench.scale.rounds {
        let (calm, _) = accepted(bench, &target, None).await?;
        let flood = Flood::start(server.address, &tenant.api_key, WRONG)?;
        let (flooded, refused) = accepted(bench, &target, Some(&flood)).await?;
        flood.finish().await?;
        shares.push(flooded / calm * 100.0);
        let line = format!("{} calm, {} beside {} wrong keys", rate(calm), rate(flooded), rate(refused));
        bench.say(&format!("flood, round {round}: {line}"));
        told.push(line);
    }
    let share = median(&shares);
    bench.report.row(Row {
        figure: "flood of wrong keys".to_owned(),
        measured: format!("{share:.0} % of the good caller's throughput is left"),
        goal: "≥ 80 %",
        met: Met::of(share >= 80.0),
        cpu: String::new(),
    });
    bench.report.note(format!("flood, {WRONG} wrong keys a second: {}", told.join("; ")));
    bench.remove(&server.stop().await?).await
}

/// What a good caller gets accepted a second, and how many wrong keys are refused meanwhile.
async fn accepted(bench: &Bench, target: &Target, flood: Option<&Flood>) -> Result<(f64, f64)> {
    let load = Load::start(target, bench.connections, None)?;
    tokio::time::sleep(bench.scale.warm).await;
    let refused = || flood.map_or(0, Flood::refused);
    let (begun, first, first_refused) = (Instant::now(), load.answered(), refused());
    tokio::time::sleep(bench.scale.window).await;
    let (seconds, last, last_refused) = (begun.elapsed().as_secs_f64(), load.answered(), refused());
    load.finish().await?;
    Ok(((last - first) as f64 / seconds, (last_refused - first_refused) as f64 / seconds))
}
