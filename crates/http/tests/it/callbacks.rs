//! Callbacks of providers: whose they are, that they are durable, what they do to messages.

use axum::body::Body;
use http::{Method, Request, header};
use raven_engine::callbacks::CallbackOptions;
use raven_store::Replay;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant, on_both, on_both_with},
    simulators::AfricasTalking,
};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";

/// An app whose SMS go to a simulator.
async fn simulated() -> (AfricasTalking, TestOptions) {
    let sim = AfricasTalking::start().await;
    let base_urls = [("africas_talking".to_owned(), sim.base_url())].into();
    (sim, TestOptions { base_urls, ..TestOptions::default() })
}

/// The path of a config's callback URL.
fn path_of(config: &Value) -> String {
    let url = config["callbackUrl"].as_str().expect("a URL");
    url.strip_prefix("http://raven.test").expect("it begins with the public URL").to_owned()
}

/// Sends an SMS; its id, and the provider's.
async fn sent(app: &TestApp, t: &TestTenant, to: &str) -> (String, String) {
    let message = json!({ "channel": "sms", "to": to, "body": "Hi" });
    let accepted = app.post_message(&t.live, message).await.expect(202);
    app.settle().await;
    let id = accepted["id"].as_str().expect("an id").to_owned();
    let provider_id = app.message(&t.live, &id).await["providerMessageId"].as_str().expect("it was sent").to_owned();
    (id, provider_id)
}

async fn apply(app: &TestApp) -> usize {
    app.engine.applier.step().await.expect("the store works")
}

fn kinds(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn a_delivery_report_moves_its_message() {
    let (_sim, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = path_of(&app.configure_sms(&t).await);
        let (id, provider_id) = sent(&app, &t, "+254722000000").await;
        let report = format!("id={provider_id}&status=Success&phoneNumber=%2B254722000000&networkCode=63902");
        let answer = app.call_back(&path, report.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.raw.as_ref()), (200, b"".as_ref()));
        assert_eq!(app.message(&t.live, &id).await["status"], "sent", "it is kept first, and read afterwards");
        assert_eq!(apply(&app).await, 1);
        // Told twice more, it is still one delivery.
        app.call_back(&path, report.clone()).await.expect(200);
        app.call_back(&path, report.clone()).await.expect(200);
        assert_eq!((apply(&app).await, apply(&app).await), (2, 0));
        let message = app.message(&t.live, &id).await;
        assert_eq!(message["status"], "delivered");
        assert_eq!(kinds(&message), ["queued", "sending", "sent", "delivered"]);
        let seen = app.as_human(&t.owner, &t.slug, Method::GET, &format!("/v1/admin/messages/{id}"), None).await.expect(200);
        assert_eq!(seen["events"][3]["payload"], json!(report));
    })
    .await;
}

