//! Tenants, keys, messages and outcomes to test with. Everything follows from small numbers, so both engines get the same.

use std::sync::Arc;

use raven_core::{
    Channel, ConfigId, Environment, EventKind, KeyId, Seq, Source, Status, TenantId, Timestamp, UserId, permission::Scopes,
    tenant::TenantStatus,
};
use uuid::Uuid;

use crate::{
    Accepted, Claim, Claimed, ConfigRecord, KeyRecord, Lease, NewConfig, NewKey, NewMessage, NewTenant, Next, Operation, Outcome, Result,
    Scope, Settlement, Start, Store, TenantRecord, UserProfile, messages::MessageClaim,
};

/// What the suite calls the beginning: 2026-09-21.
const BEGINNING: i64 = 1_790_000_000_000;

/// So many milliseconds after the beginning.
#[must_use]
pub const fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(BEGINNING + ms)
}

/// The first seq of that instant.
#[must_use]
pub const fn seq(ms: i64) -> Seq {
    Seq::first_at(at(ms))
}

/// The `n`th id: they ascend with `n`.
#[must_use]
pub const fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x0198_0000_0000_4000_8000_0000_0000_0000 + n)
}

/// The `n`th tenant: active, created `n` milliseconds after the beginning.
#[must_use]
pub fn tenant_record(n: u8) -> TenantRecord {
    TenantRecord {
        id: TenantId(id(u128::from(n))),
        slug: format!("tenant-{n}"),
        name: format!("Tenant № {n}"),
        status: TenantStatus::Active,
        plan: "free".to_owned(),
        country_code: Some("KE".to_owned()),
        default_locale: "en".to_owned(),
        default_tz: "Africa/Nairobi".to_owned(),
        created_at: at(i64::from(n)),
        data_key: vec![n, 0, 255],
        retry_unknown: false,
    }
}

/// The `n`th human.
#[must_use]
pub fn user(n: u8) -> UserProfile {
    UserProfile {
        id: UserId(id(1000 + u128::from(n))),
        email: format!("human{n}@example.com"),
        name: Some("Ada".to_owned()),
        avatar_url: None,
    }
}

/// The creation of the `n`th tenant, owned by the human of the same number.
#[must_use]
pub fn new_tenant(n: u8) -> NewTenant {
    NewTenant { record: tenant_record(n), owner: user(n), claim: None }
}

/// Creates the `n`th tenant.
pub async fn tenant(store: &Arc<dyn Store>, n: u8) -> Result<TenantId> {
    assert_eq!(store.create_tenant(new_tenant(n)).await?, Outcome::Created);
    Ok(tenant_record(n).id)
}

/// The `n`th key, of a tenant; created `n` milliseconds after the beginning.
#[must_use]
pub fn key_record(tenant: TenantId, n: u8) -> KeyRecord {
    KeyRecord {
        id: KeyId(id(2000 + u128::from(n))),
        tenant,
        environment: Environment::Live,
        prefix: format!("rk_live_{n:08x}"),
        last_four: "Wx4z".to_owned(),
        secret_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
        secret_mac: [n; 32],
        scopes: Scopes::DEFAULT,
        name: format!("key {n}"),
        rate_limit_rpm: Some(600),
        expires_at: None,
        created_at: at(i64::from(n)),
        revoked_at: None,
    }
}

/// Creates a key.
pub async fn create_key(store: &Arc<dyn Store>, record: KeyRecord) -> Result<KeyId> {
    let id = record.id;
    assert_eq!(store.create_key(NewKey { record, claim: None }).await?, Outcome::Created);
    Ok(id)
}

/// The `n`th provider config, of a tenant; created `n` milliseconds after the beginning.
#[must_use]
pub fn config_record(tenant: TenantId, n: u8) -> ConfigRecord {
    ConfigRecord {
        id: ConfigId(id(3000 + u128::from(n))),
        tenant,
        provider: "postmark".to_owned(),
        channel: Channel::Email,
        label: format!("config {n}"),
        status: "unverified".to_owned(),
        public: r#"{"from_email":"hello@example.com"}"#.to_owned(),
        secret: vec![0, 1, n, 255],
        created_at: at(i64::from(n)),
    }
}

/// Creates a provider config.
pub async fn create_config(store: &Arc<dyn Store>, record: ConfigRecord) -> Result<ConfigId> {
    let id = record.id;
    assert_eq!(store.create_config(NewConfig { record, claim: None }).await?, Outcome::Created);
    Ok(id)
}

