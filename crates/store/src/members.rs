//! Members of a tenant, and invitations to become one.

use async_trait::async_trait;
use raven_core::{InvitationId, TenantId, Timestamp, UserId, permission::Role, tenant::InvitationStatus};
use uuid::Uuid;

use crate::{AuditRecord, Claim, Outcome, Result, TenantRecord, UserProfile};

/// A human of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantMember {
    /// Who, as their token last said.
    pub user: UserProfile,
    /// What they may do.
    pub role: Role,
    /// Since when they belong.
    pub joined_at: Timestamp,
}

/// What became of a change to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Done; the member as they were before.
    Done(TenantMember),
    /// There is no such member.
    Missing,
    /// The member stands above who acts, or would.
    AboveActor,
    /// The tenant would be left without an owner.
    LastOwner,
}

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitationRecord {
    /// Its id.
    pub id: InvitationId,
    /// To join this tenant.
    pub tenant: TenantId,
    /// The invited address, in the form in which addresses are compared.
    pub email: String,
    /// The role to have.
    pub role: Role,
    /// What became of it. Stays `Pending` in the database when nobody answers in time: see `expires_at`.
    pub status: InvitationStatus,
    /// Id of the human or the key that invited.
    pub invited_by: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it can't be accepted any more.
    pub expires_at: Timestamp,
}

/// An invitation to make.
#[derive(Clone, Debug)]
pub struct NewInvitation {
    /// The invitation.
    pub record: InvitationRecord,
    /// The caller's idempotency key, if one was given.
    pub claim: Option<Claim>,
    /// What the audit log says.
    pub audit: AuditRecord,
}

/// The invited human's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// They join.
    Accept(UserProfile),
    /// They don't.
    Decline,
}

/// What became of an answer to an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Done.
    Done,
    /// There is no such invitation for this address.
    Missing,
    /// It was answered or revoked before.
    Closed(InvitationStatus),
    /// It is too old.
    Expired,
    /// The human belongs to the tenant already.
    AlreadyMember,
    /// The tenant is not active.
    TenantRefused,
}

/// Verbs about members and invitations.
#[async_trait]
pub trait Members: Send + Sync {
    /// The tenant's members, newest first by (joined, user id), from below `before` (exclusive) on.
    async fn list_members(&self, tenant: TenantId, before: Option<(Timestamp, UserId)>, limit: usize) -> Result<Vec<TenantMember>>;

    /// The tenant's member with this user id.
    async fn find_member(&self, tenant: TenantId, user: UserId) -> Result<Option<TenantMember>>;

    /// Gives a member another role. Neither their present role nor the new one may be above `actor`, and one owner stays.
    async fn set_member_role(&self, tenant: TenantId, user: UserId, role: Role, actor: Role, audit: AuditRecord) -> Result<MemberChange>;

    /// Removes a member, whose role must not be above `actor`; one owner stays.
    async fn remove_member(&self, tenant: TenantId, user: UserId, actor: Role, audit: AuditRecord) -> Result<MemberChange>;

    /// Makes the member `to` an owner, and the owner `from` an admin. `Done` holds `to` as they were; `Missing` when `to` is
    /// no member, `AboveActor` when `from` is no owner (any more).
    async fn transfer_ownership(&self, tenant: TenantId, from: UserId, to: UserId, audit: AuditRecord) -> Result<MemberChange>;

    /// Makes an invitation. One of the same address that has expired at `record.created_at` is closed first.
    ///
    /// # Errors
    /// [`Conflict("invitation")`](crate::Error::Conflict) when the address has an open one.
    async fn create_invitation(&self, new: NewInvitation) -> Result<Outcome>;

    /// The tenant's invitations, newest first by (created, id), from below `before` (exclusive) on.
    async fn list_invitations(
        &self,
        tenant: TenantId,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<InvitationRecord>>;

    /// The tenant's invitation with this id.
    async fn find_invitation(&self, tenant: TenantId, id: InvitationId) -> Result<Option<InvitationRecord>>;

    /// Open invitations of an address at `now`, of active tenants, newest first by (created, id), from below `before`
    /// (exclusive) on.
    async fn list_invitations_of(
        &self,
        email: &str,
        now: Timestamp,
        before: Option<(Timestamp, InvitationId)>,
        limit: usize,
    ) -> Result<Vec<(InvitationRecord, TenantRecord)>>;

    /// The invitation with this id, if it is one of this address, with its tenant.
    async fn find_invitation_of(&self, email: &str, id: InvitationId) -> Result<Option<(InvitationRecord, TenantRecord)>>;

    /// Answers an invitation: once, by whom it was sent to.
    async fn answer_invitation(&self, id: InvitationId, email: &str, reply: Reply, now: Timestamp, audit: AuditRecord) -> Result<Answered>;

    /// Takes an open invitation back; `false` when the tenant has no such open one.
    async fn revoke_invitation(&self, tenant: TenantId, id: InvitationId, audit: AuditRecord) -> Result<bool>;
}
