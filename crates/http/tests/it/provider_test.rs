//! Test messages through one provider config.

use http::Method;
use raven_engine::plans::{Plan, Plans};
use raven_testkit::{
    app::{Answer, TestApp, TestOptions, TestTenant, on_both, on_both_with},
    simulators::{
        Behaviour, Twilio,
        smtp::{Options, Smtp},
    },
};
use serde_json::{Value, json};

use crate::walk::{NOBODY, fields, key};

const ACCOUNT: &str = "AC00000000000000000000000000000000";
const TO: &str = "+254722000000";

/// A Twilio that takes one token, and options that reach it.
async fn simulated() -> (Twilio, TestOptions) {
    let twilio = Twilio::start().await;
    twilio.require(&format!("{ACCOUNT}:right"));
    let base_urls = [("twilio".to_owned(), twilio.base_url())].into();
    (twilio, TestOptions { base_urls, ..TestOptions::default() })
}

/// A config of Twilio; its path.
async fn configure(app: &TestApp, t: &TestTenant, token: &str) -> String {
    let body = json!({
        "provider": "twilio", "label": "SMS", "publicConfig": { "account_sid": ACCOUNT, "from": "+15005550006" },
        "secretConfig": { "auth_token": token }, "rules": { "prefixes": ["+44"] },
    });
    let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
    format!("/v1/admin/providers/{}", created["id"].as_str().expect("an id"))
}

async fn test(app: &TestApp, t: &TestTenant, path: &str, body: Value) -> Answer {
    app.as_human(&t.owner, &t.slug, Method::POST, &format!("{path}/test"), Some(body)).await
}

async fn status(app: &TestApp, t: &TestTenant, path: &str) -> Value {
    app.as_human(&t.owner, &t.slug, Method::GET, path, None).await.expect(200)["status"].clone()
}

#[tokio::test]
async fn a_test_goes_out_once_and_its_outcome_is_told() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let before = twilio.count();
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        let told = test(&app, &t, &path, json!({ "to": TO })).await.expect(200);
        let received = twilio.received();
        assert_eq!(received.len(), before + 1, "one call");
        let got = &received[before];
        assert_eq!((got.recipient.as_str(), got.sender.as_deref()), (TO, Some("+15005550006")));
        assert!(got.text.contains("test message from Raven"), "{}", got.text);
        let took = told["durationMs"].as_u64().expect("a number");
        let expected = json!({
            "ok": true, "outcome": "sent", "provider": "twilio", "providerMessageId": got.accepted, "code": null, "message": null, "durationMs": took,
        });
        assert_eq!(told, expected);
        assert_eq!(status(&app, &t, &path).await, "verified");

        test(&app, &t, &path, json!({ "to": TO, "body": "Does this arrive?", "from": "ACME" })).await.expect(200);
        let received = twilio.received();
        assert_eq!((received[before + 1].text.as_str(), received[before + 1].sender.as_deref()), ("Does this arrive?", Some("ACME")));

        // It is no message of the tenant's, and nothing of it is tried again.
        let messages = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/messages?environment=all", None).await.expect(200);
        assert_eq!(messages["data"], json!([]));
        app.advance(std::time::Duration::from_secs(3600)).await;
        assert_eq!(twilio.count(), before + 2);
        let log = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/audit-log?limit=2", None).await.expect(200);
        for entry in log["data"].as_array().expect("data") {
            assert_eq!((&entry["action"], &entry["after"]), (&json!("provider_config.test"), &json!({ "provider": "twilio", "channel": "sms" })));
        }
        assert!(!log.to_string().contains(TO) && !log.to_string().contains("arrive"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn whatever_goes_wrong_is_an_outcome_and_not_repeated() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        for (behaviour, outcome, code) in [
            (Behaviour::Refuse(21211), "rejected", "invalid_recipient"),
            (Behaviour::ServerError, "temporary", ""),
            (Behaviour::RateLimited { retry_after: Some(7) }, "rate_limited", ""),
            (Behaviour::ResetAfterRequest, "unknown", "no_answer"),
        ] {
            let before = twilio.count();
            twilio.script(behaviour);
            let told = test(&app, &t, &path, json!({ "to": TO })).await.expect(200);
            assert_eq!(
                (&told["ok"], &told["outcome"], &told["providerMessageId"]),
                (&json!(false), &json!(outcome), &Value::Null),
                "{told}"
            );
            assert!(told["code"].as_str().is_some_and(|c| c.contains(code)) && told["message"].is_string(), "{told}");
            assert!(twilio.count() <= before + 1, "{outcome}: it was repeated");
            assert_eq!(status(&app, &t, &path).await, "unverified", "{outcome} says nothing of the credentials");
        }
        app.advance(std::time::Duration::from_secs(3600)).await;
    })
    .await;
}

