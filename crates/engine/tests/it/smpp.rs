//! SMS over SMPP, through a real message centre (`tests/smpp`): what goes out, what is told afterwards, and what goes wrong.

use std::{sync::Arc, time::Duration};

use http::Method;
use raven_engine::{smpp::Pace, transport::ExtraRoots};
use raven_store::StateChange;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    faults::{Fault, FaultyStore, Verb},
    simulators::smpp::{MessageCentre, PASSWORD, SYSTEM_ID},
};
use serde_json::{Value, json};

/// Whom the messages are for.
const ADA: &str = "+254722000000";
/// The same, as SMPP writes it.
const ADA_DIGITS: &str = "254722000000";

async fn configure_with(app: &TestApp, t: &TestTenant, port: u16, more: Value, password: &str) -> Value {
    let mut public = json!({ "host": "127.0.0.1", "port": port, "system_id": SYSTEM_ID, "sender_id": "ACME" });
    for (name, value) in more.as_object().expect("an object") {
        public[name] = value.clone();
    }
    let body = json!({ "provider": "smpp", "label": "SMS", "publicConfig": public, "secretConfig": { "password": password } });
    app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201)
}

async fn configure(app: &TestApp, t: &TestTenant, centre: &MessageCentre) -> Value {
    configure_with(app, t, centre.port(), json!({}), PASSWORD).await
}

/// A tenant with a config and its session.
async fn connected(app: &TestApp, centre: &MessageCentre) -> (TestTenant, Value) {
    let t = app.tenant("Acme").await;
    let config = configure(app, &t, centre).await;
    keep(app).await;
    (t, config)
}

/// Has the sessions kept, a while after what was known of tenants was read.
async fn keep(app: &TestApp) {
    app.advance(Duration::from_secs(5)).await;
    app.engine.housekeeping.keep_sessions().await.expect("the store works").done().await;
}

async fn send(app: &TestApp, t: &TestTenant, body: &str) -> Value {
    let message = json!({ "channel": "sms", "to": ADA, "body": body });
    let id = app.post_message(&t.live, message).await.expect(202)["id"].as_str().expect("an id").to_owned();
    app.settle().await;
    app.message(&t.live, &id).await
}

async fn again(app: &TestApp, t: &TestTenant, message: &Value) -> Value {
    app.message(&t.live, message["id"].as_str().expect("an id")).await
}

async fn config_of(app: &TestApp, t: &TestTenant, config: &Value) -> Value {
    let path = format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"));
    app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200)
}

fn last_event(message: &Value) -> Value {
    message["events"].as_array().expect("events").last().expect("one").clone()
}

/// Waits until the message centre has seen that a session is over, or begun: a bind or a goodbye of another process.
async fn sessions_become(centre: &MessageCentre, sessions: u32) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while centre.seen().await.sessions != sessions {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", centre.seen().await);
        tokio::task::yield_now().await;
    }
}

/// How many sessions this process believes to have.
async fn our_sessions_become(app: &TestApp, sessions: i64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while app.engine.metrics.smpp_sessions.get() != sessions {
        assert!(tokio::time::Instant::now() < deadline, "{}", app.engine.metrics.smpp_sessions.get());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_message_goes_out_and_its_receipt_delivers_it() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let before = centre.seen().await.submits.len();
        let (t, config) = connected(&app, &centre).await;
        assert_eq!(config["callbackUrl"], Value::Null, "there is nothing to set up");
        let message = send(&app, &t, "Hallo {Ada}, 5 €").await;
        assert_eq!((&message["status"], &message["segments"]), (&json!("sent"), &json!(1)), "{message}");
        let submit = centre.seen().await.submits[before].clone();
        assert_eq!((submit.from.as_str(), submit.ton, submit.to.as_str()), ("ACME", 5, ADA_DIGITS));
        assert_eq!((submit.text.as_str(), submit.encoding, submit.receipt), ("Hallo {Ada}, 5 €", 0, 1));
        assert_eq!(message["providerMessageId"], submit.id);

        assert_eq!(centre.receipt(&submit.id, "ENROUTE").await, Some(0));
        assert_eq!(centre.receipt(&submit.id, "DELIVRD").await, Some(0));
        assert_eq!(app.engine.applier.step().await.expect("the store works"), 2);
        let delivered = again(&app, &t, &message).await;
        assert_eq!(delivered["status"], "delivered", "{delivered}");

        // A message centre that repeats itself tells nothing new.
        assert_eq!(centre.receipt(&submit.id, "DELIVRD").await, Some(0));
        app.engine.applier.step().await.expect("the store works");
        assert_eq!(again(&app, &t, &message).await["events"], delivered["events"]);

        let message = send(&app, &t, "Привет 😀").await;
        let submit = centre.seen().await.submits.pop().expect("one");
        assert_eq!((submit.text.as_str(), submit.encoding), ("Привет 😀", 8));
        assert_eq!(centre.receipt_by_parameters(&submit.id, "UNDELIVERABLE").await, Some(0));
        app.engine.applier.step().await.expect("the store works");
        let failed = again(&app, &t, &message).await;
        assert_eq!((&failed["status"], &failed["failureReason"]), (&json!("failed"), &json!("undelivered")));
    })
    .await;
}

