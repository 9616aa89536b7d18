//! What surrounds every request: its id, the catch for panics, the count, and the body of an error.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, header};
use raven_engine::metrics::RequestLabels;

use crate::{App, codes, problem::Problem};

/// The header of a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Surrounds a request.
pub async fn surround(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = app.request_id(request.headers().get(REQUEST_ID));
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            // The panic's own message went to the log by the panic hook.
            tracing::error!(request_id = id.to_str().unwrap_or_default(), "a handler panicked");
            Problem::of(codes::INTERNAL).into_response()
        }
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let body = problem.body(&path, id.to_str().unwrap_or_default(), app.engine.clock.now());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    let labels =
        RequestLabels { route: route.unwrap_or_else(|| "none".to_owned()), method: method.to_string(), status: response.status().as_u16() };
    tracing::debug!(
        request_id = id.to_str().unwrap_or_default(),
        route = labels.route,
        method = labels.method,
        status = labels.status,
        "answered"
    );
    app.engine.metrics.requests.get_or_create(&labels).inc();
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

impl App {
    /// The caller's id if it is sane, else a fresh one: unique, and no more than a name.
    fn request_id(&self, given: Option<&HeaderValue>) -> HeaderValue {
        let sane = |v: &&HeaderValue| {
            (1..=128).contains(&v.len()) && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
        };
        given.filter(sane).cloned().unwrap_or_else(|| {
            let count = self.request_count.fetch_add(1, Ordering::Relaxed);
            let id = format!("{:016x}{count:016x}", self.request_prefix);
            HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
        })
    }
}

/// For paths that there are not.
pub async fn no_route() -> Problem {
    Problem::new(codes::NOT_FOUND, "There is no such route. GET /v1/openapi.json lists them all.")
}

/// For methods that a path does not take.
pub async fn no_method() -> Problem {
    Problem::of(codes::METHOD_NOT_ALLOWED)
}
