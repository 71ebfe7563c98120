//! C4: every read ever made is a cut of the final log, and nothing is read before it is sent.

use std::collections::BTreeMap;

use crate::history::{Call, Outcome};

use super::operations::{End, FinalLogs, Operation, Operations};
use super::{Report, Rule};

pub(super) fn check(operations: &Operations<'_>, logs: &FinalLogs<'_>, report: &mut Report) {
    for operation in &operations.all {
        read(operation, operations, logs, report);
    }
    report.counts.sealed_chunks = newest_chunk_counts(operations);
}

fn read(
    operation: &Operation<'_>,
    operations: &Operations<'_>,
    logs: &FinalLogs<'_>,
    report: &mut Report,
) {
    let (Call::Read { stream, from, .. }, End::Ok(Outcome::Read { pieces, caught_up })) =
        (operation.call, operation.end)
    else {
        return;
    };
    let mut due = *from;
    for piece in pieces {
        if piece.first != due {
            report.violate(
                Rule::Prefix,
                stream,
                format!("operation {}: offset {due} was due, {} came", operation.op, piece.first),
            );
        }
        due = piece.first.saturating_add(piece.records.len() as u64);
        report.counts.read += piece.records.len() as u64;
        let there =
            logs.of(stream).map_or(&[][..], |log| log.cut(piece.first, piece.records.len()));
        if there != piece.records {
            let same = there.iter().zip(&piece.records).take_while(|(a, b)| a == b).count() as u64;
            report.violate(
                Rule::Prefix,
                stream,
                format!(
                    "operation {}: what was read from offset {} on is not in the final log",
                    operation.op,
                    piece.first.saturating_add(same)
                ),
            );
        }
        for record in &piece.records {
            let sent = operations.owner_of(*record).map_or(0, |append| append.first_invoked());
            if sent > operation.ended {
                report.violate(
                    Rule::Prefix,
                    stream,
                    format!(
                        "operation {}: record {record} was read before it was sent",
                        operation.op
                    ),
                );
            }
        }
    }
    if let Some(caught_up) = caught_up
        && *caught_up != due
    {
        report.violate(
            Rule::Prefix,
            stream,
            format!("operation {}: the read ended at {due} and said {caught_up}", operation.op),
        );
    }
}

/// The last count of each stream, summed.
fn newest_chunk_counts(operations: &Operations<'_>) -> u64 {
    let mut newest = BTreeMap::new();
    for operation in &operations.all {
        if let (Call::Chunks { stream }, End::Ok(Outcome::Chunks { count })) =
            (operation.call, operation.end)
        {
            newest.insert(stream, *count);
        }
    }
    newest.values().sum()
}
