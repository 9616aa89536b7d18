//! The suite on PostgreSQL, and what only PostgreSQL has: partitions, lost connections, races between nodes. (Plans: `plans.rs`.)

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use std::sync::Arc;

use raven_core::{Environment, EventKind, Seq, Status, TenantId, Timestamp};
use raven_store::{
    Accepted, Error, Health, NewMessage, Refusal, Result, Store, TenantChange,
    conformance::fixture::{self, at, seq},
    messages::{Intake, MessageFilter, MessageQuery},
    postgres::PostgresStore,
};
use raven_testkit::database::{PostgresDatabase, postgres_store as fresh};
use tokio_postgres::{Client, NoTls};

raven_store::conformance_tests!(fresh);

pub(crate) const DAY: i64 = 86_400_000;

/// A look at the database past the store.
pub(crate) async fn look(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn column(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A second database beside a fresh one, with nothing in it. It goes with the cluster.
async fn empty(beside: &PostgresDatabase) -> String {
    let client = look(&beside.url).await;
    let name: String = column(&client, "SELECT current_database() || '_empty'").await.remove(0);
    client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
    let (server, _) = beside.url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

async fn drop_empty(beside: &PostgresDatabase, url: &str) {
    let (_, name) = url.rsplit_once('/').unwrap();
    look(&beside.url).await.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

#[tokio::test]
async fn weeks_are_made_ahead_and_take_over_what_came_too_early() -> Result<()> {
    let database = fresh().await;
    let client = look(&database.url).await;
    let store = &database.store;
    let weeks = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass ORDER BY 1";
    let first: Vec<String> =
        ["2026w38", "2026w39", "2026w40", "2026w41", "2026w42", "2026w43", "2026w44", "default"].map(|w| format!("messages_{w}")).into();
    assert_eq!(column(&client, weeks).await, first);

    let tenant = fixture::tenant(store, 1).await?;
    let early = seq(70 * DAY);
    fixture::create(store, fixture::message(tenant, early)).await?;
    let place = "SELECT tableoid::regclass::text FROM messages";
    assert_eq!(column(&client, place).await, ["messages_default"]);

    // Ten weeks on, several nodes notice at once.
    let other = PostgresStore::connect(&database.url, None).await?;
    let later = at(69 * DAY);
    let (a, b, c) = tokio::join!(store.extend(later), other.extend(later), store.extend(later));
    a.and(b).and(c)?;
    assert_eq!(column(&client, place).await, ["messages_2026w49"]);
    assert_eq!(column(&client, weeks).await.len(), first.len() + 7);
    assert_eq!(fixture::status(store, tenant, early).await?, raven_core::Status::Queued);
    store.extend(later).await
}

#[tokio::test]
async fn several_nodes_migrate_at_once_and_a_newer_schema_is_refused() -> Result<()> {
    let database = fresh().await;
    let url = empty(&database).await;
    let store = PostgresStore::connect(&url, None).await?;
    assert_eq!(store.migrations().await?.applied, 0);
    assert!(!store.migrations().await?.is_current());
    let other = PostgresStore::connect(&url, None).await?;
    let (a, b, c) = tokio::join!(store.migrate(at(0)), other.migrate(at(0)), store.migrate(at(0)));
    assert!(a?.is_current() && b?.is_current() && c?.is_current());

    look(&url).await.batch_execute("INSERT INTO migrations VALUES (9999, 'of the future', 0)").await.unwrap();
    let Err(Error::Internal(reason)) = store.migrate(at(0)).await else { panic!("a newer schema was taken") };
    assert!(reason.to_string().contains("newer version (step 9999)"), "{reason}");
    drop_empty(&database, &url).await;
    Ok(())
}

#[tokio::test]
async fn lost_connections_are_replaced() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    fixture::create(store, fixture::message(tenant, seq(0))).await?;
    let kill = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_ne!(column(&look(&database.url).await, kill).await, ["0"]);
    // A verb may meet the dead line, and says so; then a new one is made. Each call gets rid of one.
    let mut lost = 0;
    let mut n = 0;
    loop {
        n += 1;
        match store.accept(vec![fixture::message(tenant, seq(n))], at(n)).await {
            Ok(answers) => break assert!(matches!(answers[..], [Ok(Accepted::Created)])),
            Err(Error::Unavailable(_)) => lost += 1,
            Err(other) => return Err(other),
        }
        assert!(lost < 4, "the connection was never replaced");
    }
    while store.ping().await.is_err() {
        lost += 1;
        assert!(lost < 20, "the connections were never replaced");
    }
    Ok(())
}

#[tokio::test]
async fn a_database_that_nobody_serves_is_unavailable() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://raven@127.0.0.1:{port}/raven");
    assert!(matches!(PostgresStore::connect(&url, None).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_no_outage() {
    let database = fresh().await;
    let error = PostgresStore::connect(&format!("{}_no", database.url), None).await.err();
    let Some(Error::Internal(_)) = &error else { panic!("{error:?}") };
    // No text of the driver, nor a name, in what is shown.
    assert_eq!(error.unwrap().to_string(), "the database failed");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_fails_alone_in_a_full_batch() -> Result<()> {
    let database = fresh().await;
    let tenant = fixture::tenant(&database.store, 1).await?;
    let batch: Vec<NewMessage> = (0..500)
        .map(|n| NewMessage {
            recipient: if n % 200 == 137 { "nul \0 here".to_owned() } else { "+254722000000".to_owned() },
            ..fixture::keyed(tenant, seq(n), &format!("key {n}"), 1)
        })
        .collect();
    let answers = database.store.accept(batch, at(500)).await?;
    for (n, answer) in answers.iter().enumerate() {
        if n % 200 == 137 {
            assert!(matches!(answer, Err(Error::Internal(_))), "{n}: {answer:?}");
        } else {
            assert!(matches!(answer, Ok(Accepted::Created)), "{n}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nodes_that_accept_the_same_keys_in_other_orders_make_each_message_once() -> Result<()> {
    let database = fresh().await;
    let tenant = fixture::tenant(&database.store, 1).await?;
    let other: Arc<dyn Store> = Arc::new(PostgresStore::connect(&database.url, None).await?);
    let mut created = 0;
    for round in 0..10_i64 {
        let batch = |node: i64, backwards: bool| -> Vec<NewMessage> {
            let mut keys: Vec<i64> = (0..100).collect();
            if backwards {
                keys.reverse();
            }
            keys.into_iter().map(|k| fixture::keyed(tenant, Seq(seq(round).0 + node * 1000 + k), &format!("{round} {k}"), 1)).collect()
        };
        let (a, b) = tokio::join!(database.store.accept(batch(0, false), at(round)), other.accept(batch(1, true), at(round)));
        for answer in a?.into_iter().chain(b?) {
            match answer? {
                Accepted::Created => created += 1,
                Accepted::Replayed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(created, 1000);
    let rows = column(&look(&database.url).await, "SELECT (SELECT count(*) FROM messages) || ' ' || (SELECT count(*) FROM jobs)").await;
    assert_eq!(rows, ["1000 1000"]);
    Ok(())
}

/// A batch of one.
struct One(NewMessage);

impl Intake for One {
    fn take(self: Box<Self>) -> (Vec<NewMessage>, Timestamp) {
        (vec![self.0], at(1))
    }
}

#[tokio::test]
async fn a_batch_waits_for_its_turn_however_long_the_one_before_takes() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    let client = look(&database.url).await;
    client.batch_execute("BEGIN; LOCK TABLE messages IN SHARE MODE").await.unwrap();
    let offer = |n| store.accept_waiting(0, Box::new(One(fixture::message(tenant, seq(n)))));
    let slow = async {
        let blocked = "SELECT count(*)::text FROM pg_locks WHERE relation = 'messages'::regclass AND NOT granted";
        while column(&client, blocked).await != ["1"] {
            tokio::task::yield_now().await;
        }
        // More than any other verb would wait for a connection, and less than a statement may take.
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        tokio::time::resume();
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (first, second, ()) = tokio::join!(offer(1), offer(2), slow);
    for answers in [first?, second?] {
        assert!(matches!(answers.as_slice(), [Ok(Accepted::Created)]), "{answers:?}");
    }
    Ok(())
}

/// A seq of a node's slot.
fn seq_of(slot: i64, n: i64) -> Seq {
    Seq(seq(n).0 + (slot << 13))
}

/// Accepts messages that count against a quota, and tells how many were created. The others must be refused for it.
pub(crate) async fn send(store: &Arc<dyn Store>, tenant: TenantId, slot: i64, numbers: std::ops::Range<i64>, quota: i64) -> Result<usize> {
    let batch = numbers.map(|n| NewMessage { quota: Some(quota), ..fixture::message(tenant, seq_of(slot, n)) }).collect();
    let answers = store.accept(batch, at(0)).await?.into_iter().collect::<Result<Vec<_>>>()?;
    let created = answers.iter().filter(|a| **a == Accepted::Created).count();
    let refused = answers.iter().filter(|a| **a == Accepted::Refused(Refusal::Quota)).count();
    assert_eq!(created + refused, answers.len(), "{answers:?}");
    Ok(created)
}

/// What the rows of the quota must agree on: slices hold what the central row says was granted, and no more is used.
pub(crate) async fn quotas_agree(url: &str, limit: i64) {
    let client = look(url).await;
    let agreed = column(
        &client,
        "SELECT (max(granted) FILTER (WHERE slot = -1) = max(used) FILTER (WHERE slot = -1) + COALESCE(sum(granted) FILTER (WHERE slot >= 0), 0)
           AND bool_and(used <= granted))::text || ' ' || max(granted) FILTER (WHERE slot = -1) FROM quotas GROUP BY tenant_id, day",
    )
    .await;
    for row in agreed {
        let granted = row.strip_prefix("true ").unwrap_or_else(|| panic!("{row}"));
        assert!(granted.parse::<i64>().unwrap() <= limit, "{granted} of {limit} were granted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_share_a_quota_to_the_last_message_and_never_exceed_it() -> Result<()> {
    const LIMIT: i64 = 1000;
    let database = fresh().await;
    let tenant = fixture::tenant(&database.store, 1).await?;
    let mut nodes = Vec::new();
    for slot in 0..3 {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::connect(&database.url, None).await?);
        nodes.push(tokio::spawn(async move {
            let mut created = 0;
            for batch in 0..100 {
                created += send(&store, tenant, slot, batch * 7..batch * 7 + 7, LIMIT).await?;
            }
            Ok::<usize, Error>(created)
        }));
    }
    let mut created = Vec::new();
    for node in nodes {
        created.push(node.await.unwrap()?);
    }
    assert_eq!(created.iter().sum::<usize>(), 1000, "{created:?}");
    assert!(created.iter().all(|n| *n > 0), "each node had a part: {created:?}");
    assert_eq!(database.store.quota_used(tenant, at(0).day()).await?, LIMIT);
    quotas_agree(&database.url, LIMIT).await;
    let messages = column(&look(&database.url).await, "SELECT count(*)::text FROM messages").await;
    assert_eq!(messages, ["1000"]);
    Ok(())
}

#[tokio::test]
async fn what_a_silent_node_holds_of_a_quota_is_taken_back() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    assert_eq!(send(store, tenant, 1, 0..1, 320).await?, 1);
    let slice = "SELECT granted || ' ' || used FROM quotas WHERE slot = 1";
    let client = look(&database.url).await;
    assert_eq!(column(&client, slice).await, ["20 1"], "a sixteenth of the limit");
    assert_eq!(send(store, tenant, 2, 1..301, 320).await?, 300);
    assert_eq!(column(&client, slice).await, ["20 1"], "there was enough beside it");
    // A batch that is larger than what is left gets what is left.
    assert_eq!(send(store, tenant, 2, 301..331, 320).await?, 19);
    assert_eq!(column(&client, slice).await, ["1 1"]);
    assert_eq!(send(store, tenant, 1, 400..401, 320).await?, 0);
    quotas_agree(&database.url, 320).await;
    // A larger limit is there at once.
    assert_eq!(send(store, tenant, 1, 401..403, 321).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_smaller_plan_takes_back_what_nodes_hold() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let tenant = fixture::tenant(store, 1).await?;
    for slot in [1, 2] {
        assert_eq!(send(store, tenant, slot, 0..3, 16_000).await?, 3);
    }
    let plan = TenantChange { plan: Some("small".to_owned()), ..TenantChange::default() };
    store.update_tenant(tenant, plan, fixture::audit(tenant, 1)).await?;
    let rows = column(&look(&database.url).await, "SELECT slot || ': ' || granted || ' ' || used FROM quotas ORDER BY slot").await;
    assert_eq!(rows, ["-1: 6 0", "1: 3 3", "2: 3 3"]);
    assert_eq!(send(store, tenant, 1, 3..6, 8).await?, 2);
    assert_eq!(send(store, tenant, 2, 3..6, 8).await?, 0);
    assert_eq!(store.quota_used(tenant, at(0).day()).await?, 8);
    quotas_agree(&database.url, 8).await;
    // A limit that became smaller without a change of plan: nothing more is granted, and what nodes hold is called back.
    assert_eq!(send(store, tenant, 1, 6..7, 16_000).await?, 1);
    assert_eq!(send(store, tenant, 2, 6..7, 9).await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_outcome_of_a_message_that_is_gone_leaves_no_event() -> Result<()> {
    let database = fresh().await;
    let store = &database.store;
    let (one, two) = (fixture::tenant(store, 1).await?, fixture::tenant(store, 2).await?);
    fixture::create(store, fixture::message(one, seq(1))).await?;
    let lease = fixture::node(store, "a").await?;
    let told = |tenant, seq| fixture::outcome(tenant, seq, 0, EventKind::Expired, Status::Expired, at(5));
    // One of a message that was never there, and one in another tenant's name, beside one that counts.
    store.settle(lease, &[told(one, seq(2)), told(two, seq(1))]).await?;
    store.settle(lease, &[told(one, seq(1))]).await?;
    let events = column(&look(&database.url).await, "SELECT message_seq::text || ' ' || tenant_id::text FROM events").await;
    assert_eq!(events, [format!("{} {}", seq(1).0, one)]);
    Ok(())
}

#[tokio::test]
async fn a_store_works_without_any_session_setting() -> Result<()> {
    // With another direct URL the first one counts as pooled, and nothing is asked of its sessions.
    let database = fresh().await;
    let direct = format!("{}?application_name=direct", database.url);
    let store = PostgresStore::connect(&database.url, Some(&direct)).await?;
    store.extend(at(100 * DAY)).await?;
    let shared: Arc<dyn Store> = Arc::new(store);
    let tenant = fixture::tenant(&shared, 1).await?;
    fixture::create(&shared, fixture::message(tenant, seq(1))).await?;
    let query = MessageQuery {
        filter: MessageFilter {
            environment: Some(Environment::Live),
            until: Some(Timestamp::from_millis(i64::MAX)),
            ..MessageFilter::default()
        },
        before: None,
        limit: 10,
        scan: 10,
    };
    assert_eq!(shared.list_messages(tenant, &query).await?.rows.len(), 1);
    let settings = column(
        &look(&database.url).await,
        "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'raven'",
    )
    .await;
    assert_ne!(settings, ["0"]);
    Ok(())
}
