//! The OpenAPI document, judged from outside: by the official validator, and by schemathesis, which makes requests of it, good
//! and bad ones, and holds a real server's answers against it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{Running, call, folder, raven, raven_with_secrets, run};

/// Operations that no run makes: they would end it, or change what the next ones are. Tests of the API have them.
const LEFT_OUT: &[(&str, &str)] = &[
    ("postAdminTenantSuspend", "nothing could be changed any more"),
    ("postAdminTenantArchive", "nothing could be done any more"),
    ("postAdminTenantTransferOwnership", "the human of the run would be the owner no longer"),
];

/// What is not checked.
const UNCHECKED: &[(&str, &str)] = &[(
    "positive_data_acceptance",
    "some rules are beyond a schema: what belongs to a channel, a provider's own settings, cursors that we made ourselves",
)];

/// Requests made up for an operation in each phase. What is made does not change from run to run.
const EXAMPLES: &str = "12";

fn python(program: &str) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/sdk-venv/bin").join(program);
    assert!(path.exists(), "{} is missing: run ./scripts/test, or ./scripts/sdk-venv alone", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", root.join("tests/schemathesis"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A server without limits, and a tenant with all kinds of callers.
struct Installation {
    _server: Running,
    address: String,
    test_key: String,
    admin_key: String,
    token: String,
}

impl Installation {
    fn new(folder: &Path) -> Self {
        let command = |arguments: &[&str]| {
            let mut command = raven_with_secrets(folder, arguments);
            command.env("RAVEN_DEFAULT_PLAN", "unlimited");
            command
        };
        let mut server = Running::start(command(&["serve", "--listen", "127.0.0.1:0"]));
        let address = server.serve_address();
        let made = |arguments: &[&str]| {
            let (code, stdout, stderr) = run(command(arguments));
            assert_eq!(code, 0, "{arguments:?}: {stderr}");
            stdout.trim().to_owned()
        };
        made(&["tenants", "create", "--name", "Acme", "--owner-email", "ada@example.com"]);
        Self {
            _server: server,
            address,
            test_key: made(&["keys", "create", "--tenant", "acme", "--name", "Orders", "--environment", "test"]),
            admin_key: made(&["keys", "create", "--tenant", "acme", "--name", "Terraform", "--scopes", "admin:*"]),
            token: made(&["token", "--email", "ada@example.com"]),
        }
    }

    /// Runs schemathesis against a part of the API, and prints its report where it finds something.
    fn hold_to_the_document(&self, folder: &Path, headers: &[String], selection: &[&str]) {
        let mut command = python("schemathesis");
        command.current_dir(folder).arg("run").arg(format!("http://{}/v1/openapi.json", self.address)).args(selection);
        for header in headers {
            command.args(["--header", header]);
        }
        for (operation, _) in LEFT_OUT {
            command.args(["--exclude-operation-id", operation]);
        }
        for (check, _) in UNCHECKED {
            command.args(["--exclude-checks", check]);
        }
        // Credentials are ours: a made-up one beside them would only ask which of the two counts.
        command.args(["--checks", "all", "--generation-deterministic", "--generation-with-security-parameters", "false"]);
        command.args(["--max-examples", EXAMPLES, "--request-timeout", "30", "--continue-on-failure", "--no-color"]);
        let (code, stdout, stderr) = run(command);
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
}

#[test]
fn the_document_is_a_valid_one() {
    let folder = folder();
    let (code, document, stderr) = run(raven(folder.path(), &["openapi"]));
    assert_eq!(code, 0, "{stderr}");
    let path = folder.path().join("openapi.json");
    fs::write(&path, document).unwrap();
    let mut command = python("openapi-spec-validator");
    command.args(["--schema", "3.1"]).arg(&path);
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, 0, "{stdout}{stderr}");
}

#[test]
fn a_real_server_does_what_the_document_says() {
    let folder = folder();
    let installation = Installation::new(folder.path());
    let tenant = "X-Tenant-Slug: acme".to_owned();
    let admin_key = format!("X-Raven-Key: {}", installation.admin_key);
    let bearer = format!("Bearer {}", installation.token);
    let authorization = format!("Authorization: {bearer}");

    let key = format!("X-Raven-Key: {}", installation.test_key);
    installation.hold_to_the_document(folder.path(), &[key], &["--exclude-path-regex", "^/v1/admin/"]);

    // What only humans may do answers a key with 401, and it must not delete itself.
    let for_keys = ["--include-path-regex", "^/v1/admin/", "--exclude-path-regex", "^/v1/admin/(me|tenants|invitations)"];
    let lasting = ["--exclude-operation-id", "deleteAdminApiKeysById"];
    installation.hold_to_the_document(folder.path(), &[admin_key, tenant.clone()], &[&for_keys[..], &lasting].concat());

    installation.hold_to_the_document(folder.path(), &[authorization, tenant], &["--include-path-regex", "^/v1/admin/"]);

    // The requests were good enough to do something.
    let headers = [("authorization", bearer.as_str()), ("x-tenant-slug", "acme")];
    let mut done = Vec::new();
    let mut path = "/v1/admin/audit-log?limit=200".to_owned();
    loop {
        let (status, page) = call(&installation.address, "GET", &path, &headers, "");
        assert_eq!(status, 200, "{page}");
        done.extend(page["data"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap().to_owned()));
        let Value::String(cursor) = &page["nextCursor"] else { break };
        path = format!("/v1/admin/audit-log?limit=200&cursor={cursor}");
    }
    for action in ["api_key.create", "invitation.create", "message.send", "provider_config.create", "tenant.update"] {
        assert!(done.iter().any(|other| other == action), "no request led to {action}");
    }
    let (_, sent) = call(&installation.address, "GET", "/v1/admin/messages?environment=test&source=api", &headers, "");
    assert!(sent["data"].as_array().is_some_and(|messages| !messages.is_empty()), "no message was sent with the key");
}
