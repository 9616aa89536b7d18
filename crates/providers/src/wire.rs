//! What the HTTP adapters share: building a request, and what a bare HTTP status means.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{Class, SendError};

/// One line of a provider's table of codes.
pub(crate) struct Row {
    /// The provider's code.
    pub(crate) code: u64,
    /// What follows.
    pub(crate) class: Class,
    /// Our code for it.
    pub(crate) ours: &'static str,
}

/// Short for a table's line.
pub(crate) const fn row(code: u64, class: Class, ours: &'static str) -> Row {
    Row { code, class, ours }
}

/// Try again, the provider names no time.
pub(crate) const RETRY: Class = Class::Retry { after: None };
/// Too busy, the provider names no time.
pub(crate) const BUSY: Class = Class::RateLimited { after: None };

/// A header that signs a request in.
pub(crate) type Auth<'a> = (header::HeaderName, &'a str);

/// A `POST` of form fields that asks for JSON.
pub(crate) fn form_post(url: &str, fields: &[(&str, &str)], auth: Auth<'_>) -> Request<Bytes> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    request(Method::POST, url, Some("application/x-www-form-urlencoded"), form.finish(), auth)
}

/// A `POST` of JSON that asks for JSON.
pub(crate) fn json_post(url: &str, body: &Value, auth: Auth<'_>) -> Request<Bytes> {
    request(Method::POST, url, Some("application/json"), body.to_string(), auth)
}

/// A `GET` that asks for JSON.
pub(crate) fn get(url: &str, auth: Auth<'_>) -> Request<Bytes> {
    request(Method::GET, url, None, String::new(), auth)
}

/// `Basic …` (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let plain = Zeroizing::new(format!("{user}:{password}"));
    Zeroizing::new(format!("Basic {}", Zeroizing::new(STANDARD.encode(plain.as_bytes())).as_str()))
}

fn request(method: Method, url: &str, content_type: Option<&'static str>, body: impl Into<Bytes>, auth: Auth<'_>) -> Request<Bytes> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    // A replaced base that is no URL becomes one without a host, which no client connects to.
    *request.uri_mut() = url.parse::<Uri>().unwrap_or_default();
    let headers = request.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("Raven/", env!("CARGO_PKG_VERSION"))));
    // A stored credential that no header can carry is sent as an empty one; the provider's 401 says the rest.
    let mut credential = HeaderValue::from_str(auth.1).unwrap_or(HeaderValue::from_static(""));
    credential.set_sensitive(true);
    headers.insert(auth.0, credential);
    request
}

/// Do credentials work, by the status of the answer to a harmless request?
pub(crate) fn verified(provider: &str, response: &Response<Bytes>) -> Result<(), SendError> {
    match response.status() {
        status if status.is_success() => Ok(()),
        status @ StatusCode::FORBIDDEN => {
            Err(SendError::new(Class::Credentials, "invalid_credentials", format!("{provider} answered HTTP {}", status.as_u16())))
        }
        status => Err(by_status(provider, status, response.headers(), None, None)),
    }
}

/// What an HTTP status means when the body says nothing that we know. `code` and `detail` are the provider's, if any.
pub(crate) fn by_status(provider: &str, status: StatusCode, headers: &HeaderMap, code: Option<u64>, detail: Option<&str>) -> SendError {
    let (class, ours) = match status.as_u16() {
        200..=299 => (Class::Unknown, "unreadable_answer"),
        // Not followed: the credentials would travel with it. Most likely a wrong base URL, which a human can mend in time.
        300..=399 => (RETRY, "unexpected_redirect"),
        401 => (Class::Credentials, "invalid_credentials"),
        // A gateway may give up on a request that what is behind it still carries out.
        408 | 504 => (Class::Unknown, "provider_timeout"),
        429 => (Class::RateLimited { after: retry_after(headers) }, "rate_limited"),
        400..=499 => (Class::Rejected, "rejected"),
        500..=599 => (Class::Retry { after: retry_after(headers) }, "provider_unavailable"),
        _ => (Class::Unknown, "unreadable_answer"),
    };
    let message = match detail.map(str::trim).filter(|d| !d.is_empty()) {
        Some(detail) => format!("{provider} answered HTTP {}: {detail}", status.as_u16()),
        None => format!("{provider} answered HTTP {}", status.as_u16()),
    };
    SendError::new(class, code.map_or_else(|| ours.to_owned(), |c| c.to_string()), message)
}

