//! Web push: RFC 8030 (delivery), RFC 8291 (encryption), RFC 8292 (VAPID). Each browser maker runs a push service of its own.
//!
//! The recipient is the subscription that the browser made, as JSON. Its endpoint is a URL that anybody can write, so only the
//! hosts of known push services are called.

use aes_gcm::{Aes128Gcm, KeyInit, aead::Aead};
use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use hkdf::Hkdf;
use http::{Request, Response, Uri, header};
use p256::{PublicKey, SecretKey, ecdsa::SigningKey};
use raven_core::{
    Channel, Timestamp,
    message::{Content, Feature},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{es256, put, token, topic};
use crate::{
    Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec,
    wire::{self, refused},
};

/// Hosts of push services; a leading dot stands for any name before it.
const SERVICES: &[&str] = &["fcm.googleapis.com", ".push.services.mozilla.com", ".push.apple.com", ".notify.windows.com"];
/// What the 4096 bytes of a body leave for the message: its head takes 86, its end and its tag 17.
const PLAINTEXT_MAX: usize = 3993;
/// How long a message waits for its browser unless it says otherwise: four weeks, in seconds.
const TTL: u32 = 2_419_200;
/// Browsers and their libraries disagree on padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The adapter.
#[derive(Debug)]
pub struct WebPush;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Given")]
pub struct Settings {
    subject: String,
    /// As browsers get it: uncompressed, in base64url.
    public_key: String,
    key: SecretKey,
}

#[derive(Deserialize)]
struct Given {
    subject: String,
    public_key: String,
    private_key: SecretString,
}

impl TryFrom<Given> for Settings {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, Self::Error> {
        let bytes = BASE64.decode(given.private_key.expose_secret()).map(Zeroizing::new);
        let key = bytes.ok().filter(|b| b.len() == 32).and_then(|b| SecretKey::from_slice(&b).ok());
        let key = key.ok_or("secretConfig.private_key is no private VAPID key: it must be 32 bytes in base64url")?;
        let public = BASE64.decode(&given.public_key).ok().and_then(|b| PublicKey::from_sec1_bytes(&b).ok());
        let public = public.ok_or("publicConfig.public_key is no public VAPID key: it must be 65 bytes in base64url")?;
        if public != key.public_key() {
            return Err("publicConfig.public_key does not belong to secretConfig.private_key: give both keys of one pair");
        }
        Ok(Self { subject: given.subject, public_key: URL_SAFE_NO_PAD.encode(public.to_sec1_bytes()), key })
    }
}

impl Settings {
    /// `vapid …` for a push service. It stays the same for an hour, which spares the service some checks.
    fn authorization(&self, origin: &str, now: Timestamp) -> Zeroizing<String> {
        let expires = now.seconds().div_euclid(3600).saturating_add(12) * 3600;
        let claims = json!({ "aud": origin, "exp": expires, "sub": self.subject });
        let key = SigningKey::from(&self.key);
        let token = token(&json!({ "alg": "ES256", "typ": "JWT" }), &claims, |text| es256(&key, text));
        Zeroizing::new(format!("vapid t={}, k={}", token.as_str(), self.public_key))
    }

    /// Salt and key for one body, which must not be used for another: derived from all that makes it one of its kind, so that
    /// even a repeated attempt at the same instant gives nothing but the same body.
    fn once(&self, message: &Outbound<'_>, subscription: &Subscription, plaintext: &[u8]) -> ([u8; 16], SecretKey) {
        let secret = Zeroizing::new(self.key.to_bytes());
        let derived = Hkdf::<Sha256>::new(Some(b"raven web push"), &secret[..]);
        let (attempt, now) = (message.attempt.to_be_bytes(), message.now.millis().to_be_bytes());
        let browser = subscription.key.to_sec1_bytes();
        (0..=u8::MAX)
            .find_map(|nth| {
                let mut bytes = Zeroizing::new([0; 48]);
                let info: [&[u8]; 7] = [&[nth], message.id.0.as_bytes(), &attempt, &now, &browser, &subscription.auth, plaintext];
                derived.expand_multi_info(&info, &mut *bytes).ok()?;
                let (salt, key) = bytes.split_first_chunk()?;
                Some((*salt, SecretKey::from_slice(key).ok()?))
            })
            .expect("one in 2^32 numbers is no key, and 256 of them were tried")
    }
}

impl HttpProvider for WebPush {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "web_push",
        name: "Web push",
        channel: Channel::Push,
        docs_url: "https://developer.mozilla.org/en-US/docs/Web/API/Push_API",
        base_url: None,
        features: &[Feature::Title, Feature::Data, Feature::Badge, Feature::CollapseKey, Feature::Ttl],
        callbacks: None,
        fields: &[
            Field::public(
                "subject",
                "Contact",
                Kind::Contact,
                "Where push services can complain: a mailto: or an https: URL, for example mailto:ops@example.com.",
            )
            .required(),
            Field::public(
                "public_key",
                "Public key",
                Kind::Token(128),
                "The public VAPID key in base64url, the applicationServerKey that browsers subscribe with.",
            )
            .required(),
            Field::secret("private_key", "Private key", Kind::Token(128), "The private VAPID key of that pair, in base64url.").required(),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let subscription = Subscription::read(message.recipient)?;
        let content = message.content;
        let plaintext = plaintext(content);
        if plaintext.len() > PLAINTEXT_MAX {
            let text = format!("push services take at most {PLAINTEXT_MAX} bytes: shorten title, body or data");
            return Err(refused("message_too_large", text));
        }
        let (salt, ephemeral) = settings.once(message, &subscription, plaintext.as_bytes());
        let body = encrypted(plaintext.as_bytes(), &subscription.key, &subscription.auth, salt, &ephemeral);
        let base = cx.base_url.as_deref().unwrap_or(&subscription.origin);
        let authorization = settings.authorization(&subscription.origin, message.now);
        let mut request = wire::bytes_post(&format!("{base}{}", subscription.path), body, (header::AUTHORIZATION, &authorization));
        put(&mut request, "content-encoding", "aes128gcm");
        put(&mut request, "ttl", &content.ttl.unwrap_or(TTL).to_string());
        put(&mut request, "urgency", "high");
        if let Some(key) = &content.collapse_key {
            put(&mut request, "topic", &topic(key));
        }
        Ok(request)
    }

    /// None: the keys are our own, and reading the settings has checked that they are a pair.
    fn verify(_: &Settings, _: Timestamp, _: &Cx<'_>) -> Option<Request<Bytes>> {
        None
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let (status, headers) = (response.status(), response.headers());
        let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
        if status.is_success() {
            // Some services answer 200 or 202; with a page in it, it is not a push service's.
            if status.as_u16() != 201 && location.is_none() && !response.body().is_empty() {
                return Err(wire::by_status(Self::SPEC.name, status, headers, None, None));
            }
            let path = location.and_then(|l| l.split(['?', '#']).next());
            let id = path.and_then(|p| p.rsplit('/').find(|part| !part.is_empty())).and_then(wire::id);
            return Ok(Sent { provider_message_id: id, ..Sent::default() });
        }
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let text = std::str::from_utf8(response.body()).unwrap_or_default();
        let detail = answer["message"].as_str().or_else(|| answer["reason"].as_str());
        let detail = detail.or_else(|| Some(text.trim()).filter(|t| !t.is_empty() && !t.starts_with(['<', '{', '['])));
        let told = |class, ours: &str| {
            let text = format!("{} answered HTTP {}: {}", Self::SPEC.name, status.as_u16(), detail.unwrap_or(ours));
            SendError::new(class, ours, text)
        };
        Err(match status.as_u16() {
            404 | 410 => told(Class::Rejected, "unregistered"),
            413 => told(Class::Rejected, "message_too_large"),
            403 if answer["reason"] == "BadJwtToken" => told(Class::Credentials, "invalid_credentials"),
            // The subscription was made with another key; other subscriptions are reached.
            403 => told(Class::Rejected, "recipient_of_another_app"),
            400 | 401 if text.to_ascii_lowercase().contains("mismatch") => told(Class::Rejected, "recipient_of_another_app"),
            _ => wire::by_status(Self::SPEC.name, status, headers, None, detail),
        })
    }
}

/// Where a browser is reached, and its keys.
struct Subscription {
    origin: String,
    path: String,
    key: PublicKey,
    auth: [u8; 16],
}

impl Subscription {
    fn read(text: &str) -> Result<Self, SendError> {
        #[derive(Deserialize)]
        struct Wire {
            endpoint: String,
            keys: Keys,
        }
        #[derive(Deserialize)]
        struct Keys {
            p256dh: String,
            auth: String,
        }
        let invalid = |what: &str| refused("invalid_recipient", format!("the subscription {what}"));
        let wire: Wire = serde_json::from_str(text).map_err(|_| invalid("is not JSON with endpoint and keys"))?;
        let uri: Uri = wire.endpoint.parse().map_err(|_| invalid("has an endpoint that is no URL"))?;
        let authority = uri.authority().filter(|a| uri.scheme_str() == Some("https") && !a.as_str().contains('@'));
        let authority = authority.ok_or_else(|| invalid("has an endpoint that is no https URL"))?;
        let host = authority.host().to_ascii_lowercase();
        let known = |service: &&str| if service.starts_with('.') { host.ends_with(*service) } else { host == *service };
        if !SERVICES.iter().any(known) || !matches!(authority.port_u16(), None | Some(443)) {
            return Err(refused("unknown_push_service", "the subscription's endpoint is not at a known push service"));
        }
        let key = BASE64.decode(&wire.keys.p256dh).ok().and_then(|b| PublicKey::from_sec1_bytes(&b).ok());
        let auth = BASE64.decode(&wire.keys.auth).ok().and_then(|b| b.try_into().ok());
        Ok(Self {
            origin: format!("https://{host}"),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            key: key.ok_or_else(|| invalid("has a p256dh that is no key"))?,
            auth: auth.ok_or_else(|| invalid("has an auth that is not 16 bytes"))?,
        })
    }
}

/// What the page's service worker gets.
fn plaintext(content: &Content<'_>) -> String {
    let mut members = Map::new();
    members.extend(content.title.as_deref().map(|title| ("title".to_owned(), title.into())));
    members.extend(content.body.as_deref().map(|body| ("body".to_owned(), body.into())));
    members.extend(content.badge.map(|badge| ("badge".to_owned(), badge.into())));
    if !content.data.is_empty() {
        members.insert("data".to_owned(), json!(content.data));
    }
    Value::from(members).to_string()
}

/// A body of one record (RFC 8291, section 4, and RFC 8188, section 2).
fn encrypted(plaintext: &[u8], browser: &PublicKey, auth: &[u8; 16], salt: [u8; 16], ephemeral: &SecretKey) -> Vec<u8> {
    const RECORD_SIZE: u32 = 4096;
    fn expand<const N: usize>(from: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut bytes = Zeroizing::new([0; N]);
        from.expand_multi_info(info, &mut *bytes).expect("32 bytes and less are far below the limit of 8160");
        bytes
    }
    let (theirs, ours) = (browser.to_sec1_bytes(), ephemeral.public_key().to_sec1_bytes());
    let shared = ephemeral.diffie_hellman(browser);
    let first = Hkdf::<Sha256>::new(Some(auth), shared.raw_secret_bytes());
    let input: Zeroizing<[u8; 32]> = expand(&first, &[b"WebPush: info\0", &theirs, &ours]);
    let second = Hkdf::<Sha256>::new(Some(&salt), &*input);
    let key: Zeroizing<[u8; 16]> = expand(&second, &[b"Content-Encoding: aes128gcm\0"]);
    let nonce: Zeroizing<[u8; 12]> = expand(&second, &[b"Content-Encoding: nonce\0"]);
    // The 2 says that this record is the last one.
    let padded = Zeroizing::new([plaintext, &[2]].concat());
    let sealed = Aes128Gcm::new(&(*key).into()).encrypt(&(*nonce).into(), padded.as_slice());
    let sealed = sealed.expect("a few kilobytes are far below the limit of 64 GiB");
    [&salt[..], &RECORD_SIZE.to_be_bytes(), &[65], &ours, &sealed].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64.decode(text).expect("base64url")
    }

    #[test]
    fn the_example_of_rfc_8291_is_met() {
        // Appendix A.
        let browser = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let browser = PublicKey::from_sec1_bytes(&bytes(browser)).expect("a key");
        let ephemeral = SecretKey::from_slice(&bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).expect("a key");
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().expect("16 bytes");
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().expect("16 bytes");
        let body = encrypted(b"When I grow up, I want to be a watermelon", &browser, &auth, salt, &ephemeral);
        assert_eq!(
            URL_SAFE_NO_PAD.encode(body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
    }
}
