//! A tenant's provider configs. Secrets go in and never come out.

use std::borrow::Cow;

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use raven_core::{ConfigId, Environment, Timestamp, json::Json, permission::Role};
use raven_providers::{CATALOG, Class, Members, Provider};
use raven_store::{
    ConfigRecord, NewConfig, Operation, Outcome, Routing, Scope, TenantRecord,
    providers::{FAILED, UNVERIFIED, VERIFIED},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    AppState, answer, claim, fresh_id,
    routing::{RoutingFields, RulesRequest, RulesView},
    text, value,
};
use crate::{
    App,
    body::Body,
    caller::{AsAdmin, AsViewer, Session},
    codes,
    fields::request,
    idempotency,
    openapi::closed::{ChannelName, ConfigStatusName, ProviderId, Setting},
    page::{self, Page, PageParameters},
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

/// What a config's status can be.
pub(crate) const STATUSES: &[&str] = &[UNVERIFIED, VERIFIED, FAILED];
/// How often a change is made anew when somebody else's came between.
const CHANGES: usize = 5;

request! {
    /// What changes about a provider config. What is absent stays.
    pub struct ConfigChangeRequest {
        /// Its name for people: 2 to 80 characters.
        #[schema(min_length = 2, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Africa's Talking, production")]
        label: Cow<'a, str> = "label",
        /// Public settings to set, by the names in the catalog; `null` takes one away. The others stay.
        #[schema(required = false, value_type = std::collections::BTreeMap<String, Setting>, example = json!({"sender_id": "ACME"}))]
        public_config: Json<'a> = "publicConfig",
        /// Secret settings to set, by the names in the catalog; `null` takes one away. The others stay.
        #[schema(required = false, value_type = std::collections::BTreeMap<String, Setting>, example = json!({"api_key": "…"}))]
        secret_config: Json<'a> = "secretConfig",
        /// Whether callbacks are taken that nothing proves to be the provider's. Such a callback moves only a message that it names by
        /// the provider's id, and suppresses nobody. Whoever learns such an id can say anything of that message.
        #[schema(example = false)]
        allow_unsigned_callbacks: bool = "allowUnsignedCallbacks",
        /// Lower ones come first: 0 to 1000, 100 when absent.
        #[schema(minimum = 0, maximum = 1000, example = 100)]
        priority: i64 = "priority",
        /// Its share of the messages among configs of equal priority: 0 to 1000, 100 when absent. With 0 it is used only when no other
        /// is left.
        #[schema(minimum = 0, maximum = 1000, example = 100)]
        weight: i64 = "weight",
        /// Which recipients it takes. Absent or empty: all.
        #[schema(required = false, value_type = RulesRequest)]
        rules: Json<'a> = "rules",
        /// Calls a second, at most: 1 to 10000. Messages beyond it wait.
        #[schema(minimum = 1, maximum = 10_000, example = 50)]
        rate_per_second: i64 = "ratePerSecond",
        /// Calls at once after a rest, where there is a rate: 1 to 10000, as many as the rate when absent.
        #[schema(minimum = 1, maximum = 10_000, example = 50)]
        burst: i64 = "burst",
        /// Calls at a time of each process, at most: 1 to 512.
        #[schema(minimum = 1, maximum = 512, example = 64)]
        concurrency: i64 = "concurrency",
    }
}

request! {
    /// A provider config to create: the tenant's own credentials at a provider of the catalog.
    pub struct ConfigRequest {
        /// Id of the provider in the catalog.
        #[schema(required, value_type = ProviderId)]
        provider: Cow<'a, str> = "provider",
        /// Its name for people: 2 to 80 characters.
        #[schema(required, min_length = 2, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Africa's Talking, production")]
        label: Cow<'a, str> = "label",
        /// The provider's public settings, by the names in the catalog.
        #[schema(required = false, value_type = std::collections::BTreeMap<String, Setting>, example = json!({"username": "acme", "sender_id": "ACME"}))]
        public_config: Json<'a> = "publicConfig",
        /// The provider's secret settings, by the names in the catalog. Never returned.
        #[schema(required = false, value_type = std::collections::BTreeMap<String, Setting>, example = json!({"api_key": "…"}))]
        secret_config: Json<'a> = "secretConfig",
        /// Whether callbacks are taken that nothing proves to be the provider's: `false` when absent. Such a callback moves only a message
        /// that it names by the provider's id, and suppresses nobody. Whoever learns such an id can say anything of that message.
        #[schema(default = false)]
        allow_unsigned_callbacks: bool = "allowUnsignedCallbacks",
        /// Lower ones come first: 0 to 1000, 100 when absent.
        #[schema(minimum = 0, maximum = 1000, example = 100)]
        priority: i64 = "priority",
        /// Its share of the messages among configs of equal priority: 0 to 1000, 100 when absent. With 0 it is used only when no other
        /// is left.
        #[schema(minimum = 0, maximum = 1000, example = 100)]
        weight: i64 = "weight",
        /// Which recipients it takes. Absent or empty: all.
        #[schema(required = false, value_type = RulesRequest)]
        rules: Json<'a> = "rules",
        /// Calls a second, at most: 1 to 10000. Messages beyond it wait.
        #[schema(minimum = 1, maximum = 10_000, example = 50)]
        rate_per_second: i64 = "ratePerSecond",
        /// Calls at once after a rest, where there is a rate: 1 to 10000, as many as the rate when absent.
        #[schema(minimum = 1, maximum = 10_000, example = 50)]
        burst: i64 = "burst",
        /// Calls at a time of each process, at most: 1 to 512.
        #[schema(minimum = 1, maximum = 512, example = 64)]
        concurrency: i64 = "concurrency",
        /// The same key with the same payload never creates twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

/// A provider config, without its secrets.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ConfigId,
    /// Id of the provider in the catalog.
    #[schema(value_type = ProviderId)]
    pub provider: String,
    /// The provider's channel.
    #[schema(value_type = ChannelName)]
    pub channel: &'static str,
    /// Its label.
    pub label: String,
    /// Whether its credentials were tried.
    #[schema(value_type = ConfigStatusName)]
    pub status: String,
    /// Why its status is `failed`, or could not be found out.
    #[schema(required)]
    pub status_reason: Option<String>,
    /// Its public settings.
    #[schema(value_type = std::collections::BTreeMap<String, Setting>)]
    pub config_public: Value,
    /// Where the provider is to call: the whole URL, for its console or settings. Shown to admins only; `null` for others, and for
    /// providers that make no callbacks, or tell over a session that Raven keeps.
    #[schema(required, format = "uri", max_length = 2048)]
    pub callback_url: Option<String>,
    /// Whether callbacks are taken that nothing proves to be the provider's. A warning: anybody could make them.
    pub allow_unsigned_callbacks: bool,
    /// Lower ones come first.
    pub priority: i16,
    /// Its share among those of equal priority.
    pub weight: i16,
    /// Which recipients it takes; `null`: all.
    #[schema(required)]
    pub rules: Option<RulesView>,
    /// Calls a second, at most; `null`: no limit.
    #[schema(required)]
    pub rate_per_second: Option<i32>,
    /// Calls at once after a rest.
    #[schema(required)]
    pub burst: Option<i32>,
    /// Calls at a time of each process, at most; `null`: as many as the operator allows.
    #[schema(required)]
    pub concurrency: Option<i32>,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
}

impl ConfigView {
    /// With the URL for callbacks, for somebody who may see it.
    fn with_callback_url(self, app: &App, tenant: &TenantRecord, record: ConfigRecord) -> Self {
        Self { callback_url: app.engine.callback_url(&app.settings.public_url, tenant, record), ..self }
    }
}

impl From<ConfigRecord> for ConfigView {
    fn from(r: ConfigRecord) -> Self {
        Self {
            id: r.id,
            provider: r.provider,
            channel: r.channel.name(),
            label: r.label,
            status: r.status,
            status_reason: r.status_reason,
            config_public: serde_json::from_str(&r.public).unwrap_or_default(),
            callback_url: None,
            allow_unsigned_callbacks: r.allow_unsigned,
            priority: r.routing.priority,
            weight: r.routing.weight,
            rules: RulesView::of(r.routing.rules.as_deref()),
            rate_per_second: r.routing.rate_per_second,
            burst: r.routing.burst.or(r.routing.rate_per_second),
            concurrency: r.routing.concurrency,
            created_at: r.created_at,
        }
    }
}

/// Create a provider config.
#[utoipa::path(post, path = "/v1/admin/providers", tag = "providers", request_body(content = ConfigRequest, examples(
    ("africas_talking" = (summary = "SMS through Africa's Talking", value = json!({"provider": "africas_talking", "label": "Africa's Talking, production", "publicConfig": {"username": "acme", "sender_id": "ACME"}, "secretConfig": {"api_key": "atsk_example"}}))),
    ("smpp" = (summary = "SMS through an operator's message centre", value = json!({"provider": "smpp", "label": "Our operator", "publicConfig": {"host": "smpp.example.com", "port": 2775, "system_id": "acme", "sender_id": "ACME"}, "secretConfig": {"password": "example"}}))),
    ("smtp" = (summary = "Email through a server of your own", value = json!({"provider": "smtp", "label": "Our mail server", "publicConfig": {"host": "smtp.example.com", "port": 587, "secure": true, "username": "acme", "from_email": "hello@example.com"}, "secretConfig": {"password": "an example"}}))),
)), responses((status = 201, body = ConfigView)))]
pub async fn create(session: Session<AsAdmin>, State(app): AppState, headers: HeaderMap, query: RawQuery, body: Body) -> Result<Response> {
    session.require_live()?;
    query.none()?;
    let mut fields = body.fields(ConfigRequest::FIELDS)?;
    let request = ConfigRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let (fingerprint, now) = (fields.fingerprint(), app.engine.clock.now());
    match request.label.as_deref() {
        None => fields.require("label", "is required"),
        Some(label) => {
            fields.check("label", crate::fields::line(label, 2, 80));
        }
    }
    let provider = match request.provider.as_deref() {
        None => {
            fields.require("provider", "is required");
            None
        }
        Some(id) => {
            let found = raven_providers::find(id);
            if found.is_none() {
                let known: Vec<&str> = CATALOG.iter().map(|p| p.spec.id).collect();
                fields.note("provider", format!("must be one of the catalog: {}", known.join(", ")));
            }
            found
        }
    };
    let settings = provider.and_then(|provider| {
        let public = request.public_config.map(into_value);
        let secret = request.secret_config.map(into_value);
        provider.spec.validate(public.as_ref(), secret.as_ref()).map_err(|problems| fields.add_all(problems)).ok()
    });
    let channel = provider.map(|provider| provider.spec.channel);
    let mut routing = Routing::default();
    let change = RoutingFields {
        priority: request.priority,
        weight: request.weight,
        rules: request.rules,
        rate_per_second: request.rate_per_second,
        burst: request.burst,
        concurrency: request.concurrency,
    }
    .parse(channel, &mut fields);
    if let Err((field, message)) = change.apply(&mut routing) {
        fields.note(field, message);
    }
    fields.finish()?;
    let (Some(provider), Some((public, secret)), Some(label)) = (provider, settings, request.label) else {
        return Err(Problem::of(codes::VALIDATION_FAILED));
    };

    bindable(provider, &public, &secret)?;

    let (id, tenant) = (ConfigId(fresh_id(&app)?), session.tenant_id());
    let plain = zeroize::Zeroizing::new(text(&secret)?);
    let record = ConfigRecord {
        id,
        tenant,
        provider: provider.spec.id.to_owned(),
        channel: provider.spec.channel,
        label: label.into_owned(),
        status: UNVERIFIED.to_owned(),
        status_reason: None,
        allow_unsigned: request.allow_unsigned_callbacks.unwrap_or(false),
        public: text(&public)?,
        secret: app.engine.vault.seal_config(&session.tenant.data_key, tenant, id, plain.as_bytes())?,
        created_at: now,
        routing,
    };
    // The token in the URL is kept neither in the log nor for a replay: it is added to what is answered.
    let view = ConfigView::from(record.clone());
    let kept = text(&view)?;
    let mut entry = session.entry("provider_config.create", id.0);
    entry.after = value(&view);
    let audit = session.record(&app, &entry);
    let claim = claim(&app, key, Scope::Tenant(tenant, Environment::Live), Operation::CreateConfig, fingerprint, now, &kept);
    let outcome = app.engine.store.create_config(NewConfig { record: record.clone(), claim, audit }).await?;
    app.engine.configs_changed(tenant, record.channel).await;
    match outcome {
        Outcome::Replayed(stored) => {
            let stored = with_own_callback_url(&app, &session, stored).await?;
            answer(Outcome::Replayed(stored), kept)
        }
        other => answer(other, text(&view.with_callback_url(&app, &session.tenant, record))?),
    }
}

