//! Infobip SMS, version 3: <https://www.infobip.com/docs/api/channels/sms/outbound-sms/send-sms-messages>.
//!
//! Every account has a host of its own. The message's id is ours: Infobip refuses an id that it already knows, so an attempt
//! that is made twice does not send twice. What Infobip tells afterwards is read in `infobip/callbacks.rs`.

mod callbacks;

use std::borrow::Cow;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Told, Unreadable,
    wire::{self, RETRY, Row, row},
};

/// The adapter.
#[derive(Debug)]
pub struct Infobip;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    base_url: String,
    sender: Option<String>,
    api_key: SecretString,
}

impl Settings {
    fn base<'a>(&self, cx: &'a Cx<'_>) -> Cow<'a, str> {
        cx.base_url.as_deref().map_or_else(|| Cow::Owned(wire::base_of(&self.base_url)), Cow::Borrowed)
    }

    fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("App {}", self.api_key.expose_secret()))
    }
}

impl HttpProvider for Infobip {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "infobip",
        name: "Infobip",
        channel: Channel::Sms,
        docs_url: "https://www.infobip.com/docs/api/channels/sms/outbound-sms/send-sms-messages",
        base_url: None,
        features: &[Feature::From],
        callbacks: Some(callbacks::CALLBACKS),
        fields: &[
            Field::public(
                "base_url",
                "Base URL",
                Kind::HostUnder(&["api.infobip.com"]),
                "The account's own base URL, from the portal's first page, for example https://name.api.infobip.com.",
            )
            .required(),
            Field::public(
                "sender",
                "Sender",
                Kind::SenderId,
                "The number, short code or alphanumeric id that messages come from, unless a message names another.",
            ),
            Field::secret("api_key", "API key", Kind::Token(512), "An API key that may send SMS, from API keys in the portal.").required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mut entry = json!({
            "destinations": [{"to": wire::digits(message.recipient), "messageId": message.id.to_string()}],
            "content": {"text": message.content.body.as_deref().unwrap_or_default()},
        });
        if let Some(sender) = message.content.from.as_deref().or(settings.sender.as_deref()) {
            entry["sender"] = wire::digits(sender).into();
        }
        if let Some(url) = cx.callback_url {
            entry["webhooks"] = json!({"delivery": {"url": url}, "contentType": "application/json"});
        }
        let body = json!({"messages": [entry], "options": {"includeSmsCountInResponse": true}});
        Ok(wire::json_post(&format!("{}/sms/3/messages", settings.base(cx)), &body, (header::AUTHORIZATION, &settings.authorization())))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(wire::get(&format!("{}/account/1/balance", settings.base(cx)), (header::AUTHORIZATION, &settings.authorization())))
    }

    /// A key made for sending only is known, but may not read the balance.
    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        if response.status() == StatusCode::FORBIDDEN {
            let text = "Infobip knows the API key but lets it not read the balance: whether it may send shows with the first message";
            return Err(SendError::new(Class::Unknown, "missing_permission", text));
        }
        wire::verified(Self::SPEC.name, response)
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        if !status.is_success() {
            let detail = answer["description"].as_str().or(answer["requestError"]["serviceException"]["text"].as_str());
            let error = wire::by_status(Self::SPEC.name, status, response.headers(), None, detail);
            // The key lacks the scope, or may not be used from our address: no message goes out with it.
            let forbidden = status == StatusCode::FORBIDDEN;
            return Err(if forbidden {
                SendError { class: Class::Credentials, code: "missing_permission".into(), ..error }
            } else {
                error
            });
        }
        let message = &answer["messages"][0];
        let state = &message["status"];
        match wire::code(&state["groupId"]) {
            // Accepted, pending, delivered.
            Some(0 | 1 | 3) => Ok(Sent {
                provider_message_id: message["messageId"].as_str().and_then(wire::id),
                segments: wire::parts(&message["details"]["messageCount"]),
                cost: None,
            }),
            // Undeliverable, expired, rejected.
            Some(2 | 4 | 5) => Err(refused(state)),
            _ => Err(wire::by_status(Self::SPEC.name, status, response.headers(), None, state["description"].as_str())),
        }
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(callback)
    }
}

/// Outcomes by `status.id` in the groups that mean failure.
/// <https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes>
const CODES: &[Row] = &[
    row(4, Class::Rejected, "rejected_by_gateway"),
    row(6, Class::Rejected, "no_route"),
    row(8, Class::Rejected, "invalid_recipient"),
    row(9, Class::Rejected, "unreachable"),
    row(10, Class::Rejected, "do_not_disturb"),
    row(11, Class::Rejected, "invalid_sender"),
    // Everything sent with this account fails until it is topped up, which may happen in time.
    row(12, RETRY, "insufficient_balance"),
    row(13, Class::Rejected, "invalid_sender"),
    row(14, Class::Rejected, "blocked"),
    row(17, RETRY, "insufficient_balance"),
    row(18, Class::Rejected, "recipient_not_verified"),
    row(19, Class::Rejected, "no_route"),
    // This number got many messages within an hour. Others are not concerned, so the config is not slowed down.
    row(20, RETRY, "too_many_to_recipient"),
    row(21, RETRY, "provider_error"),
    // An attempt before had our id. Its delivery report tells whether it went out.
    row(23, Class::Unknown, "duplicate_message_id"),
    row(24, Class::Rejected, "invalid_message"),
    row(25, Class::Rejected, "body_too_long"),
    row(29, Class::Unknown, "delivery_unknown"),
    row(51, Class::Rejected, "invalid_recipient"),
    row(52, Class::Rejected, "invalid_recipient"),
    row(87, Class::Rejected, "filtered"),
    // The platform may just be unavailable.
    row(100, RETRY, "provider_error"),
];

/// Why there is no message. A status that is not in the table is still a refusal.
fn refused(state: &Value) -> SendError {
    let id = wire::code(&state["id"]);
    let known = CODES.iter().find(|r| Some(r.code) == id);
    let ours = match (known, id) {
        (Some(row), _) => row.ours.to_owned(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "rejected".to_owned(),
    };
    let name = state["name"].as_str().or(state["groupName"].as_str()).unwrap_or("no reason given");
    let text = state["description"].as_str().map_or_else(|| format!("Infobip: {name}"), |detail| format!("Infobip {name}: {detail}"));
    SendError::new(known.map_or(Class::Rejected, |r| r.class), ours, text)
}
