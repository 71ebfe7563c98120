//! One stream: do its chunks follow one another? Pure: candidates in, findings out.
//!
//! Several objects may claim one range: attempts of one upload, and left-overs of an older history.
//! Of all ways through the stream, the one is taken that ends in the newest history, reaches
//! farthest and holds the fewest damaged chunks; what lies beside it is extra. Where no chunk
//! follows, the walk goes on behind the hole, so one lost chunk is one finding.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use pyramid_protocol::Offset;

use super::{
    Expected,
    chunks::{Candidate, Facts},
    report::{Finding, Kind, Note, NoteKind, Span, StreamLabel, StreamTotal},
};
use crate::chunk::{DIGEST_LEN, DIGEST_START};

/// What was found of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) total: StreamTotal,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<Note>,
}

/// Judges the objects of one stream.
pub(super) fn chain(
    stream: &StreamLabel,
    mut candidates: Vec<Candidate>,
    expected: Option<&Expected>,
) -> Outcome {
    candidates.sort_by(|a, b| a.key.cmp(&b.key));
    let ways = Ways::new(&candidates, expected);
    let begin = match expected {
        Some(expected) => expected.begin(),
        None => candidates.first().map_or(Offset::START, |first| first.name.base_offset),
    };
    let mut walk = Walk {
        stream,
        candidates: &candidates,
        ways: &ways,
        chosen: Vec::new(),
        blamed: BTreeSet::new(),
        findings: Vec::new(),
    };
    walk.run(begin, expected.map(Expected::end));
    walk.finish(begin, expected)
}

/// How good the way from a chunk to its end is. The greatest is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Of the last chunk.
    epoch: u32,
    reach: Offset,
    damaged: Reverse<u32>,
    generation: u32,
    intent: u64,
}

/// The chunks with an authentic head that may be a part of the stream, and the ways behind them.
struct Ways<'a> {
    usable: BTreeMap<Offset, Vec<Usable<'a>>>,
}

#[derive(Clone, Copy)]
struct Usable<'a> {
    /// Its place among the candidates.
    place: usize,
    base_offset: Offset,
    facts: &'a Facts,
    score: Score,
}

/// What the next chunk must follow.
#[derive(Clone, Copy)]
struct End {
    /// `None` behind a hole: what was there is not known.
    digest: Option<[u8; DIGEST_LEN]>,
    time_ms: u64,
    epoch: u32,
}

impl End {
    const START: Self = Self { digest: Some(DIGEST_START), time_ms: 0, epoch: 0 };
    const UNKNOWN: Self = Self { digest: None, time_ms: 0, epoch: 0 };

    fn of(facts: &Facts) -> Self {
        let Facts { digest_after, last_time_ms, epoch, .. } = facts;
        Self { digest: Some(*digest_after), time_ms: *last_time_ms, epoch: *epoch }
    }

    fn is_followed_by(&self, facts: &Facts) -> bool {
        self.digest.is_none_or(|digest| digest == facts.digest_before)
            && self.time_ms <= facts.first_time_ms
            && self.epoch <= facts.epoch
    }
}

impl<'a> Ways<'a> {
    fn new(candidates: &'a [Candidate], expected: Option<&Expected>) -> Self {
        let mut ways = Self { usable: BTreeMap::new() };
        // From the back: a way is known when all behind it are.
        for (place, candidate) in candidates.iter().enumerate().rev() {
            let Some(facts) = &candidate.facts else { continue };
            let base_offset = candidate.name.base_offset;
            let is_referred = expected.is_none_or(|expected| {
                expected.refers_to(base_offset, facts.next_offset, &facts.head_sha256)
            });
            if !is_referred {
                continue;
            }
            let end = End::of(facts);
            let behind = ways.best(facts.next_offset, |next| end.is_followed_by(next));
            let own_damage = u32::from(candidate.problem.is_some());
            let score = Score {
                epoch: behind.map_or(facts.epoch, |behind| behind.score.epoch),
                reach: behind.map_or(facts.next_offset, |behind| behind.score.reach),
                damaged: Reverse(
                    behind.map_or(0, |behind| behind.score.damaged.0).saturating_add(own_damage),
                ),
                generation: facts.generation,
                intent: candidate.name.intent,
            };
            let usable = Usable { place, base_offset, facts, score };
            ways.usable.entry(base_offset).or_default().push(usable);
        }
        ways
    }

