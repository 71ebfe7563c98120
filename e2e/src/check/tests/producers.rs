//! C8.

use super::*;

const ID: u64 = 7;

fn send(sequence: u64, epoch: u32, records: &[u64]) -> Call {
    append_with(records, Some(Producer { id: ID, epoch, sequence }))
}

fn again(records: &[u64], first: u64) -> Outcome {
    let next = Some(first + records.len() as u64);
    Outcome::Appended { first: Some(first), next, duplicate: true }
}

impl Story {
    fn sent(self, sequence: u64, epoch: u32, records: &[u64], first: u64) -> Self {
        self.done("producer", send(sequence, epoch, records), appended(records, first))
    }

    fn lost_answer(mut self, sequence: u64, epoch: u32, records: &[u64]) -> Self {
        let op = self.begin("producer", send(sequence, epoch, records));
        self.line("producer", Event::Unknown { op, reason: "cut off".into() });
        self
    }

    fn init(self, epoch: u32, next_sequence: u64) -> Self {
        let call = Call::InitProducer { stream: STREAM.into(), name: "till".into() };
        self.done("till", call, Outcome::InitProducer { id: ID, epoch, next_sequence })
    }
}

#[test]
fn sequences_in_order_pass() {
    let story = Story::default().sent(0, 1, &[10, 11], 0).append(&[90], 2).sent(2, 1, &[12], 3);
    assert_eq!(story.complete(&[10, 11, 90, 12]).violated(), none());
}

#[test]
fn a_retry_returns_the_first_offsets() {
    for (first, expected) in [(0, none()), (1, Rule::Producer.with_acknowledged())] {
        let story = Story::default().sent(0, 1, &[10], 0).done(
            "producer",
            send(0, 1, &[10]),
            again(&[10], first),
        );
        assert_eq!(story.complete(&[10]).violated(), expected, "retried at {first}");
    }
}

impl Rule {
    /// A wrong offset breaks C2 as well.
    fn with_acknowledged(self) -> BTreeMap<Rule, u64> {
        BTreeMap::from([(self, 1), (Rule::Acknowledged, 1)])
    }
}

#[test]
fn a_gap_below_an_acknowledged_sequence_is_found() {
    let story = Story::default().lost_answer(0, 1, &[10]).sent(1, 1, &[11], 0);
    assert_eq!(story.complete(&[11]).violated(), only(Rule::Producer));
    let story = Story::default().lost_answer(0, 1, &[10]).sent(1, 1, &[11], 1);
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn a_gap_in_the_middle_is_found() {
    let story = Story::default().sent(0, 1, &[10], 0).lost_answer(1, 1, &[11]).sent(2, 1, &[12], 1);
    assert_eq!(story.complete(&[10, 12]).violated(), only(Rule::Producer));
}

#[test]
fn the_end_of_a_producer_may_be_missing() {
    let story = Story::default().sent(0, 1, &[10], 0).lost_answer(1, 1, &[11]);
    assert_eq!(story.clone().complete(&[10]).violated(), none());
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn sequences_against_the_order_of_offsets_are_found() {
    let mut story = Story::default();
    let zero = story.begin("producer", send(0, 1, &[10]));
    let one = story.begin("producer", send(1, 1, &[11]));
    let mut right = story.clone();
    story.end(zero, appended(&[10], 1));
    story.end(one, appended(&[11], 0));
    assert_eq!(story.complete(&[11, 10]).violated(), only(Rule::Producer));
    right.end(zero, appended(&[10], 0));
    right.end(one, appended(&[11], 1));
    assert_eq!(right.complete(&[10, 11]).violated(), none());
}

#[test]
fn an_older_epoch_writes_nothing_after_a_newer_one_is_known() {
    let story = Story::default().sent(0, 1, &[10], 0).init(2, 1).sent(1, 1, &[11], 1);
    assert_eq!(story.complete(&[10, 11]).violated(), only(Rule::Producer));
    // Sent before the newer epoch was known, it may still arrive.
    let mut story = Story::default().sent(0, 1, &[10], 0);
    let late = story.begin("producer", send(1, 1, &[11]));
    let mut story = story.init(2, 2);
    story.end(late, appended(&[11], 1));
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn an_append_of_a_newer_epoch_makes_it_known() {
    let story = Story::default().sent(0, 1, &[10], 0).sent(1, 3, &[11], 1).sent(2, 2, &[12], 2);
    // Sent too late, and in the log behind the newer epoch.
    assert_eq!(story.complete(&[10, 11, 12]).violated(), BTreeMap::from([(Rule::Producer, 2)]));
}

#[test]
fn an_older_epoch_may_be_told_that_it_wrote_before() {
    let story = Story::default().sent(0, 1, &[10], 0).init(2, 1).done(
        "producer",
        send(0, 1, &[10]),
        again(&[10], 0),
    );
    assert_eq!(story.complete(&[10]).violated(), none());
}

#[test]
fn epochs_are_in_order_in_the_log() {
    // No answer came, so only the log tells that epoch 1 wrote behind epoch 2.
    let story = Story::default().lost_answer(0, 2, &[10]).lost_answer(1, 1, &[11]);
    assert_eq!(story.complete(&[10, 11]).violated(), only(Rule::Producer));
    let story = Story::default().lost_answer(0, 1, &[10]).lost_answer(1, 2, &[11]);
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn a_retry_in_a_newer_epoch_is_the_same_append() {
    let story = Story::default().lost_answer(0, 1, &[10]).init(2, 0).sent(0, 2, &[10], 0).sent(
        1,
        2,
        &[11],
        1,
    );
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn one_append_has_one_sequence() {
    let story = Story::default().lost_answer(0, 1, &[10]).sent(1, 1, &[10], 0);
    assert_eq!(story.complete(&[10]).violated(), only(Rule::Producer));
}
