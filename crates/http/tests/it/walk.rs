//! The operations of the OpenAPI document, for tests that hold for each of them. What must hold stays with those tests.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use raven_testkit::app::{Answer, TestApp, TestTenant};
use serde_json::{Value, json};

/// An id of nothing.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// An operation that asks for credentials, with its parameters filled in.
#[derive(Clone)]
pub(crate) struct Operation {
    /// Its method.
    pub(crate) method: Method,
    /// Its path in the document.
    pub(crate) template: String,
    /// Its path with the ids of real things.
    pub(crate) path: String,
    /// A scope that a key needs.
    pub(crate) scope: Option<String>,
    /// A role that a human needs, or `signed-in`.
    pub(crate) role: Option<String>,
    /// All that the document says of it.
    pub(crate) says: Value,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    /// Is a key with the right scope let in?
    pub(crate) fn takes_keys(&self) -> bool {
        self.scope.is_some() || !matches!(self.role.as_deref(), Some("owner" | "signed-in"))
    }

    /// Is it outside of any tenant?
    pub(crate) fn is_of_a_human(&self) -> bool {
        self.role.as_deref() == Some("signed-in")
    }

    /// The schema of each parameter in a place (`query`, `header`), by name.
    pub(crate) fn parameters(&self, place: &str) -> BTreeMap<&str, &Value> {
        let all = self.says["parameters"].as_array().into_iter().flatten();
        all.filter(|p| p["in"] == place).filter_map(|p| Some((p["name"].as_str()?, &p["schema"]))).collect()
    }
}

/// All operations that ask for credentials; `ids` has the value of each path parameter by template.
pub(crate) fn operations(app: &TestApp, ids: &BTreeMap<&str, String>) -> Vec<Operation> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let all = app.contract.operations().filter_map(|(method, template, operation)| {
        let (scope, role) = (text(&operation["x-raven-scope"]), text(&operation["x-raven-role"]));
        let path = match template.split_once('{') {
            None => template.to_owned(),
            Some((before, after)) => {
                let id = ids.get(template).map_or(NOBODY, String::as_str);
                format!("{before}{id}{}", after.split_once('}').expect("a closed brace").1)
            }
        };
        let known = scope.is_some() || role.is_some();
        known.then(|| Operation { method, template: template.to_owned(), path, scope, role, says: operation.clone() })
    });
    all.collect()
}

/// A schema, with its reference followed.
pub(crate) fn resolved<'a>(app: &'a TestApp, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        Some(name) => &app.contract.document()["components"]["schemas"][name],
        None => schema,
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A service with a key.
    Key(String),
    /// A human in a tenant.
    Human {
        /// Their token.
        token: String,
        /// The tenant's slug.
        slug: String,
    },
}

impl Caller {
    /// The owner of a tenant.
    pub(crate) fn owner(t: &TestTenant) -> Self {
        Self::Human { token: t.owner.clone(), slug: t.slug.clone() }
    }

    /// Somebody who may do this in a tenant: a test key where a service is asked for, else the owner.
    pub(crate) fn of(o: &Operation, t: &TestTenant) -> Self {
        if o.scope.is_some() { Self::Key(t.test.clone()) } else { Self::owner(t) }
    }

    /// Reads with it.
    pub(crate) async fn get(&self, app: &TestApp, path: &str) -> Answer {
        self.send(app, Method::GET, path, HeaderMap::new(), String::new()).await
    }

    /// Sends a request with it: with these headers too, and this text as the body.
    pub(crate) async fn send(&self, app: &TestApp, method: Method, path: &str, mut headers: HeaderMap, body: String) -> Answer {
        let mut put = |name: &'static str, text: &str| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(text).expect("a header's text"));
        };
        match self {
            Self::Key(key) => put("x-raven-key", key),
            Self::Human { token, slug } => {
                put("authorization", &format!("Bearer {token}"));
                put("x-tenant-slug", slug);
            }
        }
        put("content-type", "application/json");
        let mut request = Request::new(axum::body::Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
        *request.headers_mut() = headers;
        app.send(request).await
    }
}

/// A fresh key of a tenant.
pub(crate) async fn key(app: &TestApp, t: &TestTenant, environment: &str, scopes: &[&str]) -> String {
    let body = json!({ "name": "k", "environment": environment, "scopes": scopes });
    let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
    made["plaintext"].as_str().expect("the text").to_owned()
}

/// The fields that an error names, sorted.
pub(crate) fn fields(error: &Value) -> Vec<&str> {
    let all = error["errors"].as_array().unwrap_or_else(|| panic!("no field is named: {error}"));
    let mut names: Vec<&str> = all.iter().map(|e| e["field"].as_str().expect("a field")).collect();
    names.sort_unstable();
    names
}
