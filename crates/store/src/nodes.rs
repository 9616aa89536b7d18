//! Nodes: processes that hold leases, their epochs and heartbeats.

use std::time::Duration;

use async_trait::async_trait;
use raven_core::Timestamp;

use crate::Result;

/// How often a node beats.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// After how long without a beat a node is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(20);

/// The epoch of a node: one life of one process. What it works on carries this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub i64);

/// What a process gets when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its epoch.
    pub lease: Lease,
    /// Its slot for [`raven_core::Ids`]: no other live node has it.
    pub slot: u8,
    /// The last beat of any earlier holder of the slot: ids start after it (plus [`DEAD_AFTER`]).
    pub slot_last_beat: Option<Timestamp>,
    /// Earlier epochs of the same node id: dead by definition, their work can be reaped at once.
    pub predecessors: Vec<Lease>,
}

/// A node as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name (`RAVEN_NODE_ID`).
    pub id: String,
    /// Its epoch.
    pub lease: Lease,
    /// Its slot.
    pub slot: u8,
    /// Its last beat.
    pub beat_at: Timestamp,
}

/// Verbs about nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Begins a new epoch of this node, in the lowest slot (0 to 255) that no live and no unreaped epoch holds.
    /// Epoch numbers grow and are never used twice.
    ///
    /// # Errors
    /// [`Conflict("slot")`](crate::Error::Conflict) when 256 nodes live.
    async fn register_node(&self, node_id: &str, now: Timestamp) -> Result<Registration>;

    /// Beats. `false` when the epoch is gone (declared dead and reaped): the node must stop.
    async fn beat(&self, lease: Lease, now: Timestamp) -> Result<bool>;

    /// Epochs whose last beat is older than [`DEAD_AFTER`] at `now`.
    async fn dead_nodes(&self, now: Timestamp) -> Result<Vec<Node>>;

    /// Ends an epoch: after its work was released or reaped.
    async fn retire_node(&self, lease: Lease) -> Result<()>;

    /// All epochs that are registered.
    async fn list_nodes(&self) -> Result<Vec<Node>>;
}
