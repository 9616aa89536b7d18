//! Nothing a message says can become a header field, or a field of a form.

use proptest::prelude::*;
use raven_core::{Channel, message::Content};
use raven_providers::{Bound, CATALOG, Class, Cx, Outbound, email::smtp, find};
use serde_json::Value;

use crate::{bound, outbound, recipient};

const HOSTILE: &[&str] = &[
    "a\r\nBcc: victim@example.net",
    "a\nBcc: victim@example.net",
    "a\rBcc: victim@example.net",
    "a\r\n\r\nevil body",
    "a\u{85}Bcc: victim@example.net",
    "a\u{2028}Bcc: victim@example.net",
    "=?utf-8?q?a=0D=0ABcc:_victim@example.net?=",
    "\u{0}",
    "&to=%2B254700000000&username=evil",
    ".\r\nMAIL FROM:<evil@example.net>",
];

/// The header fields of a built mail.
fn header_names(mail: &lettre::Message) -> Vec<String> {
    let text = String::from_utf8_lossy(&mail.formatted()).into_owned();
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    head.split("\r\n").filter(|l| !l.starts_with([' ', '\t'])).map(|l| l.split(':').next().unwrap_or_default().to_owned()).collect()
}

fn smtp_settings() -> smtp::Settings {
    let Bound::Smtp(settings) = bound(find("smtp").expect("smtp is in the catalog")) else { panic!("smtp is not HTTP") };
    *settings
}

fn check_mail(settings: &smtp::Settings, message: &Outbound<'_>) {
    match smtp::message(settings, message) {
        Ok(mail) => {
            let names = header_names(&mail);
            let mut expected = vec!["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"];
            if message.content.body_text.is_none() || message.content.body_html.is_none() {
                expected.push("Content-Transfer-Encoding");
            }
            let sorted = |mut names: Vec<String>| {
                names.sort();
                names
            };
            assert_eq!(sorted(names), sorted(expected.into_iter().map(str::to_owned).collect()), "{:?}", message.content);
            assert_eq!(mail.envelope().to().len(), 1);
            // No line of the body can end the message or begin a command: the transport doubles dots, and breaks are CRLF only.
            let bytes = mail.formatted();
            for (at, byte) in bytes.iter().enumerate() {
                assert!(*byte != b'\n' || (at > 0 && bytes[at - 1] == b'\r'), "a bare LF");
                assert!(*byte != b'\r' || bytes.get(at + 1) == Some(&b'\n'), "a bare CR");
            }
        }
        Err(e) => assert_eq!(e.class, Class::Rejected, "{e:?}"),
    }
}

#[test]
fn a_mail_has_no_header_that_its_content_wrote() {
    let settings = smtp_settings();
    for text in HOSTILE {
        let mailbox = format!("{text} <ada@example.com>");
        let quoted = format!("\"{text}\" <ada@example.com>");
        for from in [text, mailbox.as_str(), quoted.as_str(), "ok@example.com"] {
            let content = Content {
                from: Some(from.into()),
                subject: Some((*text).into()),
                body_text: Some((*text).into()),
                body_html: Some((*text).into()),
                ..Content::default()
            };
            check_mail(&settings, &outbound(Channel::Email, "ada@example.com", &content));
            let plain = Content { subject: Some("Hi".into()), body_html: None, ..content.clone() };
            check_mail(&settings, &outbound(Channel::Email, "ada@example.com", &plain));
        }
        let content = Content { subject: Some("Hi".into()), body_text: Some("Hi".into()), ..Content::default() };
        let hostile = format!("ada@example.com{text}");
        check_mail(&settings, &outbound(Channel::Email, &hostile, &content));
    }
    let subject = Content { subject: Some("a\r\nBcc: x@example.net".into()), body_text: Some("Hi".into()), ..Content::default() };
    let error = smtp::message(&settings, &outbound(Channel::Email, "ada@example.com", &subject)).expect_err("a line break in a subject");
    assert_eq!((error.class, error.code.as_str()), (Class::Rejected, "invalid_subject"));
}

#[test]
fn a_name_in_the_settings_writes_no_header_either() {
    let mut settings = smtp_settings();
    settings.from_name = Some("Acme\r\nBcc: victim@example.net".into());
    let content = Content { subject: Some("Hi".into()), body_text: Some("Hi".into()), ..Content::default() };
    let error = smtp::message(&settings, &outbound(Channel::Email, "ada@example.com", &content)).expect_err("a line break in a name");
    assert_eq!(error.code, "invalid_sender");
    settings.from_email = None;
    let error = smtp::message(&settings, &outbound(Channel::Email, "ada@example.com", &content)).expect_err("nobody sends it");
    assert_eq!(error.code, "missing_sender");
}

/// The texts of a request's body with their names, form or JSON; nothing for a body that is encrypted.
fn fields(request: &http::Request<bytes::Bytes>) -> Vec<(String, String)> {
    fn collect(name: &str, value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(n, v)| collect(&format!("{name}/{n}"), v, found)),
            Value::Array(items) => items.iter().for_each(|v| collect(&format!("{name}/"), v, found)),
            Value::String(text) => found.push((name.to_owned(), text.clone())),
            other => found.push((name.to_owned(), other.to_string())),
        }
    }
    match request.headers()[http::header::CONTENT_TYPE].as_bytes() {
        b"application/x-www-form-urlencoded" => form_urlencoded::parse(request.body()).into_owned().collect(),
        b"application/json" => {
            let mut found = Vec::new();
            collect("", &serde_json::from_slice(request.body()).expect("JSON"), &mut found);
            found
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_request_carries_content_and_nothing_else() {
    for provider in CATALOG {
        let Bound::Http(call) = bound(provider) else { continue };
        let shape = |text: &str| {
            // Of the others' senders not every text is one.
            let from = (provider.spec.channel == Channel::Sms).then(|| text.into());
            let content = Content { from, body: Some(text.into()), ..Content::default() };
            let request = call
                .request(&outbound(provider.spec.channel, recipient(provider), &content), &Cx::default())
                .expect("a request");
            let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
            let fields = fields(&request);
            let carried = usize::from(!fields.is_empty()) + usize::from(content.from.is_some());
            assert_eq!(fields.iter().filter(|(_, v)| v == text).count(), carried, "{}: {fields:?}", provider.spec.id);
            (request.uri().to_string(), names, fields.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        let usual = shape("plain text");
        for text in HOSTILE {
            assert_eq!(shape(text), usual, "{}: {text:?}", provider.spec.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_makes_a_whole_mail_or_none(from in "\\PC{0,40}|[\\x00-\\x7f]{0,60}", subject in any::<String>(), text in any::<Option<String>>(), html in any::<Option<String>>()) {
        let content = Content {
            from: Some(from.into()).filter(|f: &std::borrow::Cow<'_, str>| !f.is_empty()),
            subject: Some(subject.into()),
            body_text: text.map(Into::into),
            body_html: html.map(Into::into),
            ..Content::default()
        };
        check_mail(&smtp_settings(), &outbound(Channel::Email, "ada@example.com", &content));
    }
}

#[test]
fn the_sandbox_takes_everything_under_an_id_of_its_own() {
    let content = Content::default();
    let sent = raven_providers::sandbox::send(&outbound(Channel::Push, "anything", &content)).expect("it refuses nothing");
    assert_eq!(sent.provider_message_id.as_deref(), Some("sandbox-8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d"));
    assert_eq!((sent.segments, sent.cost), (None, None));
}
