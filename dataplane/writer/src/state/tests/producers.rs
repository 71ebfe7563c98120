use pyramid_protocol::limits::{PRODUCER_BATCHES_MAX, PRODUCER_IDLE_MS, PRODUCERS_PER_STREAM_MAX};

use super::fixture::*;
use crate::entry::Op;
use crate::state::{
    Appended, ControlOutcome, ControlRefused, IDENTITY_BYTES_MAX, Outcome, ProducerReady, Refused,
};

const P: u64 = 70;

fn from(count: u32, epoch: u32, sequence: u64) -> Op {
    from_producer(op(ORDERS, count), P, epoch, sequence)
}

fn duplicate_at(first: u64, next: u64) -> Outcome {
    let (first, next) = (pyramid_protocol::Offset::new(first), pyramid_protocol::Offset::new(next));
    Outcome::Duplicate(Some(Appended { first, next, epoch: 0, time_ms: START_MS }))
}

fn out_of_order(expected: u64) -> Outcome {
    Outcome::Refused(Refused::OutOfOrder { expected })
}

#[test]
fn sequences_count_records() {
    let mut log = Log::with_orders(4);
    let new = ProducerReady { id: P, epoch: 1, next_sequence: 0, known: false };
    assert_eq!(log.producer("p", P), new);
    assert_eq!(log.appended(from(3, 1, 0)), 4);
    for gap_or_old in [1, 2, 4, 100, u64::MAX] {
        assert_eq!(log.not_written(from(1, 1, gap_or_old)), out_of_order(3));
    }
    assert_eq!(log.appended(from(1, 1, 3)), 7);
}

#[test]
fn a_batch_sent_again_gets_its_first_offsets() {
    let mut log = Log::with_orders(4);
    log.producer("p", P);
    log.appended(from(3, 1, 0));
    log.appended(op(ORDERS, 1));
    log.time_ms += 1000;
    log.appended(from(2, 1, 3));
    assert_eq!(log.not_written(from(3, 1, 0)), duplicate_at(4, 7));
    // Another count is another append, that was never written.
    for count in [1, 2, 4] {
        assert_eq!(log.not_written(from(count, 1, 0)), out_of_order(5));
    }
}

#[test]
fn sixteen_batches_are_remembered() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    let max = PRODUCER_BATCHES_MAX as u64;
    for sequence in 0..max {
        log.appended(from(1, 1, sequence));
    }
    assert_eq!(log.not_written(from(1, 1, 0)), duplicate_at(0, 1));
    log.appended(from(1, 1, max));
    assert_eq!(log.not_written(from(1, 1, 0)), Outcome::Duplicate(None));
    assert_eq!(log.not_written(from(1, 1, 1)), duplicate_at(1, 2));
    // What reaches into the remembered batches is none of those forgotten.
    assert_eq!(log.not_written(from(2, 1, 0)), out_of_order(max + 1));
    log.appended(from(2, 1, max + 1));
    assert_eq!(log.not_written(from(2, 1, 0)), Outcome::Duplicate(None));
}

#[test]
fn a_new_epoch_fences_the_old_one_and_the_sequence_goes_on() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    log.appended(from(2, 1, 0));
    let ready = ProducerReady { id: P, epoch: 2, next_sequence: 2, known: true };
    assert_eq!(log.producer("p", 71), ready);
    let fenced = Outcome::Refused(Refused::Fenced { epoch: 2 });
    // What the old epoch wrote is still its own; all else of it is fenced, at every sequence.
    assert_eq!(log.not_written(from(2, 1, 0)), duplicate_at(0, 2));
    for sequence in [0, 1, 2, 3] {
        assert_eq!(log.not_written(from(1, 1, sequence)), fenced);
    }
    // The new epoch did not write it.
    assert_eq!(log.not_written(from(2, 2, 0)), out_of_order(2));
    assert_eq!(log.appended(from(1, 2, 2)), 2);
    // An older epoch does not even learn that its batch is long forgotten.
    for sequence in 3..20 {
        log.appended(from(1, 2, sequence));
    }
    assert_eq!(log.not_written(from(2, 1, 0)), fenced);
    assert_eq!(log.not_written(from(2, 2, 0)), Outcome::Duplicate(None));
}

#[test]
fn a_producer_that_is_not_held_is_unknown_at_every_sequence() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    log.command(create("second", 12));
    let unknown = Outcome::Refused(Refused::UnknownProducer);
    for sequence in [0, 1, u64::MAX] {
        let append = from_producer(op(ORDERS, 1), 71, 1, sequence);
        assert_eq!(log.not_written(append), unknown);
        // Producers belong to one stream.
        assert_eq!(log.not_written(from_producer(op(12, 1), P, 1, sequence)), unknown);
        // An epoch that was never given out.
        assert_eq!(log.not_written(from(1, 2, sequence)), unknown);
    }
}

#[test]
fn a_retry_of_a_written_record_is_known_also_when_the_stream_is_closed() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    log.appended(from(1, 1, 0));
    log.command(set_closed(ORDERS, true));
    for stream_revision in [1, 2] {
        let again = Op { stream_revision, ..from(1, 1, 0) };
        assert_eq!(log.not_written(again), duplicate_at(0, 1));
    }
}

#[test]
fn an_append_may_repeat_within_one_entry() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    let applied = log.batch(&[from(1, 1, 0), from(1, 1, 0), from(1, 1, 1)]);
    assert!(matches!(applied.outcomes[0], Outcome::Appended(_)));
    assert_eq!(applied.outcomes[1], duplicate_at(0, 1));
    assert!(matches!(applied.outcomes[2], Outcome::Appended(_)));
    assert_eq!(applied.written.len(), 2);
}

