//! The suite on SQLite.

use std::sync::Arc;

use raven_store::{Health, Store, conformance::fixture::at, sqlite::SqliteStore};

/// A store in a folder that lives as long as this.
struct Fresh {
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

async fn fresh() -> Fresh {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = SqliteStore::open(&folder.path().join("raven.db")).await.expect("a new file can be opened");
    store.migrate(at(0)).await.expect("an empty file can be migrated");
    Fresh { store: Arc::new(store), _folder: folder }
}

raven_store::conformance_tests!(fresh);
