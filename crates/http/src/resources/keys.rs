//! API keys.

use std::{borrow::Cow, time::Duration};

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use raven_core::{
    Environment, KeyId, Priority, Timestamp,
    permission::{Role, Scope, Scopes},
};
use raven_store::{Claim, Error, KeyChange, KeyRecord, NewKey, Operation, Rotation};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{AppState, answer, bound_to, claim, environment, fresh_id, send_request::priority, text, value};
use crate::{
    App,
    body::Body,
    caller::{Actor, AsAdmin, Session},
    codes,
    fields::{Fields, request},
    idempotency,
    openapi::closed::{EnvironmentName, PriorityName, ScopeName},
    page::{self, Page, PageParameters},
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

/// The highest rate that a key can be given.
const MAX_RPM: i64 = 100_000_000;
const WARNING: &str = "This is the only time that the key is shown. Store it now.";

/// The longest time for which a key that was rotated stays valid, in seconds: 30 days.
const MAX_OVERLAP: i64 = 30 * 86_400;
/// How long it stays valid when nothing is said: a day.
const DEFAULT_OVERLAP: i64 = 86_400;

request! {
    /// What to change of an API key.
    pub struct KeyChangeRequest {
        /// Its name: 1 to 80 characters.
        #[schema(min_length = 1, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Order service")]
        name: Cow<'a, str> = "name",
        /// Requests a minute; `null`: the plan's.
        #[schema(minimum = 1, maximum = 100_000_000, example = 600)]
        rate_limit_rpm: i64 = "rateLimitRpm",
        /// Priority of what is sent with it and doesn't say; `null`: the plan's.
        #[schema(required = false, value_type = Option<PriorityName>)]
        priority: Cow<'a, str> = "priority",
    }
}

request! {
    /// How to rotate an API key.
    pub struct RotationRequest {
        /// Seconds for which the old key stays valid: 0 to 2592000 (30 days); 86400 (a day) when absent.
        #[schema(minimum = 0, maximum = 2_592_000, default = 86_400)]
        overlap_seconds: i64 = "overlapSeconds",
        /// The same key with the same payload never rotates twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

request! {
    /// An API key to create.
    pub struct KeyRequest {
        /// Its name: 1 to 80 characters.
        #[schema(required, min_length = 1, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Order service")]
        name: Cow<'a, str> = "name",
        /// What it may do; `admin:*` only by an owner's session. `messages:send` and `messages:read` when absent.
        #[schema(required = false, value_type = Vec<ScopeName>, min_items = 1, default = json!(["messages:send", "messages:read"]))]
        scopes: Vec<Cow<'a, str>> = "scopes",
        /// What it is to belong to; `live` when absent.
        #[schema(required = false, value_type = EnvironmentName)]
        environment: Cow<'a, str> = "environment",
        /// Requests a minute; the plan's when absent.
        #[schema(minimum = 1, maximum = 100_000_000, example = 600)]
        rate_limit_rpm: i64 = "rateLimitRpm",
        /// Priority of what is sent with it and doesn't say; the plan's when absent.
        #[schema(required = false, value_type = PriorityName)]
        priority: Cow<'a, str> = "priority",
        /// From when it is refused; never when absent.
        #[schema(format = "date-time", example = "2027-01-31T00:00:00Z")]
        expires_at: Cow<'a, str> = "expiresAt",
        /// The same key with the same payload never creates twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

/// An API key, without its secret.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: KeyId,
    /// What it begins with.
    #[schema(example = "rk_live_a3f7b2c1")]
    pub prefix: String,
    /// What it ends with.
    pub last_four: String,
    /// What it may do.
    #[schema(value_type = Vec<ScopeName>)]
    pub scopes: Vec<&'static str>,
    /// Its name.
    pub name: String,
    /// What it belongs to.
    #[schema(value_type = EnvironmentName)]
    pub environment: &'static str,
    /// Requests a minute; `null`: the plan's.
    #[schema(required)]
    pub rate_limit_rpm: Option<i32>,
    /// Priority of what is sent with it and doesn't say; `null`: the plan's.
    #[schema(required, value_type = Option<PriorityName>)]
    pub priority: Option<&'static str>,
    /// From when it is refused.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    pub expires_at: Option<Timestamp>,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// When it was last used, to a few seconds.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    pub last_used_at: Option<Timestamp>,
}

/// An API key that was just created.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewKeyView {
    /// The key without its secret.
    #[serde(flatten)]
    pub key: KeyView,
    /// The key itself: in this answer only, and not in a replay of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String, example = "rk_live_a3f7b2c1_…")]
    pub plaintext: Option<String>,
    /// What to do with it.
    pub warning: &'static str,
}

impl From<KeyRecord> for KeyView {
    fn from(r: KeyRecord) -> Self {
        Self {
            id: r.id,
            prefix: r.prefix,
            last_four: r.last_four,
            scopes: r.scopes.iter().map(Scope::name).collect(),
            name: r.name,
            environment: r.environment.name(),
            rate_limit_rpm: r.rate_limit_rpm,
            priority: r.priority.map(Priority::name),
            expires_at: r.expires_at,
            created_at: r.created_at,
            last_used_at: r.last_used_at,
        }
    }
}

fn check_rate(fields: &mut Fields<'_>, rpm: Option<i64>) {
    if rpm.is_some_and(|n| !(1..=MAX_RPM).contains(&n)) {
        fields.note("rateLimitRpm", "must be 1 to 100000000");
    }
}

struct Wanted {
    name: String,
    scopes: Scopes,
    environment: Environment,
    rate_limit_rpm: Option<i32>,
    priority: Option<Priority>,
    expires_at: Option<Timestamp>,
}

impl KeyRequest<'_> {
    fn parse(&self, fields: &mut Fields<'_>, now: Timestamp) -> Option<Wanted> {
        match self.name.as_deref() {
            None => fields.require("name", "is required"),
            Some(name) => {
                fields.check("name", crate::fields::line(name, 1, 80));
            }
        }
        let mut scopes = Scopes::DEFAULT;
        if let Some(names) = &self.scopes {
            let parsed: Option<Vec<Scope>> = names.iter().map(|n| Scope::parse(n)).collect();
            match parsed {
                Some(list) if !list.is_empty() => scopes = list.into_iter().collect(),
                _ => fields.note("scopes", "must name at least one of messages:send, messages:read, admin:*, and no others"),
            }
        }
        let environment = environment(fields, self.environment.as_deref(), Environment::Live);
        check_rate(fields, self.rate_limit_rpm);
        let priority = priority(fields, self.priority.as_deref());
        let expires_at = self.expires_at.as_deref().map(Timestamp::parse);
        match expires_at {
            Some(None) => fields.note("expiresAt", "must be an ISO 8601 time with an offset, for example 2027-01-31T00:00:00Z"),
            Some(Some(at)) if at <= now => fields.note("expiresAt", "must be in the future"),
            _ => {}
        }
        Some(Wanted {
            name: self.name.as_deref()?.to_owned(),
            scopes,
            environment: environment?,
            rate_limit_rpm: self.rate_limit_rpm.and_then(|n| i32::try_from(n).ok()),
            priority,
            expires_at: expires_at.flatten(),
        })
    }
}

/// Create an API key. Its text is in this answer only.
#[utoipa::path(post, path = "/v1/admin/api-keys", tag = "keys", request_body = KeyRequest, responses((status = 201, body = NewKeyView)))]
pub async fn create(session: Session<AsAdmin>, State(app): AppState, headers: HeaderMap, query: RawQuery, body: Body) -> Result<Response> {
    query.none()?;
    let mut fields = body.fields(KeyRequest::FIELDS)?;
    let request = KeyRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let (fingerprint, now) = (fields.fingerprint(), app.engine.clock.now());
    let wanted = request.parse(&mut fields, now);
    fields.finish()?;
    let Some(wanted) = wanted else { return Err(Problem::of(codes::VALIDATION_FAILED)) };
    require_owner_for(&session, wanted.scopes)?;
    if session.confined_to().is_some_and(|own| own != wanted.environment) {
        return Err(Problem::new(codes::INSUFFICIENT_SCOPE, "A key can create keys of its own environment only."));
    }
    fresh_key(&app, &session, &wanted, None, key, fingerprint).await
}

/// A key with the scope `admin:*` is made, and put in another one's place, by an owner in person.
fn require_owner_for<R, S>(session: &Session<R, S>, scopes: Scopes) -> Result<()> {
    let by_owner = matches!(session.actor, Actor::Human(_)) && session.role >= Role::Owner;
    if scopes.contains(Scope::Admin) && !by_owner {
        return Err(Problem::new(codes::INSUFFICIENT_ROLE, "A key with the scope admin:* takes an owner's session."));
    }
    Ok(())
}

/// A key that is to be replaced, and from when it is refused.
#[derive(Clone, Copy)]
struct Old {
    id: KeyId,
    expires_at: Timestamp,
}

/// Makes a key, perhaps in the place of an old one.
async fn fresh_key(
    app: &App,
    session: &Session<AsAdmin>,
    wanted: &Wanted,
    old: Option<Old>,
    key: Option<String>,
    fingerprint: [u8; 16],
) -> Result<Response> {
    let now = app.engine.clock.now();
    let (operation, action) = match old {
        None => (Operation::CreateKey, "api_key.create"),
        Some(_) => (Operation::RotateKey, "api_key.rotate"),
    };
    let scope = raven_store::Scope::Tenant(session.tenant_id(), wanted.environment);
    let claim = claim(app, key, scope, operation, fingerprint, now, "");
    let turn = app.engine.keyring.turn().await;
    // A crowd of equal requests makes one key, and not one each that is then thrown away.
    if let Some(claim) = &claim
        && let Some(outcome) = app.engine.store.find_creation(session.tenant_id(), claim).await?
    {
        return answer(outcome, String::new());
    }
    // A prefix of 32 random bits meets one that is taken now and then; another one is made then.
    for _ in 0..5 {
        let fresh = app.engine.keyring.compose(&turn, wanted.environment).await?;
        let record = KeyRecord {
            id: KeyId(fresh_id(app)?),
            tenant: session.tenant_id(),
            environment: wanted.environment,
            prefix: fresh.prefix,
            last_four: fresh.last_four,
            secret_hash: fresh.secret_hash,
            secret_mac: fresh.secret_mac,
            scopes: wanted.scopes,
            name: wanted.name.clone(),
            rate_limit_rpm: wanted.rate_limit_rpm,
            priority: wanted.priority,
            expires_at: wanted.expires_at,
            created_at: now,
            revoked_at: None,
            last_used_at: None,
        };
        let shown = KeyView::from(record.clone());
        let mut entry = session.entry(action, record.id.0);
        entry.before = old.map_or(serde_json::Value::Null, |old| serde_json::json!({ "id": old.id }));
        entry.after = value(&shown);
        let mut view = NewKeyView { key: shown, plaintext: None, warning: WARNING };
        let stored = text(&view)?;
        view.plaintext = Some(fresh.plaintext.expose_secret().to_owned());
        let claim = claim.clone().map(|claim| Claim { response: stored, ..claim });
        let new = NewKey { record, claim, audit: session.record(app, &entry) };
        let stored = match old {
            None => app.engine.store.create_key(new).await.map(Some),
            Some(old) => app.engine.store.rotate_key(Rotation { old: old.id, old_expires_at: old.expires_at, new }).await,
        };
        match stored {
            Ok(Some(outcome)) => return answer(outcome, text(&view)?),
            // It was there a moment ago, so it has expired, or was revoked since.
            Ok(None) => {
                return Err(Problem::new(
                    codes::INVALID_STATE,
                    "The key is not valid any more, so there is nothing to rotate. Create a new one.",
                ));
            }
            Err(Error::Conflict(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Problem::of(codes::INTERNAL))
}

/// The tenant's API keys that are not revoked, newest first.
#[utoipa::path(get, path = "/v1/admin/api-keys", tag = "keys", params(PageParameters),
    responses((status = 200, body = Page<KeyView>)))]
pub async fn list(session: Session<AsAdmin>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<KeyView>>> {
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let environment = session.confined_to();
    let scope = page::Scope::new("api-keys", session.tenant_id().0).with("environment", environment.map(Environment::name));
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, KeyId(id)));
    let rows = app.engine.store.list_keys(session.tenant_id(), environment, before, limit + 1).await?;
    Ok(axum::Json(page::page(rows, limit, &scope, &app.engine.cursors, |k| (k.created_at, k.id.0), KeyView::from)))
}

/// One API key.
#[utoipa::path(get, path = "/v1/admin/api-keys/{id}", tag = "keys", params(("id" = uuid::Uuid, Path, description = "The key's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 200, body = KeyView)))]
pub async fn find(session: Session<AsAdmin>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<axum::Json<KeyView>> {
    query.none()?;
    one(&app, &session, &id).await.map(|k| axum::Json(KeyView::from(k)))
}

/// Change an API key's name, rate limit or priority.
#[utoipa::path(patch, path = "/v1/admin/api-keys/{id}", tag = "keys", params(("id" = uuid::Uuid, Path, description = "The key's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), request_body = KeyChangeRequest, responses((status = 200, body = KeyView)))]
pub async fn update(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<KeyView>> {
    query.none()?;
    let mut fields = body.fields(KeyChangeRequest::FIELDS)?;
    let (plans_rate, plans_priority) = (fields.is_null("rateLimitRpm"), fields.is_null("priority"));
    let request = KeyChangeRequest::read(&mut fields);
    if let Some(name) = request.name.as_deref() {
        fields.check("name", crate::fields::line(name, 1, 80));
    }
    check_rate(&mut fields, request.rate_limit_rpm);
    let priority = priority(&mut fields, request.priority.as_deref());
    fields.finish()?;
    let before = one(&app, &session, &id).await?;
    let rate = request.rate_limit_rpm.and_then(|n| i32::try_from(n).ok());
    let change = KeyChange {
        name: request.name.map(Cow::into_owned),
        rate_limit_rpm: if plans_rate { Some(None) } else { rate.map(Some) },
        priority: if plans_priority { Some(None) } else { priority.map(Some) },
    };
    if change == KeyChange::default() {
        return Ok(axum::Json(KeyView::from(before)));
    }
    let (id, prefix) = (before.id, before.prefix.clone());
    let mut after = before.clone();
    after.name = change.name.clone().unwrap_or(after.name);
    after.rate_limit_rpm = change.rate_limit_rpm.unwrap_or(after.rate_limit_rpm);
    after.priority = change.priority.unwrap_or(after.priority);
    let mut entry = session.entry("api_key.update", id.0);
    (entry.before, entry.after) = (value(&KeyView::from(before)), value(&KeyView::from(after)));
    let audit = session.record(&app, &entry);
    let changed = app.engine.store.update_key(session.tenant_id(), session.confined_to(), id, change, audit).await?;
    app.engine.keyring.forget(&prefix).await;
    changed.map(|k| axum::Json(KeyView::from(k))).ok_or_else(|| Problem::of(codes::NOT_FOUND))
}

/// Rotate an API key: a new one with the same name, scopes and limits; the old one stays valid for a while.
#[utoipa::path(post, path = "/v1/admin/api-keys/{id}/rotate", tag = "keys", params(("id" = uuid::Uuid, Path, description = "The key's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), request_body = RotationRequest, responses((status = 201, body = NewKeyView)))]
pub async fn rotate(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    headers: HeaderMap,
    query: RawQuery,
    body: Body,
) -> Result<Response> {
    query.none()?;
    let mut fields = body.fields(RotationRequest::FIELDS)?;
    let request = RotationRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let overlap = request.overlap_seconds.unwrap_or(DEFAULT_OVERLAP);
    if !(0..=MAX_OVERLAP).contains(&overlap) {
        fields.note("overlapSeconds", format!("must be 0 to {MAX_OVERLAP}"));
    }
    let fingerprint = fields.fingerprint();
    fields.finish()?;
    let old = match one(&app, &session, &id).await {
        Ok(old) => old,
        // It may have been revoked since it was rotated: the replay still answers.
        Err(problem) => return rotated_before(&app, &session, &id, key, fingerprint).await?.ok_or(problem),
    };
    require_owner_for(&session, old.scopes)?;
    let wanted = Wanted {
        name: old.name.clone(),
        scopes: old.scopes,
        environment: old.environment,
        rate_limit_rpm: old.rate_limit_rpm,
        priority: old.priority,
        expires_at: old.expires_at,
    };
    let overlap = Duration::from_secs(u64::try_from(overlap).unwrap_or_default());
    let replaced = Old { id: old.id, expires_at: app.engine.clock.now().after(overlap) };
    let rotated = fresh_key(&app, &session, &wanted, Some(replaced), key, bound_to(fingerprint, old.id.0)).await;
    app.engine.keyring.forget(&old.prefix).await;
    rotated
}

/// The answer to a rotation that was made before, of a key that is gone.
async fn rotated_before(
    app: &App,
    session: &Session<AsAdmin>,
    id: &str,
    key: Option<String>,
    fingerprint: [u8; 16],
) -> Result<Option<Response>> {
    let Some(id) = KeyId::parse(id) else { return Ok(None) };
    let tenant = session.tenant_id();
    for environment in Environment::ALL.iter().filter(|e| session.confined_to().is_none_or(|own| own == **e)) {
        let scope = raven_store::Scope::Tenant(tenant, *environment);
        let claim = claim(app, key.clone(), scope, Operation::RotateKey, bound_to(fingerprint, id.0), app.engine.clock.now(), "");
        if let Some(claim) = claim
            && let Some(outcome @ raven_store::Outcome::Replayed(_)) = app.engine.store.find_creation(tenant, &claim).await?
        {
            return answer(outcome, String::new()).map(Some);
        }
    }
    Ok(None)
}

async fn one(app: &App, session: &Session<AsAdmin>, id: &str) -> Result<KeyRecord> {
    let id = KeyId::parse(id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let found = app.engine.store.find_key(session.tenant_id(), session.confined_to(), id).await?;
    found.ok_or_else(|| Problem::of(codes::NOT_FOUND))
}

/// Revoke an API key. Its next request is refused.
#[utoipa::path(delete, path = "/v1/admin/api-keys/{id}", tag = "keys", params(("id" = uuid::Uuid, Path, description = "The key's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")))]
pub async fn revoke(session: Session<AsAdmin>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<StatusCode> {
    query.none()?;
    let key = one(&app, &session, &id).await?;
    let mut entry = session.entry("api_key.revoke", key.id.0);
    entry.before = value(&KeyView::from(key.clone()));
    let (tenant, environment) = (session.tenant_id(), session.confined_to());
    let (now, audit) = (app.engine.clock.now(), session.record(&app, &entry));
    if !app.engine.store.revoke_key(tenant, environment, key.id, now, audit).await? {
        return Err(Problem::of(codes::NOT_FOUND));
    }
    app.engine.keyring.forget(&key.prefix).await;
    Ok(StatusCode::NO_CONTENT)
}
