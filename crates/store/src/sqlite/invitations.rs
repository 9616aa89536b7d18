//! Invitations in SQLite: the statements behind the verbs of [`Members`](crate::Members) that are about them.

use raven_core::{
    InvitationId, TenantId, Timestamp,
    permission::Role,
    tenant::{InvitationStatus, TenantStatus},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    audit, idempotency, members,
    rows::{Id, code, id, limit, position, time},
    tenants,
};
use crate::{Answered, AuditRecord, Error, InvitationRecord, NewInvitation, Outcome, Reply, Result, TenantRecord};

pub(super) const STATEMENTS: &[&str] = &[CLOSE_EXPIRED, INSERT, FIND, LIST, FIND_OF, LIST_OF, SET_STATUS, REVOKE];

// Status 1 is pending, written out so that the index of pending ones serves.
const CLOSE_EXPIRED: &str = "UPDATE invitations SET status = ?3 WHERE tenant_id = ?1 AND email = ?2 AND status = 1 AND expires_at <= ?4";
const INSERT: &str = "INSERT INTO invitations (id, tenant_id, email, role, status, invited_by, created_at, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (tenant_id, email) WHERE status = 1 DO NOTHING";
const FIND: &str = "SELECT id, tenant_id, email, role, status, invited_by, created_at, expires_at FROM invitations
  WHERE id = ?1 AND tenant_id = ?2";
const LIST: &str = "SELECT id, tenant_id, email, role, status, invited_by, created_at, expires_at FROM invitations
  WHERE tenant_id = ?1 AND (created_at, id) < (?2, ?3) ORDER BY created_at DESC, id DESC LIMIT ?4";
const FIND_OF: &str = "SELECT i.id, i.tenant_id, i.email, i.role, i.status, i.invited_by, i.created_at, i.expires_at,
    t.id, slug, name, t.status, plan, country_code, default_locale, default_tz, t.created_at, data_key, retry_unknown,
    suspended_by, archived_at
  FROM invitations i JOIN tenants t ON t.id = i.tenant_id WHERE i.id = ?1 AND i.email = ?2";
const LIST_OF: &str = "SELECT i.id, i.tenant_id, i.email, i.role, i.status, i.invited_by, i.created_at, i.expires_at,
    t.id, slug, name, t.status, plan, country_code, default_locale, default_tz, t.created_at, data_key, retry_unknown,
    suspended_by, archived_at
  FROM invitations i JOIN tenants t ON t.id = i.tenant_id
  WHERE i.email = ?1 AND i.status = 1 AND i.expires_at > ?2 AND t.status = ?3 AND (i.created_at, i.id) < (?4, ?5)
  ORDER BY i.created_at DESC, i.id DESC LIMIT ?6";
const SET_STATUS: &str = "UPDATE invitations SET status = ?2 WHERE id = ?1";
const REVOKE: &str = "UPDATE invitations SET status = ?3 WHERE id = ?1 AND tenant_id = ?2 AND status = 1";

const _: () = assert!(InvitationStatus::Pending.code() == 1);

fn invitation(row: &Row<'_>) -> rusqlite::Result<InvitationRecord> {
    Ok(InvitationRecord {
        id: InvitationId(id(row, 0)?),
        tenant: TenantId(id(row, 1)?),
        email: row.get(2)?,
        role: code(row, 3, Role::from_code)?,
        status: code(row, 4, InvitationStatus::from_code)?,
        invited_by: id(row, 5)?,
        created_at: time(row, 6)?,
        expires_at: time(row, 7)?,
    })
}

fn invitation_and_tenant(row: &Row<'_>) -> rusqlite::Result<(InvitationRecord, TenantRecord)> {
    Ok((invitation(row)?, tenants::tenant(row, 8)?))
}

