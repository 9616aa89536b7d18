//! Messages through the whole house to simulated providers, which the official SDKs were content with (`crates/testkit/tests/it/sdk.rs`).

use std::{path::PathBuf, time::Duration};

use http::Method;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    simulators::{Behaviour, Listed},
};
use serde_json::{Map, Value, json};

/// A provider that a table plays.
struct Case {
    provider: &'static str,
    /// What the simulator sees of the credentials in its fixtures.
    credentials: &'static str,
    /// What the message asks for beyond the usual, and what has become of it when the provider has it, by place.
    features: fn() -> Value,
    arrives: &'static [(&'static str, &'static str)],
    /// What is refused, and our word for it.
    refusal: (u32, &'static str),
}

const KEY: &str = "3b9e6a51-0000-4000-8000-000000000000";

const CASES: &[Case] = &[
    Case {
        provider: "sendgrid",
        credentials: "SG.kR3vN8sTq1ZyXw5u.B7mPd2LcHf9JgAoE4iVtYnKx",
        features: mail,
        arrives: &[
            ("/personalizations/0/to/0/email", "ada@example.com"),
            ("/personalizations/0/cc/0/email", "grace@example.com"),
            ("/from/email", "hello@acme.example"),
            ("/content/1/value", "<p>Habari</p>"),
            ("/attachments/0/filename", "Zoë.csv"),
            ("/headers/X-Campaign", "autumn"),
            ("/categories/0", "receipt"),
            ("/custom_args/order", "A-17"),
        ],
        refusal: (403, "invalid_sender"),
    },
    Case {
        provider: "resend",
        credentials: "re_7Hk2PqXv_N4sWmT9zLbRcYd3JfGa6UeQo",
        features: mail,
        arrives: &[
            ("/to/0", "ada@example.com"),
            ("/html", "<p>Habari</p>"),
            ("/attachments/0/filename", "Zoë.csv"),
            ("/headers/X-Campaign", "autumn"),
        ],
        refusal: (403, "invalid_sender"),
    },
    Case {
        provider: "postmark",
        credentials: "0b8e2c1d-7f64-4a39-9c1e-5d2f8a6b3e70",
        features: mail,
        arrives: &[
            ("/To", "ada@example.com"),
            ("/HtmlBody", "<p>Habari</p>"),
            ("/Attachments/0/Name", "Zoë.csv"),
            ("/Tag", "receipt"),
            ("/Metadata/order", "A-17"),
        ],
        refusal: (406, "recipient_suppressed"),
    },
    Case {
        provider: "mailgun",
        credentials: "api:4c1f9e2ab7d85036e1f2a3b4c5d6e7f8-0123abcd-9876fedc",
        features: mail,
        arrives: &[
            ("/to", "ada@example.com"),
            ("/html", "<p>Habari</p>"),
            ("/attachment/filename", "Zoë.csv"),
            ("/h:X-Campaign", "autumn"),
            ("/o:tag", "receipt"),
            ("/v:order", "A-17"),
        ],
        refusal: (404, "domain_not_found"),
    },
    Case {
        provider: "mailjet",
        credentials: "0f3e5a7c9b1d2f4e6a8c0b2d4f6e8a1c:9d7b5f3e1c0a8e6d4b2f0c9e7a5d3b1f",
        features: mail,
        arrives: &[
            ("/Messages/0/To/0/Email", "ada@example.com"),
            ("/Messages/0/HTMLPart", "<p>Habari</p>"),
            ("/Messages/0/Attachments/0/Filename", "Zoë.csv"),
            ("/Messages/0/CustomCampaign", "receipt"),
            ("/Messages/0/EventPayload", r#"{"order":"A-17"}"#),
        ],
        refusal: (400, "invalid_sender"),
    },
    Case {
        provider: "brevo",
        credentials: "xkeysib-5d1b7e3f90a2c4d6e8f01b3d5f7a9c2e4-Qw7RtY2uIoP9aSdF",
        features: mail,
        arrives: &[
            ("/to/0/email", "ada@example.com"),
            ("/htmlContent", "<p>Habari</p>"),
            ("/attachment/0/name", "Zoë.csv"),
            ("/tags/0", "receipt"),
        ],
        refusal: (402, "insufficient_balance"),
    },
    Case {
        provider: "vonage",
        credentials: "a1b2c3d4:s3cretS3cretS3cr",
        features: text,
        arrives: &[("/to", "254722000000"), ("/from", "ACME"), ("/text", "Habari ✓"), ("/type", "unicode")],
        refusal: (7, "blocked"),
    },
    Case {
        provider: "messagebird",
        credentials: "gshuPaZoeEG6ovbc8M79w0QyM",
        features: text,
        arrives: &[("/recipients/0", "254722000000"), ("/originator", "ACME"), ("/body", "Habari ✓"), ("/datacoding", "unicode")],
        refusal: (25, "insufficient_balance"),
    },
    Case {
        provider: "plivo",
        credentials: "MAXXXXXXXXXXXXXXXXXX:YzU1NjQwYzE5NjA5ZTQ4ZTgzODQ5ZjUxNGZjOWZl",
        features: text,
        arrives: &[("/dst", "254722000000"), ("/src", "14152828726"), ("/text", "Habari ✓"), ("/type", "sms")],
        refusal: (400, "insufficient_balance"),
    },
    Case {
        provider: "infobip",
        credentials: "003026bbc133714df1834b8638bb496e-8f4b3c9a",
        features: text,
        arrives: &[
            ("/messages/0/destinations/0/to", "254722000000"),
            ("/messages/0/sender", "ACME"),
            ("/messages/0/content/text", "Habari ✓"),
        ],
        refusal: (52, "invalid_recipient"),
    },
    Case {
        provider: "termii",
        credentials: "TLabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456",
        features: text,
        arrives: &[("/to", "254722000000"), ("/from", "ACME"), ("/sms", "Habari ✓"), ("/type", "unicode"), ("/api_key", "…")],
        refusal: (404, "invalid_sender"),
    },
    Case {
        provider: "whatsapp_cloud",
        credentials: "EAAJB9pZCxKtest0secret0of0a0system0user",
        features: || json!({ "body": null, "whatsappTemplate": { "name": "order_ready", "language": "en_US", "parameters": ["Ada"] } }),
        arrives: &[("/to", "254722000000"), ("/template/name", "order_ready"), ("/template/components/0/parameters/0/text", "Ada")],
        refusal: (131_026, "unreachable"),
    },
    Case {
        provider: "fcm",
        credentials: "raven@acme-notifications.iam.gserviceaccount.com",
        features: || json!({ "title": "Karibu ✓", "data": { "order": "42" }, "badge": 3, "ttl": 3600, "collapseKey": "table-7" }),
        arrives: &[
            ("/message/token", TOKEN),
            ("/message/notification/title", "Karibu ✓"),
            ("/message/data/order", "42"),
            ("/message/android/ttl", "3600s"),
        ],
        // A token that is no longer registered would be suppressed, and nothing more sent to it.
        refusal: (403, "recipient_of_another_app"),
    },
];

const TOKEN: &str = "dQw4w9WgXcQ:APA91bE-token_of_a_device";

fn mail() -> Value {
    json!({
        "subject": "Karibu ✓", "body": null, "bodyText": "Habari ✓", "bodyHtml": "<p>Habari</p>", "cc": ["Grace <grace@example.com>"],
        "replyTo": "Support <support@acme.example>", "headers": { "X-Campaign": "autumn" }, "tags": ["receipt"], "metadata": { "order": "A-17" },
        "attachments": [{ "filename": "Zoë.csv", "contentType": "text/csv", "content": "aXRlbSwgcHJpY2UKdGVhLCAxMjAK" }],
    })
}

fn text() -> Value {
    json!({})
}

/// The settings in the adapter's fixtures.
fn settings(provider: &str) -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../providers/fixtures").join(provider).join("settings.json");
    serde_json::from_slice(&std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).expect("JSON")
}

/// A tenant with one config; it, and the path of the config.
async fn configured(app: &TestApp, case: &Case) -> (TestTenant, String) {
    let t = app.tenant(&case.provider.replace('_', "-")).await;
    let mut config = settings(case.provider);
    config["provider"] = case.provider.into();
    config["label"] = "Simulated".into();
    let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(config)).await.expect(201);
    let path = format!("/v1/admin/providers/{}", created["id"].as_str().expect("an id"));
    (t, path)
}

