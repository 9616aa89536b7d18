//! Asking what would become of a message.

use http::Method;
use raven_testkit::app::on_both;
use serde_json::{Value, json};

#[tokio::test]
async fn a_dry_run_tells_the_route_and_the_parts_and_leaves_nothing_behind() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let ask = async |key: &str, body: Value| app.with_key(key, Method::POST, "/v1/messages?dryRun=true", Some(body)).await;
        let sms = json!({ "channel": "sms", "to": "+254722000000", "body": "é".repeat(161), "idempotencyKey": "1" });
        let told = ask(&t.test, sms.clone()).await.expect(200);
        assert_eq!(
            told,
            json!({ "wouldSend": true, "status": "queued", "suppressionReason": null, "segments": 2, "encoding": "gsm7", "route": { "provider": "sandbox", "providerConfigId": null, "label": null, "reasons": told["route"]["reasons"] }, "reasons": [] })
        );
        let told = ask(&t.live, sms.clone()).await.expect(200);
        assert_eq!((&told["wouldSend"], &told["status"], &told["route"]), (&json!(false), &Value::Null, &Value::Null));
        assert_eq!(told["reasons"][0]["code"], "no_provider_for_channel");

        let config = app.configure_sms(&t).await;
        let told = ask(&t.live, sms.clone()).await.expect(200);
        let route = &told["route"];
        assert_eq!((&route["provider"], &route["providerConfigId"], &route["label"]), (&json!("africas_talking"), &config["id"], &json!("SMS")));
        let mut media = sms.clone();
        media["mediaUrl"] = json!("https://example.com/a.png");
        let told = ask(&t.live, media).await.expect(200);
        assert_eq!(told["reasons"][0]["code"], "unsupported_feature");
        assert!(told["reasons"][0]["message"].as_str().is_some_and(|m| m.contains("mediaUrl")), "{told}");

        let suppression = json!({ "channel": "sms", "address": "+254722000009", "reason": "unsubscribed", "environment": "test" });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(suppression)).await.expect(201);
        let told = ask(&t.test, json!({ "channel": "sms", "to": "+254722000009", "body": "x" })).await.expect(200);
        assert_eq!(
            (&told["wouldSend"], &told["status"], &told["suppressionReason"], &told["reasons"]),
            (&json!(false), &json!("suppressed"), &json!("unsubscribed"), &json!([]))
        );

        let path = "/v1/admin/messages?dry_run=true";
        let as_human = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "environment": "test" });
        let told = app.as_human(&t.owner, &t.slug, Method::POST, path, Some(as_human)).await.expect(200);
        assert_eq!((&told["wouldSend"], &told["route"]["provider"]), (&json!(true), &json!("sandbox")));

        ask(&t.test, json!({ "channel": "sms", "to": "nobody", "body": "x" })).await.expect_error(400, "validation_failed");
        app.with_key(&t.test, Method::POST, "/v1/messages?dryRun=yes", Some(sms.clone())).await.expect_error(400, "validation_failed");
        for key in [&t.test, &t.live] {
            assert_eq!(app.with_key(key, Method::GET, "/v1/messages", None).await.expect(200)["data"], json!([]));
        }
        // The key was not used up.
        let mut other = sms;
        other["body"] = json!("another");
        assert!(app.post_message(&t.test, other).await.expect(202)["id"].is_string());
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
    })
    .await;
}
