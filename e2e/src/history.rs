//! History: what was asked, what was answered and what was broken, in one order.
//!
//! A history is a file of JSON lines, one [`Line`] each, in the order of one monotonic clock.
//! An operation is an [`Event::Invoke`] and at most one end: [`Event::Ok`], [`Event::Fail`]
//! (nothing was written and nothing will be) or [`Event::Unknown`] (everything else, such as a
//! connection that broke). An operation without an end counts as unknown: it may take effect at any
//! later time. A fault has a begin, a confirmation that it was really there, and an end.
//!
//! Each record carries a number of its own (see [`record_body`]), so content identifies the append.
//! An append that is tried again is several operations with the same records.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Time since the history began. Unit: nanoseconds. Never goes back.
    pub t_ns: u64,
    /// Who acted, such as `appender-3`.
    pub process: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The operation begins.
    Invoke { op: u64, call: Call },
    /// It ended with this result.
    Ok { op: u64, result: Outcome },
    /// It was refused for certain: it has no effect, now or later.
    Fail { op: u64, reason: String },
    /// Nobody can say whether it has an effect.
    Unknown { op: u64, reason: String },
    /// One phase of a fault. The three phases of one fault share `id`.
    Fault { id: u64, fault: Fault, phase: Phase },
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Records for the end of a stream. The numbers are never used by another append.
    Append {
        stream: String,
        session: u64,
        records: Vec<u64>,
        /// Written only if the stream ends here.
        expected: Option<u64>,
        producer: Option<Producer>,
    },
    /// A read from an offset on. One item of a following read is an operation of its own.
    Read {
        stream: String,
        session: u64,
        from: u64,
        path: ReadPath,
        /// A read of everything after all faults have ended: it fixes the final log.
        complete: bool,
    },
    /// Where does the stream end?
    Tail { stream: String, session: u64 },
    /// A producer is made or taken over.
    InitProducer { stream: String, name: String },
    /// Something handed records to an application.
    Push { subscription: String, stream: String, base: Option<u64>, next: u64, records: Vec<u64> },
    /// What an application has stored for a stream.
    Effects {
        application: String,
        stream: String,
        /// Asked after all faults have ended and all records were delivered.
        complete: bool,
    },
    /// How many chunks of the stream lie in the object store?
    Chunks { stream: String },
}

/// The producer of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Producer {
    pub id: u64,
    pub epoch: u32,
    /// Number of the append's first record. Unit: records of this producer.
    pub sequence: u64,
}

/// By which way records reached a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadPath {
    /// The Writer sent everything.
    Writer,
    /// The reader fetched and opened chunks itself.
    Chunks,
    /// Through the pusher's local service.
    Pusher,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Offsets are absent only for a duplicate so old that the Writer no longer knows its place.
    Appended {
        first: Option<u64>,
        next: Option<u64>,
        duplicate: bool,
    },
    /// Records as they came.
    Read {
        pieces: Vec<Piece>,
        /// The Writer said: that is all up to this offset.
        caught_up: Option<u64>,
    },
    Tail {
        next: u64,
    },
    InitProducer {
        id: u64,
        epoch: u32,
        next_sequence: u64,
    },
    /// The application stored this position. A push that was not accepted is a failed operation.
    Accepted {
        next: u64,
    },
    /// Offset and number of each stored row in the order of the offsets, and the stored position.
    Effects {
        rows: Vec<(u64, u64)>,
        position: Option<u64>,
    },
    Chunks {
        count: u64,
    },
}

/// Records that came together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Offset of the first record.
    pub first: u64,
    pub records: Vec<u64>,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "other faults than kills will follow")]
pub enum Fault {
    /// kill -9 of the Writer.
    KillWriter,
    /// kill -9 of the pusher.
    KillPusher,
    /// kill -9 of the application.
    KillApplication,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::KillWriter, Self::KillPusher, Self::KillApplication];
}

/// How far a fault has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Begin,
    /// Seen from outside that it took hold, such as a process that the signal has ended.
    Confirmed,
    /// What was broken serves again.
    End,
}

/// Length of the number at the head of each record's value. Unit: bytes.
const NUMBER_BYTES: usize = 8;

/// The value of the record with this number: the number, little endian, then filler.
///
/// The filler depends on the number, so that records with exchanged tails do not go unseen:
/// [`record_number`] compares all of it.
#[must_use]
pub fn record_body(number: u64, value_bytes: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    let mut state = number;
    while body.len() < value_bytes {
        // A step of SplitMix64: cheap, and it does not compress.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        body.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    body.truncate(value_bytes.max(NUMBER_BYTES));
    body
}

/// The number of a record with this value, or `None` if [`record_body`] never made such a value.
#[must_use]
pub fn record_number(value: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*value.first_chunk::<NUMBER_BYTES>()?);
    (record_body(number, value.len()) == value).then_some(number)
}

/// Writes a history down, from many tasks at once.
///
/// Lines are stamped under one lock, so the order of the lines is the order of the clock: what one
/// task recorded before another began to record is earlier in the file.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    next_op: u64,
    next_fault: u64,
    last_ns: u64,
    lines: Vec<Line>,
    file: Option<BufWriter<File>>,
}

