//! What has to be done now and then: heartbeats, taking over the work of nodes that are gone, forgetting what expired.

use std::{sync::Arc, time::Duration};

use raven_core::{Channel, Clock, Timestamp, tenant::RESTORABLE};
use raven_store::{Lease, Node, Store, Survey, invariants::Margins, nodes::DEAD_AFTER, queue::SURVEY_ROWS};

use crate::{
    attempt::{Attempts, UNKNOWN_FOR},
    calls::Calls,
    directory::Directory,
    dispatch::Dispatcher,
    healing::Healing,
    invariants::{Checker, Extent, WATCHED},
    membership::Membership,
    metrics::{ChannelLabels, Metrics, ViolationLabels},
};

/// Jobs reaped, or rows purged, in one transaction: small, so that acceptance hardly waits.
const CHUNK: usize = 500;
/// Between two stretches of a survey.
const BREATH: Duration = Duration::from_millis(10);
/// Tenants that one round of chores deletes.
const TENANTS: usize = 10;
/// Days for which the counters of daily quotas are kept.
const COUNTERS_KEPT: i32 = 2;
/// Content without a message is an orphan when it is older than this.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// How long callbacks that wait for nothing are kept, and counts of soft bounces.
const CALLBACKS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A node's chores.
pub struct Housekeeping {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) dispatch: Option<(Arc<Dispatcher>, Arc<Attempts>)>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) healing: Healing,
}

impl Housekeeping {
    /// Every five seconds: beats, and takes over from the dead.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn beat(&self) -> raven_store::Result<()> {
        self.metrics.node_alive.set(i64::from(self.membership.is_fresh()));
        let beat = self.membership.beat(&*self.store).await?;
        if let Some(registration) = beat.begun {
            tracing::warn!("this node was away for too long; its work was taken over, and it begins anew");
            if let Some((dispatcher, _)) = &self.dispatch {
                // Whoever reaped the old epoch has freed these jobs.
                dispatcher.forget_held();
            }
            self.take_over(registration.predecessors).await?;
        }
        self.metrics.node_alive.set(1);
        if self.dispatch.is_some() && self.store.is_shared() {
            let alive = |node: &Node| node.beat_at >= beat.at.before(DEAD_AFTER);
            self.directory.set_nodes(self.store.list_nodes().await?.iter().filter(|node| alive(node)).count());
        }
        if let Some((_, attempts)) = &self.dispatch
            && attempts.release_orphans().await?
        {
            self.store.announce();
        }
        if !beat.judges {
            return Ok(());
        }
        let dead = self.store.dead_nodes(beat.at).await?;
        self.take_over(dead.into_iter().map(|n| n.lease).filter(|l| *l != self.membership.lease()).collect()).await
    }

    /// Every fifteen seconds: counts the queue, which costs a look at every job, and takes over what epochs that are over left
    /// behind. (What the database was still doing for a process when it was killed is committed after its jobs were reaped.)
    ///
    /// # Errors
    /// When the store can't.
    pub async fn measure(&self) -> raven_store::Result<()> {
        let now = self.clock.now();
        let mut whole = Survey::default();
        while let Some(after) = whole.goes_on() {
            if after.is_some() {
                // A queue of millions is looked at bit by bit, so that it delays nothing else.
                tokio::time::sleep(BREATH).await;
            }
            // A living node that lost its epoch gives such jobs back itself, with its next beat.
            whole.add(self.store.survey(after, SURVEY_ROWS, now, now.before(DEAD_AFTER)).await?);
        }
        let Survey { channels: depths, lost, .. } = whole;
        for channel in Channel::ALL {
            // A channel without jobs is not named: its numbers go back to nothing.
            let (depth, oldest) = depths.iter().find(|(c, ..)| c == channel).map_or((0, None), |(_, depth, oldest)| (*depth, *oldest));
            let labels = ChannelLabels { channel: channel.name() };
            self.metrics.queue_depth.get_or_create(&labels).set(depth);
            let age = oldest.map_or(0, |at| now.since(at).as_millis());
            self.metrics.oldest_due.get_or_create(&labels).set(i64::try_from(age).unwrap_or(i64::MAX));
        }
        self.take_over(lost).await
    }

    /// Every five minutes: looks for jobs and recent messages with which something is wrong. Mends nothing: that is an
    /// operator's to decide.
    ///
    /// # Errors
    /// When the store can't; the metrics stay as they were.
    pub async fn check(&self) -> raven_store::Result<()> {
        let checker = Checker::new(self.store.clone(), self.clock.clone(), Margins::default());
        let findings = checker.check(Extent::Recent, Duration::ZERO).await?;
        for kind in WATCHED {
            let found = findings.count(kind);
            let labels = ViolationLabels { kind: kind.name() };
            self.metrics.violations.get_or_create(&labels).set(i64::try_from(found).unwrap_or(i64::MAX));
            if found > 0 {
                tracing::warn!(kind = kind.name(), found, "something is wrong with the data: see `raven doctor --invariants`");
            }
        }
        self.metrics.checked_at.set(self.clock.now().seconds());
        Ok(())
    }

    /// Takes the work of epochs that are over: what was not started is free again, what was started and has no outcome is
    /// unknown.
    ///
    /// # Errors
    /// When the store can't; the rest is found again.
    pub async fn take_over(&self, leases: Vec<Lease>) -> raven_store::Result<()> {
        for lease in leases {
            let (mut released, mut unknown) = (0, 0);
            loop {
                let now = self.clock.now();
                let reaped = self.store.reap(lease, now, now.after(UNKNOWN_FOR), CHUNK).await?;
                released += reaped.released;
                unknown += reaped.unknown;
                if reaped.released + reaped.unknown == 0 {
                    break;
                }
            }
            self.store.retire_node(lease).await?;
            if released + unknown > 0 {
                self.store.announce();
                tracing::info!(epoch = lease.0, released, unknown, "took over the work of a node that is gone");
            }
        }
        Ok(())
    }

    /// Every fifteen seconds: asks providers about the credentials of paused configs, each now and then, and lets those go on that
    /// work again.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn heal(&self) -> raven_store::Result<()> {
        self.healing.step(self).await
    }

    /// Every minute: forgets expired idempotency records, orphaned content and counters of days gone by, deletes tenants
    /// that were archived long ago, and prepares the coming weeks.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn tidy(&self) -> raven_store::Result<()> {
        let now: Timestamp = self.clock.now();
        self.store.extend(now).await?;
        if self.dispatch.is_some() {
            self.healing.wake_forgotten(self).await?;
        }
        while self.store.purge_idempotency(now, CHUNK).await? == CHUNK {}
        while self.store.sweep_contents(now.before(ORPHAN_AGE), CHUNK).await? == CHUNK {}
        while self.store.purge_counters(now.day().plus(-COUNTERS_KEPT), CHUNK).await? >= CHUNK {}
        while self.store.purge_callbacks(now.before(CALLBACKS_KEPT), now, CHUNK).await? >= CHUNK {}
        for tenant in self.store.list_archived(now.before(RESTORABLE), TENANTS).await? {
            while !self.store.purge_tenant(tenant, CHUNK).await? {}
            tracing::info!(%tenant, "deleted a tenant that was archived 30 days ago, and all that it had");
        }
        Ok(())
    }
}
