//! Random logs, applied by State and by the model side by side.

mod generator;

use std::collections::BTreeMap;
use std::io::Write as _;

use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, SeededEntropy, StreamId};
use stored::command::Command;

use super::{Answer, MStream, Model};
use crate::entry::{Entry, LogId, Stamp};
use crate::live_index::LiveIndex;
use crate::state::{Applied, State};
use generator::Generator;

const CASES: u64 = 2000;
const ENTRIES_PER_CASE: u64 = 60;
/// In each such case a stream has as many producers as it may have.
const CROWDED_EVERY: u64 = 100;

/// Every outcome that must have come up in the run, or the run was too quiet.
const KINDS: [&str; 53] = [
    "Appended",
    "Duplicate(None",
    "Duplicate(Some",
    "Refused(Voided",
    "Refused(NoStream",
    "Refused(StaleRevision",
    "Refused(Closed",
    "Refused(UnknownProducer",
    "Refused(Fenced",
    "Refused(OutOfOrder",
    "Refused(EpochAhead",
    "Refused(EpochChanged",
    "Refused(WrongOffset",
    "control Founded",
    "control Created",
    "control StreamPut",
    "control Deleted",
    "control ClosedSet",
    "control Trimmed",
    "control Sealed",
    "control Committed",
    "control Abandoned",
    "control KeyStored",
    "control ObjectsDeleted",
    "control ProducerReady",
    "control SubscriptionPut",
    "control SubscriptionDeleted",
    "control FeatureLevelSet",
    "control TimeSet",
    "control Refused(Voided",
    "control Refused(Invalid",
    "control Refused(NotFounded",
    "control Refused(Foreign",
    "control Refused(NotFound",
    "control Refused(NameTaken",
    "control Refused(IdUsed",
    "control Refused(OlderGeneration",
    "control Refused(DeclaredSince",
    "control Refused(BeyondNext",
    "control Refused(NotContiguous",
    "control Refused(KeyNotStored",
    "control Refused(IntentClosed",
    "control Refused(OtherRange",
    "control Refused(AboveShipped",
    "control Refused(OtherDigest",
    "control Refused(StreamAlive",
    "control Refused(UnknownProducer",
    "control Refused(TooManyProducers",
    "control Refused(LowerLevel",
    "step dropped entry",
    "step image restored",
    "step new term",
    "step recovery",
];

/// One random log.
struct Case {
    generator: Generator,
    model: Model,
    state: State,
    live: LiveIndex,
    /// Applies the same entries and is never restored from an image.
    second: State,
    at: LogId,
    counts: BTreeMap<String, u64>,
}

#[test]
fn state_decides_as_the_model_does() {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..CASES {
        let mut case = Case::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.run(seed)));
        assert!(ran.is_ok(), "seed {seed} failed, see above");
        for (kind, count) in case.counts {
            *counts.entry(kind).or_default() += count;
        }
    }
    // The counts are told also when the test passes; nobody need listen.
    drop(writeln!(std::io::stderr(), "State and its model, {CASES} cases: {counts:?}"));
    for kind in KINDS {
        assert!(counts.contains_key(kind), "too quiet: {kind} never came up");
    }
    // "Used up" needs counters at their largest values; the unit tests have that.
    let unknown: Vec<_> = counts.keys().filter(|kind| !KINDS.contains(&kind.as_str())).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "outcomes that KINDS does not name");
}

impl Case {
    fn new(seed: u64) -> Self {
        Self {
            generator: Generator::new(SeededEntropy::new(seed), seed.is_multiple_of(2)),
            model: Model::default(),
            state: State::default(),
            live: LiveIndex::default(),
            second: State::default(),
            at: LogId { term: 1, index: 0 },
            counts: BTreeMap::new(),
        }
    }

    fn run(&mut self, seed: u64) {
        if seed % CROWDED_EVERY == 1 {
            self.apply_all(Generator::crowd());
        } else if seed % 4 != 3 {
            self.apply_all(Generator::start());
        }
        for step in 0..ENTRIES_PER_CASE {
            match self.generator.below(100) {
                0..=2 => {
                    self.count("step image restored");
                    self.state = State::decode(&self.state.encode()).unwrap();
                }
                3..=5 => {
                    self.count("step new term");
                    self.at.term += 1 + self.generator.below(2);
                    self.apply(&Entry::Blank);
                }
                6 if !self.generator.is_calm => self.recover(),
                _ => {}
            }
            let right = self.next_stamp();
            let stamp = self.generator.stamp(right);
            if stamp.number > right.number {
                self.count("step dropped entry");
            }
            let entry = self.generator.entry(stamp, &self.model);
            self.apply(&entry);
            if step % 10 == 0 {
                self.compare();
            }
        }
        self.compare();
        assert_eq!(self.state.hash(), self.second.hash());
    }

