//! Idempotency records of creations that store their answer. (Messages claim their keys in [`super::messages`].)

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::Id;
use crate::{Claim, Outcome, Result};

pub(super) const STATEMENTS: &[&str] = &[FIND, INSERT];

const FIND: &str = "SELECT fingerprint, response FROM idempotency WHERE owner_id = ?1 AND environment = ?2 AND operation = ?3 AND key = ?4";
const INSERT: &str = "INSERT INTO idempotency (owner_id, environment, operation, key, fingerprint, response, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// Creates with `create`, unless the key was used before: then that answer counts. Both are of one transaction, and when
/// `create` fails the key is not used up.
pub(super) fn once(c: &Connection, claim: Option<&Claim>, create: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    let Some(claim) = claim else {
        create()?;
        return Ok(Outcome::Created);
    };
    let (owner, environment) = claim.scope.parts();
    let (owner, operation) = (Id(owner), claim.operation.code());
    let found = c
        .prepare_cached(FIND)?
        .query_row(params![owner, environment, operation, claim.key], |r| Ok((r.get::<_, [u8; 16]>(0)?, r.get::<_, Option<String>>(1)?)))
        .optional()?;
    match found {
        Some((fingerprint, _)) if fingerprint != claim.fingerprint => Ok(Outcome::KeyReused),
        Some((_, response)) => Ok(Outcome::Replayed(response.unwrap_or_default())),
        None => {
            create()?;
            let values = params![owner, environment, operation, claim.key, claim.fingerprint, claim.response, claim.expires_at.millis()];
            c.prepare_cached(INSERT)?.execute(values)?;
            Ok(Outcome::Created)
        }
    }
}
