//! Suppressions: the list. The look-ups of acceptance and of starts are parts of their statements ([`super::accept`],
//! [`super::settle`]), and what settling adds is part of its transaction.

use async_trait::async_trait;
use raven_core::{
    Channel, Environment, Seq, SuppressionId, SuppressionReason, SuppressionSource, TenantId,
    suppression::{indexed, lookup},
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    connection::Param,
    idempotency::{Creation, create},
    rows::{below, code, get, limit as limit_of, time},
};
use crate::{
    AuditRecord, Error, NewSuppression, Outcome, Result, SuppressionFilter, SuppressionPage, SuppressionQuery, SuppressionRecord,
    Suppressions,
};

/// The index that knows each address once.
const ONCE: &str = "suppressions_lookup";

const INSERT: &str = "INSERT INTO suppressions (id, tenant_id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
// Sorted, so that batches which overlap wait for each other in the same order.
const ADD: &str = "
WITH added AS (
  INSERT INTO suppressions (id, tenant_id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at)
  SELECT s.id, $1, s.environment, s.channel, s.lookup, s.address, s.reason, s.source, s.message_seq, s.detail, s.created_at
  FROM unnest($2::uuid[], $3::smallint[], $4::smallint[], $5::text[], $6::text[], $7::smallint[], $8::smallint[], $9::bigint[], $10::text[],
    $11::bigint[]) WITH ORDINALITY
    AS s (id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at, place)
  ORDER BY s.environment, s.channel, s.lookup, s.place
  ON CONFLICT (tenant_id, environment, channel, lookup) DO NOTHING RETURNING 1
), logged AS (
  INSERT INTO audit_log (tenant_id, seq, entry) SELECT $1, $12::bigint, $13::text WHERE $12 IS NOT NULL
)
SELECT count(*) AS count FROM added";
const FIND: &str = "SELECT id, tenant_id, environment, channel, address, reason, source, message_seq, detail, created_at \
     FROM suppressions WHERE id = $1 AND tenant_id = $2 AND ($3::smallint IS NULL OR environment = $3)";
const REASON: &str = "SELECT reason FROM suppressions WHERE tenant_id = $1 AND environment = $2 AND channel = $3 AND lookup = $4";
// The last row that may be looked at comes back too (`edge`) if there are more after it: the next page begins below it.
const LIST: &str = "
WITH looked AS MATERIALIZED (
  SELECT id, tenant_id, environment, channel, address, reason, source, message_seq, detail, created_at,
    row_number() OVER (ORDER BY created_at DESC, id DESC) AS n
  FROM suppressions WHERE tenant_id = $1 AND environment = $2 AND (created_at, id) < ($3, $4)
  ORDER BY created_at DESC, id DESC LIMIT $5::bigint + 1
), found AS (
  SELECT * FROM looked
  WHERE n <= $5 AND ($6::smallint IS NULL OR channel = $6) AND ($7::text IS NULL OR strpos(lower(address), $7) > 0)
  ORDER BY n OFFSET $8::bigint LIMIT $9::bigint + 1
)
SELECT *, false AS edge FROM found
UNION ALL
SELECT *, true FROM looked WHERE n = $5 AND EXISTS (SELECT FROM looked WHERE n = $5 + 1)
ORDER BY edge, n";
const COUNT: &str = "
SELECT count(*) FILTER (WHERE ($3::smallint IS NULL OR channel = $3) AND ($4::text IS NULL OR strpos(lower(address), $4) > 0)) AS count
FROM (SELECT channel, address FROM suppressions WHERE tenant_id = $1 AND environment = $2 ORDER BY created_at DESC, id DESC LIMIT $5) s";
const DELETE: &str = "WITH gone AS (DELETE FROM suppressions WHERE id = $1 AND tenant_id = $2 RETURNING tenant_id) \
     INSERT INTO audit_log (tenant_id, seq, entry) SELECT tenant_id, $3, $4 FROM gone";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, ADD, FIND, REASON, LIST, COUNT, DELETE];

fn suppression(row: &Row) -> Result<SuppressionRecord> {
    Ok(SuppressionRecord {
        id: SuppressionId(get(row, "id")?),
        tenant: TenantId(get(row, "tenant_id")?),
        environment: code(row, "environment", Environment::from_code)?,
        channel: code(row, "channel", Channel::from_code)?,
        address: get(row, "address")?,
        reason: code(row, "reason", SuppressionReason::from_code)?,
        source: code(row, "source", SuppressionSource::from_code)?,
        message: get::<Option<i64>>(row, "message_seq")?.map(Seq),
        detail: get(row, "detail")?,
        created_at: time(row, "created_at")?,
    })
}

