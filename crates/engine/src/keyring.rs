//! Checks API keys. What is read of a prefix is trusted for a second, so a revocation anywhere counts within that time.
//! Beside it stands, for a minute, the fingerprint of the one secret that passed Argon2id. So a known key costs one keyed
//! hash, a wrong one an HMAC, and Argon2id runs once a key and minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use aws_lc_rs::hmac;
use moka::{future::Cache, ops::compute::Op};
use parking_lot::Mutex;
use raven_core::{Clock, Environment, KeyId, Priority, TenantId, Timestamp, key::PresentedKey, permission::Scopes};
use raven_store::{KeyRecord, Store, TenantRecord};
use secrecy::SecretString;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    clock::{Entropy, EntropyError, random},
    limiter::Bucket,
    plans::{Plan, Plans},
    vault::SecretKey,
};

/// How long what was read of a key is trusted.
const FRESH: Duration = Duration::from_secs(1);
/// How long a secret that passed Argon2id is known to be the right one.
const REMEMBER: Duration = Duration::from_secs(60);
/// Keys that are remembered at most.
const CAPACITY: u64 = 50_000;

/// A key that was presented and is good.
#[derive(Clone, Debug)]
pub struct VerifiedKey {
    /// Its id.
    pub id: KeyId,
    /// What it begins with.
    pub prefix: Arc<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its environment.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Scopes,
    /// Its own rate limit; `None`: the plan's.
    pub rate_limit_rpm: Option<i32>,
    /// Priority of what is sent with it; `None`: the plan's.
    pub priority: Option<Priority>,
    /// The tenant, as it was when the key was read.
    pub tenant_record: Arc<TenantRecord>,
    /// The tenant's plan.
    pub plan: Arc<Plan>,
    /// What this process keeps of the key.
    pub state: Arc<KeyState>,
}

/// What a process keeps of a key for longer than what it read of it.
#[derive(Debug)]
pub struct KeyState {
    /// Its tokens.
    pub bucket: Arc<Bucket>,
    /// Milliseconds of its last use, to the second.
    used: AtomicI64,
    /// How much of that is written down.
    written: AtomicI64,
}

impl KeyState {
    fn of(id: KeyId) -> Self {
        Self { bucket: Arc::new(Bucket::new(id.0)), used: AtomicI64::new(0), written: AtomicI64::new(0) }
    }

    fn touch(&self, now: Timestamp) {
        let now = now.millis();
        // Once a second is exact enough, and spares the processors' caches.
        if now - self.used.load(Ordering::Relaxed) >= 1000 {
            self.used.store(now, Ordering::Relaxed);
        }
    }
}

/// Why a key is not good.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Malformed, unknown, wrong, revoked or expired: callers are not told which.
    #[error("invalid API key")]
    Invalid,
    /// It could not be looked up.
    #[error(transparent)]
    Store(Arc<raven_store::Error>),
}

struct Known {
    record: KeyRecord,
    verified: Arc<VerifiedKey>,
    read_at: Timestamp,
    /// Keyed hash of the secret that passed Argon2id, and when it did.
    passed: Mutex<Option<([u8; 32], Timestamp)>>,
    /// One Argon2id at a time for one key.
    hashing: Semaphore,
}

/// A freshly made key: the only time that its text exists.
pub struct FreshKey {
    /// The whole key.
    pub plaintext: SecretString,
    /// `rk_live_a3f7b2c1`.
    pub prefix: String,
    /// The last four characters.
    pub last_four: String,
    /// Argon2id, as a PHC string.
    pub secret_hash: String,
    /// HMAC-SHA-256 under the server key.
    pub secret_mac: [u8; 32],
}

impl std::fmt::Debug for FreshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FreshKey").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The right to run Argon2id, given back when dropped.
pub struct Turn<'k> {
    _permit: Option<SemaphorePermit<'k>>,
}

/// Checks and makes keys.
pub struct Keyring {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    mac: hmac::Key,
    /// Under which passed secrets are remembered; new with every process.
    memory_key: [u8; 32],
    known: Cache<[u8; 16], Arc<Known>>,
    states: Cache<KeyId, Arc<KeyState>>,
    /// Argon2id takes 20 ms of a processor and 19 MiB: no more of them at a time than there are processors.
    hashing: Semaphore,
    plans: Arc<Plans>,
}

