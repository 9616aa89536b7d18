//! Amazon SES and SNS as moto plays them: what the adapter sends arrives there, and what SNS signs is taken.
//!
//! moto asks for no confirmation of a subscription, keeps its certificates on its own server and leaves SNS's header fields out, so
//! what it published is handed to the adapter here with the certificate, and not called back over the network.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use http::{HeaderMap, Method};
use raven_core::Timestamp;
use raven_providers::{
    Bound, Callback, Told, Verdict,
    callback::{Happened, Proof},
    find,
};
use raven_testkit::app::{TestOptions, on_both_with};
use serde_json::{Value, json};

/// moto in a process of its own, which ends with this.
struct Moto {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Moto {
    fn start() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join("target/sdk-venv/bin/python");
        assert!(python.exists(), "target/sdk-venv is missing: run ./scripts/test, or ./scripts/sdk-venv alone");
        let mut command = Command::new(python);
        command.arg(root.join("tests/sdk/moto_ses.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python runs");
        let input = child.stdin.take().expect("it was asked for");
        let output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut moto = Self { child, input, output, port: 0 };
        moto.port = moto.line().as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        moto
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it can be read");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}: run tests/sdk/moto_ses.py to see what it says"))
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").expect("it reads");
        self.line()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn callback<'a>(headers: &'a HeaderMap, body: &'a str) -> Callback<'a> {
    Callback { method: &Method::POST, query: "", headers, body: body.as_bytes() }
}

const REGION: &str = "eu-west-1";

#[tokio::test]
async fn what_is_sent_through_ses_arrives_there() {
    let moto = RefCell::new(Moto::start());
    moto.borrow_mut().ask(&json!({ "verify": "hello@acme.example" }));
    let base_urls = [("ses".to_owned(), format!("http://127.0.0.1:{}/v2", moto.borrow_mut().port))].into();
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        let config = json!({
            "provider": "ses", "label": "Mail",
            "publicConfig": { "region": REGION, "access_key_id": "AKIDEXAMPLE", "from_email": "hello@acme.example", "from_name": "Acme" },
            "secretConfig": { "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" },
        });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(config)).await.expect(201);
        let send = async |from: Option<&str>, html: Option<&str>| {
            let mut message = json!({ "channel": "email", "to": "ada@example.com", "subject": "Karibu ✓", "bodyText": "Habari", "cc": ["grace@example.com"] });
            message.as_object_mut().expect("an object").extend(from.map(|f| ("from".to_owned(), f.into())));
            message.as_object_mut().expect("an object").extend(html.map(|h| ("bodyHtml".to_owned(), h.into())));
            let accepted = app.post_message(&t.live, message).await.expect(202);
            app.settle().await;
            app.message(&t.live, accepted["id"].as_str().expect("an id")).await
        };
        for (html, body) in [(None, "Habari"), (Some("<p>Habari</p>"), "<p>Habari</p>")] {
            let sent = send(None, html).await;
            assert_eq!(sent["status"], "sent", "{sent}");
            let kept = moto.borrow_mut().ask(&json!({ "sent": true }));
            let last = kept["messages"].as_array().and_then(|all| all.last()).expect("a message");
            assert_eq!(last["id"], sent["providerMessageId"]);
            let destinations = json!({ "ToAddresses": ["ada@example.com"], "CcAddresses": ["grace@example.com"] });
            assert_eq!(
                (&last["subject"], &last["body"], &last["source"], &last["destinations"]),
                (&json!("Karibu ✓"), &json!(body), &json!("Acme <hello@acme.example>"), &destinations)
            );
        }
        // moto refuses whom it does not know, as SES does.
        let before = moto.borrow_mut().ask(&json!({ "sent": true }))["messages"].as_array().map(Vec::len);
        let refused = send(Some("stranger@elsewhere.example"), None).await;
        assert_eq!(refused["status"], "failed", "{refused}");
        assert_eq!(moto.borrow_mut().ask(&json!({ "sent": true }))["messages"].as_array().map(Vec::len), before);
    })
    .await;
    let quota = moto.borrow_mut().ask(&json!({ "sent": true }))["quota"].as_f64();
    assert_eq!(quota, Some(8.0), "AWS's own SDK counts two recipients of two messages on two engines");
}

#[test]
fn what_motos_sns_signs_is_genuine_and_what_was_changed_is_not() {
    let mut moto = Moto::start();
    let event = json!({
        "eventType": "Delivery",
        "mail": { "messageId": "0102018f-1", "timestamp": "2026-11-24T04:20:00.000Z", "destination": ["ada@example.com"], "tags": {} },
        "delivery": { "timestamp": "2026-11-24T04:20:03.000Z", "recipients": ["ada@example.com"], "smtpResponse": "250 ok" },
    });
    let published = moto.ask(&json!({ "publish": event.to_string() }));
    let (body, certificate) = (published["body"].as_str().expect("a body"), published["certificate"].as_str().expect("a certificate"));
    let topic = published["topic"].as_str().expect("a topic");
    let envelope: Value = serde_json::from_str(body).expect("JSON");
    let signed = Timestamp::parse(envelope["Timestamp"].as_str().expect("a time")).expect("a time");

    let provider = find("ses").expect("it is in the catalog");
    let call = |topics: &str| {
        let public =
            json!({ "region": REGION, "access_key_id": "AKIDEXAMPLE", "from_email": "hello@acme.example", "sns_topic_arns": topics });
        let (public, secret) = provider.spec.validate(Some(&public), Some(&json!({ "secret_access_key": "x" }))).expect("good settings");
        let Ok(Bound::Http(call)) = provider.bind(&public, &secret) else { panic!("it speaks HTTP") };
        call
    };
    let headers: HeaderMap = [("x-amz-sns-message-type", "Notification")]
        .into_iter()
        .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
        .collect();
    let proof = |seconds: i64, certificate| Proof {
        url: "https://raven.test/v1/webhooks/email/ses",
        now: Timestamp::from_millis(signed.millis() + seconds * 1000),
        certificate,
    };
    let pem = Some(certificate.as_bytes());

    let expected = envelope["SigningCertURL"].as_str().expect("a URL");
    let asked = call(topic).authenticate(&callback(&headers, body), &proof(1, None));
    assert!(matches!(&asked, Verdict::Certificate(url) if url == expected), "it asks for the certificate first");
    assert!(matches!(call(topic).authenticate(&callback(&headers, body), &proof(1, pem)), Verdict::Genuine { .. }));
    let changed = body.replace("0102018f-1", "0102018f-2");
    for (call, body, seconds) in [
        (call(topic), changed.as_str(), 1),
        (call(topic), body, 2 * 3600),
        (call(topic), body, -3600),
        (call("arn:aws:sns:eu-west-1:123456789012:another"), body, 1),
    ] {
        assert!(matches!(call.authenticate(&callback(&headers, body), &proof(seconds, pem)), Verdict::Refused(_)), "{seconds}: {body}");
    }
    let told = call(topic).read(&callback(&headers, body)).expect("it is an event");
    let [Told::Report(report)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((report.happened, report.provider_message_id.as_deref()), (Happened::Delivered, Some("0102018f-1")));
}
