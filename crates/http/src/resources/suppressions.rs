//! Suppressions: addresses that a tenant does not write to any more.

use std::borrow::Cow;

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use raven_core::{
    Channel, Environment, MessageId, SuppressionId, SuppressionReason, SuppressionSource, Timestamp,
    address::Email,
    json::Json,
    page::{DEFAULT_LIMIT, MAX_LIMIT},
    suppression::comparable,
};
use raven_store::{Error, NewSuppression, Operation, Scope, SuppressionFilter, SuppressionQuery, SuppressionRecord};
use serde::Serialize;
use uuid::Uuid;

use super::{AppState, answer, claim, environment, fresh_id, messages::Recipient, send_request, text, value};
use crate::{
    App,
    body::Body,
    caller::{AsAdmin, AsViewer, Session},
    codes,
    fields::request,
    idempotency,
    openapi::closed::{AnyRecipient, ChannelName, EnvironmentName, SuppressionReasonName, SuppressionSourceName},
    page::{self, Position},
    problem::{Problem, Result},
    query::{Parameters, PathId, RawQuery},
};

/// Rows that a page looks at where no index serves its filter.
const SCAN: usize = 10_000;
/// Rows that are counted for `total`, and looked at to find a page by its number.
const COUNTED: usize = 100_000;
/// Characters of a part of an address.
const PART_MAX: usize = 320;

request! {
    /// An address that is not to be written to any more.
    pub struct SuppressionRequest {
        /// Messages of this channel are not sent to it.
        #[schema(required, value_type = ChannelName)]
        channel: Cow<'a, str> = "channel",
        /// The address, as the `to` of a message on that channel. The case of an email address does not matter.
        #[schema(required, value_type = AnyRecipient)]
        address: Json<'a> = "address",
        /// Why: `manual` when absent.
        #[schema(required = false, value_type = SuppressionReasonName)]
        reason: Cow<'a, str> = "reason",
        /// Whose messages: `live` when absent, or the key's own.
        #[schema(required = false, value_type = EnvironmentName)]
        environment: Cow<'a, str> = "environment",
        /// The same key with the same payload never creates twice; may also stand in the `Idempotency-Key` header.
        #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
        idempotency_key: Cow<'a, str> = "idempotencyKey",
    }
}

/// An address that is not written to any more.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: SuppressionId,
    /// Messages of this channel are not sent to it.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// The address, in the form in which addresses are compared.
    #[schema(value_type = AnyRecipient)]
    pub address: Recipient,
    /// Why.
    #[schema(value_type = SuppressionReasonName)]
    pub reason: SuppressionReason,
    /// What listed it.
    #[schema(value_type = SuppressionSourceName)]
    pub source: SuppressionSource,
    /// The message that it came of.
    #[schema(required, value_type = Option<Uuid>)]
    pub message_id: Option<MessageId>,
    /// What was told of the recipient, in the words of whoever told it.
    #[schema(required, example = "550 no such user")]
    pub detail: Option<String>,
    /// When it was listed.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
}

impl SuppressionView {
    fn new(app: &App, s: SuppressionRecord) -> Self {
        Self {
            id: s.id,
            channel: s.channel,
            address: Recipient(s.address),
            reason: s.reason,
            source: s.source,
            message_id: s.message.map(|seq| app.engine.ids.seal(seq)),
            detail: s.detail,
            created_at: s.created_at,
        }
    }
}

/// A page of suppressions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionPageView {
    /// Newest first.
    pub data: Vec<SuppressionView>,
    /// How many pass the filters. At most 100000 are looked at for it.
    #[schema(example = 1)]
    pub total: usize,
    /// The page's number, from 1: the one that was asked for, or one more than that of the page whose cursor was.
    #[schema(example = 1)]
    pub page: u32,
    /// Rows on a page.
    #[schema(example = 50)]
    pub page_size: usize,
    /// Pass it as `cursor` to get the next page; `null` on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Parameters of the list, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct SuppressionParameters {
    /// Of this channel.
    #[param(inline, value_type = Option<ChannelName>)]
    channel: Option<String>,
    /// A part of the address; the case does not matter.
    #[param(min_length = 1, max_length = 320, pattern = r"^[^\x00]*$", example = "@example.com")]
    q: Option<String>,
    /// Whose messages: `live` when absent, or the key's own.
    #[param(inline, value_type = Option<EnvironmentName>)]
    environment: Option<String>,
    /// The number of a page, from 1; not together with `cursor` and `limit`. Pages by number end at the newest 100000; a cursor
    /// goes on from there.
    #[param(minimum = 1, maximum = 1_000_000, default = 1)]
    page: Option<u32>,
    /// Rows on a page by number; 50 when absent.
    #[param(rename = "pageSize", minimum = 1, maximum = 200, default = 50)]
    page_size: Option<u32>,
}

