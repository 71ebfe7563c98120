//! C9.

use super::*;

impl Story {
    fn pushed(self, base: Option<u64>, next: u64, records: &[u64], accepted: u64) -> Self {
        let call = Call::Push {
            subscription: "dev-orders".into(),
            stream: STREAM.into(),
            base,
            next,
            records: records.to_vec(),
        };
        self.done("application", call, Outcome::Accepted { next: accepted })
    }
}

const LOG: [u64; 3] = [10, 11, 12];

fn at_start() -> Story {
    Story::default().append(&LOG, 0).pushed(None, 0, &[], 0)
}

fn violated(story: Story) -> BTreeMap<Rule, u64> {
    story.complete(&LOG).violated()
}

#[test]
fn pushes_that_follow_each_other_pass() {
    let story = at_start().pushed(Some(0), 2, &LOG[..2], 2).pushed(Some(2), 3, &LOG[2..], 3);
    let report = story.complete(&LOG).report();
    assert_eq!((report.violated, report.counts.pushed), (none(), 3));
}

#[test]
fn a_push_that_was_accepted_in_part_goes_on_there() {
    let story = at_start().pushed(Some(0), 3, &LOG, 1);
    assert_eq!(violated(story.clone().pushed(Some(1), 3, &LOG[1..], 3)), none());
    assert_eq!(violated(story.pushed(Some(3), 3, &[], 3)), only(Rule::Push));
}

#[test]
fn a_skipped_record_is_found() {
    let story = at_start().pushed(Some(0), 1, &LOG[..1], 1).pushed(Some(2), 3, &LOG[2..], 3);
    assert_eq!(violated(story), only(Rule::Push));
}

#[test]
fn a_repeated_record_is_found() {
    let story = at_start().pushed(Some(0), 1, &LOG[..1], 1).pushed(Some(0), 2, &LOG[..2], 2);
    assert_eq!(violated(story), only(Rule::Push));
}

#[test]
fn a_lost_database_begins_a_new_chain() {
    let story = at_start().pushed(Some(0), 3, &LOG, 3).pushed(None, 0, &[], 0);
    assert_eq!(violated(story.pushed(Some(0), 3, &LOG, 3)), none());
}

#[test]
fn records_that_are_not_those_of_the_log_are_found() {
    for records in [&[11][..], &[99]] {
        assert_eq!(violated(at_start().pushed(Some(0), 1, records, 1)), only(Rule::Push));
    }
}

#[test]
fn a_push_of_the_wrong_length_is_found() {
    for next in [0, 2] {
        let story = at_start().pushed(Some(0), next, &LOG[..1], next.min(1));
        assert_eq!(violated(story), only(Rule::Push), "next {next}");
    }
}

#[test]
fn an_acceptance_outside_of_the_push_is_found() {
    let story = at_start().pushed(Some(0), 1, &LOG[..1], 1);
    for (accepted, expected) in
        [(0, only(Rule::Push)), (1, none()), (2, none()), (3, only(Rule::Push))]
    {
        let story = story.clone().pushed(Some(1), 2, &LOG[1..2], accepted);
        assert_eq!(violated(story), expected, "accepted {accepted}");
    }
}
