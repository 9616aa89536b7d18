//! The daily quota, and usage.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use raven_engine::plans::{Plan, Plans};
use raven_store::TenantChange;
use raven_testkit::{
    app::{Answer, TestApp, TestOptions, TestTenant, on_both_with},
    database::{Database, postgres_store},
    simulators::AfricasTalking,
};
use serde_json::{Value, json};

fn options(daily: u32, sim: &AfricasTalking) -> TestOptions {
    let plan =
        |name: &str, daily| Plan { name: name.to_owned(), daily_messages: Some(daily), admin_rpm: None, key_rpm: None, ..Plan::free() };
    let plans = Plans::new(vec![plan("small", daily), plan("smaller", daily / 2), plan("larger", daily * 2)], "small");
    TestOptions {
        plans: Some(plans.expect("plans")),
        base_urls: [("africas_talking".to_owned(), sim.base_url())].into_iter().collect(),
        ..TestOptions::default()
    }
}

fn sms(n: usize) -> Value {
    json!({ "channel": "sms", "to": format!("+25472200{n:04}"), "body": "Hi", "idempotencyKey": format!("k{n}") })
}

async fn usage(app: &TestApp, t: &TestTenant, query: &str) -> Value {
    app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/usage{query}"), None).await.expect(200)
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|a| a.status == status).count()
}

#[tokio::test]
async fn the_quota_is_exact_under_concurrency_and_tells_when_it_is_reset() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(30, &sim), async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        let answers = join_all((0..100).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!((count(&answers, 202), count(&answers, 429)), (30, 70));
        let refused = answers.into_iter().find(|a| a.status == 429).expect("one");
        let midnight = app.engine.clock.now().day().plus(1).start().since(app.engine.clock.now()).as_secs();
        assert_eq!(refused.headers["retry-after"].to_str().expect("text"), midnight.to_string());
        refused.expect_error(429, "daily_quota_exceeded");

        // A replay answers though nothing is left; a test message is not counted; a refused one has not used up its key.
        let again = join_all((0..100).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!((count(&again, 202), count(&again, 429)), (30, 70));
        assert!(again.iter().filter(|a| a.status == 202).all(|a| a.headers["idempotent-replayed"] == "true"));
        app.post_message(&t.test, sms(0)).await.expect(202);
        let human = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(human)).await.expect_error(429, "daily_quota_exceeded");
        let today = usage(&app, &t, "").await["today"].clone();
        assert_eq!([&today["used"], &today["limit"], &today["remaining"]], [&json!(30), &json!(30), &json!(0)]);
        app.settle().await;

        // The next day starts anew, and yesterday's keys still replay.
        app.clock.advance(Duration::from_secs(midnight + 1));
        app.engine.housekeeping.beat().await.expect("the store works");
        let next = join_all((0..100).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!((count(&next, 202), count(&next, 429)), (60, 40));
        assert_eq!(next.iter().filter(|a| a.headers.contains_key("idempotent-replayed")).count(), 30);
        app.settle().await;
    })
    .await;
}

#[tokio::test]
async fn the_count_survives_a_restart_and_a_plan_changes_at_once() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(20, &sim), async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        let answers = join_all((0..15).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!(count(&answers, 202), 15);
        app.settle().await;
        app.engine.stop(Duration::from_secs(5)).await;
        let app = app.beside(options(20, &sim)).await;
        let answers = join_all((15..40).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!(count(&answers, 202), 5);
        let set_plan = async |plan: &str| {
            let change = TenantChange { plan: Some(plan.to_owned()), ..TenantChange::default() };
            app.store.update_tenant(t.id, change, app.audit(t.id)).await.expect("the store works").expect("the tenant");
            app.clock.advance(Duration::from_secs(1));
        };
        set_plan("larger").await;
        let answers = join_all((40..70).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!(count(&answers, 202), 20);
        set_plan("smaller").await;
        app.post_message(&t.live, sms(99)).await.expect_error(429, "daily_quota_exceeded");
        set_plan("unlimited").await;
        let answers = join_all((70..90).map(|n| app.post_message(&t.live, sms(n)))).await;
        assert_eq!(count(&answers, 202), 20);
        assert_eq!(usage(&app, &t, "").await["today"]["used"], 60);
        set_plan("larger").await;
        app.post_message(&t.live, sms(100)).await.expect_error(429, "daily_quota_exceeded");
        app.settle().await;
    })
    .await;
}

