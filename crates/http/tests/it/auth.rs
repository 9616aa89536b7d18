//! Who gets in, and where.

use http::Method;
use raven_core::{UserId, tenant::SuspendedBy};
use raven_store::StateChange;
use raven_testkit::app::{TestApp, on_both, request};
use serde_json::{Value, json};
use std::time::Duration;

async fn list_with(app: &TestApp, headers: &[(&str, &str)]) -> raven_testkit::app::Answer {
    app.send(request(Method::GET, "/v1/messages", headers, None)).await
}

#[tokio::test]
async fn keys_that_are_missing_malformed_foreign_or_wrong_are_refused_alike() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        list_with(&app, &[]).await.expect_error(401, "missing_credentials");
        let wrong_secret = format!("{}{}", &t.live[..17], "x".repeat(32));
        let unknown = format!("rk_live_00000000_{}", &t.live[17..]);
        let other_environment = t.live.replace("rk_live", "rk_test");
        let mut answers = Vec::new();
        for bad in ["", "x", "rk_live_", &t.live[..40], &wrong_secret, &unknown, &other_environment, &format!("{}x", t.live)] {
            let mut error = list_with(&app, &[("x-raven-key", bad)]).await.expect_error(401, "invalid_api_key");
            error["requestId"] = Value::Null;
            answers.push(error);
        }
        assert!(answers.windows(2).all(|w| w[0] == w[1]), "an answer must not tell whether a prefix exists");
        list_with(&app, &[("x-raven-key", &t.live)]).await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        list_with(&app, &[("x-raven-key", &t.live)]).await.expect(200);
        let keys = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        let id = keys["data"]
            .as_array()
            .expect("data")
            .iter()
            .find(|k| t.live.starts_with(k["prefix"].as_str().expect("a prefix")))
            .expect("the key")["id"]
            .clone();
        let path = format!("/v1/admin/api-keys/{}", id.as_str().expect("an id"));
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect(204);
        list_with(&app, &[("x-raven-key", &t.live)]).await.expect_error(401, "invalid_api_key");
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect_error(404, "not_found");
        list_with(&app, &[("x-raven-key", &t.test)]).await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_key_revoked_behind_our_back_accepts_nothing() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        app.post_message(&t.test, body.clone()).await.expect(202);
        let keys = app.store.list_keys(t.id, None, None, 10).await.expect("keys");
        let key = keys.iter().find(|k| t.test.starts_with(&k.prefix)).expect("the key");
        // As another node would: this one still remembers the key.
        assert!(app.store.revoke_key(t.id, None, key.id, app.engine.clock.now(), app.audit(t.id)).await.expect("revoked"));
        app.post_message(&t.test, body).await.expect_error(401, "invalid_api_key");
        // What is no acceptance finds out within a second.
        app.clock.advance(Duration::from_secs(1));
        list_with(&app, &[("x-raven-key", &t.test)]).await.expect_error(401, "invalid_api_key");
    })
    .await;
}

#[tokio::test]
async fn a_key_expires_on_time() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let until = app.engine.clock.now().after(Duration::from_secs(10));
        let body = json!({ "name": "short", "environment": "test", "expiresAt": until.to_string() });
        let key = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
        let key = key["plaintext"].as_str().expect("the text").to_owned();
        list_with(&app, &[("x-raven-key", &key)]).await.expect(200);
        app.clock.advance(Duration::from_millis(9_999));
        list_with(&app, &[("x-raven-key", &key)]).await.expect(200);
        app.clock.advance(Duration::from_millis(1));
        list_with(&app, &[("x-raven-key", &key)]).await.expect_error(401, "invalid_api_key");
    })
    .await;
}