/// The wait that `Retry-After` (RFC 9110, section 10.2.3) asks for: seconds, or a date, which is counted from the answer's
/// own `Date`, the only clock that both came from.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    /// Nobody means more than a day, and a hostile number must not park a message for ever.
    const LONGEST: Duration = Duration::from_secs(86_400);
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let then = http_date(text)?;
        let now = http_date(headers.get(header::DATE)?.to_str().ok()?)?;
        Duration::from_secs(u64::try_from(then.saturating_sub(now)).unwrap_or(0))
    };
    Some(wait.min(LONGEST))
}

fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|t| t.timestamp().as_second())
}

/// A code or a count, which comes as a number or as a string of digits.
pub(crate) fn code(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A provider's id for a message: something printable, not too long.
pub(crate) fn id(text: &str) -> Option<String> {
    let id: String = text.trim().chars().filter(|c| !c.is_control()).take(255).collect();
    Some(id).filter(|id| !id.is_empty())
}

/// A `POST` of bytes.
pub(crate) fn bytes_post(url: &str, body: Vec<u8>, auth: Auth<'_>) -> Request<Bytes> {
    request(Method::POST, url, Some("application/octet-stream"), body, auth)
}

/// A `POST` of form fields, one of which signs it in.
pub(crate) fn bare_form_post(url: &str, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = form_post(url, fields, (header::AUTHORIZATION, ""));
    request.headers_mut().remove(header::AUTHORIZATION);
    request
}

/// `Bearer …` (RFC 6750).
pub(crate) fn bearer(token: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {token}"))
}

/// One line of a table of codes that are words.
pub(crate) struct WordRow {
    /// The provider's word.
    pub(crate) word: &'static str,
    /// What follows.
    pub(crate) class: Class,
    /// Our code for it.
    pub(crate) ours: &'static str,
}

/// Short for a table's line.
pub(crate) const fn word(word: &'static str, class: Class, ours: &'static str) -> WordRow {
    WordRow { word, class, ours }
}

/// A class out of a table, with the wait that the answer asks for.
pub(crate) fn with_wait(class: Class, headers: &HeaderMap) -> Class {
    match class {
        Class::Retry { .. } => Class::Retry { after: retry_after(headers) },
        Class::RateLimited { .. } => Class::RateLimited { after: retry_after(headers) },
        class => class,
    }
}

/// What to do when WhatsApp takes no free text: it stands before what the provider says, which may be long.
pub(crate) const SEND_A_TEMPLATE: &str = "The recipient has not written in the last 24 hours: send a whatsappTemplate. ";

/// Why a message can't be sent.
pub(crate) fn refused(code: &str, message: impl Into<String>) -> SendError {
    SendError::new(Class::Rejected, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(retry_after_header: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, retry_after_header.parse().expect("a header value"));
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().expect("a header value"));
        }
        retry_after(&headers).map(|d| d.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_from_the_answers_own_date() {
        assert_eq!(wait("120", None), Some(120));
        assert_eq!(wait(" 0 ", None), Some(0));
        assert_eq!(wait("99999999999999999999999", None), Some(86_400));
        assert_eq!(wait("Tue, 24 Nov 2026 04:20:30 GMT", Some("Tue, 24 Nov 2026 04:20:00 GMT")), Some(30));
        assert_eq!(wait("Tue, 24 Nov 2026 04:19:00 GMT", Some("Tue, 24 Nov 2026 04:20:00 GMT")), Some(0));
        assert_eq!(wait("Tue, 24 Nov 2026 04:20:30 GMT", None), None);
        for bad in ["", "-5", "soon", "1.5", "+3", "Tue"] {
            assert_eq!(wait(bad, Some("Tue, 24 Nov 2026 04:20:00 GMT")), None, "{bad}");
        }
    }

    #[test]
    fn a_base_that_is_no_url_reaches_nobody() {
        let request = form_post("not a url/messaging", &[], (header::AUTHORIZATION, "x"));
        assert_eq!(request.uri().host(), None);
        let request = form_post("http://127.0.0.1:1/m", &[], (header::AUTHORIZATION, "line\nbreak"));
        assert_eq!(request.headers()[header::AUTHORIZATION], "");
    }
}
