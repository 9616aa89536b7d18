//! The fields of a message beyond its text.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use raven_testkit::app::on_both;
use serde_json::{Value, json};

fn fields(error: &Value) -> Vec<&str> {
    error["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str().expect("a field")).collect()
}

fn merged(mut body: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("an object") };
    body.as_object_mut().expect("an object").extend(extra);
    body
}

fn email(extra: Value) -> Value {
    merged(json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": "x", "bodyText": "y" }), extra)
}

fn push(extra: Value) -> Value {
    merged(json!({ "channel": "push", "to": "token-1", "body": "x" }), extra)
}

fn whatsapp(extra: Value) -> Value {
    merged(json!({ "channel": "whatsapp", "to": "+254722000000" }), extra)
}

#[tokio::test]
async fn what_a_message_carries_is_accepted_in_either_spelling_and_shown() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let file = |kind: &str| json!({ "filename": "a.txt", kind: "text/plain", "content": "aGk=" });
        let camel = email(json!({
            "replyTo": "Help <help@example.com>", "cc": ["b@example.com", "C <c@example.com>"], "bcc": ["d@example.com"],
            "headers": { "X-Campaign": "spring", "List-Unsubscribe": "<https://example.com/u>" },
            "attachments": [file("contentType")], "tags": ["receipts"], "metadata": { "order_id": "1042" },
            "idempotencyKey": "1",
        }));
        let snake = email(json!({
            "reply_to": "Help <help@example.com>", "cc": ["b@example.com", "C <c@example.com>"], "bcc": ["d@example.com"],
            "headers": { "X-Campaign": "spring", "List-Unsubscribe": "<https://example.com/u>" },
            "attachments": [file("content_type")], "tags": ["receipts"], "metadata": { "order_id": "1042" },
            "idempotency_key": "1",
        }));
        let accepted = app.post_message(&key, camel).await.expect(202);
        let id = accepted["id"].as_str().expect("an id");
        assert_eq!(app.post_message(&key, snake).await.expect(202)["id"], id, "the same payload, whatever its spelling");
        let shown = app.message(&key, id).await;
        assert_eq!((&shown["tags"], &shown["metadata"]), (&json!(["receipts"]), &json!({ "order_id": "1042" })));

        for body in [
            push(json!({ "title": "Hi", "data": { "order_id": "1042" }, "badge": 0, "collapseKey": "order", "ttl": 0 })),
            json!({ "channel": "push", "to": "token-1", "data": { "silent": "1" } }),
            whatsapp(json!({ "mediaUrl": "https://example.com/a.png" })),
            whatsapp(json!({ "body": "x", "mediaUrl": "https://example.com/a.png" })),
            whatsapp(json!({ "whatsappTemplate": { "name": "shipped", "language": "en_US", "parameters": ["Ada"], "header_media_url": "https://example.com/a.pdf" } })),
        ] {
            app.post_message(&key, body).await.expect(202);
        }
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_within_a_field_is_named_by_its_place() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let file = |content: &str| json!({ "filename": "a", "contentType": "text/plain", "content": content });
        let many: Vec<String> = (0..30).map(|n| format!("r{n}@example.com")).collect();
        let cases = [
            (email(json!({ "replyTo": "nobody" })), vec!["replyTo"]),
            (email(json!({ "cc": "b@example.com", "bcc": [1, "x"] })), vec!["cc", "bcc[0]", "bcc[1]"]),
            (email(json!({ "cc": many.clone(), "bcc": many })), vec!["cc"]),
            (email(json!({ "headers": { "Bcc": "x@example.com", "X-A": "a\r\nBcc: x@example.com", "X-B": 1, "x-": "y" } })), vec!["headers.Bcc", "headers.X-A", "headers.X-B", "headers.x-"]),
            (email(json!({ "headers": { "Content-Type": "text/html", "DKIM-Signature": "x", "X-A:b": "c" } })), vec!["headers.Content-Type", "headers.DKIM-Signature", "headers.X-A:b"]),
            (email(json!({ "headers": { "X-A": "1", "x-a": "2", "X-Long": "y".repeat(901) } })), vec!["headers", "headers.X-Long"]),
            (email(json!({ "attachments": [file("%%%"), file(""), 7] })), vec!["attachments[0].content", "attachments[1].content", "attachments[2]"]),
            (email(json!({ "attachments": [{ "filename": "../etc/passwd", "contentType": "text", "content": "aGk=", "contentId": "a b", "colour": 1 }] })), vec!["attachments[0].colour", "attachments[0].filename", "attachments[0].contentType", "attachments[0].contentId"]),
            (email(json!({ "attachments": [{}] })), vec!["attachments[0].filename", "attachments[0].contentType", "attachments[0].content"]),
            (email(json!({ "attachments": [{ "content_type": "text/plain", "contentType": "text/plain", "filename": "a", "content": "aGk=" }] })), vec!["attachments[0].contentType"]),
            (email(json!({ "tags": ["two words", "", "ok"] })), vec!["tags[0]", "tags[1]"]),
            (email(json!({ "metadata": { "a b": "x", "c": "y".repeat(501), "d": {} } })), vec!["metadata.a b", "metadata.c", "metadata.d"]),
            (push(json!({ "data": { "from": "x", "google.x": "y", "ok": "z" }, "badge": -1, "ttl": 2_419_201, "collapseKey": "a b", "title": "" })), vec!["data.from", "data.google.x", "title", "badge", "ttl", "collapseKey"]),
            (push(json!({ "data": { "a": "x".repeat(3500) } })), vec!["data"]),
            (push(json!({ "replyTo": "a@example.com", "attachments": [], "mediaUrl": "https://example.com/a" })), vec!["replyTo", "attachments", "mediaUrl"]),
            (whatsapp(json!({})), vec!["body"]),
            (whatsapp(json!({ "mediaUrl": "http://example.com/a" })), vec!["mediaUrl"]),
            (whatsapp(json!({ "body": "x", "whatsappTemplate": { "name": "a" } })), vec!["whatsappTemplate"]),
            (whatsapp(json!({ "whatsappTemplate": { "name": "a-b", "language": "EN", "parameters": [""], "headerMediaUrl": "ftp://x" } })), vec!["whatsappTemplate.parameters[0]", "whatsappTemplate.name", "whatsappTemplate.language", "whatsappTemplate.headerMediaUrl"]),
            (whatsapp(json!({ "whatsappTemplate": "a" })), vec!["whatsappTemplate"]),
        ];
        for (body, mut expected) in cases {
            let shown = body.to_string();
            let error = app.post_message(&key, body).await.expect(400);
            let mut found = fields(&error);
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{shown}");
        }
    })
    .await;
}

