//! Which recipients a provider config takes.

use crate::{address::Email, country, message::Channel};

/// Which recipients a provider config takes, stored as one JSON text. Nothing named: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Reach {
    /// Beginnings of phone numbers (`+254`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Countries of phone numbers: ISO 3166-1 alpha-2, upper case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    /// Domains of email addresses: ASCII, lower case. A domain stands for itself, not for those under it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
}

impl Reach {
    /// Does it name nothing, and so take all?
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.prefixes.is_empty() && self.countries.is_empty() && self.domains.is_empty()
    }

    /// Is this one of the recipients that it names?
    #[must_use]
    pub fn names(&self, channel: Channel, recipient: &str) -> bool {
        match channel {
            Channel::Sms | Channel::Whatsapp => {
                self.prefixes.iter().any(|prefix| recipient.starts_with(prefix.as_str()))
                    || (!self.countries.is_empty()
                        && country::of_phone(recipient).is_some_and(|country| self.countries.iter().any(|c| c == country)))
            }
            Channel::Email => {
                !self.domains.is_empty() && Email::parse(recipient).is_ok_and(|email| self.domains.iter().any(|d| d == email.domain()))
            }
            Channel::Push => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(prefixes: &[&str], countries: &[&str], domains: &[&str]) -> Reach {
        let owned = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Reach { prefixes: owned(prefixes), countries: owned(countries), domains: owned(domains) }
    }

    #[test]
    fn a_recipient_is_named_by_its_beginning_its_country_or_its_domain() {
        let kenya = reach(&["+25672"], &["KE"], &[]);
        for (recipient, named) in [("+254722000000", true), ("+256720000000", true), ("+256770000000", false), ("+15550000000", false)] {
            assert_eq!(kenya.names(Channel::Sms, recipient), named, "{recipient}");
            assert_eq!(kenya.names(Channel::Whatsapp, recipient), named, "{recipient}");
        }
        let example = reach(&[], &[], &["example.com"]);
        for (recipient, named) in [("ada@example.com", true), ("ada@mail.example.com", false), ("ada@example.org", false), ("ada", false)] {
            assert_eq!(example.names(Channel::Email, recipient), named, "{recipient}");
        }
        assert!(!example.names(Channel::Push, "example.com") && Reach::default().is_everyone() && !example.is_everyone());
    }

    #[test]
    fn it_reads_back_and_what_is_not_there_is_nothing() {
        let all = reach(&["+254"], &["KE", "UG"], &["example.com"]);
        assert_eq!(serde_json::from_str::<Reach>(&serde_json::to_string(&all).unwrap()).unwrap(), all);
        assert_eq!(serde_json::from_str::<Reach>("{}").unwrap(), Reach::default());
    }
}
