use proptest::prelude::*;
use prost::Message;

use super::*;

/// What everybody else compiles from the same files.
mod untouched {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/untouched/pyramid.v1.rs"));
}

fn records(values: &[&str]) -> Records {
    let records: Vec<_> = values
        .iter()
        .map(|value| pb::Record { value: value.to_string().into(), headers: vec![] })
        .collect();
    Records::encode(&records).unwrap()
}

fn batch() -> Batch {
    Batch::new(Offset::new(7), 1_234, &records(&["a", "bb", "ccc"]))
}

fn values(batch: &Batch) -> Vec<(u64, String)> {
    batch
        .iter()
        .map(Result::unwrap)
        .map(|(offset, record)| (offset.get(), String::from_utf8(record.value.into()).unwrap()))
        .collect()
}

#[test]
fn what_is_encoded_is_decoded() {
    assert_eq!(Batch::decode(batch().encode()), Ok(batch()));
    assert_eq!(batch().verify(), Ok(()));
    assert_eq!(batch().next_offset(), Offset::new(10));
}

#[test]
fn fixed_fields_are_written_also_when_zero() {
    let first = Batch::new(Offset::START, 0, &records(&["a"]));
    assert_eq!(first.encode().len(), FIXED_LEN + 5);
    assert_eq!(Batch::decode(first.encode()), Ok(first));
}

#[test]
fn everybody_else_reads_our_answers() {
    let ours = pb::ReadResponse {
        item: Some(pb::read_response::Item::Batches(pb::ReadBatches {
            batches: vec![batch().encode()],
        })),
    };
    let theirs = untouched::ReadResponse::decode(&*ours.encode_to_vec()).unwrap();
    let Some(untouched::read_response::Item::Batches(batches)) = theirs.item else {
        panic!("another item: {theirs:?}");
    };
    let record = |value: &str| untouched::Record { value: value.into(), headers: vec![] };
    assert_eq!(
        batches.batches,
        [untouched::RecordBatch {
            base_offset: 7,
            append_time_ms: 1_234,
            record_count: 3,
            records_crc32c: batch().records_crc32c,
            records: vec![record("a"), record("bb"), record("ccc")],
        }]
    );
}

#[test]
fn what_everybody_else_sends_passes_the_door() {
    let record = |value: &str| untouched::Record { value: value.into(), headers: vec![] };
    let theirs = untouched::AppendRequest {
        stream: "orders".into(),
        records: Some(untouched::Records { records: vec![record("a"), record("bb")] }),
        ..Default::default()
    };
    let ours = pb::AppendRequest::decode(&*theirs.encode_to_vec()).unwrap();
    let checked = Records::check(ours.records);
    assert_eq!(checked, Ok(records(&["a", "bb"])));
}

#[test]
fn a_batch_is_shortened_at_its_front_only() {
    let shortened = batch().skip_to(Offset::new(8)).unwrap();
    assert_eq!(shortened, Batch::new(Offset::new(8), 1_234, &records(&["bb", "ccc"])));
    assert_eq!(values(&shortened), [(8, "bb".to_owned()), (9, "ccc".to_owned())]);
    assert_eq!(batch().skip_to(Offset::new(7)), Ok(batch()));
    for outside in [6, 10, u64::MAX] {
        assert_eq!(
            batch().skip_to(Offset::new(outside)),
            Err(Error::NotWithin { offset: outside, base_offset: 7 })
        );
    }
}

#[test]
fn a_damaged_batch_is_not_shortened() {
    let mut damaged = batch();
    damaged.records_crc32c ^= 1;
    assert_eq!(damaged.skip_to(Offset::new(8)), Err(Error::Damaged { base_offset: 7 }));
}

#[test]
fn a_batch_without_records_or_past_the_last_offset_is_malformed() {
    let empty = Batch { record_count: 0, ..batch() };
    assert_eq!(Batch::decode(empty.encode()), Err(Error::Malformed));
    let last = Batch { base_offset: Offset::new(u64::MAX - 3), ..batch() };
    assert_eq!(Batch::decode(last.encode()), Ok(last.clone()));
    let past = Batch { base_offset: Offset::new(u64::MAX - 2), ..batch() };
    assert_eq!(Batch::decode(past.encode()), Err(Error::Malformed));
}

proptest! {
    #[test]
    fn a_cut_is_noticed(cut in any::<prop::sample::Index>()) {
        let whole = batch().encode();
        let cut = whole.slice(..cut.index(whole.len()));
        let good = Batch::decode(cut).is_ok_and(|batch| batch.verify().is_ok());
        prop_assert!(!good);
    }

    #[test]
    fn a_flipped_bit_in_the_records_is_noticed(bit in any::<prop::sample::Index>()) {
        let mut bytes = batch().encode().to_vec();
        let bit = FIXED_LEN * 8 + bit.index((bytes.len() - FIXED_LEN) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let decoded = Batch::decode(bytes.into()).unwrap();
        prop_assert_eq!(decoded.verify(), Err(Error::Damaged { base_offset: 7 }));
    }
}
