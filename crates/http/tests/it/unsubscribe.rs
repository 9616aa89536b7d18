//! Links in emails by which their recipients unsubscribe: which emails carry one, and where it leads.

use axum::body::Body;
use http::{HeaderMap, Method, Request};
use raven_engine::callbacks::CallbackOptions;
use raven_http::layers::Peer;
use raven_testkit::{
    app::{Answer, TestApp, TestOptions, TestTenant, on_both, on_both_with},
    simulators::smtp::{self, Smtp},
};
use serde_json::{Value, json};

use crate::walk::fields;

const PUBLIC: &str = "https://raven.example";

/// An installation that the world reaches by https.
fn reachable() -> TestOptions {
    let callbacks = CallbackOptions { public_url: Some(PUBLIC.to_owned()), ..CallbackOptions::default() };
    TestOptions { callbacks, ..TestOptions::default() }
}

fn email(more: Value) -> Value {
    let mut body =
        json!({ "channel": "email", "to": "Ada@example.com", "from": "Acme <shop@acme.example>", "subject": "Spring", "bodyText": "Hi" });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// Sends an email with a test key; its id, and what the sandbox got.
async fn captured(app: &TestApp, t: &TestTenant, more: Value) -> (String, Value) {
    let id = app.post_message(&t.test, email(more)).await.expect(202)["id"].as_str().expect("an id").to_owned();
    app.settle().await;
    let inbox = app.with_key(&t.test, Method::GET, "/v1/sandbox/messages?limit=1", None).await.expect(200);
    assert_eq!(inbox["data"][0]["id"], *id);
    (id, inbox["data"][0]["content"].clone())
}

/// The path of a link in a header field.
fn path(content: &Value) -> String {
    let field = content["headers"]["List-Unsubscribe"].as_str().unwrap_or_else(|| panic!("no link: {content}"));
    let url = field.strip_prefix('<').and_then(|f| f.strip_suffix('>')).expect("a URL in angle brackets");
    url.strip_prefix(PUBLIC).expect("a URL of ours").to_owned()
}

async fn post(app: &TestApp, path: &str, kind: &str, body: &str) -> Answer {
    let request = Request::post(path).header("content-type", kind).body(Body::from(body.to_owned()));
    app.send(request.expect("a request")).await
}

/// As a mail program does.
async fn one_click(app: &TestApp, path: &str) -> Answer {
    post(app, path, "application/x-www-form-urlencoded", "List-Unsubscribe=One-Click").await
}

async fn get(app: &TestApp, path: &str) -> Answer {
    app.send(Request::get(path).body(Body::empty()).expect("a request")).await
}

async fn suppressed(app: &TestApp, t: &TestTenant, environment: &str) -> Vec<Value> {
    let path = format!("/v1/admin/suppressions?environment={environment}");
    let page = app.as_human(&t.owner, &t.slug, Method::GET, &path, None).await.expect(200);
    page["data"].as_array().expect("data").clone()
}

fn events(message: &Value) -> Vec<&str> {
    message["events"].as_array().expect("events").iter().map(|e| e["eventType"].as_str().expect("a type")).collect()
}

#[tokio::test]
async fn bulk_emails_carry_a_link_and_transactional_ones_where_they_ask_for_it() {
    on_both_with(reachable(), async |app| {
        let t = app.tenant("Acme").await;
        let own = json!({ "List-Unsubscribe": "<https://acme.example/out>" });
        for (more, carries) in [
            (json!({}), false),
            (json!({ "priority": "transactional" }), false),
            (json!({ "priority": "bulk" }), true),
            (json!({ "priority": "bulk", "unsubscribe": false }), false),
            (json!({ "unsubscribe": true }), true),
            (json!({ "priority": "bulk", "cc": ["grace@example.com"] }), false),
            (json!({ "priority": "bulk", "bcc": ["grace@example.com"] }), false),
            (json!({ "priority": "bulk", "unsubscribe": true, "headers": { "X-Campaign": "spring" } }), true),
        ] {
            let (_, content) = captured(&app, &t, more.clone()).await;
            assert_eq!(content["headers"]["List-Unsubscribe"].is_string(), carries, "{more}");
            let post = content["headers"]["List-Unsubscribe-Post"].as_str();
            assert_eq!(post, carries.then_some("List-Unsubscribe=One-Click"), "{more}");
        }
        let (_, content) = captured(&app, &t, json!({ "priority": "bulk", "headers": own })).await;
        assert_eq!(content["headers"], own, "the caller's own stays");

        for (more, named) in [
            (json!({ "unsubscribe": "yes" }), "unsubscribe"),
            (json!({ "unsubscribe": true, "cc": ["grace@example.com"] }), "unsubscribe"),
            (json!({ "unsubscribe": true, "headers": { "list-unsubscribe": "<https://acme.example/out>" } }), "unsubscribe"),
        ] {
            let error = app.post_message(&t.test, email(more.clone())).await.expect_error(400, "validation_failed");
            assert_eq!(fields(&error), [named], "{more}");
        }
        let sms = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "unsubscribe": true });
        assert_eq!(fields(&app.post_message(&t.test, sms).await.expect_error(400, "validation_failed")), ["unsubscribe"]);
    })
    .await;
}

