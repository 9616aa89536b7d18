//! Postmark: <https://postmarkapp.com/developer/api/email-api>.
//!
//! There is no idempotency key. Our id travels in `Metadata`, which callbacks repeat. A message has one tag: the first.

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use raven_core::{Channel, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable,
    callback::{Happened, Report, Wish},
    email::{
        self, Mail,
        events::{self, HARD, SOFT, SUPPRESSED, failed, needed, text, well},
        written,
    },
    wire::{self, BUSY, RETRY, Row, row},
};

const BASE: &str = "https://api.postmarkapp.com";

/// The adapter.
#[derive(Debug)]
pub struct Postmark;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    message_stream: Option<String>,
    server_token: SecretString,
}

impl Settings {
    fn auth(&self) -> wire::Auth<'_> {
        (HeaderName::from_static("x-postmark-server-token"), self.server_token.expose_secret())
    }
}

impl HttpProvider for Postmark {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "postmark",
        name: "Postmark",
        channel: Channel::Email,
        docs_url: "https://postmarkapp.com/developer/api/email-api",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: Some(Callbacks {
            authenticity: "not signed: the token in the URL stands for it",
            setup: "In the server, under the message stream's Webhooks, Add webhook: put the URL there, and tick Delivery, Bounce, Spam \
                complaint and Subscription change; Open and Link click too, if they are tracked. Leave the content of messages out.",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::public(
                "message_stream",
                "Message stream",
                Kind::Token(64),
                "The id of the stream that messages are sent through; `outbound`, for transactional messages, by default.",
            ),
            Field::secret(
                "server_token",
                "Server token",
                Kind::Token(128),
                "A token of the server, from its API Tokens page. `POSTMARK_API_TEST` checks messages and sends none.",
            )
            .required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| Some(mailboxes.iter().map(written).collect::<Vec<_>>().join(", ")).filter(|l| !l.is_empty());
        let headers: Vec<_> = mail.content.headers.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect();
        let files = mail.content.attachments.iter().map(|f| {
            wire::filled(json!({
                "Name": f.filename,
                "ContentType": f.content_type,
                "Content": f.content,
                "ContentID": f.content_id.as_ref().map(|id| format!("cid:{id}")),
            }))
        });
        let body = wire::filled(json!({
            "From": written(&mail.from),
            "To": written(&mail.to),
            "Cc": list(&mail.cc),
            "Bcc": list(&mail.bcc),
            "ReplyTo": mail.reply_to.as_ref().map(written),
            "Subject": mail.subject,
            "TextBody": mail.text,
            "HtmlBody": mail.html,
            "Tag": mail.content.tags.first(),
            "Metadata": metadata(&mail),
            "Headers": headers,
            "Attachments": files.collect::<Vec<_>>(),
            "MessageStream": settings.message_stream.as_deref().unwrap_or("outbound"),
        }));
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Ok(wire::json_post(&format!("{base}/email"), &body, settings.auth()))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/server"), settings.auth()))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        if response.status().is_success() { Ok(()) } else { Err(refusal(response, &answer(response))) }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let answer = answer(response);
        // During delays of theirs the code is left out. Some of several recipients may be inactive: the others are served.
        let good = response.status().is_success() && matches!(wire::code(&answer["ErrorCode"]), None | Some(0));
        match answer["MessageID"].as_str().and_then(wire::id) {
            Some(id) if good => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
            _ => Err(refusal(response, &answer)),
        }
    }

    // <https://postmarkapp.com/developer/webhooks/webhooks-overview>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        events::each(callback.body, |event, raw| {
            // A mail that came in has no type. What people write by mail is read elsewhere.
            if event["RecordType"].is_null() && event["FromFull"].is_object() {
                return Ok(Some(Vec::new()));
            }
            let kind = needed(event, "RecordType")?;
            let (what, at, address) = match kind {
                "Delivery" => (well(Happened::Delivered), "DeliveredAt", "Recipient"),
                "Open" => (well(Happened::Opened), "ReceivedAt", "Recipient"),
                "Click" => (well(Happened::Clicked), "ReceivedAt", "Recipient"),
                "Bounce" | "SpamComplaint" => match bounce(event)? {
                    Some(what) => (what, "BouncedAt", "Email"),
                    None => return Ok(Some(Vec::new())),
                },
                "SubscriptionChange" => return subscription(event, raw).map(Some),
                _ => return Ok(None),
            };
            let key = match wire::code(&event["ID"]) {
                Some(id) => id.to_string(),
                None => key(event, kind, at),
            };
            let details = [text(&event["Name"]), text(&event["Description"]), text(&event["Details"])];
            Ok(Some(vec![Told::Report(Report {
                at: text(&event[at]).and_then(wire::utc),
                recipient: text(&event[address]).map(str::to_owned),
                ..named(event, events::report(Self::SPEC.name, what, key, raw, &details))
            })]))
        })
    }
}

