//! Members in SQLite. Invitations are in [`super::invitations`].

use async_trait::async_trait;
use raven_core::{InvitationId, TenantId, Timestamp, UserId, permission::Role};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, audit, invitations,
    rows::{Id, code, id, limit, position, time},
};
use crate::{
    Answered, AuditRecord, InvitationRecord, MemberChange, Members, NewInvitation, Outcome, Reply, Result, TenantMember, TenantRecord,
    UserProfile,
};

pub(super) const STATEMENTS: &[&str] = &[UPSERT_USER, INSERT, FIND, LIST, OTHER_OWNER, SET_ROLE, DELETE];

const UPSERT_USER: &str = "INSERT INTO users (id, email, name, avatar_url) VALUES (?1, ?2, ?3, ?4)
  ON CONFLICT (id) DO UPDATE SET email = excluded.email, name = excluded.name, avatar_url = excluded.avatar_url";
const INSERT: &str = "INSERT INTO members (user_id, tenant_id, role, created_at) VALUES (?1, ?2, ?3, ?4)";
const FIND: &str = "SELECT u.id, u.email, u.name, u.avatar_url, m.role, m.created_at
  FROM members m JOIN users u ON u.id = m.user_id WHERE m.user_id = ?2 AND m.tenant_id = ?1";
const LIST: &str = "SELECT u.id, u.email, u.name, u.avatar_url, m.role, m.created_at
  FROM members m JOIN users u ON u.id = m.user_id WHERE m.tenant_id = ?1 AND (m.created_at, m.user_id) < (?2, ?3)
  ORDER BY m.created_at DESC, m.user_id DESC LIMIT ?4";
const OTHER_OWNER: &str = "SELECT 1 FROM members WHERE tenant_id = ?1 AND role = ?3 AND user_id <> ?2 LIMIT 1";
const SET_ROLE: &str = "UPDATE members SET role = ?3 WHERE tenant_id = ?1 AND user_id = ?2";
const DELETE: &str = "DELETE FROM members WHERE tenant_id = ?1 AND user_id = ?2";

fn member(row: &Row<'_>) -> rusqlite::Result<TenantMember> {
    Ok(TenantMember {
        user: UserProfile { id: UserId(id(row, 0)?), email: row.get(1)?, name: row.get(2)?, avatar_url: row.get(3)? },
        role: code(row, 4, Role::from_code)?,
        joined_at: time(row, 5)?,
    })
}

/// Makes a human, whose profile is stored or refreshed, a member.
pub(super) fn join(c: &Connection, tenant: TenantId, user: &UserProfile, role: Role, now: Timestamp) -> Result<()> {
    c.prepare_cached(UPSERT_USER)?.execute(params![Id(user.id.0), user.email, user.name, user.avatar_url])?;
    c.prepare_cached(INSERT)?.execute(params![Id(user.id.0), Id(tenant.0), role.code(), now.millis()])?;
    Ok(())
}

