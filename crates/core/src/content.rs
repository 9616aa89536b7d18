//! What a message says, apart from whom it reaches.

use std::{borrow::Cow, collections::BTreeMap, fmt};

/// What a message says: stored as one JSON text, absent members left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Content<'a> {
    /// Sender id (SMS) or mailbox (email).
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    /// Text of an SMS, push or WhatsApp message.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub body: Option<Cow<'a, str>>,
    /// Subject of an email.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Cow<'a, str>>,
    /// HTML of an email.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub body_html: Option<Cow<'a, str>>,
    /// Plain text of an email.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<Cow<'a, str>>,
    /// Mailbox that answers to an email go to.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Cow<'a, str>>,
    /// Further recipients of an email, seen by all: mailboxes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<String>,
    /// Further recipients of an email, seen by nobody: mailboxes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bcc: Vec<String>,
    /// Further header fields of an email, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Files that travel with an email.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// The caller's words for a kind of messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The caller's own data about the message, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Title of a notification.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub title: Option<Cow<'a, str>>,
    /// What a notification hands to the app, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Number on the app's icon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub badge: Option<u32>,
    /// A newer notification with the same key takes the place of an older one.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<Cow<'a, str>>,
    /// How long a notification is worth delivering, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Where the provider fetches a picture or a file: an https URL.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub media_url: Option<Cow<'a, str>>,
    /// An approved WhatsApp template instead of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whatsapp_template: Option<Template>,
    /// Does an email carry a link by which its recipient unsubscribes?
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unsubscribe: bool,
    /// The one provider, or the one provider config, that the caller wants it to go through: a provider's id or a config's.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Cow<'a, str>>,
}

/// A file that travels with an email.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Its name, without a path.
    pub filename: String,
    /// Its media type, such as `application/pdf`.
    pub content_type: String,
    /// Its bytes in base64 (RFC 4648, with padding).
    pub content: String,
    /// Where given, the HTML shows it as `cid:` and this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

impl Attachment {
    /// How many bytes it has; `None` when its content is not base64 as RFC 4648 (section 4) has it, with padding and nothing else.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        let text = self.content.as_bytes();
        let (groups, rest) = text.as_chunks::<4>();
        let Some((last, _)) = groups.split_last() else { return rest.is_empty().then_some(0) };
        let padding = last.iter().rev().take_while(|b| **b == b'=').count();
        // Of the last character that counts, the bits that no byte needs must be nought.
        let unused = match padding {
            0 => 0,
            1 => 0b11,
            2 => 0b1111,
            _ => return None,
        };
        let digits = &text[..text.len() - padding];
        let good = rest.is_empty()
            && digits.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
            && digits.last().is_some_and(|b| sextet(*b) & unused == 0);
        good.then(|| groups.len() * 3 - padding)
    }
}

/// The six bits that a character of base64 stands for.
const fn sextet(character: u8) -> u8 {
    match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        _ => 63,
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Megabytes, and nobody's to read.
        f.debug_struct("Attachment").field("content_type", &self.content_type).field("base64", &self.content.len()).finish_non_exhaustive()
    }
}

/// An approved WhatsApp template and what is filled in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Its name; with Twilio the content SID (`HX…`).
    pub name: String,
    /// Its language, such as `en_US`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// What is filled into its body, in order: for the placeholders `{{1}}`, `{{2}}`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    /// Where given, the link of the picture, video or document in its header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_media_url: Option<String>,
}