#[tokio::test]
async fn without_an_https_address_no_email_carries_a_link_and_to_ask_for_one_is_refused() {
    let plain = CallbackOptions { public_url: Some("http://raven.example".to_owned()), ..CallbackOptions::default() };
    for callbacks in [CallbackOptions::default(), plain] {
        on_both_with(TestOptions { callbacks, ..TestOptions::default() }, async |app| {
            let t = app.tenant("Acme").await;
            let (_, content) = captured(&app, &t, json!({ "priority": "bulk" })).await;
            assert_eq!(content["headers"], Value::Null);
            let asked = email(json!({ "unsubscribe": true }));
            let error = app.post_message(&t.test, asked.clone()).await.expect_error(400, "validation_failed");
            assert_eq!(fields(&error), ["unsubscribe"]);
            assert!(error["message"].as_str().is_some_and(|m| m.contains("RAVEN_PUBLIC_URL")), "{error}");
            let told = app.with_key(&t.test, Method::POST, "/v1/messages?dryRun=true", Some(asked)).await.expect(200);
            assert_eq!((&told["wouldSend"], &told["reasons"][0]["code"]), (&json!(false), &json!("validation_failed")));
        })
        .await;
    }
}

#[tokio::test]
async fn a_mail_server_gets_the_header_fields_and_the_link_in_the_texts() {
    let smtp = Smtp::start(&smtp::Options::default());
    on_both_with(reachable(), async |app| {
        let before = smtp.received().len();
        let t = app.tenant("Acme").await;
        let public = json!({ "host": "localhost", "port": smtp.port(), "secure": false, "from_email": "shop@acme.example" });
        let body = json!({ "provider": "smtp", "label": "Mail", "publicConfig": public });
        app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/providers", Some(body)).await.expect(201);
        let html = "<p><a href=\"{{unsubscribe_url}}\">No more of this</a></p>";
        let sent = email(json!({ "priority": "bulk", "bodyText": "No more: {{unsubscribe_url}}", "bodyHtml": html }));
        let id = app.post_message(&t.live, sent).await.expect(202)["id"].as_str().expect("an id").to_owned();
        app.settle().await;
        assert_eq!(app.message(&t.live, &id).await["status"], "sent");
        let mails = smtp.received();
        let mail = &mails[before];
        let url = mail.header("list-unsubscribe").and_then(|f| f.strip_prefix('<')?.strip_suffix('>')).expect("a link");
        assert_eq!((mail.header("list-unsubscribe-post"), mail.defects.len()), (Some("List-Unsubscribe=One-Click"), 0));
        assert_eq!(mail.parts[0].text.trim_end(), format!("No more: {url}"));
        assert!(mail.parts[1].text.contains(&format!("href=\"{url}\"")), "{}", mail.parts[1].text);
        assert!(!url.contains("ada") && !url.contains(&id), "the link tells nothing: {url}");

        let link = url.strip_prefix(PUBLIC).expect("a URL of ours");
        one_click(&app, link).await.expect(200);
        let message = app.message(&t.live, &id).await;
        assert_eq!((&message["status"], events(&message).last()), (&json!("unsubscribed"), Some(&"unsubscribed")));
        let again = app.post_message(&t.live, email(json!({}))).await.expect(202);
        assert_eq!(again["status"], "suppressed");
    })
    .await;
}

