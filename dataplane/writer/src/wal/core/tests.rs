use bytes::Bytes;

use super::*;
use crate::wal::{LogEntry, block::Header};

const IDENTITY: Identity =
    Identity { cluster_id: [1; 16], node_id: 5, disk_id: [2; 16], wal_id: [3; 16] };

const MS: Duration = Duration::from_millis(1);

fn config() -> Config {
    Config {
        segment_bytes: 64 << 10,
        block_bytes_max: 8 << 10,
        entry_bytes_max: 30 << 10,
        ..Config::new(1 << 20, 1 << 20)
    }
}

/// A core behind an idle block at 4096, with one spare.
fn core_at(position: u64) -> Core {
    let header = Header {
        lsn: position - 4096,
        durable_lsn: position - 4096,
        body_len: 32,
        frame_count: 1,
        prev_header_crc: 0,
        open_count: 1,
        first_index: None,
        term: 0,
        flags: block::FLAG_IDLE,
        frames_crc: 0,
    };
    let start = Start {
        position,
        end: position.next_multiple_of(64 << 10),
        last_block: Checked { header, header_crc: 99 },
        open_count: 2,
        vote: None,
        committed: None,
        purged: None,
        last: None,
        opened_at: None,
    };
    Core::new(config(), IDENTITY, start, &[4, 5])
}

fn entry(index: u64, len: usize) -> Frame {
    let id = LogId { term: 1, index };
    Frame::Entry(LogEntry { id, payload: Bytes::from(vec![1; len]) })
}

fn committed(index: u64) -> Item {
    Item { frame: Some(Frame::Committed(LogId { term: 1, index })), completes: None }
}

/// A request of one frame.
fn item(frame: Frame, sequence: u64) -> Item {
    Item { frame: Some(frame), completes: Some(sequence) }
}

fn frames(write: &Write) -> Vec<Frame> {
    let seed = block::seed(&IDENTITY.wal_id);
    let lsn = write.start_lsn + write.at;
    let header = Header::decode(&write.block, seed, lsn).expect("a valid header").header;
    let end = block::HEADER_LEN + usize::try_from(header.body_len).unwrap();
    let body = Bytes::copy_from_slice(&write.block[block::HEADER_LEN..end]);
    block::decode_body(&header, body).unwrap()
}

/// The frames of the block that is to be written, without a head.
fn data(output: &Output) -> Vec<Frame> {
    let mut frames = frames(output.write.as_ref().expect("a write"));
    frames.retain(|frame| !matches!(frame, Frame::SegmentHead(_)));
    frames
}

fn written() -> Input {
    Input::Written { result: Ok(()), buffer: Vec::new() }
}

#[test]
fn what_queues_during_a_flush_is_the_next_block() {
    let mut core = core_at(8192);
    let first = core.step(Input::Queue(vec![item(entry(1, 10), 1)]), MS);
    assert_eq!(data(&first), [entry(1, 10)]);
    for sequence in 2..=4 {
        let output = core.step(Input::Queue(vec![item(entry(sequence, 10), sequence)]), MS);
        assert!(output.write.is_none() && output.flushed.is_none(), "one block in flight");
    }
    let second = core.step(written(), MS);
    let flushed = Flushed {
        sequence: Some(1),
        last: Some(LogId { term: 1, index: 1 }),
        first_entry: Some((1, 8192)),
    };
    assert_eq!(second.flushed, Some(flushed));
    assert_eq!(data(&second), [entry(2, 10), entry(3, 10), entry(4, 10)]);
    let after = core.step(written(), MS);
    assert_eq!(after.flushed.and_then(|flushed| flushed.sequence), Some(4));
}

#[test]
fn the_first_block_after_an_open_repeats_the_head() {
    let mut core = core_at(8192);
    let first = core.step(Input::Queue(vec![item(entry(1, 10), 1)]), MS);
    assert!(matches!(frames(&first.write.unwrap())[0], Frame::SegmentHead(head)
        if head.open_count == 2 && head.identity == IDENTITY));
    core.step(written(), MS);
    let second = core.step(Input::Queue(vec![item(entry(2, 10), 2)]), MS);
    assert_eq!(frames(&second.write.unwrap()), [entry(2, 10)]);
}

#[test]
fn a_block_is_full_at_its_limit_and_a_larger_frame_goes_alone() {
    let mut core = core_at(8192);
    // Each takes 4,096 bytes: two fill a block exactly.
    let full = [entry(1, 4064), entry(2, 4064)];
    let larger = entry(4, 20_000);
    let queue = [full[0].clone(), full[1].clone(), entry(3, 1), larger.clone(), entry(5, 1)];
    let queue = queue.into_iter().zip(1..).map(|(frame, sequence)| item(frame, sequence));
    let output = core.step(Input::Queue(queue.collect()), MS);
    assert_eq!(data(&output), full);
    for expected in [entry(3, 1), larger, entry(5, 1)] {
        assert_eq!(data(&core.step(written(), MS)), [expected]);
    }
}

#[test]
fn a_request_is_durable_with_its_last_frame() {
    let mut core = core_at(8192);
    let request =
        vec![Item { frame: Some(entry(1, 7000)), completes: None }, item(entry(2, 7000), 1)];
    core.step(Input::Queue(request), MS);
    let half = core.step(written(), MS);
    assert_eq!(half.flushed.unwrap().sequence, None);
    assert_eq!(half.flushed.unwrap().last, Some(LogId { term: 1, index: 1 }));
    assert_eq!(core.step(written(), MS).flushed.unwrap().sequence, Some(1));
}

