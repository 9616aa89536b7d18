//! Messages: sending and reading them, for services and for humans alike.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use raven_core::{
    Channel, Environment, KeyId, MessageId, Priority, Seq, Source, Status, TenantId, Timestamp,
    address::{Email, phone},
    message::Content,
    money::Money,
    page::MAX_LIMIT,
    permission::Role,
};
use raven_engine::{
    audit::Entry,
    ingest::{IngestError, Receipt, Submission},
};
use raven_store::{Accepted, EventRecord, MessageFilter, MessageQuery, MessageRecord, Operation, messages::MessageClaim};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    AppState,
    dry_run::{self, DryRunParameter, DryRunView},
    environment, json, text,
};
use crate::{
    App,
    body::{Body, MESSAGE_LIMIT},
    caller::{Actor, AsMember, AsViewer, Caller, ReadMessages, SendMessages, Session},
    codes, idempotency,
    openapi::closed::{
        AnyRecipient, ChannelName, EncodingName, EnvironmentFilter, EnvironmentName, EventName, PriorityName, SourceName, StatusName,
        SuppressionReasonName,
    },
    page::{self, Page},
    problem::{Problem, Result},
    query::{Parameters, PathId, RawQuery},
    resources::send_request::{EXTERNAL_ID_MAX, HumanSendRequest, Parsed, SendRequest, TOKEN_MAX},
};

/// Rows that a page looks at where no index serves its filter.
const SCAN: usize = 10_000;
/// Characters of a provider's id that a filter takes: more than any has.
const PROVIDER_MAX: usize = 64;

/// A message that was accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MessageId,
    /// `queued`, or `suppressed` where the recipient may not be written to; in a replay what it was first answered.
    #[schema(value_type = StatusName)]
    pub status: Status,
    /// Its channel.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// Whom it reaches.
    #[schema(value_type = AnyRecipient)]
    pub to: Recipient,
    /// When it was accepted.
    #[schema(value_type = String, format = "date-time")]
    pub enqueued_at: Timestamp,
}

/// A message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MessageId,
    /// Its channel.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// Where it is in its life.
    #[schema(value_type = StatusName)]
    pub status: Status,
    /// Whom it reaches.
    #[schema(value_type = AnyRecipient)]
    pub to: Recipient,
    /// The caller's own reference.
    #[schema(required)]
    pub external_id: Option<String>,
    /// Who asked for it.
    #[schema(value_type = SourceName)]
    pub source: Source,
    /// What goes first.
    #[schema(value_type = PriorityName)]
    pub priority: Priority,
    /// What it belongs to.
    #[schema(value_type = EnvironmentName)]
    pub environment: Environment,
    /// Id of the provider that had it last.
    #[schema(required, example = "africas_talking")]
    pub provider: Option<String>,
    /// Through which config.
    #[schema(required, value_type = Option<uuid::Uuid>)]
    pub provider_config_id: Option<raven_core::ConfigId>,
    /// The provider's own id.
    #[schema(required)]
    pub provider_message_id: Option<String>,
    /// Parts of an SMS.
    #[schema(required)]
    pub segments: Option<i16>,
    /// Encoding of an SMS.
    #[schema(required, value_type = Option<EncodingName>)]
    pub encoding: Option<&'static str>,
    /// Currency of the cost (ISO 4217).
    #[schema(required)]
    pub cost_currency: Option<String>,
    /// The cost.
    #[schema(required, example = 0.8)]
    pub cost_amount: Option<f64>,
    /// Why it failed.
    #[schema(required)]
    pub failure_reason: Option<String>,
    /// Why it was not sent, if it is suppressed.
    #[schema(required, value_type = Option<SuppressionReasonName>)]
    pub suppression_reason: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = "date-time")]
    pub enqueued_at: Timestamp,
}

