//! The SDKs of providers against the simulators whose wire format is a table: whoever satisfies them speaks the provider's
//! language, and `crates/http/tests/it/simulated.rs` holds our adapters to the same.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use raven_testkit::simulators::{Behaviour, Listed};
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What an SDK got for each recipient.
async fn seen_by(provider: &'static str, base_url: String, credentials: Value, recipients: Vec<String>) -> Vec<Value> {
    let python = root().join("target/sdk-venv/bin/python");
    assert!(python.exists(), "target/sdk-venv with the providers' SDKs is missing: run ./scripts/test, or ./scripts/sdk-venv alone");
    let run = move || {
        let mut command = Command::new(python);
        command.arg(root().join("tests/sdk/listed.py")).args([provider, &base_url, &credentials.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python runs");
        let mut input = child.stdin.take().expect("it was asked for");
        input.write_all(json!(recipients).to_string().as_bytes()).expect("it reads");
        drop(input);
        child.wait_with_output().expect("it ends")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("it does not panic");
    assert!(output.status.success(), "{provider}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{provider}: {e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// What the SDK must make of each answer: by the status where it tells one, and by words that the provider's answer has.
struct Expected {
    /// What the simulator sees of the credentials.
    credentials: &'static str,
    /// What the SDK is given.
    given: Value,
    recipients: [&'static str; 5],
    refusal: u32,
    /// Of a refused message, one to nobody, one too many, and one with wrong credentials.
    words: [&'static str; 4],
}

const ADDRESSES: [&str; 5] = ["ada@example.com", "grace@example.com", "ada@example..com", "busy@example.com", "ada@example.com"];
const NUMBERS: [&str; 5] = ["254722000000", "254722000001", "12", "254722000429", "254722000000"];
const DEVICES: [&str; 5] = [
    "dQw4w9WgXcQ:APA91bE-token_of_a_device",
    "dQw4w9WgXcQ:APA91bE-token_of_the_past",
    "short",
    "dQw4w9WgXcQ:APA91bE-token_of_a_crowd",
    "dQw4w9WgXcQ:APA91bE-token_of_a_device",
];

async fn satisfies(provider: &'static str, expected: Expected) {
    let sim = Listed::of(provider).await;
    sim.require(expected.credentials);
    sim.script_for(expected.recipients[1], Behaviour::Refuse(expected.refusal));
    sim.script_for(expected.recipients[3], Behaviour::RateLimited { retry_after: None });
    let recipients = expected.recipients.iter().map(|r| (*r).to_owned()).collect();
    let seen = seen_by(provider, sim.base_url(), expected.given, recipients).await;
    assert_eq!(seen.len(), 5);
    let received = sim.received();
    let first = received.first().unwrap_or_else(|| panic!("{provider} received nothing: {}", seen[0]));
    let id = first.accepted.clone().expect("it was accepted");
    assert_eq!(seen[0]["id"].as_str().map(|i| i.trim_matches(['<', '>'])), Some(id.trim_matches(['<', '>'])), "{provider}: {}", seen[0]);
    assert_eq!((first.recipient.as_str(), first.auth.as_str()), (expected.recipients[0], expected.credentials));
    for (seen, words) in seen[1..].iter().zip(expected.words) {
        let text = seen["text"].as_str().unwrap_or_else(|| panic!("{provider}: the SDK raised nothing: {seen}"));
        assert!(text.contains(words) || seen["raised"] == words, "{provider}: {seen} says nothing of {words}");
    }
    assert_eq!(received.iter().filter(|m| m.accepted.is_some()).count(), 1, "{provider}");
}

fn expected(credentials: &'static str, recipients: [&'static str; 5], refusal: u32, words: [&'static str; 4]) -> Expected {
    let given = json!(credentials.split(':').collect::<Vec<_>>());
    Expected { credentials, given, recipients, refusal, words }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendgrids_own_sdk_is_satisfied() {
    let words = ["verified Sender Identity", "personalizations.0.to.0.email", "too many requests", "authorization grant is invalid"];
    satisfies("sendgrid", expected("SG.kR3vN8sTq1ZyXw5u", ADDRESSES, 403, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resends_own_sdk_is_satisfied() {
    let words = ["domain is not verified", "Invalid `to` field", "RateLimitError", "API key is invalid"];
    satisfies("resend", expected("re_7Hk2PqXv", ADDRESSES, 403, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmarks_own_sdk_is_satisfied() {
    let words = ["InactiveRecipientException", "Invalid 'To' address", "RateLimitException", "InvalidAPIKeyException"];
    satisfies("postmark", expected("0b8e2c1d-7f64-4a39-9c1e-5d2f8a6b3e70", ADDRESSES, 406, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mailguns_own_sdk_is_satisfied() {
    let given = json!(["4c1f9e2ab7d85036e1f2a3b4c5d6e7f8"]);
    let words = ["404", "400", "429", "401"];
    let expected = expected("api:4c1f9e2ab7d85036e1f2a3b4c5d6e7f8", ADDRESSES, 404, words);
    satisfies("mailgun", Expected { given, ..expected }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mailjets_own_sdk_is_satisfied() {
    let words = ["not an authorized sender", "invalid email address", "ApiRateLimitError", "MailjetAuthError"];
    satisfies("mailjet", expected("0f3e5a7c9b1d2f4e6a8c0b2d4f6e8a1c:9d7b5f3e1c0a8e6d4b2f0c9e7a5d3b1f", ADDRESSES, 400, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brevos_own_sdk_is_satisfied() {
    let words = ["not_enough_credits", "email is not valid in to", "too_many_requests", "Key not found"];
    satisfies("brevo", expected("xkeysib-5d1b7e3f90a2c4d6", ADDRESSES, 402, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vonages_own_sdk_is_satisfied() {
    let words = ["error code 7", "Invalid value for param: to", "RateLimitedError", "AuthenticationError"];
    satisfies("vonage", expected("a1b2c3d4:s3cretS3cretS3cr", NUMBERS, 7, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messagebirds_own_sdk_is_satisfied() {
    let words = ["Not enough balance", "recipients", "429", "incorrect access_key"];
    satisfies("messagebird", expected("gshuPaZoeEG6ovbc8M79w0QyM", NUMBERS, 25, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plivos_own_sdk_is_satisfied() {
    let words = ["insufficient credit", "not a valid phone number", "PlivoRestError", "AuthenticationError"];
    satisfies("plivo", expected("MAXXXXXXXXXXXXXXXXXX:YzU1NjQwYzE5NjA5ZTQ4ZTgzODQ5ZjUxNGZjOWZl", NUMBERS, 400, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn infobips_own_sdk_is_satisfied() {
    let words = ["REJECTED", "is not valid", "Too many requests sent", "UnauthorizedException"];
    satisfies("infobip", expected("003026bbc133714df1834b8638bb496e-8f4b3c9a", NUMBERS, 52, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_of_the_community_for_termii_is_satisfied() {
    let words = ["ApplicationSenderId not found", "is not valid", "Too many requests", "Invalid api key"];
    satisfies("termii", expected("TLabcdefghijklmnopqrstuvwxyz", NUMBERS, 404, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_of_the_community_for_whatsapp_is_satisfied() {
    let words = ["131026", "131009", "130429", "190"];
    satisfies("whatsapp_cloud", expected("EAAJB9pZCxKtest0secret", NUMBERS, 131_026, words)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_own_sdk_for_fcm_is_satisfied() {
    let settings = std::fs::read(root().join("crates/providers/fixtures/fcm/settings.json")).expect("fixtures");
    let settings: Value = serde_json::from_slice(&settings).expect("JSON");
    let given = json!([settings["secretConfig"]["service_account"]]);
    let words = ["UnregisteredError", "InvalidArgumentError", "QuotaExceededError", "invalid_grant"];
    let expected = expected("raven@acme-notifications.iam.gserviceaccount.com", DEVICES, 404, words);
    satisfies("fcm", Expected { given, ..expected }).await;
}
