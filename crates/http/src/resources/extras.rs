//! The fields of a send request that say more than a text: further recipients, header fields, attachments, tags and metadata of
//! an email, what a notification carries, a WhatsApp template.

use std::{borrow::Cow, collections::BTreeMap};

use raven_core::{
    address::Mailbox,
    json::Json,
    message::{Attachment, Content, Template},
};
use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, Type};

use super::send_request::SendRequest;
use crate::fields::{Fields, line};

/// Recipients of an email beside the first.
const RECIPIENTS_MAX: usize = 49;
/// Members of `headers`, `metadata`, `data`, and attachments.
const MEMBERS_MAX: usize = 20;
/// Characters of a header field's value.
const HEADER_MAX: usize = 998;
/// Bytes of a word in it.
const HEADER_WORD_MAX: usize = 900;
const TAGS_MAX: usize = 10;
/// Characters of a tag.
const TAG_MAX: usize = 128;
/// Characters of a metadata value.
const METADATUM_MAX: usize = 500;
/// Bytes of a notification's data, names and values: what the push services leave beside a title and a text.
const DATA_MAX: usize = 3500;
const BADGE_MAX: i64 = 99_999;
/// Four weeks, the longest that push services keep a notification.
const TTL_MAX: i64 = 2_419_200;
/// Bytes of all attachments.
const ATTACHMENTS_MAX: usize = 10 * 1024 * 1024;
/// Header fields that a message may set, in lower case, beside `x-…` and `list-…`. The others are ours or the provider's.
const HEADERS: &[&str] =
    &["in-reply-to", "references", "auto-submitted", "precedence", "importance", "feedback-id", "organization", "keywords"];
/// Names that FCM and APNs keep for themselves.
const RESERVED: &[&str] = &["from", "gcm", "aps", "message_type"];

/// A file that travels with an email.
#[derive(utoipa::ToSchema)]
#[schema(as = Attachment, rename_all = "camelCase")]
#[expect(dead_code, reason = "the shape that is read below, for the document")]
pub struct AttachmentRequest {
    /// Its name: 1 to 255 characters, no path.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f/\\]*$", example = "receipt.pdf")]
    filename: String,
    /// Its media type.
    #[schema(max_length = 127, pattern = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$", example = "application/pdf")]
    content_type: String,
    /// Its bytes, in base64.
    #[schema(min_length = 4, max_length = 13_981_016, pattern = "^[A-Za-z0-9+/]+={0,2}$", example = "JVBERi0xLjcK")]
    content: String,
    /// For a picture within the HTML, which shows it as `cid:` and this.
    #[schema(required = false, min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9._@-]+$", example = "logo")]
    content_id: Option<String>,
}

/// An approved WhatsApp template, filled in.
#[derive(utoipa::ToSchema)]
#[schema(as = WhatsappTemplate, rename_all = "camelCase")]
#[expect(dead_code, reason = "the shape that is read below, for the document")]
pub struct TemplateRequest {
    /// Its name; with Twilio the content SID.
    #[schema(min_length = 1, max_length = 512, pattern = "^[A-Za-z0-9_]+$", example = "order_shipped")]
    name: String,
    /// Its language. Meta's Cloud API needs it; with Twilio the template has its own.
    #[schema(required = false, pattern = "^[a-z]{2,3}(_[A-Z]{2})?$", example = "en_US")]
    language: Option<String>,
    /// What is put in the place of `{{1}}`, `{{2}}`, … of its text.
    #[schema(required = false, max_items = 20, schema_with = parameters)]
    parameters: Option<Vec<String>>,
    /// The https URL of the picture, video or document in its header.
    #[schema(
        required = false,
        min_length = 9,
        max_length = 2048,
        pattern = r"^https://[\x21-\x7e]+$",
        example = "https://example.com/receipt.pdf"
    )]
    header_media_url: Option<String>,
}

fn texts(item: ObjectBuilder, most: usize, example: &str, about: &str) -> Schema {
    let item = item.examples([example]);
    ArrayBuilder::new().items(item).max_items(Some(most)).description(Some(about)).examples([json!([example])]).into()
}

fn members(item: ObjectBuilder, (name, value): (&str, &str), about: &str) -> Schema {
    let kind = AdditionalProperties::RefOr(item.examples([value]).into());
    let object = ObjectBuilder::new().additional_properties(Some(kind)).max_properties(Some(MEMBERS_MAX));
    object.description(Some(about)).examples([json!({ name: value })]).into()
}

fn text(max: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).max_length(Some(max))
}