impl Keyring {
    /// A keyring over the store's keys; `mac` is the installation's key for secrets.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        mac: &SecretKey,
        plans: Arc<Plans>,
    ) -> Result<Self, EntropyError> {
        let memory_key = random(&*entropy)?;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, mac.expose());
        let (known, states) = (Cache::new(CAPACITY), Cache::new(CAPACITY));
        let hashing = Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from));
        Ok(Self { store, clock, entropy, mac, memory_key, known, states, hashing, plans })
    }

    /// Checks a presented key.
    ///
    /// # Errors
    /// [`KeyError::Invalid`] for any key that opens nothing; [`KeyError::Store`] when that could not be found out.
    pub async fn check(&self, text: &str) -> Result<Arc<VerifiedKey>, KeyError> {
        let key = PresentedKey::parse(text).ok_or(KeyError::Invalid)?;
        let mut prefix = [0; 16];
        prefix.copy_from_slice(key.prefix.as_bytes());
        let now = self.clock.now();
        let known = match self.known.get(&prefix).await {
            Some(known) if now.since(known.read_at) < FRESH && now >= known.read_at => known,
            // Rare, and large: a request's future should not have room for it.
            stale => Box::pin(self.read_anew(prefix, key.prefix, now, stale)).await?,
        };
        let expired = known.record.expires_at.is_some_and(|at| now >= at);
        if expired || known.record.revoked_at.is_some() {
            return Err(KeyError::Invalid);
        }
        let print = *blake3::keyed_hash(&self.memory_key, key.secret.as_bytes()).as_bytes();
        if self.has_passed(&known, &print, now) {
            known.verified.state.touch(now);
            return Ok(known.verified.clone());
        }
        let mac = hmac::sign(&self.mac, key.secret.as_bytes());
        if !bool::from(mac.as_ref().ct_eq(&known.record.secret_mac)) {
            return Err(KeyError::Invalid);
        }
        // Never closed, so acquiring only waits.
        let _turn = known.hashing.acquire().await;
        if !self.has_passed(&known, &print, now) {
            let _hashing = self.hashing.acquire().await;
            verify_hash(key.secret.to_owned().into(), known.record.secret_hash.clone()).await?;
            *known.passed.lock() = Some((print, now));
        }
        known.verified.state.touch(now);
        Ok(known.verified.clone())
    }

    /// Writes down when keys were last used, all in one statement.
    ///
    /// # Errors
    /// When the store can't; then it is tried again with the next ones.
    pub async fn write_last_used(&self) -> raven_store::Result<()> {
        let mut used = Vec::new();
        for (id, state) in &self.states {
            let last = state.used.load(Ordering::Relaxed);
            if last > state.written.load(Ordering::Relaxed) {
                used.push((state, (*id, Timestamp::from_millis(last))));
            }
        }
        if used.is_empty() {
            return Ok(());
        }
        let times: Vec<(KeyId, Timestamp)> = used.iter().map(|(_, time)| *time).collect();
        self.store.touch_keys(&times).await?;
        for (state, (_, at)) in used {
            state.written.fetch_max(at.millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Forgets what is known of a prefix: after its key was revoked or changed.
    pub async fn forget(&self, prefix: &str) {
        if let Ok(prefix) = <[u8; 16]>::try_from(prefix.as_bytes()) {
            self.known.invalidate(&prefix).await;
        }
    }

    /// Forgets what is known of a tenant's keys: after its state was changed.
    pub async fn forget_tenant(&self, tenant: TenantId) {
        let theirs: Vec<[u8; 16]> =
            self.known.iter().filter(|(_, known)| known.verified.tenant == tenant).map(|(prefix, _)| *prefix).collect();
        for prefix in theirs {
            self.known.invalidate(&prefix).await;
        }
    }

    /// Waits until there is a processor to make a key with. Whoever waited long may find that the key is not needed any more.
    pub async fn turn(&self) -> Turn<'_> {
        // Never closed, so acquiring only waits.
        Turn { _permit: self.hashing.acquire().await.ok() }
    }

    /// Makes a new key.
    ///
    /// # Errors
    /// When the system has no randomness, or Argon2id fails (out of memory).
    pub async fn compose(&self, _turn: &Turn<'_>, environment: Environment) -> Result<FreshKey, EntropyError> {
        let (public, stream) = (random::<4>(&*self.entropy)?, random::<64>(&*self.entropy)?);
        let plaintext = raven_core::key::compose(environment, public, &stream).ok_or(EntropyError)?;
        let key = PresentedKey::parse(&plaintext).ok_or(EntropyError)?;
        let mac = hmac::sign(&self.mac, key.secret.as_bytes());
        let secret_mac = mac.as_ref().try_into().map_err(|_| EntropyError)?;
        let (prefix, last_four) = (key.prefix.to_owned(), key.secret[key.secret.len() - 4..].to_owned());
        let salt = random::<16>(&*self.entropy)?;
        let secret = zeroize::Zeroizing::new(key.secret.to_owned());
        let hashed =
            tokio::task::spawn_blocking(move || Argon2::default().hash_password_with_salt(secret.as_bytes(), &salt).map(|h| h.to_string()));
        let secret_hash = hashed.await.ok().and_then(Result::ok).ok_or(EntropyError)?;
        Ok(FreshKey { prefix, last_four, secret_hash, secret_mac, plaintext: plaintext.into() })
    }

    fn has_passed(&self, known: &Known, print: &[u8; 32], now: Timestamp) -> bool {
        let passed = *known.passed.lock();
        passed.is_some_and(|(passed, at)| now.since(at) < REMEMBER && passed.ct_eq(print).into())
    }

    async fn read_anew(&self, prefix: [u8; 16], text: &str, now: Timestamp, stale: Option<Arc<Known>>) -> Result<Arc<Known>, KeyError> {
        if let Some(stale) = &stale {
            // Only what this call saw is forgotten: another one may have read anew meanwhile.
            let forget = |found: Option<moka::Entry<_, Arc<Known>>>| {
                let same = found.is_some_and(|found| Arc::ptr_eq(found.value(), stale));
                std::future::ready(if same { Op::Remove } else { Op::Nop })
            };
            self.known.entry(prefix).and_compute_with(forget).await;
        }
        self.read(prefix, text, now, stale).await
    }

    async fn read(&self, prefix: [u8; 16], text: &str, now: Timestamp, stale: Option<Arc<Known>>) -> Result<Arc<Known>, KeyError> {
        let read = async {
            let (record, tenant) =
                self.store.find_key_by_prefix(text).await.map_err(|e| KeyError::Store(Arc::new(e)))?.ok_or(KeyError::Invalid)?;
            let verified = Arc::new(VerifiedKey {
                id: record.id,
                prefix: record.prefix.as_str().into(),
                tenant: record.tenant,
                environment: record.environment,
                scopes: record.scopes,
                rate_limit_rpm: record.rate_limit_rpm,
                priority: record.priority,
                plan: self.plans.of(&tenant.plan).clone(),
                tenant_record: Arc::new(tenant),
                state: self.states.get_with(record.id, async { Arc::new(KeyState::of(record.id)) }).await,
            });
            // A secret that passed stays known as long as the hash that it passed is the same.
            let passed = stale.filter(|s| s.record.secret_hash == record.secret_hash).and_then(|s| *s.passed.lock());
            Ok::<_, KeyError>(Arc::new(Known { record, verified, read_at: now, passed: Mutex::new(passed), hashing: Semaphore::new(1) }))
        };
        self.known.try_get_with(prefix, read).await.map_err(|e| match &*e {
            KeyError::Invalid => KeyError::Invalid,
            KeyError::Store(source) => KeyError::Store(source.clone()),
        })
    }
}

async fn verify_hash(secret: zeroize::Zeroizing<String>, hash: String) -> Result<(), KeyError> {
    let verified = tokio::task::spawn_blocking(move || {
        PasswordHash::new(&hash).is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok())
    });
    if matches!(verified.await, Ok(true)) { Ok(()) } else { Err(KeyError::Invalid) }
}
