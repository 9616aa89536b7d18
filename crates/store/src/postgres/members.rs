//! Members of a tenant. Whoever changes them holds the tenant's row, so that two changes at once can't take the last owner
//! away. Invitations are in [`super::invitations`].

use async_trait::async_trait;
use raven_core::{InvitationId, TenantId, Timestamp, UserId, permission::Role};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore, audit,
    connection::Connection,
    invitations,
    rows::{self, below, get, limit as limit_of, time},
};
use crate::{
    Answered, AuditRecord, InvitationRecord, MemberChange, Members, NewInvitation, Outcome, Reply, Result, TenantMember, TenantRecord,
    UserProfile,
};

macro_rules! member_columns {
    () => {
        "m.user_id, m.role, m.created_at, u.email, u.name, u.avatar_url"
    };
}

const LIST: &str = concat!(
    "SELECT ",
    member_columns!(),
    " FROM members m JOIN users u ON u.id = m.user_id WHERE m.tenant_id = $1 AND (m.created_at, m.user_id) < ($2, $3) \
     ORDER BY m.created_at DESC, m.user_id DESC LIMIT $4"
);
const FIND: &str =
    concat!("SELECT ", member_columns!(), " FROM members m JOIN users u ON u.id = m.user_id WHERE m.tenant_id = $1 AND m.user_id = $2");
const LOCK: &str = "SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE";
const OWNERS: &str = "SELECT count(*) AS owners FROM members WHERE tenant_id = $1 AND role = 4";
const SET_ROLE: &str = "UPDATE members SET role = $3 WHERE tenant_id = $1 AND user_id = $2";
const REMOVE: &str = "DELETE FROM members WHERE tenant_id = $1 AND user_id = $2";

const _: () = assert!(Role::Owner.code() == 4);

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[LIST, FIND, LOCK, OWNERS, SET_ROLE, REMOVE];

fn member(row: &Row) -> Result<TenantMember> {
    let id = UserId(get(row, "user_id")?);
    Ok(TenantMember {
        user: UserProfile { id, email: get(row, "email")?, name: get(row, "name")?, avatar_url: get(row, "avatar_url")? },
        role: rows::role(row)?,
        joined_at: time(row, "created_at")?,
    })
}

async fn find(connection: &mut Connection, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>> {
    connection.query_opt(FIND, &[&tenant.0, &user.0]).await?.as_ref().map(member).transpose()
}

async fn set_role(connection: &mut Connection, tenant: TenantId, user: UserId, role: Role) -> Result<()> {
    connection.execute(SET_ROLE, &[&tenant.0, &user.0, &role.code()]).await?;
    Ok(())
}

/// Ends a transaction: with the audit log's record if something was changed, else without a trace.
async fn end(mut connection: Connection, change: MemberChange, noted: Option<&AuditRecord>) -> Result<MemberChange> {
    match noted {
        Some(record) => {
            audit::write(&mut connection, record).await?;
            connection.commit().await?;
        }
        None => connection.rollback().await?,
    }
    Ok(change)
}

/// A role to have, or none any more.
async fn change(
    store: &PostgresStore,
    tenant: TenantId,
    user: UserId,
    to: Option<Role>,
    actor: Role,
    audit: AuditRecord,
) -> Result<MemberChange> {
    let mut connection = store.connection().await?;
    connection.begin_within(tenant).await?;
    connection.query(LOCK, &[&tenant.0]).await?;
    let Some(member) = find(&mut connection, tenant, user).await? else {
        return end(connection, MemberChange::Missing, None).await;
    };
    if member.role > actor || to.is_some_and(|role| role > actor) {
        return end(connection, MemberChange::AboveActor, None).await;
    }
    if to == Some(member.role) {
        return end(connection, MemberChange::Done(member), None).await;
    }
    if member.role == Role::Owner {
        let owners = connection.query_opt(OWNERS, &[&tenant.0]).await?;
        if owners.map_or(Ok(0), |row| get::<i64>(&row, "owners"))? < 2 {
            return end(connection, MemberChange::LastOwner, None).await;
        }
    }
    match to {
        Some(role) => set_role(&mut connection, tenant, user, role).await?,
        None => {
            connection.execute(REMOVE, &[&tenant.0, &user.0]).await?;
        }
    }
    end(connection, MemberChange::Done(member), Some(&audit)).await
}

#[async_trait]
impl Members for PostgresStore {
    async fn list_members(&self, tenant: TenantId, before: Option<(Timestamp, UserId)>, limit: usize) -> Result<Vec<TenantMember>> {
        let (joined_at, id): (i64, Uuid) = below(before.map(|(at, id)| (at, id.0)));
        let rows = self.connection().await?.query_within(tenant, LIST, &[&tenant.0, &joined_at, &id, &limit_of(limit)]).await?;
        rows.iter().map(member).collect()
    }

    async fn find_member(&self, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>> {
        self.connection().await?.query_opt_within(tenant, FIND, &[&tenant.0, &user.0]).await?.as_ref().map(member).transpose()
    }

    async fn set_member_role(&self, tenant: TenantId, user: UserId, role: Role, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        change(self, tenant, user, Some(role), actor, audit).await
    }

    async fn remove_member(&self, tenant: TenantId, user: UserId, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        change(self, tenant, user, None, actor, audit).await
    }

    async fn transfer_ownership(&self, tenant: TenantId, from: UserId, to: UserId, audit: AuditRecord) -> Result<MemberChange> {
        let mut connection = self.connection().await?;
        connection.begin_within(tenant).await?;
        connection.query(LOCK, &[&tenant.0]).await?;
        let Some(member) = find(&mut connection, tenant, to).await? else {
            return end(connection, MemberChange::Missing, None).await;
        };
        let owner = find(&mut connection, tenant, from).await?;
        if owner.is_none_or(|owner| owner.role != Role::Owner) {
            return end(connection, MemberChange::AboveActor, None).await;
        }
        if from == to {
            return end(connection, MemberChange::Done(member), None).await;
        }
        set_role(&mut connection, tenant, to, Role::Owner).await?;
        set_role(&mut connection, tenant, from, Role::Admin).await?;
        end(connection, MemberChange::Done(member), Some(&audit)).await
    }

    async fn create_invitation(&self, new: NewInvitation) -> Result<Outcome> {
        invitations::create(self, &new).await
    }

    async fn list_invitations(
        &self,
        tenant: TenantId,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<InvitationRecord>> {
        invitations::list(self, tenant, before, limit).await
    }

    async fn find_invitation(&self, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>> {
        invitations::find(self, tenant, id).await
    }

    async fn list_invitations_of(
        &self,
        email: &str,
        now: Timestamp,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<(InvitationRecord, TenantRecord)>> {
        invitations::list_of(self, email, now, before, limit).await
    }

    async fn find_invitation_of(&self, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>> {
        invitations::find_of(self, email, id).await
    }

    async fn answer_invitation(&self, id: InvitationId, email: &str, reply: Reply, now: Timestamp, audit: AuditRecord) -> Result<Answered> {
        invitations::answer(self, id, email, reply, now, &audit).await
    }

    async fn revoke_invitation(&self, tenant: TenantId, id: InvitationId, audit: AuditRecord) -> Result<bool> {
        invitations::revoke(self, tenant, id, &audit).await
    }
}
