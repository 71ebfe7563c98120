//! C8: a producer writes each sequence once, in order, and an older epoch writes no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Outcome, Producer};

use super::operations::{Append, End, FinalLog, FinalLogs, Operation, Operations};
use super::{Report, Rule};

/// An append of one producer that is in the log.
struct Written<'a, 'h> {
    append: &'a Append<'h>,
    sequence: u64,
    first: u64,
    /// Of the attempts; the smallest may have written it.
    epochs: BTreeSet<u32>,
}

pub(super) fn check(operations: &Operations<'_>, logs: &FinalLogs<'_>, report: &mut Report) {
    let mut producers: BTreeMap<(&str, u64), Vec<&Append<'_>>> = BTreeMap::new();
    for append in &operations.appends {
        same_offsets(append, report);
        let mut named: BTreeSet<(u64, u64)> = BTreeSet::new();
        for producer in append.attempts.iter().filter_map(producer_of) {
            named.insert((producer.id, producer.sequence));
        }
        if named.len() > 1 {
            let detail = format!("one append was sent as {named:?}: the history is not usable");
            report.violate(Rule::Producer, append.stream, detail);
            continue;
        }
        for (id, _) in &named {
            producers.entry((append.stream, *id)).or_default().push(append);
        }
    }
    for ((stream, id), appends) in producers {
        if let Some(log) = logs.of(stream) {
            in_order(stream, id, &appends, log, report);
        }
    }
    fenced(operations, report);
}

fn producer_of(operation: &Operation<'_>) -> Option<Producer> {
    let Call::Append { producer, .. } = operation.call else { return None };
    *producer
}

/// A retry returns the offsets of the first try.
fn same_offsets(append: &Append<'_>, report: &mut Report) {
    let offsets: BTreeSet<u64> =
        append.acknowledgements().filter_map(|(_, first, _, _)| first).collect();
    if offsets.len() > 1 {
        report.violate(
            Rule::Producer,
            append.stream,
            format!("record {:?} was acknowledged at {offsets:?}", append.records.first()),
        );
    }
}

/// Sequence order is offset order and epoch order, and below what was acknowledged nothing lacks.
fn in_order(stream: &str, id: u64, appends: &[&Append<'_>], log: &FinalLog, report: &mut Report) {
    let mut written: Vec<Written<'_, '_>> = appends
        .iter()
        .filter_map(|append| {
            let first = *log.places_of(*append.records.first()?).first()?;
            let producers = append.attempts.iter().filter_map(producer_of);
            let epochs: BTreeSet<u32> = producers.clone().map(|producer| producer.epoch).collect();
            let sequence = producers.map(|producer| producer.sequence).min()?;
            Some(Written { append, sequence, first, epochs })
        })
        .collect();
    written.sort_by_key(|written| written.sequence);
    // A gap counts only below an acknowledged append: what follows the last one may be cut anywhere.
    let acknowledged = written.iter().rposition(|written| written.append.acknowledged());
    let mut before: Option<&Written<'_, '_>> = None;
    let mut due = 0;
    let mut least_epoch = 0;
    for (place, now) in written.iter().enumerate() {
        if now.sequence != due && Some(place) <= acknowledged {
            report.violate(
                Rule::Producer,
                stream,
                format!("producer {id}: sequence {due} was due, {} is in the log", now.sequence),
            );
        }
        if let Some(before) = before
            && before.first >= now.first
        {
            report.violate(
                Rule::Producer,
                stream,
                format!(
                    "producer {id}: sequence {} is at offset {} and {} is at {}",
                    before.sequence, before.first, now.sequence, now.first
                ),
            );
        }
        let newest = now.epochs.last().copied().unwrap_or(0);
        if newest < least_epoch {
            report.violate(
                Rule::Producer,
                stream,
                format!(
                    "producer {id}: sequence {} of epoch {newest} follows epoch {least_epoch}",
                    now.sequence
                ),
            );
        }
        least_epoch = least_epoch.max(now.epochs.first().copied().unwrap_or(0));
        due = now.sequence.saturating_add(now.append.len());
        before = Some(now);
    }
}

/// What was sent in an older epoch after a newer one was acknowledged is never newly written.
fn fenced(operations: &Operations<'_>, report: &mut Report) {
    // When each epoch was first known: the end of its InitProducer or of its first append.
    let mut known: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    for operation in &operations.all {
        let End::Ok(result) = operation.end else { continue };
        let epoch = match (operation.call, result) {
            (Call::InitProducer { .. }, Outcome::InitProducer { id, epoch, .. }) => (*id, *epoch),
            _ => match producer_of(operation) {
                Some(producer) => (producer.id, producer.epoch),
                None => continue,
            },
        };
        let since = known.entry(epoch).or_insert(usize::MAX);
        *since = operation.ended.min(*since);
    }
    // The earliest end of this or any newer epoch.
    let mut newest: Option<(u64, usize)> = None;
    for ((id, _), since) in known.iter_mut().rev() {
        if let Some((newer, least)) = newest
            && newer == *id
        {
            *since = least.min(*since);
        }
        newest = Some((*id, *since));
    }
    for append in &operations.appends {
        for (attempt, _, _, duplicate) in append.acknowledgements() {
            let Some(producer) = producer_of(attempt) else { continue };
            let newer = (producer.id, producer.epoch.saturating_add(1))..=(producer.id, u32::MAX);
            let Some((_, since)) = known.range(newer).next() else { continue };
            if !duplicate && *since < attempt.invoked {
                report.violate(
                    Rule::Producer,
                    append.stream,
                    format!(
                        "producer {}: operation {} of epoch {} was written after a newer epoch \
                         was known",
                        producer.id, attempt.op, producer.epoch
                    ),
                );
            }
        }
    }
}
