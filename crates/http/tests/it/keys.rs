//! API keys.

use http::Method;
use raven_testkit::app::on_both;
use serde_json::{Value, json};

#[tokio::test]
async fn a_key_is_shown_once_and_stored_as_hashes_only() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({ "name": "Orders", "idempotencyKey": "k", "rateLimitRpm": 5, "environment": "live" });
        let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body.clone())).await.expect(201);
        let plaintext = created["plaintext"].as_str().expect("the text");
        assert!(plaintext.starts_with(created["prefix"].as_str().expect("a prefix")));
        assert!(plaintext.ends_with(created["lastFour"].as_str().expect("four characters")));
        assert_eq!(plaintext.len(), "rk_live_a3f7b2c1_".len() + 32);
        assert_eq!(
            (&created["scopes"], &created["rateLimitRpm"], &created["expiresAt"]),
            (&json!(["messages:send", "messages:read"]), &json!(5), &Value::Null)
        );

        let replay = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await;
        assert_eq!(replay.headers["idempotent-replayed"], "true");
        let replay = replay.expect(201);
        assert!(replay.get("plaintext").is_none());
        assert_eq!(replay["id"], created["id"]);

        let id = created["id"].as_str().expect("an id");
        let found = app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/api-keys/{id}"), None).await.expect(200);
        assert!(found.get("plaintext").is_none() && !found.to_string().contains(&plaintext[17..]));
        let stored = app.store.find_key_by_prefix(&plaintext[..16]).await.expect("read").expect("a key").0;
        assert!(stored.secret_hash.starts_with("$argon2id$") && !stored.secret_hash.contains(&plaintext[17..]));
    })
    .await;
}

#[tokio::test]
async fn bad_key_requests_are_explained() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let past = "2020-01-01T00:00:00Z";
        let body = json!({ "name": "", "scopes": ["messages:fly"], "environment": "prod", "rateLimitRpm": 0, "expiresAt": past, "plaintext": "x" });
        let error = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect_error(400, "validation_failed");
        let mut fields: Vec<&str> = error["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str().expect("a field")).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["environment", "expiresAt", "name", "plaintext", "rateLimitRpm", "scopes"]);
        let error = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", None).await.expect_error(400, "validation_failed");
        assert_eq!(error["errors"][0]["field"], "name");
    })
    .await;
}

#[tokio::test]
async fn another_tenants_key_is_not_found() {
    on_both(async |app| {
        let (a, b) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let keys = app.as_human(&a.owner, &a.slug, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        let path = format!("/v1/admin/api-keys/{}", keys["data"][0]["id"].as_str().expect("an id"));
        app.as_human(&b.owner, &b.slug, Method::GET, &path, None).await.expect_error(404, "not_found");
        app.as_human(&b.owner, &b.slug, Method::DELETE, &path, None).await.expect_error(404, "not_found");
        app.as_human(&a.owner, &a.slug, Method::GET, &path, None).await.expect(200);
    })
    .await;
}