/// The id that stands where there is no message.
const NO_MESSAGE: &str = "00000000-0000-0000-0000-000000000000";

/// Which message it is about.
fn named(event: &Value, report: Report) -> Report {
    let id = text(&event["MessageID"]).filter(|id| *id != NO_MESSAGE);
    Report { message: events::reference(&event["Metadata"][email::REFERENCE]), provider_message_id: id.and_then(wire::id), ..report }
}

/// For events without an id of their own.
fn key(event: &Value, kind: &str, at: &str) -> String {
    let part = |name: &str| text(&event[name]).unwrap_or_default();
    format!("{kind} {} {} {} {}", part("MessageID"), part("Recipient"), part(at), part("OriginalLink")).trim_end().to_owned()
}

/// What a bounce means, by its `Type`; nothing where it is an answer of a machine.
/// <https://postmarkapp.com/developer/api/bounce-api#bounce-types>
fn bounce(event: &Value) -> Result<Option<(Happened, Option<&'static str>)>, Unreadable> {
    let what = match needed(event, "Type")? {
        "SpamComplaint" | "SpamNotification" => well(Happened::Complained),
        "Unsubscribe" => well(Happened::Unsubscribed),
        "Subscribe" | "AutoResponder" | "AddressChange" | "ChallengeVerification" | "InboundError" => return Ok(None),
        "HardBounce" | "BadEmailAddress" => HARD,
        "ManuallyDeactivated" => SUPPRESSED,
        // The rest is no fault of the address, unless Postmark itself sends nothing more there.
        _ if event["Inactive"] == true => HARD,
        "Transient" => well(Happened::Delayed),
        "SoftBounce" | "DnsError" | "OpenRelayTest" | "Unknown" | "Unconfirmed" | "Blocked" | "DMARCPolicy" => SOFT,
        "VirusNotification" => failed("rejected_by_policy"),
        "SMTPApiError" | "TemplateRenderingFailed" => failed("invalid_message"),
        _ => return Err(Unreadable::new("the Type of the bounce is none of the documented ones")),
    };
    Ok(Some(what))
}

/// Nothing more is sent to an address, or it is again.
fn subscription(event: &Value, raw: &str) -> Result<Vec<Told>, Unreadable> {
    let recipient = needed(event, "Recipient")?.to_owned();
    let Some(suppressed) = event["SuppressSending"].as_bool() else {
        return Err(Unreadable::new("it does not say whether anything is sent"));
    };
    let (reason, at) = (text(&event["SuppressionReason"]), text(&event["ChangedAt"]).and_then(wire::utc));
    let by_recipient = text(&event["Origin"]) == Some("Recipient");
    let report = named(event, Report::new(Happened::Unsubscribed, key(event, "SubscriptionChange", "ChangedAt"), raw));
    let of_a_message = report.message.is_some() || report.provider_message_id.is_some();
    Ok(match reason {
        // The bounce or the complaint itself was told.
        Some("HardBounce" | "SpamComplaint") if suppressed && of_a_message => Vec::new(),
        Some("ManualSuppression") if suppressed && of_a_message && by_recipient => {
            vec![Told::Report(Report { at, recipient: Some(recipient), ..report })]
        }
        _ => {
            let detail = reason.map(|reason| format!("{}: {reason}", Postmark::SPEC.name));
            vec![Told::Wish(Wish { recipient, wants: !suppressed, at, detail })]
        }
    })
}

