//! SMPP 3.4, straight to a message centre: <https://smpp.org/SMPP_v3_4_Issue1_2.pdf>. The session is the caller's: here is what is said
//! over it, and what is understood of it.
//!
//! A text that is too long for one SMS travels in parts, each a `submit_sm` with an id of its own. The message is sent when all were
//! taken. Its id is that of the last part, for which alone a receipt is asked: what a network says of its last part counts for the
//! message.

mod charset;
mod pdu;
mod receipt;
mod status;

use raven_core::{Channel, message::Feature, sms::parts_in};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use pdu::{HEADER, LONGEST, Malformed, Pdu, command};
pub use status::{INVALID_COMMAND, OK, TRY_AGAIN};

use crate::{
    Bound, Callback, Callbacks, Class, Field, Kind, Members, Outbound, Road, SendError, Spec, Told, Unreadable, redact::Redactor, registry,
    wire,
};
use charset::{Charset, Default0};
use pdu::Writer;

/// What the catalog says of it.
pub const SPEC: Spec = Spec {
    id: "smpp",
    name: "SMPP",
    channel: Channel::Sms,
    docs_url: "https://smpp.org/SMPP_v3_4_Issue1_2.pdf",
    base_url: None,
    features: &[Feature::From],
    callbacks: Some(Callbacks {
        authenticity: "come over the session that Raven opens with the password and keeps up, without a URL; each is answered when it is \
            stored",
        setup: "Nothing but the account is needed. Have as many binds as a transceiver allowed as there are nodes that send, times \
            `binds`. Where receipts name messages by other digits than the answers did, set `receipt_ids`. A receipt is asked for the \
            last part of a long text; of a long text that comes in, each part is a message of its own.",
        by_id: true,
        road: Road::Session,
        answer: "",
    }),
    fields: &[
        Field::public("host", "Host", Kind::Host, "The message centre's host name or address, for example smpp.example.com.").required(),
        Field::public("port", "Port", Kind::Port, "Its port, 2775 by default."),
        Field::public(
            "tls",
            "TLS",
            Kind::Bool,
            "Off by default: then all travels in clear, the password too. On: TLS from the first byte.",
        ),
        Field::public("system_id", "System id", Kind::Token(64), "The name of the account, from the operator of the message centre.")
            .required(),
        Field::public("system_type", "System type", Kind::Token(12), "Only if the operator of the message centre wants one."),
        Field::public(
            "sender_id",
            "Sender id",
            Kind::SenderId,
            "The number, short code or name that messages come from, unless a message names another.",
        ),
        Field::public(
            "source_ton",
            "Source TON",
            Kind::Whole(0, 7),
            "Type of the sender's number. By default 1 for +254…, 3 for a short code, 5 for a name.",
        ),
        Field::public("source_npi", "Source NPI", Kind::Whole(0, 18), "Numbering plan of the sender. By default 1 for +254…, else 0."),
        Field::public("dest_ton", "Destination TON", Kind::Whole(0, 7), "Type of the recipient's number, 1 (international) by default."),
        Field::public("dest_npi", "Destination NPI", Kind::Whole(0, 18), "Numbering plan of the recipient's number, 1 (E.164) by default."),
        Field::public(
            "encoding",
            "Default alphabet",
            Kind::OneOf(&["gsm7", "latin1"]),
            "What the message centre takes data_coding 0 for: gsm7 (the default), or latin1. Other texts go as UCS-2.",
        ),
        Field::public(
            "receipt_ids",
            "Ids in receipts",
            Kind::OneOf(&["same", "decimal", "hexadecimal"]),
            "How receipts write the id of an answer: the same (default), in decimal where answers are hexadecimal, or the reverse.",
        ),
        Field::public("window", "Window", Kind::Whole(1, 100), "Messages of a session that may wait for their answers, 10 by default."),
        Field::public("binds", "Binds", Kind::Whole(1, 8), "Sessions that each node keeps, 1 by default."),
        Field::secret("password", "Password", Kind::Token(64), "The account's password; the standard has room for 8 characters.")
            .required(),
    ],
    rules: &[],
};

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "port")]
    pub port: u16,
    /// Does the session begin with TLS?
    #[serde(default)]
    pub tls: bool,
    /// Answers that may be outstanding in one session.
    #[serde(default = "window")]
    pub window: u8,
    /// Sessions of a node.
    #[serde(default = "binds")]
    pub binds: u8,
    system_id: String,
    system_type: Option<String>,
    sender_id: Option<String>,
    source_ton: Option<u8>,
    source_npi: Option<u8>,
    dest_ton: Option<u8>,
    dest_npi: Option<u8>,
    #[serde(default)]
    encoding: Default0,
    #[serde(default)]
    receipt_ids: ReceiptIds,
    password: SecretString,
}

const fn port() -> u16 {
    2775
}

const fn window() -> u8 {
    10
}

const fn binds() -> u8 {
    1
}

/// How receipts write an id.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReceiptIds {
    #[default]
    Same,
    Decimal,
    Hexadecimal,
}

impl ReceiptIds {
    /// The form in which an id is kept, of one as answers write it. Numbers are kept in decimal.
    fn answered(self, id: &str) -> Option<String> {
        let number = match self {
            Self::Same => None,
            Self::Decimal => u128::from_str_radix(id, 16).ok(),
            Self::Hexadecimal => id.parse().ok(),
        };
        number.map(|number: u128| number.to_string()).or_else(|| wire::id(id))
    }

    /// The same, of one as receipts write it.
    fn received(self, id: &str) -> Option<String> {
        match self {
            Self::Same => wire::id(id),
            Self::Decimal => Self::Hexadecimal.answered(id),
            Self::Hexadecimal => Self::Decimal.answered(id),
        }
    }
}

