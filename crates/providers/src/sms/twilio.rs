//! Twilio Programmable Messaging: <https://www.twilio.com/docs/messaging/api/message-resource>.
//!
//! There is no idempotency key, so a lost answer stays unknown until the status callback.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, header};
use raven_core::{Channel, Timestamp, message::Feature, money::Money};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, Rule, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::{Happened, Inbound, Keyword, Proof, Report},
    wire::{self, BUSY, Row, row},
};

pub(crate) const BASE: &str = "https://api.twilio.com/2010-04-01";

/// The adapter.
#[derive(Debug)]
pub struct Twilio;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    pub(crate) account_sid: String,
    pub(crate) from: Option<String>,
    pub(crate) messaging_service_sid: Option<String>,
    api_key_sid: Option<String>,
    auth_token: SecretString,
    api_key_secret: Option<SecretString>,
}

impl Settings {
    /// `Basic …`: the API key if there is one, else the account's own token.
    fn authorization(&self) -> Zeroizing<String> {
        let (user, password) = match (&self.api_key_sid, &self.api_key_secret) {
            (Some(sid), Some(secret)) => (sid, secret),
            _ => (&self.account_sid, &self.auth_token),
        };
        wire::basic(user, password.expose_secret())
    }

    /// The request that makes a message of these fields.
    pub(crate) fn post(&self, fields: &[(&str, &str)], cx: &Cx<'_>) -> Request<Bytes> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let url = format!("{base}/Accounts/{}/Messages.json", self.account_sid);
        wire::form_post(&url, fields, (header::AUTHORIZATION, &self.authorization()))
    }

    /// The signature of a callback. <https://www.twilio.com/docs/usage/webhooks/webhooks-security>
    pub(crate) fn authenticate(&self, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        let Some(signature) = callback.header("x-twilio-signature").and_then(|text| STANDARD.decode(text).ok()) else {
            return Verdict::Refused("there is no X-Twilio-Signature");
        };
        let mut fields: Vec<_> = callback.form().collect();
        fields.sort_unstable();
        fields.dedup();
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.auth_token.expose_secret().as_bytes());
        // The signer is not consistent about a port that goes without saying.
        let matches = wire::with_and_without_port(proof.url).iter().any(|url| {
            let signed = fields.iter().fold(url.to_string(), |text, (name, value)| text + name + value);
            hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
        });
        if matches { Verdict::Genuine { once: None } } else { Verdict::Refused("the signature does not fit") }
    }

    /// The request that reads the account.
    pub(crate) fn read_account(&self, cx: &Cx<'_>) -> Request<Bytes> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let url = format!("{base}/Accounts/{}.json", self.account_sid);
        wire::get(&url, (header::AUTHORIZATION, &self.authorization()))
    }
}

// The fields that both of Twilio's channels have.
pub(crate) const ACCOUNT_SID: Field =
    Field::public("account_sid", "Account SID", Kind::Sid("AC"), "The account's SID, from the console's first page.").required();
pub(crate) const MESSAGING_SERVICE_SID: Field = Field::public(
    "messaging_service_sid",
    "Messaging Service SID",
    Kind::Sid("MG"),
    "A Messaging Service that picks the sender from its pool.",
);
pub(crate) const API_KEY_SID: Field =
    Field::public("api_key_sid", "API key SID", Kind::Sid("SK"), "An API key to sign in with instead of the auth token.");
pub(crate) const AUTH_TOKEN: Field = Field::secret(
    "auth_token",
    "Auth token",
    Kind::Text(256),
    "The account's auth token. Callbacks are checked with it even when an API key signs in.",
)
.required();
pub(crate) const API_KEY_SECRET: Field = Field::secret("api_key_secret", "API key secret", Kind::Text(256), "The API key's secret.");
pub(crate) const RULES: &[Rule] = &[Rule::AnyOf(&["from", "messaging_service_sid"]), Rule::Together("api_key_sid", "api_key_secret")];

impl HttpProvider for Twilio {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "twilio",
        name: "Twilio",
        channel: Channel::Sms,
        docs_url: "https://www.twilio.com/docs/messaging/api/message-resource",
        base_url: Some(BASE),
        features: &[Feature::From],
        callbacks: Some(CALLBACKS),
        fields: &[
            ACCOUNT_SID,
            Field::public(
                "from",
                "From",
                Kind::SenderId,
                "The number, short code or alphanumeric id that messages come from, unless a message names another.",
            ),
            MESSAGING_SERVICE_SID,
            API_KEY_SID,
            AUTH_TOKEN,
            API_KEY_SECRET,
        ],
        rules: RULES,
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mut fields = vec![("To", message.recipient), ("Body", message.content.body.as_deref().unwrap_or_default())];
        match (message.content.from.as_deref(), settings.from.as_deref(), settings.messaging_service_sid.as_deref()) {
            // A sender of the message's own need not be in the service's pool.
            (Some(own), ..) => fields.push(("From", own)),
            (None, from, service) => {
                fields.extend(from.map(|from| ("From", from)));
                fields.extend(service.map(|sid| ("MessagingServiceSid", sid)));
            }
        }
        let callback = cx.callback_of(message.id);
        fields.extend(callback.as_deref().map(|url| ("StatusCallback", url)));
        Ok(settings.post(&fields, cx))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(settings.read_account(cx))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        outcome(response)
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        settings.authenticate(callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        read(callback)
    }
}

