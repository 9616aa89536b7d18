//! The installation's wrapped keys.

use async_trait::async_trait;

use super::{PostgresStore, rows::get};
use crate::{Error, Result, Secrets};

const FIND: &str = "SELECT wrapped FROM secrets WHERE name = $1";
const PUT_ONCE: &str = "INSERT INTO secrets (name, wrapped) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[FIND, PUT_ONCE];

#[async_trait]
impl Secrets for PostgresStore {
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let row = self.connection().await?.query_opt(FIND, &[&name]).await?;
        row.map(|row| get(&row, "wrapped")).transpose()
    }

    async fn put_secret_once(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>> {
        let mut connection = self.connection().await?;
        connection.execute(PUT_ONCE, &[&name, &wrapped]).await?;
        // A statement of its own, so that it sees what another node committed while ours waited.
        let row = connection.query_opt(FIND, &[&name]).await?;
        row.map_or_else(|| Err(Error::internal("a secret vanished while it was stored")), |row| get(&row, "wrapped"))
    }
}
