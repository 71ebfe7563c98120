//! C2, C3 and C5: what was appended against what is in the log.

use super::operations::{Append, FinalLog, FinalLogs, Operations};
use super::{Report, Rule};

pub(super) fn check(operations: &Operations<'_>, logs: &FinalLogs<'_>, report: &mut Report) {
    for append in &operations.appends {
        let Some(log) = logs.of(append.stream) else { continue };
        count(append, log, report);
        acknowledged(append, log, report);
        together(append, log, report);
    }
    for (stream, log) in &logs.0 {
        not_more(stream, log, operations, report);
    }
}

fn count(append: &Append<'_>, log: &FinalLog, report: &mut Report) {
    let counts = &mut report.counts;
    if append.attempts.len() > 1 {
        counts.retried += append.len();
    }
    if append.acknowledged() {
        counts.acknowledged += append.len();
    } else if append.refused() {
        counts.refused += append.len();
    } else {
        for record in append.records {
            if log.places_of(*record).is_empty() {
                counts.unknown_not_found += 1;
            } else {
                counts.unknown_found += 1;
            }
        }
    }
}

/// C2. Each acknowledged append is in the log exactly once, at its acknowledged offset.
/// Copies are found by [`not_more`].
fn acknowledged(append: &Append<'_>, log: &FinalLog, report: &mut Report) {
    if !append.acknowledged() {
        return;
    }
    for record in append.records {
        if log.places_of(*record).is_empty() {
            report.counts.lost += 1;
            let place = append.acknowledgements().find_map(|(_, first, _, _)| first);
            report.violate(
                Rule::Acknowledged,
                append.stream,
                format!(
                    "record {record} is lost: acknowledged from offset {place:?} on, the log ends \
                     at {}",
                    log.len()
                ),
            );
        }
    }
    for (attempt, first, next, duplicate) in append.acknowledgements() {
        let (Some(first), Some(next)) = (first, next) else {
            if !duplicate || first.is_some() || next.is_some() {
                let detail = format!("operation {}: an offset is missing", attempt.op);
                report.violate(Rule::Acknowledged, append.stream, detail);
            }
            continue;
        };
        if first.checked_add(append.len()) != Some(next) {
            report.violate(
                Rule::Acknowledged,
                append.stream,
                format!(
                    "operation {}: {} records were acknowledged as {first} to {next}",
                    attempt.op,
                    append.len()
                ),
            );
        }
        for (offset, record) in (first..).zip(append.records) {
            let places = log.places_of(*record);
            if !places.is_empty() && !places.contains(&offset) {
                report.counts.reordered += 1;
                report.violate(
                    Rule::Acknowledged,
                    append.stream,
                    format!("record {record} was acknowledged at {offset} and is at {places:?}"),
                );
            }
        }
    }
}

/// C3. Each record of the log was asked for, was not refused for certain, and is there once.
fn not_more(stream: &str, log: &FinalLog, operations: &Operations<'_>, report: &mut Report) {
    for (offset, record) in (0_u64..).zip(&log.records) {
        let detail = match operations.owner_of(*record) {
            None => format!("record {record} at {offset} was never sent"),
            Some(append) if append.stream != stream => {
                format!("record {record} at {offset} was sent to stream {}", append.stream)
            }
            Some(append) if append.refused() => {
                format!("record {record} at {offset} was refused for certain")
            }
            Some(_) => {
                let places = log.places_of(*record);
                if places.first() != Some(&offset) {
                    report.counts.duplicated += 1;
                    let detail = format!("record {record} is at {places:?}");
                    report.violate(Rule::NotMore, stream, detail);
                }
                continue;
            }
        };
        report.counts.invented += 1;
        report.violate(Rule::NotMore, stream, detail);
    }
}

/// C5. The records of one append stand together in their order, or none is there.
fn together(append: &Append<'_>, log: &FinalLog, report: &mut Report) {
    let found = append.records.iter().filter_map(|record| log.places_of(*record).first());
    let Some(first) = found.min() else { return };
    let there = log.cut(*first, append.records.len());
    if there != append.records {
        report.violate(
            Rule::Batch,
            append.stream,
            format!("from offset {first} on stand {there:?} in place of {:?}", append.records),
        );
    }
}
