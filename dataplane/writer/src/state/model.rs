//! A naive model of State: it keeps the whole history and looks everything up by walking over it.
//!
//! It shares the words of commands and outcomes with State, and no code. `random` runs both side
//! by side.

mod commands;
mod random;

use pyramid_protocol::Offset;
use pyramid_protocol::pb::stored::v1 as stored;

use crate::entry::{Entry, LogId, Op, Stamp};
use crate::state::{Appended, ControlOutcome, ControlRefused, Deleting, Outcome, Refused};

/// Everything that ever happened.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) founded: bool,
    pub(super) epoch: u32,
    pub(super) level: u32,
    /// Stamps of entries that were taken, with the time that each led to.
    pub(super) taken: Vec<(Stamp, u64)>,
    /// Dead ones too.
    pub(super) streams: Vec<MStream>,
    pub(super) subscriptions: Vec<stored::Subscription>,
}

#[derive(Clone)]
pub(super) struct MStream {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) alive: bool,
    pub(super) object: stored::ObjectRef,
    /// How often it was closed or opened; odd: closed.
    pub(super) turns: u32,
    pub(super) first: u64,
    pub(super) batches: Vec<MBatch>,
    pub(super) seals: Vec<MSeal>,
    pub(super) key_r: Option<u64>,
    pub(super) producers: Vec<MProducer>,
    /// Producers ever made, so that a batch knows its own although an id is used again.
    pub(super) producers_made: usize,
    /// (epoch, safe offset).
    pub(super) safe: Vec<(u32, u64)>,
    pub(super) last_time_ms: u64,
    /// (index, time) of its deletion, until its objects are deleted too.
    pub(super) deleting: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct MBatch {
    pub(super) base: u64,
    pub(super) count: u64,
    pub(super) time_ms: u64,
    pub(super) index: u64,
    pub(super) op: u32,
    pub(super) len: u32,
    /// (number of the producer, its epoch, first sequence).
    pub(super) producer: Option<(usize, u32, u64)>,
}

#[derive(Clone)]
pub(super) struct MSeal {
    pub(super) base: u64,
    pub(super) next: u64,
    pub(super) intent: u64,
    /// The digest after it, once committed.
    pub(super) committed: Option<Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct MProducer {
    pub(super) id: u64,
    pub(super) number: usize,
    pub(super) who: (String, String),
    pub(super) epoch: u32,
    pub(super) used_ms: u64,
}

/// What the model says of an entry.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Appends(Vec<Outcome>),
    Control(ControlOutcome),
    Nothing,
}

impl Model {
    pub(super) fn time_ms(&self) -> u64 {
        self.taken.iter().map(|(_, time)| *time).max().unwrap_or(0)
    }

    /// Time that passed between entries of the same term.
    pub(super) fn running_ms(&self) -> u64 {
        let pairs = self.taken.iter().zip(self.taken.iter().skip(1));
        pairs.filter(|(a, b)| a.0.term == b.0.term).map(|(a, b)| b.1 - a.1).sum()
    }

    pub(super) fn apply(&mut self, at: LogId, entry: &Entry) -> Answer {
        match entry {
            Entry::Batch { stamp, ops, .. } => {
                if !self.takes(at, *stamp) {
                    return Answer::Appends(vec![Outcome::Refused(Refused::Voided); ops.len()]);
                }
                let mut outcomes = Vec::new();
                for (place, op) in ops.iter().enumerate() {
                    outcomes.push(self.append(at.index, place, op));
                }
                Answer::Appends(outcomes)
            }
            Entry::Control { stamp, command } => {
                let outcome = if self.takes(at, *stamp) {
                    self.command(at.index, command)
                } else {
                    Err(ControlRefused::Voided)
                };
                Answer::Control(outcome.unwrap_or_else(ControlOutcome::Refused))
            }
            Entry::Blank | Entry::Membership(_) => Answer::Nothing,
        }
    }

    fn takes(&mut self, at: LogId, stamp: Stamp) -> bool {
        let of_term = self.taken.iter().filter(|(taken, _)| taken.term == at.term).count() as u64;
        let right = stamp.term == at.term && stamp.number == of_term + 1;
        if right {
            let time = stamp.time_ms.max(self.time_ms());
            self.taken.push((stamp, time));
        }
        right
    }

    fn append(&mut self, index: u64, place: usize, op: &Op) -> Outcome {
        let (epoch, time_ms, running_ms) = (self.epoch, self.time_ms(), self.running_ms());
        let alive = |stream: &&mut MStream| stream.alive && stream.id == op.stream_id.get();
        let Some(stream) = self.streams.iter_mut().find(alive) else {
            return Outcome::Refused(Refused::NoStream);
        };
        if let Some(duplicate) = stream.duplicate(op, epoch) {
            return duplicate;
        }
        if let Some(refused) = stream.refusal(op, epoch) {
            return Outcome::Refused(refused);
        }
        let base = stream.next();
        let mut producer = None;
        if let Some(by) = op.producer {
            let held = stream.producers.iter_mut().find(|held| held.id == by.id()).unwrap();
            held.used_ms = running_ms;
            producer = Some((held.number, by.epoch(), by.first_sequence()));
        }
        let (count, op_number) = (u64::from(op.record_count), u32::try_from(place).unwrap());
        let batch =
            MBatch { base, count, time_ms, index, op: op_number, len: op.data_len, producer };
        let outcome = Outcome::Appended(batch.appended(epoch));
        stream.batches.push(batch);
        stream.last_time_ms = time_ms;
        outcome
    }
}

