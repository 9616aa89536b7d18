//! Suppressions: what the API takes, shows and refuses.

use http::Method;
use raven_engine::plans::{Plan, Plans};
use raven_testkit::{
    app::{Answer, TestApp, TestOptions, TestTenant, on_both, on_both_with},
    simulators::AfricasTalking,
};
use serde_json::{Value, json};

use crate::walk::{fields, key};

const PATH: &str = "/v1/admin/suppressions";

async fn post(app: &TestApp, t: &TestTenant, body: Value) -> Answer {
    app.as_human(&t.owner, &t.slug, Method::POST, PATH, Some(body)).await
}

async fn get(app: &TestApp, t: &TestTenant, query: &str) -> Value {
    app.as_human(&t.owner, &t.slug, Method::GET, &format!("{PATH}?{query}"), None).await.expect(200)
}

fn addresses(page: &Value) -> Vec<&str> {
    page["data"].as_array().expect("data").iter().map(|s| s["address"].as_str().expect("a text")).collect()
}

fn one(made: &Value) -> String {
    format!("{PATH}/{}", made["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn an_address_is_listed_shown_and_taken_off() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let made = post(&app, &t, json!({ "channel": "email", "address": "Ada@BÜCHER.example" })).await.expect(201);
        let now = app.engine.clock.now().to_string();
        assert_eq!(
            made,
            json!({ "id": made["id"], "channel": "email", "address": "ada@xn--bcher-kva.example", "reason": "manual", "source": "request", "messageId": null, "detail": null, "createdAt": now })
        );
        assert_eq!(get(&app, &t, "").await, json!({ "data": [made], "total": 1, "page": 1, "pageSize": 50, "nextCursor": null }));
        for spelling in ["ada@bücher.example", "ADA@xn--bcher-kva.EXAMPLE"] {
            let again = json!({ "channel": "email", "address": spelling, "reason": "hard_bounce", "environment": "live" });
            post(&app, &t, again).await.expect_error(409, "already_suppressed");
        }
        assert_eq!(get(&app, &t, "environment=test").await["total"], 0);
        app.as_human(&t.owner, &t.slug, Method::DELETE, &one(&made), None).await.expect(204);
        app.as_human(&t.owner, &t.slug, Method::DELETE, &one(&made), None).await.expect_error(404, "not_found");
        app.as_human(&t.owner, &t.slug, Method::DELETE, &format!("{PATH}/nonsense"), None).await.expect_error(404, "not_found");
        assert_eq!(get(&app, &t, "").await["total"], 0);
        let log = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/audit-log?limit=2", None).await.expect(200);
        let entries: Vec<_> = log["data"].as_array().expect("data").iter().map(|e| (&e["action"], &e["resource"]["id"])).collect();
        assert_eq!(entries, [(&json!("suppression.delete"), &made["id"]), (&json!("suppression.create"), &made["id"])]);
        assert_eq!((&log["data"][0]["before"], &log["data"][1]["after"]), (&made, &made));
    })
    .await;
}

#[tokio::test]
async fn every_channel_has_addresses_of_its_own() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let subscription = json!({ "endpoint": "https://push.example.com/x", "keys": { "p256dh": "BNcR", "auth": "tBHI" } });
        for (channel, address) in [
            ("sms", json!("+254722000000")),
            ("whatsapp", json!("+254722000000")),
            ("push", json!("a".repeat(4096))),
            ("push", subscription.clone()),
        ] {
            let body = json!({ "channel": channel, "address": address, "environment": "test" });
            assert_eq!(post(&app, &t, body.clone()).await.expect(201)["address"], address);
            post(&app, &t, body).await.expect_error(409, "already_suppressed");
            let message = json!({ "channel": channel, "to": address, "body": "Hi" });
            let told = app.post_message(&t.test, message).await.expect(202);
            assert_eq!((&told["status"], &told["to"]), (&json!("suppressed"), &address));
        }
        let email = json!({ "channel": "email", "address": "ada@example.com", "environment": "test" });
        post(&app, &t, email).await.expect(201);
        let message = json!({ "channel": "email", "to": "Ada@EXAMPLE.com", "from": "a@example.com", "subject": "Hi", "bodyText": "Hi" });
        let told = app.post_message(&t.test, message).await.expect(202);
        assert_eq!((&told["status"], &told["to"]), (&json!("suppressed"), &json!("Ada@example.com")));
        for (body, named) in [
            (json!({}), vec!["address", "channel"]),
            (
                json!({ "channel": "pigeon", "address": 7, "reason": "because", "environment": "all" }),
                vec!["address", "channel", "environment", "reason"],
            ),
            (json!({ "channel": "sms", "address": "ada@example.com" }), vec!["address"]),
            (json!({ "channel": "email", "address": "+254722000000" }), vec!["address"]),
            (json!({ "channel": "email", "address": { "endpoint": "x" } }), vec!["address"]),
            (
                json!({ "channel": "push", "address": { "endpoint": "http://x", "keys": {} } }),
                vec!["address.endpoint", "address.keys.auth", "address.keys.p256dh"],
            ),
        ] {
            let error = post(&app, &t, body.clone()).await.expect_error(400, "validation_failed");
            assert_eq!(fields(&error), named, "{body}");
        }
        post(&app, &t, json!({ "channel": "sms", "address": "+254722000009", "note": "x" })).await.expect_error(400, "unknown_field");
    })
    .await;
}

