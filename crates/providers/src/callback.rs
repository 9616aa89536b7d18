//! Callbacks: what a provider tells of messages afterwards, of its own accord. An adapter says whether one is genuine, and reads it.
//!
//! Nothing here knows a message: whoever reads a callback matches what it tells with what was sent.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, Method, header};
use raven_core::{EventKind, MessageId, Timestamp, money::Money};

pub use raven_core::keyword::Keyword;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{redact::Redactor, wire};

/// How a provider calls back.
#[derive(Clone, Copy, Debug)]
pub struct Callbacks {
    /// How a callback is known to be the provider's own, for people.
    pub authenticity: &'static str,
    /// What a human has to do for callbacks to come, for people.
    pub setup: &'static str,
    /// Do its reports name a message by the provider's id alone? Then messages must be found by that id, which costs an index entry
    /// each. Others hand back our own id.
    pub by_id: bool,
    /// How they come.
    pub road: Road,
    /// The body of the answer that it waits for.
    pub answer: &'static str,
}

/// How what a provider tells of its own accord comes to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// By HTTP requests to the config's URL.
    Url,
    /// Over a session that we keep.
    Session,
}

/// A callback as it came in.
#[derive(Clone, Copy)]
pub struct Callback<'a> {
    /// `POST`, or `GET`.
    pub method: &'a Method,
    /// The query as it was sent, without the question mark; without the config's token.
    pub query: &'a str,
    /// Its headers; of one that was stored those in [`KEPT_HEADERS`].
    pub headers: &'a HeaderMap,
    /// Its body, whatever it is.
    pub body: &'a [u8],
}

/// The headers that are kept of a callback, for reading it later. None that could hold a credential.
pub const KEPT_HEADERS: &[&str] = &["content-type", "i-twilio-idempotency-token", "svix-id", "webhook-id", "x-amz-sns-message-type"];

/// The parameter that names our message, in a URL that was given to a provider for the callbacks of one message.
pub const MESSAGE_PARAMETER: &str = "message";

impl<'a> Callback<'a> {
    /// A header, if it is there and readable.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The parameters of the query.
    #[must_use]
    pub fn query(&self) -> form_urlencoded::Parse<'a> {
        form_urlencoded::parse(self.query.as_bytes())
    }

    /// The fields of a form; none where the body says that it is something else.
    #[must_use]
    pub fn form(&self) -> form_urlencoded::Parse<'a> {
        let form = self.header(header::CONTENT_TYPE.as_str()).is_none_or(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        form_urlencoded::parse(if form { self.body } else { &[] })
    }

    /// The first parameter of this name, of the form or else of the query.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        self.form().chain(self.query()).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The message that the URL was made for, where it names one.
    #[must_use]
    pub fn message(&self) -> Option<MessageId> {
        self.query().find(|(key, _)| key == MESSAGE_PARAMETER).and_then(|(_, id)| MessageId::parse(&id))
    }

    /// What it says, for people: the body, or the query where all is in it.
    pub(crate) fn raw(&self) -> String {
        wire::lossy(if self.method == Method::GET { self.query.as_bytes() } else { self.body })
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none, or another one than wanted.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        // The error itself may quote what it read.
        serde_json::from_slice(self.body)
            .map_err(|e| Unreadable::new(format!("not the expected JSON (line {}, column {})", e.line(), e.column())))
    }
}

impl fmt::Debug for Callback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback {{ {}, {} bytes }}", self.method, self.body.len())
    }
}

