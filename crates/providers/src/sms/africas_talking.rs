//! Africa's Talking, bulk SMS: <https://developers.africastalking.com/docs/sms/sending/bulk>.
//!
//! There are two hosts, live and sandbox, and the username `sandbox` picks the second. HTTP 201 says only that the request
//! was read: what became of the message stands with its recipient.

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use raven_core::{Channel, Timestamp, message::Feature, money::Money};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable,
    callback::{Happened, Inbound, Report, Wish},
    wire::{self, RETRY, Row, row},
};

const LIVE: &str = "https://api.africastalking.com/version1";
const SANDBOX: &str = "https://api.sandbox.africastalking.com/version1";

/// The adapter.
#[derive(Debug)]
pub struct AfricasTalking;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    username: String,
    sender_id: Option<String>,
    api_key: SecretString,
}

impl Settings {
    fn base<'a>(&self, cx: &'a Cx<'_>) -> &'a str {
        cx.base_url.as_deref().unwrap_or(if self.username == "sandbox" { SANDBOX } else { LIVE })
    }

    fn auth(&self) -> wire::Auth<'_> {
        (HeaderName::from_static("apikey"), self.api_key.expose_secret())
    }
}

impl HttpProvider for AfricasTalking {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "africas_talking",
        name: "Africa's Talking",
        channel: Channel::Sms,
        docs_url: "https://developers.africastalking.com/docs/sms/overview",
        base_url: Some(LIVE),
        features: &[Feature::From],
        callbacks: Some(Callbacks {
            authenticity: "not signed: the token in the URL stands for it",
            setup: "In the app's dashboard under SMS, SMS Callback URLs: put the URL under Delivery Reports, Incoming Messages and \
                Bulk SMS Opt Out.",
            by_id: true,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            Field::public(
                "username",
                "Username",
                Kind::Text(100),
                "The username of the app that sends; `sandbox` for Africa's Talking's own sandbox.",
            )
            .required(),
            Field::public(
                "sender_id",
                "Sender id",
                Kind::SenderId,
                "The registered short code or alphanumeric id that messages come from, unless a message names another.",
            ),
            Field::public("region", "Region", Kind::Text(64), "Where most recipients are, for your own records."),
            Field::secret(
                "api_key",
                "API key",
                Kind::Token(512),
                "The app's API key, from Settings in its dashboard. A new key may take 20 minutes to work.",
            )
            .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mut fields = vec![
            ("username", settings.username.as_str()),
            ("to", message.recipient),
            ("message", message.content.body.as_deref().unwrap_or_default()),
            ("bulkSMSMode", "1"),
        ];
        if let Some(from) = message.content.from.as_deref().or(settings.sender_id.as_deref()) {
            fields.push(("from", from));
        }
        Ok(wire::form_post(&format!("{}/messaging", settings.base(cx)), &fields, settings.auth()))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let username: String = form_urlencoded::byte_serialize(settings.username.as_bytes()).collect();
        Some(wire::get(&format!("{}/user?username={username}", settings.base(cx)), settings.auth()))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let bare = |code, detail| wire::by_status(Self::SPEC.name, status, response.headers(), code, detail);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) {
            // The former's body is plain text.
            return Err(bare(None, None));
        }
        let answer = &serde_json::from_slice::<Value>(response.body()).unwrap_or_default()["SMSMessageData"];
        let words = answer["Message"].as_str().unwrap_or_default();
        match answer["Recipients"].as_array().map(|all| all.first()) {
            Some(Some(recipient)) => of_recipient(recipient, status)
                .unwrap_or_else(|| Err(bare(wire::code(&recipient["statusCode"]), recipient["status"].as_str()))),
            // Refused as a whole; the reason is a word in the message.
            Some(None) => Err(match WORDS.iter().find(|(word, _)| words.contains(word)).and_then(|(_, code)| of_code(*code)) {
                Some(row) => error(row, words),
                None if status.is_success() => {
                    SendError::new(Class::Rejected, "rejected", format!("Africa's Talking refused the message: {words}"))
                }
                None => bare(None, Some(words)),
            }),
            None => Err(bare(None, None)),
        }
    }

    // Three kinds come to URLs of their own, which may be one and the same: <https://developers.africastalking.com/docs/sms/notifications>.
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let field = |name: &str| callback.parameter(name).filter(|value| !value.is_empty());
        let payload = wire::lossy(callback.body);
        if let (Some(id), Some(status)) = (field("id"), field("status")) {
            return report(callback, &id, &status, payload).map(|report| vec![Told::Report(report)]);
        }
        if let (Some(id), Some(from)) = (field("id"), field("from")) {
            return Ok(vec![Told::Inbound(Inbound {
                provider_message_id: id.into_owned(),
                from: from.into_owned(),
                to: field("to").unwrap_or_default().into_owned(),
                text: field("text").unwrap_or_default().into_owned(),
                media: Vec::new(),
                at: field("date").and_then(|date| wire::utc(&date)),
                keyword: None,
                in_reply_to: None,
                payload,
            })]);
        }
        match (field("phoneNumber"), field("senderId"), field("updateType")) {
            (Some(recipient), Some(sender), None) => Ok(vec![Told::Wish(Wish {
                recipient: recipient.into_owned(),
                wants: false,
                at: None,
                detail: Some(format!("opted out of messages from {sender}")),
            })]),
            // Of premium services, which Raven does not sell.
            (_, _, Some(_)) => Ok(Vec::new()),
            _ => Err(Unreadable::new("it is no delivery report, no message and no opt-out")),
        }
    }
}

