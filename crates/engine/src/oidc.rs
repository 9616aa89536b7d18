//! An OIDC issuer whose bearer tokens count here. Its public keys are fetched in the background and kept, so a token is
//! checked without a network call; only a token that names a key nobody has heard of waits for a fetch, and for one that
//! all such tokens share.
//!
//! What lives here: where keys come from, how long they count, what claims must say, who a human is. What must not: the
//! shared secret ([`crate::token`]), how a key is read (`jwks`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use jsonwebtoken::Header;
use parking_lot::{Mutex, RwLock};
use raven_core::{Timestamp, UserId, problem::chain};
use serde::Deserialize;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    jwks::{KeySet, Verdict},
    token::{Claims, TokenError, maybe_spoken},
    transport::{CallError, ExtraRoots, Transport},
};

/// Between two fetches that nobody asked for.
pub const REFRESH: Duration = Duration::from_secs(10 * 60);
/// Between two fetches that tokens asked for: whoever sends garbage must not make us flood the issuer.
const SPACING: Duration = Duration::from_secs(10);
/// How long the last keys count while the issuer is away.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a fetch may take, discovery included.
const FETCH_CAP: Duration = Duration::from_secs(5);
/// Characters of a subject (OIDC Core §2).
const SUBJECT_MAX: usize = 255;

/// An issuer, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerOptions {
    /// Its URL, exactly as tokens carry it in `iss`.
    pub issuer: String,
    /// What tokens must have in `aud`: a token for another app says nothing here.
    pub audience: String,
    /// Where its keys are; by default what its discovery document says.
    pub jwks_url: Option<String>,
}

/// May keys be fetched from this URL? From `https`, or from `http` on this machine or a private network: whoever stands
/// in between could put in keys of their own. A name other than `localhost` may lead anywhere.
#[must_use]
pub fn is_trustworthy(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else { return false };
    if host.is_empty() || authority.as_str().contains('@') || url.contains('#') {
        return false;
    }
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_near(host),
        _ => false,
    }
}