/// Lists 12 addresses, of which every third is a phone number.
async fn twelve(app: &TestApp, t: &TestTenant) {
    for n in 0..12 {
        let (channel, address) = if n % 3 == 0 { ("sms", format!("+2547220000{n:02}")) } else { ("email", format!("a_{n}%@example.com")) };
        post(app, t, json!({ "channel": channel, "address": address, "environment": "test" })).await.expect(201);
        if n % 4 == 0 {
            app.clock.advance(std::time::Duration::from_millis(1));
        }
    }
}

#[tokio::test]
async fn pages_are_walked_by_cursor_and_by_number() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        twelve(&app, &t).await;
        let whole = get(&app, &t, "environment=test").await;
        let all: Vec<String> = addresses(&whole).into_iter().map(str::to_owned).collect();
        assert_eq!((all.len(), &whole["total"], &whole["page"], &whole["pageSize"]), (12, &json!(12), &json!(1), &json!(50)));
        let (mut by_number, mut by_cursor, mut cursor) = (Vec::new(), Vec::new(), String::new());
        for page in 1..=3 {
            let numbered = get(&app, &t, &format!("environment=test&page={page}&page_size=5")).await;
            assert_eq!((&numbered["page"], &numbered["pageSize"], &numbered["total"]), (&json!(page), &json!(5), &json!(12)));
            by_number.extend(addresses(&numbered).into_iter().map(str::to_owned));
            let at_cursor = get(&app, &t, &format!("environment=test&limit=5{cursor}")).await;
            assert_eq!(at_cursor["data"], numbered["data"]);
            assert_eq!((&at_cursor["page"], &at_cursor["pageSize"]), (&json!(page), &json!(5)), "a cursor knows which page is its own");
            by_cursor.extend(addresses(&at_cursor).into_iter().map(str::to_owned));
            match at_cursor["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => assert_eq!(page, 3),
            }
        }
        assert_eq!((&by_number, &by_cursor), (&all, &all));
        let beyond = get(&app, &t, "environment=test&page=4&pageSize=5").await;
        assert_eq!((&beyond["data"], &beyond["nextCursor"], &beyond["total"]), (&json!([]), &Value::Null, &json!(12)));

        for (query, expected) in
            [("channel=sms", 4), ("q=EXAMPLE", 8), ("q=a_", 8), ("q=%25%40", 8), ("q=_%25", 0), ("q=%2B2547&channel=email", 0)]
        {
            let page = get(&app, &t, &format!("environment=test&{query}")).await;
            assert_eq!((addresses(&page).len(), &page["total"]), (expected, &json!(expected)), "{query}");
        }
        let refused = async |query: &str| {
            let answer = app.as_human(&t.owner, &t.slug, Method::GET, &format!("{PATH}?{query}"), None).await;
            let error = answer.expect(400);
            if error["errors"].is_null() { vec![error["code"].clone()] } else { fields(&error).into_iter().map(Value::from).collect() }
        };
        assert_eq!(refused("page=1&limit=5").await, ["page"]);
        assert_eq!(refused("pageSize=5&page=2&cursor=x").await, ["page", "pageSize"]);
        assert_eq!(refused("page=0&pageSize=201").await, ["page", "pageSize"]);
        assert_eq!(refused("environment=all&channel=pigeon").await, ["channel", "environment"]);
        assert_eq!(refused(&format!("environment=live&limit=5{cursor}")).await, ["invalid_cursor"]);
    })
    .await;
}