/// Makes an invitation, once for its idempotency key.
pub(super) fn create(c: &Connection, new: &NewInvitation) -> Result<Outcome> {
    idempotency::once(c, new.claim.as_ref(), || {
        let i = &new.record;
        let expired = InvitationStatus::Expired.code();
        c.prepare_cached(CLOSE_EXPIRED)?.execute(params![Id(i.tenant.0), i.email, expired, i.created_at.millis()])?;
        let values = params![
            Id(i.id.0),
            Id(i.tenant.0),
            i.email,
            i.role.code(),
            i.status.code(),
            Id(i.invited_by),
            i.created_at.millis(),
            i.expires_at.millis(),
        ];
        if c.prepare_cached(INSERT)?.execute(values)? == 0 {
            return Err(Error::Conflict("invitation"));
        }
        audit::record(c, &new.audit)
    })
}

/// The tenant's invitation with this id.
pub(super) fn find(c: &Connection, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>> {
    Ok(c.prepare_cached(FIND)?.query_row([Id(id.0), Id(tenant.0)], invitation).optional()?)
}

/// A page of the tenant's invitations.
pub(super) fn list(
    c: &Connection,
    tenant: TenantId,
    before: Option<(Timestamp, InvitationId)>,
    rows: usize,
) -> Result<Vec<InvitationRecord>> {
    let (at, after) = position(before.map(|(at, id)| (at, id.0)));
    let mut select = c.prepare_cached(LIST)?;
    Ok(select.query_map(params![Id(tenant.0), at, after, limit(rows)], invitation)?.collect::<rusqlite::Result<_>>()?)
}

/// The invitation with this id, if it is one of this address.
pub(super) fn find_of(c: &Connection, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>> {
    Ok(c.prepare_cached(FIND_OF)?.query_row(params![Id(id.0), email], invitation_and_tenant).optional()?)
}

/// A page of the open invitations of an address.
pub(super) fn list_of(
    c: &Connection,
    email: &str,
    now: Timestamp,
    before: Option<(Timestamp, InvitationId)>,
    rows: usize,
) -> Result<Vec<(InvitationRecord, TenantRecord)>> {
    let (at, after) = position(before.map(|(at, id)| (at, id.0)));
    let mut select = c.prepare_cached(LIST_OF)?;
    let values = params![email, now.millis(), TenantStatus::Active.code(), at, after, limit(rows)];
    Ok(select.query_map(values, invitation_and_tenant)?.collect::<rusqlite::Result<_>>()?)
}

/// Lets the invited human answer.
pub(super) fn answer(c: &Connection, id: InvitationId, email: &str, reply: &Reply, now: Timestamp, line: &AuditRecord) -> Result<Answered> {
    let Some((invitation, tenant)) = find_of(c, email, id)? else { return Ok(Answered::Missing) };
    match invitation.status {
        InvitationStatus::Pending if invitation.expires_at > now => {}
        InvitationStatus::Pending | InvitationStatus::Expired => return Ok(Answered::Expired),
        closed => return Ok(Answered::Closed(closed)),
    }
    if tenant.status != TenantStatus::Active {
        return Ok(Answered::TenantRefused);
    }
    let status = match reply {
        Reply::Accept(user) if members::find(c, tenant.id, user.id)?.is_some() => return Ok(Answered::AlreadyMember),
        Reply::Accept(user) => {
            members::join(c, tenant.id, user, invitation.role, now)?;
            InvitationStatus::Accepted
        }
        Reply::Decline => InvitationStatus::Declined,
    };
    c.prepare_cached(SET_STATUS)?.execute(params![Id(id.0), status.code()])?;
    audit::record(c, line)?;
    Ok(Answered::Done)
}

/// Takes an open invitation back.
pub(super) fn revoke(c: &Connection, tenant: TenantId, id: InvitationId, line: &AuditRecord) -> Result<bool> {
    let revoked = c.prepare_cached(REVOKE)?.execute(params![Id(id.0), Id(tenant.0), InvitationStatus::Revoked.code()])? == 1;
    if revoked {
        audit::record(c, line)?;
    }
    Ok(revoked)
}
