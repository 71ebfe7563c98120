use pyramid_protocol::{Records, StreamId};

use super::*;

fn options() -> Options {
    let position = Position { stream_id: id(7), epoch: 2, offset: Offset::new(10) };
    Options::from_position("a".parse().unwrap(), position)
}

fn id(id: u64) -> StreamId {
    StreamId::new(id).unwrap()
}

fn start(stream_id: u64, epoch: u32, offset: u64) -> pb::ReadStart {
    let position = Some(pb::Position { stream_id, epoch, offset });
    pb::ReadStart { position, first_offset: 0, next_offset: 99 }
}

fn batch(base: u64, count: usize) -> Batch {
    let records = Records::encode(&vec![pb::Record::default(); count]).unwrap();
    Batch::new(Offset::new(base), 1, &records)
}

fn started(options: Options) -> Progress {
    let mut progress = Progress::new(options);
    progress.started(start(7, 2, 10)).unwrap();
    progress
}

#[test]
fn a_read_goes_on_only_where_it_is() {
    let mut progress = started(options());
    assert_eq!(progress.admit(batch(10, 3)), Ok(Admitted::Batch(batch(10, 3))));
    for wrong in [10, 12, 14] {
        let expected = Offset::new(13);
        let got = Offset::new(wrong);
        assert_eq!(progress.admit(batch(wrong, 1)), Err(Broken::NotContiguous { expected, got }));
    }
    assert_eq!(progress.admit(batch(13, 1)), Ok(Admitted::Batch(batch(13, 1))));
}

#[test]
fn a_reconnect_asks_for_what_was_reached_in_the_epoch_in_which_it_was() {
    let mut progress = Progress::new(options());
    let request = progress.request();
    assert_eq!((request.stream_id, request.epoch), (Some(7), Some(2)));
    assert_eq!(request.start, Some(read_request::Start::Offset(10)));
    progress.started(start(7, 3, 10)).unwrap();
    progress.admit(batch(10, 5)).unwrap();
    let request = progress.request();
    assert_eq!((request.stream_id, request.epoch), (Some(7), Some(3)));
    assert_eq!(request.start, Some(read_request::Start::Offset(15)));
    let elsewhere = Err(Broken::NotContiguous { expected: Offset::new(15), got: Offset::new(16) });
    assert_eq!(progress.started(start(7, 3, 16)), elsewhere);
}

#[test]
fn another_stream_is_never_taken_for_the_one_that_was_read() {
    let mut progress = Progress::new(options());
    let other = Err(Broken::OtherStream { expected: 7, got: 8 });
    assert_eq!(progress.started(start(8, 2, 10)), other);
    let unpinned = Options { stream_id: None, ..options() };
    let mut progress = Progress::new(unpinned);
    assert!(progress.started(start(8, 2, 10)).is_ok());
    let other = Err(Broken::OtherStream { expected: 8, got: 7 });
    assert_eq!(progress.started(start(7, 2, 10)), other);
}

#[test]
fn nothing_comes_before_the_start() {
    let mut progress = Progress::new(options());
    assert_eq!(progress.admit(batch(10, 1)), Err(Broken::NotStarted));
    assert_eq!(progress.started(pb::ReadStart::default()), Err(Broken::NotStarted));
}

#[test]
fn a_damaged_batch_is_not_taken() {
    let mut progress = started(options());
    let damaged = Batch { records_crc32c: batch(10, 1).records_crc32c ^ 1, ..batch(10, 1) };
    assert!(matches!(progress.admit(damaged), Err(Broken::Batch(_))));
    assert_eq!(progress.admit(batch(10, 1)), Ok(Admitted::Batch(batch(10, 1))));
}

#[test]
fn limits_let_one_batch_in_and_then_whole_ones() {
    let mut progress = started(Options { max_records: 4, ..options() });
    assert!(matches!(progress.admit(batch(10, 3)), Ok(Admitted::Batch(_))));
    assert_eq!(progress.request().max_records, 1);
    assert_eq!(progress.admit(batch(13, 2)), Ok(Admitted::OverLimit));
    assert!(progress.is_done());

    let mut progress = started(Options { max_records: 4, ..options() });
    assert!(matches!(progress.admit(batch(10, 9)), Ok(Admitted::Batch(_))));
    assert!(progress.is_done());

    let max_bytes = u64::try_from(batch(10, 1).encoded_len()).unwrap();
    let mut progress = started(Options { max_bytes: 2 * max_bytes, ..options() });
    assert!(matches!(progress.admit(batch(10, 1)), Ok(Admitted::Batch(_))));
    assert!(!progress.is_done());
    assert!(matches!(progress.admit(batch(11, 1)), Ok(Admitted::Batch(_))));
    assert!(progress.is_done());
}
