//! What the providers of email check before they send, and how they tell good credentials.

use raven_core::{
    Channel, Timestamp,
    message::{Attachment, Content, Features},
};
use raven_providers::{Bound, CATALOG, Class, Cx, Members, Provider, SendError, email::smtp, find};

use crate::{answer, bound, outbound, settings, usual};

/// Binds a provider to the fixtures' settings without a sender.
fn without_sender(provider: &Provider) -> Bound {
    let (mut public, secret): (Members, Members) = settings(provider);
    public.retain(|name, _| !name.starts_with("from_"));
    provider.bind(&public, &secret).expect("a sender is optional")
}

/// Why a message is refused before it is sent.
fn refusal(bound: &Bound, recipient: &str, content: &Content<'_>) -> Option<SendError> {
    let message = outbound(Channel::Email, recipient, content);
    match bound {
        Bound::Http(call) => call.request(&message, &Cx::default()).err(),
        Bound::Smtp(settings) => smtp::message(settings, &message).err(),
        Bound::Smpp(_) => panic!("it sends no email"),
    }
}

#[test]
fn every_provider_carries_a_link_that_unsubscribes() {
    let url = "<https://raven.example/v1/unsubscribe/mZ0tq2p5cV8rYk3xJ1bWnE7dHs4gUfLa6oTiQyXe9RzKwMvCjPBNhDAS0lG>";
    let fields = [("List-Unsubscribe", url), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")];
    let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let content = Content { headers, unsubscribe: true, ..usual(Channel::Email) };
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Email) {
        assert_eq!(content.features().beyond(Features::of(provider.spec.features)).next(), None, "{}", provider.spec.id);
        let message = outbound(Channel::Email, "ada@example.com", &content);
        let text = match bound(provider) {
            Bound::Http(call) => {
                let request = call.request(&message, &Cx::default()).unwrap_or_else(|e| panic!("{}: {e:?}", provider.spec.id));
                let text = String::from_utf8(request.body().to_vec()).expect("a text");
                let is_form = request.headers().get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded");
                if is_form {
                    form_urlencoded::parse(text.as_bytes()).map(|(name, value)| format!("{name}={value}\n")).collect()
                } else {
                    text
                }
            }
            Bound::Smtp(settings) => {
                let mail = smtp::message(&settings, &message).expect("it is built");
                String::from_utf8(mail.formatted()).expect("a text").replace("\r\n ", " ")
            }
            Bound::Smpp(_) => panic!("no email goes by SMPP"),
        };
        for (name, value) in fields {
            assert!(text.contains(name) && text.contains(value), "{} leaves {name} out: {text}", provider.spec.id);
        }
    }
}

#[test]
fn every_provider_refuses_what_it_can_not_send() {
    let plain = usual(Channel::Email);
    let file = Attachment { filename: "a/b".into(), content_type: "text/plain".into(), content: "aGk=".into(), content_id: None };
    let header = |name: &str, value: &str| Content { headers: [(name.to_owned(), value.to_owned())].into(), ..plain.clone() };
    let cases = [
        ("ada", plain.clone(), "invalid_recipient"),
        ("ada@example.com", Content { from: Some("zoe".into()), ..plain.clone() }, "invalid_sender"),
        ("ada@example.com", Content { reply_to: Some("zoe".into()), ..plain.clone() }, "invalid_reply_to"),
        ("ada@example.com", Content { cc: vec!["zoe".into()], ..plain.clone() }, "invalid_recipient"),
        ("ada@example.com", Content { bcc: vec!["zoe".into()], ..plain.clone() }, "invalid_recipient"),
        ("ada@example.com", Content { body_text: None, ..plain.clone() }, "missing_body"),
        ("ada@example.com", Content { subject: Some("a\nb".into()), ..plain.clone() }, "invalid_subject"),
        ("ada@example.com", Content { attachments: vec![file], ..plain.clone() }, "invalid_attachment"),
        ("ada@example.com", header("BCC", "zoe@acme.example"), "invalid_headers"),
        ("ada@example.com", header("Content-Type", "text/plain"), "invalid_headers"),
        ("ada@example.com", header("X-A", "a\r\nBcc: zoe@acme.example"), "invalid_headers"),
    ];
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Email) {
        let bound = bound(provider);
        for (recipient, content, expected) in &cases {
            let error = refusal(&bound, recipient, content).unwrap_or_else(|| panic!("{} sends {content:?}", provider.spec.id));
            assert_eq!((error.class, error.code.as_str()), (Class::Rejected, *expected), "{}: {content:?}", provider.spec.id);
        }
        let error = refusal(&without_sender(provider), "ada@example.com", &plain).expect("nobody sends it");
        assert_eq!((error.class, error.code.as_str()), (Class::Rejected, "missing_sender"), "{}", provider.spec.id);
        assert_eq!(
            refusal(
                &without_sender(provider),
                "ada@example.com",
                &Content { from: Some("Zoe <zoe@acme.example>".into()), ..plain.clone() }
            ),
            None
        );
    }
}