#[tokio::test]
async fn one_click_suppresses_once_and_says_so_in_the_timeline() {
    on_both_with(reachable(), async |app| {
        let t = app.tenant("Acme").await;
        let (id, content) = captured(&app, &t, json!({ "unsubscribe": true })).await;
        let link = path(&content);
        let done = one_click(&app, &link).await;
        assert_eq!(done.headers["content-type"], "text/plain; charset=utf-8");
        done.expect(200);
        let multipart = "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
        post(&app, &link, "multipart/form-data; boundary=b", multipart).await.expect(200);
        one_click(&app, &format!("{link}?utm_source=x")).await.expect(200);

        let message = app.message(&t.test, &id).await;
        assert_eq!(message["status"], "unsubscribed");
        assert_eq!(events(&message).iter().filter(|e| **e == "unsubscribed").count(), 1, "{message}");
        let listed = suppressed(&app, &t, "test").await;
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0]["address"], &listed[0]["reason"]), (&json!("ada@example.com"), &json!("unsubscribed")));
        assert_eq!(suppressed(&app, &t, "live").await.len(), 0, "a test is nothing to live messages");

        // Somebody lifts it, and the recipient still wants none.
        let one = format!("/v1/admin/suppressions/{}", listed[0]["id"].as_str().expect("an id"));
        app.as_human(&t.owner, &t.slug, Method::DELETE, &one, None).await.expect(204);
        app.clock.advance(std::time::Duration::from_secs(1));
        one_click(&app, &link).await.expect(200);
        assert_eq!(suppressed(&app, &t, "test").await.len(), 1);
        assert_eq!(events(&app.message(&t.test, &id).await).iter().filter(|e| **e == "unsubscribed").count(), 2);
        app.advance(std::time::Duration::from_secs(60)).await;
        assert_eq!(app.message(&t.test, &id).await["status"], "unsubscribed", "nothing that comes later takes it back");
    })
    .await;
}

/// What a page must not do.
fn harmless(headers: &HeaderMap) {
    let policy = headers["content-security-policy"].to_str().expect("a text");
    for word in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(word), "{policy}");
    }
    for (name, value) in [
        ("referrer-policy", "no-referrer"),
        ("x-robots-tag", "noindex, nofollow"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(headers[name], value);
    }
}