/// The schema of `cc` and `bcc`.
pub(super) fn mailboxes() -> Schema {
    texts(
        text(320).min_length(Some(3)),
        RECIPIENTS_MAX,
        "Ada <ada@example.com>",
        "Further recipients: addresses with or without a name. At most 49 in `cc` and `bcc` together. One \
         who is suppressed gets no copy.",
    )
}

/// The schema of `headers`.
pub(super) fn headers() -> Schema {
    let about = "Further header fields of an email. At most 20 of `X-…`, `List-…`, `In-Reply-To`, `References`, `Auto-Submitted`, \
                 `Precedence`, `Importance`, `Feedback-ID`, `Organization` and `Keywords`.";
    members(text(HEADER_MAX).pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]*$")), ("X-Campaign", "spring"), about)
}

/// The schema of `tags`.
pub(super) fn tags() -> Schema {
    let item = text(TAG_MAX).min_length(Some(1)).pattern(Some("^[A-Za-z0-9_-]+$"));
    texts(item, TAGS_MAX, "receipts", "Words for a kind of messages, shown with the message and passed on where the provider takes tags.")
}

/// The schema of `metadata`.
pub(super) fn metadata() -> Schema {
    let about = "Your own data, shown with the message and passed on where the provider takes it. At most 20 texts, by names of 1 to 64 \
                 letters, digits, `-`, `_` or `.`.";
    members(text(METADATUM_MAX), ("orderId", "1042"), about)
}

/// The schema of `data`.
pub(super) fn data() -> Schema {
    let about = "What the app gets with a notification. At most 20 texts, 3,500 bytes in all, by names of 1 to 64 letters, digits, `-`, \
                 `_` or `.`; `from`, `gcm`, `aps`, `message_type` and names that begin with `google` or `gcm.` are the push services' own.";
    members(text(DATA_MAX), ("orderId", "1042"), about)
}

fn parameters() -> Schema {
    texts(text(1024).min_length(Some(1)), MEMBERS_MAX, "Ada", "What is put in the place of `{{1}}`, `{{2}}`, … of its text.")
}

/// Reads and checks these fields, noting each problem. They are taken out of the request.
pub(super) fn read<'a>(request: &mut SendRequest<'a>, fields: &mut Fields<'_>) -> Content<'a> {
    let mut content = Content::default();
    if let Some(reply_to) = request.reply_to.take() {
        fields.check("replyTo", Mailbox::parse(&reply_to));
        content.reply_to = Some(reply_to);
    }
    content.cc = request.cc.take().map(|json| recipients("cc", json, fields)).unwrap_or_default();
    content.bcc = request.bcc.take().map(|json| recipients("bcc", json, fields)).unwrap_or_default();
    if content.cc.len() + content.bcc.len() > RECIPIENTS_MAX {
        fields.note("cc", format!("must have at most {RECIPIENTS_MAX} recipients, with those of bcc"));
    }
    if let Some(json) = request.headers.take() {
        content.headers = by_name("headers", json, fields, &header);
        let mut names: Vec<String> = content.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            fields.note("headers", "must not name a field twice, in whatever case");
        }
    }
    if let Some(json) = request.attachments.take() {
        content.attachments = attachments(json, fields);
    }
    if let Some(json) = request.tags.take() {
        content.tags = list("tags", json, TAGS_MAX, fields, &tag);
    }
    if let Some(json) = request.metadata.take() {
        content.metadata = by_name("metadata", json, fields, &metadatum);
    }
    if let Some(json) = request.data.take() {
        content.data = by_name("data", json, fields, &datum);
        let size: usize = content.data.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > DATA_MAX {
            fields.note("data", format!("must be at most {DATA_MAX} bytes, and is {size}"));
        }
    }
    if let Some(title) = request.title.take() {
        fields.check("title", line(&title, 1, 255));
        content.title = Some(title);
    }
    content.badge = request.badge.take().and_then(|n| whole("badge", n, BADGE_MAX, fields));
    content.ttl = request.ttl.take().and_then(|n| whole("ttl", n, TTL_MAX, fields));
    if let Some(key) = request.collapse_key.take() {
        if !(1..=64).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            fields.note("collapseKey", "must be 1 to 64 printable ASCII characters without spaces");
        }
        content.collapse_key = Some(key);
    }
    if let Some(url) = request.media_url.take() {
        fields.check("mediaUrl", https(&url));
        content.media_url = Some(url);
    }
    content.whatsapp_template = request.whatsapp_template.take().and_then(|json| template(json, fields));
    content
}

