//! A whole Raven in memory: the real engine and API over a fresh database, with a clock that stands still.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use raven_core::{Clock, TenantId, Timestamp, UserId};
use raven_engine::{
    Engine, Options, OsEntropy, Surroundings,
    audit::{Actor, Entry},
    callbacks::CallbackOptions,
    dispatch::Limits,
    engine::Load,
    plans::{self, Plans},
    shared_clock::Reference,
    smpp::Pace,
    token::Claims,
    transport::ExtraRoots,
    vault::SecretKey,
};
use raven_http::App;
use raven_providers::Find;
use raven_store::{AuditRecord, StateChange, Store};
use secrecy::SecretString;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use crate::{
    clock::TestClock,
    contract::Contract,
    database::{Database, MIGRATED_AT, databases},
};

/// The secret of tokens in tests.
pub const JWT_SECRET: &str = "a shared secret of tests, 32 bytes or more";
/// The metrics token in tests.
pub const METRICS_TOKEN: &str = "metrics-token-of-tests";
/// How long idempotency keys are kept in tests.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long anything in a test may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test decides about its app.
#[derive(Clone, Debug, Default)]
pub struct TestOptions {
    /// Base URLs of simulators by provider id.
    pub base_urls: HashMap<String, String>,
    /// How much may be under way.
    pub limits: Limits,
    /// Trusted beside the public certificate authorities.
    pub extra_roots: ExtraRoots,
    /// Name of the node; `node` when empty.
    pub node_id: String,
    /// How long a call may take; two seconds when zero.
    pub call_cap: Duration,
    /// Are private networks forbidden, as in production?
    pub forbid_private: bool,
    /// Whose time counts for all nodes; the app's own clock when absent.
    pub reference: Option<Arc<TestClock>>,
    /// The plans; `unlimited` for all when absent.
    pub plans: Option<Plans>,
    /// The providers; those of the catalog when absent.
    pub find_provider: Option<Find>,
    /// What is made of callbacks.
    pub callbacks: CallbackOptions,
    /// How patient sessions with message centres are; as in production when absent.
    pub smpp_pace: Option<Pace>,
}

/// A running Raven.
pub struct TestApp {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The clock.
    pub clock: Arc<TestClock>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The API's state.
    pub app: Arc<App>,
    router: Router,
    /// Judges every answer.
    pub contract: Contract,
    /// Kept for as long as the app lives.
    pub database: Arc<Database>,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; `null` when it is empty or not JSON.
    pub body: Value,
    /// The body as it came.
    pub raw: Bytes,
}

impl Answer {
    /// Panics unless the status is this; returns the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.raw));
        self.body
    }

    /// Panics unless it is an error with this status and code; returns the body.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["statusCode"], status);
        body
    }
}

/// A tenant with what it takes to act in it.
#[derive(Clone, Debug)]
pub struct TestTenant {
    /// Its id.
    pub id: raven_core::TenantId,
    /// Its slug.
    pub slug: String,
    /// A token of its owner.
    pub owner: String,
    /// A live key with the default scopes.
    pub live: String,
    /// A test key with the default scopes.
    pub test: String,
}

/// Runs a test on both engines, one after the other.
pub async fn on_both<F: AsyncFn(TestApp)>(test: F) {
    on_both_with(TestOptions::default(), test).await;
}

/// Runs a test on both engines with these options.
pub async fn on_both_with<F: AsyncFn(TestApp)>(options: TestOptions, test: F) {
    for database in databases().await {
        test(TestApp::start(database, options.clone()).await).await;
    }
}

impl TestApp {
    /// Starts one over a database. Acceptance and settling run; the rest is stepped ([`settle`](Self::settle)).
    pub async fn start(database: Database, options: TestOptions) -> Self {
        let clock = Arc::new(TestClock::at(MIGRATED_AT.after(Duration::from_secs(3600))));
        Self::start_at(database, options, clock).await
    }

    /// Starts one with a clock that the test holds.
    pub async fn start_at(database: Database, options: TestOptions, clock: Arc<TestClock>) -> Self {
        let store = database.store();
        Self::start_over(database, store, options, clock).await
    }