#[tokio::test]
async fn a_link_that_is_opened_shows_a_page_whose_button_unsubscribes() {
    on_both_with(reachable(), async |app| {
        let t = app.tenant("Acme").await;
        let name = json!({ "name": "Acme <b>& Söhne</b>" });
        app.as_human(&t.owner, &t.slug, Method::PATCH, "/v1/admin/tenant", Some(name)).await.expect(200);
        let (id, content) = captured(&app, &t, json!({ "unsubscribe": true })).await;
        let link = path(&content);
        for _ in 0..2 {
            let page = get(&app, &link).await;
            harmless(&page.headers);
            let html = String::from_utf8(page.raw.to_vec()).expect("a text");
            assert!(html.contains("Acme &lt;b&gt;&amp; Söhne&lt;/b&gt;") && html.contains("A***@example.com"), "{html}");
            assert!(!html.contains("Ada@example.com") && !html.contains("<script") && !html.contains("src="), "{html}");
            assert!(
                html.contains("<form method=\"post\">") && html.contains("name=\"from\" value=\"page\"") && html.contains("lang=\"en\"")
            );
            page.expect(200);
        }
        let head = app.send(Request::head(&link).body(Body::empty()).expect("a request")).await;
        assert_eq!((head.status.as_u16(), head.raw.len()), (200, 0));
        assert_eq!(suppressed(&app, &t, "test").await.len(), 0, "nothing happens by looking");

        let done = post(&app, &link, "application/x-www-form-urlencoded", "from=page").await;
        harmless(&done.headers);
        let html = String::from_utf8(done.raw.to_vec()).expect("a text");
        assert!(html.contains("You are unsubscribed") && html.contains("A***@example.com"), "{html}");
        done.expect(200);
        assert_eq!(suppressed(&app, &t, "test").await.len(), 1);
        let message = app.message(&t.test, &id).await;
        assert!(message["events"].to_string().contains("on the page"), "{message}");
        for method in [Method::PUT, Method::DELETE, Method::PATCH] {
            app.send(Request::builder().method(method).uri(&link).body(Body::empty()).expect("a request"))
                .await
                .expect_error(405, "method_not_allowed");
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_link_leads_nowhere_and_many_of_them_have_to_wait() {
    on_both_with(reachable(), async |app| {
        let t = app.tenant("Acme").await;
        let (id, content) = captured(&app, &t, json!({ "unsubscribe": true })).await;
        let link = path(&content);
        let token = link.rsplit('/').next().expect("a token");
        let altered = format!("{}{}", if token.starts_with('A') { "B" } else { "A" }, &token[1..]);
        for wrong in [altered.as_str(), &id, "x", "%2e%2e", &"A".repeat(59)] {
            let wrong = format!("/v1/unsubscribe/{wrong}");
            one_click(&app, &wrong).await.expect_error(404, "not_found");
            for page in [get(&app, &wrong).await, post(&app, &wrong, "application/x-www-form-urlencoded", "from=page").await] {
                harmless(&page.headers);
                assert!(String::from_utf8_lossy(&page.raw).contains("This link does not work"));
                page.expect(404);
            }
        }
        post(&app, &link, "text/plain", &"x".repeat(20_000)).await.expect_error(413, "body_too_large");
        assert_eq!(suppressed(&app, &t, "test").await.len(), 0);

        let from_one_address = async |path: &str| {
            let mut request = Request::post(path).body(Body::empty()).expect("a request");
            request.extensions_mut().insert(Peer("192.0.2.7".parse().expect("an address")));
            app.send(request).await
        };
        let wrong = format!("/v1/unsubscribe/{altered}");
        for _ in 0..300 {
            from_one_address(&wrong).await.expect_error(404, "not_found");
        }
        let refused = from_one_address(&wrong).await;
        assert!(refused.headers.contains_key("retry-after"));
        refused.expect_error(429, "rate_limited");
        from_one_address(&link).await.expect(200);
        assert_eq!(suppressed(&app, &t, "test").await.len(), 1, "a good link works from anywhere");
    })
    .await;
}

#[tokio::test]
async fn a_link_works_while_its_tenant_is_suspended() {
    on_both_with(reachable(), async |app| {
        let t = app.tenant("Acme").await;
        let (_, content) = captured(&app, &t, json!({ "unsubscribe": true })).await;
        app.change_state(t.id, raven_store::StateChange::Suspend(raven_core::tenant::SuspendedBy::Owner)).await;
        one_click(&app, &path(&content)).await.expect(200);
        assert_eq!(suppressed(&app, &t, "test").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_transactional_default_changes_nothing_for_those_who_ask_for_nothing() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let texts = json!({ "bodyText": "{{unsubscribe_url}} stays", "headers": { "List-Unsubscribe": "<mailto:out@acme.example>" } });
        let (_, content) = captured(&app, &t, texts.clone()).await;
        assert_eq!((&content["bodyText"], &content["headers"]), (&texts["bodyText"], &texts["headers"]));
    })
    .await;
}
