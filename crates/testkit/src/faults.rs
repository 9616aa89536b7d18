//! A store that fails on demand: before a verb takes effect, or after it did and the answer is lost.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use raven_core::{Channel, ConfigId, Day, Environment, KeyId, Seq, SuppressionId, SuppressionReason, TenantId, Timestamp};
use raven_store::{
    Accepted, AuditRecord, Claim, Claimed, ConfigRecord, Configs, Error, EventRecord, Health, Invariants, JobRecord, KeyChange, KeyRecord,
    Keys, Lane, Lease, MessageQuery, MessageRecord, Messages, Migrations, NewConfig, NewKey, NewMessage, NewSuppression, Node, Nodes,
    Outcome, Queue, Reaped, Registration, Result, Rotation, Secrets, Settlement, Start, Started, Store, SuppressionFilter, SuppressionPage,
    SuppressionQuery, SuppressionRecord, Suppressions, Survey, Violation, Wakes,
    invariants::{Checked, Margins, Range, RecordKey},
    messages::{Intake, MessageClaim, MessagePage},
};

mod callbacks;
mod tenancy;

/// A verb that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `accept`
    Accept,
    /// `start`
    Start,
    /// `settle`
    Settle,
    /// `claim`
    Claim,
    /// `release`
    Release,
    /// `park`
    Park,
    /// `beat`
    Beat,
    /// `find_key_by_prefix`
    FindKey,
    /// `find_tenant`
    FindTenant,
    /// `replace_config`
    ReplaceConfig,
    /// `record_callbacks`
    RecordCallbacks,
    /// `apply_callbacks`
    ApplyCallbacks,
    /// `announce`, which is only counted: it can't fail
    Announce,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens, and the database is unavailable.
    Before,
    /// It happens, and then the answer is lost.
    After,
    /// Nothing happens, and no answer comes for as long as it is waited for.
    Silence,
}

/// What fails, and how often; what was called, and how often.
#[derive(Default)]
pub struct Faults {
    injected: Mutex<HashMap<Verb, (Fault, usize)>>,
    storm: Mutex<Option<Storm>>,
    calls: Mutex<HashMap<Verb, usize>>,
}

impl Faults {
    /// Makes the next `times` calls of a verb fail.
    pub fn inject(&self, verb: Verb, fault: Fault, times: usize) {
        self.injected.lock().insert(verb, (fault, times));
    }

    /// Makes everything work again.
    pub fn clear(&self) {
        self.injected.lock().clear();
        *self.storm.lock() = None;
    }

    /// From here on one call of `one_in` fails, before or after it took effect, whatever the verb is. The same seed and the same
    /// calls bring the same faults.
    pub fn rage(&self, seed: u64, one_in: u64) {
        *self.storm.lock() = Some(Storm { state: seed.wrapping_mul(2).wrapping_add(1), one_in });
    }

    /// How often a verb was called.
    #[must_use]
    pub fn calls(&self, verb: Verb) -> usize {
        self.calls.lock().get(&verb).copied().unwrap_or(0)
    }

    fn next(&self, verb: Verb) -> Option<Fault> {
        *self.calls.lock().entry(verb).or_default() += 1;
        if let Some(storm) = &mut *self.storm.lock()
            && let Some(fault) = storm.next()
        {
            return Some(fault);
        }
        let mut faults = self.injected.lock();
        let (fault, left) = faults.get_mut(&verb)?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }

    async fn around<T>(&self, verb: Verb, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next(verb) {
            None => call.await,
            Some(Fault::Before) => Err(unavailable()),
            Some(Fault::After) => {
                call.await?;
                Err(unavailable())
            }
            Some(Fault::Silence) => std::future::pending().await,
        }
    }
}

/// Faults by chance, from a seed.
struct Storm {
    state: u64,
    one_in: u64,
}

