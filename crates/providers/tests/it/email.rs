//! What the providers of email check before they send.

use raven_core::{
    Channel,
    message::{Attachment, Content},
};
use raven_providers::{Bound, CATALOG, Class, Cx, Members, Provider, SendError, email::smtp};

use crate::{bound, outbound, settings, usual};

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
