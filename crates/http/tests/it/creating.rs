//! What holds for every operation that creates something: with one idempotency key there is one resource, however many
//! requests come at once and however they are spelled. The operations are those of the OpenAPI document; one that is new
//! needs an entry in [`creation`].

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use raven_testkit::app::{Answer, TestApp, TestOptions, TestTenant, on_both, on_both_with};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::walk::{Caller, Operation, fields, operations, resolved};

/// Requests at once.
const CROWD: usize = 1000;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// How something is created.
struct Creation {
    /// A good request. Those with other numbers are good beside it.
    body: Value,
    /// Where what was created is listed.
    list: &'static str,
    /// A member of it that may be left out.
    optional: Option<&'static str>,
    /// The code of a second one like it.
    taken: Option<&'static str>,
}

/// The `n`th creation by an operation.
fn creation(o: &Operation, n: usize) -> Creation {
    let plain = |body: Value, list, optional| Creation { body, list, optional, taken: None };
    match o.template.as_str() {
        "/v1/messages" => {
            let to = json!({ "endpoint": "https://push.example/x", "keys": { "p256dh": "BNcR", "auth": "tBHI" } });
            plain(
                json!({ "channel": "push", "to": to, "body": format!("Hi {n}"), "externalId": "order-1" }),
                "/v1/messages",
                Some("externalId"),
            )
        }
        "/v1/admin/messages" => {
            let body = json!({ "channel": "email", "to": "ada@example.com", "from": "a@example.com", "subject": "Hi", "bodyText": format!("é {n}"), "externalId": "order-1", "environment": "test" });
            plain(body, "/v1/admin/messages?environment=test", Some("externalId"))
        }
        "/v1/admin/tenants" => {
            let body =
                json!({ "name": format!("Bolt {n}"), "slug": format!("bolt-{n}"), "countryCode": "KE", "defaultTz": "Africa/Kampala" });
            Creation { taken: Some("slug_taken"), ..plain(body, "/v1/admin/tenants", Some("countryCode")) }
        }
        "/v1/admin/members" => {
            let body = json!({ "email": format!("invited-{n}@example.com"), "role": "viewer" });
            Creation { taken: Some("already_invited"), ..plain(body, "/v1/admin/members/invitations", None) }
        }
        "/v1/admin/providers" => {
            let public = json!({ "host": "mail.example.com", "port": 25, "secure": false, "username": "u", "from_email": "a@example.com" });
            let body =
                json!({ "provider": "smtp", "label": format!("Mail {n}"), "publicConfig": public, "secretConfig": { "password": "p" } });
            plain(body, "/v1/admin/providers", None)
        }
        "/v1/admin/suppressions" => {
            let body = json!({ "channel": "email", "address": format!("ada-{n}@example.com"), "reason": "unsubscribed" });
            Creation { taken: Some("already_suppressed"), ..plain(body, "/v1/admin/suppressions", Some("reason")) }
        }
        "/v1/admin/api-keys" => {
            let body = json!({ "name": format!("Key {n}"), "rateLimitRpm": 600, "environment": "test", "scopes": ["messages:read"] });
            plain(body, "/v1/admin/api-keys", Some("rateLimitRpm"))
        }
        "/v1/admin/api-keys/{id}/rotate" => plain(json!({ "overlapSeconds": 3600 + n }), "/v1/admin/api-keys", Some("overlapSeconds")),
        other => panic!("nothing is known of how {other} creates: add an entry here"),
    }
}

/// Every operation of the document that creates, in a tenant. What is rotated is a key that nobody else uses.
async fn creations(app: &TestApp, t: &TestTenant) -> Vec<Operation> {
    let key = json!({ "name": "to rotate", "environment": "test" });
    let key = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(key)).await.expect(201);
    let ids = BTreeMap::from([("/v1/admin/api-keys/{id}/rotate", key["id"].as_str().expect("an id").to_owned())]);
    let mut all = operations(app, &ids);
    all.retain(|o| o.method == Method::POST && ["201", "202"].iter().any(|status| o.says["responses"][status].is_object()));
    assert!(all.len() >= 7, "{all:?}");
    all
}

