//! `raven serve`.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use raven_testkit::database::URL_VARIABLE;
use tokio_postgres::NoTls;

use crate::support::{JWT_SECRET, MASTER_KEY, Running, call, folder, raven, raven_with_secrets, run};

#[test]
fn without_secrets_it_names_both() {
    let folder = folder();
    let (code, _, stderr) = run(raven(folder.path(), &["serve"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("RAVEN_JWT_SECRET") && stderr.contains("RAVEN_MASTER_KEY"), "{stderr}");
    assert!(!folder.path().join("raven-data").exists(), "nothing is made by a start that is refused");
}

#[test]
fn it_migrates_an_embedded_database_serves_and_ends_with_sigterm() {
    let folder = folder();
    let mut command = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    command.env("RAVEN_LOG", "debug");
    let mut server = Running::start(command);
    let address = server.serve_address();
    assert_eq!(call(&address, "GET", "/healthz", &[], "").0, 200);
    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
    assert_eq!(call(&address, "GET", "/metrics", &[], "").0, 404);
    assert_eq!(call(&address, "GET", "/v1/admin/me", &[("authorization", "Bearer nonsense")], "").0, 401);
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
    for secret in [JWT_SECRET, MASTER_KEY, "nonsense"] {
        assert!(!server.seen.contains(secret), "{secret} was printed");
    }
}

#[test]
fn logs_can_be_json() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]));
    let line = server.line("listening");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((event["message"].as_str(), event["level"].as_str()), (Some("listening"), Some("INFO")));
    assert!(event["address"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn a_second_server_on_the_same_data_is_refused_while_operators_work() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    server.serve_address();
    for command in ["serve", "quickstart"] {
        let (code, _, stderr) = run(raven_with_secrets(folder.path(), &[command, "--listen", "127.0.0.1:0"]));
        assert_eq!(code, 1, "{command}");
        assert!(stderr.contains("raven.lock"), "{stderr}");
    }
    let (code, stdout, stderr) = run(raven_with_secrets(folder.path(), &["doctor"]));
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("one server runs"), "{stdout}");
    assert_eq!(run(raven_with_secrets(folder.path(), &["tenants", "list"])).0, 0);
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
}

#[test]
fn a_server_killed_outright_leaves_nothing_that_stops_the_next() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    server.serve_address();
    server.signal("KILL");
    server.end();
    let mut next = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let address = next.serve_address();
    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
}

#[test]
fn a_client_that_keeps_its_connection_does_not_hold_the_stop_back() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let mut kept = TcpStream::connect(server.serve_address()).unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: raven\r\n\r\n").unwrap();
    assert!(kept.read(&mut [0; 4096]).unwrap() > 0);
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
    assert!(!server.seen.contains("are cut"), "{}", server.seen);
    drop(kept);
}

#[test]
fn another_master_key_is_refused() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    server.serve_address();
    server.signal("TERM");
    assert_eq!(server.end(), 0);
    let mut other = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    other.env("RAVEN_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let (code, _, stderr) = run(other);
    assert_eq!(code, 1);
    assert!(stderr.contains("master key"), "{stderr}");
}

#[test]
fn a_worker_alone_answers_health_and_no_api() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--only", "worker"]));
    let address = server.serve_address();
    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
    assert_eq!(call(&address, "GET", "/v1/openapi.json", &[], "").0, 404);
}

/// An empty PostgreSQL database, dropped with its guard.
struct EmptyDatabase {
    runtime: tokio::runtime::Runtime,
    admin: tokio_postgres::Client,
    name: String,
    url: String,
}

impl EmptyDatabase {
    fn create() -> Self {
        #[expect(clippy::disallowed_methods, reason = "tests are told by the environment where PostgreSQL is")]
        let cluster = std::env::var(URL_VARIABLE)
            .unwrap_or_else(|_| panic!("{URL_VARIABLE} is not set: run ./scripts/test, or eval \"$(scripts/postgres start)\" first"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (admin, name) = runtime.block_on(async {
            let (admin, connection) = tokio_postgres::connect(&cluster, NoTls).await.unwrap();
            tokio::spawn(connection);
            let name: String =
                admin.query_one("SELECT 'raven_empty_' || replace(gen_random_uuid()::text, '-', '')", &[]).await.unwrap().get(0);
            admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
            (admin, name)
        });
        let url = format!("{}/{name}", cluster.rsplit_once('/').unwrap().0);
        Self { runtime, admin, name, url }
    }
}

impl Drop for EmptyDatabase {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.admin.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)));
    }
}

#[test]
fn an_unmigrated_postgresql_is_refused_until_it_is_migrated() {
    let (folder, database) = (folder(), EmptyDatabase::create());
    let on_postgres = |arguments: &[&str]| {
        let mut command = raven_with_secrets(folder.path(), arguments);
        command.env("RAVEN_DATABASE_URL", &database.url);
        command
    };
    let (code, _, stderr) = run(on_postgres(&["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("raven migrate"), "{stderr}");
    let (code, stdout, _) = run(on_postgres(&["doctor"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("raven migrate"), "{stdout}");

    let (code, stdout, stderr) = run(on_postgres(&["migrate"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("from step 0"), "{stdout}");
    let (code, stdout, _) = run(on_postgres(&["migrate"]));
    assert_eq!(code, 0);
    assert!(stdout.contains("up to date"), "{stdout}");

    // Two nodes beside each other, in the same folder.
    let mut first = Running::start(on_postgres(&["serve", "--listen", "127.0.0.1:0"]));
    let address = first.serve_address();
    let mut second = Running::start(on_postgres(&["serve", "--listen", "127.0.0.1:0"]));
    second.serve_address();
    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
    let (code, stdout, stderr) = run(on_postgres(&["doctor"]));
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("2 servers run"), "{stdout}");
    for server in [&mut first, &mut second] {
        server.signal("TERM");
        assert_eq!(server.end(), 0, "{}", server.seen);
    }
}

#[test]
fn serve_can_migrate_postgresql_itself() {
    let (folder, database) = (folder(), EmptyDatabase::create());
    let mut command = raven_with_secrets(folder.path(), &["serve", "--migrate", "--listen", "127.0.0.1:0"]);
    command.env("RAVEN_DATABASE_URL", &database.url);
    let mut server = Running::start(command);
    let address = server.serve_address();
    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
}

#[test]
fn a_database_that_is_not_there_is_told_without_its_password() {
    let folder = folder();
    let mut command = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command.env("RAVEN_DATABASE_URL", "postgres://raven:hush-hush@127.0.0.1:1/raven");
    let (code, _, stderr) = run(command);
    assert_eq!(code, 1);
    assert!(stderr.contains("database") && !stderr.contains("hush-hush"), "{stderr}");
}
