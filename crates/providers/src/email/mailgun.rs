//! Mailgun: <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages>.
//!
//! There is no idempotency key. Our id travels as a variable, which events repeat. Errors have no codes: their words tell what
//! is wrong.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Attachment};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
    email::{self, Mail, refused, written},
    wire::{self, FilePart, RETRY, Word},
};

const BASE: &str = "https://api.mailgun.net/v3";
const EU: &str = "https://api.eu.mailgun.net/v3";

/// The adapter.
#[derive(Debug)]
pub struct Mailgun;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    domain: String,
    region: Option<String>,
    api_key: SecretString,
}

impl Settings {
    fn base<'a>(&self, cx: &'a Cx<'_>) -> &'a str {
        cx.base_url.as_deref().unwrap_or(if self.region.as_deref() == Some("eu") { EU } else { BASE })
    }

    fn authorization(&self) -> Zeroizing<String> {
        wire::basic("api", self.api_key.expose_secret())
    }
}

impl HttpProvider for Mailgun {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "mailgun",
        name: "Mailgun",
        channel: Channel::Email,
        docs_url: "https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: None,
        fields: &[
            Field::public("domain", "Sending domain", Kind::Host, "The domain that was added to Mailgun, for example mg.example.com.")
                .required(),
            Field::public(
                "region",
                "Region",
                Kind::OneOf(&["us", "eu"]),
                "Where the domain was created: `us` (the default) or `eu`. The other region does not know it.",
            ),
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::secret(
                "api_key",
                "API key",
                Kind::Token(256),
                "An API key of the account. A domain's own sending key sends as well, but can't be checked in advance.",
            )
            .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let mut fields = Vec::new();
        let mut field = |name: &str, value: String| fields.push((name.to_owned(), value));
        field("from", written(&mail.from));
        field("to", written(&mail.to));
        mail.cc.iter().for_each(|m| field("cc", written(m)));
        mail.bcc.iter().for_each(|m| field("bcc", written(m)));
        field("subject", mail.subject.to_owned());
        mail.text.into_iter().for_each(|text| field("text", text.to_owned()));
        mail.html.into_iter().for_each(|html| field("html", html.to_owned()));
        mail.reply_to.iter().for_each(|m| field("h:Reply-To", written(m)));
        mail.content.headers.iter().for_each(|(name, value)| field(&format!("h:{name}"), value.clone()));
        // It takes ten in ASCII, of at most 128 characters.
        let tags = mail.tags().filter(|t| t.is_ascii() && t.len() <= 128).take(10);
        tags.for_each(|tag| field("o:tag", tag.to_owned()));
        let own = mail.content.metadata.iter().filter(|(name, _)| *name != email::REFERENCE);
        own.for_each(|(name, value)| field(&format!("v:{name}"), value.clone()));
        field(&format!("v:{}", email::REFERENCE), mail.id.to_string());
        let files = mail.content.attachments.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let url = format!("{}/{}/messages", settings.base(cx), settings.domain);
        let seed = mail.id.0.simple().to_string();
        Ok(wire::multipart_post(&url, &seed, &fields, &files, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let url = format!("{}/domains/{}", settings.base(cx), settings.domain);
        Some(wire::get(&url, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        match response.status() {
            StatusCode::NOT_FOUND => {
                Err(SendError::new(Class::Credentials, "domain_not_found", "the account has no such domain in this region"))
            }
            _ => wire::verified(Self::SPEC.name, response),
        }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let (status, headers) = (response.status(), response.headers());
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let detail = answer["message"].as_str();
        if status.is_success() {
            // Events name it without the brackets. (A wrong path is answered with 200 and words, but no id.)
            let id = answer["id"].as_str().map(|id| id.trim_matches(['<', '>'])).and_then(wire::id);
            return match id {
                Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
                None => Err(wire::by_status(Self::SPEC.name, status, headers, None, None)),
            };
        }
        let wait = wire::retry_after(headers).or_else(|| wire::reset_at(headers, "x-ratelimit-reset"));
        let words = detail.and_then(|d| wire::phrase(PHRASES, d)).map(|line| (line.1, line.2));
        let known = words.filter(|_| matches!(status.as_u16(), 400 | 403)).or_else(|| match status.as_u16() {
            // Everything fails until the account is paid for, which may happen in time.
            402 => Some((RETRY, "insufficient_balance")),
            // In plain text.
            403 if detail.is_none() => Some((Class::Credentials, "invalid_credentials")),
            404 => Some((Class::Rejected, "domain_not_found")),
            413 => Some((Class::Rejected, "message_too_large")),
            429 => Some((wire::BUSY, "rate_limited")),
            _ => None,
        });
        Err(match known {
            Some(line) => wire::refusal(Self::SPEC.name, line, wait, &status.as_u16().to_string(), detail.unwrap_or_default()),
            None => wire::by_status(Self::SPEC.name, status, headers, None, detail),
        })
    }
}

/// Outcomes by the words of a refusal (400, 403).
/// <https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-http>
const PHRASES: &[Word] = &[
    ("to parameter is", Class::Rejected, "invalid_recipient"),
    ("'to' parameter", Class::Rejected, "invalid_recipient"),
    ("'cc' parameter", Class::Rejected, "invalid_recipient"),
    ("'bcc' parameter", Class::Rejected, "invalid_recipient"),
    ("from parameter is", Class::Rejected, "invalid_sender"),
    ("'from' parameter", Class::Rejected, "invalid_sender"),
    ("authorized recipients", Class::Rejected, "recipient_not_verified"),
    ("unverified", Class::Rejected, "invalid_sender"),
    ("recipient limit exceeded", wire::BUSY, "rate_limited"),
    ("disabled", Class::Credentials, "account_suspended"),
    ("activate your", Class::Credentials, "account_not_active"),
    ("Forbidden", Class::Credentials, "invalid_credentials"),
    ("not allowed to send", Class::Rejected, "invalid_sender"),
];

/// A picture that the HTML shows goes by its content id in place of its name: `cid:` names it so.
fn part(file: &Attachment) -> Result<FilePart<'_>, SendError> {
    let bytes = STANDARD.decode(&file.content);
    let bytes = bytes.map_err(|_| refused("invalid_attachment", "an attachment's content must be base64 with padding"))?;
    let (field, name) = file.content_id.as_ref().map_or(("attachment", &file.filename), |id| ("inline", id));
    Ok(FilePart { field, name, content_type: &file.content_type, bytes })
}
