//! Amounts of money, as providers state them.

use std::fmt;

/// An amount in millionths of its currency's unit, with the ISO 4217 code.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Money {
    /// ISO 4217, upper case (`KES`).
    pub currency: String,
    /// Millionths of one unit (`KES 0.8` is 800,000).
    pub micros: i64,
}

impl Money {
    /// Reads `0.8000` of a currency. At most six decimals count; a sign is kept.
    #[must_use]
    pub fn parse(currency: &str, amount: &str) -> Option<Self> {
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let (negative, digits) = amount.strip_prefix('-').map_or((false, amount), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let mut micros = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?;
        let mut unit = 100_000;
        for digit in fraction.bytes().take(6) {
            micros = micros.checked_add(i64::from(digit - b'0') * unit)?;
            unit /= 10;
        }
        Some(Self { currency: currency.to_owned(), micros: if negative { -micros } else { micros } })
    }

    /// The amount in whole units, as JSON shows it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a price is far below 2^53 millionths")]
    pub fn amount(micros: i64) -> f64 {
        micros as f64 / 1e6
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.currency, Self::amount(self.micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        let micros = |s| Money::parse("KES", s).map(|m| m.micros);
        assert_eq!(micros("0.8000"), Some(800_000));
        assert_eq!(micros("-0.0075"), Some(-7_500));
        assert_eq!(micros("12"), Some(12_000_000));
        assert_eq!(micros("1.23456789"), Some(1_234_567));
        for bad in ["", ".5", "1,5", "1e3", "--1", "NaN", "99999999999999999999"] {
            assert_eq!(micros(bad), None, "{bad}");
        }
        assert_eq!(Money::parse("kes", "1"), None);
    }
}
