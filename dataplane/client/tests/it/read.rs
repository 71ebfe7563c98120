//! Reads: from chunks to live records without a gap, and never silently from elsewhere.

use std::time::Duration;

use futures::StreamExt;
use pyramid_client::read::{Error, Item, Options, Start};
use pyramid_client::{ByteBudget, Reader};
use pyramid_protocol::pb::v1::{Reason, Refusal};
use pyramid_protocol::{Offset, Position, StreamId};
use pyramid_storage::Fetcher;
use pyramid_storage::object_store::{Call, Fault};
use tokio::time::timeout;

use crate::fake_writer::network::DEADLINE;
use crate::fake_writer::{FakeWriter, TIME_MS, refusal, value};
use crate::{client, stream};

/// From chunks and live, from the first record.
fn options(writer: &FakeWriter) -> Options {
    Options {
        fetcher: Some(writer.fetcher()),
        ..Options::new(stream("a"), Start::Offset(Offset::START))
    }
}

fn reader(writer: &FakeWriter, options: Options) -> Reader {
    Reader::new(client(writer), options)
}

async fn next(reader: &mut Reader) -> Option<Result<Item, Error>> {
    timeout(DEADLINE, reader.next()).await.unwrap()
}

/// Reads until `count` records are there; also tells their offsets.
async fn take(reader: &mut Reader, count: usize) -> Vec<(u64, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        if let Item::Batches(batches) = next(reader).await.unwrap().unwrap() {
            for batch in &batches.batches {
                for record in batch.iter() {
                    let (offset, record) = record.unwrap();
                    taken.push((offset.get(), value(&record)));
                }
            }
        }
    }
    taken
}

/// Reads to the end; what went wrong, if anything.
async fn to_end(reader: &mut Reader) -> Option<Error> {
    while let Some(item) = next(reader).await {
        if let Err(error) = item {
            assert!(next(reader).await.is_none(), "nothing comes after an error");
            return Some(error);
        }
    }
    None
}

fn numbered(writer: &FakeWriter, from: u64) -> Vec<(u64, String)> {
    let from = usize::try_from(from).unwrap();
    (0..).zip(writer.values("a")).skip(from).collect()
}

/// `chunks` chunks of four batches with three records, then two live batches.
async fn filled(chunks: u64) -> FakeWriter {
    let writer = FakeWriter::start().await;
    writer.create("a");
    for chunk in 0..chunks {
        for batch in 0..4 {
            let values: Vec<_> = (0..3).map(|n| format!("{chunk}.{batch}.{n}")).collect();
            writer.append("a", &values);
        }
        writer.ship("a").await;
    }
    writer.append("a", &["live 1", "live 2"]);
    writer.append("a", &["live 3"]);
    writer
}

#[tokio::test]
async fn a_read_passes_from_chunks_to_live_records() {
    // More chunks than one call tells of.
    let writer = filled(20).await;
    let mut reader = reader(&writer, Options { follow: true, ..options(&writer) });
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
    writer.append("a", &["appended meanwhile"]);
    assert_eq!(take(&mut reader, 1).await, [(243, "appended meanwhile".to_owned())]);
    assert_eq!(writer.look(|state| (state.locations, state.reads)), (20, 2));
}

#[tokio::test]
async fn a_live_read_goes_on_with_chunks_when_it_has_fallen_behind() {
    let writer = filled(1).await;
    let mut reader = reader(&writer, Options { follow: true, ..options(&writer) });
    take(&mut reader, 15).await;
    // Not polled meanwhile: what it has not read yet goes to the object store.
    for n in 0..100 {
        writer.append("a", &[n.to_string()]);
    }
    writer.ship("a").await;
    writer.append("a", &["end"]);
    assert_eq!(take(&mut reader, 101).await, numbered(&writer, 15));
}

#[tokio::test]
async fn a_read_begins_inside_a_batch() {
    let writer = filled(2).await;
    for start in [0, 1, 2, 3, 4, 11, 12, 13, 23, 24, 25, 26] {
        let mut reader = reader(
            &writer,
            Options { start: Start::Offset(Offset::new(start)), ..options(&writer) },
        );
        let rest = numbered(&writer, start);
        assert_eq!(take(&mut reader, rest.len()).await, rest, "from {start}");
        assert_eq!(to_end(&mut reader).await, None);
    }
}

#[tokio::test]
async fn the_writer_reads_chunks_for_a_reader_without_a_fetcher() {
    let writer = filled(2).await;
    let mut reader = reader(&writer, Options { fetcher: None, ..options(&writer) });
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
    assert_eq!(to_end(&mut reader).await, None);
    assert_eq!(writer.look(|state| state.locations), 0);
}

