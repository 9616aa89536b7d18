//! Providers of email, and what their adapters share: a message's mailboxes, header fields and files, checked once.
//!
//! What must not live here: anything that only one provider knows.

use std::{borrow::Cow, collections::HashSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use raven_core::{
    MessageId,
    address::{Email, Mailbox},
    message::{Attachment, Content, Feature},
};

use crate::{Field, Kind, Outbound, SendError, wire::refused};

pub mod brevo;
mod events;
pub mod mailgun;
pub mod mailjet;
pub mod postmark;
pub mod resend;
pub mod sendgrid;
pub mod ses;
pub mod smtp;

/// The name under which a provider keeps Raven's id of a message, where it keeps data of ours by name.
pub(crate) const REFERENCE: &str = "raven_message_id";

/// What nearly every provider of email carries.
pub(crate) const FEATURES: &[Feature] =
    &[Feature::ContentId, Feature::From, Feature::ReplyTo, Feature::Cc, Feature::Bcc, Feature::Headers, Feature::Attachments];
/// The same without pictures that the HTML shows.
pub(crate) const FEATURES_BUT_CONTENT_ID: &[Feature] = FEATURES.split_at(1).1;

/// The address of a provider config's own sender.
pub(crate) const FROM_EMAIL: Field =
    Field::public("from_email", "From address", Kind::Email, "The address that messages come from, unless a message names another.");
/// The name of a provider config's own sender.
pub(crate) const FROM_NAME: Field = Field::public("from_name", "From name", Kind::Text(200), "The name shown with that address.");

/// A message as email: everything read, nothing in it that could write a header field of its own.
pub(crate) struct Mail<'a> {
    pub(crate) id: MessageId,
    pub(crate) from: Mailbox<'a>,
    pub(crate) to: Mailbox<'a>,
    pub(crate) reply_to: Option<Mailbox<'a>>,
    /// Nobody is in here twice, nor in `to` or `bcc` as well: some providers refuse that, others send two copies.
    pub(crate) cc: Vec<Mailbox<'a>>,
    pub(crate) bcc: Vec<Mailbox<'a>>,
    pub(crate) subject: &'a str,
    pub(crate) text: Option<&'a str>,
    pub(crate) html: Option<&'a str>,
    pub(crate) content: &'a Content<'a>,
}

impl<'a> Mail<'a> {
    /// Reads a message that comes from the mailbox it names, else from the provider config's.
    ///
    /// # Errors
    /// [`Class::Rejected`](crate::Class::Rejected) with what is wrong.
    pub(crate) fn read(outbound: &Outbound<'a>, from_email: Option<&'a str>, from_name: Option<&str>) -> Result<Self, SendError> {
        let content = outbound.content;
        let from = sender(content.from.as_deref(), from_email, from_name)?;
        let to = Email::parse(outbound.recipient).map_err(|_| refused("invalid_recipient", "the recipient is no email address"))?;
        let to = Mailbox { name: None, email: to };
        let subject = content.subject.as_deref().unwrap_or_default();
        if subject.chars().any(char::is_control) {
            return Err(refused("invalid_subject", "the subject contains a line break or another control character"));
        }
        let (text, html) = (content.body_text.as_deref(), content.body_html.as_deref());
        if text.is_none() && html.is_none() {
            return Err(refused("missing_body", "the message has neither text nor HTML"));
        }
        let reply_to = content.reply_to.as_deref().map(|m| mailbox("invalid_reply_to", "replyTo", m)).transpose()?;
        let mut seen = HashSet::from([to.email.comparable()]);
        let mut others = |field: &str, texts: &'a [String]| -> Result<Vec<Mailbox<'a>>, SendError> {
            let mut read = Vec::new();
            for text in texts {
                let mailbox = mailbox("invalid_recipient", field, text)?;
                if seen.insert(mailbox.email.comparable()) {
                    read.push(mailbox);
                }
            }
            Ok(read)
        };
        let (cc, bcc) = (others("cc", &content.cc)?, others("bcc", &content.bcc)?);
        headers(content)?;
        content.attachments.iter().try_for_each(file)?;
        Ok(Self { id: outbound.id, from, to, reply_to, cc, bcc, subject, text, html, content })
    }

