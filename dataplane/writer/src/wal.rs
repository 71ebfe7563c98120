//! The write-ahead log of one replica: Raft's entries, votes and marks, in one
//! order, on one disk.
//!
//! The way of an entry: [`Wal::append`] puts it into the live cache and the
//! queue; the WAL's thread takes what is queued, builds one block, writes and
//! syncs it, and then reports in order. There is one block in flight and no
//! timer: what queues during a flush is the next block.
//!
//! ```text
//! wal/0000000000000000.wal   a segment; its name is the LSN of its first byte
//! wal/0000000004000000.wal   the next one, one segment size further
//! wal/spare-7.wal            zero-filled and synced ahead, to become a segment
//! wal/spare-8.tmp            a spare that is still being filled
//! ```
//!
//! The LSN is the byte position in an endless log. Segments hold [`block`]s,
//! blocks hold [`frame`]s. All integers are little endian.
//!
//! - [`core`] decides: a step machine without I/O.
//! - [`driver`] carries out, on a thread of its own or as a task.
//! - [`recovery`] reads the log at the start and gives the verdict.
//! - [`log`] is what is readable: ids, the live cache and a sparse index.
//!
//! Absent on purpose: recycling of segments. A purge is a mark in the log, and
//! the scan starts at the first segment.

pub mod block;
pub mod core;
pub mod driver;
pub mod frame;
mod handle;
mod log;
mod read;
pub mod recovery;
mod segment;

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;

pub use driver::{Driver, Turn};
pub use handle::{Callback, LogState, Usage, Wal};
pub use read::ReadError;
pub use recovery::{OpenError, Report};
pub(crate) use segment::is_used;
pub use segment::{DIR, create};

/// The name of a Raft entry: who led when it was made, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Raft's term.
    pub term: u64,
    /// The place in the log. `u64::MAX` is none on disk and never an index.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// Whom this replica voted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Raft's term.
    pub term: u64,
    /// The candidate. `u64::MAX` is none on disk and never a node.
    pub node_id: u64,
    /// Whether a majority granted it.
    pub committed: bool,
}

/// One Raft entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its name.
    pub id: LogId,
    /// Opaque here.
    pub payload: Bytes,
}

/// Entries up to `upto` are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The last one that is gone.
    pub upto: LogId,
    /// The index that must be applied before this replica serves: only then is
    /// every record at or below `upto` in a committed chunk.
    pub complete_at: u64,
}

/// Sizes and waits. Tests use small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Unit: bytes, a multiple of 4 KiB. Fixed for the life of a log.
    pub segment_bytes: u64,
    /// What is queued is cut into blocks of about this size; a larger frame
    /// goes alone. Unit: bytes.
    pub block_bytes_max: u64,
    /// The largest payload of an entry. A block with it must fit in a segment.
    /// Unit: bytes.
    pub entry_bytes_max: u64,
    /// The budget of the log on its volume. Unit: bytes.
    pub wal_bytes_max: u64,
    /// Payloads kept in memory for readers; what is not flushed is kept beyond
    /// it. Unit: bytes.
    pub cache_bytes_max: u64,
    /// How long a data block stays the last one before an idle block follows.
    pub idle_after: Duration,
    /// Zero-filled segments kept ready.
    pub spares_min: usize,
}

impl Config {
    /// The sizes of the format, for a given budget and cache.
    #[must_use]
    pub const fn new(wal_bytes_max: u64, cache_bytes_max: u64) -> Self {
        Self {
            segment_bytes: 64 << 20,
            block_bytes_max: 1 << 20,
            entry_bytes_max: 8 << 20,
            wal_bytes_max,
            cache_bytes_max,
            idle_after: Duration::from_millis(2),
            spares_min: 2,
        }
    }
}

impl Config {
    /// # Panics
    ///
    /// If the largest block does not fit in a segment, or blocks do not fill
    /// one.
    fn check(&self) {
        let frames = self.block_bytes_max.max(self.entry_bytes_max + 32);
        // Besides a head of 168 bytes and a commit mark of 48.
        let largest = block::block_len(frames + 216);
        let segment_bytes = self.segment_bytes;
        assert!(
            largest <= segment_bytes && segment_bytes.is_multiple_of(block::ALIGN_LSN),
            "a block of {largest} bytes in a segment of {segment_bytes}"
        );
    }
}

/// The default budget of the log, whatever the volume. Unit: bytes.
pub const WAL_BYTES_MAX: u64 = 32 << 30;

/// Segments beyond the budget that commands may use which free space.
pub const RESERVE_SEGMENTS: u64 = 4;

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last commit mark; never beyond the last entry.
    pub committed: Option<LogId>,
    /// What is gone.
    pub purged: Option<Purged>,
    /// The last entry, or what was purged last if no entry is left.
    pub last: Option<LogId>,
    /// The first entry that can be read, if there is one.
    pub first_index: Option<u64>,
    /// The last index held at the first open since this volume was last
    /// compared with the bucket; `None` if the log was empty then.
    pub opened_at: Option<u64>,
    /// What the scan found, for the operator's log.
    pub report: Report,
}

/// Why a request was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The entries do not continue the log. The caller is wrong about it.
    #[error("entry {got} does not follow, the log continues at {expected}")]
    Gap {
        /// The index that the log takes next.
        expected: u64,
        /// The index that was to be appended.
        got: u64,
    },

    /// The entry can never be stored.
    #[error("entry {index} has {len_bytes} bytes, at most {len_bytes_max} fit")]
    TooLarge {
        /// Its place.
        index: u64,
        /// Its payload. Unit: bytes.
        len_bytes: u64,
        /// Unit: bytes.
        len_bytes_max: u64,
    },

    /// The cut would remove an entry that is committed: a broken invariant of
    /// Raft. The replica must stop.
    #[error("cutting the log after {after:?} would remove committed entries up to {committed}")]
    CutsCommitted {
        /// Where the cut was to be.
        after: Option<LogId>,
        /// The commit mark.
        committed: LogId,
    },

    /// The vote is older than the last one: a broken invariant of Raft. The
    /// replica must stop.
    #[error("vote of term {term} after one of term {last_term}")]
    VoteWentBack {
        /// The new one.
        term: u64,
        /// The last one.
        last_term: u64,
    },

    /// The log has stopped, see [`Wal::fatal`].
    #[error("the log has stopped")]
    Stopped,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Why the log stopped for good. Nothing after it is acknowledged; only a new
/// start, which scans the log, can go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk refused. What was written last is unknown.
    #[error("{action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// The budget and its reserve are used up. Raise the budget.
    #[error(
        "the log needs another segment, but its budget of {wal_bytes_max} bytes and the reserve \
         are used up; raise the WAL budget"
    )]
    BudgetUsedUp {
        /// Unit: bytes.
        wal_bytes_max: u64,
    },
}

impl From<Fatal> for io::Error {
    fn from(fatal: Fatal) -> Self {
        let kind = match &fatal {
            Fatal::Io { source, .. } => source.kind(),
            Fatal::BudgetUsedUp { .. } => io::ErrorKind::QuotaExceeded,
        };
        Self::new(kind, fatal)
    }
}