#[tokio::test]
async fn a_callback_without_a_proof_is_refused_and_not_kept() {
    let (_sim, options) = simulated().await;
    on_both_with(options, async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let config = app.configure_sms(&t).await;
        let foreign = path_of(&app.configure_sms(&other).await);
        let path = path_of(&config);
        let (id, provider_id) = sent(&app, &t, "+254722000000").await;
        let report = format!("id={provider_id}&status=Success&phoneNumber=%2B254722000000");
        let (config_path, token) = path.rsplit_once('/').expect("a token");
        let (bare, _) = config_path.rsplit_once('/').expect("a config");
        let altered = format!("{config_path}/{}{}", &token[..39], if token.ends_with('0') { '1' } else { '0' });
        let nobody = uuid::Uuid::nil();
        for refused in [
            config_path.to_owned(),
            bare.to_owned(),
            altered,
            format!("{config_path}?token="),
            format!("{config_path}?token={}", &token[1..]),
            format!("{bare}/{nobody}/{token}"),
            format!("/v1/webhooks/sms/africas_talking/{nobody}"),
            format!("/v1/webhooks/sms/africas_talking/{}/{token}", other.id),
            format!("/v1/webhooks/sms/africas_talking/nonsense/{token}"),
        ] {
            app.call_back(&refused, report.clone()).await.expect_error(401, "unproven_callback");
        }
        for unknown in [
            "/v1/webhooks/email/africas_talking/x",
            "/v1/webhooks/sms/nonsense/x",
            "/v1/webhooks/email/smtp/x",
            "/v1/webhooks/sms/smpp/x",
            "/v1/webhooks/fax/x/y",
        ] {
            app.call_back(unknown, report.clone()).await.expect_error(404, "not_found");
        }
        assert_eq!(apply(&app).await, 0);
        // Another tenant's own, proven callback does not reach the message.
        app.call_back(&foreign, report.clone()).await.expect(200);
        assert_eq!(apply(&app).await, 1);
        assert_eq!(app.message(&t.live, &id).await["status"], "sent");
        // The token may stand in three places, also without the config.
        for (n, (path, basic)) in [
            (format!("{config_path}?token={token}"), false),
            (format!("{bare}/{token}"), false),
            (format!("{bare}?x=1&token={token}"), false),
            (bare.to_owned(), true),
        ]
        .into_iter()
        .enumerate()
        {
            let status = ["Sent", "Submitted", "Buffered", "Success"][n];
            let mut request = Request::post(path).header(header::CONTENT_TYPE, FORM);
            if basic {
                use base64::{Engine, engine::general_purpose::STANDARD};
                request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("raven:{token}"))));
            }
            app.send(request.body(Body::from(format!("id={provider_id}&status={status}"))).expect("a request")).await.expect(200);
        }
        assert_eq!(apply(&app).await, 4);
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], kinds(&message).len()), (&json!("delivered"), 7));
    })
    .await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let path = path_of(&app.configure_sms(&t).await);
        let large = vec![b'a'; 10 * 1024 * 1024];
        app.call_back(&path, large).await.expect_error(413, "body_too_large");
        // What can't be read is kept.
        app.call_back(&path, vec![0xff, 0, b'%']).await.expect(200);
        assert_eq!(apply(&app).await, 1);
        let again = app.store.replay_callbacks(&Replay { tenant: Some(t.id), ..Replay::default() }, None, 9, app.engine.clock.now()).await;
        assert_eq!(again.expect("the store works").1, 1, "it is unreadable, and may be read again");
    })
    .await;
}