    /// The caller's tags, each once.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &'a str> {
        let mut seen = HashSet::new();
        self.content.tags.iter().map(String::as_str).filter(move |tag| seen.insert(*tag))
    }

    /// The caller's tags and data as pairs, for providers that take nothing else: our reference first, then the tags as `tag`,
    /// `tag_2` and so on, then the metadata. They take 1 to 256 ASCII letters, digits, `_` and `-`. What does not fit stays with
    /// the message in Raven: it must not keep it from going out.
    pub(crate) fn pairs(&self) -> Vec<(Cow<'a, str>, String)> {
        let fits =
            |text: &str| (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let mut pairs = vec![(Cow::Borrowed(REFERENCE), self.id.to_string())];
        for (n, tag) in self.tags().filter(|t| fits(t)).enumerate() {
            pairs.push((if n == 0 { "tag".into() } else { format!("tag_{}", n + 1).into() }, tag.to_owned()));
        }
        for (name, value) in self.content.metadata.iter().filter(|(name, value)| fits(name) && fits(value)) {
            if pairs.iter().all(|(taken, _)| taken != name) {
                pairs.push((name.into(), value.clone()));
            }
        }
        pairs
    }
}

fn sender<'a>(own: Option<&'a str>, email: Option<&'a str>, name: Option<&str>) -> Result<Mailbox<'a>, SendError> {
    let invalid = || refused("invalid_sender", "the sender is no email address");
    match (own, email) {
        (Some(own), _) => Mailbox::parse(own).map_err(|_| invalid()),
        (None, Some(_)) if name.is_some_and(|n| n.chars().any(char::is_control)) => Err(invalid()),
        (None, Some(email)) => Ok(Mailbox { name: name.map(str::to_owned), email: Email::parse(email).map_err(|_| invalid())? }),
        (None, None) => Err(refused("missing_sender", "neither the message nor the provider config names a sender")),
    }
}

fn mailbox<'a>(code: &str, field: &str, text: &'a str) -> Result<Mailbox<'a>, SendError> {
    Mailbox::parse(text).map_err(|e| refused(code, format!("{field} {e}")))
}

/// Header fields that Raven or the provider writes, or that have a field of their own in the API.
const RESERVED: &[&str] = &[
    "From",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Received",
    "Return-Path",
    "DKIM-Signature",
    "Sender",
];

/// May the message write its header fields? Acceptance asked already; this is the last place where a mistake can be stopped.
///
/// # Errors
/// [`Class::Rejected`](crate::Class::Rejected) for a reserved name, one that is none, one that is there twice, and a value with control characters.
pub(crate) fn headers(content: &Content<'_>) -> Result<(), SendError> {
    let wrong = |why: String| Err(refused("invalid_headers", why));
    let mut seen = HashSet::new();
    for (name, value) in &content.headers {
        // RFC 5322, section 3.6.8; a longer name could not stand in a line of 78 characters.
        if name.is_empty() || name.len() > 76 || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return wrong("a header's name must be 1 to 76 printable ASCII characters without spaces and colons".to_owned());
        }
        let content_field = name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("content-"));
        if content_field || RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
            return wrong(format!("a message may not write the header {name}; use the message's own fields"));
        }
        if value.chars().any(char::is_control) {
            return wrong(format!("the header {name} contains a line break or another control character"));
        }
        // Lines are folded at spaces, and have at most 998 characters (RFC 5322, section 2.1.1).
        if value.split(' ').any(|word| word.len() > 900) {
            return wrong(format!("the header {name} has more than 900 characters without a space"));
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            return wrong(format!("the header {name} is there twice"));
        }
    }
    Ok(())
}

/// Can the file be sent under its name, type and id?
fn file(file: &Attachment) -> Result<(), SendError> {
    let wrong = |why: &str| Err(refused("invalid_attachment", why));
    if file.filename.is_empty() || file.filename.contains(|c: char| c.is_control() || c == '/' || c == '\\') {
        return wrong("an attachment's name must not be empty, and must have no path and no control characters");
    }
    if file.content_type.len() > 200 || file.content_id.as_ref().is_some_and(|id| id.len() > 200) {
        return wrong("an attachment's type and contentId have at most 200 characters");
    }
    let (kind, subtype) = file.content_type.split_once('/').unwrap_or_default();
    if kind.is_empty() || subtype.is_empty() || !file.content_type.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return wrong("an attachment's type must be a media type, for example application/pdf");
    }
    let id_good = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b));
    if !file.content_id.as_deref().is_none_or(id_good) {
        return wrong("an attachment's contentId must be printable ASCII characters without spaces, quotes, '<' and '>'");
    }
    if file.size().is_none() {
        return wrong("an attachment's content must be base64 with padding");
    }
    Ok(())
}

