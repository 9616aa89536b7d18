//! Links by which recipients of emails unsubscribe (RFC 8058): what an email carries, and what comes of a link.
//!
//! What must not live here: what is shown to whoever opens a link.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use raven_core::{Channel, ConfigId, Environment, EventKind, Seq, Status, SuppressionId, SuppressionReason, TenantId, message::Content};
use raven_store::{Error, Reading, Reported, Result, Suppressing, Telling};
use subtle::ConstantTimeEq;

use crate::{Engine, vault::SecretKey};

/// The header field with the link.
pub const LINK: &str = "List-Unsubscribe";
/// The header field that says that one `POST` is enough.
pub const ONE_CLICK: &str = "List-Unsubscribe-Post";
/// What stands for the link in the texts of an email.
pub const PLACEHOLDER: &str = "{{unsubscribe_url}}";
/// What tells the report of a link from other reports about a message.
const KEY: &str = "link";

/// Bytes of a token that prove it: nobody guesses 160 bits.
const TAG: usize = 20;
/// Bytes that say which message of which tenant.
const BODY: usize = 24;

/// Makes links and reads them.
pub struct UnsubscribeLinks {
    /// Where the world reaches this installation by https; `None` where it does not, or nobody said so.
    public_url: Option<String>,
    key: SecretKey,
}

impl UnsubscribeLinks {
    /// Links of an installation, with tokens under its key.
    #[must_use]
    pub fn new(public_url: Option<String>, key: SecretKey) -> Self {
        // RFC 8058 (section 3.1) wants https.
        Self { public_url: public_url.filter(|url| url.starts_with("https://")), key }
    }

    /// Can emails carry links?
    #[must_use]
    pub const fn are_possible(&self) -> bool {
        self.public_url.is_some()
    }

    /// The token for the recipient of a message. It says nothing to anybody else, is always the same and stored nowhere: a tag made
    /// of what it names, then that, hidden under the tag.
    #[must_use]
    pub fn token(&self, tenant: TenantId, message: Seq) -> String {
        let mut body = [0; BODY];
        body[..16].copy_from_slice(tenant.0.as_bytes());
        body[16..].copy_from_slice(&message.0.to_be_bytes());
        let tag = self.tag(&body);
        let mut token = [0; TAG + BODY];
        token[..TAG].copy_from_slice(&tag);
        token[TAG..].copy_from_slice(&xor(body, self.pad(&tag)));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The message of a token that [`token`](Self::token) made; `None` for any other, which costs no query.
    #[must_use]
    pub fn open(&self, token: &str) -> Option<(TenantId, Seq)> {
        let bytes: [u8; TAG + BODY] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (tag, hidden) = bytes.split_first_chunk::<TAG>()?;
        let body = xor(hidden.try_into().ok()?, self.pad(tag));
        if !bool::from(self.tag(&body).ct_eq(tag)) {
            return None;
        }
        let (tenant, message) = body.split_first_chunk::<16>()?;
        let message = i64::from_be_bytes(message.try_into().ok()?);
        Some((TenantId(uuid::Uuid::from_bytes(*tenant)), Seq(message)))
    }

    /// Writes the link of a message into what it says, if it is to have one; `false` when this process can't make it.
    #[must_use]
    pub fn write(&self, content: &mut Content<'_>, tenant: TenantId, message: Seq) -> bool {
        if !content.unsubscribe {
            return true;
        }
        let Some(base) = &self.public_url else { return false };
        let url = format!("{base}/v1/unsubscribe/{}", self.token(tenant, message));
        for text in [&mut content.body_html, &mut content.body_text].into_iter().flatten() {
            if text.contains(PLACEHOLDER) {
                *text = text.replace(PLACEHOLDER, &url).into();
            }
        }
        content.headers.insert(LINK.to_owned(), format!("<{url}>"));
        content.headers.insert(ONE_CLICK.to_owned(), format!("{LINK}=One-Click"));
        true
    }

    fn tag(&self, body: &[u8; BODY]) -> [u8; TAG] {
        self.prf(b"tag", body)
    }

    fn pad(&self, tag: &[u8; TAG]) -> [u8; BODY] {
        self.prf(b"pad", tag)
    }

    fn prf<const N: usize>(&self, what: &[u8; 3], input: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        blake3::Hasher::new_keyed(self.key.expose()).update(what).update(input).finalize_xof().fill(&mut bytes);
        bytes
    }
}

fn xor(body: [u8; BODY], pad: [u8; BODY]) -> [u8; BODY] {
    std::array::from_fn(|i| body[i] ^ pad[i])
}

/// Whom a link is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Whose email it was.
    pub tenant: TenantId,
    /// The tenant's name.
    pub sender: String,
    /// The email.
    pub message: Seq,
    /// Live or test.
    pub environment: Environment,
    /// The address that it went to.
    pub address: String,
}

