//! The catalog of providers: what each is, and which settings it wants.

use axum::extract::State;
use raven_providers::{CATALOG, Field, Kind, Road, Spec};
use serde::Serialize;

use super::AppState;
use crate::{
    caller::{AsViewer, Session},
    openapi::closed::{ChannelName, ProviderId, SettingKindName},
    problem::Result,
    query::RawQuery,
};

/// The catalog.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CatalogView {
    /// Every provider.
    pub data: Vec<ProviderView>,
}

/// A provider of the catalog.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderView {
    /// Its id.
    #[schema(value_type = ProviderId)]
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its channel.
    #[schema(value_type = ChannelName)]
    pub channel: &'static str,
    /// Its own documentation.
    #[schema(format = "uri")]
    pub docs_url: &'static str,
    /// Fields of a message that it carries, of those that not every provider does.
    pub features: Vec<&'static str>,
    /// Its settings.
    pub fields: Vec<FieldView>,
    /// How it calls back, or tells in another way what becomes of messages. Absent for a provider that never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = CatalogCallbacksView)]
    pub callbacks: Option<CatalogCallbacksView>,
}

/// How a provider calls back.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogCallbacksView {
    /// The pattern of the URL; `callbackUrl` of a provider config is the whole one. Absent where all comes over a session that
    /// Raven keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String, max_length = 256, example = "https://raven.example/v1/webhooks/sms/twilio/{tenantId}/{providerConfigId}")]
    pub url_pattern: Option<String>,
    /// How a callback is known to be the provider's.
    pub authenticity: &'static str,
    /// What is to be done for callbacks to come.
    pub setup: &'static str,
}

/// A setting of a provider.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldView {
    /// Its name in `publicConfig` or `secretConfig`.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// Does it belong in `secretConfig`?
    pub secret: bool,
    /// Must it be given?
    pub required: bool,
    /// What values it takes.
    #[serde(rename = "type")]
    #[schema(value_type = SettingKindName)]
    pub kind: &'static str,
    /// The values of an `enum`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Vec<String>)]
    pub values: Option<&'static [&'static str]>,
    /// What to put there.
    pub help: &'static str,
}

impl ProviderView {
    fn new(spec: &'static Spec, public_url: &str) -> Self {
        let callbacks = spec.callbacks.map(|callbacks| CatalogCallbacksView {
            url_pattern: (callbacks.road == Road::Url)
                .then(|| format!("{public_url}/v1/webhooks/{}/{}/{{tenantId}}/{{providerConfigId}}", spec.channel.name(), spec.id)),
            authenticity: callbacks.authenticity,
            setup: callbacks.setup,
        });
        Self {
            callbacks,
            id: spec.id,
            name: spec.name,
            channel: spec.channel.name(),
            docs_url: spec.docs_url,
            features: spec.features.iter().map(|feature| feature.name()).collect(),
            fields: spec.fields.iter().map(FieldView::from).collect(),
        }
    }
}

impl From<&'static Field> for FieldView {
    fn from(f: &'static Field) -> Self {
        let values = if let Kind::OneOf(values) = f.kind { Some(values) } else { None };
        Self { name: f.name, label: f.label, secret: f.secret, required: f.required, kind: f.kind.name(), values, help: f.help }
    }
}

/// Every provider that Raven can send through, with the settings that each wants.
#[utoipa::path(get, path = "/v1/admin/providers/catalog", tag = "providers", responses((status = 200, body = CatalogView)))]
pub async fn catalog(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<CatalogView>> {
    let _ = session.tenant_id();
    query.none()?;
    Ok(axum::Json(CatalogView { data: CATALOG.iter().map(|p| ProviderView::new(p.spec, &app.settings.public_url)).collect() }))
}
