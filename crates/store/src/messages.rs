//! Messages and their timelines.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, Environment, EventKind, KeyId, Priority, Seq, Source, Status, TenantId, Timestamp, sms::Encoding};

use crate::{Lease, Operation, Result};

/// Content larger than this (bytes of its JSON) goes to a table of its own before acceptance ([`Messages::put_content`]).
pub const LARGE_CONTENT: usize = 64 * 1024;

/// A message to accept, with its job and its idempotency record.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The row's key; its time is the time of acceptance.
    pub seq: Seq,
    /// Whose it is.
    pub tenant: TenantId,
    /// Live or test.
    pub environment: Environment,
    /// How it travels.
    pub channel: Channel,
    /// Who asked.
    pub source: Source,
    /// What goes first.
    pub priority: Priority,
    /// The key that asked, to be checked again in the transaction.
    pub key: Option<KeyId>,
    /// Whom it reaches.
    pub recipient: String,
    /// What it says: JSON of [`raven_core::message::Content`]. When `large`, its outline: tags and metadata only.
    pub content: String,
    /// The content was stored with [`Messages::put_content`] under the same seq.
    pub large: bool,
    /// The caller's own reference.
    pub external_id: Option<String>,
    /// Parts of an SMS.
    pub segments: Option<i16>,
    /// Encoding of an SMS.
    pub encoding: Option<Encoding>,
    /// The caller's idempotency key, if one was given.
    pub idempotency: Option<MessageClaim>,
    /// When it is to be sent.
    pub due_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
    /// The accepting node, if it dispatches the message itself.
    pub lease: Option<Lease>,
    /// Through which config it is expected to go, if it waits.
    pub outlet: crate::Outlet,
    /// Set when the call permit is already held: attempt 1 counts as started with this acceptance, through this config
    /// (`None`: the sandbox). Requires `lease`.
    pub started: Option<Option<ConfigId>>,
    /// Messages that the tenant may have accepted on the day of `seq`, with this one; `None`: it does not count. The debit is
    /// part of the acceptance, and the limit is never exceeded.
    pub quota: Option<i64>,
    /// The entry for the audit log (under the message's `seq`), where a human or an admin key sends.
    pub audit: Option<String>,
}

/// Messages that wait to be accepted. They are asked for once, at the moment when they are about to be written, so that all
/// that came until then share the commit.
pub trait Intake: Send + 'static {
    /// The messages, and the time. See [`Messages::accept`].
    fn take(self: Box<Self>) -> (Vec<NewMessage>, Timestamp);
}

/// A claim on an idempotency key by a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageClaim {
    /// [`Operation::SendMessage`] or [`Operation::SendMessageAsHuman`].
    pub operation: Operation,
    /// The caller's key.
    pub key: String,
    /// Of the payload.
    pub fingerprint: [u8; 16],
    /// When housekeeping may forget the record.
    pub expires_at: Timestamp,
}

/// What became of one message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Stored.
    Created,
    /// Stored, and not to be sent: the recipient is suppressed.
    Suppressed,
    /// The key was used before with the same payload: that message.
    Replayed {
        /// Its key.
        seq: Seq,
        /// Its recipient.
        recipient: String,
        /// Its channel.
        channel: Channel,
        /// The status that its 202 told.
        status: Status,
    },
    /// The key was used before with another payload.
    KeyReused,
    /// Refused by the state of the tenant or the key, as the transaction saw it.
    Refused(Refusal),
}

/// Why acceptance was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The key is revoked, expired or gone.
    Key,
    /// The tenant is not active.
    Tenant,
    /// The tenant's quota of the day is used up.
    Quota,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRecord {
    /// The row's key.
    pub seq: Seq,
    /// Live or test.
    pub environment: Environment,
    /// How it travels.
    pub channel: Channel,
    /// Who asked.
    pub source: Source,
    /// What goes first.
    pub priority: Priority,
    /// Where it is in its life.
    pub status: Status,
    /// Whom it reaches.
    pub recipient: String,
    /// The caller's own reference.
    pub external_id: Option<String>,
    /// Id of the provider that had it last.
    pub provider: Option<String>,
    /// Through which config.
    pub config: Option<ConfigId>,
    /// The provider's own id.
    pub provider_message_id: Option<String>,
    /// Parts of an SMS.
    pub segments: Option<i16>,
    /// Encoding of an SMS.
    pub encoding: Option<Encoding>,
    /// ISO 4217 code of the cost.
    pub cost_currency: Option<String>,
    /// Millionths of a unit.
    pub cost_micros: Option<i64>,
    /// Why it failed, or was not sent: of a suppressed message the name of a [`raven_core::SuppressionReason`].
    pub failure_reason: Option<String>,
}

