//! The bounded queue before a writer. No tenant may have more than a quarter of it: one that sends faster than its messages
//! can be stored is told so, and the others don't notice.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use raven_core::TenantId;
use tokio::sync::mpsc;

/// How many of each tenant wait.
type Counts = Arc<Mutex<HashMap<TenantId, usize>>>;

/// The way in.
pub(crate) struct Inlet<T> {
    sender: mpsc::Sender<(TenantId, T)>,
    counts: Counts,
    /// Of one tenant.
    most: usize,
}

/// The way out.
pub(crate) struct Drain<T> {
    receiver: mpsc::Receiver<(TenantId, T)>,
    counts: Counts,
    taken: Vec<(TenantId, T)>,
}

/// A queue for so many.
pub(crate) fn queue<T>(size: usize) -> (Inlet<T>, Drain<T>) {
    let (sender, receiver) = mpsc::channel(size);
    let counts = Counts::default();
    (Inlet { sender, counts: counts.clone(), most: size.div_ceil(4) }, Drain { receiver, counts, taken: Vec::new() })
}

impl<T> Inlet<T> {
    /// Puts something in; `false` when the queue is full, the tenant has its share of it, or nobody takes anything out any more.
    pub(crate) fn push(&self, tenant: TenantId, item: T) -> bool {
        {
            let mut counts = self.counts.lock();
            let mine = counts.entry(tenant).or_default();
            if *mine >= self.most {
                return false;
            }
            *mine += 1;
        }
        if self.sender.try_send((tenant, item)).is_ok() {
            return true;
        }
        forget(&mut self.counts.lock(), tenant);
        false
    }
}

impl<T> Drain<T> {
    /// Waits for something, and takes all that waits, `most` at most, in the order in which it came. Nothing: nothing can come
    /// any more.
    pub(crate) async fn take(&mut self, most: usize, into: &mut Vec<T>) -> usize {
        let taken = self.receiver.recv_many(&mut self.taken, most).await;
        let mut counts = self.counts.lock();
        for (tenant, item) in self.taken.drain(..) {
            forget(&mut counts, tenant);
            into.push(item);
        }
        taken
    }
}

fn forget(counts: &mut HashMap<TenantId, usize>, tenant: TenantId) {
    if let Some(mine) = counts.get_mut(&tenant) {
        *mine -= 1;
        if *mine == 0 {
            counts.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tenant(n: u128) -> TenantId {
        TenantId(Uuid::from_u128(n))
    }

    #[tokio::test]
    async fn nobody_fills_it_alone() {
        let (inlet, mut drain) = queue(8);
        assert_eq!((0..8).filter(|n| inlet.push(tenant(1), *n)).count(), 2, "a quarter");
        assert!(inlet.push(tenant(2), 20));
        let mut all = Vec::new();
        assert_eq!(drain.take(2, &mut all).await, 2);
        assert!(inlet.push(tenant(1), 30), "room again");
        assert_eq!(drain.take(100, &mut all).await, 2);
        assert_eq!(all, [0, 1, 20, 30]);
        assert!(drain.counts.lock().is_empty(), "nothing is remembered of who has nothing here");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_counts_nothing() {
        let (inlet, mut drain) = queue(4);
        assert_eq!((0..9).filter(|n| inlet.push(tenant(*n), ())).count(), 4);
        assert_eq!(inlet.counts.lock().len(), 4);
        drain.take(9, &mut Vec::new()).await;
        drop(drain);
        assert!(!inlet.push(tenant(1), ()), "nobody takes it out");
        assert!(inlet.counts.lock().is_empty());
    }
}
