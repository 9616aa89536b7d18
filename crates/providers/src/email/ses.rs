//! Amazon SES, API v2: <https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html>.
//!
//! There is no idempotency key. Our id travels in `EmailTags`, which events repeat where the configuration set publishes them.
//! Events come through Amazon SNS. Requests are signed with Signature Version 4: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Request, Response, header};
use raven_core::{Channel, Timestamp, address::Mailbox};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    Callback, Callbacks, Class, Cx, Field, HttpProvider, Kind, Outbound, Road, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    email::{self, Mail, encoded_words, written},
    wire::{self, BUSY, RETRY, Word},
};

mod callbacks;

/// The adapter.
#[derive(Debug)]
pub struct Ses;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    from_email: Option<String>,
    from_name: Option<String>,
    region: String,
    access_key_id: String,
    configuration_set: Option<String>,
    secret_access_key: SecretString,
    session_token: Option<SecretString>,
    #[serde(default, deserialize_with = "callbacks::topics")]
    sns_topic_arns: Vec<String>,
}

impl Settings {
    fn url(&self, cx: &Cx<'_>, path: &str) -> String {
        match &cx.base_url {
            Some(base) => format!("{base}{path}"),
            None => format!("https://email.{}.amazonaws.com/v2{path}", self.region),
        }
    }
}

