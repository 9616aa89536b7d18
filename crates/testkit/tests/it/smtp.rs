//! Raven's mail before a real mail server, which reads it with a parser that is not ours.

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{Certificate, Tls, TlsParameters},
    },
};
use raven_core::{Channel, MessageId, Timestamp, message::Content};
use raven_providers::{Bound, Class, Outbound, SendError, Sent, email::smtp, find};
use raven_testkit::simulators::smtp::{Options, Security, Smtp};
use secrecy::ExposeSecret;
use serde_json::json;

fn settings() -> smtp::Settings {
    let provider = find("smtp").expect("it is in the catalog");
    let public = json!({"host": "127.0.0.1", "username": "acme@example.com", "from_email": "hello@acme.example", "from_name": "Acme"});
    let (public, secret) = provider.spec.validate(Some(&public), Some(&json!({"password": "correct-horse"}))).expect("good settings");
    let Ok(Bound::Smtp(settings)) = provider.bind(&public, &secret) else { panic!("it speaks SMTP") };
    *settings
}

fn credentials() -> Option<(String, String)> {
    Some(("acme@example.com".into(), "correct-horse".into()))
}

async fn send(server: &Smtp, security: Security, password: &str, recipient: &str, content: &Content<'_>) -> Result<Sent, SendError> {
    let id = MessageId::parse("8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d").expect("an id");
    let outbound = Outbound { id, channel: Channel::Email, recipient, content, attempt: 1, now: Timestamp::from_millis(1_777_631_098_114) };
    let settings = settings();
    let mail = smtp::message(&settings, &outbound)?;
    let trusted = || {
        let root = Certificate::from_pem(server.certificate_pem().as_bytes()).expect("a certificate");
        TlsParameters::builder("127.0.0.1".into()).add_root_certificate(root).build().expect("good parameters")
    };
    let tls = match security {
        Security::None => Tls::None,
        Security::StartTls => Tls::Required(trusted()),
        Security::Implicit => Tls::Wrapper(trusted()),
    };
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(tls)
        .authentication(vec![Mechanism::Plain, Mechanism::Login])
        .credentials(Credentials::new(settings.username.clone().expect("a name"), password.to_owned()))
        .build();
    match transport.send(mail).await {
        Ok(reply) => settings.outcome(reply.code().into(), &reply.message().collect::<Vec<_>>().join("\n")),
        Err(e) => {
            let code = e.status().unwrap_or_else(|| panic!("no reply: {e:?}"));
            let text = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
            settings.outcome(code.into(), &text)
        }
    }
}

fn hello() -> Content<'static> {
    Content {
        subject: Some("Grüße aus Nairobi ✓".into()),
        body_text: Some("Asante — karibu\n.\n..dots\nend".into()),
        body_html: Some("<p>Asante — karibu</p>".into()),
        ..Content::default()
    }
}

#[tokio::test]
async fn a_mail_arrives_whole_by_every_kind_of_connection() {
    for security in [Security::None, Security::StartTls, Security::Implicit] {
        let server = Smtp::start(&Options { security, credentials: credentials(), ..Options::default() });
        let password = settings().password.expect("a password").expose_secret().to_owned();
        let sent = send(&server, security, &password, "ada@bücher.example", &hello()).await.expect("it is taken");
        let id = sent.provider_message_id.expect("a queue id");
        assert!(id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");

        let received = server.received();
        let [mail] = received.as_slice() else { panic!("{received:?}") };
        assert_eq!(mail.defects, Vec::<String>::new());
        assert_eq!(
            (mail.mail_from.as_str(), mail.rcpt_tos.as_slice()),
            ("hello@acme.example", &["ada@xn--bcher-kva.example".to_owned()][..])
        );
        assert_eq!((mail.username.as_deref(), mail.tls), (Some("acme@example.com"), security != Security::None));
        assert_eq!(mail.header("From"), Some("Acme <hello@acme.example>"));
        assert_eq!(mail.header("Subject"), Some("Grüße aus Nairobi ✓"));
        assert_eq!(mail.header("Message-ID"), Some("<8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d@acme.example>"));
        assert_eq!(mail.header("Date"), Some("Fri, 01 May 2026 10:24:58 +0000"));
        assert_eq!(mail.content_type, "multipart/alternative");
        let parts: Vec<_> = mail.parts.iter().map(|p| (p.content_type.as_str(), p.text.trim_end())).collect();
        assert_eq!(parts, [("text/plain", "Asante — karibu\r\n.\r\n..dots\r\nend"), ("text/html", "<p>Asante — karibu</p>")]);
    }
}

#[tokio::test]
async fn text_in_any_encoding_survives() {
    let server = Smtp::start(&Options { credentials: credentials(), ..Options::default() });
    let long = "long line ".repeat(300);
    let texts = ["plain", "dots\n.\n.\r\nend", "ünï ✓ 🎉", "الرسالة", "tab\tand = sign", long.trim_end(), "bare\rreturn"];
    for text in texts {
        let content =
            Content { from: Some("\"Zoë, of Acme\" <zoe@acme.example>".into()), body_text: Some(text.into()), body_html: None, ..hello() };
        send(&server, Security::None, "correct-horse", "ada@example.com", &content).await.expect("it is taken");
    }
    let received = server.received();
    assert_eq!(received.len(), texts.len());
    for (mail, text) in received.iter().zip(texts) {
        assert_eq!(mail.header("From"), Some("\"Zoë, of Acme\" <zoe@acme.example>"));
        assert_eq!(mail.parts[0].text.trim_end().replace("\r\n", "\n"), text.replace("\r\n", "\n").replace('\r', "\n"));
        assert!(mail.defects.is_empty() && mail.content_type == "text/plain");
    }
}

#[tokio::test]
async fn refusals_have_their_class() {
    let replies = [
        ("full@example.com", "552 5.2.2 Over quota"),
        ("nobody@example.com", "550 5.1.1 No such user"),
        ("grey@example.com", "450 4.7.1 Greylisted"),
    ];
    let replies = replies.into_iter().map(|(to, reply)| (to.to_owned(), reply.to_owned())).collect();
    let server = Smtp::start(&Options { credentials: credentials(), replies, ..Options::default() });
    let error = |password: &'static str, recipient: &'static str| {
        let server = &server;
        async move { send(server, Security::None, password, recipient, &hello()).await.map(|s| format!("{s:?}")).expect_err("it is refused") }
    };
    for (recipient, class, code) in [
        ("full@example.com", Class::Rejected, "mailbox_full"),
        ("nobody@example.com", Class::Rejected, "invalid_recipient"),
        ("grey@example.com", Class::Retry { after: Some(std::time::Duration::from_secs(300)) }, "deferred"),
    ] {
        let error = error("correct-horse", recipient).await;
        assert_eq!((error.class, error.code.as_str()), (class, code), "{}", error.message);
    }
    let error = error("wrong-horse", "ada@example.com").await;
    assert_eq!((error.class, error.code.as_str()), (Class::Credentials, "invalid_credentials"), "{}", error.message);
    assert!(server.received().is_empty());
}
