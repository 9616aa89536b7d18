//! Recipients and senders: E.164 phone numbers, email addresses, mailboxes, alphanumeric sender ids.

use std::{borrow::Cow, fmt, net::IpAddr};

/// Why a text is no address. Its `Display` tells the caller what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not E.164.
    #[error("must be a phone number in E.164 form: '+', the country code and the number, 7 to 15 digits in all, for example +254722000000")]
    Phone,
    /// Not an email address.
    #[error("must be an email address, for example ada@example.com")]
    Email,
    /// Not a mailbox.
    #[error("must be an email address, optionally with a display name, for example Acme <hello@example.com>")]
    Mailbox,
    /// Not a sender id.
    #[error(
        "must be a sender id: a phone number in E.164 form, a short code of 3 to 8 digits, or 1 to 11 letters, digits, spaces, '-', '_', '.' or '&' with at least one letter"
    )]
    SenderId,
}

/// Checks an ITU-T E.164 number: `+`, no leading zero, 7 to 15 digits.
///
/// # Errors
/// [`AddressError::Phone`] for any other text.
pub fn phone(text: &str) -> Result<&str, AddressError> {
    let digits = text.strip_prefix('+').ok_or(AddressError::Phone)?.as_bytes();
    let good = (7..=15).contains(&digits.len()) && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    if good { Ok(text) } else { Err(AddressError::Phone) }
}

/// Checks an SMS sender: a phone number, a short code, or an alphanumeric id of GSM's 11 characters at most.
///
/// # Errors
/// [`AddressError::SenderId`] for any other text.
pub fn sender_id(text: &str) -> Result<&str, AddressError> {
    let alphanumeric = (1..=11).contains(&text.len())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_.&".contains(&b))
        && !text.starts_with(' ')
        && !text.ends_with(' ');
    let short_code = (3..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if alphanumeric || short_code || phone(text).is_ok() { Ok(text) } else { Err(AddressError::SenderId) }
}

/// An email address (RFC 5321 `Mailbox`), its domain in lower-case ASCII (IDNA), its local part as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email<'a> {
    local: &'a str,
    domain: Cow<'a, str>,
}

impl<'a> Email<'a> {
    /// Reads `local@domain`. Quoted local parts and address literals (`[127.0.0.1]`) are refused: no provider takes them.
    ///
    /// # Errors
    /// [`AddressError::Email`] for any other text.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Email)?;
        let atom = |b: char| {
            b.is_ascii_alphanumeric() || "!#$%&'*+/=?^_`{|}~-".contains(b) || (!b.is_ascii() && !b.is_control() && !b.is_whitespace())
        };
        let local_good = (1..=64).contains(&local.len()) && local.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
        let plain = !domain.is_empty()
            && domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
            && !domain.contains("xn--");
        let domain =
            if plain { Cow::Borrowed(domain) } else { Cow::Owned(idna::domain_to_ascii_strict(domain).map_err(|_| AddressError::Email)?) };
        let label = |l: &str| (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-');
        let domain_good = domain.len() <= 253
            && domain.contains('.')
            && domain.split('.').all(label)
            && domain.parse::<IpAddr>().is_err()
            && !domain.rsplit('.').next().is_some_and(|tld| tld.bytes().all(|b| b.is_ascii_digit()));
        if local_good && domain_good && text.len() <= 320 { Ok(Self { local, domain }) } else { Err(AddressError::Email) }
    }

    /// The part before the `@`, as given.
    #[must_use]
    pub fn local(&self) -> &str {
        self.local
    }

    /// The form in which addresses are compared: all in lower case. (In theory the local part's case matters; nobody's does.)
    #[must_use]
    pub fn comparable(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain)
    }

    /// The domain: ASCII, lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

impl fmt::Display for Email<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// A sender of email (RFC 5322 `mailbox`): an address, and perhaps the name shown with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// The name shown, unquoted.
    pub name: Option<String>,
    /// The address.
    pub email: Email<'a>,
}

impl<'a> Mailbox<'a> {
    /// Reads `ada@example.com`, `Ada <ada@example.com>` or `"Ada, of Acme" <ada@example.com>`.
    ///
    /// # Errors
    /// [`AddressError::Mailbox`] for any other text, control characters (line breaks among them) included.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        if text.chars().any(char::is_control) {
            return Err(AddressError::Mailbox);
        }
        let text = text.trim();
        let Some(inner) = text.strip_suffix('>') else {
            return Email::parse(text).map(|email| Self { name: None, email }).map_err(|_| AddressError::Mailbox);
        };
        let (name, address) = inner.rsplit_once('<').ok_or(AddressError::Mailbox)?;
        let email = Email::parse(address.trim()).map_err(|_| AddressError::Mailbox)?;
        Ok(Self { name: display_name(name.trim())?, email })
    }
}

