//! The OpenAPI 3.1 document: made of the handlers' own descriptions, with what is common to all operations added here.

use utoipa::{
    OpenApi,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Response, ResponseBuilder,
        header::HeaderBuilder,
        path::Operation,
        schema::{ObjectBuilder, Schema, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{codes, routes};

#[derive(OpenApi)]
#[openapi(
    info(title = "Raven", description = "Send SMS, email, push and WhatsApp messages through your own providers, and know what became of each.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    tags(
        (name = "messages", description = "Sending messages and following their lives."),
        (name = "tenants", description = "Tenants and the signed-in human."),
        (name = "keys", description = "API keys."),
        (name = "providers", description = "Providers and a tenant's credentials at them."),
        (name = "operations", description = "For operators."),
    ),
    components(schemas(ErrorView, FieldErrorView))
)]
struct Base;

/// An error.
#[derive(utoipa::ToSchema)]
#[schema(as = Error)]
#[expect(dead_code, reason = "the shape that problem.rs writes, for the document")]
struct ErrorView {
    /// The status.
    #[schema(rename = "statusCode", example = 401)]
    status_code: u16,
    /// When.
    #[schema(format = "date-time")]
    timestamp: String,
    /// The path of the request.
    path: String,
    /// For people.
    message: String,
    /// For programs: one of a closed list.
    #[schema(schema_with = code_schema)]
    code: String,
    /// Finds the request in the log.
    #[schema(rename = "requestId")]
    request_id: String,
    /// Field by field.
    errors: Option<Vec<FieldErrorView>>,
}

/// What is wrong with a field.
#[derive(utoipa::ToSchema)]
#[schema(as = FieldError)]
#[expect(dead_code, reason = "the shape of raven_core::FieldProblem, for the document")]
struct FieldErrorView {
    /// The field, nested ones with dots.
    field: String,
    /// What is wrong and what would be right.
    message: String,
}

fn code_schema() -> Schema {
    let names = codes::ALL.iter().map(|c| c.name);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

/// The document as JSON text.
#[must_use]
pub fn document() -> String {
    let (_, paths) = routes::documented().split_for_parts();
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.merge(paths);
    let schemes = &mut document.components.get_or_insert_default().security_schemes;
    let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-Raven-Key", "An API key: rk_live_… or rk_test_…")));
    schemes.insert("key".to_owned(), RefOr::T(key));
    schemes.insert("bearer".to_owned(), bearer("A human's token from single sign-on. X-Tenant-Slug names the tenant.", Some("JWT")));
    schemes.insert("metricsToken".to_owned(), bearer("The operator's metrics token.", None));
    for (path, item) in &mut document.paths.paths {
        let operations = [(HttpMethod::Get, &mut item.get), (HttpMethod::Post, &mut item.post), (HttpMethod::Delete, &mut item.delete)];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(path, &method, operation);
            }
        }
    }
    // The document is made of strings, numbers and maps; it always serializes.
    document.to_pretty_json().unwrap_or_default()
}

fn bearer(description: &str, format: Option<&str>) -> RefOr<SecurityScheme> {
    let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description));
    if let Some(format) = format {
        scheme = scheme.bearer_format(format);
    }
    RefOr::T(SecurityScheme::Http(scheme.build()))
}

/// Adds what every operation of a kind has: security where none is said, and the answers that are not its own success.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let admin = path.starts_with("/v1/admin/");
    if admin && operation.security.is_none() {
        let tenant_bearer = SecurityRequirement::new("bearer", [] as [&str; 0]);
        operation.security = Some(vec![tenant_bearer, SecurityRequirement::new("key", [] as [&str; 0])]);
    }
    let open = !path.starts_with("/v1/admin/") && !path.starts_with("/v1/messages");
    let writes = *method == HttpMethod::Post;
    let mut statuses = vec![500];
    if !open {
        statuses.extend([400, 401, 403, 503]);
        if path.contains('{') {
            statuses.push(404);
        }
        if writes {
            statuses.extend([408, 409, 413, 415]);
        }
    }
    if path == "/metrics" {
        statuses.extend([401, 404]);
    }
    statuses.sort_unstable();
    for status in statuses {
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| RefOr::T(error(status)));
    }
}

fn error(status: u16) -> Response {
    let known: Vec<&str> = codes::ALL.iter().filter(|c| c.status.as_u16() == status).map(|c| c.name).collect();
    let mut response = ResponseBuilder::new()
        .description(format!("`{}`", known.join("`, `")))
        .content("application/json", Content::new(Some(Ref::from_schema_name("Error"))));
    if matches!(status, 429 | 503) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer);
        response = response.header("Retry-After", HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds to wait.")).build());
    }
    response.build()
}
