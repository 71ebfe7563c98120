//! How often one holder of tokens may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One more request is free after this long.
const PERIOD: Duration = Duration::from_secs(1);
/// Requests that may come at once.
const BURST: u32 = 5;
/// Holders that are counted at once; one more is refused until others have been quiet.
const HOLDERS_MAX: usize = 1 << 16;

/// Counts requests of each holder.
#[derive(Debug, Default)]
pub(super) struct Limit {
    /// When all requests of a holder are free again. Absent: they are.
    free_at: Mutex<HashMap<String, Instant>>,
}

impl Limit {
    /// Takes one request, or tells after how long there is one.
    pub(super) fn take(&self, holder: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        if free_at.len() >= HOLDERS_MAX && !free_at.contains_key(holder) {
            free_at.retain(|_, free_at| *free_at > now);
            if free_at.len() >= HOLDERS_MAX {
                return Err(PERIOD);
            }
        }
        let free = free_at.get(holder).copied().unwrap_or(now).max(now);
        let wait = (free - now).saturating_sub(PERIOD * (BURST - 1));
        if !wait.is_zero() {
            return Err(wait);
        }
        free_at.insert(holder.to_owned(), free + PERIOD);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_come_at_once_and_then_one_a_second() {
        let limit = Limit::default();
        for _ in 0..5 {
            assert_eq!(limit.take("a"), Ok(()));
        }
        assert_eq!(limit.take("a"), Err(PERIOD));
        assert_eq!(limit.take("b"), Ok(()));
        advance(PERIOD - Duration::from_millis(1)).await;
        assert_eq!(limit.take("a"), Err(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(limit.take("a"), Ok(()));
        assert_eq!(limit.take("a"), Err(PERIOD));
        advance(5 * PERIOD).await;
        for _ in 0..5 {
            assert_eq!(limit.take("a"), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn holders_that_are_quiet_make_room() {
        let limit = Limit::default();
        for number in 0..HOLDERS_MAX {
            assert_eq!(limit.take(&number.to_string()), Ok(()));
        }
        assert_eq!(limit.take("new"), Err(PERIOD));
        assert_eq!(limit.take("0"), Ok(()));
        advance(PERIOD).await;
        assert_eq!(limit.take("new"), Ok(()));
        assert_eq!(limit.free_at.lock().unwrap().len(), 2);
    }
}
