//! What operators and their tools ask: is it alive, can it accept, what does it count, what does it offer.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use secrecy::ExposeSecret;
use serde::Serialize;
use subtle::ConstantTimeEq;

use super::AppState;
use crate::{
    codes,
    problem::{Problem, Result},
};

/// A state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct HealthView {
    /// `ok`, or what is missing.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = HealthView)), security(()))]
pub async fn healthz() -> axum::Json<HealthView> {
    axum::Json(HealthView { status: "ok" })
}

/// Messages can be accepted: the database is reached, its schema is current, this node is alive and not stopping.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = HealthView), (status = 503, body = HealthView)), security(()))]
pub async fn readyz(State(app): AppState) -> Response {
    let engine = &app.engine;
    let status = if engine.is_stopping() {
        "stopping"
    } else if engine.store.ping().await.is_err() {
        "the database is not reached"
    } else if !engine.store.migrations().await.is_ok_and(|m| m.is_current()) {
        "the database's schema is not current: run raven migrate"
    } else if !engine.membership.is_fresh() {
        "this node's heartbeat is late"
    } else {
        "ok"
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(HealthView { status })).into_response()
}

/// Counters for Prometheus (OpenMetrics). Here only with the operator's metrics token; without one configured there is no
/// such route.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, content_type = "application/openmetrics-text", body = String)), security(("metricsToken" = [])))]
pub async fn metrics(State(app): AppState, headers: HeaderMap) -> Result<Response> {
    let token = app.settings.metrics_token.as_ref().ok_or_else(|| Problem::of(codes::NOT_FOUND))?;
    let given = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| Problem::new(codes::MISSING_CREDENTIALS, "Send the metrics token in Authorization: Bearer."))?;
    let given = given.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
    if !bool::from(given.ct_eq(token.expose_secret().as_bytes())) {
        return Err(Problem::of(codes::INVALID_TOKEN));
    }
    Ok(open_metrics(State(app)).await)
}

pub(crate) async fn open_metrics(State(app): AppState) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.engine.metrics.render()).into_response()
}

/// This document (OpenAPI 3.1).
#[utoipa::path(get, path = "/v1/openapi.json", tag = "operations", responses((status = 200, body = std::collections::BTreeMap<String, serde_json::Value>)), security(()))]
pub async fn openapi(State(app): AppState) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.get_or_init(|| crate::openapi().into()).clone()).into_response()
}