impl Recorder {
    /// A history that is kept in memory and, if a path is given, also written there.
    ///
    /// # Errors
    /// The file could not be created.
    pub fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path
            .map(|path| File::create(path).with_context(|| format!("create {}", path.display())))
            .transpose()?
            .map(BufWriter::new);
        let inner = Inner { next_op: 0, next_fault: 0, last_ns: 0, lines: Vec::new(), file };
        Ok(Self { began: Instant::now(), inner: Mutex::new(inner) })
    }

    /// Records the begin of an operation and returns its number.
    pub fn invoke(&self, process: &str, call: Call) -> u64 {
        self.record(process, |inner| {
            let op = inner.next_op;
            inner.next_op += 1;
            (Event::Invoke { op, call }, op)
        })
    }

    /// Records the success of an operation.
    pub fn ok(&self, process: &str, op: u64, result: Outcome) {
        self.record(process, |_| (Event::Ok { op, result }, ()));
    }

    /// Records the certain failure of an operation.
    pub fn fail(&self, process: &str, op: u64, reason: impl Into<String>) {
        self.record(process, |_| (Event::Fail { op, reason: reason.into() }, ()));
    }

    /// Records that the effect of an operation cannot be known.
    pub fn unknown(&self, process: &str, op: u64, reason: impl Into<String>) {
        self.record(process, |_| (Event::Unknown { op, reason: reason.into() }, ()));
    }

    /// Records the begin of a fault and returns its number.
    pub fn fault_begin(&self, fault: Fault) -> u64 {
        self.record("faults", |inner| {
            let id = inner.next_fault;
            inner.next_fault += 1;
            (Event::Fault { id, fault, phase: Phase::Begin }, id)
        })
    }

    /// Records that a fault was seen to take hold.
    pub fn fault_confirmed(&self, id: u64, fault: Fault) {
        self.record("faults", |_| (Event::Fault { id, fault, phase: Phase::Confirmed }, ()));
    }

    /// Records that what a fault had broken serves again.
    pub fn fault_end(&self, id: u64, fault: Fault) {
        self.record("faults", |_| (Event::Fault { id, fault, phase: Phase::End }, ()));
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    /// Brings the file up to date.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        match &mut self.lock().file {
            Some(file) => file.flush().context("write the history"),
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic of another task leaves whole lines behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record<T>(&self, process: &str, event: impl FnOnce(&mut Inner) -> (Event, T)) -> T {
        let mut inner = self.lock();
        let elapsed = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        inner.last_ns = inner.last_ns.max(elapsed);
        let (event, result) = event(&mut inner);
        let line = Line { t_ns: inner.last_ns, process: process.to_owned(), event };
        if let Some(file) = &mut inner.file {
            let text = serde_json::to_string(&line).expect("a line has only text keys");
            writeln!(file, "{text}").expect("the folder of the history takes it");
        }
        inner.lines.push(line);
        result
    }
}

/// Reads a history that a [`Recorder`] wrote.
///
/// # Errors
/// The file cannot be read, or a line is none of a history; its number is named.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let text = text.with_context(|| format!("read {}", path.display()))?;
        let line = serde_json::from_str(&text)
            .with_context(|| format!("line {} of {}", number + 1, path.display()))?;
        lines.push(line);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_body_tells_its_number_at_every_length() {
        for length in [8, 9, 15, 16, 17, 1024] {
            assert_eq!(record_number(&record_body(7, length)), Some(7), "{length} bytes");
        }
    }

    #[test]
    fn a_changed_or_cut_record_body_has_no_number() {
        let body = record_body(7, 64);
        for place in 0..body.len() {
            let mut flipped = body.clone();
            flipped[place] ^= 1;
            assert_eq!(record_number(&flipped), None, "byte {place}");
        }
        assert_eq!(record_number(&body[..7]), None);
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::new(Some(&path)).unwrap();
        let producer = Some(Producer { id: 1 << 52, epoch: 2, sequence: 9 });
        let op = recorder.invoke(
            "appender-1",
            Call::Append {
                stream: "orders".into(),
                session: 1,
                records: vec![u64::MAX, 0],
                expected: Some(5),
                producer,
            },
        );
        let tail = recorder.invoke("reader", Call::Tail { stream: "orders".into(), session: 2 });
        let appended = Outcome::Appended { first: Some(5), next: Some(7), duplicate: false };
        recorder.ok("appender-1", op, appended);
        recorder.unknown("reader", tail, "the connection broke");
        let fault = recorder.fault_begin(Fault::KillWriter);
        recorder.fault_confirmed(fault, Fault::KillWriter);
        recorder.fault_end(fault, Fault::KillWriter);
        recorder.flush().unwrap();

        assert_eq!(read(&path).unwrap(), recorder.lines());
        assert_eq!(recorder.lines().len(), 7);
        assert_ne!(op, tail);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().starts_with("line 1 of "), "{error}");
    }
}
