//! Firebase Cloud Messaging, HTTP v1: <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>.
//!
//! A service account signs in for an hour's token. Google tells of no deliveries: accepted is the last that is known.

use std::time::Duration;

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use raven_core::{Channel, Timestamp, message::Feature};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{apns_collapse_id, put, token, topic};
use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Token,
    wire::{self, BUSY, RETRY, Word, refused},
};

const BASE: &str = "https://fcm.googleapis.com/v1";
/// Never the `token_uri` of the settings: a tenant could name any host there.
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Four weeks, the longest that Google keeps a notification.
const TTL_MAX: u32 = 2_419_200;

/// The adapter.
#[derive(Debug)]
pub struct Fcm;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Given")]
pub struct Settings {
    project_id: String,
    client_email: String,
    key_id: String,
    key: KeyPair,
}

#[derive(Deserialize)]
struct Given {
    service_account: SecretString,
}

/// What we need of a service account's file.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    client_email: String,
    private_key_id: String,
    private_key: SecretString,
}

impl TryFrom<Given> for Settings {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, Self::Error> {
        let account: ServiceAccount = serde_json::from_str(given.service_account.expose_secret()).map_err(|_| {
            "secretConfig.service_account is no service account: give the whole JSON file, with project_id, client_email, private_key_id and private_key"
        })?;
        // It goes into a path.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
        if account.project_id.is_empty() || !account.project_id.bytes().all(plain) {
            return Err("secretConfig.service_account has a project_id that is none");
        }
        let key = der(account.private_key.expose_secret())
            .and_then(|der| KeyPair::from_pkcs8(&der).ok())
            .ok_or("secretConfig.service_account has a private_key that is no RSA key in PEM")?;
        Ok(Self { project_id: account.project_id, client_email: account.client_email, key_id: account.private_key_id, key })
    }
}

impl Settings {
    /// The signed claim that is traded for a token.
    fn assertion(&self, now: Timestamp) -> Zeroizing<String> {
        let header = json!({ "alg": "RS256", "kid": self.key_id, "typ": "JWT" });
        let (iat, exp) = (now.seconds(), now.seconds().saturating_add(3600));
        let claims = json!({ "aud": TOKEN_URL, "exp": exp, "iat": iat, "iss": self.client_email, "scope": SCOPE });
        token(&header, &claims, |text| {
            let mut signature = vec![0; self.key.public_modulus_len()];
            // This kind of signature uses no randomness; the library's signature only asks for a source. Where it fails, which
            // a key that was read does not let it, Google refuses the empty signature.
            let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature);
            if signed.is_ok() { signature } else { Vec::new() }
        })
    }
}

/// The bytes inside a PEM's armour.
fn der(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (inner, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    let base64 = Zeroizing::new(inner.split_ascii_whitespace().collect::<String>());
    STANDARD.decode(base64.as_bytes()).ok().map(Zeroizing::new)
}

impl HttpProvider for Fcm {
    type Settings = Settings;

    const WANTS_TOKEN: bool = true;

    const SPEC: Spec = Spec {
        id: "fcm",
        name: "Firebase Cloud Messaging",
        channel: Channel::Push,
        docs_url: "https://firebase.google.com/docs/cloud-messaging",
        base_url: Some(BASE),
        features: &[Feature::Title, Feature::Data, Feature::Badge, Feature::CollapseKey, Feature::Ttl],
        callbacks: None,
        fields: &[Field::secret(
            "service_account",
            "Service account",
            Kind::Document(8192),
            "The JSON file of a service account's private key, from the project's settings, Service accounts. Its project is sent to.",
        )
        .required()],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let base = cx.base_url.as_deref().unwrap_or(BASE);
        let url = format!("{base}/projects/{}/messages:send", settings.project_id);
        let body = json!({ "message": notification(message)? });
        let token = wire::bearer(cx.token.unwrap_or_default());
        Ok(wire::json_post(&url, &body, (header::AUTHORIZATION, &token)))
    }

    /// None: that Google hands out a token says it.
    fn verify(_: &Settings, _: Timestamp, _: &Cx<'_>) -> Option<Request<Bytes>> {
        None
    }

    fn token_request(settings: &Settings, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let url = cx.base_url.as_deref().map_or_else(|| TOKEN_URL.to_owned(), |base| format!("{base}/token"));
        let mut request = wire::bare_form_post(&url, &[("grant_type", GRANT), ("assertion", &settings.assertion(now))]);
        put(&mut request, "cache-control", "no-store");
        Some(request)
    }

    fn token(_: &Settings, response: &Response<Bytes>) -> Result<Token, SendError> {
        /// A token is given up before its end, so that no message is on its way with it then.
        const EARLY: u64 = 300;
        let (status, headers) = (response.status(), response.headers());
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        if status.is_success()
            && let Some(secret) = answer["access_token"].as_str().filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()))
        {
            let lasts = Duration::from_secs(wire::code(&answer["expires_in"]).unwrap_or(0).min(3600).saturating_sub(EARLY));
            return Ok(Token { secret: secret.into(), lasts });
        }
        let detail = answer["error_description"].as_str().or_else(|| answer["error"].as_str());
        if matches!(answer["error"].as_str(), Some("invalid_grant" | "invalid_client" | "unauthorized_client" | "access_denied")) {
            let text = format!("Google hands out no token: {} (a key that was deleted, or a wrong clock)", detail.unwrap_or_default());
            return Err(SendError::new(Class::Credentials, "invalid_credentials", text));
        }
        // No message was sent, so nothing is unknown, and no message is to blame.
        let bare = wire::by_status(Self::SPEC.name, status, headers, None, detail);
        match bare.class {
            Class::Unknown | Class::Rejected => Err(SendError { class: RETRY, code: "no_token".into(), ..bare }),
            _ => Err(bare),
        }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let status = response.status();
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        match answer["name"].as_str().filter(|name| status.is_success() && name.contains("/messages/")).and_then(wire::id) {
            Some(name) => Ok(Sent { provider_message_id: Some(name), ..Sent::default() }),
            None => Err(failure(response, &answer["error"])),
        }
    }
}

