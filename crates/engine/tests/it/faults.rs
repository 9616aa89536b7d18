//! The database goes away at the worst moments: nothing that was answered 202 is lost, and nothing goes out twice.

use std::{collections::HashMap, sync::Arc, time::Duration};

use raven_engine::engine::Load;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    faults::{Fault, FaultyStore, Verb},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Runs a test on both engines, with a store that fails on demand.
async fn with_faults(test: impl AsyncFn(TestApp, Arc<FaultyStore>, TestTenant, &AfricasTalking)) {
    for database in databases().await {
        let sim = AfricasTalking::start().await;
        let options = TestOptions { base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]), ..TestOptions::default() };
        let store = FaultyStore::around(database.store());
        let clock = Arc::new(TestClock::at(MIGRATED_AT));
        let app = TestApp::start_over(database, store.clone(), options, clock).await;
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        // The key's first check and the tenant's view are then no part of what the test looks at.
        app.post_message(&tenant.live, body("warm")).await.expect(202);
        app.settle().await;
        test(app, store, tenant, &sim).await;
    }
}

fn body(key: &str) -> Value {
    json!({ "channel": "sms", "to": "+254722000000", "body": key, "idempotencyKey": key })
}

fn received(sim: &AfricasTalking, text: &str) -> usize {
    sim.received().iter().filter(|r| r.text == text).count()
}

#[tokio::test]
async fn acceptance_that_fails_is_503_and_the_retry_is_accepted() {
    with_faults(async |app, store, t, sim| {
        store.faults.inject(Verb::Accept, Fault::Before, 1);
        app.post_message(&t.live, body("a")).await.expect_error(503, "overloaded");
        let accepted = app.post_message(&t.live, body("a")).await;
        assert!(accepted.headers.get("idempotent-replayed").is_none());
        accepted.expect(202);
        app.settle().await;
        assert_eq!(received(sim, "a"), 1);
    })
    .await;
}

#[tokio::test]
async fn an_acceptance_whose_answer_was_lost_is_delivered_once() {
    with_faults(async |app, store, t, sim| {
        store.faults.inject(Verb::Accept, Fault::After, 1);
        app.post_message(&t.live, body("a")).await.expect_error(503, "overloaded");
        app.settle().await;
        assert_eq!(received(sim, "a"), 1, "it is given back and claimed anew at once");
        let replayed = app.post_message(&t.live, body("a")).await;
        assert_eq!(replayed.headers["idempotent-replayed"], "true");
        let id = replayed.expect(202)["id"].as_str().expect("an id").to_owned();
        app.advance(Duration::from_secs(5)).await;
        let message = app.message(&t.live, &id).await;
        assert_eq!((received(sim, "a"), &message["status"]), (1, &json!("sent")), "{message}");
    })
    .await;
}

#[tokio::test]
async fn a_start_that_fails_is_made_up_for() {
    for fault in [Fault::Before, Fault::After] {
        with_faults(async |app, store, t, sim| {
            // A claim brings it, so that it has a start of its own.
            store.faults.inject(Verb::Accept, Fault::After, 1);
            app.post_message(&t.live, body("a")).await.expect_error(503, "overloaded");
            store.faults.inject(Verb::Start, fault, 1);
            app.advance(Duration::from_secs(5)).await;
            app.advance(Duration::from_secs(5)).await;
            assert_eq!(received(sim, "a"), 1, "{fault:?}");
            let id = app.post_message(&t.live, body("a")).await.expect(202)["id"].as_str().expect("an id").to_owned();
            assert_eq!(app.message(&t.live, &id).await["status"], "sent");
        })
        .await;
    }
}

