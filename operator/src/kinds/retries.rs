//! [`Retries`]: how long what failed waits before it is tried again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After the first failure.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// After many.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Doublings after which [`WAIT_MAX`] is reached in any case.
const DOUBLINGS_MAX: u32 = 16;
/// Up to this share of a wait is added to it, so that many objects that fail together do not come
/// back together. Unit: percent.
const JITTER_PERCENT: u64 = 20;

/// Failures in a row, by object.
#[derive(Default)]
pub(crate) struct Retries(Mutex<HashMap<String, u32>>);

impl Retries {
    /// Counts a failure of the object; how long it waits now.
    pub(crate) fn failed(&self, object: &str) -> Duration {
        let mut failures = self.lock();
        let count = failures.entry(object.to_owned()).or_default();
        *count = count.saturating_add(1);
        wait(object, *count)
    }

    /// It went well, or it is gone.
    pub(crate) fn reset(&self, object: &str) {
        self.lock().remove(object);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After `count` failures in a row. The same each time: the jitter comes from the name.
fn wait(object: &str, count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(DOUBLINGS_MAX);
    let wait = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX);
    spread(object, count, wait)
}

/// A wait of its own for each object, at most a fifth longer.
pub(crate) fn spread(object: &str, count: u32, wait: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (object, count).hash(&mut hasher);
    let percent = u32::try_from(hasher.finish() % (JITTER_PERCENT + 1)).unwrap_or_default();
    wait.saturating_add(wait.saturating_mul(percent) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_a_fifth() {
        let retries = Retries::default();
        for count in 0..40_u32 {
            let exact = Duration::from_secs(2_u64.saturating_pow(count)).min(WAIT_MAX);
            let wait = retries.failed("a");
            assert!(wait >= exact && wait <= exact.mul_f64(1.2), "failure {count}: {wait:?}");
        }
    }

    #[test]
    fn success_starts_anew_for_this_object_only() {
        let retries = Retries::default();
        let first = [retries.failed("a"), retries.failed("b")];
        let second = retries.failed("b");
        retries.reset("a");
        assert_eq!(retries.failed("a"), first[0]);
        assert!(retries.failed("b") > second);
    }

    #[test]
    fn objects_that_fail_together_come_back_apart() {
        let waits: std::collections::HashSet<Duration> =
            (0..100).map(|n| wait(&format!("object-{n}"), 5)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
