//! The exact checker of a log's history.
//!
//! After all faults have ended, one complete read of each stream gives the final log. Content
//! identifies appends, so the final log fixes the order of all of them, and each rule below is a
//! comparison with it: nothing is guessed, no search is made, and the cost is O(n log n).
//!
//! | rule | what must hold |
//! |---|---|
//! | [`Rule::Complete`] (C1) | the final log is 0..n, and every way of reading gives the same |
//! | [`Rule::Acknowledged`] (C2) | an acknowledged append is in the log once, at its offset |
//! | [`Rule::NotMore`] (C3) | each record belongs to an append that was asked for and not refused |
//! | [`Rule::Prefix`] (C4) | every read ever made is a cut of the final log |
//! | [`Rule::Batch`] (C5) | the records of one append stand together, all or none |
//! | [`Rule::Session`] (C7) | a session never goes back and sees its own appends |
//! | [`Rule::Producer`] (C8) | sequence order is offset order, without gaps, once, and fenced |
//! | [`Rule::Push`] (C9) | pushes that were accepted follow each other without gap or repeat |
//! | [`Rule::Effects`] (C10) | what the application stored is the log up to its position |
//!
//! C6, linearizability, is not judged here. A run in which little happened proves little, so
//! [`Report::too_quiet`] names what was missing, and [`Report::verdict`] fails for it too.

mod appends;
mod effects;
mod operations;
mod producers;
mod pushes;
mod reads;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Event, Fault, Line, Phase};

pub use operations::Malformed;
use operations::{FinalLogs, Operations};

/// Violations of one rule that are told in full; the others are only counted.
const TOLD_PER_RULE_MAX: usize = 10;

/// A rule of the checker; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    Complete,
    Acknowledged,
    NotMore,
    Prefix,
    Batch,
    Session,
    Producer,
    Push,
    Effects,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "C1 complete",
            Self::Acknowledged => "C2 acknowledged",
            Self::NotMore => "C3 not more",
            Self::Prefix => "C4 prefix",
            Self::Batch => "C5 batch",
            Self::Session => "C7 session",
            Self::Producer => "C8 producer",
            Self::Push => "C9 push",
            Self::Effects => "C10 effects",
        })
    }
}

/// One promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub stream: String,
    /// What was expected and what was found, with numbers.
    pub detail: String,
}

/// What a run must at least have done to count. A count equal to the least is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Least {
    pub acknowledged_records: u64,
    pub sealed_chunks: u64,
    /// Confirmed faults of each kind.
    pub faults_of_each_kind: u64,
}

impl Default for Least {
    fn default() -> Self {
        Self { acknowledged_records: 10_000, sealed_chunks: 10, faults_of_each_kind: 1 }
    }
}

/// How much happened. Unit of the fields without another word: records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of appends that were acknowledged at least once.
    pub acknowledged: u64,
    /// Of appends whose answer never came, that are in the log.
    pub unknown_found: u64,
    /// Of appends whose answer never came, that are not in the log.
    pub unknown_not_found: u64,
    /// Of appends that were refused for certain, at every attempt.
    pub refused: u64,
    /// Of appends that were tried more than once.
    pub retried: u64,
    /// Acknowledged, but not in the log.
    pub lost: u64,
    /// Copies in the log beyond the first.
    pub duplicated: u64,
    /// Acknowledged and in the log, but not at the acknowledged offset.
    pub reordered: u64,
    /// In the log, but never asked for or refused for certain.
    pub invented: u64,
    /// In final logs.
    pub logged: u64,
    /// Seen by all reads together, the complete ones included.
    pub read: u64,
    /// In pushes that applications accepted.
    pub pushed: u64,
    /// Rows that applications had stored at the end.
    pub effects: u64,
    /// Records that should have been among those rows but were not.
    pub effects_lost: u64,
    /// Rows of records that have another row too.
    pub effects_duplicated: u64,
    /// Rows that stand at another record's offset.
    pub effects_reordered: u64,
    /// Chunks in the object store, all streams together.
    pub sealed_chunks: u64,
    /// Confirmed faults.
    pub faults: BTreeMap<Fault, u64>,
}

/// The verdict on a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub counts: Counts,
    /// What happened too seldom; empty if the run counts.
    pub too_quiet: Vec<String>,
    /// The first violations of each rule.
    pub violations: Vec<Violation>,
    /// All violations of each rule.
    pub violated: BTreeMap<Rule, u64>,
}