#[tokio::test]
async fn a_key_acts_in_its_own_environment() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let (live, test) = (key(&app, &t, "live", &["admin:*"]).await, key(&app, &t, "test", &["admin:*"]).await);
        let body = json!({ "channel": "sms", "address": "+254722000000" });
        let made = app.with_key(&test, Method::POST, PATH, Some(body.clone())).await.expect(201);
        let mut foreign = body.clone();
        foreign["environment"] = json!("live");
        app.with_key(&test, Method::POST, PATH, Some(foreign.clone())).await.expect_error(403, "insufficient_scope");
        app.with_key(&live, Method::POST, PATH, Some(foreign)).await.expect(201);
        let total = async |key: &str, query: &str| app.with_key(key, Method::GET, &format!("{PATH}{query}"), None).await;
        assert_eq!(total(&test, "").await.expect(200)["total"], 1);
        assert_eq!(total(&test, "?environment=test").await.expect(200)["data"], json!([made]));
        total(&test, "?environment=live").await.expect_error(403, "insufficient_scope");
        app.with_key(&live, Method::DELETE, &one(&made), None).await.expect_error(404, "not_found");
        app.with_key(&test, Method::DELETE, &one(&made), None).await.expect(204);
        assert_eq!(total(&live, "").await.expect(200)["total"], 1);
    })
    .await;
}

#[tokio::test]
async fn a_suppressed_message_costs_nothing_and_a_replay_says_the_same() {
    let sim = AfricasTalking::start().await;
    let plan = Plan { name: "tiny".to_owned(), daily_messages: Some(1), admin_rpm: None, key_rpm: None, ..Plan::free() };
    let options = TestOptions {
        plans: Some(Plans::new(vec![plan], "tiny").expect("plans")),
        base_urls: [("africas_talking".to_owned(), sim.base_url())].into_iter().collect(),
        ..TestOptions::default()
    };
    on_both_with(options, async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        post(&app, &t, json!({ "channel": "sms", "address": "+254722000000", "reason": "spam_complaint" })).await.expect(201);
        let send = async |to: &str, key: &str| {
            app.post_message(&t.live, json!({ "channel": "sms", "to": to, "body": "Hi", "idempotencyKey": key })).await
        };
        let first = send("+254722000000", "a").await.expect(202);
        send("+254722000001", "b").await.expect(202);
        send("+254722000001", "c").await.expect_error(429, "daily_quota_exceeded");
        // Nobody is asked for a quota for it, though it is used up.
        assert_eq!(send("+254722000000", "d").await.expect(202)["status"], "suppressed");
        let again = send("+254722000000", "a").await;
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(again.expect(202), first);
        app.settle().await;
        let message = app.message(&t.live, first["id"].as_str().expect("an id")).await;
        assert_eq!((&message["suppressionReason"], &message["failureReason"]), (&json!("spam_complaint"), &Value::Null));
        assert_eq!(message["events"][1]["eventType"], "suppressed");
        let rare = app.with_key(&t.live, Method::GET, "/v1/messages?status=suppressed", None).await.expect(200);
        assert_eq!(rare["data"].as_array().expect("data").len(), 2);
        assert_eq!(rare["data"][0]["suppressionReason"], "spam_complaint");
        let usage = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/usage", None).await.expect(200);
        assert_eq!((&usage["accepted"], &usage["today"]["used"]), (&json!(3), &json!(1)));
        assert_eq!(usage["days"][0]["channels"][0]["statuses"], json!({ "sent": 1, "suppressed": 2 }));
    })
    .await;
}

async fn send_file(app: &TestApp, t: &TestTenant, query: &str, kind: &str, file: impl Into<axum::body::Body>) -> Answer {
    let bearer = format!("Bearer {}", t.owner);
    let headers = [("authorization", bearer.as_str()), ("x-tenant-slug", &t.slug), ("content-type", kind)];
    let mut request = raven_testkit::app::request(Method::POST, &format!("{PATH}/import{query}"), &headers, None);
    *request.body_mut() = file.into();
    app.send(request).await
}

async fn import(app: &TestApp, t: &TestTenant, query: &str, file: &str) -> Value {
    send_file(app, t, query, "text/csv", file.to_owned()).await.expect(200)
}

async fn export(app: &TestApp, t: &TestTenant, query: &str) -> String {
    let answer = app.as_human(&t.owner, &t.slug, Method::GET, &format!("{PATH}/export{query}"), None).await;
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8; header=present");
    let text = String::from_utf8(answer.raw.to_vec()).expect("a text");
    answer.expect(200);
    text
}

