//! What Meta tells afterwards, several things at once: statuses of messages, inbound messages, and who wants marketing messages.
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages>

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use http::Method;
use raven_core::{MessageId, Timestamp};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{HOST, Settings, known};
use crate::{
    Callback, Callbacks, Challenge, Road, Told, Unreadable, Verdict,
    callback::{Batch, Happened, Inbound, Report, Wish},
    wire,
};

pub(super) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "signed with the app secret, if one is given; else the token in the URL stands for it",
    setup: "In the app's dashboard under WhatsApp, Configuration: put the URL as the callback URL and the verify token of these settings \
        beside it, then subscribe to the field messages, and to user_preferences for those who stop marketing messages.",
    by_id: false,
    road: Road::Url,
    answer: "",
};

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/create-webhook-endpoint>
pub(super) fn authenticate(settings: &Settings, callback: &Callback<'_>) -> Verdict {
    let Some(secret) = &settings.app_secret else { return Verdict::Unsigned };
    let header = callback.header("x-hub-signature-256").and_then(|text| text.strip_prefix("sha256="));
    let Some(signature) = header.and_then(wire::unhex) else { return Verdict::Refused("there is no X-Hub-Signature-256") };
    match hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes()), callback.body, &signature) {
        Ok(()) => Verdict::Genuine { once: None },
        Err(_) => Verdict::Refused("the signature does not fit"),
    }
}

/// Meta asks for the URL when it is set up, shows the word that was put beside it, and wants its own number back.
pub(super) fn challenge(settings: &Settings, callback: &Callback<'_>) -> Option<Challenge> {
    let parameter = |name| callback.query().find(|(key, _)| key == name).map(|(_, value)| value);
    let mode = parameter("hub.mode").filter(|_| callback.method == Method::GET)?;
    let (word, number) = (parameter("hub.verify_token").unwrap_or_default(), parameter("hub.challenge").unwrap_or_default());
    let token = settings.verify_token.as_ref();
    let known = token.is_some_and(|token| verify_slices_are_equal(token.expose_secret().as_bytes(), word.as_bytes()).is_ok());
    // What is sent back is shown by whoever asked: nothing that a browser could take for more than a word.
    let plain = (1..=128).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_alphanumeric());
    Some(if known && mode == "subscribe" && plain { Challenge::Answer(number.into_owned()) } else { Challenge::Refused })
}

#[derive(Deserialize)]
struct Event {
    object: String,
    entry: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    field: String,
    value: Box<RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Changed {
    metadata: Metadata,
    statuses: Vec<Box<RawValue>>,
    messages: Vec<Box<RawValue>>,
    user_preferences: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    display_phone_number: String,
}

pub(super) fn read(settings: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let event: Event = callback.json()?;
    if event.object != "whatsapp_business_account" {
        return Err(Unreadable::new("it is not about a WhatsApp Business account"));
    }
    let mut batch = Batch::default();
    for change in event.entry.into_iter().flat_map(|entry| entry.changes) {
        if !matches!(change.field.as_str(), "messages" | "user_preferences") {
            // Of the account, its templates, its numbers: somebody subscribed to more than is of use here.
            batch.add(Some(Vec::new()));
            continue;
        }
        let changed: Changed = serde_json::from_str(change.value.get()).map_err(|_| Unreadable::new("a change is not as documented"))?;
        for raw in &changed.statuses {
            batch.add(report(raw.get(), &value(raw)?)?);
        }
        // Its number, however it is written.
        let to: String = changed.metadata.display_phone_number.chars().filter(char::is_ascii_digit).collect();
        for raw in &changed.messages {
            batch.add(inbound(settings, raw.get(), &value(raw)?, &wire::with_plus(&to))?);
        }
        for raw in &changed.user_preferences {
            batch.add(wish(&value(raw)?));
        }
    }
    batch.told()
}

fn value(raw: &RawValue) -> Result<Value, Unreadable> {
    serde_json::from_str(raw.get()).map_err(|_| Unreadable::new("a part of it is not the expected JSON"))
}

fn seconds(of: &Value) -> Option<Timestamp> {
    wire::code(of).and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000)).map(Timestamp::from_millis)
}

fn id(item: &Value) -> Result<String, Unreadable> {
    item["id"].as_str().and_then(wire::id).ok_or_else(|| Unreadable::new("a status or a message has no id"))
}

