//! Mailgun: <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages>.
//!
//! There is no idempotency key. Our id travels as a variable, which events repeat. Errors have no codes: their words tell what
//! is wrong.

use std::{borrow::Cow, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Attachment};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::{Happened, Proof, Report},
    email::{
        self, Mail,
        events::{self, HARD, OPTED_OUT, SOFT, SUPPRESSED, failed, needed, text, well},
        refused, written,
    },
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
    webhook_signing_key: Option<SecretString>,
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
        callbacks: Some(Callbacks {
            authenticity: "signed with the account's webhook signing key, each signature to be used once; without \
                `webhook_signing_key` the token in the URL stands for it",
            setup: "Under Sending, Webhooks, for the domain: add the URL for each of accepted, delivered, temporary failure, permanent \
                failure, unsubscribed and spam complaints, also opened and clicked if they are tracked, and give the HTTP webhook \
                signing key as webhook_signing_key.",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
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
            Field::secret(
                "webhook_signing_key",
                "HTTP webhook signing key",
                Kind::Token(256),
                "What callbacks are checked with, from the account's API Security page. It is none of the API keys.",
            ),
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

    // <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>. The body is not part of what is
    // signed, so a token is taken once. Mailgun calls again for 8 hours, with the signature that it had.
    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        let Some(key) = &settings.webhook_signing_key else { return Verdict::Unsigned };
        let Ok(Received { time, token, signature, .. }) = Received::of(callback) else {
            return Verdict::Refused("there is no signature");
        };
        // A time of as many digits as there are today can't lend one to the token.
        if !events::signed_at(&time).is_some_and(|signed| events::fresh(signed, proof.now, RETRIED)) {
            return Verdict::Refused("the signature is not of these hours");
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
        let fits = events::unhex(&signature).is_some_and(|s| hmac::verify(&key, format!("{time}{token}").as_bytes(), &s).is_ok());
        match fits {
            true if token.len() <= 128 => Verdict::Genuine { once: Some(token.into_owned()) },
            _ => Verdict::Refused("the signature does not fit"),
        }
    }

    // <https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let Received { token, event, raw, .. } = Received::of(callback)?;
        events::each(event.as_bytes(), |event, _| {
            let kind = needed(event, "event")?;
            let what = match kind {
                "accepted" => well(Happened::Sent),
                "delivered" => well(Happened::Delivered),
                "failed" => failure(event)?,
                "rejected" => failed("rejected"),
                "complained" => well(Happened::Complained),
                "unsubscribed" => well(Happened::Unsubscribed),
                "opened" => well(Happened::Opened),
                "clicked" => well(Happened::Clicked),
                "stored" => return Ok(Some(Vec::new())),
                _ => return Ok(None),
            };
            let status = &event["delivery-status"];
            let details = [
                text(&event["reason"]),
                text(&event["reject"]["reason"]),
                text(&status["message"]),
                text(&status["description"]).filter(|d| text(&status["message"]) != Some(d)),
            ];
            let id = text(&event["message"]["headers"]["message-id"]).map(|id| id.trim_matches(['<', '>']));
            Ok(Some(vec![Told::Report(Report {
                message: events::reference(&event["user-variables"][email::REFERENCE]),
                provider_message_id: id.and_then(wire::id),
                recipient: text(&event["recipient"]).map(str::to_owned),
                at: events::seconds(&event["timestamp"]),
                // The event's own id is one of a day only.
                ..events::report(Self::SPEC.name, what, token.to_string(), &raw, &details)
            })]))
        })
    }
}

/// How long a signature is sent again, and some hours more for what comes late.
const RETRIED: Duration = Duration::from_secs(12 * 3600);

/// A callback, taken apart.
struct Received<'a> {
    /// Unix seconds.
    time: Cow<'a, str>,
    /// Random, another one for each event.
    token: Cow<'a, str>,
    /// Hexadecimal digits.
    signature: Cow<'a, str>,
    /// What happened, as JSON; empty where nothing is said.
    event: Cow<'a, str>,
    /// The same as it came.
    raw: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    signature: Value,
    #[serde(rename = "event-data", borrow)]
    event: Option<&'a RawValue>,
}

impl<'a> Received<'a> {
    fn of(callback: &Callback<'a>) -> Result<Self, Unreadable> {
        if callback.body.trim_ascii_start().starts_with(b"{") {
            let Envelope { signature, event } =
                serde_json::from_slice(callback.body).map_err(|_| Unreadable::new("it has no signature"))?;
            let part = |name| needed(&signature, name).map(|part| Cow::Owned(part.to_owned()));
            let event = Cow::Borrowed(event.map_or("", RawValue::get));
            return Ok(Self { time: part("timestamp")?, token: part("token")?, signature: part("signature")?, raw: event.clone(), event });
        }
        let field = |name: &str| callback.form().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value);
        let part = |name: &str| field(name).ok_or_else(|| Unreadable::new(format!("it has no {name}")));
        let event = field("event").map_or_else(String::new, |event| of_form(&event, field).to_string());
        let raw = wire::lossy(callback.body).into();
        Ok(Self { time: part("timestamp")?, token: part("token")?, signature: part("signature")?, event: event.into(), raw })
    }
}

/// An event of a webhook of the old kind, which is a form, as those of today have it.
fn of_form<'a>(event: &str, field: impl Fn(&str) -> Option<Cow<'a, str>>) -> Value {
    let event = if matches!(event, "bounced" | "dropped") { "failed" } else { event };
    let code = field("code");
    let reason = match code.as_deref() {
        Some("605") => Some(Cow::Borrowed("suppress-bounce")),
        Some("606") => Some("suppress-unsubscribe".into()),
        Some("607") => Some("suppress-complaint".into()),
        _ => field("reason"),
    };
    json!({
        "event": event,
        "severity": "permanent",
        "reason": reason,
        "recipient": field("recipient"),
        "timestamp": field("timestamp"),
        "message": {"headers": {"message-id": field("Message-Id").or_else(|| field("message-id"))}},
        "user-variables": {email::REFERENCE: field(email::REFERENCE)},
        "delivery-status": {"code": code, "message": field("error").or_else(|| field("description"))},
    })
}

/// What a failure means.
fn failure(event: &Value) -> Result<(Happened, Option<&'static str>), Unreadable> {
    match text(&event["severity"]) {
        Some("temporary") => return Ok(well(Happened::Delayed)),
        Some("permanent") => {}
        _ => return Err(Unreadable::new("the severity is none of the documented ones")),
    }
    Ok(match text(&event["reason"]) {
        Some("suppress-bounce") => SUPPRESSED,
        Some("suppress-complaint" | "suppress-unsubscribe") => OPTED_OUT,
        // The sender's or the message's fault, or nobody's.
        Some("espblock" | "blacklisted" | "greylisted" | "old") => SOFT,
        _ if text(&event["delivery-status"]["bounce-type"]) == Some("soft") => SOFT,
        _ if wire::code(&event["delivery-status"]["code"]).is_some_and(|code| (400..500).contains(&code)) => SOFT,
        _ => HARD,
    })
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
