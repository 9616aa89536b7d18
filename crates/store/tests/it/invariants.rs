//! Damage that no verb can do, done by SQL on both engines, and found; honest work in any order, in which nothing is found.

#![expect(clippy::unwrap_used, reason = "a test that cannot damage its database must fail")]

use std::{sync::Arc, time::Duration};

use proptest::{prelude::*, sample::Index, test_runner::Config};
use raven_core::{Environment, EventKind, Seq, Status, TenantId, Timestamp, tenant::SuspendedBy};
use raven_store::{
    Action, Job, Lease, NewMessage, Next, Result, Settlement, Start, Started, StateChange, Store, Violation,
    conformance::fixture::{self, at, claim_all, create, keyed, message, node, outcome, seq, violations},
    invariants::{Kind, Margins, Subject},
};
use raven_testkit::database::{Database, databases};
use tokio_postgres::NoTls;

/// Runs a statement past the store: the same one on both engines.
async fn damage(database: &Database, sql: &str) {
    let rows = match database {
        Database::Sqlite(database) => {
            let file = rusqlite::Connection::open(database.folder.path().join("raven.db")).unwrap();
            u64::try_from(file.execute(sql, []).unwrap()).unwrap()
        }
        Database::Postgres(database) => {
            let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.execute(sql, &[]).await.unwrap()
        }
    };
    assert!(rows > 0, "{sql} changed nothing");
}

const fn of(kind: Kind, seq: Seq) -> Violation {
    Violation { kind, subject: Subject::Message(seq) }
}

async fn mend(store: &Arc<dyn Store>, violation: Violation) -> Result<bool> {
    store.mend(violation, Margins::default(), at(100), at(900)).await
}

/// Five messages of a tenant, with keys and counted, of which the first is sent and the second may be under way.
async fn busy(store: &Arc<dyn Store>) -> Result<(TenantId, Lease)> {
    let tenant = fixture::tenant(store, 1).await?;
    let lease = node(store, "a").await?;
    for n in 0..5 {
        create(store, NewMessage { quota: Some(100), ..keyed(tenant, seq(n), &format!("key-{n}"), 1) }).await?;
    }
    let claimed = store.claim(lease, 2, 2, &[], at(10)).await?;
    for job in &claimed.jobs {
        fixture::start(store, lease, job.seq, 1, at(10)).await?;
    }
    store.settle(lease, &[outcome(tenant, seq(0), 1, EventKind::Sent, Status::Sent, at(11))]).await?;
    assert_eq!(violations(store, at(20)).await?, []);
    Ok((tenant, lease))
}

#[tokio::test]
async fn a_job_whose_message_is_gone_is_found_and_deleted() -> Result<()> {
    for database in databases().await {
        let store = database.store();
        let (tenant, lease) = busy(&store).await?;
        damage(&database, &format!("DELETE FROM messages WHERE seq = {}", seq(4).0)).await;
        let day = Subject::Counters(tenant, at(0).day());
        let found = [
            of(Kind::JobWithoutMessage, seq(4)),
            of(Kind::IdempotencyWithoutMessage, seq(4)),
            Violation { kind: Kind::UsageMismatch, subject: day },
        ];
        assert_eq!(violations(&store, at(20)).await?, found);
        assert!(mend(&store, found[0]).await? && !mend(&store, found[0]).await?);
        assert!(!mend(&store, found[1]).await? && !mend(&store, found[2]).await?);
        assert_eq!(claim_all(&store, lease, at(20)).await?.jobs.len(), 2, "claims meet it no more");
        assert_eq!(violations(&store, at(20)).await?, found[1..]);
    }
    Ok(())
}