/// A message with its timeline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MessageWithEvents {
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
    /// The caller's words for its kind.
    pub tags: Vec<String>,
    /// The caller's own data about it.
    #[schema(schema_with = super::extras::metadata)]
    pub metadata: BTreeMap<String, String>,
    /// Its timeline, oldest first.
    pub events: Vec<EventView>,
}

/// A line of a timeline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// What happened.
    #[schema(value_type = EventName)]
    pub event_type: &'static str,
    /// When.
    #[schema(value_type = String, format = "date-time")]
    pub occurred_at: Timestamp,
    /// In which attempt, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = i16)]
    pub attempt: Option<i16>,
    /// Explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub detail: Option<String>,
    /// What the provider said, raw; only for admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub payload: Option<String>,
}

/// A recipient as the API shows it: a text, or a web push subscription object.
#[derive(Debug)]
pub struct Recipient(pub(super) String);

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.starts_with('{').then(|| serde_json::from_str::<&RawValue>(&self.0)) {
            Some(Ok(object)) => object.serialize(s),
            _ => s.serialize_str(&self.0),
        }
    }
}

impl EventView {
    fn new(e: EventRecord, with_payload: bool) -> Self {
        Self {
            event_type: e.kind.name(),
            occurred_at: e.at,
            attempt: (e.attempt > 0).then_some(e.attempt),
            detail: e.detail,
            payload: e.payload.filter(|_| with_payload),
        }
    }
}

pub(super) fn view(app: &App, m: MessageRecord) -> MessageView {
    // One column has both, for nothing that is suppressed has failed.
    let (failure_reason, suppression_reason) =
        if m.status == Status::Suppressed { (None, m.failure_reason) } else { (m.failure_reason, None) };
    MessageView {
        id: app.engine.ids.seal(m.seq),
        channel: m.channel,
        status: m.status,
        to: Recipient(m.recipient),
        external_id: m.external_id,
        source: m.source,
        priority: m.priority,
        environment: m.environment,
        provider: m.provider,
        provider_config_id: m.config,
        provider_message_id: m.provider_message_id,
        segments: m.segments,
        encoding: m.encoding.map(raven_core::sms::Encoding::name),
        cost_currency: m.cost_currency,
        cost_amount: m.cost_micros.map(Money::amount),
        failure_reason,
        suppression_reason,
        enqueued_at: m.seq.at(),
    }
}

/// Whose message it is to be.
struct Sender {
    tenant: TenantId,
    environment: Environment,
    source: Source,
    key: Option<KeyId>,
    /// Priority of the key's messages, where it has one.
    priority: Option<Priority>,
    operation: Operation,
    /// Where somebody acts in a session: what the audit log says, but for the message's id.
    audit: Option<Entry>,
}

/// Send a message.
///
/// 202 means that the message is durably stored; it is at the provider a moment later. With an idempotency key the same
/// request can be sent again without a second message.
#[utoipa::path(post, path = "/v1/messages", tag = "messages", request_body(content = SendRequest, examples(
    ("sms" = (summary = "A text message", value = json!({"channel": "sms", "to": "+254722000000", "body": "Hi Ada, your order #AC-1042 is on its way.", "externalId": "order-1042"}))),
    ("email" = (summary = "An email", value = json!({"channel": "email", "to": "ada@example.com", "from": "Acme <hello@example.com>", "subject": "Your order is on its way", "bodyText": "Hi Ada", "bodyHtml": "<p>Hi Ada</p>"}))),
    ("push" = (summary = "A notification in a browser", value = json!({"channel": "push", "to": {"endpoint": "https://push.example.com/send/0a1b2c3d", "keys": {"p256dh": "AnExampleOfAPublicKey", "auth": "AnExampleOfASecret"}}, "body": "Your order is on its way"}))),
    ("whatsapp" = (summary = "A WhatsApp message", value = json!({"channel": "whatsapp", "to": "+254722000000", "body": "Your order is on its way"}))),
)), params(DryRunParameter), responses((status = 200, description = "Of a dry run: what would become of the message.", body = DryRunView), (status = 202, body = AcceptedView)), security(("key" = [])))]
pub async fn send(
    caller: Caller<SendMessages>,
    State(app): AppState,
    headers: HeaderMap,
    query: RawQuery,
    body: Body<MESSAGE_LIMIT>,
) -> Result<Response> {
    let dry_run = dry_run::asked(&query)?;
    let mut fields = body.fields(SendRequest::FIELDS)?;
    let request = SendRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let fingerprint = fields.fingerprint();
    let parsed = request.parse(&mut fields);
    fields.finish()?;
    let parsed = parsed.ok_or_else(|| Problem::of(codes::VALIDATION_FAILED))?;
    if dry_run {
        return dry_run::answer(&app, caller.key.tenant, caller.key.environment, &parsed).await;
    }
    let sender = Sender {
        tenant: caller.key.tenant,
        environment: caller.key.environment,
        source: Source::Api,
        key: Some(caller.key.id),
        priority: caller.key.priority,
        operation: Operation::SendMessage,
        audit: None,
    };
    accept(&app, sender, parsed, key, fingerprint).await
}

