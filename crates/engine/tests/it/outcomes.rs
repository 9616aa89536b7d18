//! What becomes of a message, whatever its provider does.

use std::{collections::HashMap, time::Duration};

use raven_core::retry::RetryPolicy;
use raven_engine::{attempt::UNKNOWN_FOR, dispatch::Limits};
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    simulators::{AfricasTalking, Behaviour, Twilio},
};
use serde_json::{Value, json};

const TO: &str = "+254722000000";

fn options(sim: &AfricasTalking) -> TestOptions {
    TestOptions {
        base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]),
        call_cap: Duration::from_millis(500),
        ..TestOptions::default()
    }
}

async fn sms(app: &TestApp, tenant: &TestTenant, to: &str) -> String {
    let body = json!({ "channel": "sms", "to": to, "body": "Hi Ada" });
    app.post_message(&tenant.live, body).await.expect(202)["id"].as_str().expect("an id").to_owned()
}

/// Messages that the provider took.
fn taken(sim: &AfricasTalking) -> usize {
    sim.received().iter().filter(|r| r.accepted.is_some()).count()
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

/// Sends one message to a simulator with this behaviour first, on both engines, and looks at it each time.
async fn with_first(behaviour: Behaviour, look: impl AsyncFn(&TestApp, &TestTenant, &AfricasTalking, String)) {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let before = taken(&sim);
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        sim.script(behaviour.clone());
        let id = sms(&app, &tenant, TO).await;
        app.settle().await;
        look(&app, &tenant, &sim, id).await;
        assert!(taken(&sim) <= before + 1, "nothing goes out twice");
    })
    .await;
}

#[tokio::test]
async fn an_accepted_message_carries_what_the_provider_said() {
    with_first(Behaviour::Normal, async |app, t, sim, id| {
        let message = app.message(&t.live, &id).await;
        assert_eq!(kinds(&message), ["queued", "sending", "sent"]);
        let received = sim.received().pop().expect("one");
        assert_eq!((received.recipient.as_str(), received.text.as_str()), (TO, "Hi Ada"));
        assert_eq!(message["providerMessageId"].as_str(), received.accepted.as_deref());
        assert_eq!(
            (&message["provider"], &message["costCurrency"], &message["costAmount"], &message["segments"]),
            (&json!("africas_talking"), &json!("KES"), &json!(0.8), &json!(1))
        );
    })
    .await;
}

