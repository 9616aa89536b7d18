//! Why a message goes where it goes, or waits; and that a dry run tells what happens.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both_with, request},
    simulators::{AfricasTalking, Behaviour, Twilio},
};
use serde_json::{Value, json};

const TO: &str = "+254722000000";

/// Two providers of SMS, and options that reach them. Nothing listens where emails would go.
async fn world() -> (AfricasTalking, Twilio, TestOptions) {
    let (first, second) = (AfricasTalking::start().await, Twilio::start().await);
    let base_urls = [
        ("africas_talking".to_owned(), first.base_url()),
        ("twilio".to_owned(), second.base_url()),
        ("postmark".to_owned(), "http://127.0.0.1:9".to_owned()),
        ("brevo".to_owned(), "http://127.0.0.1:9".to_owned()),
    ]
    .into();
    (first, second, TestOptions { base_urls, call_cap: Duration::from_secs(5), ..TestOptions::default() })
}

/// A config with these fields beside those that its provider needs.
async fn config(app: &TestApp, t: &TestTenant, provider: &str, more: Value) -> String {
    let mut body = match provider {
        "twilio" => {
            json!({ "publicConfig": { "account_sid": format!("AC{}", "0".repeat(32)), "from": "+15005550006" }, "secretConfig": { "auth_token": "x".repeat(32) } })
        }
        "brevo" => json!({ "publicConfig": { "from_email": "hello@example.com" }, "secretConfig": { "api_key": "of-tests" } }),
        "postmark" => json!({ "publicConfig": {}, "secretConfig": { "server_token": "of-tests" } }),
        _ => json!({ "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "atsk_of_tests" } }),
    };
    let fields = body.as_object_mut().expect("an object");
    fields.extend([("provider".to_owned(), json!(provider)), ("label".to_owned(), json!(format!("A {provider}")))]);
    fields.extend(more.as_object().expect("an object").clone());
    let made = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
    made["id"].as_str().expect("an id").to_owned()
}

fn sms(more: Value) -> Value {
    let mut body = json!({ "channel": "sms", "to": TO, "body": "Hi" });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

async fn post(app: &TestApp, key: &str, body: Value) -> String {
    app.post_message(key, body).await.expect(202)["id"].as_str().expect("an id").to_owned()
}

async fn explain(app: &TestApp, key: &str, id: &str) -> Value {
    app.with_key(key, Method::GET, &format!("/v1/messages/{id}/explain"), None).await.expect(200)
}

async fn dry_run(app: &TestApp, t: &TestTenant, body: Value) -> Value {
    app.with_key(&t.live, Method::POST, "/v1/messages?dryRun=true", Some(body)).await.expect(200)
}

/// The codes in lists of reasons, wherever they are in an answer.
fn codes(told: &Value) -> Vec<&str> {
    let candidates = told["candidates"].as_array().into_iter().flatten();
    let lists = std::iter::once(&told["route"]["reasons"]).chain(candidates.map(|candidate| &candidate["reasons"]));
    let reasons = lists.flat_map(|list| list.as_array().into_iter().flatten());
    reasons.map(|reason| reason["code"].as_str().expect("a code")).collect()
}

/// What was told in the course of a test.
#[derive(Default)]
struct Seen {
    reasons: BTreeSet<String>,
    waits: BTreeSet<String>,
}

impl Seen {
    /// Notes an answer, which must tell these reasons and this one for waiting.
    #[track_caller]
    fn note(&mut self, told: &Value, reasons: &[&str], wait: Option<&str>) {
        let codes = codes(told);
        for reason in reasons {
            assert!(codes.contains(reason), "{reason} is not among {codes:?}: {told}");
        }
        assert_eq!(told["waiting"]["reason"].as_str(), wait, "{told}");
        self.reasons.extend(codes.into_iter().map(str::to_owned));
        self.waits.extend(wait.map(str::to_owned));
    }
}

/// The values that a document's schema allows, whatever names it goes by.
fn allowed(document: &Value, schema: &str, property: &str) -> BTreeSet<String> {
    let mut at = &document["components"]["schemas"][schema]["properties"][property];
    loop {
        let reference = at["$ref"].as_str().or_else(|| at["allOf"][0]["$ref"].as_str());
        match reference.and_then(|r| r.rsplit('/').next()) {
            Some(name) => at = &document["components"]["schemas"][name],
            None => break,
        }
    }
    at["enum"].as_array().unwrap_or_else(|| panic!("a closed list: {at}")).iter().map(|v| v.as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn every_reason_is_told_when_it_is_one() {
    let (first, _second, options) = world().await;
    on_both_with(options, async |app| {
        let mut seen = Seen::default();
        let document = app.send(request(Method::GET, "/v1/openapi.json", &[], None)).await.expect(200);

        // The sandbox.
        let t = app.tenant("Acme").await;
        let id = post(&app, &t.test, sms(json!({}))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.test, &id).await, &["sandbox"], Some("sandbox"));
        app.advance(Duration::from_secs(2)).await;
        let told = explain(&app, &t.test, &id).await;
        assert_eq!((&told["status"], &told["route"]["provider"]), (&json!("delivered"), &json!("sandbox")));
        seen.note(&told, &["went_through"], None);

        // One config: under way, gone, in trouble.
        let only = config(&app, &t, "africas_talking", json!({})).await;
        first.script(Behaviour::After(Duration::from_millis(300)));
        let id = post(&app, &t.live, sms(json!({}))).await;
        seen.note(&explain(&app, &t.live, &id).await, &["only_candidate"], Some("sending"));
        app.settle().await;
        let told = explain(&app, &t.live, &id).await;
        seen.note(&told, &["went_through"], None);
        assert_eq!(
            (&told["status"], &told["segments"], &told["encoding"], &told["route"]["providerConfigId"]),
            (&json!("sent"), &json!(1), &json!("gsm7"), &json!(only))
        );
        assert_eq!((&told["quota"]["used"], &told["limits"]["plan"]), (&json!(1), &json!("unlimited")), "{told}");
        first.script(Behaviour::ResetAfterRequest);
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &[], Some("outcome_unknown"));
        first.script(Behaviour::ServerError);
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        let told = explain(&app, &t.live, &id).await;
        seen.note(&told, &["only_candidate"], Some("retry"));
        assert!(told["waiting"]["until"].is_string());
        app.clock.advance(Duration::from_secs(5));
        seen.note(&explain(&app, &t.live, &id).await, &["only_candidate"], Some("queue"));

        // While the tenant is suspended; and when nothing takes it any more.
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/suspend", Some(json!({}))).await.expect(200);
        let admin = format!("/v1/admin/messages/{id}/explain");
        seen.note(&app.as_human(&t.owner, &t.slug, Method::GET, &admin, None).await.expect(200), &[], Some("tenant_suspended"));
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/tenant/reactivate", Some(json!({}))).await.expect(200);
        app.as_human(&t.owner, &t.slug, Method::DELETE, &format!("/v1/admin/providers/{only}"), None).await.expect(204);
        app.advance(Duration::from_secs(1)).await;
        let told = explain(&app, &t.live, &id).await;
        seen.note(&told, &[], Some("no_candidate"));
        assert_eq!((&told["route"], &told["candidates"]), (&Value::Null, &json!([])));

        // Refused credentials.
        let t = app.tenant("Bolt").await;
        config(&app, &t, "africas_talking", json!({})).await;
        first.script(Behaviour::WrongCredentials);
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &["paused"], Some("provider_paused"));
        let later = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &later).await, &["paused"], Some("provider_paused"));

        // An open breaker, alone and with another config.
        let t = app.tenant("Crow").await;
        config(&app, &t, "africas_talking", json!({ "priority": 1 })).await;
        first.script_always(Behaviour::ServerError);
        for _ in 0..5 {
            post(&app, &t.live, sms(json!({}))).await;
            app.settle().await;
        }
        first.script_always(Behaviour::Normal);
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        let told = explain(&app, &t.live, &id).await;
        seen.note(&told, &["breaker_open", "only_candidate"], Some("breaker_open"));
        assert!(told["waiting"]["until"].is_string());
        config(&app, &t, "twilio", json!({ "priority": 2 })).await;
        seen.note(&dry_run(&app, &t, sms(json!({}))).await, &["first_by_breaker"], None);

        // Why the first one is first.
        let t = app.tenant("Dove").await;
        config(&app, &t, "africas_talking", json!({})).await;
        config(&app, &t, "twilio", json!({})).await;
        seen.note(&dry_run(&app, &t, sms(json!({}))).await, &["first_by_draw"], None);
        let t = app.tenant("Egret").await;
        config(&app, &t, "africas_talking", json!({ "priority": 1 })).await;
        let other = config(&app, &t, "twilio", json!({ "priority": 2 })).await;
        seen.note(&dry_run(&app, &t, sms(json!({}))).await, &["first_by_priority"], None);
        let patch = async |change: Value| {
            app.as_human(&t.owner, &t.slug, Method::PATCH, &format!("/v1/admin/providers/{other}"), Some(change)).await.expect(200);
        };
        patch(json!({ "weight": 0 })).await;
        seen.note(&dry_run(&app, &t, sms(json!({}))).await, &["first_by_weight_at_all"], None);
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &["stands_by", "went_through"], None);
        patch(json!({ "weight": 100, "priority": 1, "rules": { "countries": ["KE"] } })).await;
        seen.note(&dry_run(&app, &t, sms(json!({}))).await, &["first_by_rules"], None);

        // Why a config is no candidate.
        let id = post(&app, &t.live, sms(json!({ "to": "+447700900123" }))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &["rules"], None);
        let id = post(&app, &t.live, sms(json!({ "provider": "africas_talking" }))).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &["pinned_elsewhere"], None);
        config(&app, &t, "postmark", json!({ "publicConfig": { "from_email": "hello@example.com" } })).await;
        config(&app, &t, "postmark", json!({})).await;
        config(&app, &t, "brevo", json!({})).await;
        let picture = json!({ "filename": "a.png", "contentType": "image/png", "content": "aGk=", "contentId": "a" });
        let email = json!({ "channel": "email", "to": "ada@example.com", "subject": "Hi", "bodyHtml": "<img src=cid:a>", "attachments": [picture] });
        let id = post(&app, &t.live, email).await;
        app.settle().await;
        seen.note(&explain(&app, &t.live, &id).await, &["no_sender", "unsupported_feature", "only_candidate"], Some("retry"));

        // One that was tried, and one with a pace.
        let t = app.tenant("Finch").await;
        config(&app, &t, "africas_talking", json!({ "priority": 1 })).await;
        config(&app, &t, "twilio", json!({ "priority": 2, "ratePerSecond": 1, "burst": 1 })).await;
        post(&app, &t.live, sms(json!({ "provider": "twilio" }))).await;
        first.script(Behaviour::RateLimited { retry_after: None });
        let id = post(&app, &t.live, sms(json!({}))).await;
        app.settle().await;
        let told = explain(&app, &t.live, &id).await;
        seen.note(&told, &["first_untried", "tried", "pace"], Some("pace"));
        assert_eq!((&told["candidates"][0]["chosen"], &told["candidates"][1]["chosen"]), (&json!(true), &json!(false)));
        app.advance(Duration::from_secs(1)).await;
        seen.note(&explain(&app, &t.live, &id).await, &["went_through"], None);

        assert_eq!(seen.reasons, allowed(&document, "RoutingReason", "code"));
        assert_eq!(seen.waits, allowed(&document, "WaitingView", "reason"));
    })
    .await;
}

