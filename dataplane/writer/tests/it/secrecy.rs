//! What the program logs at the finest level: much, and never a secret.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb};
use tokio_util::sync::CancellationToken;

use crate::writer::{CLUSTER, Folder, Writer, append, eventually, read, values};

const MARKER: &str = "the secret of this record";

/// Ends the program with the test, whatever becomes of the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing is lost by a kill, and there is nobody to tell that it has ended already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

/// The real program, which logs everything into a file.
async fn start(folder: &Folder, format: &str) -> (Program, Writer) {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyramid-writer"));
    command.args(["--data-dir", &path("data"), "--kek-file", &path("kek")]);
    command.args(["--object-store", &format!("file:{}", path("objects"))]);
    for port in ["--listen", "--admin-listen", "--ops-listen"] {
        command.args([port, "127.0.0.1:0"]);
    }
    command.args(["--segment-bytes", "16777216", "--log", "trace", "--log-format", format]);
    let log = File::create(folder.path().join("log")).unwrap();
    let mut program = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let out = program.stdout.take().unwrap();
    let program = Program(program);
    let ready = tokio::task::spawn_blocking(move || {
        let mut ready = String::new();
        BufReader::new(out).read_line(&mut ready).unwrap();
        ready
    });
    let ready = ready.await.unwrap();
    let address = |name: &str| {
        let named = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
        named.unwrap_or_else(|| panic!("{name} in {ready:?}")).to_owned()
    };
    let connect = |name: &str| channel(Arc::new(TcpConnect), &address(name)).unwrap();
    let writer = Writer {
        address: address("writer=").parse().unwrap(),
        calls: WriterClient::new(connect("writer=")),
        admin: AdminClient::new(connect("admin=")),
        ops: address("ops=").parse().unwrap(),
        #[expect(clippy::disallowed_methods, reason = "it has nothing to do")]
        running: tokio::spawn(async { Ok(()) }),
        shutdown: CancellationToken::new(),
    };
    (program, writer)
}

/// Ways in which bytes are shown.
fn forms(secret: &[u8]) -> [String; 5] {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let listed = format!("{secret:?}");
    // A part of the list shows inside of a longer one.
    let listed = listed.trim_matches(['[', ']']).to_owned();
    let escaped = format!("{:?}", bytes::Bytes::copy_from_slice(secret));
    let escaped = escaped.trim_start_matches("b\"").trim_end_matches('"').to_owned();
    [hex.clone(), hex.to_uppercase(), listed, escaped, base64(secret)]
}

fn base64(secret: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole = secret.chunks_exact(3).flat_map(|three| {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]))
    });
    whole.collect()
}

#[test]
fn bytes_are_found_in_each_form() {
    let forms = forms(b"\x00\xffAB");
    assert_eq!(forms, ["00ff4142", "00FF4142", "0, 255, 65, 66", "\\0\\xffAB", "AP9B"]);
}

/// One run that founds, ships, serves places and records, and meets a store that fails; what it has
/// logged, and the secrets that it had in its hands.
async fn run(format: &str) -> (String, Vec<(&'static str, String)>) {
    let folder = Folder::new();
    let (program, mut writer) = start(&folder, format).await;
    writer.bootstrap(CLUSTER).await.unwrap();
    writer.put_stream("a").await;
    writer.append("a", &[MARKER, "x"]).await;
    writer.seal("a").await;
    let items = writer.read(pb::ReadRequest { want_locations: true, ..read("a", 0) }).await;
    let location = items.iter().find_map(|item| match item {
        Item::Chunk(location) => Some(location.clone()),
        Item::Start(_)
        | Item::Batches(_)
        | Item::CaughtUp(_)
        | Item::Moved(_)
        | Item::Refused(_) => None,
    });
    let location = location.expect("the chunk's place");
    let items = writer.read(read("a", 0)).await;
    assert_eq!(items.iter().flat_map(values).count(), 2);
    writer.session().await.append(append("missing", &[MARKER])).await.unwrap_err();

    // The directory is gone, and a file has its name.
    let objects = folder.path().join("objects");
    fs::rename(&objects, folder.path().join("elsewhere")).unwrap();
    fs::write(&objects, "").unwrap();
    writer.append("a", &[MARKER]).await;
    writer.seal_only("a").await;
    let log = || fs::read_to_string(folder.path().join("log")).unwrap();
    eventually("a failed upload is logged", || async {
        log().contains("a chunk was not shipped").then_some(())
    })
    .await;
    drop(program);

    let kek = fs::read_to_string(folder.path().join("kek")).unwrap();
    let kek = kek.rsplit('=').next().unwrap().trim();
    let kek: Vec<u8> = (0..kek.len() / 2)
        .map(|place| u8::from_str_radix(&kek[2 * place..2 * place + 2], 16).unwrap())
        .collect();
    let mut secrets = Vec::new();
    let held: [(&str, &[u8]); 4] = [
        ("a record", MARKER.as_bytes()),
        ("a chunk's encryption key", &location.encryption_key),
        ("a chunk's tag key", &location.mac_key),
        ("the KEK", &kek),
    ];
    for (name, secret) in held {
        assert!(secret.len() >= 25, "{name}");
        secrets.extend(forms(secret).map(|form| (name, form)));
    }
    (log(), secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_level_logs_a_record_or_a_key() {
    for format in ["text", "json"] {
        let (log, secrets) = run(format).await;
        for (name, secret) in &secrets {
            assert!(!log.contains(secret), "{name} is logged as {secret}");
        }
        // The search would have found what is logged: its steps, and bytes in a list.
        assert!(log.lines().count() > 200, "{}", log.lines().count());
        for shown in ["shipped a chunk", "opened the write-ahead log", "TRACE"] {
            assert!(log.contains(shown), "{shown} is not logged");
        }
    }
}
