//! Callbacks of providers, over the real binary: signed by a provider's own SDK, and read again by an operator's command.

use std::{path::PathBuf, process::Command, time::Duration};

use raven_testkit::simulators::Twilio;
use serde_json::{Value, json};

use crate::support::{Running, call, folder, raven_with_secrets, run};

const PUBLIC: &str = "https://raven.example";
const TOKEN: &str = "2f8c4d1b9e7a60530f1e2d3c4b5a6978";
const ACCOUNT: &str = "AC00000000000000000000000000000001";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Calls back with the SDK's signature; the status and the code of each of its three requests.
fn called_back(url: &str, address: &str, fields: &Value) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/sdk-venv/bin/python");
    assert!(python.exists(), "target/sdk-venv with the providers' SDKs is missing: run ./scripts/test, or ./scripts/sdk-venv alone");
    let script = root.join("tests/sdk/twilio_callback.py");
    let output = Command::new(python).arg(script).args([url, address, TOKEN, &fields.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn twilios_own_signature_is_taken_and_no_other() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sim = runtime.block_on(Twilio::start());
    let folder = folder();
    let mut serve = raven_with_secrets(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    serve.env("RAVEN_PUBLIC_URL", PUBLIC).env("RAVEN_PROVIDER_TWILIO_BASE_URL", sim.base_url());
    let mut server = Running::start(serve);
    let address = server.serve_address();
    let command = |arguments: &[&str]| {
        let (code, stdout, stderr) = run(raven_with_secrets(folder.path(), arguments));
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    };
    command(&["tenants", "create", "--name", "Acme", "--owner-email", "ada@example.com"]);
    let bearer = format!("Bearer {}", command(&["token", "--email", "ada@example.com"]).trim());
    let admin = [("authorization", bearer.as_str()), ("x-tenant-slug", "acme"), ("content-type", "application/json")];
    let config = json!({ "provider": "twilio", "label": "SMS", "publicConfig": { "account_sid": ACCOUNT, "from": "+15005550006" },
        "secretConfig": { "auth_token": TOKEN } });
    let (status, made) = call(&address, "POST", "/v1/admin/providers", &admin, &config.to_string());
    assert_eq!(status, 201, "{made}");
    let key = command(&["keys", "create", "--tenant", "acme", "--name", "Orders"]);
    let headers = [("x-raven-key", key.trim()), ("content-type", "application/json")];
    let (status, sent) = call(&address, "POST", "/v1/messages", &headers, r#"{"channel":"sms","to":"+254722000000","body":"Hi"}"#);
    assert_eq!(status, 202, "{sent}");
    let path = format!("/v1/messages/{}", sent["id"].as_str().unwrap());
    let until = |wanted: &str| {
        for _ in 0..600 {
            let message = call(&address, "GET", &path, &headers, "").1;
            if message["status"] == wanted {
                return message;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the message never becomes {wanted}")
    };
    let sid = until("sent")["providerMessageId"].as_str().unwrap().to_owned();

    // The URL travels with the message, and names it.
    let received = sim.received();
    let url = received[0].callback_url.clone().unwrap();
    assert_eq!(url, format!("{}?message={}", made["callbackUrl"].as_str().unwrap(), sent["id"].as_str().unwrap()));
    let fields = json!({ "MessageSid": sid, "SmsSid": sid, "MessageStatus": "delivered", "SmsStatus": "delivered",
        "To": "+254722000000", "From": "+15005550006", "AccountSid": ACCOUNT, "ApiVersion": "2010-04-01" });
    let expected = json!([[401, "unproven_callback"], [401, "unproven_callback"], [200, ""]]);
    assert_eq!(called_back(&url, &address, &fields), expected);
    assert_eq!(until("delivered")["events"].as_array().map(Vec::len), Some(4));

    // STOP by Twilio's own words, to the config's URL.
    let stop = json!({ "MessageSid": "SM1", "SmsStatus": "received", "Body": "Ondoka", "OptOutType": "STOP", "From": "+254722000000",
        "To": "+15005550006", "NumMedia": "0" });
    assert_eq!(called_back(made["callbackUrl"].as_str().unwrap(), &address, &stop), expected);
    until("unsubscribed");
    assert_eq!(parsed(&command(&["callbacks", "replay", "--tenant", "acme", "--json"]))["replayed"], 0);
    assert_eq!(command(&["callbacks", "replay", "--all"]).trim(), "2 callbacks are read again.");
    server.signal("TERM");
    assert_eq!(server.end(), 0);
}
