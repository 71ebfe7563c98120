//! Lines paired into operations, appends grouped by content, final logs.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Call, Event, Line, Outcome, Piece};

use super::{Report, Rule};

/// The lines are no history.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("line {line}: the clock went back")]
    ClockWentBack { line: usize },
    #[error("line {line}: operation {op} begins twice")]
    BeginsTwice { line: usize, op: u64 },
    #[error("line {line}: operation {op} ends, but it is not open")]
    EndsWithoutBegin { line: usize, op: u64 },
    #[error("line {line}: the result of operation {op} does not belong to its call")]
    WrongResult { line: usize, op: u64 },
    #[error("line {line}: an append without records")]
    EmptyAppend { line: usize },
    #[error("record {record} is sent by two different appends")]
    RecordOfTwoAppends { record: u64 },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'h> {
    Ok(&'h Outcome),
    Fail,
    /// Also of operations that never ended.
    Unknown,
}

/// One call and its end. Times are numbers of lines: they have the order of the clock, without ties.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<'h> {
    pub op: u64,
    pub process: &'h str,
    pub call: &'h Call,
    pub invoked: usize,
    /// `usize::MAX` if it never ended.
    pub ended: usize,
    pub end: End<'h>,
}

/// All attempts to append the same records.
#[derive(Debug)]
pub(super) struct Append<'h> {
    pub stream: &'h str,
    pub records: &'h [u64],
    /// In the order in which they began. Never empty.
    pub attempts: Vec<Operation<'h>>,
}

impl<'h> Append<'h> {
    /// Offsets and the flag `duplicate` of each attempt that was acknowledged.
    pub(super) fn acknowledgements(
        &self,
    ) -> impl Iterator<Item = (&Operation<'h>, Option<u64>, Option<u64>, bool)> {
        self.attempts.iter().filter_map(|attempt| {
            let End::Ok(Outcome::Appended { first, next, duplicate }) = attempt.end else {
                return None;
            };
            Some((attempt, *first, *next, *duplicate))
        })
    }

    pub(super) fn acknowledged(&self) -> bool {
        self.acknowledgements().next().is_some()
    }

    pub(super) fn refused(&self) -> bool {
        self.attempts.iter().all(|attempt| matches!(attempt.end, End::Fail))
    }

    /// Line of the first attempt.
    pub(super) fn first_invoked(&self) -> usize {
        self.attempts.iter().map(|attempt| attempt.invoked).min().unwrap_or(usize::MAX)
    }

    pub(super) fn len(&self) -> u64 {
        self.records.len() as u64
    }
}

/// A history, ready to be judged.
#[derive(Debug, Default)]
pub(super) struct Operations<'h> {
    /// In the order in which they began.
    pub all: Vec<Operation<'h>>,
    pub appends: Vec<Append<'h>>,
    /// Which append a record belongs to, as a place in `appends`.
    pub owner: HashMap<u64, usize>,
}

impl<'h> Operations<'h> {
    pub(super) fn collect(lines: &'h [Line]) -> Result<Self, Malformed> {
        let mut operations = Self { all: pair(lines)?, ..Self::default() };
        for operation in operations.all.clone() {
            operations.group(operation)?;
        }
        Ok(operations)
    }

    /// The append that a record belongs to.
    pub(super) fn owner_of(&self, record: u64) -> Option<&Append<'h>> {
        self.appends.get(*self.owner.get(&record)?)
    }

    fn group(&mut self, operation: Operation<'h>) -> Result<(), Malformed> {
        let Call::Append { stream, records, .. } = operation.call else { return Ok(()) };
        let Some(first) = records.first() else {
            return Err(Malformed::EmptyAppend { line: operation.invoked });
        };
        if let Some(append) = self.owner.get(first).and_then(|place| self.appends.get_mut(*place)) {
            if append.stream != stream || append.records != records.as_slice() {
                return Err(Malformed::RecordOfTwoAppends { record: *first });
            }
            append.attempts.push(operation);
            return Ok(());
        }
        for record in records {
            if self.owner.insert(*record, self.appends.len()).is_some() {
                return Err(Malformed::RecordOfTwoAppends { record: *record });
            }
        }
        self.appends.push(Append { stream, records, attempts: vec![operation] });
        Ok(())
    }
}

