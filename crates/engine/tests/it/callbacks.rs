//! Callbacks at bad moments: the database goes away, the answer to our own call is still missing, a process ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    faults::{Fault, FaultyStore, Verb},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::{Value, json};

/// The path of the callback URL of a tenant's Africa's Talking.
async fn configured(app: &TestApp, t: &TestTenant) -> String {
    let config = app.configure_sms(t).await;
    config["callbackUrl"].as_str().and_then(|url| url.strip_prefix("http://raven.test")).expect("a URL").to_owned()
}

/// Sends a message; its id, and the provider's.
async fn sent(app: &TestApp, t: &TestTenant, to: &str) -> (String, String) {
    let message = json!({ "channel": "sms", "to": to, "body": "Hi" });
    let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
    app.settle().await;
    let provider_id = app.message(&t.live, &id).await["providerMessageId"].as_str().expect("it was sent").to_owned();
    (id, provider_id)
}

fn delivered(provider_id: &str) -> String {
    format!("id={provider_id}&status=Success&phoneNumber=%2B254722000000")
}

fn deliveries(message: &Value) -> usize {
    message["events"].as_array().expect("events").iter().filter(|e| e["eventType"] == "delivered").count()
}

#[tokio::test]
async fn a_callback_that_was_not_answered_200_comes_again_and_counts_once() {
    for database in databases().await {
        let sim = AfricasTalking::start().await;
        let options = TestOptions { base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]), ..TestOptions::default() };
        let store = FaultyStore::around(database.store());
        let app = TestApp::start_over(database, store.clone(), options, Arc::new(TestClock::at(MIGRATED_AT))).await;
        let t = app.tenant("Acme").await;
        let path = configured(&app, &t).await;
        let (id, provider_id) = sent(&app, &t, "+254722000000").await;
        let step = async || app.engine.applier.step().await;

        store.faults.inject(Verb::RecordCallbacks, Fault::Before, 1);
        app.call_back(&path, delivered(&provider_id)).await.expect_error(503, "overloaded");
        assert_eq!(step().await.expect("the store works"), 0);
        // It was stored, and the answer was lost: the provider can't know, and calls again.
        store.faults.inject(Verb::RecordCallbacks, Fault::After, 1);
        app.call_back(&path, delivered(&provider_id)).await.expect_error(503, "overloaded");
        app.call_back(&path, delivered(&provider_id)).await.expect(200);
        for fault in [Fault::Before, Fault::After] {
            store.faults.inject(Verb::ApplyCallbacks, fault, 1);
            assert!(step().await.is_err(), "{fault:?}");
            // What was under way is due again when its time is over.
            app.clock.advance(Duration::from_secs(16));
        }
        step().await.expect("the store works");
        app.clock.advance(Duration::from_secs(16));
        assert_eq!(step().await.expect("the store works"), 0, "nothing is left");
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], deliveries(&message)), (&json!("delivered"), 1));
    }
}

#[tokio::test]
async fn what_one_node_stored_another_one_applies() {
    let sim = AfricasTalking::start().await;
    let base_urls = HashMap::from([("africas_talking".to_owned(), sim.base_url())]);
    let options = TestOptions { base_urls, ..TestOptions::default() };
    for database in databases().await.into_iter().filter(|d| d.store().is_shared()) {
        let one = TestApp::start(database, options.clone()).await;
        let t = one.tenant("Acme").await;
        let path = configured(&one, &t).await;
        let (id, provider_id) = sent(&one, &t, "+254722000000").await;
        let two = one.beside(TestOptions { node_id: "two".to_owned(), ..options.clone() }).await;
        one.call_back(&path, delivered(&provider_id)).await.expect(200);
        // The first one ends here. While its callback is its own, nobody else takes it.
        assert_eq!(two.engine.applier.step().await.expect("the store works"), 0);
        one.clock.advance(Duration::from_secs(16));
        assert_eq!(two.engine.applier.step().await.expect("the store works"), 1);
        assert_eq!(two.message(&t.live, &id).await["status"], "delivered");
        assert_eq!(one.engine.applier.step().await.expect("the store works"), 1, "it comes late, and does no harm");
        assert_eq!(deliveries(&one.message(&t.live, &id).await), 1);
    }
}

#[tokio::test]
async fn a_callback_before_our_own_answer_waits_for_it() {
    let sim = AfricasTalking::start().await;
    // Accepted at once, and answered a while later.
    sim.script_for("+254722000007", Behaviour::After(Duration::from_millis(300)));
    let base_urls = HashMap::from([("africas_talking".to_owned(), sim.base_url())]);
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let path = configured(&app, &t).await;
        let before = sim.count();
        let message = json!({ "channel": "sms", "to": "+254722000007", "body": "Hi" });
        let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
        while sim.count() == before {
            app.engine.step().await.expect("the store works");
            tokio::task::yield_now().await;
        }
        let received = sim.received();
        let provider_id = received[before].accepted.clone().expect("it was accepted");
        app.call_back(&path, delivered(&provider_id)).await.expect(200);
        assert_eq!(app.engine.applier.step().await.expect("the store works"), 1);
        assert_eq!(app.message(&t.live, &id).await["status"], "sending", "nobody knows the id yet");
        app.settle().await;
        assert_eq!(app.message(&t.live, &id).await["status"], "sent");
        app.clock.advance(Duration::from_secs(1));
        assert_eq!(app.engine.applier.step().await.expect("the store works"), 1);
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], deliveries(&message)), (&json!("delivered"), 1));
    })
    .await;
}

#[tokio::test]
async fn word_of_an_unknown_outcome_resolves_it() {
    let sim = AfricasTalking::start().await;
    sim.script_for("+254722000008", Behaviour::ResetAfterRequest);
    let base_urls = HashMap::from([("africas_talking".to_owned(), sim.base_url())]);
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let path = configured(&app, &t).await;
        let message = json!({ "channel": "sms", "to": "+254722000008", "body": "Hi" });
        let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
        app.settle().await;
        let lost = app.message(&t.live, &id).await;
        assert_eq!((&lost["status"], &lost["events"][2]["eventType"]), (&json!("sending"), &json!("outcome_unknown")));
        // Africa's Talking hands back nothing of ours, and its id came with the answer that was lost: nothing can be matched.
        let provider_id = sim.received().last().and_then(|r| r.accepted.clone()).expect("it was accepted");
        app.call_back(&path, delivered(&provider_id)).await.expect(200);
        for wait in [0, 1, 5, 30, 300, 3600, 21_600] {
            app.clock.advance(Duration::from_secs(wait));
            assert_eq!(app.engine.applier.step().await.expect("the store works"), 1, "{wait}");
        }
        app.clock.advance(Duration::from_secs(24 * 3600));
        assert_eq!(app.engine.applier.step().await.expect("the store works"), 0, "it is kept, and not looked at any more");
        app.advance(Duration::ZERO).await;
        let given_up = app.message(&t.live, &id).await;
        assert_eq!((&given_up["status"], &given_up["failureReason"]), (&json!("failed"), &json!("outcome_unknown")));
    })
    .await;
}
