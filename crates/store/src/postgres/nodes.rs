//! Nodes and their epochs. Registrations are serialised by a lock that ends with the transaction.

use async_trait::async_trait;
use raven_core::Timestamp;

use super::{
    PostgresStore,
    rows::{self, get},
};
use crate::{Error, Lease, Node, Nodes, Registration, Result, nodes::DEAD_AFTER};

/// Slots that there are.
const SLOTS: i32 = 256;

// The key is arbitrary; migrations use another one.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7228162911)";
const PREDECESSORS: &str = "SELECT epoch FROM nodes WHERE node_id = $1 ORDER BY epoch";
const FREE_SLOT: &str = "SELECT free.slot::smallint AS slot, s.last_beat_at FROM generate_series(0, $1::integer - 1) AS free (slot) \
     LEFT JOIN slots s ON s.slot = free.slot WHERE NOT EXISTS (SELECT FROM nodes n WHERE n.slot = free.slot) ORDER BY free.slot LIMIT 1";
const INSERT: &str = "INSERT INTO nodes (node_id, slot, beat_at) VALUES ($1, $2, $3) RETURNING epoch";
const BEAT: &str = "UPDATE nodes SET beat_at = $2 WHERE epoch = $1";
const DEAD: &str = "SELECT epoch, node_id, slot, beat_at FROM nodes WHERE beat_at < $1 ORDER BY epoch";
const LIST: &str = "SELECT epoch, node_id, slot, beat_at FROM nodes ORDER BY epoch";
const RETIRE: &str = "WITH gone AS (DELETE FROM nodes WHERE epoch = $1 RETURNING slot, beat_at) \
     INSERT INTO slots (slot, last_beat_at) SELECT slot, beat_at FROM gone \
     ON CONFLICT (slot) DO UPDATE SET last_beat_at = GREATEST(slots.last_beat_at, EXCLUDED.last_beat_at)";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[LOCK, PREDECESSORS, FREE_SLOT, INSERT, BEAT, DEAD, LIST, RETIRE];

#[async_trait]
impl Nodes for PostgresStore {
    async fn register_node(&self, node_id: &str, now: Timestamp) -> Result<Registration> {
        let mut connection = self.connection().await?;
        connection.begin().await?;
        connection.query(LOCK, &[]).await?;
        let earlier = connection.query(PREDECESSORS, &[&node_id]).await?;
        let predecessors = earlier.iter().map(|row| get(row, "epoch").map(Lease)).collect::<Result<_>>()?;
        let Some(free) = connection.query_opt(FREE_SLOT, &[&SLOTS]).await? else {
            connection.rollback().await?;
            return Err(Error::Conflict("slot"));
        };
        let slot: i16 = get(&free, "slot")?;
        let node = connection.query_opt(INSERT, &[&node_id, &slot, &now.millis()]).await?;
        let lease = Lease(node.map_or_else(|| Err(Error::internal("no epoch was given")), |row| get(&row, "epoch"))?);
        connection.commit().await?;
        Ok(Registration { lease, slot: rows::slot(slot)?, slot_last_beat: rows::optional_time(&free, "last_beat_at")?, predecessors })
    }

    async fn beat(&self, lease: Lease, now: Timestamp) -> Result<bool> {
        Ok(self.connection().await?.execute(BEAT, &[&lease.0, &now.millis()]).await? == 1)
    }

    async fn dead_nodes(&self, now: Timestamp) -> Result<Vec<Node>> {
        let rows = self.connection().await?.query(DEAD, &[&now.before(DEAD_AFTER).millis()]).await?;
        rows.iter().map(rows::node).collect()
    }

    async fn retire_node(&self, lease: Lease) -> Result<()> {
        self.connection().await?.execute(RETIRE, &[&lease.0]).await?;
        Ok(())
    }

    async fn list_nodes(&self) -> Result<Vec<Node>> {
        let rows = self.connection().await?.query(LIST, &[]).await?;
        rows.iter().map(rows::node).collect()
    }
}
