//! Invitations to a tenant: made and taken back with the tenant's rights, found and answered by whoever has the address.

use raven_core::{
    InvitationId, TenantId, Timestamp,
    tenant::{InvitationStatus, TenantStatus},
};
use tokio_postgres::Row;

use super::{
    PostgresStore, audit,
    connection::{Connection, Param},
    idempotency,
    rows::{self, below, code, get, limit as limit_of, tenant_columns, time},
    tenants,
};
use crate::{Answered, AuditRecord, InvitationRecord, NewInvitation, Outcome, Reply, Result, TenantRecord};

macro_rules! invitation_columns {
    () => {
        "i.id, i.tenant_id, i.email, i.role, i.status, i.invited_by, i.created_at, i.expires_at"
    };
}

// One that nobody answered in time would keep the address from being invited again.
const CLOSE_EXPIRED: &str = "UPDATE invitations SET status = 5 WHERE tenant_id = $1 AND email = $2 AND status = 1 AND expires_at <= $3";
const INSERT: &str = "INSERT INTO invitations (id, tenant_id, email, role, status, invited_by, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const LIST: &str = concat!(
    "SELECT ",
    invitation_columns!(),
    " FROM invitations i WHERE i.tenant_id = $1 AND (i.created_at, i.id) < ($2, $3) ORDER BY i.created_at DESC, i.id DESC LIMIT $4"
);
const FIND: &str = concat!("SELECT ", invitation_columns!(), " FROM invitations i WHERE i.id = $1 AND i.tenant_id = $2");
const LIST_OF: &str = concat!(
    "SELECT ",
    invitation_columns!(),
    ", ",
    tenant_columns!(),
    " FROM invitations i JOIN tenants t ON t.id = i.tenant_id WHERE i.email = $1 AND i.status = 1 AND i.expires_at > $2 AND t.status = 1 \
     AND (i.created_at, i.id) < ($3, $4) ORDER BY i.created_at DESC, i.id DESC LIMIT $5"
);
const FIND_OF: &str = concat!(
    "SELECT ",
    invitation_columns!(),
    ", ",
    tenant_columns!(),
    " FROM invitations i JOIN tenants t ON t.id = i.tenant_id WHERE i.id = $1 AND i.email = $2"
);
// Two answers at once meet here: the second one sees what the first one did.
const LOCK: &str = concat!(
    "SELECT ",
    invitation_columns!(),
    ", t.status AS tenant_status FROM invitations i JOIN tenants t ON t.id = i.tenant_id WHERE i.id = $1 AND i.email = $2 FOR UPDATE OF i"
);
const JOIN: &str =
    "INSERT INTO members (user_id, tenant_id, role, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, tenant_id) DO NOTHING";
const CLOSE: &str = "UPDATE invitations SET status = $2 WHERE id = $1";
// A line in the audit log for what was revoked: their number is the number of invitations revoked.
const REVOKE: &str = "WITH revoked AS (UPDATE invitations SET status = 4 WHERE id = $1 AND tenant_id = $2 AND status = 1 RETURNING tenant_id) \
     INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $3, $4 FROM revoked";

const _: () = {
    assert!(InvitationStatus::Pending.code() == 1 && InvitationStatus::Revoked.code() == 4 && InvitationStatus::Expired.code() == 5);
    assert!(TenantStatus::Active.code() == 1);
};

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[CLOSE_EXPIRED, INSERT, LIST, FIND, LIST_OF, FIND_OF, LOCK, JOIN, CLOSE, REVOKE];

fn invitation(row: &Row) -> Result<InvitationRecord> {
    Ok(InvitationRecord {
        id: InvitationId(get(row, "id")?),
        tenant: TenantId(get(row, "tenant_id")?),
        email: get(row, "email")?,
        role: rows::role(row)?,
        status: code(row, "status", InvitationStatus::from_code)?,
        invited_by: get(row, "invited_by")?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
    })
}

fn with_tenant(row: &Row) -> Result<(InvitationRecord, TenantRecord)> {
    Ok((invitation(row)?, rows::tenant(row)?))
}

