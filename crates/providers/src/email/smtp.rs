//! Email by SMTP submission (RFC 6409): the message as MIME, and what a server's reply means. The connection is the caller's.
//!
//! The `Message-ID` is Raven's own id at the sender's domain: replies have no standard id to correlate by. Tags and metadata stay
//! with Raven, as SMTP has no place for them.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Attachment, Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use raven_core::{
    Channel, Timestamp,
    address::{Email, Mailbox as CoreMailbox},
    message,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    Bound, Class, Field, Kind, Members, Outbound, Rule, SendError, Sent, Spec,
    email::{self, Mail, refused},
    redact::Redactor,
    registry, wire,
};

/// What the catalog says of it.
pub const SPEC: Spec = Spec {
    id: "smtp",
    name: "SMTP",
    channel: Channel::Email,
    docs_url: "https://www.rfc-editor.org/rfc/rfc6409",
    base_url: None,
    features: email::FEATURES,
    callbacks: None,
    fields: &[
        Field::public("host", "Host", Kind::Host, "The mail server's host name, for example smtp.example.com.").required(),
        Field::public("port", "Port", Kind::Port, "587 (the default) begins in clear and turns to TLS, 465 is TLS from the start."),
        Field::public("secure", "TLS required", Kind::Bool, "On by default. When off, TLS is used if the server offers it."),
        Field::public("username", "Username", Kind::Text(320), "The name to sign in with, if the server wants one."),
        email::FROM_EMAIL,
        email::FROM_NAME,
        Field::secret("password", "Password", Kind::Text(512), "The password to sign in with."),
    ],
    rules: &[Rule::Together("username", "password")],
};

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "submission")]
    pub port: u16,
    /// Is TLS required? See [`Settings::tls`].
    #[serde(default = "yes")]
    pub secure: bool,
    /// Name to sign in with; given together with the password.
    pub username: Option<String>,
    /// Sender's address where the message names none.
    pub from_email: Option<String>,
    /// Name shown with it.
    pub from_name: Option<String>,
    /// Password to sign in with.
    pub password: Option<SecretString>,
}

const fn submission() -> u16 {
    587
}

const fn yes() -> bool {
    true
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From its first byte (RFC 8314).
    Implicit,
    /// By STARTTLS, or not at all.
    Required,
    /// By STARTTLS if the server offers it.
    Offered,
}

impl Settings {
    /// How the connection must be protected.
    #[must_use]
    pub const fn tls(&self) -> Tls {
        match (self.secure, self.port) {
            (true, 465) => Tls::Implicit,
            (true, _) => Tls::Required,
            (false, _) => Tls::Offered,
        }
    }

    /// [`outcome`], with the password taken out of what the server said.
    ///
    /// # Errors
    /// Every reply but 2xx.
    pub fn outcome(&self, code: u16, text: &str) -> Result<Sent, SendError> {
        let redactor = Redactor::for_secrets(self.password.iter().map(ExposeSecret::expose_secret));
        match outcome(code, text) {
            Ok(sent) => Ok(Sent { provider_message_id: sent.provider_message_id.map(|id| redactor.clean(id)), ..sent }),
            Err(e) => Err(SendError { message: redactor.clean(e.message), ..e }),
        }
    }
}

pub(crate) fn bind(public: &Members, secret: &Members) -> Result<Bound, String> {
    registry::settings(&SPEC, public, secret).map(|settings| Bound::Smtp(Box::new(settings)))
}

/// The message with its envelope: plain text, HTML, or both as alternatives, and the files. Deterministic, its boundaries too.
///
/// # Errors
/// [`Class::Rejected`], when there is no sender, or a header field could not be written without changing what it says.
pub fn message(settings: &Settings, outbound: &Outbound<'_>) -> Result<Message, SendError> {
    let mail = Mail::read(outbound, settings.from_email.as_deref(), settings.from_name.as_deref())?;
    let unfit = |e: &dyn std::error::Error| refused("invalid_message", e.to_string());
    let everybody = [&mail.to].into_iter().chain(&mail.cc).chain(&mail.bcc);
    let recipients = everybody.map(|m| lettre_mailbox(m, "invalid_recipient").map(|m| m.email)).collect::<Result<_, _>>()?;
    let from = lettre_mailbox(&mail.from, "invalid_sender")?;
    // The envelope alone names those that nobody shall see.
    let envelope = Envelope::new(Some(from.email.clone()), recipients).map_err(|e| unfit(&e))?;
    let mut builder = Message::builder()
        .envelope(envelope)
        .from(from)
        .to(lettre_mailbox(&mail.to, "invalid_recipient")?)
        .subject(mail.subject)
        .date(date(outbound.now))
        .message_id(Some(format!("<{}@{}>", mail.id, mail.from.email.domain())));
    for mailbox in &mail.cc {
        builder = builder.cc(lettre_mailbox(mailbox, "invalid_recipient")?);
    }
    if let Some(mailbox) = &mail.reply_to {
        builder = builder.reply_to(lettre_mailbox(mailbox, "invalid_reply_to")?);
    }
    for (name, value) in &mail.content.headers {
        let name = HeaderName::new_from_ascii(name.clone()).map_err(|e| refused("invalid_headers", e.to_string()))?;
        builder = builder.raw_header(HeaderValue::new(name, value.clone()));
    }
    let built = match body(&mail)? {
        Part::Single(part) => builder.singlepart(part),
        Part::Multi(part) => builder.multipart(part),
    };
    built.map_err(|e| unfit(&e))
}

