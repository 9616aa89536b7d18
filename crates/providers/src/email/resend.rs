//! Resend: <https://resend.com/docs/api-reference/emails/send-email>.
//!
//! Our id is the idempotency key, which Resend keeps for 24 hours: a repeated request sends nothing again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
    email::{self, Mail, encoded_words, quoted, refused},
    wire::{self, BUSY, RETRY, Word},
};

const BASE: &str = "https://api.resend.com";

/// The adapter.
#[derive(Debug)]
pub struct Resend;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    api_key: SecretString,
}

impl HttpProvider for Resend {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "resend",
        name: "Resend",
        channel: Channel::Email,
        docs_url: "https://resend.com/docs/api-reference/emails/send-email",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: None,
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::secret("api_key", "API key", Kind::Token(256), "An API key, from API Keys in the dashboard; sending access is enough.")
                .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        let files = mail.content.attachments.iter().map(|f| {
            wire::filled(json!({
                "filename": f.filename,
                "content_type": f.content_type,
                "content": f.content,
                "content_id": f.content_id,
            }))
        });
        let tags = mail.pairs().into_iter().map(|(name, value)| json!({"name": name, "value": value}));
        let body = wire::filled(json!({
            "from": sender(&mail.from)?,
            "to": [mailbox(&mail.to)],
            "cc": list(&mail.cc),
            "bcc": list(&mail.bcc),
            "reply_to": mail.reply_to.as_ref().map(|m| [mailbox(m)]),
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
            "headers": mail.content.headers,
            "attachments": files.collect::<Vec<_>>(),
            "tags": tags.collect::<Vec<_>>(),
        }));
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let mut request =
            wire::json_post(&format!("{base}/emails"), &body, (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret())));
        let key = HeaderValue::from_str(&mail.id.to_string()).map_err(|_| refused("invalid_message", "the message's id is no header"))?;
        request.headers_mut().insert(HeaderName::from_static("idempotency-key"), key);
        Ok(request)
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/domains"), (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret()))))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        // A key that may only send may not list domains; only a good key is told so.
        if response.status().is_success() || answer["name"] == "restricted_api_key" {
            return Ok(());
        }
        Err(refusal(response, &answer))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["id"].as_str().filter(|_| response.status().is_success()).and_then(wire::id) {
            Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
            None => Err(refusal(response, &answer)),
        }
    }
}

/// What resets at night or with the month is not asked for again at once.
const NOT_SOON: Class = Class::RateLimited { after: Some(Duration::from_secs(3600)) };

/// Outcomes by `name`. <https://resend.com/docs/api-reference/errors>
const NAMES: &[Word] = &[
    ("validation_error", Class::Rejected, "invalid_message"),
    ("missing_api_key", Class::Credentials, "invalid_credentials"),
    ("invalid_api_key", Class::Credentials, "invalid_credentials"),
    ("restricted_api_key", Class::Credentials, "permission_denied"),
    // An earlier attempt under the same key was carried out, and asked for something a little different (the sender's name in
    // the settings, say). Most likely the message is out.
    ("invalid_idempotent_request", Class::Unknown, "sent_before"),
    ("concurrent_idempotent_requests", RETRY, "concurrent_request"),
    ("invalid_attachment", Class::Rejected, "invalid_attachment"),
    ("invalid_from_address", Class::Rejected, "invalid_sender"),
    ("invalid_parameter", Class::Rejected, "invalid_message"),
    ("missing_required_field", Class::Rejected, "invalid_message"),
    ("rate_limit_exceeded", BUSY, "rate_limited"),
    ("daily_quota_exceeded", NOT_SOON, "quota_exceeded"),
    ("monthly_quota_exceeded", NOT_SOON, "quota_exceeded"),
    ("security_error", Class::Rejected, "rejected_by_policy"),
    ("application_error", RETRY, "provider_error"),
    ("internal_server_error", RETRY, "provider_error"),
];

/// What a wrong field is, by the words of the message.
const PHRASES: &[Word] = &[
    ("API key is invalid", Class::Credentials, "invalid_credentials"),
    ("is not verified", Class::Rejected, "invalid_sender"),
    ("testing emails", Class::Rejected, "recipient_not_verified"),
    ("`from`", Class::Rejected, "invalid_sender"),
    ("`to`", Class::Rejected, "invalid_recipient"),
    ("`cc`", Class::Rejected, "invalid_recipient"),
    ("`bcc`", Class::Rejected, "invalid_recipient"),
    ("`reply_to`", Class::Rejected, "invalid_reply_to"),
];

fn refusal(response: &Response<Bytes>, answer: &Value) -> SendError {
    let (status, name, detail) = (response.status(), answer["name"].as_str().unwrap_or_default(), answer["message"].as_str());
    // A gateway's timeout stays what it is, whatever it says.
    let known = wire::word(NAMES, name).filter(|_| !status.is_success() && status != StatusCode::GATEWAY_TIMEOUT);
    let Some(line) = known else {
        return wire::by_status("Resend", status, response.headers(), None, Some(&wire::said(name, detail)));
    };
    let line = match wire::phrase(PHRASES, detail.unwrap_or_default()) {
        Some(better) if line.2 == "invalid_message" => better,
        _ => line,
    };
    // Its retry-after is that of the limit per second, which says nothing of a quota.
    let wait = wire::retry_after(response.headers()).filter(|_| line.1 != NOT_SOON);
    wire::refusal("Resend", (line.1, line.2), wait, name, detail.unwrap_or_default())
}

/// `Name <address>`. Resend refuses quotes; elsewhere than in `from`, encoded words do instead.
fn mailbox(mailbox: &Mailbox<'_>) -> String {
    match &mailbox.name {
        None => mailbox.email.to_string(),
        Some(name) if quoted(name) => format!("{} <{}>", encoded_words(name), mailbox.email),
        Some(name) => format!("{name} <{}>", mailbox.email),
    }
}

/// Resend takes neither quotes nor encoded words in `from`. A full stop is let through as it is.
fn sender(from: &Mailbox<'_>) -> Result<String, SendError> {
    match &from.name {
        None => Ok(from.email.to_string()),
        Some(name) if quoted(&name.replace('.', "")) => {
            Err(refused("invalid_sender", "Resend takes no sender's name with one of ()<>[]:;@\\,\" in it"))
        }
        Some(name) => Ok(format!("{name} <{}>", from.email)),
    }
}
