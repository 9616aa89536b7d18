//! What a callback tells, in the store's terms: which message, which status, whom to write to no more.

use std::{panic::AssertUnwindSafe, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use raven_core::{
    Channel, Environment, EventKind, IdCipher, Ids, Status, SuppressionId, SuppressionReason, Timestamp,
    address::Email,
    keyword::{Keyword, Keywords},
    message::Content,
    retry::may_arrive_elsewhere,
    suppression::comparable,
};
use raven_providers::{
    Bound, Callback, Told, Unreadable,
    callback::{Happened, Inbound, Report, Wish},
};
use raven_store::{CallbackRecord, Detour, InboundRecord, Patience, Preference, Reading, Reported, Store, Suppressing, Telling};

use crate::{
    clock::Entropy,
    directory::{Connection, TenantView},
    routing::{self, Needs, Query},
};

/// How many soft bounces, within how many days and without a delivery, suppress an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftBounces {
    /// So many; 0: they never do.
    pub bounces: u16,
    /// Days that they count.
    pub days: u16,
}

impl Default for SoftBounces {
    fn default() -> Self {
        Self { bounces: 5, days: 30 }
    }
}

/// What the operator decides about callbacks.
#[derive(Clone, Debug, Default)]
pub struct CallbackOptions {
    /// Where the world reaches this installation, no slash at the end; `None` where nobody said so.
    pub public_url: Option<String>,
    /// Words that mean something alone.
    pub keywords: Keywords,
    /// When soft bounces suppress.
    pub soft_bounces: SoftBounces,
}

/// When a callback that names messages which are not known yet is looked at again, by how often it was.
const AGAIN: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(300),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];
/// Messages among which the last one to a sender is looked for.
const SCAN: usize = 2000;
/// A provider's clock may be ahead of ours by so much.
const AHEAD: Duration = Duration::from_secs(300);

/// What readings are made with.
pub(crate) struct Reader<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) cipher: &'a IdCipher,
    pub(crate) ids: &'a Ids,
    pub(crate) keywords: &'a Keywords,
    pub(crate) soft_bounces: SoftBounces,
    /// The tenant whose callbacks are read, if it is there.
    pub(crate) view: Option<&'a TenantView>,
    pub(crate) now: Timestamp,
}

/// What is left to do beside the reading.
pub(crate) struct Read {
    pub(crate) reading: Reading,
    /// URLs of the provider's own to `GET`.
    pub(crate) confirm: Vec<String>,
}

/// What an adapter makes of a stored callback.
pub(crate) fn tell(record: &CallbackRecord, connection: &Connection) -> Result<Vec<Told>, String> {
    let kept: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&record.headers).unwrap_or_default();
    let headers: HeaderMap = kept
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value.as_str()?).ok()?)))
        .collect();
    let method = Method::try_from(record.method.as_str()).unwrap_or(Method::POST);
    let callback = Callback { method: &method, query: &record.query, headers: &headers, body: &record.body };
    // A parser that panics is one callback's misfortune, which a later version mends.
    let read = || match &connection.bound {
        Bound::Http(provider) => provider.read(&callback),
        Bound::Smpp(settings) => settings.read(&callback),
        Bound::Smtp(_) => Err(Unreadable::new("the provider makes no callbacks")),
    };
    match std::panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err("the adapter failed".to_owned()),
    }
}