#[test]
fn a_commit_mark_rides_in_its_order_and_makes_no_block() {
    let mut core = core_at(8192);
    let output = core.step(Input::Queue(vec![committed(1), committed(2)]), 100 * MS);
    assert!(output.write.is_none() && output.wake_at.is_none());
    let queue = vec![item(entry(3, 1), 1), committed(3), item(entry(4, 1), 2), committed(4)];
    let output = core.step(Input::Queue(queue), 100 * MS);
    let mark = |index| Frame::Committed(LogId { term: 1, index });
    assert_eq!(data(&output), [mark(2), entry(3, 1), mark(3), entry(4, 1), mark(4)]);
}

#[test]
fn a_frame_above_the_limit_takes_the_mark_before_it_along() {
    let mut core = core_at(8192);
    let larger = entry(1, 20_000);
    let queue = vec![committed(0), item(larger.clone(), 1), committed(1), item(entry(2, 1), 2)];
    let output = core.step(Input::Queue(queue), MS);
    let mark = |index| Frame::Committed(LogId { term: 1, index });
    assert_eq!(data(&output), [mark(0), larger]);
    assert_eq!(data(&core.step(written(), MS)), [mark(1), entry(2, 1)]);
}

#[test]
fn one_idle_block_follows_the_last_data_block_and_takes_the_mark_along() {
    let mut core = core_at(8192);
    core.step(Input::Queue(vec![item(entry(1, 1), 1)]), 10 * MS);
    assert_eq!(core.step(written(), 11 * MS).wake_at, Some(13 * MS));
    let output = core.step(Input::Queue(vec![committed(1)]), 12 * MS);
    assert!(output.write.is_none());
    let output = core.step(Input::Queue(Vec::new()), 13 * MS);
    assert_eq!(data(&output), [Frame::Idle, Frame::Committed(LogId { term: 1, index: 1 })]);
    assert_eq!(core.step(written(), 14 * MS).wake_at, None);
    assert!(core.step(Input::Queue(Vec::new()), 100 * MS).write.is_none());
}

#[test]
fn an_empty_request_waits_for_those_before_it_and_writes_nothing() {
    let mut core = core_at(8192);
    let empty = |sequence| Item { frame: None, completes: Some(sequence) };
    let output = core.step(Input::Queue(vec![empty(1)]), MS);
    assert!(output.write.is_none());
    assert_eq!(output.flushed.unwrap().sequence, Some(1));
    core.step(Input::Queue(vec![item(entry(1, 1), 2)]), MS);
    assert!(core.step(Input::Queue(vec![empty(3)]), MS).flushed.is_none());
    let output = core.step(written(), MS);
    assert!(output.write.is_none());
    assert_eq!(output.flushed.unwrap().sequence, Some(3));
    assert_eq!(output.flushed.unwrap().first_entry, Some((1, 8192)), "both are told");
}

#[test]
fn a_block_that_does_not_fit_begins_the_next_segment() {
    // 8 KiB are left: with head and headers the first fits exactly.
    for (len, spare, lsn) in [(7928, None, 57344), (7929, Some(4), 65536)] {
        let mut core = core_at(57344);
        let output = core.step(Input::Queue(vec![item(entry(1, len), 1)]), MS);
        let write = output.write.unwrap();
        assert_eq!((write.spare, write.start_lsn + write.at), (spare, lsn), "{len} bytes");
        assert!(matches!(frames(&write)[0], Frame::SegmentHead(_)));
    }
}

#[test]
fn without_a_spare_the_queue_waits() {
    let mut core = core_at(65536);
    core.step(Input::Queue(vec![item(entry(1, 30_000), 1)]), MS);
    core.step(written(), MS);
    core.step(Input::Queue(vec![item(entry(2, 30_000), 2)]), MS);
    core.step(written(), MS);
    let output = core.step(Input::Queue(vec![item(entry(3, 30_000), 3)]), MS);
    assert_eq!(output.write.unwrap().spare, Some(5));
    core.step(written(), MS);
    core.step(Input::Queue(vec![item(entry(4, 30_000), 4)]), MS);
    core.step(written(), MS);
    let output = core.step(Input::Queue(vec![item(entry(5, 30_000), 5)]), MS);
    assert!(output.write.is_none() && output.fatal.is_none());
    let output = core.step(Input::Spare { number: 6, result: SpareResult::Ready }, MS);
    assert_eq!(output.write.unwrap().spare, Some(6));
}

#[test]
fn nothing_is_done_after_an_error() {
    let mut core = core_at(8192);
    core.step(Input::Queue(vec![item(entry(1, 1), 1), item(entry(2, 9000), 2)]), MS);
    let fatal = Fatal::BudgetUsedUp { wal_bytes_max: 1 };
    let result = Err(fatal);
    let output = core.step(Input::Written { result, buffer: Vec::new() }, MS);
    assert!(output.fatal.is_some() && output.flushed.is_none() && output.write.is_none());
    for input in [Input::Queue(vec![item(entry(3, 1), 3)]), written(), Input::Stop] {
        let output = core.step(input, 100 * MS);
        assert!(output.fatal.is_some() && output.flushed.is_none() && output.write.is_none());
    }
}

#[test]
fn a_stop_writes_what_is_queued_and_the_idle_block() {
    let mut core = core_at(8192);
    core.step(Input::Queue(vec![item(entry(1, 1), 1)]), MS);
    core.step(Input::Queue(vec![item(entry(2, 1), 2)]), MS);
    assert!(!core.step(Input::Stop, MS).stopped);
    assert_eq!(data(&core.step(written(), MS)), [entry(2, 1)]);
    assert_eq!(data(&core.step(written(), MS)), [Frame::Idle]);
    assert!(core.step(written(), MS).stopped);
}
