//! The OpenAPI document tells what the code does.

use std::collections::BTreeSet;

use http::Method;
use raven_http::resources::{
    invitations::InvitationRequest,
    keys::{KeyChangeRequest, KeyRequest, RotationRequest},
    members::MemberChangeRequest,
    provider_test::ProviderTestRequest,
    providers::ConfigRequest,
    send_request::{HumanSendRequest, SendRequest},
    suppressions::SuppressionRequest,
    tenant::{TenantChangeRequest, TransferRequest},
    tenants::TenantRequest,
};
use raven_testkit::app::{on_both, request};
use raven_testkit::contract::Contract;
use serde_json::{Value, json};

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn document() -> Value {
    serde_json::from_str(&raven_http::openapi()).expect("the document is JSON")
}

#[test]
fn the_request_schemas_list_the_fields_that_are_read() {
    let document = document();
    for (name, fields) in [
        ("SendRequest", SendRequest::FIELDS),
        ("HumanSendRequest", HumanSendRequest::FIELDS),
        ("KeyRequest", KeyRequest::FIELDS),
        ("TenantRequest", TenantRequest::FIELDS),
        ("ConfigRequest", ConfigRequest::FIELDS),
        ("ProviderTestRequest", ProviderTestRequest::FIELDS),
        ("InvitationRequest", InvitationRequest::FIELDS),
        ("SuppressionRequest", SuppressionRequest::FIELDS),
        ("KeyChangeRequest", KeyChangeRequest::FIELDS),
        ("RotationRequest", RotationRequest::FIELDS),
        ("MemberChangeRequest", MemberChangeRequest::FIELDS),
        ("TenantChangeRequest", TenantChangeRequest::FIELDS),
        ("TransferRequest", TransferRequest::FIELDS),
    ] {
        let properties = document["components"]["schemas"][name]["properties"].as_object().unwrap_or_else(|| panic!("no schema {name}"));
        let mut documented: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut read = fields.to_vec();
        documented.sort_unstable();
        read.sort_unstable();
        assert_eq!(documented, read, "{name}");
    }
}

#[tokio::test]
async fn every_documented_operation_exists_and_asks_for_credentials() {
    on_both(async |app| {
        let document = document();
        let mut ids: Vec<&Value> = app.contract.operations().map(|(_, _, o)| &o["operationId"]).collect();
        let all = ids.len();
        ids.sort_unstable_by_key(|id| id.to_string());
        ids.dedup();
        assert_eq!(ids.len(), all, "an operation's id is its own");
        assert_eq!(document["openapi"].as_str().map(|v| &v[..3]), Some("3.1"));
        let mut open = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("an item") {
                let Ok(method) = method.to_uppercase().parse::<http::Method>() else { continue };
                let answer = app.send(request(method.clone(), &path.replace("{id}", NOBODY).replace("{userId}", NOBODY), &[], None)).await;
                // Whoever calls back names a provider in the path.
                let names_nothing =
                    path.starts_with("/v1/webhooks/") && answer.body["message"] == "No provider of the catalog calls back here.";
                let is_no_link =
                    path.starts_with("/v1/unsubscribe/") && String::from_utf8_lossy(&answer.raw).contains("This link is not valid");
                assert!(
                    answer.status != 404 && answer.status != 405 || names_nothing || is_no_link,
                    "{method} {path} is documented and does not exist"
                );
                let is_open = operation["security"]
                    .as_array()
                    .is_some_and(|s| s.iter().any(|r| r.as_object().is_some_and(serde_json::Map::is_empty)));
                if is_open {
                    open.push(path.clone());
                    assert_ne!(answer.status, 401);
                } else {
                    assert_eq!(answer.status, 401, "{method} {path} answers without credentials");
                }
                assert!(
                    operation["responses"].as_object().expect("responses").contains_key(answer.status.as_str()),
                    "{method} {path}: {} is not documented",
                    answer.status
                );
            }
        }
        open.sort();
        // Callbacks prove themselves, or are refused: see `callbacks`.
        open.retain(|path| !path.starts_with("/v1/webhooks/"));
        // Whoever has a link is its recipient: see `unsubscribe`.
        let links = "/v1/unsubscribe/{token}";
        assert_eq!(open, ["/healthz", "/readyz", "/v1/openapi.json", links, links], "the public list may only shrink");
        let served = app.send(request(http::Method::GET, "/v1/openapi.json", &[], None)).await.expect(200);
        assert_eq!(served, document);
    })
    .await;
}

/// What is missing in the document, as it is found.
struct Review<'d> {
    document: &'d Value,
    missing: Vec<String>,
    /// Schemas that were seen.
    seen: BTreeSet<&'d str>,
}

impl<'d> Review<'d> {
    fn note(&mut self, place: &str, what: &str) {
        self.missing.push(format!("{place}: {what}"));
    }

