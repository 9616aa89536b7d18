//! `list`: what a page of messages costs a tenant with a thousand of them, and one with a million.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use crate::{
    database::Engine,
    fill::{Fill, Progress},
    http::{self, Connection},
    report::{Met, Row},
    server::{Role, Server, Tenant},
    stats::Durations,
    template::Keys,
};

/// Messages of the small tenant.
const FEW: u64 = 1000;
/// Requests of each kind.
const REQUESTS: usize = 400;
/// Requests of each kind before they count.
const WARM: usize = 40;
/// Messages on a page while walking to the deep one.
const STRIDE: u64 = 200;
/// The deep page begins after half of the messages, or after this many.
const DEEP: u64 = 250_000;
/// Goal.
const MOST: f64 = 1.3;

struct Side {
    server: Server,
    connection: Connection,
    /// The first page and a deep one.
    requests: [Vec<u8>; 2],
    times: [Vec<Duration>; 2],
}

/// Measures an engine.
pub(crate) async fn measure(bench: &Bench, engine: Engine) -> Result<()> {
    let mut servers = Vec::new();
    for count in [FEW, bench.scale.listed] {
        bench.say(&format!("list, {}: fills in {count} messages", engine.name()));
        servers.push((count, filled(bench, engine, &format!("list-{count}"), count, Keys::Sequential).await?));
    }
    bench.say(&format!("list, {}: measures", engine.name()));
    // Connections are opened only now: one that rests for as long as a filling takes is closed by the server.
    let mut sides = Vec::new();
    for (count, (server, tenant)) in servers {
        let mut connection = Connection::open(server.address).await?;
        let cursor = walk(&mut connection, &tenant.api_key, (count / 2).min(DEEP)).await?;
        let get = |path: &str| http::request("GET", path, &[("x-raven-key", &tenant.api_key)], "");
        let requests = [get("/v1/messages?limit=50"), get(&format!("/v1/messages?limit=50&cursor={cursor}"))];
        sides.push(Side { server, connection, requests, times: [Vec::new(), Vec::new()] });
    }
    bench.settle().await?;
    for n in 0..WARM + REQUESTS {
        for side in &mut sides {
            for page in 0..2 {
                let begun = Instant::now();
                let answer = side.connection.call(&side.requests[page]).await?;
                let took = begun.elapsed();
                anyhow::ensure!(answer.status == 200, "GET /v1/messages answered {}", answer.status);
                if n >= WARM {
                    side.times[page].push(took);
                }
            }
        }
    }
    let mut medians = sides.iter_mut().map(|side| side.times.each_mut().map(|t| Durations::of(std::mem::take(t)).millis(50.0)));
    let (few, many) = (medians.next().unwrap_or_default(), medians.next().unwrap_or_default());
    drop(medians);
    for (page, kind) in ["first page", "deep page"].into_iter().enumerate() {
        let ratio = many[page] / few[page];
        bench.report.row(Row {
            figure: format!("list, {}, {kind}", engine.name()),
            measured: format!("× {ratio:.2} ({:.2} ms at {}, {:.2} ms at {FEW})", many[page], bench.scale.listed, few[page]),
            goal: "≤ 1.3 (1,000,000 to 1,000)",
            met: if bench.scale.full { Met::of(ratio <= MOST) } else { Met::Open },
            cpu: String::new(),
        });
    }
    for side in sides {
        drop(side.connection);
        bench.remove(&side.server.stop().await?).await?;
    }
    Ok(())
}

/// A server with so many messages of one tenant.
pub(crate) async fn filled(bench: &Bench, engine: Engine, name: &str, count: u64, keys: Keys) -> Result<(Server, Tenant)> {
    let place = bench.place(engine, name).await?;
    let server = bench.binary.serve(&place, Role::Api).await?;
    let tenant = server.tenant().await?;
    // An embedded database belongs to its server; a PostgreSQL is filled the same way.
    server.stop().await?;
    let fill = Fill { tenant: tenant.id, config: tenant.config, count, keys, progress: Progress::Sent };
    fill.run(&place.database().await?).await?;
    Ok((bench.binary.serve(&place, Role::Api).await?, tenant))
}

/// The cursor of the page that begins after so many messages.
async fn walk(connection: &mut Connection, api_key: &str, messages: u64) -> Result<String> {
    let mut cursor = String::new();
    for _ in 0..messages.div_ceil(STRIDE) {
        let after = if cursor.is_empty() { String::new() } else { format!("&cursor={cursor}") };
        let request = http::request("GET", &format!("/v1/messages?limit={STRIDE}{after}"), &[("x-raven-key", api_key)], "");
        let page = connection.call(&request).await?.json(200)?;
        cursor = page["nextCursor"].as_str().context("the pages ended too early")?.to_owned();
    }
    Ok(cursor)
}
