//! The form of an API key: `rk_{live|test}_{8 hex}_{32 base62}`.

use crate::message::Environment;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX_LEN: usize = 16;
const SECRET_LEN: usize = 32;

/// A presented key, taken apart. Well-formed, which says nothing about whether it exists.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    /// `rk_live_a3f7b2c1`: what the key is found by.
    pub prefix: &'a str,
    /// The 32 secret characters.
    pub secret: &'a str,
    /// What the prefix says.
    pub environment: Environment,
}

impl<'a> PresentedKey<'a> {
    /// Takes a key apart; `None` if it has not the form of one.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix("rk_")?;
        let (environment, rest) = match rest.strip_prefix("live_") {
            Some(rest) => (Environment::Live, rest),
            None => (Environment::Test, rest.strip_prefix("test_")?),
        };
        let (public, secret) = rest.split_once('_')?;
        let good = public.len() == 8
            && public.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && secret.len() == SECRET_LEN
            && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        good.then_some(Self { prefix: &text[..PREFIX_LEN], secret, environment })
    }
}

/// Makes a key of random bytes: 4 for the prefix, and a stream for the secret, of which bytes of 248 and more are
/// passed over so that all 62 characters are equally likely (32 of them hold 190 bits). `None` if the stream was too short.
#[must_use]
pub fn compose(environment: Environment, public: [u8; 4], random: &[u8]) -> Option<String> {
    let mut key = format!("rk_{}_{:08x}_", environment.name(), u32::from_be_bytes(public));
    let secret = random.iter().filter(|b| **b < 248).take(SECRET_LEN).map(|b| char::from(BASE62[usize::from(b % 62)]));
    key.reserve(SECRET_LEN);
    let before = key.len();
    key.extend(secret);
    (key.len() - before == SECRET_LEN).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composed_key_is_taken_apart_again() {
        let key = compose(Environment::Live, [0xa3, 0xf7, 0xb2, 0xc1], &[255, 0, 61, 62, 247, 9].repeat(9)).unwrap();
        let parts = PresentedKey::parse(&key).unwrap();
        assert_eq!((parts.prefix, parts.environment), ("rk_live_a3f7b2c1", Environment::Live));
        assert_eq!(parts.secret.len(), 32);
        assert!(parts.secret.starts_with("0z0z9"));
        assert_eq!(compose(Environment::Test, [0; 4], &[255; 64]), None);
    }

    #[test]
    fn other_texts_are_no_keys() {
        let secret = "a".repeat(32);
        for bad in [
            "",
            "rk_",
            "rk_live_",
            "rk_live_a3f7b2c1",
            &format!("rk_prod_a3f7b2c1_{secret}"),
            &format!("rk_live_A3F7B2C1_{secret}"),
            &format!("rk_live_a3f7b2c1_{secret}a"),
            &format!("rk_live_a3f7b2c_{secret}a"),
            &format!("rk_live_a3f7b2c1_{}é", &secret[2..]),
        ] {
            assert!(PresentedKey::parse(bad).is_none(), "{bad}");
        }
    }
}
