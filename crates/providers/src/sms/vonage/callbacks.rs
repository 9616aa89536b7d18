//! What Vonage tells afterwards: delivery receipts and inbound messages.
//! <https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts>
//!
//! An account chooses whether they come as a query, a form or JSON, and whether and how their parameters are signed.

use ::hmac::{Hmac, KeyInit, Mac};
use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use md5::{Digest, Md5};
use raven_core::MessageId;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::Settings;
use crate::{
    Callback, Callbacks, Road, Told, Unreadable, Verdict,
    callback::{Happened, Inbound, Parameters, Proof, Report, SKEW},
    wire,
};

pub(super) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "signed with the signature secret, if one is given; else the token in the URL stands for it",
    setup: "In the dashboard under API settings, SMS settings: put the URL under Delivery receipts (DLR) webhooks and under Inbound SMS \
        webhooks; any HTTP method will do. A number with a webhook of its own needs the URL there. Signing is switched on in the same \
        place.",
    by_id: false,
    road: Road::Url,
    answer: "",
};

/// How an account signs its webhooks.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Method {
    /// MD5 of the parameters and the secret.
    #[default]
    Md5hash,
    /// HMAC with MD5, and so on.
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Method {
    fn fits(self, secret: &[u8], signed: &[u8], signature: &[u8]) -> bool {
        let sha = |algorithm| hmac::verify(&hmac::Key::new(algorithm, secret), signed, signature).is_ok();
        match self {
            Self::Md5hash => {
                let hash = Md5::new().chain_update(signed).chain_update(secret).finalize();
                verify_slices_are_equal(&hash, signature).is_ok()
            }
            Self::Md5 => Hmac::<Md5>::new_from_slice(secret).is_ok_and(|mac| mac.chain_update(signed).verify_slice(signature).is_ok()),
            Self::Sha1 => sha(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => sha(hmac::HMAC_SHA256),
            Self::Sha512 => sha(hmac::HMAC_SHA512),
        }
    }
}

/// What is signed: all parameters but the signature by their names, without the characters that part them.
fn signed(parameters: &Parameters<'_>) -> String {
    let mut all: Vec<_> = parameters.iter().filter(|(name, _)| *name != "sig").collect();
    all.sort_unstable();
    all.iter().fold(String::new(), |text, (name, value)| text + "&" + name + "=" + &value.replace(['&', '='], "_"))
}

/// Vonage goes on for a day to send what was not answered. Whether it signs it anew is not said, and the time is documented as that
/// when it began to send it; what comes again tells nothing new, so little is lost by trusting it that long.
const SENDS_FOR: i64 = 86_400;

/// <https://developer.vonage.com/en/getting-started/concepts/signing-messages>
pub(super) fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
    let Some(secret) = &settings.signature_secret else { return Verdict::Unsigned };
    let Ok(parameters) = Parameters::of(callback) else { return Verdict::Refused("the parameters can't be read") };
    let Some(signature) = parameters.get("sig").and_then(wire::unhex) else { return Verdict::Refused("there is no sig") };
    if !settings.signature_method.fits(secret.expose_secret().as_bytes(), signed(&parameters).as_bytes(), &signature) {
        return Verdict::Refused("the signature does not fit");
    }
    let age = parameters.get("timestamp").and_then(|text| text.parse::<i64>().ok()).map(|at| proof.now.seconds().saturating_sub(at));
    match age {
        Some(age) if (-SKEW..=SENDS_FOR + SKEW).contains(&age) => Verdict::Genuine { once: None },
        Some(_) => Verdict::Refused("the signature is too old, or of the future"),
        None => Verdict::Refused("there is no signed timestamp"),
    }
}

pub(super) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let parameters = Parameters::of(callback)?;
    let payload = callback.raw();
    let Some(id) = parameters.get("messageId") else { return Err(Unreadable::new("there is no messageId")) };
    if let Some(status) = parameters.get("status") {
        return report(&parameters, id, status, payload).map(|report| report.into_iter().map(Told::Report).collect());
    }
    match (parameters.get("msisdn"), parameters.get("type")) {
        (Some(from), Some("text" | "unicode" | "binary")) => Ok(vec![Told::Inbound(Inbound {
            provider_message_id: id.to_owned(),
            from: wire::with_plus(from),
            to: parameters.get("to").map(wire::with_plus).unwrap_or_default(),
            // A part of a longer message is a message of its own: the others may have come already, or never come.
            text: parameters.get("text").unwrap_or_default().to_owned(),
            media: Vec::new(),
            at: parameters.get("message-timestamp").and_then(wire::utc),
            // Its `keyword` is whatever the first word is.
            keyword: None,
            in_reply_to: None,
            payload,
        })]),
        _ => Err(Unreadable::new("it is no delivery receipt and no inbound message")),
    }
}

fn report(parameters: &Parameters<'_>, id: &str, status: &str, payload: String) -> Result<Option<Report>, Unreadable> {
    let (happened, code) = match status {
        "accepted" | "buffered" => (Happened::Sent, None),
        "delivered" => (Happened::Delivered, None),
        "failed" => (Happened::Failed, Some("undelivered")),
        "rejected" => (Happened::Failed, Some("rejected")),
        "expired" => (Happened::Failed, Some("expired")),
        // What became of it can't be told.
        "unknown" => return Ok(None),
        _ => return Err(Unreadable::new("the status is none of the documented ones")),
    };
    let error = parameters.get("err-code").unwrap_or_default();
    let mut report = Report::new(happened, format!("{id} {status} {error}"), payload);
    report.message = parameters.get("client-ref").and_then(MessageId::parse);
    report.provider_message_id = wire::id(id);
    report.recipient = parameters.get("msisdn").map(wire::with_plus);
    report.at = parameters.get("message-timestamp").and_then(wire::utc);
    // These say nothing more.
    let bare = matches!(error, "" | "0" | "1" | "99");
    report.code = code.map(|code| wire::ours(ERRORS, &error).unwrap_or(if bare { code } else { error }).to_owned());
    report.detail = code.map(|_| format!("Vonage {status}, error {}", if error.is_empty() { "none" } else { error }));
    Ok(Some(report))
}

/// What `err-code` means. <https://api.support.vonage.com/hc/en-us/articles/204014733>
const ERRORS: &[(&str, &str)] = &[
    ("2", "unreachable"),
    ("3", "unknown_recipient"),
    ("4", "blocked"),
    ("5", "no_route"),
    ("6", "filtered"),
    ("7", "unreachable"),
    ("8", "gateway_error"),
    // Named after the number, but it means that the recipient asked for no more: opted out of this sender.
    ("9", "recipient_opted_out"),
    ("10", "invalid_message"),
    ("11", "no_route"),
    ("12", "no_route"),
    ("13", "blocked"),
    ("14", "blocked"),
    // The recipient's own credit.
    ("15", "unreachable"),
    ("16", "rate_limited"),
    ("50", "filtered"),
    ("51", "filtered"),
    ("52", "filtered"),
    ("53", "filtered"),
    ("54", "rejected_by_policy"),
];
