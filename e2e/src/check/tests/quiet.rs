//! What a run must have done, and the verdict.

use super::*;
use crate::history::{Fault, Phase};

/// A faultless run with this much in it.
fn run(records: u64, chunks: u64, faults: &[Fault]) -> Story {
    let log: Vec<u64> = (0..records).collect();
    let mut story = Story::default();
    for (id, fault) in (0_u64..).zip(faults) {
        for phase in [Phase::Begin, Phase::Confirmed, Phase::End] {
            story.line("faults", Event::Fault { id, fault: *fault, phase });
        }
    }
    let call = Call::Chunks { stream: STREAM.into() };
    story.append(&log, 0).complete(&log).done("judge", call, Outcome::Chunks { count: chunks })
}

fn verdict(story: &Story) -> Result<Report, Box<Report>> {
    check(&story.lines, Least::default()).unwrap().verdict()
}

#[test]
fn a_run_that_did_the_least_passes() {
    let report = verdict(&run(10_000, 10, &Fault::ALL)).unwrap();
    assert_eq!(report.counts.acknowledged, 10_000);
    assert_eq!(report.counts.sealed_chunks, 10);
    assert_eq!(report.counts.faults, Fault::ALL.map(|fault| (fault, 1)).into());
}

#[test]
fn a_run_that_did_less_is_too_quiet() {
    let without = |missing: usize| {
        let mut faults = Fault::ALL.to_vec();
        faults.remove(missing);
        faults
    };
    let runs = [
        (run(9_999, 10, &Fault::ALL), "9999 acknowledged records, at least 10000 are needed"),
        (run(10_000, 9, &Fault::ALL), "9 sealed chunks, at least 10 are needed"),
        (run(10_000, 10, &without(0)), "0 confirmed faults KillWriter, at least 1 are needed"),
        (run(10_000, 10, &without(1)), "0 confirmed faults KillPusher, at least 1 are needed"),
        (run(10_000, 10, &without(2)), "0 confirmed faults KillApplication, at least 1 are needed"),
    ];
    for (story, quiet) in runs {
        let report = verdict(&story).unwrap_err();
        assert_eq!((report.too_quiet, report.violated), (vec![quiet.to_owned()], none()));
    }
}

#[test]
fn a_fault_that_was_not_confirmed_does_not_count() {
    let mut story = run(10_000, 10, &Fault::ALL);
    for line in &mut story.lines {
        if let Event::Fault { fault: Fault::KillPusher, phase, .. } = &mut line.event {
            *phase = Phase::Begin;
        }
    }
    assert_eq!(verdict(&story).unwrap_err().too_quiet.len(), 1);
}

#[test]
fn a_fault_that_was_confirmed_twice_counts_once() {
    let mut story = run(1, 0, &[Fault::KillWriter]);
    let phase = Phase::Confirmed;
    story.line("faults", Event::Fault { id: 0, fault: Fault::KillWriter, phase });
    assert_eq!(story.report().counts.faults, BTreeMap::from([(Fault::KillWriter, 1)]));
}

#[test]
fn the_newest_count_of_chunks_is_taken() {
    let call = Call::Chunks { stream: STREAM.into() };
    let story = run(1, 3, &[]).done("judge", call, Outcome::Chunks { count: 5 });
    assert_eq!(story.report().counts.sealed_chunks, 5);
}

#[test]
fn a_loud_run_with_a_violation_fails() {
    let story = run(10_000, 10, &Fault::ALL).read(0, &[1]);
    let report = verdict(&story).unwrap_err();
    assert_eq!((report.too_quiet.len(), report.violated), (0, only(Rule::Prefix)));
}

#[test]
fn a_report_names_what_is_wrong() {
    let text = run(3, 0, &[]).read(0, &[2]).report().to_string();
    assert!(text.contains("VIOLATED: C4 prefix, 1 times"), "{text}");
    assert!(text.contains("  C4 prefix, stream orders: operation 3: "), "{text}");
}

#[test]
fn many_violations_are_counted_and_the_first_are_told() {
    let log: Vec<u64> = (0..100).collect();
    let report = Story::default().append(&log, 0).complete(&[]).report();
    assert_eq!(report.violated, BTreeMap::from([(Rule::Acknowledged, 100)]));
    assert_eq!((report.violations.len(), report.counts.lost), (10, 100));
}
