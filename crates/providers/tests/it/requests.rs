//! Golden requests: what leaves for the provider, byte for byte.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use raven_core::{
    Channel, Timestamp,
    message::{Attachment, Content, Feature},
};
use raven_providers::{Bound, CATALOG, Cx, email::smtp, sms::smpp};
use serde_json::Value;

use crate::{files, folder, json, outbound, read, settings, usual};

#[test]
fn every_request_is_as_documented() {
    let mut wrong = Vec::new();
    for provider in CATALOG {
        for file in files(folder(provider).join("requests"), "json") {
            let case = json(&file);
            let (public, secret) = settings(provider);
            let side = |name: &str, default| case.get(name).cloned().unwrap_or(Value::Object(default));
            let given = (side("publicConfig", public), side("secretConfig", secret));
            let (public, secret) =
                provider.spec.validate(Some(&given.0), Some(&given.1)).unwrap_or_else(|p| panic!("{}: {:?}", file.display(), p.into_vec()));
            let text = case["content"].to_string();
            let content: Content<'_> = serde_json::from_str(&text).expect("content");
            let message = outbound(provider.spec.channel, case["to"].as_str().expect("a recipient"), &content);
            let cx = Cx {
                base_url: case["baseUrl"].as_str().map(Into::into),
                token: case["token"].as_str(),
                callback_url: case["callbackUrl"].as_str(),
            };
            let found = match provider.bind(&public, &secret).expect("valid settings fit") {
                Bound::Http(call) => written(&call.request(&message, &cx).expect("a request")),
                Bound::Smtp(settings) => mail(&settings, &message),
                Bound::Smpp(settings) => submits(&settings, &message),
            };
            let expected = read(&file.with_extension("expected"));
            if found.trim_end() != expected.trim_end() {
                wrong.push(format!("{}:\nexpected\n{expected}\nfound\n{found}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn written(request: &http::Request<bytes::Bytes>) -> String {
    let mut lines = vec![format!("{} {}", request.method(), request.uri())];
    for (name, value) in request.headers() {
        let value = value.to_str().expect("a readable header").replace(env!("CARGO_PKG_VERSION"), "*");
        lines.push(format!("{name}: {value}"));
    }
    // What is no text is shown in base64url.
    let body = std::str::from_utf8(request.body()).map_or_else(|_| URL_SAFE_NO_PAD.encode(request.body()), str::to_owned);
    format!("{}\n\n{body}", lines.join("\n"))
}

fn mail(settings: &smtp::Settings, message: &raven_providers::Outbound<'_>) -> String {
    let built = smtp::message(settings, message).expect("a good message");
    let envelope = built.envelope();
    let to: Vec<_> = envelope.to().iter().map(ToString::to_string).collect();
    let text = String::from_utf8(built.formatted()).expect("ASCII");
    assert!(text.lines().all(|l| l.len() <= 998) && !text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
    let from = envelope.from().map(ToString::to_string).unwrap_or_default();
    format!("MAIL FROM:<{from}>\nRCPT TO:<{}>\n\n{}", to.join(">\nRCPT TO:<"), text.replace("\r\n", "\n"))
}

/// The bind, and each part: what can be read of it as it is, the rest in hexadecimal digits.
fn submits(settings: &smpp::Settings, message: &raven_providers::Outbound<'_>) -> String {
    let shown = |name: &str, body: &[u8]| {
        let text =
            body.iter().map(|b| if matches!(b, b' '..=b'~') && *b != b'\\' { char::from(*b).to_string() } else { format!("\\{b:02x}") });
        format!("{name} {}", text.collect::<String>())
    };
    let parts = settings.submits(message).expect("a good message");
    let lines = parts.iter().map(|part| shown("submit_sm", part));
    std::iter::once(shown("bind_transceiver", &settings.bind())).chain(lines).collect::<Vec<_>>().join("\n")
}

/// The checks of credentials, where the folder has one to compare with.
#[test]
fn every_check_of_credentials_is_as_documented() {
    for provider in CATALOG {
        let Bound::Http(call) = crate::bound(provider) else { continue };
        let file = folder(provider).join("verify.expected");
        if !file.exists() {
            continue;
        }
        let now = Timestamp::from_millis(1_777_631_098_114);
        let request = call.verify(now, &Cx::default()).expect("a request");
        assert_eq!(written(&request).trim_end(), read(&file).trim_end(), "{}", provider.spec.id);
        let cx = Cx { base_url: Some("http://127.0.0.1:9902/base".into()), token: None, callback_url: None };
        let replaced = call.verify(now, &cx).expect("a request").uri().to_string();
        assert!(replaced.starts_with("http://127.0.0.1:9902/base/"), "{replaced}");
    }
}

/// Providers that take their key in the body only. A request to them must not be shown whole.
const KEY_IN_BODY: &[&str] = &["termii"];

#[test]
fn credentials_in_headers_are_marked_sensitive() {
    for provider in CATALOG {
        let Bound::Http(call) = crate::bound(provider) else { continue };
        let (channel, content) = (provider.spec.channel, usual(provider.spec.channel));
        let request = call.request(&outbound(channel, crate::recipient(provider), &content), &Cx::default()).expect("a request");
        let in_body = KEY_IN_BODY.contains(&provider.spec.id);
        let shown = if in_body { format!("{} {:?}", request.uri(), request.headers()) } else { format!("{request:?}") };
        for secret in crate::secrets(provider) {
            assert!(!shown.contains(&secret), "{}: {shown}", provider.spec.id);
        }
        assert!(in_body != request.headers().values().any(http::HeaderValue::is_sensitive), "{}", provider.spec.id);
        assert_eq!(request.uri().scheme_str(), Some("https"), "{}", provider.spec.id);
    }
}

/// The message with a feature that it did not use before.
fn using(feature: Feature, plain: &Content<'static>) -> Content<'static> {
    let mut content = plain.clone();
    match feature {
        Feature::From => content.from = Some("zoe@acme.example".into()),
        Feature::ReplyTo => content.reply_to = Some("zoe@acme.example".into()),
        Feature::Cc => content.cc = vec!["zoe@acme.example".into()],
        Feature::Bcc => content.bcc = vec!["zoe@acme.example".into()],
        Feature::Headers => content.headers = [("X-Zoe".to_owned(), "zoe@acme.example".to_owned())].into(),
        Feature::Attachments => {
            let (filename, content_type) = ("zoe@acme.example".to_owned(), "text/plain".to_owned());
            content.attachments = vec![Attachment { filename, content_type, content: "aGk=".into(), content_id: None }];
        }
        Feature::ContentId => {
            let (filename, content_type, content_id) = ("a.png".to_owned(), "image/png".to_owned(), Some("zoe@acme.example".to_owned()));
            content.attachments = vec![Attachment { filename, content_type, content: "aGk=".into(), content_id }];
        }
        _ => panic!("{feature:?} is no feature of email"),
    }
    content
}

#[test]
fn every_feature_of_an_email_provider_is_in_its_request() {
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Email) {
        let plain = usual(Channel::Email);
        let sent = |content: &Content<'_>| {
            let message = outbound(Channel::Email, "ada@example.com", content);
            match crate::bound(provider) {
                Bound::Http(call) => written(&call.request(&message, &Cx::default()).expect("a request")),
                Bound::Smtp(settings) => mail(&settings, &message),
                Bound::Smpp(_) => panic!("it sends no email"),
            }
        };
        assert!(!sent(&plain).contains("zoe@acme.example"));
        for feature in provider.spec.features {
            assert!(sent(&using(*feature, &plain)).contains("zoe@acme.example"), "{} does not carry {feature:?}", provider.spec.id);
        }
    }
}
