//! Pages of messages in SQLite. Every way in is an index in the order of the page; what no index tells is sifted row by row,
//! and only so many rows. So a page costs the same however many messages there are.

use raven_core::{Channel, ConfigId, Environment, Priority, Seq, Source, Status, TenantId, Timestamp, sms::Encoding};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Rows, fallible_streaming_iterator::FallibleStreamingIterator, params};

use super::rows::{Id, code};
use crate::{MessageFilter, MessageQuery, MessageRecord, Result, messages::MessagePage};

pub(super) const STATEMENTS: &[&str] = &[FIND, BY_TENANT, BY_EXTERNAL_ID, BY_STATUS];

const FIND: &str = "SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id,
    segments, cost_currency, cost_micros, failure_reason, encoding, priority
  FROM messages WHERE seq = ?1 AND tenant_id = ?2 AND (?3 IS NULL OR environment = ?3)";
const BY_TENANT: &str =
    "SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id,
    segments, cost_currency, cost_micros, failure_reason, encoding, priority
  FROM messages INDEXED BY messages_tenant
  WHERE tenant_id = ?1 AND environment = ?4 AND seq >= ?2 AND seq < ?3 ORDER BY seq DESC";
const BY_EXTERNAL_ID: &str =
    "SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id,
    segments, cost_currency, cost_micros, failure_reason, encoding, priority
  FROM messages INDEXED BY messages_external
  WHERE tenant_id = ?1 AND external_id = ?4 AND seq >= ?2 AND seq < ?3 ORDER BY seq DESC";
// The terms of the partial index are spelled out, or it could not be used.
const BY_STATUS: &str =
    "SELECT seq, environment, channel, source, status, recipient, external_id, provider, config_id, provider_message_id,
    segments, cost_currency, cost_micros, failure_reason, encoding, priority
  FROM messages INDEXED BY messages_status
  WHERE tenant_id = ?1 AND rare = ?4 AND rare IS NOT NULL AND seq >= ?2 AND seq < ?3 ORDER BY seq DESC";

fn message(row: &Row<'_>) -> rusqlite::Result<MessageRecord> {
    Ok(MessageRecord {
        seq: Seq(row.get(0)?),
        environment: code(row, 1, Environment::from_code)?,
        channel: code(row, 2, Channel::from_code)?,
        source: code(row, 3, Source::from_code)?,
        status: code(row, 4, Status::from_code)?,
        recipient: row.get(5)?,
        external_id: row.get(6)?,
        provider: row.get(7)?,
        config: row.get::<_, Option<Id>>(8)?.map(|id| ConfigId(id.0)),
        provider_message_id: row.get(9)?,
        segments: row.get(10)?,
        cost_currency: row.get(11)?,
        cost_micros: row.get(12)?,
        failure_reason: row.get(13)?,
        encoding: row.get::<_, Option<i16>>(14)?.and_then(Encoding::from_code),
        priority: code(row, 15, Priority::from_code)?,
    })
}

/// One message.
pub(super) fn find(c: &Connection, tenant: TenantId, environment: Option<Environment>, seq: Seq) -> Result<Option<MessageRecord>> {
    let values = params![seq.0, Id(tenant.0), environment.map(Environment::code)];
    Ok(c.prepare_cached(FIND)?.query_row(values, message).optional()?)
}

/// The smallest seq of an instant; beyond what a seq can tell, the smallest or largest one.
pub(super) fn floor(at: Timestamp) -> i64 {
    let last = Seq(i64::MAX).at();
    if at > last { i64::MAX } else { Seq::first_at(at.max(Timestamp::from_millis(0))).0 }
}

/// Does the partial index over rare statuses hold this one?
fn is_rare(status: Status) -> bool {
    status >= Status::Expired && status != Status::Delivered
}

/// What the way in does not decide, compared as stored.
struct Residue<'q> {
    environment: Option<i16>,
    status: Option<i16>,
    channel: Option<i16>,
    source: Option<i16>,
    recipient: Option<&'q str>,
    external_id: Option<&'q str>,
    provider: Option<&'q str>,
}

