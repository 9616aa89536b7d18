//! What the callbacks of email providers share: events in JSON, one by one or in a list.
//!
//! What must not live here: anything that only one provider says.

use std::time::Duration;

use raven_core::{MessageId, Timestamp};
use serde_json::{Value, value::RawValue};

use crate::callback::{Happened, Report, Told, Unreadable};

/// The address rejects mail for good.
pub(crate) const HARD: (Happened, Option<&str>) = (Happened::HardBounced, Some("hard_bounce"));
/// The address rejected this mail.
pub(crate) const SOFT: (Happened, Option<&str>) = (Happened::SoftBounced, Some("soft_bounce"));
/// The provider kept it back: the address bounced or complained before.
pub(crate) const SUPPRESSED: (Happened, Option<&str>) = failed("recipient_suppressed");
/// The provider kept it back: the recipient wants no more.
pub(crate) const OPTED_OUT: (Happened, Option<&str>) = failed("recipient_opted_out");

/// It failed, for this reason.
pub(crate) const fn failed(code: &str) -> (Happened, Option<&str>) {
    (Happened::Failed, Some(code))
}

/// Nothing went wrong.
pub(crate) const fn well(happened: Happened) -> (Happened, Option<&'static str>) {
    (happened, None)
}

/// How far clocks may differ, and how long a signature lasts where the provider signs every attempt anew.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

/// Was it signed just now: not longer ago than this, and not ahead of us by more than clocks differ?
pub(crate) fn fresh(signed: Timestamp, now: Timestamp, lasts: Duration) -> bool {
    now.since(signed) <= lasts && signed.since(now) <= SKEW
}

/// An instant in Unix seconds, as a signature has it: digits only.
pub(crate) fn signed_at(text: &str) -> Option<Timestamp> {
    // More digits than that are no time, and would overflow.
    let digits = (1..=11).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse::<i64>().ok()).flatten().map(|seconds| Timestamp::from_millis(seconds * 1000))
}

/// Bytes of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    digits.filter(|d| d.len().is_multiple_of(2)).map(|d| d.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Reads every event of a body that is one of them or a list. `read` is given each with its raw text, and knows nothing (`None`) of
/// kinds that came up since: these are left out where others are with them.
///
/// # Errors
/// When it is no JSON, when one of them can't be read, and when all are of kinds that are not known.
pub(crate) fn each(body: &[u8], read: impl Fn(&Value, &str) -> Result<Option<Vec<Told>>, Unreadable>) -> Result<Vec<Told>, Unreadable> {
    let no_json = |_| Unreadable::new("it is no JSON");
    let list = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let items: Vec<&RawValue> =
        if list { serde_json::from_slice(body).map_err(no_json)? } else { vec![serde_json::from_slice(body).map_err(no_json)?] };
    let (mut told, mut unknown) = (Vec::new(), 0);
    for item in &items {
        let event: Value = serde_json::from_str(item.get()).map_err(no_json)?;
        match read(&event, item.get())? {
            Some(more) => told.extend(more),
            None => unknown += 1,
        }
    }
    if unknown > 0 && unknown == items.len() {
        return Err(Unreadable::new("its kind is none of the documented ones"));
    }
    Ok(told)
}

/// A text that is there and not empty.
pub(crate) fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The same, for those without which nothing can be told.
///
/// # Errors
/// When it is not there.
pub(crate) fn needed<'v>(event: &'v Value, name: &str) -> Result<&'v str, Unreadable> {
    text(&event[name]).ok_or_else(|| Unreadable::new(format!("it has no {name}")))
}

/// Our id of a message, where it is one.
pub(crate) fn reference(value: &Value) -> Option<MessageId> {
    MessageId::parse(text(value)?)
}

/// An instant in Unix seconds, whole or with a fraction, as a number or a text.
pub(crate) fn seconds(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_f64().or_else(|| text(value)?.parse().ok()).filter(|s: &f64| s.is_finite() && *s > 0.0)?;
    // What is beyond all time saturates.
    Some(Timestamp::from_millis((seconds * 1000.0) as i64))
}

/// A report, with the code and the explanation that belong to it. Each of `details` is part of the explanation, if it says anything,
/// and if there is anything to explain.
pub(crate) fn report(provider: &str, what: (Happened, Option<&str>), key: String, raw: &str, details: &[Option<&str>]) -> Report {
    let mut report = Report::new(what.0, key, raw);
    report.code = what.1.map(str::to_owned);
    if matches!(what.0, Happened::Sent | Happened::Delivered | Happened::Clicked | Happened::Complained | Happened::Unsubscribed) {
        return report;
    }
    let details: Vec<_> = details.iter().flatten().map(|d| d.trim()).filter(|d| !d.is_empty()).collect();
    report.detail = Some(details.join(": ")).filter(|d| !d.is_empty()).map(|d| format!("{provider}: {d}"));
    report
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinds(body: &str) -> Result<usize, Unreadable> {
        let told = each(body.as_bytes(), |event, raw| match needed(event, "event")? {
            "known" => Ok(Some(vec![Told::Report(Report::new(Happened::Sent, "k", raw))])),
            "useless" => Ok(Some(Vec::new())),
            _ => Ok(None),
        })?;
        Ok(told.len())
    }

    #[test]
    fn an_event_of_a_new_kind_does_not_lose_the_others() {
        assert_eq!(kinds(r#"{"event":"known"}"#), Ok(1));
        assert_eq!(kinds(r#" [{"event":"known"}, {"event":"new"}, {"event":"known"}]"#), Ok(2));
        assert_eq!(kinds(r#"[{"event":"useless"}, {"event":"new"}]"#), Ok(0));
        assert_eq!(kinds("[]"), Ok(0));
    }

    #[test]
    fn what_is_not_as_documented_is_kept_for_later() {
        for body in
            [r#"{"event":"new"}"#, r#"[{"event":"new"}]"#, r#"[{"event":"known"}, {}]"#, r#"[{"event":"known"}, 7]"#, "[", "", "7", "x"]
        {
            assert!(kinds(body).is_err(), "{body}");
        }
    }

    #[test]
    fn instants_are_numbers_or_digits() {
        let expected = Some(Timestamp::from_millis(1_777_631_098_500));
        for value in [json!(1_777_631_098.5), json!("1777631098.5")] {
            assert_eq!(seconds(&value), expected, "{value}");
        }
        for value in [json!(null), json!("soon"), json!(-1), json!("NaN"), json!("inf")] {
            assert_eq!(seconds(&value), None, "{value}");
        }
        assert_eq!(signed_at("1777631098"), Some(Timestamp::from_millis(1_777_631_098_000)));
        for text in ["", "-1", "+1", "1.5", "999999999999999999"] {
            assert_eq!(signed_at(text), None, "{text}");
        }
    }

    #[test]
    fn a_signature_lasts_as_long_as_it_is_sent_again() {
        let at = Timestamp::from_millis;
        let hour = Duration::from_secs(3600);
        for (signed, expected) in [(0, true), (3_600_000, true), (3_600_001, true), (-1, false), (3_900_000, true), (3_900_001, false)] {
            assert_eq!(fresh(at(signed), at(3_600_000), hour), expected, "{signed}");
        }
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(unhex("00fFa1"), Some(vec![0, 255, 161]));
        for text in ["0", "0g", "é0", "+1"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
