//! Email through a real SMTP server.

use http::Method;
use raven_engine::transport::ExtraRoots;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with},
    simulators::smtp::{Options, Security, Smtp},
};
use serde_json::{Value, json};

fn server(security: Security) -> Smtp {
    Smtp::start(&Options { security, credentials: Some(("ada".to_owned(), "hush".to_owned())), ..Options::default() })
}

fn trusting(server: &Smtp) -> TestOptions {
    TestOptions { extra_roots: ExtraRoots::from_pem(server.certificate_pem().as_bytes()).expect("a certificate"), ..TestOptions::default() }
}

async fn configure(app: &TestApp, t: &TestTenant, port: u16, more: Value) -> Value {
    let mut public =
        json!({ "host": "localhost", "port": port, "username": "ada", "from_email": "shop@acme.example", "from_name": "Acme Ünited" });
    for (name, value) in more.as_object().expect("an object") {
        public[name] = value.clone();
    }
    let body = json!({ "provider": "smtp", "label": "Mail", "publicConfig": public, "secretConfig": { "password": "hush" } });
    app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201)
}

async fn send(app: &TestApp, t: &TestTenant, body: Value) -> Value {
    let id = app.post_message(&t.live, body).await.expect(202)["id"].as_str().expect("an id").to_owned();
    app.settle().await;
    app.message(&t.live, &id).await
}

fn mail() -> Value {
    json!({ "channel": "email", "to": "ada@example.com", "subject": "Grüße, Ada", "bodyText": "Hallo\nWelt", "bodyHtml": "<p>Hallo Wélt</p>" })
}

#[tokio::test]
async fn mail_goes_out_by_starttls_signed_in_and_reads_as_it_was_written() {
    let smtp = server(Security::StartTls);
    on_both_with(trusting(&smtp), async |app| {
        let before = smtp.received().len();
        let t = app.tenant("Acme").await;
        configure(&app, &t, smtp.port(), json!({})).await;
        let message = send(&app, &t, mail()).await;
        assert_eq!(message["status"], "sent", "{message}");
        send(
            &app,
            &t,
            json!({ "channel": "email", "to": "bob@example.com", "from": "Own <own@acme.example>", "subject": "Second", "bodyText": "x" }),
        )
        .await;
        let mails = smtp.received();
        assert_eq!(mails.len(), before + 2);
        let first = &mails[before];
        assert!(first.tls && first.username.as_deref() == Some("ada"));
        assert_eq!(first.header("subject"), Some("Grüße, Ada"));
        assert_eq!(first.header("from"), Some("Acme Ünited <shop@acme.example>"));
        assert_eq!(first.header("to"), Some("ada@example.com"));
        assert_eq!(first.header("message-id"), Some(format!("<{}@acme.example>", message["id"].as_str().expect("an id")).as_str()));
        assert!(first.header("date").is_some());
        assert_eq!((first.content_type.as_str(), first.defects.len()), ("multipart/alternative", 0));
        assert_eq!(
            first.parts.iter().map(|p| (p.content_type.as_str(), p.text.trim_end().replace("\r\n", "\n"))).collect::<Vec<_>>(),
            [("text/plain", "Hallo\nWelt".to_owned()), ("text/html", "<p>Hallo Wélt</p>".to_owned())]
        );
        assert_eq!(mails[before + 1].mail_from, "own@acme.example");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_trusted_or_offers_no_tls_gets_no_credentials() {
    for (security, trusted) in [(Security::StartTls, false), (Security::None, true)] {
        let smtp = server(security);
        let options = if trusted { trusting(&smtp) } else { TestOptions::default() };
        on_both_with(options, async |app| {
            let t = app.tenant("Acme").await;
            configure(&app, &t, smtp.port(), json!({})).await;
            let message = send(&app, &t, mail()).await;
            assert_ne!(message["status"], "sent", "{message}");
            assert!(smtp.received().is_empty());
        })
        .await;
    }
}

#[tokio::test]
async fn tenants_reach_no_private_host_unless_allowed() {
    let smtp = server(Security::StartTls);
    let options = TestOptions { forbid_private: true, ..trusting(&smtp) };
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        configure(&app, &t, smtp.port(), json!({})).await;
        let message = send(&app, &t, mail()).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("host_not_allowed")));
        assert!(smtp.received().is_empty());
    })
    .await;
}

#[tokio::test]
async fn permanent_refusals_fail_and_temporary_ones_are_tried_again() {
    let replies = [("gone@example.com", "550 5.1.1 no such user"), ("later@example.com", "451 4.3.0 try again")];
    let smtp = Smtp::start(&Options {
        security: Security::StartTls,
        credentials: Some(("ada".to_owned(), "hush".to_owned())),
        replies: replies.iter().map(|(to, reply)| ((*to).to_owned(), (*reply).to_owned())).collect(),
        ..Options::default()
    });
    on_both_with(trusting(&smtp), async |app| {
        let t = app.tenant("Acme").await;
        configure(&app, &t, smtp.port(), json!({})).await;
        let to = |to: &str| json!({ "channel": "email", "to": to, "subject": "x", "bodyText": "y" });
        let gone = send(&app, &t, to("gone@example.com")).await;
        assert_eq!((&gone["status"], &gone["failureReason"]), (&json!("failed"), &json!("invalid_recipient")));
        let later = send(&app, &t, to("later@example.com")).await;
        assert_eq!(
            (&later["status"], later["events"].as_array().expect("events").last().expect("one")["eventType"].clone()),
            (&json!("sending"), json!("retry_scheduled"))
        );
        // The connection that was refused is still good for the next one.
        assert_eq!(send(&app, &t, to("ada@example.com")).await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_are_no_bounce() {
    let smtp = server(Security::StartTls);
    on_both_with(trusting(&smtp), async |app| {
        let t = app.tenant("Acme").await;
        configure(&app, &t, smtp.port(), json!({ "username": "eve" })).await;
        let message = send(&app, &t, mail()).await;
        let last = message["events"].as_array().expect("events").last().expect("one").clone();
        assert_eq!((&message["status"], &last["eventType"]), (&json!("sending"), &json!("retry_scheduled")));
        assert!(!message.to_string().contains("hush"));
    })
    .await;
}

#[tokio::test]
async fn a_copy_goes_to_nobody_who_is_suppressed() {
    let smtp = server(Security::StartTls);
    on_both_with(trusting(&smtp), async |app| {
        let before = smtp.received().len();
        let t = app.tenant("Acme").await;
        configure(&app, &t, smtp.port(), json!({})).await;
        for address in ["Bob@Example.com", "dan@example.com"] {
            let body = json!({ "channel": "email", "address": address, "reason": "unsubscribed" });
            app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(body)).await.expect(201);
        }
        let mut body = mail();
        body["cc"] = json!(["Bob <bob@example.com>", "Carol <carol@example.com>"]);
        body["bcc"] = json!(["dan@example.com", "eve@example.com"]);
        let message = send(&app, &t, body).await;
        assert_eq!(message["status"], "sent", "{message}");
        let sent = &smtp.received()[before];
        assert_eq!(sent.rcpt_tos, ["ada@example.com", "carol@example.com", "eve@example.com"]);
        assert_eq!(sent.header("cc"), Some("Carol <carol@example.com>"));
    })
    .await;
}
