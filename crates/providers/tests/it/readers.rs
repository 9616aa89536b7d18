//! Push as those read it whom it is for, by libraries that are not ours: browsers (`http_ece`), push services (`py_vapid`), Google
//! (its own `google-auth`) and Apple (`PyJWT`).

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use raven_core::{Channel, Timestamp, message::Content};
use raven_providers::{Bound, Cx, HttpCall, find};
use serde_json::{Value, json};

use crate::{bound, folder, json as file, outbound, recipient};

/// The browser's private key of RFC 8291, appendix A; its public one is in `recipient`.
const BROWSER: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";

fn call(id: &str) -> Box<dyn HttpCall> {
    let Bound::Http(call) = bound(find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
    call
}

fn settings(id: &str) -> Value {
    file(&folder(find(id).expect("it is in the catalog")).join("settings.json"))
}

/// What the script makes of it.
fn read(given: &Value) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/sdk-venv/bin/python");
    assert!(python.exists(), "target/sdk-venv is missing: run ./scripts/test, or ./scripts/sdk-venv alone");
    let mut command = Command::new(python);
    command.arg(root.join("tests/sdk/push.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python runs");
    child.stdin.take().expect("it was asked for").write_all(given.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[test]
fn browsers_and_push_services_can_read_what_is_sent() {
    let now = Timestamp::from_millis(1_777_631_098_114);
    let contents = [
        Content { body: Some("Your table is ready".into()), title: Some("Karibu ✓".into()), ..Content::default() },
        Content { data: [("order".to_owned(), "42 🎉".to_owned())].into(), badge: Some(3), ..Content::default() },
        Content { body: Some("x".repeat(3993 - 11).into()), ..Content::default() },
    ];
    let to = recipient(find("web_push").expect("it is in the catalog"));
    let auth = serde_json::from_str::<Value>(to).expect("JSON")["keys"]["auth"].clone();
    let browsers: Vec<_> = contents
        .iter()
        .map(|content| {
            let request = call("web_push").request(&outbound(Channel::Push, to, content), &Cx::default()).expect("it can be sent");
            let authorization = request.headers()["authorization"].to_str().expect("ASCII");
            json!({"body": URL_SAFE_NO_PAD.encode(request.body()), "authorization": authorization, "private_key": BROWSER, "auth": auth})
        })
        .collect();

    let account: Value = serde_json::from_str(settings("fcm")["secretConfig"]["service_account"].as_str().expect("a file")).expect("JSON");
    let request = call("fcm").token_request(now, &Cx::default()).expect("it wants one");
    let assertion = form_urlencoded::parse(request.body()).find(|(name, _)| name == "assertion").map(|(_, value)| value.into_owned());
    let device = "8a0c5e1f2b3d4c6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6";
    let request = call("apns").request(&outbound(Channel::Push, device, &contents[0]), &Cx::default()).expect("it can be sent");
    let token = request.headers()["authorization"].to_str().expect("ASCII").strip_prefix("bearer ").expect("a bearer token");
    let audience = "https://oauth2.googleapis.com/token";
    let seen = read(&json!({
        "browsers": browsers,
        "google": {"assertion": assertion, "private_key": account["private_key"], "audience": audience},
        "apple": {"token": token, "private_key": settings("apns")["secretConfig"]["private_key"]},
    }));

    let plain = [
        json!({"title": "Karibu ✓", "body": "Your table is ready"}),
        json!({"data": {"order": "42 🎉"}, "badge": 3}),
        json!({"body": contents[2].body}),
    ];
    for (browser, plain) in seen["browsers"].as_array().expect("browsers").iter().zip(plain) {
        assert_eq!(browser["plain"], plain);
        assert_eq!((&browser["vapid"], &browser["changed"]), (&json!(true), &json!(false)));
        let claims = &browser["claims"];
        assert_eq!(
            (&claims["aud"], &claims["sub"]),
            (&json!("https://updates.push.services.mozilla.com"), &json!("mailto:ops@example.com"))
        );
        // Push services take at most a day.
        let lasts = claims["exp"].as_i64().expect("seconds") - now.seconds();
        assert!((3600..=24 * 3600).contains(&lasts), "{lasts}");
    }
    let google = &seen["google"];
    assert_eq!((&google["head"]["kid"], &google["claims"]["iss"]), (&account["private_key_id"], &account["client_email"]));
    let (iat, exp) = (google["claims"]["iat"].as_i64(), google["claims"]["exp"].as_i64());
    assert_eq!((iat, exp), (Some(now.seconds()), Some(now.seconds() + 3600)));
    assert_eq!(google["claims"]["scope"], "https://www.googleapis.com/auth/firebase.messaging");
    let apple = &seen["apple"];
    assert_eq!(
        (&apple["head"]["kid"], &apple["head"]["alg"], &apple["claims"]["iss"]),
        (&json!("F6G7H8J9K0"), &json!("ES256"), &json!("A1B2C3D4E5"))
    );
}
