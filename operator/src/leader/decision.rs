//! Whether a candidate takes the lease: a pure function.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

/// What a candidate does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Another holds it.
    Wait,
    /// Write it, with this number of transitions.
    Take { transitions: i32 },
}

/// `unchanged` is for how long the lease has been seen as it is.
pub(super) fn decide(lease: Option<&Lease>, identity: &str, unchanged: Duration) -> Decision {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return Decision::Take { transitions: 1 };
    };
    let LeaseSpec { holder_identity, lease_duration_seconds, lease_transitions, .. } = spec;
    let holder = holder_identity.as_deref().unwrap_or_default();
    let duration = u64::try_from(lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    // Ours, if the answer to the request that took it was lost; it counts as another term, because
    // nobody knows how long ago that was.
    let is_free =
        holder.is_empty() || holder == identity || unchanged >= Duration::from_secs(duration);
    if is_free {
        Decision::Take { transitions: lease_transitions.unwrap_or(0).saturating_add(1) }
    } else {
        Decision::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, transitions: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_whole_duration() {
        let held = lease(Some("other"), Some(4));
        let at = |ms| decide(Some(&held), "me", Duration::from_millis(ms));
        assert_eq!(at(0), Decision::Wait);
        assert_eq!(at(14_999), Decision::Wait);
        assert_eq!(at(15_000), Decision::Take { transitions: 5 });
    }

    #[test]
    fn a_lease_without_a_holder_is_taken_at_once() {
        for (free, transitions) in [
            (None, 1),
            (Some(Lease::default()), 1),
            (Some(lease(None, None)), 1),
            (Some(lease(None, Some(4))), 5),
            (Some(lease(Some(""), Some(4))), 5),
            (Some(lease(Some("me"), Some(4))), 5),
            (Some(lease(None, Some(i32::MAX))), i32::MAX),
        ] {
            let decision = decide(free.as_ref(), "me", Duration::ZERO);
            assert_eq!(decision, Decision::Take { transitions }, "{free:?}");
        }
        assert_eq!(decide(Some(&lease(Some("m"), Some(4))), "me", Duration::ZERO), Decision::Wait);
    }
}