/// Outcomes by error code. <https://www.twilio.com/docs/api/errors>
const CODES: &[Row] = &[
    row(20003, Class::Credentials, "invalid_credentials"),
    row(20005, Class::Credentials, "account_not_active"),
    row(20404, Class::Rejected, "account_not_found"),
    row(20429, BUSY, "rate_limited"),
    row(21211, Class::Rejected, "invalid_recipient"),
    row(21212, Class::Rejected, "invalid_sender"),
    row(21214, Class::Rejected, "invalid_recipient"),
    row(21215, Class::Rejected, "region_not_permitted"),
    row(21217, Class::Rejected, "invalid_recipient"),
    row(21408, Class::Rejected, "region_not_permitted"),
    row(21602, Class::Rejected, "missing_body"),
    row(21603, Class::Rejected, "invalid_sender"),
    row(21604, Class::Rejected, "invalid_recipient"),
    row(21605, Class::Rejected, "body_too_long"),
    row(21606, Class::Rejected, "invalid_sender"),
    row(21608, Class::Rejected, "recipient_not_verified"),
    row(21610, Class::Rejected, "recipient_opted_out"),
    row(21611, BUSY, "provider_queue_full"),
    row(21612, Class::Rejected, "no_route"),
    row(21614, Class::Rejected, "not_a_mobile_number"),
    row(21617, Class::Rejected, "body_too_long"),
    row(21659, Class::Rejected, "invalid_sender"),
    row(30001, BUSY, "provider_queue_full"),
    row(30002, Class::Credentials, "account_suspended"),
    row(30003, Class::Rejected, "unreachable"),
    row(30004, Class::Rejected, "blocked"),
    row(30005, Class::Rejected, "unknown_recipient"),
    row(30006, Class::Rejected, "not_a_mobile_number"),
    row(30007, Class::Rejected, "filtered"),
    row(30008, Class::Rejected, "unknown_error"),
    row(30022, BUSY, "rate_limited"),
    row(30023, BUSY, "rate_limited"),
    row(30027, BUSY, "rate_limited"),
    // Of templates and of WhatsApp.
    row(21655, Class::Rejected, "template_not_found"),
    row(21656, Class::Rejected, "invalid_template"),
    row(63002, Class::Rejected, "invalid_sender"),
    row(63003, Class::Rejected, "invalid_recipient"),
    row(63007, Class::Rejected, "invalid_sender"),
    row(63013, Class::Rejected, "rejected_by_policy"),
    row(63015, Class::Rejected, "recipient_not_verified"),
    row(63016, Class::Rejected, "outside_window"),
    row(63017, BUSY, "rate_limited"),
    row(63018, BUSY, "rate_limited"),
    row(63019, Class::Rejected, "media_unavailable"),
    row(63021, Class::Rejected, "invalid_message"),
    row(63024, Class::Rejected, "invalid_recipient"),
    row(63027, Class::Rejected, "template_not_found"),
    row(63028, Class::Rejected, "invalid_template"),
    row(63032, Class::Rejected, "unreachable"),
    row(63033, Class::Rejected, "blocked"),
    row(63040, Class::Rejected, "invalid_template"),
    row(63041, Class::Rejected, "template_paused"),
    row(63042, Class::Rejected, "template_disabled"),
];

/// What an answer means, on either channel.
pub(crate) fn outcome(response: &Response<Bytes>) -> Result<Sent, SendError> {
    let status = response.status();
    let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    if !status.is_success() {
        let (code, detail) = (wire::code(&answer["code"]), answer["message"].as_str());
        let mut error = known(code, detail).unwrap_or_else(|| wire::by_status(Twilio::SPEC.name, status, response.headers(), code, detail));
        if let Class::RateLimited { after } = &mut error.class {
            *after = wire::retry_after(response.headers());
        }
        return Err(error);
    }
    if matches!(answer["status"].as_str(), Some("failed" | "undelivered")) {
        let (code, detail) = (wire::code(&answer["error_code"]), answer["error_message"].as_str());
        return Err(known(code, detail).unwrap_or_else(|| {
            let code = code.map_or_else(|| "rejected".to_owned(), |c| c.to_string());
            SendError::new(Class::Rejected, code, format!("Twilio refused the message: {}", detail.unwrap_or("no reason given")))
        }));
    }
    match answer["sid"].as_str().and_then(wire::id) {
        Some(sid) => Ok(sent(sid, &answer)),
        None => Err(wire::by_status(Twilio::SPEC.name, status, response.headers(), None, None)),
    }
}

