//! Golden requests: what leaves for the provider, byte for byte.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use raven_core::message::Content;
use raven_providers::{Bound, CATALOG, Cx, email::smtp};
use serde_json::Value;

use crate::{files, folder, json, outbound, read, settings};

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
            let cx = Cx { base_url: case["baseUrl"].as_str().map(Into::into), token: case["token"].as_str() };
            let found = match provider.bind(&public, &secret).expect("valid settings fit") {
                Bound::Http(call) => written(&call.request(&message, &cx).expect("a request")),
                Bound::Smtp(settings) => mail(&settings, &message),
            };
            let expected = read(&file.with_extension("expected"));
            if expected.is_empty() { std::fs::write(file.with_extension("expected"), format!("{}\n", found.trim_end())).expect("w"); }
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
    format!("MAIL FROM:<{from}>\nRCPT TO:<{}>\n\n{}", to.join(","), text.replace("\r\n", "\n"))
}

#[test]
fn credentials_in_headers_are_marked_sensitive() {
    for provider in CATALOG {
        let Bound::Http(call) = crate::bound(provider) else { continue };
        let content = Content { body: Some("Hi".into()), ..Content::default() };
        let request = call.request(&outbound(provider.spec.channel, crate::recipient(provider), &content), &Cx::default()).expect("a request");
        let shown = format!("{request:?}");
        for secret in crate::secrets(provider) {
            assert!(!shown.contains(&secret), "{}: {shown}", provider.spec.id);
        }
        assert!(request.headers().values().any(http::HeaderValue::is_sensitive), "{}", provider.spec.id);
        assert_eq!(request.uri().scheme_str(), Some("https"), "{}", provider.spec.id);
    }
}