#[tokio::test]
async fn a_message_is_explained_to_whoever_may_read_it_and_to_nobody_else() {
    let (_first, _second, options) = world().await;
    on_both_with(options, async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        config(&app, &t, "africas_talking", json!({})).await;
        let (live, test) = (post(&app, &t.live, sms(json!({}))).await, post(&app, &t.test, sms(json!({}))).await);
        app.settle().await;
        let key = async |key: &str, id: &str| app.with_key(key, Method::GET, &format!("/v1/messages/{id}/explain"), None).await;
        assert_eq!(key(&t.live, &live).await.expect(200)["environment"], "live");
        assert_eq!(key(&t.test, &test).await.expect(200)["candidates"], json!([]), "the sandbox alone");
        for (whose, id) in [(&t.test, &live), (&t.live, &test), (&other.live, &live), (&other.test, &test)] {
            key(whose, id).await.expect_error(404, "not_found");
        }
        key(&t.live, "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d").await.expect_error(404, "not_found");
        key(&t.live, "no-id").await.expect_error(404, "not_found");
        let viewer = app.join(&t, "viewer@example.com", "viewer").await;
        for id in [&live, &test] {
            let path = format!("/v1/admin/messages/{id}/explain");
            app.as_human(&viewer, &t.slug, Method::GET, &path, None).await.expect(200);
            app.as_human(&other.owner, &other.slug, Method::GET, &path, None).await.expect_error(404, "not_found");
            app.as_human(&t.owner, &t.slug, Method::GET, &format!("{path}?deep=true"), None).await.expect(400);
        }
        // Nothing is to be done for one whose recipient is suppressed.
        let suppression = json!({ "channel": "sms", "address": TO, "reason": "unsubscribed" });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(suppression)).await.expect(201);
        let id = post(&app, &t.live, sms(json!({}))).await;
        let told = explain(&app, &t.live, &id).await;
        assert_eq!(
            (&told["status"], &told["suppressionReason"], &told["waiting"], &told["route"]),
            (&json!("suppressed"), &json!("unsubscribed"), &Value::Null, &Value::Null),
            "{told}"
        );
        app.advance(raven_providers::sandbox::DELIVERED_AFTER).await;
    })
    .await;
}

