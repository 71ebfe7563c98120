//! A bound on the bytes of records that several readers hold together, fair to those that hold
//! little.
//!
//! All parts of a budget share one pool. A reader that stands still, because nobody takes what it
//! has read, holds bytes of the pool and must not starve the others: each part has a reserve of its
//! own, from which only a reader that holds nothing may take. So a part whose readers all stand
//! still does not stop another one, and within a part it takes many readers that stand still to
//! stop one that does not.
//!
//! A chunk is opened a few frames ahead of its reader. Those are not counted one by one; instead
//! only a few chunks of a part are open at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Chunks that are open at once in a part that was not told otherwise.
const CHUNKS_MAX: usize = 4;

/// So many bytes may be held at once. Cheap to clone; clones share the bound.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    pool: Pool,
    reserve: Pool,
    chunks: Arc<Semaphore>,
    chunks_max: usize,
}

#[derive(Clone, Debug)]
struct Pool {
    free: Arc<Semaphore>,
    max: u32,
}

/// What one reader holds of a budget.
#[derive(Debug)]
pub struct Share {
    budget: ByteBudget,
    own: Arc<Own>,
}

#[derive(Debug, Default)]
struct Own {
    bytes: AtomicUsize,
    /// Told when `bytes` becomes 0.
    emptied: Notify,
}

/// Bytes that are held; dropped, they are free again.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
    bytes: usize,
    own: Arc<Own>,
}

/// An open chunk.
#[derive(Debug)]
pub(crate) struct OpenChunk {
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    fn new(bytes: u32) -> Self {
        let free = Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS));
        Self { free: Arc::new(free), max: bytes }
    }

    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        // More than all counts as all, so that one large item is never stuck.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max);
        let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        permit.expect("a budget's semaphores are never closed")
    }
}

impl ByteBudget {
    /// A budget of `bytes`, in one part without a reserve.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        let pool = Pool::new(bytes);
        let chunks = Arc::new(Semaphore::new(CHUNKS_MAX));
        Self { reserve: pool.clone(), pool, chunks, chunks_max: CHUNKS_MAX }
    }

    /// A part of this budget with `reserve_bytes` on top for readers that hold nothing, in which at
    /// most `chunks_max` chunks are open at once. Both are at least 1.
    #[must_use]
    pub fn part(&self, reserve_bytes: u32, chunks_max: usize) -> Self {
        let chunks_max = chunks_max.max(1);
        Self {
            pool: self.pool.clone(),
            reserve: Pool::new(reserve_bytes.max(1)),
            chunks: Arc::new(Semaphore::new(chunks_max)),
            chunks_max,
        }
    }

    /// The share of one reader, which holds nothing yet.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), own: Arc::default() }
    }

    /// There is plenty in the pool.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        self.free() >= usize::try_from(self.pool.max / 2).unwrap_or(usize::MAX)
    }

    /// What is left in the pool. Unit: bytes.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.free.available_permits()
    }

    /// Waits until one more chunk may be open.
    pub(crate) async fn open_chunk(&self) -> OpenChunk {
        let permit = Arc::clone(&self.chunks).acquire_owned().await;
        OpenChunk { _permit: permit.expect("a budget's semaphores are never closed") }
    }

    /// The same for a chunk that nobody waits for yet: only while more than half of the places are
    /// free, so that it takes none from a reader that has no chunk.
    pub(crate) fn open_chunk_ahead(&self) -> Option<OpenChunk> {
        if self.chunks.available_permits() * 2 <= self.chunks_max {
            return None;
        }
        let permit = Arc::clone(&self.chunks).try_acquire_owned().ok()?;
        Some(OpenChunk { _permit: permit })
    }
}

