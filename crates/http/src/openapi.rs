//! The OpenAPI 3.1 document: made of the handlers' own descriptions, with what is common to all operations added here. What
//! is said of one operation, request or answer alone stands beside its handler.

pub mod closed;

use raven_core::permission::{Role, Scope};
use std::collections::{BTreeMap, BTreeSet};

use utoipa::{
    OpenApi,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Required, Response, ResponseBuilder,
        header::{Header, HeaderBuilder},
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{AdditionalProperties, ArrayItems, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{codes, routes};

#[derive(OpenApi)]
#[openapi(
    info(title = "Raven", description = include_str!("openapi/conventions.md"), license(name = "Apache-2.0", identifier = "Apache-2.0")),
    tags(
        (name = "messages", description = "Sending messages and following their lives."),
        (name = "tenants", description = "Tenants and the signed-in human."),
        (name = "members", description = "The people of a tenant, and who is invited."),
        (name = "keys", description = "API keys."),
        (name = "usage", description = "What a tenant used, and what it may use."),
        (name = "audit", description = "Who changed what."),
        (name = "providers", description = "Providers and a tenant's credentials at them."),
        (name = "callbacks", description = "Where providers call."),
        (name = "suppressions", description = "Addresses that are not written to."),
        (name = "operations", description = "For operators."),
    ),
    components(schemas(ErrorView, FieldErrorView, closed::EnvironmentFilter))
)]
struct Base;

/// An error.
#[derive(utoipa::ToSchema)]
#[schema(as = Error)]
#[expect(dead_code, reason = "the shape that problem.rs writes, for the document")]
struct ErrorView {
    /// The HTTP status.
    #[schema(rename = "statusCode", minimum = 400, maximum = 599, example = 401)]
    status_code: u16,
    /// When it happened.
    #[schema(format = "date-time")]
    timestamp: String,
    /// The path of the request.
    #[schema(example = "/v1/messages")]
    path: String,
    /// What happened and what to do, for people.
    #[schema(example = "Invalid API key")]
    message: String,
    /// For programs: one of a closed list.
    #[schema(value_type = closed::ErrorCodeName)]
    code: String,
    /// Finds the request in the log.
    #[schema(rename = "requestId")]
    request_id: String,
    /// What is wrong with the request, field by field. Absent where no field is to blame.
    #[schema(required = false, value_type = Vec<FieldErrorView>)]
    errors: Option<Vec<FieldErrorView>>,
}

/// What is wrong with a field.
#[derive(utoipa::ToSchema)]
#[schema(as = FieldError)]
#[expect(dead_code, reason = "the shape of raven_core::FieldProblem, for the document")]
struct FieldErrorView {
    /// The field, parameter or header; nested fields with dots.
    #[schema(example = "to")]
    field: String,
    /// What is wrong and what would be right.
    #[schema(example = "is required")]
    message: String,
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
    let mut requests =
        BTreeSet::from(["WebPushSubscription", "WebPushKeys", "Attachment", "WhatsappTemplate", "RoutingRulesRequest"].map(str::to_owned));
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
                requests.extend(request_schemas(operation));
            }
        }
    }
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for name in &requests {
        if let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(name) {
            close(object);
        }
    }
    refer_to_rows(schemas);
    let may_be_empty = |name: &String| matches!(schemas.get(name), Some(RefOr::T(Schema::Object(o))) if o.required.is_empty());
    let empty: BTreeSet<String> = requests.iter().filter(|name| may_be_empty(name)).cloned().collect();
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.post, &mut item.patch].into_iter().flatten() {
            let optional = request_schemas(operation).iter().any(|name| empty.contains(name));
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                body.required = Some(if optional { Required::False } else { Required::True });
            }
        }
    }
    // The document is made of strings, numbers and maps; it always serializes.
    document.to_pretty_json().unwrap_or_default()
}

/// A page's schema holds a copy of its rows' one; both are to be the same type in code that is generated.
fn refer_to_rows(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    for (name, schema) in schemas {
        let Some(row) = name.strip_prefix("Page_") else { continue };
        let RefOr::T(Schema::Object(page)) = schema else { continue };
        if let Some(RefOr::T(Schema::Array(data))) = page.properties.get_mut("data") {
            data.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(row).into()));
        }
    }
}

/// The names of the schemas that an operation takes.
fn request_schemas(operation: &Operation) -> Vec<String> {
    let Some(RefOr::T(body)) = &operation.request_body else { return Vec::new() };
    let contents = body.content.values();
    let schemas = contents.filter_map(|content| match content {
        RefOr::T(Content { schema: Some(RefOr::Ref(reference)), .. }) => reference.ref_location.rsplit('/').next(),
        _ => None,
    });
    schemas.map(str::to_owned).collect()
}

