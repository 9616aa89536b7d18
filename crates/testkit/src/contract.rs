//! The OpenAPI document as a judge: every answer in a test must be one that the document tells of.

use std::collections::HashMap;

use http::{Method, StatusCode};
use jsonschema::Validator;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The document, and the validators made of it so far.
pub struct Contract {
    document: Value,
    validators: Mutex<HashMap<(String, String, u16), Option<Validator>>>,
}

impl Contract {
    /// Of the API's own document.
    ///
    /// # Panics
    /// When the document is no JSON.
    #[must_use]
    pub fn new() -> Self {
        let document = serde_json::from_str(&raven_http::openapi()).expect("the document is JSON");
        Self { document, validators: Mutex::default() }
    }

    /// Panics unless the document has an answer with this status and of this shape to a request like this. A path that the
    /// document does not know, and a method that a path does not take, are not its business.
    #[track_caller]
    pub fn judge(&self, method: &Method, path: &str, status: StatusCode, body: Option<&Value>) {
        let Some((template, operation)) = self.operation(method, path) else { return };
        let answer = &operation["responses"][status.as_str()];
        assert!(answer.is_object(), "{method} {template}: the status {status} is not documented; the body was {body:?}");
        let mut validators = self.validators.lock();
        let key = (template.to_owned(), method.to_string(), status.as_u16());
        let validator = validators.entry(key).or_insert_with(|| self.validator(&answer["content"]["application/json"]["schema"]));
        match (validator, body) {
            (None, None) => {}
            (None, Some(body)) => {
                assert!(answer["content"].is_object(), "{method} {template} {status}: has a body that is not documented: {body}");
            }
            // A page for people, perhaps.
            (Some(_), None) => assert!(answer["content"]["text/html"].is_object(), "{method} {template} {status}: should have a JSON body"),
            (Some(validator), Some(body)) => {
                let problems: Vec<String> = validator.iter_errors(body).map(|e| format!("{} at {}", e, e.instance_path())).collect();
                let shown: String = body.to_string().chars().take(2000).collect();
                assert!(problems.is_empty(), "{method} {template} {status}: {problems:?} in {shown}");
            }
        }
    }

    /// Every documented operation: method, path template, and what the document says of it.
    pub fn operations(&self) -> impl Iterator<Item = (Method, &str, &Value)> {
        let paths = self.document["paths"].as_object().into_iter().flatten();
        paths.flat_map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            operations.filter_map(move |(method, operation)| {
                let method = method.to_uppercase().parse().ok().filter(|_| operation["responses"].is_object())?;
                Some((method, path.as_str(), operation))
            })
        })
    }

    /// The document.
    #[must_use]
    pub const fn document(&self) -> &Value {
        &self.document
    }

    fn operation(&self, method: &Method, path: &str) -> Option<(&str, &Value)> {
        let wanted: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
        let fits = |template: &str| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == wanted.len() && parts.iter().zip(&wanted).all(|(t, w)| t.starts_with('{') || t == w)
        };
        // A path that is spelled out goes before one with a parameter in the same place.
        let found = self.operations().filter(|(m, template, _)| m == method && fits(template));
        found.min_by_key(|(_, template, _)| template.matches('{').count()).map(|(_, template, operation)| (template, operation))
    }

    fn validator(&self, schema: &Value) -> Option<Validator> {
        if schema.is_null() {
            return None;
        }
        if schema.as_object().is_some_and(serde_json::Map::is_empty) {
            // Anything at all.
            return jsonschema::draft202012::new(schema).ok();
        }
        // What a schema does not name must not be there. (Only at the top: parts that are flattened in are no whole objects.)
        let whole = json!({ "allOf": [schema], "unevaluatedProperties": false, "components": self.document["components"] });
        Some(jsonschema::draft202012::new(&whole).unwrap_or_else(|e| panic!("{schema} is no schema: {e}")))
    }
}

impl Default for Contract {
    fn default() -> Self {
        Self::new()
    }
}
