//! SMPP 3.4 on the wire (its sections 3.2, 4 and 5): what Raven writes, and what a message centre may send, which can be anything.
//!
//! Reading is lenient where message centres are known to be careless: a response to a refused request may have no body, a field may be
//! longer than the standard allows, what follows the known fields may be cut off. A length that can't be is an error, as no byte after
//! it means anything.

use std::fmt;

/// Commands that Raven sends or understands (5.1.2.1).
pub mod command {
    /// A PDU that could not be understood.
    pub const GENERIC_NACK: u32 = 0x8000_0000;
    /// A message for somebody.
    pub const SUBMIT_SM: u32 = 0x0000_0004;
    /// A message for us: a receipt, or somebody's.
    pub const DELIVER_SM: u32 = 0x0000_0005;
    /// The end of a session.
    pub const UNBIND: u32 = 0x0000_0006;
    /// The beginning of a session in which both sides send.
    pub const BIND_TRANSCEIVER: u32 = 0x0000_0009;
    /// Are you there?
    pub const ENQUIRE_LINK: u32 = 0x0000_0015;
    /// Somebody can be reached again; wants no answer.
    pub const ALERT_NOTIFICATION: u32 = 0x0000_0102;
    /// A message centre that wants to be bound to; wants no answer.
    pub const OUTBIND: u32 = 0x0000_000b;

    /// The answer to a command.
    #[must_use]
    pub const fn answer(to: u32) -> u32 {
        to | GENERIC_NACK
    }

    /// Is it an answer?
    #[must_use]
    pub const fn is_answer(command: u32) -> bool {
        command & GENERIC_NACK != 0
    }
}

/// Bytes of the header.
pub const HEADER: usize = 16;
/// Bytes of the longest PDU that is taken: a `message_payload` of 64 KiB and what stands around it.
pub const LONGEST: usize = 66 * 1024;
/// Bytes that are read of a field that ends with a NUL. The standard's longest has 65.
const FIELD: usize = 256;

/// What can't be a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// A PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pdu<'a> {
    /// What it is.
    pub command: u32,
    /// Of an answer: 0, or what went wrong.
    pub status: u32,
    /// Which answer belongs to which command.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

impl<'a> Pdu<'a> {
    /// The length of the first PDU in what came in; `None` when it has not come whole.
    ///
    /// # Errors
    /// When nothing that begins so is a PDU that is taken.
    pub fn whole(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(length) = bytes.first_chunk().map(|first| u32::from_be_bytes(*first)) else { return Ok(None) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match length {
            ..HEADER => Err(Malformed("a PDU says that it is shorter than its header")),
            HEADER..=LONGEST => Ok((bytes.len() >= length).then_some(length)),
            _ => Err(Malformed("a PDU says that it is longer than any that is taken")),
        }
    }

    /// Reads a whole one.
    ///
    /// # Errors
    /// When its length is not the one that it says.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if Self::whole(bytes)? != Some(bytes.len()) {
            return Err(Malformed("it is not one whole PDU"));
        }
        let mut reader = Reader(&bytes[4..]);
        Ok(Self { command: reader.u32(), status: reader.u32(), sequence: reader.u32(), body: reader.0 })
    }

    /// Appends it.
    pub fn write(&self, out: &mut impl Extend<u8>) {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        for number in [length, self.command, self.status, self.sequence] {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.body.iter().copied());
    }

    /// The id in the answer to a `submit_sm`.
    #[must_use]
    pub fn message_id(&self) -> String {
        text(Reader(self.body).c_octets())
    }
}

/// Reads fields. What is not there any more is 0, or empty.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// As many as there are, up to this number.
    fn octets(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to a NUL, which is taken too.
    fn c_octets(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        let field = self.octets(end.unwrap_or(self.0.len()));
        self.octets(1);
        &field[..field.len().min(FIELD)]
    }
}

/// Writes fields.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn c_octets(&mut self, text: &str) -> &mut Self {
        self.0.extend(text.bytes().filter(|byte| *byte != 0));
        self.u8(0)
    }

    pub(super) fn u8(&mut self, number: u8) -> &mut Self {
        self.0.push(number);
        self
    }
}

/// An optional parameter (5.3.2) that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    ReceiptedMessageId = 0x001e,
    NetworkErrorCode = 0x0423,
    MessagePayload = 0x0424,
    MessageState = 0x0427,
}

