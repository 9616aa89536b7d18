//! Sending and reading messages.

use http::Method;
use raven_core::Priority;
use raven_engine::plans::{Plan, Plans};
use raven_testkit::app::{IDEMPOTENCY_KEPT, TestOptions, on_both, on_both_with};
use serde_json::{Value, json};

fn sms(to: &str) -> Value {
    json!({ "channel": "sms", "to": to, "body": "Hi Ada" })
}

fn fields(error: &Value) -> Vec<&str> {
    error["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str().expect("a field")).collect()
}

#[tokio::test]
async fn a_test_message_is_accepted_sent_and_delivered() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        let accepted = app.post_message(&tenant.test, sms("+254722000000")).await.expect(202);
        assert_eq!(
            (&accepted["status"], &accepted["channel"], &accepted["to"]),
            (&json!("queued"), &json!("sms"), &json!("+254722000000"))
        );
        let id = accepted["id"].as_str().expect("an id");
        app.settle().await;
        let sent = app.message(&tenant.test, id).await;
        assert_eq!(
            (&sent["status"], &sent["provider"], &sent["segments"], &sent["encoding"]),
            (&json!("sent"), &json!("sandbox"), &json!(1), &json!("gsm7"))
        );
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        let delivered = app.message(&tenant.test, id).await;
        assert_eq!(delivered["status"], "delivered");
        assert_eq!(delivered["enqueuedAt"], accepted["enqueuedAt"]);
        let events: Vec<&str> =
            delivered["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect();
        assert_eq!(events, ["queued", "sending", "sent", "delivered"]);
    })
    .await;
}

#[tokio::test]
async fn all_field_problems_are_told_at_once() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        let body = json!({ "channel": "smz", "to": "", "body": "x".repeat(4097), "externalId": "", "colour": "red", "subject": "a\r\nBcc: x@y.zz" });
        let error = app.post_message(&tenant.test, body).await.expect_error(400, "validation_failed");
        let mut found = fields(&error);
        found.sort_unstable();
        assert_eq!(found, ["body", "channel", "colour", "externalId", "subject", "to"]);
        assert!(error["path"] == "/v1/messages" && error["timestamp"].is_string() && error["requestId"].is_string() && error["message"].is_string());
    })
    .await;
}

#[tokio::test]
async fn limits_count_characters() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let with_body = |body: String| json!({ "channel": "sms", "to": "+254722000000", "body": body });
        app.post_message(&key, with_body("é".repeat(4096))).await.expect(202);
        assert_eq!(fields(&app.post_message(&key, with_body("é".repeat(4097))).await.expect_error(400, "validation_failed")), ["body"]);
        assert_eq!(fields(&app.post_message(&key, with_body(String::new())).await.expect_error(400, "validation_failed")), ["body"]);
        assert_eq!(fields(&app.post_message(&key, with_body("a\u{0}b".to_owned())).await.expect_error(400, "validation_failed")), ["body"]);
        let email = |subject: String| json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": subject, "bodyText": "x" });
        app.post_message(&key, email("ü".repeat(998))).await.expect(202);
        assert_eq!(fields(&app.post_message(&key, email("ü".repeat(999))).await.expect_error(400, "validation_failed")), ["subject"]);
        let external = |id: String| json!({ "channel": "sms", "to": "+254722000000", "body": "x", "externalId": id });
        app.post_message(&key, external("x".repeat(255))).await.expect(202);
        assert_eq!(fields(&app.post_message(&key, external("x".repeat(256))).await.expect_error(400, "validation_failed")), ["externalId"]);
    })
    .await;
}