#[test]
fn what_only_one_provider_can_not_send_is_refused_with_a_reason() {
    let plain = usual(Channel::Email);
    let file = Attachment {
        filename: "logo.png".into(),
        content_type: "image/png".into(),
        content: "aGk=".into(),
        content_id: Some("logo".into()),
    };
    let header = |name: &str, value: &str| Content { headers: [(name.to_owned(), value.to_owned())].into(), ..plain.clone() };
    for (id, content, expected) in [
        ("brevo", Content { attachments: vec![file], ..plain.clone() }, "unsupported_feature"),
        ("brevo", header("x-mailin-custom", "mine"), "invalid_headers"),
        ("brevo", header("X-Sib-Sandbox", "drop"), "invalid_headers"),
        ("brevo", header("X-City", "Köln"), "invalid_headers"),
        ("resend", Content { from: Some("\"Acme, Inc.\" <hello@acme.example>".into()), ..plain.clone() }, "invalid_sender"),
        ("resend", Content { from: Some("\"Eve <eve@evil.example>\" <hello@acme.example>".into()), ..plain.clone() }, "invalid_sender"),
    ] {
        let error = refusal(&bound(find(id).expect("it is in the catalog")), "ada@example.com", &content).expect("it is refused");
        assert_eq!((error.class, error.code.as_str()), (Class::Rejected, expected), "{id}: {content:?}");
    }
}

