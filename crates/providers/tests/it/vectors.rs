//! Signatures that the providers' own SDKs are tested with: our checks say the same of them.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use raven_core::Timestamp;
use raven_providers::{Bound, Callback, Verdict, callback::Proof, find};
use serde_json::{Value, json};

/// The verdict on a callback of this provider, set up like this.
fn verdict(id: &str, settings: &Value, method: &Method, url: &str, headers: &[(&str, &str)], body: &str, now: i64) -> Verdict {
    let provider = find(id).expect("a provider");
    let (public, secret) = provider.spec.validate(settings.get("publicConfig"), settings.get("secretConfig")).expect("good settings");
    let Bound::Http(call) = provider.bind(&public, &secret).expect("valid settings fit") else { panic!("{id} is called over HTTP") };
    let header =
        |(name, value): &(&str, &str)| (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"));
    let headers: HeaderMap = headers.iter().map(header).collect();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let callback = Callback { method, query, headers: &headers, body: body.as_bytes() };
    call.authenticate(&callback, &Proof { url, now: Timestamp::from_millis(now * 1000), certificate: None })
}

fn genuine(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Genuine { .. })
}

/// <https://github.com/Vonage/vonage-python-sdk>, `tests/test_signature.py` of its third version.
#[test]
fn vonages_signatures_are_those_of_its_sdks() {
    for (way, signature) in [
        ("md5hash", "6af838ef94998832dbfc29020b564830"),
        ("md5", "c15c21ced558c93a226c305f58f902f2"),
        ("sha1", "3e19a4e6880fdc2c1426bfd0587c98b9532f0210"),
        ("sha256", "a321e824b9b816be7c3f28859a31749a098713d39f613c80d455bbaffae1cd24"),
        (
            "sha512",
            "812a18f76680fa0fe1b8bd9ee1625466ceb1bd96242e4d050d2cfd9a7b40166c63ed26ec9702168781b6edcf1633db8ff95af9341701004eec3fcf9550572ee8",
        ),
    ] {
        let settings = json!({
            "publicConfig": {"api_key": "a", "from": "ACME", "signature_method": way},
            "secretConfig": {"api_secret": "b", "signature_secret": "secret"},
        });
        let check = |a: &str| {
            let url = format!("https://raven.example/?b=2&a={a}&timestamp=1461605396&sig={signature}");
            genuine(&verdict("vonage", &settings, &Method::GET, &url, &[], "", 1_461_605_396))
        };
        assert!(check("1") && !check("2"), "{way}");
    }
}

const PLIVO_TOKEN: &str = "Y2Q2ZDgxZmY5YWRiOTI5YmQ1Njg0MTAxZWIyOTc4";
const PLIVO_FIELDS: &[(&str, &str)] = &[
    ("Direction", "outbound"),
    ("From", "19792014278"),
    ("ALegUUID", "3e82ae9d-2c78-4d85-b1a4-6eae7dbafb36"),
    ("CallStatus", "in-progress"),
    ("BillRate", "0.002"),
    ("ParentAuthID", "MANWVLYTK4ZWU1YTY4QA"),
    ("To", "sip:PlivoSignature382029104058171078704104@phone-qa.voice.plivodev.com"),
    ("ALegRequestUUID", "3e82ae9d-2c78-4d85-b1a4-6eae7dbafb36"),
    ("CallUUID", "3e82ae9d-2c78-4d85-b1a4-6eae7dbafb36"),
    ("RequestUUID", "3e82ae9d-2c78-4d85-b1a4-6eae7dbafb36"),
    ("SIP-H-To", "<sip:PlivoSignature382029104058171078704104@52.9.11.55;transport=udp>;tag=1"),
    ("SessionStart", "2020-04-08 11:34:33.238707"),
    ("Event", "StartApp"),
];

fn plivo(token: &str) -> Value {
    json!({"publicConfig": {"auth_id": "MA", "src": "+14152828726"}, "secretConfig": {"auth_token": token}})
}

/// <https://github.com/plivo/plivo-go/blob/master/utils_test.go>
#[test]
fn plivos_signatures_are_those_of_its_sdks() {
    let page = "https://plivobin.non-prod.plivops.com/api/v1/validate_signature03.xml";
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(PLIVO_FIELDS).finish();
    for (method, url, body, signature) in [
        (Method::POST, format!("{page}/?a=b&c=d"), form.as_str(), "k7Pusd4OxCIjR5IfA9iedDNu/h/gbdYqdzG/MiYtd1c="),
        (Method::GET, format!("{page}/?a=b&c=d&{form}"), "", "UBq8jAtd32wR8EK9VgxbBn4n5rpI/l1H9iN4WfSEHFQ="),
        (Method::POST, page.to_owned(), form.as_str(), "iAjE5QqI37mbkYe4w3jTMudqEzbDufdqi7sYwTu64e0="),
        (Method::GET, format!("{page}?{form}"), "", "i/MQsaQSAd6fiKhOh2qeeeLHZ9faldADSb3/7+Akfbc="),
    ] {
        let check = |nonce: &str| {
            let headers = [
                ("content-type", "application/x-www-form-urlencoded"),
                ("x-plivo-signature-v3", signature),
                ("x-plivo-signature-v3-nonce", nonce),
            ];
            genuine(&verdict("plivo", &plivo(PLIVO_TOKEN), &method, &url, &headers, body, 0))
        };
        assert!(check("31627761595286130198") && !check("31627761595286130199"), "{method} {url}");
    }
    let second = |token: &str| {
        let headers = [("x-plivo-signature-v2", "ehV3IKhLysWBxC1sy8INm0qGoQYdYsHwuoKjsX7FsXc="), ("x-plivo-signature-v2-nonce", "12345")];
        verdict("plivo", &plivo(token), &Method::POST, "https://answer.url", &headers, "", 0)
    };
    assert_eq!(second("my_auth_token"), Verdict::Genuine { once: Some("12345".into()) });
    assert!(!genuine(&second("my_auth_tokens")));
}

