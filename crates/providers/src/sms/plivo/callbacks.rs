//! What Plivo tells afterwards: delivery reports and inbound messages.
//! <https://www.plivo.com/docs/messaging/api/message/message-status-callbacks>

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use secrecy::ExposeSecret;

use super::Settings;
use crate::{
    Callback, Callbacks, Road, Told, Unreadable, Verdict,
    callback::{Happened, Inbound, Proof, Report},
    wire,
};

pub(super) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "signed with the auth token",
    setup: "Nothing for reports: the URL travels with each message. For inbound messages, in the console under Messaging, Applications: \
        make an XML application with the URL as its Message URL (POST), and give it to the number.",
    by_id: false,
    road: Road::Url,
    answer: "",
};

/// The signatures, newest first. An account that signs in the third way is not believed in the second, which covers less.
/// <https://www.plivo.com/docs/messaging/concepts/signature-validation>
pub(super) fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
    let key = hmac::Key::new(hmac::HMAC_SHA256, settings.auth_token.expose_secret().as_bytes());
    let fits = |signed: &str, signatures: &str| {
        let each = signatures.split(',').filter_map(|text| STANDARD.decode(text.trim()).ok());
        each.into_iter().any(|signature| hmac::verify(&key, signed.as_bytes(), &signature).is_ok())
    };
    let urls = wire::with_and_without_port(proof.url);
    // The second way covers neither query nor body, so what it stands for is taken once.
    let once = callback.header("x-plivo-signature-v2-nonce");
    // The second of these is signed with the main account's token, where a subaccount sends.
    let third = ["x-plivo-signature-v3", "x-plivo-signature-ma-v3"].into_iter().filter_map(|name| callback.header(name));
    let mut third = third.peekable();
    if third.peek().is_some() {
        let Some(nonce) = callback.header("x-plivo-signature-v3-nonce") else {
            return Verdict::Refused("there is no X-Plivo-Signature-V3-Nonce");
        };
        if !callback.body.is_empty() && callback.form().next().is_none() {
            return Verdict::Refused("the body is no form, which the signature does not cover");
        }
        let bases: Vec<_> = urls.iter().map(|url| format!("{}.{nonce}", third_base(url, callback))).collect();
        if third.any(|signatures| bases.iter().any(|base| fits(base, signatures))) {
            // Whoever saw it could take the third signature away, and show the second one again.
            return Verdict::Genuine { once: once.map(str::to_owned) };
        }
        return Verdict::Refused("the signature does not fit");
    }
    let (Some(signatures), Some(nonce)) = (callback.header("x-plivo-signature-v2"), once) else {
        return Verdict::Refused("there is no X-Plivo-Signature-V3 or V2");
    };
    let path = |url: &str| url.split('?').next().unwrap_or_default().to_owned();
    if urls.iter().any(|url| fits(&format!("{}{nonce}", path(url)), signatures)) {
        return Verdict::Genuine { once: Some(nonce.to_owned()) };
    }
    Verdict::Refused("the signature does not fit")
}

/// The URL with its parameters in order, and then those of the form, as the third way to sign joins them.
fn third_base(url: &str, callback: &Callback<'_>) -> String {
    let mut query: Vec<_> = callback.query().collect();
    query.sort_unstable();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut form: Vec<_> = if callback.method == Method::GET { Vec::new() } else { callback.form().collect() };
    form.sort_unstable();
    let form: String = form.iter().map(|(name, value)| format!("{name}{value}")).collect();
    let url = url.split('?').next().unwrap_or_default();
    match (query.is_empty(), form.is_empty()) {
        (true, true) => url.to_owned(),
        (false, true) => format!("{url}?{}", query.join("&")),
        (true, false) => format!("{url}?{form}"),
        (false, false) => format!("{url}?{}.{form}", query.join("&")),
    }
}

pub(super) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    // Nothing but what a signature covers.
    let parameters: Vec<_> = callback.form().chain(callback.query()).filter(|(_, value)| !value.is_empty()).collect();
    // Their names were written in other letters at times.
    let field = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value);
    let Some(id) = field("MessageUUID") else { return Err(Unreadable::new("there is no MessageUUID")) };
    let payload = callback.raw();
    let Some(status) = field("Status") else {
        let media: Vec<_> = parameters.iter().filter(|(name, _)| is_media(name)).map(|(_, url)| url.to_string()).collect();
        let (Some(from), true) = (field("From"), field("Text").is_some() || !media.is_empty()) else {
            return Err(Unreadable::new("it is no delivery report and no inbound message"));
        };
        return Ok(vec![Told::Inbound(Inbound {
            provider_message_id: id.to_owned(),
            from: wire::with_plus(from),
            to: field("To").map(wire::with_plus).unwrap_or_default(),
            text: field("Text").unwrap_or_default().to_owned(),
            media,
            at: None,
            keyword: None,
            in_reply_to: None,
            payload,
        })]);
    };
    let status = status.to_lowercase();
    let error = field("ErrorCode").unwrap_or_default().trim_start_matches('0');
    let report = |happened, code: Option<&str>| {
        let mut report = Report::new(happened, format!("{id} {status} {error}"), payload.clone());
        report.message = callback.message();
        // Each part of a longer message has an id of its own, and names the message's.
        report.provider_message_id = field("ParentMessageUUID").or(Some(id)).and_then(wire::id);
        report.recipient = field("To").map(wire::with_plus);
        report.segments = field("Units").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
        let ours = error.parse().ok().and_then(|number: u64| wire::ours(ERRORS, &number));
        report.code = code.map(|code| ours.unwrap_or(if error.is_empty() { code } else { error }).to_owned());
        report.detail = code.map(|_| format!("Plivo {status}, error {}", if error.is_empty() { "none" } else { error }));
        Told::Report(report)
    };
    Ok(match status.as_str() {
        "queued" => Vec::new(),
        "sent" => vec![report(Happened::Sent, None)],
        "delivered" => vec![report(Happened::Delivered, None)],
        // Whoever has read it has got it.
        "read" => vec![report(Happened::Delivered, None), report(Happened::Opened, None)],
        "undelivered" | "failed" => vec![report(Happened::Failed, Some("undelivered"))],
        "rejected" => vec![report(Happened::Failed, Some("rejected"))],
        _ => return Err(Unreadable::new("the Status is none of the documented ones")),
    })
}

/// `Media0` and so on.
fn is_media(name: &str) -> bool {
    name.strip_prefix("Media").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// What `ErrorCode` means. <https://plivo.com/docs/messaging/troubleshooting/error-codes>
const ERRORS: &[(u64, &str)] = &[
    (10, "invalid_message"),
    (20, "gateway_error"),
    (30, "filtered"),
    (40, "invalid_sender"),
    (50, "invalid_recipient"),
    // The same message went to and fro.
    (60, "filtered"),
    (70, "unknown_recipient"),
    (80, "unreachable"),
    (90, "no_route"),
    (100, "blocked"),
    (110, "body_too_long"),
    // The recipient answered STOP to this sender.
    (200, "recipient_opted_out"),
    (300, "provider_error"),
    (420, "expired"),
    (900, "insufficient_balance"),
    (910, "account_suspended"),
    (1000, "unknown_error"),
];
