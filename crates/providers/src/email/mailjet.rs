//! Mailjet, Send API v3.1: <https://dev.mailjet.com/email/guides/send-api-v31/>.
//!
//! There is no idempotency key. Our id travels as `CustomID` and the metadata as `EventPayload`, which events repeat; the first
//! tag is the message's campaign. HTTP tells of the whole request: what became of the message stands with it.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable,
    callback::{Happened, Report},
    email::{
        self, Mail,
        events::{self, HARD, OPTED_OUT, SOFT, SUPPRESSED, failed, needed, text, well},
    },
    wire::{self, Word},
};

/// Two versions of the API are in use, so none is part of the base.
const BASE: &str = "https://api.mailjet.com";

/// The adapter.
#[derive(Debug)]
pub struct Mailjet;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    api_key: SecretString,
    api_secret: SecretString,
}

impl Settings {
    fn authorization(&self) -> Zeroizing<String> {
        wire::basic(self.api_key.expose_secret(), self.api_secret.expose_secret())
    }
}

impl HttpProvider for Mailjet {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "mailjet",
        name: "Mailjet",
        channel: Channel::Email,
        docs_url: "https://dev.mailjet.com/email/guides/send-api-v31/",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: Some(Callbacks {
            authenticity: "not signed: the token in the URL stands for it",
            setup: "In Account settings, Rest API, Event notifications (webhooks): put the URL beside each event, and tick Group events; \
                open and click only if they are tracked.",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::secret("api_key", "API key", Kind::Token(128), "The public half of a pair of keys, from API Key Management.").required(),
            Field::secret("api_secret", "Secret key", Kind::Token(128), "The private half of the pair. It is shown once only.").required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        let files = |inline: bool| {
            let files = mail.content.attachments.iter().filter(|f| f.content_id.is_some() == inline);
            let shown = files.map(|f| {
                wire::filled(json!({
                    "Filename": f.filename,
                    "ContentType": f.content_type,
                    "Base64Content": f.content,
                    "ContentID": f.content_id,
                }))
            });
            shown.collect::<Vec<_>>()
        };
        let payload = Some(json!(mail.content.metadata).to_string()).filter(|_| !mail.content.metadata.is_empty());
        let item = wire::filled(json!({
            "From": mailbox(&mail.from),
            "To": [mailbox(&mail.to)],
            "Cc": list(&mail.cc),
            "Bcc": list(&mail.bcc),
            "ReplyTo": mail.reply_to.as_ref().map(mailbox),
            "Subject": mail.subject,
            "TextPart": mail.text,
            "HTMLPart": mail.html,
            "Headers": mail.content.headers,
            "Attachments": files(false),
            "InlinedAttachments": files(true),
            "CustomID": mail.id.to_string(),
            "CustomCampaign": mail.content.tags.first(),
            "EventPayload": payload,
        }));
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let auth = settings.authorization();
        Ok(wire::json_post(&format!("{base}/v3.1/send"), &json!({"Messages": [item]}), (header::AUTHORIZATION, &auth)))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/v3/REST/apikey"), (header::AUTHORIZATION, &settings.authorization())))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let (status, headers) = (response.status(), response.headers());
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let message = &answer["Messages"][0];
        let success = status.is_success() && message["Status"] == "success";
        if let Some(id) = id(&message["To"][0]).filter(|_| success) {
            return Ok(Sent { provider_message_id: Some(id), ..Sent::default() });
        }
        // An error of the message, or of the whole request.
        let error = if message["Errors"][0].is_object() { &message["Errors"][0] } else { &answer };
        let (code, detail) = (error["ErrorCode"].as_str().unwrap_or_default(), error["ErrorMessage"].as_str());
        let refused = message["Status"] == "error" || error["ErrorMessage"].is_string() || !status.is_success();
        let line = match (code, error["StatusCode"].as_u64()) {
            ("mj-0001", Some(401)) => Some(&SUSPENDED),
            _ => wire::word(CODES, code),
        };
        if let Some(line) = line.filter(|_| refused && !status.is_server_error()) {
            let field = error["ErrorRelatedTo"][0].as_str().unwrap_or_default();
            let ours = match FIELDS.iter().find(|(start, _)| field.starts_with(start)) {
                Some((_, ours)) if line.2 == "invalid_message" => *ours,
                _ => line.2,
            };
            return Err(wire::refusal(Self::SPEC.name, (line.1, ours), wire::retry_after(headers), code, detail.unwrap_or_default()));
        }
        // The message's own status says more than that of the request.
        let own = error["StatusCode"].as_u64().and_then(|s| u16::try_from(s).ok()).and_then(|s| StatusCode::from_u16(s).ok());
        let own = own.filter(|s| refused && !s.is_success() && !s.is_informational() && !s.is_redirection());
        match own.unwrap_or(status) {
            // 200 for the request and "error" for the message, but nothing that tells why.
            status if status.is_success() && message["Status"] == "error" => {
                Err(wire::refusal(Self::SPEC.name, (Class::Rejected, "rejected"), None, code, detail.unwrap_or_default()))
            }
            status => Err(wire::by_status(Self::SPEC.name, status, headers, None, Some(&wire::said(code, detail)))),
        }
    }

    // <https://dev.mailjet.com/email/guides/webhooks/>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        events::each(callback.body, |event, raw| {
            // A mail that came in. What people write by mail is read elsewhere.
            if event["event"].is_null() && event["Sender"].is_string() && event["Recipient"].is_string() {
                return Ok(Some(Vec::new()));
            }
            let kind = needed(event, "event")?;
            let what = match kind {
                // To the recipient's server, that is.
                "sent" => well(Happened::Delivered),
                "open" => well(Happened::Opened),
                "click" => well(Happened::Clicked),
                "bounce" => bounce(event)?,
                "blocked" => blocked(text(&event["error"]).unwrap_or_default()),
                "spam" => well(Happened::Complained),
                "unsub" => well(Happened::Unsubscribed),
                _ => return Ok(None),
            };
            let (id, at) = (id(event), events::seconds(&event["time"]));
            let part = |name: &str| text(&event[name]).unwrap_or_default();
            let seconds = at.unwrap_or_default().seconds();
            let key = format!("{kind} {} {} {seconds} {}", id.as_deref().unwrap_or_default(), part("email"), part("url"));
            let details = [text(&event["error_related_to"]), text(&event["error"]), text(&event["comment"])];
            Ok(Some(vec![Told::Report(Report {
                message: events::reference(&event["CustomID"]),
                provider_message_id: id,
                recipient: text(&event["email"]).map(str::to_owned),
                at,
                ..events::report(Self::SPEC.name, what, key.trim_end().to_owned(), raw, &details)
            })]))
        })
    }
}

