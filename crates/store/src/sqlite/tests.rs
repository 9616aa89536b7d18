//! What only this engine does: shared commits, recovery from failures, whose file it opens, and how its statements are planned.

use std::{path::PathBuf, sync::Arc, sync::mpsc};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{SqliteStore, claim, connection, messages, pages, queue, statements};
use crate::{
    Error, Health, Messages, NewMessage, Nodes, Result, Secrets, Store,
    conformance::fixture::{accept, at, keyed, message, message_claim, seq, tenant},
    messages::MessageClaim,
};

type Work<T> = Box<dyn FnOnce(&Connection) -> Result<T> + Send>;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("raven.db");
    (folder, path)
}

async fn fresh() -> Result<(TempDir, PathBuf, Arc<SqliteStore>)> {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).await?;
    store.migrate(at(0)).await?;
    Ok((folder, path, Arc::new(store)))
}

fn put(c: &Connection, name: &str) -> Result<()> {
    c.execute("INSERT INTO secrets (name, wrapped) VALUES (?1, x'00')", [name])?;
    Ok(())
}

async fn names(store: &SqliteStore) -> Result<Vec<String>> {
    store
        .read(|c| Ok(c.prepare("SELECT name FROM secrets ORDER BY name")?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?))
        .await
}

/// Holds the writer up until what this returns is dropped, so that the requests made meanwhile become one group.
async fn hold(store: &Arc<SqliteStore>) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let store = Arc::clone(store);
    tokio::spawn(async move {
        store
            .write(move |_| {
                entered.send(()).expect("the test waits for it");
                held.recv().expect_err("nothing is ever sent, the sender is only dropped");
                Ok(())
            })
            .await
    });
    inside.await.expect("the writer runs what it is given");
    release
}

/// Hands requests to a writer that is held up, then lets it go.
async fn in_one_group<T: Send + 'static>(store: &Arc<SqliteStore>, works: Vec<Work<T>>) -> Vec<Result<T>> {
    let release = hold(store).await;
    let calls: Vec<_> = works.into_iter().map(|work| Box::pin(store.write(work))).collect();
    let all = futures_util::future::join_all(calls);
    let (answers, ()) = futures_util::future::join(all, async move { drop(release) }).await;
    answers
}

#[tokio::test]
async fn a_failing_request_takes_only_itself_back() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let works: Vec<Work<()>> = vec![
        Box::new(|c| put(c, "a")),
        Box::new(|c| {
            put(c, "b")?;
            Err(Error::Conflict("slug"))
        }),
        Box::new(|c| {
            put(c, "c")?;
            panic!("as a bug would")
        }),
        Box::new(|c| {
            put(c, "d")?;
            put(c, "a")
        }),
        Box::new(|c| put(c, "e")),
    ];
    let answers = in_one_group(&store, works).await;
    assert!(matches!(&answers[..], [Ok(()), Err(Error::Conflict("slug")), Err(Error::Internal(_)), Err(Error::Internal(_)), Ok(())]));
    assert_eq!(names(&store).await?, ["a", "e"]);
    Ok(())
}

#[tokio::test]
async fn a_failing_commit_is_everyones() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let works: Vec<Work<()>> = vec![
        Box::new(|c| put(c, "a")),
        Box::new(|c| {
            c.pragma_update(None, "defer_foreign_keys", true)?;
            c.execute("INSERT INTO members (user_id, tenant_id, role, created_at) VALUES (x'00', x'00', 1, 1)", [])?;
            Ok(())
        }),
        Box::new(|_| Err(Error::Conflict("slug"))),
    ];
    let answers = in_one_group(&store, works).await;
    let [Err(Error::Unavailable(source)), Err(Error::Unavailable(_)), Err(Error::Conflict("slug"))] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert!(source.to_string().contains("the database failed") && source.source().is_some(), "the cause is kept: {source:?}");
    assert_eq!(names(&store).await?, [] as [&str; 0]);
    store.write(|c| put(c, "b")).await?;
    assert_eq!(names(&store).await?, ["b"]);
    Ok(())
}

#[tokio::test]
async fn a_panic_alone_does_not_end_the_writer() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let failed = store.write(|_| -> Result<()> { panic!("as a bug would") }).await;
    assert!(matches!(failed, Err(Error::Internal(_))));
    store.ping().await?;
    store.write(|c| put(c, "a")).await
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_passes() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let shared: Arc<dyn Store> = Arc::clone(&store) as _;
    let tenant = tenant(&shared, 1).await?;
    accept(&shared, vec![message(tenant, seq(1))]).await?;
    // The limit is of the connection, so it is gone with the one that failed.
    store.write(|c| Ok(c.query_row("PRAGMA max_page_count = 1", [], |_| Ok(()))?)).await?;
    let long = "x".repeat(100_000);
    let failed = store.put_content(tenant, seq(2), &long).await;
    assert!(matches!(&failed, Err(Error::Unavailable(_))), "{failed:?}");
    store.put_content(tenant, seq(2), &long).await?;
    assert!(store.find_message(tenant, None, seq(1)).await?.is_some());

    // In a group, all that the transaction held is lost with it, and nobody is told otherwise.
    store.write(|c| Ok(c.query_row("PRAGMA max_page_count = 1", [], |_| Ok(()))?)).await?;
    let works: Vec<Work<()>> = vec![
        Box::new(|c| put(c, "a")),
        Box::new(move |c| {
            c.execute("INSERT INTO contents (seq, tenant_id, content) VALUES (9, x'00', ?1)", ["x".repeat(1_000_000)])?;
            Ok(())
        }),
        Box::new(|c| put(c, "b")),
    ];
    let told: Vec<_> = in_one_group(&store, works).await.into_iter().map(|answer| answer.is_ok()).collect();
    let stored = names(&store).await?;
    assert_eq!((told[0], told[2]), (stored.contains(&"a".to_owned()), stored.contains(&"b".to_owned())));
    assert!(!told[1]);
    store.write(|c| put(c, "c")).await
}

