//! Bearer tokens of humans (RFC 7519). The algorithm in a token's header decides which key can have signed it: HS256 the
//! shared secret, RS256, ES256 and EdDSA one of the configured issuer's ([`crate::oidc`]). Neither is ever tried in place of
//! the other, and any other algorithm is refused.
//!
//! What lives here: the shared secret, what every token must say, and times. What must not: keys of an issuer.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use raven_core::{Timestamp, UserId};
use raven_store::UserProfile;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::oidc::Issuer;

/// How far the issuer's clock may be off.
const LEEWAY: Duration = Duration::from_secs(60);
/// A token of more characters is not even looked at.
const MAX_LEN: usize = 16 * 1024;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The human.
    pub sub: UserId,
    /// Their address.
    pub email: String,
    /// Did the issuer check it?
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_spoken")]
    pub email_verified: Option<bool>,
    /// Their name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Their picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Seconds since 1970 from which it is refused.
    pub exp: i64,
    /// Seconds since 1970 at which it was made.
    pub iat: i64,
    /// Seconds since 1970 before which it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
}

impl Claims {
    /// The human, as they are stored.
    #[must_use]
    pub fn profile(&self) -> UserProfile {
        UserProfile { id: self.sub, email: self.email.clone(), name: self.name.clone(), avatar_url: self.picture.clone() }
    }

    /// What must hold for every token, whoever signed it.
    pub(crate) fn require_good(&self, now: Timestamp) -> Result<(), TokenError> {
        if now.before(LEEWAY).seconds() >= self.exp {
            return Err(TokenError::Expired);
        }
        let latest = now.after(LEEWAY).seconds();
        let from_the_future = self.iat > latest || self.nbf.is_some_and(|nbf| nbf > latest);
        let bad_email = raven_core::address::Email::parse(&self.email).is_err();
        if from_the_future || bad_email { Err(TokenError::Invalid) } else { Ok(()) }
    }
}

/// A yes or no; some issuers write it as a text.
pub(crate) fn maybe_spoken<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spoken {
        Bool(bool),
        Text(String),
    }
    match Option::<Spoken>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Spoken::Bool(value)) => Ok(Some(value)),
        Some(Spoken::Text(text)) if text == "true" => Ok(Some(true)),
        Some(Spoken::Text(text)) if text == "false" => Ok(Some(false)),
        Some(Spoken::Text(_)) => Err(de::Error::custom("neither true nor false")),
    }
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Past its `exp`.
    #[error("the token has expired: sign in again")]
    Expired,
    /// Anything else: malformed, another algorithm, a bad signature, a missing claim, another issuer or audience.
    #[error("the token is not valid here")]
    Invalid,
}

/// Verifies (and for development mints) tokens.
pub struct Tokens {
    decoding: DecodingKey,
    encoding: EncodingKey,
    validation: Validation,
    issuer: Option<String>,
    audience: Option<String>,
    oidc: Option<Issuer>,
}

/// A token to mint.
#[derive(Serialize)]
struct Minted<'t> {
    #[serde(flatten)]
    claims: &'t Claims,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'t str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'t str>,
}

impl Tokens {
    /// HS256 with the shared secret. `issuer` and `audience` are checked where given.
    #[must_use]
    pub fn new(secret: &SecretString, issuer: Option<&str>, audience: Option<&str>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // `exp` and `nbf` are checked below, against the clock that was passed.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        // What is not required is not checked when it is missing.
        let required = [Some("exp"), issuer.map(|_| "iss"), audience.map(|_| "aud")];
        validation.set_required_spec_claims(&required.into_iter().flatten().collect::<Vec<_>>());
        match issuer {
            Some(issuer) => validation.set_issuer(&[issuer]),
            None => validation.iss = None,
        }
        match audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        let bytes = secret.expose_secret().as_bytes();
        Self {
            decoding: DecodingKey::from_secret(bytes),
            encoding: EncodingKey::from_secret(bytes),
            validation,
            issuer: issuer.map(str::to_owned),
            audience: audience.map(str::to_owned),
            oidc: None,
        }
    }

    /// Takes the tokens of an OIDC issuer, too.
    #[must_use]
    pub fn with_oidc(mut self, issuer: Issuer) -> Self {
        self.oidc = Some(issuer);
        self
    }

    /// The OIDC issuer whose tokens are taken, if there is one.
    #[must_use]
    pub const fn oidc(&self) -> Option<&Issuer> {
        self.oidc.as_ref()
    }

    /// What a token says, if it is good at `now`. Waits for the network only when a token of the OIDC issuer names a key that
    /// is not known yet.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let header = header_of(token)?;
        match (header.alg, &self.oidc) {
            (Algorithm::HS256, _) => self.verify_shared(token, now),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, Some(issuer)) => issuer.verify(token, &header, now).await,
            _ => Err(TokenError::Invalid),
        }
    }

    /// The same for a token that the shared secret must have signed.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_shared(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        header_of(token)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).map_err(|_| TokenError::Invalid)?.claims;
        claims.require_good(now)?;
        Ok(claims)
    }

    /// Mints a token with the shared secret, for development. It names the issuer and the audience that are checked.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when it cannot be encoded.
    pub fn mint(&self, claims: &Claims) -> Result<String, TokenError> {
        let minted = Minted { claims, iss: self.issuer.as_deref(), aud: self.audience.as_deref() };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &minted, &self.encoding).map_err(|_| TokenError::Invalid)
    }
}

