//! The same verbs on both engines give the same answers: random sequences, compared one by one.

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use proptest::{prelude::*, sample::Index, test_runner::Config};
use raven_core::{
    Channel, ConfigId, Environment, EventKind, KeyId, Seq, Source, Status, TenantId, Timestamp, permission::Scopes, tenant::TenantStatus,
};
use raven_store::{
    Action, Claim, Error, KeyRecord, Lane, Lease, MessageFilter, MessageQuery, NewKey, NewMessage, NewTenant, Next, Operation, Result,
    Scope, Settlement, Start, Store,
    conformance::fixture::{at, claim, id, key_record, message, message_claim, new_tenant, seq, tenant_record, user},
    sqlite::SqliteStore,
};

const TENANTS: u8 = 3;
const KEYS: u8 = 4;
const NODES: usize = 2;

/// A message to accept, in small numbers.
#[derive(Clone, Debug)]
struct Draft {
    tenant: u8,
    test: bool,
    email: bool,
    human: bool,
    /// The idempotency key and the payload.
    key: Option<(u8, u8)>,
    api_key: Option<u8>,
    external_id: Option<u8>,
    recipient: u8,
    due_in: i64,
    /// The node that holds it, and whether it has started.
    held: Option<(usize, bool)>,
}

/// An outcome to record.
#[derive(Clone, Debug)]
struct Report {
    message: Index,
    attempt: i16,
    kind: usize,
    next: u8,
    started: bool,
    details: Option<u8>,
}

#[derive(Clone, Debug)]
enum Verb {
    Accept(Vec<Draft>),
    FindReplay { tenant: u8, test: bool, key: u8, payload: u8 },
    Claim { node: usize, per_lane: usize, skip: Option<(u8, bool, bool)> },
    Start { node: usize, messages: Vec<Index>, attempt: i16 },
    Settle { node: usize, reports: Vec<Report> },
    Release { node: usize, messages: Vec<Index> },
    Reap { node: usize },
    Look { message: Index, tenant: u8 },
    List { tenant: u8, filter: MessageFilter, limit: usize, before: Option<Index> },
    Depth,
    Purge,
    SetTenant { tenant: u8, status: usize },
    CreateTenant { slug: u8, key: Option<(u8, u8)> },
    CreateKey { tenant: u8, prefix: u8, key: Option<(u8, u8)> },
    RevokeKey { n: u8, tenant: u8 },
    ListKeys { tenant: u8, limit: usize },
    Restart { node: usize },
}

