//! Spans of time as arguments: `90`, `90s`, `15m`, `1h`, `7d`.

use std::time::Duration;

/// The longest that is taken: more than a century is a slip.
const MOST: u64 = 100 * 366 * 86_400;

/// Reads a span; a bare number counts seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let span = digits.parse::<u64>().ok().zip(seconds).and_then(|(n, seconds)| n.checked_mul(seconds));
    match span {
        Some(span @ 1..=MOST) => Ok(Duration::from_secs(span)),
        _ => Err("must be a number of seconds, or one with a unit: 90s, 15m, 1h, 7d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_seconds_or_carry_a_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0", "h", "1.5h", "-1", "1w", "1 h", "99999999999999999999", "18446744073709551615d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
