//! HTTP/2 by hand, so that it can be done wrong.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::writer::DEADLINE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// What begins every HTTP/2 connection.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server that does not take bytes for this long does not take them any more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What came, and whether the server has ended the connection.
#[derive(Default)]
struct Heard {
    frames: Vec<Frame>,
    ended: bool,
}

/// One connection.
pub(crate) struct Raw {
    io: OwnedWriteHalf,
    heard: Arc<Mutex<Heard>>,
    _reading: JoinSet<()>,
}

impl Raw {
    /// Connects and says nothing.
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut from, io) = stream.into_split();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut reading = JoinSet::new();
        let hears = Arc::clone(&heard);
        reading.spawn(async move {
            let mut head = [0; 9];
            while from.read_exact(&mut head).await.is_ok() {
                let len =
                    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; len];
                if from.read_exact(&mut payload).await.is_err() {
                    break;
                }
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let frame = Frame { kind: head[3], stream, payload };
                hears.lock().unwrap().frames.push(frame);
            }
            hears.lock().unwrap().ended = true;
        });
        Self { io, heard, _reading: reading }
    }

    /// Connects and says hello with these settings.
    pub(crate) async fn open(address: &str, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::connect(address).await;
        let mut payload = Vec::new();
        for (key, value) in settings {
            payload.extend(key.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        assert!(raw.send(&hello).await);
        raw
    }

    /// Whether the server has taken the bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        !self.has_ended()
            && matches!(timeout(WRITE_TIMEOUT, self.io.write_all(bytes)).await, Ok(Ok(())))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.heard.lock().unwrap().ended
    }

    /// How many frames of this kind have come.
    pub(crate) fn count(&self, kind: u8) -> usize {
        self.heard.lock().unwrap().frames.iter().filter(|frame| frame.kind == kind).count()
    }

    /// On how many streams an answer has begun.
    pub(crate) fn answered(&self) -> usize {
        let heard = self.heard.lock().unwrap();
        let begun = heard.frames.iter().filter(|frame| [HEADERS, RST_STREAM].contains(&frame.kind));
        begun.map(|frame| frame.stream).collect::<BTreeSet<_>>().len()
    }

    /// The first frame of this kind on this stream, if it has come.
    pub(crate) fn first(&self, kind: u8, stream: u32) -> Option<Frame> {
        let heard = self.heard.lock().unwrap();
        heard.frames.iter().find(|frame| (frame.kind, frame.stream) == (kind, stream)).cloned()
    }

    /// Waits for something that can be seen in what came.
    pub(crate) async fn until(&self, what: &str, look: impl Fn(&Self) -> bool) {
        let seen = async {
            while !look(self) {
                tokio::task::yield_now().await;
            }
        };
        let what = || format!("{what}: {:?}", self.heard.lock().unwrap().frames);
        timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("{}", what()));
    }

    /// Waits until the server has ended the connection.
    pub(crate) async fn ended(&self) {
        self.until("the end of the connection", Self::has_ended).await;
    }

    /// Waits until the server has answered a ping: all that was sent before is taken.
    pub(crate) async fn ping(&mut self) {
        let before = self.count(PING);
        assert!(self.send(&frame(PING, 0, 0, &[7; 8])).await);
        self.until("the answer to a ping", |raw| raw.count(PING) > before).await;
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header as HPACK has it without a table.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // The length, in seven bits and more.
        let mut len = text.len();
        if len < 127 {
            bytes.push(u8::try_from(len).unwrap());
        } else {
            bytes.push(127);
            len -= 127;
            while len >= 128 {
                bytes.push(u8::try_from(len % 128).unwrap() | 128);
                len /= 128;
            }
            bytes.push(u8::try_from(len).unwrap());
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The headers of a gRPC call.
pub(crate) fn call(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "writer"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A message as gRPC frames it.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}
