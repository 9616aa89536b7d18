//! Suppressions: addresses that a tenant does not write to any more. Acceptance and the start of every attempt look here, in
//! their own transactions ([`crate::Messages::accept`], [`crate::Queue::start`]); settling adds what providers tell
//! ([`crate::Settlement::suppresses`]).

use async_trait::async_trait;
use raven_core::{Channel, Environment, Seq, SuppressionId, SuppressionReason, SuppressionSource, TenantId, Timestamp};

use crate::{AuditRecord, Claim, Outcome, Result};

/// A suppression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionRecord {
    /// Its id.
    pub id: SuppressionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Live or test messages.
    pub environment: Environment,
    /// Messages of this channel.
    pub channel: Channel,
    /// The recipient, in the form in which it is compared ([`raven_core::suppression::comparable`]).
    pub address: String,
    /// Why.
    pub reason: SuppressionReason,
    /// What made it.
    pub source: SuppressionSource,
    /// The message that it came of.
    pub message: Option<Seq>,
    /// What was told of the recipient.
    pub detail: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A suppression to create.
#[derive(Clone, Debug)]
pub struct NewSuppression {
    /// The suppression.
    pub record: SuppressionRecord,
    /// The caller's idempotency key, if one was given.
    pub claim: Option<Claim>,
    /// What the audit log says.
    pub audit: AuditRecord,
}

/// Which suppressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionFilter {
    /// Of this environment.
    pub environment: Environment,
    /// Exactly this channel.
    pub channel: Option<Channel>,
    /// This text (in lower case) stands somewhere in the address, whatever the case of its ASCII letters.
    pub part: Option<String>,
}

impl SuppressionFilter {
    /// Does every suppression of the environment pass?
    #[must_use]
    pub const fn takes_all(&self) -> bool {
        self.channel.is_none() && self.part.is_none()
    }

    /// Does this one pass?
    #[must_use]
    pub fn takes(&self, channel: Channel, address: &str) -> bool {
        self.channel.is_none_or(|wanted| wanted == channel)
            && self.part.as_deref().is_none_or(|part| address.to_ascii_lowercase().contains(part))
    }
}

/// A page to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionQuery {
    /// Which ones.
    pub filter: SuppressionFilter,
    /// Only below this one (exclusive): where the last page ended.
    pub before: Option<(Timestamp, SuppressionId)>,
    /// Rows that pass and are left out: those of the pages before this one.
    pub skip: usize,
    /// Rows to return at most.
    pub limit: usize,
    /// Rows to look at at most: no index serves the filter, nor finds a page by its number.
    pub scan: usize,
}

/// A page that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionPage {
    /// Newest first.
    pub rows: Vec<SuppressionRecord>,
    /// Where the next page starts ([`SuppressionQuery::before`]); `None` when nothing is left. May be set though `rows` holds
    /// fewer than `limit`: the scan stopped first.
    pub next: Option<(Timestamp, SuppressionId)>,
}

/// Verbs about suppressions.
#[async_trait]
pub trait Suppressions: Send + Sync {
    /// Creates a suppression.
    ///
    /// # Errors
    /// [`Conflict("suppression")`](crate::Error::Conflict) when the address is listed for its environment and channel; then the
    /// idempotency key is not used up.
    async fn create_suppression(&self, new: NewSuppression) -> Result<Outcome>;

    /// Adds suppressions of one tenant in one transaction, with an entry for the audit log where there is one. Those whose address
    /// is listed for its environment and channel already stay as they are. How many were added.
    async fn add_suppressions(&self, tenant: TenantId, batch: Vec<SuppressionRecord>, audit: Option<AuditRecord>) -> Result<usize>;

    /// The tenant's suppression with this id, of any of the environment given.
    async fn find_suppression(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: SuppressionId,
    ) -> Result<Option<SuppressionRecord>>;

    /// Why messages to this recipient are not sent, if that is so: what acceptance would find now.
    async fn find_suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
    ) -> Result<Option<SuppressionReason>>;

    /// A page of the tenant's suppressions.
    async fn list_suppressions(&self, tenant: TenantId, query: &SuppressionQuery) -> Result<SuppressionPage>;

    /// How many there are among the newest `most`: exact for a tenant that has no more than that.
    async fn count_suppressions(&self, tenant: TenantId, filter: &SuppressionFilter, most: usize) -> Result<usize>;

    /// Deletes a suppression; `false` when there is none.
    async fn delete_suppression(&self, tenant: TenantId, id: SuppressionId, audit: AuditRecord) -> Result<bool>;
}