#[tokio::test]
async fn scopes_are_kept() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let make = async |scopes: Value| {
            let body = json!({ "name": "k", "environment": "test", "scopes": scopes });
            app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201)["plaintext"]
                .as_str()
                .expect("the text")
                .to_owned()
        };
        let (read, send, admin) =
            (make(json!(["messages:read"])).await, make(json!(["messages:send"])).await, make(json!(["admin:*"])).await);
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        app.post_message(&read, body.clone()).await.expect_error(403, "insufficient_scope");
        app.post_message(&send, body.clone()).await.expect(202);
        list_with(&app, &[("x-raven-key", &send)]).await.expect_error(403, "insufficient_scope");
        app.with_key(&read, Method::GET, "/v1/admin/messages", None).await.expect_error(403, "insufficient_scope");
        assert_eq!(
            app.with_key(&admin, Method::GET, "/v1/admin/messages", None).await.expect(200)["data"].as_array().expect("data").len(),
            1
        );
        // A test key sees and makes nothing live.
        app.with_key(&admin, Method::GET, "/v1/admin/messages?environment=live", None).await.expect_error(403, "insufficient_scope");
        app.with_key(&admin, Method::GET, "/v1/admin/providers", None).await.expect_error(403, "insufficient_scope");
        app.with_key(&admin, Method::POST, "/v1/admin/api-keys", Some(json!({ "name": "x" })))
            .await
            .expect_error(403, "insufficient_scope");
        app.with_key(&admin, Method::POST, "/v1/admin/api-keys", Some(json!({ "name": "x", "environment": "test" }))).await.expect(201);
        app.with_key(
            &admin,
            Method::POST,
            "/v1/admin/api-keys",
            Some(json!({ "name": "x", "environment": "test", "scopes": ["admin:*"] })),
        )
        .await
        .expect_error(403, "insufficient_role");
        let seen = app.with_key(&admin, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        assert!(seen["data"].as_array().expect("data").iter().all(|k| k["environment"] == "test"));
    })
    .await;
}

#[tokio::test]
async fn tokens_and_tenant_headers_are_checked() {
    on_both(async |app| {
        let (a, b) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let bearer = format!("Bearer {}", a.owner);
        let get = async |path: &str, headers: &[(&str, &str)]| app.send(request(Method::GET, path, headers, None)).await;
        get("/v1/admin/me", &[]).await.expect_error(401, "missing_credentials");
        get("/v1/admin/me", &[("authorization", "Basic x")]).await.expect_error(401, "invalid_token");
        get("/v1/admin/me", &[("authorization", "Bearer a.b.c")]).await.expect_error(401, "invalid_token");
        get("/v1/admin/me", &[("x-raven-key", &a.live)]).await.expect_error(401, "missing_credentials");
        let me = get("/v1/admin/me", &[("authorization", &bearer), ("x-app-name", "raven-cloud")]).await.expect(200);
        assert_eq!(
            me["memberships"],
            json!([{ "tenantId": a.id, "tenantSlug": a.slug, "tenantName": "Acme", "role": "owner", "status": "active" }])
        );
        get("/v1/admin/me", &[("authorization", &bearer), ("x-app-name", "other")]).await.expect_error(400, "validation_failed");
        get("/v1/admin/messages", &[("authorization", &bearer)]).await.expect_error(403, "not_a_member");
        get("/v1/admin/messages", &[("authorization", &bearer), ("x-tenant-slug", &b.slug)]).await.expect_error(403, "not_a_member");
        get("/v1/admin/messages", &[("authorization", &bearer), ("x-tenant-slug", "nowhere")]).await.expect_error(403, "not_a_member");
        get("/v1/admin/messages", &[("authorization", &bearer), ("x-tenant-slug", &a.slug)]).await.expect(200);
        get("/v1/messages", &[("authorization", &bearer)]).await.expect_error(401, "missing_credentials");
        get("/v1/messages", &[("x-raven-key", &a.live), ("x-tenant-slug", &b.slug)]).await.expect_error(400, "validation_failed");
        get("/v1/messages", &[("x-raven-key", &a.live), ("x-tenant-slug", &a.slug)]).await.expect(200);
        let old = app.token("ada@example.com");
        app.clock.advance(Duration::from_secs(3600 * 24 * 366));
        get("/v1/admin/me", &[("authorization", &format!("Bearer {old}"))]).await.expect_error(401, "invalid_token");
        let _: UserId = raven_testkit::app::user_id("ada@example.com");
    })
    .await;
}

#[tokio::test]
async fn a_suspended_tenant_reads_as_a_human_and_does_nothing_else() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        app.change_state(t.id, StateChange::Suspend(SuspendedBy::Operator)).await;
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "environment": "test" });
        app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/messages", None).await.expect(200);
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(body)).await.expect_error(403, "tenant_suspended");
        app.post_message(&t.test, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" }))
            .await
            .expect_error(403, "tenant_suspended");
        app.change_state(t.id, StateChange::Reactivate(SuspendedBy::Operator)).await;
    })
    .await;
}
