//! What a send request says, and the rules for it: every rule that can be checked is, so that all problems are told at once.

use std::borrow::Cow;

use raven_core::{
    Channel, Priority,
    address::{Email, Mailbox, phone, sender_id},
    json::Json,
    message::Content,
    sms::{self, Segments},
};

use crate::{
    fields::{Fields, line, request},
    openapi::closed::{AnyRecipient, ChannelName, EnvironmentName, PriorityName},
};

/// Characters of a recipient.
const TO_MAX: usize = 200;
/// Characters of a device token.
pub(super) const TOKEN_MAX: usize = 4096;
/// Characters of a text.
const BODY_MAX: usize = 4096;
/// Characters of a subject.
const SUBJECT_MAX: usize = 998;
/// Characters of an external id.
pub(super) const EXTERNAL_ID_MAX: usize = 255;

macro_rules! send_request {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty = $wire:literal,)* }) => {
        request! {
            $(#[$meta])*
            pub struct $name {
                /// How it travels.
                #[schema(required, value_type = ChannelName)]
                channel: Cow<'a, str> = "channel",
                /// Whom it reaches: a phone number in E.164 form (sms, whatsapp), an email address (email), a device token of 1 to
                /// 4096 characters or a web push subscription `{ endpoint, keys: { p256dh, auth } }` (push).
                #[schema(required, value_type = AnyRecipient)]
                to: Json<'a> = "to",
                /// The text: sms (required), push and whatsapp. 1 to 4096 characters.
                #[schema(min_length = 1, max_length = 4096, example = "Hi Ada, your order #AC-1042 is on its way.")]
                body: Cow<'a, str> = "body",
                /// The sender: an address with or without a name (email; required unless the provider config has `from_email`), or a
                /// sender id (sms). At most 320 characters.
                #[schema(min_length = 1, max_length = 320, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Acme <hello@example.com>")]
                from: Cow<'a, str> = "from",
                /// The subject: email (required). 1 to 998 characters, no line breaks.
                #[schema(min_length = 1, max_length = 998, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Your order is on its way")]
                subject: Cow<'a, str> = "subject",
                /// HTML of an email; this or `bodyText` or both.
                #[schema(min_length = 1, max_length = 26_214_400, example = "<p>Hi Ada</p>")]
                body_html: Cow<'a, str> = "bodyHtml",
                /// Plain text of an email; this or `bodyHtml` or both.
                #[schema(min_length = 1, max_length = 26_214_400, example = "Hi Ada")]
                body_text: Cow<'a, str> = "bodyText",
                /// What goes first: `transactional` (codes, receipts) or `bulk` (campaigns), which gives way. The key's own when
                /// absent, or the plan's.
                #[schema(required = false, value_type = PriorityName)]
                priority: Cow<'a, str> = "priority",
                /// Your own reference, 1 to 255 characters; messages can be searched by it.
                #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
                external_id: Cow<'a, str> = "externalId",
                /// The same key with the same payload never sends twice; may also stand in the `Idempotency-Key` header.
                #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "order-1042")]
                idempotency_key: Cow<'a, str> = "idempotencyKey",
                $($(#[$fmeta])* $field: $ty = $wire,)*
            }
        }
    };
}

send_request! {
    /// A message to send.
    SendRequest {}
}

send_request! {
    /// A message to send, by a human.
    HumanSendRequest {
        /// What it belongs to: `live` when absent, or the key's own.
        #[schema(required = false, value_type = EnvironmentName)]
        environment: Cow<'a, str> = "environment",
    }
}

impl<'a> HumanSendRequest<'a> {
    /// The message itself.
    #[must_use]
    pub fn message(self) -> SendRequest<'a> {
        let Self { channel, to, body, from, subject, body_html, body_text, priority, external_id, idempotency_key, .. } = self;
        SendRequest { channel, to, body, from, subject, body_html, body_text, priority, external_id, idempotency_key }
    }
}

/// A message that keeps all rules.
#[derive(Debug)]
pub struct Parsed {
    /// How it travels.
    pub channel: Channel,
    /// Whom it reaches, in the form in which it is stored.
    pub recipient: String,
    /// JSON of [`Content`].
    pub content: String,
    /// What goes first, where the request says so.
    pub priority: Option<Priority>,
    /// The caller's own reference.
    pub external_id: Option<String>,
    /// Parts and encoding of an SMS.
    pub segments: Option<Segments>,
    /// An email without `from`: the provider config must have one.
    pub needs_sender: bool,
}

impl<'a> SendRequest<'a> {
    /// Checks every rule, noting each problem.
    pub fn parse(self, fields: &mut Fields<'_>) -> Option<Parsed> {
        let channel = match self.channel.as_deref() {
            None => {
                fields.require("channel", "is required");
                None
            }
            Some(name) => {
                let found = Channel::parse(name);
                if found.is_none() {
                    fields.note("channel", "must be one of sms, email, push, whatsapp");
                }
                found
            }
        };
        let recipient = match &self.to {
            None => {
                fields.require("to", "is required");
                None
            }
            Some(to) => recipient(channel, to, fields),
        };
        let priority = priority(fields, self.priority.as_deref());
        self.lengths(fields);
        if let Some(channel) = channel {
            self.belonging(channel, fields);
        }
        let (channel, recipient) = (channel?, recipient?);
        let segments = self.body.as_deref().filter(|_| channel == Channel::Sms).map(sms::segments);
        let needs_sender = channel == Channel::Email && self.from.is_none();
        let content = Content {
            from: self.from,
            body: self.body,
            subject: self.subject,
            body_html: self.body_html,
            body_text: self.body_text,
            ..Content::default()
        };
        // Texts always serialize.
        let content = serde_json::to_string(&content).ok()?;
        let external_id = self.external_id.map(Cow::into_owned);
        Some(Parsed { channel, recipient, content, priority, external_id, segments, needs_sender })
    }

    /// Rules that hold on every channel.
    fn lengths(&self, fields: &mut Fields<'_>) {
        if let Some(body) = self.body.as_deref() {
            let length = body.chars().count();
            if !(1..=BODY_MAX).contains(&length) {
                fields.note("body", format!("must be 1 to {BODY_MAX} characters long, and is {length}"));
            }
        }
        if let Some(subject) = self.subject.as_deref() {
            fields.check("subject", line(subject, 1, SUBJECT_MAX));
        }
        if let Some(external_id) = self.external_id.as_deref() {
            fields.check("externalId", line(external_id, 1, EXTERNAL_ID_MAX));
        }
        for (name, text) in [("bodyHtml", &self.body_html), ("bodyText", &self.body_text)] {
            if text.as_deref().is_some_and(str::is_empty) {
                fields.note(name, "must not be empty");
            }
        }
        if self.from.as_deref().is_some_and(|f| f.chars().count() > 320) {
            fields.note("from", "must be at most 320 characters long");
        }
    }

    /// Rules of the channel: what it needs, and what is foreign to it.
    fn belonging(&self, channel: Channel, fields: &mut Fields<'_>) {
        let (email, texting) = (channel == Channel::Email, channel == Channel::Sms);
        let given = [
            ("body", self.body.is_some(), !email),
            ("from", self.from.is_some(), email || texting),
            ("subject", self.subject.is_some(), email),
            ("bodyHtml", self.body_html.is_some(), email),
            ("bodyText", self.body_text.is_some(), email),
        ];
        for (name, is_given, belongs) in given {
            if is_given && !belongs {
                fields.note(name, format!("is not a field of the channel {channel}"));
            }
        }
        if !email && self.body.is_none() {
            fields.require("body", "is required");
        }
        if email && self.subject.is_none() {
            fields.require("subject", "is required");
        }
        if email && self.body_html.is_none() && self.body_text.is_none() {
            fields.require("bodyText", "is required, or bodyHtml, or both");
        }
        match self.from.as_deref() {
            Some(from) if email => {
                fields.check("from", Mailbox::parse(from));
            }
            Some(from) if texting => {
                fields.check("from", sender_id(from));
            }
            _ => {}
        }
    }
}

/// Reads a priority.
pub(super) fn priority(fields: &mut Fields<'_>, name: Option<&str>) -> Option<Priority> {
    let found = Priority::parse(name?);
    if found.is_none() {
        fields.note("priority", "must be transactional or bulk");
    }
    found
}

/// The recipient in the form in which it is stored.
fn recipient(channel: Option<Channel>, to: &Json<'_>, fields: &mut Fields<'_>) -> Option<String> {
    let text = match (to, channel) {
        (Json::String(text), _) => text,
        (Json::Object(members), Some(Channel::Push) | None) => return subscription(members, fields),
        (_, Some(Channel::Push)) => {
            fields.note("to", "must be a device token, or a web push subscription { endpoint, keys: { p256dh, auth } }");
            return None;
        }
        _ => {
            fields.note("to", "must be a string");
            return None;
        }
    };
    let max = if channel == Some(Channel::Push) { TOKEN_MAX } else { TO_MAX };
    fields.check("to", line(text, 1, max))?;
    match channel? {
        Channel::Sms | Channel::Whatsapp => fields.check("to", phone(text)).map(str::to_owned),
        Channel::Email => fields.check("to", Email::parse(text)).map(|e| e.to_string()),
        Channel::Push if text.chars().all(|c| c.is_ascii_graphic()) && !text.starts_with('{') => Some(text.to_string()),
        Channel::Push => {
            fields.note("to", "must be a device token: printable ASCII without spaces");
            None
        }
    }
}

/// A web push subscription, as browsers make it.
fn subscription(members: &[(Cow<'_, str>, Json<'_>)], fields: &mut Fields<'_>) -> Option<String> {
    let mut outer = Fields::nested(members.to_vec(), &["endpoint", "keys", "expirationTime"], "to.");
    let endpoint: Option<Cow<'_, str>> = outer.take("endpoint");
    match endpoint.as_deref() {
        None => outer.require("endpoint", "is required"),
        Some(url) if url.len() > 2048 || !url.starts_with("https://") || !url.chars().all(|c| c.is_ascii_graphic()) => {
            outer.note("endpoint", "must be an https URL of at most 2048 characters")
        }
        Some(_) => {}
    }
    let keys: Option<Json<'_>> = outer.take("keys");
    let mut inner = match keys {
        Some(Json::Object(members)) => Fields::nested(members, &["p256dh", "auth"], "to.keys."),
        _ => {
            outer.note("keys", "must be an object with p256dh and auth");
            Fields::nested(Vec::new(), &[], "to.keys.")
        }
    };
    let base64url = |t: &str| (1..=128).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    let mut values: [Option<Cow<'_, str>>; 2] = [None, None];
    for (slot, name) in values.iter_mut().zip(["p256dh", "auth"]) {
        let value: Option<Cow<'_, str>> = inner.take(name);
        if value.as_deref().is_some_and(base64url) {
            *slot = value;
        } else {
            inner.require(name, "is required, in base64url");
        }
    }
    outer.absorb(inner);
    let _: Option<Json<'_>> = outer.take("expirationTime");
    fields.absorb(outer);
    let [p256dh, auth] = values;
    let (endpoint, p256dh, auth) = (endpoint?, p256dh?, auth?);
    serde_json::to_string(&serde_json::json!({ "endpoint": endpoint, "keys": { "p256dh": p256dh, "auth": auth } })).ok()
}