/// The parameters of a callback, of a provider that offers several ways to send them: in the query, as a form, as a flat JSON object.
pub(crate) struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    /// Those of the body, or of the query where nothing else can be.
    ///
    /// # Errors
    /// When the body is broken JSON.
    pub(crate) fn of(callback: &Callback<'a>) -> Result<Self, Unreadable> {
        if callback.method == Method::GET {
            return Ok(Self(callback.query().collect()));
        }
        if !callback.body.trim_ascii_start().starts_with(b"{") {
            return Ok(Self(callback.form().collect()));
        }
        let members: serde_json::Map<String, Value> = callback.json()?;
        let text = |value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Self(members.into_iter().map(|(name, value)| (name.into(), text(value).into())).collect()))
    }

    /// The first of this name that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// All, in the order in which they came; the members of JSON by their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// What a callback is checked with, besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    /// The whole URL that it was sent to, as the provider knows it: public, with the query as it was sent.
    pub url: &'a str,
    /// The present.
    pub now: Timestamp,
    /// The certificate (PEM) that [`Verdict::Certificate`] asked for.
    pub certificate: Option<&'a [u8]>,
}

/// Seconds by which a provider's clock and ours may be apart, and for which a signature lives that has a time but no end of its own.
pub(crate) const SKEW: i64 = 300;

/// Is a callback the provider's own?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Genuine {
        /// What it must not be taken twice with, where the signature does not cover the body.
        once: Option<String>,
    },
    /// With these settings the provider signs nothing: the config's token in the URL must stand for it.
    Unsigned,
    /// It is not, or that can't be told; why, without anything of the callback.
    Refused(&'static str),
    /// That can be told with the certificate at this URL, which is the provider's own host.
    Certificate(String),
}

/// An answer that a provider wants when the URL is set up, before there is any callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// This text proves that the URL is ours.
    Answer(String),
    /// It was asked with the wrong token.
    Refused,
}

/// A callback that can't be read: kept, to be read again by a later version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(String);

impl Unreadable {
    /// Why, without anything of the callback.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// What the items of a batch tell, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    told: Vec<Told>,
    known: bool,
    unknown: bool,
}

impl Batch {
    /// Adds what an item tells; nothing, if its kind is not known: new kinds appear, and must not cost the others.
    pub(crate) fn add(&mut self, item: Option<Vec<Told>>) {
        match item {
            Some(told) => {
                self.known = true;
                self.told.extend(told);
            }
            None => self.unknown = true,
        }
    }

    /// All that was told.
    ///
    /// # Errors
    /// When there were items, and none of a known kind.
    pub(crate) fn told(self) -> Result<Vec<Told>, Unreadable> {
        if self.unknown && !self.known { Err(Unreadable::new("nothing in it is of a documented kind")) } else { Ok(self.told) }
    }
}

/// One thing that a callback tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// What became of a message.
    Report(Report),
    /// Somebody wrote to the tenant.
    Inbound(Inbound),
    /// Somebody wants no more messages, or wants them again, and no message of ours is named.
    Wish(Wish),
    /// The provider asks for a `GET` of this URL of its own, to know that we agree to be called.
    Confirm {
        /// Checked to be on the provider's own host.
        url: String,
    },
}

impl Told {
    /// Takes secrets out of what was told, and cuts it to what is kept of it.
    pub(crate) fn redact(&mut self, redactor: &Redactor) {
        let clean = |text: &mut String, most: usize| {
            *text = redactor.clean(std::mem::take(text));
            text.truncate(text.floor_char_boundary(most));
            // No database takes it within a text.
            if text.contains('\0') {
                *text = text.replace('\0', " ");
            }
        };
        let line = |text: &mut String, most: usize| {
            clean(text, most);
            if text.contains(char::is_control) {
                *text = text.replace(char::is_control, " ");
            }
        };
        match self {
            Self::Report(report) => {
                clean(&mut report.payload, PAYLOAD);
                line(&mut report.key, KEY);
                [&mut report.code, &mut report.detail].into_iter().flatten().for_each(|text| line(text, DETAIL));
                [&mut report.provider_message_id, &mut report.recipient].into_iter().flatten().for_each(|text| line(text, KEY));
            }
            Self::Inbound(inbound) => {
                clean(&mut inbound.payload, PAYLOAD);
                clean(&mut inbound.text, TEXT);
                let lines = [&mut inbound.provider_message_id, &mut inbound.from, &mut inbound.to];
                lines.into_iter().chain(&mut inbound.in_reply_to).for_each(|text| line(text, KEY));
                inbound.media.truncate(MEDIA);
                inbound.media.iter_mut().for_each(|url| line(url, PAYLOAD));
            }
            Self::Wish(wish) => {
                line(&mut wish.recipient, KEY);
                wish.detail.iter_mut().for_each(|text| line(text, DETAIL));
            }
            Self::Confirm { .. } => {}
        }
    }
}