/// What a bounce means. Mailjet tries again where a server only wants to see it come back.
fn bounce(event: &Value) -> Result<(Happened, Option<&'static str>), Unreadable> {
    match event["hard_bounce"].as_bool().or_else(|| wire::code(&event["hard_bounce"]).map(|code| code == 1)) {
        Some(true) => Ok(HARD),
        Some(false) if event["error"] == "greylisted" => Ok(well(Happened::Delayed)),
        Some(false) => Ok(SOFT),
        None => Err(Unreadable::new("it does not say whether the bounce is hard")),
    }
}

/// Why Mailjet did not send it.
fn blocked(error: &str) -> (Happened, Option<&'static str>) {
    let known = BLOCKED.iter().find(|(word, _)| *word == error).map(|(_, what)| *what);
    known.unwrap_or(failed("rejected"))
}

/// By `error`. <https://dev.mailjet.com/email/guides/webhooks/#possible-values-for-errors>
const BLOCKED: &[(&str, (Happened, Option<&str>))] = &[
    ("user unknown", failed("unknown_recipient")),
    ("mailbox inactive", failed("mailbox_unavailable")),
    ("quota exceeded", failed("mailbox_full")),
    ("blacklisted", SUPPRESSED),
    ("spam reporter", OPTED_OUT),
    ("invalid domain", failed("invalid_recipient")),
    ("no mail host", failed("invalid_recipient")),
    ("typofix", failed("invalid_recipient")),
    ("sender blocked", failed("invalid_sender")),
    ("content blocked", failed("rejected_by_policy")),
    ("policy issue", failed("rejected_by_policy")),
    ("preblocked", SUPPRESSED),
];

/// With 401. With other statuses the same code means any error without a code of its own.
const SUSPENDED: Word = ("mj-0001", Class::Credentials, "account_suspended");

/// Outcomes by `ErrorCode`. <https://dev.mailjet.com/email/guides/send-api-v31/#send-api-errors>
const CODES: &[Word] = &[
    ("mj-0002", Class::Rejected, "invalid_message"),
    ("mj-0003", Class::Rejected, "invalid_message"),
    ("mj-0004", Class::Rejected, "invalid_message"),
    ("mj-0005", Class::Rejected, "invalid_message"),
    ("mj-0006", Class::Rejected, "invalid_message"),
    ("mj-0007", Class::Rejected, "invalid_message"),
    ("mj-0008", Class::Rejected, "invalid_message"),
    ("mj-0011", Class::Rejected, "message_too_large"),
    ("mj-0012", Class::Rejected, "invalid_message"),
    ("mj-0013", Class::Rejected, "invalid_message"),
    ("mj-0015", Class::Credentials, "invalid_credentials"),
    ("send-0003", Class::Rejected, "missing_body"),
    ("send-0006", Class::Rejected, "invalid_sender"),
    ("send-0007", Class::Rejected, "invalid_sender"),
    ("send-0008", Class::Rejected, "invalid_sender"),
    ("send-0011", Class::Rejected, "invalid_headers"),
    ("send-0015", Class::Rejected, "too_many_recipients"),
];

/// Codes of ours by the beginning of the field that an error is related to.
const FIELDS: &[(&str, &str)] = &[
    ("To", "invalid_recipient"),
    ("Cc", "invalid_recipient"),
    ("Bcc", "invalid_recipient"),
    ("From", "invalid_sender"),
    ("ReplyTo", "invalid_reply_to"),
    ("Attachments", "invalid_attachment"),
    ("InlinedAttachments", "invalid_attachment"),
    ("Headers", "invalid_headers"),
];

/// Its number as text: it is greater than what a JavaScript number holds.
fn id(recipient: &Value) -> Option<String> {
    let number = recipient["MessageID"].as_u64().filter(|id| *id > 0).map(|id| id.to_string());
    number.or_else(|| recipient["MessageID"].as_str().and_then(wire::id))
}

fn mailbox(mailbox: &Mailbox<'_>) -> Value {
    wire::filled(json!({"Email": mailbox.email.to_string(), "Name": mailbox.name}))
}
