//! An issuer of bearer tokens that is played on 127.0.0.1, and keys made for the occasion.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use raven_engine::{oidc::IssuerOptions, token::Tokens};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use super::{ADA, DISCOVERY, NOW, tokens};

/// A pair of keys, with its public half as the issuer publishes it.
pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) jwk: Value,
}

pub(super) enum Key {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    pub(super) fn rsa(kid: &str) -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
        let (n, e) = (encode(n.big_endian_without_leading_zero()), encode(e.big_endian_without_leading_zero()));
        let jwk = json!({ "kty": "RSA", "kid": kid, "n": n, "e": e, "alg": "RS256", "use": "sig" });
        Self { key: Key::Rsa(Box::new(key)), jwk }
    }

    pub(super) fn p256(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": encode(x), "y": encode(y) });
        Self { key: Key::P256(key), jwk }
    }

    pub(super) fn ed25519(kid: &str) -> Self {
        let key = Ed25519KeyPair::generate().expect("a key");
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key().as_ref()), "key_ops": ["verify"] });
        Self { key: Key::Ed25519(key), jwk }
    }

    pub(super) fn alg(&self) -> &'static str {
        match self.key {
            Key::Rsa(_) => "RS256",
            Key::P256(_) => "ES256",
            Key::Ed25519(_) => "EdDSA",
        }
    }

    pub(super) fn header(&self) -> Value {
        json!({ "alg": self.alg(), "kid": self.jwk["kid"], "typ": "JWT" })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
                signature
            }
            Key::P256(key) => key.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    pub(super) fn token_with(&self, header: &Value, claims: &Value) -> String {
        assemble(header, claims, |message| self.sign(message))
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn assemble(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

pub(super) fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    assemble(header, claims, |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec())
}

/// What the issuer does with a request for one of its documents.
#[derive(Clone)]
pub(super) enum Answer {
    /// Answers with this status and body.
    With(u16, Vec<u8>),
    /// Closes the connection.
    Nothing,
}

pub(super) struct State {
    pub(super) discovery: Mutex<Answer>,
    pub(super) keys: Mutex<Answer>,
    /// Requests for the keys so far.
    pub(super) asked: AtomicUsize,
    /// While it is shut, answers wait.
    pub(super) gate: watch::Sender<bool>,
    pub(super) arrivals: watch::Sender<usize>,
}

/// An issuer. Its documents change when the test says so.
pub(super) struct Idp {
    pub(super) url: String,
    pub(super) state: Arc<State>,
    pub(super) _serving: AbortOnDropHandle<()>,
}

impl Idp {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State {
            discovery: Mutex::new(Answer::Nothing),
            keys: Mutex::new(Answer::Nothing),
            asked: AtomicUsize::new(0),
            gate: watch::Sender::new(true),
            arrivals: watch::Sender::new(0),
        });
        let serving = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, state.clone()));
                }
            }
        });
        let idp = Self { url, state, _serving: AbortOnDropHandle::new(serving) };
        idp.discovery(&json!({ "issuer": idp.url, "jwks_uri": format!("{}/jwks", idp.url) }));
        idp.publish(&[]);
        idp
    }

    pub(super) async fn with(pairs: &[&Pair]) -> Self {
        let idp = Self::start().await;
        idp.publish(pairs);
        idp
    }

    pub(super) fn discovery(&self, document: &Value) {
        *self.state.discovery.lock() = Answer::With(200, document.to_string().into_bytes());
    }

    pub(super) fn publish(&self, pairs: &[&Pair]) {
        self.publish_jwks(&pairs.iter().map(|p| p.jwk.clone()).collect::<Vec<_>>());
    }

    pub(super) fn publish_jwks(&self, keys: &[Value]) {
        self.answer_keys(Answer::With(200, json!({ "keys": keys }).to_string().into_bytes()));
    }

    pub(super) fn answer_keys(&self, answer: Answer) {
        *self.state.keys.lock() = answer;
    }

    /// Requests for the keys so far.
    pub(super) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(super) fn options(&self) -> IssuerOptions {
        IssuerOptions { issuer: self.url.clone(), audience: "raven".to_owned(), jwks_url: None }
    }

    pub(super) fn tokens(&self) -> Tokens {
        tokens(self.options())
    }

    pub(super) fn claims(&self) -> Value {
        json!({
            "iss": self.url, "aud": "raven", "sub": ADA, "email": "ada@example.com", "email_verified": true, "name": "Ada",
            "exp": NOW.seconds() + 3600, "iat": NOW.seconds(),
        })
    }

    pub(super) fn claims_with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }
}

pub(super) async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let answer = match path {
        DISCOVERY => state.discovery.lock().clone(),
        "/jwks" | "/other-keys" => {
            state.asked.fetch_add(1, Ordering::SeqCst);
            state.arrivals.send_modify(|n| *n += 1);
            let _ = state.gate.subscribe().wait_for(|open| *open).await;
            state.keys.lock().clone()
        }
        _ => Answer::With(404, Vec::new()),
    };
    if let Answer::With(status, body) = answer {
        let head = format!("HTTP/1.1 {status} X\r\nlocation: /other-keys\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
    }
}