/// The properties of the body that an operation takes.
fn properties<'a>(app: &'a TestApp, o: &'a Operation) -> &'a Map<String, Value> {
    let schema = resolved(app, &o.says["requestBody"]["content"]["application/json"]["schema"]);
    schema["properties"].as_object().unwrap_or_else(|| panic!("{o:?}: {schema}"))
}

fn with(body: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut body = body.clone();
    body[name] = value.into();
    body
}

fn in_header(key: impl AsRef<[u8]>) -> HeaderMap {
    HeaderMap::from_iter([(HEADER, HeaderValue::from_bytes(key.as_ref()).expect("a header's bytes"))])
}

async fn post(app: &TestApp, caller: &Caller, o: &Operation, headers: HeaderMap, body: impl ToString) -> Answer {
    caller.send(app, o.method.clone(), &o.path, headers, body.to_string()).await
}

/// A success; the body, and whether it is a replay.
#[track_caller]
fn made(o: &Operation, what: &str, answer: Answer) -> (Value, bool) {
    assert!(matches!(answer.status.as_u16(), 201 | 202), "{o:?}: {what}: {} {}", answer.status, answer.body);
    let replayed = answer.headers.get("idempotent-replayed").map(|v| v == "true");
    assert_ne!(replayed, Some(false), "{o:?}: {what}: the header is true or absent");
    (answer.body, replayed.is_some())
}

#[track_caller]
fn fresh(o: &Operation, what: &str, answer: Answer) -> Value {
    let (body, replayed) = made(o, what, answer);
    assert!(!replayed, "{o:?}: {what}: a replay of {body}");
    body
}

/// The first answer again, but for what is shown once.
#[track_caller]
fn replay(o: &Operation, what: &str, answer: Answer, first: &Value) {
    let (body, replayed) = made(o, what, answer);
    assert!(replayed, "{o:?}: {what}: another one was made");
    assert_eq!(body, without_plaintext(first), "{o:?}: {what}");
}

fn without_plaintext(body: &Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().expect("an object").remove("plaintext");
    body
}

/// Rows of a list: those of its first page, which is far more than a test makes.
async fn count(app: &TestApp, caller: &Caller, list: &str) -> usize {
    let and = if list.contains('?') { '&' } else { '?' };
    let page = caller.get(app, &format!("{list}{and}limit=200")).await.expect(200);
    page["data"].as_array().expect("data").len()
}

/// Lines of a tenant's audit log.
async fn lines(app: &TestApp, owner: &str, slug: &str) -> usize {
    let owner = Caller::Human { token: owner.to_owned(), slug: slug.to_owned() };
    count(app, &owner, "/v1/admin/audit-log").await
}

/// How often one of a crowd comes again when it is told that the database is busy.
const PATIENCE: usize = 50;

