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
    if let Some(outcome) = earlier(c, claim)? {
        return Ok(outcome);
    }
    create()?;
    store(c, claim)?;
    Ok(Outcome::Created)
}

/// What an earlier use of the key answers, if there was one.
pub(super) fn earlier(c: &Connection, claim: Option<&Claim>) -> Result<Option<Outcome>> {
    let Some(claim) = claim else { return Ok(None) };
    let (owner, environment) = claim.scope.parts();
    let found = c
        .prepare_cached(FIND)?
        .query_row(params![Id(owner), environment, claim.operation.code(), claim.key], |r| {
            Ok((r.get::<_, [u8; 16]>(0)?, r.get::<_, Option<String>>(1)?))
        })
        .optional()?;
    Ok(found.map(
        |(fingerprint, response)| {
            if fingerprint == claim.fingerprint { Outcome::Replayed(response.unwrap_or_default()) } else { Outcome::KeyReused }
        },
    ))
}

/// Uses the key up.
pub(super) fn store(c: &Connection, claim: Option<&Claim>) -> Result<()> {
    let Some(claim) = claim else { return Ok(()) };
    let (owner, environment) = claim.scope.parts();
    let operation = claim.operation.code();
    let values = params![Id(owner), environment, operation, claim.key, claim.fingerprint, claim.response, claim.expires_at.millis()];
    c.prepare_cached(INSERT)?.execute(values)?;
    Ok(())
}
