//! Tenants.

use std::borrow::Cow;

use axum::{extract::State, response::Response};
use http::HeaderMap;
use raven_core::{
    TenantId, Timestamp,
    tenant::{SuspendedBy, TenantStatus, is_country_code, is_locale, is_slug, slug_of},
    time::is_time_zone,
};
use raven_store::{Error, NewTenant, Operation, Scope, TenantRecord};
use serde::Serialize;

use super::{AppState, answer, claim, fresh_id, text, value};
use crate::{
    body::Body,
    caller::{self, Human},
    codes,
    fields::{Fields, request},
    idempotency,
    openapi::closed::{SuspenderName, TenantStatusName},
    page::{self, Page, PageParameters},
    problem::{Problem, Result},
    query::RawQuery,
};

/// How often a slug made from a name is tried with another number behind it.
const SLUG_TRIES: u32 = 50;

request! {
    /// A tenant to create. The caller becomes its owner.
    pub struct TenantRequest {
        /// Its name: 2 to 80 characters.
        #[schema(required, min_length = 2, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Acme Co")]
        name: Cow<'a, str> = "name",
        /// 2 to 63 lower-case letters, digits and inner hyphens. Made from the name when absent.
        #[schema(min_length = 2, max_length = 63, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", example = "acme-co")]
        slug: Cow<'a, str> = "slug",
        /// Its country: ISO 3166-1 alpha-2.
        #[schema(min_length = 2, max_length = 2, pattern = "^[A-Z]{2}$", example = "KE")]
        country_code: Cow<'a, str> = "countryCode",
        /// The language of its people, where nothing else is said: BCP 47; `en` when absent.
        #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", default = "en")]
        default_locale: Cow<'a, str> = "defaultLocale",
        /// Its time zone, by the IANA database; `Africa/Nairobi` when absent.
        #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_+/-]+$", default = "Africa/Nairobi")]
        default_tz: Cow<'a, str> = "defaultTz",
        /// The same key with the same payload never creates twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

/// A tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: TenantId,
    /// What stands in `X-Tenant-Slug`.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// What it may do at all.
    #[schema(value_type = TenantStatusName)]
    pub status: &'static str,
    /// Its plan.
    pub plan: String,
    /// Its country: ISO 3166-1 alpha-2.
    #[schema(required)]
    pub country_code: Option<String>,
    /// The language of its people: BCP 47.
    pub default_locale: String,
    /// Its time zone, by the IANA database.
    pub default_tz: String,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// Who suspended it; only while it is suspended, or was when it was archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = SuspenderName)]
    pub suspended_by: Option<SuspendedBy>,
    /// When it was archived. It is deleted 30 days later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String, format = "date-time")]
    pub archived_at: Option<Timestamp>,
}

impl From<TenantRecord> for TenantView {
    fn from(r: TenantRecord) -> Self {
        Self {
            id: r.id,
            slug: r.slug,
            name: r.name,
            status: r.status.name(),
            plan: r.plan,
            country_code: r.country_code,
            default_locale: r.default_locale,
            default_tz: r.default_tz,
            created_at: r.created_at,
            suspended_by: r.suspended_by,
            archived_at: r.archived_at,
        }
    }
}

/// Checks what a tenant can be given when it is created and later.
pub(super) fn check_profile(
    fields: &mut Fields<'_>,
    name: Option<&str>,
    country_code: Option<&str>,
    default_locale: Option<&str>,
    default_tz: Option<&str>,
) {
    if let Some(name) = name {
        fields.check("name", crate::fields::line(name, 2, 80));
    }
    if country_code.is_some_and(|c| !is_country_code(c)) {
        fields.note("countryCode", "must be an ISO 3166-1 alpha-2 code: two capital letters, for example KE");
    }
    if default_locale.is_some_and(|l| !is_locale(l)) {
        fields.note("defaultLocale", "must be a BCP 47 language tag, for example en or en-KE");
    }
    if default_tz.is_some_and(|tz| !is_time_zone(tz)) {
        fields.note("defaultTz", "must be a time zone of the IANA database, for example Africa/Nairobi");
    }
}

/// Create a tenant.
#[utoipa::path(post, path = "/v1/admin/tenants", tag = "tenants", request_body = TenantRequest, responses((status = 201, body = TenantView)), security(("bearer" = [])))]
pub async fn create(human: Human, State(app): AppState, headers: HeaderMap, query: RawQuery, body: Body) -> Result<Response> {
    query.none()?;
    let mut fields = body.fields(TenantRequest::FIELDS)?;
    let request = TenantRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let fingerprint = fields.fingerprint();
    let now = app.engine.clock.now();

    let name = request.name.as_deref().map(|n| n.trim().to_owned());
    if name.is_none() {
        fields.require("name", "is required");
    }
    if request.slug.as_deref().is_some_and(|s| !is_slug(s)) {
        fields.note("slug", "must be 2 to 63 lower-case letters, digits and single inner hyphens");
    }
    check_profile(
        &mut fields,
        name.as_deref(),
        request.country_code.as_deref(),
        request.default_locale.as_deref(),
        request.default_tz.as_deref(),
    );
    fields.finish()?;
    let Some(name) = name else { return Err(Problem::field("name", "is required")) };

    let id = TenantId(fresh_id(&app)?);
    let owned = |value: Option<Cow<'_, str>>, default: &str| value.map_or_else(|| default.to_owned(), Cow::into_owned);
    let mut record = TenantRecord {
        id,
        slug: request.slug.as_deref().map_or_else(|| slug_of(&name, 0), str::to_owned),
        name,
        status: TenantStatus::Active,
        plan: app.engine.plans.default().name.clone(),
        country_code: request.country_code.map(Cow::into_owned),
        default_locale: owned(request.default_locale, "en"),
        default_tz: owned(request.default_tz, "Africa/Nairobi"),
        created_at: now,
        data_key: app.engine.vault.new_data_key(id)?,
        retry_unknown: false,
        suspended_by: None,
        archived_at: None,
    };
    let own_slug = request.slug.is_some();
    for attempt in 0..SLUG_TRIES {
        if !own_slug {
            record.slug = slug_of(&record.name, attempt);
        }
        let view = TenantView::from(record.clone());
        let created = text(&view)?;
        let mut entry = human.entry("tenant.create", id.0);
        entry.after = value(&view);
        let claim = claim(&app, key.clone(), Scope::User(human.claims.sub), Operation::CreateTenant, fingerprint, now, &created);
        let audit = caller::record(&app, id, &entry);
        let new = NewTenant { record: record.clone(), owner: human.claims.profile(), claim, audit };
        match app.engine.store.create_tenant(new).await {
            Ok(outcome) => return answer(outcome, created),
            Err(Error::Conflict(_)) if own_slug => return Err(Problem::of(codes::SLUG_TAKEN)),
            Err(Error::Conflict(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Problem::new(codes::SLUG_TAKEN, "Too many tenants have this name: choose a slug."))
}

/// The tenants that the caller belongs to, newest first.
#[utoipa::path(get, path = "/v1/admin/tenants", tag = "tenants", params(PageParameters),
    responses((status = 200, body = Page<TenantView>)), security(("bearer" = [])))]
pub async fn list(human: Human, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<TenantView>>> {
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let scope = page::Scope::new("tenants", human.claims.sub.0);
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, TenantId(id)));
    let rows = app.engine.store.list_memberships(human.claims.sub, before, limit + 1).await?;
    Ok(axum::Json(page::page(
        rows,
        limit,
        &scope,
        &app.engine.cursors,
        |m| (m.tenant.created_at, m.tenant.id.0),
        |m| TenantView::from(m.tenant),
    )))
}