fn message(case: &Case) -> Value {
    let provider = raven_providers::find(case.provider).expect("it is in the catalog");
    let to = match provider.spec.channel {
        raven_core::Channel::Email => "ada@example.com",
        raven_core::Channel::Push => TOKEN,
        _ => "+254722000000",
    };
    let mut all: Map<String, Value> = Map::new();
    for part in [json!({ "channel": provider.spec.channel.name(), "to": to, "body": "Habari ✓" }), (case.features)()] {
        all.extend(part.as_object().expect("an object").clone());
    }
    all.retain(|_, value| !value.is_null());
    all.into()
}

/// Sends the case's message; what is told of it.
async fn send(app: &TestApp, t: &TestTenant, case: &Case) -> Value {
    let accepted = app.post_message(&t.live, message(case)).await.expect(202);
    app.settle().await;
    app.message(&t.live, accepted["id"].as_str().expect("an id")).await
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

/// Runs a test for each provider on both engines; it tells what was wrong.
async fn with_each(test: impl AsyncFn(&TestApp, &Case, &Listed) -> Vec<String>) {
    let mut sims = Vec::new();
    for case in CASES {
        sims.push(Listed::of(case.provider).await);
    }
    let base_urls = CASES.iter().zip(&sims).map(|(case, sim)| (case.provider.to_owned(), sim.base_url())).collect();
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let mut wrong = Vec::new();
        for (case, sim) in CASES.iter().zip(&sims) {
            sim.require(case.credentials);
            wrong.extend(test(&app, case, sim).await.into_iter().map(|what| format!("{}: {what}", case.provider)));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn each_simulated_provider_takes_what_its_adapter_sends() {
    with_each(async |app, case, sim| {
        let mut wrong = Vec::new();
        let (t, path) = configured(app, case).await;
        let verified = app.as_human(&t.owner, &t.slug, Method::POST, &format!("{path}/verify"), None).await.expect(200);
        if verified["status"] != "verified" {
            wrong.push(format!("its credentials are not verified: {verified}"));
        }
        let sent = send(app, &t, case).await;
        if kinds(&sent) != ["queued", "sending", "sent"] {
            wrong.push(format!("it is not sent: {sent}"));
        }
        let Some(received) = sim.received().pop() else { return wrong };
        if sent["providerMessageId"].as_str() != received.accepted.as_deref() {
            wrong.push(format!("{} is not {:?}", sent["providerMessageId"], received.accepted));
        }
        for (place, expected) in case.arrives {
            if received.body.pointer(place).and_then(Value::as_str) != Some(*expected) {
                wrong.push(format!("{place} is not {expected} in {}", received.body));
            }
        }
        wrong
    })
    .await;
}

#[tokio::test]
async fn each_simulated_providers_errors_are_understood() {
    with_each(async |app, case, sim| {
        let mut wrong = Vec::new();
        let (t, path) = configured(app, case).await;
        let (code, ours) = case.refusal;
        sim.script(Behaviour::Refuse(code));
        let refused = send(app, &t, case).await;
        // A refusal that may pass is tried again, and says why in the timeline.
        let detail = refused["events"].as_array().and_then(|all| all.last()).and_then(|event| event["detail"].as_str()).unwrap_or_default();
        if refused["failureReason"] != ours && !detail.starts_with(&format!("{ours}: ")) {
            wrong.push(format!("it is not refused as {ours}: {refused}"));
        }

        sim.script(Behaviour::RateLimited { retry_after: Some(90) });
        let slowed = send(app, &t, case).await;
        if kinds(&slowed) != ["queued", "sending", "retry_scheduled"] {
            wrong.push(format!("it does not wait: {slowed}"));
        }
        let id = slowed["id"].as_str().expect("an id");
        for (seconds, status) in [(89, "sending"), (60, "sent")] {
            app.advance(Duration::from_secs(seconds)).await;
            let now = app.message(&t.live, id).await;
            if now["status"] != status {
                wrong.push(format!("it is not {status} after its wait: {now}"));
            }
        }

        sim.script(Behaviour::Html);
        let lost = send(app, &t, case).await;
        if kinds(&lost) != ["queued", "sending", "outcome_unknown"] {
            wrong.push(format!("a page is not an unknown outcome: {lost}"));
        }

        // Some providers repeat the request in an error, credentials and all.
        for secret in settings(case.provider)["secretConfig"].as_object().expect("secrets").values() {
            let echo = json!({ "message": secret, "error": { "message": secret }, "errors": [{ "message": secret, "description": secret }],
                "Message": secret, "ErrorMessage": secret, "detail": secret });
            sim.script(Behaviour::Answer { status: 400, content_type: "application/json", body: echo.to_string().into() });
            let id = send(app, &t, case).await["id"].as_str().expect("an id").to_owned();
            let seen =
                app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/messages/{id}"), None).await.expect(200).to_string();
            let secret = secret.as_str().expect("a text");
            // Of a file with a key in it, whatever is a line of the key.
            if secret.lines().chain(secret.split("\\n")).filter(|line| line.len() > 12).any(|line| seen.contains(line)) {
                wrong.push("its answer puts a secret into the timeline".to_owned());
            }
        }

        sim.require(KEY);
        let unpaid = send(app, &t, case).await;
        if kinds(&unpaid) != ["queued", "sending", "retry_scheduled"] {
            wrong.push(format!("wrong credentials cost the message: {unpaid}"));
        }
        // A token that is refused may only be old: another one is asked for before the credentials are blamed.
        app.advance(Duration::from_secs(120)).await;
        let config = app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200);
        if config["status"] != "failed" {
            wrong.push(format!("wrong credentials are not told: {config}"));
        }
        wrong
    })
    .await;
}
