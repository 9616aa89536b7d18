//! `raven quickstart`.

use std::{fs, net::TcpListener};

use crate::support::{Running, call, folder, mode, raven, run};

#[test]
fn it_delivers_a_first_message_goes_on_serving_and_stops_in_order() {
    let folder = folder();
    let mut server = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    let address = server.quickstart_address();
    server.line("Ctrl-C stops the server.");
    for part in ["Prepared ./raven-data", "queued", "sending", "sent", "delivered", "/v1/openapi.json", " token", "X-Raven-Key: rk_test_"] {
        assert!(server.seen.contains(part), "{part} is missing in\n{}", server.seen);
    }
    assert!(!server.seen.contains('\x1b'), "no colours where nobody looks");

    assert_eq!(call(&address, "GET", "/readyz", &[], "").0, 200);
    let test_key = server.seen.lines().find_map(|l| l.trim().strip_prefix("test key")).unwrap().trim().to_owned();
    let body = r#"{"channel":"sms","to":"+254722000000","body":"Hi"}"#;
    let (status, sent) = call(&address, "POST", "/v1/messages", &[("x-raven-key", &test_key), ("content-type", "application/json")], body);
    assert_eq!((status, sent["status"].as_str()), (202, Some("queued")));

    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
}

#[test]
fn a_second_run_uses_what_is_there() {
    let folder = folder();
    let keys = |server: &Running| -> Vec<String> {
        server.seen.lines().filter(|l| l.trim().starts_with("live key") || l.trim().starts_with("test key")).map(str::to_owned).collect()
    };
    let mut first = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    first.line("Ctrl-C");
    let secrets = fs::read(folder.path().join("raven-data/secrets.toml")).unwrap();
    first.signal("INT");
    assert_eq!(first.end(), 0);

    let mut second = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    second.line("Ctrl-C");
    assert!(second.seen.contains("Found what an earlier run made in ./raven-data"), "{}", second.seen);
    assert_eq!(keys(&first).len(), 2);
    assert_eq!(keys(&first), keys(&second));
    assert_eq!(fs::read(folder.path().join("raven-data/secrets.toml")).unwrap(), secrets);
    second.signal("INT");
    assert_eq!(second.end(), 0);
}

#[test]
fn secrets_are_their_owners_alone_and_never_printed() {
    let folder = folder();
    let mut server = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    server.line("Ctrl-C");
    let data = folder.path().join("raven-data");
    assert_eq!(mode(&data), 0o700);
    for file in ["secrets.toml", "quickstart.toml", "raven.db", "node-id", "raven.lock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    server.signal("TERM");
    server.end();
    let secrets = fs::read_to_string(data.join("secrets.toml")).unwrap();
    let values: Vec<&str> = secrets.lines().filter_map(|l| l.split('"').nth(1)).collect();
    assert_eq!(values.len(), 2);
    for value in values {
        assert!(!server.seen.contains(value));
    }
}

#[test]
fn a_token_opens_the_demo_tenant() {
    let folder = folder();
    let mut server = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    let address = server.quickstart_address();
    let (code, token, stderr) = run(raven(folder.path(), &["token"]));
    assert_eq!((code, token.lines().count(), stderr.as_str()), (0, 1, ""));
    let (status, me) = call(&address, "GET", "/v1/admin/me", &[("authorization", &format!("Bearer {}", token.trim()))], "");
    assert_eq!(
        (status, me["user"]["email"].as_str(), me["memberships"][0]["tenantSlug"].as_str()),
        (200, Some("demo@example.com"), Some("demo"))
    );

    let user = "0b0f8a5e-3f7f-4a3e-9d4d-0d6a7c1b2e3f";
    let (code, token, _) =
        run(raven(folder.path(), &["token", "--email", "ada@example.com", "--name", "Ada", "--user", user, "--expires-in", "5m"]));
    assert_eq!(code, 0);
    let (status, me) = call(&address, "GET", "/v1/admin/me", &[("authorization", &format!("Bearer {}", token.trim()))], "");
    assert_eq!((status, me["user"]["id"].as_str(), me["user"]["name"].as_str()), (200, Some(user), Some("Ada")));
    assert_eq!(me["memberships"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_taken_port_is_told_with_the_way_out() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(raven(folder.path(), &["quickstart", "--listen", &address]));
    assert_eq!(code, 1);
    assert!(stderr.contains(&address) && stderr.contains("--listen"), "{stderr}");
}

#[test]
fn a_lost_master_key_is_told_and_not_replaced() {
    let folder = folder();
    let mut server = Running::start(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    server.line("Ctrl-C");
    server.signal("TERM");
    server.end();
    let secrets = folder.path().join("raven-data/secrets.toml");
    fs::remove_file(&secrets).unwrap();
    let (code, _, stderr) = run(raven(folder.path(), &["quickstart", "--listen", "127.0.0.1:0"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("RAVEN_MASTER_KEY"), "{stderr}");
    assert!(!secrets.exists());
}
