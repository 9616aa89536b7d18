//! Messages that a provider took, and later told that they did not arrive: another config's turn.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::Method;
use raven_core::{Channel, retry::RetryPolicy};
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    simulators::{AfricasTalking, Behaviour, Listed},
};
use serde_json::{Value, json};

use crate::recovery::Process;

const TO: &str = "+254722000000";

fn options(sim: &AfricasTalking) -> TestOptions {
    TestOptions {
        base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]),
        call_cap: Duration::from_secs(10),
        node_id: "node".to_owned(),
        ..TestOptions::default()
    }
}

/// A config, with where its provider calls back.
struct Config {
    id: String,
    callbacks: String,
}

async fn config(app: &TestApp, t: &TestTenant, label: &str, priority: u8) -> Config {
    let body = json!({
        "provider": "africas_talking", "label": label, "priority": priority,
        "publicConfig": { "username": label.to_lowercase() }, "secretConfig": { "api_key": "atsk_of_tests" },
    });
    let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let callbacks = text(&made["callbackUrl"]).strip_prefix("http://raven.test").expect("our own").to_owned();
    Config { id: text(&made["id"]), callbacks }
}

async fn send(app: &TestApp, t: &TestTenant, more: Value) -> String {
    let mut message = json!({ "channel": "sms", "to": TO, "body": "Hi" });
    message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
    app.settle().await;
    id
}

/// Has a provider tell something of the message as it knows it.
async fn report(app: &TestApp, config: &Config, provider_id: &str, status: &str) {
    let form = format!("id={provider_id}&phoneNumber=%2B254722000000&{status}");
    app.call_back(&config.callbacks, form).await.expect(200);
    app.engine.applier.step().await.expect("the store works");
}

const FAILED: &str = "status=Failed&failureReason=DeliveryFailure";

async fn provider_id(app: &TestApp, t: &TestTenant, id: &str) -> String {
    app.message(&t.live, id).await["providerMessageId"].as_str().expect("it was sent").to_owned()
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

const SENT: [&str; 3] = ["queued", "sending", "sent"];

#[tokio::test]
async fn a_message_that_did_not_arrive_goes_through_the_next_config_and_its_status_never_falls() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        let (first, second) = (config(&app, &t, "First", 1).await, config(&app, &t, "Second", 2).await);
        let before = sim.count();
        let id = send(&app, &t, json!({})).await;
        let theirs = provider_id(&app, &t, &id).await;
        report(&app, &first, &theirs, FAILED).await;
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], kinds(&message)), (&json!("sent"), [&SENT[..], &["retry_scheduled"]].concat()));
        assert!(message["events"][3]["detail"].as_str().is_some_and(|d| d.ends_with("; next: Second")), "{message}");
        let told = app.with_key(&t.live, Method::GET, &format!("/v1/messages/{id}/explain"), None).await.expect(200);
        assert_eq!((&told["route"]["label"], &told["waiting"]["reason"]), (&json!("Second"), &json!("queue")), "{told}");
        assert_eq!(told["route"]["reasons"][0]["code"], "first_untried", "{told}");
        app.settle().await;
        let all = [&SENT[..], &["retry_scheduled", "sending", "sent"]].concat();
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], kinds(&message)), (&json!("sent"), all.clone()));
        assert_eq!(message["providerConfigId"].as_str(), Some(second.id.as_str()), "{message}");
        // The same is told again, and in other words.
        for status in [FAILED, "status=Rejected"] {
            report(&app, &first, &theirs, status).await;
            app.settle().await;
        }
        let message = app.message(&t.live, &id).await;
        assert_eq!((sim.count() - before, &message["status"]), (2, &json!("sent")), "{message}");
        // It had arrived after all, or the second one has.
        report(&app, &first, &theirs, "status=Success").await;
        assert_eq!(app.message(&t.live, &id).await["status"], "delivered");
        report(&app, &second, &provider_id(&app, &t, &id).await, FAILED).await;
        app.settle().await;
        assert_eq!((app.message(&t.live, &id).await["status"].clone(), sim.count() - before), (json!("delivered"), 2));
    })
    .await;
}

