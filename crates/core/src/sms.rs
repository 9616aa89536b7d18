//! SMS encoding and segments, by 3GPP TS 23.038 (alphabet) and TS 23.040 (concatenation with an 8-bit reference).

mod alphabet;

use crate::message::named;
use std::fmt;

pub use alphabet::{from_gsm7, to_gsm7};

named! {
    /// How the text of an SMS is encoded.
    Encoding {
        /// The GSM 7-bit default alphabet with its extension table: 160 septets alone, 153 a part.
        Gsm7 = 1 "gsm7",
        /// UTF-16: 70 code units alone, 67 a part.
        Ucs2 = 2 "ucs2",
    }
}

impl Encoding {
    const fn room(self) -> (usize, usize) {
        match self {
            Self::Gsm7 => (160, 153),
            Self::Ucs2 => (70, 67),
        }
    }
}

impl Encoding {
    fn units(self, c: char) -> usize {
        match self {
            Self::Gsm7 => septets(c).unwrap_or(1),
            Self::Ucs2 => c.len_utf16(),
        }
    }

    fn fits_alone(self, text: &str) -> bool {
        text.chars().map(|c| self.units(c)).sum::<usize>() <= self.room().0
    }
}

/// The encoding that a text needs and the number of parts it travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// One character outside the GSM alphabet puts the whole text in UCS-2.
    pub encoding: Encoding,
    /// Parts; at least one.
    pub count: u16,
}

/// Works out encoding and parts. An escape pair or a surrogate pair is never split, so a part may stay one unit short.
#[must_use]
pub fn segments(text: &str) -> Segments {
    let encoding = if text.chars().all(|c| septets(c).is_some()) { Encoding::Gsm7 } else { Encoding::Ucs2 };
    let mut count = 1;
    if !encoding.fits_alone(text) {
        cuts(text, encoding.room().1, |c| encoding.units(c), |_| count += 1);
    }
    Segments { encoding, count }
}

/// The texts of the parts.
#[must_use]
pub fn parts(text: &str) -> Vec<&str> {
    parts_in(text, segments(text).encoding)
}

/// The texts of the parts in an encoding, which can be wider than the one that the text needs.
#[must_use]
pub fn parts_in(text: &str, encoding: Encoding) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    if !encoding.fits_alone(text) {
        cuts(
            text,
            encoding.room().1,
            |c| encoding.units(c),
            |at| {
                parts.push(&text[from..at]);
                from = at;
            },
        );
    }
    parts.push(&text[from..]);
    parts
}

/// Tells where a text is cut into parts with this room.
fn cuts(text: &str, room: usize, units: impl Fn(char) -> usize, mut cut: impl FnMut(usize)) {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        let n = units(c);
        if used + n > room {
            cut(at);
            used = 0;
        }
        used += n;
    }
}

/// Septets that a character costs in the GSM alphabet: 1, or 2 with an escape; `None` if it is not in it.
fn septets(c: char) -> Option<usize> {
    match c {
        'A'..='Z' | 'a'..='z' | '0'..='9' | ' ' | '\n' | '\r' => Some(1),
        '!' | '"' | '#' | '%' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | '-' | '.' | '/' | ':' | ';' | '<' | '=' | '>' | '?' | '@'
        | '$' | '_' => Some(1),
        '£' | '¥' | 'è' | 'é' | 'ù' | 'ì' | 'ò' | 'Ç' | 'Ø' | 'ø' | 'Å' | 'å' | 'Δ' | 'Φ' | 'Γ' | 'Λ' | 'Ω' | 'Π' | 'Ψ' | 'Σ' | 'Θ'
        | 'Ξ' => Some(1),
        'Æ' | 'æ' | 'ß' | 'É' | '¤' | '¡' | 'Ä' | 'Ö' | 'Ñ' | 'Ü' | '§' | '¿' | 'ä' | 'ö' | 'ñ' | 'ü' | 'à' => Some(1),
        '\u{c}' | '^' | '{' | '}' | '\\' | '[' | '~' | ']' | '|' | '€' => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Encoding, u16) {
        let s = segments(text);
        (s.encoding, s.count)
    }

    #[test]
    fn gsm_limits() {
        use Encoding::Gsm7;
        assert_eq!(of(""), (Gsm7, 1));
        assert_eq!(of(&"a".repeat(160)), (Gsm7, 1));
        assert_eq!(of(&"a".repeat(161)), (Gsm7, 2));
        assert_eq!(of(&"a".repeat(306)), (Gsm7, 2));
        assert_eq!(of(&"a".repeat(307)), (Gsm7, 3));
        assert_eq!(of(&"€".repeat(80)), (Gsm7, 1));
        assert_eq!(of(&"€".repeat(81)), (Gsm7, 2));
        assert_eq!(of(&"é".repeat(160)), (Gsm7, 1));
    }

    #[test]
    fn an_escape_pair_is_not_split() {
        // 152 + a pair does not fit a part of 153; without the rule 152 + 2 * 77 = 306 would be two parts.
        assert_eq!(of(&format!("{}{}", "a".repeat(152), "{".repeat(77))), (Encoding::Gsm7, 3));
        assert_eq!(of(&format!("{}{}", "a".repeat(153), "{".repeat(76))), (Encoding::Gsm7, 2));
    }

    #[test]
    fn parts_make_the_text_again_and_are_as_many_as_counted() {
        for text in [
            String::new(),
            "a".repeat(160),
            "a".repeat(161),
            "€".repeat(200),
            format!("{}{}", "a".repeat(152), "{".repeat(77)),
            "😀".repeat(67),
        ] {
            let parts = parts(&text);
            assert_eq!(parts.concat(), text);
            assert_eq!(parts.len(), usize::from(segments(&text).count));
        }
        assert_eq!(parts_in(&"a".repeat(135), Encoding::Ucs2).iter().map(|p| p.len()).collect::<Vec<_>>(), [67, 67, 1]);
        assert_eq!(parts(&"😀".repeat(67)).iter().map(|p| p.chars().count()).collect::<Vec<_>>(), [33, 33, 1]);
    }

    #[test]
    fn ucs2_limits() {
        use Encoding::Ucs2;
        assert_eq!(of(&"ж".repeat(70)), (Ucs2, 1));
        assert_eq!(of(&"ж".repeat(71)), (Ucs2, 2));
        assert_eq!(of(&"ж".repeat(134)), (Ucs2, 2));
        assert_eq!(of(&"ж".repeat(135)), (Ucs2, 3));
        assert_eq!(of("ç"), (Ucs2, 1));
        assert_eq!(of("`"), (Ucs2, 1));
        assert_eq!(of(&format!("{}’", "a".repeat(159))), (Ucs2, 3));
    }

    #[test]
    fn a_surrogate_pair_is_not_split() {
        assert_eq!(of(&"😀".repeat(35)), (Encoding::Ucs2, 1));
        // 33 emoji a part (66 of 67 units), so 67 need three parts though 134 units would fill two.
        assert_eq!(of(&"😀".repeat(66)), (Encoding::Ucs2, 2));
        assert_eq!(of(&"😀".repeat(67)), (Encoding::Ucs2, 3));
    }
}