#[tokio::test]
async fn credentials_that_fail_a_test_pause_the_config_and_a_test_that_passes_resumes_it() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        twilio.require(&format!("{ACCOUNT}:right"));
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "late").await;
        let told = test(&app, &t, &path, json!({ "to": TO })).await.expect(200);
        assert_eq!((&told["outcome"], &told["code"]), (&json!("credentials"), &json!("invalid_credentials")), "{told}");
        assert_eq!(status(&app, &t, &path).await, "failed");
        // A message waits for the config, which its provider takes to be good again.
        let sms = json!({ "channel": "sms", "to": "+447700900123", "body": "Hi" });
        let waits = app.post_message(&t.live, sms).await.expect(202)["id"].as_str().expect("an id").to_owned();
        app.settle().await;
        assert_eq!(app.message(&t.live, &waits).await["status"], "queued");
        twilio.require(&format!("{ACCOUNT}:late"));
        assert_eq!(test(&app, &t, &path, json!({ "to": TO })).await.expect(200)["ok"], true, "a paused config is tested all the same");
        assert_eq!(status(&app, &t, &path).await, "verified");
        app.settle().await;
        assert_eq!(app.message(&t.live, &waits).await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn an_email_has_a_subject_and_a_text_of_its_own_or_ours() {
    let smtp = Smtp::start(&Options::default());
    on_both_with(TestOptions::default(), async |app| {
        let before = smtp.received().len();
        let t = app.tenant("Acme").await;
        let public = json!({ "host": "localhost", "port": smtp.port(), "secure": false, "from_email": "shop@acme.example" });
        let body = json!({ "provider": "smtp", "label": "Mail", "publicConfig": public });
        let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await;
        let path = format!("/v1/admin/providers/{}", made.expect(201)["id"].as_str().expect("an id"));
        let told = test(&app, &t, &path, json!({ "to": "ada@example.com" })).await.expect(200);
        assert_eq!(told["ok"], true, "{told}");
        let own = json!({ "to": "ada@example.com", "subject": "A test", "body": "Does this arrive?", "from": "Ada <ada@acme.example>" });
        test(&app, &t, &path, own).await.expect(200);
        let mails = smtp.received();
        let seen: Vec<_> = mails[before..].iter().map(|m| (m.header("subject"), m.header("from"), m.parts[0].text.trim_end())).collect();
        assert_eq!(seen[0].0, Some("Test message from Raven"));
        assert!(seen[0].2.contains("test message from Raven"), "{seen:?}");
        assert_eq!(seen[1], (Some("A test"), Some("Ada <ada@acme.example>"), "Does this arrive?"));
        for (body, named) in [
            (json!({ "to": TO }), vec!["to"]),
            (json!({ "to": "ada@example.com", "body": "" }), vec!["body"]),
            (json!({ "to": "ada@example.com", "subject": "a\nb", "from": "nobody" }), vec!["from", "subject"]),
            (json!({ "to": "ada@example.com", "whatsappTemplate": { "name": "x" } }), vec!["whatsappTemplate"]),
        ] {
            assert_eq!(fields(&test(&app, &t, &path, body.clone()).await.expect_error(400, "validation_failed")), named, "{body}");
        }
        assert_eq!(smtp.received().len(), before + 2);
    })
    .await;
}

#[tokio::test]
async fn who_is_suppressed_gets_no_test_and_neither_does_anybody_from_whom_may_not_send() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let before = twilio.count();
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        let listed = json!({ "channel": "sms", "address": TO });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(listed)).await.expect(201);
        test(&app, &t, &path, json!({ "to": TO })).await.expect_error(409, "recipient_suppressed");
        let to = json!({ "to": "+254722000001" });
        let of_test = key(&app, &t, "test", &["admin:*"]).await;
        app.with_key(&of_test, Method::POST, &format!("{path}/test"), Some(to.clone())).await.expect_error(403, "insufficient_scope");
        let member = app.join(&t, "member@example.com", "member").await;
        app.as_human(&member, &t.slug, Method::POST, &format!("{path}/test"), Some(to.clone()))
            .await
            .expect_error(403, "insufficient_role");
        let other = app.tenant("Bolt").await;
        test(&app, &other, &path, to.clone()).await.expect_error(404, "not_found");
        test(&app, &t, &format!("/v1/admin/providers/{NOBODY}"), to).await.expect_error(404, "not_found");
        for (body, code, named) in [
            (json!({}), "validation_failed", "to"),
            (json!({ "to": "ada@example.com" }), "validation_failed", "to"),
            (json!({ "to": TO, "subject": "x" }), "validation_failed", "subject"),
            (json!({ "to": TO, "text": "x" }), "unknown_field", "text"),
        ] {
            assert_eq!(fields(&test(&app, &t, &path, body.clone()).await.expect_error(400, code)), [named], "{body}");
        }
        assert_eq!(twilio.count(), before, "nothing went out");
    })
    .await;
}

#[tokio::test]
async fn a_tenant_with_limits_tests_six_times_a_minute() {
    let (twilio, options) = simulated().await;
    let plans = Plans::new(vec![Plan { name: "small".to_owned(), ..Plan::free() }], "small").expect("plans");
    on_both_with(TestOptions { plans: Some(plans), ..options }, async |app| {
        let before = twilio.count();
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        for _ in 0..6 {
            test(&app, &t, &path, json!({ "to": TO })).await.expect(200);
        }
        let refused = test(&app, &t, &path, json!({ "to": TO })).await;
        assert_eq!(refused.headers["retry-after"], "10");
        refused.expect_error(429, "rate_limited");
        assert_eq!(twilio.count(), before + 6);
        app.clock.advance(std::time::Duration::from_secs(10));
        test(&app, &t, &path, json!({ "to": TO })).await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn private_addresses_are_not_reached_by_tests_either() {
    let smtp = Smtp::start(&Options::default());
    on_both_with(TestOptions { forbid_private: true, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let public = json!({ "host": "localhost", "port": smtp.port(), "secure": false, "from_email": "shop@acme.example" });
        let body = json!({ "provider": "smtp", "label": "Mail", "publicConfig": public });
        let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
        let path = format!("/v1/admin/providers/{}", made["id"].as_str().expect("an id"));
        let told = test(&app, &t, &path, json!({ "to": "ada@example.com" })).await.expect(200);
        assert_eq!(told["ok"], false, "{told}");
        assert_eq!(smtp.received().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_suspended_tenant_tests_nothing() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        app.change_state(t.id, raven_store::StateChange::Suspend(raven_core::tenant::SuspendedBy::Owner)).await;
        test(&app, &t, &path, json!({ "to": TO })).await.expect_error(403, "tenant_suspended");
    })
    .await;
}