#[tokio::test]
async fn outcomes_are_kept_until_the_store_is_back() {
    for fault in [Fault::Before, Fault::After] {
        with_faults(async |app, store, t, sim| {
            store.faults.inject(Verb::Settle, fault, 3);
            let id = app.post_message(&t.live, body("a")).await.expect(202)["id"].as_str().expect("an id").to_owned();
            app.settle().await;
            let message = app.message(&t.live, &id).await;
            let kinds: Vec<&str> =
                message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect();
            assert_eq!((received(sim, "a"), kinds), (1, vec!["queued", "sending", "sent"]), "{fault:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_key_that_can_not_be_looked_up_is_503_and_not_401() {
    with_faults(async |app, store, t, _| {
        store.faults.inject(Verb::FindKey, Fault::Before, 1);
        app.post_message(&t.test, body("a")).await.expect_error(503, "overloaded");
        app.post_message(&t.test, body("a")).await.expect(202);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_missed_its_heartbeats_starts_nothing() {
    with_faults(async |app, store, t, sim| {
        store.faults.inject(Verb::Beat, Fault::Before, 1000);
        app.clock.advance(raven_engine::membership::FRESH + Duration::from_millis(1));
        app.post_message(&t.live, body("a")).await.expect(202);
        app.engine.step().await.expect("the store works");
        tokio::task::yield_now().await;
        assert_eq!((received(sim, "a"), app.engine.load()), (0, raven_engine::engine::Load::default()));
        store.faults.clear();
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(received(sim, "a"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_claim_without_an_answer_makes_no_heartbeat_late() {
    with_faults(async |app, store, t, sim| {
        let before = store.faults.calls(Verb::Claim);
        store.faults.inject(Verb::Claim, Fault::Silence, 1);
        let beats = async {
            while store.faults.calls(Verb::Claim) == before {
                tokio::task::yield_now().await;
            }
            // Now there is a job to be given back, which the heartbeat does too.
            store.faults.inject(Verb::Accept, Fault::After, 1);
            app.post_message(&t.live, body("a")).await.expect_error(503, "overloaded");
            app.engine.housekeeping.beat().await
        };
        tokio::select! {
            biased;
            _ = app.engine.step() => panic!("the claim is not answered"),
            beaten = tokio::time::timeout(Duration::from_secs(10), beats) => {
                beaten.expect("the heartbeat doesn't wait for the claim").expect("the store works");
            }
        }
        app.settle().await;
        assert_eq!(received(sim, "a"), 1);
    })
    .await;
}

/// Steps as the loops do, whatever fails.
async fn struggle(app: &TestApp) {
    for _ in 0..3 {
        let _ = app.engine.housekeeping.beat().await;
        let _ = app.engine.step().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn in_a_storm_of_faults_nothing_is_lost_doubled_or_stuck() {
    const MESSAGES: usize = 40;
    for seed in 0..6 {
        with_faults(async |app, store, t, sim| {
            store.faults.rage(seed, 3);
            let mut ids = Vec::new();
            for n in 0..MESSAGES {
                let text = format!("{seed}-{n}");
                // As a caller does: the same request with the same key, until it is answered 202.
                let mut tries = 0;
                let accepted = loop {
                    let answer = app.post_message(&t.live, body(&text)).await;
                    if answer.status == 202 {
                        break answer.body;
                    }
                    answer.expect_error(503, "overloaded");
                    tries += 1;
                    assert!(tries < 100, "{text} is never accepted");
                };
                ids.push((text, accepted["id"].as_str().expect("an id").to_owned()));
                struggle(&app).await;
            }
            for _ in 0..20 {
                app.clock.advance(Duration::from_secs(1));
                struggle(&app).await;
            }
            store.faults.clear();
            for _ in 0..3 {
                app.advance(Duration::from_secs(5)).await;
            }
            for (text, id) in ids {
                let message = app.message(&t.live, &id).await;
                let last = message["events"].as_array().expect("events").last().expect("one")["eventType"].clone();
                let sent = message["status"] == "sent";
                assert!(sent || last == "outcome_unknown", "seed {seed}: {message}");
                let went_out = received(sim, &text);
                assert!(went_out == 1 || went_out == 0 && !sent, "seed {seed}: went out {went_out} times: {message}");
            }
            assert!(store.faults.calls(Verb::Accept) > MESSAGES + 5, "the storm was felt");
        })
        .await;
    }
}

#[tokio::test]
async fn a_config_is_paused_from_the_refusal_on_though_it_is_not_written_down_yet() {
    with_faults(async |app, store, t, sim| {
        let before = sim.count();
        store.faults.inject(Verb::ReplaceConfig, Fault::Silence, 1);
        sim.script(Behaviour::WrongCredentials);
        let accepted = app.post_message(&t.live, body("refused")).await.expect(202);
        let id = accepted["id"].as_str().expect("an id").to_owned();
        settle_but(&app, 1).await;
        // The config's record, which says nothing of it yet, was read again to see whether the message finds a way.
        assert_eq!((sim.count() - before, store.faults.calls(Verb::ReplaceConfig)), (1, 1), "{}", app.message(&t.live, &id).await);
        app.clock.advance(Duration::from_secs(2));
        app.engine.housekeeping.beat().await.expect("the store works");
        settle_but(&app, 1).await;
        assert_eq!(sim.count() - before, 1, "nor does it go when it is looked at again");
    })
    .await;
}

/// Steps until nothing moves but so many tasks that never end.
async fn settle_but(app: &TestApp, tasks: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let moved = app.engine.step().await.expect("the store works");
        let load = app.engine.load();
        if moved == 0 && load == (Load { tasks, ..Load::default() }) && app.engine.step().await.expect("the store works") == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "still {load:?}");
        tokio::task::yield_now().await;
    }
}
