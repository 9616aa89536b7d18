//! The tenant that a session is in: its settings, its life, and who owns it.

use std::borrow::Cow;

use axum::extract::State;
use raven_core::{
    UserId,
    tenant::{SuspendedBy, TenantStatus},
};
use raven_store::{MemberChange, StateChange, StateChanged, TenantChange, TenantRecord};

use super::{AppState, members::MemberView, tenants::TenantView, tenants::check_profile, value};
use crate::{
    App,
    body::Body,
    caller::{AsAdmin, AsOwner, AsViewer, EvenArchived, EvenSuspended, Session},
    codes,
    fields::request,
    problem::{Problem, Result},
    query::RawQuery,
};

request! {
    /// What to change of the tenant.
    pub struct TenantChangeRequest {
        /// Its name: 2 to 80 characters.
        #[schema(min_length = 2, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Acme Co")]
        name: Cow<'a, str> = "name",
        /// Its country: ISO 3166-1 alpha-2; `null` takes it away.
        #[schema(min_length = 2, max_length = 2, pattern = "^[A-Z]{2}$", example = "KE")]
        country_code: Cow<'a, str> = "countryCode",
        /// The language of its people, where nothing else is said: BCP 47.
        #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", example = "en")]
        default_locale: Cow<'a, str> = "defaultLocale",
        /// Its time zone, by the IANA database.
        #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_+/-]+$", example = "Africa/Nairobi")]
        default_tz: Cow<'a, str> = "defaultTz",
    }
}

request! {
    /// Who becomes the owner.
    pub struct TransferRequest {
        /// Id of a member.
        #[schema(required, value_type = uuid::Uuid, example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")]
        user_id: Cow<'a, str> = "userId",
    }
}

/// The tenant.
#[utoipa::path(get, path = "/v1/admin/tenant", tag = "tenants", responses((status = 200, body = TenantView)))]
pub async fn find(session: Session<AsViewer>, query: RawQuery) -> Result<axum::Json<TenantView>> {
    session.require_live()?;
    query.none()?;
    Ok(axum::Json(TenantView::from(session.tenant)))
}

/// Change the tenant's settings.
#[utoipa::path(patch, path = "/v1/admin/tenant", tag = "tenants", request_body = TenantChangeRequest, responses((status = 200, body = TenantView)))]
pub async fn update(session: Session<AsAdmin>, State(app): AppState, query: RawQuery, body: Body) -> Result<axum::Json<TenantView>> {
    session.require_live()?;
    query.none()?;
    let mut fields = body.fields(TenantChangeRequest::FIELDS)?;
    let no_country = fields.is_null("countryCode");
    let request = TenantChangeRequest::read(&mut fields);
    let name = request.name.as_deref().map(|n| n.trim().to_owned());
    check_profile(
        &mut fields,
        name.as_deref(),
        request.country_code.as_deref(),
        request.default_locale.as_deref(),
        request.default_tz.as_deref(),
    );
    fields.finish()?;
    let country = request.country_code.map(Cow::into_owned);
    let change = TenantChange {
        name,
        country_code: if no_country { Some(None) } else { country.map(Some) },
        default_locale: request.default_locale.map(Cow::into_owned),
        default_tz: request.default_tz.map(Cow::into_owned),
        plan: None,
        retry_unknown: None,
    };
    if change == TenantChange::default() {
        return Ok(axum::Json(TenantView::from(session.tenant)));
    }
    let mut after = session.tenant.clone();
    after.name = change.name.clone().unwrap_or(after.name);
    after.country_code = change.country_code.clone().unwrap_or(after.country_code);
    after.default_locale = change.default_locale.clone().unwrap_or(after.default_locale);
    after.default_tz = change.default_tz.clone().unwrap_or(after.default_tz);
    let mut entry = session.entry("tenant.update", session.tenant_id().0);
    (entry.before, entry.after) = (value(&TenantView::from(session.tenant.clone())), value(&TenantView::from(after)));
    let changed = app.engine.store.update_tenant(session.tenant_id(), change, session.record(&app, &entry)).await?;
    app.engine.directory.forget(session.tenant_id()).await;
    changed.map(|t| axum::Json(TenantView::from(t))).ok_or_else(|| Problem::of(codes::NOT_A_MEMBER))
}

/// Suspend the tenant: its keys do nothing, its people only read, what waits is held. An owner or an operator can lift it.
#[utoipa::path(post, path = "/v1/admin/tenant/suspend", tag = "tenants", responses((status = 200, body = TenantView)))]
pub async fn suspend(session: Session<AsOwner>, State(app): AppState, query: RawQuery, body: Body) -> Result<axum::Json<TenantView>> {
    step(&app, &session, &query, &body, "tenant.suspend", StateChange::Suspend(SuspendedBy::Owner)).await
}

