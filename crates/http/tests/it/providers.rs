//! Providers and their configs.

use std::time::Duration;

use http::Method;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both, on_both_with},
    simulators::Twilio,
};
use serde_json::{Value, json};

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let secret = "atsk_a_very_secret_value";
        let body = json!({ "provider": "africas_talking", "label": "SMS", "public_config": { "username": "acme", "sender_id": "ACME" }, "secretConfig": { "api_key": secret } });
        let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
        assert_eq!((&created["channel"], &created["status"], &created["configPublic"]), (&json!("sms"), &json!("unverified"), &json!({ "username": "acme", "sender_id": "ACME" })));
        let path = format!("/v1/admin/providers/{}", created["id"].as_str().expect("an id"));
        let found = app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200);
        let list = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/providers", None).await.expect(200);
        for shown in [&created, &found, &list] {
            assert!(!shown.to_string().contains(secret));
        }
        let stored = app.store.list_configs(t.id, None, 10).await.expect("configs");
        assert!(!stored[0].secret.windows(secret.len()).any(|w| w == secret.as_bytes()));
        assert!(!stored[0].public.contains(secret));

        let other = app.tenant("Bolt").await;
        app.as_human(&other.owner, &other.slug, Method::GET, &path, None).await.expect_error(404, "not_found");
        app.as_human(&other.owner, &other.slug, Method::DELETE, &path, None).await.expect_error(404, "not_found");
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect(204);
        app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect_error(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn bad_configs_are_explained_without_repeating_values() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let post = async |body| app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await;
        let error = post(json!({ "provider": "pigeon", "label": "x" })).await.expect_error(400, "validation_failed");
        assert_eq!(error["errors"].as_array().expect("errors").len(), 2);
        let body = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "usernme": "acme", "api_key": "hush-hush" }, "secretConfig": { "api_key": 7 } });
        let error = post(body).await.expect(400);
        let fields: Vec<&str> = error["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str().expect("a field")).collect();
        for expected in ["publicConfig.usernme", "publicConfig.api_key", "publicConfig.username", "secretConfig.api_key"] {
            assert!(fields.contains(&expected), "{fields:?}");
        }
        assert!(!error.to_string().contains("hush-hush"));
    })
    .await;
}

#[tokio::test]
async fn the_catalog_names_every_setting() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let catalog = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/providers/catalog", None).await.expect(200);
        let ids: Vec<&str> = catalog["data"].as_array().expect("data").iter().map(|p| p["id"].as_str().expect("an id")).collect();
        let sms = ["africas_talking", "twilio", "vonage", "infobip", "messagebird", "termii", "plivo", "smpp"];
        let email = ["smtp", "postmark", "resend", "ses", "sendgrid", "mailgun", "brevo", "mailjet"];
        let others = ["fcm", "apns", "web_push", "whatsapp_cloud", "twilio_whatsapp"];
        assert_eq!(ids, [&sms[..], &email, &others].concat());
        let key =
            catalog["data"][0]["fields"].as_array().expect("fields").iter().find(|f| f["name"] == "api_key").expect("the key's field");
        assert_eq!((&key["secret"], &key["required"], &key["type"]), (&json!(true), &json!(true), &json!("string")));
    })
    .await;
}

/// A Twilio that takes one token, and options that reach it.
async fn simulated() -> (Twilio, TestOptions) {
    let twilio = Twilio::start().await;
    twilio.require(&format!("{ACCOUNT}:right"));
    let base_urls = [("twilio".to_owned(), twilio.base_url())].into();
    (twilio, TestOptions { base_urls, ..TestOptions::default() })
}

const ACCOUNT: &str = "AC00000000000000000000000000000000";

fn config(token: &str) -> Value {
    json!({ "provider": "twilio", "label": "SMS", "publicConfig": { "account_sid": ACCOUNT, "from": "+15005550006" }, "secretConfig": { "auth_token": token } })
}