fn pair(lines: &[Line]) -> Result<Vec<Operation<'_>>, Malformed> {
    let mut all: Vec<Operation<'_>> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut known: HashMap<u64, usize> = HashMap::new();
    let mut now = 0;
    for (line, Line { t_ns, process, event }) in lines.iter().enumerate() {
        if *t_ns < now {
            return Err(Malformed::ClockWentBack { line });
        }
        now = *t_ns;
        let (op, end) = match event {
            Event::Invoke { op, call } => {
                if known.insert(*op, line).is_some() {
                    return Err(Malformed::BeginsTwice { line, op: *op });
                }
                open.insert(*op, all.len());
                let (end, ended) = (End::Unknown, usize::MAX);
                all.push(Operation { op: *op, process, call, invoked: line, ended, end });
                continue;
            }
            Event::Ok { op, result } => (*op, End::Ok(result)),
            Event::Fail { op, .. } => (*op, End::Fail),
            Event::Unknown { op, .. } => (*op, End::Unknown),
            Event::Fault { .. } => continue,
        };
        let Some(operation) = open.remove(&op).and_then(|place| all.get_mut(place)) else {
            return Err(Malformed::EndsWithoutBegin { line, op });
        };
        if let End::Ok(result) = end
            && !belongs(operation.call, result)
        {
            return Err(Malformed::WrongResult { line, op });
        }
        operation.end = end;
        operation.ended = line;
    }
    Ok(all)
}

fn belongs(call: &Call, result: &Outcome) -> bool {
    match call {
        Call::Append { .. } => matches!(result, Outcome::Appended { .. }),
        Call::Read { .. } => matches!(result, Outcome::Read { .. }),
        Call::Tail { .. } => matches!(result, Outcome::Tail { .. }),
        Call::InitProducer { .. } => matches!(result, Outcome::InitProducer { .. }),
        Call::Push { .. } => matches!(result, Outcome::Accepted { .. }),
        Call::Effects { .. } => matches!(result, Outcome::Effects { .. }),
        Call::Chunks { .. } => matches!(result, Outcome::Chunks { .. }),
    }
}

/// The final log of one stream.
#[derive(Debug, Default)]
pub(super) struct FinalLog {
    pub records: Vec<u64>,
    /// Offsets of each record, ascending; one each if all is well.
    pub places: HashMap<u64, Vec<u64>>,
}

impl FinalLog {
    fn new(records: Vec<u64>) -> Self {
        let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
        for (offset, record) in (0_u64..).zip(&records) {
            places.entry(*record).or_default().push(offset);
        }
        Self { records, places }
    }

    pub(super) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// The records from an offset on, at most this many; fewer where the log ends.
    pub(super) fn cut(&self, first: u64, count: usize) -> &[u64] {
        let begin = usize::try_from(first).unwrap_or(usize::MAX).min(self.records.len());
        let end = begin.saturating_add(count).min(self.records.len());
        self.records.get(begin..end).unwrap_or(&[])
    }

    /// Offsets of a record; empty if it is not in the log.
    pub(super) fn places_of(&self, record: u64) -> &[u64] {
        self.places.get(&record).map_or(&[], Vec::as_slice)
    }
}

/// The final log of each stream that had a complete read.
#[derive(Debug, Default)]
pub(super) struct FinalLogs<'h>(pub BTreeMap<&'h str, FinalLog>);

impl<'h> FinalLogs<'h> {
    /// Takes the first complete read of each stream; the others are compared with it.
    pub(super) fn collect(operations: &Operations<'h>, report: &mut Report) -> Self {
        let mut logs = Self::default();
        for operation in &operations.all {
            let (Call::Read { stream, complete: true, path, .. }, End::Ok(result)) =
                (operation.call, operation.end)
            else {
                continue;
            };
            let Outcome::Read { pieces, caught_up } = result else { continue };
            let records = joined(stream, pieces, report);
            let end = records.len() as u64;
            if *caught_up != Some(end) {
                report.violate(
                    Rule::Complete,
                    stream,
                    format!("the read by {path:?} gave {end} records and ended at {caught_up:?}"),
                );
            }
            match logs.0.get(stream.as_str()) {
                None => {
                    report.counts.logged += end;
                    logs.0.insert(stream, FinalLog::new(records));
                }
                Some(log) if log.records != records => {
                    let differs = log.records.iter().zip(&records).take_while(|(a, b)| a == b);
                    report.violate(
                        Rule::Complete,
                        stream,
                        format!(
                            "the read by {path:?} has {end} records, another one {}; they differ \
                             from offset {} on",
                            log.len(),
                            differs.count()
                        ),
                    );
                }
                Some(_) => {}
            }
        }
        for append in &operations.appends {
            if !logs.0.contains_key(append.stream) {
                report.violate(Rule::Complete, append.stream, "there is no complete read");
                logs.0.insert(append.stream, FinalLog::default());
            }
        }
        logs
    }

    pub(super) fn of(&self, stream: &str) -> Option<&FinalLog> {
        self.0.get(stream)
    }
}

/// The records of a complete read up to its first fault.
fn joined(stream: &str, pieces: &[Piece], report: &mut Report) -> Vec<u64> {
    let mut records = Vec::new();
    for piece in pieces {
        let next = records.len() as u64;
        if piece.first != next {
            report.violate(
                Rule::Complete,
                stream,
                format!("offset {next} was due and {} came", piece.first),
            );
            break;
        }
        records.extend_from_slice(&piece.records);
    }
    records
}
