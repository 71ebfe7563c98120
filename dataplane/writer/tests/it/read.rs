//! Reads: live, from chunks, across both, and as they move from the one to the other.

use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Batch, Offset};
use pyramid_storage::Fetcher;
use pyramid_storage::chunk::{ChunkReader, Start as ChunkStart};
use tokio::time::timeout;
use tonic::Streaming;

use crate::writer::{DEADLINE, Folder, Writer, append, offsets, read, values};

/// Nine records in four batches.
const APPENDS: [&[&str]; 4] = [&["0", "1"], &["2"], &["3", "4", "5", "6"], &["7", "8"]];

async fn filled(writer: &mut Writer) -> Vec<pb::Appended> {
    writer.put_stream("a").await;
    let mut appended = Vec::new();
    for values in APPENDS {
        appended.push(writer.append("a", values).await);
    }
    appended
}

fn all_from(from: u64) -> Vec<(u64, String)> {
    (from..9).map(|offset| (offset, offset.to_string())).collect()
}

fn batches(items: &[Item]) -> Vec<Batch> {
    let mut found = Vec::new();
    for item in items {
        if let Item::Batches(batches) = item {
            found.extend(batches.batches.iter().map(|bytes| Batch::decode(bytes.clone()).unwrap()));
        }
    }
    found
}

fn refused(items: &[Item]) -> &Refusal {
    match items {
        [Item::Refused(refusal)] => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn begin(items: &[Item]) -> u64 {
    match items.first() {
        Some(Item::Start(start)) => start.position.unwrap().offset,
        other => panic!("no start: {other:?}"),
    }
}

/// Reads from every offset, and compares.
async fn check_reads(writer: &mut Writer) {
    for from in 0..=9 {
        let items = writer.read(read("a", from)).await;
        assert_eq!(begin(&items), from);
        assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), all_from(from));
        let caught_up = Item::CaughtUp(pb::CaughtUp { next_offset: 9 });
        assert_eq!(items.iter().filter(|item| **item == caught_up).count(), 1);
        assert_eq!(items.last(), Some(&caught_up));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_offset_reads_the_same_live_mixed_and_from_chunks() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let appended = filled(&mut writer).await;
    check_reads(&mut writer).await;
    let live = batches(&writer.read(read("a", 0)).await);
    let lens: Vec<_> =
        live.iter().map(|batch| (batch.base_offset.get(), batch.record_count)).collect();
    assert_eq!(lens, [(0, 2), (2, 1), (3, 4), (7, 2)]);
    let times: Vec<_> = live.iter().map(|batch| batch.append_time_ms).collect();
    assert_eq!(times, appended.iter().map(|answer| answer.append_time_ms).collect::<Vec<_>>());

    writer.seal("a").await;
    check_reads(&mut writer).await;
    assert_eq!(batches(&writer.read(read("a", 0)).await), live);

    // From inside a batch: only the first one is shortened.
    let inside = batches(&writer.read(read("a", 4)).await);
    let skipped = live[2].clone().skip_to(Offset::new(4)).unwrap();
    assert_eq!(inside, [skipped, live[3].clone()]);

    writer.append("a", &["9"]).await;
    let items = writer.read(read("a", 5)).await;
    let expected: Vec<_> = (5..10).map(|offset| (offset, offset.to_string())).collect();
    assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), expected);
    writer.stop().await;
}

