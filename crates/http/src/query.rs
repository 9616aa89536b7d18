//! The query string, read by the same rules as a body: either spelling, each name once, none unknown, all problems at once.

use std::{borrow::Cow, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{
    App, codes,
    fields::{camel_case, shown, unknown_text},
    problem::{Problem, Result},
};
use raven_core::{Environment, Problems};

/// The raw query of a request.
pub struct RawQuery(String);

impl FromRequestParts<Arc<App>> for RawQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self> {
        Ok(Self(parts.uri.query().unwrap_or_default().to_owned()))
    }
}

impl RawQuery {
    /// The parameters; `known` are the names that there may be, in camelCase.
    #[must_use]
    pub fn parameters(&self, known: &'static [&'static str]) -> Parameters<'_> {
        let mut unknown = Problems::default();
        let mut pairs: Vec<(String, Cow<'_, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(self.0.as_bytes()) {
            let name = camel_case(&name);
            if pairs.iter().any(|(other, _)| *other == name) {
                unknown.add(shown(&name), "is given more than once");
            } else if !known.contains(&name.as_str()) {
                unknown.add(shown(&name), unknown_text(&name, known));
            }
            pairs.push((name, value));
        }
        Parameters { pairs, unknown, problems: Problems::default() }
    }

    /// For endpoints that take no parameters.
    ///
    /// # Errors
    /// `unknown_field`, when there is one.
    pub fn none(&self) -> Result<()> {
        self.parameters(&[]).finish()
    }
}

/// The id in a path, as it came. One that is not even text is no id of anything: 404.
pub struct PathId(pub String);

impl FromRequestParts<Arc<App>> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, app).await;
        path.map(|axum::extract::Path(id)| Self(id)).map_err(|_| Problem::of(codes::NOT_FOUND))
    }
}

/// The parameters of a request.
pub struct Parameters<'a> {
    pairs: Vec<(String, Cow<'a, str>)>,
    unknown: Problems,
    problems: Problems,
}

impl Parameters<'_> {
    /// A parameter's value; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_string()).filter(|v| !v.is_empty())
    }

    /// A parameter's value as `read` understands it, or a note of what it must be.
    pub fn read<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Option<T>, expected: impl FnOnce() -> String) -> Option<T> {
        let text = self.get(name)?;
        let value = read(&text);
        if value.is_none() {
            self.problems.add(name, expected());
        }
        value
    }

    /// Reads `environment`: `live`, `test`, or `all` (then there is none inside). `None` when it is absent.
    pub fn environment(&mut self) -> Option<Option<Environment>> {
        let read = |text: &str| if text == "all" { Some(None) } else { Environment::parse(text).map(Some) };
        self.read("environment", read, || "must be live, test or all".to_owned())
    }

    /// Notes a problem.
    pub fn note(&mut self, name: &str, message: impl Into<String>) {
        self.problems.add(name, message);
    }

    /// The end of reading.
    ///
    /// # Errors
    /// All that was noted.
    pub fn finish(self) -> Result<()> {
        Problem::of_request(self.unknown, self.problems)
    }
}
