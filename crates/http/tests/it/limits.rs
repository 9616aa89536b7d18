//! Rate limits: of keys, of tenants, of humans, of addresses that guess; alone and on many nodes.

use std::{net::IpAddr, time::Duration};

use http::Method;
use raven_engine::{
    limiter::FAILURES_PER_MINUTE,
    plans::{Plan, Plans},
};
use raven_http::layers::Peer;
use raven_testkit::{
    app::{Answer, TestApp, TestOptions, TestTenant, on_both_with, request},
    database::{Database, postgres_store},
};
use serde_json::{Value, json};

fn options(plan: Plan) -> TestOptions {
    let plan = Plan { name: "tested".to_owned(), ..plan };
    TestOptions { plans: Some(Plans::new(vec![plan], "tested").expect("plans")), ..TestOptions::default() }
}

fn roomy() -> Plan {
    Plan { admin_rpm: None, key_rpm: None, ..Plan::free() }
}

async fn list(app: &TestApp, key: &str) -> Answer {
    app.with_key(key, Method::GET, "/v1/messages", None).await
}

fn number(answer: &Answer, name: &str) -> u32 {
    answer.headers[name].to_str().ok().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{name} in {:?}", answer.headers))
}

/// Requests of `times` that are let through.
async fn allowed(app: &TestApp, key: &str, times: u32) -> u32 {
    let mut allowed = 0;
    for _ in 0..times {
        allowed += u32::from(list(app, key).await.status == 200);
    }
    allowed
}

async fn key_with(app: &TestApp, t: &TestTenant, extra: Value) -> String {
    let mut body = json!({ "name": "k" });
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
    made["plaintext"].as_str().expect("the text").to_owned()
}

#[tokio::test]
async fn a_key_has_its_plans_rate_and_is_told_where_it_stands() {
    on_both_with(options(Plan { key_rpm: Some(6), ..roomy() }), async |app| {
        let t = app.tenant("Acme").await;
        for left in (0..6).rev() {
            let answer = list(&app, &t.live).await;
            assert_eq!(
                [number(&answer, "ratelimit-limit"), number(&answer, "ratelimit-remaining"), number(&answer, "ratelimit-reset")],
                [6, left, (6 - left) * 10]
            );
            answer.expect(200);
        }
        let refused = list(&app, &t.live).await;
        assert_eq!((number(&refused, "ratelimit-remaining"), number(&refused, "retry-after")), (0, 10));
        refused.expect_error(429, "rate_limited");
        // The other key has its own; what is wrong counts, too.
        app.with_key(&t.test, Method::GET, "/v1/messages?limit=0", None).await.expect_error(400, "validation_failed");
        app.with_key(&t.test, Method::GET, "/v1/messages/x", None).await.expect_error(404, "not_found");
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "idempotencyKey": "k" });
        app.post_message(&t.test, body.clone()).await.expect(202);
        assert_eq!(number(&app.post_message(&t.test, body).await, "ratelimit-remaining"), 2);
        // It refills evenly: no double burst at the edge of a minute.
        app.clock.advance(Duration::from_secs(9));
        assert_eq!(allowed(&app, &t.live, 3).await, 0);
        app.clock.advance(Duration::from_secs(1));
        assert_eq!(allowed(&app, &t.live, 3).await, 1);
        app.clock.advance(Duration::from_secs(600));
        assert_eq!(allowed(&app, &t.live, 10).await, 6);
    })
    .await;
}

