//! `raven doctor --invariants` beside a server that runs: what it finds, what it mends, and how it ends.

use std::process::Command;

use raven_testkit::database::postgres_store;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::support::{Running, call, folder, raven, raven_with_secrets, run};

const BODY: &str = r#"{"channel":"sms","to":"+254722000000","body":"Hi"}"#;

/// A server with a tenant, and a test key of it.
struct Installation {
    folder: tempfile::TempDir,
    database_url: Option<String>,
    server: Running,
    address: String,
    key: String,
}

impl Installation {
    fn new(database_url: Option<String>) -> Self {
        let folder = folder();
        let command = |arguments: &[&str]| on(raven_with_secrets(folder.path(), arguments), database_url.as_deref());
        let mut server = Running::start(command(&["serve", "--listen", "127.0.0.1:0"]));
        let address = server.serve_address();
        assert_eq!(run(command(&["tenants", "create", "--name", "Acme", "--owner-email", "ada@example.com"])).0, 0);
        let (code, key, stderr) = run(command(&["keys", "create", "--tenant", "acme", "--name", "k", "--environment", "test"]));
        assert_eq!(code, 0, "{stderr}");
        Self { folder, database_url, server, address, key: key.trim().to_owned() }
    }

    /// Has the sandbox deliver a message; its id.
    fn delivered(&self) -> String {
        let headers = [("x-raven-key", self.key.as_str()), ("content-type", "application/json")];
        let (status, message) = call(&self.address, "POST", "/v1/messages", &headers, BODY);
        assert_eq!(status, 202, "{message}");
        let id = message["id"].as_str().unwrap().to_owned();
        assert!((0..100_000).any(|_| self.message(&id)["status"] == "delivered"), "{}", self.message(&id));
        id
    }

    fn message(&self, id: &str) -> Value {
        call(&self.address, "GET", &format!("/v1/messages/{id}"), &[("x-raven-key", &self.key)], "").1
    }

    fn doctor(&self, arguments: &[&str]) -> (i32, String, String) {
        let arguments = [&["doctor", "--invariants"], arguments].concat();
        run(on(raven_with_secrets(self.folder.path(), &arguments), self.database_url.as_deref()))
    }

    /// The same as JSON.
    fn report(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, stdout, stderr) = self.doctor(&[&["--json"], arguments].concat());
        (code, serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}")))
    }

    fn end(mut self) {
        self.server.signal("TERM");
        assert_eq!(self.server.end(), 0, "{}", self.server.seen);
    }
}

fn on(mut command: Command, database_url: Option<&str>) -> Command {
    if let Some(url) = database_url {
        command.env("RAVEN_DATABASE_URL", url);
    }
    command
}

/// What a report says of a kind: found, mended, examples.
fn of<'r>(report: &'r Value, kind: &str) -> (u64, u64, &'r Value) {
    let found = report["kinds"].as_array().unwrap().iter().find(|k| k["kind"] == kind).unwrap();
    (found["found"].as_u64().unwrap(), found["mended"].as_u64().unwrap(), &found["examples"])
}

#[test]
fn a_healthy_installation_on_sqlite_is_looked_through_while_it_serves() {
    let installation = Installation::new(None);
    for _ in 0..3 {
        installation.delivered();
    }
    let (code, report) = installation.report(&[]);
    assert_eq!((code, &report["violations"], &report["checked"]["messages"]), (0, &json!(0), &json!(3)), "{report}");
    assert_eq!(report["kinds"].as_array().unwrap().len(), 10);
    let (code, stdout, stderr) = installation.doctor(&["--repair", "--since", "1h"]);
    assert!(code == 0 && stdout.contains("Nothing is wrong."), "{stdout}{stderr}");
    assert_eq!(installation.doctor(&["--since", "soon"]).0, 2);
    assert_eq!(run(raven_with_secrets(installation.folder.path(), &["doctor", "--repair"])).0, 2, "only with --invariants");
    assert_eq!(run(raven(installation.folder.path(), &["doctor", "--invariants"])).0, 2, "there is no master key");
    installation.end();
}

#[test]
fn damage_on_postgres_is_told_by_message_ids_and_mended_while_it_serves() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = runtime.block_on(postgres_store());
    let installation = Installation::new(Some(database.url.clone()));
    let damage = |sql: &str| {
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
            tokio::spawn(connection);
            assert!(client.execute(sql, &[]).await.unwrap() > 0, "{sql}");
        });
    };
    let first = installation.delivered();
    damage("UPDATE messages SET status = 20");
    damage("DELETE FROM events");
    installation.delivered();
    assert_eq!(installation.message(&first)["status"], "sending");

    let (code, report) = installation.report(&[]);
    assert_eq!((code, &report["violations"]), (1, &json!(1)), "{report}");
    assert_eq!(of(&report, "message_without_job"), (1, 0, &json!([first])));
    let (code, stdout, _) = installation.doctor(&[]);
    assert!(code == 1 && stdout.contains(&first) && stdout.contains("--repair"), "{stdout}");
    assert!(!stdout.contains("+254722000000"), "no person is named");

    let (code, report) = installation.report(&["--repair"]);
    assert_eq!((code, &report["mended"]), (0, &json!(1)), "{report}");
    assert_eq!(of(&report, "message_without_job"), (0, 1, &json!([])));
    let mended = installation.message(&first);
    assert_eq!(mended["status"], "sending");
    assert_eq!(mended["events"].as_array().unwrap().last().unwrap()["eventType"], "outcome_unknown", "{mended}");
    assert_eq!(installation.report(&[]).0, 0);

    damage("UPDATE usage_accepted SET messages = messages + 1");
    let (code, report) = installation.report(&["--repair"]);
    assert_eq!((code, of(&report, "usage_mismatch").0, &report["mended"]), (1, 1, &json!(0)), "what can't be mended stays a failure");
    assert!(of(&report, "usage_mismatch").2[0].as_str().unwrap().starts_with("tenant "));
    installation.end();
    let _inside = runtime.enter();
    drop(database);
}
