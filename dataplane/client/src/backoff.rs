//! How long to wait before the next try. Pure, but for the random number that is handed in.

use std::time::Duration;

use pyramid_protocol::Entropy;

/// Growing waits with an end and with jitter, so that many callers do not come back at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits that double from `first` up to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The next wait: between half and all of the doubled one.
    #[must_use]
    pub fn wait(&mut self, entropy: &dyn Entropy) -> Duration {
        let wait = self.longest();
        self.failures = self.failures.saturating_add(1);
        jitter(wait, entropy.u64())
    }

    /// The longest that the next wait can be.
    #[must_use]
    pub fn longest(&self) -> Duration {
        // Past 2^20 times the first wait, `max` has long been reached.
        self.first.saturating_mul(1 << self.failures.min(20)).min(self.max)
    }

    /// How often [`Backoff::wait`] was called since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Half of `wait`, and a random part of the other half.
fn jitter(wait: Duration, random: u64) -> Duration {
    let half = wait / 2;
    let half_us = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    half + Duration::from_micros(random.checked_rem(half_us.saturating_add(1)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use pyramid_protocol::SeededEntropy;

    use super::*;

    const FIRST: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_millis(65);

    #[test]
    fn waits_double_up_to_the_longest() {
        let entropy = SeededEntropy::new(1);
        let mut backoff = Backoff::new(FIRST, MAX);
        let mut longest = Vec::new();
        for _ in 0..5 {
            longest.push(backoff.longest().as_millis());
            let _unused: Duration = backoff.wait(&entropy);
        }
        assert_eq!(longest, [10, 20, 40, 65, 65]);
    }

    #[test]
    fn a_wait_is_between_half_and_all() {
        for random in [0, 1, 4_999, 5_000, 5_001, u64::MAX] {
            let wait = jitter(FIRST, random);
            assert!(FIRST / 2 <= wait && wait <= FIRST, "{random}: {wait:?}");
        }
        assert_eq!(jitter(FIRST, 5_000), FIRST);
        assert_eq!(jitter(FIRST, 5_001), FIRST / 2);
        assert_eq!(jitter(Duration::ZERO, 7), Duration::ZERO);
    }

    #[test]
    fn a_success_begins_again() {
        let entropy = SeededEntropy::new(1);
        let mut backoff = Backoff::new(FIRST, MAX);
        for _ in 0..40 {
            let _unused: Duration = backoff.wait(&entropy);
        }
        assert_eq!((backoff.failures(), backoff.longest()), (40, MAX));
        backoff.reset();
        assert_eq!(backoff, Backoff::new(FIRST, MAX));
    }
}