/// The highest number of a page.
const LAST_PAGE: u32 = 1_000_000;

/// Where a page ends, and the number of the next one.
struct Mark {
    at: Timestamp,
    id: Uuid,
    page: u32,
}

impl Position for Mark {
    fn to_bytes(&self) -> Vec<u8> {
        [&(self.at, self.id).to_bytes()[..], &self.page.to_be_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (place, page) = bytes.split_last_chunk::<4>()?;
        let (at, id) = Position::from_bytes(place)?;
        Some(Self { at, id, page: u32::from_be_bytes(*page) })
    }
}

/// Which page is asked for.
struct Asked {
    cursor: Option<String>,
    page: u32,
    size: usize,
}

/// Reads `cursor` and `limit`, or `page` and `pageSize`.
fn asked(parameters: &mut Parameters<'_>) -> Asked {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=LAST_PAGE).contains(n));
    let size = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=MAX_LIMIT).contains(n));
    let page = parameters.read("page", number, || format!("must be a whole number from 1 to {LAST_PAGE}"));
    let page_size = parameters.read("pageSize", size, || format!("must be a whole number from 1 to {MAX_LIMIT}"));
    let limit = page::limit(parameters);
    let cursor = parameters.get("cursor");
    if cursor.is_some() || parameters.get("limit").is_some() {
        for name in ["page", "pageSize"] {
            if parameters.get(name).is_some() {
                parameters.note(name, "can't be combined with cursor and limit: pages are asked for by number or by cursor");
            }
        }
        return Asked { cursor, page: 1, size: limit };
    }
    Asked { cursor: None, page: page.unwrap_or(1), size: page_size.unwrap_or(DEFAULT_LIMIT) }
}

/// A part of an address as addresses are compared. A whole email address is brought into its form first.
fn part(text: &str) -> String {
    Email::parse(text).map_or_else(|_| text.to_lowercase(), |email| email.comparable())
}

/// Addresses that are not written to, newest first: those that somebody listed, and those of which providers told.
#[utoipa::path(get, path = "/v1/admin/suppressions", tag = "suppressions", params(SuppressionParameters, page::PageParameters),
    responses((status = 200, body = SuppressionPageView)))]