#[tokio::test]
async fn a_file_is_imported_row_by_row_and_bad_rows_are_told() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        post(&app, &t, json!({ "channel": "sms", "address": "+254722000000", "reason": "hard_bounce" })).await.expect(201);
        let file = "address,channel,reason\n\
                    Ada@BÜCHER.example,email,unsubscribed\n\
                    +254722000000,sms,manual\n\
                    nobody,email,\n\
                    +254722000001,sms,550 no such number\n\
                    ada@bücher.example,EMAIL,hard_bounce\n\
                    ,email,\n";
        let told = import(&app, &t, "", file).await;
        assert_eq!((&told["created"], &told["existing"], &told["invalid"]), (&json!(2), &json!(2), &json!(2)), "{told}");
        let lines: Vec<_> = told["errors"].as_array().expect("errors").iter().map(|e| e["line"].as_u64().expect("a line")).collect();
        assert_eq!(lines, [4, 7]);
        assert!(!told.to_string().contains("nobody"), "what was sent is not repeated: {told}");
        let list = get(&app, &t, "").await;
        let of = |address: &str| list["data"].as_array().expect("data").iter().find(|s| s["address"] == address).expect("listed").clone();
        let ada = of("ada@xn--bcher-kva.example");
        assert_eq!((&ada["reason"], &ada["source"], &ada["messageId"]), (&json!("unsubscribed"), &json!("import"), &Value::Null));
        assert_eq!(of("+254722000000")["reason"], "hard_bounce", "what is listed stays");
        let number = of("+254722000001");
        assert_eq!((&number["reason"], &number["detail"]), (&json!("manual"), &json!("550 no such number")));
        // Again it changes nothing.
        let again = import(&app, &t, "", file).await;
        assert_eq!((&again["created"], &again["existing"], &again["invalid"]), (&json!(0), &json!(4), &json!(2)));
        assert_eq!(get(&app, &t, "").await["total"], 3);
        let log = app.as_human(&t.owner, &t.slug, Method::GET, "/v1/admin/audit-log?limit=3", None).await.expect(200);
        let entries: Vec<_> = log["data"].as_array().expect("data").iter().map(|e| (&e["action"], &e["after"])).collect();
        let counts = json!({ "environment": "live", "rows": 4, "invalid": 2 });
        let import = json!("suppression.import");
        assert_eq!(entries[..2], [(&import, &counts), (&import, &counts)]);
        // It is honoured.
        let sms = json!({ "channel": "sms", "address": "+254722000001" });
        post(&app, &t, sms).await.expect_error(409, "already_suppressed");
    })
    .await;
}

#[tokio::test]
async fn what_was_exported_is_imported_as_it_was() {
    on_both(async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        let subscription = json!({ "endpoint": "https://push.example.com/x", "keys": { "p256dh": "BNcR", "auth": "tBHI" } });
        for (channel, address) in [
            ("sms", json!("+254722000000")),
            ("whatsapp", json!("+254722000000")),
            ("email", json!("=ada@example.com")),
            ("email", json!("'+ada@example.com")),
            ("push", json!("-token,with\"quotes\"")),
            ("push", subscription),
        ] {
            post(&app, &t, json!({ "channel": channel, "address": address, "reason": "spam_complaint" })).await.expect(201);
        }
        let file = export(&app, &t, "").await;
        let mut lines = file.lines();
        assert_eq!(lines.next(), Some("channel,address,reason,source,createdAt"));
        assert_eq!(lines.clone().count(), 6);
        assert!(file.contains("sms,'+254722000000,spam_complaint,request,"), "{file}");
        for risky in [",+", ",=", ",-", ",@", "\"=", "\"+", "\"-"] {
            assert!(!file.contains(risky), "{risky}: {file}");
        }
        let told = import(&app, &other, "", &file).await;
        assert_eq!((&told["created"], &told["errors"]), (&json!(6), &json!([])), "{told}");
        let plain = |page: &Value| -> Vec<_> {
            let all = page["data"].as_array().expect("data").iter();
            let mut all: Vec<_> = all.map(|s| format!("{} {} {}", s["channel"], s["address"], s["reason"])).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(plain(&get(&app, &other, "").await), plain(&get(&app, &t, "").await));
        assert_eq!(export(&app, &t, "?channel=whatsapp").await.lines().count(), 2);
        assert_eq!(export(&app, &t, "?environment=test").await, "channel,address,reason,source,createdAt\n");
    })
    .await;
}