/// Send a message, as a human.
#[utoipa::path(post, path = "/v1/admin/messages", tag = "messages", request_body(content = HumanSendRequest, examples(
    ("sms" = (summary = "A text message to the sandbox", value = json!({"channel": "sms", "to": "+254722000000", "body": "Hi Ada, your order #AC-1042 is on its way.", "environment": "test"}))),
    ("email" = (summary = "An email to the sandbox", value = json!({"channel": "email", "to": "ada@example.com", "from": "Acme <hello@example.com>", "subject": "Your order is on its way", "bodyText": "Hi Ada", "environment": "test"}))),
)), params(DryRunParameter), responses((status = 200, description = "Of a dry run: what would become of the message.", body = DryRunView), (status = 202, body = AcceptedView)))]
pub async fn send_as_human(
    session: Session<AsMember>,
    State(app): AppState,
    headers: HeaderMap,
    query: RawQuery,
    body: Body<MESSAGE_LIMIT>,
) -> Result<Response> {
    let dry_run = dry_run::asked(&query)?;
    let mut fields = body.fields(HumanSendRequest::FIELDS)?;
    let request = HumanSendRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let fingerprint = fields.fingerprint();
    let environment = environment(&mut fields, request.environment.as_deref(), session.confined_to().unwrap_or(Environment::Live));
    let parsed = request.message().parse(&mut fields);
    fields.finish()?;
    let (Some(parsed), Some(environment)) = (parsed, environment) else { return Err(Problem::of(codes::VALIDATION_FAILED)) };
    if session.confined_to().is_some_and(|own| own != environment) {
        return Err(Problem::new(codes::INSUFFICIENT_SCOPE, "A key can send in its own environment only."));
    }
    if dry_run {
        return dry_run::answer(&app, session.tenant_id(), environment, &parsed).await;
    }
    let mut entry = session.entry("message.send", uuid::Uuid::nil());
    entry.after = serde_json::json!({ "channel": parsed.channel, "environment": environment });
    let (key_id, priority) = match &session.actor {
        Actor::Human(_) => (None, None),
        Actor::Key(key) => (Some(key.id), key.priority),
    };
    let sender = Sender {
        tenant: session.tenant_id(),
        environment,
        source: Source::Dashboard,
        key: key_id,
        priority,
        operation: Operation::SendMessageAsHuman,
        audit: Some(entry),
    };
    accept(&app, sender, parsed, key, fingerprint).await
}