impl Share {
    /// Waits until `bytes` are free.
    ///
    /// # Panics
    ///
    /// Never: nothing closes a budget.
    pub async fn hold(&self, bytes: usize) -> Held {
        let ByteBudget { pool, reserve, .. } = &self.budget;
        loop {
            // Made before the look at `bytes`, so that no emptying is missed.
            let emptied = self.own.emptied.notified();
            let holds_nothing = self.own.bytes.load(Ordering::Acquire) == 0;
            let permit = tokio::select! {
                biased;
                permit = pool.take(bytes) => permit,
                permit = reserve.take(bytes), if holds_nothing => permit,
                () = emptied, if !holds_nothing => continue,
            };
            self.own.bytes.fetch_add(bytes, Ordering::AcqRel);
            return Held { permit, bytes, own: Arc::clone(&self.own) };
        }
    }
}

impl Held {
    /// Takes `bytes` of these apart; all of them if there are less.
    ///
    /// # Panics
    ///
    /// Never: no more is split off than there is.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let permits = bytes.min(self.permit.num_permits());
        let permit = self.permit.split(permits).expect("no more than there are");
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { permit, bytes, own: Arc::clone(&self.own) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.own.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if before == self.bytes && self.bytes > 0 {
            self.own.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn now(share: &Share, bytes: usize) -> Option<Held> {
        share.hold(bytes).now_or_never()
    }

    #[tokio::test]
    async fn no_more_than_the_budget_is_held() {
        let budget = ByteBudget::new(10);
        let (first, second) = (budget.share(), budget.share());
        let held = first.hold(6).await;
        assert!(now(&second, 5).is_none());
        assert!(now(&second, 4).is_some());
        drop(held);
        assert!(now(&second, 5).is_some());
        assert_eq!(budget.free(), 10);
    }

    #[tokio::test]
    async fn an_item_above_the_budget_takes_all_of_it() {
        let budget = ByteBudget::new(10);
        let held = budget.share().hold(11).await;
        assert_eq!(budget.free(), 0);
        drop(held);
        assert_eq!(budget.free(), 10);
    }

    #[tokio::test]
    async fn a_part_is_given_back_alone() {
        let budget = ByteBudget::new(10);
        let mut held = budget.share().hold(6).await;
        drop(held.split(2));
        assert_eq!(budget.free(), 6);
        drop(held.split(9));
        assert_eq!(budget.free(), 10);
    }

    #[tokio::test]
    async fn a_reader_that_holds_nothing_may_take_from_the_reserve() {
        let budget = ByteBudget::new(10);
        let part = budget.part(5, 1);
        let (greedy, modest) = (part.share(), part.share());
        let _all = greedy.hold(10).await;
        assert!(now(&greedy, 1).is_none());
        let held = now(&modest, 3);
        assert!(held.is_some());
        assert!(now(&modest, 1).is_none(), "it holds something now");
        assert!(now(&part.share(), 3).is_none(), "the reserve has its bound too");
        assert!(now(&budget.part(5, 1).share(), 3).is_some(), "another part has its own");
        drop(held);
        assert!(now(&modest, 5).is_some());
    }

    #[tokio::test]
    async fn a_reader_that_waits_takes_from_the_reserve_as_soon_as_it_holds_nothing() {
        let budget = ByteBudget::new(10);
        let part = budget.part(5, 1);
        let (greedy, modest) = (part.share(), part.share());
        let _all = greedy.hold(10).await;
        let held = now(&modest, 3);
        let mut waiting = Box::pin(modest.hold(4));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn few_chunks_are_open_at_once() {
        let part = ByteBudget::new(10).part(5, 1);
        let open = part.open_chunk().await;
        assert!(part.open_chunk().now_or_never().is_none());
        drop(open);
        assert!(part.open_chunk().now_or_never().is_some());
    }

    #[tokio::test]
    async fn chunks_are_opened_ahead_while_more_than_half_of_the_places_are_free() {
        let part = ByteBudget::new(10).part(5, 4);
        let open: Vec<_> = std::iter::from_fn(|| part.open_chunk_ahead()).collect();
        assert_eq!(open.len(), 2);
        assert!(part.open_chunk().now_or_never().is_some());
        assert!(ByteBudget::new(10).part(5, 1).open_chunk_ahead().is_some());
    }
}
