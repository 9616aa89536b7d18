//! Which config a message goes through, and what becomes of it when that one is in trouble: through the whole engine.

use std::{collections::HashMap, time::Duration};

use http::Method;
use raven_core::{Channel, retry::RetryPolicy};
use raven_engine::dispatch::Limits;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    simulators::{AfricasTalking, Behaviour, Twilio},
};
use serde_json::{Value, json};

const TO: &str = "+254722000000";

/// Two providers of SMS, and options that reach them.
struct World {
    first: AfricasTalking,
    second: Twilio,
    options: TestOptions,
}

async fn world() -> World {
    let (first, second) = (AfricasTalking::start().await, Twilio::start().await);
    let options = TestOptions {
        base_urls: HashMap::from([("africas_talking".to_owned(), first.base_url()), ("twilio".to_owned(), second.base_url())]),
        call_cap: Duration::from_millis(500),
        ..TestOptions::default()
    };
    World { first, second, options }
}

impl World {
    /// Requests that either received since these.
    fn since(&self, before: (usize, usize)) -> (usize, usize) {
        (self.first.count() - before.0, self.second.count() - before.1)
    }

    fn counts(&self) -> (usize, usize) {
        (self.first.count(), self.second.count())
    }

    fn calm(&self) {
        self.first.script_always(Behaviour::Normal);
        self.second.script_always(Behaviour::Normal);
    }
}

/// A config of this provider, with these fields about routing.
async fn config(app: &TestApp, t: &TestTenant, provider: &str, label: &str, routing: Value) -> Value {
    let mut body = match provider {
        "twilio" => {
            json!({ "publicConfig": { "account_sid": format!("AC{}", "0".repeat(32)), "from": "+15005550006" }, "secretConfig": { "auth_token": "x".repeat(32) } })
        }
        _ => json!({ "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "atsk_of_tests" } }),
    };
    let fields = body.as_object_mut().expect("an object");
    fields.extend([("provider".to_owned(), json!(provider)), ("label".to_owned(), json!(label))]);
    fields.extend(routing.as_object().expect("an object").clone());
    app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201)
}

/// A tenant that prefers Africa's Talking, and has Twilio besides.
async fn both(app: &TestApp) -> (TestTenant, Value, Value) {
    let t = app.tenant("Acme").await;
    let first = config(app, &t, "africas_talking", "First", json!({ "priority": 1 })).await;
    let second = config(app, &t, "twilio", "Second", json!({ "priority": 2 })).await;
    (t, first, second)
}

fn path(config: &Value) -> String {
    format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"))
}

async fn patch(app: &TestApp, t: &TestTenant, config: &Value, change: Value) {
    app.as_human(&t.owner, &t.slug, Method::PATCH, &path(config), Some(change)).await.expect(200);
}

async fn post(app: &TestApp, t: &TestTenant, mut fields: Value) -> String {
    let message = fields.as_object_mut().expect("an object");
    message.extend([("channel".to_owned(), json!("sms")), ("body".to_owned(), json!("Hi"))]);
    message.entry("to").or_insert_with(|| json!(TO));
    app.post_message(&t.live, fields).await.expect(202)["id"].as_str().expect("an id").to_owned()
}

async fn send(app: &TestApp, t: &TestTenant) -> String {
    post(app, t, json!({})).await
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

/// Where a message ended, with its timeline.
async fn look(app: &TestApp, t: &TestTenant, id: &str) -> (String, Value, Vec<String>) {
    let message = app.message(&t.live, id).await;
    let kinds = kinds(&message).into_iter().map(str::to_owned).collect();
    (message["status"].as_str().expect("a status").to_owned(), message["provider"].clone(), kinds)
}

const FAILED_OVER: [&str; 5] = ["queued", "sending", "retry_scheduled", "sending", "sent"];

async fn explain(app: &TestApp, t: &TestTenant, id: &str) -> Value {
    app.with_key(&t.live, Method::GET, &format!("/v1/messages/{id}/explain"), None).await.expect(200)
}

#[tokio::test]
async fn the_lowest_priority_goes_first_and_a_change_counts_at_once() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, first, _) = both(&app).await;
        let before = w.counts();
        for _ in 0..5 {
            send(&app, &t).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (5, 0));
        patch(&app, &t, &first, json!({ "priority": 3 })).await;
        for _ in 0..5 {
            send(&app, &t).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (5, 5));
    })
    .await;
}