impl Reader<'_> {
    /// Turns what was told into what is applied.
    ///
    /// # Errors
    /// When the store can't be asked for the message that an inbound one answers, or there is no randomness.
    pub(crate) async fn read(
        &self,
        record: &CallbackRecord,
        connection: &Connection,
        told: Result<Vec<Told>, String>,
    ) -> raven_store::Result<Read> {
        let spec = connection.provider.spec;
        let (mut tells, mut confirm) = (Vec::new(), Vec::new());
        let told = match told {
            Ok(told) => told,
            Err(why) => return Ok(Read { reading: self.reading(record, spec.channel, Err(why)), confirm }),
        };
        for each in told {
            match each {
                Told::Report(report) => {
                    let mut reported = self.report(record, spec.channel, report)?;
                    reported.detours = self.detours(record, connection, &reported).await?;
                    tells.push(Telling::Reported(Box::new(reported)));
                }
                // What nothing proves brings no messages and has no wishes.
                Told::Inbound(inbound) if record.is_trusted => self.inbound(record, connection, inbound, &mut tells).await?,
                Told::Wish(wish) if record.is_trusted => tells.extend(self.wish(spec.channel, wish)?.map(Telling::Preference)),
                Told::Confirm { url } if record.is_trusted => confirm.push(url),
                Told::Inbound(_) | Told::Wish(_) | Told::Confirm { .. } => {}
            }
        }
        Ok(Read { reading: self.reading(record, spec.channel, Ok(tells)), confirm })
    }

    /// Of a callback whose config is gone.
    pub(crate) fn without_config(&self, record: &CallbackRecord) -> Reading {
        self.reading(record, Channel::Sms, Err("its provider config is gone, or can't be used".to_owned()))
    }

    fn reading(&self, record: &CallbackRecord, channel: Channel, tells: Result<Vec<Telling>, String>) -> Reading {
        Reading {
            callback: Some(record.seq),
            tenant: record.tenant,
            config: record.config,
            channel,
            is_trusted: record.is_trusted,
            tells,
            again_at: usize::try_from(record.tries).ok().and_then(|tries| AGAIN.get(tries)).map(|wait| self.now.after(*wait)),
        }
    }

    fn report(&self, record: &CallbackRecord, channel: Channel, report: Report) -> raven_store::Result<Reported> {
        let status = status(report.happened);
        let mut reason = report.code;
        if reason.is_none() {
            reason = match report.happened {
                Happened::HardBounced => Some("hard_bounce".to_owned()),
                Happened::SoftBounced => Some("soft_bounce".to_owned()),
                Happened::Failed => Some("undelivered".to_owned()),
                _ => None,
            };
        }
        let at = report.at.unwrap_or_else(|| record.seq.at()).min(self.now.after(AHEAD));
        let suppresses = match (report.happened, reason.as_deref()) {
            (Happened::HardBounced, _) => Some((SuppressionReason::HardBounce, None)),
            (Happened::SoftBounced, _) => self.patience().map(|patience| (SuppressionReason::HardBounce, Some(patience))),
            (Happened::Complained, _) => Some((SuppressionReason::SpamComplaint, None)),
            (Happened::Unsubscribed, _) => Some((SuppressionReason::Unsubscribed, None)),
            (Happened::Failed, Some(code)) => SuppressionReason::of_rejection(code).map(|reason| (reason, None)),
            _ => None,
        };
        let suppresses = match suppresses {
            Some((reason, only_after)) => Some(Suppressing { id: self.fresh()?, reason, only_after }),
            None => None,
        };
        Ok(Reported {
            message: report.message.and_then(|id| self.cipher.open(id)),
            provider_message_id: report.provider_message_id,
            // Only emails have copies; and providers write phone numbers in many ways.
            recipient: report.recipient.filter(|_| channel == Channel::Email).and_then(|address| address_of(channel, &address)),
            kind: report.happened.event(),
            status,
            at,
            key: report.key,
            // A reason belongs to what went wrong.
            reason: reason.filter(|_| matches!(status, Some(Status::Failed | Status::Bounced))),
            detail: report.detail,
            payload: Some(report.payload),
            segments: report.segments,
            cost: report.cost,
            suppresses,
            detours: Vec::new(),
        })
    }

    /// The configs through which a message may still arrive that was reported not to have, for a reason that is not its own: those
    /// that could take it now, the best ones first. Only on the word of who is known to be the provider.
    async fn detours(&self, record: &CallbackRecord, connection: &Connection, report: &Reported) -> raven_store::Result<Vec<Detour>> {
        let channel = connection.provider.spec.channel;
        let is_failure = record.is_trusted && report.status == Some(Status::Failed) && report.suppresses.is_none();
        // With one config there is no other way.
        let Some(view) = self.view.filter(|view| is_failure && view.on(channel).nth(1).is_some()) else { return Ok(Vec::new()) };
        if report.reason.as_deref().is_some_and(|reason| !may_arrive_elsewhere(reason)) {
            return Ok(Vec::new());
        }
        let seq = match (report.message, &report.provider_message_id) {
            (Some(seq), _) => Some(seq),
            (None, Some(id)) => self.store.find_by_provider_id(record.tenant, record.config, id, self.now).await?,
            (None, None) => None,
        };
        let Some(seq) = seq else { return Ok(Vec::new()) };
        let Some(message) = self.store.find_message(record.tenant, Some(Environment::Live), seq).await? else { return Ok(Vec::new()) };
        let Some(content) = self.store.find_content(record.tenant, seq).await? else { return Ok(Vec::new()) };
        let Ok(content) = serde_json::from_str::<Content<'_>>(&content) else { return Ok(Vec::new()) };
        if has_copies(&content) {
            return Ok(Vec::new());
        }
        let needs = Needs::of(channel, &content);
        let query = Query { channel, recipient: &message.recipient, needs: &needs, seq, tried: None };
        let others = view.on(channel).filter(|other| other.id != record.config);
        let mut ranked: Vec<_> =
            others.filter_map(|other| Some((routing::assess(&other.contender(self.now), &query).ok()?, other.record()))).collect();
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        Ok(ranked.into_iter().map(|(_, other)| Detour { config: other.id, label: other.label.clone() }).collect())
    }

    fn patience(&self) -> Option<Patience> {
        let SoftBounces { bounces, days } = self.soft_bounces;
        let since = self.now.before(Duration::from_secs(u64::from(days) * 86_400));
        (bounces > 0).then(|| Patience { bounces: i64::from(bounces), since })
    }

    async fn inbound(
        &self,
        record: &CallbackRecord,
        connection: &Connection,
        inbound: Inbound,
        tells: &mut Vec<Telling>,
    ) -> raven_store::Result<()> {
        let (channel, tenant) = (connection.provider.spec.channel, record.tenant);
        let sender = address_of(channel, &inbound.from).unwrap_or(inbound.from);
        let message = self.store.find_last_sent(tenant, Environment::Live, channel, &sender, SCAN).await?;
        let keyword = inbound.keyword.or_else(|| self.keywords.find(&inbound.text));
        if let Some(word @ (Keyword::Stop | Keyword::Start)) = keyword {
            let said: String = inbound.text.chars().take(100).collect();
            let wants = word == Keyword::Start;
            if let (Some(seq), false) = (message, wants) {
                let mut report = Report::new(Happened::Unsubscribed, &inbound.provider_message_id, inbound.payload.clone());
                report.detail = Some(format!("the recipient answered {said:?}"));
                report.at = inbound.at;
                let reported = self.report(record, channel, report)?;
                // The suppression is the wish's.
                tells.push(Telling::Reported(Box::new(Reported { message: Some(seq), suppresses: None, ..reported })));
            }
            tells.push(Telling::Preference(Preference {
                id: self.fresh()?,
                address: sender.clone(),
                wants,
                message,
                detail: Some(said),
                is_inbound: true,
            }));
        }
        tells.push(Telling::Inbound(Box::new(InboundRecord {
            seq: self.ids.next(self.now),
            tenant,
            environment: Environment::Live,
            channel,
            config: record.config,
            provider: connection.provider.spec.id.to_owned(),
            provider_message_id: inbound.provider_message_id,
            sender,
            recipient: inbound.to,
            body: inbound.text,
            media: inbound.media,
            keyword,
            message,
            sent_at: inbound.at,
        })));
        Ok(())
    }

    fn wish(&self, channel: Channel, wish: Wish) -> raven_store::Result<Option<Preference>> {
        let Some(address) = address_of(channel, &wish.recipient) else { return Ok(None) };
        Ok(Some(Preference { id: self.fresh()?, address, wants: wish.wants, message: None, detail: wish.detail, is_inbound: false }))
    }

    fn fresh(&self) -> raven_store::Result<SuppressionId> {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes).map_err(|e| raven_store::Error::Unavailable(e.into()))?;
        Ok(SuppressionId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
    }
}