impl Report {
    /// Passes the report on if nothing was violated and enough happened.
    ///
    /// # Errors
    /// Something was violated or the run was too quiet; the report says what.
    pub fn verdict(self) -> Result<Self, Box<Self>> {
        let passes = self.violated.is_empty() && self.too_quiet.is_empty();
        if passes { Ok(self) } else { Err(Box::new(self)) }
    }

    fn violate(&mut self, rule: Rule, stream: &str, detail: impl Into<String>) {
        let count = self.violated.entry(rule).or_default();
        *count += 1;
        if *count <= TOLD_PER_RULE_MAX as u64 {
            self.violations.push(Violation {
                rule,
                stream: stream.to_owned(),
                detail: detail.into(),
            });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(f, "acknowledged records    {}", counts.acknowledged)?;
        writeln!(f, "unknown, found          {}", counts.unknown_found)?;
        writeln!(f, "unknown, not found      {}", counts.unknown_not_found)?;
        writeln!(f, "refused                 {}", counts.refused)?;
        writeln!(f, "retried                 {}", counts.retried)?;
        writeln!(f, "in the final logs       {}", counts.logged)?;
        writeln!(f, "read                    {}", counts.read)?;
        writeln!(f, "pushed                  {}", counts.pushed)?;
        writeln!(f, "sealed chunks           {}", counts.sealed_chunks)?;
        for (fault, count) in &counts.faults {
            writeln!(f, "faults                  {count} {fault:?}")?;
        }
        writeln!(
            f,
            "log      {} lost, {} duplicated, {} reordered, {} invented",
            counts.lost, counts.duplicated, counts.reordered, counts.invented
        )?;
        writeln!(
            f,
            "effects  {} rows: {} lost, {} duplicated, {} reordered",
            counts.effects,
            counts.effects_lost,
            counts.effects_duplicated,
            counts.effects_reordered
        )?;
        for quiet in &self.too_quiet {
            writeln!(f, "TOO QUIET: {quiet}")?;
        }
        for (rule, count) in &self.violated {
            writeln!(f, "VIOLATED: {rule}, {count} times")?;
        }
        for Violation { rule, stream, detail } in &self.violations {
            writeln!(f, "  {rule}, stream {stream}: {detail}")?;
        }
        Ok(())
    }
}

/// Judges a history.
///
/// # Errors
/// The lines are no history, such as an end without a begin. That is a defect of who recorded it.
pub fn check(lines: &[Line], least: Least) -> Result<Report, Malformed> {
    let operations = Operations::collect(lines)?;
    let mut report = Report::default();
    let logs = FinalLogs::collect(&operations, &mut report);
    appends::check(&operations, &logs, &mut report);
    reads::check(&operations, &logs, &mut report);
    sessions::check(&operations, &mut report);
    producers::check(&operations, &logs, &mut report);
    pushes::check(&operations, &logs, &mut report);
    effects::check(&operations, &logs, &mut report);
    count_faults(lines, &mut report);
    find_quiet(least, &mut report);
    Ok(report)
}

fn count_faults(lines: &[Line], report: &mut Report) {
    // By id, so that a fault that is confirmed twice counts once.
    let confirmed: BTreeSet<(Fault, u64)> = lines
        .iter()
        .filter_map(|line| {
            let Event::Fault { id, fault, phase: Phase::Confirmed } = line.event else {
                return None;
            };
            Some((fault, id))
        })
        .collect();
    for (fault, _) in confirmed {
        *report.counts.faults.entry(fault).or_default() += 1;
    }
}

fn find_quiet(least: Least, report: &mut Report) {
    let counts = &report.counts;
    let mut quiet = Vec::new();
    let mut need = |what: String, is: u64, least: u64| {
        if is < least {
            quiet.push(format!("{is} {what}, at least {least} are needed"));
        }
    };
    need("acknowledged records".into(), counts.acknowledged, least.acknowledged_records);
    need("sealed chunks".into(), counts.sealed_chunks, least.sealed_chunks);
    for fault in Fault::ALL {
        let is = counts.faults.get(&fault).copied().unwrap_or(0);
        need(format!("confirmed faults {fault:?}"), is, least.faults_of_each_kind);
    }
    report.too_quiet = quiet;
}