async fn check_limits(writer: &mut Writer) {
    let read_with =
        |max_records, max_bytes| pb::ReadRequest { max_records, max_bytes, ..read("a", 0) };
    let sizes: Vec<u64> =
        batches(&writer.read(read("a", 0)).await).iter().map(|b| b.encoded_len() as u64).collect();
    let two = sizes[0] + sizes[1];
    for (records, bytes, expected) in [
        (1, 0, 1),
        (2, 0, 1),
        (3, 0, 2),
        (6, 0, 2),
        (7, 0, 3),
        (9, 0, 4),
        (0, 1, 1),
        (0, two - 1, 1),
        (0, two, 2),
        (2, two, 1),
    ] {
        let items = writer.read(read_with(records, bytes)).await;
        assert_eq!(batches(&items).len(), expected, "{records} records, {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_give_at_least_one_batch_and_then_whole_ones() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    filled(&mut writer).await;
    check_limits(&mut writer).await;
    writer.seal("a").await;
    check_limits(&mut writer).await;
    writer.stop().await;
}

async fn check_starts(writer: &mut Writer, appended: &[pb::Appended]) {
    for answer in appended {
        for time_ms in answer.append_time_ms.saturating_sub(1)..=answer.append_time_ms + 1 {
            let since = appended.iter().find(|answer| answer.append_time_ms >= time_ms);
            let expected = since.map_or(9, |answer| answer.first_offset.unwrap());
            let start = Some(Start::TimeMs(time_ms));
            let items = writer.read(pb::ReadRequest { start, ..read("a", 0) }).await;
            assert_eq!(begin(&items), expected, "since {time_ms} of {appended:?}");
            assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), all_from(expected));
        }
    }
    for (count, expected) in [(0, 9), (1, 8), (5, 4), (9, 0), (100, 0)] {
        let start = Some(Start::LastRecords(count));
        let items = writer.read(pb::ReadRequest { start, ..read("a", 0) }).await;
        assert_eq!(begin(&items), expected);
        assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), all_from(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_begins_at_a_time_or_so_many_records_before_the_end() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let appended = filled(&mut writer).await;
    check_starts(&mut writer, &appended).await;
    writer.seal("a").await;
    check_starts(&mut writer, &appended).await;
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    filled(&mut writer).await;
    let id = writer.info("a").await.stream_id;
    let items = writer.read(read("a", 10)).await;
    let refusal = refused(&items);
    assert_eq!(
        (refusal.reason(), refusal.detail.clone()),
        (Reason::BeyondNext, Some(Detail::NextOffset(9)))
    );
    assert_eq!(writer.trim("a", 4).await, Ok(4));
    assert_eq!(writer.trim("a", 2).await, Ok(4), "never back");
    assert_eq!(writer.trim("a", 10).await.unwrap_err().reason(), Reason::BeyondNext);
    let items = writer.read(read("a", 3)).await;
    let refusal = refused(&items);
    assert_eq!(
        (refusal.reason(), refusal.detail.clone()),
        (Reason::Trimmed, Some(Detail::FirstOffset(4)))
    );
    let whole = pb::ReadRequest { start: None, ..read("a", 0) };
    let items = writer.read(whole.clone()).await;
    assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), all_from(4));
    writer.seal("a").await;
    let items = writer.read(whole).await;
    assert_eq!(items.iter().flat_map(values).collect::<Vec<_>>(), all_from(4));
    assert_eq!(refused(&writer.read(read("a", 3)).await).reason(), Reason::Trimmed);

    let of_later_epoch = pb::ReadRequest { epoch: Some(1), ..read("a", 4) };
    let items = writer.read(of_later_epoch).await;
    assert_eq!((refused(&items).reason(), refused(&items).retry), (Reason::Unavailable, true));
    assert_eq!(refused(&writer.read(read("missing", 0)).await).reason(), Reason::NotFound);
    assert_eq!(refused(&writer.read(read("", 0)).await).reason(), Reason::Invalid);
    writer.delete_stream("a").await;
    assert_eq!(refused(&writer.read(read("a", 4)).await).reason(), Reason::NotFound);
    let new_id = writer.put_stream("a").await.stream_id;
    assert_ne!(new_id, id);
    let items = writer.read(pb::ReadRequest { stream_id: Some(id), ..read("a", 0) }).await;
    let refusal = refused(&items);
    assert_eq!(
        (refusal.reason(), refusal.detail.clone()),
        (Reason::StreamRecreated, Some(Detail::NewStreamId(new_id)))
    );
    writer.stop().await;
}

