//! The audit log. Verbs that are one statement write their record in it; the others call [`write()`] in their transaction.

use async_trait::async_trait;
use raven_core::{Seq, TenantId};

use super::{
    PostgresStore,
    connection::{Connection, Failure},
    rows::{get, limit as limit_of},
};
use crate::{AuditRecord, Audits, Result};

const INSERT: &str = "INSERT INTO audit_log (tenant_id, seq, entry) VALUES ($1, $2, $3)";
const LIST: &str = "SELECT seq, entry FROM audit_log WHERE tenant_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, LIST];

/// Writes a record in the transaction of the change that it tells of.
pub(super) async fn write(connection: &mut Connection, record: &AuditRecord) -> Result<(), Failure> {
    connection.execute(INSERT, &[&record.tenant.0, &record.seq.0, &record.entry]).await?;
    Ok(())
}

#[async_trait]
impl Audits for PostgresStore {
    async fn list_audit(&self, tenant: TenantId, before: Option<Seq>, limit: usize) -> Result<Vec<AuditRecord>> {
        let before = before.map_or(i64::MAX, |seq| seq.0);
        let rows = self.connection().await?.query_within(tenant, LIST, &[&tenant.0, &before, &limit_of(limit)]).await?;
        rows.iter().map(|row| Ok(AuditRecord { tenant, seq: Seq(get(row, "seq")?), entry: get(row, "entry")? })).collect()
    }
}
