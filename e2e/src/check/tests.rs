//! Hand-made histories: for each rule some that break it and the nearest that do not.

mod appends;
mod effects;
mod producers;
mod pushes;
mod quiet;
mod random;
mod reads;
mod sessions;

use std::collections::BTreeMap;

use super::{Least, Report, Rule, check};
use crate::history::{Call, Event, Line, Outcome, Piece, Producer, ReadPath};

const STREAM: &str = "orders";

/// A history in the making. Each method that takes no time of its own is an operation that ends
/// before the next one begins.
#[derive(Clone, Default)]
struct Story {
    lines: Vec<Line>,
    next_op: u64,
}

impl Story {
    fn line(&mut self, process: &str, event: Event) {
        let t_ns = self.lines.len() as u64;
        self.lines.push(Line { t_ns, process: process.to_owned(), event });
    }

    fn begin(&mut self, process: &str, call: Call) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        self.line(process, Event::Invoke { op, call });
        op
    }

    fn end(&mut self, op: u64, result: Outcome) {
        self.line("anybody", Event::Ok { op, result });
    }

    fn done(mut self, process: &str, call: Call, result: Outcome) -> Self {
        let op = self.begin(process, call);
        self.end(op, result);
        self
    }

    /// Acknowledged at this offset.
    fn append(self, records: &[u64], first: u64) -> Self {
        self.done("producer", append(records), appended(records, first))
    }

    /// Refused for certain.
    fn refused(mut self, records: &[u64]) -> Self {
        let op = self.begin("producer", append(records));
        self.line("producer", Event::Fail { op, reason: "WRONG_OFFSET".into() });
        self
    }

    /// Nobody knows.
    fn unanswered(mut self, records: &[u64]) -> Self {
        let op = self.begin("producer", append(records));
        self.line("producer", Event::Unknown { op, reason: "cut off".into() });
        self
    }

    /// A read in the middle of the run.
    fn read(self, from: u64, records: &[u64]) -> Self {
        let pieces = vec![Piece { first: from, records: records.to_vec() }];
        self.done("reader", read(from, false), Outcome::Read { pieces, caught_up: None })
    }

    /// A read of everything at the end.
    fn complete(self, records: &[u64]) -> Self {
        self.complete_by(ReadPath::Writer, records)
    }

    /// Each way of reading is a session of its own.
    fn complete_by(self, path: ReadPath, records: &[u64]) -> Self {
        let session = 1 + path as u64;
        let call = Call::Read { stream: STREAM.into(), session, from: 0, path, complete: true };
        let pieces = vec![Piece { first: 0, records: records.to_vec() }];
        let caught_up = Some(records.len() as u64);
        self.done("judge", call, Outcome::Read { pieces, caught_up })
    }

    fn report(&self) -> Report {
        let least = Least { acknowledged_records: 0, sealed_chunks: 0, faults_of_each_kind: 0 };
        check(&self.lines, least).unwrap()
    }

    /// How often each rule is violated.
    fn violated(&self) -> BTreeMap<Rule, u64> {
        self.report().violated
    }
}

fn append(records: &[u64]) -> Call {
    append_with(records, None)
}

fn append_with(records: &[u64], producer: Option<Producer>) -> Call {
    let records = records.to_vec();
    Call::Append { stream: STREAM.into(), session: 0, records, expected: None, producer }
}

fn appended(records: &[u64], first: u64) -> Outcome {
    let next = Some(first + records.len() as u64);
    Outcome::Appended { first: Some(first), next, duplicate: false }
}

fn read(from: u64, complete: bool) -> Call {
    let path = ReadPath::Writer;
    Call::Read { stream: STREAM.into(), session: 0, from, path, complete }
}

/// One violation of this rule and none of another.
fn only(rule: Rule) -> BTreeMap<Rule, u64> {
    BTreeMap::from([(rule, 1)])
}

fn none() -> BTreeMap<Rule, u64> {
    BTreeMap::new()
}
