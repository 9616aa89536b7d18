//! The OpenAPI document tells what the code does.

use raven_http::resources::{
    keys::KeyRequest,
    providers::ConfigRequest,
    send_request::{HumanSendRequest, SendRequest},
    tenants::TenantRequest,
};
use raven_testkit::app::{on_both, request};
use serde_json::Value;

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
                assert!(answer.status != 404 && answer.status != 405, "{method} {path} is documented and does not exist");
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
        assert_eq!(open, ["/healthz", "/readyz", "/v1/openapi.json"], "the public list may only shrink");
        let served = app.send(request(http::Method::GET, "/v1/openapi.json", &[], None)).await.expect(200);
        assert_eq!(served, document);
    })
    .await;
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says by it that the page is to be written")]
fn errors_are_a_closed_list_and_documented() {
    let document = document();
    let listed = document["components"]["schemas"]["Error"]["properties"]["code"]["enum"].as_array().expect("an enum").len();
    assert_eq!(listed, raven_http::codes::ALL.len());
    let mut text = String::from(
        "# Error codes\n\nEvery error has a `code` from this list. This page is made from the table in `crates/http/src/codes.rs`.\n\n| status | code | what it means, and what to do |\n|---|---|---|\n",
    );
    for code in raven_http::codes::ALL {
        text.push_str(&format!("| {} | `{}` | {} |\n", code.status.as_u16(), code.name, code.text));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    if std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).expect("docs/errors.md can be written");
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        text,
        "docs/errors.md is out of date: run the tests once with RAVEN_UPDATE_DOCS=1"
    );
}