const MESSAGEBIRD_HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// <https://github.com/messagebird/go-rest-api/blob/master/signature_jwt/testdata/reference.json>
#[test]
fn messagebirds_tokens_are_those_of_its_sdks() {
    let settings = json!({
        "publicConfig": {"originator": "ACME"},
        "secretConfig": {"access_key": "a", "signing_key": "36efdd1aace2e26cd490f0d951138253bef2f7c6d34d18981da781555cc4cebb"},
    });
    let root = "https://example.com/";
    let path = "https://example.com/path?bar=1&foo=2";
    let other = "https://example.com/path?foo=1&bar=2";
    for (about, url, body, token, expected) in [
        (
            "no parameters, no body",
            root,
            "",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.6Fp0rVOsRr1fj9S2GidXAfkmPVofKr8_RTffC6G6r2E",
            None,
        ),
        (
            "parameters",
            path,
            "",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiJjOTQ2YWY3Ny1lMTgyLTRlYWEtYjJmZi0xYTU0NWI1ZTk5MWEiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1NzJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAifQ.huo2ou6JDoDc7sV25d75UMWeYhBeavQlLsqIibSZuac",
            None,
        ),
        (
            "parameters and a body",
            path,
            "Hello, World!",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI5M2U1NTAwNi1hMGU4LTQ1MjYtYTE5MC1mYTVmZjAwZWExMTYiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1NzJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAiLCJwYXlsb2FkX2hhc2giOiJkZmZkNjAyMWJiMmJkNWIwYWY2NzYyOTA4MDllYzNhNTMxOTFkZDgxYzdmNzBhNGIyODY4OGEzNjIxODI5ODZmIn0._H--TOuYFLpeEH39-rg5E3IHVkjHozBcaKVWPRC5m9I",
            None,
        ),
        (
            "before its time",
            root,
            "",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ4MjgwMCwiZXhwIjoxNjI1NDgyODYwLCJqdGkiOiJmOWY4YzM4Mi0yNDQ5LTQzMTEtYjcyYi0xZGY3MTY4NzkzMWUiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.ZELgDFNGhjZH9CffQKcq3sytBe2I0KciLxpBhcfstHQ",
            Some("the signature is too old, or of the future"),
        ),
        (
            "after its time",
            root,
            "",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3NTYwMCwiZXhwIjoxNjI1NDc1NjYwLCJqdGkiOiI1ZjAyZjUyMi02MDMwLTQ2YzgtYjVhMy0wMTI0NjQ3OGQ4YmMiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.45MSST3B_2PsjNUeiuW54_vUQgVw4rBXrdWrOUEz3lM",
            Some("the signature is too old, or of the future"),
        ),
        (
            "another URL",
            other,
            "",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiJhNzVjOTA5Ni1lODIzLTQ0MmItODVmMi03ZDNjOWQ5YjcyNmIiLCJ1cmxfaGFzaCI6IjZhMDIyZDgzNGMxODMzMGJhYWQ4YTJiZDYxMzUxNzNlZDIxNjEwYTQ1NDUxNmJlMGRmM2YxY2MwMTUxNjEwZWEifQ.z6Sw1XQIM0wuEQGBhXBdawDIIrtMg2XnmA_bpDq53pE",
            Some("the signature is of another URL"),
        ),
        (
            "another body",
            root,
            "Hello, World!",
            "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiIxNDUwMTUzMi05NmYyLTQ2ODQtOTgzMi02OGYwOTUxYWUzNDIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDciLCJwYXlsb2FkX2hhc2giOiJmYjYyZjAyYWNkYTdkNzQxNzdhNzAxYTFjZTAwNmU2YmFjZDkwYzdkNGQ3YWI0ODE2OTJjMWRhNDdjODEwNzZiIn0.m79RCwO6dGa9pvzsQypkVuXQ6eM0CkRl6_U7MfWg6TM",
            Some("the signature is of another body"),
        ),
    ] {
        let token = format!("{MESSAGEBIRD_HEADER}.{token}");
        let headers = [("messagebird-signature-jwt", token.as_str())];
        let found = verdict("messagebird", &settings, &Method::POST, url, &headers, body, 1_625_479_200);
        let expected = expected.map_or(Verdict::Genuine { once: None }, Verdict::Refused);
        assert_eq!(found, expected, "{about}");
    }
}
