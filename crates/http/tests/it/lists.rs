//! What holds for every list: a cursor opens only where it was made, and only as it was made; limits and filters that are
//! none are refused by name. The lists are those of the OpenAPI document, so a new one is here by itself.

use std::collections::BTreeMap;

use http::Method;
use raven_core::{Channel, ConfigId, Environment};
use raven_store::{InboundRecord, Reading, Telling};
use raven_testkit::app::{Answer, TestApp, TestTenant, on_both};
use serde_json::{Value, json};

use crate::walk::{Caller, Operation, fields, operations, resolved};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Tenants with at least two rows in every list of the first one.
struct World {
    acme: TestTenant,
    /// Another tenant of the same owner.
    twin: String,
    /// A tenant of somebody else.
    other: TestTenant,
}

/// The `n`th message to a tenant, of the test environment.
fn inbound(app: &TestApp, t: &TestTenant, n: u8) -> InboundRecord {
    InboundRecord {
        seq: app.engine.membership.ids.next(app.engine.clock.now()),
        tenant: t.id,
        environment: Environment::Test,
        channel: Channel::Sms,
        config: ConfigId(uuid::Uuid::nil()),
        provider: "africas_talking".to_owned(),
        provider_message_id: format!("in-{n}"),
        sender: "+254722000000".to_owned(),
        recipient: "ACME".to_owned(),
        body: "Habari".to_owned(),
        media: Vec::new(),
        keyword: None,
        message: None,
        sent_at: None,
    }
}

async fn world(app: &TestApp) -> World {
    let (acme, other, third) = (app.tenant("Acme").await, app.tenant("Bolt").await, app.tenant("Coral").await);
    let post = async |t: &TestTenant, path: &str, body: Value| {
        app.as_human(&t.owner, &t.slug, Method::POST, path, Some(body)).await.expect(201);
    };
    for label in ["Mail one", "Mail two"] {
        let config = json!({ "provider": "smtp", "label": label, "publicConfig": { "host": "mail.example.com", "port": 25, "secure": false, "username": "u", "from_email": "a@example.com" }, "secretConfig": { "password": "p" } });
        post(&acme, "/v1/admin/providers", config).await;
    }
    post(&acme, "/v1/admin/tenants", json!({ "name": "Twin", "slug": "twin" })).await;
    app.join(&acme, "member@example.com", "viewer").await;
    post(&acme, "/v1/admin/members", json!({ "email": "invited@example.com", "role": "viewer" })).await;
    for t in [&other, &third] {
        post(t, "/v1/admin/members", json!({ "email": "owner-of-acme@example.com", "role": "viewer" })).await;
    }
    for n in 0..3 {
        let suppression = json!({ "channel": "sms", "address": format!("+25472299999{n}"), "environment": "test" });
        post(&acme, "/v1/admin/suppressions", suppression).await;
    }
    let message = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi", "externalId": "order-1" });
    for _ in 0..3 {
        app.post_message(&acme.test, message.clone()).await.expect(202);
    }
    app.settle().await;
    let inbound = (0..3).map(|n| Telling::Inbound(Box::new(inbound(app, &acme, n)))).collect();
    let reading = Reading {
        callback: Some(app.engine.membership.ids.next(app.engine.clock.now())),
        tenant: acme.id,
        config: ConfigId(uuid::Uuid::nil()),
        channel: Channel::Sms,
        is_trusted: true,
        tells: Ok(inbound),
        again_at: None,
    };
    app.store.apply_callbacks(&[reading], app.engine.clock.now()).await.expect("the store works");
    World { acme, twin: "twin".to_owned(), other }
}

/// A list: the operation, and who may read it.
struct List {
    operation: Operation,
    reader: Caller,
    /// Parameters without which there are no rows: the world's messages are of the test environment.
    base: BTreeMap<String, String>,
}

impl List {
    /// With these parameters too, percent-encoded already. One of the same name goes before the list's own.
    async fn get(&self, app: &TestApp, parameters: &[(&str, &str)]) -> Answer {
        self.get_as(app, &self.reader, parameters).await
    }

    async fn get_as(&self, app: &TestApp, reader: &Caller, parameters: &[(&str, &str)]) -> Answer {
        let own = self.base.iter().filter(|(name, _)| parameters.iter().all(|(n, _)| n != name));
        let own = own.map(|(name, value)| format!("{name}={value}"));
        let all: Vec<String> = own.chain(parameters.iter().map(|(name, value)| format!("{name}={value}"))).collect();
        reader.get(app, &format!("{}?{}", self.operation.path, all.join("&"))).await
    }