pub async fn list(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<SuppressionPageView>> {
    let mut parameters = query.parameters(&["channel", "q", "environment", "page", "pageSize", "limit", "cursor"]);
    let names = || Channel::ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    let channel = parameters.read("channel", Channel::parse, || format!("must be one of {}", names()));
    let environment = parameters.read("environment", Environment::parse, || "must be live or test".to_owned());
    let q = parameters.get("q");
    if let Some(q) = q.as_deref() {
        if q.contains('\0') {
            parameters.note("q", "must not contain the character U+0000");
        } else if q.chars().count() > PART_MAX {
            parameters.note("q", format!("must be at most {PART_MAX} characters long"));
        }
    }
    let Asked { cursor, page, size } = asked(&mut parameters);
    parameters.finish()?;
    let environment = session.environment(environment.map(Some))?.unwrap_or(Environment::Live);
    let (store, tenant) = (&app.engine.store, session.tenant_id());

    let filter = SuppressionFilter { environment, channel, part: q.as_deref().map(part) };
    let scope = page::Scope::new("suppressions", tenant.0)
        .with("environment", Some(environment.name()))
        .with("channel", channel.map(Channel::name))
        .with("q", filter.part.as_deref());
    let mark: Option<Mark> = scope.open(&app.engine.cursors, cursor.as_deref())?;
    let page = mark.as_ref().map_or(page, |mark| mark.page);
    // Only pages by number have others before them that are to be left out.
    let (before, skip, scan) = match &mark {
        Some(mark) => (Some((mark.at, SuppressionId(mark.id))), 0, SCAN),
        None => (None, usize::try_from(page - 1).unwrap_or(usize::MAX).saturating_mul(size), if page > 1 { COUNTED } else { SCAN }),
    };
    let total = store.count_suppressions(tenant, &filter, COUNTED).await?;
    let found = store.list_suppressions(tenant, &SuppressionQuery { filter, before, skip, limit: size, scan }).await?;
    let next = found.next.map(|(at, id)| Mark { at, id: id.0, page: page.saturating_add(1) });
    Ok(axum::Json(SuppressionPageView {
        data: found.rows.into_iter().map(|record| SuppressionView::new(&app, record)).collect(),
        total,
        page,
        page_size: size,
        next_cursor: next.map(|mark| scope.seal(&app.engine.cursors, &mark)),
    }))
}

/// List an address that is not to be written to any more.
///
/// Messages to it are accepted with the status `suppressed`, and not sent. Those that wait already are not sent either.
#[utoipa::path(post, path = "/v1/admin/suppressions", tag = "suppressions", request_body(content = SuppressionRequest, examples(
    ("email" = (summary = "An email address", value = json!({"channel": "email", "address": "ada@example.com", "reason": "unsubscribed"}))),
    ("sms" = (summary = "A phone number, in the sandbox", value = json!({"channel": "sms", "address": "+254722000000", "environment": "test"}))),
)), responses((status = 201, body = SuppressionView)))]
pub async fn create(session: Session<AsAdmin>, State(app): AppState, headers: HeaderMap, query: RawQuery, body: Body) -> Result<Response> {
    query.none()?;
    let mut fields = body.fields(SuppressionRequest::FIELDS)?;
    let request = SuppressionRequest::read(&mut fields);
    let key = idempotency::key(&mut fields, request.idempotency_key.as_deref(), &headers);
    let (fingerprint, now) = (fields.fingerprint(), app.engine.clock.now());
    let channel = send_request::channel(&mut fields, request.channel.as_deref());
    let address = match &request.address {
        None => {
            fields.require("address", "is required");
            None
        }
        Some(address) => send_request::recipient("address", channel, address, &mut fields),
    };
    let reason = match request.reason.as_deref() {
        None => Some(SuppressionReason::Manual),
        Some(name) => {
            let found = SuppressionReason::parse(name);
            if found.is_none() {
                let known: Vec<&str> = SuppressionReason::ALL.iter().map(|reason| reason.name()).collect();
                fields.note("reason", format!("must be one of {}", known.join(", ")));
            }
            found
        }
    };
    let environment = environment(&mut fields, request.environment.as_deref(), session.confined_to().unwrap_or(Environment::Live));
    fields.finish()?;
    let (Some(channel), Some(address), Some(reason), Some(environment)) = (channel, address, reason, environment) else {
        return Err(Problem::of(codes::VALIDATION_FAILED));
    };
    if session.confined_to().is_some_and(|own| own != environment) {
        return Err(Problem::new(codes::INSUFFICIENT_SCOPE, "A key can suppress addresses of its own environment only."));
    }

    let (id, tenant) = (SuppressionId(fresh_id(&app)?), session.tenant_id());
    let record = SuppressionRecord {
        id,
        tenant,
        environment,
        channel,
        address: comparable(channel, &address).into_owned(),
        reason,
        source: SuppressionSource::Request,
        message: None,
        detail: None,
        created_at: now,
    };
    let view = SuppressionView::new(&app, record.clone());
    let created = text(&view)?;
    let mut entry = session.entry("suppression.create", id.0);
    entry.after = value(&view);
    let audit = session.record(&app, &entry);
    let claim = claim(&app, key, Scope::Tenant(tenant, environment), Operation::CreateSuppression, fingerprint, now, &created);
    match app.engine.store.create_suppression(NewSuppression { record, claim, audit }).await {
        Err(Error::Conflict(_)) => Err(Problem::of(codes::ALREADY_SUPPRESSED)),
        outcome => answer(outcome?, created),
    }
}

/// Take an address off the list. Messages to it are sent again; those that were suppressed stay so.
#[utoipa::path(delete, path = "/v1/admin/suppressions/{id}", tag = "suppressions", params(("id" = Uuid, Path, description = "The suppression's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), responses((status = 204, description = "Done.")))]
pub async fn delete(session: Session<AsAdmin>, State(app): AppState, PathId(id): PathId, query: RawQuery) -> Result<StatusCode> {
    query.none()?;
    let not_found = || Problem::of(codes::NOT_FOUND);
    let id = SuppressionId::parse(&id).ok_or_else(not_found)?;
    let (store, tenant) = (&app.engine.store, session.tenant_id());
    let found = store.find_suppression(tenant, session.confined_to(), id).await?.ok_or_else(not_found)?;
    let mut entry = session.entry("suppression.delete", id.0);
    entry.before = value(&SuppressionView::new(&app, found));
    if store.delete_suppression(tenant, id, session.record(&app, &entry)).await? { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_compared_as_addresses_are() {
        for (q, expected) in [
            ("Ada", "ada"),
            ("ADA@bücher.example", "ada@xn--bcher-kva.example"),
            ("@Example.com", "@example.com"),
            ("+2547", "+2547"),
            ("100%_", "100%_"),
        ] {
            assert_eq!(part(q), expected);
        }
    }

    #[test]
    fn marks_read_back() {
        let mark = Mark { at: Timestamp::from_millis(7), id: Uuid::from_u128(9), page: 3 };
        let read = Mark::from_bytes(&mark.to_bytes()).expect("it reads back");
        assert_eq!((read.at, read.id, read.page), (mark.at, mark.id, mark.page));
        assert!(Mark::from_bytes(&[0; 27]).is_none());
    }
}
