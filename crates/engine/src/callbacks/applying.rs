//! Applying callbacks: those that were just stored here, and those that are due in the database because nothing came of them yet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use raven_core::{Clock, IdCipher, problem::chain};
use raven_store::{CallbackRecord, CallbackState, Error, Reading, Store, Telling};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    OWN,
    reading::{CallbackOptions, Read, Reader, tell},
};
use crate::{
    calls::Calls,
    clock::Entropy,
    directory::{Connection, Directory, TenantView},
    engine::until,
    membership::Membership,
    metrics::{CallbackLabels, Metrics},
};

/// Callbacks that one transaction applies.
const BATCH: usize = 256;
/// Between two looks for callbacks that are due.
const POLL: Duration = Duration::from_secs(1);

/// Applies callbacks.
pub struct Applier {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) cipher: Arc<IdCipher>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: CallbackOptions,
    pub(crate) stored: Mutex<mpsc::Receiver<CallbackRecord>>,
}

impl Applier {
    /// Applies what was stored here, then what is due in the database. Returns how many callbacks were looked at.
    ///
    /// # Errors
    /// When the store can't; what was not applied is due again.
    pub async fn step(&self) -> raven_store::Result<usize> {
        let mut batch = Vec::new();
        {
            let mut stored = self.stored.lock().await;
            while batch.len() < BATCH
                && let Ok(record) = stored.try_recv()
            {
                batch.push(record);
            }
        }
        let mut seen = batch.len();
        self.apply(batch).await?;
        let now = self.clock.now();
        let due = self.store.claim_callbacks(BATCH, now, now.after(OWN)).await?;
        seen += due.len();
        self.apply(due).await?;
        Ok(seen)
    }

    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        until(stop, async {
            loop {
                let mut batch = Vec::with_capacity(BATCH);
                let next = async { self.stored.lock().await.recv_many(&mut batch, BATCH).await };
                let worked = match tokio::time::timeout(POLL, next).await {
                    Ok(0) => return,
                    Ok(_) => self.apply(batch).await.map(|()| false),
                    Err(_) => self.step().await.map(|seen| seen >= BATCH),
                };
                match worked {
                    // A backlog is worked off without a pause.
                    Ok(true) => while self.step().await.is_ok_and(|seen| seen >= BATCH) {},
                    Ok(false) => {}
                    Err(e) => {
                        tracing::error!(error = chain(&e), "callbacks can't be applied yet");
                        tokio::time::sleep(POLL).await;
                    }
                }
            }
        })
        .await;
    }

    async fn apply(&self, batch: Vec<CallbackRecord>) -> raven_store::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut readings: Vec<(Reading, &'static str)> = Vec::with_capacity(batch.len());
        for record in &batch {
            let view = self.directory.tenant(record.tenant).await.map_err(|e| Error::Unavailable(e.into()))?;
            let connection = view.as_ref().and_then(|view| view.connection(record.config));
            let provider = connection.map_or("none", |c| c.provider.spec.id);
            if let Some(reading) = self.read(record, view.as_deref(), connection.map(|c| &**c)).await? {
                readings.push((reading, provider));
            }
        }
        let all: Vec<Reading> = readings.iter().map(|(reading, _)| reading.clone()).collect();
        let states = match self.store.apply_callbacks(&all, self.clock.now()).await {
            Ok(states) => states,
            // One that the database refuses must not keep the others: each for itself.
            Err(Error::Internal(e)) if all.len() > 1 => {
                tracing::error!(error = %e, "a batch of callbacks could not be applied; each is tried alone");
                let mut states = Vec::with_capacity(all.len());
                for reading in &all {
                    states.push(self.apply_alone(reading).await?);
                }
                states
            }
            Err(Error::Internal(_)) => vec![self.apply_alone(&all[0]).await?],
            Err(e) => return Err(e),
        };
        let resends = |telling: &Telling| matches!(telling, Telling::Reported(report) if !report.detours.is_empty());
        if all.iter().any(|reading| reading.tells.iter().flatten().any(resends)) {
            // What goes another way is due at once.
            self.store.announce();
        }
        for ((_, provider), state) in readings.into_iter().zip(states) {
            self.metrics.callbacks.get_or_create(&CallbackLabels { provider, result: state.name() }).inc();
        }
        Ok(())
    }

    async fn apply_alone(&self, reading: &Reading) -> raven_store::Result<CallbackState> {
        let now = self.clock.now();
        match self.store.apply_callbacks(std::slice::from_ref(reading), now).await {
            Ok(states) => Ok(states.first().copied().unwrap_or(CallbackState::Applied)),
            Err(Error::Internal(e)) => {
                tracing::error!(error = %e, "a callback can't be applied; it is kept to be read again");
                let refused = Reading { tells: Err("the database refused what it tells".to_owned()), ..reading.clone() };
                self.store.apply_callbacks(&[refused], now).await?;
                Ok(CallbackState::Unreadable)
            }
            Err(e) => Err(e),
        }
    }

    /// What a callback tells; `None` when it is to be looked at again.
    async fn read(
        &self,
        record: &CallbackRecord,
        view: Option<&TenantView>,
        connection: Option<&Connection>,
    ) -> raven_store::Result<Option<Reading>> {
        let reader = Reader {
            store: &*self.store,
            entropy: &*self.entropy,
            cipher: &self.cipher,
            ids: &self.membership.ids,
            keywords: &self.options.keywords,
            soft_bounces: self.options.soft_bounces,
            view,
            now: self.clock.now(),
        };
        let Some(connection) = connection else {
            return Ok(Some(reader.without_config(record)));
        };
        let Read { reading, confirm } = reader.read(record, connection, tell(record, connection)).await?;
        for url in confirm {
            if !self.confirm(connection, &url).await && reading.again_at.is_some() {
                return Ok(None);
            }
        }
        Ok(Some(reading))
    }

    /// Tells a provider that we agree to be called.
    async fn confirm(&self, connection: &Connection, url: &str) -> bool {
        let Ok(request) = Request::get(url).body(Bytes::new()) else { return false };
        let confirmed = self.calls.transport.call(request, Duration::ZERO).await.is_ok_and(|answer| answer.status().is_success());
        if confirmed {
            tracing::info!(config = %connection.id, provider = connection.provider.spec.id, "a provider's subscription is confirmed");
        } else {
            tracing::warn!(config = %connection.id, provider = connection.provider.spec.id, "a provider's subscription can't be confirmed yet");
        }
        confirmed
    }
}