#[tokio::test]
async fn a_reader_that_falls_back_lets_the_writer_read_what_it_may_not_open() {
    let writer = filled(2).await;
    let opens_nothing = Options { fetcher: Some(Fetcher::new()), ..options(&writer) };
    let mut strict =
        reader(&writer, Options { give_up_after: Some(Duration::ZERO), ..opens_nothing.clone() });
    assert!(matches!(to_end(&mut strict).await, Some(Error::NoAnswer { .. })));
    let before = writer.look(|state| state.locations);
    let mut reader = reader(&writer, Options { falls_back: true, ..opens_nothing });
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
    assert_eq!(to_end(&mut reader).await, None);
    // It was told the places of one call, and did not want to know more.
    let told = writer.look(|state| state.locations) - before;
    assert!((1..=2).contains(&told), "{told}");
}

#[tokio::test]
async fn a_reader_that_can_open_chunks_does_not_fall_back() {
    let writer = filled(3).await;
    let mut reader = reader(&writer, Options { falls_back: true, ..options(&writer) });
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
    assert_eq!(writer.look(|state| state.locations), 3);
}

#[tokio::test]
async fn a_broken_connection_leaves_no_gap_and_repeats_nothing() {
    let writer = filled(3).await;
    let mut reader = reader(&writer, Options { follow: true, ..options(&writer) });
    let mut taken = Vec::new();
    for n in 0..30 {
        taken.extend(take(&mut reader, 1).await);
        writer.network.break_connections();
        writer.append("a", &[format!("{n}")]);
    }
    let left = writer.values("a").len() - taken.len();
    taken.extend(take(&mut reader, left).await);
    assert_eq!(taken, numbered(&writer, 0));
    assert!(writer.look(|state| state.reads) > 3, "connections did break");
}

#[tokio::test]
async fn a_read_can_begin_at_a_time_or_before_the_end() {
    let writer = filled(1).await;
    for (start, offset) in [
        (Start::LastRecords(2), 13),
        (Start::LastRecords(100), 0),
        (Start::TimeMs(TIME_MS), 0),
        (Start::TimeMs(TIME_MS + 1), 15),
    ] {
        let mut reader = reader(&writer, Options { start, ..options(&writer) });
        let Some(Ok(Item::Started { position, .. })) = next(&mut reader).await else {
            panic!("{start:?} did not begin");
        };
        assert_eq!(position.offset.get(), offset, "{start:?}");
        let rest = numbered(&writer, offset);
        assert_eq!(take(&mut reader, rest.len()).await, rest, "{start:?}");
    }
}

#[tokio::test]
async fn a_read_with_limits_ends_between_two_batches() {
    let writer = filled(2).await;
    // At least one batch, then whole batches.
    for (max_records, taken) in [(1, 3), (3, 3), (5, 3), (6, 6), (23, 21), (24, 24), (27, 27)] {
        let mut reader = reader(&writer, Options { max_records, ..options(&writer) });
        assert_eq!(take(&mut reader, taken).await, numbered(&writer, 0)[..taken]);
        assert_eq!(to_end(&mut reader).await, None, "at most {max_records}");
    }
}

#[tokio::test]
async fn a_read_that_cannot_go_on_says_why_and_ends() {
    let writer = filled(1).await;
    writer.trim("a", 5);
    let id = StreamId::new(writer.look(|state| state.streams["a"].id)).unwrap();
    let other = StreamId::new(99).unwrap();
    let at = |stream_id, epoch, offset| Options {
        fetcher: Some(writer.fetcher()),
        follow: true,
        ..Options::from_position(
            stream("a"),
            Position { stream_id, epoch, offset: Offset::new(offset) },
        )
    };
    for (options, reason) in [
        (at(id, 1, 4), Reason::Trimmed),
        (at(id, 1, 16), Reason::BeyondNext),
        (at(other, 1, 5), Reason::StreamRecreated),
        (Options::new(stream("b"), Start::Offset(Offset::START)), Reason::NotFound),
    ] {
        let error = to_end(&mut reader(&writer, options)).await;
        let Some(Error::Refused(refusal)) = error else { panic!("{reason:?}: {error:?}") };
        assert_eq!(refusal.reason(), reason);
    }
    let mut inside = reader(&writer, at(id, 1, 5));
    assert_eq!(take(&mut inside, 10).await, numbered(&writer, 5));
}

#[tokio::test]
async fn a_reader_above_the_safe_offset_of_its_epoch_stops() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    for n in 0..4 {
        writer.append("a", &[n.to_string()]);
    }
    let mut reader = reader(&writer, Options { follow: true, ..options(&writer) });
    take(&mut reader, 4).await;
    writer.lose("a", 2);
    writer.append("a", &["another 2"]);
    writer.append("a", &["another 3"]);
    let Some(Error::Refused(refusal)) = to_end(&mut reader).await else {
        panic!("a reader went on in another history");
    };
    assert_eq!(refusal.reason(), Reason::EpochChanged);
}

