//! What a `deliver_sm` tells: a receipt (SMPP 3.4, appendix B, and the optional parameters of 5.3.2), or a message that somebody sent.
//!
//! Only what the message centre itself marks as a receipt is one: a text that looks like one can be anybody's.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{
    Settings,
    charset::Charset,
    command,
    pdu::{self, Message, Pdu, Tag},
};
use crate::{
    Callback, Told, Unreadable,
    callback::{Happened, Inbound, Report},
    wire,
};

/// The kinds of `deliver_sm`: bits 2 to 5 of `esm_class` (5.2.12).
const KIND: u8 = 0b0011_1100;
const RECEIPT: u8 = 0b0000_0100;
const ACKNOWLEDGEMENT: u8 = 0b0000_1000;
const MANUAL_ACKNOWLEDGEMENT: u8 = 0b0001_0000;
const ABORT: u8 = 0b0001_1000;
const NOTIFICATION: u8 = 0b0010_0000;

/// A state of a message: its number in `message_state`, its words in texts, what it means, and why it failed.
type State = (u8, &'static [&'static str], Happened, Option<&'static str>);

const STATES: &[State] = &[
    // Of a later version, as 9 is: it waits for its time.
    (0, &["SCHEDULED", "SCHEDLD"], Happened::Sent, None),
    (1, &["ENROUTE", "BUFFERED", "BUFFERD", "SENT"], Happened::Sent, None),
    (2, &["DELIVRD", "DELIVERED", "DELIVERD"], Happened::Delivered, None),
    (3, &["EXPIRED"], Happened::Failed, Some("expired")),
    (4, &["DELETED"], Happened::Failed, Some("deleted")),
    (5, &["UNDELIV", "UNDELIVERABLE", "UNDELIVERED", "FAILED"], Happened::Failed, Some("undelivered")),
    (6, &["ACCEPTD", "ACCEPTED"], Happened::Sent, None),
    // The message centre lost track of it. It may have arrived.
    (7, &["UNKNOWN"], Happened::Sent, None),
    (8, &["REJECTD", "REJECTED"], Happened::Failed, Some("rejected")),
    (9, &["SKIPPED"], Happened::Failed, Some("undelivered")),
];

pub(super) fn read(settings: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let pdu = Pdu::read(callback.body).map_err(|e| Unreadable::new(e.to_string()))?;
    if pdu.command != command::DELIVER_SM {
        return Err(Unreadable::new("it is no deliver_sm"));
    }
    let message = Message::read(pdu.body);
    let marked = message.optional(Tag::ReceiptedMessageId).is_some() && message.optional(Tag::MessageState).is_some();
    match message.esm_class & KIND {
        RECEIPT | NOTIFICATION => receipt(settings, &message).map(|told| vec![told]),
        0 if marked => receipt(settings, &message).map(|told| vec![told]),
        0 => inbound(settings, callback, &message).map(|told| vec![told]),
        // What a phone says of a message that asked it to; ours don't.
        ACKNOWLEDGEMENT | MANUAL_ACKNOWLEDGEMENT | ABORT => Ok(Vec::new()),
        _ => Err(Unreadable::new("its esm_class is none of the documented ones")),
    }
}

fn receipt(settings: &Settings, message: &Message<'_>) -> Result<Told, Unreadable> {
    let charset = Charset::of_message(message.data_coding, message.text(), settings.encoding);
    let text = charset.unwrap_or(Charset::Latin1).text(message.text());
    let fields = Fields::of(&text);
    let id = match message.optional(Tag::ReceiptedMessageId).map(pdu::text).filter(|id| !id.is_empty()) {
        // It is the id as the answer had it.
        Some(id) => settings.receipt_ids.answered(&id),
        None => fields.get(&["id"]).and_then(|id| settings.receipt_ids.received(id)),
    };
    let id = id.ok_or_else(|| Unreadable::new("the receipt names no message"))?;
    let number = message.optional(Tag::MessageState).and_then(|state| state.first());
    let word = fields.get(&["stat", "status", "state"]).map(str::to_ascii_uppercase);
    let state = match (number, &word) {
        (Some(number), _) => STATES.iter().find(|(known, ..)| known == number),
        (None, Some(word)) => STATES.iter().find(|(_, words, ..)| words.contains(&word.as_str())),
        (None, None) => return Err(Unreadable::new("the receipt names no state")),
    };
    let Some((_, words, happened, code)) = state else { return Err(Unreadable::new("the receipt's state is none of the documented ones")) };
    let name = words[0];
    let payload = if text.trim().is_empty() { format!("message_state {name}") } else { text.replace('\0', " ") };
    let mut report = Report::new(*happened, format!("{id} {name}"), payload);
    report.provider_message_id = Some(id);
    report.recipient = Some(wire::with_plus(&pdu::text(message.source))).filter(|recipient| !recipient.is_empty());
    report.code = code.map(str::to_owned);
    // Its times are of a clock and a zone that nobody names. That of its arrival is right to the minute.
    report.at = None;
    report.detail = (*happened == Happened::Failed || name == "UNKNOWN").then(|| detail(name, &fields, message));
    Ok(Told::Report(report))
}

