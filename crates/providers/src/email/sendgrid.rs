//! Twilio SendGrid: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>.
//!
//! There is no idempotency key. Our id travels in `custom_args`, which events repeat. Errors have no codes: the field that they
//! name and their words tell what is wrong.

use bytes::Bytes;
use http::{Request, Response, header};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
    email::{self, Mail},
    wire::{self, RETRY, Word},
};

const BASE: &str = "https://api.sendgrid.com/v3";
const EU: &str = "https://api.eu.sendgrid.com/v3";

/// The adapter.
#[derive(Debug)]
pub struct SendGrid;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    ip_pool_name: Option<String>,
    region: Option<String>,
    api_key: SecretString,
}

impl Settings {
    fn base<'a>(&self, cx: &'a Cx<'_>) -> &'a str {
        cx.base_url.as_deref().unwrap_or(if self.region.as_deref() == Some("eu") { EU } else { BASE })
    }
}

impl HttpProvider for SendGrid {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "sendgrid",
        name: "SendGrid",
        channel: Channel::Email,
        docs_url: "https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: None,
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::public(
                "ip_pool_name",
                "IP pool",
                Kind::Text(64),
                "The pool of IP addresses that messages are sent from, if not the usual one.",
            ),
            Field::public(
                "region",
                "Region",
                Kind::OneOf(&["us", "eu"]),
                "Where the account's data is kept: `us` (the default), or `eu` for a subuser in the European Union.",
            ),
            Field::secret("api_key", "API key", Kind::Token(256), "An API key with the permission to send mail, from Settings, API Keys.")
                .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        // Plain text must come first.
        let texts = [("text/plain", mail.text), ("text/html", mail.html)];
        let texts = texts.into_iter().filter_map(|(kind, text)| text.map(|text| json!({"type": kind, "value": text})));
        let files = mail.content.attachments.iter().map(|f| {
            wire::filled(json!({
                "filename": f.filename,
                "type": f.content_type,
                "content": f.content,
                "disposition": if f.content_id.is_some() { "inline" } else { "attachment" },
                "content_id": f.content_id,
            }))
        });
        // It takes ten of at most 255 characters, each once.
        let categories: Vec<_> = mail.tags().filter(|t| t.chars().count() <= 255).take(10).collect();
        let mut custom: Map<_, Value> = mail.content.metadata.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        custom.insert(email::REFERENCE.to_owned(), mail.id.to_string().into());
        let body = wire::filled(json!({
            "personalizations": [wire::filled(json!({"to": [mailbox(&mail.to)], "cc": list(&mail.cc), "bcc": list(&mail.bcc)}))],
            "from": mailbox(&mail.from),
            "reply_to": mail.reply_to.as_ref().map(mailbox),
            "subject": mail.subject,
            "content": texts.collect::<Vec<_>>(),
            "attachments": files.collect::<Vec<_>>(),
            "headers": mail.content.headers,
            "categories": categories,
            "custom_args": custom,
            "ip_pool_name": settings.ip_pool_name,
        }));
        Ok(wire::json_post(
            &format!("{}/mail/send", settings.base(cx)),
            &body,
            (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret())),
        ))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(wire::get(&format!("{}/scopes", settings.base(cx)), (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret()))))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        wire::verified(Self::SPEC.name, response)?;
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["scopes"].as_array() {
            Some(scopes) if scopes.iter().any(|s| s == "mail.send") => Ok(()),
            Some(_) => Err(SendError::new(Class::Credentials, "permission_denied", "the API key lacks the permission mail.send")),
            None => Err(wire::by_status(Self::SPEC.name, response.status(), response.headers(), None, None)),
        }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let (status, headers) = (response.status(), response.headers());
        if status.is_success() {
            // The body is empty. Without the id nobody knows whether it was SendGrid that answered.
            let id = headers.get("x-message-id").and_then(|id| id.to_str().ok()).and_then(wire::id);
            return match id {
                Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
                None => Err(wire::by_status(Self::SPEC.name, status, headers, None, None)),
            };
        }
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let (detail, field) = (answer["errors"][0]["message"].as_str(), answer["errors"][0]["field"].as_str().unwrap_or_default());
        let wait = wire::retry_after(headers).or_else(|| wire::reset_at(headers, "x-ratelimit-reset"));
        let words = detail.and_then(|d| wire::phrase(PHRASES, d)).map(|line| (line.1, line.2));
        let known = words.filter(|_| status.is_client_error()).or_else(|| match status.as_u16() {
            400 | 403 => FIELDS.iter().find(|(start, _)| field.starts_with(start)).map(|(_, ours)| (Class::Rejected, *ours)),
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

/// Outcomes by the words of a message, which decide before the field does.
/// <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors>
const PHRASES: &[Word] = &[
    ("does not match a verified Sender Identity", Class::Rejected, "invalid_sender"),
    // Comes with 401, but the key is good: everything fails until the plan's next day or month, or an upgrade.
    ("Maximum credits exceeded", RETRY, "insufficient_balance"),
    ("authorization grant is invalid", Class::Credentials, "invalid_credentials"),
    ("access forbidden", Class::Credentials, "permission_denied"),
    ("not authorized to send mail", Class::Credentials, "permission_denied"),
];

/// Codes of ours by the beginning of the field that an error names.
const FIELDS: &[(&str, &str)] = &[
    ("personalizations", "invalid_recipient"),
    ("from", "invalid_sender"),
    ("reply_to", "invalid_reply_to"),
    ("attachments", "invalid_attachment"),
    ("headers", "invalid_headers"),
    ("subject", "invalid_message"),
    ("content", "invalid_message"),
];

fn mailbox(mailbox: &Mailbox<'_>) -> Value {
    wire::filled(json!({"email": mailbox.email.to_string(), "name": mailbox.name}))
}
