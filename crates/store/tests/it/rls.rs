//! Row-level security on PostgreSQL: what a tenant's role sees and writes, whatever the statement says. Driven by the catalog,
//! so that a new table of tenants' rows must have its policy.

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use std::sync::Arc;

use raven_core::TenantId;
use raven_store::{
    Error, Health, Result, Store,
    conformance::fixture::{self, at},
    postgres::PostgresStore,
};
use raven_testkit::database::{PostgresDatabase, postgres_store as fresh};
use tokio_postgres::{Client, NoTls, error::SqlState};

/// A connection as the login.
async fn look(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Takes on the role for good, as a verb does for one transaction.
async fn act_for(client: &Client, tenant: TenantId) {
    client.batch_execute(&format!("SET ROLE raven_tenant; SET raven.tenant = '{tenant}'")).await.unwrap();
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{e:?}\n{sql}")).get(0)
}

/// Tables with rows of tenants and the column that tells whose, as the catalog has them.
async fn tables(client: &Client) -> Vec<(String, String)> {
    let sql =
        "SELECT t.relname::text, a.attname::text FROM pg_class t JOIN pg_namespace s ON s.oid = t.relnamespace AND s.nspname = 'public'
       JOIN pg_attribute a ON a.attrelid = t.oid AND NOT a.attisdropped AND a.attname IN ('tenant_id', 'owner_id')
       WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition ORDER BY 1";
    let mut tables: Vec<(String, String)> = client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    tables.push(("tenants".to_owned(), "id".to_owned()));
    assert!(tables.len() >= 14, "the catalog was read: {tables:?}");
    tables
}

/// Two tenants with something of everything.
async fn two(database: &PostgresDatabase) -> Result<(TenantId, TenantId)> {
    Ok((fixture::furnished(&database.store, 1).await?, fixture::furnished(&database.store, 2).await?))
}

#[tokio::test]
async fn a_table_without_a_filter_shows_one_tenants_rows() -> Result<()> {
    let database = fresh().await;
    let (one, two) = two(&database).await?;
    let (login, client) = (look(&database.url).await, look(&database.url).await);
    act_for(&client, one).await;
    for (table, owner) in tables(&login).await {
        let of = |tenant| format!("SELECT count(*) FROM {table} WHERE {owner} = '{tenant}'");
        let (own, foreign) = (count(&login, &of(one)).await, count(&login, &of(two)).await);
        assert!(own > 0 && foreign > 0, "{table} has nothing to hide: {own}, {foreign}");
        // SELECT * and not count(*): the rows themselves.
        let seen = client.query(&format!("SELECT * FROM {table}"), &[]).await.unwrap_or_else(|e| panic!("{table}: {e:?}"));
        assert_eq!(i64::try_from(seen.len()).unwrap(), own, "{table}");
        assert_eq!(count(&client, &of(two)).await, 0, "{table}");
    }
    // Humans belong to no tenant: those who are members are seen.
    let members = count(&login, &format!("SELECT count(*) FROM members WHERE tenant_id = '{one}'")).await;
    assert!(members < count(&login, "SELECT count(*) FROM users").await);
    assert_eq!(count(&client, "SELECT count(*) FROM users").await, members);
    Ok(())
}

#[tokio::test]
async fn without_the_setting_nothing_is_seen() -> Result<()> {
    let database = fresh().await;
    let (one, _) = two(&database).await?;
    let client = look(&database.url).await;
    let tables = tables(&client).await;
    let none = async |when: &str| {
        for table in tables.iter().map(|(table, _)| table.as_str()).chain(["users"]) {
            assert_eq!(count(&client, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}, {when}");
        }
    };
    client.batch_execute("SET ROLE raven_tenant").await.unwrap();
    none("never set").await;
    // What a setting leaves behind when its transaction ends is an empty text.
    client.batch_execute(&format!("BEGIN; SET LOCAL raven.tenant = '{one}'")).await.unwrap();
    assert_eq!(count(&client, "SELECT count(*) FROM tenants").await, 1);
    client.batch_execute("COMMIT").await.unwrap();
    none("after a transaction").await;
    Ok(())
}

#[tokio::test]
async fn rows_of_another_tenant_cannot_be_written() -> Result<()> {
    let database = fresh().await;
    let (one, two) = two(&database).await?;
    let (login, client) = (look(&database.url).await, look(&database.url).await);
    act_for(&client, one).await;
    let denied = |table: &str, result: std::result::Result<u64, tokio_postgres::Error>| {
        let error = result.expect_err(table);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}: {error:?}");
    };
    for (table, owner) in tables(&login).await {
        // A row like one of its own, but the other one's; and one of its own given away.
        let columns = "SELECT string_agg('(j).' || column_name, ', '), string_agg(column_name, ', ')
            FROM information_schema.columns WHERE table_name = $1 AND is_generated = 'NEVER'";
        let row = login.query_one(columns, &[&table]).await.unwrap();
        let (fields, columns): (String, String) = (row.get(0), row.get(1));
        let forged = format!(
            "INSERT INTO {table} ({columns}) SELECT {fields}
             FROM (SELECT jsonb_populate_record(r, '{{\"{owner}\": \"{two}\"}}') AS j FROM {table} r LIMIT 1) f"
        );
        denied(&table, client.execute(&forged, &[]).await);
        denied(&table, client.execute(&format!("UPDATE {table} SET {owner} = '{two}'"), &[]).await);
        // Everything, as far as the role may: the other tenant's rows stay.
        let foreign = format!("SELECT count(*) || ' ' || COALESCE(max(md5(r::text)), '') FROM {table} r WHERE {owner} = '{two}'");
        let before: String = login.query_one(&foreign, &[]).await.unwrap().get(0);
        let columns = "SELECT p.column_name::text FROM information_schema.column_privileges p
            JOIN information_schema.columns c ON c.table_name = p.table_name AND c.column_name = p.column_name AND c.is_generated = 'NEVER'
            WHERE p.grantee = 'raven_tenant' AND p.privilege_type = 'UPDATE' AND p.table_name = $1";
        for column in login.query(columns, &[&table]).await.unwrap().iter().map(|row| row.get::<_, String>(0)) {
            client.execute(&format!("UPDATE {table} SET {column} = {column}"), &[]).await.unwrap_or_else(|e| panic!("{table}: {e:?}"));
        }
        match client.execute(&format!("DELETE FROM {table}"), &[]).await {
            Ok(deleted) => assert!(deleted > 0, "{table}: its own rows may go"),
            Err(e) => assert_eq!(e.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}: {e:?}"),
        }
        assert_eq!(login.query_one(&foreign, &[]).await.unwrap().get::<_, String>(0), before, "{table}");
    }
    denied("users", client.execute("UPDATE users SET name = 'x'", &[]).await);
    Ok(())
}

#[tokio::test]
async fn the_log_cannot_be_rewritten_and_a_key_cannot_be_forged_from_another() -> Result<()> {
    let database = fresh().await;
    let (one, _) = two(&database).await?;
    let client = look(&database.url).await;
    act_for(&client, one).await;
    for sql in [
        "UPDATE audit_log SET entry = '{}'",
        "DELETE FROM audit_log",
        "UPDATE api_keys SET secret_hash = 'x'",
        "UPDATE api_keys SET scopes = 7",
        "UPDATE tenants SET status = 1",
        "UPDATE quotas SET used = 0",
        "UPDATE usage_accepted SET messages = 0",
        "DELETE FROM messages",
        "DELETE FROM tenants",
        "TRUNCATE invitations",
    ] {
        let error = client.execute(sql, &[]).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn partitions_and_the_tables_of_the_installation_are_out_of_reach() -> Result<()> {
    let database = fresh().await;
    let (one, _) = two(&database).await?;
    // New weeks are no way around either.
    database.store.extend(at(70 * 86_400_000)).await?;
    let (login, client) = (look(&database.url).await, look(&database.url).await);
    act_for(&client, one).await;
    let tenants: Vec<String> = tables(&login).await.into_iter().map(|(table, _)| table).chain(["users".to_owned()]).collect();
    let all = "SELECT t.relname::text FROM pg_class t JOIN pg_namespace s ON s.oid = t.relnamespace AND s.nspname = 'public'
       WHERE t.relkind IN ('r', 'p', 'S', 'v', 'm')";
    let mut closed = 0;
    for row in login.query(all, &[]).await.unwrap() {
        let table: String = row.get(0);
        if tenants.contains(&table) {
            continue;
        }
        closed += 1;
        let error = client.query(&format!("SELECT * FROM {table}"), &[]).await.expect_err(&table);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}: {error:?}");
    }
    assert!(closed > 20, "secrets, nodes, slots, migrations, rate limits, and the weeks of messages and events: {closed}");
    Ok(())
}

#[tokio::test]
async fn a_verb_that_forgot_its_filter_finds_nothing_foreign() -> Result<()> {
    let database = fresh().await;
    let (one, two) = two(&database).await?;
    let store = PostgresStore::connect(&database.url, None).await?;
    let own = store.rows_within(one, "SELECT seq FROM messages").await?;
    assert!(own > 0 && own == store.rows_within(two, "SELECT seq FROM messages").await?);
    let of_two = "SELECT id FROM api_keys WHERE tenant_id <> NULLIF(current_setting('raven.tenant'), '')::uuid";
    assert_eq!(store.rows_within(one, of_two).await?, 0);
    assert_eq!(store.rows_within(one, "SELECT id FROM tenants").await?, 1);
    // No tenant, no rows.
    assert_eq!(store.rows_within(fixture::tenant_record(9).id, "SELECT seq FROM messages").await?, 0);
    // The same connections serve what looks across tenants, before and after.
    assert_eq!(store.rows_within(one, "SELECT 1 WHERE current_user = 'raven_tenant'").await?, 1);
    let all: Arc<dyn Store> = Arc::new(store);
    assert_eq!(all.list_tenants(None, 10).await?.len(), 2);
    Ok(())
}

/// A database of a login that is no superuser. Both go with the cluster unless [`Plain::end`] is called.
struct Plain {
    url: String,
    name: String,
    admin: Client,
}

impl Plain {
    async fn new(beside: &PostgresDatabase, option: &str) -> Self {
        let admin = look(&beside.url).await;
        let name: String = admin.query_one("SELECT current_database() || '_plain'", &[]).await.unwrap().get(0);
        admin.batch_execute(&format!("CREATE ROLE {name} LOGIN {option}")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0")).await.unwrap();
        let (server, _) = beside.url.rsplit_once('/').unwrap();
        let (_, host) = server.rsplit_once('@').unwrap();
        Self { url: format!("postgres://{name}@{host}/{name}"), name, admin }
    }

    async fn end(self) {
        self.admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await.unwrap();
        self.admin.batch_execute(&format!("DROP ROLE {}", self.name)).await.unwrap();
    }
}

#[tokio::test]
async fn a_login_that_may_not_make_the_role_says_what_an_administrator_must_run() -> Result<()> {
    let database = fresh().await;
    let plain = Plain::new(&database, "").await;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::connect(&plain.url, None).await?);
    let Err(Error::Internal(reason)) = store.migrate(at(0)).await else { panic!("the role was taken on without leave") };
    let reason = reason.to_string();
    let (_, statement) = reason.split_once("run: ").unwrap();
    assert_eq!(statement, format!("GRANT raven_tenant TO {};", plain.name));
    assert_eq!(store.migrations().await?.applied, 0, "nothing was begun");
    plain.admin.batch_execute(statement).await.unwrap();
    assert!(store.migrate(at(0)).await?.is_current());
    // It serves, and sees what each verb is for.
    let (one, two) = (fixture::furnished(&store, 1).await?, fixture::furnished(&store, 2).await?);
    assert_eq!(store.list_tenants(None, 10).await?.len(), 2);
    for tenant in [one, two] {
        assert!(!store.list_keys(tenant, None, None, 10).await?.is_empty());
        assert!(!store.list_members(tenant, None, 10).await?.is_empty());
        assert!(!store.list_audit(tenant, None, 10).await?.is_empty());
    }
    store.extend(at(70 * 86_400_000)).await?;
    store.close().await;
    plain.end().await;
    Ok(())
}

#[tokio::test]
async fn a_login_that_may_make_roles_needs_nobody() -> Result<()> {
    let database = fresh().await;
    let plain = Plain::new(&database, "CREATEROLE").await;
    let store = PostgresStore::connect(&plain.url, None).await?;
    let other = PostgresStore::connect(&plain.url, None).await?;
    // Several nodes start at once.
    let (a, b, c, d) = tokio::join!(store.migrate(at(0)), other.migrate(at(0)), store.migrate(at(0)), other.migrate(at(0)));
    for migrated in [a, b, c, d] {
        assert!(migrated?.is_current());
    }
    let store: Arc<dyn Store> = Arc::new(store);
    let one = fixture::furnished(&store, 1).await?;
    assert!(!store.list_configs(one, None, 10).await?.is_empty());
    store.close().await;
    other.close().await;
    plain.end().await;
    Ok(())
}
