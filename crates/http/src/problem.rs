//! An error on its way to the caller. A handler returns a [`Problem`]; the outermost layer, which knows the path, the time
//! and the request id, writes its body.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use raven_core::{FieldProblem, Problems, Timestamp, problem::chain};
use raven_engine::ingest::IngestError;
use serde::Serialize;

use crate::codes::{self, Code};

/// The result of a handler.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// Seconds that an overloaded server asks for.
const RETRY_AFTER: u32 = 1;

/// An error.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// What to tell.
    pub message: Cow<'static, str>,
    /// Field by field.
    pub errors: Vec<FieldProblem>,
    /// Seconds to wait, where that is known: `Retry-After`.
    pub retry_after: Option<u32>,
}

impl Problem {
    /// A code with its own text.
    #[must_use]
    pub const fn of(code: Code) -> Self {
        Self { code, message: Cow::Borrowed(code.text), errors: Vec::new(), retry_after: None }
    }

    /// A code with a more exact text.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), errors: Vec::new(), retry_after: None }
    }

    /// `validation_failed` for one field.
    #[must_use]
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.add(field, message);
        Self::fields(problems)
    }

    /// `validation_failed` with all that was found.
    #[must_use]
    pub fn fields(problems: Problems) -> Self {
        Self::listed(codes::VALIDATION_FAILED, problems)
    }

    /// A code with a list of fields.
    #[must_use]
    pub fn listed(code: Code, problems: Problems) -> Self {
        let errors = problems.into_vec();
        let message = match errors.as_slice() {
            [one] => Cow::Owned(format!("{} {}", one.field, one.message)),
            many => Cow::Owned(format!("{} fields are not acceptable", many.len())),
        };
        Self { code, message, errors, retry_after: None }
    }

    /// The same with the seconds to wait.
    #[must_use]
    pub const fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// What was found of a request: `unknown_field` when only names were wrong, else `validation_failed` with everything.
    ///
    /// # Errors
    /// When there is anything.
    pub fn of_request(unknown: Problems, problems: Problems) -> Result<()> {
        let code = if problems.is_empty() { codes::UNKNOWN_FIELD } else { codes::VALIDATION_FAILED };
        let mut all = unknown;
        all.append(problems);
        if all.is_empty() { Ok(()) } else { Err(Self::listed(code, all)) }
    }

    /// Seconds that the caller is to wait, where it is to.
    pub(crate) fn wait(&self) -> Option<u32> {
        matches!(self.code.status.as_u16(), 429 | 503).then(|| self.retry_after.unwrap_or(RETRY_AFTER))
    }

    /// The body of an error, in the shape that the API publishes.
    pub(crate) fn body(&self, path: &str, request_id: &str, now: Timestamp) -> Vec<u8> {
        let body = ErrorBody {
            status_code: self.code.status.as_u16(),
            timestamp: now,
            path,
            message: &self.message,
            code: self.code.name,
            request_id,
            errors: &self.errors,
        };
        // Strings and numbers always serialize.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    status_code: u16,
    timestamp: Timestamp,
    path: &'a str,
    message: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status.into_response();
        if let Some(seconds) = self.wait() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status.as_u16() == 401 {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<raven_store::Error> for Problem {
    fn from(error: raven_store::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&raven_store::Error> for Problem {
    fn from(error: &raven_store::Error) -> Self {
        tracing::error!(error = chain(error), "the store failed a request");
        match error {
            raven_store::Error::Unavailable(_) => Self::of(codes::OVERLOADED),
            raven_store::Error::Conflict(_) | raven_store::Error::Internal(_) => Self::of(codes::INTERNAL),
        }
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        Self::of(match error {
            IngestError::KeyReused => codes::IDEMPOTENCY_KEY_REUSED,
            IngestError::KeyRefused => codes::INVALID_API_KEY,
            IngestError::TenantRefused => codes::TENANT_SUSPENDED,
            // Whoever knows the time says when the day ends.
            IngestError::QuotaExceeded => codes::DAILY_QUOTA_EXCEEDED,
            IngestError::Overloaded | IngestError::Unavailable => codes::OVERLOADED,
            IngestError::Internal => codes::INTERNAL,
        })
    }
}

impl From<raven_engine::vault::VaultError> for Problem {
    fn from(error: raven_engine::vault::VaultError) -> Self {
        tracing::error!(error = chain(&error), "the vault failed a request");
        Self::of(codes::INTERNAL)
    }
}

impl From<raven_engine::clock::EntropyError> for Problem {
    fn from(error: raven_engine::clock::EntropyError) -> Self {
        tracing::error!(error = chain(&error), "a request needed randomness");
        Self::of(codes::INTERNAL)
    }
}
