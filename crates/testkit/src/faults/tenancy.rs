//! Tenants, their members, audit logs, usage and limits, through the store that fails on demand.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use raven_core::{Day, Environment, InvitationId, Seq, TenantId, Timestamp, UserId, permission::Role};
use raven_store::{
    Answered, AuditRecord, Audits, InvitationRecord, Limits, MemberChange, MemberRecord, Members, NewInvitation, NewTenant, Outcome, Reply,
    Result, StateChange, StateChanged, TakeTokens, Taken, TenantChange, TenantMember, TenantRecord, Tenants, Usage, Usages,
};

use super::{FaultyStore, Verb};

#[async_trait]
impl Tenants for FaultyStore {
    async fn create_tenant(&self, new: NewTenant) -> Result<Outcome> {
        self.inner.create_tenant(new).await
    }

    async fn find_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>> {
        self.faults.around(Verb::FindTenant, self.inner.find_tenant(id)).await
    }

    async fn find_tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRecord>> {
        self.inner.find_tenant_by_slug(slug).await
    }

    async fn find_membership(&self, user: UserId, slug: &str) -> Result<Option<MemberRecord>> {
        self.inner.find_membership(user, slug).await
    }

    async fn list_memberships(&self, user: UserId, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<MemberRecord>> {
        self.inner.list_memberships(user, before, limit).await
    }

    async fn update_tenant(&self, id: TenantId, change: TenantChange, audit: AuditRecord) -> Result<Option<TenantRecord>> {
        self.inner.update_tenant(id, change, audit).await
    }

    async fn change_state(&self, id: TenantId, change: StateChange, audit: AuditRecord) -> Result<Option<StateChanged>> {
        self.inner.change_state(id, change, audit).await
    }

    async fn list_archived(&self, before: Timestamp, limit: usize) -> Result<Vec<TenantId>> {
        self.inner.list_archived(before, limit).await
    }

    async fn purge_tenant(&self, id: TenantId, rows: usize) -> Result<bool> {
        self.inner.purge_tenant(id, rows).await
    }

    async fn list_tenants(&self, before: Option<(Timestamp, TenantId)>, limit: usize) -> Result<Vec<TenantRecord>> {
        self.inner.list_tenants(before, limit).await
    }
}

#[async_trait]
impl Members for FaultyStore {
    async fn list_members(&self, tenant: TenantId, before: Option<(Timestamp, UserId)>, limit: usize) -> Result<Vec<TenantMember>> {
        self.inner.list_members(tenant, before, limit).await
    }

    async fn find_member(&self, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>> {
        self.inner.find_member(tenant, user).await
    }

    async fn set_member_role(&self, tenant: TenantId, user: UserId, role: Role, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        self.inner.set_member_role(tenant, user, role, actor, audit).await
    }

    async fn remove_member(&self, tenant: TenantId, user: UserId, actor: Role, audit: AuditRecord) -> Result<MemberChange> {
        self.inner.remove_member(tenant, user, actor, audit).await
    }

    async fn transfer_ownership(&self, tenant: TenantId, from: UserId, to: UserId, audit: AuditRecord) -> Result<MemberChange> {
        self.inner.transfer_ownership(tenant, from, to, audit).await
    }

    async fn create_invitation(&self, new: NewInvitation) -> Result<Outcome> {
        self.inner.create_invitation(new).await
    }

    async fn list_invitations(
        &self,
        tenant: TenantId,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<InvitationRecord>> {
        self.inner.list_invitations(tenant, before, limit).await
    }

    async fn find_invitation(&self, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>> {
        self.inner.find_invitation(tenant, id).await
    }

    async fn list_invitations_of(
        &self,
        email: &str,
        now: Timestamp,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<(InvitationRecord, TenantRecord)>> {
        self.inner.list_invitations_of(email, now, before, limit).await
    }

    async fn find_invitation_of(&self, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>> {
        self.inner.find_invitation_of(email, id).await
    }

    async fn answer_invitation(&self, id: InvitationId, email: &str, reply: Reply, now: Timestamp, audit: AuditRecord) -> Result<Answered> {
        self.inner.answer_invitation(id, email, reply, now, audit).await
    }

    async fn revoke_invitation(&self, tenant: TenantId, id: InvitationId, audit: AuditRecord) -> Result<bool> {
        self.inner.revoke_invitation(tenant, id, audit).await
    }
}

#[async_trait]
impl Audits for FaultyStore {
    async fn list_audit(&self, tenant: TenantId, before: Option<Seq>, limit: usize) -> Result<Vec<AuditRecord>> {
        self.inner.list_audit(tenant, before, limit).await
    }
}

#[async_trait]
impl Usages for FaultyStore {
    async fn usage(&self, tenant: TenantId, environment: Option<Environment>, days: RangeInclusive<Day>) -> Result<Usage> {
        self.inner.usage(tenant, environment, days).await
    }

    async fn quota_used(&self, tenant: TenantId, day: Day) -> Result<i64> {
        self.inner.quota_used(tenant, day).await
    }

    async fn purge_counters(&self, day: Day, limit: usize) -> Result<usize> {
        self.inner.purge_counters(day, limit).await
    }
}

#[async_trait]
impl Limits for FaultyStore {
    async fn take_tokens(&self, request: TakeTokens) -> Result<Taken> {
        self.inner.take_tokens(request).await
    }
}