    /// The rows of a page, and where the next one begins.
    async fn page(&self, app: &TestApp, parameters: &[(&str, &str)]) -> (Vec<Value>, Option<String>) {
        let page = self.get(app, parameters).await.expect(200);
        (page["data"].as_array().expect("data").clone(), page["nextCursor"].as_str().map(str::to_owned))
    }

    /// The cursor after the first row.
    async fn cursor(&self, app: &TestApp) -> String {
        let (rows, next) = self.page(app, &[("limit", "1")]).await;
        assert_eq!(rows.len(), 1, "{:?}: no row: make some in `world`", self.operation);
        next.unwrap_or_else(|| panic!("{:?}: a single row: make more in `world`", self.operation))
    }

    async fn refuses(&self, app: &TestApp, reader: &Caller, parameters: &[(&str, &str)]) {
        let answer = self.get_as(app, reader, parameters).await;
        let (status, code) = (answer.status.as_u16(), &answer.body["code"]);
        assert!(status == 400 && code == "invalid_cursor", "{:?} {parameters:?}: {status} {}", self.operation, answer.body);
    }

    /// Its filters: all parameters but those of every list, and those that number pages.
    fn filters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.operation.parameters("query").into_iter().filter(|(name, _)| !matches!(*name, "limit" | "cursor" | "page" | "pageSize"))
    }
}

/// Every operation of the document that takes a cursor.
fn lists(app: &TestApp, world: &World) -> Vec<List> {
    let all = operations(app, &BTreeMap::new()).into_iter().filter(|o| o.parameters("query").contains_key("cursor"));
    let lists: Vec<List> = all
        .map(|operation| {
            let reader = Caller::of(&operation, &world.acme);
            let chooses = operation.parameters("query").contains_key("environment");
            let base = chooses.then(|| ("environment".to_owned(), "test".to_owned())).into_iter().collect();
            List { operation, reader, base }
        })
        .collect();
    assert!(lists.len() >= 10, "{} lists", lists.len());
    lists
}

/// Everybody else who can read the same list, each with rows of their own or none.
fn others(list: &List, world: &World) -> Vec<Caller> {
    let human = |token: &str, slug: &str| Caller::Human { token: token.to_owned(), slug: slug.to_owned() };
    match (&list.operation.scope, list.operation.is_of_a_human()) {
        (Some(_), _) => vec![Caller::Key(world.acme.live.clone()), Caller::Key(world.other.test.clone())],
        (None, true) => vec![human(&world.other.owner, &world.acme.slug)],
        (None, false) => vec![human(&world.acme.owner, &world.twin), Caller::owner(&world.other)],
    }
}

/// Values for a filter, percent-encoded: all that the schema lists, and what a row has under the same name.
fn values(app: &TestApp, name: &str, schema: &Value, row: &Value) -> Vec<String> {
    let schema = resolved(app, schema);
    if let Some(all) = schema["enum"].as_array() {
        return all.iter().map(|v| v.as_str().expect("a text").to_owned()).collect();
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("date-time")) => vec!["2020-01-01T00:00:00Z".to_owned(), "2031-01-01T00:00:00Z".to_owned()],
        (Some("string"), None) => {
            // Of messages from outside `from` is a time in other lists, so it has another name.
            let own = row[if name == "sender" { "from" } else { name }].as_str().map(|text| text.replace('+', "%2B"));
            own.into_iter().chain(["another".to_owned()]).collect()
        }
        _ => panic!("{name}: no values for a filter like {schema}: add some here"),
    }
}

#[tokio::test]
async fn a_walk_row_by_row_sees_what_one_page_shows() {
    on_both(async |app| {
        let world = world(&app).await;
        for list in lists(&app, &world) {
            let (all, end) = list.page(&app, &[("limit", "200")]).await;
            assert_eq!(end, None, "{:?}", list.operation);
            let (mut seen, mut cursor) = list.page(&app, &[("limit", "1")]).await;
            while let Some(at) = cursor {
                let (rows, next) = list.page(&app, &[("limit", "1"), ("cursor", &at)]).await;
                assert_eq!(rows.len(), 1, "{:?}: a page without a row, and there are no filters", list.operation);
                seen.extend(rows);
                assert!(seen.len() <= all.len(), "{:?}: the walk does not end", list.operation);
                cursor = next;
            }
            assert_eq!(seen, all, "{:?}", list.operation);
            assert!(all.len() >= 2, "{:?}: too few rows: make more in `world`", list.operation);
        }
    })
    .await;
}

