//! What the Raft log store holds: the cloneable end of the log.

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
};

use pyramid_telemetry::health::Pulse;
use tokio::sync::watch;

use crate::{
    data_dir::Identity,
    disk::Disk,
    wal::{
        Config, Error, Fatal, LogEntry, LogId, OpenError, Opened, Purged, ReadError, Vote, block,
        core::{Core, Item, Start},
        driver::{Driver, Inner, Shared, thread},
        frame::Frame,
        read::{self, Cursor},
        recovery,
    },
};

/// Told once: the request is durable, or the log has failed.
pub type Callback = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Appends are refused above this share of the budget. Unit: percent.
const REFUSE_PERCENT: u64 = 90;

/// Chunks are sealed sooner above this share of the budget. Unit: percent.
const PRESSURE_PERCENT: u64 = 70;

/// How much of the budget is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Unit: bytes of log, and of the live index where it was added.
    pub used_bytes: u64,
    /// The budget. Unit: bytes.
    pub max_bytes: u64,
    /// The disk had no room for a segment made ahead.
    pub is_short_of_room: bool,
}

impl Usage {
    /// The same with what is kept in memory because of the log.
    #[must_use]
    pub fn with(self, memory_bytes: usize) -> Self {
        let memory_bytes = u64::try_from(memory_bytes).unwrap_or(u64::MAX);
        Self { used_bytes: self.used_bytes.saturating_add(memory_bytes), ..self }
    }

    /// Whether to seal sooner and to slow down.
    #[must_use]
    pub fn is_under_pressure(&self) -> bool {
        self.is_short_of_room || self.is_above(PRESSURE_PERCENT)
    }

    /// Whether appends must be refused, retryably. Commands that free space go
    /// on, from a reserve.
    #[must_use]
    pub fn refuses_appends(&self) -> bool {
        self.is_short_of_room || self.is_above(REFUSE_PERCENT)
    }

    /// How much of what is usually let in should be let in, so that the log fills slower and
    /// slower between pressure and refusal. Unit: per mille.
    #[must_use]
    pub fn admitted_permille(&self) -> u32 {
        let used = u128::from(self.used_bytes) * 1000 / u128::from(self.max_bytes.max(1));
        let (pressure, refuse) =
            (u128::from(PRESSURE_PERCENT) * 10, u128::from(REFUSE_PERCENT) * 10);
        let left = refuse.saturating_sub(used).min(refuse - pressure);
        u32::try_from(left * 1000 / (refuse - pressure)).unwrap_or(0)
    }

    fn is_above(&self, percent: u64) -> bool {
        u128::from(self.used_bytes) * 100 > u128::from(self.max_bytes) * u128::from(percent)
    }
}

/// What the log holds now, flushed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last commit mark.
    pub committed: Option<LogId>,
    /// What is gone.
    pub purged: Option<Purged>,
    /// The last entry, or what was purged last if no entry is left.
    pub last: Option<LogId>,
    /// The first entry that can be read, if there is one.
    pub first_index: Option<u64>,
}

/// The log. Clones are the same log; each remembers where its last read ended.
pub struct Wal {
    log: Arc<Running>,
    cursor: Mutex<Option<Cursor>>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.inner().is_stopping = true;
        self.shared.wake();
    }
}

impl Clone for Wal {
    fn clone(&self) -> Self {
        Self { log: Arc::clone(&self.log), cursor: Mutex::new(None) }
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.shared.fmt(f)
    }
}

