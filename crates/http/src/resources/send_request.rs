//! What a send request says, and the rules for it: every rule that can be checked is, so that all problems are told at once.

use std::borrow::Cow;

use raven_core::{
    Channel, Environment, Priority, Problems, Seq, Timestamp,
    address::{Email, Mailbox, phone, sender_id},
    json::Json,
    message::Content,
    sms::{self, Segments},
};

use raven_engine::{
    directory::TenantView,
    routing::{self, Needs, Objection, Query},
    unsubscribe::UnsubscribeLinks,
};

use super::extras::{self, AttachmentRequest, TemplateRequest};
use crate::{
    codes,
    fields::{Fields, line, request},
    openapi::closed::{AnyRecipient, ChannelName, EnvironmentName, PriorityName},
    problem::{Problem, Result},
};

/// Characters of a recipient.
const TO_MAX: usize = 200;
/// Characters of a device token.
pub(super) const TOKEN_MAX: usize = 4096;
/// Characters of a text.
pub(super) const BODY_MAX: usize = 4096;
/// Characters of a subject.
const SUBJECT_MAX: usize = 998;
/// What is said of an email without a sender.
pub(super) const NO_SENDER: &str = "is required: the provider config has no from_email";
/// Characters of the id of a provider or a config: more than any has.
const PROVIDER_MAX: usize = 64;
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
                /// Where answers go: email. An address with or without a name.
                #[schema(min_length = 1, max_length = 320, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Acme support <help@example.com>")]
                reply_to: Cow<'a, str> = "replyTo",
                /// Further recipients whom all see: email. At most 49, with `bcc`. One who is suppressed gets no copy.
                #[schema(required = false, schema_with = extras::mailboxes)]
                cc: Json<'a> = "cc",
                /// Further recipients whom nobody sees: email. At most 49, with `cc`. One who is suppressed gets no copy.
                #[schema(required = false, schema_with = extras::mailboxes)]
                bcc: Json<'a> = "bcc",
                /// Further header fields: email.
                #[schema(required = false, schema_with = extras::headers)]
                headers: Json<'a> = "headers",
                /// Files: email. At most 20, of 10 MB (10,485,760 bytes) in all.
                #[schema(required = false, value_type = Vec<AttachmentRequest>, max_items = 20, example = json!([{"filename": "receipt.pdf", "contentType": "application/pdf", "content": "JVBERi0xLjcK"}]))]
                attachments: Json<'a> = "attachments",
                /// Words for a kind of messages, shown with the message and passed on where the provider takes tags.
                #[schema(required = false, schema_with = extras::tags)]
                tags: Json<'a> = "tags",
                /// Your own data, shown with the message and passed on where the provider takes it.
                #[schema(required = false, schema_with = extras::metadata)]
                metadata: Json<'a> = "metadata",
                /// Title of a notification: push. 1 to 255 characters.
                #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Your order")]
                title: Cow<'a, str> = "title",
                /// What the app gets: push.
                #[schema(required = false, schema_with = extras::data)]
                data: Json<'a> = "data",
                /// Number on the app's icon: push.
                #[schema(minimum = 0, maximum = 99_999, example = 1)]
                badge: i64 = "badge",
                /// A newer notification with the same key takes an older one's place: push. 1 to 64 printable ASCII characters.
                #[schema(min_length = 1, max_length = 64, pattern = r"^[\x21-\x7e]*$", example = "order-1042")]
                collapse_key: Cow<'a, str> = "collapseKey",
                /// How many seconds a notification is worth delivering: push. At most 28 days.
                #[schema(minimum = 0, maximum = 2_419_200, example = 3600)]
                ttl: i64 = "ttl",
                /// An https URL from which the provider fetches a picture or a file: sms, whatsapp. At most 2048 characters.
                #[schema(min_length = 9, max_length = 2048, pattern = r"^https://[\x21-\x7e]+$", example = "https://example.com/receipt.png")]
                media_url: Cow<'a, str> = "mediaUrl",
                /// An approved template instead of a text: whatsapp.
                #[schema(required = false, value_type = TemplateRequest)]
                whatsapp_template: Json<'a> = "whatsappTemplate",
                /// The one provider (its id in the catalog) or the one provider config (its id) that it may go through. At most 64
                /// characters.
                #[schema(min_length = 1, max_length = 64, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "africas_talking")]
                provider: Cow<'a, str> = "provider",
                /// Does it carry a link by which its recipient unsubscribes (RFC 8058): email. `List-Unsubscribe` and
                /// `List-Unsubscribe-Post` are added, and `{{unsubscribe_url}}` in the texts is replaced. When absent: of
                /// `bulk` messages, unless they have `cc`, `bcc` or a `List-Unsubscribe` of their own, which `true` does not go with.
                /// Needs a `RAVEN_PUBLIC_URL` that begins with https.
                #[schema(example = true)]
                unsubscribe: bool = "unsubscribe",
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
        SendRequest {
            channel: self.channel,
            to: self.to,
            body: self.body,
            from: self.from,
            subject: self.subject,
            body_html: self.body_html,
            body_text: self.body_text,
            reply_to: self.reply_to,
            cc: self.cc,
            bcc: self.bcc,
            headers: self.headers,
            attachments: self.attachments,
            tags: self.tags,
            metadata: self.metadata,
            title: self.title,
            data: self.data,
            badge: self.badge,
            collapse_key: self.collapse_key,
            ttl: self.ttl,
            media_url: self.media_url,
            whatsapp_template: self.whatsapp_template,
            provider: self.provider,
            unsubscribe: self.unsubscribe,
            priority: self.priority,
            external_id: self.external_id,
            idempotency_key: self.idempotency_key,
        }
    }
}

