//! Resend: <https://resend.com/docs/api-reference/emails/send-email>.
//!
//! Our id is the idempotency key, which Resend keeps for 24 hours: a repeated request sends nothing again.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::{Happened, Proof, Report, Wish},
    email::{
        self, Mail, encoded_words,
        events::{self, HARD, SOFT, SUPPRESSED, failed, needed, text, well},
        quoted, refused,
    },
    wire::{self, BUSY, RETRY, Word},
};

const BASE: &str = "https://api.resend.com";

/// The adapter.
#[derive(Debug)]
pub struct Resend;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    api_key: SecretString,
    #[serde(default, deserialize_with = "webhook_secret")]
    webhook_secret: Option<hmac::Key>,
}

/// A secret as Svix writes it: base64 after `whsec_`.
fn webhook_secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<hmac::Key>, D::Error> {
    let given = SecretString::deserialize(from)?;
    let given = given.expose_secret();
    let key = STANDARD.decode(given.strip_prefix("whsec_").unwrap_or(given)).map(Zeroizing::new).ok().filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| D::Error::custom("secretConfig.webhook_secret must be 'whsec_' and base64 after it"))?;
    Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, &key)))
}

impl HttpProvider for Resend {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "resend",
        name: "Resend",
        channel: Channel::Email,
        docs_url: "https://resend.com/docs/api-reference/emails/send-email",
        base_url: Some(BASE),
        features: email::FEATURES,
        callbacks: Some(Callbacks {
            authenticity: "signed in the way of Svix (Standard Webhooks) with the webhook's signing secret; without \
                `webhook_secret` the token in the URL stands for it",
            setup: "In the dashboard under Webhooks, Add Webhook: put the URL there, pick all email events, contact.updated, \
                suppression.added and suppression.removed, and give the signing secret that is shown then as webhook_secret.",
            by_id: false,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::secret("api_key", "API key", Kind::Token(256), "An API key, from API Keys in the dashboard; sending access is enough.")
                .required(),
            Field::secret(
                "webhook_secret",
                "Signing secret of the webhook",
                Kind::Token(256),
                "What callbacks are checked with: begins with whsec_, and is shown on the webhook's page in the dashboard.",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        let files = mail.content.attachments.iter().map(|f| {
            wire::filled(json!({
                "filename": f.filename,
                "content_type": f.content_type,
                "content": f.content,
                "content_id": f.content_id,
            }))
        });
        let tags = mail.pairs().into_iter().map(|(name, value)| json!({"name": name, "value": value}));
        let body = wire::filled(json!({
            "from": sender(&mail.from)?,
            "to": [mailbox(&mail.to)],
            "cc": list(&mail.cc),
            "bcc": list(&mail.bcc),
            "reply_to": mail.reply_to.as_ref().map(|m| [mailbox(m)]),
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
            "headers": mail.content.headers,
            "attachments": files.collect::<Vec<_>>(),
            "tags": tags.collect::<Vec<_>>(),
        }));
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let mut request =
            wire::json_post(&format!("{base}/emails"), &body, (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret())));
        let key = HeaderValue::from_str(&mail.id.to_string()).map_err(|_| refused("invalid_message", "the message's id is no header"))?;
        request.headers_mut().insert(HeaderName::from_static("idempotency-key"), key);
        Ok(request)
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        Some(wire::get(&format!("{base}/domains"), (header::AUTHORIZATION, &wire::bearer(settings.api_key.expose_secret()))))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        // A key that may only send may not list domains; only a good key is told so.
        if response.status().is_success() || answer["name"] == "restricted_api_key" {
            return Ok(());
        }
        Err(refusal(response, &answer))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["id"].as_str().filter(|_| response.status().is_success()).and_then(wire::id) {
            Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
            None => Err(refusal(response, &answer)),
        }
    }

    // <https://docs.svix.com/receiving/verifying-payloads/how-manual>. Every attempt is signed anew, under the id of the first.
    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        let Some(key) = &settings.webhook_secret else { return Verdict::Unsigned };
        let header = |svix, standard| callback.header(svix).or_else(|| callback.header(standard));
        let (Some(id), Some(time), Some(signatures)) =
            (header("svix-id", "webhook-id"), header("svix-timestamp", "webhook-timestamp"), header("svix-signature", "webhook-signature"))
        else {
            return Verdict::Refused("there is no signature");
        };
        if !events::signed_at(time).is_some_and(|signed| events::fresh(signed, proof.now, events::SKEW)) {
            return Verdict::Refused("the signature is not of these minutes");
        }
        let signed = [format!("{id}.{time}.").as_bytes(), callback.body].concat();
        // One for each secret, while secrets are exchanged.
        let fits = signatures.split(' ').filter_map(|each| each.strip_prefix("v1,")).any(|each| {
            let signature = STANDARD.decode(each);
            signature.is_ok_and(|signature| hmac::verify(key, &signed, &signature).is_ok())
        });
        if fits { Verdict::Genuine { once: None } } else { Verdict::Refused("the signature does not fit") }
    }

