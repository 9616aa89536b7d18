//! What nodes, epochs and slots promise.

use std::sync::Arc;

use super::fixture::at;
use crate::{Error, Lease, Node, Result, Store, nodes::DEAD_AFTER};

pub async fn a_node_gets_the_lowest_free_slot(store: Arc<dyn Store>) -> Result<()> {
    let (a, b, c) =
        (store.register_node("a", at(1)).await?, store.register_node("b", at(2)).await?, store.register_node("c", at(3)).await?);
    assert_eq!([a.slot, b.slot, c.slot], [0, 1, 2]);
    assert_eq!((a.slot_last_beat, a.predecessors), (None, vec![]));
    assert!(store.beat(b.lease, at(50)).await?);
    store.retire_node(b.lease).await?;
    let d = store.register_node("d", at(60)).await?;
    assert_eq!((d.slot, d.slot_last_beat), (1, Some(at(50))));
    let listed = store.list_nodes().await?;
    let node = |id: &str, lease, slot, beat| Node { id: id.to_owned(), lease, slot, beat_at: at(beat) };
    assert_eq!(listed, [node("a", a.lease, 0, 1), node("c", c.lease, 2, 3), node("d", d.lease, 1, 60)]);
    Ok(())
}

pub async fn epochs_grow_and_are_never_used_twice(store: Arc<dyn Store>) -> Result<()> {
    let mut last = Lease(i64::MIN);
    for n in 0..5 {
        let lease = store.register_node("a", at(n)).await?.lease;
        assert!(lease > last);
        last = lease;
        store.retire_node(lease).await?;
    }
    Ok(())
}

pub async fn a_restarted_node_learns_of_its_former_lives(store: Arc<dyn Store>) -> Result<()> {
    let first = store.register_node("a", at(1)).await?;
    store.register_node("b", at(1)).await?;
    let second = store.register_node("a", at(2)).await?;
    assert_eq!(second.predecessors, [first.lease]);
    assert_eq!(second.slot, 2, "what is not reaped keeps its slot");
    let third = store.register_node("a", at(3)).await?;
    assert_eq!(third.predecessors, [first.lease, second.lease]);
    store.retire_node(first.lease).await?;
    store.retire_node(second.lease).await?;
    let fourth = store.register_node("a", at(4)).await?;
    assert_eq!((fourth.predecessors, fourth.slot), (vec![third.lease], 0));
    Ok(())
}

pub async fn a_silent_node_is_dead(store: Arc<dyn Store>) -> Result<()> {
    let (a, b) = (store.register_node("a", at(0)).await?, store.register_node("b", at(0)).await?);
    assert!(store.beat(b.lease, at(1)).await?);
    let dead = |ms| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Error>(store.dead_nodes(at(ms).after(DEAD_AFTER)).await?.into_iter().map(|n| n.lease).collect::<Vec<_>>()) }
    };
    assert_eq!(dead(0).await?, []);
    assert_eq!(dead(1).await?, [a.lease]);
    assert_eq!(dead(2).await?, [a.lease, b.lease]);
    Ok(())
}

pub async fn a_retired_epoch_beats_no_more(store: Arc<dyn Store>) -> Result<()> {
    let a = store.register_node("a", at(0)).await?;
    assert!(store.beat(a.lease, at(1)).await?);
    store.retire_node(a.lease).await?;
    store.retire_node(a.lease).await?;
    assert!(!store.beat(a.lease, at(2)).await?);
    assert_eq!(store.list_nodes().await?, []);
    Ok(())
}

pub async fn the_257th_node_is_refused(store: Arc<dyn Store>) -> Result<()> {
    let mut last = None;
    for n in 0..256 {
        let registered = store.register_node(&format!("node-{n}"), at(n)).await?;
        assert_eq!(i64::from(registered.slot), n);
        last = Some(registered.lease);
    }
    assert!(matches!(store.register_node("one more", at(300)).await, Err(Error::Conflict("slot"))));
    store.retire_node(last.expect("256 were registered")).await?;
    assert_eq!(store.register_node("one more", at(300)).await?.slot, 255);
    Ok(())
}