async fn configure(app: &TestApp, t: &TestTenant, token: &str) -> String {
    let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(config(token))).await.expect(201);
    format!("/v1/admin/providers/{}", created["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn credentials_are_verified_and_changed() {
    let (_twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "wrong").await;
        let verify = async || app.as_human(&t.owner, &t.slug, Method::POST, &format!("{path}/verify"), None).await.expect(200);
        let patch = async |body: Value| app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(body)).await;

        let failed = verify().await;
        assert_eq!(failed["status"], "failed");
        assert!(failed["statusReason"].as_str().is_some_and(|why| why.starts_with("invalid_credentials")), "{failed}");

        let renamed = patch(json!({ "label": "Renamed" })).await.expect(200);
        assert_eq!((&renamed["label"], &renamed["status"]), (&json!("Renamed"), &json!("failed")), "a name says nothing about credentials");
        let changed = patch(json!({ "secret_config": { "auth_token": "right" }, "publicConfig": { "messaging_service_sid": null } }))
            .await
            .expect(200);
        assert_eq!((&changed["status"], &changed["statusReason"]), (&json!("unverified"), &Value::Null));
        assert_eq!(changed["configPublic"], json!({ "account_sid": ACCOUNT, "from": "+15005550006" }), "what was not named stays");
        assert_eq!(verify().await["status"], "verified");
        assert_eq!(app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"], "verified");

        for (body, field) in [
            (json!({ "publicConfig": { "from": null } }), "publicConfig.from"),
            (json!({ "publicConfig": { "frm": "x" } }), "publicConfig.frm"),
            (json!({ "secretConfig": { "auth_token": null } }), "secretConfig.auth_token"),
            (json!({ "publicConfig": "x" }), "publicConfig"),
            (json!({ "label": "x" }), "label"),
            (json!({ "label": null }), "label"),
        ] {
            let error = patch(body.clone()).await.expect_error(400, "validation_failed");
            assert_eq!(error["errors"][0]["field"], field, "{body}");
        }
        assert_eq!(
            app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"],
            "verified",
            "a refused change changes nothing"
        );

        let log = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/audit-log", None).await.expect(200).to_string();
        assert!(log.contains("provider_config.update") && log.contains("provider_config.verify"), "{log}");
        assert!(!log.contains("\"right\"") && !log.contains("\"wrong\""));

        let other = app.tenant("Bolt").await;
        app.as_human(&other.owner, &other.slug, Method::PATCH, &path, Some(json!({ "label": "Mine" })))
            .await
            .expect_error(404, "not_found");
        app.as_human(&other.owner, &other.slug, Method::POST, &format!("{path}/verify"), None).await.expect_error(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn a_config_tells_when_its_credentials_fail_and_when_they_work_again() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "wrong").await;
        let status = async || app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"].clone();
        let sms = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        let accepted = app.post_message(&t.live, sms).await.expect(202);
        app.settle().await;
        assert_eq!(status().await, "failed");

        let before = twilio.count();
        app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(json!({ "secretConfig": { "auth_token": "right" } }))).await.expect(200);
        app.advance(Duration::from_secs(120)).await;
        assert_eq!(app.message(&t.live, accepted["id"].as_str().expect("an id")).await["status"], "sent", "what waited goes out");
        assert_eq!(twilio.count(), before + 1);
        assert_eq!(status().await, "unverified");
    })
    .await;
}

#[tokio::test]
async fn a_config_that_failed_is_asked_about_and_is_good_again() {
    let (twilio, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "late").await;
        let status = async || app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"].clone();
        app.post_message(&t.live, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" })).await.expect(202);
        app.settle().await;
        assert_eq!(status().await, "failed");
        // A new key of Africa's Talking, say, works only after a while.
        twilio.require(&format!("{ACCOUNT}:late"));
        app.engine.housekeeping.heal().await.expect("the store works");
        app.clock.advance(Duration::from_secs(301));
        app.engine.housekeeping.heal().await.expect("the store works");
        app.advance(Duration::ZERO).await;
        assert_eq!(status().await, "verified");
        twilio.require(&format!("{ACCOUNT}:right"));
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_decides_nothing() {
    // Nothing listens there.
    let base_urls = [("twilio".to_owned(), "http://127.0.0.1:9".to_owned())].into();
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let path = configure(&app, &t, "right").await;
        let asked = app.as_human(&t.owner, &t.slug, Method::POST, &format!("{path}/verify"), None).await.expect(200);
        assert_eq!(asked["status"], "unverified");
        assert!(asked["statusReason"].as_str().is_some_and(|why| why.starts_with("provider_unreachable")), "{asked}");
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_by_its_name() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({
            "provider": "apns", "label": "Push",
            "publicConfig": { "team_id": "ABCDE12345", "key_id": "ABCDE12345", "bundle_id": "com.example.app" },
            "secretConfig": { "private_key": "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----" },
        });
        let error =
            app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect_error(400, "validation_failed");
        assert_eq!(error["errors"][0]["field"], "secretConfig.private_key");
        assert!(!error.to_string().contains("hush"), "{error}");
    })
    .await;
}
