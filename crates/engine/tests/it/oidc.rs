//! Bearer tokens of an OIDC issuer that is played on 127.0.0.1: signed with keys made for the occasion, at times that the
//! test decides.

use std::time::Duration;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::KeyPair,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::join_all;
use raven_core::Timestamp;
use raven_engine::{
    oidc::{Issuer, IssuerOptions, REFRESH},
    token::{TokenError, Tokens},
    transport::ExtraRoots,
};
use secrecy::SecretString;
use serde_json::{Value, json};

mod idp;

use idp::{Answer, Idp, Key, Pair, encode, hs256};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ADA: &str = "0b0f8a5e-3f7f-4a3e-9d4d-0d6a7c1b2e3f";
const DISCOVERY: &str = "/.well-known/openid-configuration";

fn after(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

fn tokens(options: IssuerOptions) -> Tokens {
    let issuer = Issuer::new(options, &ExtraRoots::default()).expect("a usable issuer");
    Tokens::new(&SecretString::from(SECRET), None, None).with_oidc(issuer)
}

async fn refresh(tokens: &Tokens, now: Timestamp) {
    tokens.oidc().expect("an issuer").refresh(now).await;
}

async fn judged(tokens: &Tokens, token: &str) -> Result<(), TokenError> {
    tokens.verify(token, NOW).await.map(|_| ())
}

const REFUSED: Result<(), TokenError> = Err(TokenError::Invalid);

#[tokio::test]
async fn every_algorithm_of_the_issuer_is_taken_with_and_without_a_key_id() {
    let pairs = [Pair::rsa("r"), Pair::p256("e"), Pair::ed25519("o")];
    let idp = Idp::with(&pairs.iter().collect::<Vec<_>>()).await;
    let tokens = idp.tokens();
    for pair in &pairs {
        let claims = tokens.verify(&pair.token(&idp.claims()), NOW).await.expect("it is good");
        assert_eq!((claims.sub.to_string().as_str(), claims.email.as_str()), (ADA, "ada@example.com"));
        assert_eq!((claims.name.as_deref(), claims.email_verified), (Some("Ada"), Some(true)));
        assert_eq!(judged(&tokens, &pair.token_with(&json!({ "alg": pair.alg() }), &idp.claims())).await, Ok(()), "{}", pair.alg());
        // Of two keys of a kind, one at least is the right one.
        let twin = match pair.key {
            Key::Rsa(_) => Pair::rsa("twin"),
            Key::P256(_) => Pair::p256("twin"),
            Key::Ed25519(_) => Pair::ed25519("twin"),
        };
        let both = Idp::with(&[&twin, pair]).await;
        assert_eq!(judged(&both.tokens(), &pair.token_with(&json!({ "alg": pair.alg() }), &both.claims())).await, Ok(()));
    }
    assert_eq!(idp.asked(), 1);
    // The shared secret works beside it.
    let shared = hs256(
        &json!({ "alg": "HS256" }),
        &json!({ "sub": ADA, "email": "ada@example.com", "exp": NOW.seconds() + 9, "iat": NOW.seconds() }),
        SECRET.as_bytes(),
    );
    assert_eq!(judged(&tokens, &shared).await, Ok(()));
}

#[tokio::test]
async fn a_key_signs_with_its_own_algorithm_only() {
    let (rsa, p256, ed) = (Pair::rsa("r"), Pair::p256("e"), Pair::ed25519("o"));
    let idp = Idp::with(&[&rsa, &p256, &ed]).await;
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    let claims = idp.claims();
    let Key::Rsa(key) = &rsa.key else { unreachable!("made above") };
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().expect("it can be written");
    let base64 = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).expect("ASCII")).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    let modulus = rsa.jwk["n"].as_str().expect("a text");
    let public = [pem.as_bytes(), pem.trim_end().as_bytes(), der.as_ref(), modulus.as_bytes(), key.public_key().as_ref(), &[]];
    for secret in public {
        for kid in [json!("r"), Value::Null] {
            assert_eq!(judged(&tokens, &hs256(&json!({ "alg": "HS256", "kid": kid }), &claims, secret)).await, REFUSED);
        }
        assert_eq!(judged(&tokens, &hs256(&json!({ "alg": "RS256", "kid": "r" }), &claims, secret)).await, REFUSED);
    }
    assert_eq!(judged(&tokens, &hs256(&json!({ "alg": "RS256", "kid": "r" }), &claims, SECRET.as_bytes())).await, REFUSED);
    // The key of another kind, another algorithm of the same kind, algorithms that nobody here knows.
    for (pair, header) in [
        (&rsa, json!({ "alg": "ES256", "kid": "r" })),
        (&rsa, json!({ "alg": "RS256", "kid": "e" })),
        (&rsa, json!({ "alg": "PS256", "kid": "r" })),
        (&rsa, json!({ "alg": "RS512", "kid": "r" })),
        (&rsa, json!({ "alg": "RS256", "kid": "R" })),
        (&rsa, json!({ "alg": "RS256", "kid": "" })),
        (&rsa, json!({ "alg": "RS256", "kid": 1 })),
        (&p256, json!({ "alg": "RS256", "kid": "e" })),
        (&p256, json!({ "alg": "EdDSA", "kid": "e" })),
        (&p256, json!({ "alg": "ES256", "kid": "o" })),
        (&p256, json!({ "alg": "ES384", "kid": "e" })),
        (&ed, json!({ "alg": "ES256", "kid": "o" })),
        (&ed, json!({ "alg": "none", "kid": "o" })),
        (&ed, json!({ "alg": "eddsa", "kid": "o" })),
        (&ed, json!({ "kid": "o" })),
        (&rsa, json!({ "alg": "RS256", "kid": "r", "crit": ["exp"] })),
        (&rsa, json!({ "alg": "RS256", "kid": "r", "crit": [] })),
        (&rsa, json!({ "alg": "RS256", "kid": "r", "crit": ["b64"], "b64": false })),
    ] {
        assert_eq!(judged(&tokens, &pair.token_with(&header, &claims)).await, REFUSED, "{header}");
    }
    // A key that the token brings along is not looked at.
    let stranger = Pair::p256("e");
    let mut bringing = stranger.header();
    bringing["jwk"] = json!({ "kty": "EC", "crv": "P-256", "x": stranger.jwk["x"], "y": stranger.jwk["y"] });
    for header in [stranger.header(), bringing, json!({ "alg": "ES256" })] {
        assert_eq!(judged(&tokens, &stranger.token_with(&header, &claims)).await, REFUSED, "{header}");
    }
    for pair in [&rsa, &p256, &ed] {
        let good = pair.token(&claims);
        let (message, signature) = good.rsplit_once('.').expect("three parts");
        let other = pair.token(&idp.claims_with("email", json!("eve@example.com")));
        let (other, _) = other.rsplit_once('.').expect("three parts");
        for forged in [format!("{message}."), message.to_owned(), format!("{other}.{signature}"), format!("{good}="), format!("{good}.x")] {
            assert_eq!(judged(&tokens, &forged).await, REFUSED, "{forged}");
        }
        assert_eq!(judged(&tokens, &good).await, Ok(()));
    }
}