fn whole(name: &'static str, n: i64, max: i64, fields: &mut Fields<'_>) -> Option<u32> {
    let found = u32::try_from(n).ok().filter(|_| n <= max);
    if found.is_none() {
        fields.note(name, format!("must be a whole number from 0 to {max}"));
    }
    found
}

fn https(url: &str) -> Result<(), &'static str> {
    let good =
        url.len() <= 2048 && url.len() > "https://".len() && url.starts_with("https://") && url.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(()) } else { Err("must be an https URL of at most 2048 characters") }
}

/// Texts of an array; each problem is noted with its place.
fn list(
    name: &'static str,
    json: Json<'_>,
    most: usize,
    fields: &mut Fields<'_>,
    check: &dyn Fn(&str) -> Result<(), String>,
) -> Vec<String> {
    let Json::Array(items) = json else {
        fields.note(name, "must be an array of strings");
        return Vec::new();
    };
    if items.len() > most {
        fields.note(name, format!("must have at most {most} items, and has {}", items.len()));
        return Vec::new();
    }
    let mut texts = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        match item {
            Json::String(text) => match check(&text) {
                Ok(()) => texts.push(text.into_owned()),
                Err(why) => fields.note(&format!("{name}[{at}]"), why),
            },
            _ => fields.note(&format!("{name}[{at}]"), "must be a string"),
        }
    }
    texts
}

fn recipients(name: &'static str, json: Json<'_>, fields: &mut Fields<'_>) -> Vec<String> {
    list(name, json, RECIPIENTS_MAX, fields, &|text| {
        let short = text.chars().count() <= 320;
        if !short {
            return Err("must be at most 320 characters long".to_owned());
        }
        Mailbox::parse(text).map(drop).map_err(|e| e.to_string())
    })
}

/// Texts by name; each problem is noted with its name.
fn by_name(
    name: &'static str,
    json: Json<'_>,
    fields: &mut Fields<'_>,
    check: &dyn Fn(&str, &str) -> Result<(), String>,
) -> BTreeMap<String, String> {
    let Json::Object(members) = json else {
        fields.note(name, "must be an object of strings");
        return BTreeMap::new();
    };
    let members: Vec<_> = members.into_iter().filter(|(_, value)| *value != Json::Null).collect();
    if members.len() > MEMBERS_MAX {
        fields.note(name, format!("must have at most {MEMBERS_MAX} members, and has {}", members.len()));
        return BTreeMap::new();
    }
    let mut texts = BTreeMap::new();
    for (key, value) in members {
        let place = || format!("{name}.{}", crate::fields::shown(&key));
        match value {
            Json::String(text) => match check(&key, &text) {
                Ok(()) => {
                    texts.insert(key.into_owned(), text.into_owned());
                }
                Err(why) => fields.note(&place(), why),
            },
            _ => fields.note(&place(), "must be a string"),
        }
    }
    texts
}

/// A name of our making: 1 to 64 letters, digits, `-`, `_` or `.`.
fn plain_name(name: &str) -> Result<(), String> {
    let good = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good { Ok(()) } else { Err("must have a name of 1 to 64 letters, digits, '-', '_' or '.'".to_owned()) }
}

fn header(name: &str, value: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    let prefixed = ["x-", "list-"].iter().any(|prefix| lower.len() > prefix.len() && lower.starts_with(prefix));
    if lower.len() > 76 || !lower.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || !(prefixed || HEADERS.contains(&&*lower)) {
        return Err(format!("is not a header field that a message may set: those are X-…, List-…, {}", HEADERS.join(", ")));
    }
    // A line of a header field can only be broken where there is a space.
    if value.split(' ').any(|word| word.len() > HEADER_WORD_MAX) {
        return Err(format!("must have no word of more than {HEADER_WORD_MAX} bytes"));
    }
    line(value, 1, HEADER_MAX)
}

