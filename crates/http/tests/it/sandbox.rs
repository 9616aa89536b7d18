//! Magic recipients of the sandbox.

use std::time::Duration;

use raven_core::Channel;
use raven_providers::sandbox::{LIVES, Life};
use raven_testkit::app::{TestApp, TestTenant, on_both};
use serde_json::{Value, json};

async fn send(app: &TestApp, t: &TestTenant, channel: Channel, to: &str) -> String {
    let mut body = json!({ "channel": channel, "to": to });
    let extra = match channel {
        Channel::Email => json!({ "from": "a@example.com", "subject": "x", "bodyText": "y" }),
        _ => json!({ "body": "x" }),
    };
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    app.post_message(&t.test, body).await.expect(202)["id"].as_str().expect("an id").to_owned()
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

/// The end of each life: status, failure reason, and what the timeline tells after `sending`.
fn expected(life: &Life) -> (&'static str, Value, &'static [&'static str]) {
    match life.name {
        "delivered" | "delayed" => ("delivered", Value::Null, &["sent", "delivered"]),
        "rejected" => ("failed", json!("invalid_recipient"), &["failed"]),
        "failed" => ("failed", json!("undelivered"), &["sent", "failed"]),
        "hard-bounce" => ("bounced", json!("hard_bounce"), &["sent", "bounced"]),
        "soft-bounce" => ("bounced", json!("soft_bounce"), &["sent", "bounced"]),
        "bounce-complaint" => ("complained", json!("soft_bounce"), &["sent", "bounced", "complained"]),
        "complaint" => ("complained", Value::Null, &["sent", "delivered", "complained"]),
        "unsubscribed" => ("unsubscribed", Value::Null, &["sent", "delivered", "unsubscribed"]),
        "timeout" => ("delivered", Value::Null, &["outcome_unknown", "delivered"]),
        "rate-limited" => (
            "delivered",
            Value::Null,
            &["retry_scheduled", "sending", "retry_scheduled", "sending", "retry_scheduled", "sending", "sent", "delivered"],
        ),
        "out-of-order" => ("delivered", Value::Null, &["sent", "delivered", "delivered", "sent"]),
        other => panic!("no expectation for {other}"),
    }
}

#[tokio::test]
async fn magic_recipients_play_whole_lives_on_every_channel() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let mut sent = Vec::new();
        for channel in Channel::ALL {
            for life in LIVES {
                sent.push((channel, life, send(&app, &t, *channel, &life.recipient(*channel)).await));
            }
        }
        app.settle().await;
        for _ in 0..8 {
            app.advance(Duration::from_secs(20)).await;
        }
        for (channel, life, id) in sent {
            let message = app.message(&t.test, &id).await;
            let (status, reason, events) = expected(life);
            assert_eq!((&message["status"], &message["failureReason"]), (&json!(status), &reason), "{channel} {}", life.name);
            assert_eq!(kinds(&message), [&["queued", "sending"], events].concat(), "{channel} {}", life.name);
        }
    })
    .await;
}

#[tokio::test]
async fn a_delayed_message_and_a_lost_answer_take_their_time() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let delayed = send(&app, &t, Channel::Email, "delayed+order-1042@raven.test").await;
        let lost = send(&app, &t, Channel::Email, "timeout@raven.test").await;
        app.settle().await;
        app.advance(Duration::from_secs(4)).await;
        assert_eq!(app.message(&t.test, &delayed).await["status"], "sent");
        assert_eq!(app.message(&t.test, &lost).await["status"], "sending");
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(app.message(&t.test, &lost).await["status"], "delivered");
        app.advance(Duration::from_secs(54)).await;
        assert_eq!(app.message(&t.test, &delayed).await["status"], "sent");
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(app.message(&t.test, &delayed).await["status"], "delivered");
    })
    .await;
}

#[tokio::test]
async fn what_was_captured_is_read_back_by_test_keys_alone() {
    on_both(async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let email = json!({
            "channel": "email", "to": "ada@example.com", "from": "Acme <a@example.com>", "subject": "Hi", "bodyText": "Hi Ada", "bodyHtml": "<p>Hi</p>",
            "replyTo": "help@example.com", "cc": ["b@example.com"], "headers": { "X-Campaign": "spring" }, "tags": ["receipts"], "metadata": { "order": "1" },
            "attachments": [{ "filename": "a.txt", "contentType": "text/plain", "content": "aGVsbG8=" }],
        });
        app.post_message(&t.test, email).await.expect(202);
        let long = "a".repeat(161);
        app.post_message(&t.test, json!({ "channel": "sms", "to": "+254722000000", "body": long })).await.expect(202);
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        let list = async |key: &str, query: &str| app.with_key(key, http::Method::GET, &format!("/v1/sandbox/messages{query}"), None).await.expect(200);
        let all = list(&t.test, "").await;
        let sms = &all["data"][0];
        assert_eq!((&sms["status"], &sms["content"]), (&json!("delivered"), &json!({ "body": long, "parts": [long[..153], long[153..]] })));
        assert_eq!(
            all["data"][1]["content"],
            json!({
                "from": "Acme <a@example.com>", "subject": "Hi", "bodyText": "Hi Ada", "bodyHtml": "<p>Hi</p>", "replyTo": "help@example.com",
                "cc": ["b@example.com"], "headers": { "X-Campaign": "spring" }, "tags": ["receipts"], "metadata": { "order": "1" },
                "attachments": [{ "filename": "a.txt", "contentType": "text/plain", "size": 5 }],
            })
        );
        let first = list(&t.test, "?channel=email&limit=1").await;
        assert_eq!(first["data"][0]["id"], all["data"][1]["id"]);
        for key in [&t.live, &other.test] {
            assert_eq!(list(key, "").await, json!({ "data": [], "nextCursor": null }));
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_of_large_messages_ends_early_and_the_next_one_goes_on() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let file = json!({ "filename": "a", "contentType": "text/plain", "content": "aGVs".repeat(700_000) });
        let mut sent = Vec::new();
        for n in 0..4 {
            let email = json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": format!("{n}"), "bodyText": "x", "attachments": [file] });
            sent.push(app.post_message(&t.test, email).await.expect(202)["id"].clone());
            app.settle().await;
        }
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        for expected in [2, 2] {
            let page = app.with_key(&t.test, http::Method::GET, &format!("/v1/sandbox/messages{cursor}"), None).await.expect(200);
            let rows = page["data"].as_array().expect("rows");
            assert_eq!(rows.len(), expected);
            assert_eq!(rows[0]["content"]["attachments"][0]["size"], 2_100_000);
            seen.extend(rows.iter().map(|row| row["id"].clone()));
            cursor = format!("?cursor={}", page["nextCursor"].as_str().unwrap_or("end"));
        }
        assert_eq!(cursor, "?cursor=end");
        seen.reverse();
        assert_eq!(seen, sent);
    })
    .await;
}
