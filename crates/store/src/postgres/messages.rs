//! Messages: pages, single ones, contents, and what is forgotten. Acceptance is in [`super::accept`], timelines are in
//! [`super::timeline`].

use async_trait::async_trait;
use raven_core::{Channel, Environment, Seq, Source, Status, TenantId, Timestamp};

use super::{
    PostgresStore, accept,
    connection::Param,
    rows::{self, get, limit as limit_of},
    timeline,
};
use crate::{
    Accepted, EventRecord, MessageFilter, MessageQuery, MessageRecord, Messages, NewMessage, Result,
    messages::{Intake, MessageClaim, MessagePage},
};

macro_rules! message_columns {
    () => {
        "seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id, segments, \
         cost_currency, cost_micros, failure_reason, encoding, priority"
    };
}

/// A page. Each way in (a strand) is an index in the order of the page, read for `$4` rows at most and one more, which
/// tells that something is left. Rows are compared and ordered by the index's later columns together, and `seq` is never
/// compared alone there: else the planner may walk the primary key through the messages of all tenants, which takes for ever
/// where the tenant's own are few. For the same reason the lower bound is applied to what was read, not to the way in. What no
/// index decides is sifted here. Strands are looked through only as far down as all of them were read (`stop`), so no row
/// between is missed.
macro_rules! page {
    ($strands:literal) => {
        concat!(
            "WITH strand AS MATERIALIZED (",
            $strands,
            "), stop AS (
  SELECT max(seq) AS seq FROM strand WHERE n = $4::bigint + 1
), looked AS (
  SELECT * FROM strand WHERE seq > COALESCE((SELECT seq FROM stop), -1)
)
SELECT e.stop, e.lowest, r.* FROM (SELECT (SELECT seq FROM stop) AS stop, (SELECT min(seq) FROM looked) AS lowest) e
LEFT JOIN (
  SELECT * FROM looked
  WHERE ($6::smallint IS NULL OR environment = $6) AND ($7::smallint IS NULL OR status = $7) AND ($8::smallint IS NULL OR channel = $8)
    AND ($9::smallint IS NULL OR source = $9) AND ($10::text IS NULL OR recipient = $10) AND ($11::text IS NULL OR provider = $11)
  ORDER BY seq DESC LIMIT $5::bigint + 1
) r ON true ORDER BY r.seq DESC"
        )
    };
}

const BY_TENANT: &str = page!(
    "
  SELECT m.* FROM unnest($12::smallint[]) AS e (environment) CROSS JOIN LATERAL (
    SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id, segments,
      cost_currency, cost_micros, failure_reason, encoding, priority, row_number() OVER (ORDER BY environment DESC, seq DESC) AS n
    FROM messages WHERE tenant_id = $1 AND environment >= e.environment AND (environment, seq) < (e.environment, $3)
    ORDER BY environment DESC, seq DESC LIMIT $4::bigint + 1
  ) m WHERE m.seq >= $2"
);
const BY_EXTERNAL_ID: &str = page!(
    "
  SELECT m.* FROM (
    SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id, segments,
      cost_currency, cost_micros, failure_reason, encoding, priority, row_number() OVER (ORDER BY external_id DESC, seq DESC) AS n
    FROM messages WHERE tenant_id = $1 AND external_id >= $12 AND (external_id, seq) < ($12, $3) AND external_id IS NOT NULL
    ORDER BY external_id DESC, seq DESC LIMIT $4::bigint + 1
  ) m WHERE m.seq >= $2"
);
// The terms of the partial index are spelled out, or it could not be used.
const BY_STATUS: &str = page!(
    "
  SELECT m.* FROM (
    SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id, segments,
      cost_currency, cost_micros, failure_reason, encoding, priority, row_number() OVER (ORDER BY rare DESC, seq DESC) AS n
    FROM messages WHERE tenant_id = $1 AND rare >= $12 AND (rare, seq) < ($12, $3) AND rare IS NOT NULL
    ORDER BY rare DESC, seq DESC LIMIT $4::bigint + 1
  ) m WHERE m.seq >= $2"
);