/// What `failureReason` of a delivery report means.
const REASONS: &[(&str, &str)] = &[
    ("InsufficientCredit", "insufficient_balance"),
    ("InvalidLinkId", "rejected"),
    ("UserIsInactive", "unreachable"),
    ("UserInBlackList", "recipient_opted_out"),
    ("UserInBlacklist", "recipient_opted_out"),
    ("UserAccountSuspended", "unreachable"),
    ("NotNetworkSubcriber", "unknown_recipient"),
    ("NotNetworkSubscriber", "unknown_recipient"),
    ("UserNotSubscribedToProduct", "rejected"),
    ("UserDoesNotExist", "unknown_recipient"),
    ("DeliveryFailure", "undelivered"),
    ("DoNotDisturbRejection", "do_not_disturb"),
];

fn report(callback: &Callback<'_>, id: &str, status: &str, payload: String) -> Result<Report, Unreadable> {
    let (happened, code) = match status {
        "Sent" | "Submitted" | "Buffered" => (Happened::Sent, None),
        "Success" => (Happened::Delivered, None),
        "Rejected" => (Happened::Failed, Some("rejected")),
        "Failed" => (Happened::Failed, Some("undelivered")),
        "AbsentSubscriber" => (Happened::Failed, Some("unreachable")),
        "Expired" => (Happened::Failed, Some("filtered")),
        _ => return Err(Unreadable::new("the status is none of the documented ones")),
    };
    let reason = callback.parameter("failureReason").filter(|reason| !reason.is_empty() && happened == Happened::Failed);
    let known = reason.as_deref().and_then(|reason| REASONS.iter().find(|(word, _)| *word == reason)).map(|(_, ours)| *ours);
    let mut report = Report::new(happened, format!("{id} {status}"), payload);
    report.provider_message_id = wire::id(id);
    report.recipient = callback.parameter("phoneNumber").map(Into::into);
    report.code = known.or(code).map(str::to_owned);
    report.detail = code.map(|_| format!("Africa's Talking {status}: {}", reason.as_deref().unwrap_or("no reason given")));
    Ok(report)
}

/// Outcomes by a recipient's `statusCode`, other than those of success (100 to 102).
/// <https://developers.africastalking.com/docs/sms/sending/bulk>
const CODES: &[Row] = &[
    row(401, Class::Rejected, "risk_hold"),
    row(402, Class::Rejected, "invalid_sender"),
    row(403, Class::Rejected, "invalid_recipient"),
    row(404, Class::Rejected, "unsupported_number_type"),
    // Everything sent with this account fails until it is topped up, which may happen in time.
    row(405, RETRY, "insufficient_balance"),
    row(406, Class::Rejected, "recipient_opted_out"),
    row(407, Class::Rejected, "no_route"),
    row(409, Class::Rejected, "do_not_disturb"),
    row(500, RETRY, "provider_error"),
    row(501, RETRY, "gateway_error"),
    row(502, Class::Rejected, "rejected_by_gateway"),
];

/// The words that stand for those codes, in a recipient's `status` or in the message of an answer without recipients.
const WORDS: &[(&str, u64)] = &[
    ("RiskHold", 401),
    ("InvalidSenderId", 402),
    ("InvalidPhoneNumber", 403),
    ("UnsupportedNumberType", 404),
    ("InsufficientBalance", 405),
    ("UserInBlacklist", 406),
    ("UserInBlackList", 406),
    ("CouldNotRoute", 407),
    ("DoNotDisturbRejection", 409),
    ("InternalServerError", 500),
    ("GatewayError", 501),
    ("RejectedByGateway", 502),
];

fn of_code(code: u64) -> Option<&'static Row> {
    CODES.iter().find(|r| r.code == code)
}

fn error(row: &Row, detail: &str) -> SendError {
    SendError::new(row.class, row.ours, format!("Africa's Talking {}: {detail}", row.code))
}

/// What became of one recipient; nothing if neither code nor word is known.
fn of_recipient(recipient: &Value, http: StatusCode) -> Option<Result<Sent, SendError>> {
    let code = wire::code(&recipient["statusCode"]);
    let word = recipient["status"].as_str();
    if matches!(code, Some(100..=102)) || (code.is_none() && matches!(word, Some("Success" | "Sent" | "Queued" | "Processed"))) {
        return Some(Ok(sent(recipient)));
    }
    let by_word = || WORDS.iter().find(|(known, _)| Some(*known) == word).and_then(|(_, code)| of_code(*code));
    if let Some(row) = code.and_then(of_code).or_else(by_word) {
        return Some(Err(error(row, word.unwrap_or(row.ours))));
    }
    // An answer that gives the message's id as `None` says that there is no message.
    (http.is_success() && recipient["messageId"] == "None").then(|| {
        let code = code.map_or_else(|| "rejected".into(), |c| c.to_string());
        Err(SendError::new(Class::Rejected, code, format!("Africa's Talking refused the message: {}", word.unwrap_or("no reason given"))))
    })
}

fn sent(recipient: &Value) -> Sent {
    let cost = recipient["cost"]
        .as_str()
        .and_then(|c| c.trim().split_once(' '))
        .and_then(|(currency, amount)| Money::parse(currency, amount.trim()));
    Sent {
        provider_message_id: recipient["messageId"].as_str().filter(|id| *id != "None").and_then(wire::id),
        segments: recipient["messageParts"].as_i64().and_then(|n| i16::try_from(n).ok()).filter(|n| *n > 0),
        cost,
    }
}