#[tokio::test]
async fn weights_share_and_none_stands_by() {
    const MESSAGES: usize = 160;
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "Three", json!({ "weight": 300 })).await;
        let second = config(&app, &t, "twilio", "One", json!({ "weight": 100 })).await;
        let before = w.counts();
        for _ in 0..MESSAGES {
            send(&app, &t).await;
        }
        app.settle().await;
        let (three, one) = w.since(before);
        assert_eq!(three + one, MESSAGES);
        // Five standard deviations of what is drawn.
        assert!((93..=147).contains(&three), "{three} of {MESSAGES} are three quarters");

        patch(&app, &t, &second, json!({ "weight": 0, "priority": 0 })).await;
        let before = w.counts();
        for _ in 0..20 {
            send(&app, &t).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (20, 0), "however low its priority");
    })
    .await;
}

#[tokio::test]
async fn rules_name_recipients_by_prefix_and_country_and_come_before_those_that_take_everybody() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "Kenya", json!({ "rules": { "countries": ["KE"], "prefixes": ["+2557"] } })).await;
        let before = w.counts();
        // Nobody takes it.
        let sms = json!({ "channel": "sms", "to": "+15005550010", "body": "Hi" });
        let refused = app.post_message(&t.live, sms).await.expect_error(400, "no_provider_for_channel");
        assert!(refused["message"].as_str().is_some_and(|m| m.contains("rules")), "{refused}");
        config(&app, &t, "twilio", "All", json!({})).await;
        for (to, expected) in [(TO, (1, 0)), ("+255712000000", (2, 0)), ("+255222000000", (2, 1)), ("+15005550010", (2, 2))] {
            post(&app, &t, json!({ "to": to })).await;
            app.settle().await;
            assert_eq!(w.since(before), expected, "{to}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_pin_names_a_provider_or_a_config_and_nothing_else_will_do() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, first, second) = both(&app).await;
        let before = w.counts();
        for pin in [json!("twilio"), second["id"].clone()] {
            post(&app, &t, json!({ "provider": pin })).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (0, 2));
        for pin in ["plivo", "9f8b5c1e-0000-4000-8000-000000000000", "postmark"] {
            let sms = json!({ "channel": "sms", "to": TO, "body": "Hi", "provider": pin });
            let refused = app.post_message(&t.live, sms).await.expect_error(400, "no_provider_for_channel");
            assert!(refused["message"].as_str().is_some_and(|m| m.contains(pin)), "{refused}");
        }
        // It stays with its config, whatever becomes of that.
        w.first.script(Behaviour::RateLimited { retry_after: None });
        let id = post(&app, &t, json!({ "provider": first["id"] })).await;
        app.settle().await;
        assert_eq!((w.since(before), look(&app, &t, &id).await.0), ((1, 2), "sending".to_owned()));
        app.advance(Duration::from_secs(10)).await;
        assert_eq!((w.since(before), look(&app, &t, &id).await.0), ((2, 2), "sent".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_pace_is_kept_nothing_starves_and_other_configs_are_not_delayed() {
    const MESSAGES: usize = 12;
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "Slow", json!({ "ratePerSecond": 5, "burst": 2 })).await;
        config(&app, &t, "twilio", "Fast", json!({})).await;
        let before = w.counts();
        let mut ids = Vec::new();
        for _ in 0..MESSAGES {
            ids.push(post(&app, &t, json!({ "provider": "africas_talking" })).await);
            post(&app, &t, json!({ "provider": "twilio" })).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (2, MESSAGES), "a burst, and all of the other one");
        let told = explain(&app, &t, &ids[MESSAGES - 1]).await;
        assert_eq!((&told["waiting"]["reason"], &told["route"]["provider"]), (&json!("pace"), &json!("africas_talking")), "{told}");
        assert!(told["waiting"]["until"].is_string());
        for n in 3..=MESSAGES {
            app.advance(Duration::from_millis(199)).await;
            assert_eq!(w.since(before).0, n - 1, "no sooner");
            app.advance(Duration::from_millis(1)).await;
            assert_eq!(w.since(before).0, n, "and no later");
        }
        for id in &ids {
            assert_eq!(look(&app, &t, id).await.0, "sent");
        }
        app.advance(Duration::from_secs(60)).await;
        assert_eq!(w.since(before), (MESSAGES, MESSAGES));
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_a_pace_is_not_overtaken_when_it_is_its_turn() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "Slow", json!({ "ratePerSecond": 1, "burst": 1 })).await;
        let before = w.counts();
        send(&app, &t).await;
        app.settle().await;
        let waits = send(&app, &t).await;
        app.settle().await;
        app.clock.advance(Duration::from_secs(1));
        let last = send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before).0, 2);
        assert_eq!((look(&app, &t, &waits).await.0.as_str(), look(&app, &t, &last).await.0.as_str()), ("sent", "queued"));
    })
    .await;
}

