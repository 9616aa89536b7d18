//! The audit log: who changed what in a tenant. A record is written in the transaction of the change that it tells of, and
//! is never changed or deleted while the tenant exists.

use async_trait::async_trait;
use raven_core::{Seq, TenantId};

use crate::Result;

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// In whose log.
    pub tenant: TenantId,
    /// Its key, which also tells its time.
    pub seq: Seq,
    /// What happened: a JSON object, without secrets.
    pub entry: String,
}

/// Verbs about the audit log. (Records are written by the verbs that change something.)
#[async_trait]
pub trait Audits: Send + Sync {
    /// The tenant's records, newest first, from below `before` (exclusive) on.
    async fn list_audit(&self, tenant: TenantId, before: Option<Seq>, limit: usize) -> Result<Vec<AuditRecord>>;
}
