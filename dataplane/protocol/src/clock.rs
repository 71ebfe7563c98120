//! The wall clock, behind a trait: simulations run with their own.

/// Tells the time of day. Durations are measured with tokio's clock, which tests can stop.
pub trait Clock: Send + Sync + 'static {
    /// Unit: milliseconds since 1970 UTC. May jump in both directions.
    fn wall_ms(&self) -> u64;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall_ms(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            // A clock before 1970 is as wrong as one at 1970, and the log's time never goes back.
            .unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }
}
