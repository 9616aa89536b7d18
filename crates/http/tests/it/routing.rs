//! What a config says of the messages that it takes: the fields, and what is wrong with them.

use http::Method;
use raven_testkit::app::{TestApp, TestTenant, on_both};
use serde_json::{Value, json};

fn body(provider: &str, more: &Value) -> Value {
    let mut body = match provider {
        "postmark" => json!({ "publicConfig": { "from_email": "hello@example.com" }, "secretConfig": { "server_token": "of-tests" } }),
        _ => json!({ "publicConfig": { "username": "acme" }, "secretConfig": { "api_key": "atsk_of_tests" } }),
    };
    let fields = body.as_object_mut().expect("an object");
    fields.extend([("provider".to_owned(), json!(provider)), ("label".to_owned(), json!("One"))]);
    fields.extend(more.as_object().expect("an object").clone());
    body
}

async fn create(app: &TestApp, t: &TestTenant, provider: &str, more: Value) -> Value {
    let body = body(provider, &more);
    app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201)
}

const FIELDS: [&str; 6] = ["priority", "weight", "rules", "ratePerSecond", "burst", "concurrency"];

fn routing(config: &Value) -> Value {
    FIELDS.iter().map(|name| ((*name).to_owned(), config[*name].clone())).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn every_field_is_kept_changed_and_taken_away() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let usual = json!({ "priority": 100, "weight": 100, "rules": null, "ratePerSecond": null, "burst": null, "concurrency": null });
        assert_eq!(routing(&create(&app, &t, "africas_talking", json!({})).await), usual);
        let all = json!({
            "priority": 0, "weight": 1000, "ratePerSecond": 10_000, "burst": 1, "concurrency": 512,
            "rules": { "prefixes": ["+254"], "countries": ["ke", "TZ"] },
        });
        let made = create(&app, &t, "africas_talking", all).await;
        let kept = json!({
            "priority": 0, "weight": 1000, "ratePerSecond": 10_000, "burst": 1, "concurrency": 512,
            "rules": { "prefixes": ["+254"], "countries": ["KE", "TZ"], "domains": [] },
        });
        assert_eq!(routing(&made), kept);
        let path = format!("/v1/admin/providers/{}", made["id"].as_str().expect("an id"));
        let patch = async |change: Value| app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(change)).await;
        assert_eq!(routing(&patch(json!({ "label": "Two" })).await.expect(200)), kept, "what is not named stays");
        let changed = patch(json!({ "rate_per_second": 5, "burst": null, "rules": {} })).await.expect(200);
        assert_eq!((&changed["ratePerSecond"], &changed["burst"], &changed["rules"]), (&json!(5), &json!(5), &Value::Null));
        let nothing: Value = FIELDS.iter().map(|name| ((*name).to_owned(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(routing(&patch(nothing).await.expect(200)), usual);
        let found = app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200);
        assert_eq!(routing(&found), usual);
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_each_field_is_told_by_its_name() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let made = create(&app, &t, "africas_talking", json!({})).await;
        let path = format!("/v1/admin/providers/{}", made["id"].as_str().expect("an id"));
        let many: Vec<String> = (0..101).map(|n| format!("+254{n}")).collect();
        for (bad, field) in [
            (json!({ "priority": -1 }), "priority"),
            (json!({ "priority": 1001 }), "priority"),
            (json!({ "priority": "1" }), "priority"),
            (json!({ "weight": -1 }), "weight"),
            (json!({ "weight": 1001 }), "weight"),
            (json!({ "ratePerSecond": 0 }), "ratePerSecond"),
            (json!({ "ratePerSecond": 10_001 }), "ratePerSecond"),
            (json!({ "ratePerSecond": 1.5 }), "ratePerSecond"),
            (json!({ "ratePerSecond": 5, "burst": 0 }), "burst"),
            (json!({ "ratePerSecond": 5, "burst": 10_001 }), "burst"),
            (json!({ "burst": 5 }), "burst"),
            (json!({ "concurrency": 0 }), "concurrency"),
            (json!({ "concurrency": 513 }), "concurrency"),
            (json!({ "rules": "KE" }), "rules"),
            (json!({ "rules": ["KE"] }), "rules"),
            (json!({ "rules": { "country": ["KE"] } }), "rules.country"),
            (json!({ "rules": { "prefixes": "+254" } }), "rules.prefixes"),
            (json!({ "rules": { "prefixes": many } }), "rules.prefixes"),
            (json!({ "rules": { "prefixes": ["+254", "254"] } }), "rules.prefixes[1]"),
            (json!({ "rules": { "prefixes": ["+0"] } }), "rules.prefixes[0]"),
            (json!({ "rules": { "prefixes": ["+"] } }), "rules.prefixes[0]"),
            (json!({ "rules": { "prefixes": ["+1234567890123456"] } }), "rules.prefixes[0]"),
            (json!({ "rules": { "prefixes": [254] } }), "rules.prefixes[0]"),
            (json!({ "rules": { "countries": ["XX"] } }), "rules.countries[0]"),
            (json!({ "rules": { "countries": ["Kenya"] } }), "rules.countries[0]"),
            (json!({ "rules": { "domains": ["example.com"] } }), "rules.domains"),
        ] {
            let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body("africas_talking", &bad))).await;
            let changed = app.as_human(&t.owner, &t.slug, Method::PATCH, &path, Some(bad.clone())).await;
            for answer in [created, changed] {
                let error = answer.expect_error(400, if field == "rules.country" { "unknown_field" } else { "validation_failed" });
                assert_eq!(error["errors"].as_array().map(Vec::len), Some(1), "{bad}: {error}");
                assert_eq!(error["errors"][0]["field"], field, "{bad}");
                assert!(error["errors"][0]["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
            }
        }
        for (bad, field) in [
            (json!({ "rules": { "domains": ["not a domain"] } }), "rules.domains[0]"),
            (json!({ "rules": { "countries": ["KE"] } }), "rules.countries"),
            (json!({ "rules": { "prefixes": ["+254"] } }), "rules.prefixes"),
        ] {
            let answer = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body("postmark", &bad))).await;
            assert_eq!(answer.expect_error(400, "validation_failed")["errors"][0]["field"], field, "{bad}");
        }
        assert_eq!(app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200), made, "nothing has changed");
    })
    .await;
}

#[tokio::test]
async fn emails_go_by_the_domain_of_their_recipient() {
    // Nothing is sent: only told.
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let own = create(&app, &t, "postmark", json!({ "rules": { "domains": ["Example.com", "bücher.example"] } })).await;
        let all = create(&app, &t, "postmark", json!({})).await;
        for (to, expected) in [
            ("ada@example.com", &own),
            ("ada@EXAMPLE.com", &own),
            ("ada@xn--bcher-kva.example", &own),
            ("ada@mail.example.com", &all),
            ("ada@example.com.example.org", &all),
        ] {
            let email = json!({ "channel": "email", "to": to, "subject": "Hi", "bodyText": "Hi" });
            let told = app.with_key(&t.live, Method::POST, "/v1/messages?dryRun=true", Some(email)).await.expect(200);
            assert_eq!(told["route"]["providerConfigId"], expected["id"], "{to}");
        }
    })
    .await;
}
