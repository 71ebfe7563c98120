//! The naive model of commands.

use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, StreamId};
use stored::command::Command;

use super::{MProducer, MSeal, MStream, Model};
use crate::state::{ControlOutcome, ControlRefused, ProducerReady};

const DAY_MS: u64 = 86_400_000;

type Result = std::result::Result<ControlOutcome, ControlRefused>;

impl Model {
    fn alive(&mut self, id: u64) -> std::result::Result<&mut MStream, ControlRefused> {
        let found = self.streams.iter_mut().find(|stream| stream.alive && stream.id == id);
        found.ok_or(ControlRefused::NotFound)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each command")]
    pub(super) fn command(&mut self, index: u64, command: &Command) -> Result {
        if !self.founded && !matches!(command, Command::Bootstrap(_)) {
            return Err(ControlRefused::NotFounded);
        }
        let time_ms = self.time_ms();
        match command {
            Command::Bootstrap(bootstrap) if self.founded && bootstrap.cluster_id[0] != 7 => {
                Err(ControlRefused::Foreign)
            }
            Command::Bootstrap(_) => {
                self.founded = true;
                self.level = self.level.max(1);
                Ok(ControlOutcome::Founded)
            }
            Command::CreateStream(create) => self.create(create),
            Command::PutStream(put) => {
                let put_object = put.object.clone().unwrap();
                let stream = self.alive(put.stream_id)?;
                if put.expected.as_ref().is_some_and(|expected| *expected != stream.object) {
                    return Err(ControlRefused::DeclaredSince);
                }
                older(&stream.object, &put_object)?;
                let is_another = stream.object.uid != put_object.uid;
                stream.turns += u32::from(put.opens_for_another && is_another && stream.closed());
                stream.object = put_object;
                Ok(ControlOutcome::StreamPut)
            }
            Command::DeleteStream(delete) => {
                let stream = self.alive(delete.stream_id)?;
                stream.alive = false;
                stream.deleting = Some((index, time_ms));
                Ok(ControlOutcome::Deleted)
            }
            Command::SetClosed(set) => {
                let stream = self.alive(set.stream_id)?;
                stream.turns += u32::from(stream.closed() != set.closed);
                Ok(ControlOutcome::ClosedSet { revision: 1 + stream.turns })
            }
            Command::Trim(trim) => {
                let stream = self.alive(trim.stream_id)?;
                let next = stream.next();
                if trim.first_offset > next {
                    return Err(ControlRefused::BeyondNext { next: Offset::new(next) });
                }
                stream.first = stream.first.max(trim.first_offset);
                Ok(ControlOutcome::Trimmed { first: Offset::new(stream.first) })
            }
            Command::Seal(seal) => self.seal(index, seal),
            Command::ChunkCommitted(commit) => self.commit(commit),
            Command::SealAbandoned(abandoned) => {
                let mut same = self.streams.iter().filter(|one| one.id == abandoned.stream_id);
                match same.next_back() {
                    Some(stream) if stream.alive => Err(ControlRefused::StreamAlive),
                    Some(_) => Ok(ControlOutcome::Abandoned),
                    None => Err(ControlRefused::NotFound),
                }
            }
            Command::StreamObjectsDeleted(deleted) => {
                let mut same = self.streams.iter_mut().filter(|one| one.id == deleted.stream_id);
                match same.next_back() {
                    Some(stream) if stream.alive => Err(ControlRefused::StreamAlive),
                    Some(stream) => {
                        stream.deleting = None;
                        Ok(ControlOutcome::ObjectsDeleted)
                    }
                    None => Err(ControlRefused::NotFound),
                }
            }
            Command::StreamKeyStored(stored) => {
                let r = *self.alive(stored.stream_id)?.key_r.get_or_insert(stored.r);
                Ok(ControlOutcome::KeyStored { r })
            }
            Command::InitProducer(init) => self.init(init),
            Command::PutSubscription(put) => self.put_subscription(put),
            Command::DeleteSubscription(delete) => self.delete_subscription(&delete.name),
            Command::SetFeatureLevel(set) if set.level < self.level => {
                Err(ControlRefused::LowerLevel { level: self.level })
            }
            Command::SetFeatureLevel(set) => {
                self.level = set.level;
                Ok(ControlOutcome::FeatureLevelSet)
            }
            Command::SetTime(_) => Ok(ControlOutcome::TimeSet { time_ms }),
        }
    }

    fn create(&mut self, create: &stored::CreateStream) -> Result {
        let Some(key) = &create.wrapped_key else {
            return Err(ControlRefused::Invalid { what: "no wrapped key" });
        };
        assert_eq!(key.wrapped.len(), 40);
        if let Some(taken) = self.streams.iter().find(|one| one.alive && one.name == create.name) {
            let stream_id = StreamId::new(taken.id).unwrap();
            return Err(ControlRefused::NameTaken { stream_id });
        }
        if self.streams.iter().any(|stream| stream.id == create.stream_id) {
            return Err(ControlRefused::IdUsed);
        }
        self.streams.push(MStream {
            id: create.stream_id,
            name: create.name.clone(),
            alive: true,
            object: create.object.clone().unwrap(),
            turns: 0,
            first: 0,
            batches: vec![],
            seals: vec![],
            key_r: None,
            producers: vec![],
            producers_made: 0,
            safe: vec![],
            last_time_ms: 0,
            deleting: None,
        });
        Ok(ControlOutcome::Created)
    }

    fn seal(&mut self, index: u64, seal: &stored::Seal) -> Result {
        let stream = self.alive(seal.stream_id)?;
        if seal.next_offset <= seal.base_offset {
            return Err(ControlRefused::Invalid { what: "an empty range" });
        }
        if seal.base_offset != stream.sealed() {
            let sealed = Offset::new(stream.sealed());
            return Err(ControlRefused::NotContiguous { sealed });
        }
        if seal.next_offset > stream.next() {
            return Err(ControlRefused::BeyondNext { next: Offset::new(stream.next()) });
        }
        let (base, next) = (seal.base_offset, seal.next_offset);
        stream.seals.push(MSeal { base, next, intent: index, committed: None });
        Ok(ControlOutcome::Sealed { intent: index })
    }

    fn commit(&mut self, commit: &stored::ChunkCommitted) -> Result {
        let stream = self.alive(commit.stream_id)?;
        if stream.key_r.is_none() {
            return Err(ControlRefused::KeyNotStored);
        }
        let (shipped, digest) = (stream.shipped(), stream.digest());
        let chunk = commit.chunk.as_ref().unwrap();
        let Some(seal) = stream.seals.iter_mut().find(|seal| seal.intent == commit.intent) else {
            return Err(ControlRefused::IntentClosed);
        };
        if seal.committed.is_some() {
            return Err(ControlRefused::IntentClosed);
        }
        if chunk.base_offset != seal.base
            || chunk.next_offset != seal.next
            || chunk.intent != seal.intent
        {
            return Err(ControlRefused::OtherRange);
        }
        if seal.base > shipped {
            return Err(ControlRefused::AboveShipped { shipped: Offset::new(shipped) });
        }
        if commit.digest_before != digest {
            return Err(ControlRefused::OtherDigest);
        }
        seal.committed = Some(commit.digest_after.to_vec());
        Ok(ControlOutcome::Committed)
    }

    fn init(&mut self, init: &stored::InitProducer) -> Result {
        let running_ms = self.running_ms();
        let stream = self.alive(init.stream_id)?;
        let who = (init.identity.clone(), init.name.clone());
        for place in 0..stream.producers.len() {
            if stream.producers[place].who == who {
                let producer = &mut stream.producers[place];
                producer.epoch += 1;
                producer.used_ms = running_ms;
                let (id, epoch) = (producer.id, producer.epoch);
                let next_sequence = stream.next_sequence(&stream.producers[place]);
                let ready = ProducerReady { id, epoch, next_sequence, known: true };
                return Ok(ControlOutcome::ProducerReady(ready));
            }
        }
        if init.resume_sequence.is_some() {
            return Err(ControlRefused::UnknownProducer);
        }
        if stream.producers.iter().any(|producer| producer.id == init.new_id) {
            return Err(ControlRefused::IdUsed);
        }
        if stream.producers.len() == 1024 {
            stream.producers.sort_by_key(|producer| (producer.used_ms, producer.id));
            if running_ms - stream.producers[0].used_ms < DAY_MS {
                return Err(ControlRefused::TooManyProducers);
            }
            stream.producers.remove(0);
        }
        let (number, id) = (stream.producers_made, init.new_id);
        stream.producers_made += 1;
        stream.producers.push(MProducer { id, number, who, epoch: 1, used_ms: running_ms });
        let ready = ProducerReady { id, epoch: 1, next_sequence: 0, known: false };
        Ok(ControlOutcome::ProducerReady(ready))
    }

    fn delete_subscription(&mut self, name: &str) -> Result {
        let count = self.subscriptions.len();
        self.subscriptions.retain(|one| one.name != name);
        if self.subscriptions.len() == count {
            return Err(ControlRefused::NotFound);
        }
        Ok(ControlOutcome::SubscriptionDeleted)
    }

    fn put_subscription(&mut self, put: &stored::PutSubscription) -> Result {
        let subscription = put.subscription.clone().unwrap();
        if let Some(present) =
            self.subscriptions.iter_mut().find(|present| present.name == subscription.name)
        {
            older(present.object.as_ref().unwrap(), subscription.object.as_ref().unwrap())?;
            *present = subscription;
        } else {
            self.subscriptions.push(subscription);
        }
        Ok(ControlOutcome::SubscriptionPut)
    }
}

fn older(
    present: &stored::ObjectRef,
    put: &stored::ObjectRef,
) -> std::result::Result<(), ControlRefused> {
    let generation = present.generation;
    if present.uid == put.uid && put.generation < generation {
        Err(ControlRefused::OlderGeneration { generation })
    } else {
        Ok(())
    }
}