    /// Starts one over a store that stands before the database's own, such as one with faults.
    pub async fn start_over(
        database: impl Into<Arc<Database>>,
        store: Arc<dyn Store>,
        options: TestOptions,
        clock: Arc<TestClock>,
    ) -> Self {
        let engine = engine(store.clone(), clock.clone(), &options).await;
        engine.run_acceptance();
        let settings = raven_http::Settings {
            public_url: "http://raven.test".to_owned(),
            environment: "production".to_owned(),
            metrics_token: Some(SecretString::from(METRICS_TOKEN)),
            idempotency_kept: IDEMPOTENCY_KEPT,
            trusted_proxies: 0,
        };
        let app = App::new(engine.clone(), settings).expect("the system has randomness");
        Self { router: raven_http::service(&app), contract: Contract::new(), engine, clock, store, app, database: database.into() }
    }

    /// Another node on the same database, with the same clock.
    pub async fn beside(&self, options: TestOptions) -> Self {
        let store = self.database.reopen().await;
        Self::start_over(self.database.clone(), store, options, self.clock.clone()).await
    }

    /// Another node on the same database, whose own clock is not this one's. This one's counts for both.
    pub async fn beside_with_clock(&self, options: TestOptions, clock: Arc<TestClock>) -> Self {
        let store = self.database.reopen().await;
        let options = TestOptions { reference: Some(self.clock.clone()), ..options };
        Self::start_over(self.database.clone(), store, options, clock).await
    }