#[tokio::test]
async fn a_message_whose_job_is_gone_is_found_and_sent_only_if_it_never_was() -> Result<()> {
    for database in databases().await {
        let store = database.store();
        let (tenant, lease) = busy(&store).await?;
        damage(&database, &format!("DELETE FROM jobs WHERE seq IN ({}, {})", seq(1).0, seq(2).0)).await;
        let found = [of(Kind::MessageWithoutJob, seq(1)), of(Kind::MessageWithoutJob, seq(2))];
        assert_eq!(violations(&store, at(20)).await?, found);
        for violation in found {
            assert!(mend(&store, violation).await?);
        }
        assert_eq!(violations(&store, at(100)).await?, []);
        let due: Vec<_> = claim_all(&store, lease, at(100)).await?.jobs.iter().map(|j| (j.seq, j.action, j.attempt)).collect();
        assert_eq!(due, [(seq(3), Action::Send, 0), (seq(4), Action::Send, 0), (seq(2), Action::Send, 0)]);
        // The call that was under way ends after all: its outcome counts, and ends the new job.
        let late = Settlement { started_at: Some(at(10)), ..outcome(tenant, seq(1), 1, EventKind::Sent, Status::Sent, at(110)) };
        store.settle(lease, &[late]).await?;
        assert_eq!(fixture::status(&store, tenant, seq(1)).await?, Status::Sent);
        assert_eq!(claim_all(&store, lease, at(1000)).await?.jobs, []);
        assert_eq!(violations(&store, at(1000)).await?, []);
    }
    Ok(())
}

#[tokio::test]
async fn a_job_of_an_ended_message_is_found_and_deleted_unless_its_call_is_under_way() -> Result<()> {
    for database in databases().await {
        let store = database.store();
        busy(&store).await?;
        let ended = |n| format!("UPDATE messages SET status = {} WHERE seq = {}", Status::Canceled.code(), seq(n).0);
        damage(&database, &ended(1)).await;
        damage(&database, &ended(2)).await;
        let found = of(Kind::JobOfFinalMessage, seq(2));
        assert_eq!(violations(&store, at(20)).await?, [found]);
        assert!(!mend(&store, of(Kind::JobOfFinalMessage, seq(1))).await?);
        assert!(mend(&store, found).await?);
        assert_eq!(violations(&store, at(20)).await?, []);
    }
    Ok(())
}

#[tokio::test]
async fn a_line_that_is_there_twice_is_found() -> Result<()> {
    for database in databases().await {
        let store = database.store();
        busy(&store).await?;
        let twice = "INSERT INTO events (message_seq, n, tenant_id, kind, at, attempt) SELECT message_seq, n + 1000, tenant_id, kind, at, attempt FROM events";
        damage(&database, twice).await;
        assert_eq!(violations(&store, at(20)).await?, [of(Kind::EventsOutOfOrder, seq(0))]);
    }
    Ok(())
}

#[tokio::test]
async fn counters_that_were_changed_are_found() -> Result<()> {
    for database in databases().await {
        let store = database.store();
        let (tenant, _) = busy(&store).await?;
        let subject = Subject::Counters(tenant, at(0).day());
        let (quota, usage) = (Violation { kind: Kind::QuotaMismatch, subject }, Violation { kind: Kind::UsageMismatch, subject });
        for (wrong, right, found) in [
            (
                "UPDATE quotas SET granted = granted + 1 WHERE slot = -1",
                "UPDATE quotas SET granted = granted - 1 WHERE slot = -1",
                vec![quota],
            ),
            (
                "UPDATE quotas SET used = used - 1 WHERE used > 0",
                "UPDATE quotas SET used = used + 1 WHERE granted > used AND used > 0",
                vec![quota],
            ),
            ("UPDATE usage_accepted SET messages = messages + 1", "UPDATE usage_accepted SET messages = messages - 1", vec![quota, usage]),
            ("UPDATE usage_accepted SET environment = 2", "UPDATE usage_accepted SET environment = 1", vec![quota, usage]),
        ] {
            damage(&database, wrong).await;
            assert_eq!(violations(&store, at(20)).await?, found, "{wrong}");
            damage(&database, right).await;
            assert_eq!(violations(&store, at(20)).await?, [], "{right}");
        }
    }
    Ok(())
}

