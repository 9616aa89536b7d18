//! Twilio SendGrid: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>.
//!
//! There is no idempotency key. Our id travels in `custom_args`, which events repeat. Errors have no codes: the field that they
//! name and their words tell what is wrong.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, header};
use p256::{
    ecdsa::{DerSignature, VerifyingKey, signature::Verifier},
    pkcs8::DecodePublicKey,
};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value, json};

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::{Happened, Proof, Report, Wish},
    email::{
        self, Mail,
        events::{self, HARD, OPTED_OUT, SOFT, SUPPRESSED, failed, needed, text, well},
    },
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
    #[serde(default, deserialize_with = "public_key")]
    webhook_public_key: Option<VerifyingKey>,
    api_key: SecretString,
}

/// A public key as SendGrid shows it: base64 of the DER, without PEM's armour.
fn public_key<'de, D: Deserializer<'de>>(from: D) -> Result<Option<VerifyingKey>, D::Error> {
    let key = STANDARD.decode(String::deserialize(from)?).ok().and_then(|der| VerifyingKey::from_public_key_der(&der).ok());
    key.map(Some).ok_or_else(|| D::Error::custom("publicConfig.webhook_public_key is no verification key: it begins with MFkw"))
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
        callbacks: Some(Callbacks {
            authenticity: "signed with a key of the webhook (ECDSA over the timestamp and the body); without `webhook_public_key` the \
                token in the URL stands for it",
            setup: "In Settings, Mail Settings, Event Webhooks, Create new webhook: put the URL there, tick all deliverability and \
                engagement events, switch on Signed Event Webhook, and give the verification key as webhook_public_key.",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
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
            Field::public(
                "webhook_public_key",
                "Verification key of the event webhook",
                Kind::Token(512),
                "What callbacks are checked with, from Settings, Mail Settings, Event Webhooks, Signed Event Webhook.",
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
        let own = mail.content.metadata.iter().filter(|(name, _)| !EVENT_FIELDS.contains(&name.as_str()));
        let mut custom: Map<_, Value> = own.map(|(name, value)| (name.clone(), value.clone().into())).collect();
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

    // <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features>
    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        let Some(key) = &settings.webhook_public_key else { return Verdict::Unsigned };
        let header = |name| callback.header(name);
        let (Some(signature), Some(time)) =
            (header("x-twilio-email-event-webhook-signature"), header("x-twilio-email-event-webhook-timestamp"))
        else {
            return Verdict::Refused("there is no signature");
        };
        if !events::signed_at(time).is_some_and(|signed| events::fresh(signed, proof.now, RETRIED)) {
            return Verdict::Refused("the signature is not of this day");
        }
        let signature = STANDARD.decode(signature).ok().and_then(|der| DerSignature::from_bytes(&der).ok());
        let signed = [time.as_bytes(), callback.body].concat();
        match signature.map(|signature| key.verify(&signed, &signature)) {
            Some(Ok(())) => Verdict::Genuine { once: None },
            _ => Verdict::Refused("the signature does not fit"),
        }
    }

    // <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        events::each(callback.body, |event, raw| {
            let kind = needed(event, "event")?;
            let reason = text(&event["reason"]).or_else(|| text(&event["response"]));
            let (what, detail) = match kind {
                "processed" => (well(Happened::Sent), None),
                "delivered" => (well(Happened::Delivered), None),
                "deferred" => (well(Happened::Delayed), reason),
                "bounce" => (bounce(event)?, reason),
                "dropped" => (dropped(reason.unwrap_or_default()), reason),
                "spamreport" => (well(Happened::Complained), None),
                "unsubscribe" | "group_unsubscribe" => (well(Happened::Unsubscribed), None),
                // Some mail programs fetch all pictures before anybody looks.
                "open" => (well(Happened::Opened), (event["sg_machine_open"] == true).then_some("opened by a machine")),
                "click" => (well(Happened::Clicked), None),
                "group_resubscribe" => return wish(event, true).map(Some),
                "account_status_change" => return Ok(Some(Vec::new())),
                _ => return Ok(None),
            };
            // What stands behind the first full stop tells of its way through SendGrid.
            let id = text(&event["sg_message_id"]).and_then(|id| id.split('.').next()).and_then(wire::id);
            let message = events::reference(&event[email::REFERENCE]);
            if what.0 == Happened::Unsubscribed && id.is_none() && message.is_none() {
                return wish(event, false).map(Some);
            }
            let at = |name: &str| events::seconds(&event[name]);
            let key = text(&event["sg_event_id"]).map_or_else(
                || {
                    let part = |name: &str| text(&event[name]).unwrap_or_default();
                    let at = at("timestamp").unwrap_or_default().seconds();
                    format!("{kind} {} {} {at} {}", part("sg_message_id"), part("email"), part("url")).trim_end().to_owned()
                },
                str::to_owned,
            );
            Ok(Some(vec![Told::Report(Report {
                message,
                provider_message_id: id,
                recipient: text(&event["email"]).map(str::to_owned),
                at: at("timestamp"),
                ..events::report(Self::SPEC.name, what, key, raw, &[text(&event["status"]), detail])
            })]))
        })
    }
}

/// Fields of events. Custom arguments come back beside them, and must not be taken for them: data of these names stays with Raven.
const EVENT_FIELDS: &[&str] = &[
    "asm_group_id",
    "attempt",
    "bounce_classification",
    "category",
    "email",
    "event",
    "ip",
    "reason",
    "response",
    "sg_event_id",
    "sg_machine_open",
    "sg_message_id",
    "smtp-id",
    "status",
    "timestamp",
    "tls",
    "type",
    "url",
    "url_offset",
    "useragent",
];

/// It calls again for 24 hours, and does not say whether with a new signature. What is told twice has the same key.
const RETRIED: Duration = Duration::from_secs(25 * 3600);

/// What a bounce means: `blocked` is a mail that was refused, `bounce` an address.
fn bounce(event: &Value) -> Result<(Happened, Option<&'static str>), Unreadable> {
    match text(&event["type"]) {
        Some("bounce") => Ok(HARD),
        Some("blocked" | "expired") => Ok(SOFT),
        // Older events have no type: a bad address is one that SMTP's own status calls so.
        None => Ok(if text(&event["status"]).is_some_and(|status| status.starts_with("5.1.")) { HARD } else { SOFT }),
        Some(_) => Err(Unreadable::new("the type of the bounce is none of the documented ones")),
    }
}

/// Why SendGrid did not send it.
fn dropped(reason: &str) -> (Happened, Option<&'static str>) {
    let known = DROPPED.iter().find(|(start, _)| reason.starts_with(start)).map(|(_, what)| *what);
    known.unwrap_or(failed("rejected"))
}

/// By the beginning of `reason`.
/// <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event#delivery-events>
const DROPPED: &[(&str, (Happened, Option<&str>))] = &[
    ("Bounced Address", SUPPRESSED),
    ("Unsubscribed Address", OPTED_OUT),
    ("Spam Reporting Address", OPTED_OUT),
    ("Invalid SMTPAPI header", failed("invalid_message")),
    ("Invalid", failed("invalid_recipient")),
    ("Spam Content", failed("rejected_by_policy")),
    ("Recipient List over Package Quota", failed("quota_exceeded")),
];

fn wish(event: &Value, wants: bool) -> Result<Vec<Told>, Unreadable> {
    Ok(vec![Told::Wish(Wish {
        recipient: needed(event, "email")?.to_owned(),
        wants,
        at: events::seconds(&event["timestamp"]),
        detail: text(&event["event"]).map(|kind| format!("{}: {kind}", SendGrid::SPEC.name)),
    })])
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