    /// Sends a request. The answer must be one that the OpenAPI document tells of.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.expect("the router never fails");
        let (parts, body) = response.into_parts();
        let raw = body.collect().await.expect("a body in memory can be read").to_bytes();
        let read: Option<Value> = serde_json::from_slice(&raw).ok();
        self.contract.judge(&method, &path, parts.status, read.as_ref());
        let body = read.unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body, raw }
    }

    /// Sends a request with a key.
    pub async fn with_key(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, &[("x-raven-key", key)], body)).await
    }

    /// Sends a request as a human in a tenant.
    pub async fn as_human(&self, token: &str, slug: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send(request(method, path, &[("authorization", &bearer), ("x-tenant-slug", slug), ("x-app-name", "raven-cloud")], body)).await
    }

    /// Posts a message with a key.
    pub async fn post_message(&self, key: &str, body: Value) -> Answer {
        self.with_key(key, Method::POST, "/v1/messages", Some(body)).await
    }

    /// Calls back as a provider that sends forms.
    pub async fn call_back(&self, path: &str, form: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.into());
        self.send(request.expect("a good request")).await
    }

    /// A message, read with a key.
    pub async fn message(&self, key: &str, id: &str) -> Value {
        self.with_key(key, Method::GET, &format!("/v1/messages/{id}"), None).await.expect(200)
    }

    /// A token of a human.
    #[must_use]
    pub fn token(&self, email: &str) -> String {
        token(email, self.clock.now())
    }

    /// A fresh tenant with its owner's token and two keys.
    pub async fn tenant(&self, name: &str) -> TestTenant {
        let owner = self.token(&format!("owner-of-{}@example.com", name.to_lowercase()));
        let bearer = format!("Bearer {owner}");
        let headers = [("authorization", bearer.as_str())];
        let created = self.send(request(Method::POST, "/v1/admin/tenants", &headers, Some(json!({ "name": name })))).await.expect(201);
        let slug = created["slug"].as_str().expect("a slug").to_owned();
        let id = raven_core::TenantId::parse(created["id"].as_str().expect("an id")).expect("an id");
        let mut keys = Vec::new();
        for environment in ["live", "test"] {
            let body = json!({ "name": environment, "environment": environment });
            let key = self.as_human(&owner, &slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
            keys.push(key["plaintext"].as_str().expect("the key's text").to_owned());
        }
        let test = keys.pop().expect("two keys");
        let live = keys.pop().expect("two keys");
        TestTenant { id, slug, owner, live, test }
    }

    /// Makes somebody a member of a tenant, by an invitation that they accept; their token.
    pub async fn join(&self, tenant: &TestTenant, email: &str, role: &str) -> String {
        let body = json!({ "email": email, "role": role });
        let invited = self.as_human(&tenant.owner, &tenant.slug, Method::POST, "/v1/admin/members", Some(body)).await.expect(201);
        let token = self.token(email);
        let path = format!("/v1/admin/invitations/{}/accept", invited["id"].as_str().expect("an id"));
        let headers = [("authorization", format!("Bearer {token}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send(request(Method::POST, &path, &headers, None)).await.expect(200);
        token
    }

    /// A record for the audit log, for tests that call the store's verbs themselves.
    #[must_use]
    pub fn audit(&self, tenant: TenantId) -> AuditRecord {
        let entry = Entry::new("tenant.update", Actor::operator(), tenant.0);
        entry.record(tenant, self.engine.membership.ids.next(self.clock.now()))
    }

    /// Takes a step in a tenant's life as an operator would: behind the server's back.
    pub async fn change_state(&self, tenant: TenantId, change: StateChange) {
        let changed = self.store.change_state(tenant, change, self.audit(tenant)).await.expect("the store works");
        assert!(changed.is_some_and(|c| c.changed), "the step is allowed");
    }

    /// Configures Africa's Talking for a tenant. The simulator's address comes with [`TestOptions::base_urls`].
    pub async fn configure_sms(&self, tenant: &TestTenant) -> Value {
        let body = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "atsk_of_tests" } });
        self.as_human(&tenant.owner, &tenant.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201)
    }

    /// Steps until nothing moves at the present time: what is due is claimed and called, and all outcomes are written.
    pub async fn settle(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let moved = self.engine.step().await.expect("the store works");
            let load = self.engine.load();
            // What waits for its config's gate moves when the clock does.
            let idle = Load { held: load.held - load.gated, gated: 0, ..load } == Load::default();
            if moved == 0 && idle && self.engine.step().await.expect("the store works") == 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {load:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Moves the clock and steps.
    pub async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        // A process that lives beats meanwhile.
        self.engine.housekeeping.beat().await.expect("the store works");
        self.settle().await;
    }
}

/// An engine over a store.
pub async fn engine(store: Arc<dyn Store>, clock: Arc<TestClock>, options: &TestOptions) -> Arc<Engine> {
    let reference = Reference::Given(options.reference.clone().unwrap_or_else(|| clock.clone()));
    let surroundings = Surroundings { store, clock, reference, entropy: Arc::new(OsEntropy) };
    let node_id = if options.node_id.is_empty() { "node".to_owned() } else { options.node_id.clone() };
    let options = Options {
        node_id,
        master_key: SecretKey::new([7; 32]),
        jwt_secret: SecretString::from(JWT_SECRET),
        jwt_issuer: None,
        jwt_audience: None,
        oidc: None,
        works: true,
        limits: options.limits,
        call_cap: if options.call_cap.is_zero() { Duration::from_secs(2) } else { options.call_cap },
        allow_private: !options.forbid_private,
        find_provider: options.find_provider.unwrap_or(raven_providers::find),
        base_urls: options.base_urls.clone(),
        extra_roots: options.extra_roots.clone(),
        callbacks: options.callbacks.clone(),
        smpp_pace: options.smpp_pace.unwrap_or_default(),
        hello_name: "raven.test".to_owned(),
        plans: options.plans.clone().unwrap_or_else(|| Plans::new(Vec::new(), plans::UNLIMITED).expect("it is built in")),
    };
    Engine::new(surroundings, options).await.expect("an engine starts on a fresh database")
}

/// A request with a JSON body.
#[must_use]
pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    match body {
        Some(body) => builder.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
        None => builder.body(Body::empty()),
    }
    .expect("a request of a test is well-formed")
}

/// A token that is good for an hour. The human's id follows from the address.
#[must_use]
pub fn token(email: &str, now: Timestamp) -> String {
    let claims = Claims {
        sub: user_id(email),
        email: email.to_owned(),
        email_verified: Some(true),
        name: Some("Test".to_owned()),
        picture: None,
        exp: now.seconds() + 3600 * 24 * 365,
        iat: now.seconds(),
        nbf: None,
    };
    let tokens = raven_engine::token::Tokens::new(&SecretString::from(JWT_SECRET), None, None);
    tokens.mint(&claims).expect("claims can be encoded")
}

/// The id of the human with an address.
#[must_use]
pub fn user_id(email: &str) -> UserId {
    let mut bytes = [0; 16];
    for (i, b) in email.bytes().enumerate() {
        bytes[i % 16] ^= b.wrapping_add(u8::try_from(i % 251).unwrap_or(0));
    }
    UserId(Uuid::from_bytes(bytes))
}