impl<'q> Residue<'q> {
    fn of(f: &'q MessageFilter) -> Self {
        Self {
            environment: f.environment.map(Environment::code),
            status: f.status.map(Status::code),
            channel: f.channel.map(Channel::code),
            source: f.source.map(Source::code),
            recipient: f.recipient.as_deref(),
            external_id: f.external_id.as_deref(),
            provider: f.provider.as_deref(),
        }
    }

    fn is_empty(&self) -> bool {
        let codes = [self.environment, self.status, self.channel, self.source];
        codes.iter().all(Option::is_none) && [self.recipient, self.external_id, self.provider].iter().all(Option::is_none)
    }

    fn matches(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let codes = [(self.environment, 1), (self.channel, 2), (self.source, 3), (self.status, 4)];
        for (wanted, column) in codes {
            if let Some(wanted) = wanted
                && row.get::<_, i16>(column)? != wanted
            {
                return Ok(false);
            }
        }
        let texts = [(self.recipient, 5), (self.external_id, 6), (self.provider, 7)];
        for (wanted, column) in texts {
            if let Some(wanted) = wanted
                && row.get_ref(column)?.as_str_or_null()? != Some(wanted)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Rows of one way in, newest first, with the one that comes next looked at.
struct Strand<'s> {
    rows: Rows<'s>,
    next: Option<i64>,
    seen: usize,
}

impl Strand<'_> {
    fn advance(&mut self) -> Result<()> {
        self.next = self.rows.next()?.map(|row| row.get(0)).transpose()?;
        Ok(())
    }
}

/// A page.
pub(super) fn list(c: &Connection, tenant: TenantId, query: &MessageQuery) -> Result<MessagePage> {
    let filter = &query.filter;
    let from = filter.from.map_or(0, floor);
    let until = filter.until.map_or(i64::MAX, floor).min(query.before.map_or(i64::MAX, |seq| seq.0));
    let tenant = Id(tenant.0);
    let mut residue = Residue::of(filter);
    if let Some(external_id) = residue.external_id.take() {
        let mut select = c.prepare_cached(BY_EXTERNAL_ID)?;
        return merge(vec![select.query(params![tenant, from, until, external_id])?], &residue, query);
    }
    if filter.status.is_some_and(is_rare) {
        let status = residue.status.take();
        let mut select = c.prepare_cached(BY_STATUS)?;
        return merge(vec![select.query(params![tenant, from, until, status])?], &residue, query);
    }
    residue.environment = None;
    let environments = filter.environment.as_ref().map_or(Environment::ALL, std::slice::from_ref);
    let mut selects: Vec<CachedStatement<'_>> =
        environments.iter().map(|_| c.prepare_cached(BY_TENANT)).collect::<rusqlite::Result<_>>()?;
    let strands = selects.iter_mut().zip(environments).map(|(select, e)| select.query(params![tenant, from, until, e.code()]));
    merge(strands.collect::<rusqlite::Result<_>>()?, &residue, query)
}

/// Takes rows off the strands, newest first, until the page is full, one of them was looked through as far as allowed, or
/// all are at their ends.
fn merge(rows: Vec<Rows<'_>>, residue: &Residue<'_>, query: &MessageQuery) -> Result<MessagePage> {
    let scan = if residue.is_empty() { usize::MAX } else { query.scan.max(1) };
    let mut page = MessagePage { rows: Vec::new(), next: None };
    let mut strands = Vec::with_capacity(rows.len());
    for rows in rows {
        let mut strand = Strand { rows, next: None, seen: 0 };
        strand.advance()?;
        strands.push(strand);
    }
    let mut last = None;
    while let Some(newest) = strands.iter_mut().filter(|s| s.next.is_some()).max_by_key(|s| s.next) {
        if newest.seen == scan {
            // At least the row at hand is left, so the next page must begin after the last one that was looked at.
            page.next = last.map(Seq);
            break;
        }
        newest.seen += 1;
        if let Some(row) = newest.rows.get()
            && residue.matches(row)?
        {
            if page.rows.len() == query.limit {
                page.next = page.rows.last().map(|m| m.seq);
                break;
            }
            page.rows.push(message(row)?);
        }
        last = newest.next;
        newest.advance()?;
    }
    Ok(page)
}