fn tag(text: &str) -> Result<(), String> {
    let good = (1..=TAG_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if good { Ok(()) } else { Err(format!("must be 1 to {TAG_MAX} letters, digits, '-' or '_'")) }
}

fn metadatum(name: &str, value: &str) -> Result<(), String> {
    plain_name(name)?;
    let length = value.chars().count();
    if length <= METADATUM_MAX { Ok(()) } else { Err(format!("must be at most {METADATUM_MAX} characters long, and is {length}")) }
}

fn datum(name: &str, _: &str) -> Result<(), String> {
    plain_name(name)?;
    let reserved = RESERVED.contains(&name) || name.starts_with("google") || name.starts_with("gcm.");
    if reserved { Err("has a name that the push services keep for themselves".to_owned()) } else { Ok(()) }
}

fn attachments(json: Json<'_>, fields: &mut Fields<'_>) -> Vec<Attachment> {
    let Json::Array(items) = json else {
        fields.note("attachments", "must be an array of objects");
        return Vec::new();
    };
    if items.len() > MEMBERS_MAX {
        fields.note("attachments", format!("must have at most {MEMBERS_MAX} items, and has {}", items.len()));
        return Vec::new();
    }
    let mut size = 0;
    let mut all = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let Json::Object(members) = item else {
            fields.note(&format!("attachments[{at}]"), "must be an object { filename, contentType, content }");
            continue;
        };
        let known = &["filename", "contentType", "content", "contentId"];
        let mut inner = Fields::nested(members, known, format!("attachments[{at}]."));
        all.extend(attachment(&mut inner, &mut size));
        fields.absorb(inner);
    }
    if size > ATTACHMENTS_MAX {
        fields.note("attachments", format!("must be at most {ATTACHMENTS_MAX} bytes in all, and are {size}"));
    }
    all
}

fn attachment(fields: &mut Fields<'_>, size: &mut usize) -> Option<Attachment> {
    let filename = fields.line("filename", 1, 255);
    match &filename {
        None => fields.require("filename", "is required"),
        Some(name) if name.contains(['/', '\\']) => fields.note("filename", "must be a name without a path"),
        Some(_) => {}
    }
    let content_type: Option<Cow<'_, str>> = fields.take("contentType");
    let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    match &content_type {
        None => fields.require("contentType", "is required"),
        Some(t) if t.len() <= 127 && t.split_once('/').is_some_and(|(main, sub)| token(main) && token(sub)) => {}
        Some(_) => fields.note("contentType", "must be a media type such as application/pdf"),
    }
    let content: Option<Cow<'_, str>> = fields.take("content");
    if content.is_none() {
        fields.require("content", "is required");
    }
    let content_id: Option<Cow<'_, str>> = fields.take("contentId");
    let plain = |id: &str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b));
    if content_id.as_deref().is_some_and(|id| !plain(id)) {
        fields.note("contentId", "must be 1 to 128 letters, digits, '.', '_', '@' or '-'");
    }
    let file = Attachment {
        filename: filename?.into_owned(),
        content_type: content_type?.into_owned(),
        content: content?.into_owned(),
        content_id: content_id.map(Cow::into_owned),
    };
    match file.size() {
        Some(0) => fields.note("content", "must not be empty"),
        Some(bytes) => *size += bytes,
        None => fields.note("content", "must be base64 (RFC 4648, with padding, no line breaks)"),
    }
    Some(file)
}

fn template(json: Json<'_>, fields: &mut Fields<'_>) -> Option<Template> {
    let Json::Object(members) = json else {
        fields.note("whatsappTemplate", "must be an object { name, language, parameters }");
        return None;
    };
    let known = &["name", "language", "parameters", "headerMediaUrl"];
    let mut inner = Fields::nested(members, known, "whatsappTemplate.");
    let name: Option<Cow<'_, str>> = inner.take("name");
    match name.as_deref() {
        None => inner.require("name", "is required"),
        Some(n) if (1..=512).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {}
        Some(_) => inner.note("name", "must be 1 to 512 letters, digits or '_'"),
    }
    let language: Option<Cow<'_, str>> = inner.take("language");
    let is_language = |l: &str| {
        let (language, region) = l.split_once('_').map_or((l, None), |(l, r)| (l, Some(r)));
        (2..=3).contains(&language.len())
            && language.bytes().all(|b| b.is_ascii_lowercase())
            && region.is_none_or(|r| r.len() == 2 && r.bytes().all(|b| b.is_ascii_uppercase()))
    };
    if language.as_deref().is_some_and(|l| !is_language(l)) {
        inner.note("language", "must be a language such as en or en_US");
    }
    let parameters = inner.take("parameters").map(|json| list("parameters", json, MEMBERS_MAX, &mut inner, &parameter)).unwrap_or_default();
    let header: Option<Cow<'_, str>> = inner.take("headerMediaUrl");
    if let Some(url) = header.as_deref() {
        inner.check("headerMediaUrl", https(url));
    }
    fields.absorb(inner);
    Some(Template {
        name: name?.into_owned(),
        language: language.map(Cow::into_owned),
        parameters,
        header_media_url: header.map(Cow::into_owned),
    })
}

fn parameter(text: &str) -> Result<(), String> {
    let length = text.chars().count();
    if (1..=1024).contains(&length) { Ok(()) } else { Err(format!("must be 1 to 1024 characters long, and is {length}")) }
}
