//! Clients that attack both ports. They are such as may do everything: worse than any stranger.

mod program;
mod raw;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use self::program::Program;
use self::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PREFACE,
    RST_STREAM, Raw, SETTINGS, call, frame, header, message,
};
use crate::writer::{CLUSTER, DEADLINE, Folder, Session, append};

const APPEND: &str = "/pyramid.v1.Writer/Append";
const READ: &str = "/pyramid.v1.Writer/Read";
const GET_STREAM: &str = "/pyramid.v1.Writer/GetStream";
const GET_INFO: &str = "/pyramid.v1.Admin/GetInfo";

/// What an attack may cost for good. Without limits each of them takes far more.
const GROWN_KIB_MAX: u64 = 256 << 10;

/// The error `ENHANCE_YOUR_CALM`.
const CALM: [u8; 4] = [0, 0, 0, 11];

/// The status 200 of an answer, as HPACK has it.
const STATUS_200: u8 = 0x88;

fn calm(raw: &Raw) -> bool {
    raw.first(GOAWAY, 0).is_some_and(|frame| frame.payload.get(4..8) == Some(&CALM))
}

/// Asks with one empty message on a stream; `more` headers besides. Whether an answer came with 200.
async fn asks(raw: &mut Raw, path: &str, stream: u32, more: &[u8]) -> bool {
    let mut headers = call(path);
    headers.extend(more);
    let mut bytes = Vec::new();
    let mut parts = headers.chunks(16_000).enumerate().peekable();
    while let Some((number, part)) = parts.next() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags, stream, part));
    }
    bytes.extend(frame(DATA, END_STREAM, stream, &message(&[])));
    raw.send(&bytes).await;
    let done = |raw: &Raw| {
        raw.has_ended()
            || raw.first(HEADERS, stream).is_some()
            || raw.first(RST_STREAM, stream).is_some()
    };
    raw.until("an answer", done).await;
    raw.first(HEADERS, stream).is_some_and(|headers| headers.payload.first() == Some(&STATUS_200))
}

/// Row A17: calls that are opened and taken back at once, by the thousand.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_resets_its_calls_by_the_thousand_is_closed() {
    const RESETS: u32 = 50_000;
    let folder = Folder::new();
    let program = Program::start(&folder).await;
    for (address, path) in [(&program.writer, APPEND), (&program.admin, GET_INFO)] {
        let resets = |from: u32, to: u32| -> Vec<u8> {
            let one = |number: u32| {
                let stream = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(path));
                bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
                bytes
            };
            (from..to).flat_map(one).collect()
        };
        // A few are nothing bad.
        let mut raw = Raw::open(address, &[]).await;
        assert!(raw.send(&resets(0, 10)).await);
        raw.ping().await;
        assert!(!calm(&raw) && !raw.has_ended());

        let attack = async {
            let mut raw = Raw::open(address, &[]).await;
            for hundred in 0..RESETS / 100 {
                if !raw.send(&resets(hundred * 100, (hundred + 1) * 100)).await {
                    break;
                }
            }
            raw.until("calm", calm).await;
            raw.ended().await;
        };
        program.under("rapid reset", attack).await;
    }
    program.check(GROWN_KIB_MAX);
}

/// Row A17: headers without end, in one list or in frame after frame.
#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_limit_and_so_have_their_frames() {
    let folder = Folder::new();
    let program = Program::start(&folder).await;
    for (address, path) in [(&program.writer, GET_STREAM), (&program.admin, GET_INFO)] {
        let long = |bytes: usize| header("x-long", &"x".repeat(bytes));
        let mut raw = Raw::open(address, &[]).await;
        assert!(asks(&mut raw, path, 1, &long(15_000)).await, "within the limit");
        assert!(asks(&mut raw, path, 3, &[long(7_500), long(7_500)].concat()).await);
        let attack = async {
            for list in [long(17_000), long(200_000), long(100).repeat(1_000)] {
                let mut raw = Raw::open(address, &[]).await;
                assert!(!asks(&mut raw, path, 1, &list).await, "over the limit");
            }
        };
        program.under("long headers", attack).await;

        let attack = async {
            let mut raw = Raw::open(address, &[]).await;
            raw.send(&frame(HEADERS, 0, 1, &call(path))).await;
            let (mut sent, one) = (0, frame(CONTINUATION, 0, 1, &long(1_000)));
            while sent < 100_000 && raw.send(&one).await {
                sent += 1;
            }
            raw.ended().await;
            assert!(sent < 100_000, "it was closed by count");
            let mut raw = Raw::open(address, &[]).await;
            raw.send(&frame(HEADERS, 0, 1, &call(path))).await;
            let mut sent = 0;
            while sent < 100_000 && raw.send(&frame(CONTINUATION, 0, 1, &[])).await {
                sent += 1;
            }
            raw.ended().await;
            assert!(sent < 100_000, "empty ones count, too");
        };
        program.under("CONTINUATION flood", attack).await;
    }
    program.check(GROWN_KIB_MAX);
}

