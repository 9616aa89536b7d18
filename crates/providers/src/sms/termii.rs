//! Termii's messaging API: <https://developers.termii.com/messaging-api>.
//!
//! The API key travels in the body, and in the URL where there is no body: Termii takes it nowhere else. Errors have no codes
//! but words, and there is no reference of ours.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
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
        callbacks: None,
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
}

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
