//! A bound on the bytes of records that several readers hold together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes may be held at once. Cheap to clone; clones share the bound.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    free: Arc<Semaphore>,
    max: u32,
}

/// Bytes that are held; dropped, they are free again.
#[derive(Debug)]
pub struct Held(OwnedSemaphorePermit);

impl ByteBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        let free = Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS));
        Self { free: Arc::new(free), max: bytes }
    }

    /// Waits until `bytes` are free, in the order of the calls. More than the whole budget counts
    /// as the whole budget, so that one large item is never stuck.
    pub async fn hold(&self, bytes: usize) -> Held {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max);
        let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        Held(permit.expect("the budget's semaphore is never closed"))
    }

    /// Unit: bytes.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Held {
    /// Takes `bytes` of these apart; all of them if there are less.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.0.num_permits());
        Self(self.0.split(bytes).expect("no more than there are"))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_budget_is_held() {
        let budget = ByteBudget::new(10);
        let first = budget.hold(6).await;
        assert_eq!(budget.hold(5).now_or_never().map(drop), None);
        assert_eq!(budget.hold(4).now_or_never().map(drop), Some(()));
        drop(first);
        assert_eq!(budget.hold(5).now_or_never().map(drop), Some(()));
    }

    #[tokio::test]
    async fn an_item_above_the_budget_takes_all_of_it() {
        let budget = ByteBudget::new(10);
        let held = budget.hold(11).await;
        assert_eq!(budget.free(), 0);
        drop(held);
        assert_eq!(budget.free(), 10);
    }

    #[tokio::test]
    async fn a_part_is_given_back_alone() {
        let budget = ByteBudget::new(10);
        let mut held = budget.hold(6).await;
        drop(held.split(2));
        assert_eq!(budget.free(), 6);
        drop(held.split(9));
        assert_eq!(budget.free(), 10);
    }
}
