//! Lists of messages: pages, cursors, filters.

use std::time::Duration;

use http::Method;
use raven_testkit::app::{TestApp, TestTenant, on_both};
use serde_json::json;

async fn fill(app: &TestApp, t: &TestTenant, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for i in 0..count {
        let body = json!({ "channel": "sms", "to": format!("+25472200{i:04}"), "body": "Hi", "externalId": format!("order-{}", i % 3) });
        ids.push(app.post_message(&t.test, body).await.expect(202)["id"].as_str().expect("an id").to_owned());
    }
    ids.reverse();
    ids
}

/// All ids that a walk over the pages finds; `between` runs after each page.
async fn walk(app: &TestApp, t: &TestTenant, query: &str, between: impl AsyncFn()) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = app.with_key(&t.test, Method::GET, &format!("/v1/messages?{query}{cursor}"), None).await.expect(200);
        ids.extend(page["data"].as_array().expect("data").iter().map(|m| m["id"].as_str().expect("an id").to_owned()));
        match page["nextCursor"].as_str() {
            None => return ids,
            Some(next) => cursor = format!("&cursor={next}"),
        }
        between().await;
    }
    panic!("the walk does not end");
}

#[tokio::test]
async fn a_walk_sees_every_message_once_though_others_arrive() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        // The clock stands still, so all of them have equal times.
        let ids = fill(&app, &t, 23).await;
        let seen = walk(&app, &t, "limit=5", async || {
            fill(&app, &t, 1).await;
        })
        .await;
        assert_eq!(seen, ids);
    })
    .await;
}

#[tokio::test]
async fn filters_hold_over_pages() {
    on_both(async |app| {
        let t = app.tenant("Acme").await;
        let early = fill(&app, &t, 6).await;
        app.settle().await;
        app.clock.advance(Duration::from_secs(60));
        let border = app.engine.clock.now().to_string();
        let late = fill(&app, &t, 3).await;
        let quiet = async || {};
        assert_eq!(walk(&app, &t, &format!("until={border}&limit=4"), quiet).await, early);
        assert_eq!(walk(&app, &t, &format!("from={border}&limit=2"), quiet).await, late);
        assert_eq!(walk(&app, &t, "externalId=order-0&limit=1", quiet).await, [&late[2], &early[2], &early[5]].map(String::clone));
        assert_eq!(walk(&app, &t, "to=%2B254722000005", quiet).await, [early[0].clone()]);
        assert_eq!(walk(&app, &t, "status=sent", quiet).await, early);
        assert_eq!(walk(&app, &t, "channel=email", quiet).await, [""; 0]);
        assert_eq!(walk(&app, &t, "source=api&provider=sandbox&limit=200", quiet).await, early);
    })
    .await;
}

#[tokio::test]
async fn cursors_of_elsewhere_and_bad_limits_are_refused() {
    on_both(async |app| {
        let (t, other) = (app.tenant("Acme").await, app.tenant("Bolt").await);
        fill(&app, &t, 3).await;
        let get = async |key: &str, query: String| app.with_key(key, Method::GET, &format!("/v1/messages?{query}"), None).await;
        let cursor = get(&t.test, "limit=1".to_owned()).await.expect(200)["nextCursor"].as_str().expect("a cursor").to_owned();
        assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        get(&t.test, format!("cursor={cursor}")).await.expect(200);
        get(&t.test, format!("cursor={cursor}&limit=2")).await.expect(200);
        get(&t.test, format!("cursor={cursor}&status=sent")).await.expect_error(400, "invalid_cursor");
        get(&t.live, format!("cursor={cursor}")).await.expect_error(400, "invalid_cursor");
        get(&other.test, format!("cursor={cursor}")).await.expect_error(400, "invalid_cursor");
        get(&t.test, format!("cursor=A{}", &cursor[1..])).await.expect_error(400, "invalid_cursor");
        get(&t.test, "cursor=x".to_owned()).await.expect_error(400, "invalid_cursor");
        for bad in ["0", "201", "-1", "1.5", "x", "99999999999999999999"] {
            get(&t.test, format!("limit={bad}")).await.expect_error(400, "validation_failed");
        }
        for bad in ["status=flying", "channel=pigeon", "from=yesterday", "until=2026-01-01", "source=x"] {
            get(&t.test, bad.to_owned()).await.expect_error(400, "validation_failed");
        }
    })
    .await;
}
