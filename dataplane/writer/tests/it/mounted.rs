//! The real program as a pod runs it: keys and certificates mounted as Secrets, TLS on both ports,
//! founded by the operator, stopped by a signal.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::attach_response::Message as FromWriter;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb, DataState, Reason};
use pyramid_protocol::{SpiffeId, SystemClock};
use pyramid_tls::authority::{Issued, Request, Usage};
use pyramid_tls::{Authority, Tls, write_directory};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::ops::get;
use crate::writer::{
    CLUSTER, DEADLINE, Folder, Session, append, eventually, offsets, read, subscription,
};

/// Kubernetes waits longer before it kills a pod; who stops within this is never killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A mounted Secret, as the kubelet makes it and changes it.
struct Secret {
    path: PathBuf,
    version: u32,
}

impl Secret {
    fn mount(path: PathBuf, files: &[(&str, &[u8])]) -> Self {
        fs::create_dir(&path).unwrap();
        let mut secret = Self { path, version: 0 };
        secret.change(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), secret.path.join(name)).unwrap();
        }
        secret
    }

    fn change(&mut self, files: &[(&str, &[u8])]) {
        self.version += 1;
        let version = format!("..2026_11_25.{}", self.version);
        let target = self.path.join(&version);
        fs::create_dir(&target).unwrap();
        for (name, content) in files {
            let file = target.join(name);
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
        }
        let next = self.path.join("..data_tmp");
        symlink(&version, &next).unwrap();
        fs::rename(&next, self.path.join("..data")).unwrap();
    }
}

struct Pod {
    child: Child,
    authority: Authority,
    tls: Secret,
    admin: AdminClient<Channel>,
    user: WriterClient<Channel>,
    ops: SocketAddr,
}

fn issue(authority: &Authority, identity: SpiffeId, usage: Usage) -> Issued {
    let ip_addresses = vec![Ipv4Addr::LOCALHOST.into()];
    let life = Duration::from_secs(3600);
    let request = Request { identity, usage, dns_names: vec![], ip_addresses, life };
    authority.issue(&request, &SystemClock).unwrap()
}

fn of_writer(authority: &Authority) -> Issued {
    let identity = SpiffeId::writer("td", "a", "main").unwrap();
    issue(authority, identity, Usage::ServerAndClient)
}

fn files<'a>(issued: &'a Issued, authority: &'a Authority) -> [(&'static str, &'a [u8]); 3] {
    [
        ("tls.key", issued.key_pem.as_bytes()),
        ("tls.crt", issued.chain_pem.as_bytes()),
        ("ca.crt", authority.bundle_pem().as_bytes()),
    ]
}

/// A connection as somebody.
fn connect(folder: &Folder, authority: &Authority, identity: SpiffeId, address: &str) -> Channel {
    let name = identity.as_str().replace('/', "-");
    let directory = folder.path().join(name);
    let issued = issue(authority, identity, Usage::Client);
    write_directory(&directory, &issued, authority.bundle_pem()).unwrap();
    let tls = Tls::open(&directory, Arc::new(SystemClock)).unwrap();
    channel(Arc::new(tls.connect(Arc::new(TcpConnect))), address).unwrap()
}

