//! Termii's messaging API: <https://developers.termii.com/messaging-api>.
//!
//! The API key travels in the body, and in the URL where there is no body: Termii takes it nowhere else. Errors have no codes
//! but words, and there is no reference of ours: what it tells afterwards names its own id.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::{Happened, Inbound, Proof, Report},
    wire::{self, RETRY, Word},
};

const BASE: &str = "https://v3.api.termii.com";

/// The adapter.
#[derive(Debug)]
pub struct Termii;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from: String,
    channel: Option<String>,
    base_url: Option<String>,
    api_key: SecretString,
    webhook_secret: Option<SecretString>,
}

impl Settings {
    fn base<'a>(&'a self, cx: &'a Cx<'_>) -> Cow<'a, str> {
        match (cx.base_url.as_deref(), self.base_url.as_deref()) {
            (Some(base), _) => Cow::Borrowed(base),
            (None, Some(host)) => Cow::Owned(wire::base_of(host)),
            (None, None) => Cow::Borrowed(BASE),
        }
    }
}

impl HttpProvider for Termii {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "termii",
        name: "Termii",
        channel: Channel::Sms,
        docs_url: "https://developers.termii.com/messaging-api",
        base_url: Some(BASE),
        features: &[Feature::From],
        callbacks: Some(Callbacks {
            authenticity: "signed with the webhook secret, if one is given; else the token in the URL stands for it",
            setup: "In the dashboard under Webhook (of the developer console or the API settings): put the URL there. Delivery reports and \
                inbound messages come to the same one.",
            by_id: true,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            Field::public(
                "from",
                "From",
                Kind::SenderId,
                "The registered sender id that messages come from, unless a message names another.",
            )
            .required(),
            Field::public(
                "channel",
                "Channel",
                Kind::OneOf(&["generic", "dnd"]),
                "The route: generic (the default) for promotions; dnd, which Termii must have activated, for codes and notices.",
            ),
            Field::public(
                "base_url",
                "Base URL",
                Kind::HostUnder(&["termii.com"]),
                "The account's base URL, from the dashboard, if it is another than https://v3.api.termii.com.",
            ),
            Field::secret("api_key", "API key", Kind::Token(256), "The account's API key, from the dashboard.").required(),
            Field::secret(
                "webhook_secret",
                "Webhook secret",
                Kind::Text(256),
                "What Termii signs webhooks with: the account's secret key, from the dashboard. With it, callbacks must be signed.",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let text = message.content.body.as_deref().unwrap_or_default();
        let body = json!({
            "api_key": settings.api_key.expose_secret(),
            "to": wire::digits(message.recipient),
            "from": wire::digits(message.content.from.as_deref().unwrap_or(&settings.from)),
            "sms": text,
            "type": if wire::needs_unicode(text) { "unicode" } else { "plain" },
            "channel": settings.channel.as_deref().unwrap_or("generic"),
        });
        let request = wire::json_post(&format!("{}/api/sms/send", settings.base(cx)), &body, (header::AUTHORIZATION, ""));
        Ok(wire::without_header_credential(request))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let key: Zeroizing<String> = Zeroizing::new(form_urlencoded::byte_serialize(settings.api_key.expose_secret().as_bytes()).collect());
        let url = Zeroizing::new(format!("{}/api/get-balance?api_key={}", settings.base(cx), key.as_str()));
        Some(wire::without_header_credential(wire::get(&url, (header::AUTHORIZATION, ""))))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let id = [&answer["message_id"], &answer["message_id_str"]].into_iter().find_map(message_id);
        if status.is_success() && (id.is_some() || answer["code"] == "ok") {
            return Ok(Sent { provider_message_id: id, segments: None, cost: None });
        }
        let words = answer["message"].as_str();
        let bare = wire::by_status(Self::SPEC.name, status, response.headers(), None, words);
        Err(match words.filter(|_| status != StatusCode::TOO_MANY_REQUESTS).and_then(known) {
            Some(error) => error,
            None if status == StatusCode::FORBIDDEN => SendError { class: Class::Credentials, code: "missing_permission".into(), ..bare },
            None => bare,
        })
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, _: &Proof<'_>) -> Verdict {
        let Some(secret) = &settings.webhook_secret else { return Verdict::Unsigned };
        let Some(signature) = callback.header("x-termii-signature").and_then(wire::unhex) else {
            return Verdict::Refused("there is no X-Termii-Signature");
        };
        let key = hmac::Key::new(hmac::HMAC_SHA512, secret.expose_secret().as_bytes());
        match hmac::verify(&key, callback.body, &signature) {
            Ok(()) => Verdict::Genuine { once: None },
            Err(_) => Verdict::Refused("the signature does not fit"),
        }
    }

    // <https://developer.termii.com/events-and-reports>, <https://developer.termii.com/incoming>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let event: Value = callback.json()?;
        let Some(id) = message_id(&event["message_id"]) else { return Err(Unreadable::new("there is no message_id")) };
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        if text("type").eq_ignore_ascii_case("inbound") {
            let from = wire::with_plus(text("sender"));
            if from.is_empty() {
                return Err(Unreadable::new("the message has no sender"));
            }
            return Ok(vec![Told::Inbound(Inbound {
                provider_message_id: id,
                from,
                to: wire::with_plus(text("receiver")),
                text: text("message").to_owned(),
                media: Vec::new(),
                at: Timestamp::parse(text("received_at")),
                keyword: None,
                in_reply_to: None,
                payload: callback.raw(),
            })]);
        }
        // `DELIVERED | Message delivered to handset`
        let status = text("status").split('|').next().unwrap_or_default().trim().to_lowercase();
        let Some((_, happened, code)) = STATUSES.iter().find(|(known, ..)| *known == status) else {
            return Err(Unreadable::new("the status is none of the documented ones"));
        };
        let mut report = Report::new(*happened, format!("{id} {status}"), callback.raw());
        report.provider_message_id = Some(id);
        report.recipient = Some(wire::with_plus(text("receiver"))).filter(|to| !to.is_empty());
        report.code = code.map(str::to_owned);
        report.detail = code.map(|_| format!("Termii: {}", text("status")));
        // `sent_at` is when it was sent, without a zone, and `cost` has no currency.
        Ok(vec![Told::Report(report)])
    }
}

/// What a message's status means, in lower case.
const STATUSES: &[(&str, Happened, Option<&str>)] = &[
    ("message sent", Happened::Sent, None),
    ("sent", Happened::Sent, None),
    ("delivered", Happened::Delivered, None),
    ("dnd active on phone number", Happened::Failed, Some("do_not_disturb")),
    ("message failed", Happened::Failed, Some("undelivered")),
    ("failed", Happened::Failed, Some("undelivered")),
    ("rejected", Happened::Failed, Some("rejected")),
    ("expired", Happened::Failed, Some("expired")),
];

/// Longer than what a number of JSON holds exactly, so Termii writes most of them as text.
fn message_id(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|n| n.to_string())).as_deref().and_then(wire::id)
}

/// Outcomes by what the message says; the first that fits. <https://developers.termii.com/error/>
const WORDS: &[Word] = &[
    ("senderid", Class::Rejected, "invalid_sender"),
    ("sender id", Class::Rejected, "invalid_sender"),
    ("country inactive", Class::Rejected, "region_not_permitted"),
    ("not set up on this route", Class::Rejected, "no_route"),
    ("no route on your account", Class::Rejected, "no_route"),
    // Everything sent with this account fails until it is topped up, which may happen in time.
    ("insufficient balance", RETRY, "insufficient_balance"),
    ("account is not active", Class::Credentials, "account_not_active"),
    ("invalid api key", Class::Credentials, "invalid_credentials"),
];

fn known(words: &str) -> Option<SendError> {
    let (class, ours) = wire::by_words(words, WORDS)?;
    Some(SendError::new(class, ours, format!("Termii refused the message: {words}")))
}
