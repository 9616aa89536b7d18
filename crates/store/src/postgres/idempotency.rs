//! Idempotency of the verbs that create one resource: the record goes in first, so that a concurrent equal claim waits
//! for this transaction and then replays it.

use raven_core::TenantId;
use tokio_postgres::Row;

use super::{
    audit,
    connection::{Connection, Failure},
    rows::get,
};
use crate::{AuditRecord, Claim, Error, Outcome, Result};

const INSERT: &str = "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, response, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (owner_id, environment, operation, key) DO NOTHING";
const FIND: &str = "SELECT fingerprint, response FROM idempotency WHERE owner_id = $1 AND environment = $2 AND operation = $3 AND key = $4";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND];

/// What there is to know of a creation, besides what is created.
pub(super) struct Creation<'a> {
    /// With the rights of this tenant only; `None`: of the login.
    pub(super) within: Option<TenantId>,
    /// The caller's claim, if there is one.
    pub(super) claim: Option<&'a Claim>,
    /// Which violated constraint is the caller's to answer for, and by which name.
    pub(super) conflict: Option<(&'a str, &'static str)>,
    /// What the audit log says.
    pub(super) audit: &'a AuditRecord,
}

/// Creates in one transaction what `insert` inserts, the record of the claim, and that of the audit log.
pub(super) async fn create(
    connection: Connection,
    creation: Creation<'_>,
    insert: impl AsyncFnOnce(&mut Connection) -> Result<(), Failure>,
) -> Result<Outcome> {
    let created = create_if(connection, creation, async |connection| insert(connection).await.map(|()| true)).await?;
    created.ok_or_else(|| Error::internal("a creation without a condition was not made"))
}

/// The same where `insert` may find (`false`) that what it depends on is not there: then nothing is created, and the key is
/// not used up.
pub(super) async fn create_if(
    mut connection: Connection,
    creation: Creation<'_>,
    insert: impl AsyncFnOnce(&mut Connection) -> Result<bool, Failure>,
) -> Result<Option<Outcome>> {
    match creation.within {
        Some(tenant) => connection.begin_within(tenant).await?,
        None => connection.begin().await?,
    }
    if let Some(claim) = creation.claim
        && let Some(outcome) = earlier(&mut connection, claim).await?
    {
        connection.rollback().await?;
        return Ok(Some(outcome));
    }
    let inserted = match insert(&mut connection).await {
        Ok(true) => audit::write(&mut connection, creation.audit).await.map(|()| true),
        other => other,
    };
    match inserted {
        Ok(true) => {
            connection.commit().await?;
            Ok(Some(Outcome::Created))
        }
        Ok(false) => {
            connection.rollback().await?;
            Ok(None)
        }
        Err(failure) => {
            let taken = creation.conflict.filter(|(constraint, _)| failure.violated() == Some(constraint)).map(|(_, name)| name);
            // Best effort: a connection that cannot roll back is closed, which does the same.
            if let Err(e) = connection.rollback().await {
                tracing::debug!(error = ?e, "could not roll back");
            }
            Err(taken.map_or_else(|| failure.into_error(), Error::Conflict))
        }
    }
}

/// What a claim of a tenant's was answered before, if it was.
pub(super) async fn find(mut connection: Connection, tenant: TenantId, claim: &Claim) -> Result<Option<Outcome>> {
    let (owner, environment) = claim.scope.parts();
    let row = connection.query_opt_within(tenant, FIND, &[&owner, &environment, &claim.operation.code(), &claim.key]).await?;
    row.map(|row| outcome(&row, claim)).transpose()
}

/// What the record says to a claim on its key.
fn outcome(row: &Row, claim: &Claim) -> Result<Outcome> {
    if get::<&[u8]>(row, "fingerprint")? != claim.fingerprint.as_slice() {
        return Ok(Outcome::KeyReused);
    }
    let response: Option<String> = get(row, "response")?;
    response.map(Outcome::Replayed).ok_or_else(|| Error::internal("a record without a response"))
}

/// Takes the key, or tells what it was used for.
async fn earlier(connection: &mut Connection, claim: &Claim) -> Result<Option<Outcome>> {
    let (owner, environment) = claim.scope.parts();
    let operation = claim.operation.code();
    let (fingerprint, expires_at) = (claim.fingerprint.as_slice(), claim.expires_at.millis());
    // A record that is purged between the two statements leaves the key free again: take it then.
    for _ in 0..3 {
        let taken =
            connection.execute(INSERT, &[&owner, &environment, &operation, &claim.key, &fingerprint, &claim.response, &expires_at]).await?;
        if taken == 1 {
            return Ok(None);
        }
        if let Some(row) = connection.query_opt(FIND, &[&owner, &environment, &operation, &claim.key]).await? {
            return outcome(&row, claim).map(Some);
        }
    }
    Err(Error::Unavailable("an idempotency record came and went".into()))
}
