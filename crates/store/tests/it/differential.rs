//! The same verbs on both engines give the same answers: random sequences, compared one by one.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
};

use proptest::{prelude::*, sample::Index, test_runner::Config};
use raven_core::{
    Channel, ConfigId, Environment, EventKind, InvitationId, KeyId, Priority, Seq, Source, Status, SuppressionId, SuppressionReason,
    TenantId, Timestamp,
    permission::{Role, Scopes},
    tenant::SuspendedBy,
};
use raven_store::{
    Action, AuditRecord, Claim, Error, InvitationRecord, KeyChange, KeyRecord, Lane, Lease, MessageQuery, NewInvitation, NewKey,
    NewMessage, NewSuppression, NewTenant, Next, Operation, Outlet, Reply, Result, Rotation, Scope, Settlement, Start, StateChange, Store,
    Suppresses, SuppressionFilter, SuppressionQuery, SuppressionRecord, TakeTokens, TenantChange, Tried, Urgency,
    conformance::fixture::{
        at, audit, claim, id, invitation_record, key_record, message, message_claim, new_key, new_tenant, seq, suppression_record,
        tenant_record, tokens, user, violations,
    },
    invariants::Kind,
    sqlite::SqliteStore,
};

mod verbs;

use verbs::{Draft, Report, Verb};

const TENANTS: u8 = 3;
const KEYS: u8 = 4;
const HUMANS: u8 = 5;
const NODES: usize = 2;

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
    /// The lane and the recipient of each of them.
    lanes: HashMap<Seq, (Lane, String)>,
    /// Every invitation that was offered, with its tenant and the human whose address it is for.
    invitations: Vec<(InvitationId, TenantId, u8)>,
    /// Tenants, keys and invitations that were tried to create: each gets an id of its own, as callers give.
    creations: u8,
    /// Records that were offered to audit logs.
    audits: i64,
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

const fn key_id(n: u8) -> KeyId {
    KeyId(id(2000 + n as u128))
}

const fn environment(test: bool) -> Environment {
    if test { Environment::Test } else { Environment::Live }
}

const fn channel(email: bool) -> Channel {
    if email { Channel::Email } else { Channel::Sms }
}