fn display_name(raw: &str) -> Result<Option<String>, AddressError> {
    if raw.is_empty() {
        return Ok(None);
    }
    let Some(quoted) = raw.strip_prefix('"') else {
        // RFC 5322 atoms, and any character beyond ASCII; a dot is common enough to be taken too.
        let bad = |c: char| "()<>[]:;@\\,\"".contains(c);
        return if raw.contains(bad) { Err(AddressError::Mailbox) } else { Ok(Some(raw.to_owned())) };
    };
    let (mut name, mut escaped, mut closed) = (String::with_capacity(quoted.len()), false, false);
    for c in quoted.chars() {
        match (closed, escaped, c) {
            (true, ..) => return Err(AddressError::Mailbox),
            (_, true, _) => {
                name.push(c);
                escaped = false;
            }
            (_, _, '\\') => escaped = true,
            (_, _, '"') => closed = true,
            _ => name.push(c),
        }
    }
    if closed { Ok(Some(name).filter(|n| !n.is_empty())) } else { Err(AddressError::Mailbox) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_are_e164() {
        for good in ["+254722000000", "+15005550006", "+2901234", "+123456789012345"] {
            assert_eq!(phone(good), Ok(good));
        }
        for bad in [
            "",
            "+",
            "254722000000",
            "+0254722000",
            "+123456",
            "+1234567890123456",
            "+2547 22000000",
            "+25472200000a",
            " +254722000000",
            "+٢٥٤٧٢٢٠٠٠٠٠",
        ] {
            assert_eq!(phone(bad), Err(AddressError::Phone), "{bad}");
        }
    }

    #[test]
    fn sender_ids_are_numbers_codes_or_names() {
        for good in ["ACME", "Acme Co", "22384", "+254722000000", "A1", "Big-Shop_1"] {
            assert_eq!(sender_id(good), Ok(good));
        }
        for bad in ["", "12", "TwelveLetter", "Acmé", "A\r\nB", " ACME", "123456789"] {
            assert_eq!(sender_id(bad), Err(AddressError::SenderId), "{bad}");
        }
    }

    #[test]
    fn email_domains_are_normalised_and_local_parts_kept() {
        let shown = |s: &str| Email::parse(s).map(|e| e.to_string());
        assert_eq!(shown("Ada.Lovelace+x@Example.COM"), Ok("Ada.Lovelace+x@example.com".to_owned()));
        assert_eq!(shown("ada@bücher.example"), Ok("ada@xn--bcher-kva.example".to_owned()));
        assert_eq!(shown("jürgen@example.com"), Ok("jürgen@example.com".to_owned()));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "a@b@example.com",
            "ada@exa mple.com",
            "ada@-x.com",
            "ada@x..com",
            ".ada@example.com",
            "ada.@example.com",
            "ada@[127.0.0.1]",
            "ada@127.0.0.1",
            "\"a b\"@example.com",
            "ada@example.com\r\nBcc: x@y.zz",
            "ada@example.123",
            "a\u{0}b@example.com",
        ] {
            assert_eq!(shown(bad), Err(AddressError::Email), "{bad:?}");
        }
        assert!(Email::parse(&format!("{}@example.com", "a".repeat(65))).is_err());
    }

    #[test]
    fn mailboxes_carry_a_name() {
        let name = |s: &str| Mailbox::parse(s).map(|m| (m.name.unwrap_or_default(), m.email.to_string()));
        let is = |n: &str, e: &str| Ok((n.to_owned(), e.to_owned()));
        assert_eq!(name("ada@example.com"), is("", "ada@example.com"));
        assert_eq!(name("<ada@example.com>"), is("", "ada@example.com"));
        assert_eq!(name("Ada Lovelace <ada@example.com>"), is("Ada Lovelace", "ada@example.com"));
        assert_eq!(name("\"Lovelace, \\\"Ada\\\"\" <ada@example.com>"), is("Lovelace, \"Ada\"", "ada@example.com"));
        assert_eq!(name("Äda <ada@example.com>"), is("Äda", "ada@example.com"));
        for bad in [
            "Ada ada@example.com",
            "Ada, Bob <ada@example.com>",
            "\"Ada <ada@example.com>",
            "\"A\" b <ada@example.com>",
            "Ada <ada@example.com> x",
            "Ada\r\nBcc: x@y.zz <ada@example.com>",
            "<>",
        ] {
            assert_eq!(name(bad), Err(AddressError::Mailbox), "{bad:?}");
        }
    }
}
