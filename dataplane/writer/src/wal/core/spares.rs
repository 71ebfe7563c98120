//! Which spares there are, and when to make one.

use std::{collections::VecDeque, time::Duration};

use crate::wal::{Fatal, core::SpareResult};

/// The first wait after there was no room.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// Waits double up to this one.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The spares. At most one is being made.
#[derive(Debug)]
pub(super) struct Spares {
    ready: VecDeque<u64>,
    making: Option<u64>,
    next: u64,
    wanted: usize,
    /// The wait after the last attempt, which found no room.
    wait: Option<Duration>,
    retry_at: Option<Duration>,
}

impl Spares {
    pub(super) fn new(ready: &[u64], wanted: usize) -> Self {
        Self {
            ready: ready.iter().copied().collect(),
            making: None,
            next: ready.iter().max().map_or(0, |last| last + 1),
            wanted,
            wait: None,
            retry_at: None,
        }
    }

    /// The spare that is to be made now. `segments` are those in use.
    pub(super) fn wanted(
        &mut self,
        segments: u64,
        segments_max: u64,
        now: Duration,
    ) -> Option<u64> {
        let ready = u64::try_from(self.ready.len()).unwrap_or(u64::MAX);
        let is_wanted = self.making.is_none()
            && self.ready.len() < self.wanted
            && segments + ready < segments_max
            && self.retry_at.is_none_or(|at| at <= now);
        if !is_wanted {
            return None;
        }
        self.retry_at = None;
        self.making = Some(self.next);
        self.next += 1;
        self.making
    }

    /// Takes what became of one.
    pub(super) fn made(
        &mut self,
        number: u64,
        result: SpareResult,
        now: Duration,
    ) -> Result<(), Fatal> {
        self.making = None;
        match result {
            SpareResult::Ready => {
                self.ready.push_back(number);
                self.wait = None;
                Ok(())
            }
            SpareResult::NoRoom => {
                let wait = self.wait.map_or(RETRY_MIN, |wait| (wait * 2).min(RETRY_MAX));
                self.wait = Some(wait);
                self.retry_at = Some(now + wait);
                Ok(())
            }
            SpareResult::Failed(fatal) => Err(fatal),
        }
    }

    pub(super) fn take(&mut self) -> Option<u64> {
        self.ready.pop_front()
    }

    pub(super) fn is_making(&self) -> bool {
        self.making.is_some()
    }

    pub(super) fn is_short(&self) -> bool {
        self.wait.is_some()
    }

    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }
}