/// Lift the owner's own suspension. One by the operator stays.
#[utoipa::path(post, path = "/v1/admin/tenant/reactivate", tag = "tenants", responses((status = 200, body = TenantView)))]
pub async fn reactivate(
    session: Session<AsOwner, EvenSuspended>,
    State(app): AppState,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<TenantView>> {
    if session.tenant.suspended_by == Some(SuspendedBy::Operator) {
        return Err(Problem::new(codes::TENANT_SUSPENDED, "The operator suspended this tenant, and only the operator can lift that."));
    }
    step(&app, &session, &query, &body, "tenant.reactivate", StateChange::Reactivate(SuspendedBy::Owner)).await
}

/// Archive the tenant. It can be restored for 30 days; then it is deleted with all its data.
#[utoipa::path(post, path = "/v1/admin/tenant/archive", tag = "tenants", responses((status = 200, body = TenantView)))]
pub async fn archive(session: Session<AsOwner>, State(app): AppState, query: RawQuery, body: Body) -> Result<axum::Json<TenantView>> {
    let now = app.engine.clock.now();
    step(&app, &session, &query, &body, "tenant.archive", StateChange::Archive(now)).await
}

/// Restore the tenant from the archive: it is what it was before.
#[utoipa::path(post, path = "/v1/admin/tenant/restore", tag = "tenants", responses((status = 200, body = TenantView)))]
pub async fn restore(
    session: Session<AsOwner, EvenArchived>,
    State(app): AppState,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<TenantView>> {
    let now = app.engine.clock.now();
    step(&app, &session, &query, &body, "tenant.restore", StateChange::Restore(now)).await
}

async fn step<S>(
    app: &App,
    session: &Session<AsOwner, S>,
    query: &RawQuery,
    body: &Body,
    action: &str,
    change: StateChange,
) -> Result<axum::Json<TenantView>> {
    query.none()?;
    body.fields(&[])?.finish()?;
    let mut entry = session.entry(action, session.tenant_id().0);
    entry.before = state(&session.tenant);
    let audit = session.record(app, &entry);
    let StateChanged { tenant, changed } =
        app.engine.store.change_state(session.tenant_id(), change, audit).await?.ok_or_else(|| Problem::of(codes::NOT_A_MEMBER))?;
    app.engine.directory.forget(tenant.id).await;
    app.engine.keyring.forget_tenant(tenant.id).await;
    if changed {
        return Ok(axum::Json(TenantView::from(tenant)));
    }
    let wanted = match change {
        StateChange::Suspend(_) => "active",
        StateChange::Reactivate(_) => "suspended",
        StateChange::Archive(_) => "active or suspended",
        StateChange::Restore(_) => "archived less than 30 days ago",
    };
    Err(Problem::new(codes::INVALID_STATE, format!("The tenant is {}; for this it must be {wanted}.", tenant.status)))
}

fn state(tenant: &TenantRecord) -> serde_json::Value {
    serde_json::json!({ "status": TenantStatus::name(tenant.status) })
}

/// Make another member the owner. The caller becomes an admin.
#[utoipa::path(post, path = "/v1/admin/tenant/transfer-ownership", tag = "tenants", request_body = TransferRequest, responses((status = 200, body = MemberView)))]
pub async fn transfer(session: Session<AsOwner>, State(app): AppState, query: RawQuery, body: Body) -> Result<axum::Json<MemberView>> {
    query.none()?;
    let mut fields = body.fields(TransferRequest::FIELDS)?;
    let request = TransferRequest::read(&mut fields);
    let to = request.user_id.as_deref().map(UserId::parse);
    match to {
        None => fields.require("userId", "is required"),
        Some(None) => fields.note("userId", "must be the id of a member"),
        Some(Some(_)) => {}
    }
    fields.finish()?;
    let Some(Some(to)) = to else { return Err(Problem::of(codes::VALIDATION_FAILED)) };
    let from = UserId(session.actor_id());
    if to == from {
        return Err(Problem::field("userId", "must be another member: you are the owner already"));
    }
    let mut entry = session.entry("tenant.transfer_ownership", session.tenant_id().0);
    (entry.before, entry.after) = (serde_json::json!({ "owner": from }), serde_json::json!({ "owner": to }));
    match app.engine.store.transfer_ownership(session.tenant_id(), from, to, session.record(&app, &entry)).await? {
        MemberChange::Done(before) => {
            let mut member = MemberView::from(before);
            member.role = raven_core::permission::Role::Owner.name();
            Ok(axum::Json(member))
        }
        MemberChange::Missing => Err(Problem::field("userId", "must be the id of a member")),
        MemberChange::AboveActor | MemberChange::LastOwner => Err(Problem::of(codes::INSUFFICIENT_ROLE)),
    }
}
