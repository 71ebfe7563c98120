//! [`Late`]: what failed and is tried again, each when it is its time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::kinds::configured::Name;

/// Names, and when they are due.
#[derive(Debug, Default)]
pub(super) struct Late(BTreeMap<Name, Instant>);

impl Late {
    pub(super) fn add(&mut self, name: Name, wait: Duration) {
        self.0.insert(name, Instant::now() + wait);
    }

    /// Takes what is due, as soon as there is something. Nothing is lost if it is dropped before.
    pub(super) async fn due(&mut self) -> Vec<Name> {
        let Some(first) = self.0.values().min().copied() else {
            return std::future::pending().await;
        };
        sleep_until(first).await;
        let now = Instant::now();
        self.0.extract_if(.., |_, at| *at <= now).map(|(name, _)| name).collect()
    }

    /// Takes all.
    pub(super) fn all(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.0).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_name_is_due_at_its_own_time() {
        let [a, b] = ["a", "b"].map(|name| Name::stream("shop", name));
        let mut late = Late::default();
        late.add(a.clone(), 300 * SECOND);
        late.add(b.clone(), SECOND);
        advance(SECOND - Duration::from_millis(1)).await;
        assert_eq!(late.due().now_or_never(), None);
        let begun = Instant::now();
        assert_eq!(late.due().await, [b]);
        assert_eq!(begun.elapsed(), Duration::from_millis(1));
        assert_eq!(late.due().now_or_never(), None);
        assert_eq!(late.all(), [a]);
        assert_eq!(late.due().now_or_never(), None);
    }
}