#[tokio::test]
async fn as_many_calls_are_under_way_as_the_config_allows_and_no_more() {
    let w = world().await;
    // Whether that is fewer than usual or more.
    for (allowed, usual) in [(2, 128), (5, 2)] {
        let limits = Limits { config_calls: usual, ..Limits::default() };
        let options = TestOptions { call_cap: Duration::from_secs(10), limits, ..w.options.clone() };
        on_both_with(options, async |app| {
            let t = app.tenant("Acme").await;
            config(&app, &t, "africas_talking", "Some", json!({ "concurrency": allowed })).await;
            let before = w.counts();
            w.first.script_always(Behaviour::After(Duration::from_millis(200)));
            for _ in 0..10 {
                send(&app, &t).await;
            }
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            while w.since(before).0 < 10 {
                app.engine.step().await.expect("the store works");
                assert!(tokio::time::Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(w.first.most_at_once(), allowed);
            app.settle().await;
            w.calm();
        })
        .await;
    }
}

#[tokio::test]
async fn a_breaker_opens_sends_elsewhere_probes_and_recovers_little_by_little() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, ..) = both(&app).await;
        let before = w.counts();
        w.first.script_always(Behaviour::ServerError);
        let mut failed = Vec::new();
        for _ in 0..5 {
            failed.push(send(&app, &t).await);
            app.settle().await;
        }
        assert_eq!(w.since(before), (5, 0));
        // From here on nobody waits, and no attempt is lost.
        let id = send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (5, 1));
        let (status, provider, kinds) = look(&app, &t, &id).await;
        assert_eq!(
            (status.as_str(), provider, kinds),
            ("sent", json!("twilio"), vec!["queued".to_owned(), "sending".into(), "sent".into()])
        );
        app.advance(Duration::from_secs(3)).await;
        assert_eq!(w.since(before), (5, 6), "what failed goes there too");
        for id in &failed {
            assert_eq!(look(&app, &t, id).await.0, "sent");
        }
        // A probe, which fails: the message is not lost by it, and the next probe is later.
        app.advance(Duration::from_secs(3)).await;
        let probe = send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (6, 6));
        send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (6, 7), "one at a time");
        app.advance(Duration::from_secs(4)).await;
        assert_eq!((w.since(before), look(&app, &t, &probe).await.0), ((6, 8), "sent".to_owned()));
        // Another one, which is answered: it recovers.
        w.first.script_always(Behaviour::Normal);
        app.advance(Duration::from_secs(7)).await;
        send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (7, 8));
        for _ in 0..20 {
            send(&app, &t).await;
        }
        app.settle().await;
        let (here, there) = w.since(before);
        assert_eq!(here + there, 15 + 20, "nothing waits while another config takes it");
        assert!((8..=9).contains(&here), "{here}: a call or so at first");
        app.advance(Duration::from_secs(61)).await;
        let before = w.counts();
        for _ in 0..20 {
            send(&app, &t).await;
        }
        app.settle().await;
        assert_eq!(w.since(before), (20, 0), "as before");
    })
    .await;
}