/// The header of a token that may be looked at further.
fn header_of(token: &str) -> Result<Header, TokenError> {
    if token.len() > MAX_LEN {
        return Err(TokenError::Invalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
    // An extension that must be understood, and none is understood here (RFC 7515 §4.1.11).
    if header.crit.is_some() { Err(TokenError::Invalid) } else { Ok(header) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn tokens() -> Tokens {
        Tokens::new(&SecretString::from(SECRET), None, None)
    }

    fn signed(header: &Header, claims: &Value, secret: &str) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn claims() -> Value {
        json!({ "sub": "0b0f8a5e-3f7f-4a3e-9d4d-0d6a7c1b2e3f", "email": "ada@example.com", "exp": NOW.seconds() + 10, "iat": NOW.seconds() - 10 })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_good_token_tells_who_it_is() {
        let token = signed(&Header::new(Algorithm::HS256), &claims(), SECRET);
        assert_eq!(tokens().verify_shared(&token, NOW).unwrap().email, "ada@example.com");
    }

    #[tokio::test]
    async fn other_algorithms_and_keys_are_refused() {
        let tokens = tokens();
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            assert_eq!(tokens.verify(&signed(&Header::new(algorithm), &claims(), SECRET), NOW).await.unwrap_err(), TokenError::Invalid);
        }
        assert_eq!(
            tokens.verify(&signed(&Header::new(Algorithm::HS256), &claims(), "another secret of 32 characters!"), NOW).await.unwrap_err(),
            TokenError::Invalid
        );
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let body = encode(&claims().to_string());
        let good = signed(&Header::new(Algorithm::HS256), &claims(), SECRET);
        let signature = good.rsplit_once('.').unwrap().1;
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"ES256"}"#, r#"{"alg":"EdDSA"}"#, r#"{}"#]
        {
            for signature in ["", signature] {
                assert_eq!(
                    tokens.verify(&format!("{}.{body}.{signature}", encode(header)), NOW).await.unwrap_err(),
                    TokenError::Invalid,
                    "{header}"
                );
            }
        }
        for garbage in ["", ".", "..", "a.b.c", &good[1..], &good[..good.len() - 1], &"x".repeat(20_000)] {
            assert_eq!(tokens.verify(garbage, NOW).await.unwrap_err(), TokenError::Invalid);
        }
    }

    #[test]
    fn times_hold_with_a_minute_of_leeway() {
        let check = |claims: Value| tokens().verify_shared(&signed(&Header::new(Algorithm::HS256), &claims, SECRET), NOW).map(|_| ());
        assert_eq!(check(with("exp", json!(NOW.seconds() - 59))), Ok(()));
        assert_eq!(check(with("exp", json!(NOW.seconds() - 60))), Err(TokenError::Expired));
        assert_eq!(check(with("iat", json!(NOW.seconds() + 60))), Ok(()));
        assert_eq!(check(with("iat", json!(NOW.seconds() + 61))), Err(TokenError::Invalid));
        assert_eq!(check(with("nbf", json!(NOW.seconds() + 61))), Err(TokenError::Invalid));
        assert_eq!(check(with("exp", Value::Null)), Err(TokenError::Invalid));
        assert_eq!(check(with("sub", json!("ada"))), Err(TokenError::Invalid));
        assert_eq!(check(with("email", json!("ada"))), Err(TokenError::Invalid));
    }

    #[test]
    fn issuer_and_audience_are_checked_where_set() {
        let strict = Tokens::new(&SecretString::from(SECRET), Some("https://id.example"), Some("raven"));
        let sign = |claims: &Value| signed(&Header::new(Algorithm::HS256), claims, SECRET);
        let mut good = with("iss", json!("https://id.example"));
        good["aud"] = json!(["raven", "other"]);
        assert!(strict.verify_shared(&sign(&good), NOW).is_ok());
        for (name, value) in [("iss", json!("https://evil.example")), ("aud", json!("other")), ("iss", Value::Null), ("aud", Value::Null)] {
            let mut bad = good.clone();
            bad[name] = value;
            assert_eq!(strict.verify_shared(&sign(&bad), NOW).unwrap_err(), TokenError::Invalid);
            bad.as_object_mut().unwrap().remove(name);
            assert_eq!(strict.verify_shared(&sign(&bad), NOW).unwrap_err(), TokenError::Invalid, "{name} missing");
        }
        assert!(tokens().verify_shared(&sign(&good), NOW).is_ok());
    }

    #[tokio::test]
    async fn a_minted_token_names_what_is_checked() {
        let strict = Tokens::new(&SecretString::from(SECRET), Some("https://id.example"), Some("raven"));
        let claims: Claims = serde_json::from_value(claims()).unwrap();
        let minted = strict.mint(&claims).unwrap();
        assert_eq!(strict.verify(&minted, NOW).await.unwrap().sub, claims.sub);
        assert!(tokens().verify(&minted, NOW).await.is_ok());
        assert_eq!(strict.verify(&tokens().mint(&claims).unwrap(), NOW).await.unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn a_header_that_asks_for_more_is_refused() {
        let mut header = Header::new(Algorithm::HS256);
        header.crit = Some(vec!["exp".to_owned()]);
        assert_eq!(tokens().verify_shared(&signed(&header, &claims(), SECRET), NOW).unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn whether_an_address_was_checked_may_be_written_as_a_text() {
        let read =
            |value: Value| tokens().verify_shared(&signed(&Header::new(Algorithm::HS256), &with("email_verified", value), SECRET), NOW);
        assert_eq!(read(json!("true")).unwrap().email_verified, Some(true));
        assert_eq!(read(json!("false")).unwrap().email_verified, Some(false));
        assert_eq!(read(json!(true)).unwrap().email_verified, Some(true));
        assert_eq!(read(Value::Null).unwrap().email_verified, None);
        assert!(read(json!("TRUE")).is_err() && read(json!(1)).is_err());
    }
}
