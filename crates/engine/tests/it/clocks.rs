//! Nodes whose machines disagree about the time. One clock counts for all of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use raven_core::Clock;
use raven_engine::shared_clock::{Reference, SharedClock};
use raven_store::nodes::DEAD_AFTER;
use raven_testkit::{
    app::{TestApp, TestOptions},
    clock::TestClock,
    database::{Database, MIGRATED_AT, postgres_store, sqlite_store},
    simulators::{AfricasTalking, Behaviour},
};
use serde_json::json;

const TEN_MINUTES: Duration = Duration::from_secs(600);

fn options(sim: &AfricasTalking, node: &str) -> TestOptions {
    let base_urls = HashMap::from([("africas_talking".to_owned(), sim.base_url())]);
    TestOptions { base_urls, node_id: node.to_owned(), ..TestOptions::default() }
}

/// Three nodes on one PostgreSQL: one is right, one ten minutes ahead, one ten minutes behind.
struct Nodes {
    right: TestApp,
    ahead: TestApp,
    behind: TestApp,
}

impl Nodes {
    async fn start(sim: &AfricasTalking) -> Self {
        let right = TestApp::start(Database::Postgres(postgres_store().await), options(sim, "right")).await;
        let now = right.clock.now();
        let ahead = right.beside_with_clock(options(sim, "ahead"), Arc::new(TestClock::at(now.after(TEN_MINUTES)))).await;
        let behind = right.beside_with_clock(options(sim, "behind"), Arc::new(TestClock::at(now.before(TEN_MINUTES)))).await;
        Self { right, ahead, behind }
    }

    /// Time goes by on all machines, and none of them beats.
    fn pass(&self, by: Duration) {
        for app in [&self.right, &self.ahead, &self.behind] {
            app.clock.advance(by);
        }
    }

    async fn beat(&self) {
        for app in [&self.right, &self.ahead, &self.behind] {
            app.engine.housekeeping.beat().await.expect("the store works");
        }
    }

    async fn alive(&self) -> Vec<String> {
        self.right.store.list_nodes().await.expect("nodes").into_iter().map(|n| n.id).collect()
    }
}

#[tokio::test]
async fn a_wrong_clock_kills_nobody_and_is_killed_by_nobody() {
    let sim = AfricasTalking::start().await;
    let nodes = Nodes::start(&sim).await;
    for _ in 0..10 {
        nodes.pass(Duration::from_secs(5));
        nodes.beat().await;
        assert_eq!(nodes.alive().await, ["right", "ahead", "behind"]);
        for app in [&nodes.right, &nodes.ahead, &nodes.behind] {
            assert!(app.engine.membership.is_fresh());
            assert_eq!(app.engine.clock.now(), nodes.right.clock.now());
        }
    }
    // One that is silent is dead to the others, right or wrong.
    for _ in 0..5 {
        nodes.pass(Duration::from_secs(5));
        nodes.ahead.engine.housekeeping.beat().await.expect("the store works");
        nodes.behind.engine.housekeeping.beat().await.expect("the store works");
    }
    assert_eq!(nodes.alive().await, ["ahead", "behind"]);
}

#[tokio::test]
async fn work_is_claimed_when_it_is_due_whatever_the_machines_clock_says() {
    let sim = AfricasTalking::start().await;
    let nodes = Nodes::start(&sim).await;
    let tenant = nodes.right.tenant("Acme").await;
    nodes.right.configure_sms(&tenant).await;
    for (accepting, sending) in [(&nodes.ahead, &nodes.behind), (&nodes.behind, &nodes.ahead)] {
        sim.script(Behaviour::ServerError);
        let before = sim.count();
        let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        let accepted = accepting.post_message(&tenant.live, body).await.expect(202);
        let id = accepted["id"].as_str().expect("an id");
        accepting.settle().await;
        for app in [&nodes.right, &nodes.ahead, &nodes.behind] {
            app.settle().await;
        }
        assert_eq!(sim.count(), before + 1, "it is to be tried again in a second at least");
        nodes.pass(Duration::from_secs(3));
        sending.settle().await;
        assert_eq!(sim.count(), before + 2, "it was due two seconds after the failure at most");
        let message = nodes.right.message(&tenant.live, id).await;
        assert_eq!(message["status"], "sent");
        let times: Vec<&str> = message["events"].as_array().expect("events").iter().filter_map(|e| e["occurredAt"].as_str()).collect();
        assert!(times.len() >= 3 && times.is_sorted(), "{times:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_starts_nothing_until_it_was_compared_again() {
    let sim = AfricasTalking::start().await;
    let nodes = Nodes::start(&sim).await;
    nodes.ahead.clock.advance(TEN_MINUTES);
    assert!(!nodes.ahead.engine.membership.is_fresh());
    nodes.ahead.engine.housekeeping.beat().await.expect("the store works");
    assert!(nodes.ahead.engine.membership.is_fresh());
    nodes.behind.clock.set_back(TEN_MINUTES);
    nodes.behind.engine.housekeeping.beat().await.expect("the store works");
    assert_eq!(nodes.behind.engine.clock.now(), nodes.right.clock.now());
    assert_eq!(nodes.alive().await, ["right", "ahead", "behind"]);
}

#[tokio::test]
async fn a_node_that_comes_back_with_the_database_gives_the_others_a_moment() {
    let sim = AfricasTalking::start().await;
    let nodes = Nodes::start(&sim).await;
    // Nobody could beat for as long as a node may live without.
    nodes.pass(DEAD_AFTER + Duration::from_secs(5));
    nodes.beat().await;
    assert_eq!(nodes.alive().await, ["right", "ahead", "behind"]);
}

#[tokio::test]
async fn the_databases_clock_counts_where_it_has_one() {
    let (postgres, sqlite) = (postgres_store().await, sqlite_store().await);
    let own = Arc::new(TestClock::at(MIGRATED_AT));
    let clock = SharedClock::new(own.clone(), Reference::Database);
    let shown = clock.compare(&*postgres.store).await.expect("the store works");
    let present = postgres.store.database_time().await.expect("the store works").expect("PostgreSQL has a clock");
    assert!(shown > MIGRATED_AT && present >= shown);
    assert_eq!(clock.now(), shown, "our own clock stood still meanwhile");
    own.advance(Duration::from_secs(5));
    assert_eq!(clock.now(), shown.after(Duration::from_secs(5)));

    let clock = SharedClock::new(own.clone(), Reference::Database);
    assert_eq!(clock.compare(&*sqlite.store).await.expect("the store works"), own.now());
    assert_eq!(clock.now(), own.now());
}
