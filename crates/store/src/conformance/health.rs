//! What the store says of itself, and its wrapped keys.

use std::sync::Arc;

use super::fixture::{at, create, message, node, seq, tenant};
use crate::{Error, Result, Store};

pub async fn a_fresh_store_is_current(store: Arc<dyn Store>) -> Result<()> {
    store.ping().await?;
    let steps = store.migrations().await?;
    assert!(steps.is_current() && steps.latest > 0, "{steps:?}");
    assert!(store.writers() > 0);
    assert!(["sqlite", "postgres"].contains(&store.engine()));
    Ok(())
}

pub async fn migrating_again_changes_nothing(store: Arc<dyn Store>) -> Result<()> {
    let tenant = tenant(&store, 1).await?;
    create(&store, message(tenant, seq(1))).await?;
    let before = store.migrations().await?;
    assert_eq!(store.migrate(at(5)).await?, before);
    store.extend(at(5)).await?;
    store.extend(at(5)).await?;
    assert!(store.find_message(tenant, None, seq(1)).await?.is_some());
    Ok(())
}

pub async fn secrets_are_stored_once(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.find_secret("ids").await?, None);
    assert_eq!(store.put_secret_once("ids", &[0, 255, 1]).await?, [0, 255, 1]);
    assert_eq!(store.put_secret_once("ids", &[9]).await?, [0, 255, 1]);
    assert_eq!(store.put_secret_once("cursors", &[9]).await?, [9]);
    assert_eq!(store.find_secret("ids").await?, Some(vec![0, 255, 1]));
    let puts = (0..8).map(|n| {
        let store = Arc::clone(&store);
        async move { store.put_secret_once("raced", &[n]).await }
    });
    let got = futures_util::future::try_join_all(puts).await?;
    assert!(got.iter().all(|wrapped| *wrapped == got[0]), "every node ends with the same: {got:?}");
    Ok(())
}

pub async fn a_closed_store_is_unavailable(store: Arc<dyn Store>) -> Result<()> {
    let lease = node(&store, "a").await?;
    store.close().await;
    assert!(matches!(store.ping().await, Err(Error::Unavailable(_))));
    assert!(matches!(store.beat(lease, at(1)).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.list_nodes().await, Err(Error::Unavailable(_))));
    let told = store.list_nodes().await.map_err(|e| e.to_string());
    assert_eq!(told, Err("the database is unavailable".to_owned()));
    store.close().await;
    Ok(())
}