/// A mailbox in RFC 5322's form, its name quoted where it must be, in UTF-8.
pub(crate) fn written(mailbox: &Mailbox<'_>) -> String {
    match &mailbox.name {
        None => mailbox.email.to_string(),
        Some(name) if !quoted(name) => format!("{name} <{}>", mailbox.email),
        Some(name) => format!("\"{}\" <{}>", name.replace('\\', "\\\\").replace('"', "\\\""), mailbox.email),
    }
}

/// Must the name stand in quotes? RFC 5322's specials, and white space that would be lost.
pub(crate) fn quoted(name: &str) -> bool {
    name.is_empty() || name.trim() != name || name.contains(|c: char| "()<>[]:;@\\,.\"".contains(c))
}

/// A text as RFC 2047's encoded words, for providers that take header fields in ASCII only.
pub(crate) fn encoded_words(text: &str) -> String {
    /// Bytes in a word, so that it has at most 75 characters.
    const LONGEST: usize = 45;
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, next) = rest.split_at(rest.floor_char_boundary(LONGEST));
        words.push(format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
        rest = next;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Content<'static> {
        Content { headers: [(name.to_owned(), value.to_owned())].into(), ..Content::default() }
    }

    #[test]
    fn reserved_headers_are_refused_however_they_are_written() {
        for name in RESERVED.iter().chain(&["Content-Type", "content-anything"]) {
            for name in [(*name).to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(headers(&with(&name, "x")).expect_err("reserved").code, "invalid_headers", "{name}");
            }
        }
        for (name, value) in
            [("", "x"), ("A B", "x"), ("A:", "x"), ("Ä", "x"), ("X\r\nBcc", "x"), ("X-A", "a\r\nBcc: b"), ("X-A", "a\u{85}")]
        {
            assert!(headers(&with(name, value)).is_err(), "{name:?}");
        }
        assert!(headers(&with("X-A", &"a".repeat(901))).is_err() && headers(&with("X-A", &"a ".repeat(901))).is_ok());
        let mut twice = with("X-A", "1");
        twice.headers.insert("x-a".into(), "2".into());
        assert!(headers(&twice).is_err());
        for name in ["X-Campaign", "List-Unsubscribe", "References", "Contents"] {
            assert!(headers(&with(name, "<https://u.example/x>")).is_ok(), "{name}");
        }
    }

    #[test]
    fn files_need_a_name_a_type_and_base64() {
        let good = Attachment {
            filename: "a.pdf".into(),
            content_type: "application/pdf".into(),
            content: "aGk=".into(),
            content_id: Some("logo@acme".into()),
        };
        assert!(file(&good).is_ok());
        for bad in [
            Attachment { filename: "../a".into(), ..good.clone() },
            Attachment { filename: "a\r\nX: y".into(), ..good.clone() },
            Attachment { content_type: "pdf".into(), ..good.clone() },
            Attachment { content_type: "text/plain\r\nX: y".into(), ..good.clone() },
            Attachment { content_id: Some("a>b".into()), ..good.clone() },
            Attachment { content_id: Some("a".repeat(201)), ..good.clone() },
            Attachment { content: "aGk".into(), ..good.clone() },
        ] {
            assert_eq!(file(&bad).expect_err("bad").code, "invalid_attachment");
        }
    }

    #[test]
    fn mailboxes_are_quoted_where_they_must_be() {
        for (text, expected) in [
            ("ada@example.com", "ada@example.com"),
            ("Ada Lovelace <ada@example.com>", "Ada Lovelace <ada@example.com>"),
            ("\"Zoë, of \\\"Acme\\\"\" <zoe@acme.example>", "\"Zoë, of \\\"Acme\\\"\" <zoe@acme.example>"),
        ] {
            let mailbox = Mailbox::parse(text).expect("a mailbox");
            assert_eq!(written(&mailbox), expected);
            assert_eq!(Mailbox::parse(&written(&mailbox)), Ok(mailbox));
        }
    }

    #[test]
    fn encoded_words_stay_short_and_split_no_character() {
        assert_eq!(encoded_words("Zoë"), "=?utf-8?b?Wm/Dqw==?=");
        let long = "ë".repeat(100);
        let read: Vec<u8> = encoded_words(&long)
            .split(' ')
            .flat_map(|word| {
                assert!(word.len() <= 75, "{word}");
                let inner = word.trim_start_matches("=?utf-8?b?").trim_end_matches("?=");
                let bytes = STANDARD.decode(inner).expect("base64");
                assert!(std::str::from_utf8(&bytes).is_ok());
                bytes
            })
            .collect();
        assert_eq!(read, long.into_bytes());
    }
}
