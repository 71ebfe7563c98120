//! How large a push may be, so that the pushes on their way stay within a bound together.
//!
//! A push is copied once more while it is sent. Nobody waits for others here: an application that
//! hangs with a large push only makes the next ones smaller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyramid_protocol::limits::PUSH_BYTES_MAX;

/// All pushes together, but for the one batch that each may always have.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Below this a push is hardly worth its answer.
const PUSH_BYTES_MIN: usize = 64 << 10;

/// The bytes of all pushes on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

/// One push; dropped with its answer.
#[derive(Debug)]
pub(crate) struct Sent {
    in_flight: InFlight,
    bytes: usize,
}

impl InFlight {
    /// How large the next push may be.
    pub(crate) fn push_bytes_max(&self) -> usize {
        push_bytes_max(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn send(&self, bytes: usize) -> Sent {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Sent { in_flight: self.clone(), bytes }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.in_flight.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A quarter of what is left.
fn push_bytes_max(in_flight: usize) -> usize {
    (IN_FLIGHT_BYTES_MAX.saturating_sub(in_flight) / 4).clamp(PUSH_BYTES_MIN, PUSH_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_become_smaller_before_they_exceed_the_bound() {
        let in_flight = InFlight::default();
        assert_eq!(in_flight.push_bytes_max(), PUSH_BYTES_MAX);
        let mut sent = Vec::new();
        let mut bytes = 0;
        while in_flight.push_bytes_max() > PUSH_BYTES_MIN {
            bytes += in_flight.push_bytes_max();
            sent.push(in_flight.send(in_flight.push_bytes_max()));
        }
        assert!(sent.len() > 5 && bytes <= IN_FLIGHT_BYTES_MAX, "{} with {bytes}", sent.len());
        sent.clear();
        assert_eq!(in_flight.push_bytes_max(), PUSH_BYTES_MAX);
    }

    #[test]
    fn a_push_has_a_least_and_a_greatest_size() {
        assert_eq!(push_bytes_max(IN_FLIGHT_BYTES_MAX - 4 * PUSH_BYTES_MAX), PUSH_BYTES_MAX);
        assert_eq!(
            push_bytes_max(IN_FLIGHT_BYTES_MAX - 4 * PUSH_BYTES_MAX + 4),
            PUSH_BYTES_MAX - 1
        );
        for in_flight in [IN_FLIGHT_BYTES_MAX - 4 * PUSH_BYTES_MIN, IN_FLIGHT_BYTES_MAX, usize::MAX]
        {
            assert_eq!(push_bytes_max(in_flight), PUSH_BYTES_MIN);
        }
    }
}
