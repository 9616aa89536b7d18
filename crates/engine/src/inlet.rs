//! The bounded queue before a writer. No tenant may have more than a quarter of it: one that sends faster than its messages
//! can be stored is told so, and the others don't notice.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use raven_core::TenantId;
use tokio::sync::Notify;

struct State<T> {
    waiting: VecDeque<(TenantId, T)>,
    /// How many of each tenant wait.
    counts: HashMap<TenantId, usize>,
    /// How often [`Inlet::take`] was announced and not done yet.
    coming: usize,
    closed: bool,
}

/// The queue: many put in, one takes out.
pub(crate) struct Inlet<T> {
    state: Mutex<State<T>>,
    /// Rung when something may be there to take out.
    bell: Notify,
    size: usize,
    /// Of one tenant.
    most: usize,
}

impl<T> Inlet<T> {
    /// A queue for so many.
    pub(crate) fn new(size: usize) -> Self {
        let state = State { waiting: VecDeque::new(), counts: HashMap::new(), coming: 0, closed: false };
        Self { state: Mutex::new(state), bell: Notify::new(), size, most: size.div_ceil(4) }
    }

    /// Puts something in; `false` when the queue is full or closed, or the tenant has its share of it.
    pub(crate) fn push(&self, tenant: TenantId, item: T) -> bool {
        let mut state = self.state.lock();
        if state.closed || state.waiting.len() >= self.size {
            return false;
        }
        let mine = state.counts.entry(tenant).or_default();
        if *mine >= self.most {
            return false;
        }
        *mine += 1;
        state.waiting.push_back((tenant, item));
        // Whoever takes takes all, so only the first one has to ring.
        let first = state.waiting.len() == 1;
        drop(state);
        if first {
            self.bell.notify_one();
        }
        true
    }

    /// Waits until something waits that nobody is coming for yet. `false`: nothing will come any more. For one caller at a
    /// time.
    pub(crate) async fn arrived(&self) -> bool {
        loop {
            {
                let state = self.state.lock();
                if state.coming == 0 && !state.waiting.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.bell.notified().await;
        }
    }

    /// Announces a [`take`](Self::take).
    pub(crate) fn announce(&self) {
        self.state.lock().coming += 1;
    }

    /// Takes all that waits, `most` at most, in the order in which it came. It was announced.
    pub(crate) fn take(&self, most: usize) -> Vec<T> {
        let mut state = self.state.lock();
        state.coming = state.coming.saturating_sub(1);
        let all = state.waiting.len().min(most);
        let mut taken = Vec::with_capacity(all);
        let State { waiting, counts, .. } = &mut *state;
        for (tenant, item) in waiting.drain(..all) {
            if let Some(mine) = counts.get_mut(&tenant) {
                *mine -= 1;
                if *mine == 0 {
                    counts.remove(&tenant);
                }
            }
            taken.push(item);
        }
        let more = !state.waiting.is_empty();
        drop(state);
        if more {
            self.bell.notify_one();
        }
        taken
    }

    /// Refuses everything from here on, and drops what waits.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.counts.clear();
        drop(state);
        drop(waiting);
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use uuid::Uuid;

    fn tenant(n: u128) -> TenantId {
        TenantId(Uuid::from_u128(n))
    }

    #[test]
    fn nobody_fills_it_alone() {
        let inlet = Inlet::new(8);
        assert_eq!((0..8).filter(|n| inlet.push(tenant(1), *n)).count(), 2, "a quarter");
        assert!(inlet.push(tenant(2), 20));
        assert_eq!(inlet.take(2), [0, 1]);
        assert!(inlet.push(tenant(1), 30), "room again");
        assert_eq!(inlet.take(100), [20, 30]);
        assert!(inlet.state.lock().counts.is_empty(), "nothing is remembered of who has nothing here");
    }

    #[test]
    fn a_full_or_closed_queue_refuses_and_counts_nothing() {
        let inlet = Inlet::new(4);
        assert_eq!((0..9).filter(|n| inlet.push(tenant(*n), ())).count(), 4);
        assert_eq!(inlet.state.lock().counts.len(), 4);
        inlet.close();
        assert!(!inlet.push(tenant(1), ()));
        assert!(inlet.take(9).is_empty() && inlet.state.lock().counts.is_empty());
        assert_eq!(inlet.arrived().now_or_never(), Some(false));
    }

    #[test]
    fn nobody_is_called_for_what_somebody_is_coming_for() {
        let inlet = Inlet::new(100);
        assert_eq!(inlet.arrived().now_or_never(), None);
        inlet.push(tenant(1), 1);
        inlet.push(tenant(1), 2);
        assert_eq!(inlet.arrived().now_or_never(), Some(true));
        inlet.announce();
        assert_eq!(inlet.arrived().now_or_never(), None);
        assert_eq!(inlet.take(1), [1]);
        assert_eq!(inlet.arrived().now_or_never(), Some(true), "one was left");
        inlet.announce();
        assert_eq!(inlet.take(9), [2]);
        assert_eq!(inlet.arrived().now_or_never(), None);
        let mut waits = Box::pin(inlet.arrived());
        assert_eq!(waits.as_mut().now_or_never(), None);
        inlet.push(tenant(1), 3);
        assert_eq!(waits.as_mut().now_or_never(), Some(true), "who waits is woken");
    }
}