fn detail(name: &str, fields: &Fields<'_>, message: &Message<'_>) -> String {
    let mut detail = format!("SMPP {name}");
    if let Some(error) = fields.get(&["err", "error"]).filter(|error| error.chars().any(|c| c != '0')) {
        // A text takes all.
        let _ = write!(detail, ", error {error}");
    }
    if let Some([network, high, low]) = message.optional(Tag::NetworkErrorCode) {
        let _ = write!(detail, ", network error {network}/{}", u16::from_be_bytes([*high, *low]));
    }
    detail
}

/// The fields of a receipt's text: `id:… sub:… dlvrd:… submit date:… done date:… stat:… err:… text:…`, with the spellings that
/// message centres have for them.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Self {
        let mut fields = Vec::new();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let Some((name, value)) = word.split_once(':') else { continue };
            // Behind it stands what the message said, which can be anything.
            if name.eq_ignore_ascii_case("text") {
                break;
            }
            // `stat: DELIVRD` is known, too.
            let value = match words.peek() {
                Some(next) if value.is_empty() && !next.contains(':') => next,
                _ => value,
            };
            fields.push((name, value));
        }
        Self(fields)
    }

    fn get(&self, names: &[&str]) -> Option<&'a str> {
        let found = self.0.iter().find(|(name, _)| names.iter().any(|known| known.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| *value).filter(|value| !value.is_empty())
    }
}

fn inbound(settings: &Settings, callback: &Callback<'_>, message: &Message<'_>) -> Result<Told, Unreadable> {
    let from = wire::with_plus(&pdu::text(message.source));
    if from.is_empty() {
        return Err(Unreadable::new("it names nobody who sent it"));
    }
    let charset = Charset::of_message(message.data_coding, message.text(), settings.encoding);
    let text = charset.ok_or_else(|| Unreadable::new("its data_coding says that it is no text, or a text in an alphabet of its own"))?;
    let text = text.text(message.text());
    let own = message.optional(Tag::ReceiptedMessageId).map(pdu::text).filter(|id| !id.is_empty());
    Ok(Told::Inbound(Inbound {
        provider_message_id: own.unwrap_or_else(|| arrival(callback)),
        from,
        to: wire::with_plus(&pdu::text(message.destination)),
        payload: text.replace('\0', " "),
        text,
        media: Vec::new(),
        at: None,
        keyword: None,
        in_reply_to: None,
    }))
}

/// An id for a message that came without one: of what came, and which arrival it was, as people write the same twice.
fn arrival(callback: &Callback<'_>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(callback.query);
    hasher.update([0]);
    hasher.update(callback.body);
    hasher.finalize().iter().take(16).fold(String::new(), |id, byte| id + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_receipt_is_read() {
        for text in [
            "id:7f3 sub:001 dlvrd:001 submit date:2605011224 done date:2605011224 stat:DELIVRD err:000 text:Hi",
            "ID:7f3 SUB:001 DLVRD:001 SUBMIT DATE:260501122401 DONE DATE:260501122402 STAT:DELIVRD ERR:000 TEXT:id:9 stat:UNDELIV",
            "id: 7f3 sub: 001 stat: DELIVRD err: Text: stat:EXPIRED",
            "\0 id:7f3  submit_date:1 done_date:2\nstatus:DELIVRD error:0",
        ] {
            let text = text.trim_start_matches('\0');
            let fields = Fields::of(text);
            assert_eq!((fields.get(&["id"]), fields.get(&["stat", "status"])), (Some("7f3"), Some("DELIVRD")), "{text}");
        }
        assert_eq!(Fields::of("id:1 err: text:x").get(&["err"]), None);
    }
}
