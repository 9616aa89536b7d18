//! Callbacks of providers, as they come from outside. No caller is asked for: the callback itself proves whose it is.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use raven_core::{Channel, ConfigId, TenantId};
use raven_engine::callbacks::{Answer, Arrival, Refusal};
use raven_providers::Road;

use super::AppState;
use crate::{
    App, body, codes,
    openapi::closed::{ChannelName, ProviderId},
    problem::{Problem, Result},
};

/// The query parameter that a token may stand in.
const TOKEN: &str = "token";
/// What 200 means.
const TAKEN: &str = "Taken. The body is empty, but for providers that wait for something in it.";

/// What the path of a callback names.
struct Target {
    channel: String,
    provider: String,
    tenant: String,
    config: Option<ConfigId>,
    token: Option<String>,
}

/// What the path of a callback says, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "read by place; this lists them for the document")]
pub struct ToTenant {
    /// The provider's channel.
    #[param(inline, value_type = ChannelName)]
    channel: String,
    /// Id of the provider in the catalog.
    #[param(inline, value_type = ProviderId)]
    provider: String,
    /// The tenant's id.
    #[param(rename = "tenantId", format = "uuid", max_length = 36, example = "6d5cf5b0-2d7a-4f6e-8b0a-0d6f2a4f9f11")]
    tenant: String,
}

/// The same, to one config.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "read by place; this lists them for the document")]
pub struct ToConfig {
    /// The provider's channel.
    #[param(inline, value_type = ChannelName)]
    channel: String,
    /// Id of the provider in the catalog.
    #[param(inline, value_type = ProviderId)]
    provider: String,
    /// The tenant's id.
    #[param(rename = "tenantId", format = "uuid", max_length = 36, example = "6d5cf5b0-2d7a-4f6e-8b0a-0d6f2a4f9f11")]
    tenant: String,
    /// The config's id, or a token.
    #[param(rename = "providerConfigId", max_length = 128, pattern = "^[A-Za-z0-9-]+$", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")]
    config: String,
}

/// The same, with the config's token.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "read by place; this lists them for the document")]
pub struct WithToken {
    /// The provider's channel.
    #[param(inline, value_type = ChannelName)]
    channel: String,
    /// Id of the provider in the catalog.
    #[param(inline, value_type = ProviderId)]
    provider: String,
    /// The tenant's id.
    #[param(rename = "tenantId", format = "uuid", max_length = 36, example = "6d5cf5b0-2d7a-4f6e-8b0a-0d6f2a4f9f11")]
    tenant: String,
    /// The config's id.
    #[param(rename = "providerConfigId", format = "uuid", max_length = 36, example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")]
    config: String,
    /// The config's token.
    #[param(max_length = 128, pattern = "^[A-Za-z0-9]+$", example = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d")]
    token: String,
}

fn bare(channel: String, provider: String, tenant: String) -> Target {
    Target { channel, provider, tenant, config: None, token: None }
}

/// What follows the tenant is a config's id, or else a token.
fn followed(channel: String, provider: String, tenant: String, rest: &str) -> Target {
    match ConfigId::parse(rest) {
        Some(config) => Target { config: Some(config), ..bare(channel, provider, tenant) },
        None => Target { token: Some(rest.to_owned()), ..bare(channel, provider, tenant) },
    }
}

fn whole(channel: String, provider: String, tenant: String, config: &str, token: String) -> Target {
    // What is no id is the id of no config.
    let config = Some(ConfigId::parse(config).unwrap_or(ConfigId(uuid::Uuid::nil())));
    Target { config, token: Some(token), ..bare(channel, provider, tenant) }
}

/// A callback of a provider to any of a tenant's configs of a provider.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(post, path = "/v1/webhooks/{channel}/{provider}/{tenantId}", tag = "callbacks", params(ToTenant), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn to_tenant(
    State(app): AppState,
    Path((channel, provider, tenant)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, bare(channel, provider, tenant), request).await
}

/// A callback that comes by `GET`, or a provider's question whether the URL is ours, to any of a tenant's configs of a provider.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(get, path = "/v1/webhooks/{channel}/{provider}/{tenantId}", tag = "callbacks", params(ToTenant), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn ask_tenant(
    State(app): AppState,
    Path((channel, provider, tenant)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, bare(channel, provider, tenant), request).await
}

/// A callback of a provider to a provider config, or with its token in the config's place.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(post, path = "/v1/webhooks/{channel}/{provider}/{tenantId}/{providerConfigId}", tag = "callbacks", params(ToConfig), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn to_config(
    State(app): AppState,
    Path((channel, provider, tenant, rest)): Path<(String, String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, followed(channel, provider, tenant, &rest), request).await
}

/// A callback that comes by `GET`, or a provider's question whether the URL is ours, to a provider config, or with its token in the config's place.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(get, path = "/v1/webhooks/{channel}/{provider}/{tenantId}/{providerConfigId}", tag = "callbacks", params(ToConfig), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn ask_config(
    State(app): AppState,
    Path((channel, provider, tenant, rest)): Path<(String, String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, followed(channel, provider, tenant, &rest), request).await
}

