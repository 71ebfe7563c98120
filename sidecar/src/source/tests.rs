use std::time::Duration;

use pyramid_client::connection;
use pyramid_client::read::Origin;
use pyramid_protocol::limits::APPEND_BYTES_MAX;
use pyramid_protocol::{Records, StreamId};

use super::*;

fn at(offset: u64) -> Position {
    Position { stream_id: StreamId::new(7).unwrap(), epoch: 1, offset: Offset::new(offset) }
}

/// One batch of `count` records whose encoded form has about `bytes` bytes.
fn batch(base: u64, count: usize, bytes: usize) -> Batch {
    let value = vec![b'x'; bytes / count];
    let record = pyramid_protocol::pb::v1::Record { value: value.into(), headers: vec![] };
    let records = Records::encode(&vec![record; count]).unwrap();
    Batch::new(Offset::new(base), 1, &records)
}

/// A source at offset 10 that has read these batches, and its budget.
async fn source(batches: Vec<Batch>) -> (Source, ByteBudget) {
    let client = Client::new(connection::Options::tcp(vec!["127.0.0.1:1".to_owned()])).unwrap();
    let budget = ByteBudget::new(64 << 20);
    let reading =
        Reading { client, fetcher: None, budget: budget.clone(), metrics: Metrics::default() };
    let mut source = Source::open(&reading, &"a".parse().unwrap(), at(10));
    let held = budget.share().hold(batches.iter().map(Batch::encoded_len).sum()).await;
    source.take(Batches { batches, held, origin: Origin::Writer }).unwrap();
    (source, budget)
}

fn offsets(load: &Load) -> Vec<u64> {
    let batches = load.batches.iter().map(|bytes| Batch::decode(bytes.clone()).unwrap());
    batches.map(|batch| batch.base_offset.get()).collect()
}

#[tokio::test]
async fn a_push_holds_whole_batches_up_to_its_size_and_at_least_one() {
    let batches = [batch(10, 2, 100), batch(12, 2, 100), batch(14, 2, 100)];
    let two = batches[0].encoded_len() + batches[1].encoded_len() + 2 * FIELD_LEN_MAX;
    let (source, _budget) = source(batches.to_vec()).await;
    for (bytes_max, base_offsets, next) in [
        (0, vec![10], 12),
        (two - 1, vec![10], 12),
        (two, vec![10, 12], 14),
        (usize::MAX, vec![10, 12, 14], 16),
    ] {
        let load = source.load(bytes_max);
        assert_eq!(offsets(&load), base_offsets, "at most {bytes_max}");
        assert_eq!((load.records, load.next), (next - 10, at(next)));
    }
}

#[tokio::test]
async fn what_is_accepted_is_let_go() {
    let (mut source, budget) = source(vec![batch(10, 2, 100), batch(12, 2, 100)]).await;
    assert_eq!(source.advance(at(12)), Ok(true));
    assert_eq!(offsets(&source.load(usize::MAX)), [12]);
    assert_eq!(source.advance(at(13)), Ok(true));
    let load = source.load(usize::MAX);
    assert_eq!((offsets(&load), load.records, load.next), (vec![13], 1, at(14)));
    Batch::decode(load.batches[0].clone()).unwrap().verify().unwrap();
    assert_eq!(source.advance(at(14)), Ok(true));
    assert_eq!((source.is_empty(), source.buffered_bytes, budget.free()), (true, 0, 64 << 20));
}

#[tokio::test]
async fn another_place_or_history_is_read_anew() {
    let elsewhere = [
        at(9),
        at(15),
        Position { epoch: 2, ..at(12) },
        Position { stream_id: StreamId::new(8).unwrap(), ..at(12) },
    ];
    let (mut source, _budget) = source(vec![batch(10, 4, 100)]).await;
    for stored in elsewhere {
        assert_eq!(source.advance(stored), Ok(false), "{stored}");
    }
    assert_eq!(source.advance(at(10)), Ok(true));
    assert_eq!(source.load(usize::MAX).next, at(14));
}

fn large(base: u64) -> Batch {
    batch(base, 2, APPEND_BYTES_MAX - 100)
}

async fn more(base: u64, budget: &ByteBudget) -> Batches {
    let held = budget.share().hold(1).await;
    Batches { batches: vec![large(base)], held, origin: Origin::Writer }
}

#[tokio::test]
async fn read_ahead_is_bounded_and_short_when_memory_is() {
    let (mut source, budget) = source(vec![large(10)]).await;
    assert!(source.wants_more());
    let held = budget.share().hold(40 << 20).await;
    assert!(source.wants_more(), "one push is always read");
    source.take(more(12, &budget).await).unwrap();
    assert!(!source.wants_more());
    drop(held);
    assert!(source.wants_more());
    for base in [14, 16, 18] {
        assert!(source.wants_more(), "{base}");
        source.take(more(base, &budget).await).unwrap();
    }
    assert!(!source.wants_more());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_is_news_when_the_writer_tells_it_and_known_when_all_is_read() {
    let (mut source, _budget) = source(vec![batch(10, 2, 100)]).await;
    assert_eq!(source.end_of_stream(), None);
    let started = Instant::now();
    let news = |end, at| Some(News { end: Offset::new(end), at });
    source.heard_end(Offset::new(20));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(source.end_of_stream(), news(20, started));
    // Nothing is left to push, but the Writer has not said that this is all.
    source.advance(at(12)).unwrap();
    assert_eq!(source.end_of_stream(), news(20, started));
    source.caught_up(Offset::new(12));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(source.end_of_stream(), news(12, Instant::now()));
}
