//! Sealed secrets. The master key wraps the installation's own keys and one data key for each tenant; a tenant's data key
//! seals its providers' secrets. Every box is XChaCha20-Poly1305 and bound to what it belongs to, so one that was moved
//! to another row does not open.

use std::sync::Arc;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use raven_core::{ConfigId, IdCipher, TenantId, page::CursorKey};
use raven_store::Store;
use zeroize::{Zeroize, Zeroizing};

use crate::clock::{Entropy, EntropyError, random};

const VERSION: u8 = 1;
const NONCE_LEN: usize = 24;

/// A 32-byte key that is wiped when dropped and never shown.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// Takes the key; wipes the argument's copy.
    #[must_use]
    pub fn new(mut key: [u8; 32]) -> Self {
        let taken = Self(Zeroizing::new(key));
        key.zeroize();
        taken
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey")
    }
}

/// Why a box did not open or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It was sealed with another key, for another place, or was altered.
    #[error("a sealed secret does not open: the master key is not the one it was sealed with, or the data was altered")]
    Sealed,
    /// No randomness for a nonce.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] raven_store::Error),
}

/// Seals and opens under the master key.
#[derive(Clone)]
pub struct Vault {
    master: SecretKey,
    entropy: Arc<dyn Entropy>,
}

impl Vault {
    /// A vault under a master key.
    #[must_use]
    pub fn new(master: SecretKey, entropy: Arc<dyn Entropy>) -> Self {
        Self { master, entropy }
    }

    /// A fresh data key for a tenant, wrapped.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn new_data_key(&self, tenant: TenantId) -> Result<Vec<u8>, VaultError> {
        let key = SecretKey::new(random(&*self.entropy)?);
        self.seal(&self.master, &tenant_context(tenant), key.expose())
    }

    /// Seals a provider config's secret settings with its tenant's data key.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] when the data key does not open.
    pub fn seal_config(&self, data_key: &[u8], tenant: TenantId, config: ConfigId, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let key = self.open_key(&tenant_context(tenant), data_key)?;
        self.seal(&key, &config_context(tenant, config), plain)
    }

    /// Opens what [`seal_config`](Self::seal_config) sealed.
    ///
    /// # Errors
    /// [`VaultError::Sealed`].
    pub fn open_config(
        &self,
        data_key: &[u8],
        tenant: TenantId,
        config: ConfigId,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let key = self.open_key(&tenant_context(tenant), data_key)?;
        open(&key, &config_context(tenant, config), sealed)
    }

    /// The installation's key with this name; made, wrapped and stored when there is none yet.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] when the stored one was wrapped with another master key.
    pub async fn installation_key(&self, store: &dyn Store, name: &str) -> Result<SecretKey, VaultError> {
        let context = format!("raven installation {name}");
        let wrapped = match store.find_secret(name).await? {
            Some(wrapped) => wrapped,
            None => {
                let fresh = SecretKey::new(random(&*self.entropy)?);
                store.put_secret_once(name, &self.seal(&self.master, context.as_bytes(), fresh.expose())?).await?
            }
        };
        self.open_key(context.as_bytes(), &wrapped)
    }

    fn open_key(&self, context: &[u8], wrapped: &[u8]) -> Result<SecretKey, VaultError> {
        let plain = open(&self.master, context, wrapped)?;
        Ok(SecretKey::new(plain.as_slice().try_into().map_err(|_| VaultError::Sealed)?))
    }

    fn seal(&self, key: &SecretKey, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let nonce: [u8; NONCE_LEN] = random(&*self.entropy)?;
        let sealed = XChaCha20Poly1305::new(key.expose().into())
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: context })
            .map_err(|_| VaultError::Sealed)?;
        let mut out = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }
}

fn open(key: &SecretKey, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (nonce, body) = match sealed.split_first() {
        Some((&VERSION, rest)) => rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Sealed)?,
        _ => return Err(VaultError::Sealed),
    };
    XChaCha20Poly1305::new(key.expose().into())
        .decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: context })
        .map(Zeroizing::new)
        .map_err(|_| VaultError::Sealed)
}

fn tenant_context(tenant: TenantId) -> Vec<u8> {
    format!("raven tenant {tenant}").into_bytes()
}

fn config_context(tenant: TenantId, config: ConfigId) -> Vec<u8> {
    format!("raven config {tenant} {config}").into_bytes()
}

/// The installation's own keys, unwrapped at start.
pub struct InstallationKeys {
    /// Makes message ids.
    pub ids: IdCipher,
    /// Makes cursors.
    pub cursors: CursorKey,
    /// Checks key secrets before Argon2id.
    pub key_mac: SecretKey,
    /// Makes the tokens of callback URLs.
    pub callbacks: SecretKey,
    /// Makes the tokens of links that unsubscribe.
    pub unsubscribe: SecretKey,
}

impl InstallationKeys {
    /// Reads them, making what is missing.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn load(vault: &Vault, store: &dyn Store) -> Result<Self, VaultError> {
        let tag = vault.installation_key(store, "id-tag").await?;
        let body = vault.installation_key(store, "id-body").await?;
        let cursors = vault.installation_key(store, "cursor").await?;
        let key_mac = vault.installation_key(store, "key-mac").await?;
        let callbacks = vault.installation_key(store, "callbacks").await?;
        let unsubscribe = vault.installation_key(store, "unsubscribe").await?;
        let (ids, cursors) = (IdCipher::new(*tag.expose(), *body.expose()), CursorKey::new(*cursors.expose()));
        Ok(Self { ids, cursors, key_mac, callbacks, unsubscribe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::OsEntropy;
    use uuid::Uuid;

    fn vault(byte: u8) -> Vault {
        Vault::new(SecretKey::new([byte; 32]), Arc::new(OsEntropy))
    }

    #[test]
    fn a_secret_opens_only_in_its_place_with_its_keys_and_unaltered() {
        let (tenant, other) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let (config, another) = (ConfigId(Uuid::from_u128(3)), ConfigId(Uuid::from_u128(4)));
        let vault_a = vault(1);
        let key = vault_a.new_data_key(tenant).unwrap();
        let sealed = vault_a.seal_config(&key, tenant, config, b"hush").unwrap();
        assert_eq!(vault_a.open_config(&key, tenant, config, &sealed).unwrap().as_slice(), b"hush");
        assert!(!sealed.windows(4).any(|w| w == b"hush"));

        assert!(vault_a.open_config(&key, tenant, another, &sealed).is_err());
        assert!(vault_a.open_config(&key, other, config, &sealed).is_err());
        assert!(vault(2).open_config(&key, tenant, config, &sealed).is_err());
        let other_key = vault_a.new_data_key(other).unwrap();
        assert!(vault_a.open_config(&other_key, other, config, &sealed).is_err());
        for i in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[i] ^= 1;
            assert!(vault_a.open_config(&key, tenant, config, &altered).is_err(), "byte {i}");
        }
        for len in 0..sealed.len() {
            assert!(vault_a.open_config(&key, tenant, config, &sealed[..len]).is_err());
        }
    }

    #[test]
    fn the_same_secret_is_sealed_differently_each_time() {
        let (tenant, config) = (TenantId(Uuid::from_u128(1)), ConfigId(Uuid::from_u128(3)));
        let vault = vault(1);
        let key = vault.new_data_key(tenant).unwrap();
        assert_ne!(vault.seal_config(&key, tenant, config, b"x").unwrap(), vault.seal_config(&key, tenant, config, b"x").unwrap());
    }
}
