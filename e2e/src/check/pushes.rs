//! C9: the pushes that an application accepted follow each other without gap or repeat.
//!
//! A push without a base that is accepted begins a new chain: the application had no position.

use std::collections::BTreeMap;

use crate::history::{Call, Outcome};

use super::operations::{End, FinalLogs, Operations};
use super::{Report, Rule};

pub(super) fn check(operations: &Operations<'_>, logs: &FinalLogs<'_>, report: &mut Report) {
    // What each application stored last; one push of a stream is in flight at a time.
    let mut stored: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for operation in &operations.all {
        let (
            Call::Push { subscription, stream, base, next, records },
            End::Ok(Outcome::Accepted { next: accepted }),
        ) = (operation.call, operation.end)
        else {
            continue;
        };
        report.counts.pushed += records.len() as u64;
        let application = (operation.process, subscription.as_str(), stream.as_str());
        let before = stored.insert(application, *accepted);
        let begin = base.unwrap_or(*next);
        let op = operation.op;
        if base.is_some() && before != *base {
            let detail = format!("operation {op}: base {base:?} was accepted at {before:?}");
            report.violate(Rule::Push, stream, detail);
        }
        if begin.checked_add(records.len() as u64) != Some(*next) {
            let detail = format!("operation {op}: {} records for {begin} to {next}", records.len());
            report.violate(Rule::Push, stream, detail);
        }
        if *accepted < begin || *accepted > *next {
            let detail = format!("operation {op}: {accepted} was accepted of {begin} to {next}");
            report.violate(Rule::Push, stream, detail);
        }
        if logs.of(stream).map_or(&[][..], |log| log.cut(begin, records.len())) != records {
            let detail = format!("operation {op}: what was pushed at {begin} is not in the log");
            report.violate(Rule::Push, stream, detail);
        }
    }
}