fn drafts() -> impl Strategy<Value = Draft> {
    let shape = (0..TENANTS, any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (
        proptest::option::of((0..4_u8, 0..2_u8)),
        proptest::option::of(0..=KEYS),
        proptest::option::of(0..3_u8),
        0..3_u8,
        prop_oneof![4 => Just(0_i64), 1 => Just(150_i64)],
        proptest::option::of((0..NODES, any::<bool>())),
    );
    (shape, rest).prop_map(|((tenant, test, email, human), (key, api_key, external_id, recipient, due_in, held))| Draft {
        tenant,
        test,
        email,
        human,
        key,
        api_key,
        external_id,
        recipient,
        due_in,
        held,
    })
}

fn reports() -> impl Strategy<Value = Report> {
    (any::<Index>(), 0..3_i16, 0..KINDS.len(), 0..4_u8, any::<bool>(), proptest::option::of(0..3_u8))
        .prop_map(|(message, attempt, kind, next, started, details)| Report { message, attempt, kind, next, started, details })
}

fn filters() -> impl Strategy<Value = MessageFilter> {
    let of = |all: std::ops::Range<usize>| proptest::option::weighted(0.25, all);
    (of(0..2), of(0..Status::ALL.len()), of(0..2), of(0..3), of(0..3), of(0..2), of(0..300), of(0..300)).prop_map(
        |(environment, status, channel, recipient, external_id, source, from, until)| MessageFilter {
            environment: environment.map(|n| Environment::ALL[n]),
            status: status.map(|n| Status::ALL[n]),
            channel: channel.map(|n| Channel::ALL[n]),
            recipient: recipient.map(|n| format!("+25472200000{n}")),
            external_id: external_id.map(|n| format!("order-{n}")),
            source: source.map(|n| Source::ALL[n]),
            provider: None,
            from: from.map(|n| at(n as i64)),
            until: until.map(|n| at(n as i64)),
        },
    )
}

fn verbs() -> impl Strategy<Value = Verb> {
    let node = || 0..NODES;
    let messages = || proptest::collection::vec(any::<Index>(), 1..4);
    prop_oneof![
        6 => proptest::collection::vec(drafts(), 0..6).prop_map(Verb::Accept),
        1 => (0..TENANTS, any::<bool>(), 0..4_u8, 0..2_u8).prop_map(|(tenant, test, key, payload)| Verb::FindReplay { tenant, test, key, payload }),
        4 => (node(), 1..4_usize, proptest::option::of((0..TENANTS, any::<bool>(), any::<bool>())))
            .prop_map(|(node, per_lane, skip)| Verb::Claim { node, per_lane, skip }),
        4 => (node(), messages(), 1..3_i16).prop_map(|(node, messages, attempt)| Verb::Start { node, messages, attempt }),
        5 => (node(), proptest::collection::vec(reports(), 0..4)).prop_map(|(node, reports)| Verb::Settle { node, reports }),
        2 => (node(), messages()).prop_map(|(node, messages)| Verb::Release { node, messages }),
        1 => node().prop_map(|node| Verb::Reap { node }),
        2 => (any::<Index>(), 0..TENANTS).prop_map(|(message, tenant)| Verb::Look { message, tenant }),
        3 => (0..TENANTS, filters(), 1..6_usize, proptest::option::of(any::<Index>()))
            .prop_map(|(tenant, filter, limit, before)| Verb::List { tenant, filter, limit, before }),
        1 => Just(Verb::Depth),
        1 => Just(Verb::Purge),
        1 => (0..TENANTS, 0..TenantStatus::ALL.len()).prop_map(|(tenant, status)| Verb::SetTenant { tenant, status }),
        1 => (0..8_u8, proptest::option::of((0..2_u8, 0..2_u8))).prop_map(|(slug, key)| Verb::CreateTenant { slug, key }),
        1 => (0..TENANTS, 0..8_u8, proptest::option::of((0..2_u8, 0..2_u8))).prop_map(|(tenant, prefix, key)| Verb::CreateKey { tenant, prefix, key }),
        1 => (0..8_u8, 0..TENANTS).prop_map(|(n, tenant)| Verb::RevokeKey { n, tenant }),
        1 => (0..TENANTS, 1..4_usize).prop_map(|(tenant, limit)| Verb::ListKeys { tenant, limit }),
        1 => node().prop_map(|node| Verb::Restart { node }),
    ]
}

const KINDS: [(EventKind, Status); 7] = [
    (EventKind::Sent, Status::Sent),
    (EventKind::Delivered, Status::Delivered),
    (EventKind::Failed, Status::Failed),
    (EventKind::RetryScheduled, Status::Sending),
    (EventKind::OutcomeUnknown, Status::Sending),
    (EventKind::Bounced, Status::Bounced),
    (EventKind::Expired, Status::Expired),
];

/// One engine, and what its answers named that the other one may name otherwise: leases.
struct Side {
    store: Arc<dyn Store>,
    leases: Vec<Lease>,
    /// Every message that was offered, with its tenant: the same on both sides.
    offered: Vec<(Seq, TenantId)>,
    /// Tenants and keys that were tried to create: each gets an id of its own, as callers give.
    creations: u8,
}

/// An answer as text; of an error, what a caller may tell it by.
fn told<T: Debug>(answer: Result<T>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(Error::Conflict(what)) => format!("conflict: {what}"),
        Err(Error::Unavailable(source)) => panic!("unavailable: {source:?}"),
        Err(Error::Internal(_)) => "internal".to_owned(),
    }
}

const fn tenant_id(n: u8) -> TenantId {
    TenantId(id(n as u128))
}

const fn environment(test: bool) -> Environment {
    if test { Environment::Test } else { Environment::Live }
}

const fn channel(email: bool) -> Channel {
    if email { Channel::Email } else { Channel::Sms }
}

impl Side {
    async fn new(store: Arc<dyn Store>) -> Result<Self> {
        for n in 0..TENANTS {
            let new = new_tenant(n);
            let record = raven_store::TenantRecord { retry_unknown: n == 1, ..new.record };
            store.create_tenant(NewTenant { record, ..new }).await?;
        }
        for n in 0..KEYS {
            let expires_at = (n == 3).then(|| at(100));
            store.create_key(NewKey { record: KeyRecord { expires_at, ..key_record(tenant_id(n % TENANTS), n) }, claim: None }).await?;
        }
        let mut leases = Vec::new();
        for node in 0..NODES {
            leases.push(store.register_node(&format!("node-{node}"), at(0)).await?.lease);
        }
        Ok(Self { store, leases, offered: Vec::new(), creations: 0 })
    }

    fn pick(&self, index: &Index) -> (Seq, TenantId) {
        if self.offered.is_empty() { (seq(-1), tenant_id(0)) } else { *index.get(&self.offered) }
    }