#[tokio::test]
async fn what_a_channel_needs_is_required_and_what_is_foreign_is_named() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let cases = [
            (json!({}), vec!["channel", "to"]),
            (json!({ "channel": "sms" }), vec!["to", "body"]),
            (json!({ "channel": "sms", "to": "0722000000", "body": "x" }), vec!["to"]),
            (json!({ "channel": "sms", "to": "+254722000000", "body": "x", "subject": "y", "bodyHtml": "z" }), vec!["subject", "bodyHtml"]),
            (json!({ "channel": "sms", "to": "+254722000000", "body": "x", "from": "far too long a sender" }), vec!["from"]),
            (json!({ "channel": "email", "to": "ada@example.com" }), vec!["subject", "bodyText"]),
            (json!({ "channel": "email", "to": "ada@example.com", "subject": "x", "bodyText": "y" }), vec!["from"]),
            (json!({ "channel": "email", "to": "ada@", "from": "A <b@example.com>\r\nBcc: x@y.zz", "subject": "x", "bodyText": "y" }), vec!["to", "from"]),
            (json!({ "channel": "email", "to": "ada@example.com", "from": "b@example.com", "subject": "x", "body": "y", "bodyText": "z" }), vec!["body"]),
            (json!({ "channel": "push", "to": { "endpoint": "http://x", "keys": { "p256dh": "a" }, "more": 1 }, "body": "x" }), vec!["to.more", "to.endpoint", "to.keys.auth"]),
            (json!({ "channel": "whatsapp", "to": "+254722000000", "body": 7 }), vec!["body"]),
        ];
        for (body, expected) in cases {
            let shown = body.to_string();
            let error = app.post_message(&key, body).await.expect(400);
            assert_eq!(fields(&error), expected, "{shown}");
        }
    })
    .await;
}

#[tokio::test]
async fn every_channel_is_accepted_in_the_sandbox() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let subscription = json!({ "endpoint": "https://push.example/x", "keys": { "p256dh": "BNcR", "auth": "tBHI" } });
        for body in [
            json!({ "channel": "sms", "to": "+254722000000", "body": "x", "from": "ACME" }),
            json!({ "channel": "whatsapp", "to": "+254722000000", "body": "x" }),
            json!({ "channel": "email", "to": "ada@Example.com", "from": "Acme <a@example.com>", "subject": "x", "bodyHtml": "<p>y</p>", "bodyText": "y" }),
            json!({ "channel": "push", "to": "token", "body": "x" }),
            json!({ "channel": "push", "to": subscription, "body": "x" }),
        ] {
            let accepted = app.post_message(&key, body).await.expect(202);
            app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
            app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
            let message = app.message(&key, accepted["id"].as_str().expect("an id")).await;
            assert_eq!(message["status"], "delivered");
            assert_eq!(message["to"], accepted["to"]);
        }
        let all = app.with_key(&key, Method::GET, "/v1/messages", None).await.expect(200);
        assert_eq!(all["data"][0]["to"], json!({ "endpoint": "https://push.example/x", "keys": { "auth": "tBHI", "p256dh": "BNcR" } }));
        assert_eq!(all["data"][2]["to"], "ada@example.com");
    })
    .await;
}

#[tokio::test]
async fn a_live_key_without_a_provider_is_told_so() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        app.post_message(&tenant.live, sms("+254722000000")).await.expect_error(400, "no_provider_for_channel");
    })
    .await;
}

