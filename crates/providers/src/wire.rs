//! What the HTTP adapters share: building a request, and what a bare HTTP status means.

use std::{borrow::Cow, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use raven_core::{Timestamp, sms};
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
    without_header_credential(form_post(url, fields, (header::AUTHORIZATION, "")))
}

/// A phone number as most SMS providers want it: the digits of E.164 without `+`. Other senders stay as they are.
pub(crate) fn digits(address: &str) -> &str {
    address.strip_prefix('+').unwrap_or(address)
}

/// Does the text of an SMS need UCS-2? For providers that want to be told.
pub(crate) fn needs_unicode(text: &str) -> bool {
    sms::segments(text).encoding == sms::Encoding::Ucs2
}

/// The base URL of a host that a tenant chose ([`crate::Kind::HostUnder`]).
pub(crate) fn base_of(host: &str) -> String {
    format!("https://{}", host.strip_prefix("https://").unwrap_or(host))
}

/// The request without a credential in a header, for a provider that takes its key elsewhere.
pub(crate) fn without_header_credential(mut request: Request<Bytes>) -> Request<Bytes> {
    request.headers_mut().remove(header::AUTHORIZATION);
    request
}

/// A count of parts; providers give 0 where they don't know.
pub(crate) fn parts(value: &Value) -> Option<i16> {
    code(value).and_then(|n| i16::try_from(n).ok()).filter(|n| *n > 0)
}

/// The class and code of the first line whose words, in lower case, the text contains in any case.
pub(crate) fn by_words(text: &str, table: &'static [Word]) -> Option<(Class, &'static str)> {
    let lower = text.to_lowercase();
    table.iter().find(|(words, ..)| lower.contains(words)).map(|(_, class, ours)| (*class, *ours))
}

/// One line of a provider's table of words: its code or a phrase of its message, what follows, our code for it.
pub(crate) type Word = (&'static str, Class, &'static str);

/// The line of this very code.
pub(crate) fn word<'t>(table: &'t [Word], code: &str) -> Option<&'t Word> {
    table.iter().find(|(word, ..)| *word == code)
}

/// The first line whose phrase the text contains.
pub(crate) fn phrase<'t>(table: &'t [Word], text: &str) -> Option<&'t Word> {
    table.iter().find(|(phrase, ..)| text.contains(phrase))
}

/// The error of a table's line, with the wait that the answer asks for, if that means anything for its class.
pub(crate) fn refusal(provider: &str, line: (Class, &'static str), wait: Option<Duration>, code: &str, detail: &str) -> SendError {
    let class = match line.0 {
        Class::Retry { after } => Class::Retry { after: wait.or(after) },
        Class::RateLimited { after } => Class::RateLimited { after: wait.or(after) },
        class => class,
    };
    let detail = if detail.trim().is_empty() { line.1 } else { detail.trim() };
    let separator = if code.is_empty() { "" } else { " " };
    SendError::new(class, line.1, format!("{provider}{separator}{code}: {detail}"))
}

/// A provider's own words: its code, where it is a word, and its message.
pub(crate) fn said(code: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) if !code.is_empty() => format!("{code}: {detail}"),
        detail => detail.unwrap_or(code).to_owned(),
    }
}

/// The wait until the time that a header such as `X-RateLimit-Reset` names in Unix seconds, from the answer's own `Date`.
pub(crate) fn reset_at(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let then: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    let now = http_date(headers.get(header::DATE)?.to_str().ok()?)?;
    // A hostile number saturates, and whatever is no number at all becomes 0.
    let wait = (then.ceil() as i64).saturating_sub(now);
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0).min(86_400)))
}

/// JSON without those members at the top that are null or empty.
pub(crate) fn filled(mut json: Value) -> Value {
    if let Some(members) = json.as_object_mut() {
        members.retain(|_, value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        });
    }
    json
}

/// A file of a `multipart/form-data` body.
pub(crate) struct FilePart<'a> {
    /// The form's field.
    pub(crate) field: &'a str,
    /// The file's name.
    pub(crate) name: &'a str,
    /// Its media type, without control characters.
    pub(crate) content_type: &'a str,
    /// What is in it.
    pub(crate) bytes: Vec<u8>,
}