/// What was answered to a creation, with the URL of the config that it made, if that is still there.
async fn with_own_callback_url<R>(app: &App, session: &Session<R>, stored: String) -> Result<String> {
    let mut view: Value = serde_json::from_str(&stored).unwrap_or_default();
    let id = view["id"].as_str().and_then(ConfigId::parse);
    let found = match id {
        Some(id) => app.engine.store.find_config(session.tenant_id(), id).await?,
        None => None,
    };
    let Some(record) = found else { return Ok(stored) };
    view["callbackUrl"] = app.engine.callback_url(&app.settings.public_url, &session.tenant, record).into();
    text(&view)
}

/// The tenant's provider configs, newest first.
#[utoipa::path(get, path = "/v1/admin/providers", tag = "providers", params(PageParameters),
    responses((status = 200, body = Page<ConfigView>)))]
pub async fn list(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<ConfigView>>> {
    session.require_live()?;
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let scope = page::Scope::new("providers", session.tenant_id().0);
    let before = scope.open(&app.engine.cursors, cursor.as_deref())?.map(|(at, id)| (at, ConfigId(id)));
    let rows = app.engine.store.list_configs(session.tenant_id(), before, limit + 1).await?;
    Ok(axum::Json(page::page(rows, limit, &scope, &app.engine.cursors, |c| (c.created_at, c.id.0), |record| shown(&app, &session, record))))
}

/// One provider config.
#[utoipa::path(get, path = "/v1/admin/providers/{id}", tag = "providers", params(("id" = uuid::Uuid, Path, description = "The config's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 200, body = ConfigView)))]
pub async fn find(session: Session<AsViewer>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<axum::Json<ConfigView>> {
    session.require_live()?;
    query.none()?;
    let id = ConfigId::parse(&id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let found = app.engine.store.find_config(session.tenant_id(), id).await?;
    found.map(|record| axum::Json(shown(&app, &session, record))).ok_or_else(|| Problem::of(codes::NOT_FOUND))
}

/// A config as this caller may see it.
fn shown<R>(app: &App, session: &Session<R>, record: ConfigRecord) -> ConfigView {
    let view = ConfigView::from(record.clone());
    if session.role >= Role::Admin { view.with_callback_url(app, &session.tenant, record) } else { view }
}

/// Change a provider config. Changed settings make it `unverified`; messages go through it with the new ones at once.
#[utoipa::path(patch, path = "/v1/admin/providers/{id}", tag = "providers", params(("id" = uuid::Uuid, Path, description = "The config's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), request_body = ConfigChangeRequest, responses((status = 200, body = ConfigView)))]
pub async fn update(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<ConfigView>> {
    session.require_live()?;
    query.none()?;
    let mut fields = body.fields(ConfigChangeRequest::FIELDS)?;
    let request = ConfigChangeRequest::read(&mut fields);
    if let Some(label) = request.label.as_deref() {
        fields.check("label", crate::fields::line(label, 2, 80));
    } else if fields.is_null("label") {
        fields.note("label", "can't be taken away");
    }
    let (public, secret) = (request.public_config.map(into_value), request.secret_config.map(into_value));
    for (name, side) in [("publicConfig", &public), ("secretConfig", &secret)] {
        if side.as_ref().is_some_and(|side| !side.is_object()) {
            fields.note(name, "must be an object");
        }
    }
    if request.allow_unsigned_callbacks.is_none() && fields.is_null("allowUnsignedCallbacks") {
        fields.note("allowUnsignedCallbacks", "can't be taken away");
    }
    let tenant = session.tenant_id();
    let id = ConfigId::parse(&id);
    // The rules depend on the channel, which never changes.
    let channel = match id.filter(|_| request.rules.is_some()) {
        Some(id) => app.engine.store.find_config(tenant, id).await?.map(|config| config.channel),
        None => None,
    };
    let routing = RoutingFields {
        priority: request.priority,
        weight: request.weight,
        rules: request.rules,
        rate_per_second: request.rate_per_second,
        burst: request.burst,
        concurrency: request.concurrency,
    }
    .parse(channel, &mut fields);
    fields.finish()?;
    let id = id.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    for _ in 0..CHANGES {
        let old = app.engine.store.find_config(tenant, id).await?.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
        let mut new = old.clone();
        if let Some(label) = &request.label {
            new.label = label.to_string();
        }
        if public.is_some() || secret.is_some() {
            resettle(&app, &session, &mut new, public.as_ref(), secret.as_ref())?;
        }
        if let Some(allow) = request.allow_unsigned_callbacks {
            new.allow_unsigned = allow;
        }
        routing.apply(&mut new.routing).map_err(|(field, message)| Problem::field(field, message))?;
        let view = ConfigView::from(new.clone());
        let mut entry = session.entry("provider_config.update", id.0);
        (entry.before, entry.after) = (value(&ConfigView::from(old.clone())), value(&view));
        if app.engine.store.replace_config(&old, &new, Some(session.record(&app, &entry))).await? {
            app.engine.configs_changed(tenant, new.channel).await;
            return Ok(axum::Json(view.with_callback_url(&app, &session.tenant, new)));
        }
    }
    Err(Problem::new(codes::INVALID_STATE, "The config is being changed by others. Send the request again."))
}

/// Puts changed settings into a record, checked and sealed.
fn resettle<R>(
    app: &crate::App,
    session: &Session<R>,
    record: &mut ConfigRecord,
    public: Option<&Value>,
    secret: Option<&Value>,
) -> Result<()> {
    let provider = raven_providers::find(&record.provider).ok_or_else(|| {
        Problem::new(codes::INVALID_STATE, "This version does not know the config's provider, so its settings can't be changed.")
    })?;
    let opened = app.engine.vault.open_config(&session.tenant.data_key, record.tenant, record.id, &record.secret)?;
    let stored = |bytes: &[u8]| serde_json::from_slice::<Members>(bytes).unwrap_or_default();
    let public = Value::Object(merged(stored(record.public.as_bytes()), public));
    let secret = Value::Object(merged(stored(&opened), secret));
    let (public, secret) = provider.spec.validate(Some(&public), Some(&secret)).map_err(Problem::fields)?;
    bindable(provider, &public, &secret)?;
    let plain = zeroize::Zeroizing::new(text(&secret)?);
    record.public = text(&public)?;
    record.secret = app.engine.vault.seal_config(&session.tenant.data_key, record.tenant, record.id, plain.as_bytes())?;
    (record.status, record.status_reason) = (UNVERIFIED.to_owned(), None);
    Ok(())
}

/// Refuses settings that are what they should be one by one, and still can't be used: a key that is none, say.
fn bindable(provider: &Provider, public: &Members, secret: &Members) -> Result<()> {
    provider.bind(public, secret).map(drop).map_err(|why| match why.split_once(' ') {
        // It begins with the setting's name.
        Some((field, message)) if field.starts_with("publicConfig.") || field.starts_with("secretConfig.") => {
            Problem::field(field, message)
        }
        _ => Problem::field("secretConfig", why),
    })
}

/// JSON Merge Patch (RFC 7396) of one level.
fn merged(mut members: Members, change: Option<&Value>) -> Members {
    for (name, value) in change.and_then(Value::as_object).into_iter().flatten() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    members
}

/// Ask the provider whether a config's credentials work. Nothing is sent.
///
/// The config is `verified` or `failed` afterwards. Where the provider can't be asked (it does not answer, or the key may send but
/// nothing else), the status stays, and `statusReason` says why.
#[utoipa::path(post, path = "/v1/admin/providers/{id}/verify", tag = "providers", params(("id" = uuid::Uuid, Path, description = "The config's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 200, body = ConfigView)))]
pub async fn verify(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
) -> Result<axum::Json<ConfigView>> {
    session.require_live()?;
    query.none()?;
    let (id, tenant) = (ConfigId::parse(&id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?, session.tenant_id());
    let old = app.engine.store.find_config(tenant, id).await?.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    app.engine.directory.forget(tenant).await;
    let view = app.engine.directory.tenant(tenant).await.map_err(|e| Problem::from(&*e))?;
    let (status, reason) = match view.as_ref().and_then(|view| view.connection(id)) {
        None => (FAILED, Some("unusable: this version can't use the settings; set them again".to_owned())),
        Some(connection) => match app.engine.calls.verify(connection).await {
            Ok(()) => (VERIFIED, None),
            Err(e) => {
                let decided = matches!(e.class, Class::Credentials | Class::Rejected);
                (if decided { FAILED } else { &old.status }, Some(format!("{}: {}", e.code, e.message)))
            }
        },
    };
    let new = ConfigRecord { status: status.to_owned(), status_reason: reason, ..old.clone() };
    let view = ConfigView::from(new.clone());
    let mut entry = session.entry("provider_config.verify", id.0);
    (entry.before, entry.after) = (value(&ConfigView::from(old.clone())), value(&view));
    if !app.engine.store.replace_config(&old, &new, Some(session.record(&app, &entry))).await? {
        return Err(Problem::new(codes::INVALID_STATE, "The config was changed while it was verified. Verify it again."));
    }
    app.engine.configs_changed(tenant, old.channel).await;
    Ok(axum::Json(view.with_callback_url(&app, &session.tenant, new)))
}

/// Delete a provider config and its secrets. Messages that wait for it go through another config of the channel, or wait.
#[utoipa::path(delete, path = "/v1/admin/providers/{id}", tag = "providers", params(("id" = uuid::Uuid, Path, description = "The config's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")))]
pub async fn delete(session: Session<AsAdmin>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<StatusCode> {
    session.require_live()?;
    query.none()?;
    let id = ConfigId::parse(&id).ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let found = app.engine.store.find_config(session.tenant_id(), id).await?.ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let mut entry = session.entry("provider_config.delete", id.0);
    entry.before = value(&ConfigView::from(found));
    if !app.engine.store.delete_config(session.tenant_id(), id, session.record(&app, &entry)).await? {
        return Err(Problem::of(codes::NOT_FOUND));
    }
    app.engine.directory.forget(session.tenant_id()).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A value of the request as the provider's schema reads it.
fn into_value(json: Json<'_>) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
        Json::Number(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => Value::from(n as i64),
        Json::Number(n) => Value::from(n),
        Json::String(s) => Value::String(s.into_owned()),
        Json::Array(items) => Value::Array(items.into_iter().map(into_value).collect()),
        Json::Object(members) => Value::Object(members.into_iter().map(|(k, v)| (k.into_owned(), into_value(v))).collect()),
    }
}
