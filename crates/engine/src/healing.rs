//! Paused configs get well: a key that was merely young, a provider's bad quarter of an hour. Each paused config's provider is
//! asked now and then whether the credentials work, and no message is risked for it.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use raven_core::{Channel, ConfigId, TenantId, Timestamp, problem::chain};
use raven_store::{ConfigRecord, providers::VERIFIED};

use crate::{housekeeping::Housekeeping, metrics::ProviderLabels, parking};

/// Before a provider is asked first; doubles with each time that it says no.
const FIRST: Duration = Duration::from_secs(300);
/// Before it is asked again, at most.
const LONGEST: Duration = Duration::from_secs(3600);
/// Configs read at a time, and providers asked in one step: each may take as long as a call.
const CHUNK: usize = 200;
const ASKED: usize = 20;
/// Channels of tenants looked at, at a time.
const PLACES: usize = 200;

/// What is remembered between two steps.
#[derive(Default)]
pub struct Healing {
    /// When each paused config's provider is asked next, and how long it was waited for that.
    asked: Mutex<HashMap<ConfigId, (Timestamp, Duration)>>,
    /// The configs of each channel that something waits on, as they were when that was woken last.
    woken: Mutex<HashMap<(TenantId, Channel), Vec<ConfigRecord>>>,
}

impl Healing {
    /// See [`Housekeeping::heal`].
    pub(crate) async fn step(&self, chores: &Housekeeping) -> raven_store::Result<()> {
        let now = chores.clock.now();
        let due = self.due(chores, now).await?;
        for (tenant, id) in due {
            let well = self.ask(chores, tenant, id).await?;
            if !well && let Some((next, wait)) = self.asked.lock().get_mut(&id) {
                *wait = (*wait * 2).min(LONGEST);
                *next = now.after(*wait);
            }
        }
        Ok(())
    }

    /// The paused configs whose providers are to be asked now.
    async fn due(&self, chores: &Housekeeping, now: Timestamp) -> raven_store::Result<Vec<(TenantId, ConfigId)>> {
        let (mut due, mut known, mut after) = (Vec::new(), HashMap::new(), None);
        loop {
            let page = chores.store.list_failed_configs(after, CHUNK).await?;
            after = page.last().map(|(_, id)| *id);
            let (full, mut waits) = (page.len() == CHUNK, self.asked.lock());
            for (tenant, id) in page {
                let wait = waits.remove(&id).unwrap_or((now.after(FIRST), FIRST));
                if wait.0 <= now && due.len() < ASKED {
                    due.push((tenant, id));
                }
                known.insert(id, wait);
            }
            if !full {
                // Those that are not paused any more are forgotten.
                *waits = known;
                return Ok(due);
            }
        }
    }

    /// Asks one provider; `true` when the credentials work.
    async fn ask(&self, chores: &Housekeeping, tenant: TenantId, id: ConfigId) -> raven_store::Result<bool> {
        let view = match chores.directory.tenant_anew(tenant).await {
            Ok(view) => view,
            Err(e) => {
                tracing::error!(error = chain(&*e), "a tenant can't be read; its paused configs wait");
                return Ok(false);
            }
        };
        let Some(connection) = view.as_ref().and_then(|view| view.connection(id)) else { return Ok(false) };
        if !chores.calls.can_ask(connection) || chores.calls.verify(connection).await.is_err() {
            return Ok(false);
        }
        let old = connection.record();
        let new = ConfigRecord { status: VERIFIED.to_owned(), status_reason: None, ..old.clone() };
        if !chores.store.replace_config(old, &new, None).await? {
            // Somebody changed it meanwhile, and saw to what waits.
            return Ok(true);
        }
        tracing::info!(%tenant, config = %id, provider = old.provider, "the credentials of a paused provider config work again");
        chores.metrics.resumed.get_or_create(&ProviderLabels { provider: connection.provider.spec.id }).inc();
        chores.directory.forget(tenant).await;
        parking::unpark(&*chores.store, tenant, old.channel).await;
        Ok(true)
    }

    /// Wakes what waits though the configs have changed: whoever should have woken it was gone before. What waited already when this
    /// process began is woken once.
    pub(crate) async fn wake_forgotten(&self, chores: &Housekeeping) -> raven_store::Result<()> {
        let (mut after, mut seen) = (None, HashMap::new());
        loop {
            let places = chores.store.list_parked(after, PLACES).await?;
            after = places.last().copied();
            for (tenant, channel) in &places {
                let Ok(Some(view)) = chores.directory.tenant_anew(*tenant).await else { continue };
                let configs: Vec<ConfigRecord> = view.on(*channel).map(|connection| connection.record().clone()).collect();
                if self.woken.lock().get(&(*tenant, *channel)) != Some(&configs) {
                    parking::unpark(&*chores.store, *tenant, *channel).await;
                }
                seen.insert((*tenant, *channel), configs);
            }
            if places.len() < PLACES {
                *self.woken.lock() = seen;
                return Ok(());
            }
        }
    }
}
