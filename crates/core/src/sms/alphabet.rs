//! The GSM 7-bit default alphabet (3GPP TS 23.038, 6.2.1) as octets: one septet in each, not packed.

use std::char::REPLACEMENT_CHARACTER;

/// What the code points stand for. `\u{1b}` begins the extension table.
const BASIC: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì', 'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å', //
    'Δ', '_', 'Φ', 'Γ', 'Λ', 'Ω', 'Π', 'Ψ', 'Σ', 'Θ', 'Ξ', '\u{1b}', 'Æ', 'æ', 'ß', 'É', //
    ' ', '!', '"', '#', '¤', '%', '&', '\'', '(', ')', '*', '+', ',', '-', '.', '/', //
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ':', ';', '<', '=', '>', '?', //
    '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', //
    'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§', //
    '¿', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', //
    'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', 'ä', 'ö', 'ñ', 'ü', 'à',
];
/// What the code points after an escape stand for.
const EXTENSION: [(u8, char); 10] =
    [(0x0a, '\u{c}'), (0x14, '^'), (0x28, '{'), (0x29, '}'), (0x2f, '\\'), (0x3c, '['), (0x3d, '~'), (0x3e, ']'), (0x40, '|'), (0x65, '€')];
const ESCAPE: u8 = 0x1b;

/// The septets of a text, one in each octet; `None` if a character is not in the alphabet.
#[must_use]
pub fn to_gsm7(text: &str) -> Option<Vec<u8>> {
    let mut septets = Vec::with_capacity(text.len());
    for c in text.chars() {
        if let Some((code, _)) = EXTENSION.iter().find(|(_, extended)| *extended == c) {
            septets.extend([ESCAPE, *code]);
        } else {
            let code = BASIC.iter().position(|basic| *basic == c && c != char::from(ESCAPE))?;
            septets.push(u8::try_from(code).ok()?);
        }
    }
    Some(septets)
}

/// The text of septets, one in each octet. An escape that nothing known follows shows as its basic character (as phones do), an
/// octet that is none as U+FFFD.
#[must_use]
pub fn from_gsm7(septets: &[u8]) -> String {
    let mut text = String::with_capacity(septets.len());
    let mut escaped = false;
    for septet in septets {
        if *septet == ESCAPE {
            escaped = true;
            continue;
        }
        let extended = EXTENSION.iter().find(|(code, _)| escaped && code == septet).map(|(_, c)| *c);
        text.push(extended.or_else(|| BASIC.get(usize::from(*septet)).copied()).unwrap_or(REPLACEMENT_CHARACTER));
        escaped = false;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sms::{Encoding, segments};

    #[test]
    fn all_that_counts_as_gsm_has_its_septets_and_comes_back() {
        let mut known = 0;
        for c in (0..=0xffff_u32).filter_map(char::from_u32) {
            let text = c.to_string();
            let septets = to_gsm7(&text);
            assert_eq!(septets.is_some(), segments(&text).encoding == Encoding::Gsm7, "{c:?}");
            if let Some(septets) = septets {
                known += 1;
                assert_eq!(from_gsm7(&septets), text);
            }
        }
        assert_eq!(known, 127 + 10, "the alphabet without its escape, and the extension");
        // A part of 160 septets is as long as it was counted.
        assert_eq!(to_gsm7(&"€".repeat(80)).map(|s| s.len()), Some(160));
    }

    #[test]
    fn odd_septets_are_read_as_phones_do() {
        assert_eq!(from_gsm7(&[0x1b, 0x65, 0x1b, 0x41, 0x1b]), "€A");
        assert_eq!(from_gsm7(&[0x00, 0x80, 0xff]), "@\u{fffd}\u{fffd}");
    }
}
