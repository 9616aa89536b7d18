//! A tenant's life, its people, and the log of what they did.

use std::time::Duration;

use http::Method;
use raven_core::tenant::SuspendedBy;
use raven_store::StateChange;
use raven_testkit::app::{Answer, TestApp, TestTenant, on_both, request, user_id};
use serde_json::{Value, json};

async fn owner(app: &TestApp, t: &TestTenant, method: Method, path: &str, body: Value) -> Answer {
    app.as_human(&t.owner, &t.slug, method, path, Some(body)).await
}

async fn human(app: &TestApp, email: &str, method: Method, path: &str) -> Answer {
    let bearer = format!("Bearer {}", app.token(email));
    app.send(request(method, path, &[("authorization", &bearer)], None)).await
}

#[tokio::test]
async fn what_waits_is_held_while_a_tenant_is_suspended() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let id = app.post_message(&t.test, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" })).await.expect(202)["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        app.settle().await;
        owner(&app, &t, Method::POST, "/v1/admin/tenant/suspend", json!({})).await.expect(200);
        app.advance(Duration::from_secs(60)).await;
        let path = format!("/v1/admin/messages/{id}");
        assert_eq!(app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"], "sent");
        owner(&app, &t, Method::POST, "/v1/admin/tenant/reactivate", json!({})).await.expect(200);
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["status"], "delivered");
    })
    .await;
}

#[tokio::test]
async fn an_operators_suspension_is_not_the_owners_to_lift() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        app.change_state(t.id, StateChange::Suspend(SuspendedBy::Operator)).await;
        owner(&app, &t, Method::POST, "/v1/admin/tenant/reactivate", json!({})).await.expect_error(403, "tenant_suspended");
        app.change_state(t.id, StateChange::Reactivate(SuspendedBy::Operator)).await;
        owner(&app, &t, Method::POST, "/v1/admin/tenant/reactivate", json!({})).await.expect_error(409, "invalid_state");
    })
    .await;
}

#[tokio::test]
async fn an_archived_tenant_is_deleted_after_thirty_days_and_its_neighbour_stays() {
    on_both(async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        owner(&app, &t, Method::POST, "/v1/admin/tenant/archive", json!({})).await.expect(200);
        app.clock.advance(Duration::from_secs(29 * 86_400));
        app.engine.housekeeping.tidy().await.expect("the store works");
        assert!(app.store.find_tenant(t.id).await.expect("read").is_some());
        app.clock.advance(Duration::from_secs(86_400 + 1));
        owner(&app, &t, Method::POST, "/v1/admin/tenant/restore", json!({})).await.expect_error(409, "invalid_state");
        app.engine.housekeeping.tidy().await.expect("the store works");
        assert!(app.store.find_tenant(t.id).await.expect("read").is_none());
        assert!(app.store.find_tenant(other.id).await.expect("read").is_some());
        owner(&app, &t, Method::POST, "/v1/admin/tenant/restore", json!({})).await.expect_error(403, "not_a_member");
        app.with_key(&t.live, Method::GET, "/v1/messages", None).await.expect_error(401, "invalid_api_key");
    })
    .await;
}

#[tokio::test]
async fn invitations_are_for_the_verified_address_and_good_once() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let invite = async |email: &str, role: &str| {
            let body = json!({ "email": email, "role": role });
            owner(&app, &t, Method::POST, "/v1/admin/members", body).await
        };
        let id = invite("Ada@Example.com", "admin").await.expect(201)["id"].as_str().expect("an id").to_owned();
        invite("ada@example.com", "viewer").await.expect_error(409, "already_invited");
        let path = format!("/v1/admin/invitations/{id}/accept");
        human(&app, "eve@example.com", Method::POST, &path).await.expect_error(404, "not_found");
        assert_eq!(
            human(&app, "ada@example.com", Method::GET, "/v1/admin/invitations").await.expect(200)["data"][0]["tenantSlug"],
            t.slug.as_str()
        );
        human(&app, "ada@example.com", Method::POST, &path).await.expect(200);
        human(&app, "ada@example.com", Method::POST, &path).await.expect_error(409, "invalid_state");
        // An admin gives no role above their own, and touches no owner.
        let ada = app.token("ada@example.com");
        let as_ada = async |method, path: &str, body| app.as_human(&ada, &t.slug, method, path, body).await;
        let too_much = json!({ "email": "bob@example.com", "role": "owner" });
        as_ada(Method::POST, "/v1/admin/members", Some(too_much)).await.expect_error(403, "insufficient_role");
        let owner_path = format!("/v1/admin/members/{}", user_id("owner-of-acme@example.com"));
        as_ada(Method::PATCH, &owner_path, Some(json!({ "role": "viewer" }))).await.expect_error(403, "insufficient_role");
        as_ada(Method::DELETE, &owner_path, None).await.expect_error(403, "insufficient_role");
        // The last owner stays; after a transfer they may go, and their open session is an admin's.
        app.as_human(&t.owner, &t.slug, Method::DELETE, &owner_path, None).await.expect_error(409, "last_owner");
        let to = json!({ "userId": user_id("ada@example.com") });
        assert_eq!(owner(&app, &t, Method::POST, "/v1/admin/tenant/transfer-ownership", to).await.expect(200)["role"], "owner");
        owner(&app, &t, Method::POST, "/v1/admin/tenant/archive", json!({})).await.expect_error(403, "insufficient_role");
        app.as_human(&t.owner, &t.slug, Method::DELETE, &owner_path, None).await.expect(204);
        app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/tenant", None).await.expect_error(403, "not_a_member");
    })
    .await;
}

