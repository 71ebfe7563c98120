//! Log time: what the leader stamps entries with.
//!
//! It never goes back. Within a term it advances by the monotonic clock; at the start of a term,
//! and every [`RESYNC_EVERY`], it is set to the wall clock, never backwards.
//! With one voter the leader's own clock is the majority's, so a jump forward is taken, and told.

use std::time::Duration;

use tokio::time::Instant;

/// How long log time may run by the monotonic clock alone.
pub const RESYNC_EVERY: Duration = Duration::from_secs(600);

/// A jump forward that is worth an alarm.
const JUMP: Duration = Duration::from_secs(60);

/// The leader's source of log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTime {
    set_to_ms: u64,
    set_at: Instant,
}

impl LogTime {
    /// At the start of a term: `newest_ms` is the largest log time applied so far.
    #[must_use]
    pub fn start(newest_ms: u64, wall_ms: u64, now: Instant) -> Self {
        if newest_ms > 0 && ahead(wall_ms, newest_ms) > JUMP {
            // After a long stop this is normal; after a wrong clock it is not.
            tracing::info!(wall_ms, newest_ms, "log time moves forward to the wall clock");
        }
        Self { set_to_ms: newest_ms.max(wall_ms), set_at: now }
    }

    /// Unit: milliseconds since 1970 UTC.
    #[must_use]
    pub fn at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.set_at).as_millis();
        self.set_to_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Sets it to the wall clock if that is due.
    #[must_use]
    pub fn resync(self, now: Instant, wall_ms: impl FnOnce() -> u64) -> Self {
        if now.saturating_duration_since(self.set_at) < RESYNC_EVERY {
            return self;
        }
        let (time_ms, wall_ms) = (self.at(now), wall_ms());
        if ahead(wall_ms, time_ms) > JUMP {
            tracing::warn!(wall_ms, time_ms, "the wall clock jumped forward; log time follows");
        }
        Self { set_to_ms: time_ms.max(wall_ms), set_at: now }
    }
}

fn ahead(wall_ms: u64, time_ms: u64) -> Duration {
    Duration::from_millis(wall_ms.saturating_sub(time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn time_advances_by_the_monotonic_clock() {
        let start = Instant::now();
        let time = LogTime::start(0, 5_000, start);
        assert_eq!(time.at(start), 5_000);
        assert_eq!(time.at(start + SECOND), 6_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_never_starts_before_what_was_applied() {
        let start = Instant::now();
        assert_eq!(LogTime::start(9_000, 5_000, start).at(start), 9_000);
        assert_eq!(LogTime::start(4_000, 5_000, start).at(start), 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_is_read_after_ten_minutes_and_never_turns_time_back() {
        let start = Instant::now();
        let time = LogTime::start(0, 1_000, start);
        let early = start + RESYNC_EVERY - Duration::from_millis(1);
        assert_eq!(time.resync(early, || panic!("read too early")), time);
        let due = start + RESYNC_EVERY;
        assert_eq!(time.resync(due, || 0).at(due), 601_000);
        assert_eq!(time.resync(due, || 700_000).at(due), 700_000);
    }
}
