//! Tenants, keys, messages and outcomes to test with. Everything follows from small numbers, so both engines get the same.

use std::sync::Arc;

use raven_core::{
    Channel, ConfigId, Environment, EventKind, InvitationId, KeyId, Priority, Seq, Source, Status, SuppressionId, SuppressionReason,
    SuppressionSource, TenantId, Timestamp, UserId,
    keyword::Keyword,
    permission::{Role, Scopes},
    tenant::{InvitationStatus, TenantStatus},
};
use uuid::Uuid;

use crate::{
    Accepted, Action, Answered, AuditRecord, CallbackRecord, CallbackState, Claim, Claimed, ConfigRecord, InboundRecord, InvitationRecord,
    KeyRecord, Lane, Lease, NewConfig, NewInvitation, NewKey, NewMessage, NewSuppression, NewTenant, Next, Operation, Outcome, Outlet,
    Patience, Reading, Reply, Reported, Result, Routing, Scope, Settlement, Start, Started, StateChange, Store, Suppressing,
    SuppressionRecord, TakeTokens, Telling, TenantRecord, Urgency, UserProfile, Violation,
    invariants::{Margins, Range},
    messages::MessageClaim,
};

/// What the suite calls the beginning: 2026-09-21.
const BEGINNING: i64 = 1_790_000_000_000;

/// Whom messages reach unless a test says otherwise.
pub const RECIPIENT: &str = "+254722000000";

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

/// The number that an id of [`id`] was made of.
fn number(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() & 0xffff).expect("16 bits")
}

/// The `n`th record of a tenant's audit log. Numbers below 1,000 are for the tests; 0 is the tenant's creation, and what the
/// fixture creates has the number that its id ends in.
#[must_use]
pub fn audit(tenant: TenantId, n: i64) -> AuditRecord {
    // Beside the seqs of messages, which are the first ones of their instants.
    AuditRecord { tenant, seq: Seq(seq(n).0 + 1), entry: format!(r#"{{"n":{n}}}"#) }
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
        suspended_by: None,
        archived_at: None,
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
    let record = tenant_record(n);
    NewTenant { audit: audit(record.id, 0), record, owner: user(n), claim: None }
}

/// Creates the `n`th tenant.
pub async fn tenant(store: &Arc<dyn Store>, n: u8) -> Result<TenantId> {
    assert_eq!(store.create_tenant(new_tenant(n)).await?, Outcome::Created);
    Ok(tenant_record(n).id)
}

/// Takes a step in a tenant's life that its state allows, with the `n`th record of its audit log.
pub async fn step(store: &Arc<dyn Store>, tenant: TenantId, change: StateChange, n: i64) -> Result<TenantRecord> {
    let told = store.change_state(tenant, change, audit(tenant, n)).await?.expect("there is such a tenant");
    assert!(told.changed, "{change:?}: {told:?}");
    Ok(told.tenant)
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
        priority: None,
        expires_at: None,
        created_at: at(i64::from(n)),
        revoked_at: None,
        last_used_at: None,
    }
}

/// The creation of a key without a claim. Its audit record has a number of its own: what the key's id ends in.
#[must_use]
pub fn new_key(record: KeyRecord) -> NewKey {
    NewKey { audit: audit(record.tenant, number(record.id.0)), record, claim: None }
}

/// Creates a key.
pub async fn create_key(store: &Arc<dyn Store>, record: KeyRecord) -> Result<KeyId> {
    let id = record.id;
    assert_eq!(store.create_key(new_key(record)).await?, Outcome::Created);
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
        status_reason: None,
        allow_unsigned: false,
        public: r#"{"from_email":"hello@example.com"}"#.to_owned(),
        secret: vec![0, 1, n, 255],
        created_at: at(i64::from(n)),
        routing: Routing { priority: i16::from(n), ..Routing::default() },
    }
}

/// The creation of a provider config without a claim. Its audit record has the number that its id ends in.
#[must_use]
pub fn new_config(record: ConfigRecord) -> NewConfig {
    NewConfig { audit: audit(record.tenant, number(record.id.0)), record, claim: None }
}