#[tokio::test]
async fn what_waits_before_a_breaker_that_opens_goes_through_the_other_config() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "First", json!({ "priority": 1, "concurrency": 1 })).await;
        config(&app, &t, "twilio", "Second", json!({ "priority": 2 })).await;
        let before = w.counts();
        w.first.script_always(Behaviour::ServerError);
        let mut ids = Vec::new();
        for _ in 0..30 {
            ids.push(send(&app, &t).await);
        }
        app.settle().await;
        assert_eq!(w.since(before), (5, 25), "as many as it takes to see that it is down");
        app.advance(Duration::from_secs(4)).await;
        for id in &ids {
            let (status, provider, _) = look(&app, &t, id).await;
            assert_eq!((status.as_str(), provider), ("sent", json!("twilio")));
        }
        w.calm();
    })
    .await;
}

#[tokio::test]
async fn refused_credentials_pause_the_config_and_the_message_goes_through_the_next_at_once() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, first, _) = both(&app).await;
        let before = w.counts();
        w.first.script(Behaviour::WrongCredentials);
        let id = send(&app, &t).await;
        app.settle().await;
        let (status, provider, kinds) = look(&app, &t, &id).await;
        assert_eq!((status.as_str(), provider, kinds), ("sent", json!("twilio"), FAILED_OVER.map(str::to_owned).to_vec()));
        let message = app.message(&t.live, &id).await;
        assert!(message["events"][2]["detail"].as_str().is_some_and(|d| d.ends_with("; next: Second")), "{message}");
        let shown = app.as_human(&t.owner, &t.slug, Method::GET, &path(&first), None).await.expect(200);
        assert_eq!(shown["status"], "failed", "the config says so");
        assert!(shown["statusReason"].as_str().is_some_and(|why| why.starts_with("invalid_credentials")), "{shown}");
        send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (1, 2), "nothing goes there meanwhile");
        let verify = format!("{}/verify", path(&first));
        assert_eq!(app.as_human(&t.owner, &t.slug, Method::POST, &verify, None).await.expect(200)["status"], "verified");
        send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (2, 2), "verified, it goes on");
    })
    .await;
}

#[tokio::test]
async fn messages_wait_for_a_paused_config_until_it_is_verified_or_until_they_are_too_old() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let t = app.tenant("Acme").await;
        let only = config(&app, &t, "africas_talking", "Only", json!({})).await;
        let before = w.counts();
        w.first.script(Behaviour::WrongCredentials);
        let first = send(&app, &t).await;
        app.settle().await;
        let second = send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (1, 0), "it was accepted all the same");
        for id in [&first, &second] {
            let told = explain(&app, &t, id).await;
            assert_eq!((&told["waiting"]["reason"], &told["route"]), (&json!("provider_paused"), &Value::Null), "{told}");
            assert!(told["waiting"]["until"].is_string());
            assert_eq!(told["candidates"][0]["reasons"][0]["code"], "paused");
        }
        let verify = format!("{}/verify", path(&only));
        app.as_human(&t.owner, &t.slug, Method::POST, &verify, None).await.expect(200);
        app.settle().await;
        assert_eq!(w.since(before), (3, 0), "at once");
        for id in [&first, &second] {
            assert_eq!(look(&app, &t, id).await.0, "sent");
        }

        w.first.script(Behaviour::WrongCredentials);
        let tried = send(&app, &t).await;
        app.settle().await;
        let waited = send(&app, &t).await;
        app.advance(RetryPolicy::of(Channel::Sms).max_age).await;
        for id in [tried, waited] {
            let message = app.message(&t.live, &id).await;
            assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("provider_paused")), "{message}");
        }
        assert_eq!(w.since(before), (4, 0));
    })
    .await;
}

