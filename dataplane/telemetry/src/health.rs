//! What answers to probes are decided from: who is alive, and since when nothing moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Without a sign of life for this long, a thread or a start counts as hung.
pub const STILL_MAX: Duration = Duration::from_secs(60);

/// How often whoever waits shows a sign of life. Well below [`STILL_MAX`].
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Yes, or why not, for people: one line, without names of streams, keys or addresses.
pub type Answer = Result<(), String>;

/// Answers to probes. None of them waits.
pub trait Health: Send + Sync + 'static {
    /// Whether the start goes on or is over. While it is not so for long, the process is restarted.
    ///
    /// # Errors
    ///
    /// Why not.
    fn started(&self) -> Answer;

    /// Whether the process works at all. While it is not so for long, the process is restarted.
    ///
    /// # Errors
    ///
    /// Why not.
    fn alive(&self) -> Answer;

    /// Whether the process should get requests.
    ///
    /// # Errors
    ///
    /// Why not.
    fn ready(&self) -> Answer;
}

/// Signs of life of one thread or task. Cheap to give; clones are the same pulse.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Gives one.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were given.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Gives one every [`BEAT_EVERY`], for ever: shows that a runtime runs tasks and timers.
    pub async fn keep_beating(self) {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat();
        }
    }
}

/// Is shown a number that moves now and then, and tells for how long it has been still.
#[derive(Debug)]
pub struct Monitor(Mutex<Seen>);

/// The number at the last change that was seen, and when it was seen.
#[derive(Debug)]
struct Seen {
    number: u64,
    at: Instant,
}

impl Monitor {
    /// Begins now, with the number as it is.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(Mutex::new(Seen { number, at: Instant::now() }))
    }

    /// The time since a change was seen last, if the number is `number` now. A change counts from
    /// the look that finds it, so looks that are far apart can only be too kind.
    pub fn still_for(&self, number: u64) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.number != number {
            *seen = Seen { number, at: Instant::now() };
        }
        seen.at.elapsed()
    }
}

/// Whether something has moved within [`STILL_MAX`].
///
/// # Errors
///
/// That `what` has not.
pub fn moves(what: &str, still_for: Duration) -> Answer {
    if still_for <= STILL_MAX {
        Ok(())
    } else {
        Err(format!("{what} has not moved for {} s", still_for.as_secs()))
    }
}

/// When something was true last, to forgive a short loss.
#[derive(Debug, Default)]
pub struct LastTrue(Mutex<Option<Instant>>);

impl LastTrue {
    /// Takes note of how it is now, and tells for how long it has not been true: zero while it is,
    /// `None` if it never was.
    pub fn lost_for(&self, is_true: bool) -> Option<Duration> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_true {
            *last = Some(Instant::now());
            return Some(Duration::ZERO);
        }
        last.map(|last| last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_number_is_still_from_its_last_change_on() {
        let pulse = Pulse::default();
        let monitor = Monitor::new(pulse.beats());
        let verdict = || moves("the disk", monitor.still_for(pulse.beats()));
        advance(STILL_MAX).await;
        assert_eq!(verdict(), Ok(()));
        advance(SECOND).await;
        assert_eq!(verdict(), Err("the disk has not moved for 61 s".to_owned()));
        pulse.beat();
        assert_eq!(verdict(), Ok(()));
        advance(SECOND).await;
        assert_eq!(monitor.still_for(pulse.beats()), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_beats_every_second() {
        let pulse = Pulse::default();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(pulse.clone().keep_beating());
        tokio::time::sleep(10 * BEAT_EVERY + BEAT_EVERY / 2).await;
        assert_eq!(pulse.beats(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_counted_from_the_last_time_that_it_was_true() {
        let last = LastTrue::default();
        assert_eq!(last.lost_for(false), None);
        assert_eq!(last.lost_for(true), Some(Duration::ZERO));
        advance(SECOND).await;
        assert_eq!(last.lost_for(false), Some(SECOND));
        assert_eq!(last.lost_for(true), Some(Duration::ZERO));
    }
}