#[tokio::test]
async fn an_altered_cursor_is_refused() {
    on_both(async |app| {
        let world = world(&app).await;
        for list in lists(&app, &world) {
            let cursor = list.cursor(&app).await;
            assert!(cursor.len() <= 128 && cursor.bytes().all(|b| ALPHABET.contains(&b)), "{cursor}");
            list.get(&app, &[("cursor", &cursor)]).await.expect(200);
            // Every character, by its lowest and its highest bit. The last one may carry bits that mean nothing: they count too.
            for at in 0..cursor.len() {
                for bit in [1, 32] {
                    let mut bytes = cursor.clone().into_bytes();
                    let place = ALPHABET.iter().position(|b| *b == bytes[at]).expect("of the alphabet");
                    bytes[at] = ALPHABET[place ^ bit];
                    let altered = String::from_utf8(bytes).expect("ASCII");
                    list.refuses(&app, &list.reader, &[("cursor", &altered)]).await;
                }
                if at > 0 {
                    list.refuses(&app, &list.reader, &[("cursor", &cursor[..at])]).await;
                    list.refuses(&app, &list.reader, &[("cursor", &cursor[at..])]).await;
                }
            }
            let grown = ["A", "AA", "AAA", "AAAA", "=", "==", "%20", "%00", "%0A", "."].map(|end| format!("{cursor}{end}"));
            let swapped: String =
                cursor.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect();
            let (twice, before) = (format!("{cursor}{cursor}"), format!("%20{cursor}"));
            let long: String = (0..128).map(|i| char::from(ALPHABET[(i * i * 7 + i * 13 + 5) % 64])).collect();
            let (longer, huge) = (format!("{long}A"), "A".repeat(8192));
            let garbage = ["A", "0", "!!!!", "%00", "%FF", "%F0%9F%90%A6", "null", "../..", "%27%20OR%201=1--", "%7B%22id%22:1%7D"];
            let made = [&swapped, &twice, &before, &long, &longer, &huge].map(String::as_str);
            for bad in grown.iter().map(String::as_str).chain(made).chain(garbage) {
                list.refuses(&app, &list.reader, &[("cursor", bad)]).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_cursor_of_another_list_tenant_human_or_environment_is_refused() {
    on_both(async |app| {
        let world = world(&app).await;
        let lists = lists(&app, &world);
        let mut cursors = Vec::new();
        for list in &lists {
            cursors.push(list.cursor(&app).await);
        }
        for (i, list) in lists.iter().enumerate() {
            for (j, cursor) in cursors.iter().enumerate() {
                if i == j {
                    list.get(&app, &[("cursor", cursor)]).await.expect(200);
                    continue;
                }
                list.refuses(&app, &list.reader, &[("cursor", cursor)]).await;
            }
            for reader in others(list, &world) {
                list.get_as(&app, &reader, &[]).await.expect(200);
                list.refuses(&app, &reader, &[("cursor", &cursors[i])]).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_cursor_of_another_filter_is_refused() {
    on_both(async |app| {
        let world = world(&app).await;
        let (mut filters, mut within) = (0, 0);
        for list in lists(&app, &world) {
            let plain = list.cursor(&app).await;
            let row = list.page(&app, &[("limit", "1")]).await.0.remove(0);
            for (name, schema) in list.filters() {
                filters += 1;
                let values = values(&app, name, schema, &row);
                for value in values.iter().filter(|value| list.base.get(name) != Some(value)) {
                    list.refuses(&app, &list.reader, &[(name, value), ("cursor", &plain)]).await;
                }
                for value in &values {
                    let (_, next) = list.page(&app, &[(name, value), ("limit", "1")]).await;
                    let Some(next) = next else { continue };
                    within += 1;
                    list.get(&app, &[(name, value), ("cursor", &next)]).await.expect(200);
                    if list.base.get(name) != Some(value) {
                        list.refuses(&app, &list.reader, &[("cursor", &next)]).await;
                    }
                    for other in values.iter().filter(|other| *other != value) {
                        list.refuses(&app, &list.reader, &[(name, other), ("cursor", &next)]).await;
                    }
                }
            }
        }
        // Both lists of messages have eight, and humans choose the environment; each of them has a value that rows have.
        assert!(filters >= 17 && within >= filters, "{filters} filters, {within} cursors within one");
    })
    .await;
}

#[tokio::test]
async fn a_limit_is_a_whole_number_from_1_to_200() {
    on_both(async |app| {
        let world = world(&app).await;
        for list in lists(&app, &world) {
            for good in ["1", "2", "199", "200"] {
                let (rows, _) = list.page(&app, &[("limit", good)]).await;
                let most: usize = good.parse().expect("a number");
                assert!((1..=most).contains(&rows.len()), "{:?} limit={good}: {} rows", list.operation, rows.len());
            }
            let bad = [
                "0",
                "201",
                "-1",
                "-0",
                "1.5",
                "1.0",
                "1e1",
                "abc",
                "%20",
                "1%20",
                "+1",
                "0x10",
                "1_0",
                "null",
                "NaN",
                "%00",
                "%EF%BC%91",
                "4294967297",
                "18446744073709551616",
                "18446744073709551617",
            ];
            for bad in bad {
                let error = list.get(&app, &[("limit", bad)]).await.expect_error(400, "validation_failed");
                assert_eq!(fields(&error), ["limit"], "{:?} limit={bad}", list.operation);
            }
            let cursor = list.cursor(&app).await;
            for twice in [[("limit", "1"), ("limit", "2")], [("limit", "1"), ("limit", "1")], [("cursor", &cursor), ("cursor", &cursor)]] {
                let error = list.get(&app, &twice).await.expect_error(400, "unknown_field");
                assert_eq!(fields(&error), [twice[0].0], "{:?} {twice:?}", list.operation);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_empty_parameter_counts_as_absent() {
    on_both(async |app| {
        let world = world(&app).await;
        for list in lists(&app, &world) {
            let all = list.page(&app, &[]).await;
            assert_eq!(list.page(&app, &[("limit", ""), ("cursor", "")]).await, all, "{:?}", list.operation);
            let names: Vec<(&str, &str)> =
                list.filters().map(|(name, _)| (name, "")).filter(|(name, _)| !list.base.contains_key(*name)).collect();
            assert_eq!(list.page(&app, &names).await, all, "{:?}", list.operation);
        }
    })
    .await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_by_name() {
    on_both(async |app| {
        let world = world(&app).await;
        for list in lists(&app, &world) {
            for (name, schema) in list.filters() {
                let schema = resolved(&app, schema);
                let mut bad = vec!["%00".to_owned()];
                match schema["maxLength"].as_u64() {
                    Some(max) => bad.push("x".repeat(usize::try_from(max).expect("a length") + 1)),
                    // What has no longest length is a name of a list, or a time.
                    None => bad.extend(["nonsense", "%FF", "2026-13-01T00:00:00Z", "0"].map(str::to_owned)),
                }
                for bad in bad {
                    let error = list.get(&app, &[(name, &bad)]).await.expect_error(400, "validation_failed");
                    assert_eq!(fields(&error), [name], "{:?} {name}={bad}", list.operation);
                }
            }
            // All of it is told at once.
            let mut parameters: Vec<(&str, &str)> = list.filters().map(|(name, _)| (name, "%00")).collect();
            parameters.extend([("limit", "0"), ("colour", "red"), ("cursor", "x")]);
            let error = list.get(&app, &parameters).await.expect_error(400, "validation_failed");
            let mut expected: Vec<&str> = parameters.iter().map(|(name, _)| *name).filter(|name| *name != "cursor").collect();
            expected.sort_unstable();
            assert_eq!(fields(&error), expected, "{:?}", list.operation);
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_parameter_of_any_operation_is_refused_by_name() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let all = operations(&app, &BTreeMap::new());
        assert!(all.len() > 35, "{} operations", all.len());
        for o in all {
            let caller = Caller::of(&o, &t);
            let ask = async |query: &str| {
                caller.send(&app, o.method.clone(), &format!("{}?{query}", o.path), http::HeaderMap::new(), String::new()).await
            };
            for query in ["colour=red", "colour", "colour=", "Colour=red&limit_=1"] {
                let error = ask(query).await.expect_error(400, "unknown_field");
                let mut names: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
                names.sort_unstable();
                assert_eq!(fields(&error), names, "{o:?} {query}");
            }
            let known = o.parameters("query");
            for name in known.keys() {
                let error = ask(&format!("{name}s=1")).await.expect_error(400, "unknown_field");
                let text = error["errors"][0]["message"].as_str().expect("a text");
                assert!(text.ends_with(&format!("did you mean {name}?")), "{o:?} {name}: {text}");
                let error = ask(&format!("{name}=&{name}=")).await.expect_error(400, "unknown_field");
                assert_eq!(fields(&error), [*name], "{o:?}");
            }
        }
    })
    .await;
}