impl Storm {
    fn next(&mut self) -> Option<Fault> {
        // A linear congruential generator; its high bits are random enough to fail by.
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = self.state >> 33;
        number.is_multiple_of(self.one_in).then(|| if (number / self.one_in).is_multiple_of(2) { Fault::Before } else { Fault::After })
    }
}

fn unavailable() -> Error {
    Error::Unavailable("a fault was injected".into())
}

/// A store with faults.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    /// What fails.
    pub faults: Faults,
}

impl FaultyStore {
    /// Around a store, without any fault yet.
    #[must_use]
    pub fn around(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, faults: Faults::default() })
    }
}

#[async_trait]
impl Health for FaultyStore {
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn database_time(&self) -> Result<Option<Timestamp>> {
        self.inner.database_time().await
    }

    fn writers(&self) -> usize {
        self.inner.writers()
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn migrations(&self) -> Result<Migrations> {
        self.inner.migrations().await
    }

    async fn migrate(&self, now: Timestamp) -> Result<Migrations> {
        self.inner.migrate(now).await
    }

    async fn extend(&self, now: Timestamp) -> Result<()> {
        self.inner.extend(now).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Keys for FaultyStore {
    async fn create_key(&self, new: NewKey) -> Result<Outcome> {
        self.inner.create_key(new).await
    }

    async fn find_creation(&self, tenant: TenantId, claim: &Claim) -> Result<Option<Outcome>> {
        self.inner.find_creation(tenant, claim).await
    }

    async fn find_key_by_prefix(&self, prefix: &str) -> Result<Option<(KeyRecord, raven_store::TenantRecord)>> {
        self.faults.around(Verb::FindKey, self.inner.find_key_by_prefix(prefix)).await
    }

    async fn find_key(&self, tenant: TenantId, environment: Option<Environment>, id: KeyId) -> Result<Option<KeyRecord>> {
        self.inner.find_key(tenant, environment, id).await
    }

    async fn list_keys(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        before: Option<(Timestamp, KeyId)>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>> {
        self.inner.list_keys(tenant, environment, before, limit).await
    }

    async fn revoke_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        now: Timestamp,
        audit: AuditRecord,
    ) -> Result<bool> {
        self.inner.revoke_key(tenant, environment, id, now, audit).await
    }

    async fn update_key(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: KeyId,
        change: KeyChange,
        audit: AuditRecord,
    ) -> Result<Option<KeyRecord>> {
        self.inner.update_key(tenant, environment, id, change, audit).await
    }

    async fn rotate_key(&self, rotation: Rotation) -> Result<Option<Outcome>> {
        self.inner.rotate_key(rotation).await
    }

    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<()> {
        self.inner.touch_keys(used).await
    }
}

#[async_trait]
impl Configs for FaultyStore {
    async fn create_config(&self, new: NewConfig) -> Result<Outcome> {
        self.inner.create_config(new).await
    }

    async fn find_config(&self, tenant: TenantId, id: ConfigId) -> Result<Option<ConfigRecord>> {
        self.inner.find_config(tenant, id).await
    }

    async fn list_configs(&self, tenant: TenantId, before: Option<(Timestamp, ConfigId)>, limit: usize) -> Result<Vec<ConfigRecord>> {
        self.inner.list_configs(tenant, before, limit).await
    }

    async fn replace_config(&self, old: &ConfigRecord, new: &ConfigRecord, audit: Option<AuditRecord>) -> Result<bool> {
        self.faults.around(Verb::ReplaceConfig, self.inner.replace_config(old, new, audit)).await
    }

    async fn list_configs_of(&self, provider: &str, after: Option<ConfigId>, limit: usize) -> Result<Vec<ConfigRecord>> {
        self.inner.list_configs_of(provider, after, limit).await
    }

    async fn list_failed_configs(&self, after: Option<ConfigId>, limit: usize) -> Result<Vec<(TenantId, ConfigId)>> {
        self.inner.list_failed_configs(after, limit).await
    }

    async fn delete_config(&self, tenant: TenantId, id: ConfigId, audit: AuditRecord) -> Result<bool> {
        self.inner.delete_config(tenant, id, audit).await
    }
}

#[async_trait]
impl Suppressions for FaultyStore {
    async fn create_suppression(&self, new: NewSuppression) -> Result<Outcome> {
        self.inner.create_suppression(new).await
    }

    async fn add_suppressions(&self, tenant: TenantId, batch: Vec<SuppressionRecord>, audit: Option<AuditRecord>) -> Result<usize> {
        self.inner.add_suppressions(tenant, batch, audit).await
    }

    async fn find_suppression(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: SuppressionId,
    ) -> Result<Option<SuppressionRecord>> {
        self.inner.find_suppression(tenant, environment, id).await
    }

    async fn find_suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
    ) -> Result<Option<SuppressionReason>> {
        self.inner.find_suppression_of(tenant, environment, channel, recipient).await
    }

    async fn list_suppressions(&self, tenant: TenantId, query: &SuppressionQuery) -> Result<SuppressionPage> {
        self.inner.list_suppressions(tenant, query).await
    }

    async fn count_suppressions(&self, tenant: TenantId, filter: &SuppressionFilter, most: usize) -> Result<usize> {
        self.inner.count_suppressions(tenant, filter, most).await
    }

    async fn delete_suppression(&self, tenant: TenantId, id: SuppressionId, audit: AuditRecord) -> Result<bool> {
        self.inner.delete_suppression(tenant, id, audit).await
    }
}

#[async_trait]
impl Messages for FaultyStore {
    async fn accept(&self, batch: Vec<NewMessage>, now: Timestamp) -> Result<Vec<Result<Accepted>>> {
        self.faults.around(Verb::Accept, self.inner.accept(batch, now)).await
    }

    async fn accept_waiting(&self, writer: usize, intake: Box<dyn Intake>) -> Result<Vec<Result<Accepted>>> {
        self.faults.around(Verb::Accept, self.inner.accept_waiting(writer, intake)).await
    }

    async fn find_replay(&self, tenant: TenantId, environment: Environment, claim: &MessageClaim) -> Result<Option<Accepted>> {
        self.inner.find_replay(tenant, environment, claim).await
    }

    async fn put_content(&self, tenant: TenantId, seq: Seq, content: &str) -> Result<()> {
        self.inner.put_content(tenant, seq, content).await
    }

    async fn sweep_contents(&self, before: Timestamp, limit: usize) -> Result<usize> {
        self.inner.sweep_contents(before, limit).await
    }

    async fn find_message(&self, tenant: TenantId, environment: Option<Environment>, seq: Seq) -> Result<Option<MessageRecord>> {
        self.inner.find_message(tenant, environment, seq).await
    }

    async fn list_events(&self, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>> {
        self.inner.list_events(tenant, seq).await
    }

    async fn find_outline(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.inner.find_outline(tenant, seq).await
    }

    async fn find_content(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.inner.find_content(tenant, seq).await
    }

    async fn list_messages(&self, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage> {
        self.inner.list_messages(tenant, query).await
    }

    async fn purge_idempotency(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.inner.purge_idempotency(now, limit).await
    }
}

#[async_trait]
impl Queue for FaultyStore {
    async fn start(&self, lease: Lease, starts: &[Start], now: Timestamp) -> Result<Vec<Started>> {
        self.faults.around(Verb::Start, self.inner.start(lease, starts, now)).await
    }

    async fn settle(&self, lease: Lease, settlements: &[Settlement]) -> Result<()> {
        self.faults.around(Verb::Settle, self.inner.settle(lease, settlements)).await
    }

    async fn claim(&self, lease: Lease, limit: usize, per_lane: usize, skip: &[Lane], now: Timestamp) -> Result<Claimed> {
        self.faults.around(Verb::Claim, self.inner.claim(lease, limit, per_lane, skip, now)).await
    }

    async fn release(&self, lease: Lease, seqs: &[Seq]) -> Result<()> {
        self.faults.around(Verb::Release, self.inner.release(lease, seqs)).await
    }

    async fn park(&self, lease: Lease, jobs: &[(Seq, Timestamp)]) -> Result<()> {
        self.faults.around(Verb::Park, self.inner.park(lease, jobs)).await
    }

    async fn unpark(&self, tenant: TenantId, channel: Channel, limit: usize) -> Result<usize> {
        self.inner.unpark(tenant, channel, limit).await
    }

    async fn list_parked(&self, after: Option<(TenantId, Channel)>, limit: usize) -> Result<Vec<(TenantId, Channel)>> {
        self.inner.list_parked(after, limit).await
    }

    async fn find_job(&self, tenant: TenantId, seq: Seq) -> Result<Option<JobRecord>> {
        self.inner.find_job(tenant, seq).await
    }

    async fn release_unstarted(&self, lease: Lease, except: &[Seq]) -> Result<usize> {
        self.faults.around(Verb::Release, self.inner.release_unstarted(lease, except)).await
    }

    async fn reap(&self, lease: Lease, now: Timestamp, give_up_at: Timestamp, limit: usize) -> Result<Reaped> {
        self.inner.reap(lease, now, give_up_at, limit).await
    }

    async fn survey(&self, after: Option<Seq>, rows: usize, now: Timestamp, lost_before: Timestamp) -> Result<Survey> {
        self.inner.survey(after, rows, now, lost_before).await
    }
}

#[async_trait]
impl Invariants for FaultyStore {
    async fn check_jobs(&self, range: Range, rows: usize, margins: Margins, now: Timestamp) -> Result<Checked<Seq>> {
        self.inner.check_jobs(range, rows, margins, now).await
    }

    async fn check_messages(&self, range: Range, rows: usize) -> Result<Checked<Seq>> {
        self.inner.check_messages(range, rows).await
    }

    async fn check_records(&self, after: Option<RecordKey>, rows: usize) -> Result<Checked<RecordKey>> {
        self.inner.check_records(after, rows).await
    }

    async fn check_counters(&self, day: Day, after: Option<TenantId>, tenants: usize, most: usize) -> Result<Checked<TenantId>> {
        self.inner.check_counters(day, after, tenants, most).await
    }

    async fn mend(&self, violation: Violation, margins: Margins, now: Timestamp, give_up_at: Timestamp) -> Result<bool> {
        self.inner.mend(violation, margins, now, give_up_at).await
    }
}

#[async_trait]
impl Nodes for FaultyStore {
    async fn register_node(&self, node_id: &str, now: Timestamp) -> Result<Registration> {
        self.inner.register_node(node_id, now).await
    }

    async fn beat(&self, lease: Lease, now: Timestamp) -> Result<bool> {
        self.faults.around(Verb::Beat, self.inner.beat(lease, now)).await
    }

    async fn dead_nodes(&self, now: Timestamp) -> Result<Vec<Node>> {
        self.inner.dead_nodes(now).await
    }

    async fn retire_node(&self, lease: Lease) -> Result<()> {
        self.inner.retire_node(lease).await
    }

    async fn list_nodes(&self) -> Result<Vec<Node>> {
        self.inner.list_nodes().await
    }
}

#[async_trait]
impl Secrets for FaultyStore {
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.find_secret(name).await
    }

    async fn put_secret_once(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>> {
        self.inner.put_secret_once(name, wrapped).await
    }
}

#[async_trait]
impl Wakes for FaultyStore {
    fn listen(&self) {
        self.inner.listen();
    }

    fn announce(&self) {
        let _ = self.faults.next(Verb::Announce);
        self.inner.announce();
    }

    async fn woken(&self) {
        self.inner.woken().await;
    }
}
