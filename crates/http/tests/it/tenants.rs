//! Tenants.

use http::Method;
use raven_testkit::app::{on_both, request};
use serde_json::json;

#[tokio::test]
async fn a_tenant_gets_defaults_a_slug_and_its_owner() {
    on_both(async |app| {
        let bearer = format!("Bearer {}", app.token("ada@example.com"));
        let headers = [("authorization", bearer.as_str())];
        let post = async |body| app.send(request(Method::POST, "/v1/admin/tenants", &headers, Some(body))).await;
        let first = post(json!({ "name": " Acme & Co ", "country_code": "KE" })).await.expect(201);
        assert_eq!(
            (
                &first["slug"],
                &first["name"],
                &first["status"],
                &first["plan"],
                &first["countryCode"],
                &first["defaultLocale"],
                &first["defaultTz"]
            ),
            (
                &json!("acme-co"),
                &json!("Acme & Co"),
                &json!("active"),
                &json!("unlimited"),
                &json!("KE"),
                &json!("en"),
                &json!("Africa/Nairobi")
            )
        );
        assert_eq!(post(json!({ "name": "Acme Co" })).await.expect(201)["slug"], "acme-co-2");
        post(json!({ "name": "Acme Co", "slug": "acme-co" })).await.expect_error(409, "slug_taken");
        let replayable = json!({ "name": "Bolt", "slug": "bolt", "idempotencyKey": "k" });
        let bolt = post(replayable.clone()).await.expect(201);
        assert_eq!(post(replayable).await.expect(201), bolt);
        post(json!({ "name": "Other", "idempotencyKey": "k" })).await.expect_error(409, "idempotency_key_reused");
        let list = app.send(request(Method::GET, "/v1/admin/tenants?limit=2", &headers, None)).await.expect(200);
        assert_eq!(list["data"].as_array().expect("data").len(), 2);
        let next = list["nextCursor"].as_str().expect("a cursor");
        let rest = app.send(request(Method::GET, &format!("/v1/admin/tenants?limit=2&cursor={next}"), &headers, None)).await.expect(200);
        assert_eq!((rest["data"].as_array().expect("data").len(), &rest["nextCursor"]), (1, &json!(null)));
        let stranger = format!("Bearer {}", app.token("eve@example.com"));
        let none = app.send(request(Method::GET, "/v1/admin/tenants", &[("authorization", &stranger)], None)).await.expect(200);
        assert_eq!(none["data"], json!([]));
        let foreign =
            app.send(request(Method::GET, &format!("/v1/admin/tenants?cursor={next}"), &[("authorization", &stranger)], None)).await;
        foreign.expect_error(400, "invalid_cursor");
    })
    .await;
}

#[tokio::test]
async fn bad_tenants_are_explained() {
    on_both(async |app| {
        let bearer = format!("Bearer {}", app.token("ada@example.com"));
        let body = json!({ "name": "x", "slug": "🎉", "countryCode": "KEN", "defaultLocale": "e", "defaultTz": "Africa/Atlantis" });
        let error = app
            .send(request(Method::POST, "/v1/admin/tenants", &[("authorization", &bearer)], Some(body)))
            .await
            .expect_error(400, "validation_failed");
        let fields: Vec<&str> = error["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str().expect("a field")).collect();
        assert_eq!(fields, ["slug", "name", "countryCode", "defaultLocale", "defaultTz"]);
    })
    .await;
}