#[tokio::test]
async fn the_bare_form_is_taken_where_it_is_allowed() {
    let (_sim, options) = simulated().await;
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let config = app.configure_sms(&t).await;
        assert_eq!(config["allowUnsignedCallbacks"], false);
        let own = format!("/v1/admin/providers/{}", config["id"].as_str().expect("an id"));
        let allow = json!({ "allowUnsignedCallbacks": true });
        let changed = app.as_human(&t.owner, &t.slug, Method::PATCH, &own, Some(allow)).await.expect(200);
        assert_eq!((&changed["allowUnsignedCallbacks"], &changed["callbackUrl"]), (&json!(true), &config["callbackUrl"]));
        let null = json!({ "allow_unsigned_callbacks": null });
        let refused = app.as_human(&t.owner, &t.slug, Method::PATCH, &own, Some(null)).await.expect_error(400, "validation_failed");
        assert_eq!(refused["errors"][0]["field"], "allowUnsignedCallbacks");
        let bare = format!("/v1/webhooks/sms/africas_talking/{}", t.id);
        let (id, provider_id) = sent(&app, &t, "+254722000000").await;
        // It moves what it names, and suppresses nobody.
        app.call_back(&bare, format!("id={provider_id}&status=Failed&failureReason=UserInBlackList")).await.expect(200);
        app.call_back(&bare, "senderId=ACME&phoneNumber=%2B254722000000").await.expect(200);
        app.call_back(&bare, "id=in-1&from=%2B254722000000&to=ACME&text=STOP&date=2026-05-01").await.expect(200);
        app.call_back(&format!("{bare}?token=wrong"), format!("id={provider_id}&status=Success"))
            .await
            .expect_error(401, "unproven_callback");
        assert_eq!(apply(&app).await, 3);
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], &message["failureReason"]), (&json!("failed"), &json!("recipient_opted_out")));
        let listed = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/suppressions", None).await.expect(200);
        assert_eq!(listed["total"], 0);
        let inbound = app.with_key(&t.live, Method::GET, "/v1/inbound-messages", None).await.expect(200);
        assert_eq!(inbound["data"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn stop_suppresses_and_start_lifts_it() {
    let (_sim, mut options) = simulated().await;
    options.callbacks =
        CallbackOptions { keywords: raven_core::keyword::Keywords::with(&["toka".to_owned()], &[]), ..CallbackOptions::default() };
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        let path = path_of(&app.configure_sms(&t).await);
        let mut told = 0;
        let mut say = async |text: &str, from: &str| {
            told += 1;
            let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            let from: String = form_urlencoded::byte_serialize(from.as_bytes()).collect();
            let body = format!("id=in-{told}&from={from}&to=ACME&text={text}&date=2026-05-01+10%3A23%3A18");
            for _ in 0..2 {
                app.call_back(&path, body.clone()).await.expect(200);
            }
            apply(&app).await;
        };
        let send = async || {
            let message = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
            app.post_message(&t.live, message).await.expect(202)["status"].as_str().expect("a text").to_owned()
        };
        let (id, _) = sent(&app, &t, "+254722000000").await;
        for (word, lift) in [("Acha!", "START"), ("“sToP.”", "anza"), ("TOKA", "Start.")] {
            say(word, "254722000000").await;
            assert_eq!(send().await, "suppressed", "{word}");
            assert_eq!(app.message(&t.live, &id).await["status"], "unsubscribed");
            say("Please STOP calling me", "+254722000001").await;
            say(lift, "+254722000000").await;
            assert_eq!(send().await, "queued", "{lift}");
            app.settle().await;
        }
        // What somebody of the tenant put there is not lifted by the recipient.
        let manual = json!({ "channel": "sms", "address": "+254722000000" });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/suppressions", Some(manual)).await.expect(201);
        say("START", "+254722000000").await;
        assert_eq!(send().await, "suppressed");

        let all = app.with_key(&t.live, Method::GET, "/v1/inbound-messages?limit=3", None).await.expect(200);
        let first = &all["data"][0];
        assert_eq!((&first["body"], &first["keyword"], &first["from"]), (&json!("START"), &json!("start"), &json!("+254722000000")));
        assert_eq!(
            (&first["sentAt"], &first["environment"], &first["provider"]),
            (&json!("2026-05-01T10:23:18.000Z"), &json!("live"), &json!("africas_talking"))
        );
        assert!(first["inReplyTo"].is_string() && first["providerConfigId"].is_string(), "{first}");
        let mut seen = 3;
        let mut next = all["nextCursor"].clone();
        while let Some(cursor) = next.as_str() {
            let more = app.with_key(&t.live, Method::GET, &format!("/v1/inbound-messages?limit=3&cursor={cursor}"), None).await.expect(200);
            seen += more["data"].as_array().expect("data").len();
            next = more["nextCursor"].clone();
        }
        assert_eq!(seen, 10, "each is kept once");
        let query = "/v1/admin/inbound-messages?sender=%2B254722000001&channel=sms";
        let others = app.as_human(&t.owner, &t.slug, Method::GET, query, None).await.expect(200);
        let bodies: Vec<_> =
            others["data"].as_array().expect("data").iter().map(|m| (&m["body"], &m["keyword"], &m["inReplyTo"])).collect();
        assert_eq!(bodies, [(&json!("Please STOP calling me"), &Value::Null, &Value::Null); 3]);
        let test = app.with_key(&t.test, Method::GET, "/v1/inbound-messages", None).await.expect(200);
        assert_eq!(test, json!({ "data": [], "nextCursor": null }));
        let stranger = app.tenant("Bolt").await;
        assert_eq!(app.with_key(&stranger.live, Method::GET, "/v1/inbound-messages", None).await.expect(200)["data"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn meta_is_answered_when_it_asks_for_the_url() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let config = json!({ "provider": "whatsapp_cloud", "label": "WhatsApp", "publicConfig": { "phone_number_id": "1234567890" },
            "secretConfig": { "access_token": "EAAB", "app_secret": "5ec4e7", "verify_token": "open-sesame" } });
        let created = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(config)).await.expect(201);
        let path = path_of(&created);
        assert_eq!(path, format!("/v1/webhooks/whatsapp/whatsapp_cloud/{}/{}", t.id, created["id"].as_str().expect("an id")), "it signs");
        let ask = async |query: &str| app.send(Request::get(format!("{path}?{query}")).body(Body::empty()).expect("a request")).await;
        let answer = ask("hub.mode=subscribe&hub.verify_token=open-sesame&hub.challenge=1158201444").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.raw, "1158201444");
        ask("hub.mode=subscribe&hub.verify_token=open-sesame&hub.challenge=%3Cb%3E1").await.expect_error(401, "unproven_callback");
        ask("hub.mode=subscribe&hub.verify_token=wrong&hub.challenge=1").await.expect_error(401, "unproven_callback");
        app.send(Request::post(&path).body(Body::from("{}")).expect("a request")).await.expect_error(401, "unproven_callback");
    })
    .await;
}