impl HttpProvider for Ses {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "ses",
        name: "Amazon SES",
        channel: Channel::Email,
        docs_url: "https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html",
        // The region is part of the host.
        base_url: None,
        features: email::FEATURES,
        callbacks: Some(Callbacks {
            authenticity: "signed by Amazon SNS, for the topics in `sns_topic_arns` alone; without one nothing is taken",
            setup: "Give the ARN of an SNS topic as sns_topic_arns, then subscribe the URL to it (protocol HTTPS, raw message delivery \
                off): the subscription is confirmed by itself. In SES, under the configuration set's Event destinations, add that topic \
                for all event types. Feedback notifications of an identity are read as well.",
            // Notifications of an identity carry no tags.
            by_id: true,
            road: Road::Url,
            answer: "",
        }),
        fields: &[
            Field::public("region", "Region", Kind::Region, "The AWS region that sends, for example eu-west-1.").required(),
            Field::public(
                "access_key_id",
                "Access key id",
                Kind::Token(128),
                "The id of an IAM user's access key, which begins with AKIA.",
            )
            .required(),
            email::FROM_EMAIL,
            email::FROM_NAME,
            Field::public(
                "configuration_set",
                "Configuration set",
                Kind::Token(64),
                "The configuration set whose events tell what became of messages.",
            ),
            Field::public(
                "sns_topic_arns",
                "SNS topics",
                Kind::Text(2048),
                "The ARNs of the SNS topics that events come through, with commas between them.",
            ),
            Field::secret(
                "secret_access_key",
                "Secret access key",
                Kind::Token(256),
                "The access key's secret. Its user needs the permissions ses:SendEmail and ses:GetAccount.",
            )
            .required(),
            Field::secret(
                "session_token",
                "Session token",
                Kind::Token(4096),
                "The token of temporary credentials, if the key is one (ASIA…).",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mail = Mail::read(message, settings.from_email.as_deref(), settings.from_name.as_deref())?;
        let list = |mailboxes: &[_]| mailboxes.iter().map(mailbox).collect::<Vec<_>>();
        let text = |text: &str| json!({"Data": text, "Charset": "UTF-8"});
        let files = mail.content.attachments.iter().map(|f| {
            wire::filled(json!({
                "FileName": f.filename,
                "ContentType": f.content_type,
                "RawContent": f.content,
                "ContentDisposition": if f.content_id.is_some() { "INLINE" } else { "ATTACHMENT" },
                "ContentId": f.content_id,
                // Else SES takes the bytes for text of seven bits.
                "ContentTransferEncoding": "BASE64",
            }))
        });
        let headers = mail.content.headers.iter().map(|(name, value)| json!({"Name": name, "Value": ascii(value)}));
        let tags = mail.pairs().into_iter().map(|(name, value)| json!({"Name": name, "Value": value}));
        let body = wire::filled(json!({
            "FromEmailAddress": mailbox(&mail.from),
            "Destination": wire::filled(json!({
                "ToAddresses": [mailbox(&mail.to)],
                "CcAddresses": list(&mail.cc),
                "BccAddresses": list(&mail.bcc),
            })),
            "ReplyToAddresses": list(mail.reply_to.as_slice()),
            "Content": {"Simple": wire::filled(json!({
                "Subject": text(mail.subject),
                "Body": wire::filled(json!({"Text": mail.text.map(text), "Html": mail.html.map(text)})),
                "Headers": headers.collect::<Vec<_>>(),
                "Attachments": files.collect::<Vec<_>>(),
            }))},
            "EmailTags": tags.collect::<Vec<_>>(),
            "ConfigurationSetName": settings.configuration_set,
        }));
        // The signature takes the place of the empty authorization.
        let mut request = wire::json_post(&settings.url(cx, "/email/outbound-emails"), &body, (header::AUTHORIZATION, ""));
        sign(&mut request, settings, "ses", message.now);
        Ok(request)
    }

    fn verify(settings: &Settings, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let mut request = wire::get(&settings.url(cx, "/email/account"), (header::AUTHORIZATION, ""));
        sign(&mut request, settings, "ses", now);
        Some(request)
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["SendingEnabled"].as_bool().filter(|_| response.status().is_success()) {
            Some(true) => Ok(()),
            Some(false) => Err(SendError::new(Class::Credentials, "sending_paused", "the account's sending is paused or shut down")),
            None => match refusal(response, &answer) {
                // A key that may only send is as good, and this answer is given to good keys only.
                e if e.code == "permission_denied" => {
                    Err(SendError::new(Class::Unknown, e.code, "the user lacks the permission ses:GetAccount, so the key can't be checked"))
                }
                e => Err(e),
            },
        }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["MessageId"].as_str().filter(|_| response.status().is_success()).and_then(wire::id) {
            Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
            None => Err(refusal(response, &answer)),
        }
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        callbacks::authenticate(&settings.sns_topic_arns, callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(callback)
    }
}

/// A day's quota is freed bit by bit, 24 hours after each message.
const NOT_SOON: Class = Class::RateLimited { after: Some(Duration::from_secs(900)) };

/// Outcomes by exception, without `Exception` at its end.
/// <https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html>
const EXCEPTIONS: &[Word] = &[
    ("TooManyRequests", BUSY, "rate_limited"),
    ("Throttling", BUSY, "rate_limited"),
    ("LimitExceeded", NOT_SOON, "quota_exceeded"),
    ("MessageRejected", Class::Rejected, "rejected_by_policy"),
    ("MailFromDomainNotVerified", Class::Rejected, "invalid_sender"),
    ("AccountSuspended", Class::Credentials, "account_suspended"),
    ("SendingPaused", Class::Credentials, "sending_paused"),
    ("BadRequest", Class::Rejected, "invalid_message"),
    ("Validation", Class::Rejected, "invalid_message"),
    ("NotFound", Class::Rejected, "configuration_set_not_found"),
    ("InternalServiceError", RETRY, "provider_error"),
    ("InternalFailure", RETRY, "provider_error"),
    ("ServiceUnavailable", RETRY, "provider_unavailable"),
    ("AccessDenied", Class::Credentials, "permission_denied"),
    ("SignatureDoesNotMatch", Class::Credentials, "invalid_credentials"),
    ("InvalidSignature", Class::Credentials, "invalid_credentials"),
    ("IncompleteSignature", Class::Credentials, "invalid_credentials"),
    ("InvalidClientTokenId", Class::Credentials, "invalid_credentials"),
    ("UnrecognizedClient", Class::Credentials, "invalid_credentials"),
    ("MissingAuthenticationToken", Class::Credentials, "invalid_credentials"),
    ("ExpiredToken", Class::Credentials, "invalid_credentials"),
    ("OptInRequired", Class::Credentials, "account_not_active"),
];

/// What decides before the exception does, by the words of the message.
const PHRASES: &[Word] = &[
    // Our clock is wrong, or the request was under way for too long; the key may be good.
    ("Signature expired", RETRY, "clock_skew"),
    ("Signature not yet current", RETRY, "clock_skew"),
    // The sender's, or in SES's sandbox the recipient's.
    ("Email address is not verified", Class::Rejected, "identity_not_verified"),
];

fn refusal(response: &Response<Bytes>, answer: &Value) -> SendError {
    let status = response.status();
    // `Name`, `Name:http://…` in the header, `namespace#Name` in the body.
    let header = response.headers().get("x-amzn-errortype").and_then(|v| v.to_str().ok());
    let named = header.or_else(|| answer["__type"].as_str()).unwrap_or_default();
    let name = named.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let detail = answer["message"].as_str().or_else(|| answer["Message"].as_str());
    let known = wire::word(EXCEPTIONS, name.strip_suffix("Exception").unwrap_or(name));
    // A gateway's timeout stays what it is, whatever it says.
    match known.filter(|_| !status.is_success() && status.as_u16() != 504) {
        Some(line) => {
            let line = wire::phrase(PHRASES, detail.unwrap_or_default()).unwrap_or(line);
            wire::refusal("Amazon SES", (line.1, line.2), wire::retry_after(response.headers()), name, detail.unwrap_or_default())
        }
        None if status.as_u16() == 403 => {
            wire::refusal("Amazon SES", (Class::Credentials, "permission_denied"), None, "403", detail.unwrap_or_default())
        }
        None => wire::by_status("Amazon SES", status, response.headers(), None, Some(&wire::said(name, detail))),
    }
}

fn ascii(text: &str) -> String {
    if text.is_ascii() { text.to_owned() } else { encoded_words(text) }
}

/// SES wants the names in ASCII.
fn mailbox(mailbox: &Mailbox<'_>) -> String {
    match &mailbox.name {
        Some(name) if !name.is_ascii() => format!("{} <{}>", encoded_words(name), mailbox.email),
        _ => written(mailbox),
    }
}

/// Signs a request that has no query and a plain path.
fn sign(request: &mut Request<Bytes>, settings: &Settings, service: &str, now: Timestamp) {
    let time = jiff::Timestamp::from_millisecond(now.millis()).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let scope = format!("{day}/{}/{service}/aws4_request", settings.region);
    let headers = request.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&time) {
        headers.insert(HeaderName::from_static("x-amz-date"), value);
    }
    if let Some(Ok(mut token)) = settings.session_token.as_ref().map(|t| HeaderValue::from_str(t.expose_secret())) {
        token.set_sensitive(true);
        headers.insert(HeaderName::from_static("x-amz-security-token"), token);
    }
    // As the client will write it: the port only where it is not the scheme's own.
    let uri = request.uri();
    let usual = matches!((uri.scheme_str(), uri.port_u16()), (_, None) | (Some("https"), Some(443)) | (Some("http"), Some(80)));
    let host = if usual { uri.host().unwrap_or_default() } else { uri.authority().map_or("", |a| a.as_str()) };
    let value = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let (mut lines, mut names) = (Zeroizing::new(String::new()), Vec::new());
    for name in ["content-type", "host", "x-amz-date", "x-amz-security-token"] {
        if let Some(value) = if name == "host" { Some(host) } else { value(name) } {
            lines.push_str(&format!("{name}:{value}\n"));
            names.push(name);
        }
    }
    let names = names.join(";");
    let (method, path, body) = (request.method(), uri.path(), hex(&Sha256::digest(request.body())));
    let canonical = Zeroizing::new(format!("{method}\n{path}\n\n{}\n{names}\n{body}", lines.as_str()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut key = Zeroizing::new(format!("AWS4{}", settings.secret_access_key.expose_secret()).into_bytes());
    for part in [day, &settings.region, service, "aws4_request", &to_sign] {
        key = Zeroizing::new(mac(&key, part));
    }
    let key_id = &settings.access_key_id;
    let signed = format!("AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={}", hex(&key));
    if let Ok(mut value) = HeaderValue::from_str(&signed) {
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn signed(method: &str, url: &str, form: Option<&'static str>, token: Option<&str>) -> String {
        let settings = Settings {
            from_email: None,
            from_name: None,
            region: "us-east-1".into(),
            access_key_id: "AKIDEXAMPLE".into(),
            configuration_set: None,
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: token.map(Into::into),
            sns_topic_arns: Vec::new(),
        };
        let mut request = Request::builder().method(method).uri(url);
        if form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let mut request = request.body(Bytes::from_static(form.unwrap_or_default().as_bytes())).expect("a request");
        sign(&mut request, &settings, "service", Timestamp::from_millis(1_440_938_160_000));
        assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
        request.headers()["authorization"].to_str().expect("ASCII").to_owned()
    }

    /// AWS's own test suite for Signature Version 4: get-vanilla, post-vanilla, post-x-www-form-urlencoded and
    /// post-sts-header-before.
    #[test]
    fn requests_are_signed_as_in_the_published_suite() {
        let expected = |names: &str, signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
            )
        };
        let url = "https://example.amazonaws.com/";
        assert_eq!(
            signed("GET", url, None, None),
            expected("host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
        );
        for url in [url, "https://example.amazonaws.com:443/"] {
            assert_eq!(
                signed("POST", url, None, None),
                expected("host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
            );
        }
        assert_eq!(
            signed("POST", url, Some("Param1=value1"), None),
            expected("content-type;host;x-amz-date", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a")
        );
        assert_eq!(
            signed("POST", url, None, Some(TOKEN)),
            expected("host;x-amz-date;x-amz-security-token", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead")
        );
    }
}
