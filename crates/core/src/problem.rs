//! What is wrong with an input, field by field.

/// An error with its sources, in one line: for logs, never for callers of the API.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// One thing wrong with one field of a request or of a setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FieldProblem {
    /// The field's name as the caller sees it, nested ones with dots (`publicConfig.username`).
    pub field: String,
    /// What is wrong and what would be right. Never repeats a secret.
    pub message: String,
}

/// Collects every problem of an input, so that its author sees them all at once.
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<FieldProblem>);

impl Problems {
    /// Notes a problem.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldProblem { field: field.into(), message: message.into() });
    }

    /// Keeps a value, or notes why there is none.
    pub fn check<T>(&mut self, field: &str, value: Result<T, impl std::fmt::Display>) -> Option<T> {
        value.map_err(|e| self.add(field, e.to_string())).ok()
    }

    /// Takes over what another one has noted.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Has nothing been noted?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was noted so far, in order.
    pub fn iter(&self) -> impl Iterator<Item = &FieldProblem> {
        self.0.iter()
    }

    /// All that was noted, in order.
    #[must_use]
    pub fn into_vec(self) -> Vec<FieldProblem> {
        self.0
    }
}