    /// The chunk at this offset from which the best way leads on.
    fn best(&self, at: Offset, may: impl Fn(&Facts) -> bool) -> Option<Usable<'a>> {
        let here = self.usable.get(&at)?;
        here.iter().filter(|usable| may(usable.facts)).max_by_key(|usable| usable.score).copied()
    }

    /// Where the next chunk behind this offset begins.
    fn next_base(&self, behind: Offset) -> Option<Offset> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.usable.range((Excluded(behind), Unbounded)).next().map(|(base, _)| *base)
    }
}

/// The way through the stream as far as it is walked.
struct Walk<'a> {
    stream: &'a StreamLabel,
    candidates: &'a [Candidate],
    ways: &'a Ways<'a>,
    /// In the order of offsets.
    chosen: Vec<Usable<'a>>,
    /// Places of candidates that a finding names already.
    blamed: BTreeSet<usize>,
    findings: Vec<Finding>,
}

impl<'a> Walk<'a> {
    fn run(&mut self, begin: Offset, to: Option<Offset>) {
        let mut cursor = begin;
        let mut end = if begin == Offset::START { End::START } else { End::UNKNOWN };
        loop {
            if let Some(next) = self.ways.best(cursor, |facts| end.is_followed_by(facts)) {
                self.choose(next);
                (cursor, end) = (next.facts.next_offset, End::of(next.facts));
            } else if let Some(stranger) = self.ways.best(cursor, |_| true) {
                self.blame(stranger.place, Kind::BrokenChain, Some(stranger.facts.next_offset));
                self.choose(stranger);
                (cursor, end) = (stranger.facts.next_offset, End::of(stranger.facts));
            } else if let Some(next) = self.ways.next_base(cursor) {
                self.hole(cursor, Some(next));
                (cursor, end) = (next, End { digest: None, ..end });
            } else {
                return self.hole(cursor, to);
            }
        }
    }

    fn choose(&mut self, usable: Usable<'a>) {
        let problem = self.candidates.get(usable.place).and_then(|found| found.problem.clone());
        if let Some(problem) = problem {
            self.blame(usable.place, problem, Some(usable.facts.next_offset));
        }
        self.chosen.push(usable);
    }

    /// No authentic chunk holds the offsets from `from` on, below `until` or to the end. What lies
    /// there damaged is blamed for what it may have held, the rest is missing.
    fn hole(&mut self, from: Offset, until: Option<Offset>) {
        // Candidates are in the order of their names, and so of their offsets.
        let first = self.candidates.partition_point(|found| found.name.base_offset < from);
        let bad: Vec<(usize, &Candidate)> = self
            .candidates
            .iter()
            .enumerate()
            .skip(first)
            .take_while(|(_, found)| until.is_none_or(|until| found.name.base_offset < until))
            .filter(|(_, found)| found.facts.is_none())
            .collect();
        let mut reached = from;
        for (index, &(place, candidate)) in bad.iter().enumerate() {
            let base = candidate.name.base_offset;
            if reached < base {
                self.missing(reached, base);
            }
            let next_bad = bad.iter().skip(index).map(|(_, other)| other.name.base_offset);
            let limit = next_bad.into_iter().find(|other| *other > base).or(until);
            let claimed = candidate.claimed_next.filter(|next| *next > base);
            let end = match (claimed, limit) {
                (Some(claimed), Some(limit)) => Some(claimed.min(limit)),
                (claimed, limit) => claimed.or(limit),
            };
            let problem = candidate.problem.clone().unwrap_or(Kind::Damaged);
            self.blame(place, problem, end);
            reached = reached.max(end.unwrap_or(base));
        }
        if let Some(until) = until
            && reached < until
        {
            self.missing(reached, until);
        }
    }

