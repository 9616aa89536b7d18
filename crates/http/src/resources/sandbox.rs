//! The sandbox's inbox: what messages of test keys would have said to their recipients.

use std::collections::BTreeMap;

use axum::extract::State;
use raven_core::{
    Channel, Environment,
    message::{Attachment, Content},
    sms,
};
use serde::Serialize;

use super::{
    AppState, extras,
    messages::{self, LIST, ListParameters, MessageView, asked, read_filter},
};
use crate::{
    caller::{Caller, ReadMessages},
    page::Page,
    problem::Result,
    query::RawQuery,
};

/// A page ends when so much content was read for it: one message may have 25 MiB.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A message that the sandbox holds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CapturedView {
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
    /// What it says.
    pub content: ContentView,
}

/// What a message says. Members that it has not are absent.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContentView {
    /// The sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub from: Option<String>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub body: Option<String>,
    /// The texts of the parts that an SMS travels in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub parts: Vec<String>,
    /// The subject of an email.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub subject: Option<String>,
    /// The HTML of an email.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub body_html: Option<String>,
    /// The plain text of an email.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub body_text: Option<String>,
    /// Where answers go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub reply_to: Option<String>,
    /// Further recipients whom all see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub cc: Vec<String>,
    /// Further recipients whom nobody sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub bcc: Vec<String>,
    /// Further header fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = extras::headers)]
    pub headers: BTreeMap<String, String>,
    /// Files, without their bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub attachments: Vec<AttachmentView>,
    /// The caller's words for its kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub tags: Vec<String>,
    /// The caller's own data about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = extras::metadata)]
    pub metadata: BTreeMap<String, String>,
    /// The title of a notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub title: Option<String>,
    /// What the app gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = extras::data)]
    pub data: BTreeMap<String, String>,
    /// The number on the app's icon.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u32)]
    pub badge: Option<u32>,
    /// Whose place a notification takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub collapse_key: Option<String>,
    /// For how many seconds a notification is worth delivering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u32)]
    pub ttl: Option<u32>,
    /// Where a picture or a file is fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub media_url: Option<String>,
    /// A WhatsApp template, filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = TemplateView)]
    pub whatsapp_template: Option<TemplateView>,
}

/// A file of an email.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentView {
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub size: usize,
    /// What the HTML calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub content_id: Option<String>,
}

/// A WhatsApp template, filled in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateView {
    /// Its name.
    pub name: String,
    /// Its language.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub language: Option<String>,
    /// What is filled in.
    pub parameters: Vec<String>,
    /// The picture, video or document in its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    pub header_media_url: Option<String>,
}

impl ContentView {
    fn new(channel: Channel, content: Content<'_>) -> Self {
        let parts = content.body.as_deref().filter(|_| channel == Channel::Sms).map(sms::parts).unwrap_or_default();
        Self {
            parts: parts.into_iter().map(str::to_owned).collect(),
            from: content.from.map(Into::into),
            body: content.body.map(Into::into),
            subject: content.subject.map(Into::into),
            body_html: content.body_html.map(Into::into),
            body_text: content.body_text.map(Into::into),
            reply_to: content.reply_to.map(Into::into),
            cc: content.cc,
            bcc: content.bcc,
            headers: content.headers,
            attachments: content.attachments.into_iter().map(AttachmentView::from).collect(),
            tags: content.tags,
            metadata: content.metadata,
            title: content.title.map(Into::into),
            data: content.data,
            badge: content.badge,
            collapse_key: content.collapse_key.map(Into::into),
            ttl: content.ttl,
            media_url: content.media_url.map(Into::into),
            whatsapp_template: content.whatsapp_template.map(|t| TemplateView {
                name: t.name,
                language: t.language,
                parameters: t.parameters,
                header_media_url: t.header_media_url,
            }),
        }
    }
}

impl From<Attachment> for AttachmentView {
    fn from(a: Attachment) -> Self {
        let size = a.size().unwrap_or_default();
        Self { filename: a.filename, content_type: a.content_type, size, content_id: a.content_id }
    }
}

/// What messages of test keys say, newest first: what a provider would have got. A live key sees its own environment only, so
/// nothing here.
#[utoipa::path(get, path = "/v1/sandbox/messages", tag = "messages", params(ListParameters), responses((status = 200, body = Page<CapturedView>)), security(("key" = [])))]
pub async fn list(caller: Caller<ReadMessages>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<CapturedView>>> {
    let mut parameters = query.parameters(LIST);
    let (mut filter, limit, cursor) = read_filter(&mut parameters);
    parameters.finish()?;
    // Of its own environment, like everything that a key sees: cursors of the other are refused, too.
    filter.environment = Some(caller.key.environment);
    let tenant = caller.key.tenant;
    let (scope, query) = asked(&app, "sandbox/messages", tenant, filter, limit, cursor.as_deref())?;
    if caller.key.environment != Environment::Test {
        return Ok(axum::Json(Page { data: Vec::new(), next_cursor: None }));
    }
    let found = app.engine.store.list_messages(tenant, &query).await?;
    let (mut data, mut next, mut bytes) = (Vec::with_capacity(found.rows.len()), found.next, 0);
    let last = found.rows.last().map(|record| record.seq);
    for record in found.rows {
        // One look-up a message: who tests reads few, and a content may be large.
        let seq = record.seq;
        let text = app.engine.store.find_content(tenant, seq).await?.unwrap_or_default();
        let mut content: Content<'_> = serde_json::from_str(&text).unwrap_or_default();
        // As it was sent. Where the link can't be made at present, the rest of it is shown.
        let _ = app.engine.unsubscribe_links.write(&mut content, tenant, seq);
        let content = ContentView::new(record.channel, content);
        data.push(CapturedView { message: messages::view(&app, record), content });
        bytes += text.len();
        if bytes >= PAGE_BYTES && Some(seq) != last {
            next = Some(seq);
            break;
        }
    }
    Ok(axum::Json(Page { data, next_cursor: next.map(|seq| scope.seal(&app.engine.cursors, &seq)) }))
}
