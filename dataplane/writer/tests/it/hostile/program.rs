//! The real program, which ends when anything in it panics, and somebody who uses it meanwhile.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::writer::{CLUSTER, DEADLINE, Folder, Session, append, read, values};

/// What the bystander uses.
const STREAM: &str = "bystander";

/// Rounds that the bystander makes at least while it is attacked.
const ROUNDS_MIN: u32 = 3;

/// A founded replica with a stream for the bystander. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    errors: PathBuf,
    pub(crate) writer: String,
    pub(crate) admin: String,
    pub(crate) calls: WriterClient<Channel>,
    rss_before_kib: u64,
}

impl Program {
    pub(crate) async fn start(folder: &Folder) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let errors = folder.path().join("errors");
        let mut child = Command::new(env!("CARGO_BIN_EXE_pyramid-writer"))
            .args(["--data-dir", &path("data"), "--kek-file", &path("kek")])
            .args(["--object-store", &format!("file:{}", path("objects"))])
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--ops-listen", "127.0.0.1:0"])
            .args(["--segment-bytes", "16777216", "--memory-bytes-max", "268435456"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = timeout(DEADLINE, lines.next_line()).await.expect("it is ready in time");
        let ready = ready.unwrap().expect("it says where it listens");
        let address = |key: &str| -> String {
            let found = ready.split(' ').find_map(|word| word.strip_prefix(key));
            found.unwrap_or_else(|| panic!("{key} in {ready}")).to_owned()
        };
        let (writer, admin) = (address("writer="), address("admin="));
        let to = |address: &str| channel(Arc::new(TcpConnect), address).unwrap();
        let mut operator = AdminClient::new(to(&admin));
        let cluster_id = bytes::Bytes::from(CLUSTER.to_vec());
        let founding = pb::BootstrapRequest { cluster_id: cluster_id.clone() };
        operator.bootstrap(founding).await.unwrap();
        let object = Some(pb::ObjectRef { uid: "u".into(), generation: 1 });
        let stream = pb::PutStream { object, name: STREAM.into(), ..Default::default() };
        let put = pb::PutStreamsRequest { cluster_id, streams: vec![stream] };
        operator.put_streams(put).await.unwrap();
        let mut calls = WriterClient::new(to(&writer));
        round(&mut calls).await;
        let rss_before_kib = rss_kib(&child);
        Self { child, errors, writer, admin, calls, rss_before_kib }
    }

    /// Attacks while somebody else appends and reads, and goes on with it afterwards.
    pub(crate) async fn under<T>(&self, what: &str, attack: impl Future<Output = T>) -> T {
        let rounds = AtomicU32::new(0);
        let attacked = AtomicU32::new(0);
        let using = async {
            let mut calls = self.calls.clone();
            while attacked.load(Ordering::Relaxed) == 0
                || rounds.load(Ordering::Relaxed) < ROUNDS_MIN
            {
                round(&mut calls).await;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            round(&mut calls).await;
        };
        let attack = async {
            let result = attack.await;
            attacked.store(1, Ordering::Relaxed);
            result
        };
        let (result, ()) = tokio::join!(attack, using);
        let (rounds, grown_kib) = (rounds.into_inner(), self.grown_kib());
        crate::tell(&format!("{what}: {rounds} rounds meanwhile, {grown_kib} KiB more"));
        result
    }

    /// How much more memory it has than before all attacks.
    pub(crate) fn grown_kib(&self) -> u64 {
        rss_kib(&self.child).saturating_sub(self.rss_before_kib)
    }

    /// It lives, nothing has panicked, and it has not grown by more than this.
    pub(crate) fn check(mut self, grown_kib_max: u64) {
        let grown = self.grown_kib();
        assert_eq!(self.child.try_wait().unwrap(), None, "{}", errors(&self.errors));
        let errors = errors(&self.errors);
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(grown <= grown_kib_max, "grown by {grown} KiB");
    }
}

fn errors(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Appends one record and reads it.
async fn round(calls: &mut WriterClient<Channel>) {
    let once = async {
        let mut session = Session::open(calls).await;
        let offset = session.append(append(STREAM, &["x"])).await.unwrap().first_offset.unwrap();
        let mut items = calls.read(read(STREAM, offset)).await.unwrap().into_inner();
        while let Some(response) = items.message().await.unwrap() {
            if values(&response.item.unwrap()) == [(offset, "x".to_owned())] {
                return;
            }
        }
        panic!("the record is not read");
    };
    timeout(DEADLINE, once).await.expect("appends and reads go on");
}

fn rss_kib(child: &Child) -> u64 {
    let status = format!("/proc/{}/status", child.id().expect("it lives"));
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