async fn next(items: &mut Streaming<pb::ReadResponse>) -> Option<Item> {
    let item = timeout(DEADLINE, items.message()).await.expect("an item comes");
    item.unwrap().map(|response| response.item.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_what_is_appended_until_the_stream_is_deleted() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    filled(&mut writer).await;
    let request = pb::ReadRequest { follow: true, ..read("a", 9) };
    let mut items = writer.calls.read(request).await.unwrap().into_inner();
    assert!(matches!(next(&mut items).await, Some(Item::Start(_))));
    let caught_up = Item::CaughtUp(pb::CaughtUp { next_offset: 9 });
    assert_eq!(next(&mut items).await, Some(caught_up));
    for offset in 9..12 {
        writer.append("a", &["x"]).await;
        let item = next(&mut items).await.unwrap();
        assert_eq!(values(&item), [(offset, "x".to_owned())], "CaughtUp comes once");
        writer.seal("a").await;
    }
    writer.delete_stream("a").await;
    match next(&mut items).await {
        Some(Item::Refused(refusal)) => assert_eq!(refusal.reason(), Reason::NotFound),
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&mut items).await, None);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_that_the_writer_stops() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    filled(&mut writer).await;
    let request = pb::ReadRequest { follow: true, ..read("a", 9) };
    let mut items = writer.calls.read(request).await.unwrap().into_inner();
    assert!(matches!(next(&mut items).await, Some(Item::Start(_))));
    assert!(matches!(next(&mut items).await, Some(Item::CaughtUp(_))));
    let stopped = writer.stop();
    let last = async {
        let last = next(&mut items).await;
        assert_eq!(next(&mut items).await, None);
        last
    };
    match tokio::join!(stopped, last).1 {
        Some(Item::Refused(refusal)) => {
            assert_eq!((refusal.reason(), refusal.retry), (Reason::Unavailable, true));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_until_the_stream_has_reached_what_the_caller_saw() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    filled(&mut writer).await;
    let request = pb::ReadRequest { min_next_offset: Some(10), ..read("a", 9) };
    let mut reader = writer.calls.clone();
    let begun = async { reader.read(request).await.unwrap().into_inner() };
    let append = writer.append("a", &["x"]);
    let (mut items, _) = tokio::join!(begun, append);
    match next(&mut items).await {
        Some(Item::Start(start)) => assert_eq!(start.next_offset, 10),
        other => panic!("{other:?}"),
    }
    assert_eq!(values(&next(&mut items).await.unwrap()), [(9, "x".to_owned())]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_locations_then_moved_and_each_opens_without_the_writer() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    for offset in 0..18 {
        writer.append("a", &[&offset.to_string()]).await;
        writer.seal("a").await;
    }
    writer.append("a", &["18"]).await;
    let located = |from| pb::ReadRequest { want_locations: true, ..read("a", from) };
    let items = writer.read(located(0)).await;
    assert_eq!(items.len(), 18);
    assert_eq!(items.last(), Some(&Item::Moved(pb::Moved { offset: 16 })));
    let fetcher = Fetcher::new().with_directory(folder.path().join("objects"));
    for (offset, item) in (0..16).zip(&items[1..17]) {
        let Item::Chunk(location) = item else { panic!("{item:?}") };
        assert_eq!((location.base_offset, location.next_offset), (offset, offset + 1));
        let start = ChunkStart::Offset(Offset::new(offset));
        let mut reader = ChunkReader::located(&fetcher, location.clone(), start);
        let batches = reader.next().await.unwrap().unwrap();
        let batches = pb::ReadBatches { batches: batches.iter().map(Batch::encode).collect() };
        assert_eq!(values(&Item::Batches(batches)), [(offset, offset.to_string())]);
        assert_eq!(reader.next().await.unwrap(), None);
    }
    let items = writer.read(located(16)).await;
    assert!(matches!(items[1..3], [Item::Chunk(_), Item::Chunk(_)]), "{items:?}");
    assert_eq!(values(&items[3]), [(18, "18".to_owned())]);
    assert_eq!(items[4], Item::CaughtUp(pb::CaughtUp { next_offset: 19 }));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_contiguous_while_records_move_into_chunks() {
    const COUNT: u64 = 600;
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let settings = pb::StreamSettings { chunk_bytes: 300, chunk_age_ms: 1 };
    writer.put_stream_with("a", settings).await;
    let mut session = writer.session().await;
    let appends = async {
        for number in 0..COUNT {
            let answer = session.append(append("a", &[&number.to_string()])).await;
            assert_eq!(offsets(answer), (number, number + 1));
        }
    };
    let request = pb::ReadRequest { follow: true, ..read("a", 0) };
    let mut items = writer.calls.read(request).await.unwrap().into_inner();
    let follow = async {
        let mut seen = Vec::new();
        while (seen.len() as u64) < COUNT {
            seen.extend(values(&next(&mut items).await.unwrap()));
        }
        seen
    };
    let expected = |from, to| (from..to).map(|n: u64| (n, n.to_string())).collect::<Vec<_>>();
    let reads = async {
        let (mut from, mut reads) = (0, 0_u32);
        while from < COUNT {
            let seen = writer.values("a", from / 2).await;
            let next = seen.last().map_or(from, |last| last.0 + 1);
            assert_eq!(seen, expected(from / 2, next));
            from = from.max(next);
            reads += 1;
        }
        reads
    };
    let ((), seen, reads) = tokio::join!(appends, follow, reads);
    assert_eq!(seen, expected(0, COUNT));
    let info = writer.shipped("a").await;
    assert!(info.chunk_count > 2 && reads > 2, "too quiet: {reads} reads, {info:?}");
    assert_eq!(writer.values("a", 0).await, expected(0, COUNT));
    writer.stop().await;
}
