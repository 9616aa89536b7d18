//! Wake-ups: one node tells the others that work is due which nobody holds, so that they look before they would have.
//! A wake-up may be lost; whoever works looks by itself every half second.

use async_trait::async_trait;

/// Verbs about wake-ups. Where one process works alone (SQLite) there is nobody to tell.
#[async_trait]
pub trait Wakes: Send + Sync {
    /// Begins to hear other nodes and to tell them, until the store is closed. A second call changes nothing.
    fn listen(&self);

    /// Tells other nodes that due work waits unleased. Returns at once; what is announced within a moment goes out as one
    /// wake-up, in no transaction of any other verb. What is announced before [`listen`](Self::listen) waits for it.
    fn announce(&self);

    /// Waits until another node has announced work since this was waited for last, or may have done so unheard (the line was
    /// down). For one waiter.
    async fn woken(&self);
}
