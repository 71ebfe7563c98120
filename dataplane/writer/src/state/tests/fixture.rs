//! A log that is applied entry by entry, and entries to put in.

use bytes::Bytes;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, StreamId};
use stored::command::Command;

use crate::entry::{Entry, Expectation, LogId, Op, Producer, Stamp};
use crate::live_index::LiveIndex;
use crate::state::{Applied, ControlOutcome, ControlRefused, Outcome, ProducerReady, State};

/// Log time of the first entry.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// The stream of most tests.
pub(crate) const ORDERS: u64 = 11;

/// State and live index behind one log whose appender makes no mistake.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) state: State,
    pub(crate) live: LiveIndex,
    pub(crate) term: u64,
    pub(crate) time_ms: u64,
}

impl Log {
    pub(crate) fn empty() -> Self {
        let (state, live) = (State::default(), LiveIndex::default());
        Self { state, live, term: 1, time_ms: START_MS }
    }

    pub(crate) fn founded() -> Self {
        let mut log = Self::empty();
        assert_eq!(log.command(bootstrap(7)), ControlOutcome::Founded);
        log
    }

    /// Founded, with the stream `orders` and `records` records in it.
    pub(crate) fn with_orders(records: u32) -> Self {
        let mut log = Self::founded();
        assert_eq!(log.command(create("orders", ORDERS)), ControlOutcome::Created);
        if records > 0 {
            log.appended(op(ORDERS, records));
        }
        log
    }

    /// The log id of the next entry.
    pub(crate) fn next_id(&self) -> LogId {
        let index = self.state.applied().map_or(1, |last| last.index + 1);
        LogId { term: self.term, index }
    }

    /// What the appender gives the next entry.
    pub(crate) fn next_stamp(&self) -> Stamp {
        let number = self.state.last_number(self.term) + 1;
        Stamp { term: self.term, number, time_ms: self.time_ms }
    }

    pub(crate) fn apply(&mut self, entry: &Entry) -> Applied {
        let applied = self.state.apply(self.next_id(), entry);
        self.live.apply(&applied);
        applied
    }

    pub(crate) fn batch(&mut self, ops: &[Op]) -> Applied {
        let entry =
            Entry::Batch { stamp: self.next_stamp(), ops: ops.to_vec(), data: Bytes::new() };
        self.apply(&entry)
    }

    pub(crate) fn append(&mut self, op: Op) -> Outcome {
        let applied = self.batch(&[op]);
        assert_eq!(applied.outcomes.len(), 1);
        applied.outcomes[0]
    }

    /// Appends, and gives the offset of the first record.
    pub(crate) fn appended(&mut self, op: Op) -> u64 {
        let outcome = self.append(op);
        let Outcome::Appended(appended) = outcome else { panic!("not appended: {outcome:?}") };
        appended.first.get()
    }

    pub(crate) fn control(&mut self, command: Command) -> Applied {
        let entry = Entry::Control { stamp: self.next_stamp(), command };
        self.apply(&entry)
    }

    pub(crate) fn command(&mut self, command: Command) -> ControlOutcome {
        self.control(command).control.unwrap()
    }

    /// Makes a producer of `orders`.
    pub(crate) fn producer(&mut self, name: &str, new_id: u64) -> ProducerReady {
        let outcome = self.command(init_producer(ORDERS, name, new_id, None));
        let ControlOutcome::ProducerReady(ready) = outcome else {
            panic!("no producer: {outcome:?}");
        };
        ready
    }

    /// Applies a command that is refused, and checks that it did no more than any entry does.
    pub(crate) fn refused(&mut self, command: Command) -> ControlRefused {
        let nothing = self.after_nothing();
        let applied = self.control(command);
        assert_eq!(*self, nothing, "the refusal changed something");
        assert_eq!(applied.change, None);
        let Some(ControlOutcome::Refused(refused)) = applied.control else {
            panic!("not refused: {:?}", applied.control);
        };
        refused
    }

    /// Applies an append that is not written, and checks that it did no more than any entry does.
    pub(crate) fn not_written(&mut self, op: Op) -> Outcome {
        let nothing = self.after_nothing();
        let applied = self.batch(&[op]);
        assert_eq!(*self, nothing, "what was not written changed something");
        assert_eq!((applied.written, applied.grown, applied.change), (vec![], vec![], None));
        applied.outcomes[0]
    }

