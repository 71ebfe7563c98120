//! Reads: from the live cache, else from the segments.

use std::{
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::wal::{
    LogEntry, LogId,
    block::{self, Checked, HEADER_LEN, Header},
    driver::Shared,
    frame::{self, Frame},
    log::Log,
    segment,
};

/// A read with a limit takes at most so many entries from segments.
const LIMITED_ENTRIES_MAX: usize = 4096;

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was cut or purged while it was being read. Ask again.
    #[error("entry {index} is not in the log any more")]
    Moved {
        /// Its place.
        index: u64,
    },

    /// The block with it is damaged. The replica must be replaced.
    #[error("the block at byte {lsn} of the log is damaged")]
    Damaged {
        /// Where the block lies.
        lsn: u64,
    },

    /// The disk refused.
    #[error("read {path}")]
    Io {
        /// The segment.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Moved { .. } => io::ErrorKind::NotFound,
            ReadError::Damaged { .. } => io::ErrorKind::InvalidData,
            ReadError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// Where a read ended, so that the next one goes on there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// The entry that comes next.
    index: u64,
    /// It lies in this block or behind it.
    lsn: u64,
}

/// What a read needs of the log, taken under its lock.
struct Plan {
    /// Entries to be read from segments, and where to start.
    stored: Vec<LogId>,
    start_lsn: u64,
    /// Entries from memory, which follow those.
    cached: Vec<LogEntry>,
}

pub(crate) fn entries(
    shared: &Shared,
    cursor: &Mutex<Option<Cursor>>,
    range: Range<u64>,
    max_bytes: Option<u64>,
) -> Result<Vec<LogEntry>, ReadError> {
    let at = *cursor.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = plan(&shared.inner().log, at, range, max_bytes);
    let max_bytes = max_bytes.unwrap_or(u64::MAX);
    let mut walk = Walk { shared, lsn: plan.start_lsn, max_bytes, read_bytes: 0 };
    let mut entries = walk.entries(&plan.stored)?;
    if entries.len() < plan.stored.len() {
        // A prefix, because of the limit.
        keep(cursor, &entries, walk.lsn);
        return Ok(entries);
    }
    if !entries.is_empty() {
        keep(cursor, &entries, walk.lsn);
    }
    for entry in plan.cached {
        walk.read_bytes = walk.read_bytes.saturating_add(len_of(&entry));
        if walk.read_bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn keep(cursor: &Mutex<Option<Cursor>>, entries: &[LogEntry], lsn: u64) {
    if let Some(last) = entries.last() {
        let next = Cursor { index: last.id.index + 1, lsn };
        *cursor.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }
}

fn plan(log: &Log, cursor: Option<Cursor>, range: Range<u64>, max_bytes: Option<u64>) -> Plan {
    let held = log.indexes();
    let range = range.start.max(held.start)..range.end.min(held.end);
    let mut plan = Plan { stored: Vec::new(), start_lsn: 0, cached: Vec::new() };
    let mut bytes = 0u64;
    for index in range.clone() {
        let Some(entry) = log.cached(index) else {
            if max_bytes.is_some() && plan.stored.len() == LIMITED_ENTRIES_MAX {
                break;
            }
            plan.stored.extend(log.id_at(index));
            continue;
        };
        if max_bytes.is_some_and(|max| bytes > max) {
            break;
        }
        bytes = bytes.saturating_add(len_of(entry));
        plan.cached.push(entry.clone());
    }
    let sample = log.sample_before(range.start).map_or(0, |sample| sample.lsn);
    let cursor = cursor.filter(|cursor| cursor.index == range.start).map_or(0, |at| at.lsn);
    plan.start_lsn = sample.max(cursor);
    plan
}

/// Goes from block to block.
struct Walk<'a> {
    shared: &'a Shared,
    /// The block that was read last.
    lsn: u64,
    max_bytes: u64,
    read_bytes: u64,
}

impl Walk<'_> {
    /// Reads these entries, or the first of them up to the limit.
    fn entries(&mut self, wanted: &[LogId]) -> Result<Vec<LogEntry>, ReadError> {
        let mut found = Vec::with_capacity(wanted.len());
        let mut at = self.lsn;
        while let Some(missing) = wanted.get(found.len()) {
            let moved = ReadError::Moved { index: missing.index };
            let Some(checked) = self.header_at(at)? else {
                at = self.next_segment(at).ok_or(moved)?;
                continue;
            };
            self.lsn = at;
            if checked.header.first_index.is_some() {
                for frame in self.frames(&checked)? {
                    let Frame::Entry(entry) = frame else { continue };
                    if wanted.get(found.len()) != Some(&entry.id) {
                        continue;
                    }
                    self.read_bytes = self.read_bytes.saturating_add(len_of(&entry));
                    if self.read_bytes > self.max_bytes && !found.is_empty() {
                        return Ok(found);
                    }
                    found.push(entry);
                }
            }
            at += checked.header.block_len();
        }
        Ok(found)
    }

    /// Where the segment behind the one of `at` begins, if there is one.
    fn next_segment(&self, at: u64) -> Option<u64> {
        let next = self.segment_start(at) + self.shared.config.segment_bytes;
        // At the start of a segment a block is missing, not a gap.
        (at != self.segment_start(at) && self.shared.file(next).is_some()).then_some(next)
    }

    fn segment_start(&self, lsn: u64) -> u64 {
        lsn - lsn % self.shared.config.segment_bytes
    }

    fn header_at(&self, at: u64) -> Result<Option<Checked>, ReadError> {
        let bytes = self.read(at, HEADER_LEN)?;
        Ok(Header::decode(&bytes, self.shared.seed, at))
    }

    fn frames(&self, checked: &Checked) -> Result<Vec<Frame>, ReadError> {
        let lsn = checked.header.lsn;
        let body_len = usize::try_from(checked.header.body_len).unwrap_or(usize::MAX);
        let mut bytes = self.read(lsn, HEADER_LEN + body_len)?;
        let body = bytes.split_off(HEADER_LEN.min(bytes.len()));
        block::decode_body(&checked.header, body).map_err(|bad| match bad {
            frame::Bad::Incomplete | frame::Bad::Damaged | frame::Bad::Unknown { .. } => {
                ReadError::Damaged { lsn }
            }
        })
    }

    /// Reads `len` bytes, or up to the end of the file.
    fn read(&self, at: u64, len: usize) -> Result<Bytes, ReadError> {
        let start = self.segment_start(at);
        let Some(file) = self.shared.file(start) else {
            return Ok(Bytes::new());
        };
        let mut bytes = vec![0; len];
        let read = file
            .read_at(&mut bytes, at - start)
            .map_err(|source| ReadError::Io { path: segment::segment_path(start), source })?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}

fn len_of(entry: &LogEntry) -> u64 {
    u64::try_from(entry.payload.len()).unwrap_or(u64::MAX)
}
