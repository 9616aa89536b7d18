//! When a node tells the others that work waits: whenever it leaves due work to whoever looks, and not otherwise.

use std::{collections::HashMap, sync::Arc, time::Duration};

use raven_engine::dispatch::Limits;
use raven_store::nodes::DEAD_AFTER;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant},
    clock::TestClock,
    database::{Database, MIGRATED_AT, databases},
    faults::{Fault, FaultyStore, Verb},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::json;

struct World {
    sim: AfricasTalking,
    store: Arc<FaultyStore>,
    app: TestApp,
    tenant: TestTenant,
}

impl World {
    /// A node with room for two calls and four jobs, over a store that counts.
    async fn new(database: Database) -> Self {
        let sim = AfricasTalking::start().await;
        let options = TestOptions {
            base_urls: HashMap::from([("africas_talking".to_owned(), sim.base_url())]),
            limits: Limits { config_calls: 2, tenant_calls: 4, calls: 4, lane_held: 4, tenant_held: 8, held: 8 },
            call_cap: Duration::from_secs(10),
            ..TestOptions::default()
        };
        let store = FaultyStore::around(database.store());
        let app = TestApp::start_over(database, store.clone(), options, Arc::new(TestClock::at(MIGRATED_AT))).await;
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        Self { sim, store, app, tenant }
    }

    fn announced(&self) -> usize {
        self.store.faults.calls(Verb::Announce)
    }

    async fn send(&self, count: usize) {
        for _ in 0..count {
            let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
            self.app.post_message(&self.tenant.live, body).await.expect(202);
        }
    }
}

#[tokio::test]
async fn what_a_node_has_no_room_for_is_announced_and_the_rest_is_not() {
    for database in databases().await {
        let w = World::new(database).await;
        w.sim.script_always(Behaviour::Normal);
        for _ in 0..2 {
            w.sim.script(Behaviour::After(Duration::from_secs(3)));
        }
        w.send(6).await;
        assert_eq!(w.announced(), 0, "two are called and four are held");
        w.send(3).await;
        assert_eq!(w.announced(), 3);
        w.app.settle().await;
        assert_eq!((w.sim.count(), w.announced()), (9, 3), "what ends needs nobody");
    }
}

#[tokio::test]
async fn what_a_stopping_node_gives_back_is_announced_before_it_waits() {
    for database in databases().await {
        let w = World::new(database).await;
        w.sim.script_always(Behaviour::After(Duration::from_secs(3)));
        w.send(6).await;
        let (engine, before) = (w.app.engine.clone(), w.announced());
        let stop = tokio::spawn(async move { engine.stop(Duration::from_secs(10)).await });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while w.announced() == before {
            assert!(tokio::time::Instant::now() < deadline, "nothing was announced");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(w.app.engine.load().held, 0);
        assert_eq!(w.app.engine.load().calls, 2, "the calls are still under way");
        stop.await.expect("it stops");
    }
}

#[tokio::test]
async fn what_is_given_back_or_taken_over_is_announced() {
    for database in databases().await {
        let w = World::new(database).await;
        w.store.faults.inject(Verb::Accept, Fault::After, 1);
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        w.app.post_message(&w.tenant.live, body).await.expect_error(503, "overloaded");
        w.app.engine.housekeeping.beat().await.expect("the store works");
        assert_eq!(w.announced(), 1, "an acceptance that was not confirmed");
        w.app.engine.housekeeping.beat().await.expect("the store works");
        assert_eq!(w.announced(), 1, "once");

        // Another node claims it, and is never heard of again.
        let now = w.app.engine.clock.now();
        let other = w.app.store.register_node("other", now).await.expect("the store works");
        assert_eq!(w.app.store.claim(other.lease, 10, 10, &[], now).await.expect("the store works").jobs.len(), 1);
        for _ in 0..=DEAD_AFTER.as_secs() / 5 {
            assert_eq!(w.announced(), 1);
            w.app.clock.advance(Duration::from_secs(5));
            w.app.engine.housekeeping.beat().await.expect("the store works");
        }
        assert_eq!(w.announced(), 2, "what the dead one held");
    }
}