/// Sends so many equal requests at once, as many tasks as there are requests. A machine that is too slow for a crowd answers
/// 503, upon which callers come again.
async fn crowd(app: &Arc<TestApp>, caller: &Caller, o: &Operation, body: &Value, requests: usize) -> Vec<Answer> {
    let mut tasks = JoinSet::new();
    for _ in 0..requests {
        let (app, caller, o, body) = (Arc::clone(app), caller.clone(), o.clone(), body.to_string());
        tasks.spawn(async move {
            let mut answer = caller.send(&app, o.method.clone(), &o.path, HeaderMap::new(), body.clone()).await;
            for _ in 0..PATIENCE {
                if answer.status != 503 {
                    break;
                }
                assert!(answer.headers.contains_key("retry-after"), "{o:?}");
                answer = caller.send(&app, o.method.clone(), &o.path, HeaderMap::new(), body.clone()).await;
            }
            answer
        });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn every_creation_takes_a_key_in_its_body_and_in_a_header() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            assert!(o.parameters("header").contains_key("Idempotency-Key"), "{o:?}");
            assert!(properties(&app, &o).contains_key("idempotencyKey"), "{o:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_equal_requests_with_one_key_creates_one() {
    on_both(async |app| {
        let app = Arc::new(app);
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let (Creation { body, list, .. }, requests) = (creation(&o, 0), CROWD);
            let caller = Caller::of(&o, &t);
            let before = (count(&app, &caller, list).await, lines(&app, &t.owner, &t.slug).await);
            let answers = crowd(&app, &caller, &o, &with(&body, "idempotencyKey", "crowd"), requests).await;
            let (mut first, mut replays) = (Vec::new(), Vec::new());
            for answer in answers {
                let (body, replayed) = made(&o, "one of a crowd", answer);
                if replayed { replays.push(body) } else { first.push(body) }
            }
            let [first] = first.as_slice() else { panic!("{o:?}: {} were made", first.len()) };
            assert_eq!(replays.len(), requests - 1, "{o:?}");
            let expected = without_plaintext(first);
            for replay in replays {
                assert_eq!(replay, expected, "{o:?}");
            }
            let after = count(&app, &caller, list).await;
            assert_eq!(after, before.0 + 1, "{o:?}: {list}");
            // A tenant's log begins with itself; what a service sends is in no log.
            let (slug, noted) = if o.is_of_a_human() {
                (first["slug"].as_str().expect("a slug"), 1)
            } else {
                (t.slug.as_str(), before.1 + usize::from(o.scope.is_none()))
            };
            assert_eq!(lines(&app, &t.owner, slug).await, noted, "{o:?}: the audit log");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_without_a_key_makes_one_of_what_there_can_be_one_of() {
    on_both(async |app| {
        let app = Arc::new(app);
        let t = app.tenant("Acme").await;
        let mut unique = 0;
        for o in creations(&app, &t).await {
            let Creation { body, list, taken: Some(code), .. } = creation(&o, 0) else { continue };
            unique += 1;
            let caller = Caller::of(&o, &t);
            let before = (count(&app, &caller, list).await, lines(&app, &t.owner, &t.slug).await);
            let mut first = Vec::new();
            for answer in crowd(&app, &caller, &o, &body, CROWD).await {
                if answer.status == 201 {
                    first.push(fresh(&o, "the first of a crowd", answer));
                } else {
                    answer.expect_error(409, code);
                }
            }
            let [first] = first.as_slice() else { panic!("{o:?}: {} were made", first.len()) };
            assert_eq!(count(&app, &caller, list).await, before.0 + 1, "{o:?}: {list}");
            let (slug, noted) =
                if o.is_of_a_human() { (first["slug"].as_str().expect("a slug"), 1) } else { (t.slug.as_str(), before.1 + 1) };
            assert_eq!(lines(&app, &t.owner, slug).await, noted, "{o:?}: the audit log");
        }
        assert!(unique >= 2, "tenants by slug and invitations by address, at least");
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_creates_nothing() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let Creation { body, list, .. } = creation(&o, 0);
            let caller = Caller::of(&o, &t);
            let before = count(&app, &caller, list).await;
            let refused = async |what: &str, headers: HeaderMap, body: Value| {
                let answer = post(&app, &caller, &o, headers, &body).await;
                assert_eq!(answer.status, 400, "{o:?}: {what}: {}", answer.body);
                assert_eq!(fields(&answer.body), ["idempotencyKey"], "{o:?}: {what}");
            };
            let texts = [
                "".to_owned(),
                "x".repeat(256),
                "é".repeat(256),
                "a\nb".to_owned(),
                "a\r".to_owned(),
                "\ta".to_owned(),
                "a\0b".to_owned(),
                "\u{7f}".to_owned(),
                "a\u{85}b".to_owned(),
                "\u{1b}[0m".to_owned(),
            ];
            let others = [json!(7), json!(0), json!(true), json!([]), json!(["a"]), json!({})];
            for bad in texts.iter().map(|text| json!(text)).chain(others) {
                refused(&format!("{bad} in the body"), HeaderMap::new(), with(&body, "idempotencyKey", bad.clone())).await;
                refused(&format!("{bad} in the other spelling"), HeaderMap::new(), with(&body, "idempotency_key", bad.clone())).await;
            }
            let (long, accented) = ("x".repeat(256), "clé".to_owned());
            for bad in ["".as_bytes(), b"   ", b"\t", b"a\tb", long.as_bytes(), accented.as_bytes(), b"\xff", b"a\x80"] {
                refused(&format!("{bad:?} in the header"), in_header(bad), body.clone()).await;
            }
            refused("two keys", in_header("a"), with(&body, "idempotencyKey", "b")).await;
            refused("two keys that differ in case", in_header("a"), with(&body, "idempotencyKey", "A")).await;
            refused("a good key and none", in_header("a"), with(&body, "idempotencyKey", "")).await;
            refused("no key and a good one", in_header(""), with(&body, "idempotencyKey", "a")).await;
            refused("both spellings", HeaderMap::new(), with(&with(&body, "idempotencyKey", "a"), "idempotency_key", "a")).await;
            let mut twice = in_header("a");
            twice.append(HEADER, HeaderValue::from_static("b"));
            refused("two headers", twice, body.clone()).await;
            assert_eq!(count(&app, &caller, list).await, before, "{o:?}: {list}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_of_1_to_255_characters_is_taken_from_either_place() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let caller = Caller::of(&o, &t);
            let (long, accented) = ("x".repeat(255), "é".repeat(255));
            let keys = ["k", " ", "\"'\\;--", "✓ clé 🐦", &long, &accented];
            for (n, key) in keys.into_iter().enumerate() {
                let body = creation(&o, n).body;
                let (camel, snake) = (with(&body, "idempotencyKey", key), with(&body, "idempotency_key", key));
                let first = fresh(&o, key, post(&app, &caller, &o, HeaderMap::new(), &camel).await);
                replay(&o, key, post(&app, &caller, &o, HeaderMap::new(), &snake).await, &first);
                if key.trim() == key && key.is_ascii() {
                    replay(&o, key, post(&app, &caller, &o, in_header(key), &body).await, &first);
                    replay(&o, key, post(&app, &caller, &o, in_header(format!("  {key} ")), &body).await, &first);
                    replay(&o, key, post(&app, &caller, &o, in_header(key), &camel).await, &first);
                    let mut twice = in_header(key);
                    twice.append(HEADER, HeaderValue::from_str(key).expect("a header's text"));
                    replay(&o, key, post(&app, &caller, &o, twice, &body).await, &first);
                }
            }
            // A key is what it is, to the letter.
            let body = creation(&o, keys.len()).body;
            fresh(&o, "K", post(&app, &caller, &o, HeaderMap::new(), with(&body, "idempotencyKey", "K")).await);
        }
    })
    .await;
}

/// How a body is written.
#[derive(Clone, Copy)]
struct Style {
    /// Members from the last to the first, in every object.
    reversed: bool,
    /// Every character of a string as an escape.
    escaped: bool,
    /// Between tokens.
    space: &'static str,
    /// Behind a number.
    suffix: &'static str,
}

const PLAIN: Style = Style { reversed: false, escaped: false, space: "", suffix: "" };

fn written(value: &Value, style: Style) -> String {
    let Style { reversed, escaped, space, suffix } = style;
    let text = |text: &str| match escaped {
        true => format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>()),
        false => json!(text).to_string(),
    };
    match value {
        Value::Object(members) => {
            let mut all: Vec<String> =
                members.iter().map(|(name, v)| format!("{space}{}{space}:{space}{}{space}", text(name), written(v, style))).collect();
            if reversed {
                all.reverse();
            }
            format!("{{{}}}", all.join(","))
        }
        Value::Array(items) => {
            let all: Vec<String> = items.iter().map(|v| format!("{space}{}{space}", written(v, style))).collect();
            format!("[{}]", all.join(","))
        }
        Value::String(s) => text(s),
        Value::Number(n) => format!("{n}{suffix}"),
        other => other.to_string(),
    }
}

/// A body with its own names, not those within, in snake_case.
fn in_snake_case(body: &Value) -> Value {
    let letter = |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
    let members = body.as_object().expect("an object").iter();
    members.map(|(name, value)| (name.chars().map(letter).collect::<String>(), value.clone())).collect()
}

#[tokio::test]
async fn the_same_payload_in_other_words_is_replayed() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let caller = Caller::of(&o, &t);
            let body = with(&creation(&o, 0).body, "idempotencyKey", "k");
            let mut nulls = body.clone();
            for name in properties(&app, &o).keys().filter(|name| body[name.as_str()].is_null()) {
                nulls[name] = Value::Null;
            }
            let ways = [
                ("as it was", written(&body, PLAIN)),
                ("snake_case", written(&in_snake_case(&body), PLAIN)),
                ("reversed", written(&body, Style { reversed: true, ..PLAIN })),
                ("escaped", written(&body, Style { escaped: true, ..PLAIN })),
                ("spaced", written(&body, Style { space: " \r\n\t ", ..PLAIN })),
                ("1.0 for 1", written(&body, Style { suffix: ".0", ..PLAIN })),
                ("1e0 for 1", written(&body, Style { suffix: "e0", ..PLAIN })),
                ("100E-2 for 1", written(&body, Style { suffix: "00E-2", ..PLAIN })),
                ("nulls", written(&nulls, PLAIN)),
                ("all of it", written(&in_snake_case(&nulls), Style { reversed: true, escaped: true, space: "\n", suffix: ".000" })),
            ];
            let first = fresh(&o, "the first", post(&app, &caller, &o, HeaderMap::new(), &ways[0].1).await);
            for (what, text) in &ways {
                replay(&o, what, post(&app, &caller, &o, HeaderMap::new(), text).await, &first);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn another_payload_with_a_used_key_is_refused_and_creates_nothing() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let (caller, list) = (Caller::of(&o, &t), creation(&o, 0).list);
            let body = with(&creation(&o, 0).body, "idempotencyKey", "k");
            let first = fresh(&o, "the first", post(&app, &caller, &o, HeaderMap::new(), &body).await);
            let before = count(&app, &caller, list).await;
            let other = with(&creation(&o, 1).body, "idempotencyKey", "k");
            post(&app, &caller, &o, HeaderMap::new(), other).await.expect_error(409, "idempotency_key_reused");
            // What says nothing of something is another payload than what says something.
            if let Some(name) = creation(&o, 0).optional {
                assert!(!body[name].is_null(), "{o:?}: {name} is not even there");
                let less = with(&body, name, Value::Null);
                post(&app, &caller, &o, HeaderMap::new(), less).await.expect_error(409, "idempotency_key_reused");
            }
            assert_eq!(count(&app, &caller, list).await, before, "{o:?}: {list}");
            replay(&o, "after that", post(&app, &caller, &o, HeaderMap::new(), &body).await, &first);
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_request_does_not_use_up_its_key() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        for o in creations(&app, &t).await {
            let caller = Caller::of(&o, &t);
            let body = with(&creation(&o, 0).body, "idempotencyKey", "k");
            post(&app, &caller, &o, HeaderMap::new(), with(&body, "colour", "red")).await.expect_error(400, "unknown_field");
            post(&app, &caller, &o, HeaderMap::new(), &body.to_string()[1..]).await.expect_error(400, "invalid_json");
            let first = fresh(&o, "the first", post(&app, &caller, &o, HeaderMap::new(), &body).await);
            // Where there can be one of it only, the second one is refused, and then something else can have its key.
            if let Some(code) = creation(&o, 0).taken {
                let again = with(&creation(&o, 0).body, "idempotencyKey", "another");
                post(&app, &caller, &o, HeaderMap::new(), again).await.expect_error(409, code);
                let other = with(&creation(&o, 1).body, "idempotencyKey", "another");
                fresh(&o, "another one", post(&app, &caller, &o, HeaderMap::new(), other).await);
            }
            replay(&o, "after that", post(&app, &caller, &o, HeaderMap::new(), &body).await, &first);
        }
    })
    .await;
}

#[tokio::test]
async fn one_key_serves_every_operation_tenant_and_environment() {
    // Nothing listens there: what is accepted live stays queued.
    let base_urls = [("africas_talking".to_owned(), "http://127.0.0.1:9".to_owned())].into();
    on_both_with(TestOptions { base_urls, ..TestOptions::default() }, async |app| {
        let (acme, bolt) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        for (n, t) in [&acme, &bolt].into_iter().enumerate() {
            let mut firsts = Vec::new();
            let all = creations(&app, t).await;
            for o in &all {
                // A slug is unique in the whole world; everything else of the two tenants is equal.
                let body = with(&creation(o, if o.is_of_a_human() { n } else { 0 }).body, "idempotencyKey", "k");
                let answer = post(&app, &Caller::of(o, t), o, HeaderMap::new(), &body).await;
                firsts.push((body, fresh(o, &t.slug, answer)));
            }
            for (o, (body, first)) in all.iter().zip(&firsts) {
                replay(o, &t.slug, post(&app, &Caller::of(o, t), o, HeaderMap::new(), body).await, first);
            }
        }
        app.configure_sms(&acme).await;
        let sms = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "idempotencyKey": "env" });
        let key = json!({ "name": "Key", "idempotencyKey": "env" });
        for o in creations(&app, &acme).await {
            let (live, test) = match o.template.as_str() {
                "/v1/messages" => {
                    let send = async |key: &str| post(&app, &Caller::Key(key.to_owned()), &o, HeaderMap::new(), &sms).await;
                    (send(&acme.live).await, send(&acme.test).await)
                }
                "/v1/admin/messages" | "/v1/admin/api-keys" => {
                    let body = if o.template.ends_with("messages") { &sms } else { &key };
                    let send = async |environment: &str| {
                        post(&app, &Caller::owner(&acme), &o, HeaderMap::new(), with(body, "environment", environment)).await
                    };
                    (send("live").await, send("test").await)
                }
                _ => continue,
            };
            let (live, test) = (fresh(&o, "live", live), fresh(&o, "test", test));
            assert_ne!(live["id"], test["id"], "{o:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_belongs_to_the_tenant_and_not_to_who_asks() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let colleague = Caller::Human { token: app.join(&t, "colleague@example.com", "owner").await, slug: t.slug.clone() };
        let rotated = json!({ "name": "next", "environment": "test" });
        let rotated = app.as_human(&t.owner, &t.slug, Method::POST, "/v1/admin/api-keys", Some(rotated)).await.expect(201);
        let next = Caller::Key(rotated["plaintext"].as_str().expect("the text").to_owned());
        for o in creations(&app, &t).await {
            let body = with(&creation(&o, 0).body, "idempotencyKey", "k");
            let first = fresh(&o, "the first", post(&app, &Caller::of(&o, &t), &o, HeaderMap::new(), &body).await);
            let other = if o.scope.is_some() { &next } else { &colleague };
            if o.is_of_a_human() {
                // Outside of a tenant it is the human's: it tells nobody else what they made.
                post(&app, other, &o, HeaderMap::new(), &body).await.expect_error(409, "slug_taken");
                let own = with(&creation(&o, 1).body, "idempotencyKey", "k");
                assert_ne!(fresh(&o, "the colleague's", post(&app, other, &o, HeaderMap::new(), own).await)["id"], first["id"]);
            } else {
                replay(&o, "by somebody else", post(&app, other, &o, HeaderMap::new(), &body).await, &first);
            }
        }
    })
    .await;
}
