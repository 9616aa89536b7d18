//! What operator commands and quickstart do to the data: tenants and keys, made as the API makes them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use raven_core::{
    Clock, Environment, KeyId, Priority, Seq, TenantId, UserId,
    permission::Scopes,
    tenant::{TenantStatus, slug_of},
};
use raven_engine::{
    Entropy, OsEntropy, SystemClock,
    audit::{Actor, Entry},
    keyring::Keyring,
    vault::{InstallationKeys, Vault},
};
use raven_store::{AuditRecord, Error, KeyRecord, NewKey, NewTenant, Store, TenantRecord, UserProfile};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{config::Config, files};

/// How often something that must be unique is made again when it is taken.
const TRIES: u32 = 50;

/// Opens the store for a command that needs data to be there; the server may run beside.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    if config.is_embedded() && !config.sqlite_file().exists() {
        bail!(
            "there is no database at {}: `raven quickstart`, `raven serve` or `raven migrate` makes one, and --data-dir or --database-url points to another",
            config.sqlite_file().display()
        );
    }
    let store = raven_store::connect(&config.location()).await.context("the database can't be opened")?;
    let found = store.migrations().await.context("the state of the database's schema can't be read")?;
    if !found.is_current() {
        bail!("the database is at step {} and this program wants step {}: run `raven migrate`", found.applied, found.latest);
    }
    Ok(store)
}

/// The vault under the configured master key.
pub(crate) fn vault(config: &Config) -> anyhow::Result<Vault> {
    Ok(Vault::new(config.master_key.clone().context("there is no master key")?, Arc::new(OsEntropy)))
}

/// The keyring of the installation.
pub(crate) async fn keyring(config: &Config, store: &Arc<dyn Store>) -> anyhow::Result<Keyring> {
    let keys = InstallationKeys::load(&vault(config)?, &**store).await.context("the installation's keys don't open")?;
    let plans = Arc::new(config.plans.clone());
    Ok(Keyring::new(store.clone(), Arc::new(SystemClock), Arc::new(OsEntropy), &keys.key_mac, plans)?)
}

/// A record of the audit log: an operator did something (`resource.verb`) to a resource of a tenant.
pub(crate) fn audit(tenant: TenantId, action: &str, resource: Uuid, before: Value, after: Value) -> anyhow::Result<AuditRecord> {
    let mut entry = Entry::new(action, Actor::operator(), resource);
    (entry.before, entry.after) = (before, after);
    let mut random = [0; 2];
    OsEntropy.fill(&mut random)?;
    Ok(entry.record(tenant, Seq::of_command(SystemClock.now(), u16::from_le_bytes(random))))
}

/// The tenant with a slug.
pub(crate) async fn tenant(store: &dyn Store, slug: &str) -> anyhow::Result<TenantRecord> {
    store.find_tenant_by_slug(slug).await?.with_context(|| format!("there is no tenant with the slug {slug:?}: see `raven tenants list`"))
}

/// The user id of a human who is only known by an address: always the same one for it, so that tokens minted for an
/// address belong to one user. In the form of a UUIDv4, as all ids are.
pub(crate) fn user_of(email: &str) -> UserId {
    let hash = blake3::hash(format!("raven user {}", email.to_lowercase()).as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    UserId(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// A tenant to create.
#[derive(Debug)]
pub(crate) struct TenantWish {
    pub(crate) name: String,
    /// Made from the name where absent.
    pub(crate) slug: Option<String>,
    pub(crate) country_code: Option<String>,
    pub(crate) default_locale: String,
    pub(crate) default_tz: String,
    pub(crate) owner: UserProfile,
    pub(crate) plan: String,
}

/// Creates a tenant.
pub(crate) async fn create_tenant(store: &dyn Store, vault: &Vault, wish: TenantWish) -> anyhow::Result<TenantRecord> {
    let id = TenantId(files::random_uuid(&OsEntropy)?);
    let mut record = TenantRecord {
        id,
        slug: String::new(),
        name: wish.name,
        status: TenantStatus::Active,
        plan: wish.plan,
        country_code: wish.country_code,
        default_locale: wish.default_locale,
        default_tz: wish.default_tz,
        created_at: SystemClock.now(),
        data_key: vault.new_data_key(id)?,
        retry_unknown: false,
        suspended_by: None,
        archived_at: None,
    };
    for attempt in 0..TRIES {
        record.slug = wish.slug.clone().unwrap_or_else(|| slug_of(&record.name, attempt));
        let after = json!({ "slug": record.slug, "name": record.name, "plan": record.plan });
        let audit = audit(id, "tenant.create", id.0, Value::Null, after)?;
        match store.create_tenant(NewTenant { record: record.clone(), owner: wish.owner.clone(), claim: None, audit }).await {
            Ok(_) => return Ok(record),
            Err(Error::Conflict(_)) if wish.slug.is_none() => {}
            Err(Error::Conflict(_)) => bail!("the slug {:?} is taken", record.slug),
            Err(e) => return Err(e.into()),
        }
    }
    bail!("too many tenants have the name {:?}: choose a slug", record.name)
}

/// A key to create.
#[derive(Debug)]
pub(crate) struct KeyWish {
    pub(crate) tenant: TenantId,
    pub(crate) name: String,
    pub(crate) environment: Environment,
    pub(crate) scopes: Scopes,
    pub(crate) rate_limit_rpm: Option<i32>,
    pub(crate) priority: Option<Priority>,
    pub(crate) expires_in: Option<Duration>,
}

/// Creates a key. Its text exists in the answer only.
pub(crate) async fn create_key(store: &dyn Store, keyring: &Keyring, wish: KeyWish) -> anyhow::Result<(KeyRecord, SecretString)> {
    let now = SystemClock.now();
    for _ in 0..TRIES {
        let fresh = keyring.compose(&keyring.turn().await, wish.environment).await?;
        let record = KeyRecord {
            id: KeyId(files::random_uuid(&OsEntropy)?),
            tenant: wish.tenant,
            environment: wish.environment,
            prefix: fresh.prefix,
            last_four: fresh.last_four,
            secret_hash: fresh.secret_hash,
            secret_mac: fresh.secret_mac,
            scopes: wish.scopes,
            name: wish.name.clone(),
            rate_limit_rpm: wish.rate_limit_rpm,
            priority: wish.priority,
            expires_at: wish.expires_in.map(|span| now.after(span)),
            created_at: now,
            revoked_at: None,
            last_used_at: None,
        };
        let after = json!({ "prefix": record.prefix, "name": record.name, "environment": record.environment });
        let audit = audit(wish.tenant, "api_key.create", record.id.0, Value::Null, after)?;
        match store.create_key(NewKey { record: record.clone(), claim: None, audit }).await {
            Ok(_) => return Ok((record, fresh.plaintext)),
            // The prefix has 32 random bits: now and then one is taken.
            Err(Error::Conflict(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bail!("no free key prefix was found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_always_has_the_same_user_in_the_form_of_a_random_id() {
        let id = user_of("demo@example.com");
        assert_eq!(id, user_of("Demo@Example.com"));
        assert_ne!(id, user_of("other@example.com"));
        assert_eq!(id.0.get_version_num(), 4);
    }
}
