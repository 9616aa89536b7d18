//! Suppressions in SQLite: the list, and the look-ups of acceptance and of starts ([`Listed`]).

use std::{borrow::Cow, collections::HashMap};

use async_trait::async_trait;
use raven_core::{
    Channel, Environment, Seq, SuppressionId, SuppressionReason, SuppressionSource, TenantId, Timestamp,
    suppression::{indexed, lookup},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore, audit, idempotency,
    rows::{Id, code, id, limit, position, time},
};
use crate::{
    AuditRecord, Error, NewSuppression, Outcome, Result, SuppressionFilter, SuppressionPage, SuppressionQuery, SuppressionRecord,
    Suppressions,
};

pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND, LIST, NEWEST, DELETE, ANY, REASON];

const INSERT: &str = "INSERT INTO suppressions
  (id, tenant_id, environment, channel, lookup, address, reason, source, message_seq, detail, created_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING";
const FIND: &str = "SELECT id, tenant_id, environment, channel, address, reason, source, message_seq, detail, created_at
  FROM suppressions WHERE id = ?1 AND tenant_id = ?2 AND (?3 IS NULL OR environment = ?3)";
const LIST: &str = "SELECT id, tenant_id, environment, channel, address, reason, source, message_seq, detail, created_at
  FROM suppressions WHERE tenant_id = ?1 AND environment = ?2 AND (created_at, id) < (?3, ?4) ORDER BY created_at DESC, id DESC";
const NEWEST: &str = "SELECT channel, address FROM suppressions WHERE tenant_id = ?1 AND environment = ?2
  ORDER BY created_at DESC, id DESC LIMIT ?3";
const DELETE: &str = "DELETE FROM suppressions WHERE id = ?1 AND tenant_id = ?2";
const ANY: &str = "SELECT 1 FROM suppressions WHERE tenant_id = ?1 LIMIT 1";
const REASON: &str = "SELECT reason FROM suppressions WHERE tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND lookup = ?4";

/// Whom a batch must not reach. Most tenants suppress nobody, so that is asked first, once a batch: each of their messages
/// costs a look into a map then.
pub(super) struct Listed<'c> {
    connection: &'c Connection,
    any: HashMap<TenantId, bool>,
}

impl<'c> Listed<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, any: HashMap::new() }
    }

    /// Why the recipient may not be written to, if that is so. `lookup` tells what would stand in the index.
    pub(super) fn reason<'a>(
        &mut self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        lookup: impl FnOnce() -> Cow<'a, str>,
    ) -> Result<Option<SuppressionReason>> {
        let any = match self.any.get(&tenant) {
            Some(known) => *known,
            None => {
                let any = self.connection.prepare_cached(ANY)?.exists([Id(tenant.0)])?;
                self.any.insert(tenant, any);
                any
            }
        };
        if !any {
            return Ok(None);
        }
        let mut select = self.connection.prepare_cached(REASON)?;
        let values = params![Id(tenant.0), environment.code(), channel.code(), lookup()];
        Ok(select.query_row(values, |r| code(r, 0, SuppressionReason::from_code)).optional()?)
    }
}

/// Adds a suppression; `false` when the address is listed already.
pub(super) fn insert(c: &Connection, s: &SuppressionRecord) -> Result<bool> {
    let values = params![
        Id(s.id.0),
        Id(s.tenant.0),
        s.environment.code(),
        s.channel.code(),
        indexed(&s.address),
        s.address,
        s.reason.code(),
        s.source.code(),
        s.message.map(|seq| seq.0),
        s.detail,
        s.created_at.millis(),
    ];
    Ok(c.prepare_cached(INSERT)?.execute(values)? == 1)
}

fn suppression(row: &Row<'_>) -> rusqlite::Result<SuppressionRecord> {
    Ok(SuppressionRecord {
        id: SuppressionId(id(row, 0)?),
        tenant: TenantId(id(row, 1)?),
        environment: code(row, 2, Environment::from_code)?,
        channel: code(row, 3, Channel::from_code)?,
        address: row.get(4)?,
        reason: code(row, 5, SuppressionReason::from_code)?,
        source: code(row, 6, SuppressionSource::from_code)?,
        message: row.get::<_, Option<i64>>(7)?.map(Seq),
        detail: row.get(8)?,
        created_at: time(row, 9)?,
    })
}

