//! Messages to tenants.

use async_trait::async_trait;
use raven_core::{Channel, ConfigId, Environment, Seq, TenantId, Timestamp, keyword::Keyword};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    connection::{Connection, Param},
    rows::{code, get, limit as limit_of, optional_time},
};
use crate::{InboundMessages, InboundPage, InboundQuery, InboundRecord, Result, inbound::Media};

const INSERT: &str = "INSERT INTO inbound_messages (seq, tenant_id, environment, channel, config_id, provider, provider_message_id, sender, \
     recipient, body, media, keyword, message_seq, sent_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
     ON CONFLICT DO NOTHING";
const LIST: &str = "SELECT seq, tenant_id, environment, channel, config_id, provider, provider_message_id, sender, recipient, body, media, \
     keyword, message_seq, sent_at FROM inbound_messages WHERE tenant_id = $1 AND environment = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4";
const LAST_SENT: &str = "SELECT seq FROM (SELECT seq, channel, recipient FROM messages WHERE tenant_id = $1 AND environment = $2 \
     ORDER BY seq DESC LIMIT $5) m WHERE channel = $3 AND recipient = $4 ORDER BY seq DESC LIMIT 1";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[INSERT, LIST, LAST_SENT];

/// Keeps a message, unless the provider told of it before.
pub(super) async fn insert(connection: &mut Connection, m: &InboundRecord) -> Result<()> {
    let params: [Param<'_>; 14] = [
        &m.seq.0,
        &m.tenant.0,
        &m.environment.code(),
        &m.channel.code(),
        &m.config.0,
        &m.provider,
        &m.provider_message_id,
        &m.sender,
        &m.recipient,
        &m.body,
        &Media::write(&m.media),
        &m.keyword.map(Keyword::code),
        &m.message.map(|seq| seq.0),
        &m.sent_at.map(Timestamp::millis),
    ];
    connection.execute(INSERT, &params).await?;
    Ok(())
}

fn message(row: &Row) -> Result<InboundRecord> {
    Ok(InboundRecord {
        seq: Seq(get(row, "seq")?),
        tenant: TenantId(get(row, "tenant_id")?),
        environment: code(row, "environment", Environment::from_code)?,
        channel: code(row, "channel", Channel::from_code)?,
        config: ConfigId(get(row, "config_id")?),
        provider: get(row, "provider")?,
        provider_message_id: get(row, "provider_message_id")?,
        sender: get(row, "sender")?,
        recipient: get(row, "recipient")?,
        body: get(row, "body")?,
        media: Media::read(get(row, "media")?),
        keyword: get::<Option<i16>>(row, "keyword")?.and_then(Keyword::from_code),
        message: get::<Option<i64>>(row, "message_seq")?.map(Seq),
        sent_at: optional_time(row, "sent_at")?,
    })
}

#[async_trait]
impl InboundMessages for PostgresStore {
    async fn list_inbound(&self, tenant: TenantId, query: &InboundQuery) -> Result<InboundPage> {
        let mut connection = self.connection().await?;
        let mut strands = Vec::new();
        for environment in query.environments() {
            let before = query.before.map_or(i64::MAX, |seq| seq.0);
            let params: [Param<'_>; 4] = [&tenant.0, &environment.code(), &before, &limit_of(query.rows())];
            let rows = connection.query_within(tenant, LIST, &params).await?;
            strands.push(rows.iter().map(message).collect::<Result<_>>()?);
        }
        Ok(query.page(strands))
    }

    async fn find_last_sent(
        &self,
        tenant: TenantId,
        environment: Environment,
        channel: Channel,
        recipient: &str,
        scan: usize,
    ) -> Result<Option<Seq>> {
        let params: [Param<'_>; 5] = [&tenant.0, &environment.code(), &channel.code(), &recipient, &limit_of(scan)];
        let row = self.connection().await?.query_opt_within(tenant, LAST_SENT, &params).await?;
        row.map(|row| get(&row, "seq").map(Seq)).transpose()
    }
}