/// Creates a provider config.
pub async fn create_config(store: &Arc<dyn Store>, record: ConfigRecord) -> Result<ConfigId> {
    let id = record.id;
    assert_eq!(store.create_config(new_config(record)).await?, Outcome::Created);
    Ok(id)
}

/// The `n`th invitation, of a tenant, for the human of the same number: made `n` milliseconds after the beginning, and good
/// for a second.
#[must_use]
pub fn invitation_record(tenant: TenantId, n: u8) -> InvitationRecord {
    InvitationRecord {
        id: InvitationId(id(4000 + u128::from(n))),
        tenant,
        email: user(n).email,
        role: Role::Member,
        status: InvitationStatus::Pending,
        invited_by: id(1000),
        created_at: at(i64::from(n)),
        expires_at: at(i64::from(n) + 1000),
    }
}

/// The making of an invitation without a claim. Its audit record has the number that its id ends in.
#[must_use]
pub fn new_invitation(record: InvitationRecord) -> NewInvitation {
    NewInvitation { audit: audit(record.tenant, number(record.id.0)), record, claim: None }
}

/// Makes an invitation.
pub async fn invite(store: &Arc<dyn Store>, record: InvitationRecord) -> Result<InvitationId> {
    let id = record.id;
    assert_eq!(store.create_invitation(new_invitation(record)).await?, Outcome::Created);
    Ok(id)
}

/// Has the `n`th human join a tenant by an invitation, `n` milliseconds after the beginning. The audit record has number
/// 5000 + `n`.
pub async fn member(store: &Arc<dyn Store>, tenant: TenantId, n: u8, role: Role) -> Result<UserId> {
    let invitation = invite(store, InvitationRecord { role, ..invitation_record(tenant, n) }).await?;
    let user = user(n);
    let (id, email, n) = (user.id, user.email.clone(), i64::from(n));
    let told = store.answer_invitation(invitation, &email, Reply::Accept(user), at(n), audit(tenant, 5000 + n)).await?;
    assert_eq!(told, Answered::Done);
    Ok(id)
}

