//! Invitations: sent to an address by an admin of a tenant, answered by the signed-in human with that verified address.

use std::{borrow::Cow, time::Duration};

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use raven_core::{Environment, InvitationId, TenantId, Timestamp, address::Email, tenant::InvitationStatus};
use raven_engine::audit::Entry;
use raven_store::{Answered, Error, InvitationRecord, NewInvitation, Operation, Reply, Scope, TenantRecord};
use serde::Serialize;
use uuid::Uuid;

use super::{AppState, answer, claim, fresh_id, me::MembershipView, members::read_role, text, value};
use crate::{
    App,
    body::Body,
    caller::{self, AsAdmin, Human, Session},
    codes,
    fields::request,
    idempotency,
    openapi::closed::{InvitationStatusName, RoleName},
    page::{self, Page, PageParameters},
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

/// How long an invitation is open.
const OPEN_FOR: Duration = Duration::from_secs(14 * 86_400);

request! {
    /// Whom to invite.
    pub struct InvitationRequest {
        /// The address that the human's token must name as verified.
        #[schema(required, format = "email", min_length = 3, max_length = 320, example = "ada@example.com")]
        email: Cow<'a, str> = "email",
        /// The role to have; not above your own.
        #[schema(required, value_type = RoleName)]
        role: Cow<'a, str> = "role",
        /// The same key with the same payload never invites twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

/// An invitation, as the tenant sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvitationView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: InvitationId,
    /// The invited address, in lower case.
    #[schema(format = "email")]
    pub email: String,
    /// The role to have.
    #[schema(value_type = RoleName)]
    pub role: &'static str,
    /// What became of it.
    #[schema(value_type = InvitationStatusName)]
    pub status: &'static str,
    /// Id of the human or the key that invited.
    pub invited_by: Uuid,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// From when it can't be accepted any more.
    #[schema(value_type = String, format = "date-time")]
    pub expires_at: Timestamp,
}

impl InvitationView {
    fn new(r: InvitationRecord, now: Timestamp) -> Self {
        let status = if r.status == InvitationStatus::Pending && now >= r.expires_at { InvitationStatus::Expired } else { r.status };
        Self {
            id: r.id,
            email: r.email,
            role: r.role.name(),
            status: status.name(),
            invited_by: r.invited_by,
            created_at: r.created_at,
            expires_at: r.expires_at,
        }
    }
}

/// An open invitation, as the invited human sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnInvitationView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: InvitationId,
    /// To join this tenant.
    #[schema(value_type = uuid::Uuid)]
    pub tenant_id: TenantId,
    /// Its slug.
    pub tenant_slug: String,
    /// Its name.
    pub tenant_name: String,
    /// The role to have.
    #[schema(value_type = RoleName)]
    pub role: &'static str,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// From when it can't be accepted any more.
    #[schema(value_type = String, format = "date-time")]
    pub expires_at: Timestamp,
}

impl From<(InvitationRecord, TenantRecord)> for OwnInvitationView {
    fn from((r, tenant): (InvitationRecord, TenantRecord)) -> Self {
        Self {
            id: r.id,
            tenant_id: tenant.id,
            tenant_slug: tenant.slug,
            tenant_name: tenant.name,
            role: r.role.name(),
            created_at: r.created_at,
            expires_at: r.expires_at,
        }
    }
}

/// Invite somebody by their email address. They find the invitation under `GET /v1/admin/invitations` when they sign in.
#[utoipa::path(post, path = "/v1/admin/members", tag = "members", request_body = InvitationRequest, responses((status = 201, body = InvitationView)))]
pub async fn create(session: Session<AsAdmin>, State(app): AppState, headers: HeaderMap, query: RawQuery, body: Body) -> Result<Response> {
    session.require_live()?;
    query.none()?;
    let mut fields = body.fields(InvitationRequest::FIELDS)?;
    let request = InvitationRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let (fingerprint, now) = (fields.fingerprint(), app.engine.clock.now());
    let email = match request.email.as_deref() {
        None => {
            fields.require("email", "is required");
            None
        }
        Some(email) => fields.check("email", Email::parse(email)).map(|email| email.comparable()),
    };
    let role = read_role(&mut fields, request.role.as_deref(), session.role)?;
    fields.finish()?;
    let (Some(email), Some(role)) = (email, role) else { return Err(Problem::of(codes::VALIDATION_FAILED)) };
    let record = InvitationRecord {
        id: InvitationId(fresh_id(&app)?),
        tenant: session.tenant_id(),
        email,
        role,
        status: InvitationStatus::Pending,
        invited_by: session.actor_id(),
        created_at: now,
        expires_at: now.after(OPEN_FOR),
    };
    let view = InvitationView::new(record.clone(), now);
    let created = text(&view)?;
    let mut entry = session.entry("invitation.create", record.id.0);
    entry.after = value(&view);
    let scope = Scope::Tenant(session.tenant_id(), Environment::Live);
    let claim = claim(&app, key, scope, Operation::CreateInvitation, fingerprint, now, &created);
    let audit = session.record(&app, &entry);
    match app.engine.store.create_invitation(NewInvitation { record, claim, audit }).await {
        Ok(outcome) => answer(outcome, created),
        Err(Error::Conflict(_)) => Err(Problem::of(codes::ALREADY_INVITED)),
        Err(e) => Err(e.into()),
    }
}

/// The tenant's invitations, newest first.
#[utoipa::path(get, path = "/v1/admin/members/invitations", tag = "members", params(PageParameters), responses((status = 200, body = Page<InvitationView>)))]
pub async fn list(session: Session<AsAdmin>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<InvitationView>>> {
    session.require_live()?;
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let scope = page::Scope::new("members/invitations", session.tenant_id().0);
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, InvitationId(id)));
    let rows = app.engine.store.list_invitations(session.tenant_id(), before, limit + 1).await?;
    let now = app.engine.clock.now();
    Ok(axum::Json(page::page(rows, limit, &scope, &app.engine.cursors, |i| (i.created_at, i.id.0), |i| InvitationView::new(i, now))))
}

