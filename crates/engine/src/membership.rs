//! This process as a node: its epoch, which marks what it works on, and its heartbeat, without which it starts nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use raven_core::{Clock, Ids, Timestamp};
use raven_store::{Lease, Registration, Store};

use crate::shared_clock::SharedClock;

/// How long after its last beat a node may start calls. A call takes at most [`crate::transport::CALL_CAP`], so it ends
/// before others declare the node dead ([`raven_store::nodes::DEAD_AFTER`]).
pub const FRESH: Duration = Duration::from_secs(8);

/// A registered node.
pub struct Membership {
    node_id: String,
    epoch: AtomicI64,
    last_beat: AtomicI64,
    /// Hands out the keys of messages in this node's slot.
    pub ids: Ids,
    clock: Arc<SharedClock>,
    slot: u8,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When, by the clock that all nodes go by.
    pub at: Timestamp,
    /// May this node judge which others are dead? Not when it missed beats itself: then perhaps none could beat, and the others
    /// need a moment to come back.
    pub judges: bool,
    /// The epoch that has begun where the old one had been taken away (this process was asleep or cut off for too long): what
    /// was held under the old one is no longer ours.
    pub begun: Option<Registration>,
}

impl Membership {
    /// Registers a node, whose clock is compared first. The registration also names the epochs that this node left behind.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn join(store: &dyn Store, clock: Arc<SharedClock>, node_id: &str) -> raven_store::Result<(Self, Registration)> {
        let now = clock.compare(store).await?;
        let registration = store.register_node(node_id, now).await?;
        let floor = registration.slot_last_beat.unwrap_or_default();
        let membership = Self {
            node_id: node_id.to_owned(),
            epoch: AtomicI64::new(registration.lease.0),
            last_beat: AtomicI64::new(now.millis()),
            ids: Ids::new(registration.slot, floor),
            clock,
            slot: registration.slot,
        };
        Ok((membership, registration))
    }

    /// The present epoch.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease(self.epoch.load(Ordering::Acquire))
    }

    /// May calls be started now?
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.is_fresh_at(self.clock.now())
    }

    fn is_fresh_at(&self, now: Timestamp) -> bool {
        now.since(Timestamp::from_millis(self.last_beat.load(Ordering::Acquire))) <= FRESH
    }

    /// Compares the clock and beats once.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn beat(&self, store: &dyn Store) -> raven_store::Result<Beat> {
        // By the database's own word, not by the corrected clock, which may have been set a moment ago.
        let at = self.clock.compare(store).await?;
        let judges = self.is_fresh_at(at);
        if store.beat(self.lease(), at).await? {
            self.last_beat.store(at.millis(), Ordering::Release);
            return Ok(Beat { at, judges, begun: None });
        }
        let registration = store.register_node(&self.node_id, at).await?;
        if registration.slot != self.slot {
            // Message keys are made in the old slot, which another node may hold by now.
            return Err(raven_store::Error::internal("the node lost its slot while it was away and must be restarted"));
        }
        self.epoch.store(registration.lease.0, Ordering::Release);
        self.last_beat.store(at.millis(), Ordering::Release);
        Ok(Beat { at, judges, begun: Some(registration) })
    }
}
