//! The installation's own keys, wrapped by the master key: for ids, cursors, and key secrets.

use async_trait::async_trait;

use crate::Result;

/// Verbs about the installation's wrapped keys.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The wrapped key with this name.
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Stores a wrapped key unless there is one already, and returns the one that counts: every node ends with the same.
    async fn put_secret_once(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>>;
}
