//! Rows into records. What the schema promises and a row breaks is damage, told by the column's name.

use raven_core::{
    Channel, ConfigId, Environment, EventKind, KeyId, Priority, Seq, Source, Status, TenantId, Timestamp,
    permission::{Role, Scopes},
    sms::Encoding,
    tenant::{SuspendedBy, TenantStatus},
};
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use crate::{
    Action, ConfigRecord, Error, EventRecord, Job, KeyRecord, Lane, Lease, MessageRecord, Node, Outlet, Result, Routing, TenantRecord,
    Tried, Urgency,
};

/// Columns of [`tenant`], of a table called `t`.
macro_rules! tenant_columns {
    () => {
        "t.id AS tenant_id, t.slug, t.name AS tenant_name, t.status AS tenant_status, t.plan, t.country_code, t.default_locale, t.default_tz, \
         t.created_at AS tenant_created_at, t.data_key, t.retry_unknown, t.suspended_by, t.archived_at"
    };
}
pub(super) use tenant_columns;

/// A column's value, by name.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T> {
    row.try_get(column).map_err(|e| Error::Internal(Box::new(e)))
}

/// A coded column's value.
pub(super) fn code<T>(row: &Row, column: &str, from_code: impl Fn(i16) -> Option<T>) -> Result<T> {
    let code: i16 = get(row, column)?;
    from_code(code).ok_or_else(|| Error::internal(format!("{column} holds {code}, which is no such code")))
}

/// A time.
pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp> {
    Ok(Timestamp::from_millis(get(row, column)?))
}

/// A time that may be absent.
pub(super) fn optional_time(row: &Row, column: &str) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_millis))
}

pub(super) fn tenant(row: &Row) -> Result<TenantRecord> {
    Ok(TenantRecord {
        id: TenantId(get(row, "tenant_id")?),
        slug: get(row, "slug")?,
        name: get(row, "tenant_name")?,
        status: code(row, "tenant_status", TenantStatus::from_code)?,
        plan: get(row, "plan")?,
        country_code: get(row, "country_code")?,
        default_locale: get(row, "default_locale")?,
        default_tz: get(row, "default_tz")?,
        created_at: time(row, "tenant_created_at")?,
        data_key: get(row, "data_key")?,
        retry_unknown: get(row, "retry_unknown")?,
        suspended_by: get::<Option<i16>>(row, "suspended_by")?.and_then(SuspendedBy::from_code),
        archived_at: optional_time(row, "archived_at")?,
    })
}

pub(super) fn role(row: &Row) -> Result<Role> {
    code(row, "role", Role::from_code)
}

pub(super) fn key(row: &Row) -> Result<KeyRecord> {
    Ok(KeyRecord {
        id: KeyId(get(row, "id")?),
        tenant: TenantId(get(row, "tenant_id")?),
        environment: code(row, "environment", Environment::from_code)?,
        prefix: get(row, "prefix")?,
        last_four: get(row, "last_four")?,
        secret_hash: get(row, "secret_hash")?,
        secret_mac: get::<&[u8]>(row, "secret_mac")?.try_into().map_err(|_| Error::internal("secret_mac is not 32 bytes"))?,
        scopes: Scopes::from_code(get(row, "scopes")?),
        name: get(row, "name")?,
        rate_limit_rpm: get(row, "rate_limit_rpm")?,
        priority: get::<Option<i16>>(row, "priority")?.and_then(Priority::from_code),
        expires_at: optional_time(row, "expires_at")?,
        created_at: time(row, "created_at")?,
        revoked_at: optional_time(row, "revoked_at")?,
        last_used_at: optional_time(row, "last_used_at")?,
    })
}

pub(super) fn config(row: &Row) -> Result<ConfigRecord> {
    Ok(ConfigRecord {
        id: ConfigId(get(row, "id")?),
        tenant: TenantId(get(row, "tenant_id")?),
        provider: get(row, "provider")?,
        channel: code(row, "channel", Channel::from_code)?,
        label: get(row, "label")?,
        status: get(row, "status")?,
        public: get(row, "public")?,
        secret: get(row, "secret")?,
        created_at: time(row, "created_at")?,
        status_reason: get(row, "status_reason")?,
        allow_unsigned: get(row, "allow_unsigned")?,
        routing: Routing {
            priority: get(row, "priority")?,
            weight: get(row, "weight")?,
            rules: get(row, "rules")?,
            rate_per_second: get(row, "rate_per_second")?,
            burst: get(row, "burst")?,
            concurrency: get(row, "concurrency")?,
        },
    })
}

pub(super) fn message(row: &Row) -> Result<MessageRecord> {
    Ok(MessageRecord {
        seq: Seq(get(row, "seq")?),
        environment: code(row, "environment", Environment::from_code)?,
        channel: code(row, "channel", Channel::from_code)?,
        source: code(row, "source", Source::from_code)?,
        priority: code(row, "priority", Priority::from_code)?,
        status: code(row, "status", Status::from_code)?,
        recipient: get(row, "recipient")?,
        external_id: get(row, "external_id")?,
        provider: get(row, "provider")?,
        config: get::<Option<Uuid>>(row, "config_id")?.map(ConfigId),
        provider_message_id: get(row, "provider_message_id")?,
        segments: get(row, "segments")?,
        cost_currency: get(row, "cost_currency")?,
        cost_micros: get(row, "cost_micros")?,
        failure_reason: get(row, "failure_reason")?,
        encoding: get::<Option<i16>>(row, "encoding")?.and_then(Encoding::from_code),
    })
}

pub(super) fn event(row: &Row) -> Result<EventRecord> {
    Ok(EventRecord {
        kind: code(row, "kind", EventKind::from_code)?,
        at: time(row, "at")?,
        attempt: get(row, "attempt")?,
        detail: get(row, "detail")?,
        payload: get(row, "payload")?,
    })
}

pub(super) fn lane(row: &Row) -> Result<Lane> {
    Ok(Lane {
        tenant: TenantId(get(row, "tenant_id")?),
        environment: code(row, "environment", Environment::from_code)?,
        channel: code(row, "channel", Channel::from_code)?,
        urgency: code(row, "urgency", Urgency::from_code)?,
        outlet: Outlet(get(row, "outlet")?),
    })
}

pub(super) fn job(row: &Row) -> Result<Job> {
    Ok(Job {
        seq: Seq(get(row, "seq")?),
        lane: lane(row)?,
        action: code(row, "action", Action::from_code)?,
        attempt: get(row, "attempt")?,
        expires_at: time(row, "expires_at")?,
        recipient: get(row, "recipient")?,
        content: get(row, "content")?,
        tried: get::<Option<&str>>(row, "tried")?.map(Tried::parse),
    })
}

pub(super) fn node(row: &Row) -> Result<Node> {
    Ok(Node { id: get(row, "node_id")?, lease: Lease(get(row, "epoch")?), slot: slot(get(row, "slot")?)?, beat_at: time(row, "beat_at")? })
}

pub(super) fn slot(slot: i16) -> Result<u8> {
    u8::try_from(slot).map_err(|_| Error::internal(format!("slot {slot} is out of range")))
}

/// A LIMIT as the database takes it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Where a page by (created, id) begins: below the last row of the page before, or below all.
pub(super) fn below(before: Option<(Timestamp, Uuid)>) -> (i64, Uuid) {
    before.map_or((i64::MAX, Uuid::max()), |(at, id)| (at.millis(), id))
}
