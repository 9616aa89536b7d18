//! Sessions that nobody asked for: of every SMPP config of active tenants, step by step.

use std::{collections::HashMap, sync::Arc};

use raven_core::{ConfigId, TenantId, problem::chain};
use raven_providers::{Class, sms::smpp};
use raven_store::{ConfigRecord, providers::FAILED};
use tokio::task::JoinHandle;

use super::{Line, Sessions};
use crate::{attempt::Attempts, housekeeping::Housekeeping};

/// Configs read at a time.
const CHUNK: usize = 200;
/// Sessions of a tenant that are opened at a time: hosts that don't answer are its own trouble.
const OPENING: usize = 8;

/// Sessions that are being opened; nobody has to wait for them.
#[derive(Default)]
pub struct Binding(Vec<JoinHandle<()>>);

impl Binding {
    /// Until each is open, or can't be opened now.
    pub async fn done(self) {
        for opening in self.0 {
            // One that panicked has told so.
            let _ = opening.await;
        }
    }
}

impl Housekeeping {
    /// Every five seconds, in processes that work: begins the sessions that are missing, and ends those whose config is gone, changed,
    /// or not to be used.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn keep_sessions(&self) -> raven_store::Result<Binding> {
        let Some((_, attempts)) = &self.dispatch else { return Ok(Binding::default()) };
        let (mut after, mut wanted) = (None, Vec::new());
        loop {
            let page = self.store.list_configs_of(smpp::SPEC.id, after, CHUNK).await?;
            after = page.last().map(|config| config.id);
            let full = page.len() == CHUNK;
            wanted.extend(page);
            if !full {
                break;
            }
        }
        let sessions = &self.calls.smpp;
        sessions.end_all_but(&wanted);
        for config in wanted {
            if config.status == FAILED || sessions.knows(&config) {
                continue;
            }
            match self.directory.tenant(config.tenant).await {
                Ok(view) => {
                    let known = view.as_ref().and_then(|view| view.connection(config.id));
                    // What is known here may be as it was a second ago: then it is the next step's.
                    if let Some(connection) = known.filter(|connection| connection.record() == &config)
                        && let Err(e) = sessions.line(connection)
                    {
                        tracing::debug!(config = %config.id, tenant = %config.tenant, error = e.code, "a config gets no sessions");
                    }
                }
                Err(e) => tracing::error!(error = chain(&*e), "a tenant can't be read; its sessions wait"),
            }
        }
        Ok(sessions.open_missing(attempts))
    }
}

impl Sessions {
    /// Is there a line with a config's settings?
    fn knows(&self, config: &ConfigRecord) -> bool {
        self.lines.lock().as_ref().is_some_and(|lines| lines.get(&config.id).is_some_and(|line| line.serves(config)))
    }

    /// Ends the sessions of all other configs.
    fn end_all_but(&self, wanted: &[ConfigRecord]) {
        let wanted: HashMap<ConfigId, &ConfigRecord> = wanted.iter().map(|config| (config.id, config)).collect();
        let mut lines = self.lines.lock();
        let Some(lines) = lines.as_mut() else { return };
        lines.retain(|id, line| {
            let stays = wanted.get(id).is_some_and(|config| line.serves(config));
            if !stays {
                line.close();
            }
            stays
        });
    }

    /// Opens what is not open and due to be tried.
    fn open_missing(self: &Arc<Self>, attempts: &Arc<Attempts>) -> Binding {
        let lines: Vec<Arc<Line>> = self.lines.lock().iter().flat_map(HashMap::values).cloned().collect();
        let (now, mut opening, mut due) = (self.clock.now(), HashMap::<TenantId, usize>::new(), Vec::new());
        for line in lines.iter().filter(|line| !line.connection.gate.is_paused()) {
            for (n, slot) in line.slots.iter().enumerate().filter(|(_, slot)| slot.up().is_none()) {
                match slot.opening.try_lock() {
                    Ok(failed) if failed.as_ref().is_some_and(|last| now < last.at.after(last.wait)) => {}
                    Ok(_) => due.push((line.clone(), n)),
                    // Somebody is opening it.
                    Err(_) => *opening.entry(line.connection.record().tenant).or_default() += 1,
                }
            }
        }
        let mut handles = Vec::new();
        for (line, n) in due {
            let count = opening.entry(line.connection.record().tenant).or_default();
            *count += 1;
            if *count <= OPENING {
                let (sessions, attempts) = (self.clone(), attempts.clone());
                handles.push(self.tasks.spawn(async move { sessions.open_one(&line, n, &attempts).await }));
            }
        }
        Binding(handles)
    }

    async fn open_one(&self, line: &Line, n: usize, attempts: &Attempts) {
        let slot = &line.slots[n];
        let Ok(mut failed) = slot.opening.try_lock() else { return };
        if slot.up().is_some() {
            return;
        }
        if let Err(error) = self.open_slot(line, slot, &mut failed).await
            && error.class == Class::Credentials
        {
            attempts.refused(line.connection.record().tenant, line.connection.id, error).await;
        }
    }
}
