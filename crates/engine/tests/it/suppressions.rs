//! Whom messages don't reach any more, whichever way they were to go out.

use std::{collections::HashMap, time::Duration};

use http::Method;
use raven_engine::dispatch::Limits;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::{Value, json};

const TO: &str = "+254722000000";

fn options(sim: &AfricasTalking) -> TestOptions {
    TestOptions { base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]), ..TestOptions::default() }
}

async fn sms(app: &TestApp, key: &str, to: &str) -> Value {
    app.post_message(key, json!({ "channel": "sms", "to": to, "body": "Hi Ada" })).await.expect(202)
}

fn id(made: &Value) -> &str {
    made["id"].as_str().expect("an id")
}

async fn suppress(app: &TestApp, t: &TestTenant, environment: &str, address: &str) -> String {
    let body = json!({ "channel": "sms", "address": address, "environment": environment });
    id(&app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(body)).await.expect(201)).to_owned()
}

async fn listed(app: &TestApp, t: &TestTenant, environment: &str) -> Vec<Value> {
    let path = format!("/v1/admin/suppressions?environment={environment}");
    app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)["data"].as_array().expect("data").clone()
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

/// What a message that was suppressed for a reason looks like.
fn is_suppressed(message: &Value, reason: &str, expected: &[&str]) {
    assert_eq!((&message["status"], kinds(message)), (&json!("suppressed"), expected.to_vec()), "{message}");
    assert_eq!((&message["suppressionReason"], &message["failureReason"]), (&json!(reason), &Value::Null));
}

#[tokio::test]
async fn what_is_suppressed_when_it_comes_is_never_called_and_gives_its_place_back() {
    let sim = AfricasTalking::start().await;
    // One call at a time and one more in memory: what keeps its place is in everybody's way.
    let narrow = TestOptions { limits: Limits { config_calls: 1, lane_held: 1, ..Limits::default() }, ..options(&sim) };
    on_both_with(narrow, async |app| {
        let before = sim.count();
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        let suppression = suppress(&app, &t, "live", TO).await;
        for _ in 0..4 {
            let told = sms(&app, &t.live, TO).await;
            assert_eq!((&told["status"], &told["to"]), (&json!("suppressed"), &json!(TO)));
            is_suppressed(&app.message(&t.live, id(&told)).await, "manual", &["queued", "suppressed"]);
        }
        assert_eq!((app.engine.load().calls, app.engine.load().held), (0, 0));
        app.settle().await;
        app.advance(Duration::from_secs(3600)).await;
        assert_eq!(sim.count(), before);
        // Those of a human are no exception.
        let human = json!({ "channel": "sms", "to": TO, "body": "Hi" });
        let told = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/messages", Some(human)).await.expect(202);
        assert_eq!(told["status"], "suppressed");
        app.settle().await;
        // Another one, and the same once it is off the list, are sent.
        let path = format!("/v1/admin/suppressions/{suppression}");
        let other = sms(&app, &t.live, "+254722000001").await;
        app.settle().await;
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect(204);
        let again = sms(&app, &t.live, TO).await;
        app.settle().await;
        for sent in [other, again] {
            assert_eq!(app.message(&t.live, id(&sent)).await["status"], "sent");
        }
        assert_eq!(sim.count(), before + 2);
    })
    .await;
}

#[tokio::test]
async fn what_waits_when_its_recipient_is_suppressed_ends_without_another_call() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        sim.script(Behaviour::ServerError);
        let message = sms(&app, &t.live, TO).await;
        app.settle().await;
        let called = sim.count();
        suppress(&app, &t, "live", TO).await;
        assert_eq!(app.message(&t.live, id(&message)).await["status"], "sending", "until its next attempt would begin");
        app.advance(Duration::from_secs(600)).await;
        is_suppressed(&app.message(&t.live, id(&message)).await, "manual", &["queued", "sending", "retry_scheduled", "suppressed"]);
        app.advance(Duration::from_secs(4 * 3600)).await;
        assert_eq!(sim.count(), called);
        assert_eq!(app.engine.load(), raven_engine::engine::Load::default());
    })
    .await;
}

#[tokio::test]
async fn a_recipient_who_opted_out_is_not_written_to_again() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        app.configure_sms(&t).await;
        app.configure_sms(&other).await;
        sim.script(Behaviour::Refuse(406));
        let first = sms(&app, &t.live, TO).await;
        app.settle().await;
        let failed = app.message(&t.live, id(&first)).await;
        assert_eq!((&failed["status"], &failed["failureReason"]), (&json!("failed"), &json!("recipient_opted_out")));
        assert_eq!(failed["suppressionReason"], Value::Null);
        let all = listed(&app, &t, "live").await;
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((&all[0]["channel"], &all[0]["address"], &all[0]["reason"]), (&json!("sms"), &json!(TO), &json!("unsubscribed")));
        let called = sim.count();
        let second = sms(&app, &t.live, TO).await;
        assert_eq!(second["status"], "suppressed");
        app.settle().await;
        is_suppressed(&app.message(&t.live, id(&second)).await, "unsubscribed", &["queued", "suppressed"]);
        assert_eq!(sim.count(), called);
        // Neither the tenant's test messages nor another tenant's live ones are touched by it.
        assert_eq!(listed(&app, &t, "test").await, [] as [Value; 0]);
        for (key, status) in [(&t.test, "sent"), (&other.live, "sent")] {
            let message = sms(&app, key, TO).await;
            assert_eq!(message["status"], "queued");
            app.settle().await;
            assert_eq!(app.message(key, id(&message)).await["status"], status);
        }
        app.advance(Duration::from_secs(2)).await;
    })
    .await;
}

#[tokio::test]
async fn a_rejection_that_says_nothing_of_the_recipient_suppresses_nobody() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        sim.script_for(TO, Behaviour::Refuse(403));
        let message = sms(&app, &t.live, TO).await;
        app.settle().await;
        assert_eq!(app.message(&t.live, id(&message)).await["status"], "failed");
        assert_eq!(listed(&app, &t, "live").await, [] as [Value; 0]);
    })
    .await;
}