#[tokio::test]
async fn a_long_text_goes_in_parts_and_the_last_one_stands_for_all() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let before = centre.seen().await.submits.len();
        let (t, _) = connected(&app, &centre).await;
        let text = "0123456789".repeat(40);
        let message = send(&app, &t, &text).await;
        assert_eq!((&message["status"], &message["segments"]), (&json!("sent"), &json!(3)), "{message}");
        let mut parts = centre.seen().await.submits.split_off(before);
        let number = |part: &raven_testkit::simulators::smpp::Submit| part.udh.clone().expect("a header").concat();
        parts.sort_by_key(number);
        assert_eq!(parts.iter().map(|part| part.text.as_str()).collect::<String>(), text);
        assert_eq!(parts.iter().map(|part| part.receipt).collect::<Vec<_>>(), [0, 0, 1]);
        let ends: Vec<String> = parts.iter().map(|part| number(part)[number(part).len() - 4..].to_owned()).collect();
        assert_eq!(ends, ["0301", "0302", "0303"]);
        assert_eq!(message["providerMessageId"], parts[2].id);
        assert_eq!(centre.receipt(&parts[2].id, "DELIVRD").await, Some(0));
        app.engine.applier.step().await.expect("the store works");
        assert_eq!(again(&app, &t, &message).await["status"], "delivered");
    })
    .await;
}

#[tokio::test]
async fn what_people_write_comes_in_though_nothing_was_ever_sent() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let (t, _) = connected(&app, &centre).await;
        assert_eq!(centre.inbound(ADA_DIGITS, "22384", "Grüße €").await, Some(0));
        assert_eq!(centre.inbound(ADA_DIGITS, "22384", "Привет").await, Some(0));
        assert_eq!(centre.inbound_parts(ADA_DIGITS, "22384", &["Hello ", "world"]).await, Some(0));
        assert_eq!(centre.inbound(ADA_DIGITS, "22384", "STOP").await, Some(0));
        // Somebody who writes the same once more has written twice.
        assert_eq!(centre.inbound(ADA_DIGITS, "22384", "Привет").await, Some(0));
        app.engine.applier.step().await.expect("the store works");
        let list = app.with_key(&t.live, Method::GET, "/v1/inbound-messages", None).await.expect(200);
        let mut texts: Vec<&str> = list["data"].as_array().expect("data").iter().map(|m| m["body"].as_str().expect("a text")).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["Grüße €", "Hello ", "STOP", "world", "Привет", "Привет"]);
        assert_eq!((&list["data"][0]["from"], &list["data"][0]["to"]), (&json!(ADA), &json!("22384")));
        let message = send(&app, &t, "Hi").await;
        assert_eq!(message["status"], "suppressed", "{message}");
    })
    .await;
}

#[tokio::test]
async fn a_throttled_message_waits_and_a_throttled_part_is_sent_alone() {
    let centre = MessageCentre::start();
    // Time for a second try of a part.
    let options = TestOptions { call_cap: Duration::from_secs(12), ..TestOptions::default() };
    on_both_with(options, async |app| {
        let before = centre.seen().await.submits.len();
        let (t, _) = connected(&app, &centre).await;
        centre.script(ADA_DIGITS, json!([0x58])).await;
        let message = send(&app, &t, "Hi").await;
        let last = last_event(&message);
        assert_eq!((&message["status"], &last["eventType"]), (&json!("sending"), &json!("retry_scheduled")), "{message}");
        assert!(last["detail"].as_str().is_some_and(|detail| detail.starts_with("throttled: ")), "{last}");
        app.advance(Duration::from_secs(600)).await;
        assert_eq!(again(&app, &t, &message).await["status"], "sent");

        centre.script(ADA_DIGITS, json!([null, 0x14])).await;
        let message = send(&app, &t, &"x".repeat(400)).await;
        assert_eq!(message["status"], "sent", "{message}");
        let submits = centre.seen().await.submits.split_off(before + 1);
        let mut headers: Vec<String> = submits.iter().map(|part| part.udh.clone().expect("a header").concat()).collect();
        headers.sort();
        headers.dedup();
        assert_eq!((submits.len(), headers.len()), (3, 3), "each part once: {submits:?}");
    })
    .await;
}