#[tokio::test]
async fn a_rotated_key_leaves_the_old_one_valid_for_the_overlap() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let keys = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        let all = keys["data"].as_array().expect("data");
        let id = |key: &str| {
            all.iter().find(|k| key.starts_with(k["prefix"].as_str().expect("text"))).expect("it")["id"].as_str().expect("id").to_owned()
        };
        let path = format!("/v1/admin/api-keys/{}/rotate", id(&t.test));
        let body = json!({ "overlapSeconds": 60, "idempotencyKey": "r" });
        let made = owner(&app, &t, Method::POST, &path, body.clone()).await.expect(201);
        let fresh = made["plaintext"].as_str().expect("the text").to_owned();
        let replay = owner(&app, &t, Method::POST, &path, body.clone()).await.expect(201);
        assert_eq!((&replay["id"], replay.get("plaintext")), (&made["id"], None));
        // The same body to another key of the environment is another payload.
        let other = format!("/v1/admin/api-keys/{}/rotate", made["id"].as_str().expect("id"));
        owner(&app, &t, Method::POST, &other, body.clone()).await.expect_error(409, "idempotency_key_reused");
        let get = async |key: &str| app.with_key(key, Method::GET, "/v1/messages", None).await.status.as_u16();
        assert_eq!((get(&fresh).await, get(&t.test).await), (200, 200));
        app.clock.advance(Duration::from_secs(61));
        assert_eq!((get(&fresh).await, get(&t.test).await), (200, 401));
        // An expired key is not brought back to life; the replay of its rotation still answers.
        owner(&app, &t, Method::POST, &path, json!({})).await.expect_error(409, "invalid_state");
        assert_eq!(owner(&app, &t, Method::POST, &path, body.clone()).await.expect(201)["id"], made["id"]);
        // So it does when the old key is revoked.
        let old = path.trim_end_matches("/rotate");
        app.as_human(&t.owner, &t.slug, Method::DELETE, old, None).await.expect(204);
        assert_eq!(owner(&app, &t, Method::POST, &path, body).await.expect(201)["id"], made["id"]);
        owner(&app, &t, Method::POST, &path, json!({ "idempotencyKey": "another" })).await.expect_error(404, "not_found");
        app.engine.keyring.write_last_used().await.expect("the store works");
        let shown =
            app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/api-keys/{}", made["id"].as_str().expect("id")), None).await;
        assert_eq!(shown.expect(200)["lastUsedAt"], app.engine.clock.now().to_string().as_str());
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_tells_every_change_and_no_secret() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let secret = "atsk_that_nobody_must_see";
        let config = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": secret } });
        let config = owner(&app, &t, Method::POST, "/v1/admin/providers", config).await.expect(201);
        owner(&app, &t, Method::PATCH, "/v1/admin/tenant", json!({ "name": "Acme Ltd", "countryCode": null })).await.expect(200);
        owner(&app, &t, Method::PATCH, "/v1/admin/tenant", json!({ "defaultTz": "Mars/Base" })).await.expect_error(400, "validation_failed");
        let path = format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"));
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect(204);
        let sent = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "environment": "test", "idempotencyKey": "k" });
        let message = owner(&app, &t, Method::POST, "/v1/admin/messages", sent.clone()).await.expect(202);
        owner(&app, &t, Method::POST, "/v1/admin/messages", sent).await.expect(202);
        app.join(&t, "ada@example.com", "viewer").await;
        owner(&app, &t, Method::POST, "/v1/admin/tenant/suspend", json!({})).await.expect(200);
        owner(&app, &t, Method::POST, "/v1/admin/tenant/reactivate", json!({})).await.expect(200);

        let (mut entries, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/audit-log?limit=3{cursor}"), None).await.expect(200);
            entries.extend(page["data"].as_array().expect("data").clone());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let actions: Vec<&str> = entries.iter().rev().map(|e| e["action"].as_str().expect("text")).collect();
        assert_eq!(
            actions,
            [
                "tenant.create", "api_key.create", "api_key.create", "provider_config.create", "tenant.update", "provider_config.delete",
                "message.send", "invitation.create", "invitation.accept", "tenant.suspend", "tenant.reactivate"
            ]
        );
        let all = json!(entries).to_string();
        assert!(!all.contains(secret) && !all.contains(&t.live[17..]) && !all.contains("254722"), "{all}");
        let change = entries.iter().find(|e| e["action"] == "tenant.update").expect("it");
        assert_eq!((&change["before"]["name"], &change["after"]["name"]), (&json!("Acme"), &json!("Acme Ltd")));
        assert_eq!((&change["actor"]["type"], &change["actor"]["name"]), (&json!("user"), &json!("owner-of-acme@example.com")));
        assert!(change["requestId"].is_string());
        let send = entries.iter().find(|e| e["action"] == "message.send").expect("it");
        assert_eq!(send["resource"]["id"], message["id"]);
        app.settle().await;
    })
    .await;
}
