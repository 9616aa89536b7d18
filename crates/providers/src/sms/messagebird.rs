//! MessageBird's REST API, the classic one: <https://developers.messagebird.com/api/sms-messaging/>.
//!
//! Bird, its successor, has an API of its own and other keys. What MessageBird tells afterwards is read in `messagebird/callbacks.rs`.

mod callbacks;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    wire::{self, RETRY},
};

const BASE: &str = "https://rest.messagebird.com";

/// The adapter.
#[derive(Debug)]
pub struct MessageBird;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    originator: String,
    access_key: SecretString,
    signing_key: Option<SecretString>,
}

impl Settings {
    fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("AccessKey {}", self.access_key.expose_secret()))
    }
}

impl HttpProvider for MessageBird {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "messagebird",
        name: "MessageBird",
        channel: Channel::Sms,
        docs_url: "https://developers.messagebird.com/api/sms-messaging/",
        base_url: Some(BASE),
        features: &[Feature::From],
        callbacks: Some(callbacks::CALLBACKS),
        fields: &[
            Field::public(
                "originator",
                "Originator",
                Kind::SenderId,
                "The number or alphanumeric id that messages come from, unless a message names another.",
            )
            .required(),
            Field::secret(
                "access_key",
                "Access key",
                Kind::Token(256),
                "A live access key, from API access in the dashboard. A test key is taken too, but sends nothing.",
            )
            .required(),
            Field::secret(
                "signing_key",
                "Signing key",
                Kind::Text(256),
                "The account's signing key, from the developer settings in the dashboard. With it, callbacks must be signed.",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let text = message.content.body.as_deref().unwrap_or_default();
        let mut body = json!({
            "originator": wire::digits(message.content.from.as_deref().unwrap_or(&settings.originator)),
            "recipients": [wire::digits(message.recipient)],
            "body": text,
            "datacoding": if wire::needs_unicode(text) { "unicode" } else { "plain" },
            // Without one there are no status reports.
            "reference": message.id.to_string(),
        });
        if let Some(url) = cx.callback_url {
            body["reportUrl"] = url.into();
        }
        Ok(wire::json_post(&format!("{base}/messages"), &body, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/balance"), (header::AUTHORIZATION, &settings.authorization())))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let bare = |code, detail| wire::by_status(Self::SPEC.name, status, response.headers(), code, detail);
        if let Some(errors) = answer["errors"].as_array().filter(|all| !all.is_empty()) {
            // Being throttled counts for more than what else may be wrong.
            let known = errors.iter().find_map(known).filter(|_| status != StatusCode::TOO_MANY_REQUESTS);
            return Err(known.unwrap_or_else(|| bare(wire::code(&errors[0]["code"]), errors[0]["description"].as_str())));
        }
        let item = &answer["recipients"]["items"][0];
        match (status.is_success(), answer["id"].as_str().and_then(wire::id)) {
            (true, Some(_)) if matches!(item["status"].as_str(), Some("delivery_failed" | "expired")) => {
                let why = item["statusReason"].as_str().unwrap_or("no reason given");
                Err(SendError::new(Class::Rejected, "undeliverable", format!("MessageBird could not deliver the message: {why}")))
            }
            (true, Some(id)) => Ok(Sent { provider_message_id: Some(id), segments: wire::parts(&item["messagePartCount"]), cost: None }),
            _ => Err(bare(None, None)),
        }
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        callbacks::authenticate(settings, callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(callback)
    }
}

/// Outcomes by an error's `code` and `parameter`; without a parameter for whichever it names.
/// <https://developers.messagebird.com/api/#api-errors>
const ERRORS: &[(u64, Option<&str>, Class, &str)] = &[
    (2, Some("access_key"), Class::Credentials, "invalid_credentials"),
    (9, Some("recipients"), Class::Rejected, "invalid_recipient"),
    (9, Some("originator"), Class::Rejected, "invalid_sender"),
    (9, Some("body"), Class::Rejected, "missing_body"),
    (9, None, Class::Rejected, "invalid_request"),
    (10, Some("recipients"), Class::Rejected, "invalid_recipient"),
    (10, Some("originator"), Class::Rejected, "invalid_sender"),
    (10, None, Class::Rejected, "invalid_request"),
    // Everything sent with this account fails until it is topped up, which may happen in time.
    (25, None, RETRY, "insufficient_balance"),
    (99, None, RETRY, "provider_error"),
];

/// The error of an entry that stands in the table.
fn known(entry: &Value) -> Option<SendError> {
    let (code, parameter) = (wire::code(&entry["code"])?, entry["parameter"].as_str());
    let fits = |row: &&(u64, Option<&str>, Class, &str)| row.0 == code && (row.1.is_none() || row.1 == parameter);
    let (_, _, class, ours) = ERRORS.iter().find(fits)?;
    Some(SendError::new(*class, *ours, format!("MessageBird {code}: {}", entry["description"].as_str().unwrap_or(ours))))
}
