//! Fresh databases for tests: migrated, empty, gone when their guard is dropped.
//!
//! A PostgreSQL database is cloned from a template, which is migrated once for each version of the schema, whichever of
//! the test processes comes first. The cluster is not ours to start: `scripts/postgres` does it.

use std::sync::Arc;

use raven_core::Timestamp;
use raven_store::{Location, Store, postgres::PostgresStore, sqlite::SqliteStore};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

/// The variable that names the cluster.
pub const URL_VARIABLE: &str = "RAVEN_TEST_DATABASE_URL";

/// When test databases are migrated: 2026-09-21, so the weeks around it have partitions. Tests that play in other weeks
/// call [`extend`](raven_store::Health::extend), or live in the default partition.
pub const MIGRATED_AT: Timestamp = Timestamp::from_millis(1_790_000_000_000);

// The key is arbitrary; it serialises the making of templates on a cluster.
const LOCK: &str = "SELECT pg_advisory_lock(7228162900)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(7228162900)";

/// A PostgreSQL database of its own, deleted when this is dropped.
pub struct PostgresDatabase {
    /// A store on it, migrated.
    pub store: Arc<dyn Store>,
    /// Its URL, for a second store or a look from outside.
    pub url: String,
    name: String,
}

/// An SQLite file of its own, deleted when this is dropped.
pub struct SqliteDatabase {
    /// A store on it, migrated.
    pub store: Arc<dyn Store>,
    /// The folder it lies in, as `raven.db`.
    pub folder: TempDir,
}

/// A database of either kind.
pub enum Database {
    /// An SQLite file.
    Sqlite(SqliteDatabase),
    /// A PostgreSQL database.
    Postgres(PostgresDatabase),
}

impl Database {
    /// The store on it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(database) => Arc::clone(&database.store),
            Self::Postgres(database) => Arc::clone(&database.store),
        }
    }

    /// Another store on it, as a second process would open.
    ///
    /// # Panics
    /// When the database is gone.
    pub async fn reopen(&self) -> Arc<dyn Store> {
        let location = match self {
            Self::Sqlite(database) => Location::Sqlite(database.folder.path().join("raven.db")),
            Self::Postgres(database) => Location::Postgres { url: database.url.clone(), direct_url: None },
        };
        raven_store::connect(&location).await.expect("the database is there")
    }
}

/// One fresh database of each engine, to run the same test on both.
///
/// # Panics
/// When one can't be made; see [`postgres_store`].
pub async fn databases() -> [Database; 2] {
    [Database::Sqlite(sqlite_store().await), Database::Postgres(postgres_store().await)]
}

/// A fresh SQLite store.
///
/// # Panics
/// When the file can't be made.
pub async fn sqlite_store() -> SqliteDatabase {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = SqliteStore::open(&folder.path().join("raven.db")).await.expect("a new file can be opened");
    let store: Arc<dyn Store> = Arc::new(store);
    store.migrate(MIGRATED_AT).await.expect("a new file can be migrated");
    SqliteDatabase { store, folder }
}

/// A fresh PostgreSQL store.
///
/// # Panics
/// When there is no cluster to make it on: a test that needs PostgreSQL fails without it.
pub async fn postgres_store() -> PostgresDatabase {
    let (url, name) = clone_template().await;
    let store = PostgresStore::connect(&url, None).await.expect("a new database can be reached");
    PostgresDatabase { store: Arc::new(store), url, name }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread of its own, because the runtime that we may be dropped on must not be blocked by a task of itself. Best
        // effort: the cluster is thrown away in the end.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Ok::<_, anyhow::Error>(connect(&cluster()).await?.batch_execute(&drop).await?) })
        });
        let _ = thread.join();
    }
}

#[expect(clippy::disallowed_methods, reason = "where the test cluster is, only the environment of the test run tells")]
fn cluster() -> String {
    std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
        panic!("{URL_VARIABLE} is not set, and this test needs PostgreSQL: run ./scripts/test, or eval \"$(scripts/postgres start)\" first")
    })
}

/// The same cluster's URL for another database.
fn url_of(cluster: &str, database: &str) -> String {
    let (base, query) = cluster.split_once('?').map_or((cluster, ""), |(base, query)| (base, query));
    let host = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    if query.is_empty() { format!("{host}/{database}") } else { format!("{host}/{database}?{query}") }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = url.parse::<Config>()?.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A name that changes with the schema (FNV-1a of its text).
fn template_name() -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in raven_store::postgres::migration_texts().flat_map(str::bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("raven_template_{hash:016x}")
}

async fn clone_template() -> (String, String) {
    let cluster = cluster();
    let admin = connect(&cluster).await.unwrap_or_else(|e| panic!("{URL_VARIABLE} names a PostgreSQL that can't be reached: {e}"));
    let template = template_name();
    make_template(&admin, &cluster, &template).await;
    let random = admin.query_one("SELECT 'raven_test_' || replace(gen_random_uuid()::text, '-', '')", &[]).await;
    let name: String = random.expect("the server makes random names").get(0);
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.expect("the template can be cloned");
    (url_of(&cluster, &name), name)
}

async fn exists(admin: &Client, name: &str) -> bool {
    let rows = admin.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await;
    !rows.expect("databases can be listed").is_empty()
}

/// Makes the template unless it is there. It gets its name only when it is complete, so a killed test run leaves no half of one.
async fn make_template(admin: &Client, cluster: &str, template: &str) {
    if exists(admin, template).await {
        return;
    }
    admin.query_one(LOCK, &[]).await.expect("the lock can be had");
    if !exists(admin, template).await {
        let unfinished = format!("{template}_unfinished");
        let make = async |sql: String| admin.batch_execute(&sql).await.expect("a template can be made");
        make(format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        make(format!("CREATE DATABASE {unfinished}")).await;
        let store = PostgresStore::connect(&url_of(cluster, &unfinished), None).await.expect("a new database can be reached");
        raven_store::Health::migrate(&store, MIGRATED_AT).await.expect("a new database can be migrated");
        raven_store::Health::close(&store).await;
        drop(store);
        // Waits for the connections just closed to end.
        make(format!("ALTER DATABASE {unfinished} RENAME TO {template}")).await;
    }
    admin.query_one(UNLOCK, &[]).await.expect("the lock can be given back");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_another_database_keeps_host_and_options() {
        assert_eq!(url_of("postgres://a:b@127.0.0.1:5/postgres", "x"), "postgres://a:b@127.0.0.1:5/x");
        assert_eq!(url_of("postgres://a@h", "x"), "postgres://a@h/x");
        assert_eq!(url_of("postgres://a@h/p?sslmode=disable", "x"), "postgres://a@h/x?sslmode=disable");
    }
}
