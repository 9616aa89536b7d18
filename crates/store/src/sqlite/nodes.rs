//! Nodes in SQLite: their epochs, slots and beats.

use async_trait::async_trait;
use raven_core::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    rows::{time, time_or_null},
};
use crate::{Error, Lease, Node, Nodes, Registration, Result, nodes::DEAD_AFTER};

pub(super) const STATEMENTS: &[&str] = &[SLOTS, SLOT_BEAT, PREDECESSORS, REGISTER, BEAT, DEAD, KEEP_BEAT, RETIRE, LIST];

const SLOTS: &str = "SELECT slot FROM nodes ORDER BY slot";
const SLOT_BEAT: &str = "SELECT last_beat_at FROM slots WHERE slot = ?1";
const PREDECESSORS: &str = "SELECT epoch FROM nodes WHERE node_id = ?1 ORDER BY epoch";
const REGISTER: &str = "INSERT INTO nodes (node_id, slot, beat_at) VALUES (?1, ?2, ?3)";
const BEAT: &str = "UPDATE nodes SET beat_at = ?2 WHERE epoch = ?1";
const DEAD: &str = "SELECT node_id, epoch, slot, beat_at FROM nodes WHERE beat_at < ?1 ORDER BY epoch";
const KEEP_BEAT: &str = "INSERT INTO slots (slot, last_beat_at) SELECT slot, beat_at FROM nodes WHERE epoch = ?1
  ON CONFLICT (slot) DO UPDATE SET last_beat_at = max(last_beat_at, excluded.last_beat_at)";
const RETIRE: &str = "DELETE FROM nodes WHERE epoch = ?1";
const LIST: &str = "SELECT node_id, epoch, slot, beat_at FROM nodes ORDER BY epoch";

fn node(row: &Row<'_>) -> rusqlite::Result<Node> {
    Ok(Node { id: row.get(0)?, lease: Lease(row.get(1)?), slot: row.get(2)?, beat_at: time(row, 3)? })
}

fn register(c: &Connection, node_id: &str, now: Timestamp) -> Result<Registration> {
    let taken: Vec<u8> = c.prepare_cached(SLOTS)?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let slot = (0..=u8::MAX).find(|slot| taken.binary_search(slot).is_err()).ok_or(Error::Conflict("slot"))?;
    let slot_last_beat = c.prepare_cached(SLOT_BEAT)?.query_row([slot], |r| time_or_null(r, 0)).optional()?.flatten();
    let predecessors = c.prepare_cached(PREDECESSORS)?.query_map([node_id], |r| r.get(0).map(Lease))?.collect::<rusqlite::Result<_>>()?;
    let epoch = c.prepare_cached(REGISTER)?.insert(params![node_id, slot, now.millis()])?;
    Ok(Registration { lease: Lease(epoch), slot, slot_last_beat, predecessors })
}

#[async_trait]
impl Nodes for SqliteStore {
    async fn register_node(&self, node_id: &str, now: Timestamp) -> Result<Registration> {
        let node_id = node_id.to_owned();
        self.write(move |c| register(c, &node_id, now)).await
    }

    async fn beat(&self, lease: Lease, now: Timestamp) -> Result<bool> {
        self.write(move |c| Ok(c.prepare_cached(BEAT)?.execute([lease.0, now.millis()])? == 1)).await
    }

    async fn dead_nodes(&self, now: Timestamp) -> Result<Vec<Node>> {
        let last = now.before(DEAD_AFTER).millis();
        self.read(move |c| Ok(c.prepare_cached(DEAD)?.query_map([last], node)?.collect::<rusqlite::Result<_>>()?)).await
    }

    async fn retire_node(&self, lease: Lease) -> Result<()> {
        self.write(move |c| {
            c.prepare_cached(KEEP_BEAT)?.execute([lease.0])?;
            c.prepare_cached(RETIRE)?.execute([lease.0])?;
            Ok(())
        })
        .await
    }

    async fn list_nodes(&self) -> Result<Vec<Node>> {
        self.read(|c| Ok(c.prepare_cached(LIST)?.query_map([], node)?.collect::<rusqlite::Result<_>>()?)).await
    }
}
