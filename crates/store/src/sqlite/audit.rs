//! The audit log in SQLite: [`record`] is called in the transaction of each change.

use async_trait::async_trait;
use raven_core::{Seq, TenantId};
use rusqlite::{Connection, params};

use super::{
    SqliteStore,
    rows::{Id, limit},
};
use crate::{AuditRecord, Audits, Result};

pub(super) const STATEMENTS: &[&str] = &[INSERT, LIST];

const INSERT: &str = "INSERT INTO audit_log (tenant_id, seq, entry) VALUES (?1, ?2, ?3)";
const LIST: &str = "SELECT seq, entry FROM audit_log WHERE tenant_id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

/// Writes a line, in the transaction of the change that it tells of.
pub(super) fn record(c: &Connection, line: &AuditRecord) -> Result<()> {
    insert(c, line.tenant, line.seq, &line.entry)
}

/// [`record`], of parts.
pub(super) fn insert(c: &Connection, tenant: TenantId, seq: Seq, entry: &str) -> Result<()> {
    c.prepare_cached(INSERT)?.execute(params![Id(tenant.0), seq.0, entry])?;
    Ok(())
}

#[async_trait]
impl Audits for SqliteStore {
    async fn list_audit(&self, tenant: TenantId, before: Option<Seq>, rows: usize) -> Result<Vec<AuditRecord>> {
        let before = before.map_or(i64::MAX, |seq| seq.0);
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST)?;
            let lines = select.query_map(params![Id(tenant.0), before, limit(rows)], |r| {
                Ok(AuditRecord { tenant, seq: Seq(r.get(0)?), entry: r.get(1)? })
            })?;
            Ok(lines.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
