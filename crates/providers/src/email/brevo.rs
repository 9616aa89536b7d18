//! Brevo, once Sendinblue: <https://developers.brevo.com/reference/send-transac-email>.
//!
//! There is no idempotency key for single messages. Our id travels in the header `X-Mailin-custom`, which events repeat; there
//! is no place for metadata.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable,
    callback::{Happened, Report},
    email::{
        self, Mail, encoded_words,
        events::{self, HARD, SOFT, SUPPRESSED, failed, needed, text, well},
        quoted, refused,
    },
    wire::{self, RETRY, Word},
};

const BASE: &str = "https://api.brevo.com/v3";
const REFERENCE: &str = "X-Mailin-custom";

/// The adapter.
#[derive(Debug)]
pub struct Brevo;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    api_key: SecretString,
}

impl Settings {
    fn auth(&self) -> wire::Auth<'_> {
        (HeaderName::from_static("api-key"), self.api_key.expose_secret())
    }
}

impl HttpProvider for Brevo {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "brevo",
        name: "Brevo",
        channel: Channel::Email,
        docs_url: "https://developers.brevo.com/reference/send-transac-email",
        base_url: Some(BASE),
        features: email::FEATURES_BUT_CONTENT_ID,
        callbacks: Some(Callbacks {
            authenticity: "not signed: the token in the URL stands for it",
            setup: "Under Transactional, Settings, Webhook, Add a new webhook: put the URL there, and tick all events (of the openings, \
                Opened and First opening are told once).",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::secret("api_key", "API key", Kind::Token(256), "An API key (not an SMTP key), from SMTP & API in Brevo's settings.")
                .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        if mail.content.attachments.iter().any(|f| f.content_id.is_some()) {
            return Err(refused("unsupported_feature", "Brevo has no content ids: leave contentId out, or link the picture"));
        }
        let files = mail.content.attachments.iter().map(|f| json!({"name": f.filename, "content": f.content}));
        let body = wire::filled(json!({
            "sender": mailbox(&mail.from),
            "to": [mailbox(&mail.to)],
            "cc": list(&mail.cc),
            "bcc": list(&mail.bcc),
            "replyTo": mail.reply_to.as_ref().map(mailbox),
            "subject": mail.subject,
            "textContent": mail.text,
            "htmlContent": mail.html,
            "headers": headers(&mail)?,
            "attachment": files.collect::<Vec<_>>(),
            "tags": mail.tags().collect::<Vec<_>>(),
        }));
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Ok(wire::json_post(&format!("{base}/smtp/email"), &body, settings.auth()))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/account"), settings.auth()))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let (status, headers) = (response.status(), response.headers());
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        if status.is_success() {
            // Kept with its angle brackets, as events name it.
            return match answer["messageId"].as_str().and_then(wire::id) {
                Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
                None => Err(wire::by_status(Self::SPEC.name, status, headers, None, None)),
            };
        }
        let (code, detail) = (answer["code"].as_str().unwrap_or_default(), answer["message"].as_str());
        let Some(line) = wire::word(CODES, code).filter(|_| status.is_client_error()) else {
            let mut error = wire::by_status(Self::SPEC.name, status, headers, None, Some(&wire::said(code, detail)));
            if let Class::RateLimited { after: after @ None } = &mut error.class {
                *after = reset(headers);
            }
            return Err(error);
        };
        let line = match wire::phrase(PHRASES, detail.unwrap_or_default()) {
            Some(better) if line.2 == "invalid_message" => better,
            _ => line,
        };
        let wait = wire::retry_after(headers).or_else(|| reset(headers));
        Err(wire::refusal(Self::SPEC.name, (line.1, line.2), wait, code, detail.unwrap_or_default()))
    }

    // <https://developers.brevo.com/docs/transactional-webhooks>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        events::each(callback.body, |event, raw| {
            // Mails that came in. What people write by mail is read elsewhere.
            if event["event"].is_null() && event["items"].is_array() {
                return Ok(Some(Vec::new()));
            }
            // The first of several is told under a name of its own, as well as under the usual one.
            let kind = needed(event, "event")?;
            let kind = kind.strip_prefix("unique_").unwrap_or(kind);
            let (what, machine) = match kind {
                "request" | "sent" => (well(Happened::Sent), None),
                "delivered" => (well(Happened::Delivered), None),
                "deferred" => (well(Happened::Delayed), None),
                "hard_bounce" => (HARD, None),
                "soft_bounce" => (SOFT, None),
                "blocked" => (SUPPRESSED, None),
                "invalid_email" => (failed("invalid_recipient"), None),
                "error" => (failed("rejected"), None),
                "spam" | "complaint" => (well(Happened::Complained), None),
                "unsubscribe" | "unsubscribed" => (well(Happened::Unsubscribed), None),
                "opened" => (well(Happened::Opened), None),
                // Some mail programs fetch all pictures before anybody looks.
                "proxy_open" => (well(Happened::Opened), Some("opened by a machine")),
                "click" => (well(Happened::Clicked), None),
                "list_addition" => return Ok(Some(Vec::new())),
                _ => return Ok(None),
            };
            let part = |name: &str| text(&event[name]).unwrap_or_default();
            // Other times are in the zone of the account's settings.
            let at = wire::code(&event["ts_epoch"]).and_then(|millis| i64::try_from(millis).ok());
            let time = at.map_or_else(|| part("date").to_owned(), |at| at.to_string());
            let key = format!("{kind} {} {} {time} {}", part("message-id"), part("email"), part("link"));
            Ok(Some(vec![Told::Report(Report {
                message: events::reference(&event[REFERENCE]),
                provider_message_id: text(&event["message-id"]).and_then(wire::id),
                recipient: text(&event["email"]).map(str::to_owned),
                at: at.map(Timestamp::from_millis),
                ..events::report(Self::SPEC.name, what, key.trim_end().to_owned(), raw, &[machine, text(&event["reason"])])
            })]))
        })
    }
}

