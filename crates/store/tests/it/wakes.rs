//! Wake-ups between nodes on one PostgreSQL, and that they can be missed.

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use std::{future::poll_fn, time::Duration};

use futures_util::FutureExt;
use raven_store::{Health, Wakes, postgres::PostgresStore};
use raven_testkit::database::{postgres_store as fresh, sqlite_store};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// Far longer than a wake-up takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node(url: &str) -> PostgresStore {
    let store = PostgresStore::connect(url, None).await.unwrap();
    store.listen();
    // The line is up: whatever was told before may have gone by.
    woken(&store).await;
    store
}

async fn woken(store: &impl Wakes) {
    timeout(PATIENCE, store.woken()).await.expect("a wake-up");
}

async fn look(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_wake_up_reaches_the_other_nodes() {
    let database = fresh().await;
    let (a, b, c) = (node(&database.url).await, node(&database.url).await, node(&database.url).await);
    a.announce();
    woken(&b).await;
    woken(&c).await;
    assert!(a.woken().now_or_never().is_none(), "who tells it knows it");
    b.announce();
    woken(&a).await;
    woken(&c).await;
}

#[tokio::test]
async fn what_is_told_within_a_moment_is_told_once_and_the_last_of_it_before_the_end() {
    let database = fresh().await;
    let (client, mut connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(told) = message {
                let _ = tell.send(told.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN raven_work").await.unwrap();
    let store = node(&database.url).await;
    for _ in 0..1000 {
        store.announce();
    }
    store.close().await;
    store.announce();
    client.batch_execute("NOTIFY raven_work, 'end'").await.unwrap();
    let mut times = 0;
    while timeout(PATIENCE, heard.recv()).await.unwrap().unwrap() != "end" {
        times += 1;
    }
    // The first goes out at once, and all that came after it while it was on its way as another.
    assert!((1..=2).contains(&times), "{times}");
}

#[tokio::test]
async fn a_line_that_was_cut_comes_back() {
    let database = fresh().await;
    let (a, b) = (node(&database.url).await, node(&database.url).await);
    let client = look(&database.url).await;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% wakes'";
    for _ in 0..2 {
        assert_eq!(client.query_one(cut, &[]).await.unwrap().get::<_, i64>(0), 2);
        // Nobody knows what went by meanwhile, so both look.
        woken(&a).await;
        woken(&b).await;
        a.announce();
        woken(&b).await;
        b.announce();
        woken(&a).await;
    }
    for store in [&a, &b] {
        store.close().await;
    }
    let left = async { while client.query_one(&cut.replace("pg_terminate_backend", ""), &[]).await.unwrap().get::<_, i64>(0) > 0 {} };
    timeout(PATIENCE, left).await.expect("a closed store leaves no line behind");
}

#[tokio::test]
async fn a_store_whose_line_cant_be_made_works_without() {
    let database = fresh().await;
    let store = PostgresStore::connect(&database.url, Some("postgres://raven@127.0.0.1:1/raven")).await.unwrap();
    store.listen();
    store.listen();
    store.announce();
    assert!(store.woken().now_or_never().is_none());
    store.ping().await.unwrap();
    timeout(PATIENCE, store.close()).await.expect("an end");
}

#[tokio::test]
async fn a_process_alone_hears_nothing() {
    let database = sqlite_store().await;
    database.store.listen();
    database.store.announce();
    assert!(database.store.woken().now_or_never().is_none());
    database.store.close().await;
}