    /// The picked messages, each once.
    fn picks(&self, indexes: &[Index]) -> Vec<Seq> {
        let mut seen = HashSet::new();
        indexes.iter().map(|i| self.pick(i).0).filter(|seq| seen.insert(*seq)).collect()
    }

    fn batch(&mut self, drafts: &[Draft], now: Timestamp) -> Vec<NewMessage> {
        let mut keys = HashSet::new();
        let mut batch = Vec::new();
        for d in drafts {
            let seq = Seq(seq(0).0 + i64::try_from(self.offered.len()).expect("few messages") * 7_777_777 + 1);
            let tenant = tenant_id(d.tenant);
            self.offered.push((seq, tenant));
            let operation = if d.human { Operation::SendMessageAsHuman } else { Operation::SendMessage };
            // The caller of `accept` folds equal keys before.
            let key = d.key.filter(|(key, _)| keys.insert((tenant, d.test, operation, *key)));
            batch.push(NewMessage {
                environment: environment(d.test),
                channel: channel(d.email),
                source: if d.human { Source::Dashboard } else { Source::Api },
                key: d.api_key.map(|n| KeyId(id(2000 + u128::from(n)))),
                recipient: format!("+25472200000{}", d.recipient),
                external_id: d.external_id.map(|n| format!("order-{n}")),
                idempotency: key.map(|(key, payload)| raven_store::messages::MessageClaim {
                    operation,
                    expires_at: at(200),
                    ..message_claim(&format!("key-{key}"), payload)
                }),
                due_at: Timestamp::from_millis(now.millis() + d.due_in),
                lease: d.held.map(|(node, _)| self.leases[node]),
                started: d.held.and_then(|(node, started)| started.then(|| (node == 1).then_some(ConfigId(id(3000))))),
                ..message(tenant, seq)
            });
        }
        batch
    }

    fn settlements(&self, reports: &[Report], now: Timestamp) -> Vec<Settlement> {
        let settlement = |r: &Report| {
            let (seq, tenant) = self.pick(&r.message);
            let (kind, status) = KINDS[r.kind];
            let details = r.details;
            Settlement {
                seq,
                tenant,
                attempt: r.attempt,
                started_at: r.started.then(|| Timestamp::from_millis(now.millis() - 5)),
                at: now,
                kind,
                status,
                provider: details.map(|n| format!("provider-{n}")),
                config: details.map(|n| ConfigId(id(3000 + u128::from(n)))),
                provider_message_id: details.filter(|n| *n > 0).map(|n| format!("id-{n}")),
                segments: details.filter(|n| *n > 1).map(i16::from),
                cost_currency: details.map(|_| "KES".to_owned()),
                cost_micros: details.map(i64::from),
                failure_reason: details.map(|n| format!("reason-{n}")),
                detail: details.map(|n| format!("detail-{n}")),
                payload: details.map(|n| format!("{{\"n\":{n}}}")),
                next: match r.next {
                    0 => Next::At(Action::Send, now),
                    1 => Next::At(Action::GiveUp, Timestamp::from_millis(now.millis() + 50)),
                    2 => Next::At(Action::Play, now),
                    _ => Next::Done,
                },
            }
        };
        reports.iter().map(settlement).collect()
    }

