//! [`Producers`]: who appends to a stream, and what each wrote last (formats.md 7).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pyramid_protocol::limits::{PRODUCER_BATCHES_MAX, PRODUCER_IDLE_MS, PRODUCERS_PER_STREAM_MAX};
use pyramid_protocol::pb::stored::v1::ProducerBatch;

use super::outcome::{ControlRefused, ProducerReady, Refused};
use crate::entry;

/// The producers of one stream, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    /// Each shared until it changes, so that an append copies one of them at most.
    pub(super) by_id: BTreeMap<u64, Arc<Producer>>,
}

/// One producer of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Whose name it is.
    pub identity: String,
    /// Unique within its identity and stream.
    pub name: String,
    /// Raised by each `InitProducer`.
    pub epoch: u32,
    /// The sequence that its next append must have.
    pub next_sequence: u64,
    /// When it was initialised or wrote last, on the clock that stands still between two terms
    /// (`State::running_ms`): time without a leader is not idle time.
    pub last_used_ms: u64,
    /// The last [`PRODUCER_BATCHES_MAX`], oldest first, without gaps, up to `next_sequence`.
    pub batches: VecDeque<ProducerBatch>,
}

/// What State knows of an append before it looks at anything else.
pub(super) enum Known {
    /// Written before, here.
    At(ProducerBatch),
    /// Written before, too long ago for its place to be remembered.
    LongAgo,
    /// Not known to be written.
    No,
}

impl Producers {
    /// The producer with this id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&Producer> {
        self.by_id.get(&id).map(|producer| &**producer)
    }

    /// Ids and producers, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Producer)> {
        self.by_id.iter().map(|(id, producer)| (*id, &**producer))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether an append was written before.
    pub(super) fn known(&self, append: entry::Producer, record_count: u32) -> Known {
        let Some(producer) = self.by_id.get(&append.id()) else {
            return Known::No;
        };
        let same = |batch: &&ProducerBatch| {
            batch.epoch == append.epoch()
                && batch.first_sequence == append.first_sequence()
                && batch.record_count == record_count
        };
        if let Some(batch) = producer.batches.iter().find(same) {
            return Known::At(*batch);
        }
        // An append that reaches into what is remembered, and is not it, was never written so.
        let end = append.first_sequence().saturating_add(record_count.into());
        match producer.batches.front() {
            Some(oldest) if append.epoch() == producer.epoch && end <= oldest.first_sequence => {
                Known::LongAgo
            }
            Some(_) | None => Known::No,
        }
    }

    /// Whether an append that was not written before is the producer's next one.
    pub(super) fn check(&self, append: entry::Producer) -> Result<(), Refused> {
        let producer = self.by_id.get(&append.id()).ok_or(Refused::UnknownProducer)?;
        if append.epoch() < producer.epoch {
            return Err(Refused::Fenced { epoch: producer.epoch });
        }
        if append.epoch() > producer.epoch {
            return Err(Refused::UnknownProducer);
        }
        if append.first_sequence() != producer.next_sequence {
            return Err(Refused::OutOfOrder { expected: producer.next_sequence });
        }
        Ok(())
    }

    /// Remembers a batch of the producer `id`; its sequence has been checked.
    pub(super) fn remember(&mut self, id: u64, batch: ProducerBatch, running_ms: u64) {
        let Some(producer) = self.by_id.get_mut(&id).map(Arc::make_mut) else { return };
        if producer.batches.len() == PRODUCER_BATCHES_MAX {
            producer.batches.pop_front();
        }
        producer.next_sequence = batch.first_sequence.saturating_add(batch.record_count.into());
        producer.last_used_ms = running_ms;
        producer.batches.push_back(batch);
    }

    /// Takes over the producer of this name, or makes it.
    pub(super) fn init(
        &mut self,
        who: &Init<'_>,
        running_ms: u64,
    ) -> Result<ProducerReady, ControlRefused> {
        let named =
            |producer: &Producer| producer.identity == who.identity && producer.name == who.name;
        if let Some((id, producer)) = self.by_id.iter_mut().find(|(_, producer)| named(producer)) {
            let producer = Arc::make_mut(producer);
            producer.epoch = producer.epoch.checked_add(1).ok_or(ControlRefused::UsedUp)?;
            producer.last_used_ms = running_ms;
            let (epoch, next_sequence) = (producer.epoch, producer.next_sequence);
            return Ok(ProducerReady { id: *id, epoch, next_sequence, known: true });
        }
        if who.resumes {
            return Err(ControlRefused::UnknownProducer);
        }
        if self.by_id.contains_key(&who.new_id) {
            return Err(ControlRefused::IdUsed);
        }
        if self.by_id.len() >= PRODUCERS_PER_STREAM_MAX {
            let idlest = self.longest_idle(running_ms).ok_or(ControlRefused::TooManyProducers)?;
            self.by_id.remove(&idlest);
        }
        let producer = Producer {
            identity: who.identity.into(),
            name: who.name.into(),
            epoch: FIRST_EPOCH,
            next_sequence: 0,
            last_used_ms: running_ms,
            batches: VecDeque::new(),
        };
        self.by_id.insert(who.new_id, Arc::new(producer));
        Ok(ProducerReady { id: who.new_id, epoch: FIRST_EPOCH, next_sequence: 0, known: false })
    }

    /// The one that has been idle longest, if that is long enough to drop it; the smaller id of two.
    fn longest_idle(&self, running_ms: u64) -> Option<u64> {
        let (id, producer) =
            self.by_id.iter().min_by_key(|(id, producer)| (producer.last_used_ms, **id))?;
        (running_ms.saturating_sub(producer.last_used_ms) >= PRODUCER_IDLE_MS).then_some(*id)
    }
}

/// A new producer's epoch.
const FIRST_EPOCH: u32 = 1;

/// Who wants to become a producer.
pub(super) struct Init<'a> {
    pub(super) identity: &'a str,
    pub(super) name: &'a str,
    /// The caller has used the name before.
    pub(super) resumes: bool,
    /// Used if the name is not held.
    pub(super) new_id: u64,
}