fn is_near(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map(|ip| ip.to_canonical());
    match address {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Why there are no new keys. No text of the issuer's answer is in it.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the discovery document can't be read")]
    Discovery,
    #[error("the discovery document is of another issuer")]
    OtherIssuer,
    #[error("the URL of the keys is neither https nor on a private network")]
    Untrustworthy,
    #[error("the key set can't be read")]
    KeySet,
    #[error("it took longer than {FETCH_CAP:?}")]
    TooLong,
}

/// What matters here of a discovery document (OIDC Discovery §3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// `aud`: one, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What a token of the issuer says.
#[derive(Deserialize)]
struct Said {
    iss: String,
    aud: Audience,
    sub: String,
    email: String,
    #[serde(default, deserialize_with = "maybe_spoken")]
    email_verified: Option<bool>,
    name: Option<String>,
    picture: Option<String>,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
}

/// What a fetch needs and changes.
struct Source {
    options: IssuerOptions,
    transport: Transport,
    keys: RwLock<Option<Arc<Fetched>>>,
}

struct Fetched {
    keys: KeySet,
    at: Timestamp,
}

/// A fetch under way. It goes on without the requests that wait for it, and ends with its issuer.
struct Fetch {
    done: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Fetches {
    running: Option<Fetch>,
    /// When a token last asked for one.
    asked_at: Option<Timestamp>,
}

/// Who wants a fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// The clock.
    Scheduled,
    /// A token with an unknown key.
    Asked,
}

/// The issuer, with what is known of its keys.
pub struct Issuer {
    source: Arc<Source>,
    fetches: Mutex<Fetches>,
}

impl Issuer {
    /// An issuer of whose keys nothing is known yet. Certificates are checked against the public authorities and these.
    ///
    /// # Errors
    /// A sentence, when a URL can't be used or one of the extra certificates is no authority.
    pub fn new(options: IssuerOptions, extra_roots: &ExtraRoots) -> Result<Self, String> {
        let urls = [Some(&options.issuer), options.jwks_url.as_ref()];
        if let Some(url) = urls.into_iter().flatten().find(|url| !is_trustworthy(url)) {
            return Err(format!("{url} is no https URL, nor http on a private network"));
        }
        let transport = Transport::new(extra_roots, FETCH_CAP)?;
        let source = Arc::new(Source { options, transport, keys: RwLock::default() });
        Ok(Self { source, fetches: Mutex::default() })
    }

    /// Fetches the keys anew, or waits for the fetch that runs already. A failure is logged, and the last keys stay.
    pub async fn refresh(&self, now: Timestamp) {
        if let Some(done) = self.fetch(now, Wish::Scheduled) {
            done.cancelled().await;
        }
    }

    /// What a token says, if it is one of this issuer's for us and good at `now`.
    pub(crate) async fn verify(&self, token: &str, header: &Header, now: Timestamp) -> Result<Claims, TokenError> {
        // The fetch that is waited for may have begun before the token's key was published; so a second one may follow.
        for _ in 0..2 {
            match self.check(token, header, now) {
                Verdict::Signed(said) => return self.judge(said, now),
                Verdict::Bad => return Err(TokenError::Invalid),
                Verdict::Unknown => {}
            }
            let done = self.fetch(now, Wish::Asked).ok_or(TokenError::Invalid)?;
            done.cancelled().await;
        }
        match self.check(token, header, now) {
            Verdict::Signed(said) => self.judge(said, now),
            Verdict::Bad | Verdict::Unknown => Err(TokenError::Invalid),
        }
    }

    fn check(&self, token: &str, header: &Header, now: Timestamp) -> Verdict<Said> {
        let fetched = self.source.keys.read().clone();
        match fetched.filter(|f| now.since(f.at) <= KEPT) {
            Some(fetched) => fetched.keys.check(token, header),
            None => Verdict::Unknown,
        }
    }

    fn judge(&self, said: Said, now: Timestamp) -> Result<Claims, TokenError> {
        let IssuerOptions { issuer, audience, .. } = &self.source.options;
        let for_us = match &said.aud {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.contains(audience),
        };
        if said.iss != *issuer || !for_us {
            return Err(TokenError::Invalid);
        }
        let claims = Claims {
            sub: user_of(issuer, &said.sub).ok_or(TokenError::Invalid)?,
            email: said.email,
            email_verified: said.email_verified,
            name: said.name,
            picture: said.picture,
            exp: said.exp,
            iat: said.iat,
            nbf: said.nbf,
        };
        claims.require_good(now)?;
        Ok(claims)
    }

    /// The end of the fetch under way, or of one that begins now; none when tokens asked for one just before.
    fn fetch(&self, now: Timestamp, wish: Wish) -> Option<CancellationToken> {
        let mut fetches = self.fetches.lock();
        if let Some(running) = fetches.running.as_ref().filter(|f| !f.done.is_cancelled()) {
            return Some(running.done.clone());
        }
        if wish == Wish::Asked {
            // Requests read the clock before they come here, so one may come with an earlier time than the last.
            if fetches.asked_at.is_some_and(|at| now.since(at).max(at.since(now)) < SPACING) {
                return None;
            }
            fetches.asked_at = Some(now);
        }
        let done = CancellationToken::new();
        let (source, end) = (self.source.clone(), done.clone().drop_guard());
        let task = tokio::spawn(async move {
            source.update(now).await;
            drop(end);
        });
        fetches.running = Some(Fetch { done: done.clone(), _task: AbortOnDropHandle::new(task) });
        Some(done)
    }
}

impl Source {
    async fn update(&self, now: Timestamp) {
        let fetched = tokio::time::timeout(FETCH_CAP, self.fetch()).await.unwrap_or(Err(FetchError::TooLong));
        let issuer = &self.options.issuer;
        match fetched {
            Ok(keys) => {
                if keys.len() == 0 {
                    tracing::warn!(issuer, "the issuer publishes no key that can be used: its tokens are refused");
                } else {
                    tracing::debug!(issuer, keys = keys.len(), "the issuer's keys were read");
                }
                *self.keys.write() = Some(Arc::new(Fetched { keys, at: now }));
            }
            Err(e) => tracing::warn!(issuer, error = chain(&e), "the issuer's keys can't be read; the last ones count for a day"),
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.options.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        KeySet::read(&self.get(&url).await?).ok_or(FetchError::KeySet)
    }

    async fn discover(&self) -> Result<String, FetchError> {
        let issuer = &self.options.issuer;
        let answer = self.get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
        let document: Discovery = serde_json::from_slice(&answer).map_err(|_| FetchError::Discovery)?;
        if document.issuer == *issuer { Ok(document.jwks_uri) } else { Err(FetchError::OtherIssuer) }
    }

    async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        if !is_trustworthy(url) {
            return Err(FetchError::Untrustworthy);
        }
        let request = Request::get(url).header(header::ACCEPT, "application/json").body(Bytes::new());
        let answer = self.transport.call(request.map_err(|_| FetchError::Untrustworthy)?, Duration::ZERO).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            other => Err(FetchError::Status(other)),
        }
    }
}