#[tokio::test]
async fn a_message_that_went_out_in_part_fails_and_is_not_begun_again() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let before = centre.seen().await.submits.len();
        let (t, _) = connected(&app, &centre).await;
        centre.script(ADA_DIGITS, json!([null, 0x0b])).await;
        let message = send(&app, &t, &"x".repeat(300)).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("partly_sent")), "{message}");
        app.advance(Duration::from_secs(24 * 3600)).await;
        assert_eq!(centre.seen().await.submits.len(), before + 1);
        // When not even the first one was taken, it is like any other message.
        centre.script(ADA_DIGITS, json!([0x0b])).await;
        let message = send(&app, &t, &"x".repeat(300)).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("invalid_recipient")));
        assert_eq!(centre.seen().await.submits.len(), before + 1);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_pauses_the_config_before_any_message_is_risked() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let t = app.tenant("Acme").await;
        let config = configure_with(&app, &t, centre.port(), json!({}), "wrongpwd").await;
        let path = format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"));
        keep(&app).await;
        let told = config_of(&app, &t, &config).await;
        assert_eq!(told["status"], "failed", "{told}");
        assert!(told["statusReason"].as_str().is_some_and(|why| why.starts_with("invalid_credentials: SMPP 0x0E")), "{told}");
        assert!(!told.to_string().contains("wrongpwd"));
        let message = send(&app, &t, "Hi").await;
        assert_ne!(message["status"], "failed", "it waits: {message}");
        let verify = async || app.as_human(&t.owner, &t.slug, Method::POST, &format!("{path}/verify"), None).await.expect(200);
        assert_eq!(verify().await["status"], "failed");

        let right = json!({ "secretConfig": { "password": PASSWORD } });
        app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(right)).await.expect(200);
        assert_eq!(verify().await["status"], "verified");
        app.advance(Duration::from_secs(60)).await;
        assert_eq!(again(&app, &t, &message).await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn a_check_needs_no_second_session_where_the_account_has_but_one() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        sessions_become(&centre, 0).await;
        centre.set_most(1).await;
        let (t, config) = connected(&app, &centre).await;
        let path = format!("/v1/admin/providers/{}/verify", config["id"].as_str().expect("an id"));
        let verified = app.as_human(&t.owner, &t.slug, Method::POST, &path, None).await.expect(200);
        assert_eq!(verified["status"], "verified", "{verified}");
        // With another password it is asked, and refused.
        let other = json!({ "secretConfig": { "password": "wrongpwd" } });
        app.as_human(&t.owner, &t.slug, Method::PATCH, path.trim_end_matches("/verify"), Some(other)).await.expect(200);
        let failed = app.as_human(&t.owner, &t.slug, Method::POST, &path, None).await.expect(200);
        assert_eq!(failed["status"], "failed", "{failed}");
        app.engine.calls.smpp().close(tokio::time::Instant::now() + Duration::from_secs(5)).await;
        sessions_become(&centre, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_cut_leaves_open_what_was_under_way_and_comes_back() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let (t, _) = connected(&app, &centre).await;
        let (binds, before) = (centre.seen().await.binds, centre.seen().await.submits.len());
        centre.script(ADA_DIGITS, json!(["drop"])).await;
        let lost = send(&app, &t, "Hi").await;
        assert_eq!((&lost["status"], &last_event(&lost)["eventType"]), (&json!("sending"), &json!("outcome_unknown")), "{lost}");
        our_sessions_become(&app, 0).await;
        keep(&app).await;
        assert_eq!(centre.seen().await.binds, binds + 1);
        app.advance(Duration::from_secs(3600)).await;
        assert_eq!(centre.seen().await.submits.len(), before + 1, "it is not repeated");

        // One that ends while nothing is under way costs nothing: a message that wants it has a new one.
        centre.drop_connections().await;
        our_sessions_become(&app, 0).await;
        assert_eq!(send(&app, &t, "Hi").await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_leaves_it_open() {
    let centre = MessageCentre::start();
    let pace = Pace { idle: Duration::from_secs(30), answer: Duration::from_millis(300), goodbye: Duration::from_secs(2) };
    on_both_with(TestOptions { smpp_pace: Some(pace), ..TestOptions::default() }, async |app| {
        let (t, _) = connected(&app, &centre).await;
        let binds = centre.seen().await.binds;
        centre.script(ADA_DIGITS, json!(["silence"])).await;
        let lost = send(&app, &t, "Hi").await;
        assert_eq!((&lost["status"], &last_event(&lost)["eventType"]), (&json!("sending"), &json!("outcome_unknown")), "{lost}");
        assert_eq!(send(&app, &t, "Hi").await["status"], "sent");
        assert_eq!(centre.seen().await.binds, binds, "the session lives");
    })
    .await;
}

#[tokio::test]
async fn nothing_listens_there_and_the_message_waits() {
    let options = TestOptions::default();
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        // The port of somebody who has gone.
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
        configure_with(&app, &t, port, json!({}), PASSWORD).await;
        keep(&app).await;
        let message = send(&app, &t, "Hi").await;
        let last = last_event(&message);
        assert_eq!((&message["status"], &last["eventType"]), (&json!("sending"), &json!("retry_scheduled")), "{message}");
        assert!(last["detail"].as_str().is_some_and(|detail| detail.starts_with("provider_unreachable: ")), "{last}");
    })
    .await;
}

#[tokio::test]
async fn tenants_reach_no_private_host_unless_allowed() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions { forbid_private: true, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let config = configure(&app, &t, &centre).await;
        keep(&app).await;
        let message = send(&app, &t, "Hi").await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("host_not_allowed")));
        let path = format!("/v1/admin/providers/{}/verify", config["id"].as_str().expect("an id"));
        let verified = app.as_human(&t.owner, &t.slug, Method::POST, &path, None).await.expect(200);
        assert_eq!(verified["status"], "failed", "{verified}");
        assert_eq!(centre.seen().await.binds, 0);
    })
    .await;
}

