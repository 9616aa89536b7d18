//! Callbacks of email providers beyond the fixtures: published examples, and settings with and without what callbacks are checked with.

use std::fs;

use http::{HeaderMap, Method};
use raven_core::{Timestamp, message::Content};
use raven_providers::{
    Bound, Callback, Cx, HttpCall, Members, Told, Verdict,
    callback::{Happened, Proof},
    find,
};
use serde_json::{Value, json};

use crate::{files, folder, outbound, read, recipient, settings, usual};

/// The provider with its usual settings and this one.
fn with(id: &str, name: &str, value: &str) -> Result<Box<dyn HttpCall>, String> {
    let provider = find(id).expect("a provider");
    let (mut public, mut secret) = settings(provider);
    let side: &mut Members = if provider.spec.field(name).expect("a setting").secret { &mut secret } else { &mut public };
    side.insert(name.to_owned(), value.into());
    provider.spec.validate(Some(&Value::Object(public.clone())), Some(&Value::Object(secret.clone()))).expect("valid settings");
    match provider.bind(&public, &secret)? {
        Bound::Http(call) => Ok(call),
        Bound::Smtp(_) | Bound::Smpp(_) => Err("not over HTTP".to_owned()),
    }
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

fn verdict(call: &dyn HttpCall, headers: &HeaderMap, body: &str, seconds: i64) -> Verdict {
    let callback = Callback { method: &Method::POST, query: "", headers, body: body.as_bytes() };
    let proof = Proof { url: "https://raven.example/", now: Timestamp::from_millis(seconds * 1000), certificate: None };
    call.authenticate(&callback, &proof)
}

/// The example with which SendGrid's own libraries are tested.
#[test]
fn sendgrids_published_signature_is_genuine() {
    let key =
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    let body = concat!(
        r#"[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address","#,
        r#""sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA","#,
        r#""sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0","#,
        r#""smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]"#,
        "\r\n"
    );
    let signature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
    let fields = [("x-twilio-email-event-webhook-signature", signature), ("x-twilio-email-event-webhook-timestamp", "1600112502")];
    let call = with("sendgrid", "webhook_public_key", key).expect("a key");
    assert_eq!(verdict(&*call, &headers(&fields), body, 1_600_112_502), Verdict::Genuine { once: None });
    assert!(matches!(verdict(&*call, &headers(&fields), body.trim_end(), 1_600_112_502), Verdict::Refused(_)));
    let told = call.read(&Callback { method: &Method::POST, query: "", headers: &headers(&fields), body: body.as_bytes() });
    let told = told.expect("readable");
    let [Told::Report(report)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(report.provider_message_id.as_deref(), Some("LRzXl_NHStOGhQ4kofSm_A"));
    assert_eq!((report.happened, report.code.as_deref()), (Happened::Failed, Some("recipient_suppressed")));
}

/// The example of Standard Webhooks, which Svix published first.
#[test]
fn the_published_signature_of_standard_webhooks_is_genuine() {
    let call = with("resend", "webhook_secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
    for names in [["svix-id", "svix-timestamp", "svix-signature"], ["webhook-id", "webhook-timestamp", "webhook-signature"]] {
        let values = ["msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="];
        let fields: Vec<_> = names.into_iter().zip(values).collect();
        let signed = headers(&fields);
        assert_eq!(verdict(&*call, &signed, r#"{"test": 2432232314}"#, 1_614_265_330), Verdict::Genuine { once: None });
        assert!(matches!(verdict(&*call, &signed, r#"{"test": 2432232315}"#, 1_614_265_330), Verdict::Refused(_)));
    }
}

#[test]
fn without_its_key_a_signature_is_no_proof() {
    for (id, named) in [("resend", "unsigned"), ("sendgrid", "unsigned"), ("mailgun", "unsigned"), ("ses", "refused")] {
        let provider = find(id).expect("a provider");
        let (public, secret) = settings(provider);
        let Ok(Bound::Http(call)) = provider.bind(&public, &secret) else { panic!("{id}") };
        for file in files(folder(provider).join("callbacks"), "http") {
            let text = read(&file);
            let (head, body) = text.split_once("\n\n").expect("a head");
            let fields: HeaderMap = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value")))
                .collect();
            let found = match verdict(&*call, &fields, body.trim_end(), 1_777_631_098) {
                Verdict::Unsigned => "unsigned",
                Verdict::Refused(_) => "refused",
                other => panic!("{}: {other:?}", file.display()),
            };
            assert_eq!(found, named, "{}", file.display());
        }
    }
}

#[test]
fn what_callbacks_can_not_be_checked_with_is_refused_by_name_and_not_repeated() {
    for (id, name, value, field) in [
        ("resend", "webhook_secret", "whsec_not*base64", "secretConfig.webhook_secret"),
        ("resend", "webhook_secret", "whsec_", "secretConfig.webhook_secret"),
        ("sendgrid", "webhook_public_key", "MFkwEwYH", "publicConfig.webhook_public_key"),
        ("sendgrid", "webhook_public_key", "not*base64", "publicConfig.webhook_public_key"),
        ("ses", "sns_topic_arns", "events-of-acme", "publicConfig.sns_topic_arns"),
        ("ses", "sns_topic_arns", ", ,", "publicConfig.sns_topic_arns"),
        ("ses", "sns_topic_arns", "arn:aws:sns:eu-west-1:123456789012:a, arn:aws:sqs:eu-west-1:1:a", "publicConfig.sns_topic_arns"),
    ] {
        let Err(why) = with(id, name, value) else { panic!("{id}: {value} was taken") };
        assert!(why.starts_with(field) && (value.len() < 8 || !why.contains(value)), "{id}: {why}");
    }
}

/// SNS's certificate is asked for only after everything else was looked at that can be known without it.
#[test]
fn nobody_else_makes_us_ask_for_a_certificate() {
    let provider = find("ses").expect("a provider");
    let call = with("ses", "sns_topic_arns", "arn:aws:sns:eu-west-1:123456789012:another").expect("a topic");
    let text = fs::read_to_string(folder(provider).join("callbacks/delivery.http")).expect("a fixture");
    let (_, body) = text.split_once("\n\n").expect("a body");
    let id = serde_json::from_str::<Value>(body).expect("JSON")["MessageId"].as_str().expect("an id").to_owned();
    let fields = headers(&[("x-amz-sns-message-type", "Notification"), ("x-amz-sns-message-id", &id)]);
    assert!(matches!(verdict(&*call, &fields, body, 1_777_631_098), Verdict::Refused(why) if why.contains("topic")));
}

#[test]
fn data_that_would_be_taken_for_a_field_of_an_event_does_not_go_to_sendgrid() {
    let provider = find("sendgrid").expect("a provider");
    let (public, secret) = settings(provider);
    let Ok(Bound::Http(call)) = provider.bind(&public, &secret) else { panic!("no provider") };
    let metadata = ["event", "type", "email", "sg_event_id", "raven_message_id", "order"].map(|name| (name.to_owned(), "x".to_owned()));
    let content = Content { metadata: metadata.into(), ..usual(provider.spec.channel) };
    let request = call.request(&outbound(provider.spec.channel, recipient(provider), &content), &Cx::default()).expect("a request");
    let body: Value = serde_json::from_slice(request.body()).expect("JSON");
    assert_eq!(body["custom_args"], json!({"order": "x", "raven_message_id": "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d"}));
}