/// Take an open invitation back.
#[utoipa::path(delete, path = "/v1/admin/members/invitations/{id}", tag = "members", params(("id" = uuid::Uuid, Path, description = "The invitation's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")))]
pub async fn revoke(session: Session<AsAdmin>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<StatusCode> {
    session.require_live()?;
    query.none()?;
    let not_found = || Problem::of(codes::NOT_FOUND);
    let id = InvitationId::parse(&id).ok_or_else(not_found)?;
    let found = app.engine.store.find_invitation(session.tenant_id(), id).await?.ok_or_else(not_found)?;
    let status = found.status;
    let mut entry = session.entry("invitation.revoke", id.0);
    entry.before = value(&InvitationView::new(found, app.engine.clock.now()));
    if app.engine.store.revoke_invitation(session.tenant_id(), id, session.record(&app, &entry)).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(closed(status))
    }
}

fn closed(status: InvitationStatus) -> Problem {
    Problem::new(codes::INVALID_STATE, format!("The invitation is {status}; for this it must be pending."))
}

/// The caller's open invitations, newest first. The token must say that the address is verified.
#[utoipa::path(get, path = "/v1/admin/invitations", tag = "members", params(PageParameters), responses((status = 200, body = Page<OwnInvitationView>)), security(("bearer" = [])))]
pub async fn list_own(human: Human, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<OwnInvitationView>>> {
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let email = human.verified_email()?;
    let scope = page::Scope::new("invitations", human.claims.sub.0).with("email", Some(&email));
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, InvitationId(id)));
    let rows = app.engine.store.list_invitations_of(&email, app.engine.clock.now(), before, limit + 1).await?;
    Ok(axum::Json(page::page(rows, limit, &scope, &app.engine.cursors, |(i, _)| (i.created_at, i.id.0), OwnInvitationView::from)))
}

/// Accept an invitation: the caller becomes a member of the tenant.
#[utoipa::path(post, path = "/v1/admin/invitations/{id}/accept", tag = "members", params(("id" = uuid::Uuid, Path, description = "The invitation's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 200, body = MembershipView)),
    security(("bearer" = [])))]
pub async fn accept(
    human: Human,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<MembershipView>> {
    query.none()?;
    body.fields(&[])?.finish()?;
    let (record, tenant, email) = own(&app, &human, &id).await?;
    let mut entry = human.entry("invitation.accept", record.id.0);
    entry.after = serde_json::json!({ "role": record.role });
    settle(&app, &record, &email, Reply::Accept(human.claims.profile()), &entry).await?;
    Ok(axum::Json(MembershipView {
        tenant_id: tenant.id,
        tenant_slug: tenant.slug,
        tenant_name: tenant.name,
        role: record.role.name(),
        status: tenant.status.name(),
    }))
}

/// Decline an invitation.
#[utoipa::path(post, path = "/v1/admin/invitations/{id}/decline", tag = "members", params(("id" = uuid::Uuid, Path, description = "The invitation's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")), security(("bearer" = [])))]
pub async fn decline(human: Human, State(app): AppState, PathId(id): PathId, query: RawQuery, body: Body) -> Result<StatusCode> {
    query.none()?;
    body.fields(&[])?.finish()?;
    let (record, _, email) = own(&app, &human, &id).await?;
    let entry = human.entry("invitation.decline", record.id.0);
    settle(&app, &record, &email, Reply::Decline, &entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn own(app: &App, human: &Human, id: &str) -> Result<(InvitationRecord, TenantRecord, String)> {
    let not_found = || Problem::of(codes::NOT_FOUND);
    let email = human.verified_email()?;
    let id = InvitationId::parse(id).ok_or_else(not_found)?;
    let (record, tenant) = app.engine.store.find_invitation_of(&email, id).await?.ok_or_else(not_found)?;
    Ok((record, tenant, email))
}

async fn settle(app: &App, record: &InvitationRecord, email: &str, reply: Reply, entry: &Entry) -> Result<()> {
    let (now, audit) = (app.engine.clock.now(), caller::record(app, record.tenant, entry));
    match app.engine.store.answer_invitation(record.id, email, reply, now, audit).await? {
        Answered::Done => Ok(()),
        Answered::Missing => Err(Problem::of(codes::NOT_FOUND)),
        Answered::Closed(status) => Err(closed(status)),
        Answered::Expired => Err(closed(InvitationStatus::Expired)),
        Answered::AlreadyMember => Err(Problem::of(codes::ALREADY_MEMBER)),
        Answered::TenantRefused => {
            let text = "The tenant is suspended or archived, and takes no members until an owner or the operator brings it back.";
            Err(Problem::new(codes::TENANT_SUSPENDED, text))
        }
    }
}
