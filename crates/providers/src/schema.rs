//! What a provider wants to be told: one description that gives validation, the catalog, the dashboard's form and the docs.

use std::net::Ipv6Addr;

use raven_core::{
    Channel, Problems,
    address::{self, Email, phone},
    message::Feature,
};
use serde_json::{Map, Value};

use crate::callback::Callbacks;

/// The members of a `publicConfig` or a `secretConfig`.
pub type Members = Map<String, Value>;

/// A provider as the catalog shows it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its id in the API (`africas_talking`).
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// Its channel.
    pub channel: Channel,
    /// Where its own documentation is.
    pub docs_url: &'static str,
    /// Its documented base URL, version path included; `None` where the tenant names the host.
    pub base_url: Option<&'static str>,
    /// What it carries beyond the text of a message.
    pub features: &'static [Feature],
    /// How it calls back; `None` if it never does.
    pub callbacks: Option<Callbacks>,
    /// Its settings.
    pub fields: &'static [Field],
    /// What must hold between settings.
    pub rules: &'static [Rule],
}

/// One setting of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in `publicConfig` or `secretConfig`.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// What to put there.
    pub help: &'static str,
    /// Of `secretConfig`?
    pub secret: bool,
    /// Must it be given?
    pub required: bool,
    /// What values it takes.
    pub kind: Kind,
}

impl Field {
    /// An optional setting that everybody in the tenant may see.
    pub(crate) const fn public(name: &'static str, label: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, label, help, secret: false, required: false, kind }
    }

    /// An optional setting that nobody sees again.
    pub(crate) const fn secret(name: &'static str, label: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { secret: true, ..Self::public(name, label, kind, help) }
    }

    /// The same, but it must be given.
    pub(crate) const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Its name as the API's caller sees it.
    #[must_use]
    pub fn path(&self) -> String {
        path(self.secret, self.name)
    }
}

/// What must hold between settings, each named as in [`Field::name`].
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// At least one of these is given.
    AnyOf(&'static [&'static str]),
    /// Both are given, or neither.
    Together(&'static str, &'static str),
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1 to this many characters, no control characters, no white space at either end.
    Text(usize),
    /// 1 to this many printable ASCII characters without spaces: what travels in a header of its own.
    Token(usize),
    /// 1 to this many ASCII letters and digits: what travels in the path of a URL.
    Word(usize),
    /// This prefix and 32 hexadecimal digits.
    Sid(&'static str),
    /// A boolean.
    Bool,
    /// 1 to 65535.
    Port,
    /// A whole number from this one to that one.
    Whole(u8, u8),
    /// An email address.
    Email,
    /// A host name or address, no scheme, no port.
    Host,
    /// One of these hosts of the provider or a host under it, with or without `https://`: tenants must not choose freely
    /// where requests go.
    HostUnder(&'static [&'static str]),
    /// A sender id of SMS ([`raven_core::address::sender_id`]).
    SenderId,
    /// The name of a cloud's region: lower-case letters, digits and hyphens. It is part of a host's name.
    Region,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// 1 to this many characters that may stand on several lines: a key in PEM, a JSON file.
    Document(usize),
    /// 1 to this many digits.
    Digits(usize),
    /// Exactly this many ASCII letters and digits.
    Alphanumeric(usize),
    /// A phone number in E.164 form.
    Phone,
    /// A version such as `v25.0`.
    Version,
    /// Where a service can complain: a `mailto:` or an `https:` URL.
    Contact,
}

