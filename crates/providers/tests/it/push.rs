//! What can't be sent as a notification, keys that are none, and tokens.

use std::time::Duration;

use aws_lc_rs::{
    rsa::KeyPair,
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use raven_core::{
    Channel, Timestamp,
    message::{Content, Feature},
};
use raven_providers::{Bound, CATALOG, Class, Cx, HttpCall, Members, Outbound, SendError, find};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{answer, bound, outbound, recipient, settings};

fn call(id: &str) -> Box<dyn HttpCall> {
    let Bound::Http(call) = bound(find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
    call
}

fn refused(id: &str, to: &str, content: &Content<'_>) -> SendError {
    let error = call(id).request(&outbound(Channel::Push, to, content), &Cx::default()).expect_err("it can't be sent");
    assert_eq!(error.class, Class::Rejected);
    error
}

fn text(body: &str) -> Content<'_> {
    Content { body: Some(body.into()), ..Content::default() }
}

fn subscription(endpoint: &str) -> String {
    recipient(find("web_push").expect("it is in the catalog"))
        .replace("https://updates.push.services.mozilla.com/wpush/v2/gAAAAABm", endpoint)
}

#[test]
fn every_push_provider_carries_every_field_of_a_notification() {
    for provider in CATALOG.iter().filter(|p| p.spec.channel == Channel::Push) {
        let fields = [Feature::Title, Feature::Data, Feature::Badge, Feature::CollapseKey, Feature::Ttl];
        assert_eq!(provider.spec.features, fields, "{}", provider.spec.id);
    }
}

#[test]
fn a_push_service_is_one_that_is_known() {
    for endpoint in [
        "https://example.com/push",
        "https://127.0.0.1/push",
        "https://169.254.169.254/latest",
        "https://fcm.googleapis.com.example.com/x",
        "https://xfcm.googleapis.com/x",
        "https://evilpush.apple.com.example/x",
        "https://evil-push.services.mozilla.com/x",
        "https://fcm.googleapis.com:8443/x",
        "https://[::1]/x",
    ] {
        for base in [None, Some("http://127.0.0.1:9913".into())] {
            let to = subscription(endpoint);
            let content = text("Hi");
            let message = outbound(Channel::Push, &to, &content);
            let error =
                call("web_push").request(&message, &Cx { base_url: base, token: None, callback_url: None }).expect_err("it is unknown");
            assert_eq!((error.class, error.code.as_str()), (Class::Rejected, "unknown_push_service"), "{endpoint}");
        }
    }
    for endpoint in ["http://fcm.googleapis.com/x", "https://fcm.googleapis.com@example.com/x", "https://a@fcm.googleapis.com/x", "/x", ""]
    {
        assert_eq!(refused("web_push", &subscription(endpoint), &text("Hi")).code, "invalid_recipient", "{endpoint}");
    }
}

#[test]
fn a_recipient_of_another_kind_is_refused() {
    let good = recipient(find("web_push").expect("it is in the catalog"));
    let off_curve = good.replace("BCVxsr7N", "BCVxsr7M");
    for to in ["token", "{}", r#"{"endpoint":"https://fcm.googleapis.com/x"}"#, &off_curve, &good.replace("BTBZMqHH", "BTBZ")] {
        assert_eq!(refused("web_push", to, &text("Hi")).code, "invalid_recipient", "{to}");
    }
    for to in ["", "../../3/device/00", "abc/def", "zz", good] {
        assert_eq!(refused("apns", to, &text("Hi")).code, "invalid_recipient", "{to}");
    }
}

#[test]
fn what_is_too_large_or_reserved_is_refused() {
    let long = "x".repeat(4096);
    assert_eq!(refused("apns", "00ff", &text(&long)).code, "message_too_large");
    assert_eq!(refused("web_push", &subscription("https://fcm.googleapis.com/x"), &text(&long)).code, "message_too_large");
    let data = |name: &str| Content { data: [(name.to_owned(), "1".to_owned())].into(), ..Content::default() };
    assert_eq!(refused("apns", "00ff", &data("aps")).code, "invalid_data");
    for name in ["from", "gcm", "message_type", "google.x", "gcm.notification.x"] {
        assert_eq!(refused("fcm", "token", &data(name)).code, "invalid_data", "{name}");
    }
    assert_eq!(refused("fcm", "token", &Content { ttl: Some(2_419_201), ..text("Hi") }).code, "invalid_ttl");
}

#[test]
fn the_largest_notifications_fill_what_is_allowed() {
    let to = subscription("https://fcm.googleapis.com/x");
    // {"body":"…"}
    let body = "x".repeat(3993 - 11);
    let content = text(&body);
    let request = call("web_push").request(&outbound(Channel::Push, &to, &content), &Cx::default()).expect("it fits");
    assert_eq!(request.body().len(), 4096);
    // {"aps":{"alert":{"body":"…"}}}
    let body = "x".repeat(4096 - 29);
    let content = text(&body);
    let request = call("apns").request(&outbound(Channel::Push, "00ff", &content), &Cx::default()).expect("it fits");
    assert_eq!(request.body().len(), 4096);
}

#[test]
fn no_two_bodies_share_a_key() {
    let call = call("web_push");
    let to = subscription("https://fcm.googleapis.com/x");
    let other = to.replace("BTBZMqHH", "CTBZMqHH");
    let (content, changed) = (text("Hi"), text("Ho"));
    let base = outbound(Channel::Push, &to, &content);
    let head = |message: &Outbound<'_>| call.request(message, &Cx::default()).expect("a request").body()[..86].to_vec();
    let heads = [
        head(&base),
        head(&Outbound { attempt: 2, ..base }),
        head(&Outbound { now: Timestamp::from_millis(base.now.millis() + 1), ..base }),
        head(&Outbound { content: &changed, ..base }),
        head(&Outbound { recipient: &other, ..base }),
    ];
    for (n, one) in heads.iter().enumerate() {
        assert!(heads[..n].iter().all(|h| h[..16] != one[..16] && h[21..] != one[21..]), "{n}");
    }
    assert_eq!(head(&base), heads[0]);
}

#[test]
fn apple_sees_one_token_in_half_an_hour() {
    let call = call("apns");
    let content = text("Hi");
    let token = |second: i64| {
        let message = Outbound { now: Timestamp::from_millis(second * 1000), ..outbound(Channel::Push, "00ff", &content) };
        call.request(&message, &Cx::default()).expect("a request").headers()["authorization"].clone()
    };
    assert_eq!(token(1_777_629_600), token(1_777_631_399));
    assert_ne!(token(1_777_629_600), token(1_777_631_400));
}

#[test]
fn apple_looks_at_the_key_before_the_device() {
    let call = call("apns");
    let request = call.verify(Timestamp::from_millis(1_777_631_098_114), &Cx::default()).expect("a check");
    assert_eq!(request.uri(), &*format!("https://api.push.apple.com/3/device/{}", "0".repeat(64)));
    assert_eq!(
        (request.headers()["apns-push-type"].as_bytes(), request.headers()["apns-priority"].as_bytes()),
        (&b"background"[..], &b"5"[..])
    );
    let said =
        |status: u16, reason: &str| call.verified(&answer(&format!("HTTP/1.1 {status} X\napns-id: 1\n\n{{\"reason\":\"{reason}\"}}")));
    for (status, reason) in [(400, "BadDeviceToken"), (400, "DeviceTokenNotForTopic"), (410, "Unregistered")] {
        assert!(said(status, reason).is_ok(), "{reason}");
    }
    for (status, reason) in
        [(403, "InvalidProviderToken"), (403, "BadEnvironmentKeyIdInToken"), (400, "TopicDisallowed"), (400, "BadTopic")]
    {
        assert_eq!(said(status, reason).expect_err("it is wrong").class, Class::Credentials, "{reason}");
    }
    assert!(matches!(said(503, "ServiceUnavailable").expect_err("it can't be told").class, Class::Retry { .. }));
}

#[test]
fn keys_that_are_none_are_told_when_settings_are_read() {
    let wrong = |id: &str, change: &dyn Fn(&mut Members, &mut Members)| {
        let provider = find(id).expect("it is in the catalog");
        let (mut public, mut secret) = settings(provider);
        change(&mut public, &mut secret);
        provider.spec.validate(Some(&public.clone().into()), Some(&secret.clone().into())).expect("each field is of its kind");
        provider.bind(&public, &secret).expect_err("it is no key")
    };
    let pem = "-----BEGIN PRIVATE KEY-----\nZq9Zq9Zq9Zq9\n-----END PRIVATE KEY-----\n";
    let errors = [
        wrong("apns", &|_, secret| drop(secret.insert("private_key".into(), pem.into()))),
        wrong("web_push", &|_, secret| drop(secret.insert("private_key".into(), "Zq9Zq9".into()))),
        wrong("fcm", &|_, secret| drop(secret.insert("service_account".into(), "Zq9Zq9".into()))),
        wrong("fcm", &|_, secret| drop(secret.insert("service_account".into(), json!({"project_id": "Zq9"}).to_string().into()))),
        wrong("fcm", &|_, secret| {
            let mut account: Value = serde_json::from_str(secret["service_account"].as_str().expect("text")).expect("JSON");
            account["private_key"] = pem.into();
            secret.insert("service_account".into(), account.to_string().into());
        }),
        wrong("fcm", &|_, secret| {
            let text = secret["service_account"].as_str().expect("text").replace("\"acme-notifications\"", "\"../Zq9\"");
            secret.insert("service_account".into(), text.into());
        }),
        wrong("web_push", &|public, _| {
            // Another pair's: the browser's of RFC 8291.
            let other = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
            public.insert("public_key".into(), other.into());
        }),
    ];
    for error in &errors {
        let field = error.split(' ').next().unwrap_or_default();
        assert!(field.starts_with("secretConfig.") || field == "publicConfig.public_key", "{error}");
        assert!(!error.contains("Zq9"), "{error}");
    }
    assert!(call("web_push").verify(Timestamp::from_millis(0), &Cx::default()).is_none());
}

#[test]
fn google_trades_a_signed_claim_for_a_token() {
    let call = call("fcm");
    let now = Timestamp::from_millis(1_777_631_098_114);
    let request = call.token_request(now, &Cx::default()).expect("a request");
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "https://oauth2.googleapis.com/token"));
    assert!(!request.headers().contains_key("authorization"));
    let form: Vec<(String, String)> = form_urlencoded::parse(request.body()).into_owned().collect();
    assert_eq!(form[0], ("grant_type".to_owned(), "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned()));
    assert_eq!((form[1].0.as_str(), form[1].1.split('.').count(), form.len()), ("assertion", 3, 2));
    let (signed, signature) = form[1].1.rsplit_once('.').expect("three parts");
    let account = settings(find("fcm").expect("it is in the catalog")).1;
    let account: Value = serde_json::from_str(account["service_account"].as_str().expect("text")).expect("JSON");
    let key: String = account["private_key"].as_str().expect("text").lines().filter(|l| !l.starts_with('-')).collect();
    let key = KeyPair::from_pkcs8(&STANDARD.decode(key).expect("base64")).expect("a key");
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).expect("base64url")).expect("a good signature");
    let claims = URL_SAFE_NO_PAD.decode(signed.rsplit_once('.').expect("two parts").1).expect("base64url");
    assert_eq!(
        serde_json::from_slice::<Value>(&claims).expect("JSON"),
        json!({
            "iss": "raven@acme-notifications.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 1_777_631_098,
            "exp": 1_777_634_698,
        })
    );
    let cx = Cx { base_url: Some("http://127.0.0.1:9912/v1".into()), token: None, callback_url: None };
    assert_eq!(call.token_request(now, &cx).expect("a request").uri(), "http://127.0.0.1:9912/v1/token");
    assert!(call.wants_token() && call.verify(now, &cx).is_none(), "a token that was handed out is check enough");
}