const FIND: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages WHERE seq = $1 AND tenant_id = $2 AND ($3::smallint IS NULL OR environment = $3)"
);
const FIND_OUTLINE: &str = "SELECT content FROM messages WHERE seq = $1 AND tenant_id = $2";
const FIND_CONTENT: &str = "SELECT CASE WHEN m.large THEN c.content ELSE m.content END AS content \
     FROM messages m LEFT JOIN contents c ON m.large AND c.seq = m.seq WHERE m.seq = $1 AND m.tenant_id = $2";
// A call that is repeated because its answer got lost finds its own row.
const PUT_CONTENT: &str = "INSERT INTO contents (seq, tenant_id, content) VALUES ($1, $2, $3) \
     ON CONFLICT (seq) DO UPDATE SET content = EXCLUDED.content WHERE contents.tenant_id = EXCLUDED.tenant_id";
const SWEEP_CONTENTS: &str = "DELETE FROM contents WHERE seq IN (SELECT c.seq FROM contents c \
     WHERE c.seq < $1 AND NOT EXISTS (SELECT FROM messages m WHERE m.seq = c.seq) ORDER BY c.seq LIMIT $2)";

// No index tells the expired records (it would cost each acceptance), so all are read, by stretches of blocks.
const PURGE_IDEMPOTENCY: &str = "DELETE FROM idempotency WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency \
     WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND expires_at < $3 LIMIT $4)) AND expires_at < $3";
const IDEMPOTENCY_BLOCKS: &str = "SELECT pg_relation_size('idempotency') / current_setting('block_size')::bigint AS blocks";
/// Blocks that one statement reads.
const STRETCH: i64 = 4096;
/// Such statements in one call.
const STRETCHES: i64 = 4;

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[
    BY_TENANT,
    BY_EXTERNAL_ID,
    BY_STATUS,
    FIND,
    FIND_OUTLINE,
    FIND_CONTENT,
    PUT_CONTENT,
    SWEEP_CONTENTS,
    PURGE_IDEMPOTENCY,
    IDEMPOTENCY_BLOCKS,
];

const _: () = assert!(Status::Expired.code() == 40 && Status::Delivered.code() == 60);

/// Does the partial index over rare statuses hold this one?
fn is_rare(status: Status) -> bool {
    status >= Status::Expired && status != Status::Delivered
}

/// The smallest seq of an instant; beyond what a seq can tell, the smallest or largest one.
fn floor(at: Timestamp) -> i64 {
    let last = Seq(i64::MAX).at();
    if at > last { i64::MAX } else { Seq::first_at(at.max(Timestamp::from_millis(0))).0 }
}

async fn list(store: &PostgresStore, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage> {
    let MessageFilter { environment, status, channel, recipient, external_id, source, provider, from, until } = &query.filter;
    let from = from.map_or(0, floor);
    let until = until.map_or(i64::MAX, floor).min(query.before.map_or(i64::MAX, |seq| seq.0));
    // What is left to sift once the way in is chosen.
    let mut environment_left = environment.map(Environment::code);
    let mut status_left = status.map(Status::code);
    let environments: Vec<i16> = environment.as_ref().map_or(Environment::ALL, std::slice::from_ref).iter().map(|e| e.code()).collect();
    let rare = status.filter(|s| is_rare(*s)).map(Status::code);
    let (statement, way_in): (&'static str, Param<'_>) = match (external_id, &rare) {
        (Some(external_id), _) => (BY_EXTERNAL_ID, external_id),
        (None, Some(status)) => {
            status_left = None;
            (BY_STATUS, status)
        }
        (None, None) => {
            environment_left = None;
            (BY_TENANT, &environments)
        }
    };
    let (channel, source) = (channel.map(Channel::code), source.map(Source::code));
    let sifts = environment_left.is_some()
        || status_left.is_some()
        || channel.is_some()
        || source.is_some()
        || recipient.is_some()
        || provider.is_some();
    // Where every row counts, a full page is as far as a strand need be read.
    let scan = if sifts { query.scan.max(1) } else { query.limit.max(1) };
    let rows = store
        .connection()
        .await?
        .query_within(
            tenant,
            statement,
            &[
                &tenant.0,
                &from,
                &until,
                &limit_of(scan),
                &limit_of(query.limit),
                &environment_left,
                &status_left,
                &channel,
                &source,
                recipient,
                provider,
                way_in,
            ],
        )
        .await?;
    let (mut stop, mut lowest) = (None, None);
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        (stop, lowest) = (get::<Option<i64>>(row, "stop")?, get::<Option<i64>>(row, "lowest")?);
        if get::<Option<i64>>(row, "seq")?.is_some() {
            found.push(rows::message(row)?);
        }
    }
    let next = if found.len() > query.limit {
        found.truncate(query.limit);
        found.last().map(|m| m.seq)
    } else {
        stop.and(lowest).map(Seq)
    };
    Ok(MessagePage { rows: found, next })
}