    fn missing(&mut self, from: Offset, to: Offset) {
        self.findings.push(Finding {
            kind: Kind::Missing,
            object: None,
            stream: Some(self.stream.clone()),
            offsets: Some(Span { from, to: Some(to) }),
        });
    }

    fn blame(&mut self, place: usize, kind: Kind, to: Option<Offset>) {
        let Some(candidate) = self.candidates.get(place) else { return };
        self.blamed.insert(place);
        self.findings.push(Finding {
            kind,
            object: Some(candidate.key.to_string()),
            stream: Some(self.stream.clone()),
            offsets: Some(Span { from: candidate.name.base_offset, to }),
        });
    }

    /// Whether the chosen chunks hold this range, or are of a newer history there.
    fn is_covered(&self, base: Offset, facts: &Facts) -> bool {
        let behind = self.chosen.partition_point(|chosen| chosen.base_offset <= base);
        let holder = behind.checked_sub(1).and_then(|place| self.chosen.get(place));
        let Some(holder) = holder.filter(|holder| base < holder.facts.next_offset) else {
            return false;
        };
        let mut reached = holder.facts.next_offset;
        for next in self.chosen.iter().skip(behind) {
            if next.base_offset != reached {
                break;
            }
            reached = next.facts.next_offset;
        }
        facts.epoch < holder.facts.epoch || facts.next_offset <= reached
    }

    fn finish(mut self, begin: Offset, expected: Option<&Expected>) -> Outcome {
        let mut notes = Vec::new();
        let note = |kind, object: Option<&Candidate>, offsets| Note {
            kind,
            object: object.map(|candidate| candidate.key.to_string()),
            stream: Some(self.stream.clone()),
            offsets: Some(offsets),
        };
        if expected.is_none() && begin > Offset::START {
            let offsets = Span { from: Offset::START, to: Some(begin) };
            notes.push(note(NoteKind::BeginsLater, None, offsets));
        }
        let chosen: BTreeSet<usize> = self.chosen.iter().map(|chosen| chosen.place).collect();
        let mut strangers = Vec::new();
        for (place, candidate) in self.candidates.iter().enumerate() {
            if chosen.contains(&place) || self.blamed.contains(&place) {
                continue;
            }
            let base = candidate.name.base_offset;
            let to = candidate.facts.as_ref().map(|facts| facts.next_offset);
            let to = to.or(candidate.claimed_next);
            let is_extra = expected.is_some()
                || candidate.facts.as_ref().is_none_or(|facts| self.is_covered(base, facts));
            if !is_extra {
                strangers.push((place, candidate.problem.clone(), to));
                continue;
            }
            let kind = match &candidate.problem {
                None => NoteKind::Extra,
                Some(problem) => NoteKind::BadExtra { problem: problem.clone() },
            };
            notes.push(note(kind, Some(candidate), Span { from: base, to }));
        }
        for (place, problem, to) in strangers {
            self.blame(place, problem.unwrap_or(Kind::BrokenChain), to);
        }
        let total = self.total(begin);
        Outcome { total, findings: self.findings, notes }
    }

    fn total(&self, begin: Offset) -> StreamTotal {
        let good = self.chosen.iter().filter(|chosen| {
            self.candidates.get(chosen.place).is_some_and(|found| found.problem.is_none())
        });
        let mut total = StreamTotal {
            stream_id: self.stream.id,
            name: self.stream.name.clone(),
            first_offset: begin,
            next_offset: begin,
            chunks: 0,
            records: 0,
            stored_bytes: 0,
            plain_bytes: 0,
        };
        for chunk in good {
            if total.chunks == 0 {
                total.first_offset = chunk.base_offset;
            }
            total.next_offset = chunk.facts.next_offset;
            total.chunks += 1;
            total.records += chunk.facts.next_offset.get() - chunk.base_offset.get();
            total.stored_bytes += chunk.facts.total_len;
            total.plain_bytes += chunk.facts.plain_bytes;
        }
        total
    }
}
