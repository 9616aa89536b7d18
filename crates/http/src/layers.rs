//! What surrounds every request: its id, where it came from, the catch for panics, the count, the headers that tell a
//! limit, and the body of an error.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use raven_core::{KeyId, TenantId};
use raven_engine::{limiter::Standing, metrics::RequestLabels};
use tokio::time::Instant;

use crate::{App, codes, idempotency, problem::Problem};

/// The header of a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The address at the other end of a connection; the listener adds it to each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What is known of a request beside what it says: made by the outermost layer, read by callers and handlers.
#[derive(Debug)]
pub struct Context {
    /// Its id.
    pub id: HeaderValue,
    /// Where it came from, as far as that is known.
    pub address: Option<IpAddr>,
    standing: OnceLock<Standing>,
    /// Who called, where the log is to say so.
    who: OnceLock<Who>,
}

/// Who called: what a log may say of them.
#[derive(Clone, Debug)]
pub struct Who {
    /// In which tenant.
    pub tenant: TenantId,
    /// With which key; `None`: a human.
    pub key: Option<KeyId>,
}

/// The target of the log's events of requests.
const TARGET: &str = "raven::request";

impl Context {
    /// Its id as text.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Notes where the caller stands with its limit, for the answer's headers. The first note counts.
    pub fn note(&self, standing: Standing) {
        let _ = self.standing.set(standing);
    }

    /// Notes who called, if the log is to say so.
    pub fn is_from(&self, tenant: TenantId, key: Option<KeyId>) {
        if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            let _ = self.who.set(Who { tenant, key });
        }
    }
}

/// Surrounds a request.
pub async fn surround(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let context = Arc::new(Context {
        id: app.request_id(request.headers().get(REQUEST_ID)),
        address: address(&request, app.settings.trusted_proxies),
        standing: OnceLock::new(),
        who: OnceLock::new(),
    });
    let began = Instant::now();
    request.extensions_mut().insert(context.clone());
    let (uri, method) = (request.uri().clone(), name(request.method()));
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            // The panic's own message went to the log by the panic hook.
            tracing::error!(request_id = context.id(), "a handler panicked");
            Problem::of(codes::INTERNAL).into_response()
        }
    };
    let mut code = None;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        code = Some(problem.code.name);
        let body = problem.body(uri.path(), context.id(), app.engine.clock.now());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    let labels = RequestLabels { route: route.unwrap_or_else(|| "none".to_owned()), method, status: response.status().as_u16() };
    if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        let who = context.who.get();
        tracing::debug!(
            target: TARGET,
            request_id = context.id(),
            method = labels.method,
            route = labels.route,
            status = labels.status,
            code,
            tenant = who.map(|who| who.tenant.to_string()),
            key = who.and_then(|who| who.key).map(|key| key.to_string()),
            replayed = response.headers().contains_key(idempotency::REPLAYED),
            duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            "answered"
        );
    }
    app.engine.metrics.requests.get_or_create(&labels).inc();
    if let Some(standing) = context.standing.get() {
        tell(response.headers_mut(), standing);
    }
    response.headers_mut().insert(REQUEST_ID, context.id.clone());
    response
}

/// A method's name, as metrics have it: of methods that callers make up there is no end.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Tells a caller where it stands.
fn tell(headers: &mut HeaderMap, standing: &Standing) {
    headers.insert(RATE_LIMIT, HeaderValue::from(standing.limit));
    headers.insert(RATE_REMAINING, HeaderValue::from(standing.remaining));
    headers.insert(RATE_RESET, HeaderValue::from(standing.reset));
}

/// Where a request came from: the peer, or what the outermost of our own proxies saw. What stands further left in
/// `X-Forwarded-For` is the client's own word, which is not trusted.
fn address(request: &Request, proxies: usize) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if proxies == 0 {
        return peer;
    }
    let values: Vec<&str> = request.headers().get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let list: Vec<&str> = values.iter().flat_map(|v| v.split(',')).map(str::trim).collect();
    let nth = list.len().checked_sub(proxies).and_then(|i| list.get(i));
    nth.and_then(|text| text.parse().ok()).or(peer)
}

impl App {
    /// The caller's id if it is sane, else a fresh one: unique, and no more than a name.
    fn request_id(&self, given: Option<&HeaderValue>) -> HeaderValue {
        let sane = |v: &&HeaderValue| {
            (1..=128).contains(&v.len()) && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
        };
        given.filter(sane).cloned().unwrap_or_else(|| {
            let count = self.request_count.fetch_add(1, Ordering::Relaxed);
            let number = u128::from(self.request_prefix) << 64 | u128::from(count);
            let mut text = [0; 32];
            for (at, digit) in text.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(number >> (124 - 4 * at) & 15) as usize];
            }
            HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_proxies_are_believed() {
        let from = |forwarded: &[&str], proxies| {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(Peer("10.0.0.1".parse().unwrap()));
            for value in forwarded {
                request.headers_mut().append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            }
            address(&request, proxies).unwrap().to_string()
        };
        assert_eq!(from(&["192.0.2.1"], 0), "10.0.0.1");
        assert_eq!(from(&["192.0.2.1"], 1), "192.0.2.1");
        assert_eq!(from(&["6.6.6.6, 192.0.2.1"], 1), "192.0.2.1");
        assert_eq!(from(&["6.6.6.6", "192.0.2.1, 10.1.1.1"], 2), "192.0.2.1");
        assert_eq!(from(&[], 1), "10.0.0.1");
        assert_eq!(from(&["nonsense"], 1), "10.0.0.1");
        assert_eq!(from(&["192.0.2.1"], 3), "10.0.0.1");
    }
}
