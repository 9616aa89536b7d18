//! Messages to tenants in SQLite.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, Environment, Seq, TenantId, keyword::Keyword};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    rows::{Id, code, id, limit, time_or_null},
};
use crate::{InboundMessages, InboundPage, InboundQuery, InboundRecord, Result, inbound::Media};

pub(super) const STATEMENTS: &[&str] = &[INSERT, LIST, LAST_SENT];

const INSERT: &str = "INSERT INTO inbound_messages
  (seq, tenant_id, environment, channel, config_id, provider, provider_message_id, sender, recipient, body, media, keyword, message_seq, sent_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO NOTHING";
const LIST: &str = "SELECT seq, tenant_id, environment, channel, config_id, provider, provider_message_id, sender, recipient, body, media,
    keyword, message_seq, sent_at FROM inbound_messages
  WHERE tenant_id = ?1 AND environment = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4";
const LAST_SENT: &str = "SELECT seq FROM (SELECT seq, channel, recipient FROM messages WHERE tenant_id = ?1 AND environment = ?2
    ORDER BY seq DESC LIMIT ?5) WHERE channel = ?3 AND recipient = ?4 LIMIT 1";

/// Keeps a message; `false` when the provider told of it before.
pub(super) fn insert(c: &Connection, m: &InboundRecord) -> Result<bool> {
    let values = params![
        m.seq.0,
        Id(m.tenant.0),
        m.environment.code(),
        m.channel.code(),
        Id(m.config.0),
        m.provider,
        m.provider_message_id,
        m.sender,
        m.recipient,
        m.body,
        Media::write(&m.media),
        m.keyword.map(Keyword::code),
        m.message.map(|seq| seq.0),
        m.sent_at.map(raven_core::Timestamp::millis),
    ];
    Ok(c.prepare_cached(INSERT)?.execute(values)? == 1)
}

fn message(row: &Row<'_>) -> rusqlite::Result<InboundRecord> {
    Ok(InboundRecord {
        seq: Seq(row.get(0)?),
        tenant: TenantId(id(row, 1)?),
        environment: code(row, 2, Environment::from_code)?,
        channel: code(row, 3, Channel::from_code)?,
        config: ConfigId(id(row, 4)?),
        provider: row.get(5)?,
        provider_message_id: row.get(6)?,
        sender: row.get(7)?,
        recipient: row.get(8)?,
        body: row.get(9)?,
        media: Media::read(row.get_ref(10)?.as_str()?),
        keyword: row.get::<_, Option<i16>>(11)?.and_then(Keyword::from_code),
        message: row.get::<_, Option<i64>>(12)?.map(Seq),
        sent_at: time_or_null(row, 13)?,
    })
}

#[async_trait]
impl InboundMessages for SqliteStore {
    async fn list_inbound(&self, tenant: TenantId, query: &InboundQuery) -> Result<InboundPage> {
        let query = query.clone();
        self.read(move |c| {
            let mut strands = Vec::new();
            for environment in query.environments() {
                let values = params![Id(tenant.0), environment.code(), query.before.map_or(i64::MAX, |seq| seq.0), limit(query.rows())];
                let mut select = c.prepare_cached(LIST)?;
                strands.push(select.query_map(values, message)?.collect::<rusqlite::Result<_>>()?);
            }
            Ok(query.page(strands))
        })
        .await
    }

    async fn find_last_sent(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
        scan: usize,
    ) -> Result<Option<Seq>> {
        let recipient = recipient.to_owned();
        self.read(move |c| {
            let values = params![Id(tenant.0), environment.code(), channel.code(), recipient, limit(scan)];
            Ok(c.prepare_cached(LAST_SENT)?.query_row(values, |r| r.get(0)).optional()?.map(Seq))
        })
        .await
    }
}