/// A `POST` of `multipart/form-data` (RFC 7578) that asks for JSON. The boundary is made of `seed`, letters and digits, and is
/// lengthened until no part contains it.
pub(crate) fn multipart_post(url: &str, seed: &str, fields: &[(String, String)], files: &[FilePart<'_>], auth: Auth<'_>) -> Request<Bytes> {
    // The characters that would end a quoted name, escaped as browsers do.
    let quoted = |name: &str| name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    let mut parts: Vec<(String, &[u8])> = Vec::with_capacity(fields.len() + files.len());
    for (name, value) in fields {
        parts.push((format!("Content-Disposition: form-data; name=\"{}\"\r\n\r\n", quoted(name)), value.as_bytes()));
    }
    for file in files {
        let disposition = format!("Content-Disposition: form-data; name=\"{}\"; filename=\"{}\"", quoted(file.field), quoted(file.name));
        parts.push((format!("{disposition}\r\nContent-Type: {}\r\n\r\n", file.content_type), &file.bytes));
    }
    let mut boundary = format!("raven-{seed}");
    let occurs = |boundary: &str| {
        let found = |bytes: &[u8]| bytes.windows(boundary.len()).any(|w| w == boundary.as_bytes());
        parts.iter().any(|(head, body)| found(head.as_bytes()) || found(body))
    };
    while occurs(&boundary) {
        boundary.push('x');
    }
    let mut body = Vec::new();
    for (head, content) in &parts {
        body.extend_from_slice(format!("--{boundary}\r\n{head}").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let mut request = request(Method::POST, url, Some("multipart/form-data"), String::new(), auth);
    *request.body_mut() = Bytes::from(body);
    if let Ok(value) = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}")) {
        request.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    request
}

/// `Bearer …` (RFC 6750).
pub(crate) fn bearer(token: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {token}"))
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

/// What a provider said, as text that can be kept.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', " ")
}

/// An instant as providers write it: with an offset, or without one where they mean UTC; `T` or a space in its middle.
pub(crate) fn utc(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    Timestamp::parse(text).or_else(|| {
        // `+0000` has no colon.
        let zoned = text.rfind(['+', '-']).filter(|at| *at > 10 && text.len() - at == 5).map(|at| (&text[..at + 3], &text[at + 3..]));
        match zoned {
            Some((head, minutes)) => Timestamp::parse(&format!("{head}:{minutes}")),
            None => Timestamp::parse(&format!("{text}Z")),
        }
    })
}

/// The bytes that hexadecimal digits of either case stand for.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()).collect()
}

/// A phone number of which a provider writes the digits alone, with its plus. Short codes and names stay as they are.
pub(crate) fn with_plus(address: &str) -> String {
    let address = address.trim();
    let number = (7..=15).contains(&address.len()) && !address.starts_with('0') && address.bytes().all(|b| b.is_ascii_digit());
    if number { format!("+{address}") } else { address.to_owned() }
}

/// The mobile networks' own error codes (3GPP TS 29.002), which several providers hand on, and what we call them.
pub(crate) const NETWORK: &[(u64, &str)] = &[
    (1, "unknown_recipient"),
    (5, "unknown_recipient"),
    (6, "unreachable"),
    (9, "blocked"),
    (10, "blocked"),
    (11, "blocked"),
    (12, "blocked"),
    (13, "blocked"),
    (21, "blocked"),
    (27, "unreachable"),
    (31, "unreachable"),
    (32, "unreachable"),
    (33, "unreachable"),
    (34, "gateway_error"),
    (35, "gateway_error"),
    (36, "gateway_error"),
];

/// Our word for a provider's code or phrase.
pub(crate) fn ours<K: PartialEq>(table: &[(K, &'static str)], key: &K) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| theirs == key).map(|(_, ours)| *ours)
}

/// A public URL as a signer may have written it: with the port that its scheme implies, and without.
pub(crate) fn with_and_without_port(url: &str) -> [Cow<'_, str>; 2] {
    let implied = if url.starts_with("http://") { ":80" } else { ":443" };
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find(['/', '?']).map_or(url.len(), |at| begin + at);
    let (host, rest) = url.split_at(end);
    let other = match host.strip_suffix(implied) {
        Some(bare) => format!("{bare}{rest}"),
        None if host[begin..].contains(':') => url.to_owned(),
        None => format!("{host}{implied}{rest}"),
    };
    [Cow::Borrowed(url), Cow::Owned(other)]
}

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
    fn instants_are_read_in_the_ways_in_which_providers_write_them() {
        let expected = Timestamp::parse("2017-05-03T06:04:45Z");
        for text in [
            "2017-05-03T06:04:45Z",
            "2017-05-03 06:04:45",
            "2017-05-03T06:04:45.000+0000",
            "2017-05-03 09:04:45+03:00",
            "2017-05-03T03:04:45-0300",
        ] {
            assert_eq!(utc(text), expected, "{text}");
        }
        for text in ["", "yesterday", "2017-05-03", "+0000", "€+0000"] {
            assert_eq!(utc(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_read_in_either_case() {
        assert_eq!(unhex("00fFA1"), Some(vec![0, 255, 161]));
        assert_eq!(unhex(""), Some(vec![]));
        for bad in ["0", "0g", "+1", "0x00", "0 1 ", "ää"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_get_their_plus_and_others_stay() {
        for (theirs, ours) in [
            ("254722000000", "+254722000000"),
            // What a plus becomes that was not escaped.
            (" 254722000000", "+254722000000"),
            ("+254722000000", "+254722000000"),
            ("22384", "22384"),
            ("0722000000", "0722000000"),
            ("ACME", "ACME"),
            ("", ""),
        ] {
            assert_eq!(with_plus(theirs), ours);
        }
    }

    #[test]
    fn a_port_that_goes_without_saying_comes_and_goes() {
        for (url, other) in [
            ("https://raven.example/v1?a=b", "https://raven.example:443/v1?a=b"),
            ("https://raven.example:443/v1", "https://raven.example/v1"),
            ("http://raven.example?x=/:80", "http://raven.example:80?x=/:80"),
            ("https://raven.example:8443/v1", "https://raven.example:8443/v1"),
        ] {
            assert_eq!(with_and_without_port(url), [url, other]);
        }
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

    #[test]
    fn a_reset_counts_from_the_answers_own_date() {
        let reset = |value: &str, date: bool| {
            let mut headers = HeaderMap::new();
            headers.insert("x-ratelimit-reset", value.parse().expect("a header value"));
            if date {
                headers.insert(header::DATE, "Tue, 24 Nov 2026 04:20:00 GMT".parse().expect("a header value"));
            }
            reset_at(&headers, "x-ratelimit-reset").map(|d| d.as_secs())
        };
        assert_eq!(reset("1795494030", true), Some(30));
        assert_eq!(reset("1795494000.25", true), Some(1));
        assert_eq!(reset("1", true), Some(0));
        assert_eq!(reset("1e300", true), Some(86_400));
        assert_eq!(reset("NaN", true), Some(0));
        assert_eq!(reset("soon", true), None);
        assert_eq!(reset("1795494030", false), None);
    }

    #[test]
    fn a_multipart_boundary_is_in_no_part() {
        let auth = || (header::AUTHORIZATION, "x");
        let fields = [("a\"\r\nb".to_owned(), "1\r\n--raven-7--\r\n".to_owned())];
        let files = [FilePart { field: "attachment", name: "ä\".txt", content_type: "text/plain", bytes: b"raven-7x\0".to_vec() }];
        let request = multipart_post("https://a.example/", "7", &fields, &files, auth());
        assert_eq!(request.headers()[header::CONTENT_TYPE], "multipart/form-data; boundary=raven-7xx");
        let expected = "--raven-7xx\r\nContent-Disposition: form-data; name=\"a%22%0D%0Ab\"\r\n\r\n1\r\n--raven-7--\r\n\r\n\
            --raven-7xx\r\nContent-Disposition: form-data; name=\"attachment\"; filename=\"ä%22.txt\"\r\n\
            Content-Type: text/plain\r\n\r\nraven-7x\0\r\n--raven-7xx--\r\n";
        assert_eq!(std::str::from_utf8(request.body()), Ok(expected));
    }
}