async fn accept(app: &App, sender: Sender, mut parsed: Parsed, key: Option<String>, fingerprint: [u8; 16]) -> Result<Response> {
    let engine = &app.engine;
    let Sender { tenant, environment, source, key: key_id, priority, operation, audit } = sender;
    let expires_at = engine.clock.now().after(app.settings.idempotency_kept);
    let idempotency = key.map(|key| MessageClaim { operation, key, fingerprint, expires_at });
    let view = engine.directory.tenant(tenant).await.map_err(|e| Problem::from(&*e))?.ok_or_else(|| Problem::of(codes::NOT_A_MEMBER))?;
    let links = &engine.unsubscribe_links;
    let refusal = match parsed.check(&view, environment, engine.clock.now()).and_then(|()| parsed.check_link(links)) {
        Err(refusal) => refusal,
        Ok(()) => {
            let plan = engine.plans.of(&view.record.plan);
            let priority = parsed.priority.or(priority).unwrap_or(plan.priority);
            parsed.take_link(priority, links);
            let submission = Submission {
                tenant,
                environment,
                source,
                priority,
                key: key_id,
                channel: parsed.channel,
                recipient: parsed.recipient,
                content: parsed.content,
                external_id: parsed.external_id,
                segments: parsed.segments.map(|s| i16::try_from(s.count).unwrap_or(i16::MAX)),
                encoding: parsed.segments.map(|s| s.encoding),
                idempotency,
                view: view.clone(),
                needs: parsed.needs,
                // Every live message counts, whatever the plan: it may change in the middle of the day.
                quota: (environment == Environment::Live).then(|| plan.quota()),
                audit,
            };
            return match engine.ingest.accept(submission).await {
                Ok(receipt) => accepted(app, receipt),
                Err(IngestError::QuotaExceeded) => Err(quota_exceeded(engine.clock.now())),
                Err(e) => Err(e.into()),
            };
        }
    };
    // A message that can't be sent now was perhaps accepted before: then its replay still answers.
    let replay = match &idempotency {
        Some(claim) => engine.store.find_replay(tenant, environment, claim).await?,
        None => None,
    };
    match replay {
        Some(Accepted::Replayed { seq, recipient, channel, status }) => {
            accepted(app, Receipt { seq, status, channel, recipient, replayed: true })
        }
        Some(Accepted::KeyReused) => Err(Problem::of(codes::IDEMPOTENCY_KEY_REUSED)),
        _ => Err(refusal),
    }
}

/// The day ends at midnight, UTC.
fn quota_exceeded(now: Timestamp) -> Problem {
    let left = now.day().plus(1).start().since(now);
    let seconds = u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    Problem::of(codes::DAILY_QUOTA_EXCEEDED).after(seconds.max(1))
}

fn accepted(app: &App, receipt: Receipt) -> Result<Response> {
    let view = AcceptedView {
        id: app.engine.ids.seal(receipt.seq),
        status: receipt.status,
        channel: receipt.channel,
        to: Recipient(receipt.recipient),
        enqueued_at: receipt.seq.at(),
    };
    let mut response = json(StatusCode::ACCEPTED, text(&view)?);
    if receipt.replayed {
        response.headers_mut().insert(idempotency::REPLAYED, idempotency::TRUE);
    }
    Ok(response)
}

/// One message with its timeline.
#[utoipa::path(get, path = "/v1/messages/{id}", tag = "messages", params(("id" = uuid::Uuid, Path, description = "The message's id.", example = "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d")), responses((status = 200, body = MessageWithEvents)), security(("key" = [])))]
pub async fn find(
    caller: Caller<ReadMessages>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
) -> Result<axum::Json<MessageWithEvents>> {
    query.none()?;
    one(&app, caller.key.tenant, Some(caller.key.environment), &id, false).await
}

/// One message with its timeline, of either environment.
#[utoipa::path(get, path = "/v1/admin/messages/{id}", tag = "messages", params(("id" = uuid::Uuid, Path, description = "The message's id.", example = "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d")), responses((status = 200, body = MessageWithEvents)))]
pub async fn find_as_human(
    session: Session<AsViewer>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
) -> Result<axum::Json<MessageWithEvents>> {
    query.none()?;
    one(&app, session.tenant_id(), session.confined_to(), &id, session.role >= Role::Admin).await
}