impl MBatch {
    fn appended(&self, epoch: u32) -> Appended {
        Appended {
            first: Offset::new(self.base),
            next: Offset::new(self.base + self.count),
            epoch,
            time_ms: self.time_ms,
        }
    }
}

impl MStream {
    pub(super) fn next(&self) -> u64 {
        self.batches.iter().map(|batch| batch.count).sum()
    }

    pub(super) fn shipped(&self) -> u64 {
        let committed = self.seals.iter().filter(|seal| seal.committed.is_some());
        committed.map(|seal| seal.next).max().unwrap_or(0)
    }

    pub(super) fn sealed(&self) -> u64 {
        self.seals.iter().map(|seal| seal.next).max().unwrap_or(0)
    }

    pub(super) fn digest(&self) -> Vec<u8> {
        let digests =
            self.seals.iter().filter_map(|seal| Some((seal.next, seal.committed.clone()?)));
        digests.max_by_key(|(next, _)| *next).map_or(vec![0; 32], |(_, digest)| digest)
    }

    /// What is left of it, with its id.
    pub(super) fn deleting(&self) -> Option<(u64, Deleting)> {
        let (index, deleted_ms) = self.deleting?;
        let committed = self.seals.iter().filter(|seal| seal.committed.is_some());
        let object_count = (committed.count() + self.key_r.iter().count()) as u64;
        let had_uploads = !self.seals.is_empty() || self.key_r.is_some();
        Some((self.id, Deleting { index, deleted_ms, object_count, had_uploads }))
    }

    pub(super) fn closed(&self) -> bool {
        self.turns % 2 == 1
    }

    /// All that a producer ever wrote, oldest first.
    pub(super) fn written_by(&self, producer: &MProducer) -> Vec<&MBatch> {
        let its = |batch: &&MBatch| batch.producer.is_some_and(|(by, ..)| by == producer.number);
        self.batches.iter().filter(its).collect()
    }

    pub(super) fn next_sequence(&self, producer: &MProducer) -> u64 {
        self.written_by(producer).iter().map(|batch| batch.count).sum()
    }

    fn duplicate(&self, op: &Op, epoch: u32) -> Option<Outcome> {
        let by = op.producer?;
        let producer = self.producers.iter().find(|held| held.id == by.id())?;
        let written = self.written_by(producer);
        let (forgotten, remembered) = written.split_at(written.len().saturating_sub(16));
        for batch in remembered {
            let (_, epoch_then, sequence) = batch.producer.unwrap();
            if (epoch_then, sequence, batch.count)
                == (by.epoch(), by.first_sequence(), u64::from(op.record_count))
            {
                return Some(Outcome::Duplicate(Some(batch.appended(epoch))));
            }
        }
        let forgotten: u64 = forgotten.iter().map(|batch| batch.count).sum();
        let end = u128::from(by.first_sequence()) + u128::from(op.record_count);
        let long_ago = by.epoch() == producer.epoch && end <= u128::from(forgotten);
        long_ago.then_some(Outcome::Duplicate(None))
    }

    fn refusal(&self, op: &Op, epoch: u32) -> Option<Refused> {
        if op.stream_revision != 1 + self.turns {
            return Some(Refused::StaleRevision { revision: 1 + self.turns });
        }
        if self.closed() {
            return Some(Refused::Closed);
        }
        if let Some(by) = op.producer {
            let Some(producer) = self.producers.iter().find(|held| held.id == by.id()) else {
                return Some(Refused::UnknownProducer);
            };
            let expected = self.next_sequence(producer);
            match by.epoch().cmp(&producer.epoch) {
                std::cmp::Ordering::Less => {
                    return Some(Refused::Fenced { epoch: producer.epoch });
                }
                std::cmp::Ordering::Greater => return Some(Refused::UnknownProducer),
                std::cmp::Ordering::Equal if by.first_sequence() != expected => {
                    return Some(Refused::OutOfOrder { expected });
                }
                std::cmp::Ordering::Equal => {}
            }
        }
        let expectation = op.expectation?;
        let offset = expectation.offset().get();
        if expectation.epoch() > epoch {
            return Some(Refused::EpochAhead { epoch });
        }
        // Epoch by epoch, what was expected must have survived.
        let since = expectation.epoch() + 1..=epoch;
        let safe = since.filter_map(|epoch| {
            self.safe.iter().find(|(began, _)| *began == epoch).map(|(_, safe)| *safe)
        });
        if let Some(safe) = safe.min().filter(|safe| offset > *safe) {
            return Some(Refused::EpochChanged { safe: Offset::new(safe) });
        }
        let next = self.next();
        (offset != next).then_some(Refused::WrongOffset { next: Offset::new(next) })
    }
}