/// Who a subject is. One that is a UUID is taken as it is; of any other a UUID is made, always the same for the issuer and
/// the subject.
fn user_of(issuer: &str, subject: &str) -> Option<UserId> {
    if subject.is_empty() || subject.chars().nth(SUBJECT_MAX).is_some() {
        return None;
    }
    if let Some(user) = UserId::parse(subject) {
        return Some(user);
    }
    let mut hasher = blake3::Hasher::new_derive_key("raven user id of an OIDC issuer and subject, version 1");
    for part in [issuer, subject] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Some(UserId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_https_or_from_nearby() {
        for good in [
            "https://id.example.com",
            "https://id.example.com/realms/main/",
            "https://10.0.0.1:8443/keys?policy=a",
            "http://localhost:8080/realms/x",
            "http://127.0.0.1:1",
            "http://[::1]:1/x",
            "http://192.168.1.4",
            "http://10.1.2.3/x",
            "http://[fd00::1]/x",
        ] {
            assert!(is_trustworthy(good), "{good}");
        }
        for bad in [
            "",
            "id.example.com",
            "/keys",
            "http://id.example.com",
            "http://8.8.8.8",
            "http://localhost.example.com",
            "http://keycloak:8080",
            "http://[2606:4700::1]/",
            "http://[::ffff:8.8.8.8]/",
            "https://user:word@id.example.com",
            "http://127.0.0.1@evil.example",
            "https://id.example.com/#x",
            "https://",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "https://id.example.com/a b",
        ] {
            assert!(!is_trustworthy(bad), "{bad}");
        }
    }

    #[test]
    fn a_subject_is_always_the_same_human_and_no_other_ones() {
        let of = |issuer: &str, subject: &str| user_of(issuer, subject).unwrap();
        let uuid = "0b0f8a5e-3f7f-4a3e-9d4d-0d6a7c1b2e3f";
        assert_eq!(of("https://a.example", uuid).to_string(), uuid);
        let ada = of("https://a.example", "auth0|ada");
        assert_eq!(ada, of("https://a.example", "auth0|ada"));
        assert_eq!(ada.0.get_version_num(), 4);
        // Fixed for good: another value would part every human from their memberships.
        assert_eq!(ada.to_string(), "921a9639-a4d0-47d8-b88d-a4b266263c9c");
        for (issuer, subject) in [
            ("https://b.example", "auth0|ada"),
            ("https://a.example", "auth0|bob"),
            ("https://a.example\0auth0", "|ada"),
            ("https://a.exampleauth0", "|ada"),
        ] {
            assert_ne!(of(issuer, subject), ada, "{issuer:?} {subject:?}");
        }
        assert!(user_of("https://a.example", "").is_none());
        assert!(user_of("https://a.example", &"é".repeat(255)).is_some());
        assert!(user_of("https://a.example", &"é".repeat(256)).is_none());
    }

    #[test]
    fn unusable_urls_are_no_issuer() {
        let options = |issuer: &str, jwks_url: Option<&str>| IssuerOptions {
            issuer: issuer.to_owned(),
            audience: "raven".to_owned(),
            jwks_url: jwks_url.map(str::to_owned),
        };
        assert!(Issuer::new(options("https://id.example.com", None), &ExtraRoots::default()).is_ok());
        assert!(Issuer::new(options("http://id.example.com", None), &ExtraRoots::default()).is_err());
        assert!(Issuer::new(options("https://id.example.com", Some("http://id.example.com")), &ExtraRoots::default()).is_err());
    }
}