async fn one(
    app: &App,
    tenant: TenantId,
    environment: Option<Environment>,
    id: &str,
    with_payload: bool,
) -> Result<axum::Json<MessageWithEvents>> {
    let not_found = || Problem::of(codes::NOT_FOUND);
    let seq = MessageId::parse(id).and_then(|id| app.engine.ids.open(id)).ok_or_else(not_found)?;
    let record = app.engine.store.find_message(tenant, environment, seq).await?.ok_or_else(not_found)?;
    let events = app.engine.store.list_events(tenant, seq).await?;
    let events = events.into_iter().map(|e| EventView::new(e, with_payload)).collect();
    let outline = app.engine.store.find_outline(tenant, seq).await?.unwrap_or_default();
    let Content { tags, metadata, .. } = serde_json::from_str(&outline).unwrap_or_default();
    Ok(axum::Json(MessageWithEvents { message: view(app, record), tags, metadata, events }))
}

/// Messages of the key's environment, newest first.
#[utoipa::path(get, path = "/v1/messages", tag = "messages", params(ListParameters), responses((status = 200, body = Page<MessageView>)), security(("key" = [])))]
pub async fn list(caller: Caller<ReadMessages>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<MessageView>>> {
    let mut parameters = query.parameters(LIST);
    let (mut filter, limit, cursor) = read_filter(&mut parameters);
    parameters.finish()?;
    filter.environment = Some(caller.key.environment);
    many(&app, "messages", caller.key.tenant, filter, limit, cursor.as_deref()).await
}

/// Messages, newest first.
#[utoipa::path(get, path = "/v1/admin/messages", tag = "messages", params(ListParameters, ("environment" = Option<EnvironmentFilter>, Query, description = "Of which environment: `live` when absent, or the key's own.")),
    responses((status = 200, body = Page<MessageView>)))]