/// A small generator: the same numbers each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).expect("small")]
    }
}

#[tokio::test]
async fn the_route_that_a_dry_run_tells_is_the_one_that_is_taken() {
    const WORLDS: usize = 12;
    let (_first, _second, options) = world().await;
    on_both_with(options, async |app| {
        let mut dice = Dice(42);
        let rules = [Value::Null, Value::Null, json!({ "countries": ["KE"] }), json!({ "prefixes": ["+4477", "+15"] })];
        let mut refused = 0;
        for n in 0..WORLDS {
            let t = app.tenant(&format!("Acme{n}")).await;
            let mut pins = vec!["africas_talking".to_owned(), "twilio".to_owned(), "plivo".to_owned()];
            // No two have the same priority, so nothing is drawn.
            let start = dice.below(7);
            for place in 0..=dice.below(4) {
                let mut fields = json!({ "priority": (start + place * 3) % 7, "weight": dice.one_of(&[0, 100, 100]) });
                fields["rules"] = dice.one_of(&rules).clone();
                let provider = *dice.one_of(&["africas_talking", "twilio"]);
                pins.push(config(&app, &t, provider, fields).await);
            }
            for _ in 0..6 {
                let mut body = sms(json!({ "to": dice.one_of(&[TO, "+447700900123", "+15005550010"]) }));
                if dice.below(3) == 0 {
                    body["provider"] = json!(dice.one_of(&pins));
                }
                if dice.below(12) == 0 {
                    body["mediaUrl"] = json!("https://example.com/a.png");
                }
                let told = dry_run(&app, &t, body.clone()).await;
                if told["wouldSend"] == false {
                    let code = told["reasons"][0]["code"].as_str().expect("a code");
                    app.post_message(&t.live, body).await.expect_error(400, code);
                    assert_eq!(told["route"], Value::Null, "{told}");
                    refused += 1;
                    continue;
                }
                let id = post(&app, &t.live, body.clone()).await;
                app.settle().await;
                let message = app.message(&t.live, &id).await;
                assert_eq!(
                    (&message["status"], &message["providerConfigId"]),
                    (&json!("sent"), &told["route"]["providerConfigId"]),
                    "{body}"
                );
                assert_eq!((&message["provider"], &told["segments"]), (&told["route"]["provider"], &message["segments"]), "{body}");
            }
        }
        assert!((1..WORLDS * 4).contains(&refused), "{refused}: some, and not most");
    })
    .await;
}
