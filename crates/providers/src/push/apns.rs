//! Apple Push Notification service: <https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns>.
//!
//! It speaks HTTP/2 only. An app installed by Xcode has tokens of the sandbox, one from the App Store those of production, and
//! neither takes the other's.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, Version, header};
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use raven_core::{
    Channel, Timestamp,
    message::{Content, Feature},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{apns_collapse_id, es256, put, token};
use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
    wire::{self, BUSY, RETRY, Word, refused},
};

const PRODUCTION: &str = "https://api.push.apple.com";
const SANDBOX: &str = "https://api.sandbox.push.apple.com";
/// Largest body.
const PAYLOAD_MAX: usize = 4096;
/// How long a token stays the same: Apple wants a new one every 20 to 60 minutes.
const TOKEN_SECONDS: i64 = 1800;

/// The adapter.
#[derive(Debug)]
pub struct Apns;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Given")]
pub struct Settings {
    team_id: String,
    key_id: String,
    bundle_id: String,
    sandbox: bool,
    key: SigningKey,
    /// The last token that was signed, and when it says that it was: signing takes longer than all else about a notification.
    signed: Mutex<Option<(i64, SecretString)>>,
}

#[derive(Deserialize)]
struct Given {
    team_id: String,
    key_id: String,
    bundle_id: String,
    environment: Option<String>,
    private_key: SecretString,
}

impl TryFrom<Given> for Settings {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, Self::Error> {
        let key = SigningKey::from_pkcs8_pem(given.private_key.expose_secret().trim())
            .map_err(|_| "secretConfig.private_key is no private key: give the whole text of the .p8 file, with its first and last line")?;
        let sandbox = given.environment.as_deref() == Some("sandbox");
        Ok(Self { team_id: given.team_id, key_id: given.key_id, bundle_id: given.bundle_id, sandbox, key, signed: Mutex::default() })
    }
}

impl Settings {
    /// `bearer …`: the same on every node for half an hour, so that Apple sees few of them.
    fn authorization(&self, now: Timestamp) -> SecretString {
        let issued = now.seconds().div_euclid(TOKEN_SECONDS) * TOKEN_SECONDS;
        // Whatever a panic left there is a token, whole or none.
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*signed
            && *at == issued
        {
            return text.clone();
        }
        let (header, claims) = (json!({ "alg": "ES256", "kid": self.key_id }), json!({ "iat": issued, "iss": self.team_id }));
        let text = SecretString::from(format!("bearer {}", token(&header, &claims, |text| es256(&self.key, text)).as_str()));
        *signed = Some((issued, text.clone()));
        text
    }

    /// A notification for a device.
    fn post(&self, device: &str, payload: &Value, alert: bool, now: Timestamp, cx: &Cx<'_>) -> Request<Bytes> {
        let base = cx.base_url.as_deref().unwrap_or(if self.sandbox { SANDBOX } else { PRODUCTION });
        let mut request = wire::json_post(
            &format!("{base}/3/device/{device}"),
            payload,
            (header::AUTHORIZATION, self.authorization(now).expose_secret()),
        );
        *request.version_mut() = Version::HTTP_2;
        let (kind, priority) = if alert { ("alert", "10") } else { ("background", "5") };
        put(&mut request, "apns-topic", &self.bundle_id);
        put(&mut request, "apns-push-type", kind);
        put(&mut request, "apns-priority", priority);
        request
    }
}

impl HttpProvider for Apns {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "apns",
        name: "Apple Push Notification service",
        channel: Channel::Push,
        docs_url: "https://developer.apple.com/documentation/usernotifications",
        base_url: Some(PRODUCTION),
        features: &[Feature::Title, Feature::Data, Feature::Badge, Feature::CollapseKey, Feature::Ttl],
        callbacks: None,
        fields: &[
            Field::public("team_id", "Team id", Kind::Alphanumeric(10), "The ten characters of the team, from its membership details.")
                .required(),
            Field::public(
                "key_id",
                "Key id",
                Kind::Alphanumeric(10),
                "The ten characters that the key is listed under, also in its file name.",
            )
            .required(),
            Field::public("bundle_id", "Bundle id", Kind::Token(155), "The app's bundle id, for example com.example.app.").required(),
            Field::public(
                "environment",
                "Environment",
                Kind::OneOf(&["production", "sandbox"]),
                "production (the default) for apps of the App Store and TestFlight, sandbox for those that Xcode installs.",
            ),
            Field::secret(
                "private_key",
                "Private key",
                Kind::Document(2048),
                "The text of the key's .p8 file, from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY-----.",
            )
            .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let device = message.recipient;
        if !(2..=200).contains(&device.len()) || !device.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refused("invalid_recipient", "a device token of APNs consists of hexadecimal digits"));
        }
        let content = message.content;
        let alert = content.title.is_some() || content.body.is_some() || content.badge.is_some();
        let payload = payload(content, alert)?;
        if payload.to_string().len() > PAYLOAD_MAX {
            return Err(refused("message_too_large", format!("APNs takes at most {PAYLOAD_MAX} bytes: shorten title, body or data")));
        }
        let mut request = settings.post(device, &payload, alert, message.now, cx);
        put(&mut request, "apns-id", &message.id.to_string());
        if let Some(ttl) = content.ttl {
            put(&mut request, "apns-expiration", &message.now.seconds().saturating_add(ttl.into()).to_string());
        }
        if let Some(key) = &content.collapse_key {
            put(&mut request, "apns-collapse-id", &apns_collapse_id(key));
        }
        Ok(request)
    }

    /// A notification without content for a device that does not exist: Apple looks at the key first.
    fn verify(settings: &Settings, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(settings.post(&"0".repeat(64), &json!({ "aps": { "content-available": 1 } }), false, now, cx))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        match outcome(response) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.code.as_str(), "invalid_recipient" | "unregistered" | "recipient_of_another_app") => Ok(()),
            // Nothing can be sent to the app with this key.
            Err(e) if e.code == "invalid_topic" => Err(SendError { class: Class::Credentials, ..e }),
            Err(e) => Err(e),
        }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        outcome(response)
    }
}

