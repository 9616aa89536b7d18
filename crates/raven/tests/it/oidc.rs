//! Single sign-on with a real OpenID Connect provider (`tests/oidc`), whose tokens a real server judges.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{Running, call, folder, raven_with_secrets, run};

/// A provider in a process of its own.
struct Provider {
    _process: Running,
    issuer: String,
    control: String,
}

impl Provider {
    fn start() -> Self {
        let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/oidc");
        assert!(
            home.join("node_modules/oidc-provider").exists(),
            "tests/oidc/node_modules with the provider is missing: run ./scripts/test, or ./scripts/node-modules alone"
        );
        let mut command = Command::new("node");
        command.arg(home.join("provider.mjs")).stdin(Stdio::null());
        let mut process = Running::start(command);
        let line = process.line("issuer=");
        let value = |name: &str| line.split_whitespace().find_map(|part| part.strip_prefix(name)).unwrap().to_owned();
        Self { issuer: value("issuer="), control: value("control="), _process: process }
    }

    /// The tokens of a human who signs in: the ID token, which is RS256, and an access token.
    fn sign_in(&self, alg: &str, audience: &str, login: &str) -> (String, String) {
        let (status, tokens) = call(&self.control, "GET", &format!("/tokens?alg={alg}&audience={audience}&login={login}"), &[], "");
        assert_eq!(status, 200, "{tokens}");
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        (text("idToken"), text("accessToken"))
    }

    fn rotate(&self) {
        assert_eq!(call(&self.control, "POST", "/rotate", &[], "").0, 200);
    }

    /// A server that takes this provider's tokens.
    fn server(&self, folder: &Path) -> (Running, String) {
        let mut command = raven_with_secrets(folder, &["serve", "--listen", "127.0.0.1:0"]);
        command.env("RAVEN_OIDC_ISSUER", &self.issuer).env("RAVEN_OIDC_AUDIENCE", "raven").env("RAVEN_LOG", "debug");
        let mut server = Running::start(command);
        let address = server.serve_address();
        (server, address)
    }
}

fn me(address: &str, token: &str) -> (u16, Value) {
    call(address, "GET", "/v1/admin/me", &[("authorization", &format!("Bearer {token}"))], "")
}

#[test]
fn humans_of_a_real_provider_are_known_and_stay_so_when_its_keys_rotate() {
    let (provider, folder) = (Provider::start(), folder());
    let (mut server, address) = provider.server(folder.path());
    let (mut tokens, mut ids) = (Vec::new(), Vec::new());
    for round in ["before", "after"] {
        for alg in ["RS256", "ES256", "EdDSA"] {
            let (id_token, access_token) = provider.sign_in(alg, "raven", "ada");
            for token in [id_token, access_token] {
                let (status, body) = me(&address, &token);
                assert_eq!(status, 200, "{alg} {round}: {body}\n{}", server.seen);
                assert_eq!(body["user"]["email"], "ada@example.com");
                ids.push(body["user"]["id"].as_str().unwrap().to_owned());
                tokens.push(token);
            }
            let (_, foreign) = provider.sign_in(alg, "other", "ada");
            let (status, body) = me(&address, &foreign);
            assert_eq!((status, body["code"].as_str()), (401, Some("invalid_token")), "{alg} {round}");
            tokens.push(foreign);
        }
        if round == "before" {
            provider.rotate();
        }
    }
    assert!(ids.len() == 12 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // The keys before the rotation have been taken back.
    assert_eq!(me(&address, &tokens[0]).0, 401);
    // The shared secret works beside it, and the provider's word on a subject that is an id counts as it is.
    let (code, minted, stderr) = run(raven_with_secrets(folder.path(), &["token", "--email", "bob@example.com"]));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(me(&address, minted.trim()).0, 200);
    let user = "0b0f8a5e-3f7f-4a3e-9d4d-0d6a7c1b2e3f";
    let (_, token) = provider.sign_in("ES256", "raven", user);
    assert_eq!(me(&address, &token).1["user"]["id"], user);
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
    for token in tokens {
        let signature = token.rsplit_once('.').unwrap().1;
        assert!(!server.seen.contains(signature), "a token was logged");
    }
}

#[test]
fn a_server_starts_while_the_issuer_is_away_and_says_so() {
    let folder = folder();
    let mut command = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    // Port 9 is for discarding, and nobody discards there.
    command.env("RAVEN_OIDC_ISSUER", "http://127.0.0.1:9").env("RAVEN_OIDC_AUDIENCE", "raven");
    let mut server = Running::start(command);
    server.line("the issuer's keys can't be read");
    // A worker takes no requests, and asks nobody for keys.
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
    let mut command = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--only", "worker"]);
    command.env("RAVEN_OIDC_ISSUER", "http://127.0.0.1:9").env("RAVEN_OIDC_AUDIENCE", "raven");
    let mut server = Running::start(command);
    server.serve_address();
    server.signal("TERM");
    assert_eq!(server.end(), 0, "{}", server.seen);
    assert!(!server.seen.contains("issuer"), "{}", server.seen);
}