#[test]
fn a_name_that_was_used_before_and_is_not_held_never_starts_at_zero() {
    let mut log = Log::with_orders(0);
    for resume in [0, 5] {
        let refused = log.refused(init_producer(ORDERS, "p", P, Some(resume)));
        assert_eq!(refused, ControlRefused::UnknownProducer);
    }
    log.producer("p", P);
    for (resume, epoch) in [(0, 2), (5, 3)] {
        let ready = ProducerReady { id: P, epoch, next_sequence: 0, known: true };
        let outcome = log.command(init_producer(ORDERS, "p", 71, Some(resume)));
        assert_eq!(outcome, ControlOutcome::ProducerReady(ready));
    }
}

#[test]
fn a_name_belongs_to_its_identity() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    let mut other = init_producer(ORDERS, "p", 71, None);
    if let stored_command::InitProducer(init) = &mut other {
        init.identity = "spiffe://somebody/else".into();
    }
    let ready = ProducerReady { id: 71, epoch: 1, next_sequence: 0, known: false };
    assert_eq!(log.command(other), ControlOutcome::ProducerReady(ready));
}

#[test]
fn an_id_that_is_held_is_drawn_again() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    assert_eq!(log.refused(init_producer(ORDERS, "q", P, None)), ControlRefused::IdUsed);
    assert!(!log.producer("q", 71).known);
}

#[test]
fn names_and_ids_of_producers_have_limits() {
    let mut log = Log::with_orders(0);
    for (name, new_id) in
        [(String::new(), 1), ("n".repeat(257), 1), ("n".into(), 0), ("n".into(), 1 << 53)]
    {
        let refused = log.refused(init_producer(ORDERS, &name, new_id, None));
        assert!(matches!(refused, ControlRefused::Invalid { .. }), "{name} {new_id}: {refused:?}");
    }
    log.producer(&"n".repeat(256), (1 << 53) - 1);
    log.producer("n", 1);
    for (len, good) in [(0, false), (IDENTITY_BYTES_MAX, true), (IDENTITY_BYTES_MAX + 1, false)] {
        let mut command = init_producer(ORDERS, "who", 2, None);
        if let stored_command::InitProducer(init) = &mut command {
            init.identity = "i".repeat(len);
        }
        let outcome = log.command(command);
        assert_eq!(matches!(outcome, ControlOutcome::ProducerReady(_)), good, "identity of {len}");
    }
    let refused = log.refused(init_producer(99, "n", 3, None));
    assert_eq!(refused, ControlRefused::NotFound);
}

#[test]
fn a_stream_has_1024_producers_until_one_was_idle_for_a_day() {
    let mut log = Log::with_orders(0);
    let max = PRODUCERS_PER_STREAM_MAX as u64;
    for number in 1..=max {
        log.producer(&format!("p{number}"), number);
    }
    let one_more = |log: &mut Log| log.command(init_producer(ORDERS, "more", 5000, None));
    let full = ControlOutcome::Refused(ControlRefused::TooManyProducers);
    // Producer 1 is used once more, so 2 has been idle longest from then on.
    log.time_ms += 1;
    log.appended(from_producer(op(ORDERS, 1), 1, 1, 0));
    log.time_ms = START_MS + PRODUCER_IDLE_MS - 1;
    assert_eq!(one_more(&mut log), full);
    let refused = log.refused(init_producer(ORDERS, "more", 5000, None));
    assert_eq!(refused, ControlRefused::TooManyProducers);
    // Time without a leader is not idle time.
    let mut later = log.clone();
    later.term = 2;
    later.time_ms += 100 * PRODUCER_IDLE_MS;
    assert_eq!(one_more(&mut later), full);
    later.time_ms += 1;
    assert!(matches!(one_more(&mut later), ControlOutcome::ProducerReady(_)));
    // A refusal makes no room: an id that is held, a name that must be known.
    log.time_ms += 1;
    assert_eq!(log.refused(init_producer(ORDERS, "more", 7, None)), ControlRefused::IdUsed);
    let resumed = log.refused(init_producer(ORDERS, "more", 5000, Some(0)));
    assert_eq!(resumed, ControlRefused::UnknownProducer);
    assert!(matches!(one_more(&mut log), ControlOutcome::ProducerReady(_)));
    let producers = &log.state.stream(id(ORDERS)).unwrap().producers;
    assert_eq!(producers.len(), PRODUCERS_PER_STREAM_MAX);
    assert!(producers.by_id(1).is_some() && producers.by_id(2).is_none());
    let dropped = log.not_written(from_producer(op(ORDERS, 1), 2, 1, 0));
    assert_eq!(dropped, Outcome::Refused(Refused::UnknownProducer));
}

#[test]
fn sequences_and_epochs_end_at_their_largest_value() {
    let mut log = Log::with_orders(0);
    log.producer("p", P);
    log.appended(from(1, 1, 0));
    let mut log = log.recovered(|image| {
        let producer = &mut image.streams[0].producers[0];
        producer.epoch = u32::MAX;
        producer.next_sequence = u64::MAX - 2;
        producer.batches[0].first_sequence = u64::MAX - 3;
    });
    let (epoch, sequence) = (u32::MAX, u64::MAX - 2);
    assert_eq!(log.refused(init_producer(ORDERS, "p", 71, None)), ControlRefused::UsedUp);
    assert_eq!(log.not_written(from(3, epoch, sequence)), Outcome::Refused(Refused::UsedUp));
    assert_eq!(log.appended(from(2, epoch, sequence)), 1);
}

use pyramid_protocol::pb::stored::v1::command::Command as stored_command;