/// What the app gets: Apple's part, and the caller's data beside it.
fn payload(content: &Content<'_>, alert: bool) -> Result<Value, SendError> {
    let mut aps = Map::new();
    let mut shown = Map::new();
    shown.extend(content.body.as_deref().map(|body| ("body".to_owned(), body.into())));
    shown.extend(content.title.as_deref().map(|title| ("title".to_owned(), title.into())));
    if !shown.is_empty() {
        aps.insert("alert".to_owned(), shown.into());
    }
    aps.extend(content.badge.map(|badge| ("badge".to_owned(), badge.into())));
    if !alert {
        aps.insert("content-available".to_owned(), 1.into());
    }
    if content.data.contains_key("aps") {
        return Err(refused("invalid_data", "data can't have a member named aps: Apple's own part stands there"));
    }
    let mut payload: Map<String, Value> = content.data.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    payload.insert("aps".to_owned(), aps.into());
    Ok(payload.into())
}

/// Outcomes by reason. <https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns>
const REASONS: &[Word] = &[
    ("BadCertificate", Class::Credentials, "invalid_credentials"),
    ("BadCertificateEnvironment", Class::Credentials, "invalid_credentials"),
    ("BadCollapseId", Class::Rejected, "protocol_error"),
    ("BadDeviceToken", Class::Rejected, "invalid_recipient"),
    ("BadEnvironmentKeyIdInToken", Class::Credentials, "invalid_credentials"),
    ("BadEnvironmentKeyInToken", Class::Credentials, "invalid_credentials"),
    ("BadExpirationDate", Class::Rejected, "protocol_error"),
    ("BadMessageId", Class::Rejected, "protocol_error"),
    ("BadPath", Class::Rejected, "protocol_error"),
    ("BadPriority", Class::Rejected, "protocol_error"),
    ("BadTopic", Class::Rejected, "invalid_topic"),
    ("DeviceTokenNotForTopic", Class::Rejected, "recipient_of_another_app"),
    ("DuplicateHeaders", Class::Rejected, "protocol_error"),
    // A token is signed for each attempt, so this tells of our clock.
    ("ExpiredProviderToken", RETRY, "clock_out_of_step"),
    ("ExpiredToken", Class::Rejected, "unregistered"),
    ("Forbidden", Class::Credentials, "permission_denied"),
    ("IdleTimeout", RETRY, "provider_unavailable"),
    ("InternalServerError", RETRY, "provider_error"),
    ("InvalidProviderToken", Class::Credentials, "invalid_credentials"),
    ("InvalidPushType", Class::Rejected, "protocol_error"),
    ("MethodNotAllowed", Class::Rejected, "protocol_error"),
    ("MissingDeviceToken", Class::Rejected, "invalid_recipient"),
    ("MissingProviderToken", Class::Credentials, "invalid_credentials"),
    ("MissingTopic", Class::Rejected, "invalid_topic"),
    ("PayloadEmpty", Class::Rejected, "missing_body"),
    ("PayloadTooLarge", Class::Rejected, "message_too_large"),
    ("ServiceUnavailable", RETRY, "provider_unavailable"),
    ("Shutdown", RETRY, "provider_unavailable"),
    ("TooManyProviderTokenUpdates", BUSY, "rate_limited"),
    ("TooManyRequests", BUSY, "rate_limited"),
    ("TopicDisallowed", Class::Rejected, "invalid_topic"),
    ("Unregistered", Class::Rejected, "unregistered"),
    ("UnrelatedKeyIdInToken", Class::Credentials, "invalid_credentials"),
];

fn outcome(response: &Response<Bytes>) -> Result<Sent, SendError> {
    let (status, headers) = (response.status(), response.headers());
    // A success has no body, so the echoed id is what tells Apple's answer from somebody else's.
    let id = headers.get("apns-id").and_then(|id| id.to_str().ok()).and_then(wire::id);
    if status.is_success() && id.is_some() {
        return Ok(Sent { provider_message_id: id, ..Sent::default() });
    }
    let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let reason = answer["reason"].as_str();
    Err(match reason.filter(|_| !status.is_success()).and_then(|reason| wire::word(REASONS, reason)) {
        Some((word, class, ours)) => SendError::new(wire::with_wait(*class, headers), *ours, format!("APNs {}: {word}", status.as_u16())),
        None => wire::by_status(Apns::SPEC.name, status, headers, None, reason),
    })
}
