//! The installation's wrapped keys in SQLite.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::SqliteStore;
use crate::{Result, Secrets};

pub(super) const STATEMENTS: &[&str] = &[FIND, INSERT];

const FIND: &str = "SELECT wrapped FROM secrets WHERE name = ?1";
const INSERT: &str = "INSERT INTO secrets (name, wrapped) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

#[async_trait]
impl Secrets for SqliteStore {
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let name = name.to_owned();
        self.read(move |c| Ok(c.prepare_cached(FIND)?.query_row([name], |r| r.get(0)).optional()?)).await
    }

    async fn put_secret_once(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>> {
        let (name, wrapped) = (name.to_owned(), wrapped.to_owned());
        self.write(move |c| {
            c.prepare_cached(INSERT)?.execute(params![name, wrapped])?;
            Ok(c.prepare_cached(FIND)?.query_row([name], |r| r.get(0))?)
        })
        .await
    }
}