#[tokio::test]
async fn an_equal_request_with_the_same_key_is_replayed() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        let first = app
            .post_message(
                &tenant.test,
                json!({ "channel": "sms", "to": "+254722000000", "body": "x", "externalId": "e", "idempotencyKey": "k1" }),
            )
            .await;
        assert!(first.headers.get("idempotent-replayed").is_none());
        let first = first.expect(202);
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        // Another spelling, another order, the key in the header, a null member.
        let again = raven_testkit::app::request(
            Method::POST,
            "/v1/messages",
            &[("x-raven-key", &tenant.test), ("idempotency-key", "k1")],
            Some(json!({ "external_id": "e", "subject": null, "body": "x", "to": "+254722000000", "channel": "sms" })),
        );
        let again = app.send(again).await;
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(again.expect(202), first);
        let other = json!({ "channel": "sms", "to": "+254722000000", "body": "y", "externalId": "e", "idempotencyKey": "k1" });
        app.post_message(&tenant.test, other).await.expect_error(409, "idempotency_key_reused");
        let all = app.with_key(&tenant.test, Method::GET, "/v1/messages", None).await.expect(200);
        assert_eq!(all["data"].as_array().expect("data").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn idempotency_keys_belong_to_tenant_environment_and_operation() {
    on_both(async |app| {
        let (a, b) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "idempotencyKey": "same" });
        let first = app.post_message(&a.test, body.clone()).await.expect(202);
        let other_tenant = app.post_message(&b.test, body.clone()).await.expect(202);
        let mut as_human = body.clone();
        as_human["environment"] = json!("test");
        let other_operation = app.as_human(&a.owner, &a.slug, Method::POST, "/v1/admin/messages", Some(as_human)).await.expect(202);
        assert!(first["id"] != other_tenant["id"] && first["id"] != other_operation["id"]);
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_is_kept_for_its_time_and_then_forgotten() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "idempotencyKey": "k" });
        let first = app.post_message(&t.test, body.clone()).await.expect(202);
        app.advance(IDEMPOTENCY_KEPT - std::time::Duration::from_secs(1)).await;
        app.engine.housekeeping.tidy().await.expect("the store works");
        assert_eq!(app.post_message(&t.test, body.clone()).await.expect(202)["id"], first["id"]);
        app.advance(std::time::Duration::from_secs(2)).await;
        app.engine.housekeeping.tidy().await.expect("the store works");
        assert_ne!(app.post_message(&t.test, body).await.expect(202)["id"], first["id"]);
    })
    .await;
}

#[tokio::test]
async fn bad_idempotency_keys_are_refused() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let with = |k: Value| json!({ "channel": "sms", "to": "+254722000000", "body": "x", "idempotencyKey": k });
        for bad in [json!(""), json!("x".repeat(256)), json!("a\nb"), json!(7)] {
            assert_eq!(fields(&app.post_message(&key, with(bad)).await.expect_error(400, "validation_failed")), ["idempotencyKey"]);
        }
        app.post_message(&key, with(json!("x".repeat(255)))).await.expect(202);
        let both = raven_testkit::app::request(
            Method::POST,
            "/v1/messages",
            &[("x-raven-key", &key), ("idempotency-key", "other")],
            Some(with(json!("one"))),
        );
        assert_eq!(fields(&app.send(both).await.expect_error(400, "validation_failed")), ["idempotencyKey"]);
    })
    .await;
}

#[tokio::test]
async fn two_hundred_equal_requests_at_once_make_one_message() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "idempotencyKey": "burst" });
        let answers = futures_util::future::join_all((0..200).map(|_| app.post_message(&key, body.clone()))).await;
        let fresh = answers.iter().filter(|a| a.headers.get("idempotent-replayed").is_none()).count();
        let ids: std::collections::HashSet<String> = answers.into_iter().map(|a| a.expect(202)["id"].to_string()).collect();
        assert_eq!((ids.len(), fresh), (1, 1));
        let all = app.with_key(&key, Method::GET, "/v1/messages", None).await.expect(200);
        assert_eq!(all["data"].as_array().expect("data").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_failed_request_does_not_use_up_its_key() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "idempotencyKey": "k" });
        app.post_message(&tenant.live, body.clone()).await.expect_error(400, "no_provider_for_channel");
        let mut bad = body.clone();
        bad["to"] = json!("nobody");
        app.post_message(&tenant.test, bad).await.expect(400);
        app.post_message(&tenant.test, body).await.expect(202);
    })
    .await;
}

#[tokio::test]
async fn large_content_is_stored_and_delivered() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let html = "<p>ä</p>".repeat(100_000);
        let body = json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": "x", "bodyHtml": html, "idempotencyKey": "big" });
        let accepted = app.post_message(&key, body.clone()).await.expect(202);
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        assert_eq!(app.message(&key, accepted["id"].as_str().expect("an id")).await["status"], "delivered");
        assert_eq!(app.post_message(&key, body).await.expect(202), accepted);
    })
    .await;
}

