//! Callbacks of every provider, and answers to what was sent: whatever they are, no adapter panics, and no secret comes back.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Method, Response};
use libfuzzer_sys::fuzz_target;
use raven_core::Timestamp;
use raven_providers::{Bound, CATALOG, Callback, HttpCall, callback::Proof};
use serde_json::Value;

/// Every adapter with the settings of its fixtures, and those of its callbacks.
static ADAPTERS: LazyLock<Vec<Box<dyn HttpCall>>> = LazyLock::new(|| {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/providers/fixtures");
    let mut all = Vec::new();
    for provider in CATALOG {
        for file in ["settings.json", "callbacks/settings.json"] {
            let Ok(text) = std::fs::read(format!("{fixtures}/{}/{file}", provider.spec.id)) else { continue };
            let given: Value = serde_json::from_slice(&text).expect("fixtures are JSON");
            let Ok((public, secret)) = provider.spec.validate(given.get("publicConfig"), given.get("secretConfig")) else { continue };
            if let Ok(Bound::Http(call)) = provider.bind(&public, &secret) {
                all.push(call);
            }
        }
    }
    all
});

/// The headers that adapters look at.
const HEADERS: &[&str] = &[
    "content-type",
    "i-twilio-idempotency-token",
    "messagebird-signature-jwt",
    "retry-after",
    "svix-id",
    "svix-signature",
    "svix-timestamp",
    "x-amz-sns-message-type",
    "x-hub-signature-256",
    "x-message-id",
    "x-plivo-signature-v3",
    "x-plivo-signature-v3-nonce",
    "x-termii-signature",
    "x-twilio-email-event-webhook-signature",
    "x-twilio-email-event-webhook-timestamp",
    "x-twilio-signature",
];

fuzz_target!(|given: (u8, u8, &str, Vec<(u8, Vec<u8>)>, &[u8])| {
    let (which, status, query, named, body) = given;
    let call = &ADAPTERS[usize::from(which) % ADAPTERS.len()];
    let mut headers = HeaderMap::new();
    for (name, value) in &named {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(HEADERS[usize::from(*name) % HEADERS.len()], value);
        }
    }
    let method = if status % 4 == 0 { Method::GET } else { Method::POST };
    let callback = Callback { method: &method, query, headers: &headers, body };
    let url = format!("https://raven.example/v1/webhooks/x?{query}");
    let certificate = Some(body).filter(|_| status % 2 == 0);
    let proof = Proof { url: &url, now: Timestamp::from_millis(1_777_631_098_114), certificate };
    let _ = (call.challenge(&callback), call.authenticate(&callback, &proof), call.read(&callback));

    let mut answer = Response::new(body.to_vec().into());
    *answer.status_mut() = http::StatusCode::from_u16(100 + u16::from(status) * 2).expect("100 to 610");
    *answer.headers_mut() = headers;
    let _ = (call.outcome(&answer), call.verified(&answer), call.token(&answer));
});