#[tokio::test]
async fn a_long_list_goes_in_and_comes_out_whole() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let rows: Vec<String> = (0..1234).map(|n| format!("+2547{n:08}")).collect();
        let file = format!("phone\r\n{}\r\nnonsense\r\n", rows.join("\r\n"));
        let told = import(&app, &t, "?environment=test&reason=unsubscribed", &file).await;
        assert_eq!((&told["created"], &told["invalid"], &told["errors"][0]["line"]), (&json!(1234), &json!(1), &json!(1236)));
        let out = export(&app, &t, "?environment=test&channel=sms").await;
        let mut found: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split(',').nth(1)?.strip_prefix('\'')).collect();
        found.sort_unstable();
        assert_eq!(found, rows);
        let bad = format!("phone\n{}", "nonsense\n".repeat(250));
        let told = import(&app, &t, "", &bad).await;
        assert_eq!((&told["created"], &told["invalid"], told["errors"].as_array().map(Vec::len)), (&json!(0), &json!(250), Some(100)));
    })
    .await;
}

#[tokio::test]
async fn files_that_are_none_and_callers_who_may_not_are_refused() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for file in ["", "ada@example.com\n", "email,phone\nada@example.com,\n", "name\nAda\n"] {
            let error = send_file(&app, &t, "", "text/csv", file).await.expect_error(400, "validation_failed");
            assert_eq!(fields(&error), ["body"], "{file}");
        }
        for kind in ["application/json", "text/plain"] {
            send_file(&app, &t, "", kind, "email\n").await.expect_error(415, "unsupported_media_type");
        }
        send_file(&app, &t, "?channel=pigeon&reason=x", "text/csv", "email\n").await.expect_error(400, "validation_failed");
        send_file(&app, &t, "?chanel=email", "text/csv", "email\n").await.expect_error(400, "unknown_field");
        let large = format!("email\n{}", "x".repeat(10 * 1024 * 1024));
        send_file(&app, &t, "", "text/csv", large).await.expect_error(413, "body_too_large");
        let told = import(&app, &t, "", "address\nada@example.com\n").await;
        assert!(told["errors"][0]["message"].as_str().is_some_and(|m| m.contains("?channel=")), "{told}");

        let viewer = app.join(&t, "viewer@example.com", "viewer").await;
        app.as_human(&viewer, &t.slug, Method::GET, &format!("{PATH}/export"), None).await.expect(200);
        app.as_human(&viewer, &t.slug, Method::POST, &format!("{PATH}/import"), None).await.expect_error(403, "insufficient_role");
        let of_test = key(&app, &t, "test", &["admin:*"]).await;
        app.with_key(&of_test, Method::GET, &format!("{PATH}/export?environment=live"), None).await.expect_error(403, "insufficient_scope");
        app.with_key(&of_test, Method::POST, &format!("{PATH}/import?environment=live"), None)
            .await
            .expect_error(403, "insufficient_scope");
        let headers = [("x-raven-key", of_test.as_str()), ("content-type", "text/csv")];
        let mut request = raven_testkit::app::request(Method::POST, &format!("{PATH}/import"), &headers, None);
        *request.body_mut() = "email\nada@example.com\n".into();
        assert_eq!(app.send(request).await.expect(200)["created"], 1);
        assert_eq!(addresses(&get(&app, &t, "environment=test").await), ["ada@example.com"], "a key's own environment");
        assert_eq!(get(&app, &t, "").await["total"], 0);
    })
    .await;
}

#[tokio::test]
async fn a_suppression_tells_what_it_came_of() {
    let africas_talking = AfricasTalking::start().await;
    let base_urls = [("africas_talking".to_owned(), africas_talking.base_url())].into();
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let t = app.tenant("Acme").await;
        app.configure_sms(&t).await;
        // The user is in the provider's own list.
        africas_talking.script_for("+254722000000", raven_testkit::simulators::Behaviour::Refuse(406));
        let sms = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
        let sent = app.post_message(&t.live, sms).await.expect(202);
        app.settle().await;
        let listed = &get(&app, &t, "").await["data"][0];
        assert_eq!((&listed["source"], &listed["messageId"]), (&json!("answer"), &sent["id"]), "{listed}");
        assert!(listed["detail"].is_string(), "{listed}");
    })
    .await;
}