/// What one node or a caller does next.
#[derive(Clone, Debug)]
enum Deed {
    Accept { tenant: u8, test: bool, keyed: Option<u8>, place: u8 },
    Claim { node: usize },
    Start { node: usize, which: Index },
    Release { node: usize, which: Index },
    End { which: Index, how: u8 },
    Restart { node: usize },
    TakeOver { node: usize },
    Suspend { tenant: u8 },
    Reactivate { tenant: u8 },
}

fn deeds() -> impl Strategy<Value = Deed> {
    let (node, which) = (|| 0..2_usize, any::<Index>);
    prop_oneof![
        6 => (1..4_u8, any::<bool>(), proptest::option::of(0..4_u8), 0..3_u8)
            .prop_map(|(tenant, test, keyed, place)| Deed::Accept { tenant, test, keyed, place }),
        4 => node().prop_map(|node| Deed::Claim { node }),
        5 => (node(), which()).prop_map(|(node, which)| Deed::Start { node, which }),
        1 => (node(), which()).prop_map(|(node, which)| Deed::Release { node, which }),
        6 => (which(), 0..5_u8).prop_map(|(which, how)| Deed::End { which, how }),
        1 => node().prop_map(|node| Deed::Restart { node }),
        1 => node().prop_map(|node| Deed::TakeOver { node }),
        1 => (1..4_u8).prop_map(|tenant| Deed::Suspend { tenant }),
        1 => (1..4_u8).prop_map(|tenant| Deed::Reactivate { tenant }),
    ]
}

/// Two nodes that work as the engine does.
struct Honest {
    store: Arc<dyn Store>,
    leases: [Lease; 2],
    /// Jobs that a node holds and has not started.
    held: [Vec<Job>; 2],
    /// Calls under way, of this life of their node or of an earlier one.
    calls: Vec<(Lease, Job)>,
    steps: i64,
}

impl Honest {
    async fn new(store: Arc<dyn Store>) -> Result<Self> {
        for n in 1..4 {
            fixture::tenant(&store, n).await?;
        }
        let leases = [node(&store, "node-0").await?, node(&store, "node-1").await?];
        Ok(Self { store, leases, held: [Vec::new(), Vec::new()], calls: Vec::new(), steps: 0 })
    }

    async fn act(&mut self, deed: &Deed) -> Result<()> {
        self.steps += 1;
        let now = at(10 * self.steps);
        let store = Arc::clone(&self.store);
        match deed {
            Deed::Accept { tenant, test, keyed: key, place } => {
                let (tenant, seq) = (fixture::tenant_record(*tenant).id, seq(10 * self.steps));
                let base = key.map_or_else(|| message(tenant, seq), |key| keyed(tenant, seq, &format!("key-{key}"), key % 2));
                let environment = if *test { Environment::Test } else { Environment::Live };
                let new = NewMessage {
                    environment,
                    quota: (!test).then_some(7),
                    lease: (*place > 0).then_some(self.leases[0]),
                    started: (*place > 1).then_some(None),
                    ..base
                };
                let accepted = store.accept(vec![new], now).await?;
                if *place > 0 && matches!(accepted[..], [Ok(raven_store::Accepted::Created)]) {
                    self.adopt(tenant, environment, seq, *place > 1);
                }
            }
            Deed::Claim { node } => self.claim(*node, now).await?,
            Deed::Start { node, which } => {
                let Some(mut job) = take(&mut self.held[*node], which) else { return Ok(()) };
                let start = Start::next(&job, None);
                if store.start(self.leases[*node], &[start], now).await? == [Started::Begun] {
                    job.attempt += 1;
                    self.calls.push((self.leases[*node], job));
                }
            }
            Deed::Release { node, which } => {
                let Some(job) = take(&mut self.held[*node], which) else { return Ok(()) };
                store.release(self.leases[*node], &[job.seq]).await?;
            }
            Deed::End { which, how } => {
                let Some((lease, job)) = take(&mut self.calls, which) else { return Ok(()) };
                store.settle(lease, &[end(&job, *how, now)]).await?;
            }
            Deed::Restart { node } => {
                let registered = store.register_node(&format!("node-{node}"), now).await?;
                let former = std::mem::replace(&mut self.leases[*node], registered.lease);
                self.held[*node].clear();
                store.reap(former, now, now.after(Duration::from_millis(60)), 1000).await?;
                store.retire_node(former).await?;
            }
            Deed::TakeOver { node } => {
                // The node sleeps meanwhile. What it holds in memory it forgets when it learns of it.
                let former = self.leases[*node];
                store.reap(former, now, now.after(Duration::from_millis(60)), 1000).await?;
                store.retire_node(former).await?;
                self.leases[*node] = store.register_node(&format!("node-{node}"), now).await?.lease;
                self.held[*node].clear();
            }
            Deed::Suspend { tenant } => self.step(*tenant, StateChange::Suspend(SuspendedBy::Owner)).await?,
            Deed::Reactivate { tenant } => self.step(*tenant, StateChange::Reactivate(SuspendedBy::Owner)).await?,
        }
        Ok(())
    }

