//! The suite on SQLite, and what only a look into the file can prove.

use raven_core::{UserId, tenant::SuspendedBy};
use raven_store::{
    Result, StateChange,
    conformance::fixture::{at, furnished, key_record, step, tenant_record, user},
};
use raven_testkit::database::{SqliteDatabase, sqlite_store};
use rusqlite::{Connection, types::Value};

raven_store::conformance_tests!(sqlite_store);

fn open(database: &SqliteDatabase) -> Connection {
    Connection::open(database.folder.path().join("raven.db")).expect("the file is there")
}

fn column_of_texts(c: &Connection, sql: &str) -> Vec<String> {
    let mut select = c.prepare(sql).expect("a catalog query");
    let rows = select.query_map([], |r| r.get(0)).expect("a catalog query").collect::<rusqlite::Result<_>>();
    rows.expect("a catalog row")
}

fn tables(c: &Connection) -> Vec<String> {
    column_of_texts(c, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
}

/// All values of a table, row by row.
fn rows(c: &Connection, table: &str) -> Vec<Vec<Value>> {
    let mut select = c.prepare(&format!("SELECT * FROM {table}")).expect("the catalog named the table");
    let columns = select.column_count();
    let rows = select.query_map([], |r| (0..columns).map(|i| r.get(i)).collect()).expect("a table can be read");
    rows.collect::<rusqlite::Result<_>>().expect("a row can be read")
}

/// The tables with a row that holds one of the ids, in its bytes or in a text.
fn tables_with(c: &Connection, ids: &[uuid::Uuid]) -> Vec<String> {
    let named = |value: &Value| match value {
        Value::Blob(bytes) => ids.iter().any(|id| bytes == id.as_bytes()),
        Value::Text(text) => ids.iter().any(|id| text.contains(&id.to_string())),
        _ => false,
    };
    tables(c).into_iter().filter(|table| rows(c, table).iter().any(|row| row.iter().any(named))).collect()
}

#[tokio::test]
async fn nothing_of_a_purged_tenant_is_in_any_table() -> Result<()> {
    let database = sqlite_store().await;
    let (store, c) = (&database.store, open(&database));
    let one = furnished(store, 1).await?;
    let ids = |n: u8| {
        let tenant = tenant_record(n).id;
        let humans = [user(n).id, user(100 + 10 * n).id, user(101 + 10 * n).id, user(102 + 10 * n).id].map(|UserId(id)| id);
        let keys = [n, n + 100].map(|i| key_record(tenant, i).id.0);
        [&[tenant.0][..], &humans, &keys].concat()
    };
    // A table that another step of the schema brings must be furnished too, or named here.
    // Where a provider's id leads to is forgotten long before its tenant is deleted.
    let of_no_tenant = ["migrations", "nodes", "provider_ids", "secrets", "slots"];
    let furnished_tables: Vec<_> = tables(&c).into_iter().filter(|table| !of_no_tenant.contains(&table.as_str())).collect();
    assert_eq!(tables_with(&c, &ids(1)), furnished_tables);

    let alone: Vec<_> = {
        let beside = sqlite_store().await;
        furnished(&beside.store, 2).await?;
        let c = open(&beside);
        tables(&c).iter().map(|table| (table.clone(), rows(&c, table).len())).collect()
    };
    let two = furnished(store, 2).await?;
    step(store, one, StateChange::Suspend(SuspendedBy::Operator), 1).await?;
    step(store, one, StateChange::Archive(at(1)), 2).await?;
    while !store.purge_tenant(one, 3).await? {}
    assert_eq!(tables_with(&c, &ids(1)), [] as [&str; 0]);
    let left: Vec<_> = tables(&c).iter().map(|table| (table.clone(), rows(&c, table).len())).collect();
    assert_eq!(left, alone, "all of the neighbour's rows, and no other");
    assert_eq!(tables_with(&c, &[two.0]), furnished_tables.iter().filter(|t| *t != "users").cloned().collect::<Vec<_>>());
    Ok(())
}
