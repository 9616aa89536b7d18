//! The official SDKs against the simulators: whoever satisfies them speaks the provider's language.

use std::{path::PathBuf, process::Command};

use raven_testkit::simulators::{AfricasTalking, Behaviour, Twilio};
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a script with the SDKs' Python and reads the JSON it prints.
async fn seen_by(script: &'static str, base_url: String) -> Value {
    let python = root().join("target/sdk-venv/bin/python");
    assert!(python.exists(), "target/sdk-venv with the providers' SDKs is missing: run ./scripts/test, or ./scripts/sdk-venv alone");
    let run = move || Command::new(python).arg(root().join("tests/sdk").join(script)).arg(base_url).output();
    let output = tokio::task::spawn_blocking(run).await.expect("it does not panic").expect("python runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn africas_talkings_own_sdk_is_satisfied() {
    let sim = AfricasTalking::start().await;
    sim.require("atsk_good");
    sim.script_for("+254711000406", Behaviour::Refuse(406));
    sim.script_for("+254711000429", Behaviour::RateLimited { retry_after: Some(1) });
    sim.script_for("+254711000500", Behaviour::ServerError);
    let seen = seen_by("africas_talking.py", sim.base_url()).await;

    let one = &seen["one"]["SMSMessageData"];
    assert_eq!(one["Message"], "Sent to 1/1 Total Cost: KES 0.8000");
    let recipient = &one["Recipients"][0];
    assert_eq!(
        (&recipient["statusCode"], &recipient["status"], &recipient["cost"], &recipient["number"]),
        (&json!(101), &json!("Success"), &json!("KES 0.8000"), &json!("+254711000000"))
    );
    let received = sim.received();
    assert_eq!(received[0].accepted.as_deref(), recipient["messageId"].as_str());
    assert_eq!(
        (received[0].text.as_str(), received[0].sender.as_deref(), received[0].auth.as_str()),
        ("Habari ✓ & karibu", Some("ACME"), "atsk_good")
    );
    assert_eq!(seen["two"]["SMSMessageData"]["Recipients"].as_array().map(Vec::len), Some(2));
    assert_eq!((received[1].recipient.as_str(), received[2].recipient.as_str()), ("+254711000001", "+254711000002"));
    assert_eq!(seen["bad_sender"], json!({"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}));
    let refused = &seen["refused"]["SMSMessageData"]["Recipients"][0];
    assert_eq!(
        (&refused["statusCode"], &refused["status"], &refused["messageId"], &refused["cost"]),
        (&json!(406), &json!("UserInBlacklist"), &json!("None"), &json!("0"))
    );
    assert_eq!(seen["account"]["UserData"]["balance"], "KES 1785.50");
    assert_eq!(seen["throttled"], "Too many requests");
    assert!(seen["broken"].as_str().is_some_and(|text| text.contains("Internal Server Error")));
    assert_eq!(seen["unauthorized"], "The supplied authentication is invalid");
    // One, two and two more, the refused one, the throttled and the broken; not the bad sender's, not the stranger's.
    assert_eq!(received.len(), 6);
    assert_eq!(received.iter().filter(|m| m.accepted.is_some()).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twilios_own_sdk_is_satisfied() {
    let sim = Twilio::start().await;
    sim.require("AC00000000000000000000000000000001:good");
    sim.script_for("+254711000429", Behaviour::RateLimited { retry_after: None });
    let seen = seen_by("twilio_messages.py", sim.base_url()).await;

    let sent = &seen["sent"];
    let sid = sent["sid"].as_str().expect("a sid");
    assert!(sid.len() == 34 && sid.starts_with("SM"));
    assert_eq!(
        (&sent["status"], &sent["num_segments"], &sent["price"], &sent["price_unit"]),
        (&json!("queued"), &json!("1"), &Value::Null, &json!("USD"))
    );
    assert_eq!(
        (&sent["body"], &sent["from_"], &sent["to"]),
        (&json!("Habari ✓ & karibu"), &json!("+15005550006"), &json!("+254711000000"))
    );
    assert_eq!((&seen["fetched"]["sid"], &seen["fetched"]["status"]), (&sent["sid"], &json!("sent")));
    let service = &seen["service"];
    assert_eq!((&service["status"], &service["num_segments"], &service["from_"]), (&json!("accepted"), &json!("0"), &Value::Null));
    assert_eq!(service["messaging_service_sid"], "MG00000000000000000000000000000002");
    assert_eq!(seen["account"], "active");
    for (name, status, code) in [
        ("invalid", 400, 21211),
        ("opted_out", 400, 21610),
        ("no_sender", 400, 21603),
        ("too_long", 400, 21617),
        ("throttled", 429, 20429),
        ("unknown", 404, 20404),
        ("unauthorized", 401, 20003),
    ] {
        assert_eq!((&seen[name]["status"], &seen[name]["code"]), (&json!(status), &json!(code)), "{name}: {}", seen[name]);
    }
    let received = sim.received();
    assert_eq!(received[0].accepted.as_deref(), Some(sid));
    assert_eq!((received[0].text.as_str(), received[0].auth.as_str()), ("Habari ✓ & karibu", "AC00000000000000000000000000000001:good"));
    assert_eq!(received.iter().filter(|m| m.accepted.is_some()).count(), 2);
}
