//! The signed-in human.

use axum::extract::State;
use raven_core::{TenantId, UserId};
use serde::Serialize;

use super::AppState;
use crate::{
    caller::Human,
    openapi::closed::{RoleName, TenantStatusName},
    problem::Result,
    query::RawQuery,
};

/// The signed-in human and the tenants that they belong to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MeView {
    /// Who, as their token says.
    pub user: UserView,
    /// In which tenants (the 200 newest).
    pub memberships: Vec<MembershipView>,
}

/// A human.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    /// Their id: `sub` of the token.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    /// Their address: `email` of the token.
    #[schema(format = "email")]
    pub email: String,
    /// Their name: `name` of the token.
    #[schema(required)]
    pub name: Option<String>,
    /// Their picture: `picture` of the token.
    #[schema(required)]
    pub avatar_url: Option<String>,
}

/// A place in a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MembershipView {
    /// The tenant.
    #[schema(value_type = uuid::Uuid)]
    pub tenant_id: TenantId,
    /// What stands in `X-Tenant-Slug`.
    pub tenant_slug: String,
    /// Its name.
    pub tenant_name: String,
    /// Their role there.
    #[schema(value_type = RoleName)]
    pub role: &'static str,
    /// The tenant's state.
    #[schema(value_type = TenantStatusName)]
    pub status: &'static str,
}

/// Who am I, and where do I belong?
#[utoipa::path(get, path = "/v1/admin/me", tag = "tenants", responses((status = 200, body = MeView)), security(("bearer" = [])))]
pub async fn me(human: Human, State(app): AppState, query: RawQuery) -> Result<axum::Json<MeView>> {
    query.none()?;
    let memberships = app.engine.store.list_memberships(human.claims.sub, None, raven_core::page::MAX_LIMIT).await?;
    let memberships = memberships
        .into_iter()
        .map(|m| MembershipView {
            tenant_id: m.tenant.id,
            tenant_slug: m.tenant.slug,
            tenant_name: m.tenant.name,
            role: m.role.name(),
            status: m.tenant.status.name(),
        })
        .collect();
    let profile = human.claims.profile();
    let user = UserView { id: profile.id, email: profile.email, name: profile.name, avatar_url: profile.avatar_url };
    Ok(axum::Json(MeView { user, memberships }))
}