#[test]
fn a_token_is_used_until_shortly_before_its_end() {
    let call = call("fcm");
    let got = call.token(&answer("HTTP/1.1 200 OK\n\n{\"access_token\":\"ya29.x\",\"expires_in\":3599,\"token_type\":\"Bearer\"}"));
    let token = got.expect("a token");
    assert_eq!((token.secret.expose_secret(), token.lasts), ("ya29.x", Duration::from_secs(3299)));
    let class = |text: &str| call.token(&answer(text)).expect_err("no token").class;
    let refused = "HTTP/1.1 400 Bad Request\n\n{\"error\":\"invalid_grant\",\"error_description\":\"Invalid JWT Signature.\"}";
    assert_eq!(class(refused), Class::Credentials);
    assert_eq!(class("HTTP/1.1 401 Unauthorized\n\n{\"error\":\"invalid_client\"}"), Class::Credentials);
    // Nothing was sent with what did not come.
    for text in [
        "HTTP/1.1 200 OK\n\n<html>",
        "HTTP/1.1 200 OK\n\n{\"access_token\":\"\"}",
        "HTTP/1.1 200 OK\n\n{\"access_token\":\"a\\nb\"}",
        "HTTP/1.1 504 Gateway Timeout\n\n",
        "HTTP/1.1 404 Not Found\n\n",
        "HTTP/1.1 400 Bad Request\n\n{\"error\":\"invalid_request\"}",
    ] {
        assert_eq!(class(text), Class::Retry { after: None }, "{text}");
    }
    assert_eq!(class("HTTP/1.1 503 Service Unavailable\nRetry-After: 7\n\n"), Class::Retry { after: Some(Duration::from_secs(7)) });
    assert_eq!(class("HTTP/1.1 429 Too Many Requests\nRetry-After: 7\n\n"), Class::RateLimited { after: Some(Duration::from_secs(7)) });
}

#[test]
fn apples_token_is_the_same_for_half_an_hour_on_every_node() {
    let (one, other) = (call("apns"), call("apns"));
    let content = text("Hi");
    let at = |call: &dyn HttpCall, seconds: i64| {
        let message =
            Outbound { now: Timestamp::from_millis(1_800_000_000_000 + seconds * 1000), ..outbound(Channel::Push, "00ff", &content) };
        call.request(&message, &Cx::default()).expect("a request").headers()["authorization"].to_str().expect("ASCII").to_owned()
    };
    let first = at(&*one, 0);
    assert_eq!(at(&*one, 1799), first);
    assert_eq!(at(&*other, 900), first);
    let second = at(&*one, 1800);
    assert_ne!(second, first);
    assert_eq!(at(&*one, 0), first, "a clock that is set back gets what it would have got");
}