/// What a status tells; nothing, where it is none that is documented.
fn report(raw: &str, status: &Value) -> Result<Option<Vec<Told>>, Unreadable> {
    let (id, word) = (id(status)?, status["status"].as_str().unwrap_or_default());
    // Payments have statuses too, of the same names.
    if status["type"].as_str().is_some_and(|kind| kind != "message") {
        return Ok(Some(Vec::new()));
    }
    let error = &status["errors"][0];
    let code = wire::code(&error["code"]);
    let report = |happened| {
        let number = code.map(|code| format!(" {code}")).unwrap_or_default();
        let mut report = Report::new(happened, format!("{id} {word}{number}"), raw);
        report.message = status["biz_opaque_callback_data"].as_str().and_then(MessageId::parse);
        report.provider_message_id = Some(id.clone());
        report.recipient = status["recipient_id"].as_str().or(status["recipient_user_id"].as_str()).map(wire::with_plus);
        report.at = seconds(&status["timestamp"]);
        report
    };
    let failed = || {
        let texts = [&error["error_data"]["details"], &error["message"], &error["title"]];
        let detail = texts.into_iter().find_map(|text| text.as_str());
        let known = code.and_then(|code| known(code, detail));
        let mut report = report(Happened::Failed);
        report.code = Some(match (&known, code) {
            (Some(error), _) => error.code.clone(),
            (None, Some(code)) => code.to_string(),
            (None, None) => "undelivered".to_owned(),
        });
        let unknown = || code.map(|code| format!("WhatsApp {code}: {}", detail.unwrap_or("no reason given")));
        report.detail = known.map(|error| error.message).or_else(unknown);
        report
    };
    let reports = match word {
        "sent" => vec![report(Happened::Sent)],
        "delivered" => vec![report(Happened::Delivered)],
        // Whoever has read or heard it has got it: Meta does not always say so before.
        "read" | "played" => vec![report(Happened::Delivered), report(Happened::Opened)],
        "failed" => vec![failed()],
        // By its recipient, who had it.
        "deleted" => Vec::new(),
        _ => return Ok(None),
    };
    Ok(Some(reports.into_iter().map(Told::Report).collect()))
}

/// What a message tells; nothing, where it is of no kind that is documented.
fn inbound(settings: &Settings, raw: &str, message: &Value, to: &str) -> Result<Option<Vec<Told>>, Unreadable> {
    let id = id(message)?;
    let kind = message["type"].as_str().unwrap_or_default();
    let own = &message[kind];
    let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    let mut media = Vec::new();
    let text = match kind {
        "text" => text(&own["body"]),
        "image" | "video" | "audio" | "voice" | "document" | "sticker" => {
            let link = || own["id"].as_str().map(|id| format!("{HOST}/{}/{id}", settings.api_version));
            media.extend(own["url"].as_str().map(str::to_owned).or_else(link));
            text(&own["caption"])
        }
        "button" => text(&own["text"]),
        "interactive" => match own["type"].as_str() {
            Some(reply @ ("button_reply" | "list_reply")) => text(&own[reply]["title"]),
            // What was filled into a form.
            Some("nfm_reply") => text(&own["nfm_reply"]["response_json"]),
            _ => return Ok(None),
        },
        // One that was taken back has none.
        "reaction" if own["emoji"].as_str().is_none_or(str::is_empty) => return Ok(Some(Vec::new())),
        "reaction" => text(&own["emoji"]),
        "location" => place(own),
        "contacts" => own.as_array().into_iter().flatten().map(contact).collect::<Vec<_>>().join("\n"),
        "order" => text(&own["text"]),
        // Something that WhatsApp shows in its own app only: that somebody wrote is all that can be told.
        "unsupported" | "unknown" => String::new(),
        // Somebody has another number, or opened a conversation: nobody wrote.
        "system" | "request_welcome" => return Ok(Some(Vec::new())),
        _ => return Ok(None),
    };
    let Some(from) = message["from"].as_str().or(message["from_user_id"].as_str()) else {
        return Err(Unreadable::new("a message has no sender"));
    };
    let answers = message["context"]["id"].as_str().or(message["reaction"]["message_id"].as_str());
    Ok(Some(vec![Told::Inbound(Inbound {
        provider_message_id: id,
        from: wire::with_plus(from),
        to: to.to_owned(),
        text,
        media,
        at: seconds(&message["timestamp"]),
        keyword: None,
        in_reply_to: answers.map(str::to_owned),
        payload: raw.to_owned(),
    })]))
}

/// A place by its name and its address, as far as it has them, and as a URI (RFC 5870).
fn place(location: &Value) -> String {
    let named = [&location["name"], &location["address"]].into_iter().filter_map(|text| text.as_str()).map(str::to_owned);
    let at = location["latitude"].as_number().zip(location["longitude"].as_number());
    named.chain(at.map(|(latitude, longitude)| format!("geo:{latitude},{longitude}"))).collect::<Vec<_>>().join("\n")
}

/// A contact's name and numbers.
fn contact(contact: &Value) -> String {
    let numbers = contact["phones"].as_array().into_iter().flatten().filter_map(|phone| phone["phone"].as_str());
    let name = contact["name"]["formatted_name"].as_str();
    name.into_iter().chain(numbers).collect::<Vec<_>>().join(" ")
}

/// Somebody stopped marketing messages, or wants them again.
fn wish(preference: &Value) -> Option<Vec<Told>> {
    let wants = match (preference["category"].as_str()?, preference["value"].as_str()?) {
        ("marketing_messages", "stop") => false,
        ("marketing_messages", "resume") => true,
        _ => return None,
    };
    let recipient = preference["wa_id"].as_str().or(preference["user_id"].as_str())?;
    Some(vec![Told::Wish(Wish {
        recipient: wire::with_plus(recipient),
        wants,
        at: seconds(&preference["timestamp"]),
        detail: preference["detail"].as_str().map(str::to_owned),
    })])
}