impl Engine {
    /// Whom a link is for; `None` when it is none of ours, or its message is kept no longer.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn find_subscriber(&self, token: &str) -> Result<Option<Subscriber>> {
        let Some((tenant, seq)) = self.unsubscribe_links.open(token) else { return Ok(None) };
        let Some(message) = self.store.find_message(tenant, None, seq).await?.filter(|m| m.channel == Channel::Email) else {
            return Ok(None);
        };
        let Some(record) = self.store.find_tenant(tenant).await? else { return Ok(None) };
        Ok(Some(Subscriber { tenant, sender: record.name, message: seq, environment: message.environment, address: message.recipient }))
    }

    /// Writes to this address no more: durable when this returns, and in the timeline of the email. Twice is the same as once.
    /// `how` is for the timeline.
    ///
    /// # Errors
    /// When the store can't, or there is no randomness. Nothing was done then, or all of it.
    pub async fn unsubscribe(&self, subscriber: &Subscriber, how: &str) -> Result<()> {
        let now = self.clock.now();
        self.report_unsubscribed(subscriber, how, KEY.to_owned()).await?;
        let Subscriber { tenant, environment, address, .. } = subscriber;
        if self.store.find_suppression_of(*tenant, *environment, Channel::Email, address).await?.is_none() {
            // They did so before, somebody lifted it, and now they want it again.
            self.report_unsubscribed(subscriber, how, format!("{KEY}:{}", now.millis())).await?;
        }
        Ok(())
    }

    async fn report_unsubscribed(&self, subscriber: &Subscriber, how: &str, key: String) -> Result<()> {
        let now = self.clock.now();
        let mut id = [0; 16];
        self.entropy.fill(&mut id).map_err(|e| Error::Unavailable(e.into()))?;
        let reported = Reported {
            message: Some(subscriber.message),
            provider_message_id: None,
            recipient: None,
            kind: EventKind::Unsubscribed,
            status: Some(Status::Unsubscribed),
            at: now,
            key,
            reason: None,
            detail: Some(how.to_owned()),
            payload: None,
            segments: None,
            cost: None,
            suppresses: Some(Suppressing {
                id: SuppressionId(uuid::Builder::from_random_bytes(id).into_uuid()),
                reason: SuppressionReason::Unsubscribed,
                only_after: None,
            }),
            detours: Vec::new(),
        };
        let reading = Reading {
            callback: None,
            tenant: subscriber.tenant,
            // No provider told it.
            config: ConfigId(uuid::Uuid::nil()),
            channel: Channel::Email,
            is_trusted: true,
            tells: Ok(vec![Telling::Reported(Box::new(reported))]),
            again_at: None,
        };
        self.store.apply_callbacks(&[reading], now).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(key: u8, url: &str) -> UnsubscribeLinks {
        UnsubscribeLinks::new(Some(url.to_owned()), SecretKey::new([key; 32]))
    }

    #[test]
    fn a_token_opens_under_its_key_alone_and_only_unaltered() {
        let ours = links(1, "https://raven.example");
        let (tenant, seq) = (TenantId(uuid::Uuid::from_u128(7)), Seq(3_726_000_000_000_000_000));
        let token = ours.token(tenant, seq);
        assert_eq!(token.len(), 59);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
        assert_eq!((ours.open(&token), ours.token(tenant, seq)), (Some((tenant, seq)), token.clone()));
        assert_eq!(links(2, "https://raven.example").open(&token), None);
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            // The last digit has bits that stand for nothing; there is one spelling only.
            assert_eq!(ours.open(&altered), None, "{altered}");
        }
        for wrong in ["", "a", &token[1..], &format!("{token}A"), &token.replace(|c: char| c.is_ascii_lowercase(), "ä")] {
            assert_eq!(ours.open(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_of_neighbours_share_nothing_that_shows() {
        let ours = links(1, "https://raven.example");
        let tenant = TenantId(uuid::Uuid::from_u128(7));
        let bytes = |n| URL_SAFE_NO_PAD.decode(ours.token(tenant, Seq(n))).unwrap();
        let equal: usize = (0..1000).map(|n| bytes(n).iter().zip(bytes(n + 1)).filter(|(a, b)| **a == *b).count()).sum();
        // One in 256 by chance.
        assert!(equal < 400, "{equal} of 44,000 bytes");
    }

    #[test]
    fn an_email_gets_its_header_fields_and_its_link_where_that_was_asked_for() {
        let ours = links(1, "https://raven.example");
        let tenant = TenantId(uuid::Uuid::from_u128(7));
        let plain = Content {
            body_html: Some(r#"<a href="{{unsubscribe_url}}">Out</a>"#.into()),
            body_text: Some("Out: {{unsubscribe_url}}".into()),
            ..Content::default()
        };
        let mut content = plain.clone();
        assert!(ours.write(&mut content, tenant, Seq(1)));
        assert_eq!(content, plain, "nobody asked");
        content.unsubscribe = true;
        assert!(ours.write(&mut content, tenant, Seq(1)));
        let url = format!("https://raven.example/v1/unsubscribe/{}", ours.token(tenant, Seq(1)));
        assert_eq!(content.headers[LINK], format!("<{url}>"));
        assert_eq!(content.headers[ONE_CLICK], "List-Unsubscribe=One-Click");
        assert_eq!(content.body_html.as_deref(), Some(&*format!(r#"<a href="{url}">Out</a>"#)));
        assert_eq!(content.body_text.as_deref(), Some(&*format!("Out: {url}")));
    }

    #[test]
    fn there_are_no_links_without_https() {
        for url in [None, Some("http://raven.example".to_owned())] {
            let none = UnsubscribeLinks::new(url, SecretKey::new([1; 32]));
            assert!(!none.are_possible());
            assert!(!none.write(&mut Content { unsubscribe: true, ..Content::default() }, TenantId(uuid::Uuid::nil()), Seq(1)));
        }
    }
}