/// One stored line of a timeline. `queued` has none (the message's own time tells it), and `sending` stands in
/// `started_at` of the outcome of the attempt; what is under way comes from the job ([`Messages::list_events`] fills both in).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// In which attempt, from 1; 0 outside of any.
    pub attempt: i16,
    /// Reason or explanation.
    pub detail: Option<String>,
    /// What the provider said, raw (at most 4 KiB).
    pub payload: Option<String>,
}

/// Which messages to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// `None`: both.
    pub environment: Option<Environment>,
    /// Exactly this status.
    pub status: Option<Status>,
    /// Exactly this channel.
    pub channel: Option<Channel>,
    /// Exactly this recipient.
    pub recipient: Option<String>,
    /// Exactly this reference.
    pub external_id: Option<String>,
    /// Exactly this source.
    pub source: Option<Source>,
    /// Exactly this provider.
    pub provider: Option<String>,
    /// Accepted at this time or later.
    pub from: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
}

/// A page to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageQuery {
    /// Which ones.
    pub filter: MessageFilter,
    /// Only below this seq (exclusive): where the last page ended.
    pub before: Option<Seq>,
    /// Rows to return at most.
    pub limit: usize,
    /// Rows to look at at most, per environment, where no index serves the filter.
    pub scan: usize,
}

/// A page that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct MessagePage {
    /// Newest first.
    pub rows: Vec<MessageRecord>,
    /// Where the next page starts ([`MessageQuery::before`]); `None` when nothing is left. May be set though `rows` holds
    /// fewer than `limit`: the scan stopped first.
    pub next: Option<Seq>,
}

/// Verbs about messages.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Accepts a batch in one durable transaction: message, job and idempotency record each. The answers stand in the
    /// order of the batch. One message never fails another: what can be decided per row is an [`Accepted`], and a row
    /// that the database refuses (a bug) takes only itself down ([`Error::Internal`](crate::Error::Internal) for it alone).
    /// A replay answers though the quota is used up. Each created message is counted (see [`crate::Usages`]).
    /// A message whose recipient is suppressed, as the transaction sees it, is stored with that status and reason, and has
    /// neither a job nor a debit ([`Accepted::Suppressed`]).
    /// Within one batch no two messages share (tenant, environment, operation, key): the caller has folded them.
    async fn accept(&self, batch: Vec<NewMessage>, now: Timestamp) -> Result<Vec<Result<Accepted>>>;

    /// Accepts what waits for one of the [writers](crate::Health::writers), the first being 0, when its turn has come. What was
    /// not asked for when this fails is still waiting.
    async fn accept_waiting(&self, writer: usize, intake: Box<dyn Intake>) -> Result<Vec<Result<Accepted>>>;

    /// What a claim on an idempotency key would get, without storing anything: [`Accepted::Replayed`] or
    /// [`Accepted::KeyReused`] when the key was used before, `None` when it is free. For a message that can't be accepted
    /// now (no provider), but whose replay still answers.
    async fn find_replay(&self, tenant: TenantId, environment: Environment, claim: &MessageClaim) -> Result<Option<Accepted>>;

    /// Stores large content ahead of its message.
    async fn put_content(&self, tenant: TenantId, seq: Seq, content: &str) -> Result<()>;

    /// Deletes stored content that has no message and is older than `before`; at most `limit` rows. The number deleted.
    async fn sweep_contents(&self, before: Timestamp, limit: usize) -> Result<usize>;

    /// The tenant's message, of any of the environment given.
    async fn find_message(&self, tenant: TenantId, environment: Option<Environment>, seq: Seq) -> Result<Option<MessageRecord>>;

    /// The timeline, oldest first by (time, order of recording), with `queued` and `sending` filled in.
    async fn list_events(&self, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>>;

    /// What the row of the tenant's message holds of its content: all of it, or the outline of a large one.
    async fn find_outline(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>>;

    /// The content of the tenant's message: JSON.
    async fn find_content(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>>;

    /// A page of the tenant's messages.
    async fn list_messages(&self, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage>;

    /// Forgets idempotency records that expired before `now`; at most `limit`. The number forgotten. One call looks at a part of
    /// the records, the next one goes on where it stopped.
    async fn purge_idempotency(&self, now: Timestamp, limit: usize) -> Result<usize>;
}