/// Where each provider is asked whether the credentials work, under its documented base and under another.
#[test]
fn credentials_are_checked_by_a_harmless_request() {
    let expected = [
        ("postmark", "https://api.postmarkapp.com", "/server"),
        ("resend", "https://api.resend.com", "/domains"),
        ("ses", "https://email.eu-west-1.amazonaws.com/v2", "/email/account"),
        ("sendgrid", "https://api.sendgrid.com/v3", "/scopes"),
        ("mailgun", "https://api.mailgun.net/v3", "/domains/mg.acme.example"),
        ("brevo", "https://api.brevo.com/v3", "/account"),
        ("mailjet", "https://api.mailjet.com", "/v3/REST/apikey"),
    ];
    for (id, base, path) in expected {
        let Bound::Http(call) = bound(find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
        let now = Timestamp::from_millis(1_777_631_098_114);
        for (cx, base) in [
            (Cx::default(), base),
            (Cx { base_url: Some("http://127.0.0.1:9/x".into()), token: None, callback_url: None }, "http://127.0.0.1:9/x"),
        ] {
            let request = call.verify(now, &cx).expect("there is a check");
            assert_eq!((request.method().as_str(), request.uri().to_string()), ("GET", format!("{base}{path}")), "{id}");
            assert!(request.body().is_empty() && request.headers().values().any(http::HeaderValue::is_sensitive), "{id}");
        }
    }
}

#[test]
fn the_answer_tells_whether_credentials_work() {
    let json = |status: &str, body: &str| format!("HTTP/1.1 {status}\nContent-Type: application/json\n\n{body}");
    let good = None;
    let bad = |code: &'static str| Some((Class::Credentials, code));
    let cases = [
        ("postmark", json("200 OK", r#"{"ID":1,"Name":"Production"}"#), good),
        ("postmark", json("401 Unauthorized", r#"{"ErrorCode":10,"Message":"No such token"}"#), bad("invalid_credentials")),
        ("postmark", json("403 Forbidden", "<html>"), Some((Class::Retry { after: None }, "blocked_on_the_way"))),
        ("resend", json("200 OK", r#"{"data":[]}"#), good),
        ("resend", json("401 Unauthorized", r#"{"statusCode":401,"name":"restricted_api_key","message":"only send"}"#), good),
        ("resend", json("401 Unauthorized", r#"{"statusCode":401,"name":"missing_api_key","message":"none"}"#), bad("invalid_credentials")),
        (
            "resend",
            json("403 Forbidden", r#"{"statusCode":403,"name":"invalid_api_key","message":"API key is invalid"}"#),
            bad("invalid_credentials"),
        ),
        (
            "resend",
            json("400 Bad Request", r#"{"statusCode":400,"name":"validation_error","message":"API key is invalid"}"#),
            bad("invalid_credentials"),
        ),
        ("ses", json("200 OK", r#"{"SendingEnabled":true,"EnforcementStatus":"HEALTHY"}"#), good),
        ("ses", json("200 OK", r#"{"SendingEnabled":false,"EnforcementStatus":"SHUTDOWN"}"#), bad("sending_paused")),
        ("ses", json("200 OK", "<html>"), Some((Class::Unknown, "unreadable_answer"))),
        ("ses", json("403 Forbidden", r#"{"__type":"UnrecognizedClientException","message":"invalid"}"#), bad("invalid_credentials")),
        (
            "ses",
            json("403 Forbidden", r#"{"__type":"AccessDeniedException","message":"ses:GetAccount"}"#),
            Some((Class::Unknown, "permission_denied")),
        ),
        ("sendgrid", json("200 OK", r#"{"scopes":["mail.batch.create","mail.send"]}"#), good),
        ("sendgrid", json("200 OK", r#"{"scopes":["stats.read"]}"#), bad("permission_denied")),
        ("sendgrid", json("200 OK", "<html>"), Some((Class::Unknown, "unreadable_answer"))),
        ("sendgrid", json("401 Unauthorized", r#"{"errors":[{"message":"authorization required"}]}"#), bad("invalid_credentials")),
        ("mailgun", json("200 OK", r#"{"domain":{"name":"mg.acme.example","state":"active"}}"#), good),
        ("mailgun", json("404 Not Found", r#"{"message":"Domain not found"}"#), bad("domain_not_found")),
        ("mailgun", json("401 Unauthorized", "Forbidden"), bad("invalid_credentials")),
        ("brevo", json("200 OK", r#"{"email":"owner@acme.example","plan":[]}"#), good),
        ("brevo", json("401 Unauthorized", r#"{"code":"unauthorized","message":"Key not found"}"#), bad("invalid_credentials")),
        ("mailjet", json("200 OK", r#"{"Count":1,"Data":[],"Total":1}"#), good),
        ("mailjet", json("401 Unauthorized", r#"{"StatusCode":401,"ErrorMessage":"failure"}"#), bad("invalid_credentials")),
    ];
    for (id, text, expected) in cases {
        let Bound::Http(call) = bound(find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
        let found = call.verified(&answer(&text)).err();
        assert_eq!(found.as_ref().map(|e| (e.class, e.code.as_str())), expected, "{id}: {text}");
    }
}