/// Creates the `n`th tenant, 1 to 9, with something in every table. Of what a purge must find, nothing is left out: contents with and
/// without a message, jobs, events, buckets of the tenant and of its key, the record of the tenant's own creation.
pub async fn furnished(store: &Arc<dyn Store>, n: u8) -> Result<TenantId> {
    let new = new_tenant(n);
    let tenant = new.record.id;
    let created =
        Claim { response: format!(r#"{{"id":"{tenant}"}}"#), ..claim(Scope::User(new.owner.id), Operation::CreateTenant, "first", 1) };
    assert_eq!(store.create_tenant(NewTenant { claim: Some(created), ..new }).await?, Outcome::Created);
    for i in 0..3 {
        member(store, tenant, 100 + 10 * n + i, Role::Member).await?;
    }
    invite(store, invitation_record(tenant, 103 + 10 * n)).await?;
    let scope = Scope::Tenant(tenant, Environment::Live);
    for i in [n, n + 100] {
        let claimed = Some(claim(scope, Operation::CreateKey, &format!("key-{i}"), 1));
        assert_eq!(store.create_key(NewKey { claim: claimed, ..new_key(key_record(tenant, i)) }).await?, Outcome::Created);
        create_config(store, config_record(tenant, i)).await?;
        store.take_tokens(tokens(key_record(tenant, i).id.0, 1)).await?;
    }
    store.take_tokens(tokens(tenant.0, 1)).await?;
    suppress(store, SuppressionRecord { address: "+254722999999".to_owned(), ..suppression_record(tenant, n) }).await?;
    let first = 100_000 * i64::from(n);
    store.put_content(tenant, seq(first + 90), "without a message").await?;
    store.put_content(tenant, seq(first), "large").await?;
    let mut batch = Vec::new();
    for i in 0..9 {
        batch.push(NewMessage {
            environment: Environment::ALL[usize::from(i % 3 == 1)],
            channel: Channel::ALL[usize::from(i % 2 == 1)],
            key: (i % 2 == 0).then(|| key_record(tenant, n).id),
            large: i == 0,
            content: if i == 0 { String::new() } else { format!("of tenant {n}") },
            quota: (i % 3 != 1).then_some(100),
            audit: (i == 5).then(|| "{}".to_owned()),
            ..keyed(tenant, seq(first + i), &format!("message-{i}"), 1)
        });
    }
    assert_eq!(accept(store, batch).await?, vec![Accepted::Created; 9]);
    for i in 0..5 {
        let settlement = outcome(tenant, seq(first + i), 0, EventKind::Sent, Status::Sent, at(first + 50));
        let next = if i < 3 { Next::Done } else { Next::At(Action::GiveUp, at(first + 99)) };
        store.settle(Lease(0), &[Settlement { next, ..settlement }]).await?;
    }
    let callbacks = [callback(tenant, first + 1), callback(tenant, first + 2)];
    assert_eq!(store.record_callbacks(&callbacks, at(first)).await?, [true, true]);
    let id = SuppressionId(id(6200 + u128::from(n)));
    let patience = Some(Patience { bounces: 5, since: at(0) });
    let bounced = Reported {
        suppresses: Some(Suppressing { id, reason: SuppressionReason::HardBounce, only_after: patience }),
        ..report(seq(first), EventKind::Bounced, Some(Status::Bounced), "soft")
    };
    let tells = vec![Telling::Reported(Box::new(bounced)), Telling::Inbound(Box::new(inbound(tenant, first + 1)))];
    assert_eq!(store.apply_callbacks(&[reading(tenant, first + 1, tells)], at(first + 90)).await?, [CallbackState::Applied]);
    Ok(tenant)
}

/// A bucket of ten tokens, of which one comes back each second, asked at the beginning for some.
#[must_use]
pub fn tokens(bucket: Uuid, want: i64) -> TakeTokens {
    TakeTokens { bucket, want, interval: 1_000_000_000, burst: 10, now: BEGINNING * 1_000_000 }
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
        priority: Priority::Transactional,
        key: None,
        recipient: RECIPIENT.to_owned(),
        content: r#"{"body":"Hi"}"#.to_owned(),
        large: false,
        external_id: None,
        segments: Some(1),
        encoding: Some(raven_core::sms::Encoding::Gsm7),
        idempotency: None,
        due_at: seq.at(),
        expires_at: Timestamp::from_millis(seq.at().millis() + 14_400_000),
        lease: None,
        outlet: Outlet::NONE,
        started: None,
        quota: None,
        audit: None,
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

/// An attempt at a message of [`message`], in the sandbox.
#[must_use]
pub fn attempt(tenant: TenantId, seq: Seq, attempt: i16) -> Start {
    let (environment, channel, urgency) = (Environment::Live, Channel::Sms, Urgency::Transactional);
    let lane = Lane { tenant, environment, channel, urgency, outlet: Outlet::NONE };
    Start { seq, attempt, config: None, lane, lookup: RECIPIENT.to_owned() }
}

/// Starts an attempt that may be started.
pub async fn start(store: &Arc<dyn Store>, lease: Lease, seq: Seq, number: i16, now: Timestamp) -> Result<()> {
    assert_eq!(store.start(lease, &[attempt(tenant_record(1).id, seq, number)], now).await?, [Started::Begun]);
    Ok(())
}

/// The `n`th suppression, of a tenant: of the recipient of [`message`], by hand, `n` milliseconds after the beginning.
#[must_use]
pub fn suppression_record(tenant: TenantId, n: u8) -> SuppressionRecord {
    SuppressionRecord {
        id: SuppressionId(id(6000 + u128::from(n))),
        tenant,
        environment: Environment::Live,
        channel: Channel::Sms,
        address: RECIPIENT.to_owned(),
        reason: SuppressionReason::Manual,
        source: SuppressionSource::Request,
        message: None,
        detail: None,
        created_at: at(i64::from(n)),
    }
}

/// The creation of a suppression without a claim. Its audit record has the number that its id ends in.
#[must_use]
pub fn new_suppression(record: SuppressionRecord) -> NewSuppression {
    NewSuppression { audit: audit(record.tenant, number(record.id.0)), record, claim: None }
}

/// Creates a suppression.
pub async fn suppress(store: &Arc<dyn Store>, record: SuppressionRecord) -> Result<SuppressionId> {
    let id = record.id;
    assert_eq!(store.create_suppression(new_suppression(record)).await?, Outcome::Created);
    Ok(id)
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
        suppresses: None,
        is_found_by_id: false,
        tried: None,
        outlet: Outlet::NONE,
    }
}

/// The config that callbacks of [`callback`] come to.
pub const CONFIG: ConfigId = ConfigId(id(3000));

/// The `n`th callback to a tenant, which came `n` milliseconds after the beginning.
#[must_use]
pub fn callback(tenant: TenantId, n: i64) -> CallbackRecord {
    CallbackRecord {
        // Beside the seqs of messages, which are the first ones of their instants.
        seq: Seq(seq(n).0 + 2),
        tenant,
        config: CONFIG,
        is_trusted: true,
        once: None,
        method: "POST".to_owned(),
        query: "message=1&x=%20".to_owned(),
        headers: r#"{"content-type":"application/json"}"#.to_owned(),
        body: vec![0, 255, b'{'],
        tries: 0,
    }
}

/// A report of a message by our own id.
#[must_use]
pub fn report(message: Seq, kind: EventKind, status: Option<Status>, key: &str) -> Reported {
    Reported {
        message: Some(message),
        provider_message_id: Some("id-1".to_owned()),
        recipient: None,
        kind,
        status,
        at: at(60),
        key: key.to_owned(),
        reason: None,
        detail: None,
        payload: Some(format!("{{\"k\":\"{key}\"}}")),
        segments: None,
        cost: None,
        suppresses: None,
        detours: Vec::new(),
    }
}

/// What the `n`th callback tells.
#[must_use]
pub fn reading(tenant: TenantId, n: i64, tells: Vec<Telling>) -> Reading {
    Reading {
        callback: Some(callback(tenant, n).seq),
        tenant,
        config: CONFIG,
        channel: Channel::Sms,
        is_trusted: true,
        tells: Ok(tells),
        again_at: Some(at(5000)),
    }
}

/// The `n`th message to a tenant.
#[must_use]
pub fn inbound(tenant: TenantId, n: i64) -> InboundRecord {
    InboundRecord {
        seq: Seq(seq(n).0 + 3),
        tenant,
        environment: Environment::Live,
        channel: Channel::Sms,
        config: CONFIG,
        provider: "twilio".to_owned(),
        provider_message_id: format!("in-{n}"),
        sender: RECIPIENT.to_owned(),
        recipient: "ACME".to_owned(),
        body: "Habari 🙂\n'; DROP TABLE".to_owned(),
        media: vec!["https://a.example/1".to_owned(), "https://a.example/2".to_owned()],
        keyword: Some(Keyword::Stop),
        message: Some(seq(1)),
        sent_at: Some(at(7)),
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

/// All that is wrong, read in stretches of three, with the counters of the first day.
pub async fn violations(store: &Arc<dyn Store>, now: Timestamp) -> Result<Vec<Violation>> {
    const ROWS: usize = 3;
    let mut all = Vec::new();
    let mut range = Range::ALL;
    loop {
        let checked = store.check_jobs(range, ROWS, Margins::default(), now).await?;
        all.extend(checked.violations);
        let Some(after) = checked.next else { break };
        range.after = after;
    }
    range = Range::ALL;
    loop {
        let checked = store.check_messages(range, ROWS).await?;
        all.extend(checked.violations);
        let Some(after) = checked.next else { break };
        range.after = after;
    }
    let mut after = None;
    loop {
        let checked = store.check_records(after, ROWS).await?;
        all.extend(checked.violations);
        after = checked.next;
        if after.is_none() {
            break;
        }
    }
    let mut after = None;
    loop {
        let checked = store.check_counters(at(0).day(), after, ROWS, 1000).await?;
        all.extend(checked.violations);
        after = checked.next;
        if after.is_none() {
            break;
        }
    }
    Ok(all)
}
