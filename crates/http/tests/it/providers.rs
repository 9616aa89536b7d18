//! Providers and their configs.

use http::Method;
use raven_testkit::app::on_both;
use serde_json::json;

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
        assert_eq!(ids, ["africas_talking", "twilio", "smtp"]);
        let key =
            catalog["data"][0]["fields"].as_array().expect("fields").iter().find(|f| f["name"] == "api_key").expect("the key's field");
        assert_eq!((&key["secret"], &key["required"], &key["type"]), (&json!(true), &json!(true), &json!("string")));
    })
    .await;
}