pub(crate) fn bind(public: &Members, secret: &Members) -> Result<Bound, String> {
    registry::settings(&SPEC, public, secret).map(|settings| Bound::Smpp(Box::new(settings)))
}

/// The version that a bind names.
const VERSION: u8 = 0x34;
/// In `esm_class`: the text begins with a header of its own.
const HEADED: u8 = 0x40;

impl Settings {
    /// The body of the `bind_transceiver` that opens a session.
    #[must_use]
    pub fn bind(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.c_octets(&self.system_id)
            .c_octets(self.password.expose_secret())
            .c_octets(self.system_type.as_deref().unwrap_or_default())
            .u8(VERSION)
            .u8(0)
            .u8(0)
            .c_octets("");
        body.0
    }

    /// What the answer to a bind means.
    ///
    /// # Errors
    /// When there is no session.
    pub fn bound(&self, answer: &Pdu<'_>) -> Result<(), SendError> {
        let bound = answer.command == command::answer(command::BIND_TRANSCEIVER);
        match (bound, answer.status) {
            (true, OK) => Ok(()),
            (_, OK) => Err(SendError::new(wire::RETRY, "bind_refused", "the message centre did not answer the bind as SMPP wants it")),
            (_, status) => Err(status::of_bind(status)),
        }
    }

    /// The bodies of the `submit_sm` that carry a message, in order.
    ///
    /// # Errors
    /// [`Class::Rejected`] when it is longer than 255 parts.
    pub fn submits(&self, message: &Outbound<'_>) -> Result<Vec<Vec<u8>>, SendError> {
        let text = message.content.body.as_deref().unwrap_or_default();
        let charset = Charset::for_text(text, self.encoding);
        let parts = parts_in(text, charset.encoding());
        let Ok(count) = u8::try_from(parts.len()) else {
            return Err(wire::refused("message_too_long", format!("the text needs {} parts, and SMS has 255 at most", parts.len())));
        };
        let sender = message.content.from.as_deref().or(self.sender_id.as_deref()).unwrap_or_default();
        let (ton, npi, source) = source(sender);
        let (source_ton, source_npi) = (self.source_ton.unwrap_or(ton), self.source_npi.unwrap_or(npi));
        // Ids are random. Two messages to somebody on the same day with the same reference are one in 256.
        let reference = message.id.0.as_bytes()[15];
        let bodies = (1..=count).zip(parts).map(|(n, part)| {
            let mut text = if count > 1 { vec![5, 0, 3, reference, count, n] } else { Vec::new() };
            text.extend(charset.octets(part));
            let mut body = Writer::default();
            body.c_octets("").u8(source_ton).u8(source_npi).c_octets(source);
            body.u8(self.dest_ton.unwrap_or(1)).u8(self.dest_npi.unwrap_or(1)).c_octets(message.recipient.trim_start_matches('+'));
            body.u8(if count > 1 { HEADED } else { 0 }).u8(0).u8(0).c_octets("").c_octets("");
            // A receipt of the outcome, good or bad; of the last part only.
            body.u8(u8::from(n == count)).u8(0).u8(charset.data_coding()).u8(0);
            // A part has 160 octets at most.
            body.u8(u8::try_from(text.len()).unwrap_or(u8::MAX)).0.extend(text);
            body.0
        });
        Ok(bodies.collect())
    }

    /// What the answer to a `submit_sm` means: the id of the part, if it has one.
    ///
    /// # Errors
    /// When it was not taken, or that can't be told.
    pub fn outcome(&self, answer: &Pdu<'_>) -> Result<Option<String>, SendError> {
        let redactor = self.redactor();
        match (answer.command, answer.status) {
            (command, OK) if command == command::answer(command::SUBMIT_SM) => {
                Ok(self.receipt_ids.answered(&answer.message_id()).map(|id| redactor.clean(id)))
            }
            (command, status) if status != OK && (command == command::answer(command::SUBMIT_SM) || command == command::GENERIC_NACK) => {
                Err(status::of_submit(status))
            }
            (command::GENERIC_NACK, _) => {
                Err(SendError::new(Class::Rejected, "protocol_error", "the message centre could not read the message"))
            }
            _ => {
                Err(SendError::new(Class::Unknown, "unreadable_answer", "the message centre answered with something else than SMPP wants"))
            }
        }
    }

    /// What a stored `deliver_sm` tells. Its whole PDU is the callback's body, and the query tells this arrival from others.
    ///
    /// # Errors
    /// When it is not as documented.
    pub fn read(&self, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let mut told = receipt::read(self, callback)?;
        let redactor = self.redactor();
        for each in &mut told {
            each.redact(&redactor);
        }
        Ok(told)
    }

    fn redactor(&self) -> Redactor {
        Redactor::for_secrets([self.password.expose_secret()].into_iter())
    }
}

/// TON, NPI and address of a sender (5.2.5, 5.2.6; by common practice).
fn source(sender: &str) -> (u8, u8, &str) {
    match sender.strip_prefix('+') {
        Some(number) => (1, 1, number),
        None if sender.is_empty() => (0, 0, sender),
        None if sender.bytes().all(|b| b.is_ascii_digit()) => (3, 0, sender),
        None => (5, 0, sender),
    }
}

/// What becomes of a message whose part was not taken after others had been: they must not go out a second time.
#[must_use]
pub fn cut_short(part: usize, parts: usize, error: SendError) -> SendError {
    match error.class {
        Class::Unknown => error,
        _ => {
            let why = format!("part {part} of {parts} was not taken, those before it were: {}: {}", error.code, error.message);
            SendError::new(Class::Rejected, "partly_sent", why)
        }
    }
}
