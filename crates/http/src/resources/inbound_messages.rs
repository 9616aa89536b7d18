//! Messages that somebody sent to the tenant.

use axum::extract::State;
use raven_core::{Channel, Environment, MessageId, Seq, TenantId, Timestamp, keyword::Keyword, page::MAX_LIMIT};
use raven_store::{InboundFilter, InboundQuery, InboundRecord};
use serde::Serialize;

use super::AppState;
use crate::{
    App,
    caller::{AsViewer, Caller, ReadMessages, Session},
    openapi::closed::{ChannelName, EnvironmentFilter, EnvironmentName, KeywordName, ProviderId},
    page::{self, Page},
    problem::Result,
    query::{Parameters, RawQuery},
};

/// Rows that a page looks at where no index serves its filter.
const SCAN: usize = 10_000;

/// A message that somebody sent to the tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboundMessageView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MessageId,
    /// How it travelled.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// Who wrote.
    #[schema(max_length = 512, example = "+254722000000")]
    pub from: String,
    /// To which number or name of the tenant's.
    #[schema(max_length = 512, example = "22384")]
    pub to: String,
    /// What they wrote; empty where it is media alone.
    #[schema(max_length = 16384, example = "STOP")]
    pub body: String,
    /// Where its media are, at the provider.
    pub media_urls: Vec<String>,
    /// What it means, if it is one of the words that mean something alone. `stop` suppresses the sender on this channel, `start` lifts
    /// that.
    #[schema(required, value_type = Option<KeywordName>)]
    pub keyword: Option<&'static str>,
    /// The last message that the tenant had sent to whoever wrote.
    #[schema(required, value_type = Option<uuid::Uuid>)]
    pub in_reply_to: Option<MessageId>,
    /// Live, or test.
    #[schema(value_type = EnvironmentName)]
    pub environment: Environment,
    /// Id of the provider that it came through.
    #[schema(value_type = ProviderId)]
    pub provider: String,
    /// The provider config that it came through.
    #[schema(value_type = uuid::Uuid)]
    pub provider_config_id: raven_core::ConfigId,
    /// The provider's own id of it.
    #[schema(max_length = 512, example = "SM5a2b2f3c4d5e6f708192a3b4c5d6e7f8")]
    pub provider_message_id: String,
    /// When it was sent, by the provider's clock, where that tells it.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    pub sent_at: Option<Timestamp>,
    /// When it came here.
    #[schema(value_type = String, format = "date-time")]
    pub received_at: Timestamp,
}

fn view(app: &App, m: InboundRecord) -> InboundMessageView {
    InboundMessageView {
        id: app.engine.ids.seal(m.seq),
        channel: m.channel,
        from: m.sender,
        to: m.recipient,
        body: m.body,
        media_urls: m.media,
        keyword: m.keyword.map(Keyword::name),
        in_reply_to: m.message.map(|seq| app.engine.ids.seal(seq)),
        environment: m.environment,
        provider: m.provider,
        provider_config_id: m.config,
        provider_message_id: m.provider_message_id,
        sent_at: m.sent_at,
        received_at: m.seq.at(),
    }
}

/// Parameters of the list, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct InboundParameters {
    /// Exactly this channel.
    #[param(inline, value_type = Option<ChannelName>)]
    channel: Option<String>,
    /// From exactly this sender.
    #[param(min_length = 1, max_length = 200, pattern = r"^[^\x00]*$", example = "+254722000000")]
    sender: Option<String>,
    /// Rows on a page; 50 when absent.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `nextCursor` of the page before. Bound to the same endpoint and filters.
    #[param(max_length = 128, pattern = "^[A-Za-z0-9_-]*$", example = "AZbNH3kAAAD2q1m7cJ0aT4sYb2k")]
    cursor: Option<String>,
}

const LIST: &[&str] = &["channel", "sender", "limit", "cursor"];
const LIST_AS_HUMAN: &[&str] = &["channel", "sender", "limit", "cursor", "environment"];

/// Messages from outside, newest first: those of the key's own environment.
#[utoipa::path(get, path = "/v1/inbound-messages", tag = "messages", params(InboundParameters), responses((status = 200, body = Page<InboundMessageView>)), security(("key" = [])))]
pub async fn list(caller: Caller<ReadMessages>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<InboundMessageView>>> {
    let mut parameters = query.parameters(LIST);
    let (mut filter, limit, cursor) = read(&mut parameters);
    parameters.finish()?;
    filter.environment = Some(caller.key.environment);
    page(&app, "inbound-messages", caller.key.tenant, filter, limit, cursor.as_deref()).await
}

/// Messages from outside, newest first.
#[utoipa::path(get, path = "/v1/admin/inbound-messages", tag = "messages", params(InboundParameters, ("environment" = Option<EnvironmentFilter>, Query, description = "Of which environment: `live` when absent, or the key's own.")), responses((status = 200, body = Page<InboundMessageView>)))]
pub async fn list_as_human(
    session: Session<AsViewer>,
    State(app): AppState,
    query: RawQuery,
) -> Result<axum::Json<Page<InboundMessageView>>> {
    let mut parameters = query.parameters(LIST_AS_HUMAN);
    let (mut filter, limit, cursor) = read(&mut parameters);
    let environment = parameters.environment();
    parameters.finish()?;
    filter.environment = session.environment(environment)?;
    page(&app, "admin/inbound-messages", session.tenant_id(), filter, limit, cursor.as_deref()).await
}

fn read(parameters: &mut Parameters<'_>) -> (InboundFilter, usize, Option<String>) {
    let channel = parameters.read("channel", Channel::parse, || "must be sms, email, push or whatsapp".to_owned());
    let sender = parameters.read(
        "sender",
        |text| (text.chars().count() <= 200 && !text.contains('\0')).then(|| text.to_owned()),
        || "must have at most 200 characters".to_owned(),
    );
    let limit = page::limit(parameters);
    (InboundFilter { environment: None, channel, sender }, limit, parameters.get("cursor"))
}

async fn page(
    app: &App,
    endpoint: &str,
    tenant: TenantId,
    filter: InboundFilter,
    limit: usize,
    cursor: Option<&str>,
) -> Result<axum::Json<Page<InboundMessageView>>> {
    let scope = page::Scope::new(endpoint, tenant.0)
        .with("environment", filter.environment.map(Environment::name))
        .with("channel", filter.channel.map(Channel::name))
        .with("sender", filter.sender.as_deref());
    let before: Option<Seq> = scope.open(&app.engine.cursors, cursor)?;
    let query = InboundQuery { filter, before, limit, scan: SCAN.max(MAX_LIMIT) };
    let found = app.engine.store.list_inbound(tenant, &query).await?;
    let next_cursor = found.next.map(|seq| scope.seal(&app.engine.cursors, &seq));
    Ok(axum::Json(Page { data: found.rows.into_iter().map(|m| view(app, m)).collect(), next_cursor }))
}