    fn apply_all(&mut self, commands: impl Iterator<Item = Command>) {
        for command in commands {
            let stamp = self.next_stamp();
            self.apply(&Entry::Control { stamp, command });
        }
    }

    fn next_stamp(&self) -> Stamp {
        let number = self.state.last_number(self.at.term) + 1;
        Stamp { term: self.at.term, number, time_ms: self.generator.time_ms }
    }

    fn apply(&mut self, entry: &Entry) {
        self.at.index += 1;
        let decoded = Entry::decode(&entry.encode()).unwrap();
        let applied = self.state.apply(self.at, &decoded);
        let answer = match (applied.control.clone(), entry) {
            (Some(outcome), _) => Answer::Control(outcome),
            (None, Entry::Batch { .. }) => Answer::Appends(applied.outcomes.clone()),
            (None, _) => Answer::Nothing,
        };
        assert_eq!(answer, self.model.apply(self.at, entry), "{:?}: {entry:?}", self.at);
        assert_eq!(self.second.apply(self.at, entry), applied);
        self.live.apply(&applied);
        self.count_outcomes(&applied);
    }

    /// A recovery from the bucket: each stream ends with its last chunk, producers and open seals
    /// are forgotten, and a new log begins far behind the old one.
    fn recover(&mut self) {
        self.count("step recovery");
        self.at = LogId { term: self.at.term + 2, index: self.at.index + (1 << 32) };
        let mut image = self.state.to_image();
        image.epoch += 1;
        image.applied_term = self.at.term - 1;
        image.applied_index = self.at.index;
        (image.entry_term, image.entry_number) = (self.at.term - 1, 0);
        for stream in &mut image.streams {
            stream.next_offset = stream.shipped_offset;
            stream.first_offset = stream.first_offset.min(stream.next_offset);
            stream.open_seals.clear();
            stream.producers.clear();
            let safe = stored::SafeOffset { epoch: image.epoch, offset: stream.next_offset };
            stream.safe_offsets.push(safe);
        }
        self.state = State::from_image(image).unwrap();
        self.second = self.state.clone();
        self.live = LiveIndex::default();

        self.model.epoch += 1;
        for stream in self.model.streams.iter_mut().filter(|stream| stream.alive) {
            let next = stream.shipped();
            stream.batches.retain(|batch| batch.base < next);
            stream.seals.retain(|seal| seal.committed.is_some());
            stream.producers.clear();
            stream.first = stream.first.min(next);
            stream.safe.push((self.model.epoch, next));
        }
    }

    fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.into()).or_default() += 1;
    }

    fn count_outcomes(&mut self, applied: &Applied) {
        for outcome in &applied.outcomes {
            self.count(&kind(&format!("{outcome:?}")));
        }
        if let Some(outcome) = &applied.control {
            self.count(&format!("control {}", kind(&format!("{outcome:?}"))));
        }
    }

    /// Compares all that State and live index tell with what follows from the model's history.
    fn compare(&self) {
        let (state, model) = (&self.state, &self.model);
        assert_eq!(*state, self.second);
        assert_eq!(state.time_ms(), model.time_ms());
        assert_eq!(state.running_ms(), model.running_ms());
        assert_eq!(state.cluster_id().is_some(), model.founded);
        assert_eq!(state.epoch(), model.epoch);
        assert_eq!(state.feature_level(), model.level.max(1));
        assert_eq!(
            state.applied().map(|at| at.index),
            (self.at.index > 0).then_some(self.at.index)
        );
        let mut names: Vec<_> =
            model.streams.iter().filter(|one| one.alive).map(|one| &one.name).collect();
        names.sort();
        let listed = state.streams_by_name("", None).map(|stream| stream.name.to_string());
        assert!(listed.eq(names.into_iter().cloned()));
        let mut subscriptions = model.subscriptions.clone();
        subscriptions.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(state.subscriptions("").map(|one| &**one).eq(&subscriptions));
        for stream in &model.streams {
            self.compare_stream(stream);
        }
        let mut deleting: Vec<_> = state.all_deleting().map(|(id, one)| (id.get(), *one)).collect();
        deleting.sort_by_key(|(id, _)| *id);
        let mut expected: Vec<_> = model.streams.iter().filter_map(MStream::deleting).collect();
        expected.sort_by_key(|(id, _)| *id);
        assert_eq!(deleting, expected);
        let live = model.streams.iter().filter(|stream| stream.alive);
        let live =
            live.flat_map(|one| one.batches.iter().filter(|batch| batch.base >= one.shipped()));
        assert_eq!(
            self.live.len_bytes(),
            live.clone().map(|batch| u64::from(batch.len)).sum::<u64>()
        );
        assert_eq!(self.live.oldest_index(), live.map(|batch| batch.index).min());
    }

    fn compare_stream(&self, model: &MStream) {
        let id = StreamId::new(model.id).unwrap();
        assert!(self.state.is_id_used(id));
        let Some(stream) = self.state.stream(id) else {
            assert!(!model.alive);
            assert_eq!((self.live.live_from(id), self.live.live_bytes(id)), (None, 0));
            return;
        };
        assert!(model.alive);
        let offset = Offset::new;
        assert_eq!(stream.name.as_str(), model.name);
        assert_eq!(stream.object, model.object);
        assert_eq!((stream.closed, stream.revision), (model.closed(), 1 + model.turns));
        assert_eq!((stream.first, stream.next), (offset(model.first), offset(model.next())));
        assert_eq!(stream.shipped, offset(model.shipped()));
        assert_eq!(stream.sealed(), offset(model.sealed()));
        assert_eq!(stream.last_time_ms, model.last_time_ms);
        assert_eq!(
            (stream.key_object_r, stream.last_digest.to_vec()),
            (model.key_r, model.digest())
        );
        let (done, open): (Vec<_>, Vec<_>) =
            model.seals.iter().partition(|seal| seal.committed.is_some());
        let chunks = stream.chunks.iter().map(|one| (one.base_offset, one.next_offset, one.intent));
        assert!(chunks.eq(done.iter().map(|seal| (seal.base, seal.next, seal.intent))));
        let seals =
            stream.open_seals.iter().map(|one| (one.base_offset, one.next_offset, one.intent));
        assert!(seals.eq(open.iter().map(|seal| (seal.base, seal.next, seal.intent))));
        assert_eq!(stream.producers.len(), model.producers.len());
        for producer in &model.producers {
            let held = stream.producers.by_id(producer.id).unwrap();
            assert_eq!((&held.identity, &held.name), (&producer.who.0, &producer.who.1));
            assert_eq!((held.epoch, held.last_used_ms), (producer.epoch, producer.used_ms));
            assert_eq!(held.next_sequence, model.next_sequence(producer));
            assert_eq!(held.batches.len(), model.written_by(producer).len().min(16));
        }
        self.compare_live(id, model);
    }

    fn compare_live(&self, id: StreamId, model: &MStream) {
        let live: Vec<_> =
            model.batches.iter().filter(|batch| batch.base >= model.shipped()).collect();
        let told: Vec<_> = self.live.batches(id, Offset::START).collect();
        assert_eq!(told.len(), live.len());
        for (told, batch) in told.iter().zip(&live) {
            let told_place = (told.index, told.op, told.time_ms, told.len_bytes);
            assert_eq!(told_place, (batch.index, batch.op, batch.time_ms, batch.len));
            assert_eq!((told.base.get(), u64::from(told.record_count)), (batch.base, batch.count));
        }
        let unsealed: Vec<_> = live.iter().filter(|batch| batch.base >= model.sealed()).collect();
        let told = self.live.unsealed(id);
        assert_eq!(told.is_some(), !unsealed.is_empty());
        if let Some(told) = told {
            assert_eq!((told.base.get(), told.next.get()), (model.sealed(), model.next()));
            assert_eq!(
                told.len_bytes,
                unsealed.iter().map(|batch| u64::from(batch.len)).sum::<u64>()
            );
            assert_eq!(told.oldest_ms, unsealed[0].time_ms);
        }
    }
}

/// The name of an outcome, and of the refusal or option in it.
fn kind(shown: &str) -> String {
    let nested = shown.starts_with("Refused(") || shown.starts_with("Duplicate(");
    let mut parts = shown.split(['(', ' ', ')']);
    let first = parts.next().unwrap();
    if nested { format!("{first}({}", parts.next().unwrap()) } else { first.into() }
}