#[tokio::test]
async fn a_message_of_another_tenant_or_environment_is_not_found() {
    on_both(async |app| {
        let (a, b) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let id = app.post_message(&a.test, sms("+254722000000")).await.expect(202)["id"].as_str().expect("an id").to_owned();
        for key in [&b.test, &b.live, &a.live] {
            app.with_key(key, Method::GET, &format!("/v1/messages/{id}"), None).await.expect_error(404, "not_found");
        }
        app.as_human(&b.owner, &b.slug, Method::GET, &format!("/v1/admin/messages/{id}"), None).await.expect_error(404, "not_found");
        let seen = app.as_human(&a.owner, &a.slug, Method::GET, &format!("/v1/admin/messages/{id}"), None).await.expect(200);
        assert_eq!((&seen["environment"], &seen["source"]), (&json!("test"), &json!("api")));
        for forged in ["x", "%ff", "%00", "00000000-0000-4000-8000-000000000000", &id.replace(&id[..4], "ffff")] {
            app.with_key(&a.test, Method::GET, &format!("/v1/messages/{forged}"), None).await.expect_error(404, "not_found");
        }
    })
    .await;
}

#[tokio::test]
async fn a_human_sends_live_by_default_and_sees_live_by_default() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(sms("+254722000000")))
            .await
            .expect_error(400, "no_provider_for_channel");
        let mut body = sms("+254722000000");
        body["environment"] = json!("test");
        let accepted = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(body)).await.expect(202);
        let count = async |query: &str| {
            let page = app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/messages{query}"), None).await.expect(200);
            page["data"].as_array().expect("data").len()
        };
        assert_eq!((count("").await, count("?environment=test").await, count("?environment=all").await), (0, 1, 1));
        assert_eq!(app.message(&t.test, accepted["id"].as_str().expect("an id")).await["source"], "dashboard");
    })
    .await;
}

#[tokio::test]
async fn a_messages_priority_is_its_own_or_its_keys_or_the_plans() {
    let plans = |priority| Plans::new(vec![Plan { priority, ..Plan::unlimited() }], "unlimited").expect("it is built in");
    for default in [Priority::Transactional, Priority::Bulk] {
        let options = TestOptions { plans: Some(plans(default)), ..TestOptions::default() };
        on_both_with(options, async |app| {
            let t = app.tenant("Acme").await;
            let key = async |priority: Value| {
                let body = json!({ "name": "k", "environment": "test", "priority": priority });
                let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
                assert_eq!(made["priority"], priority);
                (
                    made["plaintext"].as_str().expect("the text").to_owned(),
                    format!("/v1/admin/api-keys/{}", made["id"].as_str().expect("an id")),
                )
            };
            let priority_of = async |key: &str, own: Value| {
                let mut body = sms("+254722000000");
                if !own.is_null() {
                    body["priority"] = own;
                }
                let accepted = app.post_message(key, body).await.expect(202);
                app.message(key, accepted["id"].as_str().expect("an id")).await["priority"].clone()
            };
            let ((plain, path), (bulk, _)) = (key(Value::Null).await, key(json!("bulk")).await);
            assert_eq!(priority_of(&plain, Value::Null).await, default.name());
            assert_eq!(priority_of(&bulk, Value::Null).await, "bulk");
            for own in ["transactional", "bulk"] {
                assert_eq!([priority_of(&plain, json!(own)).await, priority_of(&bulk, json!(own)).await], [own, own]);
            }
            for (change, expected) in [(json!("bulk"), "bulk"), (json!("transactional"), "transactional"), (Value::Null, default.name())] {
                let body = Some(json!({ "priority": change }));
                let changed = app.as_human(&t.owner, &t.slug, Method::PATCH, &path, body).await.expect(200);
                assert_eq!(changed["priority"], change);
                assert_eq!(priority_of(&plain, Value::Null).await, expected);
            }
            let mut body = sms("+254722000000");
            body["priority"] = json!("urgent");
            assert_eq!(fields(&app.post_message(&plain, body).await.expect_error(400, "validation_failed")), ["priority"]);
        })
        .await;
    }
}