/// A callback of a provider to a provider config, with its token.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(post, path = "/v1/webhooks/{channel}/{provider}/{tenantId}/{providerConfigId}/{token}", tag = "callbacks", params(WithToken), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn to_config_with_token(
    State(app): AppState,
    Path((channel, provider, tenant, config, token)): Path<(String, String, String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, whole(channel, provider, tenant, &config, token), request).await
}

/// A callback that comes by `GET`, or a provider's question whether the URL is ours, to a provider config, with its token.
///
/// It is taken only with the provider's signature, or with the config's token where the provider signs nothing. The whole URL is
/// `callbackUrl` of the provider config. When this answers 200 the callback is durable.
#[utoipa::path(get, path = "/v1/webhooks/{channel}/{provider}/{tenantId}/{providerConfigId}/{token}", tag = "callbacks", params(WithToken), responses((status = 200, description = TAKEN, content_type = "text/plain", body = String)), security(()))]
pub async fn ask_config_with_token(
    State(app): AppState,
    Path((channel, provider, tenant, config, token)): Path<(String, String, String, String, String)>,
    request: Request,
) -> Result<Response> {
    take(&app, whole(channel, provider, tenant, &config, token), request).await
}

async fn take(app: &Arc<App>, target: Target, request: Request) -> Result<Response> {
    let not_found = || Problem::new(codes::NOT_FOUND, "No provider of the catalog calls back here.");
    let channel = Channel::parse(&target.channel).ok_or_else(not_found)?;
    let provider = raven_providers::find(&target.provider).filter(|p| p.spec.channel == channel);
    let provider = provider.filter(|p| p.spec.callbacks.is_some_and(|callbacks| callbacks.road == Road::Url));
    let provider = provider.ok_or_else(not_found)?.spec.id;
    // Whoever has no proof learns nothing of which tenants there are.
    let tenant = TenantId::parse(&target.tenant).unwrap_or(TenantId(uuid::Uuid::nil()));

    let uri = request.uri().clone();
    let (query, asked) = without_token(uri.query().unwrap_or_default());
    let url = format!("{}{}", app.settings.public_url, uri.path_and_query().map_or("/", |p| p.as_str()));
    let (parts, body) = request.into_parts();
    let token = target.token.or(asked).or_else(|| basic_password(&parts.headers));
    let (body, _share) = body::raw(Request::from_parts(parts.clone(), body), app, body::LIMIT).await?;
    let arrival = Arrival {
        tenant,
        channel,
        provider,
        config: target.config,
        token: token.as_deref(),
        method: &parts.method,
        url: &url,
        query: &query,
        headers: &parts.headers,
        body: &body,
    };
    match app.engine.reception.take(&arrival).await {
        Ok(Answer::Taken("")) => Ok(StatusCode::OK.into_response()),
        Ok(Answer::Taken(text)) => Ok(plain(text.to_owned())),
        Ok(Answer::Challenged(text)) => Ok(plain(text)),
        Err(Refusal::Unproven) => Err(Problem::of(codes::UNPROVEN_CALLBACK)),
        Err(Refusal::Unavailable) => Err(Problem::of(codes::OVERLOADED)),
    }
}

/// An answer for a machine that compares it; no browser is to make anything of it.
fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], text).into_response()
}

/// The query without the token, and the token. All else stays as it was sent.
fn without_token(query: &str) -> (String, Option<String>) {
    let mut token = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { return !pair.is_empty() };
            if name != TOKEN {
                return true;
            }
            token = token.take().or_else(|| Some(value.into_owned()));
            false
        })
        .collect();
    (rest.join("&"), token)
}

/// The password of `Authorization: Basic …` (RFC 7617).
fn basic_password(headers: &HeaderMap) -> Option<String> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    plain.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out_of_the_query_and_nothing_else_is() {
        for (query, rest, token) in [
            ("", "", None),
            ("a=1&b=%20x+y&c", "a=1&b=%20x+y&c", None),
            ("a=1&token=t%2B&b=2", "a=1&b=2", Some("t+")),
            ("token=1&token=2", "", Some("1")),
            ("tokens=1", "tokens=1", None),
        ] {
            assert_eq!(without_token(query), (rest.to_owned(), token.map(str::to_owned)), "{query}");
        }
    }

    #[test]
    fn a_token_may_be_the_password_of_basic_authentication() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
            basic_password(&headers)
        };
        assert_eq!(of("Basic dXNlcjpwYXNzOndvcmQ=").as_deref(), Some("pass:word"));
        assert_eq!(of("basic dXNlcjpw").as_deref(), Some("p"));
        for bad in ["Bearer dXNlcjpw", "Basic", "Basic !!", "Basic dXNlcg=="] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
