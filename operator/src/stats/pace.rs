//! [`Pace`]: how often numbers are written.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Over all objects.
const WRITES_PER_SECOND_MAX: u32 = 10;

/// When which object was written last, and when the next one may be.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two writes of one object.
    interval: Duration,
    /// By uid.
    written: HashMap<String, Instant>,
    next: Instant,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, written: HashMap::new(), next: Instant::now() }
    }

    /// Whether the numbers of the object may be written again.
    pub(super) fn is_due(&self, uid: &str) -> bool {
        self.written.get(uid).is_none_or(|at| at.elapsed() >= self.interval)
    }

    /// Waits for a free place among all writes, and takes it for this object.
    pub(super) async fn take(&mut self, uid: &str) {
        sleep_until(self.next).await;
        let now = Instant::now();
        self.next = now + Duration::from_secs(1) / WRITES_PER_SECOND_MAX;
        self.written.insert(uid.to_owned(), now);
    }

    /// Forgets objects that may be written anyway.
    pub(super) fn tidy(&mut self) {
        self.written.retain(|_, at| at.elapsed() < self.interval);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_writes_a_second_are_made_and_no_more() {
        let mut pace = Pace::new(Duration::from_secs(30));
        let begun = Instant::now();
        for n in 0..11 {
            pace.take(&n.to_string()).await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1_050), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_due_again_after_the_interval() {
        let mut pace = Pace::new(Duration::from_secs(30));
        assert!(pace.is_due("a"));
        pace.take("a").await;
        advance(Duration::from_millis(29_999)).await;
        pace.tidy();
        assert!(!pace.is_due("a") && pace.is_due("b"));
        advance(Duration::from_millis(1)).await;
        assert!(pace.is_due("a"));
    }
}
