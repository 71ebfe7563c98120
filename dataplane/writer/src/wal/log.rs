//! What is readable: ids, the live cache, and where older entries lie.
//!
//! An entry is readable from the moment it is queued. It stays in the cache at
//! least until it is flushed; from then on it may be read from its segment.
//!
//! The index of the segments is sparse: one [`Sample`] for each
//! [`SAMPLE_BYTES`] of log. Samples rise in index and in LSN. An entry of the
//! log always lies at or behind the last sample whose index is not above its
//! own, because what is written again after a cut is written further behind.

use std::{collections::VecDeque, ops::Range};

use crate::wal::{
    Error, LogEntry, LogId, Purged, Vote,
    frame::{Frame, SegmentHead},
};

/// A read of one entry walks at most about this far. Unit: bytes.
const SAMPLE_BYTES: u64 = 256 << 10;

/// The logical log. Pure.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<Purged>,
    pub(crate) opened_at: Option<u64>,
    /// The index of the first entry; below `next` unless there is none.
    first: u64,
    /// The index that the next entry must have; `None`: the log never held one.
    next: Option<u64>,
    /// Where terms begin, rising in index.
    terms: VecDeque<LogId>,
    /// The last entries, without a gap up to the end of the log.
    cache: VecDeque<Cached>,
    cache_bytes: u64,
    cache_bytes_max: u64,
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Cached {
    entry: LogEntry,
    /// The request that brought it. It may leave when that is flushed.
    sequence: u64,
}

/// A block from which a walk can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The first entry in the block.
    pub(crate) index: u64,
    /// Where the block lies.
    pub(crate) lsn: u64,
}