/// Makes the schema of a request tell what is read: nothing beside its own fields, `null` where a field is not required and
/// only there. (The Rust fields are all options, since problems are noted and not thrown.)
fn close(object: &mut Object) {
    object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    let required: BTreeSet<&String> = object.required.iter().collect();
    for (name, property) in &mut object.properties {
        let nullable = !required.contains(name);
        let kind = match property {
            RefOr::Ref(reference) if nullable => {
                let text = std::mem::take(&mut reference.description);
                let null = ObjectBuilder::new().schema_type(Type::Null);
                let either = OneOfBuilder::new().item(null).item(reference.clone()).description(Some(text));
                *property = either.into();
                continue;
            }
            RefOr::T(Schema::Object(object)) => &mut object.schema_type,
            RefOr::T(Schema::Array(array)) => &mut array.schema_type,
            _ => continue,
        };
        let mut kinds = match kind {
            SchemaType::Type(one) => vec![one.clone()],
            SchemaType::Array(several) => several.clone(),
            SchemaType::AnyValue => continue,
        };
        kinds.retain(|kind| *kind != Type::Null);
        if nullable {
            kinds.push(Type::Null);
        }
        *kind = if let [one] = kinds.as_slice() { SchemaType::Type(one.clone()) } else { SchemaType::Array(kinds) };
    }
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
        return match ["/v1/messages", "/v1/sandbox/messages", "/v1/inbound-messages"].iter().any(|of| path.starts_with(of)) {
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
    operation.summary = operation.summary.take().map(|text| text.replace('\n', " "));
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
        let slug = text_of(2, 63).pattern(Some("^[a-z0-9]+(-[a-z0-9]+)*$")).examples(["acme-co"]);
        let text = "The tenant. A bearer token needs it; with a key it may be left out, and must not name another tenant.";
        parameters.push(header_parameter("X-Tenant-Slug", text, slug));
    }
    if matches!(needs, Needs::Role(_) | Needs::Human) {
        let parameters = operation.parameters.get_or_insert_default();
        let name = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["raven-cloud"]));
        parameters.push(header_parameter("X-App-Name", "The dashboard's name; others leave it out.", name));
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
    if path.starts_with("/v1/webhooks/") {
        statuses.extend([400, 401, 404, 408, 413, 503]);
    }
    if path.starts_with("/v1/unsubscribe/") {
        statuses.extend([404, 429, 503]);
        if *method == HttpMethod::Post {
            statuses.extend([400, 408, 413]);
        }
    }
    if path == "/metrics" {
        statuses.extend([401, 404]);
    }
    statuses.sort_unstable();
    for status in statuses {
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| RefOr::T(error(status)));
    }
    if path.starts_with("/v1/unsubscribe/") {
        // Whoever pressed the page's button gets a page in any case.
        for status in ["404", "429", "500", "503"] {
            let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) else { continue };
            let page = Content::new(Some(ObjectBuilder::new().schema_type(Type::String)));
            response.content.insert("text/html".to_owned(), page.into());
        }
    }
    let creates = ["201", "202"].iter().any(|status| operation.responses.responses.contains_key(*status));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            response.description = if status == "503" { "Not ready: the status tells what is missing." } else { "Done." }.to_owned();
        }
        response.headers.insert(
            "X-Request-Id".to_owned(),
            RefOr::T(always(header(Type::String, "The request's id: the caller's, if it sent a sane one."))),
        );
        if status == "401" {
            let text = "How to authenticate: `Bearer`.";
            response.headers.insert("WWW-Authenticate".to_owned(), RefOr::T(always(header(Type::String, text))));
        }
        if !matches!(needs, Needs::Nothing) && !matches!(status.as_str(), "401" | "500" | "503") {
            let count = |text| RefOr::T(header(Type::Integer, text));
            response.headers.insert("RateLimit-Limit".to_owned(), count("Requests a minute. Absent where there is no limit."));
            response.headers.insert("RateLimit-Remaining".to_owned(), count("Requests that could follow at once."));
            response.headers.insert("RateLimit-Reset".to_owned(), count("Seconds until all of them could."));
        }
        if creates && matches!(status.as_str(), "201" | "202") {
            let text = "`true` when this is the answer of an earlier, equal request with the same idempotency key.";
            response.headers.insert("Idempotent-Replayed".to_owned(), RefOr::T(header(Type::String, text)));
        }
    }
    if creates {
        let text = "The same as `idempotencyKey` in the body: 1 to 255 printable characters. Both, and different: 400.";
        let key = text_of(1, 255).pattern(Some("^[ -~]*$")).examples(["order-1042"]);
        operation.parameters.get_or_insert_default().push(header_parameter("Idempotency-Key", text, key));
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

/// A text of `min` to `max` characters.
fn text_of(min: usize, max: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(Some(max))
}

fn header_parameter(name: &str, description: &str, schema: ObjectBuilder) -> RefOr<Parameter> {
    let parameter =
        ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).description(Some(description)).schema(Some(schema));
    RefOr::T(parameter.build())
}

/// A header that is never missing. (The crate has no field for that; what it calls an extension is written as it is.)
fn always(mut header: Header) -> Header {
    header.extensions.get_or_insert_default().insert("required".to_owned(), true.into());
    header
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
        response = response.header("Retry-After", always(header(Type::Integer, "Seconds to wait.")));
    }
    response.build()
}