#[tokio::test]
async fn keys_that_are_weak_symmetric_or_for_something_else_do_not_count() {
    let (rsa, p256, ed) = (Pair::rsa("k"), Pair::p256("k"), Pair::ed25519("k"));
    let with = |pair: &Pair, name: &str, value: Value| {
        let mut jwk = pair.jwk.clone();
        jwk[name] = value;
        jwk
    };
    let without = |pair: &Pair, name: &str| {
        let mut jwk = pair.jwk.clone();
        jwk.as_object_mut().expect("an object").remove(name);
        jwk
    };
    let stretched = format!("AAAA{}", p256.jwk["x"].as_str().expect("a text"));
    let cases: Vec<(&Pair, Value, bool)> = vec![
        (&rsa, rsa.jwk.clone(), true),
        (&rsa, without(&rsa, "use"), true),
        (&rsa, without(&rsa, "alg"), true),
        (&rsa, with(&rsa, "key_ops", json!(["verify", "encrypt"])), true),
        (&rsa, with(&rsa, "x5c", json!(["noise"])), true),
        (&rsa, with(&rsa, "use", json!("enc")), false),
        (&rsa, with(&rsa, "alg", json!("PS256")), false),
        (&rsa, with(&rsa, "alg", json!("HS256")), false),
        (&rsa, with(&rsa, "alg", json!("RSA-OAEP")), false),
        (&rsa, with(&rsa, "key_ops", json!(["encrypt"])), false),
        (&rsa, with(&rsa, "key_ops", json!([])), false),
        (&rsa, with(&rsa, "e", json!("AQ")), false),
        (&rsa, with(&rsa, "e", json!("AAAAAA")), false),
        (&rsa, with(&rsa, "e", json!("")), false),
        (&rsa, with(&rsa, "n", json!("no base64!")), false),
        (&rsa, without(&rsa, "n"), false),
        (&rsa, with(&rsa, "kty", json!("oct")), false),
        (&p256, p256.jwk.clone(), true),
        (&p256, with(&p256, "alg", json!("ES256")), true),
        (&p256, with(&p256, "alg", json!("ECDH-ES")), false),
        (&p256, with(&p256, "crv", json!("P-384")), false),
        (&p256, with(&p256, "crv", json!("secp256k1")), false),
        (&p256, with(&p256, "x", p256.jwk["y"].clone()), false),
        (&p256, with(&p256, "x", json!(stretched)), false),
        (&p256, without(&p256, "y"), false),
        (&ed, ed.jwk.clone(), true),
        (&ed, with(&ed, "crv", json!("X25519")), false),
        (&ed, with(&ed, "crv", json!("Ed448")), false),
        (&ed, with(&ed, "kty", json!("EC")), false),
        (&ed, with(&ed, "use", json!(1)), false),
    ];
    for (pair, jwk, good) in cases {
        let idp = Idp::start().await;
        // What is odd beside it does not matter.
        idp.publish_jwks(&[json!("noise"), json!({ "kty": "AKP" }), jwk.clone(), Value::Null]);
        let expected = if good { Ok(()) } else { REFUSED };
        assert_eq!(judged(&idp.tokens(), &pair.token(&idp.claims())).await, expected, "{jwk}");
    }

    let idp = Idp::start().await;
    idp.publish_jwks(&[
        json!({ "kty": "oct", "kid": "k", "k": encode(SECRET), "alg": "HS256" }),
        json!({ "kty": "oct", "kid": "o", "k": encode("another secret") }),
    ]);
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    for (kid, alg) in [("o", "HS256"), ("o", "RS256"), ("k", "RS256")] {
        assert_eq!(judged(&tokens, &hs256(&json!({ "alg": alg, "kid": kid }), &idp.claims(), b"another secret")).await, REFUSED);
    }
}

