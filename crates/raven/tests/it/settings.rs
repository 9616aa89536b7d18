//! Settings, as a start meets them.

use std::fs;

use crate::support::{folder, raven, raven_with_secrets, run};

#[test]
fn all_mistakes_are_told_at_once() {
    let folder = folder();
    fs::write(folder.path().join("raven.toml"), "listn = \"127.0.0.1:1\"\nlog_format = \"xml\"\n").unwrap();
    let mut command = raven(folder.path(), &["serve", "--only", "everything"]);
    command
        .env("RAVEN_LISTN", "x")
        .env("RAVEN_MASTER_KEY", "hush-hush")
        .env("RAVEN_PUBLIC_URL", "example.com")
        .env("RAVEN_PORT_80_TCP", "tcp://10.0.0.1:80");
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stdout.as_str()), (2, ""));
    for part in [
        "RAVEN_LISTN: no such setting; did you mean RAVEN_LISTEN?",
        "listn in raven.toml: no such setting; did you mean listen?",
        "log_format in raven.toml: must be text or json, not \"xml\"",
        "--only: must be api or worker, not \"everything\"",
        "RAVEN_MASTER_KEY: must be base64 of 32 bytes",
        "RAVEN_PUBLIC_URL: must be a URL",
        "RAVEN_JWT_SECRET: is required",
        "there are 7 mistakes",
    ] {
        assert!(stderr.contains(part), "{part} is missing in\n{stderr}");
    }
    assert!(!stderr.contains("hush-hush") && !stderr.contains("RAVEN_PORT"), "{stderr}");
}

#[test]
fn doctor_tells_mistakes_as_findings() {
    let folder = folder();
    let mut command = raven_with_secrets(folder.path(), &["doctor", "--json"]);
    command.env("RAVEN_LOG_FORMAT", "xml").env("RAVEN_NO_SUCH", "1");
    let (code, stdout, _) = run(command);
    assert_eq!(code, 1);
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["problems"], 2);
    assert_eq!(told["findings"][0]["check"], "settings");
}

#[test]
fn help_of_every_command_names_its_variables() {
    let folder = folder();
    for (command, variables) in [
        (
            &["serve"][..],
            &[
                "RAVEN_LISTEN",
                "RAVEN_DATA_DIR",
                "RAVEN_DATABASE_URL",
                "RAVEN_JWT_SECRET",
                "RAVEN_MASTER_KEY",
                "RAVEN_METRICS_TOKEN",
                "--migrate",
                "127.0.0.1:8080",
                "within",
            ][..],
        ),
        (&["quickstart"], &["RAVEN_LISTEN", "RAVEN_ALLOW_PRIVATE_NETWORKS", "RAVEN_ONLY", "RAVEN_LOG"]),
        (&["migrate"], &["RAVEN_DATABASE_URL", "RAVEN_DATABASE_DIRECT_URL", "RAVEN_CONFIG"]),
        (&["doctor"], &["RAVEN_DATA_DIR", "--json"]),
        (&["token"], &["--email", "--name", "--user", "--expires-in", "RAVEN_JWT_SECRET"]),
        (&["keys", "create"], &["--tenant", "--environment", "--scopes", "RAVEN_MASTER_KEY"]),
        (&["keys", "list"], &["--tenant", "--json"]),
        (&["keys", "revoke"], &["--tenant"]),
        (&["tenants", "create"], &["--name", "--slug", "--owner-email"]),
        (&["tenants", "list"], &["--json"]),
    ] {
        let (code, stdout, _) = run(raven(folder.path(), &[command, &["--help"]].concat()));
        assert_eq!(code, 0);
        for name in variables {
            assert!(stdout.contains(name), "{name} is missing in the help of {command:?}:\n{stdout}");
        }
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let folder = folder();
    for arguments in [
        &["nonsense"][..],
        &["serve", "--nonsense"],
        &["token", "--expires-in", "soon"],
        &["token", "--user", "ada"],
        &["tenants", "create", "--name", "x"],
        &[],
    ] {
        assert_eq!(run(raven(folder.path(), arguments)).0, 2, "{arguments:?}");
    }
}

#[test]
fn nothing_is_made_by_commands_that_only_look() {
    let folder = folder();
    for arguments in [&["tenants", "list"][..], &["keys", "list", "--tenant", "demo"], &["doctor"]] {
        assert_eq!(run(raven_with_secrets(folder.path(), arguments)).0, 1, "{arguments:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