/// Looks at rows, newest first, until the page is full or `scan` of them were seen.
fn list(c: &Connection, tenant: TenantId, query: &SuppressionQuery) -> Result<SuppressionPage> {
    let filter = &query.filter;
    let (at, after) = position(query.before.map(|(at, id)| (at, id.0)));
    let mut select = c.prepare_cached(LIST)?;
    let mut rows = select.query(params![Id(tenant.0), filter.environment.code(), at, after])?;
    let mut page = SuppressionPage { rows: Vec::new(), next: None };
    let (mut seen, mut skipped, mut last): (usize, usize, Option<(Timestamp, SuppressionId)>) = (0, 0, None);
    while let Some(row) = rows.next()? {
        if seen == query.scan.max(1) {
            page.next = last;
            break;
        }
        seen += 1;
        let record = suppression(row)?;
        last = Some((record.created_at, record.id));
        if !filter.takes(record.channel, &record.address) {
            continue;
        }
        if skipped < query.skip {
            skipped += 1;
        } else if page.rows.len() == query.limit {
            page.next = page.rows.last().map(|s| (s.created_at, s.id));
            break;
        } else {
            page.rows.push(record);
        }
    }
    Ok(page)
}

fn count(c: &Connection, tenant: TenantId, filter: &SuppressionFilter, most: usize) -> Result<usize> {
    let mut select = c.prepare_cached(NEWEST)?;
    let mut rows = select.query(params![Id(tenant.0), filter.environment.code(), limit(most)])?;
    let passes = |row: &Row<'_>| -> rusqlite::Result<bool> {
        Ok(filter.takes_all() || filter.takes(code(row, 0, Channel::from_code)?, row.get_ref(1)?.as_str()?))
    };
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += usize::from(passes(row)?);
    }
    Ok(count)
}

#[async_trait]
impl Suppressions for SqliteStore {
    async fn create_suppression(&self, new: NewSuppression) -> Result<Outcome> {
        self.write(move |c| {
            idempotency::once(c, new.claim.as_ref(), || {
                if !insert(c, &new.record)? {
                    return Err(Error::Conflict("suppression"));
                }
                audit::record(c, &new.audit)
            })
        })
        .await
    }

    async fn add_suppressions(&self, tenant: TenantId, batch: Vec<SuppressionRecord>, audit: Option<AuditRecord>) -> Result<usize> {
        if batch.iter().any(|record| record.tenant != tenant) {
            return Err(Error::internal("suppressions of another tenant"));
        }
        self.write(move |c| {
            let mut added = 0;
            for record in &batch {
                added += usize::from(insert(c, record)?);
            }
            if let Some(audit) = &audit {
                audit::record(c, audit)?;
            }
            Ok(added)
        })
        .await
    }

    async fn find_suppression(
        &self,
        tenant: TenantId,
        environment: Option<Environment>,
        id: SuppressionId,
    ) -> Result<Option<SuppressionRecord>> {
        let environment = environment.map(Environment::code);
        self.read(move |c| Ok(c.prepare_cached(FIND)?.query_row(params![Id(id.0), Id(tenant.0), environment], suppression).optional()?))
            .await
    }

    async fn find_suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
    ) -> Result<Option<SuppressionReason>> {
        let lookup = lookup(channel, recipient).into_owned();
        self.read(move |c| Listed::new(c).reason(tenant, environment, channel, || lookup.into())).await
    }

    async fn list_suppressions(&self, tenant: TenantId, query: &SuppressionQuery) -> Result<SuppressionPage> {
        let query = query.clone();
        self.read(move |c| list(c, tenant, &query)).await
    }

    async fn count_suppressions(&self, tenant: TenantId, filter: &SuppressionFilter, most: usize) -> Result<usize> {
        let filter = filter.clone();
        self.read(move |c| count(c, tenant, &filter, most)).await
    }

    async fn delete_suppression(&self, tenant: TenantId, id: SuppressionId, audit: AuditRecord) -> Result<bool> {
        self.write(move |c| {
            let deleted = c.prepare_cached(DELETE)?.execute([Id(id.0), Id(tenant.0)])? == 1;
            if deleted {
                audit::record(c, &audit)?;
            }
            Ok(deleted)
        })
        .await
    }
}