#[tokio::test]
async fn attachments_are_ten_megabytes_in_all() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let file = |bytes: usize| json!({ "filename": "a", "contentType": "text/plain", "content": STANDARD.encode(vec![7; bytes]) });
        let half = 5 * 1024 * 1024;
        let extra = json!({ "attachments": [file(half), file(half)], "tags": ["receipts"], "metadata": { "order": "1" } });
        let accepted = app.post_message(&key, email(extra)).await.expect(202);
        app.settle().await;
        let shown = app.message(&key, accepted["id"].as_str().expect("an id")).await;
        assert_eq!(
            (&shown["status"], &shown["tags"], &shown["metadata"]),
            (&json!("sent"), &json!(["receipts"]), &json!({ "order": "1" }))
        );
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        let error = app
            .post_message(&key, email(json!({ "attachments": [file(half), file(half + 1)] })))
            .await
            .expect_error(400, "validation_failed");
        assert_eq!(fields(&error), ["attachments"]);
    })
    .await;
}

#[tokio::test]
async fn a_field_that_the_provider_cannot_carry_is_refused_and_nothing_is_stored() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let config = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "k" } });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(config)).await.expect(201);
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "x", "mediaUrl": "https://example.com/a.png", "idempotencyKey": "1" });
        let error = app.post_message(&t.live, body.clone()).await.expect_error(400, "unsupported_feature");
        assert_eq!(fields(&error), ["mediaUrl"]);
        let list = app.with_key(&t.live, Method::GET, "/v1/messages", None).await.expect(200);
        assert_eq!(list["data"], json!([]));
        // The sandbox takes it.
        app.post_message(&t.test, body).await.expect(202);
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
    })
    .await;
}