/// See [`Members::create_invitation`](crate::Members::create_invitation).
pub(super) async fn create(store: &PostgresStore, new: &NewInvitation) -> Result<Outcome> {
    let NewInvitation { record: i, claim, audit } = new;
    let conflict = Some(("invitations_pending", "invitation"));
    let creation = idempotency::Creation { within: Some(i.tenant), claim: claim.as_ref(), conflict, audit };
    idempotency::create(store.connection().await?, creation, async |connection| {
        let created_at = i.created_at.millis();
        connection.execute(CLOSE_EXPIRED, &[&i.tenant.0, &i.email, &created_at]).await?;
        let params: [Param<'_>; 8] =
            [&i.id.0, &i.tenant.0, &i.email, &i.role.code(), &i.status.code(), &i.invited_by, &created_at, &i.expires_at.millis()];
        connection.execute(INSERT, &params).await?;
        Ok(())
    })
    .await
}

/// See [`Members::list_invitations`](crate::Members::list_invitations).
pub(super) async fn list(
    store: &PostgresStore,
    tenant: TenantId,
    before: Option<(Timestamp, InvitationId)>,
    limit: usize,
) -> Result<Vec<InvitationRecord>> {
    let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
    let rows = store.connection().await?.query_within(tenant, LIST, &[&tenant.0, &created_at, &id, &limit_of(limit)]).await?;
    rows.iter().map(invitation).collect()
}

/// See [`Members::find_invitation`](crate::Members::find_invitation).
pub(super) async fn find(store: &PostgresStore, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>> {
    store.connection().await?.query_opt_within(tenant, FIND, &[&id.0, &tenant.0]).await?.as_ref().map(invitation).transpose()
}

/// See [`Members::list_invitations_of`](crate::Members::list_invitations_of).
pub(super) async fn list_of(
    store: &PostgresStore,
    email: &str,
    now: Timestamp,
    before: Option<(Timestamp, InvitationId)>,
    limit: usize,
) -> Result<Vec<(InvitationRecord, TenantRecord)>> {
    let (created_at, id) = below(before.map(|(at, id)| (at, id.0)));
    let rows = store.connection().await?.query(LIST_OF, &[&email, &now.millis(), &created_at, &id, &limit_of(limit)]).await?;
    rows.iter().map(with_tenant).collect()
}

/// See [`Members::find_invitation_of`](crate::Members::find_invitation_of).
pub(super) async fn find_of(store: &PostgresStore, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>> {
    store.connection().await?.query_opt(FIND_OF, &[&id.0, &email]).await?.as_ref().map(with_tenant).transpose()
}

/// See [`Members::answer_invitation`](crate::Members::answer_invitation).
pub(super) async fn answer(
    store: &PostgresStore,
    id: InvitationId,
    email: &str,
    reply: Reply,
    now: Timestamp,
    audit: &AuditRecord,
) -> Result<Answered> {
    let mut connection = store.connection().await?;
    connection.begin().await?;
    let answered = answer_locked(&mut connection, id, email, &reply, now).await?;
    if answered == Answered::Done {
        audit::write(&mut connection, audit).await?;
        connection.commit().await?;
    } else {
        connection.rollback().await?;
    }
    Ok(answered)
}

async fn answer_locked(connection: &mut Connection, id: InvitationId, email: &str, reply: &Reply, now: Timestamp) -> Result<Answered> {
    let Some(row) = connection.query_opt(LOCK, &[&id.0, &email]).await? else { return Ok(Answered::Missing) };
    let invitation = invitation(&row)?;
    match invitation.status {
        InvitationStatus::Pending if invitation.expires_at > now => {}
        InvitationStatus::Pending | InvitationStatus::Expired => return Ok(Answered::Expired),
        closed => return Ok(Answered::Closed(closed)),
    }
    if code(&row, "tenant_status", TenantStatus::from_code)? != TenantStatus::Active {
        return Ok(Answered::TenantRefused);
    }
    let status = match reply {
        Reply::Decline => InvitationStatus::Declined,
        Reply::Accept(user) => {
            tenants::remember(connection, user).await?;
            let joined = connection.execute(JOIN, &[&user.id.0, &invitation.tenant.0, &invitation.role.code(), &now.millis()]).await?;
            if joined == 0 {
                return Ok(Answered::AlreadyMember);
            }
            InvitationStatus::Accepted
        }
    };
    connection.execute(CLOSE, &[&id.0, &status.code()]).await?;
    Ok(Answered::Done)
}

/// See [`Members::revoke_invitation`](crate::Members::revoke_invitation).
pub(super) async fn revoke(store: &PostgresStore, tenant: TenantId, id: InvitationId, audit: &AuditRecord) -> Result<bool> {
    let params: [Param<'_>; 4] = [&id.0, &tenant.0, &audit.seq.0, &audit.entry];
    Ok(store.connection().await?.execute_within(tenant, REVOKE, &params).await? == 1)
}
