//! Random entries: mostly such as a correct appender and shipper would make, and all kinds of near
//! misses.

use bytes::Bytes;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Entropy, Offset, SeededEntropy, StreamId};
use stored::command::Command;

use super::super::{MStream, Model};
use crate::entry::{Entry, Expectation, Op, Producer, Stamp};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DAY_MS: u64 = 86_400_000;

pub(super) struct Generator {
    entropy: SeededEntropy,
    pub(super) time_ms: u64,
    /// Nothing is deleted, closed or lost, so that streams and producers grow old.
    pub(super) is_calm: bool,
}

impl Generator {
    pub(super) fn new(entropy: SeededEntropy, is_calm: bool) -> Self {
        Self { entropy, time_ms: 1_700_000_000_000, is_calm }
    }

    /// Commands that found the cluster and make a stream that can be shipped, with a producer.
    pub(super) fn start() -> impl Iterator<Item = Command> {
        let found = Command::Bootstrap(stored::Bootstrap { cluster_id: vec![7; 16].into() });
        let key = Command::StreamKeyStored(stored::StreamKeyStored { stream_id: 1, r: 1 });
        [found, create("a", 1, 1), key, init(1, "p0".into(), 1, None)].into_iter()
    }

    /// The same, with 1,023 more producers: all that there may be.
    pub(super) fn crowd() -> impl Iterator<Item = Command> {
        Self::start().chain((1000..2023).map(|id| init(1, format!("crowd{id}"), id, None)))
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.entropy.u64() % end
    }

    fn one_in(&self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn pick<'a, T>(&self, list: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(list.len()).unwrap();
        (len > 0).then(|| &list[usize::try_from(self.below(len)).unwrap()])
    }

    /// `number`, or something near it.
    fn near(&self, number: u64) -> u64 {
        match self.below(4) {
            0 => number.saturating_sub(1 + self.below(3)),
            1 => number + 1 + self.below(3),
            _ => number,
        }
    }

    /// The stamp of the next entry: the right one, or one that some entries are missing before.
    pub(super) fn stamp(&mut self, right: Stamp) -> Stamp {
        self.time_ms += match self.below(40) {
            0 => DAY_MS + 3_600_000,
            1..=20 => self.below(2000),
            _ => 0,
        };
        let time_ms = if self.one_in(10) { self.time_ms - 700 } else { self.time_ms };
        let stamp = Stamp { time_ms, ..right };
        match self.below(30) {
            0 => Stamp { number: right.number + 1 + self.below(3), ..stamp },
            1 => Stamp { number: right.number - 1, ..stamp },
            2 => Stamp { term: right.term - 1, ..stamp },
            3 => Stamp { term: right.term + 1, number: 1, ..stamp },
            _ => stamp,
        }
    }

    pub(super) fn entry(&self, stamp: Stamp, model: &Model) -> Entry {
        if self.below(100) < 50 {
            let mut data_pos = 0;
            let ops: Vec<Op> = (0..1 + self.below(5))
                .map(|_| {
                    let op = Op { data_pos, ..self.op(model) };
                    data_pos += op.data_len;
                    op
                })
                .collect();
            let data = Bytes::from(vec![0; usize::try_from(data_pos).unwrap()]);
            Entry::Batch { stamp, ops, data }
        } else {
            Entry::Control { stamp, command: self.command(model) }
        }
    }