/// Outcomes by `code`. <https://developers.brevo.com/docs/how-it-works>
const CODES: &[Word] = &[
    ("invalid_parameter", Class::Rejected, "invalid_message"),
    ("missing_parameter", Class::Rejected, "invalid_message"),
    ("out_of_range", Class::Rejected, "invalid_message"),
    ("duplicate_parameter", Class::Rejected, "invalid_message"),
    ("unauthorized", Class::Credentials, "invalid_credentials"),
    // Also what an account gets that may not send yet.
    ("permission_denied", Class::Credentials, "permission_denied"),
    ("account_under_validation", Class::Credentials, "account_not_active"),
    // Everything fails until credits are bought, which may happen in time.
    ("not_enough_credits", RETRY, "insufficient_balance"),
    ("too_many_requests", wire::BUSY, "rate_limited"),
];

/// What a wrong parameter is, by the words of the message.
const PHRASES: &[Word] = &[
    ("valid in to", Class::Rejected, "invalid_recipient"),
    ("valid in cc", Class::Rejected, "invalid_recipient"),
    ("valid in bcc", Class::Rejected, "invalid_recipient"),
    ("valid in replyTo", Class::Rejected, "invalid_reply_to"),
    ("sender", Class::Rejected, "invalid_sender"),
    ("attachment", Class::Rejected, "unsupported_attachment"),
];

/// The seconds until there is room again.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("x-sib-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

/// Brevo drops a name that has both a special character and one beyond ASCII, unless it comes encoded.
fn mailbox(mailbox: &Mailbox<'_>) -> Value {
    let name = mailbox.name.as_deref().map(|name| if name.is_ascii() || !quoted(name) { name.to_owned() } else { encoded_words(name) });
    wire::filled(json!({"email": mailbox.email.to_string(), "name": name}))
}

fn headers(mail: &Mail<'_>) -> Result<Map<String, Value>, SendError> {
    let mut headers = Map::new();
    for (name, value) in &mail.content.headers {
        if [REFERENCE, "idempotencyKey", "X-Sib-Sandbox"].iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(refused("invalid_headers", format!("the header {name} has a meaning for Brevo; a message may not write it")));
        }
        // It would send the bytes as they are, which many servers refuse.
        if !value.is_ascii() {
            return Err(refused("invalid_headers", format!("Brevo sends headers in ASCII only; write {name} without other characters")));
        }
        headers.insert(name.clone(), value.clone().into());
    }
    headers.insert(REFERENCE.to_owned(), mail.id.to_string().into());
    Ok(headers)
}
