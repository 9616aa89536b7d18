//! What holds for every operation of the OpenAPI document, whichever it is.

use std::collections::BTreeMap;

use http::{Method, Request, StatusCode};
use raven_core::tenant::SuspendedBy;
use raven_engine::plans::{Plan, Plans};
use raven_store::StateChange;
use raven_testkit::app::{Answer, TestApp, TestOptions, TestTenant, on_both, on_both_with, request, user_id};
use serde_json::{Value, json};

use crate::walk::{Operation, key, operations};

fn with_body(o: &Operation, headers: &[(&str, &str)]) -> Request<axum::body::Body> {
    let body = (o.method == Method::POST || o.method == Method::PATCH).then(|| json!({}));
    request(o.method.clone(), &o.path, headers, body)
}

async fn as_human(app: &TestApp, o: &Operation, token: &str, slug: &str) -> Answer {
    app.send(with_body(o, &[("authorization", &format!("Bearer {token}")), ("x-tenant-slug", slug)])).await
}

async fn with_key(app: &TestApp, o: &Operation, key: &str) -> Answer {
    app.send(with_body(o, &[("x-raven-key", key)])).await
}

/// Real resources of a tenant, by the templates of the paths that lead to them.
async fn resources(app: &TestApp, t: &TestTenant) -> BTreeMap<&'static str, String> {
    let text = |v: &Value| v["id"].as_str().expect("an id").to_owned();
    let post = async |path: &str, body: Value| text(&app.as_human(&t.owner, &t.slug, Method::POST, path, Some(body)).await.expect(201));
    let key = post("/v1/admin/api-keys", json!({ "name": "k" })).await;
    let smtp = json!({ "provider": "smtp", "label": "Mail", "publicConfig": { "host": "mail.example.com", "port": 25, "secure": false, "username": "u", "from_email": "a@example.com" }, "secretConfig": { "password": "p" } });
    let config = post("/v1/admin/providers", smtp).await;
    let suppression = post("/v1/admin/suppressions", json!({ "channel": "sms", "address": "+254722999999" })).await;
    let invitation = post("/v1/admin/members", json!({ "email": "invited@example.com", "role": "viewer" })).await;
    let message = text(&app.post_message(&t.test, json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" })).await.expect(202));
    app.settle().await;
    app.join(t, "member-of-acme@example.com", "viewer").await;
    BTreeMap::from([
        ("/v1/messages/{id}", message.clone()),
        ("/v1/messages/{id}/explain", message.clone()),
        ("/v1/admin/messages/{id}/explain", message.clone()),
        ("/v1/admin/messages/{id}", message),
        ("/v1/admin/api-keys/{id}", key.clone()),
        ("/v1/admin/api-keys/{id}/rotate", key),
        ("/v1/admin/providers/{id}", config.clone()),
        ("/v1/admin/providers/{id}/verify", config.clone()),
        ("/v1/admin/providers/{id}/test", config),
        ("/v1/admin/suppressions/{id}", suppression),
        ("/v1/admin/members/{userId}", user_id("member-of-acme@example.com").to_string()),
        ("/v1/admin/members/invitations/{id}", invitation.clone()),
        ("/v1/admin/invitations/{id}/accept", invitation.clone()),
        ("/v1/admin/invitations/{id}/decline", invitation),
    ])
}

#[tokio::test]
async fn without_a_credential_there_is_nothing_but_401() {
    on_both(async |app| {
        let all = operations(&app, &BTreeMap::new());
        assert!(all.len() > 35, "{} operations", all.len());
        for o in &all {
            for headers in
                [&[][..], &[("x-raven-key", "rk_live_00000000_00000000000000000000000000000000")], &[("authorization", "Bearer a.b.c")]]
            {
                let answer = app.send(with_body(o, headers)).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{o:?} {headers:?}");
                assert!(answer.headers.contains_key("www-authenticate"), "{o:?}");
            }
        }
        let mut open: Vec<_> = app
            .contract
            .operations()
            .filter(|(_, _, o)| o["x-raven-role"].is_null() && o["x-raven-scope"].is_null())
            // Callbacks prove themselves, or are refused: see `callbacks`.
            .filter(|(_, path, _)| !path.starts_with("/v1/webhooks/"))
            .map(|(_, path, _)| path)
            .collect();
        open.sort_unstable();
        // Whoever has a link is its recipient: see `unsubscribe`.
        let links = "/v1/unsubscribe/{token}";
        assert_eq!(open, ["/healthz", "/metrics", "/readyz", "/v1/openapi.json", links, links], "this list may only shrink");
    })
    .await;
}

#[tokio::test]
async fn too_small_a_role_is_403_and_the_documented_one_is_enough() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let roles = ["viewer", "member", "admin", "owner"];
        let mut tokens = Vec::new();
        for role in roles {
            tokens.push(app.join(&t, &format!("{role}@example.com"), role).await);
        }
        let stranger = app.token("stranger@example.com");
        // What ends a session comes last.
        let mut all = operations(&app, &BTreeMap::new());
        all.retain(|o| o.role.as_deref().is_some_and(|role| role != "signed-in"));
        all.sort_by_key(|o| {
            ["/suspend", "/reactivate", "/archive", "/restore"].iter().position(|end| o.path.ends_with(end)).map_or(0, |n| n + 1)
        });
        for o in &all {
            as_human(&app, o, &stranger, &t.slug).await.expect_error(403, "not_a_member");
            as_human(&app, o, &tokens[3], "nowhere").await.expect_error(403, "not_a_member");
            let needed = roles.iter().position(|r| Some(*r) == o.role.as_deref()).unwrap_or_else(|| panic!("{o:?}"));
            if needed > 0 {
                as_human(&app, o, &tokens[needed - 1], &t.slug).await.expect_error(403, "insufficient_role");
            }
            let removes_others = o.method == Method::DELETE && o.template == "/v1/admin/members/{userId}";
            let enough = as_human(&app, o, &tokens[if removes_others { 2 } else { needed }], &t.slug).await;
            assert!(enough.status != 403 && enough.status != 401, "{o:?}: {}", enough.body);
        }
    })
    .await;
}

