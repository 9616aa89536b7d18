//! What holds for every request: errors, ids, sizes, types.

use axum::body::Body;
use http::{Method, Request};
use raven_testkit::app::{METRICS_TOKEN, on_both, request};
use serde_json::{Value, json};

fn raw(key: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri("/v1/messages")
        .header("x-raven-key", key)
        .header("content-type", kind)
        .body(body.into())
        .expect("a request")
}

#[tokio::test]
async fn bodies_that_are_not_json_objects_are_refused() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        let deep = format!("{{\"body\":{}{}}}", "[".repeat(100), "]".repeat(100));
        for bad in ["{", "[]", "\"x\"", "7", "null", "{\"a\":1,\"a\":2}", "{\"channel\":\"sms\",}", "{\"body\":\"\u{1}\"}", &deep, "{} {}"]
        {
            app.send(raw(&key, "application/json", bad.to_owned())).await.expect_error(400, "invalid_json");
        }
        app.send(raw(&key, "application/json", &b"{\"body\":\"\xff\"}"[..])).await.expect_error(400, "invalid_json");
        let twice =
            app.send(raw(&key, "application/json", r#"{"externalId":"a","external_id":"b"}"#)).await.expect_error(400, "validation_failed");
        assert_eq!(twice["errors"][0]["field"], "externalId");
    })
    .await;
}

#[tokio::test]
async fn sizes_and_types_are_checked() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        app.send(raw(&t.test, "text/plain", "{}")).await.expect_error(415, "unsupported_media_type");
        app.send(raw(&t.test, "application/x-www-form-urlencoded", "a=b")).await.expect_error(415, "unsupported_media_type");
        app.send(raw(&t.test, "application/json; charset=utf-8", "{}")).await.expect_error(400, "validation_failed");
        app.send(raw(&t.test, "application/json", vec![b' '; 25 * 1024 * 1024 + 1])).await.expect_error(413, "body_too_large");
        let bearer = format!("Bearer {}", t.owner);
        let mut big = request(
            Method::POST,
            "/v1/admin/api-keys",
            &[("authorization", &bearer), ("x-tenant-slug", &t.slug), ("content-type", "application/json")],
            None,
        );
        *big.body_mut() = Body::from(vec![b' '; 1024 * 1024 + 1]);
        app.send(big).await.expect_error(413, "body_too_large");
    })
    .await;
}

#[tokio::test]
async fn unknown_routes_methods_and_parameters_are_told_apart() {
    on_both(async |app| {
        let key = app.tenant("Acme").await.test;
        app.with_key(&key, Method::GET, "/v1/nothing", None).await.expect_error(404, "not_found");
        app.with_key(&key, Method::PUT, "/v1/messages", None).await.expect_error(405, "method_not_allowed");
        let error = app.with_key(&key, Method::GET, "/v1/messages?statsu=sent", None).await.expect_error(400, "unknown_field");
        assert_eq!(error["errors"], json!([{ "field": "statsu", "message": "is not known here; did you mean status?" }]));
        app.with_key(&key, Method::POST, "/v1/messages?verbose=true", Some(json!({}))).await.expect_error(400, "unknown_field");
        app.with_key(&key, Method::GET, "/v1/messages?limit=1&limit=2", None).await.expect_error(400, "unknown_field");
        app.with_key(&key, Method::GET, "/v1/messages?external_id=x", None).await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    on_both(async |app| {
        let fresh = app.send(request(Method::GET, "/healthz", &[], None)).await;
        assert_eq!(fresh.headers["x-request-id"].len(), 32);
        let sane = app.send(request(Method::GET, "/v1/nothing", &[("x-request-id", "order-7:a/b.c_d")], None)).await;
        assert_eq!(sane.headers["x-request-id"], "order-7:a/b.c_d");
        assert_eq!(sane.body["requestId"], "order-7:a/b.c_d");
        for insane in ["a b", "<script>", &"x".repeat(129)] {
            let answer = app.send(request(Method::GET, "/healthz", &[("x-request-id", insane)], None)).await;
            assert_ne!(answer.headers["x-request-id"], insane);
        }
    })
    .await;
}

#[tokio::test]
async fn the_error_shape_is_the_published_one() {
    on_both(async |app| {
        let error = app
            .send(request(Method::GET, "/v1/messages", &[("x-raven-key", "rk_live_00000000_00000000000000000000000000000000")], None))
            .await
            .expect_error(401, "invalid_api_key");
        let names: Vec<&String> = error.as_object().expect("an object").keys().collect();
        assert_eq!(names.len(), 6, "{names:?}");
        assert_eq!(
            (&error["statusCode"], &error["path"], &error["message"]),
            (&json!(401), &json!("/v1/messages"), &json!("Invalid API key"))
        );
    })
    .await;
}

#[tokio::test]
async fn health_and_metrics_answer() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        app.post_message(&tenant.test, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" })).await.expect(202);
        app.settle().await;
        app.engine.housekeeping.measure().await.expect("the store works");
        assert_eq!(app.send(request(Method::GET, "/healthz", &[], None)).await.expect(200)["status"], "ok");
        assert_eq!(app.send(request(Method::GET, "/readyz", &[], None)).await.expect(200)["status"], "ok");
        app.send(request(Method::GET, "/metrics", &[], None)).await.expect_error(401, "missing_credentials");
        app.send(request(Method::GET, "/metrics", &[("authorization", "Bearer wrong")], None)).await.expect_error(401, "invalid_token");
        let bearer = format!("Bearer {METRICS_TOKEN}");
        let metrics = app.send(request(Method::GET, "/metrics", &[("authorization", &bearer)], None)).await;
        let text = String::from_utf8_lossy(&metrics.raw).into_owned();
        assert!(text.contains("raven_messages_accepted_total 1"), "{text}");
        assert!(text.contains(r#"raven_attempts_total{provider="sandbox",outcome="sent"} 1"#), "{text}");
        assert!(text.contains(r#"raven_queue_depth{channel="sms"} 1"#), "{text}");
        assert!(!text.contains(&tenant.slug) && !text.contains("254722"), "no tenant and no person in a label");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_fails_is_503_and_tells_nothing() {
    on_both(async |app| {
        let tenant = app.tenant("Acme").await;
        app.store.close().await;
        let answer = app.post_message(&tenant.test, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" })).await;
        assert!(answer.headers.contains_key("retry-after"));
        let error: Value = answer.expect_error(503, "overloaded");
        let text = error.to_string().to_lowercase();
        assert!(!text.contains("sqlite") && !text.contains("postgres") && !text.contains("pool"), "{text}");
        app.send(request(Method::GET, "/readyz", &[], None)).await.expect(503);
    })
    .await;
}