#[tokio::test]
async fn a_lock_held_elsewhere_is_unavailable_and_passes() -> Result<()> {
    let (_folder, path, store) = fresh().await?;
    store.write(|c| Ok(c.busy_timeout(std::time::Duration::ZERO)?)).await?;
    let other = connection::reopen(&path)?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    assert!(matches!(store.register_node("a", at(1)).await, Err(Error::Unavailable(_))));
    assert_eq!(store.list_nodes().await?, [], "readers don't wait for a writer");
    other.execute_batch("ROLLBACK")?;
    store.register_node("a", at(1)).await.map(drop)
}

#[tokio::test]
async fn two_stores_on_one_file_see_each_other() -> Result<()> {
    let (_folder, path, store) = fresh().await?;
    let beside = SqliteStore::open(&path).await?;
    let writes = (0..20).map(|n| {
        let target = if n % 2 == 0 { &*store } else { &beside };
        async move { target.put_secret_once(&format!("{n:02}"), &[n]).await }
    });
    futures_util::future::try_join_all(writes).await?;
    assert_eq!(names(&store).await?.len(), 20);
    beside.close().await;
    assert_eq!(names(&store).await?.len(), 20);
    Ok(())
}

#[tokio::test]
async fn a_purge_by_small_portions_leaves_out_no_expired_key() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let shared: Arc<dyn Store> = store.clone();
    let tenant = tenant(&shared, 1).await?;
    // More than one stretch, every third of which is still good then.
    let keys = i64::try_from(messages::SCAN).expect("few") + 1_000;
    for first in (0..keys).step_by(500) {
        let of = |n: i64| {
            let idempotency = MessageClaim { expires_at: at(if n % 3 == 0 { 900 } else { 100 }), ..message_claim(&format!("key-{n}"), 7) };
            NewMessage { idempotency: Some(idempotency), ..message(tenant, seq(n)) }
        };
        accept(&shared, (first..first + 500).map(of).collect()).await?;
    }
    let mut purged = 0;
    while store.purge_idempotency(at(200), 300).await? == 300 {
        purged += 300;
    }
    assert_eq!(purged, 3_900, "in full portions, and then a hundred");
    let left: (i64, i64) = store
        .read(|c| {
            let mut count = c.prepare("SELECT count(*), sum(expires_at < ?1) FROM idempotency")?;
            Ok(count.query_row([at(200).millis()], |r| Ok((r.get(0)?, r.get(1)?)))?)
        })
        .await?;
    assert_eq!(left, (2_000, 0));
    Ok(())
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart() -> Result<()> {
    let (_folder, path, store) = fresh().await?;
    let shared: Arc<dyn Store> = Arc::clone(&store) as _;
    let tenant = tenant(&shared, 1).await?;
    accept(&shared, vec![keyed(tenant, seq(1), "k", 7)]).await?;
    store.close().await;
    assert!(!path.with_extension("db-wal").exists(), "the log was moved into the file");
    let store = SqliteStore::open(&path).await?;
    assert!(store.migrations().await?.is_current());
    assert!(store.find_message(tenant, None, seq(1)).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_vanished_file_is_not_replaced_by_an_empty_one() -> Result<()> {
    let (_folder, path) = folder();
    assert!(matches!(connection::reopen(&path), Err(Error::Unavailable(_))));
    assert!(!path.exists());
    let missing = path.join("no-such-folder").join("raven.db");
    assert!(matches!(SqliteStore::open(&missing).await, Err(Error::Unavailable(_))));
    Ok(())
}

#[tokio::test]
async fn foreign_and_newer_files_are_refused() -> Result<()> {
    let refusal = |path: PathBuf| async move {
        match SqliteStore::open(&path).await {
            Err(Error::Internal(source)) => source.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let (_folder, path) = folder();
    Connection::open(&path)?.execute_batch("CREATE TABLE notes (text TEXT)")?;
    assert!(refusal(path).await.contains("another application"));

    let (_folder, path) = folder();
    std::fs::write(&path, "by no means a database, though long enough for its header to be read as if it were one\n".repeat(20))
        .expect("the temporary folder can be written to");
    assert!(refusal(path).await.contains("not a database"));

    let (_folder, path, store) = fresh().await?;
    store.write(|c| Ok(c.execute("INSERT INTO migrations (number, name, applied_at) VALUES (9999, 'later', 1)", []).map(drop)?)).await?;
    assert!(matches!(store.migrate(at(1)).await, Err(Error::Internal(_))));
    store.close().await;
    assert!(refusal(path).await.contains("newer version"));
    Ok(())
}

#[tokio::test]
async fn an_empty_file_has_no_step_applied() -> Result<()> {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path).await?;
    let steps = store.migrations().await?;
    assert!(steps.applied == 0 && !steps.is_current());
    assert!(store.migrate(at(0)).await?.is_current());
    Ok(())
}

#[tokio::test]
async fn commits_are_durable_and_readers_only_read() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let pragma = |c: &Connection, name: &str| c.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
    // 2 is FULL: each commit is on the disk before it returns, in WAL mode too.
    let (synchronous, foreign_keys) = store.write(move |c| Ok((pragma(c, "synchronous")?, pragma(c, "foreign_keys")?))).await?;
    assert_eq!((synchronous, foreign_keys), (2, 1));
    let mode: String = store.read(|c| Ok(c.query_row("PRAGMA journal_mode", [], |r| r.get(0))?)).await?;
    assert_eq!(mode, "wal");
    assert!(store.read(|c| put(c, "a")).await.is_err());
    assert_eq!(names(&store).await?, [] as [&str; 0]);
    Ok(())
}

async fn plan(store: &SqliteStore, sql: &'static str) -> Result<Vec<String>> {
    store
        .read(move |c| {
            let mut explain = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let values = rusqlite::params_from_iter(vec![rusqlite::types::Null; explain.parameter_count()]);
            Ok(explain.query_map(values, |r| r.get(3))?.collect::<rusqlite::Result<_>>()?)
        })
        .await
}

#[tokio::test]
async fn every_statement_prepares() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    for sql in statements() {
        store.write(move |c| Ok(c.prepare(sql).map(drop)?)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    Ok(())
}

#[tokio::test]
async fn pages_are_read_off_an_index_in_its_order() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    for sql in pages::STATEMENTS {
        let plan = plan(&store, sql).await?;
        assert!(plan.len() == 1 && plan[0].starts_with("SEARCH"), "{sql}: {plan:?}");
    }
    Ok(())
}

#[tokio::test]
async fn only_what_housekeeping_reads_is_scanned() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    // Nodes and one human's tenants are few; the others run on a reader, for metrics, after a crash, or to tidy up.
    let few = [
        "FROM nodes",
        "FROM members m JOIN tenants t",
        "FROM jobs WHERE epoch = ?1 ORDER BY",
        "FROM jobs WHERE epoch = ?1 AND started_at IS NULL",
        "FROM jobs GROUP BY",
        "FROM sqlite_schema",
        "FROM quotas WHERE day < ?1",
        "SELECT bucket FROM rate_limits WHERE tat < ?1",
        "FROM contents c WHERE tenant_id = ?1",
        "FROM soft_bounces WHERE since < ?1",
        // The outer one, over so many rows that the inner one gives.
        "FROM (SELECT seq, channel, recipient FROM messages",
    ];
    for sql in statements() {
        let plan = plan(&store, sql).await?;
        let slow = plan.iter().any(|step| step.starts_with("SCAN") && step != "SCAN CONSTANT ROW" || step.contains("TEMP B-TREE"));
        assert!(!slow || few.iter().any(|part| sql.contains(part)), "{sql}: {plan:?}");
    }
    Ok(())
}

/// Steps of SQLite's machine that a query takes until its first row, or to find none.
fn steps(c: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<i32> {
    let mut select = c.prepare(sql)?;
    select.exists(values)?;
    Ok(select.get_status(rusqlite::StatementStatus::VmStep))
}

#[tokio::test]
async fn a_lane_is_passed_in_one_step_however_much_waits_in_it() -> Result<()> {
    let (_folder, _, store) = fresh().await?;
    let shared: Arc<dyn Store> = store.clone();
    let tenant = tenant(&shared, 1).await?;
    accept(&shared, (0..2_000).map(|n| message(tenant, seq(n))).collect()).await?;
    let look = |sql: &'static str, columns: &'static str| {
        store.read(move |c| {
            let lane: Vec<rusqlite::types::Value> = c.query_row(&format!("SELECT {columns} FROM jobs LIMIT 1"), [], |r| {
                (0..columns.split(", ").count()).map(|column| r.get(column)).collect()
            })?;
            steps(c, sql, rusqlite::params_from_iter(lane))
        })
    };
    let lanes = look(claim::NEXT_LANE, "tenant_id, environment, channel, urgency, outlet").await?;
    assert!(lanes < 100, "{lanes} steps over the jobs that are due");
    store.write(|c| Ok(c.execute("UPDATE jobs SET parked = due_at", [])?)).await?;
    let parked = look(queue::NEXT_PARKED, "tenant_id, channel").await?;
    assert!(parked < 100, "{parked} steps over the jobs that are parked");
    Ok(())
}
