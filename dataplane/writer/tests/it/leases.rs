//! Leases of Exclusive subscriptions, over a whole replica.

use std::time::Duration;

use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::attach_response::Message as FromWriter;
use pyramid_protocol::pb::v1::{self as pb, PushState};
use tokio::time::{Instant, timeout};

use crate::watch_attach::Pusher;
use crate::writer::{DEADLINE, Folder, Writer, subscription};

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(3);

/// A takeover is seen within this: the rest of a lease, and some time for a busy machine.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);

fn exclusive(generation: u64, streams: &[&str]) -> pb::PutSubscription {
    let mode = pb::DeliveryMode::Exclusive.into();
    pb::PutSubscription { mode, ..subscription("s", generation, streams) }
}

async fn attach(writer: &mut Writer, pod: &str) -> Pusher {
    let pusher = Pusher::new(writer).await;
    let (subscription, pod) = ("s".to_owned(), pod.to_owned());
    let hello = pb::AttachHello { subscription, pod, ..Default::default() };
    pusher.say(ToWriter::Hello(hello)).await;
    pusher
}

impl Pusher {
    /// The next assignment: each stream that it has, with the life of its lease. Answered with a
    /// report, which renews it.
    async fn told(&mut self) -> Vec<(String, u32)> {
        let Some(FromWriter::Assignment(told)) = self.hears().await else {
            panic!("no assignment")
        };
        assert_eq!(told.mode(), pb::DeliveryMode::Exclusive);
        let report = |stream: &pb::AssignedStream| pb::StreamReport {
            stream: stream.stream.clone(),
            state: if stream.leased { PushState::Pushing } else { PushState::Standby }.into(),
            ..Default::default()
        };
        let streams = told.streams.iter().map(report).collect();
        self.say(ToWriter::Report(pb::AttachReport { streams })).await;
        let leased = told.streams.into_iter().filter(|stream| stream.leased);
        leased.map(|stream| (stream.stream, stream.lease_ms)).collect()
    }

    /// Reports until it holds exactly these streams.
    async fn holds(&mut self, streams: &str) {
        let held = async {
            loop {
                let told = self.told().await;
                let names: String = told.iter().map(|(name, _)| name.as_str()).collect();
                if names == streams {
                    return told;
                }
            }
        };
        let told = timeout(DEADLINE, held).await.expect("it gets its leases in time");
        for (name, lease_ms) in told {
            assert!((1..=3_000).contains(&lease_ms), "{name} for {lease_ms} ms");
        }
    }
}

/// Keeps some pushers talking while another one waits.
async fn while_talking<T>(talking: &mut Pusher, other: impl Future<Output = T>) -> T {
    let talk = async {
        loop {
            talking.told().await;
        }
    };
    tokio::select! {
        () = talk => unreachable!("it talks for ever"),
        done = other => done,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pusher_has_the_lease_and_another_gets_it_when_it_stops_or_falls_silent() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.put_subscription(exclusive(1, &["a"])).await.unwrap();
    let mut first = attach(&mut writer, "pod-1").await;
    assert_eq!(first.told().await, [], "the leases of a leader before may still be held");
    let mut second = attach(&mut writer, "pod-2").await;
    assert_eq!(second.told().await, []);
    while_talking(&mut second, first.holds("a")).await;
    for _ in 0..2 {
        let told = while_talking(&mut first, second.told()).await;
        assert_eq!(told, [], "it stands by while the first one is heard");
    }

    // Said, it is free at once.
    let stopped = Instant::now();
    drop(first.to);
    second.holds("a").await;
    assert!(stopped.elapsed() < LEASE / 2, "{:?}", stopped.elapsed());

    // Silent, although its connection is there.
    let mut third = attach(&mut writer, "pod-3").await;
    let silent = Instant::now();
    third.holds("a").await;
    let took = silent.elapsed();
    assert!((LEASE / 2..TAKEOVER_MAX).contains(&took), "{took:?}");
    // It speaks again, and stands by.
    while_talking(&mut third, second.holds("")).await;
    drop(third);
    let dropped = Instant::now();
    second.holds("a").await;
    assert!(dropped.elapsed() < TAKEOVER_MAX, "{:?}", dropped.elapsed());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_spread_and_follow_the_subscription() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    for name in ["a", "b", "c"] {
        writer.put_stream(name).await;
    }
    writer.put_subscription(exclusive(1, &["a", "b", "c"])).await.unwrap();
    let mut first = attach(&mut writer, "pod-1").await;
    first.told().await;
    let mut second = attach(&mut writer, "pod-2").await;
    second.told().await;
    while_talking(&mut second, first.holds("ac")).await;
    while_talking(&mut first, second.holds("b")).await;
    writer.put_subscription(exclusive(2, &["b", "c", "d"])).await.unwrap();
    while_talking(&mut second, first.holds("cd")).await;
    while_talking(&mut first, second.holds("b")).await;
    writer.put_subscription(subscription("s", 3, &["b"])).await.unwrap();
    let broadcast = async {
        loop {
            let Some(FromWriter::Assignment(told)) = first.hears().await else { panic!("ended") };
            if told.mode() == pb::DeliveryMode::Broadcast {
                return told.streams[0].leased;
            }
        }
    };
    assert!(!timeout(DEADLINE, broadcast).await.expect("it is told"), "leases are of Exclusive");
    writer.stop().await;
}
