//! Messages that somebody sent to a tenant.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, Environment, Seq, TenantId, Timestamp, keyword::Keyword};

use crate::Result;

/// A message to a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRecord {
    /// Its key; its time is that of its arrival.
    pub seq: Seq,
    /// Whose it is.
    pub tenant: TenantId,
    /// Live, or test.
    pub environment: Environment,
    /// How it travelled.
    pub channel: Channel,
    /// Through which config.
    pub config: ConfigId,
    /// Id of the config's provider.
    pub provider: String,
    /// The provider's own id of it.
    pub provider_message_id: String,
    /// Who wrote.
    pub sender: String,
    /// To which number or name of the tenant's.
    pub recipient: String,
    /// What they wrote.
    pub body: String,
    /// Where its media are.
    pub media: Vec<String>,
    /// What it means, if it is one of the words that mean something alone.
    pub keyword: Option<Keyword>,
    /// The last message that the tenant had sent to whoever wrote.
    pub message: Option<Seq>,
    /// When it was sent, by the provider's clock.
    pub sent_at: Option<Timestamp>,
}

/// Which messages to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundFilter {
    /// `None`: both.
    pub environment: Option<Environment>,
    /// Exactly this channel.
    pub channel: Option<Channel>,
    /// Exactly this sender.
    pub sender: Option<String>,
}

/// A page to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundQuery {
    /// Which ones.
    pub filter: InboundFilter,
    /// Only below this one (exclusive): where the last page ended.
    pub before: Option<Seq>,
    /// Rows to return at most.
    pub limit: usize,
    /// Rows to look at at most: no index serves the filter.
    pub scan: usize,
}

/// A page that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPage {
    /// Newest first.
    pub rows: Vec<InboundRecord>,
    /// Where the next page starts ([`InboundQuery::before`]); `None` when nothing is left. May be set though `rows` holds fewer than
    /// `limit`: the scan stopped first.
    pub next: Option<Seq>,
}

/// Verbs about messages to tenants. They are kept by [`crate::Callbacks::apply_callbacks`].
#[async_trait]
pub trait InboundMessages: Send + Sync {
    /// A page of the tenant's messages.
    async fn list_inbound(&self, tenant: TenantId, query: &InboundQuery) -> Result<InboundPage>;

    /// The newest message that the tenant sent to this recipient on this channel, among so many of its newest ones in all.
    async fn find_last_sent(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
        scan: usize,
    ) -> Result<Option<Seq>>;
}

impl InboundFilter {
    /// Does every message of its environments pass?
    const fn takes_all(&self) -> bool {
        self.channel.is_none() && self.sender.is_none()
    }

    fn takes(&self, m: &InboundRecord) -> bool {
        self.channel.is_none_or(|channel| channel == m.channel) && self.sender.as_ref().is_none_or(|sender| *sender == m.sender)
    }
}

impl InboundQuery {
    pub(crate) fn environments(&self) -> &[Environment] {
        self.filter.environment.as_ref().map_or(Environment::ALL, std::slice::from_ref)
    }

    /// Rows to read of each environment: one more than are looked at, to see whether there are more.
    pub(crate) fn rows(&self) -> usize {
        let looked_at = if self.filter.takes_all() { self.limit } else { self.scan };
        looked_at.max(1).saturating_add(1)
    }

    /// The page made of the rows that were read, those of each environment newest first.
    pub(crate) fn page(&self, strands: Vec<Vec<InboundRecord>>) -> InboundPage {
        // Nothing below the end of a strand that was not read to its end is known.
        let known_to =
            strands.iter().filter(|rows| rows.len() >= self.rows()).filter_map(|rows| rows.get(rows.len() - 2)).map(|m| m.seq).max();
        let mut rows: Vec<InboundRecord> = strands.into_iter().flatten().filter(|m| known_to.is_none_or(|known| m.seq >= known)).collect();
        rows.sort_unstable_by_key(|m| std::cmp::Reverse(m.seq));
        rows.retain(|m| self.filter.takes(m));
        let mut next = known_to;
        if rows.len() > self.limit {
            rows.truncate(self.limit);
            next = rows.last().map(|m| m.seq);
        }
        InboundPage { rows, next }
    }
}

/// How the media of a message are written down: a line each, for no URL has a line break.
pub(crate) struct Media;

impl Media {
    pub(crate) fn write(media: &[String]) -> String {
        media.join("\n")
    }

    pub(crate) fn read(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }
}
