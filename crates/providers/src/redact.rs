//! Takes a tenant's secrets out of text that a provider sent: some echo the whole request in an error.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::schema::Members;

const MARK: &str = "[redacted]";

/// Knows the spellings of a config's secrets.
pub(crate) struct Redactor(Vec<Zeroizing<String>>);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// For the strings of a secret map.
    pub(crate) fn of(secret: &Members) -> Self {
        let whole = || secret.values().filter_map(Value::as_str);
        Self::for_secrets(whole().chain(whole().flat_map(lines)))
    }

    /// For these secrets: plain, as a form field, and inside base64 text (an echoed `Authorization: Basic …`).
    pub(crate) fn for_secrets<'s>(secrets: impl Iterator<Item = &'s str>) -> Self {
        let mut spellings = Vec::new();
        for secret in secrets.filter(|s| !s.is_empty()) {
            spellings.push(Zeroizing::new(secret.to_owned()));
            spellings.push(Zeroizing::new(form_urlencoded::byte_serialize(secret.as_bytes()).collect()));
            // Base64 works on groups of three bytes, so a secret inside a longer text has three spellings; the characters
            // at either end depend on its neighbours and are left out.
            for offset in 0..3 {
                let padded = Zeroizing::new([&[0; 2][..offset.min(2)], secret.as_bytes()].concat());
                let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(&*padded));
                let first = (offset * 8).div_ceil(6);
                let last = padded.len() * 8 / 6;
                if let Some(inner) = encoded.get(first..last).filter(|inner| inner.len() >= 6) {
                    spellings.push(Zeroizing::new(inner.to_owned()));
                }
            }
        }
        // Longest first: a short secret may be part of a longer one.
        spellings.sort_by_key(|s| std::cmp::Reverse(s.len()));
        spellings.dedup();
        Self(spellings)
    }

    /// The text without them.
    pub(crate) fn clean(&self, text: String) -> String {
        let text = self.without_cut_tail(text);
        if !self.0.iter().any(|s| text.contains(s.as_str())) {
            return text;
        }
        // In one pass over the original text, so that a short secret is not looked for in the mark.
        let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while let Some(next) = rest.chars().next() {
            match self.0.iter().find(|s| rest.starts_with(s.as_str())) {
                Some(secret) => {
                    out.push_str(MARK);
                    rest = &rest[secret.len()..];
                }
                None => {
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        out
    }

    /// Text is cut to a length before it comes here: what its end shows of a secret goes as well.
    fn without_cut_tail(&self, mut text: String) -> String {
        const TELLING: usize = 4;
        let begins_secret = |tail: &str| self.0.iter().any(|s| s.len() > tail.len() && s.starts_with(tail));
        let longest = self.0.first().map_or(0, |s| s.len());
        let from = text.len().saturating_sub(longest);
        let cut = text.char_indices().map(|(at, _)| at).find(|at| *at >= from && text.len() - at >= TELLING && begins_secret(&text[*at..]));
        if let Some(at) = cut {
            text.truncate(at);
            text.push_str(MARK);
        }
        text
    }
}

/// The lines of a key in PEM, also where it stands inside JSON: an echo may have lost its line breaks. The text around the key
/// is no secret.
fn lines(secret: &str) -> impl Iterator<Item = &str> {
    const SHORTEST: usize = 16;
    let base64 = |line: &str| line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    secret.split('\n').flat_map(|line| line.split("\\n")).map(str::trim).filter(move |line| line.len() >= SHORTEST && base64(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn a_secret_is_found_in_every_spelling() {
        let secret = "s3cr3t/with+odd chars&";
        let redactor = Redactor::for_secrets([secret].into_iter());
        for user in ["", "a", "ab", "abc", "AC0123"] {
            let basic = STANDARD.encode(format!("{user}:{secret}"));
            let cleaned = redactor.clean(format!("Authorization: Basic {basic}!"));
            assert!(cleaned.contains(MARK), "{user}: {cleaned}");
            let kept = cleaned.trim_start_matches("Authorization: Basic ").trim_end_matches('!').split(MARK).map(str::len).sum::<usize>();
            assert!(kept <= basic.len() - secret.len(), "{cleaned} keeps too much");
        }
        assert_eq!(redactor.clean(format!("key={secret}.")), format!("key={MARK}."));
        assert_eq!(redactor.clean("key=s3cr3t%2Fwith%2Bodd+chars%26".into()), format!("key={MARK}"));
    }

    #[test]
    fn a_short_secret_inside_a_longer_one_leaves_nothing() {
        let redactor = Redactor::for_secrets(["abc", "abcdef"].into_iter());
        assert_eq!(redactor.clean("xabcdefy abc".into()), "x[redacted]y [redacted]");
        assert_eq!(Redactor::for_secrets(["e"].into_iter()).clean("seed".into()), "s[redacted][redacted]d");
    }

    #[test]
    fn a_secret_cut_in_half_is_still_taken_out() {
        let redactor = Redactor::for_secrets(["correct-horse"].into_iter());
        assert_eq!(redactor.clean("the key is correct-h".into()), "the key is [redacted]");
        assert_eq!(redactor.clean("the key is correct-horse".into()), "the key is [redacted]");
        assert_eq!(redactor.clean("that is cor".into()), "that is cor");
    }

    #[test]
    fn a_key_is_found_by_its_lines() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n";
        let json = serde_json::json!({"project_id": "acme-notifications", "private_key": pem}).to_string();
        for secret in [pem.to_owned(), json] {
            let members = [("key".to_owned(), Value::from(secret))].into_iter().collect();
            let cleaned = Redactor::of(&members).clean(format!("acme-notifications: {}", pem.replace('\n', " ")));
            assert!(!cleaned.contains("MIGH") && !cleaned.contains("AgEG") && cleaned.starts_with("acme-notifications: "), "{cleaned}");
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        assert_eq!(Redactor::for_secrets([""].into_iter()).clean("nothing".into()), "nothing");
        assert_eq!(format!("{:?}", Redactor::for_secrets(["hidden"].into_iter())), "Redactor");
    }
}
