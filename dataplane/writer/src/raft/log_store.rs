//! openraft's log on our write-ahead log.
//!
//! Entries become the payloads of `entry.rs` and back. Nothing is decided here: the WAL reports a
//! flush in order, rejects gaps, and ends the process when the disk fails.

use std::collections::Bound;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use tokio::sync::{oneshot, watch};

use super::types::{
    EntryOf, LogIdOf, Payload, TypeConfig, VoteOf, log_id, membership, stored_membership, vote,
    wal_log_id, wal_vote,
};
use crate::entry::{self, Entry};
use crate::wal::{self, Wal};

/// Most bytes of entries that are handed out at once to be sent to another replica.
const SEND_BYTES_MAX: u64 = 4 << 20;

/// Most bytes of entries that are read at once to be applied.
const APPLY_BYTES_MAX: u64 = 8 << 20;

#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    flushed: watch::Sender<entry::Stamp>,
}

impl LogStore {
    /// The log, and the stamp of the newest entry of the appender that is flushed here.
    pub(crate) fn new(wal: Wal) -> (Self, watch::Receiver<entry::Stamp>) {
        let (flushed, newest) = watch::channel(entry::Stamp::default());
        (Self { wal, flushed }, newest)
    }

    /// Reads `start..end`, or a prefix of it of about `bytes_max`.
    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<EntryOf>> {
        // What Raft asks for is in memory, except at a start, when nobody else waits.
        self.wal.entries(start..end, Some(bytes_max))?.into_iter().map(from_wal).collect()
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let state = self.wal.log_state();
        let first = state.purged.map_or(0, |purged| purged.upto.index + 1);
        let after_last = state.last.map_or(first, |last| last.index + 1);
        (start.max(first), end.min(after_last))
    }
}

fn from_wal(stored: wal::LogEntry) -> io::Result<EntryOf> {
    let payload = match entry::Kind::of(&stored.payload).map_err(io::Error::other)? {
        entry::Kind::Batch | entry::Kind::Control => EntryPayload::Normal(Payload(stored.payload)),
        entry::Kind::Blank => EntryPayload::Blank,
        entry::Kind::Membership => {
            match Entry::decode(&stored.payload).map_err(io::Error::other)? {
                Entry::Membership(stored) => {
                    EntryPayload::Membership(membership(stored).map_err(io::Error::other)?)
                }
                Entry::Batch { .. } | Entry::Control { .. } | Entry::Blank => {
                    return Err(io::Error::other(
                        "an entry of kind MEMBERSHIP holds something else",
                    ));
                }
            }
        }
    };
    Ok(EntryOf::new(log_id(stored.id), payload))
}

fn to_wal(entry: EntryOf) -> wal::LogEntry {
    let id = wal_log_id(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Normal(Payload(bytes)) => bytes,
        EntryPayload::Blank => Entry::Blank.encode(),
        EntryPayload::Membership(membership) => {
            Entry::Membership(stored_membership(&membership)).encode()
        }
    };
    wal::LogEntry { id, payload }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<EntryOf>> {
        let (mut start, end) = self.bounds(&range);
        let mut entries = Vec::new();
        while start < end {
            let read = self.read(start, end, APPLY_BYTES_MAX)?;
            let Some(last) = read.last() else {
                return Err(io::Error::other(format!("log index {start} is missing")));
            };
            start = last.log_id.index() + 1;
            entries.extend(read);
        }
        Ok(entries)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = io::Result<EntryOf>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let log = self.clone();
        let pages = futures::stream::try_unfold(start, move |start| {
            let log = log.clone();
            async move {
                if start >= end {
                    return Ok(None);
                }
                let page = log.read(start, end, APPLY_BYTES_MAX)?;
                let Some(last) = page.last() else {
                    return Err(io::Error::other(format!("log index {start} is missing")));
                };
                let next = last.log_id.index() + 1;
                Ok(Some((futures::stream::iter(page.into_iter().map(Ok)), next)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(pages))
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf>> {
        Ok(self.wal.log_state().vote.map(vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<EntryOf>> {
        self.read(start, end, SEND_BYTES_MAX)
    }
}

/// The stamp of the newest entry that has one.
fn newest_stamp<'a>(payloads: impl DoubleEndedIterator<Item = &'a Bytes>) -> Option<entry::Stamp> {
    payloads.rev().find_map(entry::stamp_of)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.wal.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(|purged| log_id(purged.upto)),
            last_log_id: state.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        self.wal.save_vote(wal_vote(vote), Box::new(move |result| report(done, result)))?;
        flushed.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.wal.save_committed(wal_log_id(&committed))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf>> {
        Ok(self.wal.log_state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<wal::LogEntry> = entries.into_iter().map(to_wal).collect();
        let stamp = newest_stamp(entries.iter().map(|entry| &entry.payload));
        let newest = self.flushed.clone();
        let on_flushed = Box::new(move |result: io::Result<()>| {
            if let (Ok(()), Some(stamp)) = (&result, stamp) {
                newest.send_replace(stamp);
            }
            callback.io_completed(result);
        });
        Ok(self.wal.append(entries, on_flushed)?)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf>) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        let last = last.as_ref().map(wal_log_id);
        self.wal.truncate_after(last, Box::new(move |result| report(done, result)))?;
        flushed.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn purge(&mut self, upto: LogIdOf) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        // Nothing is published yet, so nothing is missing below the purged entry.
        let upto = wal_log_id(&upto);
        let purged = wal::Purged { upto, complete_at: upto.index };
        self.wal.purge(purged, Box::new(move |result| report(done, result)))?;
        flushed.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn report(done: oneshot::Sender<io::Result<()>>, result: io::Result<()>) {
    // Nobody waits any more only when Raft has stopped.
    drop(done.send(result));
}

fn stopped() -> io::Error {
    io::Error::other("the write-ahead log has stopped")
}