#[tokio::test]
async fn what_may_have_gone_out_is_not_repeated_and_ends_as_unknown() {
    // A byte every 20 ms is slower than a call may take.
    let trickle = Behaviour::Trickle(Duration::from_millis(20));
    for behaviour in [Behaviour::Hang, Behaviour::ResetAfterRequest, Behaviour::Garbage, Behaviour::Html, Behaviour::HalfBody, trickle] {
        with_first(behaviour.clone(), async |app, t, _, id| {
            let message = app.message(&t.live, &id).await;
            assert_eq!(
                (kinds(&message), &message["status"]),
                (vec!["queued", "sending", "outcome_unknown"], &json!("sending")),
                "{behaviour:?}"
            );
            app.advance(UNKNOWN_FOR - Duration::from_secs(1)).await;
            assert_eq!(app.message(&t.live, &id).await["status"], "sending");
            app.advance(Duration::from_secs(1)).await;
            let message = app.message(&t.live, &id).await;
            assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("outcome_unknown")));
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_that_is_slow_or_says_it_is_something_else_is_read() {
    for behaviour in [Behaviour::Trickle(Duration::from_micros(200)), Behaviour::WrongType] {
        with_first(behaviour.clone(), async |app, t, sim, id| {
            let message = app.message(&t.live, &id).await;
            assert_eq!(kinds(&message), ["queued", "sending", "sent"], "{behaviour:?}");
            assert_eq!(message["providerMessageId"].as_str(), sim.received().pop().expect("one").accepted.as_deref());
        })
        .await;
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    // On this machine, where a tenant's provider has no business.
    let inside = AfricasTalking::start().await;
    let to = format!("{}/messaging", inside.base_url());
    for to in [to, "http://169.254.169.254/latest/meta-data/".to_owned(), "file:///etc/passwd".to_owned()] {
        with_first(Behaviour::Redirect { to: to.clone() }, async |app, t, _, id| {
            let message = app.message(&t.live, &id).await;
            assert_eq!(kinds(&message), ["queued", "sending", "retry_scheduled"], "{to}");
        })
        .await;
    }
    assert_eq!((inside.connections(), inside.count()), (0, 0));
}

#[tokio::test]
async fn what_did_not_go_out_is_tried_again() {
    for behaviour in [Behaviour::ServerError, Behaviour::RateLimited { retry_after: None }, Behaviour::WrongCredentials] {
        let pauses = behaviour == Behaviour::WrongCredentials;
        with_first(behaviour.clone(), async |app, t, _, id| {
            let message = app.message(&t.live, &id).await;
            assert_eq!(
                (kinds(&message), &message["status"]),
                (vec!["queued", "sending", "retry_scheduled"], &json!("sending")),
                "{behaviour:?}"
            );
            app.advance(Duration::from_secs(120)).await;
            if pauses {
                // Nothing goes through the config until its credentials are seen to work.
                assert_eq!(kinds(&app.message(&t.live, &id).await).len(), 3);
                app.engine.housekeeping.heal().await.expect("the store works");
                app.clock.advance(Duration::from_secs(300));
                app.engine.housekeeping.heal().await.expect("the store works");
                app.advance(Duration::ZERO).await;
            }
            let message = app.message(&t.live, &id).await;
            assert_eq!(
                (kinds(&message), &message["status"]),
                (vec!["queued", "sending", "retry_scheduled", "sending", "sent"], &json!("sent"))
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_wait_that_the_provider_asks_for_is_kept() {
    with_first(Behaviour::RateLimited { retry_after: Some(90) }, async |app, t, _, id| {
        app.advance(Duration::from_secs(89)).await;
        assert_eq!(app.message(&t.live, &id).await["status"], "sending");
        app.advance(Duration::from_secs(30)).await;
        assert_eq!(app.message(&t.live, &id).await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_final() {
    with_first(Behaviour::Refuse(403), async |app, t, sim, id| {
        let count = sim.count();
        let message = app.message(&t.live, &id).await;
        assert_eq!((kinds(&message), &message["status"]), (vec!["queued", "sending", "failed"], &json!("failed")));
        assert!(message["failureReason"].as_str().is_some_and(|r| !r.is_empty()));
        app.advance(Duration::from_secs(24 * 3600)).await;
        assert_eq!(sim.count(), count);
    })
    .await;
}

#[tokio::test]
async fn retries_end_at_the_maximum_age() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        sim.script_always(Behaviour::ServerError);
        let id = sms(&app, &tenant, TO).await;
        let max_age = RetryPolicy::of(raven_core::Channel::Sms).max_age;
        for _ in 0..(max_age.as_secs() / 60 + 2) {
            app.advance(Duration::from_secs(60)).await;
        }
        let message = app.message(&tenant.live, &id).await;
        assert_eq!(message["status"], "failed");
        assert!(kinds(&message).iter().filter(|k| **k == "retry_scheduled").count() > 10);
        sim.script_always(Behaviour::Normal);
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_can_not_be_reached_is_tried_again() {
    let sim = AfricasTalking::start().await;
    let port = sim.port();
    let reachable = options(&sim);
    drop(sim);
    on_both_with(reachable, async |app| {
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        let id = sms(&app, &tenant, TO).await;
        app.settle().await;
        assert_eq!(kinds(&app.message(&tenant.live, &id).await), ["queued", "sending", "retry_scheduled"]);
        let back = AfricasTalking::start_on(port).await;
        app.advance(Duration::from_secs(5)).await;
        assert_eq!(app.message(&tenant.live, &id).await["status"], "sent");
        assert_eq!(back.count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_hangs_delays_only_its_own_messages() {
    let (slow, fast) = (AfricasTalking::start().await, Twilio::start().await);
    slow.script_always(Behaviour::Hang);
    let options = TestOptions {
        base_urls: HashMap::from([("africas_talking".to_owned(), slow.base_url()), ("twilio".to_owned(), fast.base_url())]),
        limits: Limits { config_calls: 4, tenant_calls: 8, calls: 16, lane_held: 8, tenant_held: 16, held: 32 },
        call_cap: Duration::from_secs(10),
        ..TestOptions::default()
    };
    on_both_with(options, async |app| {
        let before = fast.count();
        let (hung, quick) = (app.tenant("Hung").await, app.tenant("Quick").await);
        app.configure_sms(&hung).await;
        let body = json!({ "provider": "twilio", "label": "SMS", "publicConfig": { "account_sid": format!("AC{}", "0".repeat(32)), "from": "+15005550006" }, "secretConfig": { "auth_token": "x".repeat(32) } });
        app.as_human(&quick.owner, &quick.slug, http::Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
        for _ in 0..40 {
            sms(&app, &hung, TO).await;
        }
        let mut ids = Vec::new();
        for _ in 0..40 {
            ids.push(sms(&app, &quick, TO).await);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while fast.count() < before + 40 {
            app.engine.step().await.expect("the store works");
            assert!(tokio::time::Instant::now() < deadline, "{} of 40 came through beside a provider that hangs", fast.count() - before);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(app.engine.load().calls <= 8);
    })
    .await;
}

#[tokio::test]
async fn a_message_waits_while_its_channel_has_no_provider() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let before = taken(&sim);
        let tenant = app.tenant("Acme").await;
        let config = app.configure_sms(&tenant).await;
        sim.script(Behaviour::ServerError);
        let id = sms(&app, &tenant, TO).await;
        app.settle().await;
        let path = format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"));
        app.as_human(&tenant.owner, &tenant.slug, http::Method::DELETE, &path, None).await.expect(204);
        app.advance(Duration::from_secs(10)).await;
        let message = app.message(&tenant.live, &id).await;
        assert_eq!(
            (&message["status"], message["events"].as_array().expect("events").last().expect("one")["eventType"].clone()),
            (&json!("sending"), json!("retry_scheduled"))
        );
        app.configure_sms(&tenant).await;
        app.advance(Duration::from_secs(61)).await;
        assert_eq!(app.message(&tenant.live, &id).await["status"], "sent");
        assert_eq!(taken(&sim), before + 1);
    })
    .await;
}

#[tokio::test]
async fn a_tenant_that_allows_it_gets_unknown_messages_repeated() {
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let before = sim.count();
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        let change = raven_store::TenantChange { retry_unknown: Some(true), ..Default::default() };
        app.store.update_tenant(tenant.id, change, app.audit(tenant.id)).await.expect("set");
        app.engine.directory.forget(tenant.id).await;
        sim.script(Behaviour::ResetAfterRequest);
        let id = sms(&app, &tenant, TO).await;
        app.settle().await;
        app.advance(Duration::from_secs(10)).await;
        let message = app.message(&tenant.live, &id).await;
        assert_eq!(
            (kinds(&message), &message["status"]),
            (vec!["queued", "sending", "outcome_unknown", "sending", "sent"], &json!("sent"))
        );
        assert_eq!(sim.count(), before + 2);
    })
    .await;
}

#[tokio::test]
async fn after_an_hour_of_failures_messages_come_back_one_by_one_and_all_arrive() {
    const MESSAGES: usize = 150;
    let sim = AfricasTalking::start().await;
    on_both_with(options(&sim), async |app| {
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        sim.script_always(Behaviour::ServerError);
        let before = taken(&sim);
        for n in 0..MESSAGES {
            sms(&app, &tenant, &format!("+2547220{n:05}")).await;
        }
        app.settle().await;
        for _ in 0..120 {
            app.advance(Duration::from_secs(30)).await;
        }
        assert_eq!(taken(&sim), before);
        sim.script_always(Behaviour::Normal);
        while taken(&sim) == before {
            app.advance(Duration::from_secs(10)).await;
        }
        // They failed together at first, and must not come back together: the breaker has closed, and lets little through at first.
        let (mut arrived, mut each) = (taken(&sim), Vec::new());
        for _ in 0..40 {
            for _ in 0..10 {
                app.advance(Duration::from_millis(100)).await;
            }
            let now = taken(&sim);
            each.push(now - arrived);
            arrived = now;
        }
        assert_eq!(arrived, before + MESSAGES, "all arrive: {each:?}");
        assert!(each[..5].iter().sum::<usize>() <= 12 && each.iter().all(|second| *second < MESSAGES / 5), "{each:?}");
    })
    .await;
}
