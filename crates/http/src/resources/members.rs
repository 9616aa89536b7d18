//! The people of a tenant. (Who is to join is in [`super::invitations`].)

use std::borrow::Cow;

use axum::extract::State;
use http::StatusCode;
use raven_core::{Timestamp, UserId, permission::Role};
use raven_store::{MemberChange, TenantMember};
use serde::Serialize;

use super::{AppState, value};
use crate::{
    body::Body,
    caller::{Actor, AsAdmin, AsViewer, Session},
    codes,
    fields::{Fields, request},
    openapi::closed::RoleName,
    page::{self, Page, PageParameters},
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

request! {
    /// What to change of a member.
    pub struct MemberChangeRequest {
        /// The role to have; not above your own.
        #[schema(required, value_type = RoleName)]
        role: Cow<'a, str> = "role",
    }
}

/// A member of the tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    /// The human's id.
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// Their address, as their token last said.
    #[schema(format = "email")]
    pub email: String,
    /// Their name.
    #[schema(required)]
    pub name: Option<String>,
    /// Their picture.
    #[schema(required)]
    pub avatar_url: Option<String>,
    /// What they may do.
    #[schema(value_type = RoleName)]
    pub role: &'static str,
    /// Since when they belong.
    #[schema(value_type = String, format = "date-time")]
    pub joined_at: Timestamp,
}

impl From<TenantMember> for MemberView {
    fn from(m: TenantMember) -> Self {
        Self {
            user_id: m.user.id,
            email: m.user.email,
            name: m.user.name,
            avatar_url: m.user.avatar_url,
            role: m.role.name(),
            joined_at: m.joined_at,
        }
    }
}

/// Reads a role that somebody is to have, which must not be above `actor`.
///
/// # Errors
/// `insufficient_role`.
pub(super) fn read_role(fields: &mut Fields<'_>, role: Option<&str>, actor: Role) -> Result<Option<Role>> {
    let Some(name) = role else {
        fields.require("role", "is required");
        return Ok(None);
    };
    let role = Role::parse(name);
    match role {
        None => fields.note("role", "must be viewer, member, admin or owner"),
        Some(role) if role > actor => {
            return Err(Problem::new(codes::INSUFFICIENT_ROLE, format!("Nobody can give a role above their own; yours is {actor}.")));
        }
        Some(_) => {}
    }
    Ok(role)
}

/// The tenant's members, newest first.
#[utoipa::path(get, path = "/v1/admin/members", tag = "members", params(PageParameters), responses((status = 200, body = Page<MemberView>)))]
pub async fn list(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<MemberView>>> {
    session.require_live()?;
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let scope = page::Scope::new("members", session.tenant_id().0);
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, UserId(id)));
    let rows = app.engine.store.list_members(session.tenant_id(), before, limit + 1).await?;
    Ok(axum::Json(page::page(rows, limit, &scope, &app.engine.cursors, |m| (m.joined_at, m.user.id.0), MemberView::from)))
}

/// Give a member another role. Neither their present role nor the new one may be above yours, and one owner stays.
#[utoipa::path(patch, path = "/v1/admin/members/{userId}", tag = "members", params(("userId" = uuid::Uuid, Path, description = "The member's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), request_body = MemberChangeRequest,
    responses((status = 200, body = MemberView)))]
pub async fn update(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<MemberView>> {
    session.require_live()?;
    query.none()?;
    let user = UserId::parse(&id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let mut fields = body.fields(MemberChangeRequest::FIELDS)?;
    let request = MemberChangeRequest::read(&mut fields);
    let role = read_role(&mut fields, request.role.as_deref(), session.role)?;
    fields.finish()?;
    let Some(role) = role else { return Err(Problem::of(codes::VALIDATION_FAILED)) };
    let found = app.engine.store.find_member(session.tenant_id(), user).await?.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    if found.role == role {
        return Ok(axum::Json(MemberView::from(found)));
    }
    let mut entry = session.entry("member.update", user.0);
    (entry.before, entry.after) = (serde_json::json!({ "role": found.role }), serde_json::json!({ "role": role }));
    let audit = session.record(&app, &entry);
    let mut member = done(app.engine.store.set_member_role(session.tenant_id(), user, role, session.role, audit).await?)?;
    member.role = role;
    Ok(axum::Json(MemberView::from(member)))
}

/// Remove a member whose role is not above yours, or leave the tenant yourself. One owner stays.
#[utoipa::path(delete, path = "/v1/admin/members/{userId}", tag = "members", params(("userId" = uuid::Uuid, Path, description = "The member's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")))]
pub async fn remove(session: Session<AsViewer>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<StatusCode> {
    session.require_live()?;
    query.none()?;
    let user = UserId::parse(&id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let leaves = matches!(&session.actor, Actor::Human(claims) if claims.sub == user);
    if !leaves && session.role < Role::Admin {
        let text =
            format!("Removing others needs the role admin or higher; yours is {}. You can leave by removing yourself.", session.role);
        return Err(Problem::new(codes::INSUFFICIENT_ROLE, text));
    }
    let found = app.engine.store.find_member(session.tenant_id(), user).await?.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let mut entry = session.entry(if leaves { "member.leave" } else { "member.remove" }, user.0);
    entry.before = value(&MemberView::from(found));
    let audit = session.record(&app, &entry);
    done(app.engine.store.remove_member(session.tenant_id(), user, session.role, audit).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

fn done(change: MemberChange) -> Result<TenantMember> {
    match change {
        MemberChange::Done(member) => Ok(member),
        MemberChange::Missing => Err(Problem::of(codes::NOT_FOUND)),
        MemberChange::AboveActor => Err(Problem::new(codes::INSUFFICIENT_ROLE, "The member's role is above yours.")),
        MemberChange::LastOwner => Err(Problem::of(codes::LAST_OWNER)),
    }
}