/// The notification, with what each platform wants in its own place.
fn notification(message: &Outbound<'_>) -> Result<Value, SendError> {
    let content = message.content;
    let reserved = |name: &str| matches!(name, "from" | "gcm" | "message_type") || name.starts_with("google") || name.starts_with("gcm.");
    if let Some(name) = content.data.keys().find(|name| reserved(name)) {
        return Err(refused("invalid_data", format!("data can't have a member named {name}: Google keeps that name for itself")));
    }
    if content.ttl.is_some_and(|ttl| ttl > TTL_MAX) {
        return Err(refused("invalid_ttl", format!("Google keeps a notification for at most {TTL_MAX} seconds")));
    }
    let (mut android, mut apns, mut aps, mut webpush, mut shown) = (Map::new(), Map::new(), Map::new(), Map::new(), Map::new());
    shown.extend(content.title.as_deref().map(|title| ("title".to_owned(), title.into())));
    shown.extend(content.body.as_deref().map(|body| ("body".to_owned(), body.into())));
    if let Some(badge) = content.badge {
        android.insert("notification".to_owned(), json!({ "notification_count": badge }));
        aps.insert("badge".to_owned(), badge.into());
    }
    if let Some(key) = content.collapse_key.as_deref() {
        android.insert("collapse_key".to_owned(), key.into());
        apns.insert("apns-collapse-id".to_owned(), apns_collapse_id(key).into());
        webpush.insert("Topic".to_owned(), topic(key).into());
    }
    if let Some(ttl) = content.ttl {
        android.insert("ttl".to_owned(), format!("{ttl}s").into());
        apns.insert("apns-expiration".to_owned(), message.now.seconds().saturating_add(ttl.into()).to_string().into());
        webpush.insert("TTL".to_owned(), ttl.to_string().into());
    }
    if shown.is_empty() && content.badge.is_none() {
        // Apple takes what shows nothing only with the lower priority.
        apns.insert("apns-priority".to_owned(), "5".into());
        aps.insert("content-available".to_owned(), 1.into());
    }
    let nested = |name: &str, members: Map<String, Value>| (!members.is_empty()).then(|| (name.to_owned(), Value::from(members)));
    let payload = nested("aps", aps).map(|(name, aps)| ("payload".to_owned(), json!({ name: aps })));
    let apns: Map<_, _> = nested("headers", apns).into_iter().chain(payload).collect();
    let webpush: Map<_, _> = nested("headers", webpush).into_iter().collect();
    let parts = [nested("android", android), nested("apns", apns), nested("notification", shown), nested("webpush", webpush)];
    let mut all: Map<_, _> = parts.into_iter().flatten().collect();
    if !content.data.is_empty() {
        all.insert("data".to_owned(), json!(content.data));
    }
    all.insert("token".to_owned(), message.recipient.into());
    Ok(all.into())
}

/// Outcomes by `errorCode`. <https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode>
const CODES: &[Word] = &[
    ("UNSPECIFIED_ERROR", RETRY, "provider_error"),
    ("UNREGISTERED", Class::Rejected, "unregistered"),
    ("SENDER_ID_MISMATCH", Class::Rejected, "recipient_of_another_app"),
    ("QUOTA_EXCEEDED", BUSY, "rate_limited"),
    ("UNAVAILABLE", RETRY, "provider_unavailable"),
    ("INTERNAL", RETRY, "provider_error"),
    // The project's key for Apple or for browsers; other devices are reached.
    ("THIRD_PARTY_AUTH_ERROR", Class::Rejected, "platform_key_refused"),
    ("APNS_AUTH_ERROR", Class::Rejected, "platform_key_refused"),
];

/// What an answer without a message means: by FCM's own code, else by the status of Google's APIs.
fn failure(response: &Response<Bytes>, error: &Value) -> SendError {
    let (status, headers) = (response.status(), response.headers());
    let none = Vec::new();
    let details = error["details"].as_array().unwrap_or(&none);
    let code = details.iter().find_map(|d| d["errorCode"].as_str()).filter(|_| !status.is_success());
    let detail = error["message"].as_str();
    let told = |class, ours: &str, word: &str| {
        SendError::new(wire::with_wait(class, headers), ours, format!("FCM {word}: {}", detail.unwrap_or(word)))
    };
    if let Some((word, class, ours)) = code.and_then(|code| wire::word(CODES, code)) {
        return told(*class, ours, word);
    }
    match (status, code.or_else(|| error["status"].as_str())) {
        (StatusCode::BAD_REQUEST, Some("INVALID_ARGUMENT")) => {
            let mut fields = details.iter().filter_map(|d| d["fieldViolations"].as_array()).flatten().filter_map(|v| v["field"].as_str());
            let by_field = fields.any(|field| field == "message.token");
            // Google's text is the only sign of it when no field is named.
            let by_text = code.is_some() && detail.is_some_and(|d| d.contains("registration token"));
            let ours = if by_field || by_text { "invalid_recipient" } else { "invalid_message" };
            told(Class::Rejected, ours, "INVALID_ARGUMENT")
        }
        (StatusCode::FORBIDDEN, Some("PERMISSION_DENIED")) => told(Class::Credentials, "permission_denied", "PERMISSION_DENIED"),
        _ => wire::by_status(Fcm::SPEC.name, status, headers, None, detail),
    }
}