/// A field's name, whether it is given, and the channels that it belongs to.
type Given = (&'static str, bool, &'static [Channel]);

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
    /// What it asks of a provider config.
    pub needs: Needs,
    /// Whether it is to carry a link by which its recipient unsubscribes.
    pub link: Link,
}

/// Whether an email is to carry a link by which its recipient unsubscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It carries one.
    Wanted,
    /// It carries one where it is bulk, and links can be made.
    Usual,
    /// It carries none.
    None,
}

impl Parsed {
    /// The question which config takes it.
    #[must_use]
    pub fn query(&self, seq: Seq) -> Query<'_> {
        Query { channel: self.channel, recipient: &self.recipient, needs: &self.needs, seq, tried: None }
    }

    /// Refuses a link that can't be made.
    ///
    /// # Errors
    /// `validation_failed`.
    pub fn check_link(&self, links: &UnsubscribeLinks) -> Result<()> {
        if self.link == Link::Wanted && !links.are_possible() {
            let text = "can't be true: this installation has no public address that begins with https. The operator sets RAVEN_PUBLIC_URL";
            return Err(Problem::field("unsubscribe", text));
        }
        Ok(())
    }

    /// Gives a bulk email its link, where there can be one.
    pub fn take_link(&mut self, priority: Priority, links: &UnsubscribeLinks) {
        // What an email says is never an empty object.
        if self.link == Link::Usual && priority == Priority::Bulk && links.are_possible() && self.content.pop() == Some('}') {
            self.content.push_str(r#","unsubscribe":true}"#);
            self.link = Link::Wanted;
        }
    }

    /// Could it be sent in this environment, if nothing were wrong with any provider? One config that carries it is enough.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, view: &TenantView, environment: Environment, now: Timestamp) -> Result<()> {
        let mut configs = view.on(self.channel).map(|connection| connection.contender(now)).peekable();
        if environment == Environment::Test {
            if self.needs.sender && !configs.any(|config| config.default_sender) {
                return Err(Problem::field("from", NO_SENDER));
            }
            return Ok(());
        }
        if configs.peek().is_none() {
            let text = format!("No provider is configured for {}. Add one with POST /v1/admin/providers, or use a test key.", self.channel);
            return Err(Problem::new(codes::NO_PROVIDER_FOR_CHANNEL, text));
        }
        let query = self.query(Seq(0));
        // What the best one lacks of those that come closest.
        let (mut ruled_out, mut senders, mut lacking) = (0, false, None);
        for config in configs {
            match routing::admit(&config, &query) {
                Ok(_) => return Ok(()),
                Err(Objection::Pin) => {}
                Err(Objection::Rules) => ruled_out += 1,
                Err(Objection::Sender) => senders = true,
                Err(Objection::Features(_) | Objection::Paused) => {
                    lacking.get_or_insert((config.provider.to_owned(), config.features));
                }
            }
        }
        if let Some((provider, features)) = lacking {
            let mut problems = Problems::default();
            for feature in self.needs.features.beyond(features) {
                problems.add(feature.name(), format!("can't be carried by {provider}"));
            }
            return Err(Problem::listed(codes::UNSUPPORTED_FEATURE, problems));
        }
        if senders {
            return Err(Problem::field("from", NO_SENDER));
        }
        let text = match &self.needs.pin {
            Some(pin) if ruled_out == 0 => {
                format!("None of the tenant's provider configs for {} is {pin}, which `provider` asks for.", self.channel)
            }
            _ => format!("The rules of all of the tenant's provider configs for {} leave this recipient out.", self.channel),
        };
        Err(Problem::new(codes::NO_PROVIDER_FOR_CHANNEL, text))
    }
}

