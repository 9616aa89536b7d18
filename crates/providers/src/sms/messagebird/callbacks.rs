//! What MessageBird tells afterwards: status reports, by `GET`, and inbound messages.
//! <https://developers.messagebird.com/api/sms-messaging/#handle-a-status-report>

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use raven_core::{MessageId, Timestamp, money::Money};
use secrecy::ExposeSecret;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::Settings;
use crate::{
    Callback, Callbacks, Road, Told, Unreadable, Verdict,
    callback::{Happened, Inbound, Parameters, Proof, Report, SKEW},
    wire,
};

pub(super) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "signed with the signing key, if one is given; else the token in the URL stands for it",
    setup: "Nothing for reports: the URL travels with each message. For inbound messages, in the dashboard under Numbers: open the number, \
        and let its flow forward SMS to the URL (Forward to URL, by POST).",
    by_id: false,
    road: Road::Url,
    answer: "OK",
};

#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// What the token says. The SDKs take `iss` to be this, and the hashes to be SHA-256 in hexadecimal digits.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    nbf: i64,
    exp: i64,
    url_hash: String,
    payload_hash: Option<String>,
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// The claims of a JWT that the key has signed.
fn claims(token: &str, key: &[u8]) -> Result<Claims, &'static str> {
    let broken = "the signature is no JSON Web Token";
    let (signed, signature) = token.rsplit_once('.').ok_or(broken)?;
    let (header, claims) = signed.split_once('.').ok_or(broken)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| broken)?;
    let algorithm = match part::<Header>(header).ok_or(broken)?.alg.as_str() {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => return Err("the signature is of a kind that MessageBird does not make"),
    };
    hmac::verify(&hmac::Key::new(algorithm, key), signed.as_bytes(), &signature).map_err(|_| "the signature does not fit")?;
    part(claims).ok_or("the signature does not say what it signs")
}

/// <https://developers.messagebird.com/api/#verifying-http-requests>
pub(super) fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
    let Some(key) = &settings.signing_key else { return Verdict::Unsigned };
    let Some(token) = callback.header("messagebird-signature-jwt") else {
        return Verdict::Refused("there is no MessageBird-Signature-JWT");
    };
    let claims = match claims(token, key.expose_secret().as_bytes()) {
        Ok(claims) => claims,
        Err(why) => return Verdict::Refused(why),
    };
    let now = proof.now.seconds();
    if claims.iss != "MessageBird" {
        return Verdict::Refused("the signature is not MessageBird's");
    }
    if now < claims.nbf.saturating_sub(SKEW) || now > claims.exp.saturating_add(SKEW) {
        return Verdict::Refused("the signature is too old, or of the future");
    }
    let is = |hash: &str, of: &[u8]| wire::unhex(hash).is_some_and(|hash| hash == Sha256::digest(of)[..]);
    if !wire::with_and_without_port(proof.url).iter().any(|url| is(&claims.url_hash, url.as_bytes())) {
        return Verdict::Refused("the signature is of another URL");
    }
    match claims.payload_hash.as_deref() {
        None | Some("") if callback.body.is_empty() => Verdict::Genuine { once: None },
        Some(hash) if is(hash, callback.body) => Verdict::Genuine { once: None },
        _ => Verdict::Refused("the signature is of another body"),
    }
}

pub(super) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let parameters = Parameters::of(callback)?;
    let payload = callback.raw();
    if let (Some(id), Some(status)) = (parameters.get("id"), parameters.get("status")) {
        return report(&parameters, id, status, payload).map(|report| report.into_iter().map(Told::Report).collect());
    }
    // Those to short codes have names of their own.
    let id = parameters.get("id").or(parameters.get("mid"));
    let (Some(id), Some(from)) = (id, parameters.get("originator")) else {
        return Err(Unreadable::new("it is no status report and no inbound message"));
    };
    Ok(vec![Told::Inbound(Inbound {
        provider_message_id: id.to_owned(),
        from: wire::with_plus(from),
        to: parameters.get("recipient").or(parameters.get("shortcode")).map(wire::with_plus).unwrap_or_default(),
        text: parameters.get("body").or(parameters.get("message")).unwrap_or_default().to_owned(),
        media: parameters.iter().filter(|(name, _)| name.starts_with("mediaUrls")).map(|(_, url)| url.to_owned()).collect(),
        at: parameters.get("createdDatetime").and_then(instant).or_else(|| parameters.get("receive_datetime").and_then(compact)),
        keyword: None,
        in_reply_to: None,
        payload,
    })])
}

/// An instant with an offset, whose plus may have become a space on its way through a form.
fn instant(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|| Timestamp::parse(&text.trim().replace(' ', "+")))
}

/// `YYYYMMDDhhmmss`.
fn compact(text: &str) -> Option<Timestamp> {
    if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let at = |from: usize, to: usize| &text[from..to];
    wire::utc(&format!("{}-{}-{}T{}:{}:{}", at(0, 4), at(4, 6), at(6, 8), at(8, 10), at(10, 12), at(12, 14)))
}

fn report(parameters: &Parameters<'_>, id: &str, status: &str, payload: String) -> Result<Option<Report>, Unreadable> {
    let (happened, code) = match status {
        "scheduled" => return Ok(None),
        "sent" | "buffered" => (Happened::Sent, None),
        "delivered" => (Happened::Delivered, None),
        "expired" => (Happened::Failed, Some("expired")),
        "delivery_failed" => (Happened::Failed, Some("undelivered")),
        _ => return Err(Unreadable::new("the status is none of the documented ones")),
    };
    let recipient = parameters.get("recipient").unwrap_or_default();
    let mut report = Report::new(happened, format!("{id} {recipient} {status}"), payload);
    report.message = parameters.get("reference").and_then(MessageId::parse);
    report.provider_message_id = wire::id(id);
    report.recipient = Some(wire::with_plus(recipient)).filter(|to| !to.is_empty());
    report.at = parameters.get("statusDatetime").and_then(instant);
    report.segments = parameters.get("messagePartCount").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    report.cost = parameters.get("price[currency]").zip(parameters.get("price[amount]")).and_then(|(unit, sum)| Money::parse(unit, sum));
    if let Some(code) = code {
        let (number, reason) = (parameters.get("statusErrorCode"), parameters.get("statusReason"));
        let by_number = number.and_then(|n| n.parse::<u64>().ok()).and_then(|n| wire::ours(ERRORS, &n).or(wire::ours(wire::NETWORK, &n)));
        // In one of several spellings.
        let words = reason.map(|reason| reason.replace('_', " ").to_lowercase());
        let by_reason = words.and_then(|words| wire::ours(REASONS, &words.as_str()));
        report.code = Some(by_number.or(by_reason).or(number).unwrap_or(code).to_owned());
        let number = number.map(|number| format!(", error {number}")).unwrap_or_default();
        report.detail = Some(format!("MessageBird {status}: {}{number}", reason.unwrap_or("no reason given")));
    }
    Ok(Some(report))
}

/// What `statusErrorCode` means, where it is MessageBird's own.
const ERRORS: &[(u64, &str)] = &[(103, "recipient_opted_out")];

/// What `statusReason` means. <https://developers.messagebird.com/api/sms-messaging/#sms-statuses>
const REASONS: &[(&str, &str)] = &[
    ("unknown subscriber", "unknown_recipient"),
    ("unavailable subscriber", "unreachable"),
    ("expired", "expired"),
    ("opted out", "recipient_opted_out"),
    ("received network error", "gateway_error"),
    ("insufficient balance", "insufficient_balance"),
    ("carrier rejected", "rejected_by_gateway"),
    ("capacity limit reached", "rate_limited"),
];
