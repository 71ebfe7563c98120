//! Watch and Attach: what a pusher hears of its streams.

use std::sync::Arc;

use pyramid_protocol::limits::WATCH_STREAMS_MAX;
use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::attach_response::Message as FromWriter;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::writer::{DEADLINE, Folder, Writer, subscription};

async fn heard(watch: &mut Streaming<pb::WatchResponse>) -> Vec<(String, Option<(u64, u64)>)> {
    let answer = timeout(DEADLINE, watch.message()).await.expect("an answer comes");
    let streams = answer.unwrap().expect("the watch goes on").streams;
    let next = |next: Option<pb::Position>| next.map(|next| (next.stream_id, next.offset));
    streams.into_iter().map(|watched| (watched.stream, next(watched.next))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_all_at_first_and_then_what_is_new() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let a = writer.put_stream("a").await.stream_id;
    let unwatched = writer.put_stream("c").await;
    writer.append("a", &["x", "y"]).await;
    let request = pb::WatchRequest { streams: vec!["b".into(), "a".into()] };
    let mut watch = writer.calls.watch(request).await.unwrap().into_inner();
    assert_eq!(heard(&mut watch).await, [("a".into(), Some((a, 2))), ("b".into(), None)]);
    writer.append("a", &["z"]).await;
    assert_eq!(heard(&mut watch).await, [("a".into(), Some((a, 3)))]);
    // None of these is news of a or b.
    writer.append("c", &["x"]).await;
    writer.seal("a").await;
    writer.put_stream("d").await;
    assert_eq!(unwatched.next_offset, 0);
    let b = writer.put_stream("b").await.stream_id;
    assert_eq!(heard(&mut watch).await, [("b".into(), Some((b, 0)))]);
    writer.append("b", &["x"]).await;
    assert_eq!(heard(&mut watch).await, [("b".into(), Some((b, 1)))]);
    writer.delete_stream("a").await;
    assert_eq!(heard(&mut watch).await, [("a".into(), None)]);
    let anew = writer.put_stream("a").await.stream_id;
    assert_eq!(heard(&mut watch).await, [("a".into(), Some((anew, 0)))]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_very_many_streams_comes_in_several_answers() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let names: Vec<String> = (0..9_000).map(|n| format!("{n:05}{}", "n".repeat(450))).collect();
    let mut half = names.clone();
    half.truncate(6_000);
    let request = pb::WatchRequest { streams: half.clone() };
    let mut watch = writer.calls.watch(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while told.len() < half.len() {
        told.extend(heard(&mut watch).await);
    }
    assert_eq!(told, half.into_iter().map(|name| (name, None)).collect::<Vec<_>>());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_names_at_most_so_many_streams() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let a = writer.put_stream("a").await.stream_id;
    let mut streams = vec!["a".to_owned(); WATCH_STREAMS_MAX];
    let request = pb::WatchRequest { streams: streams.clone() };
    let mut watch = writer.calls.watch(request).await.unwrap().into_inner();
    assert_eq!(heard(&mut watch).await, [("a".into(), Some((a, 0)))], "each is told once");
    streams.push("a".into());
    let refused = writer.calls.watch(pb::WatchRequest { streams }).await.unwrap_err();
    let refusal = pb::Refusal::from_status(&refused);
    assert_eq!((refusal.reason(), refusal.retry), (Reason::Invalid, false));
    writer.stop().await;
}

pub(crate) struct Pusher {
    pub(crate) to: mpsc::Sender<pb::AttachRequest>,
    from: Streaming<pb::AttachResponse>,
}

impl Pusher {
    pub(crate) async fn new(writer: &mut Writer) -> Self {
        let (to, requests) = mpsc::channel(8);
        let from = writer.calls.attach(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { to, from }
    }

    async fn hello(writer: &mut Writer) -> Self {
        let pusher = Self::new(writer).await;
        pusher.say(hello()).await;
        pusher
    }

    pub(crate) async fn say(&self, message: ToWriter) {
        self.to.send(pb::AttachRequest { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn hears(&mut self) -> Option<FromWriter> {
        let answer = timeout(DEADLINE, self.from.message()).await.expect("an answer comes");
        answer.unwrap().map(|answer| answer.message.unwrap())
    }

    async fn refused(&mut self) -> (Reason, Effect, bool) {
        let Some(FromWriter::Refused(refusal)) = self.hears().await else { panic!("not refused") };
        assert_eq!(self.hears().await, None);
        (refusal.reason(), refusal.effect(), refusal.retry)
    }
}

fn hello() -> ToWriter {
    let (subscription, pod) = ("s".to_owned(), "pod-0".to_owned());
    ToWriter::Hello(pb::AttachHello { subscription, pod, ..Default::default() })
}

fn report() -> ToWriter {
    let report = pb::StreamReport { stream: "a".into(), ..Default::default() };
    ToWriter::Report(pb::AttachReport { streams: vec![report] })
}

fn assigned(streams: &[(&str, Option<u64>)], paused: bool) -> FromWriter {
    let streams = streams.iter().map(|(stream, stream_id)| pb::AssignedStream {
        stream: (*stream).to_owned(),
        stream_id: *stream_id,
        ..Default::default()
    });
    FromWriter::Assignment(pb::Assignment {
        streams: streams.collect(),
        start_from: pb::StartFrom::Latest.into(),
        paused,
        mode: pb::DeliveryMode::Broadcast.into(),
        ack_timeout_ms: 7,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_follows_streams_and_subscription() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let a = writer.put_stream("a").await.stream_id;
    let put = |generation, streams: &[&str], paused| pb::PutSubscription {
        start_from: pb::StartFrom::Latest.into(),
        ack_timeout_ms: 7,
        paused,
        ..subscription("s", generation, streams)
    };
    writer.put_subscription(put(1, &["b", "a"], false)).await.unwrap();
    let mut pusher = Pusher::hello(&mut writer).await;
    let expected = assigned(&[("a", Some(a)), ("b", None)], false);
    assert_eq!(pusher.hears().await, Some(expected));
    pusher.say(report()).await;
    let b = writer.put_stream("b").await.stream_id;
    let expected = assigned(&[("a", Some(a)), ("b", Some(b))], false);
    assert_eq!(pusher.hears().await, Some(expected));
    writer.put_stream("not in it").await;
    writer.put_subscription(put(2, &["b"], true)).await.unwrap();
    assert_eq!(pusher.hears().await, Some(assigned(&[("b", Some(b))], true)));
    writer.delete_stream("b").await;
    assert_eq!(pusher.hears().await, Some(assigned(&[("b", None)], true)));
    let object = subscription("s", 2, &["b"]).object;
    let gone = |object| pb::DeleteSubscriptionRequest {
        cluster_id: crate::writer::CLUSTER.to_vec().into(),
        name: "s".into(),
        object,
    };
    let other = Some(pb::ObjectRef { uid: "another object".into(), generation: 9 });
    for foreign in [other, None] {
        let refused = writer.admin.delete_subscription(gone(foreign)).await.unwrap_err();
        assert_eq!(pb::Refusal::from_status(&refused).reason(), Reason::Invalid);
    }
    writer.admin.delete_subscription(gone(object)).await.unwrap();
    assert_eq!(pusher.refused().await, (Reason::NotFound, Effect::NoEffect, true));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_says_hello_once_and_first() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let mut pusher = Pusher::hello(&mut writer).await;
    let unknown = pusher.refused().await;
    assert_eq!(unknown, (Reason::NotFound, Effect::NoEffect, true), "it may be declared later");
    let mut pusher = Pusher::new(&mut writer).await;
    pusher.say(report()).await;
    assert_eq!(pusher.refused().await, (Reason::Invalid, Effect::NoEffect, false));
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    let mut pusher = Pusher::hello(&mut writer).await;
    assert!(matches!(pusher.hears().await, Some(FromWriter::Assignment(_))));
    pusher.say(hello()).await;
    assert_eq!(pusher.refused().await, (Reason::Invalid, Effect::NoEffect, false));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_names_its_trust_bundle_by_a_hash_or_not_at_all() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    for (hash, is_good) in [
        (String::new(), true),
        ("0".repeat(63), false),
        ("09afAF00".repeat(8), true),
        ("0".repeat(65), false),
        (format!("{}g", "0".repeat(63)), false),
        ("ä".repeat(32), false),
    ] {
        let ToWriter::Hello(hello) = hello() else { panic!("a hello") };
        let mut pusher = Pusher::new(&mut writer).await;
        let hello = pb::AttachHello { trust_bundle_sha256: hash.clone(), ..hello };
        pusher.say(ToWriter::Hello(hello)).await;
        if is_good {
            assert!(matches!(pusher.hears().await, Some(FromWriter::Assignment(_))), "{hash}");
        } else {
            let refused = pusher.refused().await;
            assert_eq!(refused, (Reason::Invalid, Effect::NoEffect, false), "{hash}");
        }
    }
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_full_of_pushers_takes_one_when_another_goes() {
    const PUSHERS_MAX: usize = 1_024;
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    for name in ["s", "another"] {
        writer.put_subscription(subscription(name, 1, &["a"])).await.unwrap();
    }
    // A connection has at most as many calls at once.
    let one = writer.calls.clone();
    let mut pushers = Vec::new();
    for number in 0..PUSHERS_MAX {
        if number == PUSHERS_MAX / 2 {
            let channel = channel(Arc::new(TcpConnect), &writer.address.to_string()).unwrap();
            writer.calls = WriterClient::new(channel);
        }
        let mut pusher = Pusher::hello(&mut writer).await;
        assert!(matches!(pusher.hears().await, Some(FromWriter::Assignment(_))), "{number}");
        pushers.push(pusher);
    }
    let mut late = Pusher::hello(&mut writer).await;
    let Some(FromWriter::Refused(refusal)) = late.hears().await else { panic!("not refused") };
    assert_eq!((refusal.reason(), refusal.retry), (Reason::ResourceExhausted, true));
    assert!(refusal.retry_after_ms > 0, "{refusal:?}");
    let mut other = Pusher::new(&mut writer).await;
    let hello = pb::AttachHello { subscription: "another".into(), ..Default::default() };
    other.say(ToWriter::Hello(hello)).await;
    assert!(matches!(other.hears().await, Some(FromWriter::Assignment(_))));
    pushers.pop();
    let again = timeout(DEADLINE, async {
        loop {
            let mut pusher = Pusher::hello(&mut writer).await;
            if let Some(FromWriter::Assignment(_)) = pusher.hears().await {
                return pusher;
            }
        }
    });
    pushers.push(again.await.expect("there is room again"));
    drop((pushers, one));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_is_told_that_the_writer_stops() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    let mut pusher = Pusher::hello(&mut writer).await;
    assert!(matches!(pusher.hears().await, Some(FromWriter::Assignment(_))));
    let ((), refused) = tokio::join!(writer.stop(), pusher.refused());
    assert_eq!(refused, (Reason::Unavailable, Effect::NoEffect, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_watches_what_pushers_say_and_how_far_streams_reach() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["x", "y"]).await;
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    let mut pusher = Pusher::hello(&mut writer).await;
    pusher.hears().await;
    let request = pb::WatchStatsRequest { interval_ms: 100 };
    let mut stats = writer.admin.watch_stats(request).await.unwrap().into_inner();
    pusher.say(report()).await;
    let told = timeout(DEADLINE, async {
        loop {
            let stats = stats.message().await.unwrap().unwrap();
            if stats.pushers.iter().any(|pusher| !pusher.streams.is_empty()) {
                return stats;
            }
        }
    });
    let told = told.await.expect("the report is told");
    assert_eq!((told.stream_count, told.open_seals), (1, 0));
    assert!(told.live_bytes > 0 && told.wal_bytes > 0, "{told:?}");
    let pushers: Vec<_> =
        told.pushers
            .iter()
            .map(|pusher| {
                let hello = pusher.hello.as_ref().unwrap();
                let streams = pusher.streams.iter().map(|stream| {
                    (stream.report.as_ref().unwrap().stream.clone(), stream.next_offset)
                });
                (hello.subscription.clone(), streams.collect::<Vec<_>>())
            })
            .collect();
    assert_eq!(pushers, [("s".to_owned(), vec![("a".to_owned(), Some(2))])]);
    writer.stop().await;
}