#[tokio::test]
async fn a_session_can_be_encrypted_and_its_certificate_must_be_trusted() {
    let centre = MessageCentre::start_tls();
    let roots = ExtraRoots::from_pem(centre.certificate_pem().as_bytes()).expect("a certificate");
    for (roots, expected) in [(roots, "sent"), (ExtraRoots::default(), "sending")] {
        on_both_with(TestOptions { extra_roots: roots, ..TestOptions::default() }, async |app| {
            let t = app.tenant("Acme").await;
            configure_with(&app, &t, centre.port(), json!({ "tls": true }), PASSWORD).await;
            let message = send(&app, &t, "Hi").await;
            assert_eq!(message["status"], expected, "{message}");
            if expected == "sending" {
                assert!(last_event(&message)["detail"].as_str().is_some_and(|detail| detail.starts_with("tls_failed")), "{message}");
            }
        })
        .await;
    }
    assert_eq!(centre.seen().await.submits.len(), databases().await.len());
}

#[tokio::test]
async fn a_receipt_that_can_not_be_stored_is_asked_for_again() {
    for database in databases().await {
        let centre = MessageCentre::start();
        let store = FaultyStore::around(database.store());
        let clock = Arc::new(TestClock::at(MIGRATED_AT));
        let app = TestApp::start_over(database, store.clone(), TestOptions::default(), clock).await;
        let (t, _) = connected(&app, &centre).await;
        let message = send(&app, &t, "Hi").await;
        let id = message["providerMessageId"].as_str().expect("an id");
        store.faults.inject(Verb::RecordCallbacks, Fault::Before, 1);
        assert_eq!(centre.receipt(id, "DELIVRD").await, Some(0x64), "ESME_RX_T_APPN: try again");
        assert_eq!(app.engine.applier.step().await.expect("the store works"), 0);
        assert_eq!(centre.receipt(id, "DELIVRD").await, Some(0));
        app.engine.applier.step().await.expect("the store works");
        assert_eq!(again(&app, &t, &message).await["status"], "delivered");
    }
}

