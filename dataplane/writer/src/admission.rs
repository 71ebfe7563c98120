//! Admission by bytes in flight: an append takes its bytes from budgets and gives them back when it
//! is answered. Over a budget it is refused at once, clearly and retryably; it never waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyramid_protocol::StreamId;

/// How long a refused producer is told to wait. Unit: milliseconds.
pub const RETRY_AFTER_MS: u32 = 50;

/// What an append costs besides its records. Unit: bytes.
const APPEND_OVERHEAD_BYTES: usize = 512;

/// Budgets of bytes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the whole process. Unit: bytes.
    pub process_bytes_max: usize,
    /// Of one stream. Unit: bytes.
    pub stream_bytes_max: usize,
}

/// Counts bytes in flight.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    process_bytes: usize,
    streams: HashMap<StreamId, usize>,
}

/// Which budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// That of the process: every producer should slow down.
    #[error("the Writer has {used_bytes} bytes of appends in flight and takes no more; retry")]
    Process {
        /// Bytes in flight.
        used_bytes: usize,
    },
    /// That of the process, which is smaller now: the log fills up because chunks are not shipped
    /// as fast as records come.
    #[error(
        "the write-ahead log fills up, so the Writer takes fewer appends at once and has \
         {used_bytes} bytes in flight; retry, and check the object store"
    )]
    Slowed {
        /// Bytes in flight.
        used_bytes: usize,
    },
    /// That of the stream: its producers should slow down.
    #[error("the stream has {used_bytes} bytes of appends in flight and takes no more; retry")]
    Stream {
        /// Bytes in flight.
        used_bytes: usize,
    },
}

/// Bytes taken; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    stream: StreamId,
    bytes: usize,
}

impl Admission {
    /// With nothing in flight.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, used: Mutex::default() })
    }

    /// Takes the bytes of one append.
    ///
    /// An append that is alone is always admitted, also if it is larger than the budget of its
    /// stream. `permille` is the share of the process's budget that may be used now: see
    /// `Usage::admitted_permille`.
    ///
    /// # Errors
    ///
    /// The budget that is used up; nothing is taken.
    pub fn admit(
        self: &Arc<Self>,
        stream: StreamId,
        records_bytes: usize,
        permille: u32,
    ) -> Result<Permit, Exhausted> {
        let bytes = records_bytes + APPEND_OVERHEAD_BYTES;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let process_bytes = used.process_bytes;
        if process_bytes > 0 && process_bytes + bytes > self.limits.process_bytes_max {
            return Err(Exhausted::Process { used_bytes: process_bytes });
        }
        let share = usize::try_from(permille.min(1000)).unwrap_or(1000);
        let slowed_max = self.limits.process_bytes_max.saturating_mul(share) / 1000;
        if share < 1000 && process_bytes > 0 && process_bytes + bytes > slowed_max {
            return Err(Exhausted::Slowed { used_bytes: process_bytes });
        }
        let stream_bytes = used.streams.get(&stream).copied().unwrap_or(0);
        if stream_bytes > 0 && stream_bytes + bytes > self.limits.stream_bytes_max {
            return Err(Exhausted::Stream { used_bytes: stream_bytes });
        }
        used.process_bytes += bytes;
        used.streams.insert(stream, stream_bytes + bytes);
        Ok(Permit { admission: Arc::clone(self), stream, bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.admission.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.process_bytes -= self.bytes;
        if let Some(stream_bytes) = used.streams.get_mut(&self.stream) {
            *stream_bytes -= self.bytes;
            if *stream_bytes == 0 {
                used.streams.remove(&self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: usize = 1_000 + APPEND_OVERHEAD_BYTES;

    fn admission(process: usize, stream: usize) -> Arc<Admission> {
        Admission::new(Limits { process_bytes_max: process * ONE, stream_bytes_max: stream * ONE })
    }

    fn stream(id: u64) -> StreamId {
        StreamId::new(id).unwrap()
    }

    #[test]
    fn a_stream_takes_its_budget_and_no_more() {
        let admission = admission(100, 2);
        let _first = admission.admit(stream(1), 1_000, 1_000).unwrap();
        let second = admission.admit(stream(1), 1_000, 1_000).unwrap();
        assert_eq!(
            admission.admit(stream(1), 1_000, 1_000).unwrap_err(),
            Exhausted::Stream { used_bytes: 2 * ONE }
        );
        assert!(admission.admit(stream(2), 1_000, 1_000).is_ok());
        drop(second);
        assert!(admission.admit(stream(1), 1_000, 1_000).is_ok());
    }

    #[test]
    fn the_process_takes_its_budget_and_no_more() {
        let admission = admission(2, 100);
        let _first = admission.admit(stream(1), 1_000, 1_000).unwrap();
        let second = admission.admit(stream(2), 1_000, 1_000).unwrap();
        assert_eq!(
            admission.admit(stream(3), 1_000, 1_000).unwrap_err(),
            Exhausted::Process { used_bytes: 2 * ONE }
        );
        drop(second);
        assert!(admission.admit(stream(3), 1_000, 1_000).is_ok());
    }

    #[test]
    fn a_log_that_fills_up_shrinks_the_budget() {
        let admission = admission(4, 100);
        let first = admission.admit(stream(1), 1_000, 500).unwrap();
        let second = admission.admit(stream(2), 1_000, 500).unwrap();
        assert_eq!(
            admission.admit(stream(3), 1_000, 500).unwrap_err(),
            Exhausted::Slowed { used_bytes: 2 * ONE }
        );
        assert!(admission.admit(stream(3), 1_000, 1_000).is_ok());
        drop((first, second));
        assert!(admission.admit(stream(3), 1_000, 0).is_ok(), "one alone always passes");
    }

    #[test]
    fn an_append_that_is_alone_is_always_admitted() {
        let admission = admission(1, 1);
        let permit = admission.admit(stream(1), 10_000, 1_000).unwrap();
        assert!(admission.admit(stream(2), 1, 1_000).is_err());
        drop(permit);
        assert!(admission.used.lock().unwrap().streams.is_empty());
    }
}
