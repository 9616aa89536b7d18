//! Crashes, takeovers and stops.

use std::{collections::HashMap, sync::Arc, time::Duration};

use raven_engine::dispatch::Limits;
use raven_store::nodes::DEAD_AFTER;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::json;
use tokio::runtime::Runtime;

fn options(sim: &AfricasTalking, node: &str) -> TestOptions {
    TestOptions {
        base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]),
        limits: Limits { config_calls: 2, tenant_calls: 4, calls: 4, lane_held: 4, tenant_held: 8, held: 8 },
        call_cap: Duration::from_secs(10),
        node_id: node.to_owned(),
        ..TestOptions::default()
    }
}

/// A process of its own: when its runtime is dropped, all it did stops in the middle, as if it was killed.
pub(crate) struct Process(pub(crate) Runtime);

impl Process {
    pub(crate) fn new() -> Self {
        Self(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"))
    }

    pub(crate) fn kill(self) {
        self.0.shutdown_background();
    }
}

struct Life {
    app: TestApp,
    tenant: TestTenant,
}

async fn send(app: &TestApp, tenant: &TestTenant, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for i in 0..count {
        let body = json!({ "channel": "sms", "to": format!("+25472200{i:04}"), "body": "Hi", "idempotencyKey": i.to_string() });
        ids.push(app.post_message(&tenant.live, body).await.expect(202)["id"].as_str().expect("an id").to_owned());
    }
    ids
}

async fn reached(sim: &AfricasTalking, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while sim.count() < count {
        assert!(tokio::time::Instant::now() < deadline, "{} of {count} calls came", sim.count());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Accepts ten messages while the provider hangs (two calls under way, four jobs held, four left in the database), then kills
/// the process; a second one with the given name begins, and `after` looks at what it does.
fn crash(second: &str, after: impl AsyncFn(&TestApp, &TestTenant, &[String], &AfricasTalking)) {
    let world = Process::new();
    let (sim, all) = world.0.block_on(async { (AfricasTalking::start().await, databases().await) });
    for database in all {
        sim.script_always(Behaviour::Hang);
        let (first, clock) = (Process::new(), Arc::new(TestClock::at(MIGRATED_AT)));
        let before = sim.count();
        let (database, tenant, ids) = first.0.block_on(async {
            let store = database.reopen().await;
            let app = TestApp::start_over(database, store, options(&sim, "first"), clock.clone()).await;
            let tenant = app.tenant("Acme").await;
            app.configure_sms(&tenant).await;
            let ids = send(&app, &tenant, 10).await;
            reached(&sim, before + 2).await;
            let load = app.engine.load();
            assert_eq!((load.calls, load.held), (2, 4));
            let Life { app, tenant } = Life { app, tenant };
            (app.database, tenant, ids)
        });
        first.kill();
        sim.script_always(Behaviour::Normal);
        let second_life = Process::new();
        second_life.0.block_on(async {
            let store = database.reopen().await;
            let app = TestApp::start_over(database, store, options(&sim, second), clock).await;
            after(&app, &tenant, &ids, &sim).await;
            assert_eq!(sim.count(), before + 10, "every message reached the provider once");
        });
        second_life.kill();
    }
    world.kill();
}

async fn expect_recovered(app: &TestApp, tenant: &TestTenant, ids: &[String]) {
    for (i, id) in ids.iter().enumerate() {
        let message = app.message(&tenant.live, id).await;
        let expected = if i < 2 { ("sending", "outcome_unknown") } else { ("sent", "sent") };
        let last = message["events"].as_array().expect("events").last().expect("one")["eventType"].clone();
        assert_eq!((&message["status"], last), (&json!(expected.0), json!(expected.1)), "message {i}");
    }
}

#[test]
fn a_restarted_node_takes_its_work_back_at_once() {
    crash("first", async |app, tenant, ids, _| {
        app.settle().await;
        expect_recovered(app, tenant, ids).await;
    });
}

#[test]
fn a_dead_nodes_work_is_taken_over() {
    crash("second", async |app, tenant, ids, sim| {
        let before = sim.count();
        app.settle().await;
        assert_eq!(sim.count(), before + 4, "what nobody had leased is sent at once");
        app.advance(DEAD_AFTER - Duration::from_secs(1)).await;
        assert_eq!(sim.count(), before + 4);
        app.advance(Duration::from_secs(2)).await;
        app.settle().await;
        expect_recovered(app, tenant, ids).await;
    });
}

#[tokio::test]
async fn a_stop_finishes_calls_and_gives_the_rest_back() {
    for database in databases().await {
        let sim = AfricasTalking::start().await;
        sim.script_always(Behaviour::After(Duration::from_millis(200)));
        let clock = Arc::new(TestClock::at(MIGRATED_AT));
        let store = database.reopen().await;
        let app = TestApp::start_over(database, store, options(&sim, "first"), clock.clone()).await;
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        let ids = send(&app, &tenant, 10).await;
        app.engine.stop(Duration::from_secs(10)).await;
        assert_eq!(sim.count(), 2, "calls under way end, and no more begin");
        let database = app.database;
        let store = database.reopen().await;
        let app = TestApp::start_over(database, store, options(&sim, "second"), clock).await;
        assert!(app.store.list_nodes().await.expect("nodes").iter().all(|n| n.id == "second"), "the first one signed off");
        app.settle().await;
        for id in &ids {
            assert_eq!(app.message(&tenant.live, id).await["status"], "sent");
        }
        assert_eq!(sim.count(), 10);
    }
}

#[tokio::test]
async fn an_outcome_that_comes_after_the_lease_ended_still_counts_and_nothing_goes_out_twice() {
    for database in databases().await {
        let sim = AfricasTalking::start().await;
        sim.script(Behaviour::After(Duration::from_secs(3)));
        let clock = Arc::new(TestClock::at(MIGRATED_AT));
        let store = database.reopen().await;
        let first = TestApp::start_over(database, store, options(&sim, "first"), clock).await;
        let tenant = first.tenant("Acme").await;
        first.configure_sms(&tenant).await;
        let ids = send(&first, &tenant, 1).await;
        reached(&sim, 1).await;
        // The node that called falls silent, and another one takes its work.
        let second = first.beside(options(&sim, "second")).await;
        for _ in 0..6 {
            second.advance(Duration::from_secs(4)).await;
        }
        let message = second.message(&tenant.live, &ids[0]).await;
        assert_eq!((&message["status"], &message["events"][2]["eventType"]), (&json!("sending"), &json!("outcome_unknown")), "{message}");
        // Its call ends all the same, and what the provider said is not thrown away.
        first.settle().await;
        second.settle().await;
        let message = second.message(&tenant.live, &ids[0]).await;
        assert_eq!((&message["status"], sim.count()), (&json!("sent"), 1), "{message}");
        // Nobody gives up what is known to be sent.
        second.advance(raven_engine::attempt::UNKNOWN_FOR + Duration::from_secs(1)).await;
        let message = second.message(&tenant.live, &ids[0]).await;
        assert_eq!((&message["status"], sim.count()), (&json!("sent"), 1), "{message}");
    }
}