    // <https://resend.com/docs/webhooks/event-types>
    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let id = callback.header("svix-id").or_else(|| callback.header("webhook-id"));
        events::each(callback.body, |event, raw| {
            let (kind, data) = (needed(event, "type")?, &event["data"]);
            let (what, detail) = match kind {
                "email.sent" => (well(Happened::Sent), None),
                "email.delivered" => (well(Happened::Delivered), None),
                "email.delivery_delayed" => (well(Happened::Delayed), None),
                "email.complained" => (well(Happened::Complained), None),
                "email.opened" => (well(Happened::Opened), None),
                "email.clicked" => (well(Happened::Clicked), None),
                "email.bounced" => (bounce(data)?, text(&data["bounce"]["message"])),
                "email.suppressed" => (SUPPRESSED, text(&data["suppressed"]["message"])),
                "email.failed" => {
                    let reason = text(&data["failed"]["reason"]);
                    let quota = reason.is_some_and(|reason| reason.contains("quota"));
                    (failed(if quota { "quota_exceeded" } else { "rejected" }), reason)
                }
                "contact.created" | "contact.updated" if data["unsubscribed"] == true => return wish(event, false).map(Some),
                // The bounce or the complaint itself is told.
                "suppression.added" if !matches!(text(&data["origin"]), Some("bounce" | "complaint")) => {
                    return wish(event, false).map(Some);
                }
                "suppression.removed" => return wish(event, true).map(Some),
                "email.scheduled" | "email.received" | "contact.created" | "contact.updated" | "contact.deleted" | "suppression.added"
                | "domain.created" | "domain.updated" | "domain.deleted" => return Ok(Some(Vec::new())),
                _ => return Ok(None),
            };
            let email = needed(data, "email_id")?;
            let everybody = recipients(data);
            // Nothing says whose it was: nobody's address may be given up for another's.
            let what = match what {
                HARD if everybody.len() > 1 => SOFT,
                (Happened::HardBounced, code) if everybody.len() > 1 => (Happened::SoftBounced, code),
                what => what,
            };
            let key = id.map_or_else(|| format!("{kind} {email} {}", text(&event["created_at"]).unwrap_or_default()), str::to_owned);
            Ok(Some(vec![Told::Report(Report {
                message: tag(&data["tags"]).and_then(events::reference),
                provider_message_id: wire::id(email),
                recipient: everybody.first().filter(|_| everybody.len() == 1).map(|one| (*one).to_owned()),
                at: text(&event["created_at"]).and_then(wire::utc),
                ..events::report(Self::SPEC.name, what, key, raw, &[detail])
            })]))
        })
    }
}

/// Our id among the tags, which went out as a list and come back as an object.
fn tag(tags: &Value) -> Option<&Value> {
    match tags {
        Value::Array(list) => list.iter().find(|tag| tag["name"] == email::REFERENCE).map(|tag| &tag["value"]),
        tags => tags.get(email::REFERENCE),
    }
}

/// All whom the message went to.
fn recipients(data: &Value) -> Vec<&str> {
    ["to", "cc", "bcc"].iter().filter_map(|field| data[*field].as_array()).flatten().filter_map(text).collect()
}

/// What a bounce means: types are those of Amazon SES, which is behind Resend. Older ones have words alone.
fn bounce(data: &Value) -> Result<(Happened, Option<&'static str>), Unreadable> {
    let (bounce, held) = (&data["bounce"], (Happened::HardBounced, Some("recipient_suppressed")));
    match (text(&bounce["type"]), text(&bounce["subType"])) {
        (Some("Permanent"), Some("Suppressed" | "OnAccountSuppressionList")) => Ok(held),
        (Some("Permanent"), _) => Ok(HARD),
        (Some("Transient" | "Undetermined" | "Temporary"), _) => Ok(SOFT),
        (Some(_), _) => Err(Unreadable::new("the type of the bounce is none of the documented ones")),
        (None, _) => {
            let words = text(&bounce["message"]).unwrap_or_default();
            Ok(if words.contains("suppressed") {
                held
            } else if words.contains("hard bounce") {
                HARD
            } else {
                SOFT
            })
        }
    }
}