    async fn run(&mut self, verb: &Verb, now: Timestamp) -> String {
        let store = Arc::clone(&self.store);
        match verb {
            Verb::Accept(drafts) => {
                let batch = self.batch(drafts, now);
                let answers = store.accept(batch, now).await;
                told(answers.map(|all| all.into_iter().map(told).collect::<Vec<_>>()))
            }
            Verb::FindReplay { tenant, test, key, payload } => {
                told(store.find_replay(tenant_id(*tenant), environment(*test), &message_claim(&format!("key-{key}"), *payload)).await)
            }
            Verb::Claim { node, per_lane, skip } => {
                let skip: Vec<_> = skip
                    .iter()
                    .map(|(t, test, email)| Lane { tenant: tenant_id(*t), environment: environment(*test), channel: channel(*email) })
                    .collect();
                // Which lane comes first is each engine's own; which jobs are had is not.
                told(store.claim(self.leases[*node], 1000, *per_lane, &skip, now).await.map(|mut claimed| {
                    claimed.jobs.sort_by_key(|job| job.seq);
                    claimed.jobs
                }))
            }
            Verb::Start { node, messages, attempt } => {
                let starts: Vec<_> = self.picks(messages).into_iter().map(|seq| Start { seq, attempt: *attempt, config: None }).collect();
                told(store.start(self.leases[*node], &starts, now).await)
            }
            Verb::Settle { node, reports } => told(store.settle(self.leases[*node], &self.settlements(reports, now)).await),
            Verb::Release { node, messages } => told(store.release(self.leases[*node], &self.picks(messages)).await),
            Verb::Reap { node } => told(store.reap(self.leases[*node], now, Timestamp::from_millis(now.millis() + 40), 1000).await),
            Verb::Look { message, tenant } => self.look(self.pick(message).0, tenant_id(*tenant)).await,
            Verb::List { tenant, filter, limit, before } => {
                let query =
                    MessageQuery { filter: filter.clone(), before: before.as_ref().map(|i| self.pick(i).0), limit: *limit, scan: 10_000 };
                told(store.list_messages(tenant_id(*tenant), &query).await)
            }
            Verb::Depth => told(store.depth(now).await),
            Verb::Purge => told(store.purge_idempotency(now, 1000).await),
            Verb::SetTenant { tenant, status } => told(store.set_tenant_status(tenant_id(*tenant), TenantStatus::ALL[*status]).await),
            Verb::CreateTenant { slug, key } => {
                self.creations += 1;
                let new = new_tenant(TENANTS + self.creations);
                let mut record = new.record;
                record.slug = tenant_record(*slug).slug;
                let claim = key.map(|(key, payload)| self.claim(Scope::User(user(1).id), Operation::CreateTenant, key, payload));
                told(store.create_tenant(NewTenant { record, claim, ..new }).await)
            }
            Verb::CreateKey { tenant, prefix, key } => {
                self.creations += 1;
                let tenant = tenant_id(*tenant);
                let scopes = Scopes::from_code(i16::from(*prefix));
                let prefix = key_record(tenant, *prefix).prefix;
                let record = KeyRecord { prefix, scopes, ..key_record(tenant, KEYS + self.creations) };
                let claim =
                    key.map(|(key, payload)| self.claim(Scope::Tenant(tenant, Environment::Live), Operation::CreateKey, key, payload));
                told(store.create_key(NewKey { record, claim }).await)
            }
            Verb::RevokeKey { n, tenant } => told(store.revoke_key(tenant_id(*tenant), None, KeyId(id(2000 + u128::from(*n))), now).await),
            Verb::ListKeys { tenant, limit } => told(store.list_keys(tenant_id(*tenant), None, None, *limit).await),
            Verb::Restart { node } => {
                let registered = store.register_node(&format!("node-{node}"), now).await;
                let text = told(
                    registered
                        .as_ref()
                        .map(|r| (r.slot, r.slot_last_beat, r.predecessors.len()))
                        .map_err(|e| Error::internal(e.to_string())),
                );
                if let Ok(registered) = registered {
                    let former = std::mem::replace(&mut self.leases[*node], registered.lease);
                    let reaped = store.reap(former, now, now, 1000).await;
                    return format!("{text} {} {}", told(reaped), told(store.retire_node(former).await));
                }
                text
            }
        }
    }

    fn claim(&self, scope: Scope, operation: Operation, key: u8, payload: u8) -> Claim {
        claim(scope, operation, &format!("key-{key}"), payload)
    }

    async fn look(&self, seq: Seq, tenant: TenantId) -> String {
        let found = told(self.store.find_message(tenant, None, seq).await);
        format!("{found} {} {}", told(self.store.list_events(tenant, seq).await), told(self.store.find_content(tenant, seq).await))
    }

    /// All that can be read of the messages.
    async fn everything(&self) -> Vec<String> {
        let mut all = vec![told(self.store.depth(at(10_000)).await)];
        for (seq, tenant) in &self.offered {
            all.push(self.look(*seq, *tenant).await);
        }
        all
    }
}

async fn compare(verbs: &[Verb]) -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let embedded = SqliteStore::open(&folder.path().join("raven.db")).await?;
    raven_store::Health::migrate(&embedded, at(0)).await?;
    let database = raven_testkit::database::postgres_store().await;
    let mut sqlite = Side::new(Arc::new(embedded)).await?;
    let mut postgres = Side::new(Arc::clone(&database.store)).await?;
    for (n, verb) in verbs.iter().enumerate() {
        let now = at(10 * (i64::try_from(n).expect("few verbs") + 1));
        let (one, other) = (sqlite.run(verb, now).await, postgres.run(verb, now).await);
        assert_eq!(one, other, "verb {n}, SQLite's answer to the left: {verb:?}");
    }
    assert_eq!(sqlite.everything().await, postgres.everything().await, "what is left at the end");
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 32, max_shrink_iters: 60, failure_persistence: None, ..Config::default() })]

    #[test]
    fn both_engines_answer_the_same(verbs in proptest::collection::vec(verbs(), 30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        runtime.block_on(compare(&verbs)).expect("both engines can be reached");
    }
}