impl Kind {
    /// The name in the catalog.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text(_)
            | Self::Token(_)
            | Self::Word(_)
            | Self::Sid(_)
            | Self::Host
            | Self::HostUnder(_)
            | Self::SenderId
            | Self::Region => "string",
            Self::Document(_) => "text",
            Self::Digits(_) | Self::Alphanumeric(_) | Self::Phone | Self::Version | Self::Contact => "string",
            Self::Bool => "boolean",
            Self::Port | Self::Whole(..) => "integer",
            Self::Email => "email",
            Self::OneOf(_) => "enum",
        }
    }

    /// Why a value is none of this kind, or nothing. Never repeats the value.
    fn refuse(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Self::Bool, Value::Bool(_)) => None,
            (Self::Bool, _) => Some("must be true or false".into()),
            (Self::Port, _) => (!value.as_u64().is_some_and(|n| (1..=65_535).contains(&n)))
                .then(|| "must be a port: a whole number from 1 to 65535".into()),
            (Self::Whole(least, most), _) => (!value.as_u64().is_some_and(|n| (u64::from(least)..=u64::from(most)).contains(&n)))
                .then(|| format!("must be a whole number from {least} to {most}")),
            (kind, Value::String(text)) => kind.refuse_text(text),
            (_, _) => Some("must be a string".into()),
        }
    }

    fn refuse_text(self, text: &str) -> Option<String> {
        if text.is_empty() {
            return Some("must not be empty; leave it out instead".into());
        }
        if let Self::Document(max) = self {
            return refuse_document(text, max);
        }
        if text.chars().any(char::is_control) {
            return Some("must not contain line breaks or other control characters".into());
        }
        match self {
            Self::Text(max) | Self::Token(max) | Self::Word(max) if text.chars().count() > max => {
                Some(format!("must have at most {max} characters"))
            }
            Self::Text(_) => (text.trim() != text).then(|| "must not begin or end with white space".into()),
            Self::Token(_) => {
                (!text.bytes().all(|b| b.is_ascii_graphic())).then(|| "must be printable ASCII characters without spaces".into())
            }
            Self::Word(_) => (!text.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| "must be letters and digits only".into()),
            Self::Sid(prefix) => {
                let good = text.strip_prefix(prefix).is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
                (!good).then(|| format!("must be '{prefix}' followed by 32 hexadecimal digits"))
            }
            Self::Email => Email::parse(text).err().map(|e| e.to_string()),
            Self::Host => (!is_host(text))
                .then(|| "must be a host name or an IP address, without scheme, port or path, for example smtp.example.com".into()),
            Self::HostUnder(domains) => (!is_host_under(text.strip_prefix("https://").unwrap_or(text), domains)).then(|| {
                let (all, first) = (domains.join(" or "), domains.first().copied().unwrap_or_default());
                format!("must be {all} or a host under it, without port or path, for example https://name.{first}")
            }),
            Self::SenderId => address::sender_id(text).err().map(|e| e.to_string()),
            Self::Region => {
                let good = is_host(text) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                (!good).then(|| "must be lower-case letters, digits and hyphens, for example eu-west-1".into())
            }
            Self::OneOf(names) => (!names.contains(&text)).then(|| format!("must be one of {}", names.join(", "))),
            Self::Digits(max) => {
                let good = text.len() <= max && text.bytes().all(|b| b.is_ascii_digit());
                (!good).then(|| format!("must be 1 to {max} digits"))
            }
            Self::Alphanumeric(length) => {
                let good = text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric());
                (!good).then(|| format!("must be {length} letters and digits"))
            }
            Self::Phone => phone(text).err().map(|e| e.to_string()),
            Self::Version => (!is_version(text)).then(|| "must be a version such as v25.0".into()),
            Self::Contact => (!is_contact(text)).then(|| "must be a mailto: or an https: URL".into()),
            // Decided above.
            Self::Bool | Self::Port | Self::Whole(..) | Self::Document(_) => None,
        }
    }
}

/// How many unknown names are looked at: each is compared with every known one.
const UNKNOWN_MAX: usize = 20;

impl Spec {
    /// Checks what a tenant gave against the fields and rules, and reports everything that is wrong at once, by names such
    /// as `publicConfig.username`. An absent object is an empty one, a `null` member an absent one.
    ///
    /// # Errors
    /// The problems. None of them repeats a value.
    pub fn validate(&self, public: Option<&Value>, secret: Option<&Value>) -> Result<(Members, Members), Problems> {
        let mut problems = Problems::default();
        let public = self.members(public, Side::Public, &mut problems);
        let secret = self.members(secret, Side::Secret, &mut problems);
        for field in self.fields {
            let side = if field.secret { &secret } else { &public };
            match side.get(field.name) {
                Some(value) => {
                    if let Some(why) = field.kind.refuse(value) {
                        problems.add(field.path(), why);
                    }
                }
                None if field.required => problems.add(field.path(), "is required"),
                None => {}
            }
        }
        let given = |name: &str| public.contains_key(name) || secret.contains_key(name);
        for rule in self.rules {
            match *rule {
                Rule::AnyOf(names) if !names.iter().any(|n| given(n)) => {
                    let (first, others) = (names[0], names[1..].join(" or "));
                    problems.add(self.path_of(first), format!("is required unless {others} is given"));
                }
                Rule::Together(a, b) if given(a) != given(b) => {
                    let (missing, present) = if given(a) { (b, a) } else { (a, b) };
                    problems.add(self.path_of(missing), format!("is required when {} is given", self.path_of(present)));
                }
                Rule::AnyOf(_) | Rule::Together(..) => {}
            }
        }
        if problems.is_empty() { Ok((public, secret)) } else { Err(problems) }
    }

