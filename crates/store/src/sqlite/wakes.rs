//! Wake-ups with SQLite: one process serves from the file, so there is nobody to tell and nothing to hear.

use async_trait::async_trait;

use super::SqliteStore;
use crate::Wakes;

#[async_trait]
impl Wakes for SqliteStore {
    fn listen(&self) {}

    fn announce(&self) {}

    async fn woken(&self) {
        std::future::pending().await
    }
}