/// Bytes that are kept of what a provider said.
const PAYLOAD: usize = 4096;
/// Bytes that are kept of an explanation.
const DETAIL: usize = 300;
/// Bytes that are kept of an id.
const KEY: usize = 512;
/// Bytes that are kept of an inbound message.
const TEXT: usize = 16 * 1024;
/// Media of an inbound message.
const MEDIA: usize = 20;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Our id of it, where the provider hands it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
    /// The provider's id of it, as [`crate::Sent::provider_message_id`] has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// Which recipient it is about, where the provider says so: a copy's fate is not the message's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// What happened.
    pub happened: Happened,
    /// When, by the provider's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why, where it went wrong: a short stable code, in the words that [`crate::SendError::code`] uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// An explanation for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What tells it from other reports of the same kind about the same message; equal for one that is repeated.
    pub key: String,
    /// Cost, where it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
    /// Parts, where it counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<i16>,
    /// What the provider said of this, raw.
    pub payload: String,
}

impl Report {
    /// A report that tells this of an unnamed message, with nothing else.
    pub fn new(happened: Happened, key: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            message: None,
            provider_message_id: None,
            recipient: None,
            happened,
            at: None,
            code: None,
            detail: None,
            key: key.into(),
            cost: None,
            segments: None,
            payload: payload.into(),
        }
    }
}

/// What happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Happened {
    /// It is on its way.
    Sent,
    /// It was not delivered yet; the provider goes on trying.
    Delayed,
    /// It arrived.
    Delivered,
    /// It did not arrive, and will not.
    Failed,
    /// The address rejects mail for good: nothing is to be sent there any more.
    HardBounced,
    /// The address rejected this mail.
    SoftBounced,
    /// The recipient called it spam.
    Complained,
    /// The recipient wants no more.
    Unsubscribed,
    /// It was read.
    Opened,
    /// A link in it was followed.
    Clicked,
}

impl Happened {
    /// The line in the message's timeline.
    #[must_use]
    pub const fn event(self) -> EventKind {
        match self {
            Self::Sent => EventKind::Sent,
            Self::Delayed => EventKind::Delayed,
            Self::Delivered => EventKind::Delivered,
            Self::Failed => EventKind::Failed,
            Self::HardBounced | Self::SoftBounced => EventKind::Bounced,
            Self::Complained => EventKind::Complained,
            Self::Unsubscribed => EventKind::Unsubscribed,
            Self::Opened => EventKind::Opened,
            Self::Clicked => EventKind::Clicked,
        }
    }
}

/// A message that somebody sent to the tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// The provider's id of it: one that is repeated is the same message.
    pub provider_message_id: String,
    /// Who wrote: E.164 with its plus.
    pub from: String,
    /// To which number or name of the tenant's.
    pub to: String,
    /// What they wrote; empty where it is media alone.
    pub text: String,
    /// Where its media are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<String>,
    /// When, by the provider's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What the provider took it for, where it looks for such words itself; its own list goes before ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyword: Option<Keyword>,
    /// The provider's id of the message of ours that it answers, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// What the provider said, raw.
    pub payload: String,
}

/// Whether somebody wants messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// Who.
    pub recipient: String,
    /// No more, or again?
    pub wants: bool,
    /// When, by the provider's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// An explanation for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
