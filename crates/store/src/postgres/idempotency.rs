//! Idempotency of the verbs that create one resource: the record goes in first, so that a concurrent equal claim waits
//! for this transaction and then replays it.

use super::{
    connection::{Connection, Failure},
    rows::get,
};
use crate::{Claim, Error, Outcome, Result};

const INSERT: &str = "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, response, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (owner_id, environment, operation, key) DO NOTHING";
const FIND: &str = "SELECT fingerprint, response FROM idempotency WHERE owner_id = $1 AND environment = $2 AND operation = $3 AND key = $4";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND];

/// Creates in one transaction what `insert` inserts, and the record of the claim. `conflict` tells which violated
/// constraint is the caller's to answer for, and by which name.
pub(super) async fn create(
    mut connection: Connection,
    claim: Option<&Claim>,
    conflict: Option<(&str, &'static str)>,
    insert: impl AsyncFnOnce(&mut Connection) -> Result<(), Failure>,
) -> Result<Outcome> {
    connection.begin().await?;
    if let Some(claim) = claim
        && let Some(outcome) = earlier(&mut connection, claim).await?
    {
        connection.rollback().await?;
        return Ok(outcome);
    }
    match insert(&mut connection).await {
        Ok(()) => {
            connection.commit().await?;
            Ok(Outcome::Created)
        }
        Err(failure) => {
            let taken = conflict.filter(|(constraint, _)| failure.violated() == Some(constraint)).map(|(_, name)| name);
            // Best effort: a connection that cannot roll back is closed, which does the same.
            if let Err(e) = connection.rollback().await {
                tracing::debug!(error = ?e, "could not roll back");
            }
            Err(taken.map_or_else(|| failure.into_error(), Error::Conflict))
        }
    }
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
            if get::<&[u8]>(&row, "fingerprint")? != fingerprint {
                return Ok(Some(Outcome::KeyReused));
            }
            let response: Option<String> = get(&row, "response")?;
            return response.map(|body| Some(Outcome::Replayed(body))).ok_or_else(|| Error::internal("a record without a response"));
        }
    }
    Err(Error::Unavailable("an idempotency record came and went".into()))
}