impl Pod {
    async fn start(folder: &Folder) -> Self {
        let life = Duration::from_secs(7200);
        let authority = Authority::generate("td", life, &SystemClock).unwrap();
        let path = |name: &str| folder.path().join(name);
        let tls = Secret::mount(path("tls"), &files(&of_writer(&authority), &authority));
        let keks = Secret::mount(path("keks"), &[("1", &[1; 32]), ("2", &[2; 32])]);
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_pyramid-writer"))
            .arg(flag("data-dir", &path("data")))
            .arg(flag("kek-file", &keks.path))
            .arg(flag("tls", &tls.path))
            .arg(format!("--object-store=file:{}", path("objects").display()))
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .args(["--ops-listen=127.0.0.1:0", "--segment-bytes=16777216", "--log=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
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
        let operator = SpiffeId::operator("td").unwrap();
        let user = SpiffeId::service_account("td", "a", "user").unwrap();
        let admin = connect(folder, &authority, operator, &address("admin="));
        let user = connect(folder, &authority, user, &address("writer="));
        Self {
            child,
            tls,
            admin: AdminClient::new(admin),
            user: WriterClient::new(user),
            ops: address("ops=").parse().unwrap(),
            authority,
        }
    }

    async fn info(&mut self) -> pb::GetInfoResponse {
        self.admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner()
    }

    /// Started, alive, ready.
    async fn probes(&self) -> [u16; 3] {
        let mut statuses = [0; 3];
        for (status, path) in statuses.iter_mut().zip(["/startupz", "/healthz", "/readyz"]) {
            *status = get(self.ops, path).await.unwrap().0;
        }
        statuses
    }

    /// Founds it, with a stream and a subscription for every service account of a namespace.
    async fn found(&mut self) {
        let cluster_id = bytes::Bytes::from(CLUSTER.to_vec());
        let request = pb::BootstrapRequest { cluster_id: cluster_id.clone() };
        self.admin.bootstrap(request).await.unwrap();
        let every = || vec!["spiffe://td/ns/a/sa/*".to_owned()];
        let rights =
            pb::StreamRights { appenders: every(), readers: every(), ..Default::default() };
        let stream = pb::PutStream {
            object: Some(pb::ObjectRef { uid: "u".into(), generation: 1 }),
            name: "orders".into(),
            rights: Some(rights),
            ..Default::default()
        };
        let put = pb::PutStreamsRequest { cluster_id: cluster_id.clone(), streams: vec![stream] };
        self.admin.put_streams(put).await.unwrap();
        let subscription =
            pb::PutSubscription { service_accounts: every(), ..subscription("s", 1, &["orders"]) };
        let put = pb::PutSubscriptionsRequest { cluster_id, subscriptions: vec![subscription] };
        let put = self.admin.put_subscriptions(put).await.unwrap().into_inner();
        assert_eq!(put.results[0].refused, None);
    }

    /// Its exit code, if it ends as quickly as Kubernetes wants it after its signal.
    async fn terminate(&mut self) -> Option<i32> {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        assert!(sent.success());
        let ended: io::Result<_> =
            timeout(STOP_MAX, self.child.wait()).await.expect("it ends in time");
        ended.unwrap().code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_to_be_founded_and_takes_new_certificates() {
    let folder = Folder::new();
    let mut pod = Pod::start(&folder).await;
    let empty = pod.info().await;
    assert_eq!((empty.data_state(), empty.cluster_id.len()), (DataState::Empty, 0));
    assert_eq!(pod.probes().await, [200, 200, 503], "not to be restarted, and not to be used");
    assert_eq!(empty.trust_bundle_sha256.len(), 64);
    let stranger = pb::GetStreamRequest { stream: "orders".into(), min_next_offset: None };
    let early = pod.user.get_stream(stranger).await.unwrap_err();
    assert_eq!(pb::Refusal::from_status(&early).reason(), Reason::Unavailable);

    pod.found().await;
    let member = pod.info().await;
    assert_eq!((member.data_state(), member.leader), (DataState::Member, true));
    eventually("it is ready", || async { (pod.probes().await == [200; 3]).then_some(()) }).await;
    let mut session = Session::open(&mut pod.user).await;
    assert_eq!(offsets(session.append(append("orders", &["x"])).await), (0, 1));

    let renewed = of_writer(&pod.authority);
    pod.tls.change(&files(&renewed, &pod.authority));
    let before = member.serving_certificate_serial;
    let renewing = async {
        loop {
            let info = pod.info().await;
            if info.serving_certificate_serial != before {
                return info.trust_bundle_sha256;
            }
        }
    };
    let bundle = timeout(DEADLINE, renewing).await.expect("the new certificate is taken");
    assert_eq!(bundle, member.trust_bundle_sha256);
    assert_eq!(offsets(session.append(append("orders", &["y"])).await), (1, 2), "no restart");
    assert_eq!(pod.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_told_to_stop_answers_what_is_open_and_ends_in_time() {
    let folder = Folder::new();
    let mut pod = Pod::start(&folder).await;
    pod.found().await;
    let mut session = Session::open(&mut pod.user).await;
    assert_eq!(offsets(session.append(append("orders", &["x"])).await), (0, 1));
    let watched = pb::WatchRequest { streams: vec!["orders".into()] };
    let mut watch = pod.user.watch(watched).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let follow = pb::ReadRequest { follow: true, ..read("orders", 0) };
    let mut items = pod.user.read(follow).await.unwrap().into_inner();
    assert!(items.message().await.unwrap().is_some());
    let (to, requests) = mpsc::channel(1);
    let hello = pb::AttachHello { subscription: "s".into(), ..Default::default() };
    to.send(pb::AttachRequest { message: Some(ToWriter::Hello(hello)) }).await.unwrap();
    let attached = pod.user.attach(ReceiverStream::new(requests)).await.unwrap();
    let mut attached = attached.into_inner();
    assert!(attached.message().await.unwrap().is_some());
    let mut stats = pod.admin.watch_stats(pb::WatchStatsRequest::default()).await.unwrap();
    assert!(stats.get_mut().message().await.unwrap().is_some());

    // Nobody closes anything: each call gets its last word from the Writer.
    let last_words = async {
        let mut refused = Vec::new();
        let mut answered = 1;
        let Session { requests, answers } = &mut session;
        let appending = async { while requests.send(append("orders", &["y"])).await.is_ok() {} };
        let answering = async {
            while let Ok(Some(answer)) = answers.message().await {
                match answer.answer.unwrap() {
                    pb::append_response::Answer::Appended(appended) => {
                        assert_eq!(appended.first_offset, Some(answered));
                        answered += 1;
                    }
                    pb::append_response::Answer::Refused(refusal) => {
                        assert!(refusal.retry, "{refusal:?}");
                    }
                }
            }
        };
        tokio::select! {
            () = answering => {}
            () = async { appending.await; std::future::pending().await } => {}
        }
        while let Some(item) = items.message().await.unwrap() {
            if let Item::Refused(refusal) = item.item.unwrap() {
                refused.push((refusal.reason(), refusal.retry));
            }
        }
        while let Some(told) = attached.message().await.unwrap() {
            if let FromWriter::Refused(refusal) = told.message.unwrap() {
                refused.push((refusal.reason(), refusal.retry));
            }
        }
        while watch.message().await.unwrap().is_some() {}
        assert_eq!(refused, [(Reason::Unavailable, true); 2]);
        answered
    };
    let (code, answered) = tokio::join!(pod.terminate(), last_words);
    assert_eq!(code, Some(0));
    crate::tell(&format!("{answered} appends were answered before the end"));
    drop((to, stats));

    // All that was acknowledged is there.
    let keks = format!("1 = {}\n2 = {}\n", "01".repeat(32), "02".repeat(32));
    fs::write(folder.path().join("kek"), keks).unwrap();
    let mut writer = folder.start(&[]).await;
    assert!(writer.info("orders").await.next_offset >= answered);
    writer.stop().await;
}
