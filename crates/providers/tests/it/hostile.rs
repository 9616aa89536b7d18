//! Whatever a provider answers: no panic, no secret in what is kept, nothing that a log or a database would choke on.

use bytes::Bytes;
use proptest::prelude::*;
use raven_providers::{Bound, CATALOG, HttpCall, SendError, Sent, email::smtp};
use serde_json::Value;

use crate::{answer, bound, files, folder, read, secrets};

fn check(outcome: &Result<Sent, SendError>, secrets: &[String]) {
    let shown = format!("{outcome:?}");
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "{shown}");
    }
    match outcome {
        Ok(sent) => {
            let id = sent.provider_message_id.as_deref().unwrap_or("x");
            assert!(!id.is_empty() && id.chars().count() <= 300 && !id.contains(char::is_control), "{shown}");
            assert!(sent.segments.is_none_or(|n| n > 0), "{shown}");
        }
        Err(e) => {
            assert!(!e.message.contains(char::is_control) && !e.message.is_empty(), "{shown}");
            assert!(!e.code.is_empty() && e.code.len() <= 64 && !e.code.contains(char::is_control), "{shown}");
        }
    }
}

fn json_value(secret: String) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from(secret.clone())),
        any::<String>().prop_map(move |s| Value::from(format!("{s}{secret}{s}"))),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,12}", inner, 0..4).prop_map(|m| m.into_iter().collect())
        ]
    })
}

/// Replaces the `n`-th value of a document, counted from the root.
fn replace(document: &mut Value, n: &mut usize, with: &Value) {
    if *n == 0 {
        *n = usize::MAX;
        *document = with.clone();
        return;
    }
    *n -= 1;
    match document {
        Value::Array(items) => items.iter_mut().for_each(|v| {
            if *n != usize::MAX {
                replace(v, n, with)
            }
        }),
        Value::Object(members) => members.iter_mut().for_each(|(_, v)| {
            if *n != usize::MAX {
                replace(v, n, with)
            }
        }),
        _ => {}
    }
}

fn respond(call: &dyn HttpCall, status: u16, header: &[u8], body: Vec<u8>) -> Result<Sent, SendError> {
    let mut response = http::Response::new(Bytes::from(body));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("100 to 999");
    for name in ["retry-after", "date", "x-ratelimit-reset", "x-sib-ratelimit-reset", "x-message-id", "x-amzn-errortype"] {
        if let Ok(value) = http::HeaderValue::from_bytes(header) {
            response.headers_mut().insert(name, value);
        }
    }
    call.outcome(&response)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(status in 100u16..1000, header in prop::collection::vec(any::<u8>(), 0..40), body in prop::collection::vec(any::<u8>(), 0..300)) {
        for provider in CATALOG {
            if let Bound::Http(call) = bound(provider) {
                check(&respond(call.as_ref(), status, &header, body.clone()), &secrets(provider));
            }
        }
    }

    #[test]
    fn documented_answers_with_anything_in_them_never_panic(
        status in prop_oneof![Just(None), (100u16..1000).prop_map(Some)],
        file in any::<prop::sample::Index>(),
        at in 0usize..12,
        value in prop_oneof![Just(Value::from("x@SECRET@x")), json_value("@SECRET@".into())],
    ) {
        for provider in CATALOG {
            let Bound::Http(call) = bound(provider) else { continue };
            let all = files(folder(provider).join("answers"), "http");
            let original = answer(&read(file.get(&all)));
            let mut document: Value = serde_json::from_slice(original.body()).unwrap_or_default();
            let mut n = at;
            replace(&mut document, &mut n, &value);
            for secret in secrets(provider) {
                // Inside a string of JSON, where a key's line breaks and quotes are escaped.
                let escaped = Value::from(secret).to_string();
                let body = document.to_string().replace("@SECRET@", &escaped[1..escaped.len() - 1]);
                let status = status.unwrap_or(original.status().as_u16());
                check(&respond(call.as_ref(), status, b"17", body.into_bytes()), &secrets(provider));
            }
        }
    }

    #[test]
    fn unknown_codes_never_panic(code in any::<u64>(), status in 200u16..600) {
        for provider in CATALOG {
            let Bound::Http(call) = bound(provider) else { continue };
            let bodies = [
                format!(r#"{{"code":{code},"message":"new"}}"#),
                format!(r#"{{"ErrorCode":{code},"Message":"new","MessageID":"1"}}"#),
                format!(r#"{{"Messages":[{{"Status":"error","Errors":[{{"ErrorCode":"mj-{code}","StatusCode":{code}}}]}}]}}"#),
                format!(r#"{{"sid":"SM1","status":"failed","error_code":{code}}}"#),
                format!(r#"{{"SMSMessageData":{{"Message":"new","Recipients":[{{"statusCode":{code},"status":"new","messageId":"None"}}]}}}}"#),
                format!(r#"{{"messages":[{{"status":"{code}"}},{{"status":{code}}}]}}"#),
                format!(r#"{{"messages":[{{"status":{{"groupId":5,"id":{code}}}}}]}}"#),
                format!(r#"{{"errors":[{{"code":{code},"parameter":"new"}}]}}"#),
            ];
            for body in bodies {
                check(&respond(call.as_ref(), status, b"", body.into_bytes()), &[]);
            }
        }
    }

    #[test]
    fn any_smtp_reply_is_understood(code in any::<u16>(), text in any::<String>()) {
        let Bound::Smtp(settings) = bound(raven_providers::find("smtp").expect("smtp is in the catalog")) else { panic!("smtp is not HTTP") };
        let echo = format!("{text}correct-horse-battery");
        check(&settings.outcome(code, &echo), &["correct-horse-battery".to_owned()]);
        check(&smtp::outcome(code, &text), &[]);
    }
}

#[test]
fn an_echoed_credential_is_taken_out() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let provider = raven_providers::find("twilio").expect("twilio is in the catalog");
    let Bound::Http(call) = bound(provider) else { panic!("twilio speaks HTTP") };
    let token = &secrets(provider)[0];
    let basic = STANDARD.encode(format!("AC00000000000000000000000000000001:{token}"));
    for text in [token.clone(), format!("Basic {basic}"), format!("{}{token}", "x".repeat(280)), format!("{}{basic}", "x".repeat(230))] {
        let body = serde_json::json!({"code": 21211, "message": text}).to_string();
        let error = respond(call.as_ref(), 400, b"", body.into_bytes()).expect_err("it is refused");
        assert!(
            error.message.contains("[redacted]") && !error.message.contains(&token[..8]) && !error.message.contains(&basic[60..70]),
            "{error:?}"
        );
        assert_eq!(error.code, "invalid_recipient");
    }
}

#[test]
fn nothing_shows_a_secret_by_debug() {
    for provider in CATALOG {
        let bound = bound(provider);
        let mut shown = format!("{provider:?} {bound:?}");
        if let Bound::Smtp(settings) = &bound {
            shown += &format!("{settings:?}");
        }
        if let Bound::Smpp(settings) = &bound {
            shown += &format!("{settings:?}");
        }
        for secret in secrets(provider) {
            assert!(!shown.contains(&secret), "{shown}");
        }
    }
}