/// Were others sent it with whom it is for? They may have got it, and would get it again.
fn has_copies(content: &Content<'_>) -> bool {
    !(content.cc.is_empty() && content.bcc.is_empty())
}

/// The status that a message rises to.
const fn status(happened: Happened) -> Option<Status> {
    match happened.event() {
        EventKind::Sent => Some(Status::Sent),
        EventKind::Delivered => Some(Status::Delivered),
        EventKind::Failed => Some(Status::Failed),
        EventKind::Bounced => Some(Status::Bounced),
        EventKind::Complained => Some(Status::Complained),
        EventKind::Unsubscribed => Some(Status::Unsubscribed),
        _ => None,
    }
}

/// An address as a provider writes it, in the form in which recipients are compared.
fn address_of(channel: Channel, text: &str) -> Option<String> {
    let text = text.trim();
    match channel {
        Channel::Email => {
            let bare = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
            let email = Email::parse(bare).ok()?;
            Some(comparable(channel, &email.to_string()).into_owned())
        }
        Channel::Sms | Channel::Whatsapp => {
            let digits = text.strip_prefix("whatsapp:").unwrap_or(text);
            let bare = digits.strip_prefix('+').or_else(|| digits.strip_prefix("00")).unwrap_or(digits);
            // A name that writes is no number.
            (bare.len() >= 5 && bare.bytes().all(|b| b.is_ascii_digit())).then(|| format!("+{bare}"))
        }
        Channel::Push => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_providers_write_them() {
        for (channel, text, expected) in [
            (Channel::Sms, "254722000000", Some("+254722000000")),
            (Channel::Sms, "+254722000000", Some("+254722000000")),
            (Channel::Sms, "00254722000000", Some("+254722000000")),
            (Channel::Whatsapp, "whatsapp:+254722000000", Some("+254722000000")),
            (Channel::Sms, "22384", Some("+22384")),
            (Channel::Sms, "SAFARICOM", None),
            (Channel::Email, "Ada Lovelace <Ada@Example.com>", Some("ada@example.com")),
            (Channel::Email, "nobody", None),
            (Channel::Push, " token ", Some("token")),
        ] {
            assert_eq!(address_of(channel, text).as_deref(), expected, "{text}");
        }
    }
}