impl<'a> SendRequest<'a> {
    /// Checks every rule, noting each problem.
    pub fn parse(mut self, fields: &mut Fields<'_>) -> Option<Parsed> {
        let channel = channel(fields, self.channel.as_deref());
        let recipient = match &self.to {
            None => {
                fields.require("to", "is required");
                None
            }
            Some(to) => recipient("to", channel, to, fields),
        };
        let priority = priority(fields, self.priority.as_deref());
        self.lengths(fields);
        // Before what was read out of the request is known no longer.
        let given = self.given();
        let extras = extras::read(&mut self, fields);
        if let Some(channel) = channel {
            self.belonging(channel, &given, fields);
        }
        let link = link(self.unsubscribe, &extras, fields);
        let (channel, recipient) = (channel?, recipient?);
        let link = if channel == Channel::Email { link } else { Link::None };
        let segments = self.body.as_deref().filter(|_| channel == Channel::Sms).map(sms::segments);
        let content = Content {
            from: self.from,
            body: self.body,
            subject: self.subject,
            body_html: self.body_html,
            body_text: self.body_text,
            provider: self.provider,
            unsubscribe: link == Link::Wanted,
            ..extras
        };
        let needs = Needs::of(channel, &content);
        // Texts always serialize.
        let content = serde_json::to_string(&content).ok()?;
        let external_id = self.external_id.map(Cow::into_owned);
        Some(Parsed { channel, recipient, content, priority, external_id, segments, needs, link })
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
        if let Some(provider) = self.provider.as_deref() {
            fields.check("provider", line(provider, 1, PROVIDER_MAX));
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

    /// The fields that belong to some channels only, and whether they are given.
    fn given(&self) -> [Given; 18] {
        use Channel::{Email, Push, Sms, Whatsapp};
        [
            ("body", self.body.is_some(), &[Sms, Push, Whatsapp]),
            ("from", self.from.is_some(), &[Sms, Email]),
            ("subject", self.subject.is_some(), &[Email]),
            ("bodyHtml", self.body_html.is_some(), &[Email]),
            ("bodyText", self.body_text.is_some(), &[Email]),
            ("replyTo", self.reply_to.is_some(), &[Email]),
            ("cc", self.cc.is_some(), &[Email]),
            ("bcc", self.bcc.is_some(), &[Email]),
            ("headers", self.headers.is_some(), &[Email]),
            ("attachments", self.attachments.is_some(), &[Email]),
            ("unsubscribe", self.unsubscribe.is_some(), &[Email]),
            ("title", self.title.is_some(), &[Push]),
            ("data", self.data.is_some(), &[Push]),
            ("badge", self.badge.is_some(), &[Push]),
            ("collapseKey", self.collapse_key.is_some(), &[Push]),
            ("ttl", self.ttl.is_some(), &[Push]),
            ("mediaUrl", self.media_url.is_some(), &[Sms, Whatsapp]),
            ("whatsappTemplate", self.whatsapp_template.is_some(), &[Whatsapp]),
        ]
    }

    /// Rules of the channel: what it needs, and what is foreign to it.
    fn belonging(&self, channel: Channel, given: &[Given], fields: &mut Fields<'_>) {
        let (email, texting) = (channel == Channel::Email, channel == Channel::Sms);
        for (name, is_given, channels) in given {
            if *is_given && !channels.contains(&channel) {
                fields.note(name, format!("is not a field of the channel {channel}"));
            }
        }
        let is_given = |name| given.iter().any(|(n, is_given, _)| *is_given && *n == name);
        let template = channel == Channel::Whatsapp && is_given("whatsappTemplate");
        if template && (self.body.is_some() || is_given("mediaUrl")) {
            fields.note("whatsappTemplate", "stands alone: leave body and mediaUrl out");
        }
        // A picture needs no words on WhatsApp, and data can be all of a notification.
        let without = match channel {
            Channel::Whatsapp => template || is_given("mediaUrl"),
            Channel::Push => is_given("data"),
            Channel::Sms | Channel::Email => false,
        };
        if !email && self.body.is_none() && !without {
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

/// Whether an email is to carry a link, as far as the request says. All who get a copy could use it, and it is the recipient's own.
fn link(asked: Option<bool>, extras: &Content<'_>, fields: &mut Fields<'_>) -> Link {
    let has_copies = !extras.cc.is_empty() || !extras.bcc.is_empty();
    let has_own = extras.headers.keys().any(|name| ["list-unsubscribe", "list-unsubscribe-post"].contains(&&*name.to_ascii_lowercase()));
    match asked {
        Some(false) => Link::None,
        None => {
            if has_copies || has_own {
                Link::None
            } else {
                Link::Usual
            }
        }
        Some(true) => {
            if has_copies {
                fields.note(
                    "unsubscribe",
                    "can't be true with cc or bcc: whoever gets a copy could unsubscribe the recipient. Send each of them a message of their own",
                );
            }
            if has_own {
                fields.note("unsubscribe", "can't be true with headers of your own named List-Unsubscribe or List-Unsubscribe-Post");
            }
            Link::Wanted
        }
    }
}

/// Reads a channel, which must be given.
pub(super) fn channel(fields: &mut Fields<'_>, name: Option<&str>) -> Option<Channel> {
    let Some(name) = name else {
        fields.require("channel", "is required");
        return None;
    };
    let found = Channel::parse(name);
    if found.is_none() {
        fields.note("channel", "must be one of sms, email, push, whatsapp");
    }
    found
}

/// Reads a priority.
pub(super) fn priority(fields: &mut Fields<'_>, name: Option<&str>) -> Option<Priority> {
    let found = Priority::parse(name?);
    if found.is_none() {
        fields.note("priority", "must be transactional or bulk");
    }
    found
}

/// The recipient in a field (`to`), in the form in which it is stored.
pub(super) fn recipient(name: &'static str, channel: Option<Channel>, to: &Json<'_>, fields: &mut Fields<'_>) -> Option<String> {
    let text = match (to, channel) {
        (Json::String(text), _) => text,
        (Json::Object(members), Some(Channel::Push) | None) => return subscription(name, members, fields),
        (_, Some(Channel::Push)) => {
            fields.note(name, "must be a device token, or a web push subscription { endpoint, keys: { p256dh, auth } }");
            return None;
        }
        _ => {
            fields.note(name, "must be a string");
            return None;
        }
    };
    let max = if channel == Some(Channel::Push) { TOKEN_MAX } else { TO_MAX };
    fields.check(name, line(text, 1, max))?;
    match channel? {
        Channel::Sms | Channel::Whatsapp => fields.check(name, phone(text)).map(str::to_owned),
        Channel::Email => fields.check(name, Email::parse(text)).map(|e| e.to_string()),
        Channel::Push if text.chars().all(|c| c.is_ascii_graphic()) && !text.starts_with('{') => Some(text.to_string()),
        Channel::Push => {
            fields.note(name, "must be a device token: printable ASCII without spaces");
            None
        }
    }
}

/// A web push subscription, as browsers make it.
fn subscription(name: &'static str, members: &[(Cow<'_, str>, Json<'_>)], fields: &mut Fields<'_>) -> Option<String> {
    let mut outer = Fields::nested(members.to_vec(), &["endpoint", "keys", "expirationTime"], format!("{name}."));
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
        Some(Json::Object(members)) => Fields::nested(members, &["p256dh", "auth"], format!("{name}.keys.")),
        _ => {
            outer.note("keys", "must be an object with p256dh and auth");
            Fields::nested(Vec::new(), &[], format!("{name}.keys."))
        }
    };
    let base64url = |t: &str| (1..=128).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    let mut values: [Option<Cow<'_, str>>; 2] = [None, None];
    for (slot, key) in values.iter_mut().zip(["p256dh", "auth"]) {
        let value: Option<Cow<'_, str>> = inner.take(key);
        if value.as_deref().is_some_and(base64url) {
            *slot = value;
        } else {
            inner.require(key, "is required, in base64url");
        }
    }
    outer.absorb(inner);
    let _: Option<Json<'_>> = outer.take("expirationTime");
    fields.absorb(outer);
    let [p256dh, auth] = values;
    let (endpoint, p256dh, auth) = (endpoint?, p256dh?, auth?);
    serde_json::to_string(&serde_json::json!({ "endpoint": endpoint, "keys": { "p256dh": p256dh, "auth": auth } })).ok()
}