    /// The schemas that a schema is made of: itself, or what it refers to, or its alternatives and parts but for `null`.
    fn parts(&mut self, schema: &'d Value) -> Vec<&'d Value> {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/components/schemas/")) {
            self.seen.insert(name);
            return self.parts(&self.document["components"]["schemas"][name]);
        }
        match ["oneOf", "anyOf", "allOf"].iter().find_map(|word| schema[word].as_array()) {
            Some(several) => several.iter().filter(|s| s["type"] != "null").flat_map(|s| self.parts(s)).collect(),
            None => vec![schema],
        }
    }

    fn is(part: &Value, kind: &str) -> bool {
        part["type"] == kind || part["type"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind))
    }

    fn has(value: &Value, words: &[&str]) -> bool {
        words.iter().any(|word| value.get(word).is_some())
    }

    /// The schema of what a caller sends.
    fn input(&mut self, place: &str, schema: &'d Value) {
        for part in self.parts(schema) {
            if Self::is(part, "string") && !Self::has(part, &["maxLength", "enum", "format", "pattern"]) {
                self.note(place, "a text without limits");
            }
            if (Self::is(part, "integer") || Self::is(part, "number"))
                && !(Self::has(part, &["minimum"]) && Self::has(part, &["maximum"]))
                && !Self::is(part, "string")
            {
                self.note(place, "a number without limits");
            }
            if Self::is(part, "array") {
                self.input(&format!("{place}[]"), &part["items"]);
            }
            if Self::is(part, "object") {
                match &part["additionalProperties"] {
                    Value::Null => self.note(place, "does not tell about fields that it does not name"),
                    Value::Bool(others) if *others => self.note(place, "takes any field"),
                    Value::Bool(_) => {}
                    others => self.input(&format!("{place}.*"), others),
                }
            }
            for (name, property) in part["properties"].as_object().into_iter().flatten() {
                let place = format!("{place}.{name}");
                self.described(&place, property);
                self.exemplified(&place, property, property);
                self.input(&place, property);
            }
        }
    }

    /// The schema of an answer.
    fn output(&mut self, place: &str, schema: &'d Value) {
        for part in self.parts(schema) {
            if !Self::has(part, &["type", "enum"]) && !place.ends_with(".*") && !place.ends_with(".expirationTime") {
                self.note(place, "has no type");
            }
            if Self::is(part, "array") {
                self.output(&format!("{place}[]"), &part["items"]);
            }
            if part["additionalProperties"].is_object() {
                self.output(&format!("{place}.*"), &part["additionalProperties"]);
            }
            for (name, property) in part["properties"].as_object().into_iter().flatten() {
                let place = format!("{place}.{name}");
                self.described(&place, property);
                self.output(&place, property);
            }
        }
    }

    fn described(&mut self, place: &str, value: &Value) {
        let says = |v: &Value| v["description"].as_str().is_some_and(|text| !text.trim().is_empty());
        let inside = value["oneOf"].as_array().is_some_and(|several| several.iter().any(says));
        if !says(value) && !inside {
            self.note(place, "has no description");
        }
    }

    fn exemplified(&mut self, place: &str, holder: &Value, schema: &'d Value) {
        let words = ["example", "examples", "default", "enum", "const"];
        let shown = Self::has(holder, &words)
            || Self::has(schema, &words)
            || self.parts(schema).iter().any(|part| Self::has(part, &words) || part["properties"].is_object());
        if !shown {
            self.note(place, "has no example");
        }
    }
}