#[async_trait]
impl Messages for PostgresStore {
    async fn accept(&self, batch: Vec<NewMessage>, now: Timestamp) -> Result<Vec<Result<Accepted>>> {
        accept::accept(self, &batch, now).await
    }

    async fn accept_waiting(&self, writer: usize, intake: Box<dyn Intake>) -> Result<Vec<Result<Accepted>>> {
        accept::accept_waiting(self, writer, intake).await
    }

    async fn find_replay(&self, tenant: TenantId, environment: Environment, claim: &MessageClaim) -> Result<Option<Accepted>> {
        accept::find_replay(self, tenant, environment, claim).await
    }

    async fn put_content(&self, tenant: TenantId, seq: Seq, content: &str) -> Result<()> {
        self.connection().await?.execute(PUT_CONTENT, &[&seq.0, &tenant.0, &content]).await?;
        Ok(())
    }

    async fn sweep_contents(&self, before: Timestamp, limit: usize) -> Result<usize> {
        let swept = self.connection().await?.execute(SWEEP_CONTENTS, &[&floor(before), &limit_of(limit)]).await?;
        Ok(usize::try_from(swept).unwrap_or(usize::MAX))
    }

    async fn find_message(&self, tenant: TenantId, environment: Option<Environment>, seq: Seq) -> Result<Option<MessageRecord>> {
        let environment = environment.map(Environment::code);
        self.connection()
            .await?
            .query_opt_within(tenant, FIND, &[&seq.0, &tenant.0, &environment])
            .await?
            .as_ref()
            .map(rows::message)
            .transpose()
    }

    async fn list_events(&self, tenant: TenantId, seq: Seq) -> Result<Vec<EventRecord>> {
        timeline::list(self, tenant, seq).await
    }

    async fn find_outline(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.connection()
            .await?
            .query_opt_within(tenant, FIND_OUTLINE, &[&seq.0, &tenant.0])
            .await?
            .map(|row| get(&row, "content"))
            .transpose()
    }

    async fn find_content(&self, tenant: TenantId, seq: Seq) -> Result<Option<String>> {
        self.connection()
            .await?
            .query_opt_within(tenant, FIND_CONTENT, &[&seq.0, &tenant.0])
            .await?
            .map(|row| get(&row, "content"))
            .transpose()
    }

    async fn list_messages(&self, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage> {
        list(self, tenant, query).await
    }

    async fn purge_idempotency(&self, now: Timestamp, limit: usize) -> Result<usize> {
        let mut connection = self.connection().await?;
        let blocks = connection.query_opt(IDEMPOTENCY_BLOCKS, &[]).await?.map_or(Ok(0), |row| get::<i64>(&row, "blocks"))?;
        let mut from = *self.purge_from.lock();
        let (mut purged, mut read) = (0, 0);
        while read < blocks.min(STRETCHES * STRETCH) && purged < limit {
            if from >= blocks {
                from = 0;
            }
            let (first, end) = (format!("({from},0)"), format!("({},0)", from + STRETCH));
            let most = limit - purged;
            let deleted = connection.execute(PURGE_IDEMPOTENCY, &[&first, &end, &now.millis(), &limit_of(most)]).await?;
            purged += usize::try_from(deleted).unwrap_or(most);
            if purged < limit {
                from += STRETCH;
                read += STRETCH;
            }
        }
        *self.purge_from.lock() = from;
        Ok(purged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_bounds_beyond_what_a_seq_tells_are_clamped() {
        assert_eq!(floor(Timestamp::from_millis(-5)), 0);
        assert_eq!(floor(Timestamp::from_millis(i64::MAX)), i64::MAX);
        assert_eq!(floor(Timestamp::from_millis(7)), Seq::first_at(Timestamp::from_millis(7)).0);
    }
}