/// A field that not every provider carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A sender that the message names.
    From,
    /// `replyTo`.
    ReplyTo,
    /// `cc`.
    Cc,
    /// `bcc`.
    Bcc,
    /// `headers`.
    Headers,
    /// `attachments`.
    Attachments,
    /// Attachments that the HTML shows.
    ContentId,
    /// `title`.
    Title,
    /// `data`.
    Data,
    /// `badge`.
    Badge,
    /// `collapseKey`.
    CollapseKey,
    /// `ttl`.
    Ttl,
    /// `mediaUrl`.
    MediaUrl,
    /// `whatsappTemplate`.
    WhatsappTemplate,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::From,
        Self::ReplyTo,
        Self::Cc,
        Self::Bcc,
        Self::Headers,
        Self::Attachments,
        Self::ContentId,
        Self::Title,
        Self::Data,
        Self::Badge,
        Self::CollapseKey,
        Self::Ttl,
        Self::MediaUrl,
        Self::WhatsappTemplate,
    ];

    /// The field's name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::ReplyTo => "replyTo",
            Self::Cc => "cc",
            Self::Bcc => "bcc",
            Self::Headers => "headers",
            Self::Attachments => "attachments",
            Self::ContentId => "attachments[].contentId",
            Self::Title => "title",
            Self::Data => "data",
            Self::Badge => "badge",
            Self::CollapseKey => "collapseKey",
            Self::Ttl => "ttl",
            Self::MediaUrl => "mediaUrl",
            Self::WhatsappTemplate => "whatsappTemplate",
        }
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    /// Those of the list.
    #[must_use]
    pub fn of(list: &[Feature]) -> Self {
        Self(list.iter().fold(0, |set, feature| set | 1 << (*feature as u16)))
    }

    /// Those that `other` has not.
    pub fn beyond(self, other: Self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| (self.0 & !other.0) & (1 << (*feature as u16)) != 0)
    }
}

impl Content<'_> {
    /// What the message uses.
    #[must_use]
    pub fn features(&self) -> Features {
        Features(Feature::ALL.into_iter().filter(|feature| self.uses(*feature)).fold(0, |set, feature| set | 1 << (feature as u16)))
    }

    /// Does the message use the feature?
    #[must_use]
    pub fn uses(&self, feature: Feature) -> bool {
        match feature {
            Feature::From => self.from.is_some(),
            Feature::ReplyTo => self.reply_to.is_some(),
            Feature::Cc => !self.cc.is_empty(),
            Feature::Bcc => !self.bcc.is_empty(),
            // The link is one.
            Feature::Headers => !self.headers.is_empty() || self.unsubscribe,
            Feature::Attachments => !self.attachments.is_empty(),
            Feature::ContentId => self.attachments.iter().any(|file| file.content_id.is_some()),
            Feature::Title => self.title.is_some(),
            Feature::Data => !self.data.is_empty(),
            Feature::Badge => self.badge.is_some(),
            Feature::CollapseKey => self.collapse_key.is_some(),
            Feature::Ttl => self.ttl.is_some(),
            Feature::MediaUrl => self.media_url.is_some(),
            Feature::WhatsappTemplate => self.whatsapp_template.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_uses_beyond_what_is_carried() {
        let content = Content { reply_to: Some("a@example.com".into()), cc: vec!["b@example.com".to_owned()], ..Content::default() };
        let beyond = |carried: &[Feature]| content.features().beyond(Features::of(carried)).collect::<Vec<_>>();
        assert_eq!(beyond(&[]), [Feature::ReplyTo, Feature::Cc]);
        assert_eq!(beyond(&[Feature::Cc, Feature::Bcc]), [Feature::ReplyTo]);
        assert_eq!(beyond(&Feature::ALL), []);
        assert_eq!(Content::default().features(), Features::default());
    }

    #[test]
    fn an_attachments_size_is_that_of_what_base64_stands_for() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let file = |content: &str| Attachment {
            filename: String::new(),
            content_type: String::new(),
            content: content.to_owned(),
            content_id: None,
        };
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"abcd", &[255; 100], &[0; 101]] {
            assert_eq!(file(&STANDARD.encode(bytes)).size(), Some(bytes.len()));
        }
        for text in ["a", "aGk", "aGk= ", "aG k", "aGl=", "aR==", "a===", "====", "=aGk", "aGk=aGk=", "aGk_", "aGk-", "äGk=", "aGk=\n"] {
            assert_eq!(file(text).size(), STANDARD.decode(text).ok().map(|b| b.len()), "{text}");
        }
    }

    #[test]
    fn every_member_reads_back_and_absent_ones_are_left_out() {
        let text = r#"{"from":"a@example.com","subject":"Hi","attachments":[{"filename":"a.txt","contentType":"text/plain","content":"aGk="}],"tags":["t"],"metadata":{"k":"v"}}"#;
        let content: Content<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&content).unwrap(), text);
        assert!(!format!("{content:?}").contains("aGk="));
        assert_eq!(serde_json::to_string(&Content::default()).unwrap(), "{}");
    }
}