/// Row A17: a connection has at most 1,024 calls at once; ten thousand are refused beyond that.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_of_one_connection_are_refused_beyond_a_thousand() {
    const CALLS_MAX: usize = 1_024;
    let folder = Folder::new();
    let program = Program::start(&folder).await;
    let opened = |calls: u32| -> Vec<u8> {
        let one = |number: u32| frame(HEADERS, END_HEADERS, 2 * number + 1, &call(APPEND));
        (0..calls).flat_map(one).collect()
    };
    let mut raw = Raw::open(&program.writer, &[]).await;
    assert!(raw.send(&opened(1_024)).await);
    raw.ping().await;
    assert_eq!((raw.count(RST_STREAM), raw.has_ended()), (0, false));
    let attack = async {
        let mut raw = Raw::open(&program.writer, &[]).await;
        raw.send(&opened(10_000)).await;
        raw.until("refusals", |raw| raw.has_ended() || raw.count(RST_STREAM) >= 10_000 - CALLS_MAX)
            .await;
        if !raw.has_ended() {
            assert_eq!(raw.count(RST_STREAM), 10_000 - CALLS_MAX);
        }
        raw
    };
    let raw = program.under("10,000 calls", attack).await;
    drop(raw);
    program.check(GROWN_KIB_MAX);
}

/// Row A17: readers that take nothing hold nothing but what is on its way to them.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_stop_nobody() {
    let folder = Folder::new();
    let mut program = Program::start(&folder).await;
    let mut session = Session::open(&mut program.calls).await;
    let value = "x".repeat(10_000);
    // Too few for a chunk: all of it is read from the log.
    for _ in 0..6 {
        for _ in 0..100 {
            session.send(append("bystander", &[&value])).await;
        }
        for _ in 0..100 {
            session.answer().await.unwrap();
        }
    }
    let mut request = Vec::new();
    prost::Message::encode(&crate::writer::read("bystander", 0), &mut request).unwrap();
    let calls = |count: u32| -> Vec<u8> {
        let one = |number: u32| {
            let stream = 2 * number + 1;
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(READ));
            bytes.extend(frame(DATA, END_STREAM, stream, &message(&request)));
            bytes
        };
        (0..count).flat_map(one).collect()
    };
    let attack = async {
        let mut connections = Vec::new();
        for (window, count) in [(0, 1_000), (1, 32), (70_000, 32)] {
            let mut raw = Raw::open(&program.writer, &[(INITIAL_WINDOW_SIZE, window)]).await;
            assert!(raw.send(&calls(count)).await);
            raw.ping().await;
            let answered = usize::try_from(count).unwrap();
            raw.until("answers begin", |raw| raw.answered() >= answered).await;
            let data = if window == 0 { 0 } else { 1 };
            raw.until("as much as there is room for", |raw| raw.count(DATA) >= data).await;
            connections.push(raw);
        }
        connections
    };
    let connections = program.under("slow readers", attack).await;
    let second = program.under("slow readers stay", async {}).await;
    drop((connections, second));
    program.check(GROWN_KIB_MAX);
}

/// Row A19: random bytes, from the first one on or behind a proper beginning.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_do_no_harm() {
    let folder = Folder::new();
    let program = Program::start(&folder).await;
    let seed = 11;
    crate::tell(&format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    for address in [&program.writer, &program.admin] {
        let attack = async {
            let mut ended = 0;
            for number in 0..300 {
                let mut bytes = vec![0; random.random_range(1..4_096)];
                random.fill_bytes(&mut bytes);
                let mut raw = Raw::connect(address).await;
                let begin: Vec<u8> = match number % 3 {
                    0 => vec![],
                    1 => [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
                    // One frame with a proper head, of a random kind.
                    _ => {
                        let (kind, flags) = (random.random_range(0..12), random.random());
                        let body = frame(kind, flags, random.random_range(0..4), &bytes);
                        bytes.clear();
                        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &body].concat()
                    }
                };
                raw.send(&begin).await;
                raw.send(&bytes).await;
                if number % 3 == 0 {
                    raw.ended().await;
                }
                ended += u32::from(raw.has_ended());
            }
            ended
        };
        let ended = program.under("random bytes", attack).await;
        assert!(ended >= 100, "{ended}");
    }
    program.check(GROWN_KIB_MAX);
}

