//! Callbacks and messages from outside, through the store that fails on demand.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, Environment, Seq, TenantId, Timestamp};
use raven_store::{CallbackRecord, CallbackState, Callbacks, InboundMessages, InboundPage, InboundQuery, Reading, Replay, Result};

use super::{FaultyStore, Verb};

#[async_trait]
impl Callbacks for FaultyStore {
    async fn record_callbacks(&self, batch: &[CallbackRecord], due_at: Timestamp) -> Result<Vec<bool>> {
        self.faults.around(Verb::RecordCallbacks, self.inner.record_callbacks(batch, due_at)).await
    }

    async fn claim_callbacks(&self, limit: usize, now: Timestamp, until: Timestamp) -> Result<Vec<CallbackRecord>> {
        self.inner.claim_callbacks(limit, now, until).await
    }

    async fn apply_callbacks(&self, readings: &[Reading], now: Timestamp) -> Result<Vec<CallbackState>> {
        self.faults.around(Verb::ApplyCallbacks, self.inner.apply_callbacks(readings, now)).await
    }

    async fn find_by_provider_id(&self, tenant: TenantId, config: ConfigId, provider_id: &str, now: Timestamp) -> Result<Option<Seq>> {
        self.inner.find_by_provider_id(tenant, config, provider_id, now).await
    }

    async fn replay_callbacks(&self, which: &Replay, after: Option<Seq>, limit: usize, now: Timestamp) -> Result<(Option<Seq>, usize)> {
        self.inner.replay_callbacks(which, after, limit, now).await
    }

    async fn purge_callbacks(&self, before: Timestamp, now: Timestamp, limit: usize) -> Result<usize> {
        self.inner.purge_callbacks(before, now, limit).await
    }
}

#[async_trait]
impl InboundMessages for FaultyStore {
    async fn list_inbound(&self, tenant: TenantId, query: &InboundQuery) -> Result<InboundPage> {
        self.inner.list_inbound(tenant, query).await
    }

    async fn find_last_sent(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
        scan: usize,
    ) -> Result<Option<Seq>> {
        self.inner.find_last_sent(tenant, environment, channel, recipient, scan).await
    }
}
