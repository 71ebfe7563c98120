//! How long the pusher waits. Pure.

use std::time::Duration;

use pyramid_client::Backoff;
use pyramid_protocol::Entropy;

/// First and longest wait after an application that is absent, slow or answers nonsense.
const FIRST: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(5);
/// An application may ask for at most this long a pause, so that a mistake in a unit does not
/// silence a stream for days.
const ADVISED_MAX: Duration = Duration::from_secs(60);
/// So often in a row the application may name another position before the pusher waits: a restored
/// database is one correction, a shared one a few.
const RESUMES_AT_ONCE_MAX: u32 = 3;

/// The waits of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    failures: Backoff,
    resumes: u32,
}

impl Waits {
    pub(crate) const fn new() -> Self {
        Self { failures: Backoff::new(FIRST, MAX), resumes: 0 }
    }

    /// After a failure: growing.
    pub(crate) fn failed(&mut self, entropy: &dyn Entropy) -> Duration {
        self.failures.wait(entropy)
    }

    /// After `NotReady`: as the application says, within a limit, else growing.
    pub(crate) fn not_ready(
        &mut self,
        advised: Option<Duration>,
        entropy: &dyn Entropy,
    ) -> Duration {
        let own = self.failures.wait(entropy);
        advised.map_or(own, |advised| advised.min(ADVISED_MAX))
    }

    /// After another position than expected: nothing at first, growing when it goes on and on.
    pub(crate) fn resumed(&mut self, entropy: &dyn Entropy) -> Duration {
        self.resumes = self.resumes.saturating_add(1);
        if self.resumes <= RESUMES_AT_ONCE_MAX {
            Duration::ZERO
        } else {
            self.failures.wait(entropy)
        }
    }

    /// How many failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures.failures()
    }

    /// Records were accepted, or a question was answered as expected.
    pub(crate) fn worked(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use pyramid_protocol::SeededEntropy;

    use super::*;

    #[test]
    fn failures_wait_longer_and_longer_up_to_a_limit() {
        let entropy = SeededEntropy::new(3);
        let mut waits = Waits::new();
        let first = waits.failed(&entropy);
        assert!(FIRST / 2 <= first && first <= FIRST, "{first:?}");
        for _ in 0..20 {
            waits.failed(&entropy);
        }
        let long = waits.failed(&entropy);
        assert!(MAX / 2 <= long && long <= MAX, "{long:?}");
        waits.worked();
        assert_eq!(waits, Waits::new());
    }

    #[test]
    fn the_applications_advice_is_kept_within_a_limit() {
        let entropy = SeededEntropy::new(3);
        let mut waits = Waits::new();
        for (advised, waited) in [
            (Duration::from_millis(1), Duration::from_millis(1)),
            (ADVISED_MAX, ADVISED_MAX),
            (ADVISED_MAX + Duration::from_millis(1), ADVISED_MAX),
        ] {
            assert_eq!(waits.not_ready(Some(advised), &entropy), waited);
        }
        assert!(waits.not_ready(None, &entropy) > Duration::ZERO);
    }

    #[test]
    fn a_few_corrections_are_followed_at_once_and_more_are_not() {
        let entropy = SeededEntropy::new(3);
        let mut waits = Waits::new();
        for _ in 0..RESUMES_AT_ONCE_MAX {
            assert_eq!(waits.resumed(&entropy), Duration::ZERO);
        }
        assert!(waits.resumed(&entropy) > Duration::ZERO);
    }
}
