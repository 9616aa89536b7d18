//! What every adapter must do, checked over the catalog with the fixtures of each.

mod answers;
mod callbacks;
mod catalog;
mod content;
mod docs;
mod email;
mod email_callbacks;
mod hostile;
mod push;
mod readers;
mod requests;
mod smpp;
mod vectors;
mod whatsapp;

use std::{fs, path::PathBuf};

use bytes::Bytes;
use raven_core::{Channel, MessageId, Timestamp, message::Content};
use raven_providers::{Bound, Class, Members, Outbound, Provider, SendError, Sent};
use serde_json::Value;

/// The folder of a provider's fixtures.
fn folder(provider: &Provider) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(provider.spec.id)
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of a folder with this extension, in order; there must be some.
fn files(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<_> =
        entries.map(|e| e.expect("a readable folder").path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    assert!(!found.is_empty(), "no .{extension} in {}", folder.display());
    found.sort();
    found
}

fn json(path: &PathBuf) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The settings of the fixtures, public and secret, as validation returns them.
fn settings(provider: &Provider) -> (Members, Members) {
    let file = json(&folder(provider).join("settings.json"));
    provider
        .spec
        .validate(file.get("publicConfig"), file.get("secretConfig"))
        .unwrap_or_else(|p| panic!("{}: {:?}", provider.spec.id, p.into_vec()))
}

fn bound(provider: &Provider) -> Bound {
    let (public, secret) = settings(provider);
    provider.bind(&public, &secret).expect("valid settings fit")
}

fn secrets(provider: &Provider) -> Vec<String> {
    settings(provider).1.values().map(|v| v.as_str().expect("secrets are strings").to_owned()).collect()
}

fn outbound<'a>(channel: Channel, recipient: &'a str, content: &'a Content<'a>) -> Outbound<'a> {
    let id = MessageId::parse("8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d").expect("an id");
    Outbound { id, channel, recipient, content, attempt: 1, now: Timestamp::from_millis(1_777_631_098_114) }
}

/// Somebody whom the provider reaches.
fn recipient(provider: &Provider) -> &'static str {
    match (provider.spec.channel, provider.spec.id) {
        (Channel::Email, _) => "ada@example.com",
        (Channel::Sms | Channel::Whatsapp, _) => "+254722000000",
        // The browser's keys of RFC 8291, appendix A.
        (Channel::Push, "web_push") => {
            r#"{"endpoint":"https://updates.push.services.mozilla.com/wpush/v2/gAAAAABm","keys":{"p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4","auth":"BTBZMqHH6r4Tts7J_aSIgg"}}"#
        }
        (Channel::Push, _) => "8a0c5e1f2b3d4c6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6",
    }
}

/// A message that every provider of the channel sends.
fn usual(channel: Channel) -> Content<'static> {
    match channel {
        Channel::Email => Content { subject: Some("Hi".into()), body_text: Some("Hi".into()), ..Content::default() },
        _ => Content { body: Some("Hi".into()), ..Content::default() },
    }
}

/// An answer from its fixture: status line, header fields, an empty line, the body.
fn answer(text: &str) -> http::Response<Bytes> {
    let (head, body) = text.split_once("\n\n").expect("an empty line after the head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).expect("a status line");
    let mut response = http::Response::builder().status(status);
    for (name, value) in lines.map(|l| l.split_once(": ").expect("a header field")) {
        response = response.header(name, value);
    }
    response.body(Bytes::copy_from_slice(body.trim_end().as_bytes())).expect("a good answer")
}

/// An outcome as the fixtures write it.
fn shown(outcome: &Result<Sent, SendError>) -> String {
    let mut lines = Vec::new();
    match outcome {
        Ok(sent) => {
            lines.push("sent".to_owned());
            lines.extend(sent.provider_message_id.as_ref().map(|id| format!("id: {id}")));
            lines.extend(sent.segments.map(|n| format!("segments: {n}")));
            lines.extend(sent.cost.as_ref().map(|c| format!("cost: {c}")));
        }
        Err(e) => {
            let (class, after) = class(e.class);
            lines.push(class.to_owned());
            lines.extend(after.map(|s| format!("after: {s} s")));
            lines.push(format!("code: {}", e.code));
            lines.push(e.message.clone());
        }
    }
    lines.join("\n")
}

fn class(class: Class) -> (&'static str, Option<u64>) {
    match class {
        Class::Rejected => ("rejected", None),
        Class::Retry { after } => ("retry", after.map(|d| d.as_secs())),
        Class::RateLimited { after } => ("rate limited", after.map(|d| d.as_secs())),
        Class::Credentials => ("credentials", None),
        Class::Unknown => ("unknown", None),
    }
}