#[tokio::test]
async fn sessions_follow_their_configs() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        sessions_become(&centre, 0).await;
        let (t, config) = connected(&app, &centre).await;
        sessions_become(&centre, 1).await;
        let (path, binds) = (format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id")), centre.seen().await.binds);
        let patch = async |body: Value| app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(body)).await.expect(200);

        // What says nothing of the session leaves it alone.
        patch(json!({ "label": "Renamed", "priority": 7 })).await;
        keep(&app).await;
        assert_eq!((centre.seen().await.binds, centre.seen().await.sessions), (binds, 1));
        patch(json!({ "publicConfig": { "binds": 3 } })).await;
        keep(&app).await;
        sessions_become(&centre, 3).await;
        assert_eq!(centre.seen().await.binds, binds + 3);
        // Messages take turns over them.
        let before = centre.seen().await.submits.len();
        for _ in 0..3 {
            assert_eq!(send(&app, &t, "Hi").await["status"], "sent");
        }
        let mut over: Vec<u32> = centre.seen().await.submits[before..].iter().map(|submit| submit.session).collect();
        over.sort_unstable();
        over.dedup();
        assert_eq!(over.len(), 3);

        app.change_state(t.id, StateChange::Suspend(raven_core::tenant::SuspendedBy::Operator)).await;
        keep(&app).await;
        sessions_become(&centre, 0).await;
        app.change_state(t.id, StateChange::Reactivate(raven_core::tenant::SuspendedBy::Operator)).await;
        keep(&app).await;
        sessions_become(&centre, 3).await;
        app.as_human(&t.owner, &t.slug, Method::DELETE, &path, None).await.expect(204);
        keep(&app).await;
        sessions_become(&centre, 0).await;
        our_sessions_become(&app, 0).await;
    })
    .await;
}

#[tokio::test]
async fn no_tenant_has_more_sessions_than_its_share() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        sessions_become(&centre, 0).await;
        let (t, other) = (app.tenant("Acme").await, app.tenant("Other").await);
        for _ in 0..9 {
            configure_with(&app, &t, centre.port(), json!({ "binds": 8 }), PASSWORD).await;
        }
        configure(&app, &other, &centre).await;
        keep(&app).await;
        assert_eq!(app.engine.metrics.smpp_sessions.get(), 8 + 1, "not all at once");
        for _ in 0..9 {
            keep(&app).await;
        }
        assert_eq!(app.engine.metrics.smpp_sessions.get(), 64 + 1);
        app.engine.stop(Duration::from_secs(20)).await;
    })
    .await;
}

#[tokio::test]
async fn a_process_that_stops_says_goodbye_and_begins_no_session_any_more() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let (t, _) = connected(&app, &centre).await;
        assert_eq!(send(&app, &t, "Hi").await["status"], "sent");
        let binds = centre.seen().await.binds;
        app.engine.stop(Duration::from_secs(20)).await;
        sessions_become(&centre, 0).await;
        assert_eq!(app.engine.metrics.smpp_sessions.get(), 0);
        assert_eq!(centre.seen().await.binds, binds);
    })
    .await;
}

#[tokio::test]
async fn a_running_process_opens_its_sessions_by_itself() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        sessions_become(&centre, 0).await;
        let t = app.tenant("Acme").await;
        configure_with(&app, &t, centre.port(), json!({ "binds": 2 }), PASSWORD).await;
        app.engine.run();
        sessions_become(&centre, 2).await;
        app.engine.stop(Duration::from_secs(20)).await;
        sessions_become(&centre, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_a_feature_that_smpp_has_not_is_refused() {
    let centre = MessageCentre::start();
    on_both_with(TestOptions::default(), async |app| {
        let (t, config) = connected(&app, &centre).await;
        let body = json!({ "channel": "sms", "to": ADA, "body": "x".repeat(161), "from": "22384" });
        let told = app.with_key(&t.live, Method::POST, "/v1/messages?dryRun=true", Some(body.clone())).await.expect(200);
        assert_eq!((&told["route"]["provider"], &told["segments"]), (&json!("smpp"), &json!(2)), "{told}");
        assert_eq!(told["route"]["providerConfigId"], config["id"], "{told}");
        let before = centre.seen().await.submits.len();
        let id = app.post_message(&t.live, body).await.expect(202)["id"].as_str().expect("an id").to_owned();
        app.settle().await;
        assert_eq!(app.message(&t.live, &id).await["status"], "sent");
        let submit = centre.seen().await.submits[before].clone();
        assert_eq!((submit.from.as_str(), submit.ton), ("22384", 3));
    })
    .await;
}
