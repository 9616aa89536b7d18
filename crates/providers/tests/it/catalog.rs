//! The catalog itself: its documentation, and how strictly it takes settings.

use std::collections::HashSet;

use raven_core::FieldProblem;
use raven_providers::{CATALOG, Field, Kind, Provider, Rule, find};
use serde_json::{Value, json};

use crate::settings;

/// The problems of a provider's settings.
fn problems(provider: &Provider, public: &Value, secret: &Value) -> Vec<FieldProblem> {
    provider.spec.validate(Some(public), Some(secret)).err().map(raven_core::Problems::into_vec).unwrap_or_default()
}

fn named<'p>(problems: &'p [FieldProblem], field: &str) -> Option<&'p str> {
    problems.iter().find(|p| p.field == field).map(|p| p.message.as_str())
}

/// The fixtures' settings with one field changed; absent for `None`.
fn with(provider: &Provider, field: &Field, value: Option<Value>) -> (Value, Value) {
    let (mut public, mut secret) = settings(provider);
    let side = if field.secret { &mut secret } else { &mut public };
    match value {
        Some(value) => side.insert(field.name.to_owned(), value),
        None => side.remove(field.name),
    };
    (public.into(), secret.into())
}

#[test]
fn every_provider_and_field_is_documented() {
    let mut ids = HashSet::new();
    for provider in CATALOG {
        let spec = provider.spec;
        assert!(ids.insert(spec.id), "{} stands twice", spec.id);
        assert_eq!(find(spec.id).expect("it is found").spec.name, spec.name);
        assert!(spec.docs_url.starts_with("https://") && !spec.name.is_empty());
        assert!(spec.base_url.is_none_or(|url| url.starts_with("https://") && !url.ends_with('/')));
        let mut names = HashSet::new();
        for field in spec.fields {
            assert!(names.insert(field.name), "{} stands twice", field.name);
            assert!(field.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", field.name);
            assert!(!field.label.is_empty() && field.help.ends_with('.') && field.help.len() > 20, "{}", field.name);
            assert!(!field.secret || matches!(field.kind, Kind::Text(_) | Kind::Token(_) | Kind::Document(_)), "{}", field.name);
        }
        let known = |name: &&str| names.contains(name);
        for rule in spec.rules {
            match rule {
                Rule::AnyOf(of) => assert!(of.len() > 1 && of.iter().all(known)),
                Rule::Together(a, b) => assert!(known(a) && known(b)),
            }
        }
    }
    assert!(find("nobody").is_none() && find("").is_none());
}

#[test]
fn required_fields_are_required() {
    for provider in CATALOG {
        for field in provider.spec.fields.iter().filter(|f| f.required) {
            for absent in [None, Some(Value::Null)] {
                let (public, secret) = with(provider, field, absent);
                assert_eq!(named(&problems(provider, &public, &secret), &field.path()), Some("is required"));
            }
        }
        let all = provider.spec.validate(None, None).expect_err("nothing was given").into_vec();
        for field in provider.spec.fields.iter().filter(|f| f.required) {
            assert!(named(&all, &field.path()).is_some(), "{} is not told at once", field.name);
        }
    }
}

#[test]
fn wrong_values_are_refused_and_never_repeated() {
    let wrong =
        [json!(""), json!("Zq9\r\nX-Evil: 1"), json!("Zq9\u{0}"), json!({"Zq9": 1}), json!(["Zq9"]), json!(-7), json!("Zq9".repeat(4000))];
    for provider in CATALOG {
        for field in provider.spec.fields {
            for value in &wrong {
                if matches!(field.kind, Kind::Document(_)) && value.as_str().is_some_and(|v| v.contains('\n')) {
                    continue;
                }
                let (public, secret) = with(provider, field, Some(value.clone()));
                let found = problems(provider, &public, &secret);
                let message = named(&found, &field.path()).unwrap_or_else(|| panic!("{} takes {value}", field.path()));
                assert!(!message.contains("Zq9"), "{message}");
            }
        }
    }
}

#[test]
fn a_secret_in_the_public_part_is_refused_without_its_value() {
    for provider in CATALOG {
        let (public, secret) = settings(provider);
        for field in provider.spec.fields.iter().filter(|f| f.secret) {
            let mut exposed = public.clone();
            exposed.insert(field.name.to_owned(), json!("hunter2hunter2"));
            let found = problems(provider, &exposed.into(), &secret.clone().into());
            let message = named(&found, &format!("publicConfig.{}", field.name)).expect("it is refused");
            assert_eq!(message, format!("is a secret: give it as secretConfig.{}", field.name));
            assert!(!format!("{found:?}").contains("hunter2"));
        }
        for field in provider.spec.fields.iter().filter(|f| !f.secret) {
            let mut hidden = secret.clone();
            hidden.insert(field.name.to_owned(), json!("x"));
            let found = problems(provider, &public.clone().into(), &hidden.into());
            assert!(named(&found, &format!("secretConfig.{}", field.name)).is_some(), "{}", field.name);
        }
    }
}

#[test]
fn an_unknown_field_is_named_with_the_nearest_known_one() {
    let provider = find("africas_talking").expect("it is in the catalog");
    let found = problems(provider, &json!({"username": "acme", "senderId": "ACME"}), &json!({"api_key": "k", "apiKeys": "Zq9"}));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(named(&found, "publicConfig.senderId"), Some("is no setting of Africa's Talking; did you mean publicConfig.sender_id?"));
    assert_eq!(named(&found, "secretConfig.apiKeys"), Some("is no setting of Africa's Talking; did you mean secretConfig.api_key?"));
    let found = problems(provider, &json!({"username": "acme", "zzz": 1}), &json!({"api_key": "k"}));
    assert_eq!(named(&found, "publicConfig.zzz"), Some("is no setting of Africa's Talking; it has username, sender_id, region"));
}

#[test]
fn a_flood_of_unknown_fields_is_cut_short() {
    let flood: serde_json::Map<_, _> = (0..5000).map(|n| (format!("field_{n}"), json!(1))).collect();
    let found = problems(&CATALOG[0], &flood.into(), &json!({}));
    assert!(found.len() < 40, "{}", found.len());
    assert_eq!(named(&found, "publicConfig"), Some("has 5000 unknown fields"));
}

#[test]
fn parts_that_are_no_objects_are_refused() {
    let found = problems(&CATALOG[0], &json!("acme"), &json!([1]));
    assert_eq!(named(&found, "publicConfig"), Some("must be an object"));
    assert_eq!(named(&found, "secretConfig"), Some("must be an object"));
}

#[test]
fn twilio_wants_a_sender_and_whole_api_keys() {
    let provider = find("twilio").expect("it is in the catalog");
    let sid = format!("AC{}", "0".repeat(32));
    let token = json!({"auth_token": "t"});
    let found = problems(provider, &json!({"account_sid": sid}), &token);
    assert_eq!(named(&found, "publicConfig.from"), Some("is required unless messaging_service_sid is given"));
    let key = format!("SK{}", "0".repeat(32));
    let found = problems(provider, &json!({"account_sid": sid, "from": "ACME", "api_key_sid": key}), &token);
    assert_eq!(named(&found, "secretConfig.api_key_secret"), Some("is required when publicConfig.api_key_sid is given"));
    let service = format!("MG{}", "0".repeat(32));
    assert!(problems(provider, &json!({"account_sid": sid, "messaging_service_sid": service}), &token).is_empty());
}

#[test]
fn settings_that_do_not_fit_are_told_without_values() {
    for provider in CATALOG {
        let (public, mut secret) = settings(provider);
        for value in secret.values_mut() {
            *value = json!({"Zq9": "Zq9"});
        }
        let error = provider.bind(&public, &secret).expect_err("secrets are strings");
        assert!(!error.contains("Zq9") && error.contains("secretConfig."), "{error}");
    }
}