/// Outcomes by `ErrorCode`. <https://postmarkapp.com/developer/api/overview#error-codes>
const CODES: &[Row] = &[
    row(10, Class::Credentials, "invalid_credentials"),
    row(100, RETRY, "provider_unavailable"),
    row(300, Class::Rejected, "invalid_message"),
    row(400, Class::Rejected, "invalid_sender"),
    row(401, Class::Rejected, "invalid_sender"),
    row(402, Class::Rejected, "invalid_message"),
    row(403, Class::Rejected, "invalid_message"),
    // Everything fails until credits are bought, which may happen in time.
    row(405, RETRY, "insufficient_balance"),
    // It bounced hard, complained or was suppressed by hand before.
    row(406, Class::Rejected, "recipient_suppressed"),
    row(409, Class::Rejected, "invalid_message"),
    row(411, Class::Rejected, "unsupported_attachment"),
    // Until the account is approved, recipients must be at the sender's domain.
    row(412, Class::Rejected, "recipient_not_verified"),
    row(413, Class::Credentials, "account_not_active"),
    row(429, BUSY, "rate_limited"),
];

fn answer(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap_or_default()
}

fn refusal(response: &Response<Bytes>, answer: &Value) -> SendError {
    let (code, detail) = (wire::code(&answer["ErrorCode"]), answer["Message"].as_str().unwrap_or_default());
    let wait = wire::retry_after(response.headers());
    if let Some(row) = CODES.iter().find(|r| Some(r.code) == code) {
        let ours = match row.code {
            300 if detail.contains("'To'") || detail.contains("'Cc'") || detail.contains("'Bcc'") => "invalid_recipient",
            300 if detail.contains("'From'") => "invalid_sender",
            _ => row.ours,
        };
        return wire::refusal("Postmark", (row.class, ours), wait, &row.code.to_string(), detail);
    }
    match (response.status(), code) {
        // Its own refusals have a code: this one is of the network before it, and nothing was sent.
        (StatusCode::FORBIDDEN, None) => wire::refusal("Postmark", (RETRY, "blocked_on_the_way"), wait, "", "HTTP 403 without a code"),
        (StatusCode::PAYLOAD_TOO_LARGE, None) => {
            wire::refusal("Postmark", (Class::Rejected, "message_too_large"), wait, "", "HTTP 413: a message has at most 10 MB")
        }
        // A code that nobody knows, in an answer that claims success: it refused.
        (status, Some(code @ 1..)) if status.is_success() => {
            wire::refusal("Postmark", (Class::Rejected, "rejected"), wait, &code.to_string(), detail)
        }
        (status, code) => wire::by_status("Postmark", status, response.headers(), code.filter(|c| *c > 0), Some(detail)),
    }
}

/// Postmark takes 10 fields of at most 20 characters each, with values of at most 80, and refuses the message for more. What
/// does not fit stays with Raven.
fn metadata(mail: &Mail<'_>) -> Map<String, Value> {
    let fits = |pair: &(&String, &String)| pair.0.chars().count() <= 20 && pair.1.chars().count() <= 80 && pair.0 != email::REFERENCE;
    let own = mail.content.metadata.iter().filter(fits).take(9);
    let mut fields: Map<_, _> = own.map(|(name, value)| (name.clone(), value.clone().into())).collect();
    fields.insert(email::REFERENCE.to_owned(), mail.id.to_string().into());
    fields
}
