//! Reads live batches: those that are in the write-ahead log and in no committed chunk.

use std::io;

use bytes::Bytes;
use pyramid_protocol::batch::FIXED_LEN;
use pyramid_protocol::{Batch, Offset, StreamId};

use crate::entry::{self, stored_append};
use crate::live_index::LiveBatch;
use crate::view::View;
use crate::wal::{self, Wal};

/// Tag and length in front of a batch in an answer. Unit: bytes.
const FIELD_LEN_MAX: usize = 6;

/// Why live batches cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They have gone to the object store, or the stream is deleted: look at the state again.
    #[error("the records are not live any more")]
    Moved,
    /// The log on this disk cannot be read.
    #[error("read log index {index}")]
    Log {
        /// Which entry.
        index: u64,
        /// What the disk said.
        source: wal::ReadError,
    },
    /// The entry is not what the index says: the index or the log is broken.
    #[error("log index {index} does not hold the batch at offset {offset}")]
    Entry {
        /// Which entry.
        index: u64,
        /// The batch that should lie in it.
        offset: Offset,
        /// What is wrong.
        source: entry::Error,
    },
}

/// Whole batches from the one that holds `from` on: at least one, then up to `bytes_max` encoded
/// bytes or `end`.
/// Empty if `from` is at or above `end`.
///
/// # Errors
///
/// [`Error`].
pub async fn read(
    view: &View,
    wal: &Wal,
    stream_id: StreamId,
    from: Offset,
    end: Offset,
    bytes_max: usize,
) -> Result<Vec<Batch>, Error> {
    let places = view.read(|_, live| places(live.batches(stream_id, from), end, bytes_max));
    match places.first() {
        None => return Ok(Vec::new()),
        Some(first) if first.base > from => return Err(Error::Moved),
        Some(_) => {}
    }
    let mut batches = Vec::with_capacity(places.len());
    // Neighbouring batches of a stream often lie in one entry.
    let mut entry: Option<(u64, Bytes)> = None;
    for place in places {
        let payload = match &entry {
            Some((index, payload)) if *index == place.index => payload,
            Some(_) | None => &entry.insert((place.index, payload(wal, place.index).await?)).1,
        };
        batches.push(batch(payload, place)?);
    }
    Ok(batches)
}

fn places(live: impl Iterator<Item = LiveBatch>, end: Offset, bytes_max: usize) -> Vec<LiveBatch> {
    let mut bytes = 0;
    let mut places: Vec<LiveBatch> = Vec::new();
    for place in live.take_while(|place| place.base < end) {
        // In an answer a batch takes its fixed fields and the tag and length of its field as well.
        bytes += usize::try_from(place.len_bytes).unwrap_or(usize::MAX) + FIXED_LEN + FIELD_LEN_MAX;
        if bytes > bytes_max && !places.is_empty() {
            break;
        }
        places.push(place);
    }
    places
}

async fn payload(wal: &Wal, index: u64) -> Result<Bytes, Error> {
    let read = match wal.cached(index) {
        Some(entry) => Ok(vec![entry]),
        None => {
            let wal = wal.clone();
            let read = move || wal.entries(index..index + 1, None);
            // A blocking task is lost only when the process ends.
            let stopped = |error| wal::ReadError::Io {
                path: "wal".to_owned(),
                source: io::Error::other(error),
            };
            tokio::task::spawn_blocking(read).await.map_err(stopped).flatten()
        }
    };
    match read {
        Ok(mut entries) => entries.pop().map(|entry| entry.payload).ok_or(Error::Moved),
        Err(wal::ReadError::Moved { .. }) => Err(Error::Moved),
        Err(source) => Err(Error::Log { index, source }),
    }
}

fn batch(payload: &Bytes, place: LiveBatch) -> Result<Batch, Error> {
    let stored = stored_append(payload, place.op).map_err(|source| Error::Entry {
        index: place.index,
        offset: place.base,
        source,
    })?;
    Ok(Batch {
        base_offset: place.base,
        append_time_ms: place.time_ms,
        record_count: stored.op.record_count,
        records_crc32c: stored.op.records_crc32c,
        records: stored.records,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use pyramid_protocol::pb::v1 as pb;

    use super::*;

    fn batch_of(value_bytes: usize) -> Bytes {
        let record = pb::Record { value: vec![0; value_bytes].into(), headers: vec![] };
        let records = pyramid_protocol::Records::encode(&[record]).unwrap();
        Batch::new(Offset::START, 1, &records).encode()
    }

    /// A stream of one-record batches without end.
    fn stream_of(value_bytes: usize) -> impl Iterator<Item = LiveBatch> {
        let len_bytes = u32::try_from(batch_of(value_bytes).len() - FIXED_LEN).unwrap();
        (0..).map(move |base| LiveBatch {
            base: Offset::new(base),
            record_count: 1,
            index: 1,
            op: 0,
            time_ms: 1,
            len_bytes,
        })
    }

    #[test]
    fn an_answer_is_as_long_as_it_was_meant_to_be_however_small_its_batches_are() {
        for value_bytes in [0, 1, 100, 10_000] {
            let places = places(stream_of(value_bytes), Offset::new(u64::MAX), 1 << 20);
            let batches = vec![batch_of(value_bytes); places.len()];
            let encoded_len = pb::ReadBatches { batches }.encoded_len();
            assert!((900_000..=1 << 20).contains(&encoded_len), "{value_bytes}: {encoded_len}");
        }
    }

    #[test]
    fn one_batch_is_taken_however_large_it_is() {
        let places = places(stream_of(10_000), Offset::new(u64::MAX), 1);
        assert_eq!(places.len(), 1);
    }
}