#[tokio::test]
async fn a_key_may_have_a_rate_of_its_own_up_to_the_plans_cap() {
    on_both_with(options(Plan { key_rpm: Some(2), max_key_rpm: Some(8), ..roomy() }), async |app| {
        let t = app.tenant("Acme").await;
        let own = key_with(&app, &t, json!({ "rateLimitRpm": 5 })).await;
        assert_eq!(allowed(&app, &own, 10).await, 5);
        let capped = key_with(&app, &t, json!({ "rateLimitRpm": 100_000_000 })).await;
        assert_eq!(allowed(&app, &capped, 20).await, 8);
        assert_eq!(allowed(&app, &t.live, 10).await, 2);
        // A change counts at once.
        let keys = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        let id = keys["data"]
            .as_array()
            .expect("data")
            .iter()
            .find(|k| own.starts_with(k["prefix"].as_str().expect("a prefix")))
            .expect("the key")["id"]
            .clone();
        let path = format!("/v1/admin/api-keys/{}", id.as_str().expect("an id"));
        let changed = app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(json!({ "rate_limit_rpm": null }))).await.expect(200);
        assert_eq!(changed["rateLimitRpm"], Value::Null);
        app.clock.advance(Duration::from_secs(120));
        assert_eq!(allowed(&app, &own, 10).await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_tenants_admin_endpoints_share_one_limit_and_a_human_has_another() {
    on_both_with(options(Plan { admin_rpm: Some(21), key_rpm: None, ..Plan::free() }), async |app| {
        let t = app.tenant("Acme").await;
        let admin = key_with(&app, &t, json!({ "scopes": ["admin:*"] })).await;
        let get = async |token: &str, path: &str| app.as_human(token, &t.slug, Method::GET, path, None).await;
        // Three keys were made before.
        let mut left = 21 - 3;
        while left > 0 {
            get(&t.owner, "/v1/admin/providers").await.expect(200);
            app.with_key(&admin, Method::GET, "/v1/admin/usage", None).await.expect(200);
            left -= 2;
        }
        get(&t.owner, "/v1/admin/providers").await.expect_error(429, "rate_limited");
        app.with_key(&admin, Method::GET, "/v1/admin/usage", None).await.expect_error(429, "rate_limited");
        // Sending goes on, and so do other tenants and what belongs to none.
        app.with_key(&t.live, Method::GET, "/v1/messages", None).await.expect(200);
        app.tenant("Bolt").await;
        assert_eq!(number(&get(&t.owner, "/v1/admin/me").await, "ratelimit-remaining"), 21 - 2);
        // Knocking at tenants that one does not belong to is counted by human.
        let stranger = app.token("eve@example.com");
        for _ in 0..21 {
            get(&stranger, "/v1/admin/providers").await.expect_error(403, "not_a_member");
        }
        get(&stranger, "/v1/admin/providers").await.expect_error(429, "rate_limited");
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_are_limited_by_address_and_good_ones_go_on() {
    on_both_with(options(roomy()), async |app| {
        let t = app.tenant("Acme").await;
        let from = async |ip: &str, headers: &[(&str, &str)]| {
            let mut request = request(Method::GET, "/v1/messages", headers, None);
            request.extensions_mut().insert(Peer(ip.parse::<IpAddr>().expect("an address")));
            app.send(request).await
        };
        let wrong = format!("{}{}", &t.live[..17], "x".repeat(32));
        for n in 0..FAILURES_PER_MINUTE {
            let headers: &[(&str, &str)] = if n % 2 == 0 { &[("x-raven-key", &wrong)] } else { &[] };
            assert_eq!(from("192.0.2.1", headers).await.status, 401, "{n}");
        }
        let refused = from("192.0.2.1", &[("x-raven-key", &wrong)]).await;
        assert_eq!(number(&refused, "retry-after"), 1);
        refused.expect_error(429, "rate_limited");
        from("192.0.2.1", &[("x-raven-key", &t.live)]).await.expect(200);
        from("192.0.2.2", &[("x-raven-key", &wrong)]).await.expect_error(401, "invalid_api_key");
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_locks_nobody_out() {
    on_both_with(options(Plan { key_rpm: Some(4), ..roomy() }), async |app| {
        let t = app.tenant("Acme").await;
        assert_eq!(allowed(&app, &t.live, 8).await, 4);
        app.clock.set_back(Duration::from_secs(1800));
        assert_eq!(allowed(&app, &t.live, 2).await, 0);
        app.clock.advance(Duration::from_secs(60));
        assert_eq!(allowed(&app, &t.live, 8).await, 4);
    })
    .await;
}

#[tokio::test]
async fn two_nodes_hold_one_limit_together() {
    let database = Database::Postgres(postgres_store().await);
    let one = TestApp::start(database, options(Plan { key_rpm: Some(1000), admin_rpm: Some(60), ..Plan::free() })).await;
    let other = one
        .beside(TestOptions { node_id: "other".to_owned(), ..options(Plan { key_rpm: Some(1000), admin_rpm: Some(60), ..Plan::free() }) })
        .await;
    let t = one.tenant("Acme").await;
    let mut let_through = 0;
    for n in 0..1300 {
        let app = if n % 2 == 0 { &one } else { &other };
        let_through += u32::from(list(app, &t.live).await.status == 200);
    }
    assert!((950..=1050).contains(&let_through), "{let_through} of a limit of 1000");
    // Small limits are exact.
    let mut admin = 0;
    for n in 0..100 {
        let app = if n % 2 == 0 { &one } else { &other };
        admin += u32::from(app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/providers", None).await.status == 200);
    }
    assert_eq!(admin, 60 - 2, "two keys were made before");
    one.clock.advance(Duration::from_secs(30));
    let mut after = 0;
    for n in 0..700 {
        let app = if n % 3 == 0 { &one } else { &other };
        after += u32::from(list(app, &t.live).await.status == 200);
    }
    assert!((475..=525).contains(&after), "{after} of the 500 that half a minute brings back");
}