/// A claim on an idempotency key for a payload, of which the number stands for all.
#[must_use]
pub fn claim(scope: Scope, operation: Operation, key: &str, payload: u8) -> Claim {
    Claim {
        scope,
        operation,
        key: key.to_owned(),
        fingerprint: [payload; 16],
        expires_at: at(1_000_000),
        response: format!(r#"{{"payload":{payload}}}"#),
    }
}

/// An SMS, live, asked for by nobody's key, due at once.
#[must_use]
pub fn message(tenant: TenantId, seq: Seq) -> NewMessage {
    NewMessage {
        seq,
        tenant,
        environment: Environment::Live,
        channel: Channel::Sms,
        source: Source::Api,
        key: None,
        recipient: "+254722000000".to_owned(),
        content: r#"{"body":"Hi"}"#.to_owned(),
        large: false,
        external_id: None,
        segments: Some(1),
        encoding: Some(raven_core::sms::Encoding::Gsm7),
        idempotency: None,
        due_at: seq.at(),
        expires_at: Timestamp::from_millis(seq.at().millis() + 14_400_000),
        lease: None,
        started: None,
    }
}

/// A claim on an idempotency key by a message.
#[must_use]
pub fn message_claim(key: &str, payload: u8) -> MessageClaim {
    MessageClaim { operation: Operation::SendMessage, key: key.to_owned(), fingerprint: [payload; 16], expires_at: at(1_000_000) }
}

/// [`message`] with an idempotency key.
#[must_use]
pub fn keyed(tenant: TenantId, seq: Seq, key: &str, payload: u8) -> NewMessage {
    NewMessage { idempotency: Some(message_claim(key, payload)), ..message(tenant, seq) }
}

/// Accepts a batch that no row of may fail.
pub async fn accept(store: &Arc<dyn Store>, batch: Vec<NewMessage>) -> Result<Vec<Accepted>> {
    let now = batch.iter().map(|m| m.seq.at()).max().unwrap_or(at(0));
    store.accept(batch, now).await?.into_iter().collect()
}

/// Accepts a message that must be new.
pub async fn create(store: &Arc<dyn Store>, new: NewMessage) -> Result<Seq> {
    let seq = new.seq;
    assert_eq!(accept(store, vec![new]).await?, [Accepted::Created]);
    Ok(seq)
}

/// Registers a node.
pub async fn node(store: &Arc<dyn Store>, name: &str) -> Result<Lease> {
    Ok(store.register_node(name, at(0)).await?.lease)
}

/// Claims whatever is due.
pub async fn claim_all(store: &Arc<dyn Store>, lease: Lease, now: Timestamp) -> Result<Claimed> {
    store.claim(lease, 1000, 1000, &[], now).await
}

/// The seqs of a claim, in order.
#[must_use]
pub fn seqs(claimed: &Claimed) -> Vec<Seq> {
    claimed.jobs.iter().map(|job| job.seq).collect()
}

/// Starts an attempt that may be started.
pub async fn start(store: &Arc<dyn Store>, lease: Lease, seq: Seq, attempt: i16, now: Timestamp) -> Result<()> {
    assert_eq!(store.start(lease, &[Start { seq, attempt, config: None }], now).await?, [true]);
    Ok(())
}

/// An outcome that ends an attempt and the job.
#[must_use]
pub fn outcome(tenant: TenantId, seq: Seq, attempt: i16, kind: EventKind, status: Status, at: Timestamp) -> Settlement {
    Settlement {
        seq,
        tenant,
        attempt,
        started_at: None,
        at,
        kind,
        status,
        provider: None,
        config: None,
        provider_message_id: None,
        segments: None,
        cost_currency: None,
        cost_micros: None,
        failure_reason: None,
        detail: None,
        payload: None,
        next: Next::Done,
    }
}

/// The status of a message that there must be.
pub async fn status(store: &Arc<dyn Store>, tenant: TenantId, seq: Seq) -> Result<Status> {
    let found = store.find_message(tenant, None, seq).await?;
    Ok(found.expect("the message was accepted").status)
}

/// The kinds of a timeline with their attempts, in order.
pub async fn kinds(store: &Arc<dyn Store>, tenant: TenantId, seq: Seq) -> Result<Vec<(EventKind, i16)>> {
    Ok(store.list_events(tenant, seq).await?.into_iter().map(|e| (e.kind, e.attempt)).collect())
}