/// The error of a code that stands in the table.
fn known(code: Option<u64>, detail: Option<&str>) -> Option<SendError> {
    let row = CODES.iter().find(|r| Some(r.code) == code)?;
    let advice = if row.ours == "outside_window" { wire::SEND_A_TEMPLATE } else { "" };
    Some(SendError::new(row.class, row.ours, format!("{advice}Twilio {}: {}", row.code, detail.unwrap_or(row.ours))))
}

fn sent(sid: String, answer: &Value) -> Sent {
    // "0" until a Messaging Service has picked a sender.
    let segments = wire::code(&answer["num_segments"]).and_then(|n| i16::try_from(n).ok()).filter(|n| *n > 0);
    // Null until it is billed; then negative, as it leaves the account.
    let cost = answer["price_unit"].as_str().zip(answer["price"].as_str()).and_then(|(unit, price)| Money::parse(unit, price));
    Sent { provider_message_id: Some(sid), segments, cost: cost.map(|m| Money { micros: m.micros.saturating_abs(), ..m }) }
}

/// How Twilio calls back, on either channel.
pub(crate) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "signed with the auth token",
    setup: "Nothing for reports: the URL travels with each message. For inbound messages, and for STOP, put it where the number or the \
        Messaging Service says what happens when a message comes in.",
    by_id: false,
    road: Road::Url,
    answer: "",
};

/// What a callback tells, on either channel.
pub(crate) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let field = |name: &str| callback.parameter(name).filter(|value| !value.is_empty());
    let sid = field("MessageSid").or_else(|| field("SmsSid")).ok_or_else(|| Unreadable::new("there is no MessageSid"))?;
    let status = field("MessageStatus").or_else(|| field("SmsStatus")).unwrap_or_default();
    let payload = wire::lossy(callback.body);
    if matches!(&*status, "received" | "receiving") || (status.is_empty() && field("Body").is_some()) {
        return Ok(vec![Told::Inbound(inbound(callback, sid.into_owned(), payload))]);
    }
    let code = field("ErrorCode");
    let report = |happened| {
        let mut report = Report::new(happened, format!("{sid} {status} {}", code.as_deref().unwrap_or_default()), payload.clone());
        report.message = callback.message();
        report.provider_message_id = Some(sid.to_string());
        report.recipient = field("To").map(|to| number(&to).to_owned());
        report
    };
    let failed = |ours: Option<&str>| {
        let known = known(code.as_deref().and_then(|c| c.parse().ok()), field("ErrorMessage").as_deref());
        let mut report = report(Happened::Failed);
        report.code = Some(match (&known, ours, &code) {
            (Some(error), ..) => error.code.clone(),
            (None, Some(ours), _) => ours.to_owned(),
            (None, None, Some(code)) => code.to_string(),
            (None, None, None) => "undelivered".to_owned(),
        });
        report.detail = known.map(|error| error.message);
        report
    };
    let reports = match &*status {
        "sent" => vec![report(Happened::Sent)],
        "delivered" => vec![report(Happened::Delivered)],
        // Whoever has read it has got it.
        "read" => vec![report(Happened::Delivered), report(Happened::Opened)],
        "failed" | "undelivered" => vec![failed(None)],
        "canceled" => vec![failed(Some("canceled"))],
        "queued" | "accepted" | "scheduled" | "sending" | "partially_delivered" => Vec::new(),
        _ => return Err(Unreadable::new("the MessageStatus is none of the documented ones")),
    };
    Ok(reports.into_iter().map(Told::Report).collect())
}

fn inbound(callback: &Callback<'_>, sid: String, payload: String) -> Inbound {
    let field = |name: &str| callback.parameter(name).unwrap_or_default();
    let media = (0..wire::code(&Value::from(field("NumMedia"))).unwrap_or(0).min(10)).map(|n| field(&format!("MediaUrl{n}")).into_owned());
    Inbound {
        provider_message_id: sid,
        from: number(&field("From")).to_owned(),
        to: number(&field("To")).to_owned(),
        text: field("Body").into_owned(),
        media: media.filter(|url| !url.is_empty()).collect(),
        at: None,
        // With Advanced Opt-Out Twilio has looked for such words, by lists that the account may have changed.
        keyword: match &*field("OptOutType") {
            "STOP" => Some(Keyword::Stop),
            "START" => Some(Keyword::Start),
            "HELP" => Some(Keyword::Help),
            _ => None,
        },
        in_reply_to: callback.parameter("OriginalRepliedMessageSid").map(Into::into),
        payload,
    }
}

/// An address without the channel before it.
fn number(address: &str) -> &str {
    address.strip_prefix("whatsapp:").unwrap_or(address)
}