fn recipient(n: u8) -> String {
    format!("+25472200000{n}")
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
            store.create_key(new_key(KeyRecord { expires_at, ..key_record(tenant_id(n % TENANTS), n) })).await?;
        }
        let mut leases = Vec::new();
        for node in 0..NODES {
            leases.push(store.register_node(&format!("node-{node}"), at(0)).await?.lease);
        }
        Ok(Self { store, leases, offered: Vec::new(), lanes: HashMap::new(), invitations: Vec::new(), creations: 0, audits: 0 })
    }

    fn pick(&self, index: &Index) -> (Seq, TenantId) {
        if self.offered.is_empty() { (seq(-1), tenant_id(0)) } else { *index.get(&self.offered) }
    }

    /// The picked messages, each once.
    fn picks(&self, indexes: &[Index]) -> Vec<Seq> {
        let mut seen = HashSet::new();
        indexes.iter().map(|i| self.pick(i).0).filter(|seq| seen.insert(*seq)).collect()
    }

    fn start(&self, seq: Seq, attempt: i16) -> Start {
        let nowhere = Lane {
            tenant: tenant_id(0),
            environment: environment(false),
            channel: channel(false),
            urgency: Urgency::Bulk,
            outlet: Outlet::NONE,
        };
        let (lane, lookup) = self.lanes.get(&seq).cloned().unwrap_or((nowhere, String::new()));
        Start { seq, attempt, config: None, lane, lookup }
    }

    /// The next record of a tenant's audit log.
    fn audit(&mut self, tenant: TenantId) -> AuditRecord {
        self.audits += 1;
        audit(tenant, self.audits)
    }

    fn batch(&mut self, drafts: &[Draft], quota: i64, now: Timestamp) -> Vec<NewMessage> {
        let mut keys = HashSet::new();
        let mut batch = Vec::new();
        for d in drafts {
            // All of one slot, as those of one node are: which ones get the last of a quota is the order within a slot.
            let seq = Seq(seq(4 * i64::try_from(self.offered.len()).expect("few messages")).0 + 2);
            let tenant = tenant_id(d.tenant);
            self.offered.push((seq, tenant));
            let lane = Lane {
                tenant,
                environment: environment(d.test),
                channel: channel(d.email),
                urgency: Urgency::Transactional,
                outlet: Outlet::NONE,
            };
            self.lanes.insert(seq, (lane, recipient(d.recipient)));
            let operation = if d.human { Operation::SendMessageAsHuman } else { Operation::SendMessage };
            // The caller of `accept` folds equal keys before.
            let key = d.key.filter(|(key, _)| keys.insert((tenant, d.test, operation, *key)));
            batch.push(NewMessage {
                environment: environment(d.test),
                channel: channel(d.email),
                source: if d.human { Source::Dashboard } else { Source::Api },
                priority: if d.recipient % 2 == 0 { Priority::Transactional } else { Priority::Bulk },
                key: d.api_key.map(key_id),
                recipient: recipient(d.recipient),
                external_id: d.external_id.map(|n| format!("order-{n}")),
                idempotency: key.map(|(key, payload)| raven_store::messages::MessageClaim {
                    operation,
                    expires_at: at(200),
                    ..message_claim(&format!("key-{key}"), payload)
                }),
                due_at: Timestamp::from_millis(now.millis() + d.due_in),
                lease: d.held.map(|(node, _)| self.leases[node]),
                quota: (!d.test).then_some(quota),
                started: d.held.and_then(|(node, started)| started.then(|| (node == 1).then_some(ConfigId(id(3000))))),
                ..message(tenant, seq)
            });
        }
        // Which ones of a batch get the last of a quota is each engine's own choice: here both take them in the same order.
        batch.sort_by_key(|m| (m.tenant, m.environment, m.idempotency.as_ref().map(|claim| (claim.operation, claim.key.clone())), m.seq));
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
                // Of the recipient that the third of the drafts has, whoever the message went to.
                suppresses: (kind == EventKind::Failed && details == Some(2)).then(|| Suppresses {
                    id: SuppressionId(id(u128::from(7_000_u16) + u128::from(seq.0.unsigned_abs()) % 1_000_000_007)),
                    address: recipient(2),
                    reason: SuppressionReason::HardBounce,
                }),
                is_found_by_id: details == Some(1),
                tried: details.map(|n| Tried::parse(&format!("{}*{n}", id(3000)))),
                outlet: Outlet(details.map_or(0, i16::from)),
            }
        };
        reports.iter().map(settlement).collect()
    }

    async fn run(&mut self, verb: &Verb, now: Timestamp) -> String {
        let store = Arc::clone(&self.store);
        match verb {
            Verb::Accept(drafts, quota) => {
                let batch = self.batch(drafts, *quota, now);
                let answers = store.accept(batch, now).await;
                told(answers.map(|all| all.into_iter().map(told).collect::<Vec<_>>()))
            }
            Verb::FindReplay { tenant, test, key, payload } => {
                told(store.find_replay(tenant_id(*tenant), environment(*test), &message_claim(&format!("key-{key}"), *payload)).await)
            }
            Verb::Claim { node, per_lane, skip } => {
                let skip: Vec<_> = skip
                    .iter()
                    .map(|(t, test, email)| Lane {
                        tenant: tenant_id(*t),
                        environment: environment(*test),
                        channel: channel(*email),
                        urgency: Urgency::Transactional,
                        outlet: Outlet::NONE,
                    })
                    .collect();
                // Which lane comes first is each engine's own; which jobs are had is not.
                told(store.claim(self.leases[*node], 1000, *per_lane, &skip, now).await.map(|mut claimed| {
                    claimed.jobs.sort_by_key(|job| job.seq);
                    claimed.jobs
                }))
            }
            Verb::Start { node, messages, attempt } => {
                let starts: Vec<_> = self.picks(messages).into_iter().map(|seq| self.start(seq, *attempt)).collect();
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
            Verb::ChangeState { tenant, step } => {
                let tenant = tenant_id(*tenant);
                let steps = [
                    StateChange::Suspend(SuspendedBy::Owner),
                    StateChange::Suspend(SuspendedBy::Operator),
                    StateChange::Reactivate(SuspendedBy::Owner),
                    StateChange::Reactivate(SuspendedBy::Operator),
                    StateChange::Archive(now),
                    StateChange::Restore(now),
                ];
                told(store.change_state(tenant, steps[*step], self.audit(tenant)).await)
            }
            Verb::UpdateTenant { tenant, plan, country } => {
                let tenant = tenant_id(*tenant);
                let change = TenantChange {
                    plan: plan.then(|| "pro".to_owned()),
                    country_code: country.map(|given| given.then(|| "TZ".to_owned())),
                    ..TenantChange::default()
                };
                told(store.update_tenant(tenant, change, self.audit(tenant)).await)
            }
            _ => self.run_other(verb, now).await,
        }
    }

    async fn run_member(&mut self, verb: &Verb, now: Timestamp) -> String {
        let store = Arc::clone(&self.store);
        match verb {
            Verb::Invite { tenant, human, role } => {
                self.creations += 1;
                let tenant = tenant_id(*tenant);
                let record = InvitationRecord {
                    email: user(*human).email,
                    role: Role::ALL[*role],
                    created_at: now,
                    expires_at: Timestamp::from_millis(now.millis() + 60),
                    ..invitation_record(tenant, self.creations)
                };
                self.invitations.push((record.id, tenant, *human));
                let audit = self.audit(tenant);
                told(store.create_invitation(NewInvitation { record, claim: None, audit }).await)
            }
            Verb::Answer { invitation, human, accept } => {
                let Some((id, tenant, invited)) = self.invitation(invitation) else { return String::new() };
                let human = user(human.unwrap_or(invited));
                let email = human.email.clone();
                let reply = if *accept { Reply::Accept(human) } else { Reply::Decline };
                told(store.answer_invitation(id, &email, reply, now, self.audit(tenant)).await)
            }
            Verb::RevokeInvitation { invitation, tenant } => {
                let Some((id, ..)) = self.invitation(invitation) else { return String::new() };
                let tenant = tenant_id(*tenant);
                told(store.revoke_invitation(tenant, id, self.audit(tenant)).await)
            }
            Verb::SetRole { tenant, human, role, actor } => {
                let tenant = tenant_id(*tenant);
                let (role, actor) = (Role::ALL[*role], Role::ALL[*actor]);
                told(store.set_member_role(tenant, user(*human).id, role, actor, self.audit(tenant)).await)
            }
            Verb::Remove { tenant, human, actor } => {
                let tenant = tenant_id(*tenant);
                told(store.remove_member(tenant, user(*human).id, Role::ALL[*actor], self.audit(tenant)).await)
            }
            Verb::Transfer { tenant, from, to } => {
                let tenant = tenant_id(*tenant);
                told(store.transfer_ownership(tenant, user(*from).id, user(*to).id, self.audit(tenant)).await)
            }
            other => panic!("not about members: {other:?}"),
        }
    }

    /// The verbs about tenants, keys, limits and nodes.
    async fn run_other(&mut self, verb: &Verb, now: Timestamp) -> String {
        let store = Arc::clone(&self.store);
        match verb {
            Verb::CreateTenant { slug, key } => {
                self.creations += 1;
                let new = new_tenant(TENANTS + self.creations);
                let mut record = new.record;
                record.slug = tenant_record(*slug).slug;
                let claim = key.map(|(key, payload)| self.claim(Scope::User(user(1).id), Operation::CreateTenant, key, payload));
                let audit = self.audit(record.id);
                told(store.create_tenant(NewTenant { record, claim, audit, ..new }).await)
            }
            Verb::CreateKey { tenant, prefix, key } => {
                self.creations += 1;
                let tenant = tenant_id(*tenant);
                let scopes = Scopes::from_code(i16::from(*prefix));
                let prefix = key_record(tenant, *prefix).prefix;
                let record = KeyRecord { prefix, scopes, ..key_record(tenant, KEYS + self.creations) };
                let claim =
                    key.map(|(key, payload)| self.claim(Scope::Tenant(tenant, Environment::Live), Operation::CreateKey, key, payload));
                let audit = self.audit(tenant);
                told(store.create_key(NewKey { record, claim, audit }).await)
            }
            Verb::RevokeKey { n, tenant } => {
                let tenant = tenant_id(*tenant);
                told(store.revoke_key(tenant, None, key_id(*n), now, self.audit(tenant)).await)
            }
            Verb::UpdateKey { n, tenant, rpm } => {
                let tenant = tenant_id(*tenant);
                let change = KeyChange {
                    name: rpm.map(|n| format!("name {n}")),
                    rate_limit_rpm: Some(*rpm),
                    priority: Some(rpm.is_none().then_some(Priority::Bulk)),
                };
                told(store.update_key(tenant, None, key_id(*n), change, self.audit(tenant)).await)
            }
            Verb::RotateKey { n, tenant, key } => {
                self.creations += 1;
                let tenant = tenant_id(*tenant);
                let record = key_record(tenant, KEYS + self.creations);
                let claim =
                    key.map(|(key, payload)| self.claim(Scope::Tenant(tenant, Environment::Live), Operation::RotateKey, key, payload));
                let new = NewKey { record, claim, audit: self.audit(tenant) };
                told(store.rotate_key(Rotation { old: key_id(*n), old_expires_at: Timestamp::from_millis(now.millis() + 30), new }).await)
            }
            Verb::Touch { n, ago } => told(store.touch_keys(&[(key_id(*n), Timestamp::from_millis(now.millis() - ago))]).await),
            Verb::Take { bucket, want, burst } => {
                let request = TakeTokens {
                    burst: *burst,
                    interval: 7_000_000,
                    now: now.millis() * 1_000_000,
                    ..tokens(id(u128::from(*bucket)), *want)
                };
                told(store.take_tokens(request).await)
            }
            Verb::Suppress { tenant, test, email, recipient: n, key } => {
                self.creations += 1;
                let (tenant, environment) = (tenant_id(*tenant), environment(*test));
                let record = SuppressionRecord {
                    environment,
                    channel: channel(*email),
                    address: recipient(*n),
                    created_at: now,
                    ..suppression_record(tenant, self.creations)
                };
                let claim =
                    key.map(|(key, payload)| self.claim(Scope::Tenant(tenant, environment), Operation::CreateSuppression, key, payload));
                let audit = self.audit(tenant);
                told(store.create_suppression(NewSuppression { record, claim, audit }).await)
            }
            Verb::Unsuppress { n, tenant } => {
                let tenant = tenant_id(*tenant);
                let id = suppression_record(tenant, n % self.creations.max(1) + 1).id;
                told(store.delete_suppression(tenant, id, self.audit(tenant)).await)
            }
            Verb::ListSuppressions { tenant, test, email, part, skip, limit, scan } => {
                let filter =
                    SuppressionFilter { environment: environment(*test), channel: email.map(channel), part: part.map(|n| n.to_string()) };
                let tenant = tenant_id(*tenant);
                let counted = told(store.count_suppressions(tenant, &filter, *scan).await);
                let query = SuppressionQuery { filter, before: None, skip: *skip, limit: *limit, scan: *scan };
                let page = store.list_suppressions(tenant, &query).await;
                let next = match &page {
                    Ok(page) if page.next.is_some() => {
                        told(store.list_suppressions(tenant, &SuppressionQuery { before: page.next, skip: 0, ..query }).await)
                    }
                    _ => String::new(),
                };
                format!("{counted} {} {next}", told(page))
            }
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
            other => self.run_member(other, now).await,
        }
    }

    fn claim(&self, scope: Scope, operation: Operation, key: u8, payload: u8) -> Claim {
        claim(scope, operation, &format!("key-{key}"), payload)
    }

    async fn look(&self, seq: Seq, tenant: TenantId) -> String {
        let found = told(self.store.find_message(tenant, None, seq).await);
        format!("{found} {} {}", told(self.store.list_events(tenant, seq).await), told(self.store.find_content(tenant, seq).await))
    }

    fn invitation(&self, index: &Index) -> Option<(InvitationId, TenantId, u8)> {
        if self.invitations.is_empty() { None } else { Some(*index.get(&self.invitations)) }
    }

    /// All that can be read in the end.
    async fn everything(&self) -> Vec<String> {
        let store = &self.store;
        let mut all = vec![told(store.depth(at(10_000)).await), told(store.list_archived(at(10_000), 10).await)];
        let day = at(0).day();
        for tenant in (0..TENANTS).map(tenant_id) {
            all.push(told(store.find_tenant(tenant).await));
            all.push(told(store.list_members(tenant, None, 100).await));
            all.push(told(store.list_invitations(tenant, None, 100).await));
            all.push(told(store.list_keys(tenant, None, None, 100).await));
            all.push(told(store.list_audit(tenant, None, 1000).await));
            all.push(told(store.usage(tenant, None, day..=day).await));
            all.push(told(store.quota_used(tenant, day).await));
            for environment in Environment::ALL {
                let filter = SuppressionFilter { environment: *environment, channel: None, part: None };
                let query = SuppressionQuery { filter, before: None, skip: 0, limit: 100, scan: 100 };
                all.push(told(store.list_suppressions(tenant, &query).await));
            }
        }
        for human in (0..HUMANS).map(user) {
            all.push(told(store.list_memberships(human.id, None, 100).await));
            all.push(told(store.list_invitations_of(&human.email, at(150), None, 100).await));
        }
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
    for (one, other) in sqlite.everything().await.into_iter().zip(postgres.everything().await) {
        assert_eq!(one, other, "what is left at the end, SQLite's to the left");
    }
    let end = at(10 * (i64::try_from(verbs.len()).expect("few verbs") + 1));
    let found = violations(&sqlite.store, end).await?;
    assert_eq!(found, violations(&postgres.store, end).await?, "what is wrong at the end, SQLite's to the left");
    // Reports are made up, so they may end jobs too early, or messages that have one. The rest no order of verbs can do.
    let reported = [Kind::MessageWithoutJob, Kind::JobOfFinalMessage, Kind::EventsOutOfOrder];
    assert_eq!(found.iter().find(|violation| !reported.contains(&violation.kind)), None);
    Ok(())
}

fn run(verbs: &[Verb]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(compare(verbs)).expect("both engines can be reached");
}

proptest! {
    #![proptest_config(Config { cases: 32, max_shrink_iters: 60, failure_persistence: None, ..Config::default() })]

    #[test]
    fn both_engines_answer_the_same(verbs in proptest::collection::vec(verbs::verbs(), 30)) {
        run(&verbs);
    }

    #[test]
    fn both_engines_know_the_same_people(verbs in proptest::collection::vec(verbs::people(), 60)) {
        run(&verbs);
    }
}