/// The files that declare the services, one service each.
const WRITER_PROTO: &str = include_str!("../../../protocol/proto/pyramid/v1/writer.proto");
const ADMIN_PROTO: &str = include_str!("../../../protocol/proto/pyramid/v1/admin.proto");

/// The paths of all methods that a file declares, so that none is forgotten here.
fn methods(proto: &str) -> Vec<String> {
    let named = |keyword| {
        proto.lines().filter_map(move |line| {
            let (name, _) = line.trim_start().strip_prefix(keyword)?.split_once([' ', '('])?;
            Some(name.to_owned())
        })
    };
    let services: Vec<String> = named("service ").collect();
    let [service] = &services[..] else { panic!("one service: {services:?}") };
    named("rpc ").map(|method| format!("/pyramid.v1.{service}/{method}")).collect()
}

#[test]
fn the_methods_under_attack_are_those_that_are_declared() {
    let (writer, admin) = (methods(WRITER_PROTO), methods(ADMIN_PROTO));
    for (all, known) in [
        (&writer, [APPEND, READ, GET_STREAM]),
        (&admin, [GET_INFO, "/pyramid.v1.Admin/GetStreamConfig", "/pyramid.v1.Admin/Adopt"]),
    ] {
        assert!(known.iter().all(|path| all.iter().any(|one| one == path)), "{all:?}");
    }
    assert_eq!(writer.len(), WRITER_PROTO.matches(" returns (").count());
    assert_eq!(admin.len(), ADMIN_PROTO.matches(" returns (").count());
}

/// A well-formed protobuf message with fields of random numbers and types, and values at the edges.
fn random_message(random: &mut StdRng, depth: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(0..5) {
        let number: u8 = random.random_range(1..14);
        match random.random_range(0..8) {
            0 | 1 => {
                bytes.push(number << 3);
                let edges = [0, 1, 2, 127, 128, u64::from(u32::MAX), 1 << 53, 1 << 63, u64::MAX];
                prost::encoding::encode_varint(
                    edges[random.random_range(0..edges.len())],
                    &mut bytes,
                );
            }
            2 => {
                bytes.push(number << 3 | 1);
                bytes.extend(random.random::<u64>().to_le_bytes());
            }
            3 => {
                bytes.push(number << 3 | 5);
                bytes.extend(random.random::<u32>().to_le_bytes());
            }
            kind => {
                let inner = match kind {
                    4 if depth > 0 => random_message(random, depth - 1),
                    5 => CLUSTER.to_vec(),
                    6 => [0xff, 0xfe].to_vec(),
                    _ => {
                        let texts =
                            ["", "x", "\0", "\u{202e}", "../x", "spiffe://td/x", &"y".repeat(600)];
                        texts[random.random_range(0..texts.len())].as_bytes().to_vec()
                    }
                };
                bytes.push(number << 3 | 2);
                prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
            }
        }
    }
    bytes
}

/// Row A19: random well-formed messages on every method, one or several in a call.
#[tokio::test(flavor = "multi_thread")]
async fn random_messages_on_every_method_do_no_harm() {
    const MESSAGES: u32 = 150;
    let folder = Folder::new();
    let program = Program::start(&folder).await;
    let seed = 12;
    crate::tell(&format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let writer = methods(WRITER_PROTO).into_iter().map(|path| (&program.writer, path));
    let admin = methods(ADMIN_PROTO).into_iter().map(|path| (&program.admin, path));
    for (address, path) in writer.chain(admin) {
        let attack = async {
            let mut raw = Raw::open(address, &[]).await;
            for number in 0..MESSAGES {
                let stream = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(&path));
                for _ in 0..random.random_range(1..4) {
                    let body = message(&random_message(&mut random, 3));
                    bytes.extend(frame(DATA, 0, stream, &body));
                }
                bytes.extend(frame(DATA, END_STREAM, stream, &[]));
                assert!(raw.send(&bytes).await, "{path} goes on");
            }
            let calls = usize::try_from(MESSAGES).unwrap();
            raw.until("all are answered", |raw| raw.answered() >= calls).await;
            assert!(!raw.has_ended(), "{path}");
        };
        let attack = async { tokio::time::timeout(2 * DEADLINE, attack).await.expect("in time") };
        program.under(&path, attack).await;
    }
    program.check(GROWN_KIB_MAX);
}
