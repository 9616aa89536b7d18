//! How texts are octets: by `data_coding` (SMPP 3.4, 5.2.19), whose 0 is what the message centre takes it for.

use raven_core::sms::{Encoding, from_gsm7, segments, to_gsm7};
use serde::Deserialize;

/// What a message centre takes data_coding 0 for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Default0 {
    #[default]
    Gsm7,
    Latin1,
}

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    Gsm7,
    Latin1,
    Ucs2,
}

impl Charset {
    /// The one that a text is sent in.
    pub(super) fn for_text(text: &str, default: Default0) -> Self {
        // It travels over the air as GSM, which the message centre makes of it, so it must be that too.
        match default {
            _ if segments(text).encoding != Encoding::Gsm7 => Self::Ucs2,
            Default0::Gsm7 => Self::Gsm7,
            Default0::Latin1 if text.chars().all(|c| u8::try_from(u32::from(c)).is_ok()) => Self::Latin1,
            Default0::Latin1 => Self::Ucs2,
        }
    }

    /// The one that a message came in; `None` for one that is no text, or that nobody agreed upon.
    pub(super) fn of_message(data_coding: u8, octets: &[u8], default: Default0) -> Option<Self> {
        match data_coding {
            // It says ASCII, and some mean GSM by it: what is no text in the one is letters in the other.
            0x01 if octets.iter().any(|octet| *octet < b' ' && !b"\t\n\r".contains(octet)) => Some(Self::Gsm7),
            // Without and with a class of message (3GPP TS 23.038, 4).
            0x00 | 0x10..=0x13 | 0xf0..=0xf3 => Some(match default {
                Default0::Gsm7 => Self::Gsm7,
                Default0::Latin1 => Self::Latin1,
            }),
            // ASCII is the first half of it.
            0x01 | 0x03 => Some(Self::Latin1),
            0x08 | 0x18..=0x1b => Some(Self::Ucs2),
            _ => None,
        }
    }

    /// What is sent with it.
    pub(super) const fn data_coding(self) -> u8 {
        match self {
            Self::Gsm7 | Self::Latin1 => 0,
            Self::Ucs2 => 8,
        }
    }

    /// What decides where a text is cut.
    pub(super) const fn encoding(self) -> Encoding {
        match self {
            Self::Gsm7 | Self::Latin1 => Encoding::Gsm7,
            Self::Ucs2 => Encoding::Ucs2,
        }
    }

    /// The octets of a text that was found to be in it.
    pub(super) fn octets(self, text: &str) -> Vec<u8> {
        match self {
            Self::Gsm7 => to_gsm7(text).unwrap_or_default(),
            Self::Latin1 => text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect(),
            Self::Ucs2 => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    /// The text of octets, whatever they are.
    pub(super) fn text(self, octets: &[u8]) -> String {
        match self {
            Self::Gsm7 => from_gsm7(octets),
            Self::Latin1 => octets.iter().map(|octet| char::from(*octet)).collect(),
            Self::Ucs2 => {
                let units: Vec<u16> = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
                String::from_utf16_lossy(&units)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_sent_in_what_both_sides_understand() {
        use {Charset::*, Default0 as D};
        for (text, default, expected) in [
            ("Hi {you}", D::Gsm7, Gsm7),
            ("Grüße, 5 €", D::Gsm7, Gsm7),
            ("日本", D::Gsm7, Ucs2),
            ("Grüße {you}", D::Latin1, Latin1),
            // No Latin-1.
            ("5 €", D::Latin1, Ucs2),
            ("Ω", D::Latin1, Ucs2),
            // No GSM.
            ("garçon", D::Latin1, Ucs2),
        ] {
            let found = Charset::for_text(text, default);
            assert_eq!(found, expected, "{text}");
            assert_eq!(found.text(&found.octets(text)), text);
            assert_eq!(Charset::of_message(found.data_coding(), &[], default), Some(found), "{text}");
        }
    }
}