#[tokio::test]
async fn claims_must_name_the_issuer_and_us_and_be_in_time() {
    let pair = Pair::ed25519("k");
    let idp = Idp::with(&[&pair]).await;
    let tokens = idp.tokens();
    let now = NOW.seconds();
    let expired = Err(TokenError::Expired);
    for (name, value, expected) in [
        ("iss", json!(format!("{}/", idp.url)), REFUSED),
        ("iss", json!("https://evil.example"), REFUSED),
        ("iss", json!([idp.url]), REFUSED),
        ("iss", Value::Null, REFUSED),
        ("aud", json!(["other", "raven"]), Ok(())),
        ("aud", json!("other"), REFUSED),
        ("aud", json!("RAVEN"), REFUSED),
        ("aud", json!([]), REFUSED),
        ("aud", json!(["raven-other"]), REFUSED),
        ("aud", json!({ "raven": true }), REFUSED),
        ("aud", Value::Null, REFUSED),
        ("exp", json!(now - 59), Ok(())),
        ("exp", json!(now - 60), expired),
        ("exp", Value::Null, REFUSED),
        ("exp", json!("2030-01-01"), REFUSED),
        ("iat", json!(now + 60), Ok(())),
        ("iat", json!(now + 61), REFUSED),
        ("iat", Value::Null, REFUSED),
        ("nbf", json!(now + 60), Ok(())),
        ("nbf", json!(now + 61), REFUSED),
        ("sub", json!("auth0|ada"), Ok(())),
        ("sub", json!("x".repeat(255)), Ok(())),
        ("sub", json!("x".repeat(256)), REFUSED),
        ("sub", json!(""), REFUSED),
        ("sub", json!(7), REFUSED),
        ("sub", Value::Null, REFUSED),
        ("email", json!("ada"), REFUSED),
        ("email", Value::Null, REFUSED),
        ("email_verified", json!(false), Ok(())),
        ("email_verified", json!("true"), Ok(())),
        ("email_verified", json!("yes"), REFUSED),
        ("email_verified", json!(1), REFUSED),
        ("email_verified", Value::Null, Ok(())),
        ("name", Value::Null, Ok(())),
        ("name", json!({ "first": "Ada" }), REFUSED),
        ("azp", json!("some-client"), Ok(())),
    ] {
        let claims = idp.claims_with(name, value.clone());
        assert_eq!(judged(&tokens, &pair.token(&claims)).await, expected, "{name} {value}");
    }
    for name in ["iss", "aud", "exp", "iat", "sub", "email"] {
        let mut claims = idp.claims();
        claims.as_object_mut().expect("an object").remove(name);
        assert_eq!(judged(&tokens, &pair.token(&claims)).await, REFUSED, "{name}");
    }
    for (text, verified) in [(json!("true"), Some(true)), (json!("false"), Some(false)), (json!(false), Some(false)), (Value::Null, None)] {
        let claims = tokens.verify(&pair.token(&idp.claims_with("email_verified", text)), NOW).await.expect("it is good");
        assert_eq!(claims.email_verified, verified);
    }
    // Expired tells only whom the issuer once knew.
    let stranger = Pair::ed25519("k");
    assert_eq!(judged(&tokens, &stranger.token(&idp.claims_with("exp", json!(now - 600)))).await, REFUSED);
    // Claims that are given twice could be read in two ways.
    let twice = format!(r#"{{"aud":"raven",{}"#, idp.claims().to_string().trim_start_matches('{'));
    let message = format!("{}.{}", encode(pair.header().to_string()), encode(twice));
    assert_eq!(judged(&tokens, &format!("{message}.{}", encode(pair.sign(message.as_bytes())))).await, REFUSED);
}

#[tokio::test]
async fn a_human_keeps_their_id_when_the_subject_is_no_uuid() {
    let (old, new) = (Pair::ed25519("old"), Pair::p256("new"));
    let idp = Idp::with(&[&old, &new]).await;
    let tokens = idp.tokens();
    let who = async |pair: &Pair, subject: &str| {
        tokens.verify(&pair.token(&idp.claims_with("sub", json!(subject))), NOW).await.expect("it is good").sub
    };
    let ada = who(&old, "auth0|ada").await;
    assert_eq!(who(&new, "auth0|ada").await, ada);
    assert_ne!(who(&old, "auth0|bob").await, ada);
    assert_ne!(who(&old, "auth0|Ada").await, ada);
    // The shared secret is ours to give out, with ids of ours.
    let claims = json!({ "sub": "auth0|ada", "email": "ada@example.com", "exp": NOW.seconds() + 9, "iat": NOW.seconds() });
    assert_eq!(judged(&tokens, &hs256(&json!({ "alg": "HS256" }), &claims, SECRET.as_bytes())).await, REFUSED);
}

#[tokio::test]
async fn keys_rotate_without_a_restart() {
    let (first, second) = (Pair::rsa("1"), Pair::p256("2"));
    let idp = Idp::with(&[&first]).await;
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    assert_eq!(judged(&tokens, &first.token(&idp.claims())).await, Ok(()));
    assert_eq!(idp.asked(), 1);
    // Both are published while old tokens live.
    idp.publish(&[&first, &second]);
    assert_eq!(judged(&tokens, &second.token(&idp.claims())).await, Ok(()));
    assert_eq!(judged(&tokens, &first.token(&idp.claims())).await, Ok(()));
    assert_eq!(idp.asked(), 2);
    // The old one goes: it counts until the next fetch, and no longer.
    idp.publish(&[&second]);
    assert_eq!(judged(&tokens, &first.token(&idp.claims())).await, Ok(()));
    let later = NOW.after(REFRESH);
    refresh(&tokens, later).await;
    assert_eq!(tokens.verify(&first.token(&idp.claims()), later).await.unwrap_err(), TokenError::Invalid);
    assert!(tokens.verify(&second.token(&idp.claims()), later).await.is_ok());
    // An issuer that takes back everything is believed.
    idp.publish(&[]);
    refresh(&tokens, later.after(REFRESH)).await;
    assert!(tokens.verify(&second.token(&idp.claims()), later.after(REFRESH)).await.is_err());
}

#[tokio::test]
async fn keys_without_ids_rotate_as_well() {
    let nameless = |pair: Pair| {
        let mut jwk = pair.jwk.clone();
        jwk.as_object_mut().expect("an object").remove("kid");
        Pair { jwk, ..pair }
    };
    let (first, second) = (nameless(Pair::ed25519("")), nameless(Pair::ed25519("")));
    let idp = Idp::with(&[&first]).await;
    let tokens = idp.tokens();
    let header = json!({ "alg": "EdDSA" });
    assert_eq!(judged(&tokens, &first.token_with(&header, &idp.claims())).await, Ok(()));
    idp.publish(&[&second]);
    assert!(tokens.verify(&second.token_with(&header, &idp.claims()), after(10)).await.is_ok());
    assert!(tokens.verify(&first.token_with(&header, &idp.claims()), after(11)).await.is_err());
    assert_eq!(idp.asked(), 2);
    // Too many to try them all for everybody's garbage.
    let many: Vec<Pair> = (0..9).map(|_| nameless(Pair::ed25519(""))).collect();
    for (count, expected) in [(8, true), (9, false)] {
        let idp = Idp::with(&many[..count].iter().collect::<Vec<_>>()).await;
        assert_eq!(idp.tokens().verify(&many[0].token_with(&header, &idp.claims()), NOW).await.is_ok(), expected, "{count}");
    }
}

#[tokio::test]
async fn all_who_wait_for_a_key_share_one_fetch() {
    let pair = Pair::ed25519("k");
    let idp = Idp::with(&[&pair]).await;
    let tokens = idp.tokens();
    idp.state.gate.send_replace(false);
    let token = pair.token(&idp.claims());
    let waiting = join_all((0..50).map(|i| {
        let (tokens, token) = (&tokens, &token);
        // Their clocks were not read in the order in which they come.
        async move { tokens.verify(token, NOW.after(Duration::from_millis(50 - i))).await }
    }));
    let opening = async {
        idp.state.arrivals.subscribe().wait_for(|n| *n > 0).await.expect("the issuer lives");
        idp.state.gate.send_replace(true);
    };
    let (seen, ()) = tokio::join!(waiting, opening);
    assert!(seen.iter().all(Result::is_ok));
    assert_eq!(idp.asked(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_take_the_fetch_along() {
    let pair = Pair::ed25519("k");
    let idp = Idp::with(&[&pair]).await;
    let tokens = idp.tokens();
    idp.state.gate.send_replace(false);
    let token = pair.token(&idp.claims());
    {
        let waiting = tokens.verify(&token, NOW);
        let mut arrivals = idp.state.arrivals.subscribe();
        tokio::select! {
            _ = waiting => panic!("the gate is shut"),
            _ = arrivals.wait_for(|n| *n > 0) => {}
        }
    }
    let (seen, _) = tokio::join!(tokens.verify(&token, NOW), async { idp.state.gate.send_replace(true) });
    assert!(seen.is_ok());
    assert_eq!(idp.asked(), 1);
}

#[tokio::test]
async fn garbage_asks_for_keys_once_in_ten_seconds_at_most() {
    let (known, stranger, new) = (Pair::ed25519("known"), Pair::ed25519("stranger"), Pair::ed25519("new"));
    let idp = Idp::with(&[&known]).await;
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    assert_eq!(idp.asked(), 1);
    for millis in [0, 1, 5000, 9999] {
        let now = NOW.after(Duration::from_millis(millis));
        assert!(tokens.verify(&stranger.token(&idp.claims()), now).await.is_err());
        assert!(tokens.verify(&known.token(&idp.claims()), now).await.is_ok());
    }
    assert_eq!(idp.asked(), 2);
    // Nor does a request whose clock was read before.
    assert!(tokens.verify(&stranger.token(&idp.claims()), NOW.before(Duration::from_millis(1))).await.is_err());
    assert_eq!(idp.asked(), 2);
    // A key that is new within these ten seconds waits for their end.
    idp.publish(&[&known, &new]);
    let token = new.token(&idp.claims());
    assert!(tokens.verify(&token, NOW.after(Duration::from_millis(9999))).await.is_err());
    assert!(tokens.verify(&token, after(10)).await.is_ok());
    assert_eq!(idp.asked(), 3);
    // What can't be the issuer's in any case asks for nothing.
    let shared = hs256(&json!({ "alg": "HS256", "kid": "stranger" }), &idp.claims(), b"wrong");
    let long = "x".repeat(20_000);
    let critical = stranger.token_with(&json!({ "alg": "EdDSA", "kid": "stranger", "crit": ["x"] }), &idp.claims());
    for token in [shared.as_str(), long.as_str(), critical.as_str(), "a.b.c", ""] {
        assert!(tokens.verify(token, after(60)).await.is_err());
    }
    assert_eq!(idp.asked(), 3);
}

#[tokio::test]
async fn while_the_issuer_is_away_its_last_keys_count_for_a_day() {
    let pair = Pair::rsa("k");
    let idp = Idp::with(&[&pair]).await;
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    let day = 24 * 3600;
    let token = pair.token(&idp.claims_with("exp", json!(NOW.seconds() + 10 * day)));
    let aways = [Answer::Nothing, Answer::With(500, b"{}".to_vec()), Answer::With(200, b"<html>".to_vec())];
    for (i, away) in aways.into_iter().enumerate() {
        idp.answer_keys(away);
        refresh(&tokens, after(600 * (i as u64 + 1))).await;
        assert!(tokens.verify(&token, after(600 * (i as u64 + 1))).await.is_ok());
    }
    assert_eq!(idp.asked(), 4);
    assert!(tokens.verify(&token, after(day as u64)).await.is_ok());
    assert!(tokens.verify(&token, after(day as u64 + 1)).await.is_err());
    idp.publish(&[&pair]);
    assert!(tokens.verify(&token, after(day as u64 + 11)).await.is_ok());
}

#[tokio::test]
async fn an_issuer_that_is_away_at_the_start_is_asked_when_it_is_needed() {
    let pair = Pair::p256("k");
    let idp = Idp::with(&[&pair]).await;
    idp.answer_keys(Answer::Nothing);
    let tokens = idp.tokens();
    refresh(&tokens, NOW).await;
    assert_eq!(judged(&tokens, &pair.token(&idp.claims())).await, REFUSED);
    idp.publish(&[&pair]);
    assert!(tokens.verify(&pair.token(&idp.claims()), after(10)).await.is_ok());
}

#[tokio::test]
async fn answers_that_are_no_keys_of_this_issuer_leave_it_without() {
    let pair = Pair::ed25519("k");
    let idp = Idp::with(&[&pair]).await;
    let good = idp.state.keys.lock().clone();
    let Answer::With(_, document) = &good else { unreachable!("published above") };
    let mut huge = document.clone();
    huge.truncate(huge.len() - 2);
    huge.extend_from_slice(format!(",{{\"kty\":\"{}\"}}]}}", "x".repeat(70_000)).as_bytes());
    let token = pair.token(&idp.claims());
    for (status, body) in [
        (200, huge),
        (200, b"<html>".to_vec()),
        (200, b"[]".to_vec()),
        (200, b"{\"keys\":{}}".to_vec()),
        (200, Vec::new()),
        (200, document[..document.len() - 1].to_vec()),
        (302, document.clone()),
        (404, document.clone()),
        (500, document.clone()),
    ] {
        idp.answer_keys(Answer::With(status, body));
        assert_eq!(judged(&idp.tokens(), &token).await, REFUSED, "{status}");
    }
    idp.answer_keys(good);
    let jwks = format!("{}/jwks", idp.url);
    let asked = idp.asked();
    for discovery in [
        json!({ "issuer": "https://evil.example", "jwks_uri": jwks }),
        json!({ "issuer": format!("{}/", idp.url), "jwks_uri": jwks }),
        json!({ "jwks_uri": jwks }),
        json!({ "issuer": idp.url }),
        json!({ "issuer": idp.url, "jwks_uri": "http://id.example.com/jwks" }),
        json!({ "issuer": idp.url, "jwks_uri": "/jwks" }),
        json!({ "issuer": idp.url, "jwks_uri": jwks.replace("http://", "http://somebody@") }),
        json!({ "issuer": idp.url, "jwks_uri": "file:///etc/passwd" }),
    ] {
        idp.discovery(&discovery);
        assert_eq!(judged(&idp.tokens(), &token).await, REFUSED, "{discovery}");
    }
    assert_eq!(idp.asked(), asked);
    // Who names the URL of the keys needs no discovery.
    let named = tokens(IssuerOptions { jwks_url: Some(format!("{}/other-keys", idp.url)), ..idp.options() });
    assert_eq!(judged(&named, &token).await, Ok(()));
    // And a good document is good, one with a slash at the issuer's end, too.
    let slashed = format!("{}/", idp.url);
    idp.discovery(&json!({ "issuer": slashed, "jwks_uri": jwks, "response_types_supported": ["code"] }));
    let tokens = tokens(IssuerOptions { issuer: slashed.clone(), ..idp.options() });
    assert_eq!(judged(&tokens, &pair.token(&idp.claims_with("iss", json!(slashed)))).await, Ok(()));
    assert_eq!(judged(&tokens, &token).await, REFUSED);
}