/// What an address of the tenant's lists wants.
fn wish(event: &Value, wants: bool) -> Result<Vec<Told>, Unreadable> {
    Ok(vec![Told::Wish(Wish {
        recipient: needed(&event["data"], "email")?.to_owned(),
        wants,
        at: text(&event["created_at"]).and_then(wire::utc),
        detail: text(&event["type"]).map(|kind| format!("{}: {kind}", Resend::SPEC.name)),
    })])
}

/// What resets at night or with the month is not asked for again at once.
const NOT_SOON: Class = Class::RateLimited { after: Some(Duration::from_secs(3600)) };

/// Outcomes by `name`. <https://resend.com/docs/api-reference/errors>
const NAMES: &[Word] = &[
    ("validation_error", Class::Rejected, "invalid_message"),
    ("missing_api_key", Class::Credentials, "invalid_credentials"),
    ("invalid_api_key", Class::Credentials, "invalid_credentials"),
    ("restricted_api_key", Class::Credentials, "permission_denied"),
    // An earlier attempt under the same key was carried out, and asked for something a little different (the sender's name in
    // the settings, say). Most likely the message is out.
    ("invalid_idempotent_request", Class::Unknown, "sent_before"),
    ("concurrent_idempotent_requests", RETRY, "concurrent_request"),
    ("invalid_attachment", Class::Rejected, "invalid_attachment"),
    ("invalid_from_address", Class::Rejected, "invalid_sender"),
    ("invalid_parameter", Class::Rejected, "invalid_message"),
    ("missing_required_field", Class::Rejected, "invalid_message"),
    ("rate_limit_exceeded", BUSY, "rate_limited"),
    ("daily_quota_exceeded", NOT_SOON, "quota_exceeded"),
    ("monthly_quota_exceeded", NOT_SOON, "quota_exceeded"),
    ("security_error", Class::Rejected, "rejected_by_policy"),
    ("application_error", RETRY, "provider_error"),
    ("internal_server_error", RETRY, "provider_error"),
];

/// What a wrong field is, by the words of the message.
const PHRASES: &[Word] = &[
    ("API key is invalid", Class::Credentials, "invalid_credentials"),
    ("is not verified", Class::Rejected, "invalid_sender"),
    ("testing emails", Class::Rejected, "recipient_not_verified"),
    ("`from`", Class::Rejected, "invalid_sender"),
    ("`to`", Class::Rejected, "invalid_recipient"),
    ("`cc`", Class::Rejected, "invalid_recipient"),
    ("`bcc`", Class::Rejected, "invalid_recipient"),
    ("`reply_to`", Class::Rejected, "invalid_reply_to"),
];

fn refusal(response: &Response<Bytes>, answer: &Value) -> SendError {
    let (status, name, detail) = (response.status(), answer["name"].as_str().unwrap_or_default(), answer["message"].as_str());
    // A gateway's timeout stays what it is, whatever it says.
    let known = wire::word(NAMES, name).filter(|_| !status.is_success() && status != StatusCode::GATEWAY_TIMEOUT);
    let Some(line) = known else {
        return wire::by_status("Resend", status, response.headers(), None, Some(&wire::said(name, detail)));
    };
    let line = match wire::phrase(PHRASES, detail.unwrap_or_default()) {
        Some(better) if line.2 == "invalid_message" => better,
        _ => line,
    };
    // Its retry-after is that of the limit per second, which says nothing of a quota.
    let wait = wire::retry_after(response.headers()).filter(|_| line.1 != NOT_SOON);
    wire::refusal("Resend", (line.1, line.2), wait, name, detail.unwrap_or_default())
}

/// `Name <address>`. Resend refuses quotes; elsewhere than in `from`, encoded words do instead.
fn mailbox(mailbox: &Mailbox<'_>) -> String {
    match &mailbox.name {
        None => mailbox.email.to_string(),
        Some(name) if quoted(name) => format!("{} <{}>", encoded_words(name), mailbox.email),
        Some(name) => format!("{name} <{}>", mailbox.email),
    }
}

/// Resend takes neither quotes nor encoded words in `from`. A full stop is let through as it is.
fn sender(from: &Mailbox<'_>) -> Result<String, SendError> {
    match &from.name {
        None => Ok(from.email.to_string()),
        Some(name) if quoted(&name.replace('.', "")) => {
            Err(refused("invalid_sender", "Resend takes no sender's name with one of ()<>[]:;@\\,\" in it"))
        }
        Some(name) => Ok(format!("{name} <{}>", from.email)),
    }
}
