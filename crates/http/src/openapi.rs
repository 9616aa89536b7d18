//! The OpenAPI 3.1 document: made of the handlers' own descriptions, with what is common to all operations added here.

use raven_core::permission::{Role, Scope};
use utoipa::{
    OpenApi,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Response, ResponseBuilder,
        header::{Header, HeaderBuilder},
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
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
        (name = "members", description = "The people of a tenant, and who is invited."),
        (name = "keys", description = "API keys."),
        (name = "usage", description = "What a tenant used, and what it may use."),
        (name = "audit", description = "Who changed what."),
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
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
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

/// What a caller needs for an operation. A test holds it against what the handlers ask for.
enum Needs {
    /// Nothing: the operation is open, or the operator's.
    Nothing,
    /// A key with this scope.
    Scope(Scope),
    /// This role in the tenant, or a key with `admin:*` where the role is no higher than `admin`.
    Role(Role),
    /// To be signed in.
    Human,
}

fn needs(path: &str, method: &HttpMethod) -> Needs {
    let reads = *method == HttpMethod::Get;
    let Some(rest) = path.strip_prefix("/v1/admin/") else {
        return match path.starts_with("/v1/messages") {
            true if reads => Needs::Scope(Scope::MessagesRead),
            true => Needs::Scope(Scope::MessagesSend),
            false => Needs::Nothing,
        };
    };
    match rest.split('/').next().unwrap_or_default() {
        "me" | "tenants" | "invitations" => Needs::Human,
        "messages" if !reads => Needs::Role(Role::Member),
        "tenant" if *method == HttpMethod::Post => Needs::Role(Role::Owner),
        // Everybody may remove themselves.
        "members" if *method == HttpMethod::Delete && !rest.contains("invitations") => Needs::Role(Role::Viewer),
        "api-keys" | "audit-log" => Needs::Role(Role::Admin),
        "members" if rest.contains("invitations") => Needs::Role(Role::Admin),
        _ if reads => Needs::Role(Role::Viewer),
        _ => Needs::Role(Role::Admin),
    }
}

/// Adds what every operation of a kind has: security, what the caller needs, headers, and the answers that are not its own
/// success.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    operation.operation_id = Some(operation_id(path, method));
    let needs = needs(path, method);
    let extension = match needs {
        Needs::Nothing => None,
        Needs::Scope(scope) => Some(("x-raven-scope", scope.name())),
        Needs::Role(role) => Some(("x-raven-role", role.name())),
        Needs::Human => Some(("x-raven-role", "signed-in")),
    };
    if let Some((name, value)) = extension {
        operation.extensions.get_or_insert_default().insert(name.to_owned(), value.into());
    }
    if let Needs::Role(role) = needs {
        let bearer = SecurityRequirement::new("bearer", [] as [&str; 0]);
        let key = (role <= Role::Admin).then(|| SecurityRequirement::new("key", [] as [&str; 0]));
        operation.security = Some([bearer].into_iter().chain(key).collect());
        let parameters = operation.parameters.get_or_insert_default();
        parameters.push(header_parameter("X-Tenant-Slug", "The tenant; required with a bearer token. With a key it may be left out."));
    }
    if matches!(needs, Needs::Role(_) | Needs::Human) {
        let parameters = operation.parameters.get_or_insert_default();
        parameters.push(header_parameter("X-App-Name", "`raven-cloud`, or absent."));
    }
    let mut statuses = vec![500];
    if !matches!(needs, Needs::Nothing) {
        statuses.extend([400, 401, 403, 429, 503]);
        if path.contains('{') {
            statuses.push(404);
        }
        match method {
            HttpMethod::Post | HttpMethod::Patch => statuses.extend([408, 409, 413, 415]),
            HttpMethod::Delete => statuses.push(409),
            _ => {}
        }
    }
    if path == "/metrics" {
        statuses.extend([401, 404]);
    }
    statuses.sort_unstable();
    for status in statuses {
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| RefOr::T(error(status)));
    }
    let creates = ["201", "202"].iter().any(|status| operation.responses.responses.contains_key(*status));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        response.headers.insert("X-Request-Id".to_owned(), text_header("The request's id: the caller's, if it sent a sane one."));
        if !matches!(needs, Needs::Nothing) && !matches!(status.as_str(), "401" | "500" | "503") {
            let count = |text| integer_header(text);
            response.headers.insert("RateLimit-Limit".to_owned(), count("Requests a minute. Absent where there is no limit."));
            response.headers.insert("RateLimit-Remaining".to_owned(), count("Requests that could follow at once."));
            response.headers.insert("RateLimit-Reset".to_owned(), count("Seconds until all of them could."));
        }
        if creates && matches!(status.as_str(), "201" | "202") {
            let text = "`true` when this is the answer of an earlier, equal request with the same idempotency key.";
            response.headers.insert("Idempotent-Replayed".to_owned(), text_header(text));
        }
    }
    if creates {
        let text = "The same as `idempotencyKey` in the body: 1 to 255 printable characters. Both, and different: 400.";
        operation.parameters.get_or_insert_default().push(header_parameter("Idempotency-Key", text));
    }
}

/// A name for code that is generated: `postAdminApiKeysByIdRotate`.
fn operation_id(path: &str, method: &HttpMethod) -> String {
    let mut id = match method {
        HttpMethod::Post => "post",
        HttpMethod::Patch => "patch",
        HttpMethod::Delete => "delete",
        _ => "get",
    }
    .to_owned();
    for segment in path.split('/').filter(|s| !s.is_empty() && *s != "v1") {
        let name = match segment.strip_prefix('{') {
            Some(parameter) => format!("by-{}", parameter.trim_end_matches('}')),
            None => segment.replace('.', "-"),
        };
        for word in name.split('-') {
            let mut letters = word.chars();
            id.extend(letters.next().into_iter().flat_map(char::to_uppercase).chain(letters));
        }
    }
    id
}

fn header_parameter(name: &str, description: &str) -> RefOr<Parameter> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let parameter =
        ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).description(Some(description)).schema(Some(schema));
    RefOr::T(parameter.build())
}

fn text_header(description: &str) -> RefOr<Header> {
    RefOr::T(header(Type::String, description))
}

fn integer_header(description: &str) -> RefOr<Header> {
    RefOr::T(header(Type::Integer, description))
}

fn header(kind: Type, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(kind))).description(Some(description)).build()
}

fn error(status: u16) -> Response {
    let known: Vec<&str> = codes::ALL.iter().filter(|c| c.status.as_u16() == status).map(|c| c.name).collect();
    let mut response = ResponseBuilder::new()
        .description(format!("`{}`", known.join("`, `")))
        .content("application/json", Content::new(Some(Ref::from_schema_name("Error"))));
    if matches!(status, 429 | 503) {
        response = response.header("Retry-After", header(Type::Integer, "Seconds to wait."));
    }
    response.build()
}