/// A part of a message, which may have parts itself.
enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

impl Part {
    fn into(self, parent: MultiPart) -> MultiPart {
        match self {
            Self::Single(part) => parent.singlepart(part),
            Self::Multi(part) => parent.multipart(part),
        }
    }
}

/// The texts, the pictures that the HTML shows beside them, and around both the other files.
fn body(mail: &Mail<'_>) -> Result<Part, SendError> {
    // Nobody knows the id before the message is accepted, so no body can contain a boundary on purpose. Files are in base64,
    // which has no hyphen. No boundary begins with another.
    let boundary = |kind: &str| format!("{kind}-{}", mail.id.0.simple());
    let text = mail.text.map(|text| SinglePart::plain(lines(text)));
    let html = mail.html.map(|html| SinglePart::html(lines(html)));
    let mut part = match (text, html) {
        (Some(text), Some(html)) => {
            Part::Multi(MultiPart::alternative().boundary(boundary("raven")).build().singlepart(text).singlepart(html))
        }
        (Some(part), None) | (None, Some(part)) => Part::Single(part),
        (None, None) => return Err(refused("missing_body", "the message has neither text nor HTML")),
    };
    let (shown, attached): (Vec<_>, Vec<_>) = mail.content.attachments.iter().partition(|f| f.content_id.is_some());
    for (files, parent) in
        [(shown, MultiPart::related().boundary(boundary("related"))), (attached, MultiPart::mixed().boundary(boundary("mixed")))]
    {
        if files.is_empty() {
            continue;
        }
        let mut multi = part.into(parent.build());
        for file in files {
            multi = multi.singlepart(attachment(file)?);
        }
        part = Part::Multi(multi);
    }
    Ok(part)
}

fn attachment(file: &message::Attachment) -> Result<SinglePart, SendError> {
    let invalid = |why: &str| refused("invalid_attachment", why);
    let bytes = STANDARD.decode(&file.content).map_err(|_| invalid("an attachment's content must be base64 with padding"))?;
    let kind = ContentType::parse(&file.content_type).map_err(|_| invalid("an attachment's type is no media type"))?;
    let body = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64).map_err(|_| invalid("an attachment can't be written"))?;
    let named = match &file.content_id {
        Some(id) => Attachment::new_inline_with_name(id.clone(), file.filename.clone()),
        None => Attachment::new(file.filename.clone()),
    };
    Ok(named.body(body, kind))
}

/// What a server's final reply to a message, or to signing in, means: its code (RFC 5321) and its text, which may begin with
/// an enhanced status code (RFC 3463).
///
/// # Errors
/// Every reply but 2xx.
pub fn outcome(code: u16, text: &str) -> Result<Sent, SendError> {
    if (200..300).contains(&code) {
        return Ok(Sent { provider_message_id: queue_id(text), segments: None, cost: None });
    }
    let enhanced = enhanced_status(text);
    let fits = |row: &&Reply| {
        row.code == code
            && row.enhanced.is_none_or(|(subject, detail)| enhanced.is_some_and(|e| e.1 == subject && detail.is_none_or(|d| d == e.2)))
    };
    let (class, ours) = match REPLIES.iter().find(fits) {
        Some(row) => (row.class, row.ours),
        None if (400..500).contains(&code) => (Class::Retry { after: None }, "provider_unavailable"),
        None if (500..600).contains(&code) => (Class::Rejected, "rejected"),
        None => (Class::Unknown, "unreadable_answer"),
    };
    Err(SendError::new(class, ours, format!("SMTP {code} {}", text.trim())))
}

