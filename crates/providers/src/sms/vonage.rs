//! Vonage SMS API: <https://developer.vonage.com/en/api/sms>.
//!
//! HTTP 200 says only that the request was read: each part of a text has a status of its own. What Vonage tells afterwards is read in
//! `vonage/callbacks.rs`.

mod callbacks;

use bytes::Bytes;
use http::{Request, Response, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Callback, Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    wire::{self, BUSY, RETRY, Row, row},
};

const BASE: &str = "https://rest.nexmo.com";

/// The adapter.
#[derive(Debug)]
pub struct Vonage;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    api_key: String,
    from: String,
    #[serde(default)]
    signature_method: callbacks::Method,
    api_secret: SecretString,
    signature_secret: Option<SecretString>,
}

impl Settings {
    fn authorization(&self) -> Zeroizing<String> {
        wire::basic(&self.api_key, self.api_secret.expose_secret())
    }
}

impl HttpProvider for Vonage {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "vonage",
        name: "Vonage",
        channel: Channel::Sms,
        docs_url: "https://developer.vonage.com/en/messaging/sms/overview",
        base_url: Some(BASE),
        features: &[Feature::From],
        callbacks: Some(callbacks::CALLBACKS),
        fields: &[
            Field::public("api_key", "API key", Kind::Token(64), "The account's API key, from API settings in the dashboard.").required(),
            Field::public(
                "from",
                "From",
                Kind::SenderId,
                "The number or alphanumeric id that messages come from, unless a message names another.",
            )
            .required(),
            Field::public(
                "signature_method",
                "Signature method",
                Kind::OneOf(&["md5hash", "md5", "sha1", "sha256", "sha512"]),
                "How the account signs webhooks, from API settings in the dashboard: md5hash (the default), or HMAC with one of the others.",
            ),
            Field::secret("api_secret", "API secret", Kind::Text(256), "The account's API secret, shown beside the API key.").required(),
            Field::secret(
                "signature_secret",
                "Signature secret",
                Kind::Text(256),
                "The account's signature secret, from API settings in the dashboard. With it, callbacks must be signed.",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let text = message.content.body.as_deref().unwrap_or_default();
        let id = message.id.to_string();
        let fields = [
            ("from", wire::digits(message.content.from.as_deref().unwrap_or(&settings.from))),
            ("to", wire::digits(message.recipient)),
            ("text", text),
            // Unless it is told, Vonage puts question marks where GSM's alphabet has no character.
            ("type", if wire::needs_unicode(text) { "unicode" } else { "text" }),
            ("client-ref", &id),
        ];
        Ok(wire::form_post(&format!("{base}/sms/json"), &fields, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/account/get-balance"), (header::AUTHORIZATION, &settings.authorization())))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let bare = |detail| wire::by_status(Self::SPEC.name, status, response.headers(), None, detail);
        if !status.is_success() {
            return Err(bare(answer["detail"].as_str().or(answer["error-code-label"].as_str())));
        }
        let parts = answer["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let taken = parts.iter().filter(|part| accepted(part)).count();
        match parts.iter().find(|part| !accepted(part)) {
            None => match parts.first() {
                Some(first) => Ok(Sent {
                    // Each part has an id; the reference that delivery receipts repeat is the same for all.
                    provider_message_id: first["message-id"].as_str().and_then(wire::id),
                    segments: i16::try_from(parts.len()).ok(),
                    // Prices come without their currency.
                    cost: None,
                }),
                None => Err(bare(None)),
            },
            Some(part) if taken == 0 => Err(match wire::code(&part["status"]) {
                Some(code) => refused(code, part["error-text"].as_str()),
                None => bare(None),
            }),
            Some(part) => {
                let text =
                    format!("Vonage took {taken} of {} parts: {}", parts.len(), part["error-text"].as_str().unwrap_or("no reason given"));
                Err(SendError::new(Class::Unknown, "partly_accepted", text))
            }
        }
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        callbacks::authenticate(settings, callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(callback)
    }
}

fn accepted(part: &Value) -> bool {
    wire::code(&part["status"]) == Some(0)
}

/// Outcomes by a part's `status`, other than 0. <https://developer.vonage.com/en/api-errors/sms>
const CODES: &[Row] = &[
    row(1, BUSY, "rate_limited"),
    row(2, Class::Rejected, "invalid_request"),
    row(3, Class::Rejected, "invalid_request"),
    row(4, Class::Credentials, "invalid_credentials"),
    row(5, RETRY, "provider_error"),
    row(6, Class::Rejected, "invalid_message"),
    row(7, Class::Rejected, "blocked"),
    row(8, Class::Credentials, "account_suspended"),
    // Everything sent with this account fails until it is topped up, which may happen in time.
    row(9, RETRY, "insufficient_balance"),
    row(10, BUSY, "rate_limited"),
    row(11, Class::Credentials, "account_not_enabled"),
    row(12, Class::Rejected, "body_too_long"),
    // The account takes signed requests only, which these are not.
    row(14, Class::Credentials, "signature_required"),
    row(15, Class::Rejected, "invalid_sender"),
    row(22, Class::Rejected, "no_route"),
    // An account in demo mode reaches its own test numbers only.
    row(29, Class::Rejected, "recipient_not_verified"),
    row(33, Class::Rejected, "unknown_recipient"),
];

/// Why no part was taken. A status that is not in the table is still a refusal.
fn refused(code: u64, detail: Option<&str>) -> SendError {
    let known = CODES.iter().find(|r| r.code == code);
    let (class, ours) = known.map_or_else(|| (Class::Rejected, code.to_string()), |r| (r.class, r.ours.to_owned()));
    SendError::new(class, ours, format!("Vonage {code}: {}", detail.unwrap_or("no reason given")))
}
