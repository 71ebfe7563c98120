//! C10: what an application stored is the log up to its position, each record once.

use std::collections::BTreeSet;

use crate::history::{Call, Outcome};

use super::operations::{End, FinalLog, FinalLogs, Operations};
use super::{Report, Rule};

pub(super) fn check(operations: &Operations<'_>, logs: &FinalLogs<'_>, report: &mut Report) {
    let none = FinalLog::default();
    for operation in &operations.all {
        let (
            Call::Effects { application, stream, complete },
            End::Ok(Outcome::Effects { rows, position }),
        ) = (operation.call, operation.end)
        else {
            continue;
        };
        let log = logs.of(stream).unwrap_or(&none);
        if *complete {
            report.counts.effects += rows.len() as u64;
        }
        stored(application, stream, log, rows, *position, report);
        if *complete && *position != Some(log.len()) {
            let detail =
                format!("{application} is at {position:?} at the end, the log at {}", log.len());
            report.violate(Rule::Effects, stream, detail);
        }
    }
}

/// Compares the table with the log up to the stored position.
fn stored(
    application: &str,
    stream: &str,
    log: &FinalLog,
    rows: &[(u64, u64)],
    position: Option<u64>,
    report: &mut Report,
) {
    let position = position.unwrap_or(0);
    if position > log.len() {
        let detail = format!("{application} stored {position}, the log ends at {}", log.len());
        report.violate(Rule::Effects, stream, detail);
    }
    let mut records = BTreeSet::new();
    for (offset, record) in rows {
        if !records.insert(*record) {
            report.counts.effects_duplicated += 1;
            let detail = format!("{application} has record {record} twice, again at {offset}");
            report.violate(Rule::Effects, stream, detail);
        } else if log.cut(*offset, 1) != [*record] {
            report.counts.effects_reordered += 1;
            let places = log.places_of(*record);
            let detail =
                format!("{application} has record {record} at {offset}, it is at {places:?}");
            report.violate(Rule::Effects, stream, detail);
        }
        if *offset >= position {
            let detail = format!("{application} has a row at {offset} and stored {position}");
            report.violate(Rule::Effects, stream, detail);
        }
    }
    let due = log.cut(0, usize::try_from(position).unwrap_or(usize::MAX));
    for (offset, record) in (0_u64..).zip(due) {
        if !records.contains(record) {
            report.counts.effects_lost += 1;
            let detail = format!("{application} lacks record {record} of offset {offset}");
            report.violate(Rule::Effects, stream, detail);
        }
    }
}
