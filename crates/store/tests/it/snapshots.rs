//! What PostgreSQL's store does while somebody holds a snapshot open: a dump, a long report, a forgotten transaction.

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use std::{ops::Range, sync::Arc};

use raven_core::{EventKind, Status, TenantId};
use raven_store::{
    Lease, Result, Store,
    conformance::fixture::{self, at, seq},
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