    fn stream<'a>(&self, model: &'a Model) -> Option<&'a MStream> {
        let alive: Vec<_> = model.streams.iter().filter(|stream| stream.alive).collect();
        if self.one_in(15) { self.pick(&model.streams) } else { self.pick(&alive).copied() }
    }

    fn op(&self, model: &Model) -> Op {
        let record_count = u32::try_from(1 + self.below(3)).unwrap();
        let mut op = Op {
            stream_id: StreamId::new(1 + self.below(1000)).unwrap(),
            stream_revision: 1,
            expectation: None,
            producer: None,
            record_count,
            records_crc32c: 0,
            data_pos: 0,
            data_len: record_count * u32::try_from(1 + self.below(50)).unwrap(),
        };
        let Some(stream) = self.stream(model) else { return op };
        op.stream_id = StreamId::new(stream.id).unwrap();
        let stale = u32::from(self.one_in(15));
        op.stream_revision = (1 + stream.turns).saturating_sub(stale);
        if self.one_in(3) {
            let epoch = self.below(u64::from(model.epoch) + 1) + u64::from(self.one_in(8));
            let offset = Offset::new(self.near(stream.next()));
            op.expectation = Expectation::new(u32::try_from(epoch).unwrap(), offset);
        }
        if self.is_calm || self.one_in(2) {
            op = self.produced(op, stream);
        }
        op
    }

    /// The op, from one of the stream's producers.
    fn produced(&self, mut op: Op, stream: &MStream) -> Op {
        let Some(producer) = self.pick(&stream.producers) else {
            op.producer = Producer::new(1 + self.below(5), 1, self.below(3));
            return op;
        };
        let written = stream.written_by(producer);
        let next = stream.next_sequence(producer);
        let (mut epoch, mut sequence) = (producer.epoch, next);
        match self.below(10) {
            // Sent again, as it was.
            0 | 1 => {
                if let Some(batch) = self.pick(&written) {
                    let (_, epoch_then, sequence_then) = batch.producer.unwrap();
                    (epoch, sequence) = (epoch_then, sequence_then);
                    op.record_count = u32::try_from(batch.count).unwrap();
                }
            }
            // The oldest again, perhaps long forgotten.
            2 => sequence = 0,
            3 => sequence = self.near(next),
            4 => epoch = u32::try_from(self.near(epoch.into())).unwrap(),
            _ => {}
        }
        op.producer = Producer::new(producer.id, epoch, sequence);
        op
    }

    fn command(&self, model: &Model) -> Command {
        let Some(stream) = self.stream(model) else { return self.cluster_command(model) };
        let stream_id = if self.one_in(30) { 1 + self.below(1000) } else { stream.id };
        match self.below(100) {
            0..=19 => self.cluster_command(model),
            20..=23 => {
                let object = Some(self.object());
                let expected = self.one_in(3).then(|| match self.one_in(3) {
                    true => self.object(),
                    false => stream.object.clone(),
                });
                let (settings, rights) = (None, None);
                let opens_for_another = self.one_in(2);
                Command::PutStream(stored::PutStream {
                    object,
                    stream_id,
                    settings,
                    rights,
                    expected,
                    opens_for_another,
                })
            }
            24 | 25 if !self.is_calm => Command::DeleteStream(stored::DeleteStream { stream_id }),
            26..=33 => {
                let closed = self.one_in(3) && !self.is_calm;
                Command::SetClosed(stored::SetClosed { stream_id, closed })
            }
            34..=38 => {
                let first_offset = self.below(stream.next() + 2);
                Command::Trim(stored::Trim { stream_id, first_offset })
            }
            39..=56 => Command::Seal(self.seal(stream, stream_id)),
            57..=78 => Command::ChunkCommitted(self.commit(stream, stream_id)),
            79 | 80 => {
                let stream_id = self.pick(&model.streams).map_or(stream_id, |stream| stream.id);
                if self.one_in(2) {
                    Command::StreamObjectsDeleted(stored::StreamObjectsDeleted { stream_id })
                } else {
                    Command::SealAbandoned(stored::SealAbandoned { stream_id, intent: 1 })
                }
            }
            81..=86 => {
                let r = self.below(100);
                Command::StreamKeyStored(stored::StreamKeyStored { stream_id, r })
            }
            _ => {
                let resume = self.one_in(4).then(|| self.below(3));
                let names = if self.is_calm { 1 } else { 4 };
                init(stream_id, format!("p{}", self.below(names)), 1 + self.below(50), resume)
            }
        }
    }

    fn cluster_command(&self, model: &Model) -> Command {
        let founding = if model.founded { 1 } else { 30 };
        match self.below(20 + founding) {
            0..=7 => {
                let name = self.pick(&NAMES).copied().unwrap_or_default();
                let mut create = create(name, 1 + self.below(40), self.below(4));
                if let Command::CreateStream(create) = &mut create
                    && self.one_in(20)
                {
                    create.wrapped_key = None;
                }
                create
            }
            8..=12 => {
                let subscription = stored::Subscription {
                    object: Some(self.object()),
                    name: format!("s{}", self.below(3)),
                    streams: vec!["a".into()],
                    start_from: 1,
                    mode: 1,
                    ..stored::Subscription::default()
                };
                let subscription = Some(subscription);
                Command::PutSubscription(stored::PutSubscription { subscription })
            }
            13..=15 => {
                let name = format!("s{}", self.below(3));
                Command::DeleteSubscription(stored::DeleteSubscription { name })
            }
            16 | 17 => {
                let level = u32::from(!self.one_in(3));
                Command::SetFeatureLevel(stored::SetFeatureLevel { level })
            }
            18 | 19 => Command::SetTime(stored::SetTime {}),
            _ => {
                let byte = if self.one_in(3) && model.founded { 8 } else { 7 };
                Command::Bootstrap(stored::Bootstrap { cluster_id: vec![byte; 16].into() })
            }
        }
    }

    fn object(&self) -> stored::ObjectRef {
        let uid = format!("uid{}", self.below(3) / 2);
        stored::ObjectRef { uid, generation: self.below(5) }
    }

    /// Always ends between two batches, or above the end: the proposer sees to that.
    fn seal(&self, stream: &MStream, stream_id: u64) -> stored::Seal {
        let sealed = stream.sealed();
        let ends: Vec<u64> = stream
            .batches
            .iter()
            .map(|batch| batch.base + batch.count)
            .filter(|end| *end >= sealed)
            .collect();
        let mut next_offset = self.pick(&ends).copied().unwrap_or(sealed);
        if self.one_in(10) {
            next_offset = stream.next() + 1;
        }
        let base_offset = if self.one_in(8) { self.near(sealed) } else { sealed };
        stored::Seal { stream_id, base_offset, next_offset, uploader: 1 }
    }

    fn commit(&self, stream: &MStream, stream_id: u64) -> stored::ChunkCommitted {
        let open: Vec<_> = stream.seals.iter().filter(|seal| seal.committed.is_none()).collect();
        let seal = match self.below(6) {
            0 => self.pick(&stream.seals),
            1 => open.last().copied(),
            _ => open.first().copied(),
        };
        let (mut base, mut next, intent) =
            seal.map_or((0, 1, self.below(20)), |seal| (seal.base, seal.next, seal.intent));
        if self.one_in(12) {
            (base, next) = (self.near(base), self.near(next));
        }
        let other = vec![u8::try_from(self.below(200)).unwrap(); 32];
        let digest_before = if self.one_in(10) { other.clone() } else { stream.digest() };
        stored::ChunkCommitted {
            stream_id,
            intent,
            chunk: Some(stored::ChunkRef {
                base_offset: base,
                next_offset: next,
                intent,
                r: self.below(1000),
                total_len: self.below(1000),
                head_sha256: vec![1; 32].into(),
                wrapped_key: vec![2; 40].into(),
                ..stored::ChunkRef::default()
            }),
            digest_before: digest_before.into(),
            digest_after: other.into(),
        }
    }
}

fn create(name: &str, stream_id: u64, generation: u64) -> Command {
    Command::CreateStream(stored::CreateStream {
        object: Some(stored::ObjectRef { uid: "uid0".into(), generation }),
        name: name.into(),
        stream_id,
        settings: None,
        rights: None,
        wrapped_key: Some(stored::WrappedKey { kek_id: "k".into(), wrapped: vec![3; 40].into() }),
    })
}

fn init(stream_id: u64, name: String, new_id: u64, resume_sequence: Option<u64>) -> Command {
    let identity = "local".into();
    Command::InitProducer(stored::InitProducer {
        stream_id,
        identity,
        name,
        resume_sequence,
        new_id,
    })
}