/// Frames of a log that cannot have been written in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Log {
    pub(crate) fn new(cache_bytes_max: u64) -> Self {
        Self {
            vote: None,
            committed: None,
            purged: None,
            opened_at: None,
            first: 0,
            next: None,
            terms: VecDeque::new(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            samples: VecDeque::new(),
        }
    }

    /// The places that can be read.
    pub(crate) fn indexes(&self) -> Range<u64> {
        self.first..self.next.unwrap_or(self.first)
    }

    /// The last entry, or what was purged last.
    pub(crate) fn last(&self) -> Option<LogId> {
        let indexes = self.indexes();
        if indexes.is_empty() {
            return self.purged.map(|purged| purged.upto);
        }
        self.id_at(indexes.end - 1)
    }

    /// The id of the entry at `index`.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if !self.indexes().contains(&index) {
            return None;
        }
        let run = self.terms.partition_point(|start| start.index <= index).checked_sub(1)?;
        self.terms.get(run).map(|start| LogId { term: start.term, index })
    }

    pub(crate) fn check_append(&self, entries: &[LogEntry]) -> Result<(), Error> {
        let mut expected = self.next;
        for entry in entries {
            let got = entry.id.index;
            let wanted = expected.unwrap_or(got);
            // The last index is kept: it means none on the disk.
            if got != wanted || got == u64::MAX {
                return Err(Error::Gap { expected: wanted, got });
            }
            expected = Some(got + 1);
        }
        Ok(())
    }

    /// Takes an entry that was checked.
    pub(crate) fn push(&mut self, entry: LogEntry, sequence: u64) {
        let index = entry.id.index;
        if self.indexes().is_empty() {
            self.first = index;
            self.terms.clear();
        }
        if self.terms.back().is_none_or(|run| run.term != entry.id.term) {
            self.terms.push_back(entry.id);
        }
        self.next = Some(index + 1);
        self.cache_bytes += len_of(&entry);
        self.cache.push_back(Cached { entry, sequence });
    }

    /// Everything up to this request is flushed: the cache may shrink.
    pub(crate) fn flushed(&mut self, sequence: u64) {
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|cached| cached.sequence <= sequence)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(cached) = self.cache.pop_front() {
            self.cache_bytes -= len_of(&cached.entry);
        }
    }

    pub(crate) fn check_truncate(&self, after: Option<LogId>) -> Result<(), Error> {
        match self.committed {
            Some(committed) if after.is_none_or(|after| after.index < committed.index) => {
                Err(Error::CutsCommitted { after, committed })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Cuts the log behind `after`.
    pub(crate) fn truncate_after(&mut self, after: Option<LogId>) {
        let indexes = self.indexes();
        let end = after.map_or(0, |after| after.index + 1).max(indexes.start);
        if end >= indexes.end {
            return;
        }
        self.next = Some(end);
        while self.terms.back().is_some_and(|run| run.index >= end) {
            self.terms.pop_back();
        }
        while self.samples.back().is_some_and(|sample| sample.index >= end) {
            self.samples.pop_back();
        }
        while self.cache.back().is_some_and(|cached| cached.entry.id.index >= end) {
            if let Some(cached) = self.cache.pop_back() {
                self.cache_bytes -= len_of(&cached.entry);
            }
        }
    }

    /// Forgets the entries up to `purged`. An older mark changes nothing.
    pub(crate) fn purge(&mut self, purged: Purged) {
        if self.purged.is_some_and(|last| last.upto.index >= purged.upto.index) {
            return;
        }
        self.purged = Some(purged);
        let indexes = self.indexes();
        let first = purged.upto.index.saturating_add(1);
        self.first = first.max(indexes.start);
        self.next = Some(self.next.unwrap_or(first).max(first));
        while self.terms.get(1).is_some_and(|run| run.index <= first) {
            self.terms.pop_front();
        }
        while self.samples.get(1).is_some_and(|sample| sample.index <= first) {
            self.samples.pop_front();
        }
        while self.cache.front().is_some_and(|cached| cached.entry.id.index < first) {
            self.forget_oldest();
        }
    }

    /// Takes a commit mark; it never goes back.
    pub(crate) fn commit(&mut self, id: LogId) {
        if self.committed.is_none_or(|committed| committed.index < id.index) {
            self.committed = Some(id);
        }
    }

    /// Takes a frame that was read from the disk.
    pub(crate) fn replay(&mut self, frame: Frame) -> Result<(), Contradiction> {
        match frame {
            Frame::Entry(entry) => {
                self.check_append(std::slice::from_ref(&entry)).map_err(|_| Contradiction)?;
                self.push(entry, 0);
                self.flushed(0);
            }
            Frame::Vote(vote) => self.vote = Some(vote),
            Frame::Committed(id) => self.commit(id),
            Frame::TruncateAfter(after) => {
                self.check_truncate(after).map_err(|_| Contradiction)?;
                self.truncate_after(after);
            }
            Frame::Purged(purged) => self.purge(purged),
            Frame::SegmentHead(head) => self.replay_head(&head)?,
            Frame::Idle => {}
        }
        Ok(())
    }

    /// The head of a segment must repeat what the segments before it said.
    fn replay_head(&mut self, head: &SegmentHead) -> Result<(), Contradiction> {
        if (head.vote, head.committed, head.purged) != (self.vote, self.committed, self.purged) {
            return Err(Contradiction);
        }
        self.opened_at = head.opened_at;
        Ok(())
    }

    /// Says that a flushed block has entries from `index` on.
    pub(crate) fn sample(&mut self, sample: Sample) {
        let mut replaces = false;
        while self.samples.back().is_some_and(|last| last.index >= sample.index) {
            self.samples.pop_back();
            replaces = true;
        }
        let is_due = self.samples.back().is_none_or(|last| sample.lsn >= last.lsn + SAMPLE_BYTES);
        if replaces || is_due {
            self.samples.push_back(sample);
        }
    }

    /// Where a walk to the entry at `index` starts.
    pub(crate) fn sample_before(&self, index: u64) -> Option<Sample> {
        let after = self.samples.partition_point(|sample| sample.index <= index);
        self.samples.get(after.checked_sub(1)?).copied()
    }

    /// The entry at `index`, if it is in memory.
    pub(crate) fn cached(&self, index: u64) -> Option<&LogEntry> {
        let first = self.cache.front()?.entry.id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.cache.get(at).map(|cached| &cached.entry)
    }
}

fn len_of(entry: &LogEntry) -> u64 {
    u64::try_from(entry.payload.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