impl Wal {
    /// Scans the log, makes it ready and starts its threads. The caller holds
    /// the lock of the directory.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    ///
    /// # Panics
    ///
    /// If the largest block does not fit in a segment.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        identity: &Identity,
    ) -> Result<(Self, Opened), OpenError> {
        let (wal, opened, driver) = Self::open_driven(disk, config, identity)?;
        let threads = thread::start(driver).map_err(|source| OpenError::Io {
            action: "start a thread for",
            path: "wal".to_owned(),
            source,
        })?;
        *wal.log.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok((wal, opened))
    }

    /// Like [`Wal::open`], but the caller drives.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    ///
    /// # Panics
    ///
    /// If the largest block does not fit in a segment.
    pub fn open_driven(
        disk: Arc<dyn Disk>,
        config: Config,
        identity: &Identity,
    ) -> Result<(Self, Opened, Driver), OpenError> {
        config.check();
        let recovered = recovery::recover(disk.as_ref(), &config, identity)?;
        let log = recovered.log;
        let state = state_of(&log);
        let opened = Opened {
            vote: state.vote,
            committed: state.committed,
            purged: state.purged,
            last: state.last,
            first_index: state.first_index,
            opened_at: log.opened_at,
            report: recovered.report,
        };
        let last_start = recovered.files.keys().next_back().copied().unwrap_or(0);
        let start = Start {
            position: recovered.position,
            end: last_start + config.segment_bytes,
            last_block: recovered.last_block,
            open_count: recovered.open_count,
            vote: log.vote,
            committed: log.committed,
            purged: log.purged,
            last: state.last,
            opened_at: log.opened_at,
        };
        let core = Core::new(config, *identity, start, &recovered.spares);
        let seed = block::seed(&identity.wal_id);
        let shared = Arc::new(Shared::new(config, seed, log, recovered.files));
        shared.used_bytes.store(recovered.position, Ordering::Relaxed);
        let driver = Driver::new(core, Arc::clone(&shared), disk);
        let log = Arc::new(Running { shared, threads: Mutex::default() });
        Ok((Self { log, cursor: Mutex::new(None) }, opened, driver))
    }

    /// Queues entries behind the last one. They can be read at once;
    /// `on_flushed` is told, in the order of the requests, when they are
    /// durable.
    ///
    /// # Errors
    ///
    /// [`Error::Gap`], [`Error::TooLarge`], [`Error::Stopped`]; `on_flushed` is
    /// dropped.
    pub fn append(&self, entries: Vec<LogEntry>, on_flushed: Callback) -> Result<(), Error> {
        let len_bytes_max = self.log.shared.config.entry_bytes_max;
        for entry in &entries {
            let len_bytes = u64::try_from(entry.payload.len()).unwrap_or(u64::MAX);
            if len_bytes > len_bytes_max {
                return Err(Error::TooLarge { index: entry.id.index, len_bytes, len_bytes_max });
            }
        }
        self.queue(Some(on_flushed), |inner, sequence| {
            inner.log.check_append(&entries)?;
            for entry in entries {
                inner.log.push(entry.clone(), sequence);
                inner.items.push(Item { frame: Some(Frame::Entry(entry)), completes: None });
            }
            Ok(())
        })
    }

    /// Saves a vote; it counts from when `on_flushed` is told.
    ///
    /// # Errors
    ///
    /// [`Error::VoteWentBack`], [`Error::Stopped`].
    pub fn save_vote(&self, vote: Vote, on_flushed: Callback) -> Result<(), Error> {
        self.queue(Some(on_flushed), |inner, _| {
            if let Some(last) = inner.log.vote.filter(|last| last.term > vote.term) {
                return Err(Error::VoteWentBack { term: vote.term, last_term: last.term });
            }
            inner.log.vote = Some(vote);
            inner.items.push(Item { frame: Some(Frame::Vote(vote)), completes: None });
            Ok(())
        })
    }

    /// Saves how far entries are committed. It rides on the next block and may
    /// be lost until then. A mark that is not above the last one is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub fn save_committed(&self, committed: LogId) -> Result<(), Error> {
        self.queue(None, |inner, _| {
            let is_new = inner.log.committed.is_none_or(|last| last.index < committed.index);
            if is_new {
                inner.log.commit(committed);
                let frame = Some(Frame::Committed(committed));
                inner.items.push(Item { frame, completes: None });
            }
            Ok(())
        })
    }

    /// Cuts the entries behind `after`; `None` cuts all.
    ///
    /// # Errors
    ///
    /// [`Error::CutsCommitted`], [`Error::Stopped`].
    pub fn truncate_after(&self, after: Option<LogId>, on_flushed: Callback) -> Result<(), Error> {
        self.queue(Some(on_flushed), |inner, _| {
            inner.log.check_truncate(after)?;
            inner.log.truncate_after(after);
            let frame = Some(Frame::TruncateAfter(after));
            inner.items.push(Item { frame, completes: None });
            Ok(())
        })
    }

    /// Says that entries up to `purged.upto` are gone. A mark that is not above
    /// the last one changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub fn purge(&self, purged: Purged, on_flushed: Callback) -> Result<(), Error> {
        self.queue(Some(on_flushed), |inner, _| {
            let last = inner.log.purged;
            if last.is_none_or(|last| last.upto.index < purged.upto.index) {
                inner.log.purge(purged);
                let frame = Some(Frame::Purged(purged));
                inner.items.push(Item { frame, completes: None });
            }
            Ok(())
        })
    }

    /// The entries that the log holds in `range`, in order, without a gap. With
    /// `max_bytes` of payload at least one of them, then as many as fit.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn entries(
        &self,
        range: Range<u64>,
        max_bytes: Option<u64>,
    ) -> Result<Vec<LogEntry>, ReadError> {
        read::entries(&self.log.shared, &self.cursor, range, max_bytes)
    }

    /// One entry.
    ///
    /// # Errors
    ///
    /// [`ReadError::Moved`] if the log holds no such entry (any more), else see
    /// [`ReadError`].
    pub fn entry(&self, id: LogId) -> Result<LogEntry, ReadError> {
        let end = id.index.saturating_add(1);
        let entry = self.entries(id.index..end, None)?.pop();
        entry.filter(|entry| entry.id == id).ok_or(ReadError::Moved { index: id.index })
    }

    /// One entry, if it is in memory.
    #[must_use]
    pub fn cached(&self, index: u64) -> Option<LogEntry> {
        self.log.shared.inner().log.cached(index).cloned()
    }

    /// The id of the entry at `index`, if the log holds one.
    #[must_use]
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        self.log.shared.inner().log.id_at(index)
    }

    /// What the log holds, flushed or not.
    #[must_use]
    pub fn log_state(&self) -> LogState {
        state_of(&self.log.shared.inner().log)
    }

    /// Follows the last entry that is durable here. It goes back when the log
    /// is cut.
    #[must_use]
    pub fn flushed(&self) -> watch::Receiver<Option<LogId>> {
        self.log.shared.flushed.subscribe()
    }

    /// How much of the budget is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let shared = &self.log.shared;
        Usage {
            used_bytes: shared.used_bytes.load(Ordering::Relaxed),
            max_bytes: shared.config.wal_bytes_max,
            is_short_of_room: shared.is_short_of_room.load(Ordering::Relaxed),
        }
    }

    /// Of the thread that writes, also while it has nothing to do.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.log.shared.pulse.clone()
    }

    /// Waits until the log has failed. It never returns before.
    ///
    /// # Panics
    ///
    /// Never: the log lives as long as this handle.
    pub async fn fatal(&self) -> Fatal {
        let mut fatal = self.log.shared.fatal.subscribe();
        let failed = fatal.wait_for(Option::is_some).await;
        failed.ok().and_then(|fatal| fatal.clone()).expect("the handle keeps the sender")
    }

    /// Writes what is queued, takes nothing more and waits for the threads.
    /// Blocks as long as the disk does.
    ///
    /// # Errors
    ///
    /// Why the log failed, now or earlier.
    pub fn close(&self) -> Result<(), Fatal> {
        self.log.shared.inner().is_stopping = true;
        self.log.shared.wake();
        let mut threads = self.log.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        drop(threads);
        self.log.shared.fatal.borrow().clone().map_or(Ok(()), Err)
    }

    fn queue(
        &self,
        callback: Option<Callback>,
        request: impl FnOnce(&mut Inner, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut inner = self.log.shared.inner();
        if inner.is_closed || inner.is_stopping {
            return Err(Error::Stopped);
        }
        let sequence = inner.sequence + 1;
        let queued = inner.items.len();
        request(&mut inner, sequence)?;
        inner.sequence = sequence;
        if let Some(callback) = callback {
            inner.callbacks.push((sequence, callback));
            if inner.items.len() == queued {
                inner.items.push(Item { frame: None, completes: None });
            }
            if let Some(last) = inner.items.last_mut() {
                last.completes = Some(sequence);
            }
        }
        drop(inner);
        self.log.shared.wake();
        Ok(())
    }
}

fn state_of(log: &crate::wal::log::Log) -> LogState {
    let indexes = log.indexes();
    LogState {
        vote: log.vote,
        committed: log.committed,
        purged: log.purged,
        last: log.last(),
        first_index: (!indexes.is_empty()).then_some(indexes.start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_and_less_is_admitted_between_pressure_and_refusal() {
        let permille = [0, 699, 700, 705, 800, 899, 900, 901, 2_000].map(|used_bytes| {
            Usage { used_bytes, max_bytes: 1_000, is_short_of_room: false }.admitted_permille()
        });
        assert_eq!(permille, [1_000, 1_000, 1_000, 975, 500, 5, 0, 0, 0]);
    }
}