#[test]
fn the_document_is_complete() {
    let contract = Contract::new();
    let document = contract.document();
    let mut review = Review { document, missing: Vec::new(), seen: BTreeSet::new() };
    let tags: Vec<&Value> = document["tags"].as_array().expect("tags").iter().map(|tag| &tag["name"]).collect();
    for (method, path, operation) in contract.operations() {
        let place = format!("{method} {path}");
        if operation["operationId"].as_str().is_none_or(str::is_empty) {
            review.note(&place, "has no operationId");
        }
        if operation["summary"].as_str().is_none_or(|text| text.is_empty() || text.contains('\n')) {
            review.note(&place, "has no summary of one line");
        }
        if !operation["tags"].as_array().is_some_and(|own| !own.is_empty() && own.iter().all(|tag| tags.contains(&tag))) {
            review.note(&place, "has no tag, or one that is not described");
        }
        let asks = Review::has(operation, &["x-raven-scope", "x-raven-role"]);
        let statuses = if asks { &["401", "403", "429", "500", "503"][..] } else { &["500"] };
        for status in statuses.iter().filter(|status| operation["responses"].get(status).is_none()) {
            review.note(&place, &format!("does not tell of {status}"));
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let place = format!("{place} {}", parameter["name"]);
            review.described(&place, parameter);
            review.exemplified(&place, parameter, &parameter["schema"]);
            review.input(&place, &parameter["schema"]);
        }
        for content in operation["requestBody"]["content"].as_object().into_iter().flat_map(|contents| contents.values()) {
            review.input(&place, &content["schema"]);
        }
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let place = format!("{place} {status}");
            review.described(&place, response);
            for (name, header) in response["headers"].as_object().into_iter().flatten() {
                review.described(&format!("{place} {name}"), header);
            }
            for content in response["content"].as_object().into_iter().flat_map(|contents| contents.values()) {
                review.output(&place, &content["schema"]);
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        review.described(name, schema);
        if !review.seen.contains(name.as_str()) {
            review.note(name, "is used nowhere");
        }
    }
    assert!(review.missing.is_empty(), "{:#?}", review.missing);
}

#[test]
fn the_review_finds_what_is_missing() {
    let document = json!({ "components": { "schemas": { "Bare": { "properties": { "a": { "type": "string" }, "b": { "type": ["integer", "null"] } }, "type": "object" } } } });
    let schema = json!({ "$ref": "#/components/schemas/Bare" });
    let mut review = Review { document: &document, missing: Vec::new(), seen: BTreeSet::new() };
    review.input("in", &schema);
    assert_eq!(
        review.missing,
        [
            "in: does not tell about fields that it does not name",
            "in.a: has no description",
            "in.a: has no example",
            "in.a: a text without limits",
            "in.b: has no description",
            "in.b: has no example",
            "in.b: a number without limits"
        ]
    );
}

#[tokio::test]
async fn what_the_document_requires_is_what_a_request_must_have() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let member = raven_testkit::app::user_id("ada@example.com").to_string();
        let mut looked_at = 0;
        for (method, path, operation) in app.contract.operations() {
            let Some(reference) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() else { continue };
            let schema = app.contract.document().pointer(reference.trim_start_matches('#')).expect("a schema");
            let mut required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            required.sort_unstable();
            assert_eq!(operation["requestBody"]["required"], !required.is_empty(), "{method} {path}");
            // Required ones can't be null, all others can.
            for (name, property) in schema["properties"].as_object().expect("properties") {
                let alternatives = property["oneOf"].as_array().into_iter().flatten();
                let kinds = property["type"].as_array().into_iter().flatten();
                let nullable = alternatives.map(|s| &s["type"]).chain(kinds).any(|kind| kind == "null");
                assert_eq!(nullable, !required.contains(&name.as_str()), "{method} {path}: {name}");
            }
            if required.is_empty() {
                continue;
            }
            looked_at += 1;
            let path = path.replace("{userId}", &member).replace("{id}", NOBODY);
            let answer = match operation["x-raven-scope"].as_str() {
                Some(_) => app.with_key(&t.test, method.clone(), &path, Some(json!({}))).await,
                None => app.as_human(&t.owner, &t.slug, method.clone(), &path, Some(json!({}))).await,
            };
            let error = answer.expect_error(400, "validation_failed");
            let mut found: Vec<&str> = error["errors"].as_array().expect("errors").iter().filter_map(|e| e["field"].as_str()).collect();
            found.sort_unstable();
            assert_eq!(found, required, "{method} {path}");
        }
        assert!(looked_at >= 7, "{looked_at}");
    })
    .await;
}

#[tokio::test]
async fn the_dashboards_name_is_checked_whoever_calls() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({ "name": "k", "scopes": ["admin:*"] });
        let key = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(body)).await.expect(201);
        let key = key["plaintext"].as_str().expect("a key");
        let list = async |name: &str| {
            app.send(request(Method::GET, "/v1/admin/api-keys", &[("x-raven-key", key), ("x-app-name", name)], None)).await
        };
        list("raven-cloud").await.expect(200);
        let error = list("other").await.expect_error(400, "validation_failed");
        assert_eq!(error["errors"][0]["field"], "X-App-Name");
    })
    .await;
}

#[tokio::test]
async fn filters_are_no_longer_than_what_they_look_for() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for (name, max) in [("to", 4096), ("externalId", 255), ("provider", 64)] {
            let list = async |length: usize| {
                let path = format!("/v1/messages?{name}={}", "x".repeat(length));
                app.with_key(&t.test, Method::GET, &path, None).await
            };
            list(max).await.expect(200);
            let error = list(max + 1).await.expect_error(400, "validation_failed");
            assert_eq!(error["errors"][0]["field"], name);
        }
    })
    .await;
}

/// Holds a committed page against what it is made of, and writes it where that was asked for.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says by it that the page is to be written")]
fn is_up_to_date(page: &str, text: &str) {
    let path = format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("the page can be written");
    }
    let same = std::fs::read_to_string(&path).unwrap_or_default() == text;
    assert!(same, "docs/{page} is out of date: run the tests once with RAVEN_UPDATE_DOCS=1");
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    is_up_to_date("openapi.json", &format!("{}\n", raven_http::openapi()));
}

#[test]
fn errors_are_a_closed_list_and_documented() {
    let document = document();
    let listed = document["components"]["schemas"]["ErrorCode"]["enum"].as_array().expect("an enum").len();
    assert_eq!(listed, raven_http::codes::ALL.len());
    let mut text = String::from(
        "# Error codes\n\nEvery error has a `code` from this list. This page is made from the table in `crates/http/src/codes.rs`.\n\n| status | code | what it means, and what to do |\n|---|---|---|\n",
    );
    for code in raven_http::codes::ALL {
        text.push_str(&format!("| {} | `{}` | {} |\n", code.status.as_u16(), code.name, code.text));
    }
    is_up_to_date("errors.md", &text);
}