#[tokio::test]
async fn a_limit_of_the_providers_sends_the_message_through_the_next_at_once() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, ..) = both(&app).await;
        let before = w.counts();
        w.first.script(Behaviour::RateLimited { retry_after: Some(90) });
        let id = send(&app, &t).await;
        app.settle().await;
        assert_eq!(w.since(before), (1, 1));
        let (status, provider, kinds) = look(&app, &t, &id).await;
        assert_eq!((status.as_str(), provider, kinds), ("sent", json!("twilio"), FAILED_OVER.map(str::to_owned).to_vec()));
        // When both say so it waits, and begins anew.
        w.first.script(Behaviour::RateLimited { retry_after: None });
        w.second.script(Behaviour::RateLimited { retry_after: Some(60) });
        let id = send(&app, &t).await;
        app.settle().await;
        assert_eq!((w.since(before), look(&app, &t, &id).await.0), ((2, 2), "sending".to_owned()));
        let told = explain(&app, &t, &id).await;
        assert_eq!(told["waiting"]["reason"], "retry", "{told}");
        app.advance(Duration::from_secs(90)).await;
        assert_eq!((w.since(before), look(&app, &t, &id).await.0), ((3, 2), "sent".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn retries_that_are_used_up_send_the_message_through_the_next() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, ..) = both(&app).await;
        let before = w.counts();
        w.first.script_for(TO, Behaviour::ServerError);
        let id = send(&app, &t).await;
        app.settle().await;
        for expected in [(1, 0), (2, 0), (3, 1)] {
            assert_eq!(w.since(before), expected);
            app.advance(Duration::from_secs(4)).await;
        }
        let (status, provider, kinds) = look(&app, &t, &id).await;
        assert_eq!((status.as_str(), provider), ("sent", json!("twilio")));
        assert_eq!(kinds.iter().filter(|kind| *kind == "retry_scheduled").count(), 3);
        w.first.script_for(TO, Behaviour::Normal);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_final_whatever_other_configs_there_are() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, ..) = both(&app).await;
        let before = w.counts();
        w.first.script(Behaviour::Refuse(403));
        let id = send(&app, &t).await;
        app.settle().await;
        assert_eq!((w.since(before), look(&app, &t, &id).await.0), ((1, 0), "failed".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn what_may_have_gone_out_goes_through_no_other_config_unless_the_tenant_allows_it() {
    let w = world().await;
    on_both_with(w.options.clone(), async |app| {
        let (t, ..) = both(&app).await;
        let before = w.counts();
        w.first.script_for(TO, Behaviour::ResetAfterRequest);
        let id = send(&app, &t).await;
        app.settle().await;
        let told = explain(&app, &t, &id).await;
        assert_eq!(told["waiting"]["reason"], "outcome_unknown", "{told}");
        app.advance(raven_engine::attempt::UNKNOWN_FOR).await;
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("outcome_unknown")));
        assert_eq!(w.since(before), (1, 0));

        let change = raven_store::TenantChange { retry_unknown: Some(true), ..Default::default() };
        app.store.update_tenant(t.id, change, app.audit(t.id)).await.expect("set");
        app.engine.directory.forget(t.id).await;
        let id = send(&app, &t).await;
        app.settle().await;
        app.advance(Duration::from_secs(5)).await;
        app.advance(Duration::from_secs(10)).await;
        assert_eq!(w.since(before), (4, 1), "three times there, then elsewhere");
        assert_eq!(look(&app, &t, &id).await.0, "sent");
        w.first.script_for(TO, Behaviour::Normal);
    })
    .await;
}

#[tokio::test]
async fn a_config_whose_provider_hangs_delays_nothing_that_goes_through_another() {
    let w = world().await;
    let options = TestOptions {
        limits: Limits { config_calls: 4, tenant_calls: 16, calls: 16, lane_held: 64, tenant_held: 128, held: 128 },
        call_cap: Duration::from_secs(10),
        ..w.options.clone()
    };
    w.first.script_always(Behaviour::Hang);
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        config(&app, &t, "africas_talking", "Hangs", json!({})).await;
        config(&app, &t, "twilio", "Works", json!({})).await;
        let before = w.counts();
        for n in 0..60 {
            post(&app, &t, json!({ "provider": if n % 2 == 0 { "africas_talking" } else { "twilio" } })).await;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while w.since(before).1 < 30 {
            app.engine.step().await.expect("the store works");
            assert!(tokio::time::Instant::now() < deadline, "{} of 30 came through beside a provider that hangs", w.since(before).1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(w.since(before).0 <= 4, "it holds its own permits only");
    })
    .await;
}
