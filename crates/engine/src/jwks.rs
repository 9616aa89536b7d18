//! Public keys as an issuer publishes them (RFC 7517): which of them count, and which one a token was signed with.
//!
//! What lives here: reading a key set, choosing keys, checking a signature. What must not: fetching, time, the meaning of claims.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// The smallest RSA modulus that counts (RFC 7518 §3.3), and the largest: a huge one would burn the CPU.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Keys that are tried for one token at most.
const TRIED: usize = 8;

/// One key, good for one algorithm.
struct PublicKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys of an issuer that can be used here.
pub(crate) struct KeySet {
    keys: Vec<PublicKey>,
}

/// What a key set says of a token.
pub(crate) enum Verdict<T> {
    /// Signed with one of the keys; these are its claims.
    Signed(T),
    /// Not signed with the key that it names, or its claims can't be read.
    Bad,
    /// No key fits. A newer set may have one.
    Unknown,
}

/// The document.
#[derive(Deserialize)]
struct Document {
    /// Read one by one: a key of a kind that nobody here knows must not hide the others.
    keys: Vec<Value>,
}

/// Members of a key that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a key set document. Keys that can't be used here are left out; a document that is none gives nothing.
    pub(crate) fn read(document: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(document).ok()?;
        Some(Self { keys: document.keys.into_iter().filter_map(PublicKey::read).collect() })
    }

    /// How many keys there are.
    pub(crate) const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Checks a token's signature with the keys that fit its header. The claims are not judged.
    pub(crate) fn check<T: DeserializeOwned>(&self, token: &str, header: &Header) -> Verdict<T> {
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let fits = |k: &&PublicKey| k.algorithm == header.alg && (header.kid.is_none() || header.kid == k.kid);
        let keys: Vec<&PublicKey> = self.keys.iter().filter(fits).take(TRIED + 1).collect();
        if keys.len() > TRIED {
            return Verdict::Bad;
        }
        for key in &keys {
            match jsonwebtoken::decode::<T>(token, &key.key, &validation) {
                Ok(data) => return Verdict::Signed(data.claims),
                Err(e) if matches!(e.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => return Verdict::Bad,
            }
        }
        // Without a name in the header, a key that is missing looks like a bad signature.
        if keys.is_empty() || header.kid.is_none() { Verdict::Unknown } else { Verdict::Bad }
    }
}

impl PublicKey {
    /// The key, if it can be used here: of a known kind, strong enough, and meant for signatures with the one algorithm that its
    /// kind implies.
    fn read(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let (algorithm, name) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, "RS256"),
            ("EC", Some("P-256")) => (Algorithm::ES256, "ES256"),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
            _ => return None,
        };
        let agrees = jwk.alg.as_deref().is_none_or(|alg| alg == name)
            && jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !agrees {
            return None;
        }
        let key = match algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_components(jwk.n.as_deref()?, jwk.e.as_deref()?).ok()?,
            Algorithm::ES256 => DecodingKey::from_ec_components(coordinate(&jwk.x)?, coordinate(&jwk.y)?).ok()?,
            _ => DecodingKey::from_ed_components(coordinate(&jwk.x)?).ok()?,
        };
        is_usable(&key, algorithm).then_some(Self { kid: jwk.kid, algorithm, key })
    }
}

/// 32 bytes in base64 without padding are 43 characters.
fn coordinate(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| t.len() == 43)
}

fn is_usable(key: &DecodingKey, algorithm: Algorithm) -> bool {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            // Leading zeros would stretch a small number, and the library takes none.
            let (n, e) = (without_zeros(n), without_zeros(e));
            let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
            // An exponent of 1 makes every message its own signature.
            let odd = e.last().is_some_and(|byte| byte % 2 == 1) && e != [1];
            RSA_BITS.contains(&bits) && odd && RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).is_ok()
        }
        DecodingKeyKind::SecretOrDer(point) if algorithm == Algorithm::ES256 => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).parse().is_ok()
        }
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len() == 32,
    }
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    &bytes[first..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 7515 A.2.
    const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    /// RFC 7515 A.3.
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    /// RFC 8037 A.4. What is signed is a text, and no claims.
    const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    /// A real modulus of 1024 bits.
    const SHORT_N: &str = "sBWiddGhBeU6HSzHu3uULMtlQkQa822Xcw6e3fwdQQdeyHK6ymJ2DMz6g0QGS0AyG5ZQod2_TvzZGZkURTmr4Xe5BnCAeUs081myXoSkCWKvZHExqv_HDygSpYetljEU3xOu6IgEQ1JbP_DASjM_YulVqDqvehFccKHT3SNFBhk";

    fn published() -> KeySet {
        let document = json!({ "keys": [
            { "kty": "RSA", "kid": "a2", "n": RSA_N, "e": "AQAB" },
            { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
            { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
        ] });
        KeySet::read(document.to_string().as_bytes()).unwrap()
    }

    fn issuer_in(token: &str) -> Option<String> {
        match published().check::<Value>(token, &jsonwebtoken::decode_header(token).unwrap()) {
            Verdict::Signed(claims) => claims["iss"].as_str().map(str::to_owned),
            Verdict::Bad | Verdict::Unknown => None,
        }
    }

    #[test]
    fn the_vectors_of_the_standards_verify() {
        assert_eq!(published().len(), 3);
        for token in [RS256, ES256] {
            assert_eq!(issuer_in(token).as_deref(), Some("joe"));
            let (message, signature) = token.rsplit_once('.').unwrap();
            let flipped = if signature.starts_with('c') { 'd' } else { 'c' };
            assert_eq!(issuer_in(&format!("{message}.{flipped}{}", &signature[1..])), None);
        }
        let (message, signature) = EDDSA.rsplit_once('.').unwrap();
        let key = &published().keys[2].key;
        assert!(jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, Algorithm::EdDSA).unwrap());
        assert!(!jsonwebtoken::crypto::verify(signature, &message.as_bytes()[1..], key, Algorithm::EdDSA).unwrap());
    }

    #[test]
    fn rsa_keys_have_2048_bits_at_least_and_zeros_do_not_count() {
        let usable = |n: &str, e: &str| {
            let document = json!({ "keys": [{ "kty": "RSA", "n": n, "e": e }] });
            KeySet::read(document.to_string().as_bytes()).unwrap().len() == 1
        };
        assert!(usable(RSA_N, "AQAB") && usable(RSA_N, "AAEAAQ") && usable(RSA_N, "Aw"));
        assert!(!usable(SHORT_N, "AQAB"));
        // 128 bytes of zeros before it.
        assert!(!usable(&format!("{}AAA{SHORT_N}", "A".repeat(168)), "AQAB"));
        assert!(!usable(RSA_N, "AQ") && !usable(RSA_N, "Ag") && !usable(RSA_N, "AA") && !usable(RSA_N, ""));
        // 1025 bytes.
        assert!(!usable(&format!("gQ{}E", "A".repeat(1364)), "AQAB"));
    }

    #[test]
    fn a_document_that_is_none_is_told_from_one_without_keys() {
        assert!(KeySet::read(br#"{"keys":[]}"#).is_some_and(|set| set.len() == 0));
        for bad in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[1,"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
            assert!(KeySet::read(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