pub async fn list_as_human(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<MessageView>>> {
    let mut parameters = query.parameters(LIST_AS_HUMAN);
    let (mut filter, limit, cursor) = read_filter(&mut parameters);
    let environment = parameters.environment();
    parameters.finish()?;
    filter.environment = session.environment(environment)?;
    many(&app, "admin/messages", session.tenant_id(), filter, limit, cursor.as_deref()).await
}

pub(super) const LIST: &[&str] = &["status", "channel", "to", "externalId", "source", "provider", "from", "until", "limit", "cursor"];
const LIST_AS_HUMAN: &[&str] =
    &["status", "channel", "to", "externalId", "source", "provider", "from", "until", "limit", "cursor", "environment"];

/// The parameters of a list of messages, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name in `read_filter`; this lists them for the document")]
pub struct ListParameters {
    /// Exactly this status.
    #[param(value_type = Option<StatusName>)]
    status: Option<String>,
    /// Exactly this channel.
    #[param(value_type = Option<ChannelName>)]
    channel: Option<String>,
    /// Exactly this recipient. A web push subscription can't be searched.
    #[param(max_length = 4096, example = "+254722000000")]
    to: Option<String>,
    /// Exactly this reference of yours.
    #[param(rename = "externalId", max_length = 255, example = "order-1042")]
    external_id: Option<String>,
    /// Exactly this source.
    #[param(value_type = Option<SourceName>)]
    source: Option<String>,
    /// Exactly this provider: an id of the catalog, or `sandbox`.
    #[param(max_length = 64, example = "africas_talking")]
    provider: Option<String>,
    /// Accepted at this time or later (ISO 8601).
    #[param(format = "date-time", example = "2026-05-01T00:00:00Z")]
    from: Option<String>,
    /// Accepted before this time (ISO 8601).
    #[param(format = "date-time", example = "2026-06-01T00:00:00Z")]
    until: Option<String>,
    /// Rows on a page; 50 when absent.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `nextCursor` of the page before. Bound to the same filters.
    #[param(max_length = 128, pattern = "^[A-Za-z0-9_-]*$", example = "AZbNH3kAAAD2q1m7cJ0aT4sYb2k")]
    cursor: Option<String>,
}

pub(super) fn read_filter(parameters: &mut Parameters<'_>) -> (MessageFilter, usize, Option<String>) {
    let names = |all: &[&'static str]| format!("must be one of {}", all.join(", "));
    let time = || "must be an ISO 8601 time with an offset, for example 2026-05-01T00:00:00Z".to_owned();
    let filter = MessageFilter {
        environment: None,
        status: parameters.read("status", Status::parse, || names(&Status::ALL.iter().map(|s| s.name()).collect::<Vec<_>>())),
        channel: parameters.read("channel", Channel::parse, || names(&Channel::ALL.iter().map(|c| c.name()).collect::<Vec<_>>())),
        recipient: parameters.get("to").map(|to| normal_recipient(&to)),
        external_id: parameters.get("externalId"),
        source: parameters.read("source", Source::parse, || names(&Source::ALL.iter().map(|s| s.name()).collect::<Vec<_>>())),
        provider: parameters.get("provider"),
        from: parameters.read("from", Timestamp::parse, time),
        until: parameters.read("until", Timestamp::parse, time),
    };
    let texts = [
        ("to", &filter.recipient, TOKEN_MAX),
        ("externalId", &filter.external_id, EXTERNAL_ID_MAX),
        ("provider", &filter.provider, PROVIDER_MAX),
    ];
    for (name, value, max) in texts {
        let Some(value) = value.as_deref() else { continue };
        if value.contains('\0') {
            parameters.note(name, "must not contain the character U+0000");
        } else if value.chars().count() > max {
            parameters.note(name, format!("must be at most {max} characters long"));
        }
    }
    (filter, page::limit(parameters), parameters.get("cursor"))
}

/// A recipient in the form in which it is stored.
fn normal_recipient(to: &str) -> String {
    match (phone(to), Email::parse(to)) {
        (Err(_), Ok(email)) => email.to_string(),
        _ => to.to_owned(),
    }
}

/// What a list of messages asks the store for, and what its cursors are bound to.
pub(super) fn asked(
    app: &App,
    endpoint: &str,
    tenant: TenantId,
    filter: MessageFilter,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(page::Scope, MessageQuery)> {
    let time = |t: Option<Timestamp>| t.map(|t| t.millis().to_string());
    let scope = page::Scope::new(endpoint, tenant.0)
        .with("environment", filter.environment.map(Environment::name))
        .with("status", filter.status.map(Status::name))
        .with("channel", filter.channel.map(Channel::name))
        .with("to", filter.recipient.as_deref())
        .with("externalId", filter.external_id.as_deref())
        .with("source", filter.source.map(Source::name))
        .with("provider", filter.provider.as_deref())
        .with("from", time(filter.from).as_deref())
        .with("until", time(filter.until).as_deref());
    let before: Option<Seq> = scope.open(&app.engine.cursors, cursor)?;
    Ok((scope, MessageQuery { filter, before, limit, scan: SCAN.max(MAX_LIMIT) }))
}

async fn many(
    app: &App,
    endpoint: &str,
    tenant: TenantId,
    filter: MessageFilter,
    limit: usize,
    cursor: Option<&str>,
) -> Result<axum::Json<Page<MessageView>>> {
    let (scope, query) = asked(app, endpoint, tenant, filter, limit, cursor)?;
    let found = app.engine.store.list_messages(tenant, &query).await?;
    let next_cursor = found.next.map(|seq| scope.seal(&app.engine.cursors, &seq));
    Ok(axum::Json(Page { data: found.rows.into_iter().map(|m| view(app, m)).collect(), next_cursor }))
}
