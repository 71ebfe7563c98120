//! Reading chunks through URLs and from the store.

use std::{sync::Arc, time::Duration};

use pyramid_protocol::{Batch, Offset, pb::v1 as pb};

use crate::{
    chunk::{
        ChunkReader, Damaged, ReadError, SealedChunk, Start,
        fixture::{Stream, run},
        location,
    },
    fetcher::Fetcher,
    object_store::{
        Call, Condition, DirectoryStore, Error, Fault, FaultRates, MemoryStore, ObjectStore,
    },
};

const LIFE: Duration = Duration::from_secs(60);

/// A chunk of about 3 MiB in a store.
struct Stored<S> {
    stream: Stream,
    store: Arc<S>,
    sealed: SealedChunk,
    batches: Vec<Batch>,
    location: pb::ChunkLocation,
}

impl<S: ObjectStore> Stored<S> {
    async fn new(store: S) -> Self {
        let stream = Stream::new(1);
        let batches = run(100, 80, 30_000);
        let sealed = stream.seal(&batches);
        store.put(sealed.key(), sealed.bytes().clone(), Condition::Absent).await.unwrap();
        let stream_id = stream.identity().stream_id;
        let (names, chunk_ref) = (&stream.names, sealed.chunk_ref());
        let location = location(&store, names, stream_id, chunk_ref, &stream.key, LIFE).await;
        let location = location.unwrap();
        Self { store: Arc::new(store), sealed, batches, location, stream }
    }

    fn stored(&self, start: Start) -> ChunkReader {
        let (store, names) = (Arc::clone(&self.store), &self.stream.names);
        let (stream_id, chunk) = (self.stream.identity().stream_id, self.sealed.chunk_ref());
        ChunkReader::stored(store, names, stream_id, chunk.clone(), &self.stream.key, start)
    }
}

impl Stored<MemoryStore> {
    fn located(&self, start: Start) -> ChunkReader {
        let fetcher = Fetcher::new().with_memory(Arc::clone(&self.store) as Arc<dyn ObjectStore>);
        ChunkReader::located(&fetcher, self.location.clone(), start)
    }
}

const FRONT: Start = Start::Offset(Offset::START);

async fn all(mut reader: ChunkReader) -> Result<Vec<Batch>, ReadError> {
    let mut batches = Vec::new();
    while let Some(frame) = reader.next().await? {
        assert!(!frame.is_empty());
        batches.extend(frame);
    }
    assert_eq!(reader.next().await, Ok(None), "the end stays the end");
    Ok(batches)
}

#[tokio::test]
async fn a_chunk_is_read_from_memory_from_a_directory_and_by_the_writer() {
    let memory = Stored::new(MemoryStore::new()).await;
    assert_eq!(all(memory.located(FRONT)).await.as_ref(), Ok(&memory.batches));
    assert_eq!(all(memory.stored(FRONT)).await.as_ref(), Ok(&memory.batches));

    let root = tempfile::tempdir().unwrap();
    let directory = Stored::new(DirectoryStore::open(root.path()).await.unwrap()).await;
    let fetcher = Fetcher::new().with_directory(root.path());
    let reader = ChunkReader::located(&fetcher, directory.location.clone(), FRONT);
    assert_eq!(all(reader).await.as_ref(), Ok(&directory.batches));
    assert_eq!(all(directory.stored(FRONT)).await.as_ref(), Ok(&directory.batches));
}

#[tokio::test]
async fn reading_begins_with_the_batch_that_holds_the_offset() {
    let stored = Stored::new(MemoryStore::new()).await;
    for offset in [0, 99, 100, 101, 102, 131, 180, 258, 259, 260, 1000] {
        let expected: Vec<_> = stored
            .batches
            .iter()
            .filter(|batch| batch.next_offset().get() > offset)
            .cloned()
            .collect();
        let start = Start::Offset(Offset::new(offset));
        assert_eq!(all(stored.located(start)).await, Ok(expected), "offset {offset}");
    }
}

#[tokio::test]
async fn reading_begins_with_the_first_batch_of_the_time() {
    let stored = Stored::new(MemoryStore::new()).await;
    for time_ms in [0, 1_000, 1_001, 1_010, 1_395, 1_400, 1_790, 1_791] {
        let expected: Vec<_> = stored
            .batches
            .iter()
            .filter(|batch| batch.append_time_ms >= time_ms)
            .cloned()
            .collect();
        assert_eq!(all(stored.located(Start::Time(time_ms))).await, Ok(expected), "{time_ms}");
    }
}