    /// This log after an entry that only takes its place and time.
    fn after_nothing(&self) -> Self {
        let mut log = self.clone();
        if log.state.cluster_id().is_some() {
            let time = log.command(Command::SetTime(stored::SetTime {}));
            assert_eq!(time, ControlOutcome::TimeSet { time_ms: log.state.time_ms() });
        } else {
            let refused = log.command(Command::SetTime(stored::SetTime {}));
            assert_eq!(refused, ControlOutcome::Refused(ControlRefused::NotFounded));
        }
        log
    }

    /// The same log, changed in its image: what only a recovery can do.
    pub(crate) fn recovered(&self, change: impl FnOnce(&mut stored::State)) -> Self {
        let mut image = self.state.to_image();
        change(&mut image);
        Self { state: State::from_image(image).unwrap(), ..self.clone() }
    }

    pub(crate) fn ends(&self, stream: u64) -> (u64, u64, u64) {
        let stream = self.state.stream(id(stream)).unwrap();
        (stream.first.get(), stream.shipped.get(), stream.next.get())
    }
}

pub(crate) fn id(id: u64) -> StreamId {
    StreamId::new(id).unwrap()
}

pub(crate) fn op(stream: u64, record_count: u32) -> Op {
    Op {
        stream_id: id(stream),
        stream_revision: 1,
        expectation: None,
        producer: None,
        record_count,
        records_crc32c: 0,
        data_pos: 0,
        data_len: record_count * 10,
    }
}

pub(crate) fn expecting(op: Op, epoch: u32, offset: u64) -> Op {
    Op { expectation: Expectation::new(epoch, Offset::new(offset)), ..op }
}

pub(crate) fn from_producer(op: Op, id: u64, epoch: u32, first_sequence: u64) -> Op {
    Op { producer: Some(Producer::new(id, epoch, first_sequence).unwrap()), ..op }
}

pub(crate) fn object(generation: u64) -> Option<stored::ObjectRef> {
    Some(stored::ObjectRef { uid: "uid".into(), generation })
}

pub(crate) fn bootstrap(byte: u8) -> Command {
    Command::Bootstrap(stored::Bootstrap { cluster_id: vec![byte; 16].into() })
}

pub(crate) fn wrapped_key(len: usize) -> Option<stored::WrappedKey> {
    Some(stored::WrappedKey { kek_id: "kek".into(), wrapped: vec![9; len].into() })
}

pub(crate) fn create(name: &str, stream_id: u64) -> Command {
    Command::CreateStream(stored::CreateStream {
        object: object(1),
        name: name.into(),
        stream_id,
        settings: None,
        rights: None,
        wrapped_key: wrapped_key(40),
    })
}

pub(crate) fn delete(stream_id: u64) -> Command {
    Command::DeleteStream(stored::DeleteStream { stream_id })
}

pub(crate) fn set_closed(stream_id: u64, closed: bool) -> Command {
    Command::SetClosed(stored::SetClosed { stream_id, closed })
}

pub(crate) fn trim(stream_id: u64, first_offset: u64) -> Command {
    Command::Trim(stored::Trim { stream_id, first_offset })
}

pub(crate) fn seal(stream_id: u64, base_offset: u64, next_offset: u64) -> Command {
    Command::Seal(stored::Seal { stream_id, base_offset, next_offset, uploader: 1 })
}

pub(crate) fn key_stored(stream_id: u64, r: u64) -> Command {
    Command::StreamKeyStored(stored::StreamKeyStored { stream_id, r })
}

pub(crate) fn init_producer(
    stream_id: u64,
    name: &str,
    new_id: u64,
    resume_sequence: Option<u64>,
) -> Command {
    let (identity, name) = ("local".into(), name.into());
    Command::InitProducer(stored::InitProducer {
        stream_id,
        identity,
        name,
        resume_sequence,
        new_id,
    })
}

/// The commit of one chunk of `orders`; digests are one byte repeated.
pub(crate) fn commit(
    intent: u64,
    base: u64,
    next: u64,
    digests: (u8, u8),
) -> stored::ChunkCommitted {
    stored::ChunkCommitted {
        stream_id: ORDERS,
        intent,
        chunk: Some(stored::ChunkRef {
            base_offset: base,
            next_offset: next,
            intent,
            r: 5,
            total_len: 100,
            head_sha256: vec![1; 32].into(),
            wrapped_key: vec![2; 40].into(),
            ..stored::ChunkRef::default()
        }),
        digest_before: vec![digests.0; 32].into(),
        digest_after: vec![digests.1; 32].into(),
    }
}
