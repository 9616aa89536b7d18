//! One file for each resource: its wire types, and handlers that turn wire into domain and back.

pub mod audit_log;
pub mod callbacks;
pub mod catalog;
pub mod dry_run;
pub mod explain;
pub mod extras;
pub mod health;
pub mod inbound_messages;
pub mod invitations;
pub mod keys;
pub mod me;
pub mod members;
pub mod messages;
pub mod provider_test;
pub mod providers;
pub mod routing;
pub mod sandbox;
pub mod send_request;
pub mod suppression_files;
pub mod suppressions;
pub mod tenant;
pub mod tenants;
pub mod unsubscribe;
pub mod usage;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use raven_core::{Environment, Timestamp};
use raven_store::{Claim, Operation, Outcome, Scope};
use uuid::Uuid;

use crate::{
    App, codes,
    fields::Fields,
    idempotency,
    problem::{Problem, Result},
};

/// A fresh random id (UUIDv4).
fn fresh_id(app: &App) -> Result<Uuid> {
    let mut bytes = [0; 16];
    app.engine.entropy.fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// Reads the name of an environment; `usual` when none is given.
fn environment(fields: &mut Fields<'_>, name: Option<&str>, usual: Environment) -> Option<Environment> {
    let Some(name) = name else { return Some(usual) };
    let found = Environment::parse(name);
    if found.is_none() {
        fields.note("environment", "must be live or test");
    }
    found
}

/// The claim of a creation on its caller's key, if one was given; `response` is what a replay gets.
fn claim(
    app: &App,
    key: Option<String>,
    scope: Scope,
    operation: Operation,
    fingerprint: [u8; 16],
    now: Timestamp,
    response: &str,
) -> Option<Claim> {
    key.map(|key| Claim {
        scope,
        operation,
        key,
        fingerprint,
        expires_at: now.after(app.settings.idempotency_kept),
        response: response.to_owned(),
    })
}

/// The fingerprint of a request to a path with an id: the same body to another id is another payload.
fn bound_to(fingerprint: [u8; 16], id: Uuid) -> [u8; 16] {
    std::array::from_fn(|i| fingerprint[i] ^ id.as_bytes()[i])
}

/// The answer to a creation: 201 with `created`, or the stored body of the first time.
fn answer(outcome: Outcome, created: String) -> Result<Response> {
    match outcome {
        Outcome::Created => Ok(json(StatusCode::CREATED, created)),
        Outcome::Replayed(stored) => {
            let mut response = json(StatusCode::CREATED, stored);
            response.headers_mut().insert(idempotency::REPLAYED, idempotency::TRUE);
            Ok(response)
        }
        Outcome::KeyReused => Err(Problem::of(codes::IDEMPOTENCY_KEY_REUSED)),
    }
}

/// A view as the value that the audit log keeps.
fn value(view: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(view).unwrap_or_default()
}

/// An answer of ready-made JSON.
fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A value as JSON text.
fn text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| {
        tracing::error!(error = %e, "an answer could not be written");
        Problem::of(codes::INTERNAL)
    })
}

/// The shared state, as handlers take it.
type AppState = axum::extract::State<Arc<App>>;