/// The tenant's member with this user id.
pub(super) fn find(c: &Connection, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>> {
    Ok(c.prepare_cached(FIND)?.query_row([Id(tenant.0), Id(user.0)], member).optional()?)
}

/// Is the member the only owner?
fn is_last_owner(c: &Connection, tenant: TenantId, member: &TenantMember) -> Result<bool> {
    if member.role != Role::Owner {
        return Ok(false);
    }
    let values = params![Id(tenant.0), Id(member.user.id.0), Role::Owner.code()];
    Ok(!c.prepare_cached(OTHER_OWNER)?.exists(values)?)
}

fn set_role(c: &Connection, tenant: TenantId, user: UserId, role: Role) -> Result<()> {
    c.prepare_cached(SET_ROLE)?.execute(params![Id(tenant.0), Id(user.0), role.code()])?;
    Ok(())
}

fn change_role(c: &Connection, tenant: TenantId, user: UserId, role: Role, actor: Role, line: &AuditRecord) -> Result<MemberChange> {
    let Some(before) = find(c, tenant, user)? else { return Ok(MemberChange::Missing) };
    if before.role.max(role) > actor {
        return Ok(MemberChange::AboveActor);
    }
    if before.role == role {
        return Ok(MemberChange::Done(before));
    }
    if is_last_owner(c, tenant, &before)? {
        return Ok(MemberChange::LastOwner);
    }
    set_role(c, tenant, user, role)?;
    audit::record(c, line)?;
    Ok(MemberChange::Done(before))
}

fn remove(c: &Connection, tenant: TenantId, user: UserId, actor: Role, line: &AuditRecord) -> Result<MemberChange> {
    let Some(before) = find(c, tenant, user)? else { return Ok(MemberChange::Missing) };
    if before.role > actor {
        return Ok(MemberChange::AboveActor);
    }
    if is_last_owner(c, tenant, &before)? {
        return Ok(MemberChange::LastOwner);
    }
    c.prepare_cached(DELETE)?.execute([Id(tenant.0), Id(user.0)])?;
    audit::record(c, line)?;
    Ok(MemberChange::Done(before))
}

fn transfer(c: &Connection, tenant: TenantId, from: UserId, to: UserId, line: &AuditRecord) -> Result<MemberChange> {
    let Some(heir) = find(c, tenant, to)? else { return Ok(MemberChange::Missing) };
    if find(c, tenant, from)?.is_none_or(|owner| owner.role != Role::Owner) {
        return Ok(MemberChange::AboveActor);
    }
    if from == to {
        return Ok(MemberChange::Done(heir));
    }
    set_role(c, tenant, from, Role::Admin)?;
    set_role(c, tenant, to, Role::Owner)?;
    audit::record(c, line)?;
    Ok(MemberChange::Done(heir))
}

#[async_trait]
impl Members for SqliteStore {
    async fn list_members(&self, tenant: TenantId, before: Option<(Timestamp, UserId)>, rows: usize) -> Result<Vec<TenantMember>> {
        let (at, after) = position(before.map(|(at, id)| (at, id.0)));
        self.read(move |c| {
            let mut select = c.prepare_cached(LIST)?;
            Ok(select.query_map(params![Id(tenant.0), at, after, limit(rows)], member)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn find_member(&self, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>> {
        self.read(move |c| find(c, tenant, user)).await
    }

    async fn set_member_role(&self, tenant: TenantId, user: UserId, role: Role, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        self.write(move |c| change_role(c, tenant, user, role, actor, &audit)).await
    }

    async fn remove_member(&self, tenant: TenantId, user: UserId, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        self.write(move |c| remove(c, tenant, user, actor, &audit)).await
    }

    async fn transfer_ownership(&self, tenant: TenantId, from: UserId, to: UserId, audit: AuditRecord) -> Result<MemberChange> {
        self.write(move |c| transfer(c, tenant, from, to, &audit)).await
    }

    async fn create_invitation(&self, new: NewInvitation) -> Result<Outcome> {
        self.write(move |c| invitations::create(c, &new)).await
    }

    async fn list_invitations(
        &self,
        tenant: TenantId,
        before: Option<(Timestamp, InvitationId)>,
        rows: usize,
    ) -> Result<Vec<InvitationRecord>> {
        self.read(move |c| invitations::list(c, tenant, before, rows)).await
    }

    async fn find_invitation(&self, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>> {
        self.read(move |c| invitations::find(c, tenant, id)).await
    }

    async fn list_invitations_of(
        &self,
        email: &str,
        now: Timestamp,
        before: Option<(Timestamp, InvitationId)>,
        rows: usize,
    ) -> Result<Vec<(InvitationRecord, TenantRecord)>> {
        let email = email.to_owned();
        self.read(move |c| invitations::list_of(c, &email, now, before, rows)).await
    }

    async fn find_invitation_of(&self, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>> {
        let email = email.to_owned();
        self.read(move |c| invitations::find_of(c, &email, id)).await
    }

    async fn answer_invitation(&self, id: InvitationId, email: &str, reply: Reply, now: Timestamp, audit: AuditRecord) -> Result<Answered> {
        let email = email.to_owned();
        self.write(move |c| invitations::answer(c, id, &email, &reply, now, &audit)).await
    }

    async fn revoke_invitation(&self, tenant: TenantId, id: InvitationId, audit: AuditRecord) -> Result<bool> {
        self.write(move |c| invitations::revoke(c, tenant, id, &audit)).await
    }
}
