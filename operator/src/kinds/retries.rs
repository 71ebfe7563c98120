//! [`Retries`]: how long what failed waits before it is tried again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admin;

/// After the first failure.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// After many, if only a person can mend it.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After many, if it may mend itself any moment. With all that is added to it, it is shorter than a
/// quarter of a minute.
const PASSING_WAIT_MAX: Duration = Duration::from_secs(12);
/// Doublings after which [`WAIT_MAX`] is reached in any case.
const DOUBLINGS_MAX: u32 = 16;
/// Up to this share of a wait is added to it, so that many objects that fail together do not come
/// back together. Unit: percent.
const JITTER_PERCENT: u64 = 20;

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Somebody does not answer, starts, or is busy: the same may work a moment later.
    Passing,
    /// It was refused, and will be again until somebody changes something.
    Lasting,
}

impl Failure {
    /// What a Writer answered, or that it did not.
    pub(crate) fn of_writer(error: &admin::Error) -> Self {
        if error.is_passing() { Self::Passing } else { Self::Lasting }
    }

    /// What the API server answered, or that it did not.
    pub(crate) fn of_server(error: &kube::Error) -> Self {
        let is_lasting = if let kube::Error::Api(status) = error {
            // Somebody was faster, it has too much to do, or it is broken for now.
            !matches!(status.code, 409 | 429 | 500..)
        } else {
            matches!(error, kube::Error::SerdeError(_))
        };
        if is_lasting { Self::Lasting } else { Self::Passing }
    }

    fn wait_max(self) -> Duration {
        match self {
            Self::Passing => PASSING_WAIT_MAX,
            Self::Lasting => WAIT_MAX,
        }
    }
}

/// Failures in a row, by object.
#[derive(Default)]
pub(crate) struct Retries(Mutex<HashMap<String, u32>>);

impl Retries {
    /// Counts a failure of the object; how long it waits now.
    pub(crate) fn failed(&self, object: &str, failure: Failure) -> Duration {
        let mut failures = self.lock();
        let count = failures.entry(object.to_owned()).or_default();
        *count = count.saturating_add(1);
        wait(object, *count, failure)
    }

    /// It went well, it is gone, or what it failed of has passed.
    pub(crate) fn reset(&self, object: &str) {
        self.lock().remove(object);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After `count` failures in a row. The same each time: the jitter comes from the name.
fn wait(object: &str, count: u32, failure: Failure) -> Duration {
    spread(object, count, doubled(count, failure))
}

/// After `count` failures in a row, before anything is added.
pub(crate) fn doubled(count: u32, failure: Failure) -> Duration {
    let doublings = count.saturating_sub(1).min(DOUBLINGS_MAX);
    WAIT_MIN.saturating_mul(1 << doublings).min(failure.wait_max())
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
            let wait = retries.failed("a", Failure::Lasting);
            assert!(wait >= exact && wait <= exact.mul_f64(1.2), "failure {count}: {wait:?}");
        }
    }

    #[test]
    fn what_may_pass_waits_less_than_a_quarter_of_a_minute() {
        let longest = |failure| {
            let retries = Retries::default();
            let of = |object: &str| (0..40).map(|_| retries.failed(object, failure)).max();
            (0..100).filter_map(|n| of(&format!("object-{n}"))).max().unwrap()
        };
        let passing = longest(Failure::Passing);
        assert!(passing > Duration::from_secs(12) && passing < Duration::from_secs(15));
        assert!(longest(Failure::Lasting) >= WAIT_MAX);
    }

    #[test]
    fn a_failure_of_another_kind_counts_on() {
        let retries = Retries::default();
        for _ in 0..20 {
            retries.failed("a", Failure::Passing);
        }
        assert!(retries.failed("a", Failure::Lasting) >= WAIT_MAX);
    }

    #[test]
    fn success_starts_anew_for_this_object_only() {
        let retries = Retries::default();
        let first = ["a", "b"].map(|name| retries.failed(name, Failure::Lasting));
        let second = retries.failed("b", Failure::Lasting);
        retries.reset("a");
        assert_eq!(retries.failed("a", Failure::Lasting), first[0]);
        assert!(retries.failed("b", Failure::Lasting) > second);
    }

    #[test]
    fn objects_that_fail_together_come_back_apart() {
        let waits: std::collections::HashSet<Duration> =
            (0..100).map(|n| wait(&format!("object-{n}"), 5, Failure::Passing)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn only_silence_and_haste_of_a_writer_pass_by_themselves() {
        let message = String::new();
        let [a, b, c, d] = [(); 4].map(|()| message.clone());
        for (error, failure) in [
            (admin::Error::Unreachable { address: a, message }, Failure::Passing),
            (admin::Error::Later { message: b, retry_after: Duration::ZERO }, Failure::Passing),
            (admin::Error::Conflict { message: c.clone() }, Failure::Lasting),
            (admin::Error::Denied { message: c }, Failure::Lasting),
            (admin::Error::Invalid { message: d.clone() }, Failure::Lasting),
            (admin::Error::Broken { message: d }, Failure::Lasting),
        ] {
            assert_eq!(Failure::of_writer(&error), failure, "{error:?}");
        }
    }

    #[test]
    fn a_refusal_of_the_server_lasts_and_its_troubles_pass() {
        let answered = |code| {
            let status = kube::core::Status::failure("m", "r").with_code(code);
            Failure::of_server(&kube::Error::Api(Box::new(status)))
        };
        for code in [409, 429, 500, 503] {
            assert_eq!(answered(code), Failure::Passing, "{code}");
        }
        for code in [400, 403, 404, 408, 410, 422, 428, 430, 499] {
            assert_eq!(answered(code), Failure::Lasting, "{code}");
        }
        let silence = kube::Error::Service("it is away".into());
        assert_eq!(Failure::of_server(&silence), Failure::Passing);
    }
}
