//! What PostgreSQL's store does while somebody holds a snapshot open: a dump, a long report, a forgotten transaction.

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use std::{ops::Range, sync::Arc};

use raven_core::{Channel, Environment, EventKind, Priority, Status, TenantId};
use raven_store::{
    Lease, NewMessage, Outlet, Result, Store,
    conformance::fixture::{self, at, seq},
    postgres::PostgresStore,
};
use raven_testkit::database::postgres_store as fresh;
use tokio_postgres::Client;

use crate::postgres::{look, quotas_agree, send};

const LIMIT: i64 = 100_000;
const HOLD: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM tenants";

/// Accepts these messages, each in a batch of its own, and gives each its outcome.
async fn deliver(store: &Arc<dyn Store>, lease: Lease, tenant: TenantId, numbers: Range<i64>) -> Result<()> {
    for n in numbers {
        assert_eq!(send(store, tenant, 0, n..n + 1, LIMIT).await?, 1);
        store.settle(lease, &[fixture::outcome(tenant, seq(n), 0, EventKind::Expired, Status::Expired, at(n))]).await?;
    }
    Ok(())
}

/// How many rows a counter has, and how many messages they count.
async fn counted(client: &Client, counter: &str) -> (i64, i64) {
    let sql = match counter {
        "quotas" => "SELECT count(*), sum(used)::bigint FROM quotas WHERE slot >= 0".to_owned(),
        _ => format!("SELECT count(*), sum(messages)::bigint FROM {counter}"),
    };
    let row = client.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Pages that are read to find the row that was begun last.
async fn pages_of_newest(client: &Client, counter: &str) -> i64 {
    let newest: i32 = client.query_one(&format!("SELECT max(slot) FROM {counter}"), &[]).await.unwrap().get(0);
    let key = match counter {
        "quotas" => "",
        "usage_accepted" => "AND environment = 1 AND channel = 1 AND key_id = '00000000-0000-0000-0000-000000000000'",
        _ => "AND environment = 1 AND channel = 1 AND status = 40",
    };
    let (tenant, day) = (fixture::tenant_record(1).id, at(0).day().0);
    client.batch_execute("SET enable_seqscan = off").await.unwrap();
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM {counter} WHERE tenant_id = '{tenant}' AND day = {day} {key} AND slot = {newest}"
    );
    let plan: Vec<String> = client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan[0].contains("rows=1 loops=1"), "{plan:?}");
    let (_, hit) = plan.iter().find_map(|line| line.split_once("shared hit=")).unwrap();
    hit.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

const COUNTERS: [&str; 3] = ["quotas", "usage_accepted", "usage_outcomes"];

#[tokio::test]
async fn counters_go_on_in_new_rows_while_old_versions_of_theirs_cannot_go() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    let lease = fixture::node(store, "a").await?;
    let client = look(&database.url).await;
    deliver(store, lease, tenant, 0..600).await?;
    for counter in COUNTERS {
        assert_eq!(counted(&client, counter).await, (1, 600), "{counter}: nothing keeps the old versions");
    }

    let holder = look(&database.url).await;
    holder.batch_execute(HOLD).await.unwrap();
    deliver(store, lease, tenant, 600..2200).await?;
    for counter in COUNTERS {
        let (rows, messages) = counted(&client, counter).await;
        assert!(messages == 2200 && (3..=5).contains(&rows), "{counter}: {messages} in {rows} rows");
        // The 1,600 versions since are on 13 pages and more.
        let pages = pages_of_newest(&client, counter).await;
        assert!(pages <= 11, "{counter}: {pages} pages");
    }
    quotas_agree(&database.url, LIMIT).await;
    assert_eq!(store.quota_used(tenant, at(0).day()).await?, 2200);
    assert_eq!(fixture::violations(store, at(2200)).await?, []);

    holder.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("VACUUM quotas, usage_accepted, usage_outcomes").await.unwrap();
    let first = async |counter: &str| -> i64 {
        let count = if counter == "quotas" { "used" } else { "messages" };
        client.query_one(&format!("SELECT {count} FROM {counter} WHERE slot = 0"), &[]).await.unwrap().get(0)
    };
    let was = [first(COUNTERS[0]).await, first(COUNTERS[1]).await, first(COUNTERS[2]).await];
    deliver(store, lease, tenant, 2200..3400).await?;
    for (counter, was) in COUNTERS.into_iter().zip(was) {
        assert!(first(counter).await > was, "{counter}: the first row is counted in again");
    }
    Ok(())
}

