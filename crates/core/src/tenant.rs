//! Tenants: their states and how a slug is made and checked.

use crate::message::named;
use std::fmt;

named! {
    /// What a tenant may do at all.
    TenantStatus {
        /// Everything.
        Active = 1 "active",
        /// Humans read; keys do nothing.
        Suspended = 2 "suspended",
        /// Soft-deleted.
        Archived = 3 "archived",
    }
}

named! {
    /// Who suspended a tenant: an owner's suspension is the owner's to lift, an operator's the operator's.
    SuspendedBy {
        /// An owner of it.
        Owner = 1 "owner",
        /// An operator of the installation.
        Operator = 2 "operator",
    }
}

/// For how long an archived tenant can be restored. Then it is deleted with all that it has.
pub const RESTORABLE: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

named! {
    /// What became of an invitation.
    InvitationStatus {
        /// It waits for an answer.
        Pending = 1 "pending",
        /// The invited human joined.
        Accepted = 2 "accepted",
        /// The invited human said no.
        Declined = 3 "declined",
        /// An admin took it back.
        Revoked = 4 "revoked",
        /// Nobody answered in time.
        Expired = 5 "expired",
    }
}

/// Characters that a slug may have at most.
pub const SLUG_MAX: usize = 63;

/// Is this a slug: 2 to 63 lower-case letters, digits and inner single hyphens?
#[must_use]
pub fn is_slug(text: &str) -> bool {
    (2..=SLUG_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// A slug made from a name: lower case, every run of other characters one hyphen; `tenant` when nothing is left of it.
/// `attempt` 0 is the plain form, each further one appends `-2`, `-3`, … for when it is taken.
#[must_use]
pub fn slug_of(name: &str, attempt: u32) -> String {
    let mut slug = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(SLUG_MAX - 11);
    let base = match slug.trim_matches('-') {
        short if short.len() < 2 => "tenant",
        good => good,
    };
    if attempt == 0 { base.to_owned() } else { format!("{base}-{}", attempt + 1) }
}

/// Is this in the form of an ISO 3166-1 alpha-2 code: two capital letters?
#[must_use]
pub fn is_country_code(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

/// Is this a BCP 47 tag in the shape that is in use: a language of 2 or 3 letters, then parts of 2 to 8 letters and digits?
#[must_use]
pub fn is_locale(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let language = parts.next().unwrap_or_default();
    (2..=3).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|p| (2..=8).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric()))
        && tag.len() <= 35
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_and_countries_have_their_forms() {
        assert!(["en", "en-KE", "sw", "zh-Hant-TW", "fil"].iter().all(|l| is_locale(l)));
        assert!(["", "e", "english", "en_KE", "en-", "en-K", "e1", "en-ABCDEFGHI"].iter().all(|l| !is_locale(l)));
        assert!(is_country_code("KE") && !["ke", "KEN", "K", "", "K1"].iter().any(|c| is_country_code(c)));
    }

    #[test]
    fn slugs_come_from_names() {
        assert_eq!(slug_of("Acme & Co.", 0), "acme-co");
        assert_eq!(slug_of("Acme & Co.", 1), "acme-co-2");
        assert_eq!(slug_of("🎉🎉", 0), "tenant");
        for name in ["Acme", "Ünïcode Nàmes", "--", "a", &"x y".repeat(400)] {
            for attempt in [0, 1, u32::MAX - 1] {
                assert!(is_slug(&slug_of(name, attempt)), "{name} {attempt}");
            }
        }
        for bad in ["", "a", "A1", "-a", "a-", "a--b", "ä-b", &"a".repeat(64)] {
            assert!(!is_slug(bad), "{bad}");
        }
    }
}
