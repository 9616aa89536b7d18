//! `raven keys`, `raven tenants`, `raven doctor` on data that a server uses.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{Running, call, folder, raven_with_secrets, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_tenant_and_a_key_made_by_commands_work_at_once() {
    let folder = folder();
    let command = |arguments: &[&str]| run(raven_with_secrets(folder.path(), arguments));
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let address = server.serve_address();

    let (code, stdout, stderr) =
        command(&["tenants", "create", "--name", "Acme & Co.", "--owner-email", "ada@example.com", "--country-code", "KE", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!((json(&stdout)["slug"].as_str(), json(&stdout)["status"].as_str()), (Some("acme-co"), Some("active")));
    let (_, again, _) = command(&["tenants", "create", "--name", "Acme & Co.", "--owner-email", "ada@example.com", "--json"]);
    assert_eq!(json(&again)["slug"], "acme-co-2");
    let (code, _, stderr) = command(&["tenants", "create", "--name", "Another", "--slug", "acme-co", "--owner-email", "ada@example.com"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("taken"), "{stderr}");
    let (_, listed, _) = command(&["tenants", "list", "--json"]);
    assert_eq!(json(&listed).as_array().unwrap().len(), 2);

    let (_, token, _) = command(&["token", "--email", "ada@example.com"]);
    let bearer = format!("Bearer {}", token.trim());
    let (status, me) = call(&address, "GET", "/v1/admin/me", &[("authorization", &bearer)], "");
    assert_eq!((status, me["memberships"].as_array().map(Vec::len)), (200, Some(2)));

    let (code, key, stderr) = command(&["keys", "create", "--tenant", "acme-co", "--name", "Orders", "--environment", "test"]);
    assert_eq!(code, 0, "{stderr}");
    let key = key.trim();
    let body = r#"{"channel":"sms","to":"+254722000000","body":"Hi"}"#;
    let send = |key: &str| call(&address, "POST", "/v1/messages", &[("x-raven-key", key), ("content-type", "application/json")], body).0;
    assert_eq!(send(key), 202);

    let (_, listed, _) = command(&["keys", "list", "--tenant", "acme-co", "--json"]);
    assert_eq!(json(&listed)[0]["name"], "Orders");
    assert!(!listed.contains(key));
    let prefix = &key[..16];
    let (code, _, stderr) = command(&["keys", "revoke", prefix, "--tenant", "acme-co-2"]);
    assert_eq!(code, 1, "another tenant's key: {stderr}");
    assert_eq!(command(&["keys", "revoke", prefix, "--tenant", "acme-co"]).0, 0);
    assert_eq!(command(&["keys", "revoke", prefix, "--tenant", "acme-co"]).0, 1);
    assert_eq!(send(key), 401);
    assert_eq!(command(&["keys", "list", "--tenant", "nobody"]).0, 1);

    let (code, said, stderr) = command(&["tenants", "set-retry-unknown", "acme-co", "true"]);
    assert!(code == 0 && said.contains("are sent again"), "{said}{stderr}");
    assert_eq!(command(&["tenants", "set-retry-unknown", "nobody", "true"]).0, 1);
    assert_eq!(command(&["tenants", "set-retry-unknown", "acme-co", "perhaps"]).0, 2);
}

#[test]
fn a_tenants_plan_and_state_changed_by_commands_count_within_a_second() {
    let folder = folder();
    fs::write(folder.path().join("raven.toml"), "[plans.pro]\nkey_rpm = 77\n").unwrap();
    let command = |arguments: &[&str]| run(raven_with_secrets(folder.path(), arguments));
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let address = server.serve_address();
    assert_eq!(command(&["tenants", "create", "--name", "Acme", "--owner-email", "ada@example.com"]).0, 0);
    let key = command(&["keys", "create", "--tenant", "acme", "--name", "k", "--environment", "test"]).1;
    let status = || call(&address, "GET", "/v1/messages", &[("x-raven-key", key.trim())], "").0;
    // Far more looks than fit into the second that it takes.
    let becomes = |wanted: u16| assert!((0..100_000).any(|_| status() == wanted), "never {wanted}");
    becomes(200);
    let (code, said, stderr) = command(&["tenants", "set-plan", "acme", "pro", "--json"]);
    assert_eq!((code, json(&said)["plan"].as_str()), (0, Some("pro")), "{stderr}");
    assert_eq!(command(&["tenants", "set-plan", "acme", "gold"]).0, 2);
    assert_eq!(command(&["tenants", "suspend", "acme"]).0, 0);
    becomes(403);
    assert_eq!(command(&["tenants", "suspend", "acme"]).0, 1, "it is suspended already");
    assert_eq!(command(&["tenants", "reactivate", "acme"]).0, 0);
    becomes(200);
    assert_eq!(command(&["tenants", "archive", "acme"]).0, 0);
    becomes(403);
    let (code, said, _) = command(&["tenants", "restore", "acme", "--json"]);
    assert_eq!((code, json(&said)["status"].as_str()), (0, Some("active")));
    becomes(200);
    assert!(command(&["tenants", "show", "acme"]).1.contains("pro"));
    assert_eq!(command(&["tenants", "restore", "nobody"]).0, 1);
}

#[test]
fn another_master_key_makes_no_tenant_and_no_key() {
    let folder = folder();
    let mut server = Running::start(raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]));
    server.serve_address();
    let with_other_key = |arguments: &[&str]| {
        let mut command = raven_with_secrets(folder.path(), arguments);
        command.env("RAVEN_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        run(command)
    };
    let (code, _, stderr) = with_other_key(&["tenants", "create", "--name", "Acme", "--owner-email", "ada@example.com"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("master key"), "{stderr}");
    let (code, stdout, _) = with_other_key(&["doctor"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("problem  master key"), "{stdout}");
    let (_, listed, _) = run(raven_with_secrets(folder.path(), &["tenants", "list", "--json"]));
    assert_eq!(json(&listed), Value::Array(Vec::new()));
}

#[test]
fn doctor_finds_files_that_are_open_to_others() {
    let folder = folder();
    assert_eq!(run(raven_with_secrets(folder.path(), &["migrate"])).0, 0);
    let (code, stdout, _) = run(raven_with_secrets(folder.path(), &["doctor"]));
    assert_eq!(code, 0, "{stdout}");
    fs::set_permissions(folder.path().join("raven-data"), Permissions::from_mode(0o755)).unwrap();
    let (code, stdout, _) = run(raven_with_secrets(folder.path(), &["doctor"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("chmod 700 ./raven-data"), "{stdout}");
}

#[test]
fn a_minted_token_names_the_issuer_and_the_audience_that_the_server_asks_for() {
    let folder = folder();
    let strict = |arguments: &[&str]| {
        let mut command = raven_with_secrets(folder.path(), arguments);
        command.env("RAVEN_JWT_ISSUER", "https://id.example").env("RAVEN_JWT_AUDIENCE", "raven");
        command
    };
    let (code, strict_token, stderr) = run(strict(&["token"]));
    assert_eq!(code, 0, "{stderr}");
    let (_, loose_token, _) = run(raven_with_secrets(folder.path(), &["token"]));
    let mut server = Running::start(strict(&["serve", "--listen", "127.0.0.1:0"]));
    let address = server.serve_address();
    for (token, status) in [(strict_token, 200), (loose_token, 401)] {
        let bearer = format!("Bearer {}", token.trim());
        assert_eq!(call(&address, "GET", "/v1/admin/me", &[("authorization", &bearer)], "").0, status);
    }
}