#[tokio::test]
async fn two_nodes_never_exceed_the_quota_and_use_all_of_it() {
    let sim = AfricasTalking::start().await;
    let one = TestApp::start(Database::Postgres(postgres_store().await), options(300, &sim)).await;
    let other = one.beside(TestOptions { node_id: "other".to_owned(), ..options(300, &sim) }).await;
    let t = one.tenant("Acme").await;
    one.configure_sms(&t).await;
    let mut created = 0;
    for round in 0..10 {
        let posts = (0..50).map(|n| {
            let app = if n % 2 == 0 { &one } else { &other };
            app.post_message(&t.live, sms(round * 50 + n))
        });
        created += count(&join_all(posts).await, 202);
    }
    assert_eq!(created, 300);
    assert_eq!(one.store.quota_used(t.id, one.engine.clock.now().day()).await.expect("read"), 300);
    one.settle().await;
    other.settle().await;
}

#[tokio::test]
async fn usage_tells_days_channels_statuses_and_keys() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(100, &sim), async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        for n in 0..3 {
            app.post_message(&t.live, sms(n)).await.expect(202);
        }
        let human = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(human)).await.expect(202);
        for _ in 0..2 {
            let email = json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": "Hi", "bodyText": "Hi" });
            app.post_message(&t.test, email).await.expect(202);
        }
        app.settle().await;
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
        let today = app.engine.clock.now().day().to_string();
        let keys = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/api-keys", None).await.expect(200);
        let id_of = |key: &str| {
            let all = keys["data"].as_array().expect("data");
            all.iter().find(|k| key.starts_with(k["prefix"].as_str().expect("a prefix"))).expect("the key")["id"].clone()
        };
        let live = usage(&app, &t, "").await;
        assert_eq!(
            (&live["environment"], &live["accepted"], &live["plan"]["name"], &live["plan"]["displayName"]),
            (&json!("live"), &json!(4), &json!("small"), &json!("Hatchling"))
        );
        assert_eq!(live["days"][0]["date"], today.as_str());
        assert_eq!(live["days"][0]["channels"], json!([{ "channel": "sms", "accepted": 4, "statuses": { "sent": 4 } }]));
        let mut by_key: Vec<(Value, Value)> =
            live["days"][0]["keys"].as_array().expect("keys").iter().map(|k| (k["keyId"].clone(), k["accepted"].clone())).collect();
        by_key.sort_by_key(|(id, _)| id.to_string());
        let mut expected = vec![(Value::Null, json!(1)), (id_of(&t.live), json!(3))];
        expected.sort_by_key(|(id, _)| id.to_string());
        assert_eq!(by_key, expected);
        assert_eq!(live["today"]["used"], 4);

        let test = usage(&app, &t, "?environment=test").await;
        assert_eq!(test["days"][0]["channels"], json!([{ "channel": "email", "accepted": 2, "statuses": { "sent": 2, "delivered": 2 } }]));
        assert_eq!(usage(&app, &t, &format!("?environment=all&from={today}&until={today}")).await["accepted"], 6);
        assert_eq!(usage(&app, &t, "?until=2020-01-01").await["days"], json!([]));

        // A test key with admin:* sees nothing live.
        let body = json!({ "name": "a", "environment": "test", "scopes": ["admin:*"] });
        let admin = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
        let admin = admin["plaintext"].as_str().expect("the text");
        let seen = app.with_key(admin, Method::GET, "/v1/admin/usage", None).await.expect(200);
        assert_eq!((&seen["environment"], &seen["accepted"], &seen["today"]), (&json!("test"), &json!(2), &Value::Null));
        app.with_key(admin, Method::GET, "/v1/admin/usage?environment=all", None).await.expect_error(403, "insufficient_scope");
        for bad in
            ["from=x", "until=2026-13-01", "from=2026-02-01&until=2026-01-01", "from=2024-01-01&until=2026-01-01", "environment=prod"]
        {
            app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/usage?{bad}"), None)
                .await
                .expect_error(400, "validation_failed");
        }
    })
    .await;
}
