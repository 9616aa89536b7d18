//! Plivo messaging: <https://www.plivo.com/docs/messaging/api/message/send-a-message/>.
//!
//! Errors have a status and a sentence, no codes. There is no reference of ours but a callback's URL. What Plivo tells afterwards is read
//! in `plivo/callbacks.rs`.

mod callbacks;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Class, Cx, Field, HttpProvider, Kind, Outbound, Rule, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    wire::{self, RETRY, Word},
};

const BASE: &str = "https://api.plivo.com/v1";

/// The adapter.
#[derive(Debug)]
pub struct Plivo;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    auth_id: String,
    src: Option<String>,
    powerpack_uuid: Option<String>,
    auth_token: SecretString,
}

impl Settings {
    fn account(&self, cx: &Cx<'_>) -> String {
        format!("{}/Account/{}", cx.base_url.as_deref().unwrap_or(BASE), self.auth_id)
    }

    fn authorization(&self) -> Zeroizing<String> {
        wire::basic(&self.auth_id, self.auth_token.expose_secret())
    }
}

impl HttpProvider for Plivo {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "plivo",
        name: "Plivo",
        channel: Channel::Sms,
        docs_url: "https://www.plivo.com/docs/messaging/api/message/send-a-message/",
        base_url: Some(BASE),
        features: &[Feature::From],
        callbacks: Some(callbacks::CALLBACKS),
        fields: &[
            Field::public("auth_id", "Auth ID", Kind::Word(64), "The account's Auth ID, from the console's first page.").required(),
            Field::public(
                "src",
                "Source",
                Kind::SenderId,
                "The number, short code or alphanumeric id that messages come from, unless a message names another.",
            ),
            Field::public(
                "powerpack_uuid",
                "Powerpack UUID",
                Kind::Token(64),
                "A Powerpack that picks the sender from its pool. It goes before the source, which Plivo doesn't take beside it.",
            ),
            Field::secret("auth_token", "Auth token", Kind::Text(256), "The account's auth token, shown beside the Auth ID.").required(),
        ],
        rules: &[Rule::AnyOf(&["src", "powerpack_uuid"])],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mut body = json!({
            "dst": wire::digits(message.recipient),
            "text": message.content.body.as_deref().unwrap_or_default(),
            "type": "sms",
        });
        match (message.content.from.as_deref(), settings.powerpack_uuid.as_deref(), settings.src.as_deref()) {
            (Some(src), ..) | (None, None, Some(src)) => body["src"] = wire::digits(src).into(),
            (None, Some(uuid), _) => body["powerpack_uuid"] = uuid.into(),
            (None, None, None) => {
                let text = "neither the message nor the provider config names a sender";
                return Err(SendError::new(Class::Rejected, "missing_sender", text));
            }
        }
        if let Some(url) = cx.callback_of(message.id) {
            body["url"] = url.into();
            body["method"] = "POST".into();
        }
        Ok(wire::json_post(&format!("{}/Message/", settings.account(cx)), &body, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(wire::get(&format!("{}/", settings.account(cx)), (header::AUTHORIZATION, &settings.authorization())))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        // One for each recipient, of which there is one.
        if let Some(id) = answer["message_uuid"][0].as_str().and_then(wire::id).filter(|_| status.is_success()) {
            return Ok(Sent { provider_message_id: Some(id), segments: None, cost: None });
        }
        let words = answer["error"].as_str();
        let known =
            words.filter(|_| status != StatusCode::TOO_MANY_REQUESTS).and_then(|words| wire::by_words(words, WORDS).zip(Some(words)));
        if let Some(((class, ours), words)) = known {
            return Err(SendError::new(class, ours, format!("Plivo refused the message: {words}")));
        }
        Err(wire::by_status(Self::SPEC.name, status, response.headers(), None, words))
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        callbacks::authenticate(settings, callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(callback)
    }
}

/// Outcomes by what the error says. <https://www.plivo.com/docs/messaging/concepts/destination-number-validation>
const WORDS: &[Word] = &[
    ("is not a valid phone number", Class::Rejected, "invalid_recipient"),
    // Said for two minutes after a message that the balance did not cover.
    ("insufficient credit", RETRY, "insufficient_balance"),
];