/// One line of the table of replies. The first that fits decides.
struct Reply {
    code: u16,
    /// Subject and detail of the enhanced status, where they matter.
    enhanced: Option<(u16, Option<u16>)>,
    class: Class,
    ours: &'static str,
}

const fn any(code: u16, class: Class, ours: &'static str) -> Reply {
    Reply { code, enhanced: None, class, ours }
}

const fn subject(code: u16, subject: u16, class: Class, ours: &'static str) -> Reply {
    Reply { code, enhanced: Some((subject, None)), class, ours }
}

const fn exact(code: u16, subject: u16, detail: u16, class: Class, ours: &'static str) -> Reply {
    Reply { code, enhanced: Some((subject, Some(detail))), class, ours }
}

/// Greylisting servers want to see the message again, but not at once.
const LATER: Class = Class::Retry { after: Some(Duration::from_secs(300)) };
const SOON: Class = wire::RETRY;

const REPLIES: &[Reply] = &[
    any(421, SOON, "provider_unavailable"),
    exact(450, 2, 2, SOON, "mailbox_full"),
    subject(450, 7, LATER, "deferred"),
    any(450, SOON, "mailbox_unavailable"),
    subject(451, 7, LATER, "deferred"),
    any(451, SOON, "provider_error"),
    any(452, SOON, "provider_out_of_storage"),
    any(454, SOON, "sign_in_unavailable"),
    any(501, Class::Rejected, "protocol_error"),
    any(503, Class::Rejected, "protocol_error"),
    any(504, Class::Rejected, "protocol_error"),
    any(530, Class::Credentials, "sign_in_required"),
    any(534, Class::Credentials, "invalid_credentials"),
    any(535, Class::Credentials, "invalid_credentials"),
    exact(550, 1, 7, Class::Rejected, "invalid_sender"),
    exact(550, 1, 8, Class::Rejected, "invalid_sender"),
    subject(550, 1, Class::Rejected, "invalid_recipient"),
    exact(550, 2, 2, Class::Rejected, "mailbox_full"),
    subject(550, 2, Class::Rejected, "mailbox_unavailable"),
    subject(550, 7, Class::Rejected, "rejected_by_policy"),
    any(550, Class::Rejected, "mailbox_unavailable"),
    any(551, Class::Rejected, "invalid_recipient"),
    exact(552, 3, 4, Class::Rejected, "message_too_large"),
    exact(552, 2, 3, Class::Rejected, "message_too_large"),
    any(552, Class::Rejected, "mailbox_full"),
    exact(553, 1, 7, Class::Rejected, "invalid_sender"),
    exact(553, 1, 8, Class::Rejected, "invalid_sender"),
    subject(553, 7, Class::Rejected, "rejected_by_policy"),
    any(553, Class::Rejected, "invalid_recipient"),
    subject(554, 1, Class::Rejected, "invalid_recipient"),
    any(554, Class::Rejected, "rejected_by_policy"),
    any(555, Class::Rejected, "protocol_error"),
];

/// `5.1.1` at the beginning of a reply's text.
fn enhanced_status(text: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = text.split_ascii_whitespace().next()?.splitn(3, '.').map(|n| n.parse::<u16>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??)).filter(|(class, ..)| matches!(class, 2 | 4 | 5))
}

/// The server's own id: what follows `queued as`, else the reply's first line.
fn queue_id(text: &str) -> Option<String> {
    let line = text.lines().next().unwrap_or_default();
    // Lower case keeps ASCII's length, so the place is the same in both.
    let queued = line
        .to_ascii_lowercase()
        .find("queued as ")
        .and_then(|at| line.get(at + 10..))
        .and_then(|rest| rest.split_ascii_whitespace().next());
    wire::id(queued.unwrap_or(line))
}

fn lettre_mailbox(mailbox: &CoreMailbox<'_>, code: &str) -> Result<Mailbox, SendError> {
    let address = lettre_address(&mailbox.email).ok_or_else(|| refused(code, "a mailbox has no address that SMTP can carry"))?;
    Ok(Mailbox::new(mailbox.name.clone(), address))
}

fn lettre_address(email: &Email<'_>) -> Option<Address> {
    Address::new(email.local(), email.domain()).ok()
}

/// Every kind of line break as `\n`; the transfer encoding makes them CRLF.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Within the years 1970 to 9999, which is all that the header can say.
fn date(now: Timestamp) -> SystemTime {
    let millis = u64::try_from(now.millis()).unwrap_or(0).min(253_402_300_799_999);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}
