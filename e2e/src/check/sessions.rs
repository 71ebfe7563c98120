//! C7: a session never goes back, and it sees its own appends.
//!
//! Every answer that a session gets puts a bound under all that it asks afterwards: the stream
//! reaches at least that far. Only what was asked after the answer came is bound by it.

use std::collections::BTreeMap;

use crate::history::{Call, Outcome};

use super::operations::{End, Operation, Operations};
use super::{Report, Rule};

/// One observation of a session: when it was asked, when it came, how far the stream reached.
struct Seen<'h> {
    operation: Operation<'h>,
    /// The stream reaches at least this far.
    reach: u64,
    /// Where the answer says that the stream ends or ended, if it says so. A new append is put at
    /// the end, so it must lie at or above all that was seen.
    end: Option<u64>,
}

pub(super) fn check(operations: &Operations<'_>, report: &mut Report) {
    let mut sessions: BTreeMap<(&str, u64, &str), Vec<Seen<'_>>> = BTreeMap::new();
    for operation in &operations.all {
        let End::Ok(result) = operation.end else { continue };
        let (Call::Append { stream, session, .. }
        | Call::Read { stream, session, .. }
        | Call::Tail { stream, session }) = operation.call
        else {
            continue;
        };
        if let Some((reach, end)) = observed(operation.call, result) {
            let seen = Seen { operation: *operation, reach, end };
            sessions.entry((operation.process, *session, stream)).or_default().push(seen);
        }
    }
    for ((process, session, stream), seen) in sessions {
        check_one(process, session, stream, &seen, report);
    }
}

/// How far the stream reaches, and its end where the answer names it.
fn observed(call: &Call, result: &Outcome) -> Option<(u64, Option<u64>)> {
    match (call, result) {
        (Call::Append { .. }, Outcome::Appended { first, next, duplicate }) => {
            // A duplicate tells of an end of long ago.
            let end = if *duplicate { None } else { *first };
            Some(((*next)?, end))
        }
        (Call::Read { from, .. }, Outcome::Read { pieces, caught_up }) => {
            let came =
                pieces.iter().map(|piece| piece.first.saturating_add(piece.records.len() as u64));
            let reach = came.max().unwrap_or(*from);
            Some((caught_up.map_or(reach, |end| end.max(reach)), *caught_up))
        }
        (Call::Tail { .. }, Outcome::Tail { next }) => Some((*next, Some(*next))),
        _ => None,
    }
}

fn check_one(process: &str, session: u64, stream: &str, seen: &[Seen<'_>], report: &mut Report) {
    // One sweep: `seen` is in the order of the begins; `ended` gives the bounds that hold by then.
    let mut ended: Vec<&Seen<'_>> = seen.iter().collect();
    ended.sort_by_key(|seen| seen.operation.ended);
    let mut ended = ended.into_iter().peekable();
    let mut bound = 0;
    for Seen { operation, end, .. } in seen {
        while let Some(earlier) = ended.next_if(|e| e.operation.ended < operation.invoked) {
            bound = bound.max(earlier.reach);
        }
        if let Some(end) = end
            && *end < bound
        {
            report.violate(
                Rule::Session,
                stream,
                format!(
                    "{process}, session {session}: operation {} met an end of {end} after {bound} \
                     had been seen",
                    operation.op
                ),
            );
        }
    }
}