#[tokio::test]
async fn a_quota_in_many_rows_is_used_to_the_last_message() -> Result<()> {
    const SMALL: i64 = 1400;
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    let holder = look(&database.url).await;
    holder.batch_execute(HOLD).await.unwrap();
    for n in 0..SMALL {
        assert_eq!(send(store, tenant, 0, n..n + 1, SMALL).await?, 1, "message {n}");
    }
    let (rows, used) = counted(&look(&database.url).await, "quotas").await;
    assert!(rows >= 3 && used == SMALL, "{used} in {rows} rows");
    assert_eq!(send(store, tenant, 0, SMALL..SMALL + 3, SMALL).await?, 0);
    quotas_agree(&database.url, SMALL).await;
    Ok(())
}

/// Messages that wait, each due a second after the one before.
async fn wait(store: &Arc<dyn Store>, tenant: TenantId, numbers: Range<i64>) -> Result<()> {
    let new = |n: i64| NewMessage { due_at: at(n * 1000), ..fixture::message(tenant, seq(n)) };
    fixture::accept(store, numbers.map(new).collect()).await.map(drop)
}

#[tokio::test]
async fn claims_that_begin_where_the_last_one_ended_bring_all_in_order_and_once() -> Result<()> {
    let database = fresh().await;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::connect(&database.url, None).await?.with_slow_looks());
    let (one, two, three) = (fixture::tenant(&store, 1).await?, fixture::tenant(&store, 2).await?, fixture::tenant(&store, 3).await?);
    let lease = fixture::node(&store, "a").await?;
    let now = at(10_000_000);
    wait(&store, two, 1000..2200).await?;
    let claim = async |limit| -> Result<Vec<(TenantId, i64)>> {
        let claimed = store.claim(lease, limit, 100, &[], now).await?;
        Ok(claimed.jobs.iter().map(|job| (job.lane.tenant, job.seq.at().millis() - at(0).millis())).collect())
    };
    let expected = |tenant, numbers: Range<i64>| numbers.map(|n| (tenant, n)).collect::<Vec<_>>();
    for n in 10..16 {
        assert_eq!(claim(100).await?, expected(two, n * 100..n * 100 + 100));
    }
    // Other lanes are seen at once, on either side of the one that is drained, and what comes to its end is too.
    wait(&store, one, 5000..5003).await?;
    wait(&store, three, 6000..6003).await?;
    wait(&store, two, 2200..2210).await?;
    // And so are other lanes of the same tenant, before it and behind it.
    let other = |n: i64| NewMessage { due_at: at(n * 1000), ..fixture::message(two, seq(n)) };
    let others = vec![
        NewMessage { outlet: Outlet(-3), ..other(7000) },
        NewMessage { outlet: Outlet(i16::MIN), ..other(7001) },
        NewMessage { outlet: Outlet(9), ..other(7002) },
        NewMessage { priority: Priority::Bulk, ..other(7003) },
        NewMessage { environment: Environment::Test, channel: Channel::Email, ..other(7004) },
    ];
    fixture::accept(&store, others).await?;
    let mut rest = claim(100).await?;
    rest.sort_unstable();
    let mut all = [expected(one, 5000..5003), expected(two, 7000..7005), expected(two, 1600..1689), expected(three, 6000..6003)].concat();
    all.sort_unstable();
    assert_eq!(rest, all);
    for n in [1689, 1789, 1889, 1989, 2089] {
        assert_eq!(claim(100).await?, expected(two, n..n + 100));
    }
    assert_eq!(claim(100).await?, expected(two, 2189..2210));
    assert_eq!(claim(100).await?, []);

    // What is put back is seen at once.
    store.release(lease, &[seq(1001), seq(5001)]).await?;
    assert_eq!(claim(100).await?, [(one, 5001), (two, 1001)]);
    // What becomes due long ago, as a job that another node gives back, is seen when everything is looked at again.
    wait(&store, two, 10..12).await?;
    assert_eq!(claim(100).await?, []);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(claim(1).await?, expected(two, 10..11));
    assert_eq!(claim(1).await?, expected(two, 11..12), "and what waits behind it");
    assert_eq!(claim(100).await?, []);
    Ok(())
}