#[tokio::test]
async fn a_message_that_no_config_could_deliver_has_failed() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        let configs = [config(&app, &t, "First", 1).await, config(&app, &t, "Second", 2).await, config(&app, &t, "Third", 3).await];
        let before = sim.count();
        let id = send(&app, &t, json!({})).await;
        for (n, config) in configs.iter().enumerate() {
            assert_eq!(sim.count() - before, n + 1);
            report(&app, config, &provider_id(&app, &t, &id).await, FAILED).await;
            app.settle().await;
        }
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("undelivered")), "{message}");
        assert_eq!(sim.count() - before, 3, "each once");
    })
    .await;
}

#[tokio::test]
async fn what_another_config_could_not_mend_has_failed_at_once() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        let first = config(&app, &t, "First", 1).await;
        let before = sim.count();
        // With one config.
        let id = send(&app, &t, json!({})).await;
        report(&app, &first, &provider_id(&app, &t, &id).await, FAILED).await;
        assert_eq!(app.message(&t.live, &id).await["status"], "failed");
        config(&app, &t, "Second", 2).await;
        // Nobody is there; somebody wants no more, which counts for the messages after this one.
        for (reason, expected) in [("UserDoesNotExist", "unknown_recipient"), ("DoNotDisturbRejection", "do_not_disturb")] {
            let id = send(&app, &t, json!({})).await;
            report(&app, &first, &provider_id(&app, &t, &id).await, &format!("status=Failed&failureReason={reason}")).await;
            let message = app.message(&t.live, &id).await;
            assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!(expected)));
        }
        // It is for this one only.
        let id = send(&app, &t, json!({ "provider": first.id })).await;
        report(&app, &first, &provider_id(&app, &t, &id).await, FAILED).await;
        assert_eq!(app.message(&t.live, &id).await["status"], "failed");
        // It is too old to be of use.
        let id = send(&app, &t, json!({})).await;
        let theirs = provider_id(&app, &t, &id).await;
        app.advance(RetryPolicy::of(Channel::Sms).max_age).await;
        report(&app, &first, &theirs, FAILED).await;
        assert_eq!(app.message(&t.live, &id).await["status"], "failed");
        app.settle().await;
        assert_eq!(sim.count() - before, 5, "none went out again");
    })
    .await;
}