#[tokio::test]
async fn the_url_is_shown_to_admins_and_its_token_is_kept_nowhere() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let body = json!({ "provider": "africas_talking", "label": "SMS", "publicConfig": { "username": "acme" },
            "secretConfig": { "api_key": "k" }, "idempotencyKey": "1" });
        let create = async || app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body.clone())).await;
        let created = create().await.expect(201);
        let path = path_of(&created);
        let token = path.rsplit('/').next().expect("a token");
        assert_eq!(token.len(), 40);
        let again = create().await;
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(again.expect(201), created);
        let viewer = app.join(&t, "viewer@example.com", "viewer").await;
        let member = app.join(&t, "member@example.com", "member").await;
        let admin = app.join(&t, "admin@example.com", "admin").await;
        let own = format!("/v1/admin/providers/{}", created["id"].as_str().expect("an id"));
        for (who, sees) in [(&viewer, false), (&member, false), (&admin, true), (&t.owner, true)] {
            let one = app.as_human(who, &t.slug, Method::GET, &own, None).await.expect(200);
            let all = app.as_human(who, &t.slug, Method::GET, "/v1/admin/providers", None).await.expect(200);
            let expected = if sees { created["callbackUrl"].clone() } else { Value::Null };
            assert_eq!((&one["callbackUrl"], &all["data"][0]["callbackUrl"]), (&expected, &expected));
        }
        let log = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/audit-log?limit=200", None).await.expect(200);
        assert!(!log.to_string().contains(token));
        let catalog = app.as_human(&viewer, &t.slug, Method::GET, "/v1/admin/providers/catalog", None).await.expect(200);
        let of =
            |id: &str| catalog["data"].as_array().expect("data").iter().find(|p| p["id"] == id).expect("it is there")["callbacks"].clone();
        assert_eq!(of("africas_talking")["urlPattern"], "http://raven.test/v1/webhooks/sms/africas_talking/{tenantId}/{providerConfigId}");
        assert_eq!(of("smtp"), Value::Null);
        // What comes over a session needs no URL.
        assert_eq!((&of("smpp")["urlPattern"], of("smpp")["setup"].is_string()), (&Value::Null, true));
    })
    .await;
}