    async fn step(&self, tenant: u8, change: StateChange) -> Result<()> {
        let tenant = fixture::tenant_record(tenant).id;
        self.store.change_state(tenant, change, fixture::audit(tenant, self.steps)).await?;
        Ok(())
    }

    /// Takes a message to work on that was accepted under the first node's lease.
    fn adopt(&mut self, tenant: TenantId, environment: Environment, seq: Seq, started: bool) {
        let new = message(tenant, seq);
        let urgency = raven_store::Urgency::of(new.priority);
        let lane = raven_store::Lane { tenant, environment, channel: new.channel, urgency, outlet: new.outlet };
        let (recipient, content, expires_at) = (new.recipient, new.content, new.expires_at);
        let job = Job { seq, lane, action: Action::Send, attempt: i16::from(started), expires_at, recipient, content, tried: None };
        if started {
            self.calls.push((self.leases[0], job));
        } else {
            self.held[0].push(job);
        }
    }

    async fn claim(&mut self, node: usize, now: Timestamp) -> Result<()> {
        let lease = self.leases[node];
        for job in self.store.claim(lease, 3, 2, &[], now).await?.jobs {
            let (kind, status) = match job.action {
                Action::Send => {
                    self.held[node].push(job);
                    continue;
                }
                Action::GiveUp => (EventKind::Failed, Status::Failed),
                Action::Play => (EventKind::Delivered, Status::Delivered),
            };
            self.store.settle(lease, &[outcome(job.lane.tenant, job.seq, job.attempt, kind, status, now)]).await?;
        }
        Ok(())
    }
}

fn take<T>(from: &mut Vec<T>, which: &Index) -> Option<T> {
    if from.is_empty() { None } else { Some(from.remove(which.index(from.len()))) }
}

/// The outcome of a call, as the engine concludes it.
fn end(job: &Job, how: u8, now: Timestamp) -> Settlement {
    let of = |kind, status, next| Settlement {
        started_at: Some(now),
        next,
        ..outcome(job.lane.tenant, job.seq, job.attempt, kind, status, now)
    };
    let soon = now.after(Duration::from_millis(20));
    match how {
        0 => of(EventKind::Failed, Status::Failed, Next::Done),
        1 => of(EventKind::RetryScheduled, Status::Sending, Next::At(Action::Send, soon)),
        2 => of(EventKind::OutcomeUnknown, Status::Sending, Next::At(Action::GiveUp, soon)),
        _ if job.lane.environment == Environment::Test => of(EventKind::Sent, Status::Sent, Next::At(Action::Play, soon)),
        _ => of(EventKind::Sent, Status::Sent, Next::Done),
    }
}

async fn work(deeds: &[Deed]) -> Result<()> {
    for database in databases().await {
        let mut honest = Honest::new(database.store()).await?;
        for (n, deed) in deeds.iter().enumerate() {
            honest.act(deed).await?;
            if n % 8 == 7 || n + 1 == deeds.len() {
                let found = violations(&honest.store, at(10 * honest.steps)).await?;
                assert_eq!(found, [], "{} after deed {n}: {deed:?}", honest.store.engine());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn honest_work_in_any_order_violates_nothing(deeds in proptest::collection::vec(deeds(), 60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(&deeds)).unwrap();
    }
}