/// A `deliver_sm`, or a `submit_sm`: their fields are the same (4.4.1, 4.6.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
    pub(super) esm_class: u8,
    pub(super) data_coding: u8,
    short: &'a [u8],
    optional: &'a [u8],
}

/// In `esm_class`: the text begins with a header of its own.
const HEADED: u8 = 0x40;

impl<'a> Message<'a> {
    pub(super) fn read(body: &'a [u8]) -> Self {
        let mut reader = Reader(body);
        reader.c_octets();
        reader.u16();
        let source = reader.c_octets();
        reader.u16();
        let destination = reader.c_octets();
        let esm_class = reader.u8();
        // protocol_id and priority_flag, two times as text, registered_delivery and replace_if_present_flag.
        reader.u16();
        reader.c_octets();
        reader.c_octets();
        reader.u16();
        let data_coding = reader.u8();
        reader.u8();
        let length = usize::from(reader.u8());
        Self { source, destination, esm_class, data_coding, short: reader.octets(length), optional: reader.0 }
    }

    /// The first optional parameter with this tag.
    pub(super) fn optional(&self, tag: Tag) -> Option<&'a [u8]> {
        let mut reader = Reader(self.optional);
        while reader.0.len() >= 4 {
            let (found, length) = (reader.u16(), usize::from(reader.u16()));
            let value = reader.octets(length);
            if found == tag as u16 && value.len() == length {
                return Some(value);
            }
        }
        None
    }

    /// What it says: without the header that says which part of a longer text it is.
    pub(super) fn text(&self) -> &'a [u8] {
        let whole = if self.short.is_empty() { self.optional(Tag::MessagePayload).unwrap_or_default() } else { self.short };
        if self.esm_class & HEADED == 0 {
            return whole;
        }
        let header = whole.first().map_or(0, |length| usize::from(*length) + 1);
        whole.get(header..).unwrap_or_default()
    }
}

/// A field as text: printable ASCII, the rest left out.
pub(super) fn text(field: &[u8]) -> String {
    field
        .iter()
        .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
        .map(|byte| char::from(*byte))
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pdu: &Pdu<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        pdu.write(&mut out);
        out
    }

    #[test]
    fn a_pdu_is_read_as_it_was_written() {
        let pdu = Pdu { command: command::answer(command::SUBMIT_SM), status: 0, sequence: 7, body: b"abc\0" };
        let bytes = written(&pdu);
        assert_eq!(bytes[..16], [0, 0, 0, 20, 0x80, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(Pdu::read(&bytes), Ok(pdu));
        assert_eq!(pdu.message_id(), "abc");
    }

    #[test]
    fn half_a_pdu_is_waited_for_and_an_impossible_one_is_not() {
        let bytes = written(&Pdu { command: command::ENQUIRE_LINK, status: 0, sequence: 1, body: &[] });
        for cut in 0..16 {
            assert_eq!(Pdu::whole(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(Pdu::whole(&[&bytes[..], b"more"].concat()), Ok(Some(16)));
        for length in [0_u32, 4, 15, 70_000, 0x7fff_ffff, u32::MAX] {
            assert!(Pdu::whole(&length.to_be_bytes()).is_err(), "{length}");
        }
        assert!(Pdu::read(&bytes[..15]).is_err() && Pdu::read(&[&bytes[..], b"more"].concat()).is_err());
    }

    #[test]
    fn what_a_refusal_leaves_out_is_empty() {
        assert_eq!(Pdu { command: command::answer(command::SUBMIT_SM), status: 0x58, sequence: 1, body: &[] }.message_id(), "");
        let message = Message::read(b"\0\x01\x01254722000000\0");
        assert_eq!((message.source, message.destination, message.text()), (&b"254722000000"[..], &b""[..], &b""[..]));
    }

    #[test]
    fn optional_parameters_are_found_behind_unknown_ones_and_cut_ones_are_not() {
        let mut body = b"\0\x01\x01a\0\x01\x01b\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        body.extend([0x14, 0x00, 0, 2, 9, 9, 0x04, 0x27, 0, 1, 2, 0x00, 0x1e, 0, 9, b'x']);
        let message = Message::read(&body);
        assert_eq!(message.optional(Tag::MessageState), Some(&[2][..]));
        assert_eq!(message.optional(Tag::ReceiptedMessageId), None);
    }
}