    /// The field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    fn path_of(&self, name: &str) -> String {
        self.field(name).map_or_else(|| name.to_owned(), Field::path)
    }

    /// The members of one side that belong there, the others noted.
    fn members(&self, given: Option<&Value>, side: Side, problems: &mut Problems) -> Members {
        let mut kept = Members::new();
        let members = match given {
            None | Some(Value::Null) => return kept,
            Some(Value::Object(members)) => members,
            Some(_) => {
                problems.add(side.name(), "must be an object");
                return kept;
            }
        };
        let mut unknown = 0;
        for (name, value) in members.iter().filter(|(_, v)| !v.is_null()) {
            match self.field(name) {
                Some(field) if field.secret == side.is_secret() => {
                    kept.insert(name.clone(), value.clone());
                }
                Some(field) if field.secret => {
                    problems.add(path(false, name), format!("is a secret: give it as {}", field.path()));
                }
                Some(field) => problems.add(path(true, name), format!("is no secret: give it as {}", field.path())),
                None => {
                    unknown += 1;
                    if unknown <= UNKNOWN_MAX {
                        problems.add(path(side.is_secret(), &short(name)), self.unknown(name, side));
                    }
                }
            }
        }
        if unknown > UNKNOWN_MAX {
            problems.add(side.name(), format!("has {unknown} unknown fields"));
        }
        kept
    }

    fn unknown(&self, name: &str, side: Side) -> String {
        // Far longer than any known name is near none of them, and must not cost time.
        let near = (name.len() <= 64)
            .then(|| {
                // `apiKey` is one letter and a case away from `api_key`: it is the same name in the other spelling.
                let plain = |s: &str| s.replace(['_', '-'], "").to_ascii_lowercase();
                let score = |f: &&Field| strsim::jaro_winkler(&plain(f.name), &plain(name));
                self.fields.iter().map(|f| (score(&f), f)).filter(|(s, _)| *s >= 0.8).max_by(|a, b| a.0.total_cmp(&b.0))
            })
            .flatten();
        match near {
            Some((_, field)) => format!("is no setting of {}; did you mean {}?", self.name, field.path()),
            None => {
                let known: Vec<_> = self.fields.iter().filter(|f| f.secret == side.is_secret()).map(|f| f.name).collect();
                format!("is no setting of {}; it has {}", self.name, known.join(", "))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Public,
    Secret,
}

impl Side {
    fn is_secret(self) -> bool {
        self == Self::Secret
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Public => "publicConfig",
            Self::Secret => "secretConfig",
        }
    }
}

fn path(secret: bool, name: &str) -> String {
    format!("{}.{name}", if secret { "secretConfig" } else { "publicConfig" })
}

fn short(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A host name (RFC 1123) or an address; IPv6 without brackets.
fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.starts_with('-') && !l.ends_with('-')
    };
    text.parse::<Ipv6Addr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

fn is_host_under(host: &str, domains: &[&str]) -> bool {
    let host_in_lower_case = host.to_ascii_lowercase();
    let within = |domain: &&str| host_in_lower_case.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    is_host(host) && domains.iter().any(within)
}

/// Why a text of several lines can't be taken.
fn refuse_document(text: &str, max: usize) -> Option<String> {
    if text.chars().count() > max {
        return Some(format!("must have at most {max} characters"));
    }
    let strange = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    text.chars().any(strange).then(|| "must not contain control characters other than line breaks".into())
}

/// `v`, a number, a dot, a digit.
fn is_version(text: &str) -> bool {
    text.strip_prefix('v').and_then(|t| t.split_once('.')).is_some_and(|(major, minor)| {
        (1..=3).contains(&major.len()) && minor.len() == 1 && [major, minor].iter().all(|n| n.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_contact(text: &str) -> bool {
    let graphic = text.len() <= 320 && text.bytes().all(|b| b.is_ascii_graphic());
    let host = |url: &str| url.split(['/', '?', '#']).next().is_some_and(is_host);
    graphic && (text.strip_prefix("mailto:").is_some_and(|m| Email::parse(m).is_ok()) || text.strip_prefix("https://").is_some_and(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Kind, value: impl Into<Value>) -> bool {
        kind.refuse(&value.into()).is_some()
    }

    #[test]
    fn kinds_take_what_they_say() {
        for good in ["smtp.example.com", "localhost", "127.0.0.1", "::1", "a-b.c"] {
            assert!(!refused(Kind::Host, good), "{good}");
        }
        for bad in ["", "http://a", "a:25", "a/b", "a b", "-a", "a..b", ".a", "[::1]", "a@b", "a\r\nb", "bücher.example"] {
            assert!(refused(Kind::Host, bad), "{bad}");
        }
        assert!(!refused(Kind::Port, 1) && !refused(Kind::Port, 65_535));
        for bad in [Value::from(0), Value::from(65_536), Value::from(-1), Value::from(25.5), Value::from("25"), Value::Null] {
            assert!(refused(Kind::Port, bad.clone()), "{bad}");
        }
        assert!(!refused(Kind::Sid("AC"), format!("AC{}", "0aF1".repeat(8))));
        for bad in [format!("AC{}", "0".repeat(31)), format!("SK{}", "0".repeat(32)), format!("AC{}", "g".repeat(32))] {
            assert!(refused(Kind::Sid("AC"), bad));
        }
        assert!(refused(Kind::Text(3), "abcd") && refused(Kind::Text(3), " ab") && !refused(Kind::Text(3), "äöü"));
        assert!(refused(Kind::Token(9), "a b") && refused(Kind::Token(9), "ä") && !refused(Kind::Token(9), "a+/=b"));
        assert!(
            refused(Kind::Word(9), "a/b")
                && refused(Kind::Word(9), "..")
                && refused(Kind::Word(2), "abc")
                && !refused(Kind::Word(9), "Ab1")
        );
        assert!(refused(Kind::Bool, "true") && !refused(Kind::Bool, false));
        assert!(refused(Kind::OneOf(&["a", "b"]), "c") && !refused(Kind::OneOf(&["a", "b"]), "b"));
        assert!(!refused(Kind::Region, "eu-west-1") && !refused(Kind::Region, "us-gov-east-1"));
        for bad in ["eu-west-1.evil.example", "EU", "a/b", "a@b", "a:1", "-a", "::1", "a#", "ä"] {
            assert!(refused(Kind::Region, bad), "{bad}");
        }
        assert!(refused(Kind::Digits(3), "1234") && refused(Kind::Digits(3), "1a") && !refused(Kind::Digits(3), "042"));
        assert!(refused(Kind::Alphanumeric(3), "abcd") && refused(Kind::Alphanumeric(3), "a/b") && !refused(Kind::Alphanumeric(3), "aB3"));
        assert!(refused(Kind::Phone, "ACME") && refused(Kind::Phone, "0722000000") && !refused(Kind::Phone, "+254722000000"));
        for bad in ["25.0", "v25", "v.0", "v25.", "v25.0/..", "v2x.0", "v1234.0"] {
            assert!(refused(Kind::Version, bad), "{bad}");
        }
        assert!(!refused(Kind::Version, "v25.0"));
        for bad in ["ops@example.com", "mailto:", "mailto:ops", "http://example.com", "https://", "https://a b", "https://ex\"ample"] {
            assert!(refused(Kind::Contact, bad), "{bad}");
        }
        assert!(!refused(Kind::Contact, "mailto:ops@example.com") && !refused(Kind::Contact, "https://example.com/contact"));
        assert!(!refused(Kind::Document(9), "a\r\n\tb\n") && refused(Kind::Document(9), "a\u{0}b") && refused(Kind::Document(1), "ab"));
        assert!(refused(Kind::SenderId, "MUCH TOO LONG NAME") && !refused(Kind::SenderId, "ACME"));
    }

    #[test]
    fn a_tenants_host_stays_under_the_providers_domain() {
        let kind = Kind::HostUnder(&["api.provider.example", "provider.test"]);
        for good in ["api.provider.example", "xyz.api.provider.example", "https://a.b.api.provider.example", "X.Provider.TEST"] {
            assert!(!refused(kind, good), "{good}");
        }
        let elsewhere =
            ["127.0.0.1", "169.254.169.254", "::1", "localhost", "evil.example", "provider.example", "evilapi.provider.example"];
        for bad in elsewhere {
            assert!(refused(kind, bad), "{bad}");
        }
        let base = "api.provider.example";
        for bad in [
            format!("http://{base}"),
            format!("https://https://{base}"),
            format!("{base}.evil.example"),
            format!("evil.example/{base}"),
            format!("evil.example#.{base}"),
            format!("evil.example?x.{base}"),
            format!("user@{base}"),
            format!("evil.example\\.{base}"),
            format!("{base}:8080"),
            format!("{base}/"),
            format!("{base}."),
            format!(".{base}"),
            "https://".to_owned(),
        ] {
            assert!(refused(kind, bad.clone()), "{bad}");
        }
    }
}