#[tokio::test]
async fn a_reader_below_the_safe_offset_goes_on_in_the_new_epoch() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    for n in 0..4 {
        writer.append("a", &[n.to_string()]);
    }
    let mut reader = reader(
        &writer,
        Options { epoch: Some(1), start: Start::Offset(Offset::new(2)), ..options(&writer) },
    );
    writer.lose("a", 2);
    writer.append("a", &["another 2"]);
    let Some(Ok(Item::Started { position, .. })) = next(&mut reader).await else {
        panic!("the read did not begin");
    };
    assert_eq!((position.epoch, position.offset.get()), (2, 2));
    assert_eq!(take(&mut reader, 1).await, [(2, "another 2".to_owned())]);
}

#[tokio::test]
async fn a_damaged_chunk_is_noticed_and_nothing_of_it_is_returned() {
    let writer = filled(1).await;
    let (key, good) = writer.store.objects().into_iter().next().unwrap();
    let mut bad = good.to_vec();
    *bad.last_mut().unwrap() ^= 1;
    writer.store.tamper(&key, bad.into());
    let mut reader = reader(&writer, options(&writer));
    assert!(matches!(next(&mut reader).await, Some(Ok(Item::Started { .. }))));
    let Some(Ok(Item::Interrupted(message))) = next(&mut reader).await else {
        panic!("the damage was not noticed");
    };
    assert!(message.contains("damage") || message.contains("chunk"), "{message}");
    // Mended, the read goes on.
    writer.store.tamper(&key, good);
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
}

#[tokio::test]
async fn an_expired_location_is_asked_for_again() {
    let writer = filled(3).await;
    let all = numbered(&writer, 0);
    // In front of the second chunk: what was told at the start of the read is too old by then.
    let mut reader = reader(&writer, options(&writer));
    let mut taken = take(&mut reader, 1).await;
    writer.store.fail_next(Call::Get, Fault::Expire);
    while taken.len() < all.len() {
        match next(&mut reader).await.unwrap().unwrap() {
            Item::Batches(batches) => {
                for record in batches.batches.iter().flat_map(|batch| batch.iter()) {
                    let (offset, record) = record.unwrap();
                    taken.push((offset.get(), value(&record)));
                }
            }
            Item::Started { .. } | Item::CaughtUp(_) => {}
            Item::Interrupted(message) => panic!("a new location was not asked for: {message}"),
        }
    }
    assert_eq!(taken, all);
    assert_eq!(writer.look(|state| state.reads), 2, "asked again once, at once");
}

#[tokio::test]
async fn a_location_that_is_refused_at_once_is_asked_for_slowly_and_the_read_goes_on() {
    let writer = filled(1).await;
    for _ in 0..2 {
        writer.store.fail_next(Call::Get, Fault::Expire);
    }
    let mut reader = reader(&writer, options(&writer));
    let mut told = Vec::new();
    loop {
        match next(&mut reader).await.unwrap().unwrap() {
            Item::Batches(_) => break,
            Item::Interrupted(message) => told.push(message),
            Item::Started { .. } | Item::CaughtUp(_) => {}
        }
    }
    let expected = "a location was refused as soon as it was told: expired by a fault; look at the \
                    Writer's right s3:GetObject, at keys that were replaced, and at the clocks of \
                    Writer and object store";
    assert_eq!(told, [expected]);
}

#[tokio::test]
async fn passing_refusals_are_waited_out() {
    let writer = filled(1).await;
    writer.change(|state| {
        state.refuse_reads.push_back(refusal(Reason::Unavailable));
        state.refuse_reads.push_back(Refusal::new(Reason::ResourceExhausted, "made up"));
    });
    let mut reader = reader(&writer, options(&writer));
    let all = numbered(&writer, 0);
    assert_eq!(take(&mut reader, all.len()).await, all);
}

#[tokio::test]
async fn readers_hold_no_more_than_their_budget() {
    let writer = filled(4).await;
    let budget = ByteBudget::new(4_000);
    let mut reader = reader(&writer, Options { budget: budget.clone(), ..options(&writer) });
    let mut held = Vec::new();
    let all = budget.free();
    while budget.free() > 0 {
        match timeout(Duration::from_millis(200), reader.next()).await {
            Ok(Some(Ok(Item::Batches(batches)))) => held.push(batches),
            Ok(Some(item)) => drop(item.unwrap()),
            Ok(None) | Err(_) => break,
        }
    }
    assert!(!held.is_empty());
    drop((held, reader));
    assert_eq!(budget.free(), all);
}