#[tokio::test]
async fn too_small_a_scope_is_403_and_the_documented_one_is_enough() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let send = key(&app, &t, "live", &["messages:send"]).await;
        let read = key(&app, &t, "live", &["messages:read"]).await;
        let admin = key(&app, &t, "live", &["admin:*"]).await;
        for o in operations(&app, &BTreeMap::new()) {
            let (good, bad) = match o.scope.as_deref() {
                Some("messages:send") => (&send, [&read, &admin]),
                Some("messages:read") => (&read, [&send, &admin]),
                Some(other) => panic!("{other}"),
                None => (&admin, [&send, &read]),
            };
            if o.role.as_deref() == Some("signed-in") {
                // A key is nobody there.
                with_key(&app, &o, &admin).await.expect_error(401, "missing_credentials");
                continue;
            }
            for key in bad {
                with_key(&app, &o, key).await.expect_error(403, "insufficient_scope");
            }
            let answer = with_key(&app, &o, good).await;
            if o.takes_keys() {
                assert!(answer.status != 403 && answer.status != 401, "{o:?}: {}", answer.body);
            } else {
                answer.expect_error(403, "insufficient_role");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn another_tenants_ids_are_not_found() {
    on_both(async |app| {
        let (acme, bolt) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let ids = resources(&app, &acme).await;
        let admin = key(&app, &bolt, "live", &["admin:*"]).await;
        let with_ids: Vec<Operation> = operations(&app, &ids).into_iter().filter(|o| o.template.contains('{')).collect();
        for o in &with_ids {
            assert!(ids.contains_key(o.template.as_str()), "no resource for {}: add one above", o.template);
            let valid = match o.template.as_str() {
                "/v1/admin/members/{userId}" if o.method == Method::PATCH => json!({ "role": "viewer" }),
                "/v1/admin/providers/{id}/test" => json!({ "to": "ada@example.com" }),
                _ => json!({}),
            };
            let body = (o.method == Method::POST || o.method == Method::PATCH).then_some(valid);
            if o.role.is_some() {
                app.as_human(&bolt.owner, &bolt.slug, o.method.clone(), &o.path, body.clone()).await.expect_error(404, "not_found");
            }
            let key = match (o.scope.is_some(), o.takes_keys()) {
                (true, _) => &bolt.test,
                (_, true) => &admin,
                _ => continue,
            };
            app.with_key(key, o.method.clone(), &o.path, body).await.expect_error(404, "not_found");
        }
        // All of it is still there.
        for o in with_ids.iter().filter(|o| o.method == Method::GET && o.role.is_some()) {
            as_human(&app, o, &acme.owner, &acme.slug).await.expect(200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_suspended_tenant_is_read_by_humans_and_changed_by_nobody() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let admin = key(&app, &t, "live", &["admin:*"]).await;
        let ids = resources(&app, &t).await;
        app.change_state(t.id, StateChange::Suspend(SuspendedBy::Owner)).await;
        app.clock.advance(std::time::Duration::from_secs(1));
        for o in operations(&app, &ids) {
            if o.role.as_deref() == Some("signed-in") {
                continue;
            }
            for key in [&t.live, &t.test, &admin] {
                with_key(&app, &o, key).await.expect_error(403, "tenant_suspended");
            }
            if o.scope.is_some() || o.template.ends_with("/reactivate") || o.template.ends_with("/restore") {
                continue;
            }
            let answer = as_human(&app, &o, &t.owner, &t.slug).await;
            if o.method == Method::GET {
                answer.expect(200);
            } else {
                answer.expect_error(403, "tenant_suspended");
            }
        }
        // To restore what is not archived is no use, and the owner can lift the suspension.
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/restore", None).await.expect_error(409, "invalid_state");
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/reactivate", None).await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn an_archived_tenant_can_only_be_restored() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let admin = key(&app, &t, "live", &["admin:*"]).await;
        let ids = resources(&app, &t).await;
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/archive", None).await.expect(200);
        for o in operations(&app, &ids) {
            if o.role.as_deref() == Some("signed-in") {
                continue;
            }
            for key in [&t.live, &t.test, &admin] {
                with_key(&app, &o, key).await.expect_error(403, "tenant_archived");
            }
            if o.scope.is_none() && !o.template.ends_with("/restore") {
                as_human(&app, &o, &t.owner, &t.slug).await.expect_error(403, "tenant_archived");
            }
        }
        let restored = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/restore", None).await.expect(200);
        assert_eq!(restored["status"], "active");
        for o in operations(&app, &ids).iter().filter(|o| o.method == Method::GET && o.role.is_some()) {
            as_human(&app, o, &t.owner, &t.slug).await.expect(200);
        }
    })
    .await;
}

#[tokio::test]
async fn every_operation_is_limited_and_says_so() {
    let plan = Plan { name: "tight".to_owned(), admin_rpm: Some(30), key_rpm: Some(5), ..Plan::free() };
    let options = TestOptions { plans: Some(Plans::new(vec![plan], "tight").expect("plans")), ..TestOptions::default() };
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let all = operations(&app, &BTreeMap::new());
        let list = || async { app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/messages", None).await };
        while list().await.status == 200 {}
        while app.with_key(&t.live, Method::GET, "/v1/messages", None).await.status == 200 {}
        let me = || async { app.as_human(&t.owner, "", Method::GET, "/v1/admin/me", None).await };
        while me().await.status == 200 {}
        for o in &all {
            let answer = if o.scope.is_some() { with_key(&app, o, &t.live).await } else { as_human(&app, o, &t.owner, &t.slug).await };
            let limit = if o.scope.is_some() { "5" } else { "30" };
            assert_eq!([&answer.headers["ratelimit-limit"], &answer.headers["ratelimit-remaining"]], [limit, "0"], "{o:?}");
            let wait: u64 = answer.headers["retry-after"].to_str().ok().and_then(|v| v.parse().ok()).expect("seconds");
            assert!((1..=60).contains(&wait), "{o:?}: {wait}");
            answer.expect_error(429, "rate_limited");
        }
    })
    .await;
}