#[tokio::test]
async fn an_email_of_which_others_got_copies_goes_no_other_way() {
    let sim = Listed::of("brevo").await;
    let options = TestOptions { base_urls: HashMap::from([("brevo".to_owned(), sim.base_url())]), ..TestOptions::default() };
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let mut callbacks = Vec::new();
        for priority in [1, 2] {
            let body = json!({
                "provider": "brevo", "label": format!("Brevo {priority}"), "priority": priority,
                "publicConfig": { "from_email": "hello@example.com" }, "secretConfig": { "api_key": "of-tests" },
            });
            let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
            callbacks.push(made["callbackUrl"].as_str().expect("a text").strip_prefix("http://raven.test").expect("our own").to_owned());
        }
        let before = sim.count();
        let copied = |field: &str| json!({ field: ["grace@example.com"] });
        for (copies, status, calls) in [(json!({}), "sent", 2), (copied("cc"), "failed", 3), (copied("bcc"), "failed", 4)] {
            let mut message = json!({ "channel": "email", "to": "ada@example.com", "subject": "Hi", "bodyText": "Hi" });
            message.as_object_mut().expect("an object").extend(copies.as_object().expect("an object").clone());
            let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
            app.settle().await;
            let theirs = provider_id(&app, &t, &id).await;
            let event = json!({
                "event": "error", "email": "ada@example.com", "message-id": theirs, "ts_epoch": 1_790_000_000_000_i64, "X-Mailin-custom": id,
            });
            app.call_back(&callbacks[0], event.to_string()).await.expect(200);
            app.engine.applier.step().await.expect("the store works");
            app.settle().await;
            let told = app.message(&t.live, &id).await;
            assert_eq!((&told["status"], sim.count() - before), (&json!(status), calls), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_failure_that_is_told_while_another_attempt_is_under_way_moves_nothing() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let t = app.tenant("Acme").await;
        let (first, _) = (config(&app, &t, "First", 1).await, config(&app, &t, "Second", 2).await);
        let before = sim.count();
        let id = send(&app, &t, json!({})).await;
        let theirs = provider_id(&app, &t, &id).await;
        report(&app, &first, &theirs, FAILED).await;
        // It arrived, before the second way was taken.
        report(&app, &first, &theirs, "status=Success").await;
        app.settle().await;
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], sim.count() - before), (&json!("delivered"), 1), "{message}");
        let told = app.with_key(&t.live, Method::GET, &format!("/v1/messages/{id}/explain"), None).await.expect(200);
        assert_eq!((&told["waiting"], &told["route"]["reasons"][0]["code"]), (&Value::Null, &json!("went_through")), "{told}");

        // It arrived while the second one was being called, which says that it can't now: it is not sent a third time.
        let id = send(&app, &t, json!({})).await;
        let theirs = provider_id(&app, &t, &id).await;
        sim.script_always(Behaviour::RateLimited { retry_after: None });
        report(&app, &first, &theirs, FAILED).await;
        app.settle().await;
        report(&app, &first, &theirs, "status=Success").await;
        sim.script_always(Behaviour::Normal);
        let calls = sim.count();
        app.advance(Duration::from_secs(600)).await;
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], sim.count()), (&json!("delivered"), calls), "{message}");
    })
    .await;
}

/// A process is killed while the second config is being called, and what it had tried is not forgotten.
#[test]
fn after_a_crash_a_message_goes_on_where_it_was() {
    let world = Process::new();
    let (sim, all) = world.0.block_on(async { (AfricasTalking::start().await, databases().await) });
    for database in all {
        let (first, clock, before) = (Process::new(), Arc::new(TestClock::at(MIGRATED_AT)), sim.count());
        sim.script(Behaviour::RateLimited { retry_after: None });
        sim.script(Behaviour::Hang);
        let (database, tenant, id) = first.0.block_on(async {
            let store = database.reopen().await;
            let app = TestApp::start_over(database, store, options(&sim), clock.clone()).await;
            let t = app.tenant("Acme").await;
            config(&app, &t, "First", 1).await;
            config(&app, &t, "Second", 2).await;
            let change = raven_store::TenantChange { retry_unknown: Some(true), ..Default::default() };
            app.store.update_tenant(t.id, change, app.audit(t.id)).await.expect("set");
            app.engine.directory.forget(t.id).await;
            let sms = json!({ "channel": "sms", "to": TO, "body": "Hi" });
            let id = app.post_message(&t.live, sms).await.expect(202)["id"].as_str().expect("an id").to_owned();
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            while sim.count() < before + 2 {
                app.engine.step().await.expect("the store works");
                assert!(tokio::time::Instant::now() < deadline, "the second call was not made");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (app.database, t, id)
        });
        first.kill();
        let second = Process::new();
        second.0.block_on(async {
            let store = database.reopen().await;
            let app = TestApp::start_over(database, store, options(&sim), clock).await;
            app.settle().await;
            let message = app.message(&tenant.live, &id).await;
            assert_eq!(
                kinds(&message),
                ["queued", "sending", "retry_scheduled", "sending", "outcome_unknown", "sending", "sent"],
                "{message}"
            );
            let configs = app.store.list_configs(tenant.id, None, 10).await.expect("configs");
            let sent_through = configs.iter().find(|c| Some(c.id.to_string().as_str()) == message["providerConfigId"].as_str());
            assert_eq!(sent_through.map(|c| c.label.as_str()), Some("Second"), "the first one is not tried anew");
            assert_eq!(sim.count(), before + 3);
        });
        second.kill();
    }
    world.kill();
}
