//! Nothing a message says can become a header field, or a field of a form.

use proptest::prelude::*;
use raven_core::{
    Channel,
    message::{Attachment, Content},
};
use raven_providers::{Bound, CATALOG, Class, Cx, Outbound, email::smtp, find};
use serde_json::Value;

use crate::{bound, outbound, recipient, usual};

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

/// Does a text of the message begin a line so itself?
fn says_bcc(content: &Content<'_>) -> bool {
    content.body_text.iter().chain(&content.body_html).any(|text| text.contains("Bcc:"))
}

fn check_mail(settings: &smtp::Settings, message: &Outbound<'_>) {
    match smtp::message(settings, message) {
        Ok(mail) => {
            let names = header_names(&mail);
            let mut expected = vec!["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"];
            let content = message.content;
            if (content.body_text.is_none() || content.body_html.is_none()) && content.attachments.is_empty() {
                expected.push("Content-Transfer-Encoding");
            }
            expected.extend(content.reply_to.as_ref().map(|_| "Reply-To"));
            expected.extend((!content.cc.is_empty()).then_some("Cc"));
            expected.extend(content.headers.keys().map(String::as_str));
            let sorted = |mut names: Vec<String>| {
                names.sort();
                names
            };
            assert_eq!(sorted(names), sorted(expected.into_iter().map(str::to_owned).collect()), "{:?}", message.content);
            assert_eq!(mail.envelope().to().len(), 1 + content.cc.len() + content.bcc.len());
            // No line of the body can end the message or begin a command: the transport doubles dots, and breaks are CRLF only.
            let bytes = mail.formatted();
            assert!(!String::from_utf8_lossy(&bytes).to_lowercase().contains("\r\nbcc:") || says_bcc(content), "{content:?}");
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

/// Messages with the text in one of the fields that email has besides the texts and the sender.
fn hostile_mails(text: &str) -> Vec<Content<'static>> {
    let plain =
        Content { subject: Some("Hi".into()), body_text: Some("Hi".into()), body_html: Some("<p>Hi</p>".into()), ..Content::default() };
    let mailboxes = [
        text.to_owned(),
        format!("{text} <zoe@acme.example>"),
        format!("\"{text}\" <zoe@acme.example>"),
        format!("zoe@acme.example{text}"),
    ];
    let good = Attachment { filename: "a.txt".into(), content_type: "text/plain".into(), content: "aGk=".into(), content_id: None };
    let mut mails = Vec::new();
    for mailbox in mailboxes {
        mails.push(Content { reply_to: Some(mailbox.clone().into()), ..plain.clone() });
        mails.push(Content { cc: vec![mailbox.clone()], ..plain.clone() });
        mails.push(Content { bcc: vec![mailbox], ..plain.clone() });
    }
    mails.push(Content { headers: [("X-Campaign".to_owned(), text.to_owned())].into(), ..plain.clone() });
    mails.push(Content { headers: [(text.to_owned(), "x".to_owned())].into(), ..plain.clone() });
    for file in [
        Attachment { filename: text.to_owned(), ..good.clone() },
        Attachment { content_type: format!("text/{text}"), ..good.clone() },
        Attachment { content_id: Some(text.to_owned()), ..good.clone() },
        Attachment { content: text.to_owned(), ..good },
    ] {
        mails.push(Content { attachments: vec![file], ..plain.clone() });
    }
    mails
}

#[test]
fn a_mail_has_no_header_that_its_other_fields_wrote() {
    let settings = smtp_settings();
    for text in HOSTILE {
        for content in hostile_mails(text) {
            check_mail(&settings, &outbound(Channel::Email, "ada@example.com", &content));
        }
    }
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
fn a_body_carries_content_and_nothing_else() {
    for provider in CATALOG.iter().filter(|p| p.spec.channel != Channel::Email) {
        let Bound::Http(call) = bound(provider) else { continue };
        let shape = |text: &str| {
            // Of the others' senders not every text is one.
            let from = (provider.spec.channel == Channel::Sms).then(|| text.into());
            let content = Content { from, body: Some(text.into()), ..Content::default() };
            let request = call.request(&outbound(provider.spec.channel, recipient(provider), &content), &Cx::default()).expect("a request");
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

/// Where something stands in a request, apart from what stands there: of JSON each value's path, of a form each part's head.
fn places(request: &http::Request<bytes::Bytes>) -> Vec<String> {
    fn walk(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Array(items) => items.iter().for_each(|v| walk(v, &format!("{path}[]"), found)),
            serde_json::Value::Object(members) => members.iter().for_each(|(name, v)| walk(v, &format!("{path}.{name}"), found)),
            _ => found.push(path.to_owned()),
        }
    }
    let mut found: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
    found.push(request.uri().to_string());
    let content_type = request.headers()["content-type"].to_str().expect("ASCII");
    match content_type.split_once("boundary=") {
        Some((_, boundary)) => {
            let body = std::str::from_utf8(request.body()).expect("UTF-8");
            for part in body.split(&format!("--{boundary}")) {
                let head = part.split("\r\n\r\n").next().unwrap_or_default();
                found.extend(head.split("; filename=").next().map(str::to_owned));
                found.push(head.lines().count().to_string());
            }
        }
        None => walk(&serde_json::from_slice(request.body()).expect("JSON"), "", &mut found),
    }
    found
}

#[test]
fn a_mail_by_http_carries_content_and_nothing_else() {
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Email) {
        let Bound::Http(call) = bound(provider) else { continue };
        let request = |content: &Content<'_>| call.request(&outbound(Channel::Email, "ada@example.com", content), &Cx::default());
        let same = |harmless: &Content<'_>, content: &Content<'_>| match request(content) {
            Ok(found) => assert_eq!(places(&found), places(&request(harmless).expect("a request")), "{}: {content:?}", provider.spec.id),
            Err(e) => assert_eq!(e.class, Class::Rejected, "{}: {e:?}", provider.spec.id),
        };
        for text in HOSTILE {
            for (harmless, content) in hostile_mails("harmless").iter().zip(hostile_mails(text)) {
                // A header's name is a place of its own: it is one whole name, or refused.
                if content.headers.contains_key(*text) {
                    let code = request(&content).err().map(|e| e.code);
                    let good = text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
                    assert_eq!(code.as_deref(), (!good).then_some("invalid_headers"), "{}: {text:?}", provider.spec.id);
                } else {
                    same(harmless, &content);
                }
            }
            let texts = |text: &str| Content {
                subject: Some("Hi".into()),
                body_text: Some(text.to_owned().into()),
                body_html: Some(text.to_owned().into()),
                ..Content::default()
            };
            same(&texts("harmless"), &texts(text));
            let subject = |text: &str| Content { subject: Some(text.to_owned().into()), ..texts("Hi") };
            same(&subject("harmless"), &subject(text));
            let from = |text: &str| Content { from: Some(format!("\"{text}\" <zoe@acme.example>").into()), ..texts("Hi") };
            same(&from("harmless"), &from(text));
        }
    }
}

#[test]
fn tags_and_metadata_never_keep_a_mail_from_going_out() {
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Email) {
        let Bound::Http(call) = bound(provider) else { continue };
        for text in HOSTILE.iter().copied().chain(["welcome", "raven_message_id", "tag"]) {
            let content = Content {
                tags: vec![text.to_owned(), text.to_owned(), "x".repeat(300)],
                metadata: [(text.to_owned(), text.to_owned()), ("order".to_owned(), "x".repeat(300))].into(),
                ..usual(Channel::Email)
            };
            let request = call.request(&outbound(Channel::Email, "ada@example.com", &content), &Cx::default()).expect("a request");
            let body = std::str::from_utf8(request.body()).expect("UTF-8");
            assert!(body.contains("8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d"), "{}: no reference in {body}", provider.spec.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_in_any_field_makes_a_whole_mail_or_none(
        mailbox in "\\PC{0,40}|[\\x00-\\x7f]{0,60}|\\PC{0,20} <zoe@acme\\.example>",
        field in "X-[A-Za-z-]{1,10}|[\\x00-\\x7f]{0,10}",
        value in any::<String>(),
        filename in any::<String>(),
        content_type in "text/plain|[a-z]{0,9}/[\\x00-\\x7f]{0,20}",
        content_id in any::<Option<String>>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let plain = Content { body_html: Some("<p>Hi</p>".into()), ..usual(Channel::Email) };
        let file = Attachment { filename, content_type, content: STANDARD.encode(bytes), content_id };
        let settings = smtp_settings();
        for content in [
            Content { reply_to: Some(mailbox.clone().into()), ..plain.clone() },
            Content { cc: vec![mailbox.clone()], ..plain.clone() },
            Content { bcc: vec![mailbox], ..plain.clone() },
            Content { headers: [(field, value)].into(), ..plain.clone() },
            Content { attachments: vec![file], ..plain.clone() },
        ] {
            check_mail(&settings, &outbound(Channel::Email, "ada@example.com", &content));
        }
    }

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