#[async_trait]
impl Suppressions for PostgresStore {
    async fn create_suppression(&self, new: NewSuppression) -> Result<Outcome> {
        let NewSuppression { record: s, claim, audit } = &new;
        let creation = Creation { within: Some(s.tenant), claim: claim.as_ref(), conflict: Some((ONCE, "suppression")), audit };
        create(self.connection().await?, creation, async |connection| {
            let values: [Param<'_>; 11] = [
                &s.id.0,
                &s.tenant.0,
                &s.environment.code(),
                &s.channel.code(),
                &indexed(&s.address),
                &s.address,
                &s.reason.code(),
                &s.source.code(),
                &s.message.map(|seq| seq.0),
                &s.detail,
                &s.created_at.millis(),
            ];
            connection.execute(INSERT, &values).await?;
            Ok(())
        })
        .await
    }

    async fn add_suppressions(&self, tenant: TenantId, batch: Vec<SuppressionRecord>, audit: Option<AuditRecord>) -> Result<usize> {
        if batch.iter().any(|record| record.tenant != tenant) {
            return Err(Error::internal("suppressions of another tenant"));
        }
        let (seq, entry) = audit.map(|audit| (audit.seq.0, audit.entry)).unzip();
        let params: [Param<'_>; 13] = [
            &tenant.0,
            &batch.iter().map(|s| s.id.0).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.environment.code()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.channel.code()).collect::<Vec<_>>(),
            &batch.iter().map(|s| indexed(&s.address).into_owned()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.address.as_str()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.reason.code()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.source.code()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.message.map(|seq| seq.0)).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.detail.as_deref()).collect::<Vec<_>>(),
            &batch.iter().map(|s| s.created_at.millis()).collect::<Vec<_>>(),
            &seq,
            &entry,
        ];
        let row = self.connection().await?.query_opt_within(tenant, ADD, &params).await?;
        let row = row.ok_or_else(|| Error::internal("a count gave no row"))?;
        Ok(usize::try_from(get::<i64>(&row, "count")?).unwrap_or(0))
    }

    async fn find_suppression(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: SuppressionId,
    ) -> Result<Option<SuppressionRecord>> {
        let params: [Param<'_>; 3] = [&id.0, &tenant.0, &environment.map(Environment::code)];
        self.connection().await?.query_opt_within(tenant, FIND, &params).await?.as_ref().map(suppression).transpose()
    }

    async fn find_suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
    ) -> Result<Option<SuppressionReason>> {
        let lookup = lookup(channel, recipient);
        let params: [Param<'_>; 4] = [&tenant.0, &environment.code(), &channel.code(), &lookup.as_ref()];
        let row = self.connection().await?.query_opt_within(tenant, REASON, &params).await?;
        row.map(|row| code(&row, "reason", SuppressionReason::from_code)).transpose()
    }

    async fn list_suppressions(&self, tenant: TenantId, query: &SuppressionQuery) -> Result<SuppressionPage> {
        let SuppressionFilter { environment, channel, part } = &query.filter;
        let (created_at, id) = below(query.before.map(|(at, id)| (at, id.0)));
        let mut scan = query.scan.max(1);
        if query.filter.takes_all() {
            // All that is looked at is on the page or before it.
            scan = scan.min(query.skip.saturating_add(query.limit).max(1));
        }
        let (scan, skip, limit) = (limit_of(scan), limit_of(query.skip), limit_of(query.limit));
        let params: [Param<'_>; 9] =
            [&tenant.0, &environment.code(), &created_at, &id, &scan, &channel.map(Channel::code), part, &skip, &limit];
        let mut page = SuppressionPage { rows: Vec::new(), next: None };
        for row in &self.connection().await?.query_within(tenant, LIST, &params).await? {
            let record = suppression(row)?;
            if get::<bool>(row, "edge")? {
                page.next = page.next.or(Some((record.created_at, record.id)));
            } else if page.rows.len() == query.limit {
                page.next = page.rows.last().map(|s| (s.created_at, s.id));
            } else {
                page.rows.push(record);
            }
        }
        Ok(page)
    }

    async fn count_suppressions(&self, tenant: TenantId, filter: &SuppressionFilter, most: usize) -> Result<usize> {
        let SuppressionFilter { environment, channel, part } = filter;
        let params: [Param<'_>; 5] = [&tenant.0, &environment.code(), &channel.map(Channel::code), part, &limit_of(most)];
        let row = self.connection().await?.query_opt_within(tenant, COUNT, &params).await?;
        let row = row.ok_or_else(|| Error::internal("a count gave no row"))?;
        Ok(usize::try_from(get::<i64>(&row, "count")?).unwrap_or(0))
    }

    async fn delete_suppression(&self, tenant: TenantId, id: SuppressionId, audit: AuditRecord) -> Result<bool> {
        let params: [Param<'_>; 4] = [&id.0, &tenant.0, &audit.seq.0, &audit.entry];
        Ok(self.connection().await?.execute_within(tenant, DELETE, &params).await? == 1)
    }
}
