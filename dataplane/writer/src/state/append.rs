//! Appends: the checks, and what a written batch changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyramid_protocol::pb::stored::v1::ProducerBatch;
use pyramid_protocol::{Offset, StreamId};

use super::State;
use super::outcome::{Appended, Applied, Grown, Outcome, Refused, Written};
use super::producers::Known;
use super::stream::Stream;
use crate::entry::Op;

/// What the checks of an append came to.
enum Verdict {
    /// Write it; the stream ends at `next` then.
    Write { next: Offset },
    /// Written before.
    Duplicate(Option<ProducerBatch>),
    /// Not to be written.
    Refuse(Refused),
}

impl State {
    pub(super) fn append_all(&mut self, ops: &[Op], applied: &mut Applied) {
        applied.outcomes.reserve_exact(ops.len());
        let mut ends: BTreeMap<StreamId, Offset> = BTreeMap::new();
        for (place, op) in (0..).zip(ops) {
            let outcome = self.append(op);
            if let Outcome::Appended(Appended { first, next, time_ms, .. }) = outcome {
                applied.written.push(Written {
                    stream_id: op.stream_id,
                    op: place,
                    base: first,
                    record_count: op.record_count,
                    len_bytes: op.data_len,
                    time_ms,
                });
                ends.insert(op.stream_id, next);
            }
            applied.outcomes.push(outcome);
        }
        applied.grown =
            ends.into_iter().map(|(stream_id, next)| Grown { stream_id, next }).collect();
    }

    fn append(&mut self, op: &Op) -> Outcome {
        let (epoch, time_ms, running_ms) = (self.epoch, self.time_ms, self.running_ms());
        let Some(stream) = self.streams.stream(op.stream_id) else {
            return Outcome::Refused(Refused::NoStream);
        };
        let next = match verdict(stream, op, epoch) {
            Verdict::Write { next } => next,
            Verdict::Duplicate(batch) => {
                return Outcome::Duplicate(batch.map(|batch| Appended {
                    first: Offset::new(batch.first_offset),
                    next: Offset::new(batch.first_offset.saturating_add(batch.record_count.into())),
                    // A recovery forgets all producers: what is remembered is of this epoch.
                    epoch,
                    time_ms: batch.append_time_ms,
                }));
            }
            Verdict::Refuse(refused) => return Outcome::Refused(refused),
        };
        let Some(stream) = self.streams.stream_mut(op.stream_id) else {
            return Outcome::Refused(Refused::NoStream);
        };
        let first = stream.next;
        stream.next = next;
        stream.last_time_ms = time_ms;
        if let Some(producer) = op.producer {
            let batch = ProducerBatch {
                epoch: producer.epoch(),
                first_sequence: producer.first_sequence(),
                record_count: op.record_count,
                first_offset: first.get(),
                append_time_ms: time_ms,
            };
            Arc::make_mut(&mut stream.producers).remember(producer.id(), batch, running_ms);
        }
        Outcome::Appended(Appended { first, next, epoch, time_ms })
    }
}

/// The checks behind the stream id, in the order that decides which refusal is given.
fn verdict(stream: &Stream, op: &Op, epoch: u32) -> Verdict {
    if let Some(producer) = op.producer {
        match stream.producers.known(producer, op.record_count) {
            Known::At(batch) => return Verdict::Duplicate(Some(batch)),
            Known::LongAgo => return Verdict::Duplicate(None),
            Known::No => {}
        }
    }
    match checked(stream, op, epoch) {
        Ok(next) => Verdict::Write { next },
        Err(refused) => Verdict::Refuse(refused),
    }
}

fn checked(stream: &Stream, op: &Op, epoch: u32) -> Result<Offset, Refused> {
    if op.stream_revision != stream.revision {
        return Err(Refused::StaleRevision { revision: stream.revision });
    }
    if stream.closed {
        return Err(Refused::Closed);
    }
    if let Some(producer) = op.producer {
        stream.producers.check(producer)?;
        producer.first_sequence().checked_add(op.record_count.into()).ok_or(Refused::UsedUp)?;
    }
    if let Some(expectation) = op.expectation {
        if expectation.epoch() > epoch {
            return Err(Refused::EpochAhead { epoch });
        }
        match stream.safe_since(expectation.epoch()) {
            Some(safe) if expectation.offset() > safe => {
                return Err(Refused::EpochChanged { safe });
            }
            Some(_) | None => {}
        }
        if expectation.offset() != stream.next {
            return Err(Refused::WrongOffset { next: stream.next });
        }
    }
    stream.next.advance(op.record_count.into()).ok_or(Refused::UsedUp)
}