#[tokio::test]
async fn next_may_be_dropped_without_loss() {
    let stored = Stored::new(MemoryStore::new()).await;
    let mut reader = stored.located(FRONT);
    let mut batches = Vec::new();
    loop {
        // Polled once and dropped, again and again.
        let polled = tokio::select! {
            biased;
            frame = reader.next() => Some(frame),
            () = tokio::task::yield_now() => None,
        };
        match polled {
            Some(Ok(Some(frame))) => batches.extend(frame),
            Some(end) => break assert_eq!(end, Ok(None)),
            None => {}
        }
    }
    assert_eq!(batches, stored.batches);
}

#[tokio::test]
async fn a_wrong_bit_anywhere_stops_the_reader_and_names_the_object() {
    let stored = Stored::new(MemoryStore::new()).await;
    let len = stored.sealed.bytes().len();
    for at in (0..len).step_by(len / 50) {
        let mut changed = stored.sealed.bytes().to_vec();
        changed[at] ^= 0x10;
        stored.store.tamper(stored.sealed.key(), changed.into());
        let mut reader = stored.located(FRONT);
        let mut good = Vec::new();
        let error = loop {
            match reader.next().await {
                Ok(Some(frame)) => good.extend(frame),
                Ok(None) => panic!("byte {at}: the end without an error"),
                Err(error) => break error,
            }
        };
        let object = format!("mem:{}", stored.sealed.key());
        assert_eq!(error, ReadError::Damaged(Damaged { object }), "byte {at}");
        assert_eq!(reader.next().await, Ok(None), "nothing behind the damage is returned");
        assert_eq!(good, stored.batches[..good.len()], "what came before is right");
    }
}

/// I2, as a reader meets it.
#[tokio::test]
async fn a_chunk_that_is_cut_in_the_store_is_damaged() {
    let stored = Stored::new(MemoryStore::new()).await;
    let bytes = stored.sealed.bytes();
    let head_len = usize::try_from(stored.sealed.head_len()).unwrap();
    for len in [0, 1, head_len - 1, head_len, head_len + 1, bytes.len() - 1] {
        stored.store.tamper(stored.sealed.key(), bytes.slice(..len));
        for reader in [stored.located(FRONT), stored.stored(FRONT)] {
            assert!(matches!(all(reader).await, Err(ReadError::Damaged(_))), "cut to {len}");
        }
    }
}

/// I2: an object that is not there is no damage; the reader is told.
#[tokio::test]
async fn what_the_store_says_reaches_the_reader() {
    let stored = Stored::new(MemoryStore::new()).await;
    stored.store.fail_next(Call::Get, Fault::NotFound);
    let key = stored.sealed.key().to_string();
    assert_eq!(all(stored.located(FRONT)).await, Err(ReadError::Store(Error::NotFound { key })));
    stored.store.fail_next(Call::Get, Fault::FailBefore);
    let unavailable = all(stored.located(FRONT)).await;
    assert!(matches!(unavailable, Err(ReadError::Store(Error::Unavailable { .. }))));
    let refusing = ChunkReader::located(&Fetcher::new(), stored.location.clone(), FRONT);
    assert!(matches!(all(refusing).await, Err(ReadError::Store(Error::Refused { .. }))));
    assert_eq!(stored.store.faults_met(), 2);
}

/// I8.
#[tokio::test]
async fn a_location_that_claims_a_huge_head_is_refused_before_anything_is_read() {
    let stored = Stored::new(MemoryStore::new()).await;
    stored.store.fail_next(Call::Get, Fault::Hang);
    let location = pb::ChunkLocation { head_len: u32::MAX, ..stored.location.clone() };
    let fetcher = Fetcher::new().with_memory(stored.store.clone());
    let reader = ChunkReader::located(&fetcher, location, FRONT);
    assert!(matches!(all(reader).await, Err(ReadError::Damaged(_))));
    assert_eq!(stored.store.faults_met(), 0);
}

#[tokio::test(start_paused = true)]
async fn under_random_faults_a_reader_returns_what_was_stored_or_an_error() {
    let stored = Stored::new(MemoryStore::new()).await;
    let rates = FaultRates {
        fail_before: 5,
        timeout_after: 5,
        not_found: 5,
        cut_body: 20,
        wrong_bit: 20,
        delay: 50,
    };
    let (mut whole, mut failed) = (0, 0);
    for seed in 0..60 {
        stored.store.fail_at_random(rates, seed);
        match all(stored.located(FRONT)).await {
            Ok(batches) => {
                assert_eq!(batches, stored.batches, "seed {seed}");
                whole += 1;
            }
            Err(_) => failed += 1,
        }
    }
    assert!(whole > 0 && failed > 0, "{whole} whole, {failed} failed: too quiet");
    let met = stored.store.faults_met();
    assert!(met > failed, "{met} faults for {failed} failures: delays were met too");
}
