//! Both schemas are one: the same tables, columns, keys, references and indexes, under the same names.

use std::collections::{BTreeMap, BTreeSet};

use raven_store::{Health, conformance::fixture::at, sqlite::SqliteStore};

/// A schema, as both engines can tell it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Schema {
    /// Kind and nullability by (table, column).
    columns: BTreeMap<(String, String), (Kind, bool)>,
    /// Columns of the primary key, in order.
    primary_keys: BTreeMap<String, Vec<String>>,
    /// Table, columns in order, uniqueness, and the terms of a partial index.
    indexes: BTreeSet<(String, Vec<String>, bool, String)>,
    /// Table, column, and the table referred to.
    references: BTreeSet<(String, String, String)>,
}

/// Indexes that PostgreSQL alone has: table and first column. It finds the next due time with one; SQLite hops over the lanes
/// in its own process, where that costs little.
const ONLY_POSTGRES: &[(&str, &str)] = &[("jobs", "due_at")];

/// What a column can hold, as far as the engines agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bytes,
}

impl Kind {
    fn of(declared: &str) -> Self {
        match declared {
            "TEXT" | "text" => Self::Text,
            "INTEGER" | "bigint" | "integer" | "smallint" | "boolean" => Self::Number,
            "BLOB" | "bytea" | "uuid" => Self::Bytes,
            other => panic!("a type that the table of types does not know: {other}"),
        }
    }
}

/// The terms of a partial index without what only the notation adds.
fn terms(sql: &str) -> String {
    sql.chars().filter(|c| !"() \n".contains(*c)).collect::<String>().to_lowercase()
}

fn rows<T>(c: &rusqlite::Connection, sql: &str, read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut select = c.prepare(sql).expect("a catalog query");
    let rows = select.query_map([], read).expect("a catalog query").collect::<rusqlite::Result<_>>();
    rows.expect("a catalog row")
}

async fn sqlite() -> Schema {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("raven.db");
    let store = SqliteStore::open(&path).await.expect("a new file can be opened");
    store.migrate(at(0)).await.expect("an empty file can be migrated");
    let c = rusqlite::Connection::open(&path).expect("the file is there");
    let mut schema = Schema::default();
    for table in rows(&c, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'", |r| r.get::<_, String>(0)) {
        let columns = rows(&c, &format!("PRAGMA table_xinfo({table})"), |r| {
            Ok((r.get::<_, String>(1)?, r.get::<_, String>(2)?, r.get::<_, bool>(3)?, r.get::<_, i64>(5)?))
        });
        let mut key: Vec<_> = columns.iter().filter(|(.., place)| *place > 0).map(|(name, _, _, place)| (*place, name.clone())).collect();
        key.sort_unstable();
        schema.primary_keys.insert(table.clone(), key.into_iter().map(|(_, name)| name).collect());
        for (name, declared, not_null, place) in columns {
            schema.columns.insert((table.clone(), name), (Kind::of(&declared), !not_null && place == 0));
        }
        for (index, unique, origin) in
            rows(&c, &format!("PRAGMA index_list({table})"), |r| Ok((r.get::<_, String>(1)?, r.get(2)?, r.get::<_, String>(3)?)))
        {
            if origin == "pk" {
                continue;
            }
            let columns = rows(&c, &format!("PRAGMA index_info({index})"), |r| r.get(2));
            let sql: Option<String> = rows(&c, &format!("SELECT sql FROM sqlite_schema WHERE name = '{index}'"), |r| r.get(0)).remove(0);
            let partial = sql.as_deref().and_then(|sql| sql.split_once(" WHERE ")).map_or(String::new(), |(_, end)| terms(end));
            schema.indexes.insert((table.clone(), columns, unique, partial));
        }
        for (to, column) in rows(&c, &format!("PRAGMA foreign_key_list({table})"), |r| Ok((r.get(2)?, r.get(3)?))) {
            schema.references.insert((table.clone(), column, to));
        }
    }
    schema
}

const TABLES: &str = "FROM pg_class t JOIN pg_namespace s ON s.oid = t.relnamespace AND s.nspname = 'public'";

async fn postgres() -> Schema {
    let database = raven_testkit::database::postgres_store().await;
    let (client, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.expect("the test database takes connections");
    let running = tokio::spawn(connection);
    let query = |sql: String| {
        let client = &client;
        async move { client.query(&sql, &[]).await.expect("a catalog query") }
    };
    let mut schema = Schema::default();
    let columns = format!(
        "SELECT t.relname::text, a.attname::text, format_type(a.atttypid, NULL), NOT a.attnotnull {TABLES}
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition"
    );
    for row in query(columns).await {
        schema.columns.insert((row.get(0), row.get(1)), (Kind::of(row.get(2)), row.get(3)));
    }
    let indexes = format!(
        "SELECT t.relname::text, i.indisprimary, i.indisunique, coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
           ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (n, place)
                 JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.n ORDER BY k.place)
         {TABLES} JOIN pg_index i ON i.indrelid = t.oid WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition"
    );
    for row in query(indexes).await {
        if row.get(1) {
            schema.primary_keys.insert(row.get(0), row.get(4));
        } else {
            schema.indexes.insert((row.get(0), row.get(4), row.get(2), terms(row.get(3))));
        }
    }
    let references = format!(
        "SELECT t.relname::text, a.attname::text, r.relname::text {TABLES}
         JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'f'
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.conkey[1] JOIN pg_class r ON r.oid = c.confrelid
         WHERE NOT t.relispartition"
    );
    for row in query(references).await {
        schema.references.insert((row.get(0), row.get(1), row.get(2)));
    }
    drop(client);
    running.await.expect("the connection's task does not panic").expect("the connection ends in order");
    schema
}

#[tokio::test]
async fn both_schemas_are_the_same() {
    let (sqlite, postgres) = (sqlite().await, postgres().await);
    assert!(sqlite.columns.len() > 80 && sqlite.indexes.len() > 8, "the catalog was read: {sqlite:?}");
    assert_eq!(sqlite.columns, postgres.columns);
    assert_eq!(sqlite.primary_keys, postgres.primary_keys);
    let shared: BTreeSet<_> =
        postgres.indexes.into_iter().filter(|(table, columns, ..)| !ONLY_POSTGRES.contains(&(table, &columns[0]))).collect();
    assert_eq!(sqlite.indexes, shared);
    assert_eq!(sqlite.references, postgres.references);
}
